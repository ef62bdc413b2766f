package prompt

import (
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/tiktoken-go/tokenizer/codec"
)

// Tokenizer counts tokens as a model does, where its vocabulary is public: exactly, at 10 to 16 MB/s. For other models it counts with the
// vocabulary o200k and applies what is known of their family, which is right to some 15 %; whoever has a model's bills knows better and
// corrects by them. It is safe for concurrent use.
//
// Texts of more than 64 KiB are counted in part: samples say by how much [EstimateTokens], which reads all of it, is wrong. Text of one sort is
// then counted to within 2 %. So a longer text may count a little less than its beginning.
type Tokenizer struct {
	vocabulary func() *codec.Codec
	percent    int // of the vocabulary's count
	exact      bool
}

// family is what is known of the models whose name has a prefix. The first that fits counts.
type family struct {
	prefix string
	Tokenizer
}

// Vocabularies by name: https://github.com/openai/tiktoken/blob/main/tiktoken/model.py. Those of gpt-5.x and gpt-6 weren't published when
// this was written (November 2026) and are taken to be o200k. Factors of others are from comparisons of English prose by their makers and
// users, and lean high.
var families = []family{
	{"chatgpt-4o", Tokenizer{o200k, 100, true}},
	{"gpt-4o", Tokenizer{o200k, 100, true}},
	{"gpt-4.1", Tokenizer{o200k, 100, true}},
	{"gpt-5", Tokenizer{o200k, 100, true}},
	{"gpt-6", Tokenizer{o200k, 100, false}},
	{"gpt-oss", Tokenizer{o200k, 100, true}},
	{"o1", Tokenizer{o200k, 100, true}},
	{"o3", Tokenizer{o200k, 100, true}},
	{"o4", Tokenizer{o200k, 100, true}},
	{"gpt-4", Tokenizer{cl100k, 100, true}},
	{"gpt-3.5", Tokenizer{cl100k, 100, true}},
	{"gpt-35", Tokenizer{cl100k, 100, true}},
	{"claude", Tokenizer{o200k, 120, false}},
	{"gemini", Tokenizer{o200k, 105, false}},
	{"gemma", Tokenizer{o200k, 105, false}},
	{"llama", Tokenizer{o200k, 105, false}},
	{"sonar", Tokenizer{o200k, 105, false}},
	{"grok", Tokenizer{o200k, 105, false}},
	{"", Tokenizer{o200k, 110, false}},
}

// Each takes 10 ms and 6 MB, or half of that, at first use.
var (
	o200k  = sync.OnceValue(codec.NewO200kBase)
	cl100k = sync.OnceValue(codec.NewCl100kBase)
)

// TokenizerOf returns the tokenizer of a model, by any name that a provider has for it: "gpt-4o-mini", "@cf/openai/gpt-oss-120b",
// "ft:gpt-4o-mini:org::id".
func TokenizerOf(model string) *Tokenizer {
	name := strings.TrimPrefix(strings.ToLower(model), "ft:")
	name, _, _ = strings.Cut(name, ":")
	name = name[strings.LastIndexByte(name, '/')+1:]
	for i := range families {
		if f := &families[i]; strings.HasPrefix(name, f.prefix) {
			return &f.Tokenizer
		}
	}
	panic("unreachable") // the last family has no prefix
}

// Exact reports whether the model's own vocabulary counts.
func (t *Tokenizer) Exact() bool { return t.exact }

// Count returns how many tokens a text is.
func (t *Tokenizer) Count(text string) int {
	n := 0
	if len(text) <= mostExact {
		n = t.pieces(text)
	} else {
		n = t.sampled(text)
	}
	return (n*t.percent + 99) / 100
}

const (
	mostExact   = 64 << 10
	samples     = 8
	sampleBytes = 6 << 10
)

func (t *Tokenizer) pieces(text string) int {
	n, err := t.vocabulary().Count(text)
	if err != nil { // the splitting expression gave up: it has no limit set, and doesn't
		return EstimateTokens(text)
	}
	return n
}

// sampled corrects the estimate of a text by that of samples at even distances.
func (t *Tokenizer) sampled(text string) int {
	exact, estimate := 0, 0
	for i := range samples {
		from := (len(text) - sampleBytes) / (samples - 1) * i
		to := from + sampleBytes
		for from < to && !utf8.RuneStart(text[from]) {
			from++
		}
		for to < len(text) && to > from && !utf8.RuneStart(text[to]) {
			to--
		}
		sample := text[from:to]
		exact += t.pieces(sample)
		estimate += EstimateTokens(sample)
	}
	return int(int64(EstimateTokens(text)) * int64(exact) / int64(max(estimate, 1)))
}
