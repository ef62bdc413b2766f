package store

import (
	"context"
	"encoding/json"
	"errors"
	"iter"

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

type plannedHit struct {
	Ord        int32 // of the key, from 1
	Key        []byte
	Generation int32
	Provider   string
	Model      string
}

// InsertPlanned stores what planning found: jobs that the cache answers are born succeeded, bad ones failed. Doing a range twice changes
// nothing. With last set, the range is done and the ticket ends.
func (db *DB) InsertPlanned(ctx context.Context, batch Batch, ticket Ticket, rows []Planned, last bool) error {
	hits, err := db.lookUpPlanned(ctx, batch, rows)
	if err != nil {
		return err
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

// lookUpPlanned finds for each row the cached answer under the first of its keys that has one.
func (db *DB) lookUpPlanned(ctx context.Context, batch Batch, rows []Planned) ([]*plannedHit, error) {
	hits := make([]*plannedHit, len(rows))
	if batch.Cache != "use" {
		return hits, nil
	}
	var keys [][]byte
	var owner []int // the row of each key
	for i := range rows {
		for j := range rows[i].Keys {
			keys, owner = append(keys, rows[i].Keys[j][:]), append(owner, i)
		}
	}
	found, err := many[plannedHit](ctx, db.pool, lookUpPlanned, batch.ProjectID, keys)
	for i := range found {
		row := owner[found[i].Ord-1]
		if hits[row] == nil || found[i].Ord < hits[row].Ord {
			hits[row] = &found[i]
		}
	}
	return hits, err
}

const (
	lockPlannedBatch = `-- name: LockPlannedBatch
select cache from batches b where id = $1 and state = 'planning'
    and not exists (select 1 from tickets where batch_id = $1 and purpose = 'plan') for update`
	hangFollowers = `-- name: HangFollowers
with m as materialized (select ctid as row, seq, min(seq) over (partition by key) as leader from jobs where batch_id = $1 and state = 'planned')
update jobs j set state = 'waiting', leader_seq = m.leader from m where m.seq <> m.leader and j.ctid = m.row`
	startBatch = `-- name: StartBatch
update batches set state = case when pause_reason is null then 'running' else 'paused' end, started_at = now(), has_followers = $2 where id = $1`
)

// StartBatch ends the planning of a batch whose every range is planned: identical jobs are hung on the first of them, and
// the batch runs. It reports whether it did.
func (db *DB) StartBatch(ctx context.Context, id uuid.UUID) (started bool, err error) {
	err = pgx.BeginFunc(ctx, db.pool, func(tx pgx.Tx) error {
		cache, err := scalar[string](ctx, tx, lockPlannedBatch, id)
		if errors.Is(err, ErrNotFound) {
			return nil
		} else if err != nil {
			return err
		}
		followers := false
		if cache != "off" {
			tag, err := tx.Exec(ctx, hangFollowers, id)
			if err != nil {
				return err
			}
			followers = tag.RowsAffected() > 0
		}
		_, err = tx.Exec(ctx, startBatch, id, followers)
		started = err == nil
		return err
	})
	return started, translate(err)
}
