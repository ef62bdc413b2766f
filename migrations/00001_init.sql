-- The tables of the first slice. Hot tables (inputs, jobs, calls, completions) carry no foreign keys: a check per row
-- costs more than the row, and the statements that write them name their batch. Purging a batch deletes by batch_id.
-- +goose Up
create table projects (
    id         uuid        primary key,
    name       text        not null unique check (char_length(name) between 1 and 100),
    created_at timestamptz not null default now()
);
comment on table projects is 'Owners of everything else: one team, one set of keys, one cache.';
comment on column projects.id is 'UUID, version 7.';
comment on column projects.name is 'Unique name, as given to batchwright key create.';
comment on column projects.created_at is 'When the project was made.';

create table api_keys (
    id         uuid        primary key,
    project_id uuid        not null references projects,
    name       text        not null,
    prefix     text        not null,
    key_sha256 bytea       not null unique check (octet_length(key_sha256) = 32),
    created_at timestamptz not null default now(),
    revoked_at timestamptz
);
comment on table api_keys is 'Bearer keys of the REST API. The key itself is never stored.';
comment on column api_keys.id is 'UUID, version 7.';
comment on column api_keys.project_id is 'The project that the key acts for.';
comment on column api_keys.name is 'What the key is for.';
comment on column api_keys.prefix is 'First characters of the key, to tell keys apart in a list.';
comment on column api_keys.key_sha256 is 'SHA-256 of the whole key.';
comment on column api_keys.created_at is 'When the key was made.';
comment on column api_keys.revoked_at is 'When the key stopped working; null while it works.';

create table templates (
    id          uuid        primary key,
    project_id  uuid        not null references projects,
    name        text        not null check (name ~ '^[a-z0-9][a-z0-9._-]{0,62}$'),
    version     integer     not null check (version > 0),
    spec        json        not null,
    spec_sha256 bytea       not null check (octet_length(spec_sha256) = 32),
    created_at  timestamptz not null default now(),
    unique (project_id, name, version),
    unique (project_id, name, spec_sha256)
);
comment on table templates is 'Prompt templates. A row never changes: an edit is a new version.';
comment on column templates.id is 'UUID, version 7.';
comment on column templates.project_id is 'Owner.';
comment on column templates.name is 'Name within the project.';
comment on column templates.version is 'Counts from 1 within the name.';
comment on column templates.spec is 'System and user texts, variables, output form and sampling, in canonical form.';
comment on column templates.spec_sha256 is 'SHA-256 of spec; saving the same spec again finds the same version.';
comment on column templates.created_at is 'When this version was saved.';

create table routes (
    id          uuid        primary key,
    project_id  uuid        not null references projects,
    name        text        not null check (name ~ '^[a-z0-9][a-z0-9._-]{0,62}$'),
    version     integer     not null check (version > 0),
    spec        json        not null,
    spec_sha256 bytea       not null check (octet_length(spec_sha256) = 32),
    created_at  timestamptz not null default now(),
    unique (project_id, name, version),
    unique (project_id, name, spec_sha256)
);
comment on table routes is 'Fallback chains: ordered provider steps. A row never changes: an edit is a new version.';
comment on column routes.id is 'UUID, version 7.';
comment on column routes.project_id is 'Owner.';
comment on column routes.name is 'Name within the project.';
comment on column routes.version is 'Counts from 1 within the name.';
comment on column routes.spec is 'The steps in order, and which cached answers the route accepts.';
comment on column routes.spec_sha256 is 'SHA-256 of spec; saving the same spec again finds the same version.';
comment on column routes.created_at is 'When this version was saved.';

create table documents (
    project_id   uuid        not null,
    sha256       bytea       not null check (octet_length(sha256) = 32),
    content_type text        not null,
    bytes        bigint      not null,
    body         bytea       not null,
    created_at   timestamptz not null default now(),
    primary key (project_id, sha256)
);
comment on table documents is 'Document contents as received, each stored once per project.';
comment on column documents.project_id is 'Owner.';
comment on column documents.sha256 is 'SHA-256 of body.';
comment on column documents.content_type is 'Declared media type of the first upload; detection reads the bytes.';
comment on column documents.bytes is 'Size of body, in bytes.';
comment on column documents.body is 'The bytes as received.';
comment on column documents.created_at is 'When this content was first seen.';

