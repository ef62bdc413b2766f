package server

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"batchwright/internal/gateway"
)

func TestOptionsFromHeaders(t *testing.T) {
	t.Parallel()
	base := options{collect: true, payload: true, attempts: 1}
	rows := []struct {
		name, value string
		ok          bool
		check       func(options) bool
	}{
		{"cf-aig-skip-cache", "true", true, func(o options) bool { return o.skipCache }},
		{"cf-skip-cache", "True", true, func(o options) bool { return o.skipCache }},
		{"cf-aig-skip-cache", "yes", false, nil},
		{"cf-aig-cache-ttl", "60", true, func(o options) bool { return o.ttl() == time.Minute }},
		{"cf-cache-ttl", "3600", true, func(o options) bool { return o.ttl() == time.Hour }},
		{"cf-aig-cache-ttl", "0", true, func(o options) bool { return o.ttl() == 0 }},
		{"cf-aig-cache-ttl", "2678400", true, func(o options) bool { return o.ttl() == 31*24*time.Hour }},
		{"cf-aig-cache-ttl", "59", false, nil},
		{"cf-aig-cache-ttl", "2678401", false, nil},
		{"cf-aig-cache-ttl", "-1", false, nil},
		{"cf-aig-cache-ttl", "1e3", false, nil},
		{"cf-aig-cache-key", "mine", true, func(o options) bool { return o.cacheKey == "mine" && o.ttl() == 5*time.Minute }},
		{"cf-aig-collect-log", "false", true, func(o options) bool { return !o.collect }},
		{"cf-aig-collect-log-payload", "false", true, func(o options) bool { return !o.payload && o.collect }},
		{"cf-aig-event-id", "row-1", true, func(o options) bool { return o.eventID == "row-1" }},
		{"cf-aig-request-timeout", "1500", true, func(o options) bool { return o.timeout == 1500*time.Millisecond }},
		{"cf-aig-request-timeout", "soon", false, nil},
		{"cf-aig-max-attempts", "5", true, func(o options) bool { return o.attempts == 5 }},
		{"cf-aig-max-attempts", "6", false, nil},
		{"cf-aig-max-attempts", "0", false, nil},
		{"cf-aig-retry-delay", "5000", true, func(o options) bool { return o.delay == 5*time.Second }},
		{"cf-aig-retry-delay", "5001", false, nil},
		{"cf-aig-backoff", "linear", true, func(o options) bool { return o.backoff == "linear" }},
		{"cf-aig-backoff", "quadratic", false, nil},
		{"cf-aig-byok-alias", "prod", true, func(o options) bool { return o.alias == "prod" }},
		{"cf-aig-no-wholesale", "true", true, func(options) bool { return true }},
		{"cf-aig-no-wholesale", "maybe", false, nil},
		{"cf-aig-zdr", "whatever", true, func(options) bool { return true }},
		{"cf-aig-request-timeout-ms", "x", true, func(o options) bool { return o.timeout == 0 }},
		{"cf-aig-custom-cost", `{"per_token_in":0.000001,"per_token_out":2e-6}`, true, func(o options) bool { return o.cost != nil }},
		{"cf-aig-custom-cost", `{"per_token_in":-1,"per_token_out":1}`, false, nil},
		{"cf-aig-custom-cost", `{"per_token_in":1e999999999,"per_token_out":1}`, false, nil},
		{"cf-aig-custom-cost", `{}`, false, nil},
		{"cf-aig-metadata", `{"user":"u","n":1.5,"ok":true,"no":null}`, true, func(o options) bool {
			return string(o.metadata) == `{"user":"u","n":1.5,"ok":true,"no":null}`
		}},
		{"cf-aig-metadata", `{"a":1,"b":2,"c":3,"d":4,"e":5,"f":6}`, true, func(o options) bool {
			return string(o.metadata) == `{"a":1,"b":2,"c":3,"d":4,"e":5}`
		}},
		{"cf-aig-metadata", `{"a":1,"b":{"c":2}}`, true, func(o options) bool { return o.metadata == nil }},
		{"cf-aig-metadata", `[1]`, false, nil},
		{"cf-aig-metadata", `not json`, false, nil},
	}
	for _, r := range rows {
		h := http.Header{}
		h.Set(r.name, r.value)
		got, f := base.with(h)
		if r.ok != (f == nil) {
			t.Errorf("%s: %s: %v", r.name, r.value, f)
		} else if r.ok && !r.check(got) {
			t.Errorf("%s: %s gives %+v", r.name, r.value, got)
		}
		if f != nil && (f.status != 400 || !strings.Contains(f.message, r.name)) {
			t.Errorf("%s: the refusal doesn't name the header: %d %s", r.name, f.status, f.message)
		}
	}
}

func TestPrecedenceOfOptions(t *testing.T) {
	t.Parallel()
	o := options{cacheTTL: time.Hour, attempts: 2, timeout: time.Second, delay: time.Second}
	request, _ := o.with(http.Header{"Cf-Aig-Max-Attempts": {"3"}, "Cf-Aig-Request-Timeout": {"30"}, "Cf-Cache-Ttl": {"60"}, "Cf-Aig-Cache-Ttl": {"120"}})
	step, _ := request.with(http.Header{"Cf-Aig-Request-Timeout": {"40"}, "Cf-Aig-Backoff": {"linear"}})
	config, _ := step.withConfig(&gateway.StepConfig{RequestTimeoutMS: 50, Backoff: "exponential"})
	if config.attempts != 3 || config.timeout != 50*time.Millisecond || config.backoff != "exponential" || config.delay != time.Second || config.cacheTTL != 2*time.Minute {
		t.Errorf("got %+v", config)
	}
	if _, f := o.withConfig(&gateway.StepConfig{MaxAttempts: 6}); f == nil {
		t.Error("six attempts were taken")
	}
}

func TestPauseGrows(t *testing.T) {
	t.Parallel()
	for backoff, want := range map[string][3]int{
		"": {100, 100, 100}, "constant": {100, 100, 100}, "linear": {100, 200, 300}, "exponential": {100, 200, 400},
	} {
		o := options{delay: 100 * time.Millisecond, backoff: backoff}
		for n := range 3 {
			if got := o.pause(n + 1); got != time.Duration(want[n])*time.Millisecond {
				t.Errorf("%s after attempt %d: %v", backoff, n+1, got)
			}
		}
	}
}

func FuzzMetadata(f *testing.F) {
	f.Add(`{"a":1,"b":"x","c":true,"d":null,"e":1e5,"f":"dropped"}`)
	f.Add(`{"a":{"b":1}}`)
	f.Add(`{"a":"\u0000"}`)
	f.Fuzz(func(t *testing.T, s string) {
		got, ok := flatMetadata([]byte(s))
		if !ok || got == nil {
			return
		}
		var m map[string]any
		if err := json.Unmarshal(got, &m); err != nil || len(m) > maxMetadata {
			t.Fatalf("%q gives %q", s, got)
		}
	})
}
