package redis

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"batchwright/internal/gateway"
	"batchwright/internal/queue/queuetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// connect returns a client of a database of the test's own.
func connect(t testing.TB) (r *Redis, url string) {
	t.Helper()
	url = queuetest.URL(t)
	return dial(t, url), url
}

func dial(t testing.TB, url string) *Redis {
	t.Helper()
	r, err := New(url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	return r
}

func TestURLsAreNotShown(t *testing.T) {
	t.Parallel()
	for _, url := range []string{"", "secret", "http://x", "redis://user:secret@host:port", "redis://:secret@host/x", "redis://:secret@host/secret", "redis://:secret/x@host",
		"redis://:sec%ret@host", "redis://:x@host?secret=1", "redis://:secret@a:1,b:2", "redis-sentinel://:secret@a:1", "redis-sentinel://:secret@a:1?master=m&secret=1",
		"redis-cluster://:secret@a:1,b:2/3", "redis-cluster://:secret@a:1,,b", "redis-cluster://:secret@a?secret=1", "redis-socket://:secret@host/path"} {
		if _, err := New(url); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: %v", url, err)
		}
	}
	r, err := New("redis://:secret@127.0.0.1:1/0")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if err := r.Ping(t.Context()); err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("ping: %v", err)
	}
	if _, _, err := r.Reserve(t.Context(), []gateway.Bound{{Name: "p", Limit: gateway.Limit{Requests: 1}}}, gateway.Amount{}); err == nil {
		t.Error("reserved without a server")
	}
}

// taken is one entry of the exact log that the windows are held against.
type taken struct {
	at     time.Time
	amount [3]int64
}

// within sums what was taken in the d before now, now included.
func within(log []taken, now time.Time, d time.Duration, m int) (sum int64) {
	for _, e := range log {
		if e.at.After(now.Add(-d)) {
			sum += e.amount[m]
		}
	}
	return sum
}

// In any minute no more than the limits is reserved; what is refused would have gone over in a sixtieth more than a
// minute; after the wait there is room; a call that is larger than a limit passes alone.
func TestLimitsHoldInEveryMinute(t *testing.T) {
	t.Parallel()
	r, _ := connect(t)
	var run int
	rapid.Check(t, func(t *rapid.T) {
		run++
		now := time.UnixMilli(1_800_000_000_000 + rapid.Int64Range(0, 5000).Draw(t, "start"))
		r.now = func() time.Time { return now }
		var bounds []gateway.Bound
		logs := map[string][]taken{}
		for i := range rapid.IntRange(1, 3).Draw(t, "bounds") {
			bounds = append(bounds, gateway.Bound{Name: fmt.Sprintf("run%d/%d", run, i), Limit: gateway.Limit{
				Requests: rapid.Int64Range(0, 6).Draw(t, "requests"), Tokens: rapid.Int64Range(0, 50).Draw(t, "tokens"),
				MicroUSD: rapid.Int64Range(0, 50).Draw(t, "money")}})
		}
		type open struct {
			gateway.Reservation
			log map[string]int
		}
		var reserved []open
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			switch rapid.SampledFrom([]string{"reserve", "reserve", "settle", "pass"}).Draw(t, "step") {
			case "pass":
				now = now.Add(time.Duration(rapid.Int64Range(1, 40_000).Draw(t, "ms")) * time.Millisecond)
			case "settle":
				if len(reserved) == 0 {
					continue
				}
				i := rapid.IntRange(0, len(reserved)-1).Draw(t, "which")
				v := reserved[i]
				reserved = slices.Delete(reserved, i, i+1)
				used := gateway.Amount{Tokens: rapid.Int64Range(0, 40).Draw(t, "used"), MicroUSD: rapid.Int64Range(0, 40).Draw(t, "spent")}
				if err := r.Settle(context.Background(), v.Reservation, used); err != nil {
					t.Fatal(err)
				}
				for name, at := range v.log {
					logs[name][at].amount[1], logs[name][at].amount[2] = used.Tokens, used.MicroUSD
				}
			case "reserve":
				a := gateway.Amount{Tokens: rapid.Int64Range(0, 60).Draw(t, "tokens"), MicroUSD: rapid.Int64Range(0, 60).Draw(t, "money")}
				need := [3]int64{1, a.Tokens, a.MicroUSD}
				v, wait, err := r.Reserve(context.Background(), bounds, a)
				if err != nil {
					t.Fatal(err)
				}
				refusable := false
				for _, b := range bounds {
					for m, limit := range []int64{b.Requests, b.Tokens, b.MicroUSD} {
						if limit == 0 || need[m] == 0 {
							continue
						}
						minute, more := within(logs[b.Name], now, time.Minute, m), within(logs[b.Name], now, 61*time.Second, m)
						alone := need[m] > limit && minute <= 0
						if wait == 0 && minute+need[m] > limit && !alone {
							t.Fatalf("%s: %d taken and %d reserved of %d, metric %d", b.Name, minute, need[m], limit, m)
						}
						refusable = refusable || more+need[m] > limit && (need[m] <= limit || more > 0)
					}
				}
				if wait > 0 {
					if !refusable {
						t.Fatalf("refused with room for %v under %v", a, bounds)
					}
					if wait > 61*time.Second {
						t.Fatalf("wait %v", wait)
					}
					now = now.Add(wait)
					if v, wait, err = r.Reserve(context.Background(), bounds, a); err != nil || wait > 0 {
						t.Fatalf("after the wait: %v more, %v", wait, err)
					}
				}
				o := open{v, map[string]int{}}
				for _, b := range bounds {
					o.log[b.Name] = len(logs[b.Name])
					logs[b.Name] = append(logs[b.Name], taken{now, need})
				}
				reserved = append(reserved, o)
			}
		}
	})
}

