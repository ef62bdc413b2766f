package jobs

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"batchwright/internal/store"
)

// release lets go of the jobs of other batches that waited for leaders which were just settled. Failing that, reconcile does.
func (w *Worker) release(ctx context.Context, done []store.Settled) {
	var leaders []store.Settled
	for _, d := range done {
		if d.Followed {
			leaders = append(leaders, d)
		}
	}
	if len(leaders) == 0 {
		return
	}
	released, err := w.DB.ReleaseFollowers(ctx, leaders)
	if err != nil {
		w.Log.WarnContext(ctx, "followers not released, will be tried again", "err", err)
	}
	if released > 0 {
		w.nudge()
	}
}

// recurrence is when something is to be looked at again: less and less often.
type recurrence struct {
	at   time.Time
	wait time.Duration
}

// A batch whose jobs wait for those of other batches is reconciled at first after reconcileSoon, and in the end every reconcileLate.
const (
	reconcileSoon = 2 * time.Second
	reconcileLate = time.Minute
)

// reconcile releases jobs whose leaders in other batches ended unseen. Each worker does it, so that none has to.
func (w *Worker) reconcile(ctx context.Context) error {
	ids, err := w.DB.Following(ctx)
	if err != nil {
		return fmt.Errorf("list followers: %w", err)
	}
	now := time.Now()
	next := make(map[uuid.UUID]*recurrence, len(ids))
	for _, id := range ids {
		r := w.following[id]
		if r == nil { // StartBatch looked a moment ago
			r = &recurrence{at: now.Add(reconcileSoon), wait: reconcileSoon}
		}
		next[id] = r
		if now.Before(r.at) {
			continue
		}
		released, rerr := w.DB.Reconcile(ctx, id)
		if rerr != nil {
			err = errors.Join(err, fmt.Errorf("reconcile batch %s: %w", id, rerr))
			continue
		}
		r.wait = min(2*r.wait, reconcileLate)
		if released > 0 {
			w.Log.InfoContext(ctx, "followers released", "batch", id, "jobs", released)
			w.nudge()
			r.wait = reconcileSoon
		}
		r.at = now.Add(r.wait)
	}
	w.following = next
	return err
}

// recheck looks up once more what the cache had no answer for when the batch was planned: other batches may have paid for it since. It
// returns one hit or nil for each job. First attempts of a batch that was alone need no look.
func (w *Worker) recheck(ctx context.Context, b *batch, t store.Ticket, claimed []store.Claimed) ([]*store.Hit, error) {
	due := b.Cache == "only" || b.Recheck || b.standing().Recheck || t.Purpose == store.PurposeRetry
	if !b.Reads() || len(claimed) == 0 || !due {
		return make([]*store.Hit, len(claimed)), nil
	}
	var hits []*store.Hit
	err := w.persist(ctx, func(ctx context.Context) (err error) {
		keys, err := w.keysOf(ctx, b, claimed)
		if err != nil {
			return err
		}
		hits, err = w.DB.Hits(ctx, b.ProjectID, keys, b.Oldest())
		return err
	})
	if err != nil {
		return make([]*store.Hit, len(claimed)), err
	}
	return hits, nil
}

// keysOf computes the keys of jobs once more. One whose document has no text by now has none.
func (w *Worker) keysOf(ctx context.Context, b *batch, claimed []store.Claimed) ([][][32]byte, error) {
	ins := make([]store.Input, len(claimed))
	var ids []textID
	for i, job := range claimed {
		ins[i] = store.Input{Seq: job.Seq, Input: job.Input, DocumentSHA256: job.DocumentSHA256}
		if job.DocumentSHA256 != nil {
			_, id, err := refOf(ins[i])
			if err != nil {
				return nil, err
			}
			ids = append(ids, id)
		}
	}
	var known map[textID]text
	if len(ids) > 0 {
		var err error
		if known, err = w.lookUpTexts(ctx, b, ids); err != nil {
			return nil, err
		}
	}
	keys := make([][][32]byte, len(claimed))
	for i, in := range ins {
		if in.DocumentSHA256 != nil {
			_, id, _ := refOf(in)
			if in.TextSHA256 = known[id].sum; in.TextSHA256 == nil {
				continue
			}
		}
		row, _ := planJob(b, in)
		keys[i] = row.Keys
	}
	return keys, nil
}

// reuse settles a job with an answer that is there: no call, so no attempt.
func (t *task) reuse() settlement {
	return settlement{followers: t.batch.HasFollowers, job: &store.Settlement{
		ProjectID: t.batch.ProjectID, BatchID: t.batch.ID, Seq: t.job.Seq, TicketID: t.lease.ticket.ID, State: "succeeded",
		ResultKey: t.known.Key, Refresh: true, CacheStatus: "result_hit", Provider: t.known.Provider, Model: t.known.Model, CostMicrousd: new(int64),
	}}
}
