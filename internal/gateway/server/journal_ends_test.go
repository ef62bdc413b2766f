package server

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"batchwright/internal/gateway"
)

// TestLongStreamsTellTheirUsage: of a long stream only both ends are read, and the usage is still the provider's.
func TestLongStreamsTellTheirUsage(t *testing.T) {
	t.Parallel()
	piece := strings.Repeat("word ", 20)
	for name, c := range map[string]struct{ speaks, head, body, tail string }{
		"openai": {"openai", "", `data: {"id":"x","model":"gpt-x","choices":[{"index":0,"delta":{"content":"` + piece + `"}}],"usage":null}`,
			`data: {"id":"x","model":"gpt-x","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}` + "\n\n" +
				`data: {"id":"x","model":"gpt-x","choices":[],"usage":{"prompt_tokens":7,"completion_tokens":9}}` + "\n\ndata: [DONE]\n\n"},
		"anthropic": {"anthropic", `event: message_start` + "\n" + `data: {"type":"message_start","message":{"id":"x","type":"message","role":"assistant","model":"gpt-x","content":[],"usage":{"input_tokens":7,"output_tokens":1}}}` + "\n\n" +
			`event: content_block_start` + "\n" + `data: {"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}` + "\n\n",
			`event: content_block_delta` + "\n" + `data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"` + piece + `"}}`,
			`data: {"type":"content_block_stop","index":0}` + "\n\n" + `data: {"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":9}}` + "\n\n" +
				`data: {"type":"message_stop"}` + "\n\n"},
	} {
		for _, n := range []int{3, 3000} {
			for _, end := range []string{"\n", "\r\n"} {
				stream := []byte(strings.ReplaceAll(c.head+strings.Repeat(c.body+"\n\n", n)+c.tail, "\n", end))
				r := gateway.NewStreamReader(c.speaks, nil)
				readEnds(r, stream)
				resp, err := r.Answer()
				if err != nil || resp.Model != "gpt-x" || resp.Usage.Input != 7 || resp.Usage.Output != 9 || !resp.Usage.Known {
					t.Errorf("%s, %d events ending in %q: %+v, %v", name, n, end, resp, err)
				}
			}
		}
	}
}

func TestReadEndsCutsBetweenEvents(t *testing.T) {
	t.Parallel()
	for _, blank := range []string{"\n\n", "\r\n\r\n"} {
		var stream, got bytes.Buffer
		for i := range 20_000 {
			fmt.Fprintf(&stream, "data: %d%s", i, blank)
		}
		readEnds(&got, stream.Bytes())
		if got.Len() < 2*streamEnds-100 || got.Len() > 2*streamEnds+100 || !bytes.HasSuffix(got.Bytes(), []byte("data: 19999"+blank)) {
			t.Errorf("%d bytes are read of %d", got.Len(), stream.Len())
		}
		for e := range bytes.SplitSeq(bytes.TrimSuffix(got.Bytes(), []byte(blank)), []byte(blank)) {
			if !bytes.HasPrefix(e, []byte("data: ")) || bytes.Count(e, []byte("data")) != 1 {
				t.Fatalf("an event was cut: %.60q", e)
			}
		}
	}
	one := bytes.Repeat([]byte("x\n"), 2*streamEnds)
	var got bytes.Buffer
	if readEnds(&got, one); !bytes.Equal(got.Bytes(), one) {
		t.Errorf("of one long event %d bytes are read", got.Len())
	}
}
