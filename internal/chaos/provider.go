package chaos

import (
	"context"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// The provider's models and their prices, in micro-dollars a token.
const (
	first  = "sim-a"
	second = "sim-b"
)

var prices = map[string]struct{ input, output int64 }{first: {10, 20}, second: {20, 40}}

// priceFile is what the processes are told of them: 1 micro-dollar a token is 1 dollar a million.
const priceFile = "provider,model,valid_from,input_usd_per_mtok,output_usd_per_mtok\n" +
	"openai-compatible,sim-a,2020-01-01,10,20\nopenai-compatible,sim-b,2020-01-01,20,40\n"

// Ways in which the provider answers. Those that bill are the ones that a careful customer must count as paid.
const (
	good     = "good"
	limited  = "429"             // with Retry-After
	crowded  = "429 bare"        // without
	failed   = "500"             //
	busy     = "503"             //
	lost     = "504"             // billed: a gateway in front of the model gave up on an answer that was made
	silent   = "hang"            // nothing comes, nothing was made
	swallow  = "hang, billed"    // the answer was made and never sent
	garbage  = "garbage, billed" // half a JSON document
	page     = "html, billed"    // an edge answers in the model's place
	refuse   = "reset"           // before anything was made
	reset    = "reset, billed"   // the answer was made, and then the connection broke
	cut      = "cut, billed"     // the connection ends within the answer
	drip     = "drip"            // the answer comes a few bytes at a time
	mistyped = "mistyped"        // a good answer of the wrong content type
)

// misbehaviour is all of that which isn't good.
var misbehaviour = []string{limited, crowded, failed, busy, lost, silent, swallow, garbage, page, refuse, reset, cut, drip, mistyped}

var bills = map[string]bool{good: true, lost: true, swallow: true, garbage: true, page: true, reset: true, cut: true, drip: true, mistyped: true}

// spell is a time of bad weather: from is counted from the start of the run.
type spell struct {
	from, until time.Duration
	kind        string
	share       float64 // of the requests in that time
	model       string  // whom it hits; empty is all
}

func (s spell) String() string {
	who := s.model
	if who == "" {
		who = "the provider"
	}
	return fmt.Sprintf("%s to %s: %s answers %.0f%% with %s", s.from, s.until, who, 100*s.share, s.kind)
}

// call is a request that the provider billed.
type call struct {
	question
	model string
	how   string
	cost  int64 // micro-dollars
	at    time.Time
}

// provider is a model provider over HTTP that knows whom it billed for what. What it answers is a function of the prompt; how it
// misbehaves, of the seed, the prompt, and how often that was asked.
type provider struct {
	seed  uint64
	bad   []spell
	slow  time.Duration // latency is from half of it to one and a half
	start time.Time
	calls atomic.Int64 // that came in
	calm  chan struct{}

	mu    sync.Mutex
	asked map[string]int    // questions, by model
	books map[string][]call // by the question's tag
}

func newProvider(seed uint64, bad []spell, slow time.Duration) *provider {
	return &provider{seed: seed, bad: bad, slow: slow, start: time.Now(), calm: make(chan struct{}), asked: map[string]int{}, books: map[string][]call{}}
}

// settle ends all misbehaviour, that under way included.
func (p *provider) settle() { close(p.calm) }

// ledger returns what was billed so far, by tag.
func (p *provider) ledger() map[string][]call {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make(map[string][]call, len(p.books))
	for tag, calls := range p.books {
		out[tag] = append([]call(nil), calls...)
	}
	return out
}

// answerTo is what a good answer says of a word.
func answerTo(tag string) string { return fmt.Sprintf("The word of %s is %016x.", tag, hash(tag)) }

func hash(s string) uint64 {
	h := fnv.New64a()
	_, _ = io.WriteString(h, s) // never fails
	return h.Sum64()
}

// usage is less than what a careful estimate of the prompt and the template's cap make.
func usage(id string) (input, output int64) {
	h := hash(id)
	return 4 + int64(h%6), 5 + int64(h/7%20)
}

func costOf(model, id string) int64 {
	in, out := usage(id)
	return in*prices[model].input + out*prices[model].output
}

// ServeHTTP implements http.Handler.
func (p *provider) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	if err != nil {
		return
	}
	var in struct{ Model string }
	q, ok := understand(body)
	if !ok || json.Unmarshal(body, &in) != nil || prices[in.Model].input == 0 {
		http.Error(w, `{"error":{"message":"not a prompt of ours","code":"invalid_json"}}`, http.StatusBadRequest)
		return
	}
	p.calls.Add(1)
	how, late := p.draw(q.id, in.Model)
	if wait(r.Context(), late) != nil {
		return // gone before anything was made
	}
	if bills[how] {
		p.mu.Lock()
		p.books[q.tag] = append(p.books[q.tag], call{q, in.Model, how, costOf(in.Model, q.id), time.Now()})
		p.mu.Unlock()
	}
	p.answer(w, r, how, reply(in.Model, q))
}

