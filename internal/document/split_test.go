package document

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"pgregory.net/rapid"
)

// counters are ways to count tokens, the last three none that anybody should use.
var counters = map[string]func(string) int{
	"quarters":      quarters,
	"words":         func(s string) int { return len(strings.Fields(s)) },
	"runes":         utf8.RuneCountInString,
	"bytes":         func(s string) int { return len(s) },
	"nothing":       func(string) int { return 0 },
	"everything":    func(string) int { return 1 << 30 },
	"superadditive": func(s string) int { return len(s) * len(s) / 16 },
}

func quarters(s string) int { return (len(s) + 3) / 4 }

// checkChunks holds chunks to the promises of Split.
func checkChunks(t rapid.TB, text string, maxTokens int, count func(string) int, chunks []Chunk) {
	t.Helper()
	at, valid := 0, utf8.ValidString(text)
	for i, c := range chunks {
		if c.Start != at || c.End <= c.Start || c.Text != text[c.Start:c.End] {
			t.Fatalf("chunk %d is %d to %d after %d: %.50q", i, c.Start, c.End, at, c.Text)
		}
		if count(c.Text) > maxTokens {
			if _, size := utf8.DecodeRuneInString(c.Text); size != len(c.Text) {
				t.Fatalf("chunk %d has %d tokens: %.50q", i, count(c.Text), c.Text)
			}
		}
		if valid && !utf8.ValidString(c.Text) {
			t.Fatalf("chunk %d cuts a character: %.50q", i, c.Text)
		}
		at = c.End
	}
	if at != len(text) {
		t.Fatalf("the chunks end at %d of %d", at, len(text))
	}
}

func TestSplitLosesNothing(t *testing.T) {
	t.Parallel()
	pieces := rapid.SampledFrom([]string{
		"word ", "A sentence. ", "Another one? ", "line\n", "\n\n", "# Heading\n", "Title\n=====\n", "- item\n", "```\n", "中文句子。", "ไทย", "👩‍👩‍👧 ", "é",
		strings.Repeat("x", 40), "\r\n", "\t", "   ", "\x00", "\u2028", "| a | b |\n", "1.5 ", "...", "\xff",
	})
	text := rapid.OneOf(
		rapid.String(),
		rapid.Map(rapid.SliceOfN(pieces, 0, 200), func(p []string) string { return strings.Join(p, "") }))
	for name, count := range counters {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rapid.Check(t, func(t *rapid.T) {
				text, maxTokens := text.Draw(t, "text"), rapid.IntRange(1, 200).Draw(t, "max")
				checkChunks(t, text, maxTokens, count, Split(text, Sizes{Max: maxTokens}, count))
			})
		})
	}
}

func FuzzSplit(f *testing.F) {
	f.Add("# A\n\nText. More text.\n\n## B\n```go\nx := 1\n\ny\n```\n中文。", 5)
	f.Add(strings.Repeat("a", 300)+"\xf0\x9f", 3)
	f.Add("\r\n\r\n \u0301\u200d", 1)
	f.Fuzz(func(t *testing.T, text string, maxTokens int) {
		maxTokens = max(1, maxTokens%1000)
		checkChunks(t, text, maxTokens, quarters, Split(text, Sizes{Max: maxTokens}, quarters))
	})
}

func TestSplitOfLittle(t *testing.T) {
	t.Parallel()
	if got := Split("", Sizes{Max: 10}, quarters); got != nil {
		t.Errorf("%v", got)
	}
	if got := Split("abc", Sizes{Max: 10}, quarters); len(got) != 1 || got[0].Text != "abc" || got[0].Tokens != 1 {
		t.Errorf("%v", got)
	}
	if got := Split("äb", Sizes{Max: 0}, quarters); len(got) != 1 {
		t.Errorf("%v", got)
	}
}

func texts(chunks []Chunk) []string {
	var all []string
	for _, c := range chunks {
		all = append(all, c.Text)
	}
	return all
}

