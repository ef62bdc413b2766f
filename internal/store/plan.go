package store

import (
	"context"
	"encoding/json"
	"errors"
	"iter"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// Input is one submitted job, as planning and execution read it.
type Input struct {
	Seq            int32
	Input          json.RawMessage
	DocumentSHA256 []byte
	Invalid        json.RawMessage
	TextSHA256     []byte // of the document's text, and how long that is; not stored with the input, but set by who has looked them up
	TextCharacters int32
}

const readInputs = `-- name: ReadInputs
select seq, input, document_sha256, invalid from inputs where batch_id = $1 and seq between $2 and $3 order by seq`

// Inputs streams a range of a batch's inputs in order. The fields are valid until the next step. It scans by hand: by name, and with the JSON
// parsed on the way, reading would cost as much as rendering.
func (r Reader) Inputs(ctx context.Context, batch uuid.UUID, first, last int32) iter.Seq2[Input, error] {
	return func(yield func(Input, error) bool) {
		rows, err := r.q.Query(ctx, readInputs, batch, first, last)
		if err == nil {
			defer rows.Close()
			var in Input
			for rows.Next() {
				err := rows.Scan(&in.Seq, (*[]byte)(&in.Input), &in.DocumentSHA256, (*[]byte)(&in.Invalid))
				if !yield(in, err) || err != nil {
					return
				}
			}
			err = rows.Err()
		}
		if err != nil {
			yield(Input{}, err)
		}
	}
}

// stream ranges over a query's rows without holding them.
func stream[T any](ctx context.Context, q querier, sql string, args ...any) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		rows, err := q.Query(ctx, sql, args...)
		if err == nil {
			defer rows.Close()
			for rows.Next() {
				v, err := pgx.RowToStructByName[T](rows)
				if !yield(v, err) || err != nil {
					return
				}
			}
			err = rows.Err()
		}
		if err != nil {
			var zero T
			yield(zero, err)
		}
	}
}

const getDocument = `-- name: GetDocument
select content_type, body from documents where project_id = $1 and sha256 = $2`

// DocumentBody is a document's declared type and content.
type DocumentBody struct {
	ContentType string
	Body        []byte
}

// Document returns a document by its hash, or ErrNotFound.
func (r Reader) Document(ctx context.Context, project uuid.UUID, sha256 []byte) (DocumentBody, error) {
	return one[DocumentBody](ctx, r.q, getDocument, project, sha256)
}

// Planned is what planning found out about one job: the keys of its request, one per step in the order in which cached
// answers are accepted, or why it can't run.
type Planned struct {
	Seq          int32
	Keys         [][32]byte
	ErrorClass   string // empty for a good job
	ErrorMessage string
}

const (
	copyPlanned = `-- name: CopyPlanned
copy jobs (batch_id, seq, state, key, cache_status, result_key, result_generation, provider, model, error_class, error_message, finished_at)
from stdin (format binary)`
	lockPlanning = `-- name: LockPlanning
select now() from batches, set_config('synchronous_commit', 'off', true) -- lost in a crash, the range is planned again
where id = $1 and state = 'planning' for share of batches                -- a cancellation waits for these rows, and sees them`
	insertPlanned = `-- name: InsertPlanned
insert into jobs (batch_id, seq, state, key, cache_status, result_key, result_generation, provider, model, error_class, error_message, finished_at)
select $1, u.seq, u.state, u.key, u.cache_status, u.result_key, u.generation, u.provider, u.model, u.error_class, u.error_message, u.finished_at
from unnest($2::int[], $3::text[], $4::bytea[], $5::text[], $6::bytea[], $7::int[], $8::text[], $9::text[], $10::text[], $11::text[], $12::timestamptz[])
    as u(seq, state, key, cache_status, result_key, generation, provider, model, error_class, error_message, finished_at)
on conflict do nothing`
	endPlanTicket = `-- name: EndPlanTicket
delete from tickets where id = $1`
)

// InsertPlanned stores what planning found: jobs that the cache answers are born succeeded, bad ones failed. Doing a range twice changes
// nothing. With last set, the range is done and the ticket ends. tally, if any, is told which of the jobs the cache answers; what it returns
// for the last of them is stored for the forecast.
func (db *DB) InsertPlanned(ctx context.Context, batch Batch, ticket Ticket, rows []Planned, last bool, tally func(hits []*Hit) []PlanSum) error {
	hits := make([]*Hit, len(rows))
	if batch.Reads() {
		keys := make([][][32]byte, len(rows))
		for i := range rows {
			keys[i] = rows[i].Keys
		}
		var err error
		if hits, err = db.Hits(ctx, batch.ProjectID, keys, batch.Oldest()); err != nil {
			return err
		}
	}
	var sums []PlanSum
	if tally != nil {
		sums = tally(hits)
	}
	err := db.putPlanned(ctx, ticket, last, sums, func(tx pgx.Tx, now time.Time) error {
		return copyIn(ctx, tx, copyPlanned, len(rows), func(w *copyWriter, i int) { writePlanned(w, ticket.BatchID, &rows[i], hits[i], now) })
	})
	if errors.Is(translate(err), ErrConflict) { // a worker that lost the range had planned some of it; COPY has no way around that
		err = db.putPlanned(ctx, ticket, last, sums, func(tx pgx.Tx, now time.Time) error {
			_, err := tx.Exec(ctx, insertPlanned, plannedArrays(ticket.BatchID, rows, hits, now)...)
			return err
		})
	}
	return translate(err)
}

