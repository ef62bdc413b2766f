-- What the engine room needs to know of a batch: how it is admitted, shared out, paused, ended and resumed.
-- +goose Up
alter table projects
    add column weight integer not null default 1 constraint projects_weight check (weight between 1 and 1000),
    add column deficit bigint not null default 0;
comment on column projects.weight is 'Share of the workers when several projects have work: twice the weight, twice the jobs.';
comment on column projects.deficit is 'Jobs that the project may still be given in this turn of the round-robin.';

alter table batches
    add column api_key_id uuid references api_keys,
    add column priority smallint not null default 0 constraint batches_priority check (priority between -10 and 10),
    add column concurrency integer constraint batches_concurrency check (concurrency > 0),
    add column max_attempts integer constraint batches_max_attempts check (max_attempts between 1 and 100),
    add column job_timeout_seconds integer constraint batches_job_timeout check (job_timeout_seconds > 0),
    add column max_cost_microusd bigint constraint batches_max_cost check (max_cost_microusd >= 0),
    add column expires_at timestamptz,
    add column open_upload boolean not null default false,
    add column ingested_at timestamptz,
    add column pause_reason text constraint batches_pause_reason check (pause_reason in ('requested', 'budget')),
    add column pause_detail text,
    add column paused_at timestamptz,
    add column ending text constraint batches_ending check (ending in ('cancelled', 'expired')),
    add column ending_at timestamptz,
    add column deficit bigint not null default 0,
    add column followed boolean not null default false,
    add column follows boolean not null default false,
    add column recheck boolean not null default false,
    add column progress_at timestamptz,
    add column stalled_at timestamptz,
    add column purged_at timestamptz,
    drop constraint batches_state_check,
    drop constraint batches_finished,
    add constraint batches_state check (state in ('ingesting', 'planning', 'running', 'paused', 'cancelling', 'completed', 'failed', 'cancelled', 'expired')),
    add constraint batches_finished check ((state in ('completed', 'failed', 'cancelled', 'expired')) = (finished_at is not null)),
    add constraint batches_paused check (state <> 'paused' or pause_reason is not null),
    add constraint batches_runs check (state <> 'running' or pause_reason is null),
    add constraint batches_cancelling check (state <> 'cancelling' or ending is not null);
comment on column batches.state is 'ingesting, planning, running, paused, cancelling, then completed, failed, cancelled or expired.';
comment on column batches.api_key_id is 'The API key that submitted it; null before keys were recorded.';
comment on column batches.priority is 'Higher goes first within the project, from -10 to 10.';
comment on column batches.concurrency is 'Most jobs of it that run at once, over all workers; null for no limit of its own.';
comment on column batches.max_attempts is 'Counted attempts before a job of it fails; null for the workers'' default.';
comment on column batches.job_timeout_seconds is 'Seconds from a job''s first attempt until it fails rather than being tried again; null for the workers'' default.';
comment on column batches.max_cost_microusd is 'Most that its calls may cost, in millionths of a US dollar; null for no limit of its own.';
comment on column batches.expires_at is 'When what is not finished is given up; null for never.';
comment on column batches.open_upload is 'An upload session: it takes more jobs until it is sealed.';
comment on column batches.ingested_at is 'When the last part of the submission was stored, while it comes in.';
comment on column batches.pause_reason is 'requested: by a caller; budget: the next call could overshoot one. Null while not paused. May be set before the batch runs.';
comment on column batches.pause_detail is 'In words for people: which budget, and what would resume the batch.';
comment on column batches.paused_at is 'When it was paused.';
comment on column batches.ending is 'What a cancelling batch becomes.';
comment on column batches.ending_at is 'When it began to be cancelled.';
comment on column batches.deficit is 'Jobs that the batch may still be given in this turn of the round-robin.';
comment on column batches.followed is 'Jobs of other batches wait for identical jobs of this one.';
comment on column batches.follows is 'Jobs of it wait for identical jobs of other batches.';
comment on column batches.recheck is 'Others of the project ran while it was planned: its jobs look the cache up once more before they call.';
comment on column batches.progress_at is 'When a job of it last became final, to within a heartbeat.';
comment on column batches.stalled_at is 'When it was found to make no progress; null while it makes some.';
comment on column batches.purged_at is 'When its inputs, jobs and calls were removed; its frozen counts stay.';

alter table jobs
    add column leader_batch uuid,
    add column first_run_at timestamptz,
    drop constraint jobs_waits,
    add constraint jobs_waits check (state <> 'waiting' or (due_at is null) <> (leader_seq is null)),
    add constraint jobs_leader check (leader_batch is null or leader_seq is not null);
create index jobs_outside on jobs (leader_batch, leader_seq) where leader_batch is not null; -- settle a leader's followers in other batches
comment on column jobs.leader_batch is 'Batch of the leader, when that is not the job''s own.';
comment on column jobs.first_run_at is 'When the job was first claimed: its total deadline counts from here.';

alter table tickets add column express boolean not null default false;
comment on column tickets.express is 'Of a batch that had none: a lane of its own keeps it from waiting behind a large batch.';

-- Batches that were being cancelled when this ran.
update batches set ending = 'cancelled', ending_at = now() where state = 'cancelling';

-- +goose Down
drop index jobs_outside;
alter table tickets drop column express;
alter table jobs drop column leader_batch, drop column first_run_at;
alter table batches
    drop constraint batches_state, drop constraint batches_finished,
    drop column api_key_id, drop column priority, drop column concurrency, drop column max_attempts, drop column job_timeout_seconds,
    drop column max_cost_microusd, drop column expires_at, drop column open_upload, drop column ingested_at, drop column pause_reason,
    drop column pause_detail, drop column paused_at, drop column ending, drop column ending_at, drop column deficit, drop column followed,
    drop column follows, drop column recheck, drop column progress_at, drop column stalled_at, drop column purged_at,
    add constraint batches_state_check check (state in ('planning', 'running', 'cancelling', 'completed', 'failed', 'cancelled')),
    add constraint batches_finished check ((state in ('completed', 'failed', 'cancelled')) = (finished_at is not null));
alter table projects drop column weight, drop column deficit;
