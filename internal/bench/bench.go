// Package bench measures how near Batchwright comes to what its machine can do.
//
// Absolute figures say little: machines differ, and shared ones change by the minute. So each figure stands beside a
// ceiling, measured in turn with it on the same machine with the same services: what is left when all that Batchwright
// does for a job is taken away. A ratio of medians is the result. A bench is no test: a ratio below its target is
// printed as short, and that is all.
//
// The measured system is the one that users run: cmd/api and cmd/worker, each a process with an empty environment but
// for its settings, over a private Postgres and Redis. The provider is a simulator behind real HTTP in a third
// process, the same for a line and its ceiling. Each line gets a database of its own, and runs once, small, before it
// is measured. VACUUM ANALYZE between the rounds stands in for autovacuum, which the private Postgres leaves out.
//
// There are five suites: one of batches, one of the gateway, whose server is measured beside a bare reverse proxy, one of reports and exports,
// one of edited documents, and one of forecasts, which are held against what came.
package bench

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// settings are what the command line says.
type settings struct {
	suite          *suite
	quick          bool
	write          bool
	only           []string
	rounds         int
	workerProfile  string
	apiProfile     string
	gatewayProfile string
	showBusy       bool
	backend        string
	proxy          string
}

// suite is a set of measurements with a document of its own.
type suite struct {
	name     string // on the command line
	document string // below docs
	preface  string
	programs []string // below cmd, to build
	start    func(l *lab) error
	plans    []plan
	per      string   // what the CPU time is counted by
	parties  []string // the processes whose CPU time is told, in the order of their columns
}

func (s *suite) ids() []string {
	var out []string
	for _, p := range s.plans {
		out = append(out, p.id)
	}
	return out
}

// size chooses between the full and the quick number.
func (s *settings) size(full, quick int) int {
	if s.quick {
		return quick
	}
	return full
}

func (s *settings) wants(id string) bool { return len(s.only) == 0 || slices.Contains(s.only, id) }

// parse reads the command line. A partial run doesn't replace the full one's figures unless it is told to.
func parse(args []string, stderr io.Writer) (*settings, error) {
	s := &settings{}
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.BoolVar(&s.quick, "quick", false, "small sizes, for a look")
	f.BoolVar(&s.write, "write", true, "write the suite's document below docs; with -quick or -only just when it is given")
	name := f.String("suite", batches.name, "what to measure: "+strings.Join(names(), ", "))
	only := f.String("only", "", "lines to measure, such as P1,P4 (known: "+strings.Join(known(), ",")+")")
	f.IntVar(&s.rounds, "rounds", 3, "rounds; the figures are their medians")
	f.StringVar(&s.workerProfile, "cpuprofile-worker", "", "write a CPU profile of the worker to this file, from one more run of the first line that has one")
	f.StringVar(&s.apiProfile, "cpuprofile-api", "", "the same of the API")
	f.StringVar(&s.gatewayProfile, "cpuprofile-gateway", "", "the same of the gateway")
	f.BoolVar(&s.showBusy, "statements", false, "say which statements keep Postgres busy, from one more run of each line")
	f.StringVar(&s.backend, "backend", "", "serve simulated providers with these latencies until standard input ends (the bench starts itself so)")
	f.StringVar(&s.proxy, "proxy", "", "serve a bare reverse proxy before this address in the same way; \"none\" serves what stands behind it")
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	i := slices.Index(names(), *name)
	if i < 0 {
		return nil, fmt.Errorf("-suite: want one of %s", strings.Join(names(), ", "))
	}
	s.suite = suites()[i]
	for id := range strings.SplitSeq(*only, ",") {
		if id = strings.ToUpper(strings.TrimSpace(id)); id == "" {
			continue
		}
		if ids := s.suite.ids(); !slices.Contains(ids, id) {
			return nil, fmt.Errorf("-only: unknown line %.20q: want some of %s", id, strings.Join(ids, ","))
		}
		s.only = append(s.only, id)
	}
	given := false
	f.Visit(func(f *flag.Flag) { given = given || f.Name == "write" })
	if !given && (s.quick || len(s.only) > 0) {
		s.write = false
	}
	s.rounds = max(s.rounds, 1)
	return s, nil
}

// plan is one measurement: it prepares a system, runs the rounds and returns its lines.
type plan struct {
	id  string
	run func(ctx context.Context, l *lab) ([]line, error)
}

