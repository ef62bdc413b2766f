package command

import (
	"context"
	"fmt"
	"math/big"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"batchwright/internal/client"
)

func (a *app) budget() *cobra.Command {
	return a.group("budget", "Limit what calls may cost", a.budgetCreate(), a.budgetList(), a.budgetSet(), a.budgetDelete())
}

func (a *app) budgetCreate() *cobra.Command {
	var b client.NewBudget
	var limit string
	c := &cobra.Command{
		Use: "create --usd AMOUNT", Short: "Make a budget and print its id", Args: cobra.NoArgs,
		Example: "  batchwright budget create --usd 25 --period day --time-zone Europe/Berlin",
		RunE: a.talk(func(ctx context.Context, api *client.Client, _ []string) (err error) {
			if b.LimitMicrousd, err = micros(limit); err != nil {
				return err
			}
			made, err := api.CreateBudget(ctx, b)
			if err == nil {
				fmt.Fprintln(a.stdout, made.ID)
			}
			return err
		}),
	}
	f := c.Flags()
	f.StringVar(&limit, "usd", "", "most that calls may be charged in a period, in US dollars (required)")
	f.StringVar(&b.Scope, "scope", "project", "whose calls count: project, api_key or batch")
	f.StringVar(&b.APIKeyID, "api-key", "", "of scope api_key: the key's id, or current")
	f.StringVar(&b.BatchID, "batch", "", "of scope batch: the batch")
	f.StringVar(&b.Name, "name", "", "what it is for")
	f.StringVar(&b.Period, "period", "total", "when counting starts anew: total (never), day or month")
	f.StringVar(&b.TimeZone, "time-zone", "", "IANA name of the zone of days and months (default UTC)")
	mustHave(c, "usd")
	return c
}

func (a *app) budgetList() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "Show budgets and what is left of them", Args: cobra.NoArgs,
		RunE: a.talk(func(ctx context.Context, api *client.Client, _ []string) error {
			all, err := api.Budgets(ctx)
			if err != nil {
				return err
			}
			w := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "ID\tSCOPE\tPERIOD\tLIMIT\tSPENT\tRESERVED\tLEFT\tNAME")
			for _, b := range all {
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", b.ID, b.Scope, b.Period, dollars(&b.LimitMicrousd), dollars(&b.SpentMicrousd),
					dollars(&b.ReservedMicrousd), dollars(&b.RemainingMicrousd), clean(b.Name))
			}
			return w.Flush()
		}),
	}
}

func (a *app) budgetSet() *cobra.Command {
	var limit string
	c := &cobra.Command{
		Use: "set ID --usd AMOUNT", Short: "Change a budget's limit", Args: cobra.ExactArgs(1),
		Long: "Change a budget's limit. A higher one resumes the batches that were paused for it.",
		RunE: a.talk(func(ctx context.Context, api *client.Client, args []string) error {
			most, err := micros(limit)
			if err != nil {
				return err
			}
			_, err = api.SetBudget(ctx, args[0], most)
			return err
		}),
	}
	c.Flags().StringVar(&limit, "usd", "", "the new limit, in US dollars (required)")
	mustHave(c, "usd")
	return c
}

func (a *app) budgetDelete() *cobra.Command {
	return &cobra.Command{
		Use: "delete ID", Short: "Remove a budget; batches that were paused for it go on", Args: cobra.ExactArgs(1),
		RunE: a.talk(func(ctx context.Context, api *client.Client, args []string) error {
			return api.DeleteBudget(ctx, args[0])
		}),
	}
}

func mustHave(c *cobra.Command, flag string) {
	if err := c.MarkFlagRequired(flag); err != nil {
		panic(err) // the flag is a few lines above
	}
}

// micros reads an amount of US dollars as millionths, exactly.
func micros(usd string) (int64, error) {
	r, ok := new(big.Rat), len(usd) <= 20 && strings.Trim(usd, "0123456789.") == "" // a Rat also reads 1/3 and 1e9
	if ok {
		_, ok = r.SetString(usd)
	}
	if ok {
		r.Mul(r, big.NewRat(1_000_000, 1))
	}
	if !ok || !r.IsInt() || r.Sign() < 0 || !r.Num().IsInt64() {
		return 0, usagef("%.40q is not an amount of US dollars: want one such as 25 or 0.50, with at most six decimals", usd)
	}
	return r.Num().Int64(), nil
}
