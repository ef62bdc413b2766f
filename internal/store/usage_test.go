package store_test

import (
	"context"
	"crypto/rand"
	"errors"
	"flag"
	"os"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"batchwright/internal/store"
	"batchwright/internal/store/storetest"
)

var update = flag.Bool("update", false, "write the golden files")

// figures are all that the views over usage say, as text.
func (b *bench) figures(t *testing.T) string {
	t.Helper()
	return storetest.Scalar[string](t, b.url, `select string_agg(r, E'\n' order by r) from (
		select 'daily ' || v::text as r from reports.daily_costs v union all
		select 'hourly ' || v::text from reports.hourly_costs v union all
		select 'tag ' || v::text from reports.tag_costs v union all
		select 'cache ' || v::text from reports.cache_effectiveness v union all
		select 'histogram ' || v::text from reports.latency_histogram v union all
		select 'latency ' || v::text from reports.latencies v union all
		select 'failure ' || v::text from reports.failures v union all
		select 'saving ' || v::text from reports.savings v union all
		select 'drift ' || v::text from reports.cost_drift v) v`)
}

// saved gives a batch something to save by every cache, and calls that are in the gateway's log, and ends it as long ago as that is written.
func (b *bench) saved(t *testing.T, batch uuid.UUID) {
	t.Helper()
	for _, sql := range []string{
		`insert into completions (project_id, key, generation, input_tokens, cached_input_tokens, output_tokens, cost_microusd, format, model, provider, answered_by, output)
			select project_id, 'k', 1, 7, 0, 3, 11, 'text', 'm', 'p0', 'm', 'x' from batches where id = $1 on conflict do nothing`,
		`update jobs set cache_status = case when seq % 3 = 0 then 'result_hit' else 'coalesced' end where batch_id = $1 and seq % 2 = 0`,
		`update calls set cached_input_tokens = input_tokens - 1, cache_write_tokens = 1 where batch_id = $1 and number = 1`,
		`insert into call_notes select batch_id, seq, ticket_id, number, false, 100, 0, 50, 777 from calls where batch_id = $1 and gateway_cache_status = 'HIT' and seq % 8 = 0`,
		`insert into prices (id, provider, model, valid_from, input_microusd, output_microusd, cached_input_microusd, cache_write_microusd)
			select $1, 'p0', 'm', '2026-01-01', 3000000, 1, 1000000, 4000000 where not exists (select 1 from prices)`,
		`update calls set gateway_log_id = case when seq % 3 = 0 then 'not ours' else md5(batch_id::text || seq)::uuid::text end where batch_id = $1 and number = 1`,
		`insert into gateway_logs (id, account, gateway, created_at, event_id, request_id, provider, model, model_type, path, request_type, request_content_type,
			response_content_type, user_agent, status_code, success, cached, authenticated, streamed, custom_cost, duration_us, tokens_in, tokens_out, cost_nano_usd, step,
			dlp_action, request_size, response_size)
			select gateway_log_id::uuid, 'a', 'g', now(), 'e', 'r', 'p', 'm', '', '', '', '', '', '', 200, true, false, true, false, false, 1, 1, 1,
			case when seq % 5 > 0 then seq * 1000 + 1 end, 0, '', 1, 1 from calls where batch_id = $1 and number = 1 and seq % 3 = 1`,
		`update batches set finished_at = now() - interval '11 minutes' where id = $1`,
	} {
		storetest.Exec(t, b.url, sql, batch)
	}
}

// sum sums up everything there is and says how many batches that was.
func (b *bench) sum(t *testing.T) int {
	t.Helper()
	for n := 0; ; n++ {
		if _, err := b.db.SumUsage(t.Context()); errors.Is(err, store.ErrNotFound) {
			return n
		} else if err != nil {
			t.Fatal(err)
		}
	}
}

func (b *bench) summed(t *testing.T, batch uuid.UUID) bool {
	t.Helper()
	return storetest.Scalar[bool](t, b.url, `select usage_at is not null from batches where id = $1`, batch)
}

