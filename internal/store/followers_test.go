package store_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"batchwright/internal/store"
	"batchwright/internal/store/storetest"
)

// settle ends a claimed job and lets go of those that wait for it, as a worker does.
func (b *bench) settle(t testing.TB, batch store.Batch, ticket int64, seq int32, state, key string) {
	t.Helper()
	answer, job := b.done(batch, ticket, seq, key)
	answers := []store.Completion{answer}
	if state != "succeeded" {
		answers = nil
		job = store.Settlement{ProjectID: b.project, BatchID: batch.ID, Seq: seq, TicketID: ticket, State: state, Counted: true, ErrorClass: "timeout", ErrorMessage: "too slow"}
	}
	done, err := b.db.Settle(context.Background(), nil, answers, []store.Settlement{job}, batch.HasFollowers)
	if err != nil {
		t.Error(err)
		return
	}
	if len(done) == 1 && done[0].Followed {
		if _, err := b.db.ReleaseFollowers(context.Background(), done); err != nil {
			t.Error(err)
		}
	}
}

func (b *bench) pause(t testing.TB, batch store.Batch) {
	t.Helper()
	storetest.Exec(t, b.url, `update batches set state = 'paused', pause_reason = 'requested', paused_at = now() where id = $1`, batch.ID)
	storetest.Exec(t, b.url, store.ReleaseFollowersSQL, batch.ID)
}

// job is how a job stands: its state, and "due", "on 3" or "on OTHER 3" when it waits.
func (b *bench) job(t testing.TB, batch store.Batch, seq int32) string {
	t.Helper()
	return storetest.Scalar[string](t, b.url, `select state || case when state <> 'waiting' then '' when due_at is not null then ' due'
		else ' on ' || coalesce(leader_batch || ' ', '') || leader_seq end || coalesce(' ' || cache_status, '') from jobs where batch_id = $1 and seq = $2`, batch.ID, seq)
}

func (b *bench) expect(t testing.TB, batch store.Batch, want ...string) {
	t.Helper()
	for i, w := range want {
		if got := b.job(t, batch, int32(i+1)); got != w {
			t.Errorf("job %d is %q, want %q", i+1, got, w)
		}
	}
}

func on(batch store.Batch, seq int32) string { return fmt.Sprintf("waiting on %s %d", batch.ID, seq) }

func TestFollowersInAnotherBatchTakeTheAnswer(t *testing.T) {
	t.Parallel()
	b := setUp(t)
	first := b.submit(t, "use", "a", "b", "c", "a")
	if first.Recheck || first.Follows || first.Followed {
		t.Errorf("a batch that was alone has recheck %v, follows %v, followed %v", first.Recheck, first.Follows, first.Followed)
	}
	second := b.submit(t, "use", "x", "b", "a|z", "a", "x")
	if !second.Recheck || !second.Follows || !second.HasFollowers {
		t.Errorf("recheck %v, follows %v, has followers %v: want all", second.Recheck, second.Follows, second.HasFollowers)
	}
	b.expect(t, second, "planned", on(first, 2), on(first, 1), on(first, 1), "waiting on 1")
	if first = b.get(t, first); !first.Followed {
		t.Error("the leaders' batch doesn't know that it is followed")
	}
	ticket := b.dispatch(t, store.Grant{Batch: first.ID, Run: 1, Size: 10})[0]
	b.claim(t, ticket)
	b.settle(t, first, ticket.ID, 1, "succeeded", "a")
	b.settle(t, first, ticket.ID, 2, "waiting", "b")
	b.expect(t, second, "planned", on(first, 2), "succeeded coalesced", "succeeded coalesced", "waiting on 1")
	b.expect(t, first, "succeeded miss", "waiting due", "running", "succeeded coalesced")
	for r, err := range b.db.Results(t.Context(), second.ID, "succeeded", 0) {
		if err != nil || r.Output == nil || *r.Output != "answer to a" || r.LeaderBatch == nil || *r.LeaderBatch != first.ID || *r.CostMicrousd != 0 {
			t.Errorf("%+v, %v", r, err)
		}
	}
}

