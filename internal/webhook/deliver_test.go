package webhook_test

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"go.uber.org/goleak"

	"batchwright/internal/egress"
	"batchwright/internal/store"
	"batchwright/internal/store/storetest"
	"batchwright/internal/webhook"
)

// Tests leave nothing running.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var key = []byte("0123456789abcdef0123456789abcdef")

// verify is a receiver's side of the specification, written apart from package webhook. It returns the index of the signature that fits.
func verify(secret string, h http.Header, body []byte, now time.Time) (int, error) {
	raw, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(secret, "whsec_"))
	if err != nil {
		return 0, err
	}
	seconds, err := strconv.ParseInt(h.Get("webhook-timestamp"), 10, 64)
	if err != nil || now.Sub(time.Unix(seconds, 0)).Abs() > 5*time.Minute {
		return 0, fmt.Errorf("timestamp %q", h.Get("webhook-timestamp"))
	}
	m := hmac.New(sha256.New, raw)
	m.Write([]byte(h.Get("webhook-id") + "." + h.Get("webhook-timestamp") + "." + string(body)))
	for i, s := range strings.Split(h.Get("webhook-signature"), " ") {
		version, sum, _ := strings.Cut(s, ",")
		given, err := base64.StdEncoding.DecodeString(sum)
		if version == "v1" && err == nil && hmac.Equal(given, m.Sum(nil)) {
			return i, nil
		}
	}
	return 0, fmt.Errorf("no signature fits in %q", h.Get("webhook-signature"))
}

// fakeOutbox holds one endpoint's messages in memory, by the clock of the bubble that it is in.
type fakeOutbox struct {
	mu       sync.Mutex
	rows     map[string]*fakeRow
	disabled string
}

type fakeRow struct {
	store.Outgoing
	due    time.Time
	result store.DeliveryResult
}

func (f *fakeOutbox) ClaimDeliveries(_ context.Context, lease time.Duration, most, _ int, _ []uuid.UUID) (out []store.Outgoing, _ error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, r := range f.rows {
		if r.result.State == "" && !r.due.After(time.Now()) && len(out) < most {
			r.Attempts++
			r.due = time.Now().Add(lease)
			r.LeaseUntil, r.Now = r.due, time.Now()
			out = append(out, r.Outgoing)
		}
	}
	return out, nil
}

func (f *fakeOutbox) EndDelivery(_ context.Context, d store.Outgoing, res store.DeliveryResult) (string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if r := f.rows[d.ID]; r.due.Equal(d.LeaseUntil) {
		r.due = time.Now().Add(res.RetryIn)
		if res.State != "pending" {
			r.result = res
		}
	}
	if res.Gone {
		f.disabled = "gone"
	}
	return f.disabled, nil
}

func (f *fakeOutbox) CloseDeliveries(context.Context) error     { return nil }
func (f *fakeOutbox) TrimOutbox(context.Context) (int64, error) { return 0, nil }
func (f *fakeOutbox) DeliveryDue(context.Context) (bool, error) { return len(f.rows) > 0, nil }
func (f *fakeOutbox) result(id string) (r store.DeliveryResult) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.rows[id].result
}
func oneMessage(id string) *fakeOutbox {
	return &fakeOutbox{rows: map[string]*fakeRow{id: {Outgoing: store.Outgoing{ID: id, WebhookID: uuid.New(), URL: "https://r.example/x", SecretVersion: 1,
		Payload: []byte(`{"type":"x"}`)}}}}
}

type answer func(*http.Request) (*http.Response, error)

func (f answer) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func status(code int, header ...string) *http.Response {
	h := http.Header{}
	for i := 0; i+1 < len(header); i += 2 {
		h.Set(header[i], header[i+1])
	}
	return &http.Response{StatusCode: code, Header: h, Body: io.NopCloser(strings.NewReader("no matter"))}
}

