package server

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"syscall"
	"testing"

	"batchwright/internal/gateway"
	"batchwright/internal/pricing"
	"batchwright/internal/store/storetest"
)

// The promises that these measure, at 32 connections: passing a request on, log and all, is at least 0.7 of a bare
// httputil.ReverseProxy before a provider without latency, and a hit at least 0.6 of a handler that writes bytes.

const benchBody = `{"model":"gpt-4o-mini","messages":[{"role":"system","content":"You are a helpful assistant."},{"role":"user","content":"Summarize this paragraph in one sentence."}],"temperature":0}`

func backend(b *testing.B) *httptest.Server {
	answer := []byte(chatAnswer)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(answer)
	}))
	b.Cleanup(s.Close)
	return s
}

func drive(b *testing.B, address string, headers ...string) {
	b.Helper()
	t := gateway.NewTransport(nil)
	defer t.CloseIdleConnections()
	b.SetParallelism(16) // times two processors
	b.ReportAllocs()
	before := cpu(b)
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			req, _ := http.NewRequestWithContext(context.Background(), http.MethodPost, address, strings.NewReader(benchBody))
			req.Header.Set("Content-Type", "application/json")
			req.Header.Set("Authorization", "Bearer sk-provider-key-of-the-bench")
			for i := 0; i < len(headers); i += 2 {
				req.Header.Set(headers[i], headers[i+1])
			}
			res, err := t.RoundTrip(req)
			if err != nil {
				b.Error(err)
				return
			}
			_, _ = io.Copy(io.Discard, res.Body)
			res.Body.Close()
			if res.StatusCode != http.StatusOK {
				b.Errorf("status %d", res.StatusCode)
				return
			}
		}
	})
	b.StopTimer()
	b.ReportMetric(float64(cpu(b)-before)/float64(b.N), "cpu-ns/op") // steadier than the time, on a machine that others use
}

// cpu is the processor time that this process has used, in nanoseconds: clients, backend and server together.
func cpu(b *testing.B) int64 {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return u.Utime.Nano() + u.Stime.Nano()
}

func benchGateway(b *testing.B, s Settings) string {
	db := storetest.New(b)
	cache := gateway.NewCache(gateway.CacheOptions{})
	server, err := New(Options{DB: db, Prices: pricing.Default(), Cache: cache, AdminToken: admin, Upstreams: map[string]string{"openai": backend(b).URL + "/v1"}})
	if err != nil {
		b.Fatal(err)
	}
	raw, _ := json.Marshal(s)
	if _, err := db.CreateGateway(context.Background(), "acc", "gw", raw); err != nil {
		b.Fatal(err)
	}
	front := httptest.NewServer(server.Handler())
	b.Cleanup(func() { front.Close(); _ = server.Close(); cache.Close() })
	return front.URL + "/v1/acc/gw/openai/v1/chat/completions"
}

func BenchmarkReverseProxy(b *testing.B) {
	to, _ := url.Parse(backend(b).URL)
	p := httputil.NewSingleHostReverseProxy(to)
	p.Transport = gateway.NewTransport(nil)
	front := httptest.NewServer(p)
	b.Cleanup(front.Close)
	drive(b, front.URL+"/v1/chat/completions")
}

func BenchmarkNative(b *testing.B) {
	drive(b, benchGateway(b, DefaultSettings()), "Cf-Aig-Authorization", "Bearer "+admin)
}

func BenchmarkNativeWithoutLog(b *testing.B) {
	drive(b, benchGateway(b, DefaultSettings()), "Cf-Aig-Authorization", "Bearer "+admin, "Cf-Aig-Collect-Log", "false")
}

func BenchmarkMemory(b *testing.B) { drive(b, backend(b).URL) }

func BenchmarkHit(b *testing.B) {
	s := DefaultSettings()
	s.CacheTTL = new(int64(3600))
	drive(b, benchGateway(b, s), "Cf-Aig-Authorization", "Bearer "+admin)
}
