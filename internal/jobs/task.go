package jobs

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"batchwright/internal/document"
	"batchwright/internal/fault"
	"batchwright/internal/gateway"
	"batchwright/internal/pricing"
	"batchwright/internal/prompt"
	"batchwright/internal/store"
)

// task is one attempt at one job by this worker.
type task struct {
	w     *Worker
	batch *batch
	lease *lease
	job   store.Claimed
	known *store.Hit // the cache has its answer by now

	claimed time.Time
	first   atomic.Pointer[place] // held since before the job began, until its first call takes it
	// Set by the job's kind.
	route    Route          // the steps that this job takes
	stable   gateway.Stable // what its requests share with those of the batch
	capField string         // what a person raises when answers are cut off

	document *document.Document // once it was read; sum is the hash of its text
	sum      []byte

	mu      sync.Mutex
	sends   int32
	pending settlement // what isn't written yet: calls and answers to parts
	totals  totals
}

// totals add up what a task's calls took.
type totals struct {
	calls                 int32
	input, cached, output int64
	cost                  int64
	unpriced              bool
	wasted                bool // something was or may have been paid whose answer is not kept: the next attempt pays for it again
}

func (t *totals) microusd() *int64 {
	if t.unpriced {
		return nil
	}
	c := t.cost
	return &c
}

// notCached is the class of a job that the result cache has no answer for, in a batch that makes no calls.
const notCached gateway.Class = "not_cached"

// calls reports whether the job may need a call.
func (t *task) calls() bool { return t.known == nil && t.batch.Cache != "only" }

// errHandedBack ends a task that must not start another call: the worker is stopping, the batch is being cancelled or the lease is lost.
var errHandedBack = errors.New("jobs: handed back")

// age is the time since the job's first attempt began. It is the database's clock that said so when the job was claimed, and this
// machine's, which may jump, only measures from there.
func (t *task) age() time.Duration {
	if t.claimed.IsZero() {
		return t.job.Age
	}
	return t.job.Age + time.Since(t.claimed)
}

// left is the time in which the job may still be tried.
func (t *task) left() time.Duration { return t.batch.jobTimeout(t.w.o) - t.age() }

// What a job asks once more for, in the ledger.
const (
	askLonger = "longer" // the answer was cut off
	askRepair = "repair" // the answer didn't meet the template's schema
)

// complete asks for one answer to r along the job's route and checks it. An answer that was cut off is asked for once more with twice the
// room, and one that can't be used as often as the template says, with what was wrong; what comes back is kept under the key of r, so that
// the next run finds it without any of this.
func (t *task) complete(ctx context.Context, r *prompt.Request) (result, error) {
	var read func(string) (prompt.Answer, error)
	repairs := 0
	if r.JSON {
		read, repairs = t.batch.template.Answer, t.batch.template.Repairs()
	}
	question, purpose := r, ""
	for n := 0; ; n++ {
		resp, model, limit, err := t.whole(ctx, question, purpose)
		if err != nil {
			return result{}, err
		}
		key := r.Keys([]string{t.route.Steps[resp.Step].answerer("")})[0] // under whoever answered, accepted in look-ups or not
		out, err := checked(resp, model, key, limit, read)
		wrong, useless := errors.AsType[*prompt.AnswerError](err)
		switch {
		case err == nil && n > 0:
			out.repaired = prompt.RungAsked
			return out, nil
		case !useless:
			return out, err
		case n == repairs:
			return out, unusable(wrong, resp.Text, n)
		}
		t.waste()
		again := *r
		again.Messages = prompt.Correct(r.Messages, resp.Text, wrong)
		question, purpose = &again, askRepair
	}
}

// whole asks for one answer, and once more with twice the room if it is cut off.
func (t *task) whole(ctx context.Context, r *prompt.Request, purpose string) (*gateway.Response, string, ceiling, error) {
	limit := ceiling{field: t.capField, tokens: r.MaxTokens}
	resp, model, err := t.ask(ctx, r, r.MaxTokens, purpose)
	if err != nil || resp.Finish != gateway.FinishLength {
		return resp, model, limit, err
	}
	if raised := t.outputCap(t.route.Steps[resp.Step], 2*r.MaxTokens); raised > r.MaxTokens {
		t.waste()
		limit.raised = raised
		resp, model, err = t.ask(ctx, r, 2*r.MaxTokens, cmp.Or(purpose, askLonger))
	}
	return resp, model, limit, err
}

