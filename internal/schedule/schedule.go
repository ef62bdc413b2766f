// Package schedule says when something that recurs is due.
//
// A schedule is due when the clock on the wall of its time zone reaches a time that its expression names. Clocks are set forward and back,
// so two rules say what that means:
//
//   - By the day. An expression that names certain hours is due at the first instant at which the clock has reached the time. A time that
//     does not exist, because the clock is set forward over it, is due at the moment when it is; times that thereby fall together are due once.
//     A time that comes twice, because the clock is set back, is due the first time only.
//   - By the hour. An expression that names every hour is due whenever the clock shows a time that it names: not at times that don't exist,
//     and at both of two that show the same, so that what runs every ten minutes runs every ten minutes on that night as well.
//
// `@every` counts time that passes, from a fixed start, and knows no zone.
//
// 2026-12-01: the library reads the expressions, and finds the next time on a clock that is never set. Its own way through time zones loses
// what falls into a gap, and is due twice when the clock is set back, which for a nightly batch is a night's money. The road not taken: the
// library's loop, or Asynq's scheduler around it, which keep what is due in memory.
package schedule

import (
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"math/bits"
	"slices"
	"strconv"
	"strings"
	"time"
	_ "time/tzdata" // the zones are the same on every machine, the image without a system included

	"github.com/robfig/cron/v3"
)

// Rule is what a caller says about when.
type Rule struct {
	Cron   string     // five fields, or six with seconds first; @daily and the like; @every DURATION
	Zone   string     // IANA name; default UTC
	Starts *time.Time // nothing is due before it
	Ends   *time.Time // nothing is due at it or after it
	Jitter time.Duration
	Made   time.Time // where @every counts from when Starts is nil
	Seed   []byte    // decides the jitter of each due time
}

// Error says what is wrong with a field of a [Rule], by the field's public name.
type Error struct{ Field, Message string }

// Error describes it.
func (e *Error) Error() string { return fmt.Sprintf("schedule: %s: %s", e.Field, e.Message) }

func wrong(field, format string, a ...any) error { return &Error{field, fmt.Sprintf(format, a...)} }

// Timing is a rule that makes sense. Times are due at whole seconds.
type Timing struct {
	zone         *time.Location
	spec         *cron.SpecSchedule // nil with every
	hourly       bool
	every        time.Duration
	anchor       time.Time
	starts, ends *time.Time
	jitter       time.Duration
	seed         []byte
}

var parser = cron.NewParser(cron.SecondOptional | cron.Minute | cron.Hour | cron.Dom | cron.Month | cron.Dow | cron.Descriptor)

const (
	maxCron   = 200
	allHours  = 1<<24 - 1
	maxEvery  = 366 * 24 * time.Hour
	maxJitter = 24 * time.Hour
)

// Parse checks a rule. Errors are *[Error].
func Parse(r Rule) (*Timing, error) {
	t := &Timing{starts: r.Starts, ends: r.Ends, jitter: r.Jitter, seed: r.Seed, anchor: r.Made.Truncate(time.Second)}
	var err error
	switch {
	case r.Zone == "":
		t.zone = time.UTC
	case r.Zone == "Local" || len(r.Zone) > 100:
		err = fmt.Errorf("no zone")
	default:
		t.zone, err = time.LoadLocation(r.Zone)
	}
	if err != nil {
		return nil, wrong("time_zone", "%.60q is unknown: want an IANA name such as Europe/Berlin", r.Zone)
	}
	if r.Starts != nil && r.Ends != nil && !r.Ends.After(*r.Starts) {
		return nil, wrong("ends_at", "is not after starts_at")
	}
	if r.Jitter < 0 || r.Jitter > maxJitter {
		return nil, wrong("jitter_seconds", "is not from 0 to %d", int(maxJitter.Seconds()))
	}
	if r.Starts != nil {
		t.anchor = r.Starts.Add(time.Second - 1).Truncate(time.Second)
	}
	if err := t.parse(r.Cron); err != nil {
		return nil, err
	}
	return t, nil
}

