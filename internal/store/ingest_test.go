package store_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

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

func TestAnUploadCanBeSeenAndEndsInWordsWhenItBreaksOff(t *testing.T) {
	t.Parallel()
	b := setUp(t)
	nb := b.newBatch(t, "night")
	seen := false
	chunks := func(yield func(store.Chunk, error) bool) {
		for c, err := range chunksOf(1, 300, 100, nil) {
			if !yield(c, err) {
				return
			}
		}
		await(t, "the parts to count", func() bool {
			got, err := b.db.Batch(t.Context(), b.project, nb.ID)
			if seen = err == nil && got.State == "ingesting" && got.TotalJobs == 300; !seen {
				return false
			}
			stats, err := b.db.BatchStats(t.Context(), got)
			return err == nil && stats.Pending == 300
		})
		yield(store.Chunk{}, fmt.Errorf("%w: reset", store.ErrBroken))
	}
	if _, _, err := b.db.CreateBatch(t.Context(), nb, chunks, sealed(300)); !errors.Is(err, store.ErrBroken) || !seen {
		t.Fatalf("seen %v, %v", seen, err)
	}
	got, err := b.db.Batch(t.Context(), b.project, nb.ID)
	if err != nil || got.State != "failed" || got.Error == nil || *got.Error != "the upload broke off after 300 jobs: send it again, or delete this batch" {
		t.Fatalf("%+v, %v", got, err)
	}
	if stats, err := b.db.BatchStats(t.Context(), got); err != nil || stats != (store.BatchStats{}) {
		t.Errorf("%+v, %v", stats, err)
	}
	if n := b.inputs(t, nb.ID); n != 0 {
		t.Errorf("%d jobs of it are left", n)
	}
	again := b.newBatch(t, "night") // its key is free
	if _, _, err := b.db.CreateBatch(t.Context(), again, chunksOf(1, 3, 100, nil), sealed(3)); err != nil {
		t.Fatal(err)
	}
	if done, err := b.db.PurgeBatch(t.Context(), b.project, nb.ID, 100); err != nil || !done {
		t.Fatalf("%v, %v", done, err)
	}
	if _, err := b.db.Batch(t.Context(), b.project, nb.ID); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("a deleted upload: %v", err)
	}
}

func TestNothingIsLeftOfARefusedSubmission(t *testing.T) {
	t.Parallel()
	b := setUp(t)
	twice := func(yield func(store.Chunk, error) bool) {
		id := "same"
		for i := range int32(3) {
			if !yield(store.Chunk{Inputs: []store.NewInput{{Seq: i + 1, CustomID: &id, Input: []byte(`{}`)}},
				Documents: []store.NewDocument{{SHA256: make([]byte, 32), Body: []byte("x")}}}, nil) {
				return
			}
		}
	}
	bad := errors.New("line 301 is wrong")
	for name, tt := range map[string]struct {
		chunks iter.Seq2[store.Chunk, error]
		is     func(error) bool
	}{
		"a bad line": {chunksOf(1, 300, 100, bad), func(err error) bool { return errors.Is(err, bad) }},
		"one id for more": {twice, func(err error) bool {
			d, ok := errors.AsType[*store.DuplicateError](err)
			return ok && len(d.Duplicates) == 2
		}},
	} {
		nb := b.newBatch(t, "key")
		if _, _, err := b.db.CreateBatch(t.Context(), nb, tt.chunks, sealed(3)); !tt.is(err) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := b.db.BatchByKey(t.Context(), b.project, "key"); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("%s: the key is taken: %v", name, err)
		}
		if n := storetest.Scalar[int](t, b.url, `select (select count(*) from batches)::int + (select count(*) from inputs)::int`); n != 0 {
			t.Errorf("%s: %d rows are left", name, n)
		}
	}
}

func TestAKeyIsTakenFromTheFirstByteOn(t *testing.T) {
	t.Parallel()
	b := setUp(t)
	chunks := func(yield func(store.Chunk, error) bool) {
		_, _, err := b.db.CreateBatch(t.Context(), b.newBatch(t, "key"), chunksOf(1, 1, 1, nil), sealed(1))
		if !errors.Is(err, store.ErrConflict) {
			t.Errorf("the same key at the same time: %v", err)
		}
		chunksOf(1, 1, 1, nil)(yield)
	}
	if _, _, err := b.db.CreateBatch(t.Context(), b.newBatch(t, "key"), chunks, sealed(1)); err != nil {
		t.Fatal(err)
	}
}

func TestACancelledUploadTakesNoMoreParts(t *testing.T) {
	t.Parallel()
	b := setUp(t)
	nb := b.newBatch(t, "")
	chunks := func(yield func(store.Chunk, error) bool) {
		for c, err := range chunksOf(1, 400, 100, nil) {
			if c.Inputs[0].Seq == 201 {
				if _, err := b.db.CancelBatch(t.Context(), b.project, nb.ID, nil); err != nil {
					t.Error(err)
				}
			}
			if !yield(c, err) {
				return
			}
		}
	}
	if _, _, err := b.db.CreateBatch(t.Context(), nb, chunks, sealed(400)); !errors.Is(err, store.ErrUploadLost) {
		t.Fatal(err)
	}
	if done, err := b.db.FinishBatch(t.Context(), nb.ID); err != nil || !done {
		t.Fatalf("%v, %v", done, err)
	}
	got, err := b.db.Batch(t.Context(), b.project, nb.ID)
	if err != nil || got.State != "cancelled" || int(got.TotalJobs) != b.inputs(t, nb.ID) {
		t.Errorf("%+v, %v: %d rows", got, err, b.inputs(t, nb.ID))
	}
}

