package api

import (
	"context"
	"encoding/json"
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
		return nil, noJobID()
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
	if job.State == "succeeded" {
		d, err := h.Read.Details(ctx, batch, seq)
		if err != nil && !errors.Is(err, store.ErrNotFound) { // its batch may be purged meanwhile
			return nil, fmt.Errorf("api: details: %w", err)
		}
		out.Coverage, out.Outline = toDetails(d)
	}
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
	if deref(job.ErrorClass, "") == "invalid_output" {
		raw, err := h.Read.InvalidOutput(ctx, projectOf(ctx).ID, batch, seq)
		switch {
		case err == nil:
			out.RawOutput = &raw
		case !errors.Is(err, store.ErrNotFound): // a job that follows another has none of its own
			return nil, fmt.Errorf("api: invalid output: %w", err)
		}
	}
	return GetJob200JSONResponse(out), nil
}

// jobDetail is the contract's JobDetail.
type jobDetail struct {
	Job
	Document         *JobDocument `json:"document"`
	CallsWithoutCost int64        `json:"calls_without_cost"`
	RawOutput        *string      `json:"raw_output,omitempty"`
	Calls            []Call       `json:"calls"`
	Coverage         *Coverage    `json:"coverage,omitempty"`
	Outline          Outline      `json:"outline,omitempty"`
}

// toDetails reads what the store has beside an answer.
func toDetails(stored []byte) (*Coverage, Outline) {
	var d struct {
		Coverage *Coverage
		Outline  Outline
	}
	if stored != nil {
		_ = json.Unmarshal(stored, &d) // we wrote it
	}
	return d.Coverage, d.Outline
}

// GetJobText shows the text of a job's document, or the part between two of its characters.
func (h *handlers) GetJobText(ctx context.Context, req GetJobTextRequestObject) (GetJobTextResponseObject, error) {
	batch, seq, ok := jobs.ParseJobID(req.ID)
	if !ok {
		return nil, noJobID()
	}
	source, err := h.Read.Source(ctx, projectOf(ctx).ID, batch, seq)
	if err != nil {
		return nil, fmt.Errorf("api: source: %w", err)
	}
	text, err := jobs.SourceText(source)
	if err != nil {
		return nil, fmt.Errorf("api: text: %w", err)
	}
	start := byteOf(text, deref(req.Params.Start, 0))
	end := len(text)
	if req.Params.End != nil {
		end = max(byteOf(text, *req.Params.End), start)
	}
	return GetJobText200TextResponse(text[start:end]), nil
}

// byteOf returns where the nth character of a text begins.
func byteOf(text string, n int) int {
	for i := range text {
		if n == 0 {
			return i
		}
		n--
	}
	return len(text)
}

func noJobID() *problem {
	return &problem{status: http.StatusNotFound, detail: "a job id is a batch id, a dash and an index; this isn't one"}
}

func toJob(j store.Job) Job {
	out := Job{
		ID: jobs.JobID(j.BatchID, j.Seq), BatchID: j.BatchID, Index: j.Seq, CustomID: j.CustomID, Status: JobStatus(j.State),
		Provider: j.Provider, Model: j.Model, CacheStatus: j.CacheStatus, Attempts: j.Attempts,
		Usage:        Usage{Calls: j.Calls, InputTokens: j.InputTokens, CachedInputTokens: j.CachedInputTokens, OutputTokens: j.OutputTokens},
		CostMicrousd: j.CostMicrousd, DueAt: utc(j.DueAt), FinishedAt: utc(j.FinishedAt), Repaired: j.Repaired,
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
		CostMicrousd: c.CostMicrousd, ReservedMicrousd: c.ReservedMicrousd, StartedAt: c.StartedAt.UTC(), LatencyMs: c.LatencyMS, Purpose: c.Purpose, Stage: c.Stage,
	}
}
