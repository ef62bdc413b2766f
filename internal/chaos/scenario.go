package chaos

import (
	"fmt"
	"slices"
	"time"
)

// scenarios are runs with a name: each once showed a fault, or is one in which a fault must never show. Beside them stands one for each
// point and kind of death; see init.
var scenarios = map[string]func(*plan){
	"quiet": func(p *plan) { p.steady(direct) },
	"redis-flush-mid-batch": func(p *plan) {
		p.steady(direct)
		p.after(20, "flush", "redis", 0)
		p.after(70, "flush", "redis", 0)
	},
	"redis-restart-without-data": func(p *plan) {
		p.steady(direct)
		p.after(20, "stop-fast", "redis", 300*time.Millisecond)
	},
	"redis-restart-with-data": func(p *plan) {
		p.redisKept = true
		p.steady(direct)
		p.after(20, "kill-server", "redis", 300*time.Millisecond)
	},
	"worker-suspended-beyond-lease": func(p *plan) {
		p.steady(direct)
		p.after(15, "freeze", worker1, 3*time.Second)
	},
	"both-workers-suspended": func(p *plan) {
		p.steady(chain)
		p.after(15, "freeze", worker1, 2500*time.Millisecond)
		p.after(25, "freeze", worker2, 2500*time.Millisecond)
	},
	"two-dispatchers": func(p *plan) { // one stands still between issuing tickets and posting them, and the other goes on
		p.steady(direct)
		p.arms[worker1] = "dispatch-issued:2=sleep:2500ms"
		p.arms[worker2] = "dispatch-issued:4=sleep:2500ms"
	},
	"postgres-restart-mid-settle": func(p *plan) {
		p.steady(direct)
		p.after(15, "stop-fast", "postgres", 200*time.Millisecond)
		p.after(60, "stop-immediate", "postgres", 500*time.Millisecond)
	},
	"postgres-killed": func(p *plan) {
		p.steady(chain)
		p.after(20, "kill-server", "postgres", 300*time.Millisecond)
	},
	"postgres-away-longer-than-lease": func(p *plan) {
		p.steady(direct)
		p.after(30, "stop-immediate", "postgres", 2500*time.Millisecond)
	},
	"worker-cut-from-postgres": func(p *plan) { // its calls go on, and nothing of them can be written
		p.steady(direct)
		p.after(15, "hang", "worker-1>postgres", 2500*time.Millisecond)
	},
	"gateway-hangs-then-answers": func(p *plan) {
		p.steady(byGateway)
		p.after(15, "freeze", gateway, 1500*time.Millisecond)
	},
	"gateway-killed": func(p *plan) {
		p.steady(byGateway)
		p.after(15, "kill", gateway, 300*time.Millisecond)
		p.after(60, "kill", gateway, 300*time.Millisecond)
	},
	"gateway-loses-answers": func(p *plan) { // they are made and paid for, and nobody hears of it
		p.steady(byGateway)
		p.after(15, "reset", "worker-1>gateway", 500*time.Millisecond)
		p.after(40, "reset", "worker-2>gateway", 500*time.Millisecond)
	},
	"api-killed-mid-upload": func(p *plan) {
		p.steady(direct)
		for i := range p.loads {
			p.loads[i].at = time.Duration(i) * 150 * time.Millisecond
		}
		for i := range 4 {
			p.events = append(p.events, event{at: time.Duration(i)*150*time.Millisecond + 5*time.Millisecond, what: "kill", whom: api, hold: 50 * time.Millisecond})
		}
	},
	"clients-vanish": func(p *plan) {
		p.steady(direct)
		for i := range p.loads {
			p.loads[i].vanish = i%2 == 1
		}
	},
	"duplicate-batches-race": func(p *plan) { // the same jobs in several batches, each submitted by two clients, at once
		p.steady(direct)
		for i := range p.loads {
			p.loads[i].tags, p.loads[i].at, p.loads[i].key, p.loads[i].twice = p.loads[0].tags, 0, 0, true
		}
	},
	"duplicates-of-a-killed-leader": func(p *plan) {
		p.steady(direct)
		for i := range p.loads {
			p.loads[i].tags = append(p.loads[0].tags[:20:20], p.loads[0].tags[:20]...)
			p.loads[i].key = 0
		}
		p.after(10, "kill", worker1, 300*time.Millisecond)
		p.after(20, "kill", worker2, 300*time.Millisecond)
	},
	"cancel-during-settle": func(p *plan) {
		p.steady(direct)
		for i := range p.loads {
			p.loads[i].moves = []move{{time.Duration(300+350*i) * time.Millisecond, "cancel"}}
		}
	},
	"pause-and-resume-again-and-again": func(p *plan) {
		p.steady(direct)
		for i := range p.loads {
			for at := range 6 {
				p.loads[i].moves = append(p.loads[i].moves, move{time.Duration(200+100*i+250*at) * time.Millisecond, []string{"pause", "resume"}[at%2]})
			}
		}
	},
	"paused-while-workers-die": func(p *plan) {
		p.steady(direct)
		for i := range p.loads {
			p.loads[i].moves = []move{{600 * time.Millisecond, "pause"}}
		}
		p.after(20, "kill", worker1, 500*time.Millisecond)
		p.after(30, "kill", worker2, 500*time.Millisecond)
	},
	"retried-while-it-ends": func(p *plan) {
		p.steady(direct)
		p.weather = []spell{{from: 0, until: 2 * time.Second, share: 0.9, kind: failed}}
		for i := range p.loads {
			for at := range 12 {
				p.loads[i].moves = append(p.loads[i].moves, move{time.Duration(500*at) * time.Millisecond, "retry"})
			}
		}
	},
	"limits-hold-while-workers-die": func(p *plan) {
		p.steady(direct)
		p.limit(5000)
		p.after(8, "kill", worker1, 200*time.Millisecond)
		p.after(12, "kill", worker2, 200*time.Millisecond)
		p.after(20, "freeze", worker1, 1500*time.Millisecond)
	},
	"limits-hold-while-answers-are-lost": func(p *plan) {
		p.steady(chain)
		p.limit(7000)
		p.weather = []spell{{from: 0, until: 2 * time.Second, share: 0.4, kind: swallow}, {from: 0, until: 2 * time.Second, share: 0.5, kind: reset}}
	},
	"limits-hold-while-postgres-restarts": func(p *plan) {
		p.steady(direct)
		p.limit(6000)
		p.after(10, "stop-immediate", "postgres", 200*time.Millisecond)
		p.after(16, "kill-server", "postgres", 200*time.Millisecond)
	},
	"restarts-in-order": func(p *plan) {
		p.steady(chain)
		for i, name := range []string{worker1, worker2, api, worker1, worker2, gateway} {
			p.events = append(p.events, event{at: time.Duration(400+400*i) * time.Millisecond, what: "term", whom: name, hold: 100 * time.Millisecond})
		}
	},
	"workers-killed-again-and-again": func(p *plan) {
		p.steady(chain)
		for i := range 8 {
			p.events = append(p.events, event{at: time.Duration(300+350*i) * time.Millisecond, what: "kill", whom: []string{worker1, worker2}[i%2], hold: 200 * time.Millisecond})
		}
	},
	"project-and-key-budgets": func(p *plan) { // made in the middle of running batches, raised and deleted while workers die
		p.steady(direct)
		p.loads[2].key = projects
		p.budgets = []budget{
			{at: 300 * time.Millisecond, key: 0, scope: "project", period: "total", zone: "UTC", limit: 9000, changes: []change{{600 * time.Millisecond, 14_000}, {time.Second, 11_000}}},
			{at: 900 * time.Millisecond, key: 2, scope: "api_key", period: "month", zone: "Europe/Berlin", limit: 2500, changes: []change{{800 * time.Millisecond, deleted}}},
			{at: 100 * time.Millisecond, key: 1, scope: "project", period: "day", zone: "Asia/Tokyo", limit: 6000},
		}
		p.after(8, "kill", worker1, 200*time.Millisecond)
		p.after(20, "kill", worker2, 200*time.Millisecond)
		p.after(30, "freeze", worker1, 1500*time.Millisecond)
	},
	"budgets-of-days-that-pass": func(p *plan) { // what one day can't pay, the next ones do, with nobody's help
		p.steady(direct)
		p.day = 1500 * time.Millisecond
		p.budgets = []budget{
			{key: 0, scope: "project", period: "day", zone: "UTC", limit: 6000, kept: true},
			{key: 1, scope: "api_key", period: "month", zone: "UTC", limit: 12_000, kept: true},
		}
		p.after(10, "kill", worker1, 200*time.Millisecond)
	},
	"webhooks-are-told-of-every-end": func(p *plan) { // by workers that die, to receivers that fail or hang, over restarts of Postgres
		p.steady(direct)
		p.loads[1].moves = []move{{400 * time.Millisecond, "cancel"}}
		p.loads = append(p.loads, load{at: 200 * time.Millisecond, name: "broken-off", cache: "use", route: direct, tags: []string{"t0", "t1", "t2"}, vanish: true})
		p.hooks = []hook{{key: 0, share: 0.8}, {key: 1, share: 0.5}}
		p.after(60, "kill", worker1, 200*time.Millisecond)
		p.after(100, "stop-immediate", "postgres", 200*time.Millisecond)
		p.after(140, "kill", worker2, 200*time.Millisecond)
		p.events = append(p.events, event{at: 3 * time.Second, what: "hang", whom: hookLink, hold: 500 * time.Millisecond},
			event{at: 3200 * time.Millisecond, what: "kill", whom: worker1, hold: 200 * time.Millisecond})
	},
	"summaries": func(p *plan) { // of documents that are in several batches at once, and in two editions
		p.papers()
	},
	"summaries-while-workers-die": func(p *plan) {
		p.papers()
		p.weather = []spell{{from: 0, until: 2 * time.Second, share: 0.2, kind: swallow}, {from: 0, until: 2 * time.Second, share: 0.2, kind: failed}}
		p.after(10, "kill", worker1, 200*time.Millisecond)
		p.after(30, "kill", worker2, 200*time.Millisecond)
		p.after(50, "stop-immediate", "postgres", 200*time.Millisecond)
		p.after(60, "freeze", worker1, 1500*time.Millisecond)
	},
	"summaries-while-postgres-is-silent": func(p *plan) { // parts are paid for and can't be kept for longer than a lease
		p.papers()
		for i, calls := range []int64{10, 40, 80} {
			whom := []string{worker1, worker2}[i%2] + ">postgres"
			p.after(calls, "hang", whom, 2*time.Second)
		}
		p.after(45, "freeze", worker1, 1500*time.Millisecond)
	},
	"pipelines": func(p *plan) { // whose first stages are those of other batches
		p.pipes(chain)
	},
	"pipelines-while-workers-die": func(p *plan) {
		p.pipes(direct)
		p.weather = []spell{{from: 0, until: 2 * time.Second, share: 0.2, kind: swallow}, {from: 0, until: 2 * time.Second, share: 0.2, kind: failed}}
		p.after(30, "kill", worker1, 200*time.Millisecond)
		p.after(60, "kill", worker2, 200*time.Millisecond)
		p.after(80, "stop-immediate", "postgres", 200*time.Millisecond)
		p.after(100, "freeze", worker1, 1500*time.Millisecond)
	},
	"pipelines-while-postgres-is-silent": func(p *plan) { // a stage's answer that couldn't be kept for a lease once was asked for again
		p.pipes(direct)
		for i, calls := range []int64{60, 100, 140} {
			p.after(calls, "hang", []string{worker1, worker2}[i%2]+">postgres", 1500*time.Millisecond)
		}
	},
	"budgets-made-while-postgres-restarts": func(p *plan) { // an outage once was an unknown time zone
		p.steady(direct)
		for i := range 12 {
			p.budgets = append(p.budgets, budget{at: time.Duration(200+100*i) * time.Millisecond, key: i % apiKeys, scope: "api_key", period: "day", zone: "Europe/Berlin", limit: 100_000,
				changes: []change{{200 * time.Millisecond, deleted}}})
		}
		for i := range 4 {
			p.events = append(p.events, event{at: time.Duration(230+500*i) * time.Millisecond, what: []string{"stop-fast", "stop-immediate"}[i%2], whom: "postgres", hold: 50 * time.Millisecond})
		}
	},
	"open-uploads": func(p *plan) { // of clients that break off, come back, and ask the server how far they were
		p.steady(direct)
		for i := range p.loads {
			p.loads[i].at, p.loads[i].parts, p.loads[i].vanish = time.Duration(i)*100*time.Millisecond, 3+i, i%2 == 0
		}
		for i := range 4 {
			p.events = append(p.events, event{at: time.Duration(150+400*i) * time.Millisecond, what: "kill", whom: api, hold: 50 * time.Millisecond})
		}
		p.events = append(p.events, event{at: time.Second, what: "stop-immediate", whom: "postgres", hold: 200 * time.Millisecond},
			event{at: 2 * time.Second, what: "cut", whom: "api>postgres", hold: 300 * time.Millisecond})
	},
	"batches-expire": func(p *plan) { // at work, paused, and while their upload is open; what they have is kept
		p.steady(direct)
		p.latency = 300 * time.Millisecond
		for i := range p.loads {
			p.loads[i].at, p.loads[i].expires, p.loads[i].doomed = 0, time.Duration(1000+300*i)*time.Millisecond, true
		}
		p.loads[1].moves = []move{{400 * time.Millisecond, "pause"}}
		p.loads[3].parts, p.loads[3].abandon = 3, true
		for i := range p.loads {
			for n := range 100 {
				p.loads[i].tags = append(p.loads[i].tags, fmt.Sprintf("more-%d-%d", i, n))
			}
		}
		p.after(10, "kill", worker1, 200*time.Millisecond)
		p.after(40, "kill", worker2, 200*time.Millisecond)
	},
	"schedules-while-all-falls": func(p *plan) { // workers die, Redis forgets, Postgres restarts; each due time is a row all the same
		p.steady(direct)
		p.nights()
		p.fall()
	},
	"reruns-while-all-falls": func(p *plan) { // of batches that run yet, that are cancelled, and that failed in part
		p.steady(chain)
		p.weather = []spell{{from: 0, until: 2 * time.Second, share: 0.3, kind: failed}}
		for i := range p.loads {
			p.loads[i].again = time.Duration(100+500*i) * time.Millisecond
		}
		p.loads[2].moves = []move{{200 * time.Millisecond, "cancel"}}
		p.fall()
	},
	"schedules-of-what-is-rerun": func(p *plan) { // the same jobs by hand, by rerun and by schedule
		p.steady(direct)
		p.nights()
		for i := range p.loads {
			p.loads[i].again = 300 * time.Millisecond
		}
		p.events = append(p.events, event{at: 900 * time.Millisecond, what: "kill", whom: api, hold: 200 * time.Millisecond},
			event{at: 1900 * time.Millisecond, what: "kill", whom: api, hold: 200 * time.Millisecond})
		p.fall()
	},
	"schedules-while-both-workers-are-away": func(p *plan) { // what was missed is made up for, once
		p.steady(direct)
		p.nights()
		p.events = append(p.events, event{at: 1200 * time.Millisecond, what: "freeze", whom: worker1, hold: 2500 * time.Millisecond},
			event{at: 1200 * time.Millisecond, what: "kill", whom: worker2, hold: 2500 * time.Millisecond})
	},
	"postgres-goes-while-a-tick-starts": func(p *plan) { // whoever has it can't give it back at once, and its worker lives on
		p.steady(direct)
		p.nights()
		p.arms[worker1], p.arms[worker2] = "tick-claimed:2=sleep:300ms", "tick-claimed:2=sleep:300ms"
		for i := range 4 {
			at := time.Duration(1100+600*i) * time.Millisecond
			p.events = append(p.events, event{at: at, what: "stop-immediate", whom: "postgres", hold: 250 * time.Millisecond})
		}
	},
	"clock-jumps": func(p *plan) {
		p.steady(direct)
		p.arms[worker1], p.arms[worker2] = "settled:5=skew:26h", "settled:5=skew:-26h"
	},
}

