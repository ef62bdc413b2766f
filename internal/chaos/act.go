package chaos

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"sync"
	"syscall"
	"time"
)

// acts are the faults by name.
var acts = map[string]func(context.Context, *world, event) error{
	"kill": func(_ context.Context, w *world, e event) error {
		w.programs[e.whom].signal(syscall.SIGKILL, e.hold)
		return nil
	},
	"term": func(_ context.Context, w *world, e event) error {
		w.programs[e.whom].signal(syscall.SIGTERM, e.hold)
		return nil
	},
	"freeze": func(ctx context.Context, w *world, e event) error { w.programs[e.whom].freeze(ctx, e.hold); return nil },
	"stop-fast": func(ctx context.Context, w *world, e event) error {
		return w.server(e.whom).restart(ctx, map[string]syscall.Signal{"postgres": syscall.SIGINT, "redis": syscall.SIGTERM}[e.whom], e.hold)
	},
	"stop-immediate": func(ctx context.Context, w *world, e event) error {
		return w.server(e.whom).restart(ctx, syscall.SIGQUIT, e.hold)
	},
	"kill-server": func(ctx context.Context, w *world, e event) error {
		return w.server(e.whom).restart(ctx, syscall.SIGKILL, e.hold)
	},
	"flush":     func(ctx context.Context, w *world, _ event) error { return w.flush(ctx) },
	"cut":       func(ctx context.Context, w *world, e event) error { return w.links[e.whom].cut(ctx, e.hold) },
	"latency":   poison("latency", `"latency":80,"jitter":60`),
	"bandwidth": poison("bandwidth", `"rate":20`), // kB a second
	"reset":     poison("reset_peer", `"timeout":0`),
	"hang":      poison("timeout", `"timeout":0`),
}

func poison(kind, attributes string) func(context.Context, *world, event) error {
	return func(ctx context.Context, w *world, e event) error {
		return w.links[e.whom].poison(ctx, e.hold, kind, attributes)
	}
}

func (w *world) server(name string) *server {
	if name == "redis" {
		return w.redis
	}
	return w.postgres
}

// harm does what the plan says, and returns when the last fault is over.
func (w *world) harm(ctx context.Context) error {
	errs := make([]error, len(w.plan.events))
	var wg sync.WaitGroup
	for i, e := range w.plan.events {
		wg.Go(func() {
			if errs[i] = w.due(ctx, e); errs[i] != nil {
				return
			}
			w.say("%s %s for %s", e.what, e.whom, e.hold)
			if errs[i] = acts[e.what](ctx, w, e); errs[i] == nil {
				w.say("%s %s is over", e.what, e.whom)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// due waits for an event's time. What waits for calls that never come is due at the end.
func (w *world) due(ctx context.Context, e event) error {
	if e.calls == 0 {
		return wait(ctx, e.at-w.since())
	}
	for w.provider.calls.Load() < e.calls && w.since() < 2*span {
		if err := wait(ctx, 5*time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}

// flush empties Redis, in its own protocol.
func (w *world) flush(ctx context.Context) error {
	u, err := url.Parse(w.redis.URL)
	if err != nil {
		return err
	}
	conn, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "tcp", u.Host)
	if err != nil {
		return nil // down: there is nothing to flush
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetDeadline(time.Now().Add(2 * time.Second)); err != nil {
		return err
	}
	password, _ := u.User.Password()
	if _, err := fmt.Fprintf(conn, "*2\r\n$4\r\nAUTH\r\n$%d\r\n%s\r\n*1\r\n$8\r\nFLUSHALL\r\n", len(password), password); err != nil {
		return nil //nolint:nilerr // it went down under us
	}
	r := bufio.NewReader(conn)
	for range 2 {
		line, err := r.ReadString('\n')
		if err != nil {
			return nil //nolint:nilerr // it went down under us
		}
		if strings.HasPrefix(line, "-LOADING") {
			return nil // it isn't up again: as good as down
		}
		if strings.TrimSpace(line) != "+OK" {
			return fmt.Errorf("redis answered %q to FLUSHALL", strings.TrimSpace(line))
		}
	}
	return nil
}
