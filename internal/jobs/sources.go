package jobs

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
	"time"

	"batchwright/internal/fault"
	"batchwright/internal/prompt"
	"batchwright/internal/source"
	"batchwright/internal/store"
)

// How a batch with a source gets its jobs. The submission makes an open upload without jobs; a worker reads the source and adds all of it as one
// upload, which is its claim as well, and seals it. A worker that dies leaves an upload without a sign of life, which is taken back as any
// other, and the next worker begins anew: the jobs come all or not at all. One that stops in order lets go of the batch at once.

const (
	gatherTries = 8                // at reading a source as a whole
	gatherRest  = 10 * time.Second // after the first failure; twice as long after each
	gatherPoll  = 2 * time.Second  // between two looks, as a hint may be lost
	gatherQuiet = 10 * time.Second // the same while nothing is open
	gatherLook  = 10               // batches that one look finds
)

// openSource checks the source of a batch that is being submitted, and makes it an open upload.
func (in *intake) openSource(ctx context.Context, project store.Project) error {
	if in.spec.Open {
		return invalidf("open", "is not for a batch with a source: its jobs come from there")
	}
	documents, vars, ok := in.takes()
	if !ok {
		return invalidf("source", "is not for the kind %s: its jobs have bodies, which no source gives", in.spec.Kind)
	}
	spec, err := source.Parse(in.spec.Source)
	if err != nil {
		return sourceInWords(err)
	}
	if project.Name == "" {
		if project.Name, err = in.service.DB.ProjectName(ctx, project.ID); err != nil {
			return err
		}
	}
	columns, err := in.service.sources().Check(ctx, project.Name, spec, documents)
	if err != nil {
		return sourceInWords(err)
	}
	if spec.Query != nil && !documents {
		if err := fitVariables(vars, columns); err != nil {
			return err
		}
	}
	var text bytes.Buffer
	if err := json.Compact(&text, in.spec.Source); err != nil {
		return err
	}
	in.row.Source, in.row.Open = text.Bytes(), true
	return nil
}

// takes says whether the kind takes documents, or else variables of a template.
func (in *intake) takes() (documents bool, t *prompt.Template, ok bool) {
	switch {
	case in.takesVariables():
		b := in.batch
		if in.staged() {
			b = b.options.(*pipelineOptions).stages[0].batch
		}
		return false, b.template, true
	case in.staged(), in.kind.name() == summarize{}.name():
		return true, nil, true
	}
	return false, nil, false
}

// fitVariables compares the columns of a query with a template's variables.
func fitVariables(t *prompt.Template, columns []string) error {
	known := t.Spec().Variables
	for _, c := range columns {
		if _, ok := known[c]; !ok {
			return invalidf("source.query.sql", "gives the column %.63q, and the template has no such variable: leave it out, or name it with as", c)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(known)) {
		v := known[name]
		needed := v.Default == nil
		if v.Required != nil {
			needed = *v.Required
		}
		if needed && !slices.Contains(columns, name) {
			return invalidf("source.query.sql", "gives no column %.63q, which is a variable that the template needs", name)
		}
	}
	return nil
}

// sources are what the operator allows; without any, nothing.
func (s *Service) sources() *source.Sources {
	if s.Sources == nil {
		return source.New(source.Options{})
	}
	return s.Sources
}

// sourceInWords makes a caller's refusal of an error of a source that is being checked.
func sourceInWords(err error) error {
	e, ok := errors.AsType[*source.Error](err)
	if !ok {
		return err
	}
	code := Unavailable
	if e.Refused {
		code = Invalid
	}
	return &Error{Code: code, Field: e.Field, Message: e.Message, Err: err}
}

// noLines refuses jobs beside a source.
func noLines(lines iter.Seq2[Line, error]) iter.Seq2[Line, error] {
	return func(yield func(Line, error) bool) {
		for _, err := range lines {
			if err == nil {
				err = invalidf("jobs", "can't come with a source, which the batch's jobs are from: leave one of both out")
			}
			yield(Line{}, err)
			return
		}
	}
}

// fromSource yields the items of a source as lines.
func fromSource(items iter.Seq2[source.Item, error], documents bool) iter.Seq2[Line, error] {
	return func(yield func(Line, error) bool) {
		n := 0
		for item, err := range items {
			if err != nil {
				yield(Line{}, err)
				return
			}
			n++
			l := Line{Number: n}
			switch {
			case item.Err != nil:
				l.Err, l.ID = itemProblem(item.Err), item.ID
			case documents:
				l.Upload = &Upload{Name: item.Name, ContentType: item.ContentType, Data: item.Data, Stored: true, CustomID: &item.ID}
			default:
				l.Raw, err = json.Marshal(struct {
					ID        string          `json:"custom_id"`
					Variables json.RawMessage `json:"variables"`
				}{item.ID, item.Variables})
			}
			if !yield(l, err) || err != nil {
				return
			}
		}
	}
}

// itemProblem is what people see of why an item can't be read.
func itemProblem(err error) error {
	if e, ok := errors.AsType[*source.Error](err); ok {
		return errors.New(e.Message)
	}
	return errors.New("can't be read")
}

// gather reads a batch's source into jobs, unless that was done, and seals the batch.
func (s *Service) gather(ctx context.Context, due store.DueSource) error {
	if due.TotalJobs == 0 {
		row, err := s.DB.AnyBatch(ctx, due.ID)
		if err != nil {
			return err
		}
		in, err := s.appending(ctx, row, 0)
		if err != nil {
			return err
		}
		in.row.Open = true // that there are none is no fault of a request
		spec, err := source.Parse(row.Source)
		if err != nil {
			return err
		}
		project, err := s.DB.ProjectName(ctx, row.ProjectID)
		if err != nil {
			return err
		}
		documents, _, _ := in.takes()
		total, err := in.add(ctx, row, 0, fromSource(s.sources().Items(ctx, project, spec, documents), documents))
		switch {
		case err != nil:
			return err
		case total == 0:
			return &Error{Code: Unprocessable, Field: "source", Message: "has no items: nothing matches its URLs, or the query gives no rows"}
		}
		fault.Point("source-gathered")
	}
	b, err := s.seal(ctx, due.ProjectID, due.ID)
	if err == nil {
		s.Log.InfoContext(ctx, "source gathered", "batch", b.ID, "project", b.ProjectID, "jobs", b.TotalJobs)
	}
	return err
}

// gatherSources gathers the jobs of batches with sources, one batch at a time, until ctx ends.
func (w *Worker) gatherSources(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-w.sources:
		}
		due, err := w.DB.DueSources(ctx, gatherLook)
		if err != nil && ctx.Err() == nil {
			w.Log.WarnContext(ctx, "no look at sources, will be tried again", "err", err)
		}
		for _, b := range due {
			if ctx.Err() == nil && w.gather(ctx, b) {
				poke(w.sources) // more may have come meanwhile
			}
		}
		timer.Reset(w.steadily(gatherPoll, gatherQuiet)())
	}
}

