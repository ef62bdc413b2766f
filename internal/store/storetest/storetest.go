// Package storetest gives each test its own migrated Postgres database, cloned from a template.
package storetest

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"batchwright/internal/store"
	"batchwright/migrations"
)

// URL returns the URL of a fresh database, dropped when the test passes and kept when it fails. Without
// TEST_DATABASE_URL the test is skipped, but in CI it fails: make test sets it.
func URL(t testing.TB) string {
	t.Helper()
	base := Base(t)
	tpl, err := template(base)
	if err != nil {
		t.Fatal(err)
	}
	name := "t_" + strings.ToLower(rand.Text())
	exec(t, base, fmt.Sprintf(`create database %q template %q`, name, tpl))
	t.Cleanup(func() {
		disconnect(with(base, name))
		if t.Failed() {
			t.Logf("kept database %s", name)
			return
		}
		exec(t, base, fmt.Sprintf(`drop database %q with (force)`, name))
	})
	return with(base, name)
}

// Base returns the URL of the server that test databases are made on.
func Base(t testing.TB) string {
	t.Helper()
	base := os.Getenv("TEST_DATABASE_URL")
	if base == "" {
		if os.Getenv("CI") != "" {
			t.Fatal("TEST_DATABASE_URL is not set: run the tests with make test")
		}
		t.Skip("TEST_DATABASE_URL is not set: run the tests with make test")
	}
	return base
}

// New opens a store on a fresh database.
func New(t testing.TB) *store.DB {
	t.Helper()
	db, err := store.Open(context.Background(), URL(t), store.Options{MaxConns: 8})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	return db
}

// Exec runs one statement against the database at url: for tests that look behind the store's face.
func Exec(t testing.TB, url, sql string, args ...any) {
	t.Helper()
	if _, err := connect(t, url).Exec(context.Background(), sql, args...); err != nil {
		t.Fatal(err)
	}
}

// Scalar reads one value from the database at url.
func Scalar[T any](t testing.TB, url, sql string, args ...any) T {
	t.Helper()
	rows, _ := connect(t, url).Query(context.Background(), sql, args...)
	v, err := pgx.CollectExactlyOneRow(rows, pgx.RowTo[T])
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return v
}

// Lock runs one statement in a transaction of its own and leaves that open until release.
func Lock(t testing.TB, url, sql string, args ...any) (release func()) {
	t.Helper()
	tx, err := connect(t, url).Begin(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	release = sync.OnceFunc(func() { _ = tx.Rollback(context.Background()) })
	t.Cleanup(release)
	if _, err := tx.Exec(context.Background(), sql, args...); err != nil {
		t.Fatal(err)
	}
	return release
}

// Rows reads one column of any number of rows.
func Rows[T any](t testing.TB, url, sql string, args ...any) []T {
	t.Helper()
	rows, _ := connect(t, url).Query(context.Background(), sql, args...)
	v, err := pgx.CollectRows(rows, pgx.RowTo[T])
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return v
}

// connect returns a pool that the tests of a database share: a test that looks behind the store's face after each step would else spend
// its time connecting.
func connect(t testing.TB, url string) *pgxpool.Pool {
	t.Helper()
	mu.Lock()
	defer mu.Unlock()
	if p := pools[url]; p != nil {
		return p
	}
	p, err := pgxpool.New(context.Background(), url)
	if err != nil {
		t.Fatal(err)
	}
	pools[url] = p
	return p
}

// disconnect closes what connect opened.
func disconnect(url string) {
	mu.Lock()
	defer mu.Unlock()
	if p := pools[url]; p != nil {
		p.Close()
		delete(pools, url)
	}
}

var (
	mu    sync.Mutex
	ready = map[string]string{}
	pools = map[string]*pgxpool.Pool{}
)

// template builds the template once per content of the migrations. The advisory lock covers other test binaries.
func template(base string) (string, error) {
	mu.Lock()
	defer mu.Unlock()
	if name := ready[base]; name != "" {
		return name, nil
	}
	h := sha256.New()
	err := fs.WalkDir(migrations.FS, ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := fs.ReadFile(migrations.FS, p)
		_, _ = fmt.Fprintf(h, "%s %d %s", p, len(b), b)
		return err
	})
	if err != nil {
		return "", err
	}
	name := fmt.Sprintf("tpl_%x", h.Sum(nil)[:10])
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, base)
	if err != nil {
		return "", err
	}
	defer func() { _ = conn.Close(ctx) }()
	if _, err := conn.Exec(ctx, `select pg_advisory_lock(hashtext($1))`, name); err != nil {
		return "", err
	}
	var done bool
	if err := conn.QueryRow(ctx, `select exists (select 1 from pg_database where datname = $1 and datistemplate)`, name).Scan(&done); err != nil {
		return "", err
	}
	if !done {
		for _, q := range []string{`drop database if exists %q with (force)`, `create database %q`} {
			if _, err := conn.Exec(ctx, fmt.Sprintf(q, name)); err != nil {
				return "", err
			}
		}
		if _, err := store.Migrate(ctx, with(base, name)); err != nil {
			return "", err
		}
		if _, err := conn.Exec(ctx, fmt.Sprintf(`alter database %q is_template true`, name)); err != nil {
			return "", err
		}
	}
	ready[base] = name
	return name, nil
}

func with(base, name string) string {
	u, err := url.Parse(base)
	if err != nil {
		return base
	}
	u.Path = "/" + name
	return u.String()
}

// exec uses a connection of its own: a pool on the server's own database would outlive every test.
func exec(t testing.TB, base, sql string) {
	t.Helper()
	conn, err := pgx.Connect(context.Background(), base)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.Background()) }()
	if _, err := conn.Exec(context.Background(), sql); err != nil {
		t.Fatal(err)
	}
}
