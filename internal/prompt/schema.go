package prompt

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/santhosh-tekuri/jsonschema/v6"
	fault "github.com/santhosh-tekuri/jsonschema/v6/kind"
)

// schema is a compiled JSON Schema, of draft 2020-12 unless its $schema says another. It refers to nothing outside
// itself, "format" is checked and not only a note, and patterns are Go's, which match in time that grows with the text
// alone.
type schema struct {
	raw        json.RawMessage
	validators sync.Pool // of *validator
}

// minVisits is what any check may take, in values looked at; a long value may take more. References to references can
// make the work grow with a power of the value's depth, and the library has no limit of its own.
const minVisits = 20_000

// validator is one compiled form. Its places share a budget, so it serves one check at a time.
type validator struct {
	schema *jsonschema.Schema
	visits int // that are left
}

// violation is one way in which a value doesn't meet a schema. It quotes names, positions and the schema, but no values.
type violation struct {
	at   string // JSON pointer into the value; empty for the whole
	says string
}

func (v violation) String() string {
	if v.at == "" {
		return v.says
	}
	return v.at + ": " + v.says
}

// worded is the first of several violations, for a person.
func worded(found []violation) string {
	if more := len(found) - 1; more > 0 {
		return fmt.Sprintf("%s (and %d more)", found[0], more)
	}
	return found[0].String()
}

// compileSchema makes a schema ready. raw is sound JSON.
func compileSchema(field string, raw json.RawMessage) (*schema, *Error) {
	s := &schema{raw: raw}
	v, err := s.compile()
	if err != nil {
		return nil, errorf(field, "%s", schemaProblem(err))
	}
	s.validators.Put(v)
	return s, nil
}

// schemaURL stands for the schema itself in its references.
const schemaURL = "schema:///"

// sealed loads nothing: a schema is all there is.
type sealed struct{}

var errRemote = errors.New("refers to another document")

// Load implements jsonschema.URLLoader.
func (sealed) Load(string) (any, error) { return nil, errRemote }

func (s *schema) compile() (*validator, error) {
	doc, ok := decodeValue(s.raw)
	if !ok {
		return nil, errHugeNumber
	}
	c := jsonschema.NewCompiler()
	c.UseLoader(sealed{})
	c.AssertFormat()
	if err := c.AddResource(schemaURL, doc); err != nil {
		return nil, err
	}
	compiled, err := c.Compile(schemaURL)
	if err != nil {
		return nil, err
	}
	v := &validator{schema: compiled}
	v.meter(reflect.ValueOf(compiled), map[*jsonschema.Schema]bool{})
	return v, nil
}

var errOverBudget = errors.New("prompt: a check takes too long")

// meter puts the budget into every place of a compiled schema, as a format, which the library looks at before anything
// that lies deeper.
func (v *validator) meter(at reflect.Value, seen map[*jsonschema.Schema]bool) {
	switch at.Kind() {
	case reflect.Pointer:
		s, ok := at.Interface().(*jsonschema.Schema)
		if !ok || s == nil || seen[s] {
			if dynamic, ok := at.Interface().(*jsonschema.DynamicRef); ok && dynamic != nil {
				v.meter(reflect.ValueOf(dynamic.Ref), seen)
			}
			return
		}
		seen[s] = true
		for i, fields := 0, at.Elem(); i < fields.NumField(); i++ {
			if fields.Type().Field(i).IsExported() {
				v.meter(fields.Field(i), seen)
			}
		}
		s.Format = v.charging(s.Format)
	case reflect.Interface:
		if !at.IsNil() {
			v.meter(at.Elem(), seen)
		}
	case reflect.Slice:
		for i := range at.Len() {
			v.meter(at.Index(i), seen)
		}
	case reflect.Map:
		for _, key := range at.MapKeys() {
			v.meter(at.MapIndex(key), seen)
		}
	}
}

