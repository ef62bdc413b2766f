package jobs

import (
	"context"
	"fmt"
	"strings"

	"batchwright/internal/document"
	"batchwright/internal/gateway"
	"batchwright/internal/prompt"
)

// Strategies, as the params name them.
const (
	byOneCallOrTree = "auto"
	bySingleCall    = "single"
	byTree          = "map_reduce"
	byRefining      = "refine"
)

// summary makes the summary of one document.
//
// A document that fits one call is summarised by it. A longer one is cut into chunks at sentence ends, the chunks are summarised, and the
// summaries are summarised in turn until one is left: a tree. Or the first chunk is summarised, and the summary is revised with each further
// one. Nothing is dropped on the way, and what was asked before isn't asked again: a call's key is its text.
//
// 2026-12-01, groups: which summaries are put together is decided by the document's own boundaries, the best of them first, and by how many
// summaries may be as long as they are allowed to be, not by what they say. An edit that leaves the chunks' boundaries alone then changes
// one group a level; and the tree follows the document's headings. Not taken: boundaries by a hash of the summaries, which a changed
// summary moves.
type summary struct {
	o     summarizeOptions
	title string
	text  string
	limit int // tokens of text in one call
	count func(string) int
	mute  bool // the model follows no instructions: it isn't asked for an outline's lines
	// ask answers requests in their order, from a cache what was asked before. only says that the document has no other.
	ask func(ctx context.Context, requests []*prompt.Request, only bool) ([]result, error)

	sections []document.Section
	coverage Coverage
	outline  []OutlineLine
}

// Coverage says what a summary was made of.
type Coverage struct {
	Strategy      string `json:"strategy"`
	Chunks        int    `json:"chunks"`
	Depth         int    `json:"depth"` // how many summaries of summaries lie above a chunk at most
	TokensCovered int    `json:"tokens_covered"`
	TokensDropped int    `json:"tokens_dropped"`
	Calls         int    `json:"calls"`
	CallsMade     int    `json:"calls_made"`
	CallsReused   int    `json:"calls_reused"`
}

// summaryDetails is what is kept beside a summary.
type summaryDetails struct {
	Coverage Coverage      `json:"coverage"`
	Outline  []OutlineLine `json:"outline,omitempty"`
}

// summarized is a summary with its details.
type summarized struct {
	result
	summaryDetails
}

func (s *summary) build(ctx context.Context) (summarized, error) {
	strategy, wrong := s.strategy(s.count(s.text))
	if wrong != nil {
		return summarized{}, wrong
	}
	s.coverage.Strategy, s.sections = strategy, document.Sections(s.text)
	var out result
	var err error
	switch strategy {
	case bySingleCall:
		out, err = s.single(ctx)
	case byRefining:
		out, err = s.refine(ctx)
	default:
		out, err = s.tree(ctx)
	}
	if err != nil {
		return summarized{result: out}, err
	}
	if s.coverage.TokensDropped > 0 { // by a fault of ours
		return summarized{}, fmt.Errorf("jobs: a summary left out %d of a document's tokens", s.coverage.TokensDropped)
	}
	return summarized{out, summaryDetails{s.coverage, s.outline}}, nil
}

// strategy is what is done with a document of so many tokens.
func (s *summary) strategy(total int) (string, *failure) {
	switch fits := total <= s.limit; {
	case s.o.Strategy == bySingleCall && !fits:
		return "", failf(gateway.InvalidRequest,
			"the document has some %d tokens, and one call has room for %d: leave strategy single out, or choose a model with a larger context window", total, s.limit)
	case s.o.Strategy != "":
		return s.o.Strategy, nil
	case fits:
		return bySingleCall, nil
	}
	return byTree, nil
}

func (s *summary) single(ctx context.Context) (result, error) {
	chunks := []document.Chunk{{End: len(s.text), Text: s.text, Tokens: s.count(s.text)}}
	out, err := s.leaves(ctx, wholeDocument, chunks)
	if err != nil {
		return result{}, err
	}
	return out[0], nil
}

// chunks cuts the document so that each chunk has room in a call.
func (s *summary) chunks(room int) []document.Chunk {
	return document.Split(s.text, document.Sizes{Max: room, Target: s.o.ChunkTargetTokens, Min: s.o.ChunkMinTokens}, s.count)
}

// leaves summarises chunks side by side, and takes their outline lines off the answers.
func (s *summary) leaves(ctx context.Context, what form, chunks []document.Chunk) ([]result, error) {
	requests, entries := make([]*prompt.Request, len(chunks)), s.entries(chunks)
	for i, c := range chunks {
		requests[i] = s.request(passage{form: what, text: c.Text, entries: entries[i]})
	}
	answers, err := s.answers(ctx, requests)
	if err != nil {
		return nil, err
	}
	for i := range answers {
		answers[i].output = s.take(answers[i].output, entries[i])
	}
	s.cover(chunks[:len(answers)])
	return answers, nil
}

