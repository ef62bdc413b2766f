package jobs

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/google/uuid"

	"batchwright/internal/fault"
	"batchwright/internal/gateway"
	"batchwright/internal/pricing"
	"batchwright/internal/store"
)

// purses hold the slices of budgets that this worker has leased. To reserve for a call is arithmetic under a mutex; the database is asked
// only when a slice hasn't enough. Nothing here is a promise: an intent is written only while the slices that it draws on are there, by the
// database's clock and books, and a worker that finds itself out of date asks again. What is in use here is never less than there.
type purses struct {
	db     ledgerStore
	worker uuid.UUID
	prices *pricing.Table // the server's, under those of projects

	mu       sync.Mutex
	accounts map[uuid.UUID]*account // by batch
	budgets  map[uuid.UUID]*purse
	version  int64 // of the draw that was made last
	leases   int64 // that were granted
}

// ledgerStore is what purses ask of the database.
type ledgerStore interface {
	Account(ctx context.Context, batch, worker uuid.UUID) (store.Account, error)
	LeaseSlice(ctx context.Context, budget, worker uuid.UUID, missing, need, wish int64) (store.Slice, *store.Refusal, error)
	ReturnSlices(ctx context.Context, worker uuid.UUID, idle []int64) ([]int64, error)
}

// account is what a batch's calls draw on.
type account struct {
	ready   chan struct{} // closed once it is loaded, or couldn't be
	err     error
	bare    *draw // of calls that can't cost anything
	current *draw
	purses  []*purse
	prices  *pricing.Table
	paused  time.Time // when this worker last asked to pause the batch
}

// draw is what the database is told with an intent.
type draw struct {
	store.Draw
	account *account
	version int64
}

// purse is this worker's part of one budget.
type purse struct {
	id      uuid.UUID
	slice   *slice        // nil when there is none
	leasing chan struct{} // closed when the lease that is under way is over
	step    int64         // to ask for in advance
	leased  time.Time
	lease   int64          // number of the last one
	used    time.Time      // for a reservation, last
	refusal *store.Refusal // the last one
	until   time.Time      // for how long it is taken to hold
}

type slice struct {
	id      int64
	granted int64
	used    int64 // reserved or spent
}

// reservation is what one call holds until its outcome is written.
type reservation struct {
	draw   *draw
	slices []*slice
	amount int64
}

const (
	refusalHolds = 250 * time.Millisecond // before a budget is asked again
	leaseAhead   = 2 * time.Second        // leases that come faster ask for twice as much, slower ones for half
	idleSlice    = 5 * time.Second        // after which a slice that nothing was reserved in is given back
	maxAccounts  = 1000
	maxTries     = 20 // at a reservation, while what was known turns out to be old
)

// refused says that a budget has no room for a call.
type refused struct{ *store.Refusal }

func (r refused) Error() string { return "jobs: refused by budget " + r.Budget.ID.String() }

func newPurses(db ledgerStore, worker uuid.UUID, prices *pricing.Table) *purses {
	return &purses{db: db, worker: worker, prices: prices, accounts: map[uuid.UUID]*account{}, budgets: map[uuid.UUID]*purse{}}
}

// reserve takes the worst case of a call from every budget that applies to its batch, from all or from none. The error is a [refused] when one has
// no room.
func (p *purses) reserve(ctx context.Context, batch uuid.UUID, amount int64) (*reservation, error) {
	for range maxTries {
		a, err := p.account(ctx, batch)
		if err != nil {
			return nil, err
		}
		p.mu.Lock()
		r, short := p.take(a, amount)
		if short == nil {
			p.mu.Unlock()
			return r, nil
		}
		if busy := short.leasing; busy != nil {
			p.mu.Unlock()
			select {
			case <-busy:
			case <-ctx.Done():
				return nil, context.Cause(ctx)
			}
			continue
		}
		now := fault.Now()
		if short.refusal != nil && now.Before(short.until) && amount >= short.refusal.Need {
			last := *short.refusal
			p.mu.Unlock()
			last.Need = amount
			return nil, refused{&last}
		}
		missing := amount
		if s := short.slice; s != nil {
			missing = s.used + amount - s.granted
		}
		if since := now.Sub(short.leased); since < leaseAhead {
			short.step *= 2
		} else if since > 5*leaseAhead {
			short.step /= 2
		}
		short.step = max(short.step, 32*amount)
		short.leasing = make(chan struct{})
		p.mu.Unlock()
		if refusal, err := p.lease(ctx, short, missing, amount); errors.Is(err, store.ErrNotFound) {
			p.forget(batch, a) // deleted meanwhile
		} else if err != nil {
			return nil, fmt.Errorf("lease a budget: %w", err)
		} else if refusal != nil {
			return nil, refused{refusal}
		}
	}
	return nil, errors.New("budgets change faster than they can be read")
}

