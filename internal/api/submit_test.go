package api_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"mime/multipart"
	"net"
	"net/http"
	"net/http/httptest"
	"net/textproto"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"batchwright/internal/api"
	"batchwright/internal/jobs"
	"batchwright/internal/store"
)

// TestThreeFormsSayTheSame sends one batch as JSON, as NDJSON and as multipart.
func TestThreeFormsSayTheSame(t *testing.T) {
	t.Parallel()
	const (
		route  = `{"steps":[{"provider":"openai","model":"gpt-5.2","timeout_ms":1000}],  "accept":"primary"}`
		params = `{"length":"short", "big":12345678901234567890.5,"html":"<b>"}`
		labels = `{"team":"a","nothing":""}`
		job1   = `{"custom_id":"1","variables":{"a":  1}}`
		job2   = `{"custom_id":"2","variables":{"a":"<é>"}}`
	)
	options := `{"kind":"generate","name":"n","template":"t@3","route":` + route + `,"params":` + params + `,"on_invalid":"skip","cache":"refresh","on_forecast_over":"pause","metadata":` + labels
	q := url.Values{
		"kind": {"generate"}, "name": {"n"}, "template": {"t@3"}, "route": {route}, "params": {params}, "on_invalid": {"skip"}, "cache": {"refresh"},
		"on_forecast_over": {"pause"}, "metadata": {labels},
	}
	var form bytes.Buffer
	mw := multipart.NewWriter(&form)
	writePart(t, mw, `form-data; name="batch"`, "application/json", options+"}")
	writePart(t, mw, `form-data; name="jobs"`, "", job1+"\n"+job2)
	if err := mw.Close(); err != nil {
		t.Fatal(err)
	}
	want := jobs.Spec{
		Kind: "generate", Name: "n", Template: "t@3", Route: json.RawMessage(route), Params: json.RawMessage(params),
		OnInvalid: "skip", Cache: "refresh", OnForecastOver: "pause", Metadata: map[string]string{"team": "a", "nothing": ""}, IdempotencyKey: "k-1",
	}
	for name, c := range map[string]call{
		"json":      {header: jsonType, body: options + `,"jobs":[` + job1 + ` , ` + job2 + `]}`},
		"ndjson":    {path: "/v1/batches?" + q.Encode(), header: ndjsonType, body: job1 + "\r\n" + job2},
		"multipart": {header: map[string]string{"Content-Type": mw.FormDataContentType()}, body: form.String()},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := newAPI(t, &fake{})
			c.method = "POST"
			c.header = map[string]string{"Content-Type": c.header["Content-Type"], "Idempotency-Key": "k-1"}
			w := a.do(t, c)
			b := into[api.Batch](t, w, 202)
			if loc := w.Header().Get("Location"); loc != "/v1/batches/"+b.ID.String() || w.Header().Get("Idempotency-Replayed") != "false" {
				t.Errorf("headers %v", w.Header())
			}
			if diff := cmp.Diff(want, a.spec); diff != "" {
				t.Errorf("spec (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff([]string{job1, job2}, []string{a.lines[0].Raw, a.lines[1].Raw}); diff != "" || len(a.lines) != 2 {
				t.Errorf("lines (-want +got):\n%s", diff)
			}
		})
	}
}

func writePart(t *testing.T, mw *multipart.Writer, disposition, contentType, body string) {
	t.Helper()
	h := textproto.MIMEHeader{"Content-Disposition": {disposition}}
	if contentType != "" {
		h.Set("Content-Type", contentType)
	}
	w, err := mw.CreatePart(h)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(w, body); err != nil {
		t.Fatal(err)
	}
}

func TestDefaultsAndReplay(t *testing.T) {
	t.Parallel()
	a := newAPI(t, &fake{replayed: true})
	w := a.do(t, call{method: "POST", header: map[string]string{"Content-Type": "Application/JSON; charset=utf-8"}, body: "{" + chat + `,"jobs":[{}]}`})
	into[api.Batch](t, w, 202)
	if w.Header().Get("Idempotency-Replayed") != "true" {
		t.Error("not marked as replayed")
	}
	want := jobs.Spec{Kind: "chat", Route: json.RawMessage(`"simulator:m"`), OnInvalid: "refuse", Cache: "use", OnForecastOver: "run"}
	if diff := cmp.Diff(want, a.spec); diff != "" {
		t.Error(diff)
	}
}

func TestShorthandRouteInTheQueryIsAString(t *testing.T) {
	t.Parallel()
	a := newAPI(t, &fake{})
	into[api.Batch](t, a.do(t, call{method: "POST", path: "/v1/batches?kind=chat&route=openai:gpt-5.2,local/extractive", header: ndjsonType, body: "{}"}), 202)
	if got := string(a.spec.Route); got != `"openai:gpt-5.2,local/extractive"` {
		t.Errorf("route %s", got)
	}
}

