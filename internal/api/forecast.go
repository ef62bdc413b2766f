package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/google/uuid"

	"batchwright/internal/store"
)

type forecastReader interface {
	Forecast(ctx context.Context, project, batch uuid.UUID) (store.Forecast, error)
}

const (
	dryRunWait = 20 * time.Second // for which a dry run is waited for
	dryRunPoll = 50 * time.Millisecond
)

// dryRun waits for the forecast of a batch that was made for it, and says where to ask when that takes longer.
func (h *handlers) dryRun(ctx context.Context, b store.Batch) (CreateBatchResponseObject, error) {
	wait := time.NewTimer(dryRunWait)
	defer wait.Stop()
	tick := time.NewTicker(dryRunPoll)
	defer tick.Stop()
	for {
		f, err := h.Read.Forecast(ctx, projectOf(ctx).ID, b.ID)
		if err == nil {
			return CreateBatch200JSONResponse(toForecast(f)), nil
		} else if !errors.Is(err, store.ErrNotFound) {
			return nil, fmt.Errorf("api: forecast: %w", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-wait.C:
			return CreateBatch202JSONResponse{Body: toBatch(b, nil), Headers: CreateBatch202ResponseHeaders{Location: "/v1/batches/" + b.ID.String() + "/forecast"}}, nil
		}
	}
}

// GetForecast shows what was expected of a batch.
func (h *handlers) GetForecast(ctx context.Context, req GetForecastRequestObject) (GetForecastResponseObject, error) {
	id, err := batchID(req.ID)
	if err != nil {
		return nil, err
	}
	var gone error
	for range 2 { // it may have been made between the two looks, and a dry run be gone by then
		f, err := h.Read.Forecast(ctx, projectOf(ctx).ID, id)
		if err == nil {
			return GetForecast200JSONResponse(toForecast(f)), nil
		} else if !errors.Is(err, store.ErrNotFound) {
			return nil, fmt.Errorf("api: forecast: %w", err)
		}
		var b store.Batch
		if b, gone = h.Read.Batch(ctx, projectOf(ctx).ID, id); gone == nil && b.StartedAt == nil && b.FinishedAt == nil {
			return GetForecast202JSONResponse(toBatch(b, nil)), nil
		}
	}
	if gone != nil {
		return nil, fmt.Errorf("api: forecast: %w", gone)
	}
	return nil, &problem{status: http.StatusNotFound, detail: "the batch has no forecast: it was planned before there were any, or never"}
}

func toForecast(f store.Forecast) Forecast {
	return Forecast{
		BatchID: f.BatchID, MadeAt: f.MadeAt.UTC(), DryRun: f.DryRun, Verdict: ForecastVerdict(f.Verdict), Reason: f.Reason, MaxCostMicrousd: f.MaxCostMicrousd,
		Jobs: f.Jobs, ResultHits: f.ResultHits, Coalesced: f.Coalesced, InvalidJobs: f.InvalidJobs, CountedJobs: f.CountedJobs,
		HistoryBatches: f.HistoryBatches, Calls: Spread(f.Calls), InputTokens: Spread(f.Input), CachedInputTokens: Spread(f.Cached),
		OutputTokens: Spread(f.Output), CostMicrousd: (*MaybeSpread)(f.Cost), DurationMs: Spread(f.DurationMS),
		Steps: each(f.Steps, func(s store.ForecastStep) ForecastStep {
			return ForecastStep{Stage: s.Stage, Step: s.Step, Provider: s.Provider, Model: s.Model, HistoryOf: s.HistoryOf, HistoryCalls: s.HistoryCalls, Calls: Spread(s.Calls),
				InputTokens: Spread(s.Input), CachedInputTokens: Spread(s.Cached), OutputTokens: Spread(s.Output), CostMicrousd: (*MaybeSpread)(s.Cost)}
		}),
	}
}
