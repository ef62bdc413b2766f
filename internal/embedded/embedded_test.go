package embedded

import (
	"context"
	"errors"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

func TestGivenURLsStartNothing(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "run")
	s := start(t, Options{
		Dir: dir, DatabaseURL: "postgres://me:hidden@db.example:5/x", RedisURL: "redis://:hidden@cache.example:6/0",
	})
	want := []string{"postgres: using DATABASE_URL (db.example:5)", "redis: using REDIS_URL (cache.example:6)"}
	if strings.Join(s.Chosen, "\n") != strings.Join(want, "\n") {
		t.Errorf("chosen %q, want %q", s.Chosen, want)
	}
	if s.DatabaseURL != "postgres://me:hidden@db.example:5/x" || s.RedisURL != "redis://:hidden@cache.example:6/0" {
		t.Errorf("URLs changed: %q, %q", s.DatabaseURL, s.RedisURL)
	}
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s was made: %v", dir, err)
	}
}

func TestEphemeralIsFreshAndLeavesNothing(t *testing.T) {
	t.Parallel()
	s := start(t, Options{Ephemeral: true}) // both, with the folder that all packages' tests share
	if got := query(t, s.DatabaseURL, "SELECT current_setting('fsync') || current_setting('timezone')"); got != "offUTC" && got != "offGMT" {
		t.Errorf("fsync and time zone are %s", got)
	}
	if got := query(t, s.DatabaseURL, "SELECT pg_encoding_to_char(encoding) || datcollate FROM pg_database WHERE datname = current_database()"); got != "UTF8C" {
		t.Errorf("encoding and collation are %s", got)
	}
	client := redisClient(t, s.RedisURL)
	if err := client.Set(t.Context(), "k", "v", 0).Err(); err != nil {
		t.Error(err)
	}
	data := query(t, s.DatabaseURL, "SHOW data_directory")
	query(t, s.DatabaseURL, "CREATE TABLE mine ()")

	other := start(t, Options{Ephemeral: true, RedisURL: given}) // at the same time
	if got := query(t, other.DatabaseURL, "SELECT count(*)::text FROM pg_tables WHERE tablename = 'mine'"); got != "0" {
		t.Error("two ephemeral servers share data")
	}
	stop(t, s)
	if _, err := os.Stat(filepath.Dir(data)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s is still there: %v", filepath.Dir(data), err)
	}
	if redisAnswers(t, s.RedisURL) {
		t.Error("redis still answers")
	}
}

func TestPasswordIsNeeded(t *testing.T) {
	t.Parallel()
	s := start(t, Options{Ephemeral: true})
	for _, line := range s.Chosen {
		for _, given := range []string{s.DatabaseURL, s.RedisURL} {
			u, err := url.Parse(given)
			if err != nil {
				t.Fatal(err)
			}
			if password, _ := u.User.Password(); password == "" || strings.Contains(line, password) {
				t.Errorf("password %q, chosen line %q", password, line)
			}
		}
	}
	u, err := url.Parse(s.DatabaseURL)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword(superuser, "wrong")
	if conn, err := pgx.Connect(t.Context(), u.String()); err == nil {
		conn.Close(t.Context())
		t.Error("postgres takes any password")
	}
	r, err := url.Parse(s.RedisURL)
	if err != nil {
		t.Fatal(err)
	}
	r.User = nil
	if err := redisClient(t, r.String()).Ping(t.Context()).Err(); err == nil {
		t.Error("redis needs no password")
	}
}

func TestLastingDataIsKept(t *testing.T) {
	t.Parallel()
	o := Options{Dir: filepath.Join(folder(t), "run"), RedisURL: given}
	first := start(t, o)
	query(t, first.DatabaseURL, "CREATE TABLE kept AS SELECT 'here' AS value")
	if got := query(t, first.DatabaseURL, "SELECT current_setting('fsync') || current_setting('synchronous_commit')"); got != "onon" {
		t.Errorf("fsync and synchronous_commit are %s", got)
	}
	stop(t, first)
	stop(t, first) // a second time does no harm

	began := time.Now()
	second := start(t, o)
	t.Logf("warm start %s", time.Since(began))
	if got := query(t, second.DatabaseURL, "SELECT value FROM kept"); got != "here" {
		t.Errorf("got %q", got)
	}
	if !strings.Contains(second.Chosen[0], "data in ") {
		t.Errorf("the line doesn't say where the data is: %s", second.Chosen[0])
	}
}

func TestSecondLastingStartIsRefused(t *testing.T) {
	t.Parallel()
	o := Options{Dir: seeded(t), RedisURL: given}
	first := start(t, o)
	_, err := Start(t.Context(), o)
	if err == nil {
		t.Fatal("two servers on the same data")
	}
	for _, want := range []string{"(pid ", "postgres-", "DATABASE_URL"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q isn't in the error: %v", want, err)
		}
	}
	o.Ephemeral = true // the demo
	beside := start(t, o)
	for _, s := range []*Services{first, beside} {
		if got := query(t, s.DatabaseURL, "SELECT 'ok'"); got != "ok" {
			t.Errorf("got %q", got)
		}
	}
}

func TestNothingWorksNamesWhatToInstall(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		o    Options
		want string
	}{
		{Options{RedisURL: given}, "apt-get install postgresql"},
		{Options{DatabaseURL: given}, "apt-get install redis-server"},
	} {
		c.o.Dir = t.TempDir()
		c.o.without = []string{"machine", "apt", "docker", "download", "miniredis"}
		_, err := Start(t.Context(), c.o)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("got %v, want it to name %q", err, c.want)
		}
		if strings.Contains(err.Error(), "\n") {
			t.Errorf("more than one line: %v", err)
		}
	}
}

func TestCancelledStartLeavesNothing(t *testing.T) {
	t.Parallel()
	o := Options{Dir: folder(t), RedisURL: given}
	cause := errors.New("changed my mind")
	ctx, cancel := context.WithTimeoutCause(t.Context(), 200*time.Millisecond, cause) // initdb takes longer
	defer cancel()
	if _, err := Start(ctx, o); !errors.Is(err, cause) {
		t.Fatalf("got %v, want %v", err, cause)
	}
	start(t, o) // neither a lock nor half a data folder is in the way
}

func TestStopKillsWhenTimeIsUp(t *testing.T) {
	t.Parallel()
	o := Options{Dir: seeded(t), RedisURL: given}
	s, err := Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	pid := postmaster(t, query(t, s.DatabaseURL, "SHOW data_directory"))
	query(t, s.DatabaseURL, "CREATE TABLE kept ()")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	// It may have ended in time all the same. Either way it must be gone.
	t.Logf("stop: %v", s.Stop(ctx))
	if alive(pid) {
		t.Error("the server is still there")
	}
	again := start(t, o)
	query(t, again.DatabaseURL, "SELECT 1::text FROM kept")
}
