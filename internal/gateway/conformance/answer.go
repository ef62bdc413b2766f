package conformance

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Prompt and Echo are texts that must never be in an error or a log: what was asked, and what providers say in errors.
const (
	Prompt = "PROMPT-that-is-secret"
	Echo   = "ECHO-of-the-provider"
)

// Answer is what a Backend does with one request.
type Answer struct {
	unread bool // the request's body is left unread
	play   func(b *Backend, w http.ResponseWriter, r *http.Request)
}

// Body answers with a status and JSON.
func Body(status int, body string) Answer {
	return Answer{play: func(_ *Backend, w http.ResponseWriter, _ *http.Request) {
		if w.Header().Get("Content-Type") == "" {
			w.Header().Set("Content-Type", "application/json")
		}
		w.WriteHeader(status)
		_, _ = w.Write([]byte(body))
	}}
}

// Text answers in the OpenAI chat form: 10 tokens in, 2 out.
func Text(s string) Answer { return Body(http.StatusOK, Chat(s, "stop")) }

// Chat is the body of an OpenAI chat completion.
func Chat(s, finish string) string {
	quoted, _ := json.Marshal(s)
	return `{"id":"c-1","model":"m-1","choices":[{"index":0,"message":{"role":"assistant","content":` + string(quoted) +
		`},"finish_reason":"` + finish + `"}],"usage":{"prompt_tokens":10,"completion_tokens":2,"total_tokens":12}}`
}

// Fail answers with an OpenAI error, whose message echoes what must not be told. The code may be empty.
func Fail(status int, code string) Answer { return Body(status, Failure(code)) }

// Failure is the body of an OpenAI error.
func Failure(code string) string {
	quoted, _ := json.Marshal(code)
	return `{"error":{"message":"` + Echo + ` ` + Prompt + `","type":"","param":null,"code":` + string(quoted) + `}}`
}

// With adds headers, given as name and value in turn.
func (a Answer) With(pairs ...string) Answer {
	return a.before(func(_ *Backend, w http.ResponseWriter, _ *http.Request) bool {
		for i := 0; i+1 < len(pairs); i += 2 {
			w.Header().Set(pairs[i], pairs[i+1])
		}
		return true
	})
}

// After waits before the first byte of the answer.
func (a Answer) After(d time.Duration) Answer {
	return a.before(func(b *Backend, _ http.ResponseWriter, r *http.Request) bool { return b.pause(r, d) })
}

// Hinted sends an informational answer (103) before the answer.
func (a Answer) Hinted() Answer {
	return a.before(func(_ *Backend, w http.ResponseWriter, _ *http.Request) bool {
		w.Header().Set("Link", "</style.css>; rel=preload")
		w.WriteHeader(http.StatusEarlyHints)
		w.Header().Del("Link")
		return true
	})
}

// before puts something in front of an answer, which is not played when it reports false.
func (a Answer) before(do func(b *Backend, w http.ResponseWriter, r *http.Request) bool) Answer {
	play := a.play
	a.play = func(b *Backend, w http.ResponseWriter, r *http.Request) {
		if do(b, w, r) {
			play(b, w, r)
		}
	}
	return a
}

// Hang never answers.
func Hang() Answer {
	return Answer{play: func(b *Backend, _ http.ResponseWriter, r *http.Request) {
		b.pause(r, 0)
		panic(http.ErrAbortHandler)
	}}
}

// Stall sends the head of a good answer and a part of its body, and then nothing more.
func Stall() Answer {
	return Answer{play: func(b *Backend, w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		flush(w, `{"choices":[`)
		b.pause(r, 0)
		panic(http.ErrAbortHandler)
	}}
}

// Cut breaks the connection in the middle of a body that was announced longer.
func Cut() Answer {
	return Answer{play: func(_ *Backend, w http.ResponseWriter, _ *http.Request) {
		body := Chat("fine", "stop")
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
		flush(w, body[:len(body)/2])
		panic(http.ErrAbortHandler)
	}}
}

// Reset breaks the connection without an answer, after the request was read.
func Reset() Answer { return Answer{play: reset} }

// ResetUnread breaks the connection without an answer, before the request's body was read.
func ResetUnread() Answer { return Answer{unread: true, play: reset} }

func reset(_ *Backend, w http.ResponseWriter, _ *http.Request) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(err)
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // a reset and not an orderly end
	}
	_ = conn.Close()
}

// Raw answers with bytes as they are, which need not be HTTP.
func Raw(s string) Answer {
	return Answer{play: func(_ *Backend, w http.ResponseWriter, _ *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			panic(err)
		}
		_, _ = conn.Write([]byte(s))
		_ = conn.Close()
	}}
}

// Endless sends a good answer's beginning and then filling, without end and without a length.
func Endless() Answer {
	return Answer{play: func(b *Backend, w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		flush(w, `{"model":"`)
		filling := bytes.Repeat([]byte("x"), 64<<10)
		for {
			select {
			case <-r.Context().Done():
				return
			case <-b.closing:
				return
			default:
				_, _ = w.Write(filling) // a failure ends the context
			}
		}
	}}
}

