package prompt

import (
	"fmt"
	"strings"
	"sync"
	"testing"
)

func TestSchemaIsRefusedWithItsPlace(t *testing.T) {
	t.Parallel()
	for schema, want := range map[string]string{
		`{"type":"objekt"}`:                                     `is not a JSON Schema: /type: must be one of "array", "boolean", "integer", "null", "number", "object", "string"`,
		`{"properties":{"a":{"minimum":"x"}}}`:                  `is not a JSON Schema: /properties/a/minimum: expected number, got string`,
		`{"required":"a"}`:                                      `is not a JSON Schema: /required: expected array, got string`,
		`{"properties":{"a":{"pattern":"(?=x)"}}}`:              `is not a JSON Schema: /properties/a/pattern: can't be used as a pattern: it is a Go regular expression, without look-around and back-references`,
		`{"$ref":"https://schemas.example/a"}`:                  `refers to "https://schemas.example/a"; a schema can't load another document: put what it needs into its $defs`,
		`{"items":{"$ref":"file:///etc/passwd"}}`:               `refers to "file:///etc/passwd"; a schema can't load another document: put what it needs into its $defs`,
		`{"$schema":"https://example.org/draft","type":"null"}`: `refers to "https://example.org/draft"; a schema can't load another document: put what it needs into its $defs`,
		`{"$ref":"#/$defs/nope"}`:                               `json-pointer in "#/$defs/nope" not found`,
		`{"maximum":1e308,"minimum":1e-999}`:                    `has a number beyond what can be compared`,
	} {
		for field, spec := range map[string]string{
			"output.schema":      `{"user":"x","output":{"format":"json","schema":` + schema + `}}`,
			"variables.v.schema": `{"user":"{{.v}}","variables":{"v":{"type":"array","schema":` + schema + `}}}`,
		} {
			s, err := ParseSpec([]byte(spec))
			if err == nil {
				_, err = Compile(s)
			}
			if err == nil || err.Error() != field+": "+want {
				t.Errorf("%s:\n%v; want\n%s: %s", schema, err, field, want)
			}
		}
	}
}

func TestVariableMeetsItsSchema(t *testing.T) {
	t.Parallel()
	tmpl := compile(t, `{"user":"{{.tags}}{{.day}}","variables":{
		"tags":{"type":"array","schema":{"items":{"type":"string","maxLength":5},"minItems":1}},
		"day":{"type":"string","schema":{"format":"date"},"default":"2026-01-31"}}}`)
	for vars, want := range map[string]string{
		`{"tags":["a"]}`:                     ``,
		`{"tags":["a"],"day":"2026-02-28"}`:  ``,
		`{"tags":["a"],"day":null}`:          ``,
		`{"tags":["a"],"day":"2026-02-30"}`:  `variables.day: is not of the format "date"`,
		`{"tags":[]}`:                        `variables.tags: has 0 items, at least 1 are wanted`,
		`{"tags":["a",3]}`:                   `variables.tags: /1: expected string, got number`,
		`{"tags":["secret",{"secret":"s"}]}`: `variables.tags: /0: has 6 characters, at most 5 are allowed (and 1 more)`,
		`{"tags":"secret"}`:                  `variables.tags: expected an array, got string`,
		`{"tags":["a"],"day":"secret"}`:      `variables.day: is not of the format "date"`,
	} {
		got := ""
		if err := tmpl.Check([]byte(vars)); err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%s: %q, want %q", vars, got, want)
		}
	}
	s, err := ParseSpec([]byte(`{"user":"{{.n}}","variables":{"n":{"type":"number","schema":{"minimum":1},"default":0}}}`))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Compile(s); err == nil || err.Error() != "variables.n.default: is below 1" {
		t.Errorf("a default that doesn't meet the schema: %v", err)
	}
}

