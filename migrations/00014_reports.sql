-- Reports over millions of calls answer at once: the calls of a finished batch are summed up once, by hour, provider, model, class of error and
-- latency, and views read these sums for batches that have them and the ledger itself for the others. So a view is right at any moment, whether or
-- not the worker has come to sum up. What rewrites the ledger of a finished batch (a late outcome, a retry, a reprice) rewrites its frozen counts
-- as well, and that throws its sums away, in the same transaction, until they are made anew.
-- +goose Up
alter table batches add column usage_at timestamptz;
comment on column batches.usage_at is 'When its calls were summed up in usage_calls; null while the ledger itself has to be read.';
update batches set usage_at = now() where purged_at is not null and not purging; -- their sums are in kept_costs, and stay there
create index batches_unrolled on batches (project_id, id) where usage_at is null; -- NextUsage, and the live half of the reports: a few batches

create table usage_calls (
    batch_id            uuid        not null,
    hour                timestamptz not null,
    provider            text        not null,
    model               text        not null,
    error_class         text        not null,
    latency_bucket      smallint    not null,
    calls               bigint      not null,
    uncertain_calls     bigint      not null,
    unpriced_calls      bigint      not null,
    gateway_hits        bigint      not null,
    input_tokens        bigint      not null,
    cached_input_tokens bigint      not null,
    cache_write_tokens  bigint      not null,
    output_tokens       bigint      not null,
    cost_microusd       bigint      not null,
    reserved_microusd   bigint      not null,
    primary key (batch_id, hour, provider, model, error_class, latency_bucket)
);
comment on table usage_calls is 'Sums of the calls of finished batches, valid while batches.usage_at is set. They outlive a purge.';
comment on column usage_calls.batch_id is 'The batch.';
comment on column usage_calls.hour is 'UTC hour in which the calls started.';
comment on column usage_calls.provider is 'Provider.';
comment on column usage_calls.model is 'Model asked for.';
comment on column usage_calls.error_class is 'Class of the failure; empty for none.';
comment on column usage_calls.latency_bucket is 'b: above 1.05 to the power of b-1 milliseconds, up to 1.05 to the power of b; -1 for calls that no provider answered well.';
comment on column usage_calls.calls is 'How many they were.';
comment on column usage_calls.uncertain_calls is 'Calls whose outcome was lost.';
comment on column usage_calls.unpriced_calls is 'Settled calls whose cost is unknown.';
comment on column usage_calls.gateway_hits is 'Calls that the gateway answered from its cache.';
comment on column usage_calls.input_tokens is 'Prompt tokens, cached ones included.';
comment on column usage_calls.cached_input_tokens is 'Prompt tokens served by the provider''s prefix cache.';
comment on column usage_calls.cache_write_tokens is 'Prompt tokens written to that cache.';
comment on column usage_calls.output_tokens is 'Generated tokens.';
comment on column usage_calls.cost_microusd is 'Known cost, in millionths of a US dollar.';
comment on column usage_calls.reserved_microusd is 'Worst case of calls that were not settled, in millionths of a US dollar.';

-- Named columns, so that only statements which write them pay: those that finish, reopen and recount a batch. After a purge there is nothing
-- to make the sums of again.
-- +goose StatementBegin
create function batch_recounted() returns trigger language plpgsql as $$ begin
    new.usage_at := null;
    return new;
end $$;
-- +goose StatementEnd
create trigger batch_recounted before update of finished_at, calls, cost_microusd on batches
    for each row when (old.usage_at is not null and old.purged_at is null) execute function batch_recounted();

-- One row a call of what is not summed up, and one row a sum of what is.
create view call_usage as
select b.project_id, b.id as batch_id, b.kind, b.api_key_id, b.template_id, b.route_id, b.metadata, u.hour, u.provider, u.model, u.error_class,
       u.latency_bucket, u.calls, u.uncertain_calls, u.unpriced_calls, u.gateway_hits, u.input_tokens, u.cached_input_tokens, u.cache_write_tokens,
       u.output_tokens, u.cost_microusd, u.reserved_microusd
