package jobs

import (
	"encoding/json"

	"batchwright/internal/prompt"
	"batchwright/internal/store"
)

// laterStage sums up a stage of a pipeline whose input isn't there yet when it is planned: it has as many jobs as the first, each a call. What is
// counted is its template's own text and what comes from the job; the answers that it is given are added when the forecast says how
// long they get.
type laterStage struct {
	chain
	own    stage
	frame  []prompt.Message
	schema string
}

func newLaterStage(o *pipelineOptions, i int) *laterStage {
	own := o.stages[i]
	l := &laterStage{chain: *newChain(own.batch.route, ""), own: own, schema: string(own.batch.spec.Output.Schema)}
	l.Stage = int32(i) //nolint:gosec // at most maxStages
	l.frame = own.batch.frame()
	return l
}

func (l *laterStage) weigh(in store.Input) (weight, error) {
	var given map[string]json.RawMessage
	var known []string
	for _, from := range l.own.Variables {
		if from.Input != "" && given == nil {
			if err := json.Unmarshal(in.Input, &given); err != nil {
				return weight{}, err
			}
		}
		if value := string(from.Value) + string(given[from.Input]); value != "" {
			known = append(known, value)
		}
	}
	return weight{calls: 1, caps: float64(l.own.batch.spec.Sampling.MaxTokens), count: func(t *prompt.Tokenizer) float64 {
		n := countMessages(t, l.frame) + float64(t.Count(l.schema))
		for _, value := range known {
			n += float64(t.Count(value))
		}
		return n
	}}, nil
}

// stages are the batches whose kinds make the calls: a pipeline's stages, else the batch itself.
func (b *batch) stages() []*batch {
	o, ok := b.options.(*pipelineOptions)
	if !ok {
		return []*batch{b}
	}
	out := make([]*batch, len(o.stages))
	for i, st := range o.stages {
		out[i] = st.batch
	}
	return out
}

// given lists, of each stage of a pipeline, the earlier ones whose answers it is given; of other kinds, none.
func (b *batch) given() [][]int {
	out := make([][]int, len(b.stages()))
	if o, ok := b.options.(*pipelineOptions); ok {
		for i, st := range o.stages {
			for _, from := range st.Variables {
				for j, before := range o.stages[:i] {
					if from.Stage == before.Name {
						out[i] = append(out[i], j)
					}
				}
			}
		}
	}
	return out
}

// frame is a template's own text, as its messages.
func (b *batch) frame() []prompt.Message {
	var out []prompt.Message
	if b.spec.System != "" {
		out = append(out, prompt.Message{Content: b.spec.System})
	}
	for _, e := range b.spec.Examples {
		out = append(out, prompt.Message{Content: e.User}, prompt.Message{Content: e.Assistant})
	}
	return append(out, prompt.Message{Content: b.spec.User})
}
