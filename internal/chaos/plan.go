package chaos

import (
	"cmp"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

// The projects, and the API keys that clients have: key i is one of project i % projects.
const (
	projects = 2
	apiKeys  = 3
)

// plan is all that is decided of a run before it begins.
type plan struct {
	scenario   string // empty for one drawn from the seed alone
	seed       uint64
	lease      time.Duration
	latency    time.Duration // of the provider, on average
	redisKept  bool          // Redis keeps its data over a restart
	breaker    bool          // the workers' circuit breakers are on
	day        time.Duration // how long the days of budgets last; 0 is real ones
	loads      []load
	budgets    []budget
	hooks      []hook
	timetables []timetable
	events     []event
	weather    []spell
	arms       map[string]string // fault points by process
}

func (p *plan) title() string {
	if p.scenario != "" {
		return p.scenario
	}
	return fmt.Sprintf("seed %d", p.seed)
}

// lines describe the plan for people.
func (p *plan) lines() []string {
	out := []string{fmt.Sprintf("lease %s, provider's latency %s, redis keeps its data: %t, breakers: %t", p.lease, p.latency, p.redisKept, p.breaker)}
	for _, name := range slices.Sorted(maps.Keys(p.arms)) {
		out = append(out, "armed: "+name+" "+p.arms[name])
	}
	if p.day > 0 {
		out = append(out, fmt.Sprintf("a day lasts %s", p.day))
	}
	for _, l := range p.loads {
		out = append(out, l.String())
	}
	for _, b := range p.budgets {
		out = append(out, b.String())
	}
	for _, h := range p.hooks {
		out = append(out, h.String())
	}
	for _, t := range p.timetables {
		out = append(out, t.String())
	}
	for _, s := range p.weather {
		out = append(out, "weather: "+s.String())
	}
	for _, e := range p.events {
		out = append(out, e.String())
	}
	return out
}

// load is one submission.
type load struct {
	at      time.Duration
	name    string // the batch's; also its idempotency key
	kind    string // empty is generate
	key     int    // which API key submits it
	cache   string
	route   string
	tags    []string      // of its jobs, in order
	parts   int           // requests of an open upload; 0 is a whole submission
	vanish  bool          // the client is gone in the middle of the upload; that of an open one comes back, and has forgotten how far it was
	abandon bool          // it never comes back to its open upload
	twice   bool          // two clients submit it at once
	limit   int64         // most that it may cost, in micro-dollars; 0 is no limit
	expires time.Duration // after it was first sent; 0 is never
	doomed  bool          // it can't be done by then
	again   time.Duration // since it was accepted and moved: the server runs it once more; 0 is never
	moves   []move
}

// move is what a client asks for later.
type move struct {
	after time.Duration // since the batch was accepted
	verb  string        // cancel, pause, resume or retry
}

// cancelled reports whether the client cancels the batch.
func (l load) cancelled() bool {
	return slices.ContainsFunc(l.moves, func(m move) bool { return m.verb == "cancel" })
}

func (l load) String() string {
	s := fmt.Sprintf("%s: key %d submits %s: %d jobs, %s, cache %s, route %s", l.at, l.key, l.name, len(l.tags), cmp.Or(l.kind, generate), l.cache, l.route)
	if l.parts > 0 {
		s += fmt.Sprintf(", open, in %d parts", l.parts)
	}
	if l.vanish {
		s += ", and vanishes"
	}
	if l.abandon {
		s += ", and never comes back"
	}
	if l.expires > 0 {
		s += fmt.Sprintf(", expires after %s", l.expires)
	}
	if l.doomed {
		s += ", can't be done by then"
	}
	if l.twice {
		s += ", twice at once"
	}
	if l.limit > 0 {
		s += fmt.Sprintf(", for at most %d", l.limit)
	}
	for _, m := range l.moves {
		s += fmt.Sprintf(", %s after %s", m.verb, m.after)
	}
	if l.again > 0 {
		s += fmt.Sprintf(", run again %s later", l.again)
	}
	return s
}

// The routes: straight to the provider, with a fallback, and through our gateway, where one call is one row of the ledger only if neither
// retries nor fallbacks happen there.
const (
	direct    = "openai-compatible:sim-a"
	chain     = "openai-compatible:sim-a,openai-compatible:sim-b"
	byGateway = `{"steps":[{"provider":"openai-compatible","model":"sim-a","via":"cloudflare-gateway","max_attempts":1}]}`
)

// event is one fault.
type event struct {
	at    time.Duration // from the start
	calls int64         // instead: when the provider was called so often
	what  string        // a name in acts
	whom  string        // a process, a server or a link
	hold  time.Duration // how long it lasts, or until the victim is back
}

func (e event) String() string {
	when := e.at.String()
	if e.calls > 0 {
		when = fmt.Sprintf("after %d calls", e.calls)
	}
	return fmt.Sprintf("%s: %s %s, %s", when, e.what, e.whom, e.hold)
}

// draw makes a random plan of a seed.
func draw(seed uint64) *plan {
	d := &dice{rand.New(rand.NewPCG(seed, 0x9e3779b97f4a7c15))}
	p := &plan{seed: seed, lease: d.between(1000*time.Millisecond, 2500*time.Millisecond), latency: d.between(20*time.Millisecond, 250*time.Millisecond),
		redisKept: d.IntN(2) == 0, breaker: d.IntN(12) == 0, arms: map[string]string{}}
	p.loads = d.loads(2+d.IntN(4), 20, 70)
	for range 1 + d.IntN(5) {
		p.events = append(p.events, d.event())
	}
	for range d.IntN(4) {
		p.weather = append(p.weather, d.spell())
	}
	for _, name := range []string{api, gateway, worker1, worker2} {
		if d.IntN(3) == 0 {
			p.arms[name] = d.arm(name)
		}
	}
	// A stream of its own: what is added here leaves the rest of each seed's plan as it was.
	d = &dice{rand.New(rand.NewPCG(seed, 0xd1b54a32d192ed03))}
	for i := range p.loads {
		d.vary(i, &p.loads[i])
	}
	p.budgets, p.hooks = d.budgets(), d.hooks()
	if d.IntN(4) == 0 {
		p.events = append(p.events, event{at: d.between(200*time.Millisecond, span), what: pick(d, "cut", "latency", "reset", "hang"), whom: hookLink,
			hold: d.between(50*time.Millisecond, 1500*time.Millisecond)})
	}
	d = &dice{rand.New(rand.NewPCG(seed, 0xa24baed4963ee407))} // and one more
	p.timetables = d.timetables()
	for i := range p.loads {
		if l := &p.loads[i]; d.IntN(4) == 0 && !l.vanish && l.parts == 0 && l.limit == 0 && l.expires == 0 {
			l.again = d.between(50*time.Millisecond, 1500*time.Millisecond)
		}
	}
	if len(p.timetables) > 0 && d.IntN(2) == 0 {
		p.arms[pick(d, worker1, worker2)] = fmt.Sprintf("%s:%d=kill", pick(d, tickPoints...), 1+d.IntN(2))
	}
	d = &dice{rand.New(rand.NewPCG(seed, 0x8cb92ba72f3d8dd7))} // and one more
	d.pipes(p.loads)
	return p
}

// vary makes some loads other than generate batches that are submitted whole. The first stays one.
func (d *dice) vary(i int, l *load) {
	if l.key == 0 && d.IntN(3) == 0 {
		l.key = projects
	}
	if i == 0 {
		return
	}
	if d.IntN(4) == 0 {
		prefix := ""
		if l.limit > 0 {
			prefix = fmt.Sprintf("limited-%d-", i)
		}
		d.papers(l, prefix)
	}
	if d.IntN(5) == 0 {
		l.parts, l.twice, l.vanish = 2+d.IntN(4), false, d.IntN(2) == 0
		l.abandon = d.IntN(4) == 0
	}
	if l.abandon || d.IntN(6) == 0 {
		l.expires = d.between(span/4, span*5/4)
	}
	l.doomed = l.abandon
}

type dice struct{ *rand.Rand }

func (d *dice) between(low, high time.Duration) time.Duration {
	return (low + time.Duration(d.Int64N(int64(high-low)+1))).Round(time.Millisecond)
}

func pick[T any](d *dice, of ...T) T { return of[d.IntN(len(of))] }

// span is how long faults go on.
const span = 3500 * time.Millisecond

func (d *dice) loads(n, low, high int) (out []load) {
	tags := 0
	for i := range n {
		l := load{at: d.between(0, span*2/3), name: fmt.Sprintf("batch-%d", i), key: d.IntN(projects), cache: pick(d, "use", "use", "use", "refresh", "off"),
			route: pick(d, direct, chain, byGateway), twice: d.IntN(5) == 0, vanish: d.IntN(8) == 0}
		if i == 0 {
			l.at, l.vanish = 0, false
		}
		for at := time.Duration(0); d.IntN(4) == 0; {
			at += d.between(50*time.Millisecond, 1200*time.Millisecond)
			l.moves = append(l.moves, move{at, pick(d, "cancel", "pause", "pause", "resume", "retry")})
		}
		prefix := "t"
		if d.IntN(6) == 0 { // its answers are its own, so that the provider's books tell what it cost
			l.limit, prefix = 1500+d.Int64N(10_000), fmt.Sprintf("limited-%d-", i)
		}
		for range low + d.IntN(high-low+1) {
			tag := tags
			if tags > 0 && d.IntN(5) == 0 {
				tag = d.IntN(tags) // an earlier one: of this batch, or of another
			} else {
				tags++
			}
			l.tags = append(l.tags, fmt.Sprintf("%s%d", prefix, tag))
		}
		out = append(out, l)
	}
	return out
}

func (d *dice) event() event {
	e := event{at: d.between(200*time.Millisecond, span), hold: d.between(50*time.Millisecond, 1500*time.Millisecond)}
	processes := []string{api, gateway, worker1, worker2, worker1, worker2}
	links := []string{"api>postgres", "worker-1>postgres", "worker-2>postgres", "gateway>postgres", "api>redis", "worker-1>redis", "worker-2>redis",
		"gateway>redis", "worker-1>gateway", "worker-2>gateway", "worker-1>provider", "worker-2>provider", "gateway>provider"}
	switch d.IntN(10) {
	case 0, 1, 2:
		e.what, e.whom = "kill", pick(d, processes...)
	case 3:
		e.what, e.whom = "term", pick(d, processes...)
	case 4:
		e.what, e.whom, e.hold = "freeze", pick(d, processes...), d.between(500*time.Millisecond, 3500*time.Millisecond)
	case 5:
		e.what, e.whom = pick(d, "stop-fast", "stop-immediate", "kill-server"), "postgres"
	case 6:
		e.what, e.whom = pick(d, "flush", "stop-fast", "kill-server"), "redis"
	default:
		e.what, e.whom = pick(d, "cut", "cut", "latency", "bandwidth", "reset", "hang"), pick(d, links...)
	}
	return e
}

func (d *dice) spell() spell {
	from := d.between(0, span)
	return spell{from: from, until: from + d.between(300*time.Millisecond, 2*time.Second), share: 0.1 + 0.8*float64(d.IntN(100))/100,
		model: pick(d, "", first, first, second),
		kind:  pick(d, misbehaviour...)}
}

// points are the named places to die at, by the kind of process that passes them.
var points = map[string][]string{
	"api":     {"ingest-chunk", "ingest-sealed"},
	"gateway": {"before-upstream", "after-upstream"},
	"worker": {"plan-claimed", "plan-inserted", "batch-started", "dispatch-issued", "posted", "claimed", "slice-leased", "intent-written", "answered", "settled",
		"ticket-closing", "batch-frozen", "swept"},
}

func (d *dice) arm(name string) string {
	action := pick(d, "kill", "kill", "kill", "sleep:"+d.between(300*time.Millisecond, 3*time.Second).String())
	if kindOf(name) == "worker" && d.IntN(6) == 0 {
		action = "skew:" + pick(d, "3h", "-3h", "25h", "-40m")
	}
	return fmt.Sprintf("%s:%d=%s", pick(d, points[kindOf(name)]...), 1+d.IntN(12), action)
}

// kindOf is a process's name without its number.
func kindOf(name string) string {
	kind, _, _ := strings.Cut(name, "-")
	return kind
}
