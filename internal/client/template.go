package client

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
)

// Finding is what a template could do better.
type Finding struct {
	Severity string `json:"severity"` // warning or note
	Code     string `json:"code"`
	Field    string `json:"field"` // empty for all of it
	Line     int    `json:"line"`  // of the field's text; 0 when there is none to name
	Message  string `json:"message"`
}

// PreviewOptions say what to preview. What is left out is not sent.
type PreviewOptions struct {
	Version int32             `json:"version,omitempty"` // 0 for the latest
	Spec    json.RawMessage   `json:"spec,omitempty"`    // of a template that isn't saved
	Route   json.RawMessage   `json:"route,omitempty"`   // a JSON string or object, see RouteOf
	Inputs  []json.RawMessage `json:"inputs,omitempty"`  // variables of up to 100 jobs
}

// Preview is what a template makes of inputs.
type Preview struct {
	Ref      *string   `json:"ref"` // NAME@VERSION of a stored template
	Findings []Finding `json:"findings"`
	Stable   struct {
		Messages int `json:"messages"`
		Bytes    int `json:"bytes"` // of the next message
		Tokens   int `json:"tokens"`
	} `json:"stable"`
	Inputs   []PreviewedInput `json:"inputs"`
	Discards *Discards        `json:"discards"` // nil for a stored template

	Raw json.RawMessage `json:"-"` // the answer as the server sent it
}

// PreviewedInput is one request, or why there is none.
type PreviewedInput struct {
	Messages []struct {
		Role    string `json:"role"`
		Content string `json:"content"`
	} `json:"messages"`
	Tokens int `json:"tokens"`
	Keys   []struct {
		Model string `json:"model"`
		Key   string `json:"key"`
	} `json:"keys"`
	Cached *string `json:"cached"` // the model whose answer the cache has
	Error  *string `json:"error"`
}

// Discards counts cached answers that an edit would make useless.
type Discards struct {
	Results            int64 `json:"results"`
	CostMicroUSD       int64 `json:"cost_microusd"` // as far as known
	ResultsWithoutCost int64 `json:"results_without_cost"`
}

// PreviewTemplate renders inputs with a template and checks it. Nothing is stored and no call is made.
func (c *Client) PreviewTemplate(ctx context.Context, name string, o PreviewOptions) (Preview, error) {
	var p Preview
	// A count over millions of jobs takes its time.
	raw, err := callWithin[json.RawMessage](ctx, c, commitLimit, http.MethodPost, "/v1/templates/"+url.PathEscape(name)+"/preview", o)
	if err != nil {
		return p, err
	}
	p.Raw = raw
	return p, asPromised(json.Unmarshal(raw, &p))
}
