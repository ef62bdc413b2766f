// Package process wires the parts into processes (API, worker, everything at once) from their environment. It is the only reader of
// configuration.
package process

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"runtime"
	"time"

	"golang.org/x/sync/errgroup"

	"batchwright/internal/api"
	"batchwright/internal/export"
	"batchwright/internal/fault"
	"batchwright/internal/gateway"
	"batchwright/internal/jobs"
	"batchwright/internal/pricing"
	"batchwright/internal/queue"
	"batchwright/internal/source"
	"batchwright/internal/store"
)

// system is what every process is made of.
type system struct {
	c       Config
	log     *slog.Logger
	metrics *metrics
	db      *store.DB
	queue   *queue.Client
	engine  *gateway.Engine
	gw      gateway.Gateway
	check   func(provider, via string) error
	prices  *pricing.Table
	sources *source.Sources
	close   []func()
}

func (s *system) Close() {
	for i := len(s.close) - 1; i >= 0; i-- {
		s.close[i]()
	}
}

func open(ctx context.Context, c Config, log *slog.Logger) (_ *system, err error) {
	if err := fault.Arm(c.Fault); err != nil {
		return nil, err
	}
	s := &system{c: c, log: log, metrics: newMetrics()}
	defer func() {
		if err != nil {
			s.Close()
		}
	}()
	if s.prices, err = prices(c.Gateway.priceFile); err != nil {
		return nil, err
	}
	if err = s.openGateway(); err != nil {
		return nil, err
	}
	if s.db, err = store.Open(ctx, c.DatabaseURL, store.Options{MaxConns: c.DBConns, DirectURL: c.DirectURL}); err != nil {
		return nil, err
	}
	s.close = append(s.close, s.db.Close)
	s.metrics.addPool(s.db)
	s.metrics.addBacklog(s.db.Backlog)
	if s.queue, err = queue.NewClient(c.RedisURL); err != nil {
		return nil, err
	}
	s.close = append(s.close, func() { _ = s.queue.Close() })
	s.openSources()
	return s, nil
}

// unlessStopped drops an error that only says that the process was told to stop while it started.
func unlessStopped(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

func prices(file string) (*pricing.Table, error) {
	if file == "" {
		return pricing.Default(), nil
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("PRICES_FILE: %w", err)
	}
	defer func() { _ = f.Close() }()
	t, err := pricing.Load(f)
	if err != nil {
		return nil, fmt.Errorf("PRICES_FILE: %w", err)
	}
	return pricing.Default().With(t), nil
}

// publishPrices lets the database know the prices that this process runs with. Calls are priced without it, and repricing does it anew.
func (s *system) publishPrices(ctx context.Context) {
	if err := s.service().PublishPrices(ctx); err != nil {
		s.log.WarnContext(ctx, "prices not published: reports price prefix caching by older ones, or not at all", "err", err)
	}
}

func (s *system) post(ctx context.Context, tickets []store.Ticket) error {
	out := make([]queue.Ticket, len(tickets))
	for i, t := range tickets {
		out[i] = queue.Ticket{ID: t.ID, BatchID: t.BatchID, Kind: t.Kind, Purpose: t.Purpose, FirstSeq: t.FirstSeq, LastSeq: t.LastSeq, Jobs: t.Jobs, Express: t.Express}
	}
	return s.queue.Post(ctx, out)
}

func (s *system) service() *jobs.Service {
	return &jobs.Service{DB: s.db, Prices: s.prices, CheckProvider: s.check, Post: s.post, Log: s.log, Sources: s.sources, ScheduleFloor: s.c.ScheduleFloor,
		CheckExport: s.exports().CheckScheduled}
}

func (s *system) exports() *export.Service { return &export.Service{DB: s.db, Places: s.c.Exports} }

// runExports writes files of results until ctx ends.
func (s *system) runExports(ctx context.Context) error {
	export.NewExporter(s.exports(), s.log, export.Options{Lease: s.c.Worker.Lease}).Run(ctx)
	return nil
}

// handler answers requests; its event streams end when stopping is closed.
func (s *system) handler(stopping <-chan struct{}) (http.Handler, error) {
	want, err := store.WantMigration()
	if err != nil {
		return nil, err
	}
	srv := &api.Server{Jobs: s.service(), Read: s.db.Reader, Webhooks: s.webhooks(), Exports: s.exports(), Stopping: stopping, RedisPing: s.queue.Ping, Log: s.log,
		MaxBody: s.c.MaxBody, MaxLine: s.c.MaxLine, WantMigration: want}
	return srv.Handler(), nil
}

// API serves the REST API until ctx ends; requests that are under way get 20 s to finish.
func API(ctx context.Context, getenv func(string) string, stderr io.Writer) error {
	c, err := Configure(getenv)
	if err != nil {
		return err
	}
	log := c.logger(stderr)
	s, err := open(ctx, c, log)
	if err != nil {
		return unlessStopped(ctx, err)
	}
	defer s.Close()
	l, err := net.Listen("tcp", c.HTTPAddr)
	if err != nil {
		return fmt.Errorf("HTTP_ADDR: %w", err)
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.serveAPI(ctx, l) })
	g.Go(func() error { return s.serveAdmin(ctx) })
	return g.Wait()
}

