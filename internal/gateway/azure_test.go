package gateway

import (
	"net/url"
	"strings"
	"testing"
)

func TestAzureAddress(t *testing.T) {
	t.Parallel()
	const chat = "/chat/completions?api-version=2024-12-01-preview"
	tests := []struct{ base, endpoint, want string }{
		{"", "res/gpt-4o" + chat, "https://res.openai.azure.com/openai/deployments/gpt-4o" + chat},
		{"", "/res/gpt-4o" + chat, "https://res.openai.azure.com/openai/deployments/gpt-4o" + chat},
		{"", "res/gpt-4o/embeddings", "https://res.openai.azure.com/openai/deployments/gpt-4o/embeddings"},
		{"", "res-2/a_b.C-1" + chat, "https://res-2.openai.azure.com/openai/deployments/a_b.C-1" + chat},
		{"https://openai.azure.com:8443/", "res/d" + chat, "https://res.openai.azure.com:8443/openai/deployments/d" + chat},
		{"https://res.openai.azure.com", "res/d" + chat, "https://res.openai.azure.com/openai/deployments/d" + chat},
		{"https://res.openai.azure.com/openai", "res/d" + chat, "https://res.openai.azure.com/openai/deployments/d" + chat},
		{"https://res.openai.azure.com/openai/deployments/", "res/d" + chat, "https://res.openai.azure.com/openai/deployments/d" + chat},
		{"http://127.0.0.1:9/proxy", "res/d" + chat, "http://127.0.0.1:9/proxy/openai/deployments/d" + chat},
		{"http://127.0.0.1:9/proxy/deployments", "res/d" + chat, "http://127.0.0.1:9/proxy/deployments/openai/deployments/d" + chat},
		{"", "res/d", ""}, {"", "res", ""}, {"", "", ""}, {"", "res/d/", ""}, {"", "chat/completions", ""},
		{"", "Res/d" + chat, ""}, {"", "evil.com#/d" + chat, ""}, {"", "evil.com/d" + chat, ""}, {"", "a:b@evil/d" + chat, ""}, {"", "-res/d" + chat, ""},
		{"", "res-/d" + chat, ""}, {"", "re%2Es/d" + chat, ""}, {"", strings.Repeat("r", 64) + "/d" + chat, ""},
		{"", "res/.." + chat, ""}, {"", "res/d/../x", ""}, {"", "res/%2e%2e" + chat, ""}, {"", "res/d?x=" + chat, ""}, {"", "res/a b" + chat, ""},
	}
	for _, tt := range tests {
		base := tt.base
		if base == "" {
			base = "https://" + azureHost
		}
		b, err := ParseBase(base)
		if err != nil {
			t.Fatal(err)
		}
		before := *b
		u, err := addressAt("azure-openai", b, tt.endpoint)
		got := ""
		if err == nil {
			got = u.String()
		}
		if got != tt.want || err != nil && ClassOf(err) != InvalidRequest || *b != before {
			t.Errorf("%s at %q is %q, want %q (%v)", tt.endpoint, tt.base, got, tt.want, err)
		}
	}
}

func TestAzureModels(t *testing.T) {
	t.Parallel()
	hi := &Chat{Messages: []Message{{"user", "hi"}}}
	for model, good := range map[string]bool{
		"res/gpt-4o": true, "my-res-1/My_dep.2": true, "gpt-4o": false, "res/": false, "/dep": false, "res/a/b": false, "Res/dep": false,
		"re.s/dep": false, "res/d p": false, "res/..": false, "res/d?x": false, "res/d#x": false, "res/%2e": false,
	} {
		s, err := NewStep("azure-openai", model, hi, nil)
		if (err == nil) != good {
			t.Errorf("%s: %v", model, err)
		}
		if err != nil && !strings.Contains(err.Error(), "RESOURCE/DEPLOYMENT") {
			t.Errorf("%s: %v doesn't name the form", model, err)
		}
		if err == nil && strings.Contains(string(s.Query), "model") {
			t.Errorf("%s: the body names a model: %s", model, s.Query)
		}
	}
	if n, _ := NativeOf("azure-openai"); n.Header != "Api-Key" || n.Prefix != "" {
		t.Errorf("native %+v", n)
	}
}

func FuzzAzureAddress(f *testing.F) {
	f.Add("res/dep/chat/completions?api-version=1")
	f.Add("evil.com/%2f/x@y:1/..//")
	p, _ := Lookup("azure-openai")
	base := &url.URL{Scheme: "https", Host: azureHost}
	f.Fuzz(func(t *testing.T, endpoint string) {
		u, fail := addressOf(p, base, endpoint)
		if fail != nil {
			return
		}
		resource, ok := strings.CutSuffix(u.Host, "."+azureHost)
		if !ok || !azureResource(resource) || strings.ContainsAny(resource, "./:@") || u.Scheme != "https" || u.User != nil || u.Fragment != "" ||
			!strings.HasPrefix(u.Path, "/openai/deployments/") {
			t.Errorf("%q leads to %s", endpoint, u)
		}
	})
}