from batches b join usage_calls u on u.batch_id = b.id
where b.usage_at is not null
union all
select b.project_id, b.id, b.kind, b.api_key_id, b.template_id, b.route_id, b.metadata, date_trunc('hour', c.started_at, 'UTC'), c.provider, c.model,
       coalesce(c.error_class, ''),
       case when c.latency_ms is not null and c.error_class is null and c.gateway_cache_status is distinct from 'HIT'
           then ceil(ln(greatest(c.latency_ms, 1)::float8) / ln(1.05::float8))::smallint else -1 end,
       1, (c.state = 'uncertain')::int, (c.state = 'settled' and c.cost_microusd is null)::int, (c.gateway_cache_status is not distinct from 'HIT')::int,
       coalesce(c.input_tokens, 0), coalesce(c.cached_input_tokens, 0), coalesce(c.cache_write_tokens, 0), coalesce(c.output_tokens, 0),
       coalesce(c.cost_microusd, 0), case when c.state <> 'settled' then c.reserved_microusd else 0 end
from batches b join calls c on c.batch_id = b.id
where b.usage_at is null;
comment on view call_usage is 'What calls used: sums of batches that have some, single calls of the others. Not of batches purged before there were sums: kept_costs.';
comment on column call_usage.project_id is 'Owner.';
comment on column call_usage.batch_id is 'The batch.';
comment on column call_usage.kind is 'Its kind.';
comment on column call_usage.api_key_id is 'Key that submitted it.';
comment on column call_usage.template_id is 'Its template version.';
comment on column call_usage.route_id is 'Its stored route version.';
comment on column call_usage.metadata is 'Its labels.';
comment on column call_usage.hour is 'UTC hour in which the calls started.';
comment on column call_usage.provider is 'Provider.';
comment on column call_usage.model is 'Model asked for.';
comment on column call_usage.error_class is 'Class of the failure; empty for none.';
comment on column call_usage.latency_bucket is 'As in usage_calls.';
comment on column call_usage.calls is 'How many they were.';
comment on column call_usage.uncertain_calls is 'Calls whose outcome was lost.';
comment on column call_usage.unpriced_calls is 'Settled calls whose cost is unknown.';
comment on column call_usage.gateway_hits is 'Calls that the gateway answered from its cache.';
comment on column call_usage.input_tokens is 'Prompt tokens, cached ones included.';
comment on column call_usage.cached_input_tokens is 'Prompt tokens served by the provider''s prefix cache.';
comment on column call_usage.cache_write_tokens is 'Prompt tokens written to that cache.';
comment on column call_usage.output_tokens is 'Generated tokens.';
comment on column call_usage.cost_microusd is 'Known cost, in millionths of a US dollar.';
comment on column call_usage.reserved_microusd is 'Worst case of calls that are not settled, in millionths of a US dollar.';

create table report_readers (
    login      text not null,
    project_id uuid not null references projects,
    primary key (login, project_id)
);
comment on table report_readers is 'Logins that may see some projects only in the schema reports. A login without a row sees all.';
comment on column report_readers.login is 'Name of the role that logs in (session_user), so SET ROLE changes nothing.';
comment on column report_readers.project_id is 'A project that it sees.';

create view report_projects as
select p.id, p.name from projects p
where not exists (select 1 from report_readers where login = session_user)
    or p.id in (select project_id from report_readers where login = session_user);
comment on view report_projects is 'The projects that whoever is logged in may see in reports.';
comment on column report_projects.id is 'The project.';
comment on column report_projects.name is 'Its name.';

-- The views that there are, and the filter. security_barrier: a reader's own function must not see a row before the filter has.
create or replace view reports.jobs with (security_barrier) as
select b.project_id, p.name as project, b.id as batch_id, b.name as batch, b.kind, i.seq, i.custom_id,
       b.id::text || '-' || i.seq as job_id,
       coalesce(j.state, case when b.state in ('cancelled', 'cancelling', 'expired') then 'cancelled' else 'pending' end) as state,
       j.cache_status, j.attempts, j.calls, j.provider, j.model,
       j.input_tokens, j.cached_input_tokens, j.output_tokens, j.cost_microusd,
       c.cost_microusd as answer_cost_microusd,
       j.error_class, j.error_message, b.created_at as submitted_at, j.finished_at, c.format, c.output
