package jobs

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"pgregory.net/rapid"

	"batchwright/internal/gateway"
	"batchwright/internal/pricing"
	"batchwright/internal/store"
	"batchwright/internal/store/storetest"
)

// till is a service on a database of its own, with a project that sets prices.
type till struct {
	*Service
	t       testing.TB
	url     string
	project store.Project
}

func newTill(t testing.TB) *till {
	t.Helper()
	url := storetest.URL(t)
	db, err := store.Open(t.Context(), url, store.Options{MaxConns: 4})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	s := &till{Service: &Service{DB: db, Prices: pricing.Default(), Log: slog.New(slog.DiscardHandler)}, t: t, url: url}
	s.newProject()
	return s
}

func (s *till) newProject() {
	s.t.Helper()
	var err error
	if s.project, err = s.DB.CreateKey(s.t.Context(), uuid.NewString(), "k", "bw_x", [32]byte([]byte(uuid.NewString()))); err != nil {
		s.t.Fatal(err)
	}
}

func (s *till) set(provider, model, from string, r store.PriceRates) store.Price {
	s.t.Helper()
	p, err := s.SetPrice(s.t.Context(), s.project, store.Price{Provider: provider, Model: model, ValidFrom: date(s.t, from), Rates: r})
	if err != nil {
		s.t.Fatal(err)
	}
	return p
}

func date(t testing.TB, s string) time.Time {
	t.Helper()
	day, err := time.Parse(time.DateOnly, s)
	if err != nil {
		t.Fatal(err)
	}
	return day
}

// TestPostgresPricesAsGoDoes draws tables, and calls that they price, and compares the two ways of pricing them.
func TestPostgresPricesAsGoDoes(t *testing.T) {
	t.Parallel()
	s := newTill(t)
	rate := rapid.OneOf(rapid.Int64Range(0, maxPrice), rapid.Int64Range(0, 3))
	rates := rapid.Custom(func(t *rapid.T) pricing.Rates {
		return pricing.Rates{Input: rate.Draw(t, "input"), Output: rate.Draw(t, "output"), CacheRead: rate.Draw(t, "read"), CacheWrite: rate.Draw(t, "write")}
	})
	names := rapid.SampledFrom([]string{"m", "m-2026-02-28", "m-20260228", "m@20260228", "m-2026-02-30", "m-20261301", "m-2026-02-28-2026-02-28", "m@2026-02-28",
		"m-20190228", "-2026-02-28", "n", "n-2024-02-29", "n-2025-02-29", "*"})
	providers := rapid.SampledFrom([]string{"p", "q", "local", "simulator"})
	day := rapid.Custom(func(t *rapid.T) time.Time {
		return date(s.t, "2026-01-01").AddDate(0, 0, rapid.IntRange(0, 9).Draw(t, "day"))
	})
	row := rapid.Custom(func(t *rapid.T) pricing.Price {
		r := rates.Draw(t, "rates")
		p := pricing.Price{Provider: providers.Draw(t, "provider"), Model: names.Draw(t, "model"), ValidFrom: day.Draw(t, "from"),
			Input: r.Input, Output: r.Output, CacheRead: r.CacheRead, CacheWrite: r.CacheWrite}
		if rapid.Bool().Draw(t, "ends") {
			p.ValidTo = p.ValidFrom.AddDate(0, 0, rapid.IntRange(1, 5).Draw(t, "days"))
		}
		if rapid.Bool().Draw(t, "long") {
			p.LongFrom, p.Long = rapid.Int64Range(1, 2000).Draw(t, "above"), rates.Draw(t, "long rates")
		}
		return p
	})
	id := func(p pricing.Price) string { return p.Provider + p.Model + p.ValidFrom.String() }
	rapid.Check(t, func(rt *rapid.T) {
		s.newProject()
		base, err := pricing.New(rapid.SliceOfNDistinct(row, 0, 8, id).Draw(rt, "base")...)
		if err != nil {
			rt.Fatal(err)
		}
		s.Prices = base
		if err := s.PublishPrices(t.Context()); err != nil {
			rt.Fatal(err)
		}
		for _, p := range rapid.SliceOfNDistinct(row, 0, 4, id).Draw(rt, "own") {
			own := store.Price{Provider: p.Provider, Model: p.Model, ValidFrom: p.ValidFrom, Rates: store.PriceRates{Input: p.Input, Output: p.Output, CachedInput: p.CacheRead, CacheWrite: p.CacheWrite}}
			if !p.ValidTo.IsZero() {
				own.ValidTo = &p.ValidTo
			}
			if p.LongFrom > 0 {
				own.LongAboveTokens, own.Long = &p.LongFrom, &store.PriceRates{Input: p.Long.Input, Output: p.Long.Output, CachedInput: p.Long.CacheRead, CacheWrite: p.Long.CacheWrite}
			}
			if _, err := s.SetPrice(t.Context(), s.project, own); err != nil {
				rt.Fatal(err)
			}
		}
		of, err := s.of(t.Context(), s.project.ID)
		if err != nil {
			rt.Fatal(err)
		}
		tokens := rapid.OneOf(rapid.Int64Range(0, maxUsage), rapid.Int64Range(0, 1500))
		for range 10 {
			provider, model, at := providers.Draw(rt, "provider"), names.Draw(rt, "model"), day.Draw(rt, "at")
			u := pricing.Usage{Input: tokens.Draw(rt, "input"), CacheRead: tokens.Draw(rt, "read"), CacheWrite: tokens.Draw(rt, "write"), Output: tokens.Draw(rt, "output")}
			var want *int64
			if p, ok := of.Prices.Lookup(provider, model, at.Add(23*time.Hour)); ok {
				cost := p.Cost(u)
				want = &cost
			}
			got := storetest.Scalar[*int64](t, s.url, `select call_cost(p, $5, $6, $7, $8) from (select 1) o left join lateral price_at($1, $2, $3, $4) p on true`,
				s.project.ID, provider, model, at, u.Input+u.CacheRead+u.CacheWrite, u.CacheRead, u.CacheWrite, u.Output)
			if (got == nil) != (want == nil) || got != nil && *got != *want {
				rt.Fatalf("%s/%s on %s, %+v: Postgres says %v, Go %v", provider, model, at, u, show(got), show(want))
			}
		}
	})
}

