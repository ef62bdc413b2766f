package store

import (
	"cmp"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/jackc/pgx/v5/pgtype"
)

// External is somebody else's Postgres, which is only read: each statement by itself, on a connection of its own, in a transaction that can't
// write. What the connection's role may see is all that bounds what a statement shows.
type External struct {
	cfg     *pgx.ConnConfig
	timeout time.Duration
	maxRow  int
}

// ErrExternalURL means that a text is no URL of a Postgres.
var ErrExternalURL = errors.New("store: no Postgres URL")

// OpenExternal returns the database at a URL, without connecting to it. Timeout bounds a statement with the reading of its rows, maxRow the bytes
// of a row as Postgres sends it. The error is ErrExternalURL, without the URL.
func OpenExternal(url string, timeout time.Duration, maxRow int) (*External, error) {
	cfg, err := pgx.ParseConfig(url)
	if err != nil || !strings.HasPrefix(url, "postgres://") && !strings.HasPrefix(url, "postgresql://") {
		return nil, ErrExternalURL
	}
	cfg.RuntimeParams["application_name"] = "batchwright source"
	cfg.ConnectTimeout = min(cmp.Or(cfg.ConnectTimeout, externalConnect), externalConnect)
	cfg.BuildFrontend = func(r io.Reader, w io.Writer) *pgproto3.Frontend {
		f := pgproto3.NewFrontend(r, w)
		f.SetMaxBodyLen(maxRow)
		return f
	}
	return &External{cfg, timeout, maxRow}, nil
}

const (
	externalConnect = 10 * time.Second
	externalPrepare = 15 * time.Second // for a look at a statement that isn't run
)

// ExternalError is why a statement gives no rows. Message is safe to show.
type ExternalError struct {
	Message string
	Refused bool  // the same again won't help
	Err     error // for the log only
}

// Error describes it for the log.
func (e *ExternalError) Error() string {
	if e.Err == nil {
		return "store: external: " + e.Message
	}
	return "store: external: " + e.Message + ": " + e.Err.Error()
}

// Unwrap returns the cause.
func (e *ExternalError) Unwrap() error { return e.Err }

// beginExternal sets what a statement must not be able to change, and what makes texts of values the same whatever the server's settings. The
// query in it takes the transaction's snapshot: no transaction becomes one that writes after that.
const beginExternal = `begin isolation level repeatable read read only;
set local statement_timeout = %[1]d; set local lock_timeout = 5000; set local idle_in_transaction_session_timeout = %[1]d;
set local client_encoding = 'UTF8'; set local timezone = 'UTC'; set local datestyle = 'ISO'; set local intervalstyle = 'iso_8601';
set local bytea_output = 'hex'; set local extra_float_digits = 1; select 1`

// run connects and calls f with the statement, prepared, in such a transaction. The connection ends with it, and all that the statement did to its
// session.
func (e *External) run(ctx context.Context, timeout time.Duration, sql string, f func(ctx context.Context, c *pgconn.PgConn, columns []pgconn.FieldDescription) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, timeout+externalConnect, errExternalTime)
	defer cancel()
	conn, err := pgx.ConnectConfig(ctx, e.cfg)
	if err != nil {
		return e.explain(ctx, timeout, err, &ExternalError{Message: "the database can't be reached: the server's log says why", Err: redactExternal(err)})
	}
	defer func() {
		bye, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = conn.Close(bye)
	}()
	c := conn.PgConn()
	broken := &ExternalError{Message: "the connection to the database broke off"}
	if _, err := c.Exec(ctx, fmt.Sprintf(beginExternal, timeout.Milliseconds())).ReadAll(); err != nil {
		return e.explain(ctx, timeout, err, broken)
	}
	described, err := c.Prepare(ctx, "", sql, nil) // without a name, as a pooler may be between
	switch {
	case err != nil:
		return e.explain(ctx, timeout, err, broken)
	case len(described.ParamOIDs) > 0:
		return &ExternalError{Message: "has parameters ($1), for which there are no values", Refused: true}
	case len(described.Fields) == 0:
		return &ExternalError{Message: "gives no rows: a source reads, by select, values or with", Refused: true}
	}
	return e.explain(ctx, timeout, f(ctx, c, described.Fields), broken)
}

var errExternalTime = errors.New("store: external: out of time")

// Columns names the columns of a statement's rows. The statement isn't run. Errors are *[ExternalError] and the context's.
func (e *External) Columns(ctx context.Context, sql string) (names []string, err error) {
	err = e.run(ctx, min(e.timeout, externalPrepare), sql, func(_ context.Context, _ *pgconn.PgConn, fields []pgconn.FieldDescription) error {
		names = namesOf(fields)
		return nil
	})
	return names, err
}

