package process_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"batchwright/internal/store/storetest"
)

// rerun runs a batch again with options and, as NDJSON, changes.
func (s *system) rerun(t *testing.T, id, options, changes string, header ...string) reply {
	t.Helper()
	if changes == "" {
		return s.post(t, "/v1/batches/"+id+"/rerun", options, header...)
	}
	return s.do(t, http.MethodPost, "/v1/batches/"+id+"/rerun?options="+url.QueryEscape(options), "application/x-ndjson", strings.NewReader(changes), header...)
}

type diffItem struct {
	CustomID *string `json:"custom_id"`
	Status   string
	Reasons  []string
	Before   *diffSide
	After    *diffSide
	Cost     *int64 `json:"cost_difference_microusd"`
	Text     string `json:"text_diff"`
}

type diffSide struct {
	JobID  string `json:"job_id"`
	Index  int
	Status string
	Model  *string
	Cost   *int64 `json:"cost_microusd"`
}

type diffSummary struct {
	Items    int64
	Statuses map[string]int64
	Reasons  map[string]int64
	Before   int64 `json:"cost_before_microusd"`
	After    int64 `json:"cost_after_microusd"`
}

// diff streams the items of a diff.
func (s *system) diff(t *testing.T, a, b, query string) (items []diffItem) {
	t.Helper()
	r := s.do(t, http.MethodGet, "/v1/batches/"+a+"/diff/"+b+"?format=ndjson"+query, "", nil)
	if r.status != http.StatusOK || r.header.Get("Content-Type") != "application/x-ndjson" {
		t.Fatalf("diff: %d %s", r.status, r.body)
	}
	for line := range bytes.Lines(r.body) {
		var i diffItem
		if err := json.Unmarshal(line, &i); err != nil {
			t.Fatalf("%v in %s", err, line)
		}
		items = append(items, i)
	}
	return items
}

func (s *system) summary(t *testing.T, a, b string) (out diffSummary) {
	t.Helper()
	r := s.do(t, http.MethodGet, "/v1/batches/"+a+"/diff/"+b+"/summary", "", nil)
	if r.status != http.StatusOK {
		t.Fatalf("summary: %d %s", r.status, r.body)
	}
	r.json(t, &out)
	maps.DeleteFunc(out.Statuses, func(_ string, n int64) bool { return n == 0 })
	return out
}

func (d diffSummary) mustBe(t *testing.T, what string, statuses, reasons map[string]int64) {
	t.Helper()
	if !maps.Equal(d.Statuses, statuses) || !maps.Equal(d.Reasons, reasons) {
		t.Errorf("%s: %+v, want %v for %v", what, d, statuses, reasons)
	}
}

type counts = map[string]int64

