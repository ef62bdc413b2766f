package gateway

import (
	"encoding/json"
	"errors"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

// encodesAs holds the request of a chat for a model against testdata/SLUG/request_NAME.golden.
func encodesAs(t *testing.T, slug, name, model string, c *Chat) {
	t.Helper()
	s, err := NewStep(slug, model, c, nil)
	got := "POST " + s.Endpoint + "\n" + string(s.Query) + "\n"
	if err != nil {
		got = "error: " + err.Error() + "\n"
	}
	golden(t, filepath.Join("testdata", slug, "request_"+name+".golden"), got)
}

// wish is a chat that asks for all that can be asked for.
func wish() *Chat {
	return &Chat{
		Messages: []Message{
			{"system", "Be brief."}, {"system", "Be kind."}, {"user", "One"}, {"user", "and a half"},
			{"assistant", "Two"}, {"system", "Now in Norwegian."}, {"user", "  \n"}, {"user", "Three"},
		},
		MaxTokens: 400, Temperature: ptr(1.5), TopP: ptr(0.9), Seed: ptr(int64(7)), Stop: []string{"END", "\n", "a,b"},
	}
}

func TestAnthropicRequests(t *testing.T) {
	t.Parallel()
	for name, model := range map[string]string{
		"opus_5": "claude-opus-5-5", "sonnet_4_6": "claude-sonnet-4-6", "sonnet_4": "claude-sonnet-4-20250514",
		"haiku_3_5": "claude-3-5-haiku-latest",
	} {
		encodesAs(t, "anthropic", name, model, wish())
	}
	plain := []Message{{"user", "List"}}
	encodesAs(t, "anthropic", "default_cap_3", "claude-3-haiku-20240307", &Chat{Messages: plain, TopP: ptr(0.5)})
	encodesAs(t, "anthropic", "top_p_alone", "claude-haiku-4-5", &Chat{Messages: plain, TopP: ptr(0.5)})
	encodesAs(t, "anthropic", "schema_old_model", "claude-sonnet-4-20250514", chats["schema"])
	encodesAs(t, "anthropic", "system_alone", "claude-opus-5", &Chat{Messages: []Message{{"system", "Say hello."}}, JSON: true})
	encodesAs(t, "anthropic", "blank", "claude-opus-5", &Chat{Messages: []Message{{"system", "x"}, {"user", " \n"}}})
	encodesAs(t, "anthropic", "responses", "claude-opus-5", &Chat{Messages: plain, API: "responses"})
}

func TestClaudeVersion(t *testing.T) {
	t.Parallel()
	for model, want := range map[string]int{
		"claude-haiku-5-5": 505, "claude-opus-5": 500, "claude-fable-5-1": 501, "claude-sonnet-4-5-20250929": 405, "claude-sonnet-4-20250514": 400,
		"claude-3-5-sonnet-20241022": 305, "claude-3-7-sonnet-latest": 307, "claude-3-haiku-20240307": 300, "claude-2.1": 201,
		"anthropic/claude-4.7-opus": 407, "anthropic.claude-opus-4-1-20250805-v1:0": 401, "claude-sonnet-4-5@20250929": 405, "claude-opus-10-2": 1002,
		"claude-next": -1, "m-1": -1, "claude-": -1, "": -1,
	} {
		got, ok := claudeVersion(model)
		if !ok {
			got = -1
		}
		if got != want {
			t.Errorf("claudeVersion(%q) = %d, want %d", model, got, want)
		}
	}
}

// The mark stands where the batch stops sharing the prompt, wherever that is.
func TestAnthropicMarksTheStablePart(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("é", 4096) // 8,192 bytes, 2,048 tokens by our rule
	chat := func(s Stable) *Chat {
		return &Chat{Messages: []Message{{"system", long}, {"user", "Read this: " + long + "the end"}}, Stable: s}
	}
	short := &Chat{Messages: []Message{{"system", "short"}, {"user", long}}, Stable: Stable{Messages: 1}}
	note := chat(Stable{Messages: 1})
	note.JSON = true
	tests := []struct {
		name   string
		chat   *Chat
		marked string // the end of the marked block
		blocks int
	}{
		{"nothing known", chat(Stable{}), "", 2},
		{"the system message", chat(Stable{Messages: 1}), "é", 2},
		{"the system message and our note", note, "no code fence.", 3},
		{"a part of the user's", chat(Stable{Messages: 1, Bytes: 11}), "Read this: ", 3},
		{"within a character", chat(Stable{Messages: 1, Bytes: 14}), "Read this: é", 3},
		{"everything", chat(Stable{Messages: 2}), "the end", 2},
		{"more than there is", chat(Stable{Messages: 9, Bytes: 9}), "the end", 2},
		{"negative", chat(Stable{Messages: 1, Bytes: -1}), "é", 2},
		{"too short", short, "", 2},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, body, err := anthropic{}.Encode("claude-opus-5", tt.chat)
			if err != nil {
				t.Fatal(err)
			}
			if !utf8.Valid(body) || strings.Contains(string(body), `\ufffd`) || strings.Contains(string(body), "\uFFFD") {
				t.Error("a character is cut in two")
			}
			var r struct {
				System   json.RawMessage
				Messages []struct{ Content json.RawMessage }
			}
			if err := json.Unmarshal(body, &r); err != nil {
				t.Fatal(err)
			}
			marked, blocks, all := "", 0, ""
			for _, raw := range []json.RawMessage{r.System, r.Messages[0].Content} {
				if kindOf(raw) == '"' {
					blocks, all = blocks+1, all+text(raw)
					continue
				}
				var bs []struct {
					Text  string
					Cache *struct{ Type string } `json:"cache_control"`
				}
				if err := json.Unmarshal(raw, &bs); err != nil {
					t.Fatal(err)
				}
				for _, b := range bs {
					blocks, all = blocks+1, all+b.Text
					if b.Cache != nil && b.Cache.Type == "ephemeral" {
						if marked != "" {
							t.Error("two marks")
						}
						marked = b.Text
					}
				}
			}
			if !strings.HasSuffix(marked, tt.marked) || (marked == "") != (tt.marked == "") || blocks != tt.blocks {
				t.Errorf("%d blocks, the marked one ends with %q", blocks, marked[max(len(marked)-40, 0):])
			}
			want := tt.chat.Messages[0].Content + sayJSON(tt.chat) + tt.chat.Messages[1].Content
			if all != want {
				t.Error("the blocks don't add up to the chat")
			}
		})
	}
}

