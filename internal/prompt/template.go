package prompt

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"
)

// MaxRendered bounds what the messages of one job may add up to, in bytes.
const MaxRendered = 8 << 20

// Template renders jobs. It doesn't change, so any number of goroutines may use it.
type Template struct {
	spec      Spec
	names     []string   // of the variables, sorted
	variables []variable // in the order of names
	index     map[string]int
	required  seen
	system    *source // nil for no system message
	examples  Messages
	user      *source
	schema    json.RawMessage // of the answer, in canonical form
	answers   *schema         // the same, ready to check with; nil for none
}

// variable is a declared input and the value it has when a job doesn't give it.
type variable struct {
	name     string
	typ      Type
	schema   *schema // nil for none
	optional bool
	absent   input
}

// seen is a set of variables by index.
type seen [maxVariables / 64]uint64

func (s *seen) add(i int)      { s[i/64] |= 1 << (i % 64) }
func (s *seen) has(i int) bool { return s[i/64]&(1<<(i%64)) != 0 }
func (s *seen) covers(o *seen) bool {
	return s[0]&o[0] == o[0] && s[1]&o[1] == o[1] && s[2]&o[2] == o[2] && s[3]&o[3] == o[3]
}

// input is a variable's value as the text of the job has it; no text is a value that isn't there.
type input struct {
	raw  []byte
	kind kind
}

// Compile checks a spec and makes it ready to render. What is wrong is an [*Error] that names the field.
func Compile(s Spec) (*Template, error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	t := &Template{spec: s, names: slices.Sorted(maps.Keys(s.Variables)), index: make(map[string]int, len(s.Variables))}
	for i, name := range t.names {
		v := s.Variables[name]
		t.index[name] = i
		declared := variable{name: name, typ: v.Type, optional: !v.mustBeGiven(), absent: input{kind: v.Type.kind()}}
		if v.Schema != nil {
			var err *Error
			if declared.schema, err = compileSchema("variables."+name+".schema", v.Schema); err != nil {
				return nil, err
			}
		}
		if v.Default != nil {
			start, end, k, _ := wholeJSON(v.Default)
			declared.absent = input{raw: v.Default[start:end], kind: k}
			if err := declared.meets(declared.absent.raw); err != nil {
				return nil, errorf("variables."+name+".default", "%s", err.Reason)
			}
		}
		if !declared.optional {
			t.required.add(i)
		}
		t.variables = append(t.variables, declared)
	}
	var used seen
	var err *Error
	if len(s.Output.Schema) > 0 {
		t.schema, _ = appendCanonical(nil, s.Output.Schema)
		if t.answers, err = compileSchema("output.schema", s.Output.Schema); err != nil {
			return nil, err
		}
	}
	if err := t.showExamples(); err != nil {
		return nil, err
	}
	if s.System != "" {
		if t.system, err = t.parse("system", s.System, &used); err != nil {
			return nil, err
		}
	}
	if t.user, err = t.parse("user", s.User, &used); err != nil {
		return nil, err
	}
	for i, name := range t.names {
		if !used.has(i) {
			return nil, errorf("variables."+name, "is declared but neither system nor user uses it")
		}
	}
	return t, nil
}

// showExamples makes the messages of the examples, whose answers must be as good as those that are asked for.
func (t *Template) showExamples() *Error {
	for i, e := range t.spec.Examples {
		if t.spec.Output.Format == FormatJSON {
			field := exampleField(i) + ".assistant"
			if _, _, _, err := wholeJSON([]byte(e.Assistant)); err != nil {
				return errorf(field, "%s, but the template asks for JSON", err.Reason)
			}
			if problems := t.answers.check([]byte(e.Assistant)); len(problems) > 0 {
				return errorf(field, "does not meet output.schema: %s", worded(problems))
			}
		}
		t.examples = append(t.examples, Message{RoleUser, e.User}, Message{RoleAssistant, e.Assistant})
	}
	return nil
}

// meets checks a value of the right type against the variable's own schema.
func (v *variable) meets(value []byte) *Error {
	problems := v.schema.check(value)
	if len(problems) == 0 {
		return nil
	}
	return errorf("variables."+v.name, "%s", worded(problems))
}

func (t Type) kind() kind {
	switch t {
	case TypeString:
		return kindString
	case TypeNumber, TypeInteger:
		return kindNumber
	case TypeBoolean:
		return kindBoolean
	case TypeArray:
		return kindArray
	}
	return kindObject
}

// Spec returns what the template was compiled from.
func (t *Template) Spec() Spec { return t.spec }

// Check says whether vars, a JSON object, are good inputs: valid JSON, every required variable there, none unknown,
// repeated or of the wrong type. A null stands for a variable that isn't given. No vars at all are an empty object.
// It renders nothing and allocates nothing; what is wrong is an [*Error] that names the variable.
func (t *Template) Check(vars json.RawMessage) error {
	if err := t.bind(vars, nil); err != nil {
		return err
	}
	return nil
}