// An outside leader's number means nothing among the jobs of the follower's own batch.
func TestFollowerIsNotMistakenForOneOfItsOwnBatch(t *testing.T) {
	t.Parallel()
	b := setUp(t)
	first := b.submit(t, "use", "a")
	second := b.submit(t, "use", "b", "a", "b")
	b.expect(t, second, "planned", on(first, 1), "waiting on 1")
	ticket := b.dispatch(t, store.Grant{Batch: second.ID, Run: 1, Size: 10})[0]
	b.claim(t, ticket)
	b.settle(t, second, ticket.ID, 1, "succeeded", "b")
	b.expect(t, second, "succeeded miss", on(first, 1), "succeeded coalesced")
}

func TestFirstFollowerLeadsWhenTheAnswerIsNoUse(t *testing.T) {
	t.Parallel()
	for _, end := range []string{"failed", "fallback", "paused", "cancelled"} {
		t.Run(end, func(t *testing.T) {
			t.Parallel()
			b := setUp(t)
			first := b.submit(t, "use", "a|z", "a|z")
			second, third := b.submit(t, "use", "y", "a", "a"), b.submit(t, "use", "a", "a")
			b.expect(t, third, on(first, 1), on(first, 1))
			switch end {
			case "paused":
				b.pause(t, first)
			case "cancelled":
				if _, err := b.db.CancelBatch(t.Context(), b.project, first.ID, nil); err != nil {
					t.Fatal(err)
				}
			default:
				ticket := b.dispatch(t, store.Grant{Batch: first.ID, Run: 1, Size: 10})[0]
				b.claim(t, ticket)
				if end == "failed" {
					b.settle(t, first, ticket.ID, 1, "failed", "a")
					b.expect(t, first, "failed", "failed")
				} else {
					b.settle(t, first, ticket.ID, 1, "succeeded", "z")
					b.expect(t, first, "succeeded miss", "succeeded coalesced")
				}
			}
			b.expect(t, second, "planned", "waiting due", "waiting on 2")
			b.expect(t, third, on(second, 2), on(second, 2))
			// The new leader's batch is paused in turn, so the next one leads; nobody is left for the third.
			b.pause(t, second)
			b.expect(t, third, "waiting due", "waiting on 1")
			ticket := b.dispatch(t, store.Grant{Batch: third.ID, Retry: 1, Size: 10})[0]
			b.claim(t, ticket)
			b.settle(t, third, ticket.ID, 1, "succeeded", "a")
			b.expect(t, third, "succeeded miss", "succeeded coalesced")
			if err := b.db.EndTicket(t.Context(), ticket.ID, b.worker.ID); err != nil {
				t.Fatal(err)
			}
			if done, err := b.db.FinishBatch(t.Context(), third.ID); err != nil || !done {
				t.Errorf("finish: %v, %v", done, err)
			}
		})
	}
}

// A call in flight when its batch is paused or cancelled ends all the same: its followers wait for it rather than pay again.
func TestFollowersWaitForACallInFlight(t *testing.T) {
	t.Parallel()
	b := setUp(t)
	first := b.submit(t, "use", "a", "b")
	second := b.submit(t, "use", "a", "b")
	ticket := b.dispatch(t, store.Grant{Batch: first.ID, Run: 1, Size: 1})[0]
	b.claim(t, ticket)
	b.pause(t, first)
	b.expect(t, second, on(first, 1), "waiting due")
	b.settle(t, first, ticket.ID, 1, "succeeded", "a")
	b.expect(t, second, "succeeded coalesced", "waiting due")
	third := b.submit(t, "use", "c", "b")
	b.expect(t, third, "planned", on(second, 2)) // and not on the paused one
}

