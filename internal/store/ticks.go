package store

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/google/uuid"
)

// The life of a tick. A due time becomes a row in the statement that moves its schedule on to the next one, which only one of several workers
// can do, as it names the time that it moves on from. A worker takes a pending tick by name, makes the batch under an idempotency key that
// is the tick's own, and writes the batch's id to the tick. When it dies before that, another one takes the tick, and finds the batch by the
// key if it is there.

// MaxWaiting is how many ticks of a schedule may wait for their turn.
const MaxWaiting = 100

const (
	dueSchedules = `-- name: DueSchedules
select ` + scheduleRest + `, null::json as jobs, now() as now from schedules s where s.next_start_at <= now() order by s.next_start_at limit $1`
	// A tick that waits, or that is at work and may be done soon, is looked at again in a second: nobody tells of the end of a batch.
	nextStart = `-- name: NextStart
select coalesce(extract(epoch from least((select min(next_start_at) from schedules where next_start_at is not null),
    (select min(start_at) from ticks where state = 'pending' and start_at > now()),
    (select now() + interval '1 second' from ticks where state in ('starting', 'running') or state = 'pending' and start_at <= now() limit 1)) - now()), 3600)::float8`
	advanceSchedule = `-- name: AdvanceSchedule
with s as (update schedules set next_due_at = $4, next_start_at = $5 where id = $1 and revision = $2 and next_due_at = $3 returning id, overlap),
w as (select count(*) as waiting from ticks where schedule_id = $1 and state = 'pending'),
t as (insert into ticks (schedule_id, due_at, start_at, state, reason, ended_at)
    select s.id, u.due_at, u.start_at, case when full_up then 'skipped' else u.state end,
        case when full_up then 'overlap: as many ticks as may wait for the end of earlier ones do' else u.reason end,
        case when full_up or u.state <> 'pending' then now() end
    from s, w, (select *, count(*) filter (where state = 'pending') over (order by due_at) as nth
            from unnest($6::timestamptz[], $7::timestamptz[], $8::text[], $9::text[]) as u(due_at, start_at, state, reason)) u,
        lateral (select u.state = 'pending' and s.overlap = 'queue' and w.waiting + u.nth > $10 as full_up) f
    on conflict (schedule_id, due_at) do nothing)
select count(*)::int from s`
	// Of each schedule only the first tick that waits can be taken: so they start in their order, however many workers there are. One whose worker
	// is gone, or has not been seen for longer than a lease, waits again, and so does one that nobody works on for as long as no batch takes to
	// make: its worker could not write what came of it. What another worker takes meanwhile is passed over.
	claimTick = `-- name: ClaimTick
with c as (select t.schedule_id, t.due_at from ticks t join schedules s on s.id = t.schedule_id
    where t.state in ('pending', 'starting') and t.start_at <= now()
        and (t.state = 'pending' or t.started_at < now() - interval '15 minutes'
            or not exists (select 1 from workers w where w.id = t.worker_id and w.seen_at > now() - $2::interval))
        and not exists (select 1 from ticks o where o.schedule_id = t.schedule_id and o.due_at < t.due_at and o.state in ('pending', 'starting'))
        and (s.overlap <> 'queue' or not exists (select 1 from ticks o join batches b on b.id = o.batch_id
            where o.schedule_id = t.schedule_id and o.state = 'running' and b.finished_at is null))
    order by t.start_at limit 1 for update of t skip locked)
update ticks t set state = 'starting', worker_id = $1, attempts = t.attempts + 1, reason = null, started_at = now()
from c where t.schedule_id = c.schedule_id and t.due_at = c.due_at
returning ` + tickCols + noTickBatch
	openRuns = `-- name: OpenRuns
select b.id from ticks t join batches b on b.id = t.batch_id
where t.schedule_id = $1 and t.due_at <> $2 and t.state = 'running' and b.finished_at is null order by b.id`
	startTick = `-- name: StartTick
with t as (update ticks set state = 'running', batch_id = $4
    where schedule_id = $1 and due_at = $2 and state = 'starting' and worker_id = $3 returning schedule_id),
e as (insert into exports (id, project_id, batch_id, origin, format, target, status, bom)
    select $5, s.project_id, $4, 'schedule', s.export->>'format', s.export->>'target', coalesce(s.export->>'status', ''), coalesce((s.export->>'bom')::boolean, false)
    from t join schedules s on s.id = t.schedule_id where s.export is not null
    on conflict (batch_id, origin) where origin <> 'request' do nothing)
select true from t`
	endTick = `-- name: EndTick
update ticks set state = $4, reason = $5, ended_at = now()
where schedule_id = $1 and due_at = $2 and state = 'starting' and worker_id = $3 returning true`
	delayTick = `-- name: DelayTick
update ticks set state = 'pending', reason = $4, start_at = now() + $5::interval
where schedule_id = $1 and due_at = $2 and state = 'starting' and worker_id = $3 returning true`
	endRuns = `-- name: EndRuns
update ticks t set state = 'ran', ended_at = b.finished_at from batches b
where t.state = 'running' and b.id = t.batch_id and b.finished_at is not null`
	trimTicks = `-- name: TrimTicks
delete from ticks where ctid = any(array(select ctid from ticks
    where due_at < now() - interval '400 days' and state in ('ran', 'skipped', 'missed', 'failed') order by due_at limit 10000))`
	keyRevoked = `-- name: KeyRevoked
select revoked_at is not null from api_keys where id = $1`
	copyOfInputs = `-- name: CopyOfInputs
select seq, custom_id, input, document_sha256, invalid from inputs where batch_id = $1 and seq > $2 order by seq limit $3`
)

