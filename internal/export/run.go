package export

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"iter"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"batchwright/internal/bucket"
	"batchwright/internal/fault"
	"batchwright/internal/jobs"
	"batchwright/internal/report"
	"batchwright/internal/store"
)

// Options tune an [Exporter]. The zero value is the default.
type Options struct {
	Lease time.Duration // after which a silent worker counts as dead; default 30 s
	Poll  time.Duration // between two looks for what is due; default 1 s
}

const (
	slots      = 2                // exports at once, each with a connection to the database
	tries      = 8                // before an export fails, for whatever time may heal
	firstRest  = 5 * time.Second  // before the second try; then twice as long each, and up to half as long again
	longRest   = 5 * time.Minute  // at most
	purgeRest  = time.Hour        // before one that failed and that a purge waits for is tried again
	stuck      = 10 * time.Minute // without a byte, after which an attempt is given up
	lastWord   = 5 * time.Second  // for recording what came of an attempt
	planRest   = time.Minute      // between two looks for batches to export before they are purged
	planMost   = 1000             // of them at once
	planTrim   = time.Hour
	fileFailed = "the server's database or program failed; its log says why"
)

// Exporter writes files. Any number share a database; none of them leads.
type Exporter struct {
	db     *store.DB
	places bucket.Places
	log    *slog.Logger
	o      Options
}

// NewExporter returns an exporter that does nothing until Run.
func NewExporter(s *Service, log *slog.Logger, o Options) *Exporter {
	o.Lease = cmp.Or(o.Lease, 30*time.Second)
	o.Poll = cmp.Or(o.Poll, time.Second)
	return &Exporter{db: s.DB, places: s.Places, log: log, o: o}
}

