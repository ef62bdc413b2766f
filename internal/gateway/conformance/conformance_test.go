package conformance_test

import (
	"context"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"batchwright/internal/gateway"
	"batchwright/internal/gateway/conformance"
)

func TestMain(m *testing.M) {
	flag.Parse()
	if f := flag.Lookup("test.parallel"); f.Value.String() == f.DefValue {
		_ = f.Value.Set("16") // the cases wait more than they work
	}
	goleak.VerifyTestMain(m)
}

// known lists what a target doesn't pass yet, by the case's name, and why. It is here to become empty.
var known = map[conformance.Kind]map[string]string{
	conformance.Engine: {},
	conformance.Wire:   {},
	conformance.Client: {},
}

// TestEveryCaseIsRunOrAccountedFor holds the suite's size, and that nothing in it is skipped without a word.
func TestEveryCaseIsRunOrAccountedFor(t *testing.T) {
	t.Parallel()
	cases := conformance.Cases()
	names := map[string]bool{}
	for _, c := range cases {
		if c.Name == "" || names[c.Name] {
			t.Errorf("the name %q is missing or taken", c.Name)
		}
		names[c.Name] = true
		if len(c.Not) == len(conformance.Kinds) {
			t.Errorf("%q runs nowhere", c.Name)
		}
		for kind, why := range c.Not {
			if !slices.Contains(conformance.Kinds, kind) || len(why) < 20 {
				t.Errorf("%q doesn't say why it is not for %q", c.Name, kind)
			}
		}
	}
	for kind, list := range known {
		for name := range list {
			if !names[name] {
				t.Errorf("no case of the name %q is known to fail on %s", name, kind)
			}
		}
	}
	counts := []any{len(cases)}
	for _, kind := range conformance.Kinds {
		counts = append(counts, len(slices.DeleteFunc(slices.Clone(cases), func(c conformance.Case) bool { return c.Not[kind] != "" })))
	}
	doc, err := os.ReadFile("conformance.go")
	if err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprintf("There are %d cases: %d for the engine, %d for the wire, %d for the client.", counts...); !strings.Contains(string(doc), want) {
		t.Errorf("the package's comment doesn't say: %s", want)
	}
}

// TestEngine runs the suite against the engine in this process.
func TestEngine(t *testing.T) {
	t.Parallel()
	conformance.Run(t, conformance.Target{Kind: conformance.Engine, Open: openEngine, Known: known[conformance.Engine]})
}

func openEngine(t *testing.T, s conformance.Setup) conformance.Subject {
	t.Helper()
	shelf := &shelf{}
	cache := gateway.NewCache(gateway.CacheOptions{Shared: shelf, Log: s.Log})
	t.Cleanup(cache.Close)
	o := gateway.EngineOptions{Endpoints: map[string]gateway.Endpoint{}, MaxAnswerBytes: s.MaxAnswerBytes, Patience: s.Patience, IdleTimeout: s.Idle, Cache: cache, Log: s.Log}
	for _, name := range conformance.Providers {
		ep := gateway.Endpoint{BaseURL: s.Backend.Base(name), Key: conformance.Key(name)}
		if name == s.NoKey {
			ep.Key = ""
		}
		o.Endpoints[name] = ep
	}
	e, err := gateway.NewEngine(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	return conformance.Subject{Gateway: e, Kept: shelf.kept}
}

// shelf is a shared level of a cache that notes for how long each answer is kept. Without a level of its own below,
// it holds nothing.
type shelf struct {
	below gateway.SharedCache

	mu   sync.Mutex
	ttls []time.Duration
}

var _ gateway.SharedCache = (*shelf)(nil)

// GetAnswer implements gateway.SharedCache. On a loaded machine it may take longer than a cache allows, which would then do without it for a while.
func (s *shelf) GetAnswer(ctx context.Context, key string) (*gateway.Cached, error) {
	if s.below == nil {
		return nil, nil
	}
	return s.below.GetAnswer(context.WithoutCancel(ctx), key)
}

// PutAnswer implements gateway.SharedCache.
func (s *shelf) PutAnswer(ctx context.Context, key string, c *gateway.Cached, ttl time.Duration) error {
	s.mu.Lock()
	s.ttls = append(s.ttls, ttl)
	s.mu.Unlock()
	if s.below == nil {
		return nil
	}
	return s.below.PutAnswer(ctx, key, c, ttl)
}

// DeleteAnswers implements gateway.SharedCache.
func (s *shelf) DeleteAnswers(ctx context.Context, prefix string) error {
	if s.below == nil {
		return nil
	}
	return s.below.DeleteAnswers(ctx, prefix)
}

func (s *shelf) kept() []time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.ttls)
}
