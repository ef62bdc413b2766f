-- The self-hosted AI gateway: its configuration and its log.
-- +goose Up
create sequence gateway_revisions as bigint;
comment on sequence gateway_revisions is 'One for all gateways, so that a gateway made again under an old name never has an old revision.';

create table gateways (
    account     text        not null check (char_length(account) between 1 and 64),
    id          text        not null check (char_length(id) between 1 and 64),
    settings    json        not null,
    revision    bigint      not null default nextval('gateway_revisions'),
    created_at  timestamptz not null default now(),
    modified_at timestamptz not null default now(),
    primary key (account, id)
);
comment on table gateways is 'Self-hosted AI gateways.';
comment on column gateways.account is 'The account segment of the gateway''s URL.';
comment on column gateways.id is 'The gateway segment of its URL, unique within the account.';
comment on column gateways.settings is 'Its configuration, in Cloudflare''s field names.';
comment on column gateways.revision is 'Grows with every change of the gateway, its keys and routes, or the account''s custom providers.';
comment on column gateways.created_at is 'When it was made.';
comment on column gateways.modified_at is 'When its settings last changed.';

create table gateway_tokens (
    id         uuid        primary key,
    account    text        not null,
    name       text        not null,
    hash       bytea       not null unique check (octet_length(hash) = 32), -- GatewayTokenByHash
    run        boolean     not null,
    read       boolean     not null,
    edit       boolean     not null,
    created_at timestamptz not null default now()
);
create index gateway_tokens_account on gateway_tokens (account, id); -- GatewayTokens
comment on table gateway_tokens is 'Tokens of callers and administrators of gateways; the token itself is not kept.';
comment on column gateway_tokens.id is 'UUID, version 7.';
comment on column gateway_tokens.account is 'The account that it is good for.';
comment on column gateway_tokens.name is 'What it is for, in its maker''s words.';
comment on column gateway_tokens.hash is 'SHA-256 of the token, which is random.';
comment on column gateway_tokens.run is 'May send requests through gateways.';
comment on column gateway_tokens.read is 'May read configuration and logs.';
comment on column gateway_tokens.edit is 'May change configuration and logs.';
comment on column gateway_tokens.created_at is 'When it was made.';

create table provider_keys (
    id                uuid        primary key,
    account           text        not null,
    gateway           text        not null,
    provider          text        not null,
    alias             text        not null,
    is_default        boolean     not null,
    sealed            bytea       not null,
    preview           text        not null,
    rate_limit        integer     not null default 0 check (rate_limit >= 0),
    rate_limit_period integer     not null default 0 check (rate_limit_period >= 0),
    created_at        timestamptz not null default now(),
    modified_at       timestamptz not null default now(),
    unique (account, gateway, provider, alias), -- SaveProviderKey, ProviderKeys
    foreign key (account, gateway) references gateways on delete cascade
);
comment on table provider_keys is 'Keys of providers that a gateway puts on requests, encrypted by the server.';
comment on column provider_keys.id is 'UUID, version 7.';
comment on column provider_keys.account is 'Account of the gateway.';
comment on column provider_keys.gateway is 'The gateway.';
comment on column provider_keys.provider is 'Slug of the provider.';
comment on column provider_keys.alias is 'Name among the keys of the provider; a request may ask for it.';
comment on column provider_keys.is_default is 'Used when a request names no alias.';
comment on column provider_keys.sealed is 'The key under AES-256-GCM; the database never sees it in the clear.';
comment on column provider_keys.preview is 'Its last characters, for people.';
comment on column provider_keys.rate_limit is 'Requests allowed in rate_limit_period; 0 is no limit.';
comment on column provider_keys.rate_limit_period is 'In seconds.';
comment on column provider_keys.created_at is 'When it was made.';
comment on column provider_keys.modified_at is 'When it was last replaced.';

create table gateway_routes (
    id            uuid        primary key,
    account       text        not null,
    gateway       text        not null,
    name          text        not null,
    deployment_id uuid        not null,
    created_at    timestamptz not null default now(),
    modified_at   timestamptz not null default now(),
    unique (account, gateway, name), -- DeployedRoutes
    foreign key (account, gateway) references gateways on delete cascade
);
comment on table gateway_routes is 'Dynamic routes of gateways: callers ask for the model dynamic/NAME.';
comment on column gateway_routes.id is 'UUID, version 7.';
comment on column gateway_routes.account is 'Account of the gateway.';
comment on column gateway_routes.gateway is 'The gateway.';
comment on column gateway_routes.name is 'Name within the gateway.';
comment on column gateway_routes.deployment_id is 'The latest deployment: it names the version that is live.';
comment on column gateway_routes.created_at is 'When it was made.';
comment on column gateway_routes.modified_at is 'When it was last renamed or deployed.';

