package process_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"batchwright/internal/store/storetest"
)

const (
	translate = `{"name":"translate","spec":{"system":"You translate.","user":"Into {{.language}}:\n{{.text}}","variables":{"text":{"type":"string","schema":{"minLength":9}},"language":{"type":"string","schema":{"minLength":3}}},"sampling":{"max_tokens":200}}}`
	extractor = `{"name":"extract","spec":{"user":"Facts of {{.text}}, {{len .tags}} tags","variables":{"text":{"type":"string"},"tags":{"type":"array","default":[]}},"output":{"format":"json","schema":{"type":"object","properties":{"title":{"type":"string"},"words":{"type":"array","items":{"type":"string"}}},"required":["title","words"]}},"sampling":{"max_tokens":200}}}`
)

// stages is a pipeline's options: a summary, its translation, and facts of that.
func stages(language, route string) string {
	return `{"kind":"pipeline","route":"local/extractive","params":{"stages":[
		{"name":"summary","kind":"summarize","params":{"length":"short","chunk_tokens":400}},
		{"name":"translation","kind":"generate","template":"translate","route":"simulator/sim-1","variables":{"text":{"stage":"summary"},"language":{"value":"` + language + `"}}},
		{"name":"facts","kind":"generate","template":"extract","route":` + route + `,"variables":{"text":{"stage":"translation"}}}]}`
}

func documents(n int) string {
	var b strings.Builder
	for i := range n {
		text := strings.Repeat(fmt.Sprintf("Document %d tells of a harbour and its %d ships. ", i, i+2), 5)
		fmt.Fprintf(&b, `%s{"custom_id":"d-%d","document":{"text":%q}}`, strings.Repeat(",", min(i, 1)), i, text)
	}
	return b.String()
}

func TestPipelinePaysForChangedStagesOnly(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	s.saveTemplate(t, translate)
	s.saveTemplate(t, extractor)
	run := func(options string) batch {
		t.Helper()
		b := s.finish(t, accepted(t, s.post(t, "/v1/batches", options+`,"jobs":[`+documents(5)+`]}`)).ID)
		if b.Stats.Jobs.Succeeded != 5 {
			t.Fatalf("%+v %+v", b, s.results(t, b.ID))
		}
		return b
	}
	first := run(stages("German", `"simulator/sim-1"`))
	if first.Stats.Calls != 15 || first.Stats.Cache.Miss != 5 {
		t.Errorf("first run: %+v", first)
	}
	const byStage = `select string_agg(coalesce(stage, '-') || ' ' || n, ', ' order by stage) from (select stage, count(*) as n from reports.calls where batch_id = $1 group by 1) c`
	if got := storetest.Scalar[string](t, s.env["DATABASE_URL"], byStage, first.ID); got != "facts 5, summary 5, translation 5" {
		t.Errorf("calls by stage: %s", got)
	}
	var job struct{ Calls []struct{ Stage *string } }
	s.do(t, http.MethodGet, "/v1/jobs/"+s.results(t, first.ID)[0].JobID, "", nil).json(t, &job)
	if len(job.Calls) != 3 || job.Calls[0].Stage == nil || *job.Calls[0].Stage != "summary" {
		t.Errorf("%+v", job.Calls)
	}
	for _, r := range s.results(t, first.ID) {
		var facts struct {
			Title *string
			Words []string
		}
		if json.Unmarshal(r.Output, &facts) != nil || facts.Title == nil || r.Provider != "simulator" {
			t.Errorf("%+v", r)
		}
	}
	if again := run(stages("German", `"simulator/sim-1"`)); again.Stats.Calls != 0 || again.Stats.Cache.ResultHit != 5 || again.Stats.CostMicrousd != 0 {
		t.Errorf("nothing changed: %+v", again)
	}
	if b := run(stages("French", `"simulator/sim-1"`)); b.Stats.Calls != 10 {
		t.Errorf("another language: %+v, want no call for the summaries", b)
	}
	if b := run(stages("German", `"simulator/sim-2"`)); b.Stats.Calls != 5 {
		t.Errorf("another model for the last stage: %+v, want calls for that only", b)
	}
	if off := storetest.Scalar[string](t, s.env["DATABASE_URL"], byStage, s.finish(t, accepted(t, s.post(t, "/v1/batches",
		`{"kind":"summarize","route":"local/extractive","cache":"off","jobs":[`+documents(1)+`]}`)).ID).ID); off != "- 1" {
		t.Errorf("calls of another kind: %s", off)
	}
	if b := run(`{"kind":"summarize","route":"local/extractive","params":{"length":"short","chunk_tokens":400}`); b.Stats.Calls != 0 || b.Stats.Cache.ResultHit != 5 {
		t.Errorf("the summaries by themselves: %+v", b)
	}
	// A changed stage whose answer is the same: what follows is answered by its own key.
	renamed := strings.ReplaceAll(stages("German", `"simulator/sim-1"`), `"translation"`, `"german"`)
	if b := run(renamed); b.Stats.Calls != 0 || b.Stats.Cache.ResultHit != 5 {
		t.Errorf("a stage with another name: %+v", b)
	}
	if again := s.finish(t, accepted(t, s.rerun(t, first.ID, `{}`, "")).ID); again.Stats.Calls != 0 || again.Stats.Cache.ResultHit != 5 {
		t.Errorf("rerun: %+v", again)
	}
	if off := run(stages("German", `"simulator/sim-1"`) + `,"cache":"off"`); off.Stats.Calls != 15 || off.Stats.Cache.Bypass != 5 {
		t.Errorf("cache off: %+v", off)
	}
}

