package server

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

func TestStreamIsByteExactAndUnbuffered(t *testing.T) {
	t.Parallel()
	l := newLab(t, nil)
	events := []string{": hello\n\n", "data: {\"model\":\"gpt-4o-mini\",\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\r\n\r\n", "event: x\ndata: \xff\xfe\n\n",
		"data: {\"choices\":[],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":3}}\n\n", "data: [DONE]\n\n"}
	next := make(chan struct{})
	l.script(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
		for _, e := range events {
			_, _ = io.WriteString(w, e)
			w.(http.Flusher).Flush()
			<-next // the next event only comes when this one has arrived
		}
	})
	req, _ := http.NewRequestWithContext(context.Background(), http.MethodPost, l.url+"/openai/chat/completions", strings.NewReader(`{"model":"gpt-4o-mini","stream":true}`))
	req.Header.Set("Authorization", "Bearer k-provider")
	res, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	for i, e := range events {
		got := make([]byte, len(e))
		if _, err := io.ReadFull(res.Body, got); err != nil || string(got) != e {
			t.Fatalf("event %d is %q, %v", i, got, err)
		}
		next <- struct{}{}
	}
	if rest, err := io.ReadAll(res.Body); err != nil || len(rest) > 0 {
		t.Errorf("after the end: %q, %v", rest, err)
	}
	row := l.logged(reply{header: res.Header})
	if !row.Streamed || row.TokensIn != 7 || row.TokensOut != 3 || row.CostNanoUSD == nil || *row.CostNanoUSD != 7*150+3*600 {
		t.Errorf("log %+v", row)
	}
}

func TestCallerWhoLeavesCancelsTheProvider(t *testing.T) {
	t.Parallel()
	l := newLab(t, nil)
	begun, gone := make(chan struct{}), make(chan struct{})
	l.script(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = io.WriteString(w, "data: 1\n\n")
		w.(http.Flusher).Flush()
		close(begun)
		<-r.Context().Done()
		close(gone)
	})
	ctx, cancel := context.WithCancel(context.Background())
	req, _ := http.NewRequestWithContext(ctx, http.MethodPost, l.url+"/openai/x", strings.NewReader(`{}`))
	req.Header.Set("Authorization", "Bearer k-provider")
	res, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(res.Body).ReadString('\n'); err != nil || line != "data: 1\n" {
		t.Fatalf("%q, %v", line, err)
	}
	<-begun
	cancel()
	res.Body.Close()
	select {
	case <-gone:
	case <-time.After(10 * time.Second):
		t.Fatal("the provider's request goes on")
	}
}

func TestAnswerThatBreaksOffIsSeenToBreakOff(t *testing.T) {
	t.Parallel()
	l := newLab(t, nil)
	l.script(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = io.WriteString(w, "data: 1\n\n")
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	})
	req, _ := http.NewRequestWithContext(context.Background(), http.MethodPost, l.url+"/openai/x", strings.NewReader(`{}`))
	req.Header.Set("Authorization", "Bearer k-provider")
	res, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if got, err := io.ReadAll(res.Body); string(got) != "data: 1\n\n" || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("%q, %v", got, err)
	}
	if row := l.logged(reply{header: res.Header}); row.Success {
		t.Error("logged as a success")
	}
}

func TestAnyMethodAndAnyBodyPass(t *testing.T) {
	t.Parallel()
	l := newLab(t, nil)
	l.script(func(w http.ResponseWriter, r *http.Request) {
		w.Header()["Content-Type"] = nil
		w.Header().Set("X-Method", r.Method)
		w.Header().Set("Cf-Aig-Step", "99")
		w.Header().Set("Connection", "X-Hop")
		w.Header().Set("X-Hop", "1")
		w.WriteHeader(http.StatusAccepted)
	})
	for _, method := range []string{"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"} {
		got := l.do(method, l.url+"/openai/v1/files/x", "", "Authorization", "Bearer k-provider")
		if got.status != 202 || got.header.Get("X-Method") != method || got.header.Get("Cf-Aig-Step") != "0" || got.header.Get("X-Hop") != "" {
			t.Errorf("%s: %d %v", method, got.status, got.header)
		}
	}
	blob := make([]byte, 3<<20)
	_, _ = rand.Read(blob)
	l.script(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(blob) })
	got := l.do(http.MethodPost, l.url+"/openai/v1/files", string(blob), "Authorization", "Bearer k-provider", "Content-Type", "multipart/form-data; boundary=x")
	if got.body != string(blob) || l.last().body != string(blob) || l.last().header.Get("Content-Type") != "multipart/form-data; boundary=x" {
		t.Error("the bodies were changed")
	}
}

