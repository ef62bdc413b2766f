package gateway

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestNativeStreams reads the recorded streams of the providers with a form of their own, whole and cut anywhere, and
// holds the pieces, the native answer and what it decodes to against golden files.
func TestNativeStreams(t *testing.T) {
	t.Parallel()
	files, _ := filepath.Glob("testdata/*/native_*.sse")
	seen := map[string]bool{}
	for _, file := range files {
		slug := filepath.Base(filepath.Dir(file))
		seen[slug] = true
		t.Run(slug+"/"+filepath.Base(file), func(t *testing.T) {
			t.Parallel()
			raw, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			whole := readNative(t, slug, raw, len(raw))
			golden(t, strings.TrimSuffix(file, ".sse")+".golden", whole)
			if got := readNative(t, slug, raw, 1); got != whole {
				t.Errorf("byte by byte:\n%s\nwhole:\n%s", got, whole)
			}
			for cut := 1; cut < len(raw); cut++ {
				if got := readNative(t, slug, raw, cut); got != whole {
					t.Fatalf("in pieces of %d bytes:\n%s\nwhole:\n%s", cut, got, whole)
				}
			}
			crlf := bytes.ReplaceAll(raw, []byte("\n"), []byte("\r\n"))
			if got := readNative(t, slug, crlf, 7); got != whole {
				t.Errorf("with CR LF:\n%s\nwhole:\n%s", got, whole)
			}
		})
	}
	for _, name := range []string{"anthropic", "cohere", "google-ai-studio", "workers-ai"} {
		if !seen[name] {
			t.Errorf("provider %s has no testdata/%s/native_NAME.sse", name, name)
		}
	}
}

func readNative(t *testing.T, slug string, raw []byte, size int) string {
	t.Helper()
	var said strings.Builder
	s := NewStreamReader(slug, func(piece string) { said.WriteString(piece) })
	if s == nil {
		t.Fatalf("provider %s doesn't stream", slug)
	}
	for len(raw) > 0 {
		n := min(size, len(raw))
		if _, err := s.Write(raw[:n]); err != nil {
			t.Fatal(err)
		}
		raw = raw[n:]
	}
	resp, err := s.Answer()
	if err == nil && said.String() != resp.Text {
		t.Errorf("the pieces are %q, the answer's text is %q", said.String(), resp.Text)
	}
	out := fmt.Sprintf("pieces %q\n", said.String())
	if resp != nil {
		out += fmt.Sprintf("body %s\n", resp.Body)
	}
	return out + describe(t, resp, err)
}

// TestStreamsBreakOff cuts each good stream short at every event: no part of it may pass for the whole.
func TestStreamsBreakOff(t *testing.T) {
	t.Parallel()
	files, _ := filepath.Glob("testdata/*/native_text.sse")
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		events := bytes.SplitAfter(raw, []byte("\n\n"))
		if len(bytes.TrimSpace(events[len(events)-1])) == 0 {
			events = events[:len(events)-1]
		}
		for n := range events {
			s := NewStreamReader(filepath.Base(filepath.Dir(file)), nil)
			_, _ = s.Write(bytes.Join(events[:n], nil))
			if _, err := s.Answer(); err == nil {
				t.Errorf("%s: %d of %d events are taken for the whole answer", file, n, len(events))
			}
		}
	}
}

// FuzzNativeStreams holds the assemblers to their contract: no panic, a native answer that is JSON and not much larger
// than the stream was, and the same whatever the pieces.
func FuzzNativeStreams(f *testing.F) {
	files, _ := filepath.Glob("testdata/*/native_*.sse")
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw, 3)
	}
	f.Fuzz(func(t *testing.T, raw []byte, size int) {
		for _, name := range Providers() {
			one, two := NewStreamReader(name, nil), NewStreamReader(name, nil)
			if one == nil {
				continue
			}
			_, _ = one.Write(raw)
			for rest := raw; len(rest) > 0; {
				n := min(max(size, 1), len(rest))
				_, _ = two.Write(rest[:n])
				rest = rest[n:]
			}
			body, complete := one.a.answer()
			again, too := two.a.answer()
			if !bytes.Equal(body, again) || complete != too {
				t.Fatalf("%s: in pieces of %d the answer is\n%s\nand whole\n%s", name, size, again, body)
			}
			if len(body) > 0 && !json.Valid(body) || len(body) > 8*len(raw)+2048 {
				t.Fatalf("%s: %d bytes became %d: %s", name, len(raw), len(body), body)
			}
			if resp, err := one.Answer(); err == nil && (resp == nil || !complete) {
				t.Fatalf("%s: answer %v without an error", name, resp)
			}
		}
	})
}
