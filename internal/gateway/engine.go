package gateway

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"
)

// EngineOptions configure an Engine. The zero value serves the built-in providers only.
type EngineOptions struct {
	Endpoints      map[string]Endpoint // by provider slug
	Transport      http.RoundTripper   // default: the Engine's own, tuned for many calls to few hosts
	Proxy          func(*http.Request) (*url.URL, error)
	ConnectTimeout time.Duration // of the Engine's own transport; default 10 s
	Timeout        time.Duration // of one send to its first byte, where the step doesn't say; default 2 minutes
	IdleTimeout    time.Duration // between two pieces of an answer; default 1 minute
	Patience       time.Duration // the longest wait that a provider may ask for before its step is given up; default 30 s
	MaxAnswerBytes int64         // default 64 MiB

	Limits      map[string]Limit // a minute's, by slug or "slug/model"; they need a Limiter
	Limiter     Limiter
	Cost        func(provider, model string, u Usage) (microUSD int64, ok bool) // settles the dollars of a limit; default: as reserved
	Cache       *Cache                                                          // of whole answers; without one, a request's cache options have no effect
	Breaker     BreakerOptions
	Concurrency ConcurrencyOptions

	Simulator SimulatorOptions
	Log       *slog.Logger // default: none
}

// Endpoint is where a provider is reached and with what keys. An empty BaseURL is the provider's public one.
type Endpoint struct {
	BaseURL string
	Key     string // the only one
	Keys    []Key  // several, in the place of Key
}

// Engine walks chains in this process and talks to the providers directly. It is safe for concurrent use.
type Engine struct {
	o         EngineOptions
	endpoints map[string]endpoint
	builtins  map[string]server
	breakers  *breakers
	crowds    *crowds
	close     func()

	limiterRest atomic.Int64 // Unix nanoseconds: limits are left alone before, because they could not be reached
}

type endpoint struct {
	base *url.URL
	keys *keyring // nil without a key
}

// inProcess is a provider that runs here. The Engine calls its server where it would send over HTTP.
type inProcess interface {
	open(o *EngineOptions) server
}

// server answers one request as a provider's HTTP endpoint would. Its error is the cause of ctx's end, or errFirstByte
// when limit has passed.
type server interface {
	serve(ctx context.Context, body []byte, limit time.Duration) (served, error)
}

// served is a built-in provider's answer.
type served struct {
	status int
	header http.Header
	body   []byte
	resp   *Response // what decoding a good answer would give; may be nil
}

// NewEngine checks o against the registered providers.
func NewEngine(o EngineOptions) (*Engine, error) {
	e := &Engine{o: o, endpoints: map[string]endpoint{}, builtins: map[string]server{}, close: func() {}}
	for name, ep := range o.Endpoints {
		made, err := newEndpoint(name, ep)
		if err != nil {
			return nil, fmt.Errorf("gateway: %w", err)
		}
		e.endpoints[name] = made
	}
	for name := range o.Limits {
		slug, _, _ := strings.Cut(name, "/")
		if _, ok := Lookup(slug); !ok {
			return nil, fmt.Errorf("gateway: limit %q: %w", name, unknownProvider(slug))
		}
		if o.Limiter == nil {
			return nil, fmt.Errorf("gateway: limit %q: limits need something that shares them", name)
		}
	}
	for name, p := range providers {
		if b, ok := p.(inProcess); ok {
			e.builtins[name] = b.open(&e.o)
		}
	}
	if o.Transport == nil {
		t := newTransport(o.Proxy, cmp.Or(o.ConnectTimeout, defaultConnect))
		e.o.Transport, e.close = t, t.CloseIdleConnections
	}
	if o.Log == nil {
		e.o.Log = slog.New(slog.DiscardHandler)
	}
	e.o.Timeout = cmp.Or(o.Timeout, defaultByte)
	e.o.IdleTimeout = cmp.Or(o.IdleTimeout, defaultIdle)
	e.o.Patience = cmp.Or(o.Patience, defaultPatience)
	e.o.MaxAnswerBytes = cmp.Or(o.MaxAnswerBytes, defaultAnswerBytes)
	e.breakers, e.crowds = newBreakers(o.Breaker), newCrowds(o.Concurrency)
	return e, nil
}

func newEndpoint(name string, ep Endpoint) (endpoint, error) {
	p, ok := Lookup(name)
	if !ok {
		return endpoint{}, unknownProvider(name)
	}
	if Builtin(name) {
		return endpoint{}, fmt.Errorf("provider %q runs in this process and has no endpoint", name)
	}
	base := cmp.Or(ep.BaseURL, reachOf(p).base)
	if base == "" {
		return endpoint{}, fmt.Errorf("provider %q has no base URL configured", name)
	}
	u, err := parseBase(base)
	if err != nil {
		return endpoint{}, fmt.Errorf("provider %q: %w", name, err)
	}
	made := endpoint{base: u}
	keys := ep.Keys
	if key := strings.TrimSpace(ep.Key); key != "" && len(keys) == 0 {
		keys = []Key{{Value: key}}
	}
	if len(keys) > 0 {
		ring, err := newKeyring(keys)
		if err != nil {
			return endpoint{}, fmt.Errorf("provider %q: %w", name, err)
		}
		made.keys = ring
	}
	return made, nil
}

