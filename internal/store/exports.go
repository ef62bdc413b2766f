package store

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/google/uuid"
)

// Export is a file of a batch's results, or of a report, that was asked for.
type Export struct {
	ID         uuid.UUID
	ProjectID  uuid.UUID
	BatchID    *uuid.UUID      // nil for a report
	Report     json.RawMessage // and what is asked of it; nil for a batch
	Origin     string          // request, schedule or purge
	Format     string
	Target     string
	Status     string // empty for all
	FirstIndex int32
	LastIndex  int32
	BOM        bool `db:"bom"`
	State      string
	URL        *string `db:"url"`
	DueAt      *time.Time
	Attempts   int32
	Rows       int64
	Bytes      int64
	SHA256     []byte `db:"sha256"`
	Error      *string
	CreatedAt  time.Time
	StartedAt  *time.Time
	EndedAt    *time.Time
}

// The origins of an export.
const (
	ExportRequest  = "request"
	ExportSchedule = "schedule"
	ExportPurge    = "purge"
)

// The states of an export. One before a purge is failed for a while and then tried again, for as long as its project wants it.
const (
	ExportPending   = "pending"
	ExportRunning   = "running"
	ExportSucceeded = "succeeded"
	ExportFailed    = "failed"
	ExportCancelled = "cancelled"
)

const (
	exportCols = `e.id, e.project_id, e.batch_id, e.report, e.origin, e.format, e.target, e.status, e.first_index, e.last_index, e.bom, e.state, e.url, e.due_at, e.attempts,
    e.rows, e.bytes, e.sha256, e.error, e.created_at, e.started_at, e.ended_at`

	getExport = `-- name: GetExport
select ` + exportCols + ` from exports e where e.project_id = $1 and e.id = $2`
	listExports = `-- name: ListExports
select ` + exportCols + ` from exports e
where e.project_id = $1 and ($2::uuid is null or e.batch_id = $2) and ($3 = '' or e.state = $3) and ($4::uuid is null or e.id < $4)
order by e.id desc limit $5`
	createExport = `-- name: CreateExport
insert into exports as e (id, project_id, batch_id, report, origin, format, target, status, first_index, last_index, bom)
select $1, $2, $3::uuid, $4::jsonb, 'request', $5, $6, $7, $8, $9, $10
where $4::jsonb is not null or exists (select from batches b where b.project_id = $2 and b.id = $3 and b.purged_at is null)
returning ` + exportCols
	cancelExport = `-- name: CancelExport
update exports e set state = 'cancelled', due_at = null, ended_at = now()
where e.project_id = $1 and e.id = $2 and e.state in ('pending', 'running') and e.origin <> 'purge' returning ` + exportCols
	// What is due is of reports, and of final batches but for the few that wait for the end of theirs. One that is running and due is a dead worker's.
	claimExport = `-- name: ClaimExport
with c as (select e.id, b.finished_at from exports e left join batches b on b.id = e.batch_id
    where e.due_at <= now() and (e.batch_id is null or b.finished_at is not null) order by e.due_at limit 1 for update of e skip locked)
update exports e set state = 'running', attempts = e.attempts + 1, due_at = now() + $1::interval, started_at = now(), ended_at = null,
    batch_finished_at = c.finished_at, rows = 0, bytes = 0
from c where e.id = c.id returning ` + exportCols
	exportSubject = `-- name: ExportSubject
select p.name as project, coalesce(e.report->>'name', '') as report, coalesce(b.name, '') as batch, coalesce(b.created_at, e.created_at) as created_at, b.purged_at,
    b.id is not null and b.started_at is null and b.state = 'failed' as unborn, s.id as schedule_id, s.name as schedule
from exports e join projects p on p.id = e.project_id left join batches b on b.id = e.batch_id
left join ticks t on t.batch_id = e.batch_id left join schedules s on s.id = t.schedule_id
where e.id = $1`
	placeExport = `-- name: PlaceExport
update exports set url = $3 where id = $1 and state = 'running' and attempts = $2 returning true`
	renewExport = `-- name: RenewExport
update exports e set due_at = now() + $3::interval, rows = $4, bytes = $5
where e.id = $1 and e.state = 'running' and e.attempts = $2
returning e.batch_id is null or exists (select from batches b where b.id = e.batch_id and b.purged_at is null and b.finished_at is not distinct from e.batch_finished_at)`
	endExport = `-- name: EndExport
update exports set state = 'succeeded', due_at = null, ended_at = now(), rows = $3, bytes = $4, sha256 = $5, error = null
where id = $1 and state = 'running' and attempts = $2 returning true`
	leaveExport = `-- name: LeaveExport
update exports set state = $3, error = coalesce($4, error), due_at = now() + $5::interval, ended_at = case when $3 = 'failed' then now() end
where id = $1 and state = 'running' and attempts = $2 returning true`
	trimExports = `-- name: TrimExports
delete from exports where ctid = any(array(select ctid from exports
    where ended_at < now() - interval '400 days' and due_at is null order by ended_at limit 10000))`

	// A batch whose upload failed has nothing to export. The newest end of the batch is what counts: one that was reopened is exported anew.
	duePurgeExports = `-- name: DuePurgeExports
select b.id from projects p cross join lateral (select id from batches b
    where b.project_id = p.id and b.purged_at is null and b.finished_at is not null and b.finished_at < now() - p.retention_days * interval '1 day'
        and not (b.state = 'failed' and b.started_at is null)
        and not exists (select 1 from exports e where e.batch_id = b.id and e.origin = 'purge' and (e.due_at is not null or e.batch_finished_at = b.finished_at))
    order by b.finished_at limit $1) b
where p.retention_days is not null and p.purge_export is not null limit $1`
	makePurgeExports = `-- name: MakePurgeExports
insert into exports (id, project_id, batch_id, origin, format, target, bom)
select u.id, p.id, b.id, 'purge', p.purge_export->>'format', p.purge_export->>'target', coalesce((p.purge_export->>'bom')::boolean, false)
from unnest($1::uuid[], $2::uuid[]) u(id, batch_id) join batches b on b.id = u.batch_id join projects p on p.id = b.project_id
where p.purge_export is not null and b.finished_at is not null and b.purged_at is null
on conflict (batch_id, origin) where origin <> 'request' do update set state = 'pending', due_at = now(), ended_at = null, error = null, url = null,
    format = excluded.format, target = excluded.target, bom = excluded.bom
where exports.due_at is null`
)