// DueSchedule is a schedule that has due times without ticks, and the clock by which it has.
type DueSchedule struct {
	Schedule
	Now time.Time
}

// DueSchedules returns the schedules of all projects, without their jobs, that have been due for longest.
func (db *DB) DueSchedules(ctx context.Context, most int) ([]DueSchedule, error) {
	return many[DueSchedule](ctx, db.pool, dueSchedules, most)
}

// NextStart is how long it is until something is due next, an hour when nothing will be.
func (db *DB) NextStart(ctx context.Context) (time.Duration, error) {
	s, err := scalar[float64](ctx, db.pool, nextStart)
	return time.Duration(s * float64(time.Second)), err
}

// NewTick is a due time that is to become a row.
type NewTick struct {
	DueAt, StartAt time.Time
	State          string // pending, skipped or missed
	Reason         string // empty for a pending one
}

// AdvanceSchedule makes rows of due times and moves a schedule on to its next one, nil when there is none. It reports whether it did: not when
// somebody else did before, or has changed the schedule.
func (db *DB) AdvanceSchedule(ctx context.Context, s Schedule, nextDue, nextStart *time.Time, ticks []NewTick) (bool, error) {
	n := len(ticks)
	due, start, state, reason := make([]time.Time, n), make([]time.Time, n), make([]string, n), make([]*string, n)
	for i, t := range ticks {
		due[i], start[i], state[i] = t.DueAt, t.StartAt, t.State
		if t.Reason != "" {
			reason[i] = &t.Reason
		}
	}
	moved, err := scalar[int32](ctx, db.pool, advanceSchedule, s.ID, s.Revision, s.NextDueAt, nextDue, nextStart, due, start, state, reason, MaxWaiting)
	return moved > 0, err
}

// ClaimTick takes the tick that has waited for longest, or returns ErrNotFound. A worker that is not seen for longer than lease loses what it took.
func (db *DB) ClaimTick(ctx context.Context, worker uuid.UUID, lease time.Duration) (Tick, error) {
	return one[Tick](ctx, db.pool, claimTick, worker, interval(lease))
}

// OpenRuns returns the batches that other ticks of a schedule have made and that have not ended.
func (db *DB) OpenRuns(ctx context.Context, t Tick) ([]uuid.UUID, error) {
	return column[uuid.UUID](ctx, db.pool, openRuns, t.ScheduleID, t.DueAt)
}

// StartTick notes the batch of a tick that a worker took, and asks for the file that the schedule wants of it, or returns ErrLeaseLost when it isn't
// that worker's any more.
func (db *DB) StartTick(ctx context.Context, worker uuid.UUID, t Tick, batch uuid.UUID) error {
	export, err := uuid.NewV7()
	if err != nil {
		return err
	}
	return db.leave(ctx, startTick, t.ScheduleID, t.DueAt, worker, batch, export)
}

// EndTick ends a tick that a worker took without a batch, or returns ErrLeaseLost.
func (db *DB) EndTick(ctx context.Context, worker uuid.UUID, t Tick, state, reason string) error {
	return db.leave(ctx, endTick, t.ScheduleID, t.DueAt, worker, state, reason)
}

// DelayTick gives back a tick that a worker took, to be tried again, or returns ErrLeaseLost.
func (db *DB) DelayTick(ctx context.Context, worker uuid.UUID, t Tick, reason string, by time.Duration) error {
	return db.leave(ctx, delayTick, t.ScheduleID, t.DueAt, worker, reason, interval(by))
}

// leave runs a guarded statement on what a worker holds, or returns ErrLeaseLost.
func (db *DB) leave(ctx context.Context, sql string, args ...any) error {
	_, err := scalar[bool](ctx, db.pool, sql, args...)
	if errors.Is(err, ErrNotFound) {
		return ErrLeaseLost
	}
	return err
}

// EndRuns makes final the ticks whose batches have ended.
func (db *DB) EndRuns(ctx context.Context) (int64, error) {
	tag, err := db.pool.Exec(ctx, endRuns)
	return tag.RowsAffected(), translate(err)
}

// TrimTicks removes some ticks that were due more than 400 days ago.
func (db *DB) TrimTicks(ctx context.Context) (int64, error) {
	tag, err := db.pool.Exec(ctx, trimTicks)
	return tag.RowsAffected(), translate(err)
}

// KeyRevoked reports whether an API key is good no more.
func (r Reader) KeyRevoked(ctx context.Context, key uuid.UUID) (bool, error) {
	return scalar[bool](ctx, r.q, keyRevoked, key)
}

// StoredInput is an input with the submitter's own id.
type StoredInput struct {
	Seq            int32
	CustomID       *string
	Input          json.RawMessage
	DocumentSHA256 []byte
	Invalid        json.RawMessage
}

// InputsAfter pages through a batch's inputs in their order.
func (r Reader) InputsAfter(ctx context.Context, batch uuid.UUID, after int32, limit int) ([]StoredInput, error) {
	return many[StoredInput](ctx, r.q, copyOfInputs, batch, after, limit)
}