// A call in flight that failed after its batch was paused is tried again when the batch goes on, and until then its followers waited in vain.
func TestFollowersDontWaitForARetryInAPausedBatch(t *testing.T) {
	t.Parallel()
	b := setUp(t)
	first := b.submit(t, "use", "a", "b")
	second := b.submit(t, "use", "a", "b")
	ticket := b.dispatch(t, store.Grant{Batch: first.ID, Run: 1, Size: 2})[0]
	b.claim(t, ticket)
	b.settle(t, first, ticket.ID, 2, "waiting", "b")
	b.expect(t, second, on(first, 1), on(first, 2)) // which is tried again
	b.pause(t, first)
	b.expect(t, second, on(first, 1), "waiting due")
	b.settle(t, first, ticket.ID, 1, "waiting", "a")
	b.expect(t, second, "waiting due", "waiting due")
}

func TestReconcileFindsLeadersThatEndedUnseen(t *testing.T) {
	t.Parallel()
	b := setUp(t)
	first := b.submit(t, "use", "a", "b", "c", "d")
	second := b.submit(t, "use", "a", "b", "c", "d", "e")
	ticket := b.dispatch(t, store.Grant{Batch: first.ID, Run: 1, Size: 4})[0]
	b.claim(t, ticket)
	for seq, state := range []string{"succeeded", "failed"} {
		answer, job := b.done(first, ticket.ID, int32(seq+1), "a")
		if state == "failed" {
			job.State, job.ResultKey, job.ErrorClass = state, nil, "timeout"
		}
		if _, err := b.db.Settle(t.Context(), nil, []store.Completion{answer}, []store.Settlement{job}, false); err != nil {
			t.Fatal(err)
		}
	}
	storetest.Exec(t, b.url, `delete from jobs where batch_id = $1 and seq = 3`, first.ID)
	storetest.Exec(t, b.url, `update batches set followed = false`)
	b.expect(t, second, on(first, 1), on(first, 2), on(first, 3), on(first, 4), "planned")
	ids, err := b.db.Following(t.Context())
	if err != nil || !slices.Equal(ids, []uuid.UUID{second.ID}) {
		t.Errorf("following: %v, %v", ids, err)
	}
	if n, err := b.db.Reconcile(t.Context(), second.ID); err != nil || n != 3 {
		t.Errorf("reconciled %d, %v; want 3", n, err)
	}
	b.expect(t, second, "succeeded coalesced", "waiting due", "waiting due", on(first, 4), "planned")
	if !b.get(t, first).Followed {
		t.Error("the leaders' batch still doesn't know that it is followed")
	}
}

func TestOnlyTheCacheIsShared(t *testing.T) {
	t.Parallel()
	b := setUp(t)
	off := b.submit(t, "off", "a")
	b.expect(t, b.submit(t, "use", "a"), "planned")
	_ = off
	refresh := b.submit(t, "refresh", "b")
	if refresh.Follows || refresh.Recheck {
		t.Error("a batch that wants fresh answers follows others or looks the cache up")
	}
	b.expect(t, b.submit(t, "use", "b"), on(refresh, 1))
	b.expect(t, b.submit(t, "refresh", "b"), "planned")
	b.expect(t, b.submit(t, "off", "b"), "planned")
	other, err := b.db.CreateKey(t.Context(), "q", "k", "bw_y", keyFor("other"))
	if err != nil {
		t.Fatal(err)
	}
	b.project = other.ID
	b.expect(t, b.submit(t, "use", "b"), "planned")
}

// crowd runs batches of the same jobs by several workers at once, and counts how often each key was paid for.
type crowd struct {
	*bench
	t    *testing.T
	mu   sync.Mutex
	paid map[string]int
	keys []string
	fail func() bool // of a call
}

