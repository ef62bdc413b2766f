package conformance

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"batchwright/internal/gateway"
)

// The codes of the gateway's envelope that a malformed request meets. Cloudflare documents none for most of them.
const (
	codeNoRoute = 2008
	codeInvalid = 7000
)

// malformed are bodies that the wire refuses before anybody is asked.
var malformed = []struct {
	name, body string
	code       int
}{
	{"a body that is not JSON is refused", `[{"provider":`, codeInvalid},
	{"an empty body is refused", ``, codeInvalid},
	{"an empty array is refused", `[]`, codeInvalid},
	{"a body that is no array of steps is refused", `["openai"]`, codeInvalid},
	{"a number for a body is refused", `7`, codeInvalid},
	{"a step without a query is refused", `[{"provider":"openai","endpoint":"chat/completions","headers":{"Authorization":"Bearer x"}}]`, codeInvalid},
	{"a step without a provider is refused", `[{"endpoint":"chat/completions","query":{}}]`, codeInvalid},
	{"an unknown provider is refused", `[{"provider":"nobody","endpoint":"chat/completions","headers":{"Authorization":"Bearer x"},"query":{}}]`, codeNoRoute},
	{"a header that would begin another is refused", `[{"provider":"openai","endpoint":"chat/completions","headers":{"Authorization":"Bearer x","X-A":"1\r\nX-B: 2"},"query":{}}]`, codeInvalid},
	{"six attempts are refused", `[{"provider":"openai","endpoint":"chat/completions","headers":{"Authorization":"Bearer x"},"query":{},"config":{"maxAttempts":6}}]`, codeInvalid},
	{"a delay of 5001 milliseconds is refused", `[{"provider":"openai","endpoint":"chat/completions","headers":{"Authorization":"Bearer x"},"query":{},"config":{"retryDelay":5001}}]`, codeInvalid},
	{"a backoff that is none of the three is refused", `[{"provider":"openai","endpoint":"chat/completions","headers":{"Authorization":"Bearer x"},"query":{},"config":{"backoff":"fast"}}]`, codeInvalid},
	{"an endpoint that leaves its base is refused", `[{"provider":"openai","endpoint":"../../admin","headers":{"Authorization":"Bearer x"},"query":{}}]`, codeInvalid},
}

// outOfRange are requests that a Gateway refuses unsent.
var outOfRange = []struct {
	name  string
	spoil func(r *gateway.Request)
	not   map[Kind]string
}{
	{"a request without steps is not sent", func(r *gateway.Request) { r.Steps = nil }, nil},
	{"a step of an unknown provider is not sent", func(r *gateway.Request) { r.Steps[1].Provider = "nobody" }, nil},
	{"a step without a query is not sent", func(r *gateway.Request) { r.Steps[1].Query = nil }, nil},
	{"a query that is not JSON is not sent", func(r *gateway.Request) { r.Steps[1].Query = []byte(`{"a":`) },
		map[Kind]string{Engine: "the engine passes a body on as the caller gave it"}},
	{"six attempts are not sent", func(r *gateway.Request) { r.Steps[1].Config = &gateway.StepConfig{MaxAttempts: 6} }, nil},
	{"a delay of 5001 milliseconds is not sent", func(r *gateway.Request) { r.Steps[1].Config = &gateway.StepConfig{RetryDelayMS: 5001} }, nil},
	{"a backoff that is none of the three is not sent", func(r *gateway.Request) { r.Steps[1].Config = &gateway.StepConfig{Backoff: "fast"} }, nil},
	{"a cache TTL under a minute is not sent", func(r *gateway.Request) { r.Options.CacheTTL = 59 * time.Second }, nil},
	{"a cache TTL over a month is not sent", func(r *gateway.Request) { r.Options.CacheTTL = 32 * 24 * time.Hour }, nil},
	{"a cache key over four kilobytes is not sent", func(r *gateway.Request) { r.Options.CacheKey = strings.Repeat("k", 4097) }, nil},
	{"an event id that would begin another header is not sent", func(r *gateway.Request) { r.Options.EventID = "a\r\nX-B: 2" }, nil},
	{"six entries of metadata are not sent", func(r *gateway.Request) {
		r.Options.Metadata = gateway.Metadata{"a": "1", "b": "2", "c": "3", "d": "4", "e": "5", "f": "6"}
	}, nil},
	{"nested metadata is not sent", func(r *gateway.Request) { r.Options.Metadata = gateway.Metadata{"a": map[string]any{"b": 1}} }, nil},
}

