package conformance

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"batchwright/internal/gateway"
)

func byteCases() []Case {
	cs := []Case{
		{Name: "a query string of an endpoint is kept", Run: func(t *testing.T, p *Play) {
			reaches(t, p, "chat/completions?api-version=2024-10-21&x=a%2Fb", "/v1/chat/completions?api-version=2024-10-21&x=a%2Fb")
		}},
		{Name: "a version that base and endpoint both hold is sent once", Run: func(t *testing.T, p *Play) { reaches(t, p, "v1/chat/completions", "/v1/chat/completions") }},
		{Name: "an escaped slash in an endpoint stays escaped", Run: func(t *testing.T, p *Play) { reaches(t, p, "models/a%2Fb:run", "/v1/models/a%2Fb:run") }},
		{Name: "a slash before an endpoint makes no difference", Run: func(t *testing.T, p *Play) { reaches(t, p, "/chat/completions", "/v1/chat/completions") }},
		{Name: "a step's own headers reach the provider", Run: stepHeaders},
		{Name: "nothing that is the gateway's reaches the provider", Run: gatewayHeadersStay},
		{Name: "hop-by-hop headers of a step stay here", Run: hopHeaders},
		{Name: "an answer's body is told as it came", Run: answerVerbatim},
		{Name: "an answer after an informational one is read", Run: earlyHints},
		{Name: "an answer of another content type is read", Run: otherType},
		{Name: "a provider's headers reach the caller", Run: providerHeaders, Not: map[Kind]string{Engine: noHeaders, Client: noHeaders}},
		{Name: "a provider can't speak in the gateway's name", Run: forgedHeaders},
		{Name: "the event id is echoed", Run: eventID, Not: map[Kind]string{Engine: noHeaders, Client: noHeaders}},
		{Name: "each request has a log id of its own", Run: logIDs, Not: map[Kind]string{Engine: "the engine keeps no log"}},
	}
	for _, b := range []struct{ name, body string }{
		{"blanks and line breaks", "{ \"model\" : \"m-1\" ,\n\t\"messages\" : [ ] }"},
		{"escapes", `{"model":"m-1","messages":[{"role":"user","content":"\u00e9\u2028\/\ud83d\ude00 \u003cb\u003e"}]}`},
		{"numbers in any form", `{"model":"m-1","messages":[],"a":1.50,"b":1e+1,"c":-0,"d":12345678901234567890,"e":0.1000}`},
		{"UTF-8 and what HTML would escape", "{\"model\":\"m-1\",\"messages\":[],\"x\":\"é😀\u2028<>&'\"}"},
		{"keys twice and in any order", `{"messages":[],"z":1,"a":2,"z":3,"model":"m-1"}`},
		{"a byte that is no UTF-8", "{\"model\":\"m-1\",\"messages\":[],\"x\":\"\xff\"}"},
	} {
		cs = append(cs, Case{Name: "a body reaches the provider with " + b.name, Run: func(t *testing.T, p *Play) { bodyVerbatim(t, p, b.body) }})
	}
	return cs
}

const noHeaders = "a Response holds no headers"

func bodyVerbatim(t *testing.T, p *Play, body string) {
	t.Helper()
	p.open(t, Setup{})
	p.Backend.Play(First, Text("fine"))
	req := &gateway.Request{Steps: []gateway.Step{{Provider: First, Endpoint: "chat/completions", Query: json.RawMessage(body), Model: "m-1"}}}
	p.ask(t, req).answered(t, 0, "fine")
	if got := p.hit(t); got.Body != body || got.Method != http.MethodPost {
		t.Errorf("sent %q, want %q", got.Body, body)
	}
}

func reaches(t *testing.T, p *Play, endpoint, want string) {
	t.Helper()
	p.open(t, Setup{})
	p.Backend.Play(First, Text("fine"))
	req := chain(t, First)
	req.Steps[0].Endpoint = endpoint
	p.ask(t, req).answered(t, 0, "fine")
	if got := p.hit(t).URI; got != want {
		t.Errorf("asked %q, want %q", got, want)
	}
}

func stepHeaders(t *testing.T, p *Play) {
	p.open(t, Setup{})
	p.Backend.Play(First, Text("fine"))
	req := chain(t, First)
	req.Steps[0].Headers = map[string]string{"X-Trace": "7", "OpenAI-Organization": "org", "Authorization": "Bearer sk-test-of-the-step-9d"}
	p.ask(t, req).answered(t, 0, "fine")
	h := p.hit(t).Header
	if h.Get("X-Trace") != "7" || h.Get("OpenAI-Organization") != "org" || h.Get("Authorization") != "Bearer sk-test-of-the-step-9d" || h.Get("Content-Type") != "application/json" {
		t.Errorf("sent %v", h)
	}
}

