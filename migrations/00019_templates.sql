-- Typed output: what a call was made for, how far up the repair ladder an answer had to go, and the answers that no rung could use.
-- +goose Up
alter table calls add column purpose text check (purpose in ('longer', 'repair'));
comment on column calls.purpose is 'Why the job asked once more: longer, with more room for an answer that was cut off; repair, for one that did not meet the schema. Null for its first question.';
alter table jobs add column repaired text check (repaired in ('fences', 'syntax', 'asked'));
comment on column jobs.repaired is 'What made its JSON answer usable: fences stripped, syntax mended, or the model asked again. Null for an answer that was good as it came.';

create table invalid_outputs (
    batch_id   uuid        not null,
    seq        integer     not null,
    created_at timestamptz not null default now(),
    output     text        not null,
    primary key (batch_id, seq)
);
comment on table invalid_outputs is 'The last answer to a job that failed as invalid_output, as the model gave it. It goes with its batch.';
comment on column invalid_outputs.batch_id is 'The batch.';
comment on column invalid_outputs.seq is 'The job within the batch.';
comment on column invalid_outputs.created_at is 'When the answer was stored.';
comment on column invalid_outputs.output is 'The answer.';

create index batches_template on batches (template_id) where template_id is not null; -- TemplateAnswers: the batches of some versions

-- Whatever columns the views have by now, one more at the end.
-- +goose StatementBegin
do $$
begin
    execute 'create or replace view reports.jobs with (security_barrier) as '
        || replace(pg_get_viewdef('reports.jobs'::regclass), E'\n   FROM ', E',\n    j.repaired\n   FROM ');
    execute 'create or replace view reports.calls with (security_barrier) as '
        || replace(pg_get_viewdef('reports.calls'::regclass), E'\n   FROM ', E',\n    c.purpose\n   FROM ');
end $$;
-- +goose StatementEnd
comment on column reports.jobs.repaired is 'What made its JSON answer usable: fences, syntax or asked. Null for one that was good as it came.';
comment on column reports.calls.purpose is 'Why the job asked once more: longer or repair. Null for its first question.';

-- +goose Down
-- A column can't be taken from a view: the views are made anew, with their comments.
-- +goose StatementBegin
do $$
declare
    v record;
    notes text[];
    note text;
    body text;
begin
    for v in select * from (values ('reports.jobs'::regclass, 'j.repaired', 'repaired'), ('reports.calls'::regclass, 'c.purpose', 'purpose')) as t(view, selected, name) loop
        select array_agg(format('comment on column %s.%I is %L', v.view, attname, col_description(attrelid, attnum)))
            || format('comment on view %s is %L', v.view, obj_description(v.view)) into notes
        from pg_attribute where attrelid = v.view and attnum > 0 and attname <> v.name and col_description(attrelid, attnum) is not null;
        body := format('create view %s with (security_barrier) as %s', v.view, replace(pg_get_viewdef(v.view), E',\n    ' || v.selected, ''));
        execute format('drop view %s', v.view);
        execute body;
        foreach note in array notes loop
            execute note;
        end loop;
    end loop;
end $$;
-- +goose StatementEnd
drop index batches_template;
drop table invalid_outputs;
alter table jobs drop column repaired;
alter table calls drop column purpose;
