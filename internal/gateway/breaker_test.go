package gateway

import (
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// through passes n calls that all end with class through b and returns how many were allowed.
func through(b *breaker, class Class, n int) (allowed int) {
	for range n {
		if t, ok, _ := b.allow(); ok {
			allowed++
			b.report(t, class)
		}
	}
	return allowed
}

func (b *breaker) tripped() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.state != closed
}

func TestBreakerOpensAtTheFailureRate(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name      string
		good, bad int
		class     Class
		opens     bool
	}{
		{"half fail", 10, 10, Server, true},
		{"fewer fail", 11, 10, Overloaded, false},
		{"too few to tell", 0, 19, Timeout, false},
		{"all fail", 0, 20, Network, true},
		{"rate limits", 0, 100, RateLimited, false},
		{"bad requests", 0, 100, InvalidRequest, false},
		{"refused keys", 0, 100, Auth, false},
		{"given up", 0, 100, Cancelled, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				b := newBreakers(BreakerOptions{}).get("openai", "m")
				through(b, OK, tt.good)
				through(b, tt.class, tt.bad)
				_, ok, wait := b.allow()
				if ok == tt.opens || tt.opens != (wait > 0) {
					t.Errorf("allowed %v, wait %v", ok, wait)
				}
			})
		})
	}
}

func TestBreakerForgetsAfterTheWindow(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBreakers(BreakerOptions{}).get("openai", "m")
		through(b, Server, 19)
		_ = sleep(t.Context(), 31*time.Second)
		if through(b, Server, 19) != 19 || b.tripped() {
			t.Error("failures of the last window count")
		}
		_ = sleep(t.Context(), 20*time.Second)
		if through(b, Server, 1); !b.tripped() {
			t.Error("failures of this window don't count")
		}
	})
}

func TestProbesDecideAndOldCallsDoNot(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBreakers(BreakerOptions{}).get("openai", "m")
		old, _, _ := b.allow()
		through(b, Server, 20)
		if through(b, OK, 100) != 0 {
			t.Fatal("open, and calls go")
		}
		_, _, wait := b.allow()
		if wait < 15*time.Second || wait > 17*time.Second {
			t.Fatalf("wait %v", wait)
		}
		_ = sleep(t.Context(), wait)
		var probes []trial
		for range 10 {
			if p, ok, _ := b.allow(); ok {
				probes = append(probes, p)
			}
		}
		if len(probes) != 3 {
			t.Fatalf("%d probes", len(probes))
		}
		b.report(old, Timeout) // began when it was closed: it says nothing of now
		b.report(probes[0], Cancelled)
		if through(b, OK, 1) != 1 {
			t.Error("a probe without a verdict kept its place")
		}
		b.report(probes[1], OK)
		if !b.tripped() {
			t.Fatal("closed after two good probes of three")
		}
		b.report(probes[2], OK)
		if b.tripped() || through(b, OK, 50) != 50 {
			t.Error("not closed after three good probes")
		}
		b.report(old, Timeout)
	})
}

func TestFailedProbeOpensForLonger(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBreakers(BreakerOptions{}).get("openai", "m")
		through(b, Network, 20)
		for _, seconds := range []int{15, 30, 60, 120, 120} {
			least := time.Duration(seconds) * time.Second
			_, ok, wait := b.allow()
			if ok || wait < least || wait > least+least/10 {
				t.Fatalf("wait %v, want %v and up to a tenth", wait, least)
			}
			_ = sleep(t.Context(), wait)
			if through(b, Network, 5) != 1 {
				t.Fatal("calls went after a failed probe")
			}
		}
	})
}

func TestSlowProbesDoNotHoldOthers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBreakers(BreakerOptions{}).get("openai", "m")
		through(b, Server, 20)
		_, _, wait := b.allow()
		_ = sleep(t.Context(), wait)
		for range 3 { // lost
			b.allow()
		}
		if _, ok, wait := b.allow(); ok || wait <= 0 || wait > time.Second {
			t.Fatalf("a fourth probe: %v, wait %v", ok, wait)
		}
		_ = sleep(t.Context(), 15*time.Second)
		if through(b, OK, 3) != 3 || b.tripped() {
			t.Error("lost probes keep it open")
		}
	})
}

func TestBreakerOff(t *testing.T) {
	t.Parallel()
	b := newBreakers(BreakerOptions{Off: true}).get("openai", "m")
	if through(b, Server, 1000) != 1000 {
		t.Error("a breaker that is off kept a call")
	}
}

func TestEntriesPerModelAreBounded(t *testing.T) {
	t.Parallel()
	p := newPerModel(64, func() *int { return new(int) }, func(n *int) bool { return *n == 1 })
	hot, pinned := p.get("a", "hot"), p.get("a", "pinned")
	*pinned = 1
	for i := range 10_000 {
		p.get("a", fmt.Sprint(i))
		if i%16 == 0 && p.get("a", "hot") != hot {
			t.Fatalf("an entry in use was dropped after %d others", i)
		}
	}
	if n := len(p.m); n > 65 {
		t.Errorf("%d entries", n)
	}
	if p.get("a", "pinned") != pinned {
		t.Error("a busy entry was dropped")
	}
	if p.get("b", "hot") == hot {
		t.Error("two providers share an entry")
	}
}

func TestBreakerIsSafeForConcurrentUse(t *testing.T) {
	t.Parallel()
	bs := newBreakers(BreakerOptions{OpenFor: time.Microsecond, Window: time.Millisecond})
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 1000 {
				through(bs.get("p", fmt.Sprint(j%3)), []Class{OK, Server, Timeout, RateLimited}[(i+j)%4], 1)
			}
		})
	}
	wg.Wait()
	deadline := time.Now().Add(10 * time.Second)
	for b := bs.get("p", "0"); b.tripped(); {
		if through(b, OK, 1); time.Now().After(deadline) {
			t.Fatal("good probes don't close it")
		}
	}
}

func BenchmarkBreaker(b *testing.B) {
	bs := newBreakers(BreakerOptions{})
	b.ReportAllocs()
	for b.Loop() {
		br := bs.get("openai", "gpt-5.2")
		t, _, _ := br.allow()
		br.report(t, OK)
	}
}
