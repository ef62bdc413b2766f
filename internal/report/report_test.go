package report_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/parquet-go/parquet-go"

	"batchwright/internal/report"
	"batchwright/internal/store"
	"batchwright/internal/store/storetest"
)

type world struct {
	db             *store.DB
	url            string
	project, batch uuid.UUID
}

const worldJobs = 300

// setUp makes a finished batch of this project and one of another, with answers that are awkward to write down.
func setUp(t *testing.T) world {
	t.Helper()
	w := world{url: storetest.URL(t), batch: uuid.New()}
	db, err := store.Open(t.Context(), w.url, store.Options{MaxConns: 4})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	w.db = db
	for i, name := range []string{"p", "other"} {
		p, err := db.CreateKey(t.Context(), name, "k", "bw_x", sha256.Sum256([]byte(name)))
		if err != nil {
			t.Fatal(err)
		}
		batch := uuid.New()
		if i == 0 {
			w.project, batch = p.ID, w.batch
		}
		for _, sql := range []string{
			`insert into batches (id, project_id, name, kind, state, route, params, metadata, on_invalid, cache, request_sha256, total_jobs, api_key_id, started_at)
				select $1, '` + p.ID.String() + `', 'b', 'chat', 'running', '{}', '{}', '{"team": "a"}', 'skip', 'use', '', ` + strconv.Itoa(worldJobs) + `,
				(select id from api_keys where project_id = '` + p.ID.String() + `'), '2026-11-20 12:00:00Z'`,
			`insert into inputs (batch_id, seq, custom_id) select $1, s, '-' || s from generate_series(1, ` + strconv.Itoa(worldJobs) + `) s`,
			`insert into jobs (batch_id, seq, state, finished_at, result_key, result_generation, error_class, error_message, cost_microusd, calls, provider, model, cache_status)
				select batch_id, seq, case when seq % 10 = 0 then 'failed' else 'succeeded' end, '2026-11-20 12:00:00.5Z',
				case when seq % 10 > 0 then decode(lpad(to_hex(seq % 7), 2, '0'), 'hex') end, case when seq % 10 > 0 then 1 end,
				case when seq % 10 = 0 then 'server' end, case when seq % 10 = 0 then '' end, case when seq % 9 > 0 then seq * 1001 end, 1, 'p', 'm', 'miss'
				from inputs where batch_id = $1`,
			`insert into completions (project_id, key, input_tokens, cached_input_tokens, output_tokens, format, model, provider, answered_by, output)
				select project_id, decode(lpad(to_hex(s), 2, '0'), 'hex'), 1, 0, 1, 'text', 'm', 'p', 'm',
				(array['=1+1', 'a "b", c', E'l1\r\nl2', '', E'\u00fc\u001f\\', '@x', ' pad '])[s + 1] from batches, generate_series(0, 6) s where id = $1`,
			`insert into calls (batch_id, seq, ticket_id, number, started_at, settled_at, reserved_microusd, cost_microusd, input_tokens, output_tokens, latency_ms,
				step, state, provider, model, error_class) select batch_id, seq, 1, 1, '2026-11-20 12:00:00Z'::timestamptz + seq * interval '4 minutes', now(), 9,
				cost_microusd, seq, 1, seq, 0, 'settled', 'p', 'm' || seq % 2, error_class from jobs where batch_id = $1`,
			`update jobs set cache_status = case when seq % 2 = 0 then 'result_hit' else 'coalesced' end where batch_id = $1 and seq % 9 = 1`,
			`update calls set gateway_log_id = 'of another gateway', cached_input_tokens = seq / 2 where batch_id = $1`,
			`insert into schedules (id, project_id, api_key_id, name, cron, time_zone, jitter_seconds, enabled, overlap, catch_up, catch_up_limit, batch, inputs_of)
				select md5(id::text)::uuid, project_id, api_key_id, 'nightly', '@daily', 'UTC', 0, true, 'skip', 'none', 1, '{}', id from batches where id = $1`,
			`insert into ticks (schedule_id, due_at, start_at, state, reason, batch_id, ended_at)
				select md5(b.id::text)::uuid, d, d, s, case s when 'missed' then 'no worker' end, case s when 'ran' then b.id end, now()
				from batches b cross join lateral (values ('missed', '2026-11-19 02:30Z'::timestamptz), ('ran', b.created_at - interval '1500 ms')) v(s, d) where b.id = $1`,
			`insert into forecasts (batch_id, project_id, dry_run, verdict, reason, jobs, result_hits, coalesced, invalid_jobs, counted_jobs, history_batches, calls_p50, calls_p90,
				cached_p50, cached_p90, input_p50, input_p90, output_p50, output_p90, cost_p50, cost_p90, duration_ms_p50, duration_ms_p90, basis_calls)
				select id, project_id, false, 'run', '', total_jobs, 0, 0, 0, 9, 3, 300, 310, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 300 from batches where id = $1`,
		} {
			storetest.Exec(t, w.url, sql, batch)
		}
		if _, err := db.FinishBatch(t.Context(), batch); err != nil {
			t.Fatal(err)
		}
	}
	storetest.Exec(t, w.url, `analyze`)
	return w
}

