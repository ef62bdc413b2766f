package chaos

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"batchwright/internal/client"
	"batchwright/internal/embedded"
	"batchwright/internal/process"
)

// The processes of every run.
const (
	api     = "api"
	gateway = "gateway"
	worker1 = "worker-1"
	worker2 = "worker-2"
)

// gatewayToken lets the workers use the gateway.
const gatewayToken = "chaos-chaos-chaos-chaos"

// world is one run's system: its own servers, network, provider and processes.
type world struct {
	plan     *plan
	logs     string // folder
	ports    *ports
	postgres *server
	redis    *server
	links    map[string]*link
	programs map[string]*program
	provider *provider
	receiver *receiver
	hooks    string   // the receivers' address for the workers
	api      string   // its URL
	keys     []string // the API keys
	http     *http.Client
	clients  []*client.Client // with these
	start    time.Time
	calm     string    // when all faults were over
	verbose  io.Writer // nil: quiet

	mu        sync.Mutex
	story     []string
	wrong     []string // found on the way
	accepted  []accepted
	bounds    []*bound
	schedules []ticking
	ends      []func() error
	running   sync.WaitGroup
}

// server is an embedded server, whose faults come one after the other.
type server struct {
	mu sync.Mutex
	*embedded.Server
}

// restart stops the server with a signal and starts it again after so long.
func (s *server) restart(ctx context.Context, with syscall.Signal, down time.Duration) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	if err := s.Stop(stopping, with); err != nil {
		return err
	}
	_ = wait(ctx, down)
	return s.Start(context.WithoutCancel(ctx))
}

// begin sets the clock to zero.
func (w *world) begin() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.start = time.Now()
}

// since is the time on that clock.
func (w *world) since() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	return time.Since(w.start)
}

// say adds a line to what happened.
func (w *world) say(format string, args ...any) {
	line := fmt.Sprintf("%7.3fs  ", w.since().Seconds()) + fmt.Sprintf(format, args...)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.story = append(w.story, line)
	if w.verbose != nil {
		fmt.Fprintf(w.verbose, "%s  %s\n", w.plan.title(), line)
	}
}

// accuse notes what is wrong while the run goes on.
func (w *world) accuse(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.wrong = append(w.wrong, fmt.Sprintf(format, args...))
}

// build makes the whole system and waits until its API is ready. close ends what is there, whether or not that worked.
func (w *world) build(ctx context.Context, l *lab) (err error) {
	w.begin()
	if w.ports, err = takePorts(); err != nil {
		return err
	}
	w.ends = append(w.ends, func() error { w.ports.close(); return nil })
	dir, remove, err := l.rig.Folder(ctx)
	if err != nil {
		return err
	}
	w.ends = append(w.ends, remove)
	if err := w.startServers(ctx, l, dir); err != nil {
		return err
	}
	if err := w.shorten(ctx); err != nil {
		return err
	}
	w.provider, w.receiver = newProvider(w.plan.seed, w.plan.weather, w.plan.latency), newReceiver(w.plan.seed)
	provider, err := w.serve(ctx, w.provider)
	if err != nil {
		return err
	}
	w.programs, w.links = map[string]*program{}, map[string]*link{}
	receiver, err := w.serve(ctx, w.receiver)
	if err == nil {
		w.hooks, err = w.via("workers", "hooks", receiver)
	}
	if err != nil {
		return err
	}
	prices := filepath.Join(dir, "prices.csv")
	if err := os.WriteFile(prices, []byte(priceFile), 0o644); err != nil {
		return err
	}
	return w.startPrograms(ctx, l, provider, prices)
}

func (w *world) startServers(ctx context.Context, l *lab, dir string) error {
	pg, err := l.rig.Postgres(filepath.Join(dir, "postgres"), w.ports.take(), l.template)
	if err != nil {
		return err
	}
	rd, err := l.rig.Redis(filepath.Join(dir, "redis"), w.ports.take(), w.plan.redisKept)
	if err != nil {
		return err
	}
	w.postgres, w.redis = &server{Server: pg}, &server{Server: rd}
	g, gctx := errgroup.WithContext(ctx)
	for name, s := range map[string]*server{"postgres": w.postgres, "redis": w.redis} {
		w.ends = append(w.ends, func() error {
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			defer cancel()
			err := s.Stop(ctx, syscall.SIGQUIT) // nobody will miss the data
			text, rerr := os.ReadFile(s.Log)
			return errors.Join(err, rerr, os.WriteFile(filepath.Join(w.logs, name+".log"), text, 0o644))
		})
		g.Go(func() error { return s.Start(gctx) })
	}
	return g.Wait()
}

// serve listens for others of the outside world, until close.
func (w *world) serve(ctx context.Context, h http.Handler) (addr string, err error) {
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, "tcp", address(w.ports.take()))
	if err != nil {
		return "", err
	}
	srv := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second}
	w.running.Go(func() { _ = srv.Serve(ln) }) // ends with Close
	w.ends = append(w.ends, srv.Close)
	return ln.Addr().String(), nil
}

// via opens a link and returns the address that stands for the upstream.
func (w *world) via(from, to, upstream string) (string, error) {
	name := from + ">" + to
	l, err := openLink(name, address(w.ports.take()), upstream)
	if err != nil {
		return "", err
	}
	w.links[name] = l
	w.ends = append(w.ends, func() error { l.close(); return nil })
	return l.listen, nil
}