func namesOf(fields []pgconn.FieldDescription) []string {
	names := make([]string, len(fields))
	for i, f := range fields {
		names[i] = f.Name
	}
	return names
}

// Rows runs a statement, and calls begin with the names of its columns before it yields the first row. A value is nil, a json.RawMessage for
// numbers, truth values and JSON, a []byte for bytea, and for any other type the text that Postgres has for it, times in UTC. Errors are begin's,
// *[ExternalError] and the context's; one is the last thing yielded.
func (e *External) Rows(ctx context.Context, sql string, begin func(columns []string) error) iter.Seq2[[]any, error] {
	return func(yield func([]any, error) bool) {
		gone := false
		err := e.run(ctx, e.timeout, sql, func(ctx context.Context, c *pgconn.PgConn, fields []pgconn.FieldDescription) error {
			if err := begin(namesOf(fields)); err != nil {
				return err
			}
			r := c.ExecPrepared(ctx, "", nil, nil, nil) // in text form, all of it
			row := make([]any, len(fields))
			for r.NextRow() {
				for i, v := range r.Values() {
					row[i] = external(fields[i].DataTypeOID, v)
				}
				if gone = !yield(row, nil); gone {
					return nil // the connection's end stops it
				}
			}
			_, err := r.Close()
			return err
		})
		if err != nil && !gone {
			yield(nil, err)
		}
	}
}

// external makes a value of its text form.
func external(oid uint32, text []byte) any {
	if text == nil {
		return nil
	}
	switch oid {
	case pgtype.BoolOID:
		if string(text) == "t" {
			return json.RawMessage("true")
		}
		return json.RawMessage("false")
	case pgtype.Int2OID, pgtype.Int4OID, pgtype.Int8OID, pgtype.OIDOID, pgtype.NumericOID, pgtype.Float4OID, pgtype.Float8OID, pgtype.JSONOID, pgtype.JSONBOID:
		if json.Valid(text) { // not NaN and Infinity
			return json.RawMessage(slices.Clone(text))
		}
	case pgtype.ByteaOID:
		if data, err := hex.DecodeString(strings.TrimPrefix(string(text), `\x`)); err == nil {
			return data
		}
	}
	return string(text)
}

// explain words an error, or returns what else is one of the connection.
func (e *External) explain(ctx context.Context, timeout time.Duration, err error, broken *ExternalError) error {
	var tooLong *pgproto3.ExceededMaxBodyLenErr
	pg, isPg := errors.AsType[*pgconn.PgError](err)
	_, network := errors.AsType[*pgconn.ConnectError](err)
	switch {
	case err == nil:
		return nil
	case errors.Is(context.Cause(ctx), errExternalTime):
		return &ExternalError{Message: fmt.Sprintf("takes longer than %s", timeout), Err: err}
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.As(err, &tooLong):
		return &ExternalError{Message: fmt.Sprintf("gives a row of more than %d bytes", e.maxRow), Refused: true, Err: err}
	case network, !isPg && pgconn.Timeout(err), !isPg && IsTransient(err):
		broken.Err = redactExternal(err)
		return broken
	case !isPg:
		return err
	}
	return inSQL(pg, timeout)
}

// inSQL words what the database said. Its own words are passed on where they can only be about the statement: others may have what is in rows.
func inSQL(pg *pgconn.PgError, timeout time.Duration) *ExternalError {
	out := &ExternalError{Refused: true, Err: errors.New("SQLSTATE " + pg.Code)}
	switch class := pg.Code[:min(len(pg.Code), 2)]; {
	case pg.Code == "57014":
		out.Message, out.Refused = fmt.Sprintf("takes longer than %s", timeout), false
	case pg.Code == "25006":
		out.Message = "writes: a source is read in a transaction that can't"
	case pg.Code == "55P03":
		out.Message, out.Refused = "waits for a lock that another one holds", false
	case class == "42" || class == "3F" || class == "0A":
		out.Message = "is refused by the database: " + strings.ToValidUTF8(strings.ReplaceAll(pg.Message[:min(len(pg.Message), 300)], "\x00", ""), "")
	case class == "22":
		out.Message = "meets a value that it can't be run with (SQLSTATE " + pg.Code + ")"
	case class == "08", class == "53", class == "57", class == "40":
		out.Message, out.Refused = "can't be run at the moment (SQLSTATE "+pg.Code+")", false
	default:
		out.Message = "is refused by the database (SQLSTATE " + pg.Code + ")"
	}
	return out
}

// redactExternal keeps what a connection was tried with out of the log: of the chain, only what Postgres or the network said.
func redactExternal(err error) error {
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok {
		return errors.New("SQLSTATE " + pg.Code)
	}
	for {
		next := errors.Unwrap(err)
		if next == nil {
			return err
		}
		err = next
	}
}
