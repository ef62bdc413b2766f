package bench

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"runtime/debug"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	reporting "batchwright/internal/report"
	"batchwright/internal/store"
)

const reportsPreface = `# Benchmarks of reports and exports

Written by ` + "`make bench-reports`" + `; don't edit it. A scratch database holds 1,000,000 finished jobs of one project and one month, made by
generate_series: a batch of a quarter of them and batches of 5,000, three providers, hits of each cache, failures and second tries, a gateway's
log, three budgets, and a schedule that was due every minute. Each report is asked
for that month, as the API asks it, and its rows are read to the end; the ceiling is the promise of one second. An export is that of the large
batch, to nowhere; its ceiling is a raw COPY TO of the same columns of the same rows, measured in turn with it. A diff compares two more batches
of 1,000,000 jobs over the API's REST interface. Absolute figures are for
orientation. A ratio beyond its target is "short"; nothing fails by it.

`

const (
	reportLimit  = 1000 // ms
	reportGrowth = 64   // MiB that an export may take, whatever it exports
)

// archive is a database full of finished jobs.
type archive struct {
	db      *store.DB
	pool    *pgxpool.Pool
	project uuid.UUID
	large   uuid.UUID // the batch that is exported
	jobs    int       // of it
}

// Jobs of a batch, by their number among all: $1 jobs in all, of which a quarter are of batch 0.
const archived = `with g as (select g, case when g < $1 / 4 then 0 else 1 + (g - $1 / 4) / 5000 end as b from generate_series(0, $1::int - 1) g),
j as (select md5('b' || b)::uuid as batch, g, b, (g - case when b = 0 then 0 else $1 / 4 + (b - 1) * 5000 end)::int + 1 as seq,
    '2025-11-01Z'::timestamptz + b % 29 * interval '1 day' + g % 7200 * interval '1 second' as at from g)
`

