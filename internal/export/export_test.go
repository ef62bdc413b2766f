package export

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/parquet-go/parquet-go"
	"go.uber.org/goleak"

	"batchwright/internal/bucket"
	"batchwright/internal/jobs"
	"batchwright/internal/store"
	"batchwright/internal/store/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type world struct {
	*Service
	url, folder string
	project     store.Project
	x           *Exporter
}

func setUp(t *testing.T) *world {
	t.Helper()
	w := &world{url: storetest.URL(t), folder: t.TempDir()}
	db, err := store.Open(t.Context(), w.url, store.Options{MaxConns: 4})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	if w.project, err = db.CreateKey(t.Context(), "p", "k", "bw_x", sha256.Sum256([]byte("k"))); err != nil {
		t.Fatal(err)
	}
	places, err := bucket.ParsePlaces("file://" + w.folder)
	if err != nil {
		t.Fatal(err)
	}
	w.Service = &Service{DB: db, Places: places}
	w.x = NewExporter(w.Service, slog.New(slog.DiscardHandler), Options{})
	return w
}

// batch makes a running batch of n jobs that are done.
func (w *world) batch(t *testing.T, n int) uuid.UUID {
	t.Helper()
	id := uuid.Must(uuid.NewV7())
	storetest.Exec(t, w.url, `insert into batches (id, project_id, name, kind, state, route, params, metadata, on_invalid, cache, request_sha256, total_jobs, started_at, api_key_id)
		values ($1, $2, 'Nightly run', 'chat', 'running', '{}', '{}', '{}', 'skip', 'use', '', $3, now(), $4)`, id, w.project.ID, n, w.project.KeyID)
	storetest.Exec(t, w.url, `insert into inputs (batch_id, seq, custom_id) select $1, s, 'c' || s from generate_series(1, $2::int) s`, id, n)
	storetest.Exec(t, w.url, `insert into completions (project_id, key, input_tokens, cached_input_tokens, output_tokens, format, model, provider, answered_by, output)
		select $1, '\x01', 1, 0, 1, 'text', 'm', 'p', 'm', E'an answer,\n"quoted" ' || repeat('x', 200) on conflict do nothing`, w.project.ID)
	storetest.Exec(t, w.url, `insert into jobs (batch_id, seq, state, finished_at, result_key, result_generation, cost_microusd, calls, provider, model, cache_status)
		select batch_id, seq, 'succeeded', now(), '\x01', 1, case when seq % 9 > 0 then seq::bigint * 1000003 end, 1, 'p', 'm', 'miss' from inputs where batch_id = $1`, id)
	return id
}

func (w *world) end(t *testing.T, id uuid.UUID) {
	t.Helper()
	if done, err := w.DB.FinishBatch(t.Context(), id); err != nil || !done {
		t.Fatalf("%v, %v", done, err)
	}
}

func (w *world) ended(t *testing.T, n int) uuid.UUID {
	t.Helper()
	id := w.batch(t, n)
	w.end(t, id)
	return id
}

func (w *world) target(name string) string { return "file://" + w.folder + "/" + name }

