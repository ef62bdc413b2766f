package process

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"batchwright/internal/bucket"
	"batchwright/internal/extract"
	"batchwright/internal/jobs"
	"batchwright/internal/store"
)

// Config is everything that the environment says. Empty variables count as unset.
type Config struct {
	DatabaseURL string // DATABASE_URL
	DirectURL   string // DATABASE_DIRECT_URL: past a pooler, for migrations and LISTEN; default DATABASE_URL
	RedisURL    string // REDIS_URL
	LogLevel    slog.Level
	LogText     bool
	Fault       string // BATCHWRIGHT_FAULT: where to die, in the builds of make chaos; other builds ignore it

	HTTPAddr  string // HTTP_ADDR; default 127.0.0.1:8080
	AdminAddr string // ADMIN_ADDR: metrics, pprof and queue depth; default none
	MaxBody   int64  // MAX_BODY_BYTES; default 512 MiB
	MaxLine   int    // MAX_LINE_BYTES; default 32 MiB

	ScheduleFloor time.Duration // SCHEDULE_FLOOR: the least time between two ticks of a schedule; default 1m

	DBConns int32 // DB_MAX_CONNS; default 16
	Worker  jobs.WorkerOptions
	Extract extract.Options // EXTRACT_PROCESSES, EXTRACT_TIMEOUT, PDFTOTEXT
	Gateway gatewayConfig
	Server  serverConfig
	Webhook webhookConfig
	Exports bucket.Places // EXPORT_TARGETS: URL prefixes below which results may be written; default none
	Source  sourceConfig
}

// reader collects what is wrong, so that all of it is reported together.
type reader struct {
	getenv   func(string) string
	problems []error
}

func (r *reader) text(name, fallback string) string {
	if v := strings.TrimSpace(r.getenv(name)); v != "" {
		return v
	}
	return fallback
}

func (r *reader) fail(name, format string, a ...any) {
	r.problems = append(r.problems, fmt.Errorf("%s: %s", name, fmt.Sprintf(format, a...)))
}

func (r *reader) whole(name string, fallback, low, high int64) int64 {
	v := r.text(name, "")
	if v == "" {
		return fallback
	}
	n, err := strconv.ParseInt(v, 10, 64)
	if err != nil || n < low || n > high {
		r.fail(name, "want a whole number from %d to %d", low, high)
	}
	return n
}

func (r *reader) duration(name string, fallback, low time.Duration) time.Duration {
	v := r.text(name, "")
	if v == "" {
		return fallback
	}
	d, err := time.ParseDuration(v)
	if err != nil || d < low {
		r.fail(name, "want a duration such as 30s, at least %s", low)
	}
	return d
}

func (r *reader) rate(name string) float64 {
	v := r.text(name, "")
	if v == "" {
		return 0
	}
	f, err := strconv.ParseFloat(v, 64)
	if err != nil || f < 0 || f > 1 {
		r.fail(name, "want a share from 0 to 1")
	}
	return f
}

func (r *reader) flag(name string) bool { return r.flagOr(name, "false") }

func (r *reader) flagOr(name, fallback string) bool {
	v := r.text(name, fallback)
	b, err := strconv.ParseBool(v)
	if err != nil {
		r.fail(name, "want true or false")
	}
	return b
}

func (r *reader) need(name, what string) string {
	v := r.text(name, "")
	if v == "" {
		r.fail(name, "is not set: %s", what)
	}
	return v
}

// Configure reads the environment and reports every problem at once.
func Configure(getenv func(string) string) (Config, error) {
	r := &reader{getenv: getenv}
	database, direct := r.database()
	c := Config{
		DatabaseURL: database, DirectURL: direct,
		RedisURL:      r.need("REDIS_URL", "want a Redis URL such as redis://host:6379/0"),
		HTTPAddr:      r.text("HTTP_ADDR", "127.0.0.1:8080"),
		AdminAddr:     r.text("ADMIN_ADDR", ""),
		Fault:         r.text("BATCHWRIGHT_FAULT", ""),
		MaxBody:       r.whole("MAX_BODY_BYTES", 512<<20, 1<<10, 1<<40),
		MaxLine:       int(r.whole("MAX_LINE_BYTES", 32<<20, 1<<10, 1<<30)),
		ScheduleFloor: r.duration("SCHEDULE_FLOOR", time.Minute, time.Second),
		DBConns:       int32(r.whole("DB_MAX_CONNS", 16, 4, 1000)),
		Worker: jobs.WorkerOptions{
			Concurrency: int(r.whole("WORKER_CONCURRENCY", 256, 1, 100_000)),
			Slots:       int(r.whole("WORKER_SLOTS", 0, 1, 1000)),
			MaxAttempts: int(r.whole("JOB_MAX_ATTEMPTS", 4, 1, 100)),
			JobTimeout:  r.duration("JOB_TIMEOUT", 24*time.Hour, time.Second),
			Lease:       r.duration("WORKER_LEASE", 30*time.Second, time.Second),
			Grace:       r.duration("SHUTDOWN_GRACE", 20*time.Second, 0),
			CancelGrace: r.duration("CANCEL_GRACE", 20*time.Second, time.Millisecond),
			StallAfter:  r.duration("STALL_AFTER", 15*time.Minute, time.Second),
			Patience:    r.duration("WORKER_PATIENCE", 10*time.Second, time.Second),

			UploadPatience: r.duration("UPLOAD_PATIENCE", store.UploadPatience, time.Second),
		},
	}
	r.log(&c)
	c.Extract = r.extraction()
	c.Gateway = r.gateway()
	c.Server = r.server()
	c.Webhook = r.webhook()
	c.Exports = r.places("EXPORT_TARGETS")
	c.Source = r.source(c.MaxLine)
	c.Worker.Tag = c.Gateway.remote()
	return c, errors.Join(r.problems...)
}

// database reads where Postgres is, and where it is without a pooler before it.
func (r *reader) database() (url, direct string) {
	url = r.need("DATABASE_URL", "want a Postgres URL such as postgres://user:password@host:5432/batchwright")
	return url, r.text("DATABASE_DIRECT_URL", url)
}

func (r *reader) log(c *Config) {
	if err := c.LogLevel.UnmarshalText([]byte(r.text("LOG_LEVEL", "info"))); err != nil {
		r.fail("LOG_LEVEL", "want debug, info, warn or error")
	}
	switch v := r.text("LOG_FORMAT", "json"); v {
	case "json":
	case "text":
		c.LogText = true
	default:
		r.fail("LOG_FORMAT", "want json or text")
	}
}

func (c Config) logger(w io.Writer) *slog.Logger {
	o := &slog.HandlerOptions{Level: c.LogLevel}
	if c.LogText {
		return slog.New(slog.NewTextHandler(w, o))
	}
	return slog.New(slog.NewJSONHandler(w, o))
}

func (r *reader) places(name string) bucket.Places {
	p, err := bucket.ParsePlaces(r.getenv(name))
	if e, ok := errors.AsType[*bucket.Error](err); ok {
		r.fail(name, "%s", e.Message)
	}
	return p
}

func (r *reader) address(name, value string) {
	u, err := url.Parse(value)
	if err != nil || !slices.Contains([]string{"http", "https"}, u.Scheme) || u.Host == "" {
		r.fail(name, "want an address such as https://host/v1")
	}
}
