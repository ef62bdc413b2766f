package jobs

import (
	"context"
	"errors"
	"fmt"
	"time"

	"batchwright/internal/fault"
	"batchwright/internal/schedule"
	"batchwright/internal/store"
)

// How a schedule's batch comes to be, once and only once for each time that it is due: see the life of a tick in package store. Every worker
// does all of it; by the database's clock.

const (
	tickRunners  = 2                // ticks whose batches one worker makes at once
	tickLimit    = 10 * time.Minute // for making one batch
	tickTries    = 20               // before a tick fails for faults of ours
	tickBacklog  = 1000             // due times of one schedule that become rows at once
	tickRest     = 10 * time.Second // between two looks at most, as a hint may be lost
	tickBusy     = 2 * time.Second  // the same while batches are open: a tick may wait for the end of one
	tickTrimRest = time.Hour
)

// untilDue is how long the schedules can be left alone.
func (w *Worker) untilDue() time.Duration {
	most := tickBusy
	if w.quiet.Load() {
		most = tickRest
	}
	return min(max(time.Duration(w.nextTick.Load()), 20*time.Millisecond), most)
}

// schedule makes rows of what is due, and wakes those who run them.
func (w *Worker) schedule(ctx context.Context) error {
	const most = 50
	for {
		due, err := w.DB.DueSchedules(ctx, most)
		if err != nil {
			return fmt.Errorf("due schedules: %w", err)
		}
		again := len(due) == most
		for _, s := range due {
			more, err := advance(ctx, w.DB, s.Schedule, s.Now)
			if err != nil {
				return err
			}
			again = again || more
		}
		if !again {
			break
		}
	}
	fault.Point("ticks-made")
	poke(w.ticks)
	if _, err := w.DB.EndRuns(ctx); err != nil {
		return fmt.Errorf("end ticks: %w", err)
	}
	if now := time.Now(); now.After(w.trimAt) {
		if _, err := w.DB.TrimTicks(ctx); err != nil {
			return fmt.Errorf("trim ticks: %w", err)
		}
		w.trimAt = now.Add(tickTrimRest)
	}
	next, err := w.DB.NextStart(ctx)
	if err != nil {
		return fmt.Errorf("next tick: %w", err)
	}
	w.nextTick.Store(int64(next))
	return nil
}

// advance makes rows of a schedule's due times up to now, and moves it on. More says that there are others.
func advance(ctx context.Context, db *store.DB, s store.Schedule, now time.Time) (more bool, err error) {
	t, err := timingOf(s)
	if err != nil { // it was good when it was saved: this machine knows another set of zones
		_, err := db.AdvanceSchedule(ctx, s, nil, nil, []store.NewTick{{DueAt: *s.NextDueAt, StartAt: *s.NextStartAt, State: store.TickFailed,
			Reason: "the schedule can't be read any more, and has ended: " + err.Error()}})
		return false, err
	}
	var due, starts []time.Time
	next, ok := *s.NextDueAt, true
	for ; ok && len(due) < tickBacklog+int(s.CatchUpLimit); next, ok = t.Next(next) {
		start := t.Fire(next)
		if start.After(now) {
			break
		}
		due, starts = append(due, next), append(starts, start)
	}
	most := map[string]int{"none": 0, "last": 1, "all": int(s.CatchUpLimit)}[s.CatchUp]
	if more = ok && !t.Fire(next).After(now); more { // none of these is among the newest
		next, due, starts, most = due[tickBacklog], due[:tickBacklog], starts[:tickBacklog], 0
	}
	runs := schedule.Runs(starts, now, most)
	ticks := make([]store.NewTick, len(due))
	for i := range due {
		ticks[i] = store.NewTick{DueAt: due[i], StartAt: starts[i], State: store.TickPending}
		switch {
		case !s.Enabled:
			ticks[i].State, ticks[i].Reason = store.TickSkipped, "disabled"
		case !runs[i] || more:
			ticks[i].State, ticks[i].Reason = store.TickMissed, fmt.Sprintf("no worker saw to it in time (%s late), and catch_up is %s", now.Sub(starts[i]).Round(time.Second), s.CatchUp)
		}
	}
	var nextDue, nextStart *time.Time
	if ok {
		start := t.Fire(next)
		nextDue, nextStart = &next, &start
	}
	moved, err := db.AdvanceSchedule(ctx, s, nextDue, nextStart, ticks)
	if err != nil {
		return false, fmt.Errorf("advance schedule %s: %w", s.ID, err)
	}
	return more && moved, nil
}

// runTicks makes batches of ticks until ctx ends. One that is being made by then has the grace time.
func (w *Worker) runTicks(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.ticks:
		}
		for ctx.Err() == nil {
			t, err := w.DB.ClaimTick(ctx, w.self.ID, w.o.Lease)
			if err != nil {
				if !errors.Is(err, store.ErrNotFound) && ctx.Err() == nil {
					w.Log.WarnContext(ctx, "tick not taken, will be tried again", "err", err)
				}
				break
			}
			poke(w.ticks) // there may be work for the other one
			w.runTick(ctx, t)
		}
	}
}

