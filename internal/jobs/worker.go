package jobs

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"

	"batchwright/internal/document"
	"batchwright/internal/fault"
	"batchwright/internal/gateway"
	"batchwright/internal/pricing"
	"batchwright/internal/store"
)

// WorkerOptions tune a [Worker]. The zero value is the default.
type WorkerOptions struct {
	Concurrency    int           // calls in flight at most, a few of express tickets aside; default 256
	Slots          int           // tickets worked on at once; default an eighth of Concurrency, but 64 at least
	MaxAttempts    int           // counted attempts before a job fails, unless its batch says otherwise; default 4
	JobTimeout     time.Duration // from a job's first attempt until it isn't tried again, unless its batch says otherwise; default a day
	Lease          time.Duration // after which a silent worker counts as dead; default 30 s
	Grace          time.Duration // for calls in flight when the worker is told to stop; default 20 s
	CancelGrace    time.Duration // for calls in flight when their batch is cancelled or expires; default 20 s
	Patience       time.Duration // after which a posted ticket that nobody claimed is posted again; default 10 s
	UploadPatience time.Duration // after which an upload that shows no sign of life is given up; default [store.UploadPatience]
	StallAfter     time.Duration // without a job of a running batch becoming final, after which it counts as stalled; default 15 min
	Tag            bool          // send the job's id and labels along with each call, for the gateway's log
	Meter          Meter         // is told what the worker does; nil for nobody
}

// Worker plans and runs jobs. Any number of workers share a database; none of them leads.
type Worker struct {
	DB      *store.DB
	Gateway gateway.Gateway
	Prices  *pricing.Table
	Post    func(context.Context, []store.Ticket) error // enqueues tickets; may lose or double them
	Log     *slog.Logger
	// Extract reads a document in a format that document.Detect has found, apart from this process; nil to read it here. What is wrong with the
	// document is a *document.Error. Readers is how many it reads at once, at least 1.
	Extract func(ctx context.Context, format string, data []byte) (document.Document, error)
	Readers int
	Service *Service // makes the batches of schedules and gathers sources; without one this worker leaves them to others

	o           WorkerOptions
	self        store.Worker
	gate        *gate
	room        *semaphore.Weighted // claimed jobs, so that one worker doesn't hoard what another could run; those of express tickets aside
	intents     *group[intent]
	settlements *group[settlement]
	wake        chan struct{} // dispatch, there may be room
	beat        chan struct{} // heartbeat, a batch may have been paused, ended or changed
	look        chan struct{} // sweep, it is no longer quiet
	starts      chan store.OpenBatch
	calendar    chan struct{} // schedule, there may be something due
	ticks       chan struct{} // runTicks, there may be ticks to take
	sources     chan struct{} // gatherSources, there may be sources to gather
	nextTick    atomic.Int64  // nanoseconds until something is due, as of the last look
	quiet       atomic.Bool   // nothing is open
	settled     atomic.Int64  // jobs, since the start
	pace        pace
	crew        *crew
	following   map[uuid.UUID]*recurrence // of the sweep only
	purses      *purses
	purgeAt     time.Time // of the sweep only: when to look for batches to purge
	trimAt      time.Time // of schedule only: when to look for old ticks

	mu      sync.Mutex
	batches map[uuid.UUID]*batch
	leases  map[int64]*lease
	moved   []*batch // since the last heartbeat; see progressed
}

// lease is a ticket that this worker holds.
type lease struct {
	ticket store.Ticket
	batch  *batch
	party  *party // of its batch, at the gate
	once   sync.Once
	stop   chan struct{}      // closed: start no more calls
	cut    context.CancelFunc // ends the calls in flight as well
	left   atomic.Int32       // jobs that are not done: only they fill the dispatch window
	done   chan struct{}      // closed: none is left
	grace  *time.Timer        // cuts, once the batch is being cancelled; guarded by the worker's mu
}

func (l *lease) close() { l.once.Do(func() { close(l.stop) }) }

func (l *lease) closed() bool {
	select {
	case <-l.stop:
		return true
	default:
		return false
	}
}

