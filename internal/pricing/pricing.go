// Package pricing says what tokens cost: a dated price table and exact arithmetic from usage to micro-dollars.
//
// A micro-dollar is a millionth of a US dollar. A [Price] is kept in micro-dollars per million tokens, the unit in
// which providers publish, so that every listed price is a whole number; a cost is a whole number of micro-dollars.
// No floating point takes part.
//
// A row may have a second set of rates for calls with a long context, which [Price.Cost] takes by itself, and one for the
// provider's batch interface, which is there to be looked up: no call is made by that way, so none is charged by it.
//
// What the table can't hold: priority or flexible tiers, time-of-day and per-request fees. A cost is therefore the list
// price of the standard tier. Where a provider reports what it charged, that wins, and that is the caller's decision.
package pricing

import (
	"math"
	"math/bits"
	"time"
)

// tokensPerPrice is how many tokens a price is for.
const tokensPerPrice = 1_000_000

// assumedMaxOutput stands in for an output limit that neither the request nor the table knows, in tokens. It is the
// usual limit of the large models in the table.
const assumedMaxOutput = 128_000

// Price is one row of the table: what a model cost from a date on, in micro-dollars per million tokens.
type Price struct {
	Provider  string    // slug, such as "openai"
	Model     string    // as listed; a lookup of a dated snapshot returns the row of the undated name; "*" is every model
	ValidFrom time.Time // UTC midnight, inclusive
	ValidTo   time.Time // UTC midnight, exclusive; zero for until a later row begins

	Input      int64 // uncached input
	Output     int64 // output, reasoning included
	CacheRead  int64 // input served from the provider's prefix cache
	CacheWrite int64 // input written to the provider's prefix cache

	CacheReadAssumed  bool // no price is listed for cache reads: Input stands in
	CacheWriteAssumed bool // no price is listed for cache writes: Input stands in
	Simulated         bool // a notional price of the provider simulator: no money is spent

	LongFrom int64 // a call with more input tokens than this, of all kinds together, is priced by Long; 0 for never
	Long     Rates
	Batch    Rates // of the provider's batch interface; zero when none is listed

	ContextWindow int // tokens, 0 if unknown
	MaxOutput     int // tokens an answer may have, 0 if unknown
}

// Rates are the four prices of one tier, in micro-dollars per million tokens.
type Rates struct{ Input, Output, CacheRead, CacheWrite int64 }

// Usage counts the tokens of one call. The four counts don't overlap: a provider that reports cached tokens inside its
// input count has them subtracted before they come here. Negative counts are taken as zero.
type Usage struct {
	Input      int64 // uncached input
	CacheRead  int64
	CacheWrite int64
	Output     int64 // reasoning included
}

// Cost returns what u costs in micro-dollars, rounded half up once, after adding. A cost beyond int64 is
// [math.MaxInt64].
func (p Price) Cost(u Usage) int64 {
	return divide(p.rates(u).weigh(u), tokensPerPrice, tokensPerPrice/2)
}

// CostNano is [Price.Cost] in nano-dollars, a thousandth of a micro-dollar each, for the cost of single small calls.
func (p Price) CostNano(u Usage) int64 {
	return divide(p.rates(u).weigh(u), tokensPerPrice/1000, tokensPerPrice/2000)
}

// WorstCase returns the most micro-dollars that a call can cost: every input token at the dearest input price, and the
// longest answer, rounded up. A maxOutput of zero or less means that the request sets no limit: then it is the model's
// own, else what its context window leaves, else 128,000 tokens. WorstCase is never below the [Price.Cost] of a call
// that stays within both counts.
func (p Price) WorstCase(inputTokens, maxOutput int64) int64 {
	if maxOutput <= 0 {
		switch {
		case p.MaxOutput > 0:
			maxOutput = int64(p.MaxOutput)
		case p.ContextWindow > 0:
			maxOutput = max(int64(p.ContextWindow)-max(inputTokens, 0), 1)
		default:
			maxOutput = assumedMaxOutput
		}
	}
	r := p.standard()
	if p.LongFrom > 0 && inputTokens > p.LongFrom { // a call with fewer tokens than that isn't a long one: the dearer of both
		r = Rates{max(r.Input, p.Long.Input), max(r.Output, p.Long.Output), max(r.CacheRead, p.Long.CacheRead), max(r.CacheWrite, p.Long.CacheWrite)}
	}
	r.Input = max(r.Input, r.CacheRead, r.CacheWrite)
	return divide(r.weigh(Usage{Input: inputTokens, Output: maxOutput}), tokensPerPrice, tokensPerPrice-1)
}

func (p Price) standard() Rates { return Rates{p.Input, p.Output, p.CacheRead, p.CacheWrite} }

// rates are those by which a call is priced.
func (p Price) rates(u Usage) Rates {
	if p.LongFrom > 0 {
		left := p.LongFrom // counts may be anything: their sum could overflow
		for _, n := range []int64{u.Input, u.CacheRead, u.CacheWrite} {
			if n > left {
				return p.Long
			}
			left -= max(n, 0)
		}
	}
	return p.standard()
}

// uint128 holds tokens times price. Four products of two non-negative int64 are below 2^128 with room to round.
type uint128 struct{ hi, lo uint64 }

func (r Rates) weigh(u Usage) uint128 {
	var sum uint128
	sum.addProduct(u.Input, r.Input)
	sum.addProduct(u.CacheRead, r.CacheRead)
	sum.addProduct(u.CacheWrite, r.CacheWrite)
	sum.addProduct(u.Output, r.Output)
	return sum
}

func (s *uint128) addProduct(tokens, price int64) {
	if tokens <= 0 || price <= 0 {
		return
	}
	hi, lo := bits.Mul64(uint64(tokens), uint64(price))
	s.add(hi, lo)
}

func (s *uint128) add(hi, lo uint64) {
	var carry uint64
	s.lo, carry = bits.Add64(s.lo, lo, 0)
	s.hi, _ = bits.Add64(s.hi, hi, carry)
}

// divide returns (s + rounding) / by, at most math.MaxInt64.
func divide(s uint128, by, rounding uint64) int64 {
	s.add(0, rounding)
	if s.hi >= by {
		return math.MaxInt64
	}
	quotient, _ := bits.Div64(s.hi, s.lo, by)
	return int64(min(quotient, math.MaxInt64))
}
