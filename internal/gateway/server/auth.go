package server

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"net/http"
	"strings"
	"time"

	"batchwright/internal/gateway"
	"batchwright/internal/store"
)

// caller is who sent a request.
type caller struct {
	authenticated bool
	token         string // the gateway's token, which never goes upstream
}

// slots are the headers in which SDKs put a provider's key. A gateway's token found there is recognised, and dropped.
var slots = []string{"Authorization", "X-Api-Key", "X-Goog-Api-Key", "Api-Key", "Xi-Api-Key"}

// enter finds the gateway and authenticates the caller, as Cloudflare documents it: with authentication on, a token that
// is missing or invalid is 401 with code 2009; with it off nobody is refused. A gateway that is unknown is 400 with code
// 2001, except the one called "default", which its first authenticated request creates.
func (c *passage) enter(name string) *refusal {
	unknown := &refusal{status: http.StatusBadRequest, code: aigNoGateway, message: "please configure AI Gateway: the account has no gateway of this name"}
	if !gateway.Identifier(c.account) || !gateway.Identifier(name) {
		return unknown
	}
	v, err := c.s.directory.view(c.ctx, c.account, name)
	missing := errors.Is(err, store.ErrNotFound)
	if missing && name != defaultGateway {
		return unknown
	}
	if err != nil && !missing {
		return c.unavailable(err)
	}
	if err := c.authenticate(missing || v.auth); err != nil {
		return c.unavailable(err)
	}
	if !c.caller.authenticated && (missing || v.auth) {
		return &refusal{status: http.StatusUnauthorized, code: aigToken, message: "unauthorized: the gateway's token is missing or wrong"}
	}
	if missing {
		if v, err = c.s.directory.create(c.ctx, c.account); err != nil {
			return c.unavailable(err)
		}
	}
	c.view = v
	return nil
}

func (c *passage) unavailable(err error) *refusal {
	if c.ctx.Err() == nil {
		c.s.o.Log.ErrorContext(c.ctx, "gateway's configuration can't be read", "account", c.account, "error", err)
	}
	return &refusal{status: http.StatusServiceUnavailable, code: aigInvalid, message: "the gateway's configuration can't be read at the moment", retryAfter: time.Second}
}

// authenticate looks for a token in cf-aig-authorization, and where that isn't sent, in the provider's slot: for one of
// any form where a token is required, else for one that looks like it, so that keys of providers cost no look-up. The
// error is the store's.
func (c *passage) authenticate(required bool) error {
	if v := c.r.Header[hdrToken]; len(v) > 0 && strings.TrimSpace(v[0]) != "" {
		token := bare(v[0])
		ok, err := c.mayRun(token, true)
		if ok {
			c.caller = caller{authenticated: true, token: token}
		}
		return err
	}
	for _, slot := range slots {
		v := c.r.Header[slot]
		if len(v) == 0 {
			continue
		}
		token := bare(v[0])
		ok, err := c.mayRun(token, required)
		if ok {
			c.caller = caller{authenticated: true, token: token}
		}
		if ok || err != nil {
			return err
		}
	}
	return nil
}

// mayRun reports whether a token may send requests through the account's gateways.
func (c *passage) mayRun(token string, anyForm bool) (bool, error) {
	if token == "" || len(token) > 512 {
		return false, nil
	}
	t, ok, err := c.s.tokenOf(c.ctx, token)
	if !ok && err == nil && anyForm && !isToken(token) { // one that somebody brought along
		t, err = c.s.directory.token(c.ctx, sha256.Sum256([]byte(token)))
		ok = err == nil
		if errors.Is(err, store.ErrNotFound) {
			err = nil
		}
	}
	return ok && t.Run && mayUse(t, c.account), err
}

// bare takes the scheme off a credential.
func bare(v string) string {
	v = strings.TrimSpace(v)
	if scheme, rest, ok := strings.Cut(v, " "); ok {
		switch strings.ToLower(scheme) {
		case "bearer", "token", "key", "api-key":
			return strings.TrimSpace(rest)
		}
	}
	switch strings.ToLower(v) {
	case "bearer", "token", "key":
		return ""
	}
	return v
}

const defaultGateway = "default"

// prepare finds where a step goes and under which credential: the key on the request, else the key stored at the
// gateway, else the operator's. There is no billing of ours behind that: without a key it is 400.
func (c *passage) prepare(st *step) (f *refusal) {
	if st.target, f = c.s.target(c.view, st.provider, st.endpoint, st.caller); f != nil {
		return f
	}
	if st.chat || st.openAIForm() { // OpenAI's form comes with OpenAI's header
		st.target.header, st.target.prefix = "Authorization", bearer
	}
	h := outbound(st.caller)
	for _, slot := range slots {
		if v := h[slot]; len(v) > 0 {
			if token := bare(v[0]); token == "" || c.caller.token != "" && token == c.caller.token {
				delete(h, slot)
			}
		}
	}
	st.header = h
	if c.caller.token != "" && bare(h.Get(st.target.header)) == c.caller.token {
		delete(h, st.target.header)
	}
	if !st.hasKey() {
		if f = c.addKey(st); f != nil {
			return f
		}
	}
	if v := h["User-Agent"]; len(v) == 0 { // else package http names itself
		h["User-Agent"] = []string{c.r.Header.Get("User-Agent")}
	}
	// Answers of models are asked for uncompressed, by not asking, so that usage, log and cache can read them; of anything
	// else the caller's wish goes on. What comes compressed goes back so.
	if v := st.caller["Accept-Encoding"]; v != nil && !(st.method == http.MethodPost && isJSON(h)) && !c.view.guard.checksAnswers() {
		h["Accept-Encoding"] = v
	}
	if st.model == "" {
		st.model = modelOf(st)
	}
	return nil
}

