package webhook

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/google/uuid"

	"batchwright/internal/egress"
	"batchwright/internal/store"
)

// Outbox is where messages wait: *store.DB, or a fake of it.
type Outbox interface {
	ClaimDeliveries(ctx context.Context, lease time.Duration, most, each int, busy []uuid.UUID) ([]store.Outgoing, error)
	EndDelivery(ctx context.Context, d store.Outgoing, r store.DeliveryResult) (disabled string, err error)
	CloseDeliveries(ctx context.Context) error
	TrimOutbox(ctx context.Context) (int64, error)
	DeliveryDue(ctx context.Context) (bool, error)
}

// Options tune a [Deliverer]. The zero value is the default.
type Options struct {
	Timeout   time.Duration     // of an attempt, from the connection to the end of the answer; default 15 s
	Poll      time.Duration     // between two looks for due messages; default 1 s
	Transport http.RoundTripper // default: one that only reaches what the guard lets it
}

const (
	maxInFlight = 64               // attempts at once
	maxEach     = 4                // of them to one endpoint: a slow one holds up itself
	leaseSlack  = 45 * time.Second // of a claim, beyond the timeout: to record the outcome
	stopGrace   = 5 * time.Second  // for attempts under way when the process stops
	maxAnswer   = 64 << 10         // bytes of an answer that are read, so that the connection can serve again
	longestWait = 24 * time.Hour   // that a Retry-After may ask for
)

// schedule is how long to wait after each failed attempt: the specification's example, three days in all.
var schedule = []time.Duration{5 * time.Second, 5 * time.Minute, 30 * time.Minute, 2 * time.Hour, 5 * time.Hour, 10 * time.Hour, 14 * time.Hour,
	20 * time.Hour, 24 * time.Hour}

// Deliverer sends messages from the outbox. Any number share one.
type Deliverer struct {
	outbox Outbox
	key    []byte
	http   *http.Client
	log    *slog.Logger
	o      Options

	freed chan struct{}
	mu    sync.Mutex
	busy  map[uuid.UUID]int // attempts under way, by endpoint
	total int
}

// NewDeliverer returns a deliverer that does nothing until Run. Without a key it sends nothing, and says so when something is due.
func NewDeliverer(outbox Outbox, key []byte, g egress.Guard, log *slog.Logger, o Options) *Deliverer {
	o.Timeout = cmp.Or(o.Timeout, 15*time.Second)
	o.Poll = cmp.Or(o.Poll, time.Second)
	d := &Deliverer{outbox: outbox, key: key, http: g.Client(), log: log, o: o, freed: make(chan struct{}, 1), busy: map[uuid.UUID]int{}}
	if o.Transport != nil {
		d.http.Transport = o.Transport
	}
	return d
}

// Run delivers until ctx ends. Attempts under way then get a few seconds; those that are cut are made again by another worker.
func (d *Deliverer) Run(ctx context.Context) {
	hard, cut := context.WithCancel(context.WithoutCancel(ctx))
	defer cut()
	defer d.http.CloseIdleConnections()
	var flights sync.WaitGroup
	defer func() {
		grace := time.AfterFunc(stopGrace, cut)
		defer grace.Stop()
		flights.Wait()
	}()
	poll := time.NewTicker(d.o.Poll)
	defer poll.Stop()
	var tidied, trimmed time.Time
	for ctx.Err() == nil {
		if time.Since(tidied) > time.Minute {
			tidied = time.Now()
			d.tidy(ctx, time.Since(trimmed) > time.Hour)
			if time.Since(trimmed) > time.Hour {
				trimmed = tidied
			}
		}
		for _, out := range d.claim(ctx) {
			flights.Go(func() { d.deliver(hard, out) })
		}
		select {
		case <-ctx.Done():
		case <-poll.C:
		case <-d.freed:
		}
	}
}

func (d *Deliverer) tidy(ctx context.Context, trim bool) {
	err := d.outbox.CloseDeliveries(ctx)
	if trim && err == nil {
		_, err = d.outbox.TrimOutbox(ctx)
	}
	if len(d.key) == 0 && err == nil {
		var due bool
		if due, err = d.outbox.DeliveryDue(ctx); due {
			d.log.WarnContext(ctx, "webhooks wait: set WEBHOOK_KEY on the workers to what the API has")
		}
	}
	if err != nil && ctx.Err() == nil {
		d.log.WarnContext(ctx, "outbox not tidied, will be tried again", "err", err)
	}
}

