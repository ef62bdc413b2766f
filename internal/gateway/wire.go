package gateway

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strings"
	"sync/atomic"
	"time"
)

const defaultAnswerBytes = 64 << 20

// Causes of a context's end that are ours, not the caller's.
var (
	errFirstByte = errors.New("gateway: no answer began in time")
	errTotal     = errors.New("gateway: the request's total deadline passed")
	errTooBig    = errors.New("gateway: the answer is over the size limit")
	errIdle      = errors.New("gateway: the answer stood still for too long")
)

// newTransport is tuned for many calls to few hosts: no limit on connections, because the caller bounds its calls in
// flight; idle connections kept for all of them; no compression, because answers are small and processors are not idle.
// A connection must stand within connect, TLS included twice that.
func newTransport(proxy func(*http.Request) (*url.URL, error), connect time.Duration) *http.Transport {
	return &http.Transport{
		Proxy:                  proxy,
		DialContext:            (&net.Dialer{Timeout: connect, KeepAlive: 30 * time.Second}).DialContext,
		ForceAttemptHTTP2:      true,
		MaxIdleConnsPerHost:    4096,
		IdleConnTimeout:        90 * time.Second,
		TLSHandshakeTimeout:    connect,
		DisableCompression:     true,
		MaxResponseHeaderBytes: 256 << 10,
		// A connection that died without a word would take every call to the host until TCP gives it up, after a quarter of an hour.
		HTTP2: &http.HTTP2Config{SendPingTimeout: 30 * time.Second, PingTimeout: 15 * time.Second},
	}
}

// exchange is one send over HTTP and what came of it.
type exchange struct {
	status int
	header http.Header
	body   []byte // as far as it came; of a streamed answer what its events add up to
	sent   bool   // bytes may have left
	gave   bool   // text of a streamed answer was given to the caller
	cut    bool   // a streamed answer ended without its end mark
	err    error  // of the transport or of reading; nil when the whole answer came
	// The provider promised an answer before, and this is what came of asking for it.
	promised bool
	resp     *Response // set by a built-in provider, which need not read its own answer
}

// call is what is sent, and within which bounds.
type call struct {
	rt        http.RoundTripper
	method    string
	url       *url.URL
	header    http.Header
	body      []byte        // nil for GET
	firstByte time.Duration // until the answer's head; 0 is no limit
	idle      time.Duration // between two pieces of the answer; 0 is no limit
	deadline  time.Time
	limit     int64                           // bytes of the answer
	stream    func(http.Header) *StreamReader // what reads a streamed answer; nil when none was asked for
}

// do sends and reads the whole answer. Redirects are answers like any other.
func (c *call) do(ctx context.Context) exchange {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	// Timers and one context are cheaper here than a context for each limit.
	first, why := within(c.firstByte, c.deadline)
	timer := time.AfterFunc(first, func() { cancel(why) })
	defer func() { timer.Stop() }()
	// From the moment that the transport has a connection, bytes may leave, even after it returned. A transport that is
	// not package http's may not tell; of such a one we watch when it reads the body. The plain reader is for speed:
	// of any other kind of body package http sends the headers in a packet of their own.
	var sent atomic.Bool
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { sent.Store(true) }})
	res, err := c.rt.RoundTrip(c.request(ctx, &sent))
	if err != nil {
		return exchange{sent: sent.Load(), err: cause(ctx, err)}
	}
	if timer.Stop() {
		still, _ := within(c.idle, c.deadline)
		timer = time.AfterFunc(still, func() {
			if time.Until(c.deadline) <= 0 {
				cancel(errTotal)
				return
			}
			cancel(errIdle)
		})
	}
	x := exchange{status: res.StatusCode, header: res.Header, sent: true}
	body := &watched{Reader: res.Body, timer: timer, idle: c.idle, deadline: c.deadline}
	if sr := c.reader(res); sr != nil {
		x.err = c.readStream(sr, body, &x)
	} else {
		x.body, x.err = readAll(body, res.ContentLength, c.limit)
	}
	res.Body.Close()
	if x.err != nil {
		x.err = cause(ctx, x.err)
	}
	return x
}

