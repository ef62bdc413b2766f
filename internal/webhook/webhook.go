// Package webhook tells other servers what happens to a project's batches, after the Standard Webhooks specification
// (https://www.standardwebhooks.com).
//
// An event is a row of the outbox for each endpoint that wants it, written by the store in the transaction of the change that it tells of.
// A [Deliverer] in every worker process claims due rows, signs and sends them:
//
//	pending ─ claimed, sent ─▶ 2xx ─▶ delivered
//	   ▲            │
//	   └─ schedule ─┤ anything else, up to 10 times over three days ─▶ failed
//	                └ 410 Gone ─▶ failed, and the endpoint is disabled
//
// Delivery is at least once, in no particular order: a worker that dies between sending and recording it makes a message go out again, under
// the same webhook-id.
//
// 2026-11-22: no secret is stored. An endpoint's secret is derived from a key that only the processes hold and the endpoint's id and secret
// version, so a copy of the database signs nothing. The road not taken: secrets sealed with that key in the endpoint's row, which would let
// users choose their own.
package webhook

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/google/uuid"

	"batchwright/internal/egress"
	"batchwright/internal/store"
)

// Events are the types that an endpoint may ask for.
func Events() []string {
	return []string{store.EventCompleted, store.EventFailed, store.EventCancelled, store.EventExpired, store.EventPaused, store.EventResumed, store.EventStalled}
}

// Code says what kind of refusal an [Error] is.
type Code string

// The codes; package api maps them to HTTP statuses.
const (
	Invalid      Code = "invalid"      // a field is wrong
	Conflict     Code = "conflict"     // not in the state that the endpoint is in
	Unconfigured Code = "unconfigured" // the server has no key to derive secrets from
)

// Error is a refusal whose texts are safe to show to the caller. Any other error is an internal one, or the store's.
type Error struct {
	Code    Code
	Field   string // the field at fault, if it is one
	Message string
}

// Error describes the refusal.
func (e *Error) Error() string {
	if e.Field != "" {
		return fmt.Sprintf("webhook: %s: %s: %s", e.Code, e.Field, e.Message)
	}
	return fmt.Sprintf("webhook: %s: %s", e.Code, e.Message)
}

// Service is what a project may do with its webhooks; it reads them through the store's Reader.
type Service struct {
	DB    *store.DB
	Key   []byte // secrets are derived from it, at least MinKey bytes; empty: no webhook can be made
	Guard egress.Guard
}

// Create makes an endpoint for events, or for all of them when none is named, and returns its secret.
func (s *Service) Create(ctx context.Context, project uuid.UUID, url, description string, events []string) (store.Webhook, string, error) {
	if len(s.Key) == 0 {
		return store.Webhook{}, "", unconfigured()
	}
	if len(events) == 0 {
		events = Events()
	}
	change := store.WebhookChange{URL: &url, Events: events, Description: &description}
	if err := s.check(&change); err != nil {
		return store.Webhook{}, "", err
	}
	id, err := uuid.NewV7()
	if err != nil {
		return store.Webhook{}, "", err
	}
	w, err := s.DB.CreateWebhook(ctx, store.Webhook{ID: id, ProjectID: project, URL: url, Events: change.Events, Description: description})
	if errors.Is(err, store.ErrConflict) {
		return store.Webhook{}, "", &Error{Code: Conflict, Message: fmt.Sprintf("the project has %d webhooks, which is the most: delete one", store.MaxWebhooks)}
	}
	if err != nil {
		return store.Webhook{}, "", fmt.Errorf("webhook: create: %w", err)
	}
	return w, Secret(s.Key, w.ID, w.SecretVersion), nil
}

// Update changes what is given. ErrNotFound of the store when the project has no such webhook.
func (s *Service) Update(ctx context.Context, project, id uuid.UUID, c store.WebhookChange) (store.Webhook, error) {
	if err := s.check(&c); err != nil {
		return store.Webhook{}, err
	}
	w, err := s.DB.UpdateWebhook(ctx, project, id, c)
	if err != nil {
		return store.Webhook{}, fmt.Errorf("webhook: update: %w", err)
	}
	return w, nil
}

// Rotate gives an endpoint a new secret, and returns it. For a day the old one signs as well.
func (s *Service) Rotate(ctx context.Context, project, id uuid.UUID) (store.Webhook, string, error) {
	if len(s.Key) == 0 {
		return store.Webhook{}, "", unconfigured()
	}
	w, err := s.DB.RotateWebhook(ctx, project, id)
	if err != nil {
		return store.Webhook{}, "", fmt.Errorf("webhook: rotate: %w", err)
	}
	return w, Secret(s.Key, w.ID, w.SecretVersion), nil
}

// Delete removes an endpoint and its deliveries.
func (s *Service) Delete(ctx context.Context, project, id uuid.UUID) error {
	if err := s.DB.DeleteWebhook(ctx, project, id); err != nil {
		return fmt.Errorf("webhook: delete: %w", err)
	}
	return nil
}

// Test sends an endpoint a message of type webhook.test.
func (s *Service) Test(ctx context.Context, project, id uuid.UUID) (store.Delivery, error) {
	d, err := s.DB.TestWebhook(ctx, project, id)
	return d, s.explain(ctx, project, id, err)
}

// Redeliver sends a message again, now and under its old id, whatever became of it before.
func (s *Service) Redeliver(ctx context.Context, project, id uuid.UUID, delivery string) (store.Delivery, error) {
	d, err := s.DB.Redeliver(ctx, project, id, delivery)
	return d, s.explain(ctx, project, id, err)
}

// explain tells an endpoint that is disabled from one that isn't there.
func (s *Service) explain(ctx context.Context, project, id uuid.UUID, err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, store.ErrNotFound) {
		if w, werr := s.DB.Webhook(ctx, project, id); werr == nil && !w.Enabled {
			return &Error{Code: Conflict, Message: "the webhook is disabled: enable it first"}
		}
	}
	return fmt.Errorf("webhook: %w", err)
}

func (s *Service) check(c *store.WebhookChange) error {
	if c.URL != nil {
		if why := s.Guard.CheckURL(*c.URL); why != "" {
			return &Error{Code: Invalid, Field: "url", Message: why}
		}
	}
	for i, e := range c.Events {
		if !slices.Contains(Events(), e) {
			return &Error{Code: Invalid, Field: fmt.Sprintf("events[%d]", i), Message: "unknown event: want " + strings.Join(Events(), ", ")}
		}
	}
	if c.Events != nil {
		c.Events = slices.Compact(slices.Sorted(slices.Values(c.Events)))
	}
	return nil
}

func unconfigured() error {
	return &Error{Code: Unconfigured, Message: "webhooks need a key on the server: set WEBHOOK_KEY, the same for the API and the workers, " +
		"to at least 32 random bytes, as `openssl rand -base64 32` makes them"}
}
