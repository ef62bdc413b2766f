package store_test

import (
	"bytes"
	"fmt"
	"iter"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"

	"batchwright/internal/store"
	"batchwright/internal/store/storetest"
)

// TestPlannedJobsHaveOneForm plans the same jobs by COPY and, because one of them is there already, by the statement that passes over it.
func TestPlannedJobsHaveOneForm(t *testing.T) {
	t.Parallel()
	b := setUp(t)
	for i, key := range []string{"first", "second", "second"} {
		k := keyFor(key)
		storetest.Exec(t, b.url, `insert into completions (project_id, key, generation, input_tokens, cached_input_tokens, output_tokens, cost_microusd,
			format, model, provider, answered_by, output) values ($1, $2, $3, 1, 0, 1, 5, 'text', 'm-' || $3::int, 'openai', 'm', 'x')`, b.project, k[:], i+1)
	}
	rows := []store.Planned{
		{Seq: 1, Keys: keysFor("first|second")},
		{Seq: 2, Keys: keysFor("none|second|first")},
		{Seq: 3, Keys: keysFor("none|nothing")},
		{Seq: 4, ErrorClass: "invalid_request", ErrorMessage: "bad"},
		{Seq: 5, Keys: keysFor("second")},
	}
	const form = `select format('%s %s key=%s %s result=%s %s %s %s %s %s %s', seq, state, encode(key, 'hex'), cache_status, encode(result_key, 'hex'),
		result_generation, provider, model, error_class, error_message, finished_at between now() - interval '1 minute' and now()) from jobs where batch_id = $1 order by seq`
	plan := func(before string) []string {
		batch := b.ingest(t, make([]store.NewInput, len(rows)))
		ticket := storetest.Scalar[int64](t, b.url, `select id from tickets where batch_id = $1`, batch.ID)
		if before != "" {
			storetest.Exec(t, b.url, before, batch.ID)
		}
		if err := b.db.InsertPlanned(t.Context(), batch, store.Ticket{ID: ticket, BatchID: batch.ID}, rows, true, nil); err != nil {
			t.Fatal(err)
		}
		return storetest.Rows[string](t, b.url, form, batch.ID)
	}
	k := func(s string) string { return fmt.Sprintf("%x", keyFor(s)) }
	want := []string{
		"1 succeeded key= result_hit result=" + k("first") + " 1 openai m-1   t",
		"2 succeeded key= result_hit result=" + k("second") + " 3 openai m-3   t",
		"3 planned key=" + k("none") + "  result=      ",
		"4 failed key=  result=    invalid_request bad t",
		"5 succeeded key= result_hit result=" + k("second") + " 3 openai m-3   t",
	}
	if got := plan(""); !slices.Equal(got, want) {
		t.Errorf("by COPY:\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	third := `insert into jobs (batch_id, seq, state, key) values ($1, 3, 'planned', sha256('none'))`
	if got := plan(third); !slices.Equal(got, want) {
		t.Errorf("around one that was there:\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// TestInputsArriveAsSent stores rows with and without each value, and longer than what is sent at once.
func TestInputsArriveAsSent(t *testing.T) {
	t.Parallel()
	b := setUp(t)
	id, empty := "höher", ""
	long := []byte(`"` + strings.Repeat("x", 200_000) + `"`)
	sent := []store.NewInput{
		{CustomID: &id, Input: []byte(`{ "a": 1 }`)},
		{CustomID: &empty, Input: long, DocumentSHA256: []byte{0, 1}},
		{Invalid: []byte(`{"code":"x"}`)},
	}
	for range 3000 {
		sent = append(sent, store.NewInput{Input: []byte(`{"some": "more"}`)})
	}
	batch := b.ingest(t, sent)
	i := 0
	for in, err := range b.db.Inputs(t.Context(), batch.ID, 1, int32(len(sent))) {
		if err != nil {
			t.Fatal(err)
		}
		want := sent[i]
		i++
		if in.Seq != int32(i) || !bytes.Equal(in.Input, want.Input) || !bytes.Equal(in.Invalid, want.Invalid) || !bytes.Equal(in.DocumentSHA256, want.DocumentSHA256) ||
			(in.Input == nil) != (want.Input == nil) || (in.Invalid == nil) != (want.Invalid == nil) {
			t.Fatalf("job %d: got %.80s, want %.80s", i, in.Input, want.Input)
		}
	}
	if i != len(sent) {
		t.Fatalf("%d of %d inputs", i, len(sent))
	}
	ids := storetest.Rows[*string](t, b.url, `select custom_id from inputs where batch_id = $1 and seq <= 3 order by seq`, batch.ID)
	if *ids[0] != id || *ids[1] != empty || ids[2] != nil {
		t.Fatalf("custom ids: %v", ids)
	}
}

// ingest makes a batch of one chunk, and numbers its inputs.
func (b *bench) ingest(t *testing.T, inputs []store.NewInput) store.Batch {
	t.Helper()
	for i := range inputs {
		inputs[i].Seq = int32(i + 1)
	}
	var chunk iter.Seq2[store.Chunk, error] = func(yield func(store.Chunk, error) bool) { yield(store.Chunk{Inputs: inputs}, nil) }
	batch, _, err := b.db.CreateBatch(t.Context(), store.NewBatch{ID: uuid.Must(uuid.NewV7()), ProjectID: b.project, Kind: "generate", Route: []byte(`{}`), Params: []byte(`{}`),
		Metadata: []byte(`{}`), OnInvalid: "refuse", Cache: "use"}, chunk, func() (int32, [32]byte) { return int32(len(inputs)), [32]byte{1} })
	if err != nil {
		t.Fatal(err)
	}
	return batch
}