func gatewayHeadersStay(t *testing.T, p *Play) {
	p.open(t, Setup{})
	p.Backend.Play(First, Text("fine"))
	req := chain(t, First)
	req.Steps[0].Headers = map[string]string{"cf-aig-cache-ttl": "60", "cf-skip-cache": "true"}
	req.Options = gateway.Options{EventID: "ev-1", Metadata: gateway.Metadata{"a": "b"}, CacheTTL: time.Minute}
	p.ask(t, req).answered(t, 0, "fine")
	for name, values := range p.hit(t).Header {
		if strings.HasPrefix(name, "Cf-") || p.Subject.Token != "" && strings.Contains(strings.Join(values, " "), p.Subject.Token) {
			t.Errorf("sent %s: %q", name, values)
		}
	}
}

func hopHeaders(t *testing.T, p *Play) {
	p.open(t, Setup{})
	p.Backend.Play(First, Text("fine"))
	req := chain(t, First)
	req.Steps[0].Headers = map[string]string{"Host": "evil.test", "Connection": "close, x-b", "Transfer-Encoding": "chunked", "Content-Length": "3", "Te": "trailers", "Accept-Encoding": "gzip", "Expect": "100-continue"}
	p.ask(t, req).answered(t, 0, "fine")
	h := p.hit(t).Header
	for _, name := range []string{"Te", "Accept-Encoding", "Expect", "Transfer-Encoding"} {
		if sent := h.Get(name); sent != "" && sent != "identity" {
			t.Errorf("sent %s: %q", name, sent)
		}
	}
}

func answerVerbatim(t *testing.T, p *Play) {
	p.open(t, Setup{})
	body := "{ \"choices\":[{\"message\":{\"content\":\"\\u00e9 <\"}, \"finish_reason\":\"stop\"}],\n\"x\":1.50}"
	p.Backend.Play(First, Body(200, body))
	if r := p.ask(t, chain(t, First)); !r.Good || r.Body != body || r.Text != "é <" {
		t.Errorf("got %v, want %q", r, body)
	}
}

func earlyHints(t *testing.T, p *Play) {
	p.open(t, Setup{})
	p.Backend.Play(First, Text("fine").Hinted())
	p.ask(t, chain(t, First)).answered(t, 0, "fine")
	p.asked(t, First)
}

func otherType(t *testing.T, p *Play) {
	p.open(t, Setup{})
	p.Backend.Play(First, Text("fine").With("Content-Type", "text/plain"))
	r := p.ask(t, chain(t, First))
	r.answered(t, 0, "fine")
	if p.Kind == Wire && r.Header.Get("Content-Type") != "text/plain" {
		t.Errorf("type %q", r.Header.Get("Content-Type"))
	}
}

func providerHeaders(t *testing.T, p *Play) {
	p.open(t, Setup{})
	p.Backend.Play(First, Text("fine").With("X-Request-Id", "req-1", "Openai-Processing-Ms", "12", "Connection", "x-hop", "X-Hop", "1"))
	r := p.ask(t, chain(t, First))
	if r.Header.Get("X-Request-Id") != "req-1" || r.Header.Get("Openai-Processing-Ms") != "12" || r.Header.Get("X-Hop") != "" {
		t.Errorf("got %v", r.Header)
	}
}

func forgedHeaders(t *testing.T, p *Play) {
	p.open(t, Setup{})
	p.Backend.Play(First, Fail(404, ""))
	p.Backend.Play(Second, Text("fine").With("Cf-Aig-Step", "0", "Cf-Aig-Cache-Status", "HIT", "Cf-Aig-Log-Id", "forged"))
	r := p.ask(t, chain(t, First, Second))
	r.answered(t, 1, "fine")
	if r.Cache == gateway.CacheHit || r.LogID == "forged" {
		t.Errorf("got %v", r)
	}
}

func eventID(t *testing.T, p *Play) {
	p.open(t, Setup{})
	p.Backend.Play(First, Text("fine"))
	req := chain(t, First)
	if r := p.ask(t, req); r.Header.Get("Cf-Aig-Event-Id") == "" {
		t.Error("no event id was made up")
	}
	req.Options.EventID = "ev-1"
	if r := p.ask(t, req); r.Header.Get("Cf-Aig-Event-Id") != "ev-1" {
		t.Errorf("event id %q", r.Header.Get("Cf-Aig-Event-Id"))
	}
}

func logIDs(t *testing.T, p *Play) {
	p.open(t, Setup{})
	p.Backend.Play(First, Text("fine"))
	a, b := p.ask(t, chain(t, First)), p.ask(t, chain(t, First))
	if a.LogID == "" || a.LogID == b.LogID {
		t.Errorf("log ids %q and %q", a.LogID, b.LogID)
	}
	for i, row := range p.Subject.Rows(t, 2) {
		if row.ID != []string{a.LogID, b.LogID}[i] {
			t.Errorf("row %d is %s", i, row.ID)
		}
	}
}