func TestReportsSayTheSameBeforeAndAfterCallsAreSummedUp(t *testing.T) {
	t.Parallel()
	b := setUp(t)
	id := b.ended(t, 500)
	b.ended(t, 20)
	storetest.Exec(t, b.url, `update batches set metadata = '{"team": "search", "night": 1}' where id = $1`, id)
	storetest.Exec(t, b.url, `update calls set latency_ms = seq * seq, cache_write_tokens = 2 where number = 1`)
	storetest.Exec(t, b.url, `update jobs set state = 'failed', error_class = 'server', result_key = null, result_generation = null where seq % 50 = 0`)
	b.saved(t, id)
	before := b.figures(t)
	if n := b.sum(t); n != 3 { // the other one has only just ended: what the gateway logged of it may not be written
		t.Fatalf("%d times something was summed up, want 3", n)
	}
	for _, kind := range []string{"result_cache", "coalesced", "gateway_cache", "prefix_cache"} {
		if storetest.Scalar[int](t, b.url, `select count(*)::int from reports.savings where saving = $1 and batch_id = $2 and uses > 0`, kind, id) == 0 {
			t.Errorf("nothing saved by %s", kind)
		}
	}
	if after := b.figures(t); after != before {
		t.Errorf("summed up:\n%s\nbefore:\n%s", after, before)
	}
	if n := storetest.Scalar[int](t, b.url, `select count(*)::int from usage_calls`); n == 0 || n >= 1040 {
		t.Errorf("%d sums of 1,040 calls", n)
	}
	got := storetest.Scalar[string](t, b.url, `select concat_ws(' ', sum(calls), sum(cost_microusd), sum(input_tokens),
		(select sum(calls) from reports.tag_costs where tag = 'team' and value = 'search')) from reports.hourly_costs`)
	want := storetest.Scalar[string](t, b.url, `select concat_ws(' ', count(*), sum(cost_microusd), sum(input_tokens), 1000) from calls`)
	if got != want {
		t.Errorf("the view says %s, the ledger %s", got, want)
	}
}

func TestPercentilesAreRightToWithinTheirStep(t *testing.T) {
	t.Parallel()
	b := setUp(t)
	b.ended(t, 1000)
	storetest.Exec(t, b.url, `update calls set latency_ms = 20 + seq * 7, provider = 'p', started_at = '2026-11-20', gateway_cache_status = null, error_class = null where number = 1`)
	worst := storetest.Scalar[float64](t, b.url, `select max(abs(said / truth - 1)) from (
			select percentile_disc(array[0.5, 0.9, 0.95, 0.99]) within group (order by latency_ms) as exact from calls where number = 1) e,
		reports.latencies l, unnest(e.exact, array[p50_ms, p90_ms, p95_ms, p99_ms]::float8[]) as u(truth, said)`)
	if worst > 0.026 {
		t.Errorf("off by %.3f, want at most 2.5 %% and a rounding", worst)
	}
}

func TestWhatRewritesAFinishedBatchThrowsItsSumsAway(t *testing.T) {
	t.Parallel()
	b := setUp(t)
	for name, sql := range map[string]string{
		"a late outcome or a reprice": `update batches set calls = calls, cost_microusd = cost_microusd + 5 where id = $1`,
		"a retry": `update batches set state = 'running', finished_at = null, succeeded_jobs = null, failed_jobs = null, cancelled_jobs = null, result_hits = null, coalesced = null,
			gateway_hits = null, misses = null, bypassed = null, calls = null, uncertain_calls = null, unpriced_calls = null, input_tokens = null,
			cached_input_tokens = null, output_tokens = null, cost_microusd = null where id = $1`,
	} {
		id := b.ended(t, 10)
		b.sum(t)
		storetest.Exec(t, b.url, `update batches set name = 'renamed' where id = $1`, id)
		if !b.summed(t, id) {
			t.Fatalf("%s: a new name cost the sums", name)
		}
		storetest.Exec(t, b.url, `update calls set cost_microusd = cost_microusd + 1 where batch_id = $1 and cost_microusd is not null`, id)
		storetest.Exec(t, b.url, sql, id)
		if b.summed(t, id) {
			t.Errorf("%s: the sums are still there", name)
		}
		agree := storetest.Scalar[bool](t, b.url, `select (select sum(cost_microusd) from reports.hourly_costs) = (select sum(cost_microusd) from calls)`)
		if !agree {
			t.Errorf("%s: the reports don't show it", name)
		}
	}
}

