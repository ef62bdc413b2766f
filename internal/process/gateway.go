package process

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"strconv"
	"strings"
	"time"

	"batchwright/internal/gateway"
	"batchwright/internal/gateway/redis"
	"batchwright/internal/pricing"
)

// gatewayConfig says where calls go.
type gatewayConfig struct {
	url        string // GATEWAY_URL
	token      string // GATEWAY_TOKEN, CF_AIG_TOKEN
	account    string // CLOUDFLARE_ACCOUNT_ID
	gatewayID  string // CLOUDFLARE_GATEWAY_ID
	unified    bool   // CLOUDFLARE_UNIFIED_BILLING
	alias      string // CLOUDFLARE_KEY_ALIAS
	native     bool   // GATEWAY_SURFACE=native
	direct     bool   // GATEWAY_DEFAULT=direct: only steps that name cloudflare-gateway go through it
	endpoints  map[string]gateway.Endpoint
	remoteKeys map[string]string
	limits     map[string]gateway.Limit // PROVIDER_LIMITS
	breaker    gateway.BreakerOptions
	crowd      gateway.ConcurrencyOptions
	simulator  gateway.SimulatorOptions
	priceFile  string        // PRICES_FILE
	timeout    time.Duration // PROVIDER_TIMEOUT, to the first byte
	idle       time.Duration // PROVIDER_IDLE_TIMEOUT, between two pieces of an answer
	connect    time.Duration // PROVIDER_CONNECT_TIMEOUT
}

func (g gatewayConfig) remote() bool { return g.url != "" || g.gatewayID != "" }

// environment lists, for each provider, the variables in which people keep its keys and its address. NAME_KEYS may
// hold several keys beside it.
var environment = []struct {
	slug string
	keys []string // the first that is set wins
	base string
}{
	{"openai", []string{"OPENAI_API_KEY"}, "OPENAI_BASE_URL"},
	{"anthropic", []string{"ANTHROPIC_API_KEY"}, "ANTHROPIC_BASE_URL"},
	{"google-ai-studio", []string{"GEMINI_API_KEY", "GOOGLE_API_KEY"}, "GEMINI_BASE_URL"},
	{"azure-openai", []string{"AZURE_OPENAI_API_KEY"}, "AZURE_OPENAI_ENDPOINT"},
	{"groq", []string{"GROQ_API_KEY"}, "GROQ_BASE_URL"},
	{"mistral", []string{"MISTRAL_API_KEY"}, "MISTRAL_BASE_URL"},
	{"cohere", []string{"COHERE_API_KEY", "CO_API_KEY"}, "COHERE_BASE_URL"},
	{"perplexity-ai", []string{"PERPLEXITY_API_KEY"}, "PERPLEXITY_BASE_URL"},
	{"grok", []string{"XAI_API_KEY"}, "XAI_BASE_URL"},
	{"deepseek", []string{"DEEPSEEK_API_KEY"}, "DEEPSEEK_BASE_URL"},
	{"workers-ai", []string{"CLOUDFLARE_API_KEY", "CLOUDFLARE_API_TOKEN"}, "WORKERS_AI_BASE_URL"},
	{"huggingface", []string{"HF_TOKEN", "HUGGINGFACE_API_KEY"}, "HUGGINGFACE_BASE_URL"},
	{"replicate", []string{"REPLICATE_API_TOKEN", "REPLICATE_API_KEY"}, "REPLICATE_BASE_URL"},
	{"openrouter", []string{"OPENROUTER_API_KEY"}, "OPENROUTER_BASE_URL"},
	{"cerebras", []string{"CEREBRAS_API_KEY"}, "CEREBRAS_BASE_URL"},
	{"openai-compatible", []string{"OPENAI_COMPATIBLE_API_KEY"}, "OPENAI_COMPATIBLE_BASE_URL"},
}

