package jobs

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"batchwright/internal/gateway"
)

// panicError is a panic that was caught, with where it came from. Its text holds nothing of the input.
type panicError struct {
	what  string
	stack string
}

func (e *panicError) Error() string { return "jobs: panic: " + e.what }

// panicked makes an error of what recover returned.
func panicked(p any) *panicError {
	what := fmt.Sprintf("%T", p) // a panic's own text may quote the input
	if e, ok := p.(runtime.Error); ok {
		what = e.Error()
	}
	return &panicError{what, string(debug.Stack())}
}

// guarded lets a function that handles foreign input fail alone: in a goroutine of its own, a panic would end the process.
func guarded(f func() error) func() error {
	return func() (err error) {
		defer func() {
			if p := recover(); p != nil {
				err = panicked(p)
			}
		}()
		return f()
	}
}

// fault is an error of our own parts in the middle of a job. The job is tried again, as often as any other failure allows; while the
// database can't be reached, no attempt counts.
func (t *task) fault(doing string, err error) error {
	if passing(err) {
		return fmt.Errorf("%s: %w", doing, err)
	}
	t.w.Log.Warn("job failed on our side", "doing", doing, "batch", t.batch.ID, "seq", t.job.Seq, "err", err)
	f := failf(gateway.Server, "%s", workerFault)
	f.retry = true
	return f
}