create table batches (
    id                  uuid        primary key,
    project_id          uuid        not null references projects,
    name                text        not null,
    kind                text        not null check (char_length(kind) between 1 and 63),
    state               text        not null check (state in ('planning', 'running', 'cancelling', 'completed', 'failed', 'cancelled')),
    template_id         uuid        references templates,
    route_id            uuid        references routes,
    route               json        not null,
    params              json        not null,
    metadata            jsonb       not null default '{}',
    on_invalid          text        not null check (on_invalid in ('refuse', 'skip')),
    cache               text        not null check (cache in ('use', 'refresh', 'off')),
    idempotency_key     text,
    request_sha256      bytea       not null,
    total_jobs          integer     not null default 0,
    next_seq            integer     not null default 1,
    has_followers       boolean     not null default false,
    error               text,
    created_at          timestamptz not null default now(),
    started_at          timestamptz,
    finished_at         timestamptz,
    succeeded_jobs      bigint,
    failed_jobs         bigint,
    cancelled_jobs      bigint,
    result_hits         bigint,
    coalesced           bigint,
    gateway_hits        bigint,
    misses              bigint,
    bypassed            bigint,
    calls               bigint,
    uncertain_calls     bigint,
    unpriced_calls      bigint,
    input_tokens        bigint,
    cached_input_tokens bigint,
    output_tokens       bigint,
    cost_microusd       bigint,
    constraint batches_finished check ((state in ('completed', 'failed', 'cancelled')) = (finished_at is not null)),
    constraint batches_frozen check ((finished_at is null) = (succeeded_jobs is null)),
    unique (project_id, idempotency_key)
);
create index batches_open on batches (id) where finished_at is null; -- sweep and dispatch look at open batches only
create index batches_project on batches (project_id, id desc);       -- GET /v1/batches, newest first
comment on table batches is 'One submission: jobs of one kind with one template version and one route.';
comment on column batches.id is 'UUID, version 7: ordered by creation.';
comment on column batches.project_id is 'Owner.';
comment on column batches.name is 'Free name; empty when none was given.';
comment on column batches.kind is 'summarize, generate or chat.';
comment on column batches.state is 'planning, running, cancelling, then completed, failed or cancelled for good.';
comment on column batches.template_id is 'Template version that renders the jobs; null for kinds without one.';
comment on column batches.route_id is 'Stored route version; null when the route was given inline.';
comment on column batches.route is 'The resolved chain, as it was at submission.';
comment on column batches.params is 'Options of the kind.';
comment on column batches.metadata is 'Labels from the submitter.';
comment on column batches.on_invalid is 'refuse: a bad line refused the whole batch; skip: bad lines became failed jobs.';
comment on column batches.cache is 'use: read and write the result cache; refresh: write only; off: neither.';
comment on column batches.idempotency_key is 'Idempotency-Key of the submission, unique within the project.';
comment on column batches.request_sha256 is 'SHA-256 of the submission, to tell a repeat from a clash of keys.';
comment on column batches.total_jobs is 'Jobs submitted, bad lines of a skipping batch included.';
comment on column batches.next_seq is 'Dispatch cursor: jobs below it have been handed out in tickets.';
comment on column batches.has_followers is 'Some jobs wait for an identical job of this batch; known when planning ends.';
comment on column batches.error is 'Why a failed batch failed, in words for people.';
comment on column batches.created_at is 'When the submission was accepted.';
comment on column batches.started_at is 'When planning ended and jobs became runnable.';
comment on column batches.finished_at is 'When the last job became terminal.';
comment on column batches.succeeded_jobs is 'Frozen at the end: jobs that succeeded. Null while the batch is open, as all counts below.';
comment on column batches.failed_jobs is 'Frozen at the end: jobs that failed.';
comment on column batches.cancelled_jobs is 'Frozen at the end: jobs that were cancelled.';
comment on column batches.result_hits is 'Frozen at the end: jobs answered from the durable result cache.';
comment on column batches.coalesced is 'Frozen at the end: jobs answered by an identical job of the batch.';
comment on column batches.gateway_hits is 'Frozen at the end: jobs whose calls the gateway answered from its cache.';
comment on column batches.misses is 'Frozen at the end: jobs that a provider answered.';
comment on column batches.bypassed is 'Frozen at the end: jobs that were told to read no cache.';
comment on column batches.calls is 'Frozen at the end: rows of the call ledger.';
comment on column batches.uncertain_calls is 'Frozen at the end: calls whose outcome is not known.';
comment on column batches.unpriced_calls is 'Frozen at the end: settled calls whose cost is unknown.';
comment on column batches.input_tokens is 'Frozen at the end: prompt tokens of all calls, cached ones included.';
comment on column batches.cached_input_tokens is 'Frozen at the end: prompt tokens served by providers'' prefix caches.';
comment on column batches.output_tokens is 'Frozen at the end: generated tokens of all calls.';
comment on column batches.cost_microusd is 'Frozen at the end: known cost of all calls, in millionths of a US dollar.';