func (t *Timing) parse(text string) error {
	text = strings.TrimSpace(text)
	switch {
	case text == "":
		return wrong("cron", "is missing: want five fields such as \"0 2 * * *\", six with seconds first, @daily, or @every 6h")
	case len(text) > maxCron:
		return wrong("cron", "is over %d bytes", maxCron)
	case strings.Contains(text, "TZ="):
		return wrong("cron", "names a time zone: give that as time_zone")
	}
	if d, ok := strings.CutPrefix(text, "@every "); ok {
		every, err := time.ParseDuration(strings.TrimSpace(d))
		if err != nil || every < time.Second || every > maxEvery || every%time.Second != 0 {
			return wrong("cron", "@every takes a duration such as 90m or 24h, of whole seconds, up to %d days", int(maxEvery.Hours()/24))
		}
		t.every = every
		return nil
	}
	s, err := parser.Parse(sundays(text))
	spec, ok := s.(*cron.SpecSchedule)
	if err != nil || !ok {
		why := "want five fields (minute, hour, day of month, month, day of week), six with seconds first, @daily, or @every 6h"
		if err != nil {
			why = fmt.Sprintf("%.100s: %s", strings.ToValidUTF8(err.Error(), "?"), why)
		}
		return wrong("cron", "%s", why)
	}
	spec.Location = time.UTC // the clock on the wall, taken for one that is never set
	for _, field := range []uint64{spec.Second, spec.Minute, spec.Hour, spec.Dom, spec.Month, spec.Dow} {
		if field == 0 {
			return wrong("cron", "has an empty field")
		}
	}
	t.spec, t.hourly = spec, spec.Hour&allHours == allHours
	if t.wall(time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)).IsZero() {
		return wrong("cron", "is never due: there is no such day")
	}
	return nil
}

// sundays writes a 7 in the day of week as the parser wants it: Sunday is 0 to it.
func sundays(text string) string {
	fields := strings.Fields(text)
	if len(fields) < 5 || !strings.Contains(fields[len(fields)-1], "7") {
		return text
	}
	days := strings.Split(fields[len(fields)-1], ",")
	for i, d := range days {
		span, step, stepped := strings.Cut(d, "/")
		first, last, _ := strings.Cut(span, "-")
		if stepped {
			step = "/" + step
		}
		if span == "7" || first == "7" && last == "7" {
			days[i] = "0-0" + step
		} else if last == "7" { // up to Saturday, and Sunday if the steps come to it
			days[i] = first + "-6" + step
			n, every := weekday(first), 1
			if stepped {
				every, _ = strconv.Atoi(step[1:])
			}
			if n >= 0 && every > 0 && (7-n)%every == 0 {
				days[i] += ",0"
			}
		}
	}
	fields[len(fields)-1] = strings.Join(days, ",")
	return strings.Join(fields, " ")
}

