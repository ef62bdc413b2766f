package gateway_test

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"batchwright/internal/gateway"
	"batchwright/internal/gateway/gatewaytest"
)

// mixed returns a gateway whose remote part is a Universal Endpoint in this process.
func mixed(t *testing.T, s *gatewaytest.Script) gateway.Gateway {
	t.Helper()
	return gateway.Mix(universal(t, s), gatewaytest.NewEngine(t, gatewaytest.NewScript(nil)), false)
}

func TestMixConforms(t *testing.T) {
	gatewaytest.Conform(t, func(t *testing.T, s *gatewaytest.Script) gateway.Gateway { return mixed(t, s) })
}

func TestMix(t *testing.T) {
	t.Parallel()
	ok, down := gatewaytest.Text("x"), gatewaytest.Fail(503, "")
	tests := []struct {
		name      string
		chain     string
		openai, b answers
		calls     string
		class     gateway.Class
		step      int
		sends     int
	}{
		{name: "a built-in after remote ones", chain: "openai custom-b local", openai: answers{down}, b: answers{down}, calls: "openai openai custom-b custom-b openai openai custom-b custom-b", step: 2, sends: 3},
		{name: "a built-in first", chain: "local openai", step: 0, sends: 1},
		{name: "remote ones on both sides", chain: "openai simulator custom-b", openai: answers{gatewaytest.Fail(401, "")}, calls: "openai openai", step: 1, sends: 2},
		{name: "an invalid request stops the chain", chain: "openai local", openai: answers{gatewaytest.Fail(400, "invalid_json")}, calls: "openai openai", class: gateway.InvalidRequest, step: 0, sends: 1},
		{name: "a built-in that fails", chain: "badlocal openai custom-b", openai: answers{gatewaytest.Fail(401, "")}, b: answers{ok}, calls: "openai openai custom-b", step: 2, sends: 2},
		{name: "all fail", chain: "badlocal custom-b", b: answers{gatewaytest.Fail(404, "")}, calls: "custom-b custom-b", class: gateway.NotFound, step: 1, sends: 2},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := gatewaytest.NewScript(map[string][]gatewaytest.Answer{"openai": tt.openai, "custom-b": tt.b})
				req := chain(t, nil, strings.Fields(strings.ReplaceAll(tt.chain, "badlocal", "local"))...)
				if strings.HasPrefix(tt.chain, "badlocal") {
					req.Steps[0].Query = []byte(`{"model":"gone","messages":[]}`)
				}
				var book gatewaytest.Book
				resp, err := mixed(t, s).Run(t.Context(), req, book.Ledger)
				book.Check(t, len(req.Steps))
				if got := strings.Join(s.Providers(), " "); got != tt.calls {
					t.Errorf("called %s, want %s", got, tt.calls)
				}
				if n := len(book.Entries()); n != tt.sends {
					t.Errorf("%d sends, want %d", n, tt.sends)
				}
				if tt.class == gateway.OK {
					if err != nil || resp.Step != tt.step || resp.Sends != tt.sends {
						t.Errorf("answer %+v, err %v", resp, err)
					}
					return
				}
				e, ok := errors.AsType[*gateway.Error](err)
				if !ok || e.Class != tt.class || e.Step != tt.step || e.Provider != strings.Fields(tt.chain)[tt.step] {
					t.Errorf("error %+v", e)
				}
			})
		})
	}
}

func TestMixHasOneDeadline(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := gatewaytest.NewScript(map[string][]gatewaytest.Answer{"openai": {{Hang: true}}})
		req := chain(t, nil, "openai", "local", "openai")
		req.Options.Timeout = 10 * time.Second
		start := time.Now()
		_, err := mixed(t, s).Run(t.Context(), req, nil)
		if d := time.Since(start); d != 10*time.Second || gateway.ClassOf(err) != gateway.Timeout {
			t.Errorf("%v after %v", err, d)
		}
	})
}
