-- Batches whose jobs a worker gathers from a source, and schedules of such.
-- +goose Up
alter table batches
    add column source json,
    add column source_tries integer not null default 0,
    add column source_due_at timestamptz;
comment on column batches.source is 'Where its jobs come from: URLs or a query, as submitted; null for jobs that were sent, and those of a rerun that came from another batch.';
comment on column batches.source_tries is 'How often the source could not be read as a whole.';
comment on column batches.source_due_at is 'When a worker may gather its jobs; null when it has no source, or once it was gathered.';
create index batches_sources on batches (source_due_at) where source_due_at is not null and state = 'ingesting'; -- DueSources: a few at most, looked for every few seconds

alter table schedules drop constraint schedules_source,
    add constraint schedules_source check (num_nonnulls(jobs, inputs_of, batch->'source') = 1 and (jobs is null) = (job_count is null));
comment on column schedules.jobs is 'The jobs of its batches, a list; null when they are those of another batch, or come from a source, which batch has.';
comment on column schedules.inputs_of is 'The batch whose inputs are run; null when there is a list of jobs or a source.';

-- +goose Down
-- Schedules with a source must be deleted before: the constraint refuses them. Batches that wait for theirs are open uploads then, which fail
-- when nothing comes for a day.
alter table schedules drop constraint schedules_source,
    add constraint schedules_source check ((jobs is null) <> (inputs_of is null) and (jobs is null) = (job_count is null));
comment on column schedules.jobs is 'The jobs of its batches, a list; null when they are those of another batch.';
comment on column schedules.inputs_of is 'The batch whose inputs are run; null when there is a list of jobs.';
drop index batches_sources;
alter table batches drop column source, drop column source_tries, drop column source_due_at;
