package chaos

import (
	"cmp"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// A batch of kind summarize asks for documents that are lists of numbered facts, and a good summary says which facts it covers. So the last
// of a job's calls tells whether every part of the document got into it, and nothing of another one did.
//
// The tag d7 is a document; d7+2 is the same one edited twice, with more facts at its end. Both have the name d7, by which the ledger and
// the provider's books are compared: their first parts are the same, and one pays for both.

const generate, summarize = "generate", "summarize"

// editionOf splits a document's tag into its name and how often it was edited.
func editionOf(tag string) (name string, edits int) {
	name, n, _ := strings.Cut(tag, "+")
	edits, _ = strconv.Atoi(n) // 0 without one
	return name, edits
}

// edited is the tag of the document's next edition.
func edited(tag string) string {
	name, edits := editionOf(tag)
	return fmt.Sprintf("%s+%d", name, edits+1)
}

// factsOf is how many facts a document has: it takes some four to eight calls.
func factsOf(tag string) int {
	name, edits := editionOf(tag)
	return 16 + int(hash(name)%20) + 3*edits
}

// documentOf is a document's text, of some 30 tokens a fact.
func documentOf(tag string) string {
	name, _ := editionOf(tag)
	var b strings.Builder
	for i := range factsOf(tag) {
		fmt.Fprintf(&b, "Fact #%d of %s: whoever reads the long report of that year will find the word %x in it, and nothing else that matters.\n\n",
			i, name, hash(fmt.Sprint(name, i)))
	}
	return b.String()
}

// chunkTokens is the least that a batch may ask for.
const chunkTokens = 200

func summaryOptions(key int) json.RawMessage {
	return fmt.Appendf(nil, `{"length":"short","chunk_tokens":%d,"focus":"%s"}`, chunkTokens, customer(key))
}

// customer is what every prompt says of the API key whose batch it belongs to.
func customer(key int) string { return fmt.Sprintf("key-%d", key) }

var (
	word    = regexp.MustCompile(`Say the word of ([a-z0-9-]+)\.`)
	covered = regexp.MustCompile(`#(\d+)(?:-(\d+))? of ([a-z0-9-]+)`)
	whose   = regexp.MustCompile(`key-(\d)`)
)

// question is what a prompt asks for.
type question struct {
	key    int    // the API key's number
	tag    string // the word's, or the document's name
	id     string // equal for equal questions only
	answer string // a good one
}

// understand reads a prompt; false when it is none of ours, or mixes documents.
func understand(body []byte) (q question, ok bool) {
	who := whose.FindSubmatch(body)
	if who == nil {
		return q, false
	}
	q.key = int(who[1][0] - '0')
	if found := word.FindSubmatch(body); found != nil {
		q.tag = string(found[1])
		q.id, q.answer = fmt.Sprint(q.key, " ", q.tag), answerTo(q.tag)
		return q, true
	}
	if q, ok := understandSaying(q.key, body); ok {
		return q, true
	}
	var spans [][2]int
	id := []string{strconv.Itoa(q.key)}
	for _, found := range covered.FindAllSubmatch(body, -1) {
		if q.tag = cmp.Or(q.tag, string(found[3])); q.tag != string(found[3]) {
			return q, false
		}
		low, _ := strconv.Atoi(string(found[1])) // digits, by the expression
		high := low
		if len(found[2]) > 0 {
			high, _ = strconv.Atoi(string(found[2]))
		}
		spans = append(spans, [2]int{low, high})
		id = append(id, string(found[0]))
	}
	if len(spans) == 0 {
		return q, false
	}
	q.id, q.answer = strings.Join(id, " "), covering(q.tag, spans)
	return q, true
}

// covering is the summary of a text that has these facts.
func covering(name string, spans [][2]int) string {
	slices.SortFunc(spans, func(a, b [2]int) int { return cmp.Or(cmp.Compare(a[0], b[0]), cmp.Compare(a[1], b[1])) })
	var out []string
	for i := 0; i < len(spans); {
		low, high := spans[i][0], spans[i][1]
		for i++; i < len(spans) && spans[i][0] <= high+1; i++ {
			high = max(high, spans[i][1])
		}
		out = append(out, fmt.Sprintf("#%d-%d of %s", low, high, name))
	}
	return "It has " + strings.Join(out, ", ") + "."
}

// answer is what a good result of one of the load's jobs says.
func (l load) answer(tag string) string {
	switch l.kind {
	case summarize:
		name, _ := editionOf(tag)
		return covering(name, [][2]int{{0, factsOf(tag) - 1}})
	case pipeline:
		return sayingOf(tag)
	}
	return answerTo(tag)
}

// papers makes a load one of documents: some of them twice, some in two editions.
func (d *dice) papers(l *load, prefix string) {
	l.kind, l.tags = summarize, nil
	for i := range 3 + d.IntN(5) {
		tag := fmt.Sprintf("%sd%d", prefix, d.IntN(4)*10+i)
		l.tags = append(l.tags, tag)
		switch d.IntN(3) {
		case 0:
			l.tags = append(l.tags, tag)
		case 1:
			l.tags = append(l.tags, edited(tag))
		}
	}
}
