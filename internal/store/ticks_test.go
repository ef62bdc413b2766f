package store_test

import (
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"batchwright/internal/store"
	"batchwright/internal/store/storetest"
)

// schedule saves one that queues, is due every minute, and has not been due yet.
func (b *bench) schedule(t *testing.T) store.Schedule {
	t.Helper()
	next := time.Now().Add(time.Minute).Truncate(time.Second)
	s, err := b.db.CreateSchedule(t.Context(), store.Schedule{ID: uuid.Must(uuid.NewV7()), ProjectID: b.project, APIKeyID: storetest.Scalar[uuid.UUID](t, b.url, `select id from api_keys`),
		Cron: "* * * * *", TimeZone: "UTC", Enabled: true, Overlap: "queue", CatchUp: "all", CatchUpLimit: 100, Batch: []byte(`{}`), Jobs: []byte(`[]`), JobCount: new(int32),
		NextDueAt: &next, NextStartAt: &next, CreatedAt: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestOneKeyMakesOneTick(t *testing.T) {
	t.Parallel()
	b := setUp(t)
	s, other := b.schedule(t), b.schedule(t)
	const callers = 20
	due := make([]time.Time, callers)
	fresh := make([]bool, callers)
	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() {
			tick, replayed, err := b.db.RunSchedule(t.Context(), b.project, s.ID, "once")
			if err != nil {
				t.Error(err)
			}
			due[i], fresh[i] = tick.DueAt, !replayed
		})
	}
	wg.Wait()
	made := 0
	for i := range callers {
		if fresh[i] {
			made++
		}
		if !due[i].Equal(due[0]) {
			t.Errorf("ticks of %s and %s", due[i], due[0])
		}
	}
	if made != 1 {
		t.Errorf("%d callers made a tick, want 1", made)
	}
	storetest.Exec(t, b.url, `update ticks set state = 'failed', reason = 'x', ended_at = now()`)
	if tick, replayed, err := b.db.RunSchedule(t.Context(), b.project, s.ID, "once"); err != nil || !replayed || tick.State != store.TickFailed {
		t.Errorf("once it has ended: %+v, %t, %v", tick, replayed, err)
	}
	for _, again := range []struct {
		id  uuid.UUID
		key string
	}{{s.ID, "twice"}, {other.ID, "once"}, {s.ID, ""}, {s.ID, ""}} {
		if _, replayed, err := b.db.RunSchedule(t.Context(), b.project, again.id, again.key); err != nil || replayed {
			t.Errorf("%q: %t, %v", again.key, replayed, err)
		}
	}
	if n := storetest.Scalar[int](t, b.url, `select count(*)::int from ticks`); n != 5 {
		t.Errorf("%d ticks, want 5", n)
	}
	if _, _, err := b.db.RunSchedule(t.Context(), uuid.New(), s.ID, "once"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("another project's: %v", err)
	}
}

func TestNoMoreThanAHundredTicksWait(t *testing.T) {
	t.Parallel()
	b := setUp(t)
	s := b.schedule(t)
	waiting := func() int {
		return storetest.Scalar[int](t, b.url, `select count(*)::int from ticks where state = 'pending'`)
	}
	advance := func(n int) {
		t.Helper()
		var ticks []store.NewTick
		for i := range n {
			at := s.NextDueAt.Add(time.Duration(i) * time.Minute)
			ticks = append(ticks, store.NewTick{DueAt: at, StartAt: at, State: store.TickPending})
		}
		// What is missed doesn't wait, whatever comes of the others.
		ticks = append([]store.NewTick{{DueAt: s.NextDueAt.Add(-time.Second), StartAt: *s.NextDueAt, State: store.TickMissed, Reason: "x"}}, ticks...)
		next := s.NextDueAt.Add(time.Duration(n) * time.Minute)
		if moved, err := b.db.AdvanceSchedule(t.Context(), s, &next, &next, ticks); err != nil || !moved {
			t.Fatalf("%t, %v", moved, err)
		}
		s.NextDueAt = &next
	}
	advance(96)
	advance(10) // of which four still may
	if n := waiting(); n != store.MaxWaiting {
		t.Errorf("%d ticks wait, want %d", n, store.MaxWaiting)
	}
	if _, _, err := b.db.RunSchedule(t.Context(), b.project, s.ID, "k"); !errors.Is(err, store.ErrConflict) {
		t.Errorf("one more was asked for: %v", err)
	}
	advance(1)
	skipped := storetest.Rows[string](t, b.url, `select reason from ticks where state = 'skipped' and ended_at is not null order by due_at`)
	if len(skipped) != 7 || !strings.HasPrefix(skipped[0], "overlap: ") {
		t.Errorf("skipped: %v, want seven", skipped)
	}
	if first := storetest.Scalar[int](t, b.url, `select count(*)::int from ticks where state = 'skipped' and due_at < (select max(due_at) from ticks where state = 'pending')`); first > 0 {
		t.Errorf("%d ticks were skipped for later ones", first)
	}
	// When one has run there is room for one.
	storetest.Exec(t, b.url, `update ticks set state = 'failed', reason = 'x', ended_at = now() where due_at = (select min(due_at) from ticks where state = 'pending')`)
	if _, replayed, err := b.db.RunSchedule(t.Context(), b.project, s.ID, "k"); err != nil || replayed {
		t.Errorf("%t, %v", replayed, err)
	}
	advance(1)
	if n := waiting(); n != store.MaxWaiting {
		t.Errorf("%d ticks wait, want %d", n, store.MaxWaiting)
	}
	if _, replayed, err := b.db.RunSchedule(t.Context(), b.project, s.ID, "k"); err != nil || !replayed {
		t.Errorf("a repeat, though no more may wait: %t, %v", replayed, err)
	}
	if total := storetest.Scalar[int](t, b.url, `select count(*)::int from ticks where not manual`); total != 96+10+1+1+4 {
		t.Errorf("%d rows, want one each due time", total)
	}
}
