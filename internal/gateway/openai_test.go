package gateway

import (
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
)

// TestOpenAIRequests holds what the chats of TestProviders don't show: peculiar models, prompt caches and Responses.
func TestOpenAIRequests(t *testing.T) {
	t.Parallel()
	full, schema := *chats["full"], *chats["schema"]
	full.Messages = append([]Message{{"system", "Be brief."}, {"system", "Be kind."}}, full.Messages...)
	responses, responsesSchema := full, schema
	responses.API, responsesSchema.API = "responses", "responses"
	stable := full
	stable.Stable = Stable{Messages: 1, Bytes: 3}
	said := *chats["json"]
	said.Messages = []Message{{"system", "You list."}, {"user", "List"}}
	tests := []struct {
		provider, model, name string
		chat                  *Chat
	}{
		{"openai", "gpt-5-mini", "reasoning", &full},
		{"openai", "gpt-4.1-mini", "stable", &stable},
		{"openai", "gpt-4.1-mini", "responses", &responses},
		{"openai", "gpt-4.1-mini", "responses_schema", &responsesSchema},
		{"openai", "gpt-5.2-pro", "responses_only", &stable},
		{"grok", "grok-4.3", "responses", &responsesSchema},
		{"perplexity-ai", "perplexity/sonar", "responses", &full},
		{"perplexity-ai", "perplexity/sonar", "responses_schema", &schema},
		{"azure-openai", "my-resource/gpt-5-mini", "reasoning", &full},
		{"openrouter", "openai/gpt-5-mini", "reasoning", &full},
		{"openrouter", "x/y", "schema_seed", func() *Chat { c := schema; c.Seed = full.Seed; return &c }()},
		{"grok", "grok-4-1-fast-non-reasoning", "stop", &full},
		{"mistral", "mistral-small-2603", "stable", &stable},
		{"groq", "openai/gpt-oss-120b", "stable", &stable},
		{"deepseek", "deepseek-flash", "said", &said},
		{"perplexity-ai", "sonar", "said", &said},
	}
	for _, tt := range tests {
		s, err := NewStep(tt.provider, tt.model, tt.chat, nil)
		if err != nil {
			t.Error(err)
			continue
		}
		golden(t, filepath.Join("testdata", tt.provider, "request_"+tt.name+".golden"), fmt.Sprintf("POST %s\n%s\n", s.Endpoint, s.Query))
	}
}

func TestQuirks(t *testing.T) {
	t.Parallel()
	const reasons, responses = noSampling | noStop, noSampling | noStop | onlyResponses
	for want, names := range map[quirk][]string{
		0: {
			"openai/gpt-4o", "openai/gpt-4.1-nano", "openai/gpt-3.5-turbo", "openai/ft:gpt-4o-mini:org::1", "openai/chatgpt-4o-latest",
			"openai/m", "openai/o", "openai/gpt-", "openai/gpt-oss-120b", "openai/omni", "openai/prompt-guard",
			"azure-openai/res/gpt-35-turbo", "azure-openai/o3-res/chat", "openrouter/openai/gpt-4o", "openrouter/o3", "openrouter/x/gpt-5",
			"grok/grok-3", "grok/grok-2-1212", "grok/grok-4-1-fast-non-reasoning", "perplexity-ai/sonar-pro",
			"openai-compatible/gpt-5", "custom-x/o3", "groq/openai/gpt-oss-120b", "/o3",
		},
		reasons: {
			"openai/o1", "openai/o3-mini", "openai/o4-mini-2025-04-16", "openai/gpt-5", "openai/gpt-6.2-sol", "openai/ft:o4-mini:org::1",
			"azure-openai/res/gpt-5", "azure-openai/res/gpt-5-pro", "openrouter/openai/o3",
		},
		responses: {
			"openai/o1-pro", "openai/gpt-5-pro-2025-10-06", "openai/gpt-5.1-codex-max", "openai/o3-deep-research", "openai/codex-mini-latest",
			"openai/computer-use-preview",
		},
		noStop:        {"grok/grok-4.3", "grok/grok-3-mini"},
		onlyResponses: {"perplexity-ai/openai/gpt-5.4", "perplexity-ai/perplexity/sonar"},
	} {
		for _, name := range names {
			provider, model, _ := strings.Cut(name, "/")
			if got := quirksOf(provider, model); got != want {
				t.Errorf("%s: %03b, want %03b", name, got, want)
			}
		}
	}
}

