package gateway

import (
	"encoding/json"
	"slices"
)

// schema is the part of JSON Schema that we look at.
type schema struct {
	Type       json.RawMessage    `json:"type"` // a string or an array of strings
	Properties map[string]*schema `json:"properties"`
	Required   []string           `json:"required"`
	Additional json.RawMessage    `json:"additionalProperties"`
	Items      *schema            `json:"items"`
	AnyOf      []*schema          `json:"anyOf"`
	OneOf      []*schema          `json:"oneOf"`
	AllOf      []*schema          `json:"allOf"`
	Ref        string             `json:"$ref"`
	Defs       map[string]*schema `json:"$defs"`
	OldDefs    map[string]*schema `json:"definitions"`
	Enum       []json.RawMessage  `json:"enum"`
	Const      json.RawMessage    `json:"const"`
	Format     string             `json:"format"`
	Minimum    *float64           `json:"minimum"`
	Maximum    *float64           `json:"maximum"`
	Above      *float64           `json:"exclusiveMinimum"`
	Below      *float64           `json:"exclusiveMaximum"`
	MinLength  int                `json:"minLength"`
	MaxLength  *int               `json:"maxLength"`
	MinItems   int                `json:"minItems"`
	MaxItems   *int               `json:"maxItems"`
}

// kind is the schema's type, the first that is not null.
func (s *schema) kind() string {
	var one string
	if json.Unmarshal(s.Type, &one) == nil && one != "" {
		return one
	}
	var many []string
	if json.Unmarshal(s.Type, &many) == nil {
		for _, k := range many {
			if k != "null" {
				return k
			}
		}
		if len(many) > 0 {
			return many[0]
		}
	}
	switch {
	case s.Properties != nil:
		return "object"
	case s.Items != nil:
		return "array"
	}
	return ""
}

// strictKeywords are those that OpenAI's strict mode takes. Any other is an error 400 ("'default' is not permitted"), which would fail the
// job. Source: OpenAI's guide to structured outputs and answers quoted in public bug reports, read in December 2026; lengths of strings are
// left out, because it depends on the model.
var strictKeywords = map[string]bool{
	"type": true, "properties": true, "required": true, "additionalProperties": true, "items": true, "anyOf": true, "enum": true, "const": true,
	"$ref": true, "$defs": true, "definitions": true, "$schema": true, "title": true, "description": true, "pattern": true, "format": true,
	"multipleOf": true, "minimum": true, "maximum": true, "exclusiveMinimum": true, "exclusiveMaximum": true, "minItems": true, "maxItems": true,
}

// strict reports whether OpenAI's strict mode takes a schema: the root is an object, every object is closed and
// requires all its properties, and no other keyword than strictKeywords occurs. A schema outside these rules would be
// refused with strict set, so it is sent without.
func strict(raw json.RawMessage) bool {
	var root map[string]json.RawMessage
	return json.Unmarshal(raw, &root) == nil && string(root["type"]) == `"object"` && root["anyOf"] == nil && strictWithin(raw, 0)
}

func strictWithin(raw json.RawMessage, depth int) bool {
	var s map[string]json.RawMessage
	if json.Unmarshal(raw, &s) != nil || s == nil || depth > 10 {
		return false
	}
	for key := range s {
		if !strictKeywords[key] {
			return false
		}
	}
	var part schema
	if json.Unmarshal(raw, &part) != nil {
		return false
	}
	if isObject(s) {
		if string(part.Additional) != "false" {
			return false
		}
		for name := range part.Properties {
			if !slices.Contains(part.Required, name) {
				return false
			}
		}
	}
	for _, key := range []string{"properties", "$defs", "definitions"} {
		var subs map[string]json.RawMessage
		if s[key] != nil && json.Unmarshal(s[key], &subs) != nil {
			return false
		}
		for _, sub := range subs {
			if !strictWithin(sub, depth+1) {
				return false
			}
		}
	}
	var subs []json.RawMessage
	if s["anyOf"] != nil && json.Unmarshal(s["anyOf"], &subs) != nil {
		return false
	}
	for _, sub := range subs {
		if !strictWithin(sub, depth+1) {
			return false
		}
	}
	return s["items"] == nil || strictWithin(s["items"], depth+1)
}

// LooseSchema says why a model that is asked for JSON after a schema isn't held to it by its provider, in words for the schema's author;
// nothing when it is. Its answers are to be checked either way.
func LooseSchema(provider, model string, raw json.RawMessage) string {
	const open = `close each object with "additionalProperties": false, require all its properties (a type may be ["string", "null"]), and leave out default, oneOf, allOf, not, if, lengths of strings and what else strict mode doesn't take`
	switch p, _ := Lookup(provider); p := p.(type) {
	case openAI:
		switch {
		case p.schema == schemaSpoken:
			return "the provider knows JSON, but no schemas"
		case p.schema == schemaNamed && !strict(raw):
			return open
		}
	case anthropic:
		if !claudeFacts(model).schema {
			return "the model knows no schemas"
		} else if !claudeSchema(raw) {
			return `close each object with "additionalProperties": false, and leave out references to itself and bounds on numbers, lengths and counts`
		}
	case replicate:
		return "the provider knows no schemas"
	}
	return ""
}
