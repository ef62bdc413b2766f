-- The texts of documents, made once: runs, retries and reruns of a document read what the first plan of it made.
-- +goose Up
create table texts (
    project_id      uuid        not null,
    document_sha256 bytea       not null,
    format          text        not null,
    version         integer     not null,
    extractor       text        not null,
    sha256          bytea       check (octet_length(sha256) = 32),
    title           text        not null default '',
    pages           integer     not null default 0,
    characters      integer     not null default 0,
    letters         real        not null default 0,
    body            text,
    error_code      text,
    error_message   text,
    created_at      timestamptz not null default now(),
    primary key (project_id, document_sha256, format, version),
    -- A purge of documents takes their texts along: nothing else refers to them.
    foreign key (project_id, document_sha256) references documents (project_id, sha256) on delete cascade,
    constraint texts_outcome check ((sha256 is null) = (error_code is not null)),
    constraint texts_failure check ((error_code is null) = (error_message is null)),
    constraint texts_body check (body is null or error_code is null)
);
comment on table texts is 'What was read of each document, or why nothing could be: one row a document, format and version of the readers.';
comment on column texts.project_id is 'Owner.';
comment on column texts.document_sha256 is 'The document; its bytes are in documents.';
comment on column texts.format is 'Format that the document was read in.';
comment on column texts.version is 'Version of the readers: raised when they make other texts of the same bytes.';
comment on column texts.extractor is 'What made the text: the format''s own reader, or the name and version of another program.';
comment on column texts.sha256 is 'SHA-256 of title and text: keys of results hang on it. Null when there is no text.';
comment on column texts.title is 'As the document names itself; empty if it does not.';
comment on column texts.pages is 'Pages, slides or sheets; 0 for what has none.';
comment on column texts.characters is 'Characters of the text.';
comment on column texts.letters is 'Share of letters in them, white space aside, from 0 to 1.';
comment on column texts.body is 'The text; null for plain text and markdown, which are read from the document again for less than this would cost.';
comment on column texts.error_code is 'Why there is no text (no_text, damaged, encrypted, timeout, ...); null when there is.';
comment on column texts.error_message is 'The same in words, with what was found.';
comment on column texts.created_at is 'When the document was read.';

-- +goose Down
drop table texts;
