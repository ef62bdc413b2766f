// Command bench measures Batchwright's throughput beside its ceilings, with services of its own; see package bench.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"batchwright/internal/bench"
	"batchwright/internal/extract"
)

func main() {
	extract.Main() // returns, unless this process is to read documents for another one
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends the process at once
	os.Exit(bench.Main(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}
