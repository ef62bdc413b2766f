package gateway_test

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"batchwright/internal/gateway"
	"batchwright/internal/gateway/gatewaytest"
)

// engineOf returns an engine that reaches its providers through rt.
func engineOf(t *testing.T, o gateway.EngineOptions) *gateway.Engine {
	t.Helper()
	e, err := gateway.NewEngine(o)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func keys(values ...string) []gateway.Key {
	var out []gateway.Key
	for _, v := range values {
		out = append(out, gateway.Key{Value: v})
	}
	return out
}

// byKey answers by the key that a request brings.
type byKey struct {
	mu   sync.Mutex
	seen []string
	bad  map[string]int // status by key
}

func (b *byKey) RoundTrip(r *http.Request) (*http.Response, error) {
	key := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
	b.mu.Lock()
	defer b.mu.Unlock()
	b.seen = append(b.seen, key)
	a := gatewaytest.Text("fine")
	if status := b.bad[key]; status != 0 {
		a = gatewaytest.Fail(status, "")
	}
	return gatewaytest.NewScript(map[string][]gatewaytest.Answer{"openai": {a}}).RoundTrip(r)
}

func TestADeadKeyIsSetAsideAndTheNextOneTried(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		rt := &byKey{bad: map[string]int{"dead": 401, "broke": 402}}
		e := engineOf(t, gateway.EngineOptions{Transport: rt, Endpoints: map[string]gateway.Endpoint{
			"openai": {BaseURL: "https://openai.test/v1", Keys: keys("dead", "broke", "good")}}})
		sends := 0
		for range 6 {
			var book gatewaytest.Book
			resp, err := e.Run(t.Context(), chain(t, &gateway.StepConfig{MaxAttempts: 1}, "openai"), book.Ledger)
			if err != nil || resp.Text != "fine" {
				t.Fatalf("answer %+v, err %v", resp, err)
			}
			if last := resp.Attempts[len(resp.Attempts)-1]; last.Key != "key-3" || len(resp.Attempts) != resp.Sends {
				t.Errorf("attempts %+v, %d sends", resp.Attempts, resp.Sends)
			}
			book.Check(t, 1)
			sends += len(book.Entries())
		}
		if n := len(rt.seen); n != 8 {
			t.Errorf("%d sends for 6 answers: %v; a dead key must be tried once", n, rt.seen)
		}
		if sends != 8 {
			t.Errorf("the ledger saw %d sends", sends)
		}
	})
}

func TestWhenAllKeysAreDeadTheNextStepAnswers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		rt := &byKey{bad: map[string]int{"a": 401, "b": 401}}
		e := engineOf(t, gateway.EngineOptions{Transport: rt, Endpoints: map[string]gateway.Endpoint{
			"openai": {BaseURL: "https://openai.test/v1", Keys: keys("a", "b")}}})
		for range 2 {
			resp, err := e.Run(t.Context(), chain(t, nil, "openai", "local"), nil)
			if err != nil || resp.Provider != "local" {
				t.Fatalf("answer %+v, err %v", resp, err)
			}
		}
		_, err := e.Run(t.Context(), chain(t, nil, "openai"), nil)
		if gateway.ClassOf(err) != gateway.Auth || !strings.Contains(err.Error(), "no_live_key") || len(rt.seen) != 2 {
			t.Errorf("err %v after %v", err, rt.seen)
		}
	})
}

func TestAnotherKeyIsTriedAtOnceWhenOneIsOverItsRate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		rt := &byKey{bad: map[string]int{"a": 429}}
		e := engineOf(t, gateway.EngineOptions{Transport: rt, Endpoints: map[string]gateway.Endpoint{
			"openai": {BaseURL: "https://openai.test/v1", Keys: keys("a", "b")}}})
		start := time.Now()
		resp, err := e.Run(t.Context(), chain(t, nil, "openai"), nil)
		if err != nil || resp.Text != "fine" || time.Since(start) != 0 {
			t.Errorf("answer %+v, err %v after %v", resp, err, time.Since(start))
		}
	})
}

func TestTheBreakerLeavesABrokenModelAlone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := gatewaytest.NewScript(map[string][]gatewaytest.Answer{"openai": {gatewaytest.Fail(500, "")}, "custom-b": {gatewaytest.Text("fine")}})
		e := gatewaytest.NewEngine(t, s)
		one := &gateway.StepConfig{MaxAttempts: 1}
		for range 100 {
			if resp, err := e.Run(t.Context(), chain(t, one, "openai", "custom-b"), nil); err != nil || resp.Provider != "custom-b" {
				t.Fatalf("answer %+v, err %v", resp, err)
			}
		}
		n := 0
		for _, p := range s.Providers() {
			if p == "openai" {
				n++
			}
		}
		if n < 20 || n > 30 {
			t.Errorf("a provider that always fails was called %d times of 100", n)
		}
		_, err := e.Run(t.Context(), chain(t, one, "openai"), nil)
		if gateway.ClassOf(err) != gateway.RateLimited || !strings.Contains(err.Error(), "circuit_open") {
			t.Errorf("err %v", err)
		}
	})
}