create table inputs (
    batch_id        uuid    not null,
    seq             integer not null,
    custom_id       text,
    input           json,
    document_sha256 bytea,
    invalid         json,
    primary key (batch_id, seq)
);
comment on table inputs is 'What was submitted: one row a job, written once.';
comment on column inputs.batch_id is 'The batch.';
comment on column inputs.seq is 'Position in the submission, from 1.';
comment on column inputs.custom_id is 'The submitter''s own id, unique within the batch when given.';
comment on column inputs.input is 'Variables, chat body (byte for byte) or document reference, by kind.';
comment on column inputs.document_sha256 is 'Content in documents, for kinds that take a document.';
comment on column inputs.invalid is 'Why the line can not be run (code, field, message); null for a good line.';

create table jobs (
    batch_id            uuid        not null,
    seq                 integer     not null,
    attempts            integer     not null default 0,
    result_generation   integer,
    ticket_id           bigint,
    due_at              timestamptz,
    finished_at         timestamptz,
    calls               integer     not null default 0,
    leader_seq          integer,
    input_tokens        bigint      not null default 0,
    cached_input_tokens bigint      not null default 0,
    output_tokens       bigint      not null default 0,
    cost_microusd       bigint      default 0,
    state               text        not null,
    cache_status        text,
    key                 bytea,
    result_key          bytea,
    provider            text,
    model               text,
    error_class         text,
    error_message       text,
    primary key (batch_id, seq),
    constraint jobs_state check (state in ('planned', 'running', 'waiting', 'succeeded', 'failed', 'cancelled')),
    constraint jobs_cache_status check (cache_status in ('result_hit', 'coalesced', 'gateway_hit', 'miss', 'bypass')),
    constraint jobs_finished check ((state in ('succeeded', 'failed', 'cancelled')) = (finished_at is not null)),
    constraint jobs_leased check ((state = 'running') = (ticket_id is not null)),
    constraint jobs_waits check (state <> 'waiting' or (due_at is null) <> (leader_seq is null)),
    constraint jobs_result check ((state = 'succeeded') = (result_key is not null and result_generation is not null)),
    constraint jobs_failure check ((state = 'failed') <= (error_class is not null))
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.05);
-- Both predicates name columns that the usual path (planned, running, succeeded) never writes, so its updates stay HOT.
create index jobs_due on jobs (batch_id, due_at) where due_at is not null;               -- retry tickets
create index jobs_followers on jobs (batch_id, leader_seq) where leader_seq is not null; -- settle a leader's followers
comment on table jobs is 'State and totals of each planned job. A job without a row here is still pending.';
comment on column jobs.batch_id is 'The batch.';
comment on column jobs.seq is 'Position in the submission, from 1.';
comment on column jobs.attempts is 'Attempts that ended in success or failure; waiting for a limit and lost workers do not count.';
comment on column jobs.ticket_id is 'The ticket whose worker runs the job; the fencing token of every write.';
comment on column jobs.due_at is 'When a waiting job may be tried again.';
comment on column jobs.finished_at is 'When the state became final.';
comment on column jobs.calls is 'Calls that this job''s settled attempts made.';
comment on column jobs.leader_seq is 'The identical job of this batch whose answer this one takes.';
comment on column jobs.input_tokens is 'Prompt tokens of those calls, cached ones included.';
comment on column jobs.cached_input_tokens is 'Prompt tokens served by a provider''s prefix cache.';
comment on column jobs.output_tokens is 'Generated tokens of those calls.';
comment on column jobs.cost_microusd is 'Cost of those calls in millionths of a US dollar; null when one of them has no known price.';
comment on column jobs.state is 'planned, running, waiting (for due_at or for leader_seq), then succeeded, failed or cancelled for good.';
comment on column jobs.cache_status is 'result_hit, coalesced, gateway_hit, miss or bypass; null until known.';
comment on column jobs.key is 'Key of the request at the route''s first step.';
comment on column jobs.result_key is 'The row of completions that holds the answer.';
comment on column jobs.result_generation is 'Its generation there.';
comment on column jobs.provider is 'Provider that answered.';
comment on column jobs.model is 'Model that answered, as it was asked for.';
comment on column jobs.error_class is 'Class of the failure, or of the last failed attempt of a waiting job.';
comment on column jobs.error_message is 'What happened and what to do, without any input or answer text.';

