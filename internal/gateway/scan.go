package gateway

import (
	"encoding/json"

	"batchwright/internal/gateway/jsonspan"
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
	jsonspan.Members(body, func(name []byte, value jsonspan.Span) bool {
		f(name, value.Of(body))
		return true
	})
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
