package jobs

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"unicode/utf8"

	"pgregory.net/rapid"

	"batchwright/internal/document"
	"batchwright/internal/gateway"
	"batchwright/internal/prompt"
)

func TestSummarizeParams(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		``:                        `{"length":"medium","max_tokens":400}`,
		`{"strategy":"auto"}`:     `{"length":"medium","max_tokens":400}`,
		`{"strategy":"tree"}`:     `params.strategy`,
		`{"length":"tiny"}`:       `params.length`,
		`{"chunk_tokens":100}`:    `params.chunk_tokens`,
		`{"chunk_min_tokens":-1}`: `params`,
		`{"audience":"` + strings.Repeat("x", 201) + `"}`:  `params`,
		`{"chunk_tokens":400,"chunk_min_tokens":201}`:      `params.chunk_min_tokens`,
		`{"chunk_tokens":400,"chunk_target_tokens":401}`:   `params.chunk_target_tokens`,
		`{"chunk_target_tokens":50,"chunk_min_tokens":51}`: `params.chunk_min_tokens`,
		`{"outline":true,"bullets":true,"audience":"engineers","length":"short","strategy":"refine","chunk_tokens":400,"chunk_target_tokens":300,"chunk_min_tokens":50}`: `{"length":"short","bullets":true,"audience":"engineers","strategy":"refine","outline":true,"max_tokens":160,"chunk_tokens":400,"chunk_target_tokens":300,"chunk_min_tokens":50}`,
	} {
		got, err := summarize{}.params(json.RawMessage(in))
		switch {
		case err != nil && err.Field != want:
			t.Errorf("%s: %v of %s", in, err, err.Field)
		case err == nil && string(got) != want:
			t.Errorf("%s: %s", in, got)
		}
	}
}

func TestStyleIsInThePrompt(t *testing.T) {
	t.Parallel()
	s := &summary{o: summarizeOptions{Length: "short", Bullets: true, Audience: "new engineers", Language: "German", Focus: "what broke", MaxTokens: 160}, title: "Plan"}
	system := s.request(passage{text: "Text."}).Messages[0].Content
	for _, want := range []string{"2 to 3 bullet points", "in German", "new engineers", "what broke"} {
		if !strings.Contains(system, want) {
			t.Errorf("%q is not in %q", want, system)
		}
	}
	if user := s.request(passage{form: aPart, text: "Text. \n"}).Messages[1].Content; strings.Contains(user, "Plan") || !strings.HasSuffix(user, "<document>\nText.\n</document>") {
		t.Errorf("a part is told of more than its text: %q", user)
	}
}

func TestSingleCallOrAnError(t *testing.T) {
	t.Parallel()
	a := newReader(t)
	o := brief
	o.Strategy = bySingleCall
	text := proseOf(rand.New(rand.NewPCG(1, 1)), 8000)
	out := a.summarise(t, o, 4000, text)
	if c := out.Coverage; c.Strategy != bySingleCall || c.Chunks != 1 || c.Depth != 0 || c.Calls != 1 || c.TokensCovered != quarters(text) {
		t.Errorf("%+v", c)
	}
	_, err := (&summary{o: o, text: text, limit: 1000, count: quarters, ask: a.ask}).build(t.Context())
	if f, ok := errors.AsType[*failure](err); !ok || f.class != gateway.InvalidRequest || !strings.Contains(f.message, "strategy single") {
		t.Errorf("%v", err)
	}
}

func TestRefinePaysForAllBehindAnEdit(t *testing.T) {
	t.Parallel()
	a := newReader(t)
	a.answer = func(r *prompt.Request) string {
		return fmt.Sprintf("What was read so far comes to %x.", r.Keys([]string{"x"})[0])
	}
	o := brief
	o.Strategy = byRefining
	text := proseOf(rand.New(rand.NewPCG(2, 1)), 40_000)
	first := a.summarise(t, o, 1000, text)
	n := first.Coverage.Chunks
	if c := first.Coverage; c.Strategy != byRefining || c.Calls != n || c.Depth != n-1 || c.TokensDropped != 0 || n < 10 {
		t.Errorf("%+v", c)
	}
	a.keep()
	if again := a.summarise(t, o, 1000, text); again.Coverage.CallsMade != 0 || again.output != first.output {
		t.Errorf("%+v", again.Coverage)
	}
	middle := strings.Index(text[len(text)/2:], "The ") + len(text)/2
	edited := a.summarise(t, o, 1000, text[:middle]+"Here stands another sentence of its own. "+text[middle:])
	if made := edited.Coverage.CallsMade; made < n/4 || made > n*3/4 {
		t.Errorf("of %d calls, %d were made again after an edit in the middle", n, made)
	}
}