from batches b
join report_projects p on p.id = b.project_id
join inputs i on i.batch_id = b.id
left join jobs j on j.batch_id = b.id and j.seq = i.seq
left join completions c on c.project_id = b.project_id and c.key = j.result_key and c.generation = j.result_generation;

-- +goose StatementBegin
do $$
declare
    view text;
begin
    foreach view in array array['batches', 'savings', 'cost_drift'] loop
        execute format('create or replace view reports.%I with (security_barrier) as %s', view,
            replace(pg_get_viewdef(('reports.' || view)::regclass), 'JOIN projects p', 'JOIN report_projects p'));
    end loop;
end $$;
-- +goose StatementEnd

alter view reports.ledger_check rename to ledger_faults;
alter view reports.ledger_faults set schema public;
create view reports.ledger_check with (security_barrier) as
select f.kind, f.project_id, f.batch_id, f.seq, f.budget_id, f.detail from ledger_faults f where f.project_id in (select id from report_projects);
comment on view reports.ledger_check is 'One row a violation of what must always hold of attempts and money: empty when sound. Quick when restricted to a batch_id.';
comment on column reports.ledger_check.kind is 'job_totals, job_attempts, paid_twice, intent_without_ticket, batch_frozen, budget_charges, budget_overshot, budget_granted or slice_over_grant.';
comment on column reports.ledger_check.project_id is 'Owner.';
comment on column reports.ledger_check.batch_id is 'The batch; null for budgets of other scopes.';
comment on column reports.ledger_check.seq is 'The job within the batch; null when it is not about one.';
comment on column reports.ledger_check.budget_id is 'The budget; null when it is not about one.';
comment on column reports.ledger_check.detail is 'What differs.';

create or replace view reports.daily_costs with (security_barrier) as
select u.project_id, p.name as project, u.day, u.kind, u.provider, u.model,
       sum(u.calls)::bigint as calls, sum(u.failed_calls)::bigint as failed_calls, sum(u.uncertain_calls)::bigint as uncertain_calls,
       sum(u.unpriced_calls)::bigint as unpriced_calls, sum(u.gateway_hits)::bigint as gateway_hits,
       sum(u.input_tokens)::bigint as input_tokens, sum(u.cached_input_tokens)::bigint as cached_input_tokens,
       sum(u.output_tokens)::bigint as output_tokens, sum(u.cost_microusd)::bigint as cost_microusd,
       sum(u.reserved_microusd)::bigint as reserved_microusd
from (
    select project_id, (hour at time zone 'UTC')::date as day, kind, provider, model, calls, case when error_class <> '' then calls else 0 end as failed_calls,
           uncertain_calls, unpriced_calls, gateway_hits, input_tokens, cached_input_tokens, output_tokens, cost_microusd, reserved_microusd
    from call_usage
    union all
    select project_id, day, kind, provider, model, calls, failed_calls, uncertain_calls, unpriced_calls, gateway_hits,
           input_tokens, cached_input_tokens, output_tokens, cost_microusd, reserved_microusd
    from kept_costs) u
join report_projects p on p.id = u.project_id
group by 1, 2, 3, 4, 5, 6;
comment on view reports.daily_costs is 'Calls, tokens and money by UTC day, kind, provider and model, purged batches included.';