// ask runs a query and returns its rows as a CSV's.
func (w world) ask(t *testing.T, name string, q report.Query) [][]string {
	t.Helper()
	r, ok := report.Find(name)
	if !ok {
		t.Fatalf("no report %s", name)
	}
	s, err := r.Build(w.project, q)
	if err != nil {
		t.Fatal(err)
	}
	rows, err := csv.NewReader(write(t, "csv", s.Columns, w.db.Raw(t.Context(), s.SQL, s.Args...), 0)).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	return rows
}

func write(t *testing.T, format string, columns []report.Column, rows iter.Seq2[[][]byte, error], limit int) *bytes.Buffer {
	t.Helper()
	f, err := report.FindFormat(format)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := f.Write(&out, columns, rows, limit, report.Options{}); err != nil {
		t.Fatal(err)
	}
	return &out
}

// TestEveryReportAnswers walks the registry: each column can be shown, grouped by, restricted by and sorted by, and shows one project only.
func TestEveryReportAnswers(t *testing.T) {
	t.Parallel()
	w := setUp(t)
	apart := map[string]string{"savings": "saving", "failures": "scope", "tag_costs": "tag"}
	for _, view := range storetest.Rows[string](t, w.url, `select relname::text from pg_class where relnamespace = 'reports'::regnamespace and relkind = 'v'`) {
		if _, ok := report.Find(view); !ok {
			t.Errorf("nobody can ask for reports.%s", view)
		}
	}
	for _, r := range report.All() {
		t.Run(r.Name, func(t *testing.T) {
			rows := w.ask(t, r.Name, report.Query{})
			if n := len(rows) - 1; r.Name != "ledger_check" && n < 1 {
				t.Fatalf("no rows")
			}
			for i, c := range r.Columns {
				if rows[0][i] != c.Name {
					t.Errorf("column %d is %s, want %s", i, rows[0][i], c.Name)
				}
				w.ask(t, r.Name, report.Query{Sort: []string{"-" + c.Name}, Limit: 3})
				value := map[string]string{report.Integer: "99999999999", report.Boolean: "true", report.Timestamp: "2026-11-20", report.Date: "2026-11-20", report.Text: "x'y"}[c.Type]
				for _, op := range []string{"=", "!=", "<", ">="} {
					if _, err := r.Build(w.project, report.Query{Where: []string{c.Name + op + value}}); err == nil {
						w.ask(t, r.Name, report.Query{Where: []string{c.Name + op + value}, Limit: 3})
					} else if !strings.Contains(c.Name, "_ms") {
						t.Error(err)
					}
				}
				if r.Grouped && !c.Sum {
					by := []string{c.Name}
					if a := apart[r.Name]; a != "" && a != c.Name {
						by = append(by, a)
					}
					w.ask(t, r.Name, report.Query{By: by, Sort: []string{c.Name}})
				}
			}
			if r.Time != "" {
				if got := w.ask(t, r.Name, report.Query{From: "2020-01-01", To: "2020-02-01"}); len(got) != 1 {
					t.Errorf("%d rows before there was anything", len(got)-1)
				}
			}
		})
	}
	if got := w.ask(t, "jobs", report.Query{}); len(got) != worldJobs+1 {
		t.Errorf("%d jobs, want those of one project", len(got)-1)
	}
}

