package gateway

import (
	"context"
	"errors"
	"time"
)

// Mix returns a gateway that runs the steps of built-in providers in engine and others through remote; with direct, only
// those others whose [Step.Via] says so. A chain of both is cut into runs of neighbours, which are walked in order; to
// the caller and its ledger it stays one request, with its own step indexes, one count of sends and one deadline.
func Mix(remote Gateway, engine *Engine, direct bool) Gateway {
	return mixed{remote, engine, direct}
}

type mixed struct {
	remote Gateway
	engine *Engine
	direct bool
}

func (m mixed) here(s *Step) bool { return Builtin(s.Provider) || m.direct && s.Via != ViaCloudflare }

// Run implements Gateway.
func (m mixed) Run(ctx context.Context, req *Request, ledger Ledger) (*Response, error) {
	if err := req.check(); err != nil {
		return nil, err
	}
	if ledger == nil {
		ledger = NoLedger
	}
	w := newWalk(&req.Options, 0)
	sends, gave := 0, false
	for from := 0; from < len(req.Steps); {
		local := m.here(&req.Steps[from])
		to := from + 1
		for to < len(req.Steps) && m.here(&req.Steps[to]) == local {
			to++
		}
		part := &Request{Steps: req.Steps[from:to], Options: req.Options}
		part.Options.Timeout = max(time.Until(w.deadline), 1)
		if give := req.Options.OnText; give != nil {
			part.Options.OnText = func(piece string) {
				gave = true
				give(piece)
			}
		}
		var g Gateway = m.engine
		if !local {
			g = m.remote
		}
		before, forbidden := sends, false
		resp, err := g.Run(ctx, part, func(ctx context.Context, s Send) (func(context.Context, Outcome) error, error) {
			s.Step, s.Number = s.Step+from, before+s.Number
			settle, err := ledger(ctx, s)
			if err != nil {
				forbidden = true
				return nil, err
			}
			sends++
			return func(ctx context.Context, o Outcome) error {
				o.Step += from
				err := settle(ctx, o)
				forbidden = forbidden || err != nil
				return err
			}, nil
		})
		if resp != nil {
			resp.Step += from
			resp.Sends += before
			resp.Attempts = w.add(resp.Attempts, from)
		}
		if err == nil || forbidden {
			return resp, err
		}
		fail, ok := errors.AsType[*Error](err)
		if !ok || ctx.Err() != nil { // nobody's failure, or nobody waits for the rest
			return resp, err
		}
		fail.Step += from
		fail.Attempts = w.add(fail.Attempts, from)
		w.failed(fail)
		if !fail.Class.NextStep() || gave {
			return nil, w.wrap(fail)
		}
		if time.Until(w.deadline) <= 0 {
			break
		}
		from = to
	}
	return nil, w.err()
}

// add appends the attempts of a part that began at step from.
func (w *walk) add(part []Attempt, from int) []Attempt {
	for _, a := range part {
		a.Step += from
		w.attempts = append(w.attempts, a)
	}
	return w.attempts
}
