package bench

import (
	"context"
	"errors"
	"fmt"
	"runtime"
)

// manyCores is how many it takes for a second worker to find some that the first and the services leave idle.
const manyCores = 8

// twoWorkers is P3: whether a second worker process helps, or at least doesn't harm.
func twoWorkers(ctx context.Context, l *lab) (_ []line, err error) {
	n := l.size(jobsFull, jobsQuick)
	const route = "openai-compatible:sim-1"
	settings := []string{fmt.Sprintf("WORKER_CONCURRENCY=%d", concurrency)}
	s, err := l.system(ctx, settings)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.close(ctx)) }()
	if err := s.warm(ctx, route); err != nil {
		return nil, err
	}
	jobs := line{name: "P3 jobs/s, two workers : one worker", target: 1,
		note: fmt.Sprintf("%d jobs as in P1, by two worker processes and by one of them. Where all cores are busy with one worker and the services, as on this machine's %d, the target is that two of them don't get into each other's way; from %d cores on it is 1.50.",
			n, runtime.NumCPU(), manyCores)}
	if runtime.NumCPU() >= manyCores {
		jobs.target = 1.5
	}
	for round := range l.rounds {
		one, err := s.fresh(ctx, n, route, fmt.Sprintf("P3 one %d", round))
		if err != nil {
			return nil, err
		}
		if err := s.startWorker(ctx, settings); err != nil {
			return nil, err
		}
		if _, err := s.fresh(ctx, l.size(warmJobs, warmJobs/4), route, fmt.Sprintf("P3 warm-up %d", round)); err != nil {
			return nil, err
		}
		two, err := s.fresh(ctx, n, route, fmt.Sprintf("P3 two %d", round))
		if err != nil {
			return nil, err
		}
		if err := s.stopWorkers(ctx, 1); err != nil {
			return nil, err
		}
		jobs.add(two, one.rate())
		l.say(fmt.Sprintf("P3 round %d: two %.0f jobs/s in %s; one %.0f jobs/s", round+1, two.rate(), two, one.rate()))
	}
	return []line{jobs}, nil
}
