package server

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"sync"
	"time"

	"batchwright/internal/gateway"
	"batchwright/internal/store"
)

const (
	freshFor   = 2 * time.Second  // another process's change is seen after this at the latest
	staleFor   = 5 * time.Minute  // how long a view serves on when Postgres can't be asked
	loadWithin = 10 * time.Second // of one reload
	slowAfter  = 500 * time.Millisecond
	maxEntries = 10_000 // of either map; beyond, they start anew
)

// view is everything about a gateway that requests need, as it was at one moment. It is not changed once made.
type view struct {
	account, id string
	revision    int64
	auth        bool
	defaults    options
	limit       int64
	interval    time.Duration
	sliding     bool
	purge       bool // a change empties the cache
	keys        map[providerAlias]storedKey
	custom      map[string]*url.URL
	customAt    map[string]int64 // when a custom provider changed, for the cache
	routes      map[string]*route
	guard       *guard
	spend       []SpendRule
	keep        int64 // how many requests the log holds; 0: no bound
	stopAtCap   bool

	loaded time.Time
}

type providerAlias struct{ provider, alias string }

type storedKey struct {
	id, secret string
	limit      int64
	period     time.Duration
}

// directory holds views and tokens in memory, so that a request asks Postgres for nothing. What it holds is at most two
// seconds old, is read again before that while it is asked for, and when this process changes something, at once. While
// Postgres can't be asked, or is slow, what is known serves on for some minutes: nothing can be changed there then.
type directory struct {
	s     *Server
	loads sync.WaitGroup

	mu      sync.RWMutex
	epoch   int64 // grows with every change that this process makes
	views   map[[2]string]*view
	tokens  map[[sha256.Size]byte]tokenEntry
	flights map[string]*reload
}

type tokenEntry struct {
	token  store.GatewayToken
	err    error // store.ErrNotFound is remembered as well
	loaded time.Time
}

func newDirectory(s *Server) *directory {
	return &directory{s: s, views: map[[2]string]*view{}, tokens: map[[sha256.Size]byte]tokenEntry{}, flights: map[string]*reload{}}
}

// close waits for reloads under way.
func (d *directory) close() { d.loads.Wait() }

// view returns store.ErrNotFound when there is no such gateway.
func (d *directory) view(ctx context.Context, account, id string) (*view, error) {
	k := [2]string{account, id}
	d.mu.RLock()
	v := d.views[k]
	d.mu.RUnlock()
	age := freshFor
	if v != nil {
		age = time.Since(v.loaded)
	}
	if age < freshFor/2 {
		return v, nil
	}
	l := d.start(account+"/"+id, func(ctx context.Context) (any, error) { return d.load(ctx, account, id) })
	if age < freshFor {
		return v, nil
	}
	got, err := l.wait(ctx, v != nil)
	switch {
	case err == nil:
		v, _ = got.(*view)
		return v, nil
	case v != nil && !errors.Is(err, store.ErrNotFound) && ctx.Err() == nil && age < staleFor:
		return v, nil
	}
	return nil, err
}

// reload is one reading of something for all who ask for it.
type reload struct {
	began time.Time
	done  chan struct{}
	got   any // set before done is closed, as is err
	err   error
}

// start begins a reload unless it is under way. It has a deadline of its own: who asked may go away.
func (d *directory) start(key string, load func(context.Context) (any, error)) *reload {
	d.mu.Lock()
	defer d.mu.Unlock()
	if l := d.flights[key]; l != nil {
		return l
	}
	l := &reload{began: time.Now(), done: make(chan struct{})}
	d.flights[key] = l
	d.loads.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), loadWithin)
		defer cancel()
		l.got, l.err = load(ctx)
		if l.err != nil && !errors.Is(l.err, store.ErrNotFound) {
			d.s.o.Log.WarnContext(ctx, "gateway's configuration can't be read again", "error", l.err)
		}
		d.mu.Lock()
		if d.flights[key] == l {
			delete(d.flights, key)
		}
		d.mu.Unlock()
		close(l.done)
	})
	return l
}

var errSlow = errors.New("gateway server: the configuration takes long to read")

