package bench

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"batchwright/internal/gateway/server"
	"batchwright/internal/store"
)

const gatewayPreface = `# Benchmarks of the gateway

Written by ` + "`make bench-gateway`" + `; don't edit it. Each figure stands beside a ceiling that was measured in turn with it, on
the same machine with the same services. The server is the program that users run, in a process of its own, with its
defaults: callers are authenticated, and every request is logged to Postgres with both bodies. Its ceiling is a
` + "`httputil.ReverseProxy`" + ` with a tuned transport and a pool of buffers, in a process of its own before the same stand-in
for a provider, which answers at once from memory. The load comes from kept connections and reads no more of an answer
than it must. All of them share the machine's cores.

The ratio of the medians is the result. Absolute figures are for orientation: they change with the machine and with what
else runs on it. A ratio below its target, or above one that is a limit, is "short"; nothing fails by it.

`

// startStandIns starts the stand-in for a provider, and the bare proxy before it.
func (l *lab) startStandIns() error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	l.pids["bench"] = os.Getpid()
	for _, p := range []struct{ name, before string }{{"provider", noProxy}, {"proxy", ""}} {
		if p.before == "" {
			p.before = l.backends[0]
		}
		cmd, addrs, stop, err := startBackends(self, "-proxy", p.before)
		if err != nil {
			return err
		}
		l.backends, l.pids[p.name] = append(l.backends, addrs...), cmd.Process.Pid
		l.ends = append(l.ends, func(context.Context) error { return stop() })
	}
	return nil
}

// The addresses that startStandIns leaves in the lab.
func (l *lab) provider() string { return l.backends[0] }
func (l *lab) proxied() string  { return l.backends[1] }
func (l *lab) memory() string   { return l.backends[2] }

// gatewaySystem is a gateway's server on a database of its own.
type gatewaySystem struct {
	*lab
	db    *pgxpool.Pool // to look from outside
	proc  *program
	token string
	ends  []func(context.Context) error
}

// The gateways of the account, by name: with the default settings, and with a cache.
const (
	benchAccount  = "bench"
	plainGateway  = "plain"
	cachedGateway = "cached"
)

func (l *lab) gatewaySystem(ctx context.Context) (_ *gatewaySystem, err error) {
	s := &gatewaySystem{lab: l, token: newGatewayToken()}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close(ctx))
		}
	}()
	databaseURL, redisURL, drop, err := l.database(ctx)
	if err != nil {
		return nil, err
	}
	s.ends = append(s.ends, drop)
	if _, err := store.Migrate(ctx, databaseURL); err != nil {
		return nil, err
	}
	if err := makeGateways(ctx, databaseURL, s.token); err != nil {
		return nil, err
	}
	if s.db, err = connect(ctx, databaseURL, 2); err != nil {
		return nil, err
	}
	s.ends = append(s.ends, func(context.Context) error { s.db.Close(); return nil })
	s.proc, err = startProgram(ctx, "gateway", filepath.Join(l.bin, "gateway"), []string{"DATABASE_URL=" + databaseURL, "REDIS_URL=" + redisURL,
		"GATEWAY_ADDR=127.0.0.1:0", "ADMIN_ADDR=127.0.0.1:0", "OPENAI_BASE_URL=http://" + l.provider() + "/v1"}, "admin ready", "gateway ready")
	return s, err
}

// makeGateways makes the gateways, and the token, which may only run.
func makeGateways(ctx context.Context, databaseURL, token string) error {
	db, err := store.Open(ctx, databaseURL, store.Options{MaxConns: 1})
	if err != nil {
		return err
	}
	defer db.Close()
	settings := server.DefaultSettings()
	for _, name := range []string{plainGateway, cachedGateway} {
		if name == cachedGateway {
			settings.CacheTTL = new(int64(24 * 3600))
		}
		raw, err := json.Marshal(settings)
		if err != nil {
			return err
		}
		if _, err := db.CreateGateway(ctx, benchAccount, name, raw); err != nil {
			return err
		}
	}
	hash := sha256.Sum256([]byte(token))
	_, err = db.CreateGatewayToken(ctx, store.GatewayToken{Account: benchAccount, Name: "bench", Run: true}, hash[:])
	return err
}

// newGatewayToken makes one in the server's form.
func newGatewayToken() string {
	var b [32]byte
	_, _ = rand.Read(b[:]) // never fails
	return "bwg_" + base64.RawURLEncoding.EncodeToString(b[:])
}

func (s *gatewaySystem) close(ctx context.Context) (err error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*stopLimit)
	defer cancel()
	err = s.proc.stop(ctx)
	for i := len(s.ends) - 1; i >= 0; i-- {
		err = errors.Join(err, s.ends[i](ctx))
	}
	return err
}

const (
	ask       = `{"model":"gpt-4o-mini","messages":[{"role":"system","content":"You write product blurbs."},{"role":"user","content":"Write two sentences about a quiet dehumidifier for cellars up to forty square metres, with a tank of five litres and a hose for longer absences."}],"temperature":0.2,"max_tokens":80}`
	askStream = `{"model":"gpt-4o-mini","stream":true,"messages":[{"role":"user","content":"Write two sentences about a quiet dehumidifier."}]}`
)

