package jobs

import (
	"encoding/json"
	"math"
	"math/rand/v2"
	"slices"

	"github.com/google/uuid"

	"batchwright/internal/gateway"
	"batchwright/internal/prompt"
	"batchwright/internal/store"
)

// likeness says how near an earlier batch is to this one, and by how much the mean length of its answers may be another.
type likeness struct {
	name  string
	drift float64
	fits  func(u *store.PastUse) bool
}

// likenesses are in the order of preference: the first that any batch has counts, and no other.
func (f *forecaster) likenesses() []likeness {
	version := func(u *store.PastUse) bool { return f.TemplateID != nil && u.TemplateID == *f.TemplateID }
	template := func(u *store.PastUse) bool { return f.TemplateName != nil && u.TemplateName == *f.TemplateName }
	params := func(u *store.PastUse) bool { return f.options != nil && u.Params == string(f.Params) }
	every := func(*store.PastUse) bool { return true }
	other := 0.3 // of bodies
	if f.kind.needsTemplate() || len(f.stages()) > 1 {
		other = 0.5 // of templates
	}
	return []likeness{{"version", 0.12, version}, {"template", 0.25, template}, {"params", 0.15, params}, {"kind", other, every}}
}

// nearest returns what is known of a model from the batches that are most like this one.
func (f *forecaster) nearest(n named, has func(u *store.PastUse) bool) ([]*store.PastUse, likeness) {
	for _, l := range f.likenesses() {
		var out []*store.PastUse
		for i := range f.past {
			if u := &f.past[i]; u.Provider == n.provider && u.Model == n.model && u.Good > 0 && l.fits(u) && has(u) {
				out = append(out, u)
			}
		}
		if out != nil {
			return out, l
		}
	}
	return nil, likeness{name: "none", drift: 0.12}
}

// Without history, answers are taken to be so much of what they may be at most, or so many tokens.
const (
	usualShare  = 0.2
	usualAnswer = 300
)

// leg gathers what is believed of a step.
func (f *forecaster) leg(stage int, index int32, n named, cap float64) *leg {
	s := &leg{named: n, stage: stage, index: index}
	s.price, s.priced = f.priceOf(n)

	uses, like := f.nearest(n, func(u *store.PastUse) bool { return u.Output > 0 })
	lengths := prior{math.Log(usualAnswer), 1, like.drift}
	if cap > 0 {
		lengths = prior{math.Log(usualShare * cap), 0.9, like.drift}
	}
	var history []seen
	for _, u := range uses {
		s.answers += u.Good
		few := f.spreadOf(n) / (like.drift * like.drift) // so many answers show no more than the drift hides
		history = append(history, seen{math.Log(float64(u.Output) / float64(u.Good)), float64(u.Good) / (float64(u.Good) + few)})
	}
	s.output, s.of = lengths.learn(history), like.name

	sizes := prior{0, 0.2, 0.05}
	if prompt.TokenizerOf(n.model).Exact() {
		sizes = prior{0, 0.05, 0.02}
	}
	counted := func(u *store.PastUse) bool { return u.BasisInput != nil && *u.BasisInput > 0 && u.Input > 0 }
	uses, _ = f.nearest(n, counted)
	history = nil
	for _, u := range uses {
		history = append(history, seen{math.Log(float64(u.Input) / float64(u.Good) / *u.BasisInput), 1})
	}
	s.input = sizes.learn(history)

	uses, _ = f.nearest(n, func(u *store.PastUse) bool { return u.Timed > 0 && u.LatencyMS > 0 })
	history = nil
	for _, u := range uses {
		history = append(history, seen{math.Log(u.LatencyMS / float64(u.Timed)), 1})
	}
	s.latency = prior{math.Log(800 + 1000*math.Exp(s.output.mean)/60), 1, 0.3}.learn(history) // a first token, and 60 a second
	return s
}

// twinOf finds the leg of an earlier stage that asks the same model: what both are expected to answer was learnt from the same calls, and comes or fails to
// come together.
func twinOf(l *leg, before []*leg) *leg {
	for _, b := range before {
		if b.named == l.named && b.stage < l.stage && l.answers > 0 {
			return b
		}
	}
	return nil
}

// cachedShare says how much of a step's input comes from the provider's prefix cache: as in earlier batches of the template, else some of what
// the requests share, if that is long enough to be cached.
func (f *forecaster) cachedShare(s *leg) func(r *rand.Rand) float64 {
	uses, like := f.nearest(s.named, func(u *store.PastUse) bool { return u.Input > 0 })
	if uses != nil && like.name != "kind" {
		p := portion{0.01, 0.1}
		for _, u := range uses {
			share := min(float64(u.Cached)/float64(u.Input), 1)
			p.a, p.b = p.a+10*share, p.b+10*(1-share)
		}
		return p.draw
	}
	least, shared := gateway.CacheMinimum(s.provider, s.model), 0.0
	if t := f.stages()[s.stage].template; t != nil {
		shared = float64(t.StableTokens(prompt.TokenizerOf(s.model).Count))
	}
	if least == 0 || shared < float64(least) || s.basis == 0 {
		return func(*rand.Rand) float64 { return 0 }
	}
	most := min(shared/(s.basis/s.weight), 1) * max(0, 1-1/s.weight) // the first call writes it
	return func(r *rand.Rand) float64 { return most * portion{2, 2}.draw(r) }
}

