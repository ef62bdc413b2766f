package gateway

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// upstream is a provider with a limit that nobody is told.
type upstream struct {
	mu       sync.Mutex
	limit    int           // in flight; above it a call is refused, or, with queues, slower
	queues   bool          // slows down instead of refusing
	mean     time.Duration // of an answer
	sigma    float64       // of its logarithm
	perSec   float64       // refuses, too, what is above this rate, after a burst of as many as in ten seconds; 0 is no limit
	inFlight int
	good     int
	refused  int
	tokens   float64
	filled   time.Time
}

// empty reports whether the bucket of the rate limit is empty, and takes from it.
func (u *upstream) empty() bool {
	if u.perSec == 0 {
		return false
	}
	now := time.Now()
	u.tokens = min(u.tokens+u.perSec*now.Sub(u.filled).Seconds(), 10*u.perSec)
	u.filled = now
	if u.tokens < 1 {
		return true
	}
	u.tokens--
	return false
}

func (u *upstream) call(ctx context.Context, r *rand.Rand) (Class, time.Duration) {
	u.mu.Lock()
	if u.inFlight >= u.limit && !u.queues || u.empty() {
		u.refused++
		u.mu.Unlock()
		_ = sleep(ctx, 50*time.Millisecond)
		return RateLimited, 50 * time.Millisecond
	}
	u.inFlight++
	d := time.Duration(float64(u.mean) * math.Exp(r.NormFloat64()*u.sigma-u.sigma*u.sigma/2))
	if u.inFlight > u.limit {
		d = d * time.Duration(u.inFlight) / time.Duration(u.limit)
	}
	u.mu.Unlock()
	_ = sleep(ctx, d)
	u.mu.Lock()
	defer u.mu.Unlock()
	u.inFlight--
	u.good++
	return OK, d
}

// set changes the provider while it runs.
func (u *upstream) set(change func()) {
	u.mu.Lock()
	defer u.mu.Unlock()
	change()
}

// callers keeps n callers busy on c until ctx ends.
func callers(ctx context.Context, c *crowd, u *upstream, n int) (wait func()) {
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(i), 1))
			for {
				p, err := c.enter(ctx, time.Time{})
				if err != nil {
					return
				}
				class, d := u.call(ctx, r)
				c.leave(p, class, d)
				if class != OK {
					_ = sleep(ctx, delay(nil, 1, 0))
				}
			}
		})
	}
	return wg.Wait
}

// observe returns the good answers a second, and the share of refusals, of the next d.
func observe(ctx context.Context, u *upstream, d time.Duration) (rate, refused float64) {
	u.mu.Lock()
	good, bad := u.good, u.refused
	u.mu.Unlock()
	_ = sleep(ctx, d)
	u.mu.Lock()
	defer u.mu.Unlock()
	return float64(u.good-good) / d.Seconds(), float64(u.refused-bad) / float64(max(u.refused-bad+u.good-good, 1))
}

// crowded runs check while callers are busy.
func crowded(t *testing.T, u *upstream, o ConcurrencyOptions, n int, check func(ctx context.Context, c *crowd)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		c := newCrowds(o).get("openai", "m")
		wait := callers(ctx, c, u, n)
		check(ctx, c)
		cancel()
		wait()
		if c.inFlight != 0 || c.waiting.Len() != 0 {
			t.Errorf("%d in flight and %d waiting after the end", c.inFlight, c.waiting.Len())
		}
	})
}

func TestHiddenLimitIsFoundAndHeld(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name           string
		limit, callers int
		sigma          float64
	}{
		{"small", 4, 100, 0.5},
		{"below the start", 20, 200, 0.5},
		{"above the start", 40, 200, 0.5},
		{"answers of all lengths", 40, 200, 1},
		{"large", 500, 900, 0.5},
	} {
		t.Run(tt.name, func(t *testing.T) {
			u := &upstream{limit: tt.limit, mean: 2 * time.Second, sigma: tt.sigma}
			crowded(t, u, ConcurrencyOptions{}, tt.callers, func(ctx context.Context, c *crowd) {
				observe(ctx, u, time.Minute) // warm-up
				rate, refused := observe(ctx, u, 5*time.Minute)
				ideal := float64(tt.limit) / u.mean.Seconds()
				t.Logf("limit %d of %d, %.0f%% of the ideal, %.1f%% refused", c.limit(), tt.limit, 100*rate/ideal, 100*refused)
				if rate < 0.85*ideal {
					t.Errorf("%.2f answers a second, want 85%% of %.2f", rate, ideal)
				}
				if refused > 0.05 {
					t.Errorf("%.1f%% were refused, want 5%% at most", 100*refused)
				}
			})
		})
	}
}