func TestGroupsAddUpToTheLedger(t *testing.T) {
	t.Parallel()
	w := setUp(t)
	want := storetest.Rows[string](t, w.url, `select concat_ws(',', model, count(*), sum(cost_microusd)) from calls where batch_id = $1 and started_at < '2026-11-21' group by model order by 1`, w.batch)
	for range 2 { // from the ledger, then from sums
		rows := w.ask(t, "hourly_costs", report.Query{To: "2026-11-21", By: []string{"model"}, Sort: []string{"model"}})
		var got []string
		for _, r := range rows[1:] {
			got = append(got, r[0]+","+r[1]+","+r[9])
		}
		if rows[0][9] != "cost_microusd" || !slices.Equal(got, want) {
			t.Errorf("%v: %v, want %v", rows[0], got, want)
		}
		for {
			if _, err := w.db.SumUsage(t.Context()); err != nil {
				break
			}
		}
	}
	p := w.ask(t, "latencies", report.Query{By: []string{"provider"}})
	if p50, err := strconv.Atoi(p[1][2]); err != nil || p50 < 145 || p50 > 155 { // of 1 to 300, but for every tenth
		t.Errorf("p50 is %s of %v, want about 150", p[1][2], p)
	}
}

func TestSchedulesShowWhatTheirTicksCostAndHowLateTheyWere(t *testing.T) {
	t.Parallel()
	w := setUp(t)
	cost := storetest.Scalar[string](t, w.url, `select cost_microusd::text from batches where id = $1`, w.batch)
	q := report.Query{By: []string{"schedule"}}
	rows := w.ask(t, "schedule_runs", q)
	got := map[string]string{}
	for i, name := range rows[0] {
		got[name] = rows[1][i]
	}
	if len(rows) != 2 || got["schedule"] != "nightly" || got["ticks"] != "2" || got["batches"] != "1" || got["late_ms"] != "1500" || got["total_jobs"] != strconv.Itoa(worldJobs) ||
		got["cost_microusd"] != cost {
		t.Errorf("%v, cost %s", rows, cost)
	}
	for where, want := range map[string]int{"state=missed": 1, "batch_id=" + w.batch.String(): 1, "late_ms>1499": 1, "late_ms>1500": 0, "manual=true": 0, "reason!=": 1} {
		if got := w.ask(t, "schedule_runs", report.Query{Where: []string{where}}); len(got)-1 != want {
			t.Errorf("%s: %d rows, want %d", where, len(got)-1, want)
		}
	}
	if got := w.ask(t, "schedule_runs", report.Query{From: "2026-11-19T02:30:00Z", To: "2026-11-19T02:30:01Z"}); len(got) != 2 {
		t.Errorf("at the moment of a tick: %v", got)
	}
}

func TestWrongQuestionsAreRefusedByFieldAndWithWhatIsAllowed(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		report, field, says string
		q                   report.Query
	}{
		{"daily_costs", "by", "provider", report.Query{By: []string{"day; drop table jobs"}}},
		{"daily_costs", "by", "provider", report.Query{By: []string{"calls"}}},
		{"daily_costs", "by", "each once", report.Query{By: []string{"day", "day"}}},
		{"savings", "by", "saving", report.Query{By: []string{"day"}}},
		{"failures", "by", "scope", report.Query{By: []string{"error_class"}, Where: []string{"scope!=job"}}},
		{"jobs", "by", "hourly_costs", report.Query{By: []string{"model"}}},
		{"daily_costs", "where", "provider", report.Query{Where: []string{"project_id=x"}}},
		{"daily_costs", "where", "operator", report.Query{Where: []string{"provider"}}},
		{"daily_costs", "where", "integer", report.Query{Where: []string{"calls>many"}}},
		{"daily_costs", "where", "!=", report.Query{Where: []string{"provider!x"}}},
		{"daily_costs", "where", "no value", report.Query{Where: []string{"calls<"}}},
		{"daily_costs", "where", "not of it", report.Query{Where: []string{"provider=\xff"}}},
		{"latencies", "where", "provider", report.Query{Where: []string{"p50_ms>5"}}},
		{"daily_costs", "sort", "calls", report.Query{Sort: []string{"-template"}}},
		{"daily_costs", "sort", "calls", report.Query{By: []string{"model"}, Sort: []string{"day"}}},
		{"daily_costs", "from", "RFC 3339", report.Query{From: "yesterday"}},
		{"daily_costs", "from", "whole days", report.Query{From: "2026-12-01T01:00:00Z"}},
		{"hourly_costs", "to", "after from", report.Query{From: "2026-12-01", To: "2026-12-01"}},
		{"ledger_check", "from", "no time range", report.Query{From: "2026-12-01"}},
		{"jobs", "limit", "positive", report.Query{Limit: -1}},
	} {
		r, _ := report.Find(c.report)
		_, err := r.Build(uuid.New(), c.q)
		if e, ok := errors.AsType[*report.Error](err); !ok || e.Field != c.field || !strings.Contains(e.Message, c.says) {
			t.Errorf("%s %+v: %v, want %s: ...%s...", c.report, c.q, err, c.field, c.says)
		}
	}
}

