package api_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/google/uuid"

	"batchwright/internal/api"
	"batchwright/internal/store"
)

// moving is a batch that changes with time.
type moving struct {
	*fake
	at   func(since time.Duration) (store.Batch, store.BatchStats, error)
	took time.Duration // of a count

	mu    sync.Mutex
	began time.Time
	times []time.Duration // of the counts
}

func (m *moving) Batch(_ context.Context, p, id uuid.UUID) (store.Batch, error) {
	if p != project.ID || id != someBatch().ID {
		return store.Batch{}, store.ErrNotFound
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.began.IsZero() {
		m.began = time.Now()
	}
	b, _, err := m.at(time.Since(m.began))
	return b, err
}

func (m *moving) BatchStats(ctx context.Context, _ store.Batch) (store.BatchStats, error) {
	m.mu.Lock()
	m.times = append(m.times, time.Since(m.began))
	_, s, err := m.at(time.Since(m.began))
	m.mu.Unlock()
	if m.took > 0 {
		select {
		case <-time.After(m.took):
		case <-ctx.Done():
			return s, ctx.Err()
		}
	}
	return s, err
}

func (m *moving) counts() []time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.times
}

// constant is ten jobs a second out of total, each of which costs 30, until all are done.
func constant(total int64) func(time.Duration) (store.Batch, store.BatchStats, error) {
	return func(since time.Duration) (store.Batch, store.BatchStats, error) {
		b := someBatch()
		b.State, b.TotalJobs = "running", total
		done := min(int64(since/(100*time.Millisecond)), total)
		s := store.BatchStats{Succeeded: done, Planned: total - done, Misses: done, Calls: done, CostMicrousd: 30 * done}
		if done == total {
			now := b.CreatedAt
			b.State, b.FinishedAt = "completed", &now
		}
		return b, s, nil
	}
}

func newMoving(t testing.TB, at func(time.Duration) (store.Batch, store.BatchStats, error), change ...func(*api.Server)) (*moving, http.Handler) {
	m := &moving{fake: &fake{}, at: at}
	return m, newAPI(t, m.fake, append(change, func(s *api.Server) { s.Read = m })...).handler
}

// timedWriter notes when what was written.
type timedWriter struct {
	*httptest.ResponseRecorder
	began time.Time
	mu    sync.Mutex
	parts []timedPart
}

type timedPart struct {
	at   time.Duration
	text string
}

func (w *timedWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.parts = append(w.parts, timedPart{time.Since(w.began), string(p)})
	return w.ResponseRecorder.Write(p)
}

func watch(ctx context.Context, h http.Handler) *timedWriter {
	r := httptest.NewRequestWithContext(ctx, http.MethodGet, "/v1/batches/"+someBatch().ID.String()+"/events", nil)
	r.Header.Set("Authorization", "Bearer "+key)
	r.Header.Set("Accept-Encoding", "gzip")
	r.Header.Set("Last-Event-ID", "7")
	w := &timedWriter{ResponseRecorder: httptest.NewRecorder(), began: time.Now()}
	h.ServeHTTP(w, r)
	return w
}

// event is one that was written, with its time.
type event struct {
	at       time.Duration
	id, name string
	data     string
}

func (w *timedWriter) events(t *testing.T) (all []event) {
	t.Helper()
	for _, p := range w.parts {
		if strings.HasPrefix(p.text, ":") || strings.HasPrefix(p.text, "retry:") {
			continue
		}
		e := event{at: p.at}
		if _, err := fmt.Sscanf(p.text, "id: %s\nevent: %s\n", &e.id, &e.name); err != nil {
			t.Fatalf("%q: %v", p.text, err)
		}
		_, e.data, _ = strings.Cut(strings.TrimSuffix(p.text, "\n\n"), "\ndata: ")
		all = append(all, e)
	}
	return all
}

func (e event) progress(t *testing.T) (p api.BatchProgress) {
	t.Helper()
	if err := json.Unmarshal([]byte(e.data), &p); err != nil {
		t.Fatalf("%s: %v", e.data, err)
	}
	return p
}

