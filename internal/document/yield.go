package document

import (
	"fmt"
	"unicode"
	"unicode/utf8"
)

const (
	// minLetters is how many letters a text needs to be worth a call. An ideograph or a syllable counts as three.
	minLetters = 20
	// minPageLetters is how many a page of a PDF needs on average. Scanned books have some text: a cover, a stamp.
	minPageLetters = 10
	// maxBroken is the share of characters that stand for none (private use, U+FFFD) above which a text is garbled.
	maxBroken = 0.1
	// minReadable is the least share of letters and digits in the text of a PDF, white space aside: fonts without a table
	// of their characters give punctuation.
	minReadable = 0.5
)

// enough refuses a text that is no worth a call, and sets the figures of doc. What letters say isn't looked at: a PDF whose
// font maps letters to other letters passes.
func enough(doc *Document, size int) *Error {
	letters, weight, digits, broken, visible := 0, 0, 0, 0, 0
	for _, r := range doc.Text {
		switch {
		case unicode.IsSpace(r):
			continue
		case unicode.IsLetter(r):
			letters++
			weight++
			if r >= 0x1100 && unicode.In(r, unicode.Han, unicode.Hiragana, unicode.Katakana, unicode.Hangul) {
				weight += 2
			}
		case unicode.IsDigit(r) || unicode.IsMark(r):
			digits++
		case r == utf8.RuneError || unicode.Is(unicode.Co, r):
			broken++
		}
		visible++
	}
	doc.Characters = utf8.RuneCountInString(doc.Text)
	if visible > 0 {
		doc.Letters = float64(letters) / float64(visible)
	}
	refuse := func(code Code, what, remedy string) *Error {
		found := fmt.Sprintf("%d bytes, ", size)
		if doc.Pages > 0 {
			found += fmt.Sprintf("%d pages, ", doc.Pages)
		}
		return &Error{Code: code, Figures: doc.Figures,
			Message: fmt.Sprintf("the document %s: %s%d characters, %.0f%% of them letters%s", what, found, doc.Characters, 100*doc.Letters, remedy)}
	}
	pdf := doc.Format == "pdf"
	switch {
	case visible == 0 && pdf && doc.Pages > 0:
		return refuse(CodeNoText, "has no text", "; it looks scanned: run text recognition (OCR) over it first")
	case visible == 0:
		return refuse(CodeEmpty, "has no text", "")
	case weight < minLetters:
		return refuse(CodeNoText, "has almost no text", fmt.Sprintf("; at least %d letters are needed", minLetters))
	case pdf && weight < minPageLetters*doc.Pages:
		return refuse(CodeNoText, "has almost no text for its pages", "; it looks scanned: run text recognition (OCR) over it first")
	case float64(broken) > maxBroken*float64(visible),
		pdf && float64(letters+digits) < minReadable*float64(visible):
		return refuse(CodeNoText, "has garbled text", "; its fonts don't say which characters they draw: print it to PDF anew, or run text recognition (OCR) over it")
	}
	return nil
}
