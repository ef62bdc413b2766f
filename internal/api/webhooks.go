package api

import (
	"context"
	"fmt"
	"net/http"
	"strconv"

	"github.com/google/uuid"

	"batchwright/internal/store"
	"batchwright/internal/webhook"
)

// WebhookWriter is what changes webhooks: *webhook.Service, or a fake of it.
type WebhookWriter interface {
	Create(ctx context.Context, project uuid.UUID, url, description string, events []string) (w store.Webhook, secret string, err error)
	Update(ctx context.Context, project, id uuid.UUID, c store.WebhookChange) (store.Webhook, error)
	Rotate(ctx context.Context, project, id uuid.UUID) (w store.Webhook, secret string, err error)
	Delete(ctx context.Context, project, id uuid.UUID) error
	Test(ctx context.Context, project, id uuid.UUID) (store.Delivery, error)
	Redeliver(ctx context.Context, project, id uuid.UUID, delivery string) (store.Delivery, error)
}

type webhookReader interface {
	Webhook(ctx context.Context, project, id uuid.UUID) (store.Webhook, error)
	Webhooks(ctx context.Context, project uuid.UUID, before *uuid.UUID, limit int) ([]store.Webhook, error)
	Deliveries(ctx context.Context, project, webhook uuid.UUID, state string, before int64, limit int) ([]store.Delivery, error)
}

var webhookStatuses = map[webhook.Code]int{
	webhook.Invalid:      http.StatusBadRequest,
	webhook.Conflict:     http.StatusConflict,
	webhook.Unconfigured: http.StatusServiceUnavailable,
}

func webhookProblem(e *webhook.Error) *problem {
	p := &problem{status: webhookStatuses[e.Code], detail: e.Message, err: e}
	if field := fieldPointer(e.Field); field != "" {
		p.detail = field + ": " + e.Message
		p.faults = []Fault{{Field: field, Code: string(e.Code), Message: e.Message}}
	}
	return p
}

// webhookSecret is the contract's WebhookSecret.
type webhookSecret struct {
	Webhook
	Secret string `json:"secret"`
}

func webhookID(id WebhookID) (uuid.UUID, error) { return pathID("webhook", id) }

// CreateWebhook makes a webhook and shows its secret.
func (h *handlers) CreateWebhook(ctx context.Context, req CreateWebhookRequestObject) (CreateWebhookResponseObject, error) {
	events := each(req.Body.Events, func(e WebhookEvent) string { return string(e) })
	w, secret, err := h.Webhooks.Create(ctx, projectOf(ctx).ID, req.Body.URL, deref(req.Body.Description, ""), events)
	if err != nil {
		return nil, err
	}
	return CreateWebhook201JSONResponse{
		Body:    webhookSecret{toWebhook(w), secret},
		Headers: CreateWebhook201ResponseHeaders{Location: "/v1/webhooks/" + w.ID.String()},
	}, nil
}

// ListWebhooks pages through the project's webhooks.
func (h *handlers) ListWebhooks(ctx context.Context, req ListWebhooksRequestObject) (ListWebhooksResponseObject, error) {
	before, err := cursorID(req.Params.Cursor)
	if err != nil {
		return nil, err
	}
	limit := deref(req.Params.Limit, 50)
	rows, err := h.Read.Webhooks(ctx, projectOf(ctx).ID, before, limit+1)
	if err != nil {
		return nil, fmt.Errorf("api: webhooks: %w", err)
	}
	rows, next := page(rows, limit, func(w store.Webhook) string { return w.ID.String() })
	return ListWebhooks200JSONResponse{Data: each(rows, toWebhook), NextCursor: next}, nil
}

// GetWebhook shows a webhook.
func (h *handlers) GetWebhook(ctx context.Context, req GetWebhookRequestObject) (GetWebhookResponseObject, error) {
	id, err := webhookID(req.ID)
	if err != nil {
		return nil, err
	}
	w, err := h.Read.Webhook(ctx, projectOf(ctx).ID, id)
	if err != nil {
		return nil, fmt.Errorf("api: webhook: %w", err)
	}
	return GetWebhook200JSONResponse(toWebhook(w)), nil
}

// UpdateWebhook changes what is given.
func (h *handlers) UpdateWebhook(ctx context.Context, req UpdateWebhookRequestObject) (UpdateWebhookResponseObject, error) {
	id, err := webhookID(req.ID)
	if err != nil {
		return nil, err
	}
	c := store.WebhookChange{URL: req.Body.URL, Description: req.Body.Description, Enabled: req.Body.Enabled}
	if req.Body.Events != nil {
		c.Events = each(*req.Body.Events, func(e WebhookEvent) string { return string(e) })
	}
	w, err := h.Webhooks.Update(ctx, projectOf(ctx).ID, id, c)
	if err != nil {
		return nil, err
	}
	return UpdateWebhook200JSONResponse(toWebhook(w)), nil
}

