package jobs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"batchwright/internal/fault"
	"batchwright/internal/gateway"
	"batchwright/internal/store"
)

// planTicket plans the inputs of a range. Once begun, it is finished even when the worker is told to stop, unless documents are still to be read.
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
	sc := newScale(w.DB.Reader, b, w.Prices)
	parts := make(chan part, 1)
	g, gctx := errgroup.WithContext(ctx)
	g.Go(guarded(func() error { // renders while the part before is written
		defer close(parts)
		return w.renderRange(gctx, l, sc, parts)
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
	if err := g.Wait(); errors.Is(err, errHandedBack) {
		return w.DB.ReturnPlan(context.WithoutCancel(hard), t.ID, w.self.ID)
	} else if err != nil {
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

func (w *Worker) renderRange(ctx context.Context, l *lease, sc *scale, parts chan<- part) error {
	b, t := l.batch, l.ticket
	p := newPart()
	var ins []store.Input // that bring documents: they are planned when the texts of the part's are there
	for in, err := range w.DB.Inputs(ctx, t.BatchID, t.FirstSeq, t.LastSeq) {
		if err != nil {
			return fmt.Errorf("read inputs: %w", err)
		}
		row, found := store.Planned{Seq: in.Seq}, planned{}
		if in.DocumentSHA256 != nil && in.Invalid == nil {
			ins = append(ins, store.Input{Seq: in.Seq, Input: bytes.Clone(in.Input), DocumentSHA256: bytes.Clone(in.DocumentSHA256)})
		} else {
			row, found = planJob(b, in)
		}
		p.rows, p.jobs = append(p.rows, row), append(p.jobs, sc.put(in, found))
		if len(p.rows) < planPart && in.Seq < t.LastSeq {
			continue
		}
		if len(ins) > 0 {
			if err := w.planDocuments(ctx, l, sc, p, ins); err != nil {
				return err
			}
			ins = ins[:0]
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

// planDocuments fills in the rows and loads of jobs that bring documents.
func (w *Worker) planDocuments(ctx context.Context, l *lease, sc *scale, p part, ins []store.Input) error {
	known, err := w.texts(ctx, l, l.batch, ins)
	if err != nil {
		return err
	}
	for _, in := range ins {
		at := in.Seq - p.rows[0].Seq
		row := &p.rows[at]
		_, id, err := refOf(in)
		if err != nil {
			return err
		}
		switch t, ok := known[id]; {
		case !ok: // the batch is being cancelled
			row.ErrorClass, row.ErrorMessage = string(gateway.Cancelled), "the document was not read: the batch was cancelled"
		case t.err != nil:
			row.ErrorClass, row.ErrorMessage = string(t.err.class), clean(t.err.message)
		default:
			in.TextSHA256, in.TextCharacters = t.sum, t.characters
			var found planned
			*row, found = planJob(l.batch, in)
			p.jobs[at] = sc.put(in, found)
		}
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
