// Package client speaks Batchwright's REST API from Go.
//
// A [Client] sends every request once: a failure is the caller's to judge. The exception is [Client.Watch], whose next
// poll forgives a few that failed. What the server refuses comes back as a [*Problem], with the faults of single
// lines; everything else (no connection, a stalled one, a cut stream) is an error of package net or of this one.
//
// Uploads and result streams may take as long as they need, but not stand still: see [ErrStalled].
package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

const (
	answerLimit = 30 * time.Second // for a short request, from its first byte to the answer's last
	commitLimit = 5 * time.Minute  // from the last byte of a submission to the answer: the server stores its jobs
	stallLimit  = time.Minute      // without a byte moving, of an upload or a stream of results
	maxAnswer   = 64 << 20         // bytes of a short answer, and of one result
)

// Client is safe for concurrent use.
type Client struct {
	base *url.URL
	key  string
	http *http.Client
}

// New returns a client of the API at baseURL, such as http://127.0.0.1:8080, with an API key. It sends nothing yet.
func New(baseURL, key string) (*Client, error) {
	u, err := url.Parse(baseURL)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("client: %.200q is no URL of an API: want one such as http://127.0.0.1:8080", baseURL)
	}
	t := &http.Transport{
		Proxy:       http.ProxyFromEnvironment,
		DialContext: (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}).DialContext,

		TLSHandshakeTimeout:   10 * time.Second,
		ExpectContinueTimeout: 5 * time.Second,
		ResponseHeaderTimeout: commitLimit,
		IdleConnTimeout:       90 * time.Second,
		MaxIdleConnsPerHost:   64,
		ForceAttemptHTTP2:     true,
	}
	// A redirected POST would become a GET, and the key would go to another place than the one that was named.
	stay := func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &Client{base: u, key: key, http: &http.Client{Transport: t, CheckRedirect: stay}}, nil
}

// Close drops idle connections. The client may be used again.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Batch returns a batch with its counts as of now.
func (c *Client) Batch(ctx context.Context, id string) (Batch, error) {
	return call[Batch](ctx, c, http.MethodGet, "/v1/batches/"+url.PathEscape(id), nil)
}

// SaveTemplate saves a template's spec, a JSON object, as the next version of its name. The same spec again is the
// version that has it.
func (c *Client) SaveTemplate(ctx context.Context, name string, spec json.RawMessage) (Definition, error) {
	return c.save(ctx, "/v1/templates", name, spec)
}

// SaveRoute does the same for a route.
func (c *Client) SaveRoute(ctx context.Context, name string, spec json.RawMessage) (Definition, error) {
	return c.save(ctx, "/v1/routes", name, spec)
}

func (c *Client) save(ctx context.Context, path, name string, spec json.RawMessage) (Definition, error) {
	return call[Definition](ctx, c, http.MethodPost, path, struct {
		Name string          `json:"name"`
		Spec json.RawMessage `json:"spec"`
	}{name, spec})
}

var errNoAnswer = fmt.Errorf("no answer after %s", answerLimit)

// call sends a short request and decodes its answer.
func call[T any](ctx context.Context, c *Client, method, path string, body any) (T, error) {
	return callWithin[T](ctx, c, answerLimit, method, path, body)
}

func callWithin[T any](ctx context.Context, c *Client, limit time.Duration, method, path string, body any) (out T, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("no answer after %s", limit))
	defer cancel()
	var payload io.Reader
	if body != nil {
		data, err := json.Marshal(body)
		if err != nil {
			return out, fmt.Errorf("client: %w", err)
		}
		payload = bytes.NewReader(data)
	}
	req, err := c.request(ctx, method, path, payload)
	if err != nil {
		return out, err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	res, err := c.send(req)
	if err != nil {
		return out, err
	}
	defer res.Body.Close()
	return out, decode(ctx, res.Body, &out)
}

// remove deletes what is at path; the answer has no body.
func (c *Client) remove(ctx context.Context, path string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, answerLimit, errNoAnswer)
	defer cancel()
	req, err := c.request(ctx, http.MethodDelete, path, nil)
	if err != nil {
		return err
	}
	res, err := c.send(req)
	if err != nil {
		return err
	}
	return res.Body.Close()
}

// decode reads one JSON value and the rest of the body, so that the connection can serve again.
func decode(ctx context.Context, body io.Reader, into any) error {
	data, err := io.ReadAll(io.LimitReader(body, maxAnswer+1))
	switch {
	case err != nil:
		return wrap(ctx, err)
	case len(data) > maxAnswer:
		return fmt.Errorf("client: the answer is over %d bytes", maxAnswer)
	}
	return asPromised(json.Unmarshal(data, into))
}

// asPromised words why an answer can't be decoded.
func asPromised(err error) error {
	if err != nil {
		return fmt.Errorf("client: the answer is not what the API promises: %w", err)
	}
	return nil
}

// request builds a request; path may have a query.
func (c *Client) request(ctx context.Context, method, path string, body io.Reader) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, method, strings.TrimSuffix(c.base.String(), "/")+path, body)
	if err != nil {
		return nil, fmt.Errorf("client: %w", err)
	}
	req.Header.Set("Authorization", "Bearer "+c.key)
	req.Header.Set("User-Agent", "batchwright")
	return req, nil
}

// send sends req and turns every answer but 2xx into an error.
func (c *Client) send(req *http.Request) (*http.Response, error) {
	res, err := c.http.Do(req)
	if err != nil {
		return nil, wrap(req.Context(), err)
	}
	if res.StatusCode < 200 || res.StatusCode > 299 {
		defer res.Body.Close()
		return nil, problemOf(res)
	}
	return res, nil
}

// wrap says that a request failed.
func wrap(ctx context.Context, err error) error { return fmt.Errorf("client: %w", reason(ctx, err)) }

// reason prefers why the context ended over the bare fact, and leaves out the method and URL that net/http puts first:
// the caller knows them.
func reason(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	if e, ok := errors.AsType[*url.Error](err); ok {
		return e.Err
	}
	return err
}