func TestRerunPaysForWhatChangedOnly(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	s.saveTemplate(t, blurb)
	first := s.finish(t, accepted(t, s.generate(t, "&name=night&metadata=%7B%22a%22%3A%22b%22%7D&priority=3", products(1000))).ID)

	again := s.finish(t, accepted(t, s.rerun(t, first.ID, `{}`, "")).ID)
	if again.Stats.Calls != 0 || again.Stats.Cache.ResultHit != 1000 || again.Stats.CostMicrousd != 0 {
		t.Errorf("nothing changed: %+v", again)
	}
	s.summary(t, first.ID, again.ID).mustBe(t, "nothing changed", counts{"same": 1000}, counts{})
	var b struct {
		Name     string
		Priority int
		RerunOf  string `json:"rerun_of"`
		Template string
		Metadata map[string]string
	}
	s.do(t, http.MethodGet, "/v1/batches/"+again.ID, "", nil).json(t, &b)
	if b.Name != "night" || b.Priority != 3 || b.RerunOf != first.ID || b.Template != "blurb@1" || b.Metadata["a"] != "b" {
		t.Errorf("the rerun is %+v", b)
	}

	// 1 % edits, one job less and one more.
	var changes strings.Builder
	for i := range 10 {
		fmt.Fprintf(&changes, `{"custom_id":"p-%d","variables":{"name":"edited %d"}}`+"\n", 100*i+5, i)
	}
	changes.WriteString(`{"custom_id":"p-300","removed":true}` + "\n" + `{"custom_id":"fresh","variables":{"name":"fresh"}}` + "\n")
	edited := s.finish(t, accepted(t, s.rerun(t, again.ID, `{"name":"edited"}`, changes.String(), "Idempotency-Key", "k1")).ID)
	if edited.Total != 1000 || edited.Stats.Calls != 11 || edited.Stats.Cache.ResultHit != 989 || edited.Stats.Jobs.Succeeded != 1000 {
		t.Errorf("1 %% edits: %+v", edited)
	}
	sum := s.summary(t, first.ID, edited.ID)
	sum.mustBe(t, "1 % edits", counts{"same": 989, "changed": 10, "new": 1, "gone": 1}, counts{"input": 10})
	if sum.Before != first.Stats.CostMicrousd || sum.After != edited.Stats.CostMicrousd || sum.Items != 1001 {
		t.Errorf("costs: %+v, batches %+v, %+v", sum, first.Stats, edited.Stats)
	}
	items := s.diff(t, first.ID, edited.ID, "&text=true")
	if len(items) != 1001 {
		t.Fatalf("%d items", len(items))
	}
	for n, i := range items {
		switch {
		case n == 5 && (i.Status != "changed" || *i.CustomID != "p-5" || i.Before.Index != 6 || i.After.Index != 6 ||
			!strings.Contains(i.Text, "\n-[simulated]") || !strings.Contains(i.Text, "\n+[simulated]")):
			t.Errorf("the edited job: %+v", i)
		case n == 400 && (i.Status != "same" || *i.CustomID != "p-401" || i.Before.Index != 402 || i.After.Index != 401 || i.Text != "" || *i.Cost != -*i.Before.Cost):
			t.Errorf("a job that moved: %+v", i)
		case n == 999 && (i.Status != "new" || *i.CustomID != "fresh" || i.Before != nil || *i.Cost != *i.After.Cost):
			t.Errorf("the new job: %+v", i)
		case n == 1000 && (i.Status != "gone" || *i.CustomID != "p-300" || i.After != nil):
			t.Errorf("the job that is gone: %+v", i)
		}
	}
	// Pages show the same, and filters narrow both.
	var paged []diffItem
	for path := "/v1/batches/" + first.ID + "/diff/" + edited.ID + "?limit=300"; path != ""; {
		var page struct {
			Data []diffItem
			Next *string `json:"next_cursor"`
		}
		s.do(t, http.MethodGet, path, "", nil).json(t, &page)
		paged = append(paged, page.Data...)
		path, _, _ = strings.Cut(path, "&cursor")
		if path += "&cursor="; page.Next == nil {
			break
		}
		path += *page.Next
	}
	if len(paged) != len(items) || *paged[1000].CustomID != "p-300" || *paged[700].CustomID != *items[700].CustomID {
		t.Errorf("pages have %d items", len(paged))
	}
	if changed := s.diff(t, first.ID, edited.ID, "&status=changed"); len(changed) != 10 || *changed[9].CustomID != "p-905" {
		t.Errorf("%d changed", len(changed))
	}
	var page struct{ Data []diffItem }
	s.do(t, http.MethodGet, "/v1/batches/"+first.ID+"/diff/"+edited.ID+"?status=gone&limit=5", "", nil).json(t, &page)
	if len(page.Data) != 1 || *page.Data[0].CustomID != "p-300" {
		t.Errorf("gone: %+v", page)
	}

	// A repeat is the same batch, another rerun under its key a conflict, whatever has become of the source.
	if r := s.do(t, http.MethodDelete, "/v1/batches/"+again.ID, "", nil); r.status != http.StatusNoContent {
		t.Fatalf("purge: %d", r.status)
	}
	r := s.rerun(t, again.ID, `{"name":"edited"}`, changes.String(), "Idempotency-Key", "k1")
	if repeat := accepted(t, r); repeat.ID != edited.ID || r.header.Get("Idempotency-Replayed") != "true" {
		t.Errorf("repeat: %+v", repeat)
	}
	if r := s.rerun(t, again.ID, `{"name":"other"}`, changes.String(), "Idempotency-Key", "k1"); r.status != http.StatusConflict {
		t.Errorf("another rerun: %d %s", r.status, r.body)
	}
	s.refused(t, "/v1/batches/"+again.ID+"/rerun", `{}`, "its inputs were purged")
	if r := s.do(t, http.MethodGet, "/v1/batches/"+first.ID+"/diff/"+again.ID, "", nil); r.status != http.StatusGone {
		t.Errorf("a diff with a purged batch: %d %s", r.status, r.body)
	}
	s.mustBalance(t)
}