func (a *archive) fill(ctx context.Context, n int) error {
	for _, sql := range []string{
		`insert into templates (id, project_id, name, version, spec, spec_sha256) select gen_random_uuid(), '` + a.project.String() + `', 't' || v, 1, '{}', sha256(v::text::bytea)
			from generate_series(1, 3) v where $1 > 0`,
		archived + `insert into batches (id, project_id, name, kind, state, template_id, api_key_id, route, params, metadata, on_invalid, cache, request_sha256, total_jobs, created_at,
			started_at, finished_at, succeeded_jobs, failed_jobs, cancelled_jobs, result_hits, coalesced, gateway_hits, misses, bypassed, calls, uncertain_calls, unpriced_calls,
			input_tokens, cached_input_tokens, output_tokens, cost_microusd)
			select batch, '` + a.project.String() + `', 'night ' || b, 'generate', 'completed', (select id from templates where name = 't' || 1 + b % 3), (select id from api_keys limit 1), '{}', '{}',
			jsonb_build_object('team', 'team ' || b % 7), 'skip', 'use', '', count(*), min(at), min(at), max(at),
			count(*) filter (where g % 50 > 0), count(*) filter (where g % 50 = 0), 0, count(*) filter (where g % 5 = 1), 0, 0, count(*) filter (where g % 5 <> 1), 0,
			count(*) filter (where g % 5 <> 1) + count(*) filter (where g % 50 = 0), 0, 0, coalesce(sum(700) filter (where g % 5 <> 1), 0) + coalesce(sum(700) filter (where g % 50 = 0), 0), 0,
			coalesce(sum(90) filter (where g % 5 <> 1), 0) + coalesce(sum(90) filter (where g % 50 = 0), 0), coalesce(sum(g % 1000) filter (where g % 5 <> 1), 0) + coalesce(sum(g % 1000) filter (where g % 50 = 0), 0)
			from j group by batch, b`,
		archived + `insert into inputs (batch_id, seq, custom_id, input) select batch, seq, 'item-' || g, '{}' from j`,
		archived + `insert into jobs (batch_id, seq, attempts, state, cache_status, finished_at, result_key, result_generation, calls, input_tokens, output_tokens, cost_microusd, provider,
			model, error_class, error_message)
			select batch, seq, 1, case when g % 50 = 0 then 'failed' else 'succeeded' end, case when g % 5 = 1 then 'result_hit' else 'miss' end, at,
			case when g % 50 > 0 then decode(md5((g % 100000)::text), 'hex') end, case when g % 50 > 0 then 1 end,
			k, 700 * k, 90 * k, g % 1000 * k, 'p' || g % 3, 'm' || g % 3, case when g % 50 = 0 then 'server' end, case when g % 50 = 0 then 'the provider failed' end
			from (select *, case when g % 50 = 0 then 2 when g % 5 = 1 then 0 else 1 end as k from j) j`,
		archived + `insert into calls (batch_id, seq, ticket_id, number, started_at, settled_at, reserved_microusd, cost_microusd, input_tokens, cached_input_tokens, cache_write_tokens,
			output_tokens, gateway_cache_status, gateway_log_id, latency_ms, http_status, step, state, provider, model, answered_by, error_class, finish_reason)
			select batch, seq, 1, k, at, at, 2000, g % 1000, 700, 0, case when g % 3 = 1 then 100 end, 90, case when g % 10 = 2 then 'HIT' end,
			case when g % 3 = 0 then md5('l' || g || k)::uuid::text end, 50 + g * 7919::bigint % 997 * (1 + g % 11), 200, 0, 'settled', 'p' || g % 3, 'm' || g % 3, 'm', case when g % 50 = 0 then 'server' end, 'stop'
			from j, generate_series(1, 2) k where g % 5 <> 1 and (k = 1 or g % 50 = 0)`,
		`insert into completions (project_id, key, input_tokens, cached_input_tokens, output_tokens, cost_microusd, format, model, provider, answered_by, output)
			select '` + a.project.String() + `', decode(md5(g::text), 'hex'), 700, 0, 90, 100, 'text', 'm', 'p', 'm', repeat(md5(g::text) || ' ', 8)
			from generate_series(0, least($1, 100000) - 1) g`,
		`insert into call_notes select batch_id, seq, ticket_id, number, false, 700, 0, 90, 200 from calls where gateway_cache_status = 'HIT' and seq % 3 = 0 and $1 > 0`,
		`insert into prices (id, provider, model, valid_from, input_microusd, output_microusd, cached_input_microusd, cache_write_microusd)
			select gen_random_uuid(), 'p1', 'm1', '2025-01-01', 1000000, 4000000, 100000, 1250000 where $1 > 0`,
		`insert into gateway_logs (id, account, gateway, created_at, event_id, request_id, provider, model, model_type, path, request_type, request_content_type,
			response_content_type, user_agent, status_code, success, cached, authenticated, streamed, custom_cost, duration_us, tokens_in, tokens_out, cost_nano_usd, step,
			dlp_action, request_size, response_size)
			select gateway_log_id::uuid, 'a', 'g', started_at, '', '', provider, model, 'chat', '', 'universal', '', '', '', 200, true, false, true, false, false, 1000, 700, 90,
			cost_microusd * 1000 + 3, step, '', 2000, 500 from calls where gateway_log_id is not null and $1 > 0`,
		`insert into budgets (id, project_id, scope, api_key_id, name, period, limit_microusd)
			select gen_random_uuid(), '` + a.project.String() + `', case when period = 'month' then 'api_key' else 'project' end, case when period = 'month' then (select id from api_keys limit 1) end,
			'', period, 1000000000000 from unnest('{total,month,day}'::text[]) period where $1 > 0`,
		`insert into budget_periods (budget_id, starts_at, ends_at, spent_microusd, ceiling_microusd)
			select g.id, p.starts_at, p.ends_at, sum(d.cost), g.limit_microusd
			from budgets g, (select date_trunc('day', started_at, 'UTC') as day, sum(cost_microusd) as cost from calls group by 1) d, budget_period(g.period, g.time_zone, d.day) p
			where $1 > 0 group by 1, 2, 3`,
		`insert into schedules (id, project_id, api_key_id, name, cron, time_zone, jitter_seconds, enabled, overlap, catch_up, catch_up_limit, batch, inputs_of)
			select md5('s')::uuid, project_id, api_key_id, 'every minute', '* * * * *', 'UTC', 0, true, 'skip', 'none', 1, '{}', id from batches where id = md5('b0')::uuid and $1 > 0`,
		`insert into ticks (schedule_id, due_at, start_at, state, reason, batch_id, ended_at)
			select md5('s')::uuid, at, at, case when b.id is null then 'skipped' else 'ran' end, case when b.id is null then 'overlap' end, b.id, at
			from (select at, row_number() over (order by at) as n from generate_series('2025-11-01Z'::timestamptz, '2025-11-30 23:59Z', '1 minute') at) d
			left join batches b on b.id = md5('b' || d.n / 200)::uuid and d.n % 200 = 0 where $1 > 0`,
	} {
		if _, err := a.pool.Exec(ctx, sql, n); err != nil {
			return fmt.Errorf("%w: %.60s", err, sql)
		}
	}
	_, err := a.pool.Exec(ctx, `vacuum analyze`)
	return err
}

