-- Writers of one worker waited for each other: each set of intents and of outcomes updated the row of the slice that they share, and held it
-- until its transaction ended. What a slice counts is now kept in a row for each connection, which nobody else writes.
-- +goose Up
create table budget_tallies (
    slice_id          bigint  not null references budget_slices on delete cascade,
    writer            integer not null,
    reserved_microusd bigint  not null default 0,
    spent_microusd    bigint  not null default 0,
    overrun_microusd  bigint  not null default 0,
    primary key (slice_id, writer)
) with (fillfactor = 20, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);
comment on table budget_tallies is 'What the slices of budgets count, by writer. Only the sums of a slice mean something: one writer reserves, another settles.';
comment on column budget_tallies.slice_id is 'The slice, which whoever writes here holds a lock on.';
comment on column budget_tallies.writer is 'Process id of the connection that wrote, 0 for what an earlier version counted.';
comment on column budget_tallies.reserved_microusd is 'Worst cases of calls in flight.';
comment on column budget_tallies.spent_microusd is 'Charges of calls that ended.';
comment on column budget_tallies.overrun_microusd is 'The part of it by which calls cost more than their worst case.';

insert into budget_tallies select id, 0, reserved_microusd, spent_microusd, overrun_microusd from budget_slices;

create view budget_slice_totals as
select s.id, s.budget_id, s.starts_at, s.worker_id, s.granted_microusd,
       t.reserved_microusd, t.spent_microusd, t.overrun_microusd
from budget_slices s cross join lateral (
    select coalesce(sum(reserved_microusd), 0)::bigint as reserved_microusd, coalesce(sum(spent_microusd), 0)::bigint as spent_microusd,
           coalesce(sum(overrun_microusd), 0)::bigint as overrun_microusd
    from budget_tallies where slice_id = s.id) t;
comment on view budget_slice_totals is 'The slices of budgets with what they count.';
comment on column budget_slice_totals.id is 'The slice.';
comment on column budget_slice_totals.budget_id is 'Its budget.';
comment on column budget_slice_totals.starts_at is 'Start of its period.';
comment on column budget_slice_totals.worker_id is 'The worker that reserves in it.';
comment on column budget_slice_totals.granted_microusd is 'What may be charged in it.';
comment on column budget_slice_totals.reserved_microusd is 'Worst cases of the worker''s calls in flight.';
comment on column budget_slice_totals.spent_microusd is 'Charges of the worker''s calls that ended.';
comment on column budget_slice_totals.overrun_microusd is 'The part of it by which calls cost more than their worst case.';

-- The view is the same but for where a slice's counts are read.
-- +goose StatementBegin
do $$ begin
    execute 'create or replace view reports.ledger_check as ' || replace(pg_get_viewdef('reports.ledger_check'::regclass), 'budget_slices', 'budget_slice_totals');
end $$;
-- +goose StatementEnd
alter table budget_slices drop column reserved_microusd, drop column spent_microusd, drop column overrun_microusd;

-- +goose Down
alter table budget_slices
    add column reserved_microusd bigint not null default 0,
    add column spent_microusd bigint not null default 0,
    add column overrun_microusd bigint not null default 0;
update budget_slices s set reserved_microusd = t.reserved_microusd, spent_microusd = t.spent_microusd, overrun_microusd = t.overrun_microusd
from budget_slice_totals t where t.id = s.id;
-- +goose StatementBegin
do $$ begin
    execute 'create or replace view reports.ledger_check as ' || replace(pg_get_viewdef('reports.ledger_check'::regclass), 'budget_slice_totals', 'budget_slices');
end $$;
-- +goose StatementEnd
comment on column budget_slices.reserved_microusd is 'Worst cases of the worker''s calls in flight.';
comment on column budget_slices.spent_microusd is 'Charges of the worker''s calls that ended.';
comment on column budget_slices.overrun_microusd is 'The part of it by which calls cost more than their worst case.';
drop view budget_slice_totals;
drop table budget_tallies;