func TestRaisedAndLoweredLimitIsFollowed(t *testing.T) {
	u := &upstream{limit: 40, mean: 2 * time.Second, sigma: 0.5}
	crowded(t, u, ConcurrencyOptions{}, 400, func(ctx context.Context, c *crowd) {
		observe(ctx, u, 3*time.Minute)
		for _, limit := range []int{200, 10, 80} {
			u.set(func() { u.limit = limit })
			observe(ctx, u, 5*time.Minute)
			rate, refused := observe(ctx, u, 5*time.Minute)
			ideal := float64(limit) / u.mean.Seconds()
			t.Logf("limit %d of %d, %.0f%% of the ideal, %.1f%% refused", c.limit(), limit, 100*rate/ideal, 100*refused)
			if rate < 0.85*ideal || refused > 0.05 {
				t.Errorf("limit %d: %.2f answers a second of %.2f, %.1f%% refused", limit, rate, ideal, 100*refused)
			}
		}
	})
}

// A limit per minute is refused in the same way, and is no limit of calls in flight: the search for one must not make
// the calls crawl.
func TestRateLimitIsUsed(t *testing.T) {
	u := &upstream{limit: 10_000, perSec: 10, mean: 4 * time.Second, sigma: 0.5}
	crowded(t, u, ConcurrencyOptions{}, 200, func(ctx context.Context, c *crowd) {
		observe(ctx, u, 2*time.Minute)
		rate, refused := observe(ctx, u, 20*time.Minute)
		t.Logf("limit %d, %.0f%% of the rate, %.1f%% refused", c.limit(), 100*rate/u.perSec, 100*refused)
		if rate < 0.85*u.perSec || refused > 0.05 {
			t.Errorf("%.2f answers a second of %.0f, %.1f%% refused", rate, u.perSec, 100*refused)
		}
	})
}

func TestQueueingProviderIsNotFlooded(t *testing.T) {
	u := &upstream{limit: 40, queues: true, mean: 2 * time.Second, sigma: 0.5}
	crowded(t, u, ConcurrencyOptions{}, 400, func(ctx context.Context, c *crowd) {
		observe(ctx, u, 2*time.Minute)
		for range 6 { // half an hour: it must not creep
			rate, _ := observe(ctx, u, 5*time.Minute)
			ideal := float64(u.limit) / u.mean.Seconds()
			t.Logf("limit %d of %d, %.0f%% of the ideal", c.limit(), u.limit, 100*rate/ideal)
			if rate < 0.85*ideal || c.limit() > 4*u.limit {
				t.Errorf("limit %d for %d, %.2f answers a second of %.2f", c.limit(), u.limit, rate, ideal)
			}
		}
	})
}

// Longer answers are no overload: after a while the limit is what it was.
func TestLongerAnswersDoNotLowerTheLimit(t *testing.T) {
	u := &upstream{limit: 10_000, mean: time.Second, sigma: 0.5}
	crowded(t, u, ConcurrencyOptions{Max: 100}, 200, func(ctx context.Context, c *crowd) {
		observe(ctx, u, time.Minute)
		if c.limit() != 100 {
			t.Fatalf("limit %d, want the greatest", c.limit())
		}
		u.set(func() { u.mean *= 5 })
		least := 100
		for range 30 {
			observe(ctx, u, 10*time.Second)
			least = min(least, c.limit())
		}
		t.Logf("least %d, then %d", least, c.limit())
		if least < 45 || c.limit() < 90 {
			t.Errorf("the limit fell to %d and is %d", least, c.limit())
		}
	})
}

func TestRefusalsCutOnceARoundTrip(t *testing.T) {
	t.Parallel()
	c := newCrowds(ConcurrencyOptions{Initial: 100}).get("p", "m")
	var passes []pass
	for range 100 {
		p, err := c.enter(t.Context(), time.Time{})
		if err != nil {
			t.Fatal(err)
		}
		passes = append(passes, p)
	}
	for i, p := range passes[50:] {
		c.leave(p, []Class{RateLimited, Overloaded}[i%2], time.Second)
	}
	if got := c.limit(); got != 35 { // the first of them was refused at 51 in flight
		t.Errorf("limit %d after one burst", got)
	}
	for _, p := range passes[:50] {
		c.leave(p, OK, time.Second)
	}
	if got := c.limit(); got != 35 {
		t.Errorf("answers from before the cut made the limit %d", got)
	}
	for range 100 {
		p, _ := c.enter(t.Context(), time.Time{})
		c.leave(p, RateLimited, time.Second)
	}
	if got := c.limit(); got != 1 {
		t.Errorf("limit %d, want 1 and never less", got)
	}
	for _, class := range []Class{Timeout, Network, Server, Auth, Cancelled, InvalidRequest} {
		p, _ := c.enter(t.Context(), time.Time{})
		c.leave(p, class, time.Second)
	}
	if got := c.limit(); got != 1 {
		t.Errorf("limit %d after failures that say nothing of it", got)
	}
}

func TestUnusedLimitDoesNotGrow(t *testing.T) {
	t.Parallel()
	c := newCrowds(ConcurrencyOptions{}).get("p", "m")
	for range 1000 {
		p, _ := c.enter(t.Context(), time.Time{})
		c.leave(p, OK, time.Second)
	}
	if got := c.limit(); got != 32 {
		t.Errorf("limit %d, want 32: there was one call at a time", got)
	}
}

