package process_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"batchwright/internal/store/storetest"
)

// control posts to a control verb and decodes the batch that it answers with.
func (s *system) control(t *testing.T, id, verb string) (b batch) {
	t.Helper()
	r := s.post(t, "/v1/batches/"+id+"/"+verb, "")
	if r.status != http.StatusOK {
		t.Fatalf("%s: status %d: %s", verb, r.status, r.body)
	}
	r.json(t, &b)
	return b
}

func (s *system) refused(t *testing.T, path, body, words string) {
	t.Helper()
	if r := s.post(t, path, body); r.status != http.StatusConflict || !strings.Contains(string(r.body), words) {
		t.Errorf("%s: status %d, want 409 with %q: %s", path, r.status, words, r.body)
	}
}

func TestPausedBatchStartsNoCallsAndLosesNothing(t *testing.T) {
	t.Parallel()
	s := start(t, map[string]string{"SIMULATOR_LATENCY": "50ms", "WORKER_CONCURRENCY": "4", "WORKER_LEASE": "3s"})
	s.saveTemplate(t, blurb)
	id := accepted(t, s.generate(t, "", products(120))).ID
	for range 2 {
		before := s.batch(t, id).Stats.Calls
		await(t, "some calls", func() bool { return s.batch(t, id).Stats.Calls >= before+8 })
		if b := s.control(t, id, "pause"); b.State != "paused" {
			t.Fatalf("%+v", b)
		}
		await(t, "calls in flight to end", func() bool {
			return storetest.Scalar[int64](t, s.env["DATABASE_URL"], `select count(*) from tickets`) == 0
		})
		calls := s.batch(t, id).Stats.Calls
		if b := s.control(t, id, "pause"); b.State != "paused" || b.Stats.Calls != calls || b.Stats.Jobs.Running != 0 || b.Stats.Jobs.Succeeded != calls {
			t.Errorf("%+v: want as many answers as calls, %d, and nothing running", b, calls)
		}
		if b := s.control(t, id, "resume"); b.State != "running" {
			t.Fatalf("%+v", b)
		}
	}
	if b := s.finish(t, id); b.State != "completed" || b.Stats.Jobs.Succeeded != 120 || b.Stats.Calls != 120 {
		t.Errorf("%+v", b)
	}
	s.refused(t, "/v1/batches/"+id+"/pause", "", "completed")
	s.refused(t, "/v1/batches/"+id+"/resume", "", "completed")
}

func TestCancelCutsCallsAfterTheGraceTime(t *testing.T) {
	t.Parallel()
	for name, query := range map[string]string{"the worker's": "", "the caller's": "?grace_seconds=0"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			asked := make(chan struct{}, 10)
			backend := httpServer(t, func(_ http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body)
				asked <- struct{}{}
				<-r.Context().Done()
			})
			grace := "200ms"
			if query != "" {
				grace = "1h"
			}
			s := start(t, map[string]string{"OPENAI_COMPATIBLE_BASE_URL": backend, "CANCEL_GRACE": grace, "WORKER_LEASE": "3s"})
			id := accepted(t, s.post(t, "/v1/batches", `{"kind":"chat","route":"openai-compatible","jobs":[{"body":{"model":"m","messages":[{"role":"user","content":"x"}]}}]}`)).ID
			<-asked
			if query != "" { // nothing ends before the caller says so
				if b := s.control(t, id, "cancel"); b.State != "cancelling" {
					t.Errorf("%+v", b)
				}
				s.refused(t, "/v1/batches/"+id+"/retry", `{}`, "cancelling")
			}
			if b := s.control(t, id, "cancel"+query); b.State != "cancelling" {
				t.Errorf("%+v", b)
			}
			b := s.finish(t, id)
			if b.State != "cancelled" || b.Stats.Jobs.Cancelled != 1 {
				t.Errorf("%+v", b)
			}
			if n := storetest.Scalar[int64](t, s.env["DATABASE_URL"], `select count(*) from calls where state = 'uncertain'`); n != 1 {
				t.Errorf("%d uncertain calls, want the one that was cut", n)
			}
		})
	}
}

