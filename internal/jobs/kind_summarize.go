package jobs

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"batchwright/internal/document"
	"batchwright/internal/fault"
	"batchwright/internal/gateway"
	"batchwright/internal/pricing"
	"batchwright/internal/prompt"
	"batchwright/internal/store"
)

func init() { register(summarize{}) }

// summarize turns a document into a summary. A document that is longer than one call may be is cut into chunks at sentence ends, each is
// summarised, and the summaries are summarised in turn until one is left. Nothing is dropped on the way.
//
// The answers of all calls but the last are kept in the durable cache as well, so an edited document pays for its changed chunks only, and
// a job that is interrupted goes on where it was.
type summarize struct{}

// summarizeOptions are the kind's params.
type summarizeOptions struct {
	Length      string `json:"length,omitempty"`       // short, medium (default) or long
	Language    string `json:"language,omitempty"`     // of the summary; default: the document's
	Focus       string `json:"focus,omitempty"`        // what the reader wants to know
	MaxTokens   int    `json:"max_tokens,omitempty"`   // cap on each answer; default by length
	ChunkTokens int    `json:"chunk_tokens,omitempty"` // most tokens of a document in one call; default: what the route's models can read
}

// summarizeVersion is part of every key: raise it when the prompts or the way of chunking change.
const summarizeVersion = "1"

