package api_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"batchwright/internal/api"
	"batchwright/internal/jobs"
	"batchwright/internal/store"
)

// idle takes a submission and forgets it.
type idle struct{ api.Writer }

func (idle) Submit(_ context.Context, _ store.Project, _ jobs.Spec, in iter.Seq2[jobs.Line, error]) (store.Batch, bool, error) {
	for _, err := range in {
		if err != nil {
			return store.Batch{}, false, err
		}
	}
	return someBatch(), false, nil
}

type panicky struct{ *fake }

func (panicky) Batches(context.Context, uuid.UUID, string, string, *uuid.UUID, int) ([]store.Batch, error) {
	panic("panicky")
}

func ptr[T any](v T) *T { return &v }

func TestBatchesPageNewestFirst(t *testing.T) {
	t.Parallel()
	f := &fake{}
	for n := range 7 {
		b := someBatch()
		b.ID = uuid.MustParse(fmt.Sprintf("01990000-0000-7000-8000-0000000000%02d", 90-n))
		f.batches = append(f.batches, b)
	}
	a := newAPI(t, f)
	var got []string
	path := "/v1/batches?limit=3&kind=chat&state=planning"
	for pages := 1; ; pages++ {
		p := into[api.BatchPage](t, a.do(t, call{path: path}), 200)
		for _, b := range p.Data {
			got = append(got, b.ID.String())
			if b.Stats != nil {
				t.Error("a list counts jobs")
			}
		}
		if p.NextCursor == nil {
			if pages != 3 {
				t.Errorf("%d pages", pages)
			}
			break
		}
		path = "/v1/batches?limit=3&kind=chat&state=planning&cursor=" + *p.NextCursor
	}
	if len(got) != 7 || !slices.IsSortedFunc(got, func(a, b string) int { return strings.Compare(b, a) }) {
		t.Errorf("%v", got)
	}
	if w := a.do(t, call{path: "/v1/batches?kind=generate"}); strings.TrimSpace(w.Body.String()) != `{"data":[],"next_cursor":null}` {
		t.Errorf("no batches: %s", w.Body)
	}
}

func TestBatchShowsCounts(t *testing.T) {
	t.Parallel()
	b := someBatch()
	b.TemplateName, b.TemplateVersion = ptr("t"), ptr(int32(3))
	b.CreatedAt = time.Date(2026, 11, 21, 12, 0, 0, 0, time.FixedZone("", 3600))
	b.Params, b.Metadata = json.RawMessage(`{"a":1}`), json.RawMessage(`{"k":"v"}`)
	f := &fake{batches: []store.Batch{b}, stats: store.BatchStats{
		Pending: 1, Planned: 2, Running: 3, Waiting: 4, Succeeded: 5, Failed: 6, Cancelled: 7, ResultHits: 8, Coalesced: 9, GatewayHits: 10, Misses: 11,
		Bypassed: 12, Calls: 13, UncertainCalls: 1, UnpricedCalls: 2, InputTokens: 14, CachedInputTokens: 15, OutputTokens: 16, CostMicrousd: 17,
	}}
	a := newAPI(t, f)
	path := "/v1/batches/" + b.ID.String()
	w := a.do(t, call{path: path})
	const want = `{"id":"01990000-0000-7000-8000-00000000000b","name":"","kind":"chat","state":"planning","total_jobs":1,"error":null,` +
		`"stats":{"jobs":{"pending":1,"planned":2,"running":3,"waiting":4,"succeeded":5,"failed":6,"cancelled":7},` +
		`"cache":{"result_hit":8,"coalesced":9,"gateway_hit":10,"miss":11,"bypass":12},"calls":13,"uncertain_calls":1,"calls_without_cost":2,` +
		`"input_tokens":14,"cached_input_tokens":15,"output_tokens":16,"cost_microusd":17},"template":"t@3","route":null,` +
		`"route_spec":{"steps":[{"provider":"simulator","model":"m"}],"accept":"any"},"params":{"a":1},"metadata":{"k":"v"},` +
		`"on_invalid":"refuse","cache":"use","priority":0,"concurrency":null,"max_attempts":null,"job_timeout_seconds":null,"expires_at":null,"max_cost_microusd":null,"created_at":"2026-11-21T11:00:00Z","started_at":null,"finished_at":null,"open":false,"purged_at":null,"max_age_seconds":null,"rerun_of":null,"source":null,"on_forecast_over":"run","dry_run":false}`
	if got := strings.TrimSpace(w.Body.String()); got != want || w.Code != 200 {
		t.Errorf("%d\n got %s\nwant %s", w.Code, got, want)
	}
	if got := into[api.Batch](t, a.do(t, call{method: "POST", path: path + "/cancel"}), 200); got.Stats == nil {
		t.Error("cancel shows no counts")
	}
	f.stats = store.BatchStats{Calls: 2, UnpricedCalls: 2}
	if got := into[api.Batch](t, a.do(t, call{path: path}), 200); got.Stats.CostMicrousd != nil {
		t.Errorf("cost %d of calls that have none known", *got.Stats.CostMicrousd)
	}
	f.stats = store.BatchStats{}
	if got := into[api.Batch](t, a.do(t, call{path: path}), 200); got.Stats.CostMicrousd == nil || *got.Stats.CostMicrousd != 0 {
		t.Error("no calls cost nothing")
	}
}

