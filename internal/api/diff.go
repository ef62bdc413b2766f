package api

import (
	"context"
	"fmt"
	"net/http"

	"batchwright/internal/jobs"
	"batchwright/internal/report"
	"batchwright/internal/store"
)

// compare reads the two batches of a diff.
func (h *handlers) compare(ctx context.Context, before, after string) (*report.Diff, error) {
	var pair [2]store.Batch
	for i, id := range []string{before, after} {
		b, err := h.batch(ctx, id)
		if err != nil {
			return nil, err
		}
		if b.PurgedAt != nil {
			return nil, &problem{status: http.StatusGone, detail: "batch " + b.ID.String() + " was purged: its jobs are not there to compare"}
		}
		pair[i] = b
	}
	return report.Compare(ctx, h.Read, pair[0], pair[1])
}

// DiffBatches says what differs between two batches.
func (h *handlers) DiffBatches(ctx context.Context, req DiffBatchesRequestObject) (DiffBatchesResponseObject, error) {
	key, err := cursor(req.Params.Cursor)
	if err != nil {
		return nil, err
	}
	o := report.DiffOptions{Status: string(deref(req.Params.Status, "")), Text: deref(req.Params.Text, false)}
	if o.After, err = report.ParsePlace(key); err != nil {
		return nil, badCursor()
	}
	d, err := h.compare(ctx, req.ID, req.Other)
	if err != nil {
		return nil, err
	}
	if deref(req.Params.Format, DiffBatchesParamsFormatJSON) == DiffBatchesParamsFormatNdjson {
		return diffStream{newStream(d.Items(ctx, o), toDiffItem, "diff", h.Log.With("before", d.Before.ID, "after", d.After.ID))}, nil
	}
	items, next, err := d.Page(ctx, o, deref(req.Params.Limit, 100))
	if err != nil {
		return nil, fmt.Errorf("api: diff: %w", err)
	}
	out := DiffBatches200JSONResponse{Data: each(items, toDiffItem)}
	if next != nil {
		text := encodeCursor(next.String())
		out.NextCursor = &text
	}
	return out, nil
}

// SummarizeDiff counts what differs between two batches.
func (h *handlers) SummarizeDiff(ctx context.Context, req SummarizeDiffRequestObject) (SummarizeDiffResponseObject, error) {
	d, err := h.compare(ctx, req.ID, req.Other)
	if err != nil {
		return nil, err
	}
	s, err := d.Summary(ctx)
	if err != nil {
		return nil, fmt.Errorf("api: diff: %w", err)
	}
	return SummarizeDiff200JSONResponse{
		Before: d.Before.ID, After: d.After.ID, Items: s.Items, Statuses: s.Statuses, Reasons: s.Reasons, CostBeforeMicrousd: s.Before,
		CostAfterMicrousd: s.After, CostDifferenceMicrousd: s.After - s.Before, JobsWithoutCost: s.Unpriced,
	}, nil
}

func toDiffItem(i report.Item) DiffItem {
	out := DiffItem{CustomID: i.CustomID, Status: DiffStatus(i.Status), Reasons: []DiffReason{}, Before: toDiffSide(i.Before), After: toDiffSide(i.After),
		CostDifferenceMicrousd: i.Difference}
	for _, r := range i.Reasons {
		out.Reasons = append(out.Reasons, DiffReason(r))
	}
	if i.Text != "" {
		out.TextDiff = &i.Text
		if i.Partial {
			out.TextDiffPartial = &i.Partial
		}
	}
	return out
}

func toDiffSide(s *report.Side) *DiffSide {
	if s == nil {
		return nil
	}
	return &DiffSide{JobID: jobs.JobID(s.Batch, s.Seq), Index: s.Seq, Status: JobStatus(s.State), CacheStatus: s.CacheStatus, ErrorClass: s.ErrorClass,
		Provider: s.Provider, Model: s.Model, AnsweredBy: s.AnsweredBy, CostMicrousd: s.CostMicrousd}
}

// diffStream writes items as NDJSON.
type diffStream struct {
	ndjsonStream[report.Item, DiffItem]
}

// VisitDiffBatchesResponse implements the generated response.
func (s diffStream) VisitDiffBatchesResponse(w http.ResponseWriter) error { return s.write(w) }