func (r *reader) gateway() gatewayConfig {
	g := gatewayConfig{
		url:     r.text("GATEWAY_URL", ""),
		account: r.named("CLOUDFLARE_ACCOUNT_ID"), gatewayID: r.named("CLOUDFLARE_GATEWAY_ID"),
		token: r.text("GATEWAY_TOKEN", r.named("CF_AIG_TOKEN")), unified: r.flag("CLOUDFLARE_UNIFIED_BILLING"),
		alias:     r.text("CLOUDFLARE_KEY_ALIAS", ""),
		native:    r.choice("GATEWAY_SURFACE", "universal", "native") == "native",
		direct:    r.choice("GATEWAY_DEFAULT", "remote", "direct") == "direct",
		priceFile: r.text("PRICES_FILE", ""),
		timeout:   r.duration("PROVIDER_TIMEOUT", 2*time.Minute, time.Second),
		idle:      r.duration("PROVIDER_IDLE_TIMEOUT", time.Minute, time.Second),
		connect:   r.duration("PROVIDER_CONNECT_TIMEOUT", 10*time.Second, 100*time.Millisecond),
		limits:    r.limits("PROVIDER_LIMITS"),
		breaker:   gateway.BreakerOptions{Off: r.flag("PROVIDER_BREAKER_OFF")},
		crowd: gateway.ConcurrencyOptions{
			Off:     r.flag("PROVIDER_CONCURRENCY_FIXED"),
			Initial: int(r.whole("PROVIDER_CONCURRENCY_INITIAL", 256, 1, 100_000)), Max: int(r.whole("PROVIDER_CONCURRENCY_MAX", 10_000, 1, 100_000)),
		},
		simulator: gateway.SimulatorOptions{
			Latency: r.duration("SIMULATOR_LATENCY", 0, 0), LatencyJitter: r.duration("SIMULATOR_LATENCY_JITTER", 0, 0),
			ErrorRate: r.rate("SIMULATOR_ERROR_RATE"), RateLimitRate: r.rate("SIMULATOR_RATE_LIMIT_RATE"),
			OutputTokens: int(r.whole("SIMULATOR_OUTPUT_TOKENS", 0, 0, 1_000_000)),
		},
	}
	if g.gatewayID != "" && g.account == "" {
		r.fail("CLOUDFLARE_GATEWAY_ID", "needs CLOUDFLARE_ACCOUNT_ID as well")
	}
	if g.url != "" {
		r.address("GATEWAY_URL", g.url)
	}
	g.endpoints = r.endpoints(g.account)
	g.remoteKeys = map[string]string{}
	for slug, e := range g.endpoints {
		switch {
		case e.Key != "":
			g.remoteKeys[slug] = e.Key
		case len(e.Keys) > 0:
			g.remoteKeys[slug] = e.Keys[0].Value // a remote gateway spreads keys itself, if at all
		}
	}
	return g
}

// named reads a variable, or the one whose name NAME_VAR holds: people keep several accounts in one environment.
func (r *reader) named(name string) string {
	if other := r.text(name+"_VAR", ""); other != "" {
		return r.need(other, name+"_VAR names it")
	}
	return r.text(name, "")
}

func (r *reader) choice(name string, options ...string) string {
	v := r.text(name, options[0])
	for _, o := range options {
		if v == o {
			return v
		}
	}
	r.fail(name, "want %s", strings.Join(options, " or "))
	return v
}