func TestOtherProjectsIDsAreNotFound(t *testing.T) {
	t.Parallel()
	b := someBatch()
	b.ProjectID = uuid.Max
	a := newAPI(t, &fake{batches: []store.Batch{b}, jobs: []store.Job{{BatchID: b.ID, Seq: 1, State: "pending"}}})
	for _, c := range []call{
		{path: "/v1/batches/" + b.ID.String()},
		{path: "/v1/batches/" + b.ID.String() + "/jobs"},
		{path: "/v1/batches/" + b.ID.String() + "/results"},
		{path: "/v1/batches/" + b.ID.String() + "/cancel", method: "POST"},
		{path: "/v1/jobs/" + b.ID.String() + "-1"},
	} {
		into[api.Problem](t, a.do(t, c), 404)
	}
}

func TestJobs(t *testing.T) {
	t.Parallel()
	b := someBatch()
	f := &fake{batches: []store.Batch{b}}
	for n := range int32(5) {
		f.jobs = append(f.jobs, store.Job{BatchID: b.ID, Seq: n + 1, State: "succeeded", CostMicrousd: ptr(int64(n))})
	}
	f.jobs[4] = store.Job{
		BatchID: b.ID, Seq: 5, CustomID: ptr("c"), State: "failed", ErrorClass: ptr("rate_limited"), ErrorMessage: ptr("slow down"), LeaderSeq: ptr(int32(2)),
		CacheStatus: ptr("miss"), Attempts: 2,
	}
	f.calls = []store.Call{{Number: 1, State: "settled", Provider: "openai", Model: "m", CostMicrousd: ptr(int64(3))}, {Number: 2, State: "uncertain", Provider: "openai", Model: "m"}}
	a := newAPI(t, f)
	path := "/v1/batches/" + b.ID.String() + "/jobs?limit=4"
	first := into[api.JobPage](t, a.do(t, call{path: path}), 200)
	if len(first.Data) != 4 || first.NextCursor == nil {
		t.Fatalf("%+v", first)
	}
	second := into[api.JobPage](t, a.do(t, call{path: path + "&cursor=" + *first.NextCursor}), 200)
	if len(second.Data) != 1 || second.NextCursor != nil {
		t.Fatalf("%+v", second)
	}
	if got := into[api.JobPage](t, a.do(t, call{path: path + "&status=failed"}), 200); len(got.Data) != 1 {
		t.Errorf("%d failed jobs", len(got.Data))
	}
	job := second.Data[0]
	if job.ID != b.ID.String()+"-5" || *job.LeaderID != b.ID.String()+"-2" || job.Error.Class != "rate_limited" || job.CostMicrousd != nil {
		t.Errorf("%+v", job)
	}
	one := into[api.JobDetail](t, a.do(t, call{path: "/v1/jobs/" + job.ID}), 200)
	if diff := cmp.Diff(job, one.Job); diff != "" || one.CallsWithoutCost != 1 || len(one.Calls) != 2 || one.Calls[1].State != api.CallStateUncertain {
		t.Errorf("%+v\n%s", one, diff)
	}
	if one.Document != nil {
		t.Errorf("a job without a document has %+v", one.Document)
	}
	f.text = &store.TextInfo{TextID: store.TextID{Format: "pdf"}, Extractor: "pdftotext 22.12.0", Title: "T", Pages: 3, Characters: 900, Letters: 0.75}
	one = into[api.JobDetail](t, a.do(t, call{path: "/v1/jobs/" + job.ID}), 200)
	if want := (api.JobDocument{Format: "pdf", Extractor: "pdftotext 22.12.0", Title: "T", Pages: 3, Characters: 900, Letters: 0.75}); one.Document == nil || *one.Document != want {
		t.Errorf("got %+v, want %+v", one.Document, want)
	}
}

