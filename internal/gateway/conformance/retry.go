package conformance

import (
	"net/http"
	"strconv"
	"testing"
	"time"

	"batchwright/internal/gateway"
)

func retryCases() []Case {
	onlyWire := map[Kind]string{Engine: "headers for a gateway mean nothing to the engine", Client: "the client says it in each step's config"}
	noHint := map[Kind]string{Wire: "the protocol waits its retryDelay and passes Retry-After on"}
	var cs []Case
	for _, n := range []int{1, 2, 5} {
		cs = append(cs, Case{Name: "maxAttempts of " + strconv.Itoa(n) + " is that many tries", Run: func(t *testing.T, p *Play) { attemptsCounted(t, p, n) }})
	}
	return append(cs, []Case{
		{Name: "a step that says nothing is tried as often as its gateway says", Run: attemptsByDefault},
		{Name: "a step that recovers is kept", Run: stepRecovers},
		{Name: "every try sends the same bytes", Run: sameBytes},
		{Name: "a constant delay is kept before each try", Run: func(t *testing.T, p *Play) { backsOff(t, p, "constant", 60, 60, 60) }},
		{Name: "a linear delay grows by its base", Run: func(t *testing.T, p *Play) { backsOff(t, p, "linear", 60, 120, 180) }},
		{Name: "an exponential delay doubles", Run: func(t *testing.T, p *Play) { backsOff(t, p, "exponential", 60, 120, 240) }},
		{Name: "no pause follows the last try of a step", Run: noLastPause},
		{Name: "Retry-After in seconds is waited for", Not: noHint, Run: func(t *testing.T, p *Play) {
			hintKept(t, p, "Retry-After", "1", time.Second)
		}},
		{Name: "Retry-After as a date is waited for", Not: noHint, Run: dateKept},
		{Name: "Retry-After in milliseconds is waited for", Not: noHint, Run: func(t *testing.T, p *Play) {
			hintKept(t, p, "Retry-After-Ms", "700", 700*time.Millisecond)
		}},
		{Name: "Retry-After over the gateway's patience goes to the next step", Run: hintTooLong, Not: map[Kind]string{
			Wire: "the protocol waits its retryDelay and passes Retry-After on", Client: "the steps are the server's to walk"}},
		{Name: "Retry-After is told when all is over", Run: hintTold},
		{Name: "a request header sets the tries of every step", Not: onlyWire, Run: attemptsByHeader},
		{Name: "a step's header wins over the request's", Not: onlyWire, Run: attemptsByStepHeader},
		{Name: "a step's config wins over its header", Not: onlyWire, Run: attemptsByConfig},
		{Name: "a request header sets the timeout of every step", Not: onlyWire, Run: timeoutByHeader},
	}...)
}

func attemptsCounted(t *testing.T, p *Play, n int) {
	p.open(t, Setup{})
	p.Backend.Play(First, Fail(500, ""))
	p.Backend.Play(Second, Text("fine"))
	p.ask(t, chainOf(t, &gateway.StepConfig{MaxAttempts: n, RetryDelayMS: 1, Backoff: "constant"}, First, Second)).answered(t, 1, "fine")
	p.asked(t, append(repeat(First, n), Second)...)
}

func attemptsByDefault(t *testing.T, p *Play) {
	p.open(t, Setup{})
	p.Backend.Play(First, Fail(500, ""))
	p.Backend.Play(Second, Text("fine"))
	p.ask(t, chainOf(t, nil, First, Second)).answered(t, 1, "fine")
	// A gateway that sets nothing doesn't retry; the engine tries twice, and the client says so to its gateway.
	p.asked(t, append(repeat(First, map[Kind]int{Engine: 2, Wire: 1, Client: 2}[p.Kind]), Second)...)
}

func stepRecovers(t *testing.T, p *Play) {
	p.open(t, Setup{})
	p.Backend.Play(First, Fail(503, ""), Reset(), Text("fine"))
	p.Backend.Play(Second, Text("never"))
	p.ask(t, chainOf(t, &gateway.StepConfig{MaxAttempts: 3, RetryDelayMS: 1, Backoff: "constant"}, First, Second)).answered(t, 0, "fine")
	p.asked(t, First, First, First)
}

func sameBytes(t *testing.T, p *Play) {
	p.open(t, Setup{})
	p.Backend.Play(First, Fail(500, ""), Reset(), Fail(429, ""), Text("fine"))
	p.ask(t, chainOf(t, &gateway.StepConfig{MaxAttempts: 4, RetryDelayMS: 1, Backoff: "constant"}, First)).answered(t, 0, "fine")
	hits := p.Backend.Hits()
	if len(hits) != 4 {
		t.Fatalf("%d tries", len(hits))
	}
	for _, h := range hits[1:] {
		if h.Body != hits[0].Body || h.URI != hits[0].URI || h.Header.Get("Authorization") != "Bearer "+Key(First) {
			t.Errorf("sent %+v after %+v", h, hits[0])
		}
	}
}

// backsOff holds the pauses, in milliseconds, from below.
func backsOff(t *testing.T, p *Play, backoff string, want ...int) {
	t.Helper()
	p.open(t, Setup{})
	p.Backend.Play(First, Fail(503, ""))
	p.ask(t, chainOf(t, &gateway.StepConfig{MaxAttempts: len(want) + 1, RetryDelayMS: want[0], Backoff: backoff}, First)).failed(t, p, gateway.Overloaded, "", 503)
	gaps := p.gaps()
	if len(gaps) != len(want) {
		t.Fatalf("%d tries, want %d", len(gaps)+1, len(want)+1)
	}
	for i, gap := range gaps {
		if gap < time.Duration(want[i])*time.Millisecond {
			t.Errorf("pause %d took %v, want at least %d ms", i+1, gap, want[i])
		}
	}
}

