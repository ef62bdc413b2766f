package schedule

import "time"

// Grace is how late what is due may be seen to, and still counts as in time.
const Grace = time.Minute

// Runs says, of start times that are all past, which are to be run now, when the newest most of them are made up for however late they are.
// Of the others only the newest runs, and only in time.
func Runs(starts []time.Time, now time.Time, most int) []bool {
	out := make([]bool, len(starts))
	for i, at := range starts {
		behind := len(starts) - 1 - i
		out[i] = behind < most || behind == 0 && now.Sub(at) <= Grace
	}
	return out
}
