-- How submissions come in by parts, and how what is old goes.
-- +goose Up
alter table batches
    add column upload_id uuid,
    add column purging boolean not null default false;
comment on column batches.upload_id is 'The request that adds jobs to it, or whose rows are still to be removed: the fencing token of every part. Null while none does.';
comment on column batches.purging is 'Rows of it are still to be removed, though purged_at is set.';
create index batches_uploads on batches (id) where upload_id is not null; -- StaleUploads: a few at most, looked for every few seconds
create index batches_purging on batches (id) where purging;               -- NextPurge: purges that broke off
-- NextPurge: the oldest batch of a project that keeps its batches for some days only.
create index batches_retention on batches (project_id, finished_at) where finished_at is not null and purged_at is null;

alter table projects add column retention_days integer constraint projects_retention check (retention_days > 0);
comment on column projects.retention_days is 'Days after its end when a batch is purged; null for never.';

-- RemoveDocuments: does another job refer to the document? Partial: jobs of kinds without documents don't pay for it.
create index inputs_documents on inputs (document_sha256) where document_sha256 is not null;

create table kept_costs (
    project_id          uuid    not null references projects,
    day                 date    not null,
    kind                text    not null,
    provider            text    not null,
    model               text    not null,
    calls               bigint  not null,
    failed_calls        bigint  not null,
    uncertain_calls     bigint  not null,
    unpriced_calls      bigint  not null,
    gateway_hits        bigint  not null,
    input_tokens        bigint  not null,
    cached_input_tokens bigint  not null,
    output_tokens       bigint  not null,
    cost_microusd       bigint  not null,
    reserved_microusd   bigint  not null,
    primary key (project_id, day, kind, provider, model)
);
comment on table kept_costs is 'Sums of purged calls; with the calls that are there they make reports.daily_costs.';
comment on column kept_costs.project_id is 'Owner.';
comment on column kept_costs.day is 'UTC day on which the calls started.';
comment on column kept_costs.kind is 'Kind of their batches.';
comment on column kept_costs.provider is 'Provider.';
comment on column kept_costs.model is 'Model asked for.';
comment on column kept_costs.calls is 'How many they were.';
comment on column kept_costs.failed_calls is 'Calls that ended in an error.';
comment on column kept_costs.uncertain_calls is 'Calls whose outcome was lost.';
comment on column kept_costs.unpriced_calls is 'Settled calls whose cost is unknown.';
comment on column kept_costs.gateway_hits is 'Calls that the gateway answered from its cache.';
comment on column kept_costs.input_tokens is 'Prompt tokens, cached ones included.';
comment on column kept_costs.cached_input_tokens is 'Prompt tokens served by the provider''s prefix cache.';
comment on column kept_costs.output_tokens is 'Generated tokens.';
comment on column kept_costs.cost_microusd is 'Known cost, in millionths of a US dollar.';
comment on column kept_costs.reserved_microusd is 'Worst case of calls that were not settled, in millionths of a US dollar.';

create or replace view reports.daily_costs as
select u.project_id, p.name as project, u.day, u.kind, u.provider, u.model,
       sum(u.calls)::bigint as calls, sum(u.failed_calls)::bigint as failed_calls, sum(u.uncertain_calls)::bigint as uncertain_calls,
       sum(u.unpriced_calls)::bigint as unpriced_calls, sum(u.gateway_hits)::bigint as gateway_hits,
       sum(u.input_tokens)::bigint as input_tokens, sum(u.cached_input_tokens)::bigint as cached_input_tokens,
       sum(u.output_tokens)::bigint as output_tokens, sum(u.cost_microusd)::bigint as cost_microusd,
       sum(u.reserved_microusd)::bigint as reserved_microusd
