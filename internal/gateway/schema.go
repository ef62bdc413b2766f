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
	Not        json.RawMessage    `json:"not"`
	If         json.RawMessage    `json:"if"`
	Patterns   json.RawMessage    `json:"patternProperties"`
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

// strict reports whether OpenAI's strict mode takes a schema: the root is an object, every object is closed and
// requires all its properties, and none of the unsupported keywords occurs. A schema outside these rules would be
// refused with strict set, so it is sent without. Source: OpenAI's structured outputs guide.
func strict(raw json.RawMessage) bool {
	var s schema
	return json.Unmarshal(raw, &s) == nil && s.kind() == "object" && s.AnyOf == nil && s.closed(0)
}

func (s *schema) closed(depth int) bool {
	if s == nil {
		return true
	}
	if depth > 10 || s.OneOf != nil || s.AllOf != nil || s.Not != nil || s.If != nil || s.Patterns != nil {
		return false
	}
	if s.kind() == "object" {
		if string(s.Additional) != "false" {
			return false
		}
		for name := range s.Properties {
			if !slices.Contains(s.Required, name) {
				return false
			}
		}
	}
	for _, group := range []map[string]*schema{s.Properties, s.Defs, s.OldDefs} {
		for _, sub := range group {
			if !sub.closed(depth + 1) {
				return false
			}
		}
	}
	for _, sub := range s.AnyOf {
		if !sub.closed(depth + 1) {
			return false
		}
	}
	return s.Items.closed(depth + 1)
}

// LooseSchema says why a model that is asked for JSON after a schema isn't held to it by its provider, in words for the schema's author;
// nothing when it is. Its answers are to be checked either way.
func LooseSchema(provider, model string, raw json.RawMessage) string {
	const open = `close each object with "additionalProperties": false, require all its properties, and leave out oneOf, allOf, not, if and patternProperties`
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
