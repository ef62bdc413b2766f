package store

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

// CallID names a row of the ledger.
type CallID struct {
	BatchID  uuid.UUID
	Seq      int32
	TicketID int64
	Number   int32
}

// Intent is a call that is about to be made.
type Intent struct {
	CallID
	Step             int32
	Provider         string
	Model            string
	ReservedMicrousd int64
	Purpose          string // longer or repair; empty for a job's first question
	Stage            string // of a pipeline; else empty
}

// Draw says on which slices of budgets the intents of a batch draw, and what their worker knew when it reserved in them.
type Draw struct {
	BatchID   uuid.UUID
	ProjectID uuid.UUID
	Epoch     int64   // of the project's budgets
	Slices    []int64 // one of each budget that applies to the batch; none when none does
}

const (
	// What is written about calls must not meet the making of a budget, which counts them, nor the end of their ticket, which gives up those
	// without an outcome. The lock is a statement of its own: those behind it see what was committed while it waited.
	shareLedger = `-- name: ShareLedger
select pg_advisory_xact_lock_shared(k) from (select hashtextextended(project_id::text, 0) as k from batches where id = any($1::uuid[])
    union select -id from unnest($2::bigint[]) as t(id) order by k) l`
	// A batch whose worker doesn't know all budgets, or has lost a slice, comes back with number 0. What its slices reserve grows by what was not
	// there before. Nothing comes back when all is written: to say so of each row would cost as much as to write it. A number -1 says that
	// not all was.
	intentRows = `
with k as materialized (select id from budget_slices where id = any($13::bigint[]) and starts_at <= now() and ends_at > now() order by id for key share),
d as materialized (select d.batch_id, p.budget_epoch = d.epoch and not exists (select 1 from unnest($12::uuid[], $13::bigint[]) as s(batch_id, id)
            where s.batch_id = d.batch_id and s.id not in (select id from k)) as good
    from unnest($9::uuid[], $10::uuid[], $11::bigint[]) as d(batch_id, project_id, epoch) join projects p on p.id = d.project_id),
i as (insert into calls (batch_id, seq, ticket_id, number, step, provider, model, reserved_microusd, purpose, stage)
    select u.batch_id, u.seq, u.ticket_id, u.number, u.step, u.provider, u.model, u.reserved, nullif(u.purpose, ''), nullif(u.stage, '')
    from unnest($1::uuid[], $2::int[], $3::bigint[], $4::int[], $5::int[], $6::text[], $7::text[], $8::bigint[], $14::text[], $15::text[])
        as u(batch_id, seq, ticket_id, number, step, provider, model, reserved, purpose, stage)
    join tickets t on t.id = u.ticket_id and t.lease_until > now()
    join d on d.batch_id = u.batch_id and d.good`
	intentSums = `
    returning batch_id, seq, ticket_id, number, reserved_microusd, xmax = 0 as fresh),
r as (insert into budget_tallies as t (slice_id, writer, reserved_microusd)
    select s.id, pg_backend_pid(), sum(i.reserved_microusd) from i join unnest($12::uuid[], $13::bigint[]) as s(batch_id, id) on s.batch_id = i.batch_id
    where i.fresh group by s.id
    on conflict (slice_id, writer) do update set reserved_microusd = t.reserved_microusd + excluded.reserved_microusd)
select i.batch_id, i.seq, i.ticket_id, i.number from i where (select count(*) from i) <> cardinality($1::uuid[])
union all select batch_id, 0, 0, 0 from d where not good
union all select '00000000-0000-0000-0000-000000000000', 0, 0, -1 where (select count(*) from i) <> cardinality($1::uuid[])`

	insertIntents = `-- name: InsertIntents` + intentRows + intentSums
	repeatIntents = `-- name: RepeatIntents` + intentRows + `
    on conflict (batch_id, seq, ticket_id, number) do update set number = excluded.number` + intentSums
)

