package server

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"batchwright/internal/gateway/jsonspan"
)

func TestUniversalBodies(t *testing.T) {
	t.Parallel()
	const one = `{"provider":"openai","endpoint":"x","query":{}}`
	for body, want := range map[string]int{
		`[` + one + `]`: 1, one: 1, `{"providers":[` + one + `,` + one + `]}`: 2, " [\n" + one + " ,\t" + one + "]\n": 2,
		`[]`: 0, `{}`: 0, `null`: 0, `"x"`: 0, `[1]`: 0, `[{"provider":"x"}]`: 0, `[` + one: 0, ``: 0, `[` + one + `]x`: 0,
		`[{"provider":"openai","endpoint":"x","headers":[],"query":{}}]`:                         0,
		`[{"provider":"openai","endpoint":"x","headers":{"a\nb":"c"},"query":{}}]`:               0,
		`[{"provider":"openai","endpoint":"x","headers":{"a":"b\r\nc: d"},"query":{}}]`:          0,
		`[{"provider":"openai","endpoint":"x","query":{},"config":{"maxAttempts":"5"}}]`:         0,
		`[{"provider":"openai","endpoint":"x","query":{},"config":null}]`:                        1,
		`[` + strings.Repeat(one+",", 64) + one + `]`:                                            0,
		`[{"provider":"openai","endpoint":"x","authorization":"Bearer k","query":{},"extra":1}]`: 1,
	} {
		steps, warning, f := parseUniversal([]byte(body))
		if len(steps) != want && want > 0 || (f == nil) != (want > 0) {
			t.Errorf("%.80s: %d steps, %v", body, len(steps), f)
		}
		if (warning != "") != strings.Contains(body, "providers") {
			t.Errorf("%.80s: warning %q", body, warning)
		}
	}
	steps, _, f := parseUniversal([]byte(`[{"provider":"p","endpoint":"e","headers":{"content-type":"x/y","N":1.50,"B":true,"Z":null,"O":{"a": [1]},"authorization":"A"},"authorization":"legacy","query":{"a" : 1e2, "\u00e9":"<" }}]`))
	if f != nil {
		t.Fatal(f.message)
	}
	h := steps[0].header
	if string(steps[0].query) != `{"a" : 1e2, "\u00e9":"<" }` || h.Get("N") != "1.50" || h.Get("B") != "true" || h["Z"] != nil || h.Get("O") != `{"a": [1]}` ||
		h.Get("Content-Type") != "x/y" || h.Get("Authorization") != "A" {
		t.Errorf("step %s %v", steps[0].query, h)
	}
}

func FuzzUniversal(f *testing.F) {
	f.Add([]byte(`[{"provider":"openai","endpoint":"chat/completions","headers":{"Authorization":"Bearer x","n":1},"query":{"a":[1,"]"]},"config":{"maxAttempts":2}}]`))
	f.Add([]byte(`{"provider":"openai","endpoint":"x","authorization":"k","query":"\"}"}`))
	f.Add([]byte(`{"providers":[{"provider":"a","query":null}]}`))
	f.Add([]byte(`[{"query":{},"query":{"last":1},"provider":"\u0061"}]`))
	f.Fuzz(func(t *testing.T, body []byte) {
		steps, _, fault := parseUniversal(body)
		if fault != nil {
			return
		}
		for _, s := range steps {
			if !json.Valid(s.query) || !bytes.Contains(body, s.query) || s.provider == "" {
				t.Fatalf("%q gives the step %q with %q", body, s.provider, s.query)
			}
			for name, v := range s.header {
				if !headerName(name) || !headerValue(v[0]) {
					t.Fatalf("%q gives the header %q: %q", body, name, v)
				}
			}
		}
	})
}

func FuzzAim(f *testing.F) {
	f.Add(`{"model":"openai/gpt","x":1}`, "gpt")
	f.Add(`{"model":"groq\/a","model":"b/c"}`, "c")
	f.Fuzz(func(t *testing.T, body, model string) {
		at, ok := member([]byte(body), "model")
		if !ok || !json.Valid([]byte(body)) || body[jsonspan.Blanks([]byte(body), 0)] != '{' {
			return
		}
		s := &step{body: []byte(body)}
		s.aim("openai", "chat/completions", model, at)
		if want, _ := json.Marshal(model); !json.Valid(s.body) || memberText(s.body, "model") != textOf(want) {
			t.Fatalf("%q for %q gives %q", body, model, s.body)
		}
	})
}
