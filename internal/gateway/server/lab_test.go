package server

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"batchwright/internal/pricing"
	"batchwright/internal/store"
	"batchwright/internal/store/storetest"
)

const admin = "admin-token-of-the-tests"

// seen is a request as the stand-in for a provider got it.
type seen struct {
	method, path, query string
	header              http.Header
	body                string
}

// lab is a server on a database of its own, with a stand-in for every provider behind it.
type lab struct {
	t      *testing.T
	db     *store.DB
	server *Server
	url    string // of the gateway /v1/acc/gw

	mu     sync.Mutex
	seen   []seen
	answer http.HandlerFunc
}

const chatAnswer = `{"id":"x","object":"chat.completion","model":"gpt-4o-mini-2024-07-18","choices":[{"index":0,"message":{"role":"assistant","content":"hi"},"finish_reason":"stop"}],"usage":{"prompt_tokens":100,"completion_tokens":10,"total_tokens":110}}`

// newLab starts a gateway gw of the account acc with these settings on top of the default ones.
func newLab(t *testing.T, settings map[string]any, change ...func(*Options)) *lab {
	t.Helper()
	l := &lab{t: t, db: storetest.New(t)}
	l.answer = func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, chatAnswer)
	}
	provider := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		l.mu.Lock()
		l.seen = append(l.seen, seen{r.Method, r.URL.EscapedPath(), r.URL.RawQuery, r.Header.Clone(), string(body)})
		answer := l.answer
		l.mu.Unlock()
		answer(w, r)
	}))
	t.Cleanup(provider.Close)
	box, err := NewBox([]byte("0123456789abcdef0123456789abcdef"))
	if err != nil {
		t.Fatal(err)
	}
	o := Options{DB: l.db, Box: box, Prices: pricing.Default(), AdminToken: admin, Upstreams: map[string]string{}}
	for slug := range upstreams {
		o.Upstreams[slug] = provider.URL + "/" + slug
	}
	for _, f := range change {
		f(&o)
	}
	if l.server, err = New(o); err != nil {
		t.Fatal(err)
	}
	front := httptest.NewServer(l.server.Handler())
	t.Cleanup(func() {
		front.Close()
		_ = l.server.Close()
		http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	})
	l.gateway("gw", settings)
	l.url = front.URL + "/v1/acc/gw"
	return l
}

// gateway makes or changes a gateway.
func (l *lab) gateway(id string, settings map[string]any) {
	l.t.Helper()
	s := DefaultSettings()
	s.Authentication = false
	raw, _ := json.Marshal(s)
	var all map[string]any
	_ = json.Unmarshal(raw, &all)
	for k, v := range settings {
		all[k] = v
	}
	raw, _ = json.Marshal(all)
	ctx := context.Background()
	if _, err := l.db.CreateGateway(ctx, "acc", id, raw); err != nil {
		if _, err = l.db.UpdateGateway(ctx, "acc", id, raw); err != nil {
			l.t.Fatal(err)
		}
	}
	l.server.directory.changed("acc", id)
}

func (l *lab) script(f http.HandlerFunc) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.answer = f
}

func (l *lab) requests() []seen {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]seen(nil), l.seen...)
}

func (l *lab) last() seen {
	l.t.Helper()
	all := l.requests()
	if len(all) == 0 {
		l.t.Fatal("no request reached the provider")
	}
	return all[len(all)-1]
}

// reply is an answer read to its end.
type reply struct {
	status int
	header http.Header
	body   string
}

func (r reply) code() int {
	var e envelope
	if json.Unmarshal([]byte(r.body), &e) != nil || len(e.Error) != 1 {
		return -1
	}
	return e.Error[0].Code
}

// do sends a request; headers are name, value, name, value.
func (l *lab) do(method, url, body string, headers ...string) reply {
	l.t.Helper()
	req, err := http.NewRequestWithContext(context.Background(), method, url, strings.NewReader(body))
	if err != nil {
		l.t.Fatal(err)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	res, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		l.t.Fatal(err)
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	if err != nil {
		l.t.Fatal(err)
	}
	return reply{res.StatusCode, res.Header, string(raw)}
}

// post sends JSON with a provider's key to a path of the gateway.
func (l *lab) post(path, body string, headers ...string) reply {
	l.t.Helper()
	return l.do(http.MethodPost, l.url+path, body, append([]string{"Content-Type", "application/json", "Authorization", "Bearer sk-provider-key"}, headers...)...)
}

// logged waits until a request is in the log.
func (l *lab) logged(r reply) store.GatewayLog {
	l.t.Helper()
	id := r.header.Get("Cf-Aig-Log-Id")
	deadline := time.Now().Add(10 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for time.Now().Before(deadline) {
		if row, err := l.db.GatewayLog(context.Background(), "acc", "gw", mustUUID(l.t, id)); err == nil {
			return row
		}
		<-tick.C
	}
	l.t.Fatalf("request %s is not in the log", id)
	return store.GatewayLog{}
}

// scriptedWindows has room for some requests.
type scriptedWindows struct {
	mu      sync.Mutex
	room    int
	sliding atomic.Bool
}

func (s *scriptedWindows) Allow(_ context.Context, _ string, _ int64, _ time.Duration, sliding bool) (bool, time.Duration, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sliding.Store(sliding)
	s.room--
	return s.room >= 0, 1500 * time.Millisecond, nil
}
