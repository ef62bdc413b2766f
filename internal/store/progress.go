package store

import (
	"context"
	"errors"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

const (
	// Rows that somebody else is changing are left for the next time: waiting for them could close a circle.
	touchProgress = `-- name: TouchProgress
update batches set progress_at = now(), stalled_at = null
where id in (select id from batches where id = any($1::uuid[]) order by id for no key update skip locked) returning id`
	listQuiet = `-- name: ListQuiet
select id from batches where finished_at is null and state = 'running' and stalled_at is null
    and greatest(started_at, progress_at) < now() - $1::interval order by id`
	// Jobs also end without a worker's noticing, with a leader in another batch: what the rows say counts.
	markStalled = `-- name: MarkStalled
with j as (select max(finished_at) as at from jobs where batch_id = $1)
update batches b set progress_at = greatest(b.progress_at, j.at),
    stalled_at = case when greatest(b.started_at, b.progress_at, j.at) < now() - $2::interval then now() end
from j where b.id = $1 and b.state = 'running' and b.stalled_at is null and greatest(b.started_at, b.progress_at) < now() - $2::interval
returning b.stalled_at is not null`
)

// TouchProgress notes that jobs of these batches have just become final. It returns those that it noted: others were being changed, and are
// to be named again.
func (db *DB) TouchProgress(ctx context.Context, batches []uuid.UUID) ([]uuid.UUID, error) {
	return column[uuid.UUID](ctx, db.pool, touchProgress, batches)
}

// MarkStalled finds running batches of which no job became final for that long, marks them and tells their webhooks. Each is found once:
// progress clears the mark.
func (db *DB) MarkStalled(ctx context.Context, after time.Duration) (stalled []uuid.UUID, err error) {
	quiet, err := column[uuid.UUID](ctx, db.pool, listQuiet, interval(after))
	if err != nil {
		return nil, err
	}
	for _, id := range quiet {
		marked := false
		err := pgx.BeginFunc(ctx, db.pool, func(tx pgx.Tx) (err error) {
			if marked, err = scalar[bool](ctx, tx, markStalled, id, interval(after)); err != nil || !marked {
				return err
			}
			return sendEvents(ctx, tx, EventStalled, id)
		})
		switch {
		case errors.Is(err, ErrNotFound): // somebody else has just seen to it
		case err != nil:
			return stalled, translate(err)
		case marked:
			stalled = append(stalled, id)
		}
	}
	return stalled, nil
}