func show(n *int64) string {
	if n == nil {
		return "unknown"
	}
	return fmt.Sprint(*n)
}

func TestNoCallIsReservedForByAnOlderPrice(t *testing.T) {
	t.Parallel()
	url := storetest.URL(t)
	db, err := store.Open(t.Context(), url, store.Options{MaxConns: 8})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	b := newBank(t, db, url, 2, 100)
	s := &Service{DB: db, Prices: pricing.Default(), Log: slog.New(slog.DiscardHandler)}
	project := store.Project{ID: b.project, KeyID: b.key}
	if _, err := s.CreateBudget(t.Context(), project, NewBudget{Scope: "project", Period: "total", LimitMicrousd: 1_000_000}); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var tasks []*task
	for i := range 2 {
		w := b.worker()
		done := make(chan struct{})
		go func() { defer close(done); w.intents.run(ctx) }()
		t.Cleanup(func() { w.intents.close(); <-done })
		id, first := b.ticket(w, b.batches[i], 50)
		tasks = append(tasks, &task{w: w, batch: &batch{Batch: store.Batch{ID: b.batches[i]}}, lease: &lease{ticket: store.Ticket{ID: id}}, job: store.Claimed{Seq: first}})
	}
	number := int32(0)
	reserve := func(task *task) (reserved, cost int64) {
		t.Helper()
		number++
		in := store.Intent{CallID: store.CallID{BatchID: task.batch.ID, Seq: task.job.Seq, TicketID: task.lease.ticket.ID, Number: number}, Provider: "openai", Model: "gpt-4o-mini"}
		held, err := task.reserveIntent(t.Context(), in, func(prices *pricing.Table, governed bool) (int64, error) {
			p, ok := prices.Lookup("openai", "gpt-4o-mini", time.Now())
			if !ok || !governed {
				t.Errorf("price known: %v, governed: %v", ok, governed)
			}
			return p.WorstCase(1000, 1000), nil
		})
		if err != nil {
			t.Fatal(err)
		}
		reserved = storetest.Scalar[int64](t, url, `select reserved_microusd from calls where batch_id = $1 and seq = $2 and number = $3`, in.BatchID, in.Seq, number)
		p, _ := held.prices().Lookup("openai", "gpt-4o-mini", time.Now())
		return reserved, p.Cost(pricing.Usage{Input: 1000, Output: 1000})
	}
	for _, task := range tasks {
		if reserved, cost := reserve(task); reserved != 750 || cost != 750 { // 1000 x 0.15 + 1000 x 0.6
			t.Fatalf("by the server's price: %d, %d", reserved, cost)
		}
	}
	set, err := s.SetPrice(t.Context(), project, store.Price{Provider: "openai", Model: "gpt-4o-mini", ValidFrom: date(t, "2026-01-01"),
		Rates: store.PriceRates{Input: 1_000_000, Output: 2_000_000, CachedInput: 1_000_000, CacheWrite: 1_000_000}})
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range tasks {
		if reserved, cost := reserve(task); reserved != 3000 || cost != 3000 {
			t.Errorf("right after the price was set: %d, %d", reserved, cost)
		}
	}
	if err := s.DeletePrice(t.Context(), b.project, set.ID); err != nil {
		t.Fatal(err)
	}
	if reserved, _ := reserve(tasks[0]); reserved != 750 {
		t.Errorf("right after it was deleted: %d", reserved)
	}
	if wrong := b.violations(); len(wrong) > 0 {
		t.Error(wrong)
	}
}