func TestEventsFollowABatchToItsEnd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		_, h := newMoving(t, constant(200))
		w := watch(t.Context(), h)
		if got := w.Header(); w.Code != 200 || got.Get("Content-Type") != "text/event-stream" || got.Get("Content-Encoding") != "" || got.Get("Cache-Control") != "no-store" {
			t.Fatalf("%d %v", w.Code, got)
		}
		all := w.events(t)
		if len(all) != 22 {
			t.Fatalf("%d events, want one a second and the end", len(all))
		}
		schemas := contractSchemas(t)
		for i, e := range all[:21] {
			if e.name != "progress" || e.at != time.Duration(i)*time.Second {
				t.Errorf("event %d: %s after %s", i, e.name, e.at)
			}
			schemas.check(t, "BatchProgress", e.data)
		}
		first, later := all[0].progress(t), all[10].progress(t)
		if first.Done != 0 || first.Rate != 0 || first.EtaSeconds != nil || first.ProjectedCostMicrousd != nil || first.Total != 200 {
			t.Errorf("first: %s", all[0].data)
		}
		if later.Done != 100 || later.Rate != 10 || *later.EtaSeconds != 10 || *later.CostMicrousd != 3000 || *later.ProjectedCostMicrousd != 6000 || later.Stalled {
			t.Errorf("in the middle: %s", all[10].data)
		}
		last := all[21]
		schemas.check(t, "Batch", last.data)
		var b api.Batch
		if err := json.Unmarshal([]byte(last.data), &b); err != nil || last.name != "end" || b.State != "completed" || b.Stats.Jobs.Succeeded != 200 {
			t.Errorf("%s %s, %v", last.name, last.data, err)
		}
	})
}

type schemas openapi3.Schemas

func contractSchemas(t *testing.T) schemas {
	t.Helper()
	_, h := newMoving(t, constant(1))
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/openapi.json", nil))
	doc, err := openapi3.NewLoader().LoadFromData(w.Body.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	return schemas(doc.Components.Schemas)
}

func (s schemas) check(t *testing.T, name, data string) {
	t.Helper()
	var v any
	if err := json.Unmarshal([]byte(data), &v); err != nil {
		t.Fatal(err)
	}
	if err := s[name].Value.VisitJSON(v); err != nil {
		t.Errorf("breaks the contract: %v", err)
	}
}

func TestProjections(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		state string
		stats store.BatchStats
		want  string // projected cost
	}{
		{"cached jobs apart", "running", store.BatchStats{Succeeded: 60, ResultHits: 50, Misses: 10, Calls: 12, CostMicrousd: 1000}, "5000"},
		{"bypassed ones count", "running", store.BatchStats{Succeeded: 20, Bypassed: 20, Calls: 20, CostMicrousd: 1000}, "5000"},
		{"nothing is known yet", "running", store.BatchStats{Succeeded: 50, ResultHits: 50}, "null"},
		{"no price is known", "running", store.BatchStats{Succeeded: 50, Misses: 50, Calls: 50, UnpricedCalls: 50}, "null"},
		{"all is done", "running", store.BatchStats{Succeeded: 100, ResultHits: 100}, "0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				_, h := newMoving(t, func(time.Duration) (store.Batch, store.BatchStats, error) {
					b := someBatch()
					b.State, b.TotalJobs = c.state, 100
					return b, c.stats, nil
				})
				ctx, cancel := context.WithTimeout(t.Context(), time.Second/2)
				defer cancel()
				if data := watch(ctx, h).events(t)[0].data; !strings.Contains(data, `"projected_cost_microusd":`+c.want+",") {
					t.Errorf("got %s, want %s", data, c.want)
				}
			})
		})
	}
}

// TestOnlyChangesAreSent, and a comment when there are none.
func TestOnlyChangesAreSent(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		_, h := newMoving(t, func(since time.Duration) (store.Batch, store.BatchStats, error) {
			b := someBatch()
			b.State, b.TotalJobs = "paused", 10
			if since > 100*time.Second {
				stalled := time.Now()
				b.State, b.StalledAt = "running", &stalled
			}
			return b, store.BatchStats{Succeeded: 4, Misses: 4, Waiting: 6}, nil
		})
		ctx, cancel := context.WithTimeout(t.Context(), 110*time.Second)
		defer cancel()
		w := watch(ctx, h)
		all := w.events(t)
		if len(all) != 2 || all[0].progress(t).Stalled || all[0].progress(t).EtaSeconds != nil || !all[1].progress(t).Stalled || all[1].at != 101*time.Second {
			t.Errorf("events: %+v", all)
		}
		comments := 0
		for _, p := range w.parts {
			if p.text == ": keep-alive\n\n" {
				comments++
				if p.at != time.Duration(comments)*15*time.Second {
					t.Errorf("comment %d after %s", comments, p.at)
				}
			}
		}
		if comments != 6 {
			t.Errorf("%d comments in 100 s", comments)
		}
	})
}

