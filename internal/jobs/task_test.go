package jobs

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"batchwright/internal/store"
)

// What was paid for and couldn't be written in time is written with what comes next, unless Postgres refused it for itself.
func TestPartsThatCouldNotBeKeptAreNotLost(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		err     error
		answers int // that are left to write
	}{
		{nil, 0},
		{fmt.Errorf("settle: %w", context.DeadlineExceeded), 1},
		{errors.New("invalid byte sequence"), 0},
	} {
		g := newGroup(1, 0, func(_ context.Context, items []settlement) []error {
			if len(items) != 1 || len(items[0].calls) != 1 || len(items[0].holds) != 1 || len(items[0].answers) != 1 {
				t.Errorf("written are %+v", items)
			}
			return []error{c.err}
		})
		var running sync.WaitGroup
		running.Go(func() { g.run(t.Context()) })
		task := &task{w: &Worker{settlements: g}}
		task.pending = settlement{calls: []store.Outcome{{}}, holds: []hold{{}}}
		if err := task.flush(t.Context(), store.Completion{}); !errors.Is(err, c.err) {
			t.Errorf("%v, want %v", err, c.err)
		}
		left, calls := task.take(), 0
		if c.err != nil {
			calls = 1
		}
		if len(left.calls) != calls || len(left.holds) != calls || len(left.answers) != c.answers {
			t.Errorf("after %v, %d calls and %d answers are left to write, want %d and %d", c.err, len(left.calls), len(left.answers), calls, c.answers)
		}
		g.close()
		running.Wait()
	}
}