func noLastPause(t *testing.T, p *Play) {
	p.open(t, Setup{})
	p.Backend.Play(First, Fail(503, ""))
	p.Backend.Play(Second, Text("fine"))
	start := time.Now()
	p.ask(t, chainOf(t, &gateway.StepConfig{MaxAttempts: 1, RetryDelayMS: 5000, Backoff: "constant"}, First, Second)).answered(t, 1, "fine")
	if d := time.Since(start); d >= 5*time.Second {
		t.Errorf("took %v", d)
	}
}

// hintKept holds a wait that the provider asked for. The client waits before it sends its whole request again.
func hintKept(t *testing.T, p *Play, name, value string, least time.Duration) {
	t.Helper()
	p.hinted(t, name, value)
	if gaps := p.gaps(); len(gaps) != 1 || gaps[0] < least {
		t.Errorf("tried again after %v, want %v", gaps, least)
	}
}

func dateKept(t *testing.T, p *Play) {
	date := time.Now().Add(3 * time.Second).UTC().Truncate(time.Second) // a date has whole seconds
	p.hinted(t, "Retry-After", date.Format(http.TimeFormat))
	if hits := p.Backend.Hits(); len(hits) != 2 || hits[1].At.Before(date) {
		t.Errorf("%d tries, the last at %v, want one at %v", len(hits), hits[len(hits)-1].At, date)
	}
}

func (p *Play) hinted(t *testing.T, name, value string) {
	t.Helper()
	p.open(t, Setup{Attempts: 2})
	p.Backend.Play(First, Fail(429, "").With(name, value), Text("fine"))
	c := &gateway.StepConfig{MaxAttempts: 2, RetryDelayMS: 1, Backoff: "constant"}
	if p.Kind == Client {
		c.MaxAttempts = 1
	}
	p.ask(t, chainOf(t, c, First)).answered(t, 0, "fine")
}

func hintTooLong(t *testing.T, p *Play) {
	p.open(t, Setup{Patience: time.Second})
	p.Backend.Play(First, Fail(429, "").With("Retry-After", "3600"))
	p.Backend.Play(Second, Text("fine"))
	p.ask(t, chain(t, First, Second)).answered(t, 1, "fine")
	p.asked(t, First, Second)
}

func hintTold(t *testing.T, p *Play) {
	p.open(t, Setup{})
	p.Backend.Play(First, Fail(429, "").With("Retry-After", "77"))
	r := p.ask(t, chainOf(t, once(), First))
	r.failed(t, p, gateway.RateLimited, "", 429)
	if p.Kind == Wire && r.Header.Get("Retry-After") != "77" || r.Err != nil && r.Err.RetryAfter != 77*time.Second {
		t.Errorf("got %v with %v", r, r.Header)
	}
}

func attemptsByHeader(t *testing.T, p *Play) {
	r := p.tries(t, map[string]string{"Cf-Aig-Max-Attempts": "3", "Cf-Aig-Retry-Delay": "60", "Cf-Aig-Backoff": "constant"}, nil, nil)
	r.answered(t, 1, "fine")
	p.asked(t, First, First, First, Second)
	for i, gap := range p.gaps() {
		if i < 2 && gap < 60*time.Millisecond {
			t.Errorf("tried again after %v", gap)
		}
	}
}

func attemptsByStepHeader(t *testing.T, p *Play) {
	p.tries(t, map[string]string{"Cf-Aig-Max-Attempts": "4", "Cf-Aig-Retry-Delay": "1"}, map[string]string{"cf-aig-max-attempts": "2"}, nil).answered(t, 1, "fine")
	p.asked(t, First, First, Second)
}

func attemptsByConfig(t *testing.T, p *Play) {
	p.tries(t, map[string]string{"Cf-Aig-Retry-Delay": "1"}, map[string]string{"cf-aig-max-attempts": "4"}, &gateway.StepConfig{MaxAttempts: 2, RetryDelayMS: 1}).answered(t, 1, "fine")
	p.asked(t, First, First, Second)
}

// tries asks a step that fails and one that doesn't, with settings at three places.
func (p *Play) tries(t *testing.T, request, step map[string]string, c *gateway.StepConfig) Reply {
	t.Helper()
	p.open(t, Setup{})
	p.Backend.Play(First, Fail(500, ""))
	p.Backend.Play(Second, Text("fine"))
	req := chainOf(t, c, First, Second)
	req.Steps[0].Headers = step
	h, body := p.array(t, req)
	for name, value := range request {
		h.Set(name, value)
	}
	return p.post(t.Context(), t, h, body)
}

func timeoutByHeader(t *testing.T, p *Play) {
	p.open(t, Setup{})
	p.Backend.Play(First, Hang())
	p.Backend.Play(Second, Text("fine"))
	req := chainOf(t, once(), First, Second)
	req.Steps[1].Headers = map[string]string{"cf-aig-request-timeout": "30000"}
	h, body := p.array(t, req)
	h.Set("Cf-Aig-Request-Timeout", "100")
	p.post(t.Context(), t, h, body).answered(t, 1, "fine")
	p.Backend.AwaitGone(t, 1)
	p.asked(t, First, Second)
}
