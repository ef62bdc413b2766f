package jobs

import (
	"container/heap"
	"context"
	"sync"

	"github.com/google/uuid"

	"batchwright/internal/store"
)

// gate bounds the calls in flight, and is fair to those that wait: a place that becomes free goes to the project that has the fewest in flight
// for its weight, there to the batch that has the fewest for its priority, and there to the call that came first. So a batch
// whose calls take minutes, or hang, doesn't keep the places from one whose calls take milliseconds.
//
// Calls under express tickets have a few places more, a 32nd and at most 8, however many hang in the others. Whoever leaves hands its place to one that waits, so nobody wakes in vain.
type gate struct {
	places   int // all of them
	mu       sync.Mutex
	free     int
	kept     int     // of free, beyond places, for express calls
	projects parties // that have somebody waiting
	express  *waiter // waiting express calls, a ring in order of arrival; nil when there are none
	batches  map[uuid.UUID]*party
	byID     map[uuid.UUID]*party // projects
	spare    sync.Pool            // of waiters
}

// party is a project or a batch at the gate.
type party struct {
	id       uuid.UUID
	weight   int64
	inFlight int64
	held     int // leases of a batch, batches of a project
	at       int // in the heap of those that have somebody waiting; -1 when not

	project *party  // of a batch
	batches parties // of a project: those that have somebody waiting
	waiting *waiter // of a batch: a ring in order of arrival
}

// waiter is a call that waits, or a job that does so before it begins. It sits in its batch's ring, and in the gate's ring of express
// calls if it is one.
type waiter struct {
	party      *party
	ready      chan struct{} // gets one value when the place is given
	lease      *lease        // of a job that hasn't begun, which needs no goroutine to wait
	begin      func()        // begins it with the place; called under the gate's lock
	given      bool
	isExpress  bool
	prev, next *waiter // of its batch
	ahead      *waiter // of the express calls
	behind     *waiter
}

func newGate(places int) *gate {
	kept := min(places/32, 8)
	return &gate{places: places + kept, free: places + kept, kept: kept, batches: map[uuid.UUID]*party{}, byID: map[uuid.UUID]*party{},
		spare: sync.Pool{New: func() any { return &waiter{ready: make(chan struct{}, 1)} }}}
}

// inFlight is how many places are taken.
func (g *gate) inFlight() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.places - g.free
}

// join returns a batch's party, to be left with part.
func (g *gate) join(project, batch uuid.UUID) *party {
	g.mu.Lock()
	defer g.mu.Unlock()
	b := g.batches[batch]
	if b == nil {
		p := g.byID[project]
		if p == nil {
			p = &party{id: project, weight: 1, at: -1}
			g.byID[project] = p
		}
		p.held++
		b = &party{id: batch, weight: priorityWeight(0), at: -1, project: p}
		g.batches[batch] = b
	}
	b.held++
	return b
}

// part ends a join.
func (g *gate) part(b *party) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if b.held--; b.held > 0 {
		return
	}
	delete(g.batches, b.id)
	if b.project.held--; b.project.held == 0 {
		delete(g.byID, b.project.id)
	}
}

// weigh takes the weights and priorities of what is here from what is open.
func (g *gate) weigh(open []store.OpenBatch) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for i := range open {
		if b := g.batches[open[i].ID]; b != nil {
			b.weight, b.project.weight = priorityWeight(open[i].Priority), int64(max(open[i].Project.Weight, 1))
			g.count(b, 0)
		}
	}
}

