package server

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"

	"batchwright/internal/gateway"
)

const (
	copySize   = 32 << 10
	maxCapture = 25 << 20 // of an answer, for the cache, the log and the usage; Cloudflare's bound of a cacheable one
	smallBody  = 64 << 10 // announced bodies up to this are read and written in one piece
)

var buffers = sync.Pool{New: func() any { return new([copySize]byte) }}

// capture keeps what passes by, for the log, the cache and the usage. Of a stream that is too long to keep, the usage is
// read on the way.
type capture struct {
	body   []byte
	size   int64
	over   bool // body is not the whole
	stream *gateway.StreamReader
	speaks string
	events bool
	idle   bool // nobody wants to know more than the size
}

func (k *capture) add(p []byte) {
	k.size += int64(len(p))
	if k.idle {
		return
	}
	if !k.over && len(k.body)+len(p) <= maxCapture {
		if cap(k.body)-len(k.body) < len(p) { // twofold: a long stream is copied once more, and not four times
			k.body = slices.Grow(k.body, max(len(p), cap(k.body)))
		}
		k.body = append(k.body, p...)
		return
	}
	if !k.over {
		k.over = true
		if k.events {
			if k.stream = gateway.NewStreamReader(k.speaks, nil); k.stream != nil {
				_, _ = k.stream.Write(k.body) // never fails
			}
		}
		k.body = nil
	}
	if k.stream != nil {
		_, _ = k.stream.Write(p)
	}
}

// relay passes a provider's answer on: its status and its body as they are, flushed as they come. It closes a.
func (c *passage) relay(st *step, at int, a *upstreamAnswer) {
	defer a.close()
	h := c.w.Header()
	inbound(h, a.Header)
	c.decorate(h, st, at)
	h["Cf-Aig-Cache-Status"] = statusMiss
	if c.route != nil {
		c.route.decorate(h, st)
	}
	if len(h["Content-Type"]) == 0 {
		h["Content-Type"] = nil // package http must not guess
	}
	k := &capture{events: gateway.IsEventStream(a.Header), speaks: st.speaks()}
	k.idle = !st.opts.collect && c.caching.key == "" && len(st.bookings)+len(st.booked) == 0
	if c.view.guard.checksAnswers() && a.ok() {
		c.relayChecked(st, at, a, k)
		return
	}
	// What package http must not write a body for, it must not be given one for.
	if c.r.Method == http.MethodHead || a.StatusCode == http.StatusNoContent || a.StatusCode == http.StatusNotModified {
		c.w.WriteHeader(a.StatusCode)
		c.finish(st, at, a.StatusCode, a.Header, k, true)
		return
	}
	var err error
	if n := a.ContentLength; n >= 0 && n <= smallBody && a.first == nil {
		err = c.passWhole(a, k)
	} else {
		err = c.pass(a, k)
	}
	c.finish(st, at, a.StatusCode, a.Header, k, err == nil)
	if errors.Is(err, errUpstreamBroke) {
		panic(http.ErrAbortHandler) // the caller must see that the answer is not whole
	}
}

// errUpstreamBroke: the provider's answer ended early.
var errUpstreamBroke = errors.New("gateway server: the provider's answer broke off")

// passWhole passes an answer on whose small length was announced.
func (c *passage) passWhole(a *upstreamAnswer, k *capture) error {
	body := make([]byte, a.ContentLength)
	if _, err := io.ReadFull(a.Body, body); err != nil {
		c.w.Header().Del("Content-Length")
		c.w.WriteHeader(a.StatusCode)
		return errUpstreamBroke
	}
	k.body, k.size = body, int64(len(body))
	c.w.WriteHeader(a.StatusCode)
	_, err := c.w.Write(body)
	return err
}

// pass passes an answer on as it comes. Where its length isn't announced each piece is flushed.
func (c *passage) pass(a *upstreamAnswer, k *capture) error {
	flush := func() {}
	if a.ContentLength < 0 || k.events {
		f, ok := c.w.(http.Flusher)
		if ok {
			flush = f.Flush
		}
	}
	c.w.WriteHeader(a.StatusCode)
	if len(a.first) > 0 {
		k.add(a.first)
		if _, err := c.w.Write(a.first); err != nil {
			return err
		}
		flush()
	} else if k.events {
		flush() // the caller sees at once that the stream begins
	}
	buffer := buffers.Get().(*[copySize]byte)
	defer buffers.Put(buffer)
	for {
		n, err := a.Body.Read(buffer[:])
		if n > 0 {
			k.add(buffer[:n])
			if _, werr := c.w.Write(buffer[:n]); werr != nil {
				return werr
			}
			flush()
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return errUpstreamBroke
		}
	}
}

// readLimited reads an answer to its end.
func readLimited(a *upstreamAnswer, limit int64) ([]byte, error) {
	body, err := io.ReadAll(io.LimitReader(io.MultiReader(bytes.NewReader(a.first), a.Body), limit+1))
	if err == nil && int64(len(body)) > limit {
		err = errTooLarge
	}
	return body, err
}

var errTooLarge = errors.New("gateway server: the answer is too large")

// giveWhole answers with a body that is all there.
func (c *passage) giveWhole(status int, body []byte) {
	c.w.Header()["Content-Length"] = []string{strconv.Itoa(len(body))}
	c.w.WriteHeader(status)
	if c.r.Method != http.MethodHead {
		_, _ = c.w.Write(body) // the caller may be gone
	}
}

// speaks is the slug of the provider whose form the step's answers have.
func (st *step) speaks() string {
	path, _, _ := strings.Cut(st.endpoint, "?")
	_, known := gateway.Lookup(st.provider)
	switch {
	case st.provider == "google-vertex-ai" && !strings.Contains(path, "/anthropic/"):
		return "google-ai-studio"
	case strings.Contains(path, "anthropic") && !known:
		return "anthropic"
	case st.chat, !known, st.openAIForm():
		return "openai"
	}
	return st.provider
}

// openAIForm reports whether a native path is that of OpenAI's form at a provider with a form of its own.
func (st *step) openAIForm() bool {
	switch st.provider {
	case "anthropic", "google-ai-studio", "cohere", "workers-ai":
		path, _, _ := strings.Cut(st.endpoint, "?")
		return strings.HasSuffix(path, "chat/completions")
	}
	return false
}