from (
    select b.project_id, (c.started_at at time zone 'UTC')::date as day, b.kind, c.provider, c.model,
           count(*) as calls, count(*) filter (where c.error_class is not null) as failed_calls,
           count(*) filter (where c.state = 'uncertain') as uncertain_calls,
           count(*) filter (where c.state = 'settled' and c.cost_microusd is null) as unpriced_calls,
           count(*) filter (where c.gateway_cache_status = 'HIT') as gateway_hits,
           coalesce(sum(c.input_tokens), 0)::bigint as input_tokens,
           coalesce(sum(c.cached_input_tokens), 0)::bigint as cached_input_tokens,
           coalesce(sum(c.output_tokens), 0)::bigint as output_tokens,
           coalesce(sum(c.cost_microusd), 0)::bigint as cost_microusd,
           coalesce(sum(c.reserved_microusd) filter (where c.state <> 'settled'), 0)::bigint as reserved_microusd
    from calls c join batches b on b.id = c.batch_id
    group by 1, 2, 3, 4, 5
    union all
    select project_id, day, kind, provider, model, calls, failed_calls, uncertain_calls, unpriced_calls, gateway_hits,
           input_tokens, cached_input_tokens, output_tokens, cost_microusd, reserved_microusd
    from kept_costs) u
join projects p on p.id = u.project_id
group by 1, 2, 3, 4, 5, 6;
comment on view reports.daily_costs is 'Calls, tokens and money by UTC day, kind, provider and model, from the call ledger and the sums of what was purged.';

-- Postgres looks after a table when a fifth of it has changed, gently. On tables of a hundred million rows that is too late and too slow:
-- dead rows of a whole night would be read by every claim. A twentieth, and ten times the default pace, keep each round short.
alter table jobs set (autovacuum_vacuum_cost_limit = 2000);
alter table calls set (autovacuum_vacuum_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.05, autovacuum_vacuum_cost_limit = 2000);
-- Written once, then read and purged in ranges: fresh pages are marked as visible and frozen while they are still in memory.
alter table inputs set (autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_insert_scale_factor = 0.05,
    autovacuum_analyze_scale_factor = 0.05, autovacuum_vacuum_cost_limit = 2000);
alter table completions set (autovacuum_vacuum_insert_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.05,
    autovacuum_vacuum_cost_limit = 2000);
-- Few rows, each updated by every part that comes in and every dispatch: room for updates in place, and a vacuum after some hundreds of them.
alter table batches set (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);

-- +goose Down
alter table batches reset (fillfactor, autovacuum_vacuum_scale_factor, autovacuum_vacuum_threshold);
alter table completions reset (autovacuum_vacuum_insert_scale_factor, autovacuum_analyze_scale_factor, autovacuum_vacuum_cost_limit);
alter table inputs reset (autovacuum_vacuum_scale_factor, autovacuum_vacuum_insert_scale_factor, autovacuum_analyze_scale_factor,
    autovacuum_vacuum_cost_limit);
alter table calls reset (autovacuum_vacuum_scale_factor, autovacuum_analyze_scale_factor, autovacuum_vacuum_cost_limit);
alter table jobs reset (autovacuum_vacuum_cost_limit);
create or replace view reports.daily_costs as
select b.project_id, p.name as project, (c.started_at at time zone 'UTC')::date as day, b.kind, c.provider, c.model,
       count(*) as calls, count(*) filter (where c.error_class is not null) as failed_calls,
       count(*) filter (where c.state = 'uncertain') as uncertain_calls,
       count(*) filter (where c.state = 'settled' and c.cost_microusd is null) as unpriced_calls,
       count(*) filter (where c.gateway_cache_status = 'HIT') as gateway_hits,
       coalesce(sum(c.input_tokens), 0)::bigint as input_tokens,
       coalesce(sum(c.cached_input_tokens), 0)::bigint as cached_input_tokens,
       coalesce(sum(c.output_tokens), 0)::bigint as output_tokens,
       coalesce(sum(c.cost_microusd), 0)::bigint as cost_microusd,
       coalesce(sum(c.reserved_microusd) filter (where c.state <> 'settled'), 0)::bigint as reserved_microusd
from calls c
join batches b on b.id = c.batch_id
join projects p on p.id = b.project_id
group by 1, 2, 3, 4, 5, 6;
drop table kept_costs;
drop index inputs_documents, batches_retention, batches_purging, batches_uploads;
alter table projects drop column retention_days;
alter table batches drop column upload_id, drop column purging;