// deliver runs a deliverer in a bubble until for has passed, and returns when attempts were made, since the start.
func deliver(t *testing.T, box webhook.Outbox, forHowLong time.Duration, reply func(attempt int) (*http.Response, error)) []time.Duration {
	t.Helper()
	start := time.Now()
	var mu sync.Mutex
	var attempts []time.Duration
	d := webhook.NewDeliverer(box, key, egress.Guard{}, slog.New(slog.DiscardHandler), webhook.Options{Transport: answer(func(r *http.Request) (*http.Response, error) {
		mu.Lock()
		attempts = append(attempts, time.Since(start))
		n := len(attempts)
		mu.Unlock()
		if err := r.Context().Err(); err != nil {
			return nil, err
		}
		return reply(n)
	})})
	ctx, cancel := context.WithTimeout(t.Context(), forHowLong)
	defer cancel()
	d.Run(ctx)
	return attempts
}

// TestScheduleOverDays: ten attempts at the specification's times, with jitter, then it is given up.
func TestScheduleOverDays(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		box := oneMessage("msg_1")
		got := deliver(t, box, 200*time.Hour, func(int) (*http.Response, error) { return status(500), nil })
		want := []time.Duration{0, 5 * time.Second, 5 * time.Minute, 30 * time.Minute, 2 * time.Hour, 5 * time.Hour, 10 * time.Hour, 14 * time.Hour, 20 * time.Hour, 24 * time.Hour}
		if len(got) != len(want) {
			t.Fatalf("%d attempts, want %d: %v", len(got), len(want), got)
		}
		last := time.Duration(0)
		for i := range got {
			if gap := got[i] - last; gap < want[i] || gap > want[i]+want[i]/10+2*time.Second {
				t.Errorf("attempt %d came %s after the one before, want %s and at most a tenth more", i+1, gap, want[i])
			}
			last = got[i]
		}
		if r := box.result("msg_1"); r.State != "failed" || r.Status != 500 || r.Error != "answered 500" {
			t.Errorf("in the end: %+v", r)
		}
	})
}

func TestWhatAnAnswerMeans(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name     string
		reply    *http.Response
		err      error
		attempts int // within an hour
		after    time.Duration
		state    string
		words    string
	}{
		{name: "accepted", reply: status(202), attempts: 1, state: "delivered"},
		{name: "gone", reply: status(410), attempts: 1, state: "failed", words: "answered 410: the endpoint wants no more messages"},
		{name: "redirect", reply: status(302, "Location", "https://elsewhere.example"), attempts: 4},
		{name: "retry after seconds", reply: status(429, "Retry-After", "3000"), attempts: 2, after: 3000 * time.Second},
		{name: "retry after is no way out of the schedule", reply: status(429, "Retry-After", "0"), attempts: 4, after: 5 * time.Second},
		{name: "retry after nonsense", reply: status(503, "Retry-After", "soon"), attempts: 4, after: 5 * time.Second},
		{name: "no connection", err: io.ErrUnexpectedEOF, attempts: 4, after: 5 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				box := oneMessage("msg_1")
				got := deliver(t, box, time.Hour, func(int) (*http.Response, error) { return c.reply, c.err })
				if len(got) != c.attempts {
					t.Errorf("%d attempts, want %d: %v", len(got), c.attempts, got)
				}
				if len(got) > 1 && c.after > 0 && (got[1] < c.after || got[1] > c.after+c.after/10+2*time.Second) {
					t.Errorf("second attempt after %s, want %s", got[1], c.after)
				}
				if r := box.result("msg_1"); r.State != c.state || r.Error != c.words {
					t.Errorf("in the end: %+v", r)
				}
			})
		})
	}
}

