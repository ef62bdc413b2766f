// Package egress makes HTTP requests to URLs that users named reach public addresses only.
//
// The processes that follow such URLs stand inside the operator's network, where a request might reach what no user should (server-side
// request forgery). What counts is the address that is connected to, whatever its name resolved to before.
package egress

import (
	"context"
	"crypto/tls"
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

// Guard decides what may be reached. The zero value lets https requests go to public addresses.
//
// Ports: 443, with AllowHTTP 80, and all above 1023. Those below belong to other protocols (mail, shells, directories), whose servers might
// take a request for something else.
type Guard struct {
	AllowHTTP    bool     // http as well as https
	AllowPrivate bool     // any address and port, for hosts in one's own network
	AllowHosts   []string // lower-case names or addresses whose address and port are not looked at

	Resolver *net.Resolver // default: the system's
}

// ErrBlocked is in the chain of the error of a connection that the guard refused.
var ErrBlocked = errors.New("egress: the address is not public")

// CheckURL says in words what is wrong with a URL that a user gave; nothing when it may be kept. What a name resolves to is checked when it
// is connected to, as that changes.
func (g Guard) CheckURL(text string) string {
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Opaque != "" || u.Hostname() == "":
		return "must be a URL such as https://example.com/path"
	case len(text) > 2000:
		return "must have at most 2000 characters"
	case u.Scheme != "https" && (u.Scheme != "http" || !g.AllowHTTP):
		if g.AllowHTTP {
			return "must be an http or https URL"
		}
		return "must be an https URL"
	case u.User != nil:
		return "must not have a user name or password: they would be stored, and shown"
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
			return "the address is not public: private, loopback, link-local and other special addresses are not reached"
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
		return ErrBlocked
	}
	return nil
}

// Client makes an HTTP client that goes nowhere else: no proxy, no redirects, every connection checked. Whoever has it follow redirects by a
// CheckRedirect of its own calls CheckURL there.
func (g Guard) Client() *http.Client {
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

// Why words why a connection or a request came to nothing. It says nothing of addresses or of what lies behind them.
func Why(err error) string {
	_, dns := errors.AsType[*net.DNSError](err)
	_, cert := errors.AsType[*tls.CertificateVerificationError](err)
	_, record := errors.AsType[tls.RecordHeaderError](err)
	_, alert := errors.AsType[tls.AlertError](err)
	switch {
	case errors.Is(err, ErrBlocked):
		return "the host's address is not public"
	case dns:
		return "the host's name can't be resolved"
	case cert:
		return "the host's certificate is not valid"
	case record, alert, errors.Is(err, http.ErrSchemeMismatch):
		return "the host doesn't speak TLS as expected"
	}
	return "the connection failed"
}

// RetryAfter reads a Retry-After header, seconds or a date; 0 without a good one.
func RetryAfter(text string, now time.Time) time.Duration {
	if n, err := strconv.ParseUint(text, 10, 31); err == nil {
		return time.Duration(n) * time.Second
	}
	if at, err := http.ParseTime(text); err == nil && at.After(now) {
		return at.Sub(now)
	}
	return 0
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
