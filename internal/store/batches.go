package store

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// Limits bound a batch. The zero value sets no bounds. Its form as JSON is part of a submission's hash: fields keep their order.
type Limits struct {
	Priority          int16 // from -10 to 10; each step up doubles the batch's share within its project
	Concurrency       *int32
	MaxAttempts       *int32
	JobTimeoutSeconds *int32
	ExpiresAt         *time.Time
	MaxCostMicrousd   *int64
}

// Batch is one row of batches, with the names of its template and route.
type Batch struct {
	ID              uuid.UUID
	ProjectID       uuid.UUID
	Name            string
	Kind            string
	State           string
	TemplateID      *uuid.UUID
	TemplateName    *string
	TemplateVersion *int32
	RouteID         *uuid.UUID
	RouteName       *string
	RouteVersion    *int32
	Route           json.RawMessage
	Params          json.RawMessage
	Metadata        json.RawMessage
	OnInvalid       string
	Cache           string
	RequestSHA256   []byte
	TotalJobs       int64
	NextSeq         int32
	HasFollowers    bool
	Error           *string
	CreatedAt       time.Time
	StartedAt       *time.Time
	FinishedAt      *time.Time

	APIKeyID *uuid.UUID
	Limits
	OpenUpload  bool
	PauseReason *string // requested, budget or forecast; null while it isn't paused
	PauseDetail *string
	PausedAt    *time.Time
	Ending      *string // cancelled or expired, once it is cancelling
	EndingAt    *time.Time
	Followed    bool
	Follows     bool
	Recheck     bool
	StalledAt   *time.Time
	PurgedAt    *time.Time

	MaxAgeSeconds *int32     // of answers of the cache, before the batch was made; nil for any
	RerunOf       *uuid.UUID // whose jobs it runs again

	Source json.RawMessage // where its jobs come from; nil for none

	OnForecastOver string // run, pause or refuse
	DryRun         bool
}

const batchCols = `b.id, b.project_id, b.name, b.kind, b.state, b.template_id, t.name as template_name,
t.version as template_version, b.route_id, r.name as route_name, r.version as route_version, b.route, b.params, b.metadata,
b.on_invalid, b.cache, b.request_sha256, b.total_jobs, b.next_seq, b.has_followers, b.error, b.created_at, b.started_at, b.finished_at,
b.api_key_id, b.priority, b.concurrency, b.max_attempts, b.job_timeout_seconds, b.max_cost_microusd, b.expires_at, b.open_upload,
b.pause_reason, b.pause_detail, b.paused_at, b.ending, b.ending_at, b.followed, b.follows, b.recheck, b.stalled_at, b.purged_at,
b.max_age_seconds, b.rerun_of, b.source, b.on_forecast_over, b.dry_run`

const batchFrom = ` from batches b left join templates t on t.id = b.template_id left join routes r on r.id = b.route_id `

const (
	getBatch = `-- name: GetBatch
select ` + batchCols + batchFrom + `where b.id = $1 and b.project_id = $2`
	getAnyBatch = `-- name: GetAnyBatch
select ` + batchCols + batchFrom + `where b.id = $1`
	getBatchByKey = `-- name: GetBatchByKey
select ` + batchCols + batchFrom + `where b.project_id = $1 and b.idempotency_key = $2`
	listBatches = `-- name: ListBatches
select ` + batchCols + batchFrom + `
where b.project_id = $1 and ($2 = '' or b.kind = $2) and ($3 = '' or b.state = $3) and ($4::uuid is null or b.id < $4)
order by b.id desc limit $5`
)

// Reads reports whether the batch takes answers from the result cache.
func (b Batch) Reads() bool { return b.Cache == "use" || b.Cache == "only" }

// Renews reports whether its answers take the place of those that the cache has.
func (b Batch) Renews() bool { return b.Cache == "refresh" || b.MaxAgeSeconds != nil }

// Oldest is when an answer of the cache must have been made for the batch to take it; nil: any will do. What was made since the batch was
// is never too old for it, however long it runs.
func (b Batch) Oldest() *time.Time {
	if b.MaxAgeSeconds == nil {
		return nil
	}
	at := b.CreatedAt.Add(-time.Duration(*b.MaxAgeSeconds) * time.Second)
	return &at
}

// Batch returns a project's batch or ErrNotFound.
func (r Reader) Batch(ctx context.Context, project, id uuid.UUID) (Batch, error) {
	return one[Batch](ctx, r.q, getBatch, id, project)
}

// AnyBatch returns a batch of whatever project, or ErrNotFound. It is for workers, never for a request.
func (r Reader) AnyBatch(ctx context.Context, id uuid.UUID) (Batch, error) {
	return one[Batch](ctx, r.q, getAnyBatch, id)
}

