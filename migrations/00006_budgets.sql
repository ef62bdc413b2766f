-- Budgets: limits on what calls may cost, and the check that attempts and money add up.
--
-- The charge of a call is what it cost, or its worst case while (or for ever, when) that isn't known. A budget's charges in a period are the
-- sums of its budget_periods row and of the slices leased from it: workers reserve in their own slice, so that the period's row is written
-- a few times a second at most, whatever the number of calls.
-- +goose Up
alter table projects add column budget_epoch bigint not null default 0;
comment on column projects.budget_epoch is 'Grows with every new budget: an intent is refused to a worker that doesn''t know them all.';

alter table batches add column pause_need_microusd bigint;
comment on column batches.pause_need_microusd is 'Of a batch paused for a budget: the worst case of the call that was refused.';

alter table calls add column late boolean not null default false;
comment on column calls.late is 'Its outcome came when the ticket had been taken from its worker: the job may have been run again.';

alter table jobs add column past_attempts integer not null default 0;
comment on column jobs.past_attempts is 'Attempts that counted before the job was last retried by hand.';

create table budgets (
    id             uuid        primary key,
    project_id     uuid        not null references projects,
    scope          text        not null constraint budgets_scope check (scope in ('project', 'api_key', 'batch')),
    api_key_id     uuid        references api_keys,
    batch_id       uuid,
    name           text        not null constraint budgets_name check (char_length(name) <= 100),
    period         text        not null constraint budgets_period check (period in ('total', 'day', 'month')),
    time_zone      text        not null default 'UTC',
    limit_microusd bigint      not null constraint budgets_limit check (limit_microusd >= 0),
    created_at     timestamptz not null default now(),
    updated_at     timestamptz not null default now(),
    constraint budgets_scoped check ((scope = 'api_key') = (api_key_id is not null) and (scope = 'batch') = (batch_id is not null))
);
create index budgets_project on budgets (project_id, id); -- which budgets apply to a batch; GET /v1/budgets
comment on table budgets is 'Limits on what the calls of a project, an API key or a batch may cost in a period.';
comment on column budgets.id is 'UUID, version 7; of the budget that a batch brings along as its max_cost_microusd, the batch''s own.';
comment on column budgets.project_id is 'Owner.';
comment on column budgets.scope is 'project, api_key or batch: whose calls count.';
comment on column budgets.api_key_id is 'The key whose batches count, of scope api_key.';
comment on column budgets.batch_id is 'The batch that counts, of scope batch.';
comment on column budgets.name is 'Free name; empty when none was given.';
comment on column budgets.period is 'total, day or month: when counting starts anew.';
comment on column budgets.time_zone is 'IANA name of the zone in which days and months begin.';
comment on column budgets.limit_microusd is 'Most that calls may be charged in a period, in millionths of a US dollar.';
comment on column budgets.created_at is 'When the budget was made; what was charged earlier in the period counts as well.';
comment on column budgets.updated_at is 'When its name or limit last changed.';

create table budget_periods (
    budget_id         uuid        not null references budgets on delete cascade,
    starts_at         timestamptz not null,
    ends_at           timestamptz not null,
    granted_microusd  bigint      not null default 0,
    reserved_microusd bigint      not null default 0,
    spent_microusd    bigint      not null default 0,
    overrun_microusd  bigint      not null default 0,
    ceiling_microusd  bigint      not null,
    wanted_at         timestamptz,
    primary key (budget_id, starts_at)
) with (fillfactor = 50);
comment on table budget_periods is 'What a budget has charged in a period, apart from what its live slices count.';
comment on column budget_periods.budget_id is 'The budget.';
comment on column budget_periods.starts_at is 'Start of the period, inclusive; -infinity for total.';
comment on column budget_periods.ends_at is 'End of the period, exclusive; infinity for total.';
comment on column budget_periods.granted_microusd is 'Handed out to live slices. Together with the next two it is within the limit whenever some is granted.';
comment on column budget_periods.reserved_microusd is 'Worst cases of calls in flight. Negative when slices count calls whose end is counted here; only the sum with them means something.';
comment on column budget_periods.spent_microusd is 'Charges of calls that ended or were lost.';
comment on column budget_periods.overrun_microusd is 'The part of it by which calls cost more than their worst case: a price or a token count that was too low.';
comment on column budget_periods.ceiling_microusd is 'Highest limit of this period so far, or what was charged when the budget was made if that was more.';
comment on column budget_periods.wanted_at is 'When a worker was last refused: others give back what they don''t use.';

