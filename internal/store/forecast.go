package store

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// PlanSum is what planning counted in a range of a batch, of the jobs that may take the same steps of the route.
type PlanSum struct {
	Stage         int32   // of a pipeline, from 0
	Steps         []int32 // indices of the route, in the order in which they are tried; none for hits and invalid jobs
	Model         string  // that the jobs name themselves, for steps without one
	Jobs          int64
	Hits          int64
	Invalid       int64
	Bytes         int64 // of what goes in; of a document, characters of its text
	CountedJobs   int64
	CountedBytes  int64
	CountedCalls  float64
	CountedCaps   float64   // most tokens of an answer, over the calls
	CountedTokens []float64 // of the calls' input, by step
}

// PlanTotals is what planning found in a batch.
type PlanTotals struct {
	Sums      []PlanSum // of each range
	Coalesced int64     // jobs that wait for identical ones
	Fleet     int64     // calls that the live workers may have in flight
}

// Spread is a quantity that isn't known yet: as likely more as less than P50, and more than P90 in one case of ten.
type Spread struct{ P50, P90 int64 }

// Expected is what calls are expected to take.
type Expected struct {
	Calls, Cached, Input, Output Spread
	Cost                         *Spread // micro-dollars; nil when a price is unknown
}

// Forecast is what is expected of a batch.
type Forecast struct {
	BatchID         uuid.UUID
	ProjectID       uuid.UUID
	MadeAt          time.Time
	DryRun          bool
	Verdict         string // run, pause or refuse
	Reason          string // why it wasn't run
	MaxCostMicrousd *int64
	Jobs            int64
	ResultHits      int64
	Coalesced       int64
	InvalidJobs     int64
	CountedJobs     int64
	HistoryBatches  int32
	Expected
	DurationMS Spread
	BasisCalls float64 // by the plan alone
	Steps      []ForecastStep
}

// ForecastStep is the part of one step of the route.
type ForecastStep struct {
	Stage        int32
	Step         int32
	Provider     string
	Model        string
	HistoryCalls int64
	HistoryOf    string // version, template, params, kind or none
	Expected
	BasisInput float64 // tokens of a call as counted
}

const (
	putPlanSum = `-- name: PutPlanSum
insert into forecast_sums (batch_id, first_seq, stage, steps, model, jobs, hits, invalid, bytes, counted_jobs, counted_bytes, counted_calls, counted_caps, counted_tokens)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)
on conflict (batch_id, first_seq, stage, steps, model) do update set jobs = excluded.jobs, hits = excluded.hits, invalid = excluded.invalid, bytes = excluded.bytes,
    counted_jobs = excluded.counted_jobs, counted_bytes = excluded.counted_bytes, counted_calls = excluded.counted_calls,
    counted_caps = excluded.counted_caps, counted_tokens = excluded.counted_tokens`
	takePlanSums = `-- name: TakePlanSums
delete from forecast_sums where batch_id = $1
returning stage, steps, model, jobs, hits, invalid, bytes, counted_jobs, counted_bytes, counted_calls, counted_caps, counted_tokens`
	countFleet = `-- name: CountFleet
select coalesce(sum(concurrency), 0)::bigint from workers where seen_at > now() - interval '1 minute'`
	putForecast = `-- name: PutForecast
insert into forecasts (batch_id, project_id, dry_run, verdict, reason, max_cost_microusd, jobs, result_hits, coalesced, invalid_jobs, counted_jobs,
    history_batches, calls_p50, calls_p90, cached_p50, cached_p90, input_p50, input_p90, output_p50, output_p90, cost_p50, cost_p90,
    duration_ms_p50, duration_ms_p90, basis_calls)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23, $24, $25)`
	putForecastStep = `-- name: PutForecastStep
insert into forecast_steps (batch_id, stage, step, provider, model, history_calls, history_of, calls_p50, calls_p90, cached_p50, cached_p90,
    input_p50, input_p90, output_p50, output_p90, cost_p50, cost_p90, basis_input)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18)`
	pauseByForecast = `-- name: PauseByForecast
update batches set pause_reason = 'forecast', pause_detail = $2, paused_at = now() where id = $1 and pause_reason is null`
	// As a failed upload ends: nothing was called, and there is nothing to count. A dry run is purged, and then its row goes as well.
	endByForecast = `-- name: EndByForecast
update batches set state = 'failed', finished_at = now(), error = $2, pause_reason = null, pause_detail = null, paused_at = null,
    purged_at = case when $3 then now() end, purging = $3,
    succeeded_jobs = 0, failed_jobs = 0, cancelled_jobs = 0, result_hits = 0, coalesced = 0, gateway_hits = 0, misses = 0, bypassed = 0,
    calls = 0, uncertain_calls = 0, unpriced_calls = 0, input_tokens = 0, cached_input_tokens = 0, output_tokens = 0, cost_microusd = 0
where id = $1`
)

