package store

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

// GatewayLog is one request through a gateway.
type GatewayLog struct {
	ID               uuid.UUID // version 7
	Account, Gateway string
	CreatedAt        time.Time

	EventID, RequestID                                         string
	Provider, Model, ModelType                                 string
	Path, RequestType, RequestContentType, ResponseContentType string
	UserAgent                                                  string
	StatusCode                                                 int
	Success, Cached, Authenticated, Streamed, CustomCost       bool
	Duration                                                   time.Duration // kept in microseconds
	TokensIn, TokensOut                                        int64
	CostNanoUSD                                                *int64          // billionths of a US dollar; nil when unknown
	CustomCostRates                                            json.RawMessage // nil, or what the caller said
	Metadata                                                   json.RawMessage // nil, or a flat object
	Step                                                       int
	DLPAction                                                  string // "", FLAG, BLOCK or MASK
	Feedback                                                   *int   // 1 or -1
	Score                                                      *float64
	RequestSize, ResponseSize                                  int64

	// The bodies, nil when not kept. They are written and then only read by [Reader.GatewayLogBody].
	Request  []byte `db:"-"`
	Response []byte `db:"-"`
}

const (
	logStored = `id, account, gateway, created_at, event_id, request_id, provider, model, model_type, path, request_type, request_content_type,
    response_content_type, user_agent, status_code, success, cached, authenticated, streamed, custom_cost, duration_us, tokens_in, tokens_out,
    cost_nano_usd, custom_cost_rates, metadata, step, dlp_action, feedback, score, request_size, response_size`
	logCols = `id, account, gateway, created_at, event_id, request_id, provider, model, model_type, path, request_type, request_content_type,
    response_content_type, user_agent, status_code, success, cached, authenticated, streamed, custom_cost, duration_us * 1000 as duration,
    tokens_in, tokens_out, cost_nano_usd, custom_cost_rates, metadata, step, dlp_action, feedback, score, request_size, response_size`
)

const (
	insertGatewayLogs = `-- name: InsertGatewayLogs
with u as (select * from unnest($1::uuid[], $2::text[], $3::text[], $4::timestamptz[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[],
        $10::text[], $11::text[], $12::text[], $13::text[], $14::text[], $15::int[], $16::bool[], $17::bool[], $18::bool[], $19::bool[],
        $20::bool[], $21::bigint[], $22::bigint[], $23::bigint[], $24::bigint[], $25::text[], $26::text[], $27::int[], $28::text[],
        $29::smallint[], $30::float8[], $31::bigint[], $32::bigint[], $33::bytea[], $34::bytea[])
    as u(` + logStored + `, request, response)),
l as (insert into gateway_logs (` + logStored + `)
    select u.id, u.account, u.gateway, u.created_at, u.event_id, u.request_id, u.provider, u.model, u.model_type, u.path, u.request_type,
        u.request_content_type, u.response_content_type, u.user_agent, u.status_code, u.success, u.cached, u.authenticated, u.streamed,
        u.custom_cost, u.duration_us, u.tokens_in, u.tokens_out, u.cost_nano_usd, u.custom_cost_rates::jsonb, u.metadata::jsonb, u.step,
        u.dlp_action, u.feedback, u.score, u.request_size, u.response_size
    from u join gateways g on g.account = u.account and g.id = u.gateway
    on conflict (id) do nothing returning id) -- there already, from a try whose answer was lost
insert into gateway_log_bodies (log_id, request, response)
select u.id, u.request, u.response from u join l on l.id = u.id where u.request is not null or u.response is not null`

	gatewayLogByID = `-- name: GatewayLogByID
select ` + logCols + ` from gateway_logs where account = $1 and gateway = $2 and id = $3`
	gatewayLogBody = `-- name: GatewayLogBody
select case when $4::bool then b.response else b.request end as body,
    case when $4 then l.response_content_type else l.request_content_type end as content_type
from gateway_logs l join gateway_log_bodies b on b.log_id = l.id
where l.account = $1 and l.gateway = $2 and l.id = $3 and case when $4 then b.response else b.request end is not null`
	gatewayLogHeads = `-- name: GatewayLogHeads
select substring(b.request from 1 for $4) as request, substring(b.response from 1 for $4) as response
from gateway_logs l join gateway_log_bodies b on b.log_id = l.id where l.account = $1 and l.gateway = $2 and l.id = $3`
	patchGatewayLog = `-- name: PatchGatewayLog
update gateway_logs set feedback = case when $4::bool then $5::smallint else feedback end,
    score = case when $6::bool then $7::float8 else score end,
    metadata = case when $8::bool then $9::text::jsonb else metadata end
where account = $1 and gateway = $2 and id = $3 returning ` + logCols
	countGatewayLogs = `-- name: CountGatewayLogs
select count(*) from gateway_logs where account = $1 and gateway = $2`
)

