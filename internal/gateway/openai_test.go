package gateway

import (
	"net/http"
	"strings"
	"testing"
)

// answerOf is a chat completion with a text of about so many bytes, a tenth of it lines.
func answerOf(bytes int) []byte {
	const line = `The harbour handles grain and timber; \"mostly\" in autumn.\n`
	text := strings.Repeat(line, bytes/len(line)+1)
	return []byte(`{"id":"chatcmpl-B9MBs8CjcvOU2jLn4n570S5qMJKcT","object":"chat.completion","created":1770000000,"model":"gpt-4.1-mini-2025-04-14",` +
		`"choices":[{"index":0,"message":{"role":"assistant","content":"` + text + `","refusal":null,"annotations":[]},` +
		`"logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":100,"completion_tokens":20,"total_tokens":120,` +
		`"prompt_tokens_details":{"cached_tokens":64,"audio_tokens":0},"completion_tokens_details":{"reasoning_tokens":0,"audio_tokens":0,` +
		`"accepted_prediction_tokens":0,"rejected_prediction_tokens":0}},"service_tier":"default","system_fingerprint":"fp_44709d6fcb"}`)
}

// BenchmarkDecode reads answers of OpenAI's; 1 kB is the usual one of a batch.
func BenchmarkDecode(b *testing.B) {
	p, _ := Lookup("openai")
	for _, size := range []struct {
		name  string
		bytes int
	}{{"1kB", 420}, {"100kB", 100_000}, {"10MB", 10_000_000}} {
		b.Run(size.name, func(b *testing.B) {
			body := answerOf(size.bytes)
			b.SetBytes(int64(len(body)))
			b.ReportAllocs()
			for b.Loop() {
				if r, err := p.Decode(http.StatusOK, nil, body); err != nil || r.Text == "" {
					b.Fatal(err)
				}
			}
		})
	}
}
