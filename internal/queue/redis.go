package queue

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"

	"github.com/hibiken/asynq"
)

// errURL says what an address may look like. It never says what was given: any part of a mistyped URL may be of the password.
var errURL = errors.New("want redis://[user:password@]host:6379/0, redis-sentinel://[user:password@]host:26379,host:26379/0?master=NAME, " +
	"redis-cluster://[user:password@]host:6379,host:6379 or redis-socket:///path?db=0, with rediss in place of redis for TLS, and special characters escaped")

// connection reads a Redis URL:
//
//	redis://[user:password@]host[:6379][/db]
//	redis-sentinel://[user:password@]host[:26379],...[/db]?master=NAME[&sentinel_user=U][&sentinel_password=P]
//	redis-cluster://[user:password@]host[:6379],...
//	redis-socket://[user:password@]/path[?db=N], also spelt unix://
//
// Each of the first three may begin with rediss for TLS. User and password are those of the servers that hold the data; sentinels get their own, if
// any. Other options are left to those who know them. Asynq's own reader takes no user, gives a Sentinel URL's password to the sentinels only, and
// its lists of hosts are no URLs for net/url.
func connection(raw string) (asynq.RedisConnOpt, error) {
	u, hosts, err := split(raw)
	if err != nil {
		return nil, fmt.Errorf("queue: REDIS_URL: %w", err)
	}
	user := u.User.Username()
	password, _ := u.User.Password()
	var secure *tls.Config
	scheme := u.Scheme
	if rest, ok := strings.CutPrefix(scheme, "rediss"); ok {
		secure, scheme = &tls.Config{MinVersion: tls.VersionTLS12}, "redis"+rest
	}
	q := u.Query()
	text := strings.Trim(u.Path, "/")
	if scheme == "redis-socket" {
		text = q.Get("db")
	}
	db := 0
	if text != "" {
		if db, err = strconv.Atoi(text); err != nil || db < 0 {
			return nil, errors.New("queue: REDIS_URL: the number of the database is not a number")
		}
	}
	switch scheme {
	case "redis":
		if len(hosts) != 1 {
			return nil, errors.New("queue: REDIS_URL: want one host, or redis-sentinel:// or redis-cluster:// before several")
		}
		addr := ported(hosts, "6379")[0]
		if secure != nil {
			secure.ServerName, _, _ = net.SplitHostPort(addr) // ported made it
		}
		return asynq.RedisClientOpt{Addr: addr, Username: user, Password: password, DB: db, TLSConfig: secure}, nil
	case "redis-socket":
		return asynq.RedisClientOpt{Network: "unix", Addr: u.Path, Username: user, Password: password, DB: db}, nil
	case "redis-sentinel":
		if q.Get("master") == "" {
			return nil, errors.New("queue: REDIS_URL: ?master= must name what the sentinels watch, such as redis-sentinel://host:26379,host:26379?master=mymaster")
		}
		return asynq.RedisFailoverClientOpt{MasterName: q.Get("master"), SentinelAddrs: ported(hosts, "26379"), SentinelUsername: q.Get("sentinel_user"),
			SentinelPassword: q.Get("sentinel_password"), Username: user, Password: password, DB: db, TLSConfig: secure}, nil
	default: // a cluster: split knows no other
		if db != 0 {
			return nil, errors.New("queue: REDIS_URL: a cluster has database 0 only")
		}
		return asynq.RedisClusterClientOpt{Addrs: ported(hosts, "6379"), Username: user, Password: password, TLSConfig: secure}, nil
	}
}

// split parses a URL with a list of hosts, which net/url takes for a host with a bad port.
func split(raw string) (*url.URL, []string, error) {
	scheme, rest, ok := strings.Cut(raw, "://")
	if !ok {
		return nil, nil, errURL
	}
	end := strings.IndexAny(rest, "/?#")
	if end < 0 {
		end = len(rest)
	}
	at := strings.LastIndexByte(rest[:end], '@') + 1
	u, err := url.Parse(scheme + "://" + rest[:at] + "hosts" + rest[end:])
	if err != nil {
		return nil, nil, errURL // the cause would show the password
	}
	switch u.Scheme {
	case "unix", "redis-socket":
		u.Scheme = "redis-socket"
		if rest[at:end] != "" || u.Path == "" {
			return nil, nil, errURL
		}
		return u, nil, nil
	case "redis", "rediss", "redis-sentinel", "rediss-sentinel", "redis-cluster", "rediss-cluster":
		hosts := strings.Split(rest[at:end], ",")
		for _, h := range hosts {
			if one, err := url.Parse("redis://" + h); err != nil || one.Hostname() == "" || one.User != nil {
				return nil, nil, errURL
			}
		}
		return u, hosts, nil
	}
	return nil, nil, errURL
}

// ported adds the usual port where none is given.
func ported(hosts []string, usual string) []string {
	out := make([]string, len(hosts))
	for i, h := range hosts {
		u := url.URL{Host: h}
		port := u.Port()
		if port == "" {
			port = usual
		}
		out[i] = net.JoinHostPort(u.Hostname(), port)
	}
	return out
}
