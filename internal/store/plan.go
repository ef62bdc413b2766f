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
}

const readInputs = `-- name: ReadInputs
select seq, input, document_sha256, invalid from inputs where batch_id = $1 and seq between $2 and $3 order by seq`

// Inputs streams a range of a batch's inputs in order. The fields are valid until the next step.
func (r Reader) Inputs(ctx context.Context, batch uuid.UUID, first, last int32) iter.Seq2[Input, error] {
	return stream[Input](ctx, r.q, readInputs, batch, first, last)
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
	lookUpPlanned = `-- name: LookUpPlanned
select k.ord::int as ord, c.key, c.generation, c.provider, c.model
from unnest($2::bytea[]) with ordinality as k(key, ord) cross join lateral (
    select key, generation, provider, model from completions where project_id = $1 and key = k.key order by generation desc limit 1) c`
	// The look-up is a statement of its own: joined into this one, Postgres may well compare every hit with every job.
	insertPlanned = `-- name: InsertPlanned
insert into jobs (batch_id, seq, state, key, cache_status, result_key, result_generation, provider, model, error_class, error_message, finished_at)
select b.id, u.seq, u.state, nullif(u.key, ''), case when u.state = 'succeeded' then 'result_hit' end, nullif(u.result_key, ''),
    nullif(u.generation, 0), nullif(u.provider, ''), nullif(u.model, ''), nullif(u.error_class, ''), nullif(u.error_message, ''),
    case when u.state <> 'planned' then now() end
from batches b, unnest($2::int[], $3::text[], $4::bytea[], $5::bytea[], $6::int[], $7::text[], $8::text[], $9::text[], $10::text[])
    as u(seq, state, key, result_key, generation, provider, model, error_class, error_message)
where b.id = $1 and b.state = 'planning'
for share of b -- a cancellation waits for these rows, and sees them
on conflict do nothing`
	endPlanTicket = `-- name: EndPlanTicket
delete from tickets where id = $1`
)

// InsertPlanned stores what planning found: jobs that the cache answers are born succeeded, bad ones failed. Doing a range twice changes
// nothing. With last set, the range is done and the ticket ends.
func (db *DB) InsertPlanned(ctx context.Context, batch Batch, ticket Ticket, rows []Planned, last bool) error {
	hits := make([]*Hit, len(rows))
	if batch.Cache == "use" {
		keys := make([][][32]byte, len(rows))
		for i := range rows {
			keys[i] = rows[i].Keys
		}
		var err error
		if hits, err = db.Hits(ctx, batch.ProjectID, keys); err != nil {
			return err
		}
	}
	n := len(rows)
	seqs, states, keys, results := make([]int32, n), make([]string, n), make([][]byte, n), make([][]byte, n)
	generations, providers, models := make([]int32, n), make([]string, n), make([]string, n)
	classes, messages := make([]string, n), make([]string, n)
	for i, p := range rows {
		seqs[i], states[i], classes[i], messages[i] = p.Seq, "planned", p.ErrorClass, p.ErrorMessage
		keys[i], results[i] = []byte{}, []byte{}
		if len(p.Keys) > 0 {
			keys[i] = p.Keys[0][:]
		}
		if hit := hits[i]; hit != nil {
			states[i], results[i], generations[i], providers[i], models[i] = "succeeded", hit.Key, hit.Generation, hit.Provider, hit.Model
		}
		if p.ErrorClass != "" {
			states[i] = "failed"
		}
	}
	var b pgx.Batch
	b.Queue(insertPlanned, ticket.BatchID, seqs, states, keys, results, generations, providers, models, classes, messages)
	if last {
		b.Queue(endPlanTicket, ticket.ID)
	}
	return translate(db.pool.SendBatch(ctx, &b).Close())
}

// Hit is where the result cache has an answer, and who gave it.
type Hit struct {
	Ord        int32 // of the key, from 1
	Key        []byte
	Generation int32
	Provider   string
	Model      string
}

// Hits finds for each job the newest answer under the first of its keys that has one; nil for a job without.
func (r Reader) Hits(ctx context.Context, project uuid.UUID, jobs [][][32]byte) ([]*Hit, error) {
	var keys [][]byte
	var owner []int // the job of each key
	for i := range jobs {
		for j := range jobs[i] {
			keys, owner = append(keys, jobs[i][j][:]), append(owner, i)
		}
	}
	found, err := many[Hit](ctx, r.q, lookUpPlanned, project, keys)
	hits := make([]*Hit, len(jobs))
	for i := range found {
		job := owner[found[i].Ord-1]
		if hits[job] == nil || found[i].Ord < hits[job].Ord {
			hits[job] = &found[i]
		}
	}
	return hits, err
}

const (
	// Starts of a project's batches come one after the other, so that of two the second sees the first one's jobs. Who doesn't get the lock comes back.
	lockStart = `-- name: LockStart
select pg_try_advisory_xact_lock(hashtextextended('batchwright.start ' || project_id, 0)) from batches where id = $1 and state = 'planning'`
	lockPlannedBatch = `-- name: LockPlannedBatch
select project_id, cache, created_at from batches b where id = $1 and state = 'planning'
    and not exists (select 1 from tickets where batch_id = $1 and purpose = 'plan') for update`
	findNeighbours = `-- name: FindNeighbours
with o as materialized (select id, state from batches where finished_at is null and project_id = $1 and id <> $2 and cache <> 'off')
select array(select id from o where state = 'running' order by id) as running, exists (select 1 from o)
    or exists (select 1 from batches where project_id = $1 and finished_at > $3 and cache <> 'off') as overlapped`
	startBatch = `-- name: StartBatch
update batches set state = case when pause_reason is null then 'running' else 'paused' end, started_at = now(),
    has_followers = $2 or $3, follows = $3, followed = $3, recheck = $4 where id = $1 returning state` // followers may come to lead those of other batches
)

// plannedBatch is what StartBatch knows of its batch.
type plannedBatch struct {
	ProjectID uuid.UUID
	Cache     string
	CreatedAt time.Time
}

// neighbours are the other batches of a project that use its cache.
type neighbours struct {
	Running    []uuid.UUID
	Overlapped bool // some were open since the batch was made
}

// StartBatch ends the planning of a batch whose every range is planned: jobs are hung on identical ones of batches that run, identical jobs
// on the first of them, and the batch runs. It reports whether it did: not when another batch of the project is being started.
func (db *DB) StartBatch(ctx context.Context, id uuid.UUID) (started bool, err error) {
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
		var inside, recheck bool
		if b.Cache != "off" {
			if _, err := tx.Exec(ctx, hashOnly); err != nil {
				return err
			}
			if b.Cache == "use" {
				if follows, recheck, err = hangOnNeighbours(ctx, tx, id, b); err != nil {
					return err
				}
			}
			tag, err := tx.Exec(ctx, hangFollowers, id)
			if err != nil {
				return err
			}
			inside = tag.RowsAffected() > 0
		}
		state, err := scalar[string](ctx, tx, startBatch, id, inside, follows, recheck)
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

// hangOnNeighbours hangs planned jobs on identical ones of the project's running batches.
func hangOnNeighbours(ctx context.Context, tx pgx.Tx, id uuid.UUID, b plannedBatch) (follows, overlapped bool, err error) {
	n, err := one[neighbours](ctx, tx, findNeighbours, b.ProjectID, id, b.CreatedAt)
	if err != nil || len(n.Running) == 0 {
		return false, n.Overlapped, err
	}
	hung, err := scalar[int64](ctx, tx, hangOutside, id, n.Running)
	return hung > 0, n.Overlapped, err
}
