package store

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// ErrSourceGone means that the inputs that were to be run again were purged.
var ErrSourceGone = errors.New("store: the inputs to run again are gone")

const (
	// Changes is the position before the first of a rerun's changes, while they are there apart from the jobs.
	Changes = 1_000_000_000
	// removed marks the row of a change that leaves a job out.
	removed = `{"code":"removed"}`
)

// Removed is what a change that leaves a job out has for a reason why it can't run.
func Removed() []byte { return []byte(removed) }

// CheckedInput is an input that is to be looked at again before it is copied.
type CheckedInput struct {
	Seq      int32
	CustomID *string
	Input    []byte
}

// Rerun says how a new batch gets the inputs of another one.
type Rerun struct {
	Source uuid.UUID
	Total  int32 // inputs that the source has
	// Check says why an input can't be copied, in the form of NewInput.Invalid; nil when it can. A nil Check passes all.
	Check func(in CheckedInput) (invalid []byte)
	// Checked is called when all were looked at; its error ends the rerun. There is one when Check found anything and the batch refuses bad lines.
	Checked func() error
	// Unknown is called with the custom ids of changes that leave jobs out which the source doesn't have; its error ends the rerun.
	Unknown func(ids []string) error
}

const (
	// A custom id that the source has twice means the first job: the other is invalid for it.
	matchChanges = `-- name: MatchChanges
with c as materialized (select seq, custom_id, coalesce(invalid->>'code' = 'removed', false) as removed from inputs where batch_id = $1 and seq > 1000000000)
select c.seq as change, c.custom_id, c.removed, min(s.seq) as seq
from c left join inputs s on s.batch_id = $2 and s.custom_id = c.custom_id
group by c.seq, c.custom_id, c.removed order by c.seq`
	// The lock keeps a purge from beginning before these rows are there to keep their documents.
	lockSource = `-- name: LockSource
select true from batches where id = $1 and purged_at is null and not (state = 'failed' and started_at is null) for share`
	// A replaced job's row comes from the changes, one that is left out has no change behind it.
	copyRange = `-- name: CopyRange
with k as materialized (select * from unnest($6::int[], $7::int[]) as k(seq, change)),
x as materialized (select * from unnest($8::int[], $9::text[]) as x(seq, invalid))
insert into inputs (batch_id, seq, custom_id, input, document_sha256, invalid)
select $1, ($5 + row_number() over (order by i.seq))::int, i.custom_id,
    case when k.seq is not null then c.input when x.seq is null then i.input end,
    case when k.seq is not null then c.document_sha256 when x.seq is null then i.document_sha256 end,
    case when k.seq is not null then c.invalid else coalesce(x.invalid::json, i.invalid) end
from inputs i left join k on k.seq = i.seq left join x on x.seq = i.seq
left join lateral (select c.input, c.document_sha256, c.invalid from inputs c where c.batch_id = $1 and c.seq = k.change) c on true
where i.batch_id = $2 and i.seq between $3 and $4 and coalesce(k.change, 1) <> 0`
	copyNew = `-- name: CopyNew
insert into inputs (batch_id, seq, custom_id, input, document_sha256, invalid)
select batch_id, ($3 + row_number() over (order by seq))::int, custom_id, input, document_sha256, invalid
from inputs where batch_id = $1 and seq = any($2::int[])`
	dropChanges = `-- name: DropChanges
delete from inputs where batch_id = $1 and seq > 1000000000`
	readToCheck = `-- name: ReadToCheck
select seq, custom_id, input from inputs where batch_id = $1 and seq between $2 and $3 and invalid is null order by seq`
)

// change is where a line of changes belongs.
type change struct {
	Change   int32
	CustomID *string
	Removed  bool
	Seq      *int32 // of the source's job; nil when it has none
}

// RerunBatch makes a batch of another one's inputs and issues its plan tickets. The chunks hold what differs, numbered from Changes + 1: an
// input with the custom id of one of the source takes its place, one that bears [Removed] leaves it out, and all else comes behind. Inputs
// are copied by Postgres, in bounded parts; documents are there already. seal gives the request's hash.
//
// Errors are those of [DB.CreateBatch] without duplicates, those of r's functions, ErrEmpty and ErrSourceGone. After any of them nothing is left, but
// after a fault and [ErrBroken] the batch is there and has failed.
func (db *DB) RerunBatch(ctx context.Context, nb NewBatch, r Rerun, chunks iter.Seq2[Chunk, error], seal func() [32]byte) (Batch, []Ticket, error) {
	u, err := db.begin(ctx, nb)
	if err != nil {
		return Batch{}, nil, err
	}
	u.counts = false // changes are no jobs yet
	refusal, err := u.receive(ctx, chunks)
	if err == nil && refusal == nil {
		c := &copying{upload: u, r: r, refuses: nb.OnInvalid == "refuse"}
		if refusal, err = c.run(ctx); err == nil && refusal == nil {
			u.ids = idSet{} // each was compared with all others
			b, tickets, err := u.finish(ctx, nb, func() (int32, [32]byte) { return c.total, seal() })
			if err == nil {
				return b, tickets, nil
			}
			return Batch{}, nil, u.end(ctx, nil, err)
		}
	}
	return Batch{}, nil, u.end(ctx, refusal, err)
}