func TestReservationTakesAllBoundsOrNone(t *testing.T) {
	t.Parallel()
	r, _ := connect(t)
	provider := gateway.Bound{Name: "openai", Limit: gateway.Limit{Tokens: 100}}
	model := gateway.Bound{Name: "openai/m", Limit: gateway.Limit{Tokens: 10}}
	take := func(a int64, bounds ...gateway.Bound) time.Duration {
		t.Helper()
		_, wait, err := r.Reserve(t.Context(), bounds, gateway.Amount{Tokens: a})
		if err != nil {
			t.Fatal(err)
		}
		return wait
	}
	if take(10, provider, model) != 0 {
		t.Fatal("refused the first")
	}
	for range 20 {
		if wait := take(10, provider, model); wait < 30*time.Second || wait > 61*time.Second {
			t.Fatalf("wait %v", wait)
		}
	}
	if take(90, provider) != 0 {
		t.Error("the provider's room was taken by calls that the model's bound refused")
	}
	if take(5, gateway.Bound{Name: "openai"}) != 0 || take(5) != 0 {
		t.Error("no bound, and yet a wait")
	}
}

func TestOversizeCallPassesAlone(t *testing.T) {
	t.Parallel()
	r, _ := connect(t)
	b := []gateway.Bound{{Name: "p", Limit: gateway.Limit{Tokens: 10}}}
	v, wait, err := r.Reserve(t.Context(), b, gateway.Amount{Tokens: 500})
	if err != nil || wait != 0 {
		t.Fatalf("wait %v, %v", wait, err)
	}
	if _, wait, _ := r.Reserve(t.Context(), b, gateway.Amount{Tokens: 1}); wait == 0 {
		t.Error("another passed beside it")
	}
	if err := r.Settle(t.Context(), v, gateway.Amount{Tokens: 4}); err != nil {
		t.Fatal(err)
	}
	if _, wait, _ := r.Reserve(t.Context(), b, gateway.Amount{Tokens: 6}); wait != 0 {
		t.Error("what was not used was not given back")
	}
	if _, wait, _ := r.Reserve(t.Context(), b, gateway.Amount{Tokens: 500}); wait == 0 {
		t.Error("an oversize call passed beside others")
	}
}

