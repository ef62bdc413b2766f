package gateway

import (
	"encoding/json"
	"testing"
)

func TestGoogleRequests(t *testing.T) {
	t.Parallel()
	encodesAs(t, "google-ai-studio", "wish", "gemini-3.8-flash", wish())
	seed := wish()
	seed.Seed = ptr(int64(-1))
	encodesAs(t, "google-ai-studio", "large_seed", "models/gemini-3.8-flash", seed)
	plain := []Message{{"user", "List"}}
	encodesAs(t, "google-ai-studio", "tuned", "tunedModels/mine-1", &Chat{Messages: plain, Stable: Stable{Bytes: 2}})
	encodesAs(t, "google-ai-studio", "system_alone", "gemini-3.8-flash", &Chat{Messages: []Message{{"system", "Say hello."}}})
	encodesAs(t, "google-ai-studio", "blank", "gemini-3.8-flash", &Chat{Messages: []Message{{"user", ""}}})
	encodesAs(t, "google-ai-studio", "responses", "gemini-3.8-flash", &Chat{Messages: plain, API: "responses"})
}

// A model's name can't lead a request, and the key with it, to another path.
func TestGoogleModelNames(t *testing.T) {
	t.Parallel()
	base, err := ParseBase("https://generativelanguage.googleapis.com")
	if err != nil {
		t.Fatal(err)
	}
	for model, want := range map[string]string{
		"gemini-3.8-flash":        "/v1beta/models/gemini-3.8-flash:generateContent",
		"models/gemini-3.8-flash": "/v1beta/models/gemini-3.8-flash:generateContent",
		"a/b":                     "/v1beta/models/a%2Fb:generateContent",
		"a?key=x#y":               "/v1beta/models/a%3Fkey=x%23y:generateContent",
		"a b%2e":                  "/v1beta/models/a%20b%252e:generateContent",
		"../../other":             "", "models/..": "/v1beta/models/..:generateContent", "a/../b": "", "..": "/v1beta/models/..:generateContent",
	} {
		s, err := NewStep("google-ai-studio", model, &Chat{Messages: []Message{{"user", "hi"}}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		if u, err := addressAt("google-ai-studio", base, s.Endpoint); err == nil {
			got = u.EscapedPath()
			if u.RawQuery != "" || u.Fragment != "" {
				t.Errorf("%q: %v", model, u)
			}
		}
		if got != want {
			t.Errorf("%q is at %q, want %q", model, got, want)
		}
	}
}

func TestGoogleStreamsAtAnotherEndpoint(t *testing.T) {
	t.Parallel()
	body := json.RawMessage(`{"contents":[]}`)
	endpoint, got := google{}.stream("v1beta/models/m:generateContent", body)
	if endpoint != "v1beta/models/m:streamGenerateContent?alt=sse" || string(got) != string(body) {
		t.Errorf("%s %s", endpoint, got)
	}
	s, err := NewRawStep("google-ai-studio", "m", json.RawMessage(`{"messages":[]}`), nil)
	if err != nil || s.Endpoint != "v1beta/openai/chat/completions" {
		t.Errorf("step %+v, err %v", s, err)
	}
}