// InsertIntents writes calls before they are made, and returns those that may be made: a ticket that was lost gets none, nor does a batch
// whose draw is out of date, which is returned as stale. Each batch has one draw. What the slices have reserved grows in the same transaction.
func (db *DB) InsertIntents(ctx context.Context, in []Intent, draws []Draw) (written []CallID, stale []uuid.UUID, err error) {
	n, m := len(in), len(draws)
	batch, seq, ticket, number := make([]pgtype.UUID, n), make([]int32, n), make([]int64, n), make([]int32, n)
	step, provider, model, reserved := make([]int32, n), make([]string, n), make([]string, n), make([]int64, n)
	purpose, stage := make([]string, n), make([]string, n)
	for i := range in {
		c := &in[i]
		batch[i], seq[i], ticket[i], number[i] = uuidOf(c.BatchID), c.Seq, c.TicketID, c.Number
		step[i], provider[i], model[i], reserved[i], purpose[i], stage[i] = c.Step, c.Provider, c.Model, c.ReservedMicrousd, c.Purpose, c.Stage
	}
	batches, projects, epochs := make([]pgtype.UUID, m), make([]pgtype.UUID, m), make([]int64, m)
	var owners []pgtype.UUID
	var drawn []int64
	for i, d := range draws {
		batches[i], projects[i], epochs[i] = uuidOf(d.BatchID), uuidOf(d.ProjectID), d.Epoch
		for _, id := range d.Slices {
			owners, drawn = append(owners, batches[i]), append(drawn, id)
		}
	}
	write := func(sql string) error {
		var b pgx.Batch
		b.Queue(shareLedger, batches, distinct(ticket))
		b.Queue(sql, batch, seq, ticket, number, step, provider, model, reserved, batches, projects, epochs, owners, drawn, purpose, stage).
			Query(func(rows pgx.Rows) error {
				ids, err := pgx.CollectRows(rows, pgx.RowToStructByName[CallID])
				if err == nil && len(ids) == 0 {
					written = idsOf(in)
				}
				for _, id := range ids {
					switch id.Number {
					case -1:
					case 0:
						stale = append(stale, id.BatchID)
					default:
						written = append(written, id)
					}
				}
				return err
			})
		return translate(db.pool.SendBatch(ctx, &b).Close()) // one pipeline, one implicit transaction
	}
	if err = write(insertIntents); errors.Is(err, ErrConflict) { // some are there, from a try whose answer was lost
		err = write(repeatIntents)
	}
	return written, stale, err
}

func idsOf(in []Intent) []CallID {
	out := make([]CallID, len(in))
	for i := range in {
		out[i] = in[i].CallID
	}
	return out
}

// distinct returns each value once.
func distinct[T comparable](in []T) []T {
	seen := make(map[T]bool, 16)
	out := make([]T, 0, 16)
	for _, v := range in {
		if !seen[v] {
			seen[v] = true
			out = append(out, v)
		}
	}
	return out
}

// Outcome is how a call ended.
type Outcome struct {
	CallID
	Uncertain          bool // the outcome isn't known: the call may have been billed
	Step               int32
	Provider           string
	Model              string // asked for
	AnsweredBy         string // as the provider reported it
	ErrorClass         string // empty for a good answer
	FinishReason       string
	HTTPStatus         int32 // 0 when no answer came
	InputTokens        int64
	CachedInputTokens  int64
	CacheWriteTokens   int64
	OutputTokens       int64
	UsageKnown         bool
	CostMicrousd       *int64 // nil when unknown
	Latency            time.Duration
	GatewayCacheStatus string
	GatewayLogID       string
	Note               *CallNote // nil when the cost is that of the tokens

	Late bool // set by Settle: the ticket was gone, so what the call had reserved isn't the worker's to use again
}

