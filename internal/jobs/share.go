package jobs

import (
	"bytes"
	"math"
	"slices"

	"batchwright/internal/store"
)

// Who gets the next tickets is decided by weighted deficit round-robin (Shreedhar and Varghese, 1995), first over projects by their weights,
// then over a project's batches by two to the power of their priorities. In each turn an entity may be given a quantum of jobs in
// proportion to its weight; what a ticket takes beyond that is its debt in the next turn. A round has little room, mostly that of the few
// tickets that ended since the last one, so turns span rounds: the deficits are stored. Who has no work keeps none.
//
// Jobs are what is shared, but calls differ: those to a throttled or hanging provider stay in the window while others pass through it.
// So nobody gets more than its share of the window itself while another that has less wants it; only what is left over then is
// anybody's.
//
// A batch that has work and nothing under way gets one small express ticket, whatever the window holds: it goes by a lane of its own, and a
// batch of ten jobs never waits for a million others. It is charged like any ticket, and is the least that a batch gets, however light.

const (
	// maxTicket is the most jobs that one ticket covers.
	maxTicket = 500
	// expressJobs is the most that an express ticket covers.
	expressJobs = 10
	// maxTurn bounds a quantum, in tickets: a priority of 10 must not have its thousandfold at one go.
	maxTurn = 16
)

// window is how many jobs tickets may stand for: three times the calls that all workers can have in flight (one in flight, one claimed
// behind it, one on its way), or what they settle in a second if that is more; never the backlog. Tickets come back in swarms, and what
// replaces them is issued, posted, polled for and claimed in turn: with work for a quarter of a second, fast workers stood idle half the time.
func window(f store.Fleet, rate int) int { return max(3*int(f.Concurrency), rate) }

// share decides who gets tickets, until the window is full. It moves the deficits of the projects and running batches in open. rate is jobs
// settled a second, by all workers.
func share(open []store.OpenBatch, f store.Fleet, rate int) []store.Grant {
	r := &round{
		room: window(f, rate) - int(f.Jobs), tickets: 2*int(f.Slots) - int(f.Tickets),
		express: max(int(f.Slots)/4, int(f.Workers)) - int(f.Express),
	}
	r.gather(open, f, rate)
	r.giveExpress()
	for _, capped := range []bool{true, false} {
		r.give(capped)
	}
	// Who is alone needs no account.
	for _, p := range r.projects {
		if len(r.projects) == 1 {
			*p.deficit = 0
		}
		if len(p.batches) == 1 {
			p.batches[0].b.Deficit = 0
		}
	}
	return r.grants
}

// round is one decision.
type round struct {
	room, tickets, express int
	projects               []*contender
	largest                int64 // ticket
	grants                 []store.Grant
}

// contender is a project, or a batch of one, that has work.
type contender struct {
	weight      int64
	quantum     int64
	deficit     *int64
	outstanding int // jobs
	cap         int // its share of the window
	takes       bool

	// Of a project.
	batches []*contender
	takers  int // of batches
	express int // outstanding express tickets of all its batches, those without work included

	// Of a batch.
	b          *store.OpenBatch
	due, fresh int // jobs that may be given
	allowance  int // by the batch's own limit
	size       int // of its tickets
}