func TestExpiredBatchKeepsFinishedWork(t *testing.T) {
	t.Parallel()
	s := start(t, map[string]string{"SIMULATOR_LATENCY": "100ms", "WORKER_CONCURRENCY": "2", "WORKER_LEASE": "3s"})
	s.saveTemplate(t, blurb)
	id := accepted(t, s.generate(t, "", products(500))).ID
	await(t, "some jobs to succeed", func() bool { return s.batch(t, id).Stats.Jobs.Succeeded >= 2 })
	s.patch(t, id, fmt.Sprintf(`{"expires_at":%q}`, time.Now().Add(time.Second).Format(time.RFC3339Nano)), http.StatusOK)
	b := s.finish(t, id)
	if b.State != "expired" || b.Stats.Jobs.Succeeded < 2 || b.Stats.Jobs.Succeeded+b.Stats.Jobs.Cancelled != 500 {
		t.Errorf("%+v", b)
	}
}

func (s *system) patch(t *testing.T, id, body string, status int) {
	t.Helper()
	if r := s.do(t, http.MethodPatch, "/v1/batches/"+id, "application/json", strings.NewReader(body)); r.status != status {
		t.Errorf("patch %s: status %d, want %d: %s", body, r.status, status, r.body)
	}
}

func TestPatchReachesARunningWorker(t *testing.T) {
	t.Parallel()
	s := start(t, map[string]string{"SIMULATOR_ERROR_RATE": "1", "WORKER_LEASE": "3s"})
	s.saveTemplate(t, blurb)
	id := accepted(t, s.generate(t, "&max_attempts=100", products(3))).ID
	await(t, "the jobs to be tried again", func() bool { b := s.batch(t, id); return b.Stats.Calls > 3 && b.State == "running" })
	s.patch(t, id, `{"max_attempts":1,"priority":3,"concurrency":2,"name":"renamed","job_timeout_seconds":60}`, http.StatusOK)
	b := s.finish(t, id)
	if b.State != "completed" || b.Stats.Jobs.Failed != 3 {
		t.Errorf("%+v", b)
	}
	s.patch(t, id, `{"max_attempts":null}`, http.StatusConflict)
	s.patch(t, id, `{"name":"final","metadata":{"k":"v"}}`, http.StatusOK)
	s.patch(t, id, `{}`, http.StatusBadRequest)
	s.patch(t, id, `{"priority":11}`, http.StatusBadRequest)
	s.patch(t, id, `{"expires_at":"soon"}`, http.StatusBadRequest)
	var got struct {
		Name        string
		Priority    int
		MaxAttempts int `json:"max_attempts"`
		Metadata    map[string]string
	}
	s.do(t, http.MethodGet, "/v1/batches/"+id, "", nil).json(t, &got)
	if got.Name != "final" || got.Priority != 3 || got.MaxAttempts != 1 || got.Metadata["k"] != "v" {
		t.Errorf("%+v", got)
	}
}

