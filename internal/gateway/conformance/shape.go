package conformance

import (
	"encoding/json"
	"strings"
	"testing"

	"batchwright/internal/gateway"
)

// shape is a form of requests and answers that is not OpenAI's. Each answer says "fine", for 10 tokens in and 2 out.
type shape struct {
	name, provider   string
	endpoint, answer string
	streamed, stream string // endpoint of a streamed request; its answer
}

var shapes = []shape{
	{
		name: "Anthropic's", provider: Anthropic,
		endpoint: "v1/messages",
		answer: `{"id":"msg_1","type":"message","role":"assistant","model":"m-1","content":[{"type":"text","text":"fine"}],` +
			`"stop_reason":"end_turn","usage":{"input_tokens":10,"output_tokens":2}}`,
		streamed: "v1/messages",
		stream: named(
			"message_start", `{"type":"message_start","message":{"id":"msg_1","type":"message","role":"assistant","model":"m-1","content":[],"usage":{"input_tokens":10,"output_tokens":1}}}`,
			"content_block_start", `{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}`,
			"ping", `{"type":"ping"}`,
			"content_block_delta", `{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"fi"}}`,
			"content_block_delta", `{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"ne"}}`,
			"content_block_stop", `{"type":"content_block_stop","index":0}`,
			"message_delta", `{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":2}}`,
			"message_stop", `{"type":"message_stop"}`),
	},
	{
		name: "Gemini's", provider: Google,
		endpoint: "v1beta/models/m-1:generateContent",
		answer: `{"candidates":[{"content":{"role":"model","parts":[{"text":"fine"}]},"finishReason":"STOP"}],` +
			`"usageMetadata":{"promptTokenCount":10,"candidatesTokenCount":2,"totalTokenCount":12},"modelVersion":"m-1"}`,
		streamed: "v1beta/models/m-1:streamGenerateContent?alt=sse",
		stream: named(
			"", `{"candidates":[{"content":{"role":"model","parts":[{"text":"fi"}]}}],"modelVersion":"m-1"}`,
			"", `{"candidates":[{"content":{"role":"model","parts":[{"text":"ne"}]},"finishReason":"STOP"}],"usageMetadata":{"promptTokenCount":10,"candidatesTokenCount":2,"totalTokenCount":12},"modelVersion":"m-1"}`),
	},
}

// named writes server-sent events, given as name and data in turn. The name may be empty.
func named(pairs ...string) string {
	var b strings.Builder
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i] != "" {
			b.WriteString("event: " + pairs[i] + "\n")
		}
		b.WriteString("data: " + pairs[i+1] + "\n\n")
	}
	return b.String()
}

func shapeCases() []Case {
	var cs []Case
	for _, s := range shapes {
		cs = append(cs,
			Case{Name: "a fallback's answer in " + s.name + " shape is read", Run: s.read},
			Case{Name: "a fallback's stream in " + s.name + " shape is read, with its usage", Run: s.hear})
	}
	return cs
}

func (s shape) read(t *testing.T, p *Play) {
	p.open(t, Setup{})
	p.Backend.Play(First, Fail(401, ""))
	p.Backend.Play(s.provider, Body(200, s.answer))
	r := p.ask(t, s.behind(t, s.endpoint, false))
	r.answered(t, 1, "fine")
	s.check(t, p, r)
}

func (s shape) hear(t *testing.T, p *Play) {
	p.open(t, Setup{})
	p.Backend.Play(First, Fail(401, ""))
	p.Backend.Play(s.provider, Events(nil, s.stream))
	endpoint := s.endpoint // the engine and the client turn it into the streamed one
	if p.Kind == Wire {
		endpoint = s.streamed
	}
	r := p.hear(t.Context(), t, s.behind(t, endpoint, p.Kind == Wire), func(string) {})
	r.answered(t, 1, "fine")
	if got := p.Backend.Hits()[1].URI; !strings.HasSuffix(got, strings.TrimPrefix(s.streamed, "v1/")) {
		t.Errorf("asked %q", got)
	}
	s.check(t, p, r)
}

// behind is a chain of the first provider and, in its own form, this one.
func (s shape) behind(t *testing.T, endpoint string, stream bool) *gateway.Request {
	t.Helper()
	body := `{"model":"m-1","max_tokens":9,"messages":[{"role":"user","content":"` + Prompt + `"}]}`
	if s.provider == Google {
		body = `{"contents":[{"role":"user","parts":[{"text":"` + Prompt + `"}]}]}`
	} else if stream {
		body = `{"model":"m-1","stream":true,"max_tokens":9,"messages":[{"role":"user","content":"` + Prompt + `"}]}`
	}
	req := chainOf(t, once(), First)
	req.Steps = append(req.Steps, gateway.Step{Provider: s.provider, Endpoint: endpoint, Query: json.RawMessage(body), Model: "m-1", Config: once()})
	return req
}

// check holds the usage, which the wire's server tells in its log, and that the key went where the provider looks for it.
func (s shape) check(t *testing.T, p *Play, r Reply) {
	t.Helper()
	in, out := r.Usage.Input, r.Usage.Output
	if p.Kind == Wire {
		row := p.Subject.Rows(t, 1)[0]
		in, out = row.TokensIn, row.TokensOut
	}
	if in != 10 || out != 2 {
		t.Errorf("usage %d in, %d out", in, out)
	}
	n, _ := gateway.NativeOf(s.provider)
	if got := p.Backend.Hits()[1].Header.Get(n.Header); got != n.Prefix+Key(s.provider) {
		t.Errorf("sent the key %q in %s", got, n.Header)
	}
}
