package conformance

import (
	"context"
	"errors"
	"testing"
	"time"

	"batchwright/internal/gateway"
)

func timeCases() []Case {
	return []Case{
		{Name: "no first byte in time goes to the next step", Run: firstByteLate},
		{Name: "the timeout to the first byte holds for each try", Run: firstByteEachTry},
		{Name: "no first byte in time, alone, is a timeout that may have cost", Run: firstByteAlone},
		{Name: "an answer that begins in time is waited for", Run: slowToBegin},
		{Name: "a slow body that began in time is read to its end", Run: slowBody},
		{Name: "a body that stalls ends with the caller's patience and asks no other step", Run: bodyStalls},
		{Name: "a body that stands still for too long is given up", Run: bodyIdle, Not: map[Kind]string{Wire: "the protocol has no limit between two pieces; the caller leaves"}},
		{Name: "the total deadline holds over tries and steps", Run: totalDeadline, Not: map[Kind]string{Wire: "the protocol has no total deadline; the caller leaves"}},
		{Name: "the total deadline cuts a long pause short", Run: deadlineCutsPause, Not: map[Kind]string{
			Wire: "the protocol has no total deadline; the caller leaves", Client: "the pause is the server's, which learns of no deadline"}},
		{Name: "a caller that leaves takes the provider's request with it", Run: callerLeaves},
		{Name: "a caller that leaves during a pause ends it", Run: callerLeavesPause, Not: map[Kind]string{
			Wire: "nothing shows when a server gives a pause up", Client: "nothing shows when a server gives a pause up"}},
		{Name: "a caller that leaves in the middle of a body takes the provider's answer with it", Run: callerLeavesBody},
	}
}

// impatient is a config that waits so long for the first byte, and is tried so often.
func impatient(d time.Duration, attempts int) *gateway.StepConfig {
	return &gateway.StepConfig{RequestTimeoutMS: int(d.Milliseconds()), MaxAttempts: attempts, RetryDelayMS: 1, Backoff: "constant"}
}

func firstByteLate(t *testing.T, p *Play) {
	p.open(t, Setup{})
	p.Backend.Play(First, Hang())
	p.Backend.Play(Second, Text("fine"))
	req := chainOf(t, impatient(1500*time.Millisecond, 1), First)
	req.Steps = append(req.Steps, chain(t, Second).Steps...)
	start := time.Now()
	p.ask(t, req).answered(t, 1, "fine")
	if d := time.Since(start); d < 1500*time.Millisecond {
		t.Errorf("waited %v", d)
	}
	p.Backend.AwaitGone(t, 1)
	p.asked(t, First, Second)
}

func firstByteEachTry(t *testing.T, p *Play) {
	p.open(t, Setup{})
	p.Backend.Play(First, Hang())
	p.Backend.Play(Second, Text("fine"))
	req := chainOf(t, impatient(3*time.Second, 3), First)
	req.Steps = append(req.Steps, chain(t, Second).Steps...)
	start := time.Now()
	p.ask(t, req).answered(t, 1, "fine")
	if d := time.Since(start); d < 9*time.Second {
		t.Errorf("three tries of 3 s took %v", d)
	}
	p.asked(t, First, First, First, Second)
}

func firstByteAlone(t *testing.T, p *Play) {
	p.open(t, Setup{})
	p.Backend.Play(First, Hang())
	r := p.ask(t, chainOf(t, impatient(1500*time.Millisecond, 1), First))
	switch p.Kind {
	case Engine:
		r.failed(t, p, gateway.Timeout, "first_byte", 0)
		r.blames(t, First, true)
	case Client:
		r.failed(t, p, gateway.Server, "2005", 0)
		r.blames(t, First, true)
	case Wire:
		if r.Status != 400 || r.Code != 2005 {
			t.Errorf("got %v, want status 400 with code 2005", r)
		}
	}
	p.asked(t, First)
}

func slowToBegin(t *testing.T, p *Play) {
	p.open(t, Setup{})
	p.Backend.Play(First, Text("fine").After(300*time.Millisecond))
	p.ask(t, chainOf(t, impatient(patience, 1), First)).answered(t, 0, "fine")
	p.asked(t, First)
}

func slowBody(t *testing.T, p *Play) {
	p.open(t, Setup{})
	p.Backend.Play(First, Drip("fine", 6, time.Second))
	p.Backend.Play(Second, Text("never"))
	p.ask(t, chainOf(t, impatient(5*time.Second, 2), First, Second)).answered(t, 0, "fine")
	p.asked(t, First)
}