// putSums stores the sums of a range, in place of what another worker found that lost it.
func putSums(ctx context.Context, tx pgx.Tx, t Ticket, sums []PlanSum) error {
	for _, s := range sums {
		steps, tokens := s.Steps, s.CountedTokens
		if steps == nil {
			steps, tokens = []int32{}, []float64{}
		}
		if _, err := tx.Exec(ctx, putPlanSum, t.BatchID, t.FirstSeq, s.Stage, steps, s.Model, s.Jobs, s.Hits, s.Invalid, s.Bytes, s.CountedJobs, s.CountedBytes,
			s.CountedCalls, s.CountedCaps, tokens); err != nil {
			return err
		}
	}
	return nil
}

// keepForecast has a batch judged by what planning found, and does what the verdict says. It reports whether the batch ended by it.
func keepForecast(ctx context.Context, tx pgx.Tx, id uuid.UUID, coalesced int64, judge func(PlanTotals) Forecast) (ended bool, err error) {
	totals := PlanTotals{Coalesced: coalesced}
	if totals.Sums, err = many[PlanSum](ctx, tx, takePlanSums, id); err != nil {
		return false, err
	}
	if totals.Fleet, err = scalar[int64](ctx, tx, countFleet); err != nil {
		return false, err
	}
	f := judge(totals)
	c50, c90 := f.Cost.split()
	if _, err := tx.Exec(ctx, putForecast, id, f.ProjectID, f.DryRun, f.Verdict, f.Reason, f.MaxCostMicrousd, f.Jobs, f.ResultHits, f.Coalesced, f.InvalidJobs,
		f.CountedJobs, f.HistoryBatches, f.Calls.P50, f.Calls.P90, f.Cached.P50, f.Cached.P90, f.Input.P50, f.Input.P90, f.Output.P50, f.Output.P90,
		c50, c90, f.DurationMS.P50, f.DurationMS.P90, f.BasisCalls); err != nil {
		return false, err
	}
	for _, s := range f.Steps {
		c50, c90 := s.Cost.split()
		if _, err := tx.Exec(ctx, putForecastStep, id, s.Stage, s.Step, s.Provider, s.Model, s.HistoryCalls, s.HistoryOf, s.Calls.P50, s.Calls.P90, s.Cached.P50,
			s.Cached.P90, s.Input.P50, s.Input.P90, s.Output.P50, s.Output.P90, c50, c90, s.BasisInput); err != nil {
			return false, err
		}
	}
	switch {
	case f.DryRun:
		_, err = tx.Exec(ctx, endByForecast, id, "a dry run", true)
		return true, err
	case f.Verdict == "refuse":
		if _, err = tx.Exec(ctx, endByForecast, id, f.Reason, false); err == nil {
			err = sendEvents(ctx, tx, eventState, id)
		}
		return true, err
	case f.Verdict == "pause":
		_, err = tx.Exec(ctx, pauseByForecast, id, f.Reason)
	}
	return false, err
}

func (s *Spread) split() (p50, p90 *int64) {
	if s == nil {
		return nil, nil
	}
	return &s.P50, &s.P90
}

const (
	expectedCols = `calls_p50, calls_p90, cached_p50, cached_p90, input_p50, input_p90, output_p50, output_p90, cost_p50, cost_p90`
	getForecast  = `-- name: GetForecast
select batch_id, project_id, made_at, dry_run, verdict, reason, max_cost_microusd, jobs, result_hits, coalesced, invalid_jobs, counted_jobs, history_batches,
    duration_ms_p50, duration_ms_p90, basis_calls, ` + expectedCols + ` from forecasts where batch_id = $1 and project_id = $2`
	listForecastSteps = `-- name: ListForecastSteps
select stage, step, provider, model, history_calls, history_of, basis_input, ` + expectedCols + ` from forecast_steps where batch_id = $1 order by stage, step, model`
)

