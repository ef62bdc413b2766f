package store

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"
)

// Why an upload ends without its jobs.
var (
	// ErrBroken marks the error of a sequence of chunks whose sender vanished, stalled or broke off. Any other error of one is a refusal.
	ErrBroken = errors.New("store: the upload broke off")
	// ErrUploadLost means that the batch stopped taking the upload's jobs: it was cancelled, or the upload was given up for dead.
	ErrUploadLost = errors.New("store: upload lost")
)

// NewInput is one submitted job. Seq counts on without gaps.
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

// Chunk is a bounded part of a submission. Each is stored in a transaction of its own.
type Chunk struct {
	Inputs    []NewInput
	Documents []NewDocument
}

const (
	createBatch = `-- name: CreateBatch
insert into batches (id, project_id, name, kind, state, template_id, route_id, route, params, metadata, on_invalid, cache,
    idempotency_key, request_sha256, api_key_id, priority, concurrency, max_attempts, job_timeout_seconds, max_cost_microusd, expires_at,
    upload_id, ingested_at, max_age_seconds, rerun_of, source, source_due_at, on_forecast_over, dry_run)
values ($1, $2, $3, $4, 'ingesting', $5, $6, $7, $8, $9, $10, $11, nullif($12, ''), '', nullif($13::uuid, '00000000-0000-0000-0000-000000000000'),
    $14, $15, $16, $17, $18, $19, $20, now(), $21, $22, $23::json, case when $23::json is not null then now() end,
    coalesce(nullif($24, ''), 'run'), $25)`
	putDocuments = `-- name: PutDocuments
insert into documents (project_id, sha256, content_type, bytes, body)
select $1, u.sha256, u.content_type, octet_length(u.body), u.body
from unnest($2::bytea[], $3::text[], $4::bytea[]) as u(sha256, content_type, body)
on conflict (project_id, sha256) do update set bytes = excluded.bytes where false -- writes nothing, but keeps a purge off the row until we commit`
	countPart = `-- name: CountPart
update batches set total_jobs = total_jobs + $3, ingested_at = now() where id = $1 and upload_id = $2 and state = 'ingesting'`
	lockUpload = `-- name: LockUpload
select total_jobs from batches where id = $1 and upload_id = $2 and state = 'ingesting' for update`
	sealBatch = `-- name: SealBatch
update batches set state = 'planning', total_jobs = $2, request_sha256 = coalesce($3, request_sha256), open_upload = false, upload_id = null,
    ingested_at = now(), source_due_at = null where id = $1`
	openBatch = `-- name: OpenBatch
update batches set total_jobs = $2, request_sha256 = $3, open_upload = true, upload_id = null, ingested_at = now() where id = $1`
	issuePlanTickets = `-- name: IssuePlanTickets
insert into tickets (batch_id, purpose, first_seq, last_seq, jobs)
select $1, 'plan', s, least(s + $3 - 1, $2), least(s + $3 - 1, $2) - s + 1 from generate_series(1, $2, $3) s
returning ` + ticketCols
)

const (
	// PlanRange is how many jobs one plan ticket covers.
	PlanRange = 5_000
	// UploadPatience is how long an upload may give no sign of life before it counts as dead.
	UploadPatience = 2 * time.Minute
	uploadBeat     = time.Second      // whatever patience a worker is set to, and however slowly the next chunk comes
	copiers        = 2                // chunks of an upload that are written at once
	tidyLimit      = 30 * time.Second // for taking back what an upload left; the sweep does the rest
)

// CreateBatch streams a submission in by chunks and issues its plan tickets, or leaves the batch open when it says so. The batch can be
// seen, as ingesting, while its jobs come in. When the sequence ends, seal says how many inputs there were, and the submission's hash.
//
// Errors: ErrConflict when the idempotency key is taken, before the sequence is begun; whatever the sequence yields; *DuplicateError when
// custom ids clash and the batch refuses bad lines; ErrUploadLost. After a refusal nothing is left. After all else, and when the sequence
// yields ErrBroken, the batch is there and has failed.
func (db *DB) CreateBatch(ctx context.Context, nb NewBatch, chunks iter.Seq2[Chunk, error], seal func() (total int32, sha256 [32]byte)) (Batch, []Ticket, error) {
	u, err := db.begin(ctx, nb)
	if err != nil {
		return Batch{}, nil, err
	}
	refusal, err := u.receive(ctx, chunks)
	if err == nil && refusal == nil {
		var b Batch
		var tickets []Ticket
		if b, tickets, err = u.finish(ctx, nb, seal); err == nil {
			return b, tickets, nil
		}
		if dup, ok := errors.AsType[*DuplicateError](err); ok {
			refusal, err = dup, nil
		}
	}
	return Batch{}, nil, u.end(ctx, refusal, err)
}

