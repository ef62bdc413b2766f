package gateway

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Bounds of Cloudflare's gateway, which hold for every gateway here: a route must not fail only when it moves.
const (
	defaultAttempts  = 2 // per step
	maxAttempts      = 5
	maxDelayMS       = 5000
	minCacheTTL      = time.Minute
	maxCacheTTL      = 31 * 24 * time.Hour
	customKeyTTL     = 5 * time.Minute // of a custom cache key without a TTL
	maxMetadata      = 5
	maxHeader        = 4096 // bytes of a header value of the caller's
	maxRequestMillis = int(24 * time.Hour / time.Millisecond)
)

// StepConfig bounds one step. Zero fields mean the request's, then the gateway's default.
type StepConfig struct {
	RequestTimeoutMS int    `json:"requestTimeout,omitempty"` // to the first byte, in milliseconds
	MaxAttempts      int    `json:"maxAttempts,omitempty"`    // 1 to 5
	RetryDelayMS     int    `json:"retryDelay,omitempty"`     // base delay in milliseconds, at most 5000
	Backoff          string `json:"backoff,omitempty"`        // constant, linear or exponential
}

// check reports what is out of range.
func (c *StepConfig) check() *Error {
	switch {
	case c == nil:
		return nil
	case c.RequestTimeoutMS < 0 || c.RequestTimeoutMS > maxRequestMillis:
		return invalid(codeOptions, "requestTimeout is %d ms; it must be 0 to %d", c.RequestTimeoutMS, maxRequestMillis)
	case c.MaxAttempts < 0 || c.MaxAttempts > maxAttempts:
		return invalid(codeOptions, "maxAttempts is %d; it must be 1 to %d", c.MaxAttempts, maxAttempts)
	case c.RetryDelayMS < 0 || c.RetryDelayMS > maxDelayMS:
		return invalid(codeOptions, "retryDelay is %d ms; it must be 0 to %d", c.RetryDelayMS, maxDelayMS)
	}
	switch c.Backoff {
	case "", "constant", "linear", "exponential":
		return nil
	}
	return invalid(codeOptions, "backoff must be constant, linear or exponential")
}

// attempts returns how often a step may be tried.
func (c *StepConfig) attempts() int {
	if c == nil || c.MaxAttempts == 0 {
		return defaultAttempts
	}
	return min(c.MaxAttempts, maxAttempts)
}

// over returns c with the fields that it leaves open taken from base. Either may be nil.
func (c *StepConfig) over(base *StepConfig) *StepConfig {
	switch {
	case base == nil:
		return c
	case c == nil:
		return base
	}
	out := *c
	if out.RequestTimeoutMS == 0 {
		out.RequestTimeoutMS = base.RequestTimeoutMS
	}
	if out.MaxAttempts == 0 {
		out.MaxAttempts = base.MaxAttempts
	}
	if out.RetryDelayMS == 0 && out.Backoff == "" {
		out.RetryDelayMS, out.Backoff = base.RetryDelayMS, base.Backoff
	}
	return &out
}

// Options hold for a whole request.
type Options struct {
	Timeout   time.Duration // total deadline over all steps and retries; default 5 minutes
	Config    *StepConfig   // of steps that don't say
	SkipCache bool          // don't read the gateway's response cache; a fresh answer is kept all the same
	CacheKey  string        // replaces the gateway's computed cache key: whoever sends it again gets the same answer
	CacheTTL  time.Duration // 60 s to 31 days; 0 leaves the gateway's setting, or 5 minutes with a CacheKey
	Scope     string        // whose request it is: the engine's cache keeps callers of different scopes apart; a remote gateway is one scope
	EventID   string        // the caller's trace id, echoed in the gateway's log
	Metadata  Metadata      // at most 5 flat entries
	Patience  time.Duration // the longest wait for a rate that is known beforehand; a longer one ends the step, RateLimited; 0 or more than the gateway's: that
	NoCollect bool          // keep the call out of the gateway's log
	NoPayload bool          // keep its bodies out of the gateway's log

	// Place, when set, is what the caller holds for a call in flight: it is given up while the Run waits for something else.
	Place Place

	// OnText asks for a streamed answer and is called with each piece of text, in order, from Run's goroutine. After a
	// piece was given there is no retry and no other step: an answer that breaks off is an error. The Response is
	// the same as without.
	OnText func(piece string)

	// What follows is for a remote gateway. The engine has no use for it.
	CustomCost   *CustomCost // what the gateway's log says the call cost, instead of its price table
	ZDR          bool        // zero data retention upstream, where the gateway's own account pays
	TraceID      string      // of OpenTelemetry: 32 hexadecimal digits
	ParentSpanID string      // 16
	Router       Router
}

