package server

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"batchwright/internal/gateway"
)

const (
	maxCacheable = 25 << 20         // bytes of a request that is looked up, and of an answer that is stored
	leadWithin   = 30 * time.Second // how long identical requests wait for the first of them
)

// caching is what the cache has to do with a step.
type caching struct {
	key  string
	ttl  time.Duration
	land func(*gateway.Cached) // tells those who wait for the same answer; nil when nobody may
}

// lookUp answers a step from the cache and reports whether it did. It comes before the checks of requests and answers, and
// an answer from it draws on no budget, as Cloudflare documents.
//
// Where Cloudflare is silent: only POST is looked up; the path below the provider is part of the key as it was sent, its
// query with it; a request that skips the cache leaves what is stored there as it is, and its answer isn't stored;
// a request that asks for a stream is not looked up. Of identical requests at the same time one goes to the provider and
// the others wait for its answer, which Cloudflare doesn't do.
func (c *passage) lookUp(st *step, at int) bool {
	c.caching = caching{}
	ttl := st.opts.ttl()
	if ttl <= 0 || st.opts.skipCache || c.s.o.Cache == nil || st.method != http.MethodPost || len(st.body) > maxCacheable || wantsStream(st) {
		return false
	}
	scope := c.view.account + "/" + c.view.id
	if c.view.purge {
		scope += "@" + strconv.FormatInt(c.view.revision, 10)
	}
	var key string
	if st.opts.cacheKey != "" {
		key = gateway.CustomCacheKey(scope, st.opts.cacheKey)
	} else {
		if changed, ok := c.view.customAt[st.provider]; ok {
			scope = fmt.Sprintf("%s@%s@%d", scope, st.provider, changed)
		}
		key = gateway.CacheKey(scope, st.provider, st.endpoint, st.model, st.secret, st.body)
	}
	if hit := c.s.o.Cache.Get(c.ctx, key); hit != nil {
		c.giveHit(st, at, hit)
		return true
	}
	// Once it leads, the end of the step ends its lead, and not the caller's leaving: that may come right behind the last
	// byte, with the answer on its way into the cache.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(c.ctx), leadWithin)
	stop := context.AfterFunc(c.ctx, cancel)
	hit, done, err := c.s.o.Cache.Lead(ctx, key)
	stop()
	c.caching = caching{key: key, ttl: ttl}
	switch {
	case err != nil: // it took too long, or the caller is gone: then the send fails
		cancel()
	case hit != nil:
		cancel()
		c.giveHit(st, at, hit)
		return true
	default:
		c.caching.land = func(a *gateway.Cached) { done(a); cancel() }
	}
	return false
}

// wantsStream reports whether a request asks for an answer that isn't kept.
func wantsStream(st *step) bool {
	if at, ok := member(st.body, "stream"); ok && string(at.Of(st.body)) == "true" {
		return true
	}
	return strings.Contains(st.endpoint, ":streamGenerateContent") || strings.Contains(st.endpoint, "-stream")
}

// leave lets those go who wait for an answer that didn't come.
func (c *passage) leave() {
	if c.caching.land != nil {
		c.caching.land(nil)
	}
	c.caching = caching{}
}

// giveHit answers with a stored answer.
func (c *passage) giveHit(st *step, at int, hit *gateway.Cached) {
	h := c.w.Header()
	c.decorate(h, st, at)
	h["Cf-Aig-Cache-Status"] = statusHit
	if c.route != nil {
		c.route.decorate(h, st)
	}
	if hit.ContentType != "" {
		h["Content-Type"] = []string{hit.ContentType}
	} else {
		h["Content-Type"] = nil
	}
	c.giveWhole(hit.Status, hit.Body)
	if st.opts.collect {
		r := c.record(st, at, hit.Status)
		r.Cached, r.Success = true, true
		r.ResponseContentType, r.ResponseSize, r.answer = hit.ContentType, int64(len(hit.Body)), hit.Body
		c.s.journal.put(r)
	}
}

// store keeps an answer that was passed on whole, if it is one to be kept: 2xx, text or an image, neither streamed nor
// compressed.
func (c *passage) store(st *step, at, status int, header http.Header, k *capture) {
	if c.caching.key == "" {
		return
	}
	defer c.leave()
	if status/100 != 2 || k.events || k.over || len(k.body) == 0 || header.Get("Content-Encoding") != "" || !cacheableType(header.Get("Content-Type")) {
		return
	}
	if f, ok := c.w.(http.Flusher); ok {
		f.Flush() // a shared cache may be slow, and the caller needn't wait for it
	}
	a := &gateway.Cached{Status: status, ContentType: header.Get("Content-Type"), Body: k.body, Provider: st.provider, Model: st.model, Step: at}
	c.s.o.Cache.Put(c.ctx, c.caching.key, a, c.caching.ttl)
	if c.caching.land != nil {
		c.caching.land(a)
		c.caching.land = nil
	}
}

// cacheableType: Cloudflare stores text and images, and lists neither sound nor film.
func cacheableType(kind string) bool {
	kind, _, _ = strings.Cut(strings.ToLower(kind), ";")
	kind = strings.TrimSpace(kind)
	return strings.HasPrefix(kind, "text/") && kind != "text/event-stream" || strings.HasPrefix(kind, "image/") || strings.HasSuffix(kind, "json")
}
