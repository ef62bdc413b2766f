package gateway

import (
	"context"
	"math"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/clipperhouse/uax29/v2/words"
)

// The extractive summarizer picks sentences; it writes none. Sentences are the nodes of a graph and the likeness of two
// is the cosine of their tf-idf vectors (LexRank: Erkan and Radev, JAIR 22, 2004). A sentence ranks high that is like
// many others that rank high, with a mild preference for what stands early. The rank is Katz's centrality and not
// PageRank, as in LexRank: in a short document most sentences are like none, and PageRank gives every island of the
// graph its share however weak its ties are. Nothing in it knows a language: words come from the Unicode rules, and
// scripts that don't separate words are compared by pairs of letters.
//
// The same document and length give the same bytes on every machine: sums run in a fixed order over slices, products
// are rounded before they are added (no fused multiply-add), and equal ranks are broken by position.

const (
	rankAtOnce = 400  // sentences in one graph; the cost grows with its square
	rankBlock  = 200  // of a longer document, sentences ranked among themselves first
	rankKeep   = 4    // one in so many of a block goes on to the next round
	walks      = 40   // steps of the iteration; the order stands still well before
	damping    = 0.85 // of Katz's attenuation, whose bound is 1 over the largest sum of a row
	tooAlike   = 0.7  // cosine above which a sentence says again what is picked already
	fewWords   = 3    // terms below which a sentence is taken only when nothing else is left
	misfits    = 4    // sentences in a row that are too long for the room left, until we stop looking
	weak       = 0.8  // rank below which nothing is added, where 1 is the mean
)

// documentOf returns the text between the lines <document> and </document>, of every such pair, or all of s when
// there is none.
func documentOf(s string) string {
	var docs []string
	var doc []string
	inside, any := false, false
	for line := range strings.Lines(s) {
		switch strings.TrimSpace(line) {
		case "<document>":
			inside, any = true, true
		case "</document>":
			inside = false
			docs, doc = append(docs, strings.Join(doc, "")), nil
		default:
			if inside {
				doc = append(doc, line)
			}
		}
	}
	if !any {
		return s
	}
	return strings.Join(append(docs, strings.Join(doc, "")), "\n\n")
}

// extract summarises doc in at most size bytes, and in at most half of doc, but always with one sentence. The summary
// is not whole when even that sentence had to be cut; it is empty when doc has no words.
func extract(ctx context.Context, doc string, size int) (summary string, whole bool, err error) {
	picked, best, err := pickIn(ctx, doc, size)
	switch {
	case err != nil || best == nil:
		return "", true, err
	case len(picked) == 0:
		return cut(best.text, size), false, nil
	}
	return joined(picked), true, nil
}

// pickIn returns the sentences to keep in their original order, and the best of all, which may be too long to keep.
func pickIn(ctx context.Context, doc string, size int) (picked []*sentence, best *sentence, err error) {
	ss := sentencesIn(doc)
	weigh(ss)
	ss = slices.DeleteFunc(ss, func(s *sentence) bool { return len(s.terms) == 0 })
	if len(ss) == 0 {
		return nil, nil, nil
	}
	if err := rankAll(ctx, ss); err != nil {
		return nil, nil, err
	}
	total := 0
	for _, s := range ss {
		total += len(s.text)
	}
	ranked := slices.SortedFunc(slices.Values(ss), byRank)
	return pick(ranked, size, min(size, total/2)), ranked[0], nil
}

// A term is one word of a sentence and its tf-idf weight.
type term struct {
	id     int
	weight float64
}

type sentence struct {
	text      string
	paragraph int
	index     int // in the document
	terms     []term
	norm      float64
	round     int     // the last round of ranking that it reached
	score     float64 // in that round; the mean is 1
}

// byRank orders the best first.
func byRank(a, b *sentence) int {
	switch {
	case (len(a.terms) < fewWords) != (len(b.terms) < fewWords):
		if len(a.terms) < fewWords {
			return 1
		}
		return -1
	case a.round != b.round:
		return b.round - a.round
	case a.score > b.score:
		return -1
	case a.score < b.score:
		return 1
	}
	return a.index - b.index
}

// weigh splits the sentences into terms and weighs them.
func weigh(ss []*sentence) {
	ids := map[string]int{}
	var holders []int // per term, in how many sentences it is
	for _, s := range ss {
		var in []int
		eachTerm(s.text, func(t string) {
			id, ok := ids[t]
			if !ok {
				id = len(holders)
				ids[t] = id
				holders = append(holders, 0)
			}
			in = append(in, id)
		})
		slices.Sort(in)
		for i, id := range in {
			if i == 0 || in[i-1] != id {
				s.terms = append(s.terms, term{id: id})
				holders[id]++
			}
			s.terms[len(s.terms)-1].weight++
		}
	}
	rare := make([]float64, len(holders))
	for id, n := range holders {
		// The logarithm is the one operation that may differ in its last bit between machines: round it away.
		rare[id] = math.Round(math.Log(1+float64(len(ss))/float64(n))*4096) / 4096
	}
	for _, s := range ss {
		sum := 0.0
		for i := range s.terms {
			t := &s.terms[i]
			t.weight *= rare[t.id]
			sum += float64(t.weight * t.weight)
		}
		s.norm = math.Sqrt(sum)
	}
}

// rankAll sets round and score. A long document is ranked in blocks, the best of each go on to the next round, until
// they fit one graph; the others keep the rank of their block, behind.
func rankAll(ctx context.Context, ss []*sentence) error {
	for round := 0; ; round++ {
		if len(ss) <= rankAtOnce {
			return rank(ctx, ss, round)
		}
		var next []*sentence
		for block := range slices.Chunk(ss, rankBlock) {
			if err := rank(ctx, block, round); err != nil {
				return err
			}
			best := slices.SortedFunc(slices.Values(block), byRank)
			best = best[:(len(best)+rankKeep-1)/rankKeep]
			slices.SortFunc(best, func(a, b *sentence) int { return a.index - b.index })
			next = append(next, best...)
		}
		ss = next
	}
}

