package server

import (
	"bytes"
	"encoding/json"

	"batchwright/internal/gateway/jsonspan"
)

// This file reads and changes JSON without decoding it, so that bodies are passed on byte for byte.

type span = jsonspan.Span

// member returns the place of the last value of a key at the top level of an object: of a key that comes twice the last
// one counts, as in encoding/json.
func member(b []byte, key string) (at span, ok bool) {
	jsonspan.Members(b, func(name []byte, value span) bool {
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
	return textOf(at.Of(b))
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
	out := make([]byte, 0, len(b)-(at.End-at.Start)+len(with))
	out = append(out, b[:at.Start]...)
	out = append(out, with...)
	return append(out, b[at.End:]...)
}
