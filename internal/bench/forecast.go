package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"batchwright/internal/client"
	"batchwright/internal/gateway"
	"batchwright/internal/process"
)

const forecastPreface = `# Forecasts held against what came

Written by ` + "`make bench-forecast`" + `; don't edit it. A round runs 200 batches, each by another seed, and none of them occurs in two rounds. Their
provider is the simulator, behind real HTTP. A project has a few templates, whose answers have a length each, spread log-normally within a batch; from one batch to the
next the length drifts, by another share in each project. Batches have 1 to 500 jobs, of all three kinds; some have duplicates, some inputs of an
earlier batch, which the cache answers, and in some projects the primary fails: a few calls, a third of them, or all. The first batch of a
project has no history, the last has that of all others. The simulator counts its input by bytes, not by a vocabulary, so that forecasts have to learn
that, too. Nothing of all this is told to the forecast. A figure beyond its target is "short"; nothing fails by it.

`

const (
	foretoldBatches = 200
	worldBatches    = 20 // of one project
)

// foretold is F1: the share of batches that cost at most the P90 of their forecast.
func foretold(ctx context.Context, l *lab) ([]line, error) {
	most := line{name: "F1 % of batches at or under P90 : at least, of all", target: 0.85, note: "Batches that cost at most the P90 of their forecast. It should be 90: less is too bold, more too timid."}
	least := line{name: "F1 the same : at most, of all", target: 0.97, atMost: true, note: "As above."}
	half := line{name: "F1 % of batches at or under P50", note: "It should be 50."}
	wide := line{name: "F1 P90 in % of P50, median", note: "How far the two are apart: what the forecast admits not to know."}
	off := line{name: "F1 cost off P50 in %, median", note: "Above or below."}
	took := line{name: "F1 % of durations at or under P90", note: "Of batches that run beside those of other projects, which a forecast doesn't know of."}
	parts := make([]line, len(sorts))
	for round := range l.rounds {
		l.say(fmt.Sprintf("round %d", round+1))
		all, err := l.foretell(ctx, uint64(round), l.size(foretoldBatches, worldBatches)/worldBatches)
		if err != nil {
			return nil, err
		}
		share := func(which func(o outcome) bool, within func(o outcome) bool) (percent float64, phase string) {
			n, hit := 0, 0
			for _, o := range all {
				if which(o) {
					if n++; within(o) {
						hit++
					}
				}
			}
			return 100 * float64(hit) / float64(max(n, 1)), fmt.Sprintf("%d of %d", hit, n)
		}
		every := func(outcome) bool { return true }
		inside, phase := share(every, outcome.inside)
		most.read(inside, 100, phase, nil)
		least.read(inside, 100, phase, nil)
		orient := func(ln *line, ours float64, phase string) {
			ln.ours, ln.phases = append(ln.ours, ours), append(ln.phases, phase)
		}
		below, phase := share(every, func(o outcome) bool { return o.cost <= o.forecast.CostMicrousd.P50 })
		orient(&half, below, phase)
		fast, phase := share(every, func(o outcome) bool { return o.took.Milliseconds() <= o.forecast.DurationMS.P90 })
		orient(&took, fast, phase)
		var ratios, offs []float64
		for _, o := range all {
			p50 := float64(max(o.forecast.CostMicrousd.P50, 1))
			ratios = append(ratios, 100*float64(o.forecast.CostMicrousd.P90)/p50)
			offs = append(offs, 100*math.Abs(float64(o.cost)/p50-1))
		}
		orient(&wide, median(ratios), "")
		orient(&off, median(offs), "")
		for i, sort := range sorts {
			parts[i].name, parts[i].note = "F1 % at or under P90, "+sort.name, "Of the batches of this sort."
			inside, phase := share(sort.is, outcome.inside)
			orient(&parts[i], inside, phase)
		}
	}
	return append([]line{most, least, half, wide, off, took}, parts...), nil
}

// outcome is a batch with its forecast.
type outcome struct {
	forecast client.Forecast
	cost     int64
	took     time.Duration
	jobs     int
	kind     string
	fails    bool // its primary
}

func (o outcome) inside() bool { return o.cost <= o.forecast.CostMicrousd.P90 }

// sorts are the groups of batches that are told apart.
var sorts = []struct {
	name string
	is   func(o outcome) bool
}{
	{"without history", func(o outcome) bool { return o.forecast.HistoryBatches == 0 }},
	{"1 to 3 batches of history", func(o outcome) bool { return o.forecast.HistoryBatches >= 1 && o.forecast.HistoryBatches <= 3 }},
	{"more history", func(o outcome) bool { return o.forecast.HistoryBatches > 3 }},
	{"generate", func(o outcome) bool { return o.kind == "generate" }},
	{"chat", func(o outcome) bool { return o.kind == "chat" }},
	{"summarize", func(o outcome) bool { return o.kind == "summarize" }},
	{"primary fails", func(o outcome) bool { return o.fails }},
	{"up to 20 jobs", func(o outcome) bool { return o.jobs <= 20 }},
	{"more jobs", func(o outcome) bool { return o.jobs > 20 }},
}

