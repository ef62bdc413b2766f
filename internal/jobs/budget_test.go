package jobs

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"pgregory.net/rapid"

	"batchwright/internal/gateway"
	"batchwright/internal/pricing"
	"batchwright/internal/store"
	"batchwright/internal/store/storetest"
)

// bank is a project with batches whose jobs are called by workers that don't run: a test takes their steps.
type bank struct {
	t       testing.TB
	db      *store.DB
	url     string
	project uuid.UUID
	key     uuid.UUID
	batches []uuid.UUID
	next    map[uuid.UUID]int32 // job of each batch
	budgets []uuid.UUID
}

func newBank(t testing.TB, db *store.DB, url string, batches, jobs int) *bank {
	t.Helper()
	name := uuid.NewString()
	p, err := db.CreateKey(t.Context(), name, "k", "bw_x", sha256.Sum256([]byte(name)))
	if err != nil {
		t.Fatal(err)
	}
	b := &bank{t: t, db: db, url: url, project: p.ID, key: p.KeyID, next: map[uuid.UUID]int32{}}
	for i := range batches {
		id := uuid.New()
		var key *uuid.UUID
		if i%2 == 0 {
			key = &p.KeyID
		}
		storetest.Exec(t, url, `insert into batches (id, project_id, name, kind, state, route, params, on_invalid, cache, request_sha256, total_jobs, next_seq, started_at, api_key_id)
			values ($1, $2, '', 'generate', 'running', '{}', '{}', 'refuse', 'use', '', $3, $3 + 1, now(), $4)`, id, p.ID, jobs, key)
		storetest.Exec(t, url, `insert into jobs (batch_id, seq, state) select $1, s, 'planned' from generate_series(1, $2::int) s`, id, jobs)
		b.batches = append(b.batches, id)
	}
	return b
}

func (b *bank) worker() *Worker {
	w, err := NewWorker(b.db, nil, pricing.Default(), nil, slog.New(slog.DiscardHandler), WorkerOptions{})
	if err == nil {
		err = b.db.Register(b.t.Context(), w.self)
	}
	if err != nil {
		b.t.Fatal(err)
	}
	return w
}

// ticket gives a worker the next jobs of a batch.
func (b *bank) ticket(w *Worker, batch uuid.UUID, jobs int32) (id int64, first int32) {
	first = b.next[batch] + 1
	b.next[batch] += jobs
	id = storetest.Scalar[int64](b.t, b.url, `with t as (insert into tickets (batch_id, purpose, first_seq, last_seq, jobs, worker_id, lease_until)
			values ($1, 'run', $2, $3, $3::int - $2::int + 1, $4, now() + interval '1 hour') returning id),
		j as (update jobs set state = 'running', ticket_id = t.id from t where batch_id = $1 and seq between $2 and $3)
		select id from t`, batch, first, b.next[batch], w.self.ID)
	return id, first
}

func (b *bank) violations() []string {
	return storetest.Rows[string](b.t, b.url, `select kind || ': ' || detail from reports.ledger_check where project_id = $1`, b.project)
}

// over lists budgets that have charged more than their limit, apart from what calls cost beyond their worst case.
func (b *bank) over(batch uuid.UUID) []string {
	return storetest.Rows[string](b.t, b.url, `select format('%s %s of %s: charged %s, overrun %s, limit %s', g.scope, g.period, g.id, c.charged, c.overrun, g.limit_microusd)
		from budgets g join batches b on g.project_id = b.project_id and (g.api_key_id is null or g.api_key_id = b.api_key_id) and (g.batch_id is null or g.batch_id = b.id)
		join budget_periods p on p.budget_id = g.id and p.starts_at <= now() and p.ends_at > now()
		cross join lateral (select p.spent_microusd + p.reserved_microusd + coalesce(sum(s.spent_microusd + s.reserved_microusd), 0) as charged,
			p.overrun_microusd + coalesce(sum(s.overrun_microusd), 0) as overrun from budget_slice_totals s where s.budget_id = p.budget_id and s.starts_at = p.starts_at) c
		where b.id = $1 and c.charged - c.overrun > g.limit_microusd`, batch)
}

// teller is a worker that a property test moves.
type teller struct {
	w     *Worker
	open  []*deal // tickets with jobs that can be called
	calls []*call // written, without an outcome
}

