package gateway

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"
)

// readStream feeds a stream in two parts, or byte by byte when at is negative.
func readChatStream(t testing.TB, provider string, stream []byte, at int) (text string, resp *Response, err error) {
	var said strings.Builder
	r := NewStreamReader(provider, func(piece string) { said.WriteString(piece) })
	if r == nil {
		t.Fatalf("%s doesn't stream", provider)
	}
	parts := [][]byte{stream[:max(at, 0)], stream[max(at, 0):]}
	if at < 0 {
		parts = bytes.SplitAfter(stream, nil)
	}
	for _, p := range parts {
		if n, werr := r.Write(p); n != len(p) || werr != nil {
			t.Fatalf("Write says %d, %v", n, werr)
		}
	}
	resp, err = r.Answer()
	return said.String(), resp, err
}

// TestOpenAIStreams puts recorded streams together, cut anywhere and byte by byte, and decodes what comes out as if it had come in
// one piece.
func TestOpenAIStreams(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/*/stream_*.sse")
	if err != nil || len(files) < 20 {
		t.Fatalf("%d streams, err %v", len(files), err)
	}
	for _, file := range files {
		provider := filepath.Base(filepath.Dir(file))
		if _, ok := openAIFamily(provider); !ok {
			continue
		}
		t.Run(file, func(t *testing.T) {
			t.Parallel()
			stream, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			text, resp, err := readChatStream(t, provider, stream, len(stream))
			got := fmt.Sprintf("pieces %q\n%s", text, describe(t, resp, err))
			if resp != nil {
				if !json.Valid(resp.Body) {
					t.Errorf("not JSON: %s", resp.Body)
				}
				got += fmt.Sprintf("body %s\n", resp.Body)
			}
			golden(t, strings.TrimSuffix(file, ".sse")+".golden", got)
			step := 13 // the cutting is the same for all, and the race detector slow
			if strings.HasSuffix(file, "openai/stream_text.sse") || strings.HasSuffix(file, "stream_crlf.sse") {
				step = 1
			}
			for at := -1; at < len(stream); at += step {
				text2, resp2, err2 := readChatStream(t, provider, stream, at)
				if text2 != text || describe(t, resp2, err2) != describe(t, resp, err) || resp != nil && string(resp2.Body) != string(resp.Body) {
					t.Fatalf("cut at %d it reads %q, %s, %v", at, text2, describe(t, resp2, err2), err2)
				}
			}
		})
	}
}

// openAIFamily tells the providers of this family from others.
func openAIFamily(provider string) (openAI, bool) {
	p, _ := Lookup(provider)
	switch p := p.(type) {
	case openAI:
		return p, true
	case azure:
		return p.openAI, true
	}
	return openAI{}, false
}

// TestEveryOpenAIProviderStreams walks the registry: a new provider of the family needs a recorded stream.
func TestEveryOpenAIProviderStreams(t *testing.T) {
	t.Parallel()
	for _, name := range Providers() {
		if _, ok := openAIFamily(name); !ok {
			continue
		}
		if files, _ := filepath.Glob(filepath.Join("testdata", name, "stream_*.sse")); len(files) == 0 {
			t.Errorf("%s has no recorded stream", name)
		}
	}
}

func TestAStreamCutAnywhereIsNoWholeAnswer(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"text", "tools", "responses_text"} {
		stream, err := os.ReadFile("testdata/openai/stream_" + name + ".sse")
		if err != nil {
			t.Fatal(err)
		}
		end := bytes.Index(stream, []byte(`"finish_reason":"`))
		if end < 0 {
			end = bytes.Index(stream, []byte(`response.completed`))
		}
		for n := range end {
			_, _, err := readChatStream(t, "openai", stream[:n], 0)
			if c := ClassOf(err); c != Network && c != Server {
				t.Fatalf("%s: %d bytes read as %v", name, n, err)
			}
		}
	}
}

func TestStreamSplicesItsFields(t *testing.T) {
	t.Parallel()
	const usage = `"stream_options":{"include_usage":true}`
	tests := []struct{ provider, endpoint, body, want string }{
		{"openai", "chat/completions", `{"model":"m"}`, `{"stream":true,` + usage + `,"model":"m"}`},
		{"openai", "chat/completions", "  {\n\"model\" : \"m\" }\n", "  {\"stream\":true," + usage + ",\n\"model\" : \"m\" }\n"},
		{"openai", "chat/completions", `{}`, `{"stream":true,` + usage + `}`},
		{"openai", "chat/completions", `{ }`, `{"stream":true,` + usage + ` }`},
		{"openai", "chat/completions", `{"stream":false,"a":{"stream":1}}`, `{` + usage + `,"stream":true,"a":{"stream":1}}`},
		{"openai", "chat/completions", `{"a":1,"stream" : null , "stream":0}`, `{` + usage + `,"a":1,"stream" : true , "stream":true}`},
		{"openai", "chat/completions", `{"stream_options":{"x":1},"stream":true}`, `{` + usage + `,"stream":true}`},
		{"openai", "responses", `{"input":"x"}`, `{"stream":true,"input":"x"}`},
		{"openai", "v1/responses?x=1", `{"input":"x"}`, `{"stream":true,"input":"x"}`},
		{"mistral", "v1/chat/completions", `{"model":"m"}`, `{"stream":true,"model":"m"}`},
		{"perplexity-ai", "chat/completions", `{"model":"m"}`, `{"stream":true,"model":"m"}`},
		{"azure-openai", "r/d/chat/completions?api-version=1", `{"a":1}`, `{"stream":true,` + usage + `,"a":1}`},
		{"openai", "chat/completions", `{"model":`, `{"model":`},
		{"openai", "chat/completions", `[]`, `[]`},
		{"openai", "chat/completions", ``, ``},
	}
	for _, tt := range tests {
		p, _ := Lookup(tt.provider)
		endpoint, body := p.(streamer).stream(tt.endpoint, json.RawMessage(tt.body))
		if endpoint != tt.endpoint || string(body) != tt.want {
			t.Errorf("%s %s\nbecomes %s\nwant    %s", tt.endpoint, tt.body, body, tt.want)
		}
	}
}

func FuzzWithField(f *testing.F) {
	f.Add([]byte(`{"a":1,"stream":{"stream":2},"b":[]}`))
	f.Add([]byte(` {} `))
	f.Fuzz(func(t *testing.T, body []byte) {
		before := bytes.Clone(body)
		out := withField(body, "stream", "true")
		if !bytes.Equal(body, before) {
			t.Fatalf("%q was changed to %q", before, body)
		}
		var had, has map[string]json.RawMessage
		if json.Unmarshal(body, &had) != nil || had == nil {
			return
		}
		if err := json.Unmarshal(out, &has); err != nil || string(has["stream"]) != "true" {
			t.Fatalf("%q became %q: %v", body, out, err)
		}
		delete(had, "stream")
		delete(has, "stream")
		if len(had) != len(has) {
			t.Fatalf("%q became %q", body, out)
		}
		for k, v := range had {
			if !bytes.Equal(has[k], v) {
				t.Errorf("%q became %q: %q differs", body, out, k)
			}
		}
	})
}

// FuzzOpenAIStream holds the assembler to its contract: no panic, JSON that grows with the stream and no faster, pieces
// that are the answer's text.
func FuzzOpenAIStream(f *testing.F) {
	files, _ := filepath.Glob("testdata/*/stream_*.sse")
	for _, file := range files {
		stream, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(stream)
	}
	f.Fuzz(func(t *testing.T, stream []byte) {
		var said strings.Builder
		r := NewStreamReader("openai-compatible", func(piece string) { said.WriteString(piece) })
		_, _ = r.Write(stream)
		body, _ := r.a.answer()
		// A byte of the stream is at most six of the answer, \u0000; a choice or a call brings a frame of its own.
		if !json.Valid(body) || len(body) > 200+40*len(stream) {
			t.Fatalf("%d bytes became %d: %s", len(stream), len(body), body)
		}
		if !utf8.ValidString(said.String()) {
			t.Errorf("pieces %q", said.String())
		}
		resp, err := r.Answer()
		if err == nil && resp.Text != said.String() && !strings.Contains(string(stream), "response.") {
			t.Errorf("pieces %q, answer %q", said.String(), resp.Text)
		}
		again, _ := r.a.answer()
		if !bytes.Equal(body, again) {
			t.Errorf("asked twice it answers %s and %s", body, again)
		}
	})
}

