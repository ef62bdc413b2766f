package jobs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"go.uber.org/goleak"

	"batchwright/internal/gateway"
	"batchwright/internal/pricing"
	"batchwright/internal/prompt"
	"batchwright/internal/store"
)

// A pool's health check ends a moment after the pool is closed.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("github.com/jackc/pgx/v5/pgxpool.(*Pool).backgroundHealthCheck"))
}

func TestGroupWritesEveryItemOnceAndReportsItsOwnError(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var flushes, written atomic.Int64
		g := newGroup(10, time.Millisecond, func(_ context.Context, items []int) []error {
			flushes.Add(1)
			written.Add(int64(len(items)))
			if len(items) > 10 {
				t.Errorf("a set of %d items, want at most 10", len(items))
			}
			errs := make([]error, len(items))
			for i, v := range items {
				if v%7 == 0 {
					errs[i] = fmt.Errorf("item %d", v)
				}
			}
			return errs
		})
		var writers, callers sync.WaitGroup
		for range 2 {
			writers.Go(func() { g.run(t.Context()) })
		}
		for i := range 500 {
			callers.Go(func() {
				err := g.do(t.Context(), i)
				if want := i%7 == 0; (err != nil) != want || want && err.Error() != fmt.Sprintf("item %d", i) {
					t.Errorf("item %d: %v", i, err)
				}
			})
		}
		callers.Wait()
		g.close()
		writers.Wait()
		if written.Load() != 500 || flushes.Load() > 250 {
			t.Errorf("%d items in %d sets", written.Load(), flushes.Load())
		}
	})
}

func TestGroupWritesASecondSetBesideTheFirstOnlyWhenItIsFull(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		sets, answer := make(chan int, 10), make(chan struct{})
		g := newGroup(3, time.Millisecond, func(_ context.Context, items []int) []error {
			sets <- len(items)
			<-answer
			return nil
		})
		var all sync.WaitGroup
		for range 2 {
			all.Go(func() { g.run(t.Context()) })
		}
		add := func(n int) {
			for i := range n {
				all.Go(func() {
					if err := g.do(t.Context(), i); err != nil {
						t.Error(err)
					}
				})
			}
			synctest.Wait()
		}
		expect := func(want ...int) {
			<-time.After(time.Minute) // of the bubble's clock
			synctest.Wait()
			for _, n := range want {
				select {
				case got := <-sets:
					if got != n {
						t.Errorf("a set of %d items, want %d", got, n)
					}
				default:
					t.Errorf("no set of %d items", n)
				}
			}
			if len(sets) > 0 {
				t.Errorf("%d sets too many", len(sets))
			}
		}
		add(1)
		expect(1)
		add(2)
		expect()
		add(1)
		expect(3)
		add(2)
		expect()
		answer <- struct{}{}
		expect()
		answer <- struct{}{}
		expect(2)
		answer <- struct{}{}
		g.close()
		all.Wait()
	})
}

func TestParseRoute(t *testing.T) {
	t.Parallel()
	for in, want := range map[string][]RouteStep{
		`"openai:gpt-5.2,local/extractive"`:                      {{Provider: "openai", Model: "gpt-5.2"}, {Provider: "local", Model: "extractive"}},
		`"openai-compatible:meta/llama:8b"`:                      {{Provider: "openai-compatible", Model: "meta/llama:8b"}},
		`{"steps":[{"provider":"simulator","model":"sim-1"}]}`:   {{Provider: "simulator", Model: "sim-1"}},
		`"cloudflare-gateway:openai:responses:gpt-5.2,Gemini:x"`: {{Provider: "openai", Model: "gpt-5.2", API: "responses", Via: "cloudflare-gateway"}, {Provider: "google-ai-studio", Model: "x"}},
		`{"accept":"primary","steps":[{"provider":"openai"}]}`:   {{Provider: "openai"}},
		`" simulator/sim-1 , simulator/sim-2 "`:                  {{Provider: "simulator", Model: "sim-1"}, {Provider: "simulator", Model: "sim-2"}},
	} {
		r, err := ParseRoute(json.RawMessage(in))
		if err != nil || !slices.Equal(r.Steps, want) {
			t.Errorf("%s: %+v, %v", in, r, err)
		}
	}
	for _, in := range []string{`{"steps":[{"provder":"x"}]}`, `7`, `{`, `[]`} {
		if _, err := ParseRoute(json.RawMessage(in)); err == nil {
			t.Errorf("%s: no error", in)
		}
	}
}

