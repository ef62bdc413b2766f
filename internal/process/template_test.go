package process_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"batchwright/internal/store/storetest"
)

const triage = `{"name":"triage","spec":{"system":"Sort tickets.","examples":[{"user":"Pay me","assistant":"{\"team\":\"billing\"}"}],"user":"Ticket: {{.text}}",
	"variables":{"text":{"type":"string"}},"sampling":{"max_tokens":80},
	"output":{"format":"json","schema":{"type":"object","properties":{"team":{"enum":["billing","other"]}},"required":["team"],"additionalProperties":false}}}}`

// scripted is a model that answers a ticket with what the ticket says, and each time it is asked again with the next part behind a bar.
type scripted struct {
	mu    sync.Mutex
	asked map[string][]string // bodies, by ticket
}

func (m *scripted) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var body struct{ Messages []struct{ Content string } }
	raw, _ := io.ReadAll(r.Body)
	_ = json.Unmarshal(raw, &body)
	ticket := ""
	for _, message := range body.Messages {
		if text, ok := strings.CutPrefix(message.Content, "Ticket: "); ok {
			ticket = text
		}
	}
	m.mu.Lock()
	n := len(m.asked[ticket])
	m.asked[ticket] = append(m.asked[ticket], string(raw))
	m.mu.Unlock()
	says := strings.Split(ticket, "|")
	answer, finish := says[min(n, len(says)-1)], "stop"
	if cut, ok := strings.CutPrefix(answer, "CUT "); ok {
		answer, finish = cut, "length"
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{"model": "m", "usage": map[string]any{"prompt_tokens": 100, "completion_tokens": 10},
		"choices": []any{map[string]any{"finish_reason": finish, "message": map[string]any{"role": "assistant", "content": answer}}}})
}