// What one insert statement holds at most. A statement is one message, and Postgres' limit is a gigabyte.
const (
	logRows      = 2000
	logBodyBytes = 32 << 20
)

// InsertGatewayLogs writes requests with their bodies, in sets. One that is there already is left as it is, so a failed call may be made
// again. Requests of a gateway that has gone are dropped. Text that Postgres can't hold is mended: one caller's odd header must
// not cost the others their rows.
func (db *DB) InsertGatewayLogs(ctx context.Context, logs []GatewayLog) error {
	for len(logs) > 0 {
		n, size := 0, 0
		for n < len(logs) && n < logRows && (n == 0 || size+len(logs[n].Request)+len(logs[n].Response) <= logBodyBytes) {
			size += len(logs[n].Request) + len(logs[n].Response)
			n++
		}
		if _, err := db.pool.Exec(ctx, insertGatewayLogs, logColumns(logs[:n])...); err != nil {
			return translate(err)
		}
		logs = logs[n:]
	}
	return nil
}

func logColumns(in []GatewayLog) []any {
	n := len(in)
	id, account, gateway, created := make([]pgtype.UUID, n), make([]string, n), make([]string, n), make([]time.Time, n)
	event, request, provider, model := make([]string, n), make([]string, n), make([]string, n), make([]string, n)
	modelType, path, requestType, agent := make([]string, n), make([]string, n), make([]string, n), make([]string, n)
	asked, answered, status := make([]string, n), make([]string, n), make([]int32, n)
	success, cached, auth, streamed, custom := make([]bool, n), make([]bool, n), make([]bool, n), make([]bool, n), make([]bool, n)
	duration, in64, out64, cost := make([]int64, n), make([]int64, n), make([]int64, n), make([]*int64, n)
	rates, metadata, step, dlp := make([]*string, n), make([]*string, n), make([]int32, n), make([]string, n)
	feedback, score, requestSize, responseSize := make([]*int, n), make([]*float64, n), make([]int64, n), make([]int64, n)
	requestBody, responseBody := make([][]byte, n), make([][]byte, n)
	for i := range in {
		l := &in[i]
		id[i], account[i], gateway[i], created[i] = uuidOf(l.ID), mend(l.Account), mend(l.Gateway), l.CreatedAt
		event[i], request[i], provider[i], model[i] = mend(l.EventID), mend(l.RequestID), mend(l.Provider), mend(l.Model)
		modelType[i], path[i], requestType[i], agent[i] = mend(l.ModelType), mend(l.Path), mend(l.RequestType), mend(l.UserAgent)
		asked[i], answered[i], status[i] = mend(l.RequestContentType), mend(l.ResponseContentType), int32(l.StatusCode)
		success[i], cached[i], auth[i], streamed[i], custom[i] = l.Success, l.Cached, l.Authenticated, l.Streamed, l.CustomCost
		duration[i], in64[i], out64[i], cost[i] = l.Duration.Microseconds(), l.TokensIn, l.TokensOut, l.CostNanoUSD
		rates[i], metadata[i], step[i], dlp[i] = mendObject(l.CustomCostRates), mendObject(l.Metadata), int32(l.Step), mend(l.DLPAction)
		feedback[i], score[i], requestSize[i], responseSize[i] = l.Feedback, l.Score, l.RequestSize, l.ResponseSize
		requestBody[i], responseBody[i] = l.Request, l.Response
	}
	return []any{id, account, gateway, created, event, request, provider, model, modelType, path, requestType, asked, answered, agent, status,
		success, cached, auth, streamed, custom, duration, in64, out64, cost, rates, metadata, step, dlp, feedback, score, requestSize, responseSize,
		pgtype.FlatArray[[]byte](requestBody), pgtype.FlatArray[[]byte](responseBody)} // pgx would take a plain slice of them through reflection
}

