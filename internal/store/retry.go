package store

import (
	"context"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// RetryFilter says which finished jobs of a batch are to be tried again; all that is set must hold.
type RetryFilter struct {
	States    []string   // failed, cancelled or both; required
	Classes   []string   // of the error; nil for any
	CustomIDs []string   // nil for any
	Since     *time.Time // finished at or after
}

// Retried counts what a retry found.
type Retried struct {
	Requeued int64
	Excluded int64 // jobs that match but have no request that could be sent: their input is invalid
}

const (
	// Columns are of the jobs table that is nearest, so that it serves a job as well as its leader.
	retryMatch = `batch_id = $1 and state = any($2::text[]) and ($3::text[] is null or error_class = any($3))
    and ($4::text[] is null or seq in (select i.seq from inputs i where i.batch_id = $1 and i.custom_id = any($4)))
    and ($5::timestamptz is null or finished_at >= $5)`
	// A follower whose leader is tried again goes on waiting for it. Every other one is tried itself: its leader may have been answered long
	// ago, and then the cache has the answer.
	requeueJobs = `-- name: RequeueJobs
update jobs o set state = 'waiting', past_attempts = past_attempts + attempts, attempts = 0, first_run_at = null, finished_at = null, cache_status = null, provider = null, model = null,
    error_class = null, error_message = null,
    (due_at, leader_seq) = (select case when k.kept then null else now() end, case when k.kept then o.leader_seq end
        from (select o.leader_seq is not null and o.leader_batch is null
            and exists (select 1 from jobs l where l.seq = o.leader_seq and l.key is not null and ` + retryMatch + `) as kept) k),
    leader_batch = null
where key is not null and ` + retryMatch
	requeueFailed = requeueJobs + ` and error_class is not null -- by the index jobs_errors`
	countExcluded = `-- name: CountExcluded
select count(*) from jobs where key is null and ` + retryMatch
	countExcludedFailed = countExcluded + ` and error_class is not null`
	// Counts are derived from rows again until they are frozen anew. An expiry that has passed would end the batch at once.
	reopenBatch = `-- name: ReopenBatch
update batches set state = case when finished_at is null then state else 'running' end, recheck = true, finished_at = null, ending = null,
    ending_at = null, ending_grace_seconds = null, error = null, expires_at = case when expires_at > now() then expires_at end,
    succeeded_jobs = null, failed_jobs = null, cancelled_jobs = null, result_hits = null, coalesced = null, gateway_hits = null, misses = null,
    bypassed = null, calls = null, uncertain_calls = null, unpriced_calls = null, input_tokens = null, cached_input_tokens = null,
    output_tokens = null, cost_microusd = null, progress_at = now(), stalled_at = null
where id = $1`
)

// RetryJobs makes finished jobs of a batch due again, as if they had never been tried, and reopens the batch if it was final. What their
// calls cost stays in the ledger and in their totals. ErrState, with the batch, when it isn't planned yet, is ending, or was purged.
func (db *DB) RetryJobs(ctx context.Context, project, id uuid.UUID, f RetryFilter) (b Batch, r Retried, err error) {
	requeue, count := requeueJobs, countExcluded
	if !slices.Contains(f.States, "cancelled") {
		requeue, count = requeueFailed, countExcludedFailed
	}
	b, err = db.turn(ctx, project, id, func(tx pgx.Tx, b Batch) error {
		if b.StartedAt == nil || b.State == "cancelling" || b.PurgedAt != nil {
			return ErrState
		}
		args := []any{id, f.States, f.Classes, f.CustomIDs, f.Since}
		var err error
		if r.Excluded, err = scalar[int64](ctx, tx, count, args...); err != nil {
			return err
		}
		tag, err := tx.Exec(ctx, requeue, args...)
		if err != nil || tag.RowsAffected() == 0 {
			return err
		}
		r.Requeued = tag.RowsAffected()
		_, err = tx.Exec(ctx, reopenBatch, id)
		return err
	})
	return b, r, err
}

// DeadLetterFilter says which failed jobs of a project are meant; all that is set must hold.
type DeadLetterFilter struct {
	Class string
	Kind  string
	Batch *uuid.UUID
	Since *time.Time
}

// DeadLetter is a job that failed for good.
type DeadLetter struct {
	BatchID      uuid.UUID
	BatchName    string
	Kind         string
	Seq          int32
	CustomID     *string
	ErrorClass   string
	ErrorMessage string
	Attempts     int32
	Requeueable  bool // false: its input is invalid
	FinishedAt   time.Time
}

const (
	// Batches without failures are passed over by their frozen counts; in the others the index jobs_errors finds the failed jobs.
	deadBatches = `b.project_id = $1 and b.purged_at is null and (b.failed_jobs is null or b.failed_jobs > 0)
    and ($3 = '' or b.kind = $3) and ($4::uuid is null or b.id = $4)`
	deadJobs = `j.batch_id = b.id and j.error_class is not null and j.state = 'failed' and ($2 = '' or j.error_class = $2)
    and ($5::timestamptz is null or j.finished_at >= $5)`
	listDeadLetters = `-- name: ListDeadLetters
select d.*, (select custom_id from inputs i where i.batch_id = d.batch_id and i.seq = d.seq) as custom_id from (
    select b.id as batch_id, b.name as batch_name, b.kind, j.seq, j.error_class, coalesce(j.error_message, '') as error_message, j.attempts,
        j.key is not null as requeueable, j.finished_at
    from batches b cross join lateral (select * from jobs j where ` + deadJobs + ` and ($6::uuid is null or b.id <> $6 or j.seq > $7)
        order by j.seq limit $8) j
    where ` + deadBatches + ` and ($6::uuid is null or b.id <= $6)
    order by b.id desc, j.seq limit $8) d
order by d.batch_id desc, d.seq`
	listDeadBatches = `-- name: ListDeadBatches
select b.id from batches b
where ` + deadBatches + ` and b.started_at is not null and b.state <> 'cancelling'
    and exists (select 1 from jobs j where ` + deadJobs + ` and j.key is not null)
order by b.id desc limit $6`
)

// DeadLetters pages through a project's failed jobs, those of the newest batch first and in the order of submission within it, from behind
// job afterSeq of batch after when that is given.
func (r Reader) DeadLetters(ctx context.Context, project uuid.UUID, f DeadLetterFilter, after *uuid.UUID, afterSeq int32, limit int) ([]DeadLetter, error) {
	return many[DeadLetter](ctx, r.q, listDeadLetters, project, f.Class, f.Kind, f.Batch, f.Since, after, afterSeq, limit)
}

// DeadBatches lists the project's batches, newest first, that have failed jobs which can be tried again.
func (r Reader) DeadBatches(ctx context.Context, project uuid.UUID, f DeadLetterFilter, limit int) ([]uuid.UUID, error) {
	return column[uuid.UUID](ctx, r.q, listDeadBatches, project, f.Class, f.Kind, f.Batch, f.Since, limit)
}