func TestTheAPIIsChosen(t *testing.T) {
	t.Parallel()
	hi := []Message{{"user", "hi"}}
	tests := []struct{ provider, model, api, endpoint string }{
		{"openai", "gpt-4o", "", "chat/completions"},
		{"openai", "gpt-4o", "chat", "chat/completions"},
		{"openai", "gpt-4o", "responses", "responses"},
		{"openai", "gpt-5-pro", "", "responses"},
		{"openai", "gpt-5-pro", "chat", "chat/completions"}, // the caller has the last word
		{"openai", "gpt-4o", "Responses", ""},
		{"openai", "gpt-4o", "completions", ""},
		{"groq", "m", "chat", "chat/completions"},
		{"groq", "m", "responses", ""},
		{"grok", "grok-4.3", "", "v1/chat/completions"},
		{"grok", "grok-4.3", "responses", "v1/responses"},
		{"perplexity-ai", "sonar", "", "chat/completions"},
		{"perplexity-ai", "perplexity/sonar", "", "v1/responses"},
		{"azure-openai", "r/gpt-5-pro", "responses", ""},
		{"openai-compatible", "m", "responses", ""},
		{"simulator", "m", "responses", ""},
		{"local", Extractive, "responses", ""},
	}
	for _, tt := range tests {
		s, err := NewStep(tt.provider, tt.model, &Chat{Messages: hi, API: tt.api}, nil)
		if s.Endpoint != tt.endpoint || (err == nil) != (tt.endpoint != "") || err != nil && ClassOf(err) != InvalidRequest {
			t.Errorf("%s/%s with API %q goes to %q, err %v", tt.provider, tt.model, tt.api, s.Endpoint, err)
		}
	}
}

func TestRawBodiesFindTheirEndpoint(t *testing.T) {
	t.Parallel()
	const chat = `{"model":"M","messages":[]}`
	tests := []struct{ provider, model, body, endpoint string }{
		{"openai", "", chat, "chat/completions"},
		{"openai", "", `{"model":"m","input":"hi"}`, "responses"},
		{"openai", "", `{"model":"m","input":[]}`, "responses"},
		{"openai", "", `{"model":"m","input":"hi","messages":[]}`, "chat/completions"},
		{"openai", "", `{"model":"m","input":"hi","stream":true}`, ""},
		{"openai", "", `{"model":"m","input":"hi","background":true}`, ""},
		{"groq", "", `{"model":"m","input":"hi"}`, ""},
		{"perplexity-ai", "", `{"model":"openai/gpt-5.4","input":"hi","preset":"low"}`, "v1/responses"},
		{"mistral", "", chat, "v1/chat/completions"},
		{"azure-openai", "res/dep", `{"messages":[]}`, "res/dep/chat/completions?api-version=" + azureVersion},
		{"azure-openai", "", `{"model":"res/dep","messages":[]}`, "res/dep/chat/completions?api-version=" + azureVersion},
		{"azure-openai", "", `{"model":"dep","messages":[]}`, ""},
		{"azure-openai", "", `{"model":"res/dep","messages":[],"stream":true}`, ""},
		{"azure-openai", "", `{"model":"res/dep","input":"hi"}`, ""},
	}
	for _, tt := range tests {
		s, err := NewRawStep(tt.provider, tt.model, json.RawMessage(tt.body), nil)
		if s.Endpoint != tt.endpoint || (err == nil) != (tt.endpoint != "") || err != nil && ClassOf(err) != InvalidRequest {
			t.Errorf("%s %s goes to %q, err %v", tt.provider, tt.body, s.Endpoint, err)
		}
	}
}

