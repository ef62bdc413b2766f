package bench

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"

	"batchwright/internal/gateway"
	"batchwright/internal/store"
)

// bodies are the requests that a worker sends for products(n, tag).
func bodies(n int, tag string) ([][]byte, error) {
	out := make([][]byte, n)
	for i := range out {
		step, err := gateway.NewStep("openai-compatible", "sim-1", &gateway.Chat{MaxTokens: 80, Messages: []gateway.Message{
			{Role: "system", Content: "You write product blurbs."}, {Role: "user", Content: "Write about " + product(tag, i) + "."}}}, nil)
		if err != nil {
			return nil, err
		}
		out[i] = step.Query
	}
	return out, nil
}

// caller is a bare net/http client with a transport tuned for many calls to one host.
type caller struct {
	http *http.Client
	url  string
}

func newCaller(addr string, concurrency int) *caller {
	return &caller{url: "http://" + addr + "/v1/chat/completions", http: &http.Client{Timeout: time.Minute, Transport: &http.Transport{
		MaxIdleConns: concurrency, MaxIdleConnsPerHost: concurrency, MaxConnsPerHost: concurrency,
		DisableCompression: true, ReadBufferSize: 4 << 10, WriteBufferSize: 4 << 10,
	}}}
}

func (c *caller) close() { c.http.CloseIdleConnections() }

// call returns the answer's bytes.
func (c *caller) call(ctx context.Context, body []byte) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.url, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	res, err := c.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("the provider answered with status %d", res.StatusCode)
	}
	return b, err
}

// all makes the calls, concurrency at a time, and returns how many a second that were.
func (c *caller) all(ctx context.Context, bodies [][]byte, concurrency int) (float64, error) {
	var next atomic.Int64
	g, ctx := errgroup.WithContext(ctx)
	began := time.Now()
	for range concurrency {
		g.Go(func() error {
			for i := next.Add(1) - 1; i < int64(len(bodies)); i = next.Add(1) - 1 {
				if _, err := c.call(ctx, bodies[i]); err != nil {
					return err
				}
			}
			return nil
		})
	}
	err := g.Wait()
	return float64(len(bodies)) / time.Since(began).Seconds(), err
}

const (
	groupSize  = 500 // rows of a grouped statement
	groupConns = 2
	answerSize = 222 // bytes, the mean of the simulator's answers
)

// statements is a database with jobs that are about to be called for.
type statements struct {
	db      *store.DB
	look    *pgxpool.Pool
	project uuid.UUID
	drop    func(context.Context) error
}

func (l *lab) statements(ctx context.Context) (_ *statements, err error) {
	s := &statements{}
	url, _, drop, err := l.database(ctx)
	if err != nil {
		return nil, err
	}
	s.drop = drop
	defer func() {
		if err != nil {
			s.close(ctx)
		}
	}()
	if _, err := store.Migrate(ctx, url); err != nil {
		return nil, err
	}
	if s.look, err = connect(ctx, url, 1); err != nil {
		return nil, err
	}
	if s.db, err = store.Open(ctx, url, store.Options{MaxConns: groupConns}); err != nil {
		return nil, err
	}
	s.project = uuid.New()
	_, err = s.look.Exec(ctx, `insert into projects (id, name) values ($1, 'ceiling')`, s.project)
	return s, err
}

func (s *statements) close(ctx context.Context) {
	if s.db != nil {
		s.db.Close()
	}
	if s.look != nil {
		s.look.Close()
	}
	_ = s.drop(context.WithoutCancel(ctx)) // the server goes with its data
}

// runningBatch, its tickets and its jobs: as they are when a worker has claimed everything.
const (
	runningBatch = `insert into batches (id, project_id, name, kind, state, route, params, on_invalid, cache, request_sha256, total_jobs, next_seq, started_at)
values ($1, $2, '', 'generate', 'running', '{}', '{}', 'refuse', 'use', '', $3, $3 + 1, now())`
	claimedTickets = `insert into tickets (batch_id, purpose, first_seq, last_seq, jobs, worker_id, lease_until)
select $1, 'run', s, least(s + $3 - 1, $2), least(s + $3 - 1, $2) - s + 1, gen_random_uuid(), now() + interval '1 hour' from generate_series(1, $2, $3) s
returning id, first_seq, last_seq`
	runningJobs = `insert into jobs (batch_id, seq, state, ticket_id, key)
select $1, s, 'running', t.id, sha256(convert_to($1::uuid::text || s, 'UTF8')) from tickets t, generate_series(t.first_seq, t.last_seq) s where t.batch_id = $1`
)

