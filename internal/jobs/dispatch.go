package jobs

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"batchwright/internal/fault"
	"batchwright/internal/store"
)

// dispatch hands out tickets as long as the window has room, and moves batches on: from planning to running, and to their end.
func (w *Worker) dispatch(ctx context.Context) error {
	rate := w.pace.perSecond(fault.Now(), w.settled.Load())
	open, tickets, err := w.DB.Dispatch(ctx, func(open []store.OpenBatch, f store.Fleet) []store.Grant {
		return share(open, f, rate*int(max(f.Workers, 1))) // the others are taken to be as fast
	})
	if err != nil {
		return fmt.Errorf("dispatch: %w", err)
	}
	if len(tickets) > 0 {
		fault.Point("dispatch-issued")
	}
	w.gate.weigh(open)
	w.rest(open)
	err = w.post(ctx, tickets)
	// Most of what has nothing outstanding can end; some waits for other batches, and must not hold the rest up.
	tries, from := maxAdvance, rand.IntN(len(open)+1)
	for i := range open {
		b := &open[(i+from)%len(open)]
		if b.Tickets > 0 || tries == 0 {
			continue
		}
		tried, aerr := w.advance(ctx, b)
		if aerr != nil {
			err = errors.Join(err, fmt.Errorf("advance batch %s: %w", b.ID, aerr))
		}
		if tried {
			tries--
		}
	}
	return err
}

// maxAdvance is the most batches that a round of dispatch tries to move on.
const maxAdvance = 200

// rest lets the loops slow down while nothing is open.
func (w *Worker) rest(open []store.OpenBatch) {
	quiet := !slices.ContainsFunc(open, func(b store.OpenBatch) bool { return b.State != "paused" || b.Tickets > 0 })
	if w.quiet.Swap(quiet) && !quiet {
		poke(w.look)
	}
}

// advance moves a batch without outstanding tickets on, if it may. It reports whether it tried.
func (w *Worker) advance(ctx context.Context, b *store.OpenBatch) (tried bool, err error) {
	switch b.State {
	case "planning":
		select {
		case w.starts <- *b:
		default: // all busy: the next round asks again
		}
		return true, nil
	case "running", "paused":
		if b.NextSeq <= b.TotalJobs || b.NextDue != nil {
			return false, nil
		}
	}
	_, err = w.finish(ctx, b)
	return true, err
}

func (w *Worker) finish(ctx context.Context, b *store.OpenBatch) (bool, error) {
	done, err := w.DB.FinishBatch(ctx, b.ID)
	if done {
		fault.Point("batch-frozen")
		w.Log.InfoContext(ctx, "batch finished", "batch", b.ID)
		w.mu.Lock()
		delete(w.batches, b.ID)
		w.mu.Unlock()
	}
	return done, err
}

// pace measures how fast a counter grows. Only the dispatch loop uses it.
type pace struct {
	at    time.Time
	count int64
	rate  float64
}

func (p *pace) perSecond(now time.Time, count int64) int {
	if d := now.Sub(p.at); p.at.IsZero() || d > 5*time.Second {
		*p = pace{at: now, count: count}
	} else if d > 50*time.Millisecond {
		p.rate = p.rate/2 + float64(count-p.count)/d.Seconds()/2
		p.at, p.count = now, count
	}
	return int(p.rate)
}
