package command

import (
	"context"
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"batchwright/internal/client"
)

func (a *app) prices() *cobra.Command {
	return a.group("prices", "See and set what tokens cost, and recompute past costs", a.pricesList(), a.pricesSet(), a.pricesDelete(), a.pricesReprice())
}

func (a *app) pricesList() *cobra.Command {
	var provider, model, at string
	c := &cobra.Command{
		Use: "list", Short: "Show the prices that calls are charged by, in US dollars per million tokens", Args: cobra.NoArgs,
		RunE: a.talk(func(ctx context.Context, api *client.Client, _ []string) error {
			all, err := api.Prices(ctx, provider, model, at)
			if err != nil {
				return err
			}
			w := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "PROVIDER\tMODEL\tFROM\tTO\tINPUT\tOUTPUT\tCACHED\tWRITE\tSOURCE\tID")
			for _, p := range all {
				to := "-"
				if p.ValidTo != nil {
					to = *p.ValidTo
				}
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", clean(p.Provider), clean(p.Model), p.ValidFrom, to, dollars(&p.Rates.Input),
					dollars(&p.Rates.Output), dollars(&p.Rates.CachedInput), dollars(&p.Rates.CacheWrite), p.Source, p.ID)
			}
			return w.Flush()
		}),
	}
	f := c.Flags()
	f.StringVar(&provider, "provider", "", "only this provider")
	f.StringVar(&model, "model", "", "only this model")
	f.StringVar(&at, "at", "", "only what holds on this UTC day, such as 2026-01-31")
	return c
}

func (a *app) pricesSet() *cobra.Command {
	p := client.NewPrice{}
	var input, output, cached, write string
	c := &cobra.Command{
		Use: "set --provider NAME --model NAME --input USD --output USD", Short: "Put a price over the server's, for this project", Args: cobra.NoArgs,
		Long:    "Put a price over the server's, for this project. It holds from the next call on; what was charged before stays until it is recomputed.",
		Example: "  batchwright prices set --provider openai --model gpt-4.1-mini --input 0.36 --output 1.44 --from 2026-07-01",
		RunE: a.talk(func(ctx context.Context, api *client.Client, _ []string) (err error) {
			for _, price := range []struct {
				into *int64
				usd  string
			}{{&p.Rates.Input, input}, {&p.Rates.Output, output}, {&p.Rates.CachedInput, cached}, {&p.Rates.CacheWrite, write}} {
				if price.usd == "" { // as when the table lists none
					price.usd = input
				}
				if *price.into, err = micros(price.usd); err != nil {
					return err
				}
			}
			if p.ValidFrom == "" {
				p.ValidFrom = time.Now().UTC().Format(time.DateOnly)
			}
			set, err := api.SetPrice(ctx, p)
			if err == nil {
				fmt.Fprintln(a.stdout, set.ID)
			}
			return err
		}),
	}
	f := c.Flags()
	f.StringVar(&p.Provider, "provider", "", "provider, such as openai (required)")
	f.StringVar(&p.Model, "model", "", "model as it is asked for, or '*' for those that aren't listed (required)")
	f.StringVar(&input, "input", "", "US dollars per million input tokens (required)")
	f.StringVar(&output, "output", "", "US dollars per million output tokens (required)")
	f.StringVar(&cached, "cached-input", "", "US dollars per million input tokens from the provider's cache (default that of input)")
	f.StringVar(&write, "cache-write", "", "US dollars per million input tokens written to that cache (default that of input)")
	f.StringVar(&p.ValidFrom, "from", "", "first UTC day on which it holds (default today)")
	f.StringVar(&p.ValidTo, "to", "", "UTC day on which it holds no more (default never)")
	for _, name := range []string{"provider", "model", "input", "output"} {
		mustHave(c, name)
	}
	return c
}

func (a *app) pricesDelete() *cobra.Command {
	return &cobra.Command{
		Use: "delete ID", Short: "Remove a price of the project; the server's holds again", Args: cobra.ExactArgs(1),
		RunE: a.talk(func(ctx context.Context, api *client.Client, args []string) error {
			return api.DeletePrice(ctx, args[0])
		}),
	}
}

