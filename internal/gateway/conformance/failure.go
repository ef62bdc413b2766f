package conformance

import (
	"net/http"
	"testing"

	"batchwright/internal/gateway"
)

// failure is one way in which a step fails, and what each kind of target makes of it.
type failure struct {
	name   string
	answer Answer
	at     string // the provider that fails; default First

	class  gateway.Class // what the engine says when there is no other step
	code   string
	unsure bool // the call may have been billed
	tries  int  // the engine's, of the two that the step has
	stops  bool // the engine asks no other step

	status int  // on the wire when there is no other step: the provider's own
	passes bool // on the wire it is an answer, because its status is 2xx
	breaks bool // on the wire the answer breaks off
	silent bool // the provider gave no answer; on the wire that is 400 with code 2005
}

const html = "<!DOCTYPE html><html><body>" + Echo + "</body></html>"

var failures = []failure{
	// What the request or the step is at fault for: once, and the next step.
	{name: "400 ends the engine's chain", answer: Fail(400, ""), class: gateway.InvalidRequest, tries: 1, stops: true, status: 400},
	{name: "400 for the model's window tries another model", answer: Fail(400, "context_length_exceeded"), class: gateway.Unsupported, code: "context_length_exceeded", tries: 1, status: 400},
	{name: "401 goes on without a retry", answer: Fail(401, "invalid_api_key"), class: gateway.Auth, code: "invalid_api_key", tries: 1, status: 401},
	{name: "402 goes on without a retry", answer: Fail(402, ""), class: gateway.Quota, tries: 1, status: 402},
	{name: "403 goes on without a retry", answer: Fail(403, ""), class: gateway.Auth, tries: 1, status: 403},
	{name: "404 goes on without a retry", answer: Fail(404, "model_not_found"), class: gateway.NotFound, code: "model_not_found", tries: 1, status: 404},
	{name: "405 goes on without a retry", answer: Fail(405, ""), class: gateway.NotFound, tries: 1, status: 405},
	{name: "408 is retried", answer: Fail(408, ""), class: gateway.Timeout, tries: 2, status: 408},
	{name: "409 is retried", answer: Fail(409, ""), class: gateway.Server, tries: 2, status: 409},
	{name: "413 tries another model", answer: Fail(413, ""), class: gateway.Unsupported, tries: 1, status: 413},
	{name: "422 ends the engine's chain", answer: Fail(422, ""), class: gateway.InvalidRequest, tries: 1, stops: true, status: 422},
	{name: "424, which no rule knows, goes on without a retry", answer: Fail(424, ""), class: gateway.Unknown, tries: 1, status: 424},
	// What passes.
	{name: "429 is retried", answer: Fail(429, "rate_limit_exceeded"), class: gateway.RateLimited, code: "rate_limit_exceeded", tries: 2, status: 429},
	{name: "429 for money goes on without a retry", answer: Fail(429, "insufficient_quota"), class: gateway.Quota, code: "insufficient_quota", tries: 1, status: 429},
	{name: "498 is retried", answer: Fail(498, ""), class: gateway.Overloaded, tries: 2, status: 498},
	{name: "500 is retried", answer: Fail(500, ""), class: gateway.Server, tries: 2, status: 500},
	{name: "502 is retried", answer: Fail(502, ""), class: gateway.Server, tries: 2, status: 502},
	{name: "503 is retried", answer: Fail(503, ""), class: gateway.Overloaded, tries: 2, status: 503},
	{name: "504 is retried and may have cost", answer: Fail(504, ""), class: gateway.Timeout, unsure: true, tries: 2, status: 504},
	{name: "520 is retried and may have cost", answer: Fail(520, ""), class: gateway.Server, unsure: true, tries: 2, status: 520},
	{name: "521 is retried", answer: Fail(521, ""), class: gateway.Network, tries: 2, status: 521},
	{name: "522 is retried", answer: Fail(522, ""), class: gateway.Network, tries: 2, status: 522},
	{name: "523 is retried", answer: Fail(523, ""), class: gateway.Network, tries: 2, status: 523},
	{name: "524 is retried and may have cost", answer: Fail(524, ""), class: gateway.Timeout, unsure: true, tries: 2, status: 524},
	{name: "529 in Anthropic's shape is retried", answer: Body(529, `{"type":"error","error":{"type":"overloaded_error","message":"`+Echo+`"}}`),
		class: gateway.Overloaded, code: "overloaded_error", tries: 2, status: 529},
	{name: "429 in Gemini's shape is retried", answer: Body(429, `{"error":{"code":429,"message":"`+Echo+`","status":"RESOURCE_EXHAUSTED"}}`),
		class: gateway.RateLimited, code: "RESOURCE_EXHAUSTED", tries: 2, status: 429},
	{name: "a web page instead of an answer is the edge's failure", answer: Body(502, html).With("Content-Type", "text/html"),
		class: gateway.Server, code: "html_answer", tries: 2, status: 502},
	{name: "a redirect is not followed", answer: Body(307, "").With("Location", "/elsewhere"), class: gateway.Unknown, tries: 1, status: 307},
	// 2xx and no use: a failure to the engine, an answer on the wire.
	{name: "200 with an error inside is a failure", answer: Body(200, Failure("server_error")), class: gateway.Server, code: "server_error", unsure: true, tries: 2, passes: true},
	{name: "a refusal goes on without a retry", answer: Body(200, `{"model":"m-1","choices":[{"message":{"refusal":"no"},"finish_reason":"stop"}],"usage":{"prompt_tokens":5,"completion_tokens":3}}`),
		class: gateway.ContentFiltered, code: "refusal", tries: 1, passes: true},
	{name: "a filtered answer goes on without a retry", answer: Body(200, Chat("", "content_filter")), class: gateway.ContentFiltered, code: "content_filter", tries: 1, passes: true},
	{name: "an answer without text goes on without a retry", answer: Body(200, `{"choices":[{"message":{"content":null},"finish_reason":"stop"}]}`),
		class: gateway.InvalidOutput, code: "empty_answer", tries: 1, passes: true},
	{name: "an empty body is a failure that may have cost", answer: Body(200, ""), class: gateway.Server, code: "invalid_answer", unsure: true, tries: 2, passes: true},
	{name: "204 is a failure that may have cost", answer: Body(204, ""), class: gateway.Server, code: "invalid_answer", unsure: true, tries: 2, passes: true},
	{name: "200 with a web page is a failure that may have cost", answer: Body(200, html).With("Content-Type", "text/html"),
		class: gateway.Server, code: "html_answer", unsure: true, tries: 2, passes: true},
	{name: "garbage is a failure that may have cost", answer: Body(200, "garbage"), class: gateway.Server, code: "invalid_answer", unsure: true, tries: 2, passes: true},
	{name: "JSON cut short is a failure that may have cost", answer: Body(200, `{"choices":[{"message":`), class: gateway.Server, code: "invalid_answer", unsure: true, tries: 2, passes: true},
	{name: "a compressed answer that nobody asked for is a failure that may have cost", answer: Gzipped("fine"), class: gateway.Server, code: "invalid_answer", unsure: true, tries: 2, passes: true},
	// No answer, or not all of it.
	{name: "a body cut short is a failure that may have cost", answer: Cut(), class: gateway.Network, code: "connection_lost", unsure: true, tries: 2, breaks: true},
	{name: "a reset after the request was read is a failure that may have cost", answer: Reset(), class: gateway.Network, code: "connection_lost", unsure: true, tries: 2, silent: true},
	{name: "a reset before the request was read is retried", answer: ResetUnread(), class: gateway.Network, code: "connection_lost", unsure: true, tries: 2, silent: true},
	{name: "an answer that is not HTTP is a failure that may have cost", answer: Raw("+OK hello\r\n"), class: gateway.Network, code: "connection_lost", unsure: true, tries: 2, silent: true},
	{name: "a refused connection is retried and can't have cost", at: Refused, class: gateway.Network, code: "connect_failed", tries: 2, silent: true},
	{name: "a host without an address is retried and can't have cost", at: NoHost, class: gateway.Network, code: "dns_error", tries: 2, silent: true},
}

