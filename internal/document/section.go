package document

import (
	"strings"
	"unicode/utf8"

	"github.com/clipperhouse/uax29/v2/sentences"

	"batchwright/internal/abbrev"
)

// Section is a heading with what is below it up to the next heading of any level, or what comes before the first one. Start and End are offsets
// in bytes.
type Section struct {
	Start, End int
	Level      int    // 1 to 6; 0 before the first heading
	Heading    string // on one line, without its marks
}

// Sections returns the sections of a text. Joined they are the text.
func Sections(text string) []Section {
	var out []Section
	for b := nextBlock(text, 0); b.start < len(text); b = nextBlock(text, b.end) {
		if b.level > 0 || len(out) == 0 {
			out = append(out, Section{Start: b.start, Level: b.level, Heading: headingOf(text, b)})
		}
		out[len(out)-1].End = b.end
	}
	return out
}

// headingOf returns the text of a heading's block; nothing for another block.
func headingOf(text string, b block) string {
	if b.level == 0 {
		return ""
	}
	line := text[b.start:nextLine(text, b.start)]
	if headingLevel(line) == 0 {
		return strings.TrimSpace(line) // underlined
	}
	title := strings.TrimSpace(strings.TrimLeft(line, "#"))
	if bare := strings.TrimRight(title, "#"); bare == "" || strings.HasSuffix(bare, " ") {
		title = strings.TrimSpace(bare)
	}
	return title
}

// leadLength is how long a lead may be, in characters.
const leadLength = 200

// Lead returns the first sentence of a text below its heading, on one line; of a long one the beginning.
func Lead(text string) string {
	b := nextBlock(text, 0)
	for b.level > 0 {
		b = nextBlock(text, b.end)
	}
	paragraph := text[b.start:min(b.end, b.start+8*leadLength)]
	paragraph = paragraph[:safeForSentences(paragraph)]
	line := ""
	for parts := sentences.FromString(strings.Join(strings.Fields(strings.ToValidUTF8(paragraph, "")), " ")); parts.Next(); {
		line += parts.Value()
		if strings.TrimSpace(line) != "" && !abbrev.Ends(strings.TrimSpace(line)) {
			break
		}
	}
	line = strings.TrimSpace(line)
	if utf8.RuneCountInString(line) <= leadLength {
		return line
	}
	line = string([]rune(line)[:leadLength])
	if i := strings.LastIndexByte(line, ' '); i > 0 {
		line = line[:i]
	}
	return strings.TrimSpace(line) + "…"
}
