package jobs

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"

	"batchwright/internal/store"
)

// standing is what may have changed about a batch since it was loaded: at most a heartbeat old, so nothing that must be exact rests on it.
func (b *batch) standing() store.Standing {
	if b.whole != nil {
		return b.whole.standing()
	}
	if s := b.current.Load(); s != nil {
		return *s
	}
	return b.Standing()
}

// maxAttempts is how many counted attempts a job of the batch has.
func (b *batch) maxAttempts(o WorkerOptions) int {
	if n := b.standing().MaxAttempts; n != nil {
		return int(*n)
	}
	return o.MaxAttempts
}

// jobTimeout is the time that a job of the batch has from its first attempt on.
func (b *batch) jobTimeout(o WorkerOptions) time.Duration {
	if s := b.standing().JobTimeoutSeconds; s != nil {
		return time.Duration(*s) * time.Second
	}
	return o.JobTimeout
}

// refresh learns how all batches stand that this worker knows. Jobs of a batch that doesn't run any more begin no call: they are handed
// back. When it is being cancelled, the calls in flight have the grace time to end, and are cut then; when it is paused, they end.
func (w *Worker) refresh(ctx context.Context) error {
	w.mu.Lock()
	known := make(map[uuid.UUID][]*batch, len(w.batches))
	for id, b := range w.batches {
		known[id] = append(known[id], b)
	}
	for _, l := range w.leases { // of batches that the cache has dropped since
		if id := l.batch.ID; !slices.Contains(known[id], l.batch) {
			known[id] = append(known[id], l.batch)
		}
	}
	w.mu.Unlock()
	if len(known) == 0 {
		return nil
	}
	ids := make([]uuid.UUID, 0, len(known))
	for id := range known {
		ids = append(ids, id)
	}
	standings, err := w.DB.Standings(ctx, ids)
	if err != nil {
		return fmt.Errorf("read how batches stand: %w", err)
	}
	stopped := map[uuid.UUID]store.Standing{}
	for _, s := range standings {
		for _, b := range known[s.ID] {
			b.current.Store(&s)
		}
		if s.State != "running" {
			stopped[s.ID] = s
		}
	}
	if len(stopped) == 0 {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for id := range stopped { // should it run again, its row is read anew
		delete(w.batches, id)
	}
	for _, l := range w.leases {
		if s, ok := stopped[l.batch.ID]; ok && l.ticket.Purpose != store.PurposePlan {
			l.close()
			if s.State == "cancelling" {
				w.cutLater(l, s)
			}
		}
	}
	return nil
}

// cutLater cuts a lease's calls when the grace time of its batch, which may have been changed, is over.
func (w *Worker) cutLater(l *lease, s store.Standing) {
	grace := w.o.CancelGrace
	if s.EndingGrace != nil {
		grace = time.Duration(*s.EndingGrace) * time.Second
	}
	left := max(grace-s.Ending, 0)
	if l.grace == nil {
		l.grace = time.AfterFunc(left, l.cut)
	} else {
		l.grace.Reset(left)
	}
}
