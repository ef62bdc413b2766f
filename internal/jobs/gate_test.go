package jobs

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"

	"batchwright/internal/store"
)

// guests are calls that come to a gate and stay for a time.
func guests(t *testing.T, g *gate, n int, b *party, express bool, stay time.Duration, in func()) (wait func()) {
	t.Helper()
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			if err := g.enter(t.Context(), nil, b, express); err != nil {
				t.Error(err)
				return
			}
			if in != nil {
				in()
			}
			<-time.After(stay)
			g.leave(b)
		})
	}
	return wg.Wait
}

func flying(g *gate, b *party) int64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return b.inFlight
}

func TestAFreedPlaceGoesToWhoHasTheFewest(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := newGate(30)
		slow, fast := g.join(numbered(1), numbered(1)), g.join(numbered(2), numbered(2))
		g.weigh([]store.OpenBatch{{ID: numbered(2), Project: &store.OpenProject{Weight: 2}}})
		done := guests(t, g, 300, slow, false, 10*time.Second, nil) // it has all places, and more wait
		synctest.Wait()
		var passed atomic.Int64
		more := guests(t, g, 2000, fast, false, 100*time.Millisecond, func() { passed.Add(1) })
		<-time.After(10*time.Second + 50*time.Millisecond)
		synctest.Wait()
		if got := []int64{flying(g, slow), flying(g, fast)}; got[0] != 10 || got[1] != 20 {
			t.Errorf("in flight by weights 1 and 2: %v, want 10 and 20", got)
		}
		<-time.After(5 * time.Second)
		if n := passed.Load(); n < 900 {
			t.Errorf("%d calls got through beside the slow ones in 5 s, want 20 each tenth of a second", n)
		}
		done()
		more()
		if g.inFlight() != 0 || len(g.projects) != 0 {
			t.Errorf("%d in flight when all have left", g.inFlight())
		}
	})
}

func TestExpressCallsHaveAFewPlacesToThemselves(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := newGate(256)
		big, small := g.join(numbered(1), numbered(1)), g.join(numbered(1), numbered(2))
		done := guests(t, g, 1000, big, false, time.Minute, nil)
		synctest.Wait()
		if n := flying(g, big); n != 256 {
			t.Errorf("%d calls of the large batch in flight, want 256", n)
		}
		began, last := time.Now(), atomic.Int64{}
		guests(t, g, 20, small, true, time.Second, func() { last.Store(int64(time.Since(began))) })()
		if d := time.Duration(last.Load()); d > 2*time.Second {
			t.Errorf("the last of 20 express calls began after %v, want 2 s: eight at a time", d)
		}
		done()
	})
}

func TestWaitingAtTheGateEndsWhenToldTo(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := newGate(1)
		b := g.join(numbered(1), numbered(1))
		if err := g.enter(t.Context(), nil, b, false); err != nil {
			t.Fatal(err)
		}
		stop, gone := make(chan struct{}), errors.New("gone")
		ctx, cancel := context.WithCancelCause(t.Context())
		errs := make(chan error, 2)
		go func() { errs <- g.enter(t.Context(), stop, b, true) }()
		synctest.Wait()
		close(stop)
		if err := <-errs; !errors.Is(err, errHandedBack) {
			t.Errorf("stopped: %v", err)
		}
		go func() { errs <- g.enter(ctx, nil, b, false) }()
		synctest.Wait()
		cancel(gone)
		if err := <-errs; !errors.Is(err, gone) {
			t.Errorf("cancelled: %v", err)
		}
		g.leave(b)
		if err := g.enter(t.Context(), nil, b, false); err != nil || g.inFlight() != 1 {
			t.Errorf("a place was lost: %v", err)
		}
		g.part(b)
		if len(g.batches) != 0 || len(g.byID) != 0 {
			t.Error("the batch is still known")
		}
	})
}

