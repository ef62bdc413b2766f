package store

import (
	"context"
	"time"

	"github.com/google/uuid"
)

// CustomProvider serves the slug custom-SLUG in all gateways of an account.
type CustomProvider struct {
	ID                    uuid.UUID
	Account, Name, Slug   string
	BaseURL               string
	Description, Link     string
	CurlExample           string
	JSExample             string
	Enable, Beta          bool
	CreatedAt, ModifiedAt time.Time
}

// CustomProviderQuery picks a page of an account's custom providers. Enable and Beta are nil when either will do.
type CustomProviderQuery struct {
	Account       string
	Search        string // in name or slug, or the id
	Enable, Beta  *bool
	NewestFirst   bool // else by slug
	Page, PerPage int  // Page counts from 1
}

const customProviderCols = `id, account, name, slug, base_url, description, link, curl_example, js_example, enable, beta, created_at, modified_at`

const customProviderMatch = ` from custom_providers where account = $1
and (position(lower($2::text) in lower(name)) > 0 or position(lower($2::text) in lower(slug)) > 0 or id::text = lower($2))
and ($3::bool is null or enable = $3) and ($4::bool is null or beta = $4)`

const (
	createCustomProvider = `-- name: CreateCustomProvider
with ` + bumpGateways + `
insert into custom_providers (account, id, name, slug, base_url, description, link, curl_example, js_example, enable, beta)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) returning ` + customProviderCols
	customProviderByID = `-- name: CustomProviderByID
select ` + customProviderCols + ` from custom_providers where account = $1 and id = $2`
	listCustomProviders = `-- name: ListCustomProviders
select ` + customProviderCols + customProviderMatch + `
order by case when $5::bool then created_at end desc, slug limit $6 offset $7`
	countCustomProviders = `-- name: CountCustomProviders
select count(*)` + customProviderMatch
	updateCustomProvider = `-- name: UpdateCustomProvider
with ` + bumpGateways + `
update custom_providers set name = $3, slug = $4, base_url = $5, description = $6, link = $7, curl_example = $8, js_example = $9,
    enable = $10, beta = $11, modified_at = now()
where account = $1 and id = $2 returning ` + customProviderCols
	deleteCustomProvider = `-- name: DeleteCustomProvider
with ` + bumpGateways + `
delete from custom_providers where account = $1 and id = $2 returning ` + customProviderCols
	enabledProviders = `-- name: EnabledProviders
select ` + customProviderCols + ` from custom_providers where account = $1 and enable order by slug`
)

// CreateCustomProvider returns ErrConflict when the account has a provider of that slug.
func (db *DB) CreateCustomProvider(ctx context.Context, p CustomProvider) (CustomProvider, error) {
	id, err := uuid.NewV7()
	if err != nil {
		return CustomProvider{}, err
	}
	p.ID = id
	return one[CustomProvider](ctx, db.pool, createCustomProvider, p.columns()...)
}

// CustomProvider returns ErrNotFound when there is none.
func (r Reader) CustomProvider(ctx context.Context, account string, id uuid.UUID) (CustomProvider, error) {
	return one[CustomProvider](ctx, r.q, customProviderByID, account, id)
}

// CustomProviders returns a page and how many there are in all.
func (r Reader) CustomProviders(ctx context.Context, q CustomProviderQuery) ([]CustomProvider, int, error) {
	total, err := scalar[int](ctx, r.q, countCustomProviders, q.Account, q.Search, q.Enable, q.Beta)
	if err != nil {
		return nil, 0, err
	}
	list, err := many[CustomProvider](ctx, r.q, listCustomProviders, q.Account, q.Search, q.Enable, q.Beta, q.NewestFirst, q.PerPage, (q.Page-1)*q.PerPage)
	return list, total, err
}

// UpdateCustomProvider replaces all but the account and the id. It returns ErrNotFound, or ErrConflict when another has the slug.
func (db *DB) UpdateCustomProvider(ctx context.Context, p CustomProvider) (CustomProvider, error) {
	return one[CustomProvider](ctx, db.pool, updateCustomProvider, p.columns()...)
}

// DeleteCustomProvider returns ErrNotFound when there is none.
func (db *DB) DeleteCustomProvider(ctx context.Context, account string, id uuid.UUID) (CustomProvider, error) {
	return one[CustomProvider](ctx, db.pool, deleteCustomProvider, account, id)
}

// EnabledProviders lists what an account's gateways serve.
func (r Reader) EnabledProviders(ctx context.Context, account string) ([]CustomProvider, error) {
	return many[CustomProvider](ctx, r.q, enabledProviders, account)
}

func (p *CustomProvider) columns() []any {
	return []any{p.Account, p.ID, p.Name, p.Slug, p.BaseURL, p.Description, p.Link, p.CurlExample, p.JSExample, p.Enable, p.Beta}
}
