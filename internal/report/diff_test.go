package report

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"

	"batchwright/internal/store"
)

func of[T any](v T) *T { return &v }

func TestReasons(t *testing.T) {
	t.Parallel()
	made := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	// A row of two jobs with one answer; each case differs from it.
	row := func(change func(r *store.DiffRow)) *store.DiffRow {
		r := &store.DiffRow{BeforeSeq: of(int32(1)), AfterSeq: of(int32(1)), SameInput: true, SameRow: true, SameOutput: true, BeforeState: "succeeded", AfterState: "succeeded",
			BeforeProvider: of("p"), AfterProvider: of("p"), BeforeModel: of("m"), AfterModel: of("m"), BeforeMade: &made, BeforeCost: of(int64(5)), AfterCost: of(int64(0))}
		change(r)
		return r
	}
	asked := func(r *store.DiffRow) { r.SameRow, r.SameOutput = false, false }
	young := store.Batch{CreatedAt: made.Add(time.Hour), MaxAgeSeconds: of(int32(60)), Cache: "use"}
	for name, tt := range map[string]struct {
		diff   Diff
		change func(r *store.DiffRow)
		status string
		want   []string
	}{
		"nothing":                {Diff{}, func(*store.DiffRow) {}, Same, nil},
		"input":                  {Diff{}, func(r *store.DiffRow) { asked(r); r.SameInput = false }, Changed, []string{Input}},
		"input, same answer":     {Diff{}, func(r *store.DiffRow) { r.SameInput, r.SameRow = false, false }, Same, []string{Input}},
		"template":               {Diff{request: []string{Template}}, asked, Changed, []string{Template}},
		"fallback":               {Diff{}, func(r *store.DiffRow) { asked(r); r.AfterModel = of("n") }, Changed, []string{AnsweredBy}},
		"another snapshot":       {Diff{}, func(r *store.DiffRow) { asked(r); r.AfterBy = of("m-2026") }, Changed, []string{AnsweredBy}},
		"expired":                {Diff{After: young}, asked, Changed, []string{Expired}},
		"expired and by another": {Diff{After: young}, func(r *store.DiffRow) { asked(r); r.AfterModel = of("n") }, Changed, []string{AnsweredBy, Expired}},
		"young enough, yet anew": {Diff{After: young}, func(r *store.DiffRow) { asked(r); r.BeforeMade = of(made.Add(time.Hour)) }, Changed, []string{Refreshed}},
		"refreshed, same words":  {Diff{After: store.Batch{Cache: "refresh"}}, func(r *store.DiffRow) { r.SameRow = false }, Same, []string{Refreshed}},
		"kept out of the cache":  {Diff{Before: store.Batch{Cache: "off"}}, asked, Changed, []string{CacheOff}},
		"failed before":          {Diff{}, func(r *store.DiffRow) { asked(r); r.BeforeState = "failed" }, Changed, []string{PreviouslyFailed}},
		"fails now, other input": {Diff{}, func(r *store.DiffRow) { r.AfterState, r.SameInput = "failed", false }, Changed, []string{Input, Failed}},
		"the same failure": {Diff{}, func(r *store.DiffRow) {
			r.BeforeState, r.AfterState, r.BeforeError, r.AfterError = "failed", "failed", of("x"), of("x")
		}, Same, nil},
		"another failure": {Diff{}, func(r *store.DiffRow) {
			r.BeforeState, r.AfterState, r.BeforeError, r.AfterError = "failed", "failed", of("x"), of("y")
		}, Changed, []string{OtherError}},
		"cancelled after failing": {Diff{}, func(r *store.DiffRow) { r.BeforeState, r.AfterState = "failed", "cancelled" }, Changed, []string{OtherError}},
	} {
		i := tt.diff.item(row(tt.change))
		if i.Status != tt.status || !slices.Equal(i.Reasons, tt.want) {
			t.Errorf("%s: %s %v, want %s %v", name, i.Status, i.Reasons, tt.status, tt.want)
		}
	}
	if i := (&Diff{}).item(row(func(r *store.DiffRow) { r.AfterCost = nil })); i.Difference != nil {
		t.Errorf("the difference to an unknown cost is %d", *i.Difference)
	}
	if i := (&Diff{}).item(row(func(r *store.DiffRow) { r.AfterSeq, r.AfterCost = nil, nil })); i.Status != Gone || *i.Difference != -5 {
		t.Errorf("gone: %+v", i)
	}
}

// nights are two batches whose jobs are matched as after says, by the position in the batch before; 0 is none.
type nights struct {
	Reader
	ids    [2]uuid.UUID
	jobs   int32 // of the batch before
	after  []int32
	passes int // over the batch before
}

