package store

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

// Account is what a worker needs to know to reserve for the calls of a batch.
type Account struct {
	ProjectID uuid.UUID
	Epoch     int64 // of the project's budgets and prices
	Budgets   []AccountBudget
	Prices    []Price // the project's own
}

// AccountBudget is a budget that applies to a batch, and the slice of its current period that the worker holds.
type AccountBudget struct {
	ID    uuid.UUID
	Slice *int64
}

const (
	getAccount = `-- name: GetAccount
select p.id as project_id, p.budget_epoch as epoch, b.max_cost_microusd is not null and not exists (select 1 from budgets g where g.id = b.id) as lacks_own
from batches b join projects p on p.id = b.project_id where b.id = $1`
	listApplying = `-- name: ListApplying
select g.id, s.id as slice from batches b join budgets g on ` + applies + `
left join budget_slices s on s.budget_id = g.id and s.worker_id = $2 and s.starts_at <= now() and s.ends_at > now()
where b.id = $1 order by g.id`
)

// Account returns the budgets that apply to a batch; ErrNotFound without such a batch. A batch's own limit becomes a budget here, before its first call.
func (db *DB) Account(ctx context.Context, batch, worker uuid.UUID) (Account, error) {
	type head struct {
		ProjectID uuid.UUID
		Epoch     int64
		LacksOwn  bool
	}
	h, err := one[head](ctx, db.pool, getAccount, batch)
	if err == nil && h.LacksOwn {
		err = pgx.BeginFunc(ctx, db.pool, func(tx pgx.Tx) error { return keepOwnBudget(ctx, tx, batch) })
		if err == nil {
			h, err = one[head](ctx, db.pool, getAccount, batch)
		}
	}
	if err != nil {
		return Account{}, translate(err)
	}
	budgets, err := many[AccountBudget](ctx, db.pool, listApplying, batch, worker) // after the epoch: a budget that comes between makes the epoch an old one
	if err != nil {
		return Account{}, err
	}
	prices, err := db.ProjectPrices(ctx, h.ProjectID)
	return Account{h.ProjectID, h.Epoch, budgets, prices}, err
}

// Slice is a part of a budget leased to a worker.
type Slice struct {
	ID      int64
	Granted int64 // micro-dollars, by this lease; one slice may be leased several times
}

// Refusal says why a budget leased nothing.
type Refusal struct {
	Budget   Budget
	Spent    int64 // charges of calls that ended or were lost
	Reserved int64 // worst cases of calls in flight
	Need     int64 // of the call
	EndsAt   *time.Time
}

// Final reports whether nothing in flight can make room for the call.
func (r *Refusal) Final() bool { return r.Spent+r.Need > r.Budget.LimitMicrousd }

const (
	openPeriod = `-- name: OpenPeriod
insert into budget_periods (budget_id, starts_at, ends_at, ceiling_microusd)
select g.id, n.starts_at, n.ends_at, g.limit_microusd from budgets g cross join lateral budget_period(g.period, g.time_zone, now()) n where g.id = $1
on conflict do nothing`
	lockPeriod = `-- name: LockPeriod
select p.starts_at, g.limit_microusd - p.spent_microusd - p.reserved_microusd - p.granted_microusd as room,
    (select count(*) from workers where seen_at > now() - interval '30 seconds') as workers
from budgets g cross join lateral budget_period(g.period, g.time_zone, now()) n join budget_periods p on p.budget_id = g.id and p.starts_at = n.starts_at
where g.id = $1 for share of g for no key update of p`
	grantSlice = `-- name: GrantSlice
with p as (update budget_periods p set granted_microusd = granted_microusd + $4, ceiling_microusd = greatest(ceiling_microusd, g.limit_microusd)
    from budgets g where g.id = $1 and p.budget_id = $1 and p.starts_at = $2 returning p.ends_at)
insert into budget_slices as s (budget_id, starts_at, ends_at, worker_id, granted_microusd) select $1, $2, p.ends_at, $3, $4 from p
on conflict (budget_id, starts_at, worker_id) do update set granted_microusd = s.granted_microusd + excluded.granted_microusd, leased_at = now()
returning id`
	wantPeriod = `-- name: WantPeriod
update budget_periods set wanted_at = now() where budget_id = $1 and starts_at = $2 and coalesce(wanted_at < now() - interval '1 second', true)`
	getAnyBudget = `-- name: GetAnyBudget
` + selectBudget + `where g.id = $1`
)