// bind reads the variables of a job into inputs, which has room for all of them or is nil.
func (t *Template) bind(vars json.RawMessage, inputs []input) *Error {
	var given seen
	if inputs != nil {
		for i := range t.variables {
			inputs[i] = t.variables[i].absent
		}
	}
	if len(vars) == 0 {
		return t.missing(&given)
	}
	if !utf8.Valid(vars) {
		return errorf("", "the variables are not valid UTF-8 at byte %d", invalidUTF8(vars))
	}
	start := skipSpace(vars, 0)
	if start < len(vars) && vars[start] != '{' {
		_, _, k, err := wholeJSON(vars)
		if err != nil {
			return err
		}
		return errorf("", "expected the variables as an object, got %s", k)
	}
	scan := objectScan{b: vars, next: start}
	if start == len(vars) {
		return errorf("", "the JSON ends too early")
	}
	for {
		f, more, err := scan.step()
		if err != nil {
			return err
		}
		if !more {
			break
		}
		name := f.name[1 : len(f.name)-1]
		if !f.plainName {
			name, _ = appendUnquoted(nil, f.name)
		}
		i, known := t.index[string(name)]
		if !known {
			return t.unknown(string(name))
		}
		if given.has(i) {
			return errorf("variables."+t.names[i], "is given twice")
		}
		v := &t.variables[i]
		if f.kind == kindNull && v.optional {
			continue
		}
		given.add(i)
		value := vars[f.start:f.end]
		if f.kind != v.typ.kind() || v.typ == TypeInteger {
			if reason := v.typ.mismatch(value, f.kind); reason != "" {
				return errorf("variables."+v.name, "%s", reason)
			}
		}
		if v.schema != nil {
			if err := v.meets(value); err != nil {
				return err
			}
		}
		if inputs != nil {
			inputs[i] = input{raw: value, kind: f.kind}
		}
	}
	if rest := skipSpace(vars, scan.next); rest != len(vars) {
		return syntaxAt(rest)
	}
	return t.missing(&given)
}

// missing reports the first required variable that wasn't given.
func (t *Template) missing(given *seen) *Error {
	if given.covers(&t.required) {
		return nil
	}
	var absent []string
	for i, name := range t.names {
		if t.required.has(i) && !given.has(i) {
			absent = append(absent, name)
		}
	}
	err := errorf("variables."+absent[0], "is missing; the template requires it")
	if len(absent) > 1 {
		err.Reason += ", and also " + strings.Join(absent[1:], ", ")
	}
	return err
}

func (t *Template) unknown(name string) *Error {
	if len(t.names) == 0 {
		return errorf("variables", "%.70q is given, but the template has no variables", name)
	}
	return errorf("variables", "%.70q is given, but the template has no such variable%s", name, didYouMean(name, t.names))
}

// Render makes the messages of a job: system, if the template has one that isn't empty, the examples, then user. The text of a
// number is as the job wrote it; an array or object prints as JSON with sorted members and no white space. The errors
// are those of [Template.Check], and an [*Error] naming system or user when the values make the template fail, do more
// work than is allowed, render an empty user message, or more than [MaxRendered] bytes.
func (t *Template) Render(vars json.RawMessage) (Messages, error) {
	var few [8]input
	inputs := few[:]
	if len(t.variables) > len(few) {
		inputs = make([]input, len(t.variables))
	}
	if err := t.bind(vars, inputs); err != nil {
		return nil, err
	}
	messages := make(Messages, 0, 2+len(t.examples))
	room := MaxRendered - t.examples.size()
	if t.system != nil {
		text, err := t.system.render(t, inputs, room)
		if err != nil {
			return nil, err
		}
		if text != "" {
			messages = append(messages, Message{RoleSystem, text})
		}
		room -= len(text)
	}
	messages = append(messages, t.examples...)
	text, err := t.user.render(t, inputs, room)
	if err != nil {
		return nil, err
	}
	if strings.TrimSpace(text) == "" {
		return nil, errorf("user", "rendered to an empty message")
	}
	return append(messages, Message{RoleUser, text}), nil
}

// size is how many bytes the contents add up to.
func (m Messages) size() (n int) {
	for i := range m {
		n += len(m[i].Content)
	}
	return n
}

// Stable returns what the messages of all jobs share from their start: whole messages, then bytes of the next one.
func (t *Template) Stable() (messages, bytes int) {
	if t.system != nil {
		if !t.system.whole {
			return 0, t.system.literal
		}
		if t.system.literal > 0 { // an empty one is left out
			messages = 1
		}
	}
	messages += len(t.examples)
	if t.user.whole {
		return messages + 1, 0
	}
	return messages, t.user.literal
}

// Request is what a model is asked with these messages, under the template's sampling and output.
func (t *Template) Request(model string, messages Messages) *Request {
	s := &t.spec.Sampling
	return &Request{
		Model: model, Messages: messages,
		MaxTokens: s.MaxTokens, Temperature: s.Temperature, TopP: s.TopP, Seed: s.Seed, Stop: s.Stop,
		JSON: t.spec.Output.Format == FormatJSON, Schema: t.schema, canonicalSchema: t.schema,
	}
}

// SameRequests reports whether two templates make the same request of the same job, so that an answer to the one is an answer to the other.
func SameRequests(a, b *Template) bool {
	type input struct {
		Type    Type
		Default json.RawMessage
	}
	of := func(t *Template) string {
		inputs := make(map[string]input, len(t.names))
		for name, v := range t.spec.Variables {
			inputs[name] = input{v.Type, v.Default}
		}
		text, err := json.Marshal([]any{t.spec.System, t.examples, t.spec.User, t.spec.Output.Format == FormatJSON, t.schema, t.spec.Sampling, inputs})
		if err != nil {
			panic("prompt: checked template has no JSON form: " + err.Error())
		}
		return string(text)
	}
	return of(a) == of(b)
}