func init() {
	for _, kind := range misbehaviour {
		scenarios["provider-answers-"+slug(kind)] = func(p *plan) {
			p.steady(chain)
			p.weather = []spell{{from: 500 * time.Millisecond, until: 2 * time.Second, share: 0.5, kind: kind}}
		}
	}
	for _, points := range points {
		for _, point := range points {
			scenarios["killed-at-"+point] = func(p *plan) { p.die(point) }
		}
	}
	for _, point := range tickPoints {
		scenarios["killed-at-"+point] = func(p *plan) {
			p.steady(direct)
			p.nights()
			p.arms[worker1], p.arms[worker2] = point+":2=kill", point+":3=kill"
		}
	}
}

func slug(s string) string {
	var out []rune
	for _, r := range s {
		switch {
		case r >= 'a' && r <= 'z' || r >= '0' && r <= '9':
			out = append(out, r)
		case len(out) > 0 && out[len(out)-1] != '-':
			out = append(out, '-')
		}
	}
	return string(out)
}

// steady is a load that keeps both workers busy while the faults of a scenario happen.
func (p *plan) steady(route string) {
	tag := 0
	for i := range 4 {
		l := load{at: time.Duration(i) * 500 * time.Millisecond, name: fmt.Sprintf("batch-%d", i), key: i % projects, cache: "use", route: route}
		for range 40 {
			l.tags = append(l.tags, fmt.Sprintf("t%d", tag))
			tag++
		}
		l.tags = append(l.tags, l.tags[:5]...)
		p.loads = append(p.loads, l)
	}
}

