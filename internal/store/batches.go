package store

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

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

	APIKeyID          *uuid.UUID
	Priority          int16
	Concurrency       *int32
	MaxAttempts       *int32
	JobTimeoutSeconds *int32
	MaxCostMicrousd   *int64
	ExpiresAt         *time.Time
	OpenUpload        bool
	PauseReason       *string // requested or budget; null while it isn't paused
	PauseDetail       *string
	PausedAt          *time.Time
	Ending            *string // cancelled or expired, once it is cancelling
	EndingAt          *time.Time
	Followed          bool
	Follows           bool
	Recheck           bool
	StalledAt         *time.Time
	PurgedAt          *time.Time
}

const batchCols = `b.id, b.project_id, b.name, b.kind, b.state, b.template_id, t.name as template_name,
t.version as template_version, b.route_id, r.name as route_name, r.version as route_version, b.route, b.params, b.metadata,
b.on_invalid, b.cache, b.request_sha256, b.total_jobs, b.next_seq, b.has_followers, b.error, b.created_at, b.started_at, b.finished_at,
b.api_key_id, b.priority, b.concurrency, b.max_attempts, b.job_timeout_seconds, b.max_cost_microusd, b.expires_at, b.open_upload,
b.pause_reason, b.pause_detail, b.paused_at, b.ending, b.ending_at, b.followed, b.follows, b.recheck, b.stalled_at, b.purged_at`

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

	APIKeyID          uuid.UUID
	Priority          int16
	Concurrency       *int32
	MaxAttempts       *int32
	JobTimeoutSeconds *int32
	MaxCostMicrousd   *int64
	ExpiresAt         *time.Time
}

// NewInput is one submitted job. Seq counts from 1 without gaps.
type NewInput struct {
	Seq            int32
	CustomID       *string
	Input          json.RawMessage
	DocumentSHA256 []byte
	Invalid        json.RawMessage // why it can't run; nil for a good one
}

// NewDocument is a document's content, as received.
type NewDocument struct {
	SHA256      []byte
	ContentType string
	Body        []byte
}

// Chunk is a bounded part of a submission.
type Chunk struct {
	Inputs    []NewInput
	Documents []NewDocument
}

// Duplicate says that two jobs of a submission have the same custom_id.
type Duplicate struct {
	Seq      int32
	FirstSeq int32
	CustomID string
}

const maxDuplicates = 100

// DuplicateError lists the first duplicates of a refused submission.
type DuplicateError struct{ Duplicates []Duplicate }

func (e *DuplicateError) Error() string {
	return fmt.Sprintf("store: %d duplicate custom ids", len(e.Duplicates))
}

const (
	createBatch = `-- name: CreateBatch
insert into batches (id, project_id, name, kind, state, template_id, route_id, route, params, metadata, on_invalid, cache,
    idempotency_key, request_sha256, api_key_id, priority, concurrency, max_attempts, job_timeout_seconds, max_cost_microusd, expires_at)
values ($1, $2, $3, $4, 'planning', $5, $6, $7, $8, $9, $10, $11, nullif($12, ''), '', nullif($13::uuid, '00000000-0000-0000-0000-000000000000'),
    $14, $15, $16, $17, $18, $19)`
	putDocuments = `-- name: PutDocuments
insert into documents (project_id, sha256, content_type, bytes, body)
select $1, u.sha256, u.content_type, octet_length(u.body), u.body
from unnest($2::bytea[], $3::text[], $4::bytea[]) as u(sha256, content_type, body)
on conflict do nothing`
	findDuplicates = `-- name: FindDuplicates
select custom_id from inputs where batch_id = $1 and custom_id is not null group by custom_id having count(*) > 1 limit $2`
	listDuplicates = `-- name: ListDuplicates
select seq, first_seq, custom_id from (
    select seq, custom_id, min(seq) over (partition by custom_id) as first_seq from inputs where batch_id = $1 and custom_id = any($2::text[])) d
where seq <> first_seq order by seq limit $3`
	markDuplicates = `-- name: MarkDuplicates
with d as materialized (
    select ctid as row, seq, min(seq) over (partition by custom_id) as first_seq from inputs where batch_id = $1 and custom_id is not null)
update inputs i set invalid = json_build_object('code', 'duplicate_custom_id', 'field', 'custom_id',
    'message', format('custom_id is the same as that of job %s: give each job its own', d.first_seq))
from d where d.seq <> d.first_seq and i.ctid = d.row and i.invalid is null`
	sealBatch = `-- name: SealBatch
update batches set total_jobs = $2, request_sha256 = $3 where id = $1`
	issuePlanTickets = `-- name: IssuePlanTickets
insert into tickets (batch_id, purpose, first_seq, last_seq, jobs)
select $1, 'plan', s, least(s + $3 - 1, $2), least(s + $3 - 1, $2) - s + 1 from generate_series(1, $2, $3) s
returning ` + ticketCols
)

