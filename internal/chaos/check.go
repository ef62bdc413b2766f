package chaos

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"batchwright/internal/client"
)

// law is a query that must find nothing once all work is done.
type law struct {
	says string
	sql  string
}

// laws hold for every run.
var laws = []law{
	{"a batch isn't finished", `select id, name, state, pause_reason, total_jobs, next_seq from batches where finished_at is null`},
	{"a ticket is left", `select * from tickets`},
	{"a job isn't finished", `select j.batch_id, j.seq, j.state, j.ticket_id, j.due_at, j.leader_seq, j.leader_batch, j.attempts, j.error_class
		from jobs j where j.finished_at is null`},
	{"a job of a completed batch is missing or too many", `select b.id, b.total_jobs, n from batches b,
		lateral (select count(*) as n from jobs where batch_id = b.id) j where b.state = 'completed' and n <> b.total_jobs`},
	{"a call has neither outcome nor doubt", `select * from calls where state = 'intent'`},
	{"one idempotency key made several batches", `select project_id, idempotency_key from batches where idempotency_key is not null
		group by 1, 2 having count(*) > 1`},
	{"a batch's frozen counts differ from its rows", `select b.id, b.state, b.total_jobs, b.succeeded_jobs, b.failed_jobs, b.cancelled_jobs,
			j.succeeded, j.failed, b.calls, c.calls, b.uncertain_calls, c.uncertain, b.cost_microusd, c.cost
		from batches b,
		lateral (select count(*) filter (where state = 'succeeded') as succeeded, count(*) filter (where state = 'failed') as failed,
			count(*) filter (where cache_status = 'result_hit') as hits, count(*) filter (where cache_status = 'coalesced') as coalesced
			from jobs where batch_id = b.id) j,
		lateral (select count(*) as calls, count(*) filter (where state = 'uncertain') as uncertain, coalesce(sum(cost_microusd), 0) as cost,
			coalesce(sum(output_tokens), 0) as output from calls where batch_id = b.id) c
		where b.finished_at is not null and b.state <> 'failed' and
			(b.succeeded_jobs, b.failed_jobs, b.cancelled_jobs, b.result_hits, b.coalesced, b.calls, b.uncertain_calls, b.cost_microusd, b.output_tokens)
			is distinct from (j.succeeded, j.failed, b.total_jobs - j.succeeded - j.failed, j.hits, j.coalesced, c.calls, c.uncertain, c.cost, c.output)`},
	{"the ledger is not sound", `select * from reports.ledger_check`},
	{"a call was made although an answer to its job was known", `select a.batch_id, a.seq, a.ticket_id, a.settled_at, b.ticket_id, b.started_at
		from calls a join calls b on b.batch_id = a.batch_id and b.seq = a.seq and b.stage is not distinct from a.stage
			and (b.ticket_id, b.number) <> (a.ticket_id, a.number)
		join batches k on k.id = a.batch_id and k.kind <> 'summarize' -- whose jobs are of many calls
		where a.state = 'settled' and a.error_class is null and not a.late and a.settled_at <= b.started_at`},
	{"a job, or a stage of it, was answered and paid for twice", `select a.batch_id, a.seq, a.stage, count(*)
		from calls a join batches k on k.id = a.batch_id and k.kind <> 'summarize'
		where a.state = 'settled' and a.error_class is null and not a.late group by 1, 2, 3 having count(*) > 1`},
	{"a job failed for a reason that is not the provider's", `select batch_id, seq, attempts, error_class, error_message from jobs where state = 'failed'
		and error_class not in ('rate_limited', 'overloaded', 'timeout', 'network', 'server', 'uncertain')`},
	{"a job has an answer that was paid for, and doesn't have it", `select j.batch_id, j.seq, j.state, c.ticket_id, c.settled_at
		from calls c join jobs j on j.batch_id = c.batch_id and j.seq = c.seq join batches b on b.id = j.batch_id and b.kind not in ('summarize', 'pipeline')
		where c.state = 'settled' and c.error_class is null and not c.late and j.state <> 'succeeded'`},
	{"a batch that nobody submitted to its end is not failed", `select id, name, state from batches
		where idempotency_key is null and state <> 'failed'`},
	{"a call's cost is known and its tokens are not, or the other way round", `select * from calls
		where state = 'settled' and error_class is null and gateway_cache_status is distinct from 'HIT' and (cost_microusd is null) <> (output_tokens is null)`},
}

