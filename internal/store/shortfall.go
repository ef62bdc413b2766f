package store

import (
	"context"
	"errors"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

const (
	lockRunning = `-- name: LockRunning
select id from batches where id = $1 and state = 'running' for update`
	setPauseNeed = `-- name: SetPauseNeed
update batches set pause_need_microusd = $2 where id = $1`
	listAffordable = `-- name: ListAffordable
select b.id from batches b where b.finished_at is null and b.state = 'paused' and b.pause_reason = 'budget' and ($1::uuid is null or b.project_id = $1)
    and not exists (select 1 from budgets g cross join lateral budget_period(g.period, g.time_zone, now()) n
        left join budget_periods p on p.budget_id = g.id and p.starts_at = n.starts_at
        where ` + applies + ` and coalesce(p.spent_microusd, 0) + coalesce((select sum(s.spent_microusd) from budget_slice_totals s
            where s.budget_id = g.id and s.starts_at = n.starts_at), 0) + coalesce(b.pause_need_microusd, 0) > g.limit_microusd)
order by b.id`
	lockPaused = `-- name: LockPaused
select id from batches where id = $1 and state = 'paused' and pause_reason = 'budget' for update`
)

// PauseForBudget pauses a running batch because a call of it, whose worst case is need, can't be paid for. It reports whether it did.
func (db *DB) PauseForBudget(ctx context.Context, batch uuid.UUID, detail string, need int64) (done bool, err error) {
	err = pgx.BeginFunc(ctx, db.pool, func(tx pgx.Tx) error {
		_, err := scalar[uuid.UUID](ctx, tx, lockRunning, batch)
		if errors.Is(err, ErrNotFound) {
			return nil
		} else if err != nil {
			return err
		}
		if err := pause(ctx, tx, batch, PauseBudget, detail); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, setPauseNeed, batch, need); err != nil {
			return err
		}
		err = hint(ctx, tx, HintControl)
		done = err == nil
		return err
	})
	return done, translate(err)
}

// ResumeAffordable resumes the batches, of a project or of all, that were paused for a budget and whose refused call every budget has room for
// now: a limit was raised, a new period began, a budget was deleted, or a call cost less than was feared.
func (db *DB) ResumeAffordable(ctx context.Context, project *uuid.UUID) (resumed []uuid.UUID, err error) {
	ids, err := column[uuid.UUID](ctx, db.pool, listAffordable, project)
	for _, id := range ids {
		rerr := pgx.BeginFunc(ctx, db.pool, func(tx pgx.Tx) error {
			if _, err := scalar[uuid.UUID](ctx, tx, lockPaused, id); err != nil { // it may just have been resumed or ended
				return err
			}
			if err := resume(ctx, tx, id); err != nil {
				return err
			}
			return hint(ctx, tx, HintControl)
		})
		if rerr == nil {
			resumed = append(resumed, id)
		} else if !errors.Is(rerr, ErrNotFound) {
			err = errors.Join(err, rerr)
		}
	}
	return resumed, translate(err)
}
