package chaos

import (
	"bytes"
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// hook is a receiver that a project has told of its batches.
type hook struct {
	key   int
	share float64 // of the messages that it doesn't take as it should, until all is calm
}

func (h hook) String() string {
	return fmt.Sprintf("a webhook for the project of key %d, which answers %.0f%% badly", h.key, 100*h.share)
}

func (d *dice) hooks() (out []hook) {
	for key := range projects {
		if d.IntN(2) == 0 {
			out = append(out, hook{key, 0.1 * float64(d.IntN(10))})
		}
	}
	return out
}

// hookLink is the network between the workers and the receivers, which have one address.
const hookLink = "workers>hooks"

// webhookKey is what the processes derive the secrets from.
const webhookKey = "6368616f732d6368616f732d6368616f732d6368616f732d6368616f732d6368"

// message is a webhook's message that a receiver took.
type message struct {
	ID   string // webhook-id
	body []byte
	hook string // path of the receiver
	Type string `json:"type"`
	At   string `json:"timestamp"`
	Data struct {
		BatchID string `json:"batch_id"`
		State   string `json:"state"`
		Counts  struct {
			Total, Succeeded, Failed, Cancelled int64
		} `json:"counts"`
		Calls int64  `json:"calls"`
		Cost  *int64 `json:"cost_microusd"`
	} `json:"data"`
}

// receiver takes webhooks' messages, and keeps the good ones.
type receiver struct {
	seed uint64
	calm chan struct{}

	mu      sync.Mutex
	secrets map[string][]byte  // by path; nil is an endpoint that nobody knows the secret of
	share   map[string]float64 // by path
	asked   int
	taken   map[string]message // by webhook-id
	wrong   []string
}

func newReceiver(seed uint64) *receiver {
	return &receiver{seed: seed, calm: make(chan struct{}), secrets: map[string][]byte{}, share: map[string]float64{}, taken: map[string]message{}}
}

// settle ends all misbehaviour.
func (r *receiver) settle() { close(r.calm) }

func (r *receiver) fault(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.wrong = append(r.wrong, fmt.Sprintf(format, args...))
}

// ServeHTTP implements http.Handler.
func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(io.LimitReader(req.Body, 1<<20))
	if err != nil {
		return
	}
	r.mu.Lock()
	secret, known := r.secrets[req.URL.Path]
	share := r.share[req.URL.Path]
	r.asked++
	dice := rand.New(rand.NewPCG(r.seed, uint64(r.asked)))
	r.mu.Unlock()
	switch {
	case !known: // the API's answer with its secret is still on its way
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	case secret == nil:
		w.WriteHeader(http.StatusGone)
		return
	}
	how := -1
	select {
	case <-r.calm:
	default:
		if dice.Float64() < share {
			how = dice.IntN(6)
		}
	}
	switch how {
	case 0:
		w.WriteHeader(http.StatusInternalServerError)
		return
	case 1:
		w.Header().Set("Retry-After", "1")
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	case 2:
		http.Redirect(w, req, "/elsewhere", http.StatusFound)
		return
	case 3: // hangs
		select {
		case <-req.Context().Done():
		case <-r.calm:
		}
		breakOff(w, nil)
		return
	case 4:
		breakOff(w, nil)
		return
	}
	if why := r.take(secret, req, body); why != "" {
		r.fault("a webhook's message is not what it should be, %s: %s", why, body)
	}
	if how == 5 { // takes it, and nobody hears of that
		breakOff(w, nil)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// take keeps a message, or says what is wrong with it.
func (r *receiver) take(secret []byte, req *http.Request, body []byte) string {
	m := message{ID: req.Header.Get("webhook-id"), body: body, hook: req.URL.Path}
	stamp := req.Header.Get("webhook-timestamp")
	at, err := strconv.ParseInt(stamp, 10, 64)
	if err != nil || time.Since(time.Unix(at, 0)).Abs() > 5*time.Minute {
		return "its timestamp is " + stamp
	}
	h := hmac.New(sha256.New, secret)
	_, _ = h.Write(append([]byte(m.ID+"."+stamp+"."), body...)) // never fails
	if want := "v1," + base64.StdEncoding.EncodeToString(h.Sum(nil)); req.Header.Get("webhook-signature") != want {
		return "its signature is " + req.Header.Get("webhook-signature")
	}
	if err := json.Unmarshal(body, &m); err != nil || m.ID == "" {
		return "it can't be read"
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if before, again := r.taken[m.ID]; again && !bytes.Equal(before.body, body) {
		return "its id stood for " + string(before.body)
	}
	r.taken[m.ID] = m
	return ""
}

// listen registers a receiver for its project. A try whose answer is lost leaves an endpoint behind that wants nothing.
func (w *world) listen(ctx context.Context, h hook) error {
	try := 0
	return w.insist(ctx, "a webhook", func(ctx context.Context) error {
		try++
		path := fmt.Sprintf("/%d/%d", h.key, try)
		made, err := w.clients[h.key].CreateWebhook(ctx, "http://"+w.hooks+path, "", nil)
		var secret []byte
		if err == nil {
			secret, err = base64.StdEncoding.DecodeString(strings.TrimPrefix(made.Secret, "whsec_"))
		}
		w.receiver.mu.Lock()
		defer w.receiver.mu.Unlock()
		w.receiver.secrets[path], w.receiver.share[path] = secret, h.share
		return err
	})
}

// ended are the final batches of projects that want to be told.
const ended = `select b.id, w.url, b.state, b.total_jobs, b.succeeded_jobs, b.failed_jobs, b.cancelled_jobs, b.calls, b.name
	from batches b join webhooks w on w.project_id = b.project_id and w.enabled where b.finished_at is not null order by b.id`

// told waits until the receivers know the end of every batch. The waits between attempts, up to days, are cut short: that a message isn't
// lost means that it is still to be sent.
func (w *world) told(ctx context.Context) (wrong []string, err error) {
	if len(w.plan.hooks) == 0 {
		return nil, nil
	}
	rows, err := w.query(ctx, `select id, type, attempts, next_attempt_at - now() from outbox where state = 'pending' and next_attempt_at > now() + interval '1 hour'`)
	if err != nil {
		return nil, err
	}
	if len(rows) > 0 {
		wrong = append(wrong, fmt.Sprintf("%d messages wait for too long, such as %s", len(rows), strings.Join(rows[0], " | ")))
	}
	for begun := time.Now(); ; {
		if _, err := w.query(ctx, `update outbox set next_attempt_at = now() where state = 'pending' and next_attempt_at > now() + interval '500 milliseconds'`); err != nil {
			return wrong, err
		}
		_ = wait(ctx, 1200*time.Millisecond) // the workers look every second
		missing, err := w.untold(ctx)
		if err != nil || len(missing) == 0 {
			break
		}
		if time.Since(begun) > 30*time.Second || ctx.Err() != nil {
			wrong = append(wrong, missing...)
			break
		}
	}
	w.receiver.mu.Lock()
	defer w.receiver.mu.Unlock()
	w.say("the webhooks were sent %d times, and took %d messages", w.receiver.asked, len(w.receiver.taken))
	return append(wrong, w.receiver.wrong...), err
}

// untold says which ends of batches the receivers don't know.
func (w *world) untold(ctx context.Context) (missing []string, err error) {
	left, err := w.query(ctx, `select o.id, o.type, o.attempts, o.last_error from outbox o join webhooks w on w.id = o.webhook_id and w.enabled where o.state <> 'delivered'`)
	if err != nil {
		return nil, err
	}
	for _, row := range left {
		missing = append(missing, "a message isn't delivered: "+strings.Join(row, " | "))
	}
	batches, err := w.query(ctx, ended)
	if err != nil {
		return nil, err
	}
	w.receiver.mu.Lock()
	defer w.receiver.mu.Unlock()
	last := map[string]message{} // the newest about each batch's end, by receiver and batch
	for _, m := range w.receiver.taken {
		if m.Type == "batch."+m.Data.State && m.Data.State != "paused" {
			at := m.hook + m.Data.BatchID
			if cmp.Compare(m.At, last[at].At) > 0 {
				last[at] = m
			}
		}
	}
	for _, b := range batches {
		path := strings.TrimPrefix(b[1], "http://"+w.hooks)
		m, told := last[path+b[0]]
		is := fmt.Sprint(m.Data.State, m.Data.Counts.Total, m.Data.Counts.Succeeded, m.Data.Counts.Failed, m.Data.Counts.Cancelled, m.Data.Calls)
		if want := b[2] + strings.Join(b[3:8], " "); !told {
			missing = append(missing, fmt.Sprintf("%s is %s, and its project was not told", b[8], b[2]))
		} else if is != want {
			missing = append(missing, fmt.Sprintf("%s is %s, and its project was last told %s", b[8], want, is))
		}
	}
	return missing, nil
}