// Export returns a project's export or ErrNotFound.
func (r Reader) Export(ctx context.Context, project, id uuid.UUID) (Export, error) {
	return one[Export](ctx, r.q, getExport, project, id)
}

// Exports pages through a project's exports, newest first, below before when it is given; of one batch if it is given. An empty state matches all.
func (r Reader) Exports(ctx context.Context, project uuid.UUID, batch *uuid.UUID, state string, before *uuid.UUID, limit int) ([]Export, error) {
	return many[Export](ctx, r.q, listExports, project, batch, state, before, limit)
}

// CreateExport asks for a file of a batch or a report: of e, what the caller says counts. ErrNotFound when the project has no such batch, or it was purged.
func (db *DB) CreateExport(ctx context.Context, e Export) (Export, error) {
	return one[Export](ctx, db.pool, createExport, e.ID, e.ProjectID, e.BatchID, e.Report, e.Format, e.Target, e.Status, e.FirstIndex, e.LastIndex, e.BOM)
}

// CancelExport ends an export that isn't final, but none before a purge; else it is ErrNotFound. A worker that is at it finds out before it completes the file.
func (db *DB) CancelExport(ctx context.Context, project, id uuid.UUID) (Export, error) {
	return one[Export](ctx, db.pool, cancelExport, project, id)
}

// ClaimExport takes the export of a report or a final batch that has waited for longest, or returns ErrNotFound. Whoever holds it renews it within lease, or loses it.
func (db *DB) ClaimExport(ctx context.Context, lease time.Duration) (Export, error) {
	return one[Export](ctx, db.pool, claimExport, interval(lease))
}

// ExportSubject is what an export is about, for the name of its file.
type ExportSubject struct {
	Project    string
	Report     string    // its name; empty for a batch
	Batch      string    // its name
	CreatedAt  time.Time // of the batch, or of the export of a report
	PurgedAt   *time.Time
	Unborn     bool       // the batch's upload failed: there is nothing
	ScheduleID *uuid.UUID // that made the batch
	Schedule   *string
}

// ExportSubject returns it, or ErrNotFound.
func (r Reader) ExportSubject(ctx context.Context, id uuid.UUID) (ExportSubject, error) {
	return one[ExportSubject](ctx, r.q, exportSubject, id)
}

// PlaceExport notes where a claimed export's file goes, or returns ErrLeaseLost.
func (db *DB) PlaceExport(ctx context.Context, e Export, url string) error {
	return db.leave(ctx, placeExport, e.ID, e.Attempts, url)
}

// RenewExport keeps a claimed export and notes how far it is. Same says that a batch's results are those that were there at the claim: it was
// neither purged nor reopened. A report's are those of the moment at which it was asked. ErrLeaseLost when it was taken over, cancelled or removed.
func (db *DB) RenewExport(ctx context.Context, e Export, lease time.Duration, rows, bytes int64) (same bool, err error) {
	same, err = scalar[bool](ctx, db.pool, renewExport, e.ID, e.Attempts, interval(lease), rows, bytes)
	if errors.Is(err, ErrNotFound) {
		return false, ErrLeaseLost
	}
	return same, err
}

// EndExport makes a claimed export succeeded, or returns ErrLeaseLost.
func (db *DB) EndExport(ctx context.Context, e Export, rows, bytes int64, sha256 []byte) error {
	return db.leave(ctx, endExport, e.ID, e.Attempts, rows, bytes, sha256)
}

// LeaveExport gives a claimed export back as pending or failed, with a reason unless it is empty, to be taken again after a while, if at all. Or it
// returns ErrLeaseLost.
func (db *DB) LeaveExport(ctx context.Context, e Export, state, reason string, again *time.Duration) error {
	var why, after *string
	if reason != "" {
		why = &reason
	}
	if again != nil {
		text := interval(*again)
		after = &text
	}
	return db.leave(ctx, leaveExport, e.ID, e.Attempts, state, why, after)
}

// TrimExports removes some exports that ended more than 400 days ago; their files stay.
func (db *DB) TrimExports(ctx context.Context) (int64, error) {
	tag, err := db.pool.Exec(ctx, trimExports)
	return tag.RowsAffected(), translate(err)
}

// PlanPurgeExports asks for the files of batches that are to be purged and are to be exported before, at most so many.
func (db *DB) PlanPurgeExports(ctx context.Context, most int) (int64, error) {
	batches, err := column[uuid.UUID](ctx, db.pool, duePurgeExports, most)
	if err != nil || len(batches) == 0 {
		return 0, err
	}
	ids := make([]uuid.UUID, len(batches))
	for i := range ids {
		if ids[i], err = uuid.NewV7(); err != nil {
			return 0, err
		}
	}
	tag, err := db.pool.Exec(ctx, makePurgeExports, ids, batches)
	return tag.RowsAffected(), translate(err)
}
