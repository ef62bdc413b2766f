package jobs

import (
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/google/uuid"

	"batchwright/internal/fault"
	"batchwright/internal/pricing"
	"batchwright/internal/store"
)

// What becomes of a batch by its forecast.
const (
	runs    = "run"
	pauses  = "pause"
	refuses = "refuse"
)

// A forecaster says what a planned batch will take. It draws some thousand courses that the batch may take, from what is believed of each quantity
// (see [prior.learn]), prices them, and reads P50 and P90 off the totals. So nothing is added up that may not be: the P90 of a sum isn't the sum of
// P90s. What jobs of a batch have in common (today's answers are longer, the primary is down) is drawn once a course, and what they
// have not, once for all of them, as the mean of so many.
type forecaster struct {
	*batch
	prices  *pricing.Table
	past    []store.PastUse // newest first
	spread  map[named]float64
	verdict string
}

// named is a model of a provider.
type named struct{ provider, model string }

// courses is how many are drawn: enough for a P90 that is right to a twentieth of the spread.
const courses = 2000

// forecaster reads what a batch's forecast is made from, but for what is known only when it starts.
func (w *Worker) forecaster(ctx context.Context, id uuid.UUID) (*forecaster, error) {
	row, err := w.DB.AnyBatch(ctx, id)
	if err != nil {
		return nil, err
	}
	f := &forecaster{spread: map[named]float64{}}
	if f.batch, err = compile(ctx, w.DB.Reader, row); err != nil {
		return nil, err
	}
	if f.prices, err = pricesOf(ctx, w.DB.Reader, w.Prices, row.ProjectID); err != nil {
		return nil, err
	}
	past, lengths, err := w.DB.Past(ctx, id)
	if err != nil {
		return nil, err
	}
	f.past = past
	f.learnSpread(lengths)
	return f, nil
}

// usualSpread is the squared coefficient of variation of answers' lengths within a batch, where none was seen.
const usualSpread = 0.4

// learnSpread pools how much answers' lengths differ within a batch.
func (f *forecaster) learnSpread(lengths []store.Lengths) {
	weight := map[named]float64{}
	for _, l := range lengths {
		if l.Mean > 0 {
			k := named{l.Provider, l.Model}
			f.spread[k] += float64(l.Answers) * l.Variance / (l.Mean * l.Mean)
			weight[k] += float64(l.Answers)
		}
	}
	for k, w := range weight {
		f.spread[k] = (f.spread[k] + 5*usualSpread) / (w + 5)
	}
}

func (f *forecaster) spreadOf(n named) float64 {
	if v, ok := f.spread[n]; ok {
		return v
	}
	return usualSpread
}

// path is what is known of the jobs that may take the same steps.
type path struct {
	stage  int     // of a pipeline
	given  []int   // stages whose answers it is given
	jobs   float64 // that will call
	calls  float64 // of each
	cap    float64 // most tokens of an answer; 0 for none
	steps  []*leg
	tokens []float64 // input of a call, by step
	onward []portion // of those that reach a step, how many go on to the next
	jumpy  float64   // relative error of what was counted
}

// leg is a step of the route, or of a model that jobs name on one.
type leg struct {
	named
	stage         int
	index         int32
	twin          *leg // of an earlier stage, whose answers history doesn't tell from those of this one
	price         pricing.Price
	priced        bool
	input         belief // logarithm of input tokens over those that were counted
	output        belief // logarithm of the mean length of answers
	sends         belief // logarithm of sends for each call that reaches the step
	latency       belief // logarithm of milliseconds
	cached        func(r *rand.Rand) float64
	answers       int64
	of            string
	basis, weight float64 // input tokens as counted, and calls, over all paths
	drawn         drawnLeg
	now           tally
	total         columns
}

// tally is what one course takes.
type tally struct{ calls, cached, input, output, cost, work float64 }

// columns are what all courses take.
type columns struct{ calls, cached, input, output, cost, ms []float64 }

func (c *columns) add(t tally) {
	c.calls = append(c.calls, t.calls)
	c.cached = append(c.cached, t.cached)
	c.input = append(c.input, t.input)
	c.output = append(c.output, t.output)
	c.cost = append(c.cost, t.cost)
}

