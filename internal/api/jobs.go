package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"

	"batchwright/internal/jobs"
	"batchwright/internal/store"
)

// ListJobs pages through a batch.
func (h *handlers) ListJobs(ctx context.Context, req ListJobsRequestObject) (ListJobsResponseObject, error) {
	key, err := cursor(req.Params.Cursor)
	if err != nil {
		return nil, err
	}
	var after int64
	if key != "" {
		if after, err = strconv.ParseInt(key, 10, 32); err != nil {
			return nil, badCursor()
		}
	}
	b, err := h.batch(ctx, req.ID)
	if err != nil {
		return nil, err
	}
	limit := deref(req.Params.Limit, 100)
	rows, err := h.Read.Jobs(ctx, b.ID, string(deref(req.Params.Status, "")), int32(after), limit+1)
	if err != nil {
		return nil, fmt.Errorf("api: jobs: %w", err)
	}
	rows, next := page(rows, limit, func(j store.Job) string { return strconv.Itoa(int(j.Seq)) })
	return ListJobs200JSONResponse{Data: each(rows, toJob), NextCursor: next}, nil
}

// GetJob shows a job with its calls.
func (h *handlers) GetJob(ctx context.Context, req GetJobRequestObject) (GetJobResponseObject, error) {
	batch, seq, ok := jobs.ParseJobID(req.ID)
	if !ok {
		return nil, &problem{status: http.StatusNotFound, detail: "a job id is a batch id, a dash and an index; this isn't one"}
	}
	job, err := h.Read.Job(ctx, projectOf(ctx).ID, batch, seq)
	if err != nil {
		return nil, fmt.Errorf("api: job: %w", err)
	}
	calls, err := h.Read.Calls(ctx, batch, seq)
	if err != nil {
		return nil, fmt.Errorf("api: calls: %w", err)
	}
	out := jobDetail{Job: toJob(job), Calls: each(calls, toCall)}
	text, err := h.Read.JobText(ctx, projectOf(ctx).ID, batch, seq)
	if err == nil {
		out.Document = &JobDocument{Format: text.Format, Extractor: text.Extractor, Title: text.Title, Pages: text.Pages, Characters: text.Characters, Letters: text.Letters}
	} else if !errors.Is(err, store.ErrNotFound) {
		return nil, fmt.Errorf("api: text of a job: %w", err)
	}
	for _, c := range calls {
		if c.CostMicrousd == nil {
			out.CallsWithoutCost++
		}
	}
	return GetJob200JSONResponse(out), nil
}

// jobDetail is the contract's JobDetail.
type jobDetail struct {
	Job
	Document         *JobDocument `json:"document"`
	CallsWithoutCost int64        `json:"calls_without_cost"`
	Calls            []Call       `json:"calls"`
}

func toJob(j store.Job) Job {
	out := Job{
		ID: jobs.JobID(j.BatchID, j.Seq), BatchID: j.BatchID, Index: j.Seq, CustomID: j.CustomID, Status: JobStatus(j.State),
		Provider: j.Provider, Model: j.Model, CacheStatus: j.CacheStatus, Attempts: j.Attempts,
		Usage:        Usage{Calls: j.Calls, InputTokens: j.InputTokens, CachedInputTokens: j.CachedInputTokens, OutputTokens: j.OutputTokens},
		CostMicrousd: j.CostMicrousd, DueAt: utc(j.DueAt), FinishedAt: utc(j.FinishedAt),
	}
	if j.ErrorClass != nil {
		out.Error = &JobFailure{Class: *j.ErrorClass, Message: deref(j.ErrorMessage, "")}
	}
	if j.LeaderSeq != nil {
		leader := jobs.JobID(deref(j.LeaderBatch, j.BatchID), *j.LeaderSeq)
		out.LeaderID = &leader
	}
	return out
}

func toCall(c store.Call) Call {
	return Call{
		Number: c.Number, State: CallState(c.State), Step: c.Step, Provider: c.Provider, Model: c.Model, HTTPStatus: c.HTTPStatus,
		ErrorClass: c.ErrorClass, FinishReason: c.FinishReason, GatewayCacheStatus: c.GatewayCacheStatus, GatewayLogID: c.GatewayLogID,
		InputTokens: c.InputTokens, CachedInputTokens: c.CachedInputTokens, CacheWriteTokens: c.CacheWriteTokens, OutputTokens: c.OutputTokens,
		CostMicrousd: c.CostMicrousd, ReservedMicrousd: c.ReservedMicrousd, StartedAt: c.StartedAt.UTC(), LatencyMs: c.LatencyMS,
	}
}
