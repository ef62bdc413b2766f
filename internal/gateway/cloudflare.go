package gateway

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// CloudflareOptions say which Universal Endpoint to use: Cloudflare's own, by account and gateway, or any server that
// speaks its protocol, by URL.
type CloudflareOptions struct {
	URL       string // whole address, such as http://host/v1/account/gateway; replaces the three below
	BaseURL   string // default https://gateway.ai.cloudflare.com
	AccountID string
	GatewayID string // at most 64 of [A-Za-z0-9_-]

	Token          string            // with AI Gateway Run permission; empty for a gateway without authentication
	ProviderKeys   map[string]string // by slug; a provider without one uses the key stored at the gateway
	UnifiedBilling bool              // let Cloudflare's credits pay where no key is; else such a step fails

	MaxAttempts    int           // of the whole request, 1 to 5; default 2
	StepAttempts   int           // of a step that doesn't say, 1 to 5; default 2
	Timeout        time.Duration // of a step to its first byte, where the step doesn't say; default 2 minutes
	Patience       time.Duration // as in EngineOptions
	MaxAnswerBytes int64         // default 64 MiB
	Transport      http.RoundTripper
	Proxy          func(*http.Request) (*url.URL, error)
	Log            *slog.Logger
}

// Cloudflare posts requests to a Universal Endpoint: one array of steps, one answer. It is safe for concurrent use.
//
// The gateway walks the steps, so one send may reach, and bill, all of them; only the step that answered, or failed
// last, is told. To keep that bounded the client always says how often a step may be tried. Where Cloudflare's
// documentation is silent the careful reading holds: an answer without cf-aig-step is the first step's when it is good
// and the last step's when it is not; code 2005, which hides the provider's answer, may have been billed.
type Cloudflare struct {
	o     CloudflareOptions
	url   *url.URL
	close func()
}

const (
	cloudflareHost = "https://gateway.ai.cloudflare.com"
	minCacheTTL    = time.Minute
	maxCacheTTL    = 31 * 24 * time.Hour
	maxMetadata    = 5
	maxHeader      = 4096 // bytes of a header value of the caller's
)

// NewCloudflare checks o.
func NewCloudflare(o CloudflareOptions) (*Cloudflare, error) {
	address := o.URL
	if address == "" {
		if !identifier(o.AccountID) || !identifier(o.GatewayID) {
			return nil, errors.New("gateway: cloudflare: the account and the gateway must each be 1 to 64 of A-Z, a-z, 0-9, _ and -")
		}
		address = strings.TrimRight(cmp.Or(o.BaseURL, cloudflareHost), "/") + "/v1/" + o.AccountID + "/" + o.GatewayID
	}
	u, err := parseBase(address)
	if err != nil {
		return nil, fmt.Errorf("gateway: cloudflare: %w", err)
	}
	for name := range o.ProviderKeys {
		if _, ok := Lookup(name); !ok {
			return nil, fmt.Errorf("gateway: cloudflare: %w", unknownProvider(name))
		}
	}
	for _, n := range []int{o.MaxAttempts, o.StepAttempts} {
		if n < 0 || n > maxAttempts {
			return nil, fmt.Errorf("gateway: cloudflare: attempts are %d; they must be 1 to %d", n, maxAttempts)
		}
	}
	c := &Cloudflare{o: o, url: u, close: func() {}}
	c.o.Token = strings.TrimSpace(o.Token)
	c.o.MaxAttempts = cmp.Or(o.MaxAttempts, defaultAttempts)
	c.o.StepAttempts = cmp.Or(o.StepAttempts, defaultAttempts)
	c.o.Timeout = cmp.Or(o.Timeout, defaultByte)
	c.o.Patience = cmp.Or(o.Patience, defaultPatience)
	c.o.MaxAnswerBytes = cmp.Or(o.MaxAnswerBytes, defaultAnswerBytes)
	if o.Transport == nil {
		t := newTransport(o.Proxy)
		c.o.Transport, c.close = t, t.CloseIdleConnections
	}
	if o.Log == nil {
		c.o.Log = slog.New(slog.DiscardHandler)
	}
	return c, nil
}