// TestWatchersShareOneSampling, which ends with the last of them.
func TestWatchersShareOneSampling(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, h := newMoving(t, constant(100_000))
		var wg sync.WaitGroup
		for i := range 50 {
			wg.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(5+i%6)*time.Second+time.Second/2)
				defer cancel()
				w := watch(ctx, h)
				if n := len(w.events(t)); n != 6+i%6 {
					t.Errorf("watcher %d got %d events", i, n)
				}
			})
		}
		wg.Wait()
		if n := len(m.counts()); n != 11 {
			t.Errorf("%d counts for 50 watchers in 10 s, want 11", n)
		}
		<-time.After(time.Minute)
		if n := len(m.counts()); n != 11 {
			t.Errorf("counting went on without watchers: %d", n)
		}
	})
}

// TestLongCountsAreRare: a batch that takes a second to count is counted every ten.
func TestLongCountsAreRare(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, h := newMoving(t, constant(1_000_000))
		m.took = time.Second
		ctx, cancel := context.WithTimeout(t.Context(), 40*time.Second)
		defer cancel()
		watch(ctx, h)
		for i, at := range m.counts() {
			if at != time.Duration(i)*11*time.Second {
				t.Errorf("count %d after %s", i, at)
			}
		}
		if n := len(m.counts()); n != 4 {
			t.Errorf("%d counts in 40 s", n)
		}
	})
}

// TestPassingFaultsAreForgiven; lasting ones break the stream off, without an end that would pass for the batch's.
func TestPassingFaultsAreForgiven(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		_, h := newMoving(t, func(since time.Duration) (store.Batch, store.BatchStats, error) {
			b, s, _ := constant(1000)(since)
			if since > 3*time.Second && since < 6*time.Second || since > 10*time.Second {
				return b, s, errors.New("database is away")
			}
			return b, s, nil
		})
		w := watch(t.Context(), h)
		all := w.events(t)
		if last := all[len(all)-1]; last.at != 10*time.Second || last.name != "progress" {
			t.Errorf("last: %+v", last)
		}
		if took := time.Since(w.began); took < 12*time.Second || took > 20*time.Second {
			t.Errorf("broke off after %s", took)
		}
	})
}

func TestEventsOfStrangersAreNotFound(t *testing.T) {
	t.Parallel()
	_, h := newMoving(t, constant(1))
	for path, want := range map[string]int{
		"/v1/batches/01990000-0000-7000-8000-0000000000ff/events": 404, "/v1/batches/x/events": 404,
		"/v1/batches/" + someBatch().ID.String() + "/events?x=1": 400,
	} {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil)
		r.Header.Set("Authorization", "Bearer "+key)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != want || w.Header().Get("Content-Type") != "application/problem+json" {
			t.Errorf("%s: %d %v", path, w.Code, w.Header())
		}
	}
}

// open starts a stream over a real connection and returns a reader of its lines.
func open(t *testing.T, ctx context.Context, url string) (*http.Response, *bufio.Scanner) {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/v1/batches/"+someBatch().ID.String()+"/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+key)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = res.Body.Close() })
	return res, bufio.NewScanner(res.Body)
}

func awaitEvent(t *testing.T, lines *bufio.Scanner) {
	t.Helper()
	for lines.Scan() {
		if bytes.HasPrefix(lines.Bytes(), []byte("data: ")) {
			return
		}
	}
	t.Fatalf("the stream ended: %v", lines.Err())
}

// TestAStopEndsStreams at once, in order: the drain of the server doesn't wait for batches.
func TestAStopEndsStreams(t *testing.T) {
	t.Parallel()
	stopping := make(chan struct{})
	_, h := newMoving(t, constant(1_000_000), func(s *api.Server) { s.Stopping = stopping })
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	var streams []*bufio.Scanner
	for range 5 {
		_, lines := open(t, t.Context(), srv.URL)
		awaitEvent(t, lines)
		streams = append(streams, lines)
	}
	close(stopping)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if err := srv.Config.Shutdown(ctx); err != nil {
		t.Errorf("the server waited for its streams: %v", err)
	}
	for _, lines := range streams {
		for lines.Scan() {
		}
		if err := lines.Err(); err != nil {
			t.Errorf("a stream broke off: %v", err)
		}
	}
}

// TestClientsThatGoAreForgotten: the handler returns, and it does so only when the counting has ended.
func TestClientsThatGoAreForgotten(t *testing.T) {
	t.Parallel()
	gone := make(chan struct{})
	_, h := newMoving(t, constant(1_000_000))
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer close(gone)
		h.ServeHTTP(w, r)
	}))
	t.Cleanup(srv.Close)
	ctx, cancel := context.WithCancel(t.Context())
	_, lines := open(t, ctx, srv.URL)
	awaitEvent(t, lines)
	cancel()
	select {
	case <-gone:
	case <-time.After(20 * time.Second):
		t.Fatal("the handler goes on without its client")
	}
}