// Completion is a complete, valid answer, to be kept under its key.
type Completion struct {
	ProjectID         uuid.UUID
	Key               [32]byte
	Refresh           bool // supersede an answer that is there
	Model             string
	Provider          string
	AnsweredBy        string
	Format            string // text or json
	Output            string
	Details           []byte // JSON, what else there is to say of it; nil for nothing
	InputTokens       int64
	CachedInputTokens int64
	OutputTokens      int64
	CostMicrousd      *int64
}

// Settlement is what becomes of a claimed job.
type Settlement struct {
	ProjectID         uuid.UUID
	BatchID           uuid.UUID
	Seq               int32
	TicketID          int64
	State             string // succeeded, failed, or waiting to be tried again
	Counted           bool   // the attempt counts
	ResultKey         []byte // of a succeeded job
	Refresh           bool   // the newest generation under that key is the answer, not the first
	CacheStatus       string
	Provider, Model   string
	ErrorClass        string
	ErrorMessage      string
	RetryIn           time.Duration // of a waiting job
	Calls             int32
	InputTokens       int64
	CachedInputTokens int64
	OutputTokens      int64
	CostMicrousd      *int64 // nil when the price of some call is unknown
	Repaired          string // of a succeeded job: fences, syntax or asked; empty for an answer that was good as it came
	RawOutput         string // of a failed job: the answer that was no use
}

