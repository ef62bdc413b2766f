-- +goose Up
alter table completions add column details json;
comment on column completions.details is 'What else there is to say of the answer: of a summary, what it covers and its outline. Null for nothing.';

-- +goose Down
alter table completions drop column details;
