package conformance

import (
	"slices"
	"sync"
	"testing"
	"time"

	"batchwright/internal/gateway"
)

func cacheCases() []Case {
	cs := []Case{
		{Name: "nothing is kept unless somebody asks for it", Run: cacheOff},
		{Name: "the same request is answered from the cache", Run: cacheHits},
		{Name: "an answer from the cache has the same bytes, step and type", Run: cacheSameBytes},
		{Name: "an answer is kept for as long as its TTL says", Run: cacheTTL},
		{Name: "skip-cache asks the provider", Run: cacheSkipped},
		{Name: "a body that differs in one blank misses", Run: cacheByBody},
		{Name: "another endpoint misses", Run: cacheByEndpoint},
		{Name: "another key misses", Run: cacheByKey},
		{Name: "another provider misses", Run: cacheByProvider},
		{Name: "a custom key serves whatever is asked under it", Run: cacheCustomKey},
		{Name: "a custom key alone keeps an answer for five minutes", Run: cacheCustomKeyAlone},
		{Name: "a cache key of four kilobytes is taken", Run: cacheLongKey},
		{Name: "a failure is not kept", Run: cacheNoFailures},
		{Name: "a fallback's answer is kept under its own step", Run: cacheFallback},
		{Name: "identical requests at the same time ask the provider once", Run: cacheSingleFlight},
		{Name: "a failure is not shared with those that waited for it", Run: cacheSharesNoFailure},
		{Name: "an answer that ended for length is kept like any other, but not by the engine", Run: cacheLength},
		{Name: "the ledger is told of an answer from the cache", Run: cacheTold, Not: map[Kind]string{Wire: "the wire's caller has no ledger"}},
	}
	noSettings := map[Kind]string{Engine: "the engine has no gateways, and no settings of theirs"}
	inHeaders := map[Kind]string{Engine: noSettings[Engine], Client: "the client doesn't ask for it in this way"}
	return append(cs, []Case{
		{Name: "a gateway's own setting keeps answers", Run: cacheBySetting, Not: noSettings},
		{Name: "two gateways keep their answers apart", Run: cacheApart, Not: noSettings},
		{Name: "a step's header turns the cache on for that step", Run: cacheByStep, Not: inHeaders},
		{Name: "the deprecated names of the cache's headers still hold", Run: cacheOldNames, Not: inHeaders},
		{Name: "a stream is not kept", Run: cacheNoStreams, Not: inHeaders},
		{Name: "a TTL of zero turns a gateway's cache off", Run: cacheTTLZero, Not: inHeaders},
	}...)
}

// hour is a request that asks the provider and lets the answer be kept for an hour.
func hour(t testing.TB, providers ...string) *gateway.Request {
	t.Helper()
	req := chainOf(t, once(), providers...)
	req.Options.CacheTTL = time.Hour
	return req
}

// verdict fails the test unless the answer and the cache's verdict are these.
func (r Reply) verdict(t *testing.T, text string, want gateway.CacheStatus) {
	t.Helper()
	if !r.Good || r.Text != text || r.Cache != want {
		t.Errorf("got %v, want %q and %s", r, text, want)
	}
}

func (p *Play) openTwo(t *testing.T, s Setup) {
	t.Helper()
	p.open(t, s)
	p.Backend.Play(First, Text("one"), Text("two"))
}

func cacheOff(t *testing.T, p *Play) {
	p.openTwo(t, Setup{})
	for _, want := range []string{"one", "two"} {
		r := p.ask(t, chainOf(t, once(), First))
		if r.Text != want || r.Cache == gateway.CacheHit {
			t.Errorf("got %v, want %q", r, want)
		}
	}
}

func cacheHits(t *testing.T, p *Play) {
	p.openTwo(t, Setup{})
	p.ask(t, hour(t, First)).verdict(t, "one", gateway.CacheMiss)
	p.ask(t, hour(t, First)).verdict(t, "one", gateway.CacheHit)
	p.ask(t, hour(t, First)).verdict(t, "one", gateway.CacheHit)
	p.asked(t, First)
}

