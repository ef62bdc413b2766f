package prompt

import (
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// Counts by the vocabularies o200k_base and cl100k_base (github.com/tiktoken-go/tokenizer v0.10.0, November 2026).
// The estimate has to be at least the first, which is that of today's models, and within reason of both.
func TestEstimateLeansHigh(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		text          string
		o200k, cl100k int
	}{
		{"Hello, world!", 4, 4},
		{"The quick brown fox jumps over the lazy dog.", 10, 10},
		{"antidisestablishmentarianism", 6, 6},
		{"2 + 2 = 4", 7, 7},
		{"tiktoken is great!", 6, 6},
		{"a b c d e f g h", 8, 8},
		{"https://example.com/a/b?c=d&utm_source=x1y2z3", 17, 17},
		{"Die Geschwindigkeitsbegrenzung auf der Autobahn wurde gestern vom Verkehrsministerium aufgehoben.", 19, 29},
		{"Przedsiębiorstwo zażądało natychmiastowego zwrotu kosztów poniesionych w związku z umową.", 30, 37},
		{"Tôi yêu Việt Nam, đất nước tươi đẹp với những con người hiền hòa.", 19, 37},
		{"Привет, как дела? Сегодня хорошая погода, и мы пойдём гулять в парк.", 22, 36},
		{"Γειά σου Κόσμε, τι κάνεις σήμερα;", 14, 29},
		{"مرحبا بالعالم، كيف حالك اليوم؟ نحن ذاهبون إلى السوق.", 18, 40},
		{"שלום עולם, מה שלומך היום?", 9, 24},
		{"नमस्ते दुनिया, आप कैसे हैं? आज मौसम अच्छा है।", 15, 48},
		{"สวัสดีชาวโลก วันนี้อากาศดีมาก เราไปเดินเล่นกันเถอะ", 22, 48},
		{"お誕生日おめでとう", 8, 9},
		{"こんにちは世界。今日は天気がいいので公園へ散歩に行きましょう。", 20, 33},
		{"안녕하세요 세계. 오늘은 날씨가 좋아서 공원으로 산책하러 갑시다.", 22, 41},
		{"今天天气很好，我们去公园散步吧。人工智能正在改变世界。", 18, 32},
		{"👩‍👩‍👧‍👦🎉😀", 14, 23},
	} {
		got := EstimateTokens(c.text)
		if got < c.o200k || 10*got < 8*c.cl100k || got > 2*max(c.cl100k, c.o200k) {
			t.Errorf("%q: estimated %d, o200k %d, cl100k %d", c.text, got, c.o200k, c.cl100k)
		}
	}
}

func TestEstimateRules(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]int{
		"": 0, "a": 1, "four": 1, "fives": 2, "camelCase": 3, "HTTP": 2, "HTTPServer": 5, "Word": 1, "12": 1, "123": 2, "in 2026": 4,
		" ": 0, "  ": 1, "\n": 1, "\n\n\t ": 2, "a b": 2, ".": 1, "........": 3, strings.Repeat("-", 80): 21, "||": 2, "{}": 2,
		"é": 1, "中": 2, "中中中中": 5, "가나": 3, "😀": 3, "\xff\xfe": 2, "\x80": 1, "Ж": 1, "ЖЖЖЖЖЖЖЖ": 5, "\x00": 1,
	} {
		if got := EstimateTokens(text); got != want {
			t.Errorf("%q: got %d, want %d", text, got, want)
		}
	}
}

// What the splitter relies on: parts never count much less than the whole, and a longer text never counts less.
func TestEstimateIsMonotonicAndNearlyAdditive(t *testing.T) {
	t.Parallel()
	text := rapid.OneOf(rapid.String(), rapid.StringOf(rapid.SampledFrom([]rune("aB1 .-\né中😀"))))
	rapid.Check(t, func(t *rapid.T) {
		a, b := text.Draw(t, "a"), text.Draw(t, "b")
		whole, left, right := EstimateTokens(a+b), EstimateTokens(a), EstimateTokens(b)
		if whole < left || whole+1 < right {
			t.Fatalf("%d whole, %d and %d in parts", whole, left, right)
		}
		if whole > left+right+1 || left+right > whole+3 {
			t.Fatalf("%d whole, %d and %d in parts", whole, left, right)
		}
	})
}
