package jobs

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/google/uuid"

	"batchwright/internal/schedule"
	"batchwright/internal/store"
)

// ScheduleSettings are what a caller says about a schedule. Their form as JSON is the contract's, but for the batch.
type ScheduleSettings struct {
	Name          string          `json:"name"`
	Cron          string          `json:"cron"`
	TimeZone      string          `json:"time_zone"`
	StartsAt      *time.Time      `json:"starts_at"`
	EndsAt        *time.Time      `json:"ends_at"`
	JitterSeconds int32           `json:"jitter_seconds"`
	Enabled       bool            `json:"enabled"`
	Overlap       string          `json:"overlap"`        // skip, queue or cancel_older
	CatchUp       string          `json:"catch_up"`       // none, last or all
	CatchUpLimit  int32           `json:"catch_up_limit"` // of all
	Export        *ExportSpec     `json:"export"`         // nil for none
	Batch         *ScheduledBatch `json:"-"`              // nil leaves it as it is
}

// DefaultSchedule is what holds for what a caller doesn't say.
func DefaultSchedule() ScheduleSettings {
	return ScheduleSettings{TimeZone: "UTC", Enabled: true, Overlap: "skip", CatchUp: "last", CatchUpLimit: 10}
}

// ScheduledBatch is what a schedule runs: a batch's options, and either its jobs, a batch whose inputs they are, or in the options their source.
type ScheduledBatch struct {
	Spec     Spec
	Jobs     json.RawMessage // a JSON list
	InputsOf *uuid.UUID
}

// DueTime is a time at which a schedule will be due.
type DueTime struct {
	DueAt   time.Time
	StartAt time.Time // with the jitter
	Local   time.Time // DueAt in the schedule's zone
}

// maxScheduledJobs bounds the list that a schedule's row holds, in bytes.
const maxScheduledJobs = 8 << 20

// scheduledOptions is how a batch's options are stored: as the contract has them.
type scheduledOptions struct {
	Kind              string            `json:"kind"`
	Name              string            `json:"name,omitempty"`
	Template          string            `json:"template,omitempty"`
	Route             json.RawMessage   `json:"route"`
	Params            json.RawMessage   `json:"params,omitempty"`
	OnInvalid         string            `json:"on_invalid,omitempty"`
	Cache             string            `json:"cache,omitempty"`
	Metadata          map[string]string `json:"metadata,omitempty"`
	Priority          int16             `json:"priority,omitempty"`
	Concurrency       *int32            `json:"concurrency,omitempty"`
	MaxAttempts       *int32            `json:"max_attempts,omitempty"`
	JobTimeoutSeconds *int32            `json:"job_timeout_seconds,omitempty"`
	MaxCostMicrousd   *int64            `json:"max_cost_microusd,omitempty"`
	Source            json.RawMessage   `json:"source,omitempty"`
	OnForecastOver    string            `json:"on_forecast_over,omitempty"`
}

func storedOptions(s Spec) (json.RawMessage, error) {
	l := s.Limits
	return json.Marshal(scheduledOptions{s.Kind, s.Name, s.Template, s.Route, s.Params, s.OnInvalid, s.Cache, s.Metadata,
		l.Priority, l.Concurrency, l.MaxAttempts, l.JobTimeoutSeconds, l.MaxCostMicrousd, s.Source, s.OnForecastOver})
}

func specOf(options json.RawMessage) (Spec, error) {
	var o scheduledOptions
	err := json.Unmarshal(options, &o)
	return Spec{Kind: o.Kind, Name: o.Name, Template: o.Template, Route: o.Route, Params: o.Params, OnInvalid: o.OnInvalid, Cache: o.Cache, Metadata: o.Metadata, Source: o.Source,
		Limits: store.Limits{Priority: o.Priority, Concurrency: o.Concurrency, MaxAttempts: o.MaxAttempts, JobTimeoutSeconds: o.JobTimeoutSeconds,
			MaxCostMicrousd: o.MaxCostMicrousd}, OnForecastOver: o.OnForecastOver}, err
}

