//go:build clients

package clients

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"batchwright/internal/programs"
	"batchwright/internal/queue/queuetest"
	"batchwright/internal/store/storetest"
)

const (
	account     = "acc"
	admin       = "admin-token-of-the-clients"
	providerKey = "sk-key-that-the-client-brings"
	storedKey   = "sk-key-stored-at-the-gateway"
)

// house is the gateway's program, with a database and a Redis of its own and the stand-in behind it.
type house struct {
	addr  string // host and port
	token string // that may run
	stand *stand

	mu  sync.Mutex
	log []string
}

func newHouse(ctx context.Context, t *testing.T) *house {
	t.Helper()
	h := &house{stand: newStand(t)}
	bin, err := programs.Build(ctx, "", "gateway")
	if err != nil {
		t.Fatal(err)
	}
	env := []string{
		"DATABASE_URL=" + storetest.URL(t), "REDIS_URL=" + queuetest.URL(t), "GATEWAY_ADDR=127.0.0.1:0", "GATEWAY_ADMIN_TOKEN=" + admin,
		"GATEWAY_MASTER_KEY=" + base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{7}, 32)), "PATH=" + os.Getenv("PATH"),
	}
	for variable, path := range map[string]string{ // with the version where that provider's addresses have it
		"OPENAI_BASE_URL": "openai/v1", "ANTHROPIC_BASE_URL": "anthropic", "GEMINI_BASE_URL": "google-ai-studio", "GROQ_BASE_URL": "groq/openai/v1",
		"XAI_BASE_URL": "grok/v1", "MISTRAL_BASE_URL": "mistral/v1", "PERPLEXITY_BASE_URL": "perplexity-ai",
	} {
		env = append(env, variable+"="+h.stand.URL+"/"+path)
	}
	h.start(ctx, t, filepath.Join(bin, "gateway"), env)
	h.furnish(ctx, t)
	return h
}

// start runs the program until the test ends, when it must stop by itself, in order.
func (h *house) start(ctx context.Context, t *testing.T, bin string, env []string) {
	t.Helper()
	cmd := exec.CommandContext(ctx, bin)
	cmd.Env = env
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ready := make(chan string, 1)
	var reading sync.WaitGroup
	reading.Go(func() {
		defer close(ready)
		lines := bufio.NewScanner(stderr)
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			var line struct{ Msg, Addr string }
			if json.Unmarshal(lines.Bytes(), &line) == nil && line.Msg == "gateway ready" {
				ready <- line.Addr
			}
			h.mu.Lock()
			h.log = append(h.log, lines.Text())
			h.mu.Unlock()
		}
	})
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		reading.Wait()
		if err := cmd.Wait(); err != nil {
			t.Errorf("the gateway ended with: %v", err)
		}
		h.checkLog(t)
	})
	select {
	case h.addr = <-ready:
	case <-time.After(30 * time.Second):
	}
	if h.addr == "" {
		t.Fatal("the gateway didn't get ready")
	}
}

// checkLog: the gateway's own log reports no error, and holds nothing of what people said nor any key.
func (h *house) checkLog(t *testing.T) {
	t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, line := range h.log {
		if strings.Contains(line, `"level":"ERROR"`) {
			t.Errorf("the gateway's log has an error: %s", line)
		}
		for _, secret := range []string{h.token, admin, providerKey, storedKey, "you said", "Grüße"} {
			if secret != "" && strings.Contains(line, secret) {
				t.Errorf("the gateway's log holds %q", secret)
			}
		}
	}
	if t.Failed() {
		t.Logf("the gateway's log:\n%s", strings.Join(h.log, "\n"))
	}
}

