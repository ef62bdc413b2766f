package bench

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"batchwright/internal/gateway"
)

const (
	requestsFull  = 20_000
	requestsQuick = 3_000
	aloneFull     = 4_000 // requests one after the other
	aloneQuick    = 500
	gatewayConns  = 32
)

// throughServer is P11: requests through the server, native ones and those to the Universal Endpoint.
func throughServer(ctx context.Context, l *lab) (_ []line, err error) {
	n, alone := l.size(requestsFull, requestsQuick), l.size(aloneFull, aloneQuick)
	s, err := l.gatewaySystem(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.close(ctx)) }()
	const endpoint = "chat/completions"
	direct, proxy := bare(l.provider(), endpoint, ask), bare(l.proxied(), endpoint, ask)
	ours := []struct {
		name string
		load load
	}{{"native", s.native(plainGateway, endpoint, ask)}, {"universal", s.universal(plainGateway, endpoint, ask)}}
	for _, o := range ours {
		if _, err := s.through(ctx, plainGateway, o.load, gatewayConns, 1000); err != nil {
			return nil, err
		}
	}
	for _, b := range []load{direct, proxy} {
		if _, err := b.fire(ctx, gatewayConns, 1000); err != nil {
			return nil, err
		}
	}
	generator := line{name: "P11 requests/s, bare proxy : no proxy", note: fmt.Sprintf("%d requests of %d bytes over %d connections, with an answer of %d bytes: what the load can do, and the ceiling below.",
		n, len(ask), gatewayConns, len(completion))}
	lines := []line{generator}
	for _, o := range ours {
		lines = append(lines,
			line{name: "P11 requests/s, " + o.name + " : bare proxy", target: 0.7, note: "The same requests through the server, " + surface(o.name) + "."},
			line{name: "P11 requests/s until logged, " + o.name + " : bare proxy", note: untilLogged},
			line{name: "P11 CPU of the process, µs, " + o.name + " : bare proxy", note: "What a request takes of the server's process, the writing of the log included, beside what it takes of the proxy's."},
			line{name: "P11 added p50, µs, full load, " + o.name + " : bare proxy", target: 1.5, atMost: true, note: "Over the median of the provider without a proxy, in the same rounds: every core is busy, so requests wait for each other."},
			line{name: "P11 added p99, µs, full load, " + o.name + " : bare proxy", note: "The same of the 99th percentile."},
			line{name: "P11 added p50, µs, one at a time, " + o.name + " : bare proxy", target: 1.5, atMost: true,
				note: fmt.Sprintf("Over the median of the provider without a proxy, %d requests one after the other on one connection: what the way through takes by itself.", alone)},
			line{name: "P11 added p99, µs, one at a time, " + o.name + " : bare proxy", note: "The same of the 99th percentile."})
	}
	for round := range l.rounds {
		d, err := s.past(ctx, direct, gatewayConns, n)
		if err != nil {
			return nil, err
		}
		p, err := s.past(ctx, proxy, gatewayConns, n)
		if err != nil {
			return nil, err
		}
		d1, err := s.past(ctx, direct, 1, alone)
		if err != nil {
			return nil, err
		}
		p1, err := s.past(ctx, proxy, 1, alone)
		if err != nil {
			return nil, err
		}
		lines[0].read(p.rate(), d.rate(), p.String(), p.cpu.per(n))
		told := fmt.Sprintf("P11 round %d: direct %s, proxy %s", round+1, d, p)
		for i, o := range ours {
			v, err := s.through(ctx, plainGateway, o.load, gatewayConns, n)
			if err != nil {
				return nil, err
			}
			v1, err := s.through(ctx, plainGateway, o.load, 1, alone)
			if err != nil {
				return nil, err
			}
			at := lines[1+7*i:]
			at[0].read(v.rate(), p.rate(), v.String(), v.cpu.per(n))
			at[1].read(v.logged, p.rate(), "", nil)
			at[2].read(micros(v.cpu["gateway"])/float64(n), micros(p.cpu["proxy"])/float64(n), "", nil)
			for j, q := range []float64{0.5, 0.99} {
				at[3+j].read(quantile(v.whole, q)-quantile(d.whole, q), quantile(p.whole, q)-quantile(d.whole, q), "", nil)
				at[5+j].read(quantile(v1.whole, q)-quantile(d1.whole, q), quantile(p1.whole, q)-quantile(d1.whole, q), "", nil)
			}
			told += fmt.Sprintf(", %s %s, logged %.0f/s", o.name, v, v.logged)
		}
		l.say(told)
	}
	return lines, s.profileGateway(ctx, "P11", seconds(float64(n)/median(lines[1].ours)), func(ctx context.Context) error {
		_, err := s.through(ctx, plainGateway, ours[0].load, gatewayConns, n)
		return err
	})
}

