-- What is to run again and again, and what came of each time that it was due. No foreign key from ticks to batches: a batch ends without a
-- look at what had made it.
-- +goose Up
create table schedules (
    id              uuid        primary key,
    project_id      uuid        not null references projects,
    api_key_id      uuid        not null references api_keys,
    name            text        not null check (char_length(name) <= 200),
    cron            text        not null check (char_length(cron) between 1 and 200),
    time_zone       text        not null,
    starts_at       timestamptz,
    ends_at         timestamptz,
    jitter_seconds  integer     not null check (jitter_seconds between 0 and 86400),
    enabled         boolean     not null,
    overlap         text        not null check (overlap in ('skip', 'queue', 'cancel_older')),
    catch_up        text        not null check (catch_up in ('none', 'last', 'all')),
    catch_up_limit  integer     not null check (catch_up_limit between 1 and 100),
    batch           json        not null,
    jobs            json,
    job_count       integer,
    inputs_of       uuid,
    next_due_at     timestamptz,
    next_start_at   timestamptz,
    revision        integer     not null default 1,
    created_at      timestamptz not null default now(),
    updated_at      timestamptz not null default now(),
    constraint schedules_span check (ends_at > starts_at),
    constraint schedules_next check ((next_due_at is null) = (next_start_at is null)),
    constraint schedules_source check ((jobs is null) <> (inputs_of is null) and (jobs is null) = (job_count is null))
);
create index schedules_due on schedules (next_start_at) where next_start_at is not null; -- DueSchedules: what a round of a worker looks at
create index schedules_project on schedules (project_id, id desc);                       -- GET /v1/schedules, newest first
comment on table schedules is 'Batches that are to be run again and again.';
comment on column schedules.id is 'UUID, version 7.';
comment on column schedules.project_id is 'Owner.';
comment on column schedules.api_key_id is 'The key that made or last changed it: its batches are that key''s.';
comment on column schedules.name is 'What it is for, for people.';
comment on column schedules.cron is 'When: a cron expression, @daily and the like, or @every with a duration.';
comment on column schedules.time_zone is 'IANA name of the zone whose clock the expression is about.';
comment on column schedules.starts_at is 'Nothing is due before it; null for no start.';
comment on column schedules.ends_at is 'Nothing is due at it or after it; null for no end.';
comment on column schedules.jitter_seconds is 'By up to how much a tick is started later than it is due; how much is fixed for each tick.';
comment on column schedules.enabled is 'Whether what is due is run; else it is noted as skipped.';
comment on column schedules.overlap is 'What becomes of a tick while a batch of an earlier one runs: skip, queue, or cancel_older.';
comment on column schedules.catch_up is 'Which ticks that were missed are made up for: none, the last, or all up to catch_up_limit.';
comment on column schedules.catch_up_limit is 'How many ticks at once all makes up for.';
comment on column schedules.batch is 'The options of its batches, as POST /v1/batches takes them.';
comment on column schedules.jobs is 'The jobs of its batches, a list; null when they are those of another batch.';
comment on column schedules.job_count is 'How many jobs that list has.';
comment on column schedules.inputs_of is 'The batch whose inputs are run; null when there is a list of jobs.';
comment on column schedules.next_due_at is 'The first due time that has no tick yet; null when nothing will be due any more.';
comment on column schedules.next_start_at is 'The same with its jitter.';
comment on column schedules.revision is 'Rises with each change.';
comment on column schedules.created_at is 'When it was made. @every without a start counts from here.';
comment on column schedules.updated_at is 'When a caller last changed it.';

create table ticks (
    schedule_id uuid        not null references schedules on delete cascade,
    due_at      timestamptz not null,
    manual      boolean     not null default false,
    start_at    timestamptz not null,
    state       text        not null,
    reason      text,
    batch_id    uuid,
    worker_id   uuid,
    attempts    integer     not null default 0,
    created_at  timestamptz not null default now(),
    started_at  timestamptz,
    ended_at    timestamptz,
    primary key (schedule_id, due_at),
    constraint ticks_state check (state in ('pending', 'starting', 'running', 'ran', 'skipped', 'missed', 'failed')),
    constraint ticks_batch check (state not in ('running', 'ran') or batch_id is not null),
    constraint ticks_reason check (state not in ('skipped', 'missed', 'failed') or reason is not null),
    constraint ticks_worker check (state <> 'starting' or worker_id is not null),
    constraint ticks_ended check ((state in ('ran', 'skipped', 'missed', 'failed')) = (ended_at is not null))
);
create index ticks_open on ticks (schedule_id, due_at) where state in ('pending', 'starting', 'running'); -- ClaimTick, OpenRuns, EndRuns: the few that are at work
create index ticks_due on ticks (due_at);                                                                 -- TrimTicks; what was due in a time, of all schedules
create unique index ticks_of_batch on ticks (batch_id) where batch_id is not null;                        -- no batch is of two ticks
comment on table ticks is 'What came of each time that a schedule was due: one row each, kept for 400 days.';
comment on column ticks.schedule_id is 'The schedule.';
comment on column ticks.due_at is 'When it was due; of a manual one, when it was asked for.';
comment on column ticks.manual is 'Whether a caller asked for it.';
comment on column ticks.start_at is 'When it may be started: due_at with the jitter, and later when a start is to be tried again.';
comment on column ticks.state is 'pending; starting: a worker makes its batch; running; then ran (the batch ended, well or not), or without a batch skipped, missed or failed.';
comment on column ticks.reason is 'Why there is no batch, or not yet, in words for people.';
comment on column ticks.batch_id is 'Its batch.';
comment on column ticks.worker_id is 'The worker that last took it.';
comment on column ticks.attempts is 'How often a worker took it.';
comment on column ticks.created_at is 'When the row was made.';
comment on column ticks.started_at is 'When a worker last took it.';
comment on column ticks.ended_at is 'When it became final.';

-- +goose Down
drop table ticks;
drop table schedules;
