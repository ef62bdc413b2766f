package bench

import (
	"bytes"
	"context"
	"os"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"batchwright/internal/extract"
)

// TestMain makes the test binary serve the simulated providers as well, as the bench starts itself for them.
func TestMain(m *testing.M) {
	extract.Main()
	if len(os.Args) > 1 && slices.Contains([]string{"-backend", "-proxy"}, os.Args[1]) {
		os.Exit(Main(context.Background(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
	}
	goleak.VerifyTestMain(m)
}

// TestQuickSuites runs every measurement once, small, on real services and processes: that the bench still measures is a test, what it measures
// isn't.
func TestQuickSuites(t *testing.T) {
	if os.Getenv("TEST_DATABASE_URL") == "" {
		t.Skip("TEST_DATABASE_URL is not set: run the tests with make test")
	}
	for _, s := range suites() {
		t.Run(s.name, func(t *testing.T) {
			var out, said bytes.Buffer
			if code := Main(t.Context(), []string{"-suite", s.name, "-quick", "-rounds", "1"}, strings.NewReader(""), &out, &said); code != 0 {
				t.Fatalf("exit code %d\n%s\n%s", code, out.String(), said.String())
			}
			for _, id := range s.ids() {
				if !strings.Contains(out.String(), "\n"+id+" ") {
					t.Errorf("no line of %s in\n%s", id, out.String())
				}
			}
		})
	}
}