// openArchive makes a database with n finished jobs.
func (l *lab) openArchive(ctx context.Context, n int) (*archive, func(context.Context) error, error) {
	url, _, drop, err := l.database(ctx)
	if err != nil {
		return nil, nil, err
	}
	a := &archive{jobs: n / 4}
	end := func(ctx context.Context) error {
		if a.db != nil {
			a.db.Close()
		}
		if a.pool != nil {
			a.pool.Close()
		}
		return drop(ctx)
	}
	err = func() error {
		if _, err := store.Migrate(ctx, url); err != nil {
			return err
		}
		if a.db, err = store.Open(ctx, url, store.Options{MaxConns: 2}); err != nil {
			return err
		}
		if a.pool, err = connect(ctx, url, 2); err != nil {
			return err
		}
		p, err := a.db.CreateKey(ctx, "p", "k", "bw_x", sha256.Sum256([]byte("k")))
		if err != nil {
			return err
		}
		a.project = p.ID
		if err := a.fill(ctx, n); err != nil {
			return err
		}
		return a.pool.QueryRow(ctx, `select md5('b0')::uuid`).Scan(&a.large)
	}()
	if err != nil {
		return nil, nil, errors.Join(err, end(ctx))
	}
	return a, end, nil
}

// ask asks a report about the month and reads all of its answer.
func (a *archive) ask(ctx context.Context, name string, q reporting.Query) (ms float64, rows int, err error) {
	r, _ := reporting.Find(name)
	if r.Time != "" {
		q.From, q.To = "2025-11-01", "2025-12-01"
	}
	s, err := r.Build(a.project, q)
	if err != nil {
		return 0, 0, err
	}
	began := time.Now()
	for _, err := range a.db.Raw(ctx, s.SQL, s.Args...) {
		if err != nil {
			return 0, 0, fmt.Errorf("%s: %w", name, err)
		}
		rows++
	}
	return float64(time.Since(began).Microseconds()) / 1000, rows, nil
}

// overReports is R1: how long reports of a million jobs take, and how fast results leave.
func overReports(ctx context.Context, l *lab) (_ []line, err error) {
	n := l.size(1_000_000, 20_000)
	l.say(fmt.Sprintf("make %d finished jobs", n))
	a, end, err := l.openArchive(ctx, n)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, end(context.WithoutCancel(ctx))) }()
	var lines []line
	for _, name := range []string{"hourly_costs", "savings", "cost_drift"} {
		live := line{name: "R1 ms, " + name + " from the ledger itself", note: "The same as " + name + ", before any batch was summed up: what the views say then is right as well."}
		q := reporting.Query{}
		if name == "hourly_costs" {
			q.By = []string{"template", "provider", "model"}
		}
		took, rows, err := a.ask(ctx, name, q)
		if err != nil {
			return nil, err
		}
		live.read(took, 0, fmt.Sprintf("%d rows", rows), nil)
		live.ceiling = nil
		lines = append(lines, live)
	}

	began := time.Now()
	for err == nil {
		_, err = a.db.SumUsage(ctx)
	}
	if !errors.Is(err, store.ErrNotFound) {
		return nil, err
	}
	sums := line{name: "R1 jobs/s, calls summed up", note: "What the workers do once for each finished batch, so that the reports below are quick."}
	sums.ours = []float64{float64(n) / time.Since(began).Seconds()}
	lines = append(lines, sums)
	if _, err := a.pool.Exec(ctx, `vacuum analyze`); err != nil {
		return nil, err
	}
	for _, r := range reporting.All() {
		asked := map[string]reporting.Query{"": {}}
		switch {
		case !r.Grouped && r.Time != "":
			asked = map[string]reporting.Query{", a page": {Limit: 1000}, ", failed": {Limit: 1000, Where: []string{"error_class=server"}}}
		case r.Name == "hourly_costs":
			asked[" by template and model"] = reporting.Query{By: []string{"template", "provider", "model"}}
		case r.Name == "latencies":
			asked[" by provider"] = reporting.Query{By: []string{"provider"}}
		case r.Name == "savings":
			asked[" by kind and provider"] = reporting.Query{By: []string{"saving", "provider"}}
		case r.Name == "schedule_runs":
			asked[" by day"] = reporting.Query{By: []string{"schedule", "day"}}
		case r.Name == "tag_costs":
			asked[" by team"] = reporting.Query{By: []string{"value"}, Where: []string{"tag=team"}}
		}
		for what, q := range asked {
			ln := line{name: "R1 ms, " + r.Name + what, target: 1, atMost: true, note: r.Description}
			rounds := l.rounds
			if r.Name == "ledger_check" { // it reads everything
				ln.target, rounds = 0, 1
			}
			for range rounds {
				ms, rows, err := a.ask(ctx, r.Name, q)
				if err != nil {
					return lines, err
				}
				ln.read(ms, reportLimit, fmt.Sprintf("%d rows", rows), nil)
			}
			lines = append(lines, ln)
		}
	}
	out, err := a.exports(ctx, l)
	return append(lines, out...), err
}

