-- What the caches saved, and how far our costs are from the gateway's, become sums of finished batches as well, so that they are asked as quickly as the
-- rest; what came of schedules becomes a view; the check of budgets goes over the calls once; and prices are shown to nobody whose project they
-- aren't of.
-- +goose Up
alter table batches add column drift_at timestamptz;
comment on column batches.usage_at is 'When its calls were summed up in usage_calls and usage_savings; null while the ledger itself has to be read.';
comment on column batches.drift_at is 'When its calls were compared with the gateway''s log in usage_drift, which is written behind them; null while the two have to be read.';
create index batches_undrifted on batches (project_id, id) where drift_at is null; -- NextDrift, and the live half of cost_drift: a few batches

create table usage_savings (
    batch_id       uuid   not null,
    saving         text   not null,
    provider       text   not null,
    model          text   not null,
    uses           bigint not null,
    "unknown"      bigint not null,
    input_tokens   bigint not null,
    output_tokens  bigint not null,
    saved_microusd bigint not null,
    primary key (batch_id, saving, provider, model)
);
comment on table usage_savings is 'What the caches saved finished batches, valid while batches.usage_at is set. They outlive a purge, and the answers.';
comment on column usage_savings.batch_id is 'The batch.';
comment on column usage_savings.saving is 'result_cache, coalesced, gateway_cache or prefix_cache.';
comment on column usage_savings.provider is 'Provider that made the answers, or served the tokens.';
comment on column usage_savings.model is 'Model asked for.';
comment on column usage_savings.uses is 'Jobs, for the first two; calls, for the others.';
comment on column usage_savings.unknown is 'Those of them whose saving is unknown.';
comment on column usage_savings.input_tokens is 'Prompt tokens that weren''t paid for, or were cheaper.';
comment on column usage_savings.output_tokens is 'Generated tokens that weren''t paid for.';
comment on column usage_savings.saved_microusd is 'In millionths of a US dollar, by the prices of when it was summed up; a reprice makes it anew.';

create table usage_drift (
    batch_id             uuid   not null,
    day                  date   not null,
    provider             text   not null,
    model                text   not null,
    calls                bigint not null,
    unlogged_calls       bigint not null,
    unknown_calls        bigint not null,
    compared_calls       bigint not null,
    cost_nanousd         bigint not null,
    gateway_cost_nanousd bigint not null,
    primary key (batch_id, day, provider, model)
);
comment on table usage_drift is 'Costs of finished batches beside those in the gateway''s log, valid while batches.drift_at is set. They outlive a purge, and the log.';
comment on column usage_drift.batch_id is 'The batch.';
comment on column usage_drift.day is 'UTC day on which the calls started.';
comment on column usage_drift.provider is 'Provider.';
comment on column usage_drift.model is 'Model asked for.';
comment on column usage_drift.calls is 'Settled calls with a log id.';
comment on column usage_drift.unlogged_calls is 'Those whose log wasn''t there.';
comment on column usage_drift.unknown_calls is 'Those in the log whose cost one of the two didn''t know.';
comment on column usage_drift.compared_calls is 'Those whose cost both knew; the sums are of these.';
comment on column usage_drift.cost_nanousd is 'Their cost by the call ledger, in billionths of a US dollar.';
comment on column usage_drift.gateway_cost_nanousd is 'Their cost by the gateway''s log, in billionths of a US dollar.';

-- Sums that there are lack the new ones: they are made anew. Of purged batches there is nothing to sum up.
update batches set usage_at = null where usage_at is not null and purged_at is null;
update batches set drift_at = now() where purged_at is not null and not purging;

-- +goose StatementBegin
create or replace function batch_recounted() returns trigger language plpgsql as $$ begin
    new.usage_at := null;
    new.drift_at := null;
    return new;
end $$;
-- +goose StatementEnd
drop trigger batch_recounted on batches;
create trigger batch_recounted before update of finished_at, calls, cost_microusd on batches
    for each row when ((old.usage_at is not null or old.drift_at is not null) and old.purged_at is null) execute function batch_recounted();

