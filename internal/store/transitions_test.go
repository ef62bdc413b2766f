package store_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"iter"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"batchwright/internal/store"
	"batchwright/internal/store/storetest"
)

// bench is a database with one project and one worker.
type bench struct {
	db      *store.DB
	url     string
	project uuid.UUID
	worker  store.Worker
}

func setUp(t *testing.T) *bench {
	t.Helper()
	url := storetest.URL(t)
	db, err := store.Open(t.Context(), url, store.Options{MaxConns: 12})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	p, err := db.CreateKey(t.Context(), "p", "k", "bw_x", sha256.Sum256([]byte("k")))
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{db: db, url: url, project: p.ID, worker: store.Worker{ID: uuid.New(), Hostname: "h", PID: 1, Slots: 8, Concurrency: 100}}
	if err := db.Register(t.Context(), b.worker); err != nil {
		t.Fatal(err)
	}
	return b
}

func keyFor(text string) [32]byte { return sha256.Sum256([]byte(text)) }

// submit makes a planned, running batch whose job i has the key keys[i].
func (b *bench) submit(t *testing.T, cache string, keys ...string) store.Batch {
	t.Helper()
	return b.start(t, b.plan(t, cache, keys...))
}

// plan makes a batch whose every range is planned. A key may be several, in the order of preference: "a|b".
func (b *bench) plan(t testing.TB, cache string, keys ...string) store.Batch {
	t.Helper()
	id, err := uuid.NewV7()
	if err != nil {
		t.Fatal(err)
	}
	var chunk iter.Seq2[store.Chunk, error] = func(yield func(store.Chunk, error) bool) {
		var c store.Chunk
		for i := range keys {
			c.Inputs = append(c.Inputs, store.NewInput{Seq: int32(i + 1), Input: []byte(`{}`)})
		}
		yield(c, nil)
	}
	batch, tickets, err := b.db.CreateBatch(t.Context(), store.NewBatch{ID: id, ProjectID: b.project, Kind: "generate", Route: []byte(`{}`), Params: []byte(`{}`),
		Metadata: []byte(`{}`), OnInvalid: "refuse", Cache: cache}, chunk, func() (int32, [32]byte) { return int32(len(keys)), [32]byte{1} })
	if err != nil {
		t.Fatal(err)
	}
	for _, ticket := range tickets {
		if err := b.db.ClaimPlan(t.Context(), ticket.ID, b.worker.ID, time.Minute); err != nil {
			t.Fatal(err)
		}
		var rows []store.Planned
		for i := ticket.FirstSeq; i <= ticket.LastSeq; i++ {
			rows = append(rows, store.Planned{Seq: i, Keys: keysFor(keys[i-1])})
		}
		for range 2 { // planning a range twice changes nothing
			if err := b.db.InsertPlanned(t.Context(), batch, ticket, rows, true, nil); err != nil {
				t.Fatal(err)
			}
		}
	}
	return batch
}

func keysFor(text string) [][32]byte {
	var out [][32]byte
	for k := range strings.SplitSeq(text, "|") {
		out = append(out, keyFor(k))
	}
	return out
}

func (b *bench) start(t testing.TB, batch store.Batch) store.Batch {
	t.Helper()
	if ok, err := b.db.StartBatch(t.Context(), batch.ID, nil); err != nil || !ok {
		t.Fatalf("start: %v, %v", ok, err)
	}
	return b.get(t, batch)
}

func (b *bench) get(t testing.TB, batch store.Batch) store.Batch {
	t.Helper()
	batch, err := b.db.AnyBatch(t.Context(), batch.ID)
	if err != nil {
		t.Fatal(err)
	}
	return batch
}

func (b *bench) dispatch(t *testing.T, g store.Grant) []store.Ticket {
	t.Helper()
	_, tickets, err := b.db.Dispatch(t.Context(), func([]store.OpenBatch, store.Fleet) []store.Grant { return []store.Grant{g} })
	if err != nil {
		t.Fatal(err)
	}
	return tickets
}

