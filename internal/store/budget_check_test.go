package store_test

import (
	"context"
	"crypto/sha256"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"batchwright/internal/store/storetest"
)

// charged is the rule that the arm budget_charges of reports.ledger_check states, put plainly: each period of each budget reads its own calls.
const charged = `select g.id::text || ' ' || format('the period from %s says %s reserved and %s spent, its calls say %s and %s', p.starts_at,
		p.reserved_microusd + s.reserved, p.spent_microusd + s.spent, c.reserved, c.spent)
	from budgets g join budget_periods p on p.budget_id = g.id
	cross join lateral (select coalesce(sum(reserved_microusd), 0) as reserved, coalesce(sum(spent_microusd), 0) as spent
		from budget_slice_totals s where s.budget_id = p.budget_id and s.starts_at = p.starts_at) s
	cross join lateral (select coalesce(sum(c.reserved_microusd) filter (where c.state = 'intent'), 0) as reserved,
			coalesce(sum(coalesce(c.cost_microusd, c.reserved_microusd)) filter (where c.state <> 'intent'), 0) as spent
		from batches b join calls c on c.batch_id = b.id and c.started_at >= p.starts_at and c.started_at < p.ends_at
		where b.project_id = g.project_id and (g.api_key_id is null or g.api_key_id = b.api_key_id) and (g.batch_id is null or g.batch_id = b.id)) c
	where p.reserved_microusd + s.reserved <> c.reserved or p.spent_microusd + s.spent < c.spent
		or p.spent_microusd + s.spent > c.spent and not exists (select 1 from batches b where b.project_id = g.project_id
			and (g.api_key_id is null or g.api_key_id = b.api_key_id) and (g.batch_id is null or g.batch_id = b.id)
			and b.purged_at is not null and b.finished_at >= p.starts_at)
	order by 1`

