package store_test

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"pgregory.net/rapid"

	"batchwright/internal/store"
	"batchwright/internal/store/storetest"
)

// TestEveryHistoryKeepsTheRules lets workers, callers and accidents take steps in any order, and checks after each that no transition was made
// that may not be, and at the end that every batch can still be finished.
func TestEveryHistoryKeepsTheRules(t *testing.T) {
	t.Parallel()
	url := storetest.URL(t)
	db, err := store.Open(t.Context(), url, store.Options{MaxConns: 4})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	histories := 0
	rapid.Check(t, func(rt *rapid.T) {
		histories++
		m := newMachine(rt, t, db, url, histories)
		rt.Repeat(map[string]func(*rapid.T){
			"submit": m.submit, "plan": m.plan, "start": m.start, "dispatch": m.dispatch, "deliver": m.deliver, "call": m.call, "settle": m.settle,
			"close": m.close, "renew": m.renew, "suspend": m.suspend, "die": m.die, "sweep": m.sweep, "lose": m.lose, "time": m.pass,
			"cancel": m.cancel, "finish": m.finish, "pause": m.pause, "resume": m.resume, "expire": m.expire, "retry": m.retry,
			"": m.check,
		})
		m.drain(rt)
	})
}

// machine is what the rules need to remember about the rows: who holds which job, which calls are out, and how jobs ended.
type machine struct {
	t       *testing.T // for the database behind the store's face
	db      *store.DB
	url     string
	project uuid.UUID
	workers []store.Worker

	batches []uuid.UUID
	keys    map[uuid.UUID][]string
	posted  []store.Ticket // tasks in the queue; some turn up twice, some never
	held    []*holding
	final   map[store.Settled]string // how a job ended, which never changes
}

// holding is a ticket in a worker's hands.
type holding struct {
	ticket store.Ticket
	worker store.Worker
	jobs   []int32 // not yet settled by it
	calls  map[int32]int32
	idle   bool // it got no jobs with it
}

func newMachine(rt *rapid.T, t *testing.T, db *store.DB, url string, n int) *machine {
	m := &machine{t: t, db: db, url: url, keys: map[uuid.UUID][]string{}, final: map[store.Settled]string{}}
	name := fmt.Sprintf("p%d", n)
	p, err := db.CreateKey(m.t.Context(), name, "k", "bw_x", sha256.Sum256([]byte(name)))
	must(rt, err)
	m.project = p.ID
	for i := range 2 {
		m.workers = append(m.workers, store.Worker{ID: uuid.New(), Hostname: "h", PID: int32(i), Slots: 4, Concurrency: 8})
		must(rt, db.Register(m.t.Context(), m.workers[i]))
	}
	return m
}

func must(rt *rapid.T, err error) {
	rt.Helper()
	if err != nil {
		rt.Fatal(err)
	}
}

// pick draws one of a list; without one, the step does nothing.
func pick[T any](rt *rapid.T, list []T, what string) T {
	if len(list) == 0 {
		rt.Skip("no " + what)
	}
	return rapid.SampledFrom(list).Draw(rt, what)
}

func (m *machine) submit(rt *rapid.T) {
	if len(m.batches) == 4 {
		rt.Skip("enough batches")
	}
	keys := rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "c", "d", "e", "bad"}), 1, 6).Draw(rt, "keys")
	id := uuid.Must(uuid.NewV7())
	nb := store.NewBatch{ID: id, ProjectID: m.project, Kind: "generate", Route: []byte(`{}`), Params: []byte(`{}`), Metadata: []byte(`{}`),
		OnInvalid: "refuse", Cache: rapid.SampledFrom([]string{"use", "use", "refresh", "off"}).Draw(rt, "cache")}
	var chunk iter.Seq2[store.Chunk, error] = func(yield func(store.Chunk, error) bool) {
		var c store.Chunk
		for i := range keys {
			c.Inputs = append(c.Inputs, store.NewInput{Seq: int32(i + 1), Input: []byte(`{}`)})
		}
		yield(c, nil)
	}
	_, tickets, err := m.db.CreateBatch(m.t.Context(), nb, chunk, func() (int32, [32]byte) { return int32(len(keys)), [32]byte{1} })
	must(rt, err)
	m.batches, m.keys[id] = append(m.batches, id), keys
	m.posted = append(m.posted, tickets...)
}

