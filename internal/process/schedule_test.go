package process_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"batchwright/internal/process"
	"batchwright/internal/queue/queuetest"
	"batchwright/internal/store/storetest"
)

type scheduleReply struct {
	ID        string          `json:"id"`
	Enabled   bool            `json:"enabled"`
	Cron      string          `json:"cron"`
	Batch     json.RawMessage `json:"batch"`
	JobCount  *int            `json:"job_count"`
	NextDueAt *time.Time      `json:"next_due_at"`
}

type tickReply struct {
	DueAt   time.Time `json:"due_at"`
	Manual  bool      `json:"manual"`
	State   string    `json:"state"`
	Reason  *string   `json:"reason"`
	BatchID string    `json:"batch_id"`
}

func (s *system) schedule(t *testing.T, body string) scheduleReply {
	t.Helper()
	r := s.post(t, "/v1/schedules", body)
	if r.status != http.StatusCreated {
		t.Fatalf("status %d: %s", r.status, r.body)
	}
	var out scheduleReply
	r.json(t, &out)
	return out
}

func (s *system) reschedule(t *testing.T, id, body string) reply {
	t.Helper()
	return s.do(t, http.MethodPatch, "/v1/schedules/"+id, "application/json", strings.NewReader(body))
}

func (s *system) ticks(t *testing.T, id string) []tickReply {
	t.Helper()
	var page struct {
		Data []tickReply `json:"data"`
	}
	s.do(t, http.MethodGet, "/v1/schedules/"+id+"/ticks?limit=200", "", nil).json(t, &page)
	return page.Data
}

// ran waits for a manual run of a schedule and returns its tick.
func (s *system) ran(t *testing.T, id, want string) (out tickReply) {
	t.Helper()
	var asked, again tickReply
	key := fmt.Sprint("run-at-", time.Now().UnixNano())
	for i, out := range []*tickReply{&asked, &again} { // whose answer was lost
		r := s.do(t, http.MethodPost, "/v1/schedules/"+id+"/run", "", nil, "Idempotency-Key", key)
		if r.status != http.StatusAccepted || r.header.Get("Idempotency-Replayed") != []string{"false", "true"}[i] {
			t.Fatalf("run: status %d: %v %s", r.status, r.header, r.body)
		}
		r.json(t, out)
	}
	if !again.DueAt.Equal(asked.DueAt) {
		t.Errorf("one key made ticks of %s and %s", asked.DueAt, again.DueAt)
	}
	await(t, "the tick to be "+want, func() bool {
		for _, tick := range s.ticks(t, id) {
			if tick.DueAt.Equal(asked.DueAt) {
				out = tick
			}
		}
		return out.State == want
	})
	return out
}

func TestScheduleRunsItsBatchAgainAndAgain(t *testing.T) {
	t.Parallel()
	s := start(t, map[string]string{"SCHEDULE_FLOOR": "1s"})
	s.saveTemplate(t, blurb)
	made := s.schedule(t, `{"name":"often","cron":"* * * * * *","time_zone":"Europe/Berlin","overlap":"queue","batch":{"kind":"generate","template":"blurb","route":"simulator/sim-1",
		"jobs":[{"custom_id":"a","variables":{"name":"<one>"}},{"custom_id":"b","variables":{"name":"two"}}]}}`)
	if made.JobCount == nil || *made.JobCount != 2 || made.NextDueAt == nil || !bytes.Contains(made.Batch, []byte(`"jobs":[{"custom_id":"a"`)) {
		t.Errorf("%+v %s", made, made.Batch)
	}
	count := func() (n int) {
		for _, tick := range s.ticks(t, made.ID) {
			if tick.State == "ran" {
				n++
			}
		}
		return n
	}
	await(t, "three runs", func() bool { return count() >= 3 })
	if r := s.reschedule(t, made.ID, `{"enabled":false}`); r.status != http.StatusOK {
		t.Fatalf("disable: status %d: %s", r.status, r.body)
	}
	await(t, "a tick that is skipped", func() bool {
		tick := s.ticks(t, made.ID)[0]
		return tick.State == "skipped" && *tick.Reason == "disabled"
	})
	seen, batches := map[time.Time]bool{}, 0
	for _, tick := range s.ticks(t, made.ID) {
		if seen[tick.DueAt] || tick.DueAt.Nanosecond() != 0 {
			t.Errorf("tick %+v", tick)
		}
		seen[tick.DueAt] = true
		if tick.BatchID == "" {
			continue
		}
		batches++
		b := s.finish(t, tick.BatchID)
		if b.State != "completed" || b.Total != 2 || b.Stats.Jobs.Succeeded != 2 {
			t.Errorf("%+v", b)
		}
	}
	if calls := storetest.Scalar[int64](t, s.env["DATABASE_URL"], `select count(*) from calls`); calls != 2 {
		t.Errorf("%d calls, want 2: each run but the first is answered from the cache", calls)
	}
	if n := storetest.Scalar[int](t, s.env["DATABASE_URL"], `select count(*)::int from batches`); n != batches {
		t.Errorf("%d batches of %d ticks", n, batches)
	}
	// A manual run takes the latest version of the template, though the schedule is disabled.
	s.saveTemplate(t, strings.Replace(blurb, "Write about", "Now write about", 1))
	run := s.ran(t, made.ID, "ran")
	if got := s.do(t, http.MethodGet, "/v1/batches/"+run.BatchID, "", nil).body; !run.Manual || !bytes.Contains(got, []byte(`"template":"blurb@2"`)) {
		t.Errorf("%+v %s", run, got)
	}
	if r := s.do(t, http.MethodDelete, "/v1/schedules/"+made.ID, "", nil); r.status != http.StatusNoContent {
		t.Errorf("delete: status %d: %s", r.status, r.body)
	}
	if r := s.do(t, http.MethodGet, "/v1/schedules/"+made.ID+"/ticks", "", nil); r.status != http.StatusNotFound {
		t.Errorf("ticks of a deleted schedule: status %d", r.status)
	}
	if b := s.batch(t, run.BatchID); b.State != "completed" {
		t.Errorf("the batch of a deleted schedule: %+v", b)
	}
}

