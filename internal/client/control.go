package client

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// Cancel stops a batch and returns it as it is then. Calls in flight have the server's usual time to end, and are cut after it.
func (c *Client) Cancel(ctx context.Context, id string) (Batch, error) {
	return c.control(ctx, id, "cancel")
}

// CancelWithin is [Client.Cancel] with another time for calls in flight, to the second.
func (c *Client) CancelWithin(ctx context.Context, id string, grace time.Duration) (Batch, error) {
	return c.control(ctx, id, "cancel?grace_seconds="+strconv.Itoa(int(grace.Round(time.Second)/time.Second)))
}

// Pause keeps a batch from starting calls and returns it as it is then. Calls in flight end.
func (c *Client) Pause(ctx context.Context, id string) (Batch, error) {
	return c.control(ctx, id, "pause")
}

// Resume lets a paused batch go on, whatever paused it.
func (c *Client) Resume(ctx context.Context, id string) (Batch, error) {
	return c.control(ctx, id, "resume")
}

func (c *Client) control(ctx context.Context, id, verb string) (Batch, error) {
	return call[Batch](ctx, c, http.MethodPost, "/v1/batches/"+url.PathEscape(id)+"/"+verb, nil)
}

// RetryFilter says which jobs of a batch to try again; all that is set must hold. The zero value means every failed job.
type RetryFilter struct {
	Statuses     []string `json:"statuses,omitempty"` // failed, cancelled or both; default failed
	ErrorClasses []string `json:"error_classes,omitempty"`
	CustomIDs    []string `json:"custom_ids,omitempty"`
}

// Retried is what a retry did.
type Retried struct {
	Requeued int64 `json:"requeued"`
	Excluded int64 `json:"excluded"` // match, but can never run
	Batch    Batch `json:"batch"`
}

// Retry tries jobs of a batch again, within the same batch, which is reopened if it was final.
func (c *Client) Retry(ctx context.Context, id string, f RetryFilter) (Retried, error) {
	return call[Retried](ctx, c, http.MethodPost, "/v1/batches/"+url.PathEscape(id)+"/retry", f)
}
