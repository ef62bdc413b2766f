package gatewaytest

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"batchwright/internal/gateway"
)

// Conform runs the suite that every Gateway must pass. open returns one whose providers openai and custom-b are the
// script's; it runs inside a synctest bubble, so it must not use the network.
func Conform(t *testing.T, open func(t *testing.T, s *Script) gateway.Gateway) {
	good, down := Text("fine"), Fail(503, "")
	tests := []struct {
		name     string
		openai   []Answer
		b        []Answer
		timeout  time.Duration
		class    gateway.Class // of the error
		step     int           // that answered, or failed last
		code     string
		unsure   bool // the error is uncertain
		provided []string
	}{
		{name: "the first step answers", openai: []Answer{good}, provided: []string{"openai"}},
		{name: "a failing step is tried twice and then the next", openai: []Answer{down}, b: []Answer{good}, step: 1, provided: []string{"openai", "openai", "custom-b"}},
		{name: "a step that recovers is kept", openai: []Answer{down, good}, b: []Answer{good}, provided: []string{"openai", "openai"}},
		{name: "a broken connection is retried", openai: []Answer{{Err: io.ErrUnexpectedEOF}, good}, b: []Answer{good}, provided: []string{"openai", "openai"}},
		{name: "a dead key goes to the next step", openai: []Answer{Fail(401, "invalid_api_key")}, b: []Answer{good}, step: 1},
		{name: "used up money goes to the next step", openai: []Answer{Fail(429, "insufficient_quota")}, b: []Answer{good}, step: 1},
		{name: "all steps fail", openai: []Answer{Fail(401, "")}, b: []Answer{Fail(404, "model_not_found")}, class: gateway.NotFound, step: 1, code: "model_not_found"},
		{name: "garbage is a failure that may have cost", openai: []Answer{{Body: `{"choices":[{`}}, b: []Answer{{Body: "oops"}}, class: gateway.Server, unsure: true, code: "invalid_answer"},
		{name: "an answer cut off may have cost", openai: []Answer{{Body: `{"choices":`, Cut: true}}, b: []Answer{{Body: `{"choices":`, Cut: true}}, class: gateway.Network, unsure: true},
		{name: "the deadline holds over all steps", openai: []Answer{{Hang: true}}, b: []Answer{{Hang: true}}, timeout: time.Minute, class: gateway.Timeout, unsure: true, code: "deadline"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := NewScript(map[string][]Answer{"openai": tt.openai, "custom-b": tt.b})
				g := open(t, s)
				req := twoSteps(t)
				req.Options.Timeout = tt.timeout
				start := time.Now()
				var book Book
				resp, err := g.Run(t.Context(), req, book.Ledger)
				book.Check(t, len(req.Steps))
				if tt.timeout > 0 && time.Since(start) != tt.timeout {
					t.Errorf("took %v, want %v", time.Since(start), tt.timeout)
				}
				if got := s.Providers(); tt.provided != nil && !slices.Equal(got, tt.provided) {
					t.Errorf("called %v, want %v", got, tt.provided)
				}
				if tt.class == gateway.OK {
					checkAnswer(t, resp, err, req.Steps[tt.step], tt.step, &book)
					return
				}
				checkError(t, err, tt.class, tt.code, tt.unsure, &book)
			})
		})
	}
	t.Run("the ledger forbids the send", func(t *testing.T) { ledgerForbids(t, open) })
	t.Run("a settlement that fails is told", func(t *testing.T) { settlementFails(t, open) })
	t.Run("the caller gives up", func(t *testing.T) { callerGivesUp(t, open) })
	t.Run("the caller gave up before", func(t *testing.T) { callerGaveUp(t, open) })
	t.Run("bodies travel byte for byte", func(t *testing.T) { bytesKept(t, open) })
	t.Run("a request out of range is refused unsent", func(t *testing.T) { outOfRange(t, open) })
}

// twoSteps returns a chain of openai and custom-b.
func twoSteps(t *testing.T) *gateway.Request {
	t.Helper()
	c := &gateway.Chat{Messages: []gateway.Message{{Role: "user", Content: "SECRET PROMPT"}}, MaxTokens: 9}
	req := &gateway.Request{}
	for _, name := range []string{"openai", "custom-b"} {
		s, err := gateway.NewStep(name, "model-"+name, c, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Steps = append(req.Steps, s)
	}
	return req
}

func checkAnswer(t *testing.T, resp *gateway.Response, err error, step gateway.Step, i int, book *Book) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	if resp.Text != "fine" || resp.Step != i || resp.Provider != step.Provider || resp.Model != "m-1" || resp.Finish != gateway.FinishStop {
		t.Errorf("answer %+v", resp)
	}
	if want := (gateway.Usage{Input: 10, Output: 2, Known: true}); resp.Usage != want {
		t.Errorf("usage %+v, want %+v", resp.Usage, want)
	}
	if !json.Valid(resp.Body) {
		t.Errorf("body %q", resp.Body)
	}
	es := book.Entries()
	o := es[len(es)-1].Outcome
	if resp.Sends != len(es) || o.Class != gateway.OK || o.Usage != resp.Usage || o.Step != i || o.Status != 200 || o.Uncertain {
		t.Errorf("%d sends, last outcome %+v", resp.Sends, o)
	}
}

