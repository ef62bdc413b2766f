package api

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/oapi-codegen/runtime/types"

	"batchwright/internal/jobs"
	"batchwright/internal/store"
)

// priceWriter is the part of Writer that changes prices, and what was charged by them.
type priceWriter interface {
	SetPrice(ctx context.Context, project store.Project, p store.Price) (store.Price, error)
	DeletePrice(ctx context.Context, project, id uuid.UUID) error
	Reprice(ctx context.Context, project store.Project, in jobs.NewReprice) (store.Reprice, error)
	GoOn(ctx context.Context, project, id uuid.UUID) (store.Reprice, error)
}

// priceReader is the part of Reader that shows prices and what came of them.
type priceReader interface {
	Prices(ctx context.Context, project uuid.UUID, provider, model string, at *time.Time, after *uuid.UUID, limit int) ([]store.Price, error)
	RepriceByID(ctx context.Context, project, id uuid.UUID) (store.Reprice, error)
	Reprices(ctx context.Context, project uuid.UUID, before *uuid.UUID, limit int) ([]store.Reprice, error)
	Savings(ctx context.Context, batch uuid.UUID) ([]store.Saving, error)
}

// ListPrices pages through what the project's calls are priced by.
func (h *handlers) ListPrices(ctx context.Context, req ListPricesRequestObject) (ListPricesResponseObject, error) {
	q := req.Params
	after, err := cursorID(q.Cursor)
	if err != nil {
		return nil, err
	}
	limit := deref(q.Limit, 50)
	rows, err := h.Read.Prices(ctx, projectOf(ctx).ID, deref(q.Provider, ""), deref(q.Model, ""), dayOf(q.At), after, limit+1)
	if err != nil {
		return nil, fmt.Errorf("api: prices: %w", err)
	}
	rows, next := page(rows, limit, func(p store.Price) string { return p.ID.String() })
	return ListPrices200JSONResponse{Data: each(rows, toPrice), NextCursor: next}, nil
}

// SetPrice puts a row over the server's.
func (h *handlers) SetPrice(ctx context.Context, req SetPriceRequestObject) (SetPriceResponseObject, error) {
	in := req.Body
	p := store.Price{Provider: in.Provider, Model: in.Model, ValidFrom: in.ValidFrom.Time, ValidTo: dayOf(in.ValidTo), Rates: *fromRates(&in.Rates)}
	if in.LongContext != nil {
		p.LongAboveTokens, p.Long = &in.LongContext.AboveTokens, fromRates(&in.LongContext.Rates)
	}
	p.Batch = fromRates(in.Batch)
	set, err := h.Jobs.SetPrice(ctx, projectOf(ctx), p)
	if err != nil {
		return nil, err
	}
	return SetPrice200JSONResponse(toPrice(set)), nil
}

// DeletePrice removes a row of the project.
func (h *handlers) DeletePrice(ctx context.Context, req DeletePriceRequestObject) (DeletePriceResponseObject, error) {
	id, err := pathID("price", req.ID)
	if err != nil {
		return nil, err
	}
	return DeletePrice204Response{}, h.Jobs.DeletePrice(ctx, projectOf(ctx).ID, id)
}

// Reprice recomputes costs, or says what that would do.
func (h *handlers) Reprice(ctx context.Context, req RepriceRequestObject) (RepriceResponseObject, error) {
	in := req.Body
	r, err := h.Jobs.Reprice(ctx, projectOf(ctx), jobs.NewReprice{DryRun: deref(in.DryRun, true), From: in.From, To: in.To,
		Provider: deref(in.Provider, ""), Model: deref(in.Model, ""), AsOf: dayOf(in.AsOf)})
	if err != nil {
		return nil, err
	}
	return Reprice200JSONResponse(toReprice(r)), nil
}

// ContinueReprice goes on with one.
func (h *handlers) ContinueReprice(ctx context.Context, req ContinueRepriceRequestObject) (ContinueRepriceResponseObject, error) {
	id, err := pathID("recomputation", req.ID)
	if err != nil {
		return nil, err
	}
	r, err := h.Jobs.GoOn(ctx, projectOf(ctx).ID, id)
	if err != nil {
		return nil, err
	}
	return ContinueReprice200JSONResponse(toReprice(r)), nil
}