// BatchByKey returns the batch that an Idempotency-Key made, or ErrNotFound.
func (r Reader) BatchByKey(ctx context.Context, project uuid.UUID, key string) (Batch, error) {
	return one[Batch](ctx, r.q, getBatchByKey, project, key)
}

// Batches pages through a project's batches, newest first, below before when it is given. Empty filters match all.
func (r Reader) Batches(ctx context.Context, project uuid.UUID, kind, state string, before *uuid.UUID, limit int) ([]Batch, error) {
	return many[Batch](ctx, r.q, listBatches, project, kind, state, before, limit)
}

// NewBatch is a submission before it has rows.
type NewBatch struct {
	ID             uuid.UUID
	ProjectID      uuid.UUID
	Name           string
	Kind           string
	TemplateID     *uuid.UUID
	RouteID        *uuid.UUID
	Route          json.RawMessage
	Params         json.RawMessage
	Metadata       json.RawMessage
	OnInvalid      string
	Cache          string
	IdempotencyKey string // empty for none
	Open           bool   // an upload session: it takes more jobs until it is sealed

	APIKeyID uuid.UUID
	Limits

	MaxAgeSeconds *int32
	RerunOf       *uuid.UUID

	Source json.RawMessage // of its jobs, which a worker gathers once the batch is open; nil for none

	OnForecastOver string // empty for run
	DryRun         bool
}

const (
	lockOpenBatch = `-- name: LockOpenBatch
select state from batches where id = $1 and state in ('running', 'paused', 'cancelling') for update`
	unfinishedWork = `-- name: UnfinishedWork
select exists (select 1 from tickets where batch_id = $1)
    or exists (select 1 from jobs where batch_id = $1 and due_at is not null) -- by its index, before a look at every job
    or exists (select 1 from jobs where batch_id = $1 and state in ('planned', 'running', 'waiting'))`
	loseIntents = `-- name: LoseIntents
with c as (update calls set state = 'uncertain' where batch_id = $1 and state = 'intent'
    returning batch_id, seq, started_at, 'intent' as was, reserved_microusd as reserved, cost_microusd as cost),` + periodsOf + `,
p as (` + countAtPeriods + `)
update jobs j set calls = j.calls + k.calls, cost_microusd = null
from (select seq, count(*) as calls from c group by seq) k where j.batch_id = $1 and j.seq = k.seq
    and j.seq = any(array(select seq from c)) -- by the index: Postgres, which expects few jobs, would look at all of them to find none`
	freezeBatch = `-- name: FreezeBatch
with j as (` + jobCounts + `), c as (` + callCounts + `)
update batches b set state = case when b.state = 'cancelling' then b.ending else 'completed' end, finished_at = now(),
    pause_reason = null, pause_detail = null, paused_at = null,
    succeeded_jobs = j.succeeded, failed_jobs = j.failed, cancelled_jobs = b.total_jobs - j.succeeded - j.failed,
    result_hits = j.result_hits, coalesced = j.coalesced, gateway_hits = j.gateway_hits, misses = j.misses, bypassed = j.bypassed,
    calls = c.calls, uncertain_calls = c.uncertain_calls, unpriced_calls = c.unpriced_calls, input_tokens = c.input_tokens,
    cached_input_tokens = c.cached_input_tokens, output_tokens = c.output_tokens, cost_microusd = c.cost_microusd
from j, c where b.id = $1`
)

// FinishBatch ends a running, paused or cancelling batch that has nothing left to do, and freezes its counts. It reports whether it did.
func (db *DB) FinishBatch(ctx context.Context, id uuid.UUID) (done bool, err error) {
	err = pgx.BeginFunc(ctx, db.pool, func(tx pgx.Tx) error {
		state, err := scalar[string](ctx, tx, lockOpenBatch, id)
		if errors.Is(err, ErrNotFound) {
			return nil
		} else if err != nil {
			return err
		}
		if state == "cancelling" { // jobs that were planned, settled or handed back while the cancellation didn't see them
			if _, err := tx.Exec(ctx, cancelJobs, id); err != nil {
				return err
			}
		}
		if left, err := scalar[bool](ctx, tx, unfinishedWork, id); err != nil || left {
			return err
		}
		if _, err := tx.Exec(ctx, shareLedger, []uuid.UUID{id}, []int64{}); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, loseIntents, id); err != nil {
			return err
		}
		for _, sql := range []string{freezeBatch, releaseFollowers} {
			if _, err := tx.Exec(ctx, sql, id); err != nil {
				return err
			}
		}
		err = sendEvents(ctx, tx, eventState, id)
		done = err == nil
		return err
	})
	return done, translate(err)
}
