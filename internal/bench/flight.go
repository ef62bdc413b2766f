package bench

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"
)

// flight is many calls that take a while.
type flight struct {
	id       string
	backend  int // index into latencies
	jobs     int
	inFlight int
}

func (f flight) latency() time.Duration { return latencies[f.backend] }

func (f flight) String() string { return fmt.Sprintf("%d in flight, %s each", f.inFlight, f.latency()) }

// settings are the worker's.
func (f flight) settings(l *lab) []string {
	return []string{fmt.Sprintf("WORKER_CONCURRENCY=%d", f.inFlight), "OPENAI_COMPATIBLE_BASE_URL=http://" + l.backends[f.backend] + "/v1"}
}

// fly starts a system for calls of this kind and runs the rounds.
func (f flight) fly(ctx context.Context, l *lab, each func(round int, r run) error) (err error) {
	const route = "openai-compatible:sim-1"
	s, err := l.system(ctx, f.settings(l))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close(ctx)) }()
	// As many connections are open, and as many calls at once are known to be welcome, as in a worker that has run for a while.
	n := min(f.jobs, max(2*f.inFlight, warmJobs))
	if _, err := s.fresh(ctx, n, route, f.id+" warm-up"); err != nil {
		return fmt.Errorf("warm-up: %w", err)
	}
	var last run
	for round := range l.rounds {
		if last, err = s.fresh(ctx, f.jobs, route, fmt.Sprintf("%s %d", f.id, round)); err != nil {
			return err
		}
		l.say(fmt.Sprintf("%s round %d: %.0f jobs/s in %s, worker at %.0f MiB", f.id, round+1, last.rate(), last, last.memory["worker"]))
		if err := each(round, last); err != nil {
			return err
		}
	}
	return s.profile(ctx, f.id, last.done, func(ctx context.Context) error {
		_, err := s.run(ctx, f.jobs, route, products(f.jobs, "profile"))
		return err
	})
}

const fromTheFirstByte = "The ideal is jobs in flight over latency, from the first byte of the submission on, so planning and the last answers count against it."

// waiting is L200: jobs whose calls take a while, many in flight.
func waiting(ctx context.Context, l *lab) ([]line, error) {
	f := flight{"L200", slow, l.size(jobsFull, jobsQuick), l.size(1000, 250)}
	ideal := float64(f.inFlight) / f.latency().Seconds()
	jobs := line{name: fmt.Sprintf("L200 jobs/s, %s : ideal", f), target: 0.90, note: fmt.Sprintf("%d jobs. %s", f.jobs, fromTheFirstByte)}
	memory := line{name: "L200 peak RSS of the worker, MiB", note: "For orientation, with as many connections as calls in flight."}
	err := f.fly(ctx, l, func(_ int, r run) error {
		jobs.add(r, ideal)
		memory.ours = append(memory.ours, r.memory["worker"])
		return nil
	})
	return []line{jobs, memory}, err
}

// crowded is L500: as many calls in flight as leave no core idle.
func crowded(ctx context.Context, l *lab) ([]line, error) {
	f := flight{"L500", slower, l.size(50_000, 1000), l.size(5000, 500)}
	bare := newCaller(l.backends[f.backend], f.inFlight)
	defer bare.close()
	requests, err := bodies(f.jobs, "bare")
	if err != nil {
		return nil, err
	}
	if _, err := bare.all(ctx, requests[:min(f.jobs, 2*f.inFlight)], f.inFlight); err != nil {
		return nil, err
	}
	jobs := line{name: fmt.Sprintf("L500 jobs/s, %s : bare calls/s", f), target: 0.30,
		note: fmt.Sprintf("%d jobs. The ceiling is a tuned net/http client with as many calls in flight to the same provider; latency alone would allow %.0f a second.", f.jobs, float64(f.inFlight)/f.latency().Seconds())}
	memory := line{name: "L500 peak RSS of the worker, MiB : limit", target: 1, atMost: true, note: "The limit is that of P7."}
	err = f.fly(ctx, l, func(_ int, r run) error {
		ceiling, err := bare.all(ctx, requests, f.inFlight)
		if err != nil {
			return fmt.Errorf("bare calls: %w", err)
		}
		jobs.add(r, ceiling)
		memory.read(r.memory["worker"], workerLimit, "", nil)
		return nil
	})
	return []line{jobs, memory}, err
}

