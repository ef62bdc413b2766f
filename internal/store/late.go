package store

import (
	"context"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// A call whose ticket ended without its outcome was counted as uncertain: in its job, in its batch if that is finished, in its budgets. When
// the outcome comes after all, it replaces what was counted. The batch's row is locked first, as when a batch is finished, then the
// jobs; the statements behind see all that was committed before.
const (
	lockLateBatches = `-- name: LockLateBatches
select id from batches where id = any($1::uuid[]) order by id for update`
	lockLateJobs = `-- name: LockLateJobs
select 1 from jobs j join unnest($1::uuid[], $2::int[]) as u(batch_id, seq) on j.batch_id = u.batch_id and j.seq = u.seq order by j.batch_id, j.seq for update of j`
	// The worker's slice, if it still has one, keeps what it reserved for the call: the period counts the difference.
	settleLateCalls = `-- name: SettleLateCalls
with o as materialized (select c.batch_id, c.seq, c.ticket_id, c.number, c.state
    from calls c join unnest($1::uuid[], $2::int[], $3::bigint[], $4::int[]) as u(batch_id, seq, ticket_id, number)
        on c.batch_id = u.batch_id and c.seq = u.seq and c.ticket_id = u.ticket_id and c.number = u.number
    where c.state <> 'settled' for update of c),
c as (update calls c set late = true, ` + callOutcome + `
    from ` + callArrays + ` join o on o.batch_id = u.batch_id and o.seq = u.seq and o.ticket_id = u.ticket_id and o.number = u.number
    where c.batch_id = u.batch_id and c.seq = u.seq and c.ticket_id = u.ticket_id and c.number = u.number
    returning c.batch_id, c.started_at, o.state as was, c.reserved_microusd as reserved, c.cost_microusd as cost),` + periodsOf + countAtPeriods
	recountLateJobs = `-- name: RecountLateJobs
update jobs j set calls = k.calls, input_tokens = k.input, cached_input_tokens = k.cached, output_tokens = k.output, cost_microusd = k.cost
from (select j.batch_id, j.seq, k.* from (select distinct * from unnest($1::uuid[], $2::int[])) as u(batch_id, seq)
    join jobs j on j.batch_id = u.batch_id and j.seq = u.seq
    cross join lateral (select count(*) as calls, coalesce(sum(input_tokens), 0) as input, coalesce(sum(cached_input_tokens), 0) as cached,
            coalesce(sum(output_tokens), 0) as output,
            case when count(*) = 0 then 0 when count(cost_microusd) = count(*) then sum(cost_microusd) end as cost
        from calls c where c.batch_id = j.batch_id and c.seq = j.seq and c.state <> 'intent'
            and c.ticket_id is distinct from j.ticket_id) k) k -- those of an attempt that runs are added when it ends
where j.batch_id = k.batch_id and j.seq = k.seq`
	refreezeBatch = `-- name: RefreezeBatch
with c as (` + callCounts + `
    and exists (select 1 from batches where id = $1 and finished_at is not null and purged_at is null))
update batches b set calls = c.calls, uncertain_calls = c.uncertain_calls, unpriced_calls = c.unpriced_calls, input_tokens = c.input_tokens,
    cached_input_tokens = c.cached_input_tokens, output_tokens = c.output_tokens, cost_microusd = c.cost_microusd
from c where b.id = $1 and b.finished_at is not null and b.purged_at is null`
	// countAtPeriods moves charges within periods, for calls c with the state in which they were.
	countAtPeriods = `
update budget_periods p set reserved_microusd = p.reserved_microusd - d.reserved, spent_microusd = p.spent_microusd + d.spent,
    overrun_microusd = p.overrun_microusd + d.overrun
from (select b.budget_id, b.starts_at, coalesce(sum(c.reserved) filter (where c.was = 'intent'), 0)::bigint as reserved,
        (sum(coalesce(c.cost, c.reserved)) - coalesce(sum(c.reserved) filter (where c.was <> 'intent'), 0))::bigint as spent,
        sum(greatest(c.cost - c.reserved, 0))::bigint as overrun
    from c join b on b.batch_id = c.batch_id and c.started_at >= b.starts_at and c.started_at < b.ends_at group by 1, 2 order by 1, 2) d
where p.budget_id = d.budget_id and p.starts_at = d.starts_at`
)

// settleLate writes how calls ended whose ticket is gone.
func (db *DB) settleLate(ctx context.Context, calls []Outcome) error {
	columns := callColumns(calls)
	batches := make([]uuid.UUID, len(calls))
	for i := range calls {
		batches[i] = calls[i].BatchID
	}
	batches = distinct(batches)
	return translate(pgx.BeginFunc(ctx, db.pool, func(tx pgx.Tx) error {
		var b pgx.Batch
		b.Queue(lockLateBatches, batches)
		b.Queue(shareLedger, batches, []int64{})
		b.Queue(lockLateJobs, columns[0], columns[1])
		b.Queue(settleLateCalls, columns...)
		b.Queue(recountLateJobs, columns[0], columns[1])
		for _, id := range batches {
			b.Queue(refreezeBatch, id)
		}
		return tx.SendBatch(ctx, &b).Close()
	}))
}
