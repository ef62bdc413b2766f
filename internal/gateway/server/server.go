// Package server is the self-hosted AI gateway over HTTP: it serves what Cloudflare's does, from this process.
//
// A request goes along one line: [Server.Handler] finds the gateway and the caller, the gateway's rate limit is taken, the
// headers are read, and the request becomes a chain of steps: of one for a native or a unified request. Each step looks
// into the cache, has its request checked, and is sent until it answers with 2xx; what comes is passed on byte for byte
// as it comes. The log is written behind all that, in sets, and never waited for.
//
// Decisions of 2026-11-21, where Cloudflare is silent, are in the doc comments of what makes them and in
// docs/cloudflare-compat.md.
package server

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/google/uuid"

	"batchwright/internal/gateway"
	"batchwright/internal/pricing"
	"batchwright/internal/store"
)

// Options configure a server. Only DB is required.
type Options struct {
	DB      *store.DB
	Box     *Box           // opens stored keys; nil: there are none
	Prices  *pricing.Table // nil: costs are unknown
	Windows Windows        // nil: the gateways' rate limits don't hold
	Cache   *gateway.Cache // of answers; its owner closes it; nil: nothing is kept

	Upstreams  map[string]string // base URL by slug, replaces the public one
	Keys       map[string]string // the operator's keys by slug, used like a stored key of the alias "default"
	AdminToken string            // may do everything, in every account; "" is none
	PublicURL  string            // scheme and host that the management API tells callers; default the request's

	Transport http.RoundTripper // default [gateway.NewTransport] without a proxy
	MaxBody   int64             // of a request, in bytes; default 100 MiB
	Log       *slog.Logger
}

// Windows counts requests in windows that all processes share.
type Windows interface {
	// Allow counts one request under a name, or reports how long to wait until there is room.
	Allow(ctx context.Context, name string, limit int64, interval time.Duration, sliding bool) (ok bool, retryAfter time.Duration, err error)
}

const (
	defaultMaxBody = 100 << 20
	readTimeout    = 5 * time.Minute // of a large body
	drainTimeout   = 3 * time.Second // of a body that is refused
	drainBytes     = 32 << 20
)

// Server serves gateways. It is safe for concurrent use.
type Server struct {
	o          Options
	reach      map[string]*reachable
	transport  http.RoundTripper
	directory  *directory
	journal    *journal
	spending   spending
	management http.Handler
	idle       func()
}

// New checks o and starts the writer of the log. Close must be called in the end.
func New(o Options) (*Server, error) {
	if o.DB == nil {
		return nil, errors.New("gateway server: a database is required")
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.MaxBody <= 0 {
		o.MaxBody = defaultMaxBody
	}
	r, err := reach(o.Upstreams)
	if err != nil {
		return nil, err
	}
	s := &Server{o: o, reach: r, transport: o.Transport, idle: func() {}}
	if o.Transport == nil {
		t := gateway.NewTransport(nil)
		s.transport, s.idle = t, t.CloseIdleConnections
	}
	s.directory = newDirectory(s)
	s.journal = newJournal(o.DB, o.Prices, &s.spending, o.Log)
	s.management = s.manage()
	return s, nil
}

// Close waits until the log is written. The handler must not be called any more.
func (s *Server) Close() error {
	s.directory.close()
	s.journal.close()
	s.idle()
	return nil
}

// Handler returns the HTTP face: the data path under /v1/, the management API under /client/v4/, and /healthz.
func (s *Server) Handler() http.Handler { return http.HandlerFunc(s.serve) }

func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	path := r.URL.EscapedPath()
	switch rest, ok := strings.CutPrefix(path, "/v1/"); {
	case ok:
		s.serveGateway(w, r, rest)
	case strings.HasPrefix(path, "/client/v4/"):
		s.management.ServeHTTP(w, r)
	case path == "/healthz":
		w.Header()["Content-Type"] = contentJSON
		_, _ = w.Write([]byte(`{"status":"ok"}`))
	default:
		(&refusal{status: http.StatusNotFound, code: aigInvalid, message: "the path must be /v1/ACCOUNT/GATEWAY/..."}).write(w)
	}
}

// passage is one request on its way. It belongs to one goroutine.
type passage struct {
	s       *Server
	w       http.ResponseWriter
	r       *http.Request
	ctx     context.Context //nolint:containedctx // the request's own, as in http.Request
	start   time.Time
	uuid    uuid.UUID
	id      string // the uuid's text: log id and request id
	account string
	view    *view
	caller  caller
	body    []byte
	kind    string // of surface, for the log: universal, compat or native

	opts    options // of the whole request
	steps   []step
	route   *routed
	at      int   // index of the step under way
	kept    *kept // the last failed answer
	fault   *refusal
	failed  *step // that failed last
	dlp     findings
	caching caching
}

