package server

import (
	"encoding/json"
	"math"
	"math/big"
	"strings"
	"time"

	"batchwright/internal/gateway"
	"batchwright/internal/pricing"
)

// customCost is what cf-aig-custom-cost says: rates in US dollars a token, or the price of the whole request. Decimals
// are exact, whatever their number.
type customCost struct {
	raw                         json.RawMessage
	in, out, readRate, writRate *big.Rat
	total                       *big.Rat // replaces the rates
}

// parseCost reads the header. It reports false for what is not the documented object.
func parseCost(raw []byte) (*customCost, bool) {
	if len(raw) > 1024 {
		return nil, false
	}
	var v struct {
		In    *json.Number `json:"per_token_in"`
		Out   *json.Number `json:"per_token_out"`
		Read  *json.Number `json:"per_cache_read_token"`
		Write *json.Number `json:"per_cache_write_token"`
		Total *json.Number `json:"total_cost"`
	}
	if json.Unmarshal(raw, &v) != nil {
		return nil, false
	}
	c := &customCost{raw: raw}
	ok := true
	read := func(n *json.Number) *big.Rat {
		if n == nil {
			return nil
		}
		r, good := decimal(n.String())
		ok = ok && good
		return r
	}
	c.in, c.out, c.readRate, c.writRate, c.total = read(v.In), read(v.Out), read(v.Read), read(v.Write), read(v.Total)
	if !ok || c.total == nil && (c.in == nil || c.out == nil) {
		return nil, false
	}
	return c, true
}

// decimal reads a number that is not negative. The exponent is bounded, because a rational of 1e999999 fills memory.
func decimal(s string) (*big.Rat, bool) {
	if _, exp, ok := strings.Cut(strings.ToLower(s), "e"); ok && len(strings.TrimLeft(exp, "+-")) > 2 {
		return nil, false
	}
	r, ok := new(big.Rat).SetString(s)
	return r, ok && r.Sign() >= 0
}

// nano returns the cost in nano-dollars, rounded half up once, after adding. Without rates for the prefix cache its
// tokens are input; once either rate is given, the other is the input's.
func (c *customCost) nano(u gateway.Usage) int64 {
	sum := c.total
	if sum == nil {
		sum = new(big.Rat)
		add := func(rate *big.Rat, tokens int64) {
			if rate == nil {
				rate = c.in
			}
			sum.Add(sum, new(big.Rat).Mul(rate, new(big.Rat).SetInt64(max(tokens, 0))))
		}
		add(c.in, u.Input)
		add(c.readRate, u.CacheRead)
		add(c.writRate, u.CacheWrite)
		add(c.out, u.Output)
	}
	scaled := new(big.Rat).Mul(sum, new(big.Rat).SetInt64(1e9))
	scaled.Add(scaled, big.NewRat(1, 2))
	whole := new(big.Int).Quo(scaled.Num(), scaled.Denom())
	if !whole.IsInt64() {
		return math.MaxInt64
	}
	return whole.Int64()
}

// listCost is what the provider or else the price table says, in nano-dollars; nil when the model or the usage is unknown.
func listCost(prices *pricing.Table, provider, model string, u gateway.Usage, at time.Time) *int64 {
	if u.Cost > 0 { // what the provider says it charged: fees and routing included
		cost := min(u.Cost, math.MaxInt64/1000) * 1000
		return &cost
	}
	if prices == nil || !u.Known || model == "" {
		return nil
	}
	p, ok := prices.Lookup(provider, model, at)
	if !ok {
		return nil
	}
	cost := p.CostNano(u.Priced())
	return &cost
}
