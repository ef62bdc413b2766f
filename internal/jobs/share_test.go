package jobs

import (
	"encoding/binary"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"pgregory.net/rapid"

	"batchwright/internal/store"
)

// world plays what surrounds share: batches with work, tickets under way, workers that end them.
type world struct {
	fleet    store.Fleet
	projects []*store.OpenProject
	batches  []store.OpenBatch
	tickets  []worldTicket
	given    []int64 // jobs, by batch
	rate     int
}

func ordinal(id uuid.UUID) int { return int(binary.BigEndian.Uint64(id[8:])) - 1 }

type worldTicket struct {
	batch, jobs int
	express     bool
}

func numbered(n int) (id uuid.UUID) {
	binary.BigEndian.PutUint64(id[8:], uint64(n)+1)
	return id
}

func (w *world) project(weight int32) *store.OpenProject {
	p := &store.OpenProject{ID: numbered(len(w.projects)), Weight: weight}
	w.projects = append(w.projects, p)
	return p
}

func (w *world) add(b store.OpenBatch) int {
	b.ID, b.State, b.NextSeq = numbered(len(w.batches)), "running", 1
	w.batches, w.given = append(w.batches, b), append(w.given, 0)
	return len(w.batches) - 1
}

func left(b *store.OpenBatch) int { return int(b.TotalJobs-b.NextSeq) + 1 + int(b.Due) }

// outstanding counts what the tickets under way stand for.
func (w *world) outstanding() {
	w.fleet.Jobs, w.fleet.Tickets, w.fleet.Express = 0, 0, 0
	for i := range w.batches {
		b := &w.batches[i]
		b.Tickets, b.Jobs, b.Express = 0, 0, 0
	}
	for _, t := range w.tickets {
		b := &w.batches[t.batch]
		b.Tickets++
		b.Jobs += int32(t.jobs)
		w.fleet.Jobs += int32(t.jobs)
		if t.express {
			b.Express++
			w.fleet.Express++
		} else {
			w.fleet.Tickets++
		}
	}
}

// fatal is what both kinds of tests have.
type fatal interface{ Fatalf(string, ...any) }

// dispatch plays a round, and checks what must hold in each.
func (w *world) dispatch(t fatal) {
	w.outstanding()
	before := append([]store.OpenBatch(nil), w.batches...)
	normal, express := 0, 0
	for _, g := range share(w.batches, w.fleet, w.rate) {
		i := ordinal(g.Batch)
		b := &w.batches[i]
		if g.Size < 1 || g.Size > maxTicket || (g.Run > 0) == (g.Retry > 0) {
			t.Fatalf("grant %+v", g)
		}
		n := (g.Run + g.Retry) * g.Size
		b.NextSeq += int32(g.Run * g.Size)
		b.Due -= int32(g.Retry * g.Size)
		w.given[i] += int64(n)
		if b.NextSeq > b.TotalJobs+1 || b.Due < 0 {
			t.Fatalf("batch %d got more than its work: %+v", i, g)
		}
		if g.Express {
			express++
			if before[i].Tickets > 0 || n > expressJobs || g.Run+g.Retry > 1 {
				t.Fatalf("express %+v for %+v", g, before[i])
			}
		} else {
			normal += n
		}
		for range g.Run + g.Retry {
			w.tickets = append(w.tickets, worldTicket{i, g.Size, g.Express})
		}
	}
	was := int(w.fleet.Jobs)
	w.outstanding()
	most := window(w.fleet, w.rate)
	if normal > 0 && int(w.fleet.Jobs) > most+expressJobs*express {
		t.Fatalf("%d jobs under way, the window is %d", w.fleet.Jobs, most)
	}
	if int(w.fleet.Express) > max(int(w.fleet.Slots)/4, int(w.fleet.Workers)) && express > 0 {
		t.Fatalf("%d express tickets", w.fleet.Express)
	}
	room := int(w.fleet.Jobs) < most && int(w.fleet.Tickets) < 2*int(w.fleet.Slots)
	for i := range w.batches {
		b := &w.batches[i]
		if b.Concurrency != nil && b.Jobs > max(*b.Concurrency, before[i].Jobs) {
			t.Fatalf("batch %d has %d jobs under way, its limit is %d", i, b.Jobs, *b.Concurrency)
		}
		stuck := left(b) > 0 && (b.Concurrency == nil || b.Jobs < *b.Concurrency)
		if room && stuck {
			t.Fatalf("batch %d has work, and the window has room: %d of %d (was %d)", i, w.fleet.Jobs, most, was)
		}
		if stuck && b.Tickets == 0 && int(w.fleet.Express) < max(int(w.fleet.Slots)/4, int(w.fleet.Workers)) {
			t.Fatalf("batch %d has work and nothing under way", i)
		}
		if left(&before[i]) == 0 && b.Deficit != 0 {
			t.Fatalf("batch %d has no work and a deficit of %d", i, b.Deficit)
		}
	}
}