// TestAnAttemptTakesFifteenSeconds at most, however slow the receiver.
func TestAnAttemptTakesFifteenSeconds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		box := oneMessage("msg_1")
		start := time.Now()
		var took []time.Duration
		d := webhook.NewDeliverer(box, key, egress.Guard{}, slog.New(slog.DiscardHandler), webhook.Options{Transport: answer(func(r *http.Request) (*http.Response, error) {
			<-r.Context().Done()
			took = append(took, time.Since(start))
			return nil, r.Context().Err()
		})})
		ctx, cancel := context.WithTimeout(t.Context(), 17*time.Second)
		defer cancel()
		d.Run(ctx)
		if len(took) != 1 || took[0] != 15*time.Second {
			t.Errorf("attempts took %v", took)
		}
	})
}

// TestAStopLetsAttemptsEnd within seconds; one that doesn't is cut and made again, as nobody knows whether it arrived.
func TestAStopLetsAttemptsEnd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for _, c := range []struct {
			takes time.Duration
			state string
		}{{3 * time.Second, "delivered"}, {14 * time.Second, ""}} {
			box := oneMessage("msg_1")
			d := webhook.NewDeliverer(box, key, egress.Guard{}, slog.New(slog.DiscardHandler), webhook.Options{Transport: answer(func(r *http.Request) (*http.Response, error) {
				select {
				case <-time.After(c.takes):
					return status(200), nil
				case <-r.Context().Done():
					return nil, r.Context().Err()
				}
			})})
			ctx, cancel := context.WithCancel(t.Context())
			start := time.Now()
			time.AfterFunc(time.Second, cancel)
			d.Run(ctx)
			if took := time.Since(start); took > 6*time.Second {
				t.Errorf("stopping took %s", took)
			}
			if r := box.result("msg_1"); r.State != c.state {
				t.Errorf("an attempt of %s is %q after the stop, want %q", c.takes, r.State, c.state)
			}
		}
	})
}

func TestNothingIsSentWithoutAKey(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var log strings.Builder
		d := webhook.NewDeliverer(oneMessage("msg_1"), nil, egress.Guard{}, slog.New(slog.NewTextHandler(&log, nil)),
			webhook.Options{Transport: answer(func(*http.Request) (*http.Response, error) { t.Error("sent"); return status(200), nil })})
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		d.Run(ctx)
		if !strings.Contains(log.String(), "WEBHOOK_KEY") {
			t.Errorf("the log doesn't say why: %s", &log)
		}
	})
}

// lab is a project with a service over a real database.
type lab struct {
	db      *store.DB
	url     string
	project uuid.UUID
	service *webhook.Service
}

func newLab(t *testing.T) *lab {
	t.Helper()
	url := storetest.URL(t)
	db, err := store.Open(t.Context(), url, store.Options{MaxConns: 12})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	p, err := db.CreateKey(t.Context(), "p", "k", "bw_x", sha256.Sum256([]byte("k")))
	if err != nil {
		t.Fatal(err)
	}
	return &lab{db, url, p.ID, &webhook.Service{DB: db, Key: key, Guard: egress.Guard{AllowHTTP: true, AllowPrivate: true}}}
}

func (l *lab) create(t *testing.T, url string) (store.Webhook, string) {
	t.Helper()
	w, secret, err := l.service.Create(t.Context(), l.project, url, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	return w, secret
}

func (l *lab) test(t *testing.T, w store.Webhook) store.Delivery {
	t.Helper()
	d, err := l.service.Test(t.Context(), l.project, w.ID)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// run delivers until the test ends.
func (l *lab) run(t *testing.T, o webhook.Options) {
	t.Helper()
	o.Poll = 20 * time.Millisecond
	ctx, cancel := context.WithCancel(context.Background())
	d := webhook.NewDeliverer(l.db, key, l.service.Guard, slog.New(slog.DiscardHandler), o)
	done := make(chan struct{})
	go func() { defer close(done); d.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
}

func (l *lab) delivery(t *testing.T, w store.Webhook, id string) store.Delivery {
	t.Helper()
	all, err := l.db.Deliveries(t.Context(), l.project, w.ID, "", 0, 200)
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(all, func(d store.Delivery) bool { return d.ID == id })
	if i < 0 {
		t.Fatalf("there is no delivery %s", id)
	}
	return all[i]
}

func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("waited for %s", what)
		}
	}
}