// serveGateway serves what comes after /v1/.
func (s *Server) serveGateway(w http.ResponseWriter, r *http.Request, rest string) {
	account, rest, _ := strings.Cut(rest, "/")
	name, rest, _ := strings.Cut(rest, "/")
	slug, endpoint, _ := strings.Cut(rest, "/")
	c := &passage{s: s, w: w, r: r, ctx: r.Context(), start: time.Now(), account: account}
	c.uuid = newID()
	c.id = c.uuid.String()
	if f := c.enter(name); f != nil {
		c.refuseEarly(f)
		return
	}
	if strings.EqualFold(r.Header.Get("Upgrade"), "websocket") {
		c.refuseEarly(&refusal{status: http.StatusNotImplemented, code: aigInvalid, message: "WebSockets are not served by this gateway"})
		return
	}
	if r.URL.RawQuery != "" {
		endpoint += "?" + r.URL.RawQuery
	}
	var f *refusal
	if c.opts, f = c.view.defaults.with(r.Header); f != nil {
		c.refuseEarly(f)
		return
	}
	if f = c.limit(); f != nil {
		c.refuseEarly(f)
		return
	}
	if c.body, f = c.readBody(); f != nil {
		c.refuseEarly(f)
		return
	}
	switch {
	case slug == "" && r.Method != http.MethodPost:
		f = &refusal{status: http.StatusMethodNotAllowed, code: aigInvalid, message: "the Universal Endpoint takes POST"}
	case slug == "":
		c.kind, f = "universal", c.universal(c.body)
	case slug == compatSlug:
		c.kind, f = "compat", c.compat(endpoint, c.body)
		if f == nil && c.steps == nil && c.route == nil { // GET models
			c.decorate(w.Header(), nil, 0)
			w.Header()["Content-Type"] = contentJSON
			c.giveWhole(http.StatusOK, c.models())
			return
		}
	default:
		c.kind = "native"
		c.steps = []step{{provider: slug, endpoint: endpoint, method: r.Method, body: c.body, caller: r.Header, opts: c.opts}}
	}
	if f != nil {
		c.refuseEarly(f)
		return
	}
	c.walk()
}

// limit takes one of the gateway's requests. Cloudflare doesn't say whether the limiter comes before the cache: here it
// does, so that a limit is a limit on requests, whatever they cost.
func (c *passage) limit() *refusal {
	v := c.view
	if v.limit <= 0 || v.interval <= 0 || c.s.o.Windows == nil {
		return nil
	}
	return c.window("gateway:"+v.account+":"+v.id, v.limit, v.interval, v.sliding, "the gateway's rate limit is reached")
}

// readBody reads the request's body: a chain needs it more than once.
func (c *passage) readBody() ([]byte, *refusal) {
	n := c.r.ContentLength
	tooLarge := &refusal{status: http.StatusRequestEntityTooLarge, code: aigInvalid, message: "the request's body is larger than this gateway takes"}
	switch {
	case n == 0 || c.r.Body == nil:
		return nil, nil
	case n > c.s.o.MaxBody:
		c.drain()
		return nil, tooLarge
	}
	var body []byte
	var err error
	if n > 0 && n <= 1<<20 {
		body = make([]byte, n)
		_, err = io.ReadFull(c.r.Body, body)
	} else {
		rc := http.NewResponseController(c.w)
		_ = rc.SetReadDeadline(c.start.Add(readTimeout)) // not every writer can
		body, err = io.ReadAll(io.LimitReader(c.r.Body, c.s.o.MaxBody+1))
		_ = rc.SetReadDeadline(time.Time{})
	}
	switch {
	case err != nil:
		return nil, badRequest("the request's body ended early")
	case int64(len(body)) > c.s.o.MaxBody:
		c.drain()
		return nil, tooLarge
	}
	return body, nil
}

// drain takes what a caller sends of a body that is refused, within reason: cut off while it writes, it would see a
// broken connection and not the refusal.
func (c *passage) drain() {
	rc := http.NewResponseController(c.w)
	_ = rc.SetReadDeadline(time.Now().Add(drainTimeout))
	_, _ = io.CopyN(io.Discard, c.r.Body, drainBytes)
	_ = rc.SetReadDeadline(time.Time{})
}

// refuseEarly answers before any step was chosen; nothing is logged of what never reached a gateway.
func (c *passage) refuseEarly(f *refusal) {
	c.decorate(c.w.Header(), nil, 0)
	c.w.Header()["Cf-Aig-Cache-Status"] = statusMiss
	body := f.write(c.w)
	if c.view != nil {
		c.finishFault(f, body)
	}
}

// refuse answers with the gateway's own failure after the steps were tried.
func (c *passage) refuse(f *refusal) {
	at := max(min(c.at, len(c.steps))-1, 0)
	c.decorate(c.w.Header(), c.failed, at)
	c.w.Header()["Cf-Aig-Cache-Status"] = statusMiss
	c.finishFault(f, f.write(c.w))
}

// newID returns a UUIDv7, the form of Cloudflare's ids since October 2026.
func newID() uuid.UUID {
	id, err := uuid.NewV7()
	if err != nil { // package crypto/rand never fails since Go 1.24
		panic(err)
	}
	return id
}