// answers asks, and counts the calls.
func (s *summary) answers(ctx context.Context, requests []*prompt.Request) ([]result, error) {
	answers, err := s.ask(ctx, requests, s.coverage.Strategy == bySingleCall)
	if err != nil {
		return nil, err
	}
	s.coverage.Calls += len(answers)
	for _, a := range answers {
		if a.reused {
			s.coverage.CallsReused++
		} else {
			s.coverage.CallsMade++
		}
	}
	return answers, nil
}

// cover counts what was summarised, and what of the document lies between, before or behind it.
func (s *summary) cover(chunks []document.Chunk) {
	at := 0
	for _, c := range chunks {
		s.coverage.TokensCovered += c.Tokens
		s.coverage.TokensDropped += s.count(s.text[at:c.Start])
		at = c.End
	}
	s.coverage.TokensDropped += s.count(s.text[at:])
	s.coverage.Chunks = len(chunks)
}

// node is a summary of some of the document.
type node struct {
	result
	heading string       // of what it begins with, if it begins with a heading
	after   document.Cut // where what it covers ends
	tokens  int
}

func (s *summary) tree(ctx context.Context) (result, error) {
	chunks := s.chunks(s.limit)
	answers, err := s.leaves(ctx, aPart, chunks)
	if err != nil {
		return result{}, err
	}
	level := make([]node, len(chunks))
	for i, a := range answers {
		level[i] = node{a, s.heading(chunks[i]), chunks[i].After, s.count(a.output)}
	}
	for len(level) > 1 {
		s.coverage.Depth++
		if level, err = s.reduce(ctx, level); err != nil {
			return result{}, err
		}
	}
	return level[0].result, nil
}

// separator is more than what stands between two summaries takes, in tokens.
const separator = 16

// groupSize is how many summaries are put together at most.
func (s *summary) groupSize() int { return max(s.limit/(s.o.MaxTokens*5/4+separator), 2) }

// reduce summarises groups of summaries. A summary that no other fits beside goes up as it is; when no two fit, each is made shorter.
func (s *summary) reduce(ctx context.Context, level []node) ([]node, error) {
	tokens, after := make([]int, len(level)), make([]document.Cut, len(level))
	for i, n := range level {
		tokens[i], after[i] = n.tokens+separator, n.after
	}
	ends := document.Group(tokens, after, s.groupSize(), s.limit)
	what := severalSummaries
	if len(ends) == 1 {
		what = allSummaries
	}
	next := make([]node, len(ends))
	var requests []*prompt.Request
	var asked []*node
	before, from, alone := 0, 0, len(ends) == len(level)
	for i, end := range ends {
		group := level[from:end]
		next[i] = group[0]
		next[i].after = group[len(group)-1].after
		if len(group) > 1 || alone {
			requests, asked = append(requests, s.request(passage{form: what, text: joined(group)})), append(asked, &next[i])
			for _, n := range group {
				before += n.tokens
			}
		}
		from = end
	}
	answers, err := s.answers(ctx, requests)
	if err != nil {
		return nil, err
	}
	now := 0
	for i, a := range answers {
		asked[i].result, asked[i].tokens = a, s.count(a.output)
		now += asked[i].tokens
	}
	if now >= before && len(next) > 1 {
		return nil, failf(gateway.InvalidOutput,
			"summaries of %d tokens became summaries of %d, and don't come to an end so: lower max_tokens, raise chunk_tokens, or ask for another length", before, now)
	}
	return next, nil
}

// joined puts summaries together under the headings of what they cover.
func joined(group []node) string {
	var b strings.Builder
	for i, n := range group {
		if i > 0 {
			b.WriteString("\n\n")
		}
		if n.heading != "" {
			b.WriteString("## " + n.heading + "\n\n")
		}
		b.WriteString(n.output)
	}
	return b.String()
}

// refineRoom is what a call has left for a chunk beside the summary so far.
func (s *summary) refineRoom() int { return max(s.limit-s.o.MaxTokens-separator, s.limit/2) }

// refine revises the summary of the chunks so far with each further one. A change in the middle of the document asks for all after it again.
func (s *summary) refine(ctx context.Context) (out result, err error) {
	chunks := s.chunks(s.refineRoom())
	entries := s.entries(chunks)
	for i, c := range chunks {
		p := passage{form: theBeginning, text: c.Text, entries: entries[i], before: out.output}
		switch {
		case len(chunks) == 1:
			p.form = wholeDocument
		case i > 0:
			p.form = theNextPart
			s.coverage.Depth++
		}
		answers, err := s.answers(ctx, []*prompt.Request{s.request(p)})
		if err != nil {
			return result{}, err
		}
		out = answers[0]
		out.output = s.take(out.output, entries[i])
	}
	s.cover(chunks)
	return out, nil
}
