package report

import (
	"bytes"
	"encoding/json"
	"unicode/utf8"

	udiff "github.com/aymanbagabas/go-udiff"
)

// unified is the unified diff of two outputs, of which at most maxText characters are looked at. JSON is compared with a line for each of its
// values. The search for the shortest diff is bounded: of texts with little in common it may be a longer one.
func unified(before, after string, isJSON bool) (text string, partial bool) {
	before, cutBefore := cut(before)
	after, cutAfter := cut(after)
	partial = cutBefore || cutAfter
	if isJSON && !partial {
		before, after = indented(before), indented(after)
	}
	text, err := udiff.ToUnified("before", "after", before, udiff.Lines(before, after), udiff.DefaultContextLines)
	if err != nil { // edits that don't fit the text: a bug of the library
		return "", partial
	}
	return text, partial
}

func cut(text string) (string, bool) {
	if len(text) <= maxText || utf8.RuneCountInString(text) <= maxText {
		return text, false
	}
	n := 0
	for i := range text {
		if n == maxText {
			return text[:i], true
		}
		n++
	}
	return text, false
}

func indented(text string) string {
	var b bytes.Buffer
	if json.Indent(&b, []byte(text), "", "  ") != nil {
		return text
	}
	return b.String()
}
