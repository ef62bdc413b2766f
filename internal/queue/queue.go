// Package queue carries tickets over Redis with Asynq: it posts, serves and inspects tasks. A task is a hint that a piece of work is
// outstanding; losing, doubling or delaying one costs time, never work, because Postgres holds the ticket itself.
//
// Asynq's own retries are not used. A task that fails or whose worker dies is dropped (and may be archived); the sweep reissues the
// ticket under a new id. Task ids are unique per ticket, so an archived task can never block a later one.
package queue

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/hibiken/asynq"
)

// Ticket is what a task carries: enough to claim the work, nothing of the work itself.
type Ticket struct {
	ID       int64     `json:"id"`
	BatchID  uuid.UUID `json:"batch"`
	Kind     string    `json:"kind"`
	Purpose  string    `json:"purpose"` // plan, run or retry
	FirstSeq int32     `json:"first"`
	LastSeq  int32     `json:"last"`
	Jobs     int32     `json:"jobs"`
}

// Queues of tasks. Planning is apart so that a long backlog of runs doesn't keep a new batch waiting.
const (
	planQueue = "plan"
	runQueue  = "run"
)

// Client posts tickets. It is safe for concurrent use.
type Client struct {
	c *asynq.Client
	i *asynq.Inspector
}

// NewClient parses the URL, of one server, of sentinels or of a cluster, and connects lazily.
func NewClient(redisURL string) (*Client, error) {
	opt, err := connection(redisURL)
	if err != nil {
		return nil, err
	}
	return &Client{asynq.NewClient(opt), asynq.NewInspector(opt)}, nil
}

// Close releases the connections.
func (c *Client) Close() error { return errors.Join(c.c.Close(), c.i.Close()) }

// Ping asks Redis for a sign of life.
func (c *Client) Ping(context.Context) error { return c.c.Ping() }

// Post enqueues tickets. A ticket that is queued already is not doubled.
func (c *Client) Post(ctx context.Context, tickets []Ticket) error {
	for _, t := range tickets {
		payload, err := json.Marshal(t)
		if err != nil {
			return fmt.Errorf("queue: post: %w", err)
		}
		name, queue := "run:"+t.Kind, runQueue
		if t.Purpose == "plan" {
			name, queue = "plan", planQueue
		}
		_, err = c.c.EnqueueContext(ctx, asynq.NewTask(name, payload), asynq.TaskID(strconv.FormatInt(t.ID, 10)),
			asynq.Queue(queue), asynq.MaxRetry(0), asynq.Timeout(30*24*time.Hour))
		if err != nil && !errors.Is(err, asynq.ErrTaskIDConflict) {
			return fmt.Errorf("queue: post: %w", err)
		}
	}
	return nil
}

// Depth says how many tasks wait and how many are being worked on, over both queues.
func (c *Client) Depth() (waiting, active int, err error) {
	known, err := c.i.Queues() // asking for a queue that nothing was ever posted to is an error without a type
	if err != nil {
		return 0, 0, fmt.Errorf("queue: depth: %w", err)
	}
	for _, q := range known {
		info, err := c.i.GetQueueInfo(q)
		if err != nil {
			return 0, 0, fmt.Errorf("queue: depth: %w", err)
		}
		waiting, active = waiting+info.Pending, active+info.Active
	}
	return waiting, active, nil
}

// Serve hands tickets to work, slots at a time, until ctx ends, and then waits up to drain for those that are running. It returns an
// error only when Redis can't be used at the start.
func Serve(ctx context.Context, redisURL string, slots int, drain time.Duration, log *slog.Logger, work func(context.Context, Ticket)) error {
	opt, err := connection(redisURL)
	if err != nil {
		return err
	}
	srv := asynq.NewServer(opt, asynq.Config{
		Concurrency:       slots,
		Queues:            map[string]int{planQueue: 3, runQueue: 7},
		TaskCheckInterval: 100 * time.Millisecond, // an idle server asks Redis ten times a second
		ShutdownTimeout:   drain,
		LogLevel:          asynq.WarnLevel,
		Logger:            logger{log},
		BaseContext:       func() context.Context { return context.WithoutCancel(ctx) }, // work drains by its own rules
	})
	handle := func(tctx context.Context, task *asynq.Task) error {
		var t Ticket
		if err := json.Unmarshal(task.Payload(), &t); err != nil {
			log.ErrorContext(tctx, "task without a ticket dropped", "type", task.Type(), "err", err)
			return nil
		}
		work(tctx, t)
		return nil
	}
	if err := srv.Start(asynq.HandlerFunc(handle)); err != nil {
		return fmt.Errorf("queue: serve: %w", err)
	}
	<-ctx.Done()
	srv.Shutdown()
	return nil
}

// logger lets Asynq write through slog.
type logger struct{ log *slog.Logger }

func (l logger) Debug(a ...any) { l.log.Debug("asynq", "text", fmt.Sprint(a...)) }
func (l logger) Info(a ...any)  { l.log.Info("asynq", "text", fmt.Sprint(a...)) }
func (l logger) Warn(a ...any)  { l.log.Warn("asynq", "text", fmt.Sprint(a...)) }
func (l logger) Error(a ...any) { l.log.Warn("asynq", "text", fmt.Sprint(a...)) }
func (l logger) Fatal(a ...any) { l.log.Error("asynq", "text", fmt.Sprint(a...)) }
