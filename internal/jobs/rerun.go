package jobs

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"

	"github.com/google/uuid"

	"batchwright/internal/store"
)

// RerunSpec says in what a rerun differs from the batch whose jobs it runs again. What is left out is as it was there, but for the cache,
// which is used whatever that batch did, and expires_at.
type RerunSpec struct {
	Change         store.BatchChange // name, metadata and limits
	Template       string            // "name", "name@version", or "latest": the latest version of the same template
	Route          json.RawMessage   // as in Spec, or "latest"
	Params         json.RawMessage
	OnInvalid      string
	Cache          string // use (default), refresh, only or off
	MaxAgeSeconds  *int32
	Inputs         string `json:",omitempty"` // source: what the batch's source gives now, the default unless there are changes; same: what it gave
	IdempotencyKey string `json:"-"`
}

// latest names the newest version of the template or route that a batch was made with.
const latest = "latest"

// MaxChanges is how many jobs one rerun may change, add and leave out.
const MaxChanges = 100_000

// rerun is what an intake knows of the batch whose jobs are run again.
type rerun struct {
	source store.Batch
	asked  RerunSpec
	seen   map[string]int // the line of each change, by custom id
	lists  bool           // the jobs are those that the source's own source gives now: there are no changes
}

// Rerun makes a batch of the jobs of another one, or of those that the other one's source gives now. The lines are jobs that take the place
// of those with their custom ids, new ones, and ones with "removed": true, which leave theirs out. Inputs that another template or route may
// not take are checked as at a submission.
//
// Errors are those of [Service.Submit], [store.ErrNotFound], and *[Error]: conflict when the batch has no whole set of inputs, too large for
// more than MaxChanges lines.
func (s *Service) Rerun(ctx context.Context, project store.Project, id uuid.UUID, ask RerunSpec, lines iter.Seq2[Line, error]) (_ store.Batch, replayed bool, err error) {
	source, err := s.DB.Batch(ctx, project.ID, id)
	if err != nil {
		return store.Batch{}, false, err
	}
	spec, err := ask.of(source)
	if err != nil {
		return store.Batch{}, false, err
	}
	lists, lines, stop, err := ask.relists(source, lines)
	defer stop()
	if err != nil {
		return store.Batch{}, false, err
	}
	in := &intake{service: s, spec: spec, hash: sha256.New(), base: store.Changes, rerun: &rerun{source: source, asked: ask, seen: map[string]int{}, lists: lists}}
	if lists {
		in.spec.Source = source.Source
	}
	if err := in.open(ctx, project); err != nil {
		return store.Batch{}, false, err
	}
	if in.staged() && in.takesVariables() == takesDocuments(source.Params) {
		return store.Batch{}, false, invalidf("params", "the first stage must take what the batch's jobs bring: documents go to summarize, variables to generate")
	}
	in.row.RerunOf = &source.ID
	return in.submit(ctx, atMost(lines, MaxChanges))
}

