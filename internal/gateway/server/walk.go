package server

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"time"

	faults "batchwright/internal/fault"
)

// step is one provider to ask. Its body is passed on byte for byte.
type step struct {
	provider string
	endpoint string // path and query below the provider, escaped
	method   string
	caller   http.Header // what the caller sent for the provider, and for the gateway
	body     []byte
	model    string // as asked for, where it is known
	chat     bool   // OpenAI's chat form at the provider's endpoint for it
	opts     options
	fault    *refusal  // why it can't be sent
	booked   []booking // of the route that led here

	// set by prepare
	target   target
	header   http.Header
	bookings []booking // of the gateway's spend rules
	secret   string    // the credential that goes upstream: part of the cache's key, and never to be logged
}

// errFirstByte is the cause of an attempt that took too long to begin.
var errFirstByte = errors.New("gateway server: no answer began in time")

// kept is a failed answer that is given to the caller when no step has a better one.
type kept struct {
	st     *step
	step   int
	status int
	header http.Header
	body   []byte
}

const (
	maxKept      = 1 << 20         // bytes of a failed answer; a larger one counts as none
	keepWithin   = 5 * time.Second // to read it, where the step has no shorter timeout
	defaultDelay = 100 * time.Millisecond
)

// pause is how long to wait after the failed attempt n, from 1. Cloudflare names the three growths and not their
// formulas: constant is the delay, linear is the delay times n, exponential the delay times 2 to the power n-1.
func (o *options) pause(n int) time.Duration {
	d := o.delay
	if d == 0 {
		d = defaultDelay
	}
	switch o.backoff {
	case "linear":
		d *= time.Duration(n)
	case "exponential":
		d <<= n - 1
	}
	return d
}

// walk asks the steps in order until one answers with 2xx. A step is tried as often as its options say, whatever its
// failure: Cloudflare documents no filter of statuses. After the first byte to the caller there is no other try.
//
// When all fail, the caller gets the last answer of a provider as it came, or, when none came, the gateway's own: the
// fault of the last step that couldn't be sent, or 2005. Cloudflare is silent here; both have been seen.
func (c *passage) walk() {
	for st, at := c.first(); st != nil; st, at = c.next() {
		if c.ask(st, at) {
			return
		}
	}
	if c.ctx.Err() != nil {
		c.gone()
		return
	}
	switch {
	case c.kept != nil:
		c.giveKept()
	case c.fault != nil:
		c.refuse(c.fault)
	default:
		c.refuse(&refusal{status: http.StatusBadRequest, code: aigNoAnswer, message: "no provider gave an answer"})
	}
}

// first and next go along a fixed chain, or along a route.
func (c *passage) first() (*step, int) {
	if c.route != nil {
		return c.routed(), 0
	}
	return &c.steps[0], 0
}

func (c *passage) next() (*step, int) {
	c.at++
	switch {
	case c.ctx.Err() != nil:
		return nil, 0
	case c.route != nil:
		return c.routed(), c.at
	case c.at >= len(c.steps):
		return nil, 0
	}
	return &c.steps[c.at], c.at
}

// ask sends one step, as often as it may, and reports whether the caller was answered, or is gone.
func (c *passage) ask(st *step, at int) bool {
	defer c.leave()
	if st.fault == nil {
		st.fault = c.prepare(st)
	}
	if st.fault == nil {
		var done bool
		if done, st.fault = c.beforeSend(st, at); done {
			return true
		}
	}
	if st.fault != nil && st.fault.final {
		c.failed = st
		c.refuse(st.fault)
		return true
	}
	if st.fault != nil {
		c.fault, c.failed = st.fault, st
		return false
	}
	attempts := max(st.opts.attempts, 1)
	for n := 1; ; n++ {
		final := n == attempts && c.isLast(at)
		timeout := st.opts.timeout
		if final && n > 1 {
			timeout = 0 // "the final attempt waits"; a single attempt isn't a retry, and its timeout holds
		}
		a, err := c.send(st, timeout, !final)
		switch {
		case err == nil && a.ok():
			c.relay(st, at, a)
			return true
		case c.ctx.Err() != nil:
			a.close()
			c.failed = st
			c.gone()
			return true
		case err == nil && final:
			c.relay(st, at, a)
			return true
		case err == nil:
			c.keep(st, at, a)
		default:
			c.s.o.Log.DebugContext(c.ctx, "attempt failed", "provider", st.provider, "step", at, "attempt", n, "error", err)
		}
		c.failed = st
		if n == attempts {
			return false
		}
		if !sleep(c.ctx, st.opts.pause(n)) {
			c.gone()
			return true
		}
	}
}