// Run exports until ctx ends; what it is at then goes back at once, for another worker. Without places it does nothing, so that
// what others may be able to write isn't refused here.
func (x *Exporter) Run(ctx context.Context) {
	if x.places.Empty() {
		return
	}
	var all sync.WaitGroup
	defer all.Wait()
	all.Go(func() { x.claim(ctx, all.Go) })
	tick := time.NewTicker(planRest)
	defer tick.Stop()
	var trimmed time.Time
	for {
		_, err := x.db.PlanPurgeExports(ctx, planMost)
		if err == nil && time.Since(trimmed) > planTrim {
			if _, err = x.db.TrimExports(ctx); err == nil {
				trimmed = time.Now()
			}
		}
		if err != nil && ctx.Err() == nil {
			x.log.WarnContext(ctx, "exports before purges not planned, will be tried again", "err", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// claim takes what is due, one after the other, and starts it as long as there is a slot for it, until ctx ends.
func (x *Exporter) claim(ctx context.Context, start func(func())) {
	busy := make(chan struct{}, slots)
	poll := time.NewTicker(x.o.Poll)
	defer poll.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case busy <- struct{}{}:
		}
		e, err := x.db.ClaimExport(ctx, x.o.Lease)
		if err == nil {
			start(func() {
				defer func() { <-busy }()
				x.attempt(ctx, e)
			})
			continue
		}
		<-busy
		if !errors.Is(err, store.ErrNotFound) && ctx.Err() == nil {
			x.log.WarnContext(ctx, "exports not looked for, will be tried again", "err", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-poll.C:
		}
	}
}

var errReopened = errors.New("export: the batch was reopened or purged meanwhile")

// attempt writes the file of an export that this worker has taken, and records what came of it.
func (x *Exporter) attempt(ctx context.Context, e store.Export) {
	fault.Point("export-claimed")
	hold, drop := context.WithCancelCause(ctx)
	out := &meter{sum: sha256.New()}
	var beats sync.WaitGroup
	beats.Go(func() { x.keep(hold, drop, e, out) })
	err := x.write(hold, e, out)
	drop(nil)
	beats.Wait()

	last, end := context.WithTimeout(context.WithoutCancel(ctx), lastWord)
	defer end()
	log := x.log.With("export", e.ID, "batch", e.BatchID) // nil for a report
	switch {
	case err == nil:
		err = x.db.EndExport(last, e, out.rows.Load(), out.bytes.Load(), out.sum.Sum(nil))
		if err == nil {
			log.InfoContext(ctx, "export written", "rows", out.rows.Load(), "bytes", out.bytes.Load())
		}
	case errors.Is(err, store.ErrLeaseLost):
	case ctx.Err() != nil, errors.Is(err, errReopened):
		var now time.Duration
		err = x.db.LeaveExport(last, e, store.ExportPending, "", &now)
	default:
		err = x.fail(last, log, e, err)
	}
	if errors.Is(err, store.ErrLeaseLost) || errors.Is(err, store.ErrNotFound) {
		log.InfoContext(last, "export lost: it was cancelled or taken over")
	} else if err != nil { // its lease runs out, and another attempt makes the file anew
		log.ErrorContext(last, "export not recorded", "err", err)
	}
}

// fail decides what an error means.
func (x *Exporter) fail(ctx context.Context, log *slog.Logger, e store.Export, err error) error {
	reason, refused, over := fileFailed, false, false
	if b, ok := errors.AsType[*bucket.Error](err); ok {
		reason, refused = "target: "+b.Message, b.Refused
	} else if j, ok := errors.AsType[*jobs.Error](err); ok { // there are no results to come
		reason, over = j.Message, true
	}
	if !refused && !over && e.Attempts < tries {
		rest := min(firstRest<<(e.Attempts-1), longRest)
		rest += rand.N(rest / 2) //nolint:gosec // so that what failed together doesn't come back together
		log.WarnContext(ctx, "export failed, will be tried again", "attempt", e.Attempts, "in", rest, "err", err)
		return x.db.LeaveExport(ctx, e, store.ExportPending, reason, &rest)
	}
	var again *time.Duration
	if e.Origin == store.ExportPurge && !over {
		rest := purgeRest
		again = &rest
	}
	log.WarnContext(ctx, "export failed", "attempt", e.Attempts, "origin", e.Origin, "err", err)
	return x.db.LeaveExport(ctx, e, store.ExportFailed, reason, again)
}

// keep renews the export's lease while its file is written, and stops that when the export isn't this worker's any more, or nothing moves.
func (x *Exporter) keep(ctx context.Context, drop context.CancelCauseFunc, e store.Export, out *meter) {
	beat := time.NewTicker(x.o.Lease / 4)
	defer beat.Stop()
	moved, held, was := time.Now(), time.Now(), int64(-1)
	for {
		select {
		case <-ctx.Done():
			return
		case <-beat.C:
		}
		now := out.rows.Load() + out.bytes.Load()
		if now != was {
			moved, was = time.Now(), now
		}
		if time.Since(moved) > stuck {
			if out.rows.Load() == 0 {
				drop(fmt.Errorf("export: no row was read for %s", stuck))
			} else {
				drop(&bucket.Error{Message: fmt.Sprintf("took nothing for %s", stuck)})
			}
			return
		}
		switch err := x.renew(ctx, e, out); {
		case err == nil:
			held = time.Now()
		case errors.Is(err, store.ErrLeaseLost), errors.Is(err, errReopened), time.Since(held) > x.o.Lease:
			drop(err)
			return
		}
	}
}

func (x *Exporter) renew(ctx context.Context, e store.Export, out *meter) error {
	ctx, cancel := context.WithTimeout(ctx, x.o.Lease/2)
	defer cancel()
	same, err := x.db.RenewExport(ctx, e, x.o.Lease, out.rows.Load(), out.bytes.Load())
	if err == nil && !same {
		return errReopened
	}
	return err
}

// write makes the file. It is there when it returns without an error, and not otherwise, unless the worker dies between the two.
func (x *Exporter) write(ctx context.Context, e store.Export, out *meter) error {
	about, err := x.db.ExportSubject(ctx, e.ID)
	if err != nil {
		return err
	}
	switch {
	case about.PurgedAt != nil:
		return &jobs.Error{Message: "the batch was purged before it was exported: its results are gone"}
	case about.Unborn:
		return &jobs.Error{Message: "the batch has no results: its upload failed"}
	}
	f, o, err := format(e)
	if err != nil {
		return err
	}
	columns, rows, err := x.content(ctx, e)
	if err != nil {
		return err
	}
	url := place(e, about)
	if e.URL != nil {
		url = *e.URL
	} else if err := x.db.PlaceExport(ctx, e, url); err != nil {
		return err
	}
	b, key, err := x.places.Of(about.Project).Open(ctx, url)
	if err != nil {
		return err
	}
	defer func() { _ = b.Close() }()
	if out.w, err = b.Create(ctx, key, bucket.WriteOptions{ContentType: f.ContentType, Work: e.ID.String(), Attempt: int(e.Attempts)}); err != nil {
		return err
	}
	defer out.w.Abort()
	if err := f.Write(out, columns, out.count(rows), 0, o); err != nil {
		return because(ctx, err)
	}
	fault.Point("export-written")
	if err := x.renew(ctx, e, out); err != nil { // the last moment at which it can be taken back
		return because(ctx, err)
	}
	if err := out.w.Commit(); err != nil {
		return because(ctx, err)
	}
	fault.Point("export-committed")
	return nil
}

// content is what goes into the file. A report's question is asked anew, about the project that the export belongs to.
func (x *Exporter) content(ctx context.Context, e store.Export) ([]report.Column, iter.Seq2[[][]byte, error], error) {
	if e.BatchID != nil {
		return report.ResultColumns, x.db.ExportResults(ctx, *e.BatchID, e.Status, e.FirstIndex, e.LastIndex), nil
	}
	var q question
	if err := json.Unmarshal(e.Report, &q); err != nil {
		return nil, nil, fmt.Errorf("export: stored question: %w", err)
	}
	r, ok := report.Find(q.Name)
	if !ok {
		return nil, nil, &jobs.Error{Message: "there is no report " + q.Name + " any more"}
	}
	s, err := r.Build(e.ProjectID, q.Query)
	if refused, ok := errors.AsType[*report.Error](err); ok {
		return nil, nil, &jobs.Error{Message: "the report can't be asked this way any more: " + refused.Field + ": " + refused.Message}
	}
	return s.Columns, x.db.Raw(ctx, s.SQL, s.Args...), err
}

// because prefers why the context was ended to what broke because of that.
func because(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// meter counts and sums up what goes to a file.
type meter struct {
	w           *bucket.Writer
	sum         hash.Hash
	rows, bytes atomic.Int64
}

func (m *meter) Write(p []byte) (int, error) {
	n, err := m.w.Write(p)
	m.bytes.Add(int64(n))
	_, _ = m.sum.Write(p[:n])
	fault.Point("export-part")
	return n, err
}

func (m *meter) count(rows iter.Seq2[[][]byte, error]) iter.Seq2[[][]byte, error] {
	return func(yield func([][]byte, error) bool) {
		for row, err := range rows {
			if err == nil {
				m.rows.Add(1)
			}
			if !yield(row, err) {
				return
			}
		}
	}
}
