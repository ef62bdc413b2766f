package jobs

import (
	"context"
	"fmt"
	"math"

	"batchwright/internal/document"
	"batchwright/internal/prompt"
	"batchwright/internal/store"
)

// What a document's calls come to without cutting it up, which would take a forecast longer than planning. Chunks are full to a share that
// document.Split keeps to on any prose, and groups are what is left when a row is cut at random until no piece has more than most.
const chunkFill = 0.59

// weigh says how many calls the document's text takes. That parts are in the cache isn't seen; it shows in earlier batches, which correct it.
func (summarize) weigh(ctx context.Context, s *scale, in store.Input, p planned) (weight, error) {
	o := s.batch.options.(summarizeOptions)
	source, err := s.db.Source(ctx, s.batch.ProjectID, s.batch.ID, in.Seq)
	if err != nil {
		return weight{}, fmt.Errorf("read document: %w", err)
	}
	text, err := SourceText(source)
	if err != nil {
		return weight{}, err
	}
	tree := newSummary(p.route, o, document.Document{Text: text}, s.prices)
	total := tree.count(text)
	strategy, _ := tree.strategy(total)
	if strategy == "" { // it will fail without a call
		return weight{count: func(*prompt.Tokenizer) float64 { return 0 }}, nil
	}
	calls, read := tree.expect(strategy, total)
	lines := 0.0
	if o.Outline && !tree.mute {
		lines = min(float64(len(document.Sections(text))), mostLines*calls)
	}
	frame, form := tree.request(passage{form: wholeDocument}), labelTokens*lines
	return weight{calls: calls, caps: calls*float64(o.MaxTokens) + lines*lineTokens, count: func(t *prompt.Tokenizer) float64 {
		return float64(t.Count(text)) + read + form + calls*countMessages(t, frame.Messages)
	}}, nil
}

// labelTokens is what naming a section takes in a call that is asked for a line for it.
const labelTokens = 12

// expect estimates how many calls a strategy takes for the document, which has so many tokens, and how many tokens of summaries these read again.
func (s *summary) expect(strategy string, total int) (calls, read float64) {
	if strategy == bySingleCall {
		return 1, 0
	}
	answer := max(usualShare*float64(s.o.MaxTokens), 1)
	if strategy == byRefining {
		n := pieces(total, s.refineRoom())
		return n, (n - 1) * answer
	}
	n := pieces(total, s.limit)
	calls = n
	for most := float64(s.groupSize()); n > 1; {
		groups, alone := 1.0, 0.0
		if n > most {
			groups = math.Max(2*n/(most+1), 2)
			alone = 2 * n / (most * (most + 1))
		}
		calls += math.Max(groups-alone, 1)
		read += (n - alone) * answer
		n = groups
	}
	return calls, read
}

// pieces is how many chunks a document of so many tokens is cut into, when room of them fit one.
func pieces(total, room int) float64 {
	if total <= room {
		return 1
	}
	return math.Max(float64(total)/(chunkFill*float64(room)), 2)
}
