package jobs

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"

	"batchwright/internal/store"
)

// NewBudget is a budget before it is checked. The ids are as the caller gave them.
type NewBudget struct {
	Scope         string
	APIKeyID      string // of scope api_key; "current": the key that the caller uses
	BatchID       string // of scope batch
	Name          string
	Period        string
	TimeZone      string // default UTC
	LimitMicrousd int64
}

// CreateBudget checks a budget and makes it. Every call of the project that is written from then on counts in it.
func (s *Service) CreateBudget(ctx context.Context, project store.Project, in NewBudget) (store.BudgetState, error) {
	id, err := uuid.NewV7()
	if err != nil {
		return store.BudgetState{}, err
	}
	b := store.Budget{ID: id, ProjectID: project.ID, Scope: in.Scope, Name: in.Name, Period: in.Period, TimeZone: in.TimeZone, LimitMicrousd: in.LimitMicrousd}
	if b.TimeZone == "" {
		b.TimeZone = "UTC"
	}
	switch {
	case in.APIKeyID != "" && in.Scope != "api_key":
		return store.BudgetState{}, invalidf("api_key_id", "is for scope api_key only")
	case in.BatchID != "" && in.Scope != "batch":
		return store.BudgetState{}, invalidf("batch_id", "is for scope batch only")
	case in.Scope == "api_key":
		b.APIKeyID, err = s.ownKeyID(ctx, project, in.APIKeyID)
	case in.Scope == "batch":
		b.BatchID, err = s.ownBatchID(ctx, project.ID, in.BatchID)
	}
	if err != nil {
		return store.BudgetState{}, err
	}
	state, err := s.DB.CreateBudget(ctx, b)
	if errors.Is(err, store.ErrTimeZone) {
		return store.BudgetState{}, invalidf("time_zone", "%.60q is unknown: want an IANA name such as Europe/Berlin", in.TimeZone)
	}
	return state, err
}

func (s *Service) ownKeyID(ctx context.Context, project store.Project, id string) (*uuid.UUID, error) {
	if id == "current" {
		return &project.KeyID, nil
	}
	if id == "" {
		return nil, invalidf("api_key_id", "is missing: want the id of a key, or current")
	}
	key, err := uuid.Parse(id)
	if err != nil {
		return nil, invalidf("api_key_id", "is neither a key's id nor current")
	}
	ok, err := s.DB.HasKey(ctx, project.ID, key)
	if err != nil {
		return nil, fmt.Errorf("jobs: budget: %w", err)
	}
	if !ok {
		return nil, invalidf("api_key_id", "the project has no such key")
	}
	return &key, nil
}

func (s *Service) ownBatchID(ctx context.Context, project uuid.UUID, id string) (*uuid.UUID, error) {
	if id == "" {
		return nil, invalidf("batch_id", "is missing")
	}
	batch, err := uuid.Parse(id)
	if err != nil {
		return nil, invalidf("batch_id", "is not a batch's id")
	}
	if _, err := s.DB.Batch(ctx, project, batch); errors.Is(err, store.ErrNotFound) {
		return nil, invalidf("batch_id", "the project has no such batch")
	} else if err != nil {
		return nil, fmt.Errorf("jobs: budget: %w", err)
	}
	return &batch, nil
}

// UpdateBudget changes a budget's name and limit, where they are given, and resumes at once what can be paid for now.
func (s *Service) UpdateBudget(ctx context.Context, project, id uuid.UUID, name *string, limit *int64) (store.BudgetState, error) {
	state, err := s.DB.UpdateBudget(ctx, project, id, name, limit)
	if err != nil {
		return state, err
	}
	return state, s.resumeAffordable(ctx, project)
}

// DeleteBudget ends a budget, and resumes at once what it held up.
func (s *Service) DeleteBudget(ctx context.Context, project, id uuid.UUID) error {
	if err := s.DB.DeleteBudget(ctx, project, id); err != nil {
		return err
	}
	return s.resumeAffordable(ctx, project)
}

// resumeAffordable is for the caller's convenience: should it fail, a worker does the same in a moment.
func (s *Service) resumeAffordable(ctx context.Context, project uuid.UUID) error {
	if _, err := s.DB.ResumeAffordable(ctx, &project); err != nil && !store.IsTransient(err) {
		return fmt.Errorf("jobs: resume batches: %w", err)
	}
	return nil
}
