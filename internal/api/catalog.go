package api

import (
	"context"
	"fmt"

	"batchwright/internal/store"
)

// ListTemplates pages through the latest versions.
func (h *handlers) ListTemplates(ctx context.Context, req ListTemplatesRequestObject) (ListTemplatesResponseObject, error) {
	after, err := cursor(req.Params.Cursor)
	if err != nil {
		return nil, err
	}
	limit := deref(req.Params.Limit, 50)
	rows, err := h.Read.Templates(ctx, projectOf(ctx).ID, after, limit+1)
	if err != nil {
		return nil, fmt.Errorf("api: templates: %w", err)
	}
	rows, next := page(rows, limit, func(t store.Template) string { return t.Name })
	return ListTemplates200JSONResponse{Data: each(rows, toTemplate), NextCursor: next}, nil
}

// GetTemplate shows one version.
func (h *handlers) GetTemplate(ctx context.Context, req GetTemplateRequestObject) (GetTemplateResponseObject, error) {
	t, err := h.Read.TemplateByName(ctx, projectOf(ctx).ID, req.Name, deref(req.Params.Version, 0))
	if err != nil {
		return nil, fmt.Errorf("api: template: %w", err)
	}
	return GetTemplate200JSONResponse(toTemplate(t)), nil
}

// ListTemplateVersions shows all versions.
func (h *handlers) ListTemplateVersions(ctx context.Context, req ListTemplateVersionsRequestObject) (ListTemplateVersionsResponseObject, error) {
	rows, err := h.Read.TemplateVersions(ctx, projectOf(ctx).ID, req.Name)
	if err == nil && len(rows) == 0 {
		err = store.ErrNotFound
	}
	if err != nil {
		return nil, fmt.Errorf("api: template versions: %w", err)
	}
	return ListTemplateVersions200JSONResponse{Data: each(rows, toTemplate)}, nil
}

// SaveRoute makes a new version, or finds the one that has the spec.
func (h *handlers) SaveRoute(ctx context.Context, req SaveRouteRequestObject) (SaveRouteResponseObject, error) {
	r, created, err := h.Jobs.SaveRoute(ctx, projectOf(ctx).ID, req.Body.Name, req.Body.Spec)
	if err != nil {
		return nil, err
	}
	if !created {
		return SaveRoute200JSONResponse(toRoute(r)), nil
	}
	return SaveRoute201JSONResponse{Body: toRoute(r), Headers: SaveRoute201ResponseHeaders{Location: location("routes", r.Name, r.Version)}}, nil
}

// ListRoutes pages through the latest versions.
func (h *handlers) ListRoutes(ctx context.Context, req ListRoutesRequestObject) (ListRoutesResponseObject, error) {
	after, err := cursor(req.Params.Cursor)
	if err != nil {
		return nil, err
	}
	limit := deref(req.Params.Limit, 50)
	rows, err := h.Read.Routes(ctx, projectOf(ctx).ID, after, limit+1)
	if err != nil {
		return nil, fmt.Errorf("api: routes: %w", err)
	}
	rows, next := page(rows, limit, func(r store.Route) string { return r.Name })
	return ListRoutes200JSONResponse{Data: each(rows, toRoute), NextCursor: next}, nil
}

// GetRoute shows one version.
func (h *handlers) GetRoute(ctx context.Context, req GetRouteRequestObject) (GetRouteResponseObject, error) {
	r, err := h.Read.RouteByName(ctx, projectOf(ctx).ID, req.Name, deref(req.Params.Version, 0))
	if err != nil {
		return nil, fmt.Errorf("api: route: %w", err)
	}
	return GetRoute200JSONResponse(toRoute(r)), nil
}

// ListRouteVersions shows all versions.
func (h *handlers) ListRouteVersions(ctx context.Context, req ListRouteVersionsRequestObject) (ListRouteVersionsResponseObject, error) {
	rows, err := h.Read.RouteVersions(ctx, projectOf(ctx).ID, req.Name)
	if err == nil && len(rows) == 0 {
		err = store.ErrNotFound
	}
	if err != nil {
		return nil, fmt.Errorf("api: route versions: %w", err)
	}
	return ListRouteVersions200JSONResponse{Data: each(rows, toRoute)}, nil
}

func location(list, name string, version int32) string {
	return fmt.Sprintf("/v1/%s/%s?version=%d", list, name, version)
}

func toRoute(r store.Route) Route {
	return Route{Name: r.Name, Version: r.Version, Ref: *ref(&r.Name, &r.Version), Spec: orEmpty(r.Spec), CreatedAt: r.CreatedAt.UTC()}
}
