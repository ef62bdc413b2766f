package process_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
)

type summaryResult struct {
	resultLine
	Coverage *struct {
		Strategy      string
		Chunks        int
		Depth         int
		TokensCovered int `json:"tokens_covered"`
		TokensDropped int `json:"tokens_dropped"`
		Calls         int
		CallsMade     int `json:"calls_made"`
		CallsReused   int `json:"calls_reused"`
	}
	Outline []struct {
		Start, End, Level, Part int
		Heading, Line           string
	}
}

// summarise runs one document through the system and returns its result, which must have succeeded.
func (s *system) summarise(t *testing.T, params, text string) (out summaryResult) {
	t.Helper()
	doc, err := json.Marshal(text)
	if err != nil {
		t.Fatal(err)
	}
	b := s.finish(t, accepted(t, s.post(t, "/v1/batches", `{"kind":"summarize","route":"local/extractive","params":`+params+`,"jobs":[{"custom_id":"d","document":{"name":"d.md","text":`+string(doc)+`}}]}`)).ID)
	s.do(t, http.MethodGet, "/v1/batches/"+b.ID+"/results", "", nil).json(t, &out)
	if out.Status != "succeeded" {
		t.Fatalf("%+v", out)
	}
	return out
}

// report is a document of so many sections, some of them longer than others.
func reportOf(sections int) string {
	var b strings.Builder
	b.WriteString("# Jahresbericht – Übersicht\n\nThis report covers the year.\n\n")
	for i := range sections {
		fmt.Fprintf(&b, "## Section %d\n\n", i)
		for j := range 6 + i%5*3 {
			fmt.Fprintf(&b, "In week %d of region %d the depot shipped %d crates of café supplies, %d more than planned. ", j, i, 100*i+j*7, i*j)
		}
		b.WriteString("\n\n")
	}
	return b.String()
}

func TestSummariesSayWhatTheyCover(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	text := reportOf(30)
	const params = `{"length":"short","chunk_tokens":1000,"outline":true}`
	first := s.summarise(t, params, text)
	c := first.Coverage
	if c == nil || c.Strategy != "map_reduce" || c.Chunks < 8 || c.Depth < 1 || c.TokensDropped != 0 || c.TokensCovered < len(text)/8 || c.Calls <= c.Chunks ||
		c.CallsMade != c.Calls || c.CallsReused != 0 {
		t.Fatalf("%+v", c)
	}
	if len(first.Outline) < 31 {
		t.Errorf("%d lines of 31 sections", len(first.Outline))
	}
	characters, at := []rune(strings.TrimSpace(text)), 0
	for _, l := range first.Outline {
		if l.Start != at || l.End <= l.Start || l.Line == "" || l.Level > 0 && l.Part == 0 && !strings.HasPrefix(string(characters[l.Start:]), strings.Repeat("#", l.Level)+" "+l.Heading) {
			t.Fatalf("%+v after %d", l, at)
		}
		at = l.End
	}
	if at != len(characters) {
		t.Errorf("the outline ends at %d of %d", at, len(characters))
	}
	l := first.Outline[3]
	for query, want := range map[string]string{
		"": string(characters),
		fmt.Sprintf("?start=%d&end=%d", l.Start, l.End): string(characters[l.Start:l.End]),
		"?start=1000000": "",
		"?start=9&end=3": "",
	} {
		if got := s.do(t, http.MethodGet, "/v1/jobs/"+first.JobID+"/text"+query, "", nil); got.status != http.StatusOK || string(got.body) != want ||
			!strings.HasPrefix(got.header.Get("Content-Type"), "text/plain") {
			t.Errorf("text%s: %d, %d bytes of %q", query, got.status, len(got.body), got.header.Get("Content-Type"))
		}
	}
	var detail summaryResult
	s.do(t, http.MethodGet, "/v1/jobs/"+first.JobID, "", nil).json(t, &detail)
	if *detail.Coverage != *c || len(detail.Outline) != len(first.Outline) {
		t.Errorf("the job says %+v", detail.Coverage)
	}

	again := s.summarise(t, params, text)
	want := *c
	want.CallsMade, want.CallsReused = 0, c.Calls
	if again.CacheStatus != "result_hit" || *again.Coverage != want || len(again.Outline) != len(first.Outline) {
		t.Errorf("from the cache: %s, %+v", again.CacheStatus, again.Coverage)
	}

	edited := s.summarise(t, params, strings.Replace(text, "region 17 the depot shipped", "region 17 nobody but the new depot shipped", 1))
	if e := edited.Coverage; e.CallsMade > 2+2*c.Depth || e.CallsMade+e.CallsReused != e.Calls || e.TokensDropped != 0 || edited.CacheStatus != "miss" {
		t.Errorf("edited: %+v", e)
	}

	export := s.do(t, http.MethodGet, "/v1/batches/"+again.JobID[:strings.LastIndexByte(again.JobID, '-')]+"/export", "", nil)
	var row struct{ Coverage, Outline string }
	export.json(t, &row)
	if !strings.Contains(strings.ReplaceAll(row.Coverage, " ", ""), `"calls_made":0`) || !strings.HasPrefix(row.Outline, "[") {
		t.Errorf("exported: %.200s", export.body)
	}
}