// Large answers with a good answer whose text has n bytes, and a length.
func Large(n int) Answer {
	return Answer{play: func(b *Backend, w http.ResponseWriter, r *http.Request) {
		head, tail, _ := strings.Cut(Chat("#", "stop"), "#")
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Content-Length", strconv.Itoa(len(head)+n+len(tail)))
		_, _ = w.Write([]byte(head))
		filling := bytes.Repeat([]byte("x"), 64<<10)
		for left := n; left > 0; left -= len(filling) {
			if _, err := w.Write(filling[:min(left, len(filling))]); err != nil {
				return
			}
		}
		_, _ = w.Write([]byte(tail))
	}}
}

// Drip answers well, in pieces with a pause after each.
func Drip(s string, pieces int, pause time.Duration) Answer {
	return Answer{play: func(b *Backend, w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		body := Chat(s, "stop")
		for i := range pieces {
			flush(w, body[i*len(body)/pieces:(i+1)*len(body)/pieces])
			if !b.pause(r, pause) {
				return
			}
		}
	}}
}

// Gzipped answers compressed, which nobody asked for.
func Gzipped(s string) Answer {
	var z bytes.Buffer
	w := gzip.NewWriter(&z)
	_, _ = w.Write([]byte(Chat(s, "stop")))
	_ = w.Close()
	return Body(http.StatusOK, z.String()).With("Content-Encoding", "gzip")
}

// Gate lets a stream's next event through. It may be closed, for all of them.
type Gate chan struct{}

// Events streams server-sent events: the first at once, each other one when the gate lets it through, or at once
// without a gate.
func Events(gate Gate, events ...string) Answer { return stream(gate, false, events) }

// Broken is Events with a connection that breaks after the last one.
func Broken(gate Gate, events ...string) Answer { return stream(gate, true, events) }

func stream(gate Gate, broken bool, events []string) Answer {
	return Answer{play: func(b *Backend, w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for i, e := range events {
			if i > 0 && gate != nil {
				select {
				case <-gate:
				case <-r.Context().Done():
					return
				case <-b.closing:
					return
				}
			}
			flush(w, e)
		}
		if broken {
			panic(http.ErrAbortHandler)
		}
	}}
}

// Deltas are the events of an OpenAI chat stream that says the pieces, with usage at its end: 10 tokens in, 2 out.
func Deltas(pieces ...string) []string {
	var es []string
	for _, p := range pieces {
		quoted, _ := json.Marshal(p)
		es = append(es, `data: {"id":"c-1","object":"chat.completion.chunk","model":"m-1","choices":[{"index":0,"delta":{"content":`+string(quoted)+`},"finish_reason":null}]}`+"\n\n")
	}
	return append(es,
		`data: {"id":"c-1","object":"chat.completion.chunk","model":"m-1","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}`+"\n\n",
		`data: {"id":"c-1","object":"chat.completion.chunk","model":"m-1","choices":[],"usage":{"prompt_tokens":10,"completion_tokens":2,"total_tokens":12}}`+"\n\n",
		"data: [DONE]\n\n")
}

// EchoSecrets fails with what it was sent in every place where a provider can put it.
func EchoSecrets(status int) Answer {
	return Answer{play: func(_ *Backend, w http.ResponseWriter, r *http.Request) {
		key := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("X-Echo", key)
		w.WriteHeader(status)
		_, _ = fmt.Fprintf(w, `{"error":{"message":"%s %s %s","type":%q,"code":%q},"key":%q}`, Echo, Prompt, key, key, "bad-"+key, key)
	}}
}

// Filled adds n headers of a kilobyte each.
func (a Answer) Filled(n int) Answer {
	return a.before(func(_ *Backend, w http.ResponseWriter, _ *http.Request) bool {
		h := http.Header{}
		for i := range n {
			h.Set(fmt.Sprintf("X-Filling-%d", i), strings.Repeat("f", 1000))
		}
		maps.Copy(w.Header(), h)
		return true
	})
}

func flush(w http.ResponseWriter, s string) {
	_, _ = w.Write([]byte(s))
	_ = http.NewResponseController(w).Flush()
}

// Mirror answers with the name of the model that was asked for.
func Mirror() Answer {
	return Answer{play: func(_ *Backend, w http.ResponseWriter, r *http.Request) {
		var asked struct{ Model string }
		_ = json.NewDecoder(r.Body).Decode(&asked)
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte(Chat(asked.Model, "stop")))
	}}
}

// EndlessFailure fails with a body without end.
func EndlessFailure(status int) Answer {
	a := Endless()
	return a.before(func(_ *Backend, w http.ResponseWriter, _ *http.Request) bool {
		w.WriteHeader(status)
		return true
	})
}

// StalledFailure fails with a body that begins and doesn't end.
func StalledFailure(status int) Answer {
	return Answer{play: func(b *Backend, w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(status)
		flush(w, `{"error":{`)
		b.pause(r, 0)
	}}
}