func (r *round) gather(open []store.OpenBatch, f store.Fleet, rate int) {
	all := map[*store.OpenProject]*contender{}
	largest := 1
	for i := range open {
		b := &open[i]
		p := all[b.Project]
		if p == nil {
			p = &contender{weight: int64(max(b.Project.Weight, 1)), deficit: &b.Project.Deficit}
			all[b.Project] = p
			r.projects = append(r.projects, p)
		}
		p.outstanding += int(b.Jobs)
		p.express += int(b.Express)
		if b.State != "running" {
			continue
		}
		c := &contender{b: b, weight: priorityWeight(b.Priority), deficit: &b.Deficit, outstanding: int(b.Jobs),
			due: int(b.Due), fresh: max(int(b.TotalJobs-b.NextSeq)+1, 0), allowance: math.MaxInt}
		if c.due+c.fresh == 0 {
			b.Deficit = 0
			continue
		}
		c.size = ticketSize(c.due, c.fresh, f, rate)
		if b.Concurrency != nil {
			c.allowance = int(*b.Concurrency - b.Jobs)
			c.size = max(min(c.size, int(*b.Concurrency)/8), 1) // a ticket holds its place until its last job is done
		}
		largest = max(largest, c.size)
		p.batches = append(p.batches, c)
	}
	r.projects = slices.DeleteFunc(r.projects, func(p *contender) bool {
		if len(p.batches) > 0 {
			return false
		}
		*p.deficit = 0
		return true
	})
	slices.SortFunc(r.projects, func(a, b *contender) int {
		x, y := a.batches[0].b.Project.ID, b.batches[0].b.Project.ID
		return bytes.Compare(x[:], y[:])
	})
	r.largest = int64(largest)
	quanta(r.projects, largest)
	caps(r.projects, window(f, rate), largest)
	for _, p := range r.projects {
		slices.SortFunc(p.batches, earlier)
		quanta(p.batches, largest)
		caps(p.batches, p.cap, largest)
	}
}

// earlier orders a project's batches within a turn: the one that expires first, then the older.
func earlier(a, b *contender) int {
	x, y := a.b.ExpiresAt, b.b.ExpiresAt
	switch {
	case x != nil && y != nil:
		if c := x.Compare(*y); c != 0 {
			return c
		}
	case x != nil:
		return -1
	case y != nil:
		return 1
	}
	return bytes.Compare(a.b.ID[:], b.b.ID[:])
}

// quanta sets what each of a set is given in a turn: in proportion to the weights, and a ticket for the lightest unless that made the
// heaviest one's turn too long.
func quanta(set []*contender, ticket int) {
	divisor, heaviest := int64(0), int64(1)
	for _, c := range set {
		divisor, heaviest = gcd(divisor, c.weight), max(heaviest, c.weight)
	}
	scale := max(min(int64(ticket), maxTurn*int64(ticket)*max(divisor, 1)/heaviest), 1)
	for _, c := range set {
		c.quantum = c.weight / divisor * scale
	}
}