func TestRerunChecksInputsForAnotherTemplate(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	s.saveTemplate(t, blurb)
	first := s.finish(t, accepted(t, s.generate(t, "", products(20))).ID)
	s.saveTemplate(t, strings.Replace(blurb, "Write about", "Say something about", 1))
	second := s.finish(t, accepted(t, s.rerun(t, first.ID, `{"template":"latest"}`, "")).ID)
	if second.Stats.Calls != 20 {
		t.Errorf("another template: %+v", second)
	}
	s.summary(t, first.ID, second.ID).mustBe(t, "another template", counts{"changed": 20}, counts{"template": 20})

	s.saveTemplate(t, strings.Replace(strings.Replace(blurb, `"max_tokens":80`, `"max_tokens":90`, 1), "Write about", "Say something about", 1))
	warmer := s.finish(t, accepted(t, s.rerun(t, second.ID, `{"template":"blurb@3"}`, "")).ID)
	if got := s.summary(t, second.ID, warmer.ID).Reasons; !maps.Equal(got, counts{"sampling": 20}) {
		t.Errorf("another sampling: %v", got)
	}

	// This one wants a variable that no job has; one is changed to have it.
	s.saveTemplate(t, strings.Replace(strings.Replace(blurb, `{"name":{"type":"string"}}`, `{"name":{"type":"string"},"price":{"type":"number"}}`, 1), "{{.name}}", "{{.name}} for {{.price}}", 1))
	type problem struct {
		Detail string
		Count  int `json:"error_count"`
		Errors []struct {
			Line     int
			CustomID string `json:"custom_id"`
			Field    string
			Code     string
		}
	}
	fix := `{"custom_id":"p-3","variables":{"name":"n","price":3}}` + "\n"
	var p problem
	if r := s.rerun(t, first.ID, `{"template":"latest"}`, fix); r.status != http.StatusUnprocessableEntity {
		t.Fatalf("%d %s", r.status, r.body)
	} else if r.json(t, &p); len(p.Errors) != 19 || p.Errors[3].CustomID != "p-4" || p.Errors[3].Line != 5 || p.Errors[3].Code != "invalid_variables" {
		t.Errorf("%+v", p)
	}
	skipped := s.finish(t, accepted(t, s.rerun(t, first.ID, `{"template":"latest","on_invalid":"skip"}`, fix)).ID)
	if skipped.Stats.Jobs.Failed != 19 || skipped.Stats.Jobs.Succeeded != 1 || skipped.Stats.Calls != 1 {
		t.Errorf("%+v", skipped)
	}
	s.summary(t, first.ID, skipped.ID).mustBe(t, "bad lines", counts{"changed": 20}, counts{"template": 20, "input": 20, "failed": 19})

	for what, tt := range map[string]struct{ options, changes, words string }{
		"unknown template":    {`{"template":"nope"}`, "", "unknown template"},
		"unknown field":       {`{"kind":"chat"}`, "", "no such field"},
		"cache":               {`{"cache":"some"}`, "", "cache"},
		"age of nothing":      {`{"cache":"refresh","max_age_seconds":5}`, "", "max_age_seconds"},
		"no route of a name":  {`{"route":"latest"}`, "", "name a route"},
		"unknown removal":     {`{}`, `{"custom_id":"p-99","removed":true}`, "doesn't have"},
		"two changes":         {`{}`, fix + fix, "can't be run"},
		"no id":               {`{"template":"blurb@1"}`, `{"variables":{"name":"x"}}`, "can't be run"},
		"removed with others": {`{}`, `{"custom_id":"p-1","removed":true,"variables":{}}`, "can't be run"},
	} {
		if r := s.rerun(t, first.ID, tt.options, tt.changes); r.status < 400 || r.status > 499 || !strings.Contains(string(r.body), tt.words) {
			t.Errorf("%s: %d %s", what, r.status, r.body)
		}
	}
	var all strings.Builder
	for i := range 20 {
		fmt.Fprintf(&all, `{"custom_id":"p-%d","removed":true}`+"\n", i)
	}
	if r := s.rerun(t, first.ID, `{}`, all.String()); r.status != http.StatusBadRequest || !strings.Contains(string(r.body), "leave no job") {
		t.Errorf("nothing left: %d %s", r.status, r.body)
	}
	if n := storetest.Scalar[int64](t, s.env["DATABASE_URL"], `select count(*) from inputs where seq > 1000000000 or batch_id not in (select id from batches)`); n != 0 {
		t.Errorf("%d rows are left of changes and refusals", n)
	}
	open := accepted(t, s.generate(t, "&open=true", ""))
	s.refused(t, "/v1/batches/"+open.ID+"/rerun", `{}`, "still coming in")
	if r := s.do(t, http.MethodGet, "/v1/batches/"+first.ID+"/diff/"+open.ID, "", nil); r.status != http.StatusConflict {
		t.Errorf("a diff with an open batch: %d %s", r.status, r.body)
	}
}

