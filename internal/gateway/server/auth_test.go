package server

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"batchwright/internal/store"
)

// token makes a token of an account.
func (l *lab) token(account string, run bool) string {
	l.t.Helper()
	token, hash := newToken()
	if _, err := l.db.CreateGatewayToken(context.Background(), store.GatewayToken{Account: account, Name: "t", Run: run, Read: true}, hash); err != nil {
		l.t.Fatal(err)
	}
	return token
}

func (l *lab) key(provider, alias, secret string) {
	l.t.Helper()
	k := store.ProviderKey{Account: "acc", Gateway: "gw", Provider: provider, Alias: alias, Sealed: l.server.o.Box.Seal(secret, "acc", "gw", provider, alias)}
	if _, err := l.db.SaveProviderKey(context.Background(), k); err != nil {
		l.t.Fatal(err)
	}
	l.server.directory.changed("acc", "gw")
}

func TestAuthenticationIsCloudflares(t *testing.T) {
	t.Parallel()
	l := newLab(t, map[string]any{"authentication": true})
	good := l.token("acc", true)
	for _, r := range []struct {
		name    string
		headers []string
		status  int
	}{
		{"none", nil, 401},
		{"wrong", []string{"Cf-Aig-Authorization", "Bearer nonsense"}, 401},
		{"empty", []string{"Cf-Aig-Authorization", "Bearer"}, 401},
		{"undefined", []string{"Cf-Aig-Authorization", "Bearer undefined"}, 401},
		{"another account's", []string{"Cf-Aig-Authorization", "Bearer " + l.token("other", true)}, 401},
		{"may not run", []string{"Cf-Aig-Authorization", "Bearer " + l.token("acc", false)}, 401},
		{"good", []string{"Cf-Aig-Authorization", "Bearer " + good}, 200},
		{"the administrator's", []string{"Cf-Aig-Authorization", "Bearer " + admin}, 200},
	} {
		got := l.post("/openai/chat/completions", chatBody, r.headers...)
		if got.status != r.status {
			t.Errorf("%s: %d", r.name, got.status)
		}
		if r.status == 401 && got.code() != 2009 {
			t.Errorf("%s: %s", r.name, got.body)
		}
	}
	if n := len(l.requests()); n != 2 {
		t.Errorf("%d requests reached the provider", n)
	}
	for _, s := range l.requests() {
		for _, v := range s.header {
			if strings.Contains(strings.Join(v, ""), good) {
				t.Error("the gateway's token went upstream")
			}
		}
	}
	l.gateway("gw", map[string]any{"authentication": false})
	for _, headers := range [][]string{nil, {"Cf-Aig-Authorization", "Bearer nonsense"}} {
		if got := l.post("/openai/chat/completions", chatBody, headers...); got.status != 200 {
			t.Errorf("authentication off, %v: %d", headers, got.status)
		}
	}
}

func TestTokenInTheProvidersSlotIsDropped(t *testing.T) {
	t.Parallel()
	l := newLab(t, map[string]any{"authentication": true})
	token := l.token("acc", true)
	for slug, slot := range map[string]string{"openai": "Authorization", "anthropic": "X-Api-Key", "google-ai-studio": "X-Goog-Api-Key", "azure-openai": "Api-Key"} {
		l.key(slug, "default", "stored-"+slug)
		value := token
		if slot == "Authorization" {
			value = "Bearer " + token
		}
		got := l.do(http.MethodPost, l.url+"/"+slug+"/a/b/c", `{}`, "Content-Type", "application/json", slot, value)
		want := map[bool]string{true: "Bearer stored-" + slug, false: "stored-" + slug}[slot == "Authorization"]
		if got.status != 200 || l.last().header.Get(slot) != want {
			t.Errorf("%s: %d, provider got %s: %s", slug, got.status, slot, l.last().header.Get(slot))
		}
		both := l.do(http.MethodPost, l.url+"/"+slug+"/a/b/c", `{}`, "Content-Type", "application/json", slot, value, "Cf-Aig-Authorization", "Bearer "+token)
		if both.status != 200 || l.last().header.Get(slot) != want {
			t.Errorf("%s, token in both: %d, provider got %q", slug, both.status, l.last().header.Get(slot))
		}
	}
}