func (b *bench) claim(t *testing.T, ticket store.Ticket) []store.Claimed {
	t.Helper()
	jobs, err := b.db.ClaimJobs(t.Context(), ticket, b.worker.ID, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	return jobs
}

func (b *bench) done(batch store.Batch, ticket int64, seq int32, key string) (store.Completion, store.Settlement) {
	k, cost := keyFor(key), int64(7)
	return store.Completion{ProjectID: b.project, Key: k, Model: "m", Provider: "p", AnsweredBy: "m-1", Format: "text", Output: "answer to " + key, CostMicrousd: &cost},
		store.Settlement{ProjectID: b.project, BatchID: batch.ID, Seq: seq, TicketID: ticket, State: "succeeded", Counted: true, ResultKey: k[:],
			CacheStatus: "miss", Provider: "p", Model: "m", Calls: 1, CostMicrousd: &cost}
}

func distinct(n int) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = fmt.Sprint(i)
	}
	return out
}

func TestTicketsNeverOverlap(t *testing.T) {
	t.Parallel()
	b := setUp(t)
	batch := b.submit(t, "use", distinct(500)...)
	var mu sync.Mutex
	seen := map[int32]int{}
	var wg sync.WaitGroup
	for range 6 { // dispatchers and claimers at once, each ticket claimed by two
		wg.Go(func() {
			for {
				_, tickets, err := b.db.Dispatch(context.Background(), func([]store.OpenBatch, store.Fleet) []store.Grant {
					return []store.Grant{{Batch: batch.ID, Run: 2, Size: 13}}
				})
				if err != nil {
					t.Error(err)
					return
				}
				if len(tickets) == 0 {
					return
				}
				for _, ticket := range append(tickets, tickets...) {
					jobs, err := b.db.ClaimJobs(context.Background(), ticket, b.worker.ID, time.Minute)
					if err != nil {
						t.Error(err)
					}
					mu.Lock()
					for _, j := range jobs {
						seen[j.Seq]++
					}
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	if len(seen) != 500 {
		t.Fatalf("claimed %d jobs, want 500", len(seen))
	}
	for seq, n := range seen {
		if n != 1 {
			t.Errorf("job %d was claimed %d times", seq, n)
		}
	}
}

func TestLateWriterIsFenced(t *testing.T) {
	t.Parallel()
	b := setUp(t)
	batch := b.submit(t, "use", "a", "b")
	old := b.dispatch(t, store.Grant{Batch: batch.ID, Run: 1, Size: 10})[0]
	if n := len(b.claim(t, old)); n != 2 {
		t.Fatalf("claimed %d, want 2", n)
	}
	id := store.CallID{BatchID: batch.ID, Seq: 1, TicketID: old.ID, Number: 1}
	draw := []store.Draw{{BatchID: batch.ID, ProjectID: b.project}}
	if ok, _, err := b.db.InsertIntents(t.Context(), []store.Intent{{CallID: id, Provider: "p", Model: "m"}}, draw); err != nil || len(ok) != 1 {
		t.Fatalf("intent: %v, %v", ok, err)
	}
	storetest.Exec(t, b.url, `update tickets set lease_until = now() - interval '1 second'`)
	if _, returned, err := b.db.Sweep(t.Context(), time.Minute); err != nil || returned != 2 {
		t.Fatalf("sweep returned %d jobs, %v; want 2", returned, err)
	}
	// The worker that was thought dead comes back: no call more, and its settlement changes the ledger and the cache, not the job.
	late := []store.Intent{{CallID: store.CallID{BatchID: batch.ID, Seq: 2, TicketID: old.ID, Number: 1}}}
	if ok, _, err := b.db.InsertIntents(t.Context(), late, draw); err != nil || len(ok) != 0 {
		t.Errorf("a lost ticket was allowed a call: %v, %v", ok, err)
	}
	if state := storetest.Scalar[string](t, b.url, `select state from calls`); state != "uncertain" {
		t.Errorf("the call is %s, want uncertain", state)
	}
	again := b.dispatch(t, store.Grant{Batch: batch.ID, Retry: 1, Size: 10})[0]
	if jobs := b.claim(t, again); len(jobs) != 2 || jobs[0].Attempts != 0 {
		t.Fatalf("claimed %+v, want both jobs without an attempt counted", jobs)
	}
	answer, job := b.done(batch, old.ID, 1, "a")
	settled, err := b.db.Settle(t.Context(), []store.Outcome{{CallID: id, Provider: "p", Model: "m"}}, []store.Completion{answer}, []store.Settlement{job}, false)
	if err != nil || len(settled) != 0 {
		t.Errorf("a late settlement was accepted: %v, %v", settled, err)
	}
	if state := storetest.Scalar[string](t, b.url, `select state from calls`); state != "settled" {
		t.Errorf("the call is %s: what it cost must be recorded", state)
	}
	if state := storetest.Scalar[string](t, b.url, `select state from jobs where seq = 1`); state != "running" {
		t.Errorf("the job is %s, want running under its new ticket", state)
	}
	if n, err := b.db.CloseTicket(t.Context(), old.ID, b.worker.ID); err != nil || n != 0 {
		t.Errorf("closing a lost ticket returned %d jobs, %v", n, err)
	}
}

func TestFollowersTakeTheirLeadersEnd(t *testing.T) {
	t.Parallel()
	b := setUp(t)
	batch := b.submit(t, "use", "a", "b", "a", "a", "b")
	if !batch.HasFollowers {
		t.Fatal("the batch doesn't know of its duplicates")
	}
	ticket := b.dispatch(t, store.Grant{Batch: batch.ID, Run: 1, Size: 10})[0]
	if jobs := b.claim(t, ticket); len(jobs) != 2 {
		t.Fatalf("claimed %d jobs, want the 2 leaders", len(jobs))
	}
	answer, good := b.done(batch, ticket.ID, 1, "a")
	bad := store.Settlement{ProjectID: b.project, BatchID: batch.ID, Seq: 2, TicketID: ticket.ID, State: "failed", Counted: true, ErrorClass: "truncated", ErrorMessage: "cut off"}
	if _, err := b.db.Settle(t.Context(), nil, []store.Completion{answer}, []store.Settlement{good, bad}, true); err != nil {
		t.Fatal(err)
	}
	if _, err := b.db.CloseTicket(t.Context(), ticket.ID, b.worker.ID); err != nil {
		t.Fatal(err)
	}
	if done, err := b.db.FinishBatch(t.Context(), batch.ID); err != nil || !done {
		t.Fatalf("finish: %v, %v", done, err)
	}
	batch, _ = b.db.AnyBatch(t.Context(), batch.ID)
	s, err := b.db.BatchStats(t.Context(), batch)
	if err != nil || s.Succeeded != 3 || s.Failed != 2 || s.Coalesced != 2 || s.Misses != 1 {
		t.Errorf("%+v, %v", s, err)
	}
	for r, err := range b.db.Results(t.Context(), batch.ID, "succeeded", 0) {
		if err != nil || r.Output == nil || *r.Output != "answer to a" {
			t.Errorf("%+v, %v", r, err)
		}
	}
}

func TestAllHitBatchIsBornDone(t *testing.T) {
	t.Parallel()
	b := setUp(t)
	first := b.submit(t, "use", "a")
	ticket := b.dispatch(t, store.Grant{Batch: first.ID, Run: 1, Size: 1})[0]
	b.claim(t, ticket)
	answer, job := b.done(first, ticket.ID, 1, "a")
	if _, err := b.db.Settle(t.Context(), nil, []store.Completion{answer}, []store.Settlement{job}, false); err != nil {
		t.Fatal(err)
	}
	second := b.submit(t, "use", "a", "a", "a")
	if tickets := b.dispatch(t, store.Grant{Batch: second.ID, Run: 5, Size: 5}); len(tickets) != 0 {
		t.Errorf("%d tickets for a batch of hits", len(tickets))
	}
	if done, err := b.db.FinishBatch(t.Context(), second.ID); err != nil || !done {
		t.Fatalf("finish: %v, %v", done, err)
	}
	for _, cache := range []string{"refresh", "off"} {
		if n := len(b.dispatch(t, store.Grant{Batch: b.submit(t, cache, "a").ID, Run: 1, Size: 5})); n != 1 {
			t.Errorf("cache %s: %d tickets, want 1: no look-up", cache, n)
		}
	}
}

func TestRetryComesWhenItIsDueAndCancelEndsIt(t *testing.T) {
	t.Parallel()
	b := setUp(t)
	batch := b.submit(t, "use", "a", "b", "c")
	ticket := b.dispatch(t, store.Grant{Batch: batch.ID, Run: 1, Size: 2})[0]
	b.claim(t, ticket)
	soon := store.Settlement{BatchID: batch.ID, Seq: 1, TicketID: ticket.ID, State: "waiting", Counted: true, ErrorClass: "server", ErrorMessage: "x"}
	late := soon
	late.Seq, late.RetryIn = 2, time.Hour
	if _, err := b.db.Settle(t.Context(), nil, nil, []store.Settlement{soon, late}, false); err != nil {
		t.Fatal(err)
	}
	if _, err := b.db.CloseTicket(t.Context(), ticket.ID, b.worker.ID); err != nil {
		t.Fatal(err)
	}
	again := b.dispatch(t, store.Grant{Batch: batch.ID, Retry: 1, Size: 10})[0]
	if jobs := b.claim(t, again); len(jobs) != 1 || jobs[0].Seq != 1 || jobs[0].Attempts != 1 {
		t.Fatalf("claimed %+v, want job 1 after one attempt", jobs)
	}
	if done, err := b.db.FinishBatch(t.Context(), batch.ID); err != nil || done {
		t.Fatalf("a batch with work left finished: %v, %v", done, err)
	}
	if _, err := b.db.CancelBatch(t.Context(), b.project, batch.ID, nil); err != nil {
		t.Fatal(err)
	}
	if done, err := b.db.FinishBatch(t.Context(), batch.ID); err != nil || done {
		t.Fatalf("a batch with a running job finished: %v, %v", done, err)
	}
	if n, err := b.db.CloseTicket(t.Context(), again.ID, b.worker.ID); err != nil || n != 1 {
		t.Fatalf("closed with %d jobs, %v", n, err)
	}
	if done, err := b.db.FinishBatch(t.Context(), batch.ID); err != nil || !done {
		t.Fatalf("finish: %v, %v", done, err)
	}
	batch, _ = b.db.AnyBatch(t.Context(), batch.ID)
	if s, _ := b.db.BatchStats(t.Context(), batch); batch.State != "cancelled" || s.Cancelled != 3 {
		t.Errorf("%s, %+v", batch.State, s)
	}
	if _, err := b.db.CancelBatch(t.Context(), uuid.New(), batch.ID, nil); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("another project's cancel: %v", err)
	}
}

func TestSweepReissuesTicketsUnderNewIDs(t *testing.T) {
	t.Parallel()
	b := setUp(t)
	batch := b.submit(t, "use", "a", "b")
	lost := b.dispatch(t, store.Grant{Batch: batch.ID, Run: 1, Size: 10})[0]
	storetest.Exec(t, b.url, `update tickets set posted_at = now() - interval '1 minute'`)
	reissued, _, err := b.db.Sweep(t.Context(), 10*time.Second)
	if err != nil || len(reissued) != 1 || reissued[0].ID == lost.ID || reissued[0].FirstSeq != 1 || reissued[0].LastSeq != 2 {
		t.Fatalf("reissued %+v, %v", reissued, err)
	}
	if jobs := b.claim(t, lost); len(jobs) != 0 {
		t.Errorf("the lost ticket still claims %d jobs", len(jobs))
	}
	if jobs := b.claim(t, reissued[0]); len(jobs) != 2 {
		t.Errorf("the new one claims %d jobs, want 2", len(jobs))
	}
	held, err := b.db.Renew(t.Context(), b.worker, time.Minute, []int64{reissued[0].ID}, []int32{2})
	if err != nil || len(held) != 1 || held[0] != reissued[0].ID {
		t.Errorf("renewed %+v, %v", held, err)
	}
}

// A cancellation that doesn't see rows which planning or settling writes at the same time must not leave them behind.
func TestCancelledBatchIsNeverStuck(t *testing.T) {
	t.Parallel()
	b := setUp(t)
	batch := b.submit(t, "use", "a", "b", "c")
	ticket := b.dispatch(t, store.Grant{Batch: batch.ID, Run: 1, Size: 1})[0]
	b.claim(t, ticket)
	if _, err := b.db.CancelBatch(t.Context(), b.project, batch.ID, nil); err != nil {
		t.Fatal(err)
	}
	// What a settlement writes whose snapshot is older than the cancellation, and a planner's late insert:
	storetest.Exec(t, b.url, `update jobs set state = 'waiting', ticket_id = null, due_at = now() where seq = 1`)
	storetest.Exec(t, b.url, `update jobs set state = 'planned', finished_at = null where seq = 2`)
	if done, err := b.db.FinishBatch(t.Context(), batch.ID); err != nil || done {
		t.Fatalf("finished with a ticket outstanding: %v, %v", done, err)
	}
	if err := b.db.EndTicket(t.Context(), ticket.ID, b.worker.ID); err != nil {
		t.Fatal(err)
	}
	if done, err := b.db.FinishBatch(t.Context(), batch.ID); err != nil || !done {
		t.Fatalf("finish: %v, %v", done, err)
	}
	// A plan ticket of a dead worker doesn't outlive its batch's planning.
	storetest.Exec(t, b.url, `insert into tickets (batch_id, purpose, first_seq, last_seq, jobs, worker_id, lease_until)
		values ($1, 'plan', 1, 3, 3, gen_random_uuid(), now() - interval '1 minute')`, batch.ID)
	if reissued, _, err := b.db.Sweep(t.Context(), time.Minute); err != nil || len(reissued) != 0 {
		t.Errorf("reissued %+v, %v", reissued, err)
	}
	if n := storetest.Scalar[int64](t, b.url, `select count(*) from tickets`); n != 0 {
		t.Errorf("%d tickets left", n)
	}
}

func TestLeaseThatItsWorkerForgotRunsOut(t *testing.T) {
	t.Parallel()
	b := setUp(t)
	batch := b.submit(t, "use", "a", "b")
	tickets := b.dispatch(t, store.Grant{Batch: batch.ID, Run: 2, Size: 1})
	for _, ticket := range tickets {
		b.claim(t, ticket)
	}
	held, err := b.db.Renew(t.Context(), b.worker, time.Hour, []int64{tickets[0].ID}, []int32{1})
	if err != nil || len(held) != 1 || held[0] != tickets[0].ID {
		t.Fatalf("renewed %+v, %v", held, err)
	}
	if left := storetest.Scalar[bool](t, b.url, `select lease_until < now() + interval '2 minutes' from tickets where id = $1`, tickets[1].ID); !left {
		t.Error("a ticket that the worker did not name was renewed")
	}
}

func TestIntentsMayBeWrittenAgain(t *testing.T) {
	t.Parallel()
	b := setUp(t)
	batch := b.submit(t, "use", "a")
	ticket := b.dispatch(t, store.Grant{Batch: batch.ID, Run: 1, Size: 1})[0]
	b.claim(t, ticket)
	in := []store.Intent{{CallID: store.CallID{BatchID: batch.ID, Seq: 1, TicketID: ticket.ID, Number: 1}, Provider: "p", Model: "m"}}
	for range 2 { // the answer to the first try was lost
		ok, stale, err := b.db.InsertIntents(t.Context(), in, []store.Draw{{BatchID: batch.ID, ProjectID: b.project}})
		if err != nil || len(ok) != 1 || len(stale) != 0 {
			t.Fatalf("%v, %v, %v", ok, stale, err)
		}
	}
}

// A task may be delivered to the same worker again while that is at its jobs: the second run gets none, and must leave the ticket to the first.
func TestATaskDeliveredTwiceTakesNoTicketAway(t *testing.T) {
	t.Parallel()
	b := setUp(t)
	batch := b.submit(t, "use", "a", "b")
	ticket := b.dispatch(t, store.Grant{Batch: batch.ID, Run: 1, Size: 10})[0]
	for _, want := range []int{2, 0} {
		if n := len(b.claim(t, ticket)); n != want {
			t.Fatalf("claimed %d, want %d", n, want)
		}
	}
	left := func() int { return storetest.Scalar[int](t, b.url, `select count(*)::int from tickets`) }
	if err := b.db.EndIdleTicket(t.Context(), ticket.ID, b.worker.ID); err != nil || left() != 1 {
		t.Errorf("%v, %d tickets are left while their jobs run, want 1", err, left())
	}
	storetest.Exec(t, b.url, `update jobs set state = 'planned', ticket_id = null`) // it got none
	if err := b.db.EndIdleTicket(t.Context(), ticket.ID, b.worker.ID); err != nil || left() != 0 {
		t.Errorf("%v, %d tickets are left, want none", err, left())
	}
}
