//go:build clients

package clients

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// asked is a request as a provider got it, and what it answered.
type asked struct {
	slug, method, path string // path below the slug, with its query
	header             http.Header
	body               []byte

	status  int
	answer  []byte
	dropped bool // the gateway went away before the answer was there
}

// stand is the stand-in for all providers. What a model does, its name says: flaky-500 fails once, busy-500 and fail-400
// always, silent never answers, cut breaks the connection off, breaks reports an error in the middle of a stream, and json
// answers with an object. All others repeat what they were told, after calling the first tool they are given.
type stand struct {
	*httptest.Server
	mu     sync.Mutex
	asked  []*asked
	counts map[string]int
	gates  map[string]chan struct{}
}

func newStand(t *testing.T) *stand {
	t.Helper()
	s := &stand{counts: map[string]int{}, gates: map[string]chan struct{}{}}
	s.Server = httptest.NewServer(s)
	t.Cleanup(s.Close)
	return s
}

// of returns the requests of a case.
func (s *stand) of(name string) []*asked {
	s.mu.Lock()
	defer s.mu.Unlock()
	var found []*asked
	for _, a := range s.asked {
		if a.header.Get("X-Case") == name {
			found = append(found, a)
		}
	}
	return found
}

// gate is closed when the client of a case says that it has seen the beginning of a stream.
func (s *stand) gate(name string) chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gates[name] == nil {
		s.gates[name] = make(chan struct{})
	}
	return s.gates[name]
}

// writer keeps what is written.
type writer struct {
	http.ResponseWriter
	a *asked
}

func (w *writer) WriteHeader(status int) {
	w.a.status = status
	w.ResponseWriter.WriteHeader(status)
}

func (w *writer) Write(p []byte) (int, error) {
	if w.a.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	w.a.answer = append(w.a.answer, p...)
	return w.ResponseWriter.Write(p)
}

func (w *writer) flush() { w.ResponseWriter.(http.Flusher).Flush() }

func (w *writer) json(v any) {
	w.Header().Set("Content-Type", "application/json")
	raw, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	_, _ = w.Write(raw)
}

func (s *stand) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name := r.Header.Get("X-Case")
	if r.URL.Path == "/release" {
		close(s.gate(name))
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	slug, path, _ := strings.Cut(strings.TrimPrefix(r.URL.RequestURI(), "/"), "/")
	a := &asked{slug: slug, method: r.Method, path: "/" + path, header: r.Header.Clone(), body: body}
	q := question{body: body}
	_ = json.Unmarshal(body, &q) // a file isn't JSON
	if _, after, ok := strings.Cut(path, "models/"); ok {
		q.Model, _, _ = strings.Cut(after, ":")
	}
	s.mu.Lock()
	s.asked = append(s.asked, a)
	s.counts[name+" "+slug+" "+q.Model]++
	first := s.counts[name+" "+slug+" "+q.Model] == 1
	s.mu.Unlock()

	out := &writer{w, a}
	out.Header().Set("X-Request-Id", "req_stand_in")
	out.Header().Set("Request-Id", "req_stand_in")
	kind, code, _ := strings.Cut(q.Model, "-")
	status, _ := strconv.Atoi(code)
	switch {
	case kind == "silent":
		s.wait(r, a, nil)
	case kind == "flaky" && first:
		out.Header().Set("Retry-After", "1")
		fail(out, slug, status)
	case kind == "busy":
		out.Header().Set("Retry-After-Ms", "20")
		fail(out, slug, status)
	case kind == "fail":
		fail(out, slug, status)
	default:
		s.answer(out, r, a, &q)
	}
}

// wait blocks until the gate opens, and reports false when the caller went away before.
func (s *stand) wait(r *http.Request, a *asked, gate chan struct{}) bool {
	late := time.NewTimer(15 * time.Second)
	defer late.Stop()
	select {
	case <-gate:
		return true
	case <-r.Context().Done():
		s.mu.Lock()
		a.dropped = true
		s.mu.Unlock()
	case <-late.C:
	}
	return false
}