func quantiles(values []float64) store.Spread {
	return store.Spread{P50: int64(math.Round(quantile(values, 0.5))), P90: int64(math.Ceil(quantile(values, 0.9)))}
}

// expected reads the quantiles off. The cost is unknown when a step may be taken whose price is.
func (c *columns) expected(priced bool) store.Expected {
	e := store.Expected{Calls: quantiles(c.calls), Cached: quantiles(c.cached), Input: quantiles(c.input), Output: quantiles(c.output)}
	if priced || e.Calls.P90 == 0 {
		cost := quantiles(c.cost)
		e.Cost = &cost
	}
	return e
}

// judge makes the forecast, and the verdict.
func (f *forecaster) judge(t store.PlanTotals) store.Forecast {
	out := store.Forecast{ProjectID: f.ProjectID, DryRun: f.DryRun, Verdict: runs, MaxCostMicrousd: f.MaxCostMicrousd, Jobs: f.TotalJobs, Coalesced: t.Coalesced}
	for _, s := range t.Sums {
		out.ResultHits += s.Hits
		out.InvalidJobs += s.Invalid
		if s.Stage == 0 { // every later one has the same jobs
			out.CountedJobs += s.CountedJobs
		}
	}
	batches := map[uuid.UUID]bool{}
	for _, u := range f.past {
		batches[u.BatchID] = true
	}
	out.HistoryBatches = int32(len(batches))
	legs, paths := f.paths(t)
	for _, p := range paths {
		out.BasisCalls += p.jobs * p.calls
	}
	total := f.run(legs, paths, t.Fleet)
	priced := true
	for _, s := range legs {
		step := store.ForecastStep{Stage: int32(s.stage), Step: s.index, Provider: s.provider, Model: s.model, HistoryCalls: s.answers, HistoryOf: s.of, Expected: s.total.expected(s.priced)}
		if s.weight > 0 && s.stage == 0 { // of later stages, some of it isn't counted but expected
			step.BasisInput = s.basis / s.weight
		}
		priced = priced && step.Cost != nil
		out.Steps = append(out.Steps, step)
	}
	out.Expected = total.expected(priced)
	out.DurationMS = quantiles(total.ms)
	f.decide(&out)
	f.verdict = out.Verdict
	return out
}

// decide holds the forecast against the batch's limit.
func (f *forecaster) decide(out *store.Forecast) {
	if f.MaxCostMicrousd == nil || f.OnForecastOver == runs || out.Cost != nil && out.Cost.P90 <= *f.MaxCostMicrousd {
		return
	}
	out.Verdict = f.OnForecastOver
	why := "it can't be said what the batch costs: the price of a step of its route isn't listed"
	if c := out.Cost; c != nil {
		why = fmt.Sprintf("the batch is expected to cost %s, and with a chance of one in ten more than %s", usd(c.P50), usd(c.P90))
	}
	left := "submit fewer jobs, or raise the limit; no call was made"
	if out.Verdict == pauses {
		left = "resume it to accept that; no call was made yet"
	}
	out.Reason = fmt.Sprintf("%s, and max_cost_microusd allows %s: %s", why, usd(*f.MaxCostMicrousd), left)
}

