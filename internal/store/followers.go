package store

import (
	"context"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgtype"
)

// Of identical jobs one leads, and the others wait for its answer: a batch's own duplicates, and those of batches of the project that are
// planned while it runs. A follower waits with leader_seq, and leader_batch when the leader is another batch's.
//
// A leader's duplicates in its own batch end as it ends: they ask the same along the same route, and it had all the attempts there are, so
// that a dead provider is paid for one of them and not for each. A follower in another batch takes an answer under its own key and
// nothing else. When the leader ends otherwise, or isn't run any more because its batch is paused or ended, the first follower leads
// in its place, for all the rest. So there is one leader for a key, whatever becomes of the batches, and a failure costs a batch one leader.
//
// Nobody waits for a lock to release followers: the leader's row, taken with SKIP LOCKED, makes one of those who try the one that does. What
// slips between two transactions (a leader that ends while a batch hangs on it) is found by Reconcile.

const (
	// Fresh rows have no statistics: with nested loops Postgres would compare all with all.
	hashOnly = `-- name: HashOnly
select set_config('enable_nestloop', 'off', true), set_config('work_mem', '64MB', true), set_config('jit', 'off', true),
    set_config('idle_in_transaction_session_timeout', '10s', true)`
	hangOutside = `-- name: HangOutside
with mine as materialized (select seq, key from jobs where batch_id = $1 and state = 'planned'),
lead as materialized (
    select distinct on (key) key, batch_id, seq from jobs
    where batch_id = any($2::uuid[]) and finished_at is null and leader_seq is null and key in (select key from mine)
    order by key, batch_id, seq),
hung as (update jobs j set state = 'waiting', leader_batch = l.batch_id, leader_seq = l.seq
    from mine m join lead l on l.key = m.key where j.batch_id = $1 and j.seq = m.seq returning j.seq)
select count(*) from hung`
	hangFollowers = `-- name: HangFollowers
with d as materialized (select key, min(seq) as leader from jobs where batch_id = $1 and state = 'planned' group by key having count(*) > 1)
update jobs j set state = 'waiting', leader_seq = d.leader
from d where j.batch_id = $1 and j.key = d.key and j.seq <> d.leader and j.state = 'planned'`
)

