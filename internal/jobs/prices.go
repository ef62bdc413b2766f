package jobs

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"

	"batchwright/internal/fault"
	"batchwright/internal/pricing"
	"batchwright/internal/store"
)

// maxPrice is a million dollars per million tokens: with the tokens that a call can have at most, its cost fits.
const maxPrice = 1_000_000_000_000

// overlay lays a project's prices over the server's.
func overlay(base *pricing.Table, rows []store.Price) (*pricing.Table, error) {
	if len(rows) == 0 {
		return base, nil
	}
	prices := make([]pricing.Price, len(rows))
	for i, r := range rows {
		p := pricing.Price{
			Provider: r.Provider, Model: r.Model, ValidFrom: r.ValidFrom, Input: r.Rates.Input, Output: r.Rates.Output, CacheRead: r.Rates.CachedInput,
			CacheWrite: r.Rates.CacheWrite, ContextWindow: int(r.ContextWindow), MaxOutput: int(r.MaxOutputTokens),
		}
		if r.ValidTo != nil {
			p.ValidTo = *r.ValidTo
		}
		if r.Long != nil {
			p.LongFrom, p.Long = *r.LongAboveTokens, pricing.Rates{Input: r.Long.Input, Output: r.Long.Output, CacheRead: r.Long.CachedInput, CacheWrite: r.Long.CacheWrite}
		}
		if r.Batch != nil {
			p.Batch = pricing.Rates{Input: r.Batch.Input, Output: r.Batch.Output, CacheRead: r.Batch.CachedInput, CacheWrite: r.Batch.CacheWrite}
		}
		prices[i] = p
	}
	own, err := pricing.New(prices...)
	if err != nil {
		return nil, fmt.Errorf("jobs: prices: %w", err)
	}
	return own.Over(base), nil
}

// of returns the service with the prices of a project.
func (s *Service) of(ctx context.Context, project uuid.UUID) (*Service, error) {
	own := *s
	var err error
	own.Prices, err = pricesOf(ctx, s.DB.Reader, s.Prices, project)
	return &own, err
}

// pricesOf returns the prices that hold for a project: its own over base.
func pricesOf(ctx context.Context, db store.Reader, base *pricing.Table, project uuid.UUID) (*pricing.Table, error) {
	rows, err := db.ProjectPrices(ctx, project)
	if err != nil {
		return nil, fmt.Errorf("jobs: prices: %w", err)
	}
	return overlay(base, rows)
}

// PublishPrices copies the server's prices into the database, where reports and repricing read them.
func (s *Service) PublishPrices(ctx context.Context) error {
	var rows []store.Price
	add := func(p pricing.Price) {
		r := store.Price{
			Provider: p.Provider, Model: p.Model, ValidFrom: p.ValidFrom, Rates: store.PriceRates{Input: p.Input, Output: p.Output, CachedInput: p.CacheRead, CacheWrite: p.CacheWrite},
			ContextWindow: int32(p.ContextWindow), MaxOutputTokens: int32(p.MaxOutput),
		}
		if !p.ValidTo.IsZero() {
			r.ValidTo = &p.ValidTo
		}
		if p.LongFrom > 0 {
			r.LongAboveTokens, r.Long = &p.LongFrom, &store.PriceRates{Input: p.Long.Input, Output: p.Long.Output, CachedInput: p.Long.CacheRead, CacheWrite: p.Long.CacheWrite}
		}
		if p.Batch != (pricing.Rates{}) {
			r.Batch = &store.PriceRates{Input: p.Batch.Input, Output: p.Batch.Output, CachedInput: p.Batch.CacheRead, CacheWrite: p.Batch.CacheWrite}
		}
		rows = append(rows, r)
	}
	for p := range s.Prices.All() {
		add(p)
	}
	for p := range pricing.Unlisted() {
		add(p)
	}
	if err := s.DB.PublishPrices(ctx, rows); err != nil {
		return fmt.Errorf("jobs: publish prices: %w", err)
	}
	return nil
}

// SetPrice puts a row over the server's prices, for one project, in the place of one for the same model and day. Calls that begin after
// it returns are reserved for and charged by it; those in flight keep the prices that they began with. Errors are *[Error]: invalid.
func (s *Service) SetPrice(ctx context.Context, project store.Project, p store.Price) (store.Price, error) {
	if err := checkPrice(&p); err != nil {
		return p, err
	}
	id, err := uuid.NewV7()
	if err != nil {
		return p, err
	}
	p.ID, p.ProjectID, p.APIKeyID = id, &project.ID, &project.KeyID
	set, err := s.DB.SetPrice(ctx, p)
	if errors.Is(err, store.ErrConflict) {
		return p, invalidf("model", "the project has as many prices as it may: delete some")
	} else if err != nil {
		return p, fmt.Errorf("jobs: price: %w", err)
	}
	s.Log.InfoContext(ctx, "price set", "project", project.ID, "provider", p.Provider, "model", p.Model, "price", set.ID)
	return set, s.tryAgain(ctx, project.ID)
}

