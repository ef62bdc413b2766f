package store

import (
	"context"
	"fmt"
	"io/fs"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"

	"batchwright/migrations"
)

// Migrate applies pending migrations under an advisory lock, so replicas may start together. It returns the version
// that the database is at.
func Migrate(ctx context.Context, url string) (int64, error) {
	cfg, err := pgx.ParseConfig(url)
	if err != nil {
		return 0, fmt.Errorf("store: migrate: %w", redact(err))
	}
	sqldb := stdlib.OpenDB(*cfg)
	defer func() { _ = sqldb.Close() }()
	locker, err := lock.NewPostgresSessionLocker()
	if err != nil {
		return 0, fmt.Errorf("store: migrate: %w", err)
	}
	p, err := goose.NewProvider(goose.DialectPostgres, sqldb, migrations.FS,
		goose.WithSessionLocker(locker), goose.WithDisableGlobalRegistry(true))
	if err != nil {
		return 0, fmt.Errorf("store: migrate: %w", err)
	}
	if _, err := p.Up(ctx); err != nil {
		return 0, fmt.Errorf("store: migrate: %w", redact(err))
	}
	v, err := p.GetDBVersion(ctx)
	if err != nil {
		return 0, fmt.Errorf("store: migrate: %w", err)
	}
	return v, nil
}

// WantMigration is the version that this binary's migrations lead to.
func WantMigration() (int64, error) {
	names, err := fs.Glob(migrations.FS, "*.sql")
	if err != nil || len(names) == 0 {
		return 0, fmt.Errorf("store: no migrations embedded: %w", err)
	}
	return goose.NumericComponent(names[len(names)-1])
}

const migrationLevel = `-- name: MigrationLevel
select coalesce(max(version_id), 0) from goose_db_version where is_applied`

// Ready asks the database for its migration level.
func (r Reader) Ready(ctx context.Context) (int64, error) {
	return scalar[int64](ctx, r.q, migrationLevel)
}