func TestAnswersClimbTheRepairLadder(t *testing.T) {
	t.Parallel()
	model := &scripted{asked: map[string][]string{}}
	s := start(t, map[string]string{"OPENAI_COMPATIBLE_BASE_URL": httpServer(t, model.ServeHTTP)})
	s.saveTemplate(t, triage)
	tickets := []struct {
		text, output, repaired string // output: empty for a job that fails
		calls                  int
		purposes               string
	}{
		{`{"team":"billing"}`, `{"team":"billing"}`, "", 1, "<nil>"},
		{"Sure:\n```json\n{\"team\":\"other\"}\n```", `{"team":"other"}`, "fences", 1, "<nil>"},
		{`{'team': 'other',}`, `{"team":"other"}`, "syntax", 1, "<nil>"},
		{`{"team":"secret"}|{"team":"billing"} `, `{"team":"billing"}`, "asked", 2, "<nil> repair"},
		{`I can't.|{'team': 'billing'}`, `{"team":"billing"}`, "asked", 2, "<nil> repair"},
		{`CUT {"te|{"team":"billing"}  `, `{"team":"billing"}`, "", 2, "<nil> longer"},
		{`no|CUT {"te|{"team":"billing"}   `, `{"team":"billing"}`, "asked", 3, "<nil> repair repair"},
		{`{"team":"secret"}|{"team":"the secret"}`, ``, "", 2, "<nil> repair"},
	}
	var lines strings.Builder
	for i, ticket := range tickets {
		text := must(json.Marshal(ticket.text))
		fmt.Fprintf(&lines, `{"custom_id":"%d","variables":{"text":%s}}`+"\n", i, text)
	}
	submit := func() reply {
		return s.do(t, http.MethodPost, "/v1/batches?kind=generate&template=triage&route=openai-compatible/m", "application/x-ndjson", strings.NewReader(lines.String()))
	}
	b := s.finish(t, accepted(t, submit()).ID)
	if b.Stats.Jobs.Succeeded != 7 || b.Stats.Jobs.Failed != 1 || b.Stats.Calls != 14 {
		t.Errorf("%+v", b)
	}
	results := s.results(t, b.ID)
	for i, want := range tickets {
		var job struct {
			Repaired *string
			Raw      *string `json:"raw_output"`
			Calls    []struct{ Purpose *string }
			Error    *struct{ Class, Message string }
		}
		s.do(t, http.MethodGet, "/v1/jobs/"+results[i].JobID, "", nil).json(t, &job)
		var purposes []string
		for _, c := range job.Calls {
			purpose := "<nil>"
			if c.Purpose != nil {
				purpose = *c.Purpose
			}
			purposes = append(purposes, purpose)
		}
		repaired := ""
		if job.Repaired != nil {
			repaired = *job.Repaired
		}
		var output string
		if want.output != "" {
			output = string(results[i].Output)
		}
		if output != want.output || repaired != want.repaired || len(job.Calls) != want.calls || strings.Join(purposes, " ") != want.purposes {
			t.Errorf("%s: %s by %q in calls %v", want.text, results[i].Output, repaired, purposes)
		}
		if want.output != "" {
			if job.Raw != nil || job.Error != nil {
				t.Errorf("%s: raw %v, %v", want.text, job.Raw, job.Error)
			}
			continue
		}
		const why = `the answer can't be used: /team: must be one of "billing", "other"; asked again once, with what was wrong`
		if job.Raw == nil || *job.Raw != `{"team":"the secret"}` || job.Error == nil || job.Error.Class != "invalid_output" || job.Error.Message != why {
			t.Errorf("%s: raw %v, %+v", want.text, job.Raw, job.Error)
		}
	}

	// The second question begins as the first one did, and shows the answer and what is wrong with it.
	asked := model.asked[tickets[3].text]
	first, second := messagesOf(t, asked[0]), messagesOf(t, asked[1])
	if len(first) != 4 || len(second) != 6 || !slices.Equal(first, second[:4]) || second[4] != `assistant: {"team":"secret"}` ||
		!strings.Contains(second[5], `- /team: must be one of "billing", "other"`) {
		t.Errorf("asked %q, then %q", first, second)
	}

	again := s.finish(t, accepted(t, submit()).ID)
	if again.Stats.Cache.ResultHit != 7 || again.Stats.Jobs.Failed != 1 || again.Stats.Calls != 2 {
		t.Errorf("the second run: %+v", again)
	}
	s.mustBalance(t)
	counts := storetest.Rows[string](t, s.env["DATABASE_URL"], `select coalesce(repaired, 'as it came') || ' ' || count(*) from reports.jobs
		where batch_id = '`+b.ID+`' and state = 'succeeded' group by repaired order by 1`)
	if got := strings.Join(counts, ", "); got != "as it came 2, asked 3, fences 1, syntax 1" {
		t.Errorf("reports count %s", got)
	}
	if r := s.do(t, http.MethodDelete, "/v1/batches/"+b.ID, "", nil); r.status != http.StatusNoContent {
		t.Fatalf("purge: %d %s", r.status, r.body)
	}
	await(t, "the answers that were no use to go with their batch", func() bool {
		return len(storetest.Rows[int](t, s.env["DATABASE_URL"], `select seq from invalid_outputs where batch_id = '`+b.ID+`'`)) == 0
	})
}

func messagesOf(t *testing.T, body string) (out []string) {
	t.Helper()
	var b struct {
		Messages []struct{ Role, Content string }
	}
	if err := json.Unmarshal([]byte(body), &b); err != nil {
		t.Fatal(err)
	}
	for _, m := range b.Messages {
		out = append(out, m.Role+": "+m.Content)
	}
	return out
}

