package jobs

import (
	"context"
	"time"
)

// group gathers items from many goroutines and hands them to flush in sets. While one set is being written the next one gathers, so
// sets grow with the load, and a lone item waits no longer than linger.
type group[T any] struct {
	in     chan entry[T]
	size   int
	linger time.Duration
	flush  func(ctx context.Context, items []T) []error // nil, or one error per item
}

type entry[T any] struct {
	item T
	done chan error
}

func newGroup[T any](size int, linger time.Duration, flush func(context.Context, []T) []error) *group[T] {
	return &group[T]{in: make(chan entry[T], size), size: size, linger: linger, flush: flush}
}

// do adds an item and waits until its set is written. Once an item is in, ctx no longer matters to it.
func (g *group[T]) do(ctx context.Context, item T) error {
	e := entry[T]{item, make(chan error, 1)}
	select {
	case g.in <- e:
		return <-e.done
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// run gathers and flushes until the channel is closed. Several may run at once.
func (g *group[T]) run(ctx context.Context) {
	entries := make([]entry[T], 0, g.size)
	items := make([]T, 0, g.size)
	for first := range g.in {
		entries = append(entries[:0], first)
		entries = g.gather(entries)
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
			entries[i].done <- err
		}
		clear(entries)
		clear(items)
	}
}

func (g *group[T]) gather(entries []entry[T]) []entry[T] {
	var timeout <-chan time.Time
	for len(entries) < g.size {
		select {
		case e, ok := <-g.in:
			if !ok {
				return entries
			}
			entries = append(entries, e)
			continue
		default:
		}
		if timeout == nil {
			timer := time.NewTimer(g.linger)
			defer timer.Stop()
			timeout = timer.C
		}
		select {
		case e, ok := <-g.in:
			if !ok {
				return entries
			}
			entries = append(entries, e)
		case <-timeout:
			return entries
		}
	}
	return entries
}