func TestSplitPrefersTheBestBoundary(t *testing.T) {
	t.Parallel()
	words := func(s string) int { return len(strings.Fields(s)) }
	for _, c := range []struct {
		name      string
		text      string
		maxTokens int
		want      []string
	}{
		{
			"headings before paragraphs", "# One\n\nalpha beta.\n\ngamma delta.\n\n# Two\n\nepsilon zeta.\n\neta theta.\n", 9,
			[]string{"# One\n\nalpha beta.\n\ngamma delta.\n\n", "# Two\n\nepsilon zeta.\n\neta theta.\n"},
		},
		{
			"higher headings before lower ones", "# One\n\na b c.\n\n### Low\n\nd e f.\n\n## Mid\n\ng h i.\n\n### Low too\n\nj k l.\n", 14,
			[]string{"# One\n\na b c.\n\n### Low\n\nd e f.\n\n", "## Mid\n\ng h i.\n\n### Low too\n\nj k l.\n"},
		},
		{
			"underlined headings", "One\n===\n\nalpha beta.\n\ngamma delta.\n\nTwo\n===\n\nepsilon zeta.\n\neta theta.\n", 9,
			[]string{"One\n===\n\nalpha beta.\n\ngamma delta.\n\n", "Two\n===\n\nepsilon zeta.\n\neta theta.\n"},
		},
		{
			"not between a heading and its text", "a b c d e f g h.\n\n# Head\n\ni j k l m n.\n", 14,
			[]string{"a b c d e f g h.\n\n", "# Head\n\ni j k l m n.\n"},
		},
		{
			"not inside a code block", "Some words here.\n\n```\na b\n\n# c d\n\ne f\n```\n\nAnd more words here.\n", 13,
			[]string{"Some words here.\n\n", "```\na b\n\n# c d\n\ne f\n```\n\nAnd more words here.\n"},
		},
		{
			"sentences before words", "One two three four. Five six seven eight. Nine ten eleven twelve.", 7,
			[]string{"One two three four. ", "Five six seven eight. ", "Nine ten eleven twelve."},
		},
		{
			"sentences before lines", "One two\nthree four. Five six\nseven eight.", 5,
			[]string{"One two\nthree four. ", "Five six\nseven eight."},
		},
		{
			"lines before words", "a1 a2 a3\nb1 b2 b3\nc1 c2 c3", 4,
			[]string{"a1 a2 a3\n", "b1 b2 b3\n", "c1 c2 c3"},
		},
	} {
		got := texts(Split(c.text, Sizes{Max: c.maxTokens, Target: c.maxTokens, Min: 1}, words))
		if !slices.Equal(got, c.want) {
			t.Errorf("%s:\n got %q\nwant %q", c.name, got, c.want)
		}
	}
}

func TestSplitWithoutSpaces(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"chinese":  strings.Repeat("今天天气很好，我们去公园散步。人工智能正在改变世界吗？是的！", 40),
		"japanese": strings.Repeat("今日は天気がいいので公園へ行きましょう。明日はどうですか？", 40),
		"khmer":    strings.Repeat("នេះជាប្រយោគទីមួយ។ នេះជាប្រយោគទីពីរ។ ", 40),
		"burmese":  strings.Repeat("ဤသည်ပထမစာကြောင်း။ ဤသည်ဒုတိယ။ ", 40),
		"hindi":    strings.Repeat("यह पहला वाक्य है। यह दूसरा है। ", 40),
	} {
		chunks := Split(text, Sizes{Max: 100}, utf8.RuneCountInString)
		checkChunks(t, text, 100, utf8.RuneCountInString, chunks)
		for _, c := range chunks {
			if last, _ := utf8.DecodeLastRuneInString(strings.TrimSpace(c.Text)); !strings.ContainsRune("。？！។။।", last) {
				t.Errorf("%s: a chunk ends with %q", name, last)
			}
		}
	}
	for _, c := range Split(strings.Repeat("วันนี้อากาศดี เราไปเดินเล่นกัน พรุ่งนี้ฝนตก ", 40), Sizes{Max: 100}, utf8.RuneCountInString) {
		if !strings.HasSuffix(c.Text, " ") {
			t.Errorf("a chunk of Thai phrases ends within one: %q", c.Text)
		}
	}
	thai := strings.Repeat("วันนี้อากาศดีมากเราไปเดินเล่นกันเถอะ", 60)
	chunks := Split(thai, Sizes{Max: 100}, utf8.RuneCountInString)
	checkChunks(t, thai, 100, utf8.RuneCountInString, chunks)
	for _, c := range chunks[1:] {
		if first, _ := utf8.DecodeRuneInString(c.Text); first >= 0x0e31 && first != 0x0e32 && first <= 0x0e3a || first >= 0x0e47 && first <= 0x0e4e {
			t.Errorf("a chunk begins with the mark %U", first)
		}
	}
}