var (
	batches = suite{
		name: "batch", document: "benchmarks.md", preface: preface, programs: []string{"api", "worker", "gateway"}, start: (*lab).startProviders,
		plans: []plan{{"P1", overHTTP}, {"P2", inProcess}, {"P3", twoWorkers}, {"L200", waiting}, {"G200", viaGateway}, {"L500", crowded}, {"P6", patient},
			{"P4", ingest}, {"P5", cached}, {"P10", claims}, {"M", million}},
		per: "a job or line", parties: []string{"api", "worker", "gateway", "postgres", "redis", "provider", "bench"},
	}
	gateways = suite{
		name: "gateway", document: "benchmarks-gateway.md", preface: gatewayPreface, programs: []string{"gateway"}, start: (*lab).startStandIns,
		plans: []plan{{"P11", throughServer}, {"P12", throughEngine}, {"P13", fromCache}, {"P14", streamed}},
		per:   "a request", parties: []string{"gateway", "proxy", "postgres", "redis", "provider", "bench"},
	}
	archives = suite{
		name: "reports", document: "benchmarks-reports.md", preface: reportsPreface, programs: []string{"api"}, start: (*lab).startProviders,
		plans: []plan{{"R1", overReports}, {"R2", overDiffs}},
	}
	contents = suite{
		name: "content", document: "benchmarks-content.md", preface: contentPreface, programs: []string{"api", "worker"}, start: (*lab).startProviders,
		plans: []plan{{"C1", overEdits}, {"C3", chunker}},
	}
	forecasts = suite{
		name: "forecast", document: "benchmarks-forecast.md", preface: forecastPreface, programs: []string{"api", "worker"}, start: (*lab).startMarket,
		plans: []plan{{"F1", foretold}},
	}
)

func suites() []*suite { return []*suite{&batches, &gateways, &archives, &contents, &forecasts} }

func names() (out []string) {
	for _, s := range suites() {
		out = append(out, s.name)
	}
	return out
}

func known() (out []string) {
	for _, s := range suites() {
		out = append(out, s.ids()...)
	}
	return out
}

const (
	planLimit = 15 * time.Minute // for all rounds of one measurement
	stopLimit = 30 * time.Second // for what was started to end
)

// Main runs the bench and returns the process's exit code: 0 when everything was measured, however it came out.
func Main(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	s, err := parse(args, stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		fmt.Fprintln(stderr, "bench:", err)
		return 2
	case s.backend != "":
		err = serveBackends(ctx, s.backend, stdin, stdout)
	case s.proxy != "":
		err = serveStandIns(ctx, s.proxy, stdin, stdout)
	default:
		err = measure(ctx, s, stdout, stderr)
	}
	if err != nil {
		fmt.Fprintln(stderr, "bench:", err)
		return 1
	}
	return 0
}

func measure(ctx context.Context, s *settings, stdout, stderr io.Writer) (err error) {
	began := time.Now()
	r := &report{settings: s, date: began.UTC(), machine: readMachine()}
	l, err := open(ctx, s, stderr)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.close(ctx)) }()
	r.facts = l.facts
	for _, f := range append(r.machine.facts(), l.facts...) {
		fmt.Fprintf(stdout, "%s: %s\n", f.name, f.value)
	}
	fmt.Fprintf(stdout, "\n%s\n", header())
	failed := false
	for _, p := range s.suite.plans {
		if !s.wants(p.id) {
			continue
		}
		lines, err := within(ctx, planLimit, p.id, func(ctx context.Context) ([]line, error) { return p.run(ctx, l) })
		for _, ln := range lines {
			fmt.Fprintln(stdout, ln)
			r.lines = append(r.lines, ln)
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			failed = true
			l.say(fmt.Sprintf("%s: %v", p.id, err))
		}
	}
	r.took = time.Since(began)
	fmt.Fprintf(stdout, "\n%s\n", r.tables())
	switch {
	case failed:
		return errors.New("not everything was measured; see above")
	case !s.write:
		return nil
	}
	return r.write(l.root)
}

// within bounds f in time, with a reason that names it.
func within[T any](ctx context.Context, limit time.Duration, what string, f func(context.Context) (T, error)) (T, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("%s took longer than %s", what, limit))
	defer cancel()
	v, err := f(ctx)
	if err != nil && ctx.Err() != nil {
		err = fmt.Errorf("%w (%w)", context.Cause(ctx), err)
	}
	return v, err
}