// meter is a Limiter that says what it is told to and remembers.
type meter struct {
	waits   []time.Duration
	amounts []gateway.Amount
	settled []gateway.Amount
}

func (m *meter) Reserve(_ context.Context, b []gateway.Bound, a gateway.Amount) (gateway.Reservation, time.Duration, error) {
	if len(m.waits) > 0 {
		w := m.waits[0]
		m.waits = m.waits[1:]
		if w > 0 {
			return gateway.Reservation{}, w, nil
		}
	}
	m.amounts = append(m.amounts, a)
	return gateway.Reservation{Bounds: b, Amount: a, At: time.Now()}, 0, nil
}

func (m *meter) Settle(_ context.Context, _ gateway.Reservation, used gateway.Amount) error {
	m.settled = append(m.settled, used)
	return nil
}

func TestLimitsAreReservedAndSettled(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := gatewaytest.NewScript(map[string][]gatewaytest.Answer{"openai": {gatewaytest.Fail(429, ""), gatewaytest.Text("fine")}})
		m := &meter{waits: []time.Duration{3 * time.Second}}
		e := engineOf(t, gateway.EngineOptions{Transport: s, Limiter: m, Limits: map[string]gateway.Limit{"openai": {Requests: 10}},
			Cost:      func(string, string, gateway.Usage) (int64, bool) { return 7, true },
			Endpoints: map[string]gateway.Endpoint{"openai": {BaseURL: "https://openai.test/v1", Key: "k"}}})
		req := chain(t, nil, "openai")
		req.Steps[0].Estimate = gateway.Amount{Tokens: 100, MicroUSD: 50}
		start := time.Now()
		if _, err := e.Run(t.Context(), req, nil); err != nil {
			t.Fatal(err)
		}
		if time.Since(start) < 3*time.Second {
			t.Errorf("took %v, although there was no room for 3 s", time.Since(start))
		}
		want := []gateway.Amount{{}, {Tokens: 12, MicroUSD: 7}} // refused: nothing used; answered: what the answer says
		if !slices.Equal(m.settled, want) || !slices.Equal(m.amounts, []gateway.Amount{{Tokens: 100, MicroUSD: 50}, {Tokens: 100, MicroUSD: 50}}) {
			t.Errorf("reserved %v, settled %v, want %v", m.amounts, m.settled, want)
		}
	})
}

func TestALimitBeyondOurPatienceGoesToTheNextStepUnsent(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := gatewaytest.NewScript(map[string][]gatewaytest.Answer{"openai": {gatewaytest.Text("fine")}})
		m := &meter{waits: slices.Repeat([]time.Duration{50 * time.Second}, 9)}
		e := engineOf(t, gateway.EngineOptions{Transport: s, Limiter: m, Limits: map[string]gateway.Limit{"openai": {Requests: 10}},
			Endpoints: map[string]gateway.Endpoint{"openai": {BaseURL: "https://openai.test/v1", Key: "k"}}})
		var book gatewaytest.Book
		resp, err := e.Run(t.Context(), chain(t, nil, "openai", "local"), book.Ledger)
		if err != nil || resp.Provider != "local" || len(book.Entries()) != 1 || len(s.Calls()) != 0 {
			t.Errorf("answer %+v, err %v, %d sends", resp, err, len(book.Entries()))
		}
		_, err = e.Run(t.Context(), chain(t, nil, "openai"), nil)
		if gateway.ClassOf(err) != gateway.RateLimited || !strings.Contains(err.Error(), "code limit") {
			t.Errorf("err %v", err)
		}
	})
}

func cachingEngine(t *testing.T, s *gatewaytest.Script) *gateway.Engine {
	t.Helper()
	c := gateway.NewCache(gateway.CacheOptions{})
	t.Cleanup(c.Close)
	return engineOf(t, gateway.EngineOptions{Transport: s, Cache: c, Endpoints: map[string]gateway.Endpoint{
		"openai": {BaseURL: "https://openai.test/v1", Key: "k"}, "custom-b": {BaseURL: "https://custom-b.test/v1"}}})
}

