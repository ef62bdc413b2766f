package jobs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/google/uuid"

	"batchwright/internal/gateway"
	"batchwright/internal/prompt"
	"batchwright/internal/store"
)

// PreviewSpec asks what a template makes of some inputs.
type PreviewSpec struct {
	Name    string
	Version int32             // of the stored template; 0 for the latest
	Spec    json.RawMessage   // or a template that isn't saved
	Route   json.RawMessage   // who would be asked, see ParseRoute; empty for nobody
	Inputs  []json.RawMessage // variables of jobs
}

// Preview is what a template makes of them.
type Preview struct {
	Template *store.Template // nil for one that isn't saved
	Findings []prompt.Finding
	// What the requests share: whole messages, then bytes of the next one, and what they come to.
	StableMessages, StableBytes, StableTokens int
	Inputs                                    []PreviewInput
	Discards                                  *store.TemplateAnswers // nil for a stored template
}

// PreviewInput is the request of one input, or why there is none.
type PreviewInput struct {
	Messages prompt.Messages
	Tokens   int
	Models   []string     // whose answers count, in the order of preference; none without a route
	Keys     []prompt.Key // one of each
	Cached   string       // the model whose answer the cache has
	Problem  string
}

// maxPreview bounds what the messages of a preview add up to, in bytes.
const maxPreview = 32 << 20

// Preview renders inputs, checks the template and tells which answers the cache has and which an edit would discard. It stores nothing and
// makes no call. Errors are *[Error]: not found for a template, invalid for what is wrong with the request, too large for too much text.
func (s *Service) Preview(ctx context.Context, project uuid.UUID, spec PreviewSpec) (Preview, error) {
	var out Preview
	b := &batch{kind: generate{}}
	var err error
	if len(spec.Spec) > 0 {
		if spec.Version != 0 {
			return out, invalidf("version", "names a stored template, and spec gives another: leave one of them out")
		}
		if b.spec, b.template, err = compileInput(spec.Spec); err != nil {
			return out, err
		}
		out.Discards, err = s.discards(ctx, project, spec.Name, b.template)
	} else {
		out.Template = new(store.Template)
		if *out.Template, err = s.DB.TemplateByName(ctx, project, spec.Name, spec.Version); errors.Is(err, store.ErrNotFound) {
			return out, &Error{Code: NotFound, Message: "there is no such template, or no such version of it: give a spec to preview one that isn't saved"}
		} else if err == nil {
			b.spec, b.template, err = compileTemplate(out.Template.Spec)
		}
	}
	if err != nil {
		return out, err
	}
	if len(spec.Route) > 0 {
		own, err := s.of(ctx, project)
		if err != nil {
			return out, err
		}
		own.CheckProvider = known // no call is made, so its key need not be there
		if b.route, _, err = own.resolveRoute(ctx, project, spec.Route, b.kind); err != nil {
			return out, err
		}
	}
	out.Findings = b.lint()
	out.StableMessages, out.StableBytes = b.template.Stable()
	out.StableTokens = b.template.StableTokens(prompt.EstimateTokens)
	if out.Inputs, err = b.preview(spec.Inputs); err != nil {
		return out, err
	}
	return out, s.lookUp(ctx, project, out.Inputs)
}

// known refuses a provider that doesn't exist.
func known(provider, _ string) error {
	if _, ok := gateway.Lookup(provider); !ok {
		return fmt.Errorf("there is no provider %.40q", provider)
	}
	return nil
}

// compileInput compiles a template that a caller gives.
func compileInput(raw json.RawMessage) (prompt.Spec, *prompt.Template, error) {
	spec, t, err := compileTemplate(raw)
	if err != nil {
		e := invalidf("spec", "%s", promptProblem(err))
		e.Err = err
		return spec, nil, e
	}
	return spec, t, nil
}

