package gateway

import (
	"cmp"
	"sync"
	"time"
)

// Decision of 2026-11-21: the breaker is our own and not failsafe-go's circuitbreaker (v0.9.8). A call to a model may
// take minutes, and a breaker's half-open state begins after seconds: failsafe's counts an answer by the state in which
// it comes and not by the one in which its call began, so that old timeouts open it again whatever the probes say, and
// each of them releases a permit that it never took. It also has no way to end a call without a verdict, such as one
// that its caller gave up. Ours gives each call a trial, which dies with the state that it began in.

// BreakerOptions configure the circuit breaker of each provider and model: when most calls fail there, no more are sent
// for a while. The zero value is the documented default.
type BreakerOptions struct {
	Off     bool
	Rate    float64       // opens at this share of failures, over 0 to 1; default 0.5
	Calls   int           // of at least so many calls; default 20
	Window  time.Duration // in so long; default 30 s
	OpenFor time.Duration // then a few probes are let through; default 15 s, doubled with each round of failed probes, at most 8 times
	Probes  int           // so many good answers close it again, and so many may be under way at once; default 3
}

const breakerBuckets = 10

// breakers holds a breaker for each provider and model.
type breakers struct{ all *perModel[breaker] }

func newBreakers(o BreakerOptions) *breakers {
	if o.Off {
		return &breakers{}
	}
	o.Rate = cmp.Or(o.Rate, 0.5)
	o.Calls = cmp.Or(o.Calls, 20)
	o.Window = cmp.Or(o.Window, 30*time.Second)
	o.OpenFor = cmp.Or(o.OpenFor, 15*time.Second)
	o.Probes = cmp.Or(o.Probes, 3)
	fresh := func() *breaker { return &breaker{o: &o} }
	return &breakers{newPerModel(maxPerModel, fresh, nil)}
}

// get returns the breaker of a model at a provider; nil, which lets everything through, when breakers are off.
func (b *breakers) get(provider, model string) *breaker {
	if b.all == nil {
		return nil
	}
	return b.all.get(provider, model)
}

// breaker is closed, then open when too many calls fail, then half open, when probes decide:
//
//	closed --too many failures--> open --OpenFor--> half open --good probes--> closed
//	                               ^------a failed probe------'
type breaker struct {
	o *BreakerOptions

	mu      sync.Mutex
	state   breakerState
	era     uint32 // states entered so far
	buckets [breakerBuckets]bucket
	rounds  int       // openings in a row
	next    time.Time // open: when it is half open; half open: when another set of probes may go
	free    int       // half open: probes that may go
	good    int       // half open: probes that went well
}

type breakerState uint8

const (
	closed breakerState = iota
	open
	halfOpen
)

// bucket counts one part of the window.
type bucket struct {
	slot        int64 // which part, counted since 1970
	calls, fail int
}

// trial is one call that a breaker let through. It counts only in the state in which it began.
type trial struct{ era uint32 }

// allow asks to send a call. When it returns ok, report must be called once with the trial; else wait is when to ask
// again, roughly.
func (b *breaker) allow() (t trial, ok bool, wait time.Duration) {
	if b == nil {
		return trial{}, true, 0
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.state == closed {
		return trial{b.era}, true, 0
	}
	now := time.Now()
	left := b.next.Sub(now)
	if b.state == open {
		if left > 0 {
			return trial{}, false, left
		}
		b.enter(halfOpen)
	}
	// Answers may take minutes: probes that are under way for long don't keep others from going.
	if left <= 0 {
		b.free, b.next = b.o.Probes, now.Add(b.o.OpenFor)
	}
	if b.free == 0 {
		return trial{}, false, min(max(b.next.Sub(now), time.Millisecond), time.Second)
	}
	b.free--
	return trial{b.era}, true, 0
}

// report notes how an allowed call ended. Failures are those of a provider that is down: Overloaded, Timeout, Network
// and Server. What says nothing of that, such as a bad request, a rate limit or a caller who gave up, doesn't count.
func (b *breaker) report(t trial, class Class) {
	if b == nil {
		return
	}
	var failed bool
	switch class {
	case OK, Truncated, ContentFiltered, InvalidOutput: // a model answered
	case Overloaded, Timeout, Network, Server:
		failed = true
	default:
		b.giveBack(t)
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case t.era != b.era:
	case b.state == closed:
		now := time.Now()
		b.count(now, failed)
		if failed && b.failing(now) {
			b.trip(now)
		}
	case failed: // half open
		b.trip(time.Now())
	default:
		b.good++
		b.free++
		if b.good >= b.o.Probes {
			b.rounds = 0
			b.enter(closed)
		}
	}
}

// giveBack ends a call without a verdict.
func (b *breaker) giveBack(t trial) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if t.era == b.era && b.state == halfOpen {
		b.free = min(b.free+1, b.o.Probes)
	}
}

func (b *breaker) enter(s breakerState) {
	b.state, b.era, b.good = s, b.era+1, 0
	clear(b.buckets[:])
}

// trip opens the breaker; the time differs a little so that processes don't probe together.
func (b *breaker) trip(now time.Time) {
	b.enter(open)
	b.next = now.Add(spread(b.o.OpenFor << min(b.rounds, 3)))
	b.rounds++
}

func (b *breaker) slot(now time.Time) int64 {
	return now.UnixNano() / max(int64(b.o.Window)/breakerBuckets, 1)
}

func (b *breaker) count(now time.Time, failed bool) {
	slot := b.slot(now)
	c := &b.buckets[slot%breakerBuckets]
	if c.slot != slot {
		*c = bucket{slot: slot}
	}
	c.calls++
	if failed {
		c.fail++
	}
}

func (b *breaker) failing(now time.Time) bool {
	slot := b.slot(now)
	calls, fail := 0, 0
	for _, c := range b.buckets {
		if c.slot > slot-breakerBuckets {
			calls += c.calls
			fail += c.fail
		}
	}
	return calls >= b.o.Calls && float64(fail) >= b.o.Rate*float64(calls)
}