// DeleteWebhook removes a webhook.
func (h *handlers) DeleteWebhook(ctx context.Context, req DeleteWebhookRequestObject) (DeleteWebhookResponseObject, error) {
	id, err := webhookID(req.ID)
	if err != nil {
		return nil, err
	}
	return DeleteWebhook204Response{}, h.Webhooks.Delete(ctx, projectOf(ctx).ID, id)
}

// RotateWebhook shows a new secret.
func (h *handlers) RotateWebhook(ctx context.Context, req RotateWebhookRequestObject) (RotateWebhookResponseObject, error) {
	id, err := webhookID(req.ID)
	if err != nil {
		return nil, err
	}
	w, secret, err := h.Webhooks.Rotate(ctx, projectOf(ctx).ID, id)
	if err != nil {
		return nil, err
	}
	return RotateWebhook200JSONResponse(webhookSecret{toWebhook(w), secret}), nil
}

// TestWebhook sends a test message.
func (h *handlers) TestWebhook(ctx context.Context, req TestWebhookRequestObject) (TestWebhookResponseObject, error) {
	id, err := webhookID(req.ID)
	if err != nil {
		return nil, err
	}
	d, err := h.Webhooks.Test(ctx, projectOf(ctx).ID, id)
	if err != nil {
		return nil, err
	}
	return TestWebhook202JSONResponse(toDelivery(d)), nil
}

// ListDeliveries pages through what a webhook was sent or is to be sent.
func (h *handlers) ListDeliveries(ctx context.Context, req ListDeliveriesRequestObject) (ListDeliveriesResponseObject, error) {
	id, err := webhookID(req.ID)
	if err != nil {
		return nil, err
	}
	key, err := cursor(req.Params.Cursor)
	if err != nil {
		return nil, err
	}
	var before int64
	if key != "" {
		if before, err = strconv.ParseInt(key, 10, 64); err != nil {
			return nil, badCursor()
		}
	}
	project, limit := projectOf(ctx).ID, deref(req.Params.Limit, 50)
	rows, err := h.Read.Deliveries(ctx, project, id, string(deref(req.Params.State, "")), before, limit+1)
	if err == nil && len(rows) == 0 {
		_, err = h.Read.Webhook(ctx, project, id) // is it there at all?
	}
	if err != nil {
		return nil, fmt.Errorf("api: deliveries: %w", err)
	}
	rows, next := page(rows, limit, func(d store.Delivery) string { return strconv.FormatInt(d.Seq, 10) })
	return ListDeliveries200JSONResponse{Data: each(rows, toDelivery), NextCursor: next}, nil
}

// Redeliver sends a message again.
func (h *handlers) Redeliver(ctx context.Context, req RedeliverRequestObject) (RedeliverResponseObject, error) {
	id, err := webhookID(req.ID)
	if err != nil {
		return nil, err
	}
	d, err := h.Webhooks.Redeliver(ctx, projectOf(ctx).ID, id, req.DeliveryID)
	if err != nil {
		return nil, err
	}
	return Redeliver202JSONResponse(toDelivery(d)), nil
}

func toWebhook(w store.Webhook) Webhook {
	return Webhook{
		ID: w.ID, URL: w.URL, Events: each(w.Events, func(e string) WebhookEvent { return WebhookEvent(e) }), Description: w.Description,
		Enabled: w.Enabled, DisabledReason: w.DisabledReason, FailingSince: utc(w.FailingSince), RotatedAt: utc(w.RotatedAt),
		CreatedAt: w.CreatedAt.UTC(), UpdatedAt: w.UpdatedAt.UTC(),
	}
}

func toDelivery(d store.Delivery) Delivery {
	out := Delivery{
		ID: d.ID, Type: d.Type, State: DeliveryState(d.State), BatchID: d.BatchID, Attempts: d.Attempts, LastStatus: d.LastStatus,
		LastError: d.LastError, CreatedAt: d.CreatedAt.UTC(), AttemptedAt: utc(d.AttemptedAt), DeliveredAt: utc(d.DeliveredAt), Payload: d.Payload,
	}
	if d.State == "pending" {
		out.NextAttemptAt = utc(&d.NextAttemptAt)
	}
	return out
}