// plan lets a worker do a plan ticket, in whole or until it dies in the middle.
func (m *machine) plan(rt *rapid.T) {
	ticket := pick(rt, m.of(store.PurposePlan), "plan ticket")
	worker := pick(rt, m.workers, "worker")
	if m.db.ClaimPlan(m.t.Context(), ticket.ID, worker.ID, time.Minute) != nil {
		return // taken, cancelled or reissued
	}
	if rapid.IntRange(0, 4).Draw(rt, "planner") == 0 { // it died
		return
	}
	b, err := m.db.AnyBatch(m.t.Context(), ticket.BatchID)
	must(rt, err)
	must(rt, m.db.InsertPlanned(m.t.Context(), b, ticket, m.planned(ticket), true, nil))
	_, err = m.db.StartBatch(m.t.Context(), b.ID, nil)
	must(rt, err)
}

func (m *machine) planned(ticket store.Ticket) (rows []store.Planned) {
	for i := ticket.FirstSeq; i <= ticket.LastSeq; i++ {
		key := m.keys[ticket.BatchID][i-1]
		row := store.Planned{Seq: i, Keys: [][32]byte{keyFor(m.project.String() + key)}}
		if key == "bad" {
			row = store.Planned{Seq: i, ErrorClass: "invalid_request", ErrorMessage: "bad"}
		}
		rows = append(rows, row)
	}
	return rows
}

func (m *machine) start(rt *rapid.T) {
	_, err := m.db.StartBatch(m.t.Context(), pick(rt, m.batches, "batch"), nil)
	must(rt, err)
}

// dispatch asks for tickets as wildly as no policy would.
func (m *machine) dispatch(rt *rapid.T) {
	grant := store.Grant{Batch: pick(rt, m.batches, "batch"), Run: rapid.IntRange(0, 3).Draw(rt, "run"), Retry: rapid.IntRange(0, 2).Draw(rt, "retry"),
		Size: rapid.IntRange(1, 3).Draw(rt, "size")}
	_, tickets, err := m.db.Dispatch(m.t.Context(), func([]store.OpenBatch, store.Fleet) []store.Grant { return []store.Grant{grant} })
	must(rt, err)
	m.posted = append(m.posted, tickets...)
}

func (m *machine) of(purpose string) (out []store.Ticket) {
	for _, t := range m.posted {
		if (t.Purpose == store.PurposePlan) == (purpose == store.PurposePlan) {
			out = append(out, t)
		}
	}
	return out
}

// deliver hands a task to a worker. The task stays in the queue: it may be delivered again.
func (m *machine) deliver(rt *rapid.T) {
	ticket := pick(rt, m.of(store.PurposeRun), "ticket")
	m.claim(rt, ticket, pick(rt, m.workers, "worker"))
}

func (m *machine) claim(rt *rapid.T, ticket store.Ticket, worker store.Worker) {
	jobs, err := m.db.ClaimJobs(m.t.Context(), ticket, worker.ID, time.Minute)
	must(rt, err)
	h := &holding{ticket: ticket, worker: worker, calls: map[int32]int32{}}
	for _, j := range jobs {
		if end := m.final[store.Settled{BatchID: ticket.BatchID, Seq: j.Seq}]; end != "" {
			rt.Fatalf("job %s-%d had %s, and was claimed again", ticket.BatchID, j.Seq, end)
		}
		h.jobs = append(h.jobs, j.Seq)
	}
	h.idle = len(jobs) == 0
	m.held = append(m.held, h)
}

