package server

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
)

func dlp(action string, check ...string) map[string]any {
	return map[string]any{
		"rules": []Rule{{Name: "project", Pattern: `Project [A-Z]\w+`}},
		"dlp": map[string]any{"enabled": true, "policies": []DLPPolicy{
			{ID: "p1", Enabled: true, Action: action, Check: check, Profiles: []string{"email", "project", "secrets"}}}},
	}
}

const leaky = `{"model":"m","messages":[{"role":"user","content":"I am bob@example.com of Project Xanadu, key AKIAIOSFODNN7EXAMPLE"}]}`

func dlpHeader(t *testing.T, r reply) (action string, profiles []string) {
	t.Helper()
	var v struct {
		Findings []struct {
			Profile struct {
				ProfileID string   `json:"profile_id"`
				EntryIDs  []string `json:"entry_ids"`
			} `json:"profile"`
			PolicyIDs []string `json:"policy_ids"`
			Check     string   `json:"check"`
		} `json:"findings"`
		Action string `json:"action"`
	}
	raw := r.header.Get("Cf-Aig-Dlp")
	if raw == "" {
		return "", nil
	}
	if err := json.Unmarshal([]byte(raw), &v); err != nil {
		t.Fatalf("cf-aig-dlp %q: %v", raw, err)
	}
	for _, f := range v.Findings {
		profiles = append(profiles, f.Check+":"+f.Profile.ProfileID)
	}
	return v.Action, profiles
}

func TestRequestsAreFlaggedBlockedOrMasked(t *testing.T) {
	t.Parallel()
	for _, r := range []struct {
		action       string
		status, code int
		sent, logged string
	}{
		{"FLAG", 200, -1, leaky, leaky},
		{"BLOCK", 400, 2029, "", "[EMAIL] of [PROJECT], key [AWS_KEY]"},
		{"MASK", 200, -1, `{"model":"m","messages":[{"role":"user","content":"I am [EMAIL] of [PROJECT], key [AWS_KEY]"}]}`, "[EMAIL] of [PROJECT]"},
	} {
		l := newLab(t, dlp(r.action, "REQUEST"))
		got := l.post("/openai/chat/completions", leaky)
		if got.status != r.status || r.code > 0 && got.code() != r.code {
			t.Errorf("%s: %d %s", r.action, got.status, got.body)
		}
		if r.sent == "" {
			if len(l.requests()) != 0 {
				t.Errorf("%s: the request reached the provider", r.action)
			}
		} else if l.last().body != r.sent {
			t.Errorf("%s: sent %s", r.action, l.last().body)
		}
		if action, profiles := dlpHeader(t, got); action != r.action || strings.Join(profiles, " ") != "REQUEST:email REQUEST:project REQUEST:secrets" {
			t.Errorf("%s: cf-aig-dlp says %s %v", r.action, action, profiles)
		}
		row := l.logged(got)
		body, _, err := l.db.GatewayLogBody(t.Context(), "acc", "gw", row.ID, false)
		if err != nil || row.DLPAction != r.action || !strings.Contains(string(body), r.logged) {
			t.Errorf("%s: log %s %q %v", r.action, row.DLPAction, body, err)
		}
	}
}

func TestAnswersAreFlaggedBlockedOrMasked(t *testing.T) {
	t.Parallel()
	answer := `{"model":"m","choices":[{"message":{"content":"write to bob@example.com"}}],"usage":{"prompt_tokens":5,"completion_tokens":4}}`
	for _, r := range []struct {
		action, body string
		status       int
	}{
		{"FLAG", answer, 200}, {"BLOCK", `"internalCode":2030`, 400}, {"MASK", strings.Replace(answer, "bob@example.com", "[EMAIL]", 1), 200},
	} {
		settings := dlp(r.action, "RESPONSE")
		settings["cache_ttl"] = 60
		l := newLab(t, settings, withCache(t))
		l.script(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, answer)
		})
		got := l.post("/openai/chat/completions", leaky)
		if got.status != r.status || !strings.Contains(got.body, r.body) {
			t.Errorf("%s: %d %s", r.action, got.status, got.body)
		}
		if action, _ := dlpHeader(t, got); action != r.action {
			t.Errorf("%s: cf-aig-dlp says %s", r.action, action)
		}
		again := l.post("/openai/chat/completions", leaky)
		want := map[bool]string{true: "MISS", false: "HIT"}[r.action == "BLOCK"]
		if again.header.Get("Cf-Aig-Cache-Status") != want || again.body != got.body && r.action != "BLOCK" {
			t.Errorf("%s: the second request is a %s: %s", r.action, again.header.Get("Cf-Aig-Cache-Status"), again.body)
		}
		if row := l.logged(got); row.DLPAction != r.action || r.status == 200 && row.TokensOut != 4 {
			t.Errorf("%s: log %+v", r.action, row)
		}
	}
}

func TestStreamIsHeldBackWhereAnswersAreChecked(t *testing.T) {
	t.Parallel()
	l := newLab(t, dlp("MASK", "RESPONSE"))
	l.script(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = io.WriteString(w, "data: {\"choices\":[{\"delta\":{\"content\":\"bob@exa\"}}]}\n\ndata: {\"choices\":[{\"delta\":{\"content\":\"mple.com!\"}}]}\n\ndata: [DONE]\n\n")
	})
	got := l.post("/openai/chat/completions", `{"stream":true}`)
	if got.body != "data: {\"choices\":[{\"delta\":{\"content\":\"[EMAIL]\"}}]}\n\ndata: {\"choices\":[{\"delta\":{\"content\":\"!\"}}]}\n\ndata: [DONE]\n\n" {
		t.Errorf("got %q", got.body)
	}
}

func TestGuardrailsAnswerInTheirCodes(t *testing.T) {
	t.Parallel()
	l := newLab(t, map[string]any{"guardrails": map[string]any{"prompt": map[string]string{"S7": "BLOCK", "S1": "FLAG"}, "response": map[string]string{}}})
	if got := l.post("/openai/x", leaky); got.status != 424 || got.code() != 2016 {
		t.Errorf("prompt: %d %s", got.status, got.body)
	}
	l.gateway("gw", map[string]any{"guardrails": map[string]any{"prompt": map[string]string{}, "response": map[string]string{"S7": "BLOCK"}}})
	l.script(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{"a":"bob@example.com"}`) })
	if got := l.post("/openai/x", `{}`); got.status != 424 || got.code() != 2017 {
		t.Errorf("answer: %d %s", got.status, got.body)
	}
	l.gateway("gw", map[string]any{"guardrails": map[string]any{"prompt": map[string]string{"S1": "BLOCK"}, "response": map[string]string{}}})
	if got := l.post("/openai/x", `{}`); got.status != 503 || got.code() != 7013 {
		t.Errorf("a category that nothing here can judge: %d %s", got.status, got.body)
	}
}

func TestBlockedRequestLeavesByNoOtherStep(t *testing.T) {
	t.Parallel()
	l := newLab(t, dlp("BLOCK", "REQUEST"))
	chain := `[{"provider":"openai","endpoint":"x","headers":{"Authorization":"Bearer k"},"query":` + leaky + `},
		{"provider":"groq","endpoint":"x","headers":{"Authorization":"Bearer k"},"query":{"clean":1}}]`
	if got := l.do(http.MethodPost, l.url, chain); got.status != 400 || got.code() != 2029 || len(l.requests()) != 0 {
		t.Errorf("%d %s", got.status, got.body)
	}
}
