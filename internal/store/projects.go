package store

import (
	"context"
	"encoding/json"
	"errors"

	"github.com/google/uuid"
)

// Project is an owner, as an API key names it.
type Project struct {
	ID    uuid.UUID
	Name  string
	KeyID uuid.UUID
}

const projectByKey = `-- name: ProjectByKey
select p.id, p.name, k.id as key_id from api_keys k join projects p on p.id = k.project_id
where k.key_sha256 = $1 and k.revoked_at is null`

// ProjectByKey finds whom a key belongs to, by the key's SHA-256, or returns ErrNotFound.
func (r Reader) ProjectByKey(ctx context.Context, keySHA256 [32]byte) (Project, error) {
	return one[Project](ctx, r.q, projectByKey, keySHA256[:])
}

const ensureProject = `-- name: EnsureProject
with new as (insert into projects (id, name) values ($1, $2) on conflict (name) do nothing returning id)
select id from new union all select id from projects where name = $2 limit 1`

const createKey = `-- name: CreateKey
insert into api_keys (id, project_id, name, prefix, key_sha256) values ($1, $2, $3, $4, $5)`

// CreateKey stores the hash of a new key for the named project, which it makes when it is missing.
func (db *DB) CreateKey(ctx context.Context, project, keyName, prefix string, keySHA256 [32]byte) (Project, error) {
	pid, err := uuid.NewV7()
	if err != nil {
		return Project{}, err
	}
	id, err := scalar[uuid.UUID](ctx, db.pool, ensureProject, pid, project)
	if errors.Is(err, ErrNotFound) { // lost a race to another maker, whose row this statement's snapshot didn't see
		id, err = scalar[uuid.UUID](ctx, db.pool, ensureProject, pid, project)
	}
	if err != nil {
		return Project{}, err
	}
	kid, err := uuid.NewV7()
	if err != nil {
		return Project{}, err
	}
	_, err = db.pool.Exec(ctx, createKey, kid, id, keyName, prefix, keySHA256[:])
	return Project{ID: id, Name: project, KeyID: kid}, translate(err)
}

// ProjectSettings are what an operator may change about a project. Nil leaves a setting as it is.
type ProjectSettings struct {
	RetentionDays *int32 // after its end a batch is purged; 0 for never
	Weight        *int32 // share of the workers, from 1 to 1000

	PurgeExport *json.RawMessage // where batches are exported to before they are purged; an empty one for nowhere
}

// What was to be exported before a purge, by the setting that there was, is planned anew.
const setProject = `-- name: SetProject
with p as (update projects set retention_days = case when $2::int is null then retention_days else nullif($2, 0) end, weight = coalesce($3, weight),
    purge_export = case when $4 then $5::json else purge_export end
    where name = $1 returning id),
e as (delete from exports where $4 and project_id = (select id from p) and origin = 'purge' and state <> 'succeeded')
select id from p`

// SetProject changes the settings of the named project, or returns ErrNotFound.
func (db *DB) SetProject(ctx context.Context, name string, s ProjectSettings) error {
	var export json.RawMessage // null for none
	if s.PurgeExport != nil && len(*s.PurgeExport) > 0 {
		export = *s.PurgeExport
	}
	_, err := scalar[uuid.UUID](ctx, db.pool, setProject, name, s.RetentionDays, s.Weight, s.PurgeExport != nil, export)
	return err
}
