-- The schema reports is what analysts query; the tables behind it may change shape, these views may only grow.
-- +goose Up
create schema reports;
comment on schema reports is 'Stable views for analysts. Costs are in millionths of a US dollar.';

create view reports.jobs as
select b.project_id, p.name as project, b.id as batch_id, b.name as batch, b.kind, i.seq, i.custom_id,
       b.id::text || '-' || i.seq as job_id,
       coalesce(j.state, case when b.state in ('cancelled', 'cancelling') then 'cancelled' else 'pending' end) as state,
       j.cache_status, j.attempts, j.calls, j.provider, j.model,
       j.input_tokens, j.cached_input_tokens, j.output_tokens, j.cost_microusd,
       c.cost_microusd as answer_cost_microusd,
       j.error_class, j.error_message, b.created_at as submitted_at, j.finished_at, c.format, c.output
from batches b
join projects p on p.id = b.project_id
join inputs i on i.batch_id = b.id
left join jobs j on j.batch_id = b.id and j.seq = i.seq
left join completions c on c.project_id = b.project_id and c.key = j.result_key and c.generation = j.result_generation;
comment on view reports.jobs is 'One row a job, with its answer.';
comment on column reports.jobs.project_id is 'Owner.';
comment on column reports.jobs.project is 'Name of the owner.';
comment on column reports.jobs.batch_id is 'The batch.';
comment on column reports.jobs.batch is 'Name of the batch.';
comment on column reports.jobs.kind is 'summarize, generate or chat.';
comment on column reports.jobs.seq is 'Position in the submission, from 1.';
comment on column reports.jobs.custom_id is 'The submitter''s id.';
comment on column reports.jobs.job_id is 'Id as the API shows it.';
comment on column reports.jobs.state is 'pending, planned, running, waiting, succeeded, failed or cancelled.';
comment on column reports.jobs.cache_status is 'result_hit, coalesced, gateway_hit, miss or bypass.';
comment on column reports.jobs.attempts is 'Attempts that counted.';
comment on column reports.jobs.calls is 'Calls that the job''s settled attempts made.';
comment on column reports.jobs.provider is 'Provider that answered.';
comment on column reports.jobs.model is 'Model that answered.';
comment on column reports.jobs.input_tokens is 'Prompt tokens paid for by this job.';
comment on column reports.jobs.cached_input_tokens is 'The part of them served by a provider''s prefix cache.';
comment on column reports.jobs.output_tokens is 'Generated tokens paid for by this job.';
comment on column reports.jobs.cost_microusd is 'What this job cost; 0 for a hit, null when unknown.';
comment on column reports.jobs.answer_cost_microusd is 'What its answer cost when it was first made.';
comment on column reports.jobs.error_class is 'Class of the failure.';
comment on column reports.jobs.error_message is 'What happened and what to do.';
comment on column reports.jobs.submitted_at is 'When the batch was accepted.';
comment on column reports.jobs.finished_at is 'When the job became final.';
comment on column reports.jobs.format is 'Form of the answer: text or json.';
comment on column reports.jobs.output is 'The answer.';

create view reports.batches as
select b.project_id, p.name as project, b.id as batch_id, b.name, b.kind, b.state,
       t.name as template, t.version as template_version, r.name as route, r.version as route_version,
       b.metadata, b.total_jobs,
       coalesce(b.succeeded_jobs, j.succeeded) as succeeded_jobs, coalesce(b.failed_jobs, j.failed) as failed_jobs,
       coalesce(b.cancelled_jobs, j.cancelled) as cancelled_jobs,
       coalesce(b.result_hits, j.result_hits) as result_hits, coalesce(b.coalesced, j.coalesced) as coalesced,
       coalesce(b.gateway_hits, j.gateway_hits) as gateway_hits, coalesce(b.misses, j.misses) as misses,
       coalesce(b.bypassed, j.bypassed) as bypassed,
       coalesce(b.calls, c.calls) as calls, coalesce(b.uncertain_calls, c.uncertain) as uncertain_calls,
       coalesce(b.unpriced_calls, c.unpriced) as unpriced_calls,
       coalesce(b.input_tokens, c.input_tokens) as input_tokens,
       coalesce(b.cached_input_tokens, c.cached_input_tokens) as cached_input_tokens,
       coalesce(b.output_tokens, c.output_tokens) as output_tokens,
       coalesce(b.cost_microusd, c.cost_microusd) as cost_microusd,
       b.created_at, b.started_at, b.finished_at
