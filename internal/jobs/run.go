package jobs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"batchwright/internal/fault"
	"batchwright/internal/gateway"
	"batchwright/internal/store"
)

// runTicket claims the jobs behind a ticket, runs them, and closes the ticket when each is settled or handed back.
func (w *Worker) runTicket(soft, hard context.Context, t store.Ticket) error {
	n := int64(min(max(t.Jobs, 1), maxTicket))
	if t.Express {
		n = 0 // small and few, and not to wait behind a large batch's
	}
	full := w.room.Acquire(soft, n)
	// What decides whether a ticket is ours isn't cut short by a stop: an answer that nobody waited for would hold the jobs for a lease.
	steady, cancel := context.WithTimeout(context.WithoutCancel(soft), w.o.Lease/2)
	defer cancel()
	if full != nil { // told to stop: another worker gets the ticket with the next sweep
		return w.DB.ReturnTicket(steady, t.ID)
	}
	b, err := w.load(steady, t.BatchID)
	if err != nil {
		w.room.Release(n)
		return err
	}
	ctx, cut := context.WithCancel(hard)
	defer cut()
	l := &lease{ticket: t, batch: b, stop: make(chan struct{}), cut: cut, done: make(chan struct{})}
	claimed, err := w.DB.ClaimJobs(steady, t, w.self.ID, w.o.Lease)
	if err != nil { // claimed or not, nobody knows: if so, the lease expires
		w.room.Release(n)
		return fmt.Errorf("claim jobs: %w", err)
	}
	fault.Point("claimed")
	kept := min(n, int64(len(claimed)))
	w.room.Release(n - kept)
	if len(claimed) == 0 { // done, or somebody's: maybe this worker's own, whose task was delivered twice
		defer w.nudge()
		return w.persist(steady, func(ctx context.Context) error { return w.DB.EndIdleTicket(ctx, t.ID, w.self.ID) })
	}
	l.left.Store(int32(len(claimed)))
	now := time.Now()
	l.party = w.gate.join(b.ProjectID, b.ID)
	defer w.gate.part(l.party)
	w.hold(l)
	if soft.Err() != nil {
		l.close()
	}
	var unsettled atomic.Bool
	known, err := w.recheck(steady, b, t, claimed)
	if err != nil { // handed back: without a look, an answer might be paid for twice
		w.Log.WarnContext(ctx, "jobs not looked up again", "batch", b.ID, "ticket", t.ID, "err", err)
		l.close()
	}
	done := func(n int, settled bool) {
		if !settled {
			unsettled.Store(true)
		}
		if kept > 0 {
			w.room.Release(int64(n))
		}
		if l.left.Add(-int32(n)) == 0 {
			close(l.done)
		}
	}
	for i, job := range claimed {
		t := &task{w: w, batch: b, lease: l, job: job, claimed: now, known: known[i]}
		begin := func() { w.crew.do(func() { w.runJob(ctx, t, func(settled bool) { done(1, settled) }) }) }
		if !t.calls() {
			begin()
			continue
		}
		w.gate.queue(l, begin)
	}
	select {
	case <-l.done:
	case <-l.stop:
	case <-ctx.Done():
	}
	if n := w.gate.dismiss(l); n > 0 {
		done(n, false)
	}
	<-l.done
	w.drop(l) // before the ticket is closed: the heartbeat would take it for a lost one
	return w.closeTicket(context.WithoutCancel(soft), b, t, !unsettled.Load())
}

func (w *Worker) closeTicket(ctx context.Context, b *batch, t store.Ticket, settled bool) error {
	fault.Point("ticket-closing")
	ctx, cancel := context.WithTimeout(ctx, w.o.Lease)
	defer cancel()
	defer w.nudge()
	if settled {
		return w.persist(ctx, func(ctx context.Context) error { return w.DB.EndTicket(ctx, t.ID, w.self.ID) })
	}
	returned := 0
	err := w.persist(ctx, func(ctx context.Context) (err error) {
		returned, err = w.DB.CloseTicket(ctx, t.ID, w.self.ID)
		return err
	})
	if err != nil {
		return fmt.Errorf("close ticket: %w", err)
	}
	if returned > 0 {
		w.Log.InfoContext(ctx, "jobs handed back", "batch", b.ID, "ticket", t.ID, "jobs", returned)
	}
	return nil
}

