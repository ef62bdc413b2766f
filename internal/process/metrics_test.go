package process_test

import (
	"bufio"
	"bytes"
	"maps"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"batchwright/internal/process"
)

// beside is the same system's environment with other values.
func (s *system) beside(env map[string]string) *system {
	other := &system{url: s.url, key: s.key, env: maps.Clone(s.env)}
	maps.Copy(other.env, env)
	return other
}

// scrape reads the metrics of the process with this ADMIN_ADDR: each series as it is written, with its value.
func scrape(t *testing.T, admin string) map[string]float64 {
	t.Helper()
	s := &system{url: "http://" + admin}
	await(t, "the admin port", func() bool {
		res, err := http.Get(s.url + "/debug/pprof/cmdline")
		if err == nil {
			_ = res.Body.Close()
		}
		return err == nil
	})
	r := s.do(t, http.MethodGet, "/metrics", "", nil)
	if r.status != http.StatusOK {
		t.Fatalf("status %d: %s", r.status, r.body)
	}
	out := map[string]float64{}
	for lines := bufio.NewScanner(bytes.NewReader(r.body)); lines.Scan(); {
		name, value, ok := strings.Cut(lines.Text(), " ")
		if v, err := strconv.ParseFloat(value, 64); ok && err == nil && !strings.HasPrefix(name, "#") {
			out[name] = v
		}
	}
	return out
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	s := start(t, map[string]string{"SIMULATOR_LATENCY": "30s", "SHUTDOWN_GRACE": "1s"})
	s.saveTemplate(t, blurb)
	stuck := accepted(t, s.generate(t, "", products(40))).ID
	await(t, "calls in flight", func() bool { return s.batch(t, stuck).Stats.Jobs.Running == 40 })
	admin := freeAddr(t)
	s.beside(map[string]string{"ADMIN_ADDR": admin, "WORKER_CONCURRENCY": "7", "SIMULATOR_LATENCY": "0s"}).run(t, process.Worker)
	await(t, "a round of dispatch", func() bool { return scrape(t, admin)["batchwright_dispatch_seconds_count"] > 0 })
	idle := scrape(t, admin)
	for name, want := range map[string]float64{
		"batchwright_backlog_jobs": 40, "batchwright_planning_jobs": 0, `batchwright_open_batches{state="running"}`: 1, `batchwright_open_batches{state="paused"}`: 0,
		"batchwright_worker_concurrency": 7, "batchwright_calls_in_flight": 0, "batchwright_db_connections_max": 16,
	} {
		if got, ok := idle[name]; !ok || got != want {
			t.Errorf("%s is %v, %v; want %v", name, got, ok, want)
		}
	}
	for _, name := range []string{"go_goroutines", "process_resident_memory_bytes", "batchwright_dispatch_seconds_count", "batchwright_db_acquires_total", "batchwright_workers_concurrency"} {
		if idle[name] <= 0 {
			t.Errorf("%s is %v, want more", name, idle[name])
		}
	}
	if tickets := idle[`batchwright_tickets{purpose="run"}`]; tickets < 1 || idle["batchwright_tickets_claimed"] != tickets {
		t.Errorf("%v tickets, %v claimed", tickets, idle["batchwright_tickets_claimed"])
	}
	for name := range idle {
		if strings.Contains(name, stuck) || strings.Contains(name, "test") {
			t.Errorf("a series names a tenant or batch: %s", name)
		}
	}

	api := freeAddr(t)
	s.beside(map[string]string{"ADMIN_ADDR": api, "HTTP_ADDR": freeAddr(t)}).run(t, process.API)
	if m := scrape(t, api); m["batchwright_backlog_jobs"] != 40 || m["go_goroutines"] <= 0 || m["batchwright_db_connections_max"] != 16 {
		t.Errorf("the API's: %v", m)
	}
	gw := freeAddr(t)
	s.beside(map[string]string{"ADMIN_ADDR": gw, "GATEWAY_ADDR": freeAddr(t)}).run(t, process.Gateway)
	if m := scrape(t, gw); m["go_goroutines"] <= 0 || m["batchwright_db_connections_max"] != 16 {
		t.Errorf("the gateway's: %v", m)
	}
}

func TestMetricsCountCalls(t *testing.T) {
	t.Parallel()
	admin := freeAddr(t)
	backend := httpServer(t, func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "/bad/") {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		_, _ = w.Write([]byte(`{"model":"m","choices":[{"message":{"content":"a good answer"},"finish_reason":"stop"}],"usage":{"prompt_tokens":9,"completion_tokens":2}}`))
	})
	s := start(t, map[string]string{"CUSTOM_PROVIDERS": "bad,good", "CUSTOM_BAD_BASE_URL": backend + "/bad/v1", "CUSTOM_BAD_API_KEY": "k", "CUSTOM_GOOD_BASE_URL": backend + "/v1",
		"CUSTOM_GOOD_API_KEY": "k", "OPENAI_COMPATIBLE_BASE_URL": backend + "/v1"})
	s.saveTemplate(t, blurb)
	// Of two workers the one that is looked at gets some of the jobs, as both have few calls in flight.
	s.beside(map[string]string{"ADMIN_ADDR": admin}).run(t, process.Worker)
	scrape(t, admin)
	for _, route := range []string{"custom-bad:m,custom-good:m", "openai-compatible:m"} {
		await(t, "the worker to have some of "+route, func() bool {
			s.finish(t, accepted(t, s.post(t, "/v1/batches", `{"kind":"generate","template":"blurb","cache":"off","route":"`+route+`","jobs":[{"variables":{"name":"x"}},{"variables":{"name":"y"}}]}`)).ID)
			m := scrape(t, admin)
			if strings.HasPrefix(route, "custom") {
				return m[`batchwright_calls_total{class="ok",provider="custom"}`] > 0 && m[`batchwright_calls_total{class="auth",provider="custom"}`] > 0
			}
			return m[`batchwright_calls_total{class="ok",provider="openai-compatible"}`] > 0
		})
	}
	if m := scrape(t, admin); m[`batchwright_settled_jobs_total{state="succeeded"}`] < 2 || m["batchwright_call_seconds_count"] < 3 {
		t.Errorf("settled %v, calls %v", m[`batchwright_settled_jobs_total{state="succeeded"}`], m["batchwright_call_seconds_count"])
	}
}