func TestTheSweepFailsWhatADeadProcessWasUploading(t *testing.T) {
	t.Parallel()
	b := setUp(t)
	plain, open, idle := b.newBatch(t, "a"), b.newBatch(t, "b"), b.newBatch(t, "c")
	open.Open, idle.Open = true, true
	for _, nb := range []store.NewBatch{open, idle} {
		if _, _, err := b.db.CreateBatch(t.Context(), nb, chunksOf(1, 10, 5, nil), sealed(10)); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := b.db.CreateBatch(t.Context(), plain, chunksOf(1, 10, 5, nil), sealed(10)); err != nil {
		t.Fatal(err)
	}
	// As a process leaves them that is killed: one within a submission, one within a request to an open upload.
	storetest.Exec(t, b.url, `delete from tickets`)
	storetest.Exec(t, b.url, `update batches set state = 'ingesting', upload_id = gen_random_uuid() where id = $1`, plain.ID)
	storetest.Exec(t, b.url, `insert into inputs (batch_id, seq, input) select $1, s, '{}' from generate_series(11, 17) s`, open.ID)
	storetest.Exec(t, b.url, `update batches set upload_id = gen_random_uuid() where id = $1`, open.ID)
	storetest.Exec(t, b.url, `update batches set ingested_at = now() - interval '25 hours' where id = $1`, idle.ID)
	if n, err := b.db.SweepIngest(t.Context(), time.Hour, 24*time.Hour); err != nil || n != 1 { // only the one that nobody touched
		t.Fatalf("%d failed, %v", n, err)
	}
	if n, err := b.db.SweepIngest(t.Context(), 0, 24*time.Hour); err != nil || n != 1 {
		t.Fatalf("%d failed, %v", n, err)
	}
	for _, want := range []struct {
		nb    store.NewBatch
		state string
		rows  int
		word  string
	}{{plain, "failed", 0, "broke off after 10 jobs"}, {open, "ingesting", 10, ""}, {idle, "failed", 0, "never sealed"}} {
		got, err := b.db.Batch(t.Context(), b.project, want.nb.ID)
		if err != nil || got.State != want.state || b.inputs(t, want.nb.ID) != want.rows || (got.Error == nil) != (want.word == "") {
			t.Errorf("%+v, %v: %d rows, want %d", got, err, b.inputs(t, want.nb.ID), want.rows)
		}
		if got.Error != nil && !strings.Contains(*got.Error, want.word) {
			t.Error(*got.Error)
		}
		_, err = b.db.BatchByKey(t.Context(), b.project, want.nb.IdempotencyKey)
		if free := errors.Is(err, store.ErrNotFound); free != (want.state == "failed") {
			t.Errorf("%s: key free: %v", want.state, free)
		}
	}
	if left := storetest.Scalar[int](t, b.url, `select count(*)::int from batches where upload_id is not null`); left != 0 {
		t.Errorf("%d uploads still claim their batch", left)
	}
	if total, err := b.db.AppendJobs(t.Context(), b.project, open.ID, 10, chunksOf(11, 12, 5, nil), func() int32 { return 2 }); err != nil || total != 12 {
		t.Errorf("the open one goes on with %d, %v", total, err)
	}
}

func TestTwoUploadsOfTheSameDocumentsDontStandInEachOthersWay(t *testing.T) {
	t.Parallel()
	b := setUp(t)
	document := func(i int) store.NewDocument {
		sum := keyFor(fmt.Sprint("document ", i))
		return store.NewDocument{SHA256: sum[:], ContentType: "text/plain", Body: fmt.Appendf(nil, "text %d", i)}
	}
	const n, per = 600, 20
	upload := func(order []int) iter.Seq2[store.Chunk, error] {
		return func(yield func(store.Chunk, error) bool) {
			for part := range slices.Chunk(order, per) {
				var c store.Chunk
				for _, i := range part {
					d := document(i)
					c.Documents = append(c.Documents, d, d)
					c.Inputs = append(c.Inputs, store.NewInput{Seq: int32(i + 1), Input: []byte(`{}`), DocumentSHA256: d.SHA256})
				}
				if !yield(c, nil) {
					return
				}
			}
		}
	}
	var order []int
	for i := range n {
		order = append(order, i)
	}
	var wg sync.WaitGroup
	for range 4 { // there and back
		nb, mine := b.newBatch(t, ""), slices.Clone(order)
		slices.Reverse(order)
		wg.Go(func() {
			if _, _, err := b.db.CreateBatch(context.Background(), nb, upload(mine), sealed(n)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if got := storetest.Scalar[int](t, b.url, `select count(*)::int from documents`); got != n {
		t.Errorf("%d documents, want %d", got, n)
	}
}

// await polls until ok, and fails the test after half a minute.
func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(30 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("waited half a minute for %s", what)
		}
	}
}
