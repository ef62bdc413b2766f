package gateway

import (
	"strings"
)

// quirk is what a model refuses although its provider takes it, as a set of bits.
type quirk byte

const (
	noSampling    quirk = 1 << iota // a temperature or a top_p other than 1 is an error
	noStop                          // stop strings are an error
	onlyResponses                   // Chat Completions doesn't know the model
)

func (q quirk) has(one quirk) bool { return q&one != 0 }

// quirks are read from the first row to the last; all that match add up. Sources: OpenAI's pages on reasoning models
// and its error 404 "only supported in v1/responses", xAI's page on reasoning, all of November 2026.
//
// A row errs on the side of leaving a parameter out. Some reasoning models take a temperature when the effort is none,
// but no chat here sets an effort, and an ignored wish is better than an error.
var quirks = []struct {
	provider string
	match    func(model string) bool
	quirk    quirk
}{
	{"openai", reasons, noSampling | noStop},
	{"azure-openai", reasons, noSampling | noStop}, // a deployment mostly has its model's name
	{"openrouter", reasons, noSampling | noStop},
	{"openai", func(m string) bool { return hasPart(m, "pro", "codex", "deep-research", "computer-use") }, onlyResponses},
	{"perplexity-ai", func(m string) bool { return strings.Contains(m, "/") }, onlyResponses},
	{"grok", func(m string) bool {
		return !strings.Contains(m, "non-reasoning") && !strings.HasPrefix(m, "grok-2") && m != "grok-3"
	}, noStop},
}

// quirksOf looks a model up, by the name that the provider has for it.
func quirksOf(provider, model string) (q quirk) {
	switch provider {
	case "azure-openai":
		model = model[strings.LastIndexByte(model, '/')+1:]
	case "openrouter":
		var ours bool
		if model, ours = strings.CutPrefix(model, "openai/"); !ours {
			return 0
		}
	case "openai":
		model = strings.TrimPrefix(model, "ft:")
	}
	for _, row := range quirks {
		if row.provider == provider && row.match(model) {
			q |= row.quirk
		}
	}
	return q
}

// reasons reports whether a model of OpenAI's reasons: the o series, gpt-5 and later, and what is built on them.
func reasons(model string) bool {
	if strings.HasPrefix(model, "codex-") || strings.HasPrefix(model, "computer-use-") {
		return true
	}
	if rest, ok := strings.CutPrefix(model, "gpt-"); ok {
		return rest != "" && rest[0] >= '5' && rest[0] <= '9'
	}
	return len(model) > 1 && model[0] == 'o' && isDigit(model[1])
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }

// hasPart reports whether one of the parts is in a name, between dashes or its ends.
func hasPart(name string, parts ...string) bool {
	for _, part := range parts {
		if strings.Contains("-"+name+"-", "-"+part+"-") {
			return true
		}
	}
	return false
}
