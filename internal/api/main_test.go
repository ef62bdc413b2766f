package api_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/legacy"
	"github.com/google/uuid"
	"go.uber.org/goleak"

	"batchwright/internal/api"
	"batchwright/internal/jobs"
	"batchwright/internal/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const key = "bw_test_0123456789"

var project = store.Project{ID: uuid.MustParse("01990000-0000-7000-8000-000000000001"), Name: "test"}

// line is a jobs.Line, copied out of the stream.
type line struct {
	Number     int
	Raw        string
	Name, Type string
	Data       string
	Err        string
	Code       jobs.Code
}

// fake stands in for the domain and the store. Methods that a test doesn't set up panic.
type fake struct {
	api.Reader
	api.Writer
	mu       sync.Mutex
	spec     jobs.Spec
	lines    []line
	onLine   func(line)
	replayed bool

	batches   []store.Batch
	jobs      []store.Job
	calls     []store.Call
	text      *store.TextInfo
	results   iter.Seq2[store.Result, error]
	templates []store.Template
	routes    []store.Route
	stats     store.BatchStats
	level     int64
	readyErr  error
	redisErr  error
	created   bool
	saved     string
	writeErr  error
	forecast  *store.Forecast
}

func (f *fake) ProjectByKey(_ context.Context, sum [32]byte) (store.Project, error) {
	if sum != sha256.Sum256([]byte(key)) {
		return store.Project{}, store.ErrNotFound
	}
	return project, nil
}

