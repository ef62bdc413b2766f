package jobs

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"batchwright/internal/gateway"
	"batchwright/internal/prompt"
	"batchwright/internal/store"
)

func init() { register(pipeline{}) }

// pipeline runs stages one after the other, each a job of another kind: the first takes what was submitted, the others what earlier ones
// answered. Its result is the answer of the last.
//
// Each stage is looked up and kept under its own kind's keys. A stage that was changed is paid for, and those after it as far as their
// inputs are others now; the same summaries or answers in a batch of another kind cost nothing.
type pipeline struct{}

// pipelineVersion is part of every key: raise it when what a stage is given changes.
const pipelineVersion = "1"

const maxStages = 8

// pipelineParams are the kind's params. Stored, each stage names its template's version and has its own route.
type pipelineParams struct {
	Stages []stageSpec `json:"stages"`
}

type stageSpec struct {
	Name      string            `json:"name"`
	Kind      string            `json:"kind"`
	Template  string            `json:"template,omitempty"`
	Route     json.RawMessage   `json:"route,omitempty"`
	Params    json.RawMessage   `json:"params,omitempty"`
	Variables map[string]origin `json:"variables,omitempty"` // of the template, but for the first stage
}

// origin says where the value of a variable comes from: exactly one of stage, input and value.
type origin struct {
	Stage   string          `json:"stage,omitempty"`   // the answer of an earlier stage: as a text,
	Pointer *string         `json:"pointer,omitempty"` // or the value in it at an RFC 6901 pointer; "" is the whole
	Input   string          `json:"input,omitempty"`   // a variable of the job
	Value   json.RawMessage `json:"value,omitempty"`   // a constant
}

// pipelineOptions are stages ready for use.
type pipelineOptions struct {
	stages     []stage
	definition []byte // what decides the answers of all stages but the first, beside who is asked
}

type stage struct {
	stageSpec
	batch     *batch   // the batch as the stage's kind sees it
	answerers []string // whose cached answers count
}

// takesVariables reports whether a stage is given variables, and not a document.
func (s stageSpec) takesVariables() bool { return s.Kind == generate{}.name() }

func (pipeline) name() string        { return "pipeline" }
func (pipeline) needsTemplate() bool { return false }
func (pipeline) needsModel() bool    { return true }

func (pipeline) params(raw json.RawMessage) (json.RawMessage, *Error) {
	var p pipelineParams
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(&p); err != nil {
		return nil, invalidf("params", "%s: want {\"stages\": [...]}", jsonProblem(err))
	}
	if len(p.Stages) == 0 || len(p.Stages) > maxStages {
		return nil, invalidf("params.stages", "has %d entries; a pipeline has 1 to %d", len(p.Stages), maxStages)
	}
	for i := range p.Stages {
		if err := p.check(i); err != nil {
			return nil, err.within(fieldOf(i))
		}
	}
	out, err := json.Marshal(p)
	if err != nil {
		return nil, invalidf("params", "%s", err)
	}
	return out, nil
}

// fieldOf names a stage as errors do.
func fieldOf(stage int) string { return fmt.Sprintf("params.stages[%d]", stage) }

// check finds what is wrong with stage i by itself, and puts its params into their canonical form.
func (p *pipelineParams) check(i int) *Error {
	s := &p.Stages[i]
	if err := checkName(s.Name); err != nil {
		return err
	}
	if slices.ContainsFunc(p.Stages[:i], func(o stageSpec) bool { return o.Name == s.Name }) {
		return invalidf("name", "%q is that of an earlier stage", s.Name)
	}
	k := kinds[s.Kind]
	switch first, isGenerate := i == 0, s.takesVariables(); {
	case k == nil || s.Kind == "pipeline" || s.Kind == "chat":
		return invalidf("kind", "%.40q is no kind of a stage: the first is summarize or generate, the others are generate", s.Kind)
	case !first && !isGenerate:
		return invalidf("kind", "a later stage renders a template with the answers before it: want generate")
	case first && len(s.Variables) > 0:
		return invalidf("variables", "belongs to later stages: the first one takes the variables of the job as they are")
	case isGenerate != (s.Template != ""):
		return invalidf("template", "is for stages of kind generate, and needed there")
	}
	var err *Error
	if s.Params, err = k.params(s.Params); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(s.Variables)) {
		if problem := p.checkOrigin(i, s.Variables[name]); problem != "" {
			return invalidf("variables."+name, "%s", problem)
		}
	}
	return nil
}

