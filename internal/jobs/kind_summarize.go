package jobs

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"

	"batchwright/internal/document"
	"batchwright/internal/fault"
	"batchwright/internal/gateway"
	"batchwright/internal/pricing"
	"batchwright/internal/prompt"
	"batchwright/internal/store"
)

func init() { register(summarize{}) }

// summarize turns a document into a summary; [summary] says how.
//
// The answers of all calls but the last are kept in the durable cache as well, so an edited document pays for its changed chunks only, and
// a job that is interrupted goes on where it was.
type summarize struct{}

// summarizeOptions are the kind's params.
type summarizeOptions struct {
	Length            string `json:"length,omitempty"`              // short, medium (default) or long
	Bullets           bool   `json:"bullets,omitempty"`             // a list instead of prose
	Audience          string `json:"audience,omitempty"`            // who reads it; default: nobody in particular
	Language          string `json:"language,omitempty"`            // of the summary; default: the document's
	Focus             string `json:"focus,omitempty"`               // what the reader wants to know
	Strategy          string `json:"strategy,omitempty"`            // single, map_reduce or refine; default: by size
	Outline           bool   `json:"outline,omitempty"`             // a line for each section as well
	MaxTokens         int    `json:"max_tokens,omitempty"`          // cap on each answer; default by length
	ChunkTokens       int    `json:"chunk_tokens,omitempty"`        // most tokens of a document in one call; default: what the route's models can read
	ChunkTargetTokens int    `json:"chunk_target_tokens,omitempty"` // more than that is divided where there is a heading; default: by chunk_tokens
	ChunkMinTokens    int    `json:"chunk_min_tokens,omitempty"`    // default: by chunk_tokens
}

// summarizeVersion is part of every key: raise it when the prompts or the way of chunking change.
const summarizeVersion = "2"

var lengths = map[string]struct {
	maxTokens int
	words     string
	bullets   string
}{
	"short":  {160, "2 to 3 sentences", "2 to 3 bullet points"},
	"medium": {400, "5 to 8 sentences", "5 to 8 bullet points"},
	"long":   {900, "several short paragraphs", "10 to 20 bullet points"},
}

func (summarize) name() string        { return "summarize" }
func (summarize) needsTemplate() bool { return false }
func (summarize) needsModel() bool    { return true }

func (summarize) params(raw json.RawMessage) (json.RawMessage, *Error) {
	var o summarizeOptions
	if len(raw) > 0 {
		d := json.NewDecoder(bytes.NewReader(raw))
		d.DisallowUnknownFields()
		if err := d.Decode(&o); err != nil {
			return nil, invalidf("params", "%s", jsonProblem(err))
		}
	}
	if o.Length == "" {
		o.Length = "medium"
	}
	if err := o.check(); err != nil {
		return nil, err
	}
	if o.Strategy == byOneCallOrTree {
		o.Strategy = ""
	}
	if o.MaxTokens == 0 {
		o.MaxTokens = lengths[o.Length].maxTokens
	}
	out, err := json.Marshal(o)
	if err != nil {
		return nil, invalidf("params", "%s", err)
	}
	return out, nil
}

func (o *summarizeOptions) check() *Error {
	switch _, known := lengths[o.Length]; {
	case !known:
		return invalidf("params.length", "%.40q is unknown: want short, medium or long", o.Length)
	case len(o.Language) > 60 || len(o.Audience) > 200 || len(o.Focus) > 2000:
		return invalidf("params", "language has at most 60 bytes, audience 200 and focus 2000")
	case o.MaxTokens < 0 || o.MaxTokens > 100_000:
		return invalidf("params.max_tokens", "is not between 1 and 100000")
	case o.ChunkTokens != 0 && (o.ChunkTokens < 200 || o.ChunkTokens > 2_000_000):
		return invalidf("params.chunk_tokens", "is not between 200 and 2000000")
	case o.ChunkTargetTokens < 0 || o.ChunkMinTokens < 0:
		return invalidf("params", "chunk_target_tokens and chunk_min_tokens are not below 0")
	case o.ChunkTokens != 0 && o.ChunkTargetTokens > o.ChunkTokens:
		return invalidf("params.chunk_target_tokens", "is more than chunk_tokens")
	case o.ChunkTokens != 0 && o.ChunkMinTokens > o.ChunkTokens/2:
		return invalidf("params.chunk_min_tokens", "is more than half of chunk_tokens")
	case o.ChunkTargetTokens != 0 && o.ChunkMinTokens > o.ChunkTargetTokens:
		return invalidf("params.chunk_min_tokens", "is more than chunk_target_tokens")
	}
	switch o.Strategy {
	case "", byOneCallOrTree, bySingleCall, byTree, byRefining:
		return nil
	}
	return invalidf("params.strategy", "%.40q is unknown: want auto, single, map_reduce or refine", o.Strategy)
}

