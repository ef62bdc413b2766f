package api

import (
	"context"
	"encoding/json"
	"iter"
	"net/http"

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
		Template      string          `json:"template"`
		Route         json.RawMessage `json:"route"`
		Params        json.RawMessage `json:"params"`
		OnInvalid     string          `json:"on_invalid"`
		Cache         string          `json:"cache"`
		MaxAgeSeconds *int32          `json:"max_age_seconds"`
		Inputs        string          `json:"inputs"`
	}
	if err := json.Unmarshal(raw, &in); err != nil {
		return jobs.RerunSpec{}, badOptions()
	}
	change, err := changeOf(raw)
	return jobs.RerunSpec{Template: in.Template, Route: in.Route, Params: in.Params, OnInvalid: in.OnInvalid, Cache: in.Cache,
		MaxAgeSeconds: in.MaxAgeSeconds, Inputs: in.Inputs, Change: change}, err
}

func badOptions() error {
	return invalidField("", "wrong_type", "is not of the form that the contract wants")
}