func checkPrice(p *store.Price) *Error {
	for field, name := range map[string]string{"provider": p.Provider, "model": p.Model} {
		if name == "" || len(name) > 200 || strings.ContainsAny(name, " \t\r\n\x00") || clean(name) != name {
			return invalidf(field, "is missing or not a name")
		}
	}
	if p.ValidFrom.Year() < 2000 || p.ValidFrom.Year() > 2999 {
		return invalidf("valid_from", "is not a day from 2000-01-01 to 2999-12-31")
	}
	if to := p.ValidTo; to != nil && (!to.After(p.ValidFrom) || to.Year() > 3000) {
		return invalidf("valid_to", "is not after valid_from: it is the first day on which the price holds no more")
	}
	if (p.LongAboveTokens != nil) != (p.Long != nil) {
		return invalidf("long_context", "needs both above_tokens and rates")
	}
	if p.LongAboveTokens != nil && *p.LongAboveTokens < 1 {
		return invalidf("long_context", "above_tokens is not positive")
	}
	for field, r := range map[string]*store.PriceRates{"rates": &p.Rates, "long_context": p.Long, "batch": p.Batch} {
		if r != nil && (min(r.Input, r.Output, r.CachedInput, r.CacheWrite) < 0 || max(r.Input, r.Output, r.CachedInput, r.CacheWrite) > maxPrice) {
			return invalidf(field, "has a price that is not from 0 to %d micro-dollars per million tokens", int64(maxPrice))
		}
	}
	return nil
}

// DeletePrice removes a project's row: what is below holds again, from the next call on.
func (s *Service) DeletePrice(ctx context.Context, project, id uuid.UUID) error {
	if err := s.DB.DeletePrice(ctx, project, id); err != nil {
		return err
	}
	return s.tryAgain(ctx, project)
}

// tryAgain resumes the batches that were paused since the budget had no room for the next call: that may cost less now.
func (s *Service) tryAgain(ctx context.Context, project uuid.UUID) error {
	if err := s.DB.ForgetPauseNeeds(ctx, project); err != nil {
		return fmt.Errorf("jobs: prices: %w", err)
	}
	return s.resumeAffordable(ctx, project)
}

// repriceFor is how long one request recomputes before it answers how far it is.
const repriceFor = 10 * time.Second

// repriceCalls is how many calls one transaction of a repricing takes: a fraction of a second of locks on a finished batch.
const repriceCalls = 5000

// NewReprice says which costs to recompute.
type NewReprice struct {
	DryRun          bool
	From, To        *time.Time // when calls started; default ever, and now
	Provider, Model string     // empty for all
	AsOf            *time.Time // the day whose prices are taken; default that on which each call started
}

// Reprice begins to recompute the costs of a project's settled calls in finished batches, and goes on for some seconds; [Service.GoOn] does
// the rest. It may be broken off anywhere: what is done is whole. Errors are *[Error]: invalid.
func (s *Service) Reprice(ctx context.Context, project store.Project, in NewReprice) (store.Reprice, error) {
	id, err := uuid.NewV7()
	if err != nil {
		return store.Reprice{}, err
	}
	r := store.Reprice{ID: id, ProjectID: project.ID, APIKeyID: project.KeyID, DryRun: in.DryRun, Provider: in.Provider, Model: in.Model, AsOf: in.AsOf,
		FromTime: time.Unix(0, 0).UTC(), ToTime: fault.Now()}
	if in.From != nil {
		r.FromTime = *in.From
	}
	if in.To != nil {
		r.ToTime = *in.To
	}
	if !r.FromTime.Before(r.ToTime) {
		return r, invalidf("to", "is not after from")
	}
	if clean(r.Provider) != r.Provider || clean(r.Model) != r.Model {
		return r, invalidf("model", "is not a name")
	}
	if err := s.PublishPrices(ctx); err != nil { // what this process was started with, and no older copy
		return r, err
	}
	if err := s.DB.BeginReprice(ctx, r); err != nil {
		return r, fmt.Errorf("jobs: reprice: %w", err)
	}
	return s.GoOn(ctx, project.ID, id)
}

// GoOn continues a repricing for some seconds; one that is finished it returns as it is. ErrNotFound when the project has none by that id.
func (s *Service) GoOn(ctx context.Context, project, id uuid.UUID) (store.Reprice, error) {
	for until := time.Now().Add(repriceFor); ; {
		r, err := s.DB.RepriceSome(ctx, project, id, repriceCalls)
		if err != nil || r.FinishedAt != nil || time.Now().After(until) {
			if err == nil && r.FinishedAt != nil {
				s.Log.InfoContext(ctx, "costs recomputed", "project", project, "reprice", id, "dry_run", r.DryRun, "calls", r.Calls, "changed", r.ChangedCalls)
				err = s.resumeAffordable(ctx, project)
			}
			return r, err
		}
	}
}