func results(rows ...any) iter.Seq2[store.Result, error] {
	return func(yield func(store.Result, error) bool) {
		for _, r := range rows {
			switch r := r.(type) {
			case error:
				yield(store.Result{}, r)
				return
			case store.Result:
				if !yield(r, nil) {
					return
				}
			case func():
				r()
			}
		}
	}
}

func result(seq int32, state, format string, output *string) store.Result {
	return store.Result{Job: store.Job{BatchID: someBatch().ID, Seq: seq, State: state, CostMicrousd: ptr(int64(0))}, Output: output, OutputFormat: format}
}

func TestResultsAreOneLineEach(t *testing.T) {
	t.Parallel()
	b := someBatch()
	failed := result(4, "failed", "text", nil)
	failed.ErrorClass, failed.ErrorMessage = ptr("truncated"), ptr("raise max_tokens")
	f := &fake{batches: []store.Batch{b}, results: results(
		result(1, "succeeded", "text", ptr("<a> & \"b\"\n\u2028é")),
		result(2, "succeeded", "json", ptr("{\"b\": 1,\n \"a\": 1.50}")),
		result(3, "running", "text", nil),
		failed,
	)}
	a := newAPI(t, f)
	w := a.do(t, call{path: "/v1/batches/" + b.ID.String() + "/results?status=failed&after=0", header: map[string]string{"Accept-Encoding": "gzip"}})
	if w.Code != 200 || w.Header().Get("Content-Type") != "application/x-ndjson" || w.Header().Get("Content-Encoding") != "" {
		t.Fatalf("%d %v", w.Code, w.Header())
	}
	text := strings.Split(strings.TrimSuffix(w.Body.String(), "\n"), "\n")
	if len(text) != 3 {
		t.Fatalf("%d lines: %s", len(text), w.Body)
	}
	const usage = `"usage":{"calls":0,"input_tokens":0,"cached_input_tokens":0,"output_tokens":0},"cost_microusd":0,"repaired":null}`
	want := `{"job_id":"` + b.ID.String() + `-2","custom_id":null,"index":2,"status":"succeeded","output":{"b":1,"a":1.50},"error":null,` +
		`"provider":null,"model":null,"cache_status":null,` + usage
	if text[1] != want {
		t.Errorf(" got %s\nwant %s", text[1], want)
	}
	if !strings.Contains(text[0], `"output":"<a> & \"b\"\n\u2028é"`) {
		t.Errorf("text was mangled: %s", text[0])
	}
	if !strings.Contains(text[2], `"output":null,"error":{"class":"truncated","message":"raise max_tokens"}`) {
		t.Errorf("failure: %s", text[2])
	}
}

func TestNoResultsIsAnEmptyStream(t *testing.T) {
	t.Parallel()
	b := someBatch()
	a := newAPI(t, &fake{batches: []store.Batch{b}, results: results()})
	if w := a.do(t, call{path: "/v1/batches/" + b.ID.String() + "/results"}); w.Code != 200 || w.Body.Len() != 0 || w.Header().Get("Content-Type") != "application/x-ndjson" {
		t.Errorf("%d %v %s", w.Code, w.Header(), w.Body)
	}
	a.results = results(errors.New("down"))
	into[api.Problem](t, a.do(t, call{path: "/v1/batches/" + b.ID.String() + "/results"}), 500)
}

