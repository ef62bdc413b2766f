package process

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"batchwright/internal/gateway"
	"batchwright/internal/jobs"
	"batchwright/internal/store"
)

// metrics are a process's own, for GET /metrics. No label names a tenant, batch or job: the series stay few.
type metrics struct {
	registry *prometheus.Registry
	calls    *prometheus.CounterVec
	latency  prometheus.Histogram
	settled  *prometheus.CounterVec
	dispatch prometheus.Histogram
}

var _ jobs.Meter = (*metrics)(nil)

func newMetrics() *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		calls: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "batchwright_calls_total",
			Help: "Calls of this worker that ended, by provider and class of failure; ok is none. Custom providers count as custom."}, []string{"provider", "class"}),
		latency: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "batchwright_call_seconds",
			Help: "How long this worker's calls took, failed ones included.", Buckets: []float64{.05, .1, .25, .5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320}}),
		settled: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "batchwright_settled_jobs_total",
			Help: "Attempts at jobs that this worker settled: succeeded, failed, or waiting to be tried again. What a plan finished from the cache isn't among them."}, []string{"state"}),
		dispatch: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "batchwright_dispatch_seconds",
			Help: "How long this worker's rounds of dispatch took, waiting for others' rounds included.", Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 5}}),
	}
	m.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// Called implements jobs.Meter.
func (m *metrics) Called(provider string, class gateway.Class, took time.Duration) {
	if strings.HasPrefix(provider, "custom-") { // anybody's route may name some
		provider = "custom"
	}
	if class == gateway.OK {
		class = "ok"
	}
	m.calls.WithLabelValues(provider, string(class)).Inc()
	m.latency.Observe(took.Seconds())
}

// Settled implements jobs.Meter.
func (m *metrics) Settled(state string) { m.settled.WithLabelValues(state).Inc() }

// Dispatched implements jobs.Meter.
func (m *metrics) Dispatched(took time.Duration) { m.dispatch.Observe(took.Seconds()) }

// addWorker exposes what a worker does.
func (m *metrics) addWorker(w *jobs.Worker, concurrency int) {
	m.registry.MustRegister(m.calls, m.latency, m.settled, m.dispatch,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "batchwright_calls_in_flight", Help: "Calls that this worker has in flight."},
			func() float64 { return float64(w.InFlight()) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "batchwright_worker_concurrency", Help: "Calls that this worker has in flight at most."},
			func() float64 { return float64(concurrency) }))
}

// addPool exposes how the connections to Postgres are used.
func (m *metrics) addPool(db *store.DB) {
	gauge := func(name, help string, f func(store.Pool) float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 { return f(db.Pool()) })
	}
	counter := func(name, help string, f func(store.Pool) float64) prometheus.Collector {
		return prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help}, func() float64 { return f(db.Pool()) })
	}
	m.registry.MustRegister(
		gauge("batchwright_db_connections_max", "Connections to Postgres that this process may open.", func(p store.Pool) float64 { return float64(p.Max) }),
		gauge("batchwright_db_connections_in_use", "Connections to Postgres in use.", func(p store.Pool) float64 { return float64(p.InUse) }),
		gauge("batchwright_db_connections_idle", "Connections to Postgres that are open and idle.", func(p store.Pool) float64 { return float64(p.Idle) }),
		counter("batchwright_db_acquires_total", "How often a connection was taken.", func(p store.Pool) float64 { return float64(p.Acquired) }),
		counter("batchwright_db_acquire_wait_seconds_total", "Time spent in taking a connection, over all who did.", func(p store.Pool) float64 { return p.Waited.Seconds() }))
}

// addBacklog exposes what there is to do for all workers together.
func (m *metrics) addBacklog(read func(context.Context) (store.Backlog, error)) {
	m.registry.MustRegister(&backlog{read: read})
}

// handler serves the metrics as text. What can't be read is left out, so that an autoscaler sees no figure rather than a wrong one.
func (m *metrics) handler(log *slog.Logger) http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError, ErrorLog: scrapeLog{log}, Timeout: 10 * time.Second})
}

type scrapeLog struct{ log *slog.Logger }

func (l scrapeLog) Println(v ...any) { l.log.Warn("metrics incomplete", "text", fmt.Sprint(v...)) }

const (
	backlogAge   = 5 * time.Second // an answer this young is given again
	backlogLimit = 4 * time.Second // for the question
)

// backlog asks the database when it is scraped, but not more often than every few seconds, however many scrape.
type backlog struct {
	read func(context.Context) (store.Backlog, error)

	mu  sync.Mutex
	at  time.Time
	got store.Backlog
	err error
}

func (b *backlog) now() (store.Backlog, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.at.IsZero() || time.Since(b.at) >= backlogAge {
		ctx, cancel := context.WithTimeout(context.Background(), backlogLimit) // a collector is given no context
		defer cancel()
		b.got, b.err = b.read(ctx)
		b.at = time.Now()
	}
	return b.got, b.err
}

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, labels, nil)
}

var (
	backlogJobs  = desc("batchwright_backlog_jobs", "Jobs of running batches that are to be run, under way or due again: what to scale workers by. Over all workers; the same in each process.")
	planningJobs = desc("batchwright_planning_jobs", "Jobs that are to be planned.")
	openBatches  = desc("batchwright_open_batches", "Batches that are not final, by state.", "state")
	openTickets  = desc("batchwright_tickets", "Outstanding tickets, by purpose.", "purpose")
	heldTickets  = desc("batchwright_tickets_claimed", "Outstanding tickets that a worker holds.")
	oldestDue    = desc("batchwright_oldest_due_seconds", "How long the oldest retry of a running batch has been due.")
	liveWorkers  = desc("batchwright_workers", "Workers that were seen in the last 30 seconds.")
	liveCrowd    = desc("batchwright_workers_concurrency", "Calls in flight at most, over those workers.")
)

// Describe implements prometheus.Collector.
func (b *backlog) Describe(c chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{backlogJobs, planningJobs, openBatches, openTickets, heldTickets, oldestDue, liveWorkers, liveCrowd} {
		c <- d
	}
}

// Collect implements prometheus.Collector.
func (b *backlog) Collect(c chan<- prometheus.Metric) {
	v, err := b.now()
	if err != nil {
		c <- prometheus.NewInvalidMetric(backlogJobs, fmt.Errorf("backlog: %w", err))
		return
	}
	gauge := func(d *prometheus.Desc, value float64, labels ...string) {
		c <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
	}
	gauge(backlogJobs, float64(v.Jobs))
	gauge(planningJobs, float64(v.PlanningJobs))
	gauge(openBatches, float64(v.Ingesting), "ingesting")
	gauge(openBatches, float64(v.Planning), "planning")
	gauge(openBatches, float64(v.Running), "running")
	gauge(openBatches, float64(v.Paused), "paused")
	gauge(openBatches, float64(v.Cancelling), "cancelling")
	gauge(openTickets, float64(v.PlanTickets), store.PurposePlan)
	gauge(openTickets, float64(v.RunTickets), store.PurposeRun)
	gauge(openTickets, float64(v.RetryTickets), store.PurposeRetry)
	gauge(heldTickets, float64(v.Claimed))
	gauge(oldestDue, v.OldestDue)
	gauge(liveWorkers, float64(v.Workers))
	gauge(liveCrowd, float64(v.Concurrency))
}
