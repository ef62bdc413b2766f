package store

import (
	"context"
	"iter"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

const (
	jobCounts = `select count(*) as planned_rows,
    count(*) filter (where state = 'planned') as planned, count(*) filter (where state = 'running') as running,
    count(*) filter (where state = 'waiting') as waiting, count(*) filter (where state = 'succeeded') as succeeded,
    count(*) filter (where state = 'failed') as failed, count(*) filter (where state = 'cancelled') as cancelled,
    count(*) filter (where cache_status = 'result_hit') as result_hits, count(*) filter (where cache_status = 'coalesced') as coalesced,
    count(*) filter (where cache_status = 'gateway_hit') as gateway_hits, count(*) filter (where cache_status = 'miss') as misses,
    count(*) filter (where cache_status = 'bypass') as bypassed
from jobs where batch_id = $1`
	callCounts = `select count(*) as calls, count(*) filter (where state = 'uncertain') as uncertain_calls,
    count(*) filter (where state = 'settled' and cost_microusd is null) as unpriced_calls,
    coalesce(sum(input_tokens), 0)::bigint as input_tokens, coalesce(sum(cached_input_tokens), 0)::bigint as cached_input_tokens,
    coalesce(sum(output_tokens), 0)::bigint as output_tokens, coalesce(sum(cost_microusd), 0)::bigint as cost_microusd
from calls where batch_id = $1`
	liveStats = `-- name: LiveStats
with j as (` + jobCounts + `), c as (` + callCounts + `)
select case when b.state in ('cancelling', 'cancelled', 'expired') then 0 else b.total_jobs - j.planned_rows end as pending,
    j.planned, j.running, j.waiting, j.succeeded, j.failed,
    case when b.state in ('cancelling', 'cancelled', 'expired') then b.total_jobs - j.planned_rows + j.cancelled else j.cancelled end as cancelled,
    j.result_hits, j.coalesced, j.gateway_hits, j.misses, j.bypassed, c.*
from batches b, j, c where b.id = $1`
	frozenStats = `-- name: FrozenStats
select 0::bigint as pending, 0::bigint as planned, 0::bigint as running, 0::bigint as waiting, succeeded_jobs as succeeded,
    failed_jobs as failed, cancelled_jobs as cancelled, result_hits, coalesced, gateway_hits, misses, bypassed,
    calls, uncertain_calls, unpriced_calls, input_tokens, cached_input_tokens, output_tokens, cost_microusd
from batches where id = $1 and finished_at is not null`
)

// BatchStats counts a batch's jobs by state and by cache verdict, and its calls, tokens and money from the ledger.
type BatchStats struct {
	Pending, Planned, Running, Waiting, Succeeded, Failed, Cancelled int64
	ResultHits, Coalesced, GatewayHits, Misses, Bypassed             int64
	Calls, UncertainCalls, UnpricedCalls                             int64
	InputTokens, CachedInputTokens, OutputTokens/* input includes cached */ int64
	CostMicrousd int64
}

// BatchStats reads the frozen counts of a finished batch and derives those of an open one from its rows.
func (r Reader) BatchStats(ctx context.Context, b Batch) (BatchStats, error) {
	if b.FinishedAt != nil {
		return one[BatchStats](ctx, r.q, frozenStats, b.ID)
	}
	return one[BatchStats](ctx, r.q, liveStats, b.ID)
}

// Job is one job as people see it. A job that isn't planned yet is pending.
type Job struct {
	BatchID           uuid.UUID
	Seq               int32
	CustomID          *string
	State             string
	CacheStatus       *string
	ErrorClass        *string
	ErrorMessage      *string
	Attempts          int32
	Provider          *string
	Model             *string
	Calls             int64
	InputTokens       int64
	CachedInputTokens int64
	OutputTokens      int64
	CostMicrousd      *int64
	DueAt             *time.Time
	FinishedAt        *time.Time
	LeaderBatch       *uuid.UUID // nil when the leader is of the same batch
	LeaderSeq         *int32
	Repaired          *string // fences, syntax or asked
}

const jobCols = `i.batch_id, i.seq, i.custom_id,
coalesce(j.state, case when b.state in ('cancelling', 'cancelled', 'expired') then 'cancelled' else 'pending' end) as state, j.cache_status, j.error_class,
j.error_message, coalesce(j.attempts, 0) as attempts, j.provider, j.model, coalesce(j.calls, 0)::bigint as calls,
coalesce(j.input_tokens, 0) as input_tokens, coalesce(j.cached_input_tokens, 0) as cached_input_tokens,
coalesce(j.output_tokens, 0) as output_tokens, case when j.seq is null then 0 else j.cost_microusd end as cost_microusd,
j.due_at, j.finished_at, j.leader_batch, j.leader_seq, j.repaired`

const jobFrom = ` from batches b join inputs i on i.batch_id = b.id left join jobs j on j.batch_id = i.batch_id and j.seq = i.seq `

const (
	listJobs = `-- name: ListJobs
select ` + jobCols + jobFrom + `where b.id = $1 and i.seq > $3
    and ($2 = '' or coalesce(j.state, case when b.state in ('cancelling', 'cancelled', 'expired') then 'cancelled' else 'pending' end) = $2)
order by i.seq limit $4`
	getJob = `-- name: GetJob
select ` + jobCols + jobFrom + `where b.id = $2 and b.project_id = $1 and i.seq = $3`
	listCalls = `-- name: ListCalls
select batch_id, seq, ticket_id, number, state, step, provider, model, error_class, finish_reason, gateway_cache_status, gateway_log_id,
    http_status, input_tokens, cached_input_tokens, cache_write_tokens, output_tokens, cost_microusd, reserved_microusd, started_at,
    latency_ms::bigint as latency_ms, purpose, stage
from calls where batch_id = $1 and seq = $2 order by ticket_id, number`
	streamResults = `-- name: StreamResults
select ` + jobCols + `, c.output, coalesce(c.format, 'text') as output_format, ` + details + ` as details` + jobFrom + `
left join completions c on c.project_id = b.project_id and c.key = j.result_key and c.generation = j.result_generation
where b.id = $1 and i.seq > $3
    and ($2 = '' or coalesce(j.state, case when b.state in ('cancelling', 'cancelled', 'expired') then 'cancelled' else 'pending' end) = $2)
order by i.seq`
)

// details are those of an answer c as the job j has it: whose answer was found in the cache made none of its calls.
const details = `case when c.details is null or j.cache_status not in ('result_hit', 'coalesced') then c.details else (c.details::jsonb ||
    jsonb_build_object('coverage', c.details::jsonb->'coverage' || jsonb_build_object('calls_made', 0, 'calls_reused', c.details->'coverage'->'calls')))::json end`

const (
	getDetails = `-- name: GetDetails
select ` + details + ` as details from jobs j join batches b on b.id = j.batch_id
join completions c on c.project_id = b.project_id and c.key = j.result_key and c.generation = j.result_generation
where j.batch_id = $1 and j.seq = $2`
	getSource = `-- name: GetSource
select i.input, d.content_type, d.body, t.body as text from batches b join inputs i on i.batch_id = b.id
join documents d on d.project_id = b.project_id and d.sha256 = i.document_sha256
left join texts t on t.project_id = d.project_id and t.document_sha256 = d.sha256 and t.format = i.input->>'format'
where b.project_id = $1 and b.id = $2 and i.seq = $3 order by t.version desc nulls last limit 1`
)

// Details returns what else there is to say of a job's answer, as JSON; nil for nothing. ErrNotFound: it has no answer.
func (r Reader) Details(ctx context.Context, batch uuid.UUID, seq int32) ([]byte, error) {
	return scalar[[]byte](ctx, r.q, getDetails, batch, seq)
}

// Source is the document of a job.
type Source struct {
	Input []byte
	Text  *string // where it was stored apart
	DocumentBody
}

// Source returns the document of a job of a project, or ErrNotFound when there is no such job, or it has no document.
func (r Reader) Source(ctx context.Context, project, batch uuid.UUID, seq int32) (Source, error) {
	return one[Source](ctx, r.q, getSource, project, batch, seq)
}

// Jobs pages through a batch in input order. An empty state matches all.
func (r Reader) Jobs(ctx context.Context, batch uuid.UUID, state string, afterSeq int32, limit int) ([]Job, error) {
	return many[Job](ctx, r.q, listJobs, batch, state, afterSeq, limit)
}

// Job returns one job of a project's batch, or ErrNotFound.
func (r Reader) Job(ctx context.Context, project, batch uuid.UUID, seq int32) (Job, error) {
	return one[Job](ctx, r.q, getJob, project, batch, seq)
}

// Call is one row of the ledger.
type Call struct {
	BatchID            uuid.UUID
	Seq                int32
	TicketID           int64
	Number             int32
	State              string
	Step               int32
	Provider           string
	Model              string
	ErrorClass         *string
	FinishReason       *string
	GatewayCacheStatus *string
	GatewayLogID       *string
	HTTPStatus         *int32
	InputTokens        *int64
	CachedInputTokens  *int64
	CacheWriteTokens   *int64
	OutputTokens       *int64
	CostMicrousd       *int64
	ReservedMicrousd   int64
	StartedAt          time.Time
	LatencyMS          *int64
	Purpose            *string // longer or repair; nil for a job's first question
	Stage              *string // of a pipeline; else nil
}

// Calls lists a job's calls in the order in which they were made.
func (r Reader) Calls(ctx context.Context, batch uuid.UUID, seq int32) ([]Call, error) {
	return many[Call](ctx, r.q, listCalls, batch, seq)
}

// Result is a job with its answer.
type Result struct {
	Job
	Output       *string
	OutputFormat string // text or json
	Details      []byte // JSON; nil for none
}

// Results streams a batch's jobs with their answers in input order, from after afterSeq on. An empty state matches all.
func (r Reader) Results(ctx context.Context, batch uuid.UUID, state string, afterSeq int32) iter.Seq2[Result, error] {
	return stream[Result](ctx, r.q, streamResults, batch, state, afterSeq)
}

// Text runs one statement of the caller's and returns every value as text, for showing reports to people.
func (r Reader) Text(ctx context.Context, sql string, args ...any) (columns []string, rows [][]string, err error) {
	res, err := r.q.Query(ctx, sql, append([]any{pgx.QueryExecModeSimpleProtocol}, args...)...)
	if err != nil {
		return nil, nil, err
	}
	defer res.Close()
	for _, f := range res.FieldDescriptions() {
		columns = append(columns, f.Name)
	}
	for res.Next() {
		row := make([]string, len(columns))
		for i, v := range res.RawValues() {
			row[i] = string(v)
		}
		rows = append(rows, row)
	}
	return columns, rows, res.Err()
}
