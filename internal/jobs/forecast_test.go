package jobs

import (
	"encoding/json"
	"math"
	"strings"
	"testing"

	"github.com/google/uuid"

	"batchwright/internal/pricing"
	"batchwright/internal/store"
)

const chainOfTwo = `"openai:gpt-4o-mini,anthropic:claude-haiku-5-5"`

// forecastOf forecasts a batch of n jobs of 100 input tokens with this past.
func forecastOf(t *testing.T, n int64, route string, change func(*forecaster), past ...store.PastUse) store.Forecast {
	t.Helper()
	b := templated(t, n, route)
	b.ID, b.TemplateID, b.OnForecastOver = uuid.MustParse("01990000-0000-7000-8000-00000000000b"), &uuid.UUID{1}, runs
	f := &forecaster{batch: b, prices: pricing.Default(), past: past, spread: map[named]float64{}}
	if change != nil {
		change(f)
	}
	sum := store.PlanSum{Jobs: n, Bytes: 400 * n, CountedJobs: n, CountedBytes: 400 * n, CountedCalls: float64(n), CountedCaps: float64(1000 * n)}
	for i := range b.route.Steps {
		sum.Steps, sum.CountedTokens = append(sum.Steps, int32(i)), append(sum.CountedTokens, float64(100*n))
	}
	return f.judge(store.PlanTotals{Sums: []store.PlanSum{{Hits: 3, Invalid: 2}, sum}, Fleet: 100})
}

// pastOf is an earlier batch of the template, in which so many answers of a length came from the first step and the second.
func pastOf(id byte, first, second, length int64) []store.PastUse {
	route := json.RawMessage(`{"steps":[{"provider":"openai","model":"gpt-4o-mini"},{"provider":"anthropic","model":"claude-haiku-5-5"}]}`)
	calls, input := float64(first+second), 100.0
	use := func(provider, model string, good, failed int64) store.PastUse {
		return store.PastUse{BatchID: uuid.UUID{id}, TemplateID: uuid.UUID{1}, Route: route, Seconds: 10, BasisCalls: &calls, BasisInput: &input, Provider: provider, Model: model,
			Good: good, Failed: failed, Input: 100 * good, Output: length * good, LatencyMS: 500 * float64(good), Timed: good}
	}
	out := []store.PastUse{use("openai", "gpt-4o-mini", first, second)}
	if second > 0 {
		out = append(out, use("anthropic", "claude-haiku-5-5", second, 0))
	}
	return out
}

func roughly(t *testing.T, what string, got, want, percent float64) {
	t.Helper()
	if math.Abs(got-want) > want*percent/100 {
		t.Errorf("%s: got %.0f, want %.0f to within %.0f %%", what, got, want, percent)
	}
}

func TestForecastWithoutHistoryIsWide(t *testing.T) {
	t.Parallel()
	f := forecastOf(t, 1000, chainOfTwo, nil)
	if f.ResultHits != 3 || f.InvalidJobs != 2 || f.HistoryBatches != 0 || f.Steps[0].HistoryOf != "none" || len(f.Steps) != 2 {
		t.Errorf("%+v", f)
	}
	roughly(t, "output P50", float64(f.Output.P50), 1000*200, 10)
	if w := float64(f.Output.P90) / float64(f.Output.P50); w < 1.8 || f.Output.P90 > 1000*1000 {
		t.Errorf("output %+v", f.Output)
	}
	roughly(t, "input P50", float64(f.Input.P50), 1000*100, 5)
	if again := forecastOf(t, 1000, chainOfTwo, nil); again.Expected.Calls != f.Calls || *again.Cost != *f.Cost {
		t.Error("the same batch has another forecast")
	}
}