// timingOf reads a stored schedule's rule.
func timingOf(s store.Schedule) (*schedule.Timing, error) {
	return schedule.Parse(schedule.Rule{Cron: s.Cron, Zone: s.TimeZone, Starts: s.StartsAt, Ends: s.EndsAt,
		Jitter: time.Duration(s.JitterSeconds) * time.Second, Made: s.CreatedAt, Seed: s.ID[:]})
}

// timing checks what a caller said about when.
func (s *Service) timing(row store.Schedule) (*schedule.Timing, error) {
	t, err := timingOf(row)
	if e, ok := errors.AsType[*schedule.Error](err); ok {
		return nil, &Error{Code: Invalid, Field: e.Field, Message: e.Message}
	} else if err != nil {
		return nil, err
	}
	least, floor := t.Shortest(), s.ScheduleFloor
	if floor == 0 {
		floor = time.Minute
	}
	if least < floor {
		return nil, invalidf("cron", "is due again after %s: here a schedule is due at most every %s", least, floor)
	}
	if jitter := time.Duration(row.JitterSeconds) * time.Second; jitter >= least {
		return nil, invalidf("jitter_seconds", "is not shorter than the shortest time between two ticks, %s", least)
	}
	return t, nil
}

// aim sets when a schedule is due next, after now.
func aim(row *store.Schedule, t *schedule.Timing, now time.Time) error {
	next, ok := t.Next(now)
	if !ok {
		return invalidf("ends_at", "is too early: nothing is due before it any more")
	}
	start := t.Fire(next)
	row.NextDueAt, row.NextStartAt = &next, &start
	return nil
}

// CreateSchedule checks a schedule and makes it. Errors are *[Error]: invalid or unprocessable for what the caller said, conflict when the
// project has too many.
func (s *Service) CreateSchedule(ctx context.Context, project store.Project, in ScheduleSettings) (store.Schedule, error) {
	id, err := uuid.NewV7()
	if err != nil {
		return store.Schedule{}, err
	}
	now, err := s.DB.Now(ctx)
	if err != nil {
		return store.Schedule{}, err
	}
	row := store.Schedule{ID: id, ProjectID: project.ID, CreatedAt: now}
	if in.Batch == nil {
		return store.Schedule{}, invalidf("batch", "is missing: say what to run")
	}
	if err := s.settle(ctx, project, &row, in); err != nil {
		return store.Schedule{}, err
	}
	t, err := s.timing(row)
	if err != nil {
		return store.Schedule{}, err
	}
	if err := aim(&row, t, now); err != nil {
		return store.Schedule{}, err
	}
	made, err := s.DB.CreateSchedule(ctx, row)
	if errors.Is(err, store.ErrConflict) {
		return made, &Error{Code: Conflict, Message: fmt.Sprintf("the project has %d schedules, as many as it may: delete one", store.MaxSchedules), Err: err}
	}
	return made, err
}

// settle writes what a caller said into a row.
func (s *Service) settle(ctx context.Context, project store.Project, row *store.Schedule, in ScheduleSettings) error {
	for _, err := range []*Error{
		oneOf("overlap", &in.Overlap, "skip", "queue", "cancel_older"),
		oneOf("catch_up", &in.CatchUp, "last", "none", "all"),
	} {
		if err != nil {
			return err
		}
	}
	if len(in.Name) > 200 {
		return invalidf("name", "is longer than 200 bytes")
	}
	row.APIKeyID, row.Name, row.Cron, row.TimeZone = project.KeyID, clean(in.Name), in.Cron, in.TimeZone
	row.StartsAt, row.EndsAt, row.JitterSeconds, row.Enabled = in.StartsAt, in.EndsAt, in.JitterSeconds, in.Enabled
	row.Overlap, row.CatchUp, row.CatchUpLimit = in.Overlap, in.CatchUp, max(in.CatchUpLimit, 1)
	if err := s.settleExport(ctx, project, row, in.Export); err != nil {
		return err
	}
	if in.Batch == nil {
		return nil
	}
	n, err := s.checkScheduled(ctx, project, *in.Batch)
	if err != nil {
		return within("batch", err)
	}
	row.Jobs, row.JobCount, row.InputsOf = nil, nil, in.Batch.InputsOf
	if in.Batch.Jobs != nil {
		row.Jobs, row.JobCount = in.Batch.Jobs, &n
	}
	row.Batch, err = storedOptions(in.Batch.Spec)
	return err
}

