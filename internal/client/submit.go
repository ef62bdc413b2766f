package client

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"net/textproto"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"sync"
)

// SubmitNDJSON submits one job a line. It reads lines while it sends them; an error of r ends the submission, and the
// server runs nothing of it. Lines that are compressed are sent as they are, with o.Encoding.
func (c *Client) SubmitNDJSON(ctx context.Context, lines io.Reader, o BatchOptions) (Batch, error) {
	return c.submitStream(ctx, "application/x-ndjson", lines, o)
}

// SubmitCSV does the same for a table with a job a line, whose first line names the template's variables.
func (c *Client) SubmitCSV(ctx context.Context, table io.Reader, o BatchOptions) (Batch, error) {
	return c.submitStream(ctx, "text/csv", table, o)
}

func (c *Client) submitStream(ctx context.Context, contentType string, lines io.Reader, o BatchOptions) (Batch, error) {
	query, err := o.query()
	if err != nil {
		return Batch{}, err
	}
	return c.submit(ctx, "/v1/batches?"+query.Encode(), contentType, lines, o)
}

// query is the options as parameters of a submission's address.
func (o BatchOptions) query() (url.Values, error) {
	query := url.Values{"kind": {o.Kind}, "route": {o.Route}}
	for name, value := range map[string]string{
		"name": o.Name, "template": o.Template, "params": string(o.Params), "on_invalid": o.OnInvalid, "cache": o.Cache,
		"on_forecast_over": o.OnForecastOver,
	} {
		if value != "" {
			query.Set(name, value)
		}
	}
	if len(o.Metadata) > 0 {
		labels, err := json.Marshal(o.Metadata)
		if err != nil {
			return nil, fmt.Errorf("client: %w", err)
		}
		query.Set("metadata", string(labels))
	}
	if o.MaxCostMicrousd != nil {
		query.Set("max_cost_microusd", strconv.FormatInt(*o.MaxCostMicrousd, 10))
	}
	return query, nil
}

// SubmitDocuments submits files, one summarize job each; the file's name without its folder becomes the job's
// custom_id. Files are read while they are sent, one after the other.
func (c *Client) SubmitDocuments(ctx context.Context, paths []string, o BatchOptions) (Batch, error) {
	options, err := o.marshal()
	if err != nil {
		return Batch{}, err
	}
	f := newForm(options, paths)
	defer f.leave(true) //nolint:errcheck // read-only
	return c.submit(ctx, "/v1/batches", f.parts.FormDataContentType(), f, o)
}

// SubmitSource submits a batch whose jobs the server gathers from o.Source.
func (c *Client) SubmitSource(ctx context.Context, o BatchOptions) (Batch, error) {
	options, err := o.marshal()
	if err != nil {
		return Batch{}, err
	}
	return c.submit(ctx, "/v1/batches", "application/json", bytes.NewReader(options), o)
}

// marshal is what the API takes as a batch's options. Without a kind, documents are summarized.
func (o BatchOptions) marshal() (json.RawMessage, error) {
	options, err := json.Marshal(struct {
		Kind      string            `json:"kind"`
		Name      string            `json:"name,omitempty"`
		Template  string            `json:"template,omitempty"`
		Route     json.RawMessage   `json:"route"`
		Params    json.RawMessage   `json:"params,omitempty"`
		OnInvalid string            `json:"on_invalid,omitempty"`
		Cache     string            `json:"cache,omitempty"`
		Metadata  map[string]string `json:"metadata,omitempty"`
		Source    json.RawMessage   `json:"source,omitempty"`
		MaxCost   *int64            `json:"max_cost_microusd,omitempty"`
		Over      string            `json:"on_forecast_over,omitempty"`
	}{cmp.Or(o.Kind, "summarize"), o.Name, o.Template, o.route(), o.Params, o.OnInvalid, o.Cache, o.Metadata, o.Source, o.MaxCostMicrousd, o.OnForecastOver})
	if err != nil {
		return nil, fmt.Errorf("client: batch options: %w", err)
	}
	return options, nil
}