create table budget_slices (
    id                bigint      generated always as identity primary key,
    budget_id         uuid        not null,
    starts_at         timestamptz not null,
    ends_at           timestamptz not null,
    worker_id         uuid        not null,
    granted_microusd  bigint      not null,
    reserved_microusd bigint      not null default 0,
    spent_microusd    bigint      not null default 0,
    overrun_microusd  bigint      not null default 0,
    leased_at         timestamptz not null default now(),
    unique (budget_id, starts_at, worker_id),
    foreign key (budget_id, starts_at) references budget_periods on delete cascade
) with (fillfactor = 20, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);
comment on table budget_slices is 'Parts of budgets leased to workers. An intent is written only while the slices that it draws on are there.';
comment on column budget_slices.id is 'Never reused: the fencing token of what is reserved in it.';
comment on column budget_slices.budget_id is 'The budget.';
comment on column budget_slices.starts_at is 'Start of its period.';
comment on column budget_slices.ends_at is 'End of its period: an intent that is written later needs a slice of the next one.';
comment on column budget_slices.worker_id is 'The worker that reserves in it.';
comment on column budget_slices.granted_microusd is 'What may be charged in it.';
comment on column budget_slices.reserved_microusd is 'Worst cases of the worker''s calls in flight.';
comment on column budget_slices.spent_microusd is 'Charges of the worker''s calls that ended.';
comment on column budget_slices.overrun_microusd is 'The part of it by which calls cost more than their worst case.';
comment on column budget_slices.leased_at is 'When some was last granted.';

-- A midnight that comes twice or never is one instant to Postgres; before the second of two, the day before lasts.
-- +goose StatementBegin
create function budget_period(period text, zone text, at timestamptz, out starts_at timestamptz, out ends_at timestamptz) language sql stable as $$
select case when period = 'total' then '-infinity' when this <= at then this else last end,
       case when period = 'total' then 'infinity' when this <= at then next else this end
from (select (d - step) at time zone zone as last, d at time zone zone as this, (d + step) at time zone zone as next
      from (select date_trunc(case period when 'month' then 'month' else 'day' end, at at time zone zone) as d,
                   case period when 'month' then interval '1 month' else interval '1 day' end as step) t) b
$$;
-- +goose StatementEnd

create view reports.ledger_check as
-- job_totals: a final job's totals are the sums of its calls, whoever made them, but for intents, whose end is still to come. Its cost is
-- unknown when that of one of them is.
select 'job_totals' as kind, b.project_id, j.batch_id, j.seq, null::uuid as budget_id,
       format('the job says %s calls, %s/%s/%s tokens, cost %s; its calls say %s, %s/%s/%s, %s', j.calls, j.input_tokens, j.cached_input_tokens,
           j.output_tokens, coalesce(j.cost_microusd::text, 'unknown'), coalesce(c.calls, 0), coalesce(c.input, 0), coalesce(c.cached, 0),
           coalesce(c.output, 0), case when c.seq is null then '0' else coalesce(c.cost::text, 'unknown') end) as detail
from jobs j
join batches b on b.id = j.batch_id
left join (select batch_id, seq, count(*) as calls, coalesce(sum(input_tokens), 0) as input, coalesce(sum(cached_input_tokens), 0) as cached,
               coalesce(sum(output_tokens), 0) as output, case when count(cost_microusd) = count(*) then sum(cost_microusd) end as cost
           from calls where state <> 'intent' group by batch_id, seq) c on c.batch_id = j.batch_id and c.seq = j.seq
where j.finished_at is not null
    and (j.calls <> coalesce(c.calls, 0) or j.input_tokens <> coalesce(c.input, 0) or j.cached_input_tokens <> coalesce(c.cached, 0)
        or j.output_tokens <> coalesce(c.output, 0) or j.cost_microusd is distinct from case when c.seq is null then 0 else c.cost end)
