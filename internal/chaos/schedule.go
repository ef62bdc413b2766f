package chaos

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"batchwright/internal/client"
)

// timetable is a schedule that somebody makes in the middle of it all. It ends by itself.
type timetable struct {
	at      time.Duration
	lasts   time.Duration
	every   time.Duration   // whole seconds
	overlap string          // skip, queue or cancel_older
	catchUp string          // none, last or all
	load                    // what it runs; of its fields only name, key, cache, route and tags count
	runs    []time.Duration // since it was made: somebody has it run at once, and asks twice
}

func (t timetable) String() string {
	s := fmt.Sprintf("%s: key %d schedules %s every %s for %s: %d jobs, cache %s, route %s, overlap %s, catch-up %s", t.at, t.key, t.name, t.every, t.lasts, len(t.tags),
		t.cache, t.route, t.overlap, t.catchUp)
	for _, r := range t.runs {
		s += fmt.Sprintf(", run now after %s", r)
	}
	return s
}

// ticking is a schedule that is there.
type ticking struct {
	timetable
	id string
}

// ran is what the names of its batches begin with.
func (t timetable) ran() string { return t.name + "-tick-" }

// tickPoints are those at which a worker can die on the way from a due time to its batch. The other points are in a list of their own, from which
// the plans of seeds are drawn.
var tickPoints = []string{"ticks-made", "tick-claimed", "tick-submitted", "tick-started"}

func (d *dice) timetables() (out []timetable) {
	if d.IntN(3) > 0 {
		return nil
	}
	for i := range 1 + d.IntN(2) {
		t := timetable{at: d.between(0, span/2), lasts: d.between(2*time.Second, 5*time.Second), every: time.Duration(1+d.IntN(2)) * time.Second,
			overlap: pick(d, "skip", "queue", "cancel_older"), catchUp: pick(d, "none", "last", "all", "all"),
			load: load{name: fmt.Sprintf("nightly-%d", i), key: d.IntN(apiKeys), cache: pick(d, "use", "use", "use", "refresh"), route: pick(d, direct, chain, byGateway)}}
		for n := range 5 + d.IntN(20) {
			t.tags = append(t.tags, fmt.Sprintf(pick(d, "t%d", "nightly-%d"), n))
		}
		for d.IntN(2) == 0 && len(t.runs) < 2 {
			t.runs = append(t.runs, d.between(100*time.Millisecond, 2*time.Second))
		}
		out = append(out, t)
	}
	return out
}

// nights are schedules with each of the rules for what overlaps, over what the loads ask for as well.
func (p *plan) nights() {
	for i, overlap := range []string{"skip", "queue", "cancel_older"} {
		t := timetable{at: time.Duration(i) * 200 * time.Millisecond, lasts: 5 * time.Second, every: time.Second, overlap: overlap, catchUp: "all",
			load: load{name: "nightly-" + overlap, key: i, cache: "use", route: direct}, runs: []time.Duration{700 * time.Millisecond}}
		for n := range 12 {
			t.tags = append(t.tags, fmt.Sprintf("t%d", 20*i+n))
		}
		p.timetables = append(p.timetables, t)
	}
}

