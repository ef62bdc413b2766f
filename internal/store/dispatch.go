package store

import (
	"context"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// OpenProject is a project as dispatch sees it.
type OpenProject struct {
	ID      uuid.UUID
	Weight  int32 // twice the weight, twice the jobs
	Deficit int64 // jobs that it may still be given in this turn
}

// OpenBatch is what dispatch needs to know of a batch that is not final.
type OpenBatch struct {
	ID          uuid.UUID
	Project     *OpenProject // the same for all batches of a project
	State       string
	TotalJobs   int32
	NextSeq     int32
	Priority    int16
	Concurrency *int32 // most jobs of it under way; nil for no limit of its own
	ExpiresAt   *time.Time
	Deficit     int64      // jobs that it may still be given in this turn of its project
	NextDue     *time.Time // of its jobs that wait for a time, the first; nil when none does
	Due         int32      // those that may run now and have no ticket yet, counted up to 1,000
	Tickets     int32      // outstanding, of any purpose
	Jobs        int32      // that its outstanding run and retry tickets stand for
	Express     int32      // its outstanding express tickets
}

// Fleet is what all live workers can do together.
type Fleet struct {
	Workers     int32
	Slots       int32
	Concurrency int32
	Tickets     int32 // outstanding run and retry tickets, express ones aside
	Express     int32 // outstanding express tickets
	Jobs        int32 // that all of those stand for
}

// Grant lets a batch have tickets: Run for the next planned jobs, Retry for due ones, each of up to Size jobs. A batch may have several, and
// tickets are issued in the order of the grants.
type Grant struct {
	Batch      uuid.UUID
	Run, Retry int
	Size       int
	Express    bool
}

// openRow is an open batch as it is read. What waits and what is outstanding is read apart: on tables that change so fast, Postgres
// would guess a join wrong, and compare all with all.
type openRow struct {
	ID          uuid.UUID
	ProjectID   uuid.UUID
	State       string
	TotalJobs   int32
	NextSeq     int32
	Priority    int16
	Concurrency *int32
	ExpiresAt   *time.Time
	Deficit     int64
}

type waiting struct {
	BatchID uuid.UUID
	NextDue time.Time
	Due     int32
}

type outstanding struct {
	BatchID uuid.UUID
	Tickets int32
	Jobs    int32
	Express int32
	Posted  int32 // jobs of retry tickets that nobody claimed yet: they still look due
	Lanes   int32 // run and retry tickets that aren't express
}

const (
	// Planned jobs are to be read along the primary key, however few Postgres thinks there are: a sort would touch the whole backlog. Without sorts every
	// plan looks dear, and must not be compiled for that. A machine that vanishes here must not keep the others waiting.
	lockDispatch = `-- name: LockDispatch
select pg_advisory_xact_lock(hashtext('batchwright.dispatch')), set_config('idle_in_transaction_session_timeout', '10s', true),
    set_config('enable_sort', 'off', true), set_config('enable_bitmapscan', 'off', true),
    set_config('jit', 'off', true)`
	listOpenBatches = `-- name: ListOpenBatches
select id, project_id, state, total_jobs, next_seq, priority, concurrency, expires_at, deficit
from batches where finished_at is null and state <> 'ingesting'`
	// Hops along the index from batch to batch: it costs what waits, not what is open. Only what is due is counted, and not for long.
	listDue = `-- name: ListDue
with recursive w as (
    (select j.batch_id, j.due_at from jobs j where j.due_at is not null order by j.batch_id, j.due_at limit 1)
    union all
    select n.batch_id, n.due_at from w cross join lateral (
        select j.batch_id, j.due_at from jobs j where j.due_at is not null and j.batch_id > w.batch_id order by j.batch_id, j.due_at limit 1) n)
select batch_id, due_at as next_due, case when due_at > now() then 0 else
    (select count(*)::int from (select 1 from jobs j where j.batch_id = w.batch_id and j.due_at <= now() limit 1000) c) end as due
from w`
	listOutstanding = `-- name: ListOutstanding
select batch_id, count(*)::int as tickets, coalesce(sum(jobs) filter (where purpose <> 'plan'), 0)::int as jobs,
    count(*) filter (where express)::int as express,
    coalesce(sum(jobs) filter (where purpose = 'retry' and worker_id is null), 0)::int as posted,
    count(*) filter (where purpose <> 'plan' and not express)::int as lanes
from tickets group by batch_id`
	listOpenProjects = `-- name: ListOpenProjects
select id, weight, deficit from projects
where deficit <> 0 or id in (select project_id from batches where finished_at is null and state <> 'ingesting')`
	getFleet = `-- name: GetFleet
select count(*)::int as workers, coalesce(sum(slots), 0)::int as slots, coalesce(sum(concurrency), 0)::int as concurrency,
    0 as tickets, 0 as express, 0 as jobs
from workers where seen_at > now() - interval '30 seconds'`
	// In one order, for whoever else updates several. A batch whose row is busy, or that has just left its state, gets nothing in this round.
	lockShared = `-- name: LockShared
select id from batches where id = any($1::uuid[]) and state = 'running' order by id for no key update skip locked`
	// The cursor is moved on only from where it was read: a pause that came between has set it back, and nothing must step over that.
	issueRunTickets = `-- name: IssueRunTickets
with s as (select seq, (row_number() over (order by seq) - 1) / $2::int as part from (
        select seq from jobs where batch_id = $1 and state = 'planned'
            and seq >= (select next_seq from batches where id = $1 and state = 'running') order by seq limit $2::int * $3::int) p),
c as (update batches set next_seq = coalesce((select max(seq) + 1 from s), total_jobs + 1), deficit = $5
    where id = $1 and state = 'running' and next_seq = (select next_seq from batches where id = $1) returning id)
insert into tickets (batch_id, purpose, first_seq, last_seq, jobs, express)
select $1, 'run', min(seq), max(seq), count(*), $4 from s where exists (select 1 from c) group by part order by part
returning ` + ticketCols
	issueRetryTickets = `-- name: IssueRetryTickets
insert into tickets (batch_id, purpose, first_seq, last_seq, jobs, express)
select id, 'retry', 0, 0, $2, $4 from batches, generate_series(1, $3) where id = $1 and state = 'running'
returning ` + ticketCols
	saveBatchDeficits = `-- name: SaveBatchDeficits
update batches b set deficit = u.deficit from unnest($1::uuid[], $2::bigint[]) as u(id, deficit) where b.id = u.id`
	saveProjectDeficits = `-- name: SaveProjectDeficits
update projects p set deficit = u.deficit from unnest($1::uuid[], $2::bigint[]) as u(id, deficit) where p.id = u.id`
)

// Dispatch asks share which batches get tickets, and issues them. It returns the batches that are open, with what was outstanding before,
// and the tickets in the order of the grants. Share may change the deficits of what it is given: what changed is stored. One dispatch runs
// at a time, whoever asks; no leader is needed.
func (db *DB) Dispatch(ctx context.Context, share func([]OpenBatch, Fleet) []Grant) (open []OpenBatch, tickets []Ticket, err error) {
	err = pgx.BeginFunc(ctx, db.pool, func(tx pgx.Tx) error {
		d := dispatch{tx: tx}
		if err := d.look(ctx); err != nil || len(d.open) == 0 && len(d.projects) == 0 {
			return err
		}
		open = d.open
		for i, p := range d.projects {
			if !slices.ContainsFunc(open, func(b OpenBatch) bool { return b.Project == p }) { // it keeps none without work
				d.projects[i].Deficit = 0
			}
		}
		tickets, err = d.issue(ctx, share(d.open, d.fleet))
		return err
	})
	return open, tickets, translate(err)
}

// dispatch is one round.
type dispatch struct {
	tx       pgx.Tx
	open     []OpenBatch
	fleet    Fleet
	projects []*OpenProject
	// As they were read.
	batchDeficits   []int64 // of open
	projectDeficits []int64 // of projects
}

func (d *dispatch) look(ctx context.Context) error {
	if _, err := d.tx.Exec(ctx, lockDispatch); err != nil { // alone: what follows must see what the last dispatch did
		return err
	}
	var b pgx.Batch
	var rows []openRow
	b.Queue(listOpenBatches).Query(into(&rows))
	var due []waiting
	b.Queue(listDue).Query(into(&due))
	var out []outstanding
	b.Queue(listOutstanding).Query(into(&out))
	var projects []OpenProject
	b.Queue(listOpenProjects).Query(into(&projects))
	var fleet []Fleet
	b.Queue(getFleet).Query(into(&fleet))
	if err := d.tx.SendBatch(ctx, &b).Close(); err != nil {
		return err
	}
	d.fleet = fleet[0]
	byProject := make(map[uuid.UUID]*OpenProject, len(projects))
	for i := range projects {
		p := &projects[i]
		byProject[p.ID] = p
		d.projects, d.projectDeficits = append(d.projects, p), append(d.projectDeficits, p.Deficit)
	}
	waits := make(map[uuid.UUID]*waiting, len(due))
	for i := range due {
		waits[due[i].BatchID] = &due[i]
	}
	byBatch := make(map[uuid.UUID]*outstanding, len(out))
	for i := range out {
		o := &out[i]
		byBatch[o.BatchID] = o
		d.fleet.Tickets, d.fleet.Express, d.fleet.Jobs = d.fleet.Tickets+o.Lanes, d.fleet.Express+o.Express, d.fleet.Jobs+o.Jobs
	}
	d.open, d.batchDeficits = make([]OpenBatch, 0, len(rows)), make([]int64, 0, len(rows))
	for i := range rows {
		r := &rows[i]
		p := byProject[r.ProjectID]
		if p == nil { // created between the statements
			continue
		}
		b := OpenBatch{ID: r.ID, Project: p, State: r.State, TotalJobs: r.TotalJobs, NextSeq: r.NextSeq, Priority: r.Priority, Concurrency: r.Concurrency,
			ExpiresAt: r.ExpiresAt, Deficit: r.Deficit}
		if w := waits[r.ID]; w != nil {
			b.NextDue, b.Due = &w.NextDue, w.Due
		}
		if o := byBatch[r.ID]; o != nil {
			b.Tickets, b.Jobs, b.Express, b.Due = o.Tickets, o.Jobs, o.Express, max(b.Due-o.Posted, 0)
		}
		d.open, d.batchDeficits = append(d.open, b), append(d.batchDeficits, r.Deficit)
	}
	return nil
}

// into collects a batched statement's rows.
func into[T any](rows *[]T) func(pgx.Rows) error {
	return func(r pgx.Rows) (err error) {
		*rows, err = pgx.CollectRows(r, pgx.RowToStructByName[T])
		return err
	}
}

// issue writes tickets and changed deficits.
func (d *dispatch) issue(ctx context.Context, grants []Grant) ([]Ticket, error) {
	var ids []uuid.UUID
	changed := map[uuid.UUID]int64{}
	deficits := make(map[uuid.UUID]int64, len(grants))
	for i, b := range d.open {
		if b.Deficit != d.batchDeficits[i] {
			changed[b.ID] = b.Deficit
			ids = append(ids, b.ID)
		}
		deficits[b.ID] = b.Deficit
	}
	for _, g := range grants {
		if _, listed := changed[g.Batch]; !listed {
			ids = append(ids, g.Batch)
		}
	}
	var b pgx.Batch
	if len(ids) > 0 {
		locked, err := many[struct{ ID uuid.UUID }](ctx, d.tx, lockShared, ids)
		if err != nil {
			return nil, err
		}
		free := make(map[uuid.UUID]bool, len(locked))
		for _, l := range locked {
			free[l.ID] = true
		}
		grants = slices.DeleteFunc(grants, func(g Grant) bool { return !free[g.Batch] })
		for id := range changed {
			if !free[id] {
				delete(changed, id)
			}
		}
	}
	var tickets []Ticket
	collect := func(rows pgx.Rows) error {
		ts, err := pgx.CollectRows(rows, pgx.RowToStructByName[Ticket])
		tickets = append(tickets, ts...)
		return err
	}
	for _, g := range grants {
		if g.Retry > 0 {
			b.Queue(issueRetryTickets, g.Batch, g.Size, g.Retry, g.Express).Query(collect)
		}
		if g.Run > 0 {
			b.Queue(issueRunTickets, g.Batch, g.Size, g.Run, g.Express, deficits[g.Batch]).Query(collect)
			delete(changed, g.Batch)
		}
	}
	if len(changed) > 0 {
		keys, values := make([]uuid.UUID, 0, len(changed)), make([]int64, 0, len(changed))
		for id, deficit := range changed {
			keys, values = append(keys, id), append(values, deficit)
		}
		b.Queue(saveBatchDeficits, keys, values)
	}
	var keys []uuid.UUID
	var values []int64
	for i, p := range d.projects {
		if p.Deficit != d.projectDeficits[i] {
			keys, values = append(keys, p.ID), append(values, p.Deficit)
		}
	}
	if len(keys) > 0 {
		b.Queue(saveProjectDeficits, keys, values)
	}
	if b.Len() == 0 {
		return nil, nil
	}
	err := d.tx.SendBatch(ctx, &b).Close()
	return tickets, err
}
