package queue_test

import (
	"context"
	"crypto/tls"
	"log/slog"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/hibiken/asynq"
	"go.uber.org/goleak"

	"batchwright/internal/queue"
	"batchwright/internal/queue/queuetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestTicketsArriveOnceAndWhole(t *testing.T) {
	t.Parallel()
	deliver(t, queuetest.URL(t))
}

func TestTicketsArriveOverACluster(t *testing.T) {
	t.Parallel()
	deliver(t, queuetest.Cluster(t))
}

func TestTicketsArriveOverSentinelsAndAfterAFailover(t *testing.T) {
	t.Parallel()
	url, failover := queuetest.Sentinel(t)
	deliver(t, url)
	failover()
	deliver(t, url)
}

// deliver posts tickets to an empty queue and serves them.
func deliver(t *testing.T, url string) {
	t.Helper()
	c, err := queue.NewClient(url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if err := c.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
	if waiting, active, err := c.Depth(); err != nil || waiting != 0 || active != 0 {
		t.Errorf("depth of an empty Redis: %d, %d, %v", waiting, active, err)
	}
	batch := uuid.New()
	sent := []queue.Ticket{
		{ID: 1, BatchID: batch, Kind: "generate", Purpose: "plan", FirstSeq: 1, LastSeq: 9, Jobs: 9},
		{ID: 2, BatchID: batch, Kind: "generate", Purpose: "run", FirstSeq: 1, LastSeq: 5, Jobs: 4},
		{ID: 3, BatchID: batch, Kind: "chat", Purpose: "retry", Jobs: 7},
		{ID: 4, BatchID: batch, Kind: "chat", Purpose: "run", FirstSeq: 6, LastSeq: 9, Jobs: 4, Express: true},
	}
	for range 2 { // posting again what is queued doubles nothing
		if err := c.Post(t.Context(), sent); err != nil {
			t.Fatal(err)
		}
	}
	if waiting, _, err := c.Depth(); err != nil || waiting != 4 {
		t.Errorf("depth: %d, %v; want 4", waiting, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	got := make(chan queue.Ticket, 10)
	served := make(chan error, 1)
	go func() {
		served <- queue.Serve(ctx, url, queue.Lanes{Plan: 1, Express: 1, Run: 4}, time.Second, slog.New(slog.DiscardHandler), func(_ context.Context, t queue.Ticket) { got <- t })
	}()
	seen := map[int64]queue.Ticket{}
	for len(seen) < len(sent) {
		select {
		case ticket := <-got:
			if _, twice := seen[ticket.ID]; twice {
				t.Errorf("ticket %d came twice", ticket.ID)
			}
			seen[ticket.ID] = ticket
		case <-ctx.Done():
			t.Fatalf("got %v", seen)
		}
	}
	for _, want := range sent {
		if seen[want.ID] != want {
			t.Errorf("got %+v, want %+v", seen[want.ID], want)
		}
	}
	cancel()
	if err := <-served; err != nil {
		t.Error(err)
	}
}

func TestRedisURLs(t *testing.T) {
	t.Parallel()
	secure := &tls.Config{MinVersion: tls.VersionTLS12}
	for url, want := range map[string]asynq.RedisConnOpt{
		"redis://h":                       asynq.RedisClientOpt{Addr: "h:6379"},
		"redis://u:p%40ss@h:7000/3":       asynq.RedisClientOpt{Addr: "h:7000", Username: "u", Password: "p@ss", DB: 3},
		"redis://[::1]:7000":              asynq.RedisClientOpt{Addr: "[::1]:7000"},
		"redis://:p@h/1?pool_size=5":      asynq.RedisClientOpt{Addr: "h:6379", Password: "p", DB: 1},
		"rediss://h":                      asynq.RedisClientOpt{Addr: "h:6379", TLSConfig: &tls.Config{MinVersion: tls.VersionTLS12, ServerName: "h"}},
		"redis-socket:///run/r.sock?db=2": asynq.RedisClientOpt{Network: "unix", Addr: "/run/r.sock", DB: 2},
		"unix://:p@/run/r.sock":           asynq.RedisClientOpt{Network: "unix", Addr: "/run/r.sock", Password: "p"},
		"redis-sentinel://u:p@a,b:1/2?master=m&sentinel_user=su&sentinel_password=sp": asynq.RedisFailoverClientOpt{MasterName: "m",
			SentinelAddrs: []string{"a:26379", "b:1"}, SentinelUsername: "su", SentinelPassword: "sp", Username: "u", Password: "p", DB: 2},
		"rediss-sentinel://a?master=m":   asynq.RedisFailoverClientOpt{MasterName: "m", SentinelAddrs: []string{"a:26379"}, TLSConfig: secure},
		"redis-cluster://:p@a:1,b,c:3/0": asynq.RedisClusterClientOpt{Addrs: []string{"a:1", "b:6379", "c:3"}, Password: "p"},
		"rediss-cluster://u:p@a:1":       asynq.RedisClusterClientOpt{Addrs: []string{"a:1"}, Username: "u", Password: "p", TLSConfig: secure},
	} {
		if got, err := queue.Connection(url); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v, %v; want %+v", url, got, err, want)
		}
	}
}

func TestBadURLIsNotEchoed(t *testing.T) {
	t.Parallel()
	for _, url := range []string{
		"", "hunter2", "redis+bad://:hunter2@host", "redis://:hunter2@host:port", "redis://:hunter2@host/hunter2", "redis://:hunter2@", "redis://:hunter2/x@host",
		"redis://:hunter2@a:1,b:2", "redis-sentinel://:hunter2@a:1,b:2", "redis-cluster://:hunter2@a:1,b:2/3", "redis-cluster://:hunter2@a:1,,b:2",
		"redis-cluster://:hunter2@a:hunter2", "redis-socket://:hunter2@host/path", "redis://:hun%ter2@host",
	} {
		if _, err := queue.NewClient(url); err == nil || strings.Contains(err.Error(), "hunter2") || !strings.Contains(err.Error(), "REDIS_URL") {
			t.Errorf("%q: %v: want an error without the password", url, err)
		}
	}
}