func (a *app) pricesReprice() *cobra.Command {
	var in client.NewReprice
	var from, to, resume string
	var apply bool
	c := &cobra.Command{
		Use: "reprice", Short: "Say what past calls would cost by today's table, or with --apply make it so", Args: cobra.NoArgs,
		Long: "Recompute the costs of settled calls of finished batches. Without --apply nothing changes. Totals of jobs and batches, and what budgets " +
			"have charged, change with the calls. Costs that a provider reported itself stay.",
		RunE: a.talk(func(ctx context.Context, api *client.Client, _ []string) (err error) {
			var r client.Reprice
			if resume != "" {
				r, err = api.ContinueReprice(ctx, client.Reprice{ID: resume})
			} else {
				if in.From, err = when("from", from); err != nil {
					return err
				}
				if in.To, err = when("to", to); err != nil {
					return err
				}
				in.DryRun = !apply
				r, err = api.Reprice(ctx, in)
			}
			if err != nil {
				return err
			}
			w := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
			fmt.Fprintf(w, "calls\t%d in %s\nchanged\t%d\ncost before\t%s, and %s of unknown cost\ncost after\t%s, and %s of unknown cost\n", r.Calls,
				plural(r.Batches, "batch", "batches"), r.ChangedCalls, dollars(&r.OldCostMicrousd), plural(r.UnknownBefore, "call", "calls"),
				dollars(&r.NewCostMicrousd), plural(r.UnknownAfter, "call", "calls"))
			if r.ReportedCalls > 0 {
				fmt.Fprintf(w, "left alone\t%s whose provider said what it charged\n", plural(r.ReportedCalls, "call", "calls"))
			}
			if r.DryRun {
				fmt.Fprintln(w, "\nNothing was changed: repeat it with --apply to do so.")
			}
			return w.Flush()
		}),
	}
	f := c.Flags()
	f.BoolVar(&apply, "apply", false, "change what the calls cost")
	f.StringVar(&from, "from", "", "calls that started then or later: a UTC day, or a time such as 2026-01-31T06:00:00Z")
	f.StringVar(&to, "to", "", "calls that started before")
	f.StringVar(&in.Provider, "provider", "", "calls to this provider only")
	f.StringVar(&in.Model, "model", "", "calls that asked for this model only")
	f.StringVar(&in.AsOf, "as-of", "", "take the prices of this UTC day (default those of the day of each call)")
	f.StringVar(&resume, "resume", "", "go on with the recomputation of this id, which broke off")
	return c
}

// when reads a day or a time; empty is nil.
func when(flag, s string) (*time.Time, error) {
	if s == "" {
		return nil, nil
	}
	for _, form := range []string{time.DateOnly, time.RFC3339} {
		if t, err := time.Parse(form, s); err == nil {
			return &t, nil
		}
	}
	return nil, usagef("--%s: %.40q is neither a day such as 2026-01-31 nor a time such as 2026-01-31T06:00:00Z", flag, s)
}

func (a *app) savings() *cobra.Command {
	return &cobra.Command{
		Use: "savings ID", Short: "Show what a batch would have cost more without each cache", Args: cobra.ExactArgs(1),
		RunE: a.talk(func(ctx context.Context, api *client.Client, args []string) error {
			s, err := api.Savings(ctx, args[0])
			if err != nil {
				return err
			}
			fmt.Fprintf(a.stdout, "cost %s, and %s of unknown cost\n", dollars(&s.CostMicrousd), plural(s.UnpricedCalls, "call", "calls"))
			if len(s.Data) == 0 {
				fmt.Fprintln(a.stdout, "no cache saved anything")
				return nil
			}
			w := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "CACHE\tPROVIDER\tMODEL\tUSES\tUNKNOWN\tINPUT TOKENS\tOUTPUT TOKENS\tSAVED")
			for _, d := range s.Data {
				fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%d\t%d\t%d\t%s\n", d.Kind, clean(d.Provider), clean(d.Model), d.Uses, d.Unknown, d.InputTokens, d.OutputTokens, signed(d.SavedMicrousd))
			}
			return w.Flush()
		}),
	}
}

// signed is dollars of an amount that may be below zero.
func signed(micro int64) string {
	if micro < 0 {
		micro = -micro
		return "-" + dollars(&micro)
	}
	return dollars(&micro)
}