func TestScheduleRunsTheInputsOfABatch(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	s.saveTemplate(t, blurb)
	for name, submission := range map[string]string{
		"generate":  `{"kind":"generate","template":"blurb","route":"simulator/sim-1","jobs":[{"custom_id":"<a&b>","variables":{"name":"x \u00e9 <b>"}},{"variables":{"name":"y"}}]}`,
		"chat":      `{"kind":"chat","route":"simulator","jobs":[{"custom_id":"c","body":{"model" : "m",  "messages":[{"role":"user","content":"a < b \u0041"}]}}]}`,
		"summarize": `{"kind":"summarize","route":"local/extractive","jobs":[{"custom_id":"d","document":{"name":"n.md","text":"# A title\n\nA sentence about one thing. Another about a second thing."}},{"document":{"name":"n.md","text":"The same name. But no id of its own."}}]}`,
	} {
		t.Run(name, func(t *testing.T) {
			first := s.finish(t, accepted(t, s.post(t, "/v1/batches", submission)).ID)
			head, _, _ := strings.Cut(submission, `,"jobs"`)
			made := s.schedule(t, `{"cron":"@yearly","batch":`+head+`,"inputs_of":"`+first.ID+`"}}`)
			again := s.finish(t, s.ran(t, made.ID, "ran").BatchID)
			if again.Total != first.Total || again.Stats.Jobs.Succeeded != first.Total || again.Stats.Cache.ResultHit != first.Total || again.Stats.Calls != 0 {
				t.Errorf("%+v after %+v", again, first)
			}
			ids := `select string_agg(coalesce(custom_id, '-') || input::text || coalesce(encode(document_sha256, 'hex'), ''), ' ' order by seq) from inputs where batch_id = $1`
			if a, b := storetest.Scalar[string](t, s.env["DATABASE_URL"], ids, first.ID), storetest.Scalar[string](t, s.env["DATABASE_URL"], ids, again.ID); a != b {
				t.Errorf("inputs\n%s\nwant\n%s", b, a)
			}
			if r := s.do(t, http.MethodDelete, "/v1/batches/"+first.ID, "", nil); r.status >= 300 {
				t.Fatalf("purge: status %d: %s", r.status, r.body)
			}
			if tick := s.ran(t, made.ID, "failed"); tick.Reason == nil || !strings.Contains(*tick.Reason, "purged") {
				t.Errorf("%+v", tick)
			}
		})
	}
}

func TestOverlapOfASchedulesBatches(t *testing.T) {
	t.Parallel()
	s := start(t, map[string]string{"SIMULATOR_LATENCY": "3s"})
	s.saveTemplate(t, blurb)
	with := func(overlap string) string {
		return s.schedule(t, `{"cron":"@yearly","overlap":"`+overlap+`","batch":{"kind":"generate","template":"blurb","cache":"off","route":"simulator/sim-1","jobs":[{"variables":{"name":"`+overlap+`"}}]}}`).ID
	}
	skip, queue, cancel := with("skip"), with("queue"), with("cancel_older")
	running := s.ran(t, skip, "running")
	if tick := s.ran(t, skip, "skipped"); !strings.Contains(*tick.Reason, running.BatchID) {
		t.Errorf("%+v", tick)
	}
	older := s.ran(t, cancel, "running")
	s.ran(t, cancel, "running")
	if b := s.finish(t, older.BatchID); b.State != "cancelled" {
		t.Errorf("the older batch is %s", b.State)
	}
	first := s.ran(t, queue, "running")
	second := s.ran(t, queue, "ran")
	if early := storetest.Scalar[bool](t, s.env["DATABASE_URL"], `select b.created_at < a.finished_at from batches a, batches b where a.id = $1 and b.id = $2`, first.BatchID, second.BatchID); early {
		t.Error("a queued tick did not wait for the end of the batch before")
	}
}

