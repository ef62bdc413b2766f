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

// Join appends an endpoint to a base URL. A version that both hold is written once. The error is an *[Error] of class
// invalid_request: an endpoint can't leave its base.
func Join(base *url.URL, endpoint string) (*url.URL, error) {
	u, fail := join(base, endpoint)
	if fail != nil {
		return nil, fail
	}
	return u, nil
}

// ParseBase reads a base URL: http or https, without a user, a password or a fragment.
func ParseBase(s string) (*url.URL, error) { return parseBase(s) }

// NewTransport returns a transport for many calls to few hosts; see [EngineOptions]. The proxy may be nil. Its buffers are
// large, for streams that go on to somebody else.
func NewTransport(proxy func(*http.Request) (*url.URL, error)) *http.Transport {
	t := newTransport(proxy, defaultConnect)
	t.ReadBufferSize, t.WriteBufferSize = 16<<10, 16<<10
	return t
}

// hopByHop are the headers between two neighbours only: RFC 9110, section 7.6.1, and what is still seen.
var hopByHop = map[string]bool{
	"Connection": true, "Keep-Alive": true, "Proxy-Connection": true, "Proxy-Authenticate": true, "Proxy-Authorization": true,
	"Te": true, "Trailer": true, "Transfer-Encoding": true, "Upgrade": true,
}

// HopByHop reports whether a header, named in canonical form, is between two neighbours only.
func HopByHop(name string) bool { return hopByHop[name] }

// IsEventStream reports whether an answer is streamed.
func IsEventStream(h http.Header) bool {
	kind, _, _ := strings.Cut(h.Get("Content-Type"), ";")
	return strings.EqualFold(strings.TrimSpace(kind), "text/event-stream")
}

// Identifier reports whether s names an account, a gateway or a key's alias: 1 to 64 of [A-Za-z0-9_-].
func Identifier(s string) bool { return s != "" && schemaName(s) }