func TestLimitHoldsOverManyProcesses(t *testing.T) {
	t.Parallel()
	r, url := connect(t)
	clients := []*Redis{r, dial(t, url)}
	now := time.Now() // one slot: a slow machine would let the first ones age out
	for _, c := range clients {
		c.now = func() time.Time { return now }
	}
	bounds := []gateway.Bound{
		{Name: "p", Limit: gateway.Limit{Requests: 1000, Tokens: 5000, MicroUSD: 1_000_000}},
		{Name: "p/m", Limit: gateway.Limit{Tokens: 3000}},
	}
	var got, tokens atomic.Int64
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			for j := range 40 {
				n := int64((i+j)%20 + 1)
				v, wait, err := clients[i%2].Reserve(t.Context(), bounds, gateway.Amount{Tokens: n, MicroUSD: n})
				if err != nil {
					t.Error(err)
					return
				}
				if wait > 0 {
					continue
				}
				got.Add(1)
				tokens.Add(n / 2)
				if err := clients[(i+1)%2].Settle(t.Context(), v, gateway.Amount{Tokens: n / 2, MicroUSD: n}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if tokens.Load() > 3000 || tokens.Load() < 2800 {
		t.Errorf("%d tokens in %d calls passed a limit of 3000", tokens.Load(), got.Load())
	}
	if _, wait, err := r.Reserve(t.Context(), bounds, gateway.Amount{Tokens: 3000 - tokens.Load()}); err != nil || wait != 0 {
		t.Errorf("no room for what is left: %v, %v", wait, err)
	}
}

func TestMemoryDoesNotGrowWithRequests(t *testing.T) {
	t.Parallel()
	r, _ := connect(t)
	now := time.UnixMilli(1_800_000_000_000)
	r.now = func() time.Time { return now }
	b := []gateway.Bound{{Name: "p", Limit: gateway.Limit{Requests: 1e9, Tokens: 1e12, MicroUSD: 1e12}}}
	for range 3000 {
		if _, wait, err := r.Reserve(t.Context(), b, gateway.Amount{Tokens: 1000, MicroUSD: 10}); wait != 0 || err != nil {
			t.Fatalf("wait %v, %v", wait, err)
		}
		now = now.Add(77 * time.Millisecond)
	}
	const key = "gateway:limit:{p}:p"
	fields, err := r.c.HGetAll(t.Context(), key).Result()
	if err != nil || len(fields) > 3*(slots+1)+4 {
		t.Errorf("%d fields, %v", len(fields), err)
	}
	if n := fields["R"]; n < "780" || n > "800" { // 60 to 61 s at 13 a second
		t.Errorf("%s requests in a minute", n)
	}
	if ttl := r.c.PTTL(t.Context(), key).Val(); ttl <= 0 || ttl > 62*time.Second {
		t.Errorf("expires in %v", ttl)
	}
}

// The clock is the server's; that of the process is not looked at.
func TestServerClockCounts(t *testing.T) {
	t.Parallel()
	r, _ := connect(t)
	at, err := r.c.Time(t.Context()).Result()
	if err != nil {
		t.Fatal(err)
	}
	v, _, err := r.Reserve(t.Context(), []gateway.Bound{{Name: "p", Limit: gateway.Limit{Requests: 1}}}, gateway.Amount{})
	if err != nil || v.At.Sub(at) < -time.Millisecond || v.At.Sub(at) > time.Minute {
		t.Errorf("reserved at %v, %v after the server's time, %v", v.At, v.At.Sub(at), err)
	}
}

func TestFixedWindowIsAlignedToTheClock(t *testing.T) {
	t.Parallel()
	r, _ := connect(t)
	now := time.UnixMilli(1_800_000_000_000) // a multiple of 60 s
	r.now = func() time.Time { return now }
	allow := func() (bool, time.Duration) {
		t.Helper()
		ok, wait, err := r.Allow(t.Context(), "account/gw", 3, time.Minute, false)
		if err != nil {
			t.Fatal(err)
		}
		return ok, wait
	}
	now = now.Add(50 * time.Second)
	for i := range 3 {
		if ok, wait := allow(); !ok || wait != 0 {
			t.Fatalf("request %d refused for %v", i, wait)
		}
	}
	if ok, wait := allow(); ok || wait != 10*time.Second {
		t.Errorf("fourth: %v, wait %v", ok, wait)
	}
	now = now.Add(10 * time.Second)
	if ok, _ := allow(); !ok {
		t.Error("refused in the next window")
	}
	if ok, _, err := r.Allow(t.Context(), "other", 3, time.Minute, false); !ok || err != nil {
		t.Error("names share a window")
	}
	if ok, _, err := r.Allow(t.Context(), "account/gw", 0, time.Minute, false); !ok || err != nil {
		t.Error("a limit of 0 is a limit")
	}
}

func TestSlidingWindowHoldsInEveryInterval(t *testing.T) {
	t.Parallel()
	r, _ := connect(t)
	var run int
	rapid.Check(t, func(t *rapid.T) {
		run++
		now := time.UnixMilli(1_800_000_000_000)
		r.now = func() time.Time { return now }
		interval := time.Duration(rapid.Int64Range(1, 3600).Draw(t, "interval")) * time.Second
		limit := rapid.Int64Range(1, 5).Draw(t, "limit")
		kept := (slots + 1) * time.Duration((interval.Milliseconds()+slots-1)/slots) * time.Millisecond
		var log []taken
		for range 20 {
			now = now.Add(time.Duration(rapid.Int64Range(0, int64(interval)/3).Draw(t, "pass")))
			ok, wait, err := r.Allow(context.Background(), fmt.Sprint(run), limit, interval, true)
			if err != nil {
				t.Fatal(err)
			}
			now = now.Truncate(time.Millisecond)
			exact := within(log, now, interval, 0)
			if ok && exact+1 > limit {
				t.Fatalf("let through after %d of %d", exact, limit)
			}
			if !ok {
				if within(log, now, kept, 0)+1 <= limit || wait <= 0 {
					t.Fatalf("refused after %d of %d, wait %v", exact, limit, wait)
				}
				now = now.Add(wait)
				if ok, _, _ = r.Allow(context.Background(), fmt.Sprint(run), limit, interval, true); !ok {
					t.Fatalf("refused after the wait")
				}
			}
			log = append(log, taken{now, [3]int64{1}})
		}
	})
}

func TestAnswersAreSharedAndForgotten(t *testing.T) {
	t.Parallel()
	r, url := connect(t)
	other := dial(t, url)
	put := &gateway.Cached{Status: 200, ContentType: "application/json", Body: []byte("{\"a\":\"\x00\xff\"}"), Provider: "openai", Model: "m", Step: 2,
		StoredAt: time.Now().UTC(), ExpiresAt: time.Now().Add(time.Hour).UTC(), Extra: map[string]string{"x": "y"}}
	if got, err := other.GetAnswer(t.Context(), "a-1"); got != nil || err != nil {
		t.Fatalf("before: %v, %v", got, err)
	}
	for _, key := range []string{"a-1", "a-2", "b-1", "*-1"} {
		if err := r.PutAnswer(t.Context(), key, put, time.Hour); err != nil {
			t.Fatal(err)
		}
	}
	got, err := other.GetAnswer(t.Context(), "a-1")
	if err != nil || got == nil {
		t.Fatalf("%v, %v", got, err)
	}
	if got.Status != put.Status || got.ContentType != put.ContentType || !bytes.Equal(got.Body, put.Body) || got.Provider != put.Provider ||
		got.Model != put.Model || got.Step != put.Step || !got.StoredAt.Equal(put.StoredAt) || !got.ExpiresAt.Equal(put.ExpiresAt) || !maps.Equal(got.Extra, put.Extra) {
		t.Errorf("%+v, want %+v", got, put)
	}
	if ttl := r.c.PTTL(t.Context(), answerPrefix+"a-1").Val(); ttl <= 59*time.Minute || ttl > time.Hour {
		t.Errorf("expires in %v", ttl)
	}
	if err := other.DeleteAnswers(t.Context(), "*-"); err != nil {
		t.Fatal(err)
	}
	if got, _ := r.GetAnswer(t.Context(), "a-1"); got == nil {
		t.Error("a prefix was read as a pattern")
	}
	if err := other.DeleteAnswers(t.Context(), "a-"); err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]bool{"a-1": false, "a-2": false, "b-1": true} {
		if got, err := r.GetAnswer(t.Context(), key); err != nil || (got != nil) != want {
			t.Errorf("%s: %v, %v", key, got, err)
		}
	}
	if err := r.c.Set(t.Context(), answerPrefix+"broken", "\x00\x00\xff\xff{}", time.Minute).Err(); err != nil {
		t.Fatal(err)
	}
	if got, err := r.GetAnswer(t.Context(), "broken"); got != nil || err == nil {
		t.Errorf("a broken answer: %v, %v", got, err)
	}
}

func FuzzDecodeAnswer(f *testing.F) {
	good, err := encodeAnswer(&gateway.Cached{Status: 200, Body: []byte("{}")})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte("\xff\xff\xff\xff{}"))
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := decodeAnswer(b)
		if (a == nil) == (err == nil) {
			t.Fatalf("%v, %v", a, err)
		}
		if a != nil && len(a.Body) > len(b)-4 {
			t.Errorf("a body of %d bytes out of %d", len(a.Body), len(b))
		}
	})
}

func BenchmarkReserve(b *testing.B) {
	r, _ := connect(b)
	bounds := []gateway.Bound{{Name: "p", Limit: gateway.Limit{Requests: 1e9, Tokens: 1e12}}, {Name: "p/m", Limit: gateway.Limit{Requests: 1e9, Tokens: 1e12, MicroUSD: 1e12}}}
	for b.Loop() {
		if _, wait, err := r.Reserve(b.Context(), bounds, gateway.Amount{Tokens: 1000, MicroUSD: 50}); err != nil || wait != 0 {
			b.Fatal(wait, err)
		}
	}
}