// span is a claimed ticket.
type span struct {
	ID       int64
	FirstSeq int32
	LastSeq  int32
}

// all writes an intent for each of n jobs and settles each, in sets, and nothing else. It returns jobs a second.
func (s *statements) all(ctx context.Context, n int) (float64, error) {
	batch := uuid.New()
	if _, err := s.look.Exec(ctx, runningBatch, batch, s.project, n); err != nil {
		return 0, err
	}
	rows, _ := s.look.Query(ctx, claimedTickets, batch, n, groupSize) // the error comes back from CollectRows
	spans, err := pgx.CollectRows(rows, pgx.RowToStructByPos[span])
	if err != nil {
		return 0, err
	}
	if _, err := s.look.Exec(ctx, runningJobs, batch); err != nil {
		return 0, err
	}
	if _, err := s.look.Exec(ctx, `vacuum analyze`); err != nil {
		return 0, err
	}
	sets := make([]set, len(spans))
	for i, sp := range spans {
		sets[i] = s.set(batch, sp)
	}
	var next atomic.Int64
	g, gctx := errgroup.WithContext(ctx)
	began := time.Now()
	for range groupConns {
		g.Go(func() error {
			for i := next.Add(1) - 1; i < int64(len(sets)); i = next.Add(1) - 1 {
				if err := sets[i].write(gctx, s.db); err != nil {
					return err
				}
			}
			return nil
		})
	}
	err = g.Wait()
	return float64(n) / time.Since(began).Seconds(), err
}

// set is what two statements write.
type set struct {
	intents  []store.Intent
	draws    []store.Draw
	outcomes []store.Outcome
	answers  []store.Completion
	jobs     []store.Settlement
}

func (s *statements) set(batch uuid.UUID, sp span) set {
	const provider, model = "simulator", "sim-1"
	cost := int64(17)
	output := "[simulated] " + strings.Repeat("prose ", answerSize/6)
	out := set{draws: []store.Draw{{BatchID: batch, ProjectID: s.project}}}
	for seq := sp.FirstSeq; seq <= sp.LastSeq; seq++ {
		id := store.CallID{BatchID: batch, Seq: seq, TicketID: sp.ID, Number: 1}
		key := sha256.Sum256(fmt.Appendf(nil, "%s%d", batch, seq))
		out.intents = append(out.intents, store.Intent{CallID: id, Provider: provider, Model: model, ReservedMicrousd: cost})
		out.outcomes = append(out.outcomes, store.Outcome{CallID: id, Provider: provider, Model: model, FinishReason: "stop", HTTPStatus: http.StatusOK,
			InputTokens: 50, OutputTokens: 55, UsageKnown: true, CostMicrousd: &cost, Latency: time.Millisecond})
		out.answers = append(out.answers, store.Completion{ProjectID: s.project, Key: key, Model: model, Provider: provider, AnsweredBy: model, Format: "text",
			Output: output[:answerSize], InputTokens: 50, OutputTokens: 55, CostMicrousd: &cost})
		out.jobs = append(out.jobs, store.Settlement{ProjectID: s.project, BatchID: batch, Seq: seq, TicketID: sp.ID, State: "succeeded", Counted: true,
			ResultKey: key[:], CacheStatus: "miss", Provider: provider, Model: model, Calls: 1, InputTokens: 50, OutputTokens: 55, CostMicrousd: &cost})
	}
	slices.SortFunc(out.answers, func(a, b store.Completion) int { return bytes.Compare(a.Key[:], b.Key[:]) })
	return out
}

func (s set) write(ctx context.Context, db *store.DB) error {
	allowed, _, err := db.InsertIntents(ctx, s.intents, s.draws)
	if err == nil && len(allowed) != len(s.intents) {
		err = fmt.Errorf("%d of %d intents were allowed", len(allowed), len(s.intents))
	}
	if err != nil {
		return err
	}
	done, err := db.Settle(ctx, s.outcomes, s.answers, s.jobs, false)
	if err == nil && len(done) != len(s.jobs) {
		err = fmt.Errorf("%d of %d jobs were settled", len(done), len(s.jobs))
	}
	return err
}