func (p *pipelineParams) checkOrigin(i int, o origin) string {
	switch {
	case given(o.Stage != "", o.Input != "", o.Value != nil) != 1:
		return "comes from exactly one of stage, input and value"
	case o.Pointer != nil && o.Stage == "":
		return "has a pointer, which goes with stage"
	case o.Pointer != nil && *o.Pointer != "" && !strings.HasPrefix(*o.Pointer, "/"):
		return "has a pointer that doesn't begin with /"
	case o.Input != "" && !p.Stages[0].takesVariables():
		return "is to come from the job's variables, but the first stage takes documents"
	case o.Stage != "" && !slices.ContainsFunc(p.Stages[:i], func(s stageSpec) bool { return s.Name == o.Stage }):
		return fmt.Sprintf("is to come from the stage %.64q, which is none of those before it", o.Stage)
	}
	return ""
}

// openStages checks the stages of a batch that is being submitted, and makes them ready. Each gets its template's version and its chain, so
// that the params mean the same for ever.
func (s *Service) openStages(ctx context.Context, b *batch) error {
	var p pipelineParams
	if err := json.Unmarshal(b.Params, &p); err != nil {
		return err
	}
	for i := range p.Stages {
		if err := s.resolveStage(ctx, b, &p.Stages[i]); err != nil {
			return within(fieldOf(i), err)
		}
	}
	var err error
	if b.Params, err = json.Marshal(p); err != nil {
		return err
	}
	if err := b.openStages(ctx, s.DB.Reader); err != nil {
		return err
	}
	return b.options.(*pipelineOptions).check()
}

func (s *Service) resolveStage(ctx context.Context, b *batch, st *stageSpec) error {
	k := kinds[st.Kind]
	route := b.route
	if len(st.Route) > 0 {
		var err error
		if route, _, err = s.resolveRoute(ctx, b.ProjectID, st.Route, k); err != nil {
			return err
		}
		if st.Route, err = json.Marshal(route); err != nil {
			return err
		}
	} else if err := s.checkRoute(&route, k, time.Now()); err != nil {
		return err
	}
	if route.branching() {
		return invalidf("route", "branches: which steps a job takes must be clear before its first stage has answered; give the stage a plain chain")
	}
	if st.Template == "" {
		return nil
	}
	t, err := s.template(ctx, b.ProjectID, st.Template)
	if err != nil {
		return err
	}
	st.Template = fmt.Sprintf("%s@%d", t.Name, t.Version)
	return nil
}

// openStages makes the stages ready.
func (b *batch) openStages(ctx context.Context, db store.Reader) error {
	var p pipelineParams
	if err := json.Unmarshal(b.Params, &p); err != nil {
		return err
	}
	o := &pipelineOptions{stages: make([]stage, len(p.Stages))}
	about := make([]any, 0, 4*len(p.Stages))
	for i, spec := range p.Stages {
		st := &batch{Batch: b.Batch, kind: kinds[spec.Kind], scope: b.scope, metadata: b.metadata, whole: b, stage: spec.Name}
		st.Params = spec.Params
		if st.kind == nil {
			return fmt.Errorf("this binary has no kind %q", spec.Kind)
		}
		if st.route = b.route; len(spec.Route) > 0 {
			st.route = Route{}
			if err := json.Unmarshal(spec.Route, &st.route); err != nil {
				return fmt.Errorf("route of stage %s: %w", spec.Name, err)
			}
		}
		if d, ok := st.kind.(optionsDecoder); ok {
			var err error
			if st.options, err = d.decode(spec.Params); err != nil {
				return fmt.Errorf("params of stage %s: %w", spec.Name, err)
			}
		}
		if spec.Template != "" {
			if err := st.render(ctx, db, spec.Template); err != nil {
				return fmt.Errorf("template of stage %s: %w", spec.Name, err)
			}
		}
		o.stages[i] = stage{spec, st, st.route.answerers("")}
		if i > 0 {
			about = append(about, spec.Kind, st.spec, spec.Params, spec.Variables, names(p.Stages[:i]))
		}
	}
	var err error
	o.definition, err = json.Marshal(about)
	b.options = o
	return err
}

func names(stages []stageSpec) []string {
	out := make([]string, len(stages))
	for i, s := range stages {
		out[i] = s.Name
	}
	return out
}

