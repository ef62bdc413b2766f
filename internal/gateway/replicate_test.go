package gateway

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"
)

func TestReplicateRequests(t *testing.T) {
	t.Parallel()
	encodesAs(t, "replicate", "wish", "meta/meta-llama-3-70b-instruct", wish())
	encodesAs(t, "replicate", "version", "me/mine:5c7d5dc6dd8bf75c1acaa8565735e7986bc5b66206b55cca93cb72c9bf15ccaa", chats["plain"])
	encodesAs(t, "replicate", "ends_with_the_assistant", "a/b", &Chat{Messages: []Message{{"user", "Count."}, {"assistant", "One, two,"}}})
	encodesAs(t, "replicate", "responses", "a/b", &Chat{Messages: []Message{{"user", "x"}}, API: "responses"})
	for _, model := range []string{"m", "a/b/c", "/b", "a/", "../b", "a/..", "a/b:", "a/b:latest", "a/b?x", "a/b%2f", "a b/c"} {
		if _, err := NewStep("replicate", model, chats["plain"], nil); ClassOf(err) != InvalidRequest {
			t.Errorf("model %q: %v", model, err)
		}
	}
	if _, err := NewRawStep("replicate", "a/b", json.RawMessage(`{"messages":[]}`), nil); ClassOf(err) != InvalidRequest {
		t.Errorf("a raw body: %v", err)
	}
}

// What is asked for again is built from the id alone, and from none that isn't one.
func TestReplicateFollowsIDsOnly(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		status   int
		id, says string
		want     string
	}{
		{201, "gm3qorzdhgbfurvjtvhg6dckhu", "starting", "v1/predictions/gm3qorzdhgbfurvjtvhg6dckhu"},
		{202, "a1", "processing", "v1/predictions/a1"},
		{200, "a1", "succeeded", ""},
		{200, "a1", "failed", ""},
		{500, "a1", "starting", ""},
		{201, "", "starting", ""},
		{201, "../x", "starting", ""},
		{201, "a/b", "starting", ""},
		{201, "a?b", "starting", ""},
		{201, "A1", "starting", ""},
		{201, strings.Repeat("a", 65), "starting", ""},
	} {
		body := fmt.Sprintf(`{"id":%q,"status":%q,"urls":{"get":"https://evil.example/x"}}`, tt.id, tt.says)
		got, ok := replicate{}.pending(tt.status, []byte(body))
		if got != tt.want || ok != (tt.want != "") {
			t.Errorf("%d %s: %q, %v", tt.status, body, got, ok)
		}
	}
	for _, body := range []string{"", "null", "[]", `{"id":7,"status":"starting"}`, `{"status":"starting"`} {
		if got, ok := (replicate{}).pending(201, []byte(body)); ok {
			t.Errorf("%s is followed to %q", body, got)
		}
	}
}

func TestWaitInWords(t *testing.T) {
	t.Parallel()
	for words, want := range map[string]time.Duration{
		"Your rate limit resets in ~30s.": 30 * time.Second, "resets in 1.5m": 90 * time.Second, "Expected available in 1 second.": time.Second,
		"resets in 2h": 2 * time.Hour, "resets in 999999h": 0, "resets soon": 0, "": 0, "30s": 0,
	} {
		if got := waitInWords(words); got != want {
			t.Errorf("%q is %v, want %v", words, got, want)
		}
	}
}
