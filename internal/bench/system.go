package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"batchwright/internal/client"
	"batchwright/internal/process"
	"batchwright/internal/store"
)

// system is a whole Batchwright on a database of its own: one API and, but for ingest, a worker or two.
type system struct {
	*lab
	databaseURL string
	redisURL    string
	key         string
	db          *pgxpool.Pool // to look from outside
	api         *program
	workers     []*program
	gateway     *program // nil but where calls go through one
	more        []string // settings of all that is started from now on
	client      *client.Client
	ends        []func(context.Context) error
}

// template is tiny, so that the work around a job shows, and not the rendering.
const template = `{"system":"You write product blurbs.","user":"Write about {{.name}}.","variables":{"name":{"type":"string"}},"sampling":{"max_tokens":80}}`

// system starts an API, and a worker with these settings unless they are nil.
func (l *lab) system(ctx context.Context, worker []string) (_ *system, err error) {
	s := &system{lab: l}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close(ctx))
		}
	}()
	var drop func(context.Context) error
	if s.databaseURL, s.redisURL, drop, err = l.database(ctx); err != nil {
		return nil, err
	}
	s.ends = append(s.ends, drop)
	if _, err := store.Migrate(ctx, s.databaseURL); err != nil {
		return nil, err
	}
	if s.db, err = connect(ctx, s.databaseURL, 4); err != nil {
		return nil, err
	}
	s.ends = append(s.ends, func(context.Context) error { s.db.Close(); return nil })
	getenv := func(name string) string { return map[string]string{"DATABASE_URL": s.databaseURL}[name] }
	if s.key, err = process.CreateKey(ctx, getenv, "bench", "bench"); err != nil {
		return nil, err
	}
	if err := s.limit(ctx); err != nil {
		return nil, err
	}
	if err := s.startAPI(ctx); err != nil {
		return nil, err
	}
	if _, err := s.client.SaveTemplate(ctx, "bench", json.RawMessage(template)); err != nil {
		return nil, err
	}
	if worker == nil {
		return s, nil
	}
	return s, s.startWorker(ctx, worker)
}

// prices make every call cost something, so that the budget is drawn on.
const prices = `provider,model,valid_from,input_usd_per_mtok,output_usd_per_mtok,cached_input_usd_per_mtok,cache_write_usd_per_mtok,context_window,max_output_tokens
simulator,sim-1,2026-01-01,1,4,0.1,1.25,128000,16384
openai-compatible,sim-1,2026-01-01,1,4,0.1,1.25,128000,16384
openai,sim-1,2026-01-01,1,4,0.1,1.25,128000,16384
`

// limit gives the project a budget that is never used up.
func (s *system) limit(ctx context.Context) error {
	db, err := store.Open(ctx, s.databaseURL, store.Options{MaxConns: 1})
	if err != nil {
		return err
	}
	defer db.Close()
	b := store.Budget{Scope: "project", Period: "month", TimeZone: "UTC", LimitMicrousd: 1e15}
	if b.ID, err = uuid.NewV7(); err != nil {
		return err
	}
	if err := s.db.QueryRow(ctx, `select id from projects where name = 'bench'`).Scan(&b.ProjectID); err != nil {
		return err
	}
	_, err = db.CreateBudget(ctx, b)
	return err
}

// startWorker starts one more worker.
func (s *system) startWorker(ctx context.Context, settings []string) error {
	w, err := startProgram(ctx, "worker", filepath.Join(s.bin, "worker"), s.env(settings...), "admin ready", "worker ready")
	if err == nil {
		s.workers = append(s.workers, w)
	}
	return err
}

// stopWorkers stops all but the first n.
func (s *system) stopWorkers(ctx context.Context, n int) (err error) {
	for _, w := range s.workers[min(n, len(s.workers)):] {
		err = errors.Join(err, w.stop(ctx))
	}
	s.workers = s.workers[:min(n, len(s.workers))]
	return err
}

func (s *system) env(more ...string) []string {
	return append([]string{"DATABASE_URL=" + s.databaseURL, "REDIS_URL=" + s.redisURL, "HTTP_ADDR=127.0.0.1:0", "ADMIN_ADDR=127.0.0.1:0",
		"PRICES_FILE=" + filepath.Join(s.dir, pricesFile), "OPENAI_COMPATIBLE_BASE_URL=http://" + s.backends[atOnce] + "/v1"}, append(s.more[:len(s.more):len(s.more)], more...)...)
}

// startAPI starts the API, in place of the one that runs.
func (s *system) startAPI(ctx context.Context) (err error) {
	if err := s.api.stop(ctx); err != nil {
		return err
	}
	if s.api, err = startProgram(ctx, "api", filepath.Join(s.bin, "api"), s.env(), "admin ready", "api ready"); err != nil {
		return err
	}
	if s.client != nil {
		s.client.Close()
	}
	s.client, err = client.New("http://"+s.api.log.addr("api ready"), s.key)
	return err
}

