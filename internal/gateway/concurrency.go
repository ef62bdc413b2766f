package gateway

import (
	"cmp"
	"container/list"
	"context"
	"math"
	"sync"
	"time"
)

// This file finds how many calls a provider takes at once for a model, and holds it, with nothing to configure. A
// provider's limit shows in two ways: it refuses (429, 503, 529), or it queues, and answers take longer.
//
// After a refusal the limit is cut to 0.7 of what was in flight, once a round trip: answers to calls that began before
// the cut say nothing about it. It grows again by binary search towards the place of the refusal, stays a little below
// it for a while, and then feels its way past it in steps that double, so that a limit that was raised is found soon.
// Those are the rules of BIC (Xu, Harfoush and Rhee, 2004, for TCP): additive increase with a memory. Plain additive
// increase, one a round trip, would use 85 % of a limit at best, and take hours to find one in the thousands with calls
// that take ten seconds. Before the first refusal the limit doubles each round trip. It grows only by good answers, and
// only while it is what holds calls back.
//
// How long an answer takes depends first of all on its length, so latency is read with care: as the geometric mean of
// a round of answers, against the usual one, which learns nothing from slow rounds while the limit is in use: else the
// limit and the latency would creep up together. Over twice the usual, the limit grows no more; when it lasts, it
// shrinks slowly, to no less than half. If that made answers faster, the calls were queueing, and it goes on;
// if not, answers are simply longer than they were, which is taken as the new normal, and the limit comes back.
//
// Decision of 2026-11-21: not failsafe-go's adaptivelimiter (v0.9.8). It reads latency only: a refusal is at best
// dropped and never lowers its limit, and its percentiles over a few windows take long answers for an overload. It also
// ties the limit to a multiple of what is in flight, adds 1 to 4 a window whatever the distance, and doesn't hand
// permits out by a deadline.

// ConcurrencyOptions configure how many calls may be in flight at once to each provider and model. The zero value is
// the documented default.
type ConcurrencyOptions struct {
	Off     bool // no bound
	Initial int  // where the search begins; default 32
	Max     int  // never more; default 10,000
}

const (
	cutFactor   = 0.7
	nearCeiling = 0.95             // of the place of the last refusal, where the limit stays for a while
	calmRounds  = 8                // that long, in rounds,
	calmAnswers = 64               // and in answers
	slowFactor  = 2.0              // of the usual latency: answers are slow
	slowRounds  = 3                // so long, before the limit shrinks
	shrinkBy    = 0.95             // a round
	helpFactor  = 1.25             // halving the limit must speed answers up by this, else it wasn't the cause
	minSamples  = 32               // of latency a round
	learn       = 0.2              // of the difference to the usual latency a round
	minLatency  = time.Microsecond // to take a logarithm of
)

// crowds holds a crowd for each provider and model.
type crowds struct{ all *perModel[crowd] }

func newCrowds(o ConcurrencyOptions) *crowds {
	if o.Off {
		return &crowds{}
	}
	o.Max = max(cmp.Or(o.Max, 10_000), 1)
	o.Initial = min(max(cmp.Or(o.Initial, 32), 1), o.Max)
	fresh := func() *crowd { return &crowd{max: float64(o.Initial), most: float64(o.Max), step: 1} }
	return &crowds{newPerModel(maxPerModel, fresh, (*crowd).busy)}
}

// get returns the crowd of a model at a provider; nil, which has no bound, when concurrency is not managed.
func (c *crowds) get(provider, model string) *crowd {
	if c.all == nil {
		return nil
	}
	return c.all.get(provider, model)
}

// crowd is the calls in flight to one model at one provider, and those that wait, first come first served.
type crowd struct {
	most float64

	mu       sync.Mutex
	max      float64 // the limit; its whole part counts
	inFlight int
	waiting  list.List // of *waiter
	until    time.Time // nobody enters before; zero when open
	timer    *time.Timer

	era     uint32  // cuts so far
	ceiling float64 // in flight at the last refusal; 0 before the first
	step    float64 // of the next step beyond it
	answers int     // good ones of this round
	calm    int     // good ones since the limit came near the ceiling
	used    bool    // the limit held calls back in this round

	latency latencies
}

// latencies judges how long answers take. Latencies are logarithms of nanoseconds.
type latencies struct {
	sum       float64 // of this round
	n         int
	size      int     // of this round, in answers
	used      bool    // as in crowd, of this round
	base      float64 // the usual round; 0 before the first
	slow      int     // slow rounds in a row
	from      float64 // the limit before it shrank; 0 when it doesn't
	fromRound float64 // the latency then
}

// pass is a place in a crowd.
type pass struct {
	era   uint32
	level int32 // in flight when it was given, this one included
}

type waiter struct {
	ready chan struct{} // closed when pass is given
	pass  pass
	given bool
}

