package api_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"

	"batchwright/internal/api"
	"batchwright/internal/store"
)

func (f *fake) Forecast(_ context.Context, _, batch uuid.UUID) (store.Forecast, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.forecast == nil || f.forecast.BatchID != batch {
		return store.Forecast{}, store.ErrNotFound
	}
	return *f.forecast, nil
}

func someForecast() *store.Forecast {
	cost := &store.Spread{P50: 5, P90: 9}
	return &store.Forecast{BatchID: someBatch().ID, Verdict: "run", Jobs: 7, ResultHits: 2, Expected: store.Expected{Calls: store.Spread{P50: 5, P90: 6}, Cost: cost},
		Steps: []store.ForecastStep{{Provider: "openai", Model: "m", HistoryOf: "version", Expected: store.Expected{Calls: store.Spread{P50: 5, P90: 6}}}}}
}

func TestForecastOfABatch(t *testing.T) {
	t.Parallel()
	f := &fake{batches: []store.Batch{someBatch()}}
	a := newAPI(t, f)
	path := "/v1/batches/" + someBatch().ID.String() + "/forecast"
	into[api.Batch](t, a.do(t, call{path: path}), 202) // still being planned
	f.forecast = someForecast()
	got := into[api.Forecast](t, a.do(t, call{path: path}), 200)
	if got.Jobs != 7 || got.CostMicrousd == nil || got.CostMicrousd.P90 != 9 || len(got.Steps) != 1 || got.Steps[0].CostMicrousd != nil || got.Steps[0].Calls.P90 != 6 {
		t.Errorf("%+v", got)
	}
	f.forecast, f.batches[0].StartedAt = nil, ptr(time.Unix(1, 0))
	if w := a.do(t, call{path: path}); w.Code != 404 {
		t.Errorf("of a batch that has none: %d", w.Code)
	}
}

func TestDryRunAnswersWithItsForecastOrSaysWhereItWillBe(t *testing.T) {
	t.Parallel()
	f := &fake{forecast: someForecast()}
	a := newAPI(t, f)
	dry := call{method: "POST", path: "/v1/batches?dry_run=true", header: jsonType, body: "{" + chat + `,"jobs":[{}]}`}
	if got := into[api.Forecast](t, a.do(t, dry), 200); got.Jobs != 7 || !f.spec.DryRun {
		t.Errorf("%+v of %+v", got, f.spec)
	}
	synctest.Test(t, func(t *testing.T) {
		f.forecast = nil
		began := time.Now()
		w := a.do(t, dry)
		if into[api.Batch](t, w, 202); w.Header().Get("Location") != "/v1/batches/"+someBatch().ID.String()+"/forecast" || time.Since(began) > time.Minute {
			t.Errorf("after %s: %v", time.Since(began), w.Header())
		}
	})
}
