package store_test

import (
	"crypto/sha256"
	"fmt"
	"testing"

	"github.com/google/uuid"

	"batchwright/internal/store"
	"batchwright/internal/store/storetest"
)

// BenchmarkLedger writes the intents and the outcomes of 500 jobs, as a worker does, under no budget and under three.
func BenchmarkLedger(b *testing.B) {
	for _, budgets := range []int{0, 1, 3} {
		b.Run(fmt.Sprintf("budgets=%d", budgets), func(b *testing.B) { benchLedger(b, budgets) })
	}
}

func benchLedger(b *testing.B, budgets int) {
	const size = 500
	url := storetest.URL(b)
	db, err := store.Open(b.Context(), url, store.Options{MaxConns: 4})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(db.Close)
	p, err := db.CreateKey(b.Context(), "p", "k", "bw_x", sha256.Sum256([]byte("k")))
	if err != nil {
		b.Fatal(err)
	}
	worker, batch, sets := uuid.New(), uuid.New(), b.N
	jobs := sets * size
	if err := db.Register(b.Context(), store.Worker{ID: worker, Hostname: "h", Slots: 1, Concurrency: 1}); err != nil {
		b.Fatal(err)
	}
	storetest.Exec(b, url, `insert into batches (id, project_id, name, kind, state, route, params, on_invalid, cache, request_sha256, total_jobs, next_seq, started_at)
		values ($1, $2, '', 'generate', 'running', '{}', '{}', 'refuse', 'use', '', $3, $3 + 1, now())`, batch, p.ID, jobs)
	storetest.Exec(b, url, `insert into tickets (batch_id, purpose, first_seq, last_seq, jobs, worker_id, lease_until)
		select $1, 'run', s * 500 + 1, s * 500 + 500, 500, $2, now() + interval '1 hour' from generate_series(0, $3::int - 1) s`, batch, worker, sets)
	storetest.Exec(b, url, `insert into jobs (batch_id, seq, state, ticket_id) select $1, s, 'running', (select min(id) from tickets) + (s - 1) / 500 from generate_series(1, $2::int) s`, batch, jobs)
	storetest.Exec(b, url, `vacuum analyze`)
	first := storetest.Scalar[int64](b, url, `select min(id) from tickets`)
	for range budgets {
		if _, err := db.CreateBudget(b.Context(), store.Budget{ID: uuid.Must(uuid.NewV7()), ProjectID: p.ID, Scope: "project", Period: "day", TimeZone: "UTC", LimitMicrousd: 1e15}); err != nil {
			b.Fatal(err)
		}
	}
	a, err := db.Account(b.Context(), batch, worker)
	if err != nil {
		b.Fatal(err)
	}
	draw := store.Draw{BatchID: batch, ProjectID: p.ID, Epoch: a.Epoch}
	for _, g := range a.Budgets {
		s, _, err := db.LeaseSlice(b.Context(), g.ID, worker, 1e12, 1, 1)
		if err != nil {
			b.Fatal(err)
		}
		draw.Slices = append(draw.Slices, s.ID)
	}
	b.ResetTimer()
	for n := range sets {
		var in []store.Intent
		var out []store.Outcome
		var answers []store.Completion
		var done []store.Settlement
		cost := int64(17)
		for i := range size {
			seq := int32(n*size + i + 1)
			id := store.CallID{BatchID: batch, Seq: seq, TicketID: first + int64(n), Number: 1}
			key := sha256.Sum256(fmt.Append(nil, seq))
			in = append(in, store.Intent{CallID: id, Provider: "p", Model: "m", ReservedMicrousd: 100})
			out = append(out, store.Outcome{CallID: id, Provider: "p", Model: "m", UsageKnown: true, CostMicrousd: &cost})
			answers = append(answers, store.Completion{ProjectID: p.ID, Key: key, Model: "m", Provider: "p", AnsweredBy: "m", Format: "text", Output: "x"})
			done = append(done, store.Settlement{ProjectID: p.ID, BatchID: batch, Seq: seq, TicketID: id.TicketID, State: "succeeded", Counted: true, ResultKey: key[:],
				CacheStatus: "miss", Calls: 1, CostMicrousd: &cost})
		}
		if ok, _, err := db.InsertIntents(b.Context(), in, []store.Draw{draw}); err != nil || len(ok) != size {
			b.Fatal(len(ok), err)
		}
		if ok, err := db.Settle(b.Context(), out, answers, done, false); err != nil || len(ok) != size {
			b.Fatal(len(ok), err)
		}
	}
}