// Submit does what the domain promises: a broken stream keeps nothing, bad lines refuse the batch unless they are skipped.
func (f *fake) Submit(_ context.Context, p store.Project, spec jobs.Spec, in iter.Seq2[jobs.Line, error]) (store.Batch, bool, error) {
	if p != project {
		panic("wrong project")
	}
	if f.writeErr != nil {
		return store.Batch{}, false, f.writeErr
	}
	var got []line
	var bad []jobs.LineError
	for l, err := range in {
		if err != nil {
			return store.Batch{}, false, fmt.Errorf("jobs: submit: %w", err)
		}
		c := line{Number: l.Number, Raw: string(l.Raw)}
		if l.Upload != nil {
			c.Name, c.Type, c.Data = l.Upload.Name, l.Upload.ContentType, string(l.Upload.Data)
		}
		if l.Err != nil {
			c.Err = l.Err.Error()
			bad = append(bad, jobs.LineError{Line: l.Number, Code: "unreadable", Message: c.Err})
		} else if l.Upload == nil && !json.Valid(l.Raw) {
			bad = append(bad, jobs.LineError{Line: l.Number, Code: "bad_json", Message: "not valid JSON"})
		}
		if f.onLine != nil {
			f.onLine(c)
		}
		got = append(got, c)
	}
	if bad != nil && spec.OnInvalid != "skip" {
		return store.Batch{}, false, &jobs.Error{Code: jobs.Unprocessable, Message: "some lines can't be run", Lines: bad, LineCount: len(bad)}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.spec, f.lines = spec, got
	b := someBatch()
	b.Kind, b.Name, b.TotalJobs = spec.Kind, spec.Name, int64(len(got))
	return b, f.replayed, nil
}

func (f *fake) Cancel(_ context.Context, p, id uuid.UUID, _ *int32) (store.Batch, error) {
	return f.Batch(context.Background(), p, id)
}

func (f *fake) SaveTemplate(_ context.Context, _ uuid.UUID, name string, spec json.RawMessage) (store.Template, bool, error) {
	f.saved = string(spec)
	return store.Template{Name: name, Version: 2, Spec: bytes.Clone(spec)}, f.created, f.writeErr
}

func (f *fake) SaveRoute(_ context.Context, _ uuid.UUID, name string, spec json.RawMessage) (store.Route, bool, error) {
	return store.Route{Name: name, Version: 2, Spec: bytes.Clone(spec)}, f.created, f.writeErr
}

func (f *fake) Batch(_ context.Context, p, id uuid.UUID) (store.Batch, error) {
	i := slices.IndexFunc(f.batches, func(b store.Batch) bool { return b.ID == id && b.ProjectID == p })
	if i < 0 {
		return store.Batch{}, store.ErrNotFound
	}
	return f.batches[i], nil
}

func (f *fake) Batches(_ context.Context, p uuid.UUID, kind, state string, before *uuid.UUID, limit int) ([]store.Batch, error) {
	var out []store.Batch
	for _, b := range f.batches {
		if b.ProjectID == p && (kind == "" || b.Kind == kind) && (state == "" || b.State == state) &&
			(before == nil || b.ID.String() < before.String()) && len(out) < limit {
			out = append(out, b)
		}
	}
	return out, nil
}

func (f *fake) BatchStats(context.Context, store.Batch) (store.BatchStats, error) {
	return f.stats, nil
}

func (f *fake) Jobs(_ context.Context, _ uuid.UUID, state string, after int32, limit int) ([]store.Job, error) {
	var out []store.Job
	for _, j := range f.jobs {
		if (state == "" || j.State == state) && j.Seq > after && len(out) < limit {
			out = append(out, j)
		}
	}
	return out, nil
}

func (f *fake) Job(_ context.Context, p, b uuid.UUID, seq int32) (store.Job, error) {
	if _, err := f.Batch(context.Background(), p, b); err != nil {
		return store.Job{}, err
	}
	i := slices.IndexFunc(f.jobs, func(j store.Job) bool { return j.Seq == seq })
	if i < 0 {
		return store.Job{}, store.ErrNotFound
	}
	return f.jobs[i], nil
}

func (f *fake) Calls(context.Context, uuid.UUID, int32) ([]store.Call, error) { return f.calls, nil }

func (f *fake) JobText(context.Context, uuid.UUID, uuid.UUID, int32) (store.TextInfo, error) {
	if f.text == nil {
		return store.TextInfo{}, store.ErrNotFound
	}
	return *f.text, nil
}

func (f *fake) Results(context.Context, uuid.UUID, string, int32) iter.Seq2[store.Result, error] {
	return f.results
}

func (f *fake) Templates(_ context.Context, _ uuid.UUID, after string, limit int) ([]store.Template, error) {
	var out []store.Template
	for _, t := range f.templates {
		if t.Name > after && len(out) < limit {
			out = append(out, t)
		}
	}
	return out, nil
}

func (f *fake) TemplateByName(_ context.Context, _ uuid.UUID, name string, version int32) (store.Template, error) {
	for _, t := range f.templates {
		if t.Name == name && (version == 0 || t.Version == version) {
			return t, nil
		}
	}
	return store.Template{}, store.ErrNotFound
}

func (f *fake) TemplateVersions(_ context.Context, _ uuid.UUID, name string) ([]store.Template, error) {
	return slices.DeleteFunc(slices.Clone(f.templates), func(t store.Template) bool { return t.Name != name }), nil
}

func (f *fake) Routes(context.Context, uuid.UUID, string, int) ([]store.Route, error) {
	return f.routes, nil
}

func (f *fake) RouteByName(_ context.Context, _ uuid.UUID, name string, _ int32) (store.Route, error) {
	for _, r := range f.routes {
		if r.Name == name {
			return r, nil
		}
	}
	return store.Route{}, store.ErrNotFound
}

func (f *fake) RouteVersions(_ context.Context, _ uuid.UUID, name string) ([]store.Route, error) {
	return slices.DeleteFunc(slices.Clone(f.routes), func(r store.Route) bool { return r.Name != name }), nil
}

func (f *fake) Ready(context.Context) (int64, error) { return f.level, f.readyErr }

func someBatch() store.Batch {
	return store.Batch{
		ID: uuid.MustParse("01990000-0000-7000-8000-00000000000b"), ProjectID: project.ID, Kind: "chat", State: "planning",
		Route: json.RawMessage(`{"steps":[{"provider":"simulator","model":"m"}],"accept":"any"}`), OnInvalid: "refuse", Cache: "use", TotalJobs: 1, OnForecastOver: "run",
	}
}

// testAPI is a server over a fake. Every answer that passes through do is checked against the contract.
type testAPI struct {
	*fake
	handler http.Handler
	log     *bytes.Buffer
}

func newAPI(t testing.TB, f *fake, change ...func(*api.Server)) *testAPI {
	t.Helper()
	var log bytes.Buffer
	s := &api.Server{
		Jobs: f, Read: f, RedisPing: func(context.Context) error { return f.redisErr },
		Log: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	for _, c := range change {
		c(s)
	}
	return &testAPI{fake: f, handler: s.Handler(), log: &log}
}

// served is the contract as the server serves it.
var served = sync.OnceValue(func() routers.Router {
	w := httptest.NewRecorder()
	(&api.Server{Read: &fake{}}).Handler().ServeHTTP(w, httptest.NewRequest("GET", "/openapi.json", nil)) //nolint:noctx // for all tests
	doc, err := openapi3.NewLoader().LoadFromData(w.Body.Bytes())
	if err != nil {
		panic(err)
	}
	router, err := legacy.NewRouter(doc)
	if err != nil {
		panic(err)
	}
	return router
})

// call describes a request.
type call struct {
	method, path string // GET and /v1/batches by default
	header       map[string]string
	body         string
	anonymous    bool
}

func (a *testAPI) do(t testing.TB, c call) *httptest.ResponseRecorder {
	t.Helper()
	if c.method == "" {
		c.method = "GET"
	}
	if c.path == "" {
		c.path = "/v1/batches"
	}
	r := httptest.NewRequestWithContext(t.Context(), c.method, c.path, strings.NewReader(c.body))
	if !c.anonymous {
		r.Header.Set("Authorization", "Bearer "+key)
	}
	for k, v := range c.header {
		r.Header.Set(k, v)
	}
	w := httptest.NewRecorder()
	a.handler.ServeHTTP(w, r)
	a.conforms(t, r, w)
	return w
}

// conforms holds an answer against the contract.
func (a *testAPI) conforms(t testing.TB, r *http.Request, w *httptest.ResponseRecorder) {
	t.Helper()
	route, path, err := served().FindRoute(r)
	if err != nil || slices.Contains(slices.Collect(maps.Values(path)), "") {
		return // 404 and 405
	}
	in := &openapi3filter.ResponseValidationInput{
		RequestValidationInput: &openapi3filter.RequestValidationInput{Request: r, PathParams: path, Route: route},
		Status:                 w.Code, Header: w.Header(), Body: io.NopCloser(bytes.NewReader(w.Body.Bytes())),
		Options: &openapi3filter.Options{IncludeResponseStatus: true, ExcludeResponseBody: w.Header().Get("Content-Type") == "application/x-ndjson"},
	}
	if err := openapi3filter.ValidateResponse(t.Context(), in); err != nil {
		t.Errorf("%s %s: the answer breaks the contract: %v", r.Method, r.URL, err)
	}
}

// into decodes an answer after checking its status.
func into[T any](t testing.TB, w *httptest.ResponseRecorder, status int) (v T) {
	t.Helper()
	if w.Code != status {
		t.Fatalf("status %d, want %d: %s", w.Code, status, w.Body)
	}
	if err := json.Unmarshal(w.Body.Bytes(), &v); err != nil {
		t.Fatalf("%v: %s", err, w.Body)
	}
	return v
}