// viaURL is via for a URL.
func (w *world) viaURL(from, to, raw string) (string, error) {
	u, err := url.Parse(raw)
	if err != nil {
		return "", err
	}
	u.Host, err = w.via(from, to, u.Host)
	return u.String(), err
}

func (w *world) startPrograms(ctx context.Context, l *lab, provider, prices string) error {
	apiAddr, gatewayAddr := address(w.ports.take()), address(w.ports.take())
	transport := new(http.Transport)
	w.api, w.http = "http://"+apiAddr, &http.Client{Transport: transport}
	w.ends = append(w.ends, func() error { transport.CloseIdleConnections(); return nil })
	for i := range apiKeys {
		key, err := process.CreateKey(ctx, w.getenv, fmt.Sprintf("project-%d", i%projects), "chaos")
		if err != nil {
			return err
		}
		c, err := client.New(w.api, key)
		if err != nil {
			return err
		}
		w.keys = append(w.keys, key)
		w.clients = append(w.clients, c)
		w.ends = append(w.ends, func() error { c.Close(); return nil })
	}
	for _, name := range []string{api, gateway, worker1, worker2} {
		db, err := w.viaURL(name, "postgres", w.postgres.URL)
		if err != nil {
			return err
		}
		redis, err := w.viaURL(name, "redis", w.redis.URL)
		if err != nil {
			return err
		}
		env := []string{"DATABASE_URL=" + db, "REDIS_URL=" + redis, "LOG_LEVEL=debug", "HTTP_ADDR=" + apiAddr, "GATEWAY_ADDR=" + gatewayAddr,
			"PRICES_FILE=" + prices, "WORKER_LEASE=" + w.plan.lease.String(), "WORKER_PATIENCE=1s", "UPLOAD_PATIENCE=3s", "SHUTDOWN_GRACE=1s", "SCHEDULE_FLOOR=1s", "WORKER_CONCURRENCY=8", "WORKER_SLOTS=8",
			"DB_MAX_CONNS=8", "PROVIDER_TIMEOUT=1s", "PROVIDER_IDLE_TIMEOUT=1s", "PROVIDER_CONNECT_TIMEOUT=500ms", "GATEWAY_DEFAULT=direct", "GATEWAY_ADMIN_TOKEN=" + gatewayToken,
			"WEBHOOK_KEY=" + webhookKey, "WEBHOOK_ALLOW_HTTP=true", "WEBHOOK_ALLOW_PRIVATE=true"}
		if !w.plan.breaker {
			env = append(env, "PROVIDER_BREAKER_OFF=true")
		}
		binary := kindOf(name)
		remote, upstream := gatewayAddr, provider
		switch binary {
		case "worker":
			if remote, err = w.via(name, "gateway", gatewayAddr); err != nil {
				return err
			}
			fallthrough
		case "gateway":
			if upstream, err = w.via(name, "provider", provider); err != nil {
				return err
			}
		}
		env = append(env, "OPENAI_COMPATIBLE_BASE_URL=http://"+upstream+"/v1")
		if binary != "gateway" {
			env = append(env, "GATEWAY_URL=http://"+remote+"/v1/chaos/default", "GATEWAY_TOKEN="+gatewayToken)
		}
		p := &program{name: name, path: filepath.Join(l.bin, binary), log: filepath.Join(w.logs, name+".log"), env: env, say: w.say,
			arms: w.plan.arms[name], done: make(chan struct{})}
		w.programs[name] = p
		w.running.Go(func() { p.run(context.WithoutCancel(ctx)) }) // ends with close, after its process
	}
	return w.awaitReady(ctx, apiAddr, gatewayAddr)
}

func (w *world) getenv(name string) string {
	if name == "DATABASE_URL" {
		return w.postgres.URL
	}
	return ""
}

// awaitReady waits for the two that listen.
func (w *world) awaitReady(ctx context.Context, addrs ...string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, 30*time.Second, errors.New("the processes are not ready after 30 s"))
	defer cancel()
	for _, addr := range addrs {
		for {
			if c, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "tcp", addr); err == nil {
				_ = c.Close()
				break
			}
			if err := wait(ctx, 10*time.Millisecond); err != nil {
				return err
			}
		}
	}
	return nil
}

// retire ends all processes in order, and says what is wrong with how they lived.
func (w *world) retire() (wrong []string) {
	var wg sync.WaitGroup
	for _, p := range w.programs {
		wg.Go(func() { p.retire(15 * time.Second) })
	}
	wg.Wait()
	for _, p := range w.programs {
		wrong = append(wrong, p.findings()...)
	}
	return wrong
}

// close ends everything that is left.
func (w *world) close() (err error) {
	for _, p := range w.programs {
		p.abort()
	}
	for i := len(w.ends) - 1; i >= 0; i-- {
		err = errors.Join(err, w.ends[i]())
	}
	w.running.Wait()
	return err
}

// query runs one statement against the database, behind the product's back.
func (w *world) query(ctx context.Context, sql string, args ...any) ([][]string, error) {
	_, rows, err := process.Query(ctx, w.postgres.URL, sql, args...)
	return rows, err
}