func TestCacheOnlyAndMaxAge(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	s.saveTemplate(t, blurb)
	first := s.finish(t, accepted(t, s.generate(t, "", products(30))).ID)
	change := `{"custom_id":"p-3","variables":{"name":"another"}}` + "\n" + `{"custom_id":"twin","variables":{"name":"another"}}`
	only := s.finish(t, accepted(t, s.rerun(t, first.ID, `{"cache":"only"}`, change)).ID)
	if only.Stats.Calls != 0 || only.Stats.Jobs.Failed != 2 || only.Stats.Cache.ResultHit != 29 {
		t.Errorf("only: %+v", only)
	}
	lines := s.results(t, only.ID)
	if e := lines[3].Error; e.Class != "not_cached" || !strings.Contains(e.Message, "makes no calls") {
		t.Errorf("what the cache doesn't have: %+v", lines[3])
	}
	s.summary(t, first.ID, only.ID).mustBe(t, "only", counts{"same": 29, "changed": 1, "new": 1}, counts{"input": 1, "failed": 1})

	// Tried again when the cache has the answer, the job takes it.
	if b := s.finish(t, accepted(t, s.generate(t, "", `{"variables":{"name":"another"}}`)).ID); b.Stats.Calls != 1 {
		t.Fatalf("%+v", b)
	}
	if r := s.post(t, "/v1/batches/"+only.ID+"/retry", `{}`); r.status != http.StatusOK {
		t.Fatalf("%d %s", r.status, r.body)
	}
	if only = s.finish(t, only.ID); only.Stats.Calls != 0 || only.Stats.Jobs.Succeeded != 31 || only.Stats.Cache.ResultHit+only.Stats.Cache.Coalesced != 31 {
		t.Errorf("only, tried again: %+v", only)
	}

	// Half of the answers grow old.
	db := s.env["DATABASE_URL"]
	storetest.Exec(t, db, `update completions c set created_at = now() - interval '2 days' from jobs j
		where j.batch_id = $1 and j.seq <= 15 and c.key = j.result_key`, first.ID)
	aged := s.finish(t, accepted(t, s.rerun(t, first.ID, `{"max_age_seconds":86400}`, "")).ID)
	if aged.Stats.Calls != 15 || aged.Stats.Cache.ResultHit != 15 || aged.Stats.Cache.Miss != 15 {
		t.Errorf("max_age: %+v", aged)
	}
	s.summary(t, first.ID, aged.ID).mustBe(t, "max_age", counts{"same": 30}, counts{"expired": 15}) // the simulator answers alike
	if b := s.finish(t, accepted(t, s.generate(t, "&max_age_seconds=86400", products(30))).ID); b.Stats.Calls != 0 {
		t.Errorf("the new answers took the place of the old ones: %+v", b)
	}
	storetest.Exec(t, db, `update completions set created_at = now() - interval '3 days'`)
	old := s.finish(t, accepted(t, s.generate(t, "&max_age_seconds=86400&cache=only", products(5))).ID)
	if old.Stats.Calls != 0 || old.Stats.Jobs.Failed != 5 {
		t.Errorf("only and max_age: %+v", old)
	}
	// Also when the job is claimed, and looked up once more.
	if r := s.post(t, "/v1/batches/"+old.ID+"/retry", `{}`); r.status != http.StatusOK {
		t.Fatalf("%d %s", r.status, r.body)
	}
	if old = s.finish(t, old.ID); old.Stats.Calls != 0 || old.Stats.Jobs.Failed != 5 {
		t.Errorf("only and max_age, tried again: %+v", old)
	}
	off := s.finish(t, accepted(t, s.rerun(t, first.ID, `{"cache":"off"}`, "")).ID)
	refreshed := s.finish(t, accepted(t, s.rerun(t, first.ID, `{"cache":"refresh","route":"simulator/sim-1"}`, "")).ID)
	s.summary(t, first.ID, off.ID).mustBe(t, "off", counts{"same": 30}, counts{"cache_off": 30})
	s.summary(t, first.ID, refreshed.ID).mustBe(t, "refresh", counts{"same": 30}, counts{"refreshed": 30})
	moved := s.finish(t, accepted(t, s.rerun(t, first.ID, `{"route":"simulator/sim-2"}`, "")).ID)
	s.summary(t, first.ID, moved.ID).mustBe(t, "another model", counts{"changed": 30}, counts{"route": 30, "answered_by": 30})
	s.mustBalance(t)
}