func bodyStalls(t *testing.T, p *Play) {
	p.open(t, Setup{})
	p.Backend.Play(First, Stall())
	p.Backend.Play(Second, Text("never"))
	req := chain(t, First, Second)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	if p.Kind == Wire {
		go func() {
			defer cancel()
			p.Backend.Await(t, 1)
		}()
	} else {
		req.Options.Timeout = 6 * time.Second
	}
	r := p.askUnder(ctx, t, req)
	if p.Kind == Wire {
		if r.Good {
			t.Errorf("got %v", r)
		}
	} else {
		r.failed(t, p, gateway.Timeout, "deadline", 0)
		if r.Err != nil && !r.Err.Uncertain {
			t.Error("a stalled answer may have cost")
		}
	}
	p.Backend.AwaitGone(t, 1)
	p.asked(t, First)
}

func bodyIdle(t *testing.T, p *Play) {
	p.open(t, Setup{Idle: time.Second})
	p.Backend.Play(First, Stall())
	r := p.ask(t, chainOf(t, once(), First))
	r.failed(t, p, gateway.Timeout, "idle", 0)
	r.blames(t, First, true)
	p.Backend.AwaitGone(t, 1)
}

func totalDeadline(t *testing.T, p *Play) {
	p.open(t, Setup{})
	p.Backend.Play(First, Fail(404, ""))
	p.Backend.Play(Second, Hang())
	req := chainOf(t, once(), First, Second)
	req.Options.Timeout = 6 * time.Second
	start := time.Now()
	r := p.ask(t, req)
	if d := time.Since(start); d < 6*time.Second {
		t.Errorf("ended after %v", d)
	}
	r.failed(t, p, gateway.Timeout, "deadline", 0)
	p.Backend.AwaitGone(t, 1)
	p.asked(t, First, Second)
}

func deadlineCutsPause(t *testing.T, p *Play) {
	p.open(t, Setup{})
	p.Backend.Play(First, Fail(503, ""))
	req := chainOf(t, &gateway.StepConfig{MaxAttempts: 5, RetryDelayMS: 5000, Backoff: "exponential"}, First)
	req.Options.Timeout = 4 * time.Second
	start := time.Now()
	p.ask(t, req).failed(t, p, gateway.Overloaded, "", 0)
	if d := time.Since(start); d > 4*time.Second {
		t.Errorf("a pause over the deadline was waited for: %v", d)
	}
	p.asked(t, First)
}

func callerLeaves(t *testing.T, p *Play) {
	p.open(t, Setup{})
	p.Backend.Play(First, Hang())
	p.Backend.Play(Second, Text("never"))
	why := errors.New("the test has seen enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	done := make(chan Reply, 1)
	go func() { done <- p.askUnder(ctx, t, chain(t, First, Second)) }()
	p.Backend.Await(t, 1)
	cancel(why)
	r := <-done
	if r.Good || p.Kind != Wire && !errors.Is(r.Cause, why) {
		t.Errorf("got %v, want the cause of the caller's leaving", r)
	}
	p.Backend.AwaitGone(t, 1)
	p.asked(t, First)
}

func callerLeavesPause(t *testing.T, p *Play) {
	p.open(t, Setup{})
	p.Backend.Play(First, Fail(503, ""))
	why := errors.New("the test has seen enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	done := make(chan Reply, 1)
	start := time.Now()
	go func() {
		done <- p.askUnder(ctx, t, chainOf(t, &gateway.StepConfig{MaxAttempts: 2, RetryDelayMS: 5000, Backoff: "constant"}, First))
	}()
	p.Backend.Await(t, 1)
	cancel(why)
	r := <-done
	if d := time.Since(start); !errors.Is(r.Cause, why) || d > 5*time.Second {
		t.Errorf("got %v after %v", r, d)
	}
	p.asked(t, First)
}

func callerLeavesBody(t *testing.T, p *Play) {
	p.open(t, Setup{})
	p.Backend.Play(First, Endless())
	p.Backend.Play(Second, Text("never"))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan Reply, 1)
	go func() { done <- p.askUnder(ctx, t, chain(t, First, Second)) }()
	p.Backend.Await(t, 1)
	cancel()
	if r := <-done; r.Good {
		t.Errorf("got %v", r)
	}
	p.Backend.AwaitGone(t, 1)
	p.asked(t, First)
}
