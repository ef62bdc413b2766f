package store

import (
	"context"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgtype"
)

const invalidOutput = `-- name: InvalidOutput
select o.output from invalid_outputs o join batches b on b.id = o.batch_id join jobs j on j.batch_id = o.batch_id and j.seq = o.seq
where b.project_id = $1 and o.batch_id = $2 and o.seq = $3 and j.error_class = 'invalid_output'`

// InvalidOutput returns the answer for which a job failed as invalid_output, or ErrNotFound.
func (r Reader) InvalidOutput(ctx context.Context, project, batch uuid.UUID, seq int32) (string, error) {
	return scalar[string](ctx, r.q, invalidOutput, project, batch, seq)
}

// rawColumns are the arguments of PutInvalidOutputs; nil when no job has such an answer.
func rawColumns(in []Settlement) []any {
	var batch []pgtype.UUID
	var seq []int32
	var ticket []int64
	var output []string
	for i := range in {
		if s := &in[i]; s.RawOutput != "" {
			batch, seq, ticket, output = append(batch, uuidOf(s.BatchID)), append(seq, s.Seq), append(ticket, s.TicketID), append(output, s.RawOutput)
		}
	}
	if batch == nil {
		return nil
	}
	return []any{batch, seq, ticket, output}
}
