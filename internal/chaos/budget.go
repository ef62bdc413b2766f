package chaos

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"batchwright/internal/client"
)

// budget is a limit on a project or an API key that somebody makes in the middle of it all.
type budget struct {
	at      time.Duration
	key     int    // the API key, or one of the project's
	scope   string // project or api_key
	period  string // total, day or month
	zone    string
	limit   int64 // micro-dollars
	changes []change
	kept    bool // nobody lifts it in the end
}

// change is what becomes of a budget.
type change struct {
	after time.Duration // since the change before, or since the budget was made
	limit int64         // the new one; deleted is none
}

const deleted = -1

func (b budget) String() string {
	s := fmt.Sprintf("%s: a budget of %d for the %s of key %d, period %s in %s", b.at, b.limit, b.scope, b.key, b.period, b.zone)
	for _, c := range b.changes {
		if c.limit == deleted {
			s += fmt.Sprintf(", deleted after %s", c.after)
		} else {
			s += fmt.Sprintf(", %d after %s", c.limit, c.after)
		}
	}
	if b.kept {
		s += ", kept to the end"
	}
	return s
}

// covers reports whether what the key's batches cost counts in the budget.
func (b budget) covers(key int) bool {
	return b.key == key || b.scope == "project" && b.key%projects == key%projects
}

func (d *dice) budgets() (out []budget) {
	if d.IntN(3) > 0 {
		return nil
	}
	limit := func() int64 { return 2000 + d.Int64N(25_000) }
	for range 1 + d.IntN(3) {
		b := budget{at: d.between(0, span/2), key: d.IntN(apiKeys), scope: pick(d, "project", "api_key"), period: pick(d, "total", "day", "month"),
			zone: pick(d, "UTC", "Europe/Berlin", "Pacific/Auckland"), limit: limit()}
		for d.IntN(2) == 0 && len(b.changes) < 3 {
			b.changes = append(b.changes, change{d.between(100*time.Millisecond, 1200*time.Millisecond), limit()})
		}
		if d.IntN(3) == 0 {
			b.changes = append(b.changes, change{d.between(100*time.Millisecond, 1200*time.Millisecond), deleted})
		}
		out = append(out, b)
	}
	return out
}

// bound is a budget that is in force.
type bound struct {
	budget
	id    string
	most  int64 // that may be charged in a period: the limit, or what was charged before if that is more
	since time.Time
	dead  bool // deleted
}

// govern makes a budget and changes it as planned. Before each change, what the provider billed is held against the limit that was.
func (w *world) govern(ctx context.Context, n int, plan budget) error {
	if err := wait(ctx, plan.at-w.since()); err != nil {
		return err
	}
	c := w.clients[plan.key]
	b := &bound{budget: plan, since: time.Now()}
	name := fmt.Sprintf("budget-%d", n)
	err := w.insist(ctx, name, func(ctx context.Context) error {
		all, err := c.Budgets(ctx) // of an earlier try, whose answer was lost
		if err != nil {
			return err
		}
		if i := slices.IndexFunc(all, func(b client.Budget) bool { return b.Name == name }); i >= 0 {
			b.take(all[i])
			return nil
		}
		ask := client.NewBudget{Scope: plan.scope, Name: name, Period: plan.period, TimeZone: plan.zone, LimitMicrousd: plan.limit}
		if plan.scope == "api_key" {
			ask.APIKeyID = "current"
		}
		made, err := c.CreateBudget(ctx, ask)
		if err == nil {
			b.take(made)
		}
		return err
	})
	if err != nil {
		return err
	}
	w.say("%s is made, at most %d", name, b.most)
	w.mu.Lock()
	w.bounds = append(w.bounds, b)
	w.mu.Unlock()
	for _, change := range plan.changes {
		if err := wait(ctx, change.after); err != nil {
			return err
		}
		w.hold(b)
		w.say("%s: %d becomes %d", name, b.most, change.limit)
		if err := w.amend(ctx, b, change.limit); err != nil {
			return err
		}
	}
	return nil
}

// take notes what the API says of the budget. What was charged when the limit came counts, but nothing more may come to it.
func (b *bound) take(is client.Budget) {
	b.id = is.ID
	b.most = max(is.LimitMicrousd, is.SpentMicrousd+is.ReservedMicrousd)
}

// amend gives a budget another limit, or deletes it.
func (w *world) amend(ctx context.Context, b *bound, limit int64) error {
	c := w.clients[b.key]
	return w.insist(ctx, "changing the budget "+b.id, func(ctx context.Context) error {
		if limit == deleted {
			b.dead = true
			err := c.DeleteBudget(ctx, b.id)
			if p, ok := errors.AsType[*client.Problem](err); ok && p.Status == 404 { // by an earlier try
				return nil
			}
			return err
		}
		is, err := c.SetBudget(ctx, b.id, limit)
		if err == nil {
			b.take(is)
		}
		return err
	})
}

// hold says what is wrong when more was billed under a budget than it allowed.
func (w *world) hold(b *bound) {
	billed := int64(0)
	for _, calls := range w.provider.ledger() {
		for _, c := range calls {
			if b.covers(c.key) && !c.at.Before(b.since.Add(-b.reach(w.plan.day))) {
				billed += c.cost
			}
		}
	}
	most := b.most * b.periods(w.plan.day)
	w.say("under the budget %s was billed %d of %d", b.id, billed, most)
	if billed > most {
		w.accuse("a budget for the %s of key %d allowed %d (%d a %s), and %d was billed", b.scope, b.key, most, b.most, b.period, billed)
	}
}

// length is how long a period is when days are short; 0 is as long as it takes.
func (b *bound) length(day time.Duration) time.Duration {
	switch b.period {
	case "day":
		return day
	case "month":
		return 2 * day
	}
	return 0
}

// reach is how far before the budget's birth what was billed may lie and count: all of it, unless periods are short.
func (b *bound) reach(day time.Duration) time.Duration {
	if b.length(day) > 0 {
		return 0
	}
	return time.Hour
}

// periods is how many of them the budget may have seen.
func (b *bound) periods(day time.Duration) int64 {
	now := time.Now()
	if length := b.length(day); length > 0 {
		return int64(now.Sub(b.since)/length) + 2
	}
	if b.period != "total" && now.Truncate(30*time.Minute) != b.since.Truncate(30*time.Minute) { // midnight, somewhere
		return 2
	}
	return 1
}

// shorten makes days of budgets pass in no time: the database alone says when a period begins.
func (w *world) shorten(ctx context.Context) error {
	if w.plan.day == 0 {
		return nil
	}
	_, err := w.query(ctx, fmt.Sprintf(`create or replace function budget_period(period text, zone text, at timestamptz, out starts_at timestamptz, out ends_at timestamptz)
		language sql stable as $$
		select case when period = 'total' then '-infinity' else to_timestamp(n * s) end, case when period = 'total' then 'infinity' else to_timestamp((n + 1) * s) end
		from (select s, floor(extract(epoch from at) / s) as n from (select case period when 'month' then 2 else 1 end * %g as s) l) p $$`, w.plan.day.Seconds()))
	return err
}

// lift holds all budgets to what they promised, and then takes them away, or makes them large. It reports whether there were any.
func (w *world) lift(ctx context.Context) (there bool, err error) {
	for i, b := range w.bounds {
		if b.dead {
			continue
		}
		there = true
		if b.kept {
			continue
		}
		w.hold(b)
		if err := w.amend(ctx, b, []int64{deleted, 1e12}[i%2]); err != nil {
			return there, err
		}
	}
	return there, nil
}