// take reserves, or names a purse that hasn't enough.
func (p *purses) take(a *account, amount int64) (*reservation, *purse) {
	if len(a.purses) == 0 || amount == 0 {
		return &reservation{draw: a.bare}, nil
	}
	same := a.current != nil
	for i, b := range a.purses {
		if b.slice == nil || b.slice.used+amount > b.slice.granted {
			return nil, b
		}
		same = same && a.current.Slices[i] == b.slice.id
	}
	if !same {
		p.version++
		d := &draw{Draw: a.bare.Draw, account: a, version: p.version}
		for _, b := range a.purses {
			d.Slices = append(d.Slices, b.slice.id)
		}
		a.current = d
	}
	r := &reservation{draw: a.current, amount: amount, slices: make([]*slice, len(a.purses))}
	now := fault.Now()
	for i, b := range a.purses {
		b.slice.used += amount
		b.used = now
		r.slices[i] = b.slice
	}
	return r, nil
}

func (p *purses) lease(ctx context.Context, b *purse, missing, need int64) (*store.Refusal, error) {
	// Others wait for this lease: it must not end with the caller that happened to need it first.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	s, refusal, err := p.db.LeaseSlice(ctx, b.id, p.worker, missing, need, b.step)
	fault.Point("slice-leased")
	p.mu.Lock()
	defer p.mu.Unlock()
	close(b.leasing)
	b.leasing = nil
	now := fault.Now()
	switch {
	case err != nil:
	case refusal != nil:
		b.refusal, b.until = refusal, now.Add(refusalHolds)
	default:
		if b.slice == nil || b.slice.id != s.ID {
			b.slice = &slice{id: s.ID}
		}
		b.slice.granted += s.Granted
		b.leased, b.used = now, now
		p.leases++
		b.lease = p.leases
	}
	return refusal, err
}