create view reports.hourly_costs with (security_barrier) as
select u.project_id, p.name as project, u.hour, (u.hour at time zone 'UTC')::date as day, u.kind, u.api_key_id, k.name as api_key,
       t.name as template, t.version as template_version, r.name as route, r.version as route_version, u.provider, u.model,
       sum(u.calls)::bigint as calls, sum(u.failed_calls)::bigint as failed_calls, sum(u.uncertain_calls)::bigint as uncertain_calls,
       sum(u.unpriced_calls)::bigint as unpriced_calls, sum(u.gateway_hits)::bigint as gateway_hits,
       sum(u.input_tokens)::bigint as input_tokens, sum(u.cached_input_tokens)::bigint as cached_input_tokens,
       sum(u.output_tokens)::bigint as output_tokens, sum(u.cost_microusd)::bigint as cost_microusd,
       sum(u.reserved_microusd)::bigint as reserved_microusd
from (
    select project_id, hour, kind, api_key_id, template_id, route_id, provider, model, calls,
           case when error_class <> '' then calls else 0 end as failed_calls, uncertain_calls, unpriced_calls, gateway_hits, input_tokens,
           cached_input_tokens, output_tokens, cost_microusd, reserved_microusd
    from call_usage
    union all
    select project_id, day::timestamp at time zone 'UTC', kind, null, null, null, provider, model, calls, failed_calls, uncertain_calls,
           unpriced_calls, gateway_hits, input_tokens, cached_input_tokens, output_tokens, cost_microusd, reserved_microusd
    from kept_costs) u
join report_projects p on p.id = u.project_id
left join api_keys k on k.id = u.api_key_id
left join templates t on t.id = u.template_id
left join routes r on r.id = u.route_id
group by u.project_id, p.name, u.hour, u.kind, u.api_key_id, k.name, t.name, t.version, r.name, r.version, u.provider, u.model;
comment on view reports.hourly_costs is 'Calls, tokens and money by UTC hour, API key, template, route, provider and model. Of batches purged before version 14, only the day is known: hour 0, without key, template and route.';
comment on column reports.hourly_costs.project_id is 'Owner.';
comment on column reports.hourly_costs.project is 'Name of the owner.';
comment on column reports.hourly_costs.hour is 'UTC hour in which the calls started.';
comment on column reports.hourly_costs.day is 'Its UTC day.';
comment on column reports.hourly_costs.kind is 'summarize, generate or chat.';
comment on column reports.hourly_costs.api_key_id is 'API key that submitted the batch.';
comment on column reports.hourly_costs.api_key is 'Name of that key; names may repeat.';
comment on column reports.hourly_costs.template is 'Template name; null for kinds without one.';
comment on column reports.hourly_costs.template_version is 'Template version.';
comment on column reports.hourly_costs.route is 'Route name; null when given inline.';
comment on column reports.hourly_costs.route_version is 'Route version.';
comment on column reports.hourly_costs.provider is 'Provider.';
comment on column reports.hourly_costs.model is 'Model asked for.';
comment on column reports.hourly_costs.calls is 'Rows of the call ledger.';
comment on column reports.hourly_costs.failed_calls is 'Calls that ended in an error.';
comment on column reports.hourly_costs.uncertain_calls is 'Calls whose outcome was lost.';
comment on column reports.hourly_costs.unpriced_calls is 'Settled calls whose cost is unknown.';
comment on column reports.hourly_costs.gateway_hits is 'Calls that the gateway answered from its cache.';
comment on column reports.hourly_costs.input_tokens is 'Prompt tokens, cached ones included.';
comment on column reports.hourly_costs.cached_input_tokens is 'Prompt tokens served by the provider''s prefix cache.';
comment on column reports.hourly_costs.output_tokens is 'Generated tokens.';
comment on column reports.hourly_costs.cost_microusd is 'Known cost.';
comment on column reports.hourly_costs.reserved_microusd is 'Worst case of calls that are not settled: may have been billed.';

create view reports.tag_costs with (security_barrier) as
select u.project_id, p.name as project, (u.hour at time zone 'UTC')::date as day, m.key as tag, m.value, u.kind, u.provider, u.model,
       sum(u.calls)::bigint as calls, sum(u.unpriced_calls)::bigint as unpriced_calls, sum(u.input_tokens)::bigint as input_tokens,
       sum(u.cached_input_tokens)::bigint as cached_input_tokens, sum(u.output_tokens)::bigint as output_tokens,
       sum(u.cost_microusd)::bigint as cost_microusd