// runTick makes the batch of a tick that this worker has taken, or says why there is none.
func (w *Worker) runTick(ctx context.Context, t store.Tick) {
	fault.Point("tick-claimed")
	hard, cut := context.WithTimeout(context.WithoutCancel(ctx), tickLimit)
	defer cut()
	grace := context.AfterFunc(ctx, func() {
		left := time.NewTimer(w.o.Grace)
		defer left.Stop()
		select {
		case <-left.C:
			cut()
		case <-hard.Done():
		}
	})
	defer grace()
	err := w.startTick(hard, t)
	if errors.Is(err, store.ErrLeaseLost) || errors.Is(err, store.ErrNotFound) { // taken over, or the schedule was deleted
		w.Log.WarnContext(ctx, "tick lost", "schedule", t.ScheduleID, "due", t.DueAt, "err", err)
		return
	}
	if err == nil {
		fault.Point("tick-started")
		return
	}
	refusal, refused := errors.AsType[*Error](err)
	trouble, end := "a fault of the server", ", for faults of the server: its log has them"
	if refused && refusal.Code == Unavailable { // a source, which may come back
		trouble = refusalInWords(refusal)
		refused, end = false, "; the last: "+trouble
	}
	reason, rest := "", time.Duration(0) // until it is tried again; 0 is never
	switch {
	case refused && refusal.Field == "Idempotency-Key": // its batch is being made by a worker that was taken for dead, or was left half made
		reason, rest = "its batch was left half made: waiting until that is given up", 5*time.Second
	case refused:
		w.Log.WarnContext(ctx, "tick failed", "schedule", t.ScheduleID, "due", t.DueAt, "field", refusal.Field)
		reason = refusalInWords(refusal)
	case t.Attempts >= tickTries:
		w.Log.ErrorContext(ctx, "tick failed", "schedule", t.ScheduleID, "due", t.DueAt, "err", err)
		reason = fmt.Sprintf("the batch could not be made in %d attempts%s", t.Attempts, end)
	default:
		w.Log.WarnContext(ctx, "tick not started, will be tried again", "schedule", t.ScheduleID, "due", t.DueAt, "err", err)
		reason, rest = trouble+": will be tried again", min(time.Duration(t.Attempts)*5*time.Second, time.Minute)
	}
	if err := w.leaveTick(ctx, t, reason, rest); err != nil && !errors.Is(err, store.ErrLeaseLost) { // it is this worker's until that stops: then another takes it
		w.Log.ErrorContext(ctx, "tick not given back", "schedule", t.ScheduleID, "due", t.DueAt, "err", err)
	}
}

// leaveTick gives a tick back, to be tried again after rest or as failed when that is 0, however long the database is away: it is nobody else's
// while this worker lives, and what is queued behind it waits.
func (w *Worker) leaveTick(ctx context.Context, t store.Tick, reason string, rest time.Duration) error {
	for {
		try, end := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		err := w.persist(try, func(ctx context.Context) error {
			if rest > 0 {
				return w.DB.DelayTick(ctx, w.self.ID, t, reason, rest)
			}
			return w.DB.EndTick(ctx, w.self.ID, t, store.TickFailed, reason)
		})
		end()
		if err == nil || ctx.Err() != nil || !passing(err) {
			return err
		}
	}
}

func (w *Worker) startTick(ctx context.Context, t store.Tick) error {
	s, err := w.DB.AnySchedule(ctx, t.ScheduleID)
	if err != nil {
		return err
	}
	key := tickKey(t)
	b, err := w.DB.BatchByKey(ctx, s.ProjectID, key)
	if err == nil { // whoever took it before came that far
		if err := uploading(b); err != nil {
			return err
		}
		return w.DB.StartTick(ctx, w.self.ID, t, b.ID)
	} else if !errors.Is(err, store.ErrNotFound) {
		return err
	}
	if !s.Enabled && !t.Manual { // since it became due
		return w.DB.EndTick(ctx, w.self.ID, t, store.TickSkipped, "disabled")
	}
	if revoked, err := w.DB.KeyRevoked(ctx, s.APIKeyID); err != nil {
		return err
	} else if revoked {
		return w.DB.EndTick(ctx, w.self.ID, t, store.TickFailed, "the API key that made or last changed the schedule was revoked: change it with another one")
	}
	open, err := w.DB.OpenRuns(ctx, t)
	if err != nil {
		return err
	}
	if len(open) > 0 && s.Overlap == "skip" {
		return w.DB.EndTick(ctx, w.self.ID, t, store.TickSkipped, fmt.Sprintf("overlap: batch %s of an earlier tick still runs", open[0]))
	}
	if s.Overlap == "cancel_older" {
		for _, id := range open {
			if _, err := w.Service.Cancel(ctx, s.ProjectID, id, nil); err != nil && !errors.Is(err, store.ErrNotFound) {
				return err
			}
		}
	}
	if b, err = w.Service.submitScheduled(ctx, s, key); err != nil {
		return err
	}
	fault.Point("tick-submitted")
	w.Log.InfoContext(ctx, "schedule ran", "schedule", s.ID, "due", t.DueAt, "batch", b.ID)
	return w.DB.StartTick(ctx, w.self.ID, t, b.ID)
}

// tickKey is the idempotency key of a tick's batch.
func tickKey(t store.Tick) string {
	return fmt.Sprintf("tick:%s:%d", t.ScheduleID, t.DueAt.UnixMicro())
}

func refusalInWords(e *Error) string {
	text := e.Message
	if e.Field != "" {
		text = e.Field + ": " + text
	}
	if len(e.Lines) > 0 {
		text += fmt.Sprintf(" (line %d: %s)", e.Lines[0].Line, e.Lines[0].Message)
	}
	return clean(text)
}
