package chaos

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// outcome is how a run went.
type outcome struct {
	plan  *plan
	took  time.Duration
	wrong []string // what was violated
	err   error    // why it couldn't be told
	story []string
	logs  string // folder, when it is kept
}

func (o *outcome) passed() bool { return len(o.wrong) == 0 && o.err == nil }

// calm is how long all work may take once nothing hurts any more. The longest wait of the product's own is after a rate limit.
const calm = 60 * time.Second

// run makes one run of a plan. The folder of its logs is kept when it fails.
func (l *lab) run(ctx context.Context, p *plan, verbose io.Writer) *outcome {
	begun := time.Now()
	o := &outcome{plan: p}
	o.logs, o.err = os.MkdirTemp(l.logs, fmt.Sprintf("%s-%d-", cmp.Or(p.scenario, random), p.seed))
	w := &world{plan: p, logs: o.logs, verbose: verbose}
	if o.err == nil {
		o.err = w.build(ctx, l)
	}
	if o.err == nil {
		o.wrong, o.err = w.live(ctx)
	}
	if o.err != nil && ctx.Err() == nil {
		w.say("not told: %v", o.err)
	}
	if o.err == nil {
		o.wrong = append(o.wrong, w.retire()...)
	}
	if !o.passed() && w.postgres != nil {
		w.dump(context.WithoutCancel(ctx))
	}
	o.err = errors.Join(o.err, w.close())
	o.story, o.took = w.story, time.Since(begun)
	if o.passed() || ctx.Err() != nil {
		o.err = errors.Join(o.err, os.RemoveAll(o.logs))
		return o
	}
	if err := os.WriteFile(filepath.Join(o.logs, "report.txt"), []byte(o.report()), 0o644); err != nil {
		o.err = errors.Join(o.err, err)
	}
	return o
}

// live is the run itself: load and faults at once, then calm, then the reckoning.
func (w *world) live(ctx context.Context) ([]string, error) {
	w.begin()
	w.provider.start = time.Now()
	harm := make(chan error, 1)
	w.running.Go(func() { harm <- w.harm(ctx) })
	err := w.submit(ctx)
	if err := errors.Join(err, <-harm); err != nil {
		return nil, err
	}
	_ = wait(ctx, span-w.since())
	w.provider.settle()
	w.receiver.settle()
	w.calm = time.Now().UTC().Format(time.RFC3339Nano)
	w.say("calm: all faults are over")
	for _, a := range w.accepted { // those that are paused for good; their time runs on
		if len(a.moves) > 0 && a.expires == 0 {
			if err := w.move(ctx, a.key, a.id, "resume"); err != nil {
				return nil, err
			}
		}
	}
	if err := w.await(ctx, calm, broke); err != nil {
		return []string{err.Error()}, nil
	}
	w.say("all batches are final, or wait for money")
	var wrong []string
	for _, step := range []func(context.Context) ([]string, error){w.raise, w.gather, w.check, w.retry, w.rerun, w.repeat, w.edit, w.told} {
		more, err := step(ctx)
		wrong, w.wrong = slices.Concat(wrong, more, w.wrong), nil
		if err != nil || len(wrong) > 0 {
			return wrong, err
		}
	}
	return nil, nil
}

// dump writes the rows that tell what happened beside the logs.
func (w *world) dump(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	var b strings.Builder
	for _, table := range []string{"batches", "tickets", "jobs", "calls", "workers", "budgets", "budget_periods", "budget_slices", "budget_tallies", "webhooks", "outbox", "schedules", "ticks"} {
		rows, err := w.query(ctx, `select to_jsonb(t) from `+table+` t order by 1`)
		fmt.Fprintf(&b, "-- %s: %d rows, %v\n", table, len(rows), err)
		for _, row := range rows {
			b.WriteString(strings.Join(row, "\t") + "\n")
		}
	}
	_ = os.WriteFile(filepath.Join(w.logs, "rows.txt"), []byte(b.String()), 0o644) // better than nothing
}

// report says all about a run for people.
func (o *outcome) report() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s failed after %s\n", o.plan.title(), o.took.Round(time.Millisecond))
	for _, v := range o.wrong {
		fmt.Fprintf(&b, "  violated: %s\n", v)
	}
	if o.err != nil {
		fmt.Fprintf(&b, "  error: %v\n", o.err)
	}
	b.WriteString("  the plan:\n")
	for _, line := range o.plan.lines() {
		fmt.Fprintf(&b, "    %s\n", line)
	}
	b.WriteString("  what happened:\n")
	for _, line := range o.story {
		fmt.Fprintf(&b, "    %s\n", line)
	}
	fmt.Fprintf(&b, "  its logs and rows: %s\n  again: %s\n", o.logs, o.plan.command())
	return b.String()
}
