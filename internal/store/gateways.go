package store

import (
	"context"
	"encoding/json"
	"time"

	"github.com/google/uuid"
)

// Gateway is one self-hosted gateway of an account. Settings were checked by whoever stores them.
type Gateway struct {
	Account, ID           string
	Settings              json.RawMessage
	Revision              int64 // grows with every change of it, its keys and routes, or the account's custom providers
	CreatedAt, ModifiedAt time.Time
}

const gatewayCols = `account, id, settings, revision, created_at, modified_at`

// A statement that changes what belongs to a gateway begins with one of these, so that caches see a new revision, and
// so that nothing is stored for a gateway that isn't there.
const (
	bumpGateway  = `g as (update gateways set revision = nextval('gateway_revisions') where account = $1 and id = $2 returning account, id)`
	bumpGateways = `g as (update gateways set revision = nextval('gateway_revisions') where account = $1)`
)

const (
	createGateway = `-- name: CreateGateway
insert into gateways (account, id, settings) values ($1, $2, $3) returning ` + gatewayCols
	gatewayByID = `-- name: GatewayByID
select ` + gatewayCols + ` from gateways where account = $1 and id = $2`
	listGateways = `-- name: ListGateways
select ` + gatewayCols + ` from gateways where account = $1 and position(lower($2::text) in lower(id)) > 0 order by id limit $3 offset $4`
	countGateways = `-- name: CountGateways
select count(*) from gateways where account = $1 and position(lower($2::text) in lower(id)) > 0`
	updateGateway = `-- name: UpdateGateway
update gateways set settings = $3, modified_at = now(), revision = nextval('gateway_revisions') where account = $1 and id = $2
returning ` + gatewayCols
	deleteGateway = `-- name: DeleteGateway
delete from gateways where account = $1 and id = $2 returning ` + gatewayCols
)

// CreateGateway returns ErrConflict when the account has a gateway of that name.
func (db *DB) CreateGateway(ctx context.Context, account, id string, settings json.RawMessage) (Gateway, error) {
	return one[Gateway](ctx, db.pool, createGateway, account, id, settings)
}

// Gateway returns ErrNotFound when there is none.
func (r Reader) Gateway(ctx context.Context, account, id string) (Gateway, error) {
	return one[Gateway](ctx, r.q, gatewayByID, account, id)
}

// Gateways returns a page, counted from 1, of those whose name contains search, and how many there are in all. They are few: an
// account has some tens.
func (r Reader) Gateways(ctx context.Context, account, search string, page, perPage int) ([]Gateway, int, error) {
	total, err := scalar[int](ctx, r.q, countGateways, account, search)
	if err != nil {
		return nil, 0, err
	}
	list, err := many[Gateway](ctx, r.q, listGateways, account, search, perPage, (page-1)*perPage)
	return list, total, err
}

// UpdateGateway replaces the settings, or returns ErrNotFound.
func (db *DB) UpdateGateway(ctx context.Context, account, id string, settings json.RawMessage) (Gateway, error) {
	return one[Gateway](ctx, db.pool, updateGateway, account, id, settings)
}

// DeleteGateway deletes a gateway with its keys, routes and logs, or returns ErrNotFound. The logs, which may be millions, go first: when that
// breaks off, the gateway is still there and can be deleted again. What came in between goes last.
func (db *DB) DeleteGateway(ctx context.Context, account, id string) (Gateway, error) {
	logs := GatewayLogQuery{Account: account, Gateway: id}
	if _, err := db.DeleteGatewayLogs(ctx, logs); err != nil {
		return Gateway{}, err
	}
	g, err := one[Gateway](ctx, db.pool, deleteGateway, account, id)
	if err != nil {
		return Gateway{}, err
	}
	_, err = db.DeleteGatewayLogs(ctx, logs)
	return g, err
}

// GatewayToken authenticates callers of an account's gateways. The token itself is not kept.
type GatewayToken struct {
	ID              uuid.UUID
	Account, Name   string
	Run, Read, Edit bool
	CreatedAt       time.Time
}

const tokenCols = `id, account, name, run, read, edit, created_at`

const (
	createGatewayToken = `-- name: CreateGatewayToken
insert into gateway_tokens (id, account, name, hash, run, read, edit) values ($1, $2, $3, $4, $5, $6, $7) returning ` + tokenCols
	gatewayTokenByHash = `-- name: GatewayTokenByHash
select ` + tokenCols + ` from gateway_tokens where hash = $1`
	listGatewayTokens = `-- name: ListGatewayTokens
select ` + tokenCols + ` from gateway_tokens where account = $1 order by id`
	deleteGatewayToken = `-- name: DeleteGatewayToken
delete from gateway_tokens where account = $1 and id = $2 returning ` + tokenCols
)

