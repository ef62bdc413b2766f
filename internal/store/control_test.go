package store_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"batchwright/internal/store"
	"batchwright/internal/store/storetest"
)

func (b *bench) held(t *testing.T, id uuid.UUID) store.Batch {
	t.Helper()
	batch, err := b.db.PauseBatch(t.Context(), b.project, id, store.PauseRequested, "asked")
	if err != nil {
		t.Fatal(err)
	}
	return batch
}

func (b *bench) resume(t *testing.T, id uuid.UUID) store.Batch {
	t.Helper()
	batch, err := b.db.ResumeBatch(t.Context(), b.project, id)
	if err != nil {
		t.Fatal(err)
	}
	return batch
}

func (b *bench) finish(t *testing.T, id uuid.UUID) store.Batch {
	t.Helper()
	if done, err := b.db.FinishBatch(t.Context(), id); err != nil || !done {
		t.Fatalf("finish: %v, %v", done, err)
	}
	batch, err := b.db.AnyBatch(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return batch
}

func TestPauseTakesBackWhatNobodyClaimed(t *testing.T) {
	t.Parallel()
	b := setUp(t)
	batch := b.submit(t, "use", distinct(30)...)
	tickets := b.dispatch(t, store.Grant{Batch: batch.ID, Run: 4, Size: 5})
	b.claim(t, tickets[1])
	for range 2 {
		p := b.held(t, batch.ID)
		if p.State != "paused" || p.NextSeq != 1 || *p.PauseReason != "requested" || p.PausedAt == nil {
			t.Fatalf("%s from %d, %v", p.State, p.NextSeq, p.PauseReason)
		}
	}
	if jobs := b.claim(t, tickets[0]); len(jobs) != 0 {
		t.Errorf("a withdrawn ticket claims %d jobs", len(jobs))
	}
	if got := b.dispatch(t, store.Grant{Batch: batch.ID, Run: 4, Size: 5, Retry: 1}); len(got) != 0 {
		t.Errorf("a paused batch is given %d tickets", len(got))
	}
	if n, err := b.db.CloseTicket(t.Context(), tickets[1].ID, b.worker.ID); err != nil || n != 5 {
		t.Fatalf("handed %d jobs back, %v", n, err)
	}
	storetest.Exec(t, b.url, `update batches set paused_at = now() - interval '1 hour'; `)
	for range 2 {
		if r := b.resume(t, batch.ID); r.State != "running" || r.PauseReason != nil || r.PausedAt != nil {
			t.Fatalf("%s, %v", r.State, r.PauseReason)
		}
	}
	seen := map[int32]bool{}
	for _, ticket := range append(b.dispatch(t, store.Grant{Batch: batch.ID, Run: 10, Size: 5}), b.dispatch(t, store.Grant{Batch: batch.ID, Retry: 1, Size: 50})...) {
		for _, j := range b.claim(t, ticket) {
			if seen[j.Seq] {
				t.Errorf("job %d twice", j.Seq)
			}
			seen[j.Seq] = true
			if j.Age > time.Minute || j.Age < -2*time.Hour {
				t.Errorf("job %d is %s old: the pause counts", j.Seq, j.Age)
			}
		}
	}
	if len(seen) != 30 {
		t.Errorf("%d jobs after the pause, want all 30", len(seen))
	}
}

// Claims, dispatch, reissues and pauses at once: every job is claimed once, and none is lost with a ticket that was withdrawn or reissued.
func TestPauseAndResumeRaceWithClaims(t *testing.T) {
	t.Parallel()
	const n = 240
	b := setUp(t)
	batch := b.submit(t, "use", distinct(n)...)
	ctx, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	var mu sync.Mutex
	seen := map[int32]int{}
	claim := func(tickets []store.Ticket) {
		for _, ticket := range tickets {
			jobs, err := b.db.ClaimJobs(ctx, ticket, b.worker.ID, time.Minute)
			if err == nil && len(jobs) == 0 {
				err = b.db.EndTicket(ctx, ticket.ID, b.worker.ID) // as a worker does
			}
			if err != nil && ctx.Err() == nil {
				t.Error(err)
			}
			mu.Lock()
			for _, j := range jobs {
				seen[j.Seq]++
			}
			if len(seen) == n {
				stop()
			}
			mu.Unlock()
		}
	}
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			for ctx.Err() == nil {
				_, tickets, err := b.db.Dispatch(ctx, func([]store.OpenBatch, store.Fleet) []store.Grant {
					return []store.Grant{{Batch: batch.ID, Run: 2, Size: 3}}
				})
				if err != nil && ctx.Err() == nil {
					t.Error(err)
					return
				}
				claim(tickets)
			}
		})
	}
	wg.Go(func() {
		for ctx.Err() == nil { // every posted ticket seems lost at once
			tickets, _, err := b.db.Sweep(ctx, 0)
			if err != nil && ctx.Err() == nil {
				t.Error(err)
				return
			}
			claim(tickets)
		}
	})
	wg.Go(func() {
		for ctx.Err() == nil {
			_, err := b.db.PauseBatch(ctx, b.project, batch.ID, store.PauseRequested, "asked")
			if err == nil {
				_, err = b.db.ResumeBatch(ctx, b.project, batch.ID)
			}
			if err != nil && ctx.Err() == nil {
				t.Error(err)
				return
			}
		}
	})
	wg.Wait()
	if len(seen) != n {
		t.Fatalf("claimed %d jobs of %d", len(seen), n)
	}
	for seq, times := range seen {
		if times != 1 {
			t.Errorf("job %d was claimed %d times", seq, times)
		}
	}
}

