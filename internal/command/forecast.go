package command

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"batchwright/internal/client"
)

func (a *app) forecast() *cobra.Command {
	return &cobra.Command{
		Use: "forecast BATCH", Short: "Show what a batch was expected to call, take and cost", Args: cobra.ExactArgs(1),
		Long: `Show what a batch was expected to call, take and cost when its planning ended. P50 is as likely too low
as too high, P90 too low in one case of ten. "batchwright submit --dry-run" shows it beforehand.`,
		RunE: a.talk(func(ctx context.Context, api *client.Client, args []string) error {
			f, err := api.Forecast(ctx, args[0])
			if err != nil {
				return err
			}
			return a.showForecast(f)
		}),
	}
}

func (a *app) showForecast(f client.Forecast) error {
	fmt.Fprintf(a.stdout, "%s: %s from the cache, %s, %s to ask; from %s and %s.\n", plural(f.Jobs, "job", "jobs"), number(f.ResultHits),
		number(f.Coalesced)+" like another", number(f.Jobs-f.ResultHits-f.Coalesced-f.InvalidJobs), plural(f.CountedJobs, "job whose tokens were counted", "jobs whose tokens were counted"),
		plural(int64(f.HistoryBatches), "earlier batch", "earlier batches"))
	if f.InvalidJobs > 0 {
		fmt.Fprintf(a.stdout, "%s can't run.\n", plural(f.InvalidJobs, "job", "jobs"))
	}
	for _, t := range []table{forecastTotals(f), forecastSteps(f)} {
		if len(t.rows) == 0 { // nothing will be called
			continue
		}
		fmt.Fprintln(a.stdout)
		if err := t.write(a.stdout, a.width(a.stdout)); err != nil {
			return err
		}
	}
	if f.Reason != "" {
		held := map[string]string{"pause": "paused", "refuse": "refused"}[f.Verdict]
		if f.DryRun {
			held = "to be " + held
		}
		fmt.Fprintf(a.stdout, "\nThe batch is %s: %s\n", held, clean(f.Reason))
	}
	return nil
}

func forecastTotals(f client.Forecast) table {
	t := table{head: []string{"expected", "P50", "P90"}, right: []bool{false, true, true}}
	row := func(name, p50, p90 string) { t.rows = append(t.rows, []string{name, p50, p90}) }
	count := func(name string, s client.Spread) { row(name, number(s.P50), number(s.P90)) }
	count("calls", f.Calls)
	count("input tokens", f.InputTokens)
	count("  from a prefix cache", f.CachedInputTokens)
	count("output tokens", f.OutputTokens)
	if c := f.CostMicrousd; c != nil {
		row("cost", dollars(&c.P50), dollars(&c.P90))
	} else {
		row("cost", dollars(nil), dollars(nil))
	}
	ms := func(n int64) string { return seconds(time.Duration(n) * time.Millisecond) }
	row("time", ms(f.DurationMS.P50), ms(f.DurationMS.P90))
	return t
}

// forecastSteps has a row a step, with the P90s, which don't add up to those of the batch.
func forecastSteps(f client.Forecast) table {
	t := table{head: []string{"step", "calls", "input", "output", "cost", "P90", "answers seen"}, right: []bool{false, true, true, true, true, true}, flex: 1, least: 16}
	staged := slices.ContainsFunc(f.Steps, func(s client.ForecastStep) bool { return s.Stage > 0 })
	for _, s := range f.Steps {
		step := s.Provider + ":" + s.Model
		if staged {
			step = fmt.Sprintf("stage %d, %s", s.Stage, step)
		}
		cost := []string{dollars(nil), dollars(nil)}
		if c := s.CostMicrousd; c != nil {
			cost = []string{dollars(&c.P50), dollars(&c.P90)}
		}
		seen := "none"
		if s.HistoryCalls > 0 {
			seen = fmt.Sprintf("%s of the %s", number(s.HistoryCalls), s.HistoryOf)
		}
		t.rows = append(t.rows, []string{clean(step), number(s.Calls.P50), number(s.InputTokens.P50), number(s.OutputTokens.P50), cost[0], cost[1], seen})
	}
	return t
}

// dryRun submits what the arguments name as a dry run, and shows its forecast.
func (a *app) dryRun(ctx context.Context, api *client.Client, args []string, o client.BatchOptions) error {
	if o.Source != nil {
		return usagef("--dry-run doesn't go with --source: a worker gathers the jobs later; submit it with --max-cost-usd and --on-forecast-over pause instead")
	}
	f, err := sender[client.Forecast]{documents: api.ForecastDocuments, ndjson: api.ForecastNDJSON, csv: api.ForecastCSV}.send(ctx, a.stdin, args, o)
	if err != nil {
		return err
	}
	return a.showForecast(f)
}