// mend makes text of what came over the wire: Postgres takes neither NUL nor broken UTF-8.
func mend(s string) string {
	if utf8.ValidString(s) && strings.IndexByte(s, 0) < 0 {
		return s
	}
	return strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "")
}

// mendObject makes jsonb of an object, or returns nil. Type jsonb refuses what JSON allows: NUL, lone surrogates, and numbers out of all
// bounds, which become text.
func mendObject(raw json.RawMessage) *string {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	var v map[string]any
	if len(raw) == 0 || d.Decode(&v) != nil || v == nil {
		return nil
	}
	b, err := json.Marshal(mendValue(v))
	if err != nil {
		return nil
	}
	s := string(b)
	return &s
}

func mendValue(v any) any {
	switch v := v.(type) {
	case string:
		return mend(v)
	case json.Number:
		if _, err := strconv.ParseFloat(string(v), 64); err != nil {
			return string(v)
		}
	case []any:
		for i := range v {
			v[i] = mendValue(v[i])
		}
	case map[string]any:
		mended := make(map[string]any, len(v))
		for k, e := range v {
			mended[mend(k)] = mendValue(e)
		}
		return mended
	}
	return v
}

// GatewayLog returns one request without its bodies, or ErrNotFound.
func (r Reader) GatewayLog(ctx context.Context, account, gateway string, id uuid.UUID) (GatewayLog, error) {
	return one[GatewayLog](ctx, r.q, gatewayLogByID, account, gateway, id)
}

// GatewayLogBody returns what was asked or answered, and its media type. It returns ErrNotFound when there is no such request, or its
// body wasn't kept.
func (r Reader) GatewayLogBody(ctx context.Context, account, gateway string, id uuid.UUID, response bool) ([]byte, string, error) {
	type row struct {
		Body        []byte
		ContentType string
	}
	b, err := one[row](ctx, r.q, gatewayLogBody, account, gateway, id, response)
	return b.Body, b.ContentType, err
}

// GatewayLogHeads returns the first n bytes of the bodies of a request, nil where they weren't kept.
func (r Reader) GatewayLogHeads(ctx context.Context, account, gateway string, id uuid.UUID, n int) (request, response []byte, err error) {
	type row struct{ Request, Response []byte }
	h, err := one[row](ctx, r.q, gatewayLogHeads, account, gateway, id, n)
	if errors.Is(err, ErrNotFound) {
		err = nil
	}
	return h.Request, h.Response, err
}

// GatewayLogPatch changes the fields whose Set is true. A nil value clears its field.
type GatewayLogPatch struct {
	SetFeedback bool
	Feedback    *int // 1 or -1
	SetScore    bool
	Score       *float64
	SetMetadata bool
	Metadata    json.RawMessage
}

// PatchGatewayLog returns ErrNotFound when there is no such request.
func (db *DB) PatchGatewayLog(ctx context.Context, account, gateway string, id uuid.UUID, p GatewayLogPatch) (GatewayLog, error) {
	return one[GatewayLog](ctx, db.pool, patchGatewayLog, account, gateway, id, p.SetFeedback, p.Feedback, p.SetScore, p.Score,
		p.SetMetadata, mendObject(p.Metadata))
}

// CountGatewayLogs counts a gateway's requests. It reads an index over all of them: ask once a minute, not once a request.
func (r Reader) CountGatewayLogs(ctx context.Context, account, gateway string) (int64, error) {
	return scalar[int64](ctx, r.q, countGatewayLogs, account, gateway)
}