// render gives the batch a template by its name and version.
func (b *batch) render(ctx context.Context, db store.Reader, ref string) error {
	name, version, err := splitVersion(ref)
	if err != nil {
		return err
	}
	t, err := db.TemplateByName(ctx, b.ProjectID, name, version)
	if err != nil {
		return err
	}
	b.spec, b.template, err = compileTemplate(t.Spec)
	return err
}

// check finds variables that a later stage's template doesn't have, wants or can't take, and forms that its route can't.
func (o *pipelineOptions) check() error {
	for i, st := range o.stages {
		if err := st.batch.checkForms(); err != nil {
			return err.within(fieldOf(i))
		}
		if i == 0 {
			continue
		}
		spec := st.batch.spec
		spec.Variables = maps.Clone(spec.Variables)
		trial := make(map[string]json.RawMessage, len(st.Variables))
		for name, from := range st.Variables {
			v, known := spec.Variables[name]
			if from.Value != nil || !known { // the template says what it doesn't know
				if trial[name] = from.Value; !known {
					trial[name] = json.RawMessage(`null`)
				}
				continue
			}
			if trial[name] = json.RawMessage(samples[v.Type]); from.Stage != "" && from.Pointer == nil {
				trial[name] = json.RawMessage(`""`)
			}
			v.Schema = nil // of what isn't known yet, the type alone is
			spec.Variables[name] = v
		}
		template, err := prompt.Compile(spec)
		if err != nil {
			return err
		}
		raw, err := json.Marshal(trial)
		if err == nil {
			err = template.Check(raw)
		}
		if err != nil {
			return invalidf("variables", "%s", promptProblem(err)).within(fieldOf(i))
		}
	}
	return nil
}

var samples = map[prompt.Type]string{prompt.TypeString: `""`, prompt.TypeNumber: `0`, prompt.TypeInteger: `0`, prompt.TypeBoolean: `false`,
	prompt.TypeArray: `[]`, prompt.TypeObject: `{}`}

func (pipeline) accept(b *batch, l *line) (json.RawMessage, *store.NewDocument, *LineError) {
	first := b.options.(*pipelineOptions).stages[0].batch
	return first.kind.accept(first, l)
}

// plan names the whole by what goes in: the first stage's key, what makes the others' requests, and whose answers count. A later name of a
// list stands for weaker answers; the whole is as good as its weakest stage.
func (pipeline) plan(b *batch, in store.Input) (planned, error) {
	o := b.options.(*pipelineOptions)
	p, err := o.stages[0].batch.kind.plan(o.stages[0].batch, in)
	if err != nil {
		return planned{}, err
	}
	first := p.keys
	levels := len(first)
	for _, st := range o.stages[1:] {
		levels = max(levels, len(st.answerers))
	}
	p.keys = make([]prompt.Key, levels)
	for level := range p.keys {
		p.keys[level] = o.key(first, level)
	}
	return p, nil
}

func (o *pipelineOptions) key(first []prompt.Key, level int) prompt.Key {
	parts := [][]byte{first[min(level, len(first)-1)][:], o.definition}
	for _, st := range o.stages[1:] {
		parts = append(parts, []byte(st.answerers[min(level, len(st.answerers)-1)]))
	}
	return prompt.DeriveKey("pipeline/"+pipelineVersion, parts...)
}

func (pipeline) run(ctx context.Context, t *task) (result, error) {
	whole, job := t.batch, t.job
	defer func() { t.batch, t.job = whole, job }()
	o := whole.options.(*pipelineOptions)
	answers := make(map[string]result, len(o.stages))
	var first []prompt.Key
	var out result
	level, hit, reused := 0, true, true
	for i, st := range o.stages {
		if i > 0 {
			input, err := st.input(job.Input, answers)
			if err != nil {
				return result{}, err.in(st.Name)
			}
			t.job.Input, t.job.DocumentSHA256 = input, nil
		}
		t.batch = st.batch
		in := store.Input{Seq: job.Seq, Input: t.job.Input, DocumentSHA256: t.job.DocumentSHA256}
		if in.DocumentSHA256 != nil {
			var err error
			if _, in.TextSHA256, err = t.text(ctx); err != nil {
				return result{}, st.blame(err)
			}
		}
		found, err := st.batch.kind.plan(st.batch, in)
		if err != nil {
			return result{}, st.blame(err)
		}
		keys := found.keys
		if i == 0 {
			first = keys
		}
		if out, err = t.stage(ctx, keys); err != nil {
			return result{}, st.blame(err)
		}
		answers[st.Name] = out
		switch rank := slices.Index(keys, out.resultKey); {
		case rank < 0: // by a fallback whose answers don't count: kept, and found by nobody
			level = -1
		case level >= 0:
			level = max(level, rank)
		}
		hit, reused = hit && out.hit, reused && out.reused
	}
	out.hit, out.reused = hit, reused
	if level >= 0 {
		out.resultKey = o.key(first, level)
	} else {
		out.resultKey = prompt.DeriveKey("pipeline/"+pipelineVersion+"/fallback", o.definition, out.resultKey[:])
	}
	return out, nil
}

