package gatewaytest

import (
	"context"
	"sync"
	"testing"

	"batchwright/internal/gateway"
)

// Book is a ledger that remembers. Its zero value allows every send.
type Book struct {
	Forbid func(gateway.Send) error // may refuse a send
	Settle func(gateway.Outcome) error

	mu      sync.Mutex
	entries []Entry
	faults  []string
}

// Entry is one send and how it ended.
type Entry struct {
	Send    gateway.Send
	Outcome gateway.Outcome
	Settled int // times; 1 when all is well
}

// Ledger is a gateway.Ledger.
func (b *Book) Ledger(ctx context.Context, s gateway.Send) (func(context.Context, gateway.Outcome) error, error) {
	if b.Forbid != nil {
		if err := b.Forbid(s); err != nil {
			return nil, err
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if ctx.Err() != nil {
		b.faults = append(b.faults, "a send was announced under a context that had ended")
	}
	i := len(b.entries)
	b.entries = append(b.entries, Entry{Send: s})
	return func(ctx context.Context, o gateway.Outcome) error {
		b.mu.Lock()
		if ctx.Err() != nil {
			b.faults = append(b.faults, "an outcome was told under a context that had ended")
		}
		b.entries[i].Outcome = o
		b.entries[i].Settled++
		b.mu.Unlock()
		if b.Settle != nil {
			return b.Settle(o)
		}
		return nil
	}, nil
}

// Entries returns the sends in order.
func (b *Book) Entries() []Entry {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]Entry(nil), b.entries...)
}

// Classes returns the outcomes' classes in order.
func (b *Book) Classes() []gateway.Class {
	var cs []gateway.Class
	for _, e := range b.Entries() {
		cs = append(cs, e.Outcome.Class)
	}
	return cs
}

// Check fails the test unless every send was settled exactly once, sends are numbered from 1 without a gap and their
// ranges lie within a request of so many steps.
func (b *Book) Check(t testing.TB, steps int) {
	t.Helper()
	for _, f := range b.faults {
		t.Error(f)
	}
	for i, e := range b.Entries() {
		if e.Settled != 1 {
			t.Errorf("send %d was settled %d times", i, e.Settled)
		}
		s, o := e.Send, e.Outcome
		if s.Number != i+1 {
			t.Errorf("send %d has number %d", i, s.Number)
		}
		if s.Step < 0 || s.Steps < 1 || s.Tries < 1 || s.Step+s.Steps > steps {
			t.Errorf("send %d reaches steps %d+%d of %d, %d tries each", i, s.Step, s.Steps, steps, s.Tries)
		}
		if o.Step < s.Step || o.Step >= s.Step+s.Steps {
			t.Errorf("send %d to steps %d+%d ended at step %d", i, s.Step, s.Steps, o.Step)
		}
	}
}
