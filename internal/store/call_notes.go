package store

import "github.com/jackc/pgx/v5/pgtype"

// CallNote says why what a call cost isn't what its tokens cost by the price table.
type CallNote struct {
	CostReported bool      // the provider said what it charged
	Replayed     *Replayed // the gateway's cache answered
}

// Replayed is what the call took that filled the gateway's cache, and what that would have cost now.
type Replayed struct {
	InputTokens       int64 // cached ones included
	CachedInputTokens int64
	OutputTokens      int64
	Microusd          *int64 // nil when unknown
}

const putCallNotes = `-- name: PutCallNotes
insert into call_notes (batch_id, seq, ticket_id, number, cost_reported, replayed_input_tokens, replayed_cached_tokens, replayed_output_tokens, replayed_microusd)
select * from unnest($1::uuid[], $2::int[], $3::bigint[], $4::int[], $5::bool[], $6::bigint[], $7::bigint[], $8::bigint[], $9::bigint[])
on conflict do nothing`

// noteColumns are the notes of calls, or nil when there are none.
func noteColumns(calls []Outcome) []any {
	var batch []pgtype.UUID
	var seq, number []int32
	var ticket []int64
	var reported []bool
	var input, cached, output, cost []*int64
	for i := range calls {
		c := &calls[i]
		if c.Note == nil {
			continue
		}
		batch, seq, ticket, number = append(batch, uuidOf(c.BatchID)), append(seq, c.Seq), append(ticket, c.TicketID), append(number, c.Number)
		reported = append(reported, c.Note.CostReported)
		var in, from, out, micro *int64
		if r := c.Note.Replayed; r != nil {
			in, from, out, micro = &r.InputTokens, &r.CachedInputTokens, &r.OutputTokens, r.Microusd
		}
		input, cached, output, cost = append(input, in), append(cached, from), append(output, out), append(cost, micro)
	}
	if batch == nil {
		return nil
	}
	return []any{batch, seq, ticket, number, reported, input, cached, output, cost}
}