// begin makes the row of a batch that comes in by this upload.
func (db *DB) begin(ctx context.Context, nb NewBatch) (*upload, error) {
	u := &upload{db: db, id: uuid.New(), batch: nb.ID, project: nb.ProjectID, counts: true}
	_, err := db.pool.Exec(ctx, createBatch, nb.ID, nb.ProjectID, nb.Name, nb.Kind, nb.TemplateID, nb.RouteID, nb.Route, nb.Params,
		nb.Metadata, nb.OnInvalid, nb.Cache, nb.IdempotencyKey, nb.APIKeyID, nb.Priority, nb.Concurrency, nb.MaxAttempts,
		nb.JobTimeoutSeconds, nb.MaxCostMicrousd, nb.ExpiresAt, u.id, nb.MaxAgeSeconds, nb.RerunOf, nb.Source, nb.OnForecastOver, nb.DryRun)
	return u, translate(err)
}

// end takes back an upload that didn't get to its end, and says why. A refusal is the caller's doing, err is not.
func (u *upload) end(ctx context.Context, refusal, err error) error {
	rest, cancel := context.WithTimeout(context.WithoutCancel(ctx), tidyLimit)
	defer cancel()
	refused := err == nil && ctx.Err() == nil && !errors.Is(refusal, ErrBroken)
	return errors.Join(refusal, err, u.giveUp(rest, refused))
}

// upload is a request that adds jobs to a batch. Whatever it writes, it writes only as long as the batch bears its id.
type upload struct {
	db      *DB
	id      uuid.UUID
	batch   uuid.UUID
	project uuid.UUID
	changed bool // chunks came in
	counts  bool // each chunk adds to the batch's total at once; else the upload does when it is complete
	ids     idSet
}

// receive stores the chunks while they are made. The refusal is what the sequence yielded; err is why a chunk couldn't be stored.
func (u *upload) receive(ctx context.Context, chunks iter.Seq2[Chunk, error]) (refusal, err error) {
	alive, stop := context.WithCancel(ctx)
	var beat sync.WaitGroup
	beat.Go(func() { u.beat(alive) })
	defer beat.Wait()
	defer stop()
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(copiers)
	for chunk, cerr := range chunks {
		if cerr != nil {
			refusal = cerr
			break
		}
		u.changed = true
		u.ids.note(chunk.Inputs)
		g.Go(func() error { return u.put(gctx, chunk) })
		if gctx.Err() != nil {
			break
		}
	}
	return refusal, g.Wait()
}

// beat shows that the upload is alive, however long its next chunk takes. What goes wrong here, the next chunk will meet.
func (u *upload) beat(ctx context.Context) {
	tick := time.NewTicker(uploadBeat)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			_, _ = u.db.pool.Exec(ctx, countPart, u.batch, u.id, 0)
		}
	}
}

// Chunks don't wait for the disk: the upload's last transaction does, and it checks that all of them are there.
var hasty = pgx.TxOptions{BeginQuery: "begin; set local synchronous_commit = off"}

// put stores one chunk: documents in one order, or two submissions of the same ones would wait for each other; the batch's row last.
func (u *upload) put(ctx context.Context, chunk Chunk) error {
	if err := u.db.uploads.Acquire(ctx, 1); err != nil { // submissions must not take every connection
		return err
	}
	defer u.db.uploads.Release(1)
	return pgx.BeginTxFunc(ctx, u.db.pool, hasty, func(tx pgx.Tx) error {
		if err := u.putDocuments(ctx, tx, chunk.Documents); err != nil {
			return err
		}
		if err := u.copyInputs(ctx, tx, chunk.Inputs); err != nil {
			return err
		}
		n := 0
		if u.counts {
			n = len(chunk.Inputs)
		}
		tag, err := tx.Exec(ctx, countPart, u.batch, u.id, n)
		if err == nil && tag.RowsAffected() == 0 {
			return ErrUploadLost
		}
		return err
	})
}