// putPlanned writes a part of a range, unless its batch isn't being planned any more.
func (db *DB) putPlanned(ctx context.Context, ticket Ticket, last bool, sums []PlanSum, put func(tx pgx.Tx, now time.Time) error) error {
	return pgx.BeginFunc(ctx, db.pool, func(tx pgx.Tx) error {
		now, err := scalar[time.Time](ctx, tx, lockPlanning, ticket.BatchID)
		if err == nil {
			if err = put(tx, now); err == nil {
				err = putSums(ctx, tx, ticket, sums)
			}
		} else if errors.Is(err, ErrNotFound) {
			err = nil
		}
		if err == nil && last {
			_, err = tx.Exec(ctx, endPlanTicket, ticket.ID)
		}
		return err
	})
}

// writePlanned writes a row of copyPlanned.
func writePlanned(w *copyWriter, batch uuid.UUID, p *Planned, hit *Hit, now time.Time) {
	w.begin(12)
	w.uuid(batch)
	w.integer(p.Seq)
	switch {
	case p.ErrorClass != "":
		w.text("failed")
		w.nulls(6)
		w.text(p.ErrorClass)
		w.text(p.ErrorMessage)
		w.time(now)
	case hit != nil: // the key would say nothing that the result's doesn't: what looks for it, looks at jobs without an answer
		w.text("succeeded")
		w.nulls(1)
		w.text("result_hit")
		w.bytes(hit.Key)
		w.integer(hit.Generation)
		w.text(hit.Provider)
		w.text(hit.Model)
		w.nulls(2)
		w.time(now)
	default:
		w.text("planned")
		w.bytes(p.Keys[0][:])
		w.nulls(8)
	}
}

// plannedArrays are the same rows, turned into columns.
func plannedArrays(batch uuid.UUID, rows []Planned, hits []*Hit, now time.Time) []any {
	n := len(rows)
	seq, state, key, verdict := make([]int32, n), make([]string, n), make([][]byte, n), make([]*string, n)
	result, generation, provider, model := make([][]byte, n), make([]*int32, n), make([]*string, n), make([]*string, n)
	class, message, finished := make([]*string, n), make([]*string, n), make([]*time.Time, n)
	reused := "result_hit"
	for i := range rows {
		p, hit := &rows[i], hits[i]
		seq[i], state[i] = p.Seq, "planned"
		switch {
		case p.ErrorClass != "":
			state[i], class[i], message[i], finished[i] = "failed", &p.ErrorClass, &p.ErrorMessage, &now
		case hit != nil:
			state[i], verdict[i], finished[i] = "succeeded", &reused, &now
			result[i], generation[i], provider[i], model[i] = hit.Key, &hit.Generation, &hit.Provider, &hit.Model
		default:
			key[i] = p.Keys[0][:]
		}
	}
	return []any{batch, seq, state, key, verdict, result, generation, provider, model, class, message, finished}
}

const findHits = `-- name: FindHits
select k.ord, c.generation, c.provider, c.model
from generate_series(0, octet_length($2::bytea) / 32 - 1) k(ord) cross join lateral (
    select generation, provider, model, created_at from completions where project_id = $1 and key = substring($2 from 32 * k.ord + 1 for 32)
    order by generation desc limit 1) c
where $3::timestamptz is null or c.created_at >= $3`

// Hit is where the result cache has an answer, and who gave it.
type Hit struct {
	Key        []byte
	Generation int32
	Provider   string
	Model      string
}

// Hits finds for each job the newest answer under the first of its keys that has one, made at oldest or since; nil for a job without.
func (r Reader) Hits(ctx context.Context, project uuid.UUID, jobs [][][32]byte, oldest *time.Time) ([]*Hit, error) {
	type owner struct{ job, rank int }
	owners := make([]owner, 0, len(jobs))
	keys := make([]byte, 0, 32*len(jobs)) // end to end: an array of them would be taken apart first
	for i := range jobs {
		for j := range jobs[i] {
			keys, owners = append(keys, jobs[i][j][:]...), append(owners, owner{i, j})
		}
	}
	rows, err := r.q.Query(ctx, findHits, project, keys, oldest)
	if err != nil {
		return nil, translate(err)
	}
	defer rows.Close()
	hits, ranks := make([]*Hit, len(jobs)), make([]int, len(jobs))
	for rows.Next() {
		var ord int32
		var h Hit
		if err := rows.Scan(&ord, &h.Generation, &h.Provider, &h.Model); err != nil {
			return nil, err
		}
		if o := owners[ord]; hits[o.job] == nil || o.rank < ranks[o.job] {
			h.Key = keys[32*ord : 32*ord+32]
			hits[o.job], ranks[o.job] = &h, o.rank
		}
	}
	return hits, translate(rows.Err())
}

