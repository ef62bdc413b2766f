package source

import (
	"context"
	"iter"
	"sync"

	"golang.org/x/sync/semaphore"
)

const (
	readers  = 8         // items of a source that are read at once
	inFlight = 128 << 20 // bytes of items that are being read, or wait for their turn
)

// task is an item that is known of but not yet read.
type task struct {
	item Item
	size int64 // most bytes that reading it takes
	read func(ctx context.Context) (data []byte, contentType string, err error)
}

// reading is a task that was begun.
type reading struct {
	item Item
	err  error // the end of the tasks
	held int64 // bytes of inFlight
	done chan struct{}
}

// inOrder reads tasks side by side and yields their items one by one, in the order of the tasks. Room for a task's bytes is taken in that
// order as well, so the item that is waited for always has it, and others never keep it from being read.
func inOrder(ctx context.Context, tasks iter.Seq2[task, error]) iter.Seq2[Item, error] {
	return func(yield func(Item, error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		var begun sync.WaitGroup
		defer begun.Wait()
		defer cancel()
		room := semaphore.NewWeighted(inFlight)
		queue := make(chan *reading, readers-2) // one more is being sent, and one is waited for
		begun.Go(func() {
			defer close(queue)
			for t, err := range tasks {
				r := &reading{item: t.item, err: err, held: min(t.size, inFlight), done: make(chan struct{})}
				if room.Acquire(ctx, r.held) != nil {
					return
				}
				begun.Go(func() { r.run(ctx, t, room) })
				select {
				case queue <- r:
				case <-ctx.Done():
					return
				}
			}
		})
		for r := range queue {
			<-r.done
			if ctx.Err() != nil {
				break
			}
			if !yield(r.item, r.err) || r.err != nil {
				return
			}
			room.Release(r.held)
		}
		if ctx.Err() != nil {
			yield(Item{}, context.Cause(ctx))
		}
	}
}

// run reads a task, and gives back the room that it didn't need.
func (r *reading) run(ctx context.Context, t task, room *semaphore.Weighted) {
	defer close(r.done)
	if t.read == nil || r.err != nil {
		return
	}
	r.item.Data, r.item.ContentType, r.item.Err = t.read(ctx)
	if spare := r.held - int64(len(r.item.Data)); spare > 0 {
		r.held -= spare
		room.Release(spare)
	}
}
