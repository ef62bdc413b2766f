package jobs

import (
	"bytes"
	"context"
	"slices"
	"strconv"

	"batchwright/internal/pricing"
	"batchwright/internal/prompt"
	"batchwright/internal/store"
)

// planned is what planning found out about a job.
type planned struct {
	keys    []prompt.Key
	route   Route           // the steps that it may take
	request *prompt.Request // of kinds that render one
	model   string          // that the job names itself
	size    int             // bytes of what goes in, or characters of a text
}

// weight is what the calls of one job take.
type weight struct {
	calls float64
	caps  float64                         // most tokens of their answers; 0 for none
	count func(*prompt.Tokenizer) float64 // input tokens of all calls
}

// weigher is implemented by kinds that make calls of their own, and not through other kinds.
type weigher interface {
	// weigh says what the calls of a planned job take. It is asked of a sample of a batch's jobs.
	weigh(ctx context.Context, s *scale, in store.Input, p planned) (weight, error)
}

// A scale weighs the jobs of a range for the forecast, while they are planned. It counts the tokens of at most some thousand jobs of a batch,
// spread evenly over it; for the others it adds up bytes, so that a million jobs are weighed in constant memory, and in a few milliseconds more than
// it takes to plan them. That is a ratio estimate (Cochran, Sampling Techniques, chapter 6): with jobs whose tokens a byte differ by a third
// it is right to 1 %.
type scale struct {
	db     store.Reader
	batch  *batch // or its first stage
	prices *pricing.Table
	every  int32 // job that is counted

	later   []*laterStage
	chains  map[string]*chain // of the renderer only
	only    *chain            // of a route without branches whose steps name their models
	hits    int64
	invalid int64
	sums    []*chain
}

// chain sums up the jobs that may take the same steps.
type chain struct {
	store.PlanSum
	tokenizers []*prompt.Tokenizer
	listed     bool
}

// load is a planned job on its way to the scale.
type load struct {
	chain *chain // nil for one that can't run
	size  int32
	count *counted // nil for most
}

type counted struct {
	in store.Input
	planned
}

// How many jobs of a batch are counted. A document has to be read and split for it.
const (
	countJobs      = 2000
	countDocuments = 100
)

func newScale(db store.Reader, b *batch, prices *pricing.Table) *scale {
	stages := b.stages()
	s := &scale{db: db, batch: stages[0], prices: prices, chains: map[string]*chain{}}
	most := countJobs
	if _, documents := s.batch.kind.(summarize); documents {
		most = countDocuments
	}
	s.every = int32(max(1, b.TotalJobs/int64(most)))
	if o, ok := b.options.(*pipelineOptions); ok {
		for i := range o.stages[1:] {
			s.later = append(s.later, newLaterStage(o, i+1))
		}
	}
	return s
}

// put takes a job and what planning found of it. Its input is valid until the next one.
func (s *scale) put(in store.Input, p planned) load {
	if p.keys == nil {
		return load{}
	}
	l := load{chain: s.chain(&p), size: int32(min(p.size, 1<<30))}
	if in.Seq%s.every == 0 {
		in.Input, in.DocumentSHA256 = bytes.Clone(in.Input), bytes.Clone(in.DocumentSHA256)
		l.count = &counted{in, p}
	}
	return l
}

// chain finds the sums that a job belongs to. Only the goroutine that renders may call it.
func (s *scale) chain(p *planned) *chain {
	if s.only != nil {
		return s.only
	}
	var name []byte
	model, own := "", true
	for i, step := range p.route.Steps {
		name = append(strconv.AppendInt(name, int64(s.at(p.route, i)), 10), ',')
		own = own && step.Model != ""
	}
	if !own {
		model = clean(p.model)
	}
	name = append(name, model...)
	if c := s.chains[string(name)]; c != nil {
		return c
	}
	c := newChain(p.route, model)
	for i := range c.Steps {
		c.Steps[i] = s.at(p.route, i)
	}
	s.chains[string(name)] = c
	if own && !s.batch.route.branching() {
		s.only = c
	}
	return c
}

func newChain(r Route, model string) *chain {
	c := &chain{PlanSum: store.PlanSum{Model: model, CountedTokens: make([]float64, len(r.Steps))}}
	for i, step := range r.Steps {
		c.Steps = append(c.Steps, int32(i))
		c.tokenizers = append(c.tokenizers, prompt.TokenizerOf(step.named(model)))
	}
	return c
}

// at is the index, in the route as it was saved, of a step that a job may take.
func (s *scale) at(r Route, i int) int32 {
	if !s.batch.route.branching() {
		return int32(i)
	}
	return int32(r.Steps[i].index)
}

// tally adds a part, now that it is known what the cache answers, and returns the sums behind the last one.
func (s *scale) tally(ctx context.Context, p part, hits []*store.Hit, last bool) []store.PlanSum {
	for i := range p.jobs {
		switch l := &p.jobs[i]; {
		case l.chain == nil:
			s.invalid++
		case hits[i] != nil:
			s.hits++
		default:
			s.add(ctx, l)
		}
	}
	if !last {
		return nil
	}
	sums := []store.PlanSum{{Hits: s.hits, Invalid: s.invalid}}
	for _, c := range s.sums {
		sums = append(sums, c.PlanSum)
	}
	for _, l := range s.later {
		sums = append(sums, l.PlanSum)
	}
	return sums
}

func (s *scale) add(ctx context.Context, l *load) {
	c := l.chain
	if !c.listed {
		c.listed, s.sums = true, append(s.sums, c)
	}
	c.Jobs++
	c.Bytes += int64(l.size)
	for _, st := range s.later {
		st.Jobs++
	}
	if l.count == nil {
		return
	}
	counted := c.count(int64(l.size), func() (weight, error) { return s.batch.kind.(weigher).weigh(ctx, s, l.count.in, l.count.planned) })
	for _, st := range s.later {
		if counted {
			st.count(0, func() (weight, error) { return st.weigh(l.count.in) })
		}
	}
}

// count adds what a job's calls take, and reports whether that could be found out. A job whose can't will fail when it runs, and say why; the
// forecast goes by the others.
func (c *chain) count(size int64, weigh func() (weight, error)) bool {
	var w weight
	tokens := make([]float64, len(c.tokenizers))
	err := guarded(func() (err error) {
		if w, err = weigh(); err != nil {
			return err
		}
		for i, t := range c.tokenizers {
			if same := slices.Index(c.tokenizers[:i], t); same >= 0 {
				tokens[i] = tokens[same]
			} else {
				tokens[i] = w.count(t)
			}
		}
		return nil
	})()
	if err != nil {
		return false
	}
	c.CountedJobs++
	c.CountedBytes += size
	c.CountedCalls += w.calls
	c.CountedCaps += w.caps
	for i, n := range tokens {
		c.CountedTokens[i] += n
	}
	return true
}

// countMessages counts what a model reads of messages: their texts, four tokens around each and three before the answer, as OpenAI's models
// have it (https://cookbook.openai.com/examples/how_to_count_tokens_with_tiktoken_for_chat_completions). Others do with about as many.
func countMessages(t *prompt.Tokenizer, messages []prompt.Message) float64 {
	n := 3
	for _, m := range messages {
		n += 4 + t.Count(m.Content)
	}
	return float64(n)
}