func (n *nights) Match(_ context.Context, batch, _ uuid.UUID, after int32, limit int) (out []store.Match, err error) {
	last := n.jobs
	if batch == n.ids[1] {
		last = int32(len(n.after))
	} else if after == 0 {
		n.passes++
	}
	for seq := after + 1; seq <= last && len(out) < limit; seq++ {
		m := store.Match{Seq: seq}
		if batch == n.ids[1] {
			if o := n.after[seq-1]; o > 0 {
				m.Other = &o
			}
		} else if i := slices.Index(n.after, seq); i >= 0 {
			m.Other = of(int32(i + 1))
		}
		out = append(out, m)
	}
	return out, nil
}

func (n *nights) DiffJobs(_ context.Context, _, _ store.Batch, pairs []store.Pair, _ store.DiffOptions) (out []store.DiffRow, err error) {
	for _, p := range pairs {
		out = append(out, store.DiffRow{BeforeSeq: p.Before, AfterSeq: p.After, SameInput: true, SameRow: true, SameOutput: true, BeforeState: "succeeded", AfterState: "succeeded"})
	}
	return out, nil
}

func TestTheBatchBeforeIsReadForWhatIsGoneOnly(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		jobs         int32
		after        []int32
		passes, gone int
	}{
		"the same jobs":               {3, []int32{1, 2, 3}, 0, 0},
		"more of them":                {2, []int32{0, 1, 2, 0}, 0, 0},
		"one less":                    {3, []int32{1, 3}, 1, 1},
		"one instead, twice the same": {3, []int32{1, 1, 3}, 1, 1},
		"in another order":            {3, []int32{2, 1, 3}, 1, 0},
		"nothing left":                {2, nil, 1, 2},
	} {
		n := &nights{ids: [2]uuid.UUID{{1}, {2}}, jobs: tt.jobs, after: tt.after}
		d := &Diff{Before: store.Batch{ID: n.ids[0], TotalJobs: int64(tt.jobs)}, After: store.Batch{ID: n.ids[1], TotalJobs: int64(len(tt.after))}, read: n}
		gone := 0
		for i, err := range d.Items(t.Context(), DiffOptions{}) {
			if err != nil {
				t.Fatal(err)
			}
			if i.Status == Gone {
				gone++
			}
		}
		if n.passes != tt.passes || gone != tt.gone {
			t.Errorf("%s: %d passes over the batch before, want %d; %d jobs gone, want %d", name, n.passes, tt.passes, gone, tt.gone)
		}
		// In pages it is the same, and a page doesn't know of those before it.
		pages := 0
		for at := (&Place{}); at != nil; {
			items, next, err := d.Page(t.Context(), DiffOptions{After: *at, Status: Gone}, 1)
			if err != nil {
				t.Fatal(err)
			}
			pages += len(items)
			at = next
		}
		if pages != tt.gone {
			t.Errorf("%s: %d jobs gone in pages, want %d", name, pages, tt.gone)
		}
	}
}

func TestTextDiffsAreBoundedInSizeAndTime(t *testing.T) {
	t.Parallel()
	text, partial := unified("a\nb\nc\n", "a\nx\nc\n", false)
	if partial || !strings.Contains(text, "\n-b\n+x\n") || !strings.HasPrefix(text, "--- before\n+++ after\n") {
		t.Errorf("%t %q", partial, text)
	}
	if text, _ = unified(`{"a":1,"b":2}`, `{"a":1,"b":3}`, true); !strings.Contains(text, "-  \"b\": 2\n+  \"b\": 3\n") {
		t.Errorf("%q", text)
	}
	// Long texts with nothing in common, of short lines, are the worst case.
	var a, b strings.Builder
	for i := range maxText {
		a.WriteString(string(rune('a'+i*i%26)) + "\n")
		b.WriteString(string(rune('A'+i*i%26)) + "\n")
	}
	began := time.Now()
	if text, partial = unified(a.String(), b.String(), false); !partial || len(text) > 4*maxText {
		t.Errorf("%t, %d bytes", partial, len(text))
	}
	if d := time.Since(began); d > 5*time.Second {
		t.Errorf("it took %s", d)
	}
	wide := strings.Repeat("ü", maxText+1)
	if got, was := cut(wide); !was || utf8.RuneCountInString(got) != maxText || !utf8.ValidString(got) {
		t.Errorf("cut to %d bytes", len(got))
	}
}

func FuzzParsePlace(f *testing.F) {
	for _, s := range []string{"", "7", "gone:9", "gone:", "-1", "99999999999", "gone:gone:1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := ParsePlace(s)
		if err != nil {
			return
		}
		if again, err := ParsePlace(p.String()); err != nil || again != p || p.Seq < 0 {
			t.Errorf("%q is %+v, then %+v, %v", s, p, again, err)
		}
	})
}
