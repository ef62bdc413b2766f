package client

import (
	"context"
	"io"
	"net/http"
	"net/url"
	"time"
)

// Spread is a quantity that isn't known yet: as likely more as less than P50, and more than P90 in one case of ten.
type Spread struct {
	P50 int64 `json:"p50"`
	P90 int64 `json:"p90"`
}

// Expected is what calls are expected to take.
type Expected struct {
	Calls             Spread  `json:"calls"`
	InputTokens       Spread  `json:"input_tokens"`
	CachedInputTokens Spread  `json:"cached_input_tokens"`
	OutputTokens      Spread  `json:"output_tokens"`
	CostMicrousd      *Spread `json:"cost_microusd"` // nil when a price is unknown
}

// Forecast is what a batch is expected to call, take and cost.
type Forecast struct {
	BatchID         string    `json:"batch_id"`
	MadeAt          time.Time `json:"made_at"`
	DryRun          bool      `json:"dry_run"`
	Verdict         string    `json:"verdict"` // run, pause or refuse
	Reason          string    `json:"reason"`
	MaxCostMicrousd *int64    `json:"max_cost_microusd"`
	Jobs            int64     `json:"jobs"`
	ResultHits      int64     `json:"result_hits"`
	Coalesced       int64     `json:"coalesced"`
	InvalidJobs     int64     `json:"invalid_jobs"`
	CountedJobs     int64     `json:"counted_jobs"`
	HistoryBatches  int32     `json:"history_batches"`
	Expected
	DurationMS Spread         `json:"duration_ms"`
	Steps      []ForecastStep `json:"steps"`
}

// ForecastStep is the part of one step of the route.
type ForecastStep struct {
	Stage        int32  `json:"stage"` // of a pipeline, from 0
	Step         int32  `json:"step"`
	Provider     string `json:"provider"`
	Model        string `json:"model"`
	HistoryOf    string `json:"history_of"`
	HistoryCalls int64  `json:"history_calls"`
	Expected
}

// Forecast returns the forecast of a batch, or of a dry run. It waits while the batch is being planned.
func (c *Client) Forecast(ctx context.Context, id string) (Forecast, error) {
	tick := time.NewTicker(latestPoll / 4)
	defer tick.Stop()
	for {
		f, err := call[Forecast](ctx, c, http.MethodGet, "/v1/batches/"+url.PathEscape(id)+"/forecast", nil)
		if err != nil || f.BatchID != "" { // while it is planned, the answer is the batch
			return f, err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return Forecast{}, wrap(ctx, ctx.Err())
		}
	}
}

// ForecastNDJSON is [Client.SubmitNDJSON] as a dry run: nothing is called, and no batch is left.
func (c *Client) ForecastNDJSON(ctx context.Context, lines io.Reader, o BatchOptions) (Forecast, error) {
	return c.dryRunStream(ctx, "application/x-ndjson", lines, o)
}

// ForecastCSV is [Client.SubmitCSV] as a dry run.
func (c *Client) ForecastCSV(ctx context.Context, table io.Reader, o BatchOptions) (Forecast, error) {
	return c.dryRunStream(ctx, "text/csv", table, o)
}

func (c *Client) dryRunStream(ctx context.Context, contentType string, lines io.Reader, o BatchOptions) (Forecast, error) {
	query, err := o.query()
	if err != nil {
		return Forecast{}, err
	}
	query.Set("dry_run", "true")
	return c.dryRun(ctx, query.Encode(), contentType, lines, o)
}

// ForecastDocuments is [Client.SubmitDocuments] as a dry run.
func (c *Client) ForecastDocuments(ctx context.Context, paths []string, o BatchOptions) (Forecast, error) {
	options, err := o.marshal()
	if err != nil {
		return Forecast{}, err
	}
	f := newForm(options, paths)
	defer f.leave(true) //nolint:errcheck // read-only
	return c.dryRun(ctx, "dry_run=true", f.parts.FormDataContentType(), f, o)
}

func (c *Client) dryRun(ctx context.Context, query, contentType string, body io.Reader, o BatchOptions) (f Forecast, err error) {
	var b Batch
	_, status, err := c.upload(ctx, "/v1/batches?"+query, contentType, body, o, func(status int) any {
		if status == http.StatusAccepted {
			return &b
		}
		return &f
	})
	if err != nil || status != http.StatusAccepted {
		return f, err
	}
	return c.Forecast(ctx, b.ID) // it is still being planned
}
