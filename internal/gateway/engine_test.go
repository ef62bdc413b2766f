package gateway_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"batchwright/internal/gateway"
	"batchwright/internal/gateway/gatewaytest"
)

type answers = []gatewaytest.Answer

func TestEngineConforms(t *testing.T) {
	gatewaytest.Conform(t, func(t *testing.T, s *gatewaytest.Script) gateway.Gateway { return gatewaytest.NewEngine(t, s) })
}

// chain returns one step a provider, all with the same small chat.
func chain(t testing.TB, cfg *gateway.StepConfig, providers ...string) *gateway.Request {
	t.Helper()
	req := &gateway.Request{}
	for _, name := range providers {
		model := "m"
		if name == "local" {
			model = gateway.Extractive
		}
		s, err := gateway.NewStep(name, model, &gateway.Chat{Messages: []gateway.Message{{Role: "user", Content: "Rain fell. It rained all day long in town."}}}, cfg)
		if err != nil {
			t.Fatal(err)
		}
		req.Steps = append(req.Steps, s)
	}
	return req
}

func TestEngineWalksTheChain(t *testing.T) {
	t.Parallel()
	ok, down := gatewaytest.Text("x"), gatewaytest.Fail(503, "")
	tests := []struct {
		name        string
		openai, b   answers
		cfg         *gateway.StepConfig
		calls       string
		class       gateway.Class
		least, most time.Duration
		retryAfter  time.Duration
	}{
		{name: "retry after is obeyed, and spread a little", openai: answers{gatewaytest.Fail(429, "").After("7"), ok}, b: answers{ok},
			calls: "openai openai", least: 7 * time.Second, most: 7700 * time.Millisecond},
		{name: "a wait over our patience goes to the next step at once", openai: answers{gatewaytest.Fail(429, "").After("60")}, b: answers{ok}, calls: "openai custom-b"},
		{name: "nobody has room: the shortest wait is told", openai: answers{gatewaytest.Fail(429, "").After("60")}, b: answers{gatewaytest.Fail(429, "").After("90")},
			calls: "openai custom-b", class: gateway.RateLimited, retryAfter: time.Minute},
		{name: "a wait outlives a dead last step", openai: answers{gatewaytest.Fail(429, "").After("60")}, b: answers{gatewaytest.Fail(401, "")},
			calls: "openai custom-b", class: gateway.RateLimited, retryAfter: time.Minute},
		{name: "default pauses are under half a second, then a second", openai: answers{down, down, ok}, b: answers{ok}, cfg: &gateway.StepConfig{MaxAttempts: 3},
			calls: "openai openai openai", most: 1500*time.Millisecond + 2},
		{name: "constant pauses", openai: answers{down, down, ok}, b: answers{ok}, cfg: &gateway.StepConfig{MaxAttempts: 3, RetryDelayMS: 1000, Backoff: "constant"},
			calls: "openai openai openai", least: 2 * time.Second, most: 2200 * time.Millisecond},
		{name: "linear pauses", openai: answers{down, down, ok}, b: answers{ok}, cfg: &gateway.StepConfig{MaxAttempts: 3, RetryDelayMS: 1000, Backoff: "linear"},
			calls: "openai openai openai", least: 3 * time.Second, most: 3300 * time.Millisecond},
		{name: "exponential pauses", openai: answers{down, down, down, ok}, b: answers{ok}, cfg: &gateway.StepConfig{MaxAttempts: 4, RetryDelayMS: 1000, Backoff: "exponential"},
			calls: "openai openai openai openai", least: 7 * time.Second, most: 7700 * time.Millisecond},
		{name: "one attempt", openai: answers{down}, b: answers{ok}, cfg: &gateway.StepConfig{MaxAttempts: 1}, calls: "openai custom-b"},
		{name: "an invalid request stops the chain", openai: answers{gatewaytest.Fail(400, "invalid_json")}, b: answers{ok}, calls: "openai", class: gateway.InvalidRequest},
		{name: "an unknown failure is not retried on the same step", openai: answers{gatewaytest.Fail(418, "")}, b: answers{ok}, calls: "openai custom-b"},
		{name: "a filter goes to the next step", openai: answers{{Body: `{"choices":[{"message":{"content":""},"finish_reason":"content_filter"}]}`}}, b: answers{ok}, calls: "openai custom-b"},
		{name: "the step's timeout to the first byte", openai: answers{{Hang: true}}, b: answers{ok}, cfg: &gateway.StepConfig{RequestTimeoutMS: 3000, MaxAttempts: 1},
			calls: "openai custom-b", least: 3 * time.Second, most: 3 * time.Second},
		{name: "the default timeout to the first byte", openai: answers{{Hang: true}}, b: answers{ok}, cfg: &gateway.StepConfig{MaxAttempts: 1},
			calls: "openai custom-b", least: 2 * time.Minute, most: 2 * time.Minute},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := gatewaytest.NewScript(map[string][]gatewaytest.Answer{"openai": tt.openai, "custom-b": tt.b})
				var book gatewaytest.Book
				start := time.Now()
				_, err := gatewaytest.NewEngine(t, s).Run(t.Context(), chain(t, tt.cfg, "openai", "custom-b"), book.Ledger)
				book.Check(t, 2)
				if got := strings.Join(s.Providers(), " "); got != tt.calls {
					t.Errorf("called %s, want %s", got, tt.calls)
				}
				if d := time.Since(start); d < tt.least || d > tt.most {
					t.Errorf("took %v, want %v to %v", d, tt.least, tt.most)
				}
				if got := gateway.ClassOf(err); got != tt.class {
					t.Errorf("class %q, want %q (%v)", got, tt.class, err)
				}
				if e, ok := errors.AsType[*gateway.Error](err); ok && e.RetryAfter != tt.retryAfter {
					t.Errorf("retry after %v, want %v", e.RetryAfter, tt.retryAfter)
				}
			})
		})
	}
}