const (
	// Starts of a project's batches come one after the other, so that of two the second sees the first one's jobs. Who doesn't get the lock comes back.
	lockStart = `-- name: LockStart
select pg_try_advisory_xact_lock(hashtextextended('batchwright.start ' || project_id, 0)) from batches where id = $1 and state = 'planning'`
	lockPlannedBatch = `-- name: LockPlannedBatch
select project_id, cache, created_at, max_age_seconds from batches b where id = $1 and state = 'planning'
    and not exists (select 1 from tickets where batch_id = $1 and purpose = 'plan') for update`
	findNeighbours = `-- name: FindNeighbours
with o as materialized (select id, state from batches where finished_at is null and project_id = $1 and id <> $2 and cache in ('use', 'refresh'))
select array(select id from o where state = 'running' order by id) as running, exists (select 1 from o)
    or exists (select 1 from batches where project_id = $1 and finished_at > $3 and cache in ('use', 'refresh')) as overlapped`
	anyPlanned = `-- name: AnyPlanned
select exists (select 1 from jobs where batch_id = $1 and state = 'planned')`
	// Followers may come to lead those of other batches. Without a planned job, dispatch needn't look for one.
	startBatch = `-- name: StartBatch
update batches set state = case when pause_reason is null then 'running' else 'paused' end, started_at = now(),
    has_followers = $2 or $3, follows = $3, followed = $3, recheck = $4, next_seq = case when $5 then next_seq else total_jobs + 1 end
where id = $1 returning state`
)

// plannedBatch is what StartBatch knows of its batch.
type plannedBatch struct {
	ProjectID     uuid.UUID
	Cache         string
	CreatedAt     time.Time
	MaxAgeSeconds *int32
}

// neighbours are the other batches of a project that add to its cache.
type neighbours struct {
	Running    []uuid.UUID
	Overlapped bool // some were open since the batch was made
}

// StartBatch ends the planning of a batch whose every range is planned: jobs are hung on identical ones of batches that run, identical jobs
// on the first of them, and the batch runs, unless judge, which may be nil, has it otherwise. It reports whether planning has ended: not when
// another batch of the project is being started.
func (db *DB) StartBatch(ctx context.Context, id uuid.UUID, judge func(PlanTotals) Forecast) (started bool, err error) {
	follows := false
	err = pgx.BeginFunc(ctx, db.pool, func(tx pgx.Tx) error {
		if free, err := scalar[bool](ctx, tx, lockStart, id); errors.Is(err, ErrNotFound) || (err == nil && !free) {
			return nil
		} else if err != nil {
			return err
		}
		b, err := one[plannedBatch](ctx, tx, lockPlannedBatch, id)
		if errors.Is(err, ErrNotFound) {
			return nil
		} else if err != nil {
			return err
		}
		planned, err := scalar[bool](ctx, tx, anyPlanned, id)
		if err != nil {
			return err
		}
		var h hung
		if planned && b.Cache != "off" {
			if h, err = hang(ctx, tx, id, b); err != nil {
				return err
			}
		}
		follows = h.outside > 0
		if judge != nil {
			if ended, err := keepForecast(ctx, tx, id, h.inside+h.outside, judge); err != nil || ended {
				started, follows = err == nil, false
				return err
			}
		}
		state, err := scalar[string](ctx, tx, startBatch, id, h.inside > 0, follows, h.overlapped, planned)
		if err == nil && state == "paused" {
			err = sendEvents(ctx, tx, EventPaused, id)
		}
		if err == nil {
			err = hint(ctx, tx, HintWork)
		}
		started = err == nil
		return err
	})
	if err == nil && follows { // leaders that ended meanwhile, unseen
		_, err = db.Reconcile(ctx, id)
	}
	return started, translate(err)
}

// hung says how many jobs wait for others.
type hung struct {
	inside, outside int64 // for jobs of their batch, and of other ones
	overlapped      bool
}

// hang hangs planned jobs on identical ones of the project's running batches, and what is left on the first of its kind.
func hang(ctx context.Context, tx pgx.Tx, id uuid.UUID, b plannedBatch) (h hung, err error) {
	if _, err := tx.Exec(ctx, hashOnly); err != nil {
		return h, err
	}
	if b.Cache == "use" {
		n, err := one[neighbours](ctx, tx, findNeighbours, b.ProjectID, id, b.CreatedAt)
		if err != nil {
			return h, err
		}
		h.overlapped = n.Overlapped
		if len(n.Running) > 0 && b.MaxAgeSeconds == nil { // their leaders may take answers of any age
			if h.outside, err = scalar[int64](ctx, tx, hangOutside, id, n.Running); err != nil {
				return h, err
			}
		}
	}
	tag, err := tx.Exec(ctx, hangFollowers, id)
	h.inside = tag.RowsAffected()
	return h, err
}
