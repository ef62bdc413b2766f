package jobs

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/google/uuid"

	"batchwright/internal/store"
)

// Appended is what one request added to an open upload. Jobs are counted from 1.
type Appended struct {
	TotalJobs   int64 // that the upload has now
	First, Last int32 // of those added
}

// Append adds lines to an open upload, all or nothing. Offset is how many jobs the caller believes are there: a request that was repeated
// because its answer was lost adds nothing twice. An error from lines ends it and is returned as it is.
//
// Errors are [store.ErrNotFound] and *[Error]: conflict, with TotalJobs when the offset is another, or because the batch takes no more
// jobs or takes another request's right now; unprocessable with the bad lines unless they are skipped.
func (s *Service) Append(ctx context.Context, project, id uuid.UUID, offset int32, lines iter.Seq2[Line, error]) (Appended, error) {
	row, err := s.DB.Batch(ctx, project, id)
	if err != nil {
		return Appended{}, err
	}
	if err := fromItsSource(row); err != nil {
		return Appended{}, err
	}
	in, err := s.appending(ctx, row, offset)
	if err != nil {
		return Appended{}, err
	}
	total, err := in.add(ctx, row, offset, lines)
	if err != nil {
		return Appended{}, err
	}
	return Appended{TotalJobs: total, First: offset + 1, Last: offset + in.seq}, nil
}

// appending is an intake of more jobs of an open upload.
func (s *Service) appending(ctx context.Context, row store.Batch, offset int32) (*intake, error) {
	b, err := compile(ctx, s.DB.Reader, row)
	if err != nil {
		return nil, err
	}
	own, err := s.of(ctx, row.ProjectID)
	if err != nil {
		return nil, err
	}
	b.check = own.checkModel
	return &intake{service: s, spec: Spec{Kind: row.Kind, OnInvalid: row.OnInvalid}, kind: b.kind, batch: b, base: offset}, nil
}

// add stores lines as jobs of an open upload, and returns how many it has then.
func (in *intake) add(ctx context.Context, row store.Batch, offset int32, lines iter.Seq2[Line, error]) (int64, error) {
	total, err := in.service.DB.AppendJobs(ctx, row.ProjectID, row.ID, offset, in.chunks(lines), func() int32 { return in.seq })
	return total, inWords(err)
}

// Seal ends an open upload: its jobs are planned. On a batch that takes no more jobs it changes nothing. Errors are [store.ErrNotFound]
// and *[Error]: conflict while a request adds jobs or when the upload ended before it was sealed, unprocessable when it has none or when
// custom_ids clash.
func (s *Service) Seal(ctx context.Context, project, id uuid.UUID) (store.Batch, error) {
	row, err := s.DB.Batch(ctx, project, id)
	if err == nil && row.State == "ingesting" {
		err = fromItsSource(row)
	}
	if err != nil {
		return store.Batch{}, err
	}
	return s.seal(ctx, project, id)
}

func (s *Service) seal(ctx context.Context, project, id uuid.UUID) (store.Batch, error) {
	b, tickets, err := s.DB.SealUpload(ctx, project, id)
	if dup, ok := errors.AsType[*store.DuplicateError](err); ok {
		e := new(intake).duplicates(dup)
		e.Message = "custom_ids are not unique; line counts all jobs of the upload. Cancel it and send them again corrected, or with on_invalid=skip"
		return store.Batch{}, e
	} else if err != nil {
		return store.Batch{}, inWords(err)
	}
	if len(tickets) > 0 {
		s.announce(ctx, b, tickets)
	}
	return b, nil
}

// announce posts a new batch's tickets.
func (s *Service) announce(ctx context.Context, b store.Batch, tickets []store.Ticket) {
	if err := s.Post(ctx, tickets); err != nil {
		s.Log.WarnContext(ctx, "tickets not posted, the sweep will", "batch", b.ID, "err", err)
	}
	s.Log.InfoContext(ctx, "batch accepted", "batch", b.ID, "project", b.ProjectID, "kind", b.Kind, "jobs", b.TotalJobs)
}

