package gateway

import (
	"encoding/json"
	"testing"
)

func TestCohereRequests(t *testing.T) {
	t.Parallel()
	encodesAs(t, "cohere", "wish", "command-a-03-2025", wish())
	plain := []Message{{"user", "List"}}
	encodesAs(t, "cohere", "edges", "command-a-03-2025", &Chat{Messages: plain, TopP: ptr(0.0), Seed: ptr(int64(-1))})
	encodesAs(t, "cohere", "top_p_one", "command-a-03-2025", &Chat{Messages: plain, TopP: ptr(1.0)})
	encodesAs(t, "cohere", "responses", "command-a-03-2025", &Chat{Messages: plain, API: "responses"})
}

func TestCohereRawChat(t *testing.T) {
	t.Parallel()
	s, err := NewRawStep("cohere", "m", json.RawMessage(`{"messages":[]}`), nil)
	if err != nil || s.Endpoint != "compatibility/v1/chat/completions" {
		t.Fatalf("step %+v, err %v", s, err)
	}
	base, err := ParseBase(reachOf(cohere{}).base)
	if err != nil {
		t.Fatal(err)
	}
	u, err := addressAt("cohere", base, s.Endpoint)
	if err != nil || u.String() != "https://api.cohere.com/compatibility/v1/chat/completions" {
		t.Errorf("%v, err %v", u, err)
	}
	if endpoint, body := (cohere{}).stream(s.Endpoint, s.Query); endpoint != s.Endpoint || string(body) != `{"stream":true,"messages":[]}` {
		t.Errorf("%s %s", endpoint, body)
	}
}