// chances says how the calls of a path fare: how often a step fails them over to the next, and how often they are sent.
func (f *forecaster) chances(p *path) {
	for i, s := range p.steps {
		var tries []seen
		on := portion{0.1, 3} // hardly ever, or an outage
		for _, e := range f.passed(p, i) {
			tries = append(tries, seen{math.Log(max(e.sends, 1)), 1})
			on.a, on.b = on.a+e.weight*e.onward, on.b+e.weight*(1-e.onward)
		}
		p.onward = append(p.onward, on)
		s.sends = prior{0, 0.03, 0.02}.learn(tries)
	}
}

// fate is how the calls of an earlier batch fared at a step.
type fate struct {
	sends  float64 // of each call that reached it
	onward float64 // share that went on to the next
	weight float64
}

// passed looks at earlier batches with the same chain, else at all that called the step's model: there what failed twice is taken to have gone on.
func (f *forecaster) passed(p *path, at int) []fate {
	byBatch := map[uuid.UUID][]*store.PastUse{}
	var order []uuid.UUID
	for i := range f.past {
		u := &f.past[i]
		if byBatch[u.BatchID] == nil {
			order = append(order, u.BatchID)
		}
		byBatch[u.BatchID] = append(byBatch[u.BatchID], u)
	}
	var same, other []fate
	for _, id := range order {
		uses := byBatch[id]
		find := func(s *leg) *store.PastUse {
			i := slices.IndexFunc(uses, func(u *store.PastUse) bool { return named{u.Provider, u.Model} == s.named })
			if i < 0 {
				return &store.PastUse{}
			}
			return uses[i]
		}
		own := find(p.steps[at])
		sent := float64(own.Good + own.Failed)
		if sent == 0 {
			continue
		}
		if p.sameChain(uses[0].Route) {
			later := int64(0)
			for _, s := range p.steps[at+1:] {
				later += find(s).Good
			}
			if reached := float64(own.Good + later); reached > 0 {
				same = append(same, fate{min(sent/reached, 20), float64(later) / reached, min(reached, 10)})
			}
			continue
		}
		failed := float64(own.Failed) / sent
		other = append(other, fate{min(sent/max(float64(own.Good), sent/3), 5), failed * failed, min(sent, 5)})
	}
	if same != nil {
		return same
	}
	return other
}

// sameChain reports whether a stored route, of a batch whose jobs all took the same steps, asks the same models in the same order.
func (p *path) sameChain(raw json.RawMessage) bool {
	var r Route
	if json.Unmarshal(raw, &r) != nil || r.branching() || len(r.Steps) != len(p.steps) {
		return false
	}
	for i, s := range p.steps {
		if r.Steps[i].Provider != s.provider || r.Steps[i].named(s.model) != s.model {
			return false
		}
		if slices.ContainsFunc(p.steps[:i], func(t *leg) bool { return t.named == s.named }) { // their calls can't be told apart
			return false
		}
	}
	return true
}

// ratios are those of actual to planned quantities of earlier batches, of those that are most like this one.
func (f *forecaster) ratios(of func(uses []*store.PastUse) float64) (out []seen) {
	for _, l := range f.likenesses() {
		for i := 0; i < len(f.past); {
			from := i
			var uses []*store.PastUse
			for ; i < len(f.past) && f.past[i].BatchID == f.past[from].BatchID; i++ {
				uses = append(uses, &f.past[i])
			}
			if !l.fits(uses[0]) {
				continue
			}
			if r := of(uses); r > 0 {
				out = append(out, seen{math.Log(r), 1})
			}
		}
		if out != nil {
			break
		}
	}
	return out
}

// callRatio is the logarithm of good calls over those that the plan knows of: more of them when answers are asked for again, fewer when parts
// of documents are in the cache.
func (f *forecaster) callRatio() belief {
	p := prior{0, 0.02, 0.01}
	for i, b := range f.stages() {
		switch _, trees := b.kind.(summarize); {
		case trees, i > 0: // parts and stages that are in the cache
			p = prior{0, 0.3, 0.1}
		case b.spec.Output.Format == prompt.FormatJSON && b.template.Repairs() > 0 && p.doubt < 0.1: // and it isn't known yet how often
			p = prior{0, 0.1, 0.03}
		}
	}
	return p.learn(f.ratios(func(uses []*store.PastUse) float64 {
		good := int64(0)
		for _, u := range uses {
			good += u.Good
		}
		if uses[0].BasisCalls == nil || *uses[0].BasisCalls < 0.5 {
			return 0
		}
		return float64(good) / *uses[0].BasisCalls
	}))
}

// timeRatio is the logarithm of durations over what arithmetic makes of the calls that there were: other batches take places, limits hold calls
// back, answers are asked for again after a while.
func (f *forecaster) timeRatio(fleet int64) belief {
	return prior{0, 0.6, 0.25}.learn(f.ratios(func(uses []*store.PastUse) float64 {
		var sum tally
		for _, u := range uses {
			sum.calls, sum.work = sum.calls+float64(u.Timed), sum.work+u.LatencyMS
		}
		return 1000 * uses[0].Seconds / duration(sum, sum.calls, float64(len(f.stages())), fleet, uses[0].Concurrency)
	}))
}