// beforeSend looks into the cache and then checks the request, in Cloudflare's order: a hit is checked no more. It reports
// whether the caller was answered.
func (c *passage) beforeSend(st *step, at int) (bool, *refusal) {
	if c.lookUp(st, at) {
		return true, nil
	}
	if f := c.checkSpend(st); f != nil {
		return false, f
	}
	return false, c.checkRequest(st)
}

func (c *passage) isLast(at int) bool {
	return c.route == nil && at == len(c.steps)-1 || c.route != nil && c.route.last()
}

// upstreamAnswer is a provider's answer on its way. first holds what was read of its body ahead of time.
type upstreamAnswer struct {
	*http.Response
	first  []byte
	cancel context.CancelCauseFunc
}

func (a *upstreamAnswer) ok() bool { return a.StatusCode/100 == 2 }

func (a *upstreamAnswer) close() {
	if a == nil {
		return
	}
	a.Body.Close()
	if a.cancel != nil {
		a.cancel(nil)
	}
}

// send makes one attempt. The timeout is to the first byte of the body where the body is worth waiting for: when there
// is something else to do if it doesn't come. An answer that is nil comes with an error.
func (c *passage) send(st *step, timeout time.Duration, more bool) (*upstreamAnswer, error) {
	ctx, a := c.ctx, &upstreamAnswer{}
	var timer *time.Timer
	if timeout > 0 || more {
		ctx, a.cancel = context.WithCancelCause(ctx)
	}
	if timeout > 0 {
		timer = time.AfterFunc(timeout, func() { a.cancel(errFirstByte) })
	}
	req := (&http.Request{
		Method: st.method, URL: st.target.url, Host: st.target.url.Host, Header: st.header,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
	}).WithContext(ctx)
	if len(st.body) > 0 {
		req.ContentLength = int64(len(st.body))
		req.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(st.body)), nil }
		req.Body, _ = req.GetBody()
	}
	faults.Point("before-upstream")
	res, err := c.s.transport.RoundTrip(req)
	faults.Point("after-upstream")
	if err == nil && (more || timeout > 0) && res.StatusCode/100 == 2 && res.StatusCode != http.StatusNoContent {
		a.first = make([]byte, 4096)
		var n int
		for n == 0 && err == nil {
			n, err = res.Body.Read(a.first)
		}
		a.first = a.first[:n]
		if n > 0 || errors.Is(err, io.EOF) {
			err = nil
		} else {
			res.Body.Close()
		}
	}
	if timer != nil && !timer.Stop() && err == nil { // it fired in the very last moment
		res.Body.Close()
		err = errFirstByte
	}
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		if a.cancel != nil {
			a.cancel(nil)
		}
		return nil, err
	}
	a.Response = res
	return a, nil
}

// keep reads a failed answer for the case that all fail. One that doesn't come to its end soon counts as none.
func (c *passage) keep(st *step, at int, a *upstreamAnswer) {
	defer a.close()
	within := keepWithin
	if st.opts.timeout > 0 {
		within = min(within, st.opts.timeout)
	}
	timer := time.AfterFunc(within, func() { a.cancel(errFirstByte) })
	defer timer.Stop()
	body, err := io.ReadAll(io.LimitReader(a.Body, maxKept+1))
	if err == nil && len(body) <= maxKept {
		c.kept = &kept{st: st, step: at, status: a.StatusCode, header: a.Header, body: body}
	}
}

// giveKept answers with the last failed answer.
func (c *passage) giveKept() {
	k := c.kept
	c.relay(k.st, k.step, &upstreamAnswer{Response: &http.Response{
		StatusCode: k.status, Header: k.header, ContentLength: int64(len(k.body)), Body: io.NopCloser(bytes.NewReader(k.body)),
	}})
}

// sleep waits and reports false when ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// decorate sets the gateway's headers of an answer. The step is nil when none was chosen.
func (c *passage) decorate(h http.Header, st *step, at int) {
	h["Cf-Aig-Step"] = stepNumber(at)
	id := []string{c.id}
	h["Cf-Aig-Log-Id"] = id
	h["Cf-Aig-Request-Id"] = id
	h["Cf-Aig-Event-Id"] = id
	event := c.opts.eventID
	if st != nil && st.opts.eventID != "" {
		event = st.opts.eventID
	}
	if event != "" {
		h["Cf-Aig-Event-Id"] = []string{event}
	}
	if c.dlp.action != "" {
		h["Cf-Aig-Dlp"] = []string{c.dlp.header()}
	}
}

var firstNumbers = [][]string{{"0"}, {"1"}, {"2"}, {"3"}}

func stepNumber(at int) []string {
	if at < len(firstNumbers) {
		return firstNumbers[at]
	}
	return []string{strconv.Itoa(at)}
}