// copying fills a new batch from another one.
type copying struct {
	*upload
	r     Rerun
	total int32 // rows that are there

	refuses, doomed bool

	at      []int32 // of the source, in order: jobs that are replaced or left out
	by      []int32 // by which change; 0 for left out
	fresh   []int32 // changes that come behind
	bad     []int32 // of the source's range at hand: what Check found
	reasons []string
}

func (c *copying) run(ctx context.Context) (refusal, err error) {
	if refusal, err = c.match(ctx); refusal != nil || err != nil {
		return refusal, err
	}
	for first := int32(1); first <= c.r.Total; first += PlanRange {
		last := min(first+PlanRange-1, c.r.Total)
		if err = c.check(ctx, first, last); err != nil {
			return nil, err
		}
		if c.doomed = c.doomed || len(c.bad) > 0 && c.refuses; c.doomed {
			continue // the others are looked at all the same, so that all the bad ones are named at once
		}
		if err = c.copy(ctx, first, last); err != nil {
			break
		}
	}
	if errors.Is(err, ErrSourceGone) {
		return err, nil
	}
	if err == nil && c.r.Checked != nil {
		refusal = c.r.Checked()
	}
	if err != nil || refusal != nil {
		return refusal, err
	}
	for part := range slices.Chunk(c.fresh, PlanRange) {
		if err := c.part(ctx, func(tx pgx.Tx) (int64, error) {
			tag, err := tx.Exec(ctx, copyNew, c.batch, part, c.total)
			return tag.RowsAffected(), err
		}); err != nil {
			return nil, err
		}
	}
	if c.changed {
		_, err = c.db.pool.Exec(ctx, dropChanges, c.batch)
	}
	if err == nil && c.total == 0 {
		refusal = ErrEmpty
	}
	return refusal, err
}

// match finds the jobs that the changes are of.
func (c *copying) match(ctx context.Context) (refusal, err error) {
	if !c.changed {
		return nil, nil
	}
	var all []change
	err = pgx.BeginFunc(ctx, c.db.pool, func(tx pgx.Tx) (err error) {
		if _, err = tx.Exec(ctx, hashOnly); err == nil { // fresh rows have no statistics
			all, err = many[change](ctx, tx, matchChanges, c.batch, c.r.Source)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	var unknown []string
	for _, ch := range all {
		switch {
		case ch.Seq == nil && ch.Removed:
			unknown = append(unknown, *ch.CustomID)
		case ch.Seq == nil:
			c.fresh = append(c.fresh, ch.Change)
		}
	}
	if len(unknown) > 0 {
		return c.r.Unknown(unknown), nil
	}
	all = slices.DeleteFunc(all, func(ch change) bool { return ch.Seq == nil })
	slices.SortFunc(all, func(a, b change) int { return int(*a.Seq - *b.Seq) })
	for _, ch := range all {
		by := ch.Change
		if ch.Removed {
			by = 0
		}
		c.at, c.by = append(c.at, *ch.Seq), append(c.by, by)
	}
	return nil, nil
}

// check looks at a range's inputs that stay.
func (c *copying) check(ctx context.Context, first, last int32) error {
	c.bad, c.reasons = nil, nil
	if c.r.Check == nil {
		return nil
	}
	for in, err := range stream[CheckedInput](ctx, c.db.pool, readToCheck, c.r.Source, first, last) {
		if err != nil {
			return err
		}
		if _, replaced := slices.BinarySearch(c.at, in.Seq); replaced {
			continue
		}
		if invalid := c.r.Check(in); invalid != nil {
			c.bad, c.reasons = append(c.bad, in.Seq), append(c.reasons, string(invalid))
		}
	}
	return nil
}

// copy copies a range.
func (c *copying) copy(ctx context.Context, first, last int32) error {
	from, _ := slices.BinarySearch(c.at, first)
	to, _ := slices.BinarySearch(c.at, last+1)
	return c.part(ctx, func(tx pgx.Tx) (int64, error) {
		if _, err := scalar[bool](ctx, tx, lockSource, c.r.Source); errors.Is(err, ErrNotFound) {
			return 0, ErrSourceGone
		} else if err != nil {
			return 0, err
		}
		tag, err := tx.Exec(ctx, copyRange, c.batch, c.r.Source, first, last, c.total, c.at[from:to], c.by[from:to], c.bad, c.reasons)
		return tag.RowsAffected(), err
	})
}

// part writes rows in a transaction, and counts them.
func (c *copying) part(ctx context.Context, write func(tx pgx.Tx) (int64, error)) error {
	if err := c.db.uploads.Acquire(ctx, 1); err != nil {
		return err
	}
	defer c.db.uploads.Release(1)
	var n int64
	err := pgx.BeginTxFunc(ctx, c.db.pool, hasty, func(tx pgx.Tx) (err error) {
		if n, err = write(tx); err != nil {
			return err
		}
		tag, err := tx.Exec(ctx, countPart, c.batch, c.id, n)
		if err == nil && tag.RowsAffected() == 0 {
			return ErrUploadLost
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("store: copy inputs: %w", err)
	}
	c.total += int32(n)
	return nil
}