func TestRedirectIsNotFollowed(t *testing.T) {
	t.Parallel()
	l := newLab(t, nil)
	l.script(func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/elsewhere", http.StatusFound) })
	got := l.post("/openai/x", `{}`)
	if got.status != 302 || got.header.Get("Location") != "/elsewhere" || len(l.requests()) != 1 {
		t.Errorf("%d %v after %d requests", got.status, got.header, len(l.requests()))
	}
}

func TestCompressedAnswerPassesUntouched(t *testing.T) {
	t.Parallel()
	l := newLab(t, nil)
	var z bytes.Buffer
	zw := gzip.NewWriter(&z)
	_, _ = io.WriteString(zw, chatAnswer)
	zw.Close()
	l.script(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Content-Encoding", "gzip")
		_, _ = w.Write(z.Bytes())
	})
	got := l.post("/openai/chat/completions", chatBody, "Accept-Encoding", "gzip, br")
	if got.body != z.String() || got.header.Get("Content-Encoding") != "gzip" {
		t.Errorf("%v", got.header)
	}
	if l.last().header.Get("Accept-Encoding") != "" {
		t.Errorf("asked for %q", l.last().header.Get("Accept-Encoding"))
	}
	if row := l.logged(got); row.TokensIn != 100 {
		t.Errorf("usage of the compressed answer: %+v", row)
	}
	l.do(http.MethodGet, l.url+"/openai/v1/files/f/content", "", "Authorization", "Bearer k-provider", "Accept-Encoding", "br")
	if l.last().header.Get("Accept-Encoding") != "br" {
		t.Errorf("a GET asked for %q", l.last().header.Get("Accept-Encoding"))
	}
}

func TestBodyOverTheLimitIsRefused(t *testing.T) {
	t.Parallel()
	l := newLab(t, nil, func(o *Options) { o.MaxBody = 1000 })
	if got := l.post("/openai/x", strings.Repeat("x", 1001)); got.status != 413 || len(l.requests()) != 0 {
		t.Errorf("%d, %d requests", got.status, len(l.requests()))
	}
	if got := l.post("/openai/x", strings.Repeat("x", 1000)); got.status != 200 {
		t.Errorf("%d %s", got.status, got.body)
	}
}

// FuzzRelay passes any pieces of a body on, as a stream or whole, and compares the bytes.
func FuzzRelay(f *testing.F) {
	f.Add([]byte("data: a\n\ndata: b\r\n\r\n"), 3, true)
	f.Add([]byte{0, 0xff, '\n'}, 1, false)
	f.Fuzz(func(t *testing.T, body []byte, piece int, stream bool) {
		w := httptest.NewRecorder()
		c := &passage{w: w, r: httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/", nil), s: &Server{}, view: &view{guard: &guard{}}}
		size, header := int64(len(body)), http.Header{"Content-Type": {"application/json"}}
		if stream {
			size, header = -1, http.Header{"Content-Type": {"text/event-stream"}}
		}
		a := &upstreamAnswer{Response: &http.Response{StatusCode: 200, Header: header, ContentLength: size, Body: io.NopCloser(&piecewise{body, max(piece, 1)})}}
		k := &capture{events: stream, speaks: "openai"}
		err := c.pass(a, k)
		if err != nil || !bytes.Equal(w.Body.Bytes(), body) || !bytes.Equal(k.body, body) || k.size != int64(len(body)) {
			t.Fatalf("%q came as %q, kept as %q, %v", body, w.Body.Bytes(), k.body, err)
		}
	})
}

// piecewise reads a body in pieces of one size.
type piecewise struct {
	body []byte
	size int
}

func (p *piecewise) Read(to []byte) (int, error) {
	if len(p.body) == 0 {
		return 0, io.EOF
	}
	n := copy(to, p.body[:min(p.size, len(p.body))])
	p.body = p.body[n:]
	return n, nil
}
