package process_test

import (
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	"batchwright/internal/process"
	"batchwright/internal/store"
	"batchwright/internal/store/storetest"
)

// counted is a provider that answers anything and counts how often it was asked for each body.
type counted struct {
	mu    sync.Mutex
	calls map[string]int
}

func (c *counted) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	c.mu.Lock()
	c.calls[string(body)]++
	c.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	_, _ = io.WriteString(w, `{"model":"sim-1","choices":[{"message":{"role":"assistant","content":"fine"},"finish_reason":"stop"}],"usage":{"prompt_tokens":9,"completion_tokens":2}}`)
}

// ask submits n different jobs for that provider.
func (s *system) ask(t *testing.T, n int) reply {
	t.Helper()
	return s.do(t, http.MethodPost, "/v1/batches?kind=generate&template=blurb&route=openai-compatible:sim-1", "application/x-ndjson", strings.NewReader(products(n)))
}

func TestBatchesSubmittedAtOncePayOnce(t *testing.T) {
	t.Parallel()
	const jobs = 2000
	provider := &counted{calls: map[string]int{}}
	s := start(t, map[string]string{"OPENAI_COMPATIBLE_BASE_URL": httpServer(t, provider.ServeHTTP) + "/v1"})
	s.run(t, process.Worker)
	s.saveTemplate(t, blurb)
	var replies [2]reply
	var wg sync.WaitGroup
	for i := range replies {
		wg.Go(func() { replies[i] = s.ask(t, jobs) })
	}
	wg.Wait()
	var misses, shared int64
	for _, r := range replies {
		b := s.finish(t, accepted(t, r).ID)
		if b.State != "completed" || b.Stats.Jobs.Succeeded != jobs {
			t.Errorf("batch %+v", b)
		}
		misses += b.Stats.Cache.Miss
		shared += b.Stats.Cache.Coalesced + b.Stats.Cache.ResultHit
	}
	if misses != jobs || shared != jobs {
		t.Errorf("%d misses, %d answers shared: want %d of each", misses, shared, jobs)
	}
	provider.mu.Lock()
	defer provider.mu.Unlock()
	if len(provider.calls) != jobs {
		t.Errorf("the provider saw %d requests, want %d", len(provider.calls), jobs)
	}
	for body, n := range provider.calls {
		if n != 1 {
			t.Errorf("the provider was asked %d times: %.80s", n, body)
		}
	}
}

func TestBatchOfHitsTakesNoTicketToRun(t *testing.T) {
	t.Parallel()
	const jobs = store.PlanRange + 10
	provider := &counted{calls: map[string]int{}}
	s := start(t, map[string]string{"OPENAI_COMPATIBLE_BASE_URL": httpServer(t, provider.ServeHTTP) + "/v1"})
	s.saveTemplate(t, blurb)
	s.finish(t, accepted(t, s.ask(t, jobs)).ID)
	// Ids of tickets are never reused, so this counts those that there ever were.
	made := func() int64 {
		return storetest.Scalar[int64](t, s.env["DATABASE_URL"], `select pg_sequence_last_value(pg_get_serial_sequence('tickets', 'id')::regclass)`)
	}
	before := made()
	b := s.finish(t, accepted(t, s.ask(t, jobs)).ID)
	if b.State != "completed" || b.Stats.Cache.ResultHit != jobs || b.Stats.Calls != 0 {
		t.Errorf("batch %+v: want %d hits and no call", b, jobs)
	}
	if plans := made() - before; plans != 2 {
		t.Errorf("%d tickets were issued, want those of the two ranges to plan", plans)
	}
	provider.mu.Lock()
	defer provider.mu.Unlock()
	if n := len(provider.calls); n != jobs {
		t.Errorf("the provider saw %d requests, want %d", n, jobs)
	}
}

// While a job waits to be tried again, its answer may come by another way: it is taken, not paid for a second time.
func TestRetryTakesAnAnswerThatCameMeanwhile(t *testing.T) {
	t.Parallel()
	var s *system
	var once sync.Once
	url := httpServer(t, func(w http.ResponseWriter, _ *http.Request) {
		once.Do(func() {
			storetest.Exec(t, s.env["DATABASE_URL"], `insert into completions (project_id, key, input_tokens, cached_input_tokens, output_tokens, format, model, provider, answered_by, output)
				select b.project_id, j.key, 1, 0, 1, 'text', 'sim-1', 'openai-compatible', 'sim-1', 'from elsewhere' from jobs j join batches b on b.id = j.batch_id`)
		})
		http.Error(w, "out of order", http.StatusInternalServerError)
	})
	s = start(t, map[string]string{"OPENAI_COMPATIBLE_BASE_URL": url + "/v1"})
	s.saveTemplate(t, blurb)
	b := s.finish(t, accepted(t, s.ask(t, 1)).ID)
	if b.State != "completed" || b.Stats.Cache.ResultHit != 1 {
		t.Errorf("batch %+v: want a hit", b)
	}
	if r := s.results(t, b.ID); len(r) != 1 || string(r[0].Output) != `"from elsewhere"` {
		t.Errorf("results %+v", r)
	}
	if n := storetest.Scalar[int32](t, s.env["DATABASE_URL"], `select attempts from jobs`); n != 1 {
		t.Errorf("%d attempts were counted, want the one that failed", n)
	}
}
