package redis

import (
	"fmt"
	"strings"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"batchwright/internal/gateway"
	"batchwright/internal/queue/queuetest"
)

func TestSharedOverACluster(t *testing.T) {
	t.Parallel()
	shares(t, queuetest.Cluster(t))
}

func TestSharedOverSentinelsAndAfterAFailover(t *testing.T) {
	t.Parallel()
	url, failover := queuetest.Sentinel(t)
	shares(t, url)
	failover()
	if err := dial(t, url).c.FlushDB(t.Context()).Err(); err != nil { // what was shared lives on in the replica
		t.Fatal(err)
	}
	shares(t, url)
}

// shares goes through all that processes share, on servers that hold nothing of it.
func shares(t *testing.T, url string) {
	t.Helper()
	r := dial(t, url)
	if err := r.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
	bounds := []gateway.Bound{{Name: "openai", Limit: gateway.Limit{Requests: 10, Tokens: 1000}}, {Name: "openai/gpt", Limit: gateway.Limit{Tokens: 500}}}
	v, wait, err := r.Reserve(t.Context(), bounds, gateway.Amount{Tokens: 400})
	if err != nil || wait != 0 {
		t.Fatalf("reserve: wait %s, %v", wait, err)
	}
	if _, wait, err := r.Reserve(t.Context(), bounds, gateway.Amount{Tokens: 200}); err != nil || wait <= 0 {
		t.Errorf("the model's limit: wait %s, %v; want one", wait, err)
	}
	if err := r.Settle(t.Context(), v, gateway.Amount{Tokens: 100}); err != nil {
		t.Errorf("settle: %v", err)
	}
	if _, wait, err := r.Reserve(t.Context(), bounds, gateway.Amount{Tokens: 200}); err != nil || wait != 0 {
		t.Errorf("after it was settled for less: wait %s, %v", wait, err)
	}
	for i := range 30 { // of all slots
		for _, sliding := range []bool{false, true} {
			name := fmt.Sprintf("gw-%d-%v", i, sliding)
			if ok, _, err := r.Allow(t.Context(), name, 1, time.Hour, sliding); err != nil || !ok {
				t.Fatalf("%s: first request: %v, %v", name, ok, err)
			}
			if ok, wait, err := r.Allow(t.Context(), name, 1, time.Hour, sliding); err != nil || ok || wait <= 0 {
				t.Fatalf("%s: second request: %v, wait %s, %v", name, ok, wait, err)
			}
		}
		for _, prefix := range []string{"a", "b"} {
			if err := r.PutAnswer(t.Context(), fmt.Sprintf("%s-%d", prefix, i), &gateway.Cached{Body: []byte("x")}, time.Hour); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := r.DeleteAnswers(t.Context(), "a-"); err != nil {
		t.Fatal(err)
	}
	for i := range 30 {
		gone, err := r.GetAnswer(t.Context(), fmt.Sprintf("a-%d", i))
		kept, err2 := r.GetAnswer(t.Context(), fmt.Sprintf("b-%d", i))
		if err != nil || err2 != nil || gone != nil || kept == nil {
			t.Fatalf("answer %d after the prefix a- was deleted: %v, %v; kept %v, %v", i, gone, err, kept, err2)
		}
	}
}

func TestURLForms(t *testing.T) {
	t.Parallel()
	for url, want := range map[string]string{
		"redis://h":                       "h:6379 :/0",
		"redis://u:p%40ss@h:7000/3":       "h:7000 u:p@ss/3",
		"rediss://[::1]:7000":             "[::1]:7000 :/0 TLS ::1",
		"redis://:p@h/1?pool_size=5":      "h:6379 :p/1 pool 5",
		"redis-socket:///run/r.sock?db=2": "/run/r.sock :/2",
		"unix://:p@/run/r.sock":           "/run/r.sock :p/0",
		"redis-cluster://:p@a:1,b,c:3/0":  "cluster a:1 b:6379 c:3 :p",
		"rediss-cluster://u:p@a:1":        "cluster a:1 u:p TLS ",
	} {
		r, err := New(url)
		if err != nil {
			t.Errorf("%s: %v", url, err)
			continue
		}
		var got string
		switch c := r.c.(type) {
		case *goredis.Client:
			o := c.Options()
			got = fmt.Sprintf("%s %s:%s/%d", o.Addr, o.Username, o.Password, o.DB)
			if strings.Contains(url, "pool_size") {
				got += fmt.Sprintf(" pool %d", o.PoolSize)
			}
			if o.TLSConfig != nil {
				got += " TLS " + o.TLSConfig.ServerName
			}
			if o.MaxRetries > 0 {
				t.Errorf("%s: %d retries", url, o.MaxRetries)
			}
		case *goredis.ClusterClient:
			o := c.Options()
			got = fmt.Sprintf("cluster %s %s:%s", strings.Join(o.Addrs, " "), o.Username, o.Password)
			if o.TLSConfig != nil {
				got += " TLS " + o.TLSConfig.ServerName
			}
		}
		if got != want {
			t.Errorf("%s: %q, want %q", url, got, want)
		}
		_ = r.Close()
	}
}