// A schema whose checks double at each reference would run for years.
func TestSchemaThatExplodesIsCutOff(t *testing.T) {
	t.Parallel()
	const levels = 48
	for _, root := range []string{`"$ref":"#/$defs/d0"`, `"not":{"$ref":"#/$defs/d0"}`, `"if":{"$ref":"#/$defs/d0"}`, `"oneOf":[{"type":"integer"},{"$ref":"#/$defs/d0"}]`} {
		var defs strings.Builder
		for i := range levels {
			fmt.Fprintf(&defs, `"d%d":{"oneOf":[{"type":"null"},{"$ref":"#/$defs/d%d"},{"$ref":"#/$defs/d%[2]d"}]},`, i, i+1)
		}
		tmpl := answersTo(t, `{`+root+`,"$defs":{`+defs.String()+fmt.Sprintf(`"d%d":{"type":"string"}}}`, levels))
		const want = "the answer can't be used: is too large and too deep for a schema that refers to itself this often"
		if _, err := tmpl.Answer(`1`); err == nil || err.Error() != want {
			t.Errorf("%s: %v", root, err)
		}
	}
}

func TestSchemaChecksTogether(t *testing.T) {
	t.Parallel()
	tree := answersTo(t, `{"$ref":"#/$defs/node","$defs":{"node":{"type":"object","properties":{"left":{"$ref":"#/$defs/node"},"right":{"$ref":"#/$defs/node"}},"additionalProperties":false}}}`)
	deep := strings.Repeat(`{"left":`, 30) + `{}` + strings.Repeat(`}`, 30)
	bad := strings.Repeat(`{"left":`, 30) + `{"x":1}` + strings.Repeat(`}`, 30)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 20 {
				if _, err := tree.Answer(deep); err != nil {
					t.Error(err)
				}
				if _, err := tree.Answer(bad); err == nil {
					t.Error("a member that is not allowed is accepted")
				}
			}
		})
	}
	wg.Wait()
}

func TestExamplesAreTurnsBeforeTheUser(t *testing.T) {
	t.Parallel()
	tmpl := compile(t, `{"system":"Be short.","examples":[{"user":"{{not a variable}}","assistant":"{\"n\":1}"},{"user":"b","assistant":"{\"n\":2}"}],
		"user":"Q: {{.q}}","variables":{"q":{"type":"string"}},"output":{"format":"json","schema":{"properties":{"n":{"type":"integer"}}}}}`)
	got, err := tmpl.Render([]byte(`{"q":"c"}`))
	if err != nil {
		t.Fatal(err)
	}
	want := Messages{{RoleSystem, "Be short."}, {RoleUser, "{{not a variable}}"}, {RoleAssistant, `{"n":1}`}, {RoleUser, "b"}, {RoleAssistant, `{"n":2}`}, {RoleUser, "Q: c"}}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %q", got)
	}
	if messages, bytes := tmpl.Stable(); messages != 5 || bytes != len("Q: ") {
		t.Errorf("stable are %d messages and %d bytes", messages, bytes)
	}
	for spec, want := range map[string]string{
		`{"user":"x","examples":[{"user":"a"}]}`:                                                                        `examples[0].assistant: is empty; an example has both turns`,
		`{"user":"x","examples":[{"user":"a","assistant":"b","c":1}]}`:                                                  `examples[0].c: unknown field`,
		`{"user":"x","examples":{}}`:                                                                                    `examples: expected an array`,
		`{"user":"x","examples":[{"user":"a","assistant":"b"}],"output":{"format":"json"}}`:                             `examples[0].assistant: not valid JSON at byte 0, but the template asks for JSON`,
		`{"user":"x","examples":[{"user":"a","assistant":"[]"}],"output":{"format":"json","schema":{"type":"object"}}}`: `examples[0].assistant: does not meet output.schema: expected object, got array`,
		`{"user":"x","output":{"repairs":1}}`:                                                                           `output.repairs: needs "format": "json"`,
		`{"user":"x","output":{"format":"json","repairs":4}}`:                                                           `output.repairs: is not between 0 and 3`,
	} {
		s, err := ParseSpec([]byte(spec))
		if err == nil {
			_, err = Compile(s)
		}
		if err == nil || err.Error() != want {
			t.Errorf("%s: %v; want %s", spec, err, want)
		}
	}
}
