package webhook

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Guard decides where messages may be sent. Users name the URLs, and the workers that follow them stand inside the operator's network: only
// public addresses are reached, whatever a name resolves to at the moment of the connection.
//
// Ports: 443, with AllowHTTP 80, and all above 1023. Those below belong to other protocols (mail, shells, directories), whose servers might
// take a request for something else.
type Guard struct {
	AllowHTTP    bool     // http as well as https
	AllowPrivate bool     // any address and port, for receivers in one's own network
	AllowHosts   []string // lower-case names or addresses whose address and port are not looked at

	Resolver *net.Resolver // default: the system's
}

// errBlocked is in the chain of the error of a connection that the guard refused.
var errBlocked = errors.New("webhook: the address is not public")

// CheckURL says in words what is wrong with a URL that a user gave; nothing when it may be kept. What a name resolves to is checked when it
// is connected to, as that changes.
func (g Guard) CheckURL(text string) string {
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Opaque != "" || u.Hostname() == "":
		return "must be a URL such as https://example.com/hooks"
	case len(text) > 2000:
		return "must have at most 2000 characters"
	case u.Scheme != "https" && (u.Scheme != "http" || !g.AllowHTTP):
		if g.AllowHTTP {
			return "must be an http or https URL"
		}
		return "must be an https URL"
	case u.User != nil:
		return "must not have a user name or password: the signature tells who sends"
	case u.Fragment != "":
		return "must not have a fragment: it would not be sent"
	case strings.HasSuffix(u.Host, ":"):
		return "the port is missing behind the colon"
	}
	host := strings.ToLower(strings.TrimSuffix(u.Hostname(), "."))
	for _, c := range []byte(host) {
		if c <= ' ' || c >= 0x7f {
			return "the host must be in ASCII: write other names in their xn-- form"
		}
	}
	if g.trusts(host) {
		return ""
	}
	if port := u.Port(); port != "" {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || !g.port(uint16(n)) {
			return "the port must be 443 or above 1023"
		}
	}
	if addr, err := netip.ParseAddr(host); err == nil {
		if !Public(addr) {
			return "the address is not public: private, loopback, link-local and other special addresses are not sent to"
		}
		return ""
	}
	labels := strings.Split(host, ".")
	if last := labels[len(labels)-1]; last == "localhost" || last == "" || last[0] >= '0' && last[0] <= '9' {
		return "the host must be a public name: this one is a form of an address, or of this machine" // 127.1, 0x7f000001: resolvers read them
	}
	return ""
}

// trusts reports whether a host is exempt from the checks of address and port.
func (g Guard) trusts(host string) bool {
	return g.AllowPrivate || slices.Contains(g.AllowHosts, strings.ToLower(strings.TrimSuffix(host, ".")))
}

func (g Guard) port(n uint16) bool { return n == 443 || n == 80 && g.AllowHTTP || n > 1023 }

// control refuses a connection to an address that isn't public, after its name was resolved and before a packet leaves.
func (g Guard) control(_ context.Context, network, address string, _ syscall.RawConn) error {
	at, err := netip.ParseAddrPort(address)
	if err != nil || network != "tcp4" && network != "tcp6" || !Public(at.Addr()) || !g.port(at.Port()) {
		return errBlocked
	}
	return nil
}

// client makes an HTTP client that goes nowhere else: no proxy, no redirects, every connection checked.
func (g Guard) client() *http.Client {
	open := &net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second, Resolver: g.Resolver}
	guarded := *open
	guarded.ControlContext = g.control
	return &http.Client{
		Transport: &http.Transport{
			DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
				host, _, err := net.SplitHostPort(address)
				if err == nil && g.trusts(host) {
					return open.DialContext(ctx, network, address)
				}
				return guarded.DialContext(ctx, network, address)
			},
			TLSHandshakeTimeout:    10 * time.Second,
			IdleConnTimeout:        30 * time.Second,
			MaxIdleConns:           100,
			MaxIdleConnsPerHost:    2,
			MaxResponseHeaderBytes: 64 << 10,
			DisableCompression:     true,
			ForceAttemptHTTP2:      true,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// special are the parts of the address space that are not the public internet's (IANA's registries of special-purpose addresses), as far as
// Public doesn't leave them out anyway.
var special = func() (all []netip.Prefix) {
	for _, p := range []string{
		"0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24",
		"192.31.196.0/24", "192.52.193.0/24", "192.88.99.0/24", "192.168.0.0/16", "192.175.48.0/24", "198.18.0.0/15", "198.51.100.0/24",
		"203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4",
		"2001::/23", "2001:db8::/32", "2002::/16", "2620:4f:8000::/48", "3fff::/20", // 2002 is 6to4, which has any IPv4 address inside
	} {
		all = append(all, netip.MustParsePrefix(p))
	}
	return all
}()

var (
	globalUnicast = netip.MustParsePrefix("2000::/3") // all IPv6 that was given out; loopback, ULA, link-local and the like lie outside
	nat64         = netip.MustParsePrefix("64:ff9b::/96")
)

// Public reports whether an address belongs to the public internet. IPv6 forms of IPv4 addresses are as public as what they stand for.
func Public(a netip.Addr) bool {
	if !a.IsValid() || a.Zone() != "" {
		return false
	}
	a = a.Unmap()
	if nat64.Contains(a) {
		b := a.As16()
		a = netip.AddrFrom4([4]byte(b[12:]))
	}
	if a.Is6() && !globalUnicast.Contains(a) {
		return false
	}
	return !slices.ContainsFunc(special, func(p netip.Prefix) bool { return p.Contains(a) })
}
