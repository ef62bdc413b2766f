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
	"batchwright/internal/prompt"
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
	parts := make(chan []store.Planned, 1)
	g, gctx := errgroup.WithContext(ctx)
	g.Go(guarded(func() error { // renders while the part before is written
		defer close(parts)
		return w.renderRange(gctx, l, parts)
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
			if err := w.startBatch(round, b); err != nil && ctx.Err() == nil {
				w.Log.WarnContext(ctx, "batch not started, will be tried again", "batch", b.ID, "err", err)
			}
			cancel()
		case <-ctx.Done():
			return
		}
	}
}

func (w *Worker) startBatch(ctx context.Context, b store.OpenBatch) error {
	started, err := w.DB.StartBatch(ctx, b.ID)
	if !started {
		return err
	}
	fault.Point("batch-started")
	w.Log.InfoContext(ctx, "batch planned", "batch", b.ID)
	defer w.nudge()
	_, ferr := w.finish(ctx, &b) // all of it may have been in the cache
	return errors.Join(err, ferr)
}

// planPart is how many jobs planning inserts at once.
const planPart = 2500

func (w *Worker) renderRange(ctx context.Context, l *lease, parts chan<- []store.Planned) error {
	b, t := l.batch, l.ticket
	rows := make([]store.Planned, 0, planPart)
	var ins []store.Input // that bring documents: they are planned when the texts of the part's are there
	for in, err := range w.DB.Inputs(ctx, t.BatchID, t.FirstSeq, t.LastSeq) {
		if err != nil {
			return fmt.Errorf("read inputs: %w", err)
		}
		if in.DocumentSHA256 != nil && in.Invalid == nil {
			ins = append(ins, store.Input{Seq: in.Seq, Input: bytes.Clone(in.Input), DocumentSHA256: bytes.Clone(in.DocumentSHA256)})
			rows = append(rows, store.Planned{Seq: in.Seq})
		} else {
			rows = append(rows, planJob(b, in))
		}
		if len(rows) < planPart && in.Seq < t.LastSeq {
			continue
		}
		if len(ins) > 0 {
			if err := w.planDocuments(ctx, l, rows, ins); err != nil {
				return err
			}
			ins = ins[:0]
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

// planDocuments fills in the rows of jobs that bring documents.
func (w *Worker) planDocuments(ctx context.Context, l *lease, rows []store.Planned, ins []store.Input) error {
	known, err := w.texts(ctx, l, l.batch, ins)
	if err != nil {
		return err
	}
	for _, in := range ins {
		row := &rows[in.Seq-rows[0].Seq]
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
			in.TextSHA256 = t.sum
			*row = planJob(l.batch, in)
		}
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
