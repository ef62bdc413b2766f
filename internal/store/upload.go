package store

import (
	"context"
	"errors"
	"fmt"
	"iter"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// Why an open upload doesn't do what it is asked to.
var (
	ErrNotOpen = errors.New("store: not an open upload")                          // it was sealed, has ended, or never was one
	ErrBusy    = errors.New("store: another request adds jobs to the upload now") // of whole batches, too
	ErrEmpty   = errors.New("store: the upload has no jobs")
)

// OffsetError says how many jobs an open upload has, which is not how many the request thought.
type OffsetError struct{ TotalJobs int64 }

func (e *OffsetError) Error() string {
	return fmt.Sprintf("store: the upload has %d jobs", e.TotalJobs)
}

const (
	claimUpload = `-- name: ClaimUpload
update batches set upload_id = $4, ingested_at = now()
where id = $1 and project_id = $2 and state = 'ingesting' and open_upload and total_jobs = $3 and (upload_id is null or ingested_at < now() - $5::interval)
returning id`
	countBehind = `-- name: CountBehind
select count(*)::int from inputs where batch_id = $1 and seq > $2`
	endAppend = `-- name: EndAppend
update batches set total_jobs = total_jobs + $2, upload_id = null, ingested_at = now() where id = $1 returning total_jobs::bigint`
)

// AppendJobs adds to an open upload that has offset jobs, all or nothing; the first input's Seq is offset + 1. When the sequence ends,
// count says how many inputs there were. It returns how many jobs the upload has then.
//
// One request at a time may add: it marks the batch as its own, and no lock is held while the bytes come in, so that a cancellation never
// waits for a sender. Errors: whatever the sequence yields, ErrNotFound, ErrNotOpen, ErrBusy, *[OffsetError], ErrUploadLost.
func (db *DB) AppendJobs(ctx context.Context, project, id uuid.UUID, offset int32, chunks iter.Seq2[Chunk, error], count func() int32) (total int64, err error) {
	u := &upload{db: db, id: uuid.New(), batch: id, project: project}
	_, err = scalar[uuid.UUID](ctx, db.pool, claimUpload, id, project, offset, u.id, interval(UploadPatience))
	if errors.Is(err, ErrNotFound) {
		return 0, db.whyNot(ctx, project, id, offset)
	} else if err != nil {
		return 0, err
	}
	if err = db.tidy(ctx, project, id, u.id, false); err == nil { // what a request left whose process died
		var refusal error
		if refusal, err = u.receive(ctx, chunks); err == nil {
			err = refusal
		}
	}
	if err == nil {
		total, err = u.finishAppend(ctx, offset, count())
	}
	if err == nil {
		return total, nil
	}
	rest, cancel := context.WithTimeout(context.WithoutCancel(ctx), tidyLimit)
	defer cancel()
	return 0, errors.Join(err, db.tidy(rest, project, id, u.id, true))
}

func (db *DB) whyNot(ctx context.Context, project, id uuid.UUID, offset int32) error {
	b, err := db.Batch(ctx, project, id)
	switch {
	case err != nil:
		return err
	case b.State != "ingesting" || !b.OpenUpload:
		return ErrNotOpen
	case b.TotalJobs != int64(offset):
		return &OffsetError{b.TotalJobs}
	}
	return ErrBusy
}

func (u *upload) finishAppend(ctx context.Context, offset, n int32) (total int64, err error) {
	err = pgx.BeginFunc(ctx, u.db.pool, func(tx pgx.Tx) error {
		if _, err := scalar[int32](ctx, tx, lockUpload, u.batch, u.id); errors.Is(err, ErrNotFound) {
			return ErrUploadLost
		} else if err != nil {
			return err
		}
		stored, err := scalar[int32](ctx, tx, countBehind, u.batch, offset)
		if err == nil && stored != n {
			err = fmt.Errorf("store: %d of %d jobs are left: Postgres was restarted meanwhile", stored, n)
		}
		if err != nil {
			return err
		}
		total, err = scalar[int64](ctx, tx, endAppend, u.batch, n)
		return err
	})
	return total, translate(err)
}

const lockSession = `-- name: LockSession
select state, open_upload, upload_id is not null as busy, total_jobs, on_invalid from batches where id = $1 and project_id = $2 for update`

// SealUpload ends an open upload: its jobs are planned. On a batch that was sealed before, or came in whole, it changes nothing and returns
// no tickets. Errors: ErrNotFound, ErrNotOpen, ErrBusy, ErrEmpty; *DuplicateError when custom ids clash and the batch refuses bad lines,
// which leaves it open.
func (db *DB) SealUpload(ctx context.Context, project, id uuid.UUID) (b Batch, tickets []Ticket, err error) {
	err = pgx.BeginFunc(ctx, db.pool, func(tx pgx.Tx) error {
		s, err := one[struct {
			State      string
			OpenUpload bool
			Busy       bool
			TotalJobs  int32
			OnInvalid  string
		}](ctx, tx, lockSession, id, project)
		ingesting := s.State == "ingesting"
		switch {
		case err != nil:
			return err
		case !ingesting && s.OpenUpload:
			return ErrNotOpen
		case ingesting && (s.Busy || !s.OpenUpload):
			return ErrBusy
		case ingesting && s.TotalJobs == 0:
			return ErrEmpty
		case ingesting:
			if err = settleDuplicates(ctx, tx, id, s.OnInvalid); err == nil {
				tickets, err = sealIn(ctx, tx, id, s.TotalJobs, nil)
			}
			if err != nil {
				return err
			}
		}
		b, err = one[Batch](ctx, tx, getAnyBatch, id)
		return err
	})
	return b, tickets, translate(err)
}
