package client

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"time"
)

// Rates are the prices of a tier, in micro-dollars per million tokens.
type Rates struct {
	Input       int64 `json:"input"`
	Output      int64 `json:"output"`
	CachedInput int64 `json:"cached_input"`
	CacheWrite  int64 `json:"cache_write"`
}

// Price is what a model costs from a day on.
type Price struct {
	ID        string  `json:"id"`
	Source    string  `json:"source"` // project or server
	Provider  string  `json:"provider"`
	Model     string  `json:"model"`
	ValidFrom string  `json:"valid_from"` // a UTC day, such as 2026-01-31
	ValidTo   *string `json:"valid_to"`   // exclusive
	Rates     Rates   `json:"rates"`
}

// NewPrice is a price of the project's, to be put over the server's.
type NewPrice struct {
	Provider    string       `json:"provider"`
	Model       string       `json:"model"` // or * for those that aren't listed
	ValidFrom   string       `json:"valid_from"`
	ValidTo     string       `json:"valid_to,omitempty"`
	Rates       Rates        `json:"rates"`
	LongContext *LongContext `json:"long_context,omitempty"`
	Batch       *Rates       `json:"batch,omitempty"`
}

// LongContext is what calls with more input than AboveTokens cost.
type LongContext struct {
	AboveTokens int64 `json:"above_tokens"`
	Rates       Rates `json:"rates"`
}

// NewReprice says which costs to recompute.
type NewReprice struct {
	DryRun   bool       `json:"dry_run"`
	From     *time.Time `json:"from,omitempty"` // when calls started
	To       *time.Time `json:"to,omitempty"`
	Provider string     `json:"provider,omitempty"`
	Model    string     `json:"model,omitempty"`
	AsOf     string     `json:"as_of,omitempty"` // the day whose prices are taken; default that of each call
}

// Reprice is a recomputation of costs.
type Reprice struct {
	ID              string     `json:"id"`
	DryRun          bool       `json:"dry_run"`
	Batches         int64      `json:"batches"`
	Calls           int64      `json:"calls"`
	ChangedCalls    int64      `json:"changed_calls"`
	ReportedCalls   int64      `json:"reported_calls"`
	OldCostMicrousd int64      `json:"old_cost_microusd"`
	NewCostMicrousd int64      `json:"new_cost_microusd"`
	UnknownBefore   int64      `json:"unknown_before"`
	UnknownAfter    int64      `json:"unknown_after"`
	FinishedAt      *time.Time `json:"finished_at"`
}

// Savings are what a batch cost, and what it would have cost more without each cache.
type Savings struct {
	CostMicrousd  int64    `json:"cost_microusd"`
	UnpricedCalls int64    `json:"unpriced_calls"`
	Data          []Saving `json:"data"`
}

// Saving is what one cache saved, of one provider's model.
type Saving struct {
	Kind          string `json:"kind"` // result_cache, coalesced, gateway_cache or prefix_cache
	Provider      string `json:"provider"`
	Model         string `json:"model"`
	Uses          int64  `json:"uses"` // jobs, or calls
	Unknown       int64  `json:"unknown"`
	InputTokens   int64  `json:"input_tokens"`
	OutputTokens  int64  `json:"output_tokens"`
	SavedMicrousd int64  `json:"saved_microusd"`
}

// Prices lists what the project's calls are priced by. Provider, model and at, a day, may be empty.
func (c *Client) Prices(ctx context.Context, provider, model, at string) (all []Price, err error) {
	type page struct {
		Data       []Price `json:"data"`
		NextCursor *string `json:"next_cursor"`
	}
	q := url.Values{}
	for name, value := range map[string]string{"provider": provider, "model": model, "at": at} {
		if value != "" {
			q.Set(name, value)
		}
	}
	for {
		p, err := call[page](ctx, c, http.MethodGet, "/v1/prices?"+q.Encode(), nil)
		if err != nil {
			return nil, err
		}
		if all = append(all, p.Data...); p.NextCursor == nil {
			return all, nil
		}
		q.Set("cursor", *p.NextCursor)
	}
}

// SetPrice puts a price over the server's.
func (c *Client) SetPrice(ctx context.Context, p NewPrice) (Price, error) {
	return call[Price](ctx, c, http.MethodPut, "/v1/prices", p)
}

// DeletePrice removes a price of the project.
func (c *Client) DeletePrice(ctx context.Context, id string) error {
	return c.remove(ctx, "/v1/prices/"+url.PathEscape(id))
}

// Reprice recomputes costs to the end, or says what that would do. When it breaks off, the error says how to go on.
func (c *Client) Reprice(ctx context.Context, in NewReprice) (Reprice, error) {
	r, err := call[Reprice](ctx, c, http.MethodPost, "/v1/prices/reprice", in)
	if err != nil {
		return r, err
	}
	return c.ContinueReprice(ctx, r)
}

// ContinueReprice goes on with one until it is finished.
func (c *Client) ContinueReprice(ctx context.Context, r Reprice) (Reprice, error) {
	for r.FinishedAt == nil {
		next, err := call[Reprice](ctx, c, http.MethodPost, "/v1/prices/reprices/"+url.PathEscape(r.ID), nil)
		if err != nil {
			return r, fmt.Errorf("recomputation %s is not finished: %w", r.ID, err)
		}
		r = next
	}
	return r, nil
}

// Savings returns what the caches saved a batch.
func (c *Client) Savings(ctx context.Context, batch string) (Savings, error) {
	return call[Savings](ctx, c, http.MethodGet, "/v1/batches/"+url.PathEscape(batch)+"/savings", nil)
}