// Every call's answer is there, but not the summary's: other params make it another one.
func TestSummaryOfKnownPartsIsAHit(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	text := reportOf(12)
	first := s.summarise(t, `{"length":"short","chunk_tokens":800}`, text)
	other := s.summarise(t, `{"length":"short","chunk_tokens":800,"strategy":"map_reduce"}`, text)
	if c := other.Coverage; other.CacheStatus != "result_hit" || c.CallsMade != 0 || c.CallsReused != first.Coverage.Calls || string(other.Output) != string(first.Output) {
		t.Errorf("%s, %+v", other.CacheStatus, c)
	}
}

// The extractive summarizer isn't asked for lines, so an outline of what it has summarised costs no call.
func TestOutlineOfTheExtractiveSummarizerIsFree(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	text := reportOf(12)
	first := s.summarise(t, `{"length":"short","chunk_tokens":800}`, text)
	outlined := s.summarise(t, `{"length":"short","chunk_tokens":800,"outline":true}`, text)
	if c := outlined.Coverage; c.CallsMade != 0 || len(outlined.Outline) < 13 || string(outlined.Output) != string(first.Output) {
		t.Errorf("%+v, %d lines", c, len(outlined.Outline))
	}
}

func TestStrategiesOfSummaries(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	text := reportOf(12)
	refined := s.summarise(t, `{"length":"short","chunk_tokens":800,"strategy":"refine"}`, text)
	if c := refined.Coverage; c.Strategy != "refine" || c.Calls != c.Chunks || c.Depth != c.Chunks-1 || c.TokensDropped != 0 {
		t.Errorf("%+v", c)
	}
	whole := s.summarise(t, `{"length":"short"}`, text)
	if c := whole.Coverage; c.Strategy != "single" || c.Calls != 1 || c.CallsMade != 1 || c.Depth != 0 || len(whole.Outline) != 0 {
		t.Errorf("%+v", c)
	}
	doc, _ := json.Marshal(text)
	b := s.finish(t, accepted(t, s.post(t, "/v1/batches", `{"kind":"summarize","route":"local/extractive","params":{"chunk_tokens":400,"strategy":"single"},"jobs":[{"document":{"text":`+string(doc)+`}}]}`)).ID)
	if r := s.results(t, b.ID)[0]; r.Status != "failed" || r.Error.Class != "invalid_request" || !strings.Contains(r.Error.Message, "strategy single") {
		t.Errorf("%+v", r)
	}
	if r := s.do(t, http.MethodGet, "/v1/jobs/"+b.ID+"-7/text", "", nil); r.status != http.StatusNotFound {
		t.Errorf("the text of no job: %d", r.status)
	}
	if r := s.post(t, "/v1/batches", `{"kind":"summarize","route":"local/extractive","params":{"strategy":"tree"},"jobs":[{"document":{"text":"A text of a few words, long enough."}}]}`); r.status != http.StatusBadRequest ||
		!strings.Contains(string(r.body), "/params/strategy") {
		t.Errorf("%d %s", r.status, r.body)
	}
}
