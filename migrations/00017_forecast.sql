-- Forecasts: what a batch will call, take and cost, made when its planning ends, from what planning counted and what earlier batches took.
-- +goose Up
alter table batches
    add column on_forecast_over text not null default 'run' constraint batches_on_forecast_over check (on_forecast_over in ('run', 'pause', 'refuse')),
    add column dry_run boolean not null default false,
    drop constraint batches_pause_reason,
    add constraint batches_pause_reason check (pause_reason in ('requested', 'budget', 'forecast'));
comment on column batches.on_forecast_over is 'What becomes of it when its forecast is over max_cost_microusd: run, pause or refuse.';
comment on column batches.dry_run is 'It ends with its forecast: nothing is called, and the row goes once its inputs are removed.';
comment on column batches.pause_reason is 'requested: by a caller; budget: the next call could overshoot one; forecast: it is over max_cost_microusd. Null while not paused. May be set before the batch runs.';

create table forecast_sums (
    batch_id       uuid     not null references batches on delete cascade,
    first_seq      integer  not null,
    stage          integer  not null,
    steps          int[]    not null,
    model          text     not null,
    jobs           bigint   not null,
    hits           bigint   not null,
    invalid        bigint   not null,
    bytes          bigint   not null,
    counted_jobs   bigint   not null,
    counted_bytes  bigint   not null,
    counted_calls  float8   not null,
    counted_caps   float8   not null,
    counted_tokens float8[] not null,
    primary key (batch_id, first_seq, stage, steps, model)
);
comment on table forecast_sums is 'What planning found in a range of a batch, by the steps that its jobs may take. Gone once the forecast is made.';
comment on column forecast_sums.batch_id is 'The batch.';
comment on column forecast_sums.first_seq is 'First job of the range.';
comment on column forecast_sums.stage is 'Of a pipeline, from 0: every stage has the jobs of the first. 0 for other kinds.';
comment on column forecast_sums.steps is 'Indices of the route''s steps, in the order in which they are tried.';
comment on column forecast_sums.model is 'Model that the jobs name, for steps without one; else empty.';
comment on column forecast_sums.jobs is 'Jobs that are neither hits nor invalid.';
comment on column forecast_sums.hits is 'Jobs that the result cache answers.';
comment on column forecast_sums.invalid is 'Jobs that can''t run.';
comment on column forecast_sums.bytes is 'Size of what goes in, of all jobs; of documents, characters of their texts.';
comment on column forecast_sums.counted_jobs is 'Those of the jobs whose tokens were counted.';
comment on column forecast_sums.counted_bytes is 'Size of what goes in, of these.';
comment on column forecast_sums.counted_calls is 'Calls that these take.';
comment on column forecast_sums.counted_caps is 'Most tokens of an answer, added up over these calls; 0 where there is no cap.';
comment on column forecast_sums.counted_tokens is 'Input tokens of these calls, as the model of each of the steps counts.';

create table forecasts (
    batch_id          uuid        primary key,
    project_id        uuid        not null references projects,
    made_at           timestamptz not null default now(),
    dry_run           boolean     not null,
    verdict           text        not null constraint forecasts_verdict check (verdict in ('run', 'pause', 'refuse')),
    reason            text        not null,
    max_cost_microusd bigint,
    jobs              bigint      not null,
    result_hits       bigint      not null,
    coalesced         bigint      not null,
    invalid_jobs      bigint      not null,
    counted_jobs      bigint      not null,
    history_batches   integer     not null,
    calls_p50         bigint      not null,
    calls_p90         bigint      not null,
    cached_p50        bigint      not null,
    cached_p90        bigint      not null,
    input_p50         bigint      not null,
    input_p90         bigint      not null,
    output_p50        bigint      not null,
    output_p90        bigint      not null,
    cost_p50          bigint,
    cost_p90          bigint,
    duration_ms_p50   bigint      not null,
    duration_ms_p90   bigint      not null,
    basis_calls       float8      not null
);
create index forecasts_alone on forecasts (made_at) where dry_run or verdict = 'refuse'; -- ForgetForecasts
comment on table forecasts is 'What was expected of a batch when its planning ended. P50: as likely more as less; P90: more in one case of ten.';
comment on column forecasts.batch_id is 'The batch; of a dry run it is gone.';
comment on column forecasts.project_id is 'Owner.';
comment on column forecasts.made_at is 'When planning ended.';
comment on column forecasts.dry_run is 'It was all that was asked for.';
comment on column forecasts.verdict is 'What became of the batch by it: run, pause or refuse.';
comment on column forecasts.reason is 'Why it wasn''t run; empty if it was.';
comment on column forecasts.max_cost_microusd is 'The limit that it was held against, in millionths of a US dollar; null for none.';
comment on column forecasts.jobs is 'Jobs of the batch.';
comment on column forecasts.result_hits is 'Certain hits: jobs that the result cache has answered.';
comment on column forecasts.coalesced is 'Jobs that wait for an identical one.';
comment on column forecasts.invalid_jobs is 'Jobs that can''t run.';
comment on column forecasts.counted_jobs is 'Jobs whose tokens were counted; those of the others follow by their bytes.';
comment on column forecasts.history_batches is 'Earlier batches that it is made from.';
comment on column forecasts.calls_p50 is 'Calls, failed ones included.';
comment on column forecasts.calls_p90 is 'Calls, failed ones included.';
comment on column forecasts.cached_p50 is 'Input tokens served by providers'' prefix caches.';
comment on column forecasts.cached_p90 is 'Input tokens served by providers'' prefix caches.';
comment on column forecasts.input_p50 is 'Input tokens, cached ones included.';
comment on column forecasts.input_p90 is 'Input tokens, cached ones included.';
comment on column forecasts.output_p50 is 'Output tokens.';
comment on column forecasts.output_p90 is 'Output tokens.';
comment on column forecasts.cost_p50 is 'Cost in millionths of a US dollar; null when the price of a step is unknown.';
comment on column forecasts.cost_p90 is 'Cost in millionths of a US dollar; null when the price of a step is unknown.';
comment on column forecasts.duration_ms_p50 is 'Milliseconds from the end of planning to that of the batch.';
comment on column forecasts.duration_ms_p90 is 'Milliseconds from the end of planning to that of the batch.';
comment on column forecasts.basis_calls is 'Good calls by the plan alone: later forecasts learn from the actual number over this one.';

