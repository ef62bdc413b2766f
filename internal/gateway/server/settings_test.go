package server

import (
	"encoding/json"
	"reflect"
	"testing"
)

// FuzzSettings holds two promises: what is taken comes back the same when it is sent again, and a request that was refused changes nothing.
func FuzzSettings(f *testing.F) {
	f.Add([]byte(plainGateway), true)
	f.Add([]byte(`{"cache_invalidate_on_update":true,"cache_ttl":60,"collect_logs":false,"rate_limiting_interval":1,"rate_limiting_limit":1,"authentication":null,
		"dlp":{"enabled":true,"action":"MASK","profiles":["x","pii"]},"rules":[{"name":"x","pattern":"\\bx+\\b"}],"guardrails":{"prompt":{"S1":"BLOCK"},"response":null},
		"spend_limits":{"enabled":true,"rules":[{"limitType":"cost","limit":0.5,"window":60,"technique":"sliding","metadata":{"team":{"mode":"partition"}}}]},
		"otel":[],"stripe":null,"retry_backoff":"linear","retry_max_attempts":5,"created_at":"x"}`), false)
	f.Add([]byte(`{"dlp":{"enabled":1},"otel":{}}`), false)
	f.Add([]byte(`null`), true)
	f.Fuzz(func(t *testing.T, raw []byte, first bool) {
		old := DefaultSettings()
		old.DLP = &DLP{Enabled: true, Policies: []DLPPolicy{{ID: "p", Enabled: true, Action: "BLOCK", Check: []string{"REQUEST"}, Profiles: []string{"pii"}}}}
		before := mustJSON(t, old)
		base := &old
		if first {
			base = nil
		}
		s, problems := ParseSettings(raw, base)
		if after := mustJSON(t, old); after != before {
			t.Fatalf("the old settings changed from %s to %s", before, after)
		}
		for _, p := range problems {
			if p.Message == "" {
				t.Fatalf("problem %+v", p)
			}
		}
		if len(problems) > 0 {
			return
		}
		stored := mustJSON(t, s)
		again, problems := ParseSettings([]byte(stored), nil)
		if len(problems) > 0 || mustJSON(t, again) != stored {
			t.Fatalf("%s came back as %s, %v", stored, mustJSON(t, again), problems)
		}
		read, err := readSettings(json.RawMessage(stored))
		if err != nil || !reflect.DeepEqual(read, again) {
			t.Fatalf("stored %s, read %+v, %v", stored, read, err)
		}
		newGuard(&read) // doesn't panic on what was taken
	})
}

func mustJSON(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestDefaultSettingsPass: what the gateway "default" is made with could have been sent.
func TestDefaultSettingsPass(t *testing.T) {
	t.Parallel()
	s, problems := ParseSettings([]byte(mustJSON(t, DefaultSettings())), nil)
	if len(problems) > 0 || !s.Authentication || !s.CollectLogs || *s.CacheTTL != 0 || *s.RateLimitingLimit != 0 {
		t.Errorf("%+v, %v", s, problems)
	}
}
