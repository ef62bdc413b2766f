package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"batchwright/internal/jobs"
	"batchwright/internal/store"
)

// controller is the part of Writer that steers batches.
type controller interface {
	Cancel(ctx context.Context, project, batch uuid.UUID, graceSeconds *int32) (store.Batch, error)
	Pause(ctx context.Context, project, batch uuid.UUID) (store.Batch, error)
	Resume(ctx context.Context, project, batch uuid.UUID) (store.Batch, error)
	Update(ctx context.Context, project, batch uuid.UUID, change store.BatchChange) (store.Batch, error)
	Retry(ctx context.Context, project, batch uuid.UUID, filter store.RetryFilter) (store.Batch, store.Retried, error)
	RequeueDead(ctx context.Context, project uuid.UUID, filter store.DeadLetterFilter) (jobs.Requeued, error)
}

// deadReader is the part of Reader that lists dead letters.
type deadReader interface {
	DeadLetters(ctx context.Context, project uuid.UUID, f store.DeadLetterFilter, after *uuid.UUID, afterSeq int32, limit int) ([]store.DeadLetter, error)
}

// CancelBatch stops a batch.
func (h *handlers) CancelBatch(ctx context.Context, req CancelBatchRequestObject) (CancelBatchResponseObject, error) {
	out, err := h.steer(ctx, req.ID, func(project, id uuid.UUID) (store.Batch, error) {
		return h.Jobs.Cancel(ctx, project, id, req.Params.GraceSeconds)
	})
	return CancelBatch200JSONResponse(out), err
}

// PauseBatch keeps a batch from starting calls.
func (h *handlers) PauseBatch(ctx context.Context, req PauseBatchRequestObject) (PauseBatchResponseObject, error) {
	out, err := h.steer(ctx, req.ID, func(project, id uuid.UUID) (store.Batch, error) { return h.Jobs.Pause(ctx, project, id) })
	return PauseBatch200JSONResponse(out), err
}

// ResumeBatch lets a paused batch go on.
func (h *handlers) ResumeBatch(ctx context.Context, req ResumeBatchRequestObject) (ResumeBatchResponseObject, error) {
	out, err := h.steer(ctx, req.ID, func(project, id uuid.UUID) (store.Batch, error) { return h.Jobs.Resume(ctx, project, id) })
	return ResumeBatch200JSONResponse(out), err
}

// UpdateBatch changes labels and limits.
func (h *handlers) UpdateBatch(ctx context.Context, req UpdateBatchRequestObject) (UpdateBatchResponseObject, error) {
	change, err := changeOf(*req.Body)
	if err != nil {
		return nil, err
	}
	out, err := h.steer(ctx, req.ID, func(project, id uuid.UUID) (store.Batch, error) { return h.Jobs.Update(ctx, project, id, change) })
	return UpdateBatch200JSONResponse(out), err
}

// changeOf reads what a body changes of a batch. The contract has checked it, but for the form of a time.
func changeOf(body json.RawMessage) (store.BatchChange, error) {
	var in struct {
		Name              *string                 `json:"name"`
		Metadata          json.RawMessage         `json:"metadata"`
		Priority          *int16                  `json:"priority"`
		Concurrency       store.Change[int32]     `json:"concurrency"`
		MaxAttempts       store.Change[int32]     `json:"max_attempts"`
		JobTimeoutSeconds store.Change[int32]     `json:"job_timeout_seconds"`
		ExpiresAt         store.Change[time.Time] `json:"expires_at"`
		MaxCostMicrousd   store.Change[int64]     `json:"max_cost_microusd"`
	}
	if err := json.Unmarshal(body, &in); err != nil {
		if _, ok := errors.AsType[*time.ParseError](err); ok {
			return store.BatchChange{}, invalidField("/expires_at", "wrong_type", "must be a time such as 2026-11-21T18:00:00Z")
		}
		return store.BatchChange{}, badOptions()
	}
	return store.BatchChange(in), nil
}