func TestCheckRouteNamesTheField(t *testing.T) {
	t.Parallel()
	s := &Service{Prices: pricing.Default(), CheckProvider: func(p, _ string) error {
		if p == "acme" {
			return errors.New("unknown provider")
		}
		return nil
	}}
	ten := slices.Repeat([]RouteStep{{Provider: "local", Model: "extractive"}}, 11)
	for want, r := range map[string]Route{
		"route.steps":                 {},
		"route.steps[1].provider":     {Steps: []RouteStep{{Provider: "local", Model: "extractive"}, {Provider: "acme", Model: "m"}}},
		"route.steps[0].model":        {Steps: []RouteStep{{Provider: "openai", Model: "gpt-4.1-mnii"}}},
		"route.steps[0].max_attempts": {Steps: []RouteStep{{Provider: "local", Model: "extractive", MaxAttempts: 9}}},
		"route.accept":                {Steps: ten[:1], Accept: "some"},
		"route.gateway_cache_ttl":     {Steps: ten[:1], GatewayCacheTTL: 59},
		"route.steps[0].backoff":      {Steps: []RouteStep{{Provider: "local", Model: "extractive", Backoff: "fibonacci"}}},
		"route.steps[0].via":          {Steps: []RouteStep{{Provider: "local", Model: "extractive", Via: "elsewhere"}}},
		"route.steps[0]":              {Steps: []RouteStep{{Provider: "local", Model: "extractive", Branch: gateway.Branch{Percent: 50}}}},
	} {
		if err := s.checkRoute(&r, generate{}, time.Now()); err == nil || err.Field != want {
			t.Errorf("%+v: %v, want an error at %s", r, err, want)
		}
	}
	if err := s.checkRoute(&Route{Steps: ten}, generate{}, time.Now()); err == nil || !strings.Contains(err.Message, "at most 10") {
		t.Errorf("eleven steps: %v", err)
	}
	good := Route{Steps: []RouteStep{{Provider: "openai", Model: "gpt-4.1-mini"}, {Provider: "openai", Model: "gpt-99", AllowUnpriced: true}, {Provider: "openai-compatible", Model: "anything"}}}
	if err := s.checkRoute(&good, generate{}, time.Now()); err != nil {
		t.Errorf("%v", err)
	}
	if err := s.checkRoute(&Route{Steps: []RouteStep{{Provider: "openai"}}}, generate{}, time.Now()); err == nil {
		t.Error("a step without a model passed for a kind that needs one")
	}
}

func TestAStepThatCannotTakeTheBatchsFormIsFoundBeforeAnyJobRuns(t *testing.T) {
	t.Parallel()
	steps := func(names ...string) (out []RouteStep) {
		for _, name := range names {
			n := gateway.ParseName(name)
			out = append(out, RouteStep{Provider: n.Provider, Model: n.Model})
		}
		return out
	}
	text := &batch{kind: generate{}, template: &prompt.Template{}, spec: prompt.Spec{Output: prompt.Output{Format: prompt.FormatText}}}
	inJSON := &batch{kind: generate{}, template: &prompt.Template{}, spec: prompt.Spec{Output: prompt.Output{Format: prompt.FormatJSON}}}
	raw := &batch{kind: chat{}}
	for _, tt := range []struct {
		b     *batch
		steps []RouteStep
		field string
	}{
		{text, steps("openai:gpt-4.1-mini", "local:extractive"), ""},
		{inJSON, steps("openai:gpt-4.1-mini", "local:extractive"), "route.steps[1]"},
		{inJSON, steps("openai:gpt-4.1-mini", "anthropic:claude-haiku-4-5"), ""},
		{raw, steps("openai", "azure-openai", "anthropic:claude-haiku-4-5", "workers-ai", "google", "cohere"), ""},
		{raw, steps("openai", "replicate"), "route.steps[1]"},
	} {
		tt.b.route = Route{Steps: tt.steps}
		err := tt.b.checkForms()
		if (err == nil) != (tt.field == "") || err != nil && err.Field != tt.field {
			t.Errorf("%+v: %v, want an error at %q", tt.steps, err, tt.field)
		}
	}
}

