package store_test

import (
	"testing"

	"github.com/google/uuid"

	"batchwright/internal/store"
	"batchwright/internal/store/storetest"
)

func TestBacklogCountsWhatIsToBeRun(t *testing.T) {
	t.Parallel()
	url := storetest.URL(t)
	db, err := store.Open(t.Context(), url, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if b, err := db.Backlog(t.Context()); err != nil || b != (store.Backlog{}) {
		t.Errorf("of nothing: %+v, %v", b, err)
	}
	project := uuid.New()
	storetest.Exec(t, url, `insert into projects (id, name) values ($1, 'p')`, project)
	add := func(state string, next int) uuid.UUID {
		id := uuid.New()
		storetest.Exec(t, url, `insert into batches (id, project_id, name, kind, state, route, params, on_invalid, cache, request_sha256, total_jobs, next_seq, pause_reason, ending)
			values ($1, $2, '', 'generate', $3, '{}', '{}', 'refuse', 'use', '', 100, $4, case $3 when 'paused' then 'requested' end, case $3 when 'cancelling' then 'cancelled' end)`,
			id, project, state, next)
		return id
	}
	ticket := func(batch uuid.UUID, purpose string, jobs int, claimed bool) {
		storetest.Exec(t, url, `insert into tickets (batch_id, purpose, first_seq, last_seq, jobs, worker_id, lease_until)
			select $1, $2, 1, 1, $3, w, case when $4 then now() + interval '1 minute' end from (select case when $4 then gen_random_uuid() end as w) x`, batch, purpose, jobs, claimed)
	}
	running := add("running", 41) // 60 to come
	ticket(running, "run", 30, true)
	ticket(running, "run", 4, false)
	ticket(running, "retry", 5, false) // of the jobs that are due
	ticket(running, "retry", 7, true)
	storetest.Exec(t, url, `insert into jobs (batch_id, seq, state, attempts, due_at, key) select $1, s, 'waiting', 1, now() + case when s > 5 then interval '1 hour' else interval '-9 seconds' end, sha256('k')
		from generate_series(1, 8) s`, running)
	ticket(add("planning", 1), "plan", 100, false)
	ticket(add("paused", 1), "run", 50, true) // its calls in flight finish
	add("cancelling", 101)
	add("ingesting", 1)
	storetest.Exec(t, url, `insert into workers (id, hostname, pid, slots, concurrency, seen_at) values (gen_random_uuid(), 'h', 1, 4, 256, now()),
		(gen_random_uuid(), 'h', 2, 4, 100, now()), (gen_random_uuid(), 'h', 3, 4, 100, now() - interval '1 minute')`)
	b, err := db.Backlog(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if b.OldestDue < 9 || b.OldestDue > 600 {
		t.Errorf("the oldest has been due for %v s", b.OldestDue)
	}
	b.OldestDue = 0
	want := store.Backlog{Jobs: 60 + 30 + 4 + 7 + 5, PlanningJobs: 100, Ingesting: 1, Planning: 1, Running: 1, Paused: 1, Cancelling: 1,
		PlanTickets: 1, RunTickets: 3, RetryTickets: 2, Claimed: 3, Workers: 2, Concurrency: 356}
	if b != want {
		t.Errorf("\n%+v, want\n%+v", b, want)
	}
	if p := db.Pool(); p.Max != 16 || p.Acquired < 1 || p.InUse != 0 {
		t.Errorf("pool: %+v", p)
	}
}
