package store_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"pgregory.net/rapid"

	"batchwright/internal/store"
)

// crossroads is a project whose batches share jobs, one thing happening after the other.
type crossroads struct {
	*bench
	t       *testing.T
	rt      *rapid.T
	sql     *pgx.Conn
	keys    map[store.Settled]string // of each job
	batches []store.Batch
	held    []heldJob
}

type heldJob struct {
	batch  store.Batch
	ticket int64
	job    store.Claimed
}

func (c *crossroads) exec(sql string, args ...any) {
	if _, err := c.sql.Exec(context.Background(), sql, args...); err != nil {
		c.rt.Fatal(err)
	}
}

func (c *crossroads) none(what, sql string) {
	var n int
	if err := c.sql.QueryRow(context.Background(), sql, c.project).Scan(&n); err != nil {
		c.rt.Fatal(err)
	}
	if n != 0 {
		c.rt.Fatalf("%d %s", n, what)
	}
}

// sound is what holds after each step.
func (c *crossroads) sound(*rapid.T) {
	const from = ` from jobs f join batches b on b.id = f.batch_id and b.project_id = $1
		left join jobs l on l.batch_id = coalesce(f.leader_batch, f.batch_id) and l.seq = f.leader_seq left join batches lb on lb.id = l.batch_id
		where f.state = 'waiting' and f.leader_seq is not null and `
	c.none("jobs wait for one that ended", `select count(*)`+from+`l.finished_at is not null`)
	c.none("jobs wait for one that waits for another", `select count(*)`+from+`l.leader_seq is not null`)
	c.none("jobs wait for one with another key", `select count(*)`+from+`l.key <> f.key`)
	c.none("jobs wait for one that nobody runs", `select count(*)`+from+`f.leader_batch is not null and lb.state <> 'running' and l.state <> 'running'`)
	c.none("jobs wait for one whose batch doesn't know", `select count(*)`+from+`f.leader_batch is not null and not lb.followed`)
	c.none("keys have two leaders in running batches", `select count(*) from (select 1 from jobs j join batches b on b.id = j.batch_id
		where b.project_id = $1 and b.state = 'running' and b.cache = 'use' and not b.recheck and j.finished_at is null and j.leader_seq is null group by j.key having count(*) > 1) d`)
}

func (c *crossroads) submit(rt *rapid.T) {
	if len(c.batches) == 5 {
		return
	}
	keys := rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "c|z", "c|z"}), 1, 5).Draw(rt, "keys")
	for i := range keys { // keys of this check, not of others
		keys[i] = strings.ReplaceAll(keys[i]+"|", "|", c.project.String()+"|")
		keys[i] = strings.TrimSuffix(keys[i], "|")
	}
	batch := c.plan(c.t, rapid.SampledFrom([]string{"use", "use", "use", "refresh"}).Draw(rt, "cache"), keys...)
	for i, k := range keys {
		c.keys[store.Settled{BatchID: batch.ID, Seq: int32(i + 1)}] = k
	}
	c.batches = append(c.batches, batch)
}

func (c *crossroads) pick(rt *rapid.T, states ...string) (store.Batch, bool) {
	var fit []store.Batch
	for _, b := range c.batches {
		b = c.get(c.t, b)
		for _, s := range states {
			if b.State == s {
				fit = append(fit, b)
			}
		}
	}
	if len(fit) == 0 {
		return store.Batch{}, false
	}
	return fit[rapid.IntRange(0, len(fit)-1).Draw(rt, "batch")], true
}

func (c *crossroads) startOne(rt *rapid.T) {
	if b, ok := c.pick(rt, "planning"); ok {
		c.start(c.t, b)
	}
}

func (c *crossroads) claimSome(rt *rapid.T) {
	if b, ok := c.pick(rt, "running"); ok {
		c.take(b, rapid.IntRange(1, 3).Draw(rt, "size"))
	}
}

func (c *crossroads) take(b store.Batch, size int) {
	for _, g := range []store.Grant{{Batch: b.ID, Run: 1, Size: size}, {Batch: b.ID, Retry: 1, Size: size}} {
		for _, ticket := range c.dispatch(c.t, g) {
			jobs := c.claim(c.t, ticket)
			for _, j := range jobs {
				c.held = append(c.held, heldJob{b, ticket.ID, j})
			}
			if len(jobs) == 0 {
				c.endTicket(ticket.ID)
			}
		}
	}
}

