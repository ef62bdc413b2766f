package store_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/google/uuid"

	"batchwright/internal/store"
	"batchwright/internal/store/storetest"
)

func TestDispatchKeepsDeficitsAndLanes(t *testing.T) {
	t.Parallel()
	b := setUp(t)
	first, second := b.submit(t, "use", distinct(30)...), b.submit(t, "use", distinct(40)[30:]...)
	storetest.Exec(t, b.url, `update projects set weight = 7`)
	storetest.Exec(t, b.url, `update batches set concurrency = 5, priority = 3 where id = $1`, first.ID)
	_, tickets, err := b.db.Dispatch(t.Context(), func(open []store.OpenBatch, f store.Fleet) []store.Grant {
		if len(open) != 2 || open[0].Project != open[1].Project || open[0].Project.Weight != 7 || f.Workers != 1 || f.Jobs != 0 {
			t.Errorf("open %+v, fleet %+v", open, f)
		}
		for i := range open {
			if o := &open[i]; o.ID == first.ID && (o.Concurrency == nil || *o.Concurrency != 5 || o.Priority != 3) {
				t.Errorf("%+v", o)
			}
			open[i].Deficit = int64(-4 - i)
		}
		open[0].Project.Deficit = 11
		return []store.Grant{{Batch: first.ID, Run: 1, Size: 4, Express: true}, {Batch: first.ID, Run: 2, Size: 3}}
	})
	if err != nil || len(tickets) != 3 || !tickets[0].Express || tickets[0].FirstSeq != 1 || tickets[1].Express || tickets[2].LastSeq != 10 {
		t.Fatalf("tickets %+v, %v", tickets, err)
	}
	storetest.Exec(t, b.url, `update tickets set posted_at = now() - interval '1 minute' where worker_id is null and id = $1`, tickets[1].ID)
	if again, _, err := b.db.Sweep(t.Context(), 10*time.Second); err != nil || len(again) != 1 || again[0].Express {
		t.Errorf("reissued %+v, %v", again, err)
	}
	_, _, err = b.db.Dispatch(t.Context(), func(open []store.OpenBatch, f store.Fleet) []store.Grant {
		if f.Jobs != 10 || f.Tickets != 2 || f.Express != 1 || open[0].Project.Deficit != 11 {
			t.Errorf("fleet %+v, project %+v", f, open[0].Project)
		}
		for i, o := range open {
			if o.Deficit != int64(-4-i) {
				t.Errorf("batch %d: deficit %d was not kept", i, o.Deficit)
			}
			if o.ID == first.ID && (o.Jobs != 10 || o.Tickets != 3 || o.Express != 1 || o.NextSeq != 11) {
				t.Errorf("%+v", o)
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	// The round is told of a project that has a deficit and nothing open, too: its deficit goes.
	storetest.Exec(t, b.url, `delete from tickets`)
	for _, batch := range []store.Batch{first, second} {
		if _, err := b.db.CancelBatch(t.Context(), b.project, batch.ID, nil); err != nil {
			t.Fatal(err)
		}
		if done, err := b.db.FinishBatch(t.Context(), batch.ID); err != nil || !done {
			t.Fatalf("finish: %v, %v", done, err)
		}
	}
	if _, _, err := b.db.Dispatch(t.Context(), func([]store.OpenBatch, store.Fleet) []store.Grant { return nil }); err != nil {
		t.Fatal(err)
	}
	if d := storetest.Scalar[int64](t, b.url, `select deficit from projects`); d != 0 {
		t.Errorf("a project without work has a deficit of %d", d)
	}
}

// A batch whose row is busy, such as one of a million jobs that is being cancelled, must not keep the others waiting.
func TestDispatchPassesOverABusyBatch(t *testing.T) {
	t.Parallel()
	b := setUp(t)
	busy, free := b.submit(t, "use", distinct(30)...), b.submit(t, "off", distinct(30)...)
	release := storetest.Lock(t, b.url, `select 1 from batches where id = $1 for update`, busy.ID)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	grants := func([]store.OpenBatch, store.Fleet) []store.Grant {
		return []store.Grant{{Batch: busy.ID, Run: 1, Size: 4}, {Batch: free.ID, Run: 1, Size: 4}}
	}
	_, tickets, err := b.db.Dispatch(ctx, grants)
	if err != nil || len(tickets) != 1 || tickets[0].BatchID != free.ID {
		t.Errorf("tickets %+v, %v", tickets, err)
	}
	release()
	if _, tickets, err = b.db.Dispatch(ctx, grants); err != nil || len(tickets) != 2 {
		t.Errorf("tickets %+v, %v", tickets, err)
	}
}

func TestHintsAreHeard(t *testing.T) {
	t.Parallel()
	b := setUp(t)
	heard := b.listen(t)
	await := func(want string) {
		t.Helper()
		deadline := time.After(20 * time.Second)
		for {
			select {
			case hint := <-heard:
				if hint == want {
					return
				}
			case <-deadline:
				t.Fatalf("%s was not heard", want)
			}
		}
	}
	await(store.HintControl) // both are called when it begins to listen
	for range 2 {
		b.submit(t, "use", "a", "b")
		await(store.HintWork)
		// It survives the loss of its connection, and tells that it may have missed something.
		storetest.Exec(t, b.url, `select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and query like 'listen%'`)
		await(store.HintControl)
	}
}

// listen returns the hints that come, those of its beginning included.
func (b *bench) listen(t *testing.T) <-chan string {
	t.Helper()
	heard := make(chan string, 100)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		b.db.Listen(ctx, slog.New(slog.DiscardHandler), func(hint string) { heard <- hint })
	}()
	t.Cleanup(func() { cancel(); <-done })
	return heard
}

// A source that could not be read is left alone until it is to be tried again, so the upload that ends with it calls nobody; that of a dead worker does.
func TestOnlyADeadUploadCallsForItsSource(t *testing.T) {
	t.Parallel()
	b := setUp(t)
	nb := b.newBatch(t, "a")
	nb.Open = true
	if _, _, err := b.db.CreateBatch(t.Context(), nb, chunksOf(1, 10, 5, nil), sealed(10)); err != nil {
		t.Fatal(err)
	}
	heard := b.listen(t)
	if hint := <-heard; hint != store.HintControl && hint != store.HintWork { // it listens
		t.Fatalf("heard %q first", hint)
	}
	calls := func() (n int) {
		if err := b.db.Hint(t.Context(), "until here"); err != nil {
			t.Fatal(err)
		}
		for hint := range heard {
			switch hint {
			case store.HintSource:
				n++
			case "until here":
				return n
			}
		}
		return n
	}
	broken := errors.New("the source broke off")
	if _, err := b.db.AppendJobs(t.Context(), b.project, nb.ID, 10, chunksOf(11, 12, 5, broken), func() int32 { return 2 }); !errors.Is(err, broken) {
		t.Fatal(err)
	}
	if n := calls(); n != 0 {
		t.Errorf("%d calls after an upload that failed", n)
	}
	storetest.Exec(t, b.url, `update batches set upload_id = gen_random_uuid() where id = $1`, nb.ID)
	if _, err := b.db.SweepIngest(t.Context(), 0, time.Hour); err != nil {
		t.Fatal(err)
	}
	if n := calls(); n != 1 {
		t.Errorf("%d calls after a dead upload, want 1", n)
	}
}

// Measured: BenchmarkDispatch says what a round costs by how much is open or waiting.
func BenchmarkDispatch(b *testing.B) {
	for _, c := range []struct{ batches, jobs int }{{1, 200_000}, {1, 1_000_000}, {10_000, 10}} {
		b.Run(fmt.Sprintf("batches=%d/jobs=%d", c.batches, c.jobs), func(b *testing.B) {
			url := storetest.URL(b)
			db, err := store.Open(b.Context(), url, store.Options{})
			if err != nil {
				b.Fatal(err)
			}
			defer db.Close()
			w := store.Worker{ID: uuid.New(), Hostname: "h", Slots: 64, Concurrency: 256}
			if err := db.Register(b.Context(), w); err != nil {
				b.Fatal(err)
			}
			storetest.Exec(b, url, `insert into projects (id, name) values ('00000000-0000-0000-0000-000000000001', 'p')`)
			storetest.Exec(b, url, `insert into batches (id, project_id, name, kind, state, route, params, on_invalid, cache, request_sha256, total_jobs)
				select gen_random_uuid(), '00000000-0000-0000-0000-000000000001', '', 'generate', 'running', '{}', '{}', 'refuse', 'use', '', $2
				from generate_series(1, $1)`, c.batches, c.jobs)
			storetest.Exec(b, url, `insert into inputs (batch_id, seq, input) select id, s, '{}' from batches, generate_series(1, total_jobs) s`)
			storetest.Exec(b, url, `insert into jobs (batch_id, seq, state) select id, s, 'planned' from batches, generate_series(1, total_jobs) s`)
			claimed := 0
			for b.Loop() {
				open, tickets, err := db.Dispatch(b.Context(), func(open []store.OpenBatch, _ store.Fleet) (grants []store.Grant) {
					for i := range open {
						if o := &open[i]; o.NextSeq <= o.TotalJobs && len(grants) < 4 {
							grants = append(grants, store.Grant{Batch: o.ID, Run: max(4/len(open), 1), Size: 64})
							o.Deficit--
						}
					}
					return grants
				})
				if err != nil || len(open) != c.batches {
					b.Fatalf("%d open, %v", len(open), err)
				}
				for _, ticket := range tickets {
					jobs, err := db.ClaimJobs(b.Context(), ticket, w.ID, time.Minute)
					if err != nil {
						b.Fatal(err)
					}
					claimed += len(jobs)
					if err := db.EndTicket(b.Context(), ticket.ID, w.ID); err != nil {
						b.Fatal(err)
					}
				}
			}
			b.ReportMetric(float64(claimed)/b.Elapsed().Seconds(), "claims/s")
		})
	}
}