create table calls (
    batch_id             uuid        not null,
    seq                  integer     not null,
    ticket_id            bigint      not null,
    number               integer     not null,
    started_at           timestamptz not null default now(),
    settled_at           timestamptz,
    reserved_microusd    bigint      not null,
    cost_microusd        bigint,
    input_tokens         bigint,
    cached_input_tokens  bigint,
    cache_write_tokens   bigint,
    output_tokens        bigint,
    latency_ms           integer,
    http_status          integer,
    step                 integer     not null,
    state                text        not null default 'intent',
    provider             text        not null,
    model                text        not null,
    answered_by          text,
    error_class          text,
    finish_reason        text,
    gateway_cache_status text,
    gateway_log_id       text,
    primary key (batch_id, seq, ticket_id, number),
    constraint calls_state check (state in ('intent', 'settled', 'uncertain')),
    constraint calls_settled check ((state = 'settled') = (settled_at is not null))
) with (fillfactor = 50); -- the settled row is longer than the intent
comment on table calls is 'The call ledger: one row a send, written before the first byte leaves.';
comment on column calls.batch_id is 'The batch.';
comment on column calls.seq is 'The job within the batch.';
comment on column calls.ticket_id is 'The ticket under which the call was made: tells attempts of different workers apart.';
comment on column calls.number is 'Counts the sends of a job under one ticket, from 1.';
comment on column calls.started_at is 'When the intent was written.';
comment on column calls.settled_at is 'When the outcome was written.';
comment on column calls.reserved_microusd is 'Worst-case cost, in millionths of a US dollar; stands until the call is settled.';
comment on column calls.cost_microusd is 'Cost in millionths of a US dollar; null when unknown.';
comment on column calls.input_tokens is 'Prompt tokens, cached ones included.';
comment on column calls.cached_input_tokens is 'Prompt tokens served by the provider''s prefix cache.';
comment on column calls.cache_write_tokens is 'Prompt tokens written to that cache.';
comment on column calls.output_tokens is 'Generated tokens, reasoning included.';
comment on column calls.latency_ms is 'From the first byte sent to the last byte read.';
comment on column calls.http_status is 'Status of the answer; null when none came.';
comment on column calls.step is 'Index of the route''s step that answered or failed last, from 0.';
comment on column calls.state is 'intent, settled, or uncertain: the outcome was lost and the call may have been billed.';
comment on column calls.provider is 'Slug of the provider.';
comment on column calls.model is 'Model asked for.';
comment on column calls.answered_by is 'Model as the provider reported it.';
comment on column calls.error_class is 'Class of the failure; null for a good answer.';
comment on column calls.finish_reason is 'Why the model stopped.';
comment on column calls.gateway_cache_status is 'HIT or MISS of the gateway''s response cache; null when it did not say.';
comment on column calls.gateway_log_id is 'The call''s id in the gateway''s log.';