// paths merges what was counted in the ranges, and looks up what earlier batches say of each step.
func (f *forecaster) paths(t store.PlanTotals) ([]*leg, []*path) {
	sums := map[string]*store.PlanSum{}
	planned := int64(0)
	for i := range t.Sums {
		s := &t.Sums[i]
		if s.Stage == 0 {
			planned += s.Jobs
		}
		if s.Jobs == 0 {
			continue
		}
		name := fmt.Sprint(s.Stage, s.Steps, s.Model)
		m := sums[name]
		if m == nil {
			m = &store.PlanSum{Stage: s.Stage, Steps: s.Steps, Model: s.Model, CountedTokens: make([]float64, len(s.CountedTokens))}
			sums[name] = m
		}
		m.Jobs += s.Jobs
		m.Bytes += s.Bytes
		m.CountedJobs += s.CountedJobs
		m.CountedBytes += s.CountedBytes
		m.CountedCalls += s.CountedCalls
		m.CountedCaps += s.CountedCaps
		for i, n := range s.CountedTokens {
			m.CountedTokens[i] += n
		}
	}
	calling := 1.0 // share of planned jobs that ask; those that wait for an identical one are taken to be of all sizes
	switch {
	case f.Cache == "only":
		calling = 0
	case planned > 0:
		calling = max(0, 1-float64(t.Coalesced)/float64(planned))
	}
	stages, given := f.stages(), f.given()
	lengths := make([]float64, len(stages)) // of answers, as they are expected
	var legs []*leg
	var paths []*path
	for _, name := range slices.Sorted(maps.Keys(sums)) {
		p := newPath(sums[name], calling)
		p.given = given[p.stage]
		answers := 0.0
		for _, i := range p.given {
			answers += lengths[i]
		}
		for i, index := range sums[name].Steps {
			step := stages[p.stage].route.Steps[index]
			n := named{step.Provider, step.named(sums[name].Model)}
			at := slices.IndexFunc(legs, func(s *leg) bool { return s.stage == p.stage && s.index == index && s.named == n })
			if at < 0 {
				at = len(legs)
				legs = append(legs, f.leg(p.stage, index, n, p.cap))
				legs[at].twin = twinOf(legs[at], legs[:at])
			}
			s := legs[at]
			s.basis, s.weight = s.basis+(p.tokens[i]+answers)*p.jobs*p.calls, s.weight+p.jobs*p.calls
			p.steps = append(p.steps, s)
		}
		lengths[p.stage] = math.Exp(p.steps[0].output.mean)
		paths = append(paths, p)
	}
	for _, s := range legs {
		s.cached = f.cachedShare(s)
	}
	for _, p := range paths {
		f.chances(p)
	}
	slices.SortStableFunc(legs, func(a, b *leg) int { return cmp.Or(a.stage-b.stage, int(a.index-b.index)) })
	return legs, paths
}

// newPath scales what was counted up to all jobs.
func newPath(s *store.PlanSum, calling float64) *path {
	p := &path{stage: int(s.Stage), jobs: math.Round(float64(s.Jobs) * calling), calls: 1, tokens: make([]float64, len(s.Steps))}
	if s.CountedJobs == 0 { // none of the sample was among them
		for i := range p.tokens {
			p.tokens[i] = float64(s.Bytes) / float64(s.Jobs) / 4
		}
		p.jumpy = 0.3
		return p
	}
	larger := 1.0
	if s.CountedBytes > 0 {
		larger = float64(s.Bytes) / float64(s.Jobs) / (float64(s.CountedBytes) / float64(s.CountedJobs))
	}
	p.calls = s.CountedCalls / float64(s.CountedJobs)
	if s.CountedCalls == 0 { // whatever they are given, they fail
		return p
	}
	if f := 1 + (p.calls-1)*larger; p.calls > 1 { // calls of a tree grow with its document
		p.calls, larger = f, larger*p.calls/f
	}
	p.cap = s.CountedCaps / s.CountedCalls
	for i, n := range s.CountedTokens {
		p.tokens[i] = n / s.CountedCalls * larger
	}
	if s.CountedJobs < s.Jobs {
		p.jumpy = 0.3 / math.Sqrt(float64(s.CountedJobs))
	}
	return p
}

// run draws the courses.
func (f *forecaster) run(legs []*leg, paths []*path, fleet int64) *columns {
	r := rand.New(rand.NewPCG(binary.BigEndian.Uint64(f.ID[:8]), binary.BigEndian.Uint64(f.ID[8:])))
	more, slower := f.callRatio(), f.timeRatio(fleet)
	total := &columns{}
	for range courses {
		for _, s := range legs {
			s.now = tally{}
		}
		ratio := math.Exp(more.draw(r))
		for _, s := range legs { // a twin is of an earlier stage, and they are in order
			s.drawn = s.draw(r)
		}
		calls, stages := 0.0, [maxStages]answersOf{}
		for _, p := range paths {
			given := 0.0
			for _, i := range p.given {
				given += stages[i].tokens / max(stages[i].good, 1)
			}
			n, answers := p.course(r, ratio, given, f)
			calls += n
			stages[p.stage].good, stages[p.stage].tokens = stages[p.stage].good+answers.good, stages[p.stage].tokens+answers.tokens
		}
		var sum tally
		for _, s := range legs {
			s.total.add(s.now)
			sum.calls, sum.cached, sum.input = sum.calls+s.now.calls, sum.cached+s.now.cached, sum.input+s.now.input
			sum.output, sum.cost, sum.work = sum.output+s.now.output, sum.cost+s.now.cost, sum.work+s.now.work
		}
		total.add(sum)
		total.ms = append(total.ms, duration(sum, calls, float64(len(f.stages())), fleet, f.Concurrency)*math.Exp(slower.draw(r)))
	}
	return total
}

