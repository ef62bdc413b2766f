package store_test

import (
	"fmt"
	"iter"
	"testing"

	"github.com/google/uuid"

	"batchwright/internal/store"
	"batchwright/internal/store/storetest"
)

// newBatch is a submission to the bench's project. Changes may be made to it.
func (b *bench) newBatch(t *testing.T, key string) store.NewBatch {
	t.Helper()
	id, err := uuid.NewV7()
	if err != nil {
		t.Fatal(err)
	}
	return store.NewBatch{ID: id, ProjectID: b.project, Kind: "generate", Route: []byte(`{}`), Params: []byte(`{}`), Metadata: []byte(`{}`),
		OnInvalid: "refuse", Cache: "use", IdempotencyKey: key}
}

// chunksOf yields inputs from first to last, per at a time, with a custom id each, then ends with end.
func chunksOf(first, last, per int32, end error) iter.Seq2[store.Chunk, error] {
	return func(yield func(store.Chunk, error) bool) {
		var c store.Chunk
		for i := first; i <= last; i++ {
			id := fmt.Sprintf("job-%d", i)
			c.Inputs = append(c.Inputs, store.NewInput{Seq: i, CustomID: &id, Input: []byte(`{}`)})
			if len(c.Inputs) == int(per) || i == last {
				if !yield(c, nil) {
					return
				}
				c = store.Chunk{}
			}
		}
		if end != nil {
			yield(store.Chunk{}, end)
		}
	}
}

func sealed(n int32) func() (int32, [32]byte) {
	return func() (int32, [32]byte) { return n, [32]byte{7} }
}

func (b *bench) inputs(t *testing.T, batch uuid.UUID) int {
	t.Helper()
	return storetest.Scalar[int](t, b.url, `select count(*)::int from inputs where batch_id = $1`, batch)
}

func TestASubmissionOfManyPartsHasNoGaps(t *testing.T) {
	t.Parallel()
	b := setUp(t)
	nb := b.newBatch(t, "")
	got, tickets, err := b.db.CreateBatch(t.Context(), nb, chunksOf(1, 12_345, 100, nil), sealed(12_345))
	if err != nil || got.State != "planning" || got.TotalJobs != 12_345 || len(tickets) != 3 {
		t.Fatalf("%+v, %d tickets, %v", got, len(tickets), err)
	}
	if n := storetest.Scalar[int](t, b.url, `select count(*)::int from generate_series(1, 12345) s join inputs on batch_id = $1 and seq = s`, nb.ID); n != 12_345 {
		t.Errorf("%d of 12345 positions have a job", n)
	}
}