func TestWhatBecomesOfAJob(t *testing.T) {
	t.Parallel()
	fail := func(c gateway.Class, after time.Duration) error {
		return fmt.Errorf("jobs: %w", &gateway.Error{Class: c, RetryAfter: after, Provider: "p", Model: "m"})
	}
	tests := []struct {
		name     string
		err      error
		attempts int32
		state    string // empty: handed back
		counted  bool
		least    time.Duration
	}{
		{"a good answer", nil, 0, "succeeded", true, 0},
		{"a server's failure is tried again", fail(gateway.Server, 0), 0, "waiting", true, 100 * time.Millisecond},
		{"but not for ever", fail(gateway.Server, 0), 3, "failed", true, 0},
		{"a rate limit waits as told and doesn't count", fail(gateway.RateLimited, 90*time.Second), 3, "waiting", false, 90 * time.Second},
		{"a bad request fails at once", fail(gateway.InvalidRequest, 0), 0, "failed", true, 0},
		{"so does a dead key", fail(gateway.Auth, 0), 0, "failed", true, 0},
		{"a truncated answer is no success", failf(gateway.Truncated, "cut"), 0, "failed", true, 0},
		{"a stop hands the job back", errHandedBack, 0, "", false, 0},
		{"so does a cut call", context.Canceled, 0, "", false, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := &Worker{o: WorkerOptions{MaxAttempts: 4, JobTimeout: time.Hour, Meter: noMeter{}}}
			b := &batch{Batch: store.Batch{Cache: "use"}, route: Route{Steps: []RouteStep{{Provider: "p", Model: "m"}}}}
			task := &task{w: w, batch: b, route: b.route, lease: &lease{}, job: store.Claimed{Seq: 1, Attempts: tt.attempts}}
			s, ok := task.settle(result{output: "x", format: "text", model: "m"}, tt.err)
			if !ok {
				if tt.state != "" {
					t.Fatalf("handed back, want %s", tt.state)
				}
				return
			}
			if s.job.State != tt.state || s.job.Counted != tt.counted || s.job.RetryIn < tt.least {
				t.Errorf("%+v", *s.job)
			}
			if tt.state == "failed" && (s.job.ErrorClass == "" || s.job.ErrorMessage == "") {
				t.Errorf("a failure without a reason: %+v", *s.job)
			}
		})
	}
}

func TestJobsThatFailedTogetherDoNotComeBackTogether(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name          string
		class         gateway.Class
		told          time.Duration
		attempts      int32
		least, spread time.Duration
	}{
		{"first failure", gateway.Server, 0, 1, 100 * time.Millisecond, 2 * time.Second},
		{"third failure", gateway.Server, 0, 3, 100 * time.Millisecond, 8 * time.Second},
		{"hundredth failure", gateway.Server, 0, 100, 100 * time.Millisecond, time.Minute},
		{"a limit that says for how long", gateway.RateLimited, time.Minute, 0, time.Minute, 31 * time.Second},
		{"a limit that doesn't", gateway.RateLimited, 0, 0, rateLimitWait / 2, rateLimitWait},
	} {
		if least, spread := pause(tt.class, tt.told, tt.attempts); least != tt.least || spread != tt.spread {
			t.Errorf("%s: %s and up to %s more, want %s and %s", tt.name, least, spread, tt.least, tt.spread)
		}
	}
	seen := map[time.Duration]bool{}
	for range 100 {
		w := &Worker{o: WorkerOptions{MaxAttempts: 4, JobTimeout: time.Hour, Meter: noMeter{}}}
		b := &batch{Batch: store.Batch{Cache: "use"}, route: Route{Steps: []RouteStep{{Provider: "p", Model: "m"}}}}
		task := &task{w: w, batch: b, route: b.route, lease: &lease{}, job: store.Claimed{Seq: 1}}
		s, _ := task.settle(result{}, &gateway.Error{Class: gateway.RateLimited, RetryAfter: 30 * time.Second})
		if s.job.RetryIn < 30*time.Second || s.job.RetryIn > 46*time.Second {
			t.Fatalf("told to wait 30 s, waits %s", s.job.RetryIn)
		}
		seen[s.job.RetryIn.Truncate(time.Second)] = true
	}
	if len(seen) < 10 {
		t.Errorf("a hundred jobs come back in %d different seconds", len(seen))
	}
}

