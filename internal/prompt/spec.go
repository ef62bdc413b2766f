package prompt

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"
)

// Limits of a spec.
const (
	maxSpec        = 1 << 20   // the JSON text, in bytes
	maxSource      = 256 << 10 // one template source, in bytes
	maxVariables   = 256
	maxName        = 64 // of a variable, in bytes
	maxDescription = 4096
	maxSchema      = 256 << 10
	maxExamples    = 64
	maxRepairs     = 3
	maxStops       = 16
	maxStop        = 256     // one stop sequence, in bytes
	maxMaxTokens   = 1 << 24 // far above any model
)

// Spec is a template as its author writes it. Its JSON form is stable: the same spec is always the same bytes.
type Spec struct {
	System    string              `json:"system,omitempty"` // text/template source; empty for no system message
	Examples  []Example           `json:"examples,omitempty"`
	User      string              `json:"user"` // text/template source
	Variables map[string]Variable `json:"variables,omitempty"`
	Output    Output              `json:"output,omitzero"`
	Sampling  Sampling            `json:"sampling,omitzero"`
}

// Example is a turn that shows the model what is wanted. Both texts are sent as they stand, between the system message
// and the user's: braces in them mean nothing.
type Example struct {
	User      string `json:"user"`
	Assistant string `json:"assistant"` // under an output schema, an answer that meets it
}

// Variable declares an input of a template.
type Variable struct {
	Type Type `json:"type"`
	// Schema is a JSON Schema that the value has to meet as well. It can't refer to another document.
	Schema json.RawMessage `json:"schema,omitempty"`
	// Required says whether a job must give the variable. Nil means that it must, unless there is a default. A
	// variable that need not be given and has no default is empty: "", false, an empty array or object; an absent
	// number prints as nothing.
	Required    *bool           `json:"required,omitempty"`
	Default     json.RawMessage `json:"default,omitempty"`
	Description string          `json:"description,omitempty"`
}

// Type is the JSON type of a variable.
type Type string

// The types of variables.
const (
	TypeString  Type = "string"
	TypeNumber  Type = "number"
	TypeInteger Type = "integer" // a number without fraction and exponent
	TypeBoolean Type = "boolean"
	TypeArray   Type = "array"
	TypeObject  Type = "object"
)

var types = []string{
	string(TypeString), string(TypeNumber), string(TypeInteger), string(TypeBoolean), string(TypeArray), string(TypeObject),
}

// Output says what an answer must be.
type Output struct {
	Format string          `json:"format,omitempty"` // FormatText, the default, or FormatJSON
	Schema json.RawMessage `json:"schema,omitempty"` // JSON Schema of the answer; only with FormatJSON
	// Repairs is how often a model is asked again for an answer that isn't JSON or doesn't meet the schema, with what is
	// wrong with it: 0 to 3, nil for 1. Only with FormatJSON.
	Repairs *int `json:"repairs,omitempty"`
}

// Formats of an answer.
const (
	FormatText = "text"
	FormatJSON = "json"
)

// Sampling holds the parameters that a provider samples with. What isn't set is left to the provider.
type Sampling struct {
	MaxTokens   int      `json:"max_tokens,omitempty"`  // of the answer
	Temperature *float64 `json:"temperature,omitempty"` // 0 to 2
	TopP        *float64 `json:"top_p,omitempty"`       // above 0, up to 1
	Seed        *int64   `json:"seed,omitempty"`
	Stop        []string `json:"stop,omitempty"` // up to 16, none empty
}

// Fields of the JSON objects in a spec.
var (
	specFields     = []string{"system", "examples", "user", "variables", "output", "sampling"}
	exampleFields  = []string{"user", "assistant"}
	variableFields = []string{"type", "schema", "required", "default", "description"}
	outputFields   = []string{"format", "schema", "repairs"}
	samplingFields = []string{"max_tokens", "temperature", "top_p", "seed", "stop"}
)