func TestPromptCacheKeyNamesTheSharedPrefix(t *testing.T) {
	t.Parallel()
	key := func(model string, stable Stable, messages ...string) string {
		c := &Chat{Stable: stable}
		for _, m := range messages {
			c.Messages = append(c.Messages, Message{"user", m})
		}
		return promptCacheKey(model, c)
	}
	base := key("m", Stable{1, 3}, "system", "abcdef")
	if len(base) != 32 {
		t.Errorf("key %q", base)
	}
	for name, same := range map[string]string{
		"the rest differs":           key("m", Stable{1, 3}, "system", "abcxyz"),
		"there is more behind":       key("m", Stable{1, 3}, "system", "abcdef", "more"),
		"the next message is longer": key("m", Stable{1, 3}, "system", "abc"),
	} {
		if same != base {
			t.Errorf("%s: the key changes", name)
		}
	}
	for name, other := range map[string]string{
		"model":        key("n", Stable{1, 3}, "system", "abcdef"),
		"message":      key("m", Stable{1, 3}, "System", "abcdef"),
		"prefix":       key("m", Stable{1, 3}, "system", "abd"),
		"length":       key("m", Stable{1, 2}, "system", "abcdef"),
		"boundary":     key("m", Stable{1, 3}, "systema", "bcdef"),
		"all messages": key("m", Stable{2, 0}, "system", "abcdef"),
	} {
		if other == base || other == "" {
			t.Errorf("another %s: key %q", name, other)
		}
	}
	if k := key("m", Stable{}, "a") + key("m", Stable{-1, -1}, "a"); k != "" {
		t.Errorf("nothing is known to be shared, yet the key is %q", k)
	}
	if a, b := key("m", Stable{9, 9}, "a", "b"), key("m", Stable{2, 0}, "a", "b"); a != b || a == "" {
		t.Errorf("stable parts past the end: %q, %q", a, b)
	}
}

func TestInstructionsLeaveTheChatAlone(t *testing.T) {
	t.Parallel()
	c := &Chat{Messages: []Message{{"system", "A"}, {"user", "B"}}, JSON: true}
	for range 2 {
		if _, err := NewStep("deepseek", "deepseek-flash", c, nil); err != nil || c.Messages[0].Content != "A" || len(c.Messages) != 2 {
			t.Fatalf("chat %+v, err %v", c, err)
		}
	}
}

func TestMicroUSD(t *testing.T) {
	t.Parallel()
	for raw, want := range map[string]int64{
		"0.000001": 1, "0.0000011": 2, "0.000014": 14, "1.1": 1_100_000, "2e-05": 20, `"0.5"`: 500_000, "0.0000001": 1, "999999": 999_999_000_000,
		"0": 0, "-1": 0, "1e6": 0, "1e400": 0, "null": 0, "": 0, `"free"`: 0, "{}": 0, "NaN": 0, "Inf": 0,
	} {
		if got := microUSD(json.RawMessage(raw)); got != want {
			t.Errorf("%s USD are %d, want %d", raw, got, want)
		}
	}
	for micro := range int64(5000) { // what a float64 adds is never rounded up to a micro-dollar more
		raw := fmt.Sprintf("0.%06d", micro)
		if got := microUSD(json.RawMessage(raw)); got != micro {
			t.Fatalf("%s USD are %d", raw, got)
		}
	}
	for n, want := range map[count]int64{0: 0, 1: 1, 10_000: 1, 10_001: 2, math.MaxInt32: 214_749} {
		if got := ticks(n); got != want {
			t.Errorf("%d ticks are %d", n, got)
		}
	}
}

func TestHugeAnswers(t *testing.T) {
	t.Parallel()
	body := answerOf(16 << 20)
	r, err := openAI{}.Decode(http.StatusOK, nil, body)
	if err != nil || len(r.Text) < 15<<20 || !strings.HasSuffix(r.Text, "\"mostly\" in autumn.\n") {
		t.Errorf("%d bytes, err %v", len(r.Text), err)
	}
	const parts = 500_000 // adding them one to another would copy 125 GB
	body = []byte(`{"object":"response","status":"completed","output":[{"type":"message","content":[` +
		strings.Repeat(`{"type":"output_text","text":"x"},`, parts) + `{"type":"output_text","text":"."}]}]}`)
	if r, err := (openAI{}).Decode(http.StatusOK, nil, body); err != nil || len(r.Text) != parts+1 {
		t.Errorf("%d bytes, err %v", len(r.Text), err)
	}
}