func failureCases() []Case {
	var cs []Case
	for _, f := range failures {
		if f.at == "" {
			f.at = First
		}
		cs = append(cs, Case{Name: f.name, Run: f.run})
	}
	return cs
}

func (f failure) run(t *testing.T, p *Play) {
	p.open(t, Setup{})
	p.Backend.Play(First, f.answer)
	p.Backend.Play(Second, Text("fine"))
	f.beforeAnother(t, p)
	p.open(t, Setup{}) // the engine remembers whose key was refused
	f.alone(t, p)
}

// beforeAnother shows whether the next step is asked, and how often this one is.
func (f failure) beforeAnother(t *testing.T, p *Play) {
	t.Helper()
	r := p.ask(t, chain(t, f.at, Second))
	switch {
	case f.passes && p.Kind == Wire:
		if !r.Good || r.Step != 0 {
			t.Errorf("got %v, want the first step's answer as it is", r)
		}
	case f.breaks && p.Kind == Wire:
		if !r.Broken && r.Step != 1 {
			t.Errorf("got %v, want an answer that is seen to be broken", r)
		}
	case f.passes && p.Kind == Client:
		r.failed(t, p, f.class, f.code, 0)
	case f.breaks && p.Kind == Client:
		if !r.Good {
			r.failed(t, p, f.class, f.code, 0)
		}
	case f.stops && p.Kind == Engine:
		r.failed(t, p, f.class, f.code, 0)
	default:
		r.answered(t, 1, "fine")
	}
	if f.at != First {
		p.asked(t, Second)
		return
	}
	tries, others := 2, 1
	switch {
	case p.Kind == Engine:
		tries = f.tries
		if f.stops {
			others = 0
		}
	case f.passes:
		tries, others = 1, 0
	case f.breaks:
		return
	}
	p.asked(t, append(repeat(First, tries), repeat(Second, others)...)...)
}

