package jobs

import (
	"context"
	"fmt"

	"github.com/google/uuid"
)

// progressed notes that a job of b has just become final. It is called for every job: only the first one since the last heartbeat takes the lock.
func (w *Worker) progressed(b *batch) {
	if b.moved.Load() || !b.moved.CompareAndSwap(false, true) {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.moved = append(w.moved, b)
}

// touch tells the database which batches have come on since the last heartbeat.
func (w *Worker) touch(ctx context.Context) error {
	w.mu.Lock()
	moved := w.moved
	w.moved = nil
	w.mu.Unlock()
	if len(moved) == 0 {
		return nil
	}
	ids := make([]uuid.UUID, len(moved))
	for i, b := range moved {
		b.moved.Store(false) // before the write: what ends from here on counts for the next one
		ids[i] = b.ID
	}
	noted, err := w.DB.TouchProgress(ctx, ids)
	seen := make(map[uuid.UUID]bool, len(noted))
	for _, id := range noted {
		seen[id] = true
	}
	for _, b := range moved {
		if !seen[b.ID] {
			w.progressed(b)
		}
	}
	if err != nil {
		return fmt.Errorf("touch progress: %w", err)
	}
	return nil
}

// findStalled looks for running batches that make no progress. Every worker looks; each batch is found once.
func (w *Worker) findStalled(ctx context.Context) error {
	stalled, err := w.DB.MarkStalled(ctx, w.o.StallAfter)
	for _, id := range stalled {
		w.Log.WarnContext(ctx, "batch makes no progress", "batch", id, "for", w.o.StallAfter)
	}
	if err != nil {
		return fmt.Errorf("find stalled batches: %w", err)
	}
	return nil
}
