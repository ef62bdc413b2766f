package prompt

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestLint(t *testing.T) {
	t.Parallel()
	const bounded = `,"sampling":{"max_tokens":100}`
	long := strings.Repeat("Say nothing that the text does not say. ", 150) // over 1,024 tokens
	for name, c := range map[string]struct{ spec, want string }{
		"nothing to say": {`{"system":"` + long + `","user":"Text: {{.text}}","variables":{"text":{"type":"string"}}` + bounded + `}`, ``},
		"date":           {`{"system":"` + long + `\nToday is 2026-12-01.","user":"x"` + bounded + `}`, `date_in_stable_part warning system 2`},
		"date in words":  {`{"system":"` + long + `","user":"It is December 1st, 2026. {{.v}}","variables":{"v":{"type":"string"}}` + bounded + `}`, `date_in_stable_part warning user 1`},
		"time":           {`{"system":"` + long + ` at 14:05:33","user":"x"` + bounded + `}`, `date_in_stable_part warning system 1`},
		"no time":        {`{"system":"` + long + ` A 16:9 picture, from May on, by 17:00, in 2026.","user":"x"` + bounded + `}`, ``},
		"id":             {`{"system":"` + long + ` Run 0b9bb5d0-45ee-4d0e-8c7a-0a64a3b1f2c3","user":"x"` + bounded + `}`, `id_in_stable_part warning system 1`},
		"hash, Unix time": {`{"system":"` + long + ` 9f86d081884c7d65 and","user":"1764547200"` + bounded + `}`,
			"id_in_stable_part warning system 1\nid_in_stable_part warning user 1"},
		"behind the variable it doesn't matter": {`{"system":"` + long + `","user":"{{.v}} of 2026-12-01","variables":{"v":{"type":"string"}}` + bounded + `}`, ``},
		"data of an example":                    {`{"system":"` + long + `","examples":[{"user":"2026-12-01","assistant":"1764547200"}],"user":"x"` + bounded + `}`, ``},
		"volatile": {`{"system":"` + long + `","user":"{{.current_date}} {{.request_id}} {{.topic}}","variables":{"current_date":{"type":"string"},"request_id":{"type":"string"},"topic":{"type":"string"}}` + bounded + `}`,
			"volatile_variable warning variables.current_date 0\nvolatile_variable warning variables.request_id 0"},
		"variable first": {`{"user":"Text:\n{{.text}}\n` + long + `","variables":{"text":{"type":"string"}}` + bounded + `}`,
			"variable_before_stable warning user 2\nstable_part_short note  0"},
		"variable in system": {`{"system":"Speak {{.language}}.","examples":[{"user":"a","assistant":"` + long + `"}],"user":"x","variables":{"language":{"type":"string"}}` + bounded + `}`,
			"variable_before_stable warning system 1\nstable_part_short note  0"},
		"a short end":      {`{"system":"` + long + `","user":"{{.text}} That was all.","variables":{"text":{"type":"string"}}` + bounded + `}`, ``},
		"short":            {`{"user":"x"` + bounded + `}`, `stable_part_short note  0`},
		"object":           {`{"system":"` + long + `","user":"{{range .a}}{{.}}{{end}}\n{{range $k, $v := .o}}{{$k}}{{end}}","variables":{"a":{"type":"array"},"o":{"type":"object"}}` + bounded + `}`, `unordered_content note user 2`},
		"no schema":        {`{"system":"` + long + `","user":"x","output":{"format":"json"}` + bounded + `}`, `json_without_schema warning output.schema 0`},
		"no limit":         {`{"system":"` + long + `","user":"x"}`, `no_length_limit warning sampling.max_tokens 0`},
		"limit in words":   {`{"system":"` + long + `","user":"In two short sentences: {{.n}}","variables":{"n":{"type":"string"}}}`, ``},
		"limit in figures": {`{"system":"` + long + ` At most {{.n}} words.","user":"x","variables":{"n":{"type":"integer"}}}`, ``},
	} {
		var got []string
		for _, f := range compile(t, c.spec).Lint(nil) {
			got = append(got, fmt.Sprintf("%s %s %s %d", f.Code, f.Severity, f.Field, f.Line))
		}
		if s := strings.Join(got, "\n"); s != c.want {
			t.Errorf("%s:\n%s; want\n%s", name, s, c.want)
		}
	}
}

