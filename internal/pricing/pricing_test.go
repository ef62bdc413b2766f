package pricing

import (
	"math"
	"math/big"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var today = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)

func lookup(t testing.TB, provider, model string) Price {
	t.Helper()
	p, ok := Default().Lookup(provider, model, today)
	if !ok {
		t.Fatalf("%s/%s is unknown", provider, model)
	}
	return p
}

func TestCost(t *testing.T) {
	t.Parallel()
	mini := lookup(t, "openai", "gpt-4o-mini")
	long := Price{Input: 1_000_000, Output: 1_000_000, CacheRead: 1_000_000, CacheWrite: 1_000_000, LongFrom: 200, Long: Rates{2_000_000, 2_000_000, 2_000_000, 2_000_000}}
	for _, c := range []struct {
		name  string
		price Price
		usage Usage
		want  int64
	}{
		// 7 x 0.15 + 4 x 0.075 + 7 x 0.6 = 5.55 micro-dollars.
		{"cached input", mini, Usage{Input: 7, CacheRead: 4, Output: 7}, 6},
		{"a million times cached input", mini, Usage{Input: 7e6, CacheRead: 4e6, Output: 7e6}, 5_550_000},
		{"nothing", mini, Usage{}, 0},
		{"below half", Price{Input: 499_999}, Usage{Input: 1}, 0},
		{"half", Price{Input: 500_000}, Usage{Input: 1}, 1},
		{"halves are added before rounding", Price{Input: 250_000, Output: 250_000}, Usage{Input: 1, Output: 1}, 1},
		{"negative counts are nothing", mini, Usage{Input: -5, Output: 1_000_000}, 600_000},
		{"cache writes", lookup(t, "anthropic", "claude-haiku-4-5"), Usage{CacheWrite: 1000}, 1250},
		{"cache reads without a price", lookup(t, "groq", "llama-3.1-8b-instant"), Usage{CacheRead: 1000}, 50},
		{"just not a long context", long, Usage{Input: 100, CacheRead: 50, CacheWrite: 50, Output: 1}, 201},
		{"a long context, cached tokens counted", long, Usage{Input: 100, CacheRead: 51, CacheWrite: 50, Output: 1}, 402 + 2},
		{"local", lookup(t, "local", "whatever"), Usage{Input: 1e9, Output: 1e9}, 0},
		{"simulator", lookup(t, "simulator", "any"), Usage{Input: 1e6, Output: 1e6}, 500_000},
		{"overflow", Price{Input: math.MaxInt64, Output: math.MaxInt64, CacheRead: math.MaxInt64, CacheWrite: math.MaxInt64},
			Usage{math.MaxInt64, math.MaxInt64, math.MaxInt64, math.MaxInt64}, math.MaxInt64},
		{"just no overflow", Price{Input: 1_000_000}, Usage{Input: math.MaxInt64}, math.MaxInt64},
	} {
		if got := c.price.Cost(c.usage); got != c.want {
			t.Errorf("%s: got %d, want %d", c.name, got, c.want)
		}
	}
}

func TestCostIsExact(t *testing.T) {
	t.Parallel()
	amount := rapid.OneOf(rapid.Int64(), rapid.Int64Range(0, 1_000_000))
	rapid.Check(t, func(t *rapid.T) {
		p := Price{
			Input: max(0, amount.Draw(t, "input")), Output: max(0, amount.Draw(t, "output")),
			CacheRead: max(0, amount.Draw(t, "read")), CacheWrite: max(0, amount.Draw(t, "write")),
			LongFrom: max(0, amount.Draw(t, "above")), Long: Rates{max(0, amount.Draw(t, "li")), max(0, amount.Draw(t, "lo")), max(0, amount.Draw(t, "lr")), max(0, amount.Draw(t, "lw"))},
		}
		u := Usage{amount.Draw(t, "i"), amount.Draw(t, "r"), amount.Draw(t, "w"), amount.Draw(t, "o")}
		sum, input := new(big.Int), new(big.Int)
		for _, n := range []int64{u.Input, u.CacheRead, u.CacheWrite} {
			input.Add(input, big.NewInt(max(n, 0)))
		}
		r := Rates{p.Input, p.Output, p.CacheRead, p.CacheWrite}
		if p.LongFrom > 0 && input.Cmp(big.NewInt(p.LongFrom)) > 0 {
			r = p.Long
		}
		for _, x := range [][2]int64{{u.Input, r.Input}, {u.CacheRead, r.CacheRead}, {u.CacheWrite, r.CacheWrite}, {u.Output, r.Output}} {
			sum.Add(sum, new(big.Int).Mul(big.NewInt(max(x[0], 0)), big.NewInt(x[1])))
		}
		for by, got := range map[int64]int64{tokensPerPrice: p.Cost(u), tokensPerPrice / 1000: p.CostNano(u)} {
			want := new(big.Int).Div(new(big.Int).Add(sum, big.NewInt(by/2)), big.NewInt(by))
			if !want.IsInt64() {
				want.SetInt64(math.MaxInt64)
			}
			if got != want.Int64() {
				t.Fatalf("by %d: got %d, want %d", by, got, want)
			}
		}
	})
}

func TestWorstCaseBoundsEveryCost(t *testing.T) {
	t.Parallel()
	price := rapid.Int64Range(0, 100_000_000)
	tokens := rapid.Int64Range(0, 2_000_000)
	rapid.Check(t, func(t *rapid.T) {
		p := Price{Input: price.Draw(t, "input"), Output: price.Draw(t, "output"), CacheRead: price.Draw(t, "read"), CacheWrite: price.Draw(t, "write")}
		if rapid.Bool().Draw(t, "long") {
			p.LongFrom, p.Long = max(tokens.Draw(t, "above"), 1), Rates{price.Draw(t, "li"), price.Draw(t, "lo"), price.Draw(t, "lr"), price.Draw(t, "lw")}
		}
		u := Usage{Input: tokens.Draw(t, "i"), CacheRead: tokens.Draw(t, "r"), CacheWrite: tokens.Draw(t, "w"), Output: tokens.Draw(t, "o")}
		worst := p.WorstCase(u.Input+u.CacheRead+u.CacheWrite, max(u.Output, 1))
		if cost := p.Cost(u); cost > worst {
			t.Fatalf("%+v of %+v costs %d, over the worst case %d", u, p, cost, worst)
		}
	})
}

func TestWorstCase(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name       string
		price      Price
		input, out int64
		want       int64
	}{
		{"cache write is dearer than input", lookup(t, "anthropic", "claude-haiku-4-5"), 1000, 100, 1250 + 500},
		{"no limit asked for: the model's", lookup(t, "openai", "gpt-4o-mini"), 0, 0, 9831}, // 16384 x 0.6 rounded up
		{"no limit at all", Price{Output: 1_000_000}, 0, 0, 128_000},
		{"what the context window leaves", Price{Output: 1_000_000, ContextWindow: 8192}, 8000, 0, 192},
		{"nothing is left", Price{Output: 1_000_000, ContextWindow: 8192}, 9000, 0, 1},
		{"rounded up", Price{Input: 1}, 1, 1, 1},
		{"free", Price{}, 1000, 1000, 0},
		{"overflow", Price{Output: math.MaxInt64}, 0, math.MaxInt64, math.MaxInt64},
	} {
		if got := c.price.WorstCase(c.input, c.out); got != c.want {
			t.Errorf("%s: got %d, want %d", c.name, got, c.want)
		}
	}
}
