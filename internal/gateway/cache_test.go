package gateway_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"batchwright/internal/gateway"
)

func newCache(t testing.TB, o gateway.CacheOptions) *gateway.Cache {
	t.Helper()
	c := gateway.NewCache(o)
	t.Cleanup(c.Close)
	return c
}

func cachedBody(s string) *gateway.Cached { return &gateway.Cached{Status: 200, Body: []byte(s)} }

// bodyOf is "" for no answer.
func bodyOf(a *gateway.Cached) string {
	if a == nil {
		return ""
	}
	return string(a.Body)
}

func after(d time.Duration) { <-time.After(d) }

// sharedMap is a shared level in memory.
type sharedMap struct {
	mu     sync.Mutex
	m      map[string]*gateway.Cached
	broken bool
	slow   time.Duration
	calls  int
}

func (s *sharedMap) enter(ctx context.Context) error {
	s.mu.Lock()
	s.calls++
	slow, broken := s.slow, s.broken
	s.mu.Unlock()
	if slow > 0 {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(slow):
		}
	}
	if broken {
		return errors.New("the shared level is down")
	}
	return ctx.Err()
}

func (s *sharedMap) GetAnswer(ctx context.Context, key string) (*gateway.Cached, error) {
	if err := s.enter(ctx); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.m[key], nil
}

func (s *sharedMap) PutAnswer(ctx context.Context, key string, a *gateway.Cached, _ time.Duration) error {
	if err := s.enter(ctx); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.m[key] = a
	return nil
}

func (s *sharedMap) DeleteAnswers(ctx context.Context, prefix string) error {
	if err := s.enter(ctx); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for key := range s.m {
		if strings.HasPrefix(key, prefix) {
			delete(s.m, key)
		}
	}
	return nil
}

func TestCacheKeysDifferWhereRequestsDo(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		part := rapid.StringMatching(`[ab/]{0,3}`)
		draw := func(name string) (p [5]string, body string) {
			for i := range p {
				p[i] = part.Draw(t, name)
			}
			return p, part.Draw(t, name)
		}
		p, a := draw("p")
		q, b := draw("q")
		kp := gateway.CacheKey(p[0], p[1], p[2], p[3], p[4], []byte(a))
		kq := gateway.CacheKey(q[0], q[1], q[2], q[3], q[4], []byte(b))
		if (kp == kq) != (p == q && a == b) {
			t.Fatalf("%q %q and %q %q: %s, %s", p, a, q, b, kp, kq)
		}
		if kp == gateway.CustomCacheKey(p[0], a) {
			t.Fatal("a custom key meets a computed one")
		}
	})
	key := gateway.CacheKey("account/gateway", "openai", "v1/chat/completions", "m", "sk-secret", []byte("{}"))
	if len(key) != 16+1+64 || strings.Contains(key, "sk-secret") || key != gateway.CacheKey("account/gateway", "openai", "v1/chat/completions", "m", "sk-secret", []byte("{}")) {
		t.Errorf("key %s", key)
	}
}

func TestAnswersLiveForTheirOwnTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCache(t, gateway.CacheOptions{})
		ctx := t.Context()
		c.Put(ctx, "a", cachedBody("a"), time.Minute)
		c.Put(ctx, "b", cachedBody("b"), time.Hour)
		c.Put(ctx, "none", cachedBody("x"), 0)
		if c.Get(ctx, "none") != nil || c.Get(ctx, "absent") != nil {
			t.Error("an answer that was not kept")
		}
		got := c.Get(ctx, "a")
		if bodyOf(got) != "a" || got.ExpiresAt.Sub(got.StoredAt) != time.Minute || got != c.Get(ctx, "a") {
			t.Errorf("%+v", got)
		}
		after(time.Minute - time.Nanosecond)
		if c.Get(ctx, "a") == nil {
			t.Error("forgotten too early")
		}
		after(time.Nanosecond)
		if c.Get(ctx, "a") != nil || bodyOf(c.Get(ctx, "b")) != "b" {
			t.Error("an answer outlived its time, or another's")
		}
		c.Put(ctx, "b", cachedBody("b2"), time.Minute)
		after(time.Minute)
		if c.Get(ctx, "b") != nil {
			t.Error("the second time of an answer is not its time")
		}
	})
}