func TestBadSchedulesAreRefusedByField(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	s.saveTemplate(t, blurb)
	batch := `{"kind":"generate","template":"blurb","route":"simulator/sim-1","jobs":[{"variables":{"name":"x"}}]}`
	for field, body := range map[string]string{
		"/cron":                  `{"cron":"0 0 31 2 *","batch":` + batch + `}`,
		"/cron ":                 `{"cron":"@every 1s","batch":` + batch + `}`,
		"/cron  ":                `{"cron":"*/30 * * * * *","batch":` + batch + `}`,
		"/time_zone":             `{"cron":"@daily","time_zone":"Mars/Olympus","batch":` + batch + `}`,
		"/ends_at":               `{"cron":"@daily","starts_at":"2036-01-02T00:00:00Z","ends_at":"2036-01-01T00:00:00Z","batch":` + batch + `}`,
		"/ends_at ":              `{"cron":"@daily","ends_at":"2020-01-01T00:00:00Z","batch":` + batch + `}`,
		"/jitter_seconds":        `{"cron":"* * * * *","jitter_seconds":60,"batch":` + batch + `}`,
		"/batch/template":        `{"cron":"@daily","batch":` + strings.Replace(batch, "blurb", "nope", 1) + `}`,
		"/batch/route":           `{"cron":"@daily","batch":` + strings.Replace(batch, "simulator/sim-1", "nope", 1) + `}`,
		"/batch/jobs":            `{"cron":"@daily","batch":{"kind":"generate","template":"blurb","route":"simulator/sim-1"}}`,
		"/batch/inputs_of":       `{"cron":"@daily","batch":{"kind":"generate","template":"blurb","route":"simulator/sim-1","inputs_of":"01990000-0000-7000-8000-000000000001"}}`,
		"/batch":                 `{"cron":"@daily"}`,
		"/batch/open":            `{"cron":"@daily","batch":` + strings.Replace(batch, "{", `{"open":true,`, 1) + `}`,
		"/batch/jobs/0/nonsense": `{"cron":"@daily","batch":` + strings.Replace(batch, `"variables"`, `"nonsense":1,"variables"`, 1) + `}`,
		"variables":              `{"cron":"@daily","batch":` + strings.Replace(batch, `"name":"x"`, `"nome":"x"`, 1) + `}`,
		"custom_id":              `{"cron":"@daily","batch":` + strings.Replace(batch, `[{`, `[{"custom_id":"a","variables":{"name":"y"}},{"custom_id":"a",`, 1) + `}`,
	} {
		r := s.post(t, "/v1/schedules", body)
		if (r.status != http.StatusBadRequest && r.status != http.StatusUnprocessableEntity) || !bytes.Contains(r.body, []byte(strings.TrimSpace(field))) {
			t.Errorf("%s: status %d: %s", field, r.status, r.body)
		}
	}
	made := s.schedule(t, `{"cron":"@daily","batch":`+batch+`}`)
	if r := s.reschedule(t, made.ID, `{"cron":"@every 1s"}`); r.status != http.StatusBadRequest || !bytes.Contains(r.body, []byte("/cron")) {
		t.Errorf("change: status %d: %s", r.status, r.body)
	}
	var times struct {
		Data []struct{ Local string }
	}
	s.post(t, "/v1/schedule-preview", `{"cron":"30 2 * * *","time_zone":"Europe/Berlin","starts_at":"2036-03-29T12:00:00Z","n":2}`).json(t, &times)
	if got := fmt.Sprint(times.Data); got != "[{2036-03-30T03:00:00+02:00} {2036-03-31T02:30:00+02:00}]" {
		t.Errorf("preview: %s", got)
	}
	s.do(t, http.MethodGet, "/v1/schedules/"+made.ID+"/preview?n=3", "", nil).json(t, &times)
	if len(times.Data) != 3 {
		t.Errorf("preview: %+v", times)
	}
	other := &system{url: s.url, env: s.env, key: s.newKey(t, "other")}
	for _, path := range []string{"", "/ticks", "/preview"} {
		if r := other.do(t, http.MethodGet, "/v1/schedules/"+made.ID+path, "", nil); r.status != http.StatusNotFound {
			t.Errorf("another project, %s: status %d", path, r.status)
		}
	}
	if r := other.post(t, "/v1/schedules/"+made.ID+"/run", ""); r.status != http.StatusNotFound {
		t.Errorf("another project, run: status %d", r.status)
	}
}

