package server

import (
	"bytes"
	"compress/gzip"
	"context"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"batchwright/internal/gateway"
	"batchwright/internal/pricing"
	"batchwright/internal/store"
)

const (
	maxLogBody   = 10 << 20  // of each body; of a larger one only the size is kept
	queueEntries = 16_384    // requests that wait to be written
	queueBytes   = 256 << 20 // and their bodies
	groupEntries = 512       // in one insert
	groupBytes   = 16 << 20
	writers      = 2                      // sets on their way to Postgres: one is made while the others are written
	groupWithin  = 100 * time.Millisecond // a set waits so long for company: a row of a large one costs a fraction
	writeWithin  = 30 * time.Second
	capEvery     = 30 * time.Second // how often the size of a gateway's log is looked at
)

// record is one request to be logged, with what is only found out behind the request's back.
type record struct {
	store.GatewayLog
	view    *view
	speaks  string
	events  bool
	coding  string // Content-Encoding of the answer
	payload bool
	cost    *customCost
	secrets []string
	answer  []byte // nil when it was too long
	reader  *gateway.StreamReader
	size    int64
	book    []booking
	keep    bool // in the log; else it is here for its bookings
}

// journal writes requests to the log, in sets and behind the requests. Nobody waits for it: when Postgres is slower
// than the requests, the queue fills, and what doesn't fit is counted, dropped and reported.
type journal struct {
	db      *store.DB
	prices  *pricing.Table
	spent   *spending
	log     *slog.Logger
	queue   chan *record
	end     chan struct{}
	ending  sync.Once
	bytes   atomic.Int64
	dropped atomic.Int64
	done    sync.WaitGroup
	slots   chan struct{}      // as many as writers
	full    map[[2]string]bool // gateways whose log holds all it may; the writer's own
}

func newJournal(db *store.DB, prices *pricing.Table, spent *spending, log *slog.Logger) *journal {
	j := &journal{db: db, prices: prices, spent: spent, log: log, queue: make(chan *record, queueEntries), end: make(chan struct{}),
		slots: make(chan struct{}, writers), full: map[[2]string]bool{}}
	j.done.Go(j.run)
	return j
}

// close writes what is queued. What is put later is forgotten.
func (j *journal) close() {
	j.ending.Do(func() { close(j.end) })
	j.done.Wait()
}

func (j *journal) put(r *record) {
	r.size = int64(len(r.Request)+len(r.answer)) + 1024
	if j.bytes.Add(r.size) <= queueBytes {
		select {
		case j.queue <- r:
			return
		default:
		}
	}
	j.bytes.Add(-r.size)
	if n := j.dropped.Add(1); n == 1 {
		j.log.Warn("gateway's log can't follow; requests are left out of it", "queued", len(j.queue))
	}
}

// run collects sets and writes them.
func (j *journal) run() {
	measured := time.Now()
	for {
		var r *record
		ending := j.end
		select {
		case r = <-j.queue:
		case <-j.end:
			select {
			case r = <-j.queue:
			default:
				return
			}
		}
		group, size := []*record{r}, r.size
		linger := time.NewTimer(groupWithin)
	collect:
		for len(group) < groupEntries && size < groupBytes {
			select {
			case r := <-j.queue:
				group, size = append(group, r), size+r.size
			case <-linger.C:
				break collect
			case <-ending:
				linger.Reset(0)
				ending = nil
			}
		}
		linger.Stop()
		rows := j.rows(group)
		j.slots <- struct{}{}
		j.done.Go(func() {
			defer func() { <-j.slots }()
			j.write(rows)
			j.bytes.Add(-size)
		})
		if n := j.dropped.Swap(0); n > 0 {
			j.log.Warn("gateway's log left requests out", "count", n)
		}
		if time.Since(measured) > capEvery {
			j.measure(group)
			measured = time.Now()
		}
	}
}

// rows completes the records and returns those that are to be kept.
func (j *journal) rows(group []*record) []store.GatewayLog {
	rows := make([]store.GatewayLog, 0, len(group))
	for _, r := range group {
		r.complete(j.prices)
		if r.CostNanoUSD != nil {
			for _, b := range r.book {
				j.spent.book(b.key, b.window, *r.CostNanoUSD)
			}
		}
		if !r.keep || j.full[[2]string{r.Account, r.Gateway}] && r.view.stopAtCap {
			continue
		}
		rows = append(rows, r.GatewayLog)
	}
	return rows
}

