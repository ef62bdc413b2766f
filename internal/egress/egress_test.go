package egress

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/net/dns/dnsmessage"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestPublicAddresses(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]bool{
		"1.1.1.1": true, "93.184.215.14": true, "100.63.255.255": true, "100.128.0.1": true, "172.15.0.1": true, "172.32.0.1": true,
		"9.255.255.255": true, "198.17.255.255": true, "198.20.0.0": true, "223.255.255.254": true, "::ffff:1.1.1.1": true,
		"2606:4700:4700::1111": true, "2a00:1450:4001::200e": true, "64:ff9b::101:101": true, "2001:4860:4860::8888": true,

		"0.0.0.0": false, "0.1.2.3": false, "10.0.0.1": false, "10.255.255.255": false, "100.64.0.1": false, "100.127.255.255": false,
		"127.0.0.1": false, "127.255.255.254": false, "169.254.169.254": false, "172.16.0.1": false, "172.31.255.255": false, "192.0.0.1": false,
		"192.0.2.1": false, "192.88.99.1": false, "192.168.1.1": false, "198.18.0.1": false, "198.19.255.255": false, "198.51.100.7": false,
		"203.0.113.9": false, "224.0.0.1": false, "239.255.255.250": false, "240.0.0.1": false, "255.255.255.255": false,
		"::": false, "::1": false, "::127.0.0.1": false, "::ffff:127.0.0.1": false, "::ffff:10.0.0.1": false, "::ffff:169.254.169.254": false,
		"::ffff:0:127.0.0.1": false, "64:ff9b::7f00:1": false, "64:ff9b::a9fe:a9fe": false, "64:ff9b::a00:1": false, "64:ff9b:1::1": false,
		"2002:7f00:1::": false, "2002:a00:1::1": false, "2002:808:808::1": false, "2001::1": false, "2001:0:7f00:1::": false, "2001:2::1": false,
		"2001:20::1": false, "2001:db8::1": false, "3fff::1": false, "100::1": false, "fc00::1": false, "fd00:ec2::254": false, "fe80::1": false,
		"fe80::1%eth0": false, "2606:4700::1%eth0": false, "fec0::1": false, "ff02::1": false, "5f00::1": false, "4000::1": false,
	} {
		if got := Public(netip.MustParseAddr(text)); got != want {
			t.Errorf("%s: public %v, want %v", text, got, want)
		}
	}
	if Public(netip.Addr{}) {
		t.Error("no address is public")
	}
}

func TestURLsThatMayBeKept(t *testing.T) {
	t.Parallel()
	strict, plain := Guard{}, Guard{AllowHTTP: true}
	lab := Guard{AllowHTTP: true, AllowPrivate: true}
	some := Guard{AllowHosts: []string{"hooks.internal", "10.1.2.3", "::1", "localhost"}}
	for _, c := range []struct {
		guard Guard
		url   string
		why   string // part of it; empty: fine
	}{
		{strict, "https://example.com/hooks?a=b", ""}, {strict, "https://example.com.", ""}, {strict, "https://EXAMPLE.com:443/", ""},
		{strict, "https://example.com:8443", ""}, {strict, "https://1.1.1.1/x", ""}, {strict, "https://[2606:4700:4700::1111]/x", ""},
		{strict, "https://xn--bcher-kva.example", ""}, {plain, "http://example.com", ""}, {plain, "http://example.com:80", ""},
		{lab, "http://127.0.0.1:9999/x", ""}, {lab, "http://localhost:25/x", ""}, {some, "https://hooks.internal:22/x", ""},
		{some, "https://HOOKS.internal./x", ""}, {some, "https://10.1.2.3:9/x", ""}, {some, "https://[::1]/", ""}, {some, "https://localhost/", ""},

		{strict, "", "URL such as"}, {strict, "example.com", "URL such as"}, {strict, "https:example.com", "URL such as"}, {strict, "https://", "URL such as"},
		{strict, "https://[::1", "URL such as"}, {strict, "https://exa mple.com", "URL such as"}, {strict, "https:///path", "URL such as"},
		{strict, "http://example.com", "https"}, {strict, "ftp://example.com", "https"}, {plain, "file://example.com/etc", "http or https"},
		{plain, "gopher://example.com:70", "http or https"}, {strict, "https://user:pw@example.com", "user name"}, {strict, "https://me@1.1.1.1", "user name"},
		{strict, "https://example.com/#x", "fragment"}, {strict, "https://example.com:80", "port"}, {strict, "https://example.com:22", "port"},
		{plain, "http://example.com:25", "port"}, {strict, "https://example.com:0", "port"}, {strict, "https://example.com:99999", "port"},
		{strict, "https://example.com:", "port"}, {strict, "https://bücher.example", "xn--"}, {strict, "https://ⓔxample.com", "xn--"},
		{strict, "https://127.0.0.1", "not public"}, {strict, "https://[::1]", "not public"}, {strict, "https://[::ffff:10.0.0.1]", "not public"},
		{strict, "https://169.254.169.254/latest", "not public"}, {strict, "https://[fe80::1%25eth0]/", "not public"}, {strict, "https://10.0.0.1.", "not public"},
		{strict, "https://localhost", "public name"}, {strict, "https://x.localhost", "public name"}, {strict, "https://2130706433", "public name"},
		{strict, "https://127.1", "public name"}, {strict, "https://0x7f.0.0.1", "public name"}, {strict, "https://example.0x7f000001", "public name"},
		{strict, "https://0177.0.0.1", "public name"}, {some, "https://10.1.2.4", "not public"}, {some, "http://hooks.internal", "https"},
		{strict, "https://example.com/" + strings.Repeat("x", 2000), "2000"},
	} {
		got := c.guard.CheckURL(c.url)
		if (got == "") != (c.why == "") || !strings.Contains(got, c.why) {
			t.Errorf("%s: %q, want %q", c.url, got, c.why)
		}
	}
}

