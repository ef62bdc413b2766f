package jobs

import (
	"math"
	"math/rand/v2"
	"testing"
)

// The predictive distribution holds what it promises when the world is as the prior says: batches drift by some standard deviation around a
// mean that is known only to within doubt, and the forecaster sees k of them.
func TestBeliefsHoldNextBatchNineTimesInTen(t *testing.T) {
	t.Parallel()
	p := prior{mean: 5, doubt: 0.9, drift: 0.12}
	for _, k := range []int{0, 1, 3, 20} {
		r := rand.New(rand.NewPCG(1, uint64(k)))
		const worlds = 4000
		inside := 0
		for range worlds {
			// σ² is scaled inverse χ², and the mean's variance goes with it, as in the prior.
			sigma := p.drift * math.Sqrt(drifts/(2*gamma(r, drifts/2.0)))
			mean := p.mean + sigma*math.Sqrt(p.doubt*p.doubt/(p.drift*p.drift)-1)*r.NormFloat64()
			var history []seen
			for range k {
				history = append(history, seen{mean + sigma*r.NormFloat64(), 1})
			}
			b := p.learn(history)
			next := mean + sigma*r.NormFloat64()
			draws := make([]float64, 300)
			for i := range draws {
				draws[i] = b.draw(r)
			}
			if next <= quantile(draws, 0.9) {
				inside++
			}
		}
		if share := float64(inside) / worlds; share < 0.88 || share > 0.92 {
			t.Errorf("after %d batches %.3f of the next ones are at or under P90, want 0.90", k, share)
		}
	}
}

func TestBeliefsNarrowWithHistory(t *testing.T) {
	t.Parallel()
	p := prior{mean: 0, doubt: 1, drift: 0.1}
	none := p.learn(nil)
	if math.Abs(none.scale-1) > 1e-9 || none.mean != 0 {
		t.Errorf("without history %+v, want the prior's mean and doubt", none)
	}
	same := make([]seen, 50)
	for i := range same {
		same[i] = seen{2, 1}
	}
	many := p.learn(same)
	if math.Abs(many.mean-2) > 0.01 || many.scale > 0.06 {
		t.Errorf("after 50 batches that agree %+v", many)
	}
	for i := range same {
		same[i].value = 2 + 0.5*float64(1-2*(i%2))
	}
	if apart := p.learn(same); apart.scale < 0.4 || apart.scale > 0.6 {
		t.Errorf("after 50 batches that differ by 0.5 %+v", apart)
	}
	if few := p.learn([]seen{{2, 0.01}}); few.mean > 1 || few.scale < 0.5 {
		t.Errorf("after one batch that counts for little %+v", few)
	}
}

func TestDrawsHaveTheirMoments(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(3, 4))
	const n = 40_000
	for name, c := range map[string]struct {
		draw           func() float64
		mean, variance float64
	}{
		"gamma 0.3":      {func() float64 { return gamma(r, 0.3) }, 0.3, 0.3},
		"gamma 7":        {func() float64 { return gamma(r, 7) }, 7, 7},
		"beta":           {func() float64 { return portion{2, 6}.draw(r) }, 0.25, 0.25 * 0.75 / 9},
		"few":            {func() float64 { return binomial(r, 20, 0.3) }, 6, 4.2},
		"many":           {func() float64 { return binomial(r, 1000, 0.3) }, 300, 210},
		"all of them":    {func() float64 { return binomial(r, 10, 1) }, 10, 0},
		"none of them":   {func() float64 { return binomial(r, 10, 0) }, 0, 0},
		"of none":        {func() float64 { return binomial(r, 0, 0.5) }, 0, 0},
		"student's t, 9": {func() float64 { return belief{1, 2, 9}.draw(r) }, 1, 4 * 9.0 / 7},
	} {
		sum, squares := 0.0, 0.0
		for range n {
			v := c.draw()
			sum += v
			squares += v * v
		}
		mean := sum / n
		variance := squares/n - mean*mean
		if math.Abs(mean-c.mean) > 5*math.Sqrt(c.variance/n)+1e-9 || math.Abs(variance-c.variance) > 0.1*c.variance+1e-9 {
			t.Errorf("%s: mean %.4f, variance %.4f; want %.4f, %.4f", name, mean, variance, c.mean, c.variance)
		}
	}
}