func TestCacheIsBoundedInBytes(t *testing.T) {
	t.Parallel()
	c := newCache(t, gateway.CacheOptions{MaxBytes: 1 << 20})
	body := strings.Repeat("x", 10_000)
	for i := range 1000 {
		c.Put(t.Context(), fmt.Sprint(i), cachedBody(body), time.Hour)
	}
	deadline := time.Now().Add(10 * time.Second)
	for {
		kept := 0
		for i := range 1000 {
			if c.Get(t.Context(), fmt.Sprint(i)) != nil {
				kept++
			}
		}
		if kept > 0 && kept <= 100 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d answers of 10 kB in 1 MiB", kept)
		}
		<-time.After(time.Millisecond)
	}
	big := gateway.NewCache(gateway.CacheOptions{})
	defer big.Close()
	big.Put(t.Context(), "big", &gateway.Cached{Body: make([]byte, 25<<20+1)}, time.Hour)
	if big.Get(t.Context(), "big") != nil {
		t.Error("an answer over 25 MiB was kept")
	}
}

func TestSharedLevelIsAskedOnceAndFilled(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		shared := &sharedMap{m: map[string]*gateway.Cached{}}
		one, two := newCache(t, gateway.CacheOptions{Shared: shared}), newCache(t, gateway.CacheOptions{Shared: shared})
		ctx := t.Context()
		key, other := gateway.CacheKey("a/g", "p", "e", "m", "", nil), gateway.CacheKey("a/h", "p", "e", "m", "", nil)
		gone, cancel := context.WithCancel(ctx)
		cancel()
		one.Put(gone, key, cachedBody("a"), time.Minute) // paid, whoever went away
		one.Put(ctx, other, cachedBody("b"), time.Minute)
		for range 3 {
			if bodyOf(two.Get(ctx, key)) != "a" {
				t.Fatal("not shared")
			}
		}
		if shared.calls != 3 {
			t.Errorf("%d calls, want two puts and one get", shared.calls)
		}
		after(time.Minute)
		if two.Get(ctx, key) != nil { // the map doesn't expire
			t.Error("an expired answer came from the shared level")
		}
		one.Put(ctx, key, cachedBody("a"), time.Minute)
		one.Put(ctx, other, cachedBody("b"), time.Minute)
		if err := one.Purge(ctx, "a/g"); err != nil {
			t.Fatal(err)
		}
		if one.Get(ctx, key) != nil || two.Get(ctx, key) != nil || one.Get(ctx, other) == nil {
			t.Error("purged too little, or too much")
		}
	})
}

func TestBrokenSharedLevelIsAMiss(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		shared := &sharedMap{m: map[string]*gateway.Cached{}, broken: true, slow: time.Hour}
		var log bytes.Buffer
		c := newCache(t, gateway.CacheOptions{Shared: shared, Log: slog.New(slog.NewTextHandler(&log, nil))})
		ctx, start := t.Context(), time.Now()
		for i := range 100 {
			if c.Get(ctx, fmt.Sprint("absent", i)) != nil {
				t.Fatal("an answer from nowhere")
			}
		}
		if d := time.Since(start); d > time.Second {
			t.Errorf("a slow shared level took %v of 100 calls", d)
		}
		c.Put(ctx, "a", cachedBody("a"), time.Hour)
		if bodyOf(c.Get(ctx, "a")) != "a" {
			t.Error("memory doesn't work without the shared level")
		}
		for range 50 { // 50 failures in under five minutes
			after(5 * time.Second)
			c.Get(ctx, "absent")
		}
		if n := strings.Count(log.String(), "\n"); n < 4 || n > 6 {
			t.Errorf("%d lines in the log, want one a minute", n)
		}
		shared.mu.Lock()
		shared.broken, shared.slow, shared.m["b"] = false, 0, &gateway.Cached{Body: []byte("b"), ExpiresAt: time.Now().Add(time.Hour)}
		shared.mu.Unlock()
		after(5 * time.Second)
		if bodyOf(c.Get(ctx, "b")) != "b" {
			t.Error("the shared level is not used again")
		}
		ended, cancel := context.WithCancel(ctx)
		cancel()
		c.Get(ended, "absent")
		if c.Get(ctx, "c"); shared.calls == 0 || bodyOf(c.Get(ctx, "b")) != "b" {
			t.Error("a caller that gave up broke the shared level")
		}
	})
}

