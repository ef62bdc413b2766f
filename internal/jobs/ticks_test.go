package jobs

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"batchwright/internal/store"
	"batchwright/internal/store/storetest"
)

// minutely is a schedule that is due each minute, and has not been looked at for some of them.
type minutely struct {
	db  *store.DB
	url string
	row store.Schedule
}

func newMinutely(t *testing.T, behind int, change func(*store.Schedule)) *minutely {
	t.Helper()
	m := &minutely{url: storetest.URL(t)}
	var err error
	if m.db, err = store.Open(t.Context(), m.url, store.Options{MaxConns: 12}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.db.Close)
	p, err := m.db.CreateKey(t.Context(), "p", "k", "bw_x", sha256.Sum256([]byte("k")))
	if err != nil {
		t.Fatal(err)
	}
	now, err := m.db.Now(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	none := int32(0)
	// Half a minute after the last due time, whenever the test runs: @every counts from when it was made.
	made := now.Truncate(time.Second).Add(-time.Duration(behind)*time.Minute - 30*time.Second)
	next := made.Add(time.Minute)
	row := store.Schedule{ID: uuid.Must(uuid.NewV7()), ProjectID: p.ID, APIKeyID: p.KeyID, Cron: "@every 1m", TimeZone: "UTC", Enabled: true, Overlap: "skip",
		CatchUp: "all", CatchUpLimit: 100, Batch: []byte(`{}`), Jobs: []byte(`[]`), JobCount: &none, NextDueAt: &next, NextStartAt: &next, CreatedAt: made}
	if change != nil {
		change(&row)
	}
	if m.row, err = m.db.CreateSchedule(t.Context(), row); err != nil {
		t.Fatal(err)
	}
	return m
}

// round does what a worker's round does.
func (m *minutely) round(ctx context.Context) error {
	for {
		due, err := m.db.DueSchedules(ctx, 50)
		if err != nil || len(due) == 0 {
			return err
		}
		for _, s := range due {
			if _, err := advance(ctx, m.db, s.Schedule, s.Now); err != nil {
				return err
			}
		}
	}
}

func (m *minutely) states(t *testing.T) string {
	t.Helper()
	return storetest.Scalar[string](t, m.url, `select coalesce(string_agg(state || ' ' || n, ', ' order by state), '') from (select state, count(*) as n from ticks group by state) c`)
}

func TestMissedTicksAreRowsWhateverIsMadeUpFor(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		behind int
		change func(*store.Schedule)
		want   string
	}{
		{"in time", 1, func(s *store.Schedule) { s.CatchUp = "none" }, "pending 1"},
		{"none", 10, func(s *store.Schedule) { s.CatchUp = "none" }, "missed 9, pending 1"}, // the newest is half a minute late
		{"last", 10, func(s *store.Schedule) { s.CatchUp = "last" }, "missed 9, pending 1"},
		{"all", 10, func(s *store.Schedule) { s.CatchUpLimit = 4 }, "missed 6, pending 4"},
		{"all of few", 3, nil, "pending 3"},
		{"disabled", 10, func(s *store.Schedule) { s.Enabled = false }, "skipped 10"},
		{"days", 2950, nil, "missed 2850, pending 100"}, // in parts
		{"queue", 150, func(s *store.Schedule) { s.Overlap = "queue" }, "missed 50, pending 100"},
		{"ended", 10, func(s *store.Schedule) { at := s.CreatedAt.Add(5 * time.Minute); s.EndsAt, s.CatchUp = &at, "none" }, "missed 4"},
		{"ended, last", 10, func(s *store.Schedule) { at := s.CreatedAt.Add(5 * time.Minute); s.EndsAt, s.CatchUp = &at, "last" }, "missed 3, pending 1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			m := newMinutely(t, tt.behind, tt.change)
			if err := m.round(t.Context()); err != nil {
				t.Fatal(err)
			}
			if got := m.states(t); got != tt.want {
				t.Errorf("%s, want %s", got, tt.want)
			}
			if wrong := storetest.Scalar[int](t, m.url, `select count(*)::int from ticks t where state = 'pending' and exists (select 1 from ticks n where n.due_at > t.due_at and n.state <> 'pending')`); wrong > 0 {
				t.Errorf("%d ticks are made up for that are not the newest", wrong)
			}
			// A clock that is set back, or a row that is restored from a backup: nothing is there twice, and what was decided stays.
			storetest.Exec(t, m.url, `update schedules set next_due_at = created_at + interval '1 minute', next_start_at = created_at + interval '1 minute'`)
			if err := m.round(t.Context()); err != nil {
				t.Fatal(err)
			}
			if got := m.states(t); got != tt.want {
				t.Errorf("after the clock was set back: %s, want %s", got, tt.want)
			}
		})
	}
}

