-- A job that the cache answered when it was planned bears its key once: rows are a seventh shorter, and half of each page is kept free.
-- +goose Up
comment on column jobs.key is 'Key of the request at the route''s first step; null for an invalid input, and for a job that was answered when it was planned.';

-- +goose Down
comment on column jobs.key is 'Key of the request at the route''s first step.';
