-- Prices as rows: those that the server runs with, copied here when it starts, and those of projects, which come before them. With them, costs
-- can be recomputed where the calls are, and reports can say what would have been paid.
-- +goose Up
comment on column projects.budget_epoch is 'Grows with every new budget and with every change of the project''s prices: an intent is refused to a worker that doesn''t know them all.';

create table prices (
    id                           uuid        primary key,
    project_id                   uuid        references projects,
    provider                     text        not null,
    model                        text        not null,
    valid_from                   date        not null,
    valid_to                     date,
    input_microusd               bigint      not null,
    output_microusd              bigint      not null,
    cached_input_microusd        bigint      not null,
    cache_write_microusd         bigint      not null,
    long_above_tokens            bigint,
    long_input_microusd          bigint,
    long_output_microusd         bigint,
    long_cached_input_microusd   bigint,
    long_cache_write_microusd    bigint,
    batch_input_microusd         bigint,
    batch_output_microusd        bigint,
    batch_cached_input_microusd  bigint,
    batch_cache_write_microusd   bigint,
    context_window               integer     not null default 0,
    max_output_tokens            integer     not null default 0,
    api_key_id                   uuid,
    updated_at                   timestamptz not null default now(),
    constraint prices_dates check (valid_to > valid_from),
    constraint prices_positive check (least(input_microusd, output_microusd, cached_input_microusd, cache_write_microusd, long_above_tokens, long_input_microusd,
        long_output_microusd, long_cached_input_microusd, long_cache_write_microusd, batch_input_microusd, batch_output_microusd,
        batch_cached_input_microusd, batch_cache_write_microusd, context_window, max_output_tokens) >= 0),
    constraint prices_long check (num_nulls(long_above_tokens, long_input_microusd, long_output_microusd, long_cached_input_microusd, long_cache_write_microusd) in (0, 5)),
    constraint prices_batch check (num_nulls(batch_input_microusd, batch_output_microusd, batch_cached_input_microusd, batch_cache_write_microusd) in (0, 4))
);
create unique index prices_server on prices (provider, model, valid_from) where project_id is null;                   -- PublishPrices, price_at
create unique index prices_project on prices (project_id, provider, model, valid_from) where project_id is not null; -- SetPrice, price_at
comment on table prices is 'What models cost from a day on, in micro-dollars per million tokens: the server''s table, and what projects put over it.';
comment on column prices.id is 'UUID, version 7 for a project''s rows.';
comment on column prices.project_id is 'Owner; null for the server''s own table, which is copied here when a process starts.';
comment on column prices.provider is 'Slug of the provider.';
comment on column prices.model is 'Model as it is asked for, without the date of a snapshot; * for every model of the provider without a row of its own.';
comment on column prices.valid_from is 'First UTC day.';
comment on column prices.valid_to is 'UTC day on which it holds no more; null for until a later row begins.';
comment on column prices.input_microusd is 'Uncached input.';
comment on column prices.output_microusd is 'Output, reasoning included.';
comment on column prices.cached_input_microusd is 'Input served from the provider''s prefix cache.';
comment on column prices.cache_write_microusd is 'Input written to that cache.';
comment on column prices.long_above_tokens is 'Calls with more input tokens than this are priced by the four columns below; null when there is no such tier.';
comment on column prices.long_input_microusd is 'Uncached input of a long call.';
comment on column prices.long_output_microusd is 'Output of a long call.';
comment on column prices.long_cached_input_microusd is 'Cached input of a long call.';
comment on column prices.long_cache_write_microusd is 'Cache writes of a long call.';
comment on column prices.batch_input_microusd is 'Uncached input by the provider''s batch interface; null when none is listed. No call is charged by it.';
comment on column prices.batch_output_microusd is 'Output by that interface.';
comment on column prices.batch_cached_input_microusd is 'Cached input by that interface.';
comment on column prices.batch_cache_write_microusd is 'Cache writes by that interface.';
comment on column prices.context_window is 'In tokens, 0 when unknown.';
comment on column prices.max_output_tokens is 'Most tokens of an answer, 0 when unknown.';
comment on column prices.api_key_id is 'The key that set it last; null for the server''s table.';
comment on column prices.updated_at is 'When it last changed.';