// TestKilledSchedulersDoubleAndLoseNoTick kills two workers that share a schedule at each step of a tick's life, and then at random.
func TestKilledSchedulersDoubleAndLoseNoTick(t *testing.T) {
	t.Parallel()
	binary := buildWorker(t, "chaos")
	s := &system{env: map[string]string{
		"DATABASE_URL": storetest.URL(t), "REDIS_URL": queuetest.URL(t), "HTTP_ADDR": freeAddr(t), "LOG_LEVEL": "error", "WORKER_CONCURRENCY": "8",
		"SCHEDULE_FLOOR": "1s", "WORKER_LEASE": "2s", "UPLOAD_PATIENCE": "2s", "WORKER_PATIENCE": "1s",
	}}
	s.url = "http://" + s.env["HTTP_ADDR"]
	s.key = s.newKey(t, "test")
	s.run(t, process.API)
	s.awaitReady(t)
	s.saveTemplate(t, blurb)
	d, url := &disturbed{system: s}, s.env["DATABASE_URL"]
	made := s.schedule(t, `{"cron":"* * * * * *","catch_up":"all","catch_up_limit":100,"overlap":"cancel_older","batch":{"kind":"generate","template":"blurb","route":"simulator/sim-1",
		"jobs":[{"variables":{"name":"one"}},{"variables":{"name":"two"}}]}}`)
	for _, spec := range []string{"ticks-made:3=kill", "tick-claimed:2=kill", "ingest-chunk:2=kill", "ingest-sealed:2=kill", "tick-submitted:2=kill", "tick-started:2=kill"} {
		d.dies(t, binary, spec)
	}
	for range 8 { // now two at once
		a, b := d.worker(t, binary), d.worker(t, binary)
		timer := time.NewTimer(time.Duration(300+rand.IntN(1500)) * time.Millisecond) //nolint:gosec // any time will do
		<-timer.C
		for _, w := range []*exec.Cmd{a, b} {
			if err := w.Process.Signal(syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			_ = w.Wait()
		}
	}
	d.worker(t, binary)
	d.worker(t, binary)
	ends := time.Now().Add(10 * time.Second).UTC().Format(time.RFC3339)
	if r := s.reschedule(t, made.ID, `{"ends_at":"`+ends+`"}`); r.status != http.StatusOK {
		t.Fatalf("end: status %d: %s", r.status, r.body)
	}
	await(t, "all ticks to be final", func() bool {
		return storetest.Scalar[bool](t, url, `select (select next_due_at is null from schedules) and not exists (select 1 from ticks where ended_at is null)`)
	})
	// Each second from the first to the last one is a row, and none is there twice: due_at is in the key.
	if lost := storetest.Scalar[int](t, url, `select (extract(epoch from max(due_at) - min(due_at)) + 1 - count(*))::int from ticks`); lost != 0 {
		t.Errorf("%d ticks lost", lost)
	}
	if gap := storetest.Scalar[int](t, url, `select (extract(epoch from t.due_at - s.created_at))::int from schedules s, ticks t order by t.due_at limit 1`); gap > 1 {
		t.Errorf("the first tick came %d s after the schedule", gap)
	}
	for _, state := range storetest.Rows[string](t, url, `select distinct state from ticks`) {
		if state != "ran" && state != "missed" {
			t.Errorf("a tick is %s: %v", state, storetest.Rows[string](t, url, `select reason from ticks where state = $1`, state))
		}
	}
	ran := storetest.Scalar[int](t, url, `select count(*)::int from ticks where state = 'ran'`)
	batches := storetest.Scalar[int](t, url, `select count(*)::int from batches where started_at is not null or state <> 'failed'`)
	broken := storetest.Scalar[int](t, url, `select count(*)::int from batches where state = 'failed'`)
	if ran != batches || ran < 10 {
		t.Errorf("%d ticks ran, %d batches", ran, batches)
	}
	if twice := storetest.Scalar[int](t, url, `select count(*)::int from ticks where attempts > 1`); twice < 4 {
		t.Errorf("%d ticks were taken over, want some of each step", twice)
	}
	t.Logf("%d ticks ran, %d batches broke off and were made again", ran, broken)
}
