package redis

import (
	"crypto/tls"
	"errors"
	"net"
	"net/url"
	"strings"

	goredis "github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// errURL says what an address may look like. It never says what was given: any part of a mistyped URL may be of the password.
var errURL = errors.New("want redis://[user:password@]host:6379/0, redis-sentinel://[user:password@]host:26379,host:26379/0?master=NAME, " +
	"redis-cluster://[user:password@]host:6379,host:6379 or redis-socket:///path?db=0, with rediss in place of redis for TLS, and special characters escaped")

// open reads a Redis URL and returns a client that connects when it is first used, and the cluster, if that is what it is:
//
//	redis://[user:password@]host[:6379][/db]
//	redis-sentinel://[user:password@]host[:26379],...[/db]?master=NAME[&sentinel_user=U][&sentinel_password=P]
//	redis-cluster://[user:password@]host[:6379],...
//	redis-socket://[user:password@]/path[?db=N], also spelt unix://
//
// Each of the first three may begin with rediss for TLS. User and password are those of the servers that hold the data;
// sentinels get their own, if any. Options of the go-redis library, such as pool_size, may follow in the query.
func open(raw string) (goredis.UniversalClient, *goredis.ClusterClient, error) {
	u, hosts, err := split(raw)
	if err != nil {
		return nil, nil, err
	}
	kind := u.Scheme
	u.Scheme = "redis"
	if rest, ok := strings.CutPrefix(kind, "rediss"); ok {
		u.Scheme, kind = "rediss", "redis"+rest
	}
	if kind == "redis-socket" {
		u.Scheme, u.Host = "unix", ""
	}
	if hosts != nil {
		u.Host = ported(hosts, "6379")[0]
	}
	switch kind {
	case "redis-sentinel":
		return sentinel(u, hosts)
	case "redis-cluster":
		return cluster(u, hosts)
	}
	if len(hosts) > 1 {
		return nil, nil, errors.New("want one host, or redis-sentinel:// or redis-cluster:// before several")
	}
	o, err := goredis.ParseURL(u.String())
	if err != nil {
		return nil, nil, errURL // the cause would show the password
	}
	// A script that ran and whose answer was lost must not run again.
	o.MaxRetries, o.DialerRetries = -1, 1
	o.ContextTimeoutEnabled, o.DisableIdentity = true, true
	o.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
	return goredis.NewClient(o), nil, nil
}

func sentinel(u *url.URL, hosts []string) (goredis.UniversalClient, *goredis.ClusterClient, error) {
	q := u.Query()
	if q.Get("master") == "" {
		return nil, nil, errors.New("?master= must name what the sentinels watch, such as redis-sentinel://host:26379,host:26379?master=mymaster")
	}
	user := u.User
	password, _ := user.Password()
	name, sentinelUser, sentinelPassword := q.Get("master"), q.Get("sentinel_user"), q.Get("sentinel_password")
	for _, ours := range []string{"master", "sentinel_user", "sentinel_password"} {
		q.Del(ours)
	}
	u.User, u.RawQuery = nil, q.Encode()
	o, err := goredis.ParseFailoverURL(u.String())
	if err != nil {
		return nil, nil, errURL
	}
	o.MasterName, o.SentinelAddrs, o.SentinelUsername, o.SentinelPassword = name, ported(hosts, "26379"), sentinelUser, sentinelPassword
	o.Username, o.Password = user.Username(), password
	o.MaxRetries, o.DialerRetries = -1, 1
	o.ContextTimeoutEnabled, o.DisableIdentity = true, true
	o.TLSConfig = anyHost(o.TLSConfig)
	return goredis.NewFailoverClient(o), nil, nil
}

func cluster(u *url.URL, hosts []string) (goredis.UniversalClient, *goredis.ClusterClient, error) {
	if path := strings.Trim(u.Path, "/"); path != "" && path != "0" {
		return nil, nil, errors.New("a cluster has database 0 only")
	}
	u.Path = ""
	o, err := goredis.ParseClusterURL(u.String())
	if err != nil {
		return nil, nil, errURL
	}
	o.Addrs = ported(hosts, "6379")
	o.MaxRetries, o.DialerRetries = -1, 1
	o.ContextTimeoutEnabled, o.DisableIdentity = true, true
	o.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
	o.TLSConfig = anyHost(o.TLSConfig)
	c := goredis.NewClusterClient(o)
	return c, c, nil
}

// anyHost makes each server of many be known by its own name, and not by the first one's.
func anyHost(c *tls.Config) *tls.Config {
	if c != nil {
		c.ServerName = ""
	}
	return c
}

// split parses a URL with a list of hosts, which net/url takes for a host with a bad port.
func split(raw string) (*url.URL, []string, error) {
	scheme, tail, ok := strings.Cut(raw, "://")
	if !ok {
		return nil, nil, errURL
	}
	end := strings.IndexAny(tail, "/?#")
	if end < 0 {
		end = len(tail)
	}
	at := strings.LastIndexByte(tail[:end], '@') + 1
	u, err := url.Parse(scheme + "://" + tail[:at] + "hosts" + tail[end:])
	if err != nil {
		return nil, nil, errURL // the cause would show the password
	}
	switch u.Scheme {
	case "unix", "redis-socket":
		u.Scheme = "redis-socket"
		if tail[at:end] != "" || u.Path == "" {
			return nil, nil, errURL
		}
		return u, nil, nil
	case "redis", "rediss", "redis-sentinel", "rediss-sentinel", "redis-cluster", "rediss-cluster":
		hosts := strings.Split(tail[at:end], ",")
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
