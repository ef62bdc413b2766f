package gateway

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// quota is one window of a provider's rate limit, as an answer's headers tell it.
type quota struct {
	what      string        // "requests", "tokens" (input and output), "input" or "output" (tokens)
	limit     int64         // per window, which only some headers name; -1 unknown
	remaining int64         // -1 unknown
	reset     time.Duration // until the window is whole again; 0 unknown
}

const maxQuotas = 16

// The families of headers, as in the providers' documentation and captured answers of November 2026. In the first, NAME
// is empty (OpenRouter, with epoch milliseconds) or, with whatever follows, a kind of the table below: requests and
// tokens (OpenAI, Azure, Groq, xAI, Mistral), tokens_usage_based (OpenAI), requests-day and tokens-minute (Cerebras),
// req-minute and tokens-minute (Mistral). A family's windows are told apart by the whole of NAME.
//
//	x-ratelimit-{limit,remaining,reset}[-NAME]
//	anthropic-ratelimit-{requests,tokens,input-tokens,output-tokens}-{limit,remaining,reset}
//
// Resets are seconds, Go durations, RFC 3339 or epochs: parseWait tells them apart. Azure says -1, or a limit of 0,
// for what it doesn't know.
const (
	ratePrefix      = "X-Ratelimit-"
	anthropicPrefix = "Anthropic-Ratelimit-"
)

// quotaKinds maps the beginning of a window's name to what it counts, the longest first.
var quotaKinds = []struct{ name, what string }{
	{"Input-Tokens", "input"}, {"Output-Tokens", "output"}, {"Requests", "requests"}, {"Tokens", "tokens"}, {"Req", "requests"},
}

// readQuotas reads every window that an answer's headers tell, in the order of their names. It allocates nothing when
// there is none.
func readQuotas(h http.Header, now time.Time) []quota {
	type window struct {
		name string
		quota
	}
	var found []window
	for header, values := range h {
		if len(header) < len(ratePrefix) || len(values) == 0 || header[0] != 'X' && header[0] != 'A' {
			continue
		}
		var name, field string
		if rest, ok := strings.CutPrefix(header, ratePrefix); ok {
			field, name, _ = strings.Cut(rest, "-")
		} else if rest, ok := strings.CutPrefix(header, anthropicPrefix); ok {
			i := strings.LastIndexByte(rest, '-')
			if i < 0 {
				continue
			}
			name, field = rest[:i], rest[i+1:]
		} else {
			continue
		}
		if field != "Limit" && field != "Remaining" && field != "Reset" {
			continue
		}
		what := quotaKind(name)
		if what == "" {
			continue
		}
		i := slices.IndexFunc(found, func(w window) bool { return w.name == name })
		if i < 0 {
			if len(found) == maxQuotas {
				continue
			}
			i = len(found)
			found = append(found, window{name, quota{what: what, limit: -1, remaining: -1}})
		}
		q, value := &found[i].quota, strings.TrimSpace(values[0])
		switch field {
		case "Limit":
			q.limit = readCount(value)
		case "Remaining":
			q.remaining = readCount(value)
		case "Reset":
			q.reset, _ = parseWait(value, now)
		}
	}
	if found == nil {
		return nil
	}
	slices.SortFunc(found, func(a, b window) int { return strings.Compare(a.name, b.name) })
	qs := make([]quota, len(found))
	for i, w := range found {
		if qs[i] = w.quota; w.limit == 0 { // no window has room for nothing
			qs[i].limit, qs[i].remaining = -1, -1
		}
	}
	return qs
}

// quotaKind returns what a window counts; "" when the name is not a window's.
func quotaKind(name string) string {
	if name == "" {
		return "requests"
	}
	for _, k := range quotaKinds {
		if rest, ok := strings.CutPrefix(name, k.name); ok && (rest == "" || rest[0] == '-' || rest[0] == '_') {
			return k.what
		}
	}
	return ""
}

// readCount reads a count; -1 when it is none.
func readCount(s string) int64 {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 {
		return -1
	}
	return n
}

// exhausted returns the longest reset of the windows that are used up; 0 when none is, or none says when it ends.
func exhausted(qs []quota) (longest time.Duration) {
	for _, q := range qs {
		if q.remaining == 0 {
			longest = max(longest, q.reset)
		}
	}
	return longest
}