func TestNothingSentIsNotUncertain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		refused := &net.OpError{Op: "dial", Err: errors.New("connection refused")}
		s := gatewaytest.NewScript(map[string][]gatewaytest.Answer{"openai": {{Err: refused, Unsent: true}}})
		var book gatewaytest.Book
		_, err := gatewaytest.NewEngine(t, s).Run(t.Context(), chain(t, nil, "openai"), book.Ledger)
		e, ok := errors.AsType[*gateway.Error](err)
		if !ok || e.Class != gateway.Network || e.Code != "connect_failed" || e.Uncertain || !errors.Is(err, refused) {
			t.Errorf("error %+v", e)
		}
		for _, en := range book.Entries() {
			if en.Outcome.Uncertain {
				t.Errorf("outcome %+v", en.Outcome)
			}
		}
	})
}

func TestAnEarlierUncertainSendMakesTheErrorUncertain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := gatewaytest.NewScript(map[string][]gatewaytest.Answer{"openai": {{Body: "garbage"}, gatewaytest.Fail(503, "")}})
		var book gatewaytest.Book
		_, err := gatewaytest.NewEngine(t, s).Run(t.Context(), chain(t, nil, "openai"), book.Ledger)
		e, _ := errors.AsType[*gateway.Error](err)
		es := book.Entries()
		if e.Class != gateway.Overloaded || !e.Uncertain || !es[0].Outcome.Uncertain || es[1].Outcome.Uncertain {
			t.Errorf("error %+v, entries %+v", e, es)
		}
	})
}

func TestABilledAnswerThatIsNoUseTellsItsUsage(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := gatewaytest.NewScript(map[string][]gatewaytest.Answer{"openai": {{Body: `{"choices":[{"message":{"refusal":"no"},"finish_reason":"stop"}],"usage":{"prompt_tokens":5,"completion_tokens":3}}`}}})
		var book gatewaytest.Book
		_, err := gatewaytest.NewEngine(t, s).Run(t.Context(), chain(t, nil, "openai"), book.Ledger)
		o := book.Entries()[0].Outcome
		if gateway.ClassOf(err) != gateway.ContentFiltered || o.Usage.Output != 3 || o.Usage.Input != 5 || o.Code != "refusal" {
			t.Errorf("err %v, outcome %+v", err, o)
		}
	})
}

