package bench

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"batchwright/internal/gateway"
)

// serveBackends serves a simulated provider for each latency on a port of its own.
func serveBackends(ctx context.Context, latencies string, stdin io.Reader, stdout io.Writer) error {
	var all []http.Handler
	for text := range strings.SplitSeq(latencies, ",") {
		latency, err := time.ParseDuration(text)
		if err != nil {
			return fmt.Errorf("-backend: %w", err)
		}
		all = append(all, gateway.NewSimulator(gateway.SimulatorOptions{Latency: latency}))
	}
	return serveAll(ctx, stdin, stdout, all...)
}