func TestTableBecomesABatch(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	s.saveTemplate(t, string(must(os.ReadFile("../../examples/templates/ticket-triage.json"))))
	send := func(query, table string, header ...string) reply {
		return s.do(t, http.MethodPost, "/v1/batches?kind=generate&template=ticket-triage&route=simulator/sim-1"+query, "text/csv", strings.NewReader(table), header...)
	}
	table := string(must(os.ReadFile("../../examples/tickets.csv")))
	b := s.finish(t, accepted(t, send("", table, "Idempotency-Key", "k")).ID)
	if b.Total != 5 || b.Stats.Jobs.Succeeded != 5 {
		t.Errorf("%+v: %+v", b, s.results(t, b.ID))
	}
	for i, r := range s.results(t, b.ID) {
		var answer struct{ Team, Summary string }
		if r.CustomID != fmt.Sprintf("t-100%d", i+1) || json.Unmarshal(r.Output, &answer) != nil || answer.Team == "" {
			t.Errorf("%+v", r)
		}
	}
	if r := send("", table, "Idempotency-Key", "k"); accepted(t, r).ID != b.ID || r.header.Get("Idempotency-Replayed") != "true" {
		t.Errorf("the same table again: %d %s", r.status, r.body)
	}
	if r := send("", strings.Replace(table, "chat,Can", "mail,Can", 1), "Idempotency-Key", "k"); r.status != http.StatusConflict {
		t.Errorf("another table under the same key: %d %s", r.status, r.body)
	}
	// As NDJSON they are the same jobs.
	same := s.do(t, http.MethodPost, "/v1/batches?kind=generate&template=ticket-triage&route=simulator/sim-1", "application/x-ndjson",
		strings.NewReader(`{"variables":{"channel":"chat","text":"Can I still change the delivery address of my order?"}}`))
	if hit := s.finish(t, accepted(t, same).ID); hit.Stats.Cache.ResultHit != 1 {
		t.Errorf("as NDJSON: %+v", hit)
	}
	for body, want := range map[string]string{
		"id,channel\n1,mail\n":                       `the table's first line: the head names no column for text`,
		"channel,text,subject\nmail,a,b\n":           `the table's first line: column 3, \"subject\": the template has no such variable`,
		"channel,text\nmail,a\nfax,b\nmail,c,d\n":    `2 of 3 jobs can't be run`,
		"channel,text,tags\nmail,a,\"[1]\"\n":        `/0: expected string, got number`,
		"channel,text,tags\nmail,a,\"secret,1\"\n":   `column 3, \"tags\": expected an array as JSON: not valid JSON at byte 0`,
		"channel,text\n":                             `a batch has at least one job`,
		"channel,text\nmail,\"a\nb\"\n\"fax\",\"c\"": `\"line\":4`,
	} {
		if r := send("", body); r.status != http.StatusBadRequest && r.status != http.StatusUnprocessableEntity || !strings.Contains(string(r.body), strings.ReplaceAll(want, `\"line\":`, `"line":`)) {
			t.Errorf("%q: %d %s", body, r.status, r.body)
		}
	}
	if r := s.do(t, http.MethodPost, "/v1/batches?kind=chat&route=simulator/sim-1", "text/csv", strings.NewReader("a\n1\n")); r.status != http.StatusBadRequest || !strings.Contains(string(r.body), "send its jobs as NDJSON") {
		t.Errorf("chat: %d %s", r.status, r.body)
	}
	skipped := s.finish(t, accepted(t, send("&on_invalid=skip", "channel,text\nmail,a\nfax,b\nmail\n")).ID)
	if skipped.Stats.Jobs.Succeeded != 1 || skipped.Stats.Jobs.Failed != 2 {
		t.Errorf("skipped: %+v", skipped)
	}
	open := accepted(t, s.post(t, "/v1/batches", `{"kind":"generate","template":"ticket-triage","route":"simulator/sim-1","open":true}`))
	if r := s.do(t, http.MethodPost, "/v1/batches/"+open.ID+"/jobs?offset=0", "text/csv", strings.NewReader(table)); r.status != http.StatusOK || !strings.Contains(string(r.body), `"total_jobs":5`) {
		t.Errorf("append: %d %s", r.status, r.body)
	}
}

type previewReply struct {
	Ref      *string
	Findings []struct{ Code string }
	Stable   struct{ Messages, Bytes, Tokens int }
	Inputs   []struct {
		Messages []struct{ Role, Content string }
		Tokens   int
		Keys     []struct{ Model, Key string }
		Cached   *string
		Error    *string
	}
	Discards *struct {
		Results     int64
		Cost        int64 `json:"cost_microusd"`
		WithoutCost int64 `json:"results_without_cost"`
	}
}

func (s *system) preview(t *testing.T, name, body string) (p previewReply) {
	t.Helper()
	r := s.post(t, "/v1/templates/"+name+"/preview", body)
	if r.status != http.StatusOK {
		t.Fatalf("preview: %d %s", r.status, r.body)
	}
	r.json(t, &p)
	return p
}

