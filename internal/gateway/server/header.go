package server

import (
	"bytes"
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"time"

	"batchwright/internal/gateway"
	"batchwright/internal/gateway/jsonspan"
)

// The request headers that the gateway itself reads, in canonical form. A cf-aig-... header that is not here is ignored.
const (
	hdrToken     = "Cf-Aig-Authorization"
	hdrSkipCache = "Cf-Aig-Skip-Cache"
	hdrCacheTTL  = "Cf-Aig-Cache-Ttl"
	hdrCacheKey  = "Cf-Aig-Cache-Key"
	hdrMetadata  = "Cf-Aig-Metadata"
	hdrCollect   = "Cf-Aig-Collect-Log"
	hdrPayload   = "Cf-Aig-Collect-Log-Payload"
	hdrEventID   = "Cf-Aig-Event-Id"
	hdrTimeout   = "Cf-Aig-Request-Timeout"
	hdrAttempts  = "Cf-Aig-Max-Attempts"
	hdrDelay     = "Cf-Aig-Retry-Delay"
	hdrBackoff   = "Cf-Aig-Backoff"
	hdrCost      = "Cf-Aig-Custom-Cost"
	hdrAlias     = "Cf-Aig-Byok-Alias"
	hdrWholesale = "Cf-Aig-No-Wholesale"

	hdrOldSkipCache = "Cf-Skip-Cache" // deprecated
	hdrOldCacheTTL  = "Cf-Cache-Ttl"  // deprecated
)

const (
	minTTL      = time.Minute
	maxTTL      = 31 * 24 * time.Hour
	keyOnlyTTL  = 5 * time.Minute // of a cache key where nothing else switches caching on
	maxAttempts = 5
	maxDelay    = 5 * time.Second
	maxTimeout  = 24 * time.Hour // Cloudflare names no range
	maxMetadata = 5
)

// options are what a gateway's settings and the headers say of one step.
type options struct {
	skipCache bool
	cacheTTL  time.Duration
	ttlSaid   bool // by a header: 0 then means no caching, cache key or not
	cacheKey  string
	metadata  json.RawMessage // an object of at most maxMetadata flat values, or nil
	collect   bool
	payload   bool
	eventID   string
	timeout   time.Duration // to the first byte; 0 is none
	attempts  int           // at least 1
	delay     time.Duration
	backoff   string
	cost      *customCost
	alias     string
}

// ttl is how long an answer may be kept; 0 is not at all.
func (o *options) ttl() time.Duration {
	if o.cacheTTL == 0 && o.cacheKey != "" && !o.ttlSaid {
		return keyOnlyTTL
	}
	return o.cacheTTL
}

// with returns o with what the headers say on top. Cloudflare is silent on values out of range, so they are refused
// with the header named: a caller who asks for 9 attempts must not believe to have them.
func (o options) with(h http.Header) (options, *refusal) {
	if !speaks(h) {
		return o, nil // the usual case
	}
	r := headerReader{h: h}
	r.boolean(hdrOldSkipCache, &o.skipCache)
	r.boolean(hdrSkipCache, &o.skipCache)
	r.ttl(hdrOldCacheTTL, &o)
	r.ttl(hdrCacheTTL, &o)
	r.text(hdrCacheKey, 4096, &o.cacheKey)
	r.boolean(hdrCollect, &o.collect)
	r.boolean(hdrPayload, &o.payload)
	r.text(hdrEventID, 1024, &o.eventID)
	r.millis(hdrTimeout, maxTimeout, &o.timeout)
	r.millis(hdrDelay, maxDelay, &o.delay)
	r.text(hdrAlias, 64, &o.alias)
	if v, ok := r.get(hdrAttempts); ok {
		n, err := strconv.Atoi(v)
		if err != nil || n < 1 || n > maxAttempts {
			r.bad(hdrAttempts, "a whole number from 1 to 5")
		}
		o.attempts = n
	}
	if v, ok := r.get(hdrBackoff); ok {
		switch v {
		case "constant", "linear", "exponential":
			o.backoff = v
		default:
			r.bad(hdrBackoff, "constant, linear or exponential")
		}
	}
	if v, ok := r.get(hdrMetadata); ok {
		if o.metadata, ok = flatMetadata([]byte(v)); !ok {
			r.bad(hdrMetadata, "a JSON object")
		}
	}
	if v, ok := r.get(hdrCost); ok {
		if o.cost, ok = parseCost([]byte(v)); !ok {
			r.bad(hdrCost, "a JSON object with per_token_in and per_token_out, or with total_cost, none of them negative")
		}
	}
	var wholesale bool // there is no other billing to forbid: accepted, checked, and without effect
	r.boolean(hdrWholesale, &wholesale)
	return o, r.fault
}

// speaks reports whether any header may be for a gateway.
func speaks(h http.Header) bool {
	for name := range h {
		if strings.HasPrefix(name, "Cf-") {
			return true
		}
	}
	return false
}