func TestAnthropicSchemas(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, schema string
		want         bool
	}{
		{"closed", `{"type":"object","properties":{"a":{"type":"string","format":"date"}},"additionalProperties":false}`, true},
		{"nullable", `{"type":["object","null"],"properties":{},"additionalProperties":false}`, true},
		{"references", `{"type":"object","properties":{"a":{"$ref":"#/$defs/x"}},"additionalProperties":false,
			"$defs":{"x":{"type":"integer","enum":[1,2]}}}`, true},
		{"a choice", `{"anyOf":[{"type":"string"},{"type":"array","items":{"type":"null"},"minItems":1}]}`, true},
		{"open", `{"type":"object","properties":{}}`, false},
		{"open below", `{"type":"array","items":{"type":"object"}}`, false},
		{"open on purpose", `{"type":"object","properties":{},"additionalProperties":true}`, false},
		{"bounds", `{"type":"integer","minimum":1}`, false},
		{"a pattern", `{"type":"string","pattern":"^a"}`, false},
		{"many items", `{"type":"array","items":{"type":"string"},"minItems":2}`, false},
		{"objects to choose from", `{"enum":[{"a":1}]}`, false},
		{"to itself", `{"type":"object","properties":{"a":{"$ref":"#/$defs/x"}},"additionalProperties":false,
			"$defs":{"x":{"type":"array","items":{"$ref":"#/$defs/x"}}}}`, false},
		{"doubling", `{"$ref":"#/$defs/x","$defs":{"x":{"anyOf":[{"$ref":"#/$defs/x"},{"$ref":"#/$defs/x"}]}}}`, false},
		{"to elsewhere", `{"$ref":"https://example.com/schema"}`, false},
		{"no object", `{"items":7}`, false},
	}
	for _, tt := range tests {
		if got := claudeSchema(json.RawMessage(tt.schema)); got != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
}

