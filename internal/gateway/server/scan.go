package server

import (
	"bytes"
	"encoding/json"
)

// This file reads JSON without decoding it: bodies are passed on byte for byte, so all that is wanted of them is where
// a value begins and ends. What these functions do on input that is not valid JSON is unspecified, but they never panic.

// span is where a value is: b[start:end].
type span struct{ start, end int }

func (s span) of(b []byte) []byte { return b[s.start:s.end] }

// members calls f with the key, as it is written, and the place of each value at the top level of a JSON object, until
// it returns false. It reports whether b begins with an object.
func members(b []byte, f func(key []byte, value span) bool) bool {
	i := blanks(b, 0)
	if i >= len(b) || b[i] != '{' {
		return false
	}
	for i = blanks(b, i+1); i < len(b) && b[i] == '"'; i = blanks(b, i+1) {
		end := afterString(b, i)
		key := b[i+1 : max(end-1, i+1)]
		if i = blanks(b, end); i >= len(b) || b[i] != ':' {
			return true
		}
		start := blanks(b, i+1)
		i = afterValue(b, start)
		if !f(key, span{start, i}) {
			return true
		}
		if i = blanks(b, i); i >= len(b) || b[i] != ',' {
			return true
		}
	}
	return true
}

// elements calls f with the place of each element of a JSON array, until it returns false. It reports whether b begins
// with an array.
func elements(b []byte, f func(value span) bool) bool {
	i := blanks(b, 0)
	if i >= len(b) || b[i] != '[' {
		return false
	}
	for i = blanks(b, i+1); i < len(b) && b[i] != ']'; i = blanks(b, i+1) {
		start := i
		i = afterValue(b, start)
		if i == start || !f(span{start, i}) {
			return true
		}
		if i = blanks(b, i); i >= len(b) || b[i] != ',' {
			return true
		}
	}
	return true
}

// member returns the place of the last value of a key at the top level of an object: of a key that comes twice the last
// one counts, as in encoding/json.
func member(b []byte, key string) (at span, ok bool) {
	members(b, func(name []byte, value span) bool {
		if string(name) == key {
			at, ok = value, true
		}
		return true
	})
	return at, ok
}

// textOf reads a JSON string; anything else is "".
func textOf(raw []byte) string {
	if len(raw) < 2 || raw[0] != '"' {
		return ""
	}
	if inner := raw[1 : len(raw)-1]; bytes.IndexByte(inner, '\\') < 0 {
		return string(inner)
	}
	var s string
	if json.Unmarshal(raw, &s) != nil {
		return ""
	}
	return s
}

// memberText returns a string at the top level of an object, or "".
func memberText(b []byte, key string) string {
	at, ok := member(b, key)
	if !ok {
		return ""
	}
	return textOf(at.of(b))
}

func blanks(b []byte, i int) int {
	for i < len(b) && (b[i] == ' ' || b[i] == '\n' || b[i] == '\t' || b[i] == '\r') {
		i++
	}
	return i
}

// afterString returns the index after the string that begins at b[i].
func afterString(b []byte, i int) int {
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

// afterValue returns the index after the value that begins at b[i].
func afterValue(b []byte, i int) int {
	depth := 0
	for i < len(b) {
		switch b[i] {
		case '"':
			i = afterString(b, i)
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

// quote returns s as a JSON string without HTML escapes.
func quote(s string) []byte {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(s) // a string always encodes, and a buffer never fails
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}

// splice returns b with what is at a place replaced.
func splice(b []byte, at span, with []byte) []byte {
	out := make([]byte, 0, len(b)-(at.end-at.start)+len(with))
	out = append(out, b[:at.start]...)
	out = append(out, with...)
	return append(out, b[at.end:]...)
}
