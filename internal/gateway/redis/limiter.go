package redis

import (
	"context"
	"fmt"
	"strings"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"batchwright/internal/gateway"
)

// A window is kept as a ring of slots and their sum. With 60 slots to a window, and the one that is filling, what is
// counted is never less than the last window and at most a sixtieth more. So at every moment, what was reserved in the
// 60 seconds before, with what has been settled counted as settled, is at most the limit, except for a call that is
// larger than it, which then is alone; room comes back up to a second later than it could. Memory is 61 slots a bound,
// whatever its size, and a reservation costs a few operations, amortised.
const (
	slots  = 60
	minute = time.Minute
	most   = 1_000_000_000_000_000 // amounts and limits are cut to this, which a Lua number holds exactly
)

// reserve takes room in all windows or in none.
//
//	KEYS  a hash for each bound: "at" is its latest slot, counted since 1970; r<slot>, t<slot> and u<slot> are what was
//	      taken in a slot (requests, tokens, micro-dollars), and R, T and U the sums of those
//	ARGV  slot in ms, slots in a window, now in ms (0: the server's clock), the three amounts, then three limits for
//	      each key; an amount or limit of 0 is not looked at
//
// It returns {1, now in ms} or {0, ms to wait}. A slot s no longer counts from (s + slots + 1) * slot ms on.
var reserve = goredis.NewScript(`
local unit, span, now = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
if now == 0 then
  local t = redis.call('TIME')
  now = tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
end
local slot_name, sum_name = {'r', 't', 'u'}, {'R', 'T', 'U'}
local function int(n) return string.format('%.0f', n + 0) end -- no exponent, and never -0
local function limit(i, m) return tonumber(ARGV[6 + (i - 1) * 3 + m]) end

local function forget(key, at, slot)
  if slot - at > span then
    redis.call('DEL', key)
    return
  end
  local fields = {}
  for s = at - span, slot - span - 1 do
    for m = 1, 3 do fields[#fields + 1] = slot_name[m] .. int(s) end
  end
  local values, dead = redis.call('HMGET', key, unpack(fields)), {}
  for f, v in ipairs(values) do
    if v then
      redis.call('HINCRBY', key, sum_name[(f - 1) % 3 + 1], int(-tonumber(v)))
      dead[#dead + 1] = fields[f]
    end
  end
  if #dead > 0 then redis.call('HDEL', key, unpack(dead)) end
  redis.call('HSET', key, 'at', int(slot))
end

local function until_left(key, m, slot, sum, goal)
  local fields = {}
  for s = slot - span, slot do fields[#fields + 1] = slot_name[m] .. int(s) end
  for f, v in ipairs(redis.call('HMGET', key, unpack(fields))) do
    if v then sum = sum - tonumber(v) end
    if sum <= goal then return (slot + f) * unit - now end
  end
  return (slot + span + 1) * unit - now
end

local wait, current = 0, {}
for i, key in ipairs(KEYS) do
  local slot = math.floor(now / unit)
  local at = tonumber(redis.call('HGET', key, 'at') or slot)
  slot = math.max(slot, at)
  current[i] = slot
  if slot > at then forget(key, at, slot) end
  local sums = redis.call('HMGET', key, 'R', 'T', 'U')
  for m = 1, 3 do
    local need, cap, sum = tonumber(ARGV[3 + m]), limit(i, m), tonumber(sums[m] or 0)
    if need > 0 and cap > 0 and sum + need > cap and not (need > cap and sum <= 0) then
      wait = math.max(wait, until_left(key, m, slot, sum, math.max(cap - need, 0)), 1)
    end
  end
end
if wait > 0 then return {0, wait} end
for i, key in ipairs(KEYS) do
  for m = 1, 3 do
    if tonumber(ARGV[3 + m]) > 0 and limit(i, m) > 0 then
      redis.call('HINCRBY', key, slot_name[m] .. int(current[i]), ARGV[3 + m])
      redis.call('HINCRBY', key, sum_name[m], ARGV[3 + m])
    end
  end
  redis.call('HSET', key, 'at', int(current[i]))
  redis.call('PEXPIRE', key, (span + 2) * unit)
end
return {1, now}
`)

