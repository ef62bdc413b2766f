package bench

import (
	"math"
	"os"
	"strings"
	"testing"
)

// TestForecastsHold runs 40 seeded batches and holds what they cost against their forecasts: bounds that a forecast without sense breaks
// (P90s for P50s, answers' lengths that aren't learnt, prices of another step), and chance doesn't.
func TestForecastsHold(t *testing.T) {
	if os.Getenv("TEST_DATABASE_URL") == "" {
		t.Skip("TEST_DATABASE_URL is not set: run the tests with make test")
	}
	s, err := parse([]string{"-suite", forecasts.name, "-quick"}, os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	l, err := open(t.Context(), s, &log)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := l.close(t.Context()); err != nil {
			t.Error(err)
		}
	}()
	all, err := l.foretell(t.Context(), 1000, 2)
	if err != nil {
		t.Fatalf("%v\n%s", err, log.String())
	}
	inside, below := 0, 0
	var off, wide []float64 // of those with some history
	for _, o := range all {
		if o.inside() {
			inside++
		}
		if o.cost <= o.forecast.CostMicrousd.P50 {
			below++
		}
		if o.forecast.HistoryBatches > 3 {
			p50 := float64(o.forecast.CostMicrousd.P50)
			off = append(off, math.Abs(float64(o.cost)/p50-1))
			wide = append(wide, float64(o.forecast.CostMicrousd.P90)/p50)
		}
	}
	n := len(all)
	t.Logf("of %d batches %d at or under P90, %d at or under P50; off by %.2f, P90 %.2f of P50", n, inside, below, median(off), median(wide))
	if n != 2*worldBatches || inside < n*3/4 || below < n/5 || below > n*9/10 || median(off) > 0.35 || median(wide) > 2 {
		t.Errorf("of %d batches %d at or under P90, %d at or under P50; off by %.2f, P90 %.2f of P50", n, inside, below, median(off), median(wide))
	}
}
