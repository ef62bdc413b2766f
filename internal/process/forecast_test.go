package process_test

import (
	"net/http"
	"strings"
	"testing"

	"batchwright/internal/store/storetest"
)

type spread struct{ P50, P90 int64 }

type forecast struct {
	BatchID     string `json:"batch_id"`
	DryRun      bool   `json:"dry_run"`
	Verdict     string
	Reason      string
	Jobs        int64
	ResultHits  int64  `json:"result_hits"`
	Coalesced   int64  `json:"coalesced"`
	InvalidJobs int64  `json:"invalid_jobs"`
	CountedJobs int64  `json:"counted_jobs"`
	History     int    `json:"history_batches"`
	Calls       spread `json:"calls"`
	Input       spread `json:"input_tokens"`
	Output      spread `json:"output_tokens"`
	Cost        spread `json:"cost_microusd"`
	Duration    spread `json:"duration_ms"`
	Steps       []struct {
		Provider, Model string
		HistoryOf       string `json:"history_of"`
		HistoryCalls    int64  `json:"history_calls"`
	}
}

func (s *system) forecast(t *testing.T, id string) (f forecast) {
	t.Helper()
	await(t, "the batch to be planned", func() bool {
		r := s.do(t, http.MethodGet, "/v1/batches/"+id+"/forecast", "", nil)
		if r.status > http.StatusAccepted {
			t.Fatalf("%d %s", r.status, r.body)
		}
		r.json(t, &f)
		return r.status == http.StatusOK
	})
	return f
}

func TestADryRunForecastsAndLeavesNothing(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	s.saveTemplate(t, blurb)
	lines := products(100) + products(1) + "no job\n"
	lines = strings.Replace(lines, `{"custom_id":"p-0",`, `{`, 2)
	dry := func() (f forecast) {
		r := s.generate(t, "&dry_run=true&on_invalid=skip", lines)
		if r.json(t, &f); r.status != http.StatusOK {
			t.Fatalf("%d %s", r.status, r.body)
		}
		return f
	}
	f := dry()
	if !f.DryRun || f.Jobs != 102 || f.ResultHits != 0 || f.Coalesced != 1 || f.InvalidJobs != 1 || f.CountedJobs != 101 || f.History != 0 ||
		f.Calls.P50 < 100 || f.Calls.P90 > 110 || f.Steps[0].HistoryOf != "none" || f.Input.P50 < 1000 || f.Output.P90 > 100*80 || f.Cost.P50 <= 0 || f.Cost.P50 >= f.Cost.P90 || f.Duration.P90 <= 0 {
		t.Errorf("%+v", f)
	}
	url := s.env["DATABASE_URL"]
	await(t, "the dry run to be gone", func() bool {
		return storetest.Scalar[int64](t, url, `select (select count(*) from batches) + (select count(*) from jobs) + (select count(*) from inputs) + (select count(*) from forecast_sums)`) == 0
	})
	if n := storetest.Scalar[int64](t, url, `select count(*) from calls`); n != 0 {
		t.Errorf("%d calls", n)
	}
	if again := s.forecast(t, f.BatchID); again.Cost != f.Cost || !again.DryRun {
		t.Errorf("kept as %+v, was %+v", again, f)
	}

	first := s.finish(t, accepted(t, s.generate(t, "", products(100))).ID)
	if f = dry(); f.ResultHits != 101 || f.Calls.P90 != 0 || f.Cost.P90 != 0 || f.Coalesced != 0 {
		t.Errorf("with all in the cache: %+v", f)
	}
	g := s.forecast(t, accepted(t, s.generate(t, "&cache=off", products(100))).ID)
	if g.DryRun || g.Verdict != "run" || g.History != 1 || g.Steps[0].HistoryOf != "version" || g.Steps[0].HistoryCalls != 100 || g.Cost.P90 < first.Stats.CostMicrousd ||
		g.Cost.P50 < first.Stats.CostMicrousd*9/10 || g.Cost.P50 > first.Stats.CostMicrousd*11/10 {
		t.Errorf("%+v, when the same cost %d", g, first.Stats.CostMicrousd)
	}
	s.mustBalance(t)
	for query, field := range map[string]string{"&dry_run=true&open=true": "dry_run", "&on_forecast_over=pause": "on_forecast_over"} {
		if r := s.generate(t, query, lines); r.status != http.StatusBadRequest || !strings.Contains(string(r.body), `"/`+field+`"`) {
			t.Errorf("%s: %d %s", query, r.status, r.body)
		}
	}
}

func TestABatchWhoseForecastIsOverItsLimit(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	s.saveTemplate(t, blurb)
	type held struct {
		State string
		Error string
		Pause struct{ Reason, Detail string }
		Stats struct{ Calls int64 }
	}
	get := func(id string) (b held) {
		s.do(t, http.MethodGet, "/v1/batches/"+id, "", nil).json(t, &b)
		return b
	}
	paused := accepted(t, s.generate(t, "&max_cost_microusd=100&on_forecast_over=pause", products(50))).ID
	await(t, "the batch to be paused", func() bool { return get(paused).State == "paused" })
	if b := get(paused); b.Pause.Reason != "forecast" || !strings.Contains(b.Pause.Detail, "0.000100 USD") || b.Stats.Calls != 0 {
		t.Errorf("%+v", b)
	}
	s.change(t, "/v1/batches/"+paused, `{"max_cost_microusd":null}`)
	if r := s.post(t, "/v1/batches/"+paused+"/resume", ""); r.status != http.StatusOK {
		t.Fatalf("%d %s", r.status, r.body)
	}
	if b := s.finish(t, paused); b.State != "completed" || b.Stats.Jobs.Succeeded != 50 {
		t.Errorf("resumed: %+v", b)
	}

	refused := accepted(t, s.generate(t, "&max_cost_microusd=100&on_forecast_over=refuse&cache=off", products(50))).ID
	if b := s.finish(t, refused); b.State != "failed" || b.Stats.Calls != 0 {
		t.Errorf("%+v", b)
	}
	if b := get(refused); !strings.Contains(b.Error, "no call was made") {
		t.Errorf("%+v", b)
	}
	if f := s.forecast(t, refused); f.Verdict != "refuse" || f.Cost.P90 <= 100 {
		t.Errorf("%+v", f)
	}
	enough := accepted(t, s.generate(t, "&max_cost_microusd=1000000&on_forecast_over=refuse&cache=off", products(50))).ID
	if b := s.finish(t, enough); b.State != "completed" {
		t.Errorf("%+v", b)
	}
	s.mustBalance(t)
}