// Place bounds calls in flight across Runs. Both methods do nothing when that is how it is; a Run calls them from its own goroutine, and may
// end with the place left.
type Place interface {
	Leave()                      // the Run waits, for a limit or before a retry
	Enter(context.Context) error // before each send; it may wait, and its error ends the Run, unchanged
}

// Router guides Cloudflare's Auto Router, cloudflare/auto. Names may hold * for anything but a slash.
type Router struct {
	SessionID, TurnID string
	NoAffinity        bool
	AllowedModels     []string
	AllowedProviders  []string
}

// CustomCost is in US dollars; the cache's rates default to PerTokenIn once either is given. TotalCost stands alone.
type CustomCost struct {
	PerTokenIn         json.Number `json:"per_token_in,omitempty"`
	PerTokenOut        json.Number `json:"per_token_out,omitempty"`
	PerCacheReadToken  json.Number `json:"per_cache_read_token,omitempty"`
	PerCacheWriteToken json.Number `json:"per_cache_write_token,omitempty"`
	TotalCost          json.Number `json:"total_cost,omitempty"`
}

// Metadata tags a request in the gateway's log. Values are strings, float64, int64, int or bools.
type Metadata map[string]any

// check refuses what the gateway would refuse after the request had travelled, and what it would drop without a word.
func (o *Options) check() *Error {
	if o.CacheTTL != 0 && (o.CacheTTL < minCacheTTL || o.CacheTTL > maxCacheTTL) {
		return invalid(codeOptions, "the cache TTL is %v; it must be 60 s to 31 days", o.CacheTTL)
	}
	if err := o.Config.check(); err != nil {
		return err
	}
	for _, f := range [...]struct{ name, value string }{
		{"cache key", o.CacheKey}, {"event id", o.EventID}, {"router's session id", o.Router.SessionID}, {"router's turn id", o.Router.TurnID},
		{"list of allowed models", strings.Join(o.Router.AllowedModels, ",")}, {"list of allowed providers", strings.Join(o.Router.AllowedProviders, ",")},
	} {
		if !headerSafe(f.value) {
			return invalid(codeOptions, "the %s must be at most %d printable ASCII characters", f.name, maxHeader)
		}
	}
	if !hexadecimal(o.TraceID, 32) || !hexadecimal(o.ParentSpanID, 16) {
		return invalid(codeOptions, "the trace id must be 32 hexadecimal digits and the parent span's 16")
	}
	if err := o.CustomCost.check(); err != nil {
		return err
	}
	return o.Metadata.check()
}

func headerSafe(s string) bool {
	return len(s) <= maxHeader && strings.IndexFunc(s, func(r rune) bool { return r < ' ' || r > '~' }) < 0
}

func hexadecimal(s string, digits int) bool {
	return s == "" || len(s) == digits && strings.Trim(s, "0123456789abcdefABCDEF") == ""
}

// cacheFor is how long an answer may be kept; 0 is not at all.
func (o *Options) cacheFor() time.Duration {
	if o.CacheTTL == 0 && o.CacheKey != "" {
		return customKeyTTL
	}
	return o.CacheTTL
}

func (c *CustomCost) check() *Error {
	if c == nil {
		return nil
	}
	parts := [...]json.Number{c.PerTokenIn, c.PerTokenOut, c.PerCacheReadToken, c.PerCacheWriteToken, c.TotalCost}
	for _, n := range parts {
		if f, err := n.Float64(); n != "" && (err != nil || f < 0 || !json.Valid([]byte(n))) {
			return invalid(codeOptions, "a custom cost must be a number of dollars that is not negative")
		}
	}
	switch {
	case c.TotalCost != "" && *c != CustomCost{TotalCost: c.TotalCost}:
		return invalid(codeOptions, "a custom cost is a total or a price per token, not both")
	case c.TotalCost == "" && (c.PerTokenIn == "" || c.PerTokenOut == ""):
		return invalid(codeOptions, "a custom cost needs a total, or a price per token in and out")
	}
	return nil
}