func TestAJobIsGivenUpWhenItsTimeIsOver(t *testing.T) {
	t.Parallel()
	limited := &gateway.Error{Class: gateway.RateLimited, RetryAfter: 10 * time.Minute, Provider: "p", Model: "m"}
	hour := int32(3600)
	for _, tt := range []struct {
		name  string
		age   time.Duration
		batch *int32
		state string
	}{
		{"there is time", 0, nil, "waiting"},
		{"the wait would end after it", 23*time.Hour + 51*time.Minute, nil, "failed"},
		{"the batch has less of it", 51 * time.Minute, &hour, "failed"},
		{"but enough", 45 * time.Minute, &hour, "waiting"},
	} {
		w := &Worker{o: WorkerOptions{MaxAttempts: 4, JobTimeout: 24 * time.Hour}}
		b := &batch{Batch: store.Batch{Cache: "use", Limits: store.Limits{JobTimeoutSeconds: tt.batch}}, route: Route{Steps: []RouteStep{{Provider: "p", Model: "m"}}}}
		task := &task{w: w, batch: b, route: b.route, lease: &lease{}, job: store.Claimed{Seq: 1, Age: tt.age}}
		s, ok := task.settle(result{}, limited)
		if !ok || s.job.State != tt.state || s.job.ErrorClass != "rate_limited" || (tt.state == "failed") != strings.HasPrefix(s.job.ErrorMessage, "gave up ") {
			t.Errorf("%s: %+v", tt.name, *s.job)
		}
		if tt.state == "waiting" && tt.age+s.job.RetryIn >= b.jobTimeout(w.o) {
			t.Errorf("%s: the next try comes after %s, when it would be given up", tt.name, tt.age+s.job.RetryIn)
		}
	}
}

func TestARateLimitIsNotWaitedForWhileAnotherStepIsPaidInVain(t *testing.T) {
	t.Parallel()
	limited := &gateway.Error{Class: gateway.RateLimited, RetryAfter: time.Second}
	usage := gateway.Usage{Input: 1000, Output: 1000, Known: true}
	for _, tt := range []struct {
		name    string
		cache   string
		sent    gateway.Outcome
		counted bool
	}{
		{"nothing but the limit", "use", gateway.Outcome{Class: gateway.RateLimited}, false},
		{"a filter's verdict that was billed", "use", gateway.Outcome{Class: gateway.ContentFiltered, Usage: usage}, true},
		{"a call whose end is unknown", "use", gateway.Outcome{Class: gateway.Timeout, Uncertain: true}, true},
		{"a part that is kept", "use", gateway.Outcome{Usage: usage}, false},
		{"a part that is kept for the job alone", "refresh", gateway.Outcome{Usage: usage}, false},
	} {
		w := &Worker{o: WorkerOptions{MaxAttempts: 4, JobTimeout: time.Hour, Meter: noMeter{}}, Prices: pricing.Default()}
		steps := []gateway.Step{{Provider: "openai", Model: "gpt-4.1-mini"}}
		b := &batch{Batch: store.Batch{Cache: tt.cache}, route: Route{Steps: []RouteStep{{Provider: "openai", Model: "gpt-4.1-mini"}}}}
		task := &task{w: w, batch: b, route: b.route, lease: &lease{}, job: store.Claimed{Seq: 1, Attempts: 3}}
		task.record(store.CallID{}, steps, tt.sent, &reservation{draw: &draw{account: &account{prices: w.Prices}}})
		s, ok := task.settle(result{}, limited)
		if !ok || s.job.Counted != tt.counted || (s.job.State == "failed") != tt.counted {
			t.Errorf("%s: %+v", tt.name, *s.job)
		}
	}
}

