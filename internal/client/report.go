package client

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
)

// ReportInfo is a report that a server can make.
type ReportInfo struct {
	Name        string `json:"name"`
	Description string `json:"description"`
	TimeColumn  string `json:"time_column"`
	Grouped     bool   `json:"grouped"`
	Columns     []struct {
		Name string `json:"name"`
		Type string `json:"type"`
		Sum  bool   `json:"sum"`
	} `json:"columns"`
}

// Reports lists them.
func (c *Client) Reports(ctx context.Context) ([]ReportInfo, error) {
	type list struct {
		Data []ReportInfo `json:"data"`
	}
	out, err := call[list](ctx, c, http.MethodGet, "/v1/reports", nil)
	return out.Data, err
}

// Report writes a report, asked for by the API's query parameters, to w.
func (c *Client) Report(ctx context.Context, name string, query url.Values, w io.Writer) error {
	return c.file(ctx, "/v1/reports/"+url.PathEscape(name)+"?"+query.Encode(), w)
}

// Export writes a batch's results as a file, by the API's query parameters, to w.
func (c *Client) Export(ctx context.Context, batch string, query url.Values, w io.Writer) error {
	return c.file(ctx, "/v1/batches/"+url.PathEscape(batch)+"/export?"+query.Encode(), w)
}

func (c *Client) file(ctx context.Context, path string, w io.Writer) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	req, err := c.request(ctx, http.MethodGet, path, nil)
	if err != nil {
		return err
	}
	s := newStall(cancel, "the file")
	defer s.disarm()
	s.arm()
	res, err := c.send(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if _, err := io.Copy(w, &download{from: res.Body, stall: s}); err != nil {
		return fmt.Errorf("client: the file broke off: %w", reason(ctx, err))
	}
	return nil
}
