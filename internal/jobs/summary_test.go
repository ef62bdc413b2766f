package jobs

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/clipperhouse/uax29/v2/sentences"

	"batchwright/internal/document"
	"batchwright/internal/gateway"
	"batchwright/internal/prompt"
)

// reader answers the calls of summaries by the extractive summarizer, and knows what it has answered.
type reader struct {
	engine *gateway.Engine
	known  map[prompt.Key]string
	fresh  map[prompt.Key]string // since the last forget
	leaves int                   // calls made for parts of the document itself
	others int
	answer func(*prompt.Request) string // instead of the engine
}

func newReader(t *testing.T) *reader {
	t.Helper()
	e, err := gateway.NewEngine(gateway.EngineOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	return &reader{engine: e, known: map[prompt.Key]string{}, fresh: map[prompt.Key]string{}}
}

// keep makes what was answered so far known for ever, and forget takes back what wasn't kept.
func (r *reader) keep() { maps.Copy(r.known, r.fresh); r.forget() }

func (r *reader) forget() { clear(r.fresh); r.leaves, r.others = 0, 0 }

func (r *reader) ask(ctx context.Context, requests []*prompt.Request, _ bool) ([]result, error) {
	out := make([]result, len(requests))
	for i, req := range requests {
		key := req.Keys([]string{"local/extractive"})[0]
		text, known := r.known[key]
		if !known {
			text, known = r.fresh[key]
		}
		if !known {
			if strings.HasPrefix(req.Messages[1].Content, "These are summaries") {
				r.others++
			} else {
				r.leaves++
			}
			var err error
			if text, err = r.call(ctx, req); err != nil {
				return nil, err
			}
			r.fresh[key] = text
		}
		out[i] = result{output: text, reused: known}
	}
	return out, nil
}

func (r *reader) call(ctx context.Context, req *prompt.Request) (string, error) {
	if r.answer != nil {
		return r.answer(req), nil
	}
	chat := &gateway.Chat{MaxTokens: req.MaxTokens}
	for _, m := range req.Messages {
		chat.Messages = append(chat.Messages, gateway.Message{Role: m.Role, Content: m.Content})
	}
	step, err := gateway.NewStep("local", gateway.Extractive, chat, nil)
	if err != nil {
		return "", err
	}
	resp, err := r.engine.Run(ctx, &gateway.Request{Steps: []gateway.Step{step}}, gateway.NoLedger)
	if err != nil {
		return "", err
	}
	return resp.Text, nil
}

func (r *reader) summarise(t *testing.T, o summarizeOptions, limit int, text string) summarized {
	t.Helper()
	s := &summary{o: o, text: text, limit: limit, count: quarters, ask: r.ask}
	out, err := s.build(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return out
}

var brief = summarizeOptions{Length: "short", MaxTokens: 160}

// longTexts are real documents, and one that was made up: the repository's own, and what most machines with Go have.
func longTexts(t *testing.T) map[string]string {
	t.Helper()
	out := map[string]string{"prose": proseOf(rand.New(rand.NewPCG(3, 3)), 120_000)}
	for name, pattern := range map[string]string{
		"docs": "../../docs/*.md", "examples": "../../examples/documents/*", "GPL": "/usr/share/common-licenses/GPL-3", "specification": goRoot() + "/doc/go_spec.html",
	} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		var all []string
		for _, f := range files {
			data, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			doc, err := document.Extract(f, "", data)
			if err != nil {
				t.Fatal(f, err)
			}
			all = append(all, doc.Text)
		}
		if len(all) > 0 {
			out[name] = strings.Join(all, "\n\n")
		}
	}
	return out
}

func goRoot() string {
	bin, err := filepath.EvalSymlinks("/usr/local/go")
	if err != nil {
		return "/nowhere"
	}
	return bin
}

func proseOf(r *rand.Rand, size int) string {
	words := strings.Fields("harbour ledger winter council measured quietly seven engines before answer river carried every letter slowly across northern fields while nobody counted what remained of summer")
	var b strings.Builder
	for b.Len() < size {
		for range 2 + r.IntN(6) {
			fmt.Fprintf(&b, "The %s", words[r.IntN(len(words))])
			for range 4 + r.IntN(18) {
				b.WriteString(" " + words[r.IntN(len(words))])
			}
			fmt.Fprintf(&b, " in %d. ", r.IntN(3000))
		}
		b.WriteString("\n\n")
	}
	return b.String()
}

// edit replaces, inserts or deletes a sentence; it returns how many edits that is, as a replacement is a deletion and an insertion.
func edit(r *rand.Rand, text string, starts []int) (string, int) {
	i := r.IntN(len(starts) - 1)
	from, to := starts[i], starts[i+1]
	sentence := fmt.Sprintf("A sentence that nobody has read before, of %d words and %d letters, stands here now. ", r.IntN(1000), r.IntN(100000))
	switch r.IntN(3) {
	case 0:
		return text[:from] + sentence + text[to:], 2
	case 1:
		return text[:from] + sentence + text[from:], 1
	}
	return text[:from] + text[to:], 1
}

func startsOf(text string) (starts []int) {
	for parts := sentences.FromString(text); parts.Next(); {
		starts = append(starts, parts.Start())
	}
	return starts
}

// quarters counts as local/extractive does: its answers keep to their caps by this count.
func quarters(s string) int { return (len(s) + 3) / 4 }

// What an edit of a long document costs: an edit of a place changes two chunks more than it has edits at most, and asks for one summary of
// summaries a level for each changed chunk. One edit in a thousand, of those that take away what a chunk ended with, changes one more.
func TestEditsAskForLittle(t *testing.T) {
	t.Parallel()
	for name, text := range longTexts(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, limit := range []int{400, 1200} {
				before := chunkSet(text, limit)
				a := newReader(t)
				first := a.summarise(t, brief, limit, text)
				a.keep()
				r := rand.New(rand.NewPCG(7, uint64(limit)))
				asked, over := 0, 0
				const rounds = 60
				for i := range rounds {
					places := 1
					if i%10 == 9 {
						places = 4
					}
					edited, edits := text, 0
					for range places {
						var n int
						edited, n = edit(r, edited, startsOf(edited))
						edits += n
					}
					changed := 0
					for c := range chunkSet(edited, limit) {
						if !before[c] {
							changed++
						}
					}
					out := a.summarise(t, brief, limit, edited)
					if a.leaves > changed || a.leaves > edits+2*places {
						over++
						t.Logf("in chunks of %d, %d edits of %d places change %d chunks, and ask for %d", limit, edits, places, changed, a.leaves)
					}
					if a.leaves > edits+3*places {
						t.Errorf("in chunks of %d, %d edits of %d places ask for %d chunks", limit, edits, places, a.leaves)
					}
					if a.others > out.Coverage.Depth*changed {
						t.Errorf("in chunks of %d, %d changed chunks ask for %d summaries of summaries on %d levels", limit, changed, a.others, out.Coverage.Depth)
					}
					if made := out.Coverage.CallsMade; made != a.leaves+a.others || made+out.Coverage.CallsReused != out.Coverage.Calls {
						t.Errorf("%+v, though %d calls were made", out.Coverage, a.leaves+a.others)
					}
					asked += a.leaves + a.others
					a.forget()
				}
				t.Logf("in chunks of %d: %d calls at first, %.2f after an edit", limit, first.Coverage.Calls, float64(asked)/rounds)
				if over > 1 {
					t.Errorf("in chunks of %d, %d of %d edits ask for more chunks than promised", limit, over, rounds)
				}
			}
		})
	}
}

type cutChunk struct {
	text  string
	after document.Cut
}

// chunkSet are a text's chunks with their ends: another boundary is a change of the chunk before it as well.
func chunkSet(text string, limit int) map[cutChunk]bool {
	out := map[cutChunk]bool{}
	for _, c := range document.Split(text, document.Sizes{Max: limit}, quarters) {
		out[cutChunk{c.Text, c.After}] = true
	}
	return out
}
