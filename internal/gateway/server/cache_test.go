package server

import (
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"batchwright/internal/gateway"
)

func withCache(t *testing.T) func(*Options) {
	return func(o *Options) {
		o.Cache = gateway.NewCache(gateway.CacheOptions{})
		t.Cleanup(o.Cache.Close)
	}
}

// counting answers each request with its number.
func counting(l *lab, kind string) *atomic.Int64 {
	var n atomic.Int64
	l.script(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", kind)
		_, _ = io.WriteString(w, strconv.FormatInt(n.Add(1), 10))
	})
	return &n
}

func TestCacheServesIdenticalRequests(t *testing.T) {
	t.Parallel()
	l := newLab(t, map[string]any{"cache_ttl": 60}, withCache(t))
	counting(l, "application/json")
	hit := func(want string, r reply) {
		t.Helper()
		if got := r.header.Get("Cf-Aig-Cache-Status"); got != want {
			t.Errorf("cache status %s, want %s; body %s", got, want, r.body)
		}
	}
	hit("MISS", l.post("/openai/chat/completions", `{"model":"m"}`))
	again := l.post("/openai/chat/completions", `{"model":"m"}`)
	hit("HIT", again)
	if again.body != "1" || again.header.Get("Content-Type") != "application/json" {
		t.Errorf("the hit is %q", again.body)
	}
	if row := l.logged(again); !row.Cached || row.CostNanoUSD == nil || *row.CostNanoUSD != 0 {
		t.Errorf("log %+v", row)
	}
	hit("MISS", l.post("/openai/chat/completions", `{"model": "m"}`))
	hit("MISS", l.post("/openai/chat/completions", `{"model":"m"}`, "Authorization", "Bearer another"))
	hit("MISS", l.post("/groq/chat/completions", `{"model":"m"}`))
	hit("MISS", l.post("/openai/completions", `{"model":"m"}`))
	hit("HIT", l.post("/openai/chat/completions", `{"model":"m"}`, "Cf-Aig-Metadata", `{"a":1}`))
	hit("MISS", l.post("/openai/chat/completions", `{"model":"m"}`, "Cf-Aig-Skip-Cache", "true"))
	if r := l.post("/openai/chat/completions", `{"model":"m"}`); r.body != "1" {
		t.Errorf("a request that skipped the cache changed what is stored: %s", r.body)
	}
	hit("MISS", l.post("/openai/chat/completions", `{"model":"m"}`, "Cf-Aig-Cache-Ttl", "0"))
	hit("MISS", l.post("/openai/chat/completions", `{"model":"m","stream":true}`))
	hit("MISS", l.post("/openai/chat/completions", `{"model":"m","stream":true}`))
}

func TestCacheKeyAloneSwitchesCachingOn(t *testing.T) {
	t.Parallel()
	l := newLab(t, nil, withCache(t))
	counting(l, "text/plain")
	l.post("/openai/chat/completions", `{"a":1}`, "Cf-Aig-Cache-Key", "k")
	if r := l.post("/anthropic/v1/messages", `{"b":2}`, "Cf-Aig-Cache-Key", "k"); r.header.Get("Cf-Aig-Cache-Status") != "HIT" || r.body != "1" {
		t.Errorf("%v %s", r.header, r.body)
	}
	if r := l.post("/openai/chat/completions", `{"a":1}`); r.header.Get("Cf-Aig-Cache-Status") != "MISS" {
		t.Error("a hit without caching")
	}
}

func TestOnlyGoodAnswersAreStored(t *testing.T) {
	t.Parallel()
	l := newLab(t, map[string]any{"cache_ttl": 60}, withCache(t))
	var n atomic.Int64
	for i, answer := range []http.HandlerFunc{
		func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusTooManyRequests) },
		func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			_, _ = io.WriteString(w, "data: x\n\n")
		},
		func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "audio/mpeg")
			_, _ = io.WriteString(w, "x")
		},
	} {
		l.script(func(w http.ResponseWriter, r *http.Request) { n.Add(1); answer(w, r) })
		n.Store(0)
		body := `{"row":` + strconv.Itoa(i) + `}`
		l.post("/openai/x", body)
		l.post("/openai/x", body)
		if n.Load() != 2 {
			t.Errorf("answer %d was asked for %d times", i, n.Load())
		}
	}
}

func TestIdenticalRequestsInFlightShareOneAnswer(t *testing.T) {
	t.Parallel()
	l := newLab(t, map[string]any{"cache_ttl": 60}, withCache(t))
	begun, release := make(chan struct{}, 10), make(chan struct{})
	var n atomic.Int64
	l.script(func(w http.ResponseWriter, _ *http.Request) {
		n.Add(1)
		begun <- struct{}{}
		<-release
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"ok":1}`)
	})
	var wg sync.WaitGroup
	var hits atomic.Int64
	for range 10 {
		wg.Go(func() {
			if r := l.post("/openai/x", `{"same":1}`); r.header.Get("Cf-Aig-Cache-Status") == "HIT" && strings.Contains(r.body, "ok") {
				hits.Add(1)
			}
		})
	}
	<-begun
	close(release)
	wg.Wait()
	if n.Load() != 1 || hits.Load() != 9 {
		t.Errorf("%d requests went to the provider, %d were hits", n.Load(), hits.Load())
	}
}

func TestChangeOfGatewayPurgesWhereAsked(t *testing.T) {
	t.Parallel()
	l := newLab(t, map[string]any{"cache_ttl": 60, "cache_invalidate_on_update": true}, withCache(t))
	counting(l, "text/plain")
	l.post("/openai/x", `{}`)
	l.gateway("gw", map[string]any{"cache_ttl": 120, "cache_invalidate_on_update": true})
	if r := l.post("/openai/x", `{}`); r.body != "2" {
		t.Errorf("served %q after the change", r.body)
	}
}