// lose drops tasks, as a flushed Redis does.
func (m *machine) lose(rt *rapid.T) {
	if len(m.posted) == 0 {
		rt.Skip("nothing posted")
	}
	m.posted = m.posted[rapid.IntRange(1, len(m.posted)).Draw(rt, "lost"):]
}

// call writes an intent for a job in hand.
func (m *machine) call(rt *rapid.T) {
	h := pick(rt, m.held, "holding")
	seq := pick(rt, h.jobs, "job")
	id := store.CallID{BatchID: h.ticket.BatchID, Seq: seq, TicketID: h.ticket.ID, Number: h.calls[seq] + 1}
	ok, _, err := m.db.InsertIntents(m.t.Context(), []store.Intent{{CallID: id, Provider: "p", Model: "m", ReservedMicrousd: 10}},
		[]store.Draw{{BatchID: h.ticket.BatchID, ProjectID: m.project}})
	must(rt, err)
	alive := storetest.Scalar[bool](m.t, m.url, `select exists (select 1 from tickets where id = $1 and lease_until > now())`, h.ticket.ID)
	if (len(ok) == 1) != alive {
		rt.Fatalf("ticket %d, alive %v, was allowed %d calls", h.ticket.ID, alive, len(ok))
	}
	h.calls[seq] += int32(len(ok))
}

// settle ends an attempt at a job in hand, some way or other.
func (m *machine) settle(rt *rapid.T) {
	h := pick(rt, m.held, "holding")
	seq := pick(rt, h.jobs, "job")
	m.settleAs(rt, h, seq, rapid.SampledFrom([]string{"succeeded", "failed", "waiting"}).Draw(rt, "end"), rapid.Bool().Draw(rt, "uncertain"))
}

func (m *machine) settleAs(rt *rapid.T, h *holding, seq int32, end string, uncertain bool) {
	b, err := m.db.AnyBatch(m.t.Context(), h.ticket.BatchID)
	must(rt, err)
	id := store.Settled{BatchID: b.ID, Seq: seq}
	key := keyFor(m.project.String() + m.keys[b.ID][seq-1])
	if b.Cache == "off" {
		key = keyFor(fmt.Sprint(b.ID, seq))
	}
	job := store.Settlement{ProjectID: m.project, BatchID: b.ID, Seq: seq, TicketID: h.ticket.ID, State: end, Counted: true, CostMicrousd: new(int64)}
	var calls []store.Outcome
	for n := range h.calls[seq] {
		cost := int64(7)
		out := store.Outcome{CallID: store.CallID{BatchID: b.ID, Seq: seq, TicketID: h.ticket.ID, Number: n + 1}, Provider: "p", Model: "m", CostMicrousd: &cost,
			ErrorClass: "server"}
		if last := n+1 == h.calls[seq]; last && end == "succeeded" {
			out.ErrorClass = ""
		} else if uncertain {
			out.Uncertain, out.CostMicrousd = true, nil
		}
		calls = append(calls, out)
		job.Calls++
		if out.CostMicrousd == nil {
			job.CostMicrousd = nil
		} else if job.CostMicrousd != nil {
			*job.CostMicrousd += cost
		}
	}
	var answers []store.Completion
	switch end {
	case "succeeded":
		job.ResultKey, job.Refresh, job.CacheStatus = key[:], b.Cache == "refresh", "miss"
		answers = []store.Completion{{ProjectID: m.project, Key: key, Refresh: job.Refresh, Model: "m", Provider: "p", AnsweredBy: "m", Format: "text", Output: "x"}}
	default:
		job.ErrorClass, job.ErrorMessage = "server", "it failed"
	}
	mine := storetest.Scalar[bool](m.t, m.url, `select exists (select 1 from jobs where batch_id = $1 and seq = $2 and ticket_id = $3)`, b.ID, seq, h.ticket.ID)
	done, err := m.db.Settle(m.t.Context(), calls, answers, []store.Settlement{job}, b.HasFollowers)
	must(rt, err)
	if (len(done) == 1) != mine {
		rt.Fatalf("job %v, held %v, settled %d times", id, mine, len(done))
	}
	h.jobs = slices.DeleteFunc(h.jobs, func(s int32) bool { return s == seq })
	delete(h.calls, seq)
}