func (r *reader) endpoints(account string) map[string]gateway.Endpoint {
	out := map[string]gateway.Endpoint{}
	for _, e := range environment {
		key := ""
		for _, name := range e.keys {
			if key = r.text(name, ""); key != "" {
				break
			}
		}
		base := r.text(e.base, "")
		if e.slug == "workers-ai" && base == "" && account != "" {
			base = "https://api.cloudflare.com/client/v4/accounts/" + account + "/ai/run"
		}
		keys := r.keys(e.keys[0] + "S")
		if key == "" && len(keys) == 0 && (base == "" || e.slug == "workers-ai") || e.slug == "openai-compatible" && base == "" ||
			e.slug == "workers-ai" && base == "" {
			continue
		}
		out[e.slug] = r.endpoint(e.base, base, key, keys)
	}
	for name := range strings.SplitSeq(r.text("CUSTOM_PROVIDERS", ""), ",") {
		if name = strings.TrimSpace(name); name == "" {
			continue
		}
		slug, env := "custom-"+name, "CUSTOM_"+strings.ToUpper(strings.NewReplacer("-", "_").Replace(name))
		if _, ok := gateway.Lookup(slug); !ok {
			r.fail("CUSTOM_PROVIDERS", "%.60q is not a name: use a-z, 0-9, - and _", name)
			continue
		}
		base := r.need(env+"_BASE_URL", "CUSTOM_PROVIDERS names "+name)
		out[slug] = r.endpoint(env+"_BASE_URL", base, r.text(env+"_API_KEY", ""), r.keys(env+"_API_KEYS"))
	}
	return out
}

func (r *reader) endpoint(name, base, key string, keys []gateway.Key) gateway.Endpoint {
	if base != "" {
		r.address(name, base)
	}
	if key != "" && len(keys) > 0 {
		keys = append([]gateway.Key{{Value: key}}, keys...)
		key = ""
	}
	return gateway.Endpoint{BaseURL: base, Key: key, Keys: keys}
}

// keys reads a list such as "sk-a,sk-b*3": the second takes three quarters of the calls.
func (r *reader) keys(name string) []gateway.Key {
	var out []gateway.Key
	for part := range strings.SplitSeq(r.text(name, ""), ",") {
		if part = strings.TrimSpace(part); part == "" {
			continue
		}
		value, weight, found := strings.Cut(part, "*")
		k := gateway.Key{Value: value, Weight: 1}
		if found {
			n, err := strconv.Atoi(weight)
			if err != nil || n < 1 || n > 1000 {
				r.fail(name, "the weight after * of key %d is not a whole number from 1 to 1000", len(out)+1)
				continue
			}
			k.Weight = n
		}
		out = append(out, k)
	}
	return out
}

// limits reads "openai=500rpm,2000000tpm,5usdpm; openai/gpt-5.2=100rpm": requests, tokens and dollars a minute.
func (r *reader) limits(name string) map[string]gateway.Limit {
	out := map[string]gateway.Limit{}
	for entry := range strings.SplitSeq(r.text(name, ""), ";") {
		if entry = strings.TrimSpace(entry); entry == "" {
			continue
		}
		of, list, _ := strings.Cut(entry, "=")
		slug, model, _ := strings.Cut(strings.TrimSpace(of), "/")
		slug = gateway.Slug(slug)
		if _, ok := gateway.Lookup(slug); !ok {
			r.fail(name, "%.60q is not a provider", slug)
			continue
		}
		if model != "" {
			slug += "/" + model
		}
		var l gateway.Limit
		for part := range strings.SplitSeq(list, ",") {
			if err := limit(&l, strings.TrimSpace(part)); err != nil {
				r.fail(name, "%s: %v", slug, err)
			}
		}
		out[slug] = l
	}
	return out
}

func limit(l *gateway.Limit, s string) error {
	for _, unit := range []struct {
		suffix string
		to     *int64
		scale  float64
	}{{"usdpm", &l.MicroUSD, 1e6}, {"rpm", &l.Requests, 1}, {"tpm", &l.Tokens, 1}} {
		digits, ok := strings.CutSuffix(s, unit.suffix)
		if !ok {
			continue
		}
		f, err := strconv.ParseFloat(digits, 64)
		if err != nil || !(f*unit.scale >= 1) || f*unit.scale > 1e15 {
			break
		}
		*unit.to = int64(f * unit.scale)
		return nil
	}
	return errors.New("want such as 500rpm, 2000000tpm or 2.5usdpm")
}

