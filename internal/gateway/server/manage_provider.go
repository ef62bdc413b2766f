package server

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"batchwright/internal/gateway"
	"batchwright/internal/store"
)

// providerConfigResult is how a stored key is shown. The key itself never is.
type providerConfigResult struct {
	ID              string    `json:"id"`
	GatewayID       string    `json:"gateway_id"`
	ProviderSlug    string    `json:"provider_slug"`
	Alias           string    `json:"alias"`
	DefaultConfig   bool      `json:"default_config"`
	SecretID        string    `json:"secret_id"` // the same as ID: there is no other store of secrets
	SecretPreview   string    `json:"secret_preview"`
	RateLimit       int       `json:"rate_limit"`
	RateLimitPeriod int       `json:"rate_limit_period"`
	ModifiedAt      time.Time `json:"modified_at"`
}

// knownProvider reports whether requests to a slug could be served, custom ones included.
func knownProvider(slug string) bool {
	_, ok := gateway.Lookup(slug)
	_, native := upstreams[slug]
	return ok || native
}

func showProviderConfig(k store.ProviderKey) providerConfigResult {
	return providerConfigResult{k.ID.String(), k.Gateway, k.Provider, k.Alias, k.Default, k.ID.String(), k.Preview, k.RateLimit,
		k.RateLimitPeriod, k.ModifiedAt.UTC()}
}

func (m *management) listProviderConfigs(c *call) (*answer, error) {
	page, perPage, found := c.page(100)
	if len(found) > 0 {
		return nil, invalidCall(found...)
	}
	if _, err := m.find(c); err != nil {
		return nil, err
	}
	keys, err := m.db.ProviderKeys(c.Context(), c.account, c.gateway)
	if err != nil {
		return nil, err
	}
	total := len(keys)
	keys = keys[min((page-1)*perPage, total):min(page*perPage, total)]
	results := make([]providerConfigResult, len(keys))
	for i, k := range keys {
		results[i] = showProviderConfig(k)
	}
	return &answer{Result: results, Info: infoOf(page, perPage, len(keys), total)}, nil
}

// createProviderConfig stores a key, in the place of one under the same alias. Clients made from Cloudflare's description send a
// secret_id beside the secret; it has no meaning here.
func (m *management) createProviderConfig(c *call) (*answer, error) {
	var in struct {
		ProviderSlug    string `json:"provider_slug"`
		Alias           string `json:"alias"`
		DefaultConfig   *bool  `json:"default_config"`
		Secret          string `json:"secret"`
		SecretID        string `json:"secret_id"`
		RateLimit       int    `json:"rate_limit"`
		RateLimitPeriod int    `json:"rate_limit_period"`
	}
	found := decodeFields(c.body, &in)
	if !knownProvider(in.ProviderSlug) {
		found = append(found, Problem{"provider_slug", "is not a provider of this server"})
	}
	if in.Alias == "" {
		in.Alias = defaultAlias
	}
	if !gateway.Identifier(in.Alias) {
		found = append(found, Problem{"alias", "must be 1 to 64 of A-Z, a-z, 0-9, _ and -"})
	}
	secret, problem := cleanSecret(in.Secret)
	if problem != "" {
		found = append(found, Problem{"secret", problem})
	}
	if in.RateLimit < 0 || in.RateLimit > 1_000_000_000 {
		found = append(found, Problem{"rate_limit", "must be from 0 to 1000000000"})
	}
	if in.RateLimitPeriod < 0 || in.RateLimitPeriod > 366*24*3600 || in.RateLimit > 0 && in.RateLimitPeriod == 0 {
		found = append(found, Problem{"rate_limit_period", "must be the seconds in which rate_limit requests are allowed, a year at most"})
	}
	if len(found) > 0 {
		return nil, invalidCall(found...)
	}
	if m.box == nil {
		return nil, &fault{status: http.StatusServiceUnavailable, code: codeInvalid, message: "this server has no key to seal secrets with"}
	}
	k := store.ProviderKey{Account: c.account, Gateway: c.gateway, Provider: in.ProviderSlug, Alias: in.Alias, Default: in.Alias == defaultAlias,
		Preview: previewOf(secret), RateLimit: in.RateLimit, RateLimitPeriod: in.RateLimitPeriod}
	if in.DefaultConfig != nil {
		k.Default = *in.DefaultConfig
	}
	k.Sealed = m.box.Seal(secret, k.Account, k.Gateway, k.Provider, k.Alias)
	saved, err := m.db.SaveProviderKey(c.Context(), k)
	if errors.Is(err, store.ErrNotFound) && c.gateway == defaultGateway { // a key may come before the first request, which would make it
		if _, err = m.s.directory.create(c.Context(), c.account); err == nil {
			saved, err = m.db.SaveProviderKey(c.Context(), k)
		}
	}
	if err != nil {
		return nil, err
	}
	m.changed(c.account, c.gateway)
	return &answer{Result: showProviderConfig(saved)}, nil
}

