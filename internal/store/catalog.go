package store

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"time"

	"github.com/google/uuid"
)

// Template is one immutable version of a template; Route one of a route. Spec is in canonical form.
type (
	Template Version
	Route    Version
)

// Version is one immutable version of a named definition.
type Version struct {
	ID        uuid.UUID
	ProjectID uuid.UUID
	Name      string
	Version   int32
	Spec      json.RawMessage
	CreatedAt time.Time
}

const versionCols = `id, project_id, name, version, spec, created_at`

const (
	saveTemplate = `-- name: SaveTemplate
insert into templates (id, project_id, name, version, spec, spec_sha256)
select $1, $2, $3, coalesce(max(version), 0) + 1, $4, $5 from templates where project_id = $2 and name = $3
on conflict do nothing returning ` + versionCols
	templateBySpec = `-- name: TemplateBySpec
select ` + versionCols + ` from templates where project_id = $1 and name = $2 and spec_sha256 = $3`
	templateByName = `-- name: TemplateByName
select ` + versionCols + ` from templates where project_id = $1 and name = $2 and ($3::int = 0 or version = $3)
order by version desc limit 1`
	templateByID = `-- name: TemplateByID
select ` + versionCols + ` from templates where id = $1`
	listTemplates = `-- name: ListTemplates
select distinct on (name) ` + versionCols + ` from templates where project_id = $1 and name > $2
order by name, version desc limit $3`
	listTemplateVersions = `-- name: ListTemplateVersions
select ` + versionCols + ` from templates where project_id = $1 and name = $2 order by version desc`

	saveRoute = `-- name: SaveRoute
insert into routes (id, project_id, name, version, spec, spec_sha256)
select $1, $2, $3, coalesce(max(version), 0) + 1, $4, $5 from routes where project_id = $2 and name = $3
on conflict do nothing returning ` + versionCols
	routeBySpec = `-- name: RouteBySpec
select ` + versionCols + ` from routes where project_id = $1 and name = $2 and spec_sha256 = $3`
	routeByName = `-- name: RouteByName
select ` + versionCols + ` from routes where project_id = $1 and name = $2 and ($3::int = 0 or version = $3)
order by version desc limit 1`
	listRoutes = `-- name: ListRoutes
select distinct on (name) ` + versionCols + ` from routes where project_id = $1 and name > $2
order by name, version desc limit $3`
	listRouteVersions = `-- name: ListRouteVersions
select ` + versionCols + ` from routes where project_id = $1 and name = $2 order by version desc`
)

// SaveTemplate stores spec as the next version of name. A spec that some version has already is returned as it is,
// with created false.
func (db *DB) SaveTemplate(ctx context.Context, project uuid.UUID, name string, spec json.RawMessage) (Template, bool, error) {
	v, created, err := db.saveVersion(ctx, saveTemplate, templateBySpec, project, name, spec)
	return Template(v), created, err
}

// SaveRoute does for routes what SaveTemplate does for templates.
func (db *DB) SaveRoute(ctx context.Context, project uuid.UUID, name string, spec json.RawMessage) (Route, bool, error) {
	v, created, err := db.saveVersion(ctx, saveRoute, routeBySpec, project, name, spec)
	return Route(v), created, err
}

func (db *DB) saveVersion(ctx context.Context, save, bySpec string, project uuid.UUID, name string, spec json.RawMessage) (Version, bool, error) {
	sum := sha256.Sum256(spec)
	for { // two savers may draw the same number; the one that lost draws again
		v, err := one[Version](ctx, db.pool, bySpec, project, name, sum[:])
		if !errors.Is(err, ErrNotFound) {
			return v, false, err
		}
		id, err := uuid.NewV7()
		if err != nil {
			return Version{}, false, err
		}
		v, err = one[Version](ctx, db.pool, save, id, project, name, spec, sum[:])
		if !errors.Is(err, ErrNotFound) {
			return v, err == nil, err
		}
	}
}

// TemplateByName returns a version of a template, the latest for version 0, or ErrNotFound.
func (r Reader) TemplateByName(ctx context.Context, project uuid.UUID, name string, version int32) (Template, error) {
	v, err := one[Version](ctx, r.q, templateByName, project, name, version)
	return Template(v), err
}

// TemplateByID returns one version of a template, or ErrNotFound.
func (r Reader) TemplateByID(ctx context.Context, id uuid.UUID) (Template, error) {
	v, err := one[Version](ctx, r.q, templateByID, id)
	return Template(v), err
}

// Templates pages through the latest versions by name.
func (r Reader) Templates(ctx context.Context, project uuid.UUID, after string, limit int) ([]Template, error) {
	return many[Template](ctx, r.q, listTemplates, project, after, limit)
}

// TemplateVersions lists every version of a name, newest first.
func (r Reader) TemplateVersions(ctx context.Context, project uuid.UUID, name string) ([]Template, error) {
	return many[Template](ctx, r.q, listTemplateVersions, project, name)
}

// RouteByName returns a version of a route, the latest for version 0, or ErrNotFound.
func (r Reader) RouteByName(ctx context.Context, project uuid.UUID, name string, version int32) (Route, error) {
	v, err := one[Version](ctx, r.q, routeByName, project, name, version)
	return Route(v), err
}

// Routes pages through the latest versions by name.
func (r Reader) Routes(ctx context.Context, project uuid.UUID, after string, limit int) ([]Route, error) {
	return many[Route](ctx, r.q, listRoutes, project, after, limit)
}

// RouteVersions lists every version of a name, newest first.
func (r Reader) RouteVersions(ctx context.Context, project uuid.UUID, name string) ([]Route, error) {
	return many[Route](ctx, r.q, listRouteVersions, project, name)
}