// wait returns what was read. Whoever has something older to serve waits for little.
func (l *reload) wait(ctx context.Context, older bool) (any, error) {
	patience := loadWithin
	if older {
		patience = max(slowAfter-time.Since(l.began), 0)
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-l.done:
		return l.got, l.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case <-timer.C:
		return nil, errSlow
	}
}

// load reads a gateway. What is read last is at least as new as the revision, so a change in between is seen again.
func (d *directory) load(ctx context.Context, account, id string) (*view, error) {
	db := d.s.o.DB
	d.mu.RLock()
	old, epoch := d.views[[2]string{account, id}], d.epoch
	d.mu.RUnlock()
	g, err := db.Gateway(ctx, account, id)
	if err != nil {
		if errors.Is(err, store.ErrNotFound) {
			d.mu.Lock()
			delete(d.views, [2]string{account, id})
			d.mu.Unlock()
		}
		return nil, err
	}
	if old != nil && old.revision == g.Revision {
		again := *old
		again.loaded = time.Now()
		d.keep(&again, epoch)
		return &again, nil
	}
	v, err := d.build(ctx, g)
	if err != nil {
		return nil, err
	}
	d.keep(v, epoch)
	return v, nil
}

func (d *directory) build(ctx context.Context, g store.Gateway) (*view, error) {
	db := d.s.o.DB
	keys, err := db.ProviderKeys(ctx, g.Account, g.ID)
	if err != nil {
		return nil, err
	}
	custom, err := db.EnabledProviders(ctx, g.Account)
	if err != nil {
		return nil, err
	}
	routes, err := db.DeployedRoutes(ctx, g.Account, g.ID)
	if err != nil {
		return nil, err
	}
	var settings Settings
	if err := json.Unmarshal(g.Settings, &settings); err != nil {
		return nil, fmt.Errorf("gateway server: settings of %s: %w", g.ID, err)
	}
	v := newView(g, &settings)
	d.openKeys(v, keys)
	v.custom, v.customAt = map[string]*url.URL{}, map[string]int64{}
	for _, p := range custom {
		base, err := gateway.ParseBase(p.BaseURL)
		if err != nil || base.Scheme != "https" && d.s.o.Upstreams[customPrefix+p.Slug] == "" {
			d.s.o.Log.WarnContext(ctx, "custom provider left out: its address is not https", "account", g.Account, "slug", p.Slug)
			continue
		}
		if replaced := d.s.reach[customPrefix+p.Slug]; replaced != nil {
			base = replaced.base
		}
		v.custom[customPrefix+p.Slug], v.customAt[customPrefix+p.Slug] = base, p.ModifiedAt.UnixMicro()
	}
	v.routes = map[string]*route{}
	for _, r := range routes {
		parsed, problems := parseRoute(r.Elements)
		if len(problems) > 0 {
			d.s.o.Log.WarnContext(ctx, "route left out: it can't be read", "account", g.Account, "gateway", g.ID, "route", r.Name)
			continue
		}
		v.routes[r.Name] = parsed
	}
	return v, nil
}

const customPrefix = "custom-"

// newView turns settings into what the requests ask for.
func newView(g store.Gateway, s *Settings) *view {
	v := &view{
		account: g.Account, id: g.ID, revision: g.Revision, auth: s.Authentication, purge: s.CacheInvalidateOnUpdate,
		limit: valueOf(s.RateLimitingLimit), interval: time.Duration(valueOf(s.RateLimitingInterval)) * time.Second,
		sliding: valueOf(s.RateLimitingTechnique) == "sliding",
		guard:   newGuard(s), keep: valueOf(s.LogManagement), stopAtCap: valueOf(s.LogManagementStrategy) == "STOP_INSERTING",
		loaded: time.Now(),
	}
	if s.SpendLimits != nil && s.SpendLimits.Enabled {
		for i, r := range s.SpendLimits.Rules {
			if r.ID == "" {
				r.ID = strconv.Itoa(i)
			}
			if r.Enabled == nil || *r.Enabled {
				v.spend = append(v.spend, r)
			}
		}
	}
	v.defaults = options{
		cacheTTL: time.Duration(valueOf(s.CacheTTL)) * time.Second, collect: s.CollectLogs, payload: true,
		attempts: max(valueOf(s.RetryMaxAttempts), 1), delay: time.Duration(valueOf(s.RetryDelay)) * time.Millisecond,
		backoff: valueOf(s.RetryBackoff),
	}
	return v
}