// checkScheduled refuses what could not be submitted now. It returns how many jobs the list has.
func (s *Service) checkScheduled(ctx context.Context, project store.Project, b ScheduledBatch) (int32, error) {
	switch {
	case b.Spec.Open:
		return 0, invalidf("open", "is not for a schedule: its batches are complete")
	case b.Spec.Limits.ExpiresAt != nil:
		return 0, invalidf("expires_at", "is not for a schedule: each of its batches would have the same")
	case given(b.InputsOf != nil, b.Jobs != nil, b.Spec.Source != nil) != 1:
		return 0, invalidf("jobs", "is wanted, or else inputs_of or source, and only one of them")
	case len(b.Jobs) > maxScheduledJobs:
		return 0, &Error{Code: TooLarge, Field: "jobs", Message: fmt.Sprintf("is over %d MiB: submit the jobs as a batch, and name that as inputs_of", maxScheduledJobs>>20)}
	}
	in := &intake{service: s, spec: b.Spec, hash: sha256.New()}
	if err := in.open(ctx, project); err != nil {
		return 0, err
	}
	if b.Spec.Source != nil {
		return 0, nil
	}
	if b.InputsOf != nil {
		return 0, s.checkInputsOf(ctx, project.ID, *b.InputsOf, b.Spec.Kind)
	}
	seen := map[string]int{}
	for c, err := range in.chunks(listed(b.Jobs)) {
		if err != nil {
			return 0, err
		}
		for _, row := range c.Inputs {
			if row.CustomID == nil || in.spec.OnInvalid == "skip" {
				continue
			}
			if first, twice := seen[*row.CustomID]; twice {
				in.note(LineError{Line: int(row.Seq), CustomID: *row.CustomID, Field: "custom_id", Code: "duplicate_custom_id",
					Message: fmt.Sprintf("is the same as in line %d: give each job its own", first)})
				continue
			}
			seen[*row.CustomID] = int(row.Seq)
		}
	}
	if in.badN > 0 && in.spec.OnInvalid == "refuse" {
		return 0, in.end()
	}
	return in.seq, nil
}

// given counts what is.
func given(is ...bool) (n int) {
	for _, one := range is {
		if one {
			n++
		}
	}
	return n
}

func (s *Service) checkInputsOf(ctx context.Context, project, id uuid.UUID, kind string) error {
	b, err := s.DB.Batch(ctx, project, id)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return invalidf("inputs_of", "is no batch of this project")
	case err != nil:
		return err
	}
	if why := unfitInputs(b, kind); why != "" {
		return invalidf("inputs_of", "%s", why)
	}
	return nil
}

// unfitInputs says why a batch's inputs can't be run again, or nothing.
func unfitInputs(b store.Batch, kind string) string {
	switch {
	case b.Kind != kind:
		return fmt.Sprintf("is a batch of kind %s, and this one is of kind %s", b.Kind, kind)
	case b.PurgedAt != nil:
		return "was purged: its inputs are gone"
	case b.State == "ingesting":
		return "is still being uploaded: wait until it is sealed"
	case b.State == "failed" && b.StartedAt == nil:
		return "never came in whole: its upload broke off"
	}
	return ""
}