from batches b
join projects p on p.id = b.project_id
left join templates t on t.id = b.template_id
left join routes r on r.id = b.route_id
left join lateral (
    select count(*) filter (where state = 'succeeded') as succeeded, count(*) filter (where state = 'failed') as failed,
           count(*) filter (where state = 'cancelled') as cancelled,
           count(*) filter (where cache_status = 'result_hit') as result_hits,
           count(*) filter (where cache_status = 'coalesced') as coalesced,
           count(*) filter (where cache_status = 'gateway_hit') as gateway_hits,
           count(*) filter (where cache_status = 'miss') as misses,
           count(*) filter (where cache_status = 'bypass') as bypassed
    from jobs where batch_id = b.id and b.finished_at is null) j on true
left join lateral (
    select count(*) as calls, count(*) filter (where state = 'uncertain') as uncertain,
           count(*) filter (where state = 'settled' and cost_microusd is null) as unpriced,
           coalesce(sum(input_tokens), 0)::bigint as input_tokens,
           coalesce(sum(cached_input_tokens), 0)::bigint as cached_input_tokens,
           coalesce(sum(output_tokens), 0)::bigint as output_tokens,
           coalesce(sum(cost_microusd), 0)::bigint as cost_microusd
    from calls where batch_id = b.id and b.finished_at is null) c on true;
comment on view reports.batches is 'One row a batch; counts are live while it is open and frozen afterwards.';
comment on column reports.batches.project_id is 'Owner.';
comment on column reports.batches.project is 'Name of the owner.';
comment on column reports.batches.batch_id is 'The batch.';
comment on column reports.batches.name is 'Its name.';
comment on column reports.batches.kind is 'summarize, generate or chat.';
comment on column reports.batches.state is 'planning, running, cancelling, completed, failed or cancelled.';
comment on column reports.batches.template is 'Template name.';
comment on column reports.batches.template_version is 'Template version.';
comment on column reports.batches.route is 'Route name; null when given inline.';
comment on column reports.batches.route_version is 'Route version.';
comment on column reports.batches.metadata is 'Labels from the submitter.';
comment on column reports.batches.total_jobs is 'Jobs submitted.';
comment on column reports.batches.succeeded_jobs is 'Jobs that succeeded.';
comment on column reports.batches.failed_jobs is 'Jobs that failed.';
comment on column reports.batches.cancelled_jobs is 'Jobs that were cancelled.';
comment on column reports.batches.result_hits is 'Jobs answered from the durable result cache.';
comment on column reports.batches.coalesced is 'Jobs answered by an identical job of the batch.';
comment on column reports.batches.gateway_hits is 'Jobs that the gateway answered from its cache.';
comment on column reports.batches.misses is 'Jobs that a provider answered.';
comment on column reports.batches.bypassed is 'Jobs that were told to read no cache.';
comment on column reports.batches.calls is 'Rows of the call ledger.';
comment on column reports.batches.uncertain_calls is 'Calls whose outcome was lost.';
comment on column reports.batches.unpriced_calls is 'Settled calls whose cost is unknown.';
comment on column reports.batches.input_tokens is 'Prompt tokens of all calls, cached ones included.';
comment on column reports.batches.cached_input_tokens is 'Prompt tokens served by providers'' prefix caches.';
comment on column reports.batches.output_tokens is 'Generated tokens of all calls.';
comment on column reports.batches.cost_microusd is 'Known cost of all calls.';
comment on column reports.batches.created_at is 'When the submission was accepted.';
comment on column reports.batches.started_at is 'When jobs became runnable.';
comment on column reports.batches.finished_at is 'When the last job became final.';

create view reports.daily_costs as
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
comment on view reports.daily_costs is 'Calls, tokens and money by UTC day, kind, provider and model, from the call ledger.';
comment on column reports.daily_costs.project_id is 'Owner.';
comment on column reports.daily_costs.project is 'Name of the owner.';
comment on column reports.daily_costs.day is 'UTC day on which the calls started.';
comment on column reports.daily_costs.kind is 'summarize, generate or chat.';
comment on column reports.daily_costs.provider is 'Provider.';
comment on column reports.daily_costs.model is 'Model.';
comment on column reports.daily_costs.calls is 'Rows of the call ledger.';
comment on column reports.daily_costs.failed_calls is 'Calls that ended in an error.';
comment on column reports.daily_costs.uncertain_calls is 'Calls whose outcome was lost.';
comment on column reports.daily_costs.unpriced_calls is 'Settled calls whose cost is unknown.';
comment on column reports.daily_costs.gateway_hits is 'Calls that the gateway answered from its cache.';
comment on column reports.daily_costs.input_tokens is 'Prompt tokens, cached ones included.';
comment on column reports.daily_costs.cached_input_tokens is 'Prompt tokens served by the provider''s prefix cache.';
comment on column reports.daily_costs.output_tokens is 'Generated tokens.';
comment on column reports.daily_costs.cost_microusd is 'Known cost.';
comment on column reports.daily_costs.reserved_microusd is 'Worst case of calls that are not settled: may have been billed.';

-- +goose Down
drop schema reports cascade;