create table call_notes (
    batch_id               uuid    not null,
    seq                    integer not null,
    ticket_id              bigint  not null,
    number                 integer not null,
    cost_reported          boolean not null,
    replayed_input_tokens  bigint,
    replayed_cached_tokens bigint,
    replayed_output_tokens bigint,
    replayed_microusd      bigint,
    primary key (batch_id, seq, ticket_id, number)
);
comment on table call_notes is 'Of the calls whose cost isn''t that of their tokens by the price table: why. Most calls have no row.';
comment on column call_notes.batch_id is 'The batch.';
comment on column call_notes.seq is 'The job within the batch.';
comment on column call_notes.ticket_id is 'The ticket of the call.';
comment on column call_notes.number is 'Its number under the ticket.';
comment on column call_notes.cost_reported is 'The provider said what it charged, and that is the cost.';
comment on column call_notes.replayed_input_tokens is 'Of a hit in the gateway''s cache: prompt tokens of the call that filled it, cached ones included; null when unknown, as those below.';
comment on column call_notes.replayed_cached_tokens is 'The part of them served by the provider''s prefix cache.';
comment on column call_notes.replayed_output_tokens is 'Tokens that it took to generate the answer.';
comment on column call_notes.replayed_microusd is 'What those tokens would have cost at the prices of the day of the hit; null when unknown.';

create table reprices (
    id                uuid        primary key,
    project_id        uuid        not null references projects,
    api_key_id        uuid        not null,
    dry_run           boolean     not null,
    from_time         timestamptz not null,
    to_time           timestamptz not null,
    provider          text        not null default '',
    model             text        not null default '',
    as_of             date,
    at_batch          uuid        not null default '00000000-0000-0000-0000-000000000000',
    after_seq         integer     not null default 0,
    batches           bigint      not null default 0,
    calls             bigint      not null default 0,
    changed_calls     bigint      not null default 0,
    reported_calls    bigint      not null default 0,
    old_cost_microusd numeric     not null default 0,
    new_cost_microusd numeric     not null default 0,
    unknown_before    bigint      not null default 0,
    unknown_after     bigint      not null default 0,
    started_at        timestamptz not null default now(),
    finished_at       timestamptz
);
create index reprices_project on reprices (project_id, id desc); -- ListReprices
comment on table reprices is 'Each time that costs were recomputed, or would have been: who, when, which calls, and what changed.';
comment on column reprices.id is 'UUID, version 7.';
comment on column reprices.project_id is 'Owner of the calls.';
comment on column reprices.api_key_id is 'The key that asked for it.';
comment on column reprices.dry_run is 'Nothing was changed.';
comment on column reprices.from_time is 'Calls that started then or later.';
comment on column reprices.to_time is 'Calls that started before.';
comment on column reprices.provider is 'Calls to this provider only; empty for all.';
comment on column reprices.model is 'Calls that asked for this model only; empty for all.';
comment on column reprices.as_of is 'The UTC day whose prices were taken; null for those of the day on which each call started.';
comment on column reprices.at_batch is 'How far it is: the batch, of which the jobs up to the next column are done.';
comment on column reprices.after_seq is 'How far it is in that batch.';
comment on column reprices.batches is 'Finished batches that it went through.';
comment on column reprices.calls is 'Settled calls that it looked at.';
comment on column reprices.changed_calls is 'Those whose cost is another than before.';
comment on column reprices.reported_calls is 'Those that keep the cost that their provider reported.';
comment on column reprices.old_cost_microusd is 'Sum of the known costs before.';
comment on column reprices.new_cost_microusd is 'Sum of the known costs after.';
comment on column reprices.unknown_before is 'Calls whose cost was unknown.';
comment on column reprices.unknown_after is 'Calls whose cost is unknown.';
comment on column reprices.started_at is 'When it was asked for.';
comment on column reprices.finished_at is 'When the last call was done; null while some are left.';

comment on column budget_periods.overrun_microusd is 'The part of it by which calls cost more than their worst case, a price or a token count that was too low, or by which their costs were raised later.';

-- The row by which a call is priced: pricing.Table.Lookup in SQL, and a test holds the two together.
-- +goose StatementBegin
create function price_at(project uuid, provider text, model text, day date) returns setof prices language sql stable rows 1 as $$
select p.* from prices p
join (select 1, $3 union all
      select 2, left($3, -length(d)) from substring($3 from '.(-20[2-9][0-9]-(?:0[1-9]|1[0-2])-[0-9]{2}|[-@]20[2-9][0-9](?:0[1-9]|1[0-2])[0-9]{2})$') as d
      where case when d is not null then right(d, 2)::int between 1
          and extract(day from (left(translate(d, '-@', ''), 6) || '01')::date + interval '1 month' - interval '1 day') else false end
      union all select 3, '*') n(rank, name) on p.model = n.name
