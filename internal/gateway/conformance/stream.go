package conformance

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"batchwright/internal/gateway"
)

func streamCases() []Case {
	wireOnly := map[Kind]string{Engine: "a stream's bytes end in the engine", Client: "a stream's bytes end in the client"}
	readers := map[Kind]string{Wire: "the wire passes a stream on and doesn't read it for the caller"}
	return []Case{
		{Name: "a stream passes byte for byte", Run: streamVerbatim, Not: wireOnly},
		{Name: "a stream that comes in crumbs passes byte for byte", Run: streamCrumbs, Not: wireOnly},
		{Name: "a stream's first event arrives before the second is sent", Run: streamUnbuffered},
		{Name: "a stream's pieces come in order and make the answer", Run: streamPieces, Not: readers},
		{Name: "a stream's usage is told", Run: streamUsage},
		{Name: "a stream that fails before it begins goes to the next step", Run: streamFailsFirst},
		{Name: "a stream that doesn't begin in time goes to the next step", Run: streamLate},
		{Name: "a stream that breaks off is not begun again", Run: streamBreaks},
		{Name: "a stream that ends without its end mark is no answer", Run: streamEndsEarly, Not: readers},
		{Name: "an error inside a stream is a failure", Run: streamError, Not: readers},
		{Name: "a pause inside a stream is not bounded by the timeout to the first byte", Run: streamPauses},
		{Name: "a stream's reader that leaves takes the provider's stream with it", Run: streamReaderLeaves},
		{Name: "a provider that doesn't stream is read all the same", Run: streamRefused, Not: readers},
	}
}

// streamed is a request for a streamed answer, as it stands on the wire.
func streamed(providers ...string) *gateway.Request {
	req := &gateway.Request{}
	for _, name := range providers {
		req.Steps = append(req.Steps, gateway.Step{Provider: name, Endpoint: "chat/completions", Model: "m-1", Config: once(),
			Query: json.RawMessage(`{"model":"m-1","stream":true,"stream_options":{"include_usage":true},"messages":[{"role":"user","content":"` + Prompt + `"}]}`)})
	}
	return req
}

// listen asks for a stream and gives its text to each as it comes: pieces of text, and lines on the wire.
func (p *Play) listen(ctx context.Context, t *testing.T, c *gateway.StepConfig, each func(piece string), providers ...string) Reply {
	t.Helper()
	if p.Kind != Wire {
		return p.hear(ctx, t, chainOf(t, c, providers...), each)
	}
	req := streamed(providers...)
	for i := range req.Steps {
		req.Steps[i].Config = c
	}
	return p.hear(ctx, t, req, each)
}

// hear is listen with a request of the case's own. On the wire it must ask for a stream by itself.
func (p *Play) hear(ctx context.Context, t *testing.T, req *gateway.Request, each func(piece string)) Reply {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, 2*patience) // as in ask
	defer cancel()
	if p.Kind != Wire {
		req.Options.OnText = each
		return p.askUnder(ctx, t, req)
	}
	h, body := p.array(t, req)
	res := p.begin(ctx, t, "POST", p.Subject.URL, h, body)
	if res == nil {
		return Reply{Step: -1, Broken: true}
	}
	defer res.Body.Close()
	var all strings.Builder
	in := bufio.NewReader(res.Body)
	for {
		line, err := in.ReadString('\n')
		all.WriteString(line)
		if each != nil && line != "" {
			each(line)
		}
		if err == nil {
			continue
		}
		if err == io.EOF {
			err = nil
		}
		r := p.reply(res, []byte(all.String()), err)
		if r.Good && r.Step >= 0 && res.Header.Get("Content-Type") == "text/event-stream" {
			r.Text = ""
			s := gateway.NewStreamReader(req.Steps[r.Step].Provider, func(piece string) { r.Text += piece })
			_, _ = s.Write([]byte(all.String())) // never fails
		}
		return r
	}
}

func streamVerbatim(t *testing.T, p *Play) {
	p.open(t, Setup{})
	events := []string{": hello\r\n\r\n", "event: x\r\ndata:  two blanks\r\nid: 7\r\nretry: 10\r\n\r\n", "data: {\"a\" : \"\\u00e9 \u2028\"}\ndata: more\n\n", "data: [DONE]\n\n", "data: no end"}
	p.Backend.Play(First, Events(nil, events...).With("X-Provider", "yes"))
	r := p.listen(t.Context(), t, once(), nil, First)
	if want := strings.Join(events, ""); r.Body != want || r.Status != 200 || r.Step != 0 {
		t.Errorf("got %v, want %q", r, want)
	}
	if kind := r.Header.Get("Content-Type"); kind != "text/event-stream" || r.Header.Get("X-Provider") != "yes" {
		t.Errorf("headers %v", r.Header)
	}
}

func streamCrumbs(t *testing.T, p *Play) {
	p.open(t, Setup{})
	whole := strings.Join(Deltas("é", "😀", "fine"), "")
	p.Backend.Play(First, Events(nil, strings.Split(whole, "")...))
	if r := p.listen(t.Context(), t, once(), nil, First); r.Body != whole {
		t.Errorf("got %q, want %q", r.Body, whole)
	}
}

func streamUnbuffered(t *testing.T, p *Play) {
	p.open(t, Setup{})
	gate := make(Gate)
	p.Backend.Play(First, Events(gate, Deltas("first", "second")...))
	// The gate opens only when the first piece has arrived: a gateway that holds it back never sees the second.
	opened := false
	r := p.listen(t.Context(), t, once(), func(piece string) {
		if !opened && strings.Contains(piece, "first") {
			opened = true
			close(gate)
		}
	}, First)
	if !opened || !r.Good || !strings.Contains(r.Body+r.Text, "second") {
		t.Errorf("opened %v, got %v", opened, r)
	}
}

