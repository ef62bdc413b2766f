package store

import (
	"context"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// PriceRates are the prices of one tier, in micro-dollars per million tokens.
type PriceRates struct{ Input, Output, CachedInput, CacheWrite int64 }

// Price is what a model costs from a day on: a row of the server's table, or of a project's, which comes before it.
type Price struct {
	ID              uuid.UUID
	ProjectID       *uuid.UUID // nil for the server's
	Provider        string
	Model           string    // * for every model without a row of its own
	ValidFrom       time.Time // UTC midnight, inclusive
	ValidTo         *time.Time
	Rates           PriceRates
	LongAboveTokens *int64      // calls with more input are priced by Long
	Long            *PriceRates // nil without LongAboveTokens
	Batch           *PriceRates
	ContextWindow   int32
	MaxOutputTokens int32
	APIKeyID        *uuid.UUID // that set it
	UpdatedAt       time.Time
}

// priceRow is a Price as it lies in the table.
type priceRow struct {
	ID                       uuid.UUID
	ProjectID                *uuid.UUID
	Provider                 string
	Model                    string
	ValidFrom                time.Time
	ValidTo                  *time.Time
	InputMicrousd            int64
	OutputMicrousd           int64
	CachedInputMicrousd      int64
	CacheWriteMicrousd       int64
	LongAboveTokens          *int64
	LongInputMicrousd        *int64
	LongOutputMicrousd       *int64
	LongCachedInputMicrousd  *int64
	LongCacheWriteMicrousd   *int64
	BatchInputMicrousd       *int64
	BatchOutputMicrousd      *int64
	BatchCachedInputMicrousd *int64
	BatchCacheWriteMicrousd  *int64
	ContextWindow            int32
	MaxOutputTokens          int32
	APIKeyID                 *uuid.UUID
	UpdatedAt                time.Time
}

func (r priceRow) price() Price {
	p := Price{
		ID: r.ID, ProjectID: r.ProjectID, Provider: r.Provider, Model: r.Model, ValidFrom: r.ValidFrom, ValidTo: r.ValidTo,
		Rates:           PriceRates{r.InputMicrousd, r.OutputMicrousd, r.CachedInputMicrousd, r.CacheWriteMicrousd},
		LongAboveTokens: r.LongAboveTokens, ContextWindow: r.ContextWindow, MaxOutputTokens: r.MaxOutputTokens, APIKeyID: r.APIKeyID, UpdatedAt: r.UpdatedAt,
	}
	if r.LongInputMicrousd != nil {
		p.Long = &PriceRates{*r.LongInputMicrousd, *r.LongOutputMicrousd, *r.LongCachedInputMicrousd, *r.LongCacheWriteMicrousd}
	}
	if r.BatchInputMicrousd != nil {
		p.Batch = &PriceRates{*r.BatchInputMicrousd, *r.BatchOutputMicrousd, *r.BatchCachedInputMicrousd, *r.BatchCacheWriteMicrousd}
	}
	return p
}

func pricesOf(rows []priceRow) []Price {
	out := make([]Price, len(rows))
	for i, r := range rows {
		out[i] = r.price()
	}
	return out
}

// values are the columns of a row in the order of priceSet.
func (p *Price) values() []any {
	v := []any{p.ID, p.ProjectID, p.Provider, p.Model, p.ValidFrom, p.ValidTo, p.Rates.Input, p.Rates.Output, p.Rates.CachedInput, p.Rates.CacheWrite, p.LongAboveTokens}
	for _, r := range []*PriceRates{p.Long, p.Batch} {
		if r == nil {
			v = append(v, nil, nil, nil, nil)
		} else {
			v = append(v, r.Input, r.Output, r.CachedInput, r.CacheWrite)
		}
	}
	return append(v, p.ContextWindow, p.MaxOutputTokens, p.APIKeyID)
}

const (
	priceSet = `id, project_id, provider, model, valid_from, valid_to, input_microusd, output_microusd, cached_input_microusd, cache_write_microusd,
    long_above_tokens, long_input_microusd, long_output_microusd, long_cached_input_microusd, long_cache_write_microusd,
    batch_input_microusd, batch_output_microusd, batch_cached_input_microusd, batch_cache_write_microusd, context_window, max_output_tokens, api_key_id`
	priceCols   = priceSet + `, updated_at`
	insertPrice = `insert into prices (` + priceSet + `)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22)`
	replacePrice = `do update set (valid_to, input_microusd, output_microusd, cached_input_microusd, cache_write_microusd, long_above_tokens, long_input_microusd,
    long_output_microusd, long_cached_input_microusd, long_cache_write_microusd, batch_input_microusd, batch_output_microusd,
    batch_cached_input_microusd, batch_cache_write_microusd, context_window, max_output_tokens, api_key_id, updated_at)
= ($6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, now())`
	setPrice = `-- name: SetPrice
` + insertPrice + ` on conflict (project_id, provider, model, valid_from) where project_id is not null ` + replacePrice + `
returning ` + priceCols
	countPrices = `-- name: CountPrices
select count(*) from prices where project_id = $1 and (provider, model, valid_from) <> ($2, $3, $4)`
	deletePrice = `-- name: DeletePrice
delete from prices where project_id = $1 and id = $2 returning id`
	// One page of what a project's calls are priced by, or of the rows that hold on a day, one a model.
	listPrices = `-- name: ListPrices
select ` + priceCols + ` from (select *, row_number() over (partition by provider, model order by project_id is null, valid_from desc) as rank
    from prices p where (project_id = $1 or project_id is null) and ($2 = '' or provider = $2) and ($3 = '' or model = $3)
        and ($4::date is null or valid_from <= $4 and coalesce(valid_to > $4, true))) p
where ($4::date is null or rank = 1)
    and ($5::uuid is null or (provider, model, valid_from, id) > (select provider, model, valid_from, id from prices where id = $5))
order by provider, model, valid_from, id limit $6`
	projectPrices = `-- name: ProjectPrices
select ` + priceCols + ` from prices where project_id = $1 order by provider, model, valid_from`

	lockPublishing = `-- name: LockPublishing
select pg_advisory_xact_lock(hashtextextended('prices', 0))`
	dropUnpublished = `-- name: DropUnpublished
delete from prices p where project_id is null and not exists (
    select 1 from unnest($1::text[], $2::text[], $3::date[]) as u(provider, model, valid_from)
    where u.provider = p.provider and u.model = p.model and u.valid_from = p.valid_from)`
	publishPrice = `-- name: PublishPrice
` + insertPrice + ` on conflict (provider, model, valid_from) where project_id is null ` + replacePrice + `
where (prices.valid_to, prices.input_microusd, prices.output_microusd, prices.cached_input_microusd, prices.cache_write_microusd, prices.long_above_tokens,
    prices.long_input_microusd, prices.long_output_microusd, prices.long_cached_input_microusd, prices.long_cache_write_microusd,
    prices.batch_input_microusd, prices.batch_output_microusd, prices.batch_cached_input_microusd, prices.batch_cache_write_microusd,
    prices.context_window, prices.max_output_tokens)
    is distinct from ($6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21)`
)

// maxProjectPrices is how many rows a project may have: a worker reads them all.
const maxProjectPrices = 1000

// PublishPrices makes the server's rows those given: what the process that calls it last runs with.
func (db *DB) PublishPrices(ctx context.Context, prices []Price) error {
	providers, models, days := make([]string, len(prices)), make([]string, len(prices)), make([]time.Time, len(prices))
	for i, p := range prices {
		providers[i], models[i], days[i] = p.Provider, p.Model, p.ValidFrom
	}
	return translate(pgx.BeginFunc(ctx, db.pool, func(tx pgx.Tx) error {
		var b pgx.Batch
		b.Queue(lockPublishing)
		b.Queue(dropUnpublished, providers, models, days)
		for _, p := range prices {
			p.ID = uuid.New()
			b.Queue(publishPrice, p.values()...)
		}
		return tx.SendBatch(ctx, &b).Close()
	}))
}

// SetPrice makes a row of a project, in the place of one for the same provider, model and day. From the commit on no call of the project
// begins that was reserved for by what held before: see CreateBudget. ErrConflict when the project has too many.
func (db *DB) SetPrice(ctx context.Context, p Price) (set Price, err error) {
	err = pgx.BeginFunc(ctx, db.pool, func(tx pgx.Tx) error {
		if err := newPrices(ctx, tx, *p.ProjectID); err != nil {
			return err
		}
		n, err := scalar[int64](ctx, tx, countPrices, p.ProjectID, p.Provider, p.Model, p.ValidFrom)
		if err == nil && n >= maxProjectPrices {
			err = ErrConflict
		}
		if err != nil {
			return err
		}
		row, err := one[priceRow](ctx, tx, setPrice, p.values()...)
		set = row.price()
		return err
	})
	return set, translate(err)
}

// DeletePrice removes a row of a project, as SetPrice sets one. ErrNotFound when it has none by that id.
func (db *DB) DeletePrice(ctx context.Context, project, id uuid.UUID) error {
	return translate(pgx.BeginFunc(ctx, db.pool, func(tx pgx.Tx) error {
		if err := newPrices(ctx, tx, project); err != nil {
			return err
		}
		_, err := scalar[uuid.UUID](ctx, tx, deletePrice, project, id)
		return err
	}))
}

// newPrices makes workers read a project's prices and budgets anew before their next intent.
func newPrices(ctx context.Context, tx pgx.Tx, project uuid.UUID) error {
	if _, err := tx.Exec(ctx, lockLedger, project); err != nil {
		return err
	}
	_, err := tx.Exec(ctx, bumpEpoch, project)
	return err
}

// Prices pages through what a project's calls are priced by, by provider, model and day, behind after when it is given. With a day, it has
// of each model that is listed the row that holds then.
func (r Reader) Prices(ctx context.Context, project uuid.UUID, provider, model string, at *time.Time, after *uuid.UUID, limit int) ([]Price, error) {
	rows, err := many[priceRow](ctx, r.q, listPrices, project, provider, model, at, after, limit)
	return pricesOf(rows), err
}

// ProjectPrices returns the rows that a project put over the server's.
func (r Reader) ProjectPrices(ctx context.Context, project uuid.UUID) ([]Price, error) {
	rows, err := many[priceRow](ctx, r.q, projectPrices, project)
	return pricesOf(rows), err
}