// identifier matches 1 to 64 of [A-Za-z0-9_-].
func identifier(s string) bool { return s != "" && schemaName(s) }

// Close closes idle connections.
func (c *Cloudflare) Close() { c.close() }

// Check reports why a provider's steps can't be sent there, in words for an operator; nil when they can. It can't know
// which keys are stored at the gateway.
func (c *Cloudflare) Check(provider string) error {
	if err := c.check(provider); err != nil {
		return err
	}
	return nil
}

func (c *Cloudflare) check(provider string) *Error {
	switch _, ok := Lookup(provider); {
	case !ok:
		return unknownProvider(provider)
	case Builtin(provider):
		return invalid(codeOptions, "provider %q runs in this process and can't be reached through a remote gateway", provider)
	case c.o.URL == "" && provider == "openai-compatible":
		return invalid(codeOptions, "Cloudflare has no provider %q; define a custom provider there and use custom-NAME", provider)
	}
	return nil
}

// Run implements Gateway. Each send may reach every step: Send.Step is 0 and Send.Steps their number.
func (c *Cloudflare) Run(ctx context.Context, req *Request, ledger Ledger) (*Response, error) {
	body, tries, err := c.body(req)
	if err != nil {
		return nil, err
	}
	header, err := c.header(&req.Options)
	if err != nil {
		return nil, err
	}
	if ledger == nil {
		ledger = NoLedger
	}
	w := newWalk(req.Options.Timeout, c.o.Patience)
	for try := 1; ; try++ {
		if err := w.over(ctx); err != nil {
			return nil, err
		}
		resp, fail, err := c.try(ctx, w, req, Send{Steps: len(req.Steps), Tries: tries, Number: try}, header.Clone(), body, ledger)
		if fail == nil {
			return resp, err
		}
		w.failed(fail)
		c.o.Log.DebugContext(ctx, "request failed", "step", fail.Step, "provider", fail.Provider, "model", fail.Model, "try", try,
			"class", fail.Class, "status", fail.Status, "code", fail.Code, "error", fail.Err)
		if !fail.Class.NextStep() {
			return nil, w.wrap(fail)
		}
		if !w.pause(ctx, nil, try, c.o.MaxAttempts, fail) {
			if err := w.over(ctx); err != nil {
				return nil, err
			}
			return nil, w.err()
		}
	}
}

// try makes one send; see Engine.try for what it returns.
func (c *Cloudflare) try(ctx context.Context, w *walk, req *Request, s Send, header http.Header, body []byte, ledger Ledger) (resp *Response, fail *Error, err error) {
	settle, err := ledger(ctx, s)
	if err != nil {
		return nil, nil, err
	}
	start := time.Now()
	x := w.unsent(ctx)
	if x.err == nil {
		x = post(ctx, c.o.Transport, c.url, header, body, 0, w.deadline, c.o.MaxAnswerBytes)
	}
	i := stepOf(x, len(req.Steps))
	step := &req.Steps[i]
	o := Outcome{Step: i, Provider: step.Provider, Model: step.Model, Latency: time.Since(start)}
	if x.header != nil {
		o.LogID = cleanName(x.header.Get("Cf-Aig-Log-Id"))
		switch strings.ToUpper(x.header.Get("Cf-Aig-Cache-Status")) {
		case string(CacheHit):
			o.CacheStatus = CacheHit
		case string(CacheMiss):
			o.CacheStatus = CacheMiss
		}
	}
	p, _ := Lookup(step.Provider) // known: body checked it
	resp, fail = judge(ctx, throughGateway{p}, x, &o)
	if fail != nil {
		scrub(fail, c.o.Token, step.Headers)
		scrub(fail, c.o.ProviderKeys[step.Provider], nil)
		o.Code = fail.Code
		fail.Step, fail.Provider, fail.Model = i, step.Provider, step.Model
	} else if resp != nil {
		resp.Step, resp.Provider, resp.Model, resp.Sends = i, step.Provider, o.Model, s.Number
		resp.CacheStatus, resp.LogID = o.CacheStatus, o.LogID
	} else {
		err = x.err
	}
	if serr := settle(context.WithoutCancel(ctx), o); serr != nil {
		return resp, nil, serr
	}
	return resp, fail, err
}