// NewWorker checks its parts and returns a worker that does nothing until Run.
func NewWorker(db *store.DB, gw gateway.Gateway, prices *pricing.Table, post func(context.Context, []store.Ticket) error, log *slog.Logger, o WorkerOptions) (*Worker, error) {
	o.Concurrency = cmp.Or(o.Concurrency, 256)
	o.Slots = cmp.Or(o.Slots, min(max(o.Concurrency/8, 64), 1000)) // tickets of small batches stand for few jobs
	o.MaxAttempts = cmp.Or(o.MaxAttempts, 4)
	o.JobTimeout = cmp.Or(o.JobTimeout, 24*time.Hour)
	o.Lease = cmp.Or(o.Lease, 30*time.Second)
	o.Grace = cmp.Or(o.Grace, 20*time.Second)
	o.CancelGrace = cmp.Or(o.CancelGrace, 20*time.Second)
	o.Patience = cmp.Or(o.Patience, 10*time.Second)
	o.UploadPatience = cmp.Or(o.UploadPatience, store.UploadPatience)
	if o.Meter == nil {
		o.Meter = noMeter{}
	}
	o.StallAfter = cmp.Or(o.StallAfter, 15*time.Minute)
	id, err := uuid.NewV7()
	if err != nil {
		return nil, err
	}
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	w := &Worker{
		DB: db, Gateway: gw, Prices: prices, Post: post, Log: log.With("worker", id), o: o,
		self: store.Worker{ID: id, Hostname: host, PID: int32(os.Getpid()), Slots: int32(o.Slots), Concurrency: int32(o.Concurrency)},
		gate: newGate(o.Concurrency),
		room: semaphore.NewWeighted(int64(max(2*o.Concurrency, 2*maxTicket))),
		wake: make(chan struct{}, 1), beat: make(chan struct{}, 1), look: make(chan struct{}, 1), starts: make(chan store.OpenBatch),
		calendar: make(chan struct{}, 1), ticks: make(chan struct{}, 1), sources: make(chan struct{}, 1),
		batches: map[uuid.UUID]*batch{}, leases: map[int64]*lease{}, following: map[uuid.UUID]*recurrence{},
	}
	w.crew = newCrew()
	w.purses = newPurses(db, id, prices)
	w.intents = newGroup(500, 2*time.Millisecond, w.writeIntents)
	w.settlements = newGroup(500, 2*time.Millisecond, w.writeSettlements)
	return w, nil
}

// Lanes is how many tickets of each kind the worker wants to work on at once. Each kind comes by a lane of its own: a new batch is
// planned, and its first jobs run, however many tickets of large ones wait. Planning is CPU, and three ranges at once keep it and Postgres busy.
func (w *Worker) Lanes() (plan, express, run int) { return 3, max(w.o.Slots/4, 2), w.o.Slots }