// runJob makes one attempt at a job, and says to then whether the job is settled; else it is to be handed back. It doesn't wait for what it
// has written: its place, and the deep stack of its call, are the next job's meanwhile.
func (w *Worker) runJob(ctx context.Context, t *task, then func(settled bool)) {
	var s settlement
	ok := true
	switch {
	case t.known != nil:
		s = t.reuse()
	case !t.calls() && t.lease.closed(): // maybe because the cache couldn't be asked
		ok = false
	case !t.calls():
		s, ok = t.settle(result{}, failf(notCached, "the result cache has no answer%s, and the batch makes no calls (cache is only)", t.batch.youngEnough()))
	default:
		out, err := w.attempt(ctx, t)
		s, ok = t.settle(out, err)
	}
	if !ok {
		s.job = nil // handed back when the ticket closes; what its calls took and brought is written all the same
	}
	if s.job == nil && len(s.calls) == 0 && len(s.answers) == 0 {
		then(false)
		return
	}
	fault.Point("answered")
	ctx = context.WithoutCancel(ctx) // what follows is written even when ctx was cut: the answer is paid for
	w.settlements.add(s, func(err error) {
		if err != nil && s.job != nil && !errors.Is(err, store.ErrLeaseLost) {
			w.Log.ErrorContext(ctx, "settlement failed", "batch", t.batch.ID, "seq", t.job.Seq, "err", err)
			if !passing(err) { // Postgres won't have these values, next time either: running the job again would only pay again
				bare := bare(s)
				w.settlements.add(bare, func(err error) { then(w.kept(t, bare.job, err)) })
				return
			}
		}
		then(w.kept(t, s.job, err))
	})
}

// kept notes what became of a job. It reports whether it is settled.
func (w *Worker) kept(t *task, job *store.Settlement, err error) bool {
	if err != nil || job == nil {
		return false
	}
	fault.Point("settled")
	w.settled.Add(1)
	w.o.Meter.Settled(job.State)
	if job.State != "waiting" {
		w.progressed(t.batch)
	}
	return true
}

// bare is a failed job's settlement with nothing in it that came from outside. How its calls ended is lost, so they may have been billed.
func bare(s settlement) settlement {
	job := store.Settlement{ProjectID: s.job.ProjectID, BatchID: s.job.BatchID, Seq: s.job.Seq, TicketID: s.job.TicketID, State: "failed",
		Counted: true, ErrorClass: string(gateway.Unknown), ErrorMessage: workerFault, Calls: s.job.Calls, InputTokens: s.job.InputTokens,
		CachedInputTokens: s.job.CachedInputTokens, OutputTokens: s.job.OutputTokens, CostMicrousd: s.job.CostMicrousd}
	out := settlement{job: &job, followers: s.followers}
	for i, c := range s.calls {
		if c.UsageKnown {
			job.InputTokens, job.CachedInputTokens, job.OutputTokens = job.InputTokens-c.InputTokens, job.CachedInputTokens-c.CachedInputTokens, job.OutputTokens-c.OutputTokens
		}
		job.CostMicrousd = nil
		out.calls = append(out.calls, store.Outcome{CallID: c.CallID, Uncertain: true, Step: c.Step, Provider: c.Provider, Model: c.Model, ErrorClass: string(gateway.Unknown)})
		out.holds = append(out.holds, hold{s.holds[i].held, s.holds[i].held.amount})
	}
	return out
}

// attempt runs the job with the place it has at the gate, which is that of its first call.
func (w *Worker) attempt(ctx context.Context, t *task) (out result, err error) {
	t.first.Store(&place{t: t, held: true})
	defer func() {
		if p := t.first.Swap(nil); p != nil { // it made no call
			p.Leave()
		}
	}()
	err = guarded(func() (err error) {
		out, err = t.batch.kind.run(ctx, t)
		return err
	})()
	if p, ok := errors.AsType[*panicError](err); ok {
		w.Log.ErrorContext(ctx, "job panicked", "batch", t.batch.ID, "seq", t.job.Seq, "panic", p.what, "stack", p.stack)
	}
	return out, err
}

