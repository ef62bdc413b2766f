-- Files of reports, beside those of batches' results.
-- +goose Up
alter table exports alter column batch_id drop not null, add column report jsonb, drop constraint exports_whole,
    add constraint exports_about check ((batch_id is null) = (report is not null) and (report is null or origin = 'request')),
    add constraint exports_whole check (state <> 'succeeded' or sha256 is not null and url is not null and (batch_finished_at is not null or report is not null));
comment on table exports is 'Files of batches'' results and of reports that were asked for, and what came of them: kept for 400 days.';
comment on column exports.batch_id is 'The batch whose results they are; null for a report.';
comment on column exports.report is 'The report and what is asked of it: name, from, to, by, where and sort. Null for a batch.';

-- +goose Down
delete from exports where report is not null;
alter table exports drop constraint exports_about, drop constraint exports_whole, drop column report, alter column batch_id set not null,
    add constraint exports_whole check (state <> 'succeeded' or sha256 is not null and url is not null and batch_finished_at is not null);
comment on table exports is 'Files of batches'' results that were asked for, and what came of them: kept for 400 days.';
comment on column exports.batch_id is 'The batch whose results they are.';