func valueOf[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}

// openKeys opens the stored keys. One that can't be opened is left out: requests that want it are told that it is missing.
func (d *directory) openKeys(v *view, keys []store.ProviderKey) {
	v.keys = make(map[providerAlias]storedKey, len(keys))
	for _, k := range keys {
		if d.s.o.Box == nil {
			d.s.o.Log.Warn("stored keys are left out: the server has no key to open them", "account", v.account, "gateway", v.id)
			return
		}
		secret, err := d.s.o.Box.Open(k.Sealed, k.Account, k.Gateway, k.Provider, k.Alias)
		if err != nil {
			d.s.o.Log.Warn("a stored key is left out", "account", v.account, "gateway", v.id, "provider", k.Provider, "alias", k.Alias, "error", err)
			continue
		}
		key := storedKey{id: k.ID.String(), secret: secret, limit: int64(k.RateLimit), period: time.Duration(k.RateLimitPeriod) * time.Second}
		v.keys[providerAlias{k.Provider, k.Alias}] = key
		if k.Default && k.Alias != defaultAlias {
			if _, ok := v.keys[providerAlias{k.Provider, defaultAlias}]; !ok {
				v.keys[providerAlias{k.Provider, defaultAlias}] = key
			}
		}
	}
}

// keep remembers a view, unless this process changed something since it began to be read.
func (d *directory) keep(v *view, epoch int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.epoch != epoch {
		return
	}
	if len(d.views) >= maxEntries {
		clear(d.views)
	}
	d.views[[2]string{v.account, v.id}] = v
}

// changed drops what is known of a gateway, or with an empty id of all of an account's gateways, and of every token:
// something of them was changed by this process.
func (d *directory) changed(account, id string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.epoch++
	clear(d.tokens)
	clear(d.flights) // who asks from now on must not get what is being read
	for k := range d.views {
		if k[0] == account && (id == "" || k[1] == id) {
			delete(d.views, k)
		}
	}
}

// create makes the gateway that makes itself. Several processes may do so at the same time.
func (d *directory) create(ctx context.Context, account string) (*view, error) {
	settings, err := json.Marshal(DefaultSettings())
	if err != nil {
		return nil, err
	}
	if _, err := d.s.o.DB.CreateGateway(ctx, account, defaultGateway, settings); err != nil && !errors.Is(err, store.ErrConflict) {
		return nil, err
	}
	d.changed(account, defaultGateway)
	return d.view(ctx, account, defaultGateway)
}

// token returns store.ErrNotFound for a token that isn't one.
func (d *directory) token(ctx context.Context, hash [sha256.Size]byte) (store.GatewayToken, error) {
	d.mu.RLock()
	e, ok := d.tokens[hash]
	d.mu.RUnlock()
	age := freshFor
	if ok {
		age = time.Since(e.loaded)
	}
	if age < freshFor/2 {
		return e.token, e.err
	}
	l := d.start("token:"+string(hash[:]), func(ctx context.Context) (any, error) { return d.loadToken(ctx, hash) })
	if age < freshFor {
		return e.token, e.err
	}
	known := ok && e.err == nil
	got, err := l.wait(ctx, known)
	switch {
	case err == nil:
		t, _ := got.(store.GatewayToken)
		return t, nil
	case known && !errors.Is(err, store.ErrNotFound) && ctx.Err() == nil && age < staleFor:
		return e.token, nil
	}
	return store.GatewayToken{}, err
}

func (d *directory) loadToken(ctx context.Context, hash [sha256.Size]byte) (store.GatewayToken, error) {
	d.mu.RLock()
	epoch := d.epoch
	d.mu.RUnlock()
	t, err := d.s.o.DB.GatewayTokenByHash(ctx, hash[:])
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return t, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.epoch == epoch {
		if len(d.tokens) >= maxEntries {
			clear(d.tokens)
		}
		d.tokens[hash] = tokenEntry{t, err, time.Now()}
	}
	return t, err
}
