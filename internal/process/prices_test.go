package process_test

import (
	"net/http"
	"strings"
	"testing"

	"batchwright/internal/process"
	"batchwright/internal/store/storetest"
)

type savings struct {
	Cost int64 `json:"cost_microusd"`
	Data []struct {
		Kind          string
		Uses, Unknown int64
		Saved         int64 `json:"saved_microusd"`
		Output        int64 `json:"output_tokens"`
	}
}

func (s *system) put(t *testing.T, path, body string) reply {
	t.Helper()
	return s.do(t, http.MethodPut, path, "application/json", strings.NewReader(body))
}

func TestPricesOverTheAPI(t *testing.T) {
	t.Parallel()
	s := start(t, map[string]string{"SIMULATOR_LATENCY": "1ms"})
	s.run(t, process.Worker)
	s.saveTemplate(t, blurb)

	first := s.finish(t, accepted(t, s.generate(t, "", products(20))).ID)
	if first.Stats.CostMicrousd == 0 {
		t.Fatalf("the first run was free: %+v", first)
	}
	again := accepted(t, s.generate(t, "", products(20)))
	s.finish(t, again.ID)
	var saved savings
	s.do(t, http.MethodGet, "/v1/batches/"+again.ID+"/savings", "", nil).json(t, &saved)
	if len(saved.Data) != 1 || saved.Data[0].Kind != "result_cache" || saved.Data[0].Uses != 20 || saved.Data[0].Unknown != 0 || saved.Data[0].Saved != first.Stats.CostMicrousd || saved.Cost != 0 {
		t.Errorf("the second run saved %+v, the first cost %d", saved, first.Stats.CostMicrousd)
	}

	// Ten times the price that the simulator has.
	const price = `{"provider":"simulator","model":"*","valid_from":"2026-01-01","rates":{"input":1000000,"output":4000000,"cached_input":1000000,"cache_write":1000000}}`
	var set struct{ ID, Source string }
	if r := s.put(t, "/v1/prices", price); r.status != http.StatusOK {
		t.Fatalf("%d %s", r.status, r.body)
	} else {
		r.json(t, &set)
	}
	var list struct {
		Data []struct {
			ID, Source, Model string
			Rates             struct{ Input int64 }
		}
	}
	s.do(t, http.MethodGet, "/v1/prices?provider=simulator", "", nil).json(t, &list)
	if len(list.Data) != 2 || set.Source != "project" || list.Data[0].Source != "server" || list.Data[1].Source != "project" {
		t.Errorf("listed: %+v", list)
	}
	s.do(t, http.MethodGet, "/v1/prices?provider=simulator&at=2026-06-01", "", nil).json(t, &list)
	if len(list.Data) != 1 || list.Data[0].ID != set.ID || list.Data[0].Rates.Input != 1_000_000 {
		t.Errorf("in force: %+v", list)
	}
	dearer := s.finish(t, accepted(t, s.generate(t, "&cache=off", products(20))).ID)
	// Each call is rounded: ten times the price isn't ten times the cost.
	if low, high := 10*first.Stats.CostMicrousd-110, 10*first.Stats.CostMicrousd+110; dearer.Stats.CostMicrousd < low || dearer.Stats.CostMicrousd > high {
		t.Errorf("at ten times the price it cost %d, at first %d", dearer.Stats.CostMicrousd, first.Stats.CostMicrousd)
	}

	var dry, wet struct {
		DryRun   bool `json:"dry_run"`
		Calls    int64
		Changed  int64   `json:"changed_calls"`
		Old      int64   `json:"old_cost_microusd"`
		New      int64   `json:"new_cost_microusd"`
		Finished *string `json:"finished_at"`
	}
	s.post(t, "/v1/prices/reprice", `{}`).json(t, &dry)
	if !dry.DryRun || dry.Calls != 40 || dry.Changed != 20 || dry.Old != first.Stats.CostMicrousd+dearer.Stats.CostMicrousd || dry.New != 2*dearer.Stats.CostMicrousd || dry.Finished == nil {
		t.Errorf("dry run: %+v", dry)
	}
	if now := s.batch(t, first.ID); now.Stats.CostMicrousd != first.Stats.CostMicrousd {
		t.Errorf("the dry run changed the cost to %d", now.Stats.CostMicrousd)
	}
	s.post(t, "/v1/prices/reprice", `{"dry_run":false}`).json(t, &wet)
	if wet.DryRun || wet.Changed != dry.Changed || wet.New != dry.New || s.batch(t, first.ID).Stats.CostMicrousd != dearer.Stats.CostMicrousd {
		t.Errorf("real run: %+v", wet)
	}
	s.mustBalance(t)
	var history struct{ Data []struct{ ID string } }
	s.do(t, http.MethodGet, "/v1/prices/reprices", "", nil).json(t, &history)
	if len(history.Data) != 2 {
		t.Errorf("recorded: %+v", history)
	}
	for path, want := range map[string]int{"/v1/prices/" + set.ID: http.StatusNoContent, "/v1/prices/" + history.Data[0].ID: http.StatusNotFound} {
		if r := s.do(t, http.MethodDelete, path, "", nil); r.status != want {
			t.Errorf("%s: %d %s", path, r.status, r.body)
		}
	}
	for body, field := range map[string]string{
		strings.Replace(price, "2026-01-01", "someday", 1): "valid_from", strings.Replace(price, `"*"`, `"a b"`, 1): "model", strings.Replace(price, "4000000", "-4", 1): "output",
	} {
		if r := s.put(t, "/v1/prices", body); r.status != http.StatusBadRequest || !strings.Contains(string(r.body), field) {
			t.Errorf("%s: %d %s", body, r.status, r.body)
		}
	}
}