func (h *handlers) steer(ctx context.Context, id BatchID, f func(project, id uuid.UUID) (store.Batch, error)) (Batch, error) {
	u, err := batchID(id)
	if err != nil {
		return Batch{}, err
	}
	b, err := f(projectOf(ctx).ID, u)
	if err != nil {
		return Batch{}, err
	}
	return h.counted(ctx, b)
}

// RetryJobs tries jobs of a batch again.
func (h *handlers) RetryJobs(ctx context.Context, req RetryJobsRequestObject) (RetryJobsResponseObject, error) {
	f := store.RetryFilter{CustomIDs: req.Body.CustomIds}
	for _, s := range req.Body.Statuses {
		f.States = append(f.States, string(s))
	}
	f.Classes = append(f.Classes, req.Body.ErrorClasses...)
	var r store.Retried
	out, err := h.steer(ctx, req.ID, func(project, id uuid.UUID) (b store.Batch, err error) {
		b, r, err = h.Jobs.Retry(ctx, project, id, f)
		return b, err
	})
	return RetryJobs200JSONResponse{Requeued: r.Requeued, Excluded: r.Excluded, Batch: out}, err
}

// ListDeadLetters pages through a project's failed jobs.
func (h *handlers) ListDeadLetters(ctx context.Context, req ListDeadLettersRequestObject) (ListDeadLettersResponseObject, error) {
	p, limit := req.Params, deref(req.Params.Limit, 100)
	key, err := cursor(p.Cursor)
	if err != nil {
		return nil, err
	}
	var after *uuid.UUID
	var afterSeq int32
	if key != "" {
		batch, seq, ok := jobs.ParseJobID(key)
		if !ok {
			return nil, badCursor()
		}
		after, afterSeq = &batch, seq
	}
	f := store.DeadLetterFilter{Class: deref(p.ErrorClass, ""), Kind: string(deref(p.Kind, "")), Batch: p.BatchID, Since: p.Since}
	rows, err := h.Read.DeadLetters(ctx, projectOf(ctx).ID, f, after, afterSeq, limit+1)
	if err != nil {
		return nil, fmt.Errorf("api: dead letters: %w", err)
	}
	rows, next := page(rows, limit, func(d store.DeadLetter) string { return jobs.JobID(d.BatchID, d.Seq) })
	return ListDeadLetters200JSONResponse{Data: each(rows, toDeadLetter), NextCursor: next}, nil
}

func toDeadLetter(d store.DeadLetter) DeadLetter {
	return DeadLetter{
		JobID: jobs.JobID(d.BatchID, d.Seq), BatchID: d.BatchID, BatchName: d.BatchName, Kind: Kind(d.Kind), Index: d.Seq, CustomID: d.CustomID,
		Error: &JobFailure{Class: d.ErrorClass, Message: d.ErrorMessage}, Attempts: d.Attempts, Requeueable: d.Requeueable, FinishedAt: d.FinishedAt.UTC(),
	}
}

// RequeueDeadLetters tries a project's failed jobs again.
func (h *handlers) RequeueDeadLetters(ctx context.Context, req RequeueDeadLettersRequestObject) (RequeueDeadLettersResponseObject, error) {
	b := req.Body
	f := store.DeadLetterFilter{Class: deref(b.ErrorClass, ""), Kind: string(deref(b.Kind, "")), Batch: b.BatchID, Since: b.Since}
	if !deref(b.All, false) && f == (store.DeadLetterFilter{}) {
		return nil, invalidField("/all", "required", "is required when nothing else narrows the choice")
	}
	r, err := h.Jobs.RequeueDead(ctx, projectOf(ctx).ID, f)
	if err != nil {
		return nil, err
	}
	return RequeueDeadLetters200JSONResponse{Requeued: r.Jobs, Excluded: r.Excluded, Batches: r.Batches, More: r.More}, nil
}