// foretell runs a round's batches: those of a project one after the other, projects side by side.
func (l *lab) foretell(ctx context.Context, round uint64, projects int) (all []outcome, err error) {
	s, err := l.system(ctx, []string{"WORKER_CONCURRENCY=128", "WORKER_LEASE=10s"})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.close(ctx)) }()
	var mu sync.Mutex
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(5)
	for i := range projects {
		g.Go(func() error {
			w, err := s.world(gctx, fmt.Sprintf("p%d", i), rand.New(rand.NewPCG(round, uint64(i))))
			if err != nil {
				return err
			}
			defer w.client.Close()
			for n := range worldBatches {
				o, err := w.batch(gctx)
				if err != nil {
					return fmt.Errorf("round %d, project %d, batch %d: %w", round, i, n, err)
				}
				mu.Lock()
				all = append(all, o)
				mu.Unlock()
			}
			return nil
		})
	}
	return all, g.Wait()
}

// world is a project with its habits.
type world struct {
	*system
	client    *client.Client
	r         *rand.Rand
	name      string
	large     string // models; that of chats never fails, since their route has no other
	small     string
	chat      string
	failing   float64 // share of its batches whose primary fails
	drift     float64
	templates []habit
}

// habit is a template, or another kind of work, with what its answers are like.
type habit struct {
	kind     string
	template string
	params   string
	length   float64 // mean of the logarithm of answers' lengths
	spread   float64
	cap      int
	words    int // of a job's input
	used     int // jobs so far
}

func (s *system) world(ctx context.Context, name string, r *rand.Rand) (*world, error) {
	key, err := process.CreateKey(ctx, func(n string) string { return map[string]string{"DATABASE_URL": s.databaseURL}[n] }, name, "bench")
	if err != nil {
		return nil, err
	}
	w := &world{system: s, r: r, name: name, large: name + "-large", small: name + "-small", chat: name + "-chat", drift: math.Exp(math.Log(0.02) + r.Float64()*math.Log(15))}
	if w.client, err = client.New("http://"+s.api.log.addr("api ready"), key); err != nil {
		return nil, err
	}
	for model, price := range map[string]int64{w.large: 2_000_000, w.small: 300_000, w.chat: 1_000_000} {
		if _, err := w.client.SetPrice(ctx, client.NewPrice{Provider: "openai-compatible", Model: model, ValidFrom: "2026-01-01",
			Rates: client.Rates{Input: price, Output: 4 * price, CachedInput: price / 10, CacheWrite: price}}); err != nil {
			return nil, err
		}
	}
	if r.Float64() < 0.3 {
		w.failing = 0.5
	}
	for i := range 3 + r.IntN(2) {
		h := habit{kind: []string{"generate", "generate", "chat", "summarize", "generate"}[i], length: math.Log(40) + r.Float64()*math.Log(15), spread: 0.2 + 0.7*r.Float64(),
			words: 5 + r.IntN(150)}
		h.cap = int(math.Exp(h.length) * (2 + 6*r.Float64()))
		switch h.kind {
		case "generate":
			h.template = fmt.Sprintf("t%d", i)
			spec, err := json.Marshal(map[string]any{"system": w.words(10 + r.IntN(300)), "user": "Write about {{.name}}.",
				"variables": map[string]any{"name": map[string]string{"type": "string"}}, "sampling": map[string]int{"max_tokens": h.cap}})
			if err != nil {
				return nil, err
			}
			if _, err := w.client.SaveTemplate(ctx, h.template, spec); err != nil {
				return nil, err
			}
		case "summarize":
			h.length, h.words = math.Log(60)+r.Float64()*math.Log(4), 300+r.IntN(3000)
			h.params = fmt.Sprintf(`{"max_tokens":%d,"chunk_tokens":1500}`, int(6*math.Exp(h.length)))
		}
		w.templates = append(w.templates, h)
	}
	return w, nil
}

var vocabulary = strings.Fields(`the report of a new device says that it measures temperature and humidity every minute in cold rooms where vaccines
	are kept while older ones needed somebody to look at them so customers ask whether their contracts cover what was lost before`)

func (w *world) words(n int) string {
	out := make([]string, n)
	for i := range out {
		out[i] = vocabulary[w.r.IntN(len(vocabulary))]
	}
	return strings.Join(out, " ")
}

