package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/go-redis/v9"

	"batchwright/internal/embedded"
	"batchwright/internal/programs"
)

// lab is what all measurements share: the services, the programs and the simulated providers.
type lab struct {
	*settings
	root     string // of the checkout
	bin      string // folder of the built programs
	dir      string // of files that they read; removed at the end
	services *embedded.Services
	admin    *pgxpool.Pool
	redis    *redis.Client
	backends []string // addresses; in the order of latencies
	pids     map[string]int
	facts    []fact
	log      io.Writer
	systems  int
	ends     []func(context.Context) error
	profiled map[string]bool
	market   *market // of the suite of forecasts
}

// latencies are those of the simulated providers.
var latencies = []time.Duration{0, 200 * time.Millisecond, 500 * time.Millisecond, 2 * time.Second}

// Indices into latencies.
const (
	atOnce = iota
	slow
	slower
	slowest
)

// open builds the programs and starts the services. Nothing is left running when it fails.
func open(ctx context.Context, s *settings, log io.Writer) (_ *lab, err error) {
	l := &lab{settings: s, log: log, pids: map[string]int{}, profiled: map[string]bool{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.close(ctx))
		}
	}()
	if err := l.build(ctx); err != nil {
		return nil, err
	}
	if err := s.suite.start(l); err != nil {
		return nil, err
	}
	if l.services, err = embedded.Start(ctx, embedded.Options{Ephemeral: true, Notify: l.say}); err != nil {
		return nil, err
	}
	l.ends = append(l.ends, l.services.Stop)
	if l.admin, err = connect(ctx, l.services.DatabaseURL, 2); err != nil {
		return nil, err
	}
	l.ends = append(l.ends, func(context.Context) error { l.admin.Close(); return nil })
	o, err := redis.ParseURL(l.services.RedisURL)
	if err != nil {
		return nil, err
	}
	l.redis = redis.NewClient(o)
	l.ends = append(l.ends, func(context.Context) error { return l.redis.Close() })
	return l, l.look(ctx)
}

func (l *lab) close(ctx context.Context) (err error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopLimit)
	defer cancel()
	for i := len(l.ends) - 1; i >= 0; i-- {
		err = errors.Join(err, l.ends[i](ctx))
	}
	return err
}

func (l *lab) say(line string) { fmt.Fprintln(l.log, "bench:", line) }

// build compiles the programs that are measured, as make build does.
func (l *lab) build(ctx context.Context) (err error) {
	if l.root, err = programs.Root(ctx); err != nil {
		return err
	}
	if l.dir, err = os.MkdirTemp("", "batchwright-bench-"); err != nil {
		return err
	}
	l.ends = append(l.ends, func(context.Context) error { return os.RemoveAll(l.dir) })
	if err := os.WriteFile(filepath.Join(l.dir, pricesFile), []byte(prices), 0o600); err != nil {
		return err
	}
	l.say("building " + strings.Join(l.suite.programs, ", "))
	l.bin, err = programs.Build(ctx, "", l.suite.programs...)
	return err
}

const pricesFile = "prices.csv"

func (l *lab) startProviders() error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	var list []string
	for _, d := range latencies {
		list = append(list, d.String())
	}
	cmd, addrs, stop, err := startBackends(self, "-backend", strings.Join(list, ","))
	if err != nil {
		return err
	}
	l.backends, l.pids["provider"], l.pids["bench"] = addrs, cmd.Process.Pid, os.Getpid()
	l.ends = append(l.ends, func(context.Context) error { return stop() })
	return nil
}

// shown are the settings of Postgres that decide how fast it is.
const shown = `select string_agg(name || '=' || current_setting(name), ', ' order by name) from pg_settings
where name in ('fsync', 'synchronous_commit', 'full_page_writes', 'shared_buffers', 'max_wal_size', 'autovacuum_naptime')`

// look finds out what the services are, and which processes.
func (l *lab) look(ctx context.Context) error {
	var version, settings string
	var pid int
	if err := l.admin.QueryRow(ctx, `select current_setting('server_version'), (`+shown+`), pg_backend_pid()`).Scan(&version, &settings, &pid); err != nil {
		return fmt.Errorf("look at Postgres: %w", err)
	}
	if s, ok := readStat(pid); ok && s.name == "postgres" { // not so when it runs in a container
		l.pids["postgres"] = s.parent
	}
	info, err := l.redis.Info(ctx, "server").Result()
	if err != nil {
		return fmt.Errorf("look at Redis: %w", err)
	}
	values := map[string]string{}
	for line := range strings.Lines(info) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		values[name] = value
	}
	if pid, err := strconv.Atoi(values["process_id"]); err == nil {
		if s, ok := readStat(pid); ok && (strings.HasPrefix(s.name, "redis") || strings.HasPrefix(s.name, "valkey")) {
			l.pids["redis"] = pid
		}
	}
	commit, err := programs.Tool(ctx, "git", "-C", l.root, "-c", "safe.directory=*", "describe", "--always", "--dirty", "--abbrev=12")
	if err != nil {
		commit = "unknown"
	}
	l.facts = []fact{{"Postgres", version + ", throw-away data: " + settings},
		{"Redis", values["redis_version"] + ", nothing saved"}, {"Commit", commit}}
	return nil
}

// cpu reads the CPU time of all processes that take part.
func (l *lab) cpu(more map[string]int) usage {
	u := usage{}
	for _, pids := range []map[string]int{l.pids, more} {
		for name, pid := range pids {
			if t, ok := treeTime(pid); ok {
				u[name] = t
			}
		}
	}
	if s, ok := readStat(os.Getpid()); ok {
		u["bench"] = s.own // without its children, which are counted apart
	}
	return u
}

func connect(ctx context.Context, url string, conns int32) (*pgxpool.Pool, error) {
	cfg, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, err
	}
	cfg.MaxConns = conns
	return pgxpool.NewWithConfig(ctx, cfg)
}

// database makes an empty database and returns its URL, with a database of Redis of its own.
func (l *lab) database(ctx context.Context) (databaseURL, redisURL string, drop func(context.Context) error, err error) {
	l.systems++
	name := fmt.Sprintf("bench_%d", l.systems)
	if _, err := l.admin.Exec(ctx, `create database `+name); err != nil {
		return "", "", nil, fmt.Errorf("make a database: %w", err)
	}
	drop = func(ctx context.Context) error {
		_, err := l.admin.Exec(ctx, `drop database `+name+` with (force)`)
		return err
	}
	if databaseURL, err = withPath(l.services.DatabaseURL, name); err != nil {
		return "", "", nil, err
	}
	redisURL, err = withPath(l.services.RedisURL, strconv.Itoa(l.systems%16))
	return databaseURL, redisURL, drop, err
}

func withPath(base, path string) (string, error) {
	u, err := url.Parse(base)
	if err != nil {
		return "", err
	}
	u.Path = "/" + path
	return u.String(), nil
}
