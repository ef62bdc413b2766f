package queuetest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"batchwright/internal/embedded"
)

// Cluster starts a Redis Cluster of three masters for the test and returns its redis-cluster URL. The test is skipped where there is no
// redis-server.
func Cluster(t testing.TB) string {
	t.Helper()
	g := newGroup(t)
	const masters, slots = 3, 16384
	var nodes []*redis.Client
	var addrs []string
	for i := range masters {
		addr, _ := g.start(t, "cluster-enabled yes", "cluster-node-timeout 2000", "cluster-config-file nodes.conf", "masterauth "+g.password)
		c := g.dial(t, addr)
		var own []any
		for s := i * slots / masters; s < (i+1)*slots/masters; s++ {
			own = append(own, s)
		}
		g.must(t, c.Do(t.Context(), append([]any{"cluster", "addslots"}, own...)...).Err())
		if i > 0 {
			host, port, _ := strings.Cut(addrs[0], ":")
			g.must(t, c.Do(t.Context(), "cluster", "meet", host, port).Err())
		}
		nodes, addrs = append(nodes, c), append(addrs, addr)
	}
	for _, c := range nodes {
		g.await(t, "the cluster", func() bool {
			info := c.ClusterInfo(t.Context()).Val()
			return strings.Contains(info, "cluster_state:ok") && strings.Contains(info, fmt.Sprintf("cluster_known_nodes:%d", masters))
		})
	}
	return fmt.Sprintf("redis-cluster://:%s@%s", g.password, strings.Join(addrs, ","))
}

// Sentinel starts a Redis master, a replica and three sentinels for the test. It returns their redis-sentinel URL, and a function that kills the
// master and waits until all know the replica as the new one. The test is skipped where there is no redis-server.
func Sentinel(t testing.TB) (url string, failover func()) {
	t.Helper()
	g := newGroup(t)
	auth := "masterauth " + g.password
	master, first := g.start(t, auth)
	host, port, _ := strings.Cut(master, ":")
	replica, _ := g.start(t, auth, "replicaof "+host+" "+port)
	second := g.dial(t, replica)
	g.await(t, "the replica", func() bool {
		return strings.Contains(second.Info(t.Context(), "replication").Val(), "master_link_status:up")
	})
	var sentinels []string
	var watching []*redis.SentinelClient
	for range 3 {
		addr, _ := g.start(t, "sentinel", "sentinel monitor main "+host+" "+port+" 2", "sentinel auth-pass main "+g.password,
			"sentinel down-after-milliseconds main 500", "sentinel failover-timeout main 5000")
		sentinels = append(sentinels, addr)
	}
	for _, addr := range sentinels {
		c := redis.NewSentinelClient(&redis.Options{Addr: addr, Password: g.password})
		t.Cleanup(func() { _ = c.Close() })
		g.await(t, "the sentinels", func() bool {
			m := c.Master(t.Context(), "main").Val()
			return m["num-slaves"] == "1" && m["num-other-sentinels"] == "2"
		})
		watching = append(watching, c)
	}
	failover = func() {
		t.Helper()
		first.Kill()
		g.await(t, "the failover", func() bool {
			return strings.Contains(second.Info(t.Context(), "replication").Val(), "role:master")
		})
		for _, c := range watching { // one that hasn't heard of it still names the dead one
			g.await(t, "the sentinels to agree", func() bool {
				return strings.Join(c.GetMasterAddrByName(t.Context(), "main").Val(), ":") == replica
			})
		}
	}
	return fmt.Sprintf("redis-sentinel://:%s@%s/0?master=main&sentinel_password=%[1]s", g.password, strings.Join(sentinels, ",")), failover
}

// group is a set of servers with one password, on loopback.
type group struct {
	dir      string
	password string
	n        int
}

func newGroup(t testing.TB) *group {
	t.Helper()
	return &group{dir: t.TempDir(), password: rand.Text()}
}

// start runs a server with these lines in its configuration, the first of which may be the word sentinel, and waits until it answers.
func (g *group) start(t testing.TB, lines ...string) (string, *embedded.RedisNode) {
	t.Helper()
	var args []string
	if lines[0] == "sentinel" {
		args, lines = []string{"--sentinel"}, lines[1:]
	}
	const tries = 5
	for try := 1; ; try++ {
		port := freePort(t)
		g.n++
		dir := filepath.Join(g.dir, strconv.Itoa(g.n))
		g.must(t, os.Mkdir(dir, 0o700))
		config := filepath.Join(dir, "redis.conf")
		text := fmt.Sprintf("bind 127.0.0.1\nport %d\nrequirepass %s\ndir \"%s\"\ndaemonize no\nlogfile \"\"\n", port, g.password, dir)
		if args == nil {
			text += "save \"\"\nappendonly no\nrepl-diskless-sync-delay 0\n"
		}
		g.must(t, os.WriteFile(config, []byte(text+strings.Join(lines, "\n")+"\n"), 0o600))
		node, err := embedded.StartRedisNode(context.Background(), config, args...)
		if errors.Is(err, embedded.ErrNoRedis) {
			t.Skip(err)
		}
		g.must(t, err)
		t.Cleanup(node.Kill)
		addr := fmt.Sprintf("127.0.0.1:%d", port)
		c := g.dial(t, addr)
		up := false
		g.wait(t, 10*time.Second, func() bool { up = c.Ping(t.Context()).Err() == nil; return up || node.Gone() })
		if up {
			return addr, node
		}
		if try == tries { // somebody else may have been faster to the port, but not so often
			log, _ := os.ReadFile(filepath.Join(dir, "log"))
			t.Fatalf("a Redis server didn't start: %s", log)
		}
		node.Kill()
	}
}

func (g *group) dial(t testing.TB, addr string) *redis.Client {
	t.Helper()
	c := redis.NewClient(&redis.Options{Addr: addr, Password: g.password, MaxRetries: -1})
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func (g *group) await(t testing.TB, what string, ok func() bool) {
	t.Helper()
	if !g.wait(t, time.Minute, ok) {
		t.Fatalf("waited a minute for %s", what)
	}
}

func (g *group) wait(t testing.TB, limit time.Duration, ok func() bool) bool {
	t.Helper()
	deadline := time.After(limit)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			return false
		}
	}
	return true
}

func (g *group) must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// freePort returns a port that was free a moment ago, as was the one 10,000 above, where a node of a cluster listens as well.
func freePort(t testing.TB) int {
	t.Helper()
	for range 100 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		port := l.Addr().(*net.TCPAddr).Port
		_ = l.Close()
		if port > 55_000 {
			continue
		}
		if bus, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port+10_000)); err == nil {
			_ = bus.Close()
			return port
		}
	}
	t.Fatal("no free pair of ports")
	return 0
}
