package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
	"unicode"

	"batchwright/internal/client"
	chunking "batchwright/internal/document"
	"batchwright/internal/prompt"
)

const contentPreface = `# Benchmarks of edited documents

Written by ` + "`make bench-content`" + `; don't edit it. A document of 1 MB, prose under headings, is summarised through API and
worker, and again after each of nine edits of one sentence, by a simulated model whose answer to a prompt that differs is another one: so each
change goes up to the top. The ceiling of calls is the first run's. Fixed-size chunks are counted beside:
parts of the same largest size one after the other, in groups of as many. Absolute figures are for orientation. A ratio beyond its target
is "short"; nothing fails by it.

`

const (
	contentBytes = 1 << 20
	contentChunk = 1500
	contentCap   = 160 // tokens of a short summary

	simulated  = "openai-compatible:sim-1"
	extractive = "local/extractive"
)

// paper is a document by its sentences, each with the white space behind it.
type paper []string

func (p paper) String() string { return strings.Join(p, "") }

func writePaper(seed uint64, size int) paper {
	r := rand.New(rand.NewPCG(seed, 11))
	words := strings.Fields("harbour ledger winter council measured quietly seven engines before answer river carried every letter slowly across northern fields while nobody counted what remained of summer depot crates shipped region week plan delay report figures")
	var p paper
	for n, section := 0, 0; n < size; {
		if len(p)%60 == 0 {
			section++
			p = append(p, fmt.Sprintf("## Section %d, on the %s %s\n\n", section, words[r.IntN(len(words))], words[r.IntN(len(words))]))
		}
		var b strings.Builder
		fmt.Fprintf(&b, "In %d the %s", r.IntN(3000), words[r.IntN(len(words))])
		for range 5 + r.IntN(18) {
			b.WriteString(" " + words[r.IntN(len(words))])
		}
		b.WriteString(". ")
		if r.IntN(5) == 0 {
			b.WriteString("\n\n")
		}
		p = append(p, b.String())
		n += b.Len()
	}
	return p
}

// edits are the changes of one sentence that a paper is measured with.
func (p paper) edits(seed uint64) (names []string, edited []paper) {
	for _, place := range []struct {
		name string
		at   int
	}{{"at the start", 2}, {"in the middle", len(p)/2 | 1}, {"at the end", len(p) - 2}} {
		sentence := fmt.Sprintf("Nobody had said number %d of this before. ", seed)
		for _, e := range []struct {
			name string
			p    paper
		}{
			{"inserted", slices.Insert(slices.Clone(p), place.at, sentence)},
			{"replaced", slices.Replace(slices.Clone(p), place.at, place.at+1, sentence)},
			{"deleted", slices.Delete(slices.Clone(p), place.at, place.at+1)},
		} {
			names, edited = append(names, e.name+" "+place.name), append(edited, e.p)
		}
	}
	return names, edited
}

// overEdits is C1, C2 and C4: what an edit costs, through the whole system, of a model that answers every other prompt in other words; and C5,
// of one that often says the same of a changed text.
func overEdits(ctx context.Context, l *lab) (_ []line, err error) {
	s, err := l.system(ctx, []string{"WORKER_CONCURRENCY=16", "OPENAI_COMPATIBLE_BASE_URL=http://" + l.backends[slow] + "/v1"})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.close(ctx)) }()
	const edits, share = 9, 0.03 // of the first run's calls an edit may take; the quick document has so few that this would be less than its levels
	var calls []line
	sum := line{name: "C2 calls, all nine edits : with fixed-size chunks", target: 0.1, atMost: true,
		note: "The calls after each of the nine edits, summed up, beside those that parts of a fixed size would take: after an edit at the start nearly all."}
	took := line{name: "C4 ms, a sentence replaced in the middle : first run", target: 0.25, atMost: true,
		note: fmt.Sprintf("From the submission to the summary, by a model that takes %s for each call.", latencies[slow])}
	alike := line{name: "C5 calls, all nine edits, local/extractive : nine runs", target: share, atMost: true,
		note: "The same by the extractive summarizer, which often picks the same sentences of a changed text: then nothing above is asked again."}
	for round := range l.rounds {
		p := writePaper(uint64(round), l.size(contentBytes, contentBytes/8))
		names, edited := p.edits(uint64(round))
		first, ms, err := s.summarise(ctx, simulated, p)
		if err != nil {
			return nil, err
		}
		took.ceiling = append(took.ceiling, ms)
		plain, ours, theirs := fixedSize(p.String()), 0.0, 0.0
		for i, e := range edited {
			c, ms, err := s.summarise(ctx, simulated, e)
			if err != nil {
				return nil, err
			}
			if round == 0 {
				calls = append(calls, line{name: "C1 calls, a sentence " + names[i] + " : first run", target: share, atMost: true,
					note: fmt.Sprintf("Of a document of %d bytes in %d chunks of at most %d tokens, with %d levels of summaries above them.", len(p.String()), first.Chunks, contentChunk, first.Depth)})
			}
			calls[i].ours, calls[i].ceiling = append(calls[i].ours, float64(c.CallsMade)), append(calls[i].ceiling, float64(first.CallsMade))
			ours += float64(c.CallsMade)
			theirs += float64(fixedSize(e.String()).changed(plain))
			if names[i] == "replaced in the middle" {
				took.ours = append(took.ours, ms)
			}
		}
		sum.ours, sum.ceiling = append(sum.ours, ours), append(sum.ceiling, theirs)
		extracted, again, err := s.extract(ctx, p, edited)
		if err != nil {
			return nil, err
		}
		alike.ours, alike.ceiling = append(alike.ours, again), append(alike.ceiling, edits*extracted)
		l.say(fmt.Sprintf("C round %d: %d calls in %.0f ms at first, %.0f after nine edits; fixed-size %.0f; extractive %.0f and %.0f", round+1, first.CallsMade, ms, ours, theirs, extracted, again))
	}
	return append(calls, sum, took, alike), nil
}

