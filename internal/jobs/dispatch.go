package jobs

import (
	"context"
	"errors"
	"fmt"
	"time"

	"batchwright/internal/fault"
	"batchwright/internal/store"
)

// maxTicket is the most jobs that one ticket covers.
const maxTicket = 500

// dispatch hands out tickets as long as the window has room, and moves batches on: from planning to running, and to their end.
func (w *Worker) dispatch(ctx context.Context) error {
	rate := w.pace.perSecond(time.Now(), w.settled.Load())
	open, tickets, err := w.DB.Dispatch(ctx, func(open []store.OpenBatch, f store.Fleet) []store.Grant {
		return share(open, f, rate*int(max(f.Workers, 1))) // the others are taken to be as fast
	})
	if err != nil {
		return fmt.Errorf("dispatch: %w", err)
	}
	if len(tickets) > 0 {
		fault.Point("dispatch-issued")
	}
	err = w.post(ctx, tickets)
	for _, b := range open {
		if b.Tickets > 0 {
			continue
		}
		if serr := w.advance(ctx, b); serr != nil {
			err = errors.Join(err, fmt.Errorf("advance batch %s: %w", b.ID, serr))
		}
	}
	return err
}

// advance moves a batch without outstanding tickets on, if it may.
func (w *Worker) advance(ctx context.Context, b store.OpenBatch) error {
	switch b.State {
	case "planning":
		select {
		case w.starts <- b:
		default: // all busy: the next round asks again
		}
		return nil
	case "running", "paused":
		if b.NextSeq <= b.TotalJobs || b.Due > 0 {
			return nil
		}
	}
	_, err := w.finish(ctx, b)
	return err
}

func (w *Worker) finish(ctx context.Context, b store.OpenBatch) (bool, error) {
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

// share decides who gets tickets: batches take turns, one ticket each, until the window is full. The window holds three times the calls
// that all workers can have in flight (one in flight, one claimed behind it, one on its way), or what they settle in a quarter of a
// second if that is more; never the backlog. rate is jobs settled a second, by all workers.
func share(open []store.OpenBatch, f store.Fleet, rate int) []store.Grant {
	room := max(3*int(f.Concurrency), rate/4) - int(f.Jobs)
	tickets := 2*int(f.Slots) - int(f.Tickets)
	grants := make([]store.Grant, 0, len(open))
	index := make([]int, 0, len(open)) // into open
	for i, b := range open {
		if b.State == "running" && (b.NextSeq <= b.TotalJobs || b.Due > 0) {
			grants = append(grants, store.Grant{Batch: b.ID, Size: ticketSize(b, f, rate)})
			index = append(index, i)
		}
	}
	for more := true; more; {
		more = false
		for i := range grants {
			g, b := &grants[i], open[index[i]]
			if room <= 0 || tickets <= 0 {
				return grants
			}
			due, fresh := int(b.Due)-g.Retry*g.Size, int(b.TotalJobs-b.NextSeq)+1-g.Run*g.Size
			switch {
			case due > 0:
				g.Retry++
				room -= min(due, g.Size)
			case fresh > 0:
				g.Run++
				room -= min(fresh, g.Size)
			default:
				continue
			}
			tickets--
			more = true
		}
	}
	return grants
}

// ticketSize spreads a small batch over the workers, and gives a large one tickets of a quarter of a worker's calls in flight, or of what a
// worker settles in 25 ms if that is more.
func ticketSize(b store.OpenBatch, f store.Fleet, rate int) int {
	workers := max(int(f.Workers), 1)
	left := max(int(b.TotalJobs-b.NextSeq)+1, int(b.Due), 1)
	even := (left + 4*workers - 1) / (4 * workers)
	return max(1, min(even, max(int(f.Concurrency)/4, rate/40)/workers, maxTicket))
}
