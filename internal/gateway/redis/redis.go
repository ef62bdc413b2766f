// Package redis is what gateway processes share in Redis: the limits of what they send together, the request windows
// of the gateway server, and a second level of its response cache.
//
// All of it may be lost at any time: limits and windows then begin anew, and answers are asked for again. Keys begin
// with "gateway:" and expire by themselves. Times are the Redis server's, so clocks of the processes don't matter.
//
// One server is meant, or anything that looks like one. On a cluster a script's keys must lie on one node: the hash tag
// of a limit is its provider, the part of the bound's name before the first slash, so the bounds of one call may be
// those of one provider and of its models, and not of two providers.
package redis

import (
	"context"
	"errors"
	"fmt"
	"time"

	goredis "github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"batchwright/internal/gateway"
)

var (
	_ gateway.Limiter     = (*Redis)(nil)
	_ gateway.SharedCache = (*Redis)(nil)
)

// Redis is a connection pool. It is safe for concurrent use.
type Redis struct {
	c   *goredis.Client
	now func() time.Time // for tests; nil is the server's clock
}

// New connects when first used. The URL is redis:// or rediss://[user:password@]host:port[/db], or unix://; options such
// as pool_size go into its query.
func New(url string) (*Redis, error) {
	o, err := goredis.ParseURL(url)
	if err != nil {
		return nil, errors.New("redis: the URL can't be parsed: want redis://[:password@]host:port[/db]") // the cause would show the password
	}
	o.MaxRetries = -1 // a script that ran and whose answer was lost must not run again
	o.DialerRetries = 1
	o.ContextTimeoutEnabled = true
	o.DisableIdentity = true
	o.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
	return &Redis{c: goredis.NewClient(o)}, nil
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