func TestForecastLearnsLengthsPricesAndFallbacks(t *testing.T) {
	t.Parallel()
	var past []store.PastUse
	for i := range byte(12) {
		past = append(past, pastOf(20-i, 60, 40, 50)...) // two of five fell over to the second step
	}
	f := forecastOf(t, 1000, chainOfTwo, nil, past...)
	if f.HistoryBatches != 12 || f.Steps[0].HistoryOf != "version" || f.Steps[0].HistoryCalls != 12*60 {
		t.Errorf("%+v", f)
	}
	roughly(t, "output", float64(f.Output.P50), 1000*50, 3)
	roughly(t, "output P90", float64(f.Output.P90), 1000*50, 15)
	roughly(t, "calls", float64(f.Calls.P50), 1400, 5) // failed ones as well
	roughly(t, "calls of the second step", float64(f.Steps[1].Calls.P50), 400, 10)
	first, _ := pricing.Default().Lookup("openai", "gpt-4o-mini", f.MadeAt.AddDate(2026, 0, 0))
	roughly(t, "cost of the first step", float64(f.Steps[0].Cost.P50), 600*float64(first.Cost(pricing.Usage{Input: 100, Output: 50})), 12)
	if sum := f.Steps[0].Cost.P90 + f.Steps[1].Cost.P90; sum <= f.Cost.P90 {
		t.Errorf("P90s of steps add up to %d, and the batch's is %d", sum, f.Cost.P90)
	}

	down := pastOf(1, 0, 100, 50) // the primary was down
	down[0].Good, down[0].Failed = 0, 100
	g := forecastOf(t, 1000, chainOfTwo, nil, down...)
	if g.Steps[1].Calls.P50 < 200 || f.Steps[1].Calls.P90-f.Steps[1].Calls.P50 > g.Steps[1].Calls.P90-g.Steps[1].Calls.P50 {
		t.Errorf("after one batch whose primary was down: %+v, after twelve that agree: %+v", g.Steps[1].Calls, f.Steps[1].Calls)
	}
}

func TestForecastOfNoCalls(t *testing.T) {
	t.Parallel()
	f := forecastOf(t, 1000, chainOfTwo, func(f *forecaster) { f.Cache = "only" })
	if f.Calls.P90 != 0 || f.Cost == nil || f.Cost.P90 != 0 || f.Output.P90 != 0 {
		t.Errorf("%+v", f)
	}
}

func TestForecastAgainstTheLimit(t *testing.T) {
	t.Parallel()
	dear := forecastOf(t, 1000, `"openai:gpt-4o-mini"`, nil).Cost.P90
	for name, c := range map[string]struct {
		limit         int64
		over, verdict string
	}{
		"enough":            {dear, pauses, runs},
		"too little":        {dear - 1, pauses, pauses},
		"refused":           {dear - 1, refuses, refuses},
		"runs all the same": {1, runs, runs},
	} {
		f := forecastOf(t, 1000, `"openai:gpt-4o-mini"`, func(f *forecaster) { f.MaxCostMicrousd, f.OnForecastOver = &c.limit, c.over })
		if f.Verdict != c.verdict || (f.Reason == "") != (c.verdict == runs) {
			t.Errorf("%s: %s, %q", name, f.Verdict, f.Reason)
		}
	}
	limit := int64(1e12)
	f := forecastOf(t, 10, `"openai-compatible:nobody-lists-it"`, func(f *forecaster) { f.MaxCostMicrousd, f.OnForecastOver = &limit, refuses })
	if f.Cost != nil || f.Verdict != refuses || !strings.Contains(f.Reason, "isn't listed") {
		t.Errorf("of an unknown price: %v, %s %q", f.Cost, f.Verdict, f.Reason)
	}
}

func TestForecastOfDurationHeedsConcurrency(t *testing.T) {
	t.Parallel()
	var past []store.PastUse
	for i := range byte(8) {
		u := pastOf(20-i, 1000, 0, 50)
		u[0].Seconds = 5.5 // as a thousand calls of half a second take, a hundred at once
		past = append(past, u...)
	}
	wide := forecastOf(t, 1000, chainOfTwo, nil, past...)
	roughly(t, "a hundred at once, ms", float64(wide.DurationMS.P50), 5500, 25)
	one := int32(1)
	narrow := forecastOf(t, 1000, chainOfTwo, func(f *forecaster) { f.Concurrency = &one }, past...)
	if narrow.DurationMS.P50 < 5*wide.DurationMS.P50 {
		t.Errorf("one at a time %+v, a hundred %+v", narrow.DurationMS, wide.DurationMS)
	}
}