// ParseSpec reads a spec from JSON. Unknown and repeated fields, values of the wrong type and specs over 1 MiB are an
// [*Error]. Whether the spec makes sense is for [Compile] to say.
func ParseSpec(raw json.RawMessage) (Spec, error) {
	if len(raw) > maxSpec {
		return Spec{}, errorf("", "a template is at most %d bytes of JSON, this one has %d", maxSpec, len(raw))
	}
	// Going through the canonical form finds repeated names and makes the raw parts (defaults, schema) stable.
	if _, err := appendCanonical(nil, raw); err != nil {
		return Spec{}, err
	}
	fields, err := objectFields("", raw, specFields)
	if err != nil {
		return Spec{}, err
	}
	for _, part := range []struct {
		name  string
		known []string
	}{{"output", outputFields}, {"sampling", samplingFields}} {
		if _, err := objectFields(part.name, fields[part.name], part.known); err != nil {
			return Spec{}, err
		}
	}
	var examples []json.RawMessage
	if raw := fields["examples"]; len(raw) > 0 && json.Unmarshal(raw, &examples) != nil {
		return Spec{}, errorf("examples", "expected an array")
	}
	for i, raw := range examples {
		if _, err := objectFields(exampleField(i), raw, exampleFields); err != nil {
			return Spec{}, err
		}
	}
	variables, err := objectFields("variables", fields["variables"], nil)
	if err != nil {
		return Spec{}, err
	}
	for _, name := range slices.Sorted(maps.Keys(variables)) {
		if _, err := objectFields("variables."+name, variables[name], variableFields); err != nil {
			return Spec{}, err
		}
	}
	var s Spec
	if err := json.Unmarshal(raw, &s); err != nil {
		if wrong, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
			return Spec{}, errorf(wrong.Field, "expected %s, got %s", typeName(wrong.Type.Kind().String()), wrong.Value)
		}
		return Spec{}, errorf("", "not a template: %v", err)
	}
	s.compact()
	return s, nil
}

// objectFields splits an object into its members. known, unless nil, lists the names that it may have.
func objectFields(path string, raw json.RawMessage, known []string) (map[string]json.RawMessage, *Error) {
	if len(raw) == 0 {
		return nil, nil
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(raw, &fields); err != nil || fields == nil {
		return nil, errorf(path, "expected an object")
	}
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		if known != nil && !slices.Contains(known, name) {
			field := name
			if path != "" {
				field = path + "." + name
			}
			return nil, errorf(field, "unknown field%s", didYouMean(name, known))
		}
	}
	return fields, nil
}

func typeName(goKind string) string {
	switch {
	case strings.HasPrefix(goKind, "int"):
		return "an integer"
	case strings.HasPrefix(goKind, "float"):
		return "a number"
	case goKind == "bool":
		return "true or false"
	case goKind == "slice":
		return "an array"
	case goKind == "struct" || goKind == "map":
		return "an object"
	}
	return "a " + goKind
}

// compact drops the white space in the raw parts and makes what is empty nil, so that two texts of one spec are equal
// values.
func (s *Spec) compact() {
	s.Output.Schema = compactJSON(s.Output.Schema)
	for name, v := range s.Variables {
		v.Schema, v.Default = compactJSON(v.Schema), compactJSON(v.Default)
		s.Variables[name] = v
	}
	if len(s.Variables) == 0 {
		s.Variables = nil
	}
	if len(s.Examples) == 0 {
		s.Examples = nil
	}
	if len(s.Sampling.Stop) == 0 {
		s.Sampling.Stop = nil
	}
}

func compactJSON(raw json.RawMessage) json.RawMessage {
	if len(raw) == 0 {
		return nil
	}
	var b bytes.Buffer
	if err := json.Compact(&b, raw); err != nil {
		return raw
	}
	return b.Bytes()
}

// check finds what is wrong with everything but the template sources.
func (s *Spec) check() *Error {
	for _, source := range []struct{ field, text string }{{"system", s.System}, {"user", s.User}} {
		if err := checkText(source.field, source.text); err != nil {
			return err
		}
	}
	if strings.TrimSpace(s.User) == "" {
		return errorf("user", "is empty; it is the message that a job sends")
	}
	if len(s.Examples) > maxExamples {
		return errorf("examples", "has %d entries; at most %d are allowed", len(s.Examples), maxExamples)
	}
	for i, e := range s.Examples {
		for _, turn := range []struct{ field, text string }{{exampleField(i) + ".user", e.User}, {exampleField(i) + ".assistant", e.Assistant}} {
			if err := checkText(turn.field, turn.text); err != nil {
				return err
			}
			if strings.TrimSpace(turn.text) == "" {
				return errorf(turn.field, "is empty; an example has both turns")
			}
		}
	}
	if len(s.Variables) > maxVariables {
		return errorf("variables", "has %d entries; at most %d are allowed", len(s.Variables), maxVariables)
	}
	for _, name := range slices.Sorted(maps.Keys(s.Variables)) {
		if err := s.Variables[name].check(name); err != nil {
			return err
		}
	}
	if err := s.Output.check(); err != nil {
		return err
	}
	return s.Sampling.check()
}

func exampleField(i int) string { return fmt.Sprintf("examples[%d]", i) }

func checkText(field, text string) *Error {
	switch {
	case len(text) > maxSource:
		return errorf(field, "has %d bytes; at most %d are allowed", len(text), maxSource)
	case !utf8.ValidString(text):
		return errorf(field, "is not valid UTF-8 at byte %d", invalidUTF8([]byte(text)))
	}
	return nil
}