// openGateway chooses who runs the calls: a remote gateway when one is configured, else this process. The built-in
// providers always run here.
func (s *system) openGateway() (err error) {
	g := s.c.Gateway
	if err := s.openEngine(); err != nil {
		return err
	}
	if !g.remote() {
		s.gw = s.engine
		s.check = func(provider, via string) error {
			if via != "" {
				return errors.New("no remote gateway is configured: set CLOUDFLARE_ACCOUNT_ID, CLOUDFLARE_GATEWAY_ID and CF_AIG_TOKEN, or GATEWAY_URL")
			}
			return s.engine.Check(provider)
		}
		s.log.Info("gateway", "runs", "in this process", "providers", len(g.endpoints))
		return nil
	}
	cf, err := gateway.NewCloudflare(gateway.CloudflareOptions{URL: g.url, AccountID: g.account, GatewayID: g.gatewayID, Token: g.token,
		ProviderKeys: g.remoteKeys, KeyAlias: g.alias, UnifiedBilling: g.unified, Native: g.native, Timeout: g.timeout, IdleTimeout: g.idle, Log: s.log,
		Proxy: http.ProxyFromEnvironment})
	if err != nil {
		return err
	}
	s.close = append(s.close, cf.Close)
	s.gw = gateway.Mix(cf, s.engine, g.direct)
	s.check = func(provider, via string) error {
		if gateway.Builtin(provider) || g.direct && via == "" {
			return s.engine.Check(provider)
		}
		return cf.Check(provider)
	}
	s.log.Info("gateway", "runs", "remote", "for_all", !g.direct)
	return nil
}

func (s *system) openEngine() error {
	g := s.c.Gateway
	o := gateway.EngineOptions{
		Endpoints: maps.Clone(g.endpoints), Timeout: g.timeout, IdleTimeout: g.idle, ConnectTimeout: g.connect, Proxy: http.ProxyFromEnvironment,
		Limits: g.limits, Cost: costOf(s.prices), Breaker: g.breaker, Concurrency: g.crowd, Simulator: g.simulator, Log: s.log,
	}
	for slug, e := range g.endpoints {
		if n, _ := gateway.NativeOf(slug); e.BaseURL == "" && n.Base == "" { // enough for a remote gateway, which knows the address
			delete(o.Endpoints, slug)
			if !g.remote() {
				s.log.Warn("provider left out: its key is set and its address isn't", "provider", slug)
			}
		}
	}
	if g.remote() && !g.direct {
		if len(o.Limits) > 0 {
			s.log.Warn("PROVIDER_LIMITS have no effect: all calls go through the remote gateway; set limits there, or GATEWAY_DEFAULT=direct")
		}
		o.Endpoints, o.Limits = nil, nil
	}
	shared, cache, err := s.openShared(64 << 20)
	if err != nil {
		return err
	}
	if o.Cache = cache; len(o.Limits) > 0 {
		o.Limiter = shared
	}
	if s.engine, err = gateway.NewEngine(o); err != nil {
		return err
	}
	s.close = append(s.close, s.engine.Close)
	return nil
}

// openShared opens what gateway processes share, and a cache of answers over it that keeps so many bytes in memory.
func (s *system) openShared(cacheBytes int64) (*redis.Redis, *gateway.Cache, error) {
	shared, err := redis.New(s.c.RedisURL)
	if err != nil {
		return nil, nil, fmt.Errorf("REDIS_URL: %w", err)
	}
	cache := gateway.NewCache(gateway.CacheOptions{MaxBytes: cacheBytes, Shared: shared, Log: s.log})
	s.close = append(s.close, func() { _ = shared.Close() }, cache.Close)
	return shared, cache, nil
}

// costOf prices usage for the limits in dollars.
func costOf(t *pricing.Table) func(provider, model string, u gateway.Usage) (int64, bool) {
	return func(provider, model string, u gateway.Usage) (int64, bool) {
		p, ok := t.Lookup(provider, model, time.Now())
		if !ok {
			return 0, false
		}
		return p.Cost(u.Priced()), true
	}
}
