package gateway

import (
	"bytes"
	"encoding/json"
)

// field returns the raw value of a key at the top level of a JSON object, or nil. Of a key that comes twice the last
// one counts, as in encoding/json.
func field(body []byte, key string) json.RawMessage {
	var found json.RawMessage
	fields(body, func(name, value []byte) {
		if string(name) == key {
			found = value
		}
	})
	return found
}

// fields calls f with the keys, as they are written, and the raw values at the top level of a JSON object. It reads
// each byte once and decodes nothing, so that the built-in providers serve large prompts quickly. What it does on
// input that is not valid JSON is unspecified, but it never panics.
func fields(body []byte, f func(name, value []byte)) {
	i := blanks(body, 0)
	if i >= len(body) || body[i] != '{' {
		return
	}
	for i = blanks(body, i+1); i < len(body) && body[i] == '"'; i = blanks(body, i+1) {
		end := skipString(body, i)
		name := body[i+1 : max(end-1, i+1)]
		if i = blanks(body, end); i >= len(body) || body[i] != ':' {
			return
		}
		start := blanks(body, i+1)
		i = skipValue(body, start)
		f(name, body[start:i])
		if i = blanks(body, i); i >= len(body) || body[i] != ',' {
			return
		}
	}
}

func blanks(b []byte, i int) int {
	for i < len(b) && (b[i] == ' ' || b[i] == '\n' || b[i] == '\t' || b[i] == '\r') {
		i++
	}
	return i
}

// skipString returns the index after the string that begins at b[i].
func skipString(b []byte, i int) int {
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

// skipValue returns the index after the value that begins at b[i].
func skipValue(b []byte, i int) int {
	depth := 0
	for i < len(b) {
		switch b[i] {
		case '"':
			i = skipString(b, i)
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

// appendString appends s as a JSON string. s must be valid UTF-8.
func appendString(dst []byte, s string) []byte {
	const hex = "0123456789abcdef"
	dst = append(dst, '"')
	start := 0
	for i := range len(s) {
		c := s[i]
		if c >= ' ' && c != '"' && c != '\\' {
			continue
		}
		dst = append(dst, s[start:i]...)
		start = i + 1
		switch c {
		case '"', '\\':
			dst = append(dst, '\\', c)
		case '\n':
			dst = append(dst, '\\', 'n')
		default:
			dst = append(dst, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		}
	}
	return append(append(dst, s[start:]...), '"')
}
