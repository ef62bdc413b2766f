package jobs

import (
	"context"
	"sync"
	"time"
)

// group gathers items from many goroutines and hands them to flush in sets. While one set is being written the next one gathers, so sets
// grow with the load; a second one is written beside it only when it is full. A lone item waits no longer than linger.
type group[T any] struct {
	size   int
	linger time.Duration
	flush  func(ctx context.Context, items []T) []error // nil, or one error per item

	mu      sync.Mutex
	waiting []entry[T]
	since   time.Time // when the first of them came
	writing int
	closed  bool
	changed chan struct{} // has a value when a set may be due
	waits   sync.Pool
}

type entry[T any] struct {
	item T
	then func(error)
}

func newGroup[T any](size int, linger time.Duration, flush func(context.Context, []T) []error) *group[T] {
	return &group[T]{size: size, linger: linger, flush: flush, changed: make(chan struct{}, 1), waits: sync.Pool{New: func() any {
		w := &wait{done: make(chan error, 1)}
		w.then = func(err error) { w.done <- err }
		return w
	}}}
}

// do adds an item and waits until its set is written. Once an item is in, ctx no longer matters to it.
func (g *group[T]) do(ctx context.Context, item T) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	w := g.waits.Get().(*wait)
	g.add(item, w.then)
	err := <-w.done
	g.waits.Put(w)
	return err
}

// wait is for one item at a time.
type wait struct {
	done chan error
	then func(error)
}

// add adds an item, and has the writer call then once its set is written. It must not take long.
func (g *group[T]) add(item T, then func(error)) {
	g.mu.Lock()
	g.waiting = append(g.waiting, entry[T]{item, then})
	n := len(g.waiting)
	if n == 1 {
		g.since = time.Now()
	}
	g.mu.Unlock()
	if n == 1 || n == g.size {
		poke(g.changed)
	}
}

// close lets run end once what is in is written. Nothing may be added after it.
func (g *group[T]) close() {
	g.mu.Lock()
	g.closed = true
	g.mu.Unlock()
	poke(g.changed)
}

// run gathers and flushes until the group is closed. Several may run at once.
func (g *group[T]) run(ctx context.Context) {
	entries := make([]entry[T], 0, g.size)
	items := make([]T, 0, g.size)
	rest := time.NewTimer(g.linger)
	defer rest.Stop()
	for {
		if entries = g.next(entries[:0], rest); len(entries) == 0 {
			return
		}
		items = items[:0]
		for i := range entries {
			items = append(items, entries[i].item)
		}
		errs := g.flush(ctx, items)
		for i := range entries {
			var err error
			if errs != nil {
				err = errs[i]
			}
			entries[i].then(err)
		}
		clear(entries)
		clear(items)
		g.mu.Lock()
		g.writing--
		g.mu.Unlock()
		poke(g.changed)
	}
}

// next waits for a set and appends it to entries; none comes when the group is closed and empty.
func (g *group[T]) next(entries []entry[T], rest *time.Timer) []entry[T] {
	for {
		g.mu.Lock()
		n := len(g.waiting)
		alone := n > 0 && g.writing == 0
		wait := g.linger - time.Since(g.since)
		if n >= g.size || alone && wait <= 0 || g.closed {
			k := min(n, g.size)
			entries = append(entries, g.waiting[:k]...)
			left := copy(g.waiting, g.waiting[k:])
			clear(g.waiting[left:])
			g.waiting = g.waiting[:left]
			if k > 0 {
				g.writing++
			}
			more := left >= g.size || g.closed // the other writers must look, too
			g.mu.Unlock()
			if more {
				poke(g.changed)
			}
			return entries
		}
		g.mu.Unlock()
		if !alone {
			<-g.changed
			continue
		}
		rest.Reset(wait)
		select {
		case <-g.changed:
		case <-rest.C:
		}
	}
}
