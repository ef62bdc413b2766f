package server

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"batchwright/internal/store"
)

func TestCompatRoutesByPrefix(t *testing.T) {
	t.Parallel()
	l := newLab(t, nil)
	if _, err := l.db.CreateCustomProvider(context.Background(), store.CustomProvider{Account: "acc", Name: "c", Slug: "mine", BaseURL: l.server.o.Upstreams["openai"] + "/custom", Enable: true}); err != nil {
		t.Fatal(err)
	}
	for _, r := range []struct{ model, path, sent string }{
		{"openai/gpt-4o-mini", "/openai/chat/completions", "gpt-4o-mini"},
		{"anthropic/claude-x", "/anthropic/v1/chat/completions", "claude-x"},
		{"google-ai-studio/gemini-2.5-flash", "/google-ai-studio/v1beta/openai/chat/completions", "gemini-2.5-flash"},
		{"cohere/command", "/cohere/compatibility/v1/chat/completions", "command"},
		{"perplexity/sonar", "/perplexity-ai/chat/completions", "sonar"},
		{"workers-ai/@cf/meta/llama", "/workers-ai/v1/chat/completions", "@cf/meta/llama"},
		{"@cf/meta/llama", "/workers-ai/v1/chat/completions", "@cf/meta/llama"},
		{"openrouter/openai/gpt-4o", "/openrouter/v1/chat/completions", "openai/gpt-4o"},
		{`groq\/llama`, "/groq/chat/completions", "llama"},
	} {
		body := `{"stream" : false,"model": "` + r.model + `" ,"tools":[{"x":1.0}],"u":"\u00e9"}`
		got := l.post("/compat/chat/completions", body)
		want := `{"stream" : false,"model": "` + r.sent + `" ,"tools":[{"x":1.0}],"u":"\u00e9"}`
		if got.status != 200 || l.last().path != r.path || l.last().body != want {
			t.Errorf("%s: %d, sent %s to %s", r.model, got.status, l.last().body, l.last().path)
		}
	}
	for model, code := range map[string]int{"gpt-4o": 2019, "": 2019, "openai/": 2019, "nobody/x": 2008, "google-vertex-ai/google/x": 2008, "aws-bedrock/x": 2008,
		"custom-gone/x": 2008, "deepgram/x": 2008} {
		if got := l.post("/compat/chat/completions", `{"model":"`+model+`"}`); got.status != 400 || got.code() != code {
			t.Errorf("%q: %d %s", model, got.status, got.body)
		}
	}
	chain := `[{"provider":"compat","endpoint":"chat/completions","headers":{"Authorization":"Bearer k"},"query":{"model":"groq/llama"}}]`
	if got := l.do(http.MethodPost, l.url, chain); got.status != 200 || l.last().path != "/groq/chat/completions" || l.last().body != `{"model":"llama"}` {
		t.Errorf("compat in a chain: %d, sent %s to %s", got.status, l.last().body, l.last().path)
	}
}

func TestCompatUsesTheBearerOfStoredKeys(t *testing.T) {
	t.Parallel()
	l := newLab(t, nil)
	l.key("anthropic", "default", "sk-ant-stored")
	got := l.do(http.MethodPost, l.url+"/compat/chat/completions", `{"model":"anthropic/claude-x"}`)
	if got.status != 200 || l.last().header.Get("Authorization") != "Bearer sk-ant-stored" || l.last().header.Get("X-Api-Key") != "" {
		t.Errorf("%d, provider got %v", got.status, l.last().header)
	}
	if row := l.logged(got); row.TokensIn != 100 || row.Model != "claude-x" || row.RequestType != "compat" {
		t.Errorf("log %+v", row)
	}
}

func TestModelsAreListed(t *testing.T) {
	t.Parallel()
	l := newLab(t, nil)
	got := l.do(http.MethodGet, l.url+"/compat/models", "")
	var list struct {
		Object string
		Data   []struct {
			ID, Object string
			OwnedBy    string `json:"owned_by"`
		}
	}
	if err := json.Unmarshal([]byte(got.body), &list); err != nil || list.Object != "list" || len(list.Data) < 20 {
		t.Fatalf("%v %s", err, got.body)
	}
	for _, m := range list.Data {
		if m.Object != "model" || !strings.HasPrefix(m.ID, m.OwnedBy+"/") {
			t.Errorf("model %+v", m)
		}
	}
}

