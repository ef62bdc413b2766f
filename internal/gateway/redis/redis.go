// Package redis is what gateway processes share in Redis: the limits of what they send together, the request windows
// of the gateway server, and a second level of its response cache.
//
// All of it may be lost at any time: limits and windows then begin anew, and answers are asked for again. Keys begin
// with "gateway:" and expire by themselves. Times are the Redis server's, so clocks of the processes don't matter.
//
// One server will do, or sentinels that know it, or a cluster. On a cluster a script's keys must lie on one node: the hash
// tag of a limit is its provider, the part of the bound's name before the first slash, so the bounds of one call may be
// those of one provider and of its models, and not of two providers.
package redis

import (
	"context"
	"fmt"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"batchwright/internal/gateway"
)

var (
	_ gateway.Limiter     = (*Redis)(nil)
	_ gateway.SharedCache = (*Redis)(nil)
)

// Redis is a connection pool. It is safe for concurrent use.
type Redis struct {
	c       goredis.UniversalClient
	cluster *goredis.ClusterClient // c, when it is one
	now     func() time.Time       // for tests; nil is the server's clock
}

// New connects when first used. The URL is redis://[user:password@]host:port[/db], redis-sentinel:// with ?master=,
// redis-cluster:// with one or more nodes, or redis-socket:///path; rediss is redis over TLS. Options such as pool_size go
// into its query.
func New(url string) (*Redis, error) {
	c, cluster, err := open(url)
	if err != nil {
		return nil, fmt.Errorf("redis: %w", err)
	}
	return &Redis{c: c, cluster: cluster}, nil
}

// Close releases the connections.
func (r *Redis) Close() error { return r.c.Close() }

// Ping asks for a sign of life.
func (r *Redis) Ping(ctx context.Context) error {
	if err := r.c.Ping(ctx).Err(); err != nil {
		return fmt.Errorf("redis: ping: %w", err)
	}
	return nil
}

// run runs a script, at most once. A cluster's client would run it again when a connection breaks before the answer, so on
// a cluster the node is asked; one that says that the keys are another's has run nothing.
func (r *Redis) run(ctx context.Context, s *goredis.Script, keys []string, args ...any) *goredis.Cmd {
	if r.cluster == nil {
		return s.Run(ctx, r.c, keys, args...)
	}
	node, err := r.cluster.MasterForKey(ctx, keys[0])
	if err != nil {
		cmd := goredis.NewCmd(ctx)
		cmd.SetErr(err)
		return cmd
	}
	cmd := s.Run(ctx, node, keys, args...)
	_, moved := goredis.IsMovedError(cmd.Err())
	_, ask := goredis.IsAskError(cmd.Err())
	if moved || ask {
		r.cluster.ReloadState(ctx)
		return s.Run(ctx, r.c, keys, args...)
	}
	return cmd
}
