// Package prompt turns a template and an input into the bytes of a request, and those bytes into a key.
//
// A [Spec] is what a user writes. [Compile] checks it once and makes a [Template]; a Template renders the variables of
// a job into [Messages]; with a model and the sampling parameters they are a [Request], and [Request.Key] names it.
// Everything here is a pure function: the same spec, variables and model give the same bytes on every machine, today
// and in a year, because results are looked up by them. Whatever changes the bytes of a canonical request or the text
// that a template function produces must raise the version constant that is part of each key.
package prompt

import "fmt"

// Roles of a rendered message.
const (
	RoleSystem = "system"
	RoleUser   = "user"
)

// Message is one turn of a conversation.
type Message struct {
	Role    string `json:"role"`
	Content string `json:"content"`
}

// Messages are the turns of a request, in order.
type Messages []Message

// Error is a mistake in a template or in the variables of a job. It quotes names and positions but no values, so it
// may be shown and logged.
type Error struct {
	Field  string // where: "user", "variables.name.type", "sampling.temperature"; empty for the whole input
	Reason string
}

func (e *Error) Error() string {
	if e.Field == "" {
		return e.Reason
	}
	return e.Field + ": " + e.Reason
}

func errorf(field, format string, args ...any) *Error {
	return &Error{Field: field, Reason: fmt.Sprintf(format, args...)}
}

// didYouMean names the known name that is closest to a wrong one, or nothing.
func didYouMean(wrong string, known []string) string {
	best, distance := "", min(len(wrong)/3+1, 3)+1
	for _, name := range known {
		if d := editDistance(wrong, name, distance); d < distance {
			best, distance = name, d
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf(" (did you mean %q?)", best)
}

// editDistance counts insertions, deletions, replacements and swaps of neighbours in bytes. Names that differ in
// length by limit or more are not compared.
func editDistance(a, b string, limit int) int {
	if max(len(a)-len(b), len(b)-len(a)) >= limit {
		return limit
	}
	before, above, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range above {
		above[j] = j
	}
	for i := range len(a) {
		row[0] = i + 1
		for j := range len(b) {
			change := above[j]
			if a[i] != b[j] {
				change++
			}
			row[j+1] = min(change, above[j+1]+1, row[j]+1)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				row[j+1] = min(row[j+1], before[j-1]+1)
			}
		}
		before, above, row = above, row, before
	}
	return above[len(b)]
}
