package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"runtime"
	"runtime/debug"
	"time"

	"github.com/spf13/cobra"

	"batchwright/internal/client"
	"batchwright/internal/process"
)

func (a *app) api() *cobra.Command {
	return &cobra.Command{
		Use: "api", Short: "Serve the REST API", Args: cobra.NoArgs,
		Long: `Serve the REST API on HTTP_ADDR (default 127.0.0.1:8080) with DATABASE_URL and REDIS_URL, as
the program api does.`,
		RunE: a.run(func(ctx context.Context, _ []string) error {
			return stopped(ctx, process.API(ctx, a.getenv, a.log))
		}),
	}
}

func (a *app) worker() *cobra.Command {
	return &cobra.Command{
		Use: "worker", Short: "Plan and run jobs", Args: cobra.NoArgs,
		Long: "Plan and run jobs with DATABASE_URL and REDIS_URL, as the program worker does.",
		RunE: a.run(func(ctx context.Context, _ []string) error {
			return stopped(ctx, process.Worker(ctx, a.getenv, a.log))
		}),
	}
}

// stopped takes being told to stop for a good end.
func stopped(ctx context.Context, err error) error {
	if ctx.Err() != nil && (errors.Is(err, context.Canceled) || errors.Is(err, context.Cause(ctx))) {
		return nil
	}
	return err
}

func (a *app) migrate() *cobra.Command {
	return &cobra.Command{
		Use: "migrate", Short: "Bring the database at DATABASE_URL to this program's level", Args: cobra.NoArgs,
		RunE: a.run(func(ctx context.Context, _ []string) error {
			version, err := process.Migrate(ctx, a.getenv)
			if err == nil {
				fmt.Fprintf(a.stdout, "the database is at migration %d\n", version)
			}
			return err
		}),
	}
}

func (a *app) key() *cobra.Command {
	var project, name string
	create := &cobra.Command{
		Use: "create --project NAME", Short: "Make an API key, and its project if it is new", Args: cobra.NoArgs,
		Long: `Make an API key in the database at DATABASE_URL, and its project if it is new. The key is
printed this once: the database holds only its hash.`,
		RunE: a.run(func(ctx context.Context, _ []string) error {
			key, id, err := process.CreateKeyWithID(ctx, a.getenv, project, name)
			if err != nil {
				return err
			}
			fmt.Fprintf(a.stderr, "Keep this key; it can't be shown again. Budgets name it by its id, %s.\n", id)
			fmt.Fprintln(a.stdout, key)
			return nil
		}),
	}
	create.Flags().StringVar(&project, "project", "", "project that the key acts for (required)")
	create.Flags().StringVar(&name, "name", "", "what the key is for")
	if err := create.MarkFlagRequired("project"); err != nil {
		panic(err) // the flag is two lines above
	}
	return a.group("key", "Make API keys", create)
}

func (a *app) project() *cobra.Command {
	var days, weight int32
	var purge process.PurgeExport
	set := &cobra.Command{
		Use: "set NAME", Short: "Change how long a project keeps its batches, and its share of the workers", Args: cobra.ExactArgs(1),
		Long: `Change a project of the database at DATABASE_URL. A batch that ended longer ago than its project
keeps it is purged: its counts and what it cost stay, its jobs, inputs and results go. With
--export-before-purge its results are written to a file first, and it is kept until they are.
The URL must be below one that EXPORT_TARGETS allows, and has {batch} in it; it is tried from here.`,
		Example: `  batchwright project set nightly --retention-days 90 --weight 3
  batchwright project set nightly --export-before-purge "file:///srv/exports/{project}/{date}/{batch}.parquet"`,
	}
	f := set.Flags()
	f.Int32Var(&days, "retention-days", 0, "days after its end when a batch is purged; 0 for never")
	f.Int32Var(&weight, "weight", 1, "share of the workers when several projects have work, from 1 to 1000")
	f.StringVar(&purge.Target, "export-before-purge", "", "URL to export a batch's results to before it is purged; empty for nowhere")
	f.StringVar(&purge.Format, "export-format", "parquet", "csv, ndjson or parquet")
	set.RunE = a.run(func(ctx context.Context, args []string) error {
		given := func(name string, value *int32) *int32 {
			if f.Changed(name) {
				return value
			}
			return nil
		}
		var before *process.PurgeExport
		if f.Changed("export-before-purge") {
			before = &purge
		} else if f.Changed("export-format") {
			return usagef("--export-format goes with --export-before-purge")
		}
		return process.SetProject(ctx, a.getenv, args[0], given("retention-days", &days), given("weight", &weight), before)
	})
	return a.group("project", "Change projects", set)
}

func (a *app) pause() *cobra.Command {
	return a.steer("pause BATCH", "Keep a batch from starting calls; those in flight end", (*client.Client).Pause)
}

func (a *app) resume() *cobra.Command {
	return a.steer("resume BATCH", "Let a paused batch go on", (*client.Client).Resume)
}