var lengths = map[string]struct {
	maxTokens int
	words     string
}{
	"short":  {160, "2 to 3 sentences"},
	"medium": {400, "5 to 8 sentences"},
	"long":   {900, "several short paragraphs"},
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
	switch _, known := lengths[o.Length]; {
	case !known:
		return nil, invalidf("params.length", "%.40q is unknown: want short, medium or long", o.Length)
	case len(o.Language) > 60 || len(o.Focus) > 2000:
		return nil, invalidf("params", "language has at most 60 bytes and focus at most 2000")
	case o.MaxTokens < 0 || o.MaxTokens > 100_000:
		return nil, invalidf("params.max_tokens", "is not between 1 and 100000")
	case o.ChunkTokens != 0 && (o.ChunkTokens < 200 || o.ChunkTokens > 2_000_000):
		return nil, invalidf("params.chunk_tokens", "is not between 200 and 2000000")
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

func (summarize) decode(raw json.RawMessage) (any, error) {
	var o summarizeOptions
	err := json.Unmarshal(raw, &o)
	return o, err
}

// documentRef is the stored input; the content is in documents.
type documentRef struct {
	Name        string `json:"name,omitempty"`
	ContentType string `json:"content_type,omitempty"`
}

func (summarize) accept(_ *batch, l *line) (json.RawMessage, *store.NewDocument, *LineError) {
	ref := documentRef{}
	var data []byte
	if l.upload != nil {
		ref, data = documentRef{l.upload.Name, l.upload.ContentType}, bytes.Clone(l.upload.Data) // the next file may overwrite it
	} else {
		if err := l.only("document"); err != nil {
			return nil, nil, err
		}
		ref, data = documentRef{l.Document.Name, l.Document.ContentType}, []byte(l.Document.Text)
	}
	if _, err := document.Extract(ref.Name, ref.ContentType, data); err != nil {
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
	p := planned{route: b.routeOf(in.Input, in.DocumentSHA256, nil), bytes: int(in.DocumentBytes)}
	for _, name := range p.route.answerers("") {
		p.keys = append(p.keys, treeKey(b, name, in.Input, in.DocumentSHA256))
	}
	return p, nil
}

// treeKey is the key of a whole document's summary: what goes in, not how many calls it takes.
func treeKey(b *batch, answerer string, ref json.RawMessage, sha []byte) prompt.Key {
	return prompt.DeriveKey("summarize/"+summarizeVersion, []byte(answerer), b.Params, ref, sha)
}

func (summarize) run(ctx context.Context, t *task) (result, error) {
	o := t.batch.options.(summarizeOptions)
	var ref documentRef
	if err := json.Unmarshal(t.job.Input, &ref); err != nil {
		return result{}, fmt.Errorf("jobs: stored document reference: %w", err)
	}
	body, err := t.w.DB.Document(ctx, t.batch.ProjectID, t.job.DocumentSHA256)
	if errors.Is(err, store.ErrNotFound) {
		return result{}, failf(gateway.InvalidRequest, "the document was purged: submit it again")
	} else if err != nil {
		return result{}, t.fault("read document", err)
	}
	doc, err := document.Extract(ref.Name, ref.ContentType, body.Body)
	if err != nil {
		code, message := documentProblem(err)
		return result{}, failf(gateway.InvalidRequest, "%s: %s", code, message)
	}
	t.route = t.batch.routeOf(t.job.Input, t.job.DocumentSHA256, nil)
	t.stable.Messages = 1 // the instructions
	t.capField = "params.max_tokens"
	limit := o.ChunkTokens
	if limit == 0 {
		limit = chunkLimit(t.route, o, t.w.Prices)
	}
	s := &summary{t: t, o: o, limit: limit, hit: true}
	out, err := s.tree(ctx, doc)
	if err != nil {
		return out, err
	}
	// The summary is as good as its weakest part: an answer of a fallback anywhere makes it the fallback's.
	s.note(out)
	out.hit = s.hit
	out.resultKey = treeKey(t.batch, t.route.Steps[s.step].answerer(""), t.job.Input, t.job.DocumentSHA256)
	return out, nil
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
	out := maxChunk
	for _, s := range r.Steps {
		window := unknownWindow
		if p, ok := prices.Lookup(s.Provider, s.Model, fault.Now()); ok && p.ContextWindow > 0 {
			window = p.ContextWindow
		}
		out = min(out, (window-o.MaxTokens-300)*3/4)
	}
	return max(out, minChunk)
}

// summary builds one document's summary tree.
type summary struct {
	t     *task
	o     summarizeOptions
	limit int // tokens of text in one call

	mu   sync.Mutex
	step int  // the last step of the route that answered any of it
	hit  bool // the gateway's cache answered all of it
}

func (s *summary) note(part result) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.step, s.hit = max(s.step, part.step), s.hit && part.hit
}

// chunkCalls is how many calls of one document may be in flight at once. In a batch whose concurrency is limited it is one, so that there
// are never more calls than jobs.
const chunkCalls = 8

func (s *summary) tree(ctx context.Context, doc document.Document) (result, error) {
	var parts []string
	for _, c := range document.Split(doc.Text, s.limit, prompt.EstimateTokens) {
		parts = append(parts, strings.TrimRight(c.Text, " \t\r\n")) // the same, whether text follows or not
	}
	if len(parts) == 1 {
		return s.t.complete(ctx, s.request("document", doc.Title, parts[0]))
	}
	level, err := s.each(ctx, "part", doc.Title, parts)
	if err != nil {
		return result{}, err
	}
	for size := len(doc.Text); ; {
		groups := document.Group(level, s.limit, prompt.EstimateTokens)
		next := make([]string, len(groups))
		total := 0
		for i, g := range groups {
			texts := make([]string, len(g))
			for j, k := range g {
				texts[j] = level[k]
			}
			next[i] = strings.Join(texts, "\n\n")
			total += len(next[i])
		}
		if len(next) == 1 {
			return s.t.complete(ctx, s.request("summaries", doc.Title, next[0]))
		}
		if total >= size {
			return result{}, failf(gateway.InvalidOutput, "the summaries of the document's parts don't get shorter: lower max_tokens or raise chunk_tokens")
		}
		size = total
		if level, err = s.each(ctx, "summaries", doc.Title, next); err != nil {
			return result{}, err
		}
	}
}

// each summarises texts side by side. What was answered before isn't asked again, nor in a batch that keeps out of the cache what an earlier
// attempt at the job was answered: it is paid for, and else a budget with room for one call at a time would be spent on the first of them.
func (s *summary) each(ctx context.Context, what, title string, texts []string) ([]string, error) {
	out, requests := make([]string, len(texts)), make([]*prompt.Request, len(texts))
	for i, text := range texts {
		requests[i] = s.request(what, title, text)
	}
	if s.t.batch.Reads() || s.t.lease.ticket.Purpose == store.PurposeRetry {
		if err := s.lookUp(ctx, requests, out); err != nil {
			return nil, err
		}
	}
	g, gctx := errgroup.WithContext(ctx)
	if s.t.batch.standing().Concurrency != nil {
		g.SetLimit(1)
	} else {
		g.SetLimit(chunkCalls)
	}
	for i := range texts {
		if out[i] != "" {
			continue
		}
		g.Go(guarded(func() error {
			if gctx.Err() != nil {
				return context.Cause(gctx)
			}
			part, err := s.t.complete(ctx, requests[i]) // not gctx: what is in flight when another part fails is paid for, and kept
			if err != nil {
				return err
			}
			out[i] = part.output
			s.note(part)
			return s.t.keepPart(context.WithoutCancel(ctx), part) // paid for, whatever becomes of the others
		}))
	}
	return out, g.Wait()
}

// lookUp puts the answers that there are into out.
func (s *summary) lookUp(ctx context.Context, requests []*prompt.Request, out []string) error {
	names := s.t.route.answerers("")
	keys := make([][]prompt.Key, len(requests))
	var flat [][]byte
	for i, r := range requests {
		keys[i] = r.Keys(names)
		for j := range keys[i] {
			if !s.t.batch.Reads() {
				keys[i][j] = s.t.partKey(keys[i][j])
			}
			flat = append(flat, keys[i][j][:])
		}
	}
	answers, err := s.t.w.DB.LookUp(ctx, s.t.batch.ProjectID, flat, s.t.batch.Oldest())
	if err != nil {
		return s.t.fault("look up parts", err)
	}
	known := make(map[prompt.Key]string, len(answers))
	for _, a := range answers {
		known[prompt.Key(a.Key)] = a.Output
	}
	for i := range keys {
		for _, k := range keys[i] {
			if out[i] == "" {
				out[i] = known[k]
			}
		}
	}
	return nil
}

// keepPart writes a part answer, and the calls so far, before the rest of the job is done.
func (t *task) keepPart(ctx context.Context, part result) error {
	answer := store.Completion{
		ProjectID: t.batch.ProjectID, Key: part.resultKey, Refresh: t.batch.Renews(), Model: part.model, Provider: t.route.Steps[part.step].Provider,
		AnsweredBy: clean(part.by), Format: part.format, Output: clean(part.output),
	}
	if t.batch.Reads() {
		return t.flush(ctx, answer)
	}
	own := answer
	own.Key, own.Refresh = t.partKey(answer.Key), false
	if t.batch.Cache == "off" {
		return t.flush(ctx, own)
	}
	return t.flush(ctx, own, answer)
}

// partKey is a key of a part's answer that only this job looks up.
func (t *task) partKey(k prompt.Key) prompt.Key {
	return prompt.DeriveKey("part", []byte(JobID(t.batch.ID, t.job.Seq)), k[:])
}

// request renders one call. The stable part comes first: it is the same for every document of a batch.
func (s *summary) request(what, title, text string) *prompt.Request {
	var b strings.Builder
	b.WriteString("You summarise documents faithfully. Use only what the text says: no opinions, no additions. Keep names, figures and dates exact.\n")
	fmt.Fprintf(&b, "Answer with the summary alone, in %s", lengths[s.o.Length].words)
	if s.o.Language != "" {
		fmt.Fprintf(&b, ", in %s.", s.o.Language)
	} else {
		b.WriteString(", in the language of the document.")
	}
	if s.o.Focus != "" {
		fmt.Fprintf(&b, "\nThe reader wants to know: %s", s.o.Focus)
	}
	var user strings.Builder
	switch what {
	case "part":
		user.WriteString("This is one part of a longer document. Summarise it so that its summary can be joined with those of the other parts.\n")
	case "summaries":
		user.WriteString("These are summaries of consecutive parts of one document. Combine them into one summary of the whole.\n")
	}
	if title != "" {
		fmt.Fprintf(&user, "Title: %s\n", title)
	}
	user.WriteString("<document>\n")
	user.WriteString(text)
	user.WriteString("\n</document>")
	return &prompt.Request{
		Messages:  []prompt.Message{{Role: "system", Content: b.String()}, {Role: "user", Content: user.String()}},
		MaxTokens: s.o.MaxTokens,
	}
}