const untilLogged = "The same, counted until the last of them is in Postgres, and without those that the log left out, if any: each round tells."

func surface(name string) string {
	if name == "universal" {
		return "as a chain of one step to the Universal Endpoint"
	}
	return "to the provider's own path"
}

func (v volley) String() string {
	s := fmt.Sprintf("%.0f/s (p50 %.0f µs, p99 %.0f µs)", v.rate(), quantile(v.whole, 0.5), quantile(v.whole, 0.99))
	if v.missing > 0 {
		s += fmt.Sprintf(", %d left out of the log", v.missing)
	}
	return s
}

func micros(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

// throughEngine is P12: the engine in a program of one's own, beside a bare client.
func throughEngine(ctx context.Context, l *lab) ([]line, error) {
	n := l.size(requestsFull, requestsQuick)
	e, err := gateway.NewEngine(gateway.EngineOptions{Endpoints: map[string]gateway.Endpoint{"openai": {BaseURL: "http://" + l.provider() + "/v1", Key: "sk-bench"}}})
	if err != nil {
		return nil, err
	}
	defer e.Close()
	step := gateway.Step{Provider: "openai", Model: "gpt-4o-mini", Endpoint: "chat/completions", Query: []byte(ask)}
	req := &gateway.Request{Steps: []gateway.Step{step}}
	client := newCaller(l.provider(), gatewayConns)
	defer client.close()
	bodies := make([][]byte, n)
	for i := range bodies {
		bodies[i] = step.Query
	}
	if _, err := client.all(ctx, bodies[:500], gatewayConns); err != nil {
		return nil, err
	}
	if _, _, err := runAll(ctx, e, req, gatewayConns, 500); err != nil {
		return nil, err
	}
	calls := line{name: "P12 calls/s, engine : bare client", target: 0.8, note: fmt.Sprintf("%d calls, %d at a time, from the bench's own process. The ceiling is a tuned net/http client that reads the answer's bytes and doesn't look at them; "+
		"the engine decodes them, and walks its steps, limits, breakers and keys.", n, gatewayConns)}
	cpu := line{name: "P12 CPU, µs a call, engine : bare client", note: "Of the bench's process."}
	for round := range l.rounds {
		before := l.cpu(nil)
		ceiling, err := client.all(ctx, bodies, gatewayConns)
		if err != nil {
			return nil, fmt.Errorf("bare client: %w", err)
		}
		between := l.cpu(nil)
		rate, took, err := runAll(ctx, e, req, gatewayConns, n)
		if err != nil {
			return nil, fmt.Errorf("engine: %w", err)
		}
		theirs, ours := between.sub(before).per(n), l.cpu(nil).sub(between).per(n)
		calls.read(rate, ceiling, took.Round(time.Millisecond).String(), ours)
		cpu.read(micros(ours["bench"]), micros(theirs["bench"]), "", nil)
		l.say(fmt.Sprintf("P12 round %d: engine %.0f calls/s, bare %.0f", round+1, rate, ceiling))
	}
	return []line{calls, cpu}, nil
}

// runAll makes n Runs, conns at a time.
func runAll(ctx context.Context, e *gateway.Engine, req *gateway.Request, conns, n int) (rate float64, took time.Duration, err error) {
	var next atomic.Int64
	g, ctx := errgroup.WithContext(ctx)
	began := time.Now()
	for range conns {
		g.Go(func() error {
			for next.Add(1) <= int64(n) {
				resp, err := e.Run(ctx, req, nil)
				if err == nil && (resp.Text == "" || resp.Usage.Output != 41) {
					err = fmt.Errorf("an answer of %d bytes with %d tokens", len(resp.Text), resp.Usage.Output)
				}
				if err != nil {
					return err
				}
			}
			return nil
		})
	}
	err = g.Wait()
	took = time.Since(began)
	return float64(n) / took.Seconds(), took, err
}

// fromCache is P13: hits, beside a handler that has nothing but the bytes.
func fromCache(ctx context.Context, l *lab) (_ []line, err error) {
	n := l.size(2*requestsFull, requestsQuick)
	s, err := l.gatewaySystem(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.close(ctx)) }()
	const endpoint = "chat/completions"
	hit, memory := s.native(cachedGateway, endpoint, ask), bare(l.memory(), endpoint, ask)
	if _, err := s.through(ctx, cachedGateway, hit, 1, 1); err != nil { // which is stored
		return nil, err
	}
	hit.want = http.CanonicalHeaderKey("cf-aig-cache-status") + ": HIT"
	if _, err := s.through(ctx, cachedGateway, hit, gatewayConns, 1000); err != nil {
		return nil, err
	}
	if _, err := memory.fire(ctx, gatewayConns, 1000); err != nil {
		return nil, err
	}
	hits := line{name: "P13 requests/s, cache hit : bytes from memory", target: 0.6, note: fmt.Sprintf("%d requests over %d connections, all of them hits, authenticated and logged with both bodies. The ceiling is a net/http handler in a process of its own that reads the request and writes the same %d bytes.",
		n, gatewayConns, len(completion))}
	logs := line{name: "P13 requests/s until logged : bytes from memory", note: untilLogged}
	alone := line{name: "P13 requests/s, unlogged : bytes from memory", note: "The same with a header that keeps the requests out of the log."}
	silent := s.native(cachedGateway, endpoint, ask, unlogged)
	silent.want = hit.want
	cpu := line{name: "P13 CPU of the process, µs : bytes from memory", note: "What a request takes of each process, the writing of the log included."}
	for round := range l.rounds {
		m, err := s.past(ctx, memory, gatewayConns, n)
		if err != nil {
			return nil, err
		}
		v, err := s.through(ctx, cachedGateway, hit, gatewayConns, n)
		if err != nil {
			return nil, err
		}
		u, err := s.past(ctx, silent, gatewayConns, n)
		if err != nil {
			return nil, err
		}
		hits.read(v.rate(), m.rate(), v.String(), v.cpu.per(n))
		alone.read(u.rate(), m.rate(), u.String(), u.cpu.per(n))
		logs.read(v.logged, m.rate(), "", nil)
		cpu.read(micros(v.cpu["gateway"])/float64(n), micros(m.cpu["proxy"])/float64(n), "", nil)
		l.say(fmt.Sprintf("P13 round %d: hits %s, logged %.0f/s, unlogged %s, memory %s", round+1, v, v.logged, u, m))
	}
	return []line{hits, logs, alone, cpu}, s.profileGateway(ctx, "P13", seconds(float64(n)/median(hits.ours)), func(ctx context.Context) error {
		_, err := s.through(ctx, cachedGateway, hit, gatewayConns, n)
		return err
	})
}