func TestEngineCheckNamesTheRemedy(t *testing.T) {
	t.Parallel()
	e, err := gateway.NewEngine(gateway.EngineOptions{Endpoints: map[string]gateway.Endpoint{"custom-vllm": {BaseURL: "http://vllm:8000/v1"}}})
	if err != nil {
		t.Fatal(err)
	}
	for provider, want := range map[string]string{
		"local": "", "simulator": "", "custom-vllm": "",
		"openai":            `provider "openai" has no API key configured`,
		"openai-compatible": `provider "openai-compatible" has no base URL configured`,
		"opnai":             `unknown provider "opnai"; known are ` + strings.Join(gateway.Providers(), ", ") + ` and custom-NAME`,
	} {
		err := e.Check(provider)
		if want == "" && err != nil || want != "" && (err == nil || err.Error() != "gateway: "+want) {
			t.Errorf("Check(%q) = %v, want %q", provider, err, want)
		}
	}
	if _, err := e.Run(t.Context(), chain(t, nil, "openai", "simulator"), nil); err != nil {
		t.Errorf("a step without a key should fall through: %v", err)
	}
	_, err = e.Run(t.Context(), chain(t, nil, "openai"), nil)
	if gateway.ClassOf(err) != gateway.Auth {
		t.Errorf("err %v", err)
	}
}

func TestNewEngineRefusesWhatItCannotServe(t *testing.T) {
	t.Parallel()
	for name, ep := range map[string]gateway.Endpoint{
		"nobody":            {Key: "k"},
		"local":             {Key: "k"},
		"openai-compatible": {Key: "k"},
		"custom-a":          {BaseURL: "ftp://x"},
		"custom-b":          {BaseURL: "not a url with SECRET"},
		"custom-c":          {BaseURL: "https://user:SECRET@host/v1"},
	} {
		_, err := gateway.NewEngine(gateway.EngineOptions{Endpoints: map[string]gateway.Endpoint{name: ep}})
		if err == nil || strings.Contains(err.Error(), "SECRET") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestStepHeaders holds what a step may send upstream, through real HTTP.
func TestStepHeaders(t *testing.T) {
	t.Parallel()
	var got http.Header
	var path string
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got, path = r.Header, r.URL.RequestURI()
		w.Write([]byte(gatewaytest.Text("x").Body))
	}))
	defer srv.Close()
	e, err := gateway.NewEngine(gateway.EngineOptions{Endpoints: map[string]gateway.Endpoint{"openai": {BaseURL: srv.URL + "/v1/", Key: " ours\n"}}})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	req := chain(t, nil, "openai")
	if _, err := e.Run(t.Context(), req, nil); err != nil {
		t.Fatal(err)
	}
	if got.Get("Authorization") != "Bearer ours" || got.Get("Content-Type") != "application/json" || got.Get("Accept-Encoding") != "" || path != "/v1/chat/completions" {
		t.Errorf("sent %s with %v", path, got)
	}
	req.Steps[0].Endpoint = "v1/chat/completions?x=1"
	req.Steps[0].Headers = map[string]string{"authorization": "Bearer theirs", "cf-aig-cache-ttl": "60", "Host": "evil", "Connection": "close", "X-Trace": "7"}
	if _, err := e.Run(t.Context(), req, nil); err != nil {
		t.Fatal(err)
	}
	if got.Get("Authorization") != "Bearer theirs" || got.Get("Cf-Aig-Cache-Ttl") != "" || got.Get("X-Trace") != "7" || path != "/v1/chat/completions?x=1" {
		t.Errorf("sent %s with %v", path, got)
	}
}