-- Whoever reads a view runs its functions with rights of their own, so this one can't be withheld from readers of reports.savings. It reads prices
-- with the owner's rights, and looks itself at whose they are.
-- +goose StatementBegin
create or replace function price_at(project uuid, provider text, model text, day date) returns setof prices language sql stable rows 1
security definer set search_path = public, pg_temp as $$
select p.* from prices p
join (select 1, $3 union all
      select 2, left($3, -length(d)) from substring($3 from '.(-20[2-9][0-9]-(?:0[1-9]|1[0-2])-[0-9]{2}|[-@]20[2-9][0-9](?:0[1-9]|1[0-2])[0-9]{2})$') as d
      where case when d is not null then right(d, 2)::int between 1
          and extract(day from (left(translate(d, '-@', ''), 6) || '01')::date + interval '1 month' - interval '1 day') else false end
      union all select 3, '*') n(rank, name) on p.model = n.name
where p.provider = $2 and (p.project_id = $1 or p.project_id is null) and p.valid_from <= $4 and coalesce(p.valid_to > $4, true)
    and exists (select 1 from report_projects where id = $1)
order by n.rank, p.project_id is null, p.valid_from desc limit 1
$$;
-- +goose StatementEnd

-- One row a kind, provider and model of a batch, from the rows of what is not summed up, and from the sums of what is. All that the report says of a
-- batch is here: were it joined, Postgres might go over the rows once a batch.
create view saving_usage as
select b.project_id, b.id as batch_id, b.name as batch, (b.created_at at time zone 'UTC')::date as day, u.saving, u.provider, u.model, u.uses, u.unknown,
       u.input_tokens, u.output_tokens, u.saved_microusd
from batches b join usage_savings u on u.batch_id = b.id
where b.usage_at is not null
union all
-- What the answers cost when they were made. One that took no call, because the gateway had it, is not saved here.
select b.project_id, b.id, b.name, (b.created_at at time zone 'UTC')::date, case j.cache_status when 'result_hit' then 'result_cache' else 'coalesced' end,
       c.provider, c.model, count(*), count(*) filter (where c.cost_microusd is null), coalesce(sum(c.input_tokens), 0)::bigint,
       coalesce(sum(c.output_tokens), 0)::bigint, coalesce(sum(c.cost_microusd), 0)::bigint
from batches b join jobs j on j.batch_id = b.id
join completions c on c.project_id = b.project_id and c.key = j.result_key and c.generation = j.result_generation
where b.usage_at is null and j.cache_status in ('result_hit', 'coalesced') and j.state = 'succeeded'
group by 1, 2, 3, 4, 5, 6, 7
union all
select b.project_id, b.id, b.name, (b.created_at at time zone 'UTC')::date, 'gateway_cache', c.provider, c.model, count(*),
       count(*) filter (where n.replayed_microusd is null), coalesce(sum(n.replayed_input_tokens), 0)::bigint,
       coalesce(sum(n.replayed_output_tokens), 0)::bigint, coalesce(sum(n.replayed_microusd), 0)::bigint
from batches b join calls c on c.batch_id = b.id
left join call_notes n on n.batch_id = c.batch_id and n.seq = c.seq and n.ticket_id = c.ticket_id and n.number = c.number
where b.usage_at is null and c.gateway_cache_status = 'HIT' and c.state = 'settled'
group by 1, 2, 3, 4, 5, 6, 7
union all
-- What the provider's cache took off, less what it took for being written to, by the prices of the day of the call, looked up once a group: a
-- grouped subquery is computed before it is joined.
select g.project_id, g.batch_id, g.batch, g.day, 'prefix_cache', g.provider, g.model, count(*), count(*) filter (where (g.price).id is null),
       coalesce(sum(c.cached_input_tokens), 0)::bigint, 0,
       coalesce(sum(call_cost(g.price, c.input_tokens, 0, 0, 0) - call_cost(g.price, c.input_tokens, c.cached_input_tokens, coalesce(c.cache_write_tokens, 0), 0)), 0)::bigint