// enter takes a place for a call of the batch, waiting until there is one. It returns errHandedBack when stop is closed meanwhile, and the
// cause when ctx ends.
func (g *gate) enter(ctx context.Context, stop <-chan struct{}, b *party, express bool) error {
	g.mu.Lock()
	if g.open(express) {
		g.take(b)
		g.mu.Unlock()
		return nil
	}
	w := g.spare.Get().(*waiter)
	w.party, w.given, w.isExpress = b, false, express
	g.line(w)
	g.mu.Unlock()
	var err error
	select {
	case <-w.ready:
		g.spare.Put(w)
		return nil
	case <-stop:
		err = errHandedBack
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	g.mu.Lock()
	if w.given { // at the same moment: it is passed on
		<-w.ready
		g.release(b)
	} else {
		g.unline(w)
	}
	g.mu.Unlock()
	w.party = nil
	g.spare.Put(w)
	return err
}

// queue has begin called once there is a place for a job under the lease, at once if there is one, unless the lease's jobs are dismissed
// before. The place is the job's to leave.
func (g *gate) queue(l *lease, begin func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.open(l.ticket.Express) {
		g.take(l.party)
		begin()
		return
	}
	g.line(&waiter{party: l.party, isExpress: l.ticket.Express, lease: l, begin: begin})
}

// dismiss takes the lease's jobs that haven't begun out of the line, and returns how many those were.
func (g *gate) dismiss(l *lease) (n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	var out []*waiter
	if first := l.party.waiting; first != nil {
		for w := first; ; {
			if w.lease == l {
				out = append(out, w)
			}
			if w = w.next; w == first {
				break
			}
		}
	}
	for _, w := range out {
		g.unline(w)
	}
	return len(out)
}

// leave gives a place back.
func (g *gate) leave(b *party) {
	g.mu.Lock()
	g.release(b)
	g.mu.Unlock()
}

// open reports whether there is a place that nobody waits for.
func (g *gate) open(express bool) bool {
	return g.free > g.kept && len(g.projects) == 0 || express && g.free > 0 && g.express == nil
}

func (g *gate) take(b *party) {
	g.free--
	g.count(b, 1)
}

func (g *gate) release(b *party) {
	g.free++
	g.count(b, -1)
	switch {
	case g.free > g.kept && len(g.projects) > 0:
		g.give(g.projects[0].batches[0].waiting)
	case g.free > 0 && g.express != nil:
		g.give(g.express)
	}
}

// count moves a batch and its project to where they belong among those that wait.
func (g *gate) count(b *party, n int64) {
	b.inFlight += n
	b.project.inFlight += n
	if b.at >= 0 {
		heap.Fix(&b.project.batches, b.at)
	}
	if p := b.project; p.at >= 0 {
		heap.Fix(&g.projects, p.at)
	}
}

func (g *gate) give(w *waiter) {
	g.unline(w)
	g.take(w.party)
	if w.begin != nil {
		w.begin()
		return
	}
	w.given = true
	w.ready <- struct{}{}
}

// line adds a waiter behind its batch's others.
func (g *gate) line(w *waiter) {
	b := w.party
	if w.isExpress {
		if g.express == nil {
			g.express, w.ahead, w.behind = w, w, w
		} else {
			first, last := g.express, g.express.ahead
			w.ahead, w.behind = last, first
			last.behind, first.ahead = w, w
		}
	}
	if first := b.waiting; first != nil {
		last := first.prev
		w.prev, w.next = last, first
		last.next, first.prev = w, w
		return
	}
	b.waiting, w.prev, w.next = w, w, w
	heap.Push(&b.project.batches, b)
	if b.project.at < 0 {
		heap.Push(&g.projects, b.project)
	}
}

func (g *gate) unline(w *waiter) {
	b := w.party
	if w.isExpress {
		if w.behind == w {
			g.express = nil
		} else {
			w.ahead.behind, w.behind.ahead = w.behind, w.ahead
			if g.express == w {
				g.express = w.behind
			}
		}
		w.ahead, w.behind = nil, nil
	}
	if w.next != w {
		w.prev.next, w.next.prev = w.next, w.prev
		if b.waiting == w {
			b.waiting = w.next
		}
		w.prev, w.next = nil, nil
		return
	}
	b.waiting, w.prev, w.next = nil, nil, nil
	heap.Remove(&b.project.batches, b.at)
	if len(b.project.batches) == 0 {
		heap.Remove(&g.projects, b.project.at)
	}
}

// parties is a heap: first who has the fewest in flight for its weight.
type parties []*party

func (h parties) Len() int           { return len(h) }
func (h parties) Less(i, j int) bool { return h[i].inFlight*h[j].weight < h[j].inFlight*h[i].weight }
func (h parties) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].at, h[j].at = i, j
}

// Push and Pop are container/heap's.
func (h *parties) Push(x any) {
	p := x.(*party)
	p.at = len(*h)
	*h = append(*h, p)
}

func (h *parties) Pop() any {
	old := *h
	p := old[len(old)-1]
	old[len(old)-1], p.at = nil, -1
	*h = old[:len(old)-1]
	return p
}

// place is a job's place at the gate. It is a [gateway.Place].
type place struct {
	t    *task
	held bool
}

// Enter takes a place, unless the job has one.
func (p *place) Enter(ctx context.Context) error {
	if p.held {
		return nil
	}
	l := p.t.lease
	if l.closed() { // a stop wins over a free place
		return errHandedBack
	}
	err := p.t.w.gate.enter(ctx, l.stop, l.party, l.ticket.Express)
	p.held = err == nil
	return err
}

// Leave gives it back.
func (p *place) Leave() {
	if p.held {
		p.held = false
		p.t.w.gate.leave(p.t.lease.party)
	}
}