func streamPieces(t *testing.T, p *Play) {
	p.open(t, Setup{})
	p.Backend.Play(First, Events(nil, Deltas("a", "é", "<\n", "😀")...))
	var pieces []string
	r := p.listen(t.Context(), t, once(), func(piece string) { pieces = append(pieces, piece) }, First)
	r.answered(t, 0, "aé<\n😀")
	if !slices.Equal(pieces, []string{"a", "é", "<\n", "😀"}) {
		t.Errorf("pieces %q", pieces)
	}
}

func streamUsage(t *testing.T, p *Play) {
	p.open(t, Setup{})
	p.Backend.Play(First, Events(nil, Deltas("fine")...))
	r := p.listen(t.Context(), t, once(), func(string) {}, First)
	if p.Kind != Wire {
		if want := (gateway.Usage{Input: 10, Output: 2, Known: true}); r.Usage != want {
			t.Errorf("usage %+v, want %+v", r.Usage, want)
		}
		return
	}
	if row := p.Subject.Rows(t, 1)[0]; row.TokensIn != 10 || row.TokensOut != 2 || row.Status != 200 {
		t.Errorf("row %+v", row)
	}
}

func streamFailsFirst(t *testing.T, p *Play) {
	p.open(t, Setup{})
	p.Backend.Play(First, Fail(503, ""))
	p.Backend.Play(Second, Events(nil, Deltas("fine")...))
	r := p.listen(t.Context(), t, &gateway.StepConfig{MaxAttempts: 2, RetryDelayMS: 1}, func(string) {}, First, Second)
	r.answered(t, 1, "fine")
	p.asked(t, First, First, Second)
}

func streamLate(t *testing.T, p *Play) {
	p.open(t, Setup{})
	p.Backend.Play(First, Hang(), Events(nil, Deltas("fine")...))
	// The answers are played as requests arrive, and on a loaded machine one may be given up before it does; the last attempt waits for ever.
	r := p.listen(t.Context(), t, &gateway.StepConfig{RequestTimeoutMS: 3000, MaxAttempts: 5, RetryDelayMS: 1}, func(string) {}, First)
	r.answered(t, 0, "fine")
	p.Backend.AwaitGone(t, 1)
}

func streamBreaks(t *testing.T, p *Play) {
	p.open(t, Setup{Attempts: 2})
	p.Backend.Play(First, Broken(nil, Deltas("half")[:1]...))
	p.Backend.Play(Second, Events(nil, Deltas("never")...))
	var heard string
	r := p.listen(t.Context(), t, &gateway.StepConfig{MaxAttempts: 2, RetryDelayMS: 1}, func(piece string) { heard += piece }, First, Second)
	if !strings.Contains(heard, "half") || strings.Contains(heard, "never") {
		t.Errorf("heard %q", heard)
	}
	switch {
	case p.Kind == Wire && !r.Broken:
		t.Errorf("got %v, want an answer that is seen to be broken", r)
	case p.Kind != Wire:
		r.failed(t, p, gateway.Network, "connection_lost", 0)
		if r.Err != nil && !r.Err.Uncertain {
			t.Error("a broken stream may have cost")
		}
	}
	p.asked(t, First)
}

func streamEndsEarly(t *testing.T, p *Play) {
	p.open(t, Setup{Attempts: 2})
	p.Backend.Play(First, Events(nil, Deltas("half")[:1]...))
	p.Backend.Play(Second, Events(nil, Deltas("never")...))
	r := p.listen(t.Context(), t, &gateway.StepConfig{MaxAttempts: 2, RetryDelayMS: 1}, func(string) {}, First, Second)
	r.failed(t, p, gateway.Network, "connection_lost", 0)
	p.asked(t, First)
}

func streamError(t *testing.T, p *Play) {
	p.open(t, Setup{})
	p.Backend.Play(First, Events(nil, Deltas("half")[0], "data: "+Failure("server_error")+"\n\n"))
	r := p.listen(t.Context(), t, once(), func(string) {}, First)
	r.failed(t, p, gateway.Server, "server_error", 0)
}

func streamPauses(t *testing.T, p *Play) {
	p.open(t, Setup{})
	gate := make(Gate)
	p.Backend.Play(First, Events(gate, Deltas("fine")...))
	go func() {
		defer close(gate)
		p.Backend.Await(t, 1)
		<-time.After(6 * time.Second)
	}()
	r := p.listen(t.Context(), t, &gateway.StepConfig{RequestTimeoutMS: 5000, MaxAttempts: 1}, func(string) {}, First)
	r.answered(t, 0, "fine")
}

func streamReaderLeaves(t *testing.T, p *Play) {
	p.open(t, Setup{})
	p.Backend.Play(First, Events(make(Gate), Deltas("first", "second")...))
	p.Backend.Play(Second, Events(nil, Deltas("never")...))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	r := p.listen(ctx, t, once(), func(piece string) {
		if strings.Contains(piece, "first") {
			cancel()
		}
	}, First, Second)
	if r.Good {
		t.Errorf("got %v", r)
	}
	p.Backend.AwaitGone(t, 1)
	p.asked(t, First)
}

func streamRefused(t *testing.T, p *Play) {
	p.open(t, Setup{})
	p.Backend.Play(First, Text("fine"))
	var heard string
	p.listen(t.Context(), t, once(), func(piece string) { heard += piece }, First).answered(t, 0, "fine")
	if heard != "fine" {
		t.Errorf("heard %q", heard)
	}
}
