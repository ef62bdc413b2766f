package client

import (
	"context"
	"net/http"
	"net/url"
	"time"
)

// Budget is a limit on what calls may cost in a period, in millionths of a US dollar.
type Budget struct {
	ID                string     `json:"id"`
	Scope             string     `json:"scope"` // project, api_key or batch
	APIKeyID          *string    `json:"api_key_id"`
	BatchID           *string    `json:"batch_id"`
	Name              string     `json:"name"`
	Period            string     `json:"period"` // total, day or month
	TimeZone          string     `json:"time_zone"`
	LimitMicrousd     int64      `json:"limit_microusd"`
	SpentMicrousd     int64      `json:"spent_microusd"`
	ReservedMicrousd  int64      `json:"reserved_microusd"` // worst cases of calls in flight
	RemainingMicrousd int64      `json:"remaining_microusd"`
	StartsAt          *time.Time `json:"starts_at"` // of the current period; nil for total
	EndsAt            *time.Time `json:"ends_at"`
}

// NewBudget is a budget to be made. Scope, Period and LimitMicrousd are required.
type NewBudget struct {
	Scope         string `json:"scope"`
	APIKeyID      string `json:"api_key_id,omitempty"` // of scope api_key: an id, or current
	BatchID       string `json:"batch_id,omitempty"`   // of scope batch
	Name          string `json:"name,omitempty"`
	Period        string `json:"period"`
	TimeZone      string `json:"time_zone,omitempty"` // default UTC
	LimitMicrousd int64  `json:"limit_microusd"`
}

// CreateBudget makes a budget.
func (c *Client) CreateBudget(ctx context.Context, b NewBudget) (Budget, error) {
	return call[Budget](ctx, c, http.MethodPost, "/v1/budgets", b)
}

// Budgets lists the project's budgets, newest first.
func (c *Client) Budgets(ctx context.Context) (all []Budget, err error) {
	type page struct {
		Data       []Budget `json:"data"`
		NextCursor *string  `json:"next_cursor"`
	}
	for path := "/v1/budgets"; ; {
		p, err := call[page](ctx, c, http.MethodGet, path, nil)
		if err != nil {
			return nil, err
		}
		if all = append(all, p.Data...); p.NextCursor == nil {
			return all, nil
		}
		path = "/v1/budgets?cursor=" + url.QueryEscape(*p.NextCursor)
	}
}

// SetBudget changes a budget's limit.
func (c *Client) SetBudget(ctx context.Context, id string, limitMicrousd int64) (Budget, error) {
	return call[Budget](ctx, c, http.MethodPatch, "/v1/budgets/"+url.PathEscape(id), map[string]int64{"limit_microusd": limitMicrousd})
}

// DeleteBudget removes a budget.
func (c *Client) DeleteBudget(ctx context.Context, id string) error {
	return c.remove(ctx, "/v1/budgets/"+url.PathEscape(id))
}
