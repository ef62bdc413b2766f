package process_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"batchwright/internal/extract"
	"batchwright/internal/process"
	"batchwright/internal/queue/queuetest"
	"batchwright/internal/store/storetest"
)

// TestMain lets more tests run at once than there are cores: they wait for leases, latencies and processes more than they compute.
func TestMain(m *testing.M) {
	extract.Main()
	flag.Parse()
	if err := flag.Set("test.parallel", "6"); err != nil {
		panic(err)
	}
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("github.com/jackc/pgx/v5/pgxpool.(*Pool).backgroundHealthCheck"), // ends a moment after its pool
		goleak.IgnoreAnyFunction("net/http.(*persistConn).readLoop"), goleak.IgnoreAnyFunction("net/http.(*persistConn).writeLoop"))
}

// system is a whole Batchwright over real Postgres and Redis: an API and a worker, as processes run them.
type system struct {
	url, key string
	env      map[string]string
}

func (s *system) getenv(name string) string { return s.env[name] }

// start runs an API and one worker until the test ends. env overrides the defaults.
func start(t *testing.T, env map[string]string) *system {
	t.Helper()
	s := &system{env: map[string]string{
		"DATABASE_URL": storetest.URL(t), "REDIS_URL": queuetest.URL(t), "HTTP_ADDR": freeAddr(t), "LOG_LEVEL": "warn", "SHUTDOWN_GRACE": "5s",
	}}
	for k, v := range env {
		s.env[k] = v
	}
	s.url = "http://" + s.env["HTTP_ADDR"]
	s.key = s.newKey(t, "test")
	s.run(t, process.API)
	s.run(t, process.Worker)
	s.awaitReady(t)
	return s
}

func (s *system) awaitReady(t *testing.T) {
	t.Helper()
	await(t, "the API to be ready", func() bool {
		res, err := http.Get(s.url + "/readyz")
		if err != nil {
			return false
		}
		_ = res.Body.Close()
		return res.StatusCode == http.StatusOK
	})
}

func (s *system) newKey(t *testing.T, project string) string {
	t.Helper()
	key, err := process.CreateKey(t.Context(), s.getenv, project, "test")
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// run starts a process's main function, and stops it in order when the test ends.
func (s *system) run(t *testing.T, f func(context.Context, func(string) string, io.Writer) error) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f(ctx, s.getenv, logTo{t}) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			t.Errorf("process ended with %v", err)
		}
	}
	t.Cleanup(stop)
	return stop
}

type logTo struct{ t *testing.T }

func (l logTo) Write(p []byte) (int, error) {
	l.t.Log(strings.TrimSpace(string(p)))
	return len(p), nil
}

func freeAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

// await polls until ok, and fails the test after a minute.
func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(time.Minute)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("waited a minute for %s", what)
		}
	}
}

type reply struct {
	status int
	header http.Header
	body   []byte
}

func (r reply) json(t *testing.T, into any) {
	t.Helper()
	if err := json.Unmarshal(r.body, into); err != nil {
		t.Fatalf("%v in %s", err, r.body)
	}
}

func (s *system) do(t *testing.T, method, path, contentType string, body io.Reader, header ...string) reply {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, s.url+path, body)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+s.key)
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return reply{res.StatusCode, res.Header, b}
}

func (s *system) post(t *testing.T, path, body string, header ...string) reply {
	t.Helper()
	return s.do(t, http.MethodPost, path, "application/json", strings.NewReader(body), header...)
}

type batch struct {
	ID    string `json:"id"`
	State string `json:"state"`
	Total int64  `json:"total_jobs"`
	Stats struct {
		Jobs struct {
			Pending, Planned, Running, Waiting, Succeeded, Failed, Cancelled int64
		} `json:"jobs"`
		Cache struct {
			ResultHit  int64 `json:"result_hit"`
			Coalesced  int64 `json:"coalesced"`
			GatewayHit int64 `json:"gateway_hit"`
			Miss       int64 `json:"miss"`
			Bypass     int64 `json:"bypass"`
		} `json:"cache"`
		Calls        int64 `json:"calls"`
		CostMicrousd int64 `json:"cost_microusd"`
	} `json:"stats"`
}

// accepted decodes a 202 answer.
func accepted(t *testing.T, r reply) batch {
	t.Helper()
	if r.status != http.StatusAccepted {
		t.Fatalf("status %d, want 202: %s", r.status, r.body)
	}
	var b batch
	r.json(t, &b)
	return b
}

func (s *system) batch(t *testing.T, id string) batch {
	t.Helper()
	var b batch
	s.do(t, http.MethodGet, "/v1/batches/"+id, "", nil).json(t, &b)
	return b
}

// finish waits until the batch is final.
func (s *system) finish(t *testing.T, id string) (b batch) {
	t.Helper()
	await(t, "batch "+id+" to finish", func() bool {
		b = s.batch(t, id)
		return slices.Contains([]string{"completed", "failed", "cancelled", "expired"}, b.State)
	})
	return b
}

type resultLine struct {
	JobID       string          `json:"job_id"`
	CustomID    string          `json:"custom_id"`
	Index       int             `json:"index"`
	Status      string          `json:"status"`
	Output      json.RawMessage `json:"output"`
	CacheStatus string          `json:"cache_status"`
	Provider    string          `json:"provider"`
	Model       string          `json:"model"`
	Error       struct {
		Class, Message string
	} `json:"error"`
}

func (s *system) results(t *testing.T, id string) (out []resultLine) {
	t.Helper()
	r := s.do(t, http.MethodGet, "/v1/batches/"+id+"/results", "", nil)
	sc := bufio.NewScanner(bytes.NewReader(r.body))
	sc.Buffer(nil, 64<<20)
	for sc.Scan() {
		var l resultLine
		if err := json.Unmarshal(sc.Bytes(), &l); err != nil {
			t.Fatalf("%v in %s", err, sc.Text())
		}
		out = append(out, l)
	}
	return out
}

const blurb = `{"name":"blurb","spec":{"system":"You write product blurbs.","user":"Write about {{.name}}.","variables":{"name":{"type":"string"}},"sampling":{"max_tokens":80}}}`

func (s *system) saveTemplate(t *testing.T, body string) {
	t.Helper()
	if r := s.post(t, "/v1/templates", body); r.status != http.StatusCreated {
		t.Fatalf("template: status %d: %s", r.status, r.body)
	}
}

// products is an NDJSON submission of n jobs, all different.
func products(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `{"custom_id":"p-%d","variables":{"name":"product %d"}}`+"\n", i, i)
	}
	return b.String()
}

func (s *system) generate(t *testing.T, query, lines string, header ...string) reply {
	t.Helper()
	return s.do(t, http.MethodPost, "/v1/batches?kind=generate&template=blurb&route=simulator/sim-1"+query, "application/x-ndjson", strings.NewReader(lines), header...)
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// httpServer is a provider outside of us.
func httpServer(t *testing.T, h http.HandlerFunc) string {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return srv.URL
}
