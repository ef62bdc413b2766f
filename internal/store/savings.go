package store

import (
	"context"

	"github.com/google/uuid"
)

// Saving is what a batch would have cost more without one of the caches.
type Saving struct {
	Saving        string // result_cache, coalesced, gateway_cache or prefix_cache
	Provider      string
	Model         string
	Uses          int64 // jobs, or calls
	Unknown       int64 // of them, not in the sum
	InputTokens   int64
	OutputTokens  int64
	SavedMicrousd int64
}

const listSavings = `-- name: ListSavings
select saving, provider, model, uses, "unknown", input_tokens, output_tokens, saved_microusd from reports.savings
where batch_id = $1 order by array_position('{result_cache,coalesced,gateway_cache,prefix_cache}', saving), provider, model`

// Savings returns what the caches saved a batch, each apart.
func (r Reader) Savings(ctx context.Context, batch uuid.UUID) ([]Saving, error) {
	return many[Saving](ctx, r.q, listSavings, batch)
}
