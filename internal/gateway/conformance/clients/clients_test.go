//go:build clients

package clients

import (
	"bytes"
	"context"
	"encoding/json"
	"maps"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestClients runs every client against one gateway. What each case promises, suites tells; what holds of all of them is in
// verify.
func TestClients(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 12*time.Minute)
	t.Cleanup(cancel) // after the gateway has stopped
	dir, node := installed(ctx, t)
	h := newHouse(ctx, t)
	t.Run("all", func(t *testing.T) { // it returns when the parallel ones have ended, before the gateway stops
		for name, s := range suites {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				ctx, cancel := context.WithTimeout(ctx, 4*time.Minute)
				defer cancel()
				p := newTap(t, h.addr)
				v := &visit{house: h, dir: dir, node: node, origin: p.origin()}
				said := s.run(ctx, t, v)
				h.verify(ctx, t, s, said, p.settled(ctx, t))
			})
		}
	})
}

// visit is what a client's process is given.
type visit struct {
	*house
	dir, node, origin string
}

// outcome is what a client said of a case.
type outcome struct {
	Case  string
	OK    bool
	Error string
}

// command prepares a program that sees nothing of this process' environment: no keys, no proxies.
func (v *visit) command(ctx context.Context, t *testing.T, name string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.WaitDelay = 5 * time.Second
	cmd.Dir = v.dir
	cmd.Env = []string{
		"GATEWAY_ORIGIN=" + v.origin, "PROVIDER_ORIGIN=" + v.stand.URL, "ACCOUNT=" + account, "TOKEN=" + v.token, "PROVIDER_KEY=" + providerKey,
		"HOME=" + t.TempDir(), "PATH=" + filepath.Dir(v.node) + ":/usr/bin:/bin", "NO_COLOR=1",
	}
	return cmd
}

// script runs a client's cases in Node.
func script(name string) func(context.Context, *testing.T, *visit) []outcome {
	return func(ctx context.Context, t *testing.T, v *visit) []outcome {
		return lines(t, v.command(ctx, t, v.node, name))
	}
}

// lines runs a program that prints a line of JSON for each case.
func lines(t *testing.T, cmd *exec.Cmd) (said []outcome) {
	t.Helper()
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Errorf("%s: %v\n%s\n%s", cmd.Path, err, out, stderr.Bytes())
	}
	for line := range strings.Lines(string(out)) {
		var o outcome
		if err := json.Unmarshal([]byte(line), &o); err != nil || o.Case == "" {
			t.Errorf("the client printed: %s", line)
			continue
		}
		said = append(said, o)
	}
	return said
}

// openaiGo builds and runs the client that is a module of its own.
func openaiGo(ctx context.Context, t *testing.T, v *visit) []outcome {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "openai-go")
	build := exec.CommandContext(ctx, "go", "build", "-o", bin, ".")
	build.Dir = "openai-go"
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return lines(t, v.command(ctx, t, bin))
}

// verify holds what a client said, what went over the wire, what the providers got and what the log says against each other.
func (h *house) verify(ctx context.Context, t *testing.T, s suite, said []outcome, exchanges map[string][]*exchange) {
	t.Helper()
	told := map[string]outcome{}
	for _, o := range said {
		told[o.Case] = o
	}
	for _, name := range slices.Sorted(maps.Keys(told)) {
		if _, ok := s.cases[name]; !ok {
			t.Errorf("%s is not in the table", name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(s.cases)) {
		w := s.cases[name]
		t.Run(name, func(t *testing.T) {
			o, ok := told[name]
			switch {
			case !ok:
				t.Fatal("the client didn't come to it")
			case !o.OK:
				t.Errorf("the client says: %s", o.Error)
			}
			h.verifyCase(ctx, t, w, exchanges[name], h.stand.of(name))
		})
	}
}
