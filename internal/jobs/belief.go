package jobs

import (
	"math"
	"math/rand/v2"
	"slices"
)

// A prior is what is thought of a quantity before any batch has shown it: the logarithm of, say, the mean length of a batch's answers. From
// one batch to the next it drifts by drift, a standard deviation; where it lies at all is known to within doubt.
type prior struct{ mean, doubt, drift float64 }

// seen is what one earlier batch has shown, and how much that counts: 1, or less when the batch was small.
type seen struct{ value, weight float64 }

// drifts is how many batches the prior's drift counts for.
const drifts = 3

// belief is a distribution of the next batch's quantity: Student's t, moved and scaled.
type belief struct{ mean, scale, freedom float64 }

// learn returns the posterior predictive distribution of a normal quantity whose mean and variance are both unknown, under the
// normal-inverse-χ² prior (Gelman et al., Bayesian Data Analysis, 3rd edition, section 3.3). So one history, or none, is
// wide, many that agree are narrow, and many that don't stay as wide as they were apart.
func (p prior) learn(history []seen) belief {
	before := p.drift * p.drift / max(p.doubt*p.doubt-p.drift*p.drift, 1e-9) // κ₀: the prior's mean counts as so many batches
	n, mean := 0.0, 0.0
	for _, s := range history {
		n += s.weight
		mean += s.weight * s.value
	}
	if n > 0 {
		mean /= n
	}
	squares := 0.0
	for _, s := range history {
		squares += s.weight * (s.value - mean) * (s.value - mean)
	}
	off := mean - p.mean
	all, freedom := before+n, drifts+n
	variance := (drifts*p.drift*p.drift + squares + before*n/all*off*off) / freedom
	return belief{(before*p.mean + n*mean) / all, math.Sqrt(variance * (all + 1) / all), freedom}
}

// draw returns a value of the distribution.
func (b belief) draw(r *rand.Rand) float64 {
	return b.mean + b.scale*r.NormFloat64()/math.Sqrt(gamma(r, b.freedom/2)*2/b.freedom)
}

// gamma draws from the gamma distribution of a shape and scale 1 (Marsaglia and Tsang, A Simple Method for Generating Gamma Variables, ACM
// Transactions on Mathematical Software 26, 2000).
func gamma(r *rand.Rand, shape float64) float64 {
	if shape < 1 {
		return gamma(r, shape+1) * math.Pow(1-r.Float64(), 1/shape)
	}
	d := shape - 1.0/3
	c := 1 / math.Sqrt(9*d)
	for {
		x := r.NormFloat64()
		v := 1 + c*x
		if v <= 0 {
			continue
		}
		v = v * v * v
		if math.Log(1-r.Float64()) < x*x/2+d-d*v+d*math.Log(v) {
			return d * v
		}
	}
}

// portion is a distribution of a share, 0 to 1: the beta distribution.
type portion struct{ a, b float64 }

func (s portion) draw(r *rand.Rand) float64 {
	a, b := gamma(r, s.a), gamma(r, s.b)
	if a+b == 0 { // both too small to tell
		return s.a / (s.a + s.b)
	}
	return a / (a + b)
}

// binomial draws how many of n come to pass, by the normal distribution where that is near enough.
func binomial(r *rand.Rand, n, p float64) float64 {
	switch {
	case n <= 0 || p <= 0:
		return 0
	case p >= 1:
		return n
	case n < 50:
		hit := 0.0
		for range int(n) {
			if r.Float64() < p {
				hit++
			}
		}
		return hit
	}
	return min(max(n*p+math.Sqrt(n*p*(1-p))*r.NormFloat64(), 0), n)
}

// quantile sorts values and returns the one at a share of them.
func quantile(values []float64, share float64) float64 {
	slices.Sort(values)
	return values[min(int(share*float64(len(values))), len(values)-1)]
}
