package command

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mattn/go-isatty"
	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/cwriter"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/sync/errgroup"

	"batchwright/internal/client"
)

// terminal reports whether w can show a bar.
func (a *app) terminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && isatty.IsTerminal(f.Fd()) && a.getenv("TERM") != "dumb"
}

// width is how many columns w has; what isn't a terminal gets 120.
func (a *app) width(w io.Writer) int {
	if f, ok := w.(*os.File); ok && a.terminal(w) {
		if width, _, err := cwriter.GetSize(int(f.Fd())); err == nil && width > 0 {
			return width
		}
		return 80
	}
	return 120
}

// display shows how batches come on. Its methods may be called by several goroutines.
type display interface {
	show(i int, b client.Batch)
	close() // no batch will change any more
}

// follow watches batches to their ends and shows their progress on w under their titles.
func (a *app) follow(ctx context.Context, w io.Writer, c *client.Client, titles []string, batches []client.Batch) ([]client.Batch, error) {
	var d display
	if a.terminal(w) {
		d = newBars(w, titles, batches)
	} else {
		d = newLines(w, titles, time.Now)
	}
	ended := make([]client.Batch, len(batches))
	g, ctx := errgroup.WithContext(ctx)
	for i, b := range batches {
		g.Go(func() error {
			for b, err := range c.Watch(ctx, b.ID) {
				if err != nil {
					return err
				}
				ended[i] = b
				d.show(i, b)
			}
			return nil
		})
	}
	err := g.Wait()
	d.close()
	return ended, err
}

// bars are for terminals.
type bars struct {
	progress *mpb.Progress
	bars     []*mpb.Bar
	latest   []atomic.Pointer[client.Batch]
}

func newBars(w io.Writer, titles []string, batches []client.Batch) *bars {
	d := &bars{latest: make([]atomic.Pointer[client.Batch], len(batches))}
	d.progress = mpb.New(mpb.WithOutput(w), mpb.WithWidth(40), mpb.WithRefreshRate(80*time.Millisecond))
	style := mpb.BarStyle().Lbound("[").Filler("=").Tip(">").Padding(" ").Rbound("]")
	for i, b := range batches {
		d.latest[i].Store(&b)
		d.bars = append(d.bars, d.progress.New(max(b.TotalJobs, 1), style,
			mpb.PrependDecorators(decor.Name("  "+titles[i], decor.WCSyncSpaceR)),
			mpb.AppendDecorators(
				decor.Any(func(decor.Statistics) string { return counts(*d.latest[i].Load()) }, decor.WCSyncSpace),
				decor.Any(func(decor.Statistics) string { return " " + spentOrHeld(*d.latest[i].Load()) }, decor.WCSyncSpaceR)),
		))
	}
	return d
}

func (d *bars) show(i int, b client.Batch) {
	d.latest[i].Store(&b)
	d.bars[i].SetCurrent(b.Done())
	if b.Final() {
		d.bars[i].SetTotal(-1, true)
	}
}

func (d *bars) close() {
	for _, b := range d.bars {
		b.Abort(false) // of no effect on those that have ended
	}
	d.progress.Wait()
}

// lines are for files and pipes: one at the start, every few seconds, and at the end.
type lines struct {
	w      io.Writer
	now    func() time.Time
	titles []string
	wide   int

	mu   sync.Mutex
	said []time.Time
	last []string
}

const everySoOften = 3 * time.Second

func newLines(w io.Writer, titles []string, now func() time.Time) *lines {
	d := &lines{w: w, now: now, titles: titles, said: make([]time.Time, len(titles)), last: make([]string, len(titles))}
	for _, title := range titles {
		d.wide = max(d.wide, columns.StringWidth(title))
	}
	return d
}

func (d *lines) show(i int, b client.Batch) {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := d.now()
	if !b.Final() && now.Sub(d.said[i]) < everySoOften {
		return
	}
	line := fmt.Sprintf("  %s  %s  %s, %s", columns.FillRight(d.titles[i], d.wide), counts(b), state(b), spent(b))
	if line == d.last[i] {
		return
	}
	d.said[i], d.last[i] = now, line
	fmt.Fprintln(d.w, line)
}