// TestEveryFormatSaysWhatTheViewSays compares exports with the view to the micro-dollar and to the byte.
func TestEveryFormatSaysWhatTheViewSays(t *testing.T) {
	t.Parallel()
	w := setUp(t)
	type total struct {
		rows, cost, unknown int64
		outputs             string
	}
	var want total
	want.rows = worldJobs
	want.cost = storetest.Scalar[int64](t, w.url, `select sum(cost_microusd)::bigint from reports.jobs where batch_id = $1`, w.batch)
	want.unknown = storetest.Scalar[int64](t, w.url, `select count(*) filter (where cost_microusd is null) from reports.jobs where batch_id = $1`, w.batch)
	want.outputs = storetest.Scalar[string](t, w.url, `select string_agg(coalesce(output, '<null>'), '|' order by seq) from reports.jobs where batch_id = $1`, w.batch)
	export := func(format string) *bytes.Buffer {
		return write(t, format, report.ResultColumns, w.db.ExportResults(t.Context(), w.batch, "", 1, 1<<31-1), 0)
	}
	sum := func(rows iter.Seq[map[string]any]) (got total) {
		var outputs []string
		for r := range rows {
			got.rows++
			if fmt.Sprint(r["index"]) != strconv.Itoa(int(got.rows)) {
				t.Fatalf("row %d has index %v", got.rows, r["index"])
			}
			if r["cost_microusd"] == nil {
				got.unknown++
			} else {
				n, err := strconv.ParseInt(fmt.Sprint(r["cost_microusd"]), 10, 64)
				if err != nil {
					t.Fatal(err)
				}
				got.cost += n
			}
			if r["output"] == nil {
				outputs = append(outputs, "<null>")
			} else {
				outputs = append(outputs, r["output"].(string))
			}
		}
		got.outputs = strings.Join(outputs, "|")
		return got
	}
	check := func(format string, rows iter.Seq[map[string]any]) {
		t.Helper()
		if got := sum(rows); got != want {
			t.Errorf("%s: %d rows, %d micro-dollars, %d unknown, want %d, %d, %d; outputs equal: %t", format, got.rows, got.cost, got.unknown, want.rows, want.cost,
				want.unknown, got.outputs == want.outputs)
		}
	}
	check("ndjson", func(yield func(map[string]any) bool) {
		for line := range strings.Lines(export("ndjson").String()) {
			d := json.NewDecoder(strings.NewReader(line))
			d.UseNumber()
			var m map[string]any
			if err := d.Decode(&m); err != nil {
				t.Fatalf("%v: %s", err, line)
			}
			if !yield(m) {
				return
			}
		}
	})
	check("json", func(yield func(map[string]any) bool) {
		var all struct {
			Rows []map[string]any
			More bool
		}
		d := json.NewDecoder(export("json"))
		d.UseNumber()
		if err := d.Decode(&all); err != nil || all.More {
			t.Fatal(err, all.More)
		}
		for _, m := range all.Rows {
			yield(m)
		}
	})
	check("parquet", func(yield func(map[string]any) bool) {
		data := export("parquet").Bytes()
		f, err := parquet.OpenFile(bytes.NewReader(data), int64(len(data)))
		if err != nil {
			t.Fatal(err)
		}
		fields := f.Schema().Fields()
		r := parquet.NewReader(f)
		defer func() { _ = r.Close() }()
		rows := make([]parquet.Row, 1)
		for {
			n, _ := r.ReadRows(rows)
			if n == 0 {
				return
			}
			m := map[string]any{}
			for _, v := range rows[0] {
				if !v.IsNull() {
					m[fields[v.Column()].Name()] = v.String()
				}
			}
			yield(m)
		}
	})
	check("csv", func(yield func(map[string]any) bool) {
		text := export("csv").String()
		rows, err := csv.NewReader(strings.NewReader(text)).ReadAll()
		if err != nil {
			t.Fatal(err)
		}
		if strings.Count(text, "\r\n") < worldJobs {
			t.Error("lines don't end with CRLF")
		}
		for _, r := range rows[1:] {
			m := map[string]any{}
			for i, name := range rows[0] {
				if v := r[i]; v != "" {
					m[name] = v
				}
			}
			if m["status"] == "succeeded" { // encoding/csv tells neither null from empty nor CRLF from LF in a text
				if m["output"] == nil {
					m["output"] = ""
				}
				text := strings.ReplaceAll(m["output"].(string), "\n", "\r\n")
				if cut, ok := strings.CutPrefix(text, "'"); ok {
					text = cut
				}
				m["output"] = text
			}
			if !strings.HasPrefix(m["custom_id"].(string), "'-") {
				t.Fatalf("a formula goes out as %v", m["custom_id"])
			}
			if !yield(m) {
				return
			}
		}
	})
	part := write(t, "csv", report.ResultColumns, w.db.ExportResults(t.Context(), w.batch, "failed", 11, 40), 0).String()
	if n := strings.Count(part, ",failed,"); n != 3 || strings.Count(part, "\r\n") != 4 {
		t.Errorf("rows 11 to 40 that failed: %d\n%s", n, part)
	}
}