// work is one worker: it starts, dispatches, claims, looks up, settles, reconciles and finishes until every batch is final.
func (c *crowd) work(ctx context.Context) error {
	for ctx.Err() == nil {
		open, tickets, err := c.db.Dispatch(ctx, func(open []store.OpenBatch, _ store.Fleet) []store.Grant {
			var out []store.Grant
			for _, b := range open {
				if b.State == "running" {
					g := store.Grant{Batch: b.ID, Run: 1, Size: 7}
					if b.Due > 0 {
						g.Retry = 1
					}
					out = append(out, g)
				}
			}
			return out
		})
		if err != nil && !store.IsTransient(err) {
			return err
		}
		if len(open) == 0 && err == nil {
			return nil
		}
		again, _, err := c.db.Sweep(ctx, 100*time.Millisecond) // a ticket that came while its batch was paused is not claimed, and comes again
		if err != nil && !store.IsTransient(err) {
			return err
		}
		for _, ticket := range append(tickets, again...) {
			if err := c.run(ctx, ticket); err != nil {
				return err
			}
		}
		for _, b := range open {
			switch {
			case b.Tickets > 0:
			case b.State == "planning":
				_, err = c.db.StartBatch(ctx, b.ID, nil)
			default:
				if _, err = c.db.Reconcile(ctx, b.ID); err == nil {
					_, err = c.db.FinishBatch(ctx, b.ID)
				}
			}
			if err != nil && !store.IsTransient(err) {
				return err
			}
		}
	}
	return context.Cause(ctx)
}

func (c *crowd) run(ctx context.Context, ticket store.Ticket) error {
	batch, err := c.db.AnyBatch(ctx, ticket.BatchID)
	if err != nil {
		return err
	}
	claimed, err := c.db.ClaimJobs(ctx, ticket, c.worker.ID, time.Minute)
	if err != nil {
		return err
	}
	look := make([][][32]byte, len(claimed))
	for i, j := range claimed {
		look[i] = keysFor(c.keys[int(j.Seq-1)%len(c.keys)])
	}
	hits := make([]*store.Hit, len(claimed))
	if batch.Recheck || ticket.Purpose == store.PurposeRetry {
		if hits, err = c.db.Hits(ctx, c.project, look, nil); err != nil {
			return err
		}
	}
	for i, j := range claimed {
		key, _, _ := strings.Cut(c.keys[int(j.Seq-1)%len(c.keys)], "|")
		state := "succeeded"
		if hits[i] == nil {
			c.mu.Lock()
			c.paid[key]++
			if c.fail() {
				state = []string{"waiting", "failed"}[rand.IntN(2)]
			}
			c.mu.Unlock()
		}
		c.settle(c.t, batch, ticket.ID, j.Seq, state, key)
	}
	_, err = c.db.CloseTicket(ctx, ticket.ID, c.worker.ID)
	return err
}

func (c *crowd) await(workers int) {
	c.t.Helper()
	ctx, cancel := context.WithTimeoutCause(c.t.Context(), time.Minute, errors.New("batches are still open after a minute"))
	defer cancel()
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			if err := c.work(ctx); err != nil {
				c.t.Error(err)
			}
		})
	}
	wg.Wait()
	if left := storetest.Scalar[int64](c.t, c.url, `select count(*) from jobs where finished_at is null`); left > 0 {
		c.t.Errorf("%d jobs are left behind: %s", left, storetest.Scalar[string](c.t, c.url, `
			select string_agg(format('%s %s of %s (%s, next %s): due %s, on %s %s, ticket %s', j.seq, j.state, j.batch_id, b.state, b.next_seq, j.due_at, j.leader_batch, j.leader_seq, j.ticket_id), e'\n')
			from jobs j join batches b on b.id = j.batch_id where j.finished_at is null`))
	}
}

func TestConcurrentBatchesPayForEachKeyOnce(t *testing.T) {
	t.Parallel()
	c := &crowd{bench: setUp(t), t: t, paid: map[string]int{}, keys: distinct(100), fail: func() bool { return false }}
	for range 4 {
		c.plan(t, "use", append(c.keys, c.keys...)...)
	}
	c.await(4)
	if len(c.paid) != 100 {
		t.Errorf("%d keys were paid for, want 100", len(c.paid))
	}
	for key, n := range c.paid {
		if n != 1 {
			t.Errorf("key %s was paid for %d times", key, n)
		}
	}
	if n := storetest.Scalar[int64](t, c.url, `select count(*) from batches where succeeded_jobs = 200 and state = 'completed'`); n != 4 {
		t.Errorf("%d of 4 batches are complete", n)
	}
}