where p.provider = $2 and (p.project_id = $1 or p.project_id is null) and p.valid_from <= $4 and coalesce(p.valid_to > $4, true)
order by n.rank, p.project_id is null, p.valid_from desc limit 1
$$;
-- The cost of a call: pricing.Price.Cost in SQL. Rounded half up, once. Of the input, cached tokens and those written to the cache are parts.
create function call_cost(p prices, input bigint, cached bigint, written bigint, output bigint) returns bigint language sql immutable as $$
select case when p.input_microusd is not null then least(div(greatest(input - cached - written, 0)::numeric * case when input > p.long_above_tokens then p.long_input_microusd else p.input_microusd end
    + greatest(cached, 0)::numeric * case when input > p.long_above_tokens then p.long_cached_input_microusd else p.cached_input_microusd end
    + greatest(written, 0)::numeric * case when input > p.long_above_tokens then p.long_cache_write_microusd else p.cache_write_microusd end
    + greatest(output, 0)::numeric * case when input > p.long_above_tokens then p.long_output_microusd else p.output_microusd end
    + 500000, 1000000), 9223372036854775807)::bigint end
$$;
-- +goose StatementEnd

create view reports.savings as
select b.project_id, p.name as project, b.id as batch_id, b.name as batch, (b.created_at at time zone 'UTC')::date as day, s.saving, s.provider, s.model,
       s.uses, s.unknown, s.input_tokens, s.output_tokens, s.saved_microusd
from (
    -- What the answers cost when they were made. One that took no call, because the gateway had it, is not saved here.
    select j.batch_id, case j.cache_status when 'result_hit' then 'result_cache' else 'coalesced' end as saving, c.provider, c.model, count(*) as uses,
           count(*) filter (where c.cost_microusd is null) as unknown, coalesce(sum(c.input_tokens), 0)::bigint as input_tokens,
           coalesce(sum(c.output_tokens), 0)::bigint as output_tokens, coalesce(sum(c.cost_microusd), 0)::bigint as saved_microusd
    from jobs j join batches b on b.id = j.batch_id
    join completions c on c.project_id = b.project_id and c.key = j.result_key and c.generation = j.result_generation
    where j.cache_status in ('result_hit', 'coalesced') and j.state = 'succeeded'
    group by 1, 2, 3, 4
    union all
    select c.batch_id, 'gateway_cache', c.provider, c.model, count(*), count(*) filter (where n.replayed_microusd is null),
           coalesce(sum(n.replayed_input_tokens), 0)::bigint, coalesce(sum(n.replayed_output_tokens), 0)::bigint, coalesce(sum(n.replayed_microusd), 0)::bigint
    from calls c left join call_notes n on n.batch_id = c.batch_id and n.seq = c.seq and n.ticket_id = c.ticket_id and n.number = c.number
    where c.gateway_cache_status = 'HIT' and c.state = 'settled'
    group by 1, 2, 3, 4
    union all
    -- What the provider's cache took off, less what it took for being written to, by the prices of the day of the call.
    select c.batch_id, 'prefix_cache', c.provider, c.model, count(*), count(*) filter (where r.id is null), coalesce(sum(c.cached_input_tokens), 0)::bigint, 0,
           coalesce(sum(call_cost(r, c.input_tokens, 0, 0, 0) - call_cost(r, c.input_tokens, c.cached_input_tokens, coalesce(c.cache_write_tokens, 0), 0)), 0)::bigint
    from (select c.batch_id, c.provider, c.model, (c.started_at at time zone 'UTC')::date as day
          from calls c where c.state = 'settled' and (c.cached_input_tokens > 0 or c.cache_write_tokens > 0) group by 1, 2, 3, 4) g
    join batches b on b.id = g.batch_id
    left join lateral price_at(b.project_id, g.provider, g.model, g.day) r on true
    join calls c on c.batch_id = g.batch_id and c.provider = g.provider and c.model = g.model and (c.started_at at time zone 'UTC')::date = g.day
    where c.state = 'settled' and (c.cached_input_tokens > 0 or c.cache_write_tokens > 0)
    group by 1, 2, 3, 4) s