// Run works until ctx ends. serve must hand tickets to work until its context ends, and return when the last call of work has. Then no
// call is begun any more; those in flight get the grace time, are cut after it, and what isn't settled is handed back.
func (w *Worker) Run(ctx context.Context, serve func(ctx context.Context, work func(context.Context, store.Ticket)) error) error {
	if err := w.DB.Register(ctx, w.self); err != nil {
		if ctx.Err() != nil {
			return nil // told to stop before it began
		}
		return fmt.Errorf("jobs: register worker: %w", err)
	}
	// Three ends, in this order: ctx (no new work), hard (calls in flight are cut), last (writes stop).
	hard, cut := context.WithCancel(context.WithoutCancel(ctx))
	defer cut()
	last, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	var writers sync.WaitGroup
	for range 2 {
		writers.Go(func() { w.intents.run(last) })
		writers.Go(func() { w.settlements.run(last) })
	}
	g, gctx := errgroup.WithContext(last)
	served := make(chan struct{})
	g.Go(func() error {
		defer close(served)
		return serve(ctx, func(_ context.Context, t store.Ticket) { w.work(ctx, hard, t) })
	})
	g.Go(func() error { // after the soft end: grace, then cut
		select {
		case <-served:
			return nil
		case <-ctx.Done():
		}
		w.stopAll()
		grace := time.NewTimer(w.o.Grace)
		defer grace.Stop()
		select {
		case <-served:
		case <-grace.C:
			cut()
		}
		return nil
	})
	stopping := make(chan struct{})
	listening, deaf := context.WithCancel(gctx)
	defer deaf()
	g.Go(func() error { <-served; close(stopping); deaf(); return nil })
	g.Go(func() error { w.DB.Listen(listening, w.Log, w.hear); return nil })
	stall := min(max(w.o.StallAfter/10, time.Second), time.Minute)
	for _, r := range []struct {
		busy, quiet time.Duration
		nudge       <-chan struct{}
		do          func(context.Context) error
	}{
		{w.o.Lease / 6, w.o.Lease / 6, w.beat, w.heartbeat},
		{time.Second, 10 * time.Second, w.wake, w.timed(w.dispatch)},
		{2 * time.Second, min(30*time.Second, w.o.UploadPatience), w.look, w.sweep},
		{w.o.Lease / 6, w.o.Lease, nil, w.touch},
		{stall, stall, nil, w.findStalled},
		{2 * time.Second, 10 * time.Second, nil, w.keepBudgets},
	} {
		g.Go(func() error { return w.every(gctx, stopping, w.steadily(r.busy, r.quiet), r.nudge, r.do) })
	}
	for range 3 {
		g.Go(func() error { w.startBatches(ctx); return nil })
	}
	if w.Service != nil {
		g.Go(func() error { return w.every(gctx, stopping, w.untilDue, w.calendar, w.schedule) })
		for range tickRunners {
			g.Go(func() error { w.runTicks(ctx); return nil })
		}
		g.Go(func() error { w.gatherSources(ctx); return nil })
	}
	err := g.Wait()
	w.crew.stop()
	w.intents.close()
	w.settlements.close()
	writers.Wait()
	bye, cancel := context.WithTimeout(last, 5*time.Second)
	defer cancel()
	if rerr := w.DB.ReturnAllSlices(bye, w.self.ID); rerr != nil {
		w.Log.WarnContext(bye, "slices not returned, another worker will take them back", "err", rerr)
	}
	if uerr := w.DB.Unregister(bye, w.self.ID); uerr != nil {
		w.Log.WarnContext(bye, "worker not unregistered", "err", uerr)
	}
	return err
}

// nudgeGap is the least time between two rounds that were nudged; after one that took long it is twice as long as that.
const nudgeGap = 20 * time.Millisecond

// steadily is how long a loop waits for its next round: what is a hint may have been lost, so it waits even when all is quiet no longer than that.
func (w *Worker) steadily(busy, quiet time.Duration) func() time.Duration {
	return func() time.Duration {
		if w.quiet.Load() {
			return quiet
		}
		return busy
	}
}

// hear takes a hint from the database.
func (w *Worker) hear(hint string) {
	switch hint {
	case store.HintControl:
		poke(w.beat)
	case store.HintSchedule:
		poke(w.calendar)
		return
	case store.HintSource:
		poke(w.sources)
		return
	}
	w.nudge()
}

func poke(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// every runs f at once, then after each period or nudge, until stopping is closed. An error of f is logged: the next round tries again.
func (w *Worker) every(ctx context.Context, stopping <-chan struct{}, period func() time.Duration, nudge <-chan struct{}, f func(context.Context) error) error {
	tick := time.NewTimer(0)
	defer tick.Stop()
	rest := time.NewTimer(nudgeGap)
	defer rest.Stop()
	for {
		began := time.Now()
		round, cancel := context.WithTimeout(ctx, w.o.Lease/2) // a connection that hangs must not outlast the leases
		if err := f(round); err != nil && ctx.Err() == nil {
			w.Log.WarnContext(ctx, "round failed, will be tried again", "err", err)
		}
		cancel()
		rest.Reset(max(nudgeGap, 2*time.Since(began)))
		tick.Reset(period())
		select {
		case <-stopping:
			return nil
		case <-ctx.Done():
			return nil
		case <-tick.C:
			continue
		case <-nudge:
		}
		select { // nudges come in swarms: one round serves them all
		case <-rest.C:
		case <-stopping:
			return nil
		case <-ctx.Done():
			return nil
		}
	}
}

// hold makes a lease known to the heartbeat, until drop. It comes after the claim: before it, the heartbeat would take the ticket for a lost one.
func (w *Worker) hold(l *lease) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.leases[l.ticket.ID] = l
}

