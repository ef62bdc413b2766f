package store

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Every transition here first locks the batch's row, then tickets, then jobs, as planning, dispatch and the end of a batch do: two of them
// on one batch come one after the other and never wait for each other in a circle.
//
// Claims don't lock the batch. A claim takes its ticket and the jobs behind it in one statement, only while its snapshot shows the batch
// running. Whichever of a claim and a withdrawal locks the ticket's row first wins: the other waits, looks at the row again, and finds it
// claimed or gone. So after a pause or an ending, a ticket is claimed with all its jobs or deleted with none of them started.

const lockBatch = `-- name: LockBatch
select id from batches where id = $1 and project_id = $2 for update`

// turn locks a project's batch, lets change work on it, and returns it as it is afterwards. When change fails, the batch is as it was
// found, and nothing has changed. ErrNotFound when the project has no such batch.
func (db *DB) turn(ctx context.Context, project, id uuid.UUID, change func(pgx.Tx, Batch) error) (b Batch, err error) {
	err = db.atomically(ctx, func(tx pgx.Tx) error {
		if _, err := scalar[uuid.UUID](ctx, tx, lockBatch, id, project); err != nil {
			return err
		}
		if b, err = one[Batch](ctx, tx, getBatch, id, project); err != nil {
			return err
		}
		if err := change(tx, b); err != nil {
			return err
		}
		if err := hint(ctx, tx, HintControl); err != nil {
			return err
		}
		b, err = one[Batch](ctx, tx, getBatch, id, project)
		return err
	})
	return b, translate(err)
}

// atomically runs f in a transaction, and again when that was the victim of a deadlock: a settlement locks the followers of a job in an
// order of its own.
func (db *DB) atomically(ctx context.Context, f func(pgx.Tx) error) error {
	for try := 1; ; try++ {
		err := pgx.BeginFunc(ctx, db.pool, f)
		if pg, ok := errors.AsType[*pgconn.PgError](err); !ok || pg.Code != "40P01" || try == 3 {
			return err
		}
	}
}

// Why a batch is paused.
const (
	PauseRequested = "requested" // until a caller resumes it
	PauseBudget    = "budget"    // until there is room
	PauseForecast  = "forecast"  // until a caller resumes it, and so accepts what it will cost
)

const (
	// Planning goes on and ends in paused. What a caller asked for isn't undone by a budget that is raised.
	pauseBatch = `-- name: PauseBatch
update batches b set state = case when b.state = 'running' then 'paused' else b.state end, pause_reason = $2, pause_detail = $3,
    paused_at = coalesce(b.paused_at, now())
from batches old where b.id = $1 and old.id = b.id and b.state in ('ingesting', 'planning', 'running', 'paused')
    and (b.pause_reason is null or $2 = 'requested')
returning old.state`
	// Dispatch takes planned jobs from next_seq on, and passes over those that are claimed or done.
	withdrawTickets = `-- name: WithdrawTickets
with gone as (delete from tickets where batch_id = $1 and worker_id is null and purpose <> 'plan' returning purpose, first_seq)
update batches set next_seq = least(next_seq, (select min(first_seq) from gone where purpose = 'run')) where id = $1 and exists (select 1 from gone)`
	// The time for which a batch is paused isn't the jobs' own. Those that were tried and are to be tried again are few, and have an index.
	forgivePause = `-- name: ForgivePause
update jobs set first_run_at = first_run_at + (select now() - paused_at from batches where id = $1)
where batch_id = $1 and due_at is not null and first_run_at is not null`
	// While it was paused, others of the project may have paid for what it is about to ask.
	resumeBatch = `-- name: ResumeBatch
update batches set state = case when state = 'paused' then 'running' else state end, recheck = recheck or state = 'paused',
    pause_reason = null, pause_detail = null, paused_at = null,
    progress_at = now(), stalled_at = null
where id = $1 and state in ('ingesting', 'planning', 'paused') returning state`
)

// PauseBatch keeps a batch from starting calls, for a reason of the Pause constants, until it is resumed. A batch that isn't planned yet is
// paused once it is. Tickets that nobody has claimed are withdrawn; workers hand back what they have claimed and not begun, and let calls
// in flight end. On a batch that is paused it does nothing, but that a caller's pause takes the place of a budget's. ErrState, with the
// batch, when it is ending or final.
func (db *DB) PauseBatch(ctx context.Context, project, id uuid.UUID, reason, detail string) (Batch, error) {
	return db.turn(ctx, project, id, func(tx pgx.Tx, b Batch) error {
		if b.FinishedAt != nil || b.State == "cancelling" {
			return ErrState
		}
		return pause(ctx, tx, id, reason, detail)
	})
}

