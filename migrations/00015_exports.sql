-- Files of results in folders and buckets: on request, of each run of a schedule, and of a batch before it is purged.
-- +goose Up
create table exports (
    id                uuid        primary key,
    project_id        uuid        not null references projects,
    batch_id          uuid        not null references batches on delete cascade,
    origin            text        not null check (origin in ('request', 'schedule', 'purge')),
    format            text        not null check (format in ('csv', 'ndjson', 'parquet')),
    target            text        not null check (char_length(target) between 1 and 1000),
    status            text        not null default '',
    first_index       integer     not null default 1 check (first_index > 0),
    last_index        integer     not null default 2147483647,
    bom               boolean     not null default false,
    state             text        not null default 'pending',
    url               text,
    due_at            timestamptz default now(),
    attempts          integer     not null default 0,
    batch_finished_at timestamptz,
    rows              bigint      not null default 0,
    bytes             bigint      not null default 0,
    sha256            bytea,
    error             text,
    created_at        timestamptz not null default now(),
    started_at        timestamptz,
    ended_at          timestamptz,
    constraint exports_state check (state in ('pending', 'running', 'succeeded', 'failed', 'cancelled')),
    constraint exports_range check (last_index >= first_index),
    constraint exports_due check (case when state in ('pending', 'running') then due_at is not null when state = 'failed' then due_at is null or origin = 'purge' else due_at is null end),
    constraint exports_ended check ((state in ('pending', 'running')) = (ended_at is null)),
    constraint exports_whole check (state <> 'succeeded' or sha256 is not null and url is not null and batch_finished_at is not null),
    constraint exports_reason check (state <> 'failed' or error is not null)
);
create index exports_due on exports (due_at) where due_at is not null;                     -- ClaimExport: the few that are at work or wait
create index exports_batch on exports (batch_id, id desc);                                 -- GET /v1/batches/{id}/exports; NextPurge
create index exports_project on exports (project_id, id desc);                             -- GET /v1/exports
create unique index exports_once on exports (batch_id, origin) where origin <> 'request'; -- a schedule and a purge export a batch once
create index exports_ended on exports (ended_at) where ended_at is not null;               -- TrimExports
comment on table exports is 'Files of batches'' results that were asked for, and what came of them: kept for 400 days.';
comment on column exports.id is 'UUID, version 7.';
comment on column exports.project_id is 'Owner.';
comment on column exports.batch_id is 'The batch whose results they are.';
comment on column exports.origin is 'Who asked for it: a request, the schedule that made the batch, or the project''s setting before a purge.';
comment on column exports.format is 'csv, ndjson or parquet.';
comment on column exports.target is 'URL as it was asked for, with placeholders.';
comment on column exports.status is 'Only results with this status; empty for all.';
comment on column exports.first_index is 'First index.';
comment on column exports.last_index is 'Last index.';
comment on column exports.bom is 'CSV: begin with a byte order mark.';
comment on column exports.state is 'pending (until the batch is final, or to be tried again), running, succeeded, failed or cancelled.';
comment on column exports.url is 'Where the file is, or is to be; null before the first attempt.';
comment on column exports.due_at is 'When it may be taken; of a running one, when its worker counts as dead. Null when nothing is to be done any more.';
comment on column exports.attempts is 'How often a worker took it: the fencing token of whatever that writes.';
comment on column exports.batch_finished_at is 'The end of the batch that the last attempt saw: a batch that was reopened since has another one.';
comment on column exports.rows is 'Rows written, of the last attempt.';
comment on column exports.bytes is 'Bytes written, of the last attempt.';
comment on column exports.sha256 is 'Of the file.';
comment on column exports.error is 'Why the last attempt failed, in words for people.';
comment on column exports.created_at is 'When it was asked for.';
comment on column exports.started_at is 'When a worker last took it.';
comment on column exports.ended_at is 'When it became final.';

alter table schedules add column export json;
comment on column schedules.export is 'Where the results of each run go: format, target, status and bom. Null for nowhere.';
alter table projects add column purge_export json;
comment on column projects.purge_export is 'Where the results of a batch go before retention_days purge it: format, target and bom. Null for nowhere.';

-- +goose Down
alter table projects drop column purge_export;
alter table schedules drop column export;
drop table exports;
