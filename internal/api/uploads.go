package api

import (
	"context"
	"iter"

	"github.com/google/uuid"

	"batchwright/internal/jobs"
	"batchwright/internal/store"
)

// uploader is what adds to batches that come in by several requests, and removes them.
type uploader interface {
	Append(ctx context.Context, project, batch uuid.UUID, offset int32, lines iter.Seq2[jobs.Line, error]) (jobs.Appended, error)
	Seal(ctx context.Context, project, batch uuid.UUID) (store.Batch, error)
	Purge(ctx context.Context, project, batch uuid.UUID) error
}

// AppendJobs adds jobs to an open upload, in one of four forms.
func (h *handlers) AppendJobs(ctx context.Context, req AppendJobsRequestObject) (AppendJobsResponseObject, error) {
	id, err := batchID(req.ID)
	if err != nil {
		return nil, err
	}
	var in iter.Seq2[jobs.Line, error]
	switch {
	case req.JSONBody != nil:
		var rest options
		if rest, in, err = fromJSON(*req.JSONBody); err != nil {
			return nil, err
		}
		for name := range rest {
			return nil, invalidField("/"+clip(name), "unknown_field", "there is no such field: options were given when the batch was submitted")
		}
	case req.MultipartBody != nil:
		in = h.parts(req.MultipartBody)
	default:
		in = h.stream(req.Body)
	}
	a, err := h.Jobs.Append(ctx, projectOf(ctx).ID, id, req.Params.Offset, in)
	if err != nil {
		return nil, err
	}
	return AppendJobs200JSONResponse{TotalJobs: a.TotalJobs, FirstIndex: a.First, LastIndex: a.Last}, nil
}

// SealBatch ends an open upload.
func (h *handlers) SealBatch(ctx context.Context, req SealBatchRequestObject) (SealBatchResponseObject, error) {
	id, err := batchID(req.ID)
	if err != nil {
		return nil, err
	}
	b, err := h.Jobs.Seal(ctx, projectOf(ctx).ID, id)
	if err != nil {
		return nil, err
	}
	out, err := h.counted(ctx, b)
	return SealBatch200JSONResponse(out), err
}

// PurgeBatch removes what a final batch holds.
func (h *handlers) PurgeBatch(ctx context.Context, req PurgeBatchRequestObject) (PurgeBatchResponseObject, error) {
	id, err := batchID(req.ID)
	if err != nil {
		return nil, err
	}
	if err := h.Jobs.Purge(ctx, projectOf(ctx).ID, id); err != nil {
		return nil, err
	}
	return PurgeBatch204Response{}, nil
}