// outputCap is the most tokens up to wanted that a step's model can generate, as far as that is known.
func (t *task) outputCap(s RouteStep, wanted int) int {
	if p, ok := t.w.Prices.Lookup(s.Provider, s.Model, fault.Now()); ok && p.MaxOutput > 0 {
		return min(wanted, p.MaxOutput)
	}
	return wanted
}

// checked makes a result of an answer that is complete and, unless read is nil, of the form that read accepts: if not, the error is read's.
func checked(resp *gateway.Response, model string, key prompt.Key, limit ceiling, read func(string) (prompt.Answer, error)) (result, error) {
	out := result{output: resp.Text, format: prompt.FormatText, step: resp.Step, model: model, by: resp.Model,
		hit: resp.CacheStatus == gateway.CacheHit, resultKey: key}
	if f := verdict(resp, limit); f != nil {
		return out, f
	}
	if read == nil {
		return out, nil
	}
	answer, err := read(resp.Text)
	out.output, out.format, out.repaired = answer.Output, prompt.FormatJSON, answer.Rung
	return out, err
}

// unusable says what is wrong with an answer, after the model was asked again so many times, and keeps it.
func unusable(wrong *prompt.AnswerError, raw string, asked int) *failure {
	f := failf(gateway.InvalidOutput, "%s", wrong)
	if asked > 0 {
		f.message += fmt.Sprintf("; asked again %s, with what was wrong", times(asked))
	}
	f.raw = raw
	return f
}

func times(n int) string {
	if n == 1 {
		return "once"
	}
	return fmt.Sprintf("%d times", n)
}

// ask sends r, with a cap of maxTokens on the answer, along the job's route and returns the answer with the model that was asked.
func (t *task) ask(ctx context.Context, r *prompt.Request, maxTokens int, purpose string) (*gateway.Response, string, error) {
	steps, err := t.steps(r, maxTokens)
	if err != nil {
		return nil, "", err
	}
	resp, err := t.call(ctx, steps, sizeOf(r)(), maxTokens, purpose)
	if err != nil {
		return nil, "", err
	}
	return resp, steps[resp.Step].Model, nil
}

// steps encodes r for each step of the job's route.
func (t *task) steps(r *prompt.Request, maxTokens int) ([]gateway.Step, error) {
	c := gateway.Chat{Stable: t.stable, MaxTokens: maxTokens, Temperature: r.Temperature, TopP: r.TopP, Seed: r.Seed, Stop: r.Stop, JSON: r.JSON, Schema: r.Schema}
	c.Messages = make([]gateway.Message, len(r.Messages))
	for i, m := range r.Messages {
		c.Messages[i] = gateway.Message{Role: m.Role, Content: m.Content}
	}
	steps := make([]gateway.Step, len(t.route.Steps))
	var err error
	for i, s := range t.route.Steps {
		c.API = s.API
		if maxTokens > r.MaxTokens { // a model refuses a cap beyond its limit
			c.MaxTokens = max(t.outputCap(s, maxTokens), r.MaxTokens)
		}
		if steps[i], err = gateway.NewStep(s.Provider, s.Model, &c, s.config()); err != nil {
			return nil, err
		}
		steps[i].Via = s.Via
	}
	return steps, nil
}

// sizeOf estimates a request's input in tokens, when it is asked to.
func sizeOf(r *prompt.Request) func() int {
	return func() int {
		tokens := 0
		for _, m := range r.Messages {
			tokens += prompt.EstimateTokens(m.Content) + 4
		}
		return tokens
	}
}

// call runs one Universal request under the worker's limit of calls in flight, with every send in the ledger. Its frame and those of its
// callers are small, and the request is made apart: a call waits three times with all of them on its stack, which the collector scans.
func (t *task) call(ctx context.Context, steps []gateway.Step, inputTokens, maxTokens int, purpose string) (*gateway.Response, error) {
	left := t.left()
	if left <= 0 {
		return nil, t.tooOld()
	}
	if t.lease.closed() {
		return nil, errHandedBack
	}
	place := cmp.Or(t.first.Swap(nil), &place{t: t})
	if err := place.Enter(ctx); err != nil {
		return nil, err
	}
	defer place.Leave()
	return t.w.Gateway.Run(ctx, t.request(steps, inputTokens, maxTokens, left, place), t.ledger(steps, size{inputTokens, maxTokens}, purpose))
}

func (t *task) tooOld() *failure {
	class := cmp.Or(gateway.Class(t.job.ErrorClass), gateway.Timeout)
	return failf(class, "gave up %s after the first attempt, with %s allowed, before the next call", t.age().Round(time.Second), t.batch.jobTimeout(t.w.o))
}