func (c *Client) submit(ctx context.Context, path, contentType string, body io.Reader, o BatchOptions) (b Batch, err error) {
	head, _, err := c.upload(ctx, path, contentType, body, o, func(int) any { return &b })
	b.Replayed = head.Get("Idempotency-Replayed") == "true"
	return b, err
}

// upload sends a submission and decodes the answer into what choose returns for its status.
func (c *Client) upload(ctx context.Context, path, contentType string, body io.Reader, o BatchOptions, choose func(status int) any) (http.Header, int, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	guarded := &upload{from: body, stall: newStall(cancel, "upload")}
	defer guarded.stall.disarm()
	req, err := c.request(ctx, http.MethodPost, path, guarded)
	if err != nil {
		return nil, 0, err
	}
	req.Header.Set("Content-Type", contentType)
	if o.Encoding != "" {
		req.Header.Set("Content-Encoding", o.Encoding)
	}
	// So that a wrong key or option is refused before gigabytes are on their way.
	req.Header.Set("Expect", "100-continue")
	if o.IdempotencyKey != "" {
		req.Header.Set("Idempotency-Key", o.IdempotencyKey)
	}
	res, err := c.send(req)
	if err != nil {
		if broken := guarded.broken(); broken != nil && !isProblem(err) {
			return nil, 0, fmt.Errorf("client: nothing was submitted: %w", broken)
		}
		return nil, 0, err
	}
	defer res.Body.Close()
	return res.Header, res.StatusCode, decode(ctx, res.Body, choose(res.StatusCode))
}

func isProblem(err error) bool {
	_, ok := errors.AsType[*Problem](err)
	return ok
}

// form is a multipart body that opens one file at a time, when its turn comes. It may be closed while it is read: the
// transport can still be at it when the server has refused the rest.
type form struct {
	paths []string
	parts *multipart.Writer
	head  bytes.Buffer // written by parts, not yet read
	ended bool

	mu     sync.Mutex
	file   *os.File // being read
	closed bool
}

func newForm(options json.RawMessage, paths []string) *form {
	f := &form{paths: paths}
	f.parts = multipart.NewWriter(&f.head)
	h := textproto.MIMEHeader{}
	h.Set("Content-Disposition", `form-data; name="batch"`)
	h.Set("Content-Type", "application/json")
	w, _ := f.parts.CreatePart(h) // a buffer takes everything
	_, _ = w.Write(options)
	return f
}

// Read implements io.Reader.
func (f *form) Read(p []byte) (int, error) {
	for f.head.Len() == 0 {
		if file := f.current(); file != nil {
			n, err := file.Read(p)
			if n > 0 || err != io.EOF {
				return n, err
			}
			if err := f.leave(false); err != nil {
				return 0, err
			}
		}
		if err := f.next(); err != nil {
			return 0, err
		}
	}
	return f.head.Read(p)
}

// next goes to the next file, or writes the end. Nothing says what a file is: the server looks.
func (f *form) next() error {
	switch {
	case f.ended:
		return io.EOF
	case len(f.paths) == 0:
		f.ended = true
		return f.parts.Close()
	}
	path := f.paths[0]
	f.paths = f.paths[1:]
	if err := f.enter(path); err != nil {
		return err
	}
	h := textproto.MIMEHeader{}
	h.Set("Content-Disposition", multipart.FileContentDisposition("documents", filepath.Base(path)))
	_, err := f.parts.CreatePart(h)
	return err
}

func (f *form) current() *os.File {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.file
}

func (f *form) enter(path string) (err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return os.ErrClosed
	}
	f.file, err = os.Open(path)
	return err
}

// leave closes the open file; for good, no other one will be opened.
func (f *form) leave(forGood bool) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = f.closed || forGood
	file := f.file
	f.file = nil
	if file == nil {
		return nil
	}
	return file.Close()
}