// plant makes a schedule, has it run when somebody wants that, and leaves it to itself.
func (w *world) plant(ctx context.Context, t timetable) error {
	if err := wait(ctx, t.at-w.since()); err != nil {
		return err
	}
	o := t.options("")
	jobs := "[" + strings.ReplaceAll(strings.TrimSpace(t.lines(0, len(t.tags))), "\n", ",") + "]"
	route := json.RawMessage(t.route)
	if !json.Valid(route) {
		route = quoted(t.route)
	}
	begun := time.Now()
	starts := begun.UTC().Truncate(time.Second)
	ends := starts.Add(t.lasts)
	body, err := json.Marshal(map[string]any{"name": t.name, "cron": "@every " + t.every.String(), "starts_at": starts, "ends_at": ends, "overlap": t.overlap,
		"catch_up": t.catchUp, "catch_up_limit": 100,
		"batch": map[string]any{"kind": o.Kind, "template": o.Template, "route": route, "cache": t.cache, "jobs": json.RawMessage(jobs)}})
	if err != nil {
		return err
	}
	var made client.Schedule
	err = w.insist(ctx, t.name, func(ctx context.Context) error { // one whose answer was lost is there as well
		return w.ask(ctx, t.key, http.MethodPost, "/v1/schedules", "application/json", strings.NewReader(string(body)), "", &made)
	})
	if p, ok := errors.AsType[*client.Problem](err); ok && p.Status == http.StatusBadRequest && strings.Contains(p.Detail, "ends_at") && time.Now().Add(t.every).After(ends) {
		w.say("%s came when its time was over: %v", t.name, err)
		return nil
	} else if err != nil {
		return err
	}
	w.say("%s is scheduled as %s", t.name, made.ID)
	for i, r := range t.runs {
		if err := wait(ctx, r-time.Since(begun)); err != nil {
			return err
		}
		if err := w.runNow(ctx, t.key, made.ID, fmt.Sprintf("%s-run-%d", t.name, i)); err != nil {
			return err
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.schedules = append(w.schedules, ticking{t, made.ID})
	return nil
}

// runNow asks for a tick twice at once, under one key.
func (w *world) runNow(ctx context.Context, key int, schedule, run string) error {
	var ticks [2]client.Tick
	err := twice(func(i int) error {
		return w.insist(ctx, run, func(ctx context.Context) error {
			return w.ask(ctx, key, http.MethodPost, "/v1/schedules/"+schedule+"/run", "application/json", http.NoBody, run, &ticks[i])
		})
	})
	if err == nil && !ticks[0].DueAt.Equal(ticks[1].DueAt) {
		w.accuse("%s: one idempotency key made two ticks, of %s and %s", run, ticks[0].DueAt, ticks[1].DueAt)
	}
	return err
}

// twice is two clients who ask for the same at once.
func twice(ask func(i int) error) error {
	var errs [2]error
	var wg sync.WaitGroup
	for i := range errs {
		wg.Go(func() { errs[i] = ask(i) })
	}
	wg.Wait()
	return errors.Join(errs[:]...)
}

// again has the server run a batch once more, asked twice at once under one key.
func (w *world) again(ctx context.Context, l load, id, name string) (a accepted, err error) {
	l.name, l.cache, l.moves, l.again = name, "use", nil, 0
	a = accepted{load: l, sent: len(l.tags)}
	var made [2]client.Batch
	err = twice(func(i int) error {
		return w.insist(ctx, name, func(ctx context.Context) error {
			return w.ask(ctx, l.key, http.MethodPost, "/v1/batches/"+id+"/rerun", "application/json", strings.NewReader(`{"name":"`+name+`","cache":"use"}`), name, &made[i])
		})
	})
	if err != nil {
		return a, err
	}
	if made[0].ID != made[1].ID {
		return a, fmt.Errorf("%s: one idempotency key made two reruns, %s and %s", name, made[0].ID, made[1].ID)
	}
	a.id = made[0].ID
	w.say("%s is accepted as %s", name, a.id)
	return a, nil
}

// openTicks are those that aren't final, and schedules that will be due, but for what waits for a batch that another query tells.
const openTicks = `select s.name, s.next_due_at, t.due_at, t.state, t.reason, t.attempts from schedules s left join ticks t on t.schedule_id = s.id and t.ended_at is null
	where (s.next_due_at is not null or t.due_at is not null)
		and not exists (select 1 from ticks o join batches b on b.id = o.batch_id where o.schedule_id = s.id and b.finished_at is null)`

// punctual are laws of schedules, for when all ticks are final.
var punctual = []law{
	{"a due time has no tick", `select s.name, g.due from schedules s,
		generate_series(s.starts_at, s.ends_at - interval '1 microsecond', split_part(s.cron, ' ', 2)::interval) g(due)
		where g.due > s.created_at and not exists (select 1 from ticks t where t.schedule_id = s.id and t.due_at = g.due)`},
	{"a tick was not due", `select s.name, t.due_at from schedules s join ticks t on t.schedule_id = s.id where not t.manual and (t.due_at < s.starts_at or t.due_at >= s.ends_at
		or mod(extract(epoch from t.due_at - s.starts_at), extract(epoch from split_part(s.cron, ' ', 2)::interval)) <> 0)`},
	{"a tick has neither a batch nor a reason, or isn't final", `select * from ticks where ended_at is null or batch_id is null and reason is null`},
	{"a tick failed", `select * from ticks where state = 'failed'`},
	{"a tick was missed, though all are made up for", `select t.* from ticks t join schedules s on s.id = t.schedule_id where t.state = 'missed' and s.catch_up = 'all'`},
	{"a batch was made for a tick that doesn't have it", `select b.id, b.state, b.idempotency_key from batches b where b.idempotency_key like 'tick:%'
		and (b.state <> 'failed' or b.started_at is not null) and not exists (select 1 from ticks where batch_id = b.id)`},
	{"a tick is skipped for a batch, though its schedule doesn't skip", `select t.* from ticks t join schedules s on s.id = t.schedule_id where t.state = 'skipped' and s.overlap <> 'skip'`},
}

// gather holds the schedules to their laws, and adds their batches to those that are looked at one by one.
func (w *world) gather(ctx context.Context) (wrong []string, err error) {
	if wrong, err = w.obey(ctx, punctual); err != nil {
		return wrong, err
	}
	for _, s := range w.schedules {
		rows, err := w.query(ctx, `select t.batch_id from ticks t join schedules s on s.id = t.schedule_id where s.name = $1 and t.batch_id is not null order by t.due_at`, s.name)
		if err != nil {
			return wrong, err
		}
		w.say("%s ran %d times", s.name, len(rows))
		if len(rows) == 0 && s.catchUp == "all" && len(s.runs) > 0 {
			wrong = append(wrong, s.name+" never ran")
		}
		for i, row := range rows {
			a := accepted{load: s.load, id: row[0], sent: len(s.tags)}
			a.name = fmt.Sprintf("%s%d", s.ran(), i)
			if s.overlap == "cancel_older" {
				a.moves = []move{{verb: "cancel"}} // by the next one
			}
			w.accepted = append(w.accepted, a)
		}
	}
	return wrong, nil
}

// repeat runs schedules and batches again whose every answer is known: no call may be made.
func (w *world) repeat(ctx context.Context) (wrong []string, err error) {
	for _, s := range w.schedules {
		i := slices.IndexFunc(w.accepted, func(a accepted) bool { return strings.HasPrefix(a.name, s.ran()) && a.cache == "use" })
		if whole, err := w.whole(ctx, i); err != nil {
			return wrong, err
		} else if !whole {
			continue
		}
		calls := w.provider.calls.Load()
		run := s.name + "-last-run"
		if err := w.runNow(ctx, s.key, s.id, run); err != nil {
			return wrong, err
		}
		if err := w.await(ctx, 20*time.Second, ""); err != nil {
			return append(wrong, fmt.Sprintf("%s: %v", run, err)), nil
		}
		rows, err := w.query(ctx, `select t.batch_id from ticks t where t.run_key = $1 and t.batch_id is not null`, run)
		if err != nil {
			return wrong, err
		}
		if len(rows) != 1 {
			wrong = append(wrong, fmt.Sprintf("%s has %d batches", run, len(rows)))
			continue
		}
		faults, err := w.costless(ctx, s.key, rows[0][0], run, calls)
		if wrong = append(wrong, faults...); err != nil {
			return wrong, err
		}
	}
	i := slices.IndexFunc(w.accepted, accepted.repeatable)
	if whole, err := w.whole(ctx, i); err != nil || !whole {
		return wrong, err
	}
	calls := w.provider.calls.Load()
	a, err := w.again(ctx, w.accepted[i].load, w.accepted[i].id, "last-rerun")
	if err != nil {
		return wrong, err
	}
	if err := w.await(ctx, 20*time.Second, ""); err != nil {
		return append(wrong, fmt.Sprintf("%s: %v", a.name, err)), nil
	}
	faults, err := w.costless(ctx, a.key, a.id, a.name, calls)
	return append(wrong, faults...), err
}

// repeatable reports whether the batch, once all of it succeeded, is known to the cache and can be asked for again as it was.
func (a accepted) repeatable() bool {
	return a.cache == "use" && len(a.moves) == 0 && a.expires == 0 && a.parts == 0
}

// whole reports whether every job of an accepted batch has its answer.
func (w *world) whole(ctx context.Context, i int) (bool, error) {
	if i < 0 {
		return false, nil
	}
	b, err := w.clients[w.accepted[i].key].Batch(ctx, w.accepted[i].id)
	return err == nil && b.Stats.Jobs.Succeeded == b.TotalJobs, err
}

// costless says what is wrong with a batch that was to be answered from the cache alone, since the provider had been called so often.
func (w *world) costless(ctx context.Context, key int, id, name string, calls int64) ([]string, error) {
	b, err := w.clients[key].Batch(ctx, id)
	if err != nil {
		return nil, err
	}
	if made := w.provider.calls.Load() - calls; made > 0 || b.Stats.Calls > 0 || b.Stats.Cache.ResultHit != b.TotalJobs {
		return []string{fmt.Sprintf("%s made %d calls, its ledger has %d, and %d of %d jobs were result hits", name, made, b.Stats.Calls, b.Stats.Cache.ResultHit, b.TotalJobs)}, nil
	}
	return nil, nil
}
