// Command chaos runs Batchwright under faults, with services of its own; see package chaos.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"batchwright/internal/chaos"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends the process at once
	os.Exit(chaos.Main(ctx, os.Args[1:], os.Stdout, os.Stderr))
}
