package gateway

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func keyringOf(t testing.TB, keys ...Key) *keyring {
	t.Helper()
	r, err := newKeyring(keys)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// picked returns the names of n picks in a row, "-" where there is no key.
func picked(r *keyring, now time.Time, n int) string {
	var b strings.Builder
	for range n {
		if k, ok := r.pick(now, nil); ok {
			b.WriteString(k.Name)
		} else {
			b.WriteByte('-')
		}
	}
	return b.String()
}

func TestBadKeysAreNamedByPositionOnly(t *testing.T) {
	t.Parallel()
	const secret = "sk-very-secret"
	for want, keys := range map[string][]Key{
		"no keys":               nil,
		"key 2 is empty":        {{Value: secret}, {Value: "  "}},
		"keys 1 and 2 are the":  {{Value: secret}, {Value: secret + "\n"}},
		"keys 1 and 3 have":     {{Value: secret, Name: "a"}, {Value: "x"}, {Value: "y", Name: "a"}},
		"keys 1 and 2 have":     {{Value: secret, Name: "key-2"}, {Value: "x"}},
		"weight of key 1 is -1": {{Value: secret, Weight: -1}},
		"weight of key 2 is":    {{Value: "x"}, {Value: secret, Weight: maxKeyWeight + 1}},
		"name of key 1 holds":   {{Value: secret, Name: "prod " + secret}},
		"control character":     {{Value: secret + "\r\nX: y"}},
		"over 64 bytes":         {{Value: secret, Name: strings.Repeat("n", 65)}},
	} {
		_, err := newKeyring(keys)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), secret) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

func TestKeysShareCallsByWeight(t *testing.T) {
	t.Parallel()
	now := time.Now()
	r := keyringOf(t, Key{Name: "a", Value: "1", Weight: 5}, Key{Name: "b", Value: "2"}, Key{Name: "c", Value: "3"})
	if got := picked(r, now, 14); got != "aabacaaaabacaa" {
		t.Errorf("%s is not smooth", got)
	}
	rapid.Check(t, func(t *rapid.T) {
		var keys []Key
		total := 0
		for i := range rapid.IntRange(1, 8).Draw(t, "keys") {
			k := Key{Value: fmt.Sprint(i), Weight: rapid.IntRange(1, 20).Draw(t, "weight")}
			keys, total = append(keys, k), total+k.Weight
		}
		r, err := newKeyring(keys)
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]int{}
		for range 3 * total {
			k, _ := r.pick(now, nil)
			got[k.Value]++
		}
		for _, k := range keys {
			if got[k.Value] != 3*k.Weight {
				t.Fatalf("key of weight %d of %d got %d of %d", k.Weight, total, got[k.Value], 3*total)
			}
		}
	})
}

func TestDeadKeyIsSetAsideAndComesBack(t *testing.T) {
	t.Parallel()
	now := time.Now()
	r := keyringOf(t, Key{Name: "a", Value: "1"}, Key{Name: "b", Value: "2"})
	for i, rest := range []time.Duration{10 * time.Minute, 20 * time.Minute, 40 * time.Minute, time.Hour, time.Hour} {
		r.report("a", Auth, 0, now)
		r.report("a", Auth, 0, now) // another that was under way
		if got := picked(r, now, 3); got != "bbb" {
			t.Fatalf("strike %d: picked %s", i, got)
		}
		if got := picked(r, now.Add(rest-time.Second), 2); strings.Contains(got, "a") {
			t.Fatalf("strike %d: back too early", i)
		}
		now = now.Add(rest)
		if got := picked(r, now, 2); !strings.Contains(got, "a") {
			t.Fatalf("strike %d: not back after %v", i, rest)
		}
	}
	r.report("a", OK, 0, now)
	r.report("a", Auth, 0, now)
	if got := picked(r, now.Add(10*time.Minute), 2); !strings.Contains(got, "a") {
		t.Error("a good answer did not clear the strikes")
	}
	r.report("a", Auth, 0, now.Add(time.Hour))
	r.report("a", OK, 0, now.Add(time.Hour))
	if got := picked(r, now.Add(time.Hour), 2); !strings.Contains(got, "a") {
		t.Error("a key that gives good answers is not dead")
	}
}

func TestRateLimitedKeyWaitsAsTold(t *testing.T) {
	t.Parallel()
	now := time.Now()
	r := keyringOf(t, Key{Name: "a", Value: "1"}, Key{Name: "b", Value: "2"})
	r.report("a", RateLimited, 7*time.Second, now)
	r.report("a", OK, 0, now) // of a call that began before
	if got := picked(r, now, 2); got != "bb" {
		t.Errorf("picked %s", got)
	}
	r.report("b", RateLimited, 0, now)
	if got, wait := picked(r, now, 1), r.until(now); got != "-" || wait != time.Second {
		t.Errorf("picked %s, wait %v", got, wait)
	}
	if got, wait := picked(r, now.Add(time.Second), 2), r.until(now.Add(time.Second)); got != "bb" || wait != 0 {
		t.Errorf("picked %s, wait %v", got, wait)
	}
	if got := picked(r, now.Add(7*time.Second), 2); !strings.Contains(got, "a") {
		t.Errorf("picked %s", got)
	}
	r.report("b", Quota, 0, now.Add(8*time.Second))
	if _, ok := r.pick(now.Add(9*time.Minute), func(n string) bool { return n == "a" }); ok {
		t.Error("picked what was tried or is out of credit")
	}
}

func TestSoleKeyIsNotSilenced(t *testing.T) {
	t.Parallel()
	now := time.Now()
	r := keyringOf(t, Key{Value: "1"})
	r.report("key-1", RateLimited, time.Minute, now)
	r.report("key-1", Server, time.Minute, now)
	if k, ok := r.pick(now, nil); !ok || k.Name != "key-1" {
		t.Error("a sole key was set aside for a rate limit")
	}
	for range 10 {
		r.report("key-1", Auth, 0, now)
		if _, ok := r.pick(now, nil); ok {
			t.Error("a refused key is in use")
		}
		if wait := r.until(now); wait < keyLastRest || wait > keyLastLimit {
			t.Errorf("set aside for %v", wait)
		}
		now = now.Add(r.until(now))
	}
	r.report("unknown", Auth, 0, now)
}

func TestKeyringIsSafeForConcurrentUse(t *testing.T) {
	t.Parallel()
	r := keyringOf(t, Key{Value: "1"}, Key{Value: "2"}, Key{Value: "3"})
	now := time.Now()
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 500 {
				at := now.Add(time.Duration(j) * time.Second)
				if k, ok := r.pick(at, nil); ok {
					r.report(k.Name, []Class{OK, Auth, Quota, RateLimited, Server}[(i+j)%5], 0, at)
				} else if r.until(at) == 0 {
					continue // another came back meanwhile
				}
			}
		})
	}
	wg.Wait()
	if _, ok := r.pick(now.Add(24*time.Hour), nil); !ok {
		t.Error("no key is left after a day")
	}
}
