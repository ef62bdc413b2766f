package store

import (
	"context"
	"encoding/json"
	"time"

	"github.com/google/uuid"
)

// GatewayRoute is a dynamic route with the version of it that is live.
type GatewayRoute struct {
	ID                    uuid.UUID
	Account, Gateway      string
	Name                  string
	VersionID             uuid.UUID
	VersionAt             time.Time
	VersionComment        string
	Elements              json.RawMessage
	DeploymentID          uuid.UUID
	DeployedAt            time.Time
	DeploymentComment     string
	CreatedAt, ModifiedAt time.Time
}

// GatewayRouteVersion is one saved graph of a route. Active: it is the live one.
type GatewayRouteVersion struct {
	ID        uuid.UUID
	RouteID   uuid.UUID
	Elements  json.RawMessage
	Comment   string
	Active    bool
	CreatedAt time.Time
}

// GatewayRouteDeployment says when a version went live.
type GatewayRouteDeployment struct {
	ID        uuid.UUID
	RouteID   uuid.UUID
	VersionID uuid.UUID
	Comment   string
	CreatedAt time.Time
}

const (
	routeCols = `r.id, r.account, r.gateway, r.name, r.created_at, r.modified_at, v.id as version_id, v.created_at as version_at,
    v.comment as version_comment, v.elements, d.id as deployment_id, d.created_at as deployed_at, d.comment as deployment_comment`
	routeVersionCols = `v.id, v.route_id, v.elements, v.comment, v.id = d.version_id as active, v.created_at`
	routeFrom        = ` from gateway_routes r join gateway_route_deployments d on d.id = r.deployment_id `
	liveVersion      = `join gateway_route_versions v on v.id = d.version_id `
	everyVersion     = `join gateway_route_versions v on v.route_id = r.id `
)

const (
	createGatewayRoute = `-- name: CreateGatewayRoute
with ` + bumpGateway + `,
r as (insert into gateway_routes (id, account, gateway, name, deployment_id) select $3, g.account, g.id, $4, $7 from g
    returning id, account, gateway, name, created_at, modified_at),
v as (insert into gateway_route_versions (id, route_id, elements, comment) select $5, r.id, $6, '' from r
    returning id, elements, comment, created_at),
d as (insert into gateway_route_deployments (id, route_id, version_id, comment) select $7, r.id, $5, '' from r returning id, comment, created_at)
select ` + routeCols + ` from r cross join v cross join d`
	gatewayRouteByID = `-- name: GatewayRouteByID
select ` + routeCols + routeFrom + liveVersion + `where r.account = $1 and r.gateway = $2 and r.id = $3`
	deployedRoutes = `-- name: DeployedRoutes
select ` + routeCols + routeFrom + liveVersion + `where r.account = $1 and r.gateway = $2 order by r.name`
	renameGatewayRoute = `-- name: RenameGatewayRoute
with ` + bumpGateway + `
update gateway_routes r set name = $4, modified_at = now() from g, gateway_route_deployments d ` + liveVersion + `
where r.account = g.account and r.gateway = g.id and r.id = $3 and d.id = r.deployment_id returning ` + routeCols
	deleteGatewayRoute = `-- name: DeleteGatewayRoute
with ` + bumpGateway + `
delete from gateway_routes r using g, gateway_route_deployments d ` + liveVersion + `
where r.account = g.account and r.gateway = g.id and r.id = $3 and d.id = r.deployment_id returning ` + routeCols
	saveGatewayRouteVersion = `-- name: SaveGatewayRouteVersion
insert into gateway_route_versions (id, route_id, elements, comment)
select $4, r.id, $5, $6 from gateway_routes r where r.account = $1 and r.gateway = $2 and r.id = $3
returning id, route_id, elements, comment, false as active, created_at`
	listGatewayRouteVersions = `-- name: ListGatewayRouteVersions
select ` + routeVersionCols + routeFrom + everyVersion + `where r.account = $1 and r.gateway = $2 and r.id = $3 order by v.id desc`
	gatewayRouteVersionByID = `-- name: GatewayRouteVersionByID
select ` + routeVersionCols + routeFrom + everyVersion + `where r.account = $1 and r.gateway = $2 and r.id = $3 and v.id = $4`
	deployGatewayRoute = `-- name: DeployGatewayRoute
with ` + bumpGateway + `,
r as (update gateway_routes r set deployment_id = $5, modified_at = now() from g, gateway_route_versions v
    where r.account = g.account and r.gateway = g.id and r.id = $3 and v.route_id = r.id and v.id = $4 returning r.id, v.id as version_id)
insert into gateway_route_deployments (id, route_id, version_id, comment) select $5, r.id, r.version_id, $6 from r
returning id, route_id, version_id, comment, created_at`
	listGatewayRouteDeployments = `-- name: ListGatewayRouteDeployments
select d.id, d.route_id, d.version_id, d.comment, d.created_at from gateway_routes r join gateway_route_deployments d on d.route_id = r.id
where r.account = $1 and r.gateway = $2 and r.id = $3 order by d.id desc`
)

