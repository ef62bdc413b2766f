package store

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// The events that a webhook may be told of.
const (
	EventCompleted = "batch.completed"
	EventFailed    = "batch.failed"
	EventCancelled = "batch.cancelled"
	EventExpired   = "batch.expired"
	EventPaused    = "batch.paused"
	EventResumed   = "batch.resumed"
	EventStalled   = "batch.stalled"
	EventTest      = "webhook.test" // sent on request, whatever the webhook's events

	eventState = "" // named after the state that the batch is in: paused or a final one; nobody is told of others
)

// The jobs of an open batch are counted only when somebody wants to know; those of a finished one are frozen in its row.
const enqueueEvents = `-- name: EnqueueEvents
with b as materialized (
    select b.id, b.project_id, b.name, b.state, b.metadata, b.total_jobs, b.pause_reason, coalesce(nullif($2::text, ''), 'batch.' || b.state) as type,
        coalesce(b.succeeded_jobs, j.succeeded) as succeeded, coalesce(b.failed_jobs, j.failed) as failed,
        coalesce(b.cancelled_jobs, j.cancelled) as cancelled, coalesce(b.calls, c.calls) as calls, coalesce(b.unpriced_calls, c.unpriced) as unpriced,
        coalesce(b.cost_microusd, c.cost) as cost
    from batches b
    cross join lateral (select count(*) filter (where state = 'succeeded') as succeeded, count(*) filter (where state = 'failed') as failed,
        count(*) filter (where state = 'cancelled') as cancelled from jobs where batch_id = b.id and b.finished_at is null) j
    cross join lateral (select count(*) as calls, count(*) filter (where state = 'settled' and cost_microusd is null) as unpriced,
        coalesce(sum(cost_microusd), 0)::bigint as cost from calls where batch_id = b.id and b.finished_at is null) c
    where b.id = any($1::uuid[]) and exists (select 1 from webhooks w where w.project_id = b.project_id and w.enabled
        and coalesce(nullif($2::text, ''), 'batch.' || b.state) = any(w.events)))
insert into outbox (id, webhook_id, batch_id, type, payload)
select 'msg_' || replace(gen_random_uuid()::text, '-', ''), w.id, b.id, b.type, json_build_object(
    'type', b.type, 'timestamp', to_char(clock_timestamp() at time zone 'utc', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'),
    'data', json_build_object('batch_id', b.id, 'name', b.name, 'state', b.state, 'pause_reason', b.pause_reason,
        'counts', json_build_object('total', b.total_jobs, 'succeeded', b.succeeded, 'failed', b.failed, 'cancelled', b.cancelled),
        'calls', b.calls, 'cost_microusd', case when b.calls = 0 or b.unpriced < b.calls then b.cost end, 'metadata', b.metadata))
from b join webhooks w on w.project_id = b.project_id and w.enabled and b.type = any(w.events)
order by b.id, w.id`

// sendEvents writes an event for batches to the outbox, within the transaction of the transition that it tells of and after it: either both
// happen or neither.
func sendEvents(ctx context.Context, tx pgx.Tx, event string, batches ...uuid.UUID) error {
	_, err := tx.Exec(ctx, enqueueEvents, batches, event)
	return err
}

// Outgoing is a message that this process is to send now.
type Outgoing struct {
	Seq           int64
	ID            string // msg_...
	WebhookID     uuid.UUID
	Type          string
	Payload       json.RawMessage
	Attempts      int32 // this one included
	LeaseUntil    time.Time
	URL           string
	SecretVersion int32
	Rotated       bool      // so lately that the secret before signs as well
	Now           time.Time // by the database's clock, which workers share
}

