package gateway

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"
)

// summary is extract without its errors.
func summary(t testing.TB, doc string, size int) (string, bool) {
	t.Helper()
	s, whole, err := extract(context.Background(), doc, size)
	if err != nil {
		t.Fatal(err)
	}
	return s, whole
}

// TestExtractiveInManyLanguages shows the summaries; a person reads the golden files.
func TestExtractiveInManyLanguages(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/extractive/*.[tm][xd]*")
	if err != nil || len(files) < 8 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		doc, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		got, whole := summary(t, string(doc), 420)
		if !whole || len(got) > 420 || got == "" {
			t.Errorf("%s: %q, whole %v", file, got, whole)
		}
		golden(t, strings.TrimSuffix(file, filepath.Ext(file))+".golden", got+"\n")
	}
}

// bare drops what joining lines may change.
func bare(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsSpace(r) || r == '>' {
			return -1
		}
		return r
	}, s)
}

// holds checks the promises of the summarizer on any document.
func holds(t *testing.T, doc string, size int) {
	t.Helper()
	got, whole := summary(t, doc, size)
	again, _ := summary(t, doc, size)
	if got != again {
		t.Fatalf("two summaries of one document:\n%q\n%q", got, again)
	}
	if _, first := utf8.DecodeRuneInString(got); len(got) > size && (whole || len(got) > first) {
		t.Fatalf("%d bytes, want at most %d: %q", len(got), size, got)
	}
	if utf8.ValidString(doc) && !utf8.ValidString(got) {
		t.Fatalf("invalid summary %q", got)
	}
	all := bare(doc)
	for _, s := range sentencesIn(doc) {
		if strings.TrimSpace(s.text) != s.text || s.text == "" || !strings.Contains(all, bare(s.text)) {
			t.Fatalf("sentence %q is not of the document", s.text)
		}
	}
	picked, best, err := pickIn(t.Context(), doc, size)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.IsSortedFunc(picked, func(a, b *sentence) int { return a.index - b.index }) {
		t.Fatalf("%q is not in order", got)
	}
	if len(picked) > 0 && got != joined(picked) || len(picked) == 0 && best != nil && !strings.HasPrefix(best.text, got) {
		t.Fatalf("%q is not made of sentences", got)
	}
}

func TestExtractiveHoldsOnAnything(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 2))
	parts := []string{"The harbour", " grain", " ship", ". ", "! ", "? ", "\n", "\n\n", "- ", "## ", "> ", "```\n", "|a|\n", "港口", "。", "ท่าเรือ", " ",
		"Dr. ", "e.g. ", "1. ", "x", "É", "😀", "\r\n", "===\n", "---\n", "\t", "3.5", ", ", "; ", "a\u0301", "\u200b", "\u2028"}
	for range 400 {
		var b strings.Builder
		for range r.IntN(120) {
			b.WriteString(parts[r.IntN(len(parts))])
		}
		holds(t, b.String(), 1+r.IntN(300))
	}
}

func FuzzExtract(f *testing.F) {
	f.Add("One sentence. Another one, longer.", 20)
	f.Add("# Head\n\n- a b c\n- d e f\n\n> q\n> r", 8)
	f.Add("港口。粮食，\n码头。", 3)
	f.Add("\xff\xfe. \x00", 1)
	f.Fuzz(func(t *testing.T, doc string, size int) {
		if size < 1 || size > 1<<20 || len(doc) > 20_000 || !utf8.ValidString(doc) {
			return
		}
		holds(t, doc, size)
	})
}

// words makes sentences out of a small vocabulary.
func babble(r *rand.Rand, vocabulary []string, n int) string {
	ws := make([]string, n)
	for i := range ws {
		ws[i] = vocabulary[r.IntN(len(vocabulary))]
	}
	return "The " + strings.Join(ws, " ") + "."
}

func TestExtractiveReadsTheWholeOfAHugeDocument(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(3, 4))
	var vocabulary []string
	for i := range 20_000 {
		vocabulary = append(vocabulary, fmt.Sprintf("w%d", i))
	}
	var b strings.Builder
	const n = 5_000
	for i := range n {
		if i > n*3/4 && i%4 == 0 { // the one theme of the document stands late
			fmt.Fprintf(&b, "The council debates flood barrier funding %s. ", babble(r, vocabulary, 3))
			continue
		}
		b.WriteString(babble(r, vocabulary, 8) + " ")
	}
	got, whole := summary(t, b.String(), 600)
	if !whole || strings.Count(got, "flood barrier") < 5 {
		t.Errorf("the theme is missed: %q", got)
	}
}

func TestExtractiveGivesUpWithItsCaller(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancelCause(context.Background())
	why := errors.New("enough")
	cancel(why)
	if _, _, err := extract(ctx, "One sentence. Two sentences.", 100); err != why {
		t.Errorf("err %v", err)
	}
}

func TestExtractiveEdges(t *testing.T) {
	t.Parallel()
	long := "This sentence has rather many words, and no room for them at all."
	tests := []struct {
		name, doc string
		size      int
		want      string
		whole     bool
	}{
		{"nothing", "", 100, "", true},
		{"no words", "... --- !!!", 100, "", true},
		{"one sentence is its own summary", "The harbour grew.", 100, "The harbour grew.", true},
		{"a sentence over the limit is cut at a word", long, 30, "This sentence has rather many", false},
		{"a word over the limit is cut at a letter", "ééééé", 3, "é", false},
		{"not even a letter", "é", 1, "é", false},
		{"only a heading", "# Annual report", 100, "Annual report", true},
		{"repeated sentences count once", strings.Repeat("The harbour handles much grain. ", 9), 100, "The harbour handles much grain.", true},
		{"marks are stripped", "1. [x] The harbour handles much grain.\n", 100, "The harbour handles much grain.", true},
		{"windows lines", "The harbour\r\nhandles much grain.\r\n", 100, "The harbour handles much grain.", true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if got, whole := summary(t, tt.doc, tt.size); got != tt.want || whole != tt.whole {
				t.Errorf("%q, %v; want %q, %v", got, whole, tt.want, tt.whole)
			}
		})
	}
}

func TestDocumentOf(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"plain":                     "plain",
		"Summarise <document> this": "Summarise <document> this",
		"Summarise.\n<document>\nA\nB\n</document>\nThanks.": "A\nB\n",
		"<document>\nA\n</document>\nand\n <document> \r\nB": "A\n\n\nB",
	} {
		if got := strings.TrimRight(documentOf(in), "\n"); got != strings.TrimRight(want, "\n") {
			t.Errorf("documentOf(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestSplitSentences(t *testing.T) {
	t.Parallel()
	for in, want := range map[string][]string{
		"Dr. Smith met J. R. Jones. They spoke.": {"Dr. Smith met J. R. Jones.", "They spoke."},
		"It costs 3.5 euros. Really?! Yes.":      {"It costs 3.5 euros.", "Really?!", "Yes."},
		"See Fig. 3 (cf. Table 2). Done.":        {"See Fig. 3 (cf. Table 2).", "Done."},
		"他来了。她走了！好吗？":                            {"他来了。", "她走了！", "好吗？"},
		"":                                       nil,
	} {
		if got := split(in); !slices.Equal(got, want) {
			t.Errorf("split(%q) = %q, want %q", in, got, want)
		}
	}
	parts := split(strings.Repeat("word ", 400))
	if len(parts) < 3 || slices.ContainsFunc(parts, func(p string) bool { return len(p) > longSentence }) {
		t.Errorf("%d parts", len(parts))
	}
}

func TestLocalRefuses(t *testing.T) {
	t.Parallel()
	for body, want := range map[string]string{
		`{`: "invalid_json", `{"model":"gpt","messages":[]}`: "model_not_found",
		`{"model":"extractive","messages":[]}`: "no_document",
		`{"model":"extractive","messages":[{"role":"user","content":"x"}],"response_format":{"type":"json_object"}}`: "unsupported_parameter",
	} {
		a, err := local{}.serve(t.Context(), []byte(body), time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		_, derr := local{}.Decode(a.status, a.header, a.body)
		if e, ok := derr.(*Error); !ok || e.Code != want {
			t.Errorf("%s: %v", body, derr)
		}
	}
}