// cleanSecret makes a secret fit for a header. One that is JSON, as service accounts are, is written without line ends.
func cleanSecret(s string) (clean, problem string) {
	s = strings.TrimSpace(s)
	switch {
	case s == "":
		return "", "is required; secrets can't be named by secret_id here"
	case len(s) > 64<<10:
		return "", "is over 64 KiB"
	}
	if s[0] == '{' && json.Valid([]byte(s)) {
		var b bytes.Buffer
		if err := json.Compact(&b, []byte(s)); err == nil {
			s = b.String()
		}
	}
	if !isPlain(s) {
		return "", "holds control characters"
	}
	return s, ""
}

// previewOf shows the end of a secret, unless that were much of it.
func previewOf(secret string) string {
	if len(secret) < 16 {
		return ""
	}
	return strings.ToValidUTF8(secret[len(secret)-4:], "")
}

func (m *management) deleteProviderConfig(c *call) (*answer, error) {
	id, err := c.id("id", "provider config")
	if err != nil {
		return nil, err
	}
	if err := m.db.DeleteProviderKey(c.Context(), c.account, c.gateway, id); err != nil {
		return nil, err
	}
	m.changed(c.account, c.gateway)
	return &answer{Result: map[string]string{"id": id.String()}}, nil
}

// customProviderFields is what a request may say of a custom provider. An update changes what it names.
type customProviderFields struct {
	Name        *string `json:"name"`
	Slug        *string `json:"slug"`
	BaseURL     *string `json:"base_url"`
	Description *string `json:"description"`
	Link        *string `json:"link"`
	CurlExample *string `json:"curl_example"`
	JSExample   *string `json:"js_example"`
	Enable      *bool   `json:"enable"`
	Beta        *bool   `json:"beta"`
}

// What a client may send back because it got it. Headers of a provider's own aren't implemented, so they aren't among them.
var readOnlyCustomProvider = []string{"id", "account_id", "created_at", "modified_at", "position", "logo"}

type customProviderResult struct {
	ID          string    `json:"id"`
	Name        string    `json:"name"`
	Slug        string    `json:"slug"`
	BaseURL     string    `json:"base_url"`
	Description string    `json:"description,omitempty"`
	Link        string    `json:"link,omitempty"`
	CurlExample string    `json:"curl_example,omitempty"`
	JSExample   string    `json:"js_example,omitempty"`
	Enable      bool      `json:"enable"`
	Beta        bool      `json:"beta"`
	CreatedAt   time.Time `json:"created_at"`
	ModifiedAt  time.Time `json:"modified_at"`
}

func answerCustomProvider(p store.CustomProvider, err error) (*answer, error) {
	if err != nil {
		return nil, err
	}
	return &answer{Result: showCustomProvider(p)}, nil
}

func showCustomProvider(p store.CustomProvider) customProviderResult {
	return customProviderResult{p.ID.String(), p.Name, p.Slug, p.BaseURL, p.Description, p.Link, p.CurlExample, p.JSExample, p.Enable, p.Beta,
		p.CreatedAt.UTC(), p.ModifiedAt.UTC()}
}