func TestPlacesGoFirstComeFirstServed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCrowds(ConcurrencyOptions{Initial: 1, Max: 1}).get("p", "m")
		first, _ := c.enter(t.Context(), time.Time{})
		var order []int
		var wg sync.WaitGroup
		gaveUp, cancel := context.WithCancelCause(t.Context())
		errGaveUp := errors.New("gave up")
		for i := range 6 {
			wg.Go(func() {
				ctx, deadline := t.Context(), time.Now().Add(time.Minute)
				switch i {
				case 2:
					ctx = gaveUp
				case 4:
					deadline = time.Now().Add(time.Second)
				}
				p, err := c.enter(ctx, deadline)
				switch {
				case i == 2 && !errors.Is(err, errGaveUp), i == 4 && !errors.Is(err, errTotal), i != 2 && i != 4 && err != nil:
					t.Errorf("caller %d: %v", i, err)
				case err == nil:
					order = append(order, i)
					c.leave(p, OK, time.Millisecond)
				}
			})
			synctest.Wait()
		}
		cancel(errGaveUp)
		_ = sleep(t.Context(), 2*time.Second)
		c.leave(first, OK, time.Second)
		wg.Wait()
		if len(order) != 4 || order[0] != 0 || order[1] != 1 || order[2] != 3 || order[3] != 5 {
			t.Errorf("order %v", order)
		}
		if _, err := c.enter(gaveUp, time.Time{}); !errors.Is(err, errGaveUp) {
			t.Errorf("ended before it entered: %v", err)
		}
	})
}

func TestHoldKeepsEverybodyOut(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCrowds(ConcurrencyOptions{}).get("p", "m")
		start := time.Now()
		c.hold(start.Add(10 * time.Second))
		c.hold(start.Add(5 * time.Second)) // shorter: the longer stands
		if _, err := c.enter(t.Context(), start.Add(8*time.Second)); !errors.Is(err, errTotal) || time.Since(start) != 0 {
			t.Errorf("a deadline within the hold: %v after %v", err, time.Since(start))
		}
		if got := c.held(); got != 10*time.Second {
			t.Errorf("held %v", got)
		}
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				p, err := c.enter(t.Context(), start.Add(time.Minute))
				if err != nil || time.Since(start) != 12*time.Second {
					t.Errorf("%v after %v", err, time.Since(start))
				}
				c.leave(p, OK, time.Second)
			})
		}
		synctest.Wait()
		c.hold(start.Add(12 * time.Second))
		wg.Wait()
		if p, err := c.enter(t.Context(), time.Time{}); err != nil || c.held() != 0 || p.level != 1 {
			t.Errorf("after the hold: %v, %d in flight", err, p.level)
		}
	})
}

func TestCrowdOff(t *testing.T) {
	t.Parallel()
	c := newCrowds(ConcurrencyOptions{Off: true}).get("p", "m")
	c.hold(time.Now().Add(time.Hour))
	p, err := c.enter(t.Context(), time.Now().Add(-time.Hour))
	if err != nil || c.held() != 0 || c.limit() != 0 {
		t.Errorf("%v, limit %d", err, c.limit())
	}
	c.leave(p, RateLimited, 0)
}

func TestCrowdIsSafeForConcurrentUse(t *testing.T) {
	t.Parallel()
	c := newCrowds(ConcurrencyOptions{Initial: 2, Max: 8}).get("p", "m")
	var wg sync.WaitGroup
	var mu sync.Mutex
	in, most := 0, 0
	for i := range 32 {
		wg.Go(func() {
			for j := range 300 {
				ctx, cancel := context.WithCancel(t.Context())
				if (i+j)%7 == 0 {
					go cancel()
				}
				if p, err := c.enter(ctx, time.Now().Add(time.Minute)); err == nil {
					mu.Lock()
					in++
					most = max(most, in)
					mu.Unlock()
					if j%50 == 0 {
						c.hold(time.Now().Add(time.Millisecond))
					}
					mu.Lock()
					in--
					mu.Unlock()
					c.leave(p, []Class{OK, OK, OK, RateLimited, Server}[j%5], time.Duration(j))
				}
				cancel()
			}
		})
	}
	wg.Wait()
	if most > 8 {
		t.Errorf("%d were in at once, over the limit", most)
	}
	if c.inFlight != 0 || c.waiting.Len() != 0 {
		t.Errorf("%d in flight, %d waiting", c.inFlight, c.waiting.Len())
	}
}

func BenchmarkCrowd(b *testing.B) {
	c := newCrowds(ConcurrencyOptions{}).get("openai", "gpt-5.2")
	deadline := time.Now().Add(time.Hour)
	ctx := b.Context()
	b.ReportAllocs()
	for b.Loop() {
		p, err := c.enter(ctx, deadline)
		if err != nil {
			b.Fatal(err)
		}
		c.leave(p, OK, time.Second)
	}
}

// limit returns how many calls may be in flight now; 0 is no bound.
func (c *crowd) limit() int {
	if c == nil {
		return 0
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return int(c.max)
}