// A 429 that doesn't say how long to wait is a cap on spending; but only the headers can tell.
func TestAnthropicSpendCapHasNoRetryAfter(t *testing.T) {
	t.Parallel()
	body := []byte(`{"type":"error","error":{"type":"rate_limit_error","message":"x"}}`)
	for _, tt := range []struct {
		h    http.Header
		want Class
	}{
		{http.Header{"Content-Type": {"application/json"}}, Quota},
		{http.Header{"Retry-After": {"20"}}, RateLimited},
		{http.Header{}, RateLimited},
		{nil, RateLimited},
	} {
		if _, err := (anthropic{}).Decode(http.StatusTooManyRequests, tt.h, body); ClassOf(err) != tt.want {
			t.Errorf("headers %v: %v", tt.h, err)
		}
	}
	overloaded := []byte(`{"type":"error","error":{"type":"overloaded_error","message":"x"}}`)
	if _, err := (anthropic{}).Decode(529, http.Header{"Content-Type": {"x"}}, overloaded); ClassOf(err) != Overloaded {
		t.Errorf("529: %v", err)
	}
}

func TestAnthropicRawChat(t *testing.T) {
	t.Parallel()
	body := json.RawMessage(`{ "model": "claude-opus-5", "messages": [], "x": 1.0 }`)
	s, err := NewRawStep("anthropic", "", body, nil)
	if err != nil || s.Endpoint != "v1/chat/completions" || string(s.Query) != string(body) {
		t.Fatalf("step %+v, err %v", s, err)
	}
}

// roundTrip is a transport that a test scripts.
type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// The endpoints in the OpenAI form want the key as OpenAI does, and never in two places.
func TestKeyGoesWhereTheEndpointWantsIt(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ provider, model, base, native string }{
		{"anthropic", "claude-opus-5", "", "X-Api-Key"},
		{"google-ai-studio", "gemini-3.8-flash", "", "X-Goog-Api-Key"},
		{"cohere", "command-a-03-2025", "", "Authorization"},
		{"workers-ai", "@cf/meta/m", "https://api.cloudflare.com/client/v4/accounts/a/ai/run", "Authorization"},
	} {
		t.Run(tt.provider, func(t *testing.T) {
			t.Parallel()
			var sent, universal []string
			e, err := NewEngine(EngineOptions{
				Endpoints: map[string]Endpoint{tt.provider: {BaseURL: tt.base, Key: "k"}},
				Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
					for name, values := range r.Header {
						if strings.Contains(values[0], "k") && name != "User-Agent" && name != "Content-Type" {
							sent = append(sent, name+": "+values[0])
						}
					}
					return nil, errors.New("enough")
				}),
			})
			if err != nil {
				t.Fatal(err)
			}
			c, err := NewCloudflare(CloudflareOptions{AccountID: "a", GatewayID: "g", ProviderKeys: map[string]string{tt.provider: "k"}})
			if err != nil {
				t.Fatal(err)
			}
			own, err := NewStep(tt.provider, tt.model, &Chat{Messages: []Message{{"user", "hi"}}}, &StepConfig{MaxAttempts: 1})
			if err != nil {
				t.Fatal(err)
			}
			raw, err := NewRawStep(tt.provider, tt.model, json.RawMessage(`{"messages":[]}`), &StepConfig{MaxAttempts: 1})
			if err != nil {
				t.Fatal(err)
			}
			for _, s := range []Step{own, raw} {
				if _, err := e.Run(t.Context(), &Request{Steps: []Step{s}}, nil); ClassOf(err) != Network {
					t.Errorf("err %v", err)
				}
				sent, err := c.universal(&Request{Steps: []Step{s}})
				if err != nil {
					t.Fatal(err)
				}
				var steps []Step
				if err := json.Unmarshal(sent.body, &steps); err != nil {
					t.Fatal(err)
				}
				for name, value := range steps[0].Headers {
					if name == "Authorization" || strings.HasSuffix(name, "-Key") {
						universal = append(universal, name+": "+value)
					}
				}
			}
			want := []string{tt.native + ": k", "Authorization: Bearer k"}
			if tt.native == "Authorization" {
				want[0] = want[1]
			}
			if !slices.Equal(sent, want) || !slices.Equal(universal, want) {
				t.Errorf("sent %q, through Cloudflare %q, want %q", sent, universal, want)
			}
		})
	}
}