// fail answers in the words of the provider.
func fail(w *writer, slug string, status int) {
	w.Header().Set("Content-Type", "application/json")
	kinds := map[int][2]string{ // OpenAI's code, Anthropic's type
		400: {"context_length_exceeded", "invalid_request_error"}, 401: {"invalid_api_key", "authentication_error"},
		429: {"rate_limit_exceeded", "rate_limit_error"}, 500: {"server_error", "api_error"}, 529: {"overloaded", "overloaded_error"},
	}
	w.WriteHeader(status)
	if slug == "anthropic" {
		fmt.Fprintf(w, `{"type":"error","error":{"type":%q,"message":"no <&> \u00e9"},"request_id":"req_stand_in"}`, kinds[status][1])
		return
	}
	fmt.Fprintf(w, "{\n  \"error\": {\"message\": \"no <&> \\u00e9\", \"type\": \"invalid_request_error\", \"param\": \"messages\", \"code\": %q}\n}\n", kinds[status][0])
}

func (s *stand) answer(w *writer, r *http.Request, a *asked, q *question) {
	path := r.URL.Path
	switch {
	case strings.HasSuffix(path, "/chat/completions"):
		s.chat(w, r, a, q)
	case strings.HasSuffix(path, "/responses"):
		responses(w, q)
	case strings.HasSuffix(path, "/messages/count_tokens"):
		w.json(map[string]int{"input_tokens": 13})
	case strings.HasSuffix(path, "/messages"):
		messages(w, q)
	case strings.HasSuffix(path, ":generateContent"):
		w.json(gemini(q.text(), "STOP"))
	case strings.HasSuffix(path, ":streamGenerateContent"):
		w.Header().Set("Content-Type", "text/event-stream")
		for _, piece := range pieces(q.text()) {
			w.event("", gemini(piece, ""))
		}
		w.event("", gemini("", "STOP"))
	case strings.HasSuffix(path, "/embeddings"):
		const vector = "AAAAPwAAgL8=" // 0.5 and -1 as float32, little end first
		w.json(map[string]any{"object": "list", "model": q.Model, "usage": map[string]int{"prompt_tokens": 11, "total_tokens": 11},
			"data": []any{embedding(q, 0, vector), embedding(q, 1, vector)}})
	case strings.HasSuffix(path, "/models"):
		id := "gpt-4o-mini"
		if a.slug == "anthropic" {
			id = "claude-sonnet-5-5"
		}
		w.json(map[string]any{"object": "list", "has_more": false, "data": []any{map[string]any{"id": id, "object": "model", "type": "model"}}})
	case strings.HasSuffix(path, "/files") && r.Method == http.MethodPost:
		files(w, r, a)
	case strings.HasSuffix(path, "/files/file-1/content"):
		w.Header().Set("Content-Type", "application/octet-stream")
		_, _ = w.Write([]byte("\x00\xff\n{}\n\x80"))
	case strings.HasSuffix(path, "/files/file-1") && r.Method == http.MethodDelete:
		w.json(map[string]any{"id": "file-1", "object": "file", "deleted": true})
	default:
		w.WriteHeader(http.StatusNotFound)
	}
}

func files(w *writer, r *http.Request, a *asked) {
	r.Body = io.NopCloser(bytes.NewReader(a.body))
	f, _, err := r.FormFile("file")
	if err != nil || r.FormValue("purpose") != "batch" {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	raw, _ := io.ReadAll(f)
	w.json(map[string]any{"id": "file-1", "object": "file", "bytes": len(raw), "filename": "in.jsonl", "purpose": "batch", "created_at": 1, "status": "processed"})
}

// embedding answers in base64 where it is asked to, as the SDK for Node does behind its caller's back.
func embedding(q *question, index int, vector string) any {
	e := map[string]any{"object": "embedding", "index": index, "embedding": []float64{0.5, -1}}
	if q.EncodingFormat == "base64" {
		e["embedding"] = vector
	}
	return e
}

// event writes one event, in two pieces that are cut within a character or a word: whoever reads lines must not mind.
func (w *writer) event(name string, v any) {
	raw, ok := v.(string)
	if !ok {
		b, err := json.Marshal(v)
		if err != nil {
			panic(err)
		}
		raw = string(b)
	}
	raw = "data: " + raw + "\n\n"
	if name != "" {
		raw = "event: " + name + "\n" + raw
	}
	cut := len(raw) * 2 / 3
	_, _ = io.WriteString(w, raw[:cut])
	w.flush()
	_, _ = io.WriteString(w, raw[cut:])
	w.flush()
}

// pieces cuts a text as a stream does.
func pieces(text string) (out []string) {
	runes := []rune(text)
	for len(runes) > 0 {
		n := min(4, len(runes))
		out, runes = append(out, string(runes[:n])), runes[n:]
	}
	return out
}
