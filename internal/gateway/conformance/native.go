package conformance

import (
	"net/http"
	"testing"
	"time"

	"batchwright/internal/gateway"
)

func nativeCases() []Case {
	cs := []Case{
		{Name: "a native request passes with its method, path, query and body", Run: nativePasses},
		{Name: "a native GET passes", Run: nativeGet},
		{Name: "a native failure passes as the provider wrote it", Run: nativeFails},
		{Name: "a native request is retried as its headers say", Run: nativeRetried},
		{Name: "a native request is answered from the cache", Run: nativeCached},
		{Name: "a native request to an unknown provider is refused", Run: nativeUnknown},
		{Name: "the compat endpoint asks the provider that the model names", Run: compatRoutes},
		{Name: "the compat endpoint refuses a model without a provider", Run: compatBare},
	}
	for i := range cs {
		cs[i].Not = onlyOnWire
	}
	return cs
}

// native sends a request below a provider's slug, with the provider's key.
func (p *Play) native(t *testing.T, method, path string, h http.Header, body string) Reply {
	t.Helper()
	if h == nil {
		h = http.Header{}
	}
	if h.Get("Authorization") == "" {
		h.Set("Authorization", "Bearer "+Key(First))
	}
	return p.do(t.Context(), t, method, p.Subject.URL+"/"+path, h, body)
}

func nativePasses(t *testing.T, p *Play) {
	p.open(t, Setup{})
	p.Backend.Play(First, Text("fine"))
	body := "{ \"model\":\"m-1\",\n \"messages\":[], \"x\":1.50 }"
	p.native(t, http.MethodPost, First+"/chat/completions?x=a%2Fb", http.Header{"X-Trace": {"7"}}, body).answered(t, 0, "fine")
	hit := p.hit(t)
	if hit.Method != http.MethodPost || hit.URI != "/v1/chat/completions?x=a%2Fb" || hit.Body != body || hit.Header.Get("X-Trace") != "7" {
		t.Errorf("sent %+v", hit)
	}
}

func nativeGet(t *testing.T, p *Play) {
	p.open(t, Setup{})
	p.Backend.Play(First, Body(200, `{"data":[]}`))
	r := p.native(t, http.MethodGet, First+"/v1/models", nil, "")
	if hit := p.hit(t); r.Body != `{"data":[]}` || hit.Method != http.MethodGet || hit.URI != "/v1/models" {
		t.Errorf("got %v of %+v", r, hit)
	}
}

func nativeFails(t *testing.T, p *Play) {
	p.open(t, Setup{})
	p.Backend.Play(First, Fail(429, "rate_limit_exceeded").With("Retry-After", "7"))
	r := p.native(t, http.MethodPost, First+"/chat/completions", nil, `{"model":"m-1","messages":[]}`)
	if r.Status != 429 || r.Body != Failure("rate_limit_exceeded") || r.Header.Get("Retry-After") != "7" {
		t.Errorf("got %v", r)
	}
	p.asked(t, First)
}

func nativeRetried(t *testing.T, p *Play) {
	p.open(t, Setup{})
	p.Backend.Play(First, Fail(500, ""), Fail(429, ""), Text("fine"))
	h := http.Header{"Cf-Aig-Max-Attempts": {"3"}, "Cf-Aig-Retry-Delay": {"1"}}
	p.native(t, http.MethodPost, First+"/chat/completions", h, `{"model":"m-1","messages":[]}`).answered(t, 0, "fine")
	p.asked(t, First, First, First)
}

func nativeCached(t *testing.T, p *Play) {
	p.openTwo(t, Setup{Cache: time.Hour})
	for _, want := range []gateway.CacheStatus{gateway.CacheMiss, gateway.CacheHit} {
		p.native(t, http.MethodPost, First+"/chat/completions", nil, `{"model":"m-1","messages":[]}`).verdict(t, "one", want)
	}
}

func nativeUnknown(t *testing.T, p *Play) {
	p.open(t, Setup{})
	p.native(t, http.MethodPost, "nobody/chat/completions", nil, `{}`).refusal(t, http.StatusBadRequest, codeNoRoute)
}

func compatRoutes(t *testing.T, p *Play) {
	p.open(t, Setup{})
	p.Backend.Play(First, Mirror())
	p.native(t, http.MethodPost, "compat/chat/completions", nil, `{"model":"`+First+`/m-7","messages":[]}`).answered(t, 0, "m-7")
	p.asked(t, First)
}

func compatBare(t *testing.T, p *Play) {
	p.open(t, Setup{})
	p.native(t, http.MethodPost, "compat/chat/completions", nil, `{"model":"m-7","messages":[]}`).refusal(t, http.StatusBadRequest, 2019)
	p.asked(t)
}