func TestCustomProvidersAreReached(t *testing.T) {
	t.Parallel()
	l := newLab(t, nil, func(o *Options) { o.Upstreams["custom-mine"] = o.Upstreams["openai"] + "/custom" })
	for _, p := range []store.CustomProvider{{Slug: "mine", BaseURL: "https://models.example.com/api", Enable: true}, {Slug: "off", BaseURL: "https://x.example.com"},
		{Slug: "plain", BaseURL: "http://169.254.169.254/latest", Enable: true}} {
		p.Account, p.Name = "acc", p.Slug
		if _, err := l.db.CreateCustomProvider(context.Background(), p); err != nil {
			t.Fatal(err)
		}
	}
	l.server.directory.changed("acc", "")
	if got := l.do(http.MethodPost, l.url+"/custom-mine/v1/anything?x=1", `{}`); got.status != 200 || l.last().path != "/openai/custom/v1/anything" {
		t.Errorf("%d %s, path %s", got.status, got.body, l.last().path)
	}
	if got := l.do(http.MethodPost, l.url+"/compat/chat/completions", `{"model":"custom-mine/a/b"}`); got.status != 200 || l.last().path != "/openai/custom/v1/chat/completions" || l.last().body != `{"model":"a/b"}` {
		t.Errorf("%d %s, path %s", got.status, got.body, l.last().path)
	}
	for _, slug := range []string{"custom-off", "custom-plain", "custom-gone"} {
		if got := l.do(http.MethodPost, l.url+"/"+slug+"/x", `{}`); got.status != 400 || got.code() != 2008 {
			t.Errorf("%s: %d %s", slug, got.status, got.body)
		}
	}
}

const fork = `[{"id":"s","type":"start","outputs":{"next":{"elementId":"if"}}},
	{"id":"if","type":"conditional","properties":{"condition":{"metadata.plan":{"$eq":"free"}}},"outputs":{"true":{"elementId":"cheap"},"false":{"elementId":"good"}}},
	{"id":"cheap","type":"model","properties":{"provider":"groq","model":"llama","timeout":5000,"retries":0},"outputs":{"success":{"elementId":"e"},"fallback":{"elementId":"e"}}},
	{"id":"good","type":"model","properties":{"provider":"anthropic","model":"claude","timeout":5000,"retries":1},"outputs":{"success":{"elementId":"e"},"fallback":{"elementId":"cheap"}}},
	{"id":"e","type":"end"}]`

func TestDynamicRouteIsWalked(t *testing.T) {
	t.Parallel()
	l := newLab(t, nil)
	if _, err := l.db.CreateGatewayRoute(context.Background(), "acc", "gw", "fork", json.RawMessage(fork)); err != nil {
		t.Fatal(err)
	}
	l.key("groq", "default", "stored-groq")
	l.key("anthropic", "default", "stored-anthropic")
	ask := func(headers ...string) reply {
		return l.do(http.MethodPost, l.url+"/compat/chat/completions", `{"model":"dynamic/fork","messages":[]}`, append([]string{"Authorization", "Bearer " + admin}, headers...)...)
	}
	got := ask("Cf-Aig-Metadata", `{"plan":"free"}`)
	if got.status != 200 {
		t.Fatalf("%d %s", got.status, got.body)
	}
	if got.status != 200 || got.header.Get("Cf-Aig-Provider") != "groq" || got.header.Get("Cf-Aig-Model") != "llama" || l.last().body != `{"model":"llama","messages":[]}` ||
		l.last().header.Get("Authorization") != "Bearer stored-groq" {
		t.Errorf("free: %d %s %v, sent %+v", got.status, got.body, got.header, l.last())
	}
	l.script(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/anthropic") {
			http.Error(w, "no", http.StatusServiceUnavailable)
			return
		}
		_, _ = w.Write([]byte(chatAnswer))
	})
	before := len(l.requests())
	if got := ask(); got.status != 200 || got.header.Get("Cf-Aig-Provider") != "groq" || got.header.Get("Cf-Aig-Step") != "1" || len(l.requests())-before != 3 {
		t.Errorf("fallback: %d %s %v after %d requests", got.status, got.body, got.header, len(l.requests())-before)
	}
	if got := l.post("/compat/chat/completions", `{"model":"dynamic/fork"}`); got.status != 401 || got.code() != 2009 {
		t.Errorf("without a token: %d %s", got.status, got.body)
	}
	if got := l.do(http.MethodPost, l.url+"/compat/chat/completions", `{"model":"dynamic/gone"}`, "Authorization", "Bearer "+admin); got.status != 400 || got.code() != 2008 {
		t.Errorf("unknown route: %d %s", got.status, got.body)
	}
}