func gcd(a, b int64) int64 {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

// caps sets each one's share of the window, and a ticket more: else who is a little behind in its turns could not catch up.
func caps(set []*contender, window, ticket int) {
	total := int64(0)
	for _, c := range set {
		total += c.weight
	}
	for _, c := range set {
		c.cap = int(int64(window)*c.weight/total) + ticket
	}
}

// ticketSize spreads a small batch over the workers, and gives a large one tickets of a quarter of a worker's calls in flight, or of what a
// worker settles in 25 ms if that is more.
func ticketSize(due, fresh int, f store.Fleet, rate int) int {
	workers := max(int(f.Workers), 1)
	even := (max(due, fresh, 1) + 4*workers - 1) / (4 * workers)
	return max(1, min(even, max(int(f.Concurrency)/4, rate/40)/workers, maxTicket))
}

// giveExpress gives an express ticket to each batch that has nothing under way, while there are some: the project with the fewest
// outstanding for its weight first, and of its batches the one that has come least far, new ones before all.
func (r *round) giveExpress() {
	for _, p := range r.projects {
		p.takers = 0
		for _, c := range p.batches {
			c.takes = c.b.Tickets == 0 && c.ready()
			p.count(c.takes, 1)
		}
	}
	for ; r.express > 0; r.express-- {
		var p, c *contender
		for _, q := range r.projects {
			if q.takers == 0 {
				continue
			}
			if p == nil || int64(q.express)*p.weight < int64(p.express)*q.weight ||
				int64(q.express)*p.weight == int64(p.express)*q.weight && *q.deficit > *p.deficit {
				p = q
			}
		}
		if p == nil {
			return
		}
		for _, d := range p.batches {
			if d.takes && (c == nil || d.b.NextSeq < c.b.NextSeq) {
				c = d
			}
		}
		r.issue(p, c, min(expressJobs, max(c.due, c.fresh)), true)
		p.express++
		c.takes = false
		p.count(true, -1)
	}
}

// give hands tickets out by turns, only to who has less than its share of the window when capped. Who can't take another ticket can't
// take one later in the same pass, either.
func (r *round) give(capped bool) {
	for _, p := range r.projects {
		p.takers = 0
		for _, c := range p.batches {
			c.takes = c.ready() && !(capped && c.outstanding >= c.cap)
			p.count(c.takes, 1)
		}
		p.takes = p.takers > 0 && !(capped && p.outstanding >= p.cap)
	}
	for r.room > 0 && r.tickets > 0 {
		p := turn(r.projects, r.largest)
		if p == nil {
			return
		}
		c := turn(p.batches, r.largest)
		r.issue(p, c, min(c.size, r.room), false)
		r.tickets--
		c.takes = c.ready() && !(capped && c.outstanding >= c.cap)
		p.count(!c.takes, -1)
		p.takes = p.takers > 0 && !(capped && p.outstanding >= p.cap)
	}
}

func (p *contender) count(is bool, n int) {
	if is {
		p.takers += n
	}
}

func (c *contender) ready() bool { return c.due+c.fresh > 0 && c.allowance > 0 }

// turn returns who is next of those that take tickets: who would have most left of its quantum in the middle of its next ticket, so that a
// heavy one's tickets lie between those of the light ones, then who comes first in the set. When none has anything left, the next turn
// begins. Nil: nobody takes any.
func turn(set []*contender, ticket int64) (first *contender) {
	for {
		turns := int64(math.MaxInt64)
		for _, c := range set {
			switch d := *c.deficit; {
			case !c.takes:
			case d <= 0:
				turns = min(turns, -d/c.quantum+1) // until it has something
			case first == nil || c.ahead(first, ticket):
				first = c
			}
		}
		if first != nil || turns == math.MaxInt64 {
			return first
		}
		for _, c := range set {
			if c.takes {
				*c.deficit += turns * c.quantum
			}
		}
	}
}

// ahead reports whether c would have more left of its quantum than d in the middle of its next ticket.
func (c *contender) ahead(d *contender, ticket int64) bool {
	return (2**c.deficit-ticket)*d.quantum > (2**d.deficit-ticket)*c.quantum
}

// issue gives a batch a ticket of at most n jobs, due ones first.
func (r *round) issue(p, c *contender, n int, express bool) {
	g := store.Grant{Batch: c.b.ID, Express: express}
	if c.due > 0 {
		n = min(n, c.due, c.allowance)
		c.due -= n
		g.Retry = 1
	} else {
		n = min(n, c.fresh, c.allowance)
		c.fresh -= n
		g.Run = 1
	}
	g.Size = n
	c.allowance -= n
	r.room -= n
	for _, x := range []*contender{p, c} {
		x.outstanding += n
		*x.deficit -= int64(n)
	}
	// Only tickets that follow one another are one grant: they are issued and posted in this order, and who was given all of its own before
	// another's first would be served first, too.
	if i := len(r.grants) - 1; i >= 0 {
		last := &r.grants[i]
		if last.Batch == g.Batch && last.Size == g.Size && last.Express == g.Express && (last.Run > 0) == (g.Run > 0) {
			last.Run, last.Retry = last.Run+g.Run, last.Retry+g.Retry
			return
		}
	}
	r.grants = append(r.grants, g)
}

// priorityWeight is what a batch counts within its project: one step of priority doubles it.
func priorityWeight(priority int16) int64 { return 1 << (10 + min(max(priority, -10), 10)) }