func (j *journal) write(rows []store.GatewayLog) {
	if len(rows) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), writeWithin)
	defer cancel()
	if err := j.db.InsertGatewayLogs(ctx, rows); err != nil {
		j.log.Error("gateway's log can't be written", "requests", len(rows), "error", err)
	}
}

// measure holds the logs of the gateways in a group to their caps.
func (j *journal) measure(group []*record) {
	seen := map[[2]string]bool{}
	for _, r := range group {
		v, k := r.view, [2]string{r.Account, r.Gateway}
		if seen[k] || v.keep <= 0 {
			continue
		}
		seen[k] = true
		ctx, cancel := context.WithTimeout(context.Background(), writeWithin)
		var err error
		if v.stopAtCap {
			var n int64
			n, err = j.db.CountGatewayLogs(ctx, r.Account, r.Gateway)
			j.full[k] = err == nil && n >= v.keep
		} else {
			_, err = j.db.TrimGatewayLogs(ctx, r.Account, r.Gateway, v.keep)
			delete(j.full, k)
		}
		cancel()
		if err != nil {
			j.log.Error("gateway's log can't be held to its size", "account", r.Account, "gateway", r.Gateway, "error", err)
		}
	}
}

// complete reads the usage out of the answer, prices it, and takes out what must not be kept.
func (r *record) complete(prices *pricing.Table) {
	var u gateway.Usage
	model := ""
	if !r.Cached {
		u, model = r.usage()
	}
	if r.Model == "" {
		r.Model = model
	}
	r.TokensIn, r.TokensOut = u.Input+u.CacheRead+u.CacheWrite, u.Output
	switch {
	case r.Cached:
		r.CostNanoUSD = new(int64)
	case r.cost != nil:
		r.CustomCost, r.CustomCostRates = true, r.cost.raw
		if r.Success && (u.Known || r.cost.total != nil) {
			r.CostNanoUSD = new(r.cost.nano(u))
		}
	default:
		r.CostNanoUSD = listCost(prices, r.Provider, r.Model, u, r.CreatedAt)
		if r.CostNanoUSD == nil && model != "" && model != r.Model {
			r.CostNanoUSD = listCost(prices, r.Provider, model, u, r.CreatedAt)
		}
	}
	if !r.payload {
		r.Request, r.Response = nil, nil
		return
	}
	r.Request, r.Response = r.kept(r.Request), r.kept(r.answer)
}

// kept returns a body without the keys that a provider or a caller may have repeated in it.
func (r *record) kept(body []byte) []byte {
	if len(body) > maxLogBody {
		return nil
	}
	for _, secret := range r.secrets {
		if len(secret) >= 8 && bytes.Contains(body, []byte(secret)) {
			body = bytes.ReplaceAll(body, []byte(secret), []byte("[redacted]"))
		}
	}
	return body
}

func (r *record) usage() (gateway.Usage, string) {
	reader := r.reader
	if reader == nil && r.events && r.answer != nil && r.StatusCode/100 == 2 {
		if reader = gateway.NewStreamReader(r.speaks, nil); reader != nil {
			readEnds(reader, r.answer)
		}
	}
	var resp *gateway.Response
	switch p, ok := gateway.Lookup(r.speaks); {
	case reader != nil:
		resp, _ = reader.Answer() // of a stream that broke off, what it said counts
	case ok && !r.events && len(r.answer) > 0 && r.StatusCode/100 == 2:
		resp, _ = p.Decode(r.StatusCode, http.Header{}, plain(r.answer, r.coding)) // an answer that is no chat may have a usage
	}
	if resp == nil {
		return gateway.Usage{}, ""
	}
	return resp.Usage, resp.Model
}

// streamEnds is how much of a long stream's begin and end is read for its usage, in bytes: providers tell it, the model
// and how it ended at one of them, and to read what is said between costs more than to pass it on.
const streamEnds = 64 << 10

// readEnds gives a reader the events at both ends of a stream, or all of a short one.
func readEnds(to io.Writer, stream []byte) {
	if len(stream) > 2*streamEnds {
		head, tail := lastEvent(stream[:streamEnds]), lastEvent(stream[:len(stream)-streamEnds])
		if head > 0 && tail > head {
			_, _ = to.Write(stream[:head]) // a StreamReader never fails
			stream = stream[tail:]
		}
	}
	_, _ = to.Write(stream)
}