// of is the whole submission that a rerun of b comes to.
func (r RerunSpec) of(b store.Batch) (Spec, error) {
	spec := Spec{Kind: b.Kind, Name: b.Name, Template: r.Template, Route: r.Route, Params: r.Params, OnInvalid: r.OnInvalid, Cache: r.Cache,
		MaxAgeSeconds: r.MaxAgeSeconds, IdempotencyKey: r.IdempotencyKey, Limits: b.Limits}
	metadata := b.Metadata
	if r.Change.Metadata != nil {
		metadata = r.Change.Metadata
	}
	if len(metadata) > 0 {
		if err := json.Unmarshal(metadata, &spec.Metadata); err != nil {
			return Spec{}, invalidf("metadata", "%s", jsonProblem(err))
		}
	}
	switch {
	case spec.Template == latest && b.TemplateName != nil:
		spec.Template = *b.TemplateName
	case spec.Template == "" && b.TemplateName != nil:
		spec.Template = fmt.Sprintf("%s@%d", *b.TemplateName, *b.TemplateVersion)
	}
	var route string
	switch named := json.Unmarshal(r.Route, &route) == nil && route == latest; {
	case named && b.RouteName == nil:
		return Spec{}, invalidf("route", "latest means the latest version of the batch's route, which was given as a chain: name a route")
	case named:
		spec.Route, _ = json.Marshal(*b.RouteName) // a string
	case len(r.Route) == 0 && b.RouteName != nil:
		spec.Route, _ = json.Marshal(fmt.Sprintf("%s@%d", *b.RouteName, *b.RouteVersion)) // the same
	case len(r.Route) == 0:
		spec.Route = b.Route
	}
	if len(spec.Params) == 0 {
		spec.Params = b.Params
	}
	if spec.OnInvalid == "" {
		spec.OnInvalid = b.OnInvalid
	}
	if r.Change.Name != nil {
		spec.Name = *r.Change.Name
	}
	l := &spec.Limits
	l.ExpiresAt = r.Change.ExpiresAt.To
	if r.Change.Priority != nil {
		l.Priority = *r.Change.Priority
	}
	change(&l.Concurrency, r.Change.Concurrency)
	change(&l.MaxAttempts, r.Change.MaxAttempts)
	change(&l.JobTimeoutSeconds, r.Change.JobTimeoutSeconds)
	change(&l.MaxCostMicrousd, r.Change.MaxCostMicrousd)
	if l.MaxCostMicrousd != nil {
		spec.OnForecastOver = b.OnForecastOver
	}
	return spec, nil
}

func change[T any](value **T, c store.Change[T]) {
	if c.Set {
		*value = c.To
	}
}

// atMost ends lines with a refusal when there are too many.
func atMost(lines iter.Seq2[Line, error], most int) iter.Seq2[Line, error] {
	return func(yield func(Line, error) bool) {
		n := 0
		for l, err := range lines {
			if n++; n > most {
				yield(Line{}, &Error{Code: TooLarge, Field: "changes", Message: fmt.Sprintf("are more than %d: submit a batch of its own, which the cache serves as well", most)})
				return
			}
			if !yield(l, err) {
				return
			}
		}
	}
}

// parse reads a line of changes.
func (r *rerun) parse(l Line) (*line, *LineError) {
	out, problem := removal(l)
	if out == nil && problem == nil {
		out, problem = parseLine(l)
	}
	if problem != nil {
		return nil, problem
	}
	if out.CustomID == nil {
		return nil, out.problem("custom_id", "missing", "is missing: it says which job a change is of")
	}
	if first, twice := r.seen[*out.CustomID]; twice {
		problem = out.problem("custom_id", "duplicate_custom_id", fmt.Sprintf("is the same as in line %d: one change a job", first))
		problem.CustomID = "" // the first line has the job
		return nil, problem
	}
	r.seen[*out.CustomID] = l.Number
	return out, nil
}

// removal reads a line that leaves a job out; nil for any other.
func removal(l Line) (*line, *LineError) {
	if l.Upload != nil || !bytes.Contains(l.Raw, []byte(`"removed"`)) {
		return nil, nil
	}
	var v struct {
		CustomID *string `json:"custom_id"`
		Removed  bool    `json:"removed"`
	}
	d := json.NewDecoder(bytes.NewReader(l.Raw))
	d.DisallowUnknownFields()
	if err := d.Decode(&v); err != nil || !v.Removed {
		return nil, nil
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, nil
	}
	out := &line{CustomID: v.CustomID, number: l.Number, removed: true}
	return out, out.checkID()
}