// extract counts the calls of the extractive summarizer for a paper, and for all its edits.
func (s *system) extract(ctx context.Context, p paper, edited []paper) (first, again float64, err error) {
	c, _, err := s.summarise(ctx, extractive, p)
	if err != nil {
		return 0, 0, err
	}
	for _, e := range edited {
		d, _, err := s.summarise(ctx, extractive, e)
		if err != nil {
			return 0, 0, err
		}
		again += float64(d.CallsMade)
	}
	return float64(c.CallsMade), again, nil
}

// summarise runs one document through the system.
func (s *system) summarise(ctx context.Context, route string, p paper) (c client.Coverage, ms float64, err error) {
	job, err := json.Marshal(map[string]any{"document": map[string]string{"name": "paper.md", "text": p.String()}})
	if err != nil {
		return c, 0, err
	}
	began := time.Now()
	b, err := s.client.SubmitNDJSON(ctx, bytes.NewReader(append(job, '\n')), client.BatchOptions{Kind: "summarize", Route: route,
		Params: fmt.Appendf(nil, `{"length":"short","max_tokens":%d,"chunk_tokens":%d}`, contentCap, contentChunk)})
	if err != nil {
		return c, 0, err
	}
	_, done, err := s.await(ctx, b.ID, began)
	if err != nil {
		return c, 0, err
	}
	for r, err := range s.client.Results(ctx, b.ID, client.ResultOptions{}) {
		switch {
		case err != nil:
			return c, 0, err
		case r.Coverage == nil:
			return c, 0, fmt.Errorf("the summary is %s: %+v", r.Status, r.Error)
		case r.Coverage.TokensDropped != 0:
			return c, 0, fmt.Errorf("the summary left out %d tokens", r.Coverage.TokensDropped)
		}
		c = *r.Coverage
	}
	return c, float64(done) / float64(time.Millisecond), nil
}

// fixedTree is a tree of parts of a fixed size in groups of a fixed number: what each node is made of, by level.
type fixedTree [][]string

func fixedSize(text string) (f fixedTree) {
	const chunk, fan = contentChunk * 4, contentChunk / contentCap
	var level []string
	for from := 0; from < len(text); from += chunk {
		level = append(level, text[from:min(from+chunk, len(text))])
	}
	for f = append(f, level); len(level) > 1; f = append(f, level) {
		var next []string
		for group := range slices.Chunk(level, fan) {
			next = append(next, strings.Join(group, "\n\n"))
		}
		level = next
	}
	return f
}

// changed counts the nodes that were not in another tree.
func (f fixedTree) changed(before fixedTree) (n int) {
	known := map[string]bool{}
	for _, level := range before {
		for _, node := range level {
			known[node] = true
		}
	}
	for _, level := range f {
		for _, node := range level {
			if !known[node] {
				n++
			}
		}
	}
	return n
}

// chunker is C3: how fast a text is cut.
func chunker(_ context.Context, l *lab) ([]line, error) {
	text := writePaper(99, contentBytes).String()
	lines := []line{
		{name: "C3 MB/s, chunks by estimated tokens : a plain read", target: 0.05, note: "The ceiling looks at each character and counts the letters. The chunks' work is the Unicode rules for sentences, and two counts of tokens."},
		{name: "C3 MB/s, chunks by the vocabulary o200k : counting alone", target: 0.35, note: "The ceiling counts the text's tokens once, in pieces of 4 KiB. The chunker counts sentences and chunks."},
	}
	vocabulary := prompt.TokenizerOf("gpt-4o").Count
	vocabulary("The first use reads it.")
	letters := 0
	for round := range l.rounds {
		for i, c := range []struct {
			ours, ceiling func()
		}{
			{func() { chunking.Split(text, chunking.Sizes{Max: contentChunk}, prompt.EstimateTokens) }, func() {
				for _, r := range text {
					if unicode.IsLetter(r) {
						letters++
					}
				}
			}},
			{func() { chunking.Split(text, chunking.Sizes{Max: contentChunk}, vocabulary) }, func() {
				for from := 0; from < len(text); from += 4 << 10 {
					letters += vocabulary(text[from:min(from+4<<10, len(text))])
				}
			}},
		} {
			ours, ceiling := throughput(len(text), c.ours), throughput(len(text), c.ceiling)
			lines[i].ours, lines[i].ceiling = append(lines[i].ours, ours), append(lines[i].ceiling, ceiling)
		}
		l.say(fmt.Sprintf("C3 round %d", round+1))
	}
	if letters == 0 {
		return nil, errors.New("the text has no letters")
	}
	return lines, nil
}

// throughput repeats f for a quarter of a second at least and returns how many MB/s of its input it takes.
func throughput(size int, f func()) float64 {
	began, n := time.Now(), 0
	for time.Since(began) < 250*time.Millisecond {
		f()
		n++
	}
	return float64(n) * float64(size) / 1e6 / time.Since(began).Seconds()
}
