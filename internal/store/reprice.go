package store

import (
	"context"
	"errors"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// Reprice is one recomputation of costs: what was asked for, how far it is, and what it found.
type Reprice struct {
	ID              uuid.UUID
	ProjectID       uuid.UUID
	APIKeyID        uuid.UUID
	DryRun          bool
	FromTime        time.Time // of the calls' starts, inclusive
	ToTime          time.Time // exclusive
	Provider        string    // empty for all
	Model           string
	AsOf            *time.Time // a UTC day; nil for the day on which each call started
	AtBatch         uuid.UUID
	AfterSeq        int32
	Batches         int64
	Calls           int64
	ChangedCalls    int64
	ReportedCalls   int64
	OldCostMicrousd int64
	NewCostMicrousd int64
	UnknownBefore   int64
	UnknownAfter    int64
	StartedAt       time.Time
	FinishedAt      *time.Time
}

const (
	repriceCols = `id, project_id, api_key_id, dry_run, from_time, to_time, provider, model, as_of, at_batch, after_seq, batches, calls, changed_calls,
    reported_calls, old_cost_microusd::bigint as old_cost_microusd, new_cost_microusd::bigint as new_cost_microusd, unknown_before, unknown_after,
    started_at, finished_at`
	beginReprice = `-- name: BeginReprice
insert into reprices (id, project_id, api_key_id, dry_run, from_time, to_time, provider, model, as_of) values ($1, $2, $3, $4, $5, $6, $7, $8, $9)`
	lockReprice = `-- name: LockReprice
select ` + repriceCols + ` from reprices where project_id = $1 and id = $2 for update`
	getReprice = `-- name: GetReprice
select ` + repriceCols + ` from reprices where project_id = $1 and id = $2`
	listReprices = `-- name: ListReprices
select ` + repriceCols + ` from reprices where project_id = $1 and ($2::uuid is null or id < $2) order by id desc limit $3`
	// Those that are open are priced as they go, and those that were purged have no calls left. A batch that ends meanwhile may come behind.
	repriceBatch = `-- name: RepriceBatch
select id from batches where project_id = $1 and (id > $2 or id = $2 and $3::int > 0) and finished_at is not null and purged_at is null
    and finished_at >= $4 and created_at < $5 order by id limit 1 for update`
	repriceRange = `-- name: RepriceRange
select coalesce(max(seq), 0)::int as last, count(*)::int as calls from (select seq from calls where batch_id = $1 and seq > $2 order by seq limit $3) c`
	// c has the calls with the cost that each should have, which is the one that it has where tokens don't decide.
	repricedCalls = `
with k as materialized (select c.seq, c.ticket_id, c.number, c.started_at, c.provider, c.model, c.reserved_microusd as reserved, c.cost_microusd as old,
        c.input_tokens as input, c.cached_input_tokens as cached, coalesce(c.cache_write_tokens, 0) as written, c.output_tokens as output,
        coalesce(n.cost_reported, false) as reported, c.gateway_cache_status is distinct from 'HIT' and c.input_tokens is not null as counted,
        coalesce($9, (c.started_at at time zone 'UTC')::date) as day
    from calls c left join call_notes n on n.batch_id = c.batch_id and n.seq = c.seq and n.ticket_id = c.ticket_id and n.number = c.number
    where c.batch_id = $2 and c.seq > $3 and c.seq <= $4 and c.state = 'settled' and c.started_at >= $5 and c.started_at < $6
        and ($7 = '' or c.provider = $7) and ($8 = '' or c.model = $8)),
p as materialized (select g.provider, g.model, g.day, r from (select distinct provider, model, day from k) g
    left join lateral price_at($1, g.provider, g.model, g.day) r on true),
c as materialized (select k.*, case when k.reported or not k.counted then k.old else call_cost(p.r, k.input, k.cached, k.written, k.output) end as new
    from k join p on p.provider = k.provider and p.model = k.model and p.day = k.day)`
	repricedSums = `
select count(*) as calls, count(*) filter (where old is distinct from new) as changed, count(*) filter (where reported) as reported,
    coalesce(sum(old), 0)::bigint as old_cost, coalesce(sum(new), 0)::bigint as new_cost,
    count(*) filter (where old is null) as unknown_before, count(*) filter (where new is null) as unknown_after from c`
	tryReprice = `-- name: TryReprice` + repricedCalls + repricedSums
	// A call counts in the period in which it started, at its worst case where its cost is unknown. What costs rise by counts as overrun as
	// well: no limit could stop it any more.
	doReprice = `-- name: DoReprice` + repricedCalls + `,
u as (update calls t set cost_microusd = c.new from c
    where t.batch_id = $2 and t.seq = c.seq and t.ticket_id = c.ticket_id and t.number = c.number and c.old is distinct from c.new),
b as materialized (select p.budget_id, p.starts_at, p.ends_at from batches b join budgets g on ` + applies + `
    join budget_periods p on p.budget_id = g.id where b.id = $2),
d as (select b.budget_id, b.starts_at, sum(coalesce(c.new, c.reserved) - coalesce(c.old, c.reserved))::bigint as more
    from c join b on c.started_at >= b.starts_at and c.started_at < b.ends_at
    where c.old is distinct from c.new group by 1, 2 order by 1, 2),
s as (update budget_periods p set spent_microusd = p.spent_microusd + d.more, overrun_microusd = greatest(p.overrun_microusd + d.more, 0)
    from d where p.budget_id = d.budget_id and p.starts_at = d.starts_at),
f as (update batches set cost_microusd = cost_microusd + t.more, unpriced_calls = unpriced_calls + t.unknown
    from (select coalesce(sum(new), 0)::bigint - coalesce(sum(old), 0)::bigint as more,
        count(*) filter (where new is null) - count(*) filter (where old is null) as unknown from c) t where id = $2)` + repricedSums
	recountCosts = `-- name: RecountCosts
update jobs j set cost_microusd = k.cost
from (select seq, case when count(cost_microusd) = count(*) then sum(cost_microusd)::bigint end as cost
    from calls where batch_id = $1 and seq > $2 and seq <= $3 and state <> 'intent' group by seq) k
where j.batch_id = $1 and j.seq = k.seq and j.cost_microusd is distinct from k.cost`
	// Of a budget that charges more now, what is leased was granted when there was room for it.
	budgetsOf = `-- name: BudgetsOf
select g.id from batches b join budgets g on ` + applies + ` where b.id = $1 order by g.id`
	noteReprice = `-- name: NoteReprice
update reprices set at_batch = $2, after_seq = $3, batches = batches + $4, calls = calls + $5, changed_calls = changed_calls + $6,
    reported_calls = reported_calls + $7, old_cost_microusd = old_cost_microusd + $8, new_cost_microusd = new_cost_microusd + $9,
    unknown_before = unknown_before + $10, unknown_after = unknown_after + $11 where id = $1 returning ` + repriceCols
	endReprice = `-- name: EndReprice
update reprices set finished_at = now() where id = $1 returning ` + repriceCols
	forgetPauseNeeds = `-- name: ForgetPauseNeeds
update batches set pause_need_microusd = 0 where project_id = $1 and finished_at is null and state = 'paused' and pause_reason = 'budget'`
)

// BeginReprice notes that costs are to be recomputed; RepriceSome does it.
func (db *DB) BeginReprice(ctx context.Context, r Reprice) error {
	_, err := db.pool.Exec(ctx, beginReprice, r.ID, r.ProjectID, r.APIKeyID, r.DryRun, r.FromTime, r.ToTime, r.Provider, r.Model, r.AsOf)
	return translate(err)
}

// RepriceSome takes the next calls of a repricing, so many and the rest of the last job's, in one transaction with the totals that they count in, and with how far it
// is: broken off anywhere, it goes on there. It returns how it stands, finished when nothing is left. ErrNotFound when the project has none
// by that id.
func (db *DB) RepriceSome(ctx context.Context, project, id uuid.UUID, calls int32) (r Reprice, err error) {
	err = pgx.BeginFunc(ctx, db.pool, func(tx pgx.Tx) error {
		if r, err = one[Reprice](ctx, tx, lockReprice, project, id); err != nil || r.FinishedAt != nil {
			return err
		}
		batch, err := scalar[uuid.UUID](ctx, tx, repriceBatch, project, r.AtBatch, r.AfterSeq, r.FromTime, r.ToTime)
		if errors.Is(err, ErrNotFound) {
			r, err = one[Reprice](ctx, tx, endReprice, id)
			return err
		} else if err != nil {
			return err
		}
		after, begun := r.AfterSeq, int64(0)
		if batch != r.AtBatch {
			after, begun = 0, 1
		}
		part, err := one[struct{ Last, Calls int32 }](ctx, tx, repriceRange, batch, after, calls)
		if err != nil {
			return err
		}
		sums, err := repricePart(ctx, tx, r, batch, after, part.Last)
		if err != nil {
			return err
		}
		next := part.Last
		if part.Calls < calls {
			next = 0 // the batch is done
		}
		r, err = one[Reprice](ctx, tx, noteReprice, id, batch, next, begun, sums.Calls, sums.Changed, sums.Reported, sums.OldCost, sums.NewCost,
			sums.UnknownBefore, sums.UnknownAfter)
		return err
	})
	return r, translate(err)
}

type repriced struct{ Calls, Changed, Reported, OldCost, NewCost, UnknownBefore, UnknownAfter int64 }

// repricePart recomputes the calls of a batch's jobs behind after, up to last. The batch is locked, as by whoever changes a finished one.
func repricePart(ctx context.Context, tx pgx.Tx, r Reprice, batch uuid.UUID, after, last int32) (repriced, error) {
	args := []any{r.ProjectID, batch, after, last, r.FromTime, r.ToTime, r.Provider, r.Model, r.AsOf}
	if r.DryRun {
		return one[repriced](ctx, tx, tryReprice, args...)
	}
	if _, err := tx.Exec(ctx, shareLedger, []uuid.UUID{batch}, []int64{}); err != nil { // a budget that is made counts before it, or behind
		return repriced{}, err
	}
	sums, err := one[repriced](ctx, tx, doReprice, args...)
	if err != nil || sums.Changed == 0 {
		return sums, err
	}
	if _, err := tx.Exec(ctx, recountCosts, batch, after, last); err != nil {
		return sums, err
	}
	budgets, err := column[uuid.UUID](ctx, tx, budgetsOf, batch)
	for _, id := range budgets {
		if _, err := returnSlices(ctx, tx, ofBudget, id); err != nil {
			return sums, err
		}
	}
	return sums, err
}

// RepriceByID returns how a repricing stands, or ErrNotFound.
func (r Reader) RepriceByID(ctx context.Context, project, id uuid.UUID) (Reprice, error) {
	return one[Reprice](ctx, r.q, getReprice, project, id)
}

// Reprices pages through a project's repricings, newest first, below before when it is given.
func (r Reader) Reprices(ctx context.Context, project uuid.UUID, before *uuid.UUID, limit int) ([]Reprice, error) {
	return many[Reprice](ctx, r.q, listReprices, project, before, limit)
}

// ForgetPauseNeeds lets the batches of a project that are paused for a budget try their next call again as soon as there is any room.
func (db *DB) ForgetPauseNeeds(ctx context.Context, project uuid.UUID) error {
	_, err := db.pool.Exec(ctx, forgetPauseNeeds, project)
	return translate(err)
}