// PlanRange is how many jobs one plan ticket covers.
const PlanRange = 5_000

// CreateBatch streams a submission in, all or nothing, and issues its plan tickets. When the sequence ends, seal says
// how many inputs there were, and the submission's hash. Errors: whatever the sequence yields; ErrConflict when the idempotency key is
// taken; *DuplicateError when custom ids clash and the batch refuses bad lines.
func (db *DB) CreateBatch(ctx context.Context, nb NewBatch, chunks iter.Seq2[Chunk, error], seal func() (total int32, sha256 [32]byte)) (b Batch, tickets []Ticket, err error) {
	if err := db.uploads.Acquire(ctx, 1); err != nil { // slow clients must not hold every connection
		return Batch{}, nil, err
	}
	defer db.uploads.Release(1)
	err = pgx.BeginFunc(ctx, db.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, createBatch, nb.ID, nb.ProjectID, nb.Name, nb.Kind, nb.TemplateID, nb.RouteID, nb.Route, nb.Params,
			nb.Metadata, nb.OnInvalid, nb.Cache, nb.IdempotencyKey, nb.APIKeyID, nb.Priority, nb.Concurrency, nb.MaxAttempts,
			nb.JobTimeoutSeconds, nb.MaxCostMicrousd, nb.ExpiresAt); err != nil {
			return err
		}
		named := false
		for chunk, err := range chunks {
			if err != nil {
				return err
			}
			if err := putChunk(ctx, tx, nb, chunk, &named); err != nil {
				return err
			}
		}
		if named {
			if err := settleDuplicates(ctx, tx, nb); err != nil {
				return err
			}
		}
		total, sum := seal()
		if _, err := tx.Exec(ctx, sealBatch, nb.ID, total, sum[:]); err != nil {
			return err
		}
		if tickets, err = many[Ticket](ctx, tx, issuePlanTickets, nb.ID, total, PlanRange); err != nil {
			return err
		}
		b, err = one[Batch](ctx, tx, getAnyBatch, nb.ID)
		return err
	})
	return b, tickets, translate(err)
}

func putChunk(ctx context.Context, tx pgx.Tx, nb NewBatch, chunk Chunk, named *bool) error {
	if n := len(chunk.Documents); n > 0 {
		// In one order, or two submissions of the same documents would wait for each other.
		slices.SortFunc(chunk.Documents, func(a, b NewDocument) int { return bytes.Compare(a.SHA256, b.SHA256) })
		sums, types, bodies := make([][]byte, n), make([]string, n), make([][]byte, n)
		for i, d := range chunk.Documents {
			sums[i], types[i], bodies[i] = d.SHA256, d.ContentType, d.Body
		}
		if _, err := tx.Exec(ctx, putDocuments, nb.ProjectID, sums, types, bodies); err != nil {
			return err
		}
	}
	i := 0
	row := make([]any, 6)
	var id any = uuidOf(nb.ID)
	_, err := tx.CopyFrom(ctx, pgx.Identifier{"inputs"}, []string{"batch_id", "seq", "custom_id", "input", "document_sha256", "invalid"},
		pgx.CopyFromFunc(func() ([]any, error) {
			if i == len(chunk.Inputs) {
				return nil, nil
			}
			in := &chunk.Inputs[i]
			i++
			*named = *named || in.CustomID != nil
			row[0], row[1], row[2], row[3], row[4], row[5] = id, in.Seq, in.CustomID, in.Input, in.DocumentSHA256, in.Invalid
			return row, nil
		}))
	return err
}

