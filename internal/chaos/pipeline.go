package chaos

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
)

// A batch of kind pipeline asks for a word, and then for the saying of it. The provider knows only the sayings of true words, so the answer to a
// job tells that its second stage was asked with the answer to its own first one.

const pipeline = "pipeline"

// sayTemplate is that of the second stage.
const sayTemplate = `{"system":"You answer %s.","user":"Say it again: {{.word}}","variables":{"word":{"type":"string"}},"sampling":{"max_tokens":40}}`

func sayOf(key int) string { return fmt.Sprintf("say-%d", key) }

func pipelineOptions(key int) json.RawMessage {
	return fmt.Appendf(nil, `{"stages":[{"name":"word","kind":"generate","template":"%s"},{"name":"say","kind":"generate","template":"%s","variables":{"word":{"stage":"word"}}}]}`,
		wordOf(key), sayOf(key))
}

var said = regexp.MustCompile(`Say it again: (The word of ([a-z0-9-]+) is [0-9a-f]+\.)`)

func sayingOf(tag string) string { return "Again: " + answerTo(tag) }

// understandSaying reads the prompt of a second stage.
func understandSaying(key int, body []byte) (q question, ok bool) {
	found := said.FindSubmatch(body)
	if found == nil || string(found[1]) != answerTo(string(found[2])) {
		return q, false
	}
	tag := string(found[2])
	return question{key: key, tag: tag, id: fmt.Sprint(key, " again ", tag), answer: sayingOf(tag)}, true
}

// pipes makes pipelines of some loads that ask for words. The first stays what it is.
func (d *dice) pipes(loads []load) {
	for i := range loads {
		if i > 0 && loads[i].kind == "" && d.IntN(4) == 0 {
			loads[i].kind = pipeline
		}
	}
}

// pipes is steady for pipelines: the first stage of every other one is known from a batch of words, or asked by one at the same time.
func (p *plan) pipes(route string) {
	p.steady(route)
	for i := range p.loads {
		if i%2 == 1 {
			p.loads[i].kind = pipeline
			p.loads[i].key = p.loads[i-1].key
			p.loads[i].tags = slices.Concat(p.loads[i-1].tags[:20], p.loads[i].tags[:20])
		}
	}
}