func cacheSameBytes(t *testing.T, p *Play) {
	p.open(t, Setup{})
	body := "{ \"choices\":[{\"message\":{\"content\":\"\\u00e9 <\"}, \"finish_reason\":\"stop\"}],\n\"x\":1.50}"
	p.Backend.Play(First, Body(200, body).With("Content-Type", "application/json; charset=utf-8"))
	a, b := p.ask(t, hour(t, First)), p.ask(t, hour(t, First))
	if a.Body != body || b.Body != body || b.Step != 0 || b.Cache != gateway.CacheHit {
		t.Errorf("got %v, then %v", a, b)
	}
	if p.Kind == Wire && b.Header.Get("Content-Type") != "application/json; charset=utf-8" {
		t.Errorf("type %q", b.Header.Get("Content-Type"))
	}
	if p.Kind != Engine && a.LogID == b.LogID {
		t.Errorf("both requests have the log id %q", a.LogID)
	}
}

func cacheBySetting(t *testing.T, p *Play) {
	p.openTwo(t, Setup{Cache: time.Hour})
	p.ask(t, chainOf(t, once(), First)).verdict(t, "one", gateway.CacheMiss)
	p.ask(t, chainOf(t, once(), First)).verdict(t, "one", gateway.CacheHit)
	p.asked(t, First)
	p.kept(t, time.Hour)
}

func cacheTTL(t *testing.T, p *Play) {
	p.openTwo(t, Setup{})
	req := hour(t, First)
	req.Options.CacheTTL = 90 * time.Second
	p.ask(t, req).verdict(t, "one", gateway.CacheMiss)
	p.ask(t, req).verdict(t, "one", gateway.CacheHit)
	p.kept(t, 90*time.Second)
}

// kept fails the test unless answers were put into the cache for just so long. The time itself is the cache's own, whose
// tests run it in fake time.
func (p *Play) kept(t *testing.T, want ...time.Duration) {
	t.Helper()
	eventually(t.Context(), func() bool { return len(p.Subject.Kept()) >= len(want) })
	if got := p.Subject.Kept(); !slices.Equal(got, want) {
		t.Errorf("kept for %v, want %v", got, want)
	}
}

func cacheSkipped(t *testing.T, p *Play) {
	p.openTwo(t, Setup{})
	p.ask(t, hour(t, First)).verdict(t, "one", gateway.CacheMiss)
	skip := hour(t, First)
	skip.Options.SkipCache = true
	if r := p.ask(t, skip); r.Text != "two" || r.Cache == gateway.CacheHit {
		t.Errorf("got %v", r)
	}
	p.asked(t, First, First)
}

// differs shows that a request misses what another one left, and that both are kept.
func (p *Play) differs(t *testing.T, a, b *gateway.Request) {
	t.Helper()
	p.ask(t, a).verdict(t, "one", gateway.CacheMiss)
	p.ask(t, b).verdict(t, "two", gateway.CacheMiss)
	p.ask(t, a).verdict(t, "one", gateway.CacheHit)
	p.ask(t, b).verdict(t, "two", gateway.CacheHit)
}

func cacheByBody(t *testing.T, p *Play) {
	p.openTwo(t, Setup{})
	a, b := hour(t, First), hour(t, First)
	a.Steps[0].Query, b.Steps[0].Query = []byte(`{"model":"m-1","messages":[]}`), []byte(`{"model":"m-1", "messages":[]}`)
	p.differs(t, a, b)
}

func cacheByEndpoint(t *testing.T, p *Play) {
	p.openTwo(t, Setup{})
	a, b := hour(t, First), hour(t, First)
	b.Steps[0].Endpoint += "?x=1"
	p.differs(t, a, b)
}