func TestStrayTicketsOfAPausedBatchAreWithdrawn(t *testing.T) {
	t.Parallel()
	b := setUp(t)
	batch := b.submit(t, "use", distinct(20)...)
	ticket := b.dispatch(t, store.Grant{Batch: batch.ID, Run: 1, Size: 20})[0]
	storetest.Exec(t, b.url, `update batches set state = 'paused', pause_reason = 'budget', paused_at = now()`) // the ticket was not seen
	if jobs := b.claim(t, ticket); len(jobs) != 0 {
		t.Fatalf("a paused batch's ticket claims %d jobs", len(jobs))
	}
	if err := b.db.EndTicket(t.Context(), ticket.ID, b.worker.ID); err != nil {
		t.Fatal(err)
	}
	if n := storetest.Scalar[int64](t, b.url, `select count(*) from tickets`); n != 1 {
		t.Fatal("the ticket is gone, and its range with it")
	}
	if _, _, err := b.db.Sweep(t.Context(), time.Minute); err != nil {
		t.Fatal(err)
	}
	if n := storetest.Scalar[int64](t, b.url, `select count(*) from tickets`); n != 0 {
		t.Errorf("%d tickets left", n)
	}
	b.resume(t, batch.ID)
	if jobs := b.claim(t, b.dispatch(t, store.Grant{Batch: batch.ID, Run: 1, Size: 20})[0]); len(jobs) != 20 {
		t.Errorf("%d jobs after the pause, want 20", len(jobs))
	}
}

func TestPauseBeforeTheBatchRuns(t *testing.T) {
	t.Parallel()
	b := setUp(t)
	batch := b.submit(t, "use", "a")
	storetest.Exec(t, b.url, `update batches set state = 'planning', started_at = null`)
	if p := b.held(t, batch.ID); p.State != "planning" || *p.PauseReason != "requested" {
		t.Errorf("%s, %v: want planning to go on", p.State, p.PauseReason)
	}
	if ok, err := b.db.StartBatch(t.Context(), batch.ID, nil); err != nil || !ok {
		t.Fatalf("start: %v, %v", ok, err)
	}
	if now, _ := b.db.AnyBatch(t.Context(), batch.ID); now.State != "paused" {
		t.Errorf("%s after planning, want paused", now.State)
	}
	// A budget's pause doesn't take the place of a caller's; the other way round it does.
	if p, err := b.db.PauseBatch(t.Context(), b.project, batch.ID, store.PauseBudget, "no room"); err != nil || *p.PauseReason != "requested" {
		t.Errorf("%v, %v", p.PauseReason, err)
	}
	b.resume(t, batch.ID)
	if p, err := b.db.PauseBatch(t.Context(), b.project, batch.ID, store.PauseBudget, "no room"); err != nil || *p.PauseReason != "budget" || *p.PauseDetail != "no room" {
		t.Errorf("%v, %v", p.PauseReason, err)
	}
	if p := b.held(t, batch.ID); *p.PauseReason != "requested" {
		t.Errorf("%v", p.PauseReason)
	}
}