func (summarize) decode(raw json.RawMessage) (any, error) {
	var o summarizeOptions
	err := json.Unmarshal(raw, &o)
	return o, err
}

// accept looks at what a document is. Reading it is for the plan.
func (summarize) accept(_ *batch, l *line) (json.RawMessage, *store.NewDocument, *LineError) {
	ref := documentRef{}
	var data []byte
	if l.upload != nil {
		ref, data = documentRef{Name: l.upload.Name, ContentType: l.upload.ContentType}, bytes.Clone(l.upload.Data) // the next file may overwrite it
	} else {
		if err := l.only("document"); err != nil {
			return nil, nil, err
		}
		ref, data = documentRef{Name: l.Document.Name, ContentType: l.Document.ContentType}, []byte(l.Document.Text)
	}
	var err error
	if ref.Format, err = document.Detect(ref.Name, ref.ContentType, data); err != nil {
		code, message := documentProblem(err)
		return nil, nil, l.problem("document", code, message)
	}
	input, err := json.Marshal(ref)
	if err != nil {
		return nil, nil, l.problem("document", "invalid", "has a name that can't be stored")
	}
	sum := sha256.Sum256(data)
	return input, &store.NewDocument{SHA256: sum[:], ContentType: ref.ContentType, Body: data}, nil
}

func documentProblem(err error) (code, message string) {
	if e, ok := errors.AsType[*document.Error](err); ok {
		return string(e.Code), e.Message
	}
	return "unreadable", "the document can't be read"
}

func (summarize) plan(b *batch, in store.Input) (planned, error) {
	p := planned{route: b.routeOf(nil, in.TextSHA256, nil), size: int(in.TextCharacters)}
	for _, name := range p.route.answerers("") {
		p.keys = append(p.keys, treeKey(b, name, in.TextSHA256))
	}
	return p, nil
}

// treeKey is the key of a whole document's summary: the hash of the text that goes in, not how many calls it takes.
func treeKey(b *batch, answerer string, text []byte) prompt.Key {
	return prompt.DeriveKey("summarize/"+summarizeVersion, []byte(answerer), b.Params, text)
}

func (summarize) run(ctx context.Context, t *task) (result, error) {
	o := t.batch.options.(summarizeOptions)
	doc, sum, err := t.text(ctx)
	if err != nil {
		return result{}, err
	}
	t.route = t.batch.routeOf(nil, sum, nil)
	t.stable.Messages = 1 // the instructions
	t.capField = "params.max_tokens"
	calls := &partCalls{t: t, hit: true}
	s := newSummary(t.route, o, doc, t.w.Prices)
	s.ask = calls.each
	out, err := s.build(ctx)
	if err != nil {
		return out.result, err
	}
	if out.details, err = json.Marshal(out.summaryDetails); err != nil {
		return result{}, fmt.Errorf("jobs: details of a summary: %w", err)
	}
	// The summary is as good as its weakest part: an answer of a fallback anywhere makes it the fallback's.
	out.hit, out.reused = calls.hit, out.Coverage.CallsMade == 0
	out.resultKey = treeKey(t.batch, t.route.Steps[calls.step].answerer(""), sum)
	return out.result, nil
}

// newSummary is the summary of a document, but for who is asked. It counts tokens as the first model of the job's route does. All its steps
// are asked about the same chunks, whichever answers, so that what one of them answered serves when another is asked next: boundaries
// depend on one tokenizer. That another may count a third more is what chunkLimit leaves room for.
func newSummary(r Route, o summarizeOptions, doc document.Document, prices *pricing.Table) *summary {
	return &summary{o: o, title: doc.Title, text: doc.Text, limit: cmp.Or(o.ChunkTokens, chunkLimit(r, o, prices)), count: prompt.TokenizerOf(r.Steps[0].Model).Count,
		mute: r.Steps[0].Model == gateway.Extractive}
}

// Bounds of a chunk, in tokens, when the params don't set it.
const (
	unknownWindow = 8192    // the context window of a model that the price table doesn't know
	maxChunk      = 100_000 // beyond this, models lose the middle of a text
	minChunk      = 500
)

// chunkLimit returns how many tokens of a document one call may carry: what every model of the route can read beside the instructions and
// its own answer, with a quarter to spare because tokens are estimated.
func chunkLimit(r Route, o summarizeOptions, prices *pricing.Table) int {
	out, beside := maxChunk, o.MaxTokens+300
	if o.Outline {
		beside += 2 * mostLines * lineTokens // the headings and the lines
	}
	for _, s := range r.Steps {
		window := unknownWindow
		if p, ok := prices.Lookup(s.Provider, s.Model, fault.Now()); ok && p.ContextWindow > 0 {
			window = p.ContextWindow
		}
		out = min(out, (window-beside)*3/4)
	}
	return max(out, minChunk)
}
