package gateway

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math"
	"slices"
)

// Branch says when a step of a chain takes part, and which share of the requests it gets. The zero Branch always takes
// part, in its place.
type Branch struct {
	// Weight shares the load: neighbours with weights are put in an order that is drawn for each request, where each is
	// first as often as its weight says. The others stay behind it as its fallbacks.
	Weight float64 `json:"weight,omitempty"`
	// Percent gives the step this share of the requests, above 0 to 100, and leaves it out for the rest: a canary before
	// the usual steps, or two arms of a comparison. All percentages of a chain share one draw: with 10 and 20, the first
	// tenth takes the one, the next two tenths the other.
	Percent float64    `json:"percent,omitempty"`
	When    *Condition `json:"when,omitempty"`
}

// Condition is met when all that it names is.
type Condition struct {
	MinInputTokens int               `json:"min_input_tokens,omitempty"` // at least so many, as estimated
	MaxInputTokens int               `json:"max_input_tokens,omitempty"` // at most
	Metadata       map[string]string `json:"metadata,omitempty"`         // each key has this value
}

// Subject is the request that a chain is chosen for.
type Subject struct {
	Key         []byte // what it is: the same key draws the same, in every run
	InputTokens int
	Metadata    map[string]string
}

// CheckBranches finds what is out of range. The error is an *[Error] of class invalid_request; index is the branch's.
func CheckBranches(branches []Branch) (index int, err error) {
	total, sure := 0.0, 0.0 // sure: of the steps that hang on nothing but the draw
	for i, b := range branches {
		total += b.Percent
		if b.When == nil {
			sure += b.Percent
		}
		switch {
		case !(b.Weight >= 0) || b.Weight > 1e6:
			return i, invalid(codeOptions, "weight must be 0 to 1000000")
		case !(b.Percent >= 0) || b.Percent > 100:
			return i, invalid(codeOptions, "percent must be above 0 and at most 100")
		case total > 100+1e-9:
			return i, invalid(codeOptions, "the percentages add up to more than 100")
		case b.Weight > 0 && b.Percent > 0:
			return i, invalid(codeOptions, "a step has a weight or a percentage, not both")
		}
		if w := b.When; w != nil {
			switch {
			case w.MinInputTokens < 0 || w.MaxInputTokens < 0 || w.MaxInputTokens > 0 && w.MaxInputTokens < w.MinInputTokens:
				return i, invalid(codeOptions, "when: the input tokens must be a range from 0 on")
			case w.MinInputTokens == 0 && w.MaxInputTokens == 0 && len(w.Metadata) == 0:
				return i, invalid(codeOptions, "when: names no condition")
			}
		}
	}
	if !slices.ContainsFunc(branches, func(b Branch) bool { return b.When == nil && b.Percent == 0 }) && sure < 100-1e-9 {
		return len(branches) - 1, invalid(codeOptions, "some requests would have no step: the last one must take part without a condition or a percentage")
	}
	return 0, nil
}

// Choose returns which steps of a chain a request takes, by index, in the order in which they are tried. It depends on
// nothing but its arguments.
func Choose(branches []Branch, s Subject) []int {
	var out []int
	share := 100 * draw(s.Key, "percent")
	from := 0.0
	for i, b := range branches {
		if b.Percent > 0 {
			mine := share >= from && (share < from+b.Percent || from+b.Percent >= 100-1e-9) // the last share has no gap behind it
			from += b.Percent
			if !mine {
				continue
			}
		}
		if b.When.met(s) {
			out = append(out, i)
		}
	}
	for i := 0; i < len(out); {
		j := i
		for j < len(out) && branches[out[j]].Weight > 0 && (j == i || out[j] == out[j-1]+1) {
			j++
		}
		shuffle(out[i:j], branches, s.Key)
		i = max(j, i+1)
	}
	return out
}

func (c *Condition) met(s Subject) bool {
	if c == nil {
		return true
	}
	if s.InputTokens < c.MinInputTokens || c.MaxInputTokens > 0 && s.InputTokens > c.MaxInputTokens {
		return false
	}
	for name, want := range c.Metadata {
		if have, ok := s.Metadata[name]; !ok || have != want {
			return false
		}
	}
	return true
}

// shuffle orders by weight without replacement: each gets -ln(u)/weight, the smallest is first (Efraimidis and
// Spirakis, 2006).
func shuffle(steps []int, branches []Branch, key []byte) {
	if len(steps) < 2 {
		return
	}
	at := make(map[int]float64, len(steps))
	for _, i := range steps {
		at[i] = -math.Log(1-draw(key, fmt.Sprintf("weight %d", i))) / branches[i].Weight
	}
	slices.SortStableFunc(steps, func(a, b int) int {
		switch {
		case at[a] < at[b]:
			return -1
		case at[a] > at[b]:
			return 1
		}
		return a - b
	})
}

// draw returns a number from 0 up to 1 that depends on the key and the purpose only.
func draw(key []byte, purpose string) float64 {
	h := sha256.New()
	h.Write([]byte(purpose))
	h.Write([]byte{0})
	h.Write(key)
	return float64(binary.BigEndian.Uint64(h.Sum(nil))>>11) / (1 << 53)
}