// draw decides how a request fares, and after how long.
func (p *provider) draw(id, model string) (how string, late time.Duration) {
	p.mu.Lock()
	p.asked[id+model]++
	n := p.asked[id+model]
	p.mu.Unlock()
	rng := rand.New(rand.NewPCG(p.seed, hash(id+model)+uint64(n)))
	late = p.slow/2 + time.Duration(rng.Int64N(int64(p.slow)+1))
	select {
	case <-p.calm:
		return good, late
	default:
	}
	now, u := time.Since(p.start), rng.Float64()
	for _, s := range p.bad {
		if now < s.from || now > s.until || s.model != "" && s.model != model {
			continue
		}
		if u < s.share {
			return s.kind, late
		}
		u -= s.share
	}
	return good, late
}

func reply(model string, q question) []byte {
	in, out := usage(q.id)
	return fmt.Appendf(nil, `{"id":"chaos","object":"chat.completion","created":1,"model":%q,"choices":[{"index":0,"finish_reason":"stop",`+
		`"message":{"role":"assistant","content":%q}}],"usage":{"prompt_tokens":%d,"completion_tokens":%d,"total_tokens":%d}}`,
		model, q.answer, in, out, in+out)
}

func (p *provider) answer(w http.ResponseWriter, r *http.Request, how string, body []byte) {
	problem := func(status int) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_, _ = fmt.Fprintf(w, `{"error":{"message":"bad weather","type":"error_%d"}}`, status)
	}
	w.Header().Set("Content-Type", "application/json")
	switch how {
	case limited:
		w.Header().Set("Retry-After", "1")
		problem(http.StatusTooManyRequests)
	case crowded:
		problem(http.StatusTooManyRequests)
	case failed:
		problem(http.StatusInternalServerError)
	case busy:
		problem(http.StatusServiceUnavailable)
	case lost:
		problem(http.StatusGatewayTimeout)
	case silent, swallow:
		select {
		case <-r.Context().Done():
		case <-p.calm:
		}
		breakOff(w, nil)
	case garbage:
		_, _ = w.Write(body[:len(body)/2])
	case page:
		w.Header().Set("Content-Type", "text/html")
		_, _ = io.WriteString(w, "<html><body>Bad gateway</body></html>")
	case refuse, reset:
		breakOff(w, nil)
	case cut:
		breakOff(w, fmt.Appendf(nil, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(body), body[:len(body)*2/3]))
	case drip:
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
		for part := range slices.Chunk(body, 40) {
			if _, err := w.Write(part); err != nil || wait(r.Context(), 30*time.Millisecond) != nil {
				return
			}
			w.(http.Flusher).Flush()
		}
	case mistyped:
		w.Header().Set("Content-Type", "text/plain")
		_, _ = w.Write(body)
	default:
		_, _ = w.Write(body)
	}
}

// breakOff writes what is given, if anything, and resets the connection.
func breakOff(w http.ResponseWriter, written []byte) {
	conn, _, err := w.(http.Hijacker).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	defer func() { _ = conn.Close() }()
	if len(written) > 0 {
		_, _ = conn.Write(written) // ends in order behind it, which is too early
		return
	}
	if c, ok := conn.(*net.TCPConn); ok {
		_ = c.SetLinger(0)
	}
}

// wait waits, or returns the cause of ctx's end.
func wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