// pause works on a batch whose row is locked.
func pause(ctx context.Context, tx pgx.Tx, id uuid.UUID, reason, detail string) error {
	was, err := scalar[string](ctx, tx, pauseBatch, id, reason, detail)
	if errors.Is(err, ErrNotFound) {
		return nil
	} else if err != nil {
		return err
	}
	for _, sql := range []string{withdrawTickets, releaseFollowers} {
		if _, err := tx.Exec(ctx, sql, id); err != nil {
			return err
		}
	}
	if was != "running" { // it will tell when it pauses, or has told
		return nil
	}
	return sendEvents(ctx, tx, EventPaused, id)
}

// ResumeBatch lets a paused batch run, for whatever reason it was paused, or takes back a pause that has yet to come. On a batch that isn't
// paused it does nothing. ErrState, with the batch, when it is ending or final.
func (db *DB) ResumeBatch(ctx context.Context, project, id uuid.UUID) (Batch, error) {
	return db.turn(ctx, project, id, func(tx pgx.Tx, b Batch) error {
		if b.FinishedAt != nil || b.State == "cancelling" {
			return ErrState
		}
		if b.PauseReason == nil {
			return nil
		}
		return resume(ctx, tx, id)
	})
}

// resume works on a batch whose row is locked.
func resume(ctx context.Context, tx pgx.Tx, id uuid.UUID) error {
	if _, err := tx.Exec(ctx, forgivePause, id); err != nil {
		return err
	}
	state, err := scalar[string](ctx, tx, resumeBatch, id)
	if errors.Is(err, ErrNotFound) {
		return nil
	} else if err != nil || state != "running" {
		return err
	}
	return sendEvents(ctx, tx, EventResumed, id)
}

const (
	endBatch = `-- name: EndBatch
update batches set state = 'cancelling', ending = $2, ending_at = now(), ending_grace_seconds = $3, pause_reason = null, pause_detail = null, paused_at = null
where id = $1 and state in ('ingesting', 'planning', 'running', 'paused')`
	setGrace = `-- name: SetGrace
update batches set ending_grace_seconds = $2 where id = $1 and state = 'cancelling'`
	dropPostedTickets = `-- name: DropPostedTickets
delete from tickets where batch_id = $1 and worker_id is null`
	cancelJobs = `-- name: CancelJobs
update jobs set state = 'cancelled', due_at = null, finished_at = now() where batch_id = $1 and state in ('planned', 'waiting')`
)

// CancelBatch stops what has not begun: planned and waiting jobs are cancelled, running ones settle as they end, and are cut when
// graceSeconds have passed; nil leaves that time to the workers. Of a batch that is already ending it changes no more than that time, and
// nothing of one that is final. ErrNotFound when the project has no such batch.
func (db *DB) CancelBatch(ctx context.Context, project, id uuid.UUID, graceSeconds *int32) (Batch, error) {
	return db.turn(ctx, project, id, func(tx pgx.Tx, b Batch) error {
		if b.State != "cancelling" {
			return end(ctx, tx, id, "cancelled", graceSeconds)
		} else if graceSeconds == nil {
			return nil
		}
		_, err := tx.Exec(ctx, setGrace, id, graceSeconds)
		return err
	})
}

// end works on a batch whose row is locked. Once nothing of it is outstanding, FinishBatch makes it what ending says.
func end(ctx context.Context, tx pgx.Tx, id uuid.UUID, ending string, graceSeconds *int32) error {
	tag, err := tx.Exec(ctx, endBatch, id, ending, graceSeconds)
	if err != nil || tag.RowsAffected() == 0 {
		return err
	}
	for _, sql := range []string{dropPostedTickets, cancelJobs, releaseFollowers} {
		if _, err := tx.Exec(ctx, sql, id); err != nil {
			return err
		}
	}
	return nil
}

const (
	listExpired = `-- name: ListExpired
select id from batches where finished_at is null and expires_at <= now() and (state in ('planning', 'running', 'paused') or state = 'ingesting' and open_upload)
order by id limit 100`
	lockExpired = `-- name: LockExpired
select id from batches where id = $1 and expires_at <= now() for update`
	// Tickets that were issued again, or for retries, while the batch was paused or ended, and that the transition therefore didn't see.
	listStray = `-- name: ListStray
select id from batches b where finished_at is null and state in ('paused', 'cancelling')
    and exists (select 1 from tickets t where t.batch_id = b.id and t.worker_id is null and (b.state = 'cancelling' or t.purpose <> 'plan'))
order by id`
	lockStray = `-- name: LockStray
select state from batches where id = $1 for update`
)

// Expire ends batches whose time is over as a cancellation would, up to 100 at once, and returns them. What is finished is kept.
func (db *DB) Expire(ctx context.Context) (ended []uuid.UUID, err error) {
	ids, err := column[uuid.UUID](ctx, db.pool, listExpired)
	if err != nil {
		return nil, err
	}
	for _, id := range ids {
		err := db.atomically(ctx, func(tx pgx.Tx) error {
			if _, err := scalar[uuid.UUID](ctx, tx, lockExpired, id); err != nil { // it may just have been given more time
				return err
			}
			if err := end(ctx, tx, id, "expired", nil); err != nil {
				return err
			}
			return hint(ctx, tx, HintControl)
		})
		if err == nil {
			ended = append(ended, id)
		} else if !errors.Is(err, ErrNotFound) {
			return ended, err
		}
	}
	return ended, nil
}