const (
	// What another worker has claimed meanwhile is passed over, or, once its claim is committed, found not to be due any more.
	claimDeliveries = `-- name: ClaimDeliveries
with due as (select seq, next_attempt_at, row_number() over (partition by webhook_id order by next_attempt_at) as n
    from (select seq, webhook_id, next_attempt_at from outbox
        where state = 'pending' and next_attempt_at <= now() and webhook_id <> all($4::uuid[]) order by next_attempt_at limit 1000) o),
c as (select seq from outbox where seq in (select seq from due where n <= $3 order by next_attempt_at limit $2)
    and state = 'pending' and next_attempt_at <= now() for update skip locked)
update outbox o set next_attempt_at = now() + $1::interval, attempts = o.attempts + 1
from c, webhooks w where o.seq = c.seq and w.id = o.webhook_id and w.enabled
returning o.seq, o.id, o.webhook_id, o.type, o.payload, o.attempts, o.next_attempt_at as lease_until, w.url, w.secret_version,
    coalesce(w.rotated_at > now() - interval '1 day', false) as rotated, now() as now`
	endDelivery = `-- name: EndDelivery
with d as (update outbox set state = $3, last_status = nullif($4::int, 0), last_error = nullif($5, ''), attempted_at = now(),
        delivered_at = case when $3 = 'delivered' then now() else delivered_at end, next_attempt_at = now() + $6::interval
    where seq = $1 and state = 'pending' and next_attempt_at = $2 returning webhook_id),
v as (select w.id, w.enabled as was, $7 or $3 <> 'delivered' and coalesce(w.failing_since < now() - $8::interval, false) as ends
    from webhooks w where w.id = (select webhook_id from d))
update webhooks w set failing_since = case when $3 <> 'delivered' then coalesce(w.failing_since, now()) end, enabled = w.enabled and not v.ends,
    disabled_reason = case when v.ends then coalesce(w.disabled_reason, case when $7 then 'gone' else 'failing' end) else w.disabled_reason end
from v where w.id = v.id and (v.ends or ($3 = 'delivered') = (w.failing_since is not null))
returning case when v.ends and v.was then w.disabled_reason else '' end`
	closeDeliveries = `-- name: CloseDeliveries
update outbox set state = 'failed', last_error = 'the endpoint is disabled'
where seq in (select o.seq from outbox o where o.state = 'pending'
    and not exists (select 1 from webhooks w where w.id = o.webhook_id and w.enabled) for update skip locked)`
	trimOutbox = `-- name: TrimOutbox
delete from outbox where state <> 'pending' and created_at < now() - interval '30 days'`
	deliveryDue = `-- name: DeliveryDue
select exists (select 1 from outbox where state = 'pending' and next_attempt_at <= now())`
)

// ClaimDeliveries leaves due messages to the caller until the lease ends: most of them, and at most each of an endpoint. Endpoints that are
// busy are left out. A message whose claimer dies is due again after the lease, under the same id.
func (db *DB) ClaimDeliveries(ctx context.Context, lease time.Duration, most, each int, busy []uuid.UUID) ([]Outgoing, error) {
	if busy == nil {
		busy = []uuid.UUID{} // null would compare as unknown, and leave out all
	}
	return many[Outgoing](ctx, db.pool, claimDeliveries, interval(lease), most, each, busy)
}

// DeliveryResult is how an attempt ended.
type DeliveryResult struct {
	State   string        // delivered; pending, to be tried again; failed, for good
	Status  int           // of the answer; 0 when none came
	Error   string        // in words for people; empty for a delivered one
	RetryIn time.Duration // of a pending one
	Gone    bool          // the endpoint wants nothing any more: it is disabled
}

// failingLimit is how long an endpoint may fail, without one delivery, until it is disabled.
const failingLimit = 5 * 24 * time.Hour

// EndDelivery records an attempt. When the endpoint thereby was disabled, it says why: gone or failing. An attempt whose lease ran out or
// whose message was asked for again meanwhile leaves everything as it is.
func (db *DB) EndDelivery(ctx context.Context, d Outgoing, r DeliveryResult) (disabled string, err error) {
	disabled, err = scalar[string](ctx, db.pool, endDelivery, d.Seq, d.LeaseUntil, r.State, r.Status, r.Error, interval(r.RetryIn), r.Gone, interval(failingLimit))
	if errors.Is(err, ErrNotFound) {
		return "", nil
	}
	return disabled, err
}

// CloseDeliveries gives up what waits for endpoints that are disabled or gone.
func (db *DB) CloseDeliveries(ctx context.Context) error {
	_, err := db.pool.Exec(ctx, closeDeliveries)
	return translate(err)
}

// TrimOutbox removes messages of more than 30 days ago that are delivered or failed. Run it hourly: it reads the whole table, which holds a
// few rows a batch.
func (db *DB) TrimOutbox(ctx context.Context) (int64, error) {
	tag, err := db.pool.Exec(ctx, trimOutbox)
	return tag.RowsAffected(), translate(err)
}

// DeliveryDue reports whether a message waits to be sent now.
func (r Reader) DeliveryDue(ctx context.Context) (bool, error) {
	return scalar[bool](ctx, r.q, deliveryDue)
}