// close ends a ticket: what isn't settled goes back.
func (m *machine) close(rt *rapid.T) {
	h := pick(rt, m.held, "holding")
	m.closeHolding(rt, h)
}

func (m *machine) closeHolding(rt *rapid.T, h *holding) {
	var err error
	switch {
	case h.idle:
		err = m.db.EndIdleTicket(m.t.Context(), h.ticket.ID, h.worker.ID)
	case len(h.jobs) == 0:
		err = m.db.EndTicket(m.t.Context(), h.ticket.ID, h.worker.ID)
	default:
		_, err = m.db.CloseTicket(m.t.Context(), h.ticket.ID, h.worker.ID)
	}
	must(rt, err)
	m.drop(h)
}

func (m *machine) drop(h *holding) {
	m.held = slices.DeleteFunc(m.held, func(o *holding) bool { return o == h })
}

func (m *machine) renew(rt *rapid.T) {
	w := pick(rt, m.workers, "worker")
	var ids []int64
	var left []int32
	for _, h := range m.held {
		if h.worker.ID == w.ID {
			ids, left = append(ids, h.ticket.ID), append(left, int32(len(h.jobs)))
		}
	}
	_, err := m.db.Renew(m.t.Context(), w, time.Minute, ids, left)
	must(rt, err)
}

// suspend lets the leases of a worker run out while it still believes in them.
func (m *machine) suspend(rt *rapid.T) {
	w := pick(rt, m.workers, "worker")
	storetest.Exec(m.t, m.url, `update tickets set lease_until = now() - interval '1 second' where worker_id = $1`, w.ID)
}

// die ends a worker, and another comes in its place.
func (m *machine) die(rt *rapid.T) {
	i := rapid.IntRange(0, len(m.workers)-1).Draw(rt, "worker")
	old := m.workers[i].ID
	m.held = slices.DeleteFunc(m.held, func(h *holding) bool { return h.worker.ID == old })
	storetest.Exec(m.t, m.url, `update tickets set lease_until = now() - interval '1 second' where worker_id = $1`, old)
	storetest.Exec(m.t, m.url, `update workers set seen_at = now() - interval '1 hour' where id = $1`, old)
	m.workers[i].ID = uuid.New()
	must(rt, m.db.Register(m.t.Context(), m.workers[i]))
}

func (m *machine) sweep(rt *rapid.T) {
	tickets, _, err := m.db.Sweep(m.t.Context(), 0)
	must(rt, err)
	m.posted = append(m.posted, tickets...)
}

// pass lets time go by until everything that waits for it is due.
func (m *machine) pass(*rapid.T) {
	storetest.Exec(m.t, m.url, `update jobs set due_at = now() where due_at is not null`)
	storetest.Exec(m.t, m.url, `update tickets set posted_at = now() - interval '1 hour' where worker_id is null`)
	storetest.Exec(m.t, m.url, `update tickets set lease_until = now() - interval '1 second' where purpose = 'plan' and worker_id is not null`)
}

func (m *machine) cancel(rt *rapid.T) {
	_, err := m.db.CancelBatch(m.t.Context(), m.project, pick(rt, m.batches, "batch"), nil)
	must(rt, err)
}

// try takes a step that the state of the batch may forbid.
func (m *machine) try(rt *rapid.T, err error) {
	if !errors.Is(err, store.ErrState) {
		must(rt, err)
	}
}

func (m *machine) pause(rt *rapid.T) {
	_, err := m.db.PauseBatch(m.t.Context(), m.project, pick(rt, m.batches, "batch"), store.PauseRequested, "")
	m.try(rt, err)
}

