package store

import (
	"context"
	"time"
)

// Backlog is what there is to do, over all open batches, and who does it.
type Backlog struct {
	Jobs         int64 // of running batches: without a ticket, under one, or due again; at most, as those that a plan found finished count until dispatch passes them
	PlanningJobs int64 // under plan tickets
	Ingesting    int64 // batches
	Planning     int64
	Running      int64
	Paused       int64
	Cancelling   int64
	PlanTickets  int64
	RunTickets   int64
	RetryTickets int64
	Claimed      int64   // tickets of any purpose that a worker holds
	OldestDue    float64 // seconds for which the oldest retry of a running batch has been due; 0 when none is
	Workers      int64   // seen in the last 30 s
	Concurrency  int64   // calls in flight at most, over all of them
}

// What is counted is open batches, outstanding tickets and due retries (of those, 10,000 a batch), so that the cost doesn't grow with the backlog.
// A retry ticket that nobody claimed stands for jobs that are still due, and is left out.
const getBacklog = `-- name: GetBacklog
with o as materialized (select id, state, total_jobs, next_seq from batches where finished_at is null),
t as materialized (select k.purpose, k.jobs, k.worker_id, (select state from o where o.id = k.batch_id) as state from tickets k),
d as materialized (select (select count(*) from (select 1 from jobs j where j.batch_id = o.id and j.due_at <= now() limit 10000) l) as jobs,
        (select min(due_at) from jobs j where j.batch_id = o.id and j.due_at <= now()) as oldest
    from o where state = 'running'),
w as (select count(*) as workers, coalesce(sum(concurrency), 0)::bigint as concurrency from workers where seen_at > now() - interval '30 seconds')
select coalesce((select sum(greatest(total_jobs - next_seq + 1, 0)) from o where state = 'running'), 0)::bigint
        + coalesce((select sum(jobs) from t where state = 'running' and purpose <> 'plan' and (purpose = 'run' or worker_id is not null)), 0)::bigint
        + coalesce((select sum(jobs) from d), 0)::bigint as jobs,
    coalesce((select sum(jobs) from t where purpose = 'plan'), 0)::bigint as planning_jobs,
    (select count(*) from o where state = 'ingesting') as ingesting, (select count(*) from o where state = 'planning') as planning,
    (select count(*) from o where state = 'running') as running, (select count(*) from o where state = 'paused') as paused,
    (select count(*) from o where state = 'cancelling') as cancelling,
    (select count(*) from t where purpose = 'plan') as plan_tickets, (select count(*) from t where purpose = 'run') as run_tickets,
    (select count(*) from t where purpose = 'retry') as retry_tickets, (select count(*) from t where worker_id is not null) as claimed,
    coalesce(extract(epoch from now() - (select min(oldest) from d)), 0)::float8 as oldest_due, w.workers, w.concurrency
from w`

// Backlog counts what there is to do. It is cheap at any size of it, but asks three tables: keep its answer for some seconds.
func (r Reader) Backlog(ctx context.Context) (Backlog, error) {
	return one[Backlog](ctx, r.q, getBacklog)
}

// Pool tells how the connections of this process are used.
type Pool struct {
	Max, InUse, Idle int32
	Acquired         int64         // so often a connection was taken
	Waited           time.Duration // for all of them together
}

// Pool reads the connection pool's counters.
func (db *DB) Pool() Pool {
	s := db.pool.Stat()
	return Pool{Max: s.MaxConns(), InUse: s.AcquiredConns(), Idle: s.IdleConns(), Acquired: s.AcquireCount(), Waited: s.AcquireDuration()}
}