func TestSplitKeepsAbbreviationsAndNumbers(t *testing.T) {
	t.Parallel()
	text := ""
	for i := range 60 {
		text += fmt.Sprintf("Dr. Smith paid %d.%d dollars to J. R. Jones, e.g. Monday, cf. No. 7 of Prof. Grün. ", i, i*i)
	}
	for _, c := range Split(text, Sizes{Max: 60}, quarters) {
		if !strings.HasPrefix(c.Text, "Dr. ") || !strings.HasSuffix(c.Text, "Grün. ") {
			t.Errorf("%q", c.Text)
		}
	}
}

// A part with headings that has more than the target is divided at one of them; no part is smaller than the least size for that.
func TestSplitAimsAtTheTarget(t *testing.T) {
	t.Parallel()
	words := func(s string) int { return len(strings.Fields(s)) }
	section := func(name string, n int) string {
		return "## " + name + "\n\n" + strings.Repeat("word ", n-3) + "end.\n\n"
	}
	text := section("A", 40) + section("B", 30) + section("C", 20) + section("D", 5)
	for _, c := range []struct {
		sizes Sizes
		want  int // chunks
	}{
		{Sizes{Max: 100, Target: 100, Min: 1}, 1},
		{Sizes{Max: 100, Target: 75, Min: 10}, 2},
		{Sizes{Max: 100, Target: 50, Min: 10}, 3},
		{Sizes{Max: 100, Target: 1, Min: 1}, 4},
		{Sizes{Max: 100, Target: 1, Min: 10}, 3},
	} {
		var got []int
		for _, chunk := range Split(text, c.sizes, words) {
			got = append(got, strings.Count(chunk.Text, "## "))
		}
		sum := 0
		for _, n := range got {
			sum += n
		}
		if len(got) != c.want || sum != 4 || c.sizes.Min > 5 && slices.Contains(got, 0) {
			t.Errorf("%+v: %v sections in chunks, want %d chunks", c.sizes, got, c.want)
		}
	}
}

func TestSplitChunksAreWellFilled(t *testing.T) {
	t.Parallel()
	text := novel(1, 150_000)
	for _, maxTokens := range []int{100, 1000, 4000} {
		chunks := Split(text, Sizes{Max: maxTokens}, quarters)
		checkChunks(t, text, maxTokens, quarters, chunks)
		for _, c := range chunks[:len(chunks)-1] {
			if quarters(c.Text) < maxTokens*22/100 {
				t.Errorf("max %d: a chunk has %d tokens", maxTokens, quarters(c.Text))
			}
		}
		if mean := len(text) / 4 / len(chunks); mean < maxTokens*50/100 {
			t.Errorf("max %d: chunks have %d tokens on average", maxTokens, mean)
		}
	}
}

// An edit must leave nearly all chunks as they are, whatever it changes and wherever.
func TestEditsMoveFewChunks(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"novel":         novel(2, 120_000),
		"lines":         strings.ReplaceAll(novel(3, 120_000), "\n\n", "\n"),
		"one paragraph": strings.Join(strings.Fields(novel(4, 120_000)), " "),
		"only words":    strings.Join(strings.FieldsFunc(novel(5, 120_000), func(r rune) bool { return r < 'A' }), " "),
		"no spaces":     strings.Join(strings.FieldsFunc(novel(6, 120_000), func(r rune) bool { return r < 'A' }), ""),
		"table":         rows(7, 120_000),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const maxTokens, edits = 1000, 36
			before := map[string]bool{}
			for _, c := range Split(text, Sizes{Max: maxTokens}, quarters) {
				before[c.Text] = true
			}
			r := rand.New(rand.NewPCG(1, 1))
			total, worst := 0, 0
			for i := range edits {
				from := r.IntN(len(text))
				to, insert := from, "Something new stands here. "
				switch i % 3 {
				case 1:
					to, insert = min(len(text), from+r.IntN(60)), ""
				case 2:
					insert = strings.Repeat("A whole new paragraph, with a few sentences. It is long. ", 20) + "\n\n"
				}
				changed := 0
				for _, c := range Split(text[:from]+insert+text[to:], Sizes{Max: maxTokens}, quarters) {
					if !before[c.Text] {
						changed++
					}
				}
				total, worst = total+changed, max(worst, changed)
			}
			t.Logf("%d chunks; an edit changes %.2f on average, %d at worst", len(before), float64(total)/edits, worst)
			if float64(total)/edits > 2.5 || worst > 12 {
				t.Errorf("of %d chunks an edit changes %.2f on average, %d at worst", len(before), float64(total)/edits, worst)
			}
		})
	}
}

