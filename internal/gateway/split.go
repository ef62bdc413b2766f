package gateway

import (
	"context"
	"errors"
	"time"
)

// WithBuiltins returns a gateway that runs the steps of built-in providers in engine and sends all others to remote.
// A chain that mixes them is cut into runs of neighbours, which are walked in order; to the caller and its ledger it
// stays one request, with its own step indexes, one count of sends and one deadline.
func WithBuiltins(remote Gateway, engine *Engine) Gateway {
	if remote == Gateway(engine) {
		return engine
	}
	return mixed{remote, engine}
}

type mixed struct {
	remote Gateway
	engine *Engine
}

// Run implements Gateway.
func (m mixed) Run(ctx context.Context, req *Request, ledger Ledger) (*Response, error) {
	if err := req.check(); err != nil {
		return nil, err
	}
	if ledger == nil {
		ledger = NoLedger
	}
	w := newWalk(req.Options.Timeout, 0)
	sends := 0
	for from := 0; from < len(req.Steps); {
		local := Builtin(req.Steps[from].Provider)
		to := from + 1
		for to < len(req.Steps) && Builtin(req.Steps[to].Provider) == local {
			to++
		}
		part := &Request{Steps: req.Steps[from:to], Options: req.Options}
		part.Options.Timeout = max(time.Until(w.deadline), 1)
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
		}
		if err == nil || forbidden {
			return resp, err
		}
		fail, ok := errors.AsType[*Error](err)
		if !ok || ctx.Err() != nil { // nobody's failure, or nobody waits for the rest
			return resp, err
		}
		fail.Step += from
		w.failed(fail)
		if !fail.Class.NextStep() {
			return nil, w.wrap(fail)
		}
		if time.Until(w.deadline) <= 0 {
			break
		}
		from = to
	}
	return nil, w.err()
}