func TestRetryOfFailedJobsFinishesTheBatchAgain(t *testing.T) {
	t.Parallel()
	var broken atomic.Bool
	broken.Store(true)
	backend := httpServer(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		w.Header().Set("Content-Type", "application/json")
		if broken.Load() && strings.Contains(string(b), "product 1") {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		_, _ = io.WriteString(w, `{"model":"m","choices":[{"message":{"role":"assistant","content":"a blurb"},"finish_reason":"stop"}],"usage":{"prompt_tokens":9,"completion_tokens":2}}`)
	})
	s := start(t, map[string]string{"OPENAI_COMPATIBLE_BASE_URL": backend, "WORKER_LEASE": "3s"})
	s.saveTemplate(t, blurb)
	id := accepted(t, s.do(t, http.MethodPost, "/v1/batches?kind=generate&template=blurb&route=openai-compatible/m&on_invalid=skip", "application/x-ndjson",
		strings.NewReader(products(15)+"nope\n"))).ID
	first := s.finish(t, id)
	if first.State != "completed" || first.Stats.Jobs.Succeeded != 9 || first.Stats.Jobs.Failed != 7 { // 1, 10 to 14, and the bad line
		t.Fatalf("%+v", first)
	}
	var page struct {
		Data []struct {
			CustomID    *string `json:"custom_id"`
			Requeueable bool
			Error       struct{ Class string }
		}
		Next *string `json:"next_cursor"`
	}
	s.do(t, http.MethodGet, "/v1/dead-letters?error_class=auth&limit=5&batch_id="+id, "", nil).json(t, &page)
	if len(page.Data) != 5 || page.Next == nil || !page.Data[0].Requeueable || *page.Data[0].CustomID != "p-1" || page.Data[0].Error.Class != "auth" {
		t.Fatalf("%+v", page)
	}
	s.do(t, http.MethodGet, "/v1/dead-letters?error_class=auth&limit=5&batch_id="+id+"&cursor="+*page.Next, "", nil).json(t, &page)
	if len(page.Data) != 1 || page.Next != nil {
		t.Fatalf("%+v", page)
	}
	broken.Store(false)
	var one struct {
		Requeued, Excluded int64
		Batch              batch
	}
	s.post(t, "/v1/batches/"+id+"/retry", `{"custom_ids":["p-1","p-2"]}`).json(t, &one)
	if one.Requeued != 1 || one.Excluded != 0 || one.Batch.State != "running" {
		t.Errorf("%+v", one)
	}
	var rest struct {
		Requeued, Excluded, Batches int64
		More                        bool
	}
	if r := s.post(t, "/v1/dead-letters/requeue", `{"all":false}`); r.status != http.StatusBadRequest {
		t.Errorf("requeue of nothing in particular: status %d: %s", r.status, r.body)
	}
	s.post(t, "/v1/dead-letters/requeue", `{"all":true}`).json(t, &rest)
	if rest.Requeued != 5 || rest.Excluded != 1 || rest.Batches != 1 || rest.More {
		t.Errorf("%+v", rest)
	}
	b := s.finish(t, id)
	if b.State != "completed" || b.Stats.Jobs.Succeeded != 15 || b.Stats.Jobs.Failed != 1 {
		t.Errorf("%+v", b)
	}
	if b.Stats.Calls != first.Stats.Calls+6 {
		t.Errorf("%d calls, want the %d of before and 6 more", b.Stats.Calls, first.Stats.Calls)
	}
}