func TestSumsOutliveAPurge(t *testing.T) {
	t.Parallel()
	b := setUp(t)
	id := b.ended(t, 100)
	b.saved(t, id)
	lasting := func() string {
		return storetest.Scalar[string](t, b.url, `select string_agg(v, E'\n' order by v) from (select v::text from reports.hourly_costs v
			union all select v::text from reports.savings v union all select v::text from reports.cost_drift v) v(v)`)
	}
	costs := lasting()
	if done, err := b.db.PurgeBatch(t.Context(), b.project, id, 100); err != nil || !done {
		t.Fatalf("%v, %v", done, err)
	}
	storetest.Exec(t, b.url, `delete from completions`)
	storetest.Exec(t, b.url, `delete from gateway_logs`)
	if got := lasting(); got != costs {
		t.Errorf("after the purge:\n%s\nbefore:\n%s", got, costs)
	}
	if n := b.sum(t); n != 0 {
		t.Errorf("a purged batch was summed up anew")
	}
}

func TestPercentilesOfAnOpenBatchAreThoseOfItsCalls(t *testing.T) {
	t.Parallel()
	b := setUp(t)
	open, done := b.submit(t, "use", "a").ID, b.ended(t, 40)
	storetest.Exec(t, b.url, `insert into calls (batch_id, seq, ticket_id, number, started_at, settled_at, reserved_microusd, step, state, provider, model, latency_ms, error_class, gateway_cache_status)
		select $1, 1, 7, n, '2026-11-20Z', case when n % 9 > 0 then now() end, 1, 0, case when n % 9 > 0 then 'settled' else 'intent' end, 'p', 'm', case when n % 9 > 0 then n * n end,
			case when n % 7 = 0 then 'server' end, case when n % 5 = 0 then 'HIT' end from generate_series(1, 200) n`, open)
	storetest.Exec(t, b.url, `update calls set latency_ms = seq * 100, provider = 'p', started_at = '2026-11-20', gateway_cache_status = null, error_class = null where batch_id = $1 and number = 1`, done)
	says := func() string {
		return storetest.Scalar[string](t, b.url, `select concat_ws(' ', calls, p50_ms, p90_ms, p95_ms, p99_ms, max_ms) from reports.latencies where provider = 'p'`)
	}
	before := says()
	// Percentiles by their definition, of good answers of providers alone, and each within the step of 5 % around it.
	off := storetest.Scalar[float64](t, b.url, `select max(abs(said / truth - 1)) from (
			select percentile_disc(array[0.5, 0.9, 0.95, 0.99, 1]) within group (order by latency_ms) as exact, count(*) as n from calls
			where provider = 'p' and state = 'settled' and error_class is null and gateway_cache_status is distinct from 'HIT' and latency_ms is not null) e
		join reports.latencies l on l.provider = 'p' and l.calls = e.n,
		unnest(e.exact, array[p50_ms, p90_ms, p95_ms, p99_ms, max_ms]::float8[]) as u(truth, said)`)
	if off > 0.026 {
		t.Errorf("off by %.3f: %s", off, before)
	}
	b.sum(t)
	if b.summed(t, open) || !b.summed(t, done) {
		t.Fatal("want the finished batch alone summed up")
	}
	if after := says(); after != before {
		t.Errorf("half of it summed up: %s, before: %s", after, before)
	}
}

func TestWhatTheGatewayLogsLateIsCompared(t *testing.T) {
	t.Parallel()
	b := setUp(t)
	id := b.ended(t, 30)
	b.saved(t, id)
	drift := func() string {
		return storetest.Scalar[string](t, b.url, `select string_agg(v::text, ' ' order by v::text) from reports.cost_drift v`)
	}
	storetest.Exec(t, b.url, `create table late as select * from gateway_logs`)
	want := drift()
	storetest.Exec(t, b.url, `delete from gateway_logs`)
	storetest.Exec(t, b.url, `update batches set finished_at = now() where id = $1`, id)
	b.sum(t)
	storetest.Exec(t, b.url, `insert into gateway_logs select * from late`)
	if got := drift(); got != want {
		t.Errorf("%s, want %s", got, want)
	}
	storetest.Exec(t, b.url, `update batches set finished_at = now() - interval '11 minutes' where id = $1`, id)
	b.sum(t)
	storetest.Exec(t, b.url, `delete from gateway_logs`)
	if got := drift(); got != want {
		t.Errorf("when the log is trimmed: %s, want %s", got, want)
	}
	storetest.Exec(t, b.url, `update calls set cost_microusd = cost_microusd + 5 where batch_id = $1`, id)
	storetest.Exec(t, b.url, `update batches set cost_microusd = cost_microusd + 5 where id = $1`, id)
	if got := drift(); got == want {
		t.Error("other costs, and the same drift")
	}
}

