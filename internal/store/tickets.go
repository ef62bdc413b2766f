package store

import (
	"context"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Ticket is an outstanding piece of a batch's work. Its ID is never reused and fences every write made under it.
type Ticket struct {
	ID       int64
	BatchID  uuid.UUID
	Kind     string // of the batch
	Purpose  string // PurposePlan, PurposeRun or PurposeRetry
	FirstSeq int32
	LastSeq  int32
	Jobs     int32 // at most
	Express  bool  // it goes by the lane for batches that have nothing under way
}

// The purposes of a ticket.
const (
	PurposePlan  = "plan"  // render the inputs of a range and look their keys up
	PurposeRun   = "run"   // first attempts of the planned jobs of a range
	PurposeRetry = "retry" // up to Jobs jobs of the batch that are due again
)

const ticketCols = `id, batch_id, (select kind from batches b where b.id = batch_id) as kind, purpose, first_seq, last_seq, jobs, express`

// Claimed is a job that this worker holds.
type Claimed struct {
	Seq            int32
	Attempts       int32
	Age            time.Duration // since it was first claimed, by the database's clock
	ErrorClass     string        // of its last attempt, if that failed
	Input          []byte
	DocumentSHA256 []byte
}

const (
	claimPlan = `-- name: ClaimPlan
update tickets t set worker_id = $2, lease_until = now() + $3::interval
from batches b where t.id = $1 and t.worker_id is null and b.id = t.batch_id and b.state = 'planning' returning t.id`
	// A ticket is taken only while its batch runs, by the snapshot that shows the jobs: one that lies about while the batch is paused keeps
	// its range, and is taken once the batch runs again. The fence makes Postgres look each input up by its key: on a table that it knows little
	// of it would read the range anew for each job, on one of a million rows it would read the batch.
	claimRun = `-- name: ClaimRun
with t as (update tickets set worker_id = $2, lease_until = now() + $3::interval where id = $1 and worker_id is null
        and exists (select 1 from batches b where b.id = batch_id and b.state = 'running')
    returning id, batch_id, first_seq, last_seq),
u as (update jobs j set state = 'running', ticket_id = $1, first_run_at = now()
    where j.batch_id = (select batch_id from t) and j.seq between (select first_seq from t) and (select last_seq from t) and j.state = 'planned'
    returning j.seq, j.attempts, now() - j.first_run_at as age, coalesce(j.error_class, '') as error_class)
select u.*, i.input, i.document_sha256 from u cross join lateral (
    select input, document_sha256 from inputs where batch_id = (select batch_id from t) and seq = u.seq offset 0) i`
	claimRetry = `-- name: ClaimRetry
with t as (select id, batch_id, jobs as n from tickets where id = $1 and worker_id is null
        and exists (select 1 from batches b where b.id = batch_id and b.state = 'running') for update),
d as (select j.batch_id, j.seq from t join jobs j on j.batch_id = t.batch_id and j.due_at <= now()
    order by j.due_at limit (select n from t) for update of j skip locked),
u as (update tickets set worker_id = $2, lease_until = now() + $3::interval,
        first_seq = coalesce((select min(seq) from d), 1), last_seq = coalesce((select max(seq) from d), 0)
    where id = (select id from t))
update jobs j set state = 'running', ticket_id = t.id, due_at = null, first_run_at = coalesce(j.first_run_at, now())
from t, d, inputs i where j.batch_id = d.batch_id and j.seq = d.seq and i.batch_id = d.batch_id and i.seq = d.seq
returning j.seq, j.attempts, now() - j.first_run_at as age, coalesce(j.error_class, '') as error_class, i.input, i.document_sha256`
)

// ClaimPlan takes a plan ticket for a worker; ErrLeaseLost when it is gone, taken or no longer wanted.
func (db *DB) ClaimPlan(ctx context.Context, ticket int64, worker uuid.UUID, lease time.Duration) error {
	tag, err := db.pool.Exec(ctx, claimPlan, ticket, worker, interval(lease))
	if err == nil && tag.RowsAffected() == 0 {
		return ErrLeaseLost
	}
	return err
}

// ClaimJobs takes a run or retry ticket and the jobs behind it. No jobs: the ticket was gone or taken, its batch doesn't run, or its work was
// done.
func (db *DB) ClaimJobs(ctx context.Context, t Ticket, worker uuid.UUID, lease time.Duration) ([]Claimed, error) {
	sql := claimRun
	if t.Purpose == PurposeRetry {
		sql = claimRetry
	}
	return many[Claimed](ctx, db.pool, sql, t.ID, worker, interval(lease))
}

const (
	lockTicket = `-- name: LockTicket
select pg_advisory_xact_lock_shared(hashtextextended(b.project_id::text, 0)), pg_advisory_xact_lock(-t.id)
from tickets t join batches b on b.id = t.batch_id where t.id = $1`
	// The subqueries, not joins, make Postgres use the range of the primary key however little it knows of the tables. What the attempts that
	// end here have called is added to their jobs.
	closeTicket = `-- name: CloseTicket
with t as (delete from tickets where id = $1 and purpose <> 'plan' and case when $2::uuid is null then lease_until < now() else worker_id = $2 end
    returning id, batch_id, first_seq, last_seq),
k as (select seq, count(*) as calls, coalesce(sum(input_tokens), 0) as input, coalesce(sum(cached_input_tokens), 0) as cached,
        coalesce(sum(output_tokens), 0) as output, case when count(cost_microusd) = count(*) then sum(cost_microusd) end as cost
    from calls where batch_id = (select batch_id from t) and seq between (select first_seq from t) and (select last_seq from t) and ticket_id = $1
    group by seq),
c as (update calls set state = 'uncertain'
    where batch_id = (select batch_id from t) and seq between (select first_seq from t) and (select last_seq from t)
        and ticket_id = $1 and state = 'intent'
    returning batch_id, started_at, 'intent' as was, reserved_microusd as reserved, cost_microusd as cost),` + periodsOf + `,
p as (` + countAtPeriods + `),
s as (select state from batches where id = (select batch_id from t))
update jobs set ticket_id = null,
    state = case when (select state from s) = 'cancelling' then 'cancelled' else 'waiting' end,
    due_at = case when (select state from s) = 'cancelling' then null else now() end,
    finished_at = case when (select state from s) = 'cancelling' then now() end,
    calls = jobs.calls + h.calls, input_tokens = jobs.input_tokens + h.input, cached_input_tokens = jobs.cached_input_tokens + h.cached,
    output_tokens = jobs.output_tokens + h.output, cost_microusd = jobs.cost_microusd + h.cost
from (select j.seq, coalesce(k.calls, 0) as calls, coalesce(k.input, 0) as input, coalesce(k.cached, 0) as cached, coalesce(k.output, 0) as output,
        case when k.seq is null then 0 else k.cost end as cost
    from jobs j left join k on k.seq = j.seq
    where j.batch_id = (select batch_id from t) and j.seq between (select first_seq from t) and (select last_seq from t)
        and j.state = 'running' and j.ticket_id = $1) h
where jobs.batch_id = (select batch_id from t) and jobs.seq between (select first_seq from t) and (select last_seq from t)
    and jobs.seq = h.seq and jobs.state = 'running' and jobs.ticket_id = $1
returning jobs.seq`
)

const (
	endTicket = `-- name: EndTicket
delete from tickets where id = $1 and worker_id = $2`
	endIdleTicket = `-- name: EndIdleTicket
delete from tickets t where id = $1 and worker_id = $2
    and (select true from jobs j where j.batch_id = t.batch_id and j.seq between t.first_seq and t.last_seq and j.ticket_id = t.id limit 1) is null`
)

// EndTicket ends a ticket of this worker whose every job is settled.
func (db *DB) EndTicket(ctx context.Context, ticket int64, worker uuid.UUID) error {
	_, err := db.pool.Exec(ctx, endTicket, ticket, worker)
	return err
}

// EndIdleTicket ends a ticket of this worker that got no jobs with it. One that has some stays: its task was delivered twice, and the worker is at
// them.
func (db *DB) EndIdleTicket(ctx context.Context, ticket int64, worker uuid.UUID) error {
	_, err := db.pool.Exec(ctx, endIdleTicket, ticket, worker)
	return err
}

// CloseTicket ends a run or retry ticket of this worker. Jobs that are not settled are due again at once, without an attempt counted;
// calls without an outcome become uncertain.
func (db *DB) CloseTicket(ctx context.Context, ticket int64, worker uuid.UUID) (returned int, err error) {
	return db.closeTicket(ctx, ticket, &worker)
}

// closeTicket ends a ticket of a worker, or without one a ticket whose lease has run out.
func (db *DB) closeTicket(ctx context.Context, ticket int64, worker *uuid.UUID) (returned int, err error) {
	var b pgx.Batch
	b.Queue(lockTicket, ticket)
	b.Queue(closeTicket, ticket, worker).Exec(func(tag pgconn.CommandTag) error {
		returned = int(tag.RowsAffected())
		return nil
	})
	err = db.pool.SendBatch(ctx, &b).Close()
	return returned, err
}

const returnTicket = `-- name: ReturnTicket
update tickets set posted_at = '-infinity' where id = $1 and worker_id is null`

// ReturnTicket gives a ticket that wasn't claimed back: the next sweep posts it again.
func (db *DB) ReturnTicket(ctx context.Context, ticket int64) error {
	_, err := db.pool.Exec(ctx, returnTicket, ticket)
	return err
}

const returnPlan = `-- name: ReturnPlan
update tickets set worker_id = null, lease_until = null, posted_at = '-infinity' where id = $1 and worker_id = $2 and purpose = 'plan'`

// ReturnPlan gives a plan ticket that the worker holds back: the next sweep posts it again.
func (db *DB) ReturnPlan(ctx context.Context, ticket int64, worker uuid.UUID) error {
	_, err := db.pool.Exec(ctx, returnPlan, ticket, worker)
	return translate(err)
}

const (
	expiredTickets = `-- name: ExpiredTickets
select id from tickets where lease_until < now() and purpose <> 'plan'`
	reissueTickets = `-- name: ReissueTickets
with old as (delete from tickets where id in (select id from tickets where
        (worker_id is null and posted_at < now() - $1::interval * least(posts, 20)) or (lease_until < now() and purpose = 'plan')
        for update skip locked) -- whoever holds one is about to claim or withdraw it; two that wait could wait for each other
    returning batch_id, purpose, first_seq, last_seq, jobs, express, posts)
insert into tickets (batch_id, purpose, first_seq, last_seq, jobs, express, posts)
select batch_id, purpose, first_seq, last_seq, jobs, express, posts + 1 from old
where purpose <> 'plan' or exists (select 1 from batches b where b.id = old.batch_id and b.state = 'planning')
returning ` + ticketCols
	forgetWorkers = `-- name: ForgetWorkers
delete from workers where seen_at < now() - interval '10 minutes'`
)

// Sweep takes back what dead workers held and reissues tickets whose task seems lost: posted longer ago than patience, times the
// number of posts. A reissued ticket has a new id, so the old task, should it turn up, finds nothing. The returned tickets are to be posted.
func (db *DB) Sweep(ctx context.Context, patience time.Duration) (reissued []Ticket, returned int, err error) {
	ids, err := many[struct{ ID int64 }](ctx, db.pool, expiredTickets)
	if err != nil {
		return nil, 0, err
	}
	for _, t := range ids {
		n, err := db.closeTicket(ctx, t.ID, nil)
		if err != nil {
			return nil, returned, err
		}
		returned += n
	}
	if _, err := db.pool.Exec(ctx, forgetWorkers); err != nil {
		return nil, returned, err
	}
	if err := db.withdrawStray(ctx); err != nil {
		return nil, returned, err
	}
	reissued, err = many[Ticket](ctx, db.pool, reissueTickets, interval(patience))
	return reissued, returned, err
}

// Worker is a live process.
type Worker struct {
	ID          uuid.UUID
	Hostname    string
	PID         int32
	Slots       int32
	Concurrency int32
}

const (
	registerWorker = `-- name: RegisterWorker
insert into workers (id, hostname, pid, slots, concurrency) values ($1, $2, $3, $4, $5)
on conflict (id) do update set seen_at = now()`
	removeWorker = `-- name: RemoveWorker
delete from workers where id = $1`
	renewLeases = `-- name: RenewLeases
with w as (insert into workers (id, hostname, pid, slots, concurrency) values ($1, $3, $4, $5, $6)
    on conflict (id) do update set seen_at = now())
update tickets t set lease_until = now() + $2::interval, jobs = u.jobs
from unnest($7::bigint[], $8::int[]) as u(id, jobs)
where t.id = u.id and t.worker_id = $1 and t.lease_until > now()
returning t.id`
)

// Register makes a worker known to dispatch.
func (db *DB) Register(ctx context.Context, w Worker) error {
	_, err := db.pool.Exec(ctx, registerWorker, w.ID, w.Hostname, w.PID, w.Slots, w.Concurrency)
	return err
}

// Unregister forgets a worker that stops in order.
func (db *DB) Unregister(ctx context.Context, id uuid.UUID) error {
	_, err := db.pool.Exec(ctx, removeWorker, id)
	return err
}

// Renew extends the leases of the tickets that a worker is working on, in one statement, notes how many of their jobs are left, and returns
// the ids of those that it still holds. An expired lease is not revived, and one that the worker doesn't name runs out.
func (db *DB) Renew(ctx context.Context, w Worker, lease time.Duration, tickets []int64, left []int32) ([]int64, error) {
	return column[int64](ctx, db.pool, renewLeases, w.ID, interval(lease), w.Hostname, w.PID, w.Slots, w.Concurrency, tickets, left)
}
