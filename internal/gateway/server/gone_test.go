package server

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"testing"
	"time"
)

// A caller that stops sending counts as gone. What it still gets must not look like an empty answer of the provider's.
func TestCallerThatLeftIsNotToldSuccess(t *testing.T) {
	t.Parallel()
	l := newLab(t, nil)
	asked := make(chan struct{})
	l.script(func(_ http.ResponseWriter, r *http.Request) {
		close(asked)
		<-r.Context().Done()
	})
	u, err := url.Parse(l.url)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("tcp", u.Host)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	fmt.Fprintf(conn, "POST %s/openai/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer k\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s",
		u.Path, len(chatBody), chatBody)
	<-asked
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != statusGone {
		t.Errorf("the answer is %d, want %d", res.StatusCode, statusGone)
	}
}
