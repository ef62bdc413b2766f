package store

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/google/uuid"
)

// Webhook is an endpoint that is told of a project's batches.
type Webhook struct {
	ID             uuid.UUID
	ProjectID      uuid.UUID
	URL            string
	Events         []string
	Description    string
	Enabled        bool
	DisabledReason *string // requested, gone or failing; null while it is enabled
	SecretVersion  int32
	RotatedAt      *time.Time
	FailingSince   *time.Time
	CreatedAt      time.Time
	UpdatedAt      time.Time
}

// Delivery is a message to a webhook and what became of it.
type Delivery struct {
	Seq           int64
	ID            string
	WebhookID     uuid.UUID
	BatchID       *uuid.UUID
	Type          string
	Payload       json.RawMessage
	State         string // pending, delivered or failed
	Attempts      int32
	NextAttemptAt time.Time
	LastStatus    *int32
	LastError     *string
	CreatedAt     time.Time
	AttemptedAt   *time.Time
	DeliveredAt   *time.Time
}

const (
	webhookCols = `id, project_id, url, events, description, enabled, disabled_reason, secret_version, rotated_at, failing_since, created_at, updated_at`

	deliveryCols = `o.seq, o.id, o.webhook_id, o.batch_id, o.type, o.payload, o.state, o.attempts, o.next_attempt_at, o.last_status, o.last_error,
    o.created_at, o.attempted_at, o.delivered_at`

	getWebhook = `-- name: GetWebhook
select ` + webhookCols + ` from webhooks where project_id = $1 and id = $2`
	listWebhooks = `-- name: ListWebhooks
select ` + webhookCols + ` from webhooks where project_id = $1 and ($2::uuid is null or id < $2) order by id desc limit $3`
	listDeliveries = `-- name: ListDeliveries
select ` + deliveryCols + ` from outbox o where o.webhook_id = (select id from webhooks where project_id = $1 and id = $2)
    and ($3 = '' or o.state = $3) and ($4::bigint = 0 or o.seq < $4) order by o.seq desc limit $5`
)

// Webhook returns a project's webhook or ErrNotFound.
func (r Reader) Webhook(ctx context.Context, project, id uuid.UUID) (Webhook, error) {
	return one[Webhook](ctx, r.q, getWebhook, project, id)
}

// Webhooks pages through a project's webhooks, newest first, below before when it is given.
func (r Reader) Webhooks(ctx context.Context, project uuid.UUID, before *uuid.UUID, limit int) ([]Webhook, error) {
	return many[Webhook](ctx, r.q, listWebhooks, project, before, limit)
}

// Deliveries pages through what a webhook was sent or is to be sent, newest first, below before unless it is 0. An empty state matches all.
func (r Reader) Deliveries(ctx context.Context, project, webhook uuid.UUID, state string, before int64, limit int) ([]Delivery, error) {
	return many[Delivery](ctx, r.q, listDeliveries, project, webhook, state, before, limit)
}

// MaxWebhooks is how many a project may have: each of its events is written once for each of them.
const MaxWebhooks = 50

const (
	createWebhook = `-- name: CreateWebhook
insert into webhooks (id, project_id, url, events, description)
select $1, $2, $3, $4, $5 where (select count(*) from webhooks where project_id = $2) < $6
returning ` + webhookCols
	updateWebhook = `-- name: UpdateWebhook
update webhooks set url = coalesce($3, url), events = coalesce($4, events), description = coalesce($5, description), enabled = coalesce($6, enabled),
    disabled_reason = case when coalesce($6, enabled) then null else coalesce(disabled_reason, 'requested') end,
    failing_since = case when $3 is null and $6 is not true then failing_since end, updated_at = now()
where project_id = $1 and id = $2 returning ` + webhookCols
	rotateWebhook = `-- name: RotateWebhook
update webhooks set secret_version = secret_version + 1, rotated_at = now(), updated_at = now()
where project_id = $1 and id = $2 returning ` + webhookCols
	deleteWebhook = `-- name: DeleteWebhook
with w as (delete from webhooks where project_id = $1 and id = $2 returning id),
o as (delete from outbox where webhook_id in (select id from w))
select id from w`
	testWebhook = `-- name: TestWebhook
insert into outbox as o (id, webhook_id, type, payload)
select 'msg_' || replace(gen_random_uuid()::text, '-', ''), id, '` + EventTest + `', json_build_object('type', '` + EventTest + `',
    'timestamp', to_char(now() at time zone 'utc', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'), 'data', json_build_object('webhook_id', id))
from webhooks where project_id = $1 and id = $2 and enabled returning ` + deliveryCols
	redeliver = `-- name: Redeliver
update outbox o set state = 'pending', attempts = 0, next_attempt_at = now()
from webhooks w where w.project_id = $1 and w.id = $2 and w.enabled and o.webhook_id = w.id and o.id = $3 returning ` + deliveryCols
)

// CreateWebhook makes one; ErrConflict when the project has MaxWebhooks. Two requests at once may go one over.
func (db *DB) CreateWebhook(ctx context.Context, w Webhook) (Webhook, error) {
	made, err := one[Webhook](ctx, db.pool, createWebhook, w.ID, w.ProjectID, w.URL, w.Events, w.Description, MaxWebhooks)
	if errors.Is(err, ErrNotFound) {
		err = ErrConflict
	}
	return made, err
}

// WebhookChange is what of a webhook is to change; nil leaves as it is.
type WebhookChange struct {
	URL         *string
	Events      []string
	Description *string
	Enabled     *bool
}

// UpdateWebhook changes a webhook or returns ErrNotFound. Disabling it gives up what waits to be sent; enabling it, or another URL, begins
// its record anew.
func (db *DB) UpdateWebhook(ctx context.Context, project, id uuid.UUID, c WebhookChange) (Webhook, error) {
	w, err := one[Webhook](ctx, db.pool, updateWebhook, project, id, c.URL, c.Events, c.Description, c.Enabled)
	if err == nil && !w.Enabled {
		err = db.CloseDeliveries(ctx)
	}
	return w, err
}

// RotateWebhook gives a webhook its next secret, or returns ErrNotFound.
func (db *DB) RotateWebhook(ctx context.Context, project, id uuid.UUID) (Webhook, error) {
	return one[Webhook](ctx, db.pool, rotateWebhook, project, id)
}

// DeleteWebhook removes a webhook and its deliveries, or returns ErrNotFound.
func (db *DB) DeleteWebhook(ctx context.Context, project, id uuid.UUID) error {
	_, err := scalar[uuid.UUID](ctx, db.pool, deleteWebhook, project, id)
	return err
}

// TestWebhook writes a message of type EventTest to the outbox. ErrNotFound when the project has no such webhook, or it is disabled.
func (db *DB) TestWebhook(ctx context.Context, project, id uuid.UUID) (Delivery, error) {
	return one[Delivery](ctx, db.pool, testWebhook, project, id)
}

// Redeliver makes a message due now, under its old id and from the start of the schedule, whatever became of it before. ErrNotFound when the
// project has no such message, or its webhook is disabled.
func (db *DB) Redeliver(ctx context.Context, project, webhook uuid.UUID, delivery string) (Delivery, error) {
	return one[Delivery](ctx, db.pool, redeliver, project, webhook, delivery)
}