func (c *call) request(ctx context.Context, sent *atomic.Bool) *http.Request {
	req := new(http.Request).WithContext(ctx) // a copy, so it comes first
	req.Method, req.URL, req.Host, req.Header = c.method, c.url, c.url.Host, c.header
	req.Proto, req.ProtoMajor, req.ProtoMinor = "HTTP/1.1", 1, 1
	if c.body != nil {
		content := func() io.ReadCloser { return &sending{bytes.NewReader(c.body), sent} }
		if _, ok := c.rt.(*http.Transport); ok {
			content = func() io.ReadCloser { return io.NopCloser(bytes.NewReader(c.body)) }
		}
		req.ContentLength, req.Body = int64(len(c.body)), content()
		// The transport asks for the body again only when it knows that the server has not seen the request.
		req.GetBody = func() (io.ReadCloser, error) { return content(), nil }
	}
	return req
}

func (c *call) reader(res *http.Response) *StreamReader {
	if c.stream == nil || res.StatusCode/100 != 2 || !IsEventStream(res.Header) {
		return nil
	}
	return c.stream(res.Header)
}

// readStream reads a streamed answer and puts it together.
func (c *call) readStream(sr *StreamReader, body io.Reader, x *exchange) error {
	give := sr.onText
	sr.onText = func(piece string) {
		x.gave = true
		if give != nil {
			give(piece)
		}
	}
	n, err := io.Copy(sr, io.LimitReader(body, c.limit+1))
	if n > c.limit {
		err = errTooBig
	}
	complete := false
	x.body, complete = sr.a.answer()
	if err != nil && complete { // all of it came; what broke after the end mark is of no interest
		err = nil
	}
	x.cut = !complete || sr.e.ended
	return err
}

// watched moves its timer ahead whenever something comes.
type watched struct {
	io.Reader
	timer    *time.Timer
	idle     time.Duration
	deadline time.Time
}

func (w *watched) Read(p []byte) (int, error) {
	n, err := w.Reader.Read(p)
	if n > 0 && err == nil && w.idle > 0 {
		if w.timer.Stop() {
			w.timer.Reset(max(min(w.idle, time.Until(w.deadline)), 0))
		}
	}
	return n, err
}

// within returns the shorter of two limits, and what to say when it passes.
func within(firstByte time.Duration, deadline time.Time) (time.Duration, error) {
	if left := time.Until(deadline); firstByte <= 0 || left <= firstByte {
		return left, errTotal
	}
	return firstByte, errFirstByte
}

// sending is a request body that notes that the transport began to take it.
type sending struct {
	*bytes.Reader
	sent *atomic.Bool
}

func (s *sending) Read(p []byte) (int, error) {
	s.sent.Store(true)
	return s.Reader.Read(p)
}

// WriteTo implements io.WriterTo, which io.Copy prefers.
func (s *sending) WriteTo(w io.Writer) (int64, error) {
	s.sent.Store(true)
	return s.Reader.WriteTo(w)
}

// Close implements io.Closer.
func (s *sending) Close() error { return nil }

// cause prefers the reason why ctx ended to the transport's words for it.
func cause(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// readAll reads up to limit bytes and fails with errTooBig beyond. The announced size saves growing, but is trusted
// for no more than 1 MiB.
func readAll(r io.Reader, size, limit int64) ([]byte, error) {
	if size > limit {
		return nil, errTooBig
	}
	var start []byte
	if size > 0 && size <= 1<<20 { // the usual case: the one piece that was announced, and then the end
		start = make([]byte, size, size+1)
		n, err := io.ReadFull(r, start)
		if err != nil {
			return start[:n], err
		}
		n, err = r.Read(start[size : size+1])
		if errors.Is(err, io.EOF) {
			err = nil
		}
		if n == 0 {
			return start, err
		}
		start = start[:size+1] // only a transport that isn't package http's gives more than it announced
	}
	b := bytes.NewBuffer(start)
	b.Grow(int(min(max(size, 512), 1<<20)) + bytes.MinRead)
	_, err := b.ReadFrom(io.LimitReader(r, limit+1-int64(len(start))))
	if int64(b.Len()) > limit {
		return nil, errTooBig
	}
	return b.Bytes(), err
}

// failure turns a transport's failure into an *Error. It returns nil when the caller gave up, so that there is nobody
// to blame: x.err then is the cause to return.
func (x exchange) failure(ctx context.Context) *Error {
	var e *Error
	switch {
	case errors.Is(x.err, errFirstByte):
		e = ours(codeFirstByte, 0)
	case errors.Is(x.err, errIdle):
		e = ours(codeIdle, x.status)
	case errors.Is(x.err, errTotal):
		e = ours(codeDeadline, 0)
	case errors.Is(x.err, errTooBig):
		e = ours(codeAnswerTooBig, x.status)
	case ctx.Err() != nil:
		return nil
	default:
		e = ours(networkCode(x.err), x.status)
	}
	e.Err, e.Uncertain = x.err, x.sent
	return e
}

// networkCode names a connection's failure.
func networkCode(err error) string {
	if _, ok := errors.AsType[*net.DNSError](err); ok {
		return codeDNS
	}
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "dial" {
		return codeConnect
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return codeTLS
	}
	if _, ok := errors.AsType[x509.HostnameError](err); ok {
		return codeTLS
	}
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		return codeTLS
	}
	return codeLost
}

