package process_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"batchwright/internal/document/documenttest"
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
		Stage, Step     int
		Provider, Model string
		Calls           spread
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

	table := s.do(t, http.MethodPost, "/v1/batches?kind=generate&template=blurb&route=simulator/sim-1&dry_run=true", "text/csv", strings.NewReader("name\nlamp\nkettle\n"))
	if table.json(t, &f); table.status != http.StatusOK || !f.DryRun || f.CountedJobs != 2 || f.Cost.P50 <= 0 {
		t.Errorf("of a table: %d %s", table.status, table.body)
	}
	sourced := s.post(t, "/v1/batches?dry_run=true", `{"kind":"summarize","route":"local/extractive","source":{"urls":["s3://docs/*"]}}`)
	if sourced.status != http.StatusBadRequest || !strings.Contains(string(sourced.body), `"/dry_run"`) || !strings.Contains(string(sourced.body), "on_forecast_over") {
		t.Errorf("of a source: %d %s", sourced.status, sourced.body)
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

// came compares what a batch was expected to take with what it took.
func (s *system) came(t *testing.T, b batch, f forecast, factor float64) {
	t.Helper()
	b = s.finish(t, b.ID)
	if b.Stats.Jobs.Failed > 0 || b.Stats.Calls == 0 {
		t.Fatalf("%+v %+v", b, s.results(t, b.ID))
	}
	tokens := func(of string) int64 {
		return storetest.Scalar[int64](t, s.env["DATABASE_URL"], `select sum(`+of+`)::bigint from calls where batch_id = $1`, b.ID)
	}
	for _, c := range []struct {
		what     string
		expected spread
		came     int64
	}{{"calls", f.Calls, b.Stats.Calls}, {"input", f.Input, tokens("input_tokens")}, {"output", f.Output, tokens("output_tokens")}, {"cost", f.Cost, b.Stats.CostMicrousd}} {
		t.Logf("%s: expected %+v, came %d", c.what, c.expected, c.came)
		if ratio := float64(c.came) / float64(c.expected.P50); ratio < 1/factor || ratio > factor || c.expected.P90 < c.expected.P50 {
			t.Errorf("%s: expected %+v, came %d", c.what, c.expected, c.came)
		}
	}
}

// log is a text of so many entries, all of them others than those of another log.
func log(of string, entries int) (lines []string) {
	for i := range entries {
		lines = append(lines, fmt.Sprintf("On day %d the keeper of lighthouse %s wrote that %d ships had passed, and that the %d lamps burnt well.", i, of, i*7+3, i%5+1))
	}
	return lines
}

func TestForecastOfAPipelineHasAPartForEachStage(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	s.saveTemplate(t, translate)
	s.saveTemplate(t, extractor)
	submit := func(round int) batch {
		var files []file
		for i := range 12 {
			name := fmt.Sprintf("%d-%d", round, i)
			files = append(files, file{name + ".txt", []byte(strings.Join(log(name, 10+20*i), "\n"))})
		}
		return s.send(t, strings.Replace(stages("German", `"simulator/sim-2"`), `"route":"local/extractive"`, `"route":"simulator/sim-1"`, 1)+"}", files...)
	}
	first := submit(1)
	f := s.forecast(t, first.ID)
	if f.Jobs != 12 || f.CountedJobs != 12 || len(f.Steps) != 3 || f.Steps[0].Stage != 0 || f.Steps[1].Stage != 1 || f.Steps[2].Stage != 2 || f.Steps[2].Model != "sim-2" ||
		f.Steps[1].Calls.P50 < 8 || f.Steps[1].Calls.P50 > 16 || f.Steps[2].Calls.P50 < 8 || f.Steps[2].Calls.P50 > 16 || f.Steps[0].Calls.P50 < 4*12 {
		t.Errorf("%+v", f)
	}
	s.finish(t, first.ID)
	second := submit(2)
	f = s.forecast(t, second.ID)
	if f.History != 1 || f.Steps[2].HistoryOf != "params" {
		t.Errorf("%+v", f)
	}
	s.came(t, second, f, 1.5)
}

func TestForecastOfDocumentsGoesByTheirTexts(t *testing.T) {
	t.Parallel()
	s := start(t, map[string]string{"PDFTOTEXT": "off"})
	submit := func(round int) batch {
		var files []file
		for i := range 8 {
			name := fmt.Sprintf("%d-%d", round, i)
			var pages [][]string
			for page := range 1 + 2*i {
				pages = append(pages, log(fmt.Sprintf("%s-%d", name, page), 30))
			}
			files = append(files, file{name + ".pdf", documenttest.PDF("", pages...)})
		}
		return s.send(t, `{"kind":"summarize","route":"simulator/sim-1","params":{"length":"short","chunk_tokens":800}}`, files...)
	}
	first := submit(1)
	f := s.forecast(t, first.ID)
	b := s.finish(t, first.ID)
	if calls := float64(b.Stats.Calls); f.CountedJobs != 8 || float64(f.Calls.P50) < calls*0.7 || float64(f.Calls.P50) > calls*1.4 {
		t.Errorf("without history: %+v, and %d calls came", f, b.Stats.Calls)
	}
	second := submit(2)
	s.came(t, second, s.forecast(t, second.ID), 1.5)
}
