package prompt

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Counts as in TestEstimateLeansHigh, from OpenAI's own tiktoken.
func TestTokenizerCountsAsTheModelDoes(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		text          string
		o200k, cl100k int
	}{
		{"", 0, 0},
		{"tiktoken is great!", 6, 6},
		{"Die Geschwindigkeitsbegrenzung auf der Autobahn wurde gestern vom Verkehrsministerium aufgehoben.", 19, 29},
		{"お誕生日おめでとう", 8, 9},
		{"👩‍👩‍👧‍👦🎉😀", 14, 23},
	} {
		if got := TokenizerOf("gpt-4o-mini").Count(c.text); got != c.o200k {
			t.Errorf("%q: got %d, want %d by o200k", c.text, got, c.o200k)
		}
		if got := TokenizerOf("gpt-3.5-turbo").Count(c.text); got != c.cl100k {
			t.Errorf("%q: got %d, want %d by cl100k", c.text, got, c.cl100k)
		}
	}
}

func TestTokenizerOfNames(t *testing.T) {
	t.Parallel()
	text := strings.Repeat("Die Geschwindigkeitsbegrenzung ", 100)
	o200k, cl100k := TokenizerOf("gpt-4o").Count(text), TokenizerOf("gpt-4").Count(text)
	if o200k >= cl100k {
		t.Fatalf("the text doesn't tell the vocabularies apart: %d and %d", o200k, cl100k)
	}
	for name, want := range map[string]struct {
		tokens int
		exact  bool
	}{
		"GPT-4o-mini":                      {o200k, true},
		"gpt-4.1-nano":                     {o200k, true},
		"gpt-4-0613":                       {cl100k, true},
		"gpt-4-turbo":                      {cl100k, true},
		"ft:gpt-4o-mini:org::id":           {o200k, true},
		"@cf/openai/gpt-oss-120b":          {o200k, true},
		"openai/gpt-oss-20b":               {o200k, true},
		"o3-mini":                          {o200k, true},
		"claude-haiku-5-5":                 {(o200k*120 + 99) / 100, false},
		"meta-llama/Llama-3.3-70B-I:groq":  {(o200k*105 + 99) / 100, false},
		"nobody-knows":                     {(o200k*110 + 99) / 100, false},
		"":                                 {(o200k*110 + 99) / 100, false},
		"workers-ai/@cf/google/gemma-4-26": {(o200k*105 + 99) / 100, false},
	} {
		if c := TokenizerOf(name); c.Count(text) != want.tokens || c.Exact() != want.exact {
			t.Errorf("%q: %d tokens, exact %t; want %d, %t", name, c.Count(text), c.Exact(), want.tokens, want.exact)
		}
	}
}

// The error that the type's comment states, of each example by itself, and of all of them, in six languages, one after the other.
func TestTokenizerSamplesLongTexts(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("../../examples/documents/*")
	if err != nil || len(files) == 0 {
		t.Fatal("no examples", err)
	}
	check := func(name, text string, percent float64) {
		t.Helper()
		text = strings.Repeat(text, mostExact/len(text)+2)
		c := TokenizerOf("gpt-4o")
		got, want := c.Count(text), c.pieces(text)
		if off := 100 * float64(got-want) / float64(want); off < -percent || off > percent {
			t.Errorf("%s: counted %d tokens, %.1f %% from %d", name, got, off, want)
		}
	}
	var all strings.Builder
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		check(filepath.Base(f), string(text), 2)
		all.Write(text)
	}
	check("all", all.String(), 10)
}

func TestTokenizerTakesAnyBytes(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"\xff\xfe\x80", strings.Repeat("\xff", mostExact+1), strings.Repeat("a", 2*mostExact), strings.Repeat(" ", 2*mostExact)} {
		if n := TokenizerOf("gpt-4o").Count(text); n <= 0 || n > 2*len(text) {
			t.Errorf("%.10q, %d bytes: %d tokens", text, len(text), n)
		}
	}
}

func BenchmarkTokenizer(b *testing.B) {
	text, err := os.ReadFile("../../examples/documents/billing-migration-retrospective.txt")
	if err != nil {
		b.Fatal(err)
	}
	long := strings.Repeat(string(text), 20)
	for name, s := range map[string]string{"exact": string(text), "sampled": long} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(s)))
			b.ReportAllocs()
			for b.Loop() {
				TokenizerOf("gpt-4o").Count(s)
			}
		})
	}
}