func TestDocumentsAndLinesAreCountedTogether(t *testing.T) {
	t.Parallel()
	var form bytes.Buffer
	mw := multipart.NewWriter(&form)
	writePart(t, mw, `form-data; name="batch"`, "", `{"kind":"summarize","route":"local/extractive","on_invalid":"skip"}`)
	writePart(t, mw, `form-data; name="documents"; filename="dir/a.md"`, "text/markdown", "# A")
	writePart(t, mw, `form-data; name="documents"; filename*=UTF-8''%C3%A9.txt`, "text/plain", strings.Repeat("x", 50))
	writePart(t, mw, `form-data; name="documents"; filename="big"`, "", strings.Repeat("x", 101))
	writePart(t, mw, `form-data; name="jobs"`, "", "{}\n\n{}\n")
	writePart(t, mw, `form-data; name="documents"; filename="z.html"`, "text/html", "")
	if err := mw.Close(); err != nil {
		t.Fatal(err)
	}
	a := newAPI(t, &fake{}, func(s *api.Server) { s.MaxLine = 100 })
	into[api.Batch](t, a.do(t, call{method: "POST", header: map[string]string{"Content-Type": mw.FormDataContentType()}, body: form.String()}), 202)
	want := []line{
		{Number: 1, Name: "a.md", Type: "text/markdown", Data: "# A"},
		{Number: 2, Name: "é.txt", Type: "text/plain", Data: strings.Repeat("x", 50)},
		{Number: 3, Err: "is longer than 100 bytes"},
		{Number: 4, Raw: "{}"},
		{Number: 6, Raw: "{}"},
		{Number: 7, Name: "z.html", Type: "text/html"},
	}
	if diff := cmp.Diff(want, a.lines); diff != "" {
		t.Error(diff)
	}
}

func TestGzipBodies(t *testing.T) {
	t.Parallel()
	pack := func(s string) string {
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		_, _ = io.WriteString(z, s)
		_ = z.Close()
		return b.String()
	}
	a := newAPI(t, &fake{}, func(s *api.Server) { s.MaxBody = 1 << 20 })
	send := func(contentType, path, body string) *httptest.ResponseRecorder {
		return a.do(t, call{method: "POST", path: path, header: map[string]string{"Content-Type": contentType, "Content-Encoding": "gzip"}, body: body})
	}
	into[api.Batch](t, send("application/json", "/v1/batches", pack("{"+chat+`,"jobs":[{},{}]}`)), 202)
	const stream = "/v1/batches?kind=chat&route=r"
	into[api.Batch](t, send("application/x-ndjson", stream, pack(strings.Repeat("{}\n", 1000))), 202)
	if len(a.lines) != 1000 {
		t.Errorf("%d lines", len(a.lines))
	}
	bomb := pack(strings.Repeat(" \n", 1<<20))
	if len(bomb) > 1<<15 {
		t.Fatalf("the bomb weighs %d bytes", len(bomb))
	}
	if p := into[api.Problem](t, send("application/x-ndjson", stream, bomb), 413); !strings.Contains(p.Detail, "1048576 bytes") {
		t.Error(p.Detail)
	}
	into[api.Problem](t, send("application/json", "/v1/batches", bomb), 413)
	whole := pack(strings.Repeat("{}\n", 1000))
	if p := into[api.Problem](t, send("application/x-ndjson", stream, whole[:len(whole)-10]), 400); !strings.Contains(p.Detail, "broke off") {
		t.Error(p.Detail)
	}
}

// TestStreamIsReadAsItArrives fails if anything on the way buffers the body.
func TestStreamIsReadAsItArrives(t *testing.T) {
	t.Parallel()
	seen := make(chan line)
	a := newAPI(t, &fake{onLine: func(l line) { seen <- l }})
	srv := httptest.NewServer(a.handler)
	t.Cleanup(srv.Close)
	pr, pw := io.Pipe()
	done := make(chan int, 1)
	go func() {
		resp, err := post(t.Context(), srv, "application/x-ndjson", pr)
		if err != nil {
			t.Error(err)
			done <- 0
			return
		}
		_ = resp.Body.Close()
		done <- resp.StatusCode
	}()
	for n := range 3 {
		_, _ = fmt.Fprintf(pw, "{\"custom_id\":\"%d\"}\n", n)
		if l := <-seen; l.Raw != fmt.Sprintf(`{"custom_id":"%d"}`, n) {
			t.Errorf("line %+v", l)
		}
	}
	_ = pw.Close()
	if code := <-done; code != http.StatusAccepted {
		t.Errorf("status %d", code)
	}
}

func post(ctx context.Context, srv *httptest.Server, contentType string, body io.Reader) (*http.Response, error) {
	r, err := http.NewRequestWithContext(ctx, "POST", srv.URL+"/v1/batches?kind=chat&route=r", body)
	if err != nil {
		return nil, err
	}
	r.Header.Set("Authorization", "Bearer "+key)
	r.Header.Set("Content-Type", contentType)
	return srv.Client().Do(r)
}

