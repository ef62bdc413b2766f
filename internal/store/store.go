// Package store owns the Postgres schema at run time: every row type, every SQL statement and every state transition.
//
// A transition is one guarded statement, fenced by the ticket under which the work was claimed; callers never see a
// transaction. Rows travel in sets (COPY or unnest), never one by one.
//
// 2026-11-21: a job's row is born planned. The submission writes only inputs, by COPY; planning inserts the jobs rows
// with their keys and verdicts. An insert costs half an update, and an all-hit rerun is nothing but those two inserts.
// The road not taken: insert jobs at submission and update them when planned.
//
// 2026-11-21: a submission is stored by parts, each in a transaction of its own that doesn't wait for the disk; the last one, which does,
// makes the batch plan. A token on the batch's row, upload_id, fences every part, as a ticket's id fences a job. One transaction for the
// whole would hold back vacuum on all hot tables for as long as a sender takes, show nothing meanwhile, and occupy a connection.
//
// 2026-11-21: no table is partitioned. By time, a batch's rows would lie in several partitions, its statements would plan all of them, and
// what expires is batches, not days; by batch, there would be as many partitions as batches; by hash, nothing could be dropped. Every hot
// index leads with the batch, so its size costs a level or two of a tree and no more. Instead, a purge removes a batch's rows by ranges of
// the primary key, 10,000 a statement, autovacuum is told to come early to the tables that change (migration 5), and rows that follow reuse
// the room. The road back is open: all of these tables are written and read by batch_id alone, so they can be partitioned by it.
package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/semaphore"
)

// Errors that callers branch on. Everything else is an infrastructure failure.
var (
	ErrNotFound  = errors.New("store: not found")
	ErrConflict  = errors.New("store: conflict")
	ErrLeaseLost = errors.New("store: lease lost")
	ErrState     = errors.New("store: the batch's state forbids it")
)

type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

// Reader is the read-only half of the store; it may sit on a replica.
type Reader struct{ q querier }

// DB is the store. It is safe for concurrent use.
type DB struct {
	Reader
	pool    *pgxpool.Pool
	direct  *pgx.ConnConfig     // for what needs a session of its own
	uploads *semaphore.Weighted // chunks of submissions that are being written, each on a connection
}

// Options tune the connection pool.
type Options struct {
	MaxConns int32 // default 16

	// DirectURL leads to the same database past a pooler, for what needs a session of its own; default the URL that is opened. Given another one, the
	// pooler is taken to hand each transaction to any session, so statements are not prepared: the next transaction may be where they are unknown.
	// default_query_exec_mode=cache_statement in the URL that is opened says that the pooler keeps track of them.
	DirectURL string
}

// Open connects; it does not migrate.
func Open(ctx context.Context, url string, o Options) (*DB, error) {
	cfg, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, fmt.Errorf("store: open: %w", redact(err))
	}
	if !strings.Contains(url, "pool_max_conns") {
		cfg.MaxConns = 16
		if o.MaxConns > 0 {
			cfg.MaxConns = o.MaxConns
		}
	}
	if o.DirectURL != "" && o.DirectURL != url && !strings.Contains(url, "default_query_exec_mode") {
		cfg.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeCacheDescribe
	}
	cfg.ConnConfig.RuntimeParams["application_name"] = "batchwright"
	direct := cfg
	if o.DirectURL != "" {
		if direct, err = pgxpool.ParseConfig(o.DirectURL); err != nil {
			return nil, fmt.Errorf("store: open: the direct URL: %w", redact(err))
		}
		direct.ConnConfig.RuntimeParams["application_name"] = "batchwright"
	}
	pool, err := pgxpool.NewWithConfig(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("store: open: %w", redact(err))
	}
	if err := pool.Ping(ctx); err != nil {
		pool.Close()
		return nil, fmt.Errorf("store: ping: %w", redact(err))
	}
	return &DB{Reader: Reader{pool}, pool: pool, direct: direct.ConnConfig.Copy(), uploads: semaphore.NewWeighted(int64(max(cfg.MaxConns/2, 1)))}, nil
}

// Close waits for connections in use and closes the pool.
func (db *DB) Close() { db.pool.Close() }

// redact keeps a connection string, and the password in it, out of an error's text.
func redact(err error) error {
	if _, ok := errors.AsType[*pgconn.ParseConfigError](err); ok {
		return errors.New("DATABASE_URL can't be parsed: want postgres://user:password@host:5432/database, with special characters escaped")
	}
	return err
}

func one[T any](ctx context.Context, q querier, sql string, args ...any) (T, error) {
	rows, _ := q.Query(ctx, sql, args...) // the error comes back from CollectExactlyOneRow
	v, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[T])
	return v, translate(err)
}

func many[T any](ctx context.Context, q querier, sql string, args ...any) ([]T, error) {
	rows, _ := q.Query(ctx, sql, args...)
	v, err := pgx.CollectRows(rows, pgx.RowToStructByName[T])
	return v, translate(err)
}

// scalar reads one column of at most one row; ErrNotFound when there is none.
func scalar[T any](ctx context.Context, q querier, sql string, args ...any) (T, error) {
	rows, _ := q.Query(ctx, sql, args...)
	v, err := pgx.CollectOneRow(rows, pgx.RowTo[T])
	return v, translate(err)
}

// column reads the one column of any number of rows.
func column[T any](ctx context.Context, q querier, sql string, args ...any) ([]T, error) {
	rows, _ := q.Query(ctx, sql, args...)
	v, err := pgx.CollectRows(rows, pgx.RowTo[T])
	return v, translate(err)
}

func translate(err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, pgx.ErrNoRows) {
		return ErrNotFound
	}
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok && pg.Code == "23505" {
		return fmt.Errorf("%w: %s", ErrConflict, pg.ConstraintName)
	}
	return err
}

// IsTransient reports whether err is of the connection kind: the same statement may succeed in a moment.
func IsTransient(err error) bool {
	if err == nil || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return false
	}
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok {
		return strings.HasPrefix(pg.Code, "08") || strings.HasPrefix(pg.Code, "53") || strings.HasPrefix(pg.Code, "57P") ||
			pg.Code == "40001" || pg.Code == "40P01"
	}
	_, network := errors.AsType[net.Error](err)
	_, connect := errors.AsType[*pgconn.ConnectError](err)
	return network || connect || pgconn.SafeToRetry(err) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, net.ErrClosed)
}

func interval(d time.Duration) string { return fmt.Sprintf("%d milliseconds", d.Milliseconds()) }
