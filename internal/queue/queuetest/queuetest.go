// Package queuetest gives each test a Redis database of its own on the test server.
package queuetest

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// databases is how many numbered databases a Redis server has by default; number 0 holds the reservations.
const databases = 16

// URL reserves one of the server's databases, empty, until the test ends. Without TEST_REDIS_URL the test is skipped, but in CI it fails:
// make test sets it.
func URL(t testing.TB) string {
	t.Helper()
	base := os.Getenv("TEST_REDIS_URL")
	if base == "" {
		if os.Getenv("CI") != "" {
			t.Fatal("TEST_REDIS_URL is not set: run the tests with make test")
		}
		t.Skip("TEST_REDIS_URL is not set: run the tests with make test")
	}
	o, err := redis.ParseURL(base)
	if err != nil {
		t.Fatal("TEST_REDIS_URL can't be parsed")
	}
	o.DB = 0
	c := redis.NewClient(o)
	t.Cleanup(func() { _ = c.Close() })
	n := reserve(t, c)
	o.DB = n
	own := redis.NewClient(o)
	if err := own.FlushDB(context.Background()).Err(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = own.FlushDB(context.Background())
		_ = own.Close()
		_ = c.Del(context.Background(), key(n))
	})
	u, err := url.Parse(base)
	if err != nil {
		t.Fatal("TEST_REDIS_URL can't be parsed")
	}
	u.Path = fmt.Sprintf("/%d", n)
	return u.String()
}

func key(n int) string { return fmt.Sprintf("queuetest:%d", n) }

func reserve(t testing.TB, c *redis.Client) int {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		for n := 1; n < databases; n++ {
			ok, err := c.SetNX(ctx, key(n), os.Getpid(), 10*time.Minute).Result()
			if err != nil {
				t.Fatal(err)
			}
			if ok {
				return n
			}
		}
		select {
		case <-ctx.Done():
			t.Fatal("no free Redis database within two minutes")
		case <-tick.C:
		}
	}
}