func (w *world) request(t *testing.T, batch uuid.UUID, format, target string) store.Export {
	t.Helper()
	e, err := w.Request(t.Context(), w.project, batch, jobs.ExportSpec{Format: format, Target: target}, 1, 1<<31-1)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// drain works off what is due, and returns how an export stands.
func (w *world) drain(t *testing.T, id uuid.UUID) store.Export {
	t.Helper()
	w.work(t)
	e, err := w.DB.Export(t.Context(), w.project.ID, id)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func (w *world) work(t *testing.T) {
	t.Helper()
	for {
		e, err := w.DB.ClaimExport(t.Context(), time.Minute)
		if errors.Is(err, store.ErrNotFound) {
			return
		} else if err != nil {
			t.Fatal(err)
		}
		w.x.attempt(t.Context(), e)
	}
}

func (w *world) files(t *testing.T) (names []string) {
	t.Helper()
	if err := filepath.WalkDir(w.folder, func(name string, e os.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			names = append(names, strings.TrimPrefix(name, w.folder+"/"))
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return names
}

// costs sums up a file and counts its rows; they must be in order.
func costs(t *testing.T, format string, data []byte) (sum int64, rows int) {
	t.Helper()
	for _, r := range cells(t, format, data, "index", "cost_microusd") {
		rows++
		if r[0] != strconv.Itoa(rows) {
			t.Fatalf("row %d has index %s", rows, r[0])
		}
		sum += number(t, r[1])
	}
	return sum, rows
}

// number reads a cell; null counts as nothing.
func number(t *testing.T, cell string) int64 {
	t.Helper()
	if cell == "" {
		return 0
	}
	n, err := strconv.ParseInt(cell, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// cells reads some columns of a file, with nothing for null.
func cells(t *testing.T, format string, data []byte, columns ...string) (out [][]string) {
	t.Helper()
	switch format {
	case "csv":
		table, err := csv.NewReader(bytes.NewReader(data)).ReadAll()
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range table[1:] {
			out = append(out, pick(columns, func(name string) string { return r[slices.Index(table[0], name)] }))
		}
	case "ndjson":
		d := json.NewDecoder(bytes.NewReader(data))
		d.UseNumber()
		for d.More() {
			var r map[string]any
			if err := d.Decode(&r); err != nil {
				t.Fatal(err)
			}
			out = append(out, pick(columns, func(name string) string {
				v, ok := r[name]
				if !ok {
					t.Fatalf("no column %s", name)
				}
				if v == nil {
					return ""
				}
				return fmt.Sprint(v)
			}))
		}
	case "parquet":
		f, err := parquet.OpenFile(bytes.NewReader(data), int64(len(data)))
		if err != nil {
			t.Fatal(err)
		}
		names := make([]string, len(f.Schema().Columns()))
		for i, path := range f.Schema().Columns() {
			names[i] = path[0]
		}
		r := parquet.NewReader(f)
		buf := make([]parquet.Row, 100)
		for {
			n, err := r.ReadRows(buf)
			for _, row := range buf[:n] {
				out = append(out, pick(columns, func(name string) string {
					v := row[slices.Index(names, name)]
					if v.IsNull() {
						return ""
					}
					return v.String()
				}))
			}
			if errors.Is(err, io.EOF) {
				return out
			} else if err != nil {
				t.Fatal(err)
			}
		}
	}
	return out
}

func pick(columns []string, of func(name string) string) []string {
	out := make([]string, len(columns))
	for i, name := range columns {
		out[i] = of(name)
	}
	return out
}

func TestTotalsOfAFileAreThoseOfTheLedger(t *testing.T) {
	t.Parallel()
	w := setUp(t)
	const n = 3000
	id := w.ended(t, n)
	want := storetest.Scalar[int64](t, w.url, `select sum(cost_microusd)::bigint from reports.jobs where batch_id = $1`, id)
	for _, format := range []string{"csv", "ndjson", "parquet"} {
		e := w.drain(t, w.request(t, id, format, w.target("{date}/{name}-{project}.{format}")).ID)
		if e.State != store.ExportSucceeded || e.Rows != n || e.Error != nil || e.EndedAt == nil || e.DueAt != nil {
			t.Fatalf("%s: %+v", format, e)
		}
		name := time.Now().UTC().Format(time.DateOnly) + "/Nightly-run-p." + format
		if *e.URL != w.target(name) {
			t.Errorf("url %s, want %s", *e.URL, w.target(name))
		}
		data, err := os.ReadFile(filepath.Join(w.folder, name))
		if err != nil {
			t.Fatal(err)
		}
		if sum := sha256.Sum256(data); !bytes.Equal(sum[:], e.SHA256) || int64(len(data)) != e.Bytes {
			t.Errorf("%s: %d bytes of sum %x, noted as %d of %x", format, len(data), sum, e.Bytes, e.SHA256)
		}
		if got, rows := costs(t, format, data); got != want || rows != n {
			t.Errorf("%s: %d micro-dollars in %d rows, SQL says %d", format, got, rows, want)
		}
	}
	// A range and a status, as the download has them.
	e, err := w.Request(t.Context(), w.project, id, jobs.ExportSpec{Format: "csv", Target: w.target("part.csv"), Status: "succeeded", BOM: true}, 11, 20)
	if err != nil {
		t.Fatal(err)
	}
	if e = w.drain(t, e.ID); e.Rows != 10 {
		t.Errorf("%+v", e)
	}
	if data, err := os.ReadFile(filepath.Join(w.folder, "part.csv")); err != nil || !bytes.HasPrefix(data, []byte("\ufeffindex,")) || !bytes.Contains(data, []byte("\n11,c11,")) {
		t.Errorf("%.100q, %v", data, err)
	}
	if got := w.files(t); len(got) != 4 {
		t.Errorf("files %q", got)
	}
}

func TestAnExportWaitsForTheEndOfItsBatch(t *testing.T) {
	t.Parallel()
	w := setUp(t)
	id := w.batch(t, 10)
	e := w.request(t, id, "csv", w.target("{batch}.csv"))
	if e = w.drain(t, e.ID); e.State != store.ExportPending || e.Attempts != 0 || len(w.files(t)) != 0 {
		t.Fatalf("%+v %q", e, w.files(t))
	}
	w.end(t, id)
	if e = w.drain(t, e.ID); e.State != store.ExportSucceeded || e.Rows != 10 {
		t.Errorf("%+v", e)
	}
}

func TestWhoeverLostAnExportCompletesNoFile(t *testing.T) {
	t.Parallel()
	w := setUp(t)
	id := w.ended(t, 10)
	e := w.request(t, id, "csv", w.target("{batch}.csv"))
	first, err := w.DB.ClaimExport(t.Context(), time.Hour)
	if err != nil || first.ID != e.ID {
		t.Fatalf("%+v %v", first, err)
	}
	if _, err := w.DB.ClaimExport(t.Context(), time.Hour); !errors.Is(err, store.ErrNotFound) {
		t.Fatalf("it was taken twice: %v", err)
	}
	storetest.Exec(t, w.url, `update exports set due_at = now() - interval '1 second'`) // the lease has run out
	if e = w.drain(t, e.ID); e.State != store.ExportSucceeded || e.Attempts != 2 {
		t.Fatalf("%+v", e)
	}
	if err := os.Remove(filepath.Join(w.folder, id.String()+".csv")); err != nil {
		t.Fatal(err)
	}
	w.x.attempt(t.Context(), first) // a worker that stood still
	if got := w.drain(t, e.ID); got.State != store.ExportSucceeded || got.Attempts != 2 || len(w.files(t)) != 0 {
		t.Errorf("%+v %q", got, w.files(t))
	}
}

func TestCancelledAndOvertakenExportsLeaveNothing(t *testing.T) {
	t.Parallel()
	w := setUp(t)
	id := w.ended(t, 10)
	e := w.request(t, id, "csv", w.target("cancelled.csv"))
	held, err := w.DB.ClaimExport(t.Context(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if got, err := w.Cancel(t.Context(), w.project.ID, e.ID); err != nil || got.State != store.ExportCancelled {
			t.Fatalf("%+v %v", got, err)
		}
	}
	w.x.attempt(t.Context(), held)

	// A batch that is reopened while its export runs is exported when it has ended anew; of one that is purged nothing comes.
	reopened := w.request(t, id, "csv", w.target("reopened.csv"))
	if held, err = w.DB.ClaimExport(t.Context(), time.Hour); err != nil {
		t.Fatal(err)
	}
	storetest.Exec(t, w.url, `update batches set state = 'running', finished_at = null, succeeded_jobs = null where id = $1`, id)
	w.x.attempt(t.Context(), held)
	if got := w.drain(t, reopened.ID); got.State != store.ExportPending || len(w.files(t)) != 0 {
		t.Fatalf("%+v %q", got, w.files(t))
	}
	w.end(t, id)
	if got := w.drain(t, reopened.ID); got.State != store.ExportSucceeded || got.Rows != 10 {
		t.Errorf("%+v", got)
	}
	if _, err := w.Cancel(t.Context(), w.project.ID, reopened.ID); code(err) != jobs.Conflict {
		t.Errorf("cancelled after its end: %v", err)
	}
	purged := w.request(t, id, "csv", w.target("purged.csv"))
	if done, err := w.DB.PurgeBatch(t.Context(), w.project.ID, id, 100); err != nil || !done {
		t.Fatal(done, err)
	}
	if got := w.drain(t, purged.ID); got.State != store.ExportFailed || !strings.Contains(*got.Error, "purged") || len(w.files(t)) != 1 {
		t.Errorf("%+v %q", got, w.files(t))
	}
	if _, err := w.Request(t.Context(), w.project, id, jobs.ExportSpec{Format: "csv", Target: w.target("x")}, 1, 2); code(err) != jobs.Conflict {
		t.Errorf("of a purged batch: %v", err)
	}
	if _, err := w.Cancel(t.Context(), uuid.New(), reopened.ID); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("another project's: %v", err)
	}
}

func code(err error) jobs.Code {
	e, ok := errors.AsType[*jobs.Error](err)
	if !ok {
		return ""
	}
	return e.Code
}

func TestTargetsThatCantBeWrittenAreRefusedByField(t *testing.T) {
	t.Parallel()
	w := setUp(t)
	if err := os.Symlink("/tmp", filepath.Join(w.folder, "out")); err != nil {
		t.Fatal(err)
	}
	good := jobs.ExportSpec{Format: "csv", Target: w.target("{project}/{batch}/{name}-{date}.{format}")}
	for origin, ok := range map[string]bool{store.ExportRequest: true, store.ExportPurge: true, store.ExportSchedule: true} {
		if err := w.Check(t.Context(), w.project, good, origin); (err == nil) != ok {
			t.Errorf("%s: %v", origin, err)
		}
	}
	for _, tt := range []struct {
		field, origin string
		change        func(*jobs.ExportSpec)
	}{
		{"format", store.ExportRequest, func(e *jobs.ExportSpec) { e.Format = "json" }},
		{"bom", store.ExportRequest, func(e *jobs.ExportSpec) { e.Format, e.BOM = "parquet", true }},
		{"target", store.ExportRequest, func(e *jobs.ExportSpec) { e.Target = "ftp://host/x" }},
		{"target", store.ExportRequest, func(e *jobs.ExportSpec) { e.Target = "s3://reports/x" }},
		{"target", store.ExportRequest, func(e *jobs.ExportSpec) { e.Target = "file:///etc/cron.d/x" }},
		{"target", store.ExportRequest, func(e *jobs.ExportSpec) { e.Target = w.target("../x") }},
		{"target", store.ExportRequest, func(e *jobs.ExportSpec) { e.Target = w.target("out/x") }},
		{"target", store.ExportRequest, func(e *jobs.ExportSpec) { e.Target = w.target("missing/x") }},
		{"target", store.ExportRequest, func(e *jobs.ExportSpec) { e.Target = w.target("folder/") }},
		{"target", store.ExportRequest, func(e *jobs.ExportSpec) { e.Target = w.target("{nonsense}") }},
		{"target", store.ExportRequest, func(e *jobs.ExportSpec) { e.Target = w.target("{schedule}") }},
		{"target", store.ExportPurge, func(e *jobs.ExportSpec) { e.Target = w.target("{name}") }},
	} {
		spec := good
		tt.change(&spec)
		err := w.Check(t.Context(), w.project, spec, tt.origin)
		if e, ok := errors.AsType[*jobs.Error](err); !ok || e.Field != tt.field || e.Code != jobs.Invalid {
			t.Errorf("%+v: %v", spec, err)
		}
	}
	if got := w.files(t); len(got) != 1 { // the link
		t.Errorf("probes left %q", got)
	}
}

func TestAFailingExportIsTriedAgainAndSaysWhy(t *testing.T) {
	t.Parallel()
	w := setUp(t)
	e := w.request(t, w.ended(t, 10), "csv", w.target("{project}/x.csv"))
	if err := os.WriteFile(filepath.Join(w.folder, "p"), nil, 0o600); err != nil { // where the folder is to be
		t.Fatal(err)
	}
	for n := int32(1); n <= tries; n++ {
		storetest.Exec(t, w.url, `update exports set due_at = now() where due_at is not null`)
		e = w.drain(t, e.ID)
		if e.Attempts != n || e.Error == nil || !strings.HasPrefix(*e.Error, "target: can't be written: ") {
			t.Fatalf("%+v", e)
		}
		if pending := n < tries; (e.State == store.ExportPending) != pending || pending != (e.DueAt != nil && time.Until(*e.DueAt) > 4*time.Second) {
			t.Fatalf("attempt %d: %s, due %v", n, e.State, e.DueAt)
		}
	}
	if e.State != store.ExportFailed {
		t.Errorf("%+v", e)
	}
}

func TestABatchIsPurgedOnlyWhenItWasExported(t *testing.T) {
	t.Parallel()
	w := setUp(t)
	week := int32(7)
	setting, err := json.Marshal(jobs.ExportSpec{Format: "ndjson", Target: w.target("{date}/{batch}.ndjson")})
	if err != nil {
		t.Fatal(err)
	}
	set := func(setting json.RawMessage) {
		if err := w.DB.SetProject(t.Context(), "p", store.ProjectSettings{RetentionDays: &week, PurgeExport: &setting}); err != nil {
			t.Fatal(err)
		}
	}
	set(setting)
	old, young := w.ended(t, 20), w.ended(t, 20)
	storetest.Exec(t, w.url, `update batches set finished_at = now() - interval '8 days' where id = $1`, old)
	purges := func() uuid.UUID {
		id, done, err := w.DB.PurgeNext(t.Context(), 100)
		if errors.Is(err, store.ErrNotFound) {
			return uuid.Nil
		}
		if err != nil || !done {
			t.Fatal(done, err)
		}
		return id
	}
	planned := func() int64 {
		n, err := w.DB.PlanPurgeExports(t.Context(), 100)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	export := func() store.Export {
		w.work(t)
		all, err := w.DB.Exports(t.Context(), w.project.ID, &old, "", nil, 10)
		if err != nil || len(all) != 1 || all[0].Origin != store.ExportPurge {
			t.Fatalf("%+v %v", all, err)
		}
		return all[0]
	}
	if purges() != uuid.Nil {
		t.Fatal("purged before it was exported")
	}
	if planned() != 1 || planned() != 0 {
		t.Error("not planned once")
	}
	// It can't be written for long: that is to be seen, and the batch stays.
	if err := os.Rename(w.folder, w.folder+".away"); err != nil {
		t.Fatal(err)
	}
	for range tries {
		storetest.Exec(t, w.url, `update exports set due_at = now() where due_at is not null`)
		export()
	}
	if e := export(); e.State != store.ExportFailed || e.DueAt == nil || time.Until(*e.DueAt) < 50*time.Minute || !strings.Contains(*e.Error, "does not exist") {
		t.Errorf("%+v", e)
	}
	if planned() != 0 || purges() != uuid.Nil {
		t.Fatal("purged though its export failed")
	}
	if _, err := w.Cancel(t.Context(), w.project.ID, export().ID); code(err) != jobs.Conflict {
		t.Errorf("cancelled: %v", err)
	}
	if err := os.Rename(w.folder+".away", w.folder); err != nil {
		t.Fatal(err)
	}
	storetest.Exec(t, w.url, `update exports set due_at = now() where due_at is not null`) // an hour later
	if e := export(); e.State != store.ExportSucceeded || e.Rows != 20 {
		t.Fatalf("%+v", e)
	}
	// It is reopened and ends anew: what was exported is not what there is.
	storetest.Exec(t, w.url, `update batches set finished_at = finished_at + interval '1 hour' where id = $1`, old)
	if purges() != uuid.Nil {
		t.Fatal("purged though it has ended anew since its export")
	}
	if planned() != 1 {
		t.Error("not planned anew")
	}
	// Another setting counts from now on.
	setting = bytes.ReplaceAll(setting, []byte("ndjson"), []byte("csv"))
	set(setting)
	if planned() != 1 {
		t.Error("not planned anew by the new setting")
	}
	other := w.request(t, old, "parquet", w.target("requested.parquet"))
	storetest.Exec(t, w.url, `update exports set due_at = now() + interval '1 hour' where id = $1`, other.ID)
	if e := w.drain(t, other.ID); e.State != store.ExportPending {
		t.Fatalf("%+v", e)
	}
	if got := purges(); got != uuid.Nil {
		t.Fatal("purged before all exports that were asked for")
	}
	storetest.Exec(t, w.url, `update exports set due_at = now() where id = $1`, other.ID)
	if e := w.drain(t, other.ID); e.State != store.ExportSucceeded {
		t.Fatalf("%+v", e)
	}
	if got := purges(); got != old {
		t.Fatalf("purged %s, want %s", got, old)
	}
	if got := purges(); got != uuid.Nil || planned() != 0 {
		t.Errorf("purged %s; the young one is %s", got, young)
	}
	if got := fmt.Sprint(len(w.files(t))); got != "3" {
		t.Errorf("files %q", w.files(t))
	}
	// Whoever removes a batch doesn't wait for its export, and that doesn't wait for the batch.
	removed := w.ended(t, 20)
	storetest.Exec(t, w.url, `update batches set finished_at = now() - interval '8 days' where id = $1`, removed)
	if planned() != 1 {
		t.Error("not planned")
	}
	if done, err := w.DB.PurgeBatch(t.Context(), w.project.ID, removed, 100); err != nil || !done {
		t.Fatal(done, err)
	}
	w.work(t)
	if left := storetest.Scalar[int](t, w.url, `select count(*)::int from exports where state <> 'failed' and batch_id = $1 or due_at is not null`, removed); left != 0 {
		t.Errorf("%d exports of a batch that is gone are to be made", left)
	}
	set(nil)
	storetest.Exec(t, w.url, `update batches set finished_at = now() - interval '8 days' where id = $1`, young)
	if got := purges(); got != young {
		t.Errorf("without the setting: purged %s, want %s", got, young)
	}
}

func TestExportersShareTheWorkAndStopAtOnce(t *testing.T) {
	t.Parallel()
	w := setUp(t)
	const n = 20
	for range n {
		w.request(t, w.ended(t, 50), "parquet", w.target("{batch}.parquet"))
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var all sync.WaitGroup
	for range 3 {
		all.Go(func() {
			NewExporter(w.Service, slog.New(slog.DiscardHandler), Options{Poll: 10 * time.Millisecond}).Run(ctx)
		})
	}
	for done := 0; done < n; {
		select {
		case <-time.After(10 * time.Millisecond):
		case <-t.Context().Done():
			t.Fatal("not done")
		}
		done = storetest.Scalar[int](t, w.url, `select count(*)::int from exports where state = 'succeeded'`)
	}
	stop()
	all.Wait()
	if most := storetest.Scalar[int](t, w.url, `select max(attempts) from exports`); most != 1 || len(w.files(t)) != n {
		t.Errorf("%d attempts, files %q", most, w.files(t))
	}
	e := w.request(t, w.ended(t, 50), "csv", w.target("late.csv"))
	held, err := w.DB.ClaimExport(t.Context(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	w.x.attempt(ctx, held) // of a worker that is told to stop
	if e, err = w.DB.Export(t.Context(), w.project.ID, e.ID); err != nil || e.State != store.ExportPending || e.DueAt.After(time.Now()) || e.Error != nil {
		t.Errorf("%+v, %v", e, err)
	}
}
