package server

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"testing"
)

// TestWhatIsManagedServesAtOnce sets a gateway up over the management API, and sends through it without waiting for anything.
func TestWhatIsManagedServesAtOnce(t *testing.T) {
	t.Parallel()
	l := newLab(t, nil)
	root := strings.TrimSuffix(l.url, "/v1/acc/gw")
	manage := func(method, path, body string) said {
		t.Helper()
		r := l.do(method, root+"/client/v4/accounts/acc/ai-gateway"+path, body, "Authorization", "Bearer "+admin)
		a := said{status: r.status, raw: r.body}
		if err := json.Unmarshal([]byte(r.body), &a); err != nil || r.status != http.StatusOK {
			t.Fatalf("%s %s: %d %s", method, path, r.status, r.body)
		}
		return a
	}
	manage("POST", "/gateways", strings.Replace(plainGateway, "gw", "team", 1))
	token := into[struct{ ID, Token string }](t, manage("POST", "/tokens", `{"name":"caller","permissions":["run"]}`).Result)
	ask := func(model string) reply {
		t.Helper()
		return l.do("POST", root+"/v1/acc/team/compat/chat/completions", `{"model":"`+model+`","messages":[{"role":"user","content":"hi"}]}`,
			"Cf-Aig-Authorization", "Bearer "+token.Token, "Cf-Aig-Event-Id", "row-1")
	}
	if r := ask("openai/gpt-4o-mini"); r.status != http.StatusBadRequest {
		t.Errorf("without a key: %d %s", r.status, r.body)
	}
	for _, secret := range []string{"sk-first-0123456789abcdef", "sk-second-0123456789abcdef"} {
		manage("POST", "/gateways/team/provider_configs", `{"provider_slug":"openai","alias":"default","default_config":true,"secret":"`+secret+`"}`)
		if r := ask("openai/gpt-4o-mini"); r.status != http.StatusOK || l.last().header.Get("Authorization") != "Bearer "+secret {
			t.Errorf("with a key: %d %s", r.status, r.body)
		}
	}
	elements := `[{"id":"s","type":"start","outputs":{"next":{"elementId":"a"}}},` + strings.Replace(model("a", "e"), `"model":"a"`, `"model":"gpt-4.1"`, 1) + `,{"id":"e","type":"end"}]`
	route := into[routeResult](t, manage("POST", "/gateways/team/routes", `{"name":"main","elements":`+elements+`}`).Result)
	r := ask("dynamic/main")
	if r.status != http.StatusOK || !strings.Contains(l.last().body, `"gpt-4.1"`) || r.header.Get("Cf-Aig-Model") != "gpt-4.1" {
		t.Errorf("route: %d %s, the provider got %s", r.status, r.body, l.last().body)
	}
	version := into[versionDetail](t, manage("POST", "/gateways/team/routes/"+route.ID+"/versions", `{"comment":"","elements":`+strings.Replace(elements, "gpt-4.1", "gpt-5", 1)+`}`).Result)
	if ask("dynamic/main"); !strings.Contains(l.last().body, `"gpt-4.1"`) {
		t.Error("a version served before it was deployed")
	}
	manage("POST", "/gateways/team/routes/"+route.ID+"/deployments", `{"version_id":"`+version.VersionID+`","comment":""}`)
	if ask("dynamic/main"); !strings.Contains(l.last().body, `"gpt-5"`) {
		t.Error("a deployed version doesn't serve")
	}
	manage("DELETE", "/tokens/"+token.ID, "")
	if r := ask("openai/gpt-4o-mini"); r.status != http.StatusUnauthorized {
		t.Errorf("revoked token: %d %s", r.status, r.body)
	}
	manage("DELETE", "/gateways/team", "")
	if r := ask("openai/gpt-4o-mini"); r.status != http.StatusBadRequest || r.code() != aigNoGateway {
		t.Errorf("deleted gateway: %d %s", r.status, r.body)
	}
}

// TestManagedLogTellsWhatWasServed reads over the management API what the data path wrote.
func TestManagedLogTellsWhatWasServed(t *testing.T) {
	t.Parallel()
	l := newLab(t, nil)
	root := strings.TrimSuffix(l.url, "/v1/acc/gw") + "/client/v4/accounts/acc/ai-gateway/gateways/gw/logs"
	sent := l.do("POST", l.url+"/compat/chat/completions", `{"model":"openai/gpt-4o-mini","messages":[{"role":"user","content":"hi"}]}`, "Authorization", "Bearer sk-provider-key",
		"Cf-Aig-Event-Id", "row-9", "Cf-Aig-Metadata", `{"team":"blue"}`)
	l.logged(l.post("/openai/chat/completions", chatBody)) // which none of the filters finds
	id := l.logged(sent).ID.String()
	read := func(path string) reply {
		t.Helper()
		r := l.do("GET", root+path, "", "Authorization", "Bearer "+admin)
		if r.status != http.StatusOK {
			t.Fatalf("%s: %d %s", path, r.status, r.body)
		}
		return r
	}
	for _, filter := range []string{`{"key":"event_id","operator":"eq","value":["row-9"]}`, `{"key":"compatibilityMode","operator":"eq","value":[true]}`,
		`{"key":"metadata.value","operator":"eq","value":["blue"]}`} {
		var list struct{ Result []logResult }
		if err := json.Unmarshal([]byte(read("?filters="+url.QueryEscape("["+filter+"]")).body), &list); err != nil || len(list.Result) != 1 {
			t.Fatalf("%s: %d rows, %v", filter, len(list.Result), err)
		}
		row := list.Result[0]
		if row.ID != id || row.Cost == nil || *row.Cost != (100*150+10*600)/1e9 || row.TokensIn != 100 || row.StatusCode != 200 || row.Metadata != `{"team": "blue"}` {
			t.Errorf("%s: row %+v", filter, row)
		}
	}
	if got := read("/" + id + "/response"); got.body != chatAnswer {
		t.Errorf("answer %s", got.body)
	}
	if got := read("/" + id + "/request"); !strings.Contains(got.body, `"content":"hi"`) || strings.Contains(got.body, "sk-provider-key") {
		t.Errorf("request %s", got.body)
	}
}
