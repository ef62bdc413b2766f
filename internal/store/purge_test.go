package store_test

import (
	"context"
	"errors"
	"sync"
	"testing"

	"github.com/google/uuid"

	"batchwright/internal/store"
	"batchwright/internal/store/storetest"
)

// ended makes a completed batch of n jobs with a document and two calls each, which is as many rows as a chunk and some more.
func (b *bench) ended(t *testing.T, n int) uuid.UUID {
	t.Helper()
	nb := b.newBatch(t, "")
	if _, _, err := b.db.CreateBatch(t.Context(), nb, chunksOf(1, int32(n), 5000, nil), sealed(int32(n))); err != nil {
		t.Fatal(err)
	}
	for _, sql := range []string{
		`delete from tickets where batch_id = $1`,
		`update inputs set document_sha256 = sha256(convert_to((seq % 100)::text, 'UTF8')) where batch_id = $1`,
		`insert into documents (project_id, sha256, content_type, bytes, body) select project_id, sha256(convert_to(s::text, 'UTF8')), '', 1, 'x'
			from batches, generate_series(0, 99) s where id = $1 on conflict do nothing`,
		`insert into jobs (batch_id, seq, state, finished_at, result_key, result_generation) select batch_id, seq, 'succeeded', now(), 'k', 1 from inputs where batch_id = $1`,
		`insert into calls (batch_id, seq, ticket_id, number, started_at, settled_at, reserved_microusd, cost_microusd, input_tokens, cached_input_tokens,
			output_tokens, step, state, provider, model, error_class, gateway_cache_status)
			select batch_id, seq, 1, c, '2026-11-20 23:59:59+00'::timestamptz + seq % 3 * interval '1 second', case when c = 1 then now() end, 9,
			case when c = 1 and seq % 7 > 0 then seq end, seq, 1, 2, 0, case when c = 1 then 'settled' else 'uncertain' end, 'p' || seq % 2, 'm',
			case when seq % 5 = 0 then 'server' end, case when seq % 4 = 0 then 'HIT' end
			from inputs, generate_series(1, 2) c where batch_id = $1`,
		`update batches set state = 'running', started_at = now() where id = $1`,
	} {
		storetest.Exec(t, b.url, sql, nb.ID)
	}
	if done, err := b.db.FinishBatch(t.Context(), nb.ID); err != nil || !done {
		t.Fatalf("%v, %v", done, err)
	}
	return nb.ID
}

func (b *bench) costs(t *testing.T) string {
	t.Helper()
	return storetest.Scalar[string](t, b.url, `select coalesce(string_agg(d::text, E'\n' order by d::text), '') from reports.daily_costs d`)
}

func (b *bench) rows(t *testing.T, batch uuid.UUID) int {
	t.Helper()
	return storetest.Scalar[int](t, b.url, `select ((select count(*) from inputs where batch_id = $1) + (select count(*) from jobs where batch_id = $1)
		+ (select count(*) from calls where batch_id = $1))::int`, batch)
}

func TestAPurgeKeepsCountsAndCostsWhereverItBreaksOff(t *testing.T) {
	t.Parallel()
	b := setUp(t)
	const n = 12_000
	id, other := b.ended(t, n), b.ended(t, 10)
	before, err := b.db.Batch(t.Context(), b.project, id)
	if err != nil {
		t.Fatal(err)
	}
	counts, err := b.db.BatchStats(t.Context(), before)
	if err != nil || counts.Calls != 2*n || counts.Succeeded != n || counts.CostMicrousd == 0 {
		t.Fatalf("%+v, %v", counts, err)
	}
	costs := b.costs(t)
	rounds := 0
	for done := false; !done; rounds++ { // one statement a round: between two of them it might have been broken off
		left := b.rows(t, id)
		if done, err = b.db.PurgeBatch(t.Context(), b.project, id, 1); err != nil {
			t.Fatal(err)
		}
		if gone := left - b.rows(t, id); gone > 10_000 {
			t.Errorf("%d rows in one statement", gone)
		}
		if now := b.costs(t); now != costs {
			t.Fatalf("costs after round %d:\n%s\nbefore:\n%s", rounds, now, costs)
		}
		if rounds > 20 {
			t.Fatal("no end")
		}
	}
	if rounds < 5 || b.rows(t, id) != 0 || b.rows(t, other) != 40 {
		t.Errorf("%d rounds, %d rows are left, %d of another batch", rounds, b.rows(t, id), b.rows(t, other))
	}
	after, err := b.db.Batch(t.Context(), b.project, id)
	if err != nil || after.PurgedAt == nil || after.State != "completed" {
		t.Fatalf("%+v, %v", after, err)
	}
	if again, err := b.db.BatchStats(t.Context(), after); err != nil || again != counts {
		t.Errorf("%+v, %v, want %+v", again, err, counts)
	}
	if docs := storetest.Scalar[int](t, b.url, `select count(*)::int from documents`); docs != 10 {
		t.Errorf("%d documents are left, want the 10 of the other batch", docs)
	}
	if done, err := b.db.PurgeBatch(t.Context(), b.project, id, 10); err != nil || !done || b.costs(t) != costs {
		t.Errorf("purged again: %v, %v", done, err)
	}
}