func TestTruncatedAnswerIsAskedForOnceMore(t *testing.T) {
	t.Parallel()
	needs := atomic.Int64{}
	var caps []int64
	asked := make(chan int64, 100)
	backend := httpServer(t, func(w http.ResponseWriter, r *http.Request) {
		var body struct {
			MaxTokens           int64 `json:"max_tokens"`
			MaxCompletionTokens int64 `json:"max_completion_tokens"`
		}
		_ = json.NewDecoder(r.Body).Decode(&body)
		limit := max(body.MaxTokens, body.MaxCompletionTokens)
		asked <- limit
		finish := "stop"
		if limit < needs.Load() {
			finish = "length"
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = fmt.Fprintf(w, `{"model":"m","choices":[{"message":{"role":"assistant","content":"a blurb"},"finish_reason":%q}],"usage":{"prompt_tokens":9,"completion_tokens":%d}}`, finish, min(limit, needs.Load()))
	})
	s := start(t, map[string]string{"OPENAI_COMPATIBLE_BASE_URL": backend, "WORKER_LEASE": "3s"})
	s.saveTemplate(t, blurb) // max_tokens 80
	run := func(kind, body string) (batch, []resultLine) {
		var r reply
		if kind == "chat" {
			r = s.post(t, "/v1/batches", body)
		} else {
			r = s.do(t, http.MethodPost, "/v1/batches?kind=generate&template=blurb&route=openai-compatible/m", "application/x-ndjson", strings.NewReader(body))
		}
		b := s.finish(t, accepted(t, r).ID)
		caps = nil
		for len(asked) > 0 {
			caps = append(caps, <-asked)
		}
		return b, s.results(t, b.ID)
	}
	needs.Store(120)
	if b, _ := run("generate", products(1)); b.Stats.Jobs.Succeeded != 1 || b.Stats.Calls != 2 || fmt.Sprint(caps) != "[80 160]" {
		t.Errorf("%+v, caps %v: want one more call with twice the room", b, caps)
	}
	if b, _ := run("generate", products(1)); b.Stats.Cache.ResultHit != 1 || b.Stats.Calls != 0 {
		t.Errorf("second run: %+v", b)
	}
	needs.Store(1000)
	b, lines := run("generate", `{"variables":{"name":"novel"}}`+"\n")
	if b.Stats.Jobs.Failed != 1 || b.Stats.Calls != 2 || lines[0].Error.Class != "truncated" || !strings.Contains(lines[0].Error.Message, "sampling.max_tokens") {
		t.Errorf("%+v, %+v, caps %v", b, lines, caps)
	}
	b, lines = run("chat", `{"kind":"chat","route":"openai-compatible","jobs":[{"body":{"model":"m","max_tokens":50,"messages":[{"role":"user","content":"x"}]}}]}`)
	if b.Stats.Jobs.Failed != 1 || b.Stats.Calls != 1 || lines[0].Error.Class != "truncated" || !strings.Contains(lines[0].Error.Message, "body.max_tokens") {
		t.Errorf("%+v, %+v", b, lines)
	}
}

func TestRateLimitIsNotWaitedForLongerThanAJobMayTake(t *testing.T) {
	t.Parallel()
	backend := httpServer(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "1")
		w.WriteHeader(http.StatusTooManyRequests)
	})
	s := start(t, map[string]string{"OPENAI_COMPATIBLE_BASE_URL": backend, "WORKER_LEASE": "3s"})
	id := accepted(t, s.post(t, "/v1/batches", `{"kind":"chat","route":"openai-compatible","job_timeout_seconds":3,"max_attempts":1,
		"jobs":[{"body":{"model":"m","messages":[{"role":"user","content":"x"}]}}]}`)).ID
	b := s.finish(t, id)
	lines := s.results(t, id)
	if b.Stats.Jobs.Failed != 1 || b.Stats.Calls < 2 || lines[0].Error.Class != "rate_limited" || !strings.HasPrefix(lines[0].Error.Message, "gave up ") {
		t.Errorf("%+v, %+v", b, lines)
	}
}

func TestLimitedBatchCallsForOnePartAtATime(t *testing.T) {
	t.Parallel()
	var now, most atomic.Int64
	backend := httpServer(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		n := now.Add(1)
		defer now.Add(-1)
		for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
		}
		select { // long enough for others to come
		case <-time.After(30 * time.Millisecond):
		case <-r.Context().Done():
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"model":"m","choices":[{"message":{"role":"assistant","content":"short"},"finish_reason":"stop"}],"usage":{"prompt_tokens":9,"completion_tokens":2}}`)
	})
	s := start(t, map[string]string{"OPENAI_COMPATIBLE_BASE_URL": backend})
	var text strings.Builder
	for i := range 300 {
		fmt.Fprintf(&text, "Sentence number %d says something of its own about matter %d. ", i, i*7)
	}
	document, _ := json.Marshal(text.String())
	for _, limit := range []string{`"concurrency":1,`, ""} {
		most.Store(0)
		b := s.finish(t, accepted(t, s.post(t, "/v1/batches", `{"kind":"summarize","route":"openai-compatible/m",`+limit+`"cache":"off","params":{"chunk_tokens":500},
			"jobs":[{"document":{"text":`+string(document)+`}}]}`)).ID)
		if b.Stats.Jobs.Succeeded != 1 || b.Stats.Calls < 4 || (most.Load() == 1) != (limit != "") {
			t.Errorf("%s %+v: %d calls at once", limit, b, most.Load())
		}
	}
}
