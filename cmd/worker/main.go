// Command worker plans and runs jobs. Its configuration is the environment; see the README.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"batchwright/internal/extract"
	"batchwright/internal/process"
)

func main() {
	extract.Main() // returns, unless this process is to read documents for another one
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := process.Worker(ctx, os.Getenv, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "worker:", err)
		os.Exit(1) //nolint:gocritic // the process ends here
	}
}
