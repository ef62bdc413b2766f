package conformance

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"batchwright/internal/gateway"
)

func chainCases() []Case {
	return []Case{
		{Name: "the first good answer ends the chain", Run: firstAnswerEnds},
		{Name: "the last of three steps may answer", Run: lastStepAnswers},
		{Name: "a provider may stand in a chain twice", Run: providerTwice},
		{Name: "when all steps fail the engine tells what time may heal and the wire the last failure", Run: allStepsFail},
		{Name: "when no step gives any answer the failure says so", Run: noStepAnswers},
		{Name: "a failure's body passes as the provider wrote it", Run: failureVerbatim, Not: map[Kind]string{Engine: noBody, Client: noBody}},
		{Name: "the winning step's index is told", Run: stepTold},
		{Name: "a chain of twenty steps is walked to its end", Run: longChain},
		{Name: "a step's usage is told with its answer", Run: usageTold},
		{Name: "requests at the same time get their own answers", Run: ownAnswers},
		{Name: "a request that was answered leaves nothing for the next", Run: nothingLeft},
	}
}

const noBody = "an error doesn't hold the provider's words, which can echo prompts and keys"

func firstAnswerEnds(t *testing.T, p *Play) {
	p.open(t, Setup{})
	p.Backend.Play(First, Text("fine"))
	p.Backend.Play(Second, Text("never"))
	p.ask(t, chain(t, First, Second)).answered(t, 0, "fine")
	p.asked(t, First)
}

func lastStepAnswers(t *testing.T, p *Play) {
	p.open(t, Setup{})
	p.Backend.Play(First, Fail(401, ""))
	p.Backend.Play(Second, Fail(404, ""))
	p.Backend.Play(Third, Text("fine"))
	p.ask(t, chainOf(t, once(), First, Second, Third)).answered(t, 2, "fine")
	p.asked(t, First, Second, Third)
}

func providerTwice(t *testing.T, p *Play) {
	p.open(t, Setup{})
	p.Backend.Play(First, Fail(404, "model_not_found"), Text("fine"))
	req := chainOf(t, once(), First)
	req.Steps = append(req.Steps, rawStep(t, First, `{"model":"m-2","messages":[]}`, once()))
	p.ask(t, req).answered(t, 1, "fine")
	if hits := p.Backend.Hits(); len(hits) != 2 || !strings.Contains(hits[0].Body, "m-1") || !strings.Contains(hits[1].Body, "m-2") {
		t.Errorf("sent %+v", hits)
	}
}

func allStepsFail(t *testing.T, p *Play) {
	p.open(t, Setup{})
	p.Backend.Play(First, Fail(503, ""))
	p.Backend.Play(Second, Fail(401, "invalid_api_key"))
	r := p.ask(t, chainOf(t, once(), First, Second))
	p.asked(t, First, Second)
	if p.Kind == Engine {
		r.failed(t, p, gateway.Overloaded, "", 0)
	} else {
		r.failed(t, p, gateway.Auth, "invalid_api_key", 401)
	}
	if want := map[Kind]int{Engine: 0, Wire: 1, Client: 1}[p.Kind]; r.Step != want {
		t.Errorf("told step %d, want %d", r.Step, want)
	}
}

func noStepAnswers(t *testing.T, p *Play) {
	p.open(t, Setup{})
	r := p.ask(t, chainOf(t, once(), Refused, NoHost))
	switch p.Kind {
	case Engine:
		r.failed(t, p, gateway.Network, "dns_error", 0)
	case Client:
		r.failed(t, p, gateway.Server, "2005", 0)
	case Wire:
		if r.Status != 400 || r.Code != 2005 {
			t.Errorf("got %v, want status 400 with code 2005", r)
		}
	}
}

func failureVerbatim(t *testing.T, p *Play) {
	p.open(t, Setup{})
	body := "{ \"error\" : {\"message\":\"\\u00e9 <b>\", \"code\":null},\n \"x\":1.50 }\n"
	p.Backend.Play(First, Body(418, body).With("X-Provider", "yes"))
	r := p.ask(t, chainOf(t, once(), First))
	if r.Status != 418 || r.Body != body || r.Header.Get("X-Provider") != "yes" {
		t.Errorf("got %v with %v", r, r.Header)
	}
}

func stepTold(t *testing.T, p *Play) {
	p.open(t, Setup{})
	p.Backend.Play(First, Text("zero"))
	p.Backend.Play(Second, Text("one"))
	p.ask(t, chain(t, First, Second)).answered(t, 0, "zero")
	p.Backend.Play(First, Fail(403, ""))
	p.ask(t, chain(t, First, Second)).answered(t, 1, "one")
}

func longChain(t *testing.T, p *Play) {
	p.open(t, Setup{})
	p.Backend.Play(First, Fail(404, ""))
	p.Backend.Play(Second, Text("fine"))
	p.ask(t, chainOf(t, once(), append(repeat(First, 19), Second)...)).answered(t, 19, "fine")
	p.asked(t, append(repeat(First, 19), Second)...)
}

func usageTold(t *testing.T, p *Play) {
	p.open(t, Setup{})
	p.Backend.Play(First, Text("fine"))
	r := p.ask(t, chain(t, First))
	if want := (gateway.Usage{Input: 10, Output: 2, Known: true}); r.Usage != want {
		t.Errorf("usage %+v, want %+v", r.Usage, want)
	}
}

func ownAnswers(t *testing.T, p *Play) {
	p.open(t, Setup{})
	p.Backend.Play(First, Fail(404, ""))
	p.Backend.Play(Second, Mirror())
	const n = 24
	reqs := make([]*gateway.Request, n)
	for i := range reqs {
		reqs[i] = chainOf(t, once(), First)
		reqs[i].Steps = append(reqs[i].Steps, rawStep(t, Second, fmt.Sprintf(`{"model":"m-%d","messages":[]}`, i), once()))
	}
	replies := make([]Reply, n)
	var wg sync.WaitGroup
	for i := range reqs {
		wg.Go(func() { replies[i] = p.ask(t, reqs[i]) })
	}
	wg.Wait()
	for i, r := range replies {
		r.answered(t, 1, fmt.Sprintf("m-%d", i))
	}
}

func nothingLeft(t *testing.T, p *Play) {
	p.open(t, Setup{})
	p.Backend.Play(First, Fail(503, ""), Text("fine"), Fail(401, ""))
	p.Backend.Play(Second, Text("other"))
	p.ask(t, chain(t, First, Second)).answered(t, 0, "fine")
	p.ask(t, chainOf(t, once(), First, Second)).answered(t, 1, "other")
	p.asked(t, First, First, First, Second)
}
