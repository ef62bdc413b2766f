package client

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"mime"
	"net/http"
	"net/url"
)

// Progress is how far a batch is, as the server's event stream says.
type Progress struct {
	State                 string      `json:"state"`
	Stalled               bool        `json:"stalled"` // it runs, but has made no progress for long
	Total                 int64       `json:"total"`
	Done                  int64       `json:"done"`
	Rate                  float64     `json:"rate"`                    // jobs a second, smoothed
	ETASeconds            *int64      `json:"eta_seconds"`             // nil: unknown
	CostMicroUSD          *int64      `json:"cost_microusd"`           // so far; nil: unknown
	ProjectedCostMicroUSD *int64      `json:"projected_cost_microusd"` // at the end; nil: unknown
	Calls                 int64       `json:"calls"`
	Jobs                  JobCounts   `json:"jobs"`
	Cache                 CacheCounts `json:"cache"`
}

// errNoEvents says that the server, or something before it, doesn't stream events.
var errNoEvents = errors.New("client: the server has no event streams")

// apply puts what an event says into the batch as it was polled last.
func (p Progress) apply(b Batch) Batch {
	b.State, b.TotalJobs = p.State, p.Total
	b.Stats.Jobs, b.Stats.Cache, b.Stats.Calls, b.Stats.CostMicroUSD = p.Jobs, p.Cache, p.Calls, p.CostMicroUSD
	b.Progress = &p
	return b
}

// follow yields b as the server's event stream changes it, the final batch last. A stream that breaks off ends in an error.
func (c *Client) follow(ctx context.Context, id string, b Batch) iter.Seq2[Batch, error] {
	return func(yield func(Batch, error) bool) {
		ctx, cancel := context.WithCancelCause(ctx)
		defer cancel(nil)
		req, err := c.request(ctx, http.MethodGet, "/v1/batches/"+url.PathEscape(id)+"/events", nil)
		if err != nil {
			yield(Batch{}, err)
			return
		}
		req.Header.Set("Accept", "text/event-stream")
		s := newStall(cancel, "events") // the server writes at least every 15 s
		defer s.disarm()
		s.arm()
		res, err := c.send(req)
		if err != nil {
			yield(Batch{}, err)
			return
		}
		defer res.Body.Close()
		if mediaType, _, _ := mime.ParseMediaType(res.Header.Get("Content-Type")); mediaType != "text/event-stream" {
			yield(Batch{}, errNoEvents)
			return
		}
		for e, err := range events(&download{from: res.Body, stall: s}) {
			switch {
			case err != nil:
				yield(Batch{}, fmt.Errorf("client: the events broke off: %w", reason(ctx, err)))
				return
			case e.name == "progress":
				var p Progress
				if err := json.Unmarshal(e.data, &p); err != nil {
					yield(Batch{}, fmt.Errorf("client: an event is not what the API promises: %w", err))
					return
				}
				if now := p.apply(b); !now.Final() && !yield(now, nil) { // the final one has more to it, and comes next
					return
				}
			case e.name == "end":
				var last Batch
				if err := json.Unmarshal(e.data, &last); err != nil {
					yield(Batch{}, fmt.Errorf("client: an event is not what the API promises: %w", err))
					return
				}
				yield(last, nil)
				return
			}
		}
		yield(Batch{}, errors.New("client: the events ended before the batch"))
	}
}

// event is a server-sent event.
type event struct {
	name string
	data []byte
}

// events reads server-sent events as of the HTML standard, as far as our server writes them: lines end in LF or CRLF, and an event that its
// stream's end cuts short is none. An error is the last thing yielded.
func events(from io.Reader) iter.Seq2[event, error] {
	return func(yield func(event, error) bool) {
		lines := bufio.NewScanner(from)
		lines.Buffer(make([]byte, 16<<10), maxAnswer)
		e := event{name: "message"}
		for lines.Scan() {
			line := lines.Bytes()
			if len(line) == 0 {
				if e.data != nil && !yield(e, nil) {
					return
				}
				e = event{name: "message"}
				continue
			}
			field, value, _ := bytes.Cut(line, []byte(":"))
			value = bytes.TrimPrefix(value, []byte(" "))
			switch string(field) {
			case "event":
				e.name = string(value)
			case "data":
				if e.data != nil {
					e.data = append(e.data, '\n')
				}
				e.data = append(append(make([]byte, 0, len(e.data)+len(value)), e.data...), value...)
			}
		}
		if err := lines.Err(); err != nil {
			yield(event{}, err)
		}
	}
}