// What doesn't get shorter would be asked for ever.
func TestReducesShrinkOrEnd(t *testing.T) {
	t.Parallel()
	a := newReader(t)
	a.answer = func(r *prompt.Request) string { // more words than there were
		text := r.Messages[1].Content
		return text[strings.Index(text, "<document>")+len("<document>"):strings.LastIndex(text, "</document>")] + " and so on"
	}
	_, err := (&summary{o: brief, text: proseOf(rand.New(rand.NewPCG(4, 1)), 40_000), limit: 600, count: quarters, ask: a.ask}).build(t.Context())
	if f, ok := errors.AsType[*failure](err); !ok || f.class != gateway.InvalidOutput || !strings.Contains(f.message, "lower max_tokens") {
		t.Errorf("%v", err)
	}
}

// A summary that comes out as it was ends the ripple.
func TestAnUnchangedSummaryEndsTheRipple(t *testing.T) {
	t.Parallel()
	a := newReader(t)
	a.answer = func(r *prompt.Request) string { // the first word of each sentence: the end of one changes nothing
		var b strings.Builder
		for line := range strings.SplitSeq(r.Messages[1].Content, ". ") {
			if len(line) > 8 && b.Len() < 300 {
				b.WriteString(line[:8])
			}
		}
		return b.String()
	}
	text := proseOf(rand.New(rand.NewPCG(5, 1)), 60_000)
	a.summarise(t, brief, 800, text)
	a.keep()
	at := strings.Index(text[30_000:], ". ") + 30_000
	if edited := a.summarise(t, brief, 800, text[:at]+" or later"+text[at:]); edited.Coverage.CallsMade != 1 {
		t.Errorf("%d calls for a chunk whose summary stays as it was", edited.Coverage.CallsMade)
	}
}