// exports measures each format beside COPY, and what the process takes for it.
func (a *archive) exports(ctx context.Context, l *lab) (lines []line, err error) {
	memory := line{name: "R1 MiB, growth while exporting", target: 1, atMost: true, note: "Peak resident memory of this process during the exports over what it was before."}
	debug.FreeOSMemory()
	forgetPeak(os.Getpid())
	before := peakRSS(os.Getpid())
	for _, f := range []struct {
		format string
		target float64
	}{{"ndjson", 0.4}, {"csv", 0.4}, {"parquet", 0.25}} {
		ln := line{name: "R1 rows/s, results as " + f.format, target: f.target, note: "Rows of results written as " + f.format + ", beside a COPY TO of the same columns."}
		format, err := reporting.FindFormat(f.format)
		if err != nil {
			return nil, err
		}
		for range l.rounds {
			ceiling, err := a.copyOut(ctx)
			if err != nil {
				return lines, err
			}
			began, size := time.Now(), counter(0)
			n, rows := counted(a.db.ExportResults(ctx, a.large, "", 1, 1<<31-1))
			if err := format.Write(&size, reporting.ResultColumns, rows, 0, reporting.Options{}); err != nil {
				return lines, err
			}
			if *n != a.jobs {
				return lines, fmt.Errorf("%d rows, want %d", *n, a.jobs)
			}
			ln.read(float64(a.jobs)/time.Since(began).Seconds(), ceiling, fmt.Sprintf("%d MiB", size>>20), nil)
		}
		lines = append(lines, ln)
	}
	memory.read(peakRSS(os.Getpid())-before, reportGrowth, "", nil)
	return append(lines, memory), nil
}

// copyOut is the ceiling: the same columns of the same rows, as Postgres writes them.
func (a *archive) copyOut(ctx context.Context) (float64, error) {
	c, err := a.pool.Acquire(ctx)
	if err != nil {
		return 0, err
	}
	defer c.Release()
	began := time.Now()
	tag, err := c.Conn().PgConn().CopyTo(ctx, io.Discard, `copy (select i.seq, i.custom_id, b.id::text || '-' || i.seq, j.state, j.cache_status, j.provider, j.model, j.attempts, j.calls,
		j.input_tokens, j.cached_input_tokens, j.output_tokens, j.cost_microusd, j.error_class, j.error_message, j.finished_at, c.format, c.output
		from batches b join inputs i on i.batch_id = b.id left join jobs j on j.batch_id = i.batch_id and j.seq = i.seq
		left join completions c on c.project_id = b.project_id and c.key = j.result_key and c.generation = j.result_generation
		where b.id = '`+a.large.String()+`' order by i.seq) to stdout`)
	if err == nil && int(tag.RowsAffected()) != a.jobs {
		err = fmt.Errorf("copied %d rows, want %d", tag.RowsAffected(), a.jobs)
	}
	return float64(a.jobs) / time.Since(began).Seconds(), err
}

// counter counts bytes.
type counter int

func (c *counter) Write(p []byte) (int, error) {
	*c += counter(len(p))
	return len(p), nil
}

// counted counts rows as they pass.
func counted(rows iter.Seq2[[][]byte, error]) (*int, iter.Seq2[[][]byte, error]) {
	n := new(int)
	return n, func(yield func([][]byte, error) bool) {
		for r, err := range rows {
			*n++
			if !yield(r, err) {
				return
			}
		}
	}
}
