package prompt

import (
	"encoding/json"
	"strings"
	"testing"
)

const benchSpec = `{"system":"You classify support tickets. Answer with one word.","user":"Subject: {{.subject}}\n\n{{.body}}\n\nPriority: {{.priority}}",
	"variables":{"subject":{"type":"string"},"body":{"type":"string"},"priority":{"type":"integer","default":3}},
	"output":{"format":"json","schema":{"type":"object","properties":{"label":{"type":"string","enum":["bug","question","praise"]}},"required":["label"]}},
	"sampling":{"max_tokens":100,"temperature":0}}`

var benchVars = json.RawMessage(`{"subject":"Printer on fire","body":"` + strings.Repeat("It burns, \\\"really\\\" burns. ", 16) + `"}`)

func BenchmarkCheck(b *testing.B) {
	tmpl := compile(b, benchSpec)
	b.SetBytes(int64(len(benchVars)))
	b.ReportAllocs()
	for b.Loop() {
		if err := tmpl.Check(benchVars); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkRender(b *testing.B) {
	for _, c := range []struct{ name, user string }{
		{"plain", "{{.subject}}: {{.body}} ({{.priority}})"},
		{"functions", "{{upper .subject}}: {{.body | trim}} {{if gt .priority 2}}urgent{{end}}"},
	} {
		b.Run(c.name, func(b *testing.B) {
			tmpl, err := Compile(Spec{User: c.user, Variables: map[string]Variable{
				"subject": {Type: TypeString}, "body": {Type: TypeString}, "priority": {Type: TypeInteger, Default: json.RawMessage("3")},
			}})
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := tmpl.Render(benchVars); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkKey(b *testing.B) {
	zero := 0.0
	for _, size := range []int{500, 50_000} {
		r := Request{Model: "gpt-4o-mini", Temperature: &zero, MaxTokens: 100, Messages: []Message{
			{RoleSystem, "You classify."}, {RoleUser, strings.Repeat("Some \"text\" with\na few escapes, é. ", size/35)}}}
		b.Run(map[int]string{500: "500B", 50_000: "50KB"}[size], func(b *testing.B) {
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				r.Key()
			}
		})
	}
}

func BenchmarkRenderAndKeys(b *testing.B) {
	tmpl := compile(b, benchSpec)
	models := []string{"gpt-4o-mini", "claude-haiku-5-5", "llama-3.3-70b-versatile"}
	b.ReportAllocs()
	for b.Loop() {
		messages, err := tmpl.Render(benchVars)
		if err != nil {
			b.Fatal(err)
		}
		tmpl.Request("", messages).Keys(models)
	}
}

func BenchmarkKeyRaw(b *testing.B) {
	body := json.RawMessage(`{"model":"gpt-4o-mini","messages":[{"role":"user","content":"` + strings.Repeat("Some text, é. ", 35) + `"}],"temperature":0.2,"max_tokens":100,"user":"u"}`)
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := KeyRaw(body); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkEstimateTokens(b *testing.B) {
	text := strings.Repeat("The quick brown fox jumps over 13 lazy dogs, doesn't it? ", 200)
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		EstimateTokens(text)
	}
}
