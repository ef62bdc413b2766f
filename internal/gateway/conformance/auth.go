package conformance

import (
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"batchwright/internal/gateway"
)

func authCases() []Case {
	noGate := map[Kind]string{Engine: "the engine asks nobody for a token"}
	return []Case{
		{Name: "without a token the gateway refuses", Not: onlyOnWire, Run: func(t *testing.T, p *Play) { tokenRefused(t, p, nil) }},
		{Name: "a wrong token is refused", Not: onlyOnWire, Run: func(t *testing.T, p *Play) { tokenRefused(t, p, []string{"Bearer wrong-token"}) }},
		{Name: "a token in the provider's place opens the gateway and goes no further", Not: onlyOnWire, Run: tokenInSlot},
		{Name: "an unknown gateway is refused", Not: onlyOnWire, Run: unknownGateway},
		{Name: "the gateway's failures have the nine keys of Cloudflare's envelope", Not: onlyOnWire, Run: envelopeKeys},
		{Name: "the client tells a refused token from a refused key", Not: map[Kind]string{Engine: noGate[Engine], Wire: "the wire's codes have cases of their own"}, Run: clientTellsToken},
		{Name: "a stored key serves a step that brings none", Not: noGate, Run: storedKey},
		{Name: "a step without any key fails and the next is asked", Run: noKey},
		{Name: "keys that a provider echoes are in no error and no log", Run: func(t *testing.T, p *Play) { echoed(t, p, 401) }},
		{Name: "keys that a provider echoes in a good answer are in no log", Run: func(t *testing.T, p *Play) { echoed(t, p, 200) }},
		{Name: "prompts and answers are in no log", Run: promptsUnlogged},
		{Name: "a request is a row of the gateway's log", Not: noGate, Run: logRow},
		{Name: "a request that says so is no row of the gateway's log", Not: noGate, Run: noLogRow},
	}
}

func tokenRefused(t *testing.T, p *Play, token []string) {
	t.Helper()
	p.open(t, Setup{})
	p.Backend.Play(First, Text("never"))
	p.post(t.Context(), t, http.Header{"Cf-Aig-Authorization": token}, "["+oneStep("")+"]").refusal(t, http.StatusUnauthorized, 2009)
	p.asked(t)
}

func tokenInSlot(t *testing.T, p *Play) {
	p.open(t, Setup{Keys: true})
	p.Backend.Play(First, Text("fine"))
	h := http.Header{"Cf-Aig-Authorization": nil, "Authorization": {"Bearer " + p.Subject.Token}}
	p.do(t.Context(), t, http.MethodPost, p.Subject.URL+"/"+First+"/chat/completions", h, `{"model":"m-1","messages":[]}`).answered(t, 0, "fine")
	if got := p.hit(t).Header.Get("Authorization"); got != "Bearer "+Key(First) {
		t.Errorf("sent %q", got)
	}
}

func unknownGateway(t *testing.T, p *Play) {
	p.open(t, Setup{})
	p.Backend.Play(First, Text("never"))
	p.do(t.Context(), t, http.MethodPost, p.Subject.URL+"-that-nobody-made", nil, "["+oneStep("")+"]").refusal(t, http.StatusBadRequest, 2001)
	p.asked(t)
}

func envelopeKeys(t *testing.T, p *Play) {
	p.open(t, Setup{})
	r := p.post(t.Context(), t, nil, "nonsense")
	var e struct {
		Success      *bool
		Error        []struct{ Code int }
		HTTPCode     int `json:"httpCode"`
		InternalCode int `json:"internalCode"`
	}
	var keys map[string]json.RawMessage
	if json.Unmarshal([]byte(r.Body), &e) != nil || json.Unmarshal([]byte(r.Body), &keys) != nil {
		t.Fatalf("got %v", r)
	}
	want := []string{"description", "error", "httpCode", "internalCode", "message", "messages", "name", "result", "success"}
	if got := slices.Sorted(maps.Keys(keys)); !slices.Equal(got, want) {
		t.Errorf("keys %v", got)
	}
	if e.Success == nil || *e.Success || len(e.Error) != 1 || e.Error[0].Code != e.InternalCode || e.HTTPCode != r.Status || string(keys["name"]) != `"AiGatewayError"` {
		t.Errorf("envelope %s", r.Body)
	}
	for _, name := range []string{"Cf-Aig-Log-Id", "Cf-Aig-Event-Id"} {
		if r.Header.Get(name) == "" {
			t.Errorf("a failure without %s", name)
		}
	}
}