// lastEvent returns where the last event begins, which need not be whole; 0 when there is but one.
func lastEvent(stream []byte) int {
	for i := len(stream); i > 0; {
		i = bytes.LastIndexByte(stream[:i], '\n')
		if before, _ := bytes.CutSuffix(stream[:max(i, 0)], []byte("\r")); bytes.HasSuffix(before, []byte("\n")) {
			return i + 1
		}
	}
	return 0
}

// plain undoes gzip, the one coding that is worth reading for the usage.
func plain(body []byte, coding string) []byte {
	if strings.EqualFold(coding, "gzip") {
		if out, ok := gunzip(body); ok {
			return out
		}
	}
	return body
}

func gunzip(body []byte) ([]byte, bool) {
	z, err := gzip.NewReader(bytes.NewReader(body))
	if err != nil {
		return nil, false
	}
	out, err := io.ReadAll(io.LimitReader(z, maxCapture+1))
	return out, err == nil && len(out) <= maxCapture
}

// finish stores an answer that was given, where it may be, and hands the request to the log. header and status are the answer's; whole is false when it broke
// off on the way.
func (c *passage) finish(st *step, at, status int, header http.Header, k *capture, whole bool) {
	if whole {
		c.store(st, at, status, header, k)
	}
	r := c.record(st, at, status)
	r.book = slices.Concat(st.bookings, st.booked)
	if !r.keep && len(r.book) == 0 {
		return
	}
	r.Success = whole && status/100 == 2
	r.Streamed, r.events, r.reader = k.events, k.events, k.stream
	r.ResponseSize = k.size
	r.ResponseContentType = header.Get("Content-Type")
	r.coding = header.Get("Content-Encoding")
	r.speaks = k.speaks
	r.cost = st.opts.cost
	if !k.over {
		r.answer = k.body
	}
	c.s.journal.put(r)
}

// finishFault logs a request that the gateway itself refused.
func (c *passage) finishFault(f *refusal, body []byte) {
	st := c.failed
	if st == nil && len(c.steps) > 0 {
		st = &c.steps[0]
	}
	if st == nil {
		st = &step{opts: c.opts}
	}
	if !st.opts.collect {
		return
	}
	r := c.record(st, 0, f.status)
	r.ResponseContentType, r.ResponseSize, r.answer = contentJSON[0], int64(len(body)), body
	c.s.journal.put(r)
}

// gone ends a request whose caller went away before anything was answered. Its status is nginx's for that: without one,
// package http would write 200 to a caller that only stopped sending, and to what stands between.
func (c *passage) gone() {
	c.w.WriteHeader(statusGone)
	if st := c.failed; st != nil && st.opts.collect {
		c.s.journal.put(c.record(st, c.at, statusGone))
	}
}

const statusGone = 499

func (c *passage) record(st *step, at, status int) *record {
	path, _, _ := strings.Cut(st.endpoint, "?") // a query may hold a key
	r := &record{GatewayLog: store.GatewayLog{
		ID: c.uuid, Account: c.view.account, Gateway: c.view.id, CreatedAt: c.start,
		EventID: c.id, RequestID: c.id, Provider: st.provider, Model: st.model, ModelType: modelType(path), Path: path, RequestType: c.kind,
		RequestContentType: st.caller.Get("Content-Type"), UserAgent: c.r.UserAgent(),
		StatusCode: status, Authenticated: c.caller.authenticated, Duration: time.Since(c.start),
		Metadata: st.opts.metadata, Step: at, DLPAction: c.dlp.action, RequestSize: int64(len(c.body)),
	}, view: c.view, keep: st.opts.collect, payload: st.opts.payload}
	if st.opts.eventID != "" {
		r.EventID = st.opts.eventID
	}
	if r.payload && len(st.body) <= maxLogBody {
		r.Request = st.body
	}
	for _, secret := range []string{bare(st.secret), c.caller.token} {
		if secret != "" {
			r.secrets = append(r.secrets, secret)
		}
	}
	return r
}

// modelType says what kind of model a path asks. Cloudflare's names for the kinds aren't documented.
func modelType(path string) string {
	switch {
	case strings.Contains(path, "embed"), strings.Contains(path, "Embed"):
		return "embedding"
	case strings.Contains(path, "images/"):
		return "image"
	case strings.Contains(path, "audio/"), strings.Contains(path, "speech"):
		return "audio"
	case strings.Contains(path, "chat/completions"), strings.Contains(path, "messages"), strings.Contains(path, "enerateContent"),
		strings.Contains(path, "responses"), strings.Contains(path, "completions"):
		return "chat"
	}
	return ""
}