// stage takes an earlier answer under one of the keys, or makes one attempt at it and keeps what comes of it.
func (t *task) stage(ctx context.Context, keys []prompt.Key) (result, error) {
	before, err := t.earlier(ctx, [][]prompt.Key{keys})
	if err != nil {
		return result{}, err
	}
	if a := before[0]; a != nil {
		t.route = t.batch.route
		step := slices.IndexFunc(t.route.Steps, func(s RouteStep) bool { return s.Provider == a.Provider && s.Model == a.Model })
		return fromCache(a, max(step, 0)), nil
	}
	out, err := t.batch.kind.run(ctx, t)
	if err != nil {
		return result{}, err
	}
	return out, t.keepPart(context.WithoutCancel(ctx), out) // paid for, whatever becomes of the rest
}

// blame says which stage an attempt failed in.
func (st stage) blame(err error) error {
	if f, ok := errors.AsType[*failure](err); ok {
		return f.in(st.Name)
	}
	if e, ok := errors.AsType[*gateway.Error](err); ok {
		out := *e
		out.Message = "stage " + st.Name + ": " + e.Message
		return &out
	}
	return err
}

func (f *failure) in(stage string) *failure {
	out := *f
	out.message = "stage " + stage + ": " + f.message
	return &out
}

// input makes the variables of a later stage.
func (st stage) input(job json.RawMessage, answers map[string]result) (json.RawMessage, *failure) {
	var given map[string]json.RawMessage
	vars := make(map[string]json.RawMessage, len(st.Variables))
	for name, from := range st.Variables {
		switch {
		case from.Value != nil:
			vars[name] = from.Value
		case from.Input != "":
			if given == nil && json.Unmarshal(job, &given) != nil {
				return nil, failf(gateway.InvalidRequest, "the job's variables can't be read")
			}
			if v, ok := given[from.Input]; ok {
				vars[name] = v
			}
		case from.Pointer == nil:
			text, err := json.Marshal(answers[from.Stage].output)
			if err != nil {
				return nil, failf(gateway.InvalidOutput, "the answer of stage %s can't be passed on", from.Stage)
			}
			vars[name] = text
		default:
			v, ok := at(json.RawMessage(answers[from.Stage].output), *from.Pointer)
			if !ok {
				return nil, failf(gateway.InvalidOutput, "the answer of stage %s has nothing at %q, which variable %s is to come from", from.Stage, *from.Pointer, name)
			}
			vars[name] = v
		}
	}
	raw, err := json.Marshal(vars)
	if err == nil {
		err = st.batch.template.Check(raw)
	}
	if err != nil {
		return nil, failf(gateway.InvalidOutput, "what earlier stages answered is no input for its template: %s", promptProblem(err))
	}
	return raw, nil
}

// at finds the value at a JSON pointer (RFC 6901).
func at(v json.RawMessage, pointer string) (json.RawMessage, bool) {
	if !json.Valid(v) {
		return nil, false
	}
	unescape := strings.NewReplacer("~1", "/", "~0", "~")
	for token := range strings.SplitSeq(strings.TrimPrefix(pointer, "/"), "/") {
		if pointer == "" {
			break
		}
		var object map[string]json.RawMessage
		var list []json.RawMessage
		if json.Unmarshal(v, &object) == nil && object != nil {
			member, ok := object[unescape.Replace(token)]
			if !ok {
				return nil, false
			}
			v = member
			continue
		}
		n, err := strconv.Atoi(token)
		if json.Unmarshal(v, &list) != nil || err != nil || n < 0 || n >= len(list) || strconv.Itoa(n) != token {
			return nil, false
		}
		v = list[n]
	}
	return v, true
}