// TestReportsAreAContract holds the columns of the schema reports to a file that a person has read: they may only grow.
func TestReportsAreAContract(t *testing.T) {
	t.Parallel()
	url := storetest.URL(t)
	got := storetest.Scalar[string](t, url, `select string_agg(format('%s.%s %s', c.relname, a.attname, format_type(a.atttypid, a.atttypmod)), E'\n'
		order by c.relname, a.attnum) || E'\n'
		from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 where c.relnamespace = 'reports'::regnamespace and c.relkind = 'v'`)
	const golden = "testdata/reports.txt"
	if *update {
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil || got != string(want) {
		t.Errorf("%v; the schema reports is now\n%s", err, got)
	}
}

func TestReadersSeeReportsOnlyAndTheirProjects(t *testing.T) {
	t.Parallel()
	b := setUp(t)
	b.ended(t, 10)
	storetest.Exec(t, b.url, `insert into projects (id, name) values (gen_random_uuid(), 'other')`)
	storetest.Exec(t, b.url, `insert into batches (id, project_id, name, kind, state, route, params, on_invalid, cache, request_sha256)
		select gen_random_uuid(), id, 'other', 'chat', 'running', '{}', '{}', 'skip', 'use', '' from projects where name = 'other'`)
	login := "reader_" + strings.ToLower(rand.Text())
	storetest.Exec(t, b.url, `create role `+login+` login password 'secret' in role batchwright_reports`)
	t.Cleanup(func() { storetest.Exec(t, b.url, `drop role `+login) })
	cfg, err := pgx.ParseConfig(b.url)
	if err != nil {
		t.Fatal(err)
	}
	cfg.User, cfg.Password = login, "secret"
	reader, err := pgx.ConnectConfig(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = reader.Close(context.Background()) })
	number := func(sql string) (n int) {
		t.Helper()
		if err := reader.QueryRow(t.Context(), sql).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	count := func(want int) {
		t.Helper()
		if n := number(`select count(distinct project) from reports.batches`); n != want {
			t.Errorf("sees %d projects, want %d", n, want)
		}
	}
	count(2)
	storetest.Exec(t, b.url, `insert into report_readers select $1, id from projects where name = 'other'`, login)
	count(1)
	// price_at reads prices with the rights of its owner, and a view that calls it can't keep it from the reader.
	for project, want := range map[string]int{"other": 10, "p": 0} {
		const own = `insert into prices (id, project_id, provider, model, valid_from, input_microusd, output_microusd, cached_input_microusd, cache_write_microusd)
			select gen_random_uuid(), id, 'x', 'm', '2026-01-01', 10, 1, 1, 1 from projects where name = $1`
		storetest.Exec(t, b.url, own, project)
		id := storetest.Scalar[string](t, b.url, `select id::text from projects where name = $1`, project)
		if n := number(`select coalesce((select input_microusd from price_at('` + id + `', 'x', 'm', '2026-11-20')), 0)::int`); n != want {
			t.Errorf("the reader is told a price of %d for project %s, want %d", n, project, want)
		}
	}
	for _, view := range storetest.Rows[string](t, b.url, `select relname::text from pg_class where relnamespace = 'reports'::regnamespace and relkind = 'v'`) {
		if n := number(`select count(*) from reports.` + view + ` where project_id = '` + b.project.String() + `'`); n != 0 {
			t.Errorf("reports.%s shows %d rows of a project that isn't the reader's", view, n)
		}
	}
	for _, sql := range []string{`select count(*) from public.batches`, `select count(*) from public.report_readers`, `select count(*) from public.call_usage`,
		`select count(*) from public.prices`, `select count(*) from public.saving_usage`, `select count(*) from public.drift_usage`,
		`insert into public.report_readers values ('x', gen_random_uuid())`} {
		if _, err := reader.Exec(t.Context(), sql); err == nil {
			t.Errorf("the reader may %s", sql)
		}
	}
}
