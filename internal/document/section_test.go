package document

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"pgregory.net/rapid"
)

func TestSections(t *testing.T) {
	t.Parallel()
	text := "Before.\n\n# One #\n\nText.\n\n## C#\n```\n# no heading\n```\n\nTwo\n===\nMore.\n\n###\n# \n"
	var got []string
	for _, s := range Sections(text) {
		got = append(got, fmt.Sprintf("%d %q %q", s.Level, s.Heading, text[s.Start:s.End]))
	}
	want := []string{
		`0 "" "Before.\n\n"`, `1 "One" "# One #\n\nText.\n\n"`, `2 "C#" "## C#\n` + "```" + `\n# no heading\n` + "```" + `\n\n"`,
		`1 "Two" "Two\n===\nMore.\n\n###\n"`, `1 "" "# \n"`,
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestSectionsJoinToTheText(t *testing.T) {
	t.Parallel()
	pieces := rapid.SampledFrom([]string{"# A\n", "## B", "\n", "\n\n", "text ", "===\n", "```\n", "```go\n", " ", "# \n", "é。"})
	rapid.Check(t, func(t *rapid.T) {
		text := strings.Join(rapid.SliceOfN(pieces, 0, 60).Draw(t, "pieces"), "")
		at := 0
		for _, s := range Sections(text) {
			if s.Start != at || s.End <= at || strings.Contains(s.Heading, "\n") {
				t.Fatalf("section %+v after %d", s, at)
			}
			at = s.End
		}
		if at != len(text) {
			t.Fatalf("the sections end at %d of %d", at, len(text))
		}
	})
}

func TestLead(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"":                                    "",
		"# Only a heading\n":                  "",
		"# H\n\n## I\n\nFirst one. Second.\n": "First one.",
		"See Dr.\nWho of St. Ives. He left.":  "See Dr. Who of St. Ives.",
		"今天天气很好。我们去公园。":                         "今天天气很好。",
		strings.Repeat("word ", 100):            strings.TrimSpace(strings.Repeat("word ", 40)) + "…",
		"\xff\xfe A line":                       "A line",
		"- item one\n- item two":                "- item one - item two",
		"No end":                                "No end",
		"a." + strings.Repeat("\"", 5000) + "b": "a." + strings.Repeat("\"", longestGap-1),
	} {
		if got := Lead(text); got != want {
			t.Errorf("%.40q: got %q, want %q", text, got, want)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		if lead := Lead(rapid.String().Draw(t, "text")); utf8.RuneCountInString(lead) > leadLength+1 || strings.ContainsAny(lead, "\r\n") || !utf8.ValidString(lead) {
			t.Fatalf("%q", lead)
		}
	})
}

// A fence too many or too few must not turn what follows inside out.
func TestFencesComeToTerms(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	for i := range 200 {
		fmt.Fprintf(&b, "## Part %d\n\nSome words about part %d.\n\n```\n# code %d\n\nmore code\n```\n\n", i, i, i)
	}
	text := b.String()
	before := map[Section]bool{}
	for _, s := range Sections(text) {
		before[Section{Level: s.Level, Heading: s.Heading, End: s.End - s.Start}] = true
	}
	for n, fence := 0, strings.Index(text, "```"); n < 40; n++ {
		for _, edited := range []string{text[:fence] + text[fence+4:], text[:fence] + "```\n" + text[fence:], text[:fence] + "```\n\n" + text[fence:]} {
			changed := 0
			for _, s := range Sections(edited) {
				if !before[Section{Level: s.Level, Heading: s.Heading, End: s.End - s.Start}] {
					changed++
				}
			}
			if changed > 3 {
				t.Errorf("a fence at %d changes %d sections", fence, changed)
			}
		}
		fence += 4 + strings.Index(text[fence+4:], "```")
	}
}