// request is what a receiver got.
type request struct {
	header http.Header
	body   []byte
}

// receiver keeps what it gets and answers with the status.
func receiver(t *testing.T, status int) (*httptest.Server, func() []request) {
	t.Helper()
	var mu sync.Mutex
	var got []request
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil || r.Method != http.MethodPost || r.Header.Get("Content-Type") != "application/json" {
			t.Errorf("%s, %v, %v", r.Method, r.Header, err)
		}
		mu.Lock()
		got = append(got, request{r.Header.Clone(), body})
		mu.Unlock()
		w.WriteHeader(status)
	}))
	t.Cleanup(srv.Close)
	return srv, func() []request {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(got)
	}
}

// TestReceiversCanVerify every attempt, before and after a rotation, byte for byte what the delivery shows.
func TestReceiversCanVerify(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	srv, got := receiver(t, 204)
	w, secret := l.create(t, srv.URL)
	l.run(t, webhook.Options{})
	first := l.test(t, w)
	await(t, "the first message", func() bool { return l.delivery(t, w, first.ID).State == "delivered" })
	_, fresh, err := l.service.Rotate(t.Context(), l.project, w.ID)
	if err != nil || fresh == secret {
		t.Fatalf("rotate: %v", err)
	}
	second := l.test(t, w)
	await(t, "the second message", func() bool { return l.delivery(t, w, second.ID).State == "delivered" })
	storetest.Exec(t, l.url, `update webhooks set rotated_at = now() - interval '25 hours'`)
	third := l.test(t, w)
	await(t, "the third message", func() bool { return l.delivery(t, w, third.ID).State == "delivered" })
	all := got()
	for i, c := range []struct {
		d          store.Delivery
		old, fresh int // index of the signature; -1 for none
	}{{first, 0, -1}, {second, 1, 0}, {third, -1, 0}} {
		r := all[i]
		if r.header.Get("webhook-id") != c.d.ID || string(r.body) != string(c.d.Payload) {
			t.Errorf("message %d is %s %s, want %s %s", i+1, r.header.Get("webhook-id"), r.body, c.d.ID, c.d.Payload)
		}
		for s, want := range map[string]int{secret: c.old, fresh: c.fresh} {
			if at, err := verify(s, r.header, r.body, time.Now()); (err != nil) != (want < 0) || err == nil && at != want {
				t.Errorf("message %d: signature %d fits, %v; want %d", i+1, at, err, want)
			}
		}
		if _, err := verify(fresh, r.header, append(r.body, ' '), time.Now()); err == nil {
			t.Error("another body verifies as well")
		}
	}
}

// TestManyWorkersDeliverOnce each.
func TestManyWorkersDeliverOnce(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	srv, got := receiver(t, 200)
	for range 5 {
		w, _ := l.create(t, srv.URL)
		for range 12 {
			l.test(t, w)
		}
	}
	for range 4 {
		l.run(t, webhook.Options{})
	}
	await(t, "60 deliveries", func() bool {
		return storetest.Scalar[int64](t, l.url, `select count(*) from outbox where state = 'delivered'`) == 60
	})
	seen := map[string]int{}
	for _, r := range got() {
		seen[r.header.Get("webhook-id")]++
	}
	if len(seen) != 60 || len(got()) != 60 {
		t.Errorf("%d messages in %d requests, want 60 in 60", len(seen), len(got()))
	}
}