type forecastRow struct {
	BatchID         uuid.UUID
	ProjectID       uuid.UUID
	MadeAt          time.Time
	DryRun          bool
	Verdict         string
	Reason          string
	MaxCostMicrousd *int64
	Jobs            int64
	ResultHits      int64
	Coalesced       int64
	InvalidJobs     int64
	CountedJobs     int64
	HistoryBatches  int32
	DurationMSP50   int64
	DurationMSP90   int64
	BasisCalls      float64
	expectedRow
}

type expectedRow struct {
	CallsP50, CallsP90, CachedP50, CachedP90, InputP50, InputP90, OutputP50, OutputP90 int64
	CostP50, CostP90                                                                   *int64
}

func (r expectedRow) expected() Expected {
	e := Expected{Calls: Spread{r.CallsP50, r.CallsP90}, Cached: Spread{r.CachedP50, r.CachedP90}, Input: Spread{r.InputP50, r.InputP90}, Output: Spread{r.OutputP50, r.OutputP90}}
	if r.CostP50 != nil && r.CostP90 != nil {
		e.Cost = &Spread{*r.CostP50, *r.CostP90}
	}
	return e
}

// Forecast returns the forecast of a project's batch, of a dry run that is gone as well. Errors: ErrNotFound when there is none, or none yet.
func (r Reader) Forecast(ctx context.Context, project, batch uuid.UUID) (Forecast, error) {
	f, err := one[forecastRow](ctx, r.q, getForecast, batch, project)
	if err != nil {
		return Forecast{}, err
	}
	out := Forecast{BatchID: f.BatchID, ProjectID: f.ProjectID, MadeAt: f.MadeAt, DryRun: f.DryRun, Verdict: f.Verdict, Reason: f.Reason,
		MaxCostMicrousd: f.MaxCostMicrousd, Jobs: f.Jobs, ResultHits: f.ResultHits, Coalesced: f.Coalesced, InvalidJobs: f.InvalidJobs, CountedJobs: f.CountedJobs,
		HistoryBatches: f.HistoryBatches, Expected: f.expected(), DurationMS: Spread{f.DurationMSP50, f.DurationMSP90}, BasisCalls: f.BasisCalls}
	steps, err := many[struct {
		Stage        int32
		Step         int32
		Provider     string
		Model        string
		HistoryCalls int64
		HistoryOf    string
		BasisInput   float64
		expectedRow
	}](ctx, r.q, listForecastSteps, batch)
	for _, s := range steps {
		out.Steps = append(out.Steps, ForecastStep{Stage: s.Stage, Step: s.Step, Provider: s.Provider, Model: s.Model, HistoryCalls: s.HistoryCalls, HistoryOf: s.HistoryOf,
			BasisInput: s.BasisInput, Expected: s.expected()})
	}
	return out, err
}