func (m *machine) resume(rt *rapid.T) {
	_, err := m.db.ResumeBatch(m.t.Context(), m.project, pick(rt, m.batches, "batch"))
	m.try(rt, err)
}

func (m *machine) expire(rt *rapid.T) {
	storetest.Exec(m.t, m.url, `update batches set expires_at = now() - interval '1 second' where id = $1 and finished_at is null`, pick(rt, m.batches, "batch"))
	_, err := m.db.Expire(m.t.Context())
	must(rt, err)
}

// retry is the one step that may take a job back from its end.
func (m *machine) retry(rt *rapid.T) {
	id := pick(rt, m.batches, "batch")
	_, _, err := m.db.RetryJobs(m.t.Context(), m.project, id, store.RetryFilter{States: []string{"failed", "cancelled"}})
	m.try(rt, err)
	if err == nil {
		maps.DeleteFunc(m.final, func(job store.Settled, state string) bool { return job.BatchID == id && state != "succeeded" })
	}
}

func (m *machine) finish(rt *rapid.T) {
	_, err := m.db.FinishBatch(m.t.Context(), pick(rt, m.batches, "batch"))
	must(rt, err)
}

// broken names what may never be seen between two steps, each a query that finds nothing. $1 is the project.
var broken = map[string]string{
	"attempts or money that don't add up": `select kind || ', job ' || coalesce(batch_id::text || '-' || seq, '') || ': ' || detail from reports.ledger_check where project_id = $1`,
	"a running job without its ticket": `select j.batch_id::text || '-' || j.seq from jobs j join batches b on b.id = j.batch_id
		where b.project_id = $1 and j.state = 'running' and not exists (select 1 from tickets t where t.id = j.ticket_id)`,
	"a job of a ticket out of the ticket's range": `select j.batch_id::text || '-' || j.seq from jobs j join batches b on b.id = j.batch_id
		join tickets t on t.id = j.ticket_id where b.project_id = $1 and j.seq not between t.first_seq and t.last_seq`,
	"a planned job behind the cursor that no ticket covers": `select j.batch_id::text || '-' || j.seq from jobs j join batches b on b.id = j.batch_id
		where b.project_id = $1 and b.state in ('running', 'paused') and j.state = 'planned' and j.seq < b.next_seq
		and not exists (select 1 from tickets t where t.batch_id = b.id and t.purpose = 'run' and j.seq between t.first_seq and t.last_seq)`,
	"a ticket of a final batch": `select t.id::text from tickets t join batches b on b.id = t.batch_id where b.project_id = $1 and b.finished_at is not null`,
	"an unfinished job of a final batch": `select j.batch_id::text || '-' || j.seq from jobs j join batches b on b.id = j.batch_id
		where b.project_id = $1 and b.finished_at is not null and j.finished_at is null`,
	"an intent of a final batch": `select c.batch_id::text || '-' || c.seq from calls c join batches b on b.id = c.batch_id
		where b.project_id = $1 and b.finished_at is not null and c.state = 'intent'`,
	"a follower of nobody": `select j.batch_id::text || '-' || j.seq from jobs j join batches b on b.id = j.batch_id
		where b.project_id = $1 and j.state = 'waiting' and j.leader_seq is not null and b.state = 'running' and j.leader_batch is null
		and not exists (select 1 from jobs l where l.batch_id = j.batch_id and l.seq = j.leader_seq and l.finished_at is null)`,
	"a job that succeeded without an answer": `select j.batch_id::text || '-' || j.seq from jobs j join batches b on b.id = j.batch_id
		where b.project_id = $1 and j.state = 'succeeded' and not exists (select 1 from completions c
			where c.project_id = b.project_id and c.key = j.result_key and c.generation = j.result_generation)`,
	"frozen counts that differ from the rows": `select b.id::text from batches b where b.project_id = $1 and b.finished_at is not null
		and (b.succeeded_jobs, b.failed_jobs) <> (select count(*) filter (where state = 'succeeded'), count(*) filter (where state = 'failed') from jobs where batch_id = b.id)`,
}