// tryEnter takes a place if there is one at once, and nobody waits for it.
func (c *crowd) tryEnter() (p pass, ok bool) {
	if c == nil {
		return pass{}, true
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.waiting.Len() > 0 || !c.room() {
		return pass{}, false
	}
	return c.take(), true
}

// enter waits for a place until deadline; the zero deadline is none. Its error is the cause of ctx's end, or errTotal,
// at once when the crowd is on hold beyond the deadline. A place is given back with leave, once.
func (c *crowd) enter(ctx context.Context, deadline time.Time) (pass, error) {
	if c == nil {
		return pass{}, nil
	}
	if ctx.Err() != nil {
		return pass{}, context.Cause(ctx)
	}
	c.mu.Lock()
	if c.waiting.Len() == 0 && c.room() {
		p := c.take()
		c.mu.Unlock()
		return p, nil
	}
	var late <-chan time.Time
	if !deadline.IsZero() {
		left := time.Until(deadline)
		if left <= 0 || c.until.After(deadline) {
			c.mu.Unlock()
			return pass{}, errTotal
		}
		t := time.NewTimer(left)
		defer t.Stop()
		late = t.C
	}
	w := &waiter{ready: make(chan struct{})}
	place := c.waiting.PushBack(w)
	c.mu.Unlock()
	var err error
	select {
	case <-w.ready:
		return w.pass, nil
	case <-ctx.Done():
		err = context.Cause(ctx)
	case <-late:
		err = errTotal
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if w.given { // at the same moment
		c.inFlight--
	} else {
		c.waiting.Remove(place)
	}
	c.admit()
	return pass{}, err
}

// leave gives a place back and learns from how the call ended; latency is from the send to the last byte. A call that
// was never sent leaves as Cancelled.
func (c *crowd) leave(p pass, class Class, latency time.Duration) {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.inFlight--
	switch {
	case p.era != c.era: // it began before the cut
	case class == RateLimited || class == Overloaded:
		c.cut(p)
	case class == OK || class == Truncated:
		c.sample(latency)
		c.grow()
	case class == ContentFiltered || class == InvalidOutput: // answered, maybe before the model ran
		c.grow()
	}
	c.admit()
}

// hold lets nobody enter before until: a provider said so. A later time wins over an earlier one.
func (c *crowd) hold(until time.Time) {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	left := time.Until(until)
	if left <= 0 || !until.After(c.until) {
		return
	}
	c.until = until
	if c.timer == nil {
		c.timer = time.AfterFunc(left, c.resume)
	} else {
		c.timer.Reset(left)
	}
}

// held returns how long nobody may enter; 0 when the crowd is not on hold.
func (c *crowd) held() time.Duration {
	if c == nil {
		return 0
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.until.IsZero() {
		return 0
	}
	return max(time.Until(c.until), 0)
}

func (c *crowd) busy() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.inFlight > 0 || c.waiting.Len() > 0 || time.Now().Before(c.until)
}

func (c *crowd) resume() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.admit()
}

func (c *crowd) room() bool {
	if c.inFlight >= int(c.max) {
		c.used, c.latency.used = true, true
		return false
	}
	if !c.until.IsZero() {
		if time.Now().Before(c.until) {
			return false
		}
		c.until = time.Time{}
	}
	return true
}

func (c *crowd) take() pass {
	c.inFlight++
	if c.inFlight >= int(c.max) {
		c.used, c.latency.used = true, true
	}
	return pass{c.era, int32(c.inFlight)}
}

// admit gives places to those who wait longest.
func (c *crowd) admit() {
	for c.waiting.Len() > 0 && c.room() {
		w := c.waiting.Remove(c.waiting.Front()).(*waiter)
		w.pass, w.given = c.take(), true
		close(w.ready)
	}
}

// cut lowers the limit after the refusal of p. A refusal when few were in flight is weaker evidence against the limit,
// so one of those doesn't lower it below a third.
func (c *crowd) cut(p pass) {
	full := math.Floor(c.max)
	at := min(max(float64(p.level), full/2, 1), full)
	if at >= full*3/4 {
		at = full // calls overtake each other on their way, so the one that was refused need not be the last that entered
	}
	c.era++
	c.ceiling, c.max = at, max(at*cutFactor, 1)
	c.step, c.answers, c.calm, c.used = 1, 0, 0, false
	c.latency.sum, c.latency.n, c.latency.from, c.latency.slow = 0, 0, 0, 0
}

// grow counts a good answer, and raises the limit at the end of a round of them.
func (c *crowd) grow() {
	c.answers++
	free := c.latency.slow == 0 && c.latency.from == 0
	if c.ceiling == 0 && c.used && free {
		c.max = min(c.max+1, c.most) // doubles in a round
	}
	if c.answers < int(c.max) {
		return
	}
	n, used := c.answers, c.used
	c.answers, c.used = 0, false
	if c.ceiling == 0 || !used || !free {
		return
	}
	if near := c.ceiling * nearCeiling; c.max < near {
		c.max = min(c.max+max((near-c.max)/2, 1), near)
	} else if c.calm += n; c.calm > max(calmRounds*int(c.max), calmAnswers) {
		c.max += c.step
		c.step = min(c.step*2, max(c.max/2, 1))
	}
	c.max = min(c.max, c.most)
}

// sample counts the latency of an answer, and judges at the end of a round.
func (c *crowd) sample(d time.Duration) {
	l := &c.latency
	l.sum += math.Log(float64(max(d, minLatency)))
	if l.n++; l.n == 1 {
		l.size = max(int(c.max), minSamples)
	}
	if l.n < l.size {
		return
	}
	round, used := l.sum/float64(l.n), l.used
	l.sum, l.n, l.used = 0, 0, false
	switch {
	case l.base == 0:
		l.base = round
	case !used || round-l.base < math.Log(slowFactor)/2:
		l.base += (round - l.base) * learn
	}
	if round-l.base <= math.Log(slowFactor) {
		if l.from != 0 { // shrinking has helped
			c.ceiling, c.calm, c.step = c.max, 0, 1
		}
		l.slow, l.from = 0, 0
		return
	}
	l.slow++
	if !used || l.slow < slowRounds {
		return
	}
	if l.from == 0 {
		l.from, l.fromRound = c.max, round
	}
	if c.ceiling == 0 {
		c.ceiling, c.calm = c.max, 0 // no more doubling
	}
	c.max = max(c.max*shrinkBy, 1)
	if c.max > l.from/2 && c.max > 1 {
		return
	}
	if l.fromRound-round < math.Log(helpFactor) { // not our doing
		l.base, l.slow = round, 0
		c.ceiling, c.calm, c.step = l.from, 0, 1
	}
	l.from = 0
}
