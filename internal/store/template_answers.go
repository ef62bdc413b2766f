package store

import (
	"context"

	"github.com/google/uuid"
)

// Keys of batches without the cache are their own: no look-up finds them.
const templateAnswers = `-- name: TemplateAnswers
with keys as materialized (
    select j.result_key as key from batches b join jobs j on j.batch_id = b.id
    where b.project_id = $1 and b.template_id = any($2::uuid[]) and b.cache <> 'off' and j.state = 'succeeded'
    except
    select j.result_key from batches b join jobs j on j.batch_id = b.id
    where b.project_id = $1 and b.template_id = any($3::uuid[]) and j.state = 'succeeded')
select count(*) as results, coalesce(sum(c.cost_microusd), 0)::bigint as cost_microusd, count(*) filter (where c.cost_microusd is null) as unpriced
from keys k cross join lateral (select cost_microusd from completions where project_id = $1 and key = k.key order by generation desc limit 1) c`

// TemplateAnswers counts cached answers and what they had cost.
type TemplateAnswers struct {
	Results      int64
	CostMicrousd int64 // as far as known
	Unpriced     int64 // answers of unknown cost
}

// TemplateAnswers counts the answers in the result cache that jobs with some versions of a template have, and jobs with some others have not.
func (r Reader) TemplateAnswers(ctx context.Context, project uuid.UUID, versions, others []uuid.UUID) (TemplateAnswers, error) {
	return one[TemplateAnswers](ctx, r.q, templateAnswers, project, versions, others)
}
