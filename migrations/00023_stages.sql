-- Which stage of a pipeline a call was made for.
-- +goose Up
alter table calls add column stage text;
comment on column calls.stage is 'The name of the stage of a pipeline that asked. Null for other kinds, and for calls from before there was this column.';

-- Whatever columns the view has by now, one more at the end.
-- +goose StatementBegin
do $$
begin
    execute 'create or replace view reports.calls with (security_barrier) as '
        || replace(pg_get_viewdef('reports.calls'::regclass), E'\n   FROM ', E',\n    c.stage\n   FROM ');
end $$;
-- +goose StatementEnd
comment on column reports.calls.stage is 'The stage of a pipeline that asked. Null for other kinds.';

-- +goose Down
-- A column can't be taken from a view: it is made anew, with its comments.
-- +goose StatementBegin
do $$
declare
    notes text[];
    note text;
    body text;
begin
    select array_agg(format('comment on column reports.calls.%I is %L', attname, col_description(attrelid, attnum)))
        || format('comment on view reports.calls is %L', obj_description('reports.calls'::regclass)) into notes
    from pg_attribute where attrelid = 'reports.calls'::regclass and attnum > 0 and attname <> 'stage' and col_description(attrelid, attnum) is not null;
    body := 'create view reports.calls with (security_barrier) as ' || replace(pg_get_viewdef('reports.calls'::regclass), E',\n    c.stage', '');
    drop view reports.calls;
    execute body;
    foreach note in array notes loop
        execute note;
    end loop;
end $$;
-- +goose StatementEnd
alter table calls drop column stage;
