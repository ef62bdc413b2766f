package jobs

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"batchwright/internal/store"
)

// Cancel stops a batch: what has not begun is cancelled, what is finished is kept, and calls in flight are cut after graceSeconds, or after
// the workers' own time when it is nil. It does nothing to a batch that is final.
func (s *Service) Cancel(ctx context.Context, project, id uuid.UUID, graceSeconds *int32) (store.Batch, error) {
	b, err := s.DB.CancelBatch(ctx, project, id, graceSeconds)
	if err != nil || b.State != "cancelling" {
		return b, err
	}
	s.Log.InfoContext(ctx, "batch is being cancelled", "batch", id)
	if done, err := s.DB.FinishBatch(ctx, id); err != nil || !done {
		return b, err
	}
	return s.DB.Batch(ctx, project, id)
}

// Pause keeps a batch from starting calls until it is resumed. An *[Error] of code conflict says that its state forbids it.
func (s *Service) Pause(ctx context.Context, project, id uuid.UUID) (store.Batch, error) {
	b, err := s.DB.PauseBatch(ctx, project, id, store.PauseRequested, "asked for through the API; goes on when it is resumed")
	return b, forbidden(err, b, "paused")
}

// Resume lets a paused batch go on, whatever paused it. An *[Error] of code conflict says that its state forbids it.
func (s *Service) Resume(ctx context.Context, project, id uuid.UUID) (store.Batch, error) {
	b, err := s.DB.ResumeBatch(ctx, project, id)
	return b, forbidden(err, b, "resumed")
}

// Retry makes finished jobs of a batch run again, by default the failed ones, and reopens the batch if it was final. An *[Error] of code
// conflict says that its state forbids it.
func (s *Service) Retry(ctx context.Context, project, id uuid.UUID, f store.RetryFilter) (store.Batch, store.Retried, error) {
	if len(f.States) == 0 {
		f.States = []string{"failed"}
	}
	b, r, err := s.DB.RetryJobs(ctx, project, id, f)
	if r.Requeued > 0 {
		s.Log.InfoContext(ctx, "jobs requeued", "batch", id, "jobs", r.Requeued)
	}
	return b, r, forbidden(err, b, "retried")
}

// forbidden words a transition that the batch's state doesn't allow.
func forbidden(err error, b store.Batch, what string) error {
	if !errors.Is(err, store.ErrState) {
		return err
	}
	why := "a batch that is " + b.State + " can't be " + what
	switch {
	case b.PurgedAt != nil:
		why += ": its jobs were purged"
	case b.State == "cancelling":
		why += ": wait until it has ended"
	case b.StartedAt == nil && b.FinishedAt == nil:
		why += ": wait until it runs"
	case b.StartedAt == nil:
		why += ": it was never planned; submit it again"
	}
	return &Error{Code: Conflict, Message: why, Err: err}
}

// Update changes a batch's labels and limits. An *[Error] says that a value or the batch's state forbids it.
func (s *Service) Update(ctx context.Context, project, id uuid.UUID, c store.BatchChange) (store.Batch, error) {
	if at := c.ExpiresAt.To; at != nil && !at.After(time.Now()) {
		return store.Batch{}, invalidf("expires_at", "has passed: give a time to come, or null")
	}
	if c.Name != nil {
		if len(*c.Name) > 200 {
			return store.Batch{}, invalidf("name", "is longer than 200 bytes")
		}
		name := clean(*c.Name)
		c.Name = &name
	}
	if c.Metadata != nil {
		var labels map[string]string
		if err := json.Unmarshal(c.Metadata, &labels); err != nil {
			return store.Batch{}, invalidf("metadata", "%s", jsonProblem(err))
		}
		var err error
		if c.Metadata, err = json.Marshal(labels); err != nil { // as Postgres takes it: without broken escapes
			return store.Batch{}, err
		}
		if len(c.Metadata) > 16<<10 || bytes.Contains(c.Metadata, []byte(`\u0000`)) {
			return store.Batch{}, invalidf("metadata", "is over 16 KiB or has a NUL character")
		}
	}
	return s.DB.UpdateBatch(ctx, project, id, c, func(b store.Batch) error {
		if b.FinishedAt != nil && c.Limits() {
			return &Error{Code: Conflict, Message: "a batch that is " + b.State + " can't be changed but for its name and metadata"}
		}
		if b.FinishedAt != nil || c.Metadata == nil {
			return nil
		}
		var r Route
		if err := json.Unmarshal(b.Route, &r); err != nil {
			return fmt.Errorf("jobs: batch %s: stored route: %w", b.ID, err)
		}
		for _, step := range r.Steps {
			if step.When != nil && len(step.When.Metadata) > 0 { // half of the jobs would take one route, and half another
				return &Error{Code: Conflict, Field: "metadata", Message: "decides which steps of the route the jobs take: it can be changed when the batch is final"}
			}
		}
		return nil
	})
}

// requeueBatches is how many batches one request may reopen.
const requeueBatches = 100

// Requeued says what RequeueDead did.
type Requeued struct {
	Jobs     int64
	Excluded int64 // jobs that match but can never run
	Batches  int32
	More     bool // there are other batches with such jobs
}

// RequeueDead makes failed jobs of a project run again, each within its batch, in the newest 100 batches that have such jobs.
func (s *Service) RequeueDead(ctx context.Context, project uuid.UUID, f store.DeadLetterFilter) (out Requeued, err error) {
	ids, err := s.DB.DeadBatches(ctx, project, f, requeueBatches+1)
	if err != nil {
		return out, err
	}
	if out.More = len(ids) > requeueBatches; out.More {
		ids = ids[:requeueBatches]
	}
	one := store.RetryFilter{States: []string{"failed"}, Since: f.Since}
	if f.Class != "" {
		one.Classes = []string{f.Class}
	}
	for _, id := range ids {
		_, r, err := s.DB.RetryJobs(ctx, project, id, one)
		if errors.Is(err, store.ErrState) || errors.Is(err, store.ErrNotFound) { // since we looked
			continue
		} else if err != nil {
			return out, err
		}
		out.Jobs, out.Excluded = out.Jobs+r.Requeued, out.Excluded+r.Excluded
		if r.Requeued > 0 {
			out.Batches++
		}
	}
	s.Log.InfoContext(ctx, "dead letters requeued", "project", project, "jobs", out.Jobs, "batches", out.Batches)
	return out, nil
}