// deal is a ticket in a teller's hands.
type deal struct {
	batch       uuid.UUID
	ticket      int64
	first, last int32
	called      map[int32]int32
	total       map[int32]*totals
}

type call struct {
	d    *deal
	id   store.CallID
	held *reservation
}

// TestBudgetsHoldInEveryHistory lets workers reserve, call, settle, die, come back and repeat themselves while budgets are made, changed and
// deleted and days pass. No call may be admitted beyond a limit, and after every step the books must balance.
func TestBudgetsHoldInEveryHistory(t *testing.T) {
	t.Parallel()
	url := storetest.URL(t)
	db, err := store.Open(t.Context(), url, store.Options{MaxConns: 4})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	storetest.Exec(t, url, `alter table budget_slices drop constraint budget_slices_budget_id_starts_at_fkey`) // so that days can pass
	rapid.Check(t, func(rt *rapid.T) {
		h := &history{bank: newBank(t, db, url, 3, 400)}
		for range 2 {
			h.tellers = append(h.tellers, &teller{w: h.worker()})
		}
		rt.Repeat(map[string]func(*rapid.T){
			"call": h.call, "call again": h.call, "call once more": h.call, "settle": h.settle, "settle again": h.settle, "return": h.giveBack,
			"close": h.close, "suspend": h.suspend, "die": h.die, "sweep": h.sweep, "idle": h.idle,
			"create": h.create, "change": h.change, "delete": h.delete, "own": h.own, "day": h.day,
			"": h.check,
		})
		for _, tell := range h.tellers {
			for len(tell.calls) > 0 {
				h.end(rt, tell, tell.calls[0], "known", true)
			}
			for len(tell.open) > 0 {
				h.hand(rt, tell, tell.open[0])
			}
			if err := db.ReturnAllSlices(t.Context(), tell.w.self.ID); err != nil {
				rt.Fatal(err)
			}
		}
		h.check(rt)
	})
}

type history struct {
	*bank
	tellers []*teller
}

func pick[T any](rt *rapid.T, list []T, what string) T {
	if len(list) == 0 {
		rt.Skip("no " + what)
	}
	return rapid.SampledFrom(list).Draw(rt, what)
}

func (h *history) check(rt *rapid.T) {
	if v := h.violations(); len(v) > 0 {
		rt.Fatalf("%v", v)
	}
}

func (h *history) fail(rt *rapid.T, err error) {
	rt.Helper()
	if err != nil {
		rt.Fatal(err)
	}
}

func (h *history) call(rt *rapid.T) {
	tell := pick(rt, h.tellers, "teller")
	if len(tell.open) < 2 {
		batch := pick(rt, h.batches, "batch")
		if h.next[batch] > 390 {
			rt.Skip("no jobs left")
		}
		id, first := h.ticket(tell.w, batch, 2)
		tell.open = append(tell.open, &deal{batch: batch, ticket: id, first: first, last: first + 1, called: map[int32]int32{}, total: map[int32]*totals{}})
	}
	d := pick(rt, tell.open, "deal")
	seq := rapid.Int32Range(d.first, d.last).Draw(rt, "job")
	amount := rapid.SampledFrom([]int64{0, 1, 10, 50, 100}).Draw(rt, "amount")
	ctx := h.t.Context()
	r, err := tell.w.purses.reserve(ctx, d.batch, amount)
	if _, no := errors.AsType[refused](err); no {
		return
	}
	h.fail(rt, err)
	d.called[seq]++
	id := store.CallID{BatchID: d.batch, Seq: seq, TicketID: d.ticket, Number: d.called[seq]}
	in := intent{store.Intent{CallID: id, Provider: "p", Model: "m", ReservedMicrousd: amount}, r}
	twice := rapid.Bool().Draw(rt, "the first answer is lost")
	if twice {
		_, _, err := h.db.InsertIntents(ctx, []store.Intent{in.Intent}, []store.Draw{r.draw.Draw})
		h.fail(rt, err)
	}
	errs := tell.w.writeIntents(ctx, []intent{in})
	if errs == nil || errs[0] == nil {
		if over := h.over(d.batch); amount > 0 && len(over) > 0 {
			rt.Fatalf("admitted beyond a limit: %v", over)
		}
		tell.calls = append(tell.calls, &call{d: d, id: id, held: r})
		return
	}
	if !twice {
		tell.w.purses.settle(r, 0)
	}
	if errors.Is(errs[0], errStale) {
		tell.w.purses.stale(d.batch, r)
	}
}

