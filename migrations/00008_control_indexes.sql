-- What finds failed jobs among the others, how long a cancelled batch's calls may take to end, and a view that knows of expired batches.
-- +goose Up
alter table batches add column ending_grace_seconds integer constraint batches_ending_grace check (ending_grace_seconds >= 0);
comment on column batches.ending_grace_seconds is 'Seconds for calls in flight from ending_at on, before they are cut; null for the workers'' setting.';
create index jobs_errors on jobs (batch_id, seq) where error_class is not null; -- GET /v1/dead-letters, and what a retry puts back
-- Its predicate names a column that a job which succeeds at once never writes, so the usual updates stay HOT; one on state would not.

create or replace view reports.jobs as
select b.project_id, p.name as project, b.id as batch_id, b.name as batch, b.kind, i.seq, i.custom_id,
       b.id::text || '-' || i.seq as job_id,
       coalesce(j.state, case when b.state in ('cancelled', 'cancelling', 'expired') then 'cancelled' else 'pending' end) as state,
       j.cache_status, j.attempts, j.calls, j.provider, j.model,
       j.input_tokens, j.cached_input_tokens, j.output_tokens, j.cost_microusd,
       c.cost_microusd as answer_cost_microusd,
       j.error_class, j.error_message, b.created_at as submitted_at, j.finished_at, c.format, c.output
from batches b
join projects p on p.id = b.project_id
join inputs i on i.batch_id = b.id
left join jobs j on j.batch_id = b.id and j.seq = i.seq
left join completions c on c.project_id = b.project_id and c.key = j.result_key and c.generation = j.result_generation;
comment on column reports.batches.state is 'ingesting, planning, running, paused, cancelling, completed, failed, cancelled or expired.';

-- +goose Down
comment on column reports.batches.state is 'planning, running, cancelling, completed, failed or cancelled.';
create or replace view reports.jobs as
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
drop index jobs_errors;
alter table batches drop column ending_grace_seconds;