func TestOutlineJoinsToTheText(t *testing.T) {
	t.Parallel()
	pieces := rapid.SampledFrom([]string{"# A\n\n", "## Über B\n\n", "### 中文\n\n", "Some words stand here. ", "中文句子。", strings.Repeat("Many more words. ", 30), "\n\n", "é👩‍👩‍👧 "})
	a := newReader(t)
	a.answer = func(*prompt.Request) string { return "A summary of it. And more." }
	rapid.Check(t, func(t *rapid.T) {
		text := "Begin. " + strings.Join(rapid.SliceOfN(pieces, 0, 80).Draw(t, "pieces"), "")
		o := brief
		o.Outline, o.Strategy = true, rapid.SampledFrom([]string{"", byTree, byRefining}).Draw(t, "strategy")
		s := &summary{o: o, text: text, limit: 400, count: quarters, ask: a.ask}
		out, err := s.build(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		characters, at, sections := []rune(text), 0, document.Sections(text)
		for _, l := range out.Outline {
			if l.Start != at || l.End <= l.Start || l.End > len(characters) {
				t.Fatalf("%+v after %d of %d", l, at, len(characters))
			}
			if l.Part == 0 {
				if l.Heading != sections[0].Heading || l.Level != sections[0].Level || !strings.HasPrefix(text[sections[0].Start:], string(characters[l.Start:l.End])) {
					t.Fatalf("%+v is of section %+v", l, sections[0])
				}
				sections = sections[1:]
			}
			at = l.End
		}
		if at != len(characters) || len(sections) > 0 {
			t.Fatalf("the outline ends at %d of %d, %d sections have no line", at, len(characters), len(sections))
		}
		if out.output != "A summary of it. And more." || out.Coverage.TokensDropped != 0 || out.Coverage.TokensCovered < quarters(text) {
			t.Fatalf("%q, %+v", out.output, out.Coverage)
		}
	})
	if utf8.RuneCountInString("é") != 1 {
		t.Fatal("the text above is not in normal form C")
	}
}

func TestOutlineLinesComeWithTheSummary(t *testing.T) {
	t.Parallel()
	text := "# One\n\nFirst of one. Second of one.\n\n# Two\n\nFirst of two. Second.\n"
	for _, c := range []struct{ name, answer, output, one, two string }{
		{"as asked", "[1] It is about one.\n[2] It is about two.\n\nThe summary.", "The summary.", "It is about one.", "It is about two."},
		{"one is missing", "[2] It is about two.\nThe summary.", "The summary.", "First of one.", "It is about two."},
		{"none", "The summary. [1] is quoted.", "The summary. [1] is quoted.", "First of one.", "First of two."},
		{"of another section", "[1] A.\n[7] B.\nThe summary.", "The summary.", "A.", "First of two."},
		{"lines only", "[1] A.\n[2] B.\n", "[1] A.\n[2] B.\n", "A.", "B."},
	} {
		a := newReader(t)
		var asked string
		a.answer = func(r *prompt.Request) string { asked = r.Messages[1].Content; return c.answer }
		o := brief
		o.Outline = true
		out := a.summarise(t, o, 4000, text)
		if out.output != c.output || len(out.Outline) != 2 || out.Outline[0].Line != c.one || out.Outline[1].Line != c.two {
			t.Errorf("%s: %q, %+v", c.name, out.output, out.Outline)
		}
		if !strings.Contains(asked, "[1] One\n[2] Two\n") || out.Coverage.Calls != 1 {
			t.Errorf("%s: %d calls; asked %q", c.name, out.Coverage.Calls, asked)
		}
	}
	a := newReader(t)
	o := brief
	o.Outline = true
	var asked *prompt.Request
	a.answer = func(r *prompt.Request) string { asked = r; return "The summary." }
	s := &summary{o: o, text: text, limit: 4000, count: quarters, ask: a.ask, mute: true}
	if out, err := s.build(t.Context()); err != nil || out.Outline[1].Line != "First of two." || strings.Contains(asked.Messages[0].Content+asked.Messages[1].Content, "sections") || asked.MaxTokens != brief.MaxTokens {
		t.Errorf("of a model that can't be asked: %+v, %v; asked %+v", out.Outline, err, asked)
	}
	details, err := json.Marshal(summaryDetails{Outline: []OutlineLine{{End: 3, Level: 1, Heading: "H", Line: "L", text: "secret"}}})
	if want := `"outline":[{"start":0,"end":3,"level":1,"heading":"H","line":"L"}]`; err != nil || !strings.Contains(string(details), want) {
		t.Errorf("%s", details)
	}
}

// The tree follows the headings: where a chapter fits a group, no group has parts of two.
func TestGroupsFollowHeadings(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	r := rand.New(rand.NewPCG(6, 1))
	for i := range 12 {
		fmt.Fprintf(&b, "# Chapter %d\n\n%s", i, proseOf(r, 8000))
	}
	a := newReader(t)
	var groups []string
	a.answer = func(req *prompt.Request) string {
		text := req.Messages[1].Content
		if strings.Contains(text, "consecutive parts of a longer document") {
			groups = append(groups, text)
		}
		return fmt.Sprintf("%x. %s", req.Keys([]string{"x"})[0][:4], strings.Repeat("A few words about it. ", 10))
	}
	a.summarise(t, brief, 1500, b.String())
	if len(groups) < 6 {
		t.Fatalf("%d groups", len(groups))
	}
	for _, g := range groups {
		first := g[strings.Index(g, "<document>\n")+len("<document>\n"):]
		if strings.Contains(g, "## Chapter") && !strings.HasPrefix(first, "## Chapter") {
			t.Errorf("a group has a chapter's end and another's beginning: %.300q", first)
		}
	}
}