func TestTheEngineCachesWhatItIsToldTo(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := gatewaytest.NewScript(map[string][]gatewaytest.Answer{"openai": {gatewaytest.Text("one"), gatewaytest.Text("two"), gatewaytest.Text("three"), gatewaytest.Text("four"), gatewaytest.Text("five")}})
		e := cachingEngine(t, s)
		ask := func(o gateway.Options, want string, status gateway.CacheStatus) {
			t.Helper()
			req := chain(t, nil, "openai")
			req.Options = o
			var book gatewaytest.Book
			resp, err := e.Run(t.Context(), req, book.Ledger)
			if err != nil || resp.Text != want || resp.CacheStatus != status {
				t.Fatalf("%+v: answer %+v, err %v; want %q, %s", o, resp, err, want, status)
			}
			book.Check(t, 1)
			if es := book.Entries(); len(es) != 1 || es[0].Outcome.CacheStatus != status {
				t.Errorf("the ledger was told %+v", es)
			}
		}
		hour := gateway.Options{CacheTTL: time.Hour}
		ask(hour, "one", gateway.CacheMiss)
		ask(hour, "one", gateway.CacheHit)
		ask(gateway.Options{}, "two", gateway.CacheNone)
		ask(gateway.Options{CacheTTL: time.Hour, SkipCache: true}, "three", gateway.CacheMiss)
		ask(hour, "three", gateway.CacheHit)
		ask(gateway.Options{CacheTTL: time.Hour, Scope: "another project"}, "four", gateway.CacheMiss)
		<-time.After(time.Hour)
		ask(hour, "five", gateway.CacheMiss)
	})
}

func TestACustomKeyAnswersWhateverTheBody(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := gatewaytest.NewScript(map[string][]gatewaytest.Answer{"openai": {gatewaytest.Text("one"), gatewaytest.Text("two")}})
		e := cachingEngine(t, s)
		for i, want := range []string{"one", "one", "two"} {
			req := chain(t, nil, "openai")
			req.Steps[0].Query = []byte(strings.Replace(string(req.Steps[0].Query), "Rain", strings.Repeat("Rain ", i+1), 1))
			req.Options.CacheKey = "same"
			if resp, err := e.Run(t.Context(), req, nil); err != nil || resp.Text != want {
				t.Fatalf("call %d: %+v, %v", i, resp, err)
			}
			if i == 1 {
				<-time.After(5 * time.Minute) // how long a custom key keeps an answer without a TTL
			}
		}
	})
}

func TestIdenticalRequestsAtOnceAreSentOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		slow := gatewaytest.Text("one")
		slow.Delay = time.Second
		s := gatewaytest.NewScript(map[string][]gatewaytest.Answer{"openai": {slow}})
		e := cachingEngine(t, s)
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				req := chain(t, nil, "openai")
				req.Options.CacheTTL = time.Hour
				if resp, err := e.Run(t.Context(), req, nil); err != nil || resp.Text != "one" {
					t.Errorf("answer %+v, err %v", resp, err)
				}
			})
		}
		wg.Wait()
		if n := len(s.Calls()); n != 1 {
			t.Errorf("%d sends", n)
		}
	})
}

func TestAnAnswerThatWasCutOffOrSaysNothingIsNotCached(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		cut := gatewaytest.Answer{Body: `{"model":"m","choices":[{"message":{"content":"half"},"finish_reason":"length"}]}`}
		s := gatewaytest.NewScript(map[string][]gatewaytest.Answer{"openai": {cut, gatewaytest.Text(" "), gatewaytest.Text("whole")}})
		e := cachingEngine(t, s)
		for _, want := range []string{"half", " ", "whole", "whole"} {
			req := chain(t, nil, "openai")
			req.Options.CacheTTL = time.Hour
			if resp, err := e.Run(t.Context(), req, nil); err != nil || resp.Text != want {
				t.Fatalf("answer %+v, err %v, want %s", resp, err, want)
			}
		}
	})
}

func TestKeysThatAreAllOverTheirRateAreWaitedForAndNotTakenForDead(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		rt := &byKey{bad: map[string]int{"a": 429, "b": 429}}
		e := engineOf(t, gateway.EngineOptions{Transport: rt, Endpoints: map[string]gateway.Endpoint{
			"openai": {BaseURL: "https://openai.test/v1", Keys: keys("a", "b")}}})
		one := &gateway.StepConfig{MaxAttempts: 1}
		_, err := e.Run(t.Context(), chain(t, one, "openai"), nil)
		if gateway.ClassOf(err) != gateway.RateLimited {
			t.Errorf("err %v", err)
		}
		_, err = e.Run(t.Context(), chain(t, one, "openai"), nil) // another request, while both are set aside
		fail, ok := errors.AsType[*gateway.Error](err)
		if !ok || fail.Class != gateway.RateLimited || fail.Code != "no_live_key" || fail.RetryAfter <= 0 || len(rt.seen) != 2 {
			t.Errorf("err %v after %v", err, rt.seen)
		}
		rt.mu.Lock()
		rt.bad = nil
		rt.mu.Unlock()
		resp, err := e.Run(t.Context(), chain(t, nil, "openai"), nil)
		if err != nil || resp.Text != "fine" {
			t.Errorf("answer %+v, err %v", resp, err)
		}
	})
}