const workerLimit = 350 // MiB

// patient is P6 and P7: a great many calls that wait, and what memory they take.
func patient(ctx context.Context, l *lab) ([]line, error) {
	f := flight{"P6", slowest, l.size(50_000, 500), l.size(5000, 250)}
	ideal := float64(f.jobs) / float64(f.inFlight) * f.latency().Seconds()
	wall := line{name: fmt.Sprintf("P6 seconds for %d jobs, %s : ideal", f.jobs, f), target: 1.05, atMost: true,
		note: "The ideal is jobs over jobs in flight, times the latency, from the first byte of the submission on, so planning and the last answers count against it."}
	memory := line{name: "P7 peak RSS of the worker in P6, MiB : limit", target: 1, atMost: true, note: "With as many connections as calls in flight, over HTTP/1.1."}
	err := f.fly(ctx, l, func(_ int, r run) error {
		wall.add(r, ideal)
		wall.ours[len(wall.ours)-1] = r.done.Seconds()
		memory.read(r.memory["worker"], workerLimit, "", nil)
		return nil
	})
	return []line{wall, memory}, err
}

// viaGateway is G200: the calls of L200 through the server of our own gateway.
func viaGateway(ctx context.Context, l *lab) (_ []line, err error) {
	f := flight{"G200", slow, l.size(jobsFull, jobsQuick), l.size(1000, 250)}
	const route = "openai:sim-1"
	s, err := l.system(ctx, nil)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.close(ctx)) }()
	token := newGatewayToken()
	if err := makeGateways(ctx, s.databaseURL, token); err != nil {
		return nil, err
	}
	if s.gateway, err = startProgram(ctx, "gateway", filepath.Join(l.bin, "gateway"), s.env("GATEWAY_ADDR=127.0.0.1:0", "OPENAI_BASE_URL=http://"+l.backends[f.backend]+"/v1"),
		"admin ready", "gateway ready"); err != nil {
		return nil, err
	}
	url := "http://" + s.gateway.log.addr("gateway ready") + "/v1/" + benchAccount + "/" + plainGateway
	s.more = []string{"GATEWAY_URL=" + url, "GATEWAY_TOKEN=" + token, "OPENAI_API_KEY=sk-bench-0123456789abcdef"}
	if err := s.startAPI(ctx); err != nil { // which wants to know who calls
		return nil, err
	}
	if err := s.startWorker(ctx, f.settings(l)); err != nil {
		return nil, err
	}
	if err := s.warm(ctx, route); err != nil {
		return nil, err
	}
	jobs := line{name: fmt.Sprintf("G200 jobs/s through our gateway, %s : ideal", f), note: fmt.Sprintf("%d jobs, each a request to the Universal Endpoint of cmd/gateway, with authentication and its log. %s", f.jobs, fromTheFirstByte)}
	memory := line{name: "G200 peak RSS of the gateway, MiB", note: "For orientation, with as many connections on both sides as calls in flight, and its answers on their way to the log."}
	for round := range l.rounds {
		r, err := s.fresh(ctx, f.jobs, route, fmt.Sprintf("G200 %d", round))
		if err != nil {
			return nil, err
		}
		jobs.add(r, float64(f.inFlight)/f.latency().Seconds())
		memory.ours = append(memory.ours, r.memory["gateway"])
		l.say(fmt.Sprintf("G200 round %d: %.0f jobs/s in %s, gateway at %.0f MiB", round+1, r.rate(), r, r.memory["gateway"]))
	}
	return []line{jobs, memory}, nil
}