func TestShareKeepsItsPromisesWhateverHappens(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		w := &world{fleet: store.Fleet{Workers: rapid.Int32Range(1, 5).Draw(t, "workers")}, rate: rapid.IntRange(0, 20_000).Draw(t, "rate")}
		w.fleet.Slots = w.fleet.Workers * rapid.Int32Range(8, 64).Draw(t, "slots")
		w.fleet.Concurrency = w.fleet.Workers * rapid.Int32Range(1, 500).Draw(t, "concurrency")
		for range rapid.IntRange(1, 4).Draw(t, "projects") {
			w.project(rapid.Int32Range(1, 20).Draw(t, "weight"))
		}
		batch := func() {
			b := store.OpenBatch{Project: rapid.SampledFrom(w.projects).Draw(t, "project"), TotalJobs: rapid.Int32Range(1, 20_000).Draw(t, "total"),
				Priority: rapid.Int16Range(-3, 3).Draw(t, "priority"), Due: rapid.Int32Range(0, 300).Draw(t, "due")}
			if rapid.Bool().Draw(t, "limited") {
				b.Concurrency = new(rapid.Int32Range(1, 200).Draw(t, "limit"))
			}
			if rapid.Bool().Draw(t, "expires") {
				b.ExpiresAt = new(time.Unix(rapid.Int64Range(0, 100).Draw(t, "at"), 0))
			}
			w.add(b)
		}
		for range rapid.IntRange(1, 30).Draw(t, "rounds") {
			for range rapid.IntRange(0, 3).Draw(t, "new") {
				batch()
			}
			w.dispatch(t)
			for range rapid.IntRange(0, len(w.tickets)).Draw(t, "ended") {
				i := rapid.IntRange(0, len(w.tickets)-1).Draw(t, "which")
				w.tickets[i] = w.tickets[len(w.tickets)-1]
				w.tickets = w.tickets[:len(w.tickets)-1]
			}
		}
		// While tickets end, nobody starves.
		before := append([]int64(nil), w.given...)
		for range 5_000 {
			w.tickets = w.tickets[:copy(w.tickets, w.tickets[(len(w.tickets)+1)/2:])]
			w.dispatch(t)
			if !slices.ContainsFunc(w.batches, func(b store.OpenBatch) bool { i := ordinal(b.ID); return left(&b) > 0 && w.given[i] == before[i] }) {
				return
			}
		}
		t.Fatalf("some batch starved: %+v", w.batches)
	})
}

// Calls that take equally long end in the order in which they began, so what each is given follows the turns alone.
func TestSharesConvergeToTheWeights(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		w := &world{fleet: store.Fleet{Workers: 1, Slots: 64, Concurrency: rapid.Int32Range(400, 2000).Draw(t, "concurrency")}}
		const endless = 1 << 30
		for range rapid.IntRange(1, 4).Draw(t, "projects") {
			p := w.project(rapid.Int32Range(1, 5).Draw(t, "weight"))
			for range rapid.IntRange(1, 3).Draw(t, "batches") {
				w.add(store.OpenBatch{Project: p, TotalJobs: endless, Priority: rapid.Int16Range(-1, 1).Draw(t, "priority")})
			}
		}
		w.dispatch(t)
		start := append([]int64(nil), w.given...) // the first fill of the window is by the shares of the window
		room := rapid.IntRange(1, 20).Draw(t, "ended each round")
		for total := int64(0); total < 100_000; {
			for range min(room, len(w.tickets)) {
				total += int64(w.tickets[0].jobs)
				w.tickets = w.tickets[1:]
			}
			w.dispatch(t)
		}
		check := func(what string, given []int64, weights []int64) {
			sum, weight := int64(0), int64(0)
			for i := range given {
				sum, weight = sum+given[i], weight+weights[i]
			}
			slack := int64(window(w.fleet, 0)) + 2*maxTurn*int64(ticketSize(0, endless, w.fleet, 0))
			for i := range given {
				if want := sum * weights[i] / weight; given[i] < want-slack || given[i] > want+slack {
					t.Fatalf("%s of weights %v were given %v: number %d should have %d", what, weights, given, i, want)
				}
			}
		}
		var all, weights []int64
		for _, p := range w.projects {
			var mine, priorities []int64
			sum := int64(0)
			for i := range w.batches {
				if b := &w.batches[i]; b.Project == p {
					mine, priorities = append(mine, w.given[i]-start[i]), append(priorities, priorityWeight(b.Priority))
					sum += mine[len(mine)-1]
				}
			}
			check(fmt.Sprintf("batches of project %d", p.Weight), mine, priorities)
			all, weights = append(all, sum), append(weights, int64(p.Weight))
		}
		check("projects", all, weights)
	})
}