// furnish makes the gateways over the management API, and a token that may only run.
func (h *house) furnish(ctx context.Context, t *testing.T) {
	t.Helper()
	for id, limit := range map[string]any{"main": nil, "stored": nil, "limited-openai": 1, "limited-compat": 1} {
		h.manage(ctx, t, http.MethodPost, "/gateways", map[string]any{"id": id, "authentication": true, "collect_logs": true, "cache_ttl": nil,
			"cache_invalidate_on_update": false, "rate_limiting_limit": limit, "rate_limiting_interval": 3600, "rate_limiting_technique": "sliding"}, nil)
	}
	var made struct{ Token string }
	h.manage(ctx, t, http.MethodPost, "/tokens", map[string]any{"name": "clients", "permissions": []string{"run"}}, &made)
	if h.token = made.Token; h.token == "" {
		t.Fatal("no token was made")
	}
	for _, slug := range []string{"openai", "anthropic"} {
		h.manage(ctx, t, http.MethodPost, "/gateways/stored/provider_configs", map[string]any{"provider_slug": slug, "alias": "default", "secret": storedKey}, nil)
	}
	model := func(id, provider, name, success, fallback string) map[string]any {
		return map[string]any{"id": id, "type": "model", "properties": map[string]any{"provider": provider, "model": name, "timeout": 5000, "retries": 0},
			"outputs": map[string]any{"success": map[string]any{"elementId": success}, "fallback": map[string]any{"elementId": fallback}}}
	}
	h.manage(ctx, t, http.MethodPost, "/gateways/stored/routes", map[string]any{"name": "careful", "elements": []any{
		map[string]any{"id": "start", "type": "start", "outputs": map[string]any{"next": map[string]any{"elementId": "first"}}},
		model("first", "openai", "busy-500", "end", "second"), model("second", "openai", "gpt-4o-mini", "end", "end"),
		map[string]any{"id": "end", "type": "end", "outputs": map[string]any{}},
	}}, nil)
}

// manage calls the management API and decodes the result into out.
func (h *house) manage(ctx context.Context, t *testing.T, method, path string, in, out any) {
	t.Helper()
	status, raw := h.call(ctx, t, method, path, in)
	var envelope struct {
		Success bool
		Result  json.RawMessage
	}
	if err := json.Unmarshal(raw, &envelope); err != nil || status != http.StatusOK || !envelope.Success {
		t.Fatalf("%s %s: %d %s", method, path, status, raw)
	}
	if out != nil {
		if err := json.Unmarshal(envelope.Result, out); err != nil {
			t.Fatal(err)
		}
	}
}

func (h *house) call(ctx context.Context, t *testing.T, method, path string, in any) (int, []byte) {
	t.Helper()
	var body io.Reader
	if in != nil {
		raw, err := json.Marshal(in)
		if err != nil {
			t.Fatal(err)
		}
		body = bytes.NewReader(raw)
	}
	req, err := http.NewRequestWithContext(ctx, method, fmt.Sprintf("http://%s/client/v4/accounts/%s/ai-gateway%s", h.addr, account, path), body)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+admin)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, raw
}

// row is a request in the gateway's log, as the management API shows it.
type row struct {
	Provider    string
	Model       string
	Path        string
	RequestType string `json:"request_type"`
	StatusCode  int    `json:"status_code"`
	Success     bool
	Cached      bool
	Streamed    bool
	Step        int
	TokensIn    int64 `json:"tokens_in"`
	TokensOut   int64 `json:"tokens_out"`
	Cost        *float64
	CustomCost  bool `json:"custom_cost"`
	Metadata    string
	EventID     string `json:"event_id"`
	UserAgent   string `json:"user_agent"`
	Head        string `json:"request_head"`
}

// logged waits until a request is in the log: it is written behind the request.
func (h *house) logged(ctx context.Context, t *testing.T, gateway, id string) (r row, ok bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); <-tick.C {
		if status, _ := h.call(ctx, t, http.MethodGet, "/gateways/"+gateway+"/logs/"+id, nil); status == http.StatusOK {
			h.manage(ctx, t, http.MethodGet, "/gateways/"+gateway+"/logs/"+id, nil, &r)
			return r, true
		}
	}
	return row{}, false
}