join batches b on b.id = s.batch_id
join projects p on p.id = b.project_id;
comment on view reports.savings is 'What batches would have cost more without each cache: never to be added up without saying so, since one cache hides what another would have saved.';
comment on column reports.savings.project_id is 'Owner.';
comment on column reports.savings.project is 'Name of the owner.';
comment on column reports.savings.batch_id is 'The batch.';
comment on column reports.savings.batch is 'Name of the batch.';
comment on column reports.savings.day is 'UTC day on which it was submitted.';
comment on column reports.savings.saving is 'result_cache (our durable cache), coalesced (an identical job at the same time), gateway_cache, or prefix_cache (of the provider).';
comment on column reports.savings.provider is 'Provider that made the answers, or served the tokens.';
comment on column reports.savings.model is 'Model asked for.';
comment on column reports.savings.uses is 'Jobs, for the first two; calls, for the others.';
comment on column reports.savings.unknown is 'Those of them whose saving is unknown and so not in the sum.';
comment on column reports.savings.input_tokens is 'Prompt tokens that weren''t paid for; of prefix_cache, those that were cheaper.';
comment on column reports.savings.output_tokens is 'Generated tokens that weren''t paid for.';
comment on column reports.savings.saved_microusd is 'In millionths of a US dollar: what the answers cost when they were made; gateway_cache and prefix_cache at the prices of the day of the call. Negative when writing to a prefix cache cost more than reading saved.';

create view reports.cost_drift as
select b.project_id, p.name as project, (c.started_at at time zone 'UTC')::date as day, c.provider, c.model, count(*) as calls,
       count(*) filter (where l.id is null) as unlogged_calls,
       count(*) filter (where l.id is not null and (c.cost_microusd is null or l.cost_nano_usd is null)) as unknown_calls,
       count(*) filter (where c.cost_microusd is not null and l.cost_nano_usd is not null) as compared_calls,
       coalesce(sum(c.cost_microusd) filter (where l.cost_nano_usd is not null), 0)::bigint * 1000 as cost_nanousd,
       coalesce(sum(l.cost_nano_usd) filter (where c.cost_microusd is not null), 0)::bigint as gateway_cost_nanousd,
       coalesce(sum(c.cost_microusd * 1000 - l.cost_nano_usd), 0)::bigint as drift_nanousd
from calls c
join batches b on b.id = c.batch_id
join projects p on p.id = b.project_id
left join gateway_logs l on l.id = case when c.gateway_log_id ~ '^[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}$' then c.gateway_log_id::uuid end
where c.state = 'settled' and c.gateway_log_id is not null
group by 1, 2, 3, 4, 5;
comment on view reports.cost_drift is 'Costs of the call ledger beside those in the log of our own gateway, for the calls that a gateway gave a log id.';
comment on column reports.cost_drift.project_id is 'Owner.';
comment on column reports.cost_drift.project is 'Name of the owner.';
comment on column reports.cost_drift.day is 'UTC day on which the calls started.';
comment on column reports.cost_drift.provider is 'Provider.';
comment on column reports.cost_drift.model is 'Model asked for.';
comment on column reports.cost_drift.calls is 'Settled calls with a log id.';
comment on column reports.cost_drift.unlogged_calls is 'Those whose log isn''t here: another gateway''s, or trimmed.';
comment on column reports.cost_drift.unknown_calls is 'Those in the log whose cost one of the two doesn''t know.';
comment on column reports.cost_drift.compared_calls is 'Those whose cost both know; the sums are of these.';
comment on column reports.cost_drift.cost_nanousd is 'Their cost by the call ledger, in billionths of a US dollar; each is a whole number of millionths.';
comment on column reports.cost_drift.gateway_cost_nanousd is 'Their cost by the gateway''s log, in billionths of a US dollar.';
comment on column reports.cost_drift.drift_nanousd is 'The ledger''s less the log''s. Rounding alone makes up to 500 a call; more is a price that one of them doesn''t have.';

-- +goose Down
comment on column projects.budget_epoch is 'Grows with every new budget: an intent is refused to a worker that doesn''t know them all.';
drop view reports.cost_drift, reports.savings;
drop function call_cost, price_at;
comment on column budget_periods.overrun_microusd is 'The part of it by which calls cost more than their worst case: a price or a token count that was too low.';
drop table reprices, call_notes, prices;