func clientTellsToken(t *testing.T, p *Play) {
	p.open(t, Setup{WrongToken: true})
	p.Backend.Play(First, Text("never"))
	p.ask(t, chain(t, First)).failed(t, p, gateway.Auth, "2009", 0)
	p.asked(t)
	p.open(t, Setup{})
	p.Backend.Play(First, Fail(401, "invalid_api_key"))
	p.ask(t, chainOf(t, once(), First)).failed(t, p, gateway.Auth, "invalid_api_key", 0)
}

func storedKey(t *testing.T, p *Play) {
	p.open(t, Setup{Keys: true})
	p.Backend.Play(First, Text("fine"))
	if p.Kind == Client {
		p.ask(t, chain(t, First)).answered(t, 0, "fine")
	} else {
		body := `[{"provider":"` + First + `","endpoint":"chat/completions","headers":{},"query":{"model":"m-1","messages":[]}}]`
		p.post(t.Context(), t, nil, body).answered(t, 0, "fine")
	}
	if got := p.hit(t).Header.Get("Authorization"); got != "Bearer "+Key(First) {
		t.Errorf("sent %q", got)
	}
}

func noKey(t *testing.T, p *Play) {
	p.open(t, Setup{NoKey: First})
	p.Backend.Play(First, Text("never"))
	p.Backend.Play(Second, Text("fine"))
	p.ask(t, chainOf(t, once(), First, Second)).answered(t, 1, "fine")
	p.asked(t, Second)
}

// echoed shows that a key which comes back from a provider ends there. Only the wire's caller, who sent it, sees it.
func echoed(t *testing.T, p *Play, status int) {
	t.Helper()
	p.open(t, Setup{})
	p.Backend.Play(First, EchoSecrets(status))
	p.ask(t, chainOf(t, once(), First))
	if p.Kind == Engine {
		return
	}
	row := p.Subject.Rows(t, 1)[0]
	for _, kept := range []string{row.Request, row.Response, row.Model, row.EventID} {
		if strings.Contains(kept, Key(First)) {
			t.Errorf("the log keeps the key: %s", around(kept, Key(First)))
		}
	}
}

func promptsUnlogged(t *testing.T, p *Play) {
	p.open(t, Setup{})
	p.Backend.Play(First, Fail(400, ""), Text(Echo))
	p.Backend.Play(Second, Body(200, html), Text(Echo))
	p.ask(t, chain(t, First, Second))
	p.ask(t, chain(t, First))
	p.ask(t, chain(t, Refused, Second))
}

func logRow(t *testing.T, p *Play) {
	p.open(t, Setup{})
	p.Backend.Play(First, Fail(401, ""))
	p.Backend.Play(Second, Text("fine"))
	req := chainOf(t, once(), First, Second)
	req.Options.EventID = "ev-7"
	r := p.ask(t, req)
	rows := p.Subject.Rows(t, 1)
	want := Row{ID: r.LogID, EventID: "ev-7", Provider: Second, Model: rows[0].Model, Status: 200, Success: true, Step: 1, TokensIn: 10, TokensOut: 2,
		Request: rows[0].Request, Response: Chat("fine", "stop")}
	if rows[0] != want || !strings.Contains(rows[0].Request, "m-1") {
		t.Errorf("row %+v, want %+v", rows[0], want)
	}
}

func noLogRow(t *testing.T, p *Play) {
	p.open(t, Setup{})
	p.Backend.Play(First, Text("fine"))
	req := chain(t, First)
	req.Options.NoCollect = true
	silent := p.ask(t, req)
	req.Options.NoCollect = false
	told := p.ask(t, req)
	if rows := p.Subject.Rows(t, 1); len(rows) != 1 || rows[0].ID != told.LogID {
		t.Errorf("rows %+v; the silent one is %s", rows, silent.LogID)
	}
}