const (
	callArrays = `unnest($1::uuid[], $2::int[], $3::bigint[], $4::int[], $5::bool[], $6::int[], $7::text[], $8::text[], $9::text[], $10::text[],
    $11::int[], $12::bigint[], $13::bigint[], $14::bigint[], $15::bigint[], $16::bigint[], $17::int[], $18::text[], $19::text[], $20::text[])
    as u(batch_id, seq, ticket_id, number, uncertain, step, provider, model, error_class, finish_reason,
    http_status, input_tokens, cached_input_tokens, cache_write_tokens, output_tokens, cost, latency_ms, cache_status, log_id, answered_by)`
	callOutcome = `state = case when u.uncertain then 'uncertain' else 'settled' end,
    settled_at = case when not u.uncertain then now() end, step = u.step, provider = u.provider,
    model = u.model, answered_by = nullif(u.answered_by, ''), error_class = nullif(u.error_class, ''), finish_reason = nullif(u.finish_reason, ''),
    http_status = nullif(u.http_status, 0), input_tokens = u.input_tokens, cached_input_tokens = u.cached_input_tokens,
    cache_write_tokens = u.cache_write_tokens, output_tokens = u.output_tokens, cost_microusd = u.cost, latency_ms = u.latency_ms,
    gateway_cache_status = nullif(u.cache_status, ''), gateway_log_id = nullif(u.log_id, '')`
	// periodsOf finds the periods in which the calls c, of the batches named, count. A call counts in the period in which its intent was written.
	periodsOf = `
b as materialized (select b.id as batch_id, p.budget_id, p.starts_at, p.ends_at from batches b join budgets g on ` + applies + `
    join budget_periods p on p.budget_id = g.id and p.ends_at > (select min(started_at) from c)
    where b.id = any(array(select distinct batch_id from c)))`
	// No hot statement tests a state that hardly any row is in: Postgres would expect no rows, and compare all with all. Hence the case, of which it
	// expects nothing. A call leaves the state of an intent once, and so does its reservation: settling a call again changes nothing. What its
	// worker's slice reserved is given back there, or to the period when the slice was returned meanwhile.
	settleCalls = `-- name: SettleCalls
with t as materialized (select id, worker_id from tickets where id = any($21::bigint[])),
c as (update calls c set ` + callOutcome + `
    from ` + callArrays + ` join t on t.id = u.ticket_id
    where c.batch_id = u.batch_id and c.seq = u.seq and c.ticket_id = u.ticket_id and c.number = u.number
        and case c.state when 'intent' then true else false end
    returning c.batch_id, c.started_at, c.reserved_microusd as reserved, c.cost_microusd as cost, t.worker_id),` + periodsOf + `,
d as (select b.budget_id, b.starts_at, c.worker_id, sum(c.reserved)::bigint as reserved, sum(coalesce(c.cost, c.reserved))::bigint as charge,
        sum(greatest(c.cost - c.reserved, 0))::bigint as overrun
    from c join b on b.batch_id = c.batch_id and c.started_at >= b.starts_at and c.started_at < b.ends_at
    group by 1, 2, 3 order by 1, 2, 3),
k as materialized (select s.id, d.* from d join budget_slices s on s.budget_id = d.budget_id and s.starts_at = d.starts_at and s.worker_id = d.worker_id
    for key share of s),
s as (insert into budget_tallies as t (slice_id, writer, reserved_microusd, spent_microusd, overrun_microusd)
    select id, pg_backend_pid(), -reserved, charge, overrun from k
    on conflict (slice_id, writer) do update set reserved_microusd = t.reserved_microusd + excluded.reserved_microusd,
        spent_microusd = t.spent_microusd + excluded.spent_microusd, overrun_microusd = t.overrun_microusd + excluded.overrun_microusd),
p as (update budget_periods p set reserved_microusd = p.reserved_microusd - d.reserved, spent_microusd = p.spent_microusd + d.charge,
        overrun_microusd = p.overrun_microusd + d.overrun
    from (select budget_id, starts_at, sum(reserved)::bigint as reserved, sum(charge)::bigint as charge, sum(overrun)::bigint as overrun
        from d where not exists (select 1 from k where k.budget_id = d.budget_id and k.starts_at = d.starts_at and k.worker_id = d.worker_id)
        group by 1, 2 order by 1, 2) d
    where p.budget_id = d.budget_id and p.starts_at = d.starts_at)
select id from t`

	completionRows = `
insert into completions (project_id, key, generation, model, provider, answered_by, format, output, input_tokens, cached_input_tokens,
    output_tokens, cost_microusd, details)
select u.project_id, u.key,
    case when u.refresh then coalesce((select max(generation) from completions c where c.project_id = u.project_id and c.key = u.key), 0) + 1 else 1 end,
    u.model, u.provider, u.answered_by, u.format, u.output, u.input_tokens, u.cached_input_tokens, u.output_tokens, u.cost, u.details
from unnest($1::uuid[], $2::bytea[], $3::bool[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::bigint[], $10::bigint[],
    $11::bigint[], $12::bigint[], $13::json[])
    as u(project_id, key, refresh, model, provider, answered_by, format, output, input_tokens, cached_input_tokens, output_tokens, cost, details)`
	putCompletions    = `-- name: PutCompletions` + completionRows
	repeatCompletions = `-- name: RepeatCompletions` + completionRows + `
on conflict do nothing`

	// Before the job is settled, while the ticket is still its own.
	putInvalidOutputs = `-- name: PutInvalidOutputs
insert into invalid_outputs (batch_id, seq, output)
select u.batch_id, u.seq, u.output from unnest($1::uuid[], $2::int[], $3::bigint[], $4::text[]) as u(batch_id, seq, ticket_id, output)
join jobs j on j.batch_id = u.batch_id and j.seq = u.seq and j.ticket_id = u.ticket_id
on conflict (batch_id, seq) do update set output = excluded.output, created_at = now()`

	settleJobsCTE = `
s as (update jobs j set ticket_id = null, attempts = j.attempts + case when u.counted then 1 else 0 end,
        state = case when u.state = 'waiting' and b.state = 'cancelling' then 'cancelled' else u.state end,
        due_at = case when u.state = 'waiting' and b.state <> 'cancelling' then now() + u.retry_in * interval '1 millisecond' end,
        finished_at = case when u.state <> 'waiting' or b.state = 'cancelling' then now() end,
        cache_status = nullif(u.cache_status, ''), provider = nullif(u.provider, ''), model = nullif(u.model, ''),
        error_class = nullif(u.error_class, ''), error_message = nullif(u.error_message, ''),
        result_key = u.result_key, result_generation = case when u.result_key is null then null when u.refresh then
            (select max(generation) from completions c where c.project_id = u.project_id and c.key = u.result_key) else 1 end,
        calls = j.calls + u.calls, input_tokens = j.input_tokens + u.input_tokens,
        cached_input_tokens = j.cached_input_tokens + u.cached_input_tokens,
        output_tokens = j.output_tokens + u.output_tokens, cost_microusd = j.cost_microusd + u.cost, repaired = nullif(u.repaired, '')
    from unnest($1::uuid[], $2::uuid[], $3::int[], $4::bigint[], $5::text[], $6::bool[], $7::bytea[], $8::text[], $9::text[], $10::text[],
        $11::text[], $12::text[], $13::bigint[], $14::int[], $15::bigint[], $16::bigint[], $17::bigint[], $18::bigint[], $19::bool[],
        $20::text[])
        as u(project_id, batch_id, seq, ticket_id, state, counted, result_key, cache_status, provider, model,
        error_class, error_message, retry_in, calls, input_tokens, cached_input_tokens, output_tokens, cost, refresh, repaired)
    join batches b on b.id = u.batch_id
    where j.batch_id = u.batch_id and j.seq = u.seq and j.ticket_id = u.ticket_id
    returning j.batch_id, j.seq, j.state, j.result_key, j.result_generation, j.provider, j.model, j.error_class, j.error_message,
        b.followed and (j.state <> 'waiting' or b.state <> 'running') as followed)`

	// Those whose end others wait for come back, and all of them when some were not this worker's any more, which number 0 says.
	settledJobs = `
select batch_id, seq, followed from s
where followed or (select count(*) from s) <> cardinality($3::int[])
union all select '00000000-0000-0000-0000-000000000000', 0, false where (select count(*) from s) <> cardinality($3::int[])`

	settleJobs = `-- name: SettleJobs
with ` + settleJobsCTE + settledJobs

	settleJobsAndFollowers = `-- name: SettleJobsAndFollowers
with ` + settleJobsCTE + `,
f as (update jobs j set state = s.state, finished_at = now(), result_key = s.result_key, result_generation = s.result_generation,
        cache_status = case when s.state = 'succeeded' then 'coalesced' end, provider = s.provider, model = s.model,
        error_class = s.error_class, error_message = 'job ' || s.seq || ' asks the same, and failed: ' || s.error_message
    from s where s.state in ('succeeded', 'failed') and j.batch_id = s.batch_id and j.leader_seq = s.seq and j.leader_batch is null
        and j.state = 'waiting')` + settledJobs
)