create table gateway_route_versions (
    id         uuid        primary key,
    route_id   uuid        not null references gateway_routes on delete cascade,
    elements   json        not null,
    comment    text        not null,
    created_at timestamptz not null default now()
);
create index gateway_route_versions_route on gateway_route_versions (route_id, id desc); -- GatewayRouteVersions
comment on table gateway_route_versions is 'Graphs of dynamic routes. A row never changes: an edit is a new version.';
comment on column gateway_route_versions.id is 'UUID, version 7: ordered by creation.';
comment on column gateway_route_versions.route_id is 'The route.';
comment on column gateway_route_versions.elements is 'Nodes and edges, as they were saved.';
comment on column gateway_route_versions.comment is 'In its maker''s words.';
comment on column gateway_route_versions.created_at is 'When it was saved.';

create table gateway_route_deployments (
    id         uuid        primary key,
    route_id   uuid        not null references gateway_routes on delete cascade,
    version_id uuid        not null,
    comment    text        not null,
    created_at timestamptz not null default now()
);
create index gateway_route_deployments_route on gateway_route_deployments (route_id, id desc); -- GatewayRouteDeployments
comment on table gateway_route_deployments is 'Which version of a route was made the live one, and when.';
comment on column gateway_route_deployments.id is 'UUID, version 7: ordered by creation.';
comment on column gateway_route_deployments.route_id is 'The route.';
comment on column gateway_route_deployments.version_id is 'The version.';
comment on column gateway_route_deployments.comment is 'In its maker''s words.';
comment on column gateway_route_deployments.created_at is 'When it went live.';

create table custom_providers (
    id           uuid        primary key,
    account      text        not null,
    name         text        not null,
    slug         text        not null,
    base_url     text        not null,
    description  text        not null default '',
    link         text        not null default '',
    curl_example text        not null default '',
    js_example   text        not null default '',
    enable       boolean     not null,
    beta         boolean     not null,
    created_at   timestamptz not null default now(),
    modified_at  timestamptz not null default now(),
    unique (account, slug) -- CustomProviders, EnabledProviders
);
comment on table custom_providers is 'Providers that an account adds; callers use the slug custom-SLUG.';
comment on column custom_providers.id is 'UUID, version 7.';
comment on column custom_providers.account is 'The account; all its gateways serve the provider.';
comment on column custom_providers.name is 'Name for people.';
comment on column custom_providers.slug is 'Name in URLs, without the prefix custom-.';
comment on column custom_providers.base_url is 'What request paths are joined to.';
comment on column custom_providers.description is 'In its maker''s words.';
comment on column custom_providers.link is 'Its documentation.';
comment on column custom_providers.curl_example is 'An example call, for people.';
comment on column custom_providers.js_example is 'An example call, for people.';
comment on column custom_providers.enable is 'Whether requests are served.';
comment on column custom_providers.beta is 'A label.';
comment on column custom_providers.created_at is 'When it was made.';
comment on column custom_providers.modified_at is 'When it last changed.';

