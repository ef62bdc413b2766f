package store_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"batchwright/internal/store"
	"batchwright/internal/store/storetest"
)

// warehouse is somebody else's database, with a table.
func warehouse(t *testing.T, timeout time.Duration) (*store.External, string) {
	t.Helper()
	url := storetest.URL(t)
	storetest.Exec(t, url, `create table articles (id bigint, title text, price numeric, ok boolean, at timestamptz, body bytea, more jsonb, days interval)`)
	storetest.Exec(t, url, `insert into articles values (9007199254740993, 'Eins "1"', 1.50, true, '2026-01-02 03:04:05+02', '\x00ff', '{"a": [1]}', '1 day'),
		(2, null, 'NaN', false, null, null, null, null)`)
	e, err := store.OpenExternal(url, timeout, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	return e, url
}

// rows reads all rows of a statement as one text.
func rows(t *testing.T, e *store.External, sql string) (text string, err error) {
	t.Helper()
	for row, err := range e.Rows(t.Context(), sql, func(names []string) error { text += strings.Join(names, " ") + "\n"; return nil }) {
		if err != nil {
			return text, err
		}
		for _, v := range row {
			if raw, ok := v.(json.RawMessage); ok {
				v = "raw " + string(raw)
			}
			text += fmt.Sprintf("%v|", v)
		}
		text += "\n"
	}
	return text, nil
}

func TestExternalRowsAreReadAsTheyAre(t *testing.T) {
	t.Parallel()
	e, url := warehouse(t, time.Minute)
	const all = `select * from articles order by id desc`
	want := "id title price ok at body more days\n" +
		"raw 9007199254740993|Eins \"1\"|raw 1.50|raw true|2026-01-02 01:04:05+00|[0 255]|raw {\"a\": [1]}|P1D|\nraw 2|<nil>|NaN|raw false|<nil>|<nil>|<nil>|<nil>|\n"
	if got, err := rows(t, e, all); err != nil || got != want {
		t.Errorf("%v\n%s", err, got)
	}
	storetest.Exec(t, url, `do $$ begin execute format('alter database %I set timezone = ''Asia/Tokyo''; ', current_database()); end $$`)
	storetest.Exec(t, url, `do $$ begin execute format('alter database %I set bytea_output = ''escape''; ', current_database()); end $$`)
	if got, err := rows(t, e, all); err != nil || got != want {
		t.Errorf("with other settings: %v\n%s", err, got)
	}
	if names, err := e.Columns(t.Context(), `select id, pg_sleep(60) as s from articles`); err != nil || fmt.Sprint(names) != "[id s]" {
		t.Errorf("%v, %v", names, err)
	}
	stop := errors.New("enough")
	for _, err := range e.Rows(t.Context(), all, func([]string) error { return stop }) {
		if !errors.Is(err, stop) {
			t.Errorf("%v", err)
		}
	}
	n := 0
	for _, err := range e.Rows(t.Context(), `select generate_series(1, 1000000)`, func([]string) error { return nil }) {
		if n++; err != nil || n == 3 {
			break
		}
	}
	if n != 3 {
		t.Errorf("%d rows", n)
	}
}

func TestExternalNeverWritesAndIsBounded(t *testing.T) {
	t.Parallel()
	e, url := warehouse(t, 300*time.Millisecond)
	storetest.Exec(t, url, `create function touch() returns int language plpgsql as $$ begin
		perform set_config('transaction_read_only', 'off', false); insert into articles (id) values (99); return 1; end $$`)
	storetest.Exec(t, url, `create sequence counter`)
	for sql, words := range map[string]string{
		`insert into articles (id) values (3) returning id`:             "writes",
		`with d as (delete from articles returning id) select * from d`: "writes",
		`select touch()`:                     "refused by the database",
		`select nextval('counter')`:          "writes",
		`select id from articles for update`: "writes",
		`create table more (id int)`:         "gives no rows",
		`commit`:                             "gives no rows",
		`set transaction read write`:         "gives no rows",
		`copy articles to stdout`:            "gives no rows",
		`select 1; delete from articles`:     "multiple commands",
		`select id from nothing`:             `relation "nothing" does not exist`,
		`select nothing from articles`:       `column "nothing" does not exist`,
		`selec`:                              "syntax error",
		`select $1::int`:                     "parameters",
		`select 'secret'::text::int`:         "SQLSTATE 22P02",
		`select pg_sleep(60)`:                "longer than 300ms",
		`select set_config('statement_timeout', '0', false), pg_sleep(60)`: "longer than 300ms",
		`select repeat('x', 3000000)`:                                      "a row of more than 1048576 bytes",
	} {
		began := time.Now()
		_, err := rows(t, e, sql)
		x, ok := errors.AsType[*store.ExternalError](err)
		if !ok || !strings.Contains(x.Message, words) || strings.Contains(x.Message, "secret") {
			t.Errorf("%s: %v, want %s", sql, err, words)
		}
		if time.Since(began) > 20*time.Second {
			t.Errorf("%s took %s", sql, time.Since(began))
		}
	}
	if n := storetest.Scalar[int64](t, url, `select count(*) from articles`); n != 2 {
		t.Errorf("%d rows are left", n)
	}
	release := storetest.Lock(t, url, `lock table articles`)
	if _, err := rows(t, e, `select * from articles`); err == nil {
		t.Error("a table that is locked was read")
	}
	release()
	if _, err := store.OpenExternal("host=db password=hunter2 port=x", time.Second, 1<<20); !errors.Is(err, store.ErrExternalURL) || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("%v", err)
	}
	gone, err := store.OpenExternal("postgres://me:hunter2@127.0.0.1:1/none", time.Second, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	_, err = gone.Columns(t.Context(), `select 1`)
	if x, ok := errors.AsType[*store.ExternalError](err); !ok || x.Refused || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("%v", err)
	}
}
