package process_test

import (
	"context"
	"fmt"
	"io"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"batchwright/internal/embedded"
	"batchwright/internal/gateway"
	"batchwright/internal/process"
	"batchwright/internal/programs"
	"batchwright/internal/store/storetest"
)

// crashJobs is the size of the batches that are disturbed.
const crashJobs = 2000

// disturbed is a system whose provider counts its calls, and whose worker, if any, is a process of its own.
type disturbed struct {
	*system
	provider *gateway.Simulator
	id       string // of the batch
}

// disturb submits a batch to a system with a provider behind real HTTP. The worker processes come from the test.
func disturb(t *testing.T, redisURL string) *disturbed {
	t.Helper()
	provider := gateway.NewSimulator(gateway.SimulatorOptions{Latency: 20 * time.Millisecond, LatencyJitter: 100 * time.Millisecond})
	backend := httptest.NewServer(provider)
	t.Cleanup(backend.Close)
	s := &system{env: map[string]string{
		"DATABASE_URL": storetest.URL(t), "REDIS_URL": redisURL, "HTTP_ADDR": freeAddr(t), "LOG_LEVEL": "warn", "WORKER_CONCURRENCY": "32",
		"OPENAI_COMPATIBLE_BASE_URL": backend.URL + "/v1",
	}}
	s.url = "http://" + s.env["HTTP_ADDR"]
	s.key = s.newKey(t, "test")
	s.run(t, process.API)
	s.awaitReady(t)
	s.saveTemplate(t, blurb)
	r := s.do(t, "POST", "/v1/batches?kind=generate&template=blurb&route=openai-compatible:sim-1", "application/x-ndjson", linesOf(crashJobs))
	return &disturbed{s, provider, accepted(t, r).ID}
}

// worker starts cmd/worker as a process. It is killed when the test ends, if it still runs.
func (d *disturbed) worker(t *testing.T, binary string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(binary)
	cmd.Env = os.Environ()
	for k, v := range d.env {
		cmd.Env = append(cmd.Env, k+"="+v)
	}
	cmd.Stderr = logTo{t}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return cmd
}

// dies starts a worker that is to be killed where spec says, and waits until it was.
func (d *disturbed) dies(t *testing.T, binary, spec string) {
	t.Helper()
	d.env["BATCHWRIGHT_FAULT"] = spec
	defer delete(d.env, "BATCHWRIGHT_FAULT")
	w := d.worker(t, binary)
	died := make(chan struct{})
	go func() {
		defer close(died)
		_ = w.Wait() // it was killed, which is what is wanted
	}()
	select {
	case <-died:
	case <-time.After(40 * time.Second):
		t.Errorf("nothing passed the point %s", spec)
		_ = w.Process.Kill()
		<-died
	}
}

// buildWorker builds cmd/worker, with the fault points if the tags are chaos.
func buildWorker(t *testing.T, tags string) (binary string) {
	t.Helper()
	dir, err := programs.Build(t.Context(), tags, "worker")
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, "worker")
}

// verify checks that every job succeeded once, and that the ledger knows of every call that the provider saw.
func (d *disturbed) verify(t *testing.T) batch {
	t.Helper()
	b := d.finish(t, d.id)
	if b.State != "completed" || b.Stats.Jobs.Succeeded != crashJobs {
		t.Errorf("%+v: want %d jobs succeeded", b, crashJobs)
	}
	seen := map[string]bool{}
	for _, r := range d.results(t, d.id) {
		if seen[r.CustomID] || r.Status != "succeeded" || len(r.Output) < 10 {
			t.Errorf("result %+v", r)
		}
		seen[r.CustomID] = true
	}
	if len(seen) != crashJobs {
		t.Errorf("%d results, want %d", len(seen), crashJobs)
	}
	url := d.env["DATABASE_URL"]
	stats := d.provider.Stats()
	if ledger := storetest.Scalar[int64](t, url, `select count(*) from calls`); ledger < stats.Calls {
		t.Errorf("the provider saw %d calls, the ledger has %d", stats.Calls, ledger)
	}
	if open := storetest.Scalar[int64](t, url, `select count(*) from calls where state = 'intent'`); open != 0 {
		t.Errorf("%d calls of a finished batch without an outcome", open)
	}
	if twice := storetest.Scalar[int64](t, url, `select count(*) from (select 1 from calls where state = 'settled' and error_class is null group by batch_id, seq having count(*) > 1) d`); twice != 0 {
		t.Errorf("%d jobs have two settled answers", twice)
	}
	if left := storetest.Scalar[int64](t, url, `select count(*) from tickets`); left != 0 {
		t.Errorf("%d tickets left", left)
	}
	return b
}

