package gateway

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// EngineOptions configure an Engine. The zero value serves the built-in providers only.
type EngineOptions struct {
	Endpoints      map[string]Endpoint // by provider slug
	Transport      http.RoundTripper   // default: the Engine's own, tuned for many calls to few hosts
	Proxy          func(*http.Request) (*url.URL, error)
	Timeout        time.Duration // of one send to its first byte, where the step doesn't say; default 2 minutes
	Patience       time.Duration // the longest wait that a provider may ask for before its step is given up; default 30 s
	MaxAnswerBytes int64         // default 64 MiB
	Simulator      SimulatorOptions
	Log            *slog.Logger // default: none
}

// Endpoint is where a provider is reached and with what key. An empty BaseURL is the provider's public one.
type Endpoint struct {
	BaseURL string
	Key     string
}

// Engine walks chains in this process and talks to the providers directly. It is safe for concurrent use.
type Engine struct {
	o         EngineOptions
	endpoints map[string]endpoint
	builtins  map[string]server
	close     func()
}

type endpoint struct {
	base *url.URL
	key  string
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
		p, ok := Lookup(name)
		if !ok {
			return nil, fmt.Errorf("gateway: %w", unknownProvider(name))
		}
		if Builtin(name) {
			return nil, fmt.Errorf("gateway: provider %q runs in this process and has no endpoint", name)
		}
		base := cmp.Or(ep.BaseURL, reachOf(p).base)
		if base == "" {
			return nil, fmt.Errorf("gateway: provider %q has no base URL configured", name)
		}
		u, err := parseBase(base)
		if err != nil {
			return nil, fmt.Errorf("gateway: provider %q: %w", name, err)
		}
		e.endpoints[name] = endpoint{u, strings.TrimSpace(ep.Key)}
	}
	for name, p := range providers {
		if b, ok := p.(inProcess); ok {
			e.builtins[name] = b.open(&e.o)
		}
	}
	if o.Transport == nil {
		t := newTransport(o.Proxy)
		e.o.Transport, e.close = t, t.CloseIdleConnections
	}
	if o.Log == nil {
		e.o.Log = slog.New(slog.DiscardHandler)
	}
	e.o.Timeout = cmp.Or(o.Timeout, defaultByte)
	e.o.Patience = cmp.Or(o.Patience, defaultPatience)
	e.o.MaxAnswerBytes = cmp.Or(o.MaxAnswerBytes, defaultAnswerBytes)
	return e, nil
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
	if _, err := e.endpoint(p, nil); err != nil {
		return err
	}
	return nil
}

// endpoint returns where a provider is reached. A step that brings its own key needs none of ours.
func (e *Engine) endpoint(p Provider, headers map[string]string) (endpoint, *Error) {
	ep, ok := e.endpoints[p.Name()]
	r := reachOf(p)
	if !ok {
		if r.base == "" {
			return ep, notConfigured("provider %q has no base URL configured", p.Name())
		}
		u, err := parseBase(r.base)
		if err != nil {
			return ep, notConfigured("provider %q: %v", p.Name(), err)
		}
		ep.base = u
	}
	if ep.key != "" || r.keyless {
		return ep, nil
	}
	for name := range headers {
		if http.CanonicalHeaderKey(name) == r.headerName() {
			return ep, nil
		}
	}
	return ep, notConfigured("provider %q has no API key configured", p.Name())
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
	w := newWalk(req.Options.Timeout, e.o.Patience)
	for i := range req.Steps {
		step := &req.Steps[i]
		attempts := step.Config.attempts()
		for try := 1; ; try++ {
			if err := w.over(ctx); err != nil {
				return nil, err
			}
			resp, fail, err := e.try(ctx, w, i, step, ledger)
			if fail == nil {
				return resp, err
			}
			w.failed(fail)
			e.o.Log.DebugContext(ctx, "step failed", "step", i, "provider", step.Provider, "model", step.Model, "try", try,
				"class", fail.Class, "status", fail.Status, "code", fail.Code, "error", fail.Err)
			if !fail.Class.NextStep() {
				return nil, w.wrap(fail)
			}
			if !w.pause(ctx, step.Config, try, attempts, fail) {
				break
			}
		}
	}
	return nil, w.err()
}

