package server

import (
	"encoding/json"
	"time"

	"github.com/google/uuid"

	"batchwright/internal/gateway"
	"batchwright/internal/store"
)

// routeResult is how a dynamic route is shown, with the version that is live.
type routeResult struct {
	ID         string           `json:"id"`
	AccountTag string           `json:"account_tag"`
	GatewayID  string           `json:"gateway_id"`
	Name       string           `json:"name"`
	Elements   json.RawMessage  `json:"elements"`
	Version    versionResult    `json:"version"`
	Deployment deploymentResult `json:"deployment"`
	CreatedAt  time.Time        `json:"created_at"`
	ModifiedAt time.Time        `json:"modified_at"`
}

// versionResult has a boolean as a string and JSON as a string, because Cloudflare's has.
type versionResult struct {
	VersionID string    `json:"version_id"`
	Active    string    `json:"active"`
	Data      string    `json:"data"`
	IsValid   bool      `json:"is_valid"` // always: others aren't saved
	Comment   string    `json:"comment"`
	CreatedAt time.Time `json:"created_at"`
}

type deploymentResult struct {
	DeploymentID string    `json:"deployment_id"`
	VersionID    string    `json:"version_id"`
	Comment      string    `json:"comment"`
	CreatedAt    time.Time `json:"created_at"`
}

func showRoute(r store.GatewayRoute) routeResult {
	return routeResult{r.ID.String(), r.Account, r.Gateway, r.Name, r.Elements,
		versionResult{r.VersionID.String(), "true", string(r.Elements), true, r.VersionComment, r.VersionAt.UTC()},
		deploymentResult{r.DeploymentID.String(), r.VersionID.String(), r.DeploymentComment, r.DeployedAt.UTC()},
		r.CreatedAt.UTC(), r.ModifiedAt.UTC()}
}

func showVersion(v store.GatewayRouteVersion) versionResult {
	active := "false"
	if v.Active {
		active = "true"
	}
	return versionResult{v.ID.String(), active, string(v.Elements), true, v.Comment, v.CreatedAt.UTC()}
}

func showDeployment(d store.GatewayRouteDeployment) deploymentResult {
	return deploymentResult{d.ID.String(), d.VersionID.String(), d.Comment, d.CreatedAt.UTC()}
}

func answerRoute(r store.GatewayRoute, err error) (*answer, error) {
	if err != nil {
		return nil, err
	}
	return &answer{Result: showRoute(r)}, nil
}

// answerList returns a list whole, once as the envelope has lists and once where Cloudflare's clients look for it: under its name in data.
func answerList[T any](name, orderBy, direction string, list []T) *answer {
	perPage := max(len(list), 1)
	return &answer{Result: list, Info: infoOf(1, perPage, len(list), len(list)), Data: map[string]any{
		name: list, "order_by": orderBy, "order_by_direction": direction, "page": 1, "per_page": perPage}}
}

func (m *management) listRoutes(c *call) (*answer, error) {
	if _, err := m.find(c); err != nil {
		return nil, err
	}
	list, err := m.db.DeployedRoutes(c.Context(), c.account, c.gateway)
	if err != nil {
		return nil, err
	}
	results := make([]routeResult, len(list))
	for i, r := range list {
		results[i] = showRoute(r)
	}
	return answerList("routes", "name", "asc", results), nil
}

// createRoute makes a route whose first version is live at once.
func (m *management) createRoute(c *call) (*answer, error) {
	var in struct {
		Name     string          `json:"name"`
		Elements json.RawMessage `json:"elements"`
	}
	found := decodeFields(c.body, &in)
	found = append(found, checkRouteName(in.Name)...)
	_, more := parseRoute(in.Elements)
	if found = append(found, more...); len(found) > 0 {
		return nil, invalidCall(found...)
	}
	r, err := m.db.CreateGatewayRoute(c.Context(), c.account, c.gateway, in.Name, in.Elements)
	if err == nil {
		m.changed(c.account, c.gateway)
	}
	return answerRoute(r, err)
}

func checkRouteName(name string) []Problem {
	if !gateway.Identifier(name) {
		return []Problem{{"name", "must be 1 to 64 of A-Z, a-z, 0-9, _ and -"}}
	}
	return nil
}

func (m *management) getRoute(c *call) (*answer, error) {
	id, err := c.id("id", "route")
	if err != nil {
		return nil, err
	}
	return answerRoute(m.db.GatewayRoute(c.Context(), c.account, c.gateway, id))
}

// updateRoute renames a route. Its elements change by a new version and its deployment.
func (m *management) updateRoute(c *call) (*answer, error) {
	id, err := c.id("id", "route")
	if err != nil {
		return nil, err
	}
	var in struct {
		Name string `json:"name"`
	}
	found := decodeFields(c.body, &in)
	if found = append(found, checkRouteName(in.Name)...); len(found) > 0 {
		return nil, invalidCall(found...)
	}
	r, err := m.db.RenameGatewayRoute(c.Context(), c.account, c.gateway, id, in.Name)
	if err != nil {
		return nil, err
	}
	m.changed(c.account, c.gateway)
	return &answer{Result: showRoute(r), Route: showRoute(r)}, nil
}