func TestEndingBatchesForbidControl(t *testing.T) {
	t.Parallel()
	b := setUp(t)
	batch := b.submit(t, "use", "a", "b")
	b.claim(t, b.dispatch(t, store.Grant{Batch: batch.ID, Run: 1, Size: 1})[0])
	five := int32(5)
	if _, err := b.db.CancelBatch(t.Context(), b.project, batch.ID, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := b.db.CancelBatch(t.Context(), b.project, batch.ID, &five); err != nil {
		t.Fatal(err)
	}
	s, err := b.db.Standings(t.Context(), []uuid.UUID{batch.ID, uuid.New()})
	if err != nil || len(s) != 1 || s[0].State != "cancelling" || s[0].EndingGrace == nil || *s[0].EndingGrace != 5 || s[0].Ending < 0 || s[0].Ending > time.Minute {
		t.Errorf("%+v, %v", s, err)
	}
	p, err := b.db.PauseBatch(t.Context(), b.project, batch.ID, store.PauseRequested, "")
	if !errors.Is(err, store.ErrState) || p.State != "cancelling" {
		t.Errorf("pause: %s, %v", p.State, err)
	}
	if _, err := b.db.ResumeBatch(t.Context(), b.project, batch.ID); !errors.Is(err, store.ErrState) {
		t.Errorf("resume: %v", err)
	}
	if _, _, err := b.db.RetryJobs(t.Context(), b.project, batch.ID, store.RetryFilter{States: []string{"failed"}}); !errors.Is(err, store.ErrState) {
		t.Errorf("retry: %v", err)
	}
	if _, err := b.db.PauseBatch(t.Context(), uuid.New(), batch.ID, store.PauseRequested, ""); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("another project's pause: %v", err)
	}
}

func TestExpireKeepsFinishedWork(t *testing.T) {
	t.Parallel()
	b := setUp(t)
	batch, unplanned, later := b.submit(t, "use", "a", "b", "c"), b.submit(t, "use", "d", "e"), b.submit(t, "use", "f")
	ticket := b.dispatch(t, store.Grant{Batch: batch.ID, Run: 1, Size: 2})[0]
	b.claim(t, ticket)
	answer, job := b.done(batch, ticket.ID, 1, "a")
	if _, err := b.db.Settle(t.Context(), nil, []store.Completion{answer}, []store.Settlement{job}, false); err != nil {
		t.Fatal(err)
	}
	storetest.Exec(t, b.url, `update batches set expires_at = now() - interval '1 second' where id <> $1`, later.ID)
	storetest.Exec(t, b.url, `update batches set expires_at = now() + interval '1 hour' where id = $1`, later.ID)
	storetest.Exec(t, b.url, `update batches set state = 'planning', started_at = null where id = $1`, unplanned.ID)
	storetest.Exec(t, b.url, `delete from jobs where batch_id = $1`, unplanned.ID)
	for _, want := range []int{2, 0} {
		if ended, err := b.db.Expire(t.Context()); err != nil || len(ended) != want || slices.Contains(ended, later.ID) {
			t.Errorf("expired %v, %v; want %d", ended, err, want)
		}
	}
	if n, err := b.db.CloseTicket(t.Context(), ticket.ID, b.worker.ID); err != nil || n != 1 {
		t.Fatalf("closed with %d jobs, %v", n, err)
	}
	batch, unplanned = b.finish(t, batch.ID), b.finish(t, unplanned.ID)
	if s, err := b.db.BatchStats(t.Context(), batch); err != nil || batch.State != "expired" || s.Succeeded != 1 || s.Cancelled != 2 {
		t.Errorf("%s, %+v, %v", batch.State, s, err)
	}
	jobs, err := b.db.Jobs(t.Context(), unplanned.ID, "cancelled", 0, 10)
	if s, serr := b.db.BatchStats(t.Context(), unplanned); err != nil || serr != nil || unplanned.State != "expired" || s.Cancelled != 2 || len(jobs) != 2 {
		t.Errorf("%s, %+v, %v, %d jobs, %v", unplanned.State, s, serr, len(jobs), err)
	}
}

