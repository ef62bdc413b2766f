package conformance_test

import (
	"testing"

	"go.uber.org/goleak"

	"batchwright/internal/gateway"
	"batchwright/internal/gateway/conformance"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestEngine runs the suite against the engine in this process.
func TestEngine(t *testing.T) {
	t.Parallel()
	conformance.Run(t, conformance.Target{Name: "engine", Kind: conformance.Engine, Open: openEngine, Known: map[string]string{}})
}

func openEngine(t *testing.T, s conformance.Setup) conformance.Subject {
	t.Helper()
	o := gateway.EngineOptions{Endpoints: map[string]gateway.Endpoint{}, MaxAnswerBytes: s.MaxAnswerBytes, Timeout: s.Timeout, Patience: s.Patience, Log: s.Log}
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
	return conformance.Subject{Gateway: e}
}
