package api

import (
	"context"
	"fmt"

	"github.com/google/uuid"

	"batchwright/internal/jobs"
	"batchwright/internal/store"
)

// budgetWriter is the part of Writer that changes budgets.
type budgetWriter interface {
	CreateBudget(ctx context.Context, project store.Project, b jobs.NewBudget) (store.BudgetState, error)
	UpdateBudget(ctx context.Context, project, id uuid.UUID, name *string, limit *int64) (store.BudgetState, error)
	DeleteBudget(ctx context.Context, project, id uuid.UUID) error
}

// budgetReader is the part of Reader that shows budgets.
type budgetReader interface {
	Budget(ctx context.Context, project, id uuid.UUID) (store.BudgetState, error)
	Budgets(ctx context.Context, project uuid.UUID, before *uuid.UUID, limit int) ([]store.BudgetState, error)
}

func budgetID(id BudgetID) (uuid.UUID, error) { return pathID("budget", id) }

// CreateBudget makes a budget.
func (h *handlers) CreateBudget(ctx context.Context, req CreateBudgetRequestObject) (CreateBudgetResponseObject, error) {
	in := req.Body
	b, err := h.Jobs.CreateBudget(ctx, projectOf(ctx), jobs.NewBudget{
		Scope: string(in.Scope), APIKeyID: deref(in.APIKeyID, ""), BatchID: deref(in.BatchID, ""), Name: deref(in.Name, ""),
		Period: string(in.Period), TimeZone: deref(in.TimeZone, ""), LimitMicrousd: in.LimitMicrousd,
	})
	if err != nil {
		return nil, err
	}
	return CreateBudget201JSONResponse{Body: toBudget(b), Headers: CreateBudget201ResponseHeaders{Location: "/v1/budgets/" + b.ID.String()}}, nil
}

// ListBudgets pages through the project's budgets.
func (h *handlers) ListBudgets(ctx context.Context, req ListBudgetsRequestObject) (ListBudgetsResponseObject, error) {
	before, err := cursorID(req.Params.Cursor)
	if err != nil {
		return nil, err
	}
	limit := deref(req.Params.Limit, 50)
	rows, err := h.Read.Budgets(ctx, projectOf(ctx).ID, before, limit+1)
	if err != nil {
		return nil, fmt.Errorf("api: budgets: %w", err)
	}
	rows, next := page(rows, limit, func(b store.BudgetState) string { return b.ID.String() })
	return ListBudgets200JSONResponse{Data: each(rows, toBudget), NextCursor: next}, nil
}

// GetBudget shows a budget.
func (h *handlers) GetBudget(ctx context.Context, req GetBudgetRequestObject) (GetBudgetResponseObject, error) {
	id, err := budgetID(req.ID)
	if err != nil {
		return nil, err
	}
	b, err := h.Read.Budget(ctx, projectOf(ctx).ID, id)
	if err != nil {
		return nil, fmt.Errorf("api: budget: %w", err)
	}
	return GetBudget200JSONResponse(toBudget(b)), nil
}

// UpdateBudget changes what is given.
func (h *handlers) UpdateBudget(ctx context.Context, req UpdateBudgetRequestObject) (UpdateBudgetResponseObject, error) {
	id, err := budgetID(req.ID)
	if err != nil {
		return nil, err
	}
	b, err := h.Jobs.UpdateBudget(ctx, projectOf(ctx).ID, id, req.Body.Name, req.Body.LimitMicrousd)
	if err != nil {
		return nil, err
	}
	return UpdateBudget200JSONResponse(toBudget(b)), nil
}

// DeleteBudget removes a budget.
func (h *handlers) DeleteBudget(ctx context.Context, req DeleteBudgetRequestObject) (DeleteBudgetResponseObject, error) {
	id, err := budgetID(req.ID)
	if err != nil {
		return nil, err
	}
	return DeleteBudget204Response{}, h.Jobs.DeleteBudget(ctx, projectOf(ctx).ID, id)
}

func toBudget(b store.BudgetState) Budget {
	return Budget{
		ID: b.ID, Scope: BudgetScope(b.Scope), APIKeyID: b.APIKeyID, BatchID: b.BatchID, Name: b.Name, Period: BudgetPeriod(b.Period), TimeZone: b.TimeZone,
		LimitMicrousd: b.LimitMicrousd, SpentMicrousd: b.SpentMicrousd, ReservedMicrousd: b.ReservedMicrousd,
		RemainingMicrousd: max(b.LimitMicrousd-b.SpentMicrousd-b.ReservedMicrousd, 0), StartsAt: utc(b.StartsAt), EndsAt: utc(b.EndsAt),
		CreatedAt: b.CreatedAt.UTC(), UpdatedAt: b.UpdatedAt.UTC(),
	}
}
