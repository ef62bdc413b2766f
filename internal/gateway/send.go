package gateway

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// leg is one step made ready to be sent, and where the Run stands with it.
type leg struct {
	i        int
	step     *Step
	config   *StepConfig // the step's, filled up with the request's
	p        Provider
	local    server // of a built-in provider, which needs none of what follows
	url      *url.URL
	base     *url.URL
	body     json.RawMessage
	keys     *keyring
	tried    map[string]bool // keys that failed in this Run
	breaker  *breaker
	crowd    *crowd
	bounds   []Bound
	cacheKey string // "" when the answer is neither looked up nor kept
	ttl      time.Duration
	fresh    bool // don't look up
	onText   func(string)
	gave     bool // some text went to the caller: there is no way back
}

const cacheScope = "engine"

// leg makes a step ready. The error is the step's failure: it can't be sent at all.
func (e *Engine) leg(req *Request, i int) (*leg, *Error) {
	step := &req.Steps[i]
	l := &leg{i: i, step: step, config: step.Config.over(req.Options.Config), body: step.Query, onText: req.Options.OnText}
	l.p, _ = Lookup(step.Provider) // known: Request.check has looked
	if l.local = e.builtins[step.Provider]; l.local != nil {
		return l, nil
	}
	ep, fail := e.endpoint(l.p, step)
	if fail != nil {
		return l, fail
	}
	var endpoint string
	endpoint, l.body = asStream(step, &req.Options)
	if l.url, fail = addressOf(l.p, ep.base, endpoint); fail != nil {
		return l, fail
	}
	l.base, l.keys = ep.base, ep.keys
	l.breaker, l.crowd = e.breakers.get(step.Provider, step.Model), e.crowds.get(step.Provider, step.Model)
	if len(e.o.Limits) > 0 {
		for _, name := range [...]string{step.Provider, step.Provider + "/" + step.Model} {
			if limit, ok := e.o.Limits[name]; ok {
				l.bounds = append(l.bounds, Bound{name, limit})
			}
		}
	}
	if ttl := req.Options.cacheFor(); ttl > 0 && e.o.Cache != nil && l.onText == nil {
		l.ttl, l.fresh = ttl, req.Options.SkipCache
		scope := cacheScope + "/" + req.Options.Scope
		if req.Options.CacheKey != "" {
			l.cacheKey = CustomCacheKey(scope, req.Options.CacheKey)
		} else {
			// The whole address, because processes that share answers may have different hosts behind a slug. The operator's keys
			// are all one; a key that the step brings tells accounts apart.
			l.cacheKey = CacheKey(scope, step.Provider, l.url.String(), step.Model, step.header(reachOf(l.p).at(step.Endpoint).headerName()), step.Query)
		}
	}
	return l, nil
}

func (s *Step) header(name string) string {
	for have, value := range s.Headers {
		if http.CanonicalHeaderKey(have) == name {
			return value
		}
	}
	return ""
}

func (l *leg) blame(f *Error) { f.Step, f.Provider, f.Model = l.i, l.step.Provider, l.step.Model }

// otherKey reports whether the step may be sent again at once, because the failure was the key's and there is another.
func (l *leg) otherKey(c Class) bool {
	switch c {
	case Auth, Quota, RateLimited:
	default:
		return false
	}
	if l.keys == nil {
		return false
	}
	_, ok := l.keys.pick(time.Now(), l.wasTried)
	return ok
}

// noKey is the failure of a step all of whose keys are set aside. Its class is the keys': a rate limit passes in seconds,
// and must not look like a credential that is dead.
func (l *leg) noKey() *Error {
	fail, now := ours(codeNoKey, 0), time.Now()
	fail.RetryAfter = l.keys.until(now)
	switch why := l.keys.reason(now); why {
	case RateLimited, Quota:
		fail.Class = why
		fail.Message = message(verdict{class: why}, 0, codeNoKey)
	}
	l.blame(fail)
	return fail
}

func (l *leg) wasTried(name string) bool { return l.tried[name] }

// answer takes the step's answer from the cache, or asks for it; of identical requests at the same time one is sent.
func (e *Engine) answer(ctx context.Context, w *walk, l *leg, ledger Ledger) (*Response, *Error, error) {
	if l.cacheKey == "" {
		return e.try(ctx, w, l, ledger)
	}
	if l.fresh {
		resp, fail, err := e.try(ctx, w, l, ledger)
		e.keep(ctx, l, resp)
		return resp, fail, err
	}
	kept := e.o.Cache.Get(ctx, l.cacheKey)
	var done func(*Cached)
	if kept == nil {
		within, cancel := context.WithDeadlineCause(ctx, w.deadline, errTotal)
		defer cancel()
		var err error
		w.away() // another may be asking the same
		if kept, done, err = e.o.Cache.Lead(within, l.cacheKey); err != nil {
			return nil, nil, cmp.Or(w.over(ctx), err)
		}
	}
	if kept != nil {
		if resp, err := l.p.Decode(kept.Status, http.Header{}, kept.Body); err == nil && resp != nil {
			return e.hit(ctx, w, l, ledger, kept, resp)
		}
		return e.try(ctx, w, l, ledger) // stored by another version of us, say
	}
	resp, fail, err := e.try(ctx, w, l, ledger)
	done(e.keep(ctx, l, resp))
	return resp, fail, err
}

