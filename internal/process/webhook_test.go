package process_test

import (
	"bufio"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"batchwright/internal/process"
)

// received is a message as its receiver saw it.
type received struct {
	header http.Header
	body   []byte
}

// TestAReceiverIsToldOfTheEnd of a batch, by a whole system, in a message that it can verify.
func TestAReceiverIsToldOfTheEnd(t *testing.T) {
	t.Parallel()
	got := make(chan received, 10)
	srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got <- received{r.Header, body}
	}))
	t.Cleanup(srv.Close)
	s := start(t, map[string]string{"WEBHOOK_KEY": strings.Repeat("ab", 32), "WEBHOOK_ALLOW_HTTP": "true", "WEBHOOK_ALLOW_HOSTS": "127.0.0.1"})
	r := s.post(t, "/v1/webhooks", `{"url":"`+srv.URL+`","events":["batch.completed"]}`)
	var hook struct{ ID, Secret string }
	if r.json(t, &hook); r.status != http.StatusCreated {
		t.Fatalf("%d %s", r.status, r.body)
	}
	b := accepted(t, s.post(t, "/v1/batches", `{"kind":"chat","name":"told","route":"simulator/sim-1","jobs":[{"body":{"model":"sim-1","messages":[{"role":"user","content":"hello"}]}}]}`))
	s.finish(t, b.ID)
	var m received
	select {
	case m = <-got:
	case <-time.After(30 * time.Second):
		t.Fatal("nothing was sent")
	}
	key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(hook.Secret, "whsec_"))
	if err != nil {
		t.Fatal(err)
	}
	sum := hmac.New(sha256.New, key)
	sum.Write([]byte(m.header.Get("webhook-id") + "." + m.header.Get("webhook-timestamp") + "." + string(m.body)))
	if want := "v1," + base64.StdEncoding.EncodeToString(sum.Sum(nil)); m.header.Get("webhook-signature") != want {
		t.Errorf("signature %s, want %s", m.header.Get("webhook-signature"), want)
	}
	var body struct {
		Type string
		Data struct {
			BatchID string `json:"batch_id"`
			Name    string
			Counts  struct{ Total, Succeeded int64 }
			Cost    int64 `json:"cost_microusd"`
		}
	}
	if err := json.Unmarshal(m.body, &body); err != nil {
		t.Fatal(err)
	}
	if d := body.Data; body.Type != "batch.completed" || d.BatchID != b.ID || d.Name != "told" || d.Counts.Total != 1 || d.Counts.Succeeded != 1 || d.Cost == 0 {
		t.Errorf("told %s", m.body)
	}
	if strings.Contains(string(m.body), "hello") {
		t.Errorf("a prompt is in the message: %s", m.body)
	}
	await(t, "the delivery to be noted", func() bool {
		return strings.Contains(string(s.do(t, http.MethodGet, "/v1/webhooks/"+hook.ID+"/deliveries?state=delivered", "", nil).body), m.header.Get("webhook-id"))
	})
}

// TestEventStreamsEndWithTheirServer, in order and at once, and with their batch.
func TestEventStreamsEndWithTheirServer(t *testing.T) {
	t.Parallel()
	s := start(t, map[string]string{"SIMULATOR_LATENCY": "2m", "SHUTDOWN_GRACE": "1s", "CANCEL_GRACE": "1s"})
	second := s.beside(map[string]string{"HTTP_ADDR": freeAddr(t)})
	second.url = "http://" + second.env["HTTP_ADDR"]
	stop := second.run(t, process.API)
	second.awaitReady(t)
	b := accepted(t, s.post(t, "/v1/batches", `{"kind":"chat","route":"simulator/sim-1","jobs":[{"body":{"model":"sim-1","messages":[{"role":"user","content":"hello"}]}}]}`))
	follow := func(s *system) *bufio.Scanner {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.url+"/v1/batches/"+b.ID+"/events", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+s.key)
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = res.Body.Close() })
		return bufio.NewScanner(res.Body)
	}
	next := func(lines *bufio.Scanner) (name string) {
		for lines.Scan() {
			if name, ok := strings.CutPrefix(lines.Text(), "event: "); ok {
				return name
			}
		}
		if err := lines.Err(); err != nil {
			t.Errorf("a stream broke off: %v", err)
		}
		return ""
	}
	here, there := follow(s), follow(second)
	if a, b := next(here), next(there); a != "progress" || b != "progress" {
		t.Fatalf("streams begin with %q and %q", a, b)
	}
	began := time.Now()
	stop()
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("the server took %s to stop", took)
	}
	for name := next(there); name != ""; name = next(there) {
		if name == "end" {
			t.Error("the batch has ended with the server")
		}
	}
	if r := s.post(t, "/v1/batches/"+b.ID+"/cancel", ``); r.status != http.StatusOK {
		t.Fatalf("%d %s", r.status, r.body)
	}
	last := ""
	for name := next(here); name != ""; name = next(here) {
		last = name
	}
	if last != "end" {
		t.Errorf("the last event is %q", last)
	}
}

