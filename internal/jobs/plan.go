package jobs

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"batchwright/internal/fault"
	"batchwright/internal/gateway"
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
	prices, err := w.pricesOf(hard, b.ProjectID)
	if err != nil {
		return fmt.Errorf("plan: %w", err)
	}
	sc := newScale(w.DB.Reader, b, prices)
	parts := make(chan part, 1)
	g, gctx := errgroup.WithContext(ctx)
	g.Go(guarded(func() error { // renders while the part before is written
		defer close(parts)
		return renderRange(gctx, w.DB, b, sc, t, parts)
	}))
	g.Go(guarded(func() error {
		for p := range parts {
			last := p.rows[len(p.rows)-1].Seq == t.LastSeq
			if err := w.DB.InsertPlanned(gctx, b.Batch, t, p.rows, last, func(hits []*store.Hit) []store.PlanSum { return sc.tally(gctx, p, hits, last) }); err != nil {
				return err
			}
			fault.Point("plan-inserted")
		}
		return nil
	}))
	if err := g.Wait(); err != nil {
		return fmt.Errorf("plan: %w", err)
	}
	w.nudge()
	return nil
}

// startLimit bounds the start of a batch: with a million duplicates it takes some seconds.
const startLimit = 10 * time.Minute

// startBatches ends the planning of batches, beside dispatch, which it would hold up. Cut short by a stop, a start leaves no trace.
func (w *Worker) startBatches(ctx context.Context) {
	for {
		select {
		case b := <-w.starts:
			round, cancel := context.WithTimeout(ctx, startLimit)
			if err := guarded(func() error { return w.startBatch(round, b) })(); err != nil && ctx.Err() == nil {
				w.Log.WarnContext(ctx, "batch not started, will be tried again", "batch", b.ID, "err", err)
			}
			cancel()
		case <-ctx.Done():
			return
		}
	}
}

func (w *Worker) startBatch(ctx context.Context, b store.OpenBatch) error {
	f, err := w.forecaster(ctx, b.ID)
	if err != nil {
		return fmt.Errorf("forecast: %w", err)
	}
	started, err := w.DB.StartBatch(ctx, b.ID, f.judge)
	if !started {
		return err
	}
	fault.Point("batch-started")
	w.Log.InfoContext(ctx, "batch planned", "batch", b.ID, "verdict", f.verdict)
	defer w.nudge()
	if f.DryRun {
		return errors.Join(err, w.DB.EndDryRun(ctx, f.ProjectID, f.ID)) // else a sweep does
	}
	_, ferr := w.finish(ctx, &b) // all of it may have been in the cache
	return errors.Join(err, ferr)
}

// planPart is how many jobs planning inserts at once.
const planPart = 2500

// part is some of a range's jobs.
type part struct {
	rows []store.Planned
	jobs []load // one of each row
}

func newPart() part {
	return part{make([]store.Planned, 0, planPart), make([]load, 0, planPart)}
}

func renderRange(ctx context.Context, db *store.DB, b *batch, sc *scale, t store.Ticket, parts chan<- part) error {
	p := newPart()
	for in, err := range db.Inputs(ctx, t.BatchID, t.FirstSeq, t.LastSeq) {
		if err != nil {
			return fmt.Errorf("read inputs: %w", err)
		}
		row, found := planJob(b, in)
		p.rows, p.jobs = append(p.rows, row), append(p.jobs, sc.put(in, found))
		if len(p.rows) < planPart && in.Seq < t.LastSeq {
			continue
		}
		select {
		case parts <- p:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		p = newPart()
	}
	return nil
}

// planJob plans one job. What was found is empty when it can't run.
func planJob(b *batch, in store.Input) (row store.Planned, found planned) {
	row.Seq = in.Seq
	if in.Invalid != nil {
		row.ErrorClass, row.ErrorMessage = string(gateway.InvalidRequest), storedProblem(in.Invalid)
		return row, planned{}
	}
	err := guarded(func() (err error) {
		found, err = b.kind.plan(b, in)
		return err
	})()
	if err != nil {
		row.ErrorClass, row.ErrorMessage = string(gateway.InvalidRequest), "the job can't be planned"
		if f, ok := errors.AsType[*failure](err); ok {
			row.ErrorClass, row.ErrorMessage = string(f.class), clean(f.message)
		}
		return row, planned{}
	}
	for _, k := range found.keys {
		row.Keys = append(row.Keys, k)
	}
	return row, found
}
