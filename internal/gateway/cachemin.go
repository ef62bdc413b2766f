package gateway

import "strings"

// cacheMinimums are the shortest prefixes that a provider's own prompt cache keeps, in tokens. The first row that matches counts. Sources:
// the providers' pages on prompt and context caching, and measurements in public repositories, read in December 2026. Where two of them
// differ, the smaller number is here: a mark on a prefix that is too short does nothing.
var cacheMinimums = []struct {
	provider string
	match    func(model string) bool // nil for any
	tokens   int
}{
	{"anthropic", claude(500, "opus", "fable", "mythos"), 512},
	{"anthropic", claude(408, "opus"), 1024},
	{"anthropic", claude(407, "opus"), 2048},
	{"anthropic", claude(405, "opus", "haiku"), 4096},
	{"anthropic", claude(300, "haiku"), 2048},
	{"anthropic", nil, 1024},
	{"openai", nil, 1024},
	{"azure-openai", nil, 1024},
	{"google-ai-studio", func(m string) bool { return hasPart(m, "pro") }, 4096},
	{"google-ai-studio", nil, 1024},
	{"deepseek", nil, 64},
	{"grok", nil, 1024}, // it caches by itself and doesn't say from where on
}

// claude matches the models of some families from a version on.
func claude(from int, families ...string) func(model string) bool {
	return func(model string) bool {
		v, known := claudeVersion(model)
		for _, family := range families {
			if known && v >= from && strings.Contains(model, family) {
				return true
			}
		}
		return false
	}
}

// CacheMinimum is how many tokens requests must share, from their start, for the provider's prompt cache to keep them; 0 when it has no
// such cache, or doesn't say.
func CacheMinimum(provider, model string) int {
	for _, row := range cacheMinimums {
		if row.provider == provider && (row.match == nil || row.match(model)) {
			return row.tokens
		}
	}
	return 0
}