create table forecast_steps (
    batch_id      uuid    not null references forecasts on delete cascade,
    stage         integer not null,
    step          integer not null,
    provider      text    not null,
    model         text    not null,
    history_calls bigint  not null,
    history_of    text    not null,
    calls_p50     bigint  not null,
    calls_p90     bigint  not null,
    cached_p50    bigint  not null,
    cached_p90    bigint  not null,
    input_p50     bigint  not null,
    input_p90     bigint  not null,
    output_p50    bigint  not null,
    output_p90    bigint  not null,
    cost_p50      bigint,
    cost_p90      bigint,
    basis_input   float8  not null,
    primary key (batch_id, stage, step, model)
);
comment on table forecast_steps is 'The part of each step of the route. P90s of steps don''t add up to that of the batch.';
comment on column forecast_steps.batch_id is 'The batch.';
comment on column forecast_steps.stage is 'Of a pipeline, from 0; 0 for other kinds.';
comment on column forecast_steps.step is 'Index of the route''s step, from 0.';
comment on column forecast_steps.provider is 'Provider.';
comment on column forecast_steps.model is 'Model asked for; a step without one has a row for each that its jobs name.';
comment on column forecast_steps.history_calls is 'Answers whose lengths the output is expected by.';
comment on column forecast_steps.history_of is 'Whose they are: version, template, params, kind, or none: then it is the cap on answers.';
comment on column forecast_steps.calls_p50 is 'Calls, failed ones included.';
comment on column forecast_steps.calls_p90 is 'Calls, failed ones included.';
comment on column forecast_steps.cached_p50 is 'Input tokens served by the provider''s prefix cache.';
comment on column forecast_steps.cached_p90 is 'Input tokens served by the provider''s prefix cache.';
comment on column forecast_steps.input_p50 is 'Input tokens, cached ones included.';
comment on column forecast_steps.input_p90 is 'Input tokens, cached ones included.';
comment on column forecast_steps.output_p50 is 'Output tokens.';
comment on column forecast_steps.output_p90 is 'Output tokens.';
comment on column forecast_steps.cost_p50 is 'Cost in millionths of a US dollar; null when the price is unknown.';
comment on column forecast_steps.cost_p90 is 'Cost in millionths of a US dollar; null when the price is unknown.';
comment on column forecast_steps.basis_input is 'Input tokens of a call as counted: later forecasts learn from the actual number over this one. 0 where some of it is an answer of an earlier stage.';

create view reports.forecast_accuracy with (security_barrier) as
select b.project_id, p.name as project, b.id as batch_id, b.name as batch, b.kind, b.state, t.name as template, t.version as template_version,
       b.created_at, f.made_at, b.finished_at, f.history_batches, f.jobs, f.result_hits,
       f.calls_p50, f.calls_p90, b.calls, f.input_p50 as input_tokens_p50, f.input_p90 as input_tokens_p90, b.input_tokens,
       f.cached_p50 as cached_input_tokens_p50, f.cached_p90 as cached_input_tokens_p90, b.cached_input_tokens,
       f.output_p50 as output_tokens_p50, f.output_p90 as output_tokens_p90, b.output_tokens,
       f.cost_p50 as cost_microusd_p50, f.cost_p90 as cost_microusd_p90, case when b.unpriced_calls = 0 then b.cost_microusd end as cost_microusd,
       f.duration_ms_p50, f.duration_ms_p90, (extract(epoch from b.finished_at - b.started_at) * 1000)::bigint as duration_ms,
       case when b.unpriced_calls = 0 then round(100.0 * b.cost_microusd / nullif(f.cost_p50, 0))::bigint end as cost_percent,
       case when b.unpriced_calls = 0 then b.cost_microusd <= f.cost_p90 end as within_p90