// papers is steady for documents.
func (p *plan) papers() {
	for i := range 4 {
		l := load{at: time.Duration(i) * 300 * time.Millisecond, name: fmt.Sprintf("batch-%d", i), kind: summarize, key: []int{0, 1, 0, 1}[i], cache: "use", route: direct}
		for n := range 8 {
			tag := fmt.Sprintf("d%d", n+3*i)
			l.tags = append(l.tags, tag)
			if n%3 == 0 {
				l.tags = append(l.tags, tag, edited(tag))
			}
		}
		p.loads = append(p.loads, l)
	}
}

// fall kills both workers more than once, empties Redis and restarts Postgres.
func (p *plan) fall() {
	for i, e := range []event{{what: "kill", whom: worker1}, {what: "flush", whom: "redis"}, {what: "kill", whom: worker2}, {what: "stop-immediate", whom: "postgres"},
		{what: "kill", whom: worker1}, {what: "kill", whom: worker2}} {
		e.at, e.hold = time.Duration(600+500*i)*time.Millisecond, 200*time.Millisecond
		p.events = append(p.events, e)
	}
}

// limit lets no batch cost more than so much.
func (p *plan) limit(microusd int64) {
	for i := range p.loads {
		p.loads[i].limit = microusd
	}
}

// after adds a fault at the moment when the provider was called so often.
func (p *plan) after(calls int64, what, whom string, hold time.Duration) {
	p.events = append(p.events, event{calls: calls, what: what, whom: whom, hold: hold})
}

// die has every process that passes a point die there, early and once more later.
func (p *plan) die(point string) {
	route := direct
	for _, name := range []string{api, gateway, worker1, worker2} {
		if slices.Contains(points[kindOf(name)], point) {
			p.arms[name] = point + ":2=kill"
		}
	}
	if p.arms[worker2] != "" {
		p.arms[worker2] = point + ":3=kill"
	}
	if p.arms[gateway] != "" {
		route = byGateway
	}
	p.steady(route)
	if point == "slice-leased" {
		p.limit(8000)
	}
}
