package jobs

import (
	"context"
	"encoding/json"
	"fmt"

	"batchwright/internal/document"
	"batchwright/internal/prompt"
	"batchwright/internal/store"
)

// weigh splits the document as its run will. How many calls the levels above take depends on how long the summaries get, which are taken to
// be half as long as they may be; and that parts are in the cache isn't seen. Both show in earlier batches, which correct it.
func (summarize) weigh(ctx context.Context, s *scale, in store.Input, p planned) (weight, error) {
	o := s.batch.options.(summarizeOptions)
	var ref documentRef
	if err := json.Unmarshal(in.Input, &ref); err != nil {
		return weight{}, fmt.Errorf("jobs: stored document reference: %w", err)
	}
	body, err := s.db.Document(ctx, s.batch.ProjectID, in.DocumentSHA256)
	if err != nil {
		return weight{}, fmt.Errorf("read document: %w", err)
	}
	doc, err := document.Extract(ref.Name, ref.ContentType, body.Body)
	if err != nil {
		return weight{}, err
	}
	limit := o.ChunkTokens
	if limit == 0 {
		limit = chunkLimit(p.route, o, s.prices)
	}
	tree := &summary{o: o}
	parts := document.Split(doc.Text, limit, prompt.EstimateTokens)
	if len(parts) <= 1 {
		r := tree.request("document", doc.Title, doc.Text)
		return weight{calls: 1, cap: o.MaxTokens, count: func(t *prompt.Tokenizer) float64 { return countMessages(t, r.Messages) }}, nil
	}
	answer := max(o.MaxTokens/2, 1)
	group := max(limit*2/3/answer, 2) // summaries in one call: Group fills it from a third to all of it
	calls, read := len(parts), 0      // read: tokens of summaries
	for n := len(parts); n > 1; n = (n + group - 1) / group {
		calls += (n + group - 1) / group
		read += n * answer
	}
	frame := tree.request("summaries", doc.Title, "")
	return weight{calls: float64(calls), cap: o.MaxTokens, count: func(t *prompt.Tokenizer) float64 {
		return float64(t.Count(doc.Text)+read) + float64(calls)*countMessages(t, frame.Messages)
	}}, nil
}
