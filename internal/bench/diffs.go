package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/google/uuid"
)

const diffGrowth = 64 // MiB that the API may take for a diff, whatever its size

// nights fills the database with two finished batches of n jobs, of which the second asked one in a hundred anew.
func (s *system) nights(ctx context.Context, n int) (ids [2]uuid.UUID, err error) {
	if err := s.db.QueryRow(ctx, `select md5('before')::uuid, md5('after')::uuid`).Scan(&ids[0], &ids[1]); err != nil {
		return ids, err
	}
	for _, sql := range []string{
		`insert into batches (id, project_id, name, kind, state, template_id, route, params, on_invalid, cache, request_sha256, total_jobs, started_at, finished_at, succeeded_jobs,
			failed_jobs, cancelled_jobs, result_hits, coalesced, gateway_hits, misses, bypassed, calls, uncertain_calls, unpriced_calls, input_tokens, cached_input_tokens,
			output_tokens, cost_microusd)
			select md5(night)::uuid, t.project_id, night, 'generate', 'completed', t.id, '{}', '{}', 'skip', 'use', '', $1::int, now(), now(), $1::int, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0
			from templates t, unnest('{before,after}'::text[]) night`,
		`insert into inputs (batch_id, seq, custom_id, input) select md5(night)::uuid, g, 'item-' || g,
			json_build_object('name', 'product ' || case when night = 'after' and g % 100 = 0 then 'new ' else '' end || g)
			from unnest('{before,after}'::text[]) night, generate_series(1, $1::int) g`,
		`insert into completions (project_id, key, input_tokens, cached_input_tokens, output_tokens, cost_microusd, format, model, provider, answered_by, output)
			select p.id, sha256((night || g)::bytea), 700, 0, 90, 100, 'text', 'm', 'p', 'm-2026', repeat(md5(night || g) || ' ', 8)
			from projects p, unnest('{before,after}'::text[]) night, generate_series(1, $1::int) g where night = 'before' or g % 100 = 0`,
		`insert into jobs (batch_id, seq, attempts, state, cache_status, finished_at, result_key, result_generation, calls, input_tokens, output_tokens, cost_microusd, provider, model)
			select md5(night)::uuid, g, 1, 'succeeded', case when made then 'miss' else 'result_hit' end, now(),
			sha256((case when made then night else 'before' end || g)::bytea), 1, made::int, 700 * made::int, 90 * made::int, 100 * made::int, 'p', 'm'
			from unnest('{before,after}'::text[]) night, generate_series(1, $1::int) g, lateral (select night = 'before' or g % 100 = 0 as made) m`,
	} {
		if _, err := s.db.Exec(ctx, sql, n); err != nil {
			return ids, fmt.Errorf("%w: %.60s", err, sql)
		}
	}
	_, err = s.db.Exec(ctx, `vacuum analyze`)
	return ids, err
}

// overDiffs is R2: how long it takes to compare two nights of a million jobs, over REST.
func overDiffs(ctx context.Context, l *lab) (_ []line, err error) {
	n := l.size(1_000_000, 20_000)
	s, err := l.system(ctx, nil)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.close(ctx)) }()
	l.say(fmt.Sprintf("make two batches of %d finished jobs", n))
	ids, err := s.nights(ctx, n)
	if err != nil {
		return nil, err
	}
	before, after := ids[0].String(), ids[1].String()
	items := line{name: "R2 jobs/s, diff, a line a job", target: 0.2, note: "`GET /v1/batches/{a}/diff/{b}?format=ndjson` of two batches whose answers are the same but for one in a " +
		"hundred. The ceiling is a COPY TO of the same columns of the same pairs."}
	summary := line{name: "R2 jobs/s, summary of a diff", target: 0.3, note: "`GET /v1/batches/{a}/diff/{b}/summary` of the same, beside the same COPY TO."}
	memory := line{name: "R2 MiB, growth of the API while diffing", target: 1, atMost: true, note: "Its peak resident memory during both over what it was before."}
	for range l.rounds {
		if err := s.startAPI(ctx); err != nil {
			return nil, err
		}
		rss := peakRSS(s.api.pid())
		ceiling, err := s.copyPairs(ctx, n, ids)
		if err != nil {
			return nil, err
		}
		began, rows, changed := time.Now(), 0, 0
		for i, err := range s.client.Diff(ctx, before, after, "", false) {
			if err != nil {
				return nil, err
			}
			rows++
			if i.Status == "changed" {
				changed++
			}
		}
		if rows != n || changed != n/100 {
			return nil, fmt.Errorf("%d items of %d, %d of them changed", rows, n, changed)
		}
		items.read(float64(n)/time.Since(began).Seconds(), ceiling, time.Since(began).Round(10*time.Millisecond).String(), nil)
		began = time.Now()
		sum, err := s.client.DiffSummary(ctx, before, after)
		if err != nil || sum.Statuses["same"] != int64(n-n/100) {
			return nil, fmt.Errorf("the summary says %v: %w", sum.Statuses, err)
		}
		summary.read(float64(n)/time.Since(began).Seconds(), ceiling, time.Since(began).Round(10*time.Millisecond).String(), nil)
		memory.read(peakRSS(s.api.pid())-rss, diffGrowth, "", nil)
	}
	return []line{items, summary, memory}, nil
}

// copyPairs is the ceiling: what a diff needs of each pair, as Postgres writes it.
func (s *system) copyPairs(ctx context.Context, n int, ids [2]uuid.UUID) (float64, error) {
	c, err := s.db.Acquire(ctx)
	if err != nil {
		return 0, err
	}
	defer c.Release()
	began := time.Now()
	tag, err := c.Conn().PgConn().CopyTo(ctx, io.Discard, `copy (select ia.seq, ib.seq, ia.custom_id, ia.input::text = ib.input::text, ja.state, jb.state, ja.cache_status, jb.cache_status,
		ja.error_class, jb.error_class, ja.provider, jb.provider, ja.model, jb.model, ja.cost_microusd, jb.cost_microusd, ca.answered_by, cb.answered_by, ca.output = cb.output
		from inputs ia join jobs ja on ja.batch_id = ia.batch_id and ja.seq = ia.seq
		join inputs ib on ib.batch_id = '`+ids[1].String()+`' and ib.seq = ia.seq join jobs jb on jb.batch_id = ib.batch_id and jb.seq = ib.seq
		join batches b on b.id = ia.batch_id
		left join completions ca on ca.project_id = b.project_id and ca.key = ja.result_key and ca.generation = ja.result_generation
		left join completions cb on cb.project_id = b.project_id and cb.key = jb.result_key and cb.generation = jb.result_generation
		where ia.batch_id = '`+ids[0].String()+`' order by ia.seq) to stdout`)
	if err == nil && int(tag.RowsAffected()) != n {
		err = fmt.Errorf("copied %d rows, want %d", tag.RowsAffected(), n)
	}
	return float64(n) / time.Since(began).Seconds(), err
}
