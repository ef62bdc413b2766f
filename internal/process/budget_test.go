package process_test

import (
	"net/http"
	"strings"
	"testing"

	"batchwright/internal/process"
	"batchwright/internal/store/storetest"
)

type budget struct {
	ID        string
	Spent     int64 `json:"spent_microusd"`
	Reserved  int64 `json:"reserved_microusd"`
	Remaining int64 `json:"remaining_microusd"`
	Limit     int64 `json:"limit_microusd"`
}

func (s *system) change(t *testing.T, path, body string) {
	t.Helper()
	if r := s.do(t, http.MethodPatch, path, "application/json", strings.NewReader(body)); r.status != http.StatusOK {
		t.Fatalf("%s: %d %s", path, r.status, r.body)
	}
}

func (s *system) budget(t *testing.T, id string) (b budget) {
	t.Helper()
	s.do(t, http.MethodGet, "/v1/budgets/"+id, "", nil).json(t, &b)
	return b
}

func (s *system) mustBalance(t *testing.T) {
	t.Helper()
	if rows := storetest.Rows[string](t, s.env["DATABASE_URL"], `select kind || ': ' || detail from reports.ledger_check`); len(rows) > 0 {
		t.Errorf("%v", rows)
	}
}

func TestABatchPausesAtItsBudgetAndGoesOnWhenItIsRaised(t *testing.T) {
	t.Parallel()
	s := start(t, map[string]string{"SIMULATOR_LATENCY": "5ms"})
	s.run(t, process.Worker)
	s.saveTemplate(t, blurb)
	var day budget
	r := s.post(t, "/v1/budgets", `{"scope":"project","name":"nightly","period":"day","time_zone":"Europe/Berlin","limit_microusd":4000}`)
	if r.json(t, &day); r.status != http.StatusCreated || day.Remaining != 4000 {
		t.Fatalf("%d %s", r.status, r.body)
	}
	b := accepted(t, s.generate(t, "", products(400)))
	var detail string
	await(t, "the batch to be paused", func() bool {
		var got struct {
			State string
			Pause struct{ Reason, Detail string }
		}
		s.do(t, http.MethodGet, "/v1/batches/"+b.ID, "", nil).json(t, &got)
		detail = got.Pause.Detail
		return got.State == "paused" && got.Pause.Reason == "budget"
	})
	if !strings.Contains(detail, `"nightly"`) || !strings.Contains(detail, "of 0.004000 USD") {
		t.Errorf("the pause says %q", detail)
	}
	await(t, "calls in flight to end", func() bool { return s.budget(t, day.ID).Reserved == 0 })
	if at := s.budget(t, day.ID); at.Spent > 4000 || at.Spent < 3000 {
		t.Errorf("paused at %+v", at)
	}
	s.mustBalance(t)
	s.change(t, "/v1/budgets/"+day.ID, `{"limit_microusd":1000000}`)
	if got := s.finish(t, b.ID); got.Stats.Jobs.Succeeded != 400 || got.Stats.CostMicrousd != s.budget(t, day.ID).Spent {
		t.Errorf("%+v, %+v", got, s.budget(t, day.ID))
	}
	s.mustBalance(t)

	// A batch's own limit is a budget, too.
	own := accepted(t, s.generate(t, "&max_cost_microusd=500&cache=off", products(100)))
	await(t, "the batch to be paused by its own limit", func() bool { return s.batch(t, own.ID).State == "paused" })
	s.change(t, "/v1/batches/"+own.ID, `{"max_cost_microusd":null}`)
	if got := s.finish(t, own.ID); got.Stats.Jobs.Succeeded != 100 {
		t.Errorf("%+v", got)
	}
	if r := s.do(t, http.MethodDelete, "/v1/budgets/"+day.ID, "", nil); r.status != http.StatusNoContent {
		t.Errorf("%d %s", r.status, r.body)
	}
	s.mustBalance(t)
}

func TestBudgetsThatCannotBe(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	s.saveTemplate(t, blurb)
	theirs := accepted(t, s.generate(t, "", products(1)))
	s.finish(t, theirs.ID)
	s.key = s.newKey(t, "another")
	for body, field := range map[string]string{
		`{"scope":"project","period":"day","time_zone":"Mars/Olympus","limit_microusd":1}`:         "/time_zone",
		`{"scope":"project","period":"day","limit_microusd":-1}`:                                   "/limit_microusd",
		`{"scope":"project","period":"week","limit_microusd":1}`:                                   "/period",
		`{"scope":"project","period":"day","limit_microusd":1,"batch_id":"x"}`:                     "/batch_id",
		`{"scope":"api_key","period":"day","limit_microusd":1}`:                                    "/api_key_id",
		`{"scope":"api_key","period":"day","limit_microusd":1,"api_key_id":"` + theirs.ID + `"}`:   "/api_key_id",
		`{"scope":"batch","period":"total","limit_microusd":1,"batch_id":"` + theirs.ID + `"}`:     "/batch_id",
		`{"scope":"batch","period":"total","limit_microusd":1}`:                                    "/batch_id",
		`{"scope":"project","period":"total","limit_microusd":1,"api_key_id":"current","name":""}`: "/api_key_id",
	} {
		r := s.post(t, "/v1/budgets", body)
		var p struct{ Errors []struct{ Field string } }
		if r.json(t, &p); r.status != http.StatusBadRequest || len(p.Errors) != 1 || p.Errors[0].Field != field {
			t.Errorf("%s: %d %s", body, r.status, r.body)
		}
	}
	var mine budget
	r := s.post(t, "/v1/budgets", `{"scope":"api_key","api_key_id":"current","period":"month","time_zone":"Asia/Kolkata","limit_microusd":5}`)
	if r.json(t, &mine); r.status != http.StatusCreated {
		t.Fatalf("%d %s", r.status, r.body)
	}
	s.key = s.newKey(t, "test")
	if r := s.do(t, http.MethodGet, "/v1/budgets/"+mine.ID, "", nil); r.status != http.StatusNotFound {
		t.Errorf("another project's budget: %d", r.status)
	}
	if r := s.do(t, http.MethodPatch, "/v1/budgets/"+mine.ID, "application/json", strings.NewReader(`{"limit_microusd":7}`)); r.status != http.StatusNotFound {
		t.Errorf("another project's budget: %d", r.status)
	}
}