func (s *system) close(ctx context.Context) (err error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*stopLimit)
	defer cancel()
	if s.client != nil {
		s.client.Close()
	}
	err = errors.Join(s.stopWorkers(ctx, 0), s.gateway.stop(ctx), s.api.stop(ctx))
	for i := len(s.ends) - 1; i >= 0; i-- {
		err = errors.Join(err, s.ends[i](ctx))
	}
	return err
}

// run is one batch, from the first byte of its submission to its end.
type run struct {
	jobs                    int
	accepted, planned, done time.Duration // since the first byte
	cpu                     usage
	memory                  memory
	batch                   client.Batch
}

// rate is in jobs a second.
func (r run) rate() float64 { return float64(r.jobs) / r.done.Seconds() }

// String tells the phases.
func (r run) String() string {
	if r.planned == 0 { // it was only submitted
		return r.done.Round(time.Millisecond).String()
	}
	return fmt.Sprintf("%s (accepted after %s, planned after %s)", r.done.Round(time.Millisecond), r.accepted.Round(time.Millisecond), r.planned.Round(time.Millisecond))
}

// run submits a batch and waits for its end. Anything but n jobs that succeeded is an error: its figure would mean
// nothing.
func (s *system) run(ctx context.Context, n int, route string, body io.Reader) (run, error) {
	r := run{jobs: n}
	before := s.cpu()
	s.forgetPeaks()
	began := time.Now()
	b, err := s.submit(ctx, route, body)
	if err != nil {
		return run{}, err
	}
	r.accepted = time.Since(began)
	if r.planned, r.done, err = s.await(ctx, b.ID, began); err != nil {
		return run{}, err
	}
	r.cpu, r.memory = s.cpu().sub(before), s.peaks()
	if r.batch, err = s.client.Batch(ctx, b.ID); err != nil {
		return run{}, err
	}
	if got := r.batch.Stats.Jobs.Succeeded; r.batch.State != "completed" || got != int64(n) {
		return run{}, fmt.Errorf("the batch is %s with %d of %d jobs succeeded", r.batch.State, got, n)
	}
	return r, nil
}

func (s *system) submit(ctx context.Context, route string, body io.Reader) (client.Batch, error) {
	return s.client.SubmitNDJSON(ctx, body, client.BatchOptions{Kind: "generate", Template: "bench", Route: route})
}

// await waits until a batch is final, and says when its planning was over and when all was. It looks at the one row, in
// Postgres: the API would count all jobs each time.
func (s *system) await(ctx context.Context, id string, began time.Time) (planned, done time.Duration, err error) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		var started, final bool
		if err := s.db.QueryRow(ctx, `select started_at is not null, finished_at is not null from batches where id = $1`, id).Scan(&started, &final); err != nil {
			return 0, 0, err
		}
		now := time.Since(began)
		if started && planned == 0 {
			planned = now
		}
		if final {
			return planned, now, nil
		}
		select {
		case <-ctx.Done():
			return 0, 0, context.Cause(ctx)
		case <-tick.C:
		}
	}
}

// processes are those of this system that run, by name.
func (s *system) processes() map[string][]int {
	m := map[string][]int{}
	for _, p := range append([]*program{s.api, s.gateway}, s.workers...) {
		if p != nil {
			m[p.name] = append(m[p.name], p.pid())
		}
	}
	return m
}

// cpu reads the CPU time of all processes that take part.
func (s *system) cpu() usage {
	u := s.lab.cpu(nil)
	for name, pids := range s.processes() {
		for _, pid := range pids {
			if t, ok := treeTime(pid); ok {
				u[name] += t
			}
		}
	}
	return u
}

func (s *system) forgetPeaks() {
	for _, pids := range s.processes() {
		for _, pid := range pids {
			forgetPeak(pid)
		}
	}
}

// peaks reads the peaks since they were forgotten.
func (s *system) peaks() memory {
	m := memory{}
	for name, pids := range s.processes() {
		for _, pid := range pids {
			m[name] = max(m[name], peakRSS(pid))
		}
	}
	return m
}

// settle does for the next round what autovacuum does in the long run.
func (s *system) settle(ctx context.Context) error {
	_, err := s.db.Exec(ctx, `vacuum analyze`)
	return err
}

const warmJobs = 2000

// warm runs a small batch, so that connections are open and statements are prepared.
func (s *system) warm(ctx context.Context, route string) error {
	n := s.size(warmJobs, warmJobs/4)
	if _, err := s.run(ctx, n, route, products(n, "warm-up")); err != nil {
		return fmt.Errorf("warm-up: %w", err)
	}
	return s.settle(ctx)
}
