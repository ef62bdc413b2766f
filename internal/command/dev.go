package command

import (
	"context"
	"fmt"
	"net/url"

	"github.com/spf13/cobra"

	"batchwright/internal/process"
)

func (a *app) dev() *cobra.Command {
	var o process.DevOptions
	c := &cobra.Command{
		Use: "dev", Short: "Start everything in one process and stay up", Args: cobra.NoArgs,
		Long: `Start Postgres and Redis (unless DATABASE_URL and REDIS_URL name some), the API and a worker in
one process, print their URLs and an API key, and stay up until Ctrl-C. The private Postgres keeps
its data in .run. LOG_LEVEL=info shows what the servers do.`,
	}
	c.Flags().StringVar(&o.Addr, "addr", "", "address of the API (default HTTP_ADDR or 127.0.0.1:8080, or a free port if that is taken)")
	c.Flags().BoolVar(&o.Ephemeral, "ephemeral", false, "fresh data, removed at the end")
	c.RunE = a.run(func(ctx context.Context, _ []string) error {
		o.Quiet, o.Notify = true, a.notify
		return stopped(ctx, process.Dev(ctx, a.getenv, a.log, o, func(_ context.Context, r process.Running) error {
			_, err := fmt.Fprint(a.stdout, welcome(a.getenv, r))
			return err
		}))
	})
	return c
}

// welcome says where everything is and what to try.
func welcome(getenv func(string) string, r process.Running) string {
	// The user needs a private server's password; that of a server of his own he knows.
	shown := func(variable, address string) string {
		if u, err := url.Parse(address); err == nil && getenv(variable) != "" {
			return u.Redacted()
		}
		return address
	}
	return fmt.Sprintf(`
Batchwright is up. Ctrl-C stops it.

  API       %[1]s
  Contract  %[1]s/openapi.json
  Postgres  %[2]s
  Redis     %[3]s
  API key   %[4]s

Try it in another terminal:

  export BATCHWRIGHT_URL=%[1]s BATCHWRIGHT_API_KEY=%[4]s

  curl -sS "$BATCHWRIGHT_URL/v1/batches" \
    -H "Authorization: Bearer $BATCHWRIGHT_API_KEY" -H 'Content-Type: application/json' \
    -d '{"kind": "chat", "route": "simulator/sim-1", "jobs": [{"custom_id": "first", "body":
         {"model": "sim-1", "messages": [{"role": "user", "content": "Say hello."}]}}]}'

  # with the id from the answer:
  curl -sS "$BATCHWRIGHT_URL/v1/batches/ID/results" -H "Authorization: Bearer $BATCHWRIGHT_API_KEY"

Or use the command line: batchwright submit --route local/extractive --wait FILE...

`, r.APIURL, shown("DATABASE_URL", r.DatabaseURL), shown("REDIS_URL", r.RedisURL), r.APIKey)
}