// UpdateSchedule changes a schedule by a function that sees what it says now. Its batches are those of the caller's key from then on. Errors
// are [store.ErrNotFound], what change returns, and *[Error] as for CreateSchedule.
func (s *Service) UpdateSchedule(ctx context.Context, project store.Project, id uuid.UUID, change func(*ScheduleSettings) error) (store.Schedule, error) {
	for range 5 {
		before, err := s.DB.Schedule(ctx, project.ID, id)
		if err != nil {
			return before, err
		}
		now, err := s.DB.Now(ctx)
		if err != nil {
			return before, err
		}
		if at := before.NextStartAt; at != nil && !at.After(now) { // what is due by now is due as it was
			if _, err := advance(ctx, s.DB, before, now); err != nil {
				return before, err
			}
			continue
		}
		export, err := exportOf(before)
		if err != nil {
			return before, err
		}
		in := ScheduleSettings{before.Name, before.Cron, before.TimeZone, before.StartsAt, before.EndsAt, before.JitterSeconds, before.Enabled,
			before.Overlap, before.CatchUp, before.CatchUpLimit, export, nil}
		if err := change(&in); err != nil {
			return before, err
		}
		after := before
		if err := s.settle(ctx, project, &after, in); err != nil {
			return before, err
		}
		if !sameTiming(before, after) {
			t, err := s.timing(after)
			if err != nil {
				return before, err
			}
			if err := aim(&after, t, now); err != nil {
				return before, err
			}
		}
		made, err := s.DB.UpdateSchedule(ctx, before, after)
		if !errors.Is(err, store.ErrConflict) {
			return made, err
		}
	}
	return store.Schedule{}, &Error{Code: Conflict, Message: "the schedule is being changed by others: try again"}
}

func sameTiming(a, b store.Schedule) bool {
	same := func(a, b *time.Time) bool { return a == nil && b == nil || a != nil && b != nil && a.Equal(*b) }
	return a.Cron == b.Cron && a.TimeZone == b.TimeZone && a.JitterSeconds == b.JitterSeconds && same(a.StartsAt, b.StartsAt) && same(a.EndsAt, b.EndsAt)
}

// DeleteSchedule removes a schedule and its ticks; its batches stay. ErrNotFound when the project has no such schedule.
func (s *Service) DeleteSchedule(ctx context.Context, project, id uuid.UUID) error {
	return s.DB.DeleteSchedule(ctx, project, id)
}

// RunSchedule makes a schedule due now: any worker makes its batch. Of requests with the same idempotency key, empty for none, the first one does,
// and the others are replayed. Errors: ErrNotFound when the project has no such schedule; *[Error]: conflict when too many ticks wait.
func (s *Service) RunSchedule(ctx context.Context, project, id uuid.UUID, key string) (t store.Tick, replayed bool, err error) {
	t, replayed, err = s.DB.RunSchedule(ctx, project, id, key)
	if errors.Is(err, store.ErrConflict) {
		err = &Error{Code: Conflict, Message: fmt.Sprintf("%d ticks of the schedule wait already, as many as may: wait for some of them to run", store.MaxWaiting), Err: err}
	}
	return t, replayed, err
}

// PreviewSchedule lists when a schedule will be due next, as if it were enabled.
func (s *Service) PreviewSchedule(ctx context.Context, project, id uuid.UUID, n int) ([]DueTime, error) {
	row, err := s.DB.Schedule(ctx, project, id)
	if err != nil {
		return nil, err
	}
	return s.preview(ctx, row, n)
}

// PreviewSettings does so for a schedule that isn't saved; only what it says about time counts. The jitter is each schedule's own: it is left out.
func (s *Service) PreviewSettings(ctx context.Context, in ScheduleSettings, n int) ([]DueTime, error) {
	now, err := s.DB.Now(ctx)
	if err != nil {
		return nil, err
	}
	row := store.Schedule{Cron: in.Cron, TimeZone: in.TimeZone, StartsAt: in.StartsAt, EndsAt: in.EndsAt, CreatedAt: now}
	if _, err := s.timing(row); err != nil {
		return nil, err
	}
	return s.preview(ctx, row, n)
}

func (s *Service) preview(ctx context.Context, row store.Schedule, n int) (out []DueTime, err error) {
	t, err := timingOf(row)
	if err != nil {
		return nil, err
	}
	at, err := s.DB.Now(ctx)
	for err == nil && len(out) < n {
		next, ok := t.Next(at)
		if !ok {
			break
		}
		out = append(out, DueTime{DueAt: next, StartAt: t.Fire(next), Local: t.Shown(next)})
		at = next
	}
	return out, err
}