// claim takes messages for which there is room.
func (d *Deliverer) claim(ctx context.Context) []store.Outgoing {
	if len(d.key) == 0 {
		return nil
	}
	d.mu.Lock()
	room := maxInFlight - d.total
	busy := make([]uuid.UUID, 0, len(d.busy))
	for id := range d.busy {
		busy = append(busy, id)
	}
	d.mu.Unlock()
	if room == 0 {
		return nil
	}
	claimed, err := d.outbox.ClaimDeliveries(ctx, d.o.Timeout+leaseSlack, room, maxEach, busy)
	if err != nil {
		if ctx.Err() == nil {
			d.log.WarnContext(ctx, "no messages claimed, will be tried again", "err", err)
		}
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.total += len(claimed)
	for _, out := range claimed {
		d.busy[out.WebhookID]++
	}
	return claimed
}

// deliver makes one attempt and records it.
func (d *Deliverer) deliver(ctx context.Context, out store.Outgoing) {
	defer d.release(out.WebhookID)
	status, after, err := d.send(ctx, out)
	if ctx.Err() != nil {
		return // cut: whether it arrived isn't known, so it is sent again
	}
	r := judge(int(out.Attempts), status, after, d.explain(err))
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaseSlack/2)
	defer cancel()
	log := d.log.With("webhook", out.WebhookID, "message", out.ID, "type", out.Type, "attempt", out.Attempts, "status", status)
	disabled, err := d.outbox.EndDelivery(ctx, out, r)
	if err != nil { // it is due again when its lease ends
		log.WarnContext(ctx, "outcome of a delivery not recorded", "err", err)
		return
	}
	switch {
	case disabled != "":
		log.WarnContext(ctx, "webhook disabled", "reason", disabled)
		if err := d.outbox.CloseDeliveries(ctx); err != nil {
			log.WarnContext(ctx, "outbox not tidied, will be tried again", "err", err)
		}
	case r.State == "failed":
		log.WarnContext(ctx, "message given up", "reason", r.Error)
	default:
		log.DebugContext(ctx, "message sent", "state", r.State, "reason", r.Error)
	}
}

func (d *Deliverer) release(id uuid.UUID) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.total--
	if d.busy[id]--; d.busy[id] == 0 {
		delete(d.busy, id)
		select {
		case d.freed <- struct{}{}: // more may wait for it
		default:
		}
	}
}

// send posts a message and returns the answer's status, and how long it asks to be left alone.
func (d *Deliverer) send(ctx context.Context, out store.Outgoing) (status int, after time.Duration, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, d.o.Timeout, errTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, out.URL, bytes.NewReader(out.Payload))
	if err != nil {
		return 0, 0, err
	}
	secrets := [][]byte{derive(d.key, out.WebhookID, out.SecretVersion)}
	if out.Rotated {
		secrets = append(secrets, derive(d.key, out.WebhookID, out.SecretVersion-1))
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "Batchwright-Webhooks")
	// Lower-case on the wire, as the specification writes them; receivers don't mind either.
	req.Header["webhook-id"] = []string{out.ID}
	req.Header["webhook-timestamp"] = []string{strconv.FormatInt(out.Now.Unix(), 10)}
	req.Header["webhook-signature"] = []string{sign(secrets, out.ID, out.Now, out.Payload)}
	res, err := d.http.Do(req)
	if err != nil {
		if errors.Is(context.Cause(ctx), errTimeout) {
			err = errTimeout
		}
		return 0, 0, err
	}
	defer res.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(res.Body, maxAnswer)) // the status was the answer
	return res.StatusCode, egress.RetryAfter(res.Header.Get("Retry-After"), out.Now), nil
}

var errTimeout = errors.New("webhook: timed out")

// explain words why there was no answer.
func (d *Deliverer) explain(err error) string {
	switch {
	case err == nil:
		return ""
	case errors.Is(err, errTimeout):
		return fmt.Sprintf("no answer within %s", d.o.Timeout)
	case errors.Is(err, egress.ErrBlocked):
		return "not sent: " + egress.Why(err)
	}
	return egress.Why(err)
}

// judge turns an attempt into what becomes of the message.
func judge(attempt, status int, after time.Duration, failure string) store.DeliveryResult {
	r := store.DeliveryResult{State: "pending", Status: status, Error: failure}
	switch {
	case status >= 200 && status < 300:
		r.State = "delivered"
		return r
	case status >= 300 && status < 400:
		r.Error = fmt.Sprintf("answered %d: redirects are not followed, change the URL", status)
	case status == http.StatusGone:
		r.Error = "answered 410: the endpoint wants no more messages"
		r.State, r.Gone = "failed", true
		return r
	case status != 0:
		r.Error = fmt.Sprintf("answered %d", status)
	}
	if attempt > len(schedule) {
		r.State = "failed"
		return r
	}
	wait := schedule[max(attempt, 1)-1]
	r.RetryIn = max(wait+rand.N(wait/10), min(after, longestWait))
	return r
}

var _ Outbox = (*store.DB)(nil)
