// Package jsonspan finds where JSON values begin and end without decoding them.
//
// Bodies are passed on byte for byte, and read once: all that is wanted of them is the place of a few values. What these
// functions do on input that is not valid JSON is unspecified, but they never panic and always end.
package jsonspan

import "bytes"

// Span is where a value is: b[Start:End].
type Span struct{ Start, End int }

// Of returns the value's bytes.
func (s Span) Of(b []byte) []byte { return b[s.Start:s.End] }

// Members calls f with the key, as it is written, and the place of each value at the top level of a JSON object, until
// it returns false. It reports whether b begins with an object.
func Members(b []byte, f func(key []byte, value Span) bool) bool {
	i := Blanks(b, 0)
	if i >= len(b) || b[i] != '{' {
		return false
	}
	for i = Blanks(b, i+1); i < len(b) && b[i] == '"'; i = Blanks(b, i+1) {
		end := AfterString(b, i)
		key := b[i+1 : max(end-1, i+1)]
		if i = Blanks(b, end); i >= len(b) || b[i] != ':' {
			return true
		}
		start := Blanks(b, i+1)
		i = AfterValue(b, start)
		if !f(key, Span{start, i}) {
			return true
		}
		if i = Blanks(b, i); i >= len(b) || b[i] != ',' {
			return true
		}
	}
	return true
}

// Elements calls f with the place of each element of a JSON array, until it returns false. It reports whether b begins
// with an array.
func Elements(b []byte, f func(value Span) bool) bool {
	i := Blanks(b, 0)
	if i >= len(b) || b[i] != '[' {
		return false
	}
	for i = Blanks(b, i+1); i < len(b) && b[i] != ']'; i = Blanks(b, i+1) {
		start := i
		i = AfterValue(b, start)
		if i == start || !f(Span{start, i}) {
			return true
		}
		if i = Blanks(b, i); i >= len(b) || b[i] != ',' {
			return true
		}
	}
	return true
}

// Blanks returns the index of the first byte from i on that is no white space.
func Blanks(b []byte, i int) int {
	for i < len(b) && (b[i] == ' ' || b[i] == '\n' || b[i] == '\t' || b[i] == '\r') {
		i++
	}
	return i
}

// AfterString returns the index after the string that begins at b[i].
func AfterString(b []byte, i int) int {
	for i++; i < len(b); i++ {
		n := bytes.IndexByte(b[i:], '"')
		if n < 0 {
			return len(b)
		}
		i += n
		escapes := 0
		for b[i-1-escapes] == '\\' { // stops at the opening quote at the latest
			escapes++
		}
		if escapes%2 == 0 {
			return i + 1
		}
	}
	return len(b)
}

// AfterValue returns the index after the value that begins at b[i].
func AfterValue(b []byte, i int) int {
	depth := 0
	for i < len(b) {
		switch b[i] {
		case '"':
			i = AfterString(b, i)
		case '{', '[':
			depth++
			i++
		case '}', ']':
			if depth == 0 {
				return i
			}
			depth--
			i++
		case ',', ' ', '\n', '\t', '\r':
			if depth == 0 {
				return i
			}
			i++
			continue
		default:
			i++
			continue
		}
		if depth == 0 {
			return i
		}
	}
	return len(b)
}
