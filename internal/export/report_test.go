package export

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"batchwright/internal/jobs"
	"batchwright/internal/report"
	"batchwright/internal/store"
	"batchwright/internal/store/storetest"
)

// called makes a finished batch with n calls by three models.
func (w *world) called(t *testing.T, n int) {
	t.Helper()
	id := w.batch(t, n)
	storetest.Exec(t, w.url, `insert into calls (batch_id, seq, ticket_id, number, started_at, settled_at, reserved_microusd, cost_microusd, input_tokens, output_tokens, latency_ms,
		step, state, provider, model) select batch_id, seq, 1, 1, now(), now(), 9, cost_microusd, seq, 1, seq, 0, 'settled', 'p', 'm' || seq % 3 from jobs where batch_id = $1`, id)
	w.end(t, id)
}

func (w *world) ask(t *testing.T, name string, q report.Query, e jobs.ExportSpec) (store.Export, error) {
	t.Helper()
	r, ok := report.Find(name)
	if !ok {
		t.Fatalf("no report %s", name)
	}
	return w.RequestReport(t.Context(), w.project, r, q, e)
}

func (w *world) asked(t *testing.T, name string, q report.Query, format, target string) store.Export {
	t.Helper()
	e, err := w.ask(t, name, q, jobs.ExportSpec{Format: format, Target: target})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func TestTotalsOfAReportsFileAreThoseOfTheViewAndOfOneProject(t *testing.T) {
	t.Parallel()
	w := setUp(t)
	w.called(t, 700)
	mine := w.project
	other, err := w.DB.CreateKey(t.Context(), "other", "k", "bw_y", sha256.Sum256([]byte("y")))
	if err != nil {
		t.Fatal(err)
	}
	w.project = other
	w.called(t, 100)
	w.project = mine
	day := time.Now().UTC().Format(time.DateOnly)
	for _, tt := range []struct {
		name string
		q    report.Query
		rows int
		sql  string
	}{
		{"jobs", report.Query{Sort: []string{"-seq"}}, 700, `select sum(cost_microusd)::bigint from reports.jobs where project_id = $1`},
		{"daily_costs", report.Query{}, 3, `select sum(cost_microusd)::bigint from reports.daily_costs where project_id = $1`},
		{"hourly_costs", report.Query{By: []string{"model"}, Where: []string{"model!=m1"}}, 2, `select sum(cost_microusd)::bigint from reports.hourly_costs where project_id = $1 and model <> 'm1'`},
		{"batches", report.Query{From: day, By: []string{"kind"}}, 1, `select sum(cost_microusd)::bigint from reports.batches where project_id = $1`},
		{"daily_costs", report.Query{To: "2020-01-01"}, 0, `select 0::bigint where $1::uuid is not null`},
	} {
		want := storetest.Scalar[int64](t, w.url, tt.sql, mine.ID)
		if (want == 0) != (tt.rows == 0) {
			t.Fatalf("%s: %d", tt.name, want)
		}
		for _, format := range []string{"csv", "ndjson", "parquet"} {
			e := w.drain(t, w.asked(t, tt.name, tt.q, format, w.target("{date}/{report}-{project}.{format}")).ID)
			if e.State != store.ExportSucceeded || e.BatchID != nil || e.Origin != store.ExportRequest || e.Rows != int64(tt.rows) {
				t.Fatalf("%s as %s: %+v", tt.name, format, e)
			}
			file := day + "/" + tt.name + "-p." + format
			if *e.URL != w.target(file) {
				t.Errorf("url %s, want %s", *e.URL, w.target(file))
			}
			data, err := os.ReadFile(filepath.Join(w.folder, file))
			if err != nil {
				t.Fatal(err)
			}
			if sum := sha256.Sum256(data); !bytes.Equal(sum[:], e.SHA256) || int64(len(data)) != e.Bytes {
				t.Errorf("%s as %s: %d bytes of sum %x, noted as %d of %x", tt.name, format, len(data), sum, e.Bytes, e.SHA256)
			}
			got, rows := int64(0), cells(t, format, data, "cost_microusd")
			for _, r := range rows {
				got += number(t, r[0])
			}
			if got != want || len(rows) != tt.rows {
				t.Errorf("%s as %s: %d micro-dollars in %d rows, SQL says %d", tt.name, format, got, len(rows), want)
			}
		}
	}
	if _, err := w.DB.Export(t.Context(), other.ID, w.asked(t, "jobs", report.Query{}, "csv", w.target("x")).ID); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("another project sees it: %v", err)
	}
	all, err := w.DB.Exports(t.Context(), mine.ID, nil, store.ExportSucceeded, nil, 100)
	if err != nil || len(all) != 15 || !strings.Contains(string(all[14].Report), `"-seq"`) {
		t.Errorf("%d listed, %v", len(all), err)
	}
}

