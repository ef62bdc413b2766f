package command

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"batchwright/internal/client"
)

func (a *app) exports() *cobra.Command {
	return a.group("exports", "Look after files of results and reports that the server writes", a.listExports(), a.awaitExport(), a.cancelExport())
}

func (a *app) listExports() *cobra.Command {
	var state string
	c := &cobra.Command{
		Use: "list [BATCH]", Short: "List the exports of a batch, or of the project, newest first", Args: cobra.MaximumNArgs(1),
		Example: "  batchwright exports list --state failed",
		RunE: a.talk(func(ctx context.Context, api *client.Client, args []string) error {
			var batch string
			if len(args) > 0 {
				batch = args[0]
			}
			for e, err := range api.Exports(ctx, batch, state) {
				if err == nil && state != "" && e.State != state { // a batch's are not filtered
					continue
				}
				if err := a.printExport(e, err); err != nil {
					return err
				}
			}
			return nil
		}),
	}
	c.Flags().StringVar(&state, "state", "", "only exports that are pending, running, succeeded, failed or cancelled")
	return c
}

func (a *app) awaitExport() *cobra.Command {
	return &cobra.Command{
		Use: "wait EXPORT", Short: "Wait for the end of an export: 0 if its file is there, else 1", Args: cobra.ExactArgs(1),
		RunE: a.talk(func(ctx context.Context, api *client.Client, args []string) error {
			return a.waitExport(ctx, api, args[0])
		}),
	}
}

func (a *app) cancelExport() *cobra.Command {
	return &cobra.Command{
		Use: "cancel EXPORT", Short: "End an export that isn't final; nothing appears of its file", Args: cobra.ExactArgs(1),
		RunE: a.talk(func(ctx context.Context, api *client.Client, args []string) error {
			return a.printExport(api.CancelExport(ctx, args[0]))
		}),
	}
}

var errTwoFiles = usagef("--out is a file here and --target one of the server's: give one of them")

func targetFlags(c *cobra.Command, target *string, wait *bool) {
	f := c.Flags()
	f.StringVar(target, "target", "", "URL of a file that the server writes, below one that its EXPORT_TARGETS allows")
	f.BoolVar(wait, "wait", false, "with --target: wait for the end of the export")
}

// requested shows an export that was asked for, at once or at its end.
func (a *app) requested(ctx context.Context, api *client.Client, wait bool, e client.Export, err error) error {
	if err == nil && wait {
		return a.waitExport(ctx, api, e.ID)
	}
	return a.printExport(e, err)
}

func (a *app) waitExport(ctx context.Context, api *client.Client, id string) error {
	e, err := api.WaitExport(ctx, id)
	if err := a.printExport(e, err); err != nil {
		return err
	}
	if e.State != "succeeded" {
		return fmt.Errorf("the export has %s", clean(e.State))
	}
	return nil
}

func (a *app) printExport(e client.Export, err error) error {
	if err != nil {
		return err
	}
	where := &e.Target
	if e.URL != nil {
		where = e.URL
	}
	line := fmt.Sprintf("%s  %s  %s  %s", e.ID, clean(e.State), plural(e.Rows, "row", "rows"), clean(*where))
	if e.Error != nil {
		line += "  " + clean(*e.Error)
	}
	_, err = fmt.Fprintln(a.stdout, line)
	return err
}
