package prompt

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"pgregory.net/rapid"
)

// No template and no input may panic, hang, or render two texts.
func FuzzCompileAndRender(f *testing.F) {
	for _, seed := range []string{
		`{{.s}}`, `{{range .a}}{{.}}{{else}}x{{end}}`, `{{with .o}}{{.k}}{{end}}`, `{{printf "%5.2f %q" .n .s}}`, `{{index .o "k" 0}}`,
		`{{$x := .s}}{{range $i, $e := .a}}{{$x = print $x $i}}{{end}}{{$x}}`, `{{if and .b (gt .n 1) | not}}{{end}}`, `{{json .}}{{slice .s 1 2}}`,
		`{{define "x"}}{{end}}`, `{{block "user" .}}{{end}}`, `{{range 99}}{{break}}{{end}}`, `{{"\xff"}}`, `{{split "\x80" .s}}`, `{{(.o).k}}`,
		`{{join "," .a | indent 2 | truncate 3}}`, `{{replace "a" "b" .s | quote | default 1 | len}}`, `{{- .s -}} {{/* c */}}`, `{{1e3}}{{'a'}}{{0x1p-2}}{{1i}}{{nil}}{{true}}`,
		`{{eq .s 1 .n "x"}}{{lt .i .n}}{{.s | printf "%s" | print}}`, `{{.o.k.String}}{{.n.Float64}}{{.i.Int64}}{{.n.Format 1 2}}`,
	} {
		f.Add(seed, `{"s":"aé😀","n":1.50,"i":7,"b":true,"a":["x",2,null,{"k":[]}],"o":{"k":["v"],"z":{}}}`)
	}
	f.Fuzz(func(t *testing.T, source, vars string) {
		no := false
		spec := Spec{User: source, Variables: map[string]Variable{}}
		for name, v := range declare("s n i b a o") {
			v.Required = &no
			spec.Variables[name] = v
		}
		tmpl, err := Compile(spec)
		for err != nil {
			// Only declare what is used.
			name, unused := strings.CutSuffix(err.Error(), ": is declared but neither system nor user uses it")
			if !unused {
				return
			}
			delete(spec.Variables, strings.TrimPrefix(name, "variables."))
			tmpl, err = Compile(spec)
		}
		var given map[string]json.RawMessage
		if json.Unmarshal([]byte(vars), &given) == nil {
			for name := range given {
				if _, declared := spec.Variables[name]; !declared {
					delete(given, name)
				}
			}
			if raw, err := json.Marshal(given); err == nil && given != nil {
				vars = string(raw)
			}
		}
		checked := tmpl.Check(json.RawMessage(vars))
		first, err := tmpl.Render(json.RawMessage(vars))
		if checked != nil && (err == nil || err.Error() != checked.Error()) {
			t.Fatalf("Check: %v, Render: %v", checked, err)
		}
		again, errAgain := tmpl.Render(json.RawMessage(vars))
		if !slices.Equal(first, again) || (err == nil) != (errAgain == nil) {
			t.Fatalf("rendered %q, then %q (%v, %v)", first, again, err, errAgain)
		}
		for _, m := range first {
			if !utf8.ValidString(m.Content) || len(m.Content) > MaxRendered {
				t.Fatalf("bad message %.100q", m.Content)
			}
		}
	})
}

func FuzzParseSpec(f *testing.F) {
	f.Add([]byte(benchSpec))
	f.Add([]byte(`{"user":"{{.a}}","variables":{"a":{"type":"array","default":[1.0,{}],"required":false,"description":"d"}},"output":{"format":"json","schema":{"x":1}}}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		s, err := ParseSpec(raw)
		if err != nil {
			return
		}
		form, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		again, err := ParseSpec(form)
		if err != nil {
			t.Fatalf("its own form is refused: %s: %v", form, err)
		}
		if formAgain, err := json.Marshal(again); err != nil || !bytes.Equal(form, formAgain) {
			t.Fatalf("unstable form\n%s\n%s", form, formAgain)
		}
	})
}

// The short way, for templates of plain values, and the way through text/template must agree.
func TestBothWaysRenderTheSame(t *testing.T) {
	t.Parallel()
	short, err := Compile(Spec{User: "<{{.v}}>", Variables: map[string]Variable{"v": {Type: TypeObject}}})
	if err != nil {
		t.Fatal(err)
	}
	long, err := Compile(Spec{User: "<{{print .v}}>", Variables: map[string]Variable{"v": {Type: TypeObject}}})
	if err != nil {
		t.Fatal(err)
	}
	if short.user.segments == nil || long.user.segments != nil {
		t.Fatal("the templates don't go both ways")
	}
	rapid.Check(t, func(t *rapid.T) {
		raw, err := json.Marshal(map[string]any{"v": rapid.MapOfN(rapid.String(), anyJSON(2), 0, 4).Draw(t, "v")})
		if err != nil {
			t.Skip()
		}
		a, errA := short.Render(raw)
		b, errB := long.Render(raw)
		if errA != nil || errB != nil || !slices.Equal(a, b) {
			t.Fatalf("%s\n%q %v\n%q %v", raw, a, errA, b, errB)
		}
	})
}