func TestHostileServers(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		serve  http.HandlerFunc
		class  gateway.Class
		code   string
		unsure bool
	}{
		{"a redirect is not followed", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
		}, gateway.Unknown, "", false},
		{"an answer over the limit", func(w http.ResponseWriter, _ *http.Request) { w.Write(make([]byte, 5000)) }, gateway.InvalidOutput, "answer_too_large", true},
		{"an endless answer", func(w http.ResponseWriter, _ *http.Request) {
			for range 100 {
				w.Write(make([]byte, 1000))
				w.(http.Flusher).Flush()
			}
		}, gateway.InvalidOutput, "answer_too_large", true},
		{"an answer cut off", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			w.Write([]byte("{"))
			panic(http.ErrAbortHandler)
		}, gateway.Network, "connection_lost", true},
		{"a failure cut off is still a failure", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			w.WriteHeader(401)
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		}, gateway.Auth, "", false},
		{"a code that echoes the key", func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(401)
			w.Write([]byte(`{"error":{"code":"bad-key-sk-123"}}`))
		}, gateway.Auth, "", false},
		{"an answer that stalls", func(w http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
			w.WriteHeader(200)
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		}, gateway.Timeout, "deadline", true},
		{"no answer at all", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, gateway.Network, "connection_lost", true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			srv := httptest.NewServer(tt.serve)
			defer srv.Close()
			e, err := gateway.NewEngine(gateway.EngineOptions{MaxAnswerBytes: 4000, Endpoints: map[string]gateway.Endpoint{"openai": {BaseURL: srv.URL, Key: "sk-123"}}})
			if err != nil {
				t.Fatal(err)
			}
			defer e.Close()
			var book gatewaytest.Book
			req := chain(t, &gateway.StepConfig{MaxAttempts: 1}, "openai")
			if tt.code == "deadline" {
				req.Options.Timeout = 50 * time.Millisecond
			}
			_, err = e.Run(t.Context(), req, book.Ledger)
			book.Check(t, 1)
			f, ok := errors.AsType[*gateway.Error](err)
			if !ok || f.Class != tt.class || f.Code != tt.code || f.Uncertain != tt.unsure || strings.Contains(err.Error(), "sk-123") {
				t.Errorf("error %+v", f)
			}
		})
	}
}

// TestSentOverARealConnection holds, for package http's own transport, when a send may have been billed.
func TestSentOverARealConnection(t *testing.T) {
	t.Parallel()
	srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body) // or the server won't see that the client is gone
		<-r.Context().Done()
	}))
	defer srv.Close()
	closed := httptest.NewServer(nil)
	closed.Close()
	for url, sent := range map[string]bool{srv.URL: true, closed.URL: false} {
		e, err := gateway.NewEngine(gateway.EngineOptions{Endpoints: map[string]gateway.Endpoint{"custom-a": {BaseURL: url}}})
		if err != nil {
			t.Fatal(err)
		}
		why := errors.New("enough")
		ctx, cancel := context.WithTimeoutCause(t.Context(), 50*time.Millisecond, why)
		var book gatewaytest.Book
		_, err = e.Run(ctx, chain(t, &gateway.StepConfig{MaxAttempts: 1}, "custom-a"), book.Ledger)
		book.Check(t, 1)
		if o := book.Entries()[0].Outcome; o.Uncertain != sent || sent != errors.Is(err, why) || !sent && (o.Class != gateway.Network || o.Code != "connect_failed") {
			t.Errorf("sent %v: err %v, outcome %+v", sent, err, o)
		}
		cancel()
		e.Close()
	}
}

func TestEngineIsSafeForConcurrentUse(t *testing.T) {
	t.Parallel()
	sim := gateway.NewSimulator(gateway.SimulatorOptions{ErrorRate: 0.1})
	srv := httptest.NewServer(sim)
	defer srv.Close()
	e, err := gateway.NewEngine(gateway.EngineOptions{Endpoints: map[string]gateway.Endpoint{"openai": {BaseURL: srv.URL + "/v1", Key: "k"}}})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	var book gatewaytest.Book
	req := chain(t, &gateway.StepConfig{RetryDelayMS: 1, MaxAttempts: 5}, "openai", "simulator")
	done := make(chan error, 8)
	for range cap(done) {
		go func() {
			var err error
			for range 25 {
				_, rerr := e.Run(context.Background(), req, book.Ledger)
				err = errors.Join(err, rerr)
			}
			done <- err
		}()
	}
	for range cap(done) {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if st := sim.Stats(); st.Calls != st.Answers+st.Failures || st.Failures == 0 {
		t.Errorf("stats %+v", st)
	}
	for _, en := range book.Entries() {
		if en.Settled != 1 {
			t.Fatalf("settled %d times", en.Settled)
		}
	}
}
