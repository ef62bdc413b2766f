package command

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"batchwright/internal/client"
)

func (a *app) rerun() *cobra.Command {
	var o client.RerunOptions
	var route, params, changes string
	var maxAge time.Duration
	var priority int
	var wait bool
	c := &cobra.Command{
		Use: "rerun BATCH", Short: "Run a batch's jobs again, as a new batch", Args: cobra.ExactArgs(1),
		Long: `Run a batch's jobs again, as a new batch, and print its id. The inputs are those that the server
has; those of a batch with a source are gathered anew. What no flag changes is as it was, and the result cache answers what it can: only what changed
makes calls.

Changes are one JSON object a line, as for submit, in a file or - for standard input: a job with the
custom_id of one of the batch takes its place, one with "removed": true leaves it out, any other is
new.`,
		Example: `  batchwright rerun BATCH --wait
  batchwright rerun BATCH --template latest --changes edits.ndjson
  batchwright rerun BATCH --cache only
  batchwright rerun BATCH --max-age 168h`,
	}
	f := c.Flags()
	f.StringVar(&o.Template, "template", "", "another template version: NAME, NAME@VERSION, or latest")
	f.StringVar(&route, "route", "", "another route: a stored one, latest, a chain, or JSON")
	f.StringVar(&params, "params", "", "other options of the kind, a JSON object, or @FILE with one")
	f.StringVar(&o.Name, "name", "", "another name, for people")
	f.StringVar(&o.OnInvalid, "on-invalid", "", "refuse or skip jobs that can't be run")
	f.StringVar(&o.Cache, "cache", "", "use (default), refresh, only (no call is made) or off")
	f.DurationVar(&maxAge, "max-age", 0, "how old a cached answer may be, such as 24h (default: any age)")
	f.Lookup("max-age").DefValue = "" // the text says it
	f.StringToStringVar(&o.Metadata, "metadata", nil, "other labels, as KEY=VALUE,...")
	f.IntVar(&priority, "priority", 0, "another priority, from -10 to 10")
	f.StringVar(&o.Inputs, "inputs", "", "of a batch with a source: source (default) lists it again, same runs the inputs that it had")
	f.StringVar(&changes, "changes", "", "file with changed, new and removed jobs, or -")
	f.StringVar(&o.IdempotencyKey, "idempotency-key", "", "makes a repeat safe: the same key and rerun is the same batch")
	f.BoolVar(&wait, "wait", false, "wait for the end, showing progress on standard error")
	c.RunE = a.talk(func(ctx context.Context, api *client.Client, args []string) error {
		var err error
		if o.Params, err = readParams(params); err != nil {
			return err
		}
		if f.Changed("max-age") {
			if maxAge < time.Second || maxAge > math.MaxInt32*time.Second {
				return usagef("--max-age is not a second or more, and less than 68 years")
			}
			o.MaxAgeSeconds = int(maxAge / time.Second)
		}
		if f.Changed("priority") {
			o.Priority = &priority
		}
		o.Route = client.RouteOf(route)
		switch changes {
		case "":
		case "-":
			o.Changes = a.stdin
		default:
			file, err := os.Open(changes)
			if err != nil {
				return err
			}
			defer file.Close()
			o.Changes, o.Encoding = file, encodings[extension(changes)]
		}
		b, err := api.Rerun(ctx, args[0], o)
		if err != nil {
			return err
		}
		fmt.Fprintln(a.stdout, b.ID)
		if b.Replayed {
			fmt.Fprintln(a.stderr, "This rerun was asked for before, with the same idempotency key.")
		}
		if !wait {
			return nil
		}
		return a.await(ctx, a.stderr, api, b)
	})
	return c
}

func (a *app) diff() *cobra.Command {
	var status string
	var text, asJSON bool
	c := &cobra.Command{
		Use: "diff BEFORE AFTER", Short: "Show what differs between two batches, why, and what it cost", Args: cobra.ExactArgs(2),
		Long: `Show what differs between two batches that have ended: the counts, and each job that changed, is
new or gone. Jobs are matched by custom_id, those without one by their position.`,
		Example: "  batchwright diff BEFORE AFTER --text\n  batchwright diff BEFORE AFTER --json --status changed",
		RunE: a.talk(func(ctx context.Context, api *client.Client, args []string) error {
			if asJSON {
				return output("", a.stdout, func(w io.Writer) error {
					for i, err := range api.Diff(ctx, args[0], args[1], status, text) {
						if err != nil {
							return err
						}
						if _, err := w.Write(append(i.Raw, '\n')); err != nil {
							return err
						}
					}
					return nil
				})
			}
			s, err := api.DiffSummary(ctx, args[0], args[1])
			if err != nil {
				return err
			}
			fmt.Fprintln(a.stdout, diffLine(s))
			if status == "" && s.Items == s.Statuses["same"] {
				return nil
			}
			fmt.Fprintln(a.stdout)
			return output("", a.stdout, func(w io.Writer) error {
				for i, err := range api.Diff(ctx, args[0], args[1], status, text) {
					if err != nil {
						return err
					}
					if status != "" || i.Status != "same" {
						writeDiff(w, i)
					}
				}
				return nil
			})
		}),
	}
	c.Flags().StringVar(&status, "status", "", "only jobs that are same, changed, new or gone")
	c.Flags().BoolVar(&text, "text", false, "show how the outputs differ")
	c.Flags().BoolVar(&asJSON, "json", false, "print every job as JSON, one a line")
	return c
}

// diffLine is a diff in a sentence.
func diffLine(s client.DiffSummary) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s same, %s changed, %s new, %s gone", plural(s.Items, "job", "jobs"), number(s.Statuses["same"]), number(s.Statuses["changed"]),
		number(s.Statuses["new"]), number(s.Statuses["gone"]))
	for n, reason := range slices.SortedFunc(maps.Keys(s.Reasons), func(x, y string) int {
		return cmp.Or(cmp.Compare(s.Reasons[y], s.Reasons[x]), cmp.Compare(x, y))
	}) {
		b.WriteString([]string{"; ", ", "}[min(n, 1)])
		fmt.Fprintf(&b, "%s of %s", clean(reason), number(s.Reasons[reason]))
	}
	fmt.Fprintf(&b, "; cost %s, was %s", dollars(&s.AfterMicroUSD), dollars(&s.BeforeMicroUSD))
	if s.JobsWithoutCost > 0 {
		fmt.Fprintf(&b, ", without %s of unknown cost", plural(s.JobsWithoutCost, "job", "jobs"))
	}
	return b.String()
}

// writeDiff writes a job of a diff, and how its outputs differ.
func writeDiff(w io.Writer, i client.DiffItem) {
	side := i.After
	if side == nil {
		side = i.Before
	}
	if side == nil {
		return
	}
	change := "unknown"
	if i.CostMicroUSD != nil {
		change = dollars(i.CostMicroUSD)
		if *i.CostMicroUSD < 0 {
			less := -*i.CostMicroUSD
			change = "-" + dollars(&less)
		}
	}
	fmt.Fprintf(w, "%-7s  %s  %s", i.Status, clean(deref(i.CustomID, side.JobID)), change)
	if len(i.Reasons) > 0 {
		fmt.Fprintf(w, "  (%s)", clean(strings.Join(i.Reasons, ", ")))
	}
	fmt.Fprintln(w)
	if i.TextDiff == "" {
		return
	}
	for line := range strings.Lines(i.TextDiff) {
		fmt.Fprintf(w, "    %s%s\n", line[:1], clean(line[1:])) // answers may hold what a terminal obeys
	}
}