func TestChargesOfBudgetsAreCheckedPeriodByPeriod(t *testing.T) {
	t.Parallel()
	b := setUp(t)
	for key, project := range []string{"p", "p", "q"} { // the project has three keys, another one has one
		if _, err := b.db.CreateKey(t.Context(), project, "k", "bw_x", sha256.Sum256([]byte{byte(key)})); err != nil {
			t.Fatal(err)
		}
	}
	for _, sql := range []string{
		`insert into batches (id, project_id, api_key_id, name, kind, state, route, params, on_invalid, cache, request_sha256)
			select md5(k.id::text || n)::uuid, k.project_id, case when n < 4 then k.id end, '', 'chat', 'running', '{}', '{}', 'skip', 'use', '' from api_keys k, generate_series(1, 4) n`,
		// Every six hours for twelve days, so that many start at the edge of a day somewhere.
		`insert into calls (batch_id, seq, ticket_id, number, started_at, settled_at, reserved_microusd, cost_microusd, input_tokens, cached_input_tokens, output_tokens, step, state, provider, model)
			select b.id, n, 1, 1, '2026-11-24 23:00Z'::timestamptz + n * interval '6 hours', case when n % 5 > 1 then now() end, 1000 + n, case when n % 5 > 1 then n * n end, 1, 0, 1, 0,
			case n % 5 when 0 then 'intent' when 1 then 'uncertain' else 'settled' end, 'p', 'm' from batches b, generate_series(1, 48) n`,
		`insert into budgets (id, project_id, scope, api_key_id, batch_id, name, period, time_zone, limit_microusd)
			select gen_random_uuid(), s.project_id, s.scope, s.api_key_id, s.batch_id, '', p.period, z.zone, 1000000000000
			from (select id as project_id, 'project' as scope, null::uuid as api_key_id, null::uuid as batch_id from projects
				union all select project_id, 'api_key', id, null from api_keys
				union all select project_id, 'batch', null, id from batches) s,
			unnest('{total,day,month}'::text[]) p(period), unnest('{UTC,Europe/Berlin,Asia/Kolkata}'::text[]) z(zone)`,
		`insert into budget_periods (budget_id, starts_at, ends_at, ceiling_microusd)
			select distinct g.id, d.starts_at, d.ends_at, g.limit_microusd
			from budgets g, generate_series('2026-11-26Z'::timestamptz, '2026-12-09Z', '1 day') at, budget_period(g.period, g.time_zone, at) d`,
		`insert into budget_slices (budget_id, starts_at, ends_at, worker_id, granted_microusd)
			select budget_id, starts_at, ends_at, '` + b.worker.ID.String() + `', 0 from budget_periods where starts_at = '2026-12-01Z'`,
		`insert into budget_tallies (slice_id, writer, reserved_microusd, spent_microusd) select id, w, 10 * w, -w from budget_slices, generate_series(1, 2) w`,
		`update budget_periods p set reserved_microusd = n[3]::bigint - n[1]::bigint, spent_microusd = n[4]::bigint - n[2]::bigint
			from (select split_part(r, ' ', 1)::uuid as id, regexp_match(r, 'from (.*) says')  as starts_at, regexp_match(r, 'says (-?\d+) reserved and (-?\d+) spent, its calls say (-?\d+) and (-?\d+)') as n
				from (` + strings.TrimSuffix(charged, "order by 1") + `) c(r)) c
			where p.budget_id = c.id and p.starts_at = c.starts_at[1]::timestamptz`,
		`analyze`,
	} {
		storetest.Exec(t, b.url, sql)
	}
	conn, err := pgx.Connect(t.Context(), b.url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.Background()) }()
	for _, c := range []struct {
		says, sql string
		sound     bool
	}{
		{"nothing", `select 1`, true},
		{"too much spent", `update budget_periods set spent_microusd = spent_microusd + 1 where starts_at = '2026-11-28Z'`, false},
		{"too little spent", `update budget_periods set spent_microusd = spent_microusd - 1 where starts_at = '2026-11-27 23:00Z'`, false},
		{"too much reserved", `update budget_periods set reserved_microusd = reserved_microusd + 1 where starts_at = '-infinity'`, false},
		{"too little reserved", `update budget_tallies set reserved_microusd = reserved_microusd - 1 where writer = 2`, false},
		{"a call at the last moment of a day", `update calls set started_at = started_at - interval '1 microsecond' where started_at = '2026-12-01Z' or started_at = '2026-11-30 23:00Z'`, false},
		{"calls that are gone", `delete from calls where seq = 7`, false},
		{"calls that nobody counted", `update calls set cost_microusd = cost_microusd + 5 where seq in (3, 30)`, false},
		{"calls that were purged", `with d as (delete from calls where seq = 7) update batches set state = 'cancelled', succeeded_jobs = 0, finished_at = now(), purged_at = now()`, true},
		{"a purge before the period", `with d as (delete from calls where seq > 44) update batches set state = 'cancelled', succeeded_jobs = 0, finished_at = '2026-12-05Z', purged_at = now()`, false},
		{"intents that were purged", `with d as (delete from calls where seq = 5) update batches set state = 'cancelled', succeeded_jobs = 0, finished_at = now(), purged_at = now()`, false},
	} {
		tx, err := conn.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tx.Exec(t.Context(), c.sql); err != nil {
			t.Fatalf("%s: %v", c.says, err)
		}
		said := func(sql string, args ...any) []string {
			rows, _ := tx.Query(t.Context(), sql, args...)
			out, err := pgx.CollectRows(rows, pgx.RowTo[string])
			if err != nil {
				t.Fatalf("%s: %v", c.says, err)
			}
			return out
		}
		const seen = `select budget_id::text || ' ' || detail from reports.ledger_check where kind = 'budget_charges' `
		got, want := said(seen+`order by 1`), said(charged)
		if !slices.Equal(got, want) || (len(got) == 0) != c.sound {
			t.Errorf("%s: the view says %d things, the rule %d; sound should be %t", c.says, len(got), len(want), c.sound)
		}
		// Restricted, as the API and people ask.
		parts := said(seen + `and batch_id is null`)
		for _, id := range said(`select id::text from batches`) {
			parts = append(parts, said(seen+`and batch_id = $1::text::uuid`, id)...)
		}
		slices.Sort(parts)
		if !slices.Equal(parts, want) {
			t.Errorf("%s: batch by batch it says %d things, want %d", c.says, len(parts), len(want))
		}
		if err := tx.Rollback(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}