// post is a request as an SDK sends it.
func post(addr, path, body string, more ...string) load {
	head := "POST " + path + " HTTP/1.1\r\nHost: " + addr + "\r\nUser-Agent: OpenAI/Python 2.8.1\r\nAccept: application/json\r\nAccept-Encoding: gzip, deflate\r\n" +
		"Content-Type: application/json\r\nAuthorization: Bearer sk-bench-0123456789abcdef\r\nX-Stainless-Lang: python\r\nX-Stainless-Package-Version: 2.8.1\r\n" +
		"X-Stainless-Retry-Count: 0\r\n"
	for _, h := range more {
		head += h + "\r\n"
	}
	return load{addr: addr, request: fmt.Appendf(nil, "%sContent-Length: %d\r\n\r\n%s", head, len(body), body)}
}

// bare is a request to what speaks the provider's own form.
func bare(addr, endpoint, body string) load { return post(addr, "/v1/"+endpoint, body) }

// native and universal are the same through a gateway.
func (s *gatewaySystem) native(gateway, endpoint, body string, more ...string) load {
	return post(s.addr(), "/v1/"+benchAccount+"/"+gateway+"/openai/"+endpoint, body, append([]string{"cf-aig-authorization: Bearer " + s.token}, more...)...)
}

// unlogged is a header that keeps a request out of the log.
const unlogged = "cf-aig-collect-log: false"

func (s *gatewaySystem) universal(gateway, endpoint, body string) load {
	step := `[{"provider":"openai","endpoint":"` + endpoint + `","headers":{"Authorization":"Bearer sk-bench-0123456789abcdef","Content-Type":"application/json"},"query":` + body + `}]`
	return post(s.addr(), "/v1/"+benchAccount+"/"+gateway, step, "cf-aig-authorization: Bearer "+s.token)
}

func (s *gatewaySystem) addr() string { return s.proc.log.addr("gateway ready") }

// through fires at a gateway, and waits until the log has caught up.
func (s *gatewaySystem) through(ctx context.Context, gateway string, l load, conns, n int) (v volley, err error) {
	before, began := s.cpu(), time.Now()
	if v, err = l.fire(ctx, conns, n); err != nil {
		return v, fmt.Errorf("through the gateway: %w; it said last: %.300s", err, s.proc.log.last())
	}
	held, at, err := s.awaitLog(ctx, gateway, began, n)
	if err != nil {
		return v, err
	}
	v.missing = n - held
	v.logged = float64(held) / at.Sub(began).Seconds()
	v.cpu = s.cpu().sub(before)
	return v, s.settle(ctx)
}

// past fires at what is no gateway.
func (s *gatewaySystem) past(ctx context.Context, l load, conns, n int) (volley, error) {
	before := s.cpu()
	v, err := l.fire(ctx, conns, n)
	v.cpu = s.cpu().sub(before)
	return v, err
}

// awaitLog waits until the log holds n requests of a gateway that came since then, or doesn't grow any more: the server
// leaves requests out when Postgres can't follow. It returns how many it holds, and since when.
func (s *gatewaySystem) awaitLog(ctx context.Context, gateway string, since time.Time, n int) (held int, at time.Time, err error) {
	tick := time.NewTicker(50 * time.Millisecond) // each look has its price
	defer tick.Stop()
	for at = time.Now(); ; {
		var now int
		err := s.db.QueryRow(ctx, `select count(*) from gateway_logs where account = $1 and gateway = $2 and created_at >= $3`, benchAccount, gateway, since).Scan(&now)
		if err != nil {
			return 0, at, err
		}
		if now > held {
			held, at = now, time.Now()
		}
		if held == n || time.Since(at) > 5*time.Second {
			return held, at, nil
		}
		select {
		case <-ctx.Done():
			return 0, at, context.Cause(ctx)
		case <-tick.C:
		}
	}
}

func (s *gatewaySystem) cpu() usage { return s.lab.cpu(map[string]int{"gateway": s.proc.pid()}) }

// settle does for the next round what autovacuum does in the long run.
func (s *gatewaySystem) settle(ctx context.Context) error {
	_, err := s.db.Exec(ctx, `vacuum analyze gateway_logs, gateway_log_bodies`)
	return err
}

// profileGateway makes one more run under a profile, if one is wanted. Its figure doesn't count.
func (s *gatewaySystem) profileGateway(ctx context.Context, id string, long time.Duration, run func(context.Context) error) error {
	if s.gatewayProfile == "" || s.profiled["gateway"] {
		return nil
	}
	s.profiled["gateway"] = true
	s.say(fmt.Sprintf("%s: profile of the gateway during one more run: %s", id, s.gatewayProfile))
	url := fmt.Sprintf("http://%s/debug/pprof/profile?seconds=%d", s.proc.log.addr("admin ready"), int(long.Seconds())+1)
	fetched := make(chan error, 1)
	go func() { fetched <- fetch(ctx, url, s.gatewayProfile) }()
	err := run(ctx)
	return errors.Join(err, <-fetched)
}