// TestACrashBetweenClaimAndSendLosesNothing: the message goes out when the dead worker's lease is over.
func TestACrashBetweenClaimAndSendLosesNothing(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	srv, got := receiver(t, 200)
	w, secret := l.create(t, srv.URL)
	d := l.test(t, w)
	if out, err := l.db.ClaimDeliveries(t.Context(), 300*time.Millisecond, 1, 1, nil); err != nil || len(out) != 1 {
		t.Fatalf("claimed %v, %v", out, err)
	}
	l.run(t, webhook.Options{})
	await(t, "the message", func() bool { return l.delivery(t, w, d.ID).State == "delivered" })
	if all := got(); len(all) != 1 || all[0].header.Get("webhook-id") != d.ID {
		t.Fatalf("received %v", all)
	} else if _, err := verify(secret, all[0].header, all[0].body, time.Now()); err != nil {
		t.Error(err)
	}
	if n := l.delivery(t, w, d.ID).Attempts; n != 2 {
		t.Errorf("%d attempts, want the lost one and the good one", n)
	}
}

// TestASlowEndpointHoldsUpItself and nobody else.
func TestASlowEndpointHoldsUpItself(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	release := make(chan struct{})
	var mu sync.Mutex
	at, most := 0, 0
	slow := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		mu.Lock()
		at++
		most = max(most, at)
		mu.Unlock()
		<-release
		mu.Lock()
		at--
		mu.Unlock()
	}))
	t.Cleanup(slow.Close)
	quick, _ := receiver(t, 200)
	ws, _ := l.create(t, slow.URL)
	for range 100 {
		l.test(t, ws)
	}
	l.run(t, webhook.Options{})
	await(t, "the slow one to be asked", func() bool { mu.Lock(); defer mu.Unlock(); return at > 0 })
	wq, _ := l.create(t, quick.URL)
	var last store.Delivery
	for range 10 {
		last = l.test(t, wq)
	}
	await(t, "the quick one's messages", func() bool { return l.delivery(t, wq, last.ID).State == "delivered" })
	mu.Lock()
	if most > 4 {
		t.Errorf("%d attempts at once to one endpoint", most)
	}
	mu.Unlock()
	close(release)
}

// TestEndpointsThatAreGoneAreLeftAlone until they are enabled again; then what failed can be sent again, under its old id.
func TestEndpointsThatAreGoneAreLeftAlone(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	srv, got := receiver(t, http.StatusGone)
	w, _ := l.create(t, srv.URL)
	d := l.test(t, w)
	l.run(t, webhook.Options{})
	await(t, "the endpoint to be disabled", func() bool {
		w, err := l.db.Webhook(t.Context(), l.project, w.ID)
		return err == nil && !w.Enabled && *w.DisabledReason == "gone"
	})
	if s := l.delivery(t, w, d.ID); s.State != "failed" || *s.LastStatus != 410 {
		t.Errorf("delivery: %+v", s)
	}
	for _, err := range []error{second(l.service.Test(t.Context(), l.project, w.ID)), second(l.service.Redeliver(t.Context(), l.project, w.ID, d.ID))} {
		if e, ok := err.(*webhook.Error); !ok || e.Code != webhook.Conflict {
			t.Errorf("a disabled endpoint: %v, want a conflict", err)
		}
	}
	back, _ := receiver(t, 200)
	yes := true
	if _, err := l.service.Update(t.Context(), l.project, w.ID, store.WebhookChange{URL: &back.URL, Enabled: &yes}); err != nil {
		t.Fatal(err)
	}
	if _, err := l.service.Redeliver(t.Context(), l.project, w.ID, d.ID); err != nil {
		t.Fatal(err)
	}
	await(t, "the redelivery", func() bool { return l.delivery(t, w, d.ID).State == "delivered" })
	if len(got()) != 1 {
		t.Errorf("the endpoint that was gone got %d requests", len(got()))
	}
}

func second[T any](_ T, err error) error { return err }