const (
	leaderCols = `l.batch_id, l.seq, l.state, l.result_key, l.result_generation, l.provider, l.model`

	// releaseCTE releases the outside followers of the leaders l. The lateral joins are one index look-up a leader, whatever Postgres
	// thinks of the tables.
	releaseCTE = `
f as materialized (
    select o.batch_id, o.seq, l.batch_id as leader_batch, l.seq as leader_seq, coalesce(l.state = 'succeeded' and l.result_key = o.key, false) as answered,
        l.result_key, l.result_generation, l.provider, l.model
    from l cross join lateral (select o.batch_id, o.seq, o.key from jobs o
        where o.leader_batch = l.batch_id and o.leader_seq = l.seq and o.state = 'waiting' for update skip locked) o),
g as (
    select f.*, first_value(b.state = 'running') over w as leads, first_value(f.batch_id) over w as first_batch, first_value(f.seq) over w as first_seq,
        min(f.seq) over (partition by f.leader_batch, f.leader_seq, f.batch_id) as own_seq
    from f join batches b on b.id = f.batch_id
    window w as (partition by f.leader_batch, f.leader_seq order by b.state = 'running' desc, f.batch_id, f.seq)),
n as materialized ( -- who leads instead: the first follower, or of each batch its own first when none of them runs
    select g.*, case when leads then first_batch else batch_id end as new_batch, case when leads then first_seq else own_seq end as new_seq from g)
update jobs j set state = case when n.answered then 'succeeded' else 'waiting' end, finished_at = case when n.answered then now() end,
    cache_status = case when n.answered then 'coalesced' end, result_key = case when n.answered then n.result_key end,
    result_generation = case when n.answered then n.result_generation end, provider = case when n.answered then n.provider end,
    model = case when n.answered then n.model end,
    due_at = case when not n.answered and n.new_batch = j.batch_id and n.new_seq = j.seq then now() end,
    leader_batch = case when n.answered then j.leader_batch when n.new_batch <> j.batch_id then n.new_batch end,
    leader_seq = case when n.answered then j.leader_seq when n.new_batch <> j.batch_id or n.new_seq <> j.seq then n.new_seq end
from n where j.batch_id = n.batch_id and j.seq = n.seq`

	releaseEnded = `-- name: ReleaseEnded
with l as materialized (
    select l.* from unnest($1::uuid[], $2::int[]) as u(batch_id, seq) cross join lateral (
        select ` + leaderCols + ` from jobs l where l.batch_id = u.batch_id and l.seq = u.seq
            and (l.finished_at is not null or l.state <> 'running' and not exists (select 1 from batches b where b.id = u.batch_id and b.state = 'running'))
            and (select true from jobs o where o.leader_batch = u.batch_id and o.leader_seq = u.seq and o.state = 'waiting' limit 1)
        for update skip locked) l),` + releaseCTE

	// releaseFollowers belongs into each transaction after which a batch's leaders aren't run any more: the last statement, so that it sees them
	// as they are left. The followers of calls in flight stay: these end, or are handed back and found by reconcileFollowers.
	releaseFollowers = `-- name: ReleaseFollowers
with d as materialized (select distinct leader_seq as seq from jobs where leader_batch = $1 and state = 'waiting'),
l as materialized (
    select l.* from d cross join lateral (
        select ` + leaderCols + ` from jobs l where l.batch_id = $1 and l.seq = d.seq and l.state <> 'running' for update skip locked) l),` + releaseCTE

	reconcileFollowers = `-- name: ReconcileFollowers
with d as materialized (
    select distinct leader_batch, leader_seq from jobs
    where batch_id = $1 and leader_seq is not null and leader_batch is not null and state = 'waiting'),
m as (update batches set followed = true where id in (
    select id from batches where id in (select leader_batch from d) and not followed for update skip locked)),
l as materialized (
    select l.* from d left join batches b on b.id = d.leader_batch cross join lateral (
        select ` + leaderCols + ` from jobs l where l.batch_id = d.leader_batch and l.seq = d.leader_seq
            and (l.finished_at is not null or (l.state <> 'running' and b.state is distinct from 'running'))
        for update skip locked) l
    union all -- purged
    select d.leader_batch, d.leader_seq, null, null, null, null, null from d
    where (select true from jobs l where l.batch_id = d.leader_batch and l.seq = d.leader_seq) is null),` + releaseCTE

	listFollowing = `-- name: ListFollowing
select id from batches where finished_at is null and follows and state in ('running', 'paused')`
)

// ReleaseFollowers lets go of the jobs of other batches that wait for leaders which ended, or whose batch doesn't run any more: those that
// the answer is good for take it, and of the others the first is due at once and leads the rest. It reports how many waited. Leaders are
// those that Settle says are followed.
func (db *DB) ReleaseFollowers(ctx context.Context, leaders []Settled) (released int, err error) {
	batch, seq := make([]pgtype.UUID, len(leaders)), make([]int32, len(leaders))
	for i, l := range leaders {
		batch[i], seq[i] = uuidOf(l.BatchID), l.Seq
	}
	tag, err := db.pool.Exec(ctx, releaseEnded, batch, seq)
	return int(tag.RowsAffected()), translate(err)
}

// Following returns the open batches of which jobs may wait for leaders in other batches.
func (r Reader) Following(ctx context.Context) ([]uuid.UUID, error) {
	return column[uuid.UUID](ctx, r.q, listFollowing)
}

// Reconcile releases what a batch's jobs wait for in vain: leaders in other batches that ended unseen, are gone, or aren't run because
// their batch is paused or over. It reports how many jobs it released, and sees to it that from now on the leaders' ends are seen.
func (db *DB) Reconcile(ctx context.Context, batch uuid.UUID) (released int, err error) {
	tag, err := db.pool.Exec(ctx, reconcileFollowers, batch)
	return int(tag.RowsAffected()), translate(err)
}
