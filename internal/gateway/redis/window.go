package redis

import (
	"context"
	"fmt"
	"time"

	goredis "github.com/redis/go-redis/v9"
)

// count adds to a counter of requests, unless it is full.
//
//	KEYS  a hash: "window" is the number of the current window, counted since 1970, "count" the requests let through in it
//	ARGV  limit, window in ms, now in ms (0: the server's clock)
//
// It returns {1, 0} or {0, ms to the window's end}.
var count = goredis.NewScript(`
local limit, span, now = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
if now == 0 then
  local t = redis.call('TIME')
  now = tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
end
local window = string.format('%.0f', math.floor(now / span))
local left = span - now % span
local held = redis.call('HMGET', KEYS[1], 'window', 'count')
local taken = held[1] == window and tonumber(held[2]) or 0
if taken >= limit then return {0, left} end
redis.call('HSET', KEYS[1], 'window', window, 'count', string.format('%.0f', taken + 1))
redis.call('PEXPIRE', KEYS[1], left)
return {1, 0}
`)

// Allow counts one request under a name and reports whether it is within limit requests an interval; when it is not,
// retryAfter is when one may be, and nothing was counted. A limit or interval of 0 is no limit.
//
// A fixed window begins at a multiple of the interval since 1970, and up to twice the limit may pass around its
// beginning, as with Cloudflare. A sliding one is the last interval, kept in 60 slots like the limits of a Limiter, and
// never lets through more than the limit; a request may wait up to two slots of a sixtieth (whole milliseconds) longer
// than with an exact log, which would need memory for each request. Intervals are cut to between 60 ms and 10 years.
func (r *Redis) Allow(ctx context.Context, name string, limit int64, interval time.Duration, sliding bool) (ok bool, retryAfter time.Duration, err error) {
	if limit <= 0 || interval <= 0 {
		return true, 0, nil
	}
	limit = sane(limit)
	span := min(max(interval.Milliseconds(), slots), (10 * 365 * 24 * time.Hour).Milliseconds())
	// A window of another length is another window.
	key := fmt.Sprintf("gateway:window:{%s}:%d", name, span)
	script, args := count, []any{limit, span, r.clock()}
	if sliding {
		key += ":sliding"
		script, args = reserve, []any{(span + slots - 1) / slots, slots, r.clock(), 1, 0, 0, limit, 0, 0}
	}
	ok, n, err := r.ask(ctx, script, []string{key}, args)
	if err != nil {
		return false, 0, fmt.Errorf("redis: allow: %w", err)
	}
	if ok {
		return true, 0, nil
	}
	return false, time.Duration(max(n, 1)) * time.Millisecond, nil
}
