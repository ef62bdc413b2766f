// Package export writes batches' results, and reports, to the folders and buckets that package bucket allows.
//
// An export is a row; an [Exporter] in every worker process takes those that are due:
//
//	pending ─ a batch is final, claimed ─▶ running ─ the file is complete ─▶ succeeded
//	   ▲                                       │ │
//	   └── stopped, or an error, 8 times ──────┘ └ refused, or an error once more ─▶ failed
//
// Whoever holds one renews it, and loses it when it doesn't: a dead worker's export is taken over from its beginning. The number of the attempt
// fences whatever is written, and before the file appears the worker makes sure that it still holds the export and that a batch is as it was when it was taken; a report
// is one statement, and so of one moment by itself. So a target has the whole file of one moment, or what was there before. An export before a purge is failed for an hour only, as the purge waits for it.
package export

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"batchwright/internal/bucket"
	"batchwright/internal/jobs"
	"batchwright/internal/report"
	"batchwright/internal/store"
)

// Service is what a project may do with its exports; it reads them through the store's Reader.
type Service struct {
	DB     *store.DB
	Places bucket.Places
}

// probeLimit bounds the look at whether a target can be written, in which a storage may have to be found and its credentials fetched.
const probeLimit = 15 * time.Second

// formats are those of results.
var formats = []string{"csv", "ndjson", "parquet"}

// Placeholders of a target, by what is exported; none stands for a /.
var (
	ofBatch    = []string{"{project}", "{batch}", "{name}", "{date}", "{format}"}
	ofSchedule = append(slices.Clip(ofBatch), "{schedule}")
	ofReport   = []string{"{project}", "{report}", "{date}", "{format}"}
)

// Check refuses what could not be written now: a format or target that is wrong or not allowed, and a target where the server can't write, which it
// tries. Origin says which exports of batches they will be. Errors are *[jobs.Error] with the field.
func (s *Service) Check(ctx context.Context, project store.Project, e jobs.ExportSpec, origin string) error {
	switch {
	case origin == store.ExportSchedule:
		return s.check(ctx, project, e, ofSchedule)
	case origin == store.ExportPurge && !strings.Contains(e.Target, "{batch}"):
		return &jobs.Error{Code: jobs.Invalid, Field: "target", Message: "lacks {batch}: each batch would take the place of the one before"}
	}
	return s.check(ctx, project, e, ofBatch)
}

func (s *Service) check(ctx context.Context, project store.Project, e jobs.ExportSpec, placeholders []string) error {
	invalid := func(field, format string, a ...any) error {
		return &jobs.Error{Code: jobs.Invalid, Field: field, Message: fmt.Sprintf(format, a...)}
	}
	if !slices.Contains(formats, e.Format) {
		return invalid("format", "is not one of %s", strings.Join(formats, ", "))
	}
	if e.BOM && e.Format != "csv" {
		return invalid("bom", "is for csv: the other formats are UTF-8 for all that read them")
	}
	rest := e.Target
	for _, p := range placeholders {
		rest = strings.ReplaceAll(rest, p, "")
	}
	switch {
	case s.Places.Empty():
		return invalid("target", "is not allowed: no place for exports is, until the operator sets EXPORT_TARGETS")
	case strings.ContainsAny(rest, "{}"):
		return invalid("target", "has a { or } that belongs to none of the placeholders that such an export has: %s", strings.Join(placeholders, ", "))
	}
	ctx, cancel := context.WithTimeoutCause(ctx, probeLimit, &bucket.Error{Message: fmt.Sprintf("could not be written within %s: the storage does not answer", probeLimit)})
	defer cancel()
	err := s.probe(ctx, project.Name, e.Target)
	if b, ok := errors.AsType[*bucket.Error](err); ok {
		return &jobs.Error{Code: jobs.Invalid, Field: "target", Message: b.Message, Err: b}
	}
	return err
}

func (s *Service) probe(ctx context.Context, project, target string) error {
	b, key, err := s.Places.Of(project).Open(ctx, strings.ReplaceAll(target, "{project}", bucket.Segment(project)))
	if err != nil {
		return err
	}
	unmade := 0 // folders from the first placeholder on
	if i := strings.IndexByte(target, '{'); i >= 0 {
		unmade = strings.Count(target[i:], "/")
	}
	return errors.Join(b.Probe(ctx, key, unmade), b.Close())
}

// CheckScheduled is [Service.Check] for the runs of a schedule.
func (s *Service) CheckScheduled(ctx context.Context, project store.Project, e jobs.ExportSpec) error {
	return s.Check(ctx, project, e, store.ExportSchedule)
}

