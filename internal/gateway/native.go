package gateway

import (
	"net/http"
	"net/url"
	"strings"
)

// This file is for a server that passes native requests through: where a provider is, how it wants its key, and what of
// a caller's headers goes on to it.

// Native is what such a server must know of a provider.
type Native struct {
	Base   string // public base URL; "" where the operator must say
	Header string // that carries the key
	Prefix string // before the key in that header, such as "Bearer "
}

// NativeOf returns the facts of a provider that [Lookup] knows.
func NativeOf(provider string) (Native, bool) {
	p, ok := Lookup(provider)
	if !ok {
		return Native{}, false
	}
	r := reachOf(p)
	n := Native{Base: r.base, Header: r.headerName()}
	if r.header == "" {
		n.Prefix = "Bearer "
	}
	return n, true
}

// Address joins a base URL and the endpoint of a step, as the provider wants it. A version that both hold is written
// once. The error is an *[Error] of class invalid_request: an endpoint can't leave its base.
func Address(provider string, base *url.URL, endpoint string) (*url.URL, error) {
	p, ok := Lookup(provider)
	if !ok {
		return Join(base, endpoint)
	}
	u, fail := addressOf(p, base, endpoint)
	if fail != nil {
		return nil, fail
	}
	return u, nil
}

// Join is [Address] for a provider without peculiarities.
func Join(base *url.URL, endpoint string) (*url.URL, error) {
	u, fail := join(base, endpoint)
	if fail != nil {
		return nil, fail
	}
	return u, nil
}

func addressOf(p Provider, base *url.URL, endpoint string) (*url.URL, *Error) {
	if a, ok := p.(addresser); ok {
		return a.address(base, endpoint)
	}
	return join(base, endpoint)
}

// ParseBase reads a base URL: http or https, without a user, a password or a fragment.
func ParseBase(s string) (*url.URL, error) { return parseBase(s) }

// NewTransport returns a transport for many calls to few hosts; see [EngineOptions]. The proxy may be nil.
func NewTransport(proxy func(*http.Request) (*url.URL, error)) *http.Transport {
	return newTransport(proxy, defaultConnect)
}

// StaysHere reports whether a header is between the caller and this hop only: the transport's own, and a gateway's.
// The name is in canonical form.
func StaysHere(name string) bool { return dropped[name] || strings.HasPrefix(name, "Cf-Aig-") }
