package api

import (
	"context"
	"encoding/json"
	"errors"
	"iter"
	"net/http"
	"time"

	"github.com/google/uuid"

	"batchwright/internal/jobs"
	"batchwright/internal/store"
)

// rerunner is the part of Writer that runs batches again.
type rerunner interface {
	Rerun(ctx context.Context, project store.Project, batch uuid.UUID, spec jobs.RerunSpec, changes iter.Seq2[jobs.Line, error]) (b store.Batch, replayed bool, err error)
}

// RerunBatch runs a batch's jobs again. Its changes come in one of three forms.
func (h *handlers) RerunBatch(ctx context.Context, req RerunBatchRequestObject) (RerunBatchResponseObject, error) {
	id, err := batchID(req.ID)
	if err != nil {
		return nil, err
	}
	opts := options{}
	var in iter.Seq2[jobs.Line, error]
	switch {
	case req.JSONBody != nil:
		opts, in, err = changesFromJSON(*req.JSONBody)
	case req.MultipartBody != nil:
		opts, in, err = h.fromMultipart(req.MultipartBody)
	default:
		if text := req.Params.Options; text != nil {
			if !json.Valid([]byte(*text)) {
				return nil, invalidField("options", "bad_json", "must be JSON")
			}
			opts, err = object([]byte(*text))
		}
		in = lines(req.Body, h.MaxLine, 0)
	}
	if err != nil {
		return nil, err
	}
	if req.Body == nil && req.Params.Options != nil {
		return nil, &problem{status: http.StatusBadRequest, detail: "options is a query parameter for application/x-ndjson only; here they belong in the body"}
	}
	spec, err := h.rerunSpec(opts)
	if err != nil {
		return nil, err
	}
	spec.IdempotencyKey = deref(req.Params.IdempotencyKey, "")
	b, replayed, err := h.Jobs.Rerun(ctx, projectOf(ctx), id, spec, in)
	if err != nil {
		return nil, err
	}
	return RerunBatch202JSONResponse{
		Body:    toBatch(b, nil),
		Headers: RerunBatch202ResponseHeaders{Location: "/v1/batches/" + b.ID.String(), IdempotencyReplayed: replayed},
	}, nil
}

// changesFromJSON takes a RerunRequest apart.
func changesFromJSON(body json.RawMessage) (options, iter.Seq2[jobs.Line, error], error) {
	opts, err := object(body)
	if err != nil {
		return nil, nil, err
	}
	list, ok := opts["changes"]
	switch {
	case !ok:
		list = json.RawMessage("[]")
	case len(list) == 0 || list[0] != '[':
		return nil, nil, invalidField("/changes", "wrong_type", "must be an array")
	}
	delete(opts, "changes")
	return opts, elements(list), nil
}

// rerunSpec checks options against the contract.
func (h *handlers) rerunSpec(opts options) (jobs.RerunSpec, error) {
	raw, err := json.Marshal(opts)
	if err != nil {
		return jobs.RerunSpec{}, badOptions()
	}
	value, err := decodeAny(raw)
	if err != nil {
		return jobs.RerunSpec{}, err
	}
	if faults := validate(h.contract.rerun, value); faults != nil {
		return jobs.RerunSpec{}, invalid(faults)
	}
	var in struct {
		Template          string                  `json:"template"`
		Route             json.RawMessage         `json:"route"`
		Params            json.RawMessage         `json:"params"`
		OnInvalid         string                  `json:"on_invalid"`
		Cache             string                  `json:"cache"`
		MaxAgeSeconds     *int32                  `json:"max_age_seconds"`
		Name              *string                 `json:"name"`
		Metadata          json.RawMessage         `json:"metadata"`
		Priority          *int16                  `json:"priority"`
		Concurrency       store.Change[int32]     `json:"concurrency"`
		MaxAttempts       store.Change[int32]     `json:"max_attempts"`
		JobTimeoutSeconds store.Change[int32]     `json:"job_timeout_seconds"`
		ExpiresAt         store.Change[time.Time] `json:"expires_at"`
		MaxCostMicrousd   store.Change[int64]     `json:"max_cost_microusd"`
	}
	if err := json.Unmarshal(raw, &in); err != nil {
		if _, ok := errors.AsType[*time.ParseError](err); ok {
			return jobs.RerunSpec{}, invalidField("/expires_at", "wrong_type", "must be a time such as 2026-11-21T18:00:00Z")
		}
		return jobs.RerunSpec{}, badOptions()
	}
	return jobs.RerunSpec{
		Template: in.Template, Route: in.Route, Params: in.Params, OnInvalid: in.OnInvalid, Cache: in.Cache, MaxAgeSeconds: in.MaxAgeSeconds,
		Change: store.BatchChange{Name: in.Name, Metadata: in.Metadata, Priority: in.Priority, Concurrency: in.Concurrency, MaxAttempts: in.MaxAttempts,
			JobTimeoutSeconds: in.JobTimeoutSeconds, ExpiresAt: in.ExpiresAt, MaxCostMicrousd: in.MaxCostMicrousd},
	}, nil
}

func badOptions() error {
	return invalidField("", "wrong_type", "is not of the form that the contract wants")
}