// join appends a step's endpoint to a base URL. An endpoint that repeats the version at the base's end, as
// "v1/chat/completions" does under ".../v1", loses it. It can't leave the base: neither the host nor, with "..",
// the path.
func join(base *url.URL, endpoint string) (*url.URL, *Error) {
	if base.RawPath == "" && base.RawQuery == "" && plainPath(base.Path) && plainPath(endpoint) {
		u := *base
		u.Path = strings.TrimRight(base.Path, "/")
		endpoint = strings.TrimLeft(endpoint, "/")
		if last := u.Path[strings.LastIndexByte(u.Path, '/')+1:]; isVersion(last) {
			if rest, ok := strings.CutPrefix(endpoint, last); ok && strings.HasPrefix(rest, "/") {
				endpoint = rest[1:]
			}
		}
		u.Path += "/" + endpoint
		return &u, nil
	}
	rel, err := url.Parse("/" + strings.TrimLeft(endpoint, "/"))
	if err != nil || rel.Host != "" || rel.Fragment != "" {
		return nil, invalid("invalid_endpoint", "a step's endpoint is not a path with an optional query")
	}
	for part := range strings.SplitSeq(rel.Path, "/") {
		if part == ".." || part == "." {
			return nil, invalid("invalid_endpoint", "a step's endpoint must not hold . or .. as a part of its path")
		}
	}
	tail := strings.TrimPrefix(rel.EscapedPath(), "/")
	basePath := strings.TrimRight(base.EscapedPath(), "/")
	if last := basePath[strings.LastIndexByte(basePath, '/')+1:]; isVersion(last) {
		if rest, ok := strings.CutPrefix(tail, last+"/"); ok {
			tail = rest
		}
	}
	u := *base
	full := basePath + "/" + tail
	if u.Path, err = url.PathUnescape(full); err != nil {
		return nil, invalid("invalid_endpoint", "a step's endpoint is not a path with an optional query")
	}
	u.RawPath = full
	switch {
	case base.RawQuery == "":
		u.RawQuery = rel.RawQuery
	case rel.RawQuery != "":
		u.RawQuery = base.RawQuery + "&" + rel.RawQuery
	}
	return &u, nil
}

// plainPath reports whether a path has nothing that needs escaping, and no part of dots: the usual case, which is joined
// without being parsed.
func plainPath(s string) bool {
	for i, c := range []byte(s) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '/', c == '-', c == '_', c == ':':
		case c == '.' && i > 0 && s[i-1] != '/' && s[i-1] != '.':
		default:
			return false
		}
	}
	return true
}

// isVersion matches v1, v2, v1beta and the like.
func isVersion(s string) bool { return len(s) >= 2 && s[0] == 'v' && s[1] >= '0' && s[1] <= '9' }

// parseBase reads a base URL. The error doesn't repeat it, since it may hold a password.
func parseBase(s string) (*url.URL, error) {
	u, err := url.Parse(strings.TrimSpace(s))
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || u.Fragment != "" || u.User != nil {
		return nil, errors.New("the base URL must look like https://host/path, without a user or password")
	}
	return u, nil
}

// dropped are the step headers that don't go upstream: the transport's own, and those that would make the answer
// unreadable here. Everything for a gateway (cf-aig-...) is dropped as well.
var dropped = map[string]bool{
	"Host": true, "Content-Length": true, "Expect": true, "Accept-Encoding": true, "Cf-Skip-Cache": true, "Cf-Cache-Ttl": true,
}

// stays reports whether a step's header, named in canonical form, doesn't go upstream.
func stays(name string) bool {
	return dropped[name] || HopByHop(name) || strings.HasPrefix(name, "Cf-Aig-")
}

// forwarded copies a step's headers into h.
func forwarded(h http.Header, step map[string]string) {
	for name, value := range step {
		name = http.CanonicalHeaderKey(name)
		if !stays(name) {
			h[name] = []string{value}
		}
	}
}