// settle is the whole policy: what becomes of a job after an attempt. Not ok: the job goes back without an attempt counted.
func (t *task) settle(out result, err error) (settlement, bool) {
	s := t.take()
	t.mu.Lock()
	total := t.totals
	t.mu.Unlock()
	job := &store.Settlement{
		ProjectID: t.batch.ProjectID, BatchID: t.batch.ID, Seq: t.job.Seq, TicketID: t.lease.ticket.ID,
		Counted: true, Calls: total.calls, InputTokens: total.input, CachedInputTokens: total.cached, OutputTokens: total.output, CostMicrousd: total.microusd(),
	}
	s.job, s.followers = job, t.batch.HasFollowers
	if err == nil {
		t.succeed(&s, out, total)
		return s, true
	}
	class, message, retry, wait := t.judge(err)
	if class == gateway.Cancelled {
		return s, false
	}
	job.ErrorClass, job.ErrorMessage = string(class), clean(message)
	if f, ok := errors.AsType[*failure](err); ok {
		job.RawOutput = clean(f.raw)
	}
	// Waiting for a rate costs nothing and may take as long as it takes, but not when each time another step of the chain is paid in vain.
	// So is waiting for a budget.
	job.Counted = class != gateway.RateLimited && (class != gateway.Budget || !retry) || total.wasted
	attempts := t.job.Attempts
	if job.Counted {
		attempts++
	}
	job.State = "failed"
	if !retry || int(attempts) >= t.batch.maxAttempts(t.w.o) {
		return s, true
	}
	least, spread := pause(class, wait, attempts)
	room := t.left() - least
	if room <= 0 {
		job.ErrorMessage = clean(fmt.Sprintf("gave up %s after the first attempt, with %s allowed: %s", t.age().Round(time.Second), t.batch.jobTimeout(t.w.o), message))
		return s, true
	}
	job.State, job.RetryIn = "waiting", least+rand.N(min(spread, room/2)+1)
	return s, true
}

func (t *task) succeed(s *settlement, out result, total totals) {
	job := s.job
	step := t.route.Steps[out.step]
	key := out.resultKey
	if t.batch.Cache == "off" {
		key = ownKey(t.batch.ID, t.job.Seq)
	}
	job.State, job.ResultKey, job.Provider, job.Model = "succeeded", key[:], step.Provider, out.model
	job.Refresh, job.Repaired = t.batch.Renews(), string(out.repaired)
	switch {
	case t.batch.Cache != "use":
		job.CacheStatus = "bypass"
	case out.reused:
		job.CacheStatus = "result_hit"
	case out.hit:
		job.CacheStatus = "gateway_hit"
	default:
		job.CacheStatus = "miss"
	}
	s.answers = append(s.answers, store.Completion{
		ProjectID: t.batch.ProjectID, Key: key, Refresh: job.Refresh, Model: out.model, Provider: step.Provider,
		AnsweredBy: clean(out.by), Format: out.format, Output: clean(out.output), Details: out.details,
		InputTokens: total.input, CachedInputTokens: total.cached, OutputTokens: total.output, CostMicrousd: total.microusd(),
	})
}

// judge turns an attempt's error into its class, its words, and whether and when to try again. Class cancelled hands the job back.
func (t *task) judge(err error) (class gateway.Class, message string, retry bool, wait time.Duration) {
	if f, ok := errors.AsType[*failure](err); ok {
		return f.class, f.message, f.retry, 0
	}
	if errors.Is(err, errHandedBack) {
		return gateway.Cancelled, "", false, 0
	}
	if e, ok := errors.AsType[*gateway.Error](err); ok {
		switch e.Class {
		case gateway.RateLimited, gateway.Overloaded, gateway.Timeout, gateway.Network, gateway.Server:
			retry = true
		}
		return e.Class, e.Error(), retry, min(e.RetryAfter, time.Hour)
	}
	if passing(err) { // our own stop, or our own database: not the job's fault
		return gateway.Cancelled, "", false, 0
	}
	t.w.Log.Error("job failed on our side", "batch", t.batch.ID, "seq", t.job.Seq, "err", err)
	return gateway.Unknown, workerFault, false, 0
}

const workerFault = "the worker failed on this job; its log says why"

// rateLimitWait is the mean wait after a rate limit that doesn't say how long it lasts.
const rateLimitWait = 15 * time.Second

// pause says how long a job waits before its next attempt: least, and a random part of spread on top. Jobs that failed together, at one
// limit or in one outage, must not come back together. told is how long the provider wants to be left alone, 0 when it doesn't say.
func pause(class gateway.Class, told time.Duration, attempts int32) (least, spread time.Duration) {
	switch {
	case told > 0:
		return told, told/2 + time.Second
	case class == gateway.RateLimited: // not counted, so it wouldn't grow either
		return rateLimitWait / 2, rateLimitWait
	}
	return 100 * time.Millisecond, min(2*time.Second<<min(max(attempts-1, 0), 10), time.Minute) // full jitter
}

// settlement is what one task hands to the writer: how calls ended, answers to keep, and what becomes of the job.
type settlement struct {
	calls     []store.Outcome
	holds     []hold // one of each call
	answers   []store.Completion
	job       *store.Settlement
	followers bool
}