union all
-- job_attempts: a job that a call answered has an attempt that counted.
select 'job_attempts', b.project_id, j.batch_id, j.seq, null, format('the job made %s calls and succeeded, in no attempt', j.calls)
from jobs j join batches b on b.id = j.batch_id
where j.state = 'succeeded' and j.cache_status in ('miss', 'gateway_hit', 'bypass') and j.calls > 0 and j.attempts = 0
union all
-- paid_twice: a job of one call has a good, billed answer under more tickets than it had attempts. One that came late, when its worker
-- counted as dead, is allowed by the policy that runs lost jobs again.
select 'paid_twice', b.project_id, c.batch_id, c.seq, null, format('%s tickets have a good answer, the job had %s attempts', n.tickets, j.attempts + j.past_attempts)
from (select batch_id, seq from calls
      where state = 'settled' and error_class is null and not late and gateway_cache_status is distinct from 'HIT'
      group by batch_id, seq having min(ticket_id) <> max(ticket_id)) c
join batches b on b.id = c.batch_id and b.kind in ('generate', 'chat')
join jobs j on j.batch_id = c.batch_id and j.seq = c.seq and j.state = 'succeeded'
cross join lateral (select count(distinct ticket_id) as tickets from calls k
    where k.batch_id = c.batch_id and k.seq = c.seq and k.state = 'settled' and k.error_class is null and not k.late
        and k.gateway_cache_status is distinct from 'HIT') n
where n.tickets > greatest(j.attempts + j.past_attempts, 1)
union all
-- intent_without_ticket: a call that will never be settled and wasn't found lost. A ticket that ends takes its intents along.
select 'intent_without_ticket', b.project_id, c.batch_id, c.seq, null, format('call %s of ticket %s is neither in flight nor settled nor uncertain', c.number, c.ticket_id)
from calls c join batches b on b.id = c.batch_id
where c.state = 'intent' and not exists (select 1 from tickets t where t.id = c.ticket_id)
union all
-- batch_frozen: the counts of a finished batch are those of its rows, until it is purged.
select 'batch_frozen', b.project_id, b.id, null, null,
       format('the batch says %s/%s/%s jobs, %s calls (%s uncertain, %s unpriced), %s/%s/%s tokens, cost %s; its rows say %s/%s/%s, %s (%s, %s), %s/%s/%s, %s',
           b.succeeded_jobs, b.failed_jobs, b.cancelled_jobs, b.calls, b.uncertain_calls, b.unpriced_calls, b.input_tokens, b.cached_input_tokens,
           b.output_tokens, b.cost_microusd, j.succeeded, j.failed, b.total_jobs - j.succeeded - j.failed, c.calls, c.uncertain, c.unpriced, c.input, c.cached,
           c.output, c.cost)
from batches b
cross join lateral (select count(*) filter (where state = 'succeeded') as succeeded, count(*) filter (where state = 'failed') as failed,
        count(*) filter (where finished_at is null) as open
    from jobs where batch_id = b.id) j
cross join lateral (select count(*) as calls, count(*) filter (where state = 'uncertain') as uncertain,
        count(*) filter (where state = 'settled' and cost_microusd is null) as unpriced, coalesce(sum(input_tokens), 0) as input,
        coalesce(sum(cached_input_tokens), 0) as cached, coalesce(sum(output_tokens), 0) as output, coalesce(sum(cost_microusd), 0) as cost
    from calls where batch_id = b.id) c
where b.finished_at is not null and b.purged_at is null and (b.state <> 'failed' or b.started_at is not null) -- not an upload that broke off
    and (j.open > 0 or (b.succeeded_jobs, b.failed_jobs, b.cancelled_jobs, b.calls, b.uncertain_calls, b.unpriced_calls, b.input_tokens,
            b.cached_input_tokens, b.output_tokens, b.cost_microusd)
        <> (j.succeeded, j.failed, b.total_jobs - j.succeeded - j.failed, c.calls, c.uncertain, c.unpriced, c.input, c.cached, c.output, c.cost))
union all
-- budget_charges: what a budget counts in a period is what the ledger says. Calls of purged batches are counted and gone, so then less is wrong
-- and more is not.
select 'budget_charges', g.project_id, g.batch_id, null, g.id,
       format('the period from %s says %s reserved and %s spent, its calls say %s and %s', p.starts_at, p.reserved_microusd + s.reserved,
           p.spent_microusd + s.spent, c.reserved, c.spent)