// rank sets the scores of sentences that share a graph.
func rank(ctx context.Context, ss []*sentence, round int) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	n := len(ss)
	alike, most := likeness(ss)
	start := make([]float64, n) // what a sentence is worth by its place
	for i, s := range ss {
		start[i] = 1 + 1/float64(1+s.index)
	}
	pull := 0.0
	if most > 0 {
		pull = damping / most
	}
	score, next := slices.Clone(start), make([]float64, n)
	for range walks {
		copy(next, start)
		for i, share := range score {
			share *= pull
			for j, a := range alike[i*n : (i+1)*n] {
				next[j] += float64(share * a)
			}
		}
		score, next = next, score
	}
	sum := 0.0
	for _, s := range score {
		sum += s
	}
	for i, s := range ss {
		s.round, s.score = round, score[i]*float64(n)/sum
	}
	return nil
}

// likeness returns the n*n cosines, and the largest sum of a row.
func likeness(ss []*sentence) (alike []float64, most float64) {
	n := len(ss)
	alike = make([]float64, n*n)
	last := 0
	for _, s := range ss {
		last = max(last, s.terms[len(s.terms)-1].id)
	}
	dense := make([]float64, last+1)
	for i, a := range ss {
		for _, t := range a.terms {
			dense[t.id] = t.weight
		}
		for j := i + 1; j < n; j++ {
			dot := 0.0
			for _, t := range ss[j].terms {
				dot += float64(dense[t.id] * t.weight)
			}
			c := dot / float64(a.norm*ss[j].norm)
			alike[i*n+j], alike[j*n+i] = c, c
		}
		for _, t := range a.terms {
			dense[t.id] = 0
		}
	}
	for row := range slices.Chunk(alike, n) {
		sum := 0.0
		for _, c := range row {
			sum += c
		}
		most = max(most, sum)
	}
	return alike, most
}

// cosine of two sentences, by merging their sorted terms.
func cosine(a, b *sentence) float64 {
	dot := 0.0
	for i, j := 0, 0; i < len(a.terms) && j < len(b.terms); {
		switch d := a.terms[i].id - b.terms[j].id; {
		case d < 0:
			i++
		case d > 0:
			j++
		default:
			dot += float64(a.terms[i].weight * b.terms[j].weight)
			i++
			j++
		}
	}
	return dot / float64(a.norm*b.norm)
}

// pick takes the best sentences that fit. The first may be as long as size, all together as long as room.
func pick(ranked []*sentence, size, room int) []*sentence {
	var picked []*sentence
	used, missed := 0, 0
	for _, s := range ranked {
		limit := room
		if len(picked) == 0 {
			limit = size
		} else if missed >= misfits || len(s.terms) < fewWords || s.score < weak {
			break
		}
		if used+len(s.text)+1 > limit+1 {
			missed++
			continue
		}
		if slices.ContainsFunc(picked, func(p *sentence) bool { return cosine(p, s) >= tooAlike }) {
			continue
		}
		picked = append(picked, s)
		used += len(s.text) + 1
		missed = 0
	}
	slices.SortFunc(picked, func(a, b *sentence) int { return a.index - b.index })
	return picked
}

// joined puts sentences of one paragraph on one line.
func joined(picked []*sentence) string {
	var b strings.Builder
	for i, s := range picked {
		if i > 0 {
			last, _ := utf8.DecodeLastRuneInString(picked[i-1].text)
			switch {
			case s.paragraph != picked[i-1].paragraph:
				b.WriteByte('\n')
			case !unbroken(last) && last < 0x3000: // no space after the full stops of Chinese and Japanese
				b.WriteByte(' ')
			}
		}
		b.WriteString(s.text)
	}
	return b.String()
}

// cut shortens a sentence to size bytes, at a word's end if there is one.
func cut(s string, size int) string {
	if len(s) <= size {
		return s
	}
	for size > 0 && !utf8.RuneStart(s[size]) {
		size--
	}
	if i := strings.LastIndexFunc(s[:size], unicode.IsSpace); i > 0 {
		size = i
	}
	if size == 0 { // not even one letter fits: the first one, rather than nothing
		_, size = utf8.DecodeRuneInString(s)
	}
	return strings.TrimSpace(s[:size])
}

// eachTerm calls f with the terms of a sentence: words in lower case, and of scripts that don't separate words, pairs
// of neighbouring letters.
func eachTerm(s string, f func(string)) {
	var last string // the letter before, in a run of an unbroken script
	alone := false
	flush := func() {
		if alone {
			f(last)
		}
		last, alone = "", false
	}
	for it := words.FromString(strings.ToLower(s)); it.Next(); {
		w := it.Value()
		r, _ := utf8.DecodeRuneInString(w)
		switch {
		case unbroken(r):
			if last != "" {
				f(last + w)
			}
			last, alone = w, last == ""
			continue
		case (unicode.IsLetter(r) || unicode.IsNumber(r)) && len(w) <= 64:
			flush()
			f(w)
		default:
			flush()
		}
	}
	flush()
}

// unbroken reports whether a letter belongs to a script that is written without spaces between words and that the
// Unicode word rules take letter by letter. Katakana and Hangul are not among them.
func unbroken(r rune) bool {
	return r >= 0x0e00 && unicode.In(r, unicode.Han, unicode.Hiragana, unicode.Thai, unicode.Lao, unicode.Khmer,
		unicode.Myanmar, unicode.Tibetan)
}