// writeSettlements writes a set in one transaction. When the set can't be written as it is, its items are tried apart, so that one bad row
// costs one job.
func (w *Worker) writeSettlements(ctx context.Context, items []settlement) []error {
	n := len(items)
	calls, holds := make([]store.Outcome, 0, n), make([]hold, 0, n)
	answers, jobs := make([]store.Completion, 0, n), make([]store.Settlement, 0, n)
	followers := false
	for i := range items {
		calls, holds = append(calls, items[i].calls...), append(holds, items[i].holds...)
		answers = append(answers, items[i].answers...)
		if items[i].job != nil {
			jobs = append(jobs, *items[i].job)
		}
		followers = followers || items[i].followers
	}
	// Two writers that insert the same keys in different orders would wait for each other.
	slices.SortFunc(answers, func(a, b store.Completion) int { return bytes.Compare(a.Key[:], b.Key[:]) })
	var done []store.Settled
	err := w.persist(ctx, func(ctx context.Context) (err error) {
		done, err = w.DB.Settle(ctx, calls, answers, jobs, followers)
		return err
	})
	if err != nil && len(items) > 1 && !passing(err) {
		mid := len(items) / 2
		return append(spread(w.writeSettlements(ctx, items[:mid]), mid), spread(w.writeSettlements(ctx, items[mid:]), len(items)-mid)...)
	}
	if err != nil {
		return slices.Repeat([]error{err}, len(items))
	}
	for i, h := range holds {
		if !calls[i].Late {
			w.purses.settle(h.held, h.charge)
		}
	}
	w.release(ctx, done)
	if len(done) == len(jobs) {
		return nil
	}
	accepted := make(map[jobRef]bool, len(done))
	for _, d := range done {
		accepted[jobRef{d.BatchID, d.Seq}] = true
	}
	errs := make([]error, len(items))
	for i := range items {
		if j := items[i].job; j != nil && !accepted[jobRef{j.BatchID, j.Seq}] {
			errs[i] = store.ErrLeaseLost
		}
	}
	return errs
}

type jobRef struct {
	batch uuid.UUID
	seq   int32
}

// passing reports whether err is of the database's state, not of what was written.
func passing(err error) bool {
	return store.IsTransient(err) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)
}

func spread(errs []error, n int) []error {
	if errs == nil {
		return make([]error, n)
	}
	return errs
}

func (w *Worker) writeIntents(ctx context.Context, items []intent) []error {
	// Each batch has one draw, the newest. What was reserved under an older one is in slices that may be gone.
	newest := make(map[uuid.UUID]*draw, 4)
	for i := range items {
		d := items[i].held.draw
		if have := newest[d.BatchID]; have == nil || have.version < d.version {
			newest[d.BatchID] = d
		}
	}
	draws := make([]store.Draw, 0, len(newest))
	for _, d := range newest {
		draws = append(draws, d.Draw)
	}
	errs := make([]error, len(items))
	in, index := make([]store.Intent, 0, len(items)), make([]int, 0, len(items))
	for i := range items {
		if r := items[i].held; r.amount > 0 && r.draw != newest[r.draw.BatchID] {
			errs[i] = errStale
			continue
		}
		in, index = append(in, items[i].Intent), append(index, i)
	}
	var written []store.CallID
	var stale []uuid.UUID
	tries := 0
	err := w.persist(ctx, func(ctx context.Context) (err error) {
		tries++
		written, stale, err = w.DB.InsertIntents(ctx, in, draws)
		return err
	})
	switch {
	case err == nil && len(written) == len(items):
		return nil
	case err != nil && len(items) > 1 && !passing(err):
		mid := len(items) / 2
		return append(spread(w.writeIntents(ctx, items[:mid]), mid), spread(w.writeIntents(ctx, items[mid:]), len(items)-mid)...)
	}
	ok := make(map[store.CallID]bool, len(written))
	for _, id := range written {
		ok[id] = true
	}
	for k, i := range index {
		switch {
		case err != nil:
			errs[i] = fmt.Errorf("write intent: %w: %w", errUnsure, err)
		case ok[in[k].CallID]:
		case slices.Contains(stale, in[k].BatchID):
			errs[i] = errStale
		default:
			errs[i] = store.ErrLeaseLost
		}
		if errs[i] != nil && err == nil && tries > 1 { // by a try whose answer was lost
			errs[i] = fmt.Errorf("%w: %w", errUnsure, errs[i])
		}
	}
	return errs
}

// persist repeats a write while the database can't be reached, for as long as a lease may last: longer than that nobody waits for it.
func (w *Worker) persist(ctx context.Context, write func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, w.o.Lease)
	defer cancel()
	for n := int32(0); ; n++ {
		err := write(ctx)
		if err == nil || !store.IsTransient(err) || ctx.Err() != nil {
			return err
		}
		w.Log.WarnContext(ctx, "database write failed, will be tried again", "err", err)
		timer := time.NewTimer(min(100*time.Millisecond<<n, 2*time.Second))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return err
		}
	}
}
