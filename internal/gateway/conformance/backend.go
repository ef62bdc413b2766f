package conformance

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// The providers of the suite. Each has the key that [Key] returns.
const (
	First   = "openai"
	Second  = "groq"
	Third   = "mistral"
	Refused = "deepseek" // nothing listens there
	NoHost  = "cerebras" // its host's name doesn't resolve
)

// Providers are all of them.
var Providers = []string{First, Second, Third, Refused, NoHost}

// Key is the provider's key.
func Key(provider string) string { return "sk-test-" + provider + "-4f1c9a" }

// patience bounds every wait of a test for something that must happen; it is long because machines are loaded.
const patience = 30 * time.Second

// Hit is one request that reached a Backend.
type Hit struct {
	Provider string
	Method   string
	URI      string // below the provider's base, with the query
	Header   http.Header
	Body     string
	At       time.Time // when the body had come
}

// Backend is a provider over HTTP on loopback. It plays answers per provider in order, the last one for ever, and
// remembers what it was sent.
type Backend struct {
	server  *httptest.Server
	refused string
	closing chan struct{}

	mu      sync.Mutex
	answers map[string][]Answer
	hits    []Hit
	gone    int           // requests whose caller left before the answer's end
	changed chan struct{} // closed and replaced when hits or gone grow
}

// NewBackend starts one, which ends with the test.
func NewBackend(t testing.TB) *Backend {
	t.Helper()
	b := &Backend{answers: map[string][]Answer{}, closing: make(chan struct{}), changed: make(chan struct{})}
	// A port that was just given back is nobody's for a while.
	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // loopback
	if err != nil {
		t.Fatal(err)
	}
	b.refused = "http://" + l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	b.server = httptest.NewServer(b)
	t.Cleanup(func() {
		close(b.closing)
		b.server.Close()
	})
	return b
}

// Base is the base URL of a provider, which ends in its version.
func (b *Backend) Base(provider string) string {
	switch provider {
	case Refused:
		return b.refused + "/v1"
	case NoHost:
		return "http://nowhere.invalid/v1"
	}
	return b.server.URL + "/" + provider + "/v1"
}

// Play sets what a provider answers from now on.
func (b *Backend) Play(provider string, answers ...Answer) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.answers[provider] = answers
}

// Hits returns what came in, in order.
func (b *Backend) Hits() []Hit {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.hits)
}

// Providers returns who was asked, in order.
func (b *Backend) Providers() []string {
	var names []string
	for _, h := range b.Hits() {
		names = append(names, h.Provider)
	}
	return names
}

// Await waits until n requests have come.
func (b *Backend) Await(t testing.TB, n int) {
	t.Helper()
	b.await(t, "requests", n, func() int { return len(b.hits) })
}

// AwaitGone waits until the callers of n requests have left before the end of their answers.
func (b *Backend) AwaitGone(t testing.TB, n int) {
	t.Helper()
	b.await(t, "callers gone", n, func() int { return b.gone })
}

func (b *Backend) await(t testing.TB, what string, n int, count func() int) {
	t.Helper()
	late := time.NewTimer(patience)
	defer late.Stop()
	for {
		b.mu.Lock()
		have, changed := count(), b.changed
		b.mu.Unlock()
		if have >= n {
			return
		}
		select {
		case <-changed:
		case <-late.C:
			t.Fatalf("%d %s after %v, want %d", have, what, patience, n)
		}
	}
}

// note changes b under its lock and wakes who waits.
func (b *Backend) note(change func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	change()
	close(b.changed)
	b.changed = make(chan struct{})
}

// ServeHTTP implements http.Handler.
func (b *Backend) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	provider, rest, _ := strings.Cut(strings.TrimPrefix(r.URL.RequestURI(), "/"), "/")
	a := b.next(provider)
	if a == nil {
		http.Error(w, "the test has no answer for "+provider, http.StatusNotImplemented)
		return
	}
	var body bytes.Buffer
	if !a.unread {
		if _, err := io.Copy(&body, r.Body); err != nil {
			b.note(func() { b.gone++ })
			return
		}
	}
	r.Body = io.NopCloser(bytes.NewReader(body.Bytes()))
	b.note(func() {
		b.hits = append(b.hits, Hit{provider, r.Method, "/" + rest, r.Header.Clone(), body.String(), time.Now()})
	})
	defer func() {
		if r.Context().Err() != nil {
			b.note(func() { b.gone++ })
		}
	}()
	a.play(b, w, r)
}

func (b *Backend) next(provider string) *Answer {
	b.mu.Lock()
	defer b.mu.Unlock()
	q := b.answers[provider]
	if len(q) == 0 {
		return nil
	}
	if len(q) > 1 {
		b.answers[provider] = q[1:]
	}
	return &q[0]
}

// pause waits for d, or for ever when d is 0. It reports false when the caller or the test ended first.
func (b *Backend) pause(r *http.Request, d time.Duration) bool {
	var passed <-chan time.Time
	if d > 0 {
		t := time.NewTimer(d)
		defer t.Stop()
		passed = t.C
	}
	select {
	case <-passed:
		return true
	case <-r.Context().Done():
	case <-b.closing:
	}
	return false
}
