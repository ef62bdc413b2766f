package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// Budget is a limit on what calls may cost in a period.
type Budget struct {
	ID            uuid.UUID
	ProjectID     uuid.UUID
	Scope         string     // project, api_key or batch
	APIKeyID      *uuid.UUID // of scope api_key
	BatchID       *uuid.UUID // of scope batch
	Name          string
	Period        string // total, day or month
	TimeZone      string // IANA name, in which days and months begin
	LimitMicrousd int64
	CreatedAt     time.Time
	UpdatedAt     time.Time
}

// BudgetState is a budget with the charges of its current period.
type BudgetState struct {
	Budget
	StartsAt         *time.Time // nil for total
	EndsAt           *time.Time
	SpentMicrousd    int64 // charges of calls that ended or were lost
	ReservedMicrousd int64 // worst cases of calls in flight
}

// ErrTimeZone says that Postgres doesn't know a zone by that name.
var ErrTimeZone = errors.New("store: unknown time zone")

const (
	// applies joins budgets g to the batches b whose calls count in them.
	applies = `g.project_id = b.project_id and (g.api_key_id is null or g.api_key_id = b.api_key_id) and (g.batch_id is null or g.batch_id = b.id)`

	budgetCols   = `g.id, g.project_id, g.scope, g.api_key_id, g.batch_id, g.name, g.period, g.time_zone, g.limit_microusd, g.created_at, g.updated_at`
	selectBudget = `select ` + budgetCols + `, case when g.period <> 'total' then n.starts_at end as starts_at, case when g.period <> 'total' then n.ends_at end as ends_at,
    (coalesce(p.spent_microusd, 0) + s.spent)::bigint as spent_microusd, (coalesce(p.reserved_microusd, 0) + s.reserved)::bigint as reserved_microusd
from budgets g cross join lateral budget_period(g.period, g.time_zone, now()) n
left join budget_periods p on p.budget_id = g.id and p.starts_at = n.starts_at
cross join lateral (select coalesce(sum(spent_microusd), 0) as spent, coalesce(sum(reserved_microusd), 0) as reserved
    from budget_slice_totals s where s.budget_id = g.id and s.starts_at = n.starts_at) s `
	getBudget = `-- name: GetBudget
` + selectBudget + `where g.project_id = $1 and g.id = $2`
	listBudgets = `-- name: ListBudgets
` + selectBudget + `where g.project_id = $1 and ($2::uuid is null or g.id < $2) order by g.id desc limit $3`
)

// Budget returns a project's budget, or ErrNotFound.
func (r Reader) Budget(ctx context.Context, project, id uuid.UUID) (BudgetState, error) {
	return one[BudgetState](ctx, r.q, getBudget, project, id)
}

// Budgets pages through a project's budgets, newest first, below before when it is given.
func (r Reader) Budgets(ctx context.Context, project uuid.UUID, before *uuid.UUID, limit int) ([]BudgetState, error) {
	return many[BudgetState](ctx, r.q, listBudgets, project, before, limit)
}

const hasKey = `-- name: HasKey
select exists (select 1 from api_keys where project_id = $1 and id = $2)`

// HasKey reports whether an API key, revoked or not, is the project's.
func (r Reader) HasKey(ctx context.Context, project, key uuid.UUID) (bool, error) {
	return scalar[bool](ctx, r.q, hasKey, project, key)
}