// CreateGatewayRoute makes a route with its first version, which is live at once. It returns ErrConflict when the gateway has a route of
// that name, and ErrNotFound when there is no such gateway.
func (db *DB) CreateGatewayRoute(ctx context.Context, account, gateway, name string, elements json.RawMessage) (GatewayRoute, error) {
	var ids [3]uuid.UUID
	for i := range ids {
		id, err := uuid.NewV7()
		if err != nil {
			return GatewayRoute{}, err
		}
		ids[i] = id
	}
	return one[GatewayRoute](ctx, db.pool, createGatewayRoute, account, gateway, ids[0], name, ids[1], elements, ids[2])
}

// GatewayRoute returns ErrNotFound when there is none.
func (r Reader) GatewayRoute(ctx context.Context, account, gateway string, id uuid.UUID) (GatewayRoute, error) {
	return one[GatewayRoute](ctx, r.q, gatewayRouteByID, account, gateway, id)
}

// DeployedRoutes lists a gateway's routes by name, each with its live version.
func (r Reader) DeployedRoutes(ctx context.Context, account, gateway string) ([]GatewayRoute, error) {
	return many[GatewayRoute](ctx, r.q, deployedRoutes, account, gateway)
}

// RenameGatewayRoute returns ErrNotFound, or ErrConflict when another route has the name.
func (db *DB) RenameGatewayRoute(ctx context.Context, account, gateway string, id uuid.UUID, name string) (GatewayRoute, error) {
	return one[GatewayRoute](ctx, db.pool, renameGatewayRoute, account, gateway, id, name)
}

// DeleteGatewayRoute deletes a route with all its versions, or returns ErrNotFound.
func (db *DB) DeleteGatewayRoute(ctx context.Context, account, gateway string, id uuid.UUID) (GatewayRoute, error) {
	return one[GatewayRoute](ctx, db.pool, deleteGatewayRoute, account, gateway, id)
}

// SaveGatewayRouteVersion adds a version, which is not live yet, or returns ErrNotFound.
func (db *DB) SaveGatewayRouteVersion(ctx context.Context, account, gateway string, route uuid.UUID, elements json.RawMessage,
	comment string) (GatewayRouteVersion, error) {
	id, err := uuid.NewV7()
	if err != nil {
		return GatewayRouteVersion{}, err
	}
	return one[GatewayRouteVersion](ctx, db.pool, saveGatewayRouteVersion, account, gateway, route, id, elements, comment)
}

// GatewayRouteVersions lists a route's versions, newest first; none for a route that isn't there.
func (r Reader) GatewayRouteVersions(ctx context.Context, account, gateway string, route uuid.UUID) ([]GatewayRouteVersion, error) {
	return many[GatewayRouteVersion](ctx, r.q, listGatewayRouteVersions, account, gateway, route)
}

// GatewayRouteVersion returns one version of a route, or ErrNotFound.
func (r Reader) GatewayRouteVersion(ctx context.Context, account, gateway string, route, version uuid.UUID) (GatewayRouteVersion, error) {
	return one[GatewayRouteVersion](ctx, r.q, gatewayRouteVersionByID, account, gateway, route, version)
}

// DeployGatewayRoute makes a version the live one. It returns ErrNotFound when the route has no such version.
func (db *DB) DeployGatewayRoute(ctx context.Context, account, gateway string, route, version uuid.UUID,
	comment string) (GatewayRouteDeployment, error) {
	id, err := uuid.NewV7()
	if err != nil {
		return GatewayRouteDeployment{}, err
	}
	return one[GatewayRouteDeployment](ctx, db.pool, deployGatewayRoute, account, gateway, route, version, id, comment)
}

// GatewayRouteDeployments lists what was live and since when, newest first.
func (r Reader) GatewayRouteDeployments(ctx context.Context, account, gateway string, route uuid.UUID) ([]GatewayRouteDeployment, error) {
	return many[GatewayRouteDeployment](ctx, r.q, listGatewayRouteDeployments, account, gateway, route)
}
