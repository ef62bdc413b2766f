package gateway

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
)

func TestFailureClasses(t *testing.T) {
	t.Parallel()
	cf := func(code int) string {
		return fmt.Sprintf(`{"success":false,"result":[],"messages":[],"error":[{"code":%d,"message":"x"}]}`, code)
	}
	openai := func(code, kind string) string {
		return fmt.Sprintf(`{"error":{"message":"x","type":%q,"code":%q}}`, kind, code)
	}
	tests := []struct {
		status int
		body   string
		class  Class
		unsure bool
	}{
		// the status alone
		{400, ``, InvalidRequest, false}, {401, ``, Auth, false}, {402, ``, Quota, false}, {403, ``, Auth, false},
		{404, ``, NotFound, false}, {405, ``, NotFound, false}, {408, ``, Timeout, false}, {409, ``, Server, false},
		{413, ``, Unsupported, false}, {418, ``, Unknown, false}, {422, ``, InvalidRequest, false}, {424, ``, Unknown, false},
		{429, ``, RateLimited, false}, {498, ``, Overloaded, false}, {500, ``, Server, false}, {502, ``, Server, false},
		{503, ``, Overloaded, false}, {504, ``, Timeout, true}, {524, ``, Timeout, true}, {529, ``, Overloaded, false},
		{599, ``, Server, false}, {301, ``, Unknown, false}, {100, ``, Unknown, false},
		// the code before the status
		{429, openai("insufficient_quota", ""), Quota, false},
		{429, openai("organization_spend_limit_exceeded", "insufficient_quota"), Quota, false},
		{429, openai("slow_down", "requests"), RateLimited, false},
		{429, openai("rate_limit_exceeded", "tokens"), RateLimited, false},
		{402, openai("in_flight_budget_exhausted", ""), RateLimited, false},
		{400, openai("invalid_api_key", ""), Auth, false},
		{400, openai("content_filter", ""), ContentFiltered, false},
		{400, openai("DeploymentNotFound", ""), NotFound, false},
		{400, openai("never_seen", "invalid_request_error"), InvalidRequest, false},
		{400, `{"error":{"code":400,"message":"API key not valid","status":"INVALID_ARGUMENT","details":[{"reason":"API_KEY_INVALID"}]}}`, Auth, false},
		{400, `{"type":"error","error":{"type":"invalid_request_error","details":{"error_code":"enforced_spend_limit_reached"}}}`, Quota, false},
		// Cloudflare's numbers
		{400, cf(2001), Auth, false}, {429, cf(2003), RateLimited, false}, {400, cf(2005), Server, true},
		{400, cf(2008), NotFound, false}, {401, cf(2009), Auth, false}, {424, cf(2016), ContentFiltered, false},
		{422, cf(2017), ContentFiltered, false}, {400, cf(2019), InvalidRequest, false}, {402, cf(2021), Quota, false},
		{400, cf(2029), ContentFiltered, false}, {400, cf(2030), ContentFiltered, false}, {503, cf(7013), Overloaded, false},
		{400, `{"name":"AiError","internalCode":5007,"httpCode":400}`, NotFound, false},
		{400, `{"success":false,"errors":[{"code":3007}]}`, Timeout, true},
		{400, cf(9999), Unknown, false}, {403, cf(9999), Auth, false},
		// numbers of others are no numbers of Cloudflare's
		{400, `{"error":{"code":2005,"message":"x"}}`, InvalidRequest, false},
		// odd bodies
		{400, `{"error":"nope"}`, InvalidRequest, false},
		{400, `{"error":[]}`, InvalidRequest, false},
		{400, `{"error":[{"code":"x"}]}`, InvalidRequest, false},
		{400, `[]`, InvalidRequest, false}, {400, `null`, InvalidRequest, false}, {500, `"x"`, Server, false},
		{429, "<html>1015</html>", RateLimited, false}, {502, "<html>bad gateway</html>", Server, false}, {504, "<html>", Server, true},
	}
	for _, tt := range tests {
		e := failure(tt.status, []byte(tt.body))
		if e.Class != tt.class || e.Uncertain != tt.unsure {
			t.Errorf("%d %s: class %s, uncertain %v; want %s, %v", tt.status, tt.body, e.Class, e.Uncertain, tt.class, tt.unsure)
		}
		if e.Message == "" || strings.Contains(e.Message, "  ") {
			t.Errorf("%d %s: message %q", tt.status, tt.body, e.Message)
		}
	}
}

func TestCodesThatCouldBeProseAreDropped(t *testing.T) {
	t.Parallel()
	for _, code := range []string{"my secret prompt", "a\nb", "é", strings.Repeat("x", 65), `"`, "{}"} {
		if e := failure(400, fmt.Appendf(nil, `{"error":{"code":%q}}`, code)); e.Code != "" || strings.Contains(e.Error(), code) {
			t.Errorf("%q became code %q in %q", code, e.Code, e)
		}
	}
}

func TestClasses(t *testing.T) {
	t.Parallel()
	all := []Class{OK, InvalidRequest, Auth, Quota, NotFound, RateLimited, Overloaded, Timeout, Network, Server, ContentFiltered,
		Truncated, InvalidOutput, Budget, Cancelled, Uncertain, Unknown}
	for _, c := range all {
		if c.Retryable() && !c.NextStep() {
			t.Errorf("%s is retried on its step, but no other step may help", c)
		}
		if c != OK && says[c] == "" {
			t.Errorf("%s has no words", c)
		}
	}
	for code, v := range codes {
		if code != strings.ToLower(code) {
			t.Errorf("code %s can't be found: codes are looked up in lower case", code)
		}
		if says[v.class] == "" {
			t.Errorf("code %s has no class", code)
		}
	}
	for n, v := range numbers {
		if says[v.class] == "" {
			t.Errorf("number %d has no class", n)
		}
	}
	e := &Error{Class: Auth}
	for err, want := range map[error]Class{
		nil: OK, e: Auth, fmt.Errorf("wrapped: %w", e): Auth, errors.New("x"): Unknown,
		context.Canceled: Cancelled, fmt.Errorf("wrapped: %w", context.DeadlineExceeded): Timeout,
	} {
		if got := ClassOf(err); got != want {
			t.Errorf("ClassOf(%v) = %s, want %s", err, got, want)
		}
	}
}