// onlyOnWire is for cases about the protocol itself.
var onlyOnWire = map[Kind]string{Engine: "the engine is called, not posted to", Client: "the client sends nothing of the kind"}

func requestCases() []Case {
	var cs []Case
	for _, m := range malformed {
		cs = append(cs, Case{Name: "the wire: " + m.name, Not: onlyOnWire, Run: func(t *testing.T, p *Play) { refusedOnWire(t, p, m.body, m.code) }})
	}
	for _, o := range outOfRange {
		not := map[Kind]string{Wire: "nothing stands before the wire; what it refuses has cases of its own"}
		for k, why := range o.not {
			not[k] = why
		}
		cs = append(cs, Case{Name: o.name, Not: not, Run: func(t *testing.T, p *Play) { notSent(t, p, o.spoil) }})
	}
	return append(cs, []Case{
		{Name: "the wire takes a single step without its array", Not: onlyOnWire, Run: singleStep},
		{Name: "the wire takes the legacy authorization of a step", Not: onlyOnWire, Run: legacyAuthorization},
		{Name: "the wire takes a slash after the gateway's name", Not: onlyOnWire, Run: trailingSlash},
		{Name: "the wire ignores what it doesn't know in a step", Not: onlyOnWire, Run: unknownFields},
		{Name: "the wire takes numbers and booleans for header values", Not: onlyOnWire, Run: typedHeaders},
		{Name: "the wire drops a sixth entry of metadata and nested metadata", Not: onlyOnWire, Run: metadataTolerated},
		{Name: "the wire refuses a TTL under a minute", Not: onlyOnWire, Run: func(t *testing.T, p *Play) { headerRefused(t, p, "Cf-Aig-Cache-Ttl", "59") }},
		{Name: "the wire refuses attempts over five in a header", Not: onlyOnWire, Run: func(t *testing.T, p *Play) { headerRefused(t, p, "Cf-Aig-Max-Attempts", "6") }},
		{Name: "the wire ignores a cf-aig header that nobody knows", Not: onlyOnWire, Run: unknownHeader},
		{Name: "a GET of the Universal Endpoint is refused", Not: onlyOnWire, Run: wrongMethod},
		{Name: "a step that can't be sent doesn't stop the next one", Run: unsendableStep, Not: map[Kind]string{
			Engine: "the engine refuses the whole request", Client: "the client refuses the whole request"}},
	}...)
}

// refusal fails the test unless the gateway itself refused, in its envelope.
func (r Reply) refusal(t *testing.T, status, code int) {
	t.Helper()
	if r.Status != status || r.Code != code || !strings.HasPrefix(r.Header.Get("Content-Type"), "application/json") {
		t.Errorf("got %v, want status %d with code %d", r, status, code)
	}
}

func refusedOnWire(t *testing.T, p *Play, body string, code int) {
	t.Helper()
	p.open(t, Setup{})
	p.Backend.Play(First, Text("never"))
	p.post(t.Context(), t, nil, body).refusal(t, http.StatusBadRequest, code)
	p.asked(t)
}

func notSent(t *testing.T, p *Play, spoil func(*gateway.Request)) {
	t.Helper()
	p.open(t, Setup{})
	p.Backend.Play(First, Text("never"))
	req := chain(t, First, Second)
	spoil(req)
	r := p.ask(t, req)
	if gateway.ClassOf(r.Cause) != gateway.InvalidRequest || r.Sends != 0 {
		t.Errorf("got %v after %d sends", r, r.Sends)
	}
	p.asked(t)
}

