package chaos

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/Shopify/toxiproxy/v2"
	"github.com/rs/zerolog"
)

// link is a stretch of network between two processes that can be hurt.
type link struct {
	name     string // such as worker-1>postgres
	listen   string
	upstream string

	mu    sync.Mutex
	proxy *toxiproxy.Proxy
}

func openLink(name, listen, upstream string) (*link, error) {
	l := &link{name: name, listen: listen, upstream: upstream}
	return l, l.open()
}

// open starts a proxy. The one before may take a moment to leave the port.
func (l *link) open() (err error) {
	for range 100 {
		server := toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop())
		l.proxy = toxiproxy.NewProxy(server, l.name, l.listen, l.upstream)
		if err = l.proxy.Start(); err == nil {
			return nil
		}
		_ = wait(context.Background(), 20*time.Millisecond)
	}
	return fmt.Errorf("link %s: %w", l.name, err)
}

func (l *link) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.proxy.Stop()
}

// cut closes all connections and refuses new ones for so long.
func (l *link) cut(ctx context.Context, d time.Duration) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.proxy.Stop()
	_ = wait(ctx, d) // healed all the same
	return l.open()
}

// poison adds a toxic in both directions for so long, and then breaks all connections, so that nothing of it stays.
func (l *link) poison(ctx context.Context, d time.Duration, kind, attributes string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, direction := range []string{"upstream", "downstream"} {
		toxic := fmt.Sprintf(`{"type":%q,"stream":%q,"attributes":{%s}}`, kind, direction, attributes)
		if _, err := l.proxy.Toxics.AddToxicJson(strings.NewReader(toxic)); err != nil {
			return fmt.Errorf("link %s: %w", l.name, err)
		}
	}
	_ = wait(ctx, d)
	l.proxy.Stop()
	return l.open()
}