func TestPurgesAtTheSameTimeCountEachCallOnce(t *testing.T) {
	t.Parallel()
	b := setUp(t)
	one, two := b.ended(t, 6_000), b.ended(t, 6_000)
	costs := b.costs(t)
	var wg sync.WaitGroup
	for _, id := range []uuid.UUID{one, two, one, two} {
		wg.Go(func() {
			if done, err := b.db.PurgeBatch(context.Background(), b.project, id, 100); err != nil || !done {
				t.Errorf("%v, %v", done, err)
			}
		})
	}
	wg.Wait()
	if got := b.costs(t); got != costs {
		t.Errorf("costs:\n%s\nbefore:\n%s", got, costs)
	}
	if b.rows(t, one)+b.rows(t, two) != 0 {
		t.Error("rows are left")
	}
}

func TestAPurgeNeverTakesADocumentThatIsComingIn(t *testing.T) {
	t.Parallel()
	b := setUp(t)
	body := []byte("shared")
	sum := keyFor("shared")
	upload := func() (uuid.UUID, error) {
		nb := b.newBatch(t, "")
		_, _, err := b.db.CreateBatch(context.Background(), nb, func(yield func(store.Chunk, error) bool) {
			yield(store.Chunk{Documents: []store.NewDocument{{SHA256: sum[:], Body: body}}, Inputs: []store.NewInput{{Seq: 1, Input: []byte(`{}`), DocumentSHA256: sum[:]}}}, nil)
		}, sealed(1))
		return nb.ID, err
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 15 {
				id, err := upload()
				if err != nil {
					t.Error(err)
					return
				}
				if _, err := b.db.Document(context.Background(), b.project, sum[:]); err != nil {
					t.Errorf("a batch's document: %v", err)
				}
				if _, err := b.db.CancelBatch(context.Background(), b.project, id, nil); err != nil {
					t.Error(err)
				}
				if _, err := b.db.FinishBatch(context.Background(), id); err != nil {
					t.Error(err)
				}
				if _, err := b.db.PurgeBatch(context.Background(), b.project, id, 10); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if docs := storetest.Scalar[int](t, b.url, `select count(*)::int from documents`); docs != 0 {
		t.Errorf("%d documents are left that nothing refers to", docs)
	}
}

func TestOnlyFinalBatchesArePurgedAndOldOnesByThemselves(t *testing.T) {
	t.Parallel()
	b := setUp(t)
	running := b.submit(t, "use", "a")
	if _, err := b.db.PurgeBatch(t.Context(), b.project, running.ID, 10); !errors.Is(err, store.ErrConflict) {
		t.Errorf("a running one: %v", err)
	}
	if _, err := b.db.PurgeBatch(t.Context(), uuid.New(), running.ID, 10); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("another project's: %v", err)
	}
	old, fresh, broken := b.ended(t, 5), b.ended(t, 5), b.ended(t, 5)
	storetest.Exec(t, b.url, `update batches set finished_at = now() - interval '8 days' where id = $1`, old)
	storetest.Exec(t, b.url, `update batches set purged_at = now() - interval '2 minutes', purging = true where id = $1`, broken)
	if id, done, err := b.db.PurgeNext(t.Context(), 10); err != nil || !done || id != broken {
		t.Errorf("a purge that broke off: %v, %v, %v", id, done, err)
	}
	if _, _, err := b.db.PurgeNext(t.Context(), 10); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("without a limit: %v", err)
	}
	week := int32(7)
	if err := b.db.SetProject(t.Context(), "p", store.ProjectSettings{RetentionDays: &week}); err != nil {
		t.Fatal(err)
	}
	if id, done, err := b.db.PurgeNext(t.Context(), 10); err != nil || !done || id != old {
		t.Errorf("after eight days of seven: %v, %v, %v", id, done, err)
	}
	if _, _, err := b.db.PurgeNext(t.Context(), 10); !errors.Is(err, store.ErrNotFound) || b.rows(t, fresh) != 20 {
		t.Errorf("a young one: %v", err)
	}
	forever := int32(0)
	if err := b.db.SetProject(t.Context(), "p", store.ProjectSettings{RetentionDays: &forever, Weight: &week}); err != nil {
		t.Fatal(err)
	}
	if got := storetest.Scalar[string](t, b.url, `select weight || ' ' || coalesce(retention_days::text, 'forever') from projects`); got != "7 forever" {
		t.Error(got)
	}
	if err := b.db.SetProject(t.Context(), "q", store.ProjectSettings{}); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("an unknown project: %v", err)
	}
}
