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

// A fence too many or too few, or one that is none any more, must not turn what follows inside out.
func TestFencesComeToTerms(t *testing.T) {
	t.Parallel()
	for name, open := range map[string]string{"bare": "```\n", "with a language": "```sh\n"} {
		var b strings.Builder
		for i := range 200 {
			fmt.Fprintf(&b, "## Part %d\n\nSome words about part %d.\n\n%s# code %d\n\nmore code\n```\n\n", i, i, open, i)
		}
		text := b.String()
		before := map[Section]bool{}
		for _, s := range Sections(text) {
			before[Section{Level: s.Level, Heading: s.Heading, End: s.End - s.Start}] = true
		}
		if len(before) < 200 || before[Section{Level: 1, Heading: "code 7"}] {
			t.Fatalf("%s: %d sections", name, len(before))
		}
		fence := 0
		for range 40 {
			fence += strings.Index(text[fence:], "```")
			line := nextLine(text, fence)
			for _, edited := range []string{
				text[:fence] + text[line:], text[:fence] + "Some words " + text[fence:], text[:fence] + text[line-1:], text[:line] + "```\n" + text[line:],
				text[:fence] + "```\n" + text[fence:], text[:fence] + "```\n\n" + text[fence:],
			} {
				changed := 0
				for _, s := range Sections(edited) {
					if !before[Section{Level: s.Level, Heading: s.Heading, End: s.End - s.Start}] {
						changed++
					}
				}
				if changed > 3 {
					t.Errorf("%s: a fence at %d changes %d sections:\n%s", name, fence, changed, edited[max(0, fence-80):fence+80])
				}
			}
			fence = line
		}
	}
}

func TestCodeBlocks(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("code\n", maxFence/5+1)
	for _, c := range []struct {
		text string
		want int // headings
	}{
		{"```\n# a\n\n# b\n```\n", 0},
		{"```\n# a\n\n# b\n", 2},                         // never closed
		{"```\n" + long + "\n# a\n```\n", 1},             // too long to be one
		{"````md\n```\n# a\n```\n\n# b\n````\n# c\n", 1}, // shows a block
		{"~~~\n```\n# a\n~~~\n", 0},
		{"```\n# a\n~~~\n# b\n```\n", 0},
		{"   ```\n# a\n```\n", 0},
		{"    ```\n\n# a\n", 1},                      // indented too far
		{"``` `x` ```\n\n# a\n\n```\n# b\n```\n", 1}, // code within a line
		{"text\n```\n# a\n```\nmore\n", 0},
		{"text\n```\n\n# a\n\n```\n# b\n```\n", 1}, // the first one closes what never began
		{"```go\n# a\n\n```sh\n# b\n```\n", 1},     // the second one begins anew
	} {
		headings := 0
		for _, s := range Sections(c.text) {
			if s.Level > 0 {
				headings++
			}
		}
		if headings != c.want {
			t.Errorf("%.60q has %d headings, want %d", c.text, headings, c.want)
		}
	}
}
