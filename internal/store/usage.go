package store

import (
	"context"
	"errors"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// The calls of a finished batch are summed up once, for reports (migration 14). The batch's row is locked first, as when a late outcome
// comes: that one is either among what the statements behind the lock see, or comes after them and throws the sums away.
const (
	nextUsage = `-- name: NextUsage
select id from batches where usage_at is null and finished_at is not null and purged_at is null order by id limit 1`
	lockUsage = `-- name: LockUsage
select id from batches where id = $1 and finished_at is not null and usage_at is null for update`
	clearUsage = `-- name: ClearUsage
delete from usage_calls where batch_id = $1`
	sumUsage = `-- name: SumUsage
insert into usage_calls (batch_id, hour, provider, model, error_class, latency_bucket, calls, uncertain_calls, unpriced_calls, gateway_hits,
    input_tokens, cached_input_tokens, cache_write_tokens, output_tokens, cost_microusd, reserved_microusd)
select batch_id, hour, provider, model, error_class, latency_bucket, sum(calls), sum(uncertain_calls), sum(unpriced_calls), sum(gateway_hits),
    sum(input_tokens), sum(cached_input_tokens), sum(cache_write_tokens), sum(output_tokens), sum(cost_microusd), sum(reserved_microusd)
from call_usage where batch_id = $1 group by 1, 2, 3, 4, 5, 6`
	endUsage = `-- name: EndUsage
update batches set usage_at = now() where id = $1`
)

// SumUsage sums up the calls of one finished batch that has no sums yet. Errors: ErrNotFound when there is none.
func (db *DB) SumUsage(ctx context.Context) (batch uuid.UUID, err error) {
	batch, err = scalar[uuid.UUID](ctx, db.pool, nextUsage)
	if err != nil {
		return batch, err
	}
	return batch, db.sumUsage(ctx, batch)
}

// sumUsage does so for this batch, if it is to be done.
func (db *DB) sumUsage(ctx context.Context, batch uuid.UUID) error {
	return translate(pgx.BeginFunc(ctx, db.pool, func(tx pgx.Tx) error {
		if _, err := scalar[uuid.UUID](ctx, tx, lockUsage, batch); err != nil {
			if errors.Is(err, ErrNotFound) {
				return nil // another worker was here
			}
			return err
		}
		for _, sql := range []string{clearUsage, sumUsage, endUsage} {
			if _, err := tx.Exec(ctx, sql, batch); err != nil {
				return err
			}
		}
		return nil
	}))
}