// check: the gateway drops a sixth entry and ignores nested values without a word, so both are errors here.
func (m Metadata) check() *Error {
	if len(m) > maxMetadata {
		return invalid(codeOptions, "the metadata has %d entries; the gateway keeps %d", len(m), maxMetadata)
	}
	for _, key := range slices.Sorted(maps.Keys(m)) {
		switch m[key].(type) {
		case string, bool, float64, int64, int:
		default:
			return invalid(codeOptions, "the metadata value %q must be a string, a number or a boolean", key)
		}
		if strings.HasPrefix(key, "cf.") {
			return invalid(codeOptions, "the metadata key %q is reserved", key)
		}
	}
	if len(m) == 0 {
		return nil
	}
	raw, err := encode(m)
	if err != nil {
		return invalid(codeOptions, "the metadata can't be encoded")
	}
	if n := len(ascii(raw)); n > maxHeader {
		return invalid(codeOptions, "the metadata takes %d bytes; it must take at most %d", n, maxHeader)
	}
	return nil
}

// write turns checked options into cf-aig-... headers.
func (o *Options) write(h http.Header) {
	set := func(name, value string) {
		if value != "" {
			h.Set(name, value)
		}
	}
	flag := func(name string, on bool, value string) {
		if on {
			h.Set(name, value)
		}
	}
	flag("Cf-Aig-Skip-Cache", o.SkipCache, "true")
	flag("Cf-Aig-Collect-Log", o.NoCollect, "false")
	flag("Cf-Aig-Collect-Log-Payload", o.NoPayload, "false")
	flag("Cf-Aig-Zdr", o.ZDR, "true")
	flag("Cf-Aig-Cache-Ttl", o.CacheTTL != 0, strconv.FormatInt(int64(o.CacheTTL/time.Second), 10))
	if c := o.Config; c != nil {
		flag("Cf-Aig-Request-Timeout", c.RequestTimeoutMS > 0, strconv.Itoa(c.RequestTimeoutMS))
		flag("Cf-Aig-Max-Attempts", c.MaxAttempts > 0, strconv.Itoa(c.MaxAttempts))
		flag("Cf-Aig-Retry-Delay", c.RetryDelayMS > 0, strconv.Itoa(c.RetryDelayMS))
		set("Cf-Aig-Backoff", c.Backoff)
	}
	set("Cf-Aig-Cache-Key", o.CacheKey)
	set("Cf-Aig-Event-Id", o.EventID)
	set("Cf-Aig-Otel-Trace-Id", o.TraceID)
	set("Cf-Aig-Otel-Parent-Span-Id", o.ParentSpanID)
	set("Cf-Aig-Session-Id", o.Router.SessionID)
	set("Cf-Aig-Turn-Id", o.Router.TurnID)
	flag("Cf-Aig-No-Session-Affinity", o.Router.NoAffinity, "true")
	set("Cf-Aig-Allowed-Models", strings.Join(o.Router.AllowedModels, ","))
	set("Cf-Aig-Allowed-Providers", strings.Join(o.Router.AllowedProviders, ","))
	if len(o.Metadata) > 0 {
		if raw, err := encode(o.Metadata); err == nil { // package json sorts the keys
			set("Cf-Aig-Metadata", ascii(raw))
		}
	}
	if o.CustomCost != nil {
		if raw, err := encode(o.CustomCost); err == nil {
			set("Cf-Aig-Custom-Cost", string(raw))
		}
	}
}

// ascii escapes what a header must not hold.
func ascii(raw json.RawMessage) string {
	var b strings.Builder
	for _, r := range string(raw) {
		switch {
		case r < 0x7f:
			b.WriteRune(r)
		case r > 0xffff:
			r -= 0x10000
			fmt.Fprintf(&b, `\u%04x\u%04x`, 0xd800+r>>10, 0xdc00+r&0x3ff)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
	}
	return b.String()
}