// TestFailuresAreWordedSafely: without addresses, and without anything of the answer.
func TestFailuresAreWordedSafely(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	secretive := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(500)
		_, _ = io.WriteString(w, "password=hunter2")
	}))
	t.Cleanup(secretive.Close)
	closed, _ := receiver(t, 200)
	closed.Close()
	selfSigned := httptest.NewUnstartedServer(http.NotFoundHandler())
	selfSigned.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	selfSigned.StartTLS()
	t.Cleanup(selfSigned.Close)
	plain, _ := receiver(t, 200)
	hanging := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body); <-r.Context().Done() }))
	t.Cleanup(hanging.Close)
	attempt := func(l *lab, url, want string) {
		t.Helper()
		w, _ := l.create(t, url)
		d := l.test(t, w)
		await(t, "the attempt at "+url, func() bool { return l.delivery(t, w, d.ID).AttemptedAt != nil })
		if got := l.delivery(t, w, d.ID); got.LastError == nil || *got.LastError != want || got.State != "pending" {
			t.Errorf("%s: %s %v, want %q", url, got.State, got.LastError, want)
		}
	}
	l.run(t, webhook.Options{})
	for url, want := range map[string]string{
		secretive.URL:  "answered 500",
		closed.URL:     "the connection failed",
		selfSigned.URL: "the host's certificate is not valid",
		strings.Replace(plain.URL, "http:", "https:", 1): "the host doesn't speak TLS as expected",
		"http://nowhere.invalid":                         "the host's name can't be resolved",
	} {
		attempt(l, url, want)
	}
	hasty := newLab(t)
	hasty.run(t, webhook.Options{Timeout: time.Second})
	attempt(hasty, hanging.URL, "no answer within 1s")
}

// TestBlockedAddressesAreNotReached by a worker, even if the API let the URL pass.
func TestBlockedAddressesAreNotReached(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	srv, got := receiver(t, 200)
	w, _ := l.create(t, srv.URL)
	l.service.Guard = egress.Guard{AllowHTTP: true}
	l.run(t, webhook.Options{})
	d := l.test(t, w)
	await(t, "the attempt", func() bool { return l.delivery(t, w, d.ID).AttemptedAt != nil })
	if s := l.delivery(t, w, d.ID); *s.LastError != "not sent: the host's address is not public" || s.LastStatus != nil || len(got()) != 0 {
		t.Errorf("%+v, %d requests arrived", s, len(got()))
	}
}

func TestWhatIsRefused(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	strict := &webhook.Service{DB: l.db, Key: key}
	keyless := &webhook.Service{DB: l.db}
	for _, c := range []struct {
		service *webhook.Service
		url     string
		events  []string
		code    webhook.Code
		field   string
	}{
		{strict, "http://example.com", nil, webhook.Invalid, "url"},
		{strict, "https://127.0.0.1", nil, webhook.Invalid, "url"},
		{strict, "https://example.com", []string{"batch.completed", "batch.exploded"}, webhook.Invalid, "events[1]"},
		{keyless, "https://example.com", nil, webhook.Unconfigured, ""},
	} {
		_, _, err := c.service.Create(t.Context(), l.project, c.url, "", c.events)
		if e, ok := err.(*webhook.Error); !ok || e.Code != c.code || e.Field != c.field {
			t.Errorf("%s %v: %v", c.url, c.events, err)
		}
	}
	if _, _, err := keyless.Create(t.Context(), l.project, "https://example.com", "", nil); !strings.Contains(err.Error(), "WEBHOOK_KEY") {
		t.Errorf("no word of what to set: %v", err)
	}
	w, _, err := strict.Create(t.Context(), l.project, "https://example.com", "mine", []string{"batch.failed", "batch.completed", "batch.failed"})
	if err != nil || !slices.Equal(w.Events, []string{"batch.completed", "batch.failed"}) {
		t.Errorf("%+v, %v", w, err)
	}
	for range store.MaxWebhooks - 1 {
		if _, _, err := strict.Create(t.Context(), l.project, "https://example.com", "", nil); err != nil {
			t.Fatal(err)
		}
	}
	_, _, err = strict.Create(t.Context(), l.project, "https://example.com", "", nil)
	if e, ok := err.(*webhook.Error); !ok || e.Code != webhook.Conflict {
		t.Errorf("one too many: %v", err)
	}
}