from call_usage u
join report_projects p on p.id = u.project_id
cross join lateral jsonb_each_text(u.metadata) m
group by 1, 2, 3, 4, 5, 6, 7, 8;
comment on view reports.tag_costs is 'Calls, tokens and money by UTC day and label of the batch (metadata). A batch with two labels counts under each: restrict to one tag before summing.';
comment on column reports.tag_costs.project_id is 'Owner.';
comment on column reports.tag_costs.project is 'Name of the owner.';
comment on column reports.tag_costs.day is 'UTC day on which the calls started.';
comment on column reports.tag_costs.tag is 'Name of the label.';
comment on column reports.tag_costs.value is 'Its value, as text.';
comment on column reports.tag_costs.kind is 'summarize, generate or chat.';
comment on column reports.tag_costs.provider is 'Provider.';
comment on column reports.tag_costs.model is 'Model asked for.';
comment on column reports.tag_costs.calls is 'Rows of the call ledger.';
comment on column reports.tag_costs.unpriced_calls is 'Settled calls whose cost is unknown.';
comment on column reports.tag_costs.input_tokens is 'Prompt tokens, cached ones included.';
comment on column reports.tag_costs.cached_input_tokens is 'Prompt tokens served by the provider''s prefix cache.';
comment on column reports.tag_costs.output_tokens is 'Generated tokens.';
comment on column reports.tag_costs.cost_microusd is 'Known cost.';

create view reports.calls with (security_barrier) as
select b.project_id, p.name as project, b.id as batch_id, b.name as batch, b.kind, c.seq, b.id::text || '-' || c.seq as job_id, c.ticket_id, c.number,
       c.state, c.late, c.step, c.provider, c.model, c.answered_by, c.error_class, c.http_status, c.finish_reason, c.gateway_cache_status,
       c.gateway_log_id, c.input_tokens, c.cached_input_tokens, c.cache_write_tokens, c.output_tokens, c.cost_microusd, c.reserved_microusd,
       c.latency_ms, b.created_at as submitted_at, c.started_at, c.settled_at
from batches b
join report_projects p on p.id = b.project_id
join calls c on c.batch_id = b.id;
comment on view reports.calls is 'The call ledger: one row a send. Purged with its batch.';
comment on column reports.calls.project_id is 'Owner.';
comment on column reports.calls.project is 'Name of the owner.';
comment on column reports.calls.batch_id is 'The batch.';
comment on column reports.calls.batch is 'Name of the batch.';
comment on column reports.calls.kind is 'summarize, generate or chat.';
comment on column reports.calls.seq is 'The job''s position in the submission, from 1.';
comment on column reports.calls.job_id is 'The job''s id as the API shows it.';
comment on column reports.calls.ticket_id is 'Tells attempts of different workers apart.';
comment on column reports.calls.number is 'Counts the sends of the job under one ticket, from 1.';
comment on column reports.calls.state is 'intent, settled or uncertain.';
comment on column reports.calls.late is 'The outcome came after the worker had been given up.';
comment on column reports.calls.step is 'Step of the route, from 0.';
comment on column reports.calls.provider is 'Provider.';
comment on column reports.calls.model is 'Model asked for.';
comment on column reports.calls.answered_by is 'Model as the provider reported it.';
comment on column reports.calls.error_class is 'Class of the failure; null for a good answer.';
comment on column reports.calls.http_status is 'Status of the answer; null when none came.';
comment on column reports.calls.finish_reason is 'Why the model stopped.';
comment on column reports.calls.gateway_cache_status is 'HIT or MISS of the gateway''s response cache; null when it did not say.';
comment on column reports.calls.gateway_log_id is 'The call''s id in the gateway''s log.';
comment on column reports.calls.input_tokens is 'Prompt tokens, cached ones included.';
comment on column reports.calls.cached_input_tokens is 'Prompt tokens served by the provider''s prefix cache.';
comment on column reports.calls.cache_write_tokens is 'Prompt tokens written to that cache.';
comment on column reports.calls.output_tokens is 'Generated tokens, reasoning included.';
comment on column reports.calls.cost_microusd is 'Cost; null when unknown.';
comment on column reports.calls.reserved_microusd is 'Worst case, which stands until the call is settled.';
comment on column reports.calls.latency_ms is 'From the first byte sent to the last byte read.';
comment on column reports.calls.submitted_at is 'When the batch was accepted.';
comment on column reports.calls.started_at is 'When the intent was written.';
comment on column reports.calls.settled_at is 'When the outcome was written.';

