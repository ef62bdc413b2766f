package store_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"batchwright/internal/store"
	"batchwright/internal/store/storetest"
)

// open makes an open upload without jobs.
func (b *bench) open(t *testing.T, onInvalid string) store.NewBatch {
	t.Helper()
	nb := b.newBatch(t, "")
	nb.Open, nb.OnInvalid = true, onInvalid
	got, tickets, err := b.db.CreateBatch(t.Context(), nb, chunksOf(1, 0, 1, nil), sealed(0))
	if err != nil || got.State != "ingesting" || !got.OpenUpload || len(tickets) != 0 {
		t.Fatalf("%+v, %d tickets, %v", got, len(tickets), err)
	}
	return nb
}

func (b *bench) add(ctx context.Context, nb store.NewBatch, offset, n int32, end error) (int64, error) {
	return b.db.AppendJobs(ctx, b.project, nb.ID, offset, chunksOf(offset+1, offset+n, 7, end), func() int32 { return n })
}

func TestAnUploadGoesOnWhereItStopped(t *testing.T) {
	t.Parallel()
	b := setUp(t)
	nb := b.open(t, "refuse")
	if _, _, err := b.db.SealUpload(t.Context(), b.project, nb.ID); !errors.Is(err, store.ErrEmpty) {
		t.Errorf("sealed while empty: %v", err)
	}
	if total, err := b.add(t.Context(), nb, 0, 30, nil); err != nil || total != 30 {
		t.Fatalf("%d, %v", total, err)
	}
	for name, end := range map[string]error{"broken": fmt.Errorf("%w: reset", store.ErrBroken), "refused": errors.New("a bad line")} {
		if _, err := b.add(t.Context(), nb, 30, 40, end); !errors.Is(err, end) {
			t.Errorf("%s: %v", name, err)
		}
		if n := b.inputs(t, nb.ID); n != 30 {
			t.Errorf("%s: %d jobs are left, want the 30 from before", name, n)
		}
	}
	_, err := b.add(t.Context(), nb, 0, 30, nil) // its answer was lost, so it is sent again
	if e, ok := errors.AsType[*store.OffsetError](err); !ok || e.TotalJobs != 30 {
		t.Errorf("%v, want the true number", err)
	}
	if total, err := b.add(t.Context(), nb, 30, 20, nil); err != nil || total != 50 {
		t.Fatalf("%d, %v", total, err)
	}
	for round := range 2 {
		got, tickets, err := b.db.SealUpload(t.Context(), b.project, nb.ID)
		if err != nil || got.State != "planning" || got.TotalJobs != 50 || got.OpenUpload || len(tickets) != 1-round {
			t.Fatalf("round %d: %+v, %d tickets, %v", round, got, len(tickets), err)
		}
	}
	if _, err := b.add(t.Context(), nb, 50, 1, nil); !errors.Is(err, store.ErrNotOpen) {
		t.Errorf("added to a sealed one: %v", err)
	}
	if n := storetest.Scalar[int](t, b.url, `select count(*)::int from generate_series(1, 50) s join inputs on batch_id = $1 and seq = s`, nb.ID); n != 50 {
		t.Errorf("%d of 50 positions have a job", n)
	}
}

func TestOneRequestAtATimeAdds(t *testing.T) {
	t.Parallel()
	b := setUp(t)
	nb := b.open(t, "refuse")
	var kept atomic.Int64
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for { // as a client does that is told how many there are
				got, err := b.db.Batch(context.Background(), b.project, nb.ID)
				if err != nil {
					t.Error(err)
					return
				}
				_, err = b.add(context.Background(), nb, int32(got.TotalJobs), 25, nil)
				if _, moved := errors.AsType[*store.OffsetError](err); moved || errors.Is(err, store.ErrBusy) {
					continue
				}
				if err != nil {
					t.Error(err)
				}
				kept.Add(25)
				return
			}
		})
	}
	wg.Wait()
	got, err := b.db.Batch(t.Context(), b.project, nb.ID)
	if err != nil || got.TotalJobs != 200 || kept.Load() != 200 || b.inputs(t, nb.ID) != 200 {
		t.Errorf("%d jobs by count, %d by rows, %d were kept, %v", got.TotalJobs, b.inputs(t, nb.ID), kept.Load(), err)
	}
	if _, tickets, err := b.db.SealUpload(t.Context(), b.project, nb.ID); err != nil || len(tickets) != 1 {
		t.Errorf("%d tickets, %v: every id came once", len(tickets), err)
	}
}

func TestASealWaitsForNoOneAndACancellationNeither(t *testing.T) {
	t.Parallel()
	b := setUp(t)
	nb := b.open(t, "refuse")
	_, err := b.db.AppendJobs(t.Context(), b.project, nb.ID, 0, func(yield func(store.Chunk, error) bool) {
		if _, _, err := b.db.SealUpload(t.Context(), b.project, nb.ID); !errors.Is(err, store.ErrBusy) {
			t.Errorf("sealed within a request: %v", err)
		}
		for c, err := range chunksOf(1, 20, 10, nil) {
			if !yield(c, err) {
				return
			}
		}
		if _, err := b.db.CancelBatch(t.Context(), b.project, nb.ID, nil); err != nil {
			t.Error(err)
		}
	}, func() int32 { return 20 })
	if !errors.Is(err, store.ErrUploadLost) {
		t.Fatal(err)
	}
	if done, err := b.db.FinishBatch(t.Context(), nb.ID); err != nil || !done {
		t.Fatalf("%v, %v", done, err)
	}
	if got, err := b.db.Batch(t.Context(), b.project, nb.ID); err != nil || got.State != "cancelled" || got.TotalJobs != 0 || b.inputs(t, nb.ID) != 0 {
		t.Errorf("%+v, %v, %d rows", got, err, b.inputs(t, nb.ID))
	}
	if _, _, err := b.db.SealUpload(t.Context(), b.project, nb.ID); !errors.Is(err, store.ErrNotOpen) {
		t.Errorf("sealed a cancelled one: %v", err)
	}
}

func TestSealingFindsTheSameIDInTwoRequests(t *testing.T) {
	t.Parallel()
	b := setUp(t)
	for _, onInvalid := range []string{"refuse", "skip"} {
		nb := b.open(t, onInvalid)
		id := "same"
		for i := range int32(2) {
			if _, err := b.db.AppendJobs(t.Context(), b.project, nb.ID, i, func(yield func(store.Chunk, error) bool) {
				yield(store.Chunk{Inputs: []store.NewInput{{Seq: i + 1, CustomID: &id, Input: []byte(`{}`)}}}, nil)
			}, func() int32 { return 1 }); err != nil {
				t.Fatal(err)
			}
		}
		got, _, err := b.db.SealUpload(t.Context(), b.project, nb.ID)
		dup, refused := errors.AsType[*store.DuplicateError](err)
		switch {
		case onInvalid == "refuse":
			if !refused || len(dup.Duplicates) != 1 || dup.Duplicates[0] != (store.Duplicate{Seq: 2, FirstSeq: 1, CustomID: id}) {
				t.Errorf("%+v, %v", dup, err)
			}
			if got, err := b.db.Batch(t.Context(), b.project, nb.ID); err != nil || got.State != "ingesting" {
				t.Errorf("%+v, %v", got, err)
			}
		case err != nil || got.State != "planning":
			t.Errorf("%+v, %v", got, err)
		default:
			if n := storetest.Scalar[int](t, b.url, `select count(*)::int from inputs where batch_id = $1 and invalid is not null`, nb.ID); n != 1 {
				t.Errorf("%d invalid jobs, want the second", n)
			}
		}
	}
}
