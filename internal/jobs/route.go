package jobs

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"batchwright/internal/gateway"
	"batchwright/internal/prompt"
	"batchwright/internal/store"
)

// Route is a fallback chain: steps in the order in which they are tried.
type Route struct {
	Steps []RouteStep `json:"steps"`
	// Accept says which cached answers count: "any" (the default), by whatever model of the chain, or "primary", only those by the
	// first step's, so that last night's fallback answers are made anew.
	Accept string `json:"accept,omitempty"`
	// GatewayCacheTTL asks the gateway to keep answers for so many seconds, 60 to 31 days; 0 asks for nothing.
	GatewayCacheTTL int `json:"gateway_cache_ttl,omitempty"`
}

// RouteStep is one provider and model.
type RouteStep struct {
	Provider    string `json:"provider"`
	Model       string `json:"model,omitempty"`        // may be left out for raw chat bodies, which name their own
	API         string `json:"api,omitempty"`          // openai: chat or responses
	Via         string `json:"via,omitempty"`          // cloudflare-gateway: through the remote gateway; default: as the worker is configured
	MaxAttempts int    `json:"max_attempts,omitempty"` // sends to this step, 1 to 5; default: the gateway's
	TimeoutMS   int    `json:"timeout_ms,omitempty"`   // to the first byte of an answer
	RetryDelay  int    `json:"retry_delay_ms,omitempty"`
	Backoff     string `json:"backoff,omitempty"` // constant, linear or exponential
	gateway.Branch
	// AllowUnpriced accepts a model that the price table doesn't know, although it knows the provider. Its costs are then unknown.
	AllowUnpriced bool `json:"allow_unpriced,omitempty"`

	index int // in the route as it was saved, once a job's steps were chosen
}

const (
	maxSteps      = 10
	acceptAny     = "any"
	acceptPrimary = "primary"
)

func (s RouteStep) config() *gateway.StepConfig {
	c := gateway.StepConfig{MaxAttempts: s.MaxAttempts, RequestTimeoutMS: s.TimeoutMS, RetryDelayMS: s.RetryDelay, Backoff: s.Backoff}
	if c == (gateway.StepConfig{}) {
		return nil
	}
	return &c
}

// branching reports whether jobs take different steps of the route.
func (r Route) branching() bool {
	return slices.ContainsFunc(r.Steps, func(s RouteStep) bool { return s.Branch != gateway.Branch{} })
}

// sized reports whether the steps that a job takes depend on its size.
func (r Route) sized() bool {
	return slices.ContainsFunc(r.Steps, func(s RouteStep) bool { return s.When != nil && s.When.MinInputTokens+s.When.MaxInputTokens > 0 })
}

// choose returns the route that one job takes: the same job takes the same one in every run.
func (r Route) choose(s gateway.Subject) Route {
	branches := make([]gateway.Branch, len(r.Steps))
	for i, step := range r.Steps {
		branches[i] = step.Branch
	}
	out := Route{Accept: r.Accept, GatewayCacheTTL: r.GatewayCacheTTL}
	for _, i := range gateway.Choose(branches, s) {
		step := r.Steps[i]
		step.index = i
		out.Steps = append(out.Steps, step)
	}
	return out
}

// routeOf chooses the steps for a job by what goes in: its input and its document, not its batch. tokens is called
// only when the route asks for a size.
func (b *batch) routeOf(input json.RawMessage, document []byte, tokens func() int) Route {
	if !b.route.branching() {
		return b.route
	}
	s := gateway.Subject{Key: slices.Concat(input, document), Metadata: b.metadata}
	if b.route.sized() {
		s.InputTokens = tokens()
	}
	return b.route.choose(s)
}

// answerer names whose answer a step brings, for the cache: the model asked for, wherever it runs. The built-in providers are no other
// places where a model runs, so what they say under its name is kept apart. A step without a model asks for given, the one that the body
// names.
func (s RouteStep) answerer(given string) string {
	model := s.named(given)
	if gateway.Builtin(s.Provider) {
		return s.Provider + "/" + model
	}
	return model
}

// named is the model that a step asks for, given the one that the job names.
func (s RouteStep) named(given string) string {
	if s.Model == "" {
		return given
	}
	return s.Model
}

// answerers lists those whose cached answers count, in the order in which they are preferred, each once.
func (r Route) answerers(given string) []string {
	steps := r.Steps
	if r.Accept == acceptPrimary {
		steps = steps[:1]
	}
	out := make([]string, 0, len(steps))
	for _, s := range steps {
		if name := s.answerer(given); !slices.Contains(out, name) {
			out = append(out, name)
		}
	}
	return out
}

// ParseRoute reads a route in any of its forms: {"steps": [...]} or the string "openai:gpt-5.2,local/extractive". A string that names
// a stored route is not for here.
func ParseRoute(raw json.RawMessage) (Route, error) {
	var text string
	if json.Unmarshal(raw, &text) == nil {
		return parseChain(text)
	}
	var r Route
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(&r); err != nil {
		return Route{}, invalidf("route", "not a route (%s): want a name, \"provider:model,...\" or {\"steps\": [...]}", jsonProblem(err))
	}
	for i := range r.Steps {
		r.Steps[i].Provider = gateway.Slug(r.Steps[i].Provider)
	}
	return r, nil
}

