package store

import (
	"context"
	"errors"
	"time"

	"github.com/google/uuid"
)

const (
	// The edges keep Postgres from reading the other batch as a whole, for each range, in order to join it.
	matchByPosition = `-- name: MatchByPosition
with m as materialized (select seq, custom_id from inputs where batch_id = $1 and seq > $2 order by seq limit $3)
select m.seq, m.custom_id, x.seq as other
from m left join inputs x on x.batch_id = $4 and x.seq >= (select min(seq) from m) and x.seq <= (select max(seq) from m)
    and x.seq = m.seq and x.custom_id is not distinct from m.custom_id
order by m.seq`
	// "is true" keeps Postgres from making a join of it, for which it would compare all with all when it knows nothing of the tables: the ids
	// are hashed, and each row of the range is looked up once. Of two jobs with an id the first one has it, the other is invalid for it.
	matchByCustomID = `-- name: MatchByCustomID
select custom_id, min(seq) as seq from inputs
where batch_id = $1 and seq between $2 and $3 and (custom_id in (select unnest($4::text[]))) is true group by custom_id`
	// Answers are read only where they may differ or it is asked who gave them, and in full only for their texts: a key that is null is looked
	// up nowhere, while a condition beside the key would be tested on the row that was found.
	diffJobs = `-- name: DiffJobs
select ia.seq as before_seq, ib.seq as after_seq, coalesce(ib.custom_id, ia.custom_id) as custom_id,
    coalesce(ia.input::text is not distinct from ib.input::text and ia.document_sha256 is not distinct from ib.document_sha256
        and ia.invalid::text is not distinct from ib.invalid::text, false) as same_input,
    not d.differ as same_row, coalesce(not d.differ or ca.output = cb.output, false) as same_output,
    coalesce(ja.state, 'cancelled') as before_state, ja.cache_status as before_cache, ja.error_class as before_error, ja.provider as before_provider,
    ja.model as before_model, ca.answered_by as before_by, case when ja.seq is null then 0 else ja.cost_microusd end as before_cost,
    ca.created_at as before_made,
    coalesce(jb.state, 'cancelled') as after_state, jb.cache_status as after_cache, jb.error_class as after_error, jb.provider as after_provider,
    jb.model as after_model, case when d.differ then cb.answered_by else ca.answered_by end as after_by,
    case when jb.seq is null then 0 else jb.cost_microusd end as after_cost,
    case when $6 > 0 and ca.output <> cb.output then left(ca.output, $6 + 1) end as before_output,
    case when $6 > 0 and ca.output <> cb.output then left(cb.output, $6 + 1) end as after_output,
    coalesce(ca.format = 'json' and cb.format = 'json', false) as json
from unnest($4::int[], $5::int[]) with ordinality as p(a, b, ord)
left join inputs ia on ia.batch_id = $2 and ia.seq = p.a
left join inputs ib on ib.batch_id = $3 and ib.seq = p.b
left join jobs ja on ja.batch_id = $2 and ja.seq = p.a
left join jobs jb on jb.batch_id = $3 and jb.seq = p.b
cross join lateral (select ja.result_key is distinct from jb.result_key or ja.result_generation is distinct from jb.result_generation as differ) d
left join lateral (select c.* from completions c
    where c.project_id = $1 and c.key = case when $7 or d.differ then ja.result_key end and c.generation = ja.result_generation) ca on true
left join lateral (select c.* from completions c
    where c.project_id = $1 and c.key = case when d.differ then jb.result_key end and c.generation = jb.result_generation) cb on true
order by p.ord`
)

// Match is a job, and which one of another batch is the same.
type Match struct {
	Seq      int32
	CustomID *string
	Other    *int32 // nil: none
}

const (
	nearby   = 20_000        // positions around a range in which most of its jobs are found again
	furthest = 2_000_000_000 // more positions than a batch has
)

// Match pairs the next jobs of a batch behind after, at most limit, with those of another one: by custom id, and jobs without one by their
// position. No jobs: the batch has no more.
func (r Reader) Match(ctx context.Context, batch, other uuid.UUID, after int32, limit int) ([]Match, error) {
	rows, err := many[Match](ctx, r.q, matchByPosition, batch, after, limit, other)
	if err != nil || len(rows) == 0 {
		return nil, err
	}
	for _, in := range [][2]int32{{max(rows[0].Seq-nearby, 1), rows[len(rows)-1].Seq + nearby}, {1, furthest}} {
		var ids []string
		for _, m := range rows {
			if m.Other == nil && m.CustomID != nil {
				ids = append(ids, *m.CustomID)
			}
		}
		if len(ids) == 0 {
			break
		}
		found, err := many[struct {
			CustomID string
			Seq      int32
		}](ctx, r.q, matchByCustomID, other, in[0], in[1], ids)
		if err != nil {
			return nil, err
		}
		at := make(map[string]int32, len(found))
		for _, f := range found {
			at[f.CustomID] = f.Seq
		}
		for i := range rows {
			if rows[i].Other != nil || rows[i].CustomID == nil {
				continue
			}
			if seq, ok := at[*rows[i].CustomID]; ok {
				rows[i].Other = &seq
			}
		}
	}
	return rows, nil
}

// Pair names a job of each of two batches; nil for none.
type Pair struct{ Before, After *int32 }

// DiffRow is a pair of jobs side by side.
type DiffRow struct {
	BeforeSeq, AfterSeq            *int32
	CustomID                       *string
	SameInput, SameRow, SameOutput bool // SameRow: both have one row of the result cache, or none
	BeforeState, AfterState        string
	BeforeCache, AfterCache        *string
	BeforeError, AfterError        *string
	BeforeProvider, AfterProvider  *string
	BeforeModel, AfterModel        *string
	BeforeBy, AfterBy              *string // as the provider reported it
	BeforeCost, AfterCost          *int64
	BeforeMade                     *time.Time
	BeforeOutput, AfterOutput      *string // where they differ and were asked for, cut behind one character more
	JSON                           bool    // both are
}

// DiffOptions say how much is read of pairs.
type DiffOptions struct {
	Text   int  // characters of outputs that differ; 0 for none
	Detail bool // who answered, even where the answer is the same
}

// DiffJobs reads pairs of jobs of two batches of a project, in the order of the pairs.
func (r Reader) DiffJobs(ctx context.Context, before, after Batch, pairs []Pair, o DiffOptions) ([]DiffRow, error) {
	a, b := make([]*int32, len(pairs)), make([]*int32, len(pairs))
	for i, p := range pairs {
		a[i], b[i] = p.Before, p.After
	}
	rows, err := many[DiffRow](ctx, r.q, diffJobs, before.ProjectID, before.ID, after.ID, a, b, o.Text, o.Detail)
	if err == nil && len(rows) != len(pairs) {
		err = errors.New("store: jobs to compare are gone: was their batch purged?")
	}
	return rows, err
}