// keep puts a whole, good answer into the cache, and returns what it put.
func (e *Engine) keep(ctx context.Context, l *leg, resp *Response) *Cached {
	if resp == nil {
		return nil
	}
	if resp.Finish != FinishStop || blank(resp.Text) {
		return nil
	}
	c := &Cached{Status: http.StatusOK, ContentType: "application/json", Body: resp.Body, Provider: l.step.Provider, Model: resp.Model, Step: l.i}
	e.o.Cache.Put(ctx, l.cacheKey, c, l.ttl)
	return c
}

// hit answers from the cache. The ledger is told, as it is by a remote gateway: nothing is sent, and nothing costs.
func (e *Engine) hit(ctx context.Context, w *walk, l *leg, ledger Ledger, c *Cached, resp *Response) (*Response, *Error, error) {
	settle, err := ledger(ctx, Send{Step: l.i, Steps: 1, Tries: 1, Number: w.sends + 1})
	if err != nil {
		return nil, nil, err
	}
	w.sends++
	o := Outcome{Step: l.i, Provider: l.step.Provider, Model: cmp.Or(resp.Model, l.step.Model), Status: c.Status, Usage: resp.Usage,
		Finish: resp.Finish, CacheStatus: CacheHit}
	w.sent(Attempt{Model: l.step.Model}, &o)
	resp.Body = c.Body
	resp.Step, resp.Provider, resp.Model, resp.CacheStatus, resp.Sends, resp.Attempts = l.i, l.step.Provider, o.Model, CacheHit, w.sends, w.attempts
	return resp, nil, settle(context.WithoutCancel(ctx), o)
}

// try makes one send to one step. It returns the answer, or the step's failure, or what ends the Run: an error of the
// ledger or the cause of the caller's giving up. A settle that fails returns its error beside the answer, which is paid.
func (e *Engine) try(ctx context.Context, w *walk, l *leg, ledger Ledger) (resp *Response, fail *Error, err error) {
	if l.local != nil {
		if err := w.back(ctx); err != nil {
			return nil, nil, err
		}
		return e.send(ctx, w, l, Key{}, ledger)
	}
	var key Key
	if l.keys != nil {
		ok := false
		if key, ok = l.keys.pick(time.Now(), l.wasTried); !ok {
			fail = l.noKey()
			return nil, fail, nil
		}
	}
	// A place that comes when there is no time left for an answer is worse than none: the call would be cut, and paid.
	left := time.Until(w.deadline)
	pass, ok := l.crowd.tryEnter()
	if !ok {
		if held := l.crowd.held(); held > w.patience {
			err = errTotal
		} else {
			w.away()
			pass, err = l.crowd.enter(ctx, w.deadline.Add(-min(e.firstByte(l.config), left/2)))
		}
	}
	switch {
	case errors.Is(err, errTotal):
		fail = ours(codeCrowded, 0)
		fail.RetryAfter = l.crowd.held()
		l.blame(fail)
		return nil, fail, nil
	case err != nil:
		return nil, nil, err
	}
	class, latency := Cancelled, time.Duration(0) // until something was sent, nothing is known of the provider
	defer func() { l.crowd.leave(pass, class, latency) }()
	if err := w.back(ctx); err != nil {
		return nil, nil, err
	}
	if l.keys != nil && !l.keys.inUse(key.Name, time.Now()) { // refused while this call waited: all that wait would be refused, too
		ok := false
		if key, ok = l.keys.pick(time.Now(), l.wasTried); !ok {
			return nil, l.noKey(), nil
		}
	}
	trial, ok, wait := l.breaker.allow()
	if !ok {
		fail = ours(codeCircuitOpen, 0)
		fail.RetryAfter = wait
		l.blame(fail)
		return nil, fail, nil
	}
	defer func() { l.breaker.report(trial, class) }()
	// Last, because room that is taken ages: a call that waited for its place with it could be sent when it is gone.
	room, fail, err := e.reserve(ctx, w, l)
	if fail != nil || err != nil {
		return nil, fail, err
	}
	used := Amount{} // what was not sent is given back
	defer func() { e.giveBack(ctx, l, room, used) }()

	before := w.sends
	resp, fail, err = e.send(ctx, w, l, key, ledger)
	if w.sends == before {
		return resp, fail, err
	}
	class, latency, used = w.last.Class, w.last.Latency, e.used(l, &w.last, room.Amount)
	if key.Name != "" {
		e.reportKey(l, key, fail, class)
	}
	wait = w.dry // a window that is used up refuses the next call: better not to make it
	if fail != nil && fail.Class == RateLimited {
		wait = fail.RetryAfter
	}
	if wait > 0 && !l.keys.several() {
		l.crowd.hold(time.Now().Add(min(wait, e.o.Patience)))
	}
	return resp, fail, err
}

