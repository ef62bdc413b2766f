package jobs

import (
	"bytes"
	"encoding/json"
)

// splitLine takes a job object apart without decoding what is inside its fields: the kind checks those in full, each in its own way, and
// decoding a line twice is what most of ingest would cost. It knows only plain objects of known fields. Whatever else it meets, it leaves
// to the strict decoder, which also finds the words for what is wrong.
func splitLine(raw []byte) (*line, bool) {
	raw = bytes.TrimSpace(raw)
	if len(raw) < 2 || raw[0] != '{' || raw[len(raw)-1] != '}' {
		return nil, false
	}
	raw = bytes.Clone(raw) // the reader takes its buffer back
	out := &line{}
	for rest := raw[1 : len(raw)-1]; ; {
		rest = bytes.TrimLeft(rest, " \t\r\n")
		if len(rest) == 0 {
			return out, true
		}
		name, after, ok := cutValue(rest)
		if !ok || name[0] != '"' {
			return nil, false
		}
		after = bytes.TrimLeft(after, " \t\r\n")
		if len(after) == 0 || after[0] != ':' {
			return nil, false
		}
		value, after, ok := cutValue(bytes.TrimLeft(after[1:], " \t\r\n"))
		if !ok || !out.set(string(name), value) {
			return nil, false
		}
		after = bytes.TrimLeft(after, " \t\r\n")
		if len(after) == 0 {
			return out, true
		}
		if after[0] != ',' || len(after) == 1 {
			return nil, false
		}
		rest = after[1:]
	}
}

// set stores a field that comes for the first time and whose form is plain.
func (l *line) set(name string, value json.RawMessage) bool {
	switch name {
	case `"custom_id"`:
		if l.CustomID != nil || len(value) < 2 || value[0] != '"' || bytes.IndexByte(value, '\\') >= 0 {
			return false
		}
		id := string(value[1 : len(value)-1])
		l.CustomID = &id
		return json.Valid(value)
	case `"variables"`:
		if l.Variables != nil || value[0] != '{' {
			return false
		}
		l.Variables = value
	case `"body"`:
		if l.Body != nil || value[0] != '{' {
			return false
		}
		l.Body = value
	default:
		return false
	}
	return true
}

// cutValue splits a JSON value off the front. It finds its end and checks nothing else.
func cutValue(b []byte) (value, rest []byte, ok bool) {
	if len(b) == 0 {
		return nil, nil, false
	}
	switch b[0] {
	case '"':
		end := stringEnd(b)
		return b[:max(end, 0)], b[max(end, 0):], end > 0
	case '{', '[':
		depth := 0
		for i := 0; i < len(b); i++ {
			switch b[i] {
			case '"':
				end := stringEnd(b[i:])
				if end < 0 {
					return nil, nil, false
				}
				i += end - 1
			case '{', '[':
				depth++
			case '}', ']':
				if depth--; depth == 0 {
					return b[:i+1], b[i+1:], true
				}
			}
		}
	}
	return nil, nil, false
}

// stringEnd returns the index behind the closing quote of the string that b begins with, or -1.
func stringEnd(b []byte) int {
	for i := 1; i < len(b); i++ {
		j := bytes.IndexByte(b[i:], '"')
		if j < 0 {
			return -1
		}
		end := i + j
		backslashes := 0
		for k := end - 1; k > 0 && b[k] == '\\'; k-- {
			backslashes++
		}
		if backslashes%2 == 0 {
			return end + 1
		}
		i = end
	}
	return -1
}
