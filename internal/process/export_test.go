package process_test

import (
	"bytes"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"batchwright/internal/process"
	"batchwright/internal/queue/queuetest"
	"batchwright/internal/store/storetest"
)

type exportReply struct {
	ID       string  `json:"id"`
	BatchID  string  `json:"batch_id"`
	Origin   string  `json:"origin"`
	State    string  `json:"state"`
	URL      *string `json:"url"`
	Rows     int64   `json:"rows"`
	Attempts int32   `json:"attempts"`
	Error    *string `json:"error"`
}

// exported waits for an export to be in a state.
func (s *system) exported(t *testing.T, id, state string) (e exportReply) {
	t.Helper()
	await(t, "the export to be "+state, func() bool {
		s.do(t, http.MethodGet, "/v1/exports/"+id, "", nil).json(t, &e)
		return e.State == state
	})
	return e
}

func TestARunOfAScheduleIsExportedAndShowsIt(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	s := start(t, map[string]string{"EXPORT_TARGETS": "file://" + folder + "/{project}/"})
	s.saveTemplate(t, blurb)
	batch := `"batch":{"kind":"generate","template":"blurb","route":"simulator/sim-1","jobs":[{"variables":{"name":"one"}},{"variables":{"name":"two"}}]}`
	target := "file://" + folder + "/{project}/{schedule}/{batch}.csv"
	for _, bad := range []string{
		`{"format":"csv","target":"file:///etc/passwd"}`, `{"format":"csv","target":"file://` + folder + `/other/x.csv"}`, `{"format":"csv","target":"s3://key:hunter2@reports/x.csv"}`,
	} {
		r := s.post(t, "/v1/schedules", `{"cron":"@yearly","export":`+bad+`,`+batch+`}`)
		if r.status != http.StatusBadRequest || !bytes.Contains(r.body, []byte(`"/export/target"`)) || bytes.Contains(r.body, []byte("hunter2")) {
			t.Errorf("%s: status %d: %s", bad, r.status, r.body)
		}
	}
	made := s.schedule(t, `{"cron":"@yearly","name":"nightly blurbs","export":{"format":"csv","target":"`+target+`"},`+batch+`}`)
	run := s.ran(t, made.ID, "ran")
	ticks := func() (out []struct {
		BatchID string       `json:"batch_id"`
		Export  *exportReply `json:"export"`
	}) {
		var page struct{ Data any }
		page.Data = &out
		s.do(t, http.MethodGet, "/v1/schedules/"+made.ID+"/ticks", "", nil).json(t, &page)
		return out
	}
	await(t, "the tick to show its export", func() bool { e := ticks()[0].Export; return e != nil && e.State == "succeeded" })
	data, err := os.ReadFile(filepath.Join(folder, "test", "nightly-blurbs", run.BatchID+".csv"))
	if err != nil || strings.Count(string(data), "\r\n") != 3 {
		t.Errorf("%q, %v", data, err)
	}
	// A change of something else keeps it; a failure is shown by the tick; null ends it.
	if r := s.reschedule(t, made.ID, `{"name":"blocked"}`); r.status != http.StatusOK || !bytes.Contains(r.body, []byte(target)) {
		t.Fatalf("status %d: %s", r.status, r.body)
	}
	if err := os.WriteFile(filepath.Join(folder, "test", "blocked"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	s.ran(t, made.ID, "ran")
	await(t, "the tick to show why its export fails", func() bool {
		e := ticks()[0].Export
		return e != nil && e.Error != nil && strings.Contains(*e.Error, "target: can't be written")
	})
	if r := s.reschedule(t, made.ID, `{"export":null}`); r.status != http.StatusOK || !bytes.Contains(r.body, []byte(`"export":null`)) {
		t.Errorf("status %d: %s", r.status, r.body)
	}

	// Another project sees none of it, and writes none of it.
	other := &system{url: s.url, env: s.env, key: s.newKey(t, "other")}
	id := ticks()[0].Export.ID
	for _, path := range []string{"/v1/exports/" + id, "/v1/batches/" + run.BatchID + "/exports"} {
		if r := other.do(t, http.MethodGet, path, "", nil); r.status != http.StatusNotFound {
			t.Errorf("another project, %s: status %d", path, r.status)
		}
	}
	if r := other.post(t, "/v1/batches/"+run.BatchID+"/exports", `{"format":"csv","target":"`+target+`"}`); r.status != http.StatusNotFound {
		t.Errorf("another project: status %d: %s", r.status, r.body)
	}
	var e exportReply
	s.do(t, http.MethodPost, "/v1/exports/"+id+"/cancel", "", nil).json(t, &e)
	if e.State != "cancelled" {
		t.Errorf("%+v", e)
	}

	// The setting of a project is checked as well when it is saved.
	for target, ok := range map[string]bool{
		"file://" + folder + "/test/old/{batch}.parquet": false, "file://" + folder + "/test/{date}/{batch}.parquet": true, "file:///etc/{batch}": false, "file://" + folder + "/test/x": false, "": true,
	} {
		if err := process.SetProject(t.Context(), s.getenv, "test", nil, nil, &process.PurgeExport{Format: "parquet", Target: target}); (err == nil) != ok {
			t.Errorf("%s: %v", target, err)
		}
	}
}

func TestAReportIsExportedAndListed(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	s := start(t, map[string]string{"EXPORT_TARGETS": "file://" + folder + "/{project}/"})
	s.saveTemplate(t, blurb)
	id := accepted(t, s.post(t, "/v1/batches", `{"kind":"generate","template":"blurb","route":"simulator/sim-1","jobs":[{"variables":{"name":"one"}},{"variables":{"name":"two"}}]}`)).ID
	s.finish(t, id)
	for body, field := range map[string]string{
		`{"format":"csv","target":"file://%s/test/x.csv","by":["secret"]}`: `"/by"`, `{"format":"csv","target":"file://%s/other/x.csv"}`: `"/target"`,
		`{"format":"json","target":"file://%s/test/x"}`: `"/format"`, `{"format":"csv","target":"file://%s/test/x","limit":3}`: "limit",
	} {
		r := s.post(t, "/v1/reports/jobs/exports", strings.Replace(body, "%s", folder, 1))
		if r.status != http.StatusBadRequest || !bytes.Contains(r.body, []byte(field)) {
			t.Errorf("%s: status %d: %s", body, r.status, r.body)
		}
	}
	body := `{"format":"csv","target":"file://` + folder + `/{project}/{report}/{date}.csv","where":["batch_id=` + id + `"],"sort":["-seq"]}`
	if r := s.post(t, "/v1/reports/nothing/exports", body); r.status != http.StatusNotFound || !bytes.Contains(r.body, []byte("daily_costs")) {
		t.Errorf("status %d: %s", r.status, r.body)
	}
	r := s.post(t, "/v1/reports/jobs/exports", body)
	var e exportReply
	r.json(t, &e)
	if r.status != http.StatusAccepted || r.header.Get("Location") != "/v1/exports/"+e.ID || e.BatchID != "" {
		t.Fatalf("status %d: %s", r.status, r.body)
	}
	e = s.exported(t, e.ID, "succeeded")
	data, err := os.ReadFile(strings.TrimPrefix(*e.URL, "file://"))
	if err != nil {
		t.Fatal(err)
	}
	if want := s.do(t, http.MethodGet, "/v1/reports/jobs?format=csv&sort=-seq&where=batch_id%3D"+id, "", nil).body; e.Rows != 2 || !bytes.Equal(data, want) {
		t.Errorf("%d rows, %q, want %q", e.Rows, data, want)
	}
	list := s.do(t, http.MethodGet, "/v1/exports?state=succeeded", "", nil).body
	for _, want := range []string{e.ID, `"batch_id":null`, `"name":"jobs"`, `"sort":["-seq"]`, `"from":null`} {
		if !bytes.Contains(list, []byte(want)) {
			t.Errorf("no %s in %s", want, list)
		}
	}
	other := &system{url: s.url, env: s.env, key: s.newKey(t, "other")}
	if r := other.do(t, http.MethodGet, "/v1/exports/"+e.ID, "", nil); r.status != http.StatusNotFound {
		t.Errorf("another project: status %d", r.status)
	}
}

// TestAKilledWorkersExportEndsOnceAndWhole kills a worker at each step of an export.
func TestAKilledWorkersExportEndsOnceAndWhole(t *testing.T) {
	t.Parallel()
	binary, folder := buildWorker(t, "chaos"), t.TempDir()
	s := &system{env: map[string]string{
		"DATABASE_URL": storetest.URL(t), "REDIS_URL": queuetest.URL(t), "HTTP_ADDR": freeAddr(t), "LOG_LEVEL": "error", "WORKER_LEASE": "2s",
		"EXPORT_TARGETS": "file://" + folder,
	}}
	s.url = "http://" + s.env["HTTP_ADDR"]
	s.key = s.newKey(t, "test")
	s.run(t, process.API)
	s.awaitReady(t)
	s.saveTemplate(t, blurb)
	d := &disturbed{system: s}
	first := d.worker(t, binary)
	id := accepted(t, s.generate(t, "", products(1500))).ID
	s.finish(t, id)
	if err := first.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_ = first.Wait()
	var e exportReply
	if r := s.post(t, "/v1/batches/"+id+"/exports", `{"format":"ndjson","target":"file://`+folder+`/{batch}.{format}"}`); r.status != http.StatusAccepted {
		t.Fatalf("status %d: %s", r.status, r.body)
	} else {
		r.json(t, &e)
	}
	file := filepath.Join(folder, id+".ndjson")
	visible := func() bool { _, err := os.Stat(file); return err == nil }
	steps := []string{"export-claimed=kill", "export-part:3=kill", "export-part:9=kill", "export-written=kill"}
	for _, spec := range steps {
		d.dies(t, binary, spec)
		if visible() {
			t.Errorf("%s: half an export is to be seen", spec)
		}
	}
	d.dies(t, binary, "export-committed=kill") // before it could say so
	want := s.do(t, http.MethodGet, "/v1/batches/"+id+"/export?format=ndjson", "", nil).body
	whole := func() {
		t.Helper()
		if data, err := os.ReadFile(file); err != nil || !bytes.Equal(data, want) || bytes.Count(data, []byte("\n")) != 1500 {
			t.Errorf("%d bytes, %v, want %d", len(data), err, len(want))
		}
	}
	whole()
	d.worker(t, binary)
	d.worker(t, binary)
	if e = s.exported(t, e.ID, "succeeded"); e.Rows != 1500 || int(e.Attempts) != len(steps)+2 {
		t.Errorf("%+v", e)
	}
	whole()
	if names, err := os.ReadDir(folder); err != nil || len(names) != 1 {
		t.Errorf("%v are left, %v", names, err)
	}
}