func TestCSVTellsNullFromEmptyAndDefusesFormulas(t *testing.T) {
	t.Parallel()
	columns := []report.Column{{Name: "n", Type: report.Integer}, {Name: "t", Type: report.Text}}
	for text, want := range map[string]string{"": `""`, "a": "a", `a"b`: `"a""b"`, "=1": `"'=1"`, "+1": `"'+1"`, "-1": `"'-1"`, "@a": `"'@a"`, "\ta": "\"'\ta\"", "＝1": `"'＝1"`,
		"a=1": "a=1", " a": `" a"`, "a\nb": "\"a\nb\""} {
		got := write(t, "csv", columns, rowsOf([][]byte{[]byte("-5"), []byte(text)}, [][]byte{nil, nil}), 0).String()
		if got != "n,t\r\n-5,"+want+"\r\n,\r\n" {
			t.Errorf("%q goes out as %q", text, got)
		}
	}
	f, _ := report.FindFormat("csv")
	var out bytes.Buffer
	if err := f.Write(&out, columns, rowsOf(), 0, report.Options{BOM: true}); err != nil || out.String() != "\ufeffn,t\r\n" {
		t.Errorf("%q, %v", out.String(), err)
	}
}

func rowsOf(rows ...[][]byte) iter.Seq2[[][]byte, error] {
	return func(yield func([][]byte, error) bool) {
		for _, r := range rows {
			if !yield(r, nil) {
				return
			}
		}
	}
}

func TestALimitSaysWhetherThereIsMore(t *testing.T) {
	t.Parallel()
	columns := []report.Column{{Name: "n", Type: report.Integer}}
	two := rowsOf([][]byte{[]byte("1")}, [][]byte{[]byte("2")})
	for limit, want := range map[int]string{1: `{"rows":[{"n":1}],"more":true}`, 2: `{"rows":[{"n":1},{"n":2}],"more":false}`} {
		if got := write(t, "json", columns, two, limit).String(); got != want+"\n" {
			t.Errorf("limit %d: %s", limit, got)
		}
	}
	f, _ := report.FindFormat("parquet")
	broken := func(yield func([][]byte, error) bool) { yield(nil, context.Canceled) }
	if err := f.Write(&bytes.Buffer{}, columns, broken, 0, report.Options{}); !errors.Is(err, context.Canceled) {
		t.Errorf("a source that breaks: %v", err)
	}
}

// TestReadyMadeQueriesRun runs what docs/reports.md tells people to run.
func TestReadyMadeQueriesRun(t *testing.T) {
	t.Parallel()
	w := setUp(t)
	doc, err := os.ReadFile("../../docs/reports.md")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for part := range strings.SplitSeq(string(doc), "```sql\n") {
		sql, _, ok := strings.Cut(part, "```")
		if !ok {
			continue
		}
		n++
		if _, _, err := w.db.Text(t.Context(), sql); err != nil {
			t.Errorf("%s\n%v", sql, err)
		}
	}
	if n < 9 {
		t.Errorf("found %d queries", n)
	}
}
