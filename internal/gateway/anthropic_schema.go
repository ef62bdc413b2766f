package gateway

import (
	"encoding/json"
	"slices"
	"strings"
)

// claudeSchema reports whether Anthropic's structured outputs take a schema as it is. Every object must be closed with
// "additionalProperties": false; a schema may not refer to itself, and bounds on numbers, lengths and counts aren't
// known. A schema outside these rules would be refused with status 400, and closing it would change what the caller
// asked for, so it is sent as an instruction instead. Keywords that are not in the list are taken for unknown ones.
// Source: Anthropic's guide to structured outputs, read in November 2026.
func claudeSchema(raw json.RawMessage) bool {
	var root struct {
		Defs        map[string]json.RawMessage `json:"$defs"`
		Definitions map[string]json.RawMessage `json:"definitions"`
	}
	if json.Unmarshal(raw, &root) != nil {
		return false
	}
	w := schemaWalk{left: 2000, defs: map[string]json.RawMessage{}}
	for name, def := range root.Defs {
		w.defs["#/$defs/"+name] = def
	}
	for name, def := range root.Definitions {
		w.defs["#/definitions/"+name] = def
	}
	return w.takes(raw, 0)
}

type schemaWalk struct {
	defs map[string]json.RawMessage
	left int // places that may still be looked at, which bounds references to references
}

// claudeFormats are the values of "format" that are known.
var claudeFormats = []string{"date-time", "time", "date", "duration", "email", "hostname", "uri", "ipv4", "ipv6", "uuid"}

func (w *schemaWalk) takes(raw json.RawMessage, depth int) bool {
	if w.left--; w.left < 0 || depth > 24 { // a schema that refers to itself ends here
		return false
	}
	var s map[string]json.RawMessage
	if json.Unmarshal(raw, &s) != nil || s == nil {
		return false
	}
	if isObject(s) && string(s["additionalProperties"]) != "false" {
		return false
	}
	for key, value := range s {
		ok := true
		switch key {
		case "type", "title", "description", "default", "const", "required", "$schema", "additionalProperties":
		case "properties", "$defs", "definitions":
			ok = w.all(value, depth)
		case "items":
			ok = w.takes(value, depth+1)
		case "anyOf", "allOf":
			var subs []json.RawMessage
			ok = json.Unmarshal(value, &subs) == nil
			for _, sub := range subs {
				ok = ok && w.takes(sub, depth+1)
			}
		case "enum":
			var values []json.RawMessage
			ok = json.Unmarshal(value, &values) == nil
			for _, v := range values {
				ok = ok && kindOf(v) != '{' && kindOf(v) != '['
			}
		case "format":
			ok = slices.Contains(claudeFormats, text(value))
		case "minItems":
			ok = string(value) == "0" || string(value) == "1"
		case "$ref":
			def, known := w.defs[text(value)]
			ok = known && w.takes(def, depth+1)
		default:
			ok = false
		}
		if !ok {
			return false
		}
	}
	return true
}

func (w *schemaWalk) all(raw json.RawMessage, depth int) bool {
	var subs map[string]json.RawMessage
	if json.Unmarshal(raw, &subs) != nil {
		return false
	}
	for _, sub := range subs {
		if !w.takes(sub, depth+1) {
			return false
		}
	}
	return true
}

func isObject(s map[string]json.RawMessage) bool {
	return s["properties"] != nil || strings.Contains(string(s["type"]), `"object"`)
}