// try makes one send to one step. It returns the answer, or the step's failure, or what ends the Run: an error of the
// ledger or the cause of the caller's giving up. A settle that fails returns its error beside the answer, which is paid.
func (e *Engine) try(ctx context.Context, w *walk, i int, step *Step, ledger Ledger) (resp *Response, fail *Error, err error) {
	p, ok := Lookup(step.Provider)
	if !ok { // unreachable after Request.check
		return nil, unknownProvider(step.Provider), nil
	}
	blame := func(f *Error) { f.Step, f.Provider, f.Model = i, step.Provider, step.Model }
	local, isLocal := e.builtins[step.Provider]
	var ep endpoint
	var u *url.URL
	var h http.Header
	if !isLocal {
		if ep, fail = e.endpoint(p, step.Headers); fail != nil {
			blame(fail)
			return nil, fail, nil
		}
		if u, fail = join(ep.base, step.Endpoint); fail != nil {
			blame(fail)
			return nil, fail, nil
		}
		h = e.header(p, ep, step)
	}
	settle, err := ledger(ctx, Send{Step: i, Steps: 1, Tries: 1, Number: w.sends + 1})
	if err != nil {
		return nil, nil, err
	}
	w.sends++
	start := time.Now()
	x := w.unsent(ctx) // the ledger may have taken its time
	switch {
	case x.err != nil:
	case isLocal:
		limit, why := within(e.firstByte(step), w.deadline)
		var a served
		if a, x.err = local.serve(ctx, step.Query, limit); errors.Is(x.err, errFirstByte) {
			x.err = why
		}
		x.status, x.header, x.body, x.resp = a.status, a.header, a.body, a.resp
	default:
		x = post(ctx, e.o.Transport, u, h, step.Query, e.firstByte(step), w.deadline, e.o.MaxAnswerBytes)
	}
	o := Outcome{Step: i, Provider: step.Provider, Model: step.Model, Latency: time.Since(start)}
	resp, fail = judge(ctx, p, x, &o)
	if fail != nil {
		scrub(fail, ep.key, step.Headers)
		o.Code = fail.Code
		blame(fail)
	} else if resp != nil {
		resp.Step, resp.Provider, resp.Model, resp.Sends = i, step.Provider, o.Model, w.sends
	} else {
		err = x.err
	}
	if serr := settle(context.WithoutCancel(ctx), o); serr != nil {
		return resp, nil, serr
	}
	return resp, fail, err
}

// judge reads an exchange: an answer, a step's failure, or neither when the caller gave up. It fills the outcome.
func judge(ctx context.Context, p Provider, x exchange, o *Outcome) (*Response, *Error) {
	o.Status = x.status
	var resp *Response
	var fail *Error
	if x.err != nil && (x.status == 0 || x.status/100 == 2) {
		if fail = x.failure(ctx); fail == nil {
			o.Class, o.Uncertain = Cancelled, x.sent
			return nil, nil
		}
	} else {
		resp, fail = decode(p, x)
	}
	if resp != nil {
		o.Usage, o.Finish, o.Model = resp.Usage, resp.Finish, cmp.Or(resp.Model, o.Model)
	}
	if fail != nil {
		o.Class, o.Code, o.Uncertain = fail.Class, fail.Code, fail.Uncertain
		return nil, fail
	}
	return resp, nil
}

// decode calls the provider and holds it to its contract.
func decode(p Provider, x exchange) (*Response, *Error) {
	if x.resp != nil {
		x.resp.Body = x.body
		return x.resp, nil
	}
	resp, err := p.Decode(x.status, x.header, x.body)
	if err != nil {
		fail, ok := errors.AsType[*Error](err)
		if !ok {
			fail = &Error{Class: Unknown, Status: x.status, Message: message(verdict{class: Unknown}, x.status, ""), Err: err}
		}
		if fail.RetryAfter == 0 {
			fail.RetryAfter = retryAfter(x.status, x.header, time.Now())
		}
		return resp, fail
	}
	if resp == nil {
		return nil, ours(codeInvalidAnswer, x.status)
	}
	resp.Body = json.RawMessage(trim(x.body))
	return resp, nil
}

func (e *Engine) firstByte(step *Step) time.Duration {
	if step.Config != nil && step.Config.RequestTimeoutMS > 0 {
		return time.Duration(step.Config.RequestTimeoutMS) * time.Millisecond
	}
	return e.o.Timeout
}

// header builds what goes upstream; the step's own headers win over ours.
func (e *Engine) header(p Provider, ep endpoint, step *Step) http.Header {
	h := make(http.Header, 4+len(step.Headers))
	h["Content-Type"] = []string{"application/json"}
	h["User-Agent"] = []string{"batchwright"}
	reachOf(p).at(step.Endpoint).authorize(func(name, value string) { h[http.CanonicalHeaderKey(name)] = []string{value} }, ep.key)
	forwarded(h, step.Headers)
	return h
}

// scrub drops a code that holds a secret of ours: a hostile or broken server may echo what it was sent.
func scrub(e *Error, key string, headers map[string]string) {
	leaks := func(s string) bool { return len(s) >= 4 && strings.Contains(e.Code, s) }
	found := leaks(key)
	for _, v := range headers {
		for part := range strings.FieldsSeq(v) {
			found = found || leaks(part)
		}
	}
	if found {
		e.Code = ""
		e.Message = message(verdict{class: e.Class}, e.Status, "")
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
	return nil
}
