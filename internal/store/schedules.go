package store

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/google/uuid"
)

// Schedule is a batch that is to be run again and again.
type Schedule struct {
	ID            uuid.UUID
	ProjectID     uuid.UUID
	APIKeyID      uuid.UUID
	Name          string
	Cron          string
	TimeZone      string
	StartsAt      *time.Time
	EndsAt        *time.Time
	JitterSeconds int32
	Enabled       bool
	Overlap       string // skip, queue or cancel_older
	CatchUp       string // none, last or all
	CatchUpLimit  int32
	Batch         json.RawMessage
	Jobs          json.RawMessage // nil in lists
	JobCount      *int32          // nil with InputsOf
	InputsOf      *uuid.UUID
	Export        json.RawMessage // nil for none
	NextDueAt     *time.Time
	NextStartAt   *time.Time
	Revision      int32
	CreatedAt     time.Time
	UpdatedAt     time.Time
}

// Tick is a time that a schedule was due, and what came of it.
type Tick struct {
	ScheduleID uuid.UUID
	DueAt      time.Time
	Manual     bool
	StartAt    time.Time
	State      string
	Reason     *string
	BatchID    *uuid.UUID
	BatchState *string // nil without a batch, and in what ClaimTick returns
	Attempts   int32
	CreatedAt  time.Time
	StartedAt  *time.Time
	EndedAt    *time.Time

	ExportID    *uuid.UUID // the same
	ExportState *string
	ExportError *string
}

// The states of a tick.
const (
	TickPending  = "pending"
	TickStarting = "starting"
	TickRunning  = "running"
	TickRan      = "ran"
	TickSkipped  = "skipped"
	TickMissed   = "missed"
	TickFailed   = "failed"
)

const (
	scheduleRest = `s.id, s.project_id, s.api_key_id, s.name, s.cron, s.time_zone, s.starts_at, s.ends_at, s.jitter_seconds, s.enabled, s.overlap, s.catch_up,
    s.catch_up_limit, s.batch, s.job_count, s.inputs_of, s.export, s.next_due_at, s.next_start_at, s.revision, s.created_at, s.updated_at`
	scheduleCols = scheduleRest + `, s.jobs`

	tickCols = `t.schedule_id, t.due_at, t.manual, t.start_at, t.state, t.reason, t.batch_id, t.attempts, t.created_at, t.started_at, t.ended_at`

	tickBatch     = `, b.state as batch_state, e.id as export_id, e.state as export_state, e.error as export_error`
	joinTickBatch = `left join batches b on b.id = t.batch_id left join exports e on e.batch_id = t.batch_id and e.origin = 'schedule'`
	noTickBatch   = `, null::text as batch_state, null::uuid as export_id, null::text as export_state, null::text as export_error`

	getSchedule = `-- name: GetSchedule
select ` + scheduleCols + ` from schedules s where s.project_id = $1 and s.id = $2`
	getAnySchedule = `-- name: GetAnySchedule
select ` + scheduleCols + ` from schedules s where s.id = $1`
	listSchedules = `-- name: ListSchedules
select ` + scheduleRest + `, null::json as jobs from schedules s where s.project_id = $1 and ($2::uuid is null or s.id < $2) order by s.id desc limit $3`
	listTicks = `-- name: ListTicks
select ` + tickCols + tickBatch + ` from ticks t ` + joinTickBatch + `
where t.schedule_id = (select id from schedules where project_id = $1 and id = $2) and ($3 = '' or t.state = $3) and ($4::timestamptz is null or t.due_at < $4)
order by t.due_at desc limit $5`
	readClock = `-- name: ReadClock
select now()`
)

// Schedule returns a project's schedule or ErrNotFound.
func (r Reader) Schedule(ctx context.Context, project, id uuid.UUID) (Schedule, error) {
	return one[Schedule](ctx, r.q, getSchedule, project, id)
}

// AnySchedule returns a schedule of whatever project, or ErrNotFound. It is for workers, never for a request.
func (r Reader) AnySchedule(ctx context.Context, id uuid.UUID) (Schedule, error) {
	return one[Schedule](ctx, r.q, getAnySchedule, id)
}

// Schedules pages through a project's schedules, newest first, below before when it is given. Their jobs are left out.
func (r Reader) Schedules(ctx context.Context, project uuid.UUID, before *uuid.UUID, limit int) ([]Schedule, error) {
	return many[Schedule](ctx, r.q, listSchedules, project, before, limit)
}

// Ticks pages through what became of a schedule's due times, the latest first, below before when it is given. An empty state matches all.
func (r Reader) Ticks(ctx context.Context, project, schedule uuid.UUID, state string, before *time.Time, limit int) ([]Tick, error) {
	return many[Tick](ctx, r.q, listTicks, project, schedule, state, before, limit)
}

// Now is the database's clock, by which everything is due.
func (r Reader) Now(ctx context.Context) (time.Time, error) {
	return scalar[time.Time](ctx, r.q, readClock)
}

// MaxSchedules is how many a project may have.
const MaxSchedules = 1000