create view reports.cache_effectiveness with (security_barrier) as
select b.project_id, b.project, (b.created_at at time zone 'UTC')::date as day, b.kind, b.template, b.template_version, b.route, b.route_version,
       count(*) as batches, sum(b.total_jobs)::bigint as jobs, sum(b.result_hits)::bigint as result_hits, sum(b.coalesced)::bigint as coalesced,
       sum(b.gateway_hits)::bigint as gateway_hits, sum(b.misses)::bigint as misses, sum(b.bypassed)::bigint as bypassed,
       sum(b.calls)::bigint as calls, sum(b.input_tokens)::bigint as input_tokens, sum(b.cached_input_tokens)::bigint as cached_input_tokens
from reports.batches b
group by 1, 2, 3, 4, 5, 6, 7, 8;
comment on view reports.cache_effectiveness is 'Jobs by cache verdict, and prompt tokens that providers'' prefix caches served, by UTC day of submission, template and route. The kinds of hits are apart: they save different things.';
comment on column reports.cache_effectiveness.project_id is 'Owner.';
comment on column reports.cache_effectiveness.project is 'Name of the owner.';
comment on column reports.cache_effectiveness.day is 'UTC day on which the batches were accepted.';
comment on column reports.cache_effectiveness.kind is 'summarize, generate or chat.';
comment on column reports.cache_effectiveness.template is 'Template name; null for kinds without one.';
comment on column reports.cache_effectiveness.template_version is 'Template version.';
comment on column reports.cache_effectiveness.route is 'Route name; null when given inline.';
comment on column reports.cache_effectiveness.route_version is 'Route version.';
comment on column reports.cache_effectiveness.batches is 'Batches submitted.';
comment on column reports.cache_effectiveness.jobs is 'Jobs submitted.';
comment on column reports.cache_effectiveness.result_hits is 'Jobs answered from the durable result cache.';
comment on column reports.cache_effectiveness.coalesced is 'Jobs answered by an identical job.';
comment on column reports.cache_effectiveness.gateway_hits is 'Jobs that the gateway answered from its cache.';
comment on column reports.cache_effectiveness.misses is 'Jobs that a provider answered.';
comment on column reports.cache_effectiveness.bypassed is 'Jobs that were told to read no cache.';
comment on column reports.cache_effectiveness.calls is 'Rows of the call ledger.';
comment on column reports.cache_effectiveness.input_tokens is 'Prompt tokens, cached ones included.';
comment on column reports.cache_effectiveness.cached_input_tokens is 'Prompt tokens served by providers'' prefix caches.';

create view reports.latency_histogram with (security_barrier) as
select u.project_id, p.name as project, (u.hour at time zone 'UTC')::date as day, u.kind, u.provider, u.model,
       greatest(round(power(1.05::float8, u.latency_bucket - 0.5)), 1)::int as latency_ms, sum(u.calls)::bigint as calls