func (e *Engine) reportKey(l *leg, key Key, fail *Error, class Class) {
	var wait time.Duration
	if fail != nil {
		wait = fail.RetryAfter
	}
	if fail == nil || fail.Class != Auth || fail.Status != http.StatusForbidden { // a 403 may be about one model, not the key
		l.keys.report(key.Name, class, wait, time.Now())
	}
	switch class {
	case Auth, Quota, RateLimited:
		if l.tried == nil {
			l.tried = map[string]bool{}
		}
		l.tried[key.Name] = true
	}
}

const limiterRest = 5 * time.Second

// reserve takes room under the shared limits, waiting for it within our patience. A limiter that can't be reached
// doesn't stop the work: the provider has limits of its own.
func (e *Engine) reserve(ctx context.Context, w *walk, l *leg) (Reservation, *Error, error) {
	if len(l.bounds) == 0 {
		return Reservation{}, nil, nil
	}
	if time.Now().UnixNano() < e.limiterRest.Load() {
		return Reservation{}, nil, nil
	}
	for waited := time.Duration(0); ; {
		room, wait, err := e.o.Limiter.Reserve(ctx, l.bounds, l.step.Estimate)
		switch {
		case ctx.Err() != nil:
			return Reservation{}, nil, context.Cause(ctx)
		case err != nil:
			e.limiterRest.Store(time.Now().Add(limiterRest).UnixNano()) // else every call would wait for its time-out
			e.o.Log.WarnContext(ctx, "limits can't be reached, calls are made without for a while", "provider", l.step.Provider, "err", err)
			return Reservation{}, nil, nil
		case wait == 0:
			return room, nil, nil
		}
		if waited+wait > w.patience || time.Until(w.deadline) <= wait {
			fail := ours(codeLimit, 0)
			fail.RetryAfter = wait
			l.blame(fail)
			return Reservation{}, fail, nil
		}
		wait = spread(wait)
		waited += wait
		w.away()
		if err := sleep(ctx, wait); err != nil {
			return Reservation{}, nil, err
		}
		if err := w.back(ctx); err != nil {
			return Reservation{}, nil, err
		}
	}
}

// giveBack settles a reservation, also when the caller has given up.
func (e *Engine) giveBack(ctx context.Context, l *leg, room Reservation, used Amount) {
	if len(room.Bounds) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if err := e.o.Limiter.Settle(ctx, room, used); err != nil { // it ages out
		e.o.Log.WarnContext(ctx, "reservation not settled", "provider", l.step.Provider, "err", err)
	}
}

// used is what a send took of its reservation. One that may have been billed keeps all of it.
func (e *Engine) used(l *leg, o *Outcome, reserved Amount) Amount {
	switch {
	case o.Usage.Known:
		u := o.Usage
		a := Amount{Tokens: u.Input + u.CacheRead + u.CacheWrite + u.Output, MicroUSD: reserved.MicroUSD}
		if u.Cost > 0 {
			a.MicroUSD = u.Cost
		} else if e.o.Cost != nil {
			if cost, ok := e.o.Cost(l.step.Provider, l.step.Model, u); ok {
				a.MicroUSD = cost
			}
		}
		return a
	case o.Class == OK, o.Uncertain:
		return reserved
	}
	return Amount{}
}