type ended struct {
	BatchID uuid.UUID
	Seq     int32
	State   string
}

// check holds the rows to the rules.
func (m *machine) check(rt *rapid.T) {
	for _, what := range slices.Sorted(maps.Keys(broken)) {
		if rows := storetest.Rows[string](m.t, m.url, broken[what], m.project); len(rows) > 0 {
			rt.Fatalf("%s: %v", what, rows)
		}
	}
	now := map[store.Settled]string{}
	for _, row := range storetest.Rows[string](m.t, m.url, `select j.batch_id || ' ' || j.seq || ' ' || j.state from jobs j join batches b on b.id = j.batch_id
		where b.project_id = $1 and j.finished_at is not null`, m.project) {
		var e ended
		var id string
		if _, err := fmt.Sscan(row, &id, &e.Seq, &e.State); err != nil {
			rt.Fatal(err)
		}
		now[store.Settled{BatchID: uuid.MustParse(id), Seq: e.Seq}] = e.State
	}
	for id, state := range m.final {
		if now[id] != state {
			rt.Fatalf("job %s-%d had %s and is %q now", id.BatchID, id.Seq, state, now[id])
		}
	}
	m.final = now
}

// drain heals everything: from whatever state, with workers that work, every batch ends.
func (m *machine) drain(rt *rapid.T) {
	for round := 0; ; round++ {
		open := storetest.Scalar[int64](m.t, m.url, `select count(*) from batches where project_id = $1 and finished_at is null`, m.project)
		if open == 0 {
			break
		}
		if round == 30 {
			rt.Fatalf("%d batches never end: %v", open, storetest.Rows[string](m.t, m.url, `select b.id || ' ' || b.state || ' next ' || b.next_seq
				|| ' tickets ' || (select count(*) from tickets where batch_id = b.id) || ' jobs ' || (select string_agg(state, ',') from jobs where batch_id = b.id)
				from batches b where project_id = $1 and finished_at is null`, m.project))
		}
		m.pass(rt)
		m.sweep(rt)
		for _, id := range m.batches {
			_, err := m.db.ResumeBatch(m.t.Context(), m.project, id)
			m.try(rt, err)
		}
		for _, h := range slices.Clone(m.held) {
			m.work(rt, h)
		}
		for _, id := range m.batches {
			_, err := m.db.StartBatch(m.t.Context(), id, nil)
			must(rt, err)
			_, tickets, err := m.db.Dispatch(m.t.Context(), func(open []store.OpenBatch, _ store.Fleet) (grants []store.Grant) {
				for _, b := range open {
					if b.ID == id && b.State == "running" && (b.Due > 0 || b.NextSeq <= b.TotalJobs) {
						grants = append(grants, store.Grant{Batch: id, Run: 2, Retry: int(min(b.Due, 1)), Size: 10})
					}
				}
				return grants
			})
			must(rt, err)
			m.posted = append(m.posted, tickets...)
			_, err = m.db.FinishBatch(m.t.Context(), id)
			must(rt, err)
		}
		posted := m.posted
		m.posted = nil
		for _, ticket := range posted {
			if ticket.Purpose == store.PurposePlan {
				if m.db.ClaimPlan(m.t.Context(), ticket.ID, m.workers[0].ID, time.Minute) == nil {
					b, err := m.db.AnyBatch(m.t.Context(), ticket.BatchID)
					must(rt, err)
					must(rt, m.db.InsertPlanned(m.t.Context(), b, ticket, m.planned(ticket), true, nil))
				}
				continue
			}
			m.claim(rt, ticket, m.workers[0])
			m.work(rt, m.held[len(m.held)-1])
		}
		m.check(rt)
	}
}

// work finishes what is in hand.
func (m *machine) work(rt *rapid.T, h *holding) {
	for _, seq := range slices.Clone(h.jobs) {
		m.settleAs(rt, h, seq, "succeeded", false)
	}
	m.closeHolding(rt, h)
}