// alone shows what is told when no other step is there.
func (f failure) alone(t *testing.T, p *Play) {
	t.Helper()
	r := p.ask(t, chain(t, f.at))
	switch {
	case p.Kind == Wire && f.silent:
		if r.Status != http.StatusBadRequest || r.Code != 2005 {
			t.Errorf("got %v, want status 400 with code 2005", r)
		}
	case p.Kind == Wire && f.passes:
		if !r.Good {
			t.Errorf("got %v, want the answer as it is", r)
		}
	case p.Kind == Wire && f.breaks:
		if !r.Broken && r.Code != 2005 {
			t.Errorf("got %v, want an answer that is seen to be broken", r)
		}
	case p.Kind == Client && f.breaks:
		// Whether the server saw it before or after it began its own answer, it may have cost.
		if r.Err == nil || r.Err.Class != gateway.Server && r.Err.Class != gateway.Network || !r.Err.Uncertain {
			t.Errorf("got %v, want an uncertain failure", r)
		}
	case p.Kind == Client && f.silent:
		r.failed(t, p, gateway.Server, "2005", 0)
		r.blames(t, f.at, true)
	default:
		r.failed(t, p, f.class, f.code, f.status)
		r.blames(t, f.at, f.unsure)
	}
}

// blames fails the test unless an error names the only step, and says whether it may have cost.
func (r Reply) blames(t *testing.T, provider string, unsure bool) {
	t.Helper()
	if r.Err != nil && (r.Err.Step != 0 || r.Err.Provider != provider || r.Err.Model != "m-1" || r.Err.Uncertain != unsure) {
		t.Errorf("blames step %d, %s/%s, uncertain %v; want %s, %v", r.Err.Step, r.Err.Provider, r.Err.Model, r.Err.Uncertain, provider, unsure)
	}
}
