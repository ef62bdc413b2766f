package command

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"batchwright/internal/client"
)

func (a *app) webhook() *cobra.Command {
	return a.group("webhook", "Have endpoints told what happens to batches",
		a.createWebhook(), a.listWebhooks(), a.enableWebhook(), a.rotateWebhook(), a.deleteWebhook(), a.testWebhook(), a.deliveries(), a.redeliver())
}

func (a *app) createWebhook() *cobra.Command {
	var events []string
	var description string
	c := &cobra.Command{
		Use: "create URL", Short: "Make a webhook, and print its id and secret", Args: cobra.ExactArgs(1),
		Long: `Make a webhook, and print its id and, on the next line, the secret that its messages are signed
with. The secret is not shown again.`,
		Example: "  batchwright webhook create https://example.com/hooks --event batch.completed --event batch.failed",
	}
	c.Flags().StringArrayVar(&events, "event", nil, "event to send, such as batch.completed; all when left out; may be repeated")
	c.Flags().StringVar(&description, "description", "", "what it is for")
	c.RunE = a.talk(func(ctx context.Context, api *client.Client, args []string) error {
		return a.printSecret(api.CreateWebhook(ctx, args[0], description, events))
	})
	return c
}

func (a *app) rotateWebhook() *cobra.Command {
	return &cobra.Command{
		Use: "rotate WEBHOOK", Short: "Give a webhook a new secret, and print both; the old one signs as well for a day", Args: cobra.ExactArgs(1),
		RunE: a.talk(func(ctx context.Context, api *client.Client, args []string) error {
			return a.printSecret(api.RotateWebhook(ctx, args[0]))
		}),
	}
}

func (a *app) printSecret(w client.Webhook, err error) error {
	if err == nil {
		fmt.Fprintf(a.stdout, "%s\n%s\n", w.ID, w.Secret)
	}
	return err
}

func (a *app) listWebhooks() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List webhooks", Args: cobra.NoArgs,
		RunE: a.talk(func(ctx context.Context, api *client.Client, _ []string) error {
			for w, err := range api.Webhooks(ctx) {
				if err != nil {
					return err
				}
				a.printWebhook(w)
			}
			return nil
		}),
	}
}

func (a *app) printWebhook(w client.Webhook) {
	state := "enabled"
	switch {
	case !w.Enabled && w.DisabledReason != nil:
		state = "disabled (" + clean(*w.DisabledReason) + ")"
	case w.FailingSince != nil:
		state = "failing since " + w.FailingSince.UTC().Format(time.RFC3339)
	}
	fmt.Fprintf(a.stdout, "%s  %s  %s  %s\n", w.ID, state, clean(w.URL), clean(strings.Join(w.Events, ",")))
}

func (a *app) enableWebhook() *cobra.Command {
	return &cobra.Command{
		Use: "enable WEBHOOK", Short: "Enable a webhook that was disabled", Args: cobra.ExactArgs(1),
		RunE: a.talk(func(ctx context.Context, api *client.Client, args []string) error {
			w, err := api.EnableWebhook(ctx, args[0], true)
			if err == nil {
				a.printWebhook(w)
			}
			return err
		}),
	}
}

func (a *app) deleteWebhook() *cobra.Command {
	return &cobra.Command{
		Use: "delete WEBHOOK", Short: "Remove a webhook and its deliveries", Args: cobra.ExactArgs(1),
		RunE: a.talk(func(ctx context.Context, api *client.Client, args []string) error {
			return api.DeleteWebhook(ctx, args[0])
		}),
	}
}

func (a *app) testWebhook() *cobra.Command {
	return &cobra.Command{
		Use: "test WEBHOOK", Short: "Send a webhook a test message", Args: cobra.ExactArgs(1),
		RunE: a.talk(func(ctx context.Context, api *client.Client, args []string) error {
			d, err := api.TestWebhook(ctx, args[0])
			return a.printDelivery(d, err)
		}),
	}
}

func (a *app) deliveries() *cobra.Command {
	var state string
	c := &cobra.Command{
		Use: "deliveries WEBHOOK", Short: "List what a webhook was sent or is to be sent, newest first", Args: cobra.ExactArgs(1),
		RunE: a.talk(func(ctx context.Context, api *client.Client, args []string) error {
			for d, err := range api.Deliveries(ctx, args[0], state) {
				if err := a.printDelivery(d, err); err != nil {
					return err
				}
			}
			return nil
		}),
	}
	c.Flags().StringVar(&state, "state", "", "only deliveries that are pending, delivered or failed")
	return c
}

func (a *app) redeliver() *cobra.Command {
	return &cobra.Command{
		Use: "redeliver WEBHOOK DELIVERY", Short: "Send a message again", Args: cobra.ExactArgs(2),
		RunE: a.talk(func(ctx context.Context, api *client.Client, args []string) error {
			d, err := api.Redeliver(ctx, args[0], args[1])
			return a.printDelivery(d, err)
		}),
	}
}

func (a *app) printDelivery(d client.Delivery, err error) error {
	if err != nil {
		return err
	}
	about, why := "-", ""
	if d.BatchID != nil {
		about = *d.BatchID
	}
	if d.LastError != nil {
		why = "  " + clean(*d.LastError)
	}
	_, err = fmt.Fprintf(a.stdout, "%s  %s  %s  %s  %s, %s%s\n", d.ID, d.CreatedAt.UTC().Format(time.RFC3339), cmp.Or(d.Type, "-"), about, d.State,
		plural(int64(d.Attempts), "attempt", "attempts"), why)
	return err
}