func (h *history) settle(rt *rapid.T) {
	tell := pick(rt, h.tellers, "teller")
	c := pick(rt, tell.calls, "call")
	how := rapid.SampledFrom([]string{"known", "known", "free", "dear", "unpriced", "uncertain"}).Draw(rt, "outcome")
	h.end(rt, tell, c, how, rapid.Bool().Draw(rt, "and the job"))
}

// end writes how a call ended, with its job's end if no other call of the job is out; now and then it does so twice.
func (h *history) end(rt *rapid.T, tell *teller, c *call, how string, job bool) {
	cost := map[string]int64{"known": c.held.amount / 2, "free": 0, "dear": c.held.amount + 3}
	if c.held.amount == 0 {
		clear(cost)
	}
	o := store.Outcome{CallID: c.id, Provider: "p", Model: "m", Uncertain: how == "uncertain", UsageKnown: how != "uncertain", InputTokens: 3}
	charge := c.held.amount
	v, known := cost[how]
	if known {
		o.CostMicrousd, charge = &v, v
	}
	sum := c.d.total[c.id.Seq]
	if sum == nil {
		sum = &totals{}
		c.d.total[c.id.Seq] = sum
	}
	sum.calls++
	sum.cost += v
	sum.unpriced = sum.unpriced || !known
	if o.UsageKnown {
		sum.input += 3
	}
	tell.calls = slices.DeleteFunc(tell.calls, func(o *call) bool { return o == c })
	s := settlement{calls: []store.Outcome{o}, holds: []hold{{c.held, charge}}}
	if out := slices.ContainsFunc(tell.calls, func(o *call) bool { return o.d == c.d && o.id.Seq == c.id.Seq }); job && !out {
		s.job = &store.Settlement{ProjectID: h.project, BatchID: c.d.batch, Seq: c.id.Seq, TicketID: c.d.ticket, State: "failed", Counted: true, ErrorClass: "server",
			ErrorMessage: "x", Calls: sum.calls, InputTokens: sum.input, CostMicrousd: sum.microusd()}
		c.d.called[c.id.Seq] += 1000 // no more calls under this ticket are ours to count
	}
	if rapid.Bool().Draw(rt, "the first answer is lost") {
		var jobs []store.Settlement
		if s.job != nil {
			jobs = append(jobs, *s.job)
		}
		_, err := h.db.Settle(h.t.Context(), slices.Clone(s.calls), nil, jobs, false)
		h.fail(rt, err)
	}
	for _, err := range tell.w.writeSettlements(h.t.Context(), []settlement{s}) {
		if err != nil && !errors.Is(err, store.ErrLeaseLost) {
			rt.Fatal(err)
		}
	}
	if s.job != nil { // the job is over: the deal ends with it, so that it isn't called again
		h.hand(rt, tell, c.d)
	}
}

func (h *history) close(rt *rapid.T) {
	tell := pick(rt, h.tellers, "teller")
	h.hand(rt, tell, pick(rt, tell.open, "deal"))
}

// hand hands a deal's jobs back. Its calls without an outcome are still to come.
func (h *history) hand(rt *rapid.T, tell *teller, d *deal) {
	_, err := h.db.CloseTicket(h.t.Context(), d.ticket, tell.w.self.ID)
	h.fail(rt, err)
	tell.open = slices.DeleteFunc(tell.open, func(o *deal) bool { return o == d })
}

// suspend makes a teller's leases run out, and its slices reclaimed, while it still believes in them.
func (h *history) suspend(rt *rapid.T) {
	tell := pick(rt, h.tellers, "teller")
	storetest.Exec(h.t, h.url, `update tickets set lease_until = now() - interval '1 second' where worker_id = $1`, tell.w.self.ID)
	if rapid.Bool().Draw(rt, "for long") {
		storetest.Exec(h.t, h.url, `update workers set seen_at = now() - interval '5 minutes' where id = $1`, tell.w.self.ID)
		h.sweep(rt)
		h.fail(rt, h.db.Register(h.t.Context(), tell.w.self))
	}
}