// end makes a finished batch with a job for every call or two, as the ledger would have it.
func (s *till) end(jobs int) uuid.UUID {
	s.t.Helper()
	id := uuid.Must(uuid.NewV7())
	for _, sql := range []string{
		`insert into batches (id, project_id, name, kind, state, route, params, on_invalid, cache, request_sha256, total_jobs, next_seq, started_at, api_key_id)
			values ($1, $2, '', 'generate', 'running', '{}', '{}', 'refuse', 'use', '', $3, $3 + 1, now(), $4)`,
		// Of known, reported and unknown costs, hits, errors and lost ones; two calls in every third job.
		`insert into calls (batch_id, seq, ticket_id, number, started_at, settled_at, reserved_microusd, cost_microusd, input_tokens, cached_input_tokens,
			cache_write_tokens, output_tokens, step, state, provider, model, error_class, gateway_cache_status)
		select $1, s, 1, n, t, case when s % 7 <> 6 then t end, 5000, case s % 7 when 2 then null when 3 then 0 when 4 then 0 when 6 then null else 100 + s end,
			case when s % 7 not in (3, 4, 6) then 1000 + s end, case when s % 7 not in (3, 4, 6) then s % 50 end, case when s % 7 not in (3, 4, 6) then s % 9 end,
			case when s % 7 not in (3, 4, 6) then 10 * n end, 0, case when s % 7 = 6 then 'uncertain' else 'settled' end,
			'openai', case s % 7 when 2 then 'unheard-of' else 'gpt-4o-mini' end, case when s % 7 = 3 then 'server' end, case when s % 7 = 4 then 'HIT' end
		from generate_series(1, $3::int) s, generate_series(1, case when s % 3 = 0 then 2 else 1 end) n, lateral (select now() - s % 5 * interval '1 day' as t) d
		where $2::uuid is not null and $4::uuid is not null`,
		`insert into call_notes (batch_id, seq, ticket_id, number, cost_reported) select batch_id, seq, ticket_id, number, true from calls
			where batch_id = $1 and seq % 7 = 5 and $2::uuid is not null and $3::int > 0 and $4::uuid is not null`,
		`insert into jobs (batch_id, seq, state, finished_at, error_class, attempts, calls, input_tokens, cached_input_tokens, output_tokens, cost_microusd)
		select batch_id, seq, 'failed', now(), 'server', 1, count(*), coalesce(sum(input_tokens), 0), coalesce(sum(cached_input_tokens), 0),
			coalesce(sum(output_tokens), 0), case when count(cost_microusd) = count(*) then sum(cost_microusd) end from calls
		where batch_id = $1 and $2::uuid is not null and $3::int > 0 and $4::uuid is not null group by 1, 2`,
		`update batches b set state = 'completed', finished_at = now(), succeeded_jobs = 0, failed_jobs = $3, cancelled_jobs = 0, result_hits = 0, coalesced = 0,
			gateway_hits = 0, misses = 0, bypassed = 0, calls = c.calls, uncertain_calls = c.uncertain, unpriced_calls = c.unpriced, input_tokens = c.input,
			cached_input_tokens = c.cached, output_tokens = c.output, cost_microusd = c.cost
		from (select count(*) as calls, count(*) filter (where state = 'uncertain') as uncertain, count(*) filter (where state = 'settled' and cost_microusd is null) as unpriced,
			sum(input_tokens) as input, sum(cached_input_tokens) as cached, sum(output_tokens) as output, sum(cost_microusd) as cost from calls where batch_id = $1) c
		where b.id = $1 and b.project_id = $2 and $4::uuid is not null`,
	} {
		storetest.Exec(s.t, s.url, sql, id, s.project.ID, int32(jobs), s.project.KeyID)
	}
	return id
}

