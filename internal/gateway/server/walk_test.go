package server

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// failing answers with a status until the n-th request, which is answered well.
func failing(l *lab, status, n int) *atomic.Int64 {
	var count atomic.Int64
	l.script(func(w http.ResponseWriter, _ *http.Request) {
		if got := int(count.Add(1)); got < n {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(status)
			_, _ = fmt.Fprintf(w, `{"try":%d}`, got)
			return
		}
		_, _ = io.WriteString(w, "good")
	})
	return &count
}

func TestAttemptsOfOneStep(t *testing.T) {
	t.Parallel()
	for _, r := range []struct {
		attempts      string
		good          int
		status, calls int
		body          string
	}{
		{"1", 2, 503, 1, `{"try":1}`}, {"2", 2, 200, 2, "good"}, {"5", 5, 200, 5, "good"}, {"3", 9, 503, 3, `{"try":3}`},
	} {
		l := newLab(t, nil)
		n := failing(l, 503, r.good)
		got := l.post("/openai/x", `{}`, "Cf-Aig-Max-Attempts", r.attempts, "Cf-Aig-Retry-Delay", "1")
		if got.status != r.status || int(n.Load()) != r.calls || got.body != r.body {
			t.Errorf("%s attempts: %d after %d calls: %s", r.attempts, got.status, n.Load(), got.body)
		}
	}
}

func TestRetryDelayIsKept(t *testing.T) {
	t.Parallel()
	l := newLab(t, map[string]any{"retry_max_attempts": 3, "retry_delay": 60, "retry_backoff": "exponential"})
	failing(l, 500, 3)
	start := time.Now()
	if got := l.post("/openai/x", `{}`); got.status != 200 || time.Since(start) < 180*time.Millisecond {
		t.Errorf("%d after %v", got.status, time.Since(start))
	}
}

// slowTo answers one slug after a delay or when the caller is gone, all others at once.
func slowTo(l *lab, slug string, d time.Duration) {
	l.script(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/"+slug+"/") {
			select {
			case <-time.After(d):
			case <-r.Context().Done():
				return
			}
		}
		_, _ = io.WriteString(w, r.URL.Path)
	})
}

func TestFirstByteTimeout(t *testing.T) {
	t.Parallel()
	l := newLab(t, nil)
	slowTo(l, "openai", 500*time.Millisecond)
	chain := `[{"provider":"openai","endpoint":"x","headers":{"Authorization":"Bearer k"},"query":{},"config":{"requestTimeout":30}},
		{"provider":"groq","endpoint":"x","headers":{"Authorization":"Bearer k"},"query":{}}]`
	if got := l.do(http.MethodPost, l.url, chain); got.status != 200 || got.header.Get("Cf-Aig-Step") != "1" || got.body != "/groq/x" {
		t.Errorf("chain: %d %s step %s", got.status, got.body, got.header.Get("Cf-Aig-Step"))
	}
	if got := l.post("/openai/x", `{}`, "Cf-Aig-Request-Timeout", "30"); got.status != 400 || got.code() != 2005 {
		t.Errorf("one attempt: %d %s", got.status, got.body)
	}
	if got := l.post("/openai/x", `{}`, "Cf-Aig-Request-Timeout", "30", "Cf-Aig-Max-Attempts", "2", "Cf-Aig-Retry-Delay", "1"); got.status != 200 {
		t.Errorf("the last retry didn't wait: %d %s", got.status, got.body)
	}
}

func TestAllStepsFailed(t *testing.T) {
	t.Parallel()
	l := newLab(t, nil)
	l.script(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/groq/") {
			conn, _, err := w.(http.Hijacker).Hijack()
			if err == nil {
				conn.Close()
			}
			return
		}
		w.Header().Set("X-Native", "yes")
		w.WriteHeader(418)
		_, _ = io.WriteString(w, "teapot of "+r.URL.Path)
	})
	step := func(slug string) string {
		return `{"provider":"` + slug + `","endpoint":"x","headers":{"Authorization":"Bearer k"},"query":{}}`
	}
	for _, r := range []struct {
		chain, body, step string
		status            int
	}{
		{step("openai") + "," + step("mistral"), "teapot of /mistral/x", "1", 418},
		{step("openai") + "," + step("groq"), "teapot of /openai/x", "0", 418},
		{step("openai") + "," + step("nobody"), "teapot of /openai/x", "0", 418},
		{step("groq"), `"internalCode":2005`, "0", 400},
		{step("nobody"), `"internalCode":2008`, "0", 400},
	} {
		got := l.do(http.MethodPost, l.url, "["+r.chain+"]")
		if got.status != r.status || !strings.Contains(got.body, r.body) || got.header.Get("Cf-Aig-Step") != r.step {
			t.Errorf("%s: %d step %s: %s", r.chain, got.status, got.header.Get("Cf-Aig-Step"), got.body)
		}
		if r.status == 418 && got.header.Get("X-Native") != "yes" {
			t.Error("the native headers are missing")
		}
	}
}

func TestRateLimitAnswers429(t *testing.T) {
	t.Parallel()
	w := &scriptedWindows{room: 2}
	l := newLab(t, map[string]any{"rate_limiting_limit": 2, "rate_limiting_interval": 60, "rate_limiting_technique": "sliding", "cache_ttl": 60}, withCache(t),
		func(o *Options) { o.Windows = w })
	for range 2 {
		if got := l.post("/openai/x", `{}`); got.status != 200 {
			t.Fatalf("%d %s", got.status, got.body)
		}
	}
	got := l.post("/openai/x", `{}`)
	if got.status != 429 || got.code() != 2003 || got.header.Get("Retry-After") != "2" {
		t.Errorf("%d %s %v", got.status, got.body, got.header)
	}
	if !w.sliding.Load() {
		t.Error("the window was not a sliding one")
	}
	if got := l.logged(got); got.StatusCode != 429 || got.Success {
		t.Errorf("log %+v", got)
	}
}

func TestUnreachableProviderIs2005(t *testing.T) {
	t.Parallel()
	ln, err := net.Listen("tcp", "127.0.0.1:0") // a free port that nobody listens on
	if err != nil {
		t.Fatal(err)
	}
	address := ln.Addr().String()
	ln.Close()
	l := newLab(t, nil, func(o *Options) { o.Upstreams["openai"] = "http://" + address })
	if got := l.post("/openai/x", `{}`); got.status != 400 || got.code() != 2005 || strings.Contains(got.body, "127.0.0.1") {
		t.Errorf("%d %s", got.status, got.body)
	}
}