// Settled is a job whose settlement was accepted.
type Settled struct {
	BatchID  uuid.UUID
	Seq      int32
	Followed bool // it ended, or won't be tried again while its batch is paused, and jobs of other batches may wait for it: see ReleaseFollowers
}

// Settle writes, in one transaction, how calls ended, which answers are kept, and what becomes of the jobs. A job that this worker no
// longer holds is left alone and missing from the result; its calls and answers are recorded all the same, since they were paid for: calls
// whose ticket is gone in a transaction of their own, which corrects what was counted without them. With followers set, jobs of its batch
// that wait for a settled leader take its result.
func (db *DB) Settle(ctx context.Context, calls []Outcome, answers []Completion, jobs []Settlement, followers bool) ([]Settled, error) {
	done, err := db.settle(ctx, calls, putCompletions, answers, jobs, followers)
	if errors.Is(err, ErrConflict) { // some answers are there already, and stay; to look for them each time costs a third more
		done, err = db.settle(ctx, calls, repeatCompletions, answers, jobs, followers)
	}
	return done, err
}

func (db *DB) settle(ctx context.Context, calls []Outcome, put string, answers []Completion, jobs []Settlement, followers bool) ([]Settled, error) {
	var b pgx.Batch
	var tickets []int64 // that are there
	if len(calls) > 0 {
		columns := callColumns(calls)
		named := distinct(columns[2].([]int64))
		b.Queue(shareLedger, distinct(columns[0].([]pgtype.UUID)), named)
		b.Queue(settleCalls, append(columns, named)...).Query(func(rows pgx.Rows) (err error) {
			tickets, err = pgx.CollectRows(rows, pgx.RowTo[int64])
			return err
		})
	}
	if notes := noteColumns(calls); notes != nil {
		b.Queue(putCallNotes, notes...)
	}
	if len(answers) > 0 {
		b.Queue(put, completionColumns(answers)...)
	}
	if raw := rawColumns(jobs); raw != nil {
		b.Queue(putInvalidOutputs, raw...)
	}
	var done []Settled
	if len(jobs) > 0 {
		sql := settleJobs
		if followers {
			sql = settleJobsAndFollowers
		}
		b.Queue(sql, jobColumns(jobs)...).Query(func(rows pgx.Rows) error {
			some, err := pgx.CollectRows(rows, pgx.RowToStructByName[Settled])
			done = settled(jobs, some)
			return err
		})
	}
	if err := db.pool.SendBatch(ctx, &b).Close(); err != nil { // one pipeline, one implicit transaction
		return nil, translate(err)
	}
	var late []Outcome
	for i := range calls {
		if calls[i].Late = !slices.Contains(tickets, calls[i].TicketID); calls[i].Late {
			late = append(late, calls[i])
		}
	}
	if len(late) == 0 {
		return done, nil
	}
	return done, db.settleLate(ctx, late)
}