// TestABatchWithoutProgressIsTold of, by webhook and when it is asked for.
func TestABatchWithoutProgressIsTold(t *testing.T) {
	t.Parallel()
	told := make(chan string, 10)
	srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		told <- string(body)
	}))
	t.Cleanup(srv.Close)
	s := start(t, map[string]string{"WEBHOOK_KEY": strings.Repeat("ab", 32), "WEBHOOK_ALLOW_HTTP": "true", "WEBHOOK_ALLOW_PRIVATE": "true", "STALL_AFTER": "2s",
		"SIMULATOR_LATENCY": "2m", "SHUTDOWN_GRACE": "1s"})
	if r := s.post(t, "/v1/webhooks", `{"url":"`+srv.URL+`","events":["batch.stalled"]}`); r.status != http.StatusCreated {
		t.Fatalf("%d %s", r.status, r.body)
	}
	b := accepted(t, s.post(t, "/v1/batches", `{"kind":"chat","route":"simulator/sim-1","jobs":[{"body":{"model":"sim-1","messages":[{"role":"user","content":"hello"}]}}]}`))
	select {
	case body := <-told:
		if !strings.Contains(body, b.ID) || !strings.Contains(body, "batch.stalled") {
			t.Errorf("told %s", body)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("nothing was sent")
	}
	if r := s.do(t, http.MethodGet, "/v1/batches/"+b.ID, "", nil); !strings.Contains(string(r.body), `"stalled_at":"`) {
		t.Errorf("shown %s", r.body)
	}
}

func TestWebhookSettings(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, value, fault string }{
		{"WEBHOOK_KEY", strings.Repeat("0f", 32), ""},
		{"WEBHOOK_KEY", base64.StdEncoding.EncodeToString(make([]byte, 32)), ""},
		{"WEBHOOK_KEY", base64.StdEncoding.EncodeToString(make([]byte, 31)), "WEBHOOK_KEY"},
		{"WEBHOOK_KEY", "a secret of thirty-two characters", "WEBHOOK_KEY"},
		{"WEBHOOK_ALLOW_HTTP", "yes please", "WEBHOOK_ALLOW_HTTP"},
		{"WEBHOOK_ALLOW_HOSTS", "hooks.internal, 10.0.0.1,[::1] ,", ""},
		{"WEBHOOK_ALLOW_HOSTS", "https://hooks.internal", "WEBHOOK_ALLOW_HOSTS"},
		{"WEBHOOK_ALLOW_HOSTS", "*.internal", "WEBHOOK_ALLOW_HOSTS"},
		{"STALL_AFTER", "1ms", "STALL_AFTER"},
	} {
		env := map[string]string{"DATABASE_URL": "postgres://x", "REDIS_URL": "redis://x", c.name: c.value}
		_, err := process.Configure(func(name string) string { return env[name] })
		if (err == nil) != (c.fault == "") || err != nil && (!strings.HasPrefix(err.Error(), c.fault+":") || strings.Contains(err.Error(), c.value)) {
			t.Errorf("%s=%s: %v", c.name, c.value, err)
		}
	}
}
