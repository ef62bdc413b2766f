-- Where a project is told of its batches, and what it has been or is still to be told. No foreign key from outbox: an event is written in the
-- transaction that ends a batch, which an endpoint that is being deleted must not break.
-- +goose Up
create table webhooks (
    id              uuid        primary key,
    project_id      uuid        not null references projects,
    url             text        not null check (char_length(url) between 1 and 2000),
    events          text[]      not null check (cardinality(events) > 0),
    description     text        not null default '' check (char_length(description) <= 500),
    enabled         boolean     not null default true,
    disabled_reason text,
    secret_version  integer     not null default 1,
    rotated_at      timestamptz,
    failing_since   timestamptz,
    created_at      timestamptz not null default now(),
    updated_at      timestamptz not null default now(),
    constraint webhooks_disabled check (enabled = (disabled_reason is null)),
    constraint webhooks_reason check (disabled_reason in ('requested', 'gone', 'failing'))
);
create index webhooks_project on webhooks (project_id, id desc); -- whom to tell of a batch; GET /v1/webhooks, newest first
comment on table webhooks is 'Endpoints that are told of what happens to a project''s batches.';
comment on column webhooks.id is 'UUID, version 7.';
comment on column webhooks.project_id is 'Owner.';
comment on column webhooks.url is 'Where messages are posted to.';
comment on column webhooks.events is 'Types of event that it is sent, such as batch.completed.';
comment on column webhooks.description is 'What it is for, for people.';
comment on column webhooks.enabled is 'Whether it is sent anything.';
comment on column webhooks.disabled_reason is 'requested: by a caller; gone: it answered 410; failing: nothing was delivered for five days. Null while it is enabled.';
comment on column webhooks.secret_version is 'Which secret signs. Secrets are derived from a key of the servers and this number; none is stored.';
comment on column webhooks.rotated_at is 'When secret_version last rose: for a day the secret before it signs as well.';
comment on column webhooks.failing_since is 'First failed attempt since the last delivery; null while it takes what it is sent.';
comment on column webhooks.created_at is 'When it was made.';
comment on column webhooks.updated_at is 'When a caller last changed it.';

create table outbox (
    seq             bigint      generated always as identity primary key,
    id              text        not null unique,
    webhook_id      uuid        not null,
    batch_id        uuid,
    type            text        not null,
    payload         json        not null,
    state           text        not null default 'pending' check (state in ('pending', 'delivered', 'failed')),
    attempts        integer     not null default 0,
    next_attempt_at timestamptz not null default now(),
    last_status     integer,
    last_error      text,
    created_at      timestamptz not null default now(),
    attempted_at    timestamptz,
    delivered_at    timestamptz,
    constraint outbox_delivered check (state <> 'delivered' or delivered_at is not null)
);
create index outbox_due on outbox (next_attempt_at) where state = 'pending'; -- what is to be sent now, however many were
create index outbox_webhook on outbox (webhook_id, seq desc);                -- an endpoint's deliveries, newest first; removing them with it
comment on table outbox is 'Messages to webhooks: one row an event and endpoint, kept for 30 days.';
comment on column outbox.seq is 'Order of insertion.';
comment on column outbox.id is 'The header webhook-id, msg_...: the same in every attempt, so that a receiver knows a repeat.';
comment on column outbox.webhook_id is 'The endpoint.';
comment on column outbox.batch_id is 'The batch that it is about; null for a test.';
comment on column outbox.type is 'What happened.';
comment on column outbox.payload is 'The body, sent byte for byte. It has ids and numbers, no input and no answer.';
comment on column outbox.state is 'pending, then delivered or failed.';
comment on column outbox.attempts is 'Times that it was handed to a worker to send, since it was last asked for.';
comment on column outbox.next_attempt_at is 'When a pending one is due; while it is being sent, until when it is left to that worker.';
comment on column outbox.last_status is 'HTTP status of the last answer; null when none came.';
comment on column outbox.last_error is 'Why the last attempt failed, in words for people.';
comment on column outbox.created_at is 'When it happened.';
comment on column outbox.attempted_at is 'When the last attempt ended.';
comment on column outbox.delivered_at is 'When the endpoint took it.';

-- +goose Down
drop table outbox;
drop table webhooks;