const (
	createSchedule = `-- name: CreateSchedule
insert into schedules as s (id, project_id, api_key_id, name, cron, time_zone, starts_at, ends_at, jitter_seconds, enabled, overlap, catch_up, catch_up_limit,
    batch, jobs, job_count, inputs_of, next_due_at, next_start_at, created_at, export)
select $1, $2, $3, $4, $5, $6, $7::timestamptz, $8::timestamptz, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18::timestamptz, $19::timestamptz, $20::timestamptz, $22::json
where (select count(*) from schedules where project_id = $2) < $21
returning ` + scheduleCols
	updateSchedule = `-- name: UpdateSchedule
update schedules s set api_key_id = $4, name = $5, cron = $6, time_zone = $7, starts_at = $8, ends_at = $9, jitter_seconds = $10, enabled = $11, overlap = $12,
    catch_up = $13, catch_up_limit = $14, batch = $15, jobs = $16, job_count = $17, inputs_of = $18, next_due_at = $19, next_start_at = $20, export = $22,
    revision = revision + 1, updated_at = now()
where s.project_id = $1 and s.id = $2 and s.revision = $3 and s.next_due_at is not distinct from $21 and (s.next_start_at is null or s.next_start_at > now())
returning ` + scheduleCols
	deleteSchedule = `-- name: DeleteSchedule
delete from schedules where project_id = $1 and id = $2 returning id`
	// A caller's clock doesn't count, and two requests of the same microsecond come one after the other.
	runSchedule = `-- name: RunSchedule
insert into ticks as t (schedule_id, due_at, start_at, manual, state, run_key)
select id, clock_timestamp(), now(), true, 'pending', nullif($3, '') from schedules
where project_id = $1 and id = $2 and (select count(*) from ticks where schedule_id = $2 and state = 'pending') < $4
on conflict (schedule_id, run_key) where run_key is not null do nothing
returning ` + tickCols + noTickBatch
	tickOfRun = `-- name: TickOfRun
select ` + tickCols + tickBatch + ` from schedules s join ticks t on t.schedule_id = s.id ` + joinTickBatch + `
where s.project_id = $1 and s.id = $2 and t.run_key = $3`
)

// CreateSchedule makes one; ErrConflict when the project has MaxSchedules. Two requests at once may go one over.
func (db *DB) CreateSchedule(ctx context.Context, s Schedule) (Schedule, error) {
	made, err := one[Schedule](ctx, db.pool, createSchedule, s.ID, s.ProjectID, s.APIKeyID, s.Name, s.Cron, s.TimeZone, s.StartsAt, s.EndsAt, s.JitterSeconds,
		s.Enabled, s.Overlap, s.CatchUp, s.CatchUpLimit, s.Batch, s.Jobs, s.JobCount, s.InputsOf, s.NextDueAt, s.NextStartAt, s.CreatedAt, MaxSchedules, s.Export)
	if errors.Is(err, ErrNotFound) {
		return made, ErrConflict
	}
	return made, errors.Join(err, db.hintIf(ctx, err == nil))
}

// UpdateSchedule writes a schedule anew, if it still is as before and all that was due by then has its ticks; else it is ErrConflict, as when
// there is none any more.
func (db *DB) UpdateSchedule(ctx context.Context, before, s Schedule) (Schedule, error) {
	made, err := one[Schedule](ctx, db.pool, updateSchedule, before.ProjectID, before.ID, before.Revision, s.APIKeyID, s.Name, s.Cron, s.TimeZone, s.StartsAt,
		s.EndsAt, s.JitterSeconds, s.Enabled, s.Overlap, s.CatchUp, s.CatchUpLimit, s.Batch, s.Jobs, s.JobCount, s.InputsOf, s.NextDueAt, s.NextStartAt,
		before.NextDueAt, s.Export)
	if errors.Is(err, ErrNotFound) {
		return made, ErrConflict
	}
	return made, errors.Join(err, db.hintIf(ctx, err == nil))
}

// DeleteSchedule removes a schedule and its ticks, or returns ErrNotFound. Its batches stay.
func (db *DB) DeleteSchedule(ctx context.Context, project, id uuid.UUID) error {
	_, err := scalar[uuid.UUID](ctx, db.pool, deleteSchedule, project, id)
	return err
}

// RunSchedule makes a schedule due now, whether it is enabled or not. Of requests with the same key, empty for none, the first one makes the
// tick and the others get it as it is: replayed. Errors: ErrNotFound, and ErrConflict when MaxWaiting ticks wait already.
func (db *DB) RunSchedule(ctx context.Context, project, id uuid.UUID, key string) (t Tick, replayed bool, err error) {
	t, err = one[Tick](ctx, db.pool, runSchedule, project, id, key, MaxWaiting)
	if !errors.Is(err, ErrNotFound) {
		return t, false, errors.Join(err, db.hintIf(ctx, err == nil))
	}
	if t, err = one[Tick](ctx, db.pool, tickOfRun, project, id, key); !errors.Is(err, ErrNotFound) {
		return t, err == nil, err
	}
	if _, err = db.Schedule(ctx, project, id); err == nil {
		err = ErrConflict
	}
	return t, false, err
}

// hintIf tells workers to look at the schedules.
func (db *DB) hintIf(ctx context.Context, changed bool) error {
	if !changed {
		return nil
	}
	return db.Hint(ctx, HintSchedule)
}
