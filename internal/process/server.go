package process

import (
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime/debug"
	"time"

	"golang.org/x/sync/errgroup"

	"batchwright/internal/fault"
	"batchwright/internal/gateway"
	"batchwright/internal/gateway/server"
	"batchwright/internal/store"
)

// serverConfig is the self-hosted gateway's.
type serverConfig struct {
	addr       string // GATEWAY_ADDR; default 127.0.0.1:8787
	adminToken string // GATEWAY_ADMIN_TOKEN: may do everything; default none
	masterKey  []byte // GATEWAY_MASTER_KEY: 32 bytes in base64, seals stored provider keys
	cacheBytes int64  // GATEWAY_CACHE_BYTES; default 256 MiB
	maxBody    int64  // GATEWAY_MAX_BODY_BYTES; default 100 MiB
}

func (r *reader) server() serverConfig {
	c := serverConfig{
		addr: r.text("GATEWAY_ADDR", "127.0.0.1:8787"), adminToken: r.text("GATEWAY_ADMIN_TOKEN", ""),
		cacheBytes: r.whole("GATEWAY_CACHE_BYTES", 256<<20, 0, 1<<40), maxBody: r.whole("GATEWAY_MAX_BODY_BYTES", 100<<20, 1<<10, 1<<32),
	}
	if c.adminToken != "" && len(c.adminToken) < 16 {
		r.fail("GATEWAY_ADMIN_TOKEN", "want at least 16 characters")
	}
	if v := r.text("GATEWAY_MASTER_KEY", ""); v != "" {
		key, err := base64.StdEncoding.DecodeString(v)
		if err != nil || len(key) != server.BoxKeySize {
			r.fail("GATEWAY_MASTER_KEY", "want %d random bytes in base64, as `openssl rand -base64 %d` makes them", server.BoxKeySize, server.BoxKeySize)
		}
		c.masterKey = key
	}
	return c
}

// gatewayGC is the gateway's GC percentage, unless GOGC says another. Its live heap is a few MiB, apart from the cache, and each
// request makes garbage: at Go's 100 it would collect dozens of times a second.
const gatewayGC = 400

// Gateway serves the self-hosted AI gateway until ctx ends; requests that are under way get 20 s to finish.
func Gateway(ctx context.Context, getenv func(string) string, stderr io.Writer) error {
	c, err := Configure(getenv)
	if err != nil {
		return err
	}
	if getenv("GOGC") == "" {
		debug.SetGCPercent(gatewayGC)
	}
	if err := fault.Arm(c.Fault); err != nil {
		return err
	}
	log := c.logger(stderr)
	s := &system{c: c, log: log, metrics: newMetrics()}
	defer s.Close()
	if s.prices, err = prices(c.Gateway.priceFile); err != nil {
		return err
	}
	if s.db, err = store.Open(ctx, c.DatabaseURL, store.Options{MaxConns: c.DBConns, DirectURL: c.DirectURL}); err != nil {
		return unlessStopped(ctx, err)
	}
	s.close = append(s.close, s.db.Close)
	s.metrics.addPool(s.db)
	srv, err := s.openServer()
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", c.Server.addr)
	if err != nil {
		return fmt.Errorf("GATEWAY_ADDR: %w", err)
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		log.Info("gateway ready", "addr", l.Addr().String())
		return serve(ctx, l, srv.Handler(), 20*time.Second)
	})
	g.Go(func() error { return s.serveAdmin(ctx) })
	return g.Wait()
}

func (s *system) openServer() (*server.Server, error) {
	c := s.c.Server
	shared, cache, err := s.openShared(c.cacheBytes)
	if err != nil {
		return nil, err
	}
	o := server.Options{
		DB: s.db, Prices: s.prices, Windows: shared, Cache: cache, AdminToken: c.adminToken, MaxBody: c.maxBody, Log: s.log,
		Transport: gateway.NewTransport(http.ProxyFromEnvironment), Upstreams: map[string]string{}, Keys: map[string]string{},
	}
	for slug, e := range s.c.Gateway.endpoints {
		if e.BaseURL != "" {
			o.Upstreams[slug] = e.BaseURL
		}
		if key := s.c.Gateway.remoteKeys[slug]; key != "" {
			o.Keys[slug] = key
		}
	}
	if c.masterKey != nil {
		if o.Box, err = server.NewBox(c.masterKey); err != nil {
			return nil, fmt.Errorf("GATEWAY_MASTER_KEY: %w", err)
		}
	}
	srv, err := server.New(o)
	if err != nil {
		return nil, err
	}
	s.close = append(s.close, func() { _ = srv.Close() })
	return srv, nil
}