func (h *history) die(rt *rapid.T) {
	i := rapid.IntRange(0, len(h.tellers)-1).Draw(rt, "teller")
	storetest.Exec(h.t, h.url, `update tickets set lease_until = now() - interval '1 second' where worker_id = $1`, h.tellers[i].w.self.ID)
	storetest.Exec(h.t, h.url, `delete from workers where id = $1`, h.tellers[i].w.self.ID)
	h.tellers[i] = &teller{w: h.worker()}
}

func (h *history) sweep(rt *rapid.T) {
	_, _, err := h.db.Sweep(h.t.Context(), time.Hour)
	h.fail(rt, err)
	_, err = h.db.ReclaimSlices(h.t.Context(), time.Minute)
	h.fail(rt, err)
	_, err = h.db.ResumeAffordable(h.t.Context(), &h.project)
	h.fail(rt, err)
}

// giveBack returns what others want; idle returns everything.
func (h *history) giveBack(rt *rapid.T) {
	h.fail(rt, pick(rt, h.tellers, "teller").w.purses.tidy(h.t.Context()))
}

func (h *history) idle(rt *rapid.T) {
	p := pick(rt, h.tellers, "teller").w.purses
	for _, b := range p.budgets {
		b.used = time.Time{}
		b.refusal = nil
	}
	h.fail(rt, p.tidy(h.t.Context()))
}

func (h *history) create(rt *rapid.T) {
	if len(h.budgets) == 4 {
		rt.Skip("enough budgets")
	}
	g := store.Budget{ID: uuid.Must(uuid.NewV7()), ProjectID: h.project, Scope: rapid.SampledFrom([]string{"project", "api_key", "batch"}).Draw(rt, "scope"),
		Period: rapid.SampledFrom([]string{"total", "day", "month"}).Draw(rt, "period"), TimeZone: rapid.SampledFrom([]string{"UTC", "Asia/Kolkata", "America/Havana"}).Draw(rt, "zone"),
		LimitMicrousd: rapid.Int64Range(0, 500).Draw(rt, "limit")}
	switch g.Scope {
	case "api_key":
		g.APIKeyID = &h.key
	case "batch":
		batch := pick(rt, h.batches, "batch")
		g.BatchID = &batch
	}
	_, err := h.db.CreateBudget(h.t.Context(), g)
	h.fail(rt, err)
	h.budgets = append(h.budgets, g.ID)
}

func (h *history) change(rt *rapid.T) {
	limit := rapid.Int64Range(0, 1000).Draw(rt, "limit")
	_, err := h.db.UpdateBudget(h.t.Context(), h.project, pick(rt, h.budgets, "budget"), nil, &limit)
	h.fail(rt, err)
}

func (h *history) delete(rt *rapid.T) {
	id := pick(rt, h.budgets, "budget")
	h.fail(rt, h.db.DeleteBudget(h.t.Context(), h.project, id))
	h.budgets = slices.DeleteFunc(h.budgets, func(o uuid.UUID) bool { return o == id })
	storetest.Exec(h.t, h.url, `delete from budget_slices where budget_id = $1`, id) // as the constraint does that this test dropped
}

// own gives a batch a limit of its own, or takes it.
func (h *history) own(rt *rapid.T) {
	most := store.Change[int64]{Set: true}
	if v := rapid.Int64Range(-1, 300).Draw(rt, "most"); v >= 0 {
		most.To = &v
	}
	batch := pick(rt, h.batches, "batch")
	_, err := h.db.UpdateBatch(h.t.Context(), h.project, batch, store.BatchChange{MaxCostMicrousd: most}, func(store.Batch) error { return nil })
	h.fail(rt, err)
	storetest.Exec(h.t, h.url, `delete from budget_slices s where not exists (select 1 from budgets g where g.id = s.budget_id)`)
}

