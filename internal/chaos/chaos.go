// Package chaos runs Batchwright under faults, to see that nothing is lost, doubled or paid for unseen.
//
// A run is a whole system of real processes: a Postgres and a Redis of its own, the API, two workers and our gateway, a provider that
// keeps books of whom it billed for what, and toxiproxy between all of them. Clients submit batches while the plan's faults happen:
// processes die, at named points (package fault) or at any moment, servers restart, networks break, the provider misbehaves. Then all
// faults end, everything must become final, and the ledger must agree with the provider's books.
//
// A plan is drawn from a seed, or has a name; see scenarios. The same seed gives the same plan; what it meets differs from run to run,
// because processes, network and clock do.
package chaos

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// settings are what the command line says.
type settings struct {
	seeds    int
	first    uint64
	parallel int
	scenario string
	verbose  bool
}

// random is the name that stands for all scenarios without one.
const random = "random"

// Main runs the scenarios and seeds that args say, and returns the process's exit code: 1 if one failed.
func Main(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	s := settings{}
	f := flag.NewFlagSet("chaos", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.IntVar(&s.seeds, "seeds", 10, "random runs")
	f.Uint64Var(&s.first, "first", 1, "seed of the first of them")
	f.IntVar(&s.parallel, "parallel", 3, "runs at once")
	f.StringVar(&s.scenario, "scenario", "", "only the scenario of this name, so many times; "+random+" is the random ones; default: all by name once, then the random ones")
	f.BoolVar(&s.verbose, "v", false, "tell what happens as it does")
	if err := f.Parse(args); err != nil {
		return 2
	}
	plans, err := s.plans()
	if err != nil {
		fmt.Fprintln(stderr, "chaos:", err)
		return 2
	}
	passed, failed, err := runAll(ctx, plans, s, stdout)
	if err != nil {
		fmt.Fprintln(stderr, "chaos:", err)
		return 1
	}
	fmt.Fprintf(stdout, "%d passed, %d failed\n", passed, failed)
	if failed > 0 {
		return 1
	}
	return 0
}

func (s settings) plans() (out []*plan, err error) {
	switch {
	case s.scenario == "":
		for _, name := range slices.Sorted(maps.Keys(scenarios)) {
			out = append(out, named(name, s.first))
		}
	case s.scenario != random:
		if scenarios[s.scenario] == nil {
			return nil, fmt.Errorf("-scenario: unknown name %q; known are %s and %v", s.scenario, random, slices.Sorted(maps.Keys(scenarios)))
		}
		for i := range s.seeds {
			out = append(out, named(s.scenario, s.first+uint64(i)))
		}
		return out, nil
	}
	for i := range s.seeds {
		out = append(out, draw(s.first+uint64(i)))
	}
	return out, nil
}

// named makes the plan of a scenario; the seed decides what the scenario leaves open.
func named(name string, seed uint64) *plan {
	p := &plan{scenario: name, seed: seed, lease: time.Second, latency: 100 * time.Millisecond, arms: map[string]string{}}
	scenarios[name](p)
	return p
}

// command repeats the plan's run.
func (p *plan) command() string {
	return fmt.Sprintf("make chaos SEEDS=1 ARGS='-scenario %s -first %d -v'", cmp.Or(p.scenario, random), p.seed)
}

// runAll makes all runs, some at once, and tells how each went as it ends.
func runAll(ctx context.Context, plans []*plan, s settings, stdout io.Writer) (passed, failed int, err error) {
	say := func(line string) { fmt.Fprintln(stdout, "chaos:", line) }
	l, err := openLab(ctx, say)
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = cmp.Or(err, l.close()) }()
	var mu sync.Mutex
	var out io.Writer = &locked{w: stdout}
	var verbose io.Writer
	if s.verbose {
		verbose = out
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(max(s.parallel, 1))
	for _, p := range plans {
		g.Go(func() error {
			if gctx.Err() != nil {
				return context.Cause(gctx)
			}
			o := l.run(gctx, p, verbose)
			if gctx.Err() != nil {
				return context.Cause(gctx)
			}
			mu.Lock()
			defer mu.Unlock()
			if o.passed() {
				passed++
				fmt.Fprintf(out, "%s passed in %.1f s\n", p.title(), o.took.Seconds())
				return nil
			}
			failed++
			fmt.Fprint(out, o.report())
			return nil
		})
	}
	return passed, failed, g.Wait()
}

// locked makes a writer safe for several goroutines.
type locked struct {
	mu sync.Mutex
	w  io.Writer
}

// Write implements io.Writer.
func (l *locked) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(p)
}
