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

// insertPlanned looks every key up and inserts the jobs with their verdicts. The first key of a job is its own.
const insertPlanned = `-- name: InsertPlanned
with b as (select id, project_id, cache from batches where id = $1 and state = 'planning'),
k as (select * from unnest($6::int[], $7::bytea[]) with ordinality as k(seq, key, ord)),
hit as (
    select distinct on (k.seq) k.seq, c.key, c.generation, c.provider, c.model
    from b join k on b.cache = 'use'
    join completions c on c.project_id = b.project_id and c.key = k.key
    order by k.seq, k.ord, c.generation desc)
insert into jobs (batch_id, seq, state, key, cache_status, result_key, result_generation, provider, model, error_class, error_message, finished_at)
select b.id, u.seq,
    case when u.error_class <> '' then 'failed' when hit.seq is not null then 'succeeded' else 'planned' end,
    nullif(u.key, ''), case when u.error_class <> '' then null when hit.seq is not null then 'result_hit' end,
    hit.key, hit.generation, hit.provider, hit.model, nullif(u.error_class, ''), nullif(u.error_message, ''),
    case when u.error_class <> '' or hit.seq is not null then now() end
from b, unnest($2::int[], $3::bytea[], $4::text[], $5::text[]) as u(seq, key, error_class, error_message)
left join hit on hit.seq = u.seq
on conflict do nothing`

const endPlanTicket = `-- name: EndPlanTicket
delete from tickets where id = $1`

// InsertPlanned stores what planning found, with a cache look-up of all keys in the same statement. Doing a range twice
// changes nothing. With last set, the range is done and the ticket ends.
func (db *DB) InsertPlanned(ctx context.Context, ticket Ticket, rows []Planned, last bool) error {
	n := len(rows)
	seqs, keys, classes, messages := make([]int32, n), make([][]byte, n), make([]string, n), make([]string, n)
	var kseqs []int32
	var kkeys [][]byte
	for i, p := range rows {
		seqs[i], classes[i], messages[i] = p.Seq, p.ErrorClass, p.ErrorMessage
		keys[i] = []byte{}
		for j := range p.Keys {
			if j == 0 {
				keys[i] = p.Keys[0][:]
			}
			kseqs, kkeys = append(kseqs, p.Seq), append(kkeys, p.Keys[j][:])
		}
	}
	var b pgx.Batch
	b.Queue(insertPlanned, ticket.BatchID, seqs, keys, classes, messages, kseqs, kkeys)
	if last {
		b.Queue(endPlanTicket, ticket.ID)
	}
	return translate(db.pool.SendBatch(ctx, &b).Close())
}

const (
	lockPlannedBatch = `-- name: LockPlannedBatch
select cache from batches b where id = $1 and state = 'planning'
    and not exists (select 1 from tickets where batch_id = $1 and purpose = 'plan') for update`
	hangFollowers = `-- name: HangFollowers
with m as (select key, min(seq) as leader from jobs where batch_id = $1 and state = 'planned' group by key having count(*) > 1)
update jobs j set state = 'waiting', leader_seq = m.leader from m
where j.batch_id = $1 and j.state = 'planned' and j.key = m.key and j.seq <> m.leader`
	startBatch = `-- name: StartBatch
update batches set state = 'running', started_at = now(), has_followers = $2 where id = $1`
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