func (w *Worker) drop(l *lease) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.leases, l.ticket.ID)
	if l.grace != nil {
		l.grace.Stop()
	}
}

func (w *Worker) nudge() { poke(w.wake) }

func (w *Worker) stopAll() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, l := range w.leases {
		l.close()
	}
}

// heartbeat renews all leases at once, and learns what has changed about their batches. A lease that didn't come back is lost: its calls
// are cut, and nothing more is written under it.
func (w *Worker) heartbeat(ctx context.Context) error {
	w.mu.Lock()
	before := make(map[int64]*lease, len(w.leases))
	ids, left := make([]int64, 0, len(w.leases)), make([]int32, 0, len(w.leases))
	for id, l := range w.leases {
		before[id] = l
		ids, left = append(ids, id), append(left, l.left.Load())
	}
	w.mu.Unlock()
	held, err := w.DB.Renew(ctx, w.self, w.o.Lease, ids, left)
	if err != nil {
		return fmt.Errorf("renew leases: %w", err)
	}
	for _, id := range held {
		delete(before, id)
	}
	for id, l := range before {
		w.mu.Lock()
		current := w.leases[id] == l // it may just have ended
		w.mu.Unlock()
		if current {
			w.Log.WarnContext(ctx, "lease lost", "ticket", id, "batch", l.ticket.BatchID)
			l.close()
			l.cut()
		}
	}
	return w.refresh(ctx)
}

// sweep ends batches whose time is over, takes back what dead workers held, and posts again what seems lost.
func (w *Worker) sweep(ctx context.Context) error {
	ended, err := w.DB.Expire(ctx)
	for _, id := range ended {
		w.Log.InfoContext(ctx, "batch expired", "batch", id)
		w.nudge()
	}
	if err != nil {
		return fmt.Errorf("expire: %w", err)
	}
	reissued, returned, err := w.DB.Sweep(ctx, w.o.Patience)
	if err != nil {
		return fmt.Errorf("sweep: %w", err)
	}
	if returned > 0 || len(reissued) > 0 {
		fault.Point("swept")
		w.Log.InfoContext(ctx, "swept", "jobs_returned", returned, "tickets_reissued", len(reissued))
		w.nudge()
	}
	return errors.Join(w.post(ctx, reissued), w.reconcile(ctx), w.tidy(ctx))
}

func (w *Worker) post(ctx context.Context, tickets []store.Ticket) error {
	if len(tickets) == 0 {
		return nil
	}
	if err := w.Post(ctx, tickets); err != nil { // they are in Postgres: the sweep posts them again
		return fmt.Errorf("post %d tickets: %w", len(tickets), err)
	}
	fault.Point("posted")
	return nil
}

// work does what a ticket says. It never fails: whatever goes wrong, the ticket is in Postgres, and is closed here or expires.
func (w *Worker) work(soft, hard context.Context, t store.Ticket) {
	var err error
	if t.Purpose == store.PurposePlan {
		err = w.planTicket(soft, hard, t)
	} else {
		err = w.runTicket(soft, hard, t)
	}
	if err != nil && soft.Err() == nil && !errors.Is(err, store.ErrLeaseLost) {
		w.Log.ErrorContext(soft, "ticket failed", "ticket", t.ID, "batch", t.BatchID, "purpose", t.Purpose, "err", err)
	}
}

// load returns a batch ready for use. Running batches are kept: but for its standing, which the heartbeat refreshes, what a batch holds is
// fixed once it runs.
func (w *Worker) load(ctx context.Context, id uuid.UUID) (*batch, error) {
	w.mu.Lock()
	b := w.batches[id]
	w.mu.Unlock()
	if b != nil {
		return b, nil
	}
	row, err := w.DB.AnyBatch(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("load batch: %w", err)
	}
	if b, err = compile(ctx, w.DB.Reader, row); err != nil {
		return nil, err
	}
	if b.State == "running" {
		w.mu.Lock()
		if len(w.batches) >= 1000 {
			clear(w.batches)
		}
		w.batches[id] = b
		w.mu.Unlock()
	}
	return b, nil
}