// CreateGatewayToken stores a token's SHA-256 and gives it an id.
func (db *DB) CreateGatewayToken(ctx context.Context, t GatewayToken, hash []byte) (GatewayToken, error) {
	id, err := uuid.NewV7()
	if err != nil {
		return GatewayToken{}, err
	}
	return one[GatewayToken](ctx, db.pool, createGatewayToken, id, t.Account, t.Name, hash, t.Run, t.Read, t.Edit)
}

// GatewayTokenByHash returns ErrNotFound when no token has that SHA-256.
func (r Reader) GatewayTokenByHash(ctx context.Context, hash []byte) (GatewayToken, error) {
	return one[GatewayToken](ctx, r.q, gatewayTokenByHash, hash)
}

// GatewayTokens lists an account's tokens, oldest first.
func (r Reader) GatewayTokens(ctx context.Context, account string) ([]GatewayToken, error) {
	return many[GatewayToken](ctx, r.q, listGatewayTokens, account)
}

// DeleteGatewayToken revokes a token, or returns ErrNotFound.
func (db *DB) DeleteGatewayToken(ctx context.Context, account string, id uuid.UUID) (GatewayToken, error) {
	return one[GatewayToken](ctx, db.pool, deleteGatewayToken, account, id)
}

// ProviderKey is a stored key of a provider. The server seals it; the store never sees it in the clear.
type ProviderKey struct {
	ID                         uuid.UUID
	Account, Gateway           string
	Provider, Alias            string
	Default                    bool `db:"is_default"`
	Sealed                     []byte
	Preview                    string // last characters
	RateLimit, RateLimitPeriod int    // requests in so many seconds; 0 is no limit
	CreatedAt, ModifiedAt      time.Time
}

const providerKeyCols = `id, account, gateway, provider, alias, is_default, sealed, preview, rate_limit, rate_limit_period, created_at, modified_at`

const (
	saveProviderKey = `-- name: SaveProviderKey
with ` + bumpGateway + `,
others as (update provider_keys k set is_default = false from g
    where $6 and k.is_default and k.account = g.account and k.gateway = g.id and k.provider = $4 and k.alias <> $5)
insert into provider_keys (id, account, gateway, provider, alias, is_default, sealed, preview, rate_limit, rate_limit_period)
select $3, g.account, g.id, $4, $5, $6, $7, $8, $9, $10 from g
on conflict (account, gateway, provider, alias) do update set is_default = excluded.is_default, sealed = excluded.sealed,
    preview = excluded.preview, rate_limit = excluded.rate_limit, rate_limit_period = excluded.rate_limit_period, modified_at = now()
returning ` + providerKeyCols
	listProviderKeys = `-- name: ListProviderKeys
select ` + providerKeyCols + ` from provider_keys where account = $1 and gateway = $2
order by provider, is_default desc, modified_at desc, alias`
	deleteProviderKey = `-- name: DeleteProviderKey
with ` + bumpGateway + `
delete from provider_keys k using g where k.account = g.account and k.gateway = g.id and k.id = $3 returning k.id`
)

// SaveProviderKey stores a key, in the place of one of the same provider and alias. A default one takes that from the provider's others.
// It returns ErrNotFound when there is no such gateway.
func (db *DB) SaveProviderKey(ctx context.Context, k ProviderKey) (ProviderKey, error) {
	id, err := uuid.NewV7()
	if err != nil {
		return ProviderKey{}, err
	}
	return one[ProviderKey](ctx, db.pool, saveProviderKey, k.Account, k.Gateway, id, k.Provider, k.Alias, k.Default, k.Sealed, k.Preview,
		k.RateLimit, k.RateLimitPeriod)
}

// ProviderKeys lists a gateway's keys by provider, the default ones first.
func (r Reader) ProviderKeys(ctx context.Context, account, gateway string) ([]ProviderKey, error) {
	return many[ProviderKey](ctx, r.q, listProviderKeys, account, gateway)
}

// DeleteProviderKey forgets a key, or returns ErrNotFound.
func (db *DB) DeleteProviderKey(ctx context.Context, account, gateway string, id uuid.UUID) error {
	_, err := scalar[uuid.UUID](ctx, db.pool, deleteProviderKey, account, gateway, id)
	return err
}
