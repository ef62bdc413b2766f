package bench

import (
	"context"
	"errors"
	"fmt"
)

const (
	jobsFull    = 20_000
	jobsQuick   = 1_000
	concurrency = 256
)

// overHTTP is P1: jobs end to end, with a provider that answers at once behind real HTTP.
func overHTTP(ctx context.Context, l *lab) (_ []line, err error) {
	n := l.size(jobsFull, jobsQuick)
	const route = "openai-compatible:sim-1"
	s, err := l.system(ctx, []string{fmt.Sprintf("WORKER_CONCURRENCY=%d", concurrency)})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.close(ctx)) }()
	naive, err := l.straw(ctx, concurrency)
	if err != nil {
		return nil, err
	}
	defer naive.close(ctx)
	bare := newCaller(l.backends[atOnce], concurrency)
	defer bare.close()
	if err := s.warm(ctx, route); err != nil {
		return nil, err
	}
	requests, err := bodies(n, "bare")
	if err != nil {
		return nil, err
	}
	if _, err := bare.all(ctx, requests[:min(n, warmJobs)], concurrency); err != nil {
		return nil, err
	}
	jobs := line{name: "P1 jobs/s, provider over HTTP : bare calls/s", target: 0.30,
		note: fmt.Sprintf("%d jobs, %d calls in flight, an answer at once, nothing in the cache, with the ledger and a budget of the project's on. The ceiling is a tuned net/http client that sends the same bodies to the same provider and reads the answers.", n, concurrency)}
	straw := line{name: "P1 the same : one task and one UPDATE a job", target: 3,
		note: "The naive way, with the same provider, Postgres and Redis: a row, an Asynq task, a call and an UPDATE a job. It has no ledger, cache, fencing or API."}
	for round := range l.rounds {
		r, err := s.fresh(ctx, n, route, fmt.Sprintf("P1 %d", round))
		if err != nil {
			return nil, err
		}
		ceiling, err := bare.all(ctx, requests, concurrency)
		if err != nil {
			return nil, fmt.Errorf("bare calls: %w", err)
		}
		other, err := naive.all(ctx, requests, concurrency)
		if err != nil {
			return nil, fmt.Errorf("the naive way: %w", err)
		}
		jobs.add(r, ceiling)
		straw.ours, straw.ceiling = append(straw.ours, r.rate()), append(straw.ceiling, other)
		l.say(fmt.Sprintf("P1 round %d: %.0f jobs/s in %s; bare %.0f calls/s; naive %.0f jobs/s", round+1, r.rate(), r, ceiling, other))
	}
	return []line{jobs, straw}, s.profileRun(ctx, "P1", n, route, jobs)
}

// inProcess is P2: the same with a provider that runs in the worker, so that no HTTP stands between.
func inProcess(ctx context.Context, l *lab) (_ []line, err error) {
	n := l.size(jobsFull, jobsQuick)
	const route = "simulator/sim-1"
	s, err := l.system(ctx, []string{fmt.Sprintf("WORKER_CONCURRENCY=%d", concurrency)})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.close(ctx)) }()
	bare, err := l.statements(ctx)
	if err != nil {
		return nil, err
	}
	defer bare.close(ctx)
	if err := s.warm(ctx, route); err != nil {
		return nil, err
	}
	if _, err := bare.all(ctx, 2000); err != nil {
		return nil, err
	}
	jobs := line{name: "P2 jobs/s, simulator in the worker : two statements", target: 0.35,
		note: fmt.Sprintf("%d jobs, with ledger and budget as in P1. The ceiling writes an intent and a settlement for each, with the store's own statements in sets of %d over %d connections, and does nothing else.", n, groupSize, groupConns)}
	for round := range l.rounds {
		r, err := s.fresh(ctx, n, route, fmt.Sprintf("P2 %d", round))
		if err != nil {
			return nil, err
		}
		ceiling, err := bare.all(ctx, n)
		if err != nil {
			return nil, fmt.Errorf("two statements: %w", err)
		}
		jobs.add(r, ceiling)
		l.say(fmt.Sprintf("P2 round %d: %.0f jobs/s in %s; two statements %.0f jobs/s", round+1, r.rate(), r, ceiling))
	}
	return []line{jobs}, s.profileRun(ctx, "P2", n, route, jobs)
}

// fresh runs a batch of jobs that were never answered before, each with one call, and leaves the database tidy.
func (s *system) fresh(ctx context.Context, n int, route, tag string) (run, error) {
	r, err := s.run(ctx, n, route, products(n, tag))
	if err != nil {
		return run{}, err
	}
	if st := r.batch.Stats; st.Cache.Miss != int64(n) || st.Calls != int64(n) {
		return run{}, fmt.Errorf("%d jobs had %d misses and %d calls: want one each", n, st.Cache.Miss, st.Calls)
	}
	if c := r.batch.Stats.CostMicroUSD; c == nil || *c == 0 {
		return run{}, errors.New("the calls cost nothing: the budget was not drawn on")
	}
	return r, s.settle(ctx)
}

// profileRun makes one more run under a profile, if one is wanted. Its figure doesn't count.
func (s *system) profileRun(ctx context.Context, id string, n int, route string, jobs line) error {
	return s.profile(ctx, id, seconds(float64(n)/median(jobs.ours)), func(ctx context.Context) error {
		_, err := s.run(ctx, n, route, products(n, "profile"))
		return err
	})
}
