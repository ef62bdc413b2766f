package gateway_test

import (
	"encoding/json"
	"strings"
	"testing"

	"batchwright/internal/gateway"
)

// strictOf says how OpenAI is asked for JSON after a schema: whether in strict mode.
func strictOf(t *testing.T, schema string) bool {
	t.Helper()
	step, err := gateway.NewStep("openai", "gpt-4.1-mini", &gateway.Chat{Messages: []gateway.Message{{Role: "user", Content: "x"}}, Schema: json.RawMessage(schema)}, nil)
	if err != nil {
		t.Fatal(err)
	}
	var body struct {
		Format struct {
			Type   string `json:"type"`
			Schema struct {
				Schema json.RawMessage `json:"schema"`
				Strict bool            `json:"strict"`
			} `json:"json_schema"`
		} `json:"response_format"`
	}
	if err := json.Unmarshal(step.Query, &body); err != nil || body.Format.Type != "json_schema" || string(body.Format.Schema.Schema) != schema {
		t.Errorf("%v: sent %s", err, step.Query)
	}
	return body.Format.Schema.Strict
}

func TestOnlySchemasThatStrictModeTakesAreSentStrict(t *testing.T) {
	t.Parallel()
	const object = `{"type":"object","properties":{"a":A},"required":["a"],"additionalProperties":false}`
	for schema, want := range map[string]bool{
		`{"type":"object","properties":{},"additionalProperties":false}`:                                                                       true,
		strings.Replace(object, "A", `{"type":["string","null"],"enum":["x",null]}`, 1):                                                        true,
		strings.Replace(object, "A", `{"type":"string","format":"date","pattern":"^2"}`, 1):                                                    true,
		strings.Replace(object, "A", `{"anyOf":[{"type":"string"},`+strings.Replace(object, "A", `{"type":"integer","minimum":1}`, 1)+`]}`, 1): true,
		strings.Replace(object, "A", `{"type":"array","items":{"$ref":"#"},"minItems":1}`, 1):                                                  true,
		strings.Replace(object, "A", `{"type":"string","default":"x"}`, 1):                                                                     false,
		strings.Replace(object, "A", `{"type":"string","maxLength":9}`, 1):                                                                     false,
		strings.Replace(object, "A", `{"oneOf":[{"type":"string"}]}`, 1):                                                                       false,
		strings.Replace(object, "A", `{"type":"array","items":{"type":"object","properties":{"b":{}}}}`, 1):                                    false,
		strings.Replace(object, "A", `{"type":"array","uniqueItems":true}`, 1):                                                                 false,
		strings.Replace(object, `"required":["a"],`, ``, 1):                                                                                    false,
		strings.Replace(object, `,"additionalProperties":false`, ``, 1):                                                                        false,
		`{"type":"array","items":{"type":"string"}}`:                                                                                           false,
		`{"type":"object","anyOf":[{"type":"object","properties":{},"additionalProperties":false}],"additionalProperties":false}`:              false,
	} {
		schema = strings.Replace(schema, `:A}`, `:{"type":"number"}}`, 1)
		if got := strictOf(t, schema); got != want {
			t.Errorf("%s: strict %t", schema, got)
		}
		if loose := gateway.LooseSchema("openai", "gpt-4.1-mini", json.RawMessage(schema)); (loose == "") != want {
			t.Errorf("%s: %q", schema, loose)
		}
	}
}

func TestLooseSchemaKnowsProviders(t *testing.T) {
	t.Parallel()
	const good = `{"type":"object","properties":{"a":{"type":"string"}},"required":["a"],"additionalProperties":false}`
	for _, tt := range []struct {
		provider, model, schema, want string
	}{
		{"openai", "gpt-5.2", good, ""},
		{"anthropic", "claude-sonnet-4-5", good, ""},
		{"anthropic", "claude-sonnet-4-5", `{"type":"object"}`, "close each object"},
		{"anthropic", "claude-3-5-haiku-latest", good, "the model knows no schemas"},
		{"deepseek", "deepseek-chat", good, "the provider knows JSON, but no schemas"},
		{"google-ai-studio", "gemini-2.5-flash", good, ""},
	} {
		if got := gateway.LooseSchema(tt.provider, tt.model, json.RawMessage(tt.schema)); !strings.HasPrefix(got, tt.want) || (got == "") != (tt.want == "") {
			t.Errorf("%s %s: %q", tt.provider, tt.model, got)
		}
	}
}
