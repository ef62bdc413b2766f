package store

import (
	"context"
	"fmt"
	"hash/maphash"
	"slices"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// Duplicate says that two jobs of a submission have the same custom_id.
type Duplicate struct {
	Seq      int32
	FirstSeq int32
	CustomID string
}

const maxDuplicates = 100

// DuplicateError lists the first duplicates of a refused submission.
type DuplicateError struct{ Duplicates []Duplicate }

func (e *DuplicateError) Error() string {
	return fmt.Sprintf("store: %d duplicate custom ids", len(e.Duplicates))
}

const (
	findDuplicates = `-- name: FindDuplicates
select custom_id from inputs where batch_id = $1 and custom_id is not null group by custom_id having count(*) > 1 limit $2`
	listDuplicates = `-- name: ListDuplicates
select seq, first_seq, custom_id from (
    select seq, custom_id, min(seq) over (partition by custom_id) as first_seq from inputs where batch_id = $1 and custom_id = any($2::text[])) d
where seq <> first_seq order by seq limit $3`
	markDuplicates = `-- name: MarkDuplicates
with d as materialized (
    select ctid as row, seq, min(seq) over (partition by custom_id) as first_seq from inputs where batch_id = $1 and custom_id is not null)
update inputs i set invalid = json_build_object('code', 'duplicate_custom_id', 'field', 'custom_id',
    'message', format('custom_id is the same as that of job %s: give each job its own', d.first_seq))
from d where d.seq <> d.first_seq and i.ctid = d.row and i.invalid is null`
)

// settleDuplicates finds jobs with the custom_id of an earlier one: they refuse the batch, or become invalid when it skips bad lines.
func settleDuplicates(ctx context.Context, tx pgx.Tx, batch uuid.UUID, onInvalid string) error {
	if _, err := tx.Exec(ctx, `set local work_mem = '64MB'`); err != nil {
		return err
	}
	ids, err := column[string](ctx, tx, findDuplicates, batch, maxDuplicates)
	if err != nil || len(ids) == 0 {
		return err
	}
	if onInvalid == "skip" {
		_, err := tx.Exec(ctx, markDuplicates, batch)
		return err
	}
	dups, err := many[Duplicate](ctx, tx, listDuplicates, batch, ids, maxDuplicates)
	if err != nil {
		return err
	}
	return &DuplicateError{dups}
}

// idSet knows whether the custom ids of an upload are surely distinct, by a hash of each: then Postgres, which would sort them all, need not
// look. It takes eight bytes an id, and gives up where that would be too much.
type idSet struct {
	seed  maphash.Seed
	parts [idParts][]uint64 // by the hash's first byte: many small arrays grow and sort with little waste
	n     int
}

const (
	idParts = 256
	maxIDs  = 2_000_000
)

func (s *idSet) note(inputs []NewInput) {
	if s.n == 0 {
		s.seed = maphash.MakeSeed()
	}
	for i := range inputs {
		id := inputs[i].CustomID
		if id == nil {
			continue
		}
		if s.n++; s.n > maxIDs {
			s.parts = [idParts][]uint64{}
			return
		}
		h := maphash.String(s.seed, *id)
		s.parts[h>>56] = append(s.parts[h>>56], h)
	}
}

// distinct reports that no two ids are the same. False means that it isn't sure.
func (s *idSet) distinct() bool {
	if s.n > maxIDs {
		return false
	}
	for _, p := range s.parts {
		slices.Sort(p)
		for i := 1; i < len(p); i++ {
			if p[i] == p[i-1] {
				return false
			}
		}
	}
	return true
}