func isJSON(h http.Header) bool {
	if v := h["Content-Type"]; len(v) > 0 {
		return strings.HasPrefix(v[0], "application/json")
	}
	return false
}

// hasKey notes the credential that the request brought.
func (st *step) hasKey() bool {
	for _, slot := range append([]string{st.target.header}, slots...) {
		if v := st.header[slot]; len(v) > 0 && bare(v[0]) != "" {
			st.secret = v[0]
			if st.provider == "aws-bedrock" && strings.HasPrefix(st.target.url.Host, "bedrock-mantle.") && slot == "Authorization" &&
				strings.Contains(st.target.url.Path, "/anthropic/") && strings.HasPrefix(v[0], bearer) {
				delete(st.header, slot)
				st.header["X-Api-Key"] = []string{bare(v[0])}
			}
			return true
		}
	}
	q := st.target.url.Query()
	if st.target.url.RawQuery != "" && st.provider == "google-ai-studio" && q.Get("key") != "" {
		st.secret = q.Get("key")
		return true
	}
	return false
}

// addKey takes the stored key of the alias that the request names, or the provider's default one.
func (c *passage) addKey(st *step) *refusal {
	alias := cmp.Or(st.opts.alias, defaultAlias)
	key, ok := c.view.keys[providerAlias{st.provider, alias}]
	if !ok && alias == defaultAlias {
		if key.secret, ok = c.s.o.Keys[st.provider]; key.secret == "" {
			ok = false
		}
	}
	switch {
	case !ok && st.target.free && st.opts.alias == "":
		return nil
	case !ok && st.opts.alias != "":
		return noCredential("no key is stored for the provider " + printable(st.provider) + " under the alias " + printable(alias))
	case !ok:
		return noCredential("no credential for the provider " + printable(st.provider) + ": send its key in the header " +
			strings.ToLower(st.target.header) + ", or store one at this gateway")
	case strings.HasPrefix(strings.TrimSpace(key.secret), "{"):
		return noCredential("the key stored for the provider " + printable(st.provider) + " would need signing, which this gateway doesn't do")
	}
	if f := c.limitKey(&key); f != nil {
		return f
	}
	st.secret = key.secret
	st.header[st.target.header] = []string{st.target.prefix + key.secret}
	return nil
}

const defaultAlias = "default"

func noCredential(message string) *refusal {
	return &refusal{status: http.StatusBadRequest, code: aigNoGateway, message: message}
}

// limitKey takes one request of a stored key's own limit.
func (c *passage) limitKey(k *storedKey) *refusal {
	if k.limit <= 0 || k.period <= 0 || c.s.o.Windows == nil {
		return nil
	}
	return c.window("gateway-key:"+k.id, k.limit, k.period, false, "the rate limit of the stored key is reached")
}

// window takes one request in a window. When the windows can't be asked, requests pass: a Redis that is down must not
// take the gateway with it.
func (c *passage) window(name string, limit int64, interval time.Duration, sliding bool, message string) *refusal {
	ok, wait, err := c.s.o.Windows.Allow(c.ctx, name, limit, interval, sliding)
	if err != nil {
		if !errors.Is(err, context.Canceled) {
			c.s.o.Log.WarnContext(c.ctx, "a rate limit can't be asked", "name", name, "error", err)
		}
		return nil
	}
	if ok {
		return nil
	}
	return &refusal{status: http.StatusTooManyRequests, code: aigRate, message: message, retryAfter: max(wait, time.Millisecond)}
}

// modelOf finds the model that a native request asks for: in the path where the provider names it there, else in the
// body.
func modelOf(st *step) string {
	path, _, _ := strings.Cut(strings.Trim(st.endpoint, "/"), "?")
	switch st.provider {
	case "google-ai-studio", "google-vertex-ai":
		if _, after, ok := strings.Cut(path, "models/"); ok {
			model, _, _ := strings.Cut(after, ":")
			return clip(model)
		}
	case "azure-openai":
		if parts := strings.SplitN(path, "/", 3); len(parts) == 3 {
			return clip(parts[1])
		}
	case "aws-bedrock":
		if _, after, ok := strings.Cut(path, "/model/"); ok {
			model, _, _ := strings.Cut(after, "/")
			return clip(model)
		}
	case "workers-ai":
		if strings.HasPrefix(path, "@") || strings.HasPrefix(path, "run/@") {
			return clip(strings.TrimPrefix(path, "run/"))
		}
	case "huggingface":
		if !strings.HasSuffix(path, "completions") {
			return clip(path)
		}
	}
	if len(st.body) > 0 && st.body[0] == '{' || isJSON(st.caller) {
		return clip(memberText(st.body, "model"))
	}
	return ""
}

// clip bounds a caller's word for rows and headers.
func clip(s string) string {
	if len(s) > 200 {
		s = s[:200]
	}
	if !headerValue(s) {
		return ""
	}
	return s
}
