// Package gatewaytest scripts providers, for tests of whatever calls a gateway.
//
// A [Script] plays answers in a provider's place, without a network, so that tests of retries and deadlines run in the
// fake time of testing/synctest. [Universal] is a server that checks what it is sent against Cloudflare's protocol.
// [Book] is a ledger that remembers, and [Conform] the suite that every Gateway must pass.
package gatewaytest

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"batchwright/internal/gateway"
)

// Answer is one scripted HTTP answer.
type Answer struct {
	Status int // default 200
	Header http.Header
	Body   string
	Delay  time.Duration // before the answer's first byte
	Hang   bool          // no answer until the caller gives up
	Err    error         // the connection fails after the request was sent
	Unsent bool          // with Err: it fails before
	Cut    bool          // the connection breaks after the body, which was announced longer
}

// Text answers in the OpenAI chat form: 10 tokens in, 2 out.
func Text(s string) Answer {
	quoted, _ := json.Marshal(s)
	return Answer{Body: `{"model":"m-1","choices":[{"message":{"role":"assistant","content":` + string(quoted) +
		`},"finish_reason":"stop"}],"usage":{"prompt_tokens":10,"completion_tokens":2,"total_tokens":12}}`}
}

// Fail answers with an OpenAI error. The code may be empty.
func Fail(status int, code string) Answer {
	quoted, _ := json.Marshal(code)
	return Answer{Status: status, Body: `{"error":{"message":"SECRET PROMPT ECHO","type":"","param":null,"code":` + string(quoted) + `}}`}
}

// After adds a Retry-After header.
func (a Answer) After(value string) Answer {
	a.Header = a.Header.Clone()
	if a.Header == nil {
		a.Header = http.Header{}
	}
	a.Header.Set("Retry-After", value)
	return a
}

// Call is one request that reached a Script.
type Call struct {
	Provider string
	Path     string // with the query
	Header   http.Header
	Body     string
}

// Script is an http.RoundTripper that plays answers per provider, the last one for ever. The provider is the first
// label of the host: https://openai.test/v1.
type Script struct {
	mu      sync.Mutex
	answers map[string][]Answer
	calls   []Call
}

// NewScript returns a script.
func NewScript(answers map[string][]Answer) *Script {
	s := &Script{answers: map[string][]Answer{}}
	for name, a := range answers {
		s.answers[name] = slices.Clone(a)
	}
	return s
}

// NewEngine returns an engine whose providers are the script's, with the key "key-of-PROVIDER".
func NewEngine(t testing.TB, s *Script) *gateway.Engine {
	t.Helper()
	o := gateway.EngineOptions{Transport: s, Endpoints: map[string]gateway.Endpoint{}}
	for name := range s.answers {
		if name != AtGateway && !gateway.Builtin(name) {
			o.Endpoints[name] = gateway.Endpoint{BaseURL: "https://" + name + ".test/v1", Key: "key-of-" + name}
		}
	}
	e, err := gateway.NewEngine(o)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// Calls returns what came in, in order.
func (s *Script) Calls() []Call {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.calls)
}

// Providers returns the providers that were called, in order.
func (s *Script) Providers() []string {
	var names []string
	for _, c := range s.Calls() {
		names = append(names, c.Provider)
	}
	return names
}

// next notes a call and returns its answer.
func (s *Script) next(c Call) (Answer, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	q := s.answers[c.Provider]
	if len(q) == 0 {
		return Answer{}, false
	}
	s.calls = append(s.calls, c)
	if len(q) > 1 {
		s.answers[c.Provider] = q[1:]
	}
	return q[0], true
}

// RoundTrip implements http.RoundTripper.
func (s *Script) RoundTrip(r *http.Request) (*http.Response, error) {
	provider, _, _ := strings.Cut(r.URL.Hostname(), ".")
	a, ok := s.peek(provider)
	if ok && a.Err != nil && a.Unsent {
		s.next(Call{Provider: provider})
		return nil, a.Err
	}
	var body []byte
	if r.Body != nil {
		var err error
		if body, err = io.ReadAll(r.Body); err != nil {
			return nil, err
		}
	}
	a, ok = s.next(Call{provider, r.URL.RequestURI(), r.Header.Clone(), string(body)})
	if !ok {
		return nil, errors.New("gatewaytest: no answer for " + provider)
	}
	return a.play(r)
}

func (s *Script) peek(provider string) (Answer, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if q := s.answers[provider]; len(q) > 0 {
		return q[0], true
	}
	return Answer{}, false
}

// play answers one request.
func (a Answer) play(r *http.Request) (*http.Response, error) {
	if a.Hang {
		<-r.Context().Done()
		return nil, r.Context().Err()
	}
	if a.Delay > 0 {
		t := time.NewTimer(a.Delay)
		defer t.Stop()
		select {
		case <-t.C:
		case <-r.Context().Done():
			return nil, r.Context().Err()
		}
	}
	if a.Err != nil {
		return nil, a.Err
	}
	h := a.Header.Clone()
	if h == nil {
		h = http.Header{}
	}
	body, size := io.Reader(strings.NewReader(a.Body)), int64(len(a.Body))
	if a.Cut {
		body, size = io.MultiReader(body, broken{}), size+100
	}
	status := a.Status
	if status == 0 {
		status = http.StatusOK
	}
	return &http.Response{
		StatusCode: status, Status: http.StatusText(status), Header: h, ContentLength: size,
		Body: io.NopCloser(body), Request: r, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
	}, nil
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

// Through is an http.RoundTripper that calls a handler in this process.
func Through(h http.Handler) http.RoundTripper { return through{h} }

type through struct{ h http.Handler }

func (t through) RoundTrip(r *http.Request) (*http.Response, error) {
	w := httptest.NewRecorder()
	in := r.Clone(r.Context())
	in.RequestURI = r.URL.RequestURI()
	failed := false
	func() {
		defer func() {
			if v := recover(); v != nil {
				if v != http.ErrAbortHandler {
					panic(v)
				}
				failed = true
			}
		}()
		t.h.ServeHTTP(w, in)
	}()
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	if failed {
		return nil, io.ErrUnexpectedEOF
	}
	return w.Result(), nil
}