// withConfig returns o with a step's own configuration on top, which is the most specific.
func (o options) withConfig(c *gateway.StepConfig) (options, *refusal) {
	if c == nil {
		return o, nil
	}
	switch {
	case c.RequestTimeoutMS < 0 || time.Duration(c.RequestTimeoutMS)*time.Millisecond > maxTimeout:
		return o, badRequest("config.requestTimeout must be in milliseconds, at most a day")
	case c.MaxAttempts < 0 || c.MaxAttempts > maxAttempts:
		return o, badRequest("config.maxAttempts must be from 1 to 5")
	case c.RetryDelayMS < 0 || time.Duration(c.RetryDelayMS)*time.Millisecond > maxDelay:
		return o, badRequest("config.retryDelay must be from 0 to 5000 milliseconds")
	}
	switch c.Backoff {
	case "":
	case "constant", "linear", "exponential":
		o.backoff = c.Backoff
	default:
		return o, badRequest("config.backoff must be constant, linear or exponential")
	}
	if c.RequestTimeoutMS > 0 {
		o.timeout = time.Duration(c.RequestTimeoutMS) * time.Millisecond
	}
	if c.MaxAttempts > 0 {
		o.attempts = c.MaxAttempts
	}
	if c.RetryDelayMS > 0 {
		o.delay = time.Duration(c.RetryDelayMS) * time.Millisecond
	}
	return o, nil
}

// headerReader keeps the first fault.
type headerReader struct {
	h     http.Header
	fault *refusal
}

func (r *headerReader) get(name string) (string, bool) {
	v := r.h[name]
	if len(v) == 0 {
		return "", false
	}
	s := strings.TrimSpace(v[0])
	return s, s != ""
}

func (r *headerReader) bad(name, want string) {
	if r.fault == nil {
		r.fault = badRequest("the header " + strings.ToLower(name) + " must be " + want)
	}
}

func (r *headerReader) boolean(name string, to *bool) {
	v, ok := r.get(name)
	switch {
	case !ok:
	case strings.EqualFold(v, "true"):
		*to = true
	case strings.EqualFold(v, "false"):
		*to = false
	default:
		r.bad(name, "true or false")
	}
}

func (r *headerReader) text(name string, limit int, to *string) {
	v, ok := r.get(name)
	if !ok {
		return
	}
	if len(v) > limit {
		r.bad(name, "at most "+strconv.Itoa(limit)+" bytes long")
		return
	}
	*to = v
}

func (r *headerReader) millis(name string, limit time.Duration, to *time.Duration) {
	v, ok := r.get(name)
	if !ok {
		return
	}
	n, err := strconv.ParseInt(v, 10, 64)
	if err != nil || n < 0 || n > limit.Milliseconds() {
		r.bad(name, "a whole number of milliseconds from 0 to "+strconv.FormatInt(limit.Milliseconds(), 10))
		return
	}
	*to = time.Duration(n) * time.Millisecond
}

func (r *headerReader) ttl(name string, o *options) {
	v, ok := r.get(name)
	if !ok {
		return
	}
	n, err := strconv.ParseInt(v, 10, 64)
	if err != nil || n != 0 && (n < int64(minTTL/time.Second) || n > int64(maxTTL/time.Second)) {
		r.bad(name, "0, or a whole number of seconds from 60 to 2678400")
		return
	}
	o.cacheTTL, o.ttlSaid = time.Duration(n)*time.Second, true
}

// flatMetadata keeps the first entries of an object, in the order written. A sixth is dropped without a word, and where
// a value is nested the whole is, both as Cloudflare documents it.
func flatMetadata(raw []byte) (json.RawMessage, bool) {
	if !json.Valid(raw) {
		return nil, false
	}
	out, n, flat := []byte{'{'}, 0, true
	isObject := jsonspan.Members(raw, func(key []byte, value span) bool {
		v := value.Of(raw)
		switch v[0] {
		case '{', '[':
			flat = false
			return false
		case '"':
			if bytes.Contains(v, []byte(`\u0000`)) { // Postgres can't keep it
				flat = false
				return false
			}
		}
		if n++; n > maxMetadata {
			return true
		}
		if n > 1 {
			out = append(out, ',')
		}
		out = append(append(append(out, '"'), key...), '"', ':')
		out = append(out, v...)
		return true
	})
	if !isObject {
		return nil, false
	}
	if !flat || n == 0 {
		return nil, true
	}
	return append(out, '}'), true
}

// own are the request's headers that are the gateway's, or of what stands in front of it, and none of a provider's
// business. Cookies would be those of the gateway's own host.
var own = map[string]bool{
	"Host": true, "Content-Length": true, "Expect": true, "Accept-Encoding": true, "Cookie": true, falTarget: true,
	hdrOldSkipCache: true, hdrOldCacheTTL: true,
	"Forwarded": true, "X-Forwarded-For": true, "X-Forwarded-Host": true, "X-Forwarded-Proto": true, "X-Forwarded-Port": true, "X-Real-Ip": true,
	"Cf-Connecting-Ip": true, "Cf-Ray": true, "Cf-Visitor": true, "Cf-Ipcountry": true, "Cdn-Loop": true,
}

const gatewayPrefix = "Cf-Aig-"

// outbound returns the headers that go on to a provider. The values are shared with h, not copied.
func outbound(h http.Header) http.Header {
	out := make(http.Header, len(h)+2)
	for name, values := range h {
		if !gateway.HopByHop(name) && !own[name] && !strings.HasPrefix(name, gatewayPrefix) {
			out[name] = values
		}
	}
	dropNamed(out, h["Connection"])
	return out
}

// inbound copies an answer's headers to the client's.
func inbound(to, h http.Header) {
	for name, values := range h {
		if !gateway.HopByHop(name) && !strings.HasPrefix(name, gatewayPrefix) {
			to[name] = values
		}
	}
	dropNamed(to, h["Connection"])
}

// dropNamed drops what a Connection header names.
func dropNamed(from http.Header, connection []string) {
	for _, line := range connection {
		for name := range strings.SplitSeq(line, ",") {
			if name = strings.TrimSpace(name); name != "" {
				from.Del(name)
			}
		}
	}
}