from (select b.project_id, b.id as batch_id, b.name as batch, (b.created_at at time zone 'UTC')::date as day, c.provider, c.model, d.called,
          (select r from price_at(b.project_id, c.provider, c.model, d.called) r) as price
      from batches b join calls c on c.batch_id = b.id cross join lateral (select (c.started_at at time zone 'UTC')::date as called) d
      where b.usage_at is null and c.state = 'settled' and (c.cached_input_tokens > 0 or c.cache_write_tokens > 0) group by 1, 2, 3, 4, 5, 6, 7) g
join calls c on c.batch_id = g.batch_id and c.provider = g.provider and c.model = g.model and (c.started_at at time zone 'UTC')::date = g.called
where c.state = 'settled' and (c.cached_input_tokens > 0 or c.cache_write_tokens > 0)
group by 1, 2, 3, 4, 5, 6, 7;
comment on view saving_usage is 'What the caches saved: sums of batches that have some, rows of the others.';
comment on column saving_usage.project_id is 'Owner.';
comment on column saving_usage.batch_id is 'The batch.';
comment on column saving_usage.batch is 'Its name.';
comment on column saving_usage.day is 'UTC day on which it was submitted.';
comment on column saving_usage.saving is 'As in usage_savings, and so are the following.';
comment on column saving_usage.provider is 'Provider.';
comment on column saving_usage.model is 'Model asked for.';
comment on column saving_usage.uses is 'Jobs or calls.';
comment on column saving_usage.unknown is 'Those of them whose saving is unknown.';
comment on column saving_usage.input_tokens is 'Prompt tokens that weren''t paid for, or were cheaper.';
comment on column saving_usage.output_tokens is 'Generated tokens that weren''t paid for.';
comment on column saving_usage.saved_microusd is 'In millionths of a US dollar.';

create or replace view reports.savings with (security_barrier) as
select s.project_id, p.name as project, s.batch_id, s.batch, s.day, s.saving, s.provider, s.model, s.uses, s.unknown, s.input_tokens, s.output_tokens, s.saved_microusd
from saving_usage s
join report_projects p on p.id = s.project_id;

create view drift_usage as
select b.project_id, b.id as batch_id, u.day, u.provider, u.model, u.calls, u.unlogged_calls, u.unknown_calls, u.compared_calls, u.cost_nanousd, u.gateway_cost_nanousd
from batches b join usage_drift u on u.batch_id = b.id
where b.drift_at is not null
union all
select b.project_id, b.id, (c.started_at at time zone 'UTC')::date, c.provider, c.model, count(*), count(*) filter (where l.id is null),
       count(*) filter (where l.id is not null and (c.cost_microusd is null or l.cost_nano_usd is null)),
       count(*) filter (where c.cost_microusd is not null and l.cost_nano_usd is not null),
       coalesce(sum(c.cost_microusd) filter (where l.cost_nano_usd is not null), 0)::bigint * 1000,
       coalesce(sum(l.cost_nano_usd) filter (where c.cost_microusd is not null), 0)::bigint
from batches b join calls c on c.batch_id = b.id
left join gateway_logs l on l.id = case when c.gateway_log_id ~ '^[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}$' then c.gateway_log_id::uuid end
where b.drift_at is null and c.state = 'settled' and c.gateway_log_id is not null
group by 1, 2, 3, 4, 5;
comment on view drift_usage is 'Costs beside those in the gateway''s log: sums of batches that have some, the ledger and the log of the others.';
comment on column drift_usage.project_id is 'Owner.';
comment on column drift_usage.batch_id is 'The batch.';
comment on column drift_usage.day is 'As in usage_drift, and so are the following.';
comment on column drift_usage.provider is 'Provider.';
comment on column drift_usage.model is 'Model asked for.';
comment on column drift_usage.calls is 'Settled calls with a log id.';
comment on column drift_usage.unlogged_calls is 'Those whose log isn''t there.';
comment on column drift_usage.unknown_calls is 'Those in the log whose cost one of the two doesn''t know.';
comment on column drift_usage.compared_calls is 'Those whose cost both know.';
comment on column drift_usage.cost_nanousd is 'Their cost by the call ledger.';
comment on column drift_usage.gateway_cost_nanousd is 'Their cost by the gateway''s log.';