// runAgain stores the batch, if its source has its inputs.
func (in *intake) runAgain(ctx context.Context, lines iter.Seq2[Line, error]) (store.Batch, []store.Ticket, error) {
	src := in.rerun.source
	refuse := func(why string) error {
		return &Error{Code: Conflict, Message: "batch " + src.ID.String() + " can't be run again: " + why}
	}
	switch {
	case src.State == "ingesting":
		return store.Batch{}, nil, refuse("its jobs are still coming in; wait until it is sealed")
	case src.State == "failed" && src.StartedAt == nil:
		return store.Batch{}, nil, refuse("its upload failed, and its jobs are not there; submit them again")
	case src.PurgedAt != nil:
		return store.Batch{}, nil, refuse("its inputs were purged; submit them again")
	}
	in.seq, in.bad, in.badN, in.numbers = 0, nil, 0, nil
	clear(in.rerun.seen)
	r := store.Rerun{Source: src.ID, Total: int32(src.TotalJobs), Checked: in.checked, Unknown: in.unknown}
	if in.mustCheck() {
		r.Check = in.check
	}
	b, tickets, err := in.service.DB.RerunBatch(ctx, in.row, r, in.chunks(lines), func() [32]byte { return [32]byte(in.hash.Sum(nil)) })
	switch {
	case errors.Is(err, store.ErrSourceGone):
		err = refuse("its inputs were purged meanwhile; submit them again")
	case errors.Is(err, store.ErrEmpty):
		err = invalidf("changes", "leave no job: a batch has at least one")
	}
	return b, tickets, err
}

// mustCheck reports whether inputs that the source took may be ones that this batch can't run: variables of another template, or bodies
// that name a model which another route doesn't have.
func (in *intake) mustCheck() bool {
	src := in.rerun.source
	if in.staged() {
		return in.takesVariables() && !bytes.Equal(in.row.Params, src.Params)
	}
	if in.kind.needsTemplate() {
		return src.TemplateID == nil || *src.TemplateID != *in.row.TemplateID
	}
	return !in.kind.needsModel() && !bytes.Equal(in.row.Route, src.Route)
}

// takesDocuments reports whether a pipeline with these stored params begins with a document.
func takesDocuments(params json.RawMessage) bool {
	var p pipelineParams
	return json.Unmarshal(params, &p) == nil && len(p.Stages) > 0 && !p.Stages[0].takesVariables()
}

func (in *intake) staged() bool { _, ok := in.kind.(pipeline); return ok }

func (in *intake) takesVariables() bool {
	if in.staged() {
		return in.batch.options.(*pipelineOptions).stages[0].takesVariables()
	}
	return in.kind.needsTemplate()
}

// check looks at an input of the source as at a line of a submission. Lines are numbered as the source's jobs.
func (in *intake) check(c store.CheckedInput) []byte {
	l := &line{CustomID: c.CustomID, number: int(c.Seq)}
	if in.takesVariables() {
		l.Variables = bytes.Clone(c.Input)
	} else {
		l.Body = bytes.Clone(c.Input)
	}
	_, _, problem := in.kind.accept(in.batch, l)
	if problem == nil {
		return nil
	}
	in.note(*problem)
	return problem.stored(fmt.Sprintf("job %d of batch %s", c.Seq, in.rerun.source.ID))
}

func (in *intake) checked() error {
	if in.badN == 0 || in.spec.OnInvalid != "refuse" {
		return nil
	}
	return &Error{Code: Unprocessable, Field: "jobs", LineCount: in.badN, Lines: in.bad,
		Message: fmt.Sprintf("%d of %d jobs of batch %s can't be run with this template or route; nothing was accepted. Correct them by changes, or rerun with on_invalid=skip",
			in.badN, in.rerun.source.TotalJobs, in.rerun.source.ID)}
}

func (in *intake) unknown(ids []string) error {
	e := &Error{Code: Unprocessable, Field: "changes", LineCount: len(ids),
		Message: fmt.Sprintf("some leave jobs out that batch %s doesn't have; nothing was accepted", in.rerun.source.ID)}
	for _, id := range ids[:min(len(ids), maxLineErrors)] {
		e.Lines = append(e.Lines, LineError{Line: in.rerun.seen[id], CustomID: id, Field: "custom_id", Code: "unknown_custom_id", Message: "is of no job of the batch"})
	}
	return e
}
