package gateway

import (
	"testing"
)

func TestJoin(t *testing.T) {
	t.Parallel()
	tests := []struct{ base, endpoint, want string }{
		{"https://api.openai.com/v1", "chat/completions", "https://api.openai.com/v1/chat/completions"},
		{"https://api.openai.com/v1/", "/chat/completions", "https://api.openai.com/v1/chat/completions"},
		{"https://api.openai.com/v1", "v1/chat/completions", "https://api.openai.com/v1/chat/completions"},
		{"https://api.openai.com", "v1/chat/completions", "https://api.openai.com/v1/chat/completions"},
		{"https://host/openai/v1", "v1/v1/x", "https://host/openai/v1/v1/x"},
		{"https://host/v1beta", "v1beta/models/m:generateContent", "https://host/v1beta/models/m:generateContent"},
		{"https://host/v1", "v1beta/models", "https://host/v1/v1beta/models"},
		{"https://host/models", "models/x", "https://host/models/models/x"},
		{"https://host/run", "@cf/meta/llama-3.1-8b", "https://host/run/@cf/meta/llama-3.1-8b"},
		{"https://host", "a/b?api-version=1&x=2", "https://host/a/b?api-version=1&x=2"},
		{"https://host/a?k=1", "b?x=2", "https://host/a/b?k=1&x=2"},
		{"https://host/a%2Fb", "c%2Fd", "https://host/a%2Fb/c%2Fd"},
		{"https://host/v1", "//evil.com/x", "https://host/v1/evil.com/x"},
		{"https://host/v1", "https://evil.com/x", "https://host/v1/https://evil.com/x"},
		{"https://host/v1", "@evil.com", "https://host/v1/@evil.com"},
		{"https://host/v1", "", "https://host/v1/"},
		{"https://host/v1", "../admin", ""},
		{"https://host/v1", "a/%2e%2e/b", ""},
		{"https://host/v1", "a/./b", ""},
		{"https://host/v1", "a#b", ""},
		{"https://host/v1", "a%zz", ""},
		{"https://host/v1", "a\nb", ""},
	}
	for _, tt := range tests {
		base, err := parseBase(tt.base)
		if err != nil {
			t.Fatal(err)
		}
		u, fail := join(base, tt.endpoint)
		got := ""
		if fail == nil {
			got = u.String()
		}
		if got != tt.want {
			t.Errorf("join(%q, %q) = %q, want %q (%v)", tt.base, tt.endpoint, got, tt.want, fail)
		}
	}
}

func FuzzJoin(f *testing.F) {
	f.Add("chat/completions")
	f.Add("../x?y#z")
	f.Add("%2e%2e/%2F//@h:1/x")
	base, err := parseBase("https://host/v1")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, endpoint string) {
		u, fail := join(base, endpoint)
		if fail != nil {
			return
		}
		if u.Host != "host" || u.Scheme != "https" || u.User != nil || u.Fragment != "" || len(u.Path) < 4 || u.Path[:4] != "/v1/" {
			t.Errorf("join(%q) left the base: %s", endpoint, u)
		}
	})
}
