package store

import (
	"context"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

const (
	dueSources = `-- name: DueSources
select id, project_id, source_tries, total_jobs::int from batches
where source_due_at <= now() and state = 'ingesting' and open_upload and upload_id is null order by source_due_at limit $1`
	delaySource = `-- name: DelaySource
update batches set source_tries = source_tries + 1, source_due_at = now() + $2::interval
where id = $1 and state = 'ingesting' and upload_id is null`
	projectName = `-- name: ProjectName
select name from projects where id = $1`
)

// DueSource is an open batch whose jobs are to be gathered from its source, or with jobs, which come all at once, to be sealed.
type DueSource struct {
	ID          uuid.UUID
	ProjectID   uuid.UUID
	SourceTries int32 // that failed
	TotalJobs   int32
}

// DueSources returns the batches of all projects that wait for a worker to gather their jobs, those first that have waited for longest. Not those
// whose jobs somebody gathers right now: [DB.AppendJobs] is the claim.
func (db *DB) DueSources(ctx context.Context, most int) ([]DueSource, error) {
	return many[DueSource](ctx, db.pool, dueSources, most)
}

// DelaySource has a batch's source tried again, after a failure that may pass. It does nothing to a batch that has ended or is being gathered.
func (db *DB) DelaySource(ctx context.Context, batch uuid.UUID, by time.Duration) error {
	_, err := db.pool.Exec(ctx, delaySource, batch, interval(by))
	return translate(err)
}

// FailSource fails a batch whose source can't be gathered, in words for people. It does nothing to one that has ended or is being gathered.
func (db *DB) FailSource(ctx context.Context, batch uuid.UUID, why string) error {
	_, err := db.fail(ctx, batch, nil, why, true)
	return translate(err)
}

// ProjectName returns a project's name, or ErrNotFound.
func (r Reader) ProjectName(ctx context.Context, id uuid.UUID) (string, error) {
	return scalar[string](ctx, r.q, projectName, id)
}

// awaitSource tells the workers that a batch waits for them, if it has a source.
func awaitSource(ctx context.Context, tx pgx.Tx, nb NewBatch) error {
	if nb.Source == nil {
		return nil
	}
	return hint(ctx, tx, HintSource)
}
