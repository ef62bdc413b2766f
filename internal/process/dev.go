package process

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"batchwright/internal/embedded"
	"batchwright/internal/store"
)

// DevOptions say how to run everything in one process.
type DevOptions struct {
	Ephemeral bool   // fresh data that is removed at the end
	Addr      string // of the API; default 127.0.0.1:8080, or any free port when that is taken
	Quiet     bool   // log warnings only
	Once      bool   // end when ready returns
	Notify    func(line string)
}

// Running is what Dev has started.
type Running struct {
	APIURL      string
	DatabaseURL string
	RedisURL    string
	APIKey      string
	Chosen      []string
}

var errDone = errors.New("process: done")

// Dev starts Postgres and Redis (unless DATABASE_URL and REDIS_URL name some), migrates, makes a project and a key, and runs the API and a
// worker in this process. It calls ready once /readyz says so, and ends when ctx does, when something fails, or when ready returns an error
// or, with Once, at all.
func Dev(ctx context.Context, getenv func(string) string, stderr io.Writer, o DevOptions, ready func(context.Context, Running) error) (err error) {
	notify := o.Notify
	if notify == nil {
		notify = func(string) {}
	}
	services, err := embedded.Start(ctx, embedded.Options{DatabaseURL: getenv("DATABASE_URL"), RedisURL: getenv("REDIS_URL"), Ephemeral: o.Ephemeral, Notify: notify})
	if err != nil {
		return err
	}
	defer func() {
		sctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
		defer cancel()
		err = errors.Join(err, services.Stop(sctx))
	}()
	env, err := devWebhooks(getenv, services.Dir, o.Ephemeral)
	if err != nil {
		return err
	}
	c, err := Configure(func(name string) string {
		switch name {
		case "DATABASE_URL":
			return services.DatabaseURL
		case "REDIS_URL":
			return services.RedisURL
		}
		return env(name)
	})
	if err != nil {
		return err
	}
	if o.Quiet && getenv("LOG_LEVEL") == "" {
		c.LogLevel = 4 // warn
	}
	c.LogText = getenv("LOG_FORMAT") == "" || c.LogText
	if _, err := store.Migrate(ctx, c.DirectURL); err != nil {
		return err
	}
	s, err := open(ctx, c, c.logger(stderr))
	if err != nil {
		return err
	}
	defer s.Close()
	key, _, err := newKey(ctx, s.db, "dev", "made by batchwright dev")
	if err != nil {
		return err
	}
	l, err := listen(o.Addr, c.HTTPAddr)
	if err != nil {
		return err
	}
	run := Running{APIURL: "http://" + l.Addr().String(), DatabaseURL: c.DatabaseURL, RedisURL: c.RedisURL, APIKey: key, Chosen: services.Chosen}
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.serveAPI(gctx, l) })
	g.Go(func() error { return s.runWorker(gctx) })
	g.Go(func() error { return s.runWebhooks(gctx) })
	g.Go(func() error { return s.runExports(gctx) })
	g.Go(func() error { return s.serveAdmin(gctx) })
	g.Go(func() error {
		if err := awaitReady(gctx, run.APIURL); err != nil {
			return err
		}
		if err := ready(gctx, run); err != nil {
			return err
		}
		if o.Once {
			return errDone
		}
		return nil
	})
	if err := g.Wait(); !errors.Is(err, errDone) {
		return err
	}
	return nil
}

// listen takes addr, or without one the usual address, or without that a free port beside it.
func listen(addr, usual string) (net.Listener, error) {
	if addr != "" {
		return net.Listen("tcp", addr)
	}
	l, err := net.Listen("tcp", usual)
	if errors.Is(err, syscall.EADDRINUSE) {
		return net.Listen("tcp", "127.0.0.1:0")
	}
	return l, err
}

func awaitReady(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, 30*time.Second, errors.New("the API did not get ready within 30 s"))
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/readyz", nil)
		if err != nil {
			return err
		}
		if res, err := http.DefaultClient.Do(req); err == nil {
			_ = res.Body.Close()
			if res.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
	}
}

// Services starts a private Postgres and Redis, unless the environment names some, runs argv with their URLs in its environment
// (DATABASE_URL, REDIS_URL and the TEST_ twins), and returns its exit code.
func Services(ctx context.Context, getenv func(string) string, notify func(string), argv []string, stdin io.Reader, stdout, stderr io.Writer) (int, error) {
	if len(argv) == 0 {
		return 2, errors.New("services: name the command to run after --")
	}
	given := func(names ...string) string {
		for _, n := range names {
			if v := getenv(n); v != "" {
				return v
			}
		}
		return ""
	}
	services, err := embedded.Start(ctx, embedded.Options{
		DatabaseURL: given("TEST_DATABASE_URL", "DATABASE_URL"), RedisURL: given("TEST_REDIS_URL", "REDIS_URL"), Ephemeral: true, Notify: notify})
	if err != nil {
		return 1, err
	}
	defer func() {
		sctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
		defer cancel()
		if serr := services.Stop(sctx); serr != nil {
			notify("services: " + serr.Error())
		}
	}()
	// The child is in our process group, so a Ctrl-C reaches it as well; a SIGTERM to us alone is passed on.
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM)
	defer signal.Stop(signals)
	cmd := exec.Command(argv[0], argv[1:]...) //nolint:gosec // running what the user names is the purpose
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, stdout, stderr
	cmd.Env = append(os.Environ(), "DATABASE_URL="+services.DatabaseURL, "REDIS_URL="+services.RedisURL,
		"TEST_DATABASE_URL="+services.DatabaseURL, "TEST_REDIS_URL="+services.RedisURL)
	if err := cmd.Start(); err != nil {
		return 127, fmt.Errorf("services: %w", err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	for {
		select {
		case <-signals:
			_ = cmd.Process.Signal(syscall.SIGTERM)
		case err := <-done:
			if exit, ok := errors.AsType[*exec.ExitError](err); ok {
				return exit.ExitCode(), nil
			}
			if err != nil {
				return 1, fmt.Errorf("services: %w", err)
			}
			return 0, nil
		}
	}
}