func (v Variable) check(name string) *Error {
	field := "variables." + name
	if !validName(name) {
		return errorf("variables", "%.70q is not a name: use up to %d ASCII letters, digits and _, not beginning with a digit",
			name, maxName)
	}
	if v.Type == "" {
		return errorf(field+".type", "is missing; it is one of %s", strings.Join(types, ", "))
	}
	if !slices.Contains(types, string(v.Type)) {
		return errorf(field+".type", "%.40q is unknown; it is one of %s%s",
			v.Type, strings.Join(types, ", "), didYouMean(string(v.Type), types))
	}
	if len(v.Description) > maxDescription {
		return errorf(field+".description", "has %d bytes; at most %d are allowed", len(v.Description), maxDescription)
	}
	if v.Schema != nil {
		if err := checkSchema(field+".schema", v.Schema); err != nil {
			return err
		}
	}
	if v.Default == nil {
		return nil
	}
	if v.Required != nil && *v.Required {
		return errorf(field, "is required and has a default; a variable with a default need not be given")
	}
	start, end, k, err := wholeJSON(v.Default)
	if err != nil {
		return errorf(field+".default", "%s", err.Reason)
	}
	if reason := v.Type.mismatch(v.Default[start:end], k); reason != "" {
		return errorf(field+".default", "%s", reason)
	}
	return nil
}

// mismatch says why a JSON value isn't of the type, or nothing.
func (t Type) mismatch(value []byte, k kind) string {
	if t == TypeInteger && k == kindNumber {
		if _, integer, _ := scanNumber(value, 0); !integer {
			return "expected an integer, got a number with a fraction or an exponent"
		}
		return ""
	}
	if string(t) == k.String() {
		return ""
	}
	article := "a "
	if t == TypeInteger || t == TypeArray || t == TypeObject {
		article = "an "
	}
	return "expected " + article + string(t) + ", got " + k.String()
}

// mustBeGiven says whether a job has to give the variable.
func (v Variable) mustBeGiven() bool {
	if v.Required != nil {
		return *v.Required
	}
	return v.Default == nil
}

func validName(name string) bool {
	for i, c := range []byte(name) {
		letter := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || c == '_'
		if !letter && (i == 0 || c < '0' || c > '9') {
			return false
		}
	}
	return name != "" && len(name) <= maxName
}

func (o Output) check() *Error {
	switch {
	case o.Format != "" && o.Format != FormatText && o.Format != FormatJSON:
		return errorf("output.format", "%.40q is unknown; it is text or json", o.Format)
	case o.Repairs != nil && o.Format != FormatJSON:
		return errorf("output.repairs", `needs "format": "json"`)
	case o.Repairs != nil && (*o.Repairs < 0 || *o.Repairs > maxRepairs):
		return errorf("output.repairs", "is not between 0 and %d", maxRepairs)
	case o.Schema == nil:
		return nil
	case o.Format != FormatJSON:
		return errorf("output.schema", `needs "format": "json"`)
	}
	return checkSchema("output.schema", o.Schema)
}

// checkSchema finds what is wrong with a schema as a text; what it says is for [compileSchema].
func checkSchema(field string, raw json.RawMessage) *Error {
	if len(raw) > maxSchema {
		return errorf(field, "has %d bytes; at most %d are allowed", len(raw), maxSchema)
	}
	if _, err := appendCanonical(nil, raw); err != nil {
		return errorf(field, "%s", err.Reason)
	}
	if _, _, k, _ := wholeJSON(raw); k != kindObject {
		return errorf(field, "expected an object, got %s", k)
	}
	return nil
}

func (s Sampling) check() *Error {
	switch {
	case s.MaxTokens < 0 || s.MaxTokens > maxMaxTokens:
		return errorf("sampling.max_tokens", "is not between 1 and %d", maxMaxTokens)
	case s.Temperature != nil && !(*s.Temperature >= 0 && *s.Temperature <= 2):
		return errorf("sampling.temperature", "is not between 0 and 2")
	case s.TopP != nil && !(*s.TopP > 0 && *s.TopP <= 1):
		return errorf("sampling.top_p", "is not above 0 and up to 1")
	case len(s.Stop) > maxStops:
		return errorf("sampling.stop", "has %d entries; at most %d are allowed", len(s.Stop), maxStops)
	}
	for _, stop := range s.Stop {
		if stop == "" || len(stop) > maxStop || !utf8.ValidString(stop) {
			return errorf("sampling.stop", "a stop sequence is 1 to %d bytes of UTF-8", maxStop)
		}
	}
	return nil
}