func TestRerunOfDocumentsSharesThem(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	var lines strings.Builder
	for i := range 40 {
		fmt.Fprintf(&lines, `{"custom_id":"d-%d","document":{"name":"d.txt","text":"Document %d is about a matter. It has a second sentence."}}`+"\n", i, i)
	}
	r := s.do(t, http.MethodPost, "/v1/batches?kind=summarize&route=local/extractive", "application/x-ndjson", strings.NewReader(lines.String()))
	first := s.finish(t, accepted(t, r).ID)
	again := s.finish(t, accepted(t, s.rerun(t, first.ID, `{"params":{"length":"short"}}`, "")).ID)
	if again.Stats.Calls != 40 {
		t.Errorf("other params: %+v", again)
	}
	if got := s.summary(t, first.ID, again.ID); !maps.Equal(got.Reasons, counts{"params": 40}) {
		t.Errorf("other params: %+v", got)
	}
	changed := s.finish(t, accepted(t, s.rerun(t, first.ID, `{}`, `{"custom_id":"d-7","document":{"name":"d.txt","text":"Another document. It is short."}}`)).ID)
	if changed.Stats.Calls != 1 || changed.Stats.Cache.ResultHit != 39 {
		t.Errorf("one document changed: %+v", changed)
	}
	// The source may go; what its reruns need stays.
	if r := s.do(t, http.MethodDelete, "/v1/batches/"+first.ID, "", nil); r.status != http.StatusNoContent {
		t.Fatalf("purge: %d", r.status)
	}
	last := s.finish(t, accepted(t, s.rerun(t, changed.ID, `{"cache":"refresh"}`, "")).ID)
	if last.Stats.Jobs.Succeeded != 40 || last.Stats.Calls != 40 {
		t.Errorf("after the source was purged: %+v", last)
	}
	items := s.diff(t, again.ID, last.ID, "")
	if !slices.ContainsFunc(items, func(i diffItem) bool { return *i.CustomID == "d-7" && slices.Contains(i.Reasons, "input") }) {
		t.Errorf("the changed document: %+v", items)
	}
}
