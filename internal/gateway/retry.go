package gateway

import (
	"context"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"time"
)

const (
	defaultBase     = 500 * time.Millisecond
	defaultPatience = 30 * time.Second
	maxBackoff      = 30 * time.Second
	maxWait         = 24 * time.Hour // a longer hint is taken for a mistake
	defaultTotal    = 5 * time.Minute
	defaultByte     = 2 * time.Minute
	defaultIdle     = time.Minute
	defaultConnect  = 10 * time.Second
)

// delay is the pause after the failed try number try (from 1). A wait that the provider asked for wins; it grows by
// up to a tenth so that many callers don't return at once. A step that configures its delay gets it plus the same
// tenth, never less: a server that speaks the protocol must not be earlier than told. Else the pause is exponential
// with full jitter.
func delay(c *StepConfig, try int, hint time.Duration) time.Duration {
	if hint > 0 {
		return spread(hint)
	}
	if c == nil || c.RetryDelayMS == 0 && c.Backoff == "" {
		return rand.N(min(defaultBase<<min(try-1, 10), maxBackoff)) + 1
	}
	base := time.Duration(c.RetryDelayMS) * time.Millisecond
	if base == 0 {
		base = defaultBase
	}
	switch c.Backoff {
	case "linear":
		base *= time.Duration(try)
	case "exponential", "":
		base <<= min(try-1, 10)
	}
	return spread(min(base, maxBackoff))
}

func spread(d time.Duration) time.Duration { return d + rand.N(min(d/10, time.Second)+1) }

// sleep waits, or returns the cause of ctx's end.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}

// walk is where a Run stands: the tries of one step or of one remote request, what failed worst, and how long it may
// still take. The engine and the Cloudflare client share it.
type walk struct {
	deadline time.Time
	patience time.Duration
	place    Place  // nil when the caller has none
	best     *Error // what to return when all fails
	unsure   bool   // some send may have been billed
	sends    int
	attempts []Attempt
	last     Outcome       // of the last send
	dry      time.Duration // until a window of the provider's opens again that the last answer said is used up
}

func newWalk(o *Options, patience time.Duration) *walk {
	total := o.Timeout
	if total <= 0 {
		total = defaultTotal
	}
	if o.Patience > 0 {
		patience = min(patience, o.Patience)
	}
	return &walk{deadline: time.Now().Add(total), patience: patience, place: o.Place}
}

// away gives the caller's place up for a wait, and back takes it again.
func (w *walk) away() {
	if w.place != nil {
		w.place.Leave()
	}
}

func (w *walk) back(ctx context.Context) error {
	if w.place == nil {
		return nil
	}
	return w.place.Enter(ctx)
}

// sent notes one send.
func (w *walk) sent(a Attempt, o *Outcome) {
	a.Step, a.Provider, a.Class, a.Status, a.Code, a.Latency = o.Step, o.Provider, o.Class, o.Status, o.Code, o.Latency
	w.attempts, w.last = append(w.attempts, a), *o
}

// failed notes e. The error that gives most hope is kept: one that time may heal before one that it won't, the
// shorter wait before the longer, else the last.
func (w *walk) failed(e *Error) {
	w.unsure = w.unsure || e.Uncertain
	w.best = better(w.best, e)
}

func better(old, e *Error) *Error {
	if old == nil || !old.Class.Retryable() {
		return e
	}
	if !e.Class.Retryable() || e.RetryAfter > old.RetryAfter && old.RetryAfter > 0 {
		return old
	}
	return e
}

// err is what the Run returns when no step answered.
func (w *walk) err() *Error { return w.wrap(w.best) }

func (w *walk) wrap(e *Error) *Error {
	e.Uncertain, e.Attempts = e.Uncertain || w.unsure, w.attempts
	return e
}

// over returns what ends the Run when time is up: the cause of the caller's giving up, or, past our own deadline, the
// failure that was being retried.
func (w *walk) over(ctx context.Context) error {
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case time.Until(w.deadline) > 0:
		return nil
	case w.best == nil:
		return ours(codeDeadline, 0)
	}
	return w.err()
}

// unsent is the exchange of a send that must not begin any more; its err is nil when it may.
func (w *walk) unsent(ctx context.Context) (x exchange) {
	switch {
	case ctx.Err() != nil:
		x.err = context.Cause(ctx)
	case time.Until(w.deadline) <= 0:
		x.err = errTotal
	}
	return x
}

// pause waits before the next try of the same step. It reports false when the step should be given up instead: the
// class forbids another try, the wait is over our patience or the deadline, or ctx ended.
func (w *walk) pause(ctx context.Context, c *StepConfig, try, attempts int, e *Error) bool {
	if !e.Class.Retryable() || try >= attempts || e.RetryAfter > w.patience {
		return false
	}
	d := delay(c, try, e.RetryAfter)
	if time.Until(w.deadline) <= d {
		return false
	}
	w.away()
	return sleep(ctx, d) == nil
}

// retryAfter reads how long an answer asks us to wait; 0 when it doesn't say, or says something absurd. For a rate
// limit without Retry-After it takes the reset of the window that is used up, whatever the provider's headers for that.
func retryAfter(status int, h http.Header, now time.Time) time.Duration {
	if !hasWait(status) {
		return 0
	}
	if v := h.Get("Retry-After-Ms"); v != "" {
		if ms, err := strconv.ParseFloat(strings.TrimSpace(v), 64); err == nil {
			if d, ok := sane(ms * float64(time.Millisecond)); ok {
				return d
			}
		}
	}
	if d, ok := parseWait(h.Get("Retry-After"), now); ok {
		return d
	}
	if status != http.StatusTooManyRequests {
		return 0
	}
	return exhausted(readQuotas(h, now))
}

// parseWait reads any form that providers use: seconds as an integer or a float, a Go duration such as "6m0s", RFC
// 3339, an HTTP date, or an epoch in seconds or milliseconds. Negative, zero and over a day are unknown.
func parseWait(s string, now time.Time) (time.Duration, bool) {
	s = strings.TrimSpace(s)
	if s == "" || len(s) > 64 {
		return 0, false
	}
	if f, err := strconv.ParseFloat(s, 64); err == nil {
		switch {
		case f >= 1e12: // epoch in milliseconds
			return until(time.UnixMilli(int64(min(f, 1e15))), now)
		case f >= 1e9: // epoch in seconds
			return until(time.Unix(int64(f), 0), now)
		}
		return sane(f * float64(time.Second))
	}
	if d, err := time.ParseDuration(s); err == nil {
		return sane(float64(d))
	}
	if t, err := time.Parse(time.RFC3339, s); err == nil {
		return until(t, now)
	}
	if t, err := http.ParseTime(s); err == nil {
		return until(t, now)
	}
	return 0, false
}

func until(t, now time.Time) (time.Duration, bool) {
	if now.IsZero() {
		return 0, false
	}
	return sane(float64(t.Sub(now)))
}

func sane(ns float64) (time.Duration, bool) {
	if !(ns > 0 && ns <= float64(maxWait)) { // NaN fails both
		return 0, false
	}
	return max(time.Duration(ns), 1), true
}