func parseChain(text string) (Route, error) {
	var r Route
	for part := range strings.SplitSeq(text, ",") {
		n := gateway.ParseName(part)
		r.Steps = append(r.Steps, RouteStep{Provider: n.Provider, Model: n.Model, API: n.API, Via: n.Via})
	}
	return r, nil
}

// check finds what is wrong with a route before any job runs.
func (s *Service) checkRoute(r *Route, kind kind, at time.Time) *Error {
	switch {
	case len(r.Steps) == 0:
		return invalidf("route.steps", "is empty: a route needs at least one step")
	case len(r.Steps) > maxSteps:
		return invalidf("route.steps", "has %d entries; at most %d are allowed", len(r.Steps), maxSteps)
	case r.GatewayCacheTTL != 0 && (r.GatewayCacheTTL < 60 || r.GatewayCacheTTL > 31*86400):
		return invalidf("route.gateway_cache_ttl", "is not between 60 and 2678400 seconds")
	case r.Accept != "" && r.Accept != acceptAny && r.Accept != acceptPrimary:
		return invalidf("route.accept", "%.40q is unknown: want any or primary", r.Accept)
	}
	branches := make([]gateway.Branch, len(r.Steps))
	for i, step := range r.Steps {
		field := fmt.Sprintf("route.steps[%d]", i)
		branches[i] = step.Branch
		if err := s.CheckProvider(step.Provider, step.Via); err != nil {
			return &Error{Code: Invalid, Field: field + ".provider", Message: plain(err), Err: err}
		}
		if step.Model == "" && (kind == nil || kind.needsModel()) {
			return invalidf(field+".model", "is missing: only raw chat bodies name their own model")
		}
		if err := step.check(field); err != nil {
			return err
		}
		if step.Model != "" {
			if reason := s.checkModel(step, step.Model, at); reason != "" {
				return invalidf(field+".model", "%s", reason)
			}
		}
	}
	if i, err := gateway.CheckBranches(branches); err != nil {
		return invalidf(fmt.Sprintf("route.steps[%d]", i), "%s", plain(err))
	}
	if _, summing := kind.(summarize); summing && r.sized() {
		return invalidf("route", "a step's condition on input tokens has no meaning for summaries, which split their documents to size")
	}
	return nil
}

// check finds what is out of range in one step, and what its provider can't do.
func (s RouteStep) check(field string) *Error {
	switch {
	case s.MaxAttempts < 0 || s.MaxAttempts > 5:
		return invalidf(field+".max_attempts", "is not between 1 and 5")
	case s.TimeoutMS < 0 || s.TimeoutMS > int(time.Hour/time.Millisecond):
		return invalidf(field+".timeout_ms", "is not between 1 and 3600000")
	case s.RetryDelay < 0 || s.RetryDelay > 5000:
		return invalidf(field+".retry_delay_ms", "is not between 1 and 5000")
	case !slices.Contains([]string{"", "constant", "linear", "exponential"}, s.Backoff):
		return invalidf(field+".backoff", "%.40q is unknown: want constant, linear or exponential", s.Backoff)
	case s.Via != "" && s.Via != gateway.ViaCloudflare:
		return invalidf(field+".via", "%.40q is unknown: want %s", s.Via, gateway.ViaCloudflare)
	}
	if s.Model == "" {
		return nil
	}
	// The provider itself says whether it can serve such a step: its way of naming models, its APIs.
	probe := &gateway.Chat{Messages: []gateway.Message{{Role: "user", Content: "probe"}}, MaxTokens: 1, API: s.API}
	if _, err := gateway.NewStep(s.Provider, s.Model, probe, s.config()); err != nil {
		return invalidf(field+".model", "%s", plain(err))
	}
	return nil
}

// checkForms finds steps whose provider can't take what this batch sends: an answer in JSON, or a body in the OpenAI form. One such step
// would fail every job, whatever its place in the chain.
func (b *batch) checkForms() *Error {
	_, raw := b.kind.(chat)
	for i, s := range b.route.Steps {
		var err error
		switch {
		case raw:
			model := cmp.Or(s.Model, "probe/probe") // of the form that the pickiest wants
			_, err = gateway.NewRawStep(s.Provider, model, json.RawMessage(`{"messages":[{"role":"user","content":"probe"}]}`), s.config())
		case b.template != nil:
			_, err = gateway.NewStep(s.Provider, s.Model, &gateway.Chat{Messages: []gateway.Message{{Role: "user", Content: "probe"}}, API: s.API,
				MaxTokens: b.spec.Sampling.MaxTokens, JSON: b.spec.Output.Format == prompt.FormatJSON, Schema: b.spec.Output.Schema}, s.config())
		}
		if err != nil {
			return invalidf(fmt.Sprintf("route.steps[%d]", i), "%s", plain(err))
		}
	}
	return nil
}