// Close closes idle connections. Runs that are under way are not touched.
func (e *Engine) Close() { e.close() }

// Check reports why a provider's steps can't be served, in words for an operator; nil when they can.
func (e *Engine) Check(provider string) error {
	p, ok := Lookup(provider)
	if !ok {
		return unknownProvider(provider)
	}
	if _, ok := e.builtins[provider]; ok {
		return nil
	}
	if _, err := e.endpoint(p, &Step{}); err != nil {
		return err
	}
	return nil
}

// endpoint returns where a provider is reached. A step that brings its own key needs none of ours.
func (e *Engine) endpoint(p Provider, step *Step) (endpoint, *Error) {
	ep, ok := e.endpoints[p.Name()]
	r := reachOf(p).at(step.Endpoint)
	if !ok && r.base != "" {
		u, err := parseBase(r.base)
		if err != nil {
			return ep, notConfigured("provider %q: %v", p.Name(), err)
		}
		ep.base = u
	}
	if ep.base == nil {
		return ep, notConfigured("provider %q has no base URL configured", p.Name())
	}
	if step.header(r.headerName()) != "" {
		ep.keys = nil
		return ep, nil
	}
	if ep.keys == nil && !r.keyless {
		return ep, notConfigured("provider %q has no API key configured", p.Name())
	}
	return ep, nil
}

func notConfigured(format string, args ...any) *Error {
	return &Error{Class: Auth, Code: codeNotConfigured, Message: fmt.Sprintf(format, args...)}
}

// Run implements Gateway. Each send goes to one step: Send.Steps and Send.Tries are 1.
func (e *Engine) Run(ctx context.Context, req *Request, ledger Ledger) (*Response, error) {
	if err := req.check(); err != nil {
		return nil, err
	}
	if ledger == nil {
		ledger = NoLedger
	}
	w := newWalk(&req.Options, e.o.Patience)
	for i := range req.Steps {
		l, fail := e.leg(req, i)
		if fail != nil {
			l.blame(fail)
			w.failed(fail)
			continue
		}
		resp, done, err := e.walk(ctx, w, l, ledger)
		if done {
			return resp, err
		}
	}
	if ctx.Err() != nil { // in the pause after the last failure
		return nil, context.Cause(ctx)
	}
	return nil, w.err()
}

// walk tries one step, from the cache first, until it answers or is given up. It reports whether the Run is over.
func (e *Engine) walk(ctx context.Context, w *walk, l *leg, ledger Ledger) (resp *Response, done bool, err error) {
	attempts := l.config.attempts()
	for try := 1; ; {
		if err := w.over(ctx); err != nil {
			return nil, true, err
		}
		resp, fail, err := e.answer(ctx, w, l, ledger)
		if fail == nil {
			return resp, true, err
		}
		w.failed(fail)
		e.o.Log.DebugContext(ctx, "step failed", "step", l.i, "provider", l.step.Provider, "model", l.step.Model, "try", try,
			"class", fail.Class, "status", fail.Status, "code", fail.Code, "error", fail.Err)
		if !fail.Class.NextStep() || l.gave {
			return nil, true, w.wrap(fail)
		}
		if fail.Status == 0 { // else the code is a provider's, which may have the same
			switch fail.Code {
			case codeCircuitOpen, codeLimit, codeCrowded: // nothing was sent, and waiting here would help nobody
				return nil, false, nil
			}
		}
		if l.otherKey(fail.Class) { // not this step's fault: a try of another key is no retry
			continue
		}
		if !w.pause(ctx, l.config, try, attempts, fail) {
			return nil, false, nil
		}
		l.tried = nil // what refused for its rate may take it now
		try++
	}
}

// check finds what no gateway would take.
func (r *Request) check() error {
	if r == nil || len(r.Steps) == 0 {
		return invalid("no_steps", "the request has no steps")
	}
	for i := range r.Steps {
		s := &r.Steps[i]
		err := s.Config.check()
		switch _, ok := Lookup(s.Provider); {
		case !ok:
			err = unknownProvider(s.Provider)
		case len(s.Query) == 0:
			err = invalid("no_query", "the step has no query")
		}
		if err != nil {
			err.Step, err.Provider, err.Model = i, s.Provider, s.Model
			return err
		}
	}
	if err := r.Options.check(); err != nil {
		return err
	}
	return nil
}
