package store

import (
	"context"
	"errors"
	"iter"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// Finished batches are summed up once, for reports (migrations 14 and 16). The batch's row is locked first, as when a late outcome comes: that
// one is either among what the statements behind the lock see, or comes after them and throws the sums away. What calls used and what caches
// saved is summed up at once; costs are compared with the gateway's log when that has surely been written.
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
	clearSavings = `-- name: ClearSavings
delete from usage_savings where batch_id = $1`
	sumSavings = `-- name: SumSavings
insert into usage_savings (batch_id, saving, provider, model, uses, "unknown", input_tokens, output_tokens, saved_microusd)
select batch_id, saving, provider, model, uses, "unknown", input_tokens, output_tokens, saved_microusd from saving_usage where batch_id = $1`
	endUsage = `-- name: EndUsage
update batches set usage_at = now() where id = $1`

	nextDrift = `-- name: NextDrift
select id from batches where drift_at is null and finished_at < now() - interval '10 minutes' and purged_at is null order by id limit 1`
	lockDrift = `-- name: LockDrift
select id from batches where id = $1 and finished_at is not null and drift_at is null for update`
	clearDrift = `-- name: ClearDrift
delete from usage_drift where batch_id = $1`
	sumDrift = `-- name: SumDrift
insert into usage_drift (batch_id, day, provider, model, calls, unlogged_calls, unknown_calls, compared_calls, cost_nanousd, gateway_cost_nanousd)
select batch_id, day, provider, model, calls, unlogged_calls, unknown_calls, compared_calls, cost_nanousd, gateway_cost_nanousd
from drift_usage where batch_id = $1`
	endDrift = `-- name: EndDrift
update batches set drift_at = now() where id = $1`
)

// sums are made of a batch whose row is locked, by statements in their order.
type sums struct {
	next, lock string
	make       []string
}

var usageSums = []sums{
	{nextUsage, lockUsage, []string{clearUsage, sumUsage, clearSavings, sumSavings, endUsage}},
	{nextDrift, lockDrift, []string{clearDrift, sumDrift, endDrift}},
}

// SumUsage sums up one finished batch that lacks sums. Errors: ErrNotFound when there is none.
func (db *DB) SumUsage(ctx context.Context) (batch uuid.UUID, err error) {
	for _, s := range usageSums {
		if batch, err = scalar[uuid.UUID](ctx, db.pool, s.next); err == nil {
			return batch, db.sum(ctx, s, batch)
		} else if !errors.Is(err, ErrNotFound) {
			break
		}
	}
	return batch, err
}

// sumUsage makes the sums that this batch lacks, before its rows go.
func (db *DB) sumUsage(ctx context.Context, batch uuid.UUID) error {
	for _, s := range usageSums {
		if err := db.sum(ctx, s, batch); err != nil {
			return err
		}
	}
	return nil
}

func (db *DB) sum(ctx context.Context, s sums, batch uuid.UUID) error {
	return translate(pgx.BeginFunc(ctx, db.pool, func(tx pgx.Tx) error {
		if _, err := scalar[uuid.UUID](ctx, tx, s.lock, batch); err != nil {
			if errors.Is(err, ErrNotFound) {
				return nil // another worker was here, or there is nothing to do
			}
			return err
		}
		for _, sql := range s.make {
			if _, err := tx.Exec(ctx, sql, batch); err != nil {
				return err
			}
		}
		return nil
	}))
}

const exportResults = `-- name: ExportResults
select i.seq, i.custom_id, b.id::text || '-' || i.seq, coalesce(j.state, 'cancelled'), j.cache_status, j.provider, j.model, coalesce(j.attempts, 0),
    coalesce(j.calls, 0), coalesce(j.input_tokens, 0), coalesce(j.cached_input_tokens, 0), coalesce(j.output_tokens, 0),
    case when j.seq is null then 0 else j.cost_microusd end, j.error_class, j.error_message,
    to_char(j.finished_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), c.format, c.output,
    d.details->'coverage', d.details->'outline'` + jobFrom + `
left join completions c on c.project_id = b.project_id and c.key = j.result_key and c.generation = j.result_generation
cross join lateral (select ` + details + ` as details) d
where b.id = $1 and i.seq between $2 and $3
    and (j.finished_at is not null or j.seq is null and b.state in ('cancelling', 'cancelled', 'expired'))
    and ($4 = '' or coalesce(j.state, 'cancelled') = $4)
order by i.seq`

// ExportResults streams the results of a batch that are final, in input order, as text: the columns of report.ResultColumns. An empty state
// matches all. A row is valid until the next one.
func (r Reader) ExportResults(ctx context.Context, batch uuid.UUID, state string, from, to int32) iter.Seq2[[][]byte, error] {
	return r.Raw(ctx, exportResults, batch, from, to, state)
}

// Raw streams what a statement of package report answers, as text, nil for null. A row is valid until the next one.
func (r Reader) Raw(ctx context.Context, sql string, args ...any) iter.Seq2[[][]byte, error] {
	return func(yield func([][]byte, error) bool) {
		rows, err := r.q.Query(ctx, sql, append([]any{pgx.QueryResultFormats{pgx.TextFormatCode}}, args...)...)
		if err == nil {
			defer rows.Close()
			for rows.Next() {
				if !yield(rows.RawValues(), nil) {
					return
				}
			}
			err = rows.Err()
		}
		if err != nil {
			yield(nil, translate(err))
		}
	}
}