// settle corrects the slot in which room was taken; one that no longer counts stays as it is.
//
//	KEYS  as in reserve
//	ARGV  slots in a window, the slot, the tokens and micro-dollars used less those reserved, then three limits for each key
var settle = goredis.NewScript(`
local span, slot = tonumber(ARGV[1]), tonumber(ARGV[2])
local slot_name, sum_name = {'r', 't', 'u'}, {'R', 'T', 'U'}
for i, key in ipairs(KEYS) do
  local at = tonumber(redis.call('HGET', key, 'at') or 0)
  if slot >= at - span and slot <= at then
    for m = 2, 3 do
      local change = tonumber(ARGV[1 + m])
      if change ~= 0 and tonumber(ARGV[4 + (i - 1) * 3 + m]) > 0 then
        local field = slot_name[m] .. ARGV[2]
        local change = math.max(change, -tonumber(redis.call('HGET', key, field) or 0))
        local by = string.format('%.0f', change + 0) -- never -0
        redis.call('HINCRBY', key, field, by)
        redis.call('HINCRBY', key, sum_name[m], by)
      end
    end
  end
end
return 1
`)

// Reserve implements gateway.Limiter: all bounds at once, in one step of the server. Limits are of any 60 seconds, not
// of clock minutes. Bounds are told apart by name; one whose limit changes keeps its count.
func (r *Redis) Reserve(ctx context.Context, bounds []gateway.Bound, a gateway.Amount) (gateway.Reservation, time.Duration, error) {
	none := gateway.Reservation{}
	a = gateway.Amount{Tokens: sane(a.Tokens), MicroUSD: sane(a.MicroUSD)}
	keys, limits := limitKeys(bounds)
	if len(keys) == 0 {
		return gateway.Reservation{Amount: a, At: time.Now()}, 0, nil
	}
	args := append([]any{(minute / slots).Milliseconds(), slots, r.clock(), 1, a.Tokens, a.MicroUSD}, limits...)
	ok, n, err := r.ask(ctx, reserve, keys, args)
	switch {
	case err != nil:
		return none, 0, fmt.Errorf("redis: reserve: %w", err)
	case !ok:
		return none, time.Duration(max(n, 1)) * time.Millisecond, nil
	}
	return gateway.Reservation{Bounds: bounds, Amount: a, At: time.UnixMilli(n)}, 0, nil
}

// Settle implements gateway.Limiter. The request itself stays counted. A reservation that is over a minute old, as of a
// process that died or a call that took long, has aged out, and nothing is done.
func (r *Redis) Settle(ctx context.Context, v gateway.Reservation, used gateway.Amount) error {
	keys, limits := limitKeys(v.Bounds)
	tokens, money := sane(used.Tokens)-sane(v.Amount.Tokens), sane(used.MicroUSD)-sane(v.Amount.MicroUSD)
	if len(keys) == 0 || tokens == 0 && money == 0 {
		return nil
	}
	slot := v.At.UnixMilli() / (minute / slots).Milliseconds()
	if err := r.run(ctx, settle, keys, append([]any{slots, slot, tokens, money}, limits...)...).Err(); err != nil {
		return fmt.Errorf("redis: settle: %w", err)
	}
	return nil
}

// limitKeys returns the keys and limits of the bounds that bound anything.
func limitKeys(bounds []gateway.Bound) (keys []string, limits []any) {
	for _, b := range bounds {
		if l := b.Limit; l.Requests > 0 || l.Tokens > 0 || l.MicroUSD > 0 {
			provider, _, _ := strings.Cut(b.Name, "/")
			keys = append(keys, "gateway:limit:{"+provider+"}:"+b.Name)
			limits = append(limits, sane(l.Requests), sane(l.Tokens), sane(l.MicroUSD))
		}
	}
	return keys, limits
}

func sane(n int64) int64 { return min(max(n, 0), most) }

// clock is what scripts take for now: 0 for the server's.
func (r *Redis) clock() int64 {
	if r.now == nil {
		return 0
	}
	return r.now().UnixMilli()
}

// ask runs a script that returns a flag and a number.
func (r *Redis) ask(ctx context.Context, s *goredis.Script, keys []string, args []any) (ok bool, n int64, err error) {
	got, err := r.run(ctx, s, keys, args...).Int64Slice()
	if err != nil {
		return false, 0, err
	}
	if len(got) != 2 {
		return false, 0, fmt.Errorf("a script returned %d values", len(got))
	}
	return got[0] == 1, got[1], nil
}