// plain is an error's words without its package.
func plain(err error) string { return strings.TrimPrefix(err.Error(), "gateway: ") }

// checkModel says why a step can't ask for a model, or nothing. A provider whose prices are listed must list the model: a typing error
// would otherwise fail, or cost an unknown sum, a hundred thousand times over.
func (s *Service) checkModel(step RouteStep, model string, at time.Time) string {
	if strings.ContainsAny(model, " \t\r\n") || len(model) > 200 {
		return "is not a model name"
	}
	if step.Provider == "local" && model != "extractive" {
		return fmt.Sprintf("unknown model %.60q: the provider local has only extractive", model)
	}
	if step.AllowUnpriced {
		return ""
	}
	if _, ok := s.Prices.Lookup(step.Provider, model, at); ok {
		return ""
	}
	if s.Prices.Lists(step.Provider) {
		return fmt.Sprintf("unknown model %.60q: the price table has no such model of %s; correct the name, or set allow_unpriced to run it at unknown cost", model, step.Provider)
	}
	return ""
}

// resolveRoute turns what a submission says into a chain, with the id of the stored route if it names one.
func (s *Service) resolveRoute(ctx context.Context, project uuid.UUID, raw json.RawMessage, kind kind) (Route, *uuid.UUID, error) {
	if len(bytes.TrimSpace(raw)) == 0 || string(bytes.TrimSpace(raw)) == "null" {
		return Route{}, nil, invalidf("route", "is missing: name a stored route, or give a chain such as \"openai:gpt-4.1-mini,local/extractive\"")
	}
	var id *uuid.UUID
	r, err := ParseRoute(raw)
	if err != nil {
		return Route{}, nil, err
	}
	var text string
	if json.Unmarshal(raw, &text) == nil && !strings.ContainsAny(text, ":/,") {
		name, version, err := splitVersion(text)
		if err != nil {
			return Route{}, nil, invalidf("route", "%s", err.Error())
		}
		stored, err := s.DB.RouteByName(ctx, project, name, version)
		switch {
		case err == nil:
			id = &stored.ID
			if err := json.Unmarshal(stored.Spec, &r); err != nil {
				return Route{}, nil, fmt.Errorf("jobs: stored route %s: %w", stored.ID, err)
			}
		case !errors.Is(err, store.ErrNotFound):
			return Route{}, nil, err
		case kind == nil || kind.needsModel() || s.CheckProvider(gateway.Slug(text), "") != nil: // for raw chat, a bare provider is a chain
			return Route{}, nil, invalidf("route", "unknown route %.80q: save it first, or give a chain such as \"openai:gpt-4.1-mini\"", text)
		}
	}
	if err := s.checkRoute(&r, kind, time.Now()); err != nil {
		return Route{}, nil, err
	}
	return r, id, nil
}

// SaveRoute stores a route as the next version of its name; the same route again is the version that is there.
func (s *Service) SaveRoute(ctx context.Context, project uuid.UUID, name string, raw json.RawMessage) (store.Route, bool, error) {
	if err := checkName(name); err != nil {
		return store.Route{}, false, err
	}
	r, err := ParseRoute(raw)
	if err != nil {
		return store.Route{}, false, err
	}
	own, err := s.of(ctx, project)
	if err != nil {
		return store.Route{}, false, err
	}
	if err := own.checkRoute(&r, chat{}, time.Now()); err != nil {
		return store.Route{}, false, err
	}
	spec, err := json.Marshal(r)
	if err != nil {
		return store.Route{}, false, err
	}
	return s.DB.SaveRoute(ctx, project, name, spec)
}

// splitVersion reads "name" or "name@version"; version 0 means the latest.
func splitVersion(text string) (string, int32, error) {
	name, v, ok := strings.Cut(text, "@")
	if !ok {
		return name, 0, nil
	}
	n, err := strconv.ParseInt(v, 10, 32)
	if err != nil || n < 1 {
		return "", 0, fmt.Errorf("%.80q: after @ comes a version number, from 1", text)
	}
	return name, int32(n), nil
}

func checkName(name string) *Error {
	ok := len(name) > 0 && len(name) <= 63
	for i, c := range []byte(name) {
		letter := c >= 'a' && c <= 'z' || c >= '0' && c <= '9'
		ok = ok && (letter || i > 0 && (c == '.' || c == '_' || c == '-'))
	}
	if !ok {
		return invalidf("name", "%.80q is not a name: use 1 to 63 of a-z, 0-9, ., _ and -, beginning with a letter or digit", name)
	}
	return nil
}

// jsonProblem words a decoding error without echoing the input.
func jsonProblem(err error) string {
	if e, ok := errors.AsType[*json.SyntaxError](err); ok {
		return fmt.Sprintf("invalid JSON at byte %d", e.Offset)
	}
	if e, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		return fmt.Sprintf("%s: want %s, got %s", e.Field, e.Type, e.Value)
	}
	if text := err.Error(); strings.HasPrefix(text, "json: unknown field ") {
		return strings.TrimPrefix(text, "json: ")
	}
	return "invalid JSON"
}
