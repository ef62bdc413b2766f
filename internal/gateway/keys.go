package gateway

import (
	"cmp"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Key is one credential of a provider.
type Key struct {
	Name   string // for logs and [Attempt.Key]; default "key-1", "key-2", ... by position; never the value
	Value  string
	Weight int // share of the provider's calls; default 1
}

// How long a key is set aside.
const (
	keyAuthRest   = 10 * time.Minute // for a key that was refused; doubled with each refusal after it
	keyQuotaRest  = 10 * time.Minute // for a key without credit, when the provider doesn't say
	keyRateRest   = time.Second      // for a key at its rate limit, when the provider doesn't say; doubled
	keyRateLimit  = time.Minute      // the longest of those
	keyLongest    = time.Hour        // longer words of a provider are cut: an operator may have topped up meanwhile
	keyLastRest   = 10 * time.Second // for the last key in use, see report
	keyLastLimit  = time.Minute
	maxKeys       = 1000
	maxKeyWeight  = 1_000_000
	maxKeyNameLen = 64
)

// keyring shares a provider's calls among its keys by weight. A key that the provider refuses is set aside for a
// while, and the calls go to the others. It is safe for concurrent use.
type keyring struct {
	mu   sync.Mutex
	keys []ringKey
}

type ringKey struct {
	Key
	credit  int       // of the smooth weighted round robin
	strikes int       // times set aside since the last good answer
	why     Class     // of the latest of them
	until   time.Time // set aside before
}

// newKeyring checks keys. Its errors name a key by its position, from 1, and never repeat a value.
func newKeyring(keys []Key) (*keyring, error) {
	switch {
	case len(keys) == 0:
		return nil, errors.New("there are no keys")
	case len(keys) > maxKeys:
		return nil, fmt.Errorf("there are %d keys; at most %d are possible", len(keys), maxKeys)
	}
	r := &keyring{keys: make([]ringKey, len(keys))}
	names, values := map[string]int{}, map[string]int{}
	for i, k := range keys {
		n := i + 1
		k.Value = strings.TrimSpace(k.Value)
		k.Name = cmp.Or(strings.TrimSpace(k.Name), "key-"+strconv.Itoa(n))
		k.Weight = cmp.Or(k.Weight, 1)
		switch {
		case k.Value == "":
			return nil, fmt.Errorf("key %d is empty", n)
		case strings.ContainsFunc(k.Value, func(c rune) bool { return c < ' ' || c == 0x7f }):
			return nil, fmt.Errorf("key %d holds a control character", n)
		case len(k.Value) >= 4 && strings.Contains(k.Name, k.Value):
			return nil, fmt.Errorf("the name of key %d holds its value", n)
		case len(k.Name) > maxKeyNameLen || k.Name != cleanName(k.Name):
			return nil, fmt.Errorf("the name of key %d holds control characters or is over %d bytes", n, maxKeyNameLen)
		case k.Weight < 0 || k.Weight > maxKeyWeight:
			return nil, fmt.Errorf("the weight of key %d is %d; it must be 1 to %d", n, k.Weight, maxKeyWeight)
		case names[k.Name] != 0:
			return nil, fmt.Errorf("keys %d and %d have the same name", names[k.Name], n)
		case values[k.Value] != 0:
			return nil, fmt.Errorf("keys %d and %d are the same", values[k.Value], n)
		}
		names[k.Name], values[k.Value] = n, n
		r.keys[i].Key = k
	}
	return r, nil
}

// pick returns the key for the next send: smooth weighted round robin over the keys that are in use and that this call
// has not tried; tried may be nil. Without such a key ok is false, and until tells when to come back.
func (r *keyring) pick(now time.Time, tried func(name string) bool) (k Key, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var best *ringKey
	total := 0
	for i := range r.keys {
		c := &r.keys[i]
		if now.Before(c.until) || tried != nil && tried(c.Name) {
			continue
		}
		c.credit += c.Weight
		total += c.Weight
		if best == nil || c.credit > best.credit {
			best = c
		}
	}
	if best == nil {
		return Key{}, false
	}
	best.credit -= total
	return best.Key, true
}

// inUse reports whether a key is not set aside.
func (r *keyring) inUse(name string, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range r.keys {
		if k := &r.keys[i]; k.Name == name {
			return !now.Before(k.until)
		}
	}
	return false
}

// report notes how a send with a key ended. RateLimited matters only where there is another key: with one, waiting is
// the caller's. While a key is set aside, what comes in is of sends that began before, so it is not set aside anew and
// a good answer doesn't bring it back, except from Auth: a dead key gives no good answers.
//
// Auth may be about one model that the key has no right to, and not about the key. So the last key in use is set aside
// for seconds only, else one such model would close the provider to all the others.
func (r *keyring) report(name string, class Class, retryAfter time.Duration, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var k *ringKey
	others := 0
	for i := range r.keys {
		if c := &r.keys[i]; c.Name == name {
			k = c
		} else if !now.Before(c.until) {
			others++
		}
	}
	if k == nil {
		return
	}
	aside := now.Before(k.until)
	switch class {
	case OK, Truncated, ContentFiltered, InvalidOutput: // a model answered
		if !aside || k.why == Auth {
			k.strikes, k.until = 0, time.Time{}
		}
		return
	case Auth, Quota:
		if aside && k.why != RateLimited {
			return
		}
	case RateLimited:
		if aside || len(r.keys) == 1 {
			return
		}
	default:
		return
	}
	if class != k.why {
		k.strikes = 0
	}
	var rest time.Duration
	switch {
	case class == RateLimited:
		rest = min(cmp.Or(retryAfter, doubled(keyRateRest, k.strikes, keyRateLimit)), keyLongest)
	case class == Quota && retryAfter > 0:
		rest = min(retryAfter, keyLongest)
	case others == 0:
		rest = doubled(keyLastRest, k.strikes, keyLastLimit)
	case class == Quota:
		rest = keyQuotaRest
	default:
		rest = doubled(keyAuthRest, k.strikes, keyLongest)
	}
	k.why, k.until = class, now.Add(rest)
	k.strikes++
}

// until returns how long no key is in use; 0 when one is.
func (r *keyring) until(now time.Time) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	return max(r.first().until.Sub(now), 0)
}

// reason says why no key is in use: for the rate, if that is so of any of them, since time alone brings that one back;
// else what the first to come back was refused for.
func (r *keyring) reason(now time.Time) Class {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range r.keys {
		if k := &r.keys[i]; k.why == RateLimited && now.Before(k.until) {
			return RateLimited
		}
	}
	return r.first().why
}

// first is the key that comes back first.
func (r *keyring) first() *ringKey {
	first := &r.keys[0]
	for i := range r.keys {
		if k := &r.keys[i]; k.until.Before(first.until) {
			first = k
		}
	}
	return first
}

// doubled is base after n doublings, at most limit.
func doubled(base time.Duration, n int, limit time.Duration) time.Duration {
	return min(base<<min(n, 20), limit)
}

// several reports whether there is a choice; nil has none.
func (r *keyring) several() bool { return r != nil && len(r.keys) > 1 }