// BenchmarkOpenAIStream reads an answer of 1,000 chunks.
func BenchmarkOpenAIStream(b *testing.B) {
	var stream bytes.Buffer
	for range 1000 {
		stream.WriteString(`data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1790000000,"model":"gpt-4.1-mini",` +
			`"choices":[{"index":0,"delta":{"content":" word"},"logprobs":null,"finish_reason":null}],"usage":null}` + "\n\n")
	}
	stream.WriteString("data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n")
	b.SetBytes(int64(stream.Len()))
	b.ReportAllocs()
	for b.Loop() {
		r := NewStreamReader("openai", nil)
		_, _ = r.Write(stream.Bytes())
		if resp, err := r.Answer(); err != nil || len(resp.Text) != 5000 {
			b.Fatal(err)
		}
	}
}

// TestStreamsOfAllSizes shows that time and memory grow with a stream's length: a quadratic reader would not end.
func TestStreamsOfAllSizes(t *testing.T) {
	t.Parallel()
	const chunks = 30_000
	r := NewStreamReader("openai", nil)
	for i := range chunks {
		fmt.Fprintf(r, `data: {"choices":[{"index":%d,"delta":{"content":"x","tool_calls":[{"index":%d,"function":{"arguments":"y"}}]}}],"k%d":1}`+"\n\n",
			i%3*i, i, i)
	}
	resp, err := r.Answer()
	if resp == nil || !strings.HasPrefix(resp.Text, "xx") || len(resp.Body) > 40*chunks {
		t.Errorf("resp %v, err %v", resp != nil, err)
	}
	if resp, err := (openAI{}).Decode(http.StatusOK, nil, resp.Body); err != nil || resp.Text == "" {
		t.Error(err)
	}
}
