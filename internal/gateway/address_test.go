package gateway

import "net/url"

// addressAt is where an endpoint of a provider is.
func addressAt(provider string, base *url.URL, endpoint string) (*url.URL, error) {
	p, _ := Lookup(provider)
	u, fail := addressOf(p, base, endpoint)
	if fail != nil {
		return nil, fail
	}
	return u, nil
}