// resolver answers every question with the next of the addresses, and stays with the last.
func resolver(t *testing.T, answers ...string) *net.Resolver {
	t.Helper()
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() { _ = pc.Close(); <-done })
	go func() {
		defer close(done)
		buf := make([]byte, 1500)
		n := 0
		for {
			size, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			var m dnsmessage.Message
			if m.Unpack(buf[:size]) != nil || len(m.Questions) != 1 {
				continue
			}
			m.Response, m.Authoritative, m.Additionals = true, true, nil
			if q := m.Questions[0]; q.Type == dnsmessage.TypeA {
				addr := netip.MustParseAddr(answers[min(n, len(answers)-1)])
				n++
				m.Answers = []dnsmessage.Resource{{Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class}, Body: &dnsmessage.AResource{A: addr.As4()}}}
			}
			out, err := m.Pack()
			if err != nil {
				continue
			}
			_, _ = pc.WriteTo(out, from)
		}
	}()
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "udp", pc.LocalAddr().String())
	}}
}

// receiver counts the requests that reach it on loopback.
func receiver(t *testing.T) (*httptest.Server, *atomic.Int32) {
	t.Helper()
	var hits atomic.Int32
	srv := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { hits.Add(1) }))
	t.Cleanup(srv.Close)
	return srv, &hits
}

func portOf(t *testing.T, srv *httptest.Server) string {
	t.Helper()
	u, err := url.Parse(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	return u.Port()
}

func post(t *testing.T, c *http.Client, url string) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	res, err := c.Do(req)
	if err == nil {
		_, _ = io.Copy(io.Discard, res.Body)
		_ = res.Body.Close()
	}
	return err
}

// TestNamesAreCheckedWhereTheyLead: a name may lead elsewhere at each look (DNS rebinding), so the address that is connected to counts.
func TestNamesAreCheckedWhereTheyLead(t *testing.T) {
	t.Parallel()
	srv, hits := receiver(t)
	for _, inside := range []string{"127.0.0.1", "169.254.169.254", "10.0.0.1", "0.0.0.0", "192.168.0.1", "100.64.0.1"} {
		c := Guard{AllowHTTP: true, Resolver: resolver(t, inside)}.Client()
		if err := post(t, c, "http://evil.example:"+portOf(t, srv)); !errors.Is(err, ErrBlocked) {
			t.Errorf("a name for %s: %v, want it blocked", inside, err)
		}
		c.CloseIdleConnections()
	}
	if hits.Load() != 0 {
		t.Fatalf("%d requests arrived", hits.Load())
	}
	lab := Guard{AllowHTTP: true, AllowPrivate: true, Resolver: resolver(t, "127.0.0.1")}.Client()
	defer lab.CloseIdleConnections()
	named := Guard{AllowHTTP: true, AllowHosts: []string{"hooks.internal"}, Resolver: resolver(t, "127.0.0.1")}.Client()
	defer named.CloseIdleConnections()
	for _, c := range []*http.Client{lab, named} {
		if err := post(t, c, "http://Hooks.Internal:"+portOf(t, srv)); err != nil {
			t.Errorf("allowed by name or altogether: %v", err)
		}
	}
	if err := post(t, named, "http://other.internal:"+portOf(t, srv)); !errors.Is(err, ErrBlocked) {
		t.Errorf("another host than the one allowed: %v", err)
	}
	if hits.Load() != 2 {
		t.Errorf("%d requests arrived, want the 2 that were allowed", hits.Load())
	}
}

// TestTheSecondLookCounts: what resolved to a public address when it was checked, and to loopback when it was connected to, is blocked.
func TestTheSecondLookCounts(t *testing.T) {
	t.Parallel()
	srv, hits := receiver(t)
	g := Guard{AllowHTTP: true, Resolver: resolver(t, "93.184.215.14", "127.0.0.1")}
	name := "rebind.example"
	if addrs, err := g.Resolver.LookupNetIP(t.Context(), "ip4", name); err != nil || !Public(addrs[0]) {
		t.Fatalf("first look: %v, %v", addrs, err)
	}
	if why := g.CheckURL("http://" + name + ":" + portOf(t, srv)); why != "" {
		t.Fatal(why)
	}
	c := g.Client()
	defer c.CloseIdleConnections()
	if err := post(t, c, "http://"+name+":"+portOf(t, srv)); !errors.Is(err, ErrBlocked) || hits.Load() != 0 {
		t.Errorf("%v, %d requests arrived; want none, and it blocked", err, hits.Load())
	}
}

// TestNothingLeadsElsewhere: neither redirects nor a proxy of the environment.
func TestNothingLeadsElsewhere(t *testing.T) {
	srv, hits := receiver(t)
	t.Setenv("HTTP_PROXY", srv.URL)
	t.Setenv("http_proxy", srv.URL)
	away := httptest.NewServer(http.RedirectHandler(srv.URL, http.StatusTemporaryRedirect))
	t.Cleanup(away.Close)
	c := Guard{AllowHTTP: true, AllowPrivate: true}.Client()
	defer c.CloseIdleConnections()
	if err := post(t, c, away.URL); err != nil {
		t.Fatal(err)
	}
	if c.Transport.(*http.Transport).Proxy != nil {
		t.Error("a proxy would be asked")
	}
	if hits.Load() != 0 {
		t.Errorf("%d requests were led on", hits.Load())
	}
}
