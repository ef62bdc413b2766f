package jobs

import (
	"bytes"
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
	"batchwright/internal/pricing"
	"batchwright/internal/store"
)

// Route is a fallback chain: steps in the order in which they are tried.
type Route struct {
	Steps []RouteStep `json:"steps"`
	// Accept says which cached answers count: "any" (the default), by whatever model of the chain, or "primary", only those by the
	// first step's, so that last night's fallback answers are made anew.
	Accept string `json:"accept,omitempty"`
}

// RouteStep is one provider and model.
type RouteStep struct {
	Provider    string `json:"provider"`
	Model       string `json:"model,omitempty"`        // may be left out for raw chat bodies, which name their own
	MaxAttempts int    `json:"max_attempts,omitempty"` // sends to this step, 1 to 5; default: the gateway's
	TimeoutMS   int    `json:"timeout_ms,omitempty"`   // to the first byte of an answer
	// AllowUnpriced accepts a model that the price table doesn't know, although it knows the provider. Its costs are then unknown.
	AllowUnpriced bool `json:"allow_unpriced,omitempty"`
}

const (
	maxSteps      = 10
	acceptAny     = "any"
	acceptPrimary = "primary"
)

func (s RouteStep) config() *gateway.StepConfig {
	if s.MaxAttempts == 0 && s.TimeoutMS == 0 {
		return nil
	}
	return &gateway.StepConfig{MaxAttempts: s.MaxAttempts, RequestTimeoutMS: s.TimeoutMS}
}

// answerer names whose answer a step brings, for the cache: the model asked for, wherever it runs. The built-in providers are no other
// places where a model runs, so what they say under its name is kept apart. A step without a model asks for given, the one that the body
// names.
func (s RouteStep) answerer(given string) string {
	model := s.Model
	if model == "" {
		model = given
	}
	if gateway.Builtin(s.Provider) {
		return s.Provider + "/" + model
	}
	return model
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
	return r, nil
}

func parseChain(text string) (Route, error) {
	var r Route
	for part := range strings.SplitSeq(text, ",") {
		part = strings.TrimSpace(part)
		cut := strings.IndexAny(part, ":/")
		if cut < 0 {
			cut = len(part)
		}
		s := RouteStep{Provider: part[:cut]}
		if cut < len(part) {
			s.Model = part[cut+1:]
		}
		r.Steps = append(r.Steps, s)
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
	case r.Accept != "" && r.Accept != acceptAny && r.Accept != acceptPrimary:
		return invalidf("route.accept", "%.40q is unknown: want any or primary", r.Accept)
	}
	for i, step := range r.Steps {
		field := fmt.Sprintf("route.steps[%d]", i)
		if err := s.CheckProvider(step.Provider); err != nil {
			return &Error{Code: Invalid, Field: field + ".provider", Message: strings.TrimPrefix(err.Error(), "gateway: "), Err: err}
		}
		if step.Model == "" && (kind == nil || kind.needsModel()) {
			return invalidf(field+".model", "is missing: only raw chat bodies name their own model")
		}
		if step.MaxAttempts < 0 || step.MaxAttempts > 5 {
			return invalidf(field+".max_attempts", "is not between 1 and 5")
		}
		if step.TimeoutMS < 0 || step.TimeoutMS > int(time.Hour/time.Millisecond) {
			return invalidf(field+".timeout_ms", "is not between 1 and 3600000")
		}
		if step.Model != "" {
			if reason := s.checkModel(step, step.Model, at); reason != "" {
				return invalidf(field+".model", "%s", reason)
			}
		}
	}
	return nil
}

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
	if priced(s.Prices, step.Provider) {
		return fmt.Sprintf("unknown model %.60q: the price table has no such model of %s; correct the name, or set allow_unpriced to run it at unknown cost", model, step.Provider)
	}
	return ""
}

func priced(t *pricing.Table, provider string) bool {
	for p := range t.All() {
		if p.Provider == provider {
			return true
		}
	}
	return false
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
		case kind == nil || kind.needsModel() || s.CheckProvider(text) != nil: // for raw chat, a bare provider is a chain
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
	if err := s.checkRoute(&r, chat{}, time.Now()); err != nil {
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