func (u *upload) putDocuments(ctx context.Context, tx pgx.Tx, docs []NewDocument) error {
	if len(docs) == 0 {
		return nil
	}
	slices.SortFunc(docs, func(a, b NewDocument) int { return bytes.Compare(a.SHA256, b.SHA256) })
	docs = slices.CompactFunc(docs, func(a, b NewDocument) bool { return bytes.Equal(a.SHA256, b.SHA256) })
	n := len(docs)
	sums, types, bodies := make([][]byte, n), make([]string, n), make([][]byte, n)
	for i, d := range docs {
		sums[i], types[i], bodies[i] = d.SHA256, d.ContentType, d.Body
	}
	_, err := tx.Exec(ctx, putDocuments, u.project, sums, types, bodies)
	return err
}

const copyInputs = `-- name: CopyInputs
copy inputs (batch_id, seq, custom_id, input, document_sha256, invalid) from stdin (format binary)`

func (u *upload) copyInputs(ctx context.Context, tx pgx.Tx, inputs []NewInput) error {
	return copyIn(ctx, tx, copyInputs, len(inputs), func(w *copyWriter, i int) {
		in := &inputs[i]
		w.begin(6)
		w.uuid(u.batch)
		w.integer(in.Seq)
		if in.CustomID != nil {
			w.text(*in.CustomID)
		} else {
			w.nulls(1)
		}
		w.bytes(in.Input)
		w.bytes(in.DocumentSHA256)
		w.bytes(in.Invalid)
	})
}

// finish ends a submission that is complete: it runs, or stays open for more.
func (u *upload) finish(ctx context.Context, nb NewBatch, seal func() (int32, [32]byte)) (b Batch, tickets []Ticket, err error) {
	err = pgx.BeginFunc(ctx, u.db.pool, func(tx pgx.Tx) error {
		stored, err := scalar[int32](ctx, tx, lockUpload, u.batch, u.id)
		if errors.Is(err, ErrNotFound) {
			return ErrUploadLost
		} else if err != nil {
			return err
		}
		total, sum := seal()
		if stored != total {
			return fmt.Errorf("store: %d of %d jobs are left: Postgres was restarted meanwhile", stored, total)
		}
		if nb.Open {
			if _, err = tx.Exec(ctx, openBatch, nb.ID, total, sum[:]); err == nil {
				err = awaitSource(ctx, tx, nb)
			}
		} else {
			if !u.ids.distinct() {
				err = settleDuplicates(ctx, tx, nb.ID, nb.OnInvalid)
			}
			if err == nil {
				tickets, err = sealIn(ctx, tx, nb.ID, total, sum[:])
			}
		}
		if err != nil {
			return err
		}
		b, err = one[Batch](ctx, tx, getAnyBatch, nb.ID)
		return err
	})
	return b, tickets, translate(err)
}

func sealIn(ctx context.Context, tx pgx.Tx, batch uuid.UUID, total int32, sum []byte) ([]Ticket, error) {
	if _, err := tx.Exec(ctx, sealBatch, batch, total, sum); err != nil {
		return nil, err
	}
	tickets, err := many[Ticket](ctx, tx, issuePlanTickets, batch, total, PlanRange)
	if err != nil {
		return nil, err
	}
	return tickets, hint(ctx, tx, HintWork)
}

const (
	failUpload = `-- name: FailUpload
update batches set state = 'failed', finished_at = now(), idempotency_key = null, upload_id = coalesce(upload_id, id),
    error = replace($3, '{jobs}', total_jobs::text), source_due_at = null,
    succeeded_jobs = 0, failed_jobs = 0, cancelled_jobs = 0, result_hits = 0, coalesced = 0, gateway_hits = 0, misses = 0, bypassed = 0,
    calls = 0, uncertain_calls = 0, unpriced_calls = 0, input_tokens = 0, cached_input_tokens = 0, output_tokens = 0, cost_microusd = 0
where id = $1 and state = 'ingesting' and upload_id is not distinct from $2`
	lockLeftovers = `-- name: LockLeftovers
select case when state = 'failed' then 0 when open_upload then total_jobs else 2147483647 end as kept from batches
where id = $1 and upload_id = $2 for update`
	endUpload = `-- name: EndUpload
update batches set upload_id = null where id = $1`
	dropBatch = `-- name: DropBatch
delete from batches where id = $1 and state = 'failed' and started_at is null`
)