// GetReprice shows one.
func (h *handlers) GetReprice(ctx context.Context, req GetRepriceRequestObject) (GetRepriceResponseObject, error) {
	id, err := pathID("recomputation", req.ID)
	if err != nil {
		return nil, err
	}
	r, err := h.Read.RepriceByID(ctx, projectOf(ctx).ID, id)
	if err != nil {
		return nil, fmt.Errorf("api: reprice: %w", err)
	}
	return GetReprice200JSONResponse(toReprice(r)), nil
}

// ListReprices pages through them.
func (h *handlers) ListReprices(ctx context.Context, req ListRepricesRequestObject) (ListRepricesResponseObject, error) {
	before, err := cursorID(req.Params.Cursor)
	if err != nil {
		return nil, err
	}
	limit := deref(req.Params.Limit, 50)
	rows, err := h.Read.Reprices(ctx, projectOf(ctx).ID, before, limit+1)
	if err != nil {
		return nil, fmt.Errorf("api: reprices: %w", err)
	}
	rows, next := page(rows, limit, func(r store.Reprice) string { return r.ID.String() })
	return ListReprices200JSONResponse{Data: each(rows, toReprice), NextCursor: next}, nil
}

// GetSavings shows what the caches saved a batch.
func (h *handlers) GetSavings(ctx context.Context, req GetSavingsRequestObject) (GetSavingsResponseObject, error) {
	id, err := batchID(req.ID)
	if err != nil {
		return nil, err
	}
	b, err := h.Read.Batch(ctx, projectOf(ctx).ID, id)
	if err != nil {
		return nil, fmt.Errorf("api: savings: %w", err)
	}
	stats, err := h.Read.BatchStats(ctx, b)
	if err != nil {
		return nil, fmt.Errorf("api: savings: %w", err)
	}
	rows, err := h.Read.Savings(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("api: savings: %w", err)
	}
	return GetSavings200JSONResponse{BatchID: id, CostMicrousd: stats.CostMicrousd, UnpricedCalls: stats.UnpricedCalls, Data: each(rows, func(s store.Saving) Saving {
		return Saving{Kind: SavingKind(s.Saving), Provider: s.Provider, Model: s.Model, Uses: s.Uses, Unknown: s.Unknown, InputTokens: s.InputTokens,
			OutputTokens: s.OutputTokens, SavedMicrousd: s.SavedMicrousd}
	})}, nil
}

func dayOf(d *types.Date) *time.Time {
	if d == nil {
		return nil
	}
	return &d.Time
}

func dateOf(t *time.Time) *types.Date {
	if t == nil {
		return nil
	}
	return &types.Date{Time: *t}
}

func fromRates(r *PriceRates) *store.PriceRates {
	if r == nil {
		return nil
	}
	return &store.PriceRates{Input: r.Input, Output: r.Output, CachedInput: r.CachedInput, CacheWrite: r.CacheWrite}
}

func toRates(r *store.PriceRates) *PriceRates {
	if r == nil {
		return nil
	}
	return &PriceRates{Input: r.Input, Output: r.Output, CachedInput: r.CachedInput, CacheWrite: r.CacheWrite}
}

func toPrice(p store.Price) Price {
	out := Price{ID: p.ID, Source: "server", Provider: p.Provider, Model: p.Model, ValidFrom: types.Date{Time: p.ValidFrom}, ValidTo: dateOf(p.ValidTo),
		Rates: *toRates(&p.Rates), Batch: toRates(p.Batch), UpdatedAt: p.UpdatedAt.UTC()}
	if p.ProjectID != nil {
		out.Source = "project"
	}
	if p.Long != nil {
		out.LongContext = &LongContext{AboveTokens: *p.LongAboveTokens, Rates: *toRates(p.Long)}
	}
	return out
}

func toReprice(r store.Reprice) Reprice {
	return Reprice{
		ID: r.ID, APIKeyID: r.APIKeyID, DryRun: r.DryRun, From: r.FromTime.UTC(), To: r.ToTime.UTC(), Provider: r.Provider, Model: r.Model, AsOf: dateOf(r.AsOf),
		Batches: r.Batches, Calls: r.Calls, ChangedCalls: r.ChangedCalls, ReportedCalls: r.ReportedCalls, OldCostMicrousd: r.OldCostMicrousd,
		NewCostMicrousd: r.NewCostMicrousd, UnknownBefore: r.UnknownBefore, UnknownAfter: r.UnknownAfter, StartedAt: r.StartedAt.UTC(), FinishedAt: utc(r.FinishedAt),
	}
}