// check holds the finished run to all that was promised.
func (w *world) check(ctx context.Context) (wrong []string, err error) {
	if wrong, err = w.obey(ctx, laws); err != nil {
		return wrong, err
	}
	late, err := w.query(ctx, overtime, w.calm)
	if err != nil {
		return wrong, fmt.Errorf("expired batches: %w", err)
	}
	if len(late) > 0 {
		wrong = append(wrong, fmt.Sprintf("%d batches ended too early or went on too long, such as %s", len(late), strings.Join(late[0], " | ")))
	}
	money, err := w.audit(ctx)
	wrong = append(wrong, money...)
	if err != nil {
		return wrong, err
	}
	for _, a := range w.accepted {
		faults, err := w.read(ctx, a)
		if wrong = append(wrong, faults...); err != nil {
			return wrong, err
		}
	}
	return wrong, nil
}

// obey says which laws are broken.
func (w *world) obey(ctx context.Context, laws []law) (wrong []string, err error) {
	for _, l := range laws {
		rows, err := w.query(ctx, l.sql)
		if err != nil {
			return wrong, fmt.Errorf("%s: %w", l.says, err)
		}
		if len(rows) > 0 {
			wrong = append(wrong, fmt.Sprintf("%s: %d rows, such as %s", l.says, len(rows), strings.Join(rows[0], " | ")))
		}
	}
	return wrong, nil
}

// entries are the ledger's rows of one tag, over all jobs that ask for it.
const entries = `select coalesce(i.input ->> 'tag', i.input ->> 'name') as tag, count(*) as calls,
	count(*) filter (where c.state = 'settled' and c.error_class is null and c.gateway_cache_status is distinct from 'HIT') as answers,
	count(*) filter (where c.state = 'uncertain') as doubts,
	coalesce(sum(c.cost_microusd), 0) as cost,
	coalesce(sum(c.reserved_microusd) filter (where c.cost_microusd is null), 0) as doubt
from calls c join inputs i on i.batch_id = c.batch_id and i.seq = c.seq group by 1`

// audit compares the ledger with the provider's books.
func (w *world) audit(ctx context.Context) (wrong []string, err error) {
	rows, err := w.query(ctx, entries)
	if err != nil {
		return nil, fmt.Errorf("read the ledger: %w", err)
	}
	books := w.provider.ledger()
	for _, row := range rows {
		var n [5]int64
		for i := range n {
			if n[i], err = strconv.ParseInt(row[i+1], 10, 64); err != nil {
				return wrong, err
			}
		}
		calls, answers, doubts, cost, doubt := n[0], n[1], n[2], n[3], n[4]
		billed, money, hows := int64(len(books[row[0]])), int64(0), []string(nil)
		for _, c := range books[row[0]] {
			money += c.cost
			hows = append(hows, c.how)
		}
		delete(books, row[0])
		account := fmt.Sprintf("%s: the ledger has %d calls, %d answers, %d doubts, cost %d, doubtful %d; the provider billed %d (%s), cost %d",
			row[0], calls, answers, doubts, cost, doubt, billed, strings.Join(hows, "; "), money)
		switch {
		case billed > calls:
			wrong = append(wrong, "more was billed than the ledger has calls: "+account)
		case answers > billed:
			wrong = append(wrong, "the ledger has answers that nobody billed: "+account)
		case billed > answers+doubts:
			wrong = append(wrong, "a billed call is neither an answer nor a doubt in the ledger: "+account)
		case cost > money || money > cost+doubt:
			wrong = append(wrong, "the money doesn't add up: "+account)
		}
	}
	for tag, calls := range books {
		wrong = append(wrong, fmt.Sprintf("%s was billed %d times and is not in the ledger", tag, len(calls)))
	}
	return wrong, nil
}