// settled completes what SettleJobs says: all jobs but for those that it doesn't name where it says that not all were this worker's.
func settled(jobs []Settlement, some []Settled) []Settled {
	if slices.ContainsFunc(some, func(s Settled) bool { return s.Seq == 0 }) {
		return slices.DeleteFunc(some, func(s Settled) bool { return s.Seq == 0 })
	}
	followed := make(map[Settled]bool, len(some))
	for _, s := range some {
		followed[s] = true
	}
	out := make([]Settled, len(jobs))
	for i := range jobs {
		s := Settled{jobs[i].BatchID, jobs[i].Seq, true}
		s.Followed = followed[s]
		out[i] = s
	}
	return out
}

// uuidOf spares a detour: pgx would ask a uuid.UUID for its text, element by element.
func uuidOf(id uuid.UUID) pgtype.UUID { return pgtype.UUID{Bytes: id, Valid: true} }

func callColumns(in []Outcome) []any {
	n := len(in)
	batch, seq, ticket, number := make([]pgtype.UUID, n), make([]int32, n), make([]int64, n), make([]int32, n)
	uncertain, step, provider, model := make([]bool, n), make([]int32, n), make([]string, n), make([]string, n)
	class, finish, status := make([]string, n), make([]string, n), make([]int32, n)
	input, cached, write, output := make([]*int64, n), make([]*int64, n), make([]*int64, n), make([]*int64, n)
	cost, latency, verdict, log, by := make([]*int64, n), make([]int32, n), make([]string, n), make([]string, n), make([]string, n)
	for i := range in {
		c := &in[i]
		batch[i], seq[i], ticket[i], number[i] = uuidOf(c.BatchID), c.Seq, c.TicketID, c.Number
		uncertain[i], step[i], provider[i], model[i] = c.Uncertain, c.Step, c.Provider, c.Model
		class[i], finish[i], status[i] = c.ErrorClass, c.FinishReason, c.HTTPStatus
		if c.UsageKnown {
			input[i], cached[i], write[i], output[i] = &c.InputTokens, &c.CachedInputTokens, &c.CacheWriteTokens, &c.OutputTokens
		}
		cost[i], latency[i], verdict[i], log[i] = c.CostMicrousd, int32(c.Latency.Milliseconds()), c.GatewayCacheStatus, c.GatewayLogID
		by[i] = c.AnsweredBy
	}
	return []any{batch, seq, ticket, number, uncertain, step, provider, model, class, finish, status, input, cached, write, output, cost, latency, verdict, log, by}
}

