package gateway

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"hash"
	"io"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/maypok86/otter/v2"
)

// CacheOptions configure a Cache. The zero value is the documented default.
type CacheOptions struct {
	MaxBytes int64        // of answers kept in memory; default 256 MiB
	Shared   SharedCache  // a second level, which processes share; default none
	Log      *slog.Logger // default: none
}

// Cached is a stored answer. It is shared and must not be changed; so must its Body.
type Cached struct {
	Status      int
	ContentType string
	Body        []byte
	Provider    string
	Model       string
	Step        int // index of the step that answered
	StoredAt    time.Time
	ExpiresAt   time.Time
	Extra       map[string]string // for whoever stored it, such as other headers
}

// SharedCache is a level of the cache beyond this process. Its methods are safe for concurrent use.
type SharedCache interface {
	// GetAnswer returns nil without an error when there is none.
	GetAnswer(ctx context.Context, key string) (*Cached, error)
	PutAnswer(ctx context.Context, key string, c *Cached, ttl time.Duration) error
	// DeleteAnswers deletes the answers whose keys begin with prefix.
	DeleteAnswers(ctx context.Context, prefix string) error
}

const (
	defaultCacheBytes = 256 << 20
	maxCachedBody     = 25 << 20 // Cloudflare's limit for one answer
	cachedOverhead    = 512      // bytes an entry costs beside its body, roughly
	sharedGetTimeout  = 500 * time.Millisecond
	sharedPutTimeout  = 5 * time.Second
	sharedRest        = 5 * time.Second // without the shared level after it failed, so that it doesn't slow every call down
	sharedLogEvery    = time.Minute
)

// Cache is the gateway's response cache: exact matches only, bounded in bytes, each answer for its own time. Whether a
// request may be answered from it, and for how long an answer may be kept, is the caller's. It is safe for concurrent
// use.
type Cache struct {
	o      CacheOptions
	memory *otter.Cache[string, *Cached]

	mu      sync.Mutex
	flights map[string]*flight

	restUntil atomic.Int64 // Unix nanoseconds: the shared level is left alone before
	logged    atomic.Int64 // Unix nanoseconds
}

// CacheKey is the key of an answer to one request: SHA-256 over everything that decides the answer, after a prefix that
// is scope's own, such as "account/gateway", and that [Cache.Purge] goes by. The credential is in it because answers
// may differ by who asks: one caller must not see another's.
func CacheKey(scope, provider, endpoint, model, credential string, body []byte) string {
	return cacheKey(scope, "request", []string{provider, endpoint, model, credential}, body)
}

// CustomCacheKey is the key of the answers to the requests that name a key of their own, in place of [CacheKey].
func CustomCacheKey(scope, name string) string { return cacheKey(scope, "custom", []string{name}, nil) }

func cacheKey(scope, kind string, parts []string, body []byte) string {
	h := sha256.New()
	part := func(s string) { writeLength(h, len(s)); _, _ = io.WriteString(h, s) }
	part(scope)
	part(kind)
	for _, s := range parts {
		part(s)
	}
	writeLength(h, len(body))
	h.Write(body)
	return cachePrefix(scope) + hex.EncodeToString(h.Sum(nil))
}

// writeLength goes before each part: no two lists of parts are the same bytes.
func writeLength(h hash.Hash, n int) {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], uint64(n))
	h.Write(b[:])
}

func cachePrefix(scope string) string {
	sum := sha256.Sum256([]byte(scope))
	return hex.EncodeToString(sum[:8]) + "-"
}

// NewCache returns an empty cache.
func NewCache(o CacheOptions) *Cache {
	o.MaxBytes = cmp.Or(max(o.MaxBytes, 0), defaultCacheBytes)
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	c := &Cache{o: o, flights: map[string]*flight{}}
	c.memory = otter.Must(&otter.Options[string, *Cached]{
		MaximumWeight: uint64(o.MaxBytes),
		Weigher:       func(key string, a *Cached) uint32 { return uint32(len(key) + len(a.Body) + cachedOverhead) },
		ExpiryCalculator: otter.ExpiryWritingFunc(func(e otter.Entry[string, *Cached]) time.Duration {
			return max(time.Until(e.Value.ExpiresAt), 1)
		}),
		Logger: &otter.NoopLogger{},
	})
	return c
}

// Close stops the cache's own goroutine and forgets what it holds. The shared level is its owner's.
func (c *Cache) Close() {
	c.memory.StopAllGoroutines()
	c.memory.InvalidateAll()
}