func (c *crossroads) settleOne(rt *rapid.T) {
	if len(c.held) == 0 {
		return
	}
	c.end(rapid.IntRange(0, len(c.held)-1).Draw(rt, "job"), rapid.SampledFrom([]string{"succeeded", "fallback", "waiting", "failed"}).Draw(rt, "outcome"))
}

// end settles the ith job that is held, and its ticket with its last job.
func (c *crossroads) end(i int, outcome string) {
	h := c.held[i]
	c.held = append(c.held[:i:i], c.held[i+1:]...)
	key, fallback, _ := strings.Cut(c.keys[store.Settled{BatchID: h.batch.ID, Seq: h.job.Seq}], "|")
	if outcome == "fallback" {
		outcome = "succeeded"
		if fallback != "" {
			key = fallback
		}
	}
	c.settle(c.t, h.batch, h.ticket, h.job.Seq, outcome, key)
	for _, other := range c.held {
		if other.ticket == h.ticket {
			return
		}
	}
	c.endTicket(h.ticket)
}

func (c *crossroads) endTicket(id int64) {
	if err := c.db.EndTicket(context.Background(), id, c.worker.ID); err != nil {
		c.rt.Fatal(err)
	}
}

func (c *crossroads) pauseOne(rt *rapid.T) {
	if b, ok := c.pick(rt, "running"); ok {
		c.exec(`update batches set state = 'paused', pause_reason = 'requested' where id = $1`, b.ID)
		c.exec(store.ReleaseFollowersSQL, b.ID)
	}
}

func (c *crossroads) resumeOne(rt *rapid.T) {
	if b, ok := c.pick(rt, "paused"); ok {
		c.resume(b)
	}
}

func (c *crossroads) resume(b store.Batch) {
	c.exec(`update batches set state = 'running', pause_reason = null, recheck = true, next_seq = 1 where id = $1`, b.ID)
}

func (c *crossroads) cancelOne(rt *rapid.T) {
	if b, ok := c.pick(rt, "planning", "running", "paused"); ok && rapid.IntRange(0, 3).Draw(rt, "really") == 0 {
		if _, err := c.db.CancelBatch(context.Background(), c.project, b.ID, nil); err != nil {
			rt.Fatal(err)
		}
	}
}

// drain lets everything go on until no batch is open, and fails when that never comes.
func (c *crossroads) drain() {
	for range 20 {
		for len(c.held) > 0 {
			c.end(0, "succeeded")
		}
		open := 0
		for _, b := range c.batches {
			b = c.get(c.t, b)
			switch b.State {
			case "planning":
				b = c.start(c.t, b)
			case "paused":
				c.resume(b)
			}
			if b.FinishedAt != nil {
				continue
			}
			c.take(b, 10)
			for len(c.held) > 0 {
				c.end(0, "succeeded")
			}
			done, err := c.db.FinishBatch(context.Background(), b.ID)
			if err != nil {
				c.rt.Fatal(err)
			}
			if !done {
				open++
			}
		}
		if open == 0 {
			return
		}
	}
	c.rt.Fatal("batches never end: some job waits in vain")
}

// TestSharedJobsAlwaysEnd tries orders of events between batches that share jobs. It never reconciles: that is for races, which are not tried here.
func TestSharedJobsAlwaysEnd(t *testing.T) {
	t.Parallel()
	b := setUp(t)
	conn, err := pgx.Connect(t.Context(), b.url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.Background()) }()
	n := 0
	rapid.Check(t, func(rt *rapid.T) {
		n++
		p, err := b.db.CreateKey(t.Context(), fmt.Sprint("p", n), "k", "bw_x", keyFor(fmt.Sprint("key ", n)))
		if err != nil {
			rt.Fatal(errors.Join(errors.New("create a project"), err))
		}
		own := *b
		own.project = p.ID
		c := &crossroads{bench: &own, t: t, rt: rt, sql: conn, keys: map[store.Settled]string{}}
		c.submit(rt)
		c.startOne(rt)
		actions := []func(*rapid.T){c.submit, c.startOne, c.startOne, c.claimSome, c.claimSome, c.settleOne, c.settleOne, c.pauseOne, c.resumeOne, c.cancelOne}
		for range rapid.IntRange(4, 20).Draw(rt, "steps") {
			actions[rapid.IntRange(0, len(actions)-1).Draw(rt, "action")](rt)
			c.sound(rt)
		}
		c.drain()
		c.none("jobs are left", `select count(*) from jobs j join batches b on b.id = j.batch_id where b.project_id = $1 and j.finished_at is null`)
	})
}