// read compares a batch's result stream with what was submitted.
func (w *world) read(ctx context.Context, a accepted) (wrong []string, err error) {
	b, results, err := w.fetch(ctx, a)
	if err != nil {
		return nil, err
	}
	fault := func(format string, args ...any) { wrong = append(wrong, a.name+" "+fmt.Sprintf(format, args...)) }
	if int(b.TotalJobs) != a.sent {
		fault("has %d jobs, submitted were %d", b.TotalJobs, a.sent)
	}
	switch {
	case b.State == "completed" && !a.doomed:
	case b.State == "cancelled" && a.cancelled():
	case b.State == "expired" && a.expires > 0:
	default:
		fault("is %s", b.State)
	}
	seen := make([]int, len(a.tags))
	for _, r := range results {
		n, err := strconv.Atoi(*r.CustomID)
		if err != nil || n < 1 || n > len(seen) {
			fault("has a result %q", *r.CustomID)
			continue
		}
		seen[n-1]++
		if r.Status != "succeeded" && a.kept[n] {
			fault("job %d had an answer, and now it is %s", n, r.Status)
		}
		if r.Status == "succeeded" && r.Text() != a.answer(a.tags[n-1]) {
			fault("job %d asked for %s and got %q", n, a.tags[n-1], r.Text())
		}
	}
	for i, times := range seen {
		if times != 1 && (times > 1 || b.State == "completed" || a.kept[i+1]) {
			fault("job %d has %d results", i+1, times)
		}
	}
	return wrong, nil
}

// fetch reads a batch and its results from the API, which may just be starting again.
func (w *world) fetch(ctx context.Context, a accepted) (b client.Batch, results []client.Result, err error) {
	err = w.insist(ctx, "reading "+a.name, func(ctx context.Context) (err error) {
		b, results, err = w.fetchOnce(ctx, a)
		return err
	})
	return b, results, err
}

// fetchOnce returns what it has read when it fails.
func (w *world) fetchOnce(ctx context.Context, a accepted) (b client.Batch, results []client.Result, err error) {
	c := w.clients[a.key]
	if b, err = c.Batch(ctx, a.id); err != nil {
		return b, nil, err
	}
	for r, err := range c.Results(ctx, a.id, client.ResultOptions{}) {
		if err != nil {
			return b, results, err
		}
		results = append(results, r)
	}
	return b, results, nil
}

// raise holds budgets, and the batches that may cost no more than so much, to that, and then lets them cost what they want.
func (w *world) raise(ctx context.Context) (wrong []string, err error) {
	raised, err := w.lift(ctx)
	if err != nil {
		return nil, err
	}
	books := w.provider.ledger()
	for _, a := range w.accepted {
		if a.limit == 0 {
			continue
		}
		raised = true
		spent := int64(0)
		asked := map[string]bool{}
		for _, tag := range a.tags {
			if tag, _ = editionOf(tag); asked[tag] {
				continue
			}
			asked[tag] = true
			for _, c := range books[tag] {
				spent += c.cost
			}
		}
		w.say("%s cost %d of %d", a.name, spent, a.limit)
		if spent > a.limit {
			wrong = append(wrong, fmt.Sprintf("%s was to cost %d at most, and was billed %d", a.name, a.limit, spent))
		}
		if err := w.change(ctx, a.key, http.MethodPatch, "/v1/batches/"+a.id, `{"max_cost_microusd":null}`); err != nil {
			return wrong, err
		}
	}
	if !raised {
		return wrong, nil
	}
	if err := w.await(ctx, calm, ""); err != nil {
		wrong = append(wrong, "after limits were lifted: "+err.Error())
	}
	for _, b := range w.bounds { // those that nobody lifts
		if b.kept {
			w.hold(b)
		}
	}
	return wrong, nil
}

// retry requeues what failed in bad weather. Now that the weather is good, all of it must succeed.
func (w *world) retry(ctx context.Context) (wrong []string, err error) {
	tried := false
	for _, a := range w.accepted {
		b, _, err := w.fetch(ctx, a)
		if err != nil {
			return nil, err
		}
		if b.Stats.Jobs.Failed == 0 {
			continue
		}
		tried = true
		w.say("%s: %d jobs that failed are retried", a.name, b.Stats.Jobs.Failed)
		if err := w.move(ctx, a.key, a.id, "retry"); err != nil {
			return nil, err
		}
	}
	if !tried {
		return nil, nil
	}
	if err := w.await(ctx, calm, ""); err != nil {
		return []string{"after a retry: " + err.Error()}, nil
	}
	if wrong, err = w.check(ctx); err != nil {
		return wrong, err
	}
	rows, err := w.query(ctx, `select batch_id, seq, error_class, error_message from jobs where state = 'failed'`)
	if len(rows) > 0 {
		wrong = append(wrong, fmt.Sprintf("%d jobs failed again in good weather, such as %s", len(rows), strings.Join(rows[0], " | ")))
	}
	return wrong, err
}