// streamed is P14: server-sent events, when they begin and how fast they pass.
func streamed(ctx context.Context, l *lab) (_ []line, err error) {
	const conns = 4
	n, long, flushed := l.size(aloneFull, aloneQuick), l.size(160, 16), l.size(400, 40)
	s, err := l.gatewaySystem(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.close(ctx)) }()
	kinds := []struct {
		endpoint string
		conns, n int
	}{{"short", 1, n}, {"long", conns, long}, {"flushed", conns, flushed}}
	first := line{name: "P14 added time to first byte, p50, µs : bare proxy", target: 1.5, atMost: true, note: fmt.Sprintf("Of the body, over that of the provider without a proxy; %d short streams one after the other.", n)}
	last := line{name: "P14 added time to first byte, p99, µs : bare proxy", note: "The same of the 99th percentile."}
	size := line{name: "P14 MB/s of long streams, back to back : bare proxy", target: 0.8, note: fmt.Sprintf("%d streams of %d MiB in some %d events each, %d at a time, that come as fast as they can. The server keeps them whole for the log.", long, longBytes>>20, longBytes/len(event), conns)}
	apart := line{name: "P14 MB/s of long streams, apart : bare proxy", target: 0.8, note: fmt.Sprintf("%d such streams at a time, and the next when the log holds them: what a caller sees where streams don't come so fast.", conns)}
	alone := line{name: "P14 MB/s of long streams, unlogged : bare proxy", note: "The same with a header that keeps the requests out of the log."}
	events := line{name: "P14 events/s, each flushed : bare proxy", target: 0.8, note: fmt.Sprintf("%d streams of %d events that the provider flushes one by one, %d at a time.", flushed, paceEvents, conns)}
	for round := range l.rounds {
		told := fmt.Sprintf("P14 round %d:", round+1)
		for _, k := range kinds {
			d, err := s.past(ctx, bare(l.provider(), k.endpoint, askStream), k.conns, k.n)
			if err != nil {
				return nil, err
			}
			p, err := s.past(ctx, bare(l.proxied(), k.endpoint, askStream), k.conns, k.n)
			if err != nil {
				return nil, err
			}
			v, err := s.through(ctx, plainGateway, s.native(plainGateway, k.endpoint, askStream), k.conns, k.n)
			if err != nil {
				return nil, err
			}
			if v.bytes != d.bytes || p.bytes != d.bytes {
				return nil, fmt.Errorf("%s: %d bytes came of %d", k.endpoint, v.bytes, d.bytes)
			}
			took := v.took.Round(time.Millisecond).String()
			switch k.endpoint {
			case "short":
				first.read(quantile(v.first, 0.5)-quantile(d.first, 0.5), quantile(p.first, 0.5)-quantile(d.first, 0.5), took, v.cpu.per(k.n))
				last.read(quantile(v.first, 0.99)-quantile(d.first, 0.99), quantile(p.first, 0.99)-quantile(d.first, 0.99), "", nil)
				told += fmt.Sprintf(" first byte p50 %.0f, proxy %.0f, direct %.0f µs;", quantile(v.first, 0.5), quantile(p.first, 0.5), quantile(d.first, 0.5))
			case "long":
				u, err := s.past(ctx, s.native(plainGateway, k.endpoint, askStream, unlogged), k.conns, k.n)
				if err != nil {
					return nil, err
				}
				pp, err := several(long/conns/4, func() (volley, error) { return bare(l.proxied(), k.endpoint, askStream).fire(ctx, conns, conns) })
				if err != nil {
					return nil, err
				}
				va, err := several(long/conns/4, func() (volley, error) {
					return s.through(ctx, plainGateway, s.native(plainGateway, k.endpoint, askStream), conns, conns)
				})
				if err != nil {
					return nil, err
				}
				apart.read(megabytes(va), megabytes(pp), va.took.Round(time.Millisecond).String(), nil)
				size.read(megabytes(v), megabytes(p), took, v.cpu.per(k.n))
				alone.read(megabytes(u), megabytes(p), u.took.Round(time.Millisecond).String(), u.cpu.per(k.n))
				told += fmt.Sprintf(" long %.0f, apart %.0f (proxy %.0f), unlogged %.0f, proxy %.0f, direct %.0f MB/s;", megabytes(v), megabytes(va), megabytes(pp), megabytes(u), megabytes(p), megabytes(d))
			default:
				events.read(v.rate()*paceEvents, p.rate()*paceEvents, took, v.cpu.per(k.n))
				told += fmt.Sprintf(" flushed %.0f, proxy %.0f, direct %.0f events/s", v.rate()*paceEvents, p.rate()*paceEvents, d.rate()*paceEvents)
			}
		}
		l.say(told)
	}
	return []line{first, last, apart, size, alone, events}, s.profileGateway(ctx, "P14", 10*time.Second, func(ctx context.Context) error {
		for _, k := range kinds[1:] {
			if _, err := s.through(ctx, plainGateway, s.native(plainGateway, k.endpoint, askStream), k.conns, k.n); err != nil {
				return err
			}
		}
		return nil
	})
}

// several adds up volleys that are fired one after the other.
func several(times int, fire func() (volley, error)) (sum volley, err error) {
	for range max(times, 1) {
		v, err := fire()
		if err != nil {
			return sum, err
		}
		sum.n, sum.bytes, sum.took = sum.n+v.n, sum.bytes+v.bytes, sum.took+v.took
	}
	return sum, nil
}

func megabytes(v volley) float64 { return float64(v.bytes) / 1e6 / v.took.Seconds() }