func (v *validator) charging(wanted *jsonschema.Format) *jsonschema.Format {
	charge := func(value any) error {
		switch value := value.(type) {
		case map[string]any:
			v.visits -= len(value)
		case []any:
			v.visits -= len(value)
		}
		if v.visits--; v.visits < 0 {
			panic(errOverBudget)
		}
		if wanted == nil {
			return nil
		}
		return wanted.Validate(value)
	}
	if wanted == nil {
		return &jsonschema.Format{Validate: charge}
	}
	return &jsonschema.Format{Name: wanted.Name, Validate: charge}
}

// check says how value, which is sound JSON, fails to meet the schema; nothing means that it does. No schema is met by all.
func (s *schema) check(value []byte) []violation {
	if s == nil {
		return nil
	}
	decoded, ok := decodeValue(value)
	if !ok {
		return []violation{{says: errHugeNumber.Error()}}
	}
	v, ok := s.validators.Get().(*validator)
	if !ok {
		var err error
		if v, err = s.compile(); err != nil {
			panic("prompt: checked schema is refused: " + err.Error())
		}
	}
	err := v.validate(decoded, minVisits+4*len(value))
	s.validators.Put(v)
	if err == nil {
		return nil
	}
	invalid, ok := errors.AsType[*jsonschema.ValidationError](err)
	if !ok {
		return []violation{{says: "is too large and too deep for a schema that refers to itself this often"}}
	}
	found := leaves(invalid, nil)
	slices.SortFunc(found, func(a, b violation) int { return cmp.Or(strings.Compare(a.at, b.at), strings.Compare(a.says, b.says)) })
	return slices.Compact(found)
}

func (v *validator) validate(value any, visits int) (err error) {
	defer func() {
		if p := recover(); p == errOverBudget { //nolint:errorlint // ours, as it was thrown
			err = errOverBudget
		} else if p != nil {
			panic(p)
		}
	}()
	v.visits = visits
	return v.schema.Validate(value)
}

var errHugeNumber = errors.New("has a number beyond what can be compared")

// decodeValue decodes sound JSON. False: there is a number so long, or with an exponent so large, that to compare it
// exactly, as the library does, would take all memory.
func decodeValue(raw []byte) (any, bool) {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		panic("prompt: checked JSON does not decode: " + err.Error())
	}
	return v, modest(v)
}

func modest(v any) bool {
	switch v := v.(type) {
	case json.Number:
		const digits, exponent = 400, 400 // doubles have up to 309 digits before the point
		if len(v) > digits {
			return false
		}
		if i := strings.IndexAny(string(v), "eE"); i >= 0 {
			n, err := strconv.Atoi(string(v[i+1:]))
			return err == nil && n >= -exponent && n <= exponent
		}
	case []any:
		for _, item := range v {
			if !modest(item) {
				return false
			}
		}
	case map[string]any:
		for _, member := range v {
			if !modest(member) {
				return false
			}
		}
	}
	return true
}

// leaves gathers the violations at the ends of a tree of them. Of alternatives, those of the nearest one count.
func leaves(e *jsonschema.ValidationError, found []violation) []violation {
	at := ""
	for _, step := range e.InstanceLocation {
		at += "/" + strings.NewReplacer("~", "~0", "/", "~1").Replace(clip(step))
	}
	switch k := e.ErrorKind.(type) {
	case *fault.AnyOf, *fault.OneOf:
		if one, ok := k.(*fault.OneOf); ok && len(one.Subschemas) > 0 {
			return append(found, violation{at, "meets more than one of the alternatives (oneOf), and must meet one"})
		}
		found = append(found, violation{at, "meets none of the alternatives"})
		var nearest []violation
		for _, cause := range e.Causes {
			if these := leaves(cause, nil); nearest == nil || len(these) < len(nearest) {
				nearest = these
			}
		}
		return append(found, nearest...)
	}
	if len(e.Causes) == 0 {
		return append(found, violation{at, unmet(e.ErrorKind)})
	}
	for _, cause := range e.Causes {
		found = leaves(cause, found)
	}
	return found
}

