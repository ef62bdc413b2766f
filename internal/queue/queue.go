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
	"golang.org/x/sync/errgroup"
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
	Express  bool      `json:"express,omitempty"` // of a batch that has nothing under way
}

// Queues of tasks. Each has a server of its own, see [Serve].
const (
	planQueue    = "plan"
	expressQueue = "express"
	runQueue     = "run"
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

// posters is how many tickets are enqueued at once: each is a round trip.
const posters = 8

// Post enqueues tickets, in no particular order when there are many. A ticket that is queued already is not doubled.
func (c *Client) Post(ctx context.Context, tickets []Ticket) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(posters)
	for i := range tickets {
		if ctx.Err() != nil {
			break
		}
		g.Go(func() error { return c.post(ctx, &tickets[i]) })
	}
	if err := g.Wait(); err != nil {
		return fmt.Errorf("queue: post: %w", err)
	}
	return nil
}

func (c *Client) post(ctx context.Context, t *Ticket) error {
	payload, err := json.Marshal(t)
	if err != nil {
		return err
	}
	name, queue := "run:"+t.Kind, runQueue
	switch {
	case t.Purpose == "plan":
		name, queue = "plan", planQueue
	case t.Express:
		queue = expressQueue
	}
	_, err = c.c.EnqueueContext(ctx, asynq.NewTask(name, payload), asynq.TaskID(strconv.FormatInt(t.ID, 10)),
		asynq.Queue(queue), asynq.MaxRetry(0), asynq.Timeout(30*24*time.Hour))
	if err != nil && !errors.Is(err, asynq.ErrTaskIDConflict) {
		return err
	}
	return nil
}

// Depth says how many tasks wait and how many are being worked on, over all queues.
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

// Lanes is how many tickets of each queue are worked on at once.
type Lanes struct{ Plan, Express, Run int }

// pollInterval is how often an idle lane asks Redis for a task, on average. Asynq can't wait for one. A shorter interval would be felt by
// small batches only, which pass two lanes; one process costs Redis three questions in this time.
const pollInterval = 150 * time.Millisecond

// Serve hands tickets to work until ctx ends, and then waits up to drain for those that are running. It returns an error only when Redis
// can't be used at the start. Each queue has a server of its own, so that the tickets of one never wait for a slot behind those of another:
// one server with several queues shares its slots. One for run tickets is enough: it takes 11,000 tasks a second, and a ticket is hundreds
// of jobs when it matters.
func Serve(ctx context.Context, redisURL string, lanes Lanes, drain time.Duration, log *slog.Logger, work func(context.Context, Ticket)) error {
	opt, err := connection(redisURL)
	if err != nil {
		return err
	}
	handle := func(tctx context.Context, task *asynq.Task) error {
		var t Ticket
		if err := json.Unmarshal(task.Payload(), &t); err != nil {
			log.ErrorContext(tctx, "task without a ticket dropped", "type", task.Type(), "err", err)
			return nil
		}
		work(tctx, t)
		return nil
	}
	g, gctx := errgroup.WithContext(ctx)
	for queue, slots := range map[string]int{planQueue: lanes.Plan, expressQueue: lanes.Express, runQueue: lanes.Run} {
		g.Go(func() error {
			srv := asynq.NewServer(opt, asynq.Config{
				Concurrency:              slots,
				Queues:                   map[string]int{queue: 1},
				TaskCheckInterval:        pollInterval,
				DelayedTaskCheckInterval: time.Minute, // tickets are neither delayed nor retried
				JanitorInterval:          time.Minute, // nor kept
				ShutdownTimeout:          drain,
				LogLevel:                 asynq.WarnLevel,
				Logger:                   logger{log},
				BaseContext:              func() context.Context { return context.WithoutCancel(ctx) }, // work drains by its own rules
			})
			if err := srv.Start(asynq.HandlerFunc(handle)); err != nil {
				return fmt.Errorf("queue: serve: %w", err)
			}
			<-gctx.Done()
			srv.Shutdown()
			return nil
		})
	}
	return g.Wait()
}

// logger lets Asynq write through slog.
type logger struct{ log *slog.Logger }

func (l logger) Debug(a ...any) { l.log.Debug("asynq", "text", fmt.Sprint(a...)) }
func (l logger) Info(a ...any)  { l.log.Info("asynq", "text", fmt.Sprint(a...)) }
func (l logger) Warn(a ...any)  { l.log.Warn("asynq", "text", fmt.Sprint(a...)) }
func (l logger) Error(a ...any) { l.log.Warn("asynq", "text", fmt.Sprint(a...)) }
func (l logger) Fatal(a ...any) { l.log.Error("asynq", "text", fmt.Sprint(a...)) }