// settle puts back what a call held and did not cost.
func (p *purses) settle(r *reservation, charge int64) {
	if len(r.slices) == 0 {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range r.slices {
		s.used += charge - r.amount
	}
}

// account loads what applies to a batch, once for all that ask.
func (p *purses) account(ctx context.Context, batch uuid.UUID) (*account, error) {
	p.mu.Lock()
	a := p.accounts[batch]
	if a == nil {
		if len(p.accounts) >= maxAccounts {
			p.clear()
		}
		a = &account{ready: make(chan struct{})}
		p.accounts[batch] = a
		p.mu.Unlock()
		p.load(ctx, batch, a)
	} else {
		p.mu.Unlock()
	}
	select {
	case <-a.ready:
		return a, a.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func (p *purses) load(ctx context.Context, batch uuid.UUID, a *account) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	p.mu.Lock()
	before := p.leases
	p.mu.Unlock()
	row, err := p.db.Account(ctx, batch, p.worker)
	p.mu.Lock()
	defer p.mu.Unlock()
	defer close(a.ready)
	if err != nil {
		a.err = fmt.Errorf("load budgets: %w", err)
		if p.accounts[batch] == a {
			delete(p.accounts, batch)
		}
		return
	}
	if a.prices, err = overlay(p.prices, row.Prices); err != nil {
		a.err = fmt.Errorf("load prices: %w", err)
		if p.accounts[batch] == a {
			delete(p.accounts, batch)
		}
		return
	}
	a.bare = &draw{Draw: store.Draw{BatchID: batch, ProjectID: row.ProjectID, Epoch: row.Epoch}, account: a}
	for _, b := range row.Budgets {
		held := p.budgets[b.ID]
		if held == nil {
			held = &purse{id: b.ID}
			p.budgets[b.ID] = held
		}
		// Gone, or its period is over, unless what was read is older than the slice: then it may be there, and an intent will tell.
		if s := held.slice; s != nil && (b.Slice == nil || *b.Slice != s.id) && held.lease <= before {
			held.slice = nil
		}
		a.purses = append(a.purses, held)
	}
}

// clear forgets all batches, and the budgets that nothing was leased of.
func (p *purses) clear() {
	clear(p.accounts)
	maps.DeleteFunc(p.budgets, func(_ uuid.UUID, b *purse) bool { return b.slice == nil && b.leasing == nil })
}

// forget drops what is known of a batch, unless it was loaded anew already.
func (p *purses) forget(batch uuid.UUID, a *account) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.accounts[batch] == a {
		delete(p.accounts, batch)
	}
}

// tidy gives back what is idle here or wanted elsewhere, and what the database has leased to this worker and it doesn't know of, because the
// answer was lost.
func (p *purses) tidy(ctx context.Context) error {
	p.mu.Lock()
	var idle []int64
	now, known := fault.Now(), len(p.budgets) > 0
	for _, b := range p.budgets {
		if b.slice != nil && b.leasing == nil && now.Sub(b.used) > idleSlice {
			idle = append(idle, b.slice.id)
		}
	}
	p.mu.Unlock()
	if !known {
		return nil
	}
	gone, err := p.db.ReturnSlices(ctx, p.worker, idle)
	if err != nil {
		return fmt.Errorf("return slices: %w", err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, id := range gone {
		for _, b := range p.budgets {
			if b.slice != nil && b.slice.id == id {
				b.slice = nil
			}
		}
	}
	return nil
}

// prices are those that the call which holds it is reserved for and charged by.
func (r *reservation) prices() *pricing.Table { return r.draw.account.prices }

// stale gives up a reservation that turned out to be in a slice that is gone, or made without knowing every budget.
func (p *purses) stale(batch uuid.UUID, r *reservation) { p.forget(batch, r.draw.account) }

// mayPause reports whether the batch is to be paused now; many calls of it are refused at once.
func (p *purses) mayPause(batch uuid.UUID) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	a := p.accounts[batch]
	if a == nil || fault.Now().Sub(a.paused) < time.Second {
		return false
	}
	a.paused = fault.Now()
	return true
}

// intent is a call to be written, with what it holds.
type intent struct {
	store.Intent
	held *reservation
}

// hold is a call that is over, with what it held and what it is charged.
type hold struct {
	held   *reservation
	charge int64
}

var (
	errStale  = errors.New("jobs: what was known of budgets is old")
	errUnsure = errors.New("jobs: the intent may have been written") // so what it holds isn't free
)

// reserveIntent reserves the worst case of a call and writes its intent, both again when the budgets or prices turn out to have changed. The
// error is a *failure when a budget forbids the call, and [errHandedBack] when the job is no longer this worker's, or the database can't be
// reached.
func (t *task) reserveIntent(ctx context.Context, in store.Intent, worst func(prices *pricing.Table, governed bool) (int64, error)) (*reservation, error) {
	p := t.w.purses
	for range maxTries {
		a, err := p.account(ctx, t.batch.ID)
		if err != nil {
			t.w.Log.WarnContext(ctx, "call not made: its budgets can't be read", "batch", t.batch.ID, "seq", t.job.Seq, "err", err)
			return nil, errHandedBack
		}
		if in.ReservedMicrousd, err = worst(a.prices, len(a.purses) > 0); err != nil {
			return nil, err
		}
		r, err := p.reserve(ctx, t.batch.ID, in.ReservedMicrousd)
		if err == nil && r.draw.account != a { // its prices may be others
			p.settle(r, 0)
			continue
		}
		if no, ok := errors.AsType[refused](err); ok {
			return nil, t.shortOf(ctx, no.Refusal)
		} else if err != nil {
			t.w.Log.WarnContext(ctx, "call not made: its budgets can't be read", "batch", t.batch.ID, "seq", t.job.Seq, "err", err)
			return nil, errHandedBack
		}
		err = t.w.intents.do(ctx, intent{in, r})
		if err == nil {
			return r, nil
		}
		if !errors.Is(err, errUnsure) {
			p.settle(r, 0)
		}
		if errors.Is(err, errStale) {
			p.stale(t.batch.ID, r)
			continue
		}
		if !errors.Is(err, store.ErrLeaseLost) {
			t.w.Log.WarnContext(ctx, "call not made: its intent can't be written", "batch", t.batch.ID, "seq", t.job.Seq, "err", err)
		}
		return nil, errHandedBack
	}
	t.w.Log.WarnContext(ctx, "call not made: its budgets keep changing", "batch", t.batch.ID, "seq", t.job.Seq)
	return nil, errHandedBack
}

// unpriced refuses a step whose worst case nobody knows, when a budget applies: it could cost any sum.
func unpriced(s gateway.Step) *failure {
	return failf(gateway.Budget, "a budget applies and %s/%s has no listed price, so no worst case can be reserved: list its price, or take it off the route", s.Provider, s.Model)
}

// shortOf makes a refusal the job's failure: it waits. When nothing in flight can make room, the whole batch does.
func (t *task) shortOf(ctx context.Context, r *store.Refusal) *failure {
	if r.Final() && t.w.purses.mayPause(t.batch.ID) {
		paused, err := t.w.DB.PauseForBudget(ctx, t.batch.ID, pauseWords(r), r.Need)
		if err != nil {
			t.w.Log.WarnContext(ctx, "batch not paused for its budget, will be tried again", "batch", t.batch.ID, "err", err)
		} else if paused {
			t.w.Log.InfoContext(ctx, "batch paused for a budget", "batch", t.batch.ID, "budget", r.Budget.ID)
		}
	}
	f := failf(gateway.Budget, "%s has no room for this call now: the job waits until it has", budgetName(r.Budget))
	f.retry = true
	return f
}

// budgetName says which budget it is.
func budgetName(b store.Budget) string {
	if b.BatchID != nil && *b.BatchID == b.ID {
		return "the batch's own limit, max_cost_microusd,"
	}
	scope := map[string]string{"project": "the project", "api_key": "an API key", "batch": "the batch"}[b.Scope]
	if b.Name == "" {
		return fmt.Sprintf("budget %s of %s", b.ID, scope)
	}
	return fmt.Sprintf("budget %q (%s) of %s", b.Name, b.ID, scope)
}

// pauseWords say to people why a batch is paused, and what resumes it.
func pauseWords(r *store.Refusal) string {
	left := "raise or delete it to go on"
	if r.EndsAt != nil {
		left = fmt.Sprintf("it goes on when the %s ends, at %s, or when the limit is raised", r.Budget.Period, r.EndsAt.UTC().Format(time.RFC3339))
	}
	return fmt.Sprintf("%s has spent %s of %s, and the next call may cost %s; %s", budgetName(r.Budget), usd(r.Spent), usd(r.Budget.LimitMicrousd), usd(r.Need), left)
}

// usd words micro-dollars.
func usd(micro int64) string { return fmt.Sprintf("%d.%06d USD", micro/1_000_000, micro%1_000_000) }

// keepBudgets gives back slices that aren't needed here, takes back those of dead workers, and resumes what can be paid for again.
func (w *Worker) keepBudgets(ctx context.Context) error {
	err := w.purses.tidy(ctx)
	if n, rerr := w.DB.ReclaimSlices(ctx, 2*w.o.Lease); rerr != nil {
		err = errors.Join(err, fmt.Errorf("reclaim slices: %w", rerr))
	} else if n > 0 {
		w.Log.InfoContext(ctx, "slices of dead workers reclaimed", "slices", n)
	}
	resumed, rerr := w.DB.ResumeAffordable(ctx, nil)
	if rerr != nil {
		err = errors.Join(err, fmt.Errorf("resume batches: %w", rerr))
	}
	for _, id := range resumed {
		w.Log.InfoContext(ctx, "batch resumed: its budgets have room", "batch", id)
	}
	if len(resumed) > 0 {
		w.nudge()
	}
	return err
}
