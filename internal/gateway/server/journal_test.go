package server

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"batchwright/internal/store"
)

func TestLogKeepsWhatItIsToldTo(t *testing.T) {
	t.Parallel()
	l := newLab(t, nil)
	l.script(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"error":"wrong key sk-provider-key"}`)
	})
	hidden := l.post("/openai/x", `{"my key":"sk-provider-key"}`, "Cf-Aig-Collect-Log", "false")
	heads := l.post("/openai/x", `{}`, "Cf-Aig-Collect-Log-Payload", "false")
	full := l.post("/openai/x?key=secret-in-query", `{"my key":"sk-provider-key"}`, "Cf-Aig-Metadata", `{"a":1,"b":"x"}`, "User-Agent", "tester/1")
	row := l.logged(full)
	if row.Path != "x" || string(row.Metadata) == "" || row.UserAgent != "tester/1" || row.RequestType != "native" || row.RequestContentType != "application/json" {
		t.Errorf("log %+v", row)
	}
	for response, want := range map[bool]string{false: `{"my key":"[redacted]"}`, true: `{"error":"wrong key [redacted]"}`} {
		body, _, err := l.db.GatewayLogBody(t.Context(), "acc", "gw", row.ID, response)
		if err != nil || string(body) != want {
			t.Errorf("kept %q, %v", body, err)
		}
	}
	row = l.logged(heads)
	if _, _, err := l.db.GatewayLogBody(t.Context(), "acc", "gw", row.ID, false); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("the payload was kept: %v", err)
	}
	if row.RequestSize != 2 || row.ResponseSize == 0 {
		t.Errorf("sizes %d, %d", row.RequestSize, row.ResponseSize)
	}
	if err := l.server.Close(); err != nil { // all is written then
		t.Fatal(err)
	}
	if _, err := l.db.GatewayLog(t.Context(), "acc", "gw", mustUUID(t, hidden.header.Get("Cf-Aig-Log-Id"))); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("a request that was to be left out is in the log: %v", err)
	}
}

func TestCustomCostIsExact(t *testing.T) {
	t.Parallel()
	l := newLab(t, nil)
	for header, want := range map[string]int64{
		`{"per_token_in":0.000001,"per_token_out":0.000002}`: 100*1000 + 10*2000,
		`{"per_token_in":0.1,"per_token_out":0.2}`:           100*100_000_000 + 10*200_000_000,
		`{"per_token_in":1e-12,"per_token_out":0}`:           0, // a ten-thousandth of a nano-dollar
		`{"total_cost":0.0123456789}`:                        12_345_679,
	} {
		row := l.logged(l.post("/openai/chat/completions", chatBody, "Cf-Aig-Custom-Cost", header))
		if !row.CustomCost || row.CostNanoUSD == nil || *row.CostNanoUSD != want {
			t.Errorf("%s: %+v", header, row.CostNanoUSD)
		}
	}
}

func TestSpendLimitHoldsAfterTheCostIsBooked(t *testing.T) {
	t.Parallel()
	l := newLab(t, map[string]any{"spend_limits": map[string]any{"enabled": true, "rules": []SpendRule{
		{ID: "r", LimitType: "cost", Limit: 0.00001, Window: 3600, Technique: "sliding", Metadata: map[string]SpendScope{"user": {Mode: "partition"}}}}}})
	ask := func(user string) reply {
		return l.post("/openai/chat/completions", chatBody, "Cf-Aig-Metadata", `{"user":"`+user+`"}`)
	}
	first := ask("a")
	l.logged(first) // it cost 0.000021 dollars
	if got := ask("a"); first.status != 200 || got.status != 429 || !strings.Contains(got.body, "spend limit") {
		t.Errorf("%d, then %d %s", first.status, got.status, got.body)
	}
	if got := ask("b"); got.status != 200 {
		t.Errorf("another user: %d %s", got.status, got.body)
	}
}
