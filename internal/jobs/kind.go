package jobs

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"batchwright/internal/gateway"
	"batchwright/internal/prompt"
	"batchwright/internal/store"
)

// A kind is one sort of work. Its name is stored in rows and never changes. Its methods hold no state: what a job needs is in the
// batch and in its input.
type kind interface {
	name() string
	needsTemplate() bool
	needsModel() bool // every step of its routes names a model
	// params checks the kind's options and returns their canonical form.
	params(raw json.RawMessage) (json.RawMessage, *Error)
	// accept checks one submitted job and returns the input to store, and a document if it brings one.
	accept(b *batch, l *line) (input json.RawMessage, doc *store.NewDocument, problem *LineError)
	// plan returns the keys under which the job's answer may be cached, in the order of preference, and what the forecast needs of it.
	plan(b *batch, in store.Input) (planned, error)
	// run does the work of one attempt.
	run(ctx context.Context, t *task) (result, error)
}

var kinds = map[string]kind{}

// register is called from the init function of each kind's file, and nowhere else.
func register(k kind) {
	if kinds[k.name()] != nil {
		panic("jobs: kind registered twice: " + k.name())
	}
	kinds[k.name()] = k
}

func kindByName(name string) (kind, *Error) {
	if k := kinds[name]; k != nil {
		return k, nil
	}
	return nil, invalidf("kind", "unknown kind %.40q: want %s", name, strings.Join(slices.Sorted(maps.Keys(kinds)), ", "))
}

// batch is what is fixed about a batch once it was accepted, ready for use.
type batch struct {
	store.Batch
	kind     kind
	route    Route
	scope    string // the project's id, as a gateway's cache wants it
	metadata map[string]string
	template *prompt.Template               // nil for kinds without one
	spec     prompt.Spec                    // of the template
	options  any                            // the kind's decoded params
	current  atomic.Pointer[store.Standing] // see standing
	whole    *batch                         // what this is a stage of; else nil
	stage    string                         // its name then

	check func(s RouteStep, model string, at time.Time) string // while lines are accepted: why a step can't ask for a model

	moved atomic.Bool // a job of it became final here since the last heartbeat
}

// youngEnough words which answers of the cache count; nothing when all do.
func (b *batch) youngEnough() string {
	if b.MaxAgeSeconds == nil {
		return ""
	}
	return fmt.Sprintf(" made within %s before the batch", time.Duration(*b.MaxAgeSeconds)*time.Second)
}

// result is a complete, valid answer.
type result struct {
	output    string
	format    string // text or json
	step      int    // of the route
	model     string // asked for
	by        string // model as the provider reported it
	hit       bool   // the gateway's cache answered every call
	reused    bool   // no call was made: earlier answers to its parts made it up
	details   json.RawMessage
	resultKey prompt.Key
	repaired  prompt.Rung
}

// compile makes a stored batch ready for use.
func compile(ctx context.Context, db store.Reader, b store.Batch) (*batch, error) {
	k := kinds[b.Kind]
	if k == nil {
		return nil, fmt.Errorf("jobs: batch %s: this binary has no kind %q", b.ID, b.Kind)
	}
	out := &batch{Batch: b, kind: k, scope: b.ProjectID.String()}
	if err := json.Unmarshal(b.Route, &out.route); err != nil {
		return nil, fmt.Errorf("jobs: batch %s: stored route: %w", b.ID, err)
	}
	if len(b.Metadata) > 0 {
		if err := json.Unmarshal(b.Metadata, &out.metadata); err != nil {
			return nil, fmt.Errorf("jobs: batch %s: stored metadata: %w", b.ID, err)
		}
	}
	if b.TemplateID != nil {
		t, err := db.TemplateByID(ctx, *b.TemplateID)
		if err != nil {
			return nil, fmt.Errorf("jobs: batch %s: template: %w", b.ID, err)
		}
		if out.spec, out.template, err = compileTemplate(t.Spec); err != nil {
			return nil, fmt.Errorf("jobs: batch %s: stored template: %w", b.ID, err)
		}
	}
	if d, ok := k.(optionsDecoder); ok {
		o, err := d.decode(b.Params)
		if err != nil {
			return nil, fmt.Errorf("jobs: batch %s: stored params: %w", b.ID, err)
		}
		out.options = o
	}
	if _, staged := k.(pipeline); staged {
		if err := out.openStages(ctx, db); err != nil {
			return nil, fmt.Errorf("jobs: batch %s: stored stages: %w", b.ID, err)
		}
	}
	return out, nil
}

// optionsDecoder is implemented by kinds with options.
type optionsDecoder interface {
	decode(params json.RawMessage) (any, error)
}

func compileTemplate(raw json.RawMessage) (prompt.Spec, *prompt.Template, error) {
	spec, err := prompt.ParseSpec(raw)
	if err != nil {
		return prompt.Spec{}, nil, err
	}
	t, err := prompt.Compile(spec)
	return spec, t, err
}

// noParams is for kinds without options.
func noParams(raw json.RawMessage) (json.RawMessage, *Error) {
	var m map[string]json.RawMessage
	if len(raw) > 0 && (json.Unmarshal(raw, &m) != nil || len(m) > 0) {
		return nil, invalidf("params", "this kind takes none")
	}
	return json.RawMessage(`{}`), nil
}

// ceiling is the cap on an answer that a request set.
type ceiling struct {
	field  string // what a person raises; empty when there is none
	tokens int    // 0 when the request set none
	raised int    // the cap of the second try; 0 when there was none
}

// cut says that an answer was cut off, and what to do.
func (c ceiling) cut() *failure {
	switch {
	case c.tokens <= 0 && c.field != "":
		return failf(gateway.Truncated, "the answer was cut off at the provider's own limit: set %s, ask for less, or choose a model that can say more", c.field)
	case c.tokens <= 0:
		return failf(gateway.Truncated, "the answer was cut off at the provider's own limit: ask for less, or choose a model that can say more")
	case c.raised > 0:
		return failf(gateway.Truncated, "the answer was cut off at %d tokens, and again at %d: raise %s, or ask for less", c.tokens, c.raised, c.field)
	}
	return failf(gateway.Truncated, "the answer was cut off at %d tokens: raise %s, ask for less, or choose a model that can say more", c.tokens, c.field)
}

// verdict judges a gateway's answer by its finish reason and text; nil is good.
func verdict(r *gateway.Response, limit ceiling) *failure {
	switch r.Finish {
	case gateway.FinishLength:
		return limit.cut()
	case gateway.FinishFiltered:
		return failf(gateway.ContentFiltered, "the provider's content filter or the model itself refused")
	}
	if strings.TrimSpace(r.Text) == "" {
		f := failf(gateway.InvalidOutput, "the model answered nothing (finish reason %s)", r.Finish)
		f.retry = true
		return f
	}
	return nil
}

// callTimeout bounds one walk through a route.
const callTimeout = 10 * time.Minute

// callPatience is how long a call waits, with its job claimed, for a rate limit that says how long it lasts. A longer wait is the job's.
const callPatience = 2 * time.Second