from budgets g
join budget_periods p on p.budget_id = g.id
cross join lateral (select coalesce(sum(reserved_microusd), 0) as reserved, coalesce(sum(spent_microusd), 0) as spent
    from budget_slices s where s.budget_id = p.budget_id and s.starts_at = p.starts_at) s
cross join lateral (select coalesce(sum(c.reserved_microusd) filter (where c.state = 'intent'), 0) as reserved,
        coalesce(sum(coalesce(c.cost_microusd, c.reserved_microusd)) filter (where c.state <> 'intent'), 0) as spent
    from batches b join calls c on c.batch_id = b.id and c.started_at >= p.starts_at and c.started_at < p.ends_at
    where b.project_id = g.project_id and (g.api_key_id is null or g.api_key_id = b.api_key_id) and (g.batch_id is null or g.batch_id = b.id)) c
where p.reserved_microusd + s.reserved <> c.reserved or p.spent_microusd + s.spent < c.spent
    or p.spent_microusd + s.spent > c.spent and not exists (select 1 from batches b where b.project_id = g.project_id
        and (g.api_key_id is null or g.api_key_id = b.api_key_id) and (g.batch_id is null or g.batch_id = b.id)
        and b.purged_at is not null and b.finished_at >= p.starts_at)
union all
-- budget_overshot: more is charged in a period than any limit that it had, apart from calls that cost more than their worst case.
select 'budget_overshot', g.project_id, g.batch_id, null, g.id,
       format('the period from %s has charged %s, %s of it overrun, and its limit was never above %s', p.starts_at,
           p.reserved_microusd + p.spent_microusd + s.charged, p.overrun_microusd + s.overrun, p.ceiling_microusd)
from budgets g
join budget_periods p on p.budget_id = g.id
cross join lateral (select coalesce(sum(reserved_microusd + spent_microusd), 0) as charged, coalesce(sum(overrun_microusd), 0) as overrun
    from budget_slices s where s.budget_id = p.budget_id and s.starts_at = p.starts_at) s
where p.reserved_microusd + p.spent_microusd + s.charged - p.overrun_microusd - s.overrun > greatest(p.ceiling_microusd, g.limit_microusd)
union all
-- budget_granted: what a period has granted is what its slices hold.
select 'budget_granted', g.project_id, g.batch_id, null, g.id, format('the period from %s has granted %s, its slices hold %s', p.starts_at, p.granted_microusd, s.granted)
from budgets g
join budget_periods p on p.budget_id = g.id
cross join lateral (select coalesce(sum(granted_microusd), 0) as granted
    from budget_slices s where s.budget_id = p.budget_id and s.starts_at = p.starts_at) s
where p.granted_microusd <> s.granted
union all
-- slice_over_grant: a worker has charged more to a slice than it was granted, apart from calls that cost more than their worst case.
select 'slice_over_grant', g.project_id, g.batch_id, null, g.id, format('slice %s of worker %s was granted %s and holds %s reserved and %s spent, %s of it overrun',
           s.id, s.worker_id, s.granted_microusd, s.reserved_microusd, s.spent_microusd, s.overrun_microusd)
from budgets g
join budget_slices s on s.budget_id = g.id
where s.reserved_microusd + s.spent_microusd - s.overrun_microusd > s.granted_microusd;
comment on view reports.ledger_check is 'One row a violation of what must always hold of attempts and money: empty when sound. Quick when restricted to a batch_id.';
comment on column reports.ledger_check.kind is 'job_totals, job_attempts, paid_twice, intent_without_ticket, batch_frozen, budget_charges, budget_overshot, budget_granted or slice_over_grant.';
comment on column reports.ledger_check.project_id is 'Owner.';
comment on column reports.ledger_check.batch_id is 'The batch; null for budgets of other scopes.';
comment on column reports.ledger_check.seq is 'The job within the batch; null when it is not about one.';
comment on column reports.ledger_check.budget_id is 'The budget; null when it is not about one.';
comment on column reports.ledger_check.detail is 'What differs.';

-- +goose Down
drop view reports.ledger_check;
drop function budget_period;
drop table budget_slices, budget_periods, budgets;
alter table jobs drop column past_attempts;
alter table calls drop column late;
alter table batches drop column pause_need_microusd;
alter table projects drop column budget_epoch;