from call_usage u
join report_projects p on p.id = u.project_id
where u.latency_bucket >= 0
group by u.project_id, p.name, 3, u.kind, u.provider, u.model, u.latency_bucket;
comment on view reports.latency_histogram is 'Good answers of providers by latency, in steps of 5 %. What the gateway answered from its cache is not in it.';
comment on column reports.latency_histogram.project_id is 'Owner.';
comment on column reports.latency_histogram.project is 'Name of the owner.';
comment on column reports.latency_histogram.day is 'UTC day on which the calls started.';
comment on column reports.latency_histogram.kind is 'summarize, generate or chat.';
comment on column reports.latency_histogram.provider is 'Provider.';
comment on column reports.latency_histogram.model is 'Model asked for.';
comment on column reports.latency_histogram.latency_ms is 'Milliseconds, to within 2.5 %, or half a millisecond below twenty.';
comment on column reports.latency_histogram.calls is 'How many took so long.';

create view reports.latencies with (security_barrier) as
select project_id, project, day, provider, model, sum(calls)::bigint as calls, min(latency_ms) filter (where upto >= total * 0.5) as p50_ms,
       min(latency_ms) filter (where upto >= total * 0.9) as p90_ms, min(latency_ms) filter (where upto >= total * 0.95) as p95_ms,
       min(latency_ms) filter (where upto >= total * 0.99) as p99_ms, max(latency_ms) as max_ms
from (select project_id, project, day, provider, model, latency_ms, calls,
          sum(calls) over (partition by project_id, project, day, provider, model order by latency_ms) as upto,
          sum(calls) over (partition by project_id, project, day, provider, model) as total
      from (select project_id, project, day, provider, model, latency_ms, sum(calls) as calls from reports.latency_histogram group by 1, 2, 3, 4, 5, 6) h) c
group by 1, 2, 3, 4, 5;
comment on view reports.latencies is 'Percentiles of the latency of providers'' good answers by UTC day, provider and model. Percentiles of longer spans: GET /v1/reports/latencies, or from latency_histogram.';
comment on column reports.latencies.project_id is 'Owner.';
comment on column reports.latencies.project is 'Name of the owner.';
comment on column reports.latencies.day is 'UTC day on which the calls started.';
comment on column reports.latencies.provider is 'Provider.';
comment on column reports.latencies.model is 'Model asked for.';
comment on column reports.latencies.calls is 'Good answers.';
comment on column reports.latencies.p50_ms is 'Half of them took no longer, to within 2.5 %.';
comment on column reports.latencies.p90_ms is 'Nine of ten took no longer.';
comment on column reports.latencies.p95_ms is 'Nineteen of twenty took no longer.';
comment on column reports.latencies.p99_ms is 'All but one in a hundred took no longer.';
comment on column reports.latencies.max_ms is 'The longest.';

create view reports.failures with (security_barrier) as
select f.project_id, p.name as project, f.scope, f.day, f.kind, f.error_class, f.provider, f.model, sum(f.failures)::bigint as failures
from (
    select 'call' as scope, project_id, (hour at time zone 'UTC')::date as day, kind, error_class, provider, model, calls as failures
    from call_usage where error_class <> ''
    union all
    select 'job', b.project_id, (j.finished_at at time zone 'UTC')::date, b.kind, j.error_class, j.provider, j.model, 1
    from batches b join jobs j on j.batch_id = b.id
    where j.state = 'failed' and j.error_class is not null) f
join report_projects p on p.id = f.project_id
group by 1, 2, 3, 4, 5, 6, 7, 8;
comment on view reports.failures is 'Failures by class: of calls, which a retry or another step may have made good, and of jobs, which are final. Failed jobs are purged with their batch.';
comment on column reports.failures.project_id is 'Owner.';
comment on column reports.failures.project is 'Name of the owner.';
comment on column reports.failures.scope is 'call or job: never to be added up.';
comment on column reports.failures.day is 'UTC day on which the call started or the job failed.';
comment on column reports.failures.kind is 'summarize, generate or chat.';
comment on column reports.failures.error_class is 'Class of the failure.';
comment on column reports.failures.provider is 'Provider; null for a job that no provider answered.';
comment on column reports.failures.model is 'Model asked for; null as above.';
comment on column reports.failures.failures is 'How many.';

-- Roles belong to the cluster: another database may have made this one, or be making it right now.
-- reports.savings calls it, and whoever reads a view runs its functions with rights of their own.
alter function price_at(uuid, text, text, date) security definer set search_path = public, pg_temp;

