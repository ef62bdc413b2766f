package store

import (
	"context"
	"errors"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// purgeRows is how many rows one statement removes at most: what it locks, logs and leaves to vacuum stays small.
const purgeRows = 10_000

const (
	markPurged = `-- name: MarkPurged
update batches set purged_at = coalesce(purged_at, now()), purging = true where id = $1 and project_id = $2 and finished_at is not null
returning state = 'failed' and started_at is null as unborn`
	// The subqueries read a range of the primary key in order, and the rows go by their place: no statistics can mislead Postgres here.
	removeCalls = `-- name: RemoveCalls
with gone as (delete from calls where ctid = any(array(
    select ctid from calls where batch_id = $1 order by batch_id, seq, ticket_id, number limit $2)) returning seq, ticket_id, number),
notes as (delete from call_notes n using gone g where n.batch_id = $1 and n.seq = g.seq and n.ticket_id = g.ticket_id and n.number = g.number)
select count(*)::int from gone`
	removeJobs = `-- name: RemoveJobs
with gone as (delete from jobs where ctid = any(array(
    select ctid from jobs where batch_id = $1 order by batch_id, seq limit $2)) returning seq),
outputs as (delete from invalid_outputs o using gone g where o.batch_id = $1 and o.seq = g.seq)
select count(*)::int from gone`
	removeInputsAndName = `-- name: RemoveInputs
with gone as (delete from inputs where ctid = any(array(
    select ctid from inputs where batch_id = $1 and seq > $2 order by batch_id, seq limit $3)) returning document_sha256)
select count(*)::int as n, coalesce(array_agg(distinct document_sha256) filter (where document_sha256 is not null), '{}') as documents from gone`
	// Two statements: a submission of the same document may hold the row, and its jobs are seen only by a statement that begins after that.
	lockDocuments = `-- name: LockDocuments
select 1 from documents where project_id = $1 and sha256 = any($2::bytea[]) order by sha256 for update`
	removeDocuments = `-- name: RemoveDocuments
delete from documents d where project_id = $1 and sha256 = any($2::bytea[]) and (
    select 1 from inputs i join batches b on b.id = i.batch_id where i.document_sha256 = d.sha256 and b.project_id = $1 limit 1) is null`
	endPurge = `-- name: EndPurge
update batches set purging = false where id = $1`
	nextPurge = `-- name: NextPurge
select id, project_id from (
    select b.id, b.project_id from batches b where b.purging and b.purged_at < now() - interval '1 minute'
    union all
    select b.id, b.project_id from projects p cross join lateral (
        select id, project_id from batches o where project_id = p.id and purged_at is null and finished_at is not null
            and finished_at < now() - p.retention_days * interval '1 day'
            and not exists (select 1 from exports e where e.batch_id = o.id and e.due_at is not null)
            and (p.purge_export is null or o.state = 'failed' and o.started_at is null or exists (select 1 from exports e
                where e.batch_id = o.id and e.origin = 'purge' and e.state = 'succeeded' and e.batch_finished_at = o.finished_at))
        order by finished_at limit 1) b
    where p.retention_days is not null) d
limit 1`
)

// PurgeBatch removes the inputs, jobs and calls of a final batch, and documents that no other job needs, by at most so many statements of
// 10,000 rows. Done says that all are gone; else it is to be called again. The batch keeps its row and its counts, the reports keep what
// its calls cost; but of a batch whose upload failed nothing is left. It can be broken off and repeated at any point.
//
// Errors: ErrNotFound when the project has no such batch, ErrConflict when it is not final.
func (db *DB) PurgeBatch(ctx context.Context, project, id uuid.UUID, statements int) (done bool, err error) {
	unborn, err := scalar[bool](ctx, db.pool, markPurged, id, project)
	if errors.Is(err, ErrNotFound) {
		if _, err = db.Batch(ctx, project, id); err == nil {
			err = ErrConflict
		}
	}
	if err != nil {
		return false, err
	}
	if err := db.sumUsage(ctx, id); err != nil { // behind the mark, from which on nothing throws the sums away
		return false, err
	}
	for _, remove := range []func(context.Context, pgx.Tx) (int32, error){
		func(ctx context.Context, tx pgx.Tx) (int32, error) {
			return scalar[int32](ctx, tx, removeCalls, id, purgeRows)
		},
		func(ctx context.Context, tx pgx.Tx) (int32, error) {
			return scalar[int32](ctx, tx, removeJobs, id, purgeRows)
		},
		func(ctx context.Context, tx pgx.Tx) (int32, error) { return removeInputs(ctx, tx, project, id, 0) },
	} {
		for n := int32(purgeRows); n == purgeRows; {
			if statements <= 0 {
				return false, nil
			}
			if err := pgx.BeginTxFunc(ctx, db.pool, hasty, func(tx pgx.Tx) (err error) {
				n, err = remove(ctx, tx)
				return err
			}); err != nil {
				return false, translate(err)
			}
			if n > 0 { // one that finds nothing costs next to nothing, and must not keep a small budget from what comes behind it
				statements--
			}
		}
	}
	end := endPurge
	if unborn {
		end = dropBatch
	}
	_, err = db.pool.Exec(ctx, end, id)
	return err == nil, translate(err)
}

// removeInputs removes inputs behind a position, and the documents that they alone needed.
func removeInputs(ctx context.Context, tx pgx.Tx, project, batch uuid.UUID, after int32) (int32, error) {
	gone, err := one[struct {
		N         int32
		Documents [][]byte
	}](ctx, tx, removeInputsAndName, batch, after, purgeRows)
	if err != nil || len(gone.Documents) == 0 {
		return gone.N, err
	}
	for _, sql := range []string{lockDocuments, removeDocuments} {
		if _, err := tx.Exec(ctx, sql, project, gone.Documents); err != nil {
			return gone.N, err
		}
	}
	return gone.N, nil
}

// PurgeNext does the same, a round at a time, for a batch whose project has kept it for long enough, or whose purge broke off. A batch with an
// export to be made is none, nor is one that its project wants exported before and that isn't. It returns ErrNotFound when there is none.
func (db *DB) PurgeNext(ctx context.Context, statements int) (batch uuid.UUID, done bool, err error) {
	next, err := one[struct{ ID, ProjectID uuid.UUID }](ctx, db.pool, nextPurge)
	if err != nil {
		return uuid.UUID{}, false, err
	}
	done, err = db.PurgeBatch(ctx, next.ProjectID, next.ID, statements)
	return next.ID, done, err
}