func (m *management) deleteRoute(c *call) (*answer, error) {
	id, err := c.id("id", "route")
	if err != nil {
		return nil, err
	}
	r, err := m.db.DeleteGatewayRoute(c.Context(), c.account, c.gateway, id)
	if err == nil {
		m.changed(c.account, c.gateway)
	}
	return answerRoute(r, err)
}

// route returns the route of the path, so that lists of one that isn't there are not found, and not empty.
func (m *management) route(c *call) (uuid.UUID, store.GatewayRoute, error) {
	id, err := c.id("id", "route")
	if err != nil {
		return id, store.GatewayRoute{}, err
	}
	r, err := m.db.GatewayRoute(c.Context(), c.account, c.gateway, id)
	return id, r, err
}

func (m *management) listRouteVersions(c *call) (*answer, error) {
	id, _, err := m.route(c)
	if err != nil {
		return nil, err
	}
	list, err := m.db.GatewayRouteVersions(c.Context(), c.account, c.gateway, id)
	if err != nil {
		return nil, err
	}
	results := make([]versionResult, len(list))
	for i, v := range list {
		results[i] = showVersion(v)
	}
	return answerList("versions", "created_at", "desc", results), nil
}

const maxComment = 1000

func checkComment(comment string) []Problem {
	if len(comment) > maxComment || !isPlain(comment) {
		return []Problem{{"comment", "must be text of at most 1000 bytes"}}
	}
	return nil
}

func (m *management) createRouteVersion(c *call) (*answer, error) {
	id, r, err := m.route(c)
	if err != nil {
		return nil, err
	}
	var in struct {
		Elements json.RawMessage `json:"elements"`
		Comment  string          `json:"comment"`
	}
	found := decodeFields(c.body, &in)
	found = append(found, checkComment(in.Comment)...)
	_, more := parseRoute(in.Elements)
	if found = append(found, more...); len(found) > 0 {
		return nil, invalidCall(found...)
	}
	v, err := m.db.SaveGatewayRouteVersion(c.Context(), c.account, c.gateway, id, in.Elements, in.Comment)
	if err != nil {
		return nil, err
	}
	return &answer{Result: versionDetailOf(r, v)}, nil
}

// versionDetail is a version by itself.
type versionDetail struct {
	ID         string `json:"id"`
	AccountTag string `json:"account_tag"`
	GatewayID  string `json:"gateway_id"`
	Name       string `json:"name"`
	versionResult
	Elements   json.RawMessage `json:"elements"`
	ModifiedAt time.Time       `json:"modified_at"`
}

func versionDetailOf(r store.GatewayRoute, v store.GatewayRouteVersion) versionDetail {
	return versionDetail{r.ID.String(), r.Account, r.Gateway, r.Name, showVersion(v), v.Elements, r.ModifiedAt.UTC()}
}

func (m *management) getRouteVersion(c *call) (*answer, error) {
	id, r, err := m.route(c)
	if err != nil {
		return nil, err
	}
	version, err := c.id("version", "version")
	if err != nil {
		return nil, err
	}
	v, err := m.db.GatewayRouteVersion(c.Context(), c.account, c.gateway, id, version)
	if err != nil {
		return nil, err
	}
	return &answer{Result: versionDetailOf(r, v)}, nil
}

func (m *management) listRouteDeployments(c *call) (*answer, error) {
	id, _, err := m.route(c)
	if err != nil {
		return nil, err
	}
	list, err := m.db.GatewayRouteDeployments(c.Context(), c.account, c.gateway, id)
	if err != nil {
		return nil, err
	}
	results := make([]deploymentResult, len(list))
	for i, d := range list {
		results[i] = showDeployment(d)
	}
	return answerList("deployments", "created_at", "desc", results), nil
}

// createRouteDeployment makes a saved version the live one.
func (m *management) createRouteDeployment(c *call) (*answer, error) {
	id, _, err := m.route(c)
	if err != nil {
		return nil, err
	}
	var in struct {
		VersionID string `json:"version_id"`
		Comment   string `json:"comment"`
	}
	found := decodeFields(c.body, &in)
	version, err := uuid.Parse(in.VersionID)
	if err != nil {
		found = append(found, Problem{"version_id", "must be the id of a version of this route"})
	}
	if found = append(found, checkComment(in.Comment)...); len(found) > 0 {
		return nil, invalidCall(found...)
	}
	d, err := m.db.DeployGatewayRoute(c.Context(), c.account, c.gateway, id, version, in.Comment)
	if err != nil {
		return nil, err
	}
	m.changed(c.account, c.gateway)
	return &answer{Result: showDeployment(d)}, nil
}