// weekday is the number of a day from Sunday on; -1 for none.
func weekday(text string) int {
	if n := strings.Index("0123456", text); len(text) == 1 {
		return n
	}
	return slices.Index([]string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"}, strings.ToLower(text))
}

// Next is the first due time after a time; false when there is none any more.
func (t *Timing) Next(after time.Time) (time.Time, bool) {
	if t.starts != nil && after.Before(*t.starts) {
		after = t.starts.Add(-1)
	}
	var due time.Time
	switch {
	case t.every > 0:
		due = t.nextEvery(after)
	case t.hourly:
		due = t.nextHourly(after)
	default:
		due = t.nextDaily(after)
	}
	if due.IsZero() || t.ends != nil && !due.Before(*t.ends) {
		return time.Time{}, false
	}
	return due.UTC(), true
}

// Fire is when what is due starts: at its time, or later by a part of the jitter that is the same whoever asks.
func (t *Timing) Fire(due time.Time) time.Time {
	if t.jitter < time.Second {
		return due
	}
	h := fnv.New64a()
	_, _ = h.Write(t.seed)
	_, _ = h.Write(binary.BigEndian.AppendUint64(nil, uint64(due.Unix())))
	x := h.Sum64()
	x ^= x >> 33 // neighbouring times differ in the last bytes only, which FNV doesn't carry far
	x *= 0xff51afd7ed558ccd
	x ^= x >> 33
	return due.Add(time.Duration(x%uint64(t.jitter/time.Second+1)) * time.Second)
}

// Shown is a time as the clock of the schedule's zone shows it.
func (t *Timing) Shown(at time.Time) time.Time { return at.In(t.zone) }

func (t *Timing) nextEvery(after time.Time) time.Time {
	start, every := t.anchor.Unix(), int64(t.every/time.Second) // a Duration holds 292 years only
	d := after.Unix() - start
	n := d / every
	if d < 0 && d%every != 0 {
		n--
	}
	return time.Unix(start+(n+1)*every, 0)
}

// nextDaily: what the clock has not reached yet by then, at the instant at which it does.
func (t *Timing) nextDaily(after time.Time) time.Time {
	w := t.wall(reached(after.In(t.zone)))
	if w.IsZero() {
		return w
	}
	return firstAt(w, t.zone)
}

// nextHourly looks in the stretch between two settings of the clock in which after lies, and in those that follow.
func (t *Timing) nextHourly(after time.Time) time.Time {
	local := after.In(t.zone)
	from := onWall(local)
	for {
		w := t.wall(from)
		if w.IsZero() {
			return w
		}
		_, offset := local.Zone()
		at := w.Add(-time.Duration(offset) * time.Second)
		_, end := local.ZoneBounds()
		if end.IsZero() || at.Before(end) {
			return at
		}
		local = end.In(t.zone)
		from = onWall(local).Add(-1)
	}
}

// wall is the first time that the expression names after a time, on a clock that is never set; zero if there is none. The library looks five
// years ahead; the longest wait is of eight, for a 29 February over the turn of a century.
func (t *Timing) wall(after time.Time) time.Time {
	for range 4 {
		if w := t.spec.Next(after); !w.IsZero() {
			return w
		}
		after = after.AddDate(4, 0, 0)
	}
	return time.Time{}
}

// onWall is what the clock shows, taken for a time of UTC.
func onWall(local time.Time) time.Time {
	_, offset := local.Zone()
	return local.UTC().Add(time.Duration(offset) * time.Second)
}

// settings is how far around a time settings of the clock matter: the largest, at the date line, was a day.
const settings = 48 * time.Hour

// reached is the latest time that the clock has shown up to an instant: later than what it shows, when it was set back a short while ago.
func reached(local time.Time) time.Time {
	most := onWall(local)
	for at := local; ; {
		start, _ := at.ZoneBounds()
		if start.IsZero() || local.Sub(start) > settings {
			return most
		}
		at = start.Add(-time.Second).In(local.Location())
		if w := onWall(at); w.After(most) {
			most = w
		}
	}
}

// firstAt is the first instant at which a zone's clock shows w or later.
func firstAt(w time.Time, zone *time.Location) time.Time {
	local := w.Add(-settings).In(zone)
	for {
		_, offset := local.Zone()
		at := w.Add(-time.Duration(offset) * time.Second)
		start, end := local.ZoneBounds()
		switch {
		case !start.IsZero() && at.Before(start):
			return start
		case end.IsZero() || at.Before(end):
			return at
		}
		local = end.In(zone)
	}
}

const day = 24 * time.Hour

// Shortest is the least time between two due times, as the clock on the wall has it.
func (t *Timing) Shortest() time.Duration {
	if t.every > 0 {
		return t.every
	}
	least := 366 * day
	shorter := func(d time.Duration, units ...time.Duration) {
		for _, u := range units {
			d += u
		}
		least = min(least, d)
	}
	seconds, minutes, hours := t.spec.Second, t.spec.Minute, t.spec.Hour&allHours
	gap(seconds, time.Second, func(d time.Duration) { shorter(d) })
	// From the last second of a minute to the first of another, and so on up.
	s := time.Duration(bits.TrailingZeros64(seconds)-last(seconds)) * time.Second
	gap(minutes, time.Minute, func(d time.Duration) { shorter(d, s) })
	m := time.Duration(bits.TrailingZeros64(minutes)-last(minutes)) * time.Minute
	gap(hours, time.Hour, func(d time.Duration) { shorter(d, m, s) })
	h := time.Duration(bits.TrailingZeros64(hours)-last(hours)) * time.Hour
	shorter(t.days(), h, m, s)
	return least
}

// days is the least distance of two days that the expression names. Weekdays and dates meet in every way within 28 years.
func (t *Timing) days() time.Duration {
	days := *t.spec
	days.Second, days.Minute, days.Hour = 1, 1, 1
	only := &Timing{spec: &days}
	least := 366 * day
	first := time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)
	for at := only.wall(first.Add(-1)); !at.IsZero() && at.Sub(first) < 28*366*day && least > day; {
		next := only.wall(at)
		if !next.IsZero() {
			least = min(least, next.Sub(at))
		}
		at = next
	}
	return least
}

// gap reports the distances of neighbours in a set of bits.
func gap(set uint64, unit time.Duration, found func(time.Duration)) {
	before := -1
	for i := range 60 {
		if set&(1<<i) == 0 {
			continue
		}
		if before >= 0 {
			found(time.Duration(i-before) * unit)
		}
		before = i
	}
}

// last is the highest of a set's bits, the library's mark for a star aside.
func last(set uint64) int { return bits.Len64(set&(1<<60-1)) - 1 }