// drawnLeg is how a step turns out in one course, for all jobs.
type drawnLeg struct{ input, output, sends, latency, cached float64 }

func (s *leg) draw(r *rand.Rand) drawnLeg {
	d := drawnLeg{math.Exp(s.input.draw(r)), math.Exp(s.output.draw(r)), math.Exp(max(s.sends.draw(r), 0)), math.Exp(s.latency.draw(r)), s.cached(r)}
	if s.twin != nil {
		d.output, d.latency = s.twin.drawn.output, s.twin.drawn.latency
	}
	return d
}

// answersOf adds up the good answers of a stage in one course.
type answersOf struct{ good, tokens float64 }

// course sends a path's calls down its steps, each with so many tokens of earlier stages' answers, and returns how many there were and what
// they were answered.
func (p *path) course(r *rand.Rand, ratio, given float64, f *forecaster) (all float64, answers answersOf) {
	reach := p.jobs * p.calls * ratio
	all = reach
	size := 1 + p.jumpy*r.NormFloat64()
	for i, s := range p.steps {
		d := s.drawn
		fall := 0.0
		if i < len(p.steps)-1 {
			fall = binomial(r, reach, p.onward[i].draw(r))
		}
		good := reach - fall
		sends := reach * d.sends
		s.now.calls += sends
		s.now.work += sends * d.latency
		if good > 0 {
			length := d.output
			if p.cap > 0 {
				length = min(length, p.cap)
			}
			// The mean of good lengths that differ: log-normal, so that it is never negative.
			v := math.Log1p(f.spreadOf(s.named) / good)
			length *= math.Exp(math.Sqrt(v)*r.NormFloat64() - v/2)
			if p.cap > 0 {
				length = min(length, p.cap)
			}
			input := (p.tokens[i]*max(size, 0.1) + given) * d.input
			answers.good, answers.tokens = answers.good+good, answers.tokens+good*length
			s.now.input += good * input
			s.now.cached += good * input * d.cached
			s.now.output += good * length
			s.now.cost += good * s.microusd(input, d.cached, length)
		}
		reach = fall
	}
	return all, answers
}

// microusd prices one call.
func (s *leg) microusd(input, cached, output float64) float64 {
	rates := pricing.Rates{Input: s.price.Input, Output: s.price.Output, CacheRead: s.price.CacheRead}
	if s.price.LongFrom > 0 && input > float64(s.price.LongFrom) {
		rates = s.price.Long
	}
	return (input*(1-cached)*float64(rates.Input) + input*cached*float64(rates.CacheRead) + output*float64(rates.Output)) / 1e6
}

// What isn't a call's own time: a batch takes about so long to be dispatched and to end, and there are so many jobs a second at most.
const (
	startMS       = 150
	mostASecond   = 5000
	latencySpread = 0.5 // of calls within a batch, as a share of their mean
)

// duration is how many milliseconds a course takes with a fleet all to itself: calls side by side, but for the stages of a job, and the slowest
// of the last ones.
func duration(sum tally, calls, stages float64, fleet int64, concurrency *int32) float64 {
	if calls < 0.5 || sum.calls == 0 {
		return startMS
	}
	wide := float64(max(fleet, 1))
	if concurrency != nil {
		wide = min(wide, float64(*concurrency))
	}
	wide = max(min(wide, calls/stages), 1)
	mean := sum.work / sum.calls
	tail := mean * latencySpread * math.Sqrt(2*math.Log(max(wide, 1)))
	return startMS + max(sum.work/wide, mean*stages) + tail + calls/mostASecond*1000
}

// priceOf looks a model's price up as of now.
func (f *forecaster) priceOf(n named) (pricing.Price, bool) {
	return f.prices.Lookup(n.provider, n.model, fault.Now())
}

// keepForecasts is how long the forecast of a dry run can be read.
const keepForecasts = 7 * 24 * time.Hour
