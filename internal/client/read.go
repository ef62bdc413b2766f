package client

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

const (
	firstPoll  = 40 * time.Millisecond
	latestPoll = time.Second
	maxMissed  = 5 // polls in a row that may fail in passing
)

// Watch yields a batch whenever it has changed, and ends behind the first final state. It polls every 40 ms at first and
// ever less often; what isn't final when that has become every second is followed as an event stream, if the server has
// them. Up to five polls in a row may fail for a passing reason: no connection, or status 503. Every other error ends the
// watch; a stream that breaks off goes on as polls, and then as a stream again.
func (c *Client) Watch(ctx context.Context, id string) iter.Seq2[Batch, error] {
	return func(yield func(Batch, error) bool) {
		pause := time.NewTimer(0)
		defer pause.Stop()
		var last string
		missed, streams := 0, true
		for wait := firstPoll; ; wait = min(wait+wait/4, latestPoll) {
			select {
			case <-ctx.Done():
				yield(Batch{}, wrap(ctx, ctx.Err()))
				return
			case <-pause.C:
			}
			b, err := c.Batch(ctx, id)
			switch {
			case err == nil:
				missed = 0
				if now := fmt.Sprint(b.State, b.Pause != nil, b.Stats.Jobs, b.Stats.Calls); now != last || b.Final() {
					last = now
					if !yield(b, nil) || b.Final() {
						return
					}
				}
				if wait < latestPoll || !streams {
					break
				}
				over, err := c.relay(ctx, id, b, yield)
				if over {
					return
				}
				streams = passing(ctx, err) && !errors.Is(err, errNoEvents)
			case passing(ctx, err) && missed < maxMissed:
				missed++
			default:
				yield(Batch{}, err)
				return
			}
			pause.Reset(wait)
		}
	}
}

// relay yields what the event stream of an open batch brings. Over: there is nothing more to yield, or nobody to yield it to. Else the stream
// broke off, or there is none.
func (c *Client) relay(ctx context.Context, id string, b Batch, yield func(Batch, error) bool) (over bool, err error) {
	for b, err := range c.follow(ctx, id, b) {
		if err != nil {
			return false, err
		}
		if !yield(b, nil) || b.Final() {
			return true, nil
		}
	}
	return false, nil
}

// passing reports whether the next poll may do better.
func passing(ctx context.Context, err error) bool {
	if p, ok := errors.AsType[*Problem](err); ok {
		return p.Status == http.StatusServiceUnavailable
	}
	return ctx.Err() == nil
}

// Wait waits until a batch is final.
func (c *Client) Wait(ctx context.Context, id string) (last Batch, err error) {
	for last, err = range c.Watch(ctx, id) {
		if err != nil {
			return Batch{}, err
		}
	}
	return last, nil
}

// ResultOptions narrow a stream of results.
type ResultOptions struct {
	Status string // succeeded, failed or cancelled; default all
	After  int32  // start behind this index: to go on where a stream broke off
}

// Results streams the results that exist so far, in the order of submission. An error is the last thing yielded.
func (c *Client) Results(ctx context.Context, id string, o ResultOptions) iter.Seq2[Result, error] {
	query := url.Values{}
	if o.Status != "" {
		query.Set("status", o.Status)
	}
	if o.After > 0 {
		query.Set("after", strconv.Itoa(int(o.After)))
	}
	return lines(ctx, c, "results", "/v1/batches/"+url.PathEscape(id)+"/results?"+query.Encode(), func(r *Result, raw []byte) { r.Raw = raw })
}

// lines streams an answer of one JSON object a line. keep is given each line as the server sent it, to keep.
func lines[T any](ctx context.Context, c *Client, what, path string, keep func(v *T, raw []byte)) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		ctx, cancel := context.WithCancelCause(ctx)
		defer cancel(nil)
		var none T
		req, err := c.request(ctx, http.MethodGet, path, nil)
		if err != nil {
			yield(none, err)
			return
		}
		s := newStall(cancel, what)
		defer s.disarm()
		s.arm()
		res, err := c.send(req)
		if err != nil {
			yield(none, err)
			return
		}
		defer res.Body.Close()
		lines := bufio.NewScanner(&download{from: res.Body, stall: s})
		lines.Buffer(make([]byte, 64<<10), maxAnswer)
		for lines.Scan() {
			var v T
			if err := json.Unmarshal(lines.Bytes(), &v); err != nil {
				if lines.Err() == nil { // else the connection broke in the middle of a line
					yield(none, fmt.Errorf("client: a line of the %s is not what the API promises: %w", what, err))
					return
				}
				break
			}
			keep(&v, bytes.Clone(lines.Bytes()))
			if !yield(v, nil) {
				return
			}
		}
		if err := lines.Err(); err != nil {
			yield(none, fmt.Errorf("client: the %s broke off: %w", what, reason(ctx, err)))
		}
	}
}

// JobOptions narrow a list of jobs.
type JobOptions struct {
	Status string // default all
}

// Jobs lists the jobs of a batch in the order of submission, page by page. An error is the last thing yielded.
func (c *Client) Jobs(ctx context.Context, id string, o JobOptions) iter.Seq2[Job, error] {
	query := url.Values{"limit": {"1000"}}
	if o.Status != "" {
		query.Set("status", o.Status)
	}
	return pages[Job](ctx, c, "/v1/batches/"+url.PathEscape(id)+"/jobs", query)
}