func settleDuplicates(ctx context.Context, tx pgx.Tx, nb NewBatch) error {
	if _, err := tx.Exec(ctx, `set local work_mem = '64MB'`); err != nil {
		return err
	}
	rows, _ := tx.Query(ctx, findDuplicates, nb.ID, maxDuplicates)
	ids, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil || len(ids) == 0 {
		return err
	}
	if nb.OnInvalid == "skip" {
		_, err := tx.Exec(ctx, markDuplicates, nb.ID)
		return err
	}
	dups, err := many[Duplicate](ctx, tx, listDuplicates, nb.ID, ids, maxDuplicates)
	if err != nil {
		return err
	}
	return &DuplicateError{dups}
}

const (
	cancelBatch = `-- name: CancelBatch
update batches set state = 'cancelling', ending = 'cancelled', ending_at = now(), pause_reason = null, pause_detail = null, paused_at = null
where id = $1 and project_id = $2 and state in ('planning', 'running', 'paused') returning id`
	cancelJobs = `-- name: CancelJobs
update jobs set state = 'cancelled', due_at = null, finished_at = now() where batch_id = $1 and state in ('planned', 'waiting')`
	dropPostedTickets = `-- name: DropPostedTickets
delete from tickets where batch_id = $1 and worker_id is null`
)

// CancelBatch stops what has not begun: planned and waiting jobs are cancelled, running ones settle as they end. On a
// batch that is already final or being cancelled it does nothing. ErrNotFound when the project has no such batch.
func (db *DB) CancelBatch(ctx context.Context, project, id uuid.UUID) (b Batch, err error) {
	err = pgx.BeginFunc(ctx, db.pool, func(tx pgx.Tx) error {
		_, err := scalar[uuid.UUID](ctx, tx, cancelBatch, id, project)
		if err != nil && !errors.Is(err, ErrNotFound) {
			return err
		}
		if err == nil {
			for _, sql := range []string{dropPostedTickets, cancelJobs, releaseFollowers} {
				if _, err := tx.Exec(ctx, sql, id); err != nil {
					return err
				}
			}
		}
		b, err = one[Batch](ctx, tx, getBatch, id, project)
		return err
	})
	return b, translate(err)
}

const (
	lockOpenBatch = `-- name: LockOpenBatch
select state from batches where id = $1 and state in ('running', 'paused', 'cancelling') for update`
	unfinishedWork = `-- name: UnfinishedWork
select exists (select 1 from tickets where batch_id = $1)
    or exists (select 1 from jobs where batch_id = $1 and due_at is not null) -- by its index, before a look at every job
    or exists (select 1 from jobs where batch_id = $1 and state in ('planned', 'running', 'waiting'))`
	loseIntents = `-- name: LoseIntents
update calls set state = 'uncertain' where batch_id = $1 and state = 'intent'`
	freezeBatch = `-- name: FreezeBatch
with j as (` + jobCounts + `), c as (` + callCounts + `)
update batches b set state = case when b.state = 'cancelling' then b.ending else 'completed' end, finished_at = now(),
    succeeded_jobs = j.succeeded, failed_jobs = j.failed, cancelled_jobs = b.total_jobs - j.succeeded - j.failed,
    result_hits = j.result_hits, coalesced = j.coalesced, gateway_hits = j.gateway_hits, misses = j.misses, bypassed = j.bypassed,
    calls = c.calls, uncertain_calls = c.uncertain_calls, unpriced_calls = c.unpriced_calls, input_tokens = c.input_tokens,
    cached_input_tokens = c.cached_input_tokens, output_tokens = c.output_tokens, cost_microusd = c.cost_microusd
from j, c where b.id = $1`
)

// FinishBatch ends a running or cancelling batch that has nothing left to do, and freezes its counts. It reports whether it did.
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
		if _, err := tx.Exec(ctx, loseIntents, id); err != nil {
			return err
		}
		for _, sql := range []string{freezeBatch, releaseFollowers} {
			if _, err := tx.Exec(ctx, sql, id); err != nil {
				return err
			}
		}
		done = true
		return nil
	})
	return done, translate(err)
}