func (a *app) cancel() *cobra.Command {
	var grace time.Duration
	c := a.steer("cancel BATCH", "Stop a batch for good; finished work is kept", func(c *client.Client, ctx context.Context, id string) (client.Batch, error) {
		if grace < 0 {
			return c.Cancel(ctx, id)
		}
		return c.CancelWithin(ctx, id, grace)
	})
	c.Flags().DurationVar(&grace, "grace", -1, "time for calls in flight to end before they are cut (default: the workers' setting)")
	c.Flags().Lookup("grace").DefValue = "" // the text says it
	return c
}

// steer is a command that changes what becomes of a batch and tells how the batch is then.
func (a *app) steer(use, short string, f func(*client.Client, context.Context, string) (client.Batch, error)) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, Args: cobra.ExactArgs(1),
		RunE: a.talk(func(ctx context.Context, api *client.Client, args []string) error {
			b, err := f(api, ctx, args[0])
			if err == nil {
				fmt.Fprintln(a.stdout, summary(b))
			}
			return err
		}),
	}
}

func (a *app) retry() *cobra.Command {
	var f client.RetryFilter
	c := &cobra.Command{
		Use: "retry BATCH", Short: "Try a batch's failed jobs again, within the batch", Args: cobra.ExactArgs(1),
		Long: `Try jobs of a batch again that failed, or were cancelled. A batch that has ended is reopened,
and ends again. Jobs whose input is invalid are left as they are.`,
		Example: "  batchwright retry BATCH --class rate_limited,timeout\n  batchwright retry BATCH --status failed,cancelled",
		RunE: a.talk(func(ctx context.Context, api *client.Client, args []string) error {
			r, err := api.Retry(ctx, args[0], f)
			if err != nil {
				return err
			}
			fmt.Fprintf(a.stdout, "%s requeued", plural(r.Requeued, "job", "jobs"))
			if r.Excluded > 0 {
				fmt.Fprintf(a.stdout, ", %s with invalid input left out", number(r.Excluded))
			}
			fmt.Fprintf(a.stdout, "; %s\n", summary(r.Batch))
			return nil
		}),
	}
	c.Flags().StringSliceVar(&f.Statuses, "status", nil, "jobs that are failed (the default), cancelled, or both")
	c.Flags().StringSliceVar(&f.ErrorClasses, "class", nil, "only failures of these classes")
	c.Flags().StringSliceVar(&f.CustomIDs, "custom-id", nil, "only the jobs with these ids")
	return c
}

func (a *app) services() *cobra.Command {
	c := &cobra.Command{
		Use: "services -- COMMAND [ARG...]", Short: "Run a command with a private Postgres and Redis",
		Long: `Start a private Postgres and Redis with fresh data, run a command with their URLs in its
environment (DATABASE_URL, REDIS_URL, and both with TEST_ before), stop them, and return the
command's exit code. Servers that TEST_DATABASE_URL and TEST_REDIS_URL, or DATABASE_URL and
REDIS_URL, name are used instead.`,
		Example: "  batchwright services -- go test ./...",
		Args:    cobra.MinimumNArgs(1),
		RunE: a.run(func(ctx context.Context, args []string) error {
			code, err := process.Services(ctx, a.getenv, a.notify, args, a.stdin, a.stdout, a.stderr)
			if err == nil && code == 0 {
				return nil
			}
			return childExit{code, err}
		}),
	}
	c.Flags().SetInterspersed(false) // what follows the command is its own
	return c
}

func (a *app) healthcheck() *cobra.Command {
	return &cobra.Command{
		Use: "healthcheck URL", Short: "Ask a URL whether all is well: 0 if it answers 200, else 1", Args: cobra.ExactArgs(1),
		Example: "  batchwright healthcheck http://127.0.0.1:8080/readyz",
		RunE: a.run(func(ctx context.Context, args []string) error {
			return health(ctx, args[0])
		}),
	}
}

// healthLimit is below the time that docker-compose.yml gives to a check.
const healthLimit = 2 * time.Second

func health(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, healthLimit, fmt.Errorf("no answer after %s", healthLimit))
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return usagef("%s", oneLine(err))
	}
	c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}} // no proxy either: it asks this machine
	res, err := c.Do(req)
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return fmt.Errorf("%s: %w", url, bare(err))
	}
	defer res.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(res.Body, 1<<20))
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: HTTP %d", url, res.StatusCode)
	}
	return nil
}

// bare leaves out the method and URL that net/http puts before an error.
func bare(err error) error {
	if e, ok := errors.AsType[*url.Error](err); ok {
		return e.Err
	}
	return err
}

func (a *app) version() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version", Args: cobra.NoArgs,
		RunE: a.run(func(context.Context, []string) error {
			version := "(devel)"
			if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
				version = info.Main.Version
			}
			_, err := fmt.Fprintf(a.stdout, "batchwright %s %s %s/%s\n", version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
			return err
		}),
	}
}