func TestManySchedulersMakeAndTakeEachTickOnce(t *testing.T) {
	t.Parallel()
	m := newMinutely(t, 2400, nil)
	var taken, made atomic.Int64
	var all sync.WaitGroup
	for range 8 {
		worker := store.Worker{ID: uuid.New(), Hostname: "h"}
		if err := m.db.Register(t.Context(), worker); err != nil {
			t.Fatal(err)
		}
		all.Go(func() {
			for range 40 {
				due, err := m.db.DueSchedules(t.Context(), 50)
				if err != nil {
					t.Error(err)
				}
				for _, s := range due {
					if _, err := advance(t.Context(), m.db, s.Schedule, s.Now); err != nil {
						t.Error(err)
					}
					made.Add(1)
				}
				for {
					tick, err := m.db.ClaimTick(t.Context(), worker.ID, time.Hour)
					if errors.Is(err, store.ErrNotFound) {
						break
					} else if err != nil {
						t.Error(err)
						break
					}
					taken.Add(1)
					if err := m.db.EndTick(t.Context(), worker.ID, tick, store.TickFailed, "taken"); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	all.Wait()
	if got := m.states(t); got != "failed 100, missed 2300" || taken.Load() != 100 {
		t.Errorf("%s, %d taken; want 2,400 ticks, of which 100 are taken once", got, taken.Load())
	}
	if twice := storetest.Scalar[int](t, m.url, `select count(*)::int from ticks where attempts > 1`); twice > 0 {
		t.Errorf("%d ticks taken twice", twice)
	}
	if made.Load() < 3 {
		t.Errorf("the schedule was moved on in %d steps only", made.Load())
	}
}

func TestOnlyATickOfADeadWorkerIsTakenOver(t *testing.T) {
	t.Parallel()
	m := newMinutely(t, 2, nil)
	if err := m.round(t.Context()); err != nil {
		t.Fatal(err)
	}
	a, b := store.Worker{ID: uuid.New(), Hostname: "a"}, store.Worker{ID: uuid.New(), Hostname: "b"}
	for _, w := range []store.Worker{a, b} {
		if err := m.db.Register(t.Context(), w); err != nil {
			t.Fatal(err)
		}
	}
	first, err := m.db.ClaimTick(t.Context(), a.ID, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	if other, err := m.db.ClaimTick(t.Context(), b.ID, time.Minute); !errors.Is(err, store.ErrNotFound) {
		t.Fatalf("a second tick of the schedule was taken beside the first: %+v %v", other, err)
	}
	storetest.Exec(t, m.url, `update workers set seen_at = now() - interval '2 minutes' where id = $1`, a.ID)
	again, err := m.db.ClaimTick(t.Context(), b.ID, time.Minute)
	if err != nil || !again.DueAt.Equal(first.DueAt) || again.Attempts != 2 {
		t.Fatalf("%+v %v, want the dead worker's tick", again, err)
	}
	batch := uuid.New()
	if err := m.db.StartTick(t.Context(), a.ID, first, batch); !errors.Is(err, store.ErrLeaseLost) {
		t.Errorf("the dead worker wrote its tick: %v", err)
	}
	if err := m.db.StartTick(t.Context(), b.ID, again, batch); err != nil {
		t.Error(err)
	}
	next, err := m.db.ClaimTick(t.Context(), b.ID, time.Minute)
	if err != nil || !next.DueAt.Equal(first.DueAt.Add(time.Minute)) {
		t.Errorf("%+v %v, want the tick that follows", next, err)
	}
	if err := m.db.StartTick(t.Context(), b.ID, next, batch); !errors.Is(err, store.ErrConflict) {
		t.Errorf("one batch is of two ticks: %v", err)
	}
}

func TestScheduleThatCannotBeReadAnyMoreEndsVisibly(t *testing.T) {
	t.Parallel()
	m := newMinutely(t, 3, func(s *store.Schedule) { s.TimeZone = "Mars/Olympus" })
	if err := m.round(t.Context()); err != nil {
		t.Fatal(err)
	}
	s, err := m.db.AnySchedule(t.Context(), m.row.ID)
	if got := m.states(t); err != nil || got != "failed 1" || s.NextDueAt != nil {
		t.Errorf("%s, next %v, %v", got, s.NextDueAt, err)
	}
}

func TestOptionsOfAScheduleAreKept(t *testing.T) {
	t.Parallel()
	n, cost := int32(3), int64(9)
	spec := Spec{Kind: "chat", Name: "n", Template: "t@2", Route: []byte(`"r"`), Params: []byte(`{"a":1}`), OnInvalid: "skip", Cache: "off", Metadata: map[string]string{"k": "v"},
		Limits: store.Limits{Priority: -2, Concurrency: &n, MaxAttempts: &n, JobTimeoutSeconds: &n, MaxCostMicrousd: &cost}}
	stored, err := storedOptions(spec)
	if err != nil {
		t.Fatal(err)
	}
	got, err := specOf(stored)
	if err != nil {
		t.Fatal(err)
	}
	again, err := storedOptions(got)
	if err != nil || string(again) != string(stored) || fmt.Sprint(got.Metadata, got.Limits.Priority, *got.Limits.MaxCostMicrousd) != "map[k:v] -2 9" {
		t.Errorf("%s %v, want %s", again, err, stored)
	}
}