// Who is given all of its tickets of a round before another's first is also served first.
func TestTicketsAreIssuedInTurn(t *testing.T) {
	t.Parallel()
	w := &world{fleet: store.Fleet{Workers: 1, Slots: 64, Concurrency: 400, Express: 16}} // no express ticket is left
	for _, weight := range []int32{2, 1} {
		w.add(store.OpenBatch{Project: w.project(weight), TotalJobs: 1 << 20})
	}
	var given [2]int
	for _, g := range share(w.batches, w.fleet, 0) {
		for range g.Run {
			given[ordinal(g.Batch)]++
		}
		if ahead := given[0] - 2*given[1]; ahead < -2 || ahead > 2 {
			t.Fatalf("projects of weights 2 and 1 were given %v tickets at some time", given)
		}
	}
	if want := [2]int{8, 4}; given != want {
		t.Errorf("given %v tickets, want %v", given, want)
	}
}

// A provider that hangs keeps the jobs of one batch in the window; they must not be all that is in it.
func TestAHangingBatchLeavesTheWindowToOthers(t *testing.T) {
	t.Parallel()
	w := &world{fleet: store.Fleet{Workers: 1, Slots: 64, Concurrency: 256}}
	p := w.project(1)
	hangs, flows := w.add(store.OpenBatch{Project: p, TotalJobs: 1 << 20}), w.add(store.OpenBatch{Project: p, TotalJobs: 1 << 20})
	for range 200 {
		w.dispatch(t)
		var hanging []worldTicket
		for _, ticket := range w.tickets {
			if ticket.batch == hangs {
				hanging = append(hanging, ticket)
			}
		}
		w.tickets = hanging
	}
	w.outstanding()
	if w.fleet.Jobs > 3*256*3/4 || w.given[flows] < 200*128 {
		t.Errorf("%d jobs hang in a window of %d; the other batch was given %d", w.fleet.Jobs, 3*256, w.given[flows])
	}
}

func TestTheFirstToExpireGoesFirst(t *testing.T) {
	t.Parallel()
	w := &world{fleet: store.Fleet{Workers: 1, Slots: 4, Concurrency: 8, Express: 1}} // no express ticket is left
	p := w.project(1)
	w.add(store.OpenBatch{Project: p, TotalJobs: 1000})
	w.add(store.OpenBatch{Project: p, TotalJobs: 1000, ExpiresAt: new(time.Unix(200, 0))})
	w.add(store.OpenBatch{Project: p, TotalJobs: 1000, ExpiresAt: new(time.Unix(100, 0))})
	var order []uuid.UUID
	for _, g := range share(w.batches, w.fleet, 0) {
		order = append(order, g.Batch)
	}
	if want := []uuid.UUID{numbered(2), numbered(1), numbered(0)}; len(order) < 3 || order[0] != want[0] || order[1] != want[1] || order[2] != want[2] {
		t.Errorf("order %v, want %v", order, want)
	}
}

func BenchmarkShareOfTenThousandBatches(b *testing.B) {
	w := &world{fleet: store.Fleet{Workers: 1, Slots: 64, Concurrency: 256}}
	for range 10 {
		w.project(1)
	}
	for i := range 10_000 {
		w.add(store.OpenBatch{Project: w.projects[i%10], TotalJobs: 1000})
	}
	for b.Loop() {
		share(w.batches, w.fleet, 0)
	}
}