// request makes the Universal request of steps, and puts into each what it may use.
func (t *task) request(steps []gateway.Step, inputTokens, maxTokens int, left time.Duration, place *place) *gateway.Request {
	now := fault.Now()
	for i := range steps {
		steps[i].Estimate = gateway.Amount{Tokens: int64(inputTokens + maxTokens)}
		if p, ok := t.w.Prices.Lookup(steps[i].Provider, steps[i].Model, now); ok { // for limits in dollars, which know of no project
			steps[i].Estimate.MicroUSD = size{inputTokens, maxTokens}.worstCase(p)
		}
	}
	req := &gateway.Request{Steps: steps}
	o := &req.Options
	o.Timeout, o.Scope, o.CacheTTL = min(callTimeout, left), t.batch.scope, time.Duration(t.route.GatewayCacheTTL)*time.Second
	o.Place = place
	if len(steps) == 1 { // with more of them, giving up a wait would be to pay another step
		o.Patience = callPatience
	}
	// An answer that was no use must not come back from the gateway's cache, nor one to a batch that wants fresh ones.
	// The gateway doesn't tell how old its answers are.
	o.SkipCache = t.job.Attempts > 0 || t.batch.Cache != "use" || t.batch.MaxAgeSeconds != nil
	if t.w.o.Tag {
		id := JobID(t.batch.ID, t.job.Seq)
		o.EventID = id
		o.Metadata = gateway.Metadata{"batch": t.batch.ID.String(), "job": id, "kind": t.batch.Kind}
	}
	return req
}

// size is what a call may take, in tokens.
type size struct{ input, output int }

// worstCase leans high: the estimate of the input does, but a tenth too low is the least that it was found to be, for letters at random.
func (s size) worstCase(p pricing.Price) int64 {
	return p.WorstCase(int64(s.input)*5/4, int64(s.output))
}

// ledger writes each send before it is made and remembers how it ended.
func (t *task) ledger(steps []gateway.Step, size size, purpose string) gateway.Ledger {
	return func(ctx context.Context, s gateway.Send) (func(context.Context, gateway.Outcome) error, error) {
		t.mu.Lock()
		t.sends++
		id := store.CallID{BatchID: t.batch.ID, Seq: t.job.Seq, TicketID: t.lease.ticket.ID, Number: t.sends}
		t.mu.Unlock()
		in := store.Intent{CallID: id, Step: t.step(s.Step), Provider: steps[s.Step].Provider, Model: steps[s.Step].Model, Purpose: purpose, Stage: t.batch.stage}
		held, err := t.reserveIntent(ctx, in, func(prices *pricing.Table, governed bool) (worst int64, err error) {
			now := fault.Now()
			for _, step := range steps[s.Step : s.Step+max(s.Steps, 1)] {
				p, ok := prices.Lookup(step.Provider, step.Model, now)
				if !ok && governed {
					return 0, unpriced(step)
				} else if ok {
					worst += size.worstCase(p) * int64(max(s.Tries, 1))
				}
			}
			return worst, nil
		})
		if err != nil {
			return nil, err
		}
		fault.Point("intent-written")
		return func(_ context.Context, o gateway.Outcome) error {
			t.record(id, steps, o, held)
			return nil
		}, nil
	}
}

// step is a step's index in the route as it was saved.
func (t *task) step(i int) int32 {
	if !t.batch.route.branching() {
		return int32(i)
	}
	return int32(t.route.Steps[i].index)
}