func cacheByKey(t *testing.T, p *Play) {
	p.openTwo(t, Setup{})
	a, b := hour(t, First), hour(t, First)
	b.Steps[0].Headers = map[string]string{"Authorization": "Bearer sk-test-another-5e2b"}
	p.differs(t, a, b)
}

func cacheByProvider(t *testing.T, p *Play) {
	p.open(t, Setup{})
	p.Backend.Play(First, Text("one"))
	p.Backend.Play(Second, Text("two"))
	a, b := hour(t, First), hour(t, Second)
	auth := map[string]string{"Authorization": "Bearer sk-test-of-both-77aa"}
	a.Steps[0].Headers, b.Steps[0].Headers = auth, auth
	p.differs(t, a, b)
}

func cacheCustomKey(t *testing.T, p *Play) {
	p.openTwo(t, Setup{})
	a, b := hour(t, First), hour(t, First)
	b.Steps[0].Query = []byte(`{"model":"m-2","messages":[]}`)
	a.Options.CacheKey, b.Options.CacheKey = "row 7", "row 7"
	p.ask(t, a).verdict(t, "one", gateway.CacheMiss)
	p.ask(t, b).verdict(t, "one", gateway.CacheHit)
	b.Options.CacheKey = "row 8"
	p.ask(t, b).verdict(t, "two", gateway.CacheMiss)
}

func cacheCustomKeyAlone(t *testing.T, p *Play) {
	p.openTwo(t, Setup{})
	req := chainOf(t, once(), First)
	req.Options.CacheKey = "row 9"
	p.ask(t, req).verdict(t, "one", gateway.CacheMiss)
	p.ask(t, req).verdict(t, "one", gateway.CacheHit)
	p.kept(t, 5*time.Minute)
}

func cacheLongKey(t *testing.T, p *Play) {
	p.openTwo(t, Setup{})
	long := make([]byte, 4096)
	for i := range long {
		long[i] = 'a' + byte(i%26)
	}
	a, b := hour(t, First), hour(t, First)
	a.Options.CacheKey = string(long)
	long[4095] = '!'
	b.Options.CacheKey = string(long)
	p.differs(t, a, b)
}

func cacheNoFailures(t *testing.T, p *Play) {
	p.open(t, Setup{})
	p.Backend.Play(First, Fail(404, "model_not_found"), Text("fine"))
	p.ask(t, hour(t, First)).failed(t, p, gateway.NotFound, "model_not_found", 404)
	p.ask(t, hour(t, First)).verdict(t, "fine", gateway.CacheMiss)
	p.ask(t, hour(t, First)).verdict(t, "fine", gateway.CacheHit)
}

func cacheFallback(t *testing.T, p *Play) {
	p.open(t, Setup{})
	p.Backend.Play(First, Fail(404, ""), Text("late"))
	p.Backend.Play(Second, Text("fine"))
	r := p.ask(t, hour(t, First, Second))
	r.verdict(t, "fine", gateway.CacheMiss)
	r.answered(t, 1, "fine")
	// The second step's answer is not the first one's: the first is asked again.
	p.ask(t, hour(t, First, Second)).answered(t, 0, "late")
	p.ask(t, hour(t, Second)).verdict(t, "fine", gateway.CacheHit)
}

func cacheSingleFlight(t *testing.T, p *Play) {
	p.open(t, Setup{})
	p.Backend.Play(First, Text("one").After(time.Second), Text("two"))
	first := make(chan Reply, 1)
	go func() { first <- p.ask(t, hour(t, First)) }()
	p.Backend.Await(t, 1)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if r := p.ask(t, hour(t, First)); !r.Good || r.Text != "one" {
				t.Errorf("got %v", r)
			}
		})
	}
	wg.Wait()
	(<-first).verdict(t, "one", gateway.CacheMiss)
	p.asked(t, First)
}

