package server

import (
	"maps"
	"math"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// spending holds what was spent lately, for limits in US dollars. It is this process's own: with several processes each
// lets a limit's whole amount through, and a restart forgets. What a request costs is booked when its answer was read, so
// requests at the same time overshoot, as Cloudflare documents for its own.
type spending struct {
	mu      sync.Mutex
	windows map[string]*spentWindow
}

const (
	spendSlots   = 60
	maxSpendKeys = 100_000 // beyond, windows that have nothing in them are forgotten
)

// spentWindow is a trailing window in slots, in nano-dollars.
type spentWindow struct {
	slot  int64 // number of the latest
	width time.Duration
	spent [spendSlots]int64
	sum   int64
}

func (w *spentWindow) forward(now time.Time) {
	slot := now.UnixNano() / int64(w.width)
	for n := min(slot-w.slot, spendSlots); n > 0; n-- {
		w.slot++
		i := w.slot % spendSlots
		w.sum -= w.spent[i]
		w.spent[i] = 0
	}
	w.slot = max(w.slot, slot)
}

// room reports whether a window has any left. Fixed windows are kept as trailing ones, which let through less.
func (s *spending) room(key string, limitUSD float64, window time.Duration) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	w := s.window(key, window)
	w.forward(time.Now())
	return float64(w.sum) < limitUSD*1e9
}

// book adds a cost to a window.
func (s *spending) book(key string, window time.Duration, nano int64) {
	if nano <= 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	w := s.window(key, window)
	w.forward(time.Now())
	nano = min(nano, math.MaxInt64/spendSlots-w.sum)
	w.spent[w.slot%spendSlots] += nano
	w.sum += nano
}

func (s *spending) window(key string, window time.Duration) *spentWindow {
	if w := s.windows[key]; w != nil {
		return w
	}
	if s.windows == nil {
		s.windows = map[string]*spentWindow{}
	}
	if len(s.windows) >= maxSpendKeys {
		now := time.Now()
		for k, w := range s.windows {
			if w.forward(now); w.sum == 0 {
				delete(s.windows, k)
			}
		}
	}
	width := max(window/spendSlots, 1)
	w := &spentWindow{width: width, slot: time.Now().UnixNano() / int64(width)}
	s.windows[key] = w
	return w
}

// booking is a window that a request's cost goes to.
type booking struct {
	key    string
	window time.Duration
}

// checkSpend asks the gateway's spend rules. All that apply must have room. The bookings are for when the cost is known.
func (c *passage) checkSpend(st *step) (f *refusal) {
	st.bookings = nil
	for i := range c.view.spend {
		r := &c.view.spend[i]
		key, applies := r.key(c, st)
		if !applies {
			continue
		}
		window := time.Duration(r.Window) * time.Second
		if !c.s.spending.room(key, r.Limit, window) {
			return &refusal{status: http.StatusTooManyRequests, code: aigRate, message: "a spend limit of the gateway is reached"}
		}
		st.bookings = append(st.bookings, booking{key, window})
	}
	return nil
}

// key names the window of a rule that a step falls under; false when the rule isn't about it.
func (r *SpendRule) key(c *passage, st *step) (string, bool) {
	parts := []string{"gateway-spend", c.view.account, c.view.id, r.ID}
	scope := func(s *SpendScope, values ...string) bool {
		if s == nil {
			return true
		}
		if s.Mode == "partition" {
			parts = append(parts, values[0])
			return true
		}
		return slices.ContainsFunc(values, func(v string) bool { return slices.Contains(s.Values, v) })
	}
	if !scope(r.Provider, st.provider) || !scope(r.Model, st.model, st.provider+"/"+st.model) {
		return "", false
	}
	for _, name := range slices.Sorted(maps.Keys(r.Metadata)) {
		s, value := r.Metadata[name], ""
		at, ok := member(st.opts.metadata, name)
		if ok {
			if value = string(at.Of(st.opts.metadata)); value[0] == '"' {
				value = textOf([]byte(value))
			}
		}
		if !ok && s.Mode != "partition" || !scope(&s, value) {
			return "", false
		}
	}
	return strings.Join(parts, "\x00"), true
}