func TestWrongExportsOfReportsAreRefusedByField(t *testing.T) {
	t.Parallel()
	w := setUp(t)
	for _, tt := range []struct {
		field string
		q     report.Query
		e     jobs.ExportSpec
	}{
		{field: "from", q: report.Query{From: "yesterday"}},
		{field: "to", q: report.Query{From: "2026-12-02", To: "2026-12-01"}},
		{field: "by", q: report.Query{By: []string{"secret"}}},
		{field: "where", q: report.Query{Where: []string{"project_id=x"}}},
		{field: "sort", q: report.Query{Sort: []string{"x"}}},
		{field: "format", e: jobs.ExportSpec{Format: "json"}},
		{field: "bom", e: jobs.ExportSpec{BOM: true}},
		{field: "target", e: jobs.ExportSpec{Target: "file:///etc/x"}},
		{field: "target", e: jobs.ExportSpec{Target: w.target("{batch}")}},
		{field: "target", e: jobs.ExportSpec{Target: w.target("{schedule}")}},
		{field: "target", e: jobs.ExportSpec{Target: w.target("missing/{report}")}},
	} {
		if tt.e.Format == "" {
			tt.e.Format = "parquet"
		}
		if tt.e.Target == "" {
			tt.e.Target = w.target("{report}")
		}
		_, err := w.ask(t, "daily_costs", tt.q, tt.e)
		if e, ok := errors.AsType[*jobs.Error](err); !ok || e.Field != tt.field || e.Code != jobs.Invalid {
			t.Errorf("%+v: %v", tt, err)
		}
	}
	if err := w.Check(t.Context(), w.project, jobs.ExportSpec{Format: "csv", Target: w.target("{report}")}, store.ExportRequest); code(err) != jobs.Invalid {
		t.Errorf("{report} of a batch: %v", err)
	}
	if n := storetest.Scalar[int](t, w.url, `select count(*)::int from exports`); n != 0 || len(w.files(t)) != 0 {
		t.Errorf("%d exports, files %q", n, w.files(t))
	}
}

func TestAReportsExportIsFencedCancelledAndFailsWithAReason(t *testing.T) {
	t.Parallel()
	w := setUp(t)
	w.called(t, 10)
	held := func() store.Export {
		e, err := w.DB.ClaimExport(t.Context(), time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	e := w.asked(t, "jobs", report.Query{}, "csv", w.target("{report}.csv"))
	first := held()
	storetest.Exec(t, w.url, `update exports set due_at = now() - interval '1 second'`) // the lease has run out
	if e = w.drain(t, e.ID); e.State != store.ExportSucceeded || e.Attempts != 2 || e.Rows != 10 {
		t.Fatalf("%+v", e)
	}
	if err := os.Remove(filepath.Join(w.folder, "jobs.csv")); err != nil {
		t.Fatal(err)
	}
	w.x.attempt(t.Context(), first) // a worker that stood still
	e = w.asked(t, "jobs", report.Query{}, "csv", w.target("{report}.csv"))
	second := held()
	if got, err := w.Cancel(t.Context(), w.project.ID, e.ID); err != nil || got.State != store.ExportCancelled {
		t.Fatalf("%+v %v", got, err)
	}
	w.x.attempt(t.Context(), second)
	if got := w.files(t); len(got) != 0 {
		t.Errorf("files %q", got)
	}

	// What an older program took may be refused by a newer one. A batch's end is nothing to a report.
	for stored, reason := range map[string]string{`{"name": "gone"}`: "no report gone", `{"name": "jobs", "by": ["kind"]}`: "by: "} {
		e = w.asked(t, "jobs", report.Query{}, "csv", w.target("{report}.csv"))
		storetest.Exec(t, w.url, `update exports set report = $2 where id = $1`, e.ID, stored)
		if e = w.drain(t, e.ID); e.State != store.ExportFailed || e.Attempts != 1 || !strings.Contains(*e.Error, reason) {
			t.Errorf("%s: %+v", stored, e)
		}
	}
	e = w.asked(t, "jobs", report.Query{}, "csv", w.target("{report}.csv"))
	third := held()
	storetest.Exec(t, w.url, `update batches set state = 'running', finished_at = null, succeeded_jobs = null`)
	w.x.attempt(t.Context(), third)
	if e = w.drain(t, e.ID); e.State != store.ExportSucceeded || e.Attempts != 1 {
		t.Errorf("%+v", e)
	}
	if _, err := w.DB.CreateExport(t.Context(), store.Export{ID: uuid.New(), ProjectID: w.project.ID, Format: "csv", Target: "x", FirstIndex: 1, LastIndex: 1}); err == nil {
		t.Error("an export of nothing was made")
	}
}