// Why uploads fail.
const (
	brokeOff    = "the upload broke off after {jobs} jobs: send it again, or delete this batch"
	neverSealed = "the upload was never sealed, and nothing came for a day: send it again, or delete this batch"
)

// fail makes a batch that is still coming in a failed one, unless another upload has taken it over, and tells of it if it is to be told.
// It returns how many batches it failed.
func (db *DB) fail(ctx context.Context, batch uuid.UUID, upload *uuid.UUID, why string, tell bool) (n int, err error) {
	err = pgx.BeginFunc(ctx, db.pool, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, failUpload, batch, upload, why)
		n = int(tag.RowsAffected())
		if err != nil || n == 0 || !tell {
			return err
		}
		return sendEvents(ctx, tx, eventState, batch)
	})
	return n, err
}

// giveUp ends an upload of a whole submission: the batch fails, and with gone set nothing of it is left.
func (u *upload) giveUp(ctx context.Context, gone bool) error {
	if _, err := u.db.fail(ctx, u.batch, &u.id, brokeOff, !gone); err != nil {
		return err
	}
	if err := u.db.tidy(ctx, u.project, u.batch, u.id, true); err != nil || !gone {
		return err
	}
	_, err := u.db.pool.Exec(ctx, dropBatch, u.batch)
	return err
}

// tidy removes the rows to which nothing lays claim: all of a failed submission, and what an open one doesn't count. With end set, the
// batch is free of the upload then. It does nothing to a batch that another upload has taken over.
func (db *DB) tidy(ctx context.Context, project, batch, upload uuid.UUID, end bool) error {
	for done := false; !done; {
		err := pgx.BeginFunc(ctx, db.pool, func(tx pgx.Tx) error {
			kept, err := scalar[int32](ctx, tx, lockLeftovers, batch, upload)
			if errors.Is(err, ErrNotFound) {
				done = true
				return nil
			} else if err != nil {
				return err
			}
			n, err := removeInputs(ctx, tx, project, batch, kept)
			if err != nil || n == purgeRows {
				return err
			}
			if done = true; end {
				_, err = tx.Exec(ctx, endUpload, batch)
			}
			return err
		})
		if err != nil {
			return fmt.Errorf("store: tidy an upload: %w", err)
		}
	}
	return nil
}

const (
	staleUploads = `-- name: StaleUploads
select id, project_id, upload_id, state = 'ingesting' and not open_upload as fails from batches
where upload_id is not null and ingested_at < now() - $1::interval order by id`
	idleUploads = `-- name: IdleUploads
select id from batches
where finished_at is null and state = 'ingesting' and open_upload and source is null and upload_id is null and ingested_at < now() - $1::interval order by id`
)

type staleUpload struct {
	ID        uuid.UUID
	ProjectID uuid.UUID
	UploadID  uuid.UUID
	Fails     bool
}

// SweepIngest fails the submissions whose upload has given no sign of life for patience, because its process died, and open uploads that
// nobody touched for idle; and it removes what they left. It returns how many batches it failed.
func (db *DB) SweepIngest(ctx context.Context, patience, idle time.Duration) (failed int, err error) {
	unsealed, err := column[uuid.UUID](ctx, db.pool, idleUploads, interval(idle))
	if err != nil {
		return 0, err
	}
	for _, id := range unsealed {
		n, err := db.fail(ctx, id, nil, neverSealed, true)
		if err != nil {
			return failed, err
		}
		failed += n
	}
	stale, err := many[staleUpload](ctx, db.pool, staleUploads, interval(patience))
	if err != nil {
		return failed, err
	}
	freed := false
	for _, s := range stale {
		freed = freed || !s.Fails
		if s.Fails {
			n, err := db.fail(ctx, s.ID, &s.UploadID, brokeOff, true)
			if err != nil {
				return failed, err
			}
			failed += n
		}
		if err := db.tidy(ctx, s.ProjectID, s.ID, s.UploadID, true); err != nil {
			return failed, err
		}
	}
	if freed { // if it has a source, that is to be read anew
		return failed, db.Hint(ctx, HintSource)
	}
	return failed, nil
}