// Many come, go, give up and change weight at once: no more than there are places are inside, and none is lost.
func TestTheGateHoldsUnderRaces(t *testing.T) {
	t.Parallel()
	const places = 40
	g := newGate(places)
	var inside, most atomic.Int64
	var wg sync.WaitGroup
	for i := range 200 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(i), 1))
			for range 200 {
				project, batch := numbered(r.IntN(3)), numbered(r.IntN(9))
				b := g.join(project, batch)
				ctx, cancel := context.WithCancel(t.Context())
				if r.IntN(3) == 0 {
					go cancel()
				}
				visit := func() {
					n := inside.Add(1)
					for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
					}
					inside.Add(-1)
					g.leave(b)
				}
				if express := r.IntN(4) == 0; r.IntN(2) == 0 {
					if g.enter(ctx, nil, b, express) == nil {
						visit()
					}
				} else {
					l := &lease{party: b, ticket: store.Ticket{Express: express}}
					begun := make(chan struct{})
					g.queue(l, func() { close(begun) })
					if r.IntN(3) == 0 && g.dismiss(l) == 1 {
						begun = nil
					}
					if begun != nil {
						<-begun
						visit()
					}
				}
				cancel()
				g.weigh([]store.OpenBatch{{ID: batch, Project: &store.OpenProject{Weight: r.Int32N(9)}, Priority: int16(r.IntN(21) - 10)}})
				g.part(b)
			}
		})
	}
	wg.Wait()
	if most.Load() > places+1 || g.inFlight() != 0 || len(g.projects) != 0 || g.express != nil || len(g.batches) != 0 || len(g.byID) != 0 {
		t.Errorf("%d at once, %d left inside", most.Load(), g.inFlight())
	}
}

// Jobs wait without a goroutine, in turn with calls, and those of a lease that ends leave the line.
func TestJobsWaitForTheirPlaceBeforeTheyBegin(t *testing.T) {
	t.Parallel()
	g := newGate(2)
	b := g.join(numbered(1), numbered(1))
	kept, ended := &lease{party: b}, &lease{party: b}
	var begun []string
	queue := func(l *lease, name string) { g.queue(l, func() { begun = append(begun, name) }) }
	for _, name := range []string{"a", "b", "c"} {
		queue(kept, name)
	}
	queue(ended, "d")
	queue(ended, "e")
	queue(kept, "f")
	if got := strings.Join(begun, ""); got != "ab" {
		t.Fatalf("begun at once: %q, want as many as there are places", got)
	}
	if n := g.dismiss(ended); n != 2 {
		t.Errorf("%d jobs dismissed, want 2", n)
	}
	for range 4 {
		g.leave(b)
	}
	if got := strings.Join(begun, ""); got != "abcf" {
		t.Errorf("begun: %q, want abcf", got)
	}
	if n := g.dismiss(kept); n != 0 || g.inFlight() != 0 || len(g.projects) != 0 {
		t.Errorf("%d dismissed that had begun, %d left inside", n, g.inFlight())
	}
}

// Express jobs are in two lines, and must leave both.
func TestExpressJobsAreDismissedFromBothLines(t *testing.T) {
	t.Parallel()
	g := newGate(1)
	b := g.join(numbered(1), numbered(1))
	l := &lease{party: b, ticket: store.Ticket{Express: true}}
	begun := 0
	for range 3 {
		g.queue(l, func() { begun++ })
	}
	if n := g.dismiss(l); n != 2 || g.express != nil || len(g.projects) != 0 {
		t.Errorf("%d dismissed, want 2 and nobody in line", n)
	}
	g.leave(b)
	if begun != 1 || g.inFlight() != 0 {
		t.Errorf("%d begun, %d inside", begun, g.inFlight())
	}
}

// The channel is what the gate replaced.
func BenchmarkGate(b *testing.B) {
	run := func(enter, leave func()) func(*testing.B) {
		return func(b *testing.B) {
			b.ReportAllocs()
			b.SetParallelism(500)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					enter()
					leave()
				}
			})
		}
	}
	for name, places := range map[string]int{"free": 5000, "full": 100} {
		ctx, cancel := context.WithCancel(b.Context())
		defer cancel()
		stop := make(chan struct{})
		c := make(chan struct{}, places)
		b.Run(name+"/channel", run(func() {
			select {
			case c <- struct{}{}:
			case <-stop:
			case <-ctx.Done():
			}
		}, func() { <-c }))
		g := newGate(places)
		p := g.join(uuid.New(), uuid.New())
		b.Run(name+"/gate", run(func() { _ = g.enter(ctx, stop, p, false) }, func() { g.leave(p) }))
	}
}
