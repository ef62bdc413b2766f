package jobs

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sync/errgroup"

	"batchwright/internal/fault"
	"batchwright/internal/gateway"
	"batchwright/internal/prompt"
	"batchwright/internal/store"
)

// planTicket plans the inputs of a range. Once begun, it is finished even when the worker is told to stop.
func (w *Worker) planTicket(soft, hard context.Context, t store.Ticket) error {
	if soft.Err() != nil {
		return w.DB.ReturnTicket(hard, t.ID)
	}
	if err := w.DB.ClaimPlan(hard, t.ID, w.self.ID, w.o.Lease); err != nil {
		return fmt.Errorf("claim plan: %w", err)
	}
	row, err := w.DB.AnyBatch(hard, t.BatchID)
	if err != nil {
		return fmt.Errorf("plan: %w", err)
	}
	b, err := compile(hard, w.DB.Reader, row)
	if err != nil {
		return err
	}
	ctx, cut := context.WithCancel(hard)
	defer cut()
	l := &lease{ticket: t, batch: b, stop: make(chan struct{}), cut: cut}
	l.left.Store(t.Jobs)
	w.hold(l)
	defer w.drop(l)
	fault.Point("plan-claimed")
	parts := make(chan []store.Planned, 1)
	g, gctx := errgroup.WithContext(ctx)
	g.Go(guarded(func() error { // renders while the part before is written
		defer close(parts)
		return renderRange(gctx, w.DB, b, t, parts)
	}))
	g.Go(func() error {
		for rows := range parts {
			if err := w.DB.InsertPlanned(gctx, b.Batch, t, rows, rows[len(rows)-1].Seq == t.LastSeq); err != nil {
				return err
			}
			fault.Point("plan-inserted")
		}
		return nil
	})
	if err := g.Wait(); err != nil {
		return fmt.Errorf("plan: %w", err)
	}
	w.nudge()
	return nil
}

// planPart is how many jobs planning inserts at once.
const planPart = 2500

func renderRange(ctx context.Context, db *store.DB, b *batch, t store.Ticket, parts chan<- []store.Planned) error {
	rows := make([]store.Planned, 0, planPart)
	for in, err := range db.Inputs(ctx, t.BatchID, t.FirstSeq, t.LastSeq) {
		if err != nil {
			return fmt.Errorf("read inputs: %w", err)
		}
		if rows = append(rows, planJob(b, in)); len(rows) < planPart && in.Seq < t.LastSeq {
			continue
		}
		select {
		case parts <- rows:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		rows = make([]store.Planned, 0, planPart)
	}
	return nil
}

func planJob(b *batch, in store.Input) store.Planned {
	p := store.Planned{Seq: in.Seq}
	if in.Invalid != nil {
		p.ErrorClass, p.ErrorMessage = string(gateway.InvalidRequest), storedProblem(in.Invalid)
		return p
	}
	var keys []prompt.Key
	err := guarded(func() (err error) {
		keys, err = b.kind.plan(b, in)
		return err
	})()
	if err != nil {
		p.ErrorClass, p.ErrorMessage = string(gateway.InvalidRequest), "the job can't be planned"
		if f, ok := errors.AsType[*failure](err); ok {
			p.ErrorClass, p.ErrorMessage = string(f.class), clean(f.message)
		}
		return p
	}
	for _, k := range keys {
		p.Keys = append(p.Keys, k)
	}
	return p
}
