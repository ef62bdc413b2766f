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

	"batchwright/internal/gateway"
	"batchwright/internal/jobs"
)

// Config is everything that the environment says. Empty variables count as unset.
type Config struct {
	DatabaseURL string // DATABASE_URL
	RedisURL    string // REDIS_URL
	LogLevel    slog.Level
	LogText     bool

	HTTPAddr  string // HTTP_ADDR; default 127.0.0.1:8080
	AdminAddr string // ADMIN_ADDR: pprof and queue depth; default none
	MaxBody   int64  // MAX_BODY_BYTES; default 512 MiB
	MaxLine   int    // MAX_LINE_BYTES; default 32 MiB

	DBConns int32 // DB_MAX_CONNS; default 16
	Worker  jobs.WorkerOptions
	Gateway gatewayConfig
}

type gatewayConfig struct {
	url        string // GATEWAY_URL
	token      string // GATEWAY_TOKEN, CF_AIG_TOKEN
	account    string // CLOUDFLARE_ACCOUNT_ID
	gatewayID  string // CLOUDFLARE_GATEWAY_ID
	unified    bool   // CLOUDFLARE_UNIFIED_BILLING
	endpoints  map[string]gateway.Endpoint
	simulator  gateway.SimulatorOptions
	priceFile  string        // PRICES_FILE
	timeout    time.Duration // PROVIDER_TIMEOUT, to the first byte
	remoteKeys map[string]string
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

func (r *reader) flag(name string) bool {
	v := r.text(name, "false")
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
	c := Config{
		DatabaseURL: r.need("DATABASE_URL", "want a Postgres URL such as postgres://user:password@host:5432/batchwright"),
		RedisURL:    r.need("REDIS_URL", "want a Redis URL such as redis://host:6379/0"),
		HTTPAddr:    r.text("HTTP_ADDR", "127.0.0.1:8080"),
		AdminAddr:   r.text("ADMIN_ADDR", ""),
		MaxBody:     r.whole("MAX_BODY_BYTES", 512<<20, 1<<10, 1<<40),
		MaxLine:     int(r.whole("MAX_LINE_BYTES", 32<<20, 1<<10, 1<<30)),
		DBConns:     int32(r.whole("DB_MAX_CONNS", 16, 4, 1000)),
		Worker: jobs.WorkerOptions{
			Concurrency: int(r.whole("WORKER_CONCURRENCY", 256, 1, 100_000)),
			Slots:       int(r.whole("WORKER_SLOTS", 64, 1, 1000)),
			MaxAttempts: int(r.whole("JOB_MAX_ATTEMPTS", 4, 1, 100)),
			Lease:       r.duration("WORKER_LEASE", 30*time.Second, 3*time.Second),
			Grace:       r.duration("SHUTDOWN_GRACE", 20*time.Second, 0),
		},
	}
	r.log(&c)
	c.Gateway = r.gateway()
	c.Worker.Tag = c.Gateway.remote()
	return c, errors.Join(r.problems...)
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

func (g gatewayConfig) remote() bool { return g.url != "" || g.account != "" }

func (r *reader) gateway() gatewayConfig {
	g := gatewayConfig{
		url: r.text("GATEWAY_URL", ""), account: r.text("CLOUDFLARE_ACCOUNT_ID", ""), gatewayID: r.text("CLOUDFLARE_GATEWAY_ID", ""),
		token: r.text("GATEWAY_TOKEN", r.text("CF_AIG_TOKEN", "")), unified: r.flag("CLOUDFLARE_UNIFIED_BILLING"),
		priceFile: r.text("PRICES_FILE", ""), timeout: r.duration("PROVIDER_TIMEOUT", 2*time.Minute, time.Second),
		endpoints: map[string]gateway.Endpoint{}, remoteKeys: map[string]string{},
		simulator: gateway.SimulatorOptions{
			Latency: r.duration("SIMULATOR_LATENCY", 0, 0), LatencyJitter: r.duration("SIMULATOR_LATENCY_JITTER", 0, 0),
			ErrorRate: r.rate("SIMULATOR_ERROR_RATE"), RateLimitRate: r.rate("SIMULATOR_RATE_LIMIT_RATE"),
			OutputTokens: int(r.whole("SIMULATOR_OUTPUT_TOKENS", 0, 0, 1_000_000)),
		},
	}
	if (g.account == "") != (g.gatewayID == "") {
		r.fail("CLOUDFLARE_ACCOUNT_ID and CLOUDFLARE_GATEWAY_ID", "set both or neither")
	}
	if g.url != "" {
		r.address("GATEWAY_URL", g.url)
	}
	if key, base := r.text("OPENAI_API_KEY", ""), r.text("OPENAI_BASE_URL", ""); key != "" || base != "" {
		g.endpoints["openai"] = r.endpoint("OPENAI_BASE_URL", base, key)
	}
	if base := r.text("OPENAI_COMPATIBLE_BASE_URL", ""); base != "" {
		g.endpoints["openai-compatible"] = r.endpoint("OPENAI_COMPATIBLE_BASE_URL", base, r.text("OPENAI_COMPATIBLE_API_KEY", ""))
	}
	for name := range strings.SplitSeq(r.text("CUSTOM_PROVIDERS", ""), ",") {
		if name = strings.TrimSpace(name); name == "" {
			continue
		}
		slug, env := "custom-"+name, strings.ToUpper(strings.NewReplacer("-", "_").Replace(name))
		if _, ok := gateway.Lookup(slug); !ok {
			r.fail("CUSTOM_PROVIDERS", "%.60q is not a name: use a-z, 0-9, - and _", name)
			continue
		}
		base := r.need("CUSTOM_"+env+"_BASE_URL", "CUSTOM_PROVIDERS names "+name)
		g.endpoints[slug] = r.endpoint("CUSTOM_"+env+"_BASE_URL", base, r.text("CUSTOM_"+env+"_API_KEY", ""))
	}
	for slug, e := range g.endpoints {
		if e.Key != "" {
			g.remoteKeys[slug] = e.Key
		}
	}
	return g
}

func (r *reader) endpoint(name, base, key string) gateway.Endpoint {
	if base != "" {
		r.address(name, base)
	}
	return gateway.Endpoint{BaseURL: base, Key: key}
}

func (r *reader) address(name, value string) {
	u, err := url.Parse(value)
	if err != nil || !slices.Contains([]string{"http", "https"}, u.Scheme) || u.Host == "" {
		r.fail(name, "want an address such as https://host/v1")
	}
}