func checkError(t *testing.T, err error, class gateway.Class, code string, unsure bool, book *Book) {
	t.Helper()
	e, ok := errors.AsType[*gateway.Error](err)
	if !ok {
		t.Fatalf("error %v is no *gateway.Error", err)
	}
	if e.Class != class || e.Uncertain != unsure || code != "" && e.Code != code || e.Provider == "" || e.Model == "" {
		t.Errorf("error %+v", e)
	}
	for _, secret := range []string{"SECRET", "key-of"} {
		if strings.Contains(err.Error(), secret) {
			t.Errorf("%q holds %q", err, secret)
		}
	}
	es := book.Entries()
	if o := es[len(es)-1].Outcome; o.Class == gateway.OK {
		t.Errorf("last outcome %+v", o)
	}
}

func ledgerForbids(t *testing.T, open func(*testing.T, *Script) gateway.Gateway) {
	synctest.Test(t, func(t *testing.T) {
		s := NewScript(map[string][]Answer{"openai": {Text("fine")}, "custom-b": {Text("fine")}})
		broke := error(&gateway.Error{Class: gateway.RateLimited, Message: "ours, and not to be touched"})
		book := Book{Forbid: func(gateway.Send) error { return broke }}
		_, err := open(t, s).Run(t.Context(), twoSteps(t), book.Ledger)
		if err != broke || len(s.Calls()) != 0 {
			t.Errorf("err %v after %d calls", err, len(s.Calls()))
		}
	})
}

func settlementFails(t *testing.T, open func(*testing.T, *Script) gateway.Gateway) {
	synctest.Test(t, func(t *testing.T) {
		s := NewScript(map[string][]Answer{"openai": {Text("fine")}, "custom-b": {Text("fine")}})
		lost := errors.New("lost")
		book := Book{Settle: func(gateway.Outcome) error { return lost }}
		resp, err := open(t, s).Run(t.Context(), twoSteps(t), book.Ledger)
		book.Check(t, 2)
		if err != lost || resp == nil || resp.Text != "fine" || len(s.Calls()) != 1 {
			t.Errorf("resp %+v, err %v after %d calls", resp, err, len(s.Calls()))
		}
	})
}

func callerGivesUp(t *testing.T, open func(*testing.T, *Script) gateway.Gateway) {
	synctest.Test(t, func(t *testing.T) {
		s := NewScript(map[string][]Answer{"openai": {{Hang: true}}, "custom-b": {Text("fine")}})
		why := errors.New("shutting down")
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, why)
		defer cancel()
		var book Book
		_, err := open(t, s).Run(ctx, twoSteps(t), book.Ledger)
		book.Check(t, 2)
		es := book.Entries()
		if err != why || len(es) != 1 || es[0].Outcome.Class != gateway.Cancelled || !es[0].Outcome.Uncertain {
			t.Errorf("err %v, entries %+v", err, es)
		}
	})
}

func callerGaveUp(t *testing.T, open func(*testing.T, *Script) gateway.Gateway) {
	synctest.Test(t, func(t *testing.T) {
		s := NewScript(map[string][]Answer{"openai": {Text("fine")}, "custom-b": {Text("fine")}})
		ctx, cancel := context.WithCancelCause(t.Context())
		why := errors.New("never mind")
		cancel(why)
		var book Book
		_, err := open(t, s).Run(ctx, twoSteps(t), book.Ledger)
		if err != why || len(book.Entries()) != 0 || len(s.Calls()) != 0 {
			t.Errorf("err %v after %d sends", err, len(book.Entries()))
		}
	})
}

func bytesKept(t *testing.T, open func(*testing.T, *Script) gateway.Gateway) {
	synctest.Test(t, func(t *testing.T) {
		s := NewScript(map[string][]Answer{"openai": {Text("fine")}, "custom-b": {Text("fine")}})
		body := "{ \"model\" : \"m\",\n\t\"messages\":[{\"role\":\"user\",\"content\":\"<b>&amp; \\u00e9 é\u2028\"}],\"x\":1.50e+1 }"
		step, err := gateway.NewRawStep("openai", "", json.RawMessage(body), nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := open(t, s).Run(t.Context(), &gateway.Request{Steps: []gateway.Step{step}}, nil); err != nil {
			t.Fatal(err)
		}
		if got := s.Calls()[0]; got.Body != body || got.Header.Get("Authorization") != "Bearer key-of-openai" {
			t.Errorf("sent %q with %v", got.Body, got.Header)
		}
	})
}

func outOfRange(t *testing.T, open func(*testing.T, *Script) gateway.Gateway) {
	synctest.Test(t, func(t *testing.T) {
		s := NewScript(map[string][]Answer{"openai": {Text("fine")}, "custom-b": {Text("fine")}})
		g := open(t, s)
		bad := twoSteps(t)
		bad.Steps[1].Config = &gateway.StepConfig{MaxAttempts: 6}
		unknown := twoSteps(t)
		unknown.Steps[1].Provider = "nobody"
		for _, req := range []*gateway.Request{{}, bad, unknown} {
			var book Book
			if _, err := g.Run(t.Context(), req, book.Ledger); gateway.ClassOf(err) != gateway.InvalidRequest || len(book.Entries()) != 0 {
				t.Errorf("err %v after %d sends", err, len(book.Entries()))
			}
		}
	})
}
