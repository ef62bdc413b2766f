package chaos

import (
	"context"
	"strconv"
	"time"
)

// expiry is when a load that is sent now expires; the zero time is never.
func (l load) expiry() (at time.Time) {
	if l.expires > 0 {
		at = time.Now().Add(l.expires)
	}
	return at
}

// glimpse returns which jobs of a batch have an answer shortly before it expires, if the API tells at once. All of them must have it for good.
func (w *world) glimpse(ctx context.Context, a accepted) map[int]bool {
	if wait(ctx, time.Until(a.until)-150*time.Millisecond) != nil {
		return nil
	}
	ctx, cancel := context.WithDeadline(ctx, time.Now().Add(time.Second))
	defer cancel()
	_, results, _ := w.fetchOnce(ctx, a) // what it read is as good without the rest
	kept := map[int]bool{}
	for _, r := range results {
		if n, err := strconv.Atoi(*r.CustomID); err == nil && r.Status == "succeeded" {
			kept[n] = true
		}
	}
	w.say("%s expires with %d jobs that have their answers", a.name, len(kept))
	return kept
}

// overtime are the batches that went on for long after they expired and nothing hurt any more. A retry takes the time limit away.
const overtime = `select b.id, b.name, b.state, b.expires_at, b.finished_at, (select max(started_at) from calls where batch_id = b.id)
	from batches b where b.expires_at is not null and (b.state = 'expired' and b.finished_at < b.expires_at
		or b.state = 'completed' and b.finished_at > greatest(b.expires_at, $1::timestamptz) + interval '10 seconds'
		or exists (select 1 from calls where batch_id = b.id and started_at > greatest(b.expires_at, $1::timestamptz) + interval '10 seconds'))`
