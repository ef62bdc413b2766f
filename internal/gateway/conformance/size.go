package conformance

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"batchwright/internal/gateway"
)

func sizeCases() []Case {
	wireStreams := map[Kind]string{Wire: "the wire passes answers on without keeping them, whatever their size"}
	return []Case{
		{Name: "an answer of 50 MB is read", Run: largeAnswer},
		{Name: "an answer over the limit is no use and may have cost", Not: wireStreams, Run: func(t *testing.T, p *Play) { overLimit(t, p, Large(200_000)) }},
		{Name: "an answer without end stops at the limit", Not: wireStreams, Run: func(t *testing.T, p *Play) { overLimit(t, p, Endless()) }},
		{Name: "an answer over the limit is still an answer of one step", Not: map[Kind]string{
			Wire: wireStreams[Wire], Client: "the answer's size is seen behind the chain, not in it"}, Run: overLimitFallsBack},
		{Name: "a failure without end goes to the next step", Run: endlessFailure},
		{Name: "a failure whose body stalls goes to the next step", Run: stalledFailure},
		{Name: "an answer with 100 KB of headers is read", Run: func(t *testing.T, p *Play) { headersOf(t, p, 100, true) }},
		{Name: "an answer with a megabyte of headers is a failure of the step", Run: func(t *testing.T, p *Play) { headersOf(t, p, 1000, false) }},
		{Name: "a request of 10 MB reaches the provider", Run: largeRequest},
		{Name: "a request over the server's limit is refused", Not: onlyOnWire, Run: tooLargeRequest},
	}
}

func largeAnswer(t *testing.T, p *Play) {
	p.open(t, Setup{})
	const size = 50 << 20
	p.Backend.Play(First, Large(size))
	r := p.ask(t, chainOf(t, once(), First))
	if !r.Good || len(r.Text) != size {
		t.Errorf("got %d bytes of text, %v", len(r.Text), r.Cause)
	}
}

func overLimit(t *testing.T, p *Play, a Answer) {
	t.Helper()
	p.open(t, Setup{MaxAnswerBytes: 100_000, Attempts: 3})
	p.Backend.Play(First, a)
	r := p.ask(t, chainOf(t, &gateway.StepConfig{MaxAttempts: 3, RetryDelayMS: 1}, First))
	r.failed(t, p, gateway.InvalidOutput, "answer_too_large", 0)
	r.blames(t, First, true)
	p.asked(t, First)
}

func overLimitFallsBack(t *testing.T, p *Play) {
	p.open(t, Setup{MaxAnswerBytes: 100_000})
	p.Backend.Play(First, Endless())
	p.Backend.Play(Second, Text("fine"))
	p.ask(t, chain(t, First, Second)).answered(t, 1, "fine")
	p.asked(t, First, Second)
}

func endlessFailure(t *testing.T, p *Play) {
	p.open(t, Setup{MaxAnswerBytes: 1 << 20})
	p.Backend.Play(First, EndlessFailure(401))
	p.Backend.Play(Second, Text("fine"))
	p.ask(t, chainOf(t, once(), First, Second)).answered(t, 1, "fine")
	p.Backend.AwaitGone(t, 1)
}

func stalledFailure(t *testing.T, p *Play) {
	p.open(t, Setup{Idle: 300 * time.Millisecond})
	p.Backend.Play(First, StalledFailure(401))
	p.Backend.Play(Second, Text("fine"))
	req := chainOf(t, once(), First, Second)
	req.Steps[0].Config = &gateway.StepConfig{MaxAttempts: 1, RequestTimeoutMS: 300}
	p.ask(t, req).answered(t, 1, "fine")
}

func headersOf(t *testing.T, p *Play, kilobytes int, fine bool) {
	t.Helper()
	p.open(t, Setup{})
	p.Backend.Play(First, Text("fine").Filled(kilobytes))
	p.Backend.Play(Second, Text("other"))
	r := p.ask(t, chainOf(t, once(), First, Second))
	if fine {
		r.answered(t, 0, "fine")
	} else {
		r.answered(t, 1, "other")
	}
}

func largeRequest(t *testing.T, p *Play) {
	p.open(t, Setup{})
	p.Backend.Play(First, Text("fine"))
	body := `{"model":"m-1","messages":[{"role":"user","content":"` + strings.Repeat("x", 10<<20) + `"}]}`
	p.ask(t, &gateway.Request{Steps: []gateway.Step{rawStep(t, First, body, once())}}).answered(t, 0, "fine")
	if got := p.hit(t).Body; got != body {
		t.Errorf("%d bytes came, want %d", len(got), len(body))
	}
}

func tooLargeRequest(t *testing.T, p *Play) {
	p.open(t, Setup{MaxRequestBytes: 1 << 20})
	p.Backend.Play(First, Text("never"))
	p.post(t.Context(), t, nil, "["+oneStep(`,"x":"`+strings.Repeat("x", 1<<20)+`"`)+"]").refusal(t, http.StatusRequestEntityTooLarge, codeInvalid)
	p.asked(t)
}