func TestRetryReopensAndFreezesAnew(t *testing.T) {
	t.Parallel()
	b := setUp(t)
	batch := b.submit(t, "use", "a", "b", "a", "c", "a") // 3 and 5 follow 1
	ticket := b.dispatch(t, store.Grant{Batch: batch.ID, Run: 1, Size: 10})[0]
	b.claim(t, ticket)
	fail := func(seq int32, class string) store.Settlement {
		return store.Settlement{ProjectID: b.project, BatchID: batch.ID, Seq: seq, TicketID: ticket.ID, State: "failed", Counted: true, ErrorClass: class, ErrorMessage: class, Calls: 2}
	}
	if _, err := b.db.Settle(t.Context(), nil, nil, []store.Settlement{fail(1, "server"), fail(2, "truncated"), fail(4, "server")}, true); err != nil {
		t.Fatal(err)
	}
	if err := b.db.EndTicket(t.Context(), ticket.ID, b.worker.ID); err != nil {
		t.Fatal(err)
	}
	storetest.Exec(t, b.url, `update jobs set key = null where seq = 4`)                                                                             // as an invalid input
	storetest.Exec(t, b.url, `update jobs set error_class = 'auth' where seq = 5`)                                                                   // a follower that is retried without its leader
	storetest.Exec(t, b.url, `update batches set expires_at = now() - interval '1 day', progress_at = now() - interval '1 day', stalled_at = now()`) // while it was open
	if batch = b.finish(t, batch.ID); batch.State != "completed" {
		t.Fatalf("%s", batch.State)
	}
	filter := store.RetryFilter{States: []string{"failed"}, Classes: []string{"server"}}
	for i, want := range []store.Retried{{Requeued: 2, Excluded: 1}, {Excluded: 1}} { // 1 and its follower 3; 4 can never run
		got, r, err := b.db.RetryJobs(t.Context(), b.project, batch.ID, filter)
		if err != nil || r != want || got.State != "running" || got.FinishedAt != nil || got.ExpiresAt != nil {
			t.Errorf("%d: %+v, %v, %s; want %+v", i, r, err, got.State, want)
		}
	}
	if fresh := storetest.Scalar[bool](t, b.url, `select progress_at > now() - interval '1 hour' and stalled_at is null from batches`); !fresh {
		t.Error("a batch that runs again seems to have stalled while it was final")
	}
	if waits := storetest.Scalar[[]int32](t, b.url, `select array_agg(coalesce(leader_seq, 0) order by seq) from jobs where state = 'waiting'`); !slices.Equal(waits, []int32{0, 1}) {
		t.Errorf("the leaders of what waits: %v, want none for 1, and 1 for 3", waits)
	}
	open, _ := b.db.AnyBatch(t.Context(), batch.ID)
	if s, err := b.db.BatchStats(t.Context(), open); err != nil || s.Waiting != 2 || s.Failed != 3 {
		t.Errorf("while it runs again: %+v, %v", s, err)
	}
	if _, r, err := b.db.RetryJobs(t.Context(), b.project, batch.ID, store.RetryFilter{States: []string{"failed"}, Classes: []string{"auth"}}); err != nil || r.Requeued != 1 {
		t.Errorf("%+v, %v", r, err)
	}
	if due := storetest.Scalar[bool](t, b.url, `select due_at is not null and leader_seq is null from jobs where seq = 5`); !due {
		t.Error("a follower whose leader is not retried with it waits for it")
	}
	again := b.dispatch(t, store.Grant{Batch: batch.ID, Retry: 1, Size: 10})[0]
	jobs := b.claim(t, again)
	if len(jobs) != 2 || jobs[0].Attempts != 0 || jobs[0].ErrorClass != "" {
		t.Fatalf("claimed %+v, want 1 and 5 as new", jobs)
	}
	var answers []store.Completion
	var settled []store.Settlement
	for _, j := range jobs {
		answer, done := b.done(batch, again.ID, j.Seq, "a")
		answers, settled = append(answers, answer), append(settled, done)
	}
	if _, err := b.db.Settle(t.Context(), nil, answers[:1], settled, true); err != nil {
		t.Fatal(err)
	}
	if err := b.db.EndTicket(t.Context(), again.ID, b.worker.ID); err != nil {
		t.Fatal(err)
	}
	batch = b.finish(t, batch.ID)
	if s, err := b.db.BatchStats(t.Context(), batch); err != nil || batch.State != "completed" || s.Succeeded != 3 || s.Failed != 2 || s.Coalesced != 1 || s.Misses != 2 {
		t.Errorf("%s, %+v, %v", batch.State, s, err)
	}
	if calls := storetest.Scalar[int64](t, b.url, `select calls::bigint from jobs where seq = 1`); calls != 3 {
		t.Errorf("%d calls of job 1, want those of before too", calls)
	}
	storetest.Exec(t, b.url, `update batches set purged_at = now()`)
	if _, _, err := b.db.RetryJobs(t.Context(), b.project, batch.ID, filter); !errors.Is(err, store.ErrState) {
		t.Errorf("retry of a purged batch: %v", err)
	}
}

