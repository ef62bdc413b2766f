package client

import (
	"context"
	"iter"
	"net/http"
	"net/url"
	"time"
)

// ExportOptions say where a batch's results go, and how.
type ExportOptions struct {
	Format string `json:"format"` // csv, ndjson or parquet
	Target string `json:"target"` // URL, with placeholders
	Status string `json:"status,omitempty"`
	BOM    bool   `json:"bom,omitempty"`

	From int32 `json:"from,omitempty"` // first and last index, of one that is asked for
	To   int32 `json:"to,omitempty"`
}

// ReportExportOptions say what is asked of a report, as the API's query parameters do, and where its file goes.
type ReportExportOptions struct {
	Format string `json:"format"` // csv, ndjson or parquet
	Target string `json:"target"` // URL, with placeholders
	BOM    bool   `json:"bom,omitempty"`

	From  string   `json:"from,omitempty"`
	To    string   `json:"to,omitempty"`
	By    []string `json:"by,omitempty"`
	Where []string `json:"where,omitempty"`
	Sort  []string `json:"sort,omitempty"`
}

// Export is a file of a batch's results, or of a report, that was asked for.
type Export struct {
	ID        string     `json:"id"`
	BatchID   string     `json:"batch_id"` // empty for a report
	Origin    string     `json:"origin"`   // request, schedule or purge
	State     string     `json:"state"`    // pending, running; succeeded, failed, cancelled
	Format    string     `json:"format"`
	Target    string     `json:"target"`
	URL       *string    `json:"url"` // nil before the first attempt
	Rows      int64      `json:"rows"`
	Bytes     int64      `json:"bytes"`
	SHA256    *string    `json:"sha256"`
	Error     *string    `json:"error"` // of the last attempt
	Attempts  int32      `json:"attempts"`
	CreatedAt time.Time  `json:"created_at"`
	StartedAt *time.Time `json:"started_at"`
	EndedAt   *time.Time `json:"ended_at"`
}

// CreateExport asks for a file of a batch's results, which is written once the batch is final.
func (c *Client) CreateExport(ctx context.Context, batch string, o ExportOptions) (Export, error) {
	return call[Export](ctx, c, http.MethodPost, "/v1/batches/"+url.PathEscape(batch)+"/exports", o)
}

// CreateReportExport asks for a file of a report.
func (c *Client) CreateReportExport(ctx context.Context, name string, o ReportExportOptions) (Export, error) {
	return call[Export](ctx, c, http.MethodPost, "/v1/reports/"+url.PathEscape(name)+"/exports", o)
}

// GetExport returns an export.
func (c *Client) GetExport(ctx context.Context, id string) (Export, error) {
	return call[Export](ctx, c, http.MethodGet, "/v1/exports/"+url.PathEscape(id), nil)
}

// CancelExport ends an export that isn't final.
func (c *Client) CancelExport(ctx context.Context, id string) (Export, error) {
	return call[Export](ctx, c, http.MethodPost, "/v1/exports/"+url.PathEscape(id)+"/cancel", nil)
}

// Exports lists the project's exports in a state, or those of a batch, newest first. An empty state matches all. An error is the last thing yielded.
func (c *Client) Exports(ctx context.Context, batch, state string) iter.Seq2[Export, error] {
	query := url.Values{"limit": {"200"}}
	if batch != "" {
		return pages[Export](ctx, c, "/v1/batches/"+url.PathEscape(batch)+"/exports", query)
	}
	if state != "" {
		query.Set("state", state)
	}
	return pages[Export](ctx, c, "/v1/exports", query)
}

// WaitExport asks each second until an export is final.
func (c *Client) WaitExport(ctx context.Context, id string) (Export, error) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		e, err := c.GetExport(ctx, id)
		if err != nil || e.EndedAt != nil {
			return e, err
		}
		select {
		case <-ctx.Done():
			return e, context.Cause(ctx)
		case <-tick.C:
		}
	}
}