// rerun submits a batch again whose every job succeeded: all of it must come from the cache.
func (w *world) rerun(ctx context.Context) (wrong []string, err error) {
	i := slices.IndexFunc(w.accepted, accepted.repeatable)
	if whole, err := w.whole(ctx, i); err != nil || !whole {
		return nil, err
	}
	a := w.accepted[i]
	calls := w.provider.calls.Load()
	a.name += "-again"
	id, err := w.post(ctx, a.load, time.Time{})
	if err != nil {
		return nil, err
	}
	if err := w.await(ctx, 20*time.Second, ""); err != nil {
		return []string{fmt.Sprintf("a rerun of %s from the cache: %v", a.name, err)}, nil
	}
	return w.costless(ctx, a.key, id, a.name, calls)
}

// edit submits the documents of a batch that has all its summaries once more, with one of them edited: nothing may be asked twice.
func (w *world) edit(ctx context.Context) (wrong []string, err error) {
	i := slices.IndexFunc(w.accepted, func(a accepted) bool {
		return a.kind == summarize && a.cache == "use" && len(a.moves) == 0 && a.expires == 0
	})
	if i < 0 {
		return nil, nil
	}
	a := w.accepted[i]
	before, _, err := w.fetch(ctx, a)
	if err != nil || before.Stats.Jobs.Succeeded != before.TotalJobs {
		return nil, err
	}
	known := map[string]bool{}
	books := w.provider.ledger()
	for _, c := range slices.Concat(slices.Collect(maps.Values(books))...) {
		known[c.id] = true
	}
	a.name, a.parts, a.limit = a.name+"-edited", 0, 0
	a.tags = slices.Clone(a.tags)
	a.tags[0] = edited(edited(a.tags[0])) // an edition that nobody has asked for
	if a.id, err = w.post(ctx, a.load, time.Time{}); err != nil {
		return nil, err
	}
	if err := w.await(ctx, 20*time.Second, ""); err != nil {
		return []string{fmt.Sprintf("%s: %v", a.name, err)}, nil
	}
	fresh := 0
	for tag, calls := range w.provider.ledger() {
		for _, c := range calls[len(books[tag]):] {
			if fresh++; known[c.id] {
				wrong = append(wrong, fmt.Sprintf("%s asked again, although it was answered: %s", a.name, c.id))
			}
		}
	}
	w.say("%s took %d calls", a.name, fresh)
	if fresh == 0 {
		wrong = append(wrong, a.name+" made no call")
	}
	faults, err := w.read(ctx, a)
	return append(wrong, faults...), err
}

// broke says which batches wait for money, and do nothing else: a limit of their own, or a budget that is spent.
const broke = ` and not (state = 'paused' and pause_reason = 'budget' and not exists (select 1 from tickets where batch_id = b.id)
	and exists (select 1 from budgets g cross join lateral budget_period(g.period, g.time_zone, now()) n
		left join budget_periods p on p.budget_id = g.id and p.starts_at = n.starts_at
		where g.project_id = b.project_id and coalesce(g.api_key_id, b.api_key_id) is not distinct from b.api_key_id and coalesce(g.batch_id, b.id) = b.id
			and coalesce(p.spent_microusd, 0) + coalesce((select sum(spent_microusd) from budget_slice_totals where budget_id = g.id and starts_at = n.starts_at), 0)
				+ coalesce(b.pause_need_microusd, 0) > g.limit_microusd))`

// await waits until every batch is final, or passed over, and so is every tick that no batch is in the way of.
func (w *world) await(ctx context.Context, limit time.Duration, but string) error {
	for begun := time.Now(); ; {
		// One statement: a tick becomes a batch between two.
		rows, err := w.query(ctx, `select to_jsonb(o) from (select id, name, state, total_jobs, next_seq,
			(select count(*) from tickets where batch_id = b.id) as tickets,
			(select string_agg(state || ' ' || n, ', ') from (select state, count(*) as n from jobs where batch_id = b.id group by 1) j) as jobs
			from batches b where finished_at is null`+but+`) o union all select to_jsonb(o) from (`+openTicks+`) o`)
		if err != nil {
			return err
		}
		if len(rows) == 0 {
			return nil
		}
		if time.Since(begun) > limit {
			return fmt.Errorf("stuck after %s of calm: %s", limit, strings.Join(rows[0], " | "))
		}
		if err := wait(ctx, 50*time.Millisecond); err != nil {
			return err
		}
	}
}