// TestSilentSenderIsLetGo: a body that stops coming must not hold the submission open, nor a connection.
func TestSilentSenderIsLetGo(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct{ key, body, want string }{
		"while it is read":  {key, "{}\n", "HTTP/1.1 408 "},
		"before it is read": {"bw_unknown", "", "HTTP/1.1 401 "},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				client := dial(t, newAPI(t, &fake{}).handler)
				_, _ = io.WriteString(client, "POST /v1/batches?kind=chat&route=r HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer "+tc.key+
					"\r\nContent-Type: application/x-ndjson\r\nContent-Length: 1000\r\n\r\n"+tc.body)
				if got := answer(client); !strings.HasPrefix(got, tc.want) {
					t.Error(got)
				}
			})
		})
	}
}

// TestDeadlinesEndWithTheirTransfer: neither a commit nor a connection that takes its time meets the deadlines of the
// bytes before.
func TestDeadlinesEndWithTheirTransfer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := someBatch()
		var late error
		a := newAPI(t, &fake{batches: []store.Batch{b}, results: results(result(1, "succeeded", "text", nil))}, func(s *api.Server) {
			s.Jobs = slow{done: func(ctx context.Context) { late = ctx.Err() }}
		})
		client := dial(t, a.handler)
		const auth = " HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + key + "\r\n"
		for _, request := range []string{
			"POST /v1/batches?kind=chat&route=r" + auth + "Content-Type: application/x-ndjson\r\nContent-Length: 3\r\n\r\n{}\n",
			"GET /v1/batches/" + b.ID.String() + "/results" + auth + "\r\n",
			"GET /healthz" + auth + "\r\n",
		} {
			_, _ = io.WriteString(client, request)
			if got := answer(client); !strings.HasPrefix(got, "HTTP/1.1 20") || late != nil {
				t.Errorf("%v: %.40s: %s", late, request, got)
			}
			<-time.After(time.Hour)
		}
	})
}

// slow commits for an hour.
type slow struct {
	idle
	done func(context.Context)
}

func (s slow) Submit(ctx context.Context, p store.Project, spec jobs.Spec, in iter.Seq2[jobs.Line, error]) (store.Batch, bool, error) {
	b, replayed, err := s.idle.Submit(ctx, p, spec, in)
	<-time.After(time.Hour)
	s.done(ctx)
	return b, replayed, err
}

// dial connects to a server of its own, inside the bubble.
func dial(t *testing.T, h http.Handler) net.Conn {
	t.Helper()
	client, server := net.Pipe()
	srv := &http.Server{Handler: h}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(&oneConn{conn: server, done: make(chan struct{})}) }()
	t.Cleanup(func() {
		_ = client.Close()
		_ = srv.Close()
		if err := <-served; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
	return client
}

// answer reads one answer: its bytes up to a pause.
func answer(client net.Conn) string {
	defer func() { _ = client.SetReadDeadline(time.Time{}) }()
	var got strings.Builder
	buf := make([]byte, 4096)
	for {
		n, err := client.Read(buf)
		got.Write(buf[:n])
		if err != nil {
			return got.String()
		}
		_ = client.SetReadDeadline(time.Now().Add(time.Second))
	}
}

// oneConn is a listener with one connection.
type oneConn struct {
	conn net.Conn
	done chan struct{}
}

func (l *oneConn) Accept() (net.Conn, error) {
	if c := l.conn; c != nil {
		l.conn = nil
		return c, nil
	}
	<-l.done
	return nil, net.ErrClosed
}

func (l *oneConn) Close() error {
	close(l.done)
	return nil
}

func (l *oneConn) Addr() net.Addr { return &net.TCPAddr{} }

// TestLostSenderIsHeardOf: the domain hears of the break, and runs nothing.
func TestLostSenderIsHeardOf(t *testing.T) {
	t.Parallel()
	a := newAPI(t, &fake{})
	body := io.MultiReader(strings.NewReader("{}\n{\"half"), errReader{})
	r := httptest.NewRequestWithContext(t.Context(), "POST", "/v1/batches?kind=chat&route=r", body)
	r.Header.Set("Authorization", "Bearer "+key)
	r.Header.Set("Content-Type", "application/x-ndjson")
	w := httptest.NewRecorder()
	a.handler.ServeHTTP(w, r)
	if p := into[api.Problem](t, w, 400); !strings.Contains(p.Detail, "none of its jobs will run") || a.lines != nil {
		t.Errorf("%+v", p)
	}
}

type errReader struct{}

func (errReader) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

// BenchmarkIngest is a whole NDJSON submission through the handler, with a domain that does nothing.
func BenchmarkIngest(b *testing.B) {
	a := newAPI(b, &fake{})
	text := []byte(`{"custom_id":"` + strings.Repeat("x", 483) + "\"}\n")
	body := bytes.Repeat(text, 20_000)
	h := (&api.Server{Jobs: idle{}, Read: a.fake}).Handler()
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		r := httptest.NewRequestWithContext(b.Context(), "POST", "/v1/batches?kind=chat&route=r", bytes.NewReader(body))
		r.Header.Set("Authorization", "Bearer "+key)
		r.Header.Set("Content-Type", "application/x-ndjson")
		w := httptest.NewRecorder()
		if h.ServeHTTP(w, r); w.Code != http.StatusAccepted {
			b.Fatal(w.Body)
		}
	}
}