// unmet words one failure. The values that failed are in no message.
func unmet(k jsonschema.ErrorKind) string {
	switch k := k.(type) {
	case *fault.Type:
		return "expected " + strings.Join(k.Want, " or ") + ", got " + k.Got
	case *fault.Required:
		return "misses " + quoted(k.Missing)
	case *fault.AdditionalProperties:
		slices.Sort(k.Properties)
		return "has members that are not allowed: " + quoted(k.Properties)
	case *fault.Enum:
		return "must be one of " + listed(k.Want)
	case *fault.Const:
		return "must be " + listed([]any{k.Want})
	case *fault.Pattern:
		return fmt.Sprintf("does not match the pattern %.200q", k.Want)
	case *fault.Format:
		return fmt.Sprintf("is not of the format %.40q", k.Want)
	case *fault.MinLength:
		return fmt.Sprintf("has %d characters, at least %d are wanted", k.Got, k.Want)
	case *fault.MaxLength:
		return fmt.Sprintf("has %d characters, at most %d are allowed", k.Got, k.Want)
	case *fault.MinItems:
		return fmt.Sprintf("has %d items, at least %d are wanted", k.Got, k.Want)
	case *fault.MaxItems:
		return fmt.Sprintf("has %d items, at most %d are allowed", k.Got, k.Want)
	case *fault.MinProperties:
		return fmt.Sprintf("has %d members, at least %d are wanted", k.Got, k.Want)
	case *fault.MaxProperties:
		return fmt.Sprintf("has %d members, at most %d are allowed", k.Got, k.Want)
	case *fault.UniqueItems:
		return fmt.Sprintf("items %d and %d are equal", k.Duplicates[0], k.Duplicates[1])
	case *fault.Minimum:
		return "is below " + decimal(k.Want)
	case *fault.Maximum:
		return "is above " + decimal(k.Want)
	case *fault.ExclusiveMinimum:
		return "is not above " + decimal(k.Want)
	case *fault.ExclusiveMaximum:
		return "is not below " + decimal(k.Want)
	case *fault.MultipleOf:
		return "is not a multiple of " + decimal(k.Want)
	case *fault.FalseSchema:
		return "is not allowed here"
	}
	return "does not meet " + strings.Join(k.KeywordPath(), "/")
}

func quoted(names []string) string {
	var b strings.Builder
	for i, name := range names {
		if i == maxListed {
			return b.String() + " and more"
		}
		if i > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "%q", clip(name))
	}
	return b.String()
}

// maxListed is how many names or values a message lists.
const maxListed = 10

func listed(values []any) string {
	parts := make([]string, 0, len(values))
	for i, v := range values {
		if i == maxListed {
			parts = append(parts, "…")
			break
		}
		raw, err := json.Marshal(v)
		if err != nil {
			continue
		}
		parts = append(parts, clip(string(raw)))
	}
	return strings.Join(parts, ", ")
}

func decimal(r *big.Rat) string {
	if f, exact := r.Float64(); exact {
		return string(appendFloat(nil, f))
	}
	return r.RatString()
}

// clip bounds a name for a message.
func clip(s string) string {
	const most = 70
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}

// schemaProblem says why a schema can't be used, and where in it.
func schemaProblem(err error) string {
	if e, ok := errors.AsType[*jsonschema.SchemaValidationError](err); ok {
		if invalid, ok := errors.AsType[*jsonschema.ValidationError](e.Err); ok {
			found := leaves(invalid, nil)
			slices.SortFunc(found, func(a, b violation) int { return cmp.Or(len(a.at)-len(b.at), strings.Compare(a.String(), b.String())) })
			deepest := found[len(found)-1] // it tells most
			if strings.HasSuffix(deepest.says, `"regex"`) {
				deepest.says = "can't be used as a pattern: it is a Go regular expression, without look-around and back-references"
			}
			return "is not a JSON Schema: " + deepest.String()
		}
	}
	if e, ok := errors.AsType[*jsonschema.LoadURLError](err); ok {
		return fmt.Sprintf("refers to %.100q; a schema can't load another document: put what it needs into its $defs", e.URL)
	}
	return strings.ReplaceAll(err.Error(), schemaURL, "")
}