// day lets one pass.
func (h *history) day(*rapid.T) {
	storetest.Exec(h.t, h.url, `update calls set started_at = started_at - interval '31 days' where batch_id = any($1::uuid[])`, h.batches)
	for _, table := range []string{"budget_periods", "budget_slices"} {
		for _, by := range []string{"- interval '1000 years 31 days'", "+ interval '1000 years'"} { // by way of where no period is: a row at a time, they would collide
			storetest.Exec(h.t, h.url, `update `+table+` p set starts_at = starts_at `+by+`, ends_at = ends_at `+by+`
				from budgets g where g.id = p.budget_id and g.period <> 'total' and g.project_id = $1`, h.project)
		}
	}
}

// TestBudgetHoldsUnderConcurrency lets many calls of several workers race for a budget that has room for some of them.
func TestBudgetHoldsUnderConcurrency(t *testing.T) {
	t.Parallel()
	url := storetest.URL(t)
	db, err := store.Open(t.Context(), url, store.Options{MaxConns: 12})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	b := newBank(t, db, url, 2, 2000)
	g := store.Budget{ID: uuid.Must(uuid.NewV7()), ProjectID: b.project, Scope: "project", Period: "month", TimeZone: "Europe/Berlin", LimitMicrousd: 20_000}
	if _, err := db.CreateBudget(t.Context(), g); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 3 {
		w := b.worker()
		ctx, stop := context.WithCancel(context.Background())
		var writers sync.WaitGroup
		for range 2 {
			writers.Go(func() { w.intents.run(ctx) })
			writers.Go(func() { w.settlements.run(ctx) })
		}
		id := b.batches[rand.IntN(2)]
		ticket, first := b.ticket(w, id, 600)
		var callers sync.WaitGroup
		for i := range 16 {
			callers.Go(func() {
				for seq := first + int32(i); seq < first+600; seq += 16 {
					task := &task{w: w, batch: &batch{Batch: store.Batch{ID: id}}, lease: &lease{ticket: store.Ticket{ID: ticket}}, job: store.Claimed{Seq: seq}}
					in := store.Intent{CallID: store.CallID{BatchID: id, Seq: seq, TicketID: ticket, Number: 1}, Provider: "p", Model: "m"}
					hundred := func(*pricing.Table, bool) (int64, error) { return 100, nil }
					held, err := task.reserveIntent(ctx, in, hundred)
					for err != nil { // as a job that waits
						if row, _ := db.AnyBatch(ctx, id); row.State == "paused" {
							return
						}
						<-time.After(50 * time.Millisecond)
						if i == 0 {
							_ = w.purses.tidy(ctx)
						}
						held, err = task.reserveIntent(ctx, in, hundred)
					}
					cost := 20 + rand.Int64N(40)
					s := settlement{calls: []store.Outcome{{CallID: in.CallID, Provider: "p", Model: "m", CostMicrousd: &cost}}, holds: []hold{{held, cost}}}
					if err := w.settlements.do(ctx, s); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Go(func() {
			callers.Wait()
			w.intents.close()
			w.settlements.close()
			writers.Wait()
			stop()
			if err := db.ReturnAllSlices(context.Background(), w.self.ID); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	s, err := db.Budget(t.Context(), b.project, g.ID)
	if err != nil || s.ReservedMicrousd != 0 || s.SpentMicrousd > 20_000 || s.SpentMicrousd < 19_500 {
		t.Errorf("%+v, %v", s, err)
	}
	if wrong := append(b.over(b.batches[0]), b.violations()...); len(wrong) > 0 {
		t.Errorf("%v", wrong)
	}
	if n := storetest.Scalar[int64](t, url, `select count(*) from batches where state = 'paused' and pause_reason = 'budget'`); n == 0 {
		t.Error("no batch was paused")
	}
	if detail := storetest.Scalar[string](t, url, `select pause_detail from batches where state = 'paused' limit 1`); !strings.Contains(detail, "of 0.020000 USD") {
		t.Errorf("the pause says %q", detail)
	}
	limit := int64(40_000)
	if _, err := db.UpdateBudget(t.Context(), b.project, g.ID, nil, &limit); err != nil {
		t.Fatal(err)
	}
	resumed, err := db.ResumeAffordable(t.Context(), &b.project)
	if err != nil || len(resumed) == 0 {
		t.Errorf("resumed %v, %v", resumed, err)
	}
}

// TestABudgetIsNotRefusedForAnOutage: when Postgres went away, the caller was told that the time zone is unknown, and not to try again.
func TestABudgetIsNotRefusedForAnOutage(t *testing.T) {
	t.Parallel()
	db := storetest.New(t)
	p, err := db.CreateKey(t.Context(), "p", "k", "bw_x", sha256.Sum256([]byte("k")))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	g := store.Budget{ID: uuid.New(), ProjectID: p.ID, Scope: "project", Period: "day", TimeZone: "UTC", LimitMicrousd: 1}
	if _, err := db.CreateBudget(ctx, g); err == nil || errors.Is(err, store.ErrTimeZone) {
		t.Errorf("a budget that the database was never asked for ends with: %v", err)
	}
	g.TimeZone = "Mars/Olympus"
	if _, err := db.CreateBudget(t.Context(), g); !errors.Is(err, store.ErrTimeZone) {
		t.Errorf("a time zone that isn't ends with: %v", err)
	}
}

// TestAJobIsHandedBackWhenItsAnswersCantBeWritten: a part of a summary that could not be kept for as long as a lease lasts failed its job
// for good.
func TestAJobIsHandedBackWhenItsAnswersCantBeWritten(t *testing.T) {
	t.Parallel()
	tk := &task{w: &Worker{Log: slog.New(slog.DiscardHandler)}, batch: &batch{}}
	for _, err := range []error{context.DeadlineExceeded, context.Canceled, io.ErrUnexpectedEOF} {
		if class, message, retry, _ := tk.judge(fmt.Errorf("settle: %w", err)); class != gateway.Cancelled || retry {
			t.Errorf("%v makes the class %s, %q", err, class, message)
		}
	}
	if class, _, _, _ := tk.judge(errors.New("a bug")); class != gateway.Unknown {
		t.Errorf("an error of our own makes the class %s", class)
	}
}

// forgetful is a ledger in which a slice is leased while an account is read.
type forgetful struct {
	budget   uuid.UUID
	during   func()
	returned int
}

func (f *forgetful) Account(context.Context, uuid.UUID, uuid.UUID) (store.Account, error) {
	if f.during != nil {
		f.during()
	}
	return store.Account{Budgets: []store.AccountBudget{{ID: f.budget}}}, nil // as it was before
}

func (f *forgetful) LeaseSlice(_ context.Context, _, _ uuid.UUID, missing, _, _ int64) (store.Slice, *store.Refusal, error) {
	return store.Slice{ID: 7, Granted: missing}, nil, nil
}

func (f *forgetful) ReturnSlices(context.Context, uuid.UUID, []int64) ([]int64, error) {
	f.returned++
	return nil, nil
}

// TestASliceIsNotForgottenWhileItIsLeased: an account that was read before a slice was leased made its worker forget the slice. Nobody could use
// it, nor give it back, and with a budget that had room for one call at a time its batches waited for ever (seed 48 of make chaos).
func TestASliceIsNotForgottenWhileItIsLeased(t *testing.T) {
	t.Parallel()
	db := &forgetful{budget: uuid.New()}
	p := newPurses(db, uuid.New(), pricing.Default())
	batch := uuid.New()
	if _, err := p.reserve(t.Context(), batch, 10); err != nil {
		t.Fatal(err)
	}
	b := p.budgets[db.budget]
	p.forget(batch, p.accounts[batch])
	db.during = func() {
		b.leasing = make(chan struct{})
		if _, err := p.lease(t.Context(), b, 10, 10); err != nil {
			t.Error(err)
		}
	}
	if _, err := p.account(t.Context(), batch); err != nil {
		t.Fatal(err)
	}
	if b.slice == nil || b.slice.granted != 20 || b.slice.used != 10 {
		t.Errorf("the slice that was leased meanwhile is %+v", b.slice)
	}
	db.during = nil
	p.forget(batch, p.accounts[batch])
	if _, err := p.account(t.Context(), batch); err != nil {
		t.Fatal(err)
	}
	if b.slice != nil {
		t.Error("a slice that was gone before the account was read is still used")
	}
	if err := p.tidy(t.Context()); err != nil || db.returned != 1 { // the database may have one that this worker doesn't know of
		t.Errorf("nothing is given back: %d, %v", db.returned, err)
	}
}