create table completions (
    project_id          uuid        not null,
    key                 bytea       not null,
    generation          integer     not null default 1,
    created_at          timestamptz not null default now(),
    input_tokens        bigint      not null,
    cached_input_tokens bigint      not null,
    output_tokens       bigint      not null,
    cost_microusd       bigint,
    format              text        not null check (format in ('text', 'json')),
    model               text        not null,
    provider            text        not null,
    answered_by         text        not null,
    output              text        not null,
    primary key (project_id, key, generation)
);
comment on table completions is 'The durable result cache: complete, valid answers by request key.';
comment on column completions.project_id is 'Owner; answers are not shared between projects.';
comment on column completions.key is 'SHA-256 of the canonical request, or of a whole summary tree''s inputs.';
comment on column completions.generation is 'Counts refreshes of the key, from 1; the highest answers look-ups, older ones stay for the results that name them.';
comment on column completions.created_at is 'When the answer was stored.';
comment on column completions.input_tokens is 'Prompt tokens that it took, cached ones included.';
comment on column completions.cached_input_tokens is 'The part of them served by the provider''s prefix cache.';
comment on column completions.output_tokens is 'Tokens that it took to generate.';
comment on column completions.cost_microusd is 'What it cost in millionths of a US dollar; null when unknown.';
comment on column completions.format is 'text or json.';
comment on column completions.model is 'Model asked for.';
comment on column completions.provider is 'Provider that answered.';
comment on column completions.answered_by is 'Model as the provider reported it.';
comment on column completions.output is 'The answer.';

create table workers (
    id          uuid        primary key,
    hostname    text        not null,
    pid         integer     not null,
    slots       integer     not null,
    concurrency integer     not null,
    started_at  timestamptz not null default now(),
    seen_at     timestamptz not null default now()
);
comment on table workers is 'Live worker processes; the dispatch window follows their slots.';
comment on column workers.id is 'Chosen by the process at start.';
comment on column workers.hostname is 'Machine or container.';
comment on column workers.pid is 'Process id there.';
comment on column workers.slots is 'Tickets that it works on at once.';
comment on column workers.concurrency is 'Calls that it keeps in flight at most.';
comment on column workers.started_at is 'When the process registered.';
comment on column workers.seen_at is 'Last heartbeat.';

create table tickets (
    id          bigint      generated always as identity primary key,
    batch_id    uuid        not null,
    purpose     text        not null check (purpose in ('plan', 'run', 'retry')),
    first_seq   integer     not null,
    last_seq    integer     not null,
    jobs        integer     not null,
    posts       integer     not null default 1,
    posted_at   timestamptz not null default now(),
    worker_id   uuid,
    lease_until timestamptz,
    constraint tickets_claimed check ((worker_id is null) = (lease_until is null))
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);
create index tickets_batch on tickets (batch_id); -- is anything outstanding for this batch?
comment on table tickets is 'Outstanding pieces of work: each is one Asynq task, or the lease of the worker that claimed it.';
comment on column tickets.id is 'Never reused: the fencing token of what is done under the ticket.';
comment on column tickets.batch_id is 'The batch.';
comment on column tickets.purpose is 'plan: render inputs; run: first attempts of a range; retry: jobs that are due again.';
comment on column tickets.first_seq is 'First job of the range.';
comment on column tickets.last_seq is 'Last job of the range; for retry known once it is claimed.';
comment on column tickets.jobs is 'How many jobs it was issued for, at most.';
comment on column tickets.posts is 'How often a task was enqueued for this piece of work.';
comment on column tickets.posted_at is 'When the task was last enqueued.';
comment on column tickets.worker_id is 'The worker that holds it; null while posted.';
comment on column tickets.lease_until is 'When the worker counts as dead unless it renews.';

-- +goose Down
drop table tickets, workers, completions, calls, jobs, inputs, batches, documents, routes, templates, api_keys, projects;
