package gateway

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
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
	KeyAlias       string            // which key stored at the gateway; default its "default"
	UnifiedBilling bool              // let Cloudflare's credits pay where no key is; else such a step fails

	// Native sends each step to its provider's own path below the gateway and falls back here, one send a step, instead
	// of the whole chain to the Universal Endpoint. The pseudo-provider "compat" works either way.
	Native bool

	MaxAttempts    int           // of the whole request, 1 to 5; default 2
	StepAttempts   int           // of a step that doesn't say, 1 to 5; default 2
	Timeout        time.Duration // of a step to its first byte, where the step doesn't say; default 2 minutes
	IdleTimeout    time.Duration // between two pieces of an answer; default 1 minute
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

const cloudflareHost = "https://gateway.ai.cloudflare.com"

// NewCloudflare checks o.
func NewCloudflare(o CloudflareOptions) (*Cloudflare, error) {
	address := o.URL
	if address == "" {
		if !Identifier(o.AccountID) || !Identifier(o.GatewayID) {
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
	if o.KeyAlias != "" && !Identifier(o.KeyAlias) {
		return nil, errors.New("gateway: cloudflare: the key alias must be 1 to 64 of A-Z, a-z, 0-9, _ and -")
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
	c.o.IdleTimeout = cmp.Or(o.IdleTimeout, defaultIdle)
	c.o.Patience = cmp.Or(o.Patience, defaultPatience)
	c.o.MaxAnswerBytes = cmp.Or(o.MaxAnswerBytes, defaultAnswerBytes)
	if o.Transport == nil {
		t := newTransport(o.Proxy, defaultConnect)
		c.o.Transport, c.close = t, t.CloseIdleConnections
	}
	if o.Log == nil {
		c.o.Log = slog.New(slog.DiscardHandler)
	}
	return c, nil
}

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
	case c.o.URL == "" && provider == "huggingface":
		return invalid(codeOptions, "Cloudflare's huggingface leads to an API that was shut down; define a custom provider there and use custom-NAME")
	case c.o.URL == "" && provider == "openai-compatible":
		return invalid(codeOptions, "Cloudflare has no provider %q; define a custom provider there and use custom-NAME", provider)
	}
	return nil
}

// parcel is what one send carries: the whole chain, or one step of it.
type parcel struct {
	from, steps int           // which steps of the request
	tries       int           // how often the gateway may try each of them
	firstByte   time.Duration // of all tries, since the gateway's last one waits without end; 0: only the total deadline holds
	url         *url.URL
	header      http.Header
	body        []byte
}

// Run implements Gateway. Each send may reach every step: Send.Step is 0 and Send.Steps their number; with
// [CloudflareOptions.Native] it reaches one.
func (c *Cloudflare) Run(ctx context.Context, req *Request, ledger Ledger) (*Response, error) {
	parts, err := c.parts(req)
	if err != nil {
		return nil, err
	}
	if ledger == nil {
		ledger = NoLedger
	}
	w := newWalk(&req.Options, c.o.Patience)
	for i := range parts {
		resp, done, err := c.walk(ctx, w, req, &parts[i], ledger)
		if done {
			return resp, err
		}
	}
	if err := w.over(ctx); err != nil {
		return nil, err
	}
	return nil, w.err()
}

// walk sends one part until it is answered or given up. It reports whether the Run is over.
func (c *Cloudflare) walk(ctx context.Context, w *walk, req *Request, p *parcel, ledger Ledger) (resp *Response, done bool, err error) {
	for try := 1; ; try++ {
		if err := w.over(ctx); err != nil {
			return nil, true, err
		}
		resp, fail, gave, err := c.try(ctx, w, req, p, ledger)
		if fail == nil {
			return resp, true, err
		}
		w.failed(fail)
		c.o.Log.DebugContext(ctx, "request failed", "step", fail.Step, "provider", fail.Provider, "model", fail.Model, "try", try,
			"class", fail.Class, "status", fail.Status, "code", fail.Code, "error", fail.Err)
		if !fail.Class.NextStep() || gave {
			return nil, true, w.wrap(fail)
		}
		if !w.pause(ctx, nil, try, c.o.MaxAttempts, fail) {
			return nil, false, nil
		}
	}
}

// try makes one send; see Engine.try for what it returns. gave: some text of a streamed answer went to the caller.
func (c *Cloudflare) try(ctx context.Context, w *walk, req *Request, p *parcel, ledger Ledger) (resp *Response, fail *Error, gave bool, err error) {
	if err := w.back(ctx); err != nil {
		return nil, nil, false, err
	}
	settle, err := ledger(ctx, Send{Step: p.from, Steps: p.steps, Tries: p.tries, Number: w.sends + 1})
	if err != nil {
		return nil, nil, false, err
	}
	w.sends++
	start := time.Now()
	x := w.unsent(ctx)
	if x.err == nil {
		x = c.exchange(ctx, w, req, p)
	}
	i := p.from + stepOf(x, p.steps)
	step := &req.Steps[i]
	o := Outcome{Step: i, Provider: step.Provider, Model: step.Model, Latency: time.Since(start)}
	o.readGateway(x.header)
	provider, _ := Lookup(step.Provider) // known: parts checked it
	resp, fail = judge(ctx, throughGateway{provider}, x, &o)
	if fail != nil {
		scrub(fail, c.o.Token, nil)
		for _, s := range req.Steps { // all of them travelled
			scrub(fail, c.o.ProviderKeys[s.Provider], s.Headers)
		}
		o.Code = fail.Code
		fail.Step, fail.Provider, fail.Model = i, step.Provider, step.Model
	} else if resp == nil {
		err = x.err
	}
	w.sent(Attempt{Model: step.Model}, &o)
	if resp != nil && fail == nil {
		resp.Step, resp.Provider, resp.Model, resp.Sends, resp.Attempts = i, step.Provider, o.Model, w.sends, w.attempts
		resp.CacheStatus, resp.LogID = o.CacheStatus, o.LogID
		if req.Options.OnText != nil && !x.gave && resp.Text != "" {
			req.Options.OnText(resp.Text)
		}
	}
	if serr := settle(context.WithoutCancel(ctx), o); serr != nil {
		return resp, nil, x.gave, serr
	}
	return resp, fail, x.gave, err
}

// readGateway takes what the gateway says of itself.
func (o *Outcome) readGateway(h http.Header) {
	if h == nil {
		return
	}
	o.LogID = cleanName(h.Get("Cf-Aig-Log-Id"))
	switch status := CacheStatus(strings.ToUpper(h.Get("Cf-Aig-Cache-Status"))); status {
	case CacheHit, CacheMiss:
		o.CacheStatus = status
	}
}

// exchange sends one part. A provider's promise is asked for on its native path until it is kept. The total deadline
// is the client's own: the gateway's last attempt waits without one.
func (c *Cloudflare) exchange(ctx context.Context, w *walk, req *Request, p *parcel) exchange {
	send := call{rt: c.o.Transport, method: http.MethodPost, url: p.url, header: p.header.Clone(), body: p.body,
		firstByte: p.firstByte, idle: c.o.IdleTimeout, deadline: w.deadline, limit: c.o.MaxAnswerBytes}
	if req.Options.OnText != nil {
		send.stream = func(h http.Header) *StreamReader {
			i := p.from + stepOf(exchange{status: http.StatusOK, header: h}, p.steps)
			return NewStreamReader(req.Steps[i].Provider, req.Options.OnText)
		}
	}
	x := send.do(ctx)
	step := &req.Steps[p.from+stepOf(x, p.steps)]
	provider, _ := Lookup(step.Provider)
	if f, ok := provider.(follower); ok {
		asking := req.Options // the gateway must not keep "not yet" as the answer, nor give the promise back for it
		asking.SkipCache, asking.CacheTTL, asking.CacheKey = true, 0, ""
		send.header, send.stream = c.stepHeader(&asking, step), nil
		x = send.follow(ctx, f, x, func(endpoint string) (*url.URL, *Error) { return join(c.url, step.Provider+"/"+endpoint) })
	}
	return x
}

// throughGateway reads the gateway's own failures before the provider sees the answer.
type throughGateway struct{ Provider }

func (t throughGateway) Decode(status int, h http.Header, body []byte) (*Response, error) {
	if status/100 != 2 && (isHTML(body) || readFailure(body).gateway()) {
		return nil, failure(status, body)
	}
	if status == http.StatusTooManyRequests && h.Get("Request-Id") == "" {
		h = nil // not the provider's own headers: what they leave out, such as a wait, says nothing of a spend cap
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

// parts checks a request and makes what is sent of it.
func (c *Cloudflare) parts(req *Request) ([]parcel, error) {
	if err := req.check(); err != nil {
		return nil, err
	}
	for i := range req.Steps {
		s := &req.Steps[i]
		fail := c.check(s.Provider)
		if fail == nil && !json.Valid(s.Query) {
			fail = invalid("invalid_json", "the step's query is not JSON")
		}
		if fail != nil {
			fail.Step, fail.Provider, fail.Model = i, s.Provider, s.Model
			return nil, fail
		}
	}
	if !c.o.Native {
		p, err := c.universal(req)
		return []parcel{p}, err
	}
	var parts []parcel
	for i := range req.Steps {
		s := &req.Steps[i]
		endpoint, body := asStream(s, &req.Options)
		u, fail := join(c.url, s.Provider+"/"+strings.TrimLeft(endpoint, "/"))
		if fail != nil {
			fail.Step, fail.Provider, fail.Model = i, s.Provider, s.Model
			return nil, fail
		}
		limit := c.o.Timeout
		if config := s.Config.over(req.Options.Config); config != nil && config.RequestTimeoutMS > 0 {
			limit = time.Duration(config.RequestTimeoutMS) * time.Millisecond
		}
		tries := c.stepAttempts(s, &req.Options)
		firstByte := time.Duration(tries)*limit + time.Duration((tries-1)*maxDelayMS)*time.Millisecond
		parts = append(parts, parcel{from: i, steps: 1, tries: tries, firstByte: firstByte, url: u, header: c.stepHeader(&req.Options, s), body: body})
	}
	return parts, nil
}

// universal builds the array. The steps' native bodies go in byte for byte, so it is written by hand: package json
// would compact and escape them.
func (c *Cloudflare) universal(req *Request) (parcel, error) {
	var b bytes.Buffer
	p := parcel{steps: len(req.Steps), url: c.url, header: c.header(&req.Options)}
	for i := range req.Steps {
		s := &req.Steps[i]
		p.tries = max(p.tries, c.stepAttempts(s, &req.Options))
		b.WriteByte("[,"[min(i, 1)])
		if err := c.appendStep(&b, s, &req.Options); err != nil {
			return parcel{}, asInvalid(err)
		}
	}
	b.WriteByte(']')
	p.body = b.Bytes()
	return p, nil
}

// asStream is a step's endpoint and body, for a streamed answer when one is asked for and the provider has them.
func asStream(s *Step, o *Options) (string, json.RawMessage) {
	p, _ := Lookup(s.Provider)
	if st, ok := p.(streamer); ok && o.OnText != nil {
		return st.stream(s.Endpoint, s.Query)
	}
	return s.Endpoint, s.Query
}

func (c *Cloudflare) stepAttempts(s *Step, o *Options) int {
	if config := s.Config.over(o.Config); config != nil && config.MaxAttempts > 0 {
		return config.MaxAttempts
	}
	return c.o.StepAttempts
}

// providerHeaders are what a provider wants, the step's own last.
func (c *Cloudflare) providerHeaders(s *Step) map[string]string {
	headers := map[string]string{}
	p, _ := Lookup(s.Provider)
	nativeHeaders(p, s.Endpoint, strings.TrimSpace(c.o.ProviderKeys[s.Provider]), func(name, value string) { headers[name] = value })
	for name, value := range s.Headers {
		for have := range headers {
			if strings.EqualFold(have, name) {
				delete(headers, have)
			}
		}
		headers[name] = value
	}
	return headers
}

func (c *Cloudflare) appendStep(b *bytes.Buffer, s *Step, o *Options) error {
	endpoint, query := asStream(s, o)
	head, err := encode(struct {
		Provider string            `json:"provider"`
		Endpoint string            `json:"endpoint"`
		Headers  map[string]string `json:"headers"` // package json sorts the keys
	}{s.Provider, strings.TrimLeft(endpoint, "/"), c.providerHeaders(s)})
	if err != nil {
		return err
	}
	b.Write(bytes.TrimSuffix(head, []byte("}")))
	b.WriteString(`,"query":`)
	b.Write(query)
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

// header is what goes with every send.
func (c *Cloudflare) header(o *Options) http.Header {
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
	if c.o.KeyAlias != "" {
		h.Set("Cf-Aig-Byok-Alias", c.o.KeyAlias)
	}
	o.write(h)
	return h
}

// stepHeader is header for a provider's native path, where the step's headers and bounds are headers as well.
func (c *Cloudflare) stepHeader(o *Options, s *Step) http.Header {
	own := *o
	own.Config = s.Config.over(o.Config)
	h := c.header(&own)
	for name, value := range c.providerHeaders(s) {
		if name = http.CanonicalHeaderKey(name); !stays(name) {
			h.Set(name, value)
		}
	}
	return h
}
