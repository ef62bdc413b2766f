package store

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"
)

// Hints are notifications of Postgres on one channel. They make things happen sooner; what they tell of is in the tables, and whoever
// listens also looks from time to time.
const (
	HintWork    = "work"    // there is something to dispatch: a batch was submitted, planned or resumed, or has jobs to retry
	HintControl = "control" // batches were paused, resumed or cancelled, or their limits changed: leases and settings are to be looked at

	HintSchedule = "schedule" // a schedule was made or changed, or is to be run now
	HintSource   = "source"   // a batch waits for its jobs to be gathered
)

const (
	sendHint = `-- name: SendHint
select pg_notify('batchwright', $1)`
	listenHints = `listen batchwright`
	listenRest  = time.Minute // without a hint, after which the connection is tried
	listenOnce  = 10 * time.Second
	listenRetry = time.Second
	listenMost  = time.Minute
)

// hint sends a hint in a transaction: it arrives when that commits. Postgres commits such transactions one after the other, so
// nothing that happens often sends any.
func hint(ctx context.Context, tx pgx.Tx, what string) error {
	_, err := tx.Exec(ctx, sendHint, what)
	return err
}

// Hint sends a hint to all that listen.
func (db *DB) Hint(ctx context.Context, what string) error {
	_, err := db.pool.Exec(ctx, sendHint, what)
	return err
}

// Listen calls heard with each hint, until ctx ends. It has a connection of its own, and makes a new one when that fails; in between hints
// are lost, so heard is called with both of them after each. It goes past a pooler by the direct URL; through one that gives a connection to
// each transaction nothing is ever heard, which costs time only.
func (db *DB) Listen(ctx context.Context, log *slog.Logger, heard func(hint string)) {
	wait := listenRetry
	for ctx.Err() == nil {
		listened := false
		err := db.listen(ctx, func(hint string) { listened = true; heard(hint) })
		if ctx.Err() != nil {
			return
		}
		if listened {
			wait = listenRetry
		}
		log.DebugContext(ctx, "hints not heard for a while", "err", redact(err), "retry_in", wait)
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
		}
		wait = min(2*wait, listenMost)
	}
}

func (db *DB) listen(ctx context.Context, heard func(hint string)) error {
	conn, err := dial(ctx, db.direct)
	if err != nil {
		return err
	}
	defer func() {
		bye, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = conn.Close(bye)
	}()
	heard(HintWork)
	heard(HintControl)
	for {
		rest, cancel := context.WithTimeout(ctx, listenRest)
		n, err := conn.WaitForNotification(rest)
		cancel()
		switch {
		case err == nil:
			heard(n.Payload)
		case ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded): // a cut that nobody told of would look just the same
			try, cancel := context.WithTimeout(ctx, listenOnce)
			err := conn.Ping(try)
			cancel()
			if err != nil {
				return err
			}
		default:
			return err
		}
	}
}

func dial(ctx context.Context, cfg *pgx.ConnConfig) (*pgx.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, listenOnce)
	defer cancel()
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return nil, err
	}
	if _, err := conn.Exec(ctx, listenHints); err != nil {
		_ = conn.Close(ctx)
		return nil, err
	}
	return conn, nil
}