// TrimGatewayLogs deletes the oldest requests beyond the newest keep, and returns how many.
func (db *DB) TrimGatewayLogs(ctx context.Context, account, gateway string, keep int64) (int64, error) {
	n, err := db.CountGatewayLogs(ctx, account, gateway)
	if err != nil || n <= keep {
		return 0, err
	}
	return db.DeleteGatewayLogs(ctx, GatewayLogQuery{Account: account, Gateway: gateway, Limit: n - keep})
}

// GatewayLogTotals sums up what a query matches. The pointers are nil when nothing matches, those of the cost also when none is known.
type GatewayLogTotals struct {
	Count                          int64
	MinCost, MaxCost               *int64 // billionths of a US dollar
	MinDuration, MaxDuration       *int64 // microseconds
	MinTokensIn, MaxTokensIn       *int64
	MinTokensOut, MaxTokensOut     *int64
	MinTotalTokens, MaxTotalTokens *int64
}

// GatewayLogPage is a page of requests without their bodies, and the totals of all pages.
type GatewayLogPage struct {
	Logs   []GatewayLog
	Totals GatewayLogTotals
}

// The three that follow are completed by a query's conditions and order. Their parameters begin after these two.
const (
	listGatewayLogs = `-- name: ListGatewayLogs
select ` + logCols + ` from gateway_logs where account = $1 and gateway = $2`
	totalGatewayLogs = `-- name: TotalGatewayLogs
select count(*) as count, min(cost_nano_usd) as min_cost, max(cost_nano_usd) as max_cost, min(duration_us) as min_duration,
    max(duration_us) as max_duration, min(tokens_in) as min_tokens_in, max(tokens_in) as max_tokens_in, min(tokens_out) as min_tokens_out,
    max(tokens_out) as max_tokens_out, min(tokens_in + tokens_out) as min_total_tokens, max(tokens_in + tokens_out) as max_total_tokens
from gateway_logs where account = $1 and gateway = $2`
	pickGatewayLogs = `-- name: PickGatewayLogs
select id from gateway_logs where account = $1 and gateway = $2`
	deletePickedGatewayLogs = `-- name: DeletePickedGatewayLogs
with b as (delete from gateway_log_bodies b using unnest($1::uuid[]) as u(id) where b.log_id = u.id)
delete from gateway_logs l using unnest($1::uuid[]) as u(id) where l.id = u.id returning l.id`
)

// GatewayLogs returns one page. Pages are numbered, as Cloudflare's are, so a late page reads all the ones before it.
func (r Reader) GatewayLogs(ctx context.Context, q GatewayLogQuery) (GatewayLogPage, error) {
	where, args := q.where()
	totals, err := one[GatewayLogTotals](ctx, r.q, totalGatewayLogs+where, args...)
	if err != nil {
		return GatewayLogPage{}, err
	}
	tail, args := q.page(args)
	logs, err := many[GatewayLog](ctx, r.q, listGatewayLogs+where+tail, args...)
	return GatewayLogPage{Logs: logs, Totals: totals}, err
}

// DeleteGatewayLogs deletes what a query matches, in its order and up to its Limit, and returns how many. It goes a few thousand at a
// time, so that nobody waits for its locks; Page and PerPage don't count.
func (db *DB) DeleteGatewayLogs(ctx context.Context, q GatewayLogQuery) (int64, error) {
	where, args := q.where()
	left, deleted := q.Limit, int64(0)
	for {
		q.Page, q.PerPage = 1, 5000
		if q.Limit > 0 {
			q.PerPage = int(min(left, 5000))
		}
		tail, args := q.page(args)
		rows, _ := db.pool.Query(ctx, pickGatewayLogs+where+tail, args...)
		ids, err := pgx.CollectRows(rows, pgx.RowTo[pgtype.UUID])
		if err != nil || len(ids) == 0 {
			return deleted, translate(err)
		}
		tag, err := db.pool.Exec(ctx, deletePickedGatewayLogs, ids)
		if err != nil {
			return deleted, translate(err)
		}
		deleted += tag.RowsAffected()
		left -= int64(len(ids))
		if len(ids) < q.PerPage || q.Limit > 0 && left <= 0 {
			return deleted, nil
		}
	}
}