func TestLintKnowsTheModelsMinimums(t *testing.T) {
	t.Parallel()
	tmpl := compile(t, `{"system":"`+strings.Repeat("Say nothing that the text does not say. ", 60)+`","user":"x","sampling":{"max_tokens":9}}`)
	tokens := tmpl.StableTokens(EstimateTokens)
	got := tmpl.Lint([]CacheMinimum{{"a:small", tokens}, {"b:large", tokens + 1}})
	want := fmt.Sprintf("requests share about %d tokens from their start, and the prompt cache of b:large keeps %d or more: input tokens will not be cheaper", tokens, tokens+1)
	if len(got) != 1 || got[0].Message != want {
		t.Errorf("got %v; want %s", got, want)
	}
	if got := tmpl.Lint([]CacheMinimum{}); len(got) != 0 {
		t.Errorf("no prompt cache, and yet %v", got)
	}
}

// The bytes of a request depend on its spec and its values alone: not on how the spec was written or stored, nor on the order in which a job
// has its variables.
func TestSameSpecAndVariablesAreTheSameBytes(t *testing.T) {
	t.Parallel()
	word := rapid.StringMatching(`[a-zé"{}\\ \n]{1,12}`)
	rapid.Check(t, func(t *rapid.T) {
		s := Spec{
			System: "S {{.a}} {{range .list}}{{.}},{{end}}", User: "U {{json .object}} {{.b}}",
			Variables: map[string]Variable{"a": {Type: TypeString}, "b": {Type: TypeNumber}, "list": {Type: TypeArray}, "object": {Type: TypeObject}},
			Output:    Output{Format: FormatJSON, Schema: json.RawMessage(`{"type":"object","properties":{"z":{},"a":{}}}`)},
		}
		if rapid.Bool().Draw(t, "plain") {
			s.System = ""
		}
		for range rapid.IntRange(0, 3).Draw(t, "examples") {
			s.Examples = append(s.Examples, Example{User: "e" + word.Draw(t, "user"), Assistant: `{"z":1}`})
		}
		if s.System == "" {
			s.User += "{{.a}}{{.list}}"
		}
		members := map[string]any{"a": word.Draw(t, "a"), "b": rapid.Float64Range(-1e9, 1e9).Draw(t, "b"),
			"list": rapid.SliceOfN(word, 0, 3).Draw(t, "list"), "object": map[string]any{"y": 1, "x": word.Draw(t, "x")}}
		var keys []Key
		for range 3 {
			names := []string{"a", "b", "list", "object"}
			rand.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
			var vars []string
			for _, name := range names {
				value, err := json.Marshal(members[name])
				if err != nil {
					t.Fatal(err)
				}
				vars = append(vars, fmt.Sprintf(" %q : %s ", name, value))
			}
			tmpl, err := Compile(s)
			if err != nil {
				t.Fatal(err)
			}
			messages, err := tmpl.Render([]byte("{" + strings.Join(vars, ",") + "}"))
			if err != nil {
				t.Fatal(err)
			}
			keys = append(keys, tmpl.Request("m", messages).Key())
			stored, err := json.Marshal(s)
			if err != nil {
				t.Fatal(err)
			}
			if s, err = ParseSpec(stored); err != nil {
				t.Fatal(err)
			}
		}
		if keys[0] != keys[1] || keys[1] != keys[2] {
			t.Fatalf("keys %s", keys)
		}
	})
}