func TestPreviewSpendsNothingAndTellsWhatAnEditDiscards(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	s.saveTemplate(t, blurb)
	first := s.finish(t, accepted(t, s.generate(t, "", products(20))).ID)
	s.finish(t, accepted(t, s.generate(t, "&cache=off", products(5))).ID) // nobody can find these again

	p := s.preview(t, "blurb", `{"route":"simulator/sim-1","inputs":[{"name":"product 3"},{"name":"never asked"},{"name":7},{}]}`)
	if p.Ref == nil || *p.Ref != "blurb@1" || p.Discards != nil || p.Stable.Messages != 1 || p.Stable.Bytes != len("Write about ") || len(p.Inputs) != 4 {
		t.Errorf("%+v", p)
	}
	if in := p.Inputs[0]; in.Cached == nil || len(in.Keys) != 1 || len(in.Keys[0].Key) != 64 || len(in.Messages) != 2 || in.Messages[1].Content != "Write about product 3." || in.Tokens == 0 {
		t.Errorf("%+v", in)
	}
	if in := p.Inputs[1]; in.Cached != nil || in.Error != nil {
		t.Errorf("%+v", in)
	}
	for i, want := range map[int]string{2: "variables.name: expected a string, got number", 3: "variables.name: is missing; the template requires it"} {
		if got := p.Inputs[i].Error; got == nil || *got != want {
			t.Errorf("input %d: %v", i, got)
		}
	}

	edit := func(system string) string {
		return `{"spec":{"system":"` + system + `","user":"Write about {{.name}}.","variables":{"name":{"type":"string","description":"of the product"}},"sampling":{"max_tokens":80}}}`
	}
	const old, fresh = "You write product blurbs.", "You write blurbs on 2026-12-01."
	if d := s.preview(t, "blurb", edit(old)).Discards; d == nil || d.Results != 0 {
		t.Errorf("a description discards %+v", d)
	}
	p = s.preview(t, "blurb", edit(fresh))
	if d := p.Discards; p.Ref != nil || d == nil || d.Results != 20 || d.Cost+d.WithoutCost == 0 && first.Stats.CostMicrousd != 0 || d.Cost != first.Stats.CostMicrousd {
		t.Errorf("%+v, after a batch that cost %d", p.Discards, first.Stats.CostMicrousd)
	}
	if len(p.Findings) != 2 || p.Findings[0].Code != "date_in_stable_part" || p.Findings[1].Code != "stable_part_short" {
		t.Errorf("%+v", p.Findings)
	}
	// Who would be asked is known without a key for them.
	p = s.preview(t, "triage", `{"spec":`+triage[len(`{"name":"triage","spec":`):len(triage)-1]+`,"route":"openai:gpt-4.1-mini,anthropic:claude-haiku-4-5","inputs":[{"text":"a"}]}`)
	codes := ""
	for _, f := range p.Findings {
		codes += f.Code + " "
	}
	if codes != "stable_part_short stable_part_short " || len(p.Inputs[0].Keys) != 2 {
		t.Errorf("findings %s, keys %v", codes, p.Inputs[0].Keys)
	}
	if p := s.preview(t, "another", edit(fresh)); p.Discards == nil || p.Discards.Results != 0 {
		t.Errorf("a new name discards %+v", p.Discards)
	}

	// When it was saved and used, its own answers are at stake; to go back discards those, and finds the first ones again.
	if r := s.post(t, "/v1/templates", `{"name":"blurb",`+edit(fresh)[1:]); r.status != http.StatusCreated || !strings.Contains(string(r.body), `"date_in_stable_part"`) {
		t.Fatalf("%d %s", r.status, r.body)
	}
	if d := s.preview(t, "blurb", edit(old)).Discards; d.Results != 0 {
		t.Errorf("an unused version discards %+v", d)
	}
	s.finish(t, accepted(t, s.generate(t, "", products(3))).ID)
	if d := s.preview(t, "blurb", edit(old)).Discards; d.Results != 3 {
		t.Errorf("to go back discards %+v", d)
	}
	if rows := storetest.Rows[int64](t, s.env["DATABASE_URL"], `select count(*) from batches`); rows[0] != 3 {
		t.Errorf("previews left %d batches", rows[0]-3)
	}
	for body, status := range map[string]int{
		`{"version":9}`: http.StatusNotFound, `{"version":1,"spec":{"user":"x"}}`: http.StatusBadRequest, `{"spec":{"user":"{{.x}}"}}`: http.StatusBadRequest,
		`{"route":"nope"}`: http.StatusBadRequest, `{"route":"acme:x"}`: http.StatusBadRequest, `{"inputs":[1]}`: http.StatusBadRequest, `{"inputs":[` + strings.Repeat(`{},`, 100) + `{}]}`: http.StatusBadRequest, `{"x":1}`: http.StatusBadRequest,
	} {
		if r := s.post(t, "/v1/templates/blurb/preview", body); r.status != status {
			t.Errorf("%.80s: %d %s", body, r.status, r.body)
		}
	}
	if r := s.post(t, "/v1/templates/nope/preview", `{}`); r.status != http.StatusNotFound {
		t.Errorf("%d %s", r.status, r.body)
	}
}
