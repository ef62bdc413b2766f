package gateway

import (
	"strings"
	"sync"
	"sync/atomic"
)

const (
	maxPerModel   = 4096 // entries kept
	perModelProbe = 16   // entries looked at to find one to drop
)

// perModel keeps one T for each provider and model. Model names come from users, so it is bounded: when full, it drops
// of some entries taken at random the one that was asked for longest ago, as Redis does. An entry that busy reports
// stays; there must be no more of these than calls in flight. It is safe for concurrent use.
type perModel[T any] struct {
	fresh func() *T
	busy  func(*T) bool // may be nil
	limit int

	mu    sync.RWMutex
	m     map[modelName]*perModelEntry[T]
	clock atomic.Uint64 // insertions
}

type modelName struct{ provider, model string }

type perModelEntry[T any] struct {
	value *T
	used  atomic.Uint64 // the clock when last asked for
}

func newPerModel[T any](limit int, fresh func() *T, busy func(*T) bool) *perModel[T] {
	return &perModel[T]{fresh: fresh, busy: busy, limit: limit, m: map[modelName]*perModelEntry[T]{}}
}

func (p *perModel[T]) get(provider, model string) *T {
	if len(model) > maxName {
		model = model[:maxName] // longer ones share
	}
	name := modelName{provider, model}
	p.mu.RLock()
	e := p.m[name]
	p.mu.RUnlock()
	if e != nil {
		if now := p.clock.Load(); e.used.Load() != now {
			e.used.Store(now)
		}
		return e.value
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if e := p.m[name]; e != nil {
		return e.value
	}
	if len(p.m) >= p.limit {
		p.drop()
	}
	e = &perModelEntry[T]{value: p.fresh()}
	e.used.Store(p.clock.Add(1))
	// The strings may be parts of a body, which they would keep in memory.
	p.m[modelName{strings.Clone(provider), strings.Clone(model)}] = e
	return e.value
}

func (p *perModel[T]) drop() {
	var victim modelName
	oldest, seen := ^uint64(0), 0
	for name, e := range p.m { // in random order
		if seen++; seen > perModelProbe {
			break
		}
		if used := e.used.Load(); used < oldest && (p.busy == nil || !p.busy(e.value)) {
			victim, oldest = name, used
		}
	}
	if oldest != ^uint64(0) {
		delete(p.m, victim)
	}
}