// oneStep is a step of the first provider's, as JSON, with more fields.
func oneStep(more string) string {
	return `{"provider":"` + First + `","endpoint":"chat/completions","headers":{"Authorization":"Bearer ` + Key(First) + `"},"query":{"model":"m-1","messages":[]}` + more + `}`
}

func singleStep(t *testing.T, p *Play) {
	p.open(t, Setup{})
	p.Backend.Play(First, Text("fine"))
	p.post(t.Context(), t, nil, oneStep("")).answered(t, 0, "fine")
}

func legacyAuthorization(t *testing.T, p *Play) {
	p.open(t, Setup{})
	p.Backend.Play(First, Text("fine"))
	p.post(t.Context(), t, nil, `[{"provider":"`+First+`","endpoint":"chat/completions","authorization":"Bearer `+Key(First)+`","query":{"model":"m-1","messages":[]}}]`).answered(t, 0, "fine")
	if got := p.hit(t).Header.Get("Authorization"); got != "Bearer "+Key(First) {
		t.Errorf("sent %q", got)
	}
}

func trailingSlash(t *testing.T, p *Play) {
	p.open(t, Setup{})
	p.Backend.Play(First, Text("fine"))
	p.do(t.Context(), t, http.MethodPost, p.Subject.URL+"/", nil, "["+oneStep("")+"]").answered(t, 0, "fine")
}

func unknownFields(t *testing.T, p *Play) {
	p.open(t, Setup{})
	p.Backend.Play(First, Text("fine"))
	p.post(t.Context(), t, nil, "["+oneStep(`,"note":{"a":[1,"]"]},"config":{"later":true}`)+"]").answered(t, 0, "fine")
}

func typedHeaders(t *testing.T, p *Play) {
	p.open(t, Setup{})
	p.Backend.Play(First, Text("fine"))
	p.post(t.Context(), t, nil, `[{"provider":"`+First+`","endpoint":"chat/completions","headers":{"Authorization":"Bearer `+Key(First)+
		`","X-Number":7,"X-Bool":true,"cf-aig-max-attempts":2},"query":{"model":"m-1","messages":[]}}]`).answered(t, 0, "fine")
	h := p.hit(t).Header
	if h.Get("X-Number") != "7" || h.Get("X-Bool") != "true" {
		t.Errorf("sent %v", h)
	}
}

func metadataTolerated(t *testing.T, p *Play) {
	p.open(t, Setup{})
	p.Backend.Play(First, Text("fine"))
	for _, m := range []string{`{"a":1,"b":2,"c":3,"d":4,"e":5,"f":6}`, `{"a":{"b":1}}`} {
		p.post(t.Context(), t, http.Header{"Cf-Aig-Metadata": {m}}, "["+oneStep("")+"]").answered(t, 0, "fine")
	}
}

func headerRefused(t *testing.T, p *Play, name, value string) {
	t.Helper()
	p.open(t, Setup{})
	p.Backend.Play(First, Text("never"))
	p.post(t.Context(), t, http.Header{name: {value}}, "["+oneStep("")+"]").refusal(t, http.StatusBadRequest, codeInvalid)
	p.asked(t)
}

func unknownHeader(t *testing.T, p *Play) {
	p.open(t, Setup{})
	p.Backend.Play(First, Text("fine"))
	p.post(t.Context(), t, http.Header{"Cf-Aig-Tomorrow": {"yes"}}, "["+oneStep("")+"]").answered(t, 0, "fine")
	if got := p.hit(t).Header.Get("Cf-Aig-Tomorrow"); got != "" {
		t.Errorf("sent on %q", got)
	}
}

func wrongMethod(t *testing.T, p *Play) {
	p.open(t, Setup{})
	p.do(t.Context(), t, http.MethodGet, p.Subject.URL, nil, "").refusal(t, http.StatusMethodNotAllowed, codeInvalid)
}

func unsendableStep(t *testing.T, p *Play) {
	p.open(t, Setup{})
	p.Backend.Play(First, Text("fine"))
	p.post(t.Context(), t, nil, `[{"provider":"nobody","endpoint":"x","query":{}},`+oneStep("")+"]").answered(t, 1, "fine")
}