// TestSavingsAndDriftByKind sets up calls whose numbers a person can add up.
func TestSavingsAndDriftByKind(t *testing.T) {
	t.Parallel()
	s := start(t, map[string]string{"SIMULATOR_LATENCY": "1ms"})
	s.run(t, process.Worker)
	s.saveTemplate(t, blurb)
	url := s.env["DATABASE_URL"]
	b := s.finish(t, accepted(t, s.generate(t, "", products(4))).ID)
	const other = `provider = 'openai', model = 'gpt-4o-mini'` // 0.15 in, 0.075 cached, 0.60 out
	storetest.Exec(t, url, `update calls set `+other+`, input_tokens = 3000000, cached_input_tokens = 2000000, cost_microusd = 300000 where batch_id = $1 and seq = 1`, b.ID)
	storetest.Exec(t, url, `update calls set provider = 'nobody', cached_input_tokens = 5 where batch_id = $1 and seq = 2`, b.ID)
	storetest.Exec(t, url, `update calls set `+other+`, gateway_cache_status = 'HIT', input_tokens = null, cached_input_tokens = null, cache_write_tokens = null, output_tokens = null, cost_microusd = 0
		where batch_id = $1 and seq in (3, 4)`, b.ID)
	storetest.Exec(t, url, `insert into call_notes select batch_id, seq, ticket_id, number, false, 100, 0, 50, 777 from calls where batch_id = $1 and seq = 3`, b.ID)
	storetest.Exec(t, url, `update calls set gateway_log_id = case seq when 1 then '01990000-0000-7000-8000-000000000001' when 2 then 'not ours' end where batch_id = $1`, b.ID)
	storetest.Exec(t, url, `insert into gateway_logs (id, account, gateway, created_at, event_id, request_id, provider, model, model_type, path, request_type, request_content_type,
		response_content_type, user_agent, status_code, success, cached, authenticated, streamed, custom_cost, duration_us, tokens_in, tokens_out, cost_nano_usd, step, dlp_action, request_size, response_size)
		values ('01990000-0000-7000-8000-000000000001', 'a', 'g', now(), 'e', 'r', 'openai', 'gpt-4o-mini', '', '', '', '', '', '', 200, true, false, true, false, false, 1, 1, 1, 299999500, 0, '', 1, 1)`)
	storetest.Exec(t, url, `update batches set usage_at = null where id = $1`, b.ID) // a worker may have summed it up meanwhile
	var got savings
	s.do(t, http.MethodGet, "/v1/batches/"+b.ID+"/savings", "", nil).json(t, &got)
	kinds := map[string][3]int64{}
	for _, d := range got.Data {
		k := kinds[d.Kind]
		kinds[d.Kind] = [3]int64{k[0] + d.Uses, k[1] + d.Unknown, k[2] + d.Saved}
	}
	// 2,000,000 cached tokens at 0.075 less; of nobody's model no price is known; of two hits one's usage is.
	if want := map[string][3]int64{"prefix_cache": {2, 1, 150_000}, "gateway_cache": {2, 1, 777}}; len(kinds) != 2 || kinds["prefix_cache"] != want["prefix_cache"] || kinds["gateway_cache"] != want["gateway_cache"] {
		t.Errorf("%+v, want %+v", kinds, want)
	}
	drift := storetest.Rows[string](t, url, `select format('%s: %s calls, %s unlogged, %s compared, %s by us, %s by the log, drift %s', provider, calls, unlogged_calls, compared_calls, cost_nanousd,
		gateway_cost_nanousd, drift_nanousd) from reports.cost_drift order by 1`)
	if want := "nobody: 1 calls, 1 unlogged, 0 compared, 0 by us, 0 by the log, drift 0;openai: 1 calls, 0 unlogged, 1 compared, 300000000 by us, 299999500 by the log, drift 500"; strings.Join(drift, ";") != want {
		t.Errorf("%s", strings.Join(drift, ";"))
	}
}
