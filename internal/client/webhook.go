package client

import (
	"context"
	"encoding/json"
	"iter"
	"maps"
	"net/http"
	"net/url"
	"time"
)

// Webhook is an endpoint that is told what happens to the project's batches.
type Webhook struct {
	ID             string     `json:"id"`
	URL            string     `json:"url"`
	Events         []string   `json:"events"`
	Description    string     `json:"description"`
	Enabled        bool       `json:"enabled"`
	DisabledReason *string    `json:"disabled_reason"` // requested, gone or failing
	FailingSince   *time.Time `json:"failing_since"`
	CreatedAt      time.Time  `json:"created_at"`

	Secret string `json:"secret"` // whsec_..., in the answers to CreateWebhook and RotateWebhook only
}

// Delivery is a message to a webhook and what became of it.
type Delivery struct {
	ID            string          `json:"id"` // the header webhook-id
	Type          string          `json:"type"`
	State         string          `json:"state"` // pending, delivered or failed
	BatchID       *string         `json:"batch_id"`
	Attempts      int32           `json:"attempts"`
	NextAttemptAt *time.Time      `json:"next_attempt_at"`
	LastStatus    *int32          `json:"last_status"`
	LastError     *string         `json:"last_error"`
	CreatedAt     time.Time       `json:"created_at"`
	Payload       json.RawMessage `json:"payload"`
}

// CreateWebhook makes a webhook for events, such as batch.completed, or for all of them when none is named.
func (c *Client) CreateWebhook(ctx context.Context, endpoint, description string, events []string) (Webhook, error) {
	return call[Webhook](ctx, c, http.MethodPost, "/v1/webhooks", struct {
		URL         string   `json:"url"`
		Description string   `json:"description,omitempty"`
		Events      []string `json:"events,omitempty"`
	}{endpoint, description, events})
}

// Webhooks lists the project's webhooks, newest first. An error is the last thing yielded.
func (c *Client) Webhooks(ctx context.Context) iter.Seq2[Webhook, error] {
	return pages[Webhook](ctx, c, "/v1/webhooks", url.Values{"limit": {"200"}})
}

// EnableWebhook lets a webhook be sent messages, or not.
func (c *Client) EnableWebhook(ctx context.Context, id string, enabled bool) (Webhook, error) {
	return call[Webhook](ctx, c, http.MethodPatch, webhookPath(id), map[string]bool{"enabled": enabled})
}

// RotateWebhook gives a webhook a new secret; the one before signs as well for a day.
func (c *Client) RotateWebhook(ctx context.Context, id string) (Webhook, error) {
	return call[Webhook](ctx, c, http.MethodPost, webhookPath(id)+"/rotate", nil)
}

// DeleteWebhook removes a webhook and its deliveries.
func (c *Client) DeleteWebhook(ctx context.Context, id string) error {
	return c.remove(ctx, webhookPath(id))
}

// TestWebhook sends a webhook a message of type webhook.test.
func (c *Client) TestWebhook(ctx context.Context, id string) (Delivery, error) {
	return call[Delivery](ctx, c, http.MethodPost, webhookPath(id)+"/test", nil)
}

// Deliveries lists what a webhook was sent or is to be sent, newest first, in a state unless it is empty. An error is the last thing yielded.
func (c *Client) Deliveries(ctx context.Context, id, state string) iter.Seq2[Delivery, error] {
	query := url.Values{"limit": {"200"}}
	if state != "" {
		query.Set("state", state)
	}
	return pages[Delivery](ctx, c, webhookPath(id)+"/deliveries", query)
}

// Redeliver sends a message again, under its old id.
func (c *Client) Redeliver(ctx context.Context, webhook, delivery string) (Delivery, error) {
	return call[Delivery](ctx, c, http.MethodPost, webhookPath(webhook)+"/deliveries/"+url.PathEscape(delivery)+"/redeliver", nil)
}

func webhookPath(id string) string { return "/v1/webhooks/" + url.PathEscape(id) }

// pages yields the entries of a list, page by page.
func pages[T any](ctx context.Context, c *Client, path string, query url.Values) iter.Seq2[T, error] {
	type page struct {
		Data []T     `json:"data"`
		Next *string `json:"next_cursor"`
	}
	return func(yield func(T, error) bool) {
		query := maps.Clone(query) // the list may be gone through again
		for {
			p, err := call[page](ctx, c, http.MethodGet, path+"?"+query.Encode(), nil)
			if err != nil {
				var none T
				yield(none, err)
				return
			}
			for _, entry := range p.Data {
				if !yield(entry, nil) {
					return
				}
			}
			if p.Next == nil {
				return
			}
			query.Set("cursor", *p.Next)
		}
	}
}
