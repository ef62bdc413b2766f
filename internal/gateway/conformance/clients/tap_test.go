//go:build clients

package clients

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"
)

// exchange is a request as a client sent it, and the answer as it came back. The status is 0 when none came.
type exchange struct {
	method, path string
	header       http.Header
	body         []byte

	status   int
	answer   http.Header
	received []byte
	whole    bool
}

// tap is a listener that passes bytes on to a gateway, and back, and reads along. It changes nothing, so the client and the server
// have each other's very bytes.
type tap struct {
	target string
	l      net.Listener
	conns  sync.WaitGroup

	mu        sync.Mutex
	exchanges []*exchange
}

func newTap(t *testing.T, target string) *tap {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &tap{target: target, l: l}
	var accepting sync.WaitGroup
	accepting.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			p.conns.Go(func() { p.serve(conn) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		accepting.Wait()
		p.conns.Wait()
	})
	return p
}

func (p *tap) origin() string { return "http://" + p.l.Addr().String() }

// settled waits until the client's connections are closed and returns what went over them, by case.
func (p *tap) settled(ctx context.Context, t *testing.T) map[string][]*exchange {
	t.Helper()
	done := make(chan struct{})
	go func() {
		p.conns.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-ctx.Done():
		t.Fatal("the client's connections are still open after it ended")
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	all := map[string][]*exchange{}
	for _, e := range p.exchanges {
		name := e.header.Get("X-Case")
		all[name] = append(all[name], e)
	}
	return all
}

func (p *tap) serve(client net.Conn) {
	defer client.Close()
	d := net.Dialer{Timeout: 5 * time.Second}
	server, err := d.DialContext(context.Background(), "tcp", p.target)
	if err != nil {
		return
	}
	defer server.Close()
	asked := make(chan *exchange, 1024) // more than one connection ever carries here: no side waits for the other's reader
	var readers sync.WaitGroup
	there, back := tee(&readers, func(r *bufio.Reader) { p.readRequests(r, asked) }), tee(&readers, func(r *bufio.Reader) { p.readAnswers(r, asked) })
	var up sync.WaitGroup
	up.Go(func() {
		_, _ = io.Copy(io.MultiWriter(server, there), client) // it ends when either side hangs up
		there.Close()
		_ = server.(*net.TCPConn).CloseWrite()
	})
	_, _ = io.Copy(io.MultiWriter(client, back), server)
	back.Close()
	client.Close()
	up.Wait()
	readers.Wait()
}

// tee starts a reader of what is written. A reader that gives up doesn't stop the writer.
func tee(wg *sync.WaitGroup, read func(*bufio.Reader)) *io.PipeWriter {
	r, w := io.Pipe()
	wg.Go(func() {
		b := bufio.NewReader(r)
		read(b)
		_, _ = io.Copy(io.Discard, b)
	})
	return w
}

func (p *tap) readRequests(r *bufio.Reader, asked chan<- *exchange) {
	defer close(asked)
	for {
		req, err := http.ReadRequest(r)
		if err != nil {
			return
		}
		body, err := io.ReadAll(req.Body)
		if err != nil {
			return
		}
		e := &exchange{method: req.Method, path: req.URL.RequestURI(), header: req.Header, body: body}
		p.mu.Lock()
		p.exchanges = append(p.exchanges, e)
		p.mu.Unlock()
		asked <- e
	}
}

func (p *tap) readAnswers(r *bufio.Reader, asked <-chan *exchange) {
	for e := range asked {
		res, err := http.ReadResponse(r, &http.Request{Method: e.method})
		if err != nil {
			return
		}
		body, err := io.ReadAll(res.Body)
		p.mu.Lock()
		e.status, e.answer, e.received, e.whole = res.StatusCode, res.Header, body, err == nil
		p.mu.Unlock()
	}
}