from forecasts f
join batches b on b.id = f.batch_id
join report_projects p on p.id = b.project_id
left join templates t on t.id = b.template_id
where b.finished_at is not null and b.started_at is not null;
comment on view reports.forecast_accuracy is 'Finished batches: what their forecast expected beside what came. Batches that were cancelled or expired are in it, with what they had done.';
comment on column reports.forecast_accuracy.project_id is 'Owner.';
comment on column reports.forecast_accuracy.project is 'Name of the owner.';
comment on column reports.forecast_accuracy.batch_id is 'The batch.';
comment on column reports.forecast_accuracy.batch is 'Its name.';
comment on column reports.forecast_accuracy.kind is 'summarize, generate, chat or pipeline.';
comment on column reports.forecast_accuracy.state is 'completed, cancelled or expired.';
comment on column reports.forecast_accuracy.template is 'Template name; null for kinds without one.';
comment on column reports.forecast_accuracy.template_version is 'Template version.';
comment on column reports.forecast_accuracy.created_at is 'When it was submitted.';
comment on column reports.forecast_accuracy.made_at is 'When the forecast was made.';
comment on column reports.forecast_accuracy.finished_at is 'When the batch ended.';
comment on column reports.forecast_accuracy.history_batches is 'Earlier batches that the forecast was made from.';
comment on column reports.forecast_accuracy.jobs is 'Jobs of the batch.';
comment on column reports.forecast_accuracy.result_hits is 'Jobs that the result cache had answered when the forecast was made.';
comment on column reports.forecast_accuracy.calls_p50 is 'Calls expected.';
comment on column reports.forecast_accuracy.calls_p90 is 'Calls expected to be exceeded once in ten times.';
comment on column reports.forecast_accuracy.calls is 'Calls made, failed ones included.';
comment on column reports.forecast_accuracy.input_tokens_p50 is 'Input tokens expected.';
comment on column reports.forecast_accuracy.input_tokens_p90 is 'Input tokens expected to be exceeded once in ten times.';
comment on column reports.forecast_accuracy.input_tokens is 'Input tokens used.';
comment on column reports.forecast_accuracy.cached_input_tokens_p50 is 'Of them, served by prefix caches, as expected.';
comment on column reports.forecast_accuracy.cached_input_tokens_p90 is 'Expected to be exceeded once in ten times.';
comment on column reports.forecast_accuracy.cached_input_tokens is 'Served by prefix caches.';
comment on column reports.forecast_accuracy.output_tokens_p50 is 'Output tokens expected.';
comment on column reports.forecast_accuracy.output_tokens_p90 is 'Output tokens expected to be exceeded once in ten times.';
comment on column reports.forecast_accuracy.output_tokens is 'Output tokens used.';
comment on column reports.forecast_accuracy.cost_microusd_p50 is 'Cost expected, in millionths of a US dollar; null when the price of a step was unknown.';
comment on column reports.forecast_accuracy.cost_microusd_p90 is 'Cost expected to be exceeded once in ten times.';
comment on column reports.forecast_accuracy.cost_microusd is 'Cost; null when that of a call is unknown.';
comment on column reports.forecast_accuracy.duration_ms_p50 is 'Milliseconds expected from the end of planning to that of the batch.';
comment on column reports.forecast_accuracy.duration_ms_p90 is 'Milliseconds expected to be exceeded once in ten times.';
comment on column reports.forecast_accuracy.duration_ms is 'Milliseconds that it took, pauses included.';
comment on column reports.forecast_accuracy.cost_percent is 'Cost in percent of the P50.';
comment on column reports.forecast_accuracy.within_p90 is 'The cost was at or under the P90.';

-- +goose Down
drop view reports.forecast_accuracy;
drop table forecast_steps, forecasts, forecast_sums;
update batches set pause_reason = 'requested' where pause_reason = 'forecast';
alter table batches
    drop column on_forecast_over, drop column dry_run,
    drop constraint batches_pause_reason,
    add constraint batches_pause_reason check (pause_reason in ('requested', 'budget'));
comment on column batches.pause_reason is 'requested: by a caller; budget: the next call could overshoot one. Null while not paused. May be set before the batch runs.';
