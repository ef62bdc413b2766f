package gateway

import (
	"encoding/json"
	"testing"
)

func TestWorkersAIRequests(t *testing.T) {
	t.Parallel()
	encodesAs(t, "workers-ai", "wish", "@cf/meta/llama-3.3-70b-instruct-fp8-fast", wish())
	plain := []Message{{"user", "List"}}
	encodesAs(t, "workers-ai", "seed_zero", "@cf/openai/gpt-oss-120b", &Chat{Messages: plain, Seed: ptr(int64(0))})
	encodesAs(t, "workers-ai", "seed_negative", "@cf/openai/gpt-oss-120b", &Chat{Messages: plain, Seed: ptr(int64(-1 << 63))})
	encodesAs(t, "workers-ai", "odd_model", "@cf/a b?c#d", &Chat{Messages: plain})
	encodesAs(t, "workers-ai", "responses", "@cf/openai/gpt-oss-120b", &Chat{Messages: plain, API: "responses"})
}

func TestWorkersAIAddresses(t *testing.T) {
	t.Parallel()
	const account = "https://api.cloudflare.com/client/v4/accounts/acct/ai/run"
	const gate = "https://gateway.ai.cloudflare.com/v1/acct/gw/workers-ai"
	for _, tt := range []struct{ base, endpoint, want string }{
		{account, "@cf/meta/llama-3.1-8b-instruct", account + "/@cf/meta/llama-3.1-8b-instruct"},
		{account + "/", "/@cf/m", account + "/@cf/m"},
		{account, "v1/chat/completions", "https://api.cloudflare.com/client/v4/accounts/acct/ai/v1/chat/completions"},
		{account + "/?x=1", "/v1/chat/completions?y=2", "https://api.cloudflare.com/client/v4/accounts/acct/ai/v1/chat/completions?x=1&y=2"},
		{gate, "@cf/m", gate + "/@cf/m"},
		{gate, "v1/chat/completions", gate + "/v1/chat/completions"},
		{account, "../../../user", ""},
		{account, "v1/../../../user", ""},
		{account, "@cf/../../x", ""},
	} {
		base, err := ParseBase(tt.base)
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		if u, err := addressAt("workers-ai", base, tt.endpoint); err == nil {
			got = u.String()
		}
		if got != tt.want {
			t.Errorf("%s at %s is %q, want %q", tt.endpoint, tt.base, got, tt.want)
		}
	}
	s, err := NewRawStep("workers-ai", "@cf/m", json.RawMessage(`{"messages":[]}`), nil)
	if err != nil || s.Endpoint != "v1/chat/completions" {
		t.Errorf("step %+v, err %v", s, err)
	}
}