// readCustomProvider puts what a request names into p, and tests the whole.
func readCustomProvider(raw []byte, p *store.CustomProvider) []Problem {
	var in customProviderFields
	found := decodeFields(raw, &in, readOnlyCustomProvider...)
	for _, f := range []struct {
		name string
		from *string
		into *string
		most int
	}{{"name", in.Name, &p.Name, 200}, {"slug", in.Slug, &p.Slug, 57}, {"base_url", in.BaseURL, &p.BaseURL, 2000},
		{"description", in.Description, &p.Description, 10_000}, {"link", in.Link, &p.Link, 2000},
		{"curl_example", in.CurlExample, &p.CurlExample, 10_000}, {"js_example", in.JSExample, &p.JSExample, 10_000}} {
		if f.from == nil {
			continue
		}
		if *f.into = *f.from; len(*f.from) > f.most || strings.IndexByte(*f.from, 0) >= 0 {
			found = append(found, Problem{f.name, "must be text of at most " + strconv.Itoa(f.most) + " bytes"})
		}
	}
	if in.Enable != nil {
		p.Enable = *in.Enable
	}
	if in.Beta != nil {
		p.Beta = *in.Beta
	}
	if p.Name == "" {
		found = append(found, Problem{"name", "is required"})
	}
	if _, ok := gateway.Lookup("custom-" + p.Slug); !ok {
		found = append(found, Problem{"slug", "must be 1 to 57 of a-z, 0-9, _ and -, without the prefix custom-"})
	}
	if problem := checkBase(p.BaseURL); problem != "" {
		found = append(found, Problem{"base_url", problem})
	}
	if u, err := url.Parse(p.Link); p.Link != "" && (err != nil || u.Scheme != "https" && u.Scheme != "http") {
		found = append(found, Problem{"link", "must be an http or https URL"})
	}
	return found
}

// checkBase tests the base URL of a custom provider: https, as Cloudflare has it. An operator who wants another replaces it in
// [Options.Upstreams].
func checkBase(base string) string {
	u, err := gateway.ParseBase(base)
	if err != nil || u.RawQuery != "" || u.Scheme != "https" {
		return "must look like https://host/path, without a user, a query or a fragment"
	}
	return ""
}

func (m *management) listCustomProviders(c *call) (*answer, error) {
	page, perPage, found := c.page(100)
	q := c.URL.Query()
	query := store.CustomProviderQuery{Account: c.account, Search: q.Get("search"), Page: page, PerPage: perPage}
	for name, into := range map[string]**bool{"enable": &query.Enable, "beta": &query.Beta} {
		if s := q.Get(name); s != "" {
			v, err := strconv.ParseBool(s)
			if err != nil {
				found = append(found, Problem{name, "must be true or false"})
			}
			*into = &v
		}
	}
	switch q.Get("order_by") {
	case "", "slug", "name":
	case "created_at":
		query.NewestFirst = true
	default:
		found = append(found, Problem{"order_by", "must be slug or created_at"})
	}
	if len(found) > 0 {
		return nil, invalidCall(found...)
	}
	list, total, err := m.db.CustomProviders(c.Context(), query)
	if err != nil {
		return nil, err
	}
	results := make([]customProviderResult, len(list))
	for i, p := range list {
		results[i] = showCustomProvider(p)
	}
	return &answer{Result: results, Info: infoOf(page, perPage, len(list), total)}, nil
}

func (m *management) createCustomProvider(c *call) (*answer, error) {
	p := store.CustomProvider{Account: c.account}
	if found := readCustomProvider(c.body, &p); len(found) > 0 {
		return nil, invalidCall(found...)
	}
	p, err := m.db.CreateCustomProvider(c.Context(), p)
	if err == nil {
		m.changed(c.account, "")
	}
	return answerCustomProvider(p, err)
}

func (m *management) getCustomProvider(c *call) (*answer, error) {
	id, err := c.id("id", "custom provider")
	if err != nil {
		return nil, err
	}
	return answerCustomProvider(m.db.CustomProvider(c.Context(), c.account, id))
}

func (m *management) updateCustomProvider(c *call) (*answer, error) {
	id, err := c.id("id", "custom provider")
	if err != nil {
		return nil, err
	}
	p, err := m.db.CustomProvider(c.Context(), c.account, id)
	if err != nil {
		return nil, err
	}
	if found := readCustomProvider(c.body, &p); len(found) > 0 {
		return nil, invalidCall(found...)
	}
	p, err = m.db.UpdateCustomProvider(c.Context(), p)
	if err == nil {
		m.changed(c.account, "")
	}
	return answerCustomProvider(p, err)
}

func (m *management) deleteCustomProvider(c *call) (*answer, error) {
	id, err := c.id("id", "custom provider")
	if err != nil {
		return nil, err
	}
	p, err := m.db.DeleteCustomProvider(c.Context(), c.account, id)
	if err == nil {
		m.changed(c.account, "")
	}
	return answerCustomProvider(p, err)
}
