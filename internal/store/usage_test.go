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
		select 'failure ' || v::text from reports.failures v) v`)
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
	before := b.figures(t)
	if n := b.sum(t); n != 2 {
		t.Fatalf("%d batches summed up, want 2", n)
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
	costs := storetest.Scalar[string](t, b.url, `select string_agg(v::text, ' ' order by v::text) from reports.hourly_costs v`)
	if done, err := b.db.PurgeBatch(t.Context(), b.project, id, 100); err != nil || !done {
		t.Fatalf("%v, %v", done, err)
	}
	if got := storetest.Scalar[string](t, b.url, `select string_agg(v::text, ' ' order by v::text) from reports.hourly_costs v`); got != costs {
		t.Errorf("after the purge:\n%s\nbefore:\n%s", got, costs)
	}
	if n := b.sum(t); n != 0 {
		t.Errorf("a purged batch was summed up anew")
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
	for _, view := range storetest.Rows[string](t, b.url, `select relname::text from pg_class where relnamespace = 'reports'::regnamespace and relkind = 'v'`) {
		if n := number(`select count(*) from reports.` + view + ` where project_id = '` + b.project.String() + `'`); n != 0 {
			t.Errorf("reports.%s shows %d rows of a project that isn't the reader's", view, n)
		}
	}
	for _, sql := range []string{`select count(*) from public.batches`, `select count(*) from public.report_readers`, `select count(*) from public.call_usage`,
		`insert into public.report_readers values ('x', gen_random_uuid())`} {
		if _, err := reader.Exec(t.Context(), sql); err == nil {
			t.Errorf("the reader may %s", sql)
		}
	}
}