const (
	knowsZone = `-- name: KnowsZone
select exists (select 1 from pg_timezone_names where name = $1)`
	// Nobody writes an intent or an outcome of the project until the budget is there and has counted all that was written before.
	lockLedger = `-- name: LockLedger
select pg_advisory_xact_lock(hashtextextended($1::uuid::text, 0))`
	bumpEpoch = `-- name: BumpEpoch
update projects set budget_epoch = budget_epoch + 1 where id = $1`
	createBudget = `-- name: CreateBudget
insert into budgets (id, project_id, scope, api_key_id, batch_id, name, period, time_zone, limit_microusd) values ($1, $2, $3, $4, $5, $6, $7, $8, $9)
on conflict (id) do nothing returning id`
	// Calls of purged batches are gone: what their batches cost counts in full, though some of it may have been earlier.
	countPeriod = `-- name: CountPeriod
insert into budget_periods (budget_id, starts_at, ends_at, reserved_microusd, spent_microusd, ceiling_microusd)
select g.id, n.starts_at, n.ends_at, c.reserved, c.spent + o.spent, greatest(g.limit_microusd, c.reserved + c.spent + o.spent)
from budgets g cross join lateral budget_period(g.period, g.time_zone, now()) n
cross join lateral (select coalesce(sum(c.reserved_microusd) filter (where c.state = 'intent'), 0)::bigint as reserved,
        coalesce(sum(coalesce(c.cost_microusd, c.reserved_microusd)) filter (where c.state <> 'intent'), 0)::bigint as spent
    from batches b join calls c on c.batch_id = b.id and c.started_at >= n.starts_at and c.started_at < n.ends_at where ` + applies + `) c
cross join lateral (select coalesce(sum(b.cost_microusd), 0)::bigint as spent
    from batches b where ` + applies + ` and b.purged_at is not null and b.finished_at >= n.starts_at) o
where g.id = $1`
)

// CreateBudget makes a budget that counts what was charged earlier in its current period. Workers learn of it before they make another
// call. While the earlier calls are counted, the project's calls wait: a second for some millions. ErrTimeZone; ErrConflict when the id is taken.
func (db *DB) CreateBudget(ctx context.Context, b Budget) (state BudgetState, err error) {
	if ok, err := scalar[bool](ctx, db.pool, knowsZone, b.TimeZone); err != nil {
		return BudgetState{}, translate(err)
	} else if !ok {
		return BudgetState{}, ErrTimeZone
	}
	err = pgx.BeginFunc(ctx, db.pool, func(tx pgx.Tx) error {
		created, err := makeBudget(ctx, tx, b)
		if err == nil && !created {
			err = ErrConflict
		}
		if err != nil {
			return err
		}
		state, err = one[BudgetState](ctx, tx, getBudget, b.ProjectID, b.ID)
		return err
	})
	return state, translate(err)
}

func makeBudget(ctx context.Context, tx pgx.Tx, b Budget) (created bool, err error) {
	if _, err := tx.Exec(ctx, lockLedger, b.ProjectID); err != nil {
		return false, err
	}
	_, err = scalar[uuid.UUID](ctx, tx, createBudget, b.ID, b.ProjectID, b.Scope, b.APIKeyID, b.BatchID, b.Name, b.Period, b.TimeZone, b.LimitMicrousd)
	if errors.Is(err, ErrNotFound) {
		return false, nil
	} else if err != nil {
		return false, err
	}
	if _, err := tx.Exec(ctx, bumpEpoch, b.ProjectID); err != nil {
		return false, err
	}
	_, err = tx.Exec(ctx, countPeriod, b.ID)
	return err == nil, err
}

const (
	lockOwner = `-- name: LockOwner
select 1 from batches where id = $1 for update` // a batch is locked before its own budget
	lockBudget = `-- name: LockBudget
select ` + budgetCols + ` from budgets g where g.project_id = $1 and g.id = $2 for update`
	updateBudget = `-- name: UpdateBudget
update budgets set name = $2, limit_microusd = $3, updated_at = now() where id = $1`
	raiseCeilings = `-- name: RaiseCeilings
update budget_periods set ceiling_microusd = greatest(ceiling_microusd, $2) where budget_id = $1 and ends_at > now()`
	updateMaxCost = `-- name: UpdateMaxCost
update batches set max_cost_microusd = $2 where id = $1`
	deleteBudget = `-- name: DeleteBudget
delete from budgets where id = $1`
)