func (s *till) mustBalance() {
	s.t.Helper()
	if wrong := storetest.Rows[string](s.t, s.url, `select kind || ': ' || detail from reports.ledger_check`); len(wrong) > 0 {
		s.t.Fatalf("the books don't balance: %v", wrong)
	}
}

func (s *till) cost() int64 {
	s.t.Helper()
	return storetest.Scalar[int64](s.t, s.url, `select sum(cost_microusd)::bigint from batches`)
}

func TestRepricingKeepsTheBooks(t *testing.T) {
	t.Parallel()
	s := newTill(t)
	ctx := t.Context()
	first, second := s.end(60), s.end(33)
	for _, b := range []NewBudget{{Scope: "project", Period: "total", LimitMicrousd: 20_000}, {Scope: "project", Period: "day", LimitMicrousd: 0},
		{Scope: "api_key", APIKeyID: "current", Period: "month", LimitMicrousd: 1_000_000}, {Scope: "batch", BatchID: first.String(), Period: "total", LimitMicrousd: 1}} {
		if _, err := s.CreateBudget(ctx, s.project, b); err != nil {
			t.Fatal(err)
		}
	}
	s.mustBalance()
	before := s.cost()
	s.set("openai", "unheard-of", "2020-01-01", store.PriceRates{Input: 3_000_000, Output: 7_000_000, CachedInput: 1, CacheWrite: 1})

	dry, err := s.Reprice(ctx, s.project, NewReprice{DryRun: true})
	if err != nil || dry.FinishedAt == nil || dry.Batches != 2 || dry.ChangedCalls == 0 || dry.UnknownBefore == 0 || dry.UnknownAfter != 0 || dry.ReportedCalls == 0 {
		t.Fatalf("%+v, %v", dry, err)
	}
	if s.cost() != before || dry.OldCostMicrousd != before {
		t.Errorf("the dry run says %d and leaves %d of %d", dry.OldCostMicrousd, s.cost(), before)
	}
	s.mustBalance()

	// A real run that is broken off after every part, and goes on elsewhere, with another model's calls left alone at first.
	wet := store.Reprice{ID: uuid.Must(uuid.NewV7()), ProjectID: s.project.ID, APIKeyID: s.project.KeyID, ToTime: time.Now().Add(time.Minute)}
	if err := s.DB.BeginReprice(ctx, wet); err != nil {
		t.Fatal(err)
	}
	parts := 0
	for wet.FinishedAt == nil {
		if wet, err = s.DB.RepriceSome(ctx, s.project.ID, wet.ID, 7); err != nil {
			t.Fatal(err)
		}
		s.mustBalance()
		parts++
	}
	if parts < 15 || wet.Calls != dry.Calls || wet.ChangedCalls != dry.ChangedCalls || wet.NewCostMicrousd != dry.NewCostMicrousd || wet.OldCostMicrousd != before || wet.Batches != 2 {
		t.Errorf("in %d parts %+v, the dry run said %+v", parts, wet, dry)
	}
	if s.cost() != dry.NewCostMicrousd {
		t.Errorf("cost %d, want %d", s.cost(), dry.NewCostMicrousd)
	}
	if n := storetest.Scalar[int64](t, s.url, `select count(*) from calls where seq % 7 = 5 and cost_microusd <> 100 + seq`); n > 0 {
		t.Errorf("%d costs that the provider reported are others now", n)
	}
	if n := storetest.Scalar[int64](t, s.url, `select count(*) from calls where seq % 7 in (3, 4) and cost_microusd <> 0`); n > 0 {
		t.Errorf("%d hits and refusals cost something now", n)
	}
	if n := storetest.Scalar[int64](t, s.url, `select count(*) from calls where state = 'uncertain' and cost_microusd is not null`); n > 0 {
		t.Errorf("%d lost calls have a cost", n)
	}

	again, err := s.Reprice(ctx, s.project, NewReprice{})
	if err != nil || again.ChangedCalls != 0 || again.NewCostMicrousd != wet.NewCostMicrousd {
		t.Errorf("again: %+v, %v", again, err)
	}
	// As of a day on which nothing was listed all costs are unknown, never nothing.
	day := date(t, "2019-01-01")
	none, err := s.Reprice(ctx, s.project, NewReprice{AsOf: &day})
	if err != nil || none.UnknownAfter == 0 || none.UnknownAfter != none.ChangedCalls {
		t.Errorf("%+v, %v", none, err)
	}
	s.mustBalance()
	if n := storetest.Scalar[int64](t, s.url, `select sum(unpriced_calls)::bigint from batches where id = any($1)`, []uuid.UUID{first, second}); n != none.UnknownAfter {
		t.Errorf("batches say %d calls are unpriced, %d are", n, none.UnknownAfter)
	}
	if back, err := s.Reprice(ctx, s.project, NewReprice{}); err != nil || back.NewCostMicrousd != wet.NewCostMicrousd || back.UnknownAfter != 0 {
		t.Errorf("%+v, %v", back, err)
	}
	s.mustBalance()

	other, err := s.DB.CreateKey(ctx, "other", "k", "bw_y", [32]byte{1})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.GoOn(ctx, other.ID, wet.ID); err == nil {
		t.Error("another project went on with it")
	}
	list, err := s.DB.Reprices(ctx, s.project.ID, nil, 10)
	if err != nil || len(list) != 5 || list[4].ID != dry.ID || !list[4].DryRun || list[3].APIKeyID != s.project.KeyID {
		t.Errorf("%+v, %v", list, err)
	}
}

