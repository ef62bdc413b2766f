package gateway

import (
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

// headers reads lines of "name: value".
func headers(lines string) http.Header {
	h := http.Header{}
	for line := range strings.Lines(lines) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), ":"); ok {
			h.Add(name, value)
		}
	}
	return h
}

func TestRateLimitHeadersOfEveryProvider(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, headers string
		want          []quota
		wait          time.Duration // after a 429
	}{
		{"openai", `
			x-ratelimit-limit-requests: 5000
			x-ratelimit-remaining-requests: 4999
			x-ratelimit-reset-requests: 12ms
			x-ratelimit-limit-tokens: 160000
			x-ratelimit-remaining-tokens: 0
			x-ratelimit-reset-tokens: 6m0s
			x-ratelimit-limit-tokens_usage_based: 200000
			x-ratelimit-remaining-tokens_usage_based: 199000
			x-request-id: req_1`,
			[]quota{{"requests", 5000, 4999, 12 * time.Millisecond}, {"tokens", 160_000, 0, 6 * time.Minute}, {"tokens", 200_000, 199_000, 0}},
			6 * time.Minute},
		{"azure", `
			x-ratelimit-remaining-requests: -1
			x-ratelimit-limit-tokens: 0
			x-ratelimit-remaining-tokens: 0
			x-ratelimit-reset-tokens: 30
			retry-after-ms: 1200`,
			[]quota{{"requests", -1, -1, 0}, {"tokens", -1, -1, 30 * time.Second}}, 1200 * time.Millisecond},
		{"azure without a wait", "x-ratelimit-remaining-tokens: 0\nx-ratelimit-reset-tokens: 30", []quota{{"tokens", -1, 0, 30 * time.Second}}, 30 * time.Second},
		{"anthropic", `
			anthropic-ratelimit-requests-limit: 50
			anthropic-ratelimit-requests-remaining: 49
			anthropic-ratelimit-requests-reset: 2026-11-20T12:00:01Z
			anthropic-ratelimit-tokens-limit: 90000
			anthropic-ratelimit-tokens-remaining: 8000
			anthropic-ratelimit-input-tokens-limit: 80000
			anthropic-ratelimit-input-tokens-remaining: 0
			anthropic-ratelimit-input-tokens-reset: 2026-11-20T12:00:40Z
			anthropic-ratelimit-output-tokens-limit: 16000
			anthropic-ratelimit-output-tokens-remaining: 0
			anthropic-ratelimit-output-tokens-reset: 2026-11-20T12:00:20Z
			anthropic-organization-id: x`,
			[]quota{{"input", 80_000, 0, 40 * time.Second}, {"output", 16_000, 0, 20 * time.Second}, {"requests", 50, 49, time.Second}, {"tokens", 90_000, 8000, 0}},
			40 * time.Second},
		{"groq", `
			x-ratelimit-limit-requests: 14400
			x-ratelimit-limit-tokens: 18000
			x-ratelimit-remaining-requests: 14370
			x-ratelimit-remaining-tokens: 0
			x-ratelimit-reset-requests: 2m59.56s
			x-ratelimit-reset-tokens: 7.66s`,
			[]quota{{"requests", 14400, 14370, 179560 * time.Millisecond}, {"tokens", 18000, 0, 7660 * time.Millisecond}}, 7660 * time.Millisecond},
		{"mistral", `
			x-ratelimit-limit-req-minute: 60
			x-ratelimit-remaining-req-minute: 0
			x-ratelimit-limit-tokens-minute: 500000
			x-ratelimit-remaining-tokens-minute: 1`,
			[]quota{{"requests", 60, 0, 0}, {"tokens", 500_000, 1, 0}}, 0},
		{"cerebras", `
			x-ratelimit-limit-requests-day: 14400
			x-ratelimit-remaining-requests-day: 0
			x-ratelimit-reset-requests-day: 33011.382867
			x-ratelimit-limit-tokens-minute: 60000
			x-ratelimit-remaining-tokens-minute: 0
			x-ratelimit-reset-tokens-minute: 11.38`,
			[]quota{{"requests", 14400, 0, 33011382867 * time.Microsecond}, {"tokens", 60_000, 0, 11380 * time.Millisecond}}, 33011382867 * time.Microsecond},
		{"openrouter", "X-RateLimit-Limit: 20\nX-RateLimit-Remaining: 0\nX-RateLimit-Reset: 1795176010500", []quota{{"requests", 20, 0, 10500 * time.Millisecond}}, 10500 * time.Millisecond},
		{"xai", "x-ratelimit-limit-tokens: 10\nx-ratelimit-remaining-tokens: 3", []quota{{"tokens", 10, 3, 0}}, 0},
		{"none", "x-request-id: 1\nX-Ratelimit-Used: 3\nX-Ratelimit-Limit-Requestsx: 4\nX-Ratelimit-: 1\nAnthropic-Ratelimit-: 1\nAnthropic-Ratelimit-Limit: 1", nil, 0},
		{"a reset that has passed", "x-ratelimit-remaining-requests: 0\nx-ratelimit-reset-requests: 1795175999", []quota{{"requests", -1, 0, 0}}, 0},
	} {
		h := headers(tt.headers)
		if got := readQuotas(h, noon); !slices.Equal(got, tt.want) {
			t.Errorf("%s: %+v, want %+v", tt.name, got, tt.want)
		}
		if got := retryAfter(http.StatusTooManyRequests, h, noon); got.Round(time.Microsecond) != tt.wait {
			t.Errorf("%s: wait %v, want %v", tt.name, got, tt.wait)
		}
		if got := retryAfter(http.StatusOK, h, noon); got != 0 {
			t.Errorf("%s: wait %v after a good answer", tt.name, got)
		}
	}
}