func completionColumns(in []Completion) []any {
	n := len(in)
	project, key, refresh, model := make([]pgtype.UUID, n), make([][]byte, n), make([]bool, n), make([]string, n)
	provider, by, format, text := make([]string, n), make([]string, n), make([]string, n), make([]string, n)
	input, cached, output, cost := make([]int64, n), make([]int64, n), make([]int64, n), make([]*int64, n)
	details := make([][]byte, n)
	for i := range in {
		c := &in[i]
		project[i], key[i], refresh[i], model[i] = uuidOf(c.ProjectID), c.Key[:], c.Refresh, c.Model
		provider[i], by[i], format[i], text[i] = c.Provider, c.AnsweredBy, c.Format, c.Output
		input[i], cached[i], output[i], cost[i] = c.InputTokens, c.CachedInputTokens, c.OutputTokens, c.CostMicrousd
		details[i] = c.Details
	}
	return []any{project, key, refresh, model, provider, by, format, text, input, cached, output, cost, details}
}

func jobColumns(in []Settlement) []any {
	n := len(in)
	project, batch, seq, ticket := make([]pgtype.UUID, n), make([]pgtype.UUID, n), make([]int32, n), make([]int64, n)
	state, counted, key, verdict := make([]string, n), make([]bool, n), make([][]byte, n), make([]string, n)
	provider, model, class, message := make([]string, n), make([]string, n), make([]string, n), make([]string, n)
	retry, calls, input, cached := make([]int64, n), make([]int32, n), make([]int64, n), make([]int64, n)
	output, cost, refresh, repaired := make([]int64, n), make([]*int64, n), make([]bool, n), make([]string, n)
	for i := range in {
		s := &in[i]
		project[i], batch[i], seq[i], ticket[i] = uuidOf(s.ProjectID), uuidOf(s.BatchID), s.Seq, s.TicketID
		state[i], counted[i], key[i], verdict[i] = s.State, s.Counted, s.ResultKey, s.CacheStatus
		provider[i], model[i], class[i], message[i] = s.Provider, s.Model, s.ErrorClass, s.ErrorMessage
		retry[i], calls[i], input[i], cached[i] = s.RetryIn.Milliseconds(), s.Calls, s.InputTokens, s.CachedInputTokens
		output[i], cost[i], refresh[i], repaired[i] = s.OutputTokens, s.CostMicrousd, s.Refresh, s.Repaired
	}
	return []any{project, batch, seq, ticket, state, counted, key, verdict, provider, model, class, message, retry, calls, input, cached, output, cost, refresh, repaired}
}

const lookUp = `-- name: LookUp
select distinct on (k.ord) c.key, c.generation, c.model, c.provider, c.answered_by, c.format, c.output
from unnest($2::bytea[]) with ordinality as k(key, ord) join completions c on c.project_id = $1 and c.key = k.key
where $3::timestamptz is null or c.created_at >= $3
order by k.ord, c.generation desc`

// Answer is a row of the result cache.
type Answer struct {
	Key        []byte
	Generation int32
	Model      string
	Provider   string
	AnsweredBy string
	Format     string
	Output     string
}

// LookUp returns the answers that the cache has for any of the keys, in the keys' order, as far as they were made at oldest or since.
func (r Reader) LookUp(ctx context.Context, project uuid.UUID, keys [][]byte, oldest *time.Time) ([]Answer, error) {
	return many[Answer](ctx, r.q, lookUp, project, keys, oldest)
}