// UpdateBudget changes a budget's name and limit, where they are given. A lower limit holds from the next call on: what was leased beyond it
// is taken back. ErrNotFound when the project has no such budget.
func (db *DB) UpdateBudget(ctx context.Context, project, id uuid.UUID, name *string, limit *int64) (state BudgetState, err error) {
	err = pgx.BeginFunc(ctx, db.pool, func(tx pgx.Tx) error {
		b, err := holdBudget(ctx, tx, project, id)
		if err != nil {
			return err
		}
		if name != nil {
			b.Name = *name
		}
		before := b.LimitMicrousd
		if limit != nil {
			b.LimitMicrousd = *limit
		}
		if err := setLimit(ctx, tx, b, before); err != nil {
			return err
		}
		state, err = one[BudgetState](ctx, tx, getBudget, project, id)
		return err
	})
	return state, translate(err)
}

func holdBudget(ctx context.Context, tx pgx.Tx, project, id uuid.UUID) (Budget, error) {
	if _, err := tx.Exec(ctx, lockOwner, id); err != nil {
		return Budget{}, err
	}
	return one[Budget](ctx, tx, lockBudget, project, id)
}

func setLimit(ctx context.Context, tx pgx.Tx, b Budget, before int64) error {
	if _, err := tx.Exec(ctx, updateBudget, b.ID, b.Name, b.LimitMicrousd); err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, raiseCeilings, b.ID, before); err != nil {
		return err
	}
	if b.LimitMicrousd < before {
		if _, err := returnSlices(ctx, tx, ofBudget, b.ID); err != nil {
			return err
		}
	}
	if own := b.BatchID != nil && *b.BatchID == b.ID; own {
		_, err := tx.Exec(ctx, updateMaxCost, b.ID, b.LimitMicrousd)
		return err
	}
	return nil
}

// DeleteBudget ends a budget. Deleting the one that a batch brought along takes the limit off the batch. ErrNotFound when the project has no such budget.
func (db *DB) DeleteBudget(ctx context.Context, project, id uuid.UUID) error {
	return translate(pgx.BeginFunc(ctx, db.pool, func(tx pgx.Tx) error {
		b, err := holdBudget(ctx, tx, project, id)
		if err != nil {
			return err
		}
		if b.BatchID != nil && *b.BatchID == b.ID {
			if _, err := tx.Exec(ctx, updateMaxCost, b.ID, nil); err != nil {
				return err
			}
		}
		_, err = tx.Exec(ctx, deleteBudget, id)
		return err
	}))
}

const getOwnBudget = `-- name: GetOwnBudget
select b.project_id, b.max_cost_microusd, g.limit_microusd from batches b left join budgets g on g.id = b.id where b.id = $1`

// keepOwnBudget makes the budget that a batch brings along agree with its max_cost_microusd.
func keepOwnBudget(ctx context.Context, tx pgx.Tx, batch uuid.UUID) error {
	own, err := one[struct {
		ProjectID       uuid.UUID
		MaxCostMicrousd *int64
		LimitMicrousd   *int64
	}](ctx, tx, getOwnBudget, batch)
	if err != nil {
		return err
	}
	switch most, has := own.MaxCostMicrousd, own.LimitMicrousd; {
	case most == nil && has != nil:
		_, err = tx.Exec(ctx, deleteBudget, batch)
	case most != nil && has == nil:
		_, err = makeBudget(ctx, tx, Budget{ID: batch, ProjectID: own.ProjectID, Scope: "batch", BatchID: &batch, Period: "total", TimeZone: "UTC", LimitMicrousd: *most})
	case most != nil && *most != *has:
		b, lerr := one[Budget](ctx, tx, lockBudget, own.ProjectID, batch)
		if lerr != nil {
			return lerr
		}
		b.LimitMicrousd = *most
		err = setLimit(ctx, tx, b, *has)
	}
	if err != nil {
		return fmt.Errorf("own budget of batch: %w", err)
	}
	return nil
}
