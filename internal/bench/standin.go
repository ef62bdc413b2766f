package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// completion is the one answer of the stand-in for a provider.
const completion = `{"id":"chatcmpl-bench","object":"chat.completion","created":1763700000,"model":"gpt-4o-mini-2024-07-18","choices":[{"index":0,` +
	`"message":{"role":"assistant","content":"A quiet dehumidifier for cellars up to forty square metres, with a tank of five litres and a hose for ` +
	`longer absences. It starts by itself when the air gets damp, and stops when it is dry.","refusal":null,"annotations":[]},"logprobs":null,` +
	`"finish_reason":"stop"}],"usage":{"prompt_tokens":54,"completion_tokens":41,"total_tokens":95,"prompt_tokens_details":{"cached_tokens":0,` +
	`"audio_tokens":0},"completion_tokens_details":{"reasoning_tokens":0,"audio_tokens":0}},"service_tier":"default","system_fingerprint":"fp_bench"}`

const (
	event = `data: {"id":"chatcmpl-bench","object":"chat.completion.chunk","created":1763700000,"model":"gpt-4o-mini-2024-07-18",` +
		`"choices":[{"index":0,"delta":{"content":" dehumidifier"},"logprobs":null,"finish_reason":null}]}` + "\n\n"
	lastEvent = "data: [DONE]\n\n"

	shortEvents = 4
	longBytes   = 4 << 20 // some 20,000 tokens
	paceEvents  = 2000
)

// provider answers at once: with one completion, or below /v1/ with a short, a long or a flushed stream. It does as
// little as it can: what it took would hide what stands before it.
func provider() http.Handler {
	long := bytes.Repeat([]byte(event), longBytes/len(event))
	stream := func(w http.ResponseWriter) {
		w.Header()["Content-Type"] = []string{"text/event-stream"}
		w.WriteHeader(http.StatusOK)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/chat/completions", fixed)
	mux.HandleFunc("POST /v1/short", func(w http.ResponseWriter, r *http.Request) {
		drain(r)
		stream(w)
		for range shortEvents {
			_, _ = io.WriteString(w, event)
			w.(http.Flusher).Flush()
		}
		_, _ = io.WriteString(w, lastEvent)
	})
	mux.HandleFunc("POST /v1/long", func(w http.ResponseWriter, r *http.Request) {
		drain(r)
		stream(w)
		for rest := long; len(rest) > 0; rest = rest[min(len(rest), 16<<10):] {
			_, _ = w.Write(rest[:min(len(rest), 16<<10)])
		}
		_, _ = io.WriteString(w, lastEvent)
	})
	mux.HandleFunc("POST /v1/flushed", func(w http.ResponseWriter, r *http.Request) {
		drain(r)
		stream(w)
		for range paceEvents {
			_, _ = io.WriteString(w, event)
			w.(http.Flusher).Flush()
		}
		_, _ = io.WriteString(w, lastEvent)
	})
	return mux
}

// fixed gives the completion from memory.
func fixed(w http.ResponseWriter, r *http.Request) {
	drain(r)
	h := w.Header()
	h["Content-Type"] = []string{"application/json"}
	h["Content-Length"] = []string{strconv.Itoa(len(completion))}
	_, _ = io.WriteString(w, completion) // a client that is gone can't be told
}

func drain(r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) }

// bareProxy is what the standard library has, with a tuned transport and buffers that are used again. Full duplex keeps
// package http from closing the request's body at the answer's first byte: behind a provider that is as fast as this
// one, the transport may not have seen the body's end yet, and then breaks the answer off.
func bareProxy(addr string) http.Handler {
	target := &url.URL{Scheme: "http", Host: addr}
	p := &httputil.ReverseProxy{
		Rewrite:    func(r *httputil.ProxyRequest) { r.SetURL(target) },
		BufferPool: &pool{sync.Pool{New: func() any { return make([]byte, 32<<10) }}},
		Transport:  &http.Transport{MaxIdleConnsPerHost: 4096, DisableCompression: true, ReadBufferSize: 16 << 10, WriteBufferSize: 16 << 10},
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).EnableFullDuplex() // every HTTP/1 writer can
		p.ServeHTTP(w, r)
	})
}

type pool struct{ sync.Pool }

func (p *pool) Get() []byte  { return p.Pool.Get().([]byte) }
func (p *pool) Put(b []byte) { p.Pool.Put(b) } //nolint:staticcheck // one small allocation, which every such pool has

// serveStandIns serves the provider, or when it stands before the address of one, the bare proxy and a handler that
// answers from memory.
func serveStandIns(ctx context.Context, before string, stdin io.Reader, stdout io.Writer) error {
	if before == noProxy {
		return serveAll(ctx, stdin, stdout, provider())
	}
	return serveAll(ctx, stdin, stdout, bareProxy(before), http.HandlerFunc(fixed))
}

// serveAll serves each handler on a port of its own. It prints the addresses and an empty line, and ends when stdin or ctx
// does.
func serveAll(ctx context.Context, stdin io.Reader, stdout io.Writer, handlers ...http.Handler) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	g, ctx := errgroup.WithContext(ctx)
	for _, h := range handlers {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		srv := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second}
		g.Go(func() error {
			if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
				return err
			}
			return nil
		})
		g.Go(func() error {
			<-ctx.Done()
			return srv.Close()
		})
		fmt.Fprintln(stdout, l.Addr())
	}
	fmt.Fprintln(stdout)
	go func() { // ends with the process: a read can't be interrupted
		_, _ = io.Copy(io.Discard, stdin)
		cancel()
	}()
	return g.Wait()
}

const noProxy = "none"
