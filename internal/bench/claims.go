package bench

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"

	"batchwright/internal/store"
)

const (
	claimTicket  = 50 // jobs of a ticket
	claimTickets = 5  // of a round of dispatch
	claimRounds  = 8
	claimMost    = 4 // rounds of the bench, and one before them: the few must last
)

// pendingInputs and pendingJobs are a batch that was just planned, with nothing in the cache.
const (
	pendingBatch = `insert into batches (id, project_id, name, kind, state, route, params, on_invalid, cache, request_sha256, total_jobs, next_seq, started_at)
values ($1, $2, '', 'generate', 'running', '{}', '{}', 'refuse', 'use', '', $3, 1, now())`
	pendingInputs = `insert into inputs (batch_id, seq, custom_id, input) select $1, s, 'p-' || s, '{"name":"product P10 000000"}' from generate_series(1, $2) s`
	pendingJobs   = `insert into jobs (batch_id, seq, state, key) select $1, s, 'planned', sha256(convert_to($1::uuid::text || s, 'UTF8')) from generate_series(1, $2) s`
)

// claims is P10: what it takes to hand jobs out, with little pending and with much. No worker runs; the bench asks the store what a
// worker asks it.
func claims(ctx context.Context, l *lab) (_ []line, err error) {
	many, few := l.size(1_000_000, 20_000), l.size(10_000, 10_000)
	jobs := line{name: fmt.Sprintf("P10 claims/s, %d pending : %d pending", many, few), target: 0.8,
		note: fmt.Sprintf("Rounds of dispatch that issue %d tickets of %d jobs, each of which is then claimed: %d jobs a round of the bench, with the store's own statements over one connection, in databases of their own.",
			claimTickets, claimTicket, claimRounds*claimTickets*claimTicket)}
	l.say(fmt.Sprintf("P10: making %d and %d pending jobs", many, few))
	large, err := l.pending(ctx, many)
	if err != nil {
		return nil, err
	}
	defer large.close(ctx)
	small, err := l.pending(ctx, few)
	if err != nil {
		return nil, err
	}
	defer small.close(ctx)
	for round := range min(l.rounds, claimMost-1) + 1 {
		a, err := large.claim(ctx)
		if err != nil {
			return nil, err
		}
		b, err := small.claim(ctx)
		if err != nil {
			return nil, err
		}
		if round == 0 {
			continue // connections and statements are new
		}
		jobs.read(a, b, "", nil)
		l.say(fmt.Sprintf("P10 round %d: %.0f claims/s with %d pending, %.0f with %d", round, a, many, b, few))
	}
	return []line{jobs}, nil
}

// backlog is a database with a batch whose jobs are all pending.
type backlog struct {
	*statements
	batch  uuid.UUID
	worker uuid.UUID
}

func (l *lab) pending(ctx context.Context, n int) (_ *backlog, err error) {
	s, err := l.statements(ctx)
	if err != nil {
		return nil, err
	}
	b := &backlog{s, uuid.New(), uuid.New()}
	defer func() {
		if err != nil {
			b.close(ctx)
		}
	}()
	if _, err := b.look.Exec(ctx, pendingBatch, b.batch, b.project, n); err != nil {
		return nil, err
	}
	for _, sql := range []string{pendingInputs, pendingJobs} {
		if _, err := b.look.Exec(ctx, sql, b.batch, n); err != nil {
			return nil, err
		}
	}
	if _, err := b.look.Exec(ctx, `vacuum analyze`); err != nil {
		return nil, err
	}
	return b, b.db.Register(ctx, store.Worker{ID: b.worker, Hostname: "bench", Slots: 64, Concurrency: 256})
}

// claim hands jobs out and returns how many a second.
func (b *backlog) claim(ctx context.Context) (float64, error) {
	got := 0
	began := time.Now()
	for range claimRounds {
		_, tickets, err := b.db.Dispatch(ctx, func([]store.OpenBatch, store.Fleet) []store.Grant {
			return []store.Grant{{Batch: b.batch, Run: claimTickets, Size: claimTicket}}
		})
		if err != nil {
			return 0, fmt.Errorf("dispatch: %w", err)
		}
		for _, t := range tickets {
			claimed, err := b.db.ClaimJobs(ctx, t, b.worker, time.Minute)
			if err != nil {
				return 0, fmt.Errorf("claim jobs: %w", err)
			}
			got += len(claimed)
			if err := b.db.EndTicket(ctx, t.ID, b.worker); err != nil {
				return 0, fmt.Errorf("end ticket: %w", err)
			}
		}
	}
	took := time.Since(began)
	if want := claimRounds * claimTickets * claimTicket; got != want {
		return 0, fmt.Errorf("%d jobs were claimed, want %d", got, want)
	}
	return float64(got) / took.Seconds(), nil
}