// withdrawStray takes back the tickets of batches that don't run.
func (db *DB) withdrawStray(ctx context.Context) error {
	ids, err := column[uuid.UUID](ctx, db.pool, listStray)
	if err != nil {
		return err
	}
	for _, id := range ids {
		err := db.atomically(ctx, func(tx pgx.Tx) error {
			state, err := scalar[string](ctx, tx, lockStray, id)
			if err != nil {
				return err
			}
			switch state {
			case "paused":
				_, err = tx.Exec(ctx, withdrawTickets, id)
			case "cancelling":
				_, err = tx.Exec(ctx, dropPostedTickets, id)
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// Change is a field to be changed; its zero value leaves the field alone. As JSON, a value or null sets it.
type Change[T any] struct {
	Set bool
	To  *T // nil clears
}

// UnmarshalJSON implements [json.Unmarshaler]; it is called for a field that is there, null or not.
func (c *Change[T]) UnmarshalJSON(data []byte) error {
	c.Set = true
	return json.Unmarshal(data, &c.To)
}

// BatchChange is what a caller may change about a batch. Nil pointers leave a field alone.
type BatchChange struct {
	Name              *string
	Metadata          json.RawMessage
	Priority          *int16
	Concurrency       Change[int32]
	MaxAttempts       Change[int32]
	JobTimeoutSeconds Change[int32]
	ExpiresAt         Change[time.Time]
	MaxCostMicrousd   Change[int64]
}

// Limits reports whether more than labels is to change.
func (c BatchChange) Limits() bool {
	return c.Priority != nil || c.Concurrency.Set || c.MaxAttempts.Set || c.JobTimeoutSeconds.Set || c.ExpiresAt.Set || c.MaxCostMicrousd.Set
}

const updateBatch = `-- name: UpdateBatch
update batches set name = coalesce($2, name), metadata = coalesce($3, metadata), priority = coalesce($4, priority),
    concurrency = case when $5 then $6 else concurrency end, max_attempts = case when $7 then $8 else max_attempts end,
    job_timeout_seconds = case when $9 then $10 else job_timeout_seconds end, expires_at = case when $11 then $12 else expires_at end,
    max_cost_microusd = case when $13 then $14 else max_cost_microusd end
where id = $1`

// UpdateBatch changes a batch, unless allow, which sees it as it is, returns an error. Running workers learn limits with their next heartbeat.
func (db *DB) UpdateBatch(ctx context.Context, project, id uuid.UUID, c BatchChange, allow func(Batch) error) (Batch, error) {
	return db.turn(ctx, project, id, func(tx pgx.Tx, b Batch) error {
		if err := allow(b); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, updateBatch, id, c.Name, c.Metadata, c.Priority, c.Concurrency.Set, c.Concurrency.To, c.MaxAttempts.Set, c.MaxAttempts.To,
			c.JobTimeoutSeconds.Set, c.JobTimeoutSeconds.To, c.ExpiresAt.Set, c.ExpiresAt.To, c.MaxCostMicrousd.Set, c.MaxCostMicrousd.To)
		if err == nil && c.MaxCostMicrousd.Set {
			err = keepOwnBudget(ctx, tx, id)
		}
		return err
	})
}

// Standing is what may change about a batch while workers run it.
type Standing struct {
	ID                uuid.UUID
	State             string
	Ending            time.Duration // for how long it has been cancelling; 0 while it isn't
	EndingGrace       *int32        `db:"ending_grace_seconds"` // for calls in flight, if whoever cancelled it said so
	Concurrency       *int32
	MaxAttempts       *int32
	JobTimeoutSeconds *int32
	Recheck           bool
}

const getStandings = `-- name: GetStandings
select id, state, case when state = 'cancelling' then now() - ending_at else '0' end as ending, ending_grace_seconds,
    concurrency, max_attempts, job_timeout_seconds, recheck
from batches where id = any($1::uuid[])`

// Standings returns how batches stand, of whatever project and in no order; unknown ones are missing. A worker asks for all that it knows
// at every heartbeat.
func (r Reader) Standings(ctx context.Context, batches []uuid.UUID) ([]Standing, error) {
	return many[Standing](ctx, r.q, getStandings, batches)
}

// Standing is how the batch stood when its row was read.
func (b Batch) Standing() Standing {
	return Standing{ID: b.ID, State: b.State, Concurrency: b.Concurrency, MaxAttempts: b.MaxAttempts, JobTimeoutSeconds: b.JobTimeoutSeconds,
		Recheck: b.Recheck}
}
