// Package prompt turns a template and an input into the bytes of a request, and those bytes into a key.
//
// A [Spec] is what a user writes. [Compile] checks it once and makes a [Template]; a Template renders the variables of
// a job into [Messages]; with a model and the sampling parameters they are a [Request], and [Request.Key] names it.
// Everything here is a pure function: the same spec, variables and model give the same bytes on every machine, today
// and in a year, because results are looked up by them. Whatever changes the bytes of a canonical request must raise the
// version that is part of it; a change of what a template renders gives other keys by itself. (upper and lower follow
// the Unicode tables of the Go release.) [EstimateTokens] guesses how much a text is, until a tokenizer counts it.
//
// 2026-11-21, numbers in keys: canonical JSON is RFC 8785, which rounds numbers to doubles. Two seeds beyond 2^53 would
// then share a key, and the second job would get the first one's answer. So a Request writes such a seed as a string, as
// the RFC advises, and KeyRaw keeps the digits of an integer that a double can't print back. Not taken: refusing them,
// for random 64-bit seeds are usual.
//
// 2026-11-21, templates: text/template, because users know it, with what may hang or differ taken out: no templates in
// templates, only the functions listed in functions.go, loops and texts on a budget. Not taken: a language of our own.
package prompt

import "fmt"

// Roles of a rendered message.
const (
	RoleSystem    = "system"
	RoleUser      = "user"
	RoleAssistant = "assistant"
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