-- No foreign key: it would be checked a row, thousands of times a second. An insert joins gateways, once a set.
create table gateway_logs (
    id                    uuid             primary key, -- GatewayLog
    account               text             not null,
    gateway               text             not null,
    created_at            timestamptz      not null,
    event_id              text             not null,
    request_id            text             not null,
    provider              text             not null,
    model                 text             not null,
    model_type            text             not null,
    path                  text             not null,
    request_type          text             not null,
    request_content_type  text             not null,
    response_content_type text             not null,
    user_agent            text             not null,
    status_code           integer          not null,
    success               boolean          not null,
    cached                boolean          not null,
    authenticated         boolean          not null,
    streamed              boolean          not null,
    custom_cost           boolean          not null,
    duration_us           bigint           not null,
    tokens_in             bigint           not null,
    tokens_out            bigint           not null,
    cost_nano_usd         bigint,
    custom_cost_rates     jsonb,
    metadata              jsonb,
    step                  integer          not null,
    dlp_action            text             not null,
    feedback              smallint         check (feedback in (-1, 1)),
    score                 double precision,
    request_size          bigint           not null,
    response_size         bigint           not null
);
-- GatewayLogs newest first, CountGatewayLogs, TrimGatewayLogs; other filters test the rows that it leads to.
create index gateway_logs_time on gateway_logs (account, gateway, created_at, id);
-- GatewayLogs by event_id: a caller joins its rows to what they cost.
create index gateway_logs_event on gateway_logs (account, gateway, event_id);
comment on table gateway_logs is 'One row a request through a gateway.';
comment on column gateway_logs.id is 'UUID, version 7; the caller got it as cf-aig-log-id.';
comment on column gateway_logs.account is 'Account of the gateway.';
comment on column gateway_logs.gateway is 'The gateway.';
comment on column gateway_logs.created_at is 'When the request came.';
comment on column gateway_logs.event_id is 'The caller''s own id of the request, else one that was made up.';
comment on column gateway_logs.request_id is 'Joins the rows of one request that took several steps.';
comment on column gateway_logs.provider is 'Slug of the provider asked.';
comment on column gateway_logs.model is 'Model, as the provider reported it, else as asked for.';
comment on column gateway_logs.model_type is 'What the model does, such as chat.';
comment on column gateway_logs.path is 'Path below the provider''s base URL.';
comment on column gateway_logs.request_type is 'The surface that the request used: native, universal or compat.';
comment on column gateway_logs.request_content_type is 'Media type of the request.';
comment on column gateway_logs.response_content_type is 'Media type of the answer.';
comment on column gateway_logs.user_agent is 'The caller''s User-Agent.';
comment on column gateway_logs.status_code is 'HTTP status that the caller got.';
comment on column gateway_logs.success is 'Whether the answer was a good one.';
comment on column gateway_logs.cached is 'Whether it came from the gateway''s response cache.';
comment on column gateway_logs.authenticated is 'Whether the caller showed a valid gateway token.';
comment on column gateway_logs.streamed is 'Whether the answer was a stream of events.';
comment on column gateway_logs.custom_cost is 'Whether the caller said what it cost.';
comment on column gateway_logs.duration_us is 'From the request to the end of the answer, in microseconds.';
comment on column gateway_logs.tokens_in is 'Prompt tokens, cached ones included.';
comment on column gateway_logs.tokens_out is 'Generated tokens.';
comment on column gateway_logs.cost_nano_usd is 'In billionths of a US dollar; null when it is not known.';
comment on column gateway_logs.custom_cost_rates is 'The rates that the caller gave.';
comment on column gateway_logs.metadata is 'The caller''s tags: at most five.';
comment on column gateway_logs.step is 'Index of the step of the chain.';
comment on column gateway_logs.dlp_action is 'FLAG, BLOCK or MASK when a scan for sensitive data found something.';
comment on column gateway_logs.feedback is '1 liked, -1 disliked.';
comment on column gateway_logs.score is 'Somebody''s verdict on the answer.';
comment on column gateway_logs.request_size is 'In bytes.';
comment on column gateway_logs.response_size is 'In bytes.';

create table gateway_log_bodies (
    log_id   uuid primary key, -- GatewayLogBody
    request  bytea,
    response bytea
);
comment on table gateway_log_bodies is 'What was asked and answered, for the requests that keep it.';
comment on column gateway_log_bodies.log_id is 'The row in gateway_logs.';
comment on column gateway_log_bodies.request is 'The request as received; null when it is not kept.';
comment on column gateway_log_bodies.response is 'The answer as sent; null when it is not kept.';

-- Bodies are JSON, and LZ4 packs that as small as Postgres' own way does in a quarter of the time. Not every Postgres has it.
-- +goose StatementBegin
do $$
begin
    alter table gateway_log_bodies alter column request set compression lz4, alter column response set compression lz4;
exception when feature_not_supported then
    raise notice 'this Postgres has no LZ4';
end
$$;
-- +goose StatementEnd

-- +goose Down
drop table gateway_log_bodies, gateway_logs, custom_providers, gateway_route_deployments, gateway_route_versions, gateway_routes,
    provider_keys, gateway_tokens, gateways;
drop sequence gateway_revisions;