func TestBetterErrorIsTheMoreHopeful(t *testing.T) {
	t.Parallel()
	wait60 := &Error{Class: RateLimited, RetryAfter: time.Minute}
	wait90 := &Error{Class: RateLimited, RetryAfter: 90 * time.Second}
	down, dead, gone := &Error{Class: Overloaded}, &Error{Class: Auth}, &Error{Class: NotFound}
	tests := []struct{ old, next, want *Error }{
		{nil, dead, dead}, {dead, gone, gone}, {dead, down, down}, {down, dead, down},
		{wait60, wait90, wait60}, {wait90, wait60, wait60}, {wait60, down, down}, {down, wait60, wait60}, {wait60, dead, wait60},
	}
	for _, tt := range tests {
		if got := better(tt.old, tt.next); got != tt.want {
			t.Errorf("better(%+v, %+v) = %+v", tt.old, tt.next, got)
		}
	}
}

var noon = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)

func TestParseWait(t *testing.T) {
	t.Parallel()
	tests := map[string]time.Duration{
		"7": 7 * time.Second, " 7 ": 7 * time.Second, "0.5": 500 * time.Millisecond, "1e1": 10 * time.Second,
		"12ms": 12 * time.Millisecond, "6m0s": 6 * time.Minute, "1h2m3s": time.Hour + 2*time.Minute + 3*time.Second,
		"2m59.56s": 2*time.Minute + 59560*time.Millisecond, "37s": 37 * time.Second, "86400": 24 * time.Hour,
		"2026-11-20T12:00:30Z":          30 * time.Second,
		"2026-11-20T14:00:30+02:00":     30 * time.Second,
		"Fri, 20 Nov 2026 12:01:00 GMT": time.Minute,
		"1795176010":                    10 * time.Second, // epoch
		"1795176010500":                 10500 * time.Millisecond,
		// unknown
		"": 0, "0": 0, "-1": 0, "-5s": 0, "86401": 0, "25h": 0, "soon": 0, "NaN": 0, "Inf": 0, "-Inf": 0, "1e300": 0,
		"2026-11-20T11:59:59Z": 0, "2027-11-20T11:59:59Z": 0, "Fri, 20 Nov 2026 11:00:00 GMT": 0,
	}
	for s, want := range tests {
		if got, ok := parseWait(s, noon); got != want || ok != (want > 0) {
			t.Errorf("parseWait(%q) = %v, %v; want %v", s, got, ok, want)
		}
	}
}

func TestRetryAfter(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		status int
		header map[string]string
		want   time.Duration
	}{
		{"milliseconds first", 429, map[string]string{"Retry-After-Ms": "1500", "Retry-After": "9"}, 1500 * time.Millisecond},
		{"absurd milliseconds", 429, map[string]string{"Retry-After-Ms": "-1", "Retry-After": "9"}, 9 * time.Second},
		{"also when overloaded", 503, map[string]string{"Retry-After": "9"}, 9 * time.Second},
		{"not on a good answer", 200, map[string]string{"Retry-After": "9"}, 0},
		{"not on a bad request", 400, map[string]string{"Retry-After": "9"}, 0},
		{"the reset of the limit that is used up", 429, map[string]string{
			"X-Ratelimit-Remaining-Requests": "0", "X-Ratelimit-Reset-Requests": "12s",
			"X-Ratelimit-Remaining-Tokens": "17", "X-Ratelimit-Reset-Tokens": "6m0s"}, 12 * time.Second},
		{"no reset of ours", 429, map[string]string{"X-Ratelimit-Remaining-Requests": "-1", "X-Ratelimit-Reset-Requests": "12s"}, 0},
		{"nothing said", 429, nil, 0},
	}
	for _, tt := range tests {
		h := http.Header{}
		for k, v := range tt.header {
			h.Set(k, v)
		}
		if got := retryAfter(tt.status, h, noon); got != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
}

func FuzzParseWait(f *testing.F) {
	for _, s := range []string{"7", "0.5", "6m0s", "2026-11-20T12:00:30Z", "Fri, 20 Nov 2026 12:01:00 GMT", "1795176010500", "-1", "1e308", "0x1p-1074"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if d, ok := parseWait(s, noon); ok != (d > 0) || d < 0 || d > maxWait {
			t.Errorf("parseWait(%q) = %v, %v", s, d, ok)
		}
	})
}

func TestDelayBounds(t *testing.T) {
	t.Parallel()
	for range 1000 {
		for try := 1; try <= 70; try++ {
			if d := delay(nil, try, 0); d <= 0 || d > maxBackoff+1 {
				t.Fatalf("try %d: %v", try, d)
			}
		}
		if d := delay(nil, 1, time.Minute); d < time.Minute || d > time.Minute+time.Second {
			t.Fatalf("told a minute: %v", d)
		}
		if d := delay(&StepConfig{RetryDelayMS: 5000}, 5, 0); d < maxBackoff || d > maxBackoff+time.Second {
			t.Fatalf("configured: %v", d)
		}
	}
}