// Request asks for a file of a batch's results, from the first to the last index, once the batch is final. Errors are [store.ErrNotFound] and
// *[jobs.Error]: invalid as by Check, conflict when there are no results to come.
func (s *Service) Request(ctx context.Context, project store.Project, batch uuid.UUID, e jobs.ExportSpec, first, last int32) (store.Export, error) {
	if last < first {
		return store.Export{}, &jobs.Error{Code: jobs.Invalid, Field: "to", Message: "is before from"}
	}
	b, err := s.DB.Batch(ctx, project.ID, batch)
	if err != nil {
		return store.Export{}, err
	}
	gone := &jobs.Error{Code: jobs.Conflict, Message: "the batch was purged: its results are gone"}
	switch {
	case b.PurgedAt != nil:
		return store.Export{}, gone
	case b.State == "failed" && b.StartedAt == nil:
		return store.Export{}, &jobs.Error{Code: jobs.Conflict, Message: "the batch has no results: its upload failed"}
	}
	if err := s.Check(ctx, project, e, store.ExportRequest); err != nil {
		return store.Export{}, err
	}
	made, err := s.create(ctx, e, store.Export{ProjectID: project.ID, BatchID: &batch, FirstIndex: first, LastIndex: last})
	if errors.Is(err, store.ErrNotFound) {
		return made, gone
	}
	return made, err
}

// question is a report and what is asked of it, as it is stored.
type question struct {
	Name string `json:"name"`
	report.Query
}

// RequestReport asks for a file of a report, about the project, as soon as a worker is free. Errors are *[jobs.Error]: invalid, with the field.
func (s *Service) RequestReport(ctx context.Context, project store.Project, r report.Report, q report.Query, e jobs.ExportSpec) (store.Export, error) {
	if _, err := r.Build(project.ID, q); err != nil {
		if refused, ok := errors.AsType[*report.Error](err); ok {
			err = &jobs.Error{Code: jobs.Invalid, Field: refused.Field, Message: refused.Message, Err: err}
		}
		return store.Export{}, err
	}
	if err := s.check(ctx, project, e, ofReport); err != nil {
		return store.Export{}, err
	}
	text, err := json.Marshal(question{r.Name, q})
	if err != nil {
		return store.Export{}, err
	}
	return s.create(ctx, e, store.Export{ProjectID: project.ID, Report: text, FirstIndex: 1, LastIndex: math.MaxInt32})
}

func (s *Service) create(ctx context.Context, e jobs.ExportSpec, row store.Export) (_ store.Export, err error) {
	if row.ID, err = uuid.NewV7(); err != nil {
		return row, err
	}
	row.Format, row.Target, row.Status, row.BOM = e.Format, e.Target, e.Status, e.BOM
	return s.DB.CreateExport(ctx, row)
}

// Cancel ends an export that isn't final: nothing appears of it any more. Errors are [store.ErrNotFound] and *[jobs.Error]: conflict.
func (s *Service) Cancel(ctx context.Context, project, id uuid.UUID) (store.Export, error) {
	done, err := s.DB.CancelExport(ctx, project, id)
	if !errors.Is(err, store.ErrNotFound) {
		return done, err
	}
	e, err := s.DB.Export(ctx, project, id)
	switch {
	case err != nil || e.State == store.ExportCancelled:
		return e, err
	case e.Origin == store.ExportPurge:
		return e, &jobs.Error{Code: jobs.Conflict, Message: "the export is one before a purge: it ends with the project's setting, which is the operator's"}
	}
	return e, &jobs.Error{Code: jobs.Conflict, Message: "the export has " + e.State + " already"}
}

// place fills in a target.
func place(e store.Export, about store.ExportSubject) string {
	fill := []string{"{project}", bucket.Segment(about.Project), "{report}", about.Report, "{date}", about.CreatedAt.UTC().Format(time.DateOnly), "{format}", e.Format}
	if e.BatchID == nil {
		return strings.NewReplacer(fill...).Replace(e.Target)
	}
	name := bucket.Segment(about.Batch)
	if about.Batch == "" {
		name = e.BatchID.String()
	}
	schedule := "-"
	if about.ScheduleID != nil {
		schedule = about.ScheduleID.String()
		if *about.Schedule != "" {
			schedule = bucket.Segment(*about.Schedule)
		}
	}
	return strings.NewReplacer(append(fill, "{batch}", e.BatchID.String(), "{name}", name, "{schedule}", schedule)...).Replace(e.Target)
}

// format of an export that was checked.
func format(e store.Export) (report.Format, report.Options, error) {
	f, err := report.FindFormat(e.Format)
	return f, report.Options{BOM: e.BOM}, err
}
