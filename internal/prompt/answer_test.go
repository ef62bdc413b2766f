package prompt

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"
)

func answersTo(t testing.TB, schema string) *Template {
	t.Helper()
	return compile(t, `{"user":"x","output":{"format":"json","schema":`+schema+`}}`)
}

const personSchema = `{"type":"object","properties":{"name":{"type":"string"},"age":{"type":"integer","minimum":0}},"required":["name","age"],"additionalProperties":false}`

func TestRepairLadder(t *testing.T) {
	t.Parallel()
	person := answersTo(t, personSchema)
	for _, c := range []struct {
		text, output string
		rung         Rung
	}{
		{`{"name":"Ada","age":36}`, `{"name":"Ada","age":36}`, AsIs},
		{" \n{\"name\":\"Ada\",\"age\":36}\n", `{"name":"Ada","age":36}`, AsIs},
		{"```json\n{\"name\":\"Ada\",\"age\":36}\n```", `{"name":"Ada","age":36}`, RungFences},
		{"```\n{\"name\":\"Ada\",\"age\":36}```\nI hope this helps!", `{"name":"Ada","age":36}`, RungFences},
		{"Here is the {object} you asked for: {\"name\":\"Ada\",\"age\":36}.", `{"name":"Ada","age":36}`, RungFences},
		{"First a draft [1, 2], then:\n{\"name\":\"Ada\",\"age\":36}", `{"name":"Ada","age":36}`, RungFences},
		{`{"name":"Ada","age":36} {"name":"Ada","age":36}`, `{"name":"Ada","age":36}`, RungFences},
		{`{'name': 'Ada', 'age': 36,}`, `{"name": "Ada", "age": 36}`, RungSyntax},
		{"{name: \"Ada\", // the first\n age: 36}", "{\"name\": \"Ada\", \n \"age\": 36}", RungSyntax},
		{"Sure!\n```json\n{\"name\": \"Ada\", \"age\": 36\n```\nDone.", `{"name": "Ada", "age": 36}`, RungSyntax},
		{`The person: {"name": "Ada", "age": 36,} as you wanted`, `{"name": "Ada", "age": 36}`, RungSyntax},
	} {
		got, err := person.Answer(c.text)
		if err != nil || got.Output != c.output || got.Rung != c.rung {
			t.Errorf("%q: %q by %q, %v; want %q by %q", c.text, got.Output, got.Rung, err, c.output, c.rung)
		}
	}
	for text, want := range map[string]string{
		`{"name":"secret"}`:                    `the answer can't be used: misses "age"`,
		`{"name":"secret","age":-5}`:           `the answer can't be used: /age: is below 0`,
		`{"name":3,"age":"secret"}`:            `the answer can't be used: /age: expected integer, got string (and 1 more)`,
		`["secret"]`:                           `the answer can't be used: expected object, got array`,
		`It is secret.`:                        `the answer can't be used: it is not JSON`,
		``:                                     `the answer can't be used: it is not JSON`,
		"```json\n{\"name\": \"secret\"}\n```": `the answer can't be used: misses "age"`,
		`{"name": "secret", "age": tru`:        `the answer can't be used: it is not JSON as it stands (and 1 more)`,
		`{"name":"a","age":1} or {"name":"b","age":2}`: `the answer can't be used: it holds more than one JSON value that could be the answer`,
		`{"name":"Ada","age":1e999999999}`:             `the answer can't be used: has a number beyond what can be compared`,
	} {
		got, err := person.Answer(text)
		if err == nil || err.Error() != want {
			t.Errorf("%q: %q by %q, %v; want %s", text, got.Output, got.Rung, err, want)
		}
	}
}

func TestJSONWithoutSchemaIsNoStringOfProse(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{"hello world": "", "I can't do that.": "", `"quoted"`: `"quoted"`, "7": "7", "See [1].": "[1]", `{a: 1}`: `{"a": 1}`} {
		got, err := ReadJSON(text)
		if got.Output != want || (err != nil) != (want == "") {
			t.Errorf("%q: %q, %v; want %q", text, got.Output, err, want)
		}
	}
}

func TestCorrectionShowsAnswerAndFaults(t *testing.T) {
	t.Parallel()
	_, err := answersTo(t, personSchema).Answer(`{"name":3}`)
	wrong, ok := errors.AsType[*AnswerError](err)
	if !ok {
		t.Fatal(err)
	}
	request := Messages{{RoleUser, "Who?"}}
	got := Correct(request, `{"name":3}`, wrong)
	const faults = "Your answer can't be used:\n- misses \"age\"\n- /name: expected string, got number\nAnswer again, with the whole corrected JSON value and nothing else."
	if len(got) != 3 || got[0] != request[0] || got[1] != (Message{RoleAssistant, `{"name":3}`}) || got[2] != (Message{RoleUser, faults}) {
		t.Errorf("got %q", got)
	}
	if long := Correct(request, strings.Repeat("é", maxShown), wrong)[1].Content; len(long) > maxShown+3 || !strings.HasSuffix(long, "é…") {
		t.Errorf("a long answer is shown in %d bytes, ending in %q", len(long), long[len(long)-8:])
	}
}

// A model may answer anything. Whatever the ladder accepts is JSON and meets the schema, and it ends.
func FuzzAnswer(f *testing.F) {
	for _, text := range []string{`{"name":"Ada","age":36}`, "```json\n{'name': \"x\", age: 1,}\n```", `[[[[`, `{"a":`, "prose {\"name\":\"x\"} more", `{"name":"a","age":1e9999}`,
		strings.Repeat("[", 1000), strings.Repeat(`{"a":`, 600), "\xff{", `{"name":"a" "age":1}`, `[1,2,...]`, "{\"a\":\"\\ud800\"}"} {
		f.Add(text)
	}
	person := answersTo(f, personSchema)
	f.Fuzz(func(t *testing.T, text string) {
		begin := time.Now()
		for _, read := range []func(string) (Answer, error){person.Answer, ReadJSON} {
			got, err := read(text)
			if again, aerr := read(text); again != got || (aerr == nil) != (err == nil) || err != nil && aerr.Error() != err.Error() {
				t.Fatalf("%q by %q, %v; then %q by %q, %v", got.Output, got.Rung, err, again.Output, again.Rung, aerr)
			}
			if err == nil && !json.Valid([]byte(got.Output)) {
				t.Fatalf("accepted %q", got.Output)
			}
		}
		if got, err := person.Answer(text); err == nil {
			var p struct {
				Name *string
				Age  *json.Number
			}
			if err := json.Unmarshal([]byte(got.Output), &p); err != nil || p.Name == nil || p.Age == nil {
				t.Fatalf("accepted %q: %v", got.Output, err)
			}
		}
		if took := time.Since(begin); took > 20*time.Second {
			t.Fatalf("took %s for %d bytes", took, len(text))
		}
	})
}
