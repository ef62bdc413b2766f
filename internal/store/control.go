package store

import (
	"context"
	"time"

	"github.com/google/uuid"
)

// Standing is what may change about a batch while workers run it.
type Standing struct {
	ID                uuid.UUID
	State             string
	Ending            time.Duration // for how long it has been cancelling; 0 while it isn't
	Concurrency       *int32
	MaxAttempts       *int32
	JobTimeoutSeconds *int32
	Followed          bool
}

const getStandings = `-- name: GetStandings
select id, state, case when state = 'cancelling' then now() - ending_at else '0' end as ending,
    concurrency, max_attempts, job_timeout_seconds, followed
from batches where id = any($1::uuid[])`

// Standings returns how batches stand, of whatever project and in no order; purged ones are missing. A worker asks for all that it knows
// at every heartbeat.
func (r Reader) Standings(ctx context.Context, batches []uuid.UUID) ([]Standing, error) {
	return many[Standing](ctx, r.q, getStandings, batches)
}

// Standing is how the batch stood when its row was read.
func (b Batch) Standing() Standing {
	return Standing{ID: b.ID, State: b.State, Concurrency: b.Concurrency, MaxAttempts: b.MaxAttempts, JobTimeoutSeconds: b.JobTimeoutSeconds,
		Followed: b.Followed}
}
