package conformance

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"batchwright/internal/gateway"
	"batchwright/internal/gateway/gatewaytest"
)

// Reply is what came of a request, in the words of all kinds of targets.
type Reply struct {
	Good  bool // an answer: a Response, or a 2xx on the wire
	Step  int  // that answered or failed last; -1 when it isn't told
	Text  string
	Usage gateway.Usage
	Cache gateway.CacheStatus
	LogID string
	Body  string

	Sends   int             // Engine and Client: as the ledger saw them
	Outcome gateway.Outcome // Engine and Client: of the last of them
	Err     *gateway.Error  // Engine and Client: why there is no answer
	Cause   error           // Engine and Client: any error, *gateway.Error or not

	Status int         // Wire
	Header http.Header // Wire
	Code   int         // Wire: of the gateway's own envelope, or 0
	Broken bool        // Wire: the answer broke off
}

// String tells a reply in a line.
func (r Reply) String() string {
	body := r.Body
	if len(body) > 200 {
		body = body[:200] + "..."
	}
	return fmt.Sprintf("good=%v step=%d text=%q status=%d code=%d broken=%v cache=%q err=%v cause=%v body=%q",
		r.Good, r.Step, r.Text, r.Status, r.Code, r.Broken, r.Cache, r.Err, r.Cause, body)
}

// chain returns a request that asks the providers in turn. Each step may be tried twice, a millisecond apart.
func chain(t testing.TB, providers ...string) *gateway.Request {
	t.Helper()
	return chainOf(t, &gateway.StepConfig{MaxAttempts: 2, RetryDelayMS: 1, Backoff: "constant"}, providers...)
}

// chainOf is chain with a config of the case's own.
func chainOf(t testing.TB, c *gateway.StepConfig, providers ...string) *gateway.Request {
	t.Helper()
	req := &gateway.Request{}
	for _, name := range providers {
		req.Steps = append(req.Steps, rawStep(t, name, `{"model":"m-1","messages":[{"role":"user","content":"`+Prompt+`"}]}`, c))
	}
	return req
}

func rawStep(t testing.TB, provider, body string, c *gateway.StepConfig) gateway.Step {
	t.Helper()
	s, err := gateway.NewRawStep(provider, "", json.RawMessage(body), c)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// once is a config without a retry.
func once() *gateway.StepConfig { return &gateway.StepConfig{MaxAttempts: 1} }

// ask sends a request in the target's way.
func (p *Play) ask(t *testing.T, req *gateway.Request) Reply {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience) // a target that hangs must not take the suite with it
	defer cancel()
	return p.askUnder(ctx, t, req)
}

// askUnder is ask with a context of the case's own.
func (p *Play) askUnder(ctx context.Context, t *testing.T, req *gateway.Request) Reply {
	t.Helper()
	if p.Kind == Wire {
		h, body := p.array(t, req)
		return p.post(ctx, t, h, body)
	}
	var book gatewaytest.Book
	resp, err := p.Subject.Gateway.Run(ctx, req, book.Ledger)
	book.Check(t, len(req.Steps))
	es := book.Entries()
	r := Reply{Step: -1, Cause: err, Sends: len(es)}
	if len(es) > 0 {
		r.Outcome = es[len(es)-1].Outcome
	}
	if err != nil {
		p.said.add(err.Error())
		if e, ok := errors.AsType[*gateway.Error](err); ok {
			r.Err, r.Step = e, e.Step
			p.said.add(e.Code, e.Message, e.Model)
		}
		return r
	}
	r.Good, r.Step, r.Text, r.Usage = true, resp.Step, resp.Text, resp.Usage
	r.Cache, r.LogID, r.Body = resp.CacheStatus, resp.LogID, string(resp.Body)
	return r
}

// array writes a request as the wire has it: the headers and the body.
func (p *Play) array(t testing.TB, req *gateway.Request) (http.Header, string) {
	t.Helper()
	var b strings.Builder
	for i, s := range req.Steps {
		headers := map[string]string{"Content-Type": "application/json"}
		if s.Provider != p.setup.NoKey {
			headers["Authorization"] = "Bearer " + Key(s.Provider)
		}
		maps.Copy(headers, s.Headers)
		head, err := json.Marshal(headers)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, `%c{"provider":%q,"endpoint":%q,"headers":%s,"query":%s`, "[,"[min(i, 1)], s.Provider, s.Endpoint, head, s.Query)
		if s.Config != nil {
			config, err := json.Marshal(s.Config)
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(&b, `,"config":%s`, config)
		}
		b.WriteByte('}')
	}
	b.WriteByte(']')
	h := http.Header{}
	o := req.Options
	if o.SkipCache {
		h.Set("Cf-Aig-Skip-Cache", "true")
	}
	if o.CacheTTL != 0 {
		h.Set("Cf-Aig-Cache-Ttl", strconv.Itoa(int(o.CacheTTL/time.Second)))
	}
	if o.CacheKey != "" {
		h.Set("Cf-Aig-Cache-Key", o.CacheKey)
	}
	if o.NoCollect {
		h.Set("Cf-Aig-Collect-Log", "false")
	}
	if o.EventID != "" {
		h.Set("Cf-Aig-Event-Id", o.EventID)
	}
	if o.Metadata != nil {
		m, err := json.Marshal(o.Metadata)
		if err != nil {
			t.Fatal(err)
		}
		h.Set("Cf-Aig-Metadata", string(m))
	}
	return h, b.String()
}

