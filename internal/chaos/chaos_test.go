package chaos

import (
	"flag"
	"os"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	flag.Parse()
	goleak.VerifyTestMain(m)
}

// TestNothingIsLostOrPaidForTwiceUnderFaults is a short make chaos: three seeds at once, of real processes.
func TestNothingIsLostOrPaidForTwiceUnderFaults(t *testing.T) {
	t.Parallel()
	if os.Getenv("TEST_DATABASE_URL") == "" {
		t.Skip("TEST_DATABASE_URL is not set: run the tests with make test, on a machine that can start servers")
	}
	var out strings.Builder
	code := Main(t.Context(), []string{"-scenario", random, "-seeds", "3", "-first", "1"}, &out, &out)
	if text := out.String(); code != 0 || !strings.HasSuffix(text, "\n3 passed, 0 failed\n") {
		t.Errorf("exit code %d:\n%s", code, text)
	}
}

func TestASeedIsOnePlan(t *testing.T) {
	t.Parallel()
	for seed := range uint64(200) {
		a, b := strings.Join(draw(seed).lines(), "\n"), strings.Join(draw(seed).lines(), "\n")
		if a != b {
			t.Fatalf("seed %d made two plans:\n%s\n\n%s", seed, a, b)
		}
	}
}

// TestEveryFaultIsDrawn holds the random plans to their promise: in a few hundred seeds each fault and each point to die at has its turn.
func TestEveryFaultIsDrawn(t *testing.T) {
	t.Parallel()
	var all strings.Builder
	for seed := range uint64(600) {
		all.WriteString(strings.Join(draw(seed).lines(), "\n"))
	}
	want := append([]string{"vanishes", "twice at once", "cancel after", "pause after", "resume after", "retry after", "=skew:", "=sleep:"}, misbehaviour...)
	for act := range acts {
		want = append(want, act+" ")
	}
	for _, names := range points {
		want = append(want, names...)
	}
	for _, w := range want {
		if !strings.Contains(all.String(), w) {
			t.Errorf("no plan has %q", w)
		}
	}
}

func TestTheProviderKeepsItsBooks(t *testing.T) {
	t.Parallel()
	for _, how := range append([]string{good}, misbehaviour...) {
		p := newProvider(1, []spell{{until: 1 << 40, kind: how, share: 1}}, 2)
		if got, _ := p.draw("t1", first); got != how {
			t.Errorf("drawn is %q, want %q", got, how)
		}
		close(p.calm)
		if got, _ := p.draw("t1", first); got != good {
			t.Errorf("drawn in good weather is %q", got)
		}
	}
}