func TestWhatTheProviderSaysItChargedIsTheCost(t *testing.T) {
	t.Parallel()
	w := &Worker{Prices: pricing.Default()}
	usage := gateway.Usage{Input: 1000, Output: 1000, Cost: 7777, Known: true}
	for _, provider := range []string{"perplexity-ai", "openrouter"} { // one has a price without its fees, the other none
		if c := cost(w.Prices, gateway.Step{Provider: provider, Model: "sonar"}, gateway.Outcome{Usage: usage}); c == nil || *c != 7777 {
			t.Errorf("%s: %v", provider, c)
		}
	}
	if c := cost(w.Prices, gateway.Step{Provider: "openrouter"}, gateway.Outcome{Usage: usage, CacheStatus: gateway.CacheHit}); c == nil || *c != 0 {
		t.Errorf("a hit costs %v", c)
	}
}

func TestJobID(t *testing.T) {
	t.Parallel()
	b := uuid.New()
	if got, seq, ok := ParseJobID(JobID(b, 42)); !ok || got != b || seq != 42 {
		t.Errorf("%v %d %v", got, seq, ok)
	}
	for _, bad := range []string{"", "x", b.String(), b.String() + "-", b.String() + "-0", b.String() + "-x", b.String() + "_1", b.String() + "-99999999999"} {
		if _, _, ok := ParseJobID(bad); ok {
			t.Errorf("%q passed", bad)
		}
	}
}

func TestSplitLineAgreesWithTheDecoder(t *testing.T) {
	t.Parallel()
	for _, raw := range []string{
		`{"custom_id":"a","variables":{"x":"\\","y":"}\"{"}}`, ` { "body" : {"model":"m","messages":[{"a":[1,2,{"b":"]"}]}]} , "custom_id" : "é" } `, `{}`,
		`{"variables":{}}`,
	} {
		fast, ok := splitLine([]byte(raw))
		var slow line
		if err := json.Unmarshal([]byte(raw), &slow); err != nil || !ok {
			t.Fatalf("%s: %v, split %v", raw, err, ok)
		}
		if string(fast.Variables) != string(slow.Variables) || string(fast.Body) != string(slow.Body) || (fast.CustomID == nil) != (slow.CustomID == nil) ||
			fast.CustomID != nil && *fast.CustomID != *slow.CustomID {
			t.Errorf("%s: %+v and %+v", raw, fast, slow)
		}
	}
	for _, raw := range []string{`{"a":1}`, `{"custom_id":"a","custom_id":"b"}`, `{"custom_id":"\u0041"}`, `{"custom_id":7}`, `{"body":{}`, `{"body":{},}`, `{} {}`, `[]`, ``,
		`{"document":{"text":"x"}}`, `{"variables":{}"body":{}}`, `{"custom_id":"a` + "\x00" + `"}`, `{"variables":[}]}`} {
		if l, ok := splitLine([]byte(raw)); ok {
			t.Errorf("%s was split into %+v: it is for the decoder", raw, l)
		}
	}
}

func FuzzParseLine(f *testing.F) {
	f.Add([]byte(`{"custom_id":"a","variables":{"x":1}}`))
	f.Add([]byte(`{"document":{"text":"x"}} {}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		l, problem := parseLine(Line{Number: 3, Raw: raw})
		if problem != nil && problem.Line != 3 {
			t.Error("the problem doesn't name its line")
		}
		if problem == nil && l == nil {
			t.Error("neither a line nor a problem")
		}
	})
}