// submitScheduled makes the batch of a schedule, once for each key. It is the one place that knows where the jobs come from.
func (s *Service) submitScheduled(ctx context.Context, row store.Schedule, key string) (store.Batch, error) {
	spec, err := specOf(row.Batch)
	if err != nil {
		return store.Batch{}, fmt.Errorf("jobs: schedule %s: stored options: %w", row.ID, err)
	}
	spec.IdempotencyKey = key
	if spec.Name == "" {
		spec.Name = row.Name
	}
	lines := listed(row.Jobs)
	if row.InputsOf != nil {
		from, err := s.DB.Batch(ctx, row.ProjectID, *row.InputsOf)
		if errors.Is(err, store.ErrNotFound) {
			return store.Batch{}, invalidf("inputs_of", "is gone: the batch was deleted")
		} else if err != nil {
			return store.Batch{}, err
		}
		if why := unfitInputs(from, spec.Kind); why != "" {
			return store.Batch{}, invalidf("inputs_of", "%s", why)
		}
		lines = s.again(ctx, from)
	}
	b, _, err := s.Submit(ctx, store.Project{ID: row.ProjectID, KeyID: row.APIKeyID}, spec, lines)
	return b, err
}

// listed yields the members of a JSON list as lines; none of no list.
func listed(list json.RawMessage) iter.Seq2[Line, error] {
	return func(yield func(Line, error) bool) {
		if list == nil {
			return
		}
		d := json.NewDecoder(bytes.NewReader(list))
		_, err := d.Token()
		for n := 1; err == nil && d.More(); n++ {
			var raw json.RawMessage
			if err = d.Decode(&raw); err == nil && !yield(Line{Number: n, Raw: raw}, nil) {
				return
			}
		}
		if err != nil {
			yield(Line{}, fmt.Errorf("jobs: a schedule's jobs: %w", err))
		}
	}
}

// inputsPage is how many inputs are read at once: no connection is held while they are written.
const inputsPage = 500

// again yields a batch's inputs as the lines that they were submitted as.
func (s *Service) again(ctx context.Context, b store.Batch) iter.Seq2[Line, error] {
	return func(yield func(Line, error) bool) {
		for after := int32(0); ; {
			page, err := s.DB.InputsAfter(ctx, b.ID, after, inputsPage)
			if err == nil && after == 0 && len(page) == 0 {
				err = invalidf("inputs_of", "has no inputs any more")
			}
			for _, in := range page {
				var l Line
				if l, err = s.lineOf(ctx, b, in); err != nil {
					break
				}
				if after = in.Seq; !yield(l, nil) {
					return
				}
			}
			if err != nil {
				yield(Line{}, err)
				return
			}
			if len(page) < inputsPage {
				return
			}
		}
	}
}

func (s *Service) lineOf(ctx context.Context, b store.Batch, in store.StoredInput) (Line, error) {
	l := Line{Number: int(in.Seq)}
	switch {
	case in.Invalid != nil:
		l.Err = errors.New(storedProblem(in.Invalid))
	case in.DocumentSHA256 != nil:
		var ref documentRef
		if err := json.Unmarshal(in.Input, &ref); err != nil {
			return l, fmt.Errorf("jobs: batch %s: stored input %d: %w", b.ID, in.Seq, err)
		}
		d, err := s.DB.Document(ctx, b.ProjectID, in.DocumentSHA256)
		if err != nil {
			return l, fmt.Errorf("jobs: batch %s: document of input %d: %w", b.ID, in.Seq, err)
		}
		l.Upload = &Upload{Name: ref.Name, ContentType: ref.ContentType, Data: d.Body, Stored: true, CustomID: in.CustomID}
	default:
		raw := []byte("{")
		if in.CustomID != nil {
			id, err := json.Marshal(*in.CustomID)
			if err != nil {
				return l, fmt.Errorf("jobs: batch %s: stored input %d: %w", b.ID, in.Seq, err)
			}
			raw = fmt.Appendf(raw, `"custom_id":%s,`, id)
		}
		field := map[string]string{"chat": "body", "generate": "variables"}[b.Kind]
		l.Raw = fmt.Appendf(raw, `"%s":%s}`, field, in.Input) // not by encoding/json, which would write the bytes anew
	}
	return l, nil
}
