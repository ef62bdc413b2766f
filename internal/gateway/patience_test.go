package gateway_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"batchwright/internal/gateway"
	"batchwright/internal/gateway/gatewaytest"
)

// Waiting for a place among the calls in flight must end before a call could only be cut: it would be paid for nothing.
func TestACallThatFindsNoPlaceInTimeIsNotSentAndIsNoTimeout(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		slow := gatewaytest.Text("fine")
		slow.Delay = 10 * time.Second
		s := gatewaytest.NewScript(map[string][]gatewaytest.Answer{"openai": {slow}})
		e := engineOf(t, gateway.EngineOptions{Transport: s, Concurrency: gateway.ConcurrencyOptions{Initial: 1, Max: 1},
			Endpoints: map[string]gateway.Endpoint{"openai": {BaseURL: "https://openai.test/v1", Key: "k"}}})
		var book gatewaytest.Book
		var wg sync.WaitGroup
		var mu sync.Mutex
		good, late := 0, 0
		for range 12 {
			wg.Go(func() {
				req := chain(t, &gateway.StepConfig{RequestTimeoutMS: 15_000}, "openai")
				req.Options.Timeout = time.Minute
				_, err := e.Run(t.Context(), req, book.Ledger)
				fail, _ := errors.AsType[*gateway.Error](err)
				mu.Lock()
				defer mu.Unlock()
				switch {
				case err == nil:
					good++
				case fail != nil && fail.Class == gateway.RateLimited && fail.Code == "crowded" && !fail.Uncertain:
					late++
				default:
					t.Errorf("err %v", err)
				}
			})
		}
		wg.Wait()
		if good != 5 || late != 7 || len(book.Entries()) != 5 { // begun at 0, 10, 20, 30 and 40 s; at 45 s it is too late to begin
			t.Errorf("%d answers, %d too late, %d sends", good, late, len(book.Entries()))
		}
	})
}

func TestAHoldBeyondTheDeadlineIsARateLimitThatSaysHowLong(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := gatewaytest.NewScript(map[string][]gatewaytest.Answer{"openai": {gatewaytest.Fail(429, "").After("20")}})
		e := gatewaytest.NewEngine(t, s)
		req := chain(t, nil, "openai")
		req.Options.Timeout = 5 * time.Second
		for i, code := range []string{"", "crowded"} {
			_, err := e.Run(t.Context(), req, nil)
			fail, ok := errors.AsType[*gateway.Error](err)
			if !ok || fail.Class != gateway.RateLimited || fail.Code != code || fail.RetryAfter < 15*time.Second || len(s.Calls()) != 1 {
				t.Errorf("%d: err %#v after %d calls", i, err, len(s.Calls()))
			}
		}
	})
}

func TestACallerWhoGivesUpInTheLastPauseGetsTheCause(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := gatewaytest.NewScript(map[string][]gatewaytest.Answer{"openai": {gatewaytest.Fail(503, "").After("20")}})
		gone := errors.New("gone")
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, gone)
		defer cancel()
		if _, err := gatewaytest.NewEngine(t, s).Run(ctx, chain(t, nil, "openai"), nil); !errors.Is(err, gone) {
			t.Errorf("err %v", err)
		}
	})
}

func TestPiecesThatComeInTimeAreNotStandingStill(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		rt := roundTrip(func(r *http.Request) (*http.Response, error) {
			body, w := io.Pipe()
			go func() {
				for _, piece := range []string{`{"choices":[{"message":{"content":"fi`, `ne"},"finish_reason":"stop"}]`, `}`} {
					select {
					case <-time.After(6 * time.Second):
						_, _ = w.Write([]byte(piece))
					case <-r.Context().Done():
						_ = w.CloseWithError(r.Context().Err())
						return
					}
				}
				_ = w.Close()
			}()
			return &http.Response{StatusCode: 200, Header: http.Header{}, Body: body, ContentLength: -1, Request: r}, nil
		})
		e := engineOf(t, gateway.EngineOptions{Transport: rt, IdleTimeout: 7 * time.Second, Endpoints: map[string]gateway.Endpoint{"openai": {BaseURL: "https://openai.test/v1", Key: "k"}}})
		resp, err := e.Run(t.Context(), chain(t, &gateway.StepConfig{MaxAttempts: 1}, "openai"), nil)
		if err != nil || resp.Text != "fine" {
			t.Errorf("answer %+v, err %v", resp, err)
		}
	})
}

func TestAPromiseThatCannotBeAskedForMayHaveBeenBilled(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := gatewaytest.NewScript(map[string][]gatewaytest.Answer{"replicate": {{Status: 201, Body: promised}, gatewaytest.Fail(404, "")}})
		step, err := gateway.NewStep("replicate", "meta/llama", &gateway.Chat{Messages: []gateway.Message{{Role: "user", Content: "hi"}}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		var book gatewaytest.Book
		_, err = gatewaytest.NewEngine(t, s).Run(t.Context(), &gateway.Request{Steps: []gateway.Step{step}}, book.Ledger)
		if gateway.ClassOf(err) != gateway.NotFound || len(book.Entries()) != 1 || !book.Entries()[0].Outcome.Uncertain {
			t.Errorf("err %v, entries %+v", err, book.Entries())
		}
	})
}

func TestAPromiseIsNotAskedOfTheGatewaysCache(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := gatewaytest.NewScript(map[string][]gatewaytest.Answer{"replicate": {{Status: 201, Body: promised}, {Body: kept}}})
		step, err := gateway.NewStep("replicate", "meta/llama", &gateway.Chat{Messages: []gateway.Message{{Role: "user", Content: "hi"}}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		req := &gateway.Request{Steps: []gateway.Step{step}, Options: gateway.Options{CacheTTL: time.Hour, CacheKey: "same"}}
		if _, err := native(t, s).Run(t.Context(), req, nil); err != nil {
			t.Fatal(err)
		}
		asked, poll := s.Calls()[0].Header, s.Calls()[1].Header
		if asked.Get("Cf-Aig-Cache-Ttl") != "3600" || asked.Get("Cf-Aig-Skip-Cache") != "" {
			t.Errorf("the request: %v", asked)
		}
		if poll.Get("Cf-Aig-Skip-Cache") != "true" || poll.Get("Cf-Aig-Cache-Ttl") != "" || poll.Get("Cf-Aig-Cache-Key") != "" {
			t.Errorf("asking for the promise: %v", poll)
		}
	})
}

// Calls that wait for a place with a key that is refused meanwhile must not be refused one after the other.
func TestAKeyThatIsRefusedWhileCallsWaitIsNotTriedByAllOfThem(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		rt := &byKey{bad: map[string]int{"dead": 401}}
		slow := roundTrip(func(r *http.Request) (*http.Response, error) {
			<-time.After(time.Second)
			return rt.RoundTrip(r)
		})
		e := engineOf(t, gateway.EngineOptions{Transport: slow, Concurrency: gateway.ConcurrencyOptions{Initial: 1, Max: 1},
			Endpoints: map[string]gateway.Endpoint{"openai": {BaseURL: "https://openai.test/v1", Keys: keys("dead", "good")}}})
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				if resp, err := e.Run(t.Context(), chain(t, nil, "openai"), nil); err != nil || resp.Text != "fine" {
					t.Errorf("answer %+v, err %v", resp, err)
				}
			})
		}
		wg.Wait()
		dead := 0
		for _, key := range rt.seen {
			if key == "dead" {
				dead++
			}
		}
		if dead != 1 || len(rt.seen) != 11 {
			t.Errorf("the dead key was tried %d times of %d", dead, len(rt.seen))
		}
	})
}