func TestOneLeadsAndTheOthersGetItsAnswer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCache(t, gateway.CacheOptions{})
		var asked atomic.Int32
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() {
				hit, done, err := c.Lead(t.Context(), "k")
				if done != nil {
					asked.Add(1)
					after(time.Second)
					a := cachedBody("a")
					c.Put(t.Context(), "k", a, time.Minute)
					done(a)
					done(nil) // does nothing
					return
				}
				if err != nil || bodyOf(hit) != "a" {
					t.Errorf("%v, %v", hit, err)
				}
			})
		}
		wg.Wait()
		if asked.Load() != 1 {
			t.Errorf("%d asked", asked.Load())
		}
		if hit, done, _ := c.Lead(t.Context(), "k"); done != nil || bodyOf(hit) != "a" {
			t.Error("one who came just after leads")
		}
		hit, done, _ := c.Lead(t.Context(), "other")
		if hit != nil || done == nil {
			t.Fatal("keys share a leader")
		}
		done(nil)
	})
}

func TestLeaderThatFailsFailsNobody(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCache(t, gateway.CacheOptions{})
		start := time.Now()
		var led, got atomic.Int32
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				hit, done, err := c.Lead(t.Context(), "k")
				if err != nil {
					t.Error(err)
				}
				if done == nil {
					got.Add(1)
					return
				}
				after(time.Second)
				if led.Add(1) == 3 {
					hit = cachedBody("a")
				}
				done(hit)
			})
		}
		wg.Wait()
		if led.Load() != 3 || got.Load() != 7 || time.Since(start) != 3*time.Second {
			t.Errorf("%d led and %d followed in %v", led.Load(), got.Load(), time.Since(start))
		}
	})
}

func TestLeaderThatDiesAndFollowerThatLeaves(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCache(t, gateway.CacheOptions{})
		dying, die := context.WithCancel(t.Context())
		_, late, _ := c.Lead(dying, "k") // which it never calls, at first
		if late == nil {
			t.Fatal("the first doesn't lead")
		}
		errLeft := errors.New("left")
		leaving, leave := context.WithCancelCause(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, done, err := c.Lead(leaving, "k"); done != nil || !errors.Is(err, errLeft) {
				t.Errorf("a follower that left: %v", err)
			}
		})
		synctest.Wait()
		leave(errLeft)
		wg.Wait()
		wg.Go(func() {
			_, done, err := c.Lead(t.Context(), "k")
			if done == nil || err != nil {
				t.Errorf("nobody leads after the leader's death: %v", err)
				return
			}
			late(cachedBody("from the dead"))
			if _, next, _ := c.Lead(leaving, "k"); next != nil {
				t.Error("two lead")
			}
			done(nil)
		})
		synctest.Wait()
		die()
		wg.Wait()
	})
}

func TestCacheIsSafeForConcurrentUse(t *testing.T) {
	t.Parallel()
	c := newCache(t, gateway.CacheOptions{MaxBytes: 64 << 10, Shared: &sharedMap{m: map[string]*gateway.Cached{}}})
	const keys = 8
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 300 {
				n := (i + j) % keys
				key := gateway.CustomCacheKey("s", fmt.Sprint(n))
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(j%3+1)*5*time.Millisecond)
				if a := c.Get(ctx, key); a == nil {
					hit, done, err := c.Lead(ctx, key)
					switch {
					case done != nil:
						a := cachedBody(fmt.Sprint(n))
						c.Put(ctx, key, a, time.Duration(j%4)*time.Millisecond)
						if j%5 != 0 {
							done(a)
						} else {
							done(nil)
						}
					case hit != nil && bodyOf(hit) != fmt.Sprint(n):
						t.Errorf("answer %s for %d", hit.Body, n)
					case hit == nil && err == nil:
						t.Error("neither an answer nor the lead nor an error")
					}
				} else if bodyOf(a) != fmt.Sprint(n) {
					t.Errorf("answer %s for %d", a.Body, n)
				}
				cancel()
				if j%100 == 0 {
					if err := c.Purge(t.Context(), "s"); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	wg.Wait()
}

func BenchmarkCacheHit(b *testing.B) {
	c := newCache(b, gateway.CacheOptions{})
	body := bytes.Repeat([]byte("x"), 4000)
	key := gateway.CacheKey("account/gateway", "openai", "v1/chat/completions", "m", "k", body)
	c.Put(b.Context(), key, cachedBody("a"), time.Hour)
	b.Run("get", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if c.Get(b.Context(), key) == nil {
				b.Fatal("a miss")
			}
		}
	})
	b.Run("key", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			gateway.CacheKey("account/gateway", "openai", "v1/chat/completions", "m", "k", body)
		}
	})
}