func TestRetryOfACancelledBatch(t *testing.T) {
	t.Parallel()
	b := setUp(t)
	batch := b.submit(t, "use", "a", "b", "a")
	if _, err := b.db.CancelBatch(t.Context(), b.project, batch.ID, nil); err != nil {
		t.Fatal(err)
	}
	b.finish(t, batch.ID)
	got, r, err := b.db.RetryJobs(t.Context(), b.project, batch.ID, store.RetryFilter{States: []string{"failed", "cancelled"}})
	if err != nil || r.Requeued != 3 || got.State != "running" || got.Ending != nil {
		t.Fatalf("%+v, %v, %s", r, err, got.State)
	}
	if jobs := b.claim(t, b.dispatch(t, store.Grant{Batch: batch.ID, Run: 1, Retry: 1, Size: 10})[0]); len(jobs) != 2 {
		t.Errorf("claimed %+v, want 1 and 2, with 3 following 1", jobs)
	}
}

func TestDeadLettersPageAndAreFoundAgain(t *testing.T) {
	t.Parallel()
	b := setUp(t)
	var ids []uuid.UUID
	for i := range 3 {
		batch := b.submit(t, "off", "a", "b", "c")
		ids = append(ids, batch.ID)
		ticket := b.dispatch(t, store.Grant{Batch: batch.ID, Run: 1, Size: 10})[0]
		b.claim(t, ticket)
		var jobs []store.Settlement
		for seq := range int32(3) {
			jobs = append(jobs, store.Settlement{ProjectID: b.project, BatchID: batch.ID, Seq: seq + 1, TicketID: ticket.ID, State: "failed", Counted: true,
				ErrorClass: []string{"server", "auth", "server"}[seq], ErrorMessage: "m"})
		}
		if i == 1 {
			jobs = jobs[:0] // handed back: nothing is dead
		}
		if _, err := b.db.Settle(t.Context(), nil, nil, jobs, false); err != nil {
			t.Fatal(err)
		}
		if _, err := b.db.CloseTicket(t.Context(), ticket.ID, b.worker.ID); err != nil {
			t.Fatal(err)
		}
	}
	b.finish(t, ids[0])
	storetest.Exec(t, b.url, `update jobs set key = null where batch_id = $1 and error_class = 'auth'`, ids[0])
	type at struct {
		batch uuid.UUID
		seq   int32
	}
	var got []at
	var after *uuid.UUID
	var seq int32
	for {
		page, err := b.db.DeadLetters(t.Context(), b.project, store.DeadLetterFilter{}, after, seq, 4)
		if err != nil {
			t.Fatal(err)
		}
		if len(page) == 0 {
			break
		}
		for _, d := range page {
			got = append(got, at{d.BatchID, d.Seq})
			if d.Requeueable != (d.BatchID != ids[0] || d.ErrorClass != "auth") || d.Attempts != 1 || d.ErrorMessage != "m" {
				t.Errorf("%+v", d)
			}
		}
		last := page[len(page)-1]
		after, seq = &last.BatchID, last.Seq
	}
	if want := []at{{ids[2], 1}, {ids[2], 2}, {ids[2], 3}, {ids[0], 1}, {ids[0], 2}, {ids[0], 3}}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	soon := time.Now().Add(time.Hour)
	for _, tt := range []struct {
		filter  store.DeadLetterFilter
		letters int
		batches []uuid.UUID
	}{
		{store.DeadLetterFilter{Class: "auth"}, 2, []uuid.UUID{ids[2]}},
		{store.DeadLetterFilter{Class: "server"}, 4, []uuid.UUID{ids[2], ids[0]}},
		{store.DeadLetterFilter{Batch: &ids[0]}, 3, []uuid.UUID{ids[0]}},
		{store.DeadLetterFilter{Kind: "chat"}, 0, nil},
		{store.DeadLetterFilter{Since: &soon}, 0, nil},
	} {
		page, err := b.db.DeadLetters(t.Context(), b.project, tt.filter, nil, 0, 10)
		batches, berr := b.db.DeadBatches(t.Context(), b.project, tt.filter, 10)
		if err != nil || berr != nil || len(page) != tt.letters || !slices.Equal(batches, tt.batches) {
			t.Errorf("%+v: %d letters, batches %v, %v, %v", tt.filter, len(page), batches, err, berr)
		}
	}
}

