package jobs

import (
	"context"
	"encoding/json"
	"errors"

	"batchwright/internal/gateway"
	"batchwright/internal/prompt"
	"batchwright/internal/store"
)

func init() { register(generate{}) }

// generate renders a template with a job's variables and asks for one answer, as text or JSON.
type generate struct{}

func (generate) name() string                                         { return "generate" }
func (generate) needsTemplate() bool                                  { return true }
func (generate) needsModel() bool                                     { return true }
func (generate) params(raw json.RawMessage) (json.RawMessage, *Error) { return noParams(raw) }

func (generate) accept(b *batch, l *line) (json.RawMessage, *store.NewDocument, *LineError) {
	if err := l.only("variables"); err != nil {
		return nil, nil, err
	}
	vars := l.Variables
	if len(vars) == 0 {
		vars = json.RawMessage(`{}`)
	}
	if err := b.template.Check(vars); err != nil {
		return nil, nil, l.problem("variables", "invalid_variables", promptProblem(err))
	}
	return vars, nil, nil
}

// promptProblem words an error of package prompt.
func promptProblem(err error) string {
	if e, ok := errors.AsType[*prompt.Error](err); ok {
		return e.Error()
	}
	return "can't be read"
}

func (generate) request(b *batch, vars json.RawMessage) (*prompt.Request, error) {
	messages, err := b.template.Render(vars)
	if err != nil {
		return nil, failf(gateway.InvalidRequest, "the template can't be rendered: %s", promptProblem(err))
	}
	s := b.spec.Sampling
	return &prompt.Request{
		Messages: messages, MaxTokens: s.MaxTokens, Temperature: s.Temperature, TopP: s.TopP, Seed: s.Seed, Stop: s.Stop,
		JSON: b.spec.Output.Format == prompt.FormatJSON, Schema: b.spec.Output.Schema,
	}, nil
}

func (g generate) plan(b *batch, in store.Input) (planned, error) {
	r, err := g.request(b, in.Input)
	if err != nil {
		return planned{}, err
	}
	route := b.routeOf(in.Input, nil, sizeOf(r))
	p := planned{keys: r.Keys(route.answerers("")), route: route, request: r}
	for _, m := range r.Messages {
		p.size += len(m.Content)
	}
	return p, nil
}

func (generate) weigh(_ context.Context, _ *scale, _ store.Input, p planned) (weight, error) {
	r := p.request
	return weight{calls: 1, caps: float64(r.MaxTokens), count: func(t *prompt.Tokenizer) float64 {
		return countMessages(t, r.Messages) + float64(t.Count(string(r.Schema)))
	}}, nil
}

func (g generate) run(ctx context.Context, t *task) (result, error) {
	r, err := g.request(t.batch, t.job.Input)
	if err != nil {
		return result{}, err
	}
	t.route = t.batch.routeOf(t.job.Input, nil, sizeOf(r))
	t.capField = "the template's sampling.max_tokens"
	t.stable.Messages, t.stable.Bytes = t.batch.template.Stable()
	return t.complete(ctx, r)
}