// TestBrokenResultsDontPassForAllResults: the reader must see that lines are missing.
func TestBrokenResultsDontPassForAllResults(t *testing.T) {
	t.Parallel()
	b := someBatch()
	big := strings.Repeat("x", 100_000) // more than a buffer, so that the answer has begun
	srv := httptest.NewServer(newAPI(t, &fake{batches: []store.Batch{b}, results: results(result(1, "succeeded", "text", &big), errors.New("down"))}).handler)
	t.Cleanup(srv.Close)
	resp := get(t, srv, "/v1/batches/"+b.ID.String()+"/results")
	defer func() { _ = resp.Body.Close() }()
	if _, err := io.ReadAll(resp.Body); !errors.Is(err, io.ErrUnexpectedEOF) || resp.StatusCode != 200 {
		t.Errorf("status %d, %v", resp.StatusCode, err)
	}
}

// TestResultsFlowAndStopWithTheClient: the first buffer arrives while rows are still being read, and reading ends soon
// after the client has left.
func TestResultsFlowAndStopWithTheClient(t *testing.T) {
	t.Parallel()
	b := someBatch()
	big := strings.Repeat("x", 100_000)
	arrived, stopped := make(chan struct{}), make(chan struct{})
	rows := func(yield func(store.Result, error) bool) {
		defer close(stopped)
		if !yield(result(1, "succeeded", "text", &big), nil) {
			return
		}
		<-arrived
		for seq := int32(2); yield(result(seq, "succeeded", "text", &big), nil); seq++ {
		}
	}
	srv := httptest.NewServer(newAPI(t, &fake{batches: []store.Batch{b}, results: rows}).handler)
	t.Cleanup(srv.Close)
	resp := get(t, srv, "/v1/batches/"+b.ID.String()+"/results")
	if _, err := bufio.NewReaderSize(resp.Body, 200_000).ReadSlice('\n'); err != nil {
		t.Fatal(err)
	}
	close(arrived)
	_ = resp.Body.Close()
	<-stopped
}

func get(t *testing.T, srv *httptest.Server, path string) *http.Response {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), "GET", srv.URL+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+key)
	resp, err := srv.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

func TestCatalog(t *testing.T) {
	t.Parallel()
	f := &fake{
		templates: []store.Template{{Name: "a", Version: 2, Spec: json.RawMessage(`{"user":"x"}`)}, {Name: "b", Version: 1, Spec: json.RawMessage(`{"user":"y"}`)}},
		routes:    []store.Route{{Name: "r", Version: 1, Spec: json.RawMessage(`{"steps":[{"provider":"p","model":"m"}],"accept":"any"}`)}},
		created:   true,
	}
	a := newAPI(t, f)
	const spec = `{"user": "<b>{{.a}}",  "variables":{"a":{"type":"string"}}}`
	w := a.do(t, call{method: "POST", path: "/v1/templates", header: jsonType, body: `{"name":"a","spec":` + spec + `}`})
	if got := into[api.Template](t, w, 201); w.Header().Get("Location") != "/v1/templates/a?version=2" || got.Ref != "a@2" || len(got.Findings) != 2 || !strings.Contains(f.saved, spec) {
		t.Errorf("%+v %v", got, w.Header())
	}
	const chain = `{"steps":[{"provider":"p","model":"m"}]}`
	w = a.do(t, call{method: "POST", path: "/v1/routes", header: jsonType, body: `{"name":"r","spec":` + chain + `}`})
	if got := into[api.Route](t, w, 201); w.Header().Get("Location") != "/v1/routes/r?version=2" || string(got.Spec) != chain {
		t.Errorf("%+v %v", got, w.Header())
	}
	f.created = false
	into[api.Template](t, a.do(t, call{method: "POST", path: "/v1/templates", header: jsonType, body: `{"name":"a","spec":{"user":"u"}}`}), 200)
	into[api.Route](t, a.do(t, call{method: "POST", path: "/v1/routes", header: jsonType, body: `{"name":"a","spec":` + chain + `}`}), 200)

	page := into[api.TemplatePage](t, a.do(t, call{path: "/v1/templates?limit=1"}), 200)
	if len(page.Data) != 1 || page.NextCursor == nil {
		t.Fatalf("%+v", page)
	}
	page = into[api.TemplatePage](t, a.do(t, call{path: "/v1/templates?limit=1&cursor=" + *page.NextCursor}), 200)
	if len(page.Data) != 1 || page.Data[0].Name != "b" || page.NextCursor != nil {
		t.Errorf("%+v", page)
	}
	if got := into[api.Template](t, a.do(t, call{path: "/v1/templates/a?version=2"}), 200); got.Version != 2 {
		t.Errorf("%+v", got)
	}
	for _, path := range []string{"/v1/templates/a?version=9", "/v1/templates/none", "/v1/templates/none/versions", "/v1/routes/none", "/v1/routes/none/versions", "/v1/templates/A%20b"} {
		into[api.Problem](t, a.do(t, call{path: path}), 404)
	}
	if got := into[api.TemplatePage](t, a.do(t, call{path: "/v1/templates/a/versions"}), 200); len(got.Data) != 1 {
		t.Errorf("%+v", got)
	}
	if got := into[api.RoutePage](t, a.do(t, call{path: "/v1/routes"}), 200); len(got.Data) != 1 || got.Data[0].Ref != "r@1" {
		t.Errorf("%+v", got)
	}
	into[api.Route](t, a.do(t, call{path: "/v1/routes/r"}), 200)
	into[api.RoutePage](t, a.do(t, call{path: "/v1/routes/r/versions"}), 200)
}