// batch runs one more batch of the project.
func (w *world) batch(ctx context.Context) (outcome, error) {
	h := &w.templates[w.r.IntN(len(w.templates))]
	size := int(math.Exp(w.r.Float64() * math.Log(500)))
	if h.kind == "summarize" {
		size = 1 + size/20
	}
	o := outcome{kind: h.kind, jobs: max(size, 1)}
	large := gateway.SimulatorOptions{Seed: w.r.Uint64(), OutputTokens: max(int(math.Exp(h.length+w.drift*w.r.NormFloat64())), 1), OutputSpread: h.spread,
		Latency: time.Duration(2+w.r.IntN(20)) * time.Millisecond}
	small := large
	small.OutputTokens = max(large.OutputTokens*3/4, 1)
	w.market.set(w.chat, large)
	if o.fails = w.r.Float64() < w.failing && h.kind != "chat"; o.fails {
		large.ErrorRate = []float64{0.05, 0.3, 1}[w.r.IntN(3)]
	}
	w.market.set(w.large, large)
	w.market.set(w.small, small)
	b, err := w.send(ctx, h, o.jobs)
	if err != nil {
		return o, err
	}
	if b, err = w.client.Wait(ctx, b.ID); err != nil {
		return o, err
	}
	if o.forecast, err = w.client.Forecast(ctx, b.ID); err != nil {
		return o, err
	}
	if b.State != "completed" || b.Stats.CostMicroUSD == nil || o.forecast.CostMicrousd == nil || b.StartedAt == nil {
		return o, fmt.Errorf("the batch is %s, and its cost or forecast is unknown", b.State)
	}
	o.cost, o.took = *b.Stats.CostMicroUSD, b.FinishedAt.Sub(*b.StartedAt)
	return o, nil
}

// send submits jobs, some of them twice, some that were there before, and at least one that wasn't.
func (w *world) send(ctx context.Context, h *habit, jobs int) (client.Batch, error) {
	step := func(model string) string {
		return fmt.Sprintf(`{"provider":"openai-compatible","model":%q,"max_attempts":2,"retry_delay_ms":10}`, model)
	}
	route := `{"steps":[` + step(w.large) + "," + step(w.small) + `]}`
	if h.kind == "chat" { // the body names its model
		route = `{"steps":[` + step(w.chat) + `]}`
	}
	o := client.BatchOptions{Kind: h.kind, Template: h.template, Route: route, Params: json.RawMessage(h.params)}
	twice, known := 0.0, 0.0
	if w.r.Float64() < 0.3 {
		twice = 0.3 * w.r.Float64()
	}
	if w.r.Float64() < 0.3 && h.used > 0 {
		known = w.r.Float64()
	}
	var numbers []int
	for i := range jobs {
		switch u := w.r.Float64(); {
		case i > 0 && u < twice:
			numbers = append(numbers, numbers[w.r.IntN(i)])
		case i > 0 && u < twice+known:
			numbers = append(numbers, w.r.IntN(h.used))
		default:
			numbers = append(numbers, h.used)
			h.used++
		}
	}
	if h.kind == "summarize" {
		return w.sendDocuments(ctx, h, numbers, o)
	}
	var body bytes.Buffer
	for _, n := range numbers {
		text := w.input(h, n)
		if h.kind == "chat" {
			fmt.Fprintf(&body, `{"body":{"model":%q,"max_tokens":%d,"messages":[{"role":"user","content":%q}]}}`+"\n", w.chat, 4*h.cap, text)
		} else {
			fmt.Fprintf(&body, `{"variables":{"name":%q}}`+"\n", text)
		}
	}
	return w.client.SubmitNDJSON(ctx, &body, o)
}

// input is that of a habit's n-th job, whenever it is asked for.
func (w *world) input(h *habit, n int) string {
	own := *w
	own.r = rand.New(rand.NewPCG(uint64(n), uint64(h.words)))
	return fmt.Sprintf("%s %d: ", h.kind, n) + own.words(1+int(float64(h.words)*math.Exp(0.5*own.r.NormFloat64())))
}

func (w *world) sendDocuments(ctx context.Context, h *habit, numbers []int, o client.BatchOptions) (client.Batch, error) {
	dir, err := os.MkdirTemp(w.dir, "documents-")
	if err != nil {
		return client.Batch{}, err
	}
	defer os.RemoveAll(dir)
	var paths []string
	slices.Sort(numbers) // the cache knows a document by its name as well, which is also the job's id
	for _, n := range slices.Compact(numbers) {
		path := filepath.Join(dir, fmt.Sprintf("%d.txt", n))
		text := strings.ReplaceAll(w.input(h, n), " so ", ". So ")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			return client.Batch{}, err
		}
		paths = append(paths, path)
	}
	return w.client.SubmitDocuments(ctx, paths, o)
}