func cacheSharesNoFailure(t *testing.T, p *Play) {
	p.open(t, Setup{})
	p.Backend.Play(First, Fail(404, "model_not_found").After(time.Second), Text("fine"))
	first := make(chan Reply, 1)
	go func() { first <- p.ask(t, hour(t, First)) }()
	p.Backend.Await(t, 1)
	if r := p.ask(t, hour(t, First)); !r.Good || r.Text != "fine" {
		t.Errorf("got %v", r)
	}
	(<-first).failed(t, p, gateway.NotFound, "model_not_found", 404)
}

func cacheLength(t *testing.T, p *Play) {
	p.open(t, Setup{})
	p.Backend.Play(First, Body(200, Chat("half", "length")), Body(200, Chat("other", "length")))
	p.ask(t, hour(t, First)).verdict(t, "half", gateway.CacheMiss)
	if p.Kind == Engine {
		p.ask(t, hour(t, First)).verdict(t, "other", gateway.CacheMiss)
	} else {
		p.ask(t, hour(t, First)).verdict(t, "half", gateway.CacheHit)
	}
}

func cacheTold(t *testing.T, p *Play) {
	p.openTwo(t, Setup{})
	for _, want := range []gateway.CacheStatus{gateway.CacheMiss, gateway.CacheHit} {
		r := p.ask(t, hour(t, First))
		r.verdict(t, "one", want)
		if r.Outcome.CacheStatus != want || r.Outcome.Class != gateway.OK {
			t.Errorf("the ledger was told %+v", r.Outcome)
		}
	}
	p.asked(t, First)
}

func cacheApart(t *testing.T, p *Play) {
	p.openTwo(t, Setup{})
	p.ask(t, hour(t, First)).verdict(t, "one", gateway.CacheMiss)
	other := *p
	other.Subject.URL = p.Subject.Other(t)
	if p.Kind == Client {
		other.Kind = Wire // the other gateway has no client of its own
	}
	other.ask(t, hour(t, First)).verdict(t, "two", gateway.CacheMiss)
}

func cacheByStep(t *testing.T, p *Play) {
	p.openTwo(t, Setup{})
	req := chainOf(t, once(), First)
	req.Steps[0].Headers = map[string]string{"cf-aig-cache-ttl": "3600"}
	p.ask(t, req).verdict(t, "one", gateway.CacheMiss)
	p.ask(t, req).verdict(t, "one", gateway.CacheHit)
}

func cacheOldNames(t *testing.T, p *Play) {
	p.openTwo(t, Setup{})
	h, body := p.array(t, chainOf(t, once(), First))
	h.Set("Cf-Cache-Ttl", "3600")
	p.post(t.Context(), t, h, body).verdict(t, "one", gateway.CacheMiss)
	p.post(t.Context(), t, h, body).verdict(t, "one", gateway.CacheHit)
	h.Set("Cf-Skip-Cache", "true")
	if r := p.post(t.Context(), t, h, body); r.Text != "two" || r.Cache == gateway.CacheHit {
		t.Errorf("got %v", r)
	}
}

func cacheNoStreams(t *testing.T, p *Play) {
	p.open(t, Setup{Cache: time.Hour})
	p.Backend.Play(First, Events(nil, Deltas("one")...), Events(nil, Deltas("two")...))
	req := streamed(First)
	for range 2 {
		if r := p.ask(t, req); !r.Good || r.Cache == gateway.CacheHit {
			t.Errorf("got %v", r)
		}
	}
	p.asked(t, First, First)
}

func cacheTTLZero(t *testing.T, p *Play) {
	p.openTwo(t, Setup{Cache: time.Hour})
	h, body := p.array(t, chainOf(t, once(), First))
	h.Set("Cf-Aig-Cache-Ttl", "0")
	for _, want := range []string{"one", "two"} {
		if r := p.post(t.Context(), t, h, body); r.Text != want || r.Cache == gateway.CacheHit {
			t.Errorf("got %v", r)
		}
	}
}