func TestReadiness(t *testing.T) {
	t.Parallel()
	boom := errors.New("dial s3cret")
	for name, tc := range map[string]struct {
		fake   *fake
		status int
		want   api.Readiness
	}{
		"ok":       {&fake{level: 3}, 200, api.Readiness{Status: "ok", Postgres: "ok", Redis: "ok", Migration: "ok"}},
		"ahead":    {&fake{level: 4}, 200, api.Readiness{Status: "ok", Postgres: "ok", Redis: "ok", Migration: "ok"}},
		"behind":   {&fake{level: 2}, 503, api.Readiness{Status: "unavailable", Postgres: "ok", Redis: "ok", Migration: "at 2, this build needs 3: run batchwright migrate"}},
		"postgres": {&fake{readyErr: boom}, 503, api.Readiness{Status: "unavailable", Postgres: "can't be reached", Redis: "ok", Migration: "unknown"}},
		"redis":    {&fake{level: 3, redisErr: boom}, 503, api.Readiness{Status: "unavailable", Postgres: "ok", Redis: "can't be reached", Migration: "ok"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := newAPI(t, tc.fake, func(s *api.Server) { s.WantMigration = 3 })
			got := into[api.Readiness](t, a.do(t, call{path: "/readyz", anonymous: true}), tc.status)
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Error(diff)
			}
			if down := tc.fake.readyErr != nil || tc.fake.redisErr != nil; down && !strings.Contains(a.log.String(), "s3cret") {
				t.Error("the cause is not in the log")
			}
		})
	}
	into[api.Health](t, newAPI(t, &fake{}).do(t, call{path: "/healthz", anonymous: true}), 200)
}

func TestRequestIDIsKeptWhenPlain(t *testing.T) {
	t.Parallel()
	a := newAPI(t, &fake{})
	if got := a.do(t, call{header: map[string]string{"X-Request-Id": "abc-1.2_3"}}).Header().Get("X-Request-Id"); got != "abc-1.2_3" {
		t.Errorf("id %q", got)
	}
	if got := a.do(t, call{header: map[string]string{"X-Request-Id": "a\"b"}}).Header().Get("X-Request-Id"); got == "" || strings.Contains(got, `"`) {
		t.Errorf("id %q", got)
	}
}

func TestLargeAnswersAreCompressed(t *testing.T) {
	t.Parallel()
	f := &fake{}
	for range 50 {
		f.batches = append(f.batches, someBatch())
	}
	r := httptest.NewRequestWithContext(t.Context(), "GET", "/v1/batches", nil)
	r.Header.Set("Authorization", "Bearer "+key)
	r.Header.Set("Accept-Encoding", "gzip")
	w := httptest.NewRecorder()
	newAPI(t, f).handler.ServeHTTP(w, r)
	if w.Header().Get("Content-Encoding") != "gzip" {
		t.Errorf("%v", w.Header())
	}
}
