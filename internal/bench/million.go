package bench

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"batchwright/internal/client"
	"batchwright/internal/process"
)

const (
	smallJobs  = 10 // of the batches that have to get through
	smallAlone = 7  // of them before the large one comes
)

// million is a batch of a million jobs: how fast it is planned, run and answered from the cache, what Redis holds of it meanwhile (P8), and what
// becomes of small batches beside it (P9). It is measured in one round.
func million(ctx context.Context, l *lab) (_ []line, err error) {
	n, few := l.size(1_000_000, 8000), l.size(10_000, 1000)
	const route, tag = "simulator/sim-1", "M"
	if err := l.redis.FlushAll(ctx).Err(); err != nil { // what earlier lines left
		return nil, err
	}
	s, err := l.system(ctx, []string{fmt.Sprintf("WORKER_CONCURRENCY=%d", concurrency)})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.close(ctx)) }()
	other, err := s.otherProject(ctx)
	if err != nil {
		return nil, err
	}
	defer other.Close()
	if err := s.warm(ctx, route); err != nil {
		return nil, err
	}
	var alone []float64
	for i := range smallAlone {
		took, err := s.small(ctx, s.client, fmt.Sprintf("alone %d", i))
		if err != nil {
			return nil, err
		}
		alone = append(alone, took)
	}
	var little, large run
	redisLittle, err := l.watchRedis(ctx, func(ctx context.Context) (err error) {
		little, err = s.fresh(ctx, few, route, "few")
		return err
	})
	if err != nil {
		return nil, err
	}
	l.say(fmt.Sprintf("M: %d jobs alone: %.0f ms; %d jobs: %.0f jobs/s in %s, Redis at %.2f MiB", smallJobs, median(alone), few, little.rate(), little, redisLittle))
	var beside [2][]float64
	redisLarge, err := l.watchRedis(ctx, func(ctx context.Context) (err error) {
		over := make(chan struct{})
		g, gctx := errgroup.WithContext(ctx)
		g.Go(func() (err error) {
			defer close(over)
			large, err = s.run(gctx, n, route, products(n, tag))
			return err
		})
		g.Go(func() (err error) {
			beside, err = s.besides(gctx, []*client.Client{s.client, other}, over)
			return err
		})
		return g.Wait()
	})
	if err != nil {
		return nil, err
	}
	if err := s.settle(ctx); err != nil {
		return nil, err
	}
	l.say(fmt.Sprintf("M: %d jobs: %.0f jobs/s in %s, Redis at %.2f MiB; %d jobs beside it: %.0f ms, of another project %.0f ms",
		n, large.rate(), large, redisLarge, smallJobs, median(beside[0]), median(beside[1])))
	hits, err := s.hits(ctx, n, route, tag)
	if err != nil {
		return nil, err
	}
	ceiling, err := s.copyProducts(ctx, n, tag)
	if err != nil {
		return nil, err
	}
	l.say(fmt.Sprintf("M: the same again: %.0f jobs/s in %s; COPY %.0f rows/s", hits.rate(), hits, ceiling))

	plan := line{name: fmt.Sprintf("M jobs planned/s, %d jobs : COPY rows/s", n), note: "From the answer 202 until the first may run: rendered, keyed, looked up and stored as jobs, while the machine did nothing else."}
	plan.read(float64(n)/(large.planned-large.accepted).Seconds(), ceiling, "", nil)
	whole := line{name: fmt.Sprintf("M jobs/s, %d jobs : %d jobs", n, few), note: "Submitted, planned and run, with a simulator in the worker as in P2, and with small batches beside it: whether the size of a batch slows its jobs down."}
	whole.add(large, little.rate())
	rerun := line{name: fmt.Sprintf("P5 jobs/s, %d jobs, all in the cache : COPY rows/s", n), target: 0.20, note: "As P5, with a million jobs."}
	rerun.add(hits, ceiling)
	post := line{name: fmt.Sprintf("P8 Redis, MiB, batch of %d : of %d", n, few), target: 1.2, atMost: true, note: "The most memory that Redis used while the batch ran, with all else that it held."}
	post.read(redisLarge, redisLittle, "", nil)
	lines := []line{plan, whole, rerun, post}
	limit := 3*median(alone) + 1000
	for i, who := range []string{"same project", "other project"} {
		fair := line{name: fmt.Sprintf("P9 ms for %d jobs beside %d, %s : limit", smallJobs, n, who), target: 1, atMost: true,
			note: fmt.Sprintf("From the first byte of the submission to the completed batch, submitted one after the other while the large batch ran. The limit is three times what they took alone (%.0f ms), and a second.", median(alone))}
		fair.read(median(beside[i]), limit, fmt.Sprintf("%d batches, the slowest in %.0f ms", len(beside[i]), slices.Max(append(beside[i], 0))), nil)
		if len(beside[i]) == 0 {
			fair.ours = nil // none got in: short
		}
		lines = append(lines, fair)
	}
	return lines, nil
}

