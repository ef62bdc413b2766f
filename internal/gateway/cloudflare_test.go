package gateway_test

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"batchwright/internal/gateway"
	"batchwright/internal/gateway/gatewaytest"
)

// universal returns a client of a Universal Endpoint in this process, whose requests must be without fault.
func universal(t *testing.T, s *gatewaytest.Script) *gateway.Cloudflare {
	t.Helper()
	u := &gatewaytest.Universal{Script: s, Token: "tok", Keys: map[string]string{"openai": "key-of-openai", "custom-b": "key-of-custom-b"}}
	t.Cleanup(func() {
		for _, p := range u.Problems() {
			t.Error(p)
		}
	})
	c, err := gateway.NewCloudflare(gateway.CloudflareOptions{
		URL: "http://gateway.test/v1/acct/gw", Token: "tok", Transport: gatewaytest.Through(u),
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestCloudflareConforms(t *testing.T) {
	gatewaytest.Conform(t, func(t *testing.T, s *gatewaytest.Script) gateway.Gateway { return universal(t, s) })
}

// TestCloudflareWire shows, over real HTTP, every header and the exact array.
func TestCloudflareWire(t *testing.T) {
	t.Parallel()
	s := gatewaytest.NewScript(map[string][]gatewaytest.Answer{"openai": {gatewaytest.Fail(500, "")}, "custom-b": {gatewaytest.Text("hi")}})
	u := &gatewaytest.Universal{Script: s, Token: "tok"}
	srv := httptest.NewServer(u)
	defer srv.Close()
	c, err := gateway.NewCloudflare(gateway.CloudflareOptions{
		BaseURL: srv.URL, AccountID: "acct", GatewayID: "my-gateway", Token: "tok", ProviderKeys: map[string]string{"openai": "sk-1"},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	step := func(provider, body string, cfg *gateway.StepConfig) gateway.Step {
		s, err := gateway.NewRawStep(provider, "", []byte(body), cfg)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	req := &gateway.Request{
		Steps: []gateway.Step{
			step("openai", "{ \"model\":\"a\",\n \"messages\":[\"<&>\"] }", &gateway.StepConfig{RequestTimeoutMS: 1000, MaxAttempts: 3, RetryDelayMS: 10, Backoff: "linear"}),
			step("custom-b", `{"model":"b","messages":[]}`, nil),
		},
		Options: gateway.Options{
			SkipCache: true, CacheKey: "row 7", CacheTTL: time.Hour, EventID: "ev-1", NoCollect: true,
			Metadata: gateway.Metadata{"job": int64(7), "name": "é😀\"", "ok": true, "x": 1.5},
		},
	}
	req.Steps[1].Headers = map[string]string{"content-type": "application/json; v=2", "X-A": "<1>"}
	var book gatewaytest.Book
	resp, err := c.Run(t.Context(), req, book.Ledger)
	if err != nil {
		t.Fatal(err)
	}
	if resp.Step != 1 || resp.Provider != "custom-b" || resp.Text != "hi" || resp.LogID != "log-1" || resp.CacheStatus != gateway.CacheMiss || resp.Sends != 1 {
		t.Errorf("answer %+v", resp)
	}
	e := book.Entries()[0]
	if e.Send != (gateway.Send{Steps: 2, Tries: 3, Number: 1}) || e.Outcome.Step != 1 || e.Outcome.LogID != "log-1" || e.Outcome.CacheStatus != gateway.CacheMiss || e.Outcome.Latency <= 0 {
		t.Errorf("entry %+v", e)
	}
	for _, p := range u.Problems() {
		t.Error(p)
	}
	h, body := u.Last()
	for name, want := range map[string]string{
		"Cf-Aig-Authorization": "Bearer tok", "Cf-Aig-Skip-Cache": "true", "Cf-Aig-Cache-Key": "row 7", "Cf-Aig-Cache-Ttl": "3600",
		"Cf-Aig-Event-Id": "ev-1", "Cf-Aig-Collect-Log": "false", "Cf-Aig-No-Wholesale": "true", "Cf-Aig-Max-Attempts": "2",
		"Cf-Aig-Request-Timeout": "120000", "Cf-Aig-Metadata": `{"job":7,"name":"\u00e9\ud83d\ude00\"","ok":true,"x":1.5}`,
		"Authorization": "", "Content-Type": "application/json",
	} {
		if got := h.Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	want := `[{"provider":"openai","endpoint":"chat/completions","headers":{"Authorization":"Bearer sk-1","Content-Type":"application/json"},"query":` +
		"{ \"model\":\"a\",\n \"messages\":[\"<&>\"] }" + `,"config":{"requestTimeout":1000,"maxAttempts":3,"retryDelay":10,"backoff":"linear"}}` +
		`,{"provider":"custom-b","endpoint":"chat/completions","headers":{"X-A":"<1>","content-type":"application/json; v=2"},"query":{"model":"b","messages":[]}}]`
	if string(body) != want {
		t.Errorf("sent\n%s\nwant\n%s", body, want)
	}
}

func TestCloudflareFailures(t *testing.T) {
	t.Parallel()
	envelope := func(status, code int) gatewaytest.Answer {
		w := httptest.NewRecorder()
		gatewaytest.Envelope(w, status, code, "SECRET")
		return gatewaytest.Answer{Status: status, Body: w.Body.String()}
	}
	through := gatewaytest.Answer{}
	tests := []struct {
		name   string
		at     answers
		class  gateway.Class
		code   string
		step   int
		sends  int
		unsure bool
	}{
		{"a passing failure of the gateway", answers{envelope(400, 2005), through}, gateway.OK, "", 0, 2, false},
		{"the gateway's rate limit", answers{envelope(429, 2003), through}, gateway.OK, "", 0, 2, false},
		{"no such gateway", answers{envelope(400, 2001)}, gateway.Auth, "2001", 0, 1, false},
		{"a bad token", answers{envelope(401, 2009)}, gateway.Auth, "2009", 0, 1, false},
		{"no usable answer, twice", answers{envelope(400, 2005)}, gateway.Server, "2005", 0, 2, true},
		{"no credit", answers{envelope(402, 2021)}, gateway.Quota, "2021", 0, 1, false},
		{"the older envelope", answers{{Status: 401, Body: `{"success":false,"result":[],"messages":[],"error":[{"code":2009,"message":"x"}]}`}}, gateway.Auth, "2009", 0, 1, false},
		{"the management envelope", answers{{Status: 404, Body: `{"success":false,"errors":[{"code":7003,"message":"x"}]}`}}, gateway.NotFound, "7003", 0, 1, false},
		{"a policy's cap", answers{{Status: 429, Body: `{"success":false,"error":{"message":"x","bucket":"b","spent":1,"limit":1}}`}}, gateway.Quota, "spend_policy", 0, 1, false},
		{"no balance, in OpenAI's shape", answers{{Status: 402, Body: `{"error":{"message":"x","type":"gateway_error","code":null}}`}}, gateway.Quota, "gateway_error", 1, 1, false},
		{"a page of the edge", answers{{Status: 500, Body: "<!DOCTYPE html>1101"}, through}, gateway.OK, "", 0, 2, false},
		{"a provider's failure, without a step", answers{{Status: 401, Body: `{"error":{"code":"invalid_api_key"}}`}}, gateway.Auth, "invalid_api_key", 1, 1, false},
		{"a step that is none of ours", answers{{Status: 200, Header: http.Header{"Cf-Aig-Step": {"7"}}, Body: gatewaytest.Text("fine").Body}}, gateway.OK, "", 0, 1, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := gatewaytest.NewScript(map[string][]gatewaytest.Answer{gatewaytest.AtGateway: tt.at, "openai": {gatewaytest.Text("fine")}})
				var book gatewaytest.Book
				resp, err := universal(t, s).Run(t.Context(), chain(t, nil, "openai", "custom-b"), book.Ledger)
				book.Check(t, 2)
				if n := len(book.Entries()); n != tt.sends {
					t.Errorf("%d sends, want %d", n, tt.sends)
				}
				if tt.class == gateway.OK {
					if err != nil || resp.Text != "fine" || resp.Step != tt.step {
						t.Errorf("answer %+v, err %v", resp, err)
					}
					return
				}
				e, ok := errors.AsType[*gateway.Error](err)
				if !ok || e.Class != tt.class || e.Code != tt.code || e.Step != tt.step || e.Uncertain != tt.unsure || strings.Contains(err.Error(), "SECRET") {
					t.Errorf("error %+v", e)
				}
			})
		})
	}
}

func TestCloudflareCacheHit(t *testing.T) {
	t.Parallel()
	s := gatewaytest.NewScript(map[string][]gatewaytest.Answer{gatewaytest.AtGateway: {{Status: 200, Header: http.Header{"Cf-Aig-Cache-Status": {"HIT"}}, Body: gatewaytest.Text("again").Body}}})
	var book gatewaytest.Book
	resp, err := universal(t, s).Run(t.Context(), chain(t, nil, "openai"), book.Ledger)
	if err != nil || resp.CacheStatus != gateway.CacheHit || book.Entries()[0].Outcome.CacheStatus != gateway.CacheHit {
		t.Errorf("answer %+v, err %v", resp, err)
	}
}

func TestCloudflareRefusesWhatTheGatewayWouldDrop(t *testing.T) {
	t.Parallel()
	tests := map[string]func(*gateway.Request){
		"six entries": func(r *gateway.Request) {
			r.Options.Metadata = gateway.Metadata{"a": 1, "b": 2, "c": 3, "d": 4, "e": 5, "f": 6}
		},
		"nested entry":    func(r *gateway.Request) { r.Options.Metadata = gateway.Metadata{"a": []string{"x"}} },
		"reserved entry":  func(r *gateway.Request) { r.Options.Metadata = gateway.Metadata{"cf.user_id": "x"} },
		"long entry":      func(r *gateway.Request) { r.Options.Metadata = gateway.Metadata{"a": strings.Repeat("x", 5000)} },
		"short TTL":       func(r *gateway.Request) { r.Options.CacheTTL = 59 * time.Second },
		"long TTL":        func(r *gateway.Request) { r.Options.CacheTTL = 32 * 24 * time.Hour },
		"line in a key":   func(r *gateway.Request) { r.Options.CacheKey = "a\r\nb" },
		"letter in an id": func(r *gateway.Request) { r.Options.EventID = "é" },
		"attempts":        func(r *gateway.Request) { r.Steps[0].Config = &gateway.StepConfig{MaxAttempts: 6} },
		"delay":           func(r *gateway.Request) { r.Steps[0].Config = &gateway.StepConfig{RetryDelayMS: 5001} },
		"no JSON":         func(r *gateway.Request) { r.Steps[0].Query = []byte(`{},{"provider":"openai"}`) },
		"built-in":        func(r *gateway.Request) { r.Steps[0].Provider = "local" },
	}
	for name, spoil := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := gatewaytest.NewScript(map[string][]gatewaytest.Answer{"openai": {gatewaytest.Text("x")}})
			req := chain(t, nil, "openai")
			spoil(req)
			var book gatewaytest.Book
			_, err := universal(t, s).Run(t.Context(), req, book.Ledger)
			if gateway.ClassOf(err) != gateway.InvalidRequest || len(book.Entries()) != 0 {
				t.Errorf("err %v after %d sends", err, len(book.Entries()))
			}
		})
	}
}

func TestNewCloudflareRefuses(t *testing.T) {
	t.Parallel()
	for name, o := range map[string]gateway.CloudflareOptions{
		"nothing":          {},
		"no gateway":       {AccountID: "a"},
		"odd gateway":      {AccountID: "a", GatewayID: "b/c"},
		"long gateway":     {AccountID: "a", GatewayID: strings.Repeat("x", 65)},
		"odd URL":          {URL: "gateway.test"},
		"unknown provider": {AccountID: "a", GatewayID: "b", ProviderKeys: map[string]string{"nobody": "k"}},
		"attempts":         {AccountID: "a", GatewayID: "b", StepAttempts: 6},
	} {
		if _, err := gateway.NewCloudflare(o); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	c, err := gateway.NewCloudflare(gateway.CloudflareOptions{AccountID: "a", GatewayID: "b"})
	if err != nil {
		t.Fatal(err)
	}
	for provider, ok := range map[string]bool{"openai": true, "custom-x": true, "local": false, "nobody": false, "openai-compatible": false} {
		if err := c.Check(provider); (err == nil) != ok {
			t.Errorf("Check(%q) = %v", provider, err)
		}
	}
}

// Anthropic's 429 without a wait is a cap on spending, which fails a job for good; but a gateway may have dropped the wait.
func TestALimitBehindAGatewayThatDropsHeadersIsNoSpendCap(t *testing.T) {
	t.Parallel()
	for want, h := range map[gateway.Class]http.Header{
		gateway.RateLimited: {"Content-Type": {"application/json"}},
		gateway.Quota:       {"Content-Type": {"application/json"}, "Request-Id": {"req_1"}},
	} {
		s := gatewaytest.NewScript(map[string][]gatewaytest.Answer{"anthropic": {{Status: 429, Header: h,
			Body: `{"type":"error","error":{"type":"rate_limit_error","message":"x"}}`}}})
		step, err := gateway.NewStep("anthropic", "claude-opus-5", &gateway.Chat{Messages: []gateway.Message{{Role: "user", Content: "hi"}}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		_, err = native(t, s).Run(t.Context(), &gateway.Request{Steps: []gateway.Step{step}, Options: gateway.Options{Timeout: time.Second}}, nil)
		if gateway.ClassOf(err) != want {
			t.Errorf("headers %v: %v, want %s", h, err, want)
		}
	}
}
