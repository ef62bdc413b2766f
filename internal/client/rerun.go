package client

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
)

// RerunOptions say in what a rerun differs from the batch. What is zero is as it was there, but for Cache.
type RerunOptions struct {
	Name          string            `json:"name,omitempty"`
	Template      string            `json:"template,omitempty"` // NAME, NAME@VERSION or latest
	Route         json.RawMessage   `json:"route,omitempty"`    // a JSON string or object
	Params        json.RawMessage   `json:"params,omitempty"`
	OnInvalid     string            `json:"on_invalid,omitempty"`
	Cache         string            `json:"cache,omitempty"`           // use (default), refresh, only or off
	MaxAgeSeconds int               `json:"max_age_seconds,omitempty"` // of cached answers; 0 for any
	Metadata      map[string]string `json:"metadata,omitempty"`
	Priority      *int              `json:"priority,omitempty"`
	Inputs        string            `json:"inputs,omitempty"` // of a batch with a source: source (default without Changes), listed anew, or same

	// Changes are lines of jobs that are changed, new, or removed; nil for none.
	Changes io.Reader `json:"-"`

	Encoding       string `json:"-"` // of Changes that are compressed: gzip or zstd
	IdempotencyKey string `json:"-"`
}

// RouteOf is a route as RerunOptions wants it: a name, a chain, or a RouteSpec as JSON text.
func RouteOf(text string) json.RawMessage {
	if text == "" {
		return nil
	}
	return BatchOptions{Route: text}.route()
}

// Rerun runs a batch's jobs again, as a new batch.
func (c *Client) Rerun(ctx context.Context, id string, o RerunOptions) (Batch, error) {
	options, err := json.Marshal(o)
	if err != nil {
		return Batch{}, fmt.Errorf("client: rerun options: %w", err)
	}
	path := "/v1/batches/" + url.PathEscape(id) + "/rerun"
	how := BatchOptions{IdempotencyKey: o.IdempotencyKey}
	if o.Changes == nil {
		return c.submit(ctx, path, "application/json", bytes.NewReader(options), how)
	}
	how.Encoding = o.Encoding
	return c.submit(ctx, path+"?"+url.Values{"options": {string(options)}}.Encode(), "application/x-ndjson", o.Changes, how)
}

// DiffSide is a job in one of two batches.
type DiffSide struct {
	JobID        string  `json:"job_id"`
	Index        int32   `json:"index"`
	Status       string  `json:"status"`
	CacheStatus  *string `json:"cache_status"`
	ErrorClass   *string `json:"error_class"`
	Provider     *string `json:"provider"`
	Model        *string `json:"model"`
	AnsweredBy   *string `json:"answered_by"`
	CostMicroUSD *int64  `json:"cost_microusd"` // nil: unknown
}

// DiffItem is a job of two batches, or of one of them.
type DiffItem struct {
	CustomID     *string   `json:"custom_id"`
	Status       string    `json:"status"` // same, changed, new or gone
	Reasons      []string  `json:"reasons"`
	Before       *DiffSide `json:"before"`
	After        *DiffSide `json:"after"`
	CostMicroUSD *int64    `json:"cost_difference_microusd"` // nil: unknown
	TextDiff     string    `json:"text_diff"`

	Raw json.RawMessage `json:"-"` // the whole line as the server sent it
}

// DiffSummary counts a diff.
type DiffSummary struct {
	Items              int64            `json:"items"`
	Statuses           map[string]int64 `json:"statuses"`
	Reasons            map[string]int64 `json:"reasons"`
	BeforeMicroUSD     int64            `json:"cost_before_microusd"`
	AfterMicroUSD      int64            `json:"cost_after_microusd"`
	DifferenceMicroUSD int64            `json:"cost_difference_microusd"`
	JobsWithoutCost    int64            `json:"jobs_without_cost"`
}

// Diff streams what differs between two batches, job by job; an empty status means all, text adds diffs of the outputs. An error is the
// last thing yielded.
func (c *Client) Diff(ctx context.Context, before, after, status string, text bool) iter.Seq2[DiffItem, error] {
	query := url.Values{"format": {"ndjson"}}
	if status != "" {
		query.Set("status", status)
	}
	if text {
		query.Set("text", "true")
	}
	return lines(ctx, c, "diff", diffPath(before, after)+"?"+query.Encode(), func(i *DiffItem, raw []byte) { i.Raw = raw })
}

// DiffSummary counts what differs between two batches. The server looks at every job, which may take minutes.
func (c *Client) DiffSummary(ctx context.Context, before, after string) (DiffSummary, error) {
	return callWithin[DiffSummary](ctx, c, commitLimit, http.MethodGet, diffPath(before, after)+"/summary", nil)
}

func diffPath(before, after string) string {
	return "/v1/batches/" + url.PathEscape(before) + "/diff/" + url.PathEscape(after)
}