// otherProject returns a client of a second project.
func (s *system) otherProject(ctx context.Context) (*client.Client, error) {
	getenv := func(name string) string { return map[string]string{"DATABASE_URL": s.databaseURL}[name] }
	key, err := process.CreateKey(ctx, getenv, "other", "bench")
	if err != nil {
		return nil, err
	}
	c, err := client.New("http://"+s.api.log.addr("api ready"), key)
	if err != nil {
		return nil, err
	}
	if _, err := c.SaveTemplate(ctx, "bench", []byte(template)); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// small runs a small batch and returns how many milliseconds that took.
func (s *system) small(ctx context.Context, c *client.Client, tag string) (float64, error) {
	began := time.Now()
	b, err := c.SubmitNDJSON(ctx, products(smallJobs, tag), client.BatchOptions{Kind: "generate", Template: "bench", Route: "simulator/sim-1"})
	if err != nil {
		return 0, err
	}
	_, done, err := s.await(ctx, b.ID, began)
	return float64(done) / float64(time.Millisecond), err
}

// besides runs small batches, now of one client, now of the other, while a large batch runs.
func (s *system) besides(ctx context.Context, clients []*client.Client, over <-chan struct{}) (took [2][]float64, err error) {
	tick := time.NewTicker(time.Duration(s.size(1500, 50)) * time.Millisecond)
	defer tick.Stop()
	for i := 0; ; {
		select {
		case <-over:
			return took, nil
		case <-ctx.Done():
			return took, context.Cause(ctx)
		case <-tick.C:
		}
		var running bool
		if err := s.db.QueryRow(ctx, `select exists (select 1 from batches where state = 'running' and total_jobs > $1)`, smallJobs).Scan(&running); err != nil {
			return took, err
		}
		if !running {
			continue
		}
		ms, err := s.small(ctx, clients[i%2], "beside "+strconv.Itoa(i))
		if err != nil {
			return took, err
		}
		took[i%2] = append(took[i%2], ms)
		i++
	}
}

// watchRedis runs f and returns the most memory that Redis used meanwhile, in MiB.
func (l *lab) watchRedis(ctx context.Context, f func(context.Context) error) (peak float64, err error) {
	over := make(chan struct{})
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		defer close(over)
		return f(gctx)
	})
	g.Go(func() error {
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for {
			used, err := l.redisMemory(gctx)
			if err != nil {
				return err
			}
			peak = max(peak, used)
			select {
			case <-over:
				return nil
			case <-gctx.Done():
				return context.Cause(gctx)
			case <-tick.C:
			}
		}
	})
	return peak, g.Wait()
}

func (l *lab) redisMemory(ctx context.Context) (float64, error) {
	info, err := l.redis.Info(ctx, "memory").Result()
	if err != nil {
		return 0, fmt.Errorf("look at Redis: %w", err)
	}
	for text := range strings.Lines(info) {
		if value, ok := strings.CutPrefix(strings.TrimSpace(text), "used_memory:"); ok {
			n, err := strconv.ParseInt(value, 10, 64)
			return float64(n) / (1 << 20), err
		}
	}
	return 0, errors.New("look at Redis: it tells no used_memory")
}