// inWords says what the store's refusals of an upload mean.
func inWords(err error) error {
	refuse := func(code Code, message string) error { return &Error{Code: code, Message: message, Err: err} }
	if e, ok := errors.AsType[*store.OffsetError](err); ok {
		return &Error{Code: Conflict, TotalJobs: &e.TotalJobs, Err: err,
			Message: fmt.Sprintf("the upload has %d jobs, not as many as offset says: go on from there", e.TotalJobs)}
	}
	switch {
	case errors.Is(err, store.ErrNotOpen):
		return refuse(Conflict, "the batch takes no more jobs: it was sealed, has ended, or was not opened with open=true")
	case errors.Is(err, store.ErrBusy):
		return refuse(Conflict, "another request adds jobs to the batch right now: wait for its end, then ask how many there are")
	case errors.Is(err, store.ErrEmpty):
		return refuse(Unprocessable, "the upload has no jobs: add some, or cancel the batch")
	case errors.Is(err, store.ErrUploadLost):
		return refuse(Conflict, "the batch was cancelled, or the upload given up, while its jobs came in: none of this request's will run")
	}
	return err
}

// idleUpload is how long an open upload may go untouched.
const idleUpload = 24 * time.Hour

// tidy ends uploads whose process or sender is gone for good, and purges, a little a round, what projects have kept for long enough.
func (w *Worker) tidy(ctx context.Context) error {
	failed, err := w.DB.SweepIngest(ctx, w.o.UploadPatience, idleUpload)
	if failed > 0 {
		w.Log.InfoContext(ctx, "uploads given up", "batches", failed)
	}
	if err != nil {
		return fmt.Errorf("sweep uploads: %w", err)
	}
	if err := w.sumUsage(ctx); err != nil {
		return err
	}
	if time.Now().Before(w.purgeAt) {
		return nil
	}
	batch, done, err := w.DB.PurgeNext(ctx, purgeRound)
	switch {
	case errors.Is(err, store.ErrNotFound):
		w.purgeAt = time.Now().Add(purgeRest)
		return w.DB.ForgetForecasts(ctx, keepForecasts)
	case err != nil:
		return fmt.Errorf("purge batch %s: %w", batch, err)
	case done:
		w.Log.InfoContext(ctx, "batch purged", "batch", batch)
	}
	return nil
}

// usageRound is how long one sweep sums up finished batches for the reports, which are right without it, only slower.
const usageRound = 500 * time.Millisecond

func (w *Worker) sumUsage(ctx context.Context) error {
	for began := time.Now(); time.Since(began) < usageRound; {
		batch, err := w.DB.SumUsage(ctx)
		if errors.Is(err, store.ErrNotFound) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("sum up usage of batch %s: %w", batch, err)
		}
	}
	return nil
}

const (
	purgeRest  = time.Minute      // between two looks for old batches, when there was none
	purgeRound = 10               // statements between two looks at the clock, and of one sweep
	purgeLimit = 20 * time.Second // for one request: what is left then, the workers' sweep removes
)

// Purge removes a final batch's inputs, jobs and calls; its counts stay, and so do the reports of what it cost. Of a batch whose upload
// failed nothing stays. Errors are [store.ErrNotFound] and *[Error]: conflict when the batch is not final.
func (s *Service) Purge(ctx context.Context, project, id uuid.UUID) error {
	for began := time.Now(); time.Since(began) < purgeLimit; {
		done, err := s.DB.PurgeBatch(ctx, project, id, purgeRound)
		switch {
		case errors.Is(err, store.ErrConflict):
			return &Error{Code: Conflict, Message: "the batch is not final: cancel it first", Err: err}
		case err != nil:
			return err
		case done:
			s.Log.InfoContext(ctx, "batch purged", "batch", id, "project", project)
			return nil
		}
	}
	return nil
}