// Whatever fails, is paused, resumed or cancelled, in whatever order: no follower is left behind.
func TestFollowersAreNeverStranded(t *testing.T) {
	t.Parallel()
	c := &crowd{bench: setUp(t), t: t, paid: map[string]int{}, keys: distinct(60), fail: func() bool { return rand.IntN(4) == 0 }}
	var batches []store.Batch
	for range 5 {
		batches = append(batches, c.plan(t, "use", append(c.keys, c.keys...)...))
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for range 30 {
			b := batches[rand.IntN(4)]
			if _, err := c.db.PauseBatch(context.Background(), c.project, b.ID, store.PauseRequested, "asked"); err != nil && !errors.Is(err, store.ErrState) {
				t.Error(err)
			}
			b = batches[rand.IntN(4)]
			if _, err := c.db.ResumeBatch(context.Background(), c.project, b.ID); err != nil && !errors.Is(err, store.ErrState) {
				t.Error(err)
			}
		}
		if _, err := c.db.CancelBatch(context.Background(), c.project, batches[0].ID, nil); err != nil {
			t.Error(err)
		}
		for _, b := range batches[1:] {
			if _, err := c.db.ResumeBatch(context.Background(), c.project, b.ID); err != nil && !errors.Is(err, store.ErrState) {
				t.Error(err)
			}
		}
	})
	c.await(4)
	wg.Wait()
}

func TestHangingIsNotQuadratic(t *testing.T) {
	t.Parallel()
	for _, same := range []bool{true, false} {
		t.Run(fmt.Sprintf("identical=%v", same), func(t *testing.T) {
			t.Parallel()
			b := setUp(t)
			const n = 100_000
			plan := func() store.Batch {
				batch := b.plan(t, "use", "first")
				storetest.Exec(t, b.url, `insert into jobs (batch_id, seq, state, key)
					select $1, s, 'planned', sha256(convert_to(case when $3 then 'same' else s::text end, 'UTF8')) from generate_series(2, $2) s`, batch.ID, n, same)
				storetest.Exec(t, b.url, `update batches set total_jobs = $2 where id = $1`, batch.ID, n)
				return batch
			}
			within := func(what string, f func()) {
				t.Helper()
				began := time.Now()
				f()
				if d := time.Since(began); d > time.Minute {
					t.Errorf("%s took %s for %d jobs", what, d, n)
				}
				t.Logf("%s: %s", what, time.Since(began).Round(time.Millisecond))
			}
			first, second := plan(), plan()
			within("hang inside", func() { first = b.start(t, first) })
			within("hang outside", func() { second = b.start(t, second) })
			if hung := storetest.Scalar[int64](t, b.url, `select count(*) from jobs where batch_id = $1 and leader_batch = $2`, second.ID, first.ID); hung != n {
				t.Errorf("%d of %d jobs hang on the other batch", hung, n)
			}
			within("reconcile", func() {
				if released, err := b.db.Reconcile(t.Context(), second.ID); err != nil || released != 0 {
					t.Errorf("released %d, %v", released, err)
				}
			})
			within("release", func() { b.pause(t, first) })
			leaders := storetest.Scalar[int64](t, b.url, `select count(*) from jobs where batch_id = $1 and due_at is not null`, second.ID)
			inside := storetest.Scalar[int64](t, b.url, `select count(*) from jobs where batch_id = $1 and leader_seq is not null and leader_batch is null`, second.ID)
			if want := map[bool]int64{true: 2, false: n}[same]; leaders != want || leaders+inside != n {
				t.Errorf("%d lead and %d follow: want %d of %d to lead", leaders, inside, want, n)
			}
		})
	}
}