// TestRepricingBalancesUnderAnyPrices sets prices at random and recomputes some of the calls, in parts of any size.
func TestRepricingBalancesUnderAnyPrices(t *testing.T) {
	t.Parallel()
	s := newTill(t)
	s.end(40)
	for _, period := range []string{"total", "day", "month"} {
		if _, err := s.CreateBudget(t.Context(), s.project, NewBudget{Scope: "project", Period: period, LimitMicrousd: 10_000}); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.PublishPrices(t.Context()); err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(rt *rapid.T) {
		rate := rapid.Int64Range(0, 20_000_000)
		model := rapid.SampledFrom([]string{"gpt-4o-mini", "unheard-of", "*"}).Draw(rt, "model")
		s.set("openai", model, "2026-01-01", store.PriceRates{Input: rate.Draw(rt, "in"), Output: rate.Draw(rt, "out"), CachedInput: rate.Draw(rt, "cached"), CacheWrite: rate.Draw(rt, "write")})
		r := store.Reprice{ID: uuid.Must(uuid.NewV7()), ProjectID: s.project.ID, APIKeyID: s.project.KeyID, ToTime: time.Now(), Model: rapid.SampledFrom([]string{"", "gpt-4o-mini"}).Draw(rt, "of"),
			FromTime: time.Now().AddDate(0, 0, -rapid.IntRange(0, 6).Draw(rt, "days"))}
		if err := s.DB.BeginReprice(t.Context(), r); err != nil {
			rt.Fatal(err)
		}
		size := rapid.Int32Range(1, 60).Draw(rt, "calls")
		for r.FinishedAt == nil {
			var err error
			if r, err = s.DB.RepriceSome(t.Context(), s.project.ID, r.ID, size); err != nil {
				rt.Fatal(err)
			}
		}
		s.mustBalance()
	})
}

