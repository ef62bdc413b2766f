package process_test

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"batchwright/internal/process"
	"batchwright/internal/queue/queuetest"
	"batchwright/internal/store/storetest"
)

// withSources is the environment of a system that may read a folder, and its own database as the warehouse.
func withSources(t *testing.T, more map[string]string) (dir string, env map[string]string) {
	t.Helper()
	dir = t.TempDir()
	env = map[string]string{"SOURCE_PLACES": "file://" + dir + "/", "SOURCE_CONNECTIONS": "warehouse", "SOURCE_CONNECTION_WAREHOUSE": storetest.URL(t)}
	maps.Copy(env, more)
	return dir, env
}

func put(t *testing.T, dir, name, text string) {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func article(n int) string {
	return fmt.Sprintf("Article %d is about a matter of interest. It has a second sentence. And a third one.", n)
}

func TestASourceIsListedAgainAndPaysForWhatChanged(t *testing.T) {
	t.Parallel()
	dir, env := withSources(t, nil)
	s := start(t, env)
	for i := range 30 {
		put(t, dir, fmt.Sprintf("in/%02d.md", i), article(i))
	}
	put(t, dir, "in/broken.md", "\xff\xfe\x00")
	source := `{"urls":["file://` + dir + `/in/*.md","file://` + dir + `/in/"]}`
	body := `{"kind":"summarize","route":"local/extractive","source":` + source + `}`
	submitted := accepted(t, s.post(t, "/v1/batches", body, "Idempotency-Key", "k"))
	if submitted.State != "ingesting" {
		t.Errorf("%+v", submitted)
	}
	if again := accepted(t, s.post(t, "/v1/batches", body, "Idempotency-Key", "k")); again.ID != submitted.ID {
		t.Errorf("%+v", again)
	}
	first := s.finish(t, submitted.ID)
	if first.State != "completed" || first.Total != 31 || first.Stats.Jobs.Succeeded+first.Stats.Jobs.Failed != 31 || first.Stats.Jobs.Succeeded < 30 {
		t.Fatalf("%+v", first)
	}
	var view struct {
		Source    json.RawMessage
		OnInvalid string `json:"on_invalid"`
		Open      bool
	}
	s.do(t, http.MethodGet, "/v1/batches/"+first.ID, "", nil).json(t, &view)
	if string(view.Source) != source || view.OnInvalid != "skip" || view.Open {
		t.Errorf("%+v: %s", view, view.Source)
	}

	// One file is edited, one added, one removed.
	put(t, dir, "in/07.md", "Another text stands here now. It is short.")
	put(t, dir, "in/30.md", article(30))
	if err := os.Remove(filepath.Join(dir, "in/11.md")); err != nil {
		t.Fatal(err)
	}
	second := s.finish(t, accepted(t, s.rerun(t, first.ID, `{}`, "")).ID)
	if second.Total != 31 || second.Stats.Calls != 2 {
		t.Errorf("%+v: want calls for what is new and for what changed", second)
	}
	sum := s.summary(t, first.ID, second.ID)
	sum.mustBe(t, "edits", counts{"same": 29, "changed": 1, "new": 1, "gone": 1}, counts{"input": 1})
	for _, i := range s.diff(t, first.ID, second.ID, "") {
		want := map[string]string{"07": "changed", "11": "gone", "30": "new"}[strings.TrimSuffix(filepath.Base(*i.CustomID), ".md")]
		if want == "" {
			want = "same"
		}
		if i.Status != want {
			t.Errorf("%s is %s, want %s", *i.CustomID, i.Status, want)
		}
	}

	// The inputs that it had, and changes to them.
	put(t, dir, "in/31.md", article(31))
	same := s.finish(t, accepted(t, s.rerun(t, second.ID, `{"inputs":"same"}`, "")).ID)
	s.summary(t, second.ID, same.ID).mustBe(t, "the same inputs", counts{"same": 31}, counts{})
	changed := s.finish(t, accepted(t, s.rerun(t, second.ID, `{}`, `{"custom_id":"more","document":{"text":"One more text. It is short."}}`)).ID)
	if changed.Total != 32 || changed.Stats.Calls != 1 {
		t.Errorf("%+v", changed)
	}
	if r := s.rerun(t, same.ID, `{"inputs":"source"}`, ""); r.status != http.StatusBadRequest || !strings.Contains(string(r.body), "come from none") {
		t.Errorf("%d %s", r.status, r.body)
	}
	s.mustBalance(t)
}

func TestRowsOfAQuery(t *testing.T) {
	t.Parallel()
	_, env := withSources(t, nil)
	s := start(t, env)
	s.saveTemplate(t, blurb)
	warehouse := env["SOURCE_CONNECTION_WAREHOUSE"]
	storetest.Exec(t, warehouse, `create table products (id int, name text, body text)`)
	storetest.Exec(t, warehouse, `insert into products select i, 'product ' || i, 'Product ' || i || ' is good. It is cheap as well.' from generate_series(1, 50) i`)
	query := func(sql, rest string) string {
		return `{"query":{"connection":"warehouse","sql":"` + sql + `","id":"id"` + rest + `}}`
	}
	submit := func(source string) reply {
		return s.post(t, "/v1/batches", `{"kind":"generate","template":"blurb","route":"simulator/sim-1","source":`+source+`}`)
	}
	first := s.finish(t, accepted(t, submit(query("select id, name from products order by id", ""))).ID)
	if first.Stats.Jobs.Succeeded != 50 || first.Stats.Calls != 50 {
		t.Errorf("%+v", first)
	}
	storetest.Exec(t, warehouse, `update products set name = 'another' where id = 7`)
	storetest.Exec(t, warehouse, `delete from products where id = 8`)
	second := s.finish(t, accepted(t, s.rerun(t, first.ID, `{}`, "")).ID)
	if second.Total != 49 || second.Stats.Calls != 1 {
		t.Errorf("%+v", second)
	}
	s.summary(t, first.ID, second.ID).mustBe(t, "rows", counts{"same": 48, "changed": 1, "gone": 1}, counts{"input": 1})
	documents := s.finish(t, accepted(t, s.post(t, "/v1/batches", `{"kind":"summarize","route":"local/extractive","source":`+
		query("select id, body, name from products order by id", `,"document":"body","name":"name"`)+`}`)).ID)
	if documents.Stats.Jobs.Succeeded != 49 {
		t.Errorf("%+v", documents)
	}
	for sql, words := range map[string]string{
		"select id, name from nothing":         `/source/query/sql: is refused by the database: relation \"nothing\" does not exist`,
		"select name from products":            "/source/query/id: is none of the columns",
		"select id, name, body from products":  `/source/query/sql: gives the column \"body\"`,
		"select id from products":              `/source/query/sql: gives no column \"name\"`,
		"delete from products returning id":    "gives no column",
		"select id, name as id from products":  "two columns",
		"insert into products (id) values (1)": "gives no rows",
	} {
		r := submit(query(sql, ""))
		if r.status != http.StatusBadRequest || !strings.Contains(string(r.body), words) {
			t.Errorf("%s: %d %s", sql, r.status, r.body)
		}
	}
	// That a statement writes is found out when it runs.
	writes := s.finish(t, accepted(t, submit(query("delete from products returning id, name", ""))).ID)
	var view struct{ Error string }
	s.do(t, http.MethodGet, "/v1/batches/"+writes.ID, "", nil).json(t, &view)
	if writes.State != "failed" || !strings.Contains(view.Error, "writes") || storetest.Scalar[int64](t, warehouse, `select count(*) from products`) != 49 {
		t.Errorf("%+v: %s", writes, view.Error)
	}
	if strings.Contains(view.Error, "postgres://") {
		t.Errorf("the error shows where the database is: %s", view.Error)
	}
}

func TestSourcesThatCanNotBeGathered(t *testing.T) {
	t.Parallel()
	dir, env := withSources(t, nil)
	s := start(t, env)
	put(t, dir, "in/good.md", article(1))
	body := func(urls, rest string) string {
		return `{"kind":"summarize","route":"local/extractive","source":{"urls":["file://` + dir + `/` + urls + `"]}` + rest + `}`
	}
	for what, tt := range map[string]struct{ body, words string }{
		"another folder":  {strings.ReplaceAll(body("in/*", ""), dir, "/etc"), "/source/urls/0"},
		"jobs as well":    {body("in/*", `,"jobs":[{"document":{"text":"x"}}]`), "can't come with a source"},
		"open":            {body("in/*", `,"open":true`), "open"},
		"chat":            {strings.Replace(body("in/*", ""), "summarize", "chat", 1), "not for the kind chat"},
		"urls for a kind": {`{"kind":"summarize","route":"local/extractive","source":{}}`, "source"},
		"inside":          {`{"kind":"summarize","route":"local/extractive","source":{"urls":["http://127.0.0.1:8080/"]}}`, "not public"},
	} {
		if r := s.post(t, "/v1/batches", tt.body); r.status != http.StatusBadRequest || !strings.Contains(string(r.body), tt.words) {
			t.Errorf("%s: %d %s", what, r.status, r.body)
		}
	}
	fails := func(body, words string) {
		t.Helper()
		b := s.finish(t, accepted(t, s.post(t, "/v1/batches", body)).ID)
		var view struct{ Error string }
		s.do(t, http.MethodGet, "/v1/batches/"+b.ID, "", nil).json(t, &view)
		if b.State != "failed" || !strings.Contains(view.Error, words) {
			t.Errorf("%+v: %s, want %s", b, view.Error, words)
		}
	}
	fails(body("in/*.none", ""), "has no items")
	fails(body(`in/*","file://`+dir+`/missing.md`, `,"on_invalid":"refuse"`), "1 of 2 jobs can't be run")

	// What is being tried again is no idle upload, takes no jobs of requests, and can be cancelled.
	waiting := accepted(t, s.post(t, "/v1/batches", body("later/*", ""))).ID
	db := s.env["DATABASE_URL"]
	await(t, "the first try to fail", func() bool {
		return storetest.Scalar[int](t, db, `select source_tries from batches where id = $1`, waiting) == 1
	})
	storetest.Exec(t, db, `update batches set ingested_at = now() - interval '3 days' where id = $1`, waiting)
	s.refused(t, "/v1/batches/"+waiting+"/seal", "", "come from its source")
	if r := s.do(t, http.MethodPost, "/v1/batches/"+waiting+"/jobs?offset=0", "application/x-ndjson", strings.NewReader(`{"document":{"text":"x"}}`)); r.status != http.StatusConflict {
		t.Errorf("%d %s", r.status, r.body)
	}
	put(t, dir, "later/a.md", article(2))
	storetest.Exec(t, db, `update batches set source_due_at = now() where id = $1`, waiting)
	if b := s.finish(t, waiting); b.State != "completed" || b.Stats.Jobs.Succeeded != 1 {
		t.Errorf("%+v", b)
	}
	cancelled := accepted(t, s.post(t, "/v1/batches", body("never/*", ""))).ID
	if r := s.post(t, "/v1/batches/"+cancelled+"/cancel", `{}`); r.status >= 300 {
		t.Errorf("cancel: %d %s", r.status, r.body)
	}
	if b := s.finish(t, cancelled); b.State != "cancelled" {
		t.Errorf("%+v", b)
	}
	// The last try.
	gone := accepted(t, s.post(t, "/v1/batches", body("gone/*", ""))).ID
	await(t, "the first try to fail", func() bool {
		return storetest.Scalar[int](t, db, `select source_tries from batches where id = $1`, gone) == 1
	})
	storetest.Exec(t, db, `update batches set source_due_at = now(), source_tries = 7 where id = $1`, gone)
	if b := s.finish(t, gone); b.State != "failed" {
		t.Errorf("%+v", b)
	}
}

func TestAScheduleListsItsSourceAtEachRun(t *testing.T) {
	t.Parallel()
	dir, env := withSources(t, nil)
	s := start(t, env)
	put(t, dir, "a.md", article(1))
	body := `{"cron":"0 0 1 1 *","batch":{"kind":"summarize","route":"local/extractive","source":{"urls":["file://` + dir + `/*.md"]}}}`
	for _, wrong := range []string{strings.Replace(body, dir, "/etc", 1), strings.Replace(body, `"source"`, `"jobs":[{"document":{"text":"x"}}],"source"`, 1)} {
		if r := s.post(t, "/v1/schedules", wrong); r.status != http.StatusBadRequest || !strings.Contains(string(r.body), "batch") {
			t.Errorf("%d %s", r.status, r.body)
		}
	}
	made := s.schedule(t, body)
	ran := func(n int) batch {
		t.Helper()
		if r := s.post(t, "/v1/schedules/"+made.ID+"/run", ""); r.status != http.StatusAccepted {
			t.Fatalf("%d %s", r.status, r.body)
		}
		var page struct{ Data []batch }
		await(t, "the run's batch", func() bool {
			s.do(t, http.MethodGet, "/v1/batches", "", nil).json(t, &page)
			return len(page.Data) == n
		})
		return s.finish(t, page.Data[0].ID)
	}
	first := ran(1)
	put(t, dir, "b.md", article(2))
	if second := ran(2); first.Total != 1 || second.Total != 2 || second.Stats.Calls != 1 {
		t.Errorf("%+v and %+v", first, second)
	}
	var view struct {
		Batch    struct{ Source json.RawMessage }
		JobCount *int `json:"job_count"`
	}
	s.do(t, http.MethodGet, "/v1/schedules/"+made.ID, "", nil).json(t, &view)
	if len(view.Batch.Source) == 0 || view.JobCount != nil {
		t.Errorf("%+v", view)
	}
}

// A database that can't be reached for a while refuses no batch for good: a request may come again, and a run of a schedule is put off.
func TestASourceThatIsAwayForAWhile(t *testing.T) {
	t.Parallel()
	_, env := withSources(t, nil)
	warehouse, err := url.Parse(env["SOURCE_CONNECTION_WAREHOUSE"])
	if err != nil {
		t.Fatal(err)
	}
	storetest.Exec(t, warehouse.String(), `create table products (id int, name text)`)
	storetest.Exec(t, warehouse.String(), `insert into products values (1, 'one'), (2, 'two')`)
	// No server with room for it is what this login finds while it may have no connection.
	role := "reader_" + strings.ToLower(rand.Text())
	storetest.Exec(t, warehouse.String(), `create role `+role+` login password 'secret'`)
	storetest.Exec(t, warehouse.String(), `grant select on products to `+role)
	reader := *warehouse
	reader.User = url.UserPassword(role, "secret")
	env["SOURCE_CONNECTION_WAREHOUSE"] = reader.String()
	s := start(t, env)
	s.saveTemplate(t, blurb)
	submission := `{"kind":"generate","template":"blurb","route":"simulator/sim-1","source":{"query":{"connection":"warehouse","sql":"select id, name from products","id":"id"}}}`
	plan := s.schedule(t, `{"cron":"0 0 1 1 *","batch":`+submission+`}`)

	storetest.Exec(t, warehouse.String(), `alter role `+role+` connection limit 0`)
	for path, body := range map[string]string{"/v1/batches": submission, "/v1/schedules": `{"cron":"0 0 1 1 *","batch":` + submission + `}`} {
		r := s.post(t, path, body)
		if r.status != http.StatusServiceUnavailable || r.header.Get("Retry-After") == "" || !strings.Contains(string(r.body), "source/query/sql: the database can't be reached") {
			t.Errorf("%s: %d %v %s", path, r.status, r.header, r.body)
		}
	}
	if r := s.post(t, "/v1/schedules/"+plan.ID+"/run", ""); r.status != http.StatusAccepted {
		t.Fatalf("%d %s", r.status, r.body)
	}
	db := s.env["DATABASE_URL"]
	await(t, "the run to be put off", func() bool {
		return storetest.Scalar[int](t, db, `select count(*)::int from ticks where schedule_id = $1 and state = 'pending' and attempts > 0
			and reason like 'source.query.sql: the database can''t be reached%'`, plan.ID) == 1
	})
	storetest.Exec(t, warehouse.String(), `alter role `+role+` connection limit -1`)
	var page struct{ Data []batch }
	await(t, "the run's batch", func() bool {
		s.do(t, http.MethodGet, "/v1/batches", "", nil).json(t, &page)
		return len(page.Data) == 1
	})
	if b := s.finish(t, page.Data[0].ID); b.State != "completed" || b.Stats.Jobs.Succeeded != 2 {
		t.Errorf("%+v", b)
	}
}

// TestKilledWhileGatheringLosesAndDoublesNothing kills workers at each step of gathering a source.
func TestKilledWhileGatheringLosesAndDoublesNothing(t *testing.T) {
	t.Parallel()
	binary := buildWorker(t, "chaos")
	dir, env := withSources(t, map[string]string{
		"DATABASE_URL": storetest.URL(t), "REDIS_URL": queuetest.URL(t), "HTTP_ADDR": freeAddr(t), "LOG_LEVEL": "error", "WORKER_CONCURRENCY": "8",
		"WORKER_LEASE": "2s", "UPLOAD_PATIENCE": "2s", "WORKER_PATIENCE": "1s", "SHUTDOWN_GRACE": "5s",
	})
	s := &system{env: env, url: "http://" + env["HTTP_ADDR"]}
	s.key = s.newKey(t, "test")
	s.run(t, process.API)
	s.awaitReady(t)
	const files = 300
	for i := range files {
		put(t, dir, fmt.Sprintf("%03d.md", i), article(i)+strings.Repeat(" And more of it.", 2000)) // 32 KB each: three chunks
	}
	d := &disturbed{system: s}
	id := accepted(t, s.post(t, "/v1/batches", `{"kind":"summarize","route":"local/extractive","source":{"urls":["file://`+dir+`/"]}}`)).ID
	for _, point := range []string{"source-due", "ingest-chunk", "ingest-chunk:2", "source-gathered"} {
		d.dies(t, binary, point+"=kill")
		if b := s.batch(t, id); b.State != "ingesting" {
			t.Fatalf("after %s: %+v", point, b)
		}
	}
	d.worker(t, binary)
	b := s.finish(t, id)
	if b.State != "completed" || b.Total != files || b.Stats.Jobs.Succeeded != files {
		t.Errorf("%+v", b)
	}
	seen := map[string]bool{}
	for _, r := range s.results(t, id) {
		if seen[r.CustomID] || !strings.HasPrefix(r.CustomID, "file://"+dir) {
			t.Errorf("%+v", r)
		}
		seen[r.CustomID] = true
	}
	if left := storetest.Scalar[int64](t, env["DATABASE_URL"], `select count(*) from inputs where batch_id = $1`, id); len(seen) != files || left != files {
		t.Errorf("%d results, %d inputs", len(seen), left)
	}
}

func TestSourceSettingsAreReportedTogether(t *testing.T) {
	t.Parallel()
	env := map[string]string{"DATABASE_URL": "postgres://db/x", "REDIS_URL": "redis://r", "SOURCE_PLACES": "ftp://x/", "SOURCE_CONNECTIONS": "ok,Wrong,crm,none",
		"SOURCE_CONNECTION_OK": "postgres://me:hunter2@db/x", "SOURCE_CONNECTION_CRM": "me:hunter2@db", "SOURCE_HTTP": "maybe", "SOURCE_ALLOW_HOSTS": "http://x"}
	_, err := process.Configure(func(name string) string { return env[name] })
	if err == nil {
		t.Fatal("it was taken")
	}
	for _, want := range []string{"SOURCE_PLACES: ", "SOURCE_CONNECTIONS: ", "SOURCE_CONNECTION_CRM: ", "SOURCE_CONNECTION_NONE: is not set", "SOURCE_HTTP: ", "SOURCE_ALLOW_HOSTS: "} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in\n%v", want, err)
		}
	}
	if strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), "CONNECTION_OK") {
		t.Errorf("%v", err)
	}
}
