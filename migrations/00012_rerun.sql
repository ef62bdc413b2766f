-- Batches that run another one's jobs again, how old an answer of the cache they take, and batches that take nothing but its answers.
-- +goose Up
alter table batches
    add column rerun_of uuid,
    add column max_age_seconds integer constraint batches_max_age check (max_age_seconds > 0);
comment on column batches.rerun_of is 'The batch whose jobs it runs again, though some may be changed, new or left out; null for a submission. That batch may be purged.';
comment on column batches.max_age_seconds is 'Most seconds by which an answer of the result cache may be older than the batch; null for any age.';
alter table batches drop constraint batches_cache_check,
    add constraint batches_cache_check check (cache in ('use', 'refresh', 'only', 'off'));
comment on column batches.cache is 'use: read and write the result cache; refresh: write only; only: read only, and make no call; off: neither.';

-- +goose Down
-- One that is not over would make calls then: the constraint refuses it, so that it is ended first.
update batches set cache = 'use' where cache = 'only' and finished_at is not null;
alter table batches drop constraint batches_cache_check,
    add constraint batches_cache_check check (cache in ('use', 'refresh', 'off'));
comment on column batches.cache is 'use: read and write the result cache; refresh: write only; off: neither.';
alter table batches drop column rerun_of, drop column max_age_seconds;