// answerHeaders are what a provider without such headers sends.
var answerHeaders = headers(`
	Content-Type: application/json
	Date: Fri, 20 Nov 2026 12:00:00 GMT
	X-Request-Id: req_1
	X-Envoy-Upstream-Service-Time: 12
	Access-Control-Allow-Origin: *
	Alt-Svc: h3=":443"
	Cf-Ray: 1
	Server: cloudflare
	Strict-Transport-Security: max-age=1
	Vary: Origin`)

func TestNoRateLimitHeadersCostNothing(t *testing.T) {
	if n := testing.AllocsPerRun(100, func() { readQuotas(answerHeaders, noon) }); n != 0 {
		t.Errorf("%.0f allocations", n)
	}
}

func BenchmarkReadQuotas(b *testing.B) {
	with := maps.Clone(answerHeaders)
	maps.Copy(with, headers("x-ratelimit-limit-requests: 5000\nx-ratelimit-remaining-requests: 4999\nx-ratelimit-reset-requests: 12ms"))
	for name, h := range map[string]http.Header{"none": answerHeaders, "some": with} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				readQuotas(h, noon)
			}
		})
	}
}

func FuzzReadQuotas(f *testing.F) {
	f.Add("x-ratelimit-limit-requests: 5000\nx-ratelimit-remaining-requests: 0\nx-ratelimit-reset-requests: 6m0s")
	f.Add("anthropic-ratelimit-input-tokens-remaining: 0\nanthropic-ratelimit-input-tokens-reset: 2026-11-20T12:00:40Z")
	f.Add("X-RateLimit-Remaining: 0\nX-RateLimit-Reset: 1795176010500")
	f.Add("x-ratelimit-remaining-tokens-minute: 99999999999999999999\nx-ratelimit-limit-: -")
	f.Fuzz(func(t *testing.T, lines string) {
		h := headers(lines)
		qs := readQuotas(h, noon)
		if len(qs) > maxQuotas {
			t.Errorf("%d windows", len(qs))
		}
		for _, q := range qs {
			if q.limit < -1 || q.limit == 0 || q.remaining < -1 || q.reset < 0 || q.reset > maxWait {
				t.Errorf("%+v", q)
			}
			switch q.what {
			case "requests", "tokens", "input", "output":
			default:
				t.Errorf("a window of %q", q.what)
			}
		}
		if d := exhausted(qs); d < 0 || d > maxWait {
			t.Errorf("wait %v", d)
		}
		if again := readQuotas(h, noon); len(qs) < maxQuotas && !slices.Equal(again, qs) {
			t.Errorf("%+v, then %+v", qs, again)
		}
	})
}