// send makes the send, with every outcome told to the ledger.
func (e *Engine) send(ctx context.Context, w *walk, l *leg, key Key, ledger Ledger) (resp *Response, fail *Error, err error) {
	settle, err := ledger(ctx, Send{Step: l.i, Steps: 1, Tries: 1, Number: w.sends + 1})
	if err != nil {
		return nil, nil, err
	}
	w.sends++
	start := time.Now()
	x := w.unsent(ctx) // the ledger may have taken its time
	switch {
	case x.err != nil:
	case l.local != nil:
		limit, why := within(e.firstByte(l.config), w.deadline)
		var a served
		if a, x.err = l.local.serve(ctx, l.step.Query, limit); errors.Is(x.err, errFirstByte) {
			x.err = why
		}
		x.status, x.header, x.body, x.resp = a.status, a.header, a.body, a.resp
	default:
		x = e.exchange(ctx, w, l, key)
	}
	w.dry = 0
	if x.status/100 == 2 {
		w.dry = exhausted(readQuotas(x.header, time.Now()))
	}
	o := Outcome{Step: l.i, Provider: l.step.Provider, Model: l.step.Model, Latency: time.Since(start)}
	if l.cacheKey != "" {
		o.CacheStatus = CacheMiss
	}
	resp, fail = judge(ctx, l.p, x, &o)
	if fail != nil {
		scrub(fail, key.Value, l.step.Headers)
		o.Code = fail.Code
		l.blame(fail)
	} else if resp == nil {
		err = x.err
	}
	w.sent(Attempt{Model: l.step.Model, Key: key.Name}, &o)
	if resp != nil && fail == nil {
		resp.Step, resp.Provider, resp.Model, resp.Sends, resp.Attempts = l.i, l.step.Provider, o.Model, w.sends, w.attempts
		resp.CacheStatus = o.CacheStatus
		if l.onText != nil && !x.gave && resp.Text != "" {
			l.onText(resp.Text)
		}
	}
	l.gave = l.gave || x.gave
	if serr := settle(context.WithoutCancel(ctx), o); serr != nil {
		return resp, nil, serr
	}
	return resp, fail, err
}

// exchange sends over HTTP. A provider's promise is asked for until it is kept: all of that is one send.
func (e *Engine) exchange(ctx context.Context, w *walk, l *leg, key Key) exchange {
	c := call{
		rt: e.o.Transport, method: http.MethodPost, url: l.url, header: e.header(l, key), body: l.body,
		firstByte: e.firstByte(l.config), idle: e.o.IdleTimeout, deadline: w.deadline, limit: e.o.MaxAnswerBytes,
	}
	if l.onText != nil {
		c.stream = func(http.Header) *StreamReader { return NewStreamReader(l.step.Provider, l.onText) }
	}
	x := c.do(ctx)
	if f, ok := l.p.(follower); ok {
		x = c.follow(ctx, f, x, func(endpoint string) (*url.URL, *Error) { return addressOf(l.p, l.base, endpoint) })
	}
	return x
}

// Polling a promise: the pause grows from the first to the second by half each time.
const (
	firstPoll = 500 * time.Millisecond
	lastPoll  = 10 * time.Second
)

// follow asks for a promised answer until it is final. What fails on the way is asked for again until the deadline,
// because the work goes on, and is billed, without us.
func (c *call) follow(ctx context.Context, f follower, x exchange, at func(endpoint string) (*url.URL, *Error)) exchange {
	pause := firstPoll
	for x.err == nil {
		endpoint, ok := f.pending(x.status, x.body)
		if !ok {
			return x
		}
		u, fail := at(endpoint)
		if fail != nil {
			return x
		}
		get := *c
		get.method, get.url, get.body = http.MethodGet, u, nil
		get.header = c.header.Clone()
		get.header.Del("Content-Type")
		get.header.Del("Prefer")
		for {
			wait, why := min(spread(pause), time.Until(c.deadline)), error(nil)
			if why = sleep(ctx, wait); why == nil && time.Until(c.deadline) <= 0 {
				why = errTotal
			}
			if why != nil {
				return exchange{sent: true, promised: true, err: why}
			}
			pause = min(pause*3/2, lastPoll)
			next := get.do(ctx)
			next.promised = true
			if next.err == nil && (next.status/100 == 2 || !hasWait(next.status)) {
				x = next
				break
			}
			if ctx.Err() != nil || time.Until(c.deadline) <= 0 {
				next.sent = true
				return next
			}
		}
	}
	return x
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
		fail.Uncertain = fail.Uncertain || x.promised && x.status/100 != 2 // only the asking failed: the work goes on, and is billed
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
	resp, err = broken(resp, err, !x.cut, x.status)
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

func (e *Engine) firstByte(c *StepConfig) time.Duration {
	if c != nil && c.RequestTimeoutMS > 0 {
		return time.Duration(c.RequestTimeoutMS) * time.Millisecond
	}
	return e.o.Timeout
}

// header builds what goes upstream; the step's own headers win over ours.
func (e *Engine) header(l *leg, key Key) http.Header {
	h := make(http.Header, 4+len(l.step.Headers))
	h["User-Agent"] = []string{"batchwright"}
	nativeHeaders(l.p, l.step.Endpoint, key.Value, func(name, value string) { h[http.CanonicalHeaderKey(name)] = []string{value} })
	forwarded(h, l.step.Headers)
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