func linesOf(n int) *lineReader { return &lineReader{n: n} }

// lineReader makes a submission as it is read.
type lineReader struct {
	n, i int
	rest []byte
}

func (l *lineReader) Read(p []byte) (int, error) {
	if len(l.rest) == 0 {
		if l.i == l.n {
			return 0, io.EOF
		}
		l.rest = fmt.Appendf(nil, `{"custom_id":"p-%d","variables":{"name":"product %d"}}`+"\n", l.i, l.i)
		l.i++
	}
	n := copy(p, l.rest)
	l.rest = l.rest[n:]
	return n, nil
}

func TestKilledWorkerLosesAndDoublesNothing(t *testing.T) {
	t.Parallel()
	binary := buildWorker(t, "")
	services := privateRedis(t)
	d := disturb(t, services.RedisURL)
	url := d.env["DATABASE_URL"]
	worker := d.worker(t, binary)
	await(t, "progress", func() bool {
		return storetest.Scalar[int64](t, url, `select count(*) from jobs where state = 'succeeded'`) >= 200
	})
	if err := worker.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_ = worker.Wait()
	killed := time.Now()
	held := storetest.Scalar[int64](t, url, `select count(*) from jobs where state = 'running'`)
	if held == 0 {
		t.Fatal("the worker held no job when it was killed")
	}
	storetest.Exec(t, url, `create table held as select batch_id, seq, ticket_id from jobs where state = 'running'`)
	d.worker(t, binary)
	await(t, "the killed worker's jobs to run again", func() bool {
		return storetest.Scalar[int64](t, url, `select count(*) from jobs j join held h using (batch_id, seq) where j.state <> 'succeeded'`) == 0
	})
	if took := time.Since(killed); took > 35*time.Second {
		t.Errorf("the killed worker's %d jobs ran again after %s, want at most 35 s", held, took)
	} else {
		t.Logf("%d jobs ran again after %s", held, took.Round(100*time.Millisecond))
	}
	d.verify(t)
	uncertain := storetest.Scalar[int64](t, url, `select count(*) from calls where state = 'uncertain'`)
	if lost := storetest.Scalar[int64](t, url, `select count(*) from calls c join held h using (batch_id, seq, ticket_id) where c.state = 'uncertain'`); lost != uncertain {
		t.Errorf("%d of %d uncertain calls are not of the killed worker's", uncertain-lost, uncertain)
	}
}

func TestWorkerKilledAgainAndAgain(t *testing.T) {
	t.Parallel()
	binary := buildWorker(t, "")
	services := privateRedis(t)
	d := disturb(t, services.RedisURL)
	d.env["WORKER_LEASE"] = "3s"
	url := d.env["DATABASE_URL"]
	// While planning, at the first answers, in the middle, near the end.
	for _, at := range []string{
		`select count(*) > 0 from tickets where worker_id is not null`, `select count(*) > 0 from jobs where state = 'succeeded'`,
		`select count(*) >= 700 from jobs where state = 'succeeded'`, `select count(*) >= 1800 from jobs where state = 'succeeded'`,
	} {
		worker := d.worker(t, binary)
		await(t, at, func() bool { return storetest.Scalar[bool](t, url, at) })
		if err := worker.Process.Signal(syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		_ = worker.Wait()
	}
	d.worker(t, binary)
	d.verify(t)
}

func TestFlushedRedisLosesNothing(t *testing.T) {
	t.Parallel()
	services := privateRedis(t)
	d := disturb(t, services.RedisURL)
	url := d.env["DATABASE_URL"]
	d.run(t, process.Worker)
	o, err := redis.ParseURL(services.RedisURL)
	if err != nil {
		t.Fatal(err)
	}
	c := redis.NewClient(o)
	defer func() { _ = c.Close() }()
	for _, at := range []int64{200, 900, 1500} {
		await(t, "progress", func() bool {
			return storetest.Scalar[int64](t, url, `select count(*) from jobs where state = 'succeeded'`) >= at
		})
		if err := c.FlushAll(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
	}
	b := d.verify(t)
	if b.Stats.Calls != crashJobs {
		t.Errorf("%d calls, want %d", b.Stats.Calls, crashJobs)
	}
}

// privateRedis starts a Redis of the test's own, which may be flushed without harm to other tests.
func privateRedis(t *testing.T) *embedded.Services {
	t.Helper()
	storetest.Base(t) // skips where there are no servers for tests
	s, err := embedded.Start(context.Background(), embedded.Options{Ephemeral: true, DatabaseURL: "postgres://unused", Notify: func(l string) { t.Log(l) }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return s
}
