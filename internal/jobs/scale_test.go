package jobs

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"batchwright/internal/pricing"
	"batchwright/internal/prompt"
	"batchwright/internal/store"
)

// templated is a batch of n jobs as a worker has it.
func templated(t testing.TB, n int64, route string) *batch {
	t.Helper()
	spec, template, err := compileTemplate(json.RawMessage(`{"system":"You write product blurbs of three sentences.","user":"Write about {{.name}}.",
		"variables":{"name":{"type":"string"}},"sampling":{"max_tokens":80}}`))
	if err != nil {
		t.Fatal(err)
	}
	r, err := ParseRoute(json.RawMessage(route))
	if err != nil {
		t.Fatal(err)
	}
	return &batch{Batch: store.Batch{TotalJobs: n, Cache: "use"}, kind: generate{}, route: r, spec: spec, template: template}
}

func jobInput(seq int) store.Input {
	return store.Input{Seq: int32(seq), Input: fmt.Appendf(nil, `{"name":"%s"}`, strings.Repeat("a quiet dehumidifier for cellars ", 1+seq%9))}
}

// weighAll plans a whole batch, of which the cache has every hit-th job, and returns what was counted.
func weighAll(t testing.TB, b *batch, hit int) []store.PlanSum {
	t.Helper()
	sc := newScale(store.Reader{}, b, pricing.Default())
	p := newPart()
	for seq := 1; seq <= int(b.TotalJobs); seq++ {
		row, found := planJob(b, jobInput(seq))
		p.rows, p.jobs = append(p.rows, row), append(p.jobs, sc.put(jobInput(seq), found))
	}
	hits := make([]*store.Hit, len(p.rows))
	for i := range hits {
		if hit > 0 && i%hit == 0 {
			hits[i] = &store.Hit{}
		}
	}
	return sc.tally(context.Background(), p, hits, true)
}

func TestASmallBatchIsCountedExactly(t *testing.T) {
	t.Parallel()
	b := templated(t, 500, `"openai:gpt-4o-mini,anthropic:claude-haiku-5-5"`)
	want := [2]float64{}
	calls := 0
	for seq := 1; seq <= 500; seq++ {
		if (seq-1)%5 == 0 {
			continue // a hit
		}
		r, err := generate{}.request(b, jobInput(seq).Input)
		if err != nil {
			t.Fatal(err)
		}
		calls++
		for i, model := range []string{"gpt-4o-mini", "claude-haiku-5-5"} {
			want[i] += countMessages(prompt.TokenizerOf(model), r.Messages)
		}
	}
	sums := weighAll(t, b, 5)
	if len(sums) != 2 || sums[0].Hits != 100 {
		t.Fatalf("%+v", sums)
	}
	if s := sums[1]; s.Jobs != int64(calls) || s.CountedJobs != s.Jobs || s.CountedBytes != s.Bytes || s.CountedCalls != float64(calls) || s.CountedCaps != float64(80*calls) ||
		s.CountedTokens[0] != want[0] || s.CountedTokens[1] != want[1] {
		t.Errorf("%+v, want %v tokens of %d calls", s, want, calls)
	}
}

func TestALargeBatchIsCountedBySample(t *testing.T) {
	t.Parallel()
	const n = 50_000
	b := templated(t, n, `"openai:gpt-4o-mini"`)
	s := weighAll(t, b, 0)[1]
	if s.Jobs != n || s.CountedJobs < countJobs*9/10 || s.CountedJobs > countJobs*11/10 {
		t.Fatalf("%+v", s)
	}
	exact := 0.0
	tokens := prompt.TokenizerOf("gpt-4o-mini")
	for seq := range 9 { // the jobs repeat
		r, err := generate{}.request(b, jobInput(seq).Input)
		if err != nil {
			t.Fatal(err)
		}
		exact += countMessages(tokens, r.Messages) / 9
	}
	p := newPath(&s, 1)
	if off := math.Abs(p.tokens[0]/exact - 1); off > 0.01 {
		t.Errorf("%.1f tokens a job, want %.1f", p.tokens[0], exact)
	}
	if half := newPath(&s, 0.5); half.jobs != n/2 {
		t.Errorf("%v jobs, half of which wait for others", half.jobs)
	}
}

// BenchmarkPlan is what planning does for a job before it is stored, with the forecast's part and without.
func BenchmarkPlan(b *testing.B) {
	for _, n := range []int64{2000, 1_000_000} {
		batch := templated(b, n, `"openai:gpt-4o-mini"`)
		in := jobInput(5)
		b.Run(fmt.Sprintf("keys/%d", n), func(b *testing.B) {
			for b.Loop() {
				planJob(batch, in)
			}
		})
		b.Run(fmt.Sprintf("weighed/%d", n), func(b *testing.B) {
			sc := newScale(store.Reader{}, batch, pricing.Default())
			hits := make([]*store.Hit, planPart)
			p := newPart()
			for seq := int32(1); b.Loop(); seq++ {
				in.Seq = seq
				row, found := planJob(batch, in)
				if p.rows, p.jobs = append(p.rows, row), append(p.jobs, sc.put(in, found)); len(p.rows) == planPart {
					sc.tally(context.Background(), p, hits, false)
					p = newPart()
				}
			}
		})
	}
}

// A document's calls are estimated from its size; over many documents that comes to what summaries of them take.
func TestCallsOfADocumentAreKnownFromItsSize(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		strategy  string
		maxTokens int
		limit     int
	}{{"", 60, 800}, {"", 200, 800}, {"", 400, 1000}, {byRefining, 100, 800}} {
		expected, came := 0.0, 0
		for i := range 40 {
			a := newReader(t)
			o := brief
			o.Strategy, o.MaxTokens = c.strategy, c.maxTokens
			s := &summary{o: o, text: proseOf(rand.New(rand.NewPCG(uint64(i), 9)), 500+1500*i), limit: c.limit, count: quarters, ask: a.ask}
			strategy, _ := s.strategy(quarters(s.text))
			calls, _ := s.expect(strategy, s.count(s.text))
			expected += calls
			out, err := s.build(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			came += out.Coverage.Calls
		}
		t.Logf("%+v: expected %.0f, came %d", c, expected, came)
		if ratio := float64(came) / expected; ratio < 0.85 || ratio > 1.15 {
			t.Errorf("%+v: expected %.0f calls, %d came", c, expected, came)
		}
	}
}
