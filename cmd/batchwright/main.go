// Command batchwright is the command line: everything in one process, the demo, and a client of the API.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"batchwright/internal/command"
	"batchwright/internal/extract"
)

func main() {
	extract.Main() // returns, unless this process is to read documents for another one
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends the process at once
	os.Exit(command.Main(ctx, os.Args[1:], os.Getenv, os.Stdin, os.Stdout, os.Stderr))
}