// LeaseSlice grants a worker missing micro-dollars more of a budget for a call that needs need, or more in advance: up to wish, but not
// more than its share of half of what is left. ErrNotFound when the budget is gone.
func (db *DB) LeaseSlice(ctx context.Context, budget, worker uuid.UUID, missing, need, wish int64) (slice Slice, refusal *Refusal, err error) {
	err = pgx.BeginFunc(ctx, db.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, openPeriod, budget); err != nil {
			return err
		}
		p, err := one[struct {
			StartsAt pgtype.Timestamptz // which may be infinite
			Room     int64
			Workers  int64
		}](ctx, tx, lockPeriod, budget)
		if err != nil {
			return err
		}
		if missing > p.Room {
			if _, err := tx.Exec(ctx, wantPeriod, budget, p.StartsAt); err != nil {
				return err
			}
			s, err := one[BudgetState](ctx, tx, getAnyBudget, budget)
			refusal = &Refusal{Budget: s.Budget, Spent: s.SpentMicrousd, Reserved: s.ReservedMicrousd, Need: need, EndsAt: s.EndsAt}
			return err
		}
		slice.Granted = max(missing, min(wish, p.Room/(2*max(p.Workers, 1))))
		slice.ID, err = scalar[int64](ctx, tx, grantSlice, budget, p.StartsAt, worker, slice.Granted)
		return err
	})
	return slice, refusal, translate(err)
}

// A slice that is returned is gone: what was reserved in it and not written yet is refused, and what it counted counts at its period. The periods
// are locked first, as when a slice is leased. Who writes a tally holds a lock on its slice, so once the slices are locked, a new statement sees
// all that was counted.
const (
	lockPeriods = `
select 1 from budget_periods p where exists (select 1 from budget_slices s where s.budget_id = p.budget_id and s.starts_at = p.starts_at and %s)
order by p.budget_id, p.starts_at for no key update`
	lockSlices = `
select s.id from budget_slices s where %s order by s.id for update`
	deleteSlices = `-- name: DeleteSlices
with t as (delete from budget_tallies where slice_id = any($1::bigint[]) returning slice_id, reserved_microusd, spent_microusd, overrun_microusd),
c as (select slice_id, sum(reserved_microusd) as reserved, sum(spent_microusd) as spent, sum(overrun_microusd) as overrun from t group by 1),
d as (delete from budget_slices s where s.id = any($1::bigint[]) returning s.id, s.budget_id, s.starts_at, s.granted_microusd)
update budget_periods p set granted_microusd = p.granted_microusd - x.granted, reserved_microusd = p.reserved_microusd + x.reserved,
    spent_microusd = p.spent_microusd + x.spent, overrun_microusd = p.overrun_microusd + x.overrun
from (select d.budget_id, d.starts_at, sum(d.granted_microusd)::bigint as granted, coalesce(sum(c.reserved), 0)::bigint as reserved,
    coalesce(sum(c.spent), 0)::bigint as spent, coalesce(sum(c.overrun), 0)::bigint as overrun from d left join c on c.slice_id = d.id group by 1, 2) x
where p.budget_id = x.budget_id and p.starts_at = x.starts_at`
)

// returning is which slices are returned: the statements that lock them and their periods.
type returning struct{ periods, slices string }

func returned(name, which string) returning {
	return returning{"-- name: LockPeriodsOf" + name + fmt.Sprintf(lockPeriods, which), "-- name: LockSlicesOf" + name + fmt.Sprintf(lockSlices, which)}
}

var (
	ofBudget = returned("Budget", `s.budget_id = $1`)
	ofWorker = returned("Worker", `s.worker_id = $1`)
	// Those named, those of periods that are over, and those of which another worker was refused some since they were leased.
	unused = returned("Unused", `s.worker_id = $1 and (s.id = any($2::bigint[]) or s.ends_at <= now()
    or exists (select 1 from budget_periods w where w.budget_id = s.budget_id and w.starts_at = s.starts_at and w.wanted_at > s.leased_at))`)
	ofTheDead = returned("TheDead", `not exists (select 1 from workers w where w.id = s.worker_id and w.seen_at > now() - $1::interval)`)
)

func returnSlices(ctx context.Context, q interface {
	Begin(ctx context.Context) (pgx.Tx, error)
}, which returning, args ...any) (ids []int64, err error) {
	err = pgx.BeginFunc(ctx, q, func(tx pgx.Tx) error {
		var b pgx.Batch
		b.Queue(which.periods, args...)
		b.Queue(which.slices, args...).Query(func(rows pgx.Rows) (err error) {
			ids, err = pgx.CollectRows(rows, pgx.RowTo[int64])
			return err
		})
		if err := tx.SendBatch(ctx, &b).Close(); err != nil || len(ids) == 0 {
			return err
		}
		_, err := tx.Exec(ctx, deleteSlices, ids)
		return err
	})
	return ids, translate(err)
}

// ReturnSlices gives back those slices of a worker that it names as idle, whose period is over, or of which others want some. It returns the
// ids of all that are gone now.
func (db *DB) ReturnSlices(ctx context.Context, worker uuid.UUID, idle []int64) ([]int64, error) {
	return returnSlices(ctx, db.pool, unused, worker, idle)
}

// ReturnAllSlices gives back what a worker holds that stops in order.
func (db *DB) ReturnAllSlices(ctx context.Context, worker uuid.UUID) error {
	_, err := returnSlices(ctx, db.pool, ofWorker, worker)
	return err
}

// ReclaimSlices takes back the slices of workers that weren't seen for so long. What they reserved counts until its calls are found lost.
func (db *DB) ReclaimSlices(ctx context.Context, silence time.Duration) (int, error) {
	ids, err := returnSlices(ctx, db.pool, ofTheDead, interval(silence))
	return len(ids), err
}