create or replace view reports.cost_drift with (security_barrier) as
select u.project_id, p.name as project, u.day, u.provider, u.model, sum(u.calls)::bigint as calls, sum(u.unlogged_calls)::bigint as unlogged_calls,
       sum(u.unknown_calls)::bigint as unknown_calls, sum(u.compared_calls)::bigint as compared_calls, sum(u.cost_nanousd)::bigint as cost_nanousd,
       sum(u.gateway_cost_nanousd)::bigint as gateway_cost_nanousd, sum(u.cost_nanousd - u.gateway_cost_nanousd)::bigint as drift_nanousd
from drift_usage u
join report_projects p on p.id = u.project_id
group by 1, 2, 3, 4, 5;

create view reports.schedule_runs with (security_barrier) as
select s.project_id, p.name as project, s.id as schedule_id, s.name as schedule, t.due_at, (t.due_at at time zone 'UTC')::date as day, t.manual, t.state, t.reason,
       t.attempts, t.start_at, t.ended_at, t.batch_id, b.state as batch_state, b.created_at as submitted_at, b.finished_at,
       1::bigint as ticks, (t.batch_id is not null)::int::bigint as batches,
       floor(extract(epoch from b.created_at - t.due_at) * 1000)::bigint as late_ms,
       b.total_jobs::bigint as total_jobs, b.succeeded_jobs::bigint as succeeded_jobs, b.failed_jobs::bigint as failed_jobs, b.result_hits::bigint as result_hits,
       b.coalesced::bigint as coalesced, b.gateway_hits::bigint as gateway_hits, b.calls::bigint as calls, b.unpriced_calls::bigint as unpriced_calls,
       b.input_tokens, b.cached_input_tokens, b.output_tokens, b.cost_microusd
from schedules s
join report_projects p on p.id = s.project_id
join ticks t on t.schedule_id = s.id
left join reports.batches b on b.batch_id = t.batch_id;
comment on view reports.schedule_runs is 'One row each time that a schedule was due: what came of it, how late, and what its batch cost. Kept for 400 days, and as long as the schedule.';
comment on column reports.schedule_runs.project_id is 'Owner.';
comment on column reports.schedule_runs.project is 'Name of the owner.';
comment on column reports.schedule_runs.schedule_id is 'The schedule.';
comment on column reports.schedule_runs.schedule is 'Its name; names may repeat.';
comment on column reports.schedule_runs.due_at is 'When it was due; of a manual one, when it was asked for.';
comment on column reports.schedule_runs.day is 'The UTC day of that.';
comment on column reports.schedule_runs.manual is 'Whether a caller asked for it.';
comment on column reports.schedule_runs.state is 'pending, starting, running, ran, skipped, missed or failed.';
comment on column reports.schedule_runs.reason is 'Why there is no batch, or not yet.';
comment on column reports.schedule_runs.attempts is 'How often a worker took it.';
comment on column reports.schedule_runs.start_at is 'When it could be started: due_at with the jitter, and later when a start was tried again.';
comment on column reports.schedule_runs.ended_at is 'When it became final.';
comment on column reports.schedule_runs.batch_id is 'Its batch; null when there is none.';
comment on column reports.schedule_runs.batch_state is 'State of the batch.';
comment on column reports.schedule_runs.submitted_at is 'When the batch was accepted.';
comment on column reports.schedule_runs.finished_at is 'When its last job became final.';
comment on column reports.schedule_runs.ticks is '1: due times, when added up.';
comment on column reports.schedule_runs.batches is '1 when there is a batch, else 0.';
comment on column reports.schedule_runs.late_ms is 'By how many milliseconds the batch was accepted after it was due, jitter and waits for earlier batches included; null without a batch.';
comment on column reports.schedule_runs.total_jobs is 'Jobs of the batch; null without one, as all that follow.';
comment on column reports.schedule_runs.succeeded_jobs is 'Jobs that succeeded.';
comment on column reports.schedule_runs.failed_jobs is 'Jobs that failed.';
comment on column reports.schedule_runs.result_hits is 'Jobs answered from the durable result cache.';
comment on column reports.schedule_runs.coalesced is 'Jobs answered by an identical job.';
comment on column reports.schedule_runs.gateway_hits is 'Jobs that the gateway answered from its cache.';
comment on column reports.schedule_runs.calls is 'Rows of the call ledger.';
comment on column reports.schedule_runs.unpriced_calls is 'Settled calls whose cost is unknown.';
comment on column reports.schedule_runs.input_tokens is 'Prompt tokens of all calls, cached ones included.';
comment on column reports.schedule_runs.cached_input_tokens is 'Prompt tokens served by providers'' prefix caches.';
comment on column reports.schedule_runs.output_tokens is 'Generated tokens of all calls.';
comment on column reports.schedule_runs.cost_microusd is 'Known cost of all calls.';

