package client

import (
	"context"
	"encoding/json"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// Schedule is a batch that is run again and again.
type Schedule struct {
	ID            string          `json:"id"`
	Name          string          `json:"name"`
	Cron          string          `json:"cron"`
	TimeZone      string          `json:"time_zone"`
	StartsAt      *time.Time      `json:"starts_at"`
	EndsAt        *time.Time      `json:"ends_at"`
	JitterSeconds int32           `json:"jitter_seconds"`
	Enabled       bool            `json:"enabled"`
	Overlap       string          `json:"overlap"`  // skip, queue or cancel_older
	CatchUp       string          `json:"catch_up"` // none, last or all
	CatchUpLimit  int32           `json:"catch_up_limit"`
	Batch         json.RawMessage `json:"batch"` // without jobs in lists
	JobCount      *int32          `json:"job_count"`
	NextDueAt     *time.Time      `json:"next_due_at"` // nil: never again
	NextStartAt   *time.Time      `json:"next_start_at"`
	CreatedAt     time.Time       `json:"created_at"`
	UpdatedAt     time.Time       `json:"updated_at"`
	Export        *ExportOptions  `json:"export"` // nil for none
}

// Tick is a time that a schedule was due, and what came of it.
type Tick struct {
	ScheduleID string     `json:"schedule_id"`
	DueAt      time.Time  `json:"due_at"`
	Manual     bool       `json:"manual"`
	State      string     `json:"state"` // pending, starting, running; ran, skipped, missed, failed
	Reason     *string    `json:"reason"`
	BatchID    *string    `json:"batch_id"`
	BatchState *string    `json:"batch_state"`
	Attempts   int32      `json:"attempts"`
	StartedAt  *time.Time `json:"started_at"`
	EndedAt    *time.Time `json:"ended_at"`
	Export     *struct {
		ID    string  `json:"id"`
		State string  `json:"state"` // as of Export
		Error *string `json:"error"`
	} `json:"export"` // nil for none

	// Replayed says that an earlier request with the same idempotency key made this tick. Only RunSchedule sets it.
	Replayed bool `json:"-"`
}

// DueTime is a time at which a schedule will be due.
type DueTime struct {
	DueAt   time.Time `json:"due_at"`
	StartAt time.Time `json:"start_at"` // with the jitter
	Local   time.Time `json:"local"`    // DueAt in the schedule's zone
}

// CreateSchedule makes a schedule of the fields that the API takes, such as cron, time_zone and batch.
func (c *Client) CreateSchedule(ctx context.Context, fields map[string]any) (Schedule, error) {
	return call[Schedule](ctx, c, http.MethodPost, "/v1/schedules", fields)
}

// UpdateSchedule changes the given fields of a schedule.
func (c *Client) UpdateSchedule(ctx context.Context, id string, fields map[string]any) (Schedule, error) {
	return call[Schedule](ctx, c, http.MethodPatch, schedulePath(id), fields)
}

// Schedule returns a schedule, with its jobs.
func (c *Client) Schedule(ctx context.Context, id string) (Schedule, error) {
	return call[Schedule](ctx, c, http.MethodGet, schedulePath(id), nil)
}

// Schedules lists the project's schedules, newest first. An error is the last thing yielded.
func (c *Client) Schedules(ctx context.Context) iter.Seq2[Schedule, error] {
	return pages[Schedule](ctx, c, "/v1/schedules", url.Values{"limit": {"200"}})
}

// DeleteSchedule removes a schedule and its ticks; its batches stay.
func (c *Client) DeleteSchedule(ctx context.Context, id string) error {
	return c.remove(ctx, schedulePath(id))
}

// RunSchedule makes a schedule due now. Of requests with the same idempotency key, empty for none, the first one does.
func (c *Client) RunSchedule(ctx context.Context, id, key string) (t Tick, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, answerLimit, errNoAnswer)
	defer cancel()
	req, err := c.request(ctx, http.MethodPost, schedulePath(id)+"/run", nil)
	if err != nil {
		return t, err
	}
	if key != "" {
		req.Header.Set("Idempotency-Key", key)
	}
	res, err := c.send(req)
	if err != nil {
		return t, err
	}
	defer res.Body.Close()
	err = decode(ctx, res.Body, &t)
	t.Replayed = res.Header.Get("Idempotency-Replayed") == "true"
	return t, err
}

// PreviewSchedule lists the next n times at which a schedule will be due.
func (c *Client) PreviewSchedule(ctx context.Context, id string, n int) ([]DueTime, error) {
	list, err := call[dueTimes](ctx, c, http.MethodGet, schedulePath(id)+"/preview?n="+strconv.Itoa(n), nil)
	return list.Data, err
}

// PreviewCron lists the next n times at which a schedule with that expression would be due.
func (c *Client) PreviewCron(ctx context.Context, cron, zone string, n int) ([]DueTime, error) {
	body := map[string]any{"cron": cron, "n": n}
	if zone != "" {
		body["time_zone"] = zone
	}
	list, err := call[dueTimes](ctx, c, http.MethodPost, "/v1/schedule-preview", body)
	return list.Data, err
}

type dueTimes struct {
	Data []DueTime `json:"data"`
}

// Ticks lists what came of each time that a schedule was due, the latest first, in a state unless it is empty. An error is the last thing
// yielded.
func (c *Client) Ticks(ctx context.Context, id, state string) iter.Seq2[Tick, error] {
	query := url.Values{"limit": {"200"}}
	if state != "" {
		query.Set("state", state)
	}
	return pages[Tick](ctx, c, schedulePath(id)+"/ticks", query)
}

func schedulePath(id string) string { return "/v1/schedules/" + url.PathEscape(id) }
