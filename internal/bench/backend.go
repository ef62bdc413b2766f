package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"batchwright/internal/gateway"
)

// serveBackends serves a simulated provider for each latency on a port of its own, prints their addresses and an empty
// line, and ends when stdin or ctx does.
func serveBackends(ctx context.Context, latencies string, stdin io.Reader, stdout io.Writer) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	g, ctx := errgroup.WithContext(ctx)
	for text := range strings.SplitSeq(latencies, ",") {
		latency, err := time.ParseDuration(text)
		if err != nil {
			return fmt.Errorf("-backend: %w", err)
		}
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		srv := &http.Server{Handler: gateway.NewSimulator(gateway.SimulatorOptions{Latency: latency}), ReadHeaderTimeout: 10 * time.Second}
		g.Go(func() error {
			if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
				return err
			}
			return nil
		})
		g.Go(func() error {
			<-ctx.Done()
			return srv.Close()
		})
		fmt.Fprintln(stdout, l.Addr())
	}
	fmt.Fprintln(stdout)
	go func() { // ends with the process: a read can't be interrupted
		_, _ = io.Copy(io.Discard, stdin)
		cancel()
	}()
	return g.Wait()
}