func TestBadPricesAreRefused(t *testing.T) {
	t.Parallel()
	s := newTill(t)
	good := store.Price{Provider: "p", Model: "m", ValidFrom: date(t, "2026-01-02")}
	early, n := date(t, "2026-01-02"), int64(5)
	for field, spoil := range map[string]func(p *store.Price){
		"provider":     func(p *store.Price) { p.Provider = "" },
		"model":        func(p *store.Price) { p.Model = "a b" },
		"valid_from":   func(p *store.Price) { p.ValidFrom = time.Time{} },
		"valid_to":     func(p *store.Price) { p.ValidTo = &early },
		"rates":        func(p *store.Price) { p.Rates.Output = maxPrice + 1 },
		"batch":        func(p *store.Price) { p.Batch = &store.PriceRates{Input: -1} },
		"long_context": func(p *store.Price) { p.LongAboveTokens = &n },
	} {
		p := good
		spoil(&p)
		_, err := s.SetPrice(t.Context(), s.project, p)
		if e, ok := err.(*Error); !ok || e.Field != field {
			t.Errorf("%s: %v", field, err)
		}
	}
	one, err := s.SetPrice(t.Context(), s.project, good)
	if err != nil {
		t.Fatal(err)
	}
	two, err := s.SetPrice(t.Context(), s.project, good)
	if err != nil || two.ID != one.ID {
		t.Errorf("set again: %v, %v", two, err)
	}
	if err := s.DeletePrice(t.Context(), uuid.New(), one.ID); err == nil {
		t.Error("another project deleted it")
	}
}

func TestWhyACallsCostIsNotThatOfItsTokensIsKept(t *testing.T) {
	t.Parallel()
	url := storetest.URL(t)
	db, err := store.Open(t.Context(), url, store.Options{MaxConns: 4})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	b := newBank(t, db, url, 1, 10)
	w := b.worker()
	id, first := b.ticket(w, b.batches[0], 10)
	step := gateway.Step{Provider: "openai", Model: "gpt-4o-mini"}
	task := &task{w: w, batch: &batch{Batch: store.Batch{ID: b.batches[0]}}, lease: &lease{ticket: store.Ticket{ID: id}}, job: store.Claimed{Seq: first}}
	held := &reservation{draw: &draw{account: &account{prices: w.Prices}}}
	used := gateway.Usage{Known: true, Input: 1000, CacheRead: 1000, Output: 1000}
	charged := used
	charged.Cost = 7777
	for i, o := range []gateway.Outcome{
		{Provider: "openai", Usage: used},
		{Provider: "openai", Usage: charged},
		{Provider: "openai", Usage: used, CacheStatus: gateway.CacheHit},
		{Provider: "openai", CacheStatus: gateway.CacheHit},
	} {
		call := store.CallID{BatchID: b.batches[0], Seq: first, TicketID: id, Number: int32(i + 1)}
		storetest.Exec(t, url, `insert into calls (batch_id, seq, ticket_id, number, reserved_microusd, step, provider, model) values ($1, $2, $3, $4, 0, 0, 'openai', 'gpt-4o-mini')`,
			call.BatchID, call.Seq, call.TicketID, call.Number)
		task.record(call, []gateway.Step{step}, o, held)
	}
	if _, err := db.Settle(t.Context(), task.pending.calls, nil, nil, false); err != nil {
		t.Fatal(err)
	}
	got := storetest.Rows[string](t, url, `select format('%s: %s, %s/%s/%s, %s', number, cost_reported, replayed_input_tokens, replayed_cached_tokens, replayed_output_tokens, replayed_microusd)
		from call_notes order by number`)
	// 1000 x 0.15 + 1000 x 0.075 + 1000 x 0.60
	if want := []string{"2: t, //, ", "3: f, 2000/1000/1000, 825"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	storetest.Exec(t, url, `update batches set state = 'failed', started_at = now(), finished_at = now(), succeeded_jobs = 0 where id = $1`, b.batches[0])
	if _, err := db.PurgeBatch(t.Context(), b.project, b.batches[0], 100); err != nil {
		t.Fatal(err)
	}
	if n := storetest.Scalar[int64](t, url, `select count(*) from call_notes`); n != 0 {
		t.Errorf("%d notes outlive their calls", n)
	}
}