// readSlowly is readOpenAI on package json, for the fields of a chat.
func readSlowly(body []byte) (a openAIAnswer, ok bool) {
	object := func(raw json.RawMessage) (m map[string]json.RawMessage) {
		_ = json.Unmarshal(raw, &m)
		return m
	}
	read := func(raw json.RawMessage) (s string) {
		_ = json.Unmarshal(raw, &s)
		return strings.ReplaceAll(s, "\x00", "\uFFFD")
	}
	if !json.Valid(body) {
		return a, false
	}
	top := object(body)
	a.object, a.model, a.status, a.err = read(top["object"]), read(top["model"]), read(top["status"]), top["error"]
	a.why = read(object(top["incomplete_details"])["reason"])
	var choices []json.RawMessage
	_ = json.Unmarshal(top["choices"], &choices)
	if a.choices = len(choices); a.choices > 0 {
		choice := object(choices[0])
		message := object(choice["message"])
		a.choice.content, a.choice.refusal, a.choice.finish = read(message["content"]), read(message["refusal"]), read(choice["finish_reason"])
	}
	if top["usage"] != nil && kindOf(top["usage"]) == '{' {
		a.usage = &openAIUsage{}
		usage := object(top["usage"])
		counted := func(key string) (n count) {
			if raw := usage[key]; raw != nil {
				_ = n.UnmarshalJSON(raw)
			}
			return n
		}
		a.usage.MistralCached, a.usage.DeepSeekHit = counted("num_cached_tokens"), counted("prompt_cache_hit_tokens")
	}
	return a, true
}

// FuzzReadOpenAI compares the reader with package json.
func FuzzReadOpenAI(f *testing.F) {
	f.Add(answerOf(100))
	for _, s := range cursorSeeds {
		f.Add([]byte(s))
		f.Add([]byte(`{"model":"m","choices":[{"message":{"content":` + s + `},"finish_reason":` + s + `}],"usage":` + s + `}`))
	}
	f.Add([]byte(`{"choices":[{"message":{"content":"a"}}],"choices":[{"message":{"refusal":"b"}},{}],"usage":{"num_cached_tokens":5},"usage":{}}`))
	f.Add([]byte(`{"choices":[1],"choices":{},"usage":null,"mod\u0065l":"m","error":{"a":[]},"usage":{"num_cached_tokens":"1e2"}}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		got, ok := readOpenAI(body)
		want, valid := readSlowly(body)
		if ok != valid {
			t.Fatalf("%q: read %v, package json says %v", body, ok, valid)
		}
		if !ok {
			return
		}
		same := got.object == want.object && got.model == want.model && got.choices == want.choices && string(got.err) == string(want.err) &&
			got.status == want.status && got.why == want.why && got.choice.refusal == want.choice.refusal && got.choice.finish == want.choice.finish &&
			(got.usage == nil) == (want.usage == nil)
		if want.choice.content != "" || kindOf(json.RawMessage(got.choice.content)) == 0 {
			same = same && got.choice.content == want.choice.content
		}
		if same && got.usage != nil {
			same = got.usage.MistralCached == want.usage.MistralCached && got.usage.DeepSeekHit == want.usage.DeepSeekHit
		}
		if !same {
			t.Errorf("%q:\ngot  %+v %+v\nwant %+v %+v", body, got, got.usage, want, want.usage)
		}
	})
}

// answerOf is a chat completion with a text of about so many bytes, a tenth of it lines.
func answerOf(bytes int) []byte {
	const line = `The harbour handles grain and timber; \"mostly\" in autumn.\n`
	text := strings.Repeat(line, bytes/len(line)+1)
	return []byte(`{"id":"chatcmpl-B9MBs8CjcvOU2jLn4n570S5qMJKcT","object":"chat.completion","created":1770000000,"model":"gpt-4.1-mini-2025-04-14",` +
		`"choices":[{"index":0,"message":{"role":"assistant","content":"` + text + `","refusal":null,"annotations":[]},` +
		`"logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":100,"completion_tokens":20,"total_tokens":120,` +
		`"prompt_tokens_details":{"cached_tokens":64,"audio_tokens":0},"completion_tokens_details":{"reasoning_tokens":0,"audio_tokens":0,` +
		`"accepted_prediction_tokens":0,"rejected_prediction_tokens":0}},"service_tier":"default","system_fingerprint":"fp_44709d6fcb"}`)
}

// BenchmarkDecode reads answers of OpenAI's; 1 kB is the usual one of a batch.
func BenchmarkDecode(b *testing.B) {
	p, _ := Lookup("openai")
	for _, size := range []struct {
		name  string
		bytes int
	}{{"1kB", 420}, {"100kB", 100_000}, {"10MB", 10_000_000}} {
		b.Run(size.name, func(b *testing.B) {
			body := answerOf(size.bytes)
			b.SetBytes(int64(len(body)))
			b.ReportAllocs()
			for b.Loop() {
				if r, err := p.Decode(http.StatusOK, nil, body); err != nil || r.Text == "" {
					b.Fatal(err)
				}
			}
		})
	}
}
