package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/hibiken/asynq"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"
)

// straw is the naive way to run a batch: a row a job, an Asynq task a job, a call, an UPDATE a job. It has no ledger, no
// cache, no fencing and no API, so it does far less; it runs with the settings that suit it, and in this process.
type straw struct {
	db    *pgxpool.Pool
	opt   asynq.RedisConnOpt
	calls *caller
	drop  func(context.Context) error
}

const (
	strawConns   = 16 // as a worker has
	strawPosters = 16 // goroutines that enqueue
)

func (l *lab) straw(ctx context.Context, concurrency int) (*straw, error) {
	databaseURL, redisURL, drop, err := l.database(ctx)
	if err != nil {
		return nil, err
	}
	opt, err := asynq.ParseRedisURI(redisURL)
	if err != nil {
		return nil, err
	}
	db, err := connect(ctx, databaseURL, strawConns)
	if err != nil {
		return nil, err
	}
	_, err = db.Exec(ctx, `create table job (id integer primary key, state text not null, body json not null, output json, finished_at timestamptz)`)
	return &straw{db: db, opt: opt, calls: newCaller(l.backends[atOnce], concurrency), drop: drop}, err
}

func (s *straw) close(ctx context.Context) {
	s.calls.close()
	s.db.Close()
	_ = s.drop(context.WithoutCancel(ctx)) // the server goes with its data
}

// all runs the jobs and returns how many a second that were.
func (s *straw) all(ctx context.Context, bodies [][]byte, concurrency int) (float64, error) {
	if _, err := s.db.Exec(ctx, `truncate job`); err != nil {
		return 0, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var left atomic.Int64
	left.Store(int64(len(bodies)))
	done := make(chan struct{})
	srv := asynq.NewServer(s.opt, asynq.Config{Concurrency: concurrency, TaskCheckInterval: 100 * time.Millisecond, LogLevel: asynq.FatalLevel, Logger: silent{}})
	work := func(_ context.Context, t *asynq.Task) error {
		if err := s.job(ctx, t); err != nil {
			cancel(err)
			return err
		}
		if left.Add(-1) == 0 {
			close(done)
		}
		return nil
	}
	if err := srv.Start(asynq.HandlerFunc(work)); err != nil {
		return 0, err
	}
	defer srv.Shutdown()
	began := time.Now()
	if err := s.submit(ctx, bodies); err != nil {
		return 0, err
	}
	select {
	case <-done:
		return float64(len(bodies)) / time.Since(began).Seconds(), nil
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	}
}

type strawTask struct {
	ID   int             `json:"id"`
	Body json.RawMessage `json:"body"`
}

func (s *straw) submit(ctx context.Context, bodies [][]byte) error {
	i := 0
	if _, err := s.db.CopyFrom(ctx, pgx.Identifier{"job"}, []string{"id", "state", "body"}, pgx.CopyFromFunc(func() ([]any, error) {
		if i == len(bodies) {
			return nil, nil
		}
		i++
		return []any{i - 1, "pending", bodies[i-1]}, nil
	})); err != nil {
		return err
	}
	c := asynq.NewClient(s.opt)
	defer func() { _ = c.Close() }()
	var next atomic.Int64
	g, gctx := errgroup.WithContext(ctx)
	for range strawPosters {
		g.Go(func() error {
			for i := next.Add(1) - 1; i < int64(len(bodies)); i = next.Add(1) - 1 {
				payload, err := json.Marshal(strawTask{int(i), bodies[i]})
				if err != nil {
					return err
				}
				if _, err := c.EnqueueContext(gctx, asynq.NewTask("job", payload)); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return g.Wait()
}

func (s *straw) job(ctx context.Context, t *asynq.Task) error {
	var task strawTask
	if err := json.Unmarshal(t.Payload(), &task); err != nil {
		return errors.Join(err, asynq.SkipRetry)
	}
	answer, err := s.calls.call(ctx, task.Body)
	if err != nil {
		return err
	}
	tag, err := s.db.Exec(ctx, `update job set state = 'succeeded', output = $2, finished_at = now() where id = $1`, task.ID, answer)
	if err == nil && tag.RowsAffected() != 1 {
		err = fmt.Errorf("job %d has no row", task.ID)
	}
	return err
}

// silent is Asynq's logger: what goes wrong comes back as an error.
type silent struct{}

func (silent) Debug(...any) {}
func (silent) Info(...any)  {}
func (silent) Warn(...any)  {}
func (silent) Error(...any) {}
func (silent) Fatal(...any) {}