// Get returns the answer stored under key, or nil. A shared level that fails or is slow is a miss.
func (c *Cache) Get(ctx context.Context, key string) *Cached {
	if a := c.recall(key); a != nil {
		return a
	}
	if !c.sharing() {
		return nil
	}
	limited, cancel := context.WithTimeout(ctx, sharedGetTimeout)
	defer cancel()
	a, err := c.o.Shared.GetAnswer(limited, key)
	if err != nil {
		if ctx.Err() == nil { // else the caller gave up
			c.broken(ctx, err)
		}
		return nil
	}
	if a == nil || !time.Now().Before(a.ExpiresAt) || len(a.Body) > maxCachedBody {
		return nil
	}
	c.memory.Set(key, a)
	return a
}

// Put stores an answer for ttl, unless its body is over 25 MiB. It sets StoredAt and ExpiresAt of what it keeps, which
// is a copy but for Body and Extra. It doesn't mind the end of ctx: the answer is paid.
func (c *Cache) Put(ctx context.Context, key string, a *Cached, ttl time.Duration) {
	if ttl <= 0 || len(a.Body) > maxCachedBody {
		return
	}
	kept := *a
	kept.StoredAt = time.Now().UTC()
	kept.ExpiresAt = kept.StoredAt.Add(ttl)
	c.memory.Set(key, &kept)
	if !c.sharing() {
		return
	}
	limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), sharedPutTimeout)
	defer cancel()
	if err := c.o.Shared.PutAnswer(limited, key, &kept, ttl); err != nil {
		c.broken(ctx, err)
	}
}

// Purge forgets all answers of a scope, here and in the shared level. Other processes keep what they hold in memory.
func (c *Cache) Purge(ctx context.Context, scope string) error {
	prefix := cachePrefix(scope)
	for key := range c.memory.Keys() {
		if strings.HasPrefix(key, prefix) {
			c.memory.Invalidate(key)
		}
	}
	if c.o.Shared == nil {
		return nil
	}
	return c.o.Shared.DeleteAnswers(ctx, prefix)
}

// Lead lets one of the callers that miss the same key ask for its answer, and the others wait for that. It returns one
// of three: the answer, which another has just got; done, when the caller is to ask, and must call it with the answer,
// after Put, or with nil when there is none; or the cause of ctx's end. A leader without an answer fails nobody: the
// next one leads. The end of a leader's ctx is a call of done with nil, so a leader that dies holds nobody up; later
// calls of done do nothing.
func (c *Cache) Lead(ctx context.Context, key string) (hit *Cached, done func(*Cached), err error) {
	for {
		if ctx.Err() != nil {
			return nil, nil, context.Cause(ctx)
		}
		c.mu.Lock()
		f := c.flights[key]
		if f == nil {
			if a := c.recall(key); a != nil { // came between the caller's Get and here
				c.mu.Unlock()
				return a, nil, nil
			}
			f = &flight{done: make(chan struct{})}
			c.flights[key] = f
			c.mu.Unlock()
			stop := context.AfterFunc(ctx, func() { c.land(key, f, nil) })
			return nil, func(a *Cached) { stop(); c.land(key, f, a) }, nil
		}
		c.mu.Unlock()
		select {
		case <-f.done:
			if f.answer != nil {
				return f.answer, nil, nil
			}
		case <-ctx.Done():
		}
	}
}

// flight is one leader's attempt.
type flight struct {
	done   chan struct{}
	answer *Cached // set before done is closed
}

func (c *Cache) land(key string, f *flight, a *Cached) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.flights[key] != f {
		return // over already
	}
	delete(c.flights, key)
	f.answer = a
	close(f.done)
}

// recall returns what memory holds.
func (c *Cache) recall(key string) *Cached {
	if a, ok := c.memory.GetIfPresent(key); ok && time.Now().Before(a.ExpiresAt) {
		return a
	}
	return nil
}

// sharing reports whether the shared level is to be asked.
func (c *Cache) sharing() bool {
	return c.o.Shared != nil && time.Now().UnixNano() >= c.restUntil.Load()
}

// broken leaves the shared level alone for a while, and says so once in a longer one.
func (c *Cache) broken(ctx context.Context, err error) {
	now := time.Now()
	c.restUntil.Store(now.Add(sharedRest).UnixNano())
	last := c.logged.Load()
	if now.UnixNano()-last >= int64(sharedLogEvery) && c.logged.CompareAndSwap(last, now.UnixNano()) {
		c.o.Log.WarnContext(ctx, "shared response cache failed; going on without it", "error", err)
	}
}