func TestUpdateReachesStandings(t *testing.T) {
	t.Parallel()
	b := setUp(t)
	batch := b.submit(t, "use", "a")
	allow := func(store.Batch) error { return nil }
	three, name, prio := int32(3), "new", int16(5)
	u, err := b.db.UpdateBatch(t.Context(), b.project, batch.ID, store.BatchChange{Name: &name, Priority: &prio, MaxAttempts: store.Change[int32]{Set: true, To: &three},
		JobTimeoutSeconds: store.Change[int32]{Set: true, To: &three}, Metadata: []byte(`{"k":"v"}`)}, allow)
	if err != nil || u.Name != "new" || u.Priority != 5 || *u.MaxAttempts != 3 || string(u.Metadata) != `{"k": "v"}` || u.Concurrency != nil {
		t.Errorf("%+v, %v", u, err)
	}
	u, err = b.db.UpdateBatch(t.Context(), b.project, batch.ID, store.BatchChange{JobTimeoutSeconds: store.Change[int32]{Set: true}}, allow)
	if err != nil || u.JobTimeoutSeconds != nil || *u.MaxAttempts != 3 || u.Name != "new" {
		t.Errorf("%+v, %v", u, err)
	}
	s, err := b.db.Standings(t.Context(), []uuid.UUID{batch.ID})
	if err != nil || len(s) != 1 || *s[0].MaxAttempts != 3 || s[0].JobTimeoutSeconds != nil || s[0].State != "running" || s[0].Ending != 0 {
		t.Errorf("%+v, %v", s, err)
	}
	no := errors.New("no")
	if _, err := b.db.UpdateBatch(t.Context(), b.project, batch.ID, store.BatchChange{Priority: new(int16)}, func(store.Batch) error { return no }); !errors.Is(err, no) {
		t.Errorf("%v", err)
	}
}