// throughGateway reads the gateway's own failures before the provider sees the answer.
type throughGateway struct{ Provider }

func (t throughGateway) Decode(status int, h http.Header, body []byte) (*Response, error) {
	if status/100 != 2 && (isHTML(body) || readFailure(body).gateway()) {
		return nil, failure(status, body)
	}
	return t.Provider.Decode(status, h, body)
}

// gateway reports whether Cloudflare failed, rather than a provider behind it.
func (a answered) gateway() bool { return a.number != 0 || a.code == codeSpendPolicy }

// stepOf says whose answer it is.
func stepOf(x exchange, steps int) int {
	if x.header != nil {
		if i, err := strconv.Atoi(x.header.Get("Cf-Aig-Step")); err == nil && i >= 0 && i < steps {
			return i
		}
		if x.status/100 != 2 && !readFailure(x.body).gateway() && !isHTML(x.body) {
			return steps - 1
		}
	}
	return 0
}

// body builds the array. The steps' native bodies go in byte for byte, so it is written by hand: package json would
// compact and escape them. tries is how often one step may be tried.
func (c *Cloudflare) body(req *Request) (body []byte, tries int, err error) {
	if err := req.check(); err != nil {
		return nil, 0, err
	}
	var b bytes.Buffer
	for i := range req.Steps {
		s := &req.Steps[i]
		fail := c.check(s.Provider)
		if fail == nil && !json.Valid(s.Query) {
			fail = invalid("invalid_json", "the step's query is not JSON")
		}
		if fail != nil {
			fail.Step, fail.Provider, fail.Model = i, s.Provider, s.Model
			return nil, 0, fail
		}
		tries = max(tries, c.stepAttempts(s))
		b.WriteByte("[,"[min(i, 1)])
		if err := c.appendStep(&b, s); err != nil {
			return nil, 0, asInvalid(err)
		}
	}
	b.WriteByte(']')
	return b.Bytes(), tries, nil
}

func (c *Cloudflare) stepAttempts(s *Step) int {
	if s.Config != nil && s.Config.MaxAttempts > 0 {
		return s.Config.MaxAttempts
	}
	return c.o.StepAttempts
}

func (c *Cloudflare) appendStep(b *bytes.Buffer, s *Step) error {
	headers := map[string]string{"Content-Type": "application/json"}
	p, _ := Lookup(s.Provider)
	reachOf(p).at(s.Endpoint).authorize(func(name, value string) { headers[name] = value }, strings.TrimSpace(c.o.ProviderKeys[s.Provider]))
	for name, value := range s.Headers {
		for have := range headers {
			if strings.EqualFold(have, name) {
				delete(headers, have)
			}
		}
		headers[name] = value
	}
	head, err := encode(struct {
		Provider string            `json:"provider"`
		Endpoint string            `json:"endpoint"`
		Headers  map[string]string `json:"headers"` // package json sorts the keys
	}{s.Provider, strings.TrimLeft(s.Endpoint, "/"), headers})
	if err != nil {
		return err
	}
	b.Write(bytes.TrimSuffix(head, []byte("}")))
	b.WriteString(`,"query":`)
	b.Write(s.Query)
	if s.Config != nil && *s.Config != (StepConfig{}) {
		config, err := encode(s.Config)
		if err != nil {
			return err
		}
		b.WriteString(`,"config":`)
		b.Write(config)
	}
	b.WriteByte('}')
	return nil
}