func TestPipelineGoesOnWhereItFailed(t *testing.T) {
	t.Parallel()
	var asked atomic.Int64
	backend := httpServer(t, func(w http.ResponseWriter, _ *http.Request) {
		if asked.Add(1) == 1 {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"model":"m","choices":[{"message":{"role":"assistant","content":"{\"title\":\"t\",\"words\":[]}"},"finish_reason":"stop"}],"usage":{"prompt_tokens":9,"completion_tokens":2}}`)
	})
	for _, cache := range []string{"use", "off"} {
		t.Run(cache, func(t *testing.T) {
			asked.Store(0)
			s := start(t, map[string]string{"OPENAI_COMPATIBLE_BASE_URL": backend + "/v1", "OPENAI_COMPATIBLE_API_KEY": "sk-1"})
			s.saveTemplate(t, translate)
			s.saveTemplate(t, extractor)
			b := s.finish(t, accepted(t, s.post(t, "/v1/batches", stages("German", `"openai-compatible:m"`)+`,"cache":"`+cache+`","jobs":[`+documents(1)+`]}`)).ID)
			if b.Stats.Jobs.Failed != 1 || b.Stats.Calls != 3 {
				t.Fatalf("%+v", b)
			}
			if r := s.results(t, b.ID)[0]; r.Error.Class != "not_found" || !strings.Contains(r.Error.Message, "stage facts: ") {
				t.Errorf("%+v", r.Error)
			}
			if r := s.post(t, "/v1/batches/"+b.ID+"/retry", `{}`); r.status != http.StatusOK {
				t.Fatalf("retry: %d %s", r.status, r.body)
			}
			if b = s.finish(t, b.ID); b.Stats.Jobs.Succeeded != 1 || b.Stats.Calls != 4 {
				t.Errorf("after the retry: %+v, want one call more", b)
			}
		})
	}
}

func TestPipelineIsAsGoodAsItsWeakestStage(t *testing.T) {
	t.Parallel()
	backend := httpServer(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotFound) })
	s := start(t, map[string]string{"OPENAI_COMPATIBLE_BASE_URL": backend + "/v1"})
	s.saveTemplate(t, translate)
	s.saveTemplate(t, extractor)
	run := func(accept string) batch {
		t.Helper()
		route := `{"accept":"` + accept + `","steps":[{"provider":"openai-compatible","model":"big"},{"provider":"simulator","model":"sim-1"}]}`
		return s.finish(t, accepted(t, s.post(t, "/v1/batches", stages("German", route)+`,"jobs":[`+documents(1)+`]}`)).ID)
	}
	if b := run("any"); b.Stats.Jobs.Succeeded != 1 || b.Stats.Calls != 4 {
		t.Errorf("first run: %+v", b)
	}
	if b := run("any"); b.Stats.Calls != 0 || b.Stats.Cache.ResultHit != 1 {
		t.Errorf("a fallback's answer counts: %+v", b)
	}
	for range 2 {
		if b := run("primary"); b.Stats.Calls != 2 || b.Stats.Cache.ResultHit != 0 {
			t.Errorf("a fallback's answer doesn't count: %+v, want both steps of the last stage asked", b)
		}
	}
}

func TestPipelinePassesValuesOn(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	s.saveTemplate(t, extractor)
	s.saveTemplate(t, `{"name":"join","spec":{"user":"{{.title}}|{{join \",\" .words}}|{{.tag}}","variables":{"title":{"type":"string"},"words":{"type":"array"},"tag":{"type":"string","default":"none"}},"sampling":{"max_tokens":200}}}`)
	params := `{"stages":[{"name":"facts","kind":"generate","template":"extract"},
		{"name":"line","kind":"generate","template":"join","variables":{"title":{"stage":"facts","pointer":"/title"},"words":{"stage":"facts","pointer":"/words"},"tag":{"input":"text"}}}]}`
	b := s.finish(t, accepted(t, s.post(t, "/v1/batches", `{"kind":"pipeline","route":"simulator/sim-1","params":`+params+`,"jobs":[{"variables":{"text":"a"}},{"variables":{"text":"b","tags":[1]}}]}`)).ID)
	if b.Stats.Jobs.Succeeded != 2 || b.Stats.Calls != 4 {
		t.Fatalf("%+v %+v", b, s.results(t, b.ID))
	}
	missing := strings.Replace(params, "/words", "/words/900", 1)
	b = s.finish(t, accepted(t, s.post(t, "/v1/batches", `{"kind":"pipeline","route":"simulator/sim-1","params":`+missing+`,"jobs":[{"variables":{"text":"a"}}]}`)).ID)
	if r := s.results(t, b.ID)[0]; r.Error.Class != "invalid_output" || !strings.Contains(r.Error.Message, "words") || b.Stats.Calls != 0 {
		t.Errorf("a pointer to nothing: %+v %+v", b, r.Error)
	}
}

func TestPipelineRefusesWhatCannotRun(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	s.saveTemplate(t, translate)
	good := stages("German", `"simulator/sim-1"`)
	s.saveTemplate(t, extractor)
	for _, c := range []struct{ old, new, pointer string }{
		{`"stage":"summary"`, `"stage":"facts"`, "/params/stages/1/variables/text"},
		{`"stage":"summary"`, `"stage":"summary","pointer":"x"`, "/params/stages/1/variables/text"},
		{`"stage":"summary"`, `"stage":"summary","value":1`, "/params/stages/1/variables/text"},
		{`"stage":"summary"`, `"input":"text"`, "/params/stages/1/variables/text"},
		{`"text":{"stage":"summary"},`, ``, "/params/stages/1/variables"},
		{`"value":"German"`, `"value":"de"`, "/params/stages/1/variables"},
		{`"text":{"stage":"translation"}`, `"text":{"stage":"translation"},"tags":{"stage":"summary"}`, "/params/stages/2/variables"},
		{`"text":{"stage":"translation"}`, `"text":{"stage":"translation"},"nothing":{"stage":"summary"}`, "/params/stages/2/variables"},
		{`"template":"translate"`, `"template":"absent"`, "/params/stages/1/template"},
		{`"name":"facts","kind":"generate"`, `"name":"facts","kind":"summarize"`, "/params/stages/2/kind"},
		{`"name":"facts"`, `"name":"summary"`, "/params/stages/2/name"},
		{`"name":"facts"`, `"name":"A b"`, "/params/stages/2/name"},
		{`"length":"short"`, `"length":"tiny"`, "/params/stages/0/params/length"},
		{`"simulator/sim-1","variables":{"text":{"stage":"summary"}`, `"nowhere:x","variables":{"text":{"stage":"summary"}`, "/params/stages/1/route/steps/0/provider"},
		{`"params":{"stages"`, `"params":{"steps"`, "/params"},
	} {
		bad := strings.Replace(good, c.old, c.new, 1)
		if bad == good {
			t.Fatalf("%s isn't there", c.old)
		}
		r := s.post(t, "/v1/batches", bad+`,"jobs":[`+documents(1)+`]}`)
		if r.status != http.StatusBadRequest || !strings.Contains(string(r.body), `"field":"`+c.pointer+`"`) {
			t.Errorf("%s for %s: %d %s, want %s", c.new, c.old, r.status, r.body, c.pointer)
		}
	}
}