const (
	// The newest batches of the same template version, of the same template, with the same params, and of the same kind.
	listPast = `-- name: ListPast
with mine as (select b.*, t.name as template_name from batches b left join templates t on t.id = b.template_id where b.id = $1),
done as (select b.id, b.template_id, t.name as template_name, b.params::text as params from mine m join batches b on b.project_id = m.project_id
        and b.kind = m.kind and b.state = 'completed' and b.calls > 0
        and (b.usage_at is not null or b.calls <= 20000) -- of others, the sums come in a moment
    left join templates t on t.id = b.template_id order by b.id desc limit 1000),
near as (
    (select d.id from done d, mine m where d.template_id = m.template_id order by d.id desc limit 20)
    union (select d.id from done d, mine m where d.template_name = m.template_name order by d.id desc limit 20)
    union (select d.id from done d, mine m where m.template_id is null and d.params = m.params::text order by d.id desc limit 20)
    union (select d.id from done d order by d.id desc limit 20))
select d.id as batch_id, coalesce(d.template_id, '00000000-0000-0000-0000-000000000000') as template_id, coalesce(d.template_name, '') as template_name,
    d.params, b.route, b.concurrency, extract(epoch from b.finished_at - b.started_at)::float8 as seconds, f.basis_calls,
    u.provider, u.model, u.good, u.failed, u.input, u.cached, u.output, u.cost, u.latency_ms, u.timed,
    (select min(s.basis_input) from forecast_steps s where s.batch_id = b.id and s.provider = u.provider and s.model = u.model) as basis_input
from near n join done d on d.id = n.id join batches b on b.id = n.id left join forecasts f on f.batch_id = b.id
cross join lateral (
    select provider, model, (coalesce(sum(calls) filter (where error_class = ''), 0) - sum(gateway_hits))::bigint as good,
        coalesce(sum(calls) filter (where error_class <> ''), 0)::bigint as failed, sum(input_tokens)::bigint as input,
        sum(cached_input_tokens)::bigint as cached, sum(output_tokens)::bigint as output, sum(cost_microusd)::bigint as cost,
        coalesce(sum(calls * power(1.05, latency_bucket - 0.5)) filter (where latency_bucket >= 0), 0)::float8 as latency_ms,
        coalesce(sum(calls) filter (where latency_bucket >= 0), 0)::bigint as timed
    from call_usage where batch_id = n.id group by provider, model offset 0) u
order by d.id desc`
	// Of the first jobs of a few batches: how much lengths differ within one.
	listLengths = `-- name: ListLengths
select b.id as batch_id, c.provider, c.model, count(*) as answers, avg(c.output_tokens)::float8 as mean, var_samp(c.output_tokens)::float8 as variance
from unnest($1::uuid[]) as b(id) cross join lateral (
    select provider, model, output_tokens from calls
    where batch_id = b.id and seq <= 1000 and state = 'settled' and error_class is null and output_tokens > 0 offset 0) c
group by b.id, c.provider, c.model having count(*) > 1`
)

// PastUse is what the calls to one model took in an earlier batch.
type PastUse struct {
	BatchID      uuid.UUID
	TemplateID   uuid.UUID // zero for none
	TemplateName string
	Params       string
	Route        json.RawMessage
	Concurrency  *int32
	Seconds      float64  // from the end of planning to that of the batch
	BasisCalls   *float64 // of its forecast; nil when it had none
	Provider     string
	Model        string
	Good         int64 // calls that a provider answered
	Failed       int64
	Input        int64
	Cached       int64
	Output       int64
	Cost         int64
	LatencyMS    float64 // of all that are timed, added up
	Timed        int64
	BasisInput   *float64 // of its forecast
}

// Lengths are those of the answers of one model within an earlier batch.
type Lengths struct {
	BatchID  uuid.UUID
	Provider string
	Model    string
	Answers  int64
	Mean     float64
	Variance float64
}

// Past returns what is known of the completed batches that are most like a batch, newest first, a row each and model.
func (r Reader) Past(ctx context.Context, batch uuid.UUID) ([]PastUse, []Lengths, error) {
	uses, err := many[PastUse](ctx, r.q, listPast, batch)
	if err != nil || len(uses) == 0 {
		return nil, nil, err
	}
	const few = 5
	var ids []uuid.UUID
	for _, u := range uses {
		if len(ids) == 0 || ids[len(ids)-1] != u.BatchID {
			ids = append(ids, u.BatchID)
		}
	}
	lengths, err := many[Lengths](ctx, r.q, listLengths, ids[:min(few, len(ids))])
	return uses, lengths, err
}

const forgetForecasts = `-- name: ForgetForecasts
delete from forecasts f where (dry_run or verdict = 'refuse') and made_at < now() - $1::interval and not exists (select 1 from batches where id = f.batch_id)`

// ForgetForecasts removes the forecasts of dry runs, and of refused batches that were removed, that are older than keep.
func (db *DB) ForgetForecasts(ctx context.Context, keep time.Duration) error {
	_, err := db.pool.Exec(ctx, forgetForecasts, interval(keep))
	return err
}

// EndDryRun removes what a dry run brought along. The error is nil when another worker was quicker.
func (db *DB) EndDryRun(ctx context.Context, project, id uuid.UUID) error {
	for done := false; !done; {
		var err error
		if done, err = db.PurgeBatch(ctx, project, id, 10); errors.Is(err, ErrNotFound) {
			return nil
		} else if err != nil {
			return err
		}
	}
	return nil
}