// Lint says what a stored template could do better, whoever is asked.
func Lint(t store.Template) ([]prompt.Finding, error) {
	_, compiled, err := compileTemplate(t.Spec)
	if err != nil {
		return nil, fmt.Errorf("jobs: stored template %s: %w", t.ID, err)
	}
	return compiled.Lint(nil), nil
}

// lint checks the template for the models of the route, if there is one.
func (b *batch) lint() []prompt.Finding {
	if len(b.route.Steps) == 0 {
		return b.template.Lint(nil)
	}
	minimums := []prompt.CacheMinimum{}
	var loose []prompt.Finding
	seen := map[string]bool{}
	for _, step := range b.route.Steps {
		name := step.Provider + ":" + step.Model
		if seen[name] {
			continue
		}
		seen[name] = true
		if n := gateway.CacheMinimum(step.Provider, step.Model); n > 0 {
			minimums = append(minimums, prompt.CacheMinimum{Name: name, Tokens: n})
		}
		if schema := b.spec.Output.Schema; schema != nil {
			if reason := gateway.LooseSchema(step.Provider, step.Model, schema); reason != "" {
				loose = append(loose, prompt.Finding{Code: "schema_not_native", Severity: prompt.SeverityNote, Field: "output.schema", Message: name + " is not held to the schema, which is only said to it: " + reason})
			}
		}
	}
	return append(b.template.Lint(minimums), loose...)
}

func (b *batch) preview(inputs []json.RawMessage) ([]PreviewInput, error) {
	out := make([]PreviewInput, len(inputs))
	size := 0
	for i, vars := range inputs {
		in := &out[i]
		messages, err := b.template.Render(vars)
		if err != nil {
			in.Problem = promptProblem(err)
			continue
		}
		r := b.template.Request("", messages)
		in.Messages, in.Tokens = messages, sizeOf(r)()
		for _, m := range messages {
			size += len(m.Content)
		}
		if size > maxPreview {
			return nil, &Error{Code: TooLarge, Field: "inputs", Message: fmt.Sprintf("come to over %d bytes of messages: preview fewer at a time", maxPreview)}
		}
		if len(b.route.Steps) > 0 {
			in.Models = b.routeOf(vars, nil, sizeOf(r)).answerers("")
			in.Keys = r.Keys(in.Models)
		}
	}
	return out, nil
}

// lookUp asks the cache for the answers to previewed requests.
func (s *Service) lookUp(ctx context.Context, project uuid.UUID, inputs []PreviewInput) error {
	keys := make([][][32]byte, len(inputs))
	for i := range inputs {
		for _, k := range inputs[i].Keys {
			keys[i] = append(keys[i], k)
		}
	}
	hits, err := s.DB.Hits(ctx, project, keys, nil)
	if err != nil {
		return fmt.Errorf("jobs: preview: %w", err)
	}
	for i, hit := range hits {
		if hit != nil {
			inputs[i].Cached = hit.Model
		}
	}
	return nil
}

// discards counts the answers that jobs of the latest version find, and that those of another would not. Versions which ask the same are one.
func (s *Service) discards(ctx context.Context, project uuid.UUID, name string, next *prompt.Template) (*store.TemplateAnswers, error) {
	versions, err := s.DB.TemplateVersions(ctx, project, name)
	if err != nil || len(versions) == 0 {
		return new(store.TemplateAnswers), err
	}
	var latest *prompt.Template
	var lost, kept []uuid.UUID
	for _, v := range versions { // newest first
		_, t, err := compileTemplate(v.Spec)
		if err != nil {
			return nil, fmt.Errorf("jobs: stored template %s: %w", v.ID, err)
		}
		if latest == nil {
			latest = t
		}
		switch {
		case prompt.SameRequests(t, next):
			kept = append(kept, v.ID)
		case prompt.SameRequests(t, latest):
			lost = append(lost, v.ID)
		}
	}
	if len(lost) == 0 {
		return new(store.TemplateAnswers), nil
	}
	answers, err := s.DB.TemplateAnswers(ctx, project, lost, kept)
	return &answers, err
}