// header turns options into cf-aig-... headers and refuses what the gateway would drop silently.
func (c *Cloudflare) header(o *Options) (http.Header, error) {
	h := http.Header{
		"Content-Type":           {"application/json"},
		"User-Agent":             {"batchwright"},
		"Cf-Aig-Max-Attempts":    {strconv.Itoa(c.o.StepAttempts)},
		"Cf-Aig-Request-Timeout": {strconv.FormatInt(c.o.Timeout.Milliseconds(), 10)},
	}
	if c.o.Token != "" {
		h.Set("Cf-Aig-Authorization", "Bearer "+c.o.Token)
	}
	if !c.o.UnifiedBilling {
		h.Set("Cf-Aig-No-Wholesale", "true")
	}
	if o.SkipCache {
		h.Set("Cf-Aig-Skip-Cache", "true")
	}
	if o.NoCollect {
		h.Set("Cf-Aig-Collect-Log", "false")
	}
	if o.CacheTTL != 0 {
		if o.CacheTTL < minCacheTTL || o.CacheTTL > maxCacheTTL {
			return nil, invalid(codeOptions, "the cache TTL is %v; it must be 60 s to 31 days", o.CacheTTL)
		}
		h.Set("Cf-Aig-Cache-Ttl", strconv.FormatInt(int64(o.CacheTTL/time.Second), 10))
	}
	for name, value := range map[string]string{"cache key": o.CacheKey, "event id": o.EventID} {
		if !headerSafe(value) {
			return nil, invalid(codeOptions, "the %s must be at most %d printable ASCII characters", name, maxHeader)
		}
	}
	if o.CacheKey != "" {
		h.Set("Cf-Aig-Cache-Key", o.CacheKey)
	}
	if o.EventID != "" {
		h.Set("Cf-Aig-Event-Id", o.EventID)
	}
	metadata, err := o.Metadata.header()
	if err != nil {
		return nil, err
	}
	if metadata != "" {
		h.Set("Cf-Aig-Metadata", metadata)
	}
	return h, nil
}

func headerSafe(s string) bool {
	return len(s) <= maxHeader && strings.IndexFunc(s, func(r rune) bool { return r < ' ' || r > '~' }) < 0
}

// header encodes metadata as JSON in ASCII, keys in order. The gateway drops a sixth entry and ignores nested values
// without a word, so both are errors here.
func (m Metadata) header() (string, error) {
	if len(m) == 0 {
		return "", nil
	}
	if len(m) > maxMetadata {
		return "", invalid(codeOptions, "the metadata has %d entries; the gateway keeps %d", len(m), maxMetadata)
	}
	for _, key := range slices.Sorted(maps.Keys(m)) {
		switch m[key].(type) {
		case string, bool, float64, int64, int:
		default:
			return "", invalid(codeOptions, "the metadata value %q must be a string, a number or a boolean", key)
		}
		if strings.HasPrefix(key, "cf.") {
			return "", invalid(codeOptions, "the metadata key %q is reserved", key)
		}
	}
	raw, err := encode(m)
	if err != nil {
		return "", invalid(codeOptions, "the metadata can't be encoded")
	}
	s := ascii(raw)
	if len(s) > maxHeader {
		return "", invalid(codeOptions, "the metadata takes %d bytes; it must take at most %d", len(s), maxHeader)
	}
	return s, nil
}

// ascii escapes what a header must not hold.
func ascii(raw json.RawMessage) string {
	var b strings.Builder
	for _, r := range string(raw) {
		switch {
		case r < 0x7f:
			b.WriteRune(r)
		case r > 0xffff:
			r -= 0x10000
			fmt.Fprintf(&b, `\u%04x\u%04x`, 0xd800+r>>10, 0xdc00+r&0x3ff)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
	}
	return b.String()
}
