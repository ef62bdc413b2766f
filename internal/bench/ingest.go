package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

const (
	linesFull  = 1_000_000
	linesQuick = 20_000
	apiGrowth  = 64 // MiB
	hitsFull   = 100_000
	hitsQuick  = 2_000
)

// input is a row of inputs, as the API stores it.
type input struct {
	customID string
	input    json.RawMessage
}

// copyInputs is the ceiling of everything that stores a submission: the same rows by COPY into a table like inputs, and
// nothing else. It returns rows a second.
func (s *system) copyInputs(ctx context.Context, n int, row func(i int) input) (float64, error) {
	if _, err := s.db.Exec(ctx, `create table if not exists copied (like inputs including all)`); err != nil {
		return 0, err
	}
	batch, i := [16]byte(uuid.New()), 0 // as bytes: pgx asks a uuid.UUID for its text
	values := make([]any, 6)
	began := time.Now()
	_, err := s.db.CopyFrom(ctx, pgx.Identifier{"copied"}, []string{"batch_id", "seq", "custom_id", "input", "document_sha256", "invalid"},
		pgx.CopyFromFunc(func() ([]any, error) {
			if i == n {
				return nil, nil
			}
			in := row(i)
			i++
			values[0], values[1], values[2], values[3], values[4], values[5] = batch, int32(i), &in.customID, in.input, []byte(nil), json.RawMessage(nil)
			return values, nil
		}))
	if err != nil {
		return 0, err
	}
	rate := float64(n) / time.Since(began).Seconds()
	_, err = s.db.Exec(ctx, `truncate copied`)
	return rate, err
}

// ingest is P4: how fast a submission becomes a committed batch, and what memory that takes. No worker runs: it would
// begin to plan.
func ingest(ctx context.Context, l *lab) (_ []line, err error) {
	n := l.size(linesFull, linesQuick)
	s, err := l.system(ctx, nil)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.close(ctx)) }()
	lines := line{name: "P4 lines/s of NDJSON, committed : COPY rows/s", target: 0.60,
		note: fmt.Sprintf("%d lines of %d bytes, each with a custom_id and a variable that is checked, from the first byte of the request to the answer 202. The ceiling is one COPY of the same rows into a table like inputs.", n, lineBytes)}
	memory := line{name: "P4 growth of the API's peak RSS, MiB : limit", target: 1, atMost: true,
		note: "Of an API process that was started for the round."}
	if _, err := s.ingest(ctx, linesQuick/10, "w"); err != nil {
		return nil, err
	}
	for round := range l.rounds {
		if err := s.startAPI(ctx); err != nil {
			return nil, err
		}
		before := peakRSS(s.api.pid())
		r, err := s.ingest(ctx, n, "r")
		if err != nil {
			return nil, err
		}
		grown := peakRSS(s.api.pid()) - before
		ceiling, err := s.copyInputs(ctx, n, func(i int) input { return input{string(appendName(nil, "r", i)), document} })
		if err != nil {
			return nil, fmt.Errorf("copy: %w", err)
		}
		lines.add(r, ceiling)
		memory.ours, memory.ceiling = append(memory.ours, grown), append(memory.ceiling, apiGrowth)
		l.say(fmt.Sprintf("P4 round %d: %.0f lines/s in %s, API +%.1f MiB; COPY %.0f rows/s", round+1, r.rate(), r.done.Round(time.Millisecond), grown, ceiling))
	}
	return []line{lines, memory}, s.profile(ctx, "P4", seconds(float64(n)/median(lines.ours)), func(ctx context.Context) error {
		_, err := s.ingest(ctx, n, "p")
		return err
	})
}

// ingest submits n lines, counts their rows and removes them.
func (s *system) ingest(ctx context.Context, n int, tag string) (run, error) {
	r := run{jobs: n}
	before := s.cpu()
	began := time.Now()
	b, err := s.submit(ctx, "simulator/sim-1", documents(n, tag))
	if err != nil {
		return run{}, err
	}
	r.done = time.Since(began)
	r.accepted = r.done
	r.cpu, r.memory = s.cpu().sub(before), s.peaks()
	var stored int
	if err := s.db.QueryRow(ctx, `select count(*) from inputs where batch_id = $1`, b.ID).Scan(&stored); err != nil {
		return run{}, err
	}
	if stored != n {
		return run{}, fmt.Errorf("%d of %d lines have a row", stored, n)
	}
	_, err = s.db.Exec(ctx, `truncate inputs, tickets, batches cascade`)
	return r, err
}

// cached is P5: a second run of jobs that were all answered before.
func cached(ctx context.Context, l *lab) (_ []line, err error) {
	n := l.size(hitsFull, hitsQuick)
	const route, tag = "simulator/sim-1", "P5"
	s, err := l.system(ctx, []string{fmt.Sprintf("WORKER_CONCURRENCY=%d", concurrency)})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.close(ctx)) }()
	if err := s.warm(ctx, route); err != nil {
		return nil, err
	}
	l.say(fmt.Sprintf("P5: answering %d jobs for the first time", n))
	if _, err := s.fresh(ctx, n, route, tag); err != nil {
		return nil, fmt.Errorf("first run: %w", err)
	}
	jobs := line{name: "P5 jobs/s, all in the cache : COPY rows/s", target: 0.20,
		note: fmt.Sprintf("%d jobs that an earlier batch had answered. Each run is checked to take no run ticket and make no call. The ceiling is one COPY of the submission's rows into a table like inputs.", n)}
	for round := range l.rounds {
		r, err := s.hits(ctx, n, route, tag)
		if err != nil {
			return nil, err
		}
		ceiling, err := s.copyProducts(ctx, n, tag)
		if err != nil {
			return nil, err
		}
		jobs.add(r, ceiling)
		l.say(fmt.Sprintf("P5 round %d: %.0f jobs/s in %s; COPY %.0f rows/s", round+1, r.rate(), r, ceiling))
	}
	return []line{jobs}, s.profile(ctx, "P5", seconds(float64(n)/median(jobs.ours)), func(ctx context.Context) error {
		_, err := s.run(ctx, n, route, products(n, tag))
		return err
	})
}

// copyProducts is copyInputs of what products submits.
func (s *system) copyProducts(ctx context.Context, n int, tag string) (float64, error) {
	rate, err := s.copyInputs(ctx, n, func(i int) input {
		return input{fmt.Sprintf("p-%d", i), json.RawMessage(`{"name":"` + product(tag, i) + `"}`)}
	})
	if err != nil {
		return 0, fmt.Errorf("copy: %w", err)
	}
	return rate, nil
}

// madeAnyway counts a batch's calls, and its jobs that a worker claimed to run them.
const madeAnyway = `select (select count(*) from calls where batch_id = $1), (select count(*) from jobs where batch_id = $1 and first_run_at is not null)`

// hits runs jobs that are all in the cache, and checks that nothing was run or called for them.
func (s *system) hits(ctx context.Context, n int, route, tag string) (run, error) {
	r, err := s.run(ctx, n, route, products(n, tag))
	if err != nil {
		return run{}, err
	}
	var calls, claimed int64
	if err := s.db.QueryRow(ctx, madeAnyway, r.batch.ID).Scan(&calls, &claimed); err != nil {
		return run{}, err
	}
	if hits := r.batch.Stats.Cache.ResultHit; hits != int64(n) || calls != 0 || claimed != 0 {
		return run{}, fmt.Errorf("%d jobs had %d hits, %d calls and %d claims: want %[1]d, 0 and 0", n, hits, calls, claimed)
	}
	return r, s.settle(ctx)
}