// gather gathers a batch's jobs, and records a failure. It reports whether they are there.
func (w *Worker) gather(ctx context.Context, b store.DueSource) bool {
	fault.Point("source-due")
	err := guarded(func() error { return w.Service.gather(ctx, b) })()
	_, behind := errors.AsType[*store.OffsetError](err)
	gone := behind || errors.Is(err, store.ErrNotOpen) || errors.Is(err, store.ErrBusy) || errors.Is(err, store.ErrUploadLost) || errors.Is(err, store.ErrNotFound)
	switch {
	case err == nil:
		w.nudge()
		return true
	case ctx.Err() != nil:
		w.Log.InfoContext(ctx, "source not gathered to its end, another worker begins anew", "batch", b.ID)
		return false
	case gone: // by another worker, or cancelled
		return false
	}
	last, end := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer end()
	if why, refused := whyNotGathered(err, int(b.SourceTries)+1); refused {
		w.Log.WarnContext(ctx, "source failed", "batch", b.ID, "err", err)
		err = w.DB.FailSource(last, b.ID, clean(why))
	} else {
		w.Log.WarnContext(ctx, "source not gathered, will be tried again", "batch", b.ID, "tries", b.SourceTries+1, "err", err)
		err = w.DB.DelaySource(last, b.ID, gatherRest<<b.SourceTries)
	}
	if err != nil {
		w.Log.ErrorContext(ctx, "failure of a source not recorded, it will be tried again", "batch", b.ID, "err", err)
	}
	return false
}

// whyNotGathered words a failure, and says whether it is the last one.
func whyNotGathered(err error, tries int) (why string, final bool) {
	why = "a fault of the server, whose log has it"
	if e, ok := errors.AsType[*Error](err); ok {
		return refusalInWords(e), true
	}
	if e, ok := errors.AsType[*source.Error](err); ok {
		if why = strings.TrimPrefix(e.Field+": "+e.Message, ": "); e.Refused {
			return why, true
		}
	}
	return fmt.Sprintf("the source could not be read in %d tries; the last: %s", tries, why), tries >= gatherTries
}

// fromItsSource refuses requests that add jobs to a batch, or seal it, whose jobs come from its source.
func fromItsSource(row store.Batch) error {
	if row.Source == nil {
		return nil
	}
	return &Error{Code: Conflict, Message: "the batch takes no jobs of requests: they come from its source, and then it runs"}
}

// relists says whether a rerun lists the source of its batch again, and gives the lines of the request, of which it has looked at the first: a
// batch is not listed when its stored inputs are to be changed. Stop must be called in the end.
func (r RerunSpec) relists(b store.Batch, lines iter.Seq2[Line, error]) (again bool, all iter.Seq2[Line, error], stop func(), err error) {
	next, stop := iter.Pull2(lines)
	l, lerr, changed := next()
	all = func(yield func(Line, error) bool) {
		for ; changed; l, lerr, changed = next() {
			if !yield(l, lerr) {
				return
			}
		}
	}
	switch {
	case r.Inputs != "" && r.Inputs != "source" && r.Inputs != "same":
		err = invalidf("inputs", "%.40q is unknown: want source or same", r.Inputs)
	case r.Inputs == "source" && b.Source == nil:
		err = invalidf("inputs", "can't be those of a source: the batch's jobs come from none")
	case r.Inputs == "source" && changed && lerr == nil:
		err = invalidf("changes", "are changes to the stored inputs: leave them out, or inputs=source")
	}
	return b.Source != nil && r.Inputs != "same" && !changed, all, stop, err
}