// post sends a body to the Universal Endpoint with nothing but package http.
func (p *Play) post(ctx context.Context, t *testing.T, h http.Header, body string) Reply {
	t.Helper()
	return p.do(ctx, t, http.MethodPost, p.Subject.URL, h, body)
}

// transport is the raw one. Each call has a connection of its own, so that none outlives its test.
func transport() *http.Transport {
	return &http.Transport{DisableKeepAlives: true, DisableCompression: true, MaxResponseHeaderBytes: 4 << 20}
}

// do sends any request to the server and reads the whole answer. A token is added where h says nothing of one.
func (p *Play) do(ctx context.Context, t *testing.T, method, url string, h http.Header, body string) Reply {
	t.Helper()
	res := p.begin(ctx, t, method, url, h, body)
	if res == nil {
		return Reply{Step: -1, Broken: true}
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	return p.reply(res, raw, err)
}

// begin sends a request and returns when the answer begins; nil when none came.
func (p *Play) begin(ctx context.Context, t *testing.T, method, url string, h http.Header, body string) *http.Response {
	t.Helper()
	r, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	maps.Copy(r.Header, h)
	if _, said := h["Cf-Aig-Authorization"]; !said && p.Subject.Token != "" {
		r.Header.Set("Cf-Aig-Authorization", "Bearer "+p.Subject.Token)
	}
	res, err := transport().RoundTrip(r)
	if err != nil {
		t.Logf("no answer: %v", err)
		return nil
	}
	return res
}

// reply reads an answer of the wire.
func (p *Play) reply(res *http.Response, body []byte, err error) Reply {
	r := Reply{Good: res.StatusCode/100 == 2 && err == nil, Step: -1, Status: res.StatusCode, Header: res.Header, Body: string(body), Broken: err != nil}
	if n, err := strconv.Atoi(res.Header.Get("Cf-Aig-Step")); err == nil {
		r.Step = n
	}
	r.Cache, r.LogID = gateway.CacheStatus(res.Header.Get("Cf-Aig-Cache-Status")), res.Header.Get("Cf-Aig-Log-Id")
	var envelope struct {
		Code int `json:"internalCode"`
	}
	if json.Unmarshal(body, &envelope) == nil && envelope.Code != 0 {
		r.Code = envelope.Code
		p.said.add(string(body)) // the gateway's own words; a provider's pass as they are
	}
	if r.Good {
		openAI, _ := gateway.Lookup(First)
		if answer, _ := openAI.Decode(res.StatusCode, res.Header, bytes.Clone(body)); answer != nil {
			r.Text, r.Usage = answer.Text, answer.Usage
		}
	}
	return r
}

// answered fails the test unless a step answered so.
func (r Reply) answered(t *testing.T, step int, text string) {
	t.Helper()
	if !r.Good || r.Step != step || r.Text != text {
		t.Errorf("got %v, want the answer %q of step %d", r, text, step)
	}
}

// failed fails the test unless the request failed so: class and code as the engine and the client tell it, status as
// the wire does.
func (r Reply) failed(t *testing.T, p *Play, class gateway.Class, code string, status int) {
	t.Helper()
	switch {
	case r.Good:
		t.Errorf("got %v, want a failure", r)
	case p.Kind == Wire:
		if r.Status != status {
			t.Errorf("got %v, want status %d", r, status)
		}
	case r.Err == nil:
		t.Errorf("got %v, want an error of class %s", r, class)
	case r.Err.Class != class || r.Err.Code != code:
		t.Errorf("got class %s, code %q; want %s, %q (%v)", r.Err.Class, r.Err.Code, class, code, r)
	}
}

// asked fails the test unless just these providers were asked, in this order.
func (p *Play) asked(t *testing.T, want ...string) {
	t.Helper()
	if got := p.Backend.Providers(); !slices.Equal(got, want) {
		t.Errorf("asked %v, want %v", got, want)
	}
}

// gaps are the times between one request and the next.
func (p *Play) gaps() []time.Duration {
	var ds []time.Duration
	hits := p.Backend.Hits()
	for i := 1; i < len(hits); i++ {
		ds = append(ds, hits[i].At.Sub(hits[i-1].At))
	}
	return ds
}

// repeat is n times the same name.
func repeat(name string, n int) []string { return slices.Repeat([]string{name}, n) }

// hit is the first request that reached a provider.
func (p *Play) hit(t *testing.T) Hit {
	t.Helper()
	hits := p.Backend.Hits()
	if len(hits) == 0 {
		t.Fatal("nobody was asked")
	}
	return hits[0]
}