func (t *task) record(id store.CallID, steps []gateway.Step, o gateway.Outcome, held *reservation) {
	out := store.Outcome{
		CallID: id, Uncertain: o.Uncertain && o.Class != gateway.OK, Step: t.step(o.Step), Provider: o.Provider, Model: steps[o.Step].Model, ErrorClass: string(o.Class),
		FinishReason: string(o.Finish), HTTPStatus: int32(o.Status), Latency: o.Latency,
		GatewayCacheStatus: string(o.CacheStatus), GatewayLogID: clean(o.LogID),
		UsageKnown:  o.Usage.Known && o.CacheStatus != gateway.CacheHit, // a hit replays the usage of the call that filled the cache
		InputTokens: o.Usage.Input + o.Usage.CacheRead + o.Usage.CacheWrite, CachedInputTokens: o.Usage.CacheRead,
		CacheWriteTokens: o.Usage.CacheWrite, OutputTokens: o.Usage.Output,
	}
	for _, n := range []*int64{&out.InputTokens, &out.CachedInputTokens, &out.CacheWriteTokens, &out.OutputTokens} {
		*n = min(max(*n, 0), maxUsage)
	}
	if o.Class == gateway.OK {
		out.AnsweredBy = clean(o.Model)
	}
	// By the prices that its worst case was reserved by: what changed since holds from the next call on.
	out.CostMicrousd = cost(held.prices(), steps[o.Step], o)
	out.Note = note(held.prices(), steps[o.Step], o, &out)
	t.w.o.Meter.Called(o.Provider, o.Class, o.Latency)
	t.mu.Lock()
	defer t.mu.Unlock()
	charge := held.amount // until its cost is known
	if out.CostMicrousd != nil {
		charge = *out.CostMicrousd
	}
	t.pending.calls, t.pending.holds = append(t.pending.calls, out), append(t.pending.holds, hold{held, charge})
	t.totals.calls++
	if out.UsageKnown {
		t.totals.input += out.InputTokens
		t.totals.cached += out.CachedInputTokens
		t.totals.output += out.OutputTokens
	}
	if free := out.CostMicrousd != nil && *out.CostMicrousd == 0; !free && o.Class != gateway.OK {
		t.totals.wasted = true
	}
	if out.CostMicrousd != nil {
		t.totals.cost += *out.CostMicrousd
	} else {
		t.totals.unpriced = true
	}
}

// waste notes that an answer was paid for that isn't kept.
func (t *task) waste() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.totals.wasted = true
}

// maxUsage is more tokens than any call can take: what a broken server reports beyond it must not overflow a sum.
const maxUsage = 1_000_000_000

// cost prices an outcome, or returns nil when that can't be known. A gateway's cache hit costs nothing, and nor does an answer that
// reports a failure without usage: providers don't bill those.
func cost(prices *pricing.Table, step gateway.Step, o gateway.Outcome) *int64 {
	zero := int64(0)
	switch {
	case o.CacheStatus == gateway.CacheHit:
		return &zero
	case o.Uncertain && o.Class != gateway.OK:
		return nil
	case !o.Usage.Known:
		if o.Class != gateway.OK {
			return &zero
		}
		return nil
	}
	return usageCost(prices, step, o.Usage)
}

// usageCost prices tokens, or returns nil when that can't be known.
func usageCost(prices *pricing.Table, step gateway.Step, u gateway.Usage) *int64 {
	const most = 1_000_000 * maxUsage
	if u.Cost > 0 { // what the provider says it charged, fees included: no table knows better
		c := min(u.Cost, most)
		return &c
	}
	p, ok := prices.Lookup(step.Provider, step.Model, fault.Now())
	if !ok {
		return nil
	}
	c := min(p.Cost(u.Priced()), most)
	return &c
}

// note says why an outcome's cost isn't that of its tokens, if it isn't.
func note(prices *pricing.Table, step gateway.Step, o gateway.Outcome, out *store.Outcome) *store.CallNote {
	switch {
	case !o.Usage.Known:
		return nil
	case o.CacheStatus == gateway.CacheHit:
		return &store.CallNote{Replayed: &store.Replayed{InputTokens: out.InputTokens, CachedInputTokens: out.CachedInputTokens,
			OutputTokens: out.OutputTokens, Microusd: usageCost(prices, step, o.Usage)}}
	case o.Usage.Cost > 0:
		return &store.CallNote{CostReported: true}
	}
	return nil
}

// flush writes the outcomes so far together with part answers, so that a crash later in the job doesn't lose what was paid for.
func (t *task) flush(ctx context.Context, answers ...store.Completion) error {
	s := t.take()
	s.answers = append(s.answers, answers...)
	err := t.w.settlements.do(ctx, s)
	if err != nil { // with what is written next: the job's totals have them
		if !passing(err) {
			s.answers = nil // which Postgres won't have then, either
		}
		t.mu.Lock()
		defer t.mu.Unlock()
		p := &t.pending
		p.calls, p.holds, p.answers = append(s.calls, p.calls...), append(s.holds, p.holds...), append(s.answers, p.answers...)
	}
	return err
}

// take returns what isn't written yet, for the caller to write.
func (t *task) take() settlement {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.pending
	t.pending = settlement{}
	return s
}

// clean makes a string fit for a Postgres text column.
func clean(s string) string {
	if !strings.Contains(s, "\x00") {
		return strings.ToValidUTF8(s, "\uFFFD")
	}
	return strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD")
}