func TestOrderOfCredentials(t *testing.T) {
	t.Parallel()
	l := newLab(t, nil, func(o *Options) { o.Keys = map[string]string{"openai": "operators", "groq": "operators"} })
	l.key("openai", "default", "stored-default")
	l.key("openai", "prod", "stored-prod")
	send := func(slug string, headers ...string) reply {
		return l.do(http.MethodPost, l.url+"/"+slug+"/chat/completions", chatBody, append([]string{"Content-Type", "application/json"}, headers...)...)
	}
	for _, r := range []struct {
		slug    string
		headers []string
		want    string
	}{
		{"openai", []string{"Authorization", "Bearer callers"}, "Bearer callers"},
		{"openai", nil, "Bearer stored-default"},
		{"openai", []string{"Authorization", "Bearer "}, "Bearer stored-default"},
		{"openai", []string{"Cf-Aig-Byok-Alias", "prod"}, "Bearer stored-prod"},
		{"groq", nil, "Bearer operators"},
	} {
		if got := send(r.slug, r.headers...); got.status != 200 || l.last().header.Get("Authorization") != r.want {
			t.Errorf("%s %v: %d, provider got %q", r.slug, r.headers, got.status, l.last().header.Get("Authorization"))
		}
	}
	for _, headers := range [][]string{nil, {"Cf-Aig-No-Wholesale", "true"}, {"Cf-Aig-Byok-Alias", "prod"}} {
		if got := send("mistral", headers...); got.status != 400 || got.code() != 2001 || !strings.Contains(got.body, "mistral") {
			t.Errorf("no credential, %v: %d %s", headers, got.status, got.body)
		}
	}
	if got := send("openai", "Cf-Aig-Byok-Alias", "gone"); got.status != 400 || !strings.Contains(got.body, "gone") {
		t.Errorf("unknown alias: %d %s", got.status, got.body)
	}
}

func TestDefaultGatewayMakesItself(t *testing.T) {
	t.Parallel()
	l := newLab(t, nil)
	base := strings.TrimSuffix(l.url, "/acc/gw")
	token := l.token("fresh", true)
	send := func(path string, headers ...string) reply {
		return l.do(http.MethodPost, base+path+"/openai/chat/completions", chatBody, append([]string{"Authorization", "Bearer k-provider"}, headers...)...)
	}
	if got := send("/fresh/default"); got.status != 401 || got.code() != 2009 {
		t.Errorf("without a token: %d %s", got.status, got.body)
	}
	if got := send("/fresh/default", "Cf-Aig-Authorization", "Bearer "+token); got.status != 200 {
		t.Errorf("with a token: %d %s", got.status, got.body)
	}
	g, err := l.db.Gateway(context.Background(), "fresh", "default")
	var s Settings
	if err != nil || json.Unmarshal(g.Settings, &s) != nil || !s.Authentication || !s.CollectLogs {
		t.Errorf("made %s, %v", g.Settings, err)
	}
	for _, path := range []string{"/fresh/other", "/acc/" + strings.Repeat("x", 65), "/acc/a%2Fb", "/acc/gw%00"} {
		if got := send(path, "Cf-Aig-Authorization", "Bearer "+token); got.status != 400 || got.code() != 2001 {
			t.Errorf("%s: %d %s", path, got.status, got.body)
		}
	}
}

func TestEnvelopeHasNineKeys(t *testing.T) {
	t.Parallel()
	l := newLab(t, map[string]any{"authentication": true})
	got := l.post("/openai/x", `{}`)
	var m map[string]any
	if err := json.Unmarshal([]byte(got.body), &m); err != nil {
		t.Fatal(err)
	}
	if len(m) != 9 || m["success"] != false || m["name"] != "AiGatewayError" || m["httpCode"] != 401.0 || m["internalCode"] != 2009.0 || m["errors"] != nil {
		t.Errorf("envelope %s", got.body)
	}
	if got.header.Get("Cf-Aig-Log-Id") == "" || got.header.Get("Content-Type") != "application/json" {
		t.Errorf("headers %v", got.header)
	}
}
