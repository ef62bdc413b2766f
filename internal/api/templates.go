package api

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/google/uuid"

	"batchwright/internal/jobs"
	"batchwright/internal/prompt"
	"batchwright/internal/store"
)

// previewer shows what templates make of inputs.
type previewer interface {
	Preview(ctx context.Context, project uuid.UUID, spec jobs.PreviewSpec) (jobs.Preview, error)
}

// SaveTemplate makes a new version, or finds the one that has the spec.
func (h *handlers) SaveTemplate(ctx context.Context, req SaveTemplateRequestObject) (SaveTemplateResponseObject, error) {
	t, created, err := h.Jobs.SaveTemplate(ctx, projectOf(ctx).ID, req.Body.Name, req.Body.Spec)
	if err != nil {
		return nil, err
	}
	findings, err := jobs.Lint(t)
	if err != nil {
		return nil, err
	}
	out := toTemplate(t)
	out.Findings = each(findings, toFinding)
	if !created {
		return SaveTemplate200JSONResponse(out), nil
	}
	return SaveTemplate201JSONResponse{Body: out, Headers: SaveTemplate201ResponseHeaders{Location: location("templates", t.Name, t.Version)}}, nil
}

// PreviewTemplate renders inputs and checks the template.
func (h *handlers) PreviewTemplate(ctx context.Context, req PreviewTemplateRequestObject) (PreviewTemplateResponseObject, error) {
	var in struct {
		Version int32             `json:"version"`
		Spec    json.RawMessage   `json:"spec"`
		Route   json.RawMessage   `json:"route"`
		Inputs  []json.RawMessage `json:"inputs"`
	}
	if err := json.Unmarshal(*req.Body, &in); err != nil {
		return nil, invalidField("", "wrong_type", "is not of the form that the contract wants")
	}
	p, err := h.Jobs.Preview(ctx, projectOf(ctx).ID, jobs.PreviewSpec{Name: req.Name, Version: in.Version, Spec: in.Spec, Route: in.Route, Inputs: in.Inputs})
	if err != nil {
		return nil, fmt.Errorf("api: preview: %w", err)
	}
	out := TemplatePreview{
		Findings: each(p.Findings, toFinding), Inputs: each(p.Inputs, toPreviewedInput),
		Stable: StablePart{Messages: p.StableMessages, Bytes: p.StableBytes, Tokens: p.StableTokens},
	}
	if t := p.Template; t != nil {
		out.Ref = ref(&t.Name, &t.Version)
	}
	if d := p.Discards; d != nil {
		out.Discards = &Discards{Results: d.Results, CostMicrousd: d.CostMicrousd, ResultsWithoutCost: d.Unpriced}
	}
	return PreviewTemplate200JSONResponse(out), nil
}

func toFinding(f prompt.Finding) Finding {
	return Finding{Code: f.Code, Severity: f.Severity, Field: f.Field, Line: f.Line, Message: f.Message}
}

func toPreviewedInput(in jobs.PreviewInput) PreviewedInput {
	out := PreviewedInput{
		Messages: each(in.Messages, func(m prompt.Message) PreviewedMessage { return PreviewedMessage{Role: m.Role, Content: m.Content} }),
		Tokens:   in.Tokens, Keys: make([]PreviewedKey, len(in.Keys)),
	}
	for i, key := range in.Keys {
		out.Keys[i] = PreviewedKey{Model: in.Models[i], Key: key.String()}
	}
	if in.Cached != "" {
		out.Cached = &in.Cached
	}
	if in.Problem != "" {
		out.Error = &in.Problem
	}
	return out
}

func toTemplate(t store.Template) Template {
	return Template{Name: t.Name, Version: t.Version, Ref: *ref(&t.Name, &t.Version), Spec: orEmpty(t.Spec), CreatedAt: t.CreatedAt.UTC()}
}
