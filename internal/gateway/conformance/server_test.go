package conformance_test

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"batchwright/internal/gateway"
	"batchwright/internal/gateway/conformance"
	"batchwright/internal/gateway/redis"
	"batchwright/internal/gateway/server"
	"batchwright/internal/queue/queuetest"
	"batchwright/internal/store"
	"batchwright/internal/store/storetest"
)

// TestServer runs the suite against the self-hosted server, posted to with nothing but package http.
func TestServer(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	conformance.Run(t, conformance.Target{Kind: conformance.Wire, Known: known[conformance.Wire],
		Open: func(t *testing.T, s conformance.Setup) conformance.Subject { return h.open(t, s).Subject }})
}

// TestClientOfServer runs the suite against the Cloudflare client, talking to the self-hosted server.
func TestClientOfServer(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	conformance.Run(t, conformance.Target{Kind: conformance.Client, Known: known[conformance.Client],
		Open: func(t *testing.T, s conformance.Setup) conformance.Subject { return h.openClient(t, s) }})
}

const account = "acct"

// house is what the servers of a run share: a database and a Redis. Each case has a server and a gateway of its own.
type house struct {
	db    *store.DB
	redis *redis.Redis
	box   *server.Box
	count atomic.Int64
}

func newHouse(t *testing.T) *house {
	t.Helper()
	h := &house{db: storetest.New(t)}
	var err error
	if h.redis, err = redis.New(queuetest.URL(t)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = h.redis.Close() })
	key := make([]byte, 32)
	_, _ = rand.Read(key) // never fails
	if h.box, err = server.NewBox(key); err != nil {
		t.Fatal(err)
	}
	return h
}

// opened is a server that runs.
type opened struct {
	conformance.Subject
	gateway string
}

func (h *house) open(t *testing.T, s conformance.Setup) opened {
	t.Helper()
	shelf := &shelf{below: h.redis}
	cache := gateway.NewCache(gateway.CacheOptions{Shared: shelf, Log: s.Log})
	o := server.Options{DB: h.db, Box: h.box, Windows: h.redis, Cache: cache, MaxBody: s.MaxRequestBytes, Log: s.Log, Upstreams: map[string]string{}}
	for _, name := range conformance.Providers {
		o.Upstreams[name] = s.Backend.Base(name)
	}
	srv, err := server.New(o)
	if err != nil {
		t.Fatal(err)
	}
	front := httptest.NewServer(srv.Handler())
	t.Cleanup(func() {
		front.Close()
		if err := srv.Close(); err != nil {
			t.Error(err)
		}
		cache.Close()
	})
	id, token := h.gateway(t, s), newToken()
	hash := sha256.Sum256([]byte(token))
	if _, err := h.db.CreateGatewayToken(t.Context(), store.GatewayToken{Account: account, Name: id, Run: true}, hash[:]); err != nil {
		t.Fatal(err)
	}
	address := func(id string) string { return front.URL + "/v1/" + account + "/" + id }
	return opened{gateway: id, Subject: conformance.Subject{
		URL: address(id), Token: token, Kept: shelf.kept,
		Rows:  func(t testing.TB, n int) []conformance.Row { return h.rows(t, id, n) },
		Other: func(t testing.TB) string { return address(h.gateway(t, s)) },
	}}
}

// newToken returns a token in the server's form.
func newToken() string {
	var b [32]byte
	_, _ = rand.Read(b[:]) // never fails
	return "bwg_" + base64.RawURLEncoding.EncodeToString(b[:])
}

// gateway makes one with the settings of a case.
func (h *house) gateway(t testing.TB, s conformance.Setup) string {
	t.Helper()
	id := fmt.Sprintf("gw-%d", h.count.Add(1))
	settings := server.DefaultSettings()
	if s.Cache > 0 {
		settings.CacheTTL = new(int64(s.Cache / time.Second))
	}
	raw, err := json.Marshal(settings)
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	if _, err := h.db.CreateGateway(ctx, account, id, raw); err != nil {
		t.Fatal(err)
	}
	if !s.Keys {
		return id
	}
	for _, name := range conformance.Providers {
		k := store.ProviderKey{Account: account, Gateway: id, Provider: name, Alias: "default", Default: true,
			Sealed: h.box.Seal(conformance.Key(name), account, id, name, "default")}
		if _, err := h.db.SaveProviderKey(ctx, k); err != nil {
			t.Fatal(err)
		}
	}
	return id
}

// rows waits until a gateway's log has n rows.
func (h *house) rows(t testing.TB, id string, n int) []conformance.Row {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		page, err := h.db.GatewayLogs(ctx, store.GatewayLogQuery{Account: account, Gateway: id, Page: 1, PerPage: 50})
		if err != nil {
			t.Fatal(err)
		}
		if len(page.Logs) >= n {
			return h.bodies(ctx, t, page.Logs)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("the log has %d rows, want %d", len(page.Logs), n)
		}
	}
}

func (h *house) bodies(ctx context.Context, t testing.TB, logs []store.GatewayLog) []conformance.Row {
	t.Helper()
	var rows []conformance.Row
	for _, l := range logs {
		r := conformance.Row{ID: l.ID.String(), EventID: l.EventID, Provider: l.Provider, Model: l.Model, Status: l.StatusCode, Success: l.Success,
			Cached: l.Cached, Step: l.Step, TokensIn: l.TokensIn, TokensOut: l.TokensOut}
		for _, b := range []struct {
			response bool
			to       *string
		}{{false, &r.Request}, {true, &r.Response}} {
			body, _, err := h.db.GatewayLogBody(ctx, account, l.Gateway, l.ID, b.response)
			if err != nil {
				t.Fatal(err)
			}
			*b.to = string(body)
		}
		rows = append(rows, r)
	}
	return rows
}

func (h *house) openClient(t *testing.T, s conformance.Setup) conformance.Subject {
	t.Helper()
	at := h.open(t, s)
	o := gateway.CloudflareOptions{URL: at.URL, Token: at.Token, MaxAttempts: max(s.Attempts, 1), Patience: s.Patience, IdleTimeout: s.Idle,
		MaxAnswerBytes: s.MaxAnswerBytes, Log: s.Log, ProviderKeys: map[string]string{}}
	if s.WrongToken {
		o.Token = "wrong-token"
	}
	for _, name := range conformance.Providers {
		if !s.Keys && name != s.NoKey {
			o.ProviderKeys[name] = conformance.Key(name)
		}
	}
	c, err := gateway.NewCloudflare(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	at.Gateway = c
	return at.Subject
}