func (d *lines) close() {}

// state is a batch's state, with why it is paused unless that was asked for.
func state(b client.Batch) string {
	switch {
	case b.Pause == nil:
		return b.State
	case b.State != "paused":
		return b.State + ", then paused"
	case b.Pause.Reason != "requested":
		return fmt.Sprintf("paused for %s (%s)", clean(b.Pause.Reason), clean(b.Pause.Detail))
	}
	return b.State
}

// spentOrHeld says what a batch has used so far, and before that, that it doesn't move.
func spentOrHeld(b client.Batch) string {
	if b.Pause != nil {
		return state(b) + ", " + spent(b)
	}
	return spent(b)
}

// counts is "3/40 jobs".
func counts(b client.Batch) string {
	return fmt.Sprintf("%*s/%s", len(number(b.TotalJobs)), number(b.Done()), plural(b.TotalJobs, "job", "jobs"))
}

// spent says what a batch has used so far.
func spent(b client.Batch) string {
	s := b.Stats
	parts := []string{plural(s.Calls, "call", "calls")}
	if hits := s.Cache.ResultHit; hits > 0 {
		parts = append(parts, plural(hits, "result hit", "result hits"))
	}
	if s.Jobs.Failed > 0 {
		parts = append(parts, number(s.Jobs.Failed)+" failed")
	}
	if s.CostMicroUSD != nil {
		parts = append(parts, dollars(s.CostMicroUSD))
	}
	if p := b.Progress; p != nil && !b.Final() {
		if p.ProjectedCostMicroUSD != nil {
			parts[len(parts)-1] += " of about " + dollars(p.ProjectedCostMicroUSD)
		}
		switch {
		case p.Stalled:
			parts = append(parts, "no progress")
		case p.ETASeconds != nil:
			parts = append(parts, fmt.Sprintf("%.3g/s, %s left", p.Rate, time.Duration(*p.ETASeconds)*time.Second))
		}
	}
	return strings.Join(parts, ", ")
}

// summary says how a batch ended, or how far it is.
func summary(b client.Batch) string {
	s := b.Stats
	parts := []string{fmt.Sprintf("%s: %s of %s succeeded", state(b), number(s.Jobs.Succeeded), plural(b.TotalJobs, "job", "jobs"))}
	some := func(n int64, one, many string) {
		if n > 0 {
			parts = append(parts, plural(n, one, many))
		}
	}
	some(s.Jobs.Failed, "failed", "failed")
	some(s.Jobs.Cancelled, "cancelled", "cancelled")
	some(s.Cache.ResultHit, "result hit", "result hits")
	some(s.Cache.Coalesced, "coalesced", "coalesced")
	some(s.Cache.GatewayHit, "gateway hit", "gateway hits")
	some(s.Cache.Miss, "miss", "misses")
	some(s.Cache.Bypass, "bypass", "bypasses")
	parts = append(parts, plural(s.Calls, "call", "calls"))
	some(s.UncertainCalls, "of them uncertain", "of them uncertain")
	parts = append(parts, number(s.InputTokens)+" tokens in", number(s.OutputTokens)+" out", "cost "+dollars(s.CostMicroUSD))
	if took := took(b); took > 0 {
		parts = append(parts, seconds(took))
	}
	return strings.Join(parts, ", ")
}

// took is the time from submission to the end, to the hundredth of a second; 0 while the batch is open.
func took(b client.Batch) time.Duration {
	if b.FinishedAt == nil {
		return 0
	}
	return max(b.FinishedAt.Sub(b.CreatedAt).Round(10*time.Millisecond), 10*time.Millisecond)
}

// verdict is nil when every job of an ended batch succeeded.
func verdict(b client.Batch) error {
	if b.State == "completed" && b.Stats.Jobs.Succeeded == b.TotalJobs {
		return nil
	}
	why := ""
	if b.Error != nil {
		why = ": " + *b.Error
	}
	return incomplete{fmt.Sprintf("batch %s %s with %s of %s succeeded%s; see batchwright results %s",
		b.ID, cmp.Or(b.State, "is gone"), number(b.Stats.Jobs.Succeeded), plural(b.TotalJobs, "job", "jobs"), why, b.ID)}
}