-- budget_charges read a project's calls once for each period of each budget. Now they are read once, cut at every edge of a period (of all
-- budgets of the project and its keys, or of one batch), and each period adds up the pieces between its own. The other arms of the view stay.
-- +goose StatementBegin
do $$
declare
    arms text[] := regexp_split_to_array(rtrim(pg_get_viewdef('ledger_faults'::regclass), '; '), '\s+UNION ALL\s+');
begin
    if arms[6] not like '%budget_charges%' then
        raise exception 'ledger_faults is not as migration 6 made it';
    end if;
    arms[6] := $arm$
select 'budget_charges', o.project_id, o.batch_id, null::integer, f.budget_id, f.detail
from (select g.project_id, g.batch_id, array_agg(distinct g.id) as budgets, array_agg(distinct e.at order by e.at) as edges
      from budgets g join budget_periods p on p.budget_id = g.id cross join lateral (values (p.starts_at), (p.ends_at)) e(at)
      group by g.project_id, g.batch_id) o
cross join lateral (
    with pieces as materialized (
        select b.api_key_id, o.edges[width_bucket(c.started_at, o.edges)] as starts_at,
               coalesce(sum(c.reserved_microusd) filter (where c.state = 'intent'), 0) as reserved,
               coalesce(sum(coalesce(c.cost_microusd, c.reserved_microusd)) filter (where c.state <> 'intent'), 0) as spent
        from batches b join calls c on c.batch_id = b.id
        where b.project_id = o.project_id and b.id between coalesce(o.batch_id, '00000000-0000-0000-0000-000000000000')
            and coalesce(o.batch_id, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
        group by 1, 2)
    select g.id as budget_id, format('the period from %s says %s reserved and %s spent, its calls say %s and %s', p.starts_at, p.reserved_microusd + s.reserved,
               p.spent_microusd + s.spent, c.reserved, c.spent) as detail
    from budgets g
    join budget_periods p on p.budget_id = g.id
    cross join lateral (select coalesce(sum(reserved_microusd), 0) as reserved, coalesce(sum(spent_microusd), 0) as spent
        from budget_slice_totals s where s.budget_id = p.budget_id and s.starts_at = p.starts_at) s
    cross join lateral (select coalesce(sum(c.reserved), 0) as reserved, coalesce(sum(c.spent), 0) as spent from pieces c
        where c.starts_at >= p.starts_at and c.starts_at < p.ends_at and (g.api_key_id is null or g.api_key_id = c.api_key_id)) c
    where g.id = any(o.budgets) and (p.reserved_microusd + s.reserved <> c.reserved or p.spent_microusd + s.spent < c.spent
        or p.spent_microusd + s.spent > c.spent and not exists (select 1 from batches b where b.project_id = g.project_id
            and (g.api_key_id is null or g.api_key_id = b.api_key_id) and (g.batch_id is null or g.batch_id = b.id)
            and b.purged_at is not null and b.finished_at >= p.starts_at))) f$arm$;
    execute 'create or replace view ledger_faults as ' || array_to_string(arms, ' union all ');
end $$;
-- +goose StatementEnd

alter table ticks add column run_key text;
comment on column ticks.run_key is 'Idempotency key of the request that asked for it.';
create unique index ticks_run_key on ticks (schedule_id, run_key) where run_key is not null; -- RunSchedule: a repeat finds the tick

-- The views of earlier versions have their grants; whoever migrates now may be another role than then.
-- +goose StatementBegin
do $$ begin
    if exists (select 1 from pg_roles where rolname = 'batchwright_reports') then
        grant select on reports.schedule_runs to batchwright_reports;
    end if;
end $$;
-- +goose StatementEnd

-- +goose Down
drop index ticks_run_key;
alter table ticks drop column run_key;
drop view reports.schedule_runs;
-- +goose StatementBegin
do $$
declare
    arms text[] := regexp_split_to_array(rtrim(pg_get_viewdef('ledger_faults'::regclass), '; '), '\s+UNION ALL\s+');
begin
    arms[6] := $arm$
select 'budget_charges', g.project_id, g.batch_id, null::integer, g.id,
       format('the period from %s says %s reserved and %s spent, its calls say %s and %s', p.starts_at, p.reserved_microusd + s.reserved,
           p.spent_microusd + s.spent, c.reserved, c.spent)
from budgets g
join budget_periods p on p.budget_id = g.id
cross join lateral (select coalesce(sum(reserved_microusd), 0) as reserved, coalesce(sum(spent_microusd), 0) as spent
    from budget_slice_totals s where s.budget_id = p.budget_id and s.starts_at = p.starts_at) s
cross join lateral (select coalesce(sum(c.reserved_microusd) filter (where c.state = 'intent'), 0) as reserved,
        coalesce(sum(coalesce(c.cost_microusd, c.reserved_microusd)) filter (where c.state <> 'intent'), 0) as spent
    from batches b join calls c on c.batch_id = b.id and c.started_at >= p.starts_at and c.started_at < p.ends_at
    where b.project_id = g.project_id and (g.api_key_id is null or g.api_key_id = b.api_key_id) and (g.batch_id is null or g.batch_id = b.id)) c
where p.reserved_microusd + s.reserved <> c.reserved or p.spent_microusd + s.spent < c.spent
    or p.spent_microusd + s.spent > c.spent and not exists (select 1 from batches b where b.project_id = g.project_id
        and (g.api_key_id is null or g.api_key_id = b.api_key_id) and (g.batch_id is null or g.batch_id = b.id)
        and b.purged_at is not null and b.finished_at >= p.starts_at)$arm$;
    execute 'create or replace view ledger_faults as ' || array_to_string(arms, ' union all ');
end $$;
-- +goose StatementEnd
create or replace view reports.cost_drift with (security_barrier) as
select b.project_id, p.name as project, (c.started_at at time zone 'UTC')::date as day, c.provider, c.model, count(*) as calls,
       count(*) filter (where l.id is null) as unlogged_calls,
       count(*) filter (where l.id is not null and (c.cost_microusd is null or l.cost_nano_usd is null)) as unknown_calls,
       count(*) filter (where c.cost_microusd is not null and l.cost_nano_usd is not null) as compared_calls,
       coalesce(sum(c.cost_microusd) filter (where l.cost_nano_usd is not null), 0)::bigint * 1000 as cost_nanousd,
       coalesce(sum(l.cost_nano_usd) filter (where c.cost_microusd is not null), 0)::bigint as gateway_cost_nanousd,
       coalesce(sum(c.cost_microusd * 1000 - l.cost_nano_usd), 0)::bigint as drift_nanousd
from calls c
join batches b on b.id = c.batch_id
join report_projects p on p.id = b.project_id
left join gateway_logs l on l.id = case when c.gateway_log_id ~ '^[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}$' then c.gateway_log_id::uuid end
where c.state = 'settled' and c.gateway_log_id is not null
group by 1, 2, 3, 4, 5;
create or replace view reports.savings with (security_barrier) as
select b.project_id, p.name as project, b.id as batch_id, b.name as batch, (b.created_at at time zone 'UTC')::date as day, s.saving, s.provider, s.model,
       s.uses, s.unknown, s.input_tokens, s.output_tokens, s.saved_microusd
from (
    select j.batch_id, case j.cache_status when 'result_hit' then 'result_cache' else 'coalesced' end as saving, c.provider, c.model, count(*) as uses,
           count(*) filter (where c.cost_microusd is null) as unknown, coalesce(sum(c.input_tokens), 0)::bigint as input_tokens,
           coalesce(sum(c.output_tokens), 0)::bigint as output_tokens, coalesce(sum(c.cost_microusd), 0)::bigint as saved_microusd
    from jobs j join batches b on b.id = j.batch_id
    join completions c on c.project_id = b.project_id and c.key = j.result_key and c.generation = j.result_generation
    where j.cache_status in ('result_hit', 'coalesced') and j.state = 'succeeded'
    group by 1, 2, 3, 4
    union all
    select c.batch_id, 'gateway_cache', c.provider, c.model, count(*), count(*) filter (where n.replayed_microusd is null),
           coalesce(sum(n.replayed_input_tokens), 0)::bigint, coalesce(sum(n.replayed_output_tokens), 0)::bigint, coalesce(sum(n.replayed_microusd), 0)::bigint
    from calls c left join call_notes n on n.batch_id = c.batch_id and n.seq = c.seq and n.ticket_id = c.ticket_id and n.number = c.number
    where c.gateway_cache_status = 'HIT' and c.state = 'settled'
    group by 1, 2, 3, 4
    union all
    select c.batch_id, 'prefix_cache', c.provider, c.model, count(*), count(*) filter (where r.id is null), coalesce(sum(c.cached_input_tokens), 0)::bigint, 0,
           coalesce(sum(call_cost(r, c.input_tokens, 0, 0, 0) - call_cost(r, c.input_tokens, c.cached_input_tokens, coalesce(c.cache_write_tokens, 0), 0)), 0)::bigint
    from (select c.batch_id, c.provider, c.model, (c.started_at at time zone 'UTC')::date as day
          from calls c where c.state = 'settled' and (c.cached_input_tokens > 0 or c.cache_write_tokens > 0) group by 1, 2, 3, 4) g
    join batches b on b.id = g.batch_id
    left join lateral price_at(b.project_id, g.provider, g.model, g.day) r on true
    join calls c on c.batch_id = g.batch_id and c.provider = g.provider and c.model = g.model and (c.started_at at time zone 'UTC')::date = g.day
    where c.state = 'settled' and (c.cached_input_tokens > 0 or c.cache_write_tokens > 0)
    group by 1, 2, 3, 4) s
join batches b on b.id = s.batch_id
join report_projects p on p.id = b.project_id;
drop view drift_usage, saving_usage;
-- +goose StatementBegin
create or replace function price_at(project uuid, provider text, model text, day date) returns setof prices language sql stable rows 1
security definer set search_path = public, pg_temp as $$
select p.* from prices p
join (select 1, $3 union all
      select 2, left($3, -length(d)) from substring($3 from '.(-20[2-9][0-9]-(?:0[1-9]|1[0-2])-[0-9]{2}|[-@]20[2-9][0-9](?:0[1-9]|1[0-2])[0-9]{2})$') as d
      where case when d is not null then right(d, 2)::int between 1
          and extract(day from (left(translate(d, '-@', ''), 6) || '01')::date + interval '1 month' - interval '1 day') else false end
      union all select 3, '*') n(rank, name) on p.model = n.name
where p.provider = $2 and (p.project_id = $1 or p.project_id is null) and p.valid_from <= $4 and coalesce(p.valid_to > $4, true)
order by n.rank, p.project_id is null, p.valid_from desc limit 1
$$;
-- +goose StatementEnd
drop trigger batch_recounted on batches;
-- +goose StatementBegin
create or replace function batch_recounted() returns trigger language plpgsql as $$ begin
    new.usage_at := null;
    return new;
end $$;
-- +goose StatementEnd
create trigger batch_recounted before update of finished_at, calls, cost_microusd on batches
    for each row when (old.usage_at is not null and old.purged_at is null) execute function batch_recounted();
drop table usage_drift, usage_savings;
drop index batches_undrifted;
alter table batches drop column drift_at;
comment on column batches.usage_at is 'When its calls were summed up in usage_calls; null while the ledger itself has to be read.';