// Counting is what costs: each byte may be counted only a few times, whatever the text is like.
func TestSplitCountsInLinearTime(t *testing.T) {
	t.Parallel()
	const size = 30_000
	for name, text := range map[string]string{
		"novel":         novel(1, size),
		"one sentence":  strings.Repeat("word ", size/5),
		"one word":      strings.Repeat("x", size),
		"periods":       strings.Repeat(".", size),
		"a. a. a.":      strings.Repeat("a. ", size/3),
		".A.A":          strings.Repeat(".A", size/2),
		"blank lines":   strings.Repeat("\n", size),
		"spaces":        strings.Repeat(" ", size),
		"line feeds":    strings.Repeat("\r\n", size/2),
		"headings":      strings.Repeat("# h\n", size/4),
		"fences":        strings.Repeat("```a\n", size/5),
		"underlines":    strings.Repeat("---\n", size/4),
		"marks":         strings.Repeat("\u0301", size/2),
		"joiners":       strings.Repeat("👩\u200d", size/7),
		"flags":         strings.Repeat("🇩", size/4),
		"chinese":       strings.Repeat("中", size/3),
		"period spaces": "a." + strings.Repeat(" ", size),
		"period quotes": "a." + strings.Repeat("\"", size),
		"period Quotes": "a." + strings.Repeat("”", size/3),
		"period marks":  "a." + strings.Repeat(" \u0301", size/3),
		"not UTF-8":     strings.Repeat("\x80", size),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, maxTokens := range []int{1, 7, 100, 2000} {
				counted := 0
				count := func(s string) int { counted += len(s); return quarters(s) }
				checkChunks(t, text, maxTokens, quarters, Split(text, Sizes{Max: maxTokens}, count))
				if counted > 8*len(text) {
					t.Errorf("max %d: %d bytes were counted %.1f times", maxTokens, len(text), float64(counted)/float64(len(text)))
				}
			}
		})
	}
}

// The boundaries of today: moving them makes every document of every user new.
func TestBoundariesOfToday(t *testing.T) {
	t.Parallel()
	var ends []int
	for _, c := range Split(novel(9, 20_000), Sizes{Max: 1000}, quarters) {
		ends = append(ends, c.End)
	}
	if want := []int{3927, 7061, 10911, 14818, 18135, 20213}; !slices.Equal(ends, want) {
		t.Errorf("chunks end at %v, not at %v", ends, want)
	}
}

// novel makes some size bytes of prose with paragraphs and headings.
func novel(seed uint64, size int) string {
	r := rand.New(rand.NewPCG(seed, 0))
	var b strings.Builder
	for b.Len() < size {
		if r.IntN(12) == 0 {
			fmt.Fprintf(&b, "%s %s\n\n", strings.Repeat("#", 1+r.IntN(3)), word(r))
		}
		for range 1 + r.IntN(8) {
			b.WriteString("The")
			for range 3 + r.IntN(20) {
				b.WriteByte(' ')
				b.WriteString(word(r))
			}
			b.WriteString(". ")
		}
		b.WriteString("\n\n")
	}
	return b.String()
}

func word(r *rand.Rand) string {
	b := make([]byte, 2+r.IntN(9))
	for i := range b {
		b[i] = byte('a' + r.IntN(26))
	}
	return string(b)
}

// rows makes some size bytes of lines with numbers.
func rows(seed uint64, size int) string {
	r := rand.New(rand.NewPCG(seed, 0))
	var b strings.Builder
	for i := 0; b.Len() < size; i++ {
		fmt.Fprintf(&b, "%d,%d,%.2f,%s,open\n", i, r.IntN(100), r.Float64()*100, word(r))
	}
	return b.String()
}

func BenchmarkSplit(b *testing.B) {
	text := novel(1, 1<<20)
	for _, maxTokens := range []int{500, 4000} {
		b.Run(fmt.Sprint(maxTokens), func(b *testing.B) {
			b.SetBytes(int64(len(text)))
			b.ReportAllocs()
			for b.Loop() {
				Split(text, Sizes{Max: maxTokens}, quarters)
			}
		})
	}
}