func (s *system) serveAPI(ctx context.Context, l net.Listener) error {
	h, err := s.handler(ctx.Done())
	if err != nil {
		return err
	}
	s.publishPrices(ctx)
	s.log.Info("api ready", "addr", l.Addr().String())
	return serve(ctx, l, h, 20*time.Second)
}

// serve runs an HTTP server until ctx ends. Uploads and result streams may take as long as they need; a client that sends no header or
// sits idle doesn't.
func serve(ctx context.Context, l net.Listener, h http.Handler, drain time.Duration) error {
	srv := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10}
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	})
	g.Go(func() error {
		<-gctx.Done()
		sctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), drain)
		defer cancel()
		if err := srv.Shutdown(sctx); err != nil {
			return srv.Close()
		}
		return nil
	})
	return g.Wait()
}

// ballast is memory that the worker's collector counts as alive and that nobody touches, so that it takes up address space and no memory: the heap
// may grow by so much more before it is collected. A worker's live heap is a few MiB and it makes garbage fast: without, it would collect, and scan and
// shrink the stacks of all calls in flight, several times a second, a quarter of its CPU. A larger GOGC does the same here, but multiplies
// the hundreds of MiB of a worker with thousands of calls in flight as well.
const ballast = 64 << 20

// Worker plans and runs jobs until ctx ends, then lets calls in flight finish within SHUTDOWN_GRACE.
func Worker(ctx context.Context, getenv func(string) string, stderr io.Writer) error {
	c, err := Configure(getenv)
	if err != nil {
		return err
	}
	if getenv("GOGC") == "" && getenv("GOMEMLIMIT") == "" { // else the operator has a way
		defer runtime.KeepAlive(make([]byte, ballast))
	}
	log := c.logger(stderr)
	s, err := open(ctx, c, log)
	if err != nil {
		return unlessStopped(ctx, err)
	}
	defer s.Close()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.runWorker(ctx) })
	g.Go(func() error { return s.runWebhooks(ctx) })
	g.Go(func() error { return s.runExports(ctx) })
	g.Go(func() error { return s.serveAdmin(ctx) })
	return g.Wait()
}

func (s *system) runWorker(ctx context.Context) error {
	s.publishPrices(ctx)
	o := s.c.Worker
	o.Meter = s.metrics
	w, err := jobs.NewWorker(s.db, s.gw, s.prices, s.post, s.log, o)
	if err != nil {
		return err
	}
	w.Service = s.service()
	pool, err := readers(ctx, s.c.Extract, s.log)
	if err != nil {
		return err
	}
	defer pool.Close()
	w.Extract, w.Readers = pool.Read, pool.Processes()
	s.metrics.addWorker(w, o.Concurrency)
	s.log.Info("worker ready", "concurrency", s.c.Worker.Concurrency, "pdf", pool.PDF())
	plan, express, run := w.Lanes()
	return w.Run(ctx, func(ctx context.Context, work func(context.Context, store.Ticket)) error {
		return queue.Serve(ctx, s.c.RedisURL, queue.Lanes{Plan: plan, Express: express, Run: run}, s.c.Worker.Grace+10*time.Second, s.log, func(ctx context.Context, t queue.Ticket) {
			work(ctx, store.Ticket{ID: t.ID, BatchID: t.BatchID, Kind: t.Kind, Purpose: t.Purpose, FirstSeq: t.FirstSeq, LastSeq: t.LastSeq, Jobs: t.Jobs, Express: t.Express})
		})
	})
}

// Migrate brings the database at DATABASE_DIRECT_URL, or else DATABASE_URL, up to this binary's level and returns it.
func Migrate(ctx context.Context, getenv func(string) string) (int64, error) {
	r := &reader{getenv: getenv}
	_, direct := r.database()
	if len(r.problems) > 0 {
		return 0, errors.Join(r.problems...)
	}
	return store.Migrate(ctx, direct)
}