-- +goose StatementBegin
do $$ begin
    if not exists (select 1 from pg_roles where rolname = 'batchwright_reports') then
        begin
            create role batchwright_reports nologin;
        exception
            when duplicate_object or unique_violation then null;
            when insufficient_privilege then
                raise notice 'the role batchwright_reports could not be made: % may not create roles; see docs/reports.md', current_user;
        end;
    end if;
    if exists (select 1 from pg_roles where rolname = 'batchwright_reports') then
        grant usage on schema reports to batchwright_reports;
        grant select on all tables in schema reports to batchwright_reports;
        alter default privileges in schema reports grant select on tables to batchwright_reports;
    end if;
end $$;
-- +goose StatementEnd

-- +goose Down
alter function price_at(uuid, text, text, date) security invoker reset search_path;
-- The role stays: other databases may use it.
-- +goose StatementBegin
do $$ begin
    if exists (select 1 from pg_roles where rolname = 'batchwright_reports') then
        alter default privileges in schema reports revoke select on tables from batchwright_reports;
        revoke select on all tables in schema reports from batchwright_reports;
        revoke usage on schema reports from batchwright_reports;
    end if;
end $$;
-- +goose StatementEnd
-- What was purged since has its sums here alone.
insert into kept_costs as k (project_id, day, kind, provider, model, calls, failed_calls, uncertain_calls, unpriced_calls, gateway_hits,
    input_tokens, cached_input_tokens, output_tokens, cost_microusd, reserved_microusd)
select b.project_id, (u.hour at time zone 'UTC')::date, b.kind, u.provider, u.model, sum(u.calls), coalesce(sum(u.calls) filter (where u.error_class <> ''), 0),
    sum(u.uncertain_calls), sum(u.unpriced_calls), sum(u.gateway_hits), sum(u.input_tokens), sum(u.cached_input_tokens), sum(u.output_tokens),
    sum(u.cost_microusd), sum(u.reserved_microusd)
from batches b join usage_calls u on u.batch_id = b.id
where b.usage_at is not null and b.purged_at is not null and not b.purging
group by 1, 2, 3, 4, 5
on conflict (project_id, day, kind, provider, model) do update set calls = k.calls + excluded.calls,
    failed_calls = k.failed_calls + excluded.failed_calls, uncertain_calls = k.uncertain_calls + excluded.uncertain_calls,
    unpriced_calls = k.unpriced_calls + excluded.unpriced_calls, gateway_hits = k.gateway_hits + excluded.gateway_hits,
    input_tokens = k.input_tokens + excluded.input_tokens, cached_input_tokens = k.cached_input_tokens + excluded.cached_input_tokens,
    output_tokens = k.output_tokens + excluded.output_tokens, cost_microusd = k.cost_microusd + excluded.cost_microusd,
    reserved_microusd = k.reserved_microusd + excluded.reserved_microusd;
drop view reports.failures, reports.latencies, reports.latency_histogram, reports.cache_effectiveness, reports.calls, reports.tag_costs,
    reports.hourly_costs, reports.ledger_check;
alter view ledger_faults set schema reports;
alter view reports.ledger_faults rename to ledger_check;
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
-- +goose StatementBegin
do $$
declare
    view text;
begin
    foreach view in array array['jobs', 'batches', 'savings', 'cost_drift'] loop
        execute format('create or replace view reports.%I as %s', view,
            replace(pg_get_viewdef(('reports.' || view)::regclass), 'JOIN report_projects p', 'JOIN projects p'));
    end loop;
    foreach view in array array['jobs', 'batches', 'daily_costs', 'savings', 'cost_drift'] loop
        execute format('alter view reports.%I reset (security_barrier)', view);
    end loop;
end $$;
-- +goose StatementEnd
drop view report_projects, call_usage;
drop table report_readers, usage_calls;
drop trigger batch_recounted on batches;
drop function batch_recounted;
drop index batches_unrolled;
alter table batches drop column usage_at;
