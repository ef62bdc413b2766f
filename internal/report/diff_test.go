package report

import (
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

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
