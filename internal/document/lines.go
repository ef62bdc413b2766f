package document

import "strings"

// headingLevel returns the level of a markdown heading such as "## Results", or 0.
func headingLevel(line string) int {
	level := 0
	for level < len(line) && line[level] == '#' {
		level++
	}
	if level == 0 || level > 6 || level == len(line) || line[level] != ' ' && line[level] != '\t' {
		return 0
	}
	return level
}

// underlineLevel returns the level that a line of === (1) or --- (2) gives to the line above it, or 0.
func underlineLevel(line string) int {
	line = strings.TrimRight(line, " \t\n")
	switch {
	case len(line) < 3:
		return 0
	case strings.Trim(line, "=") == "":
		return 1
	case strings.Trim(line, "-") == "":
		return 2
	}
	return 0
}

// fenceState follows the fenced code blocks of a markdown text.
type fenceState struct {
	mark  byte // of the open block, 0 outside
	width int
}

// line takes the next line and reports whether it belongs to a code block, its fences included.
func (f *fenceState) line(line string) bool {
	mark, width, rest := fenceMark(line)
	if f.mark == 0 {
		if mark == 0 || mark == '`' && strings.IndexByte(rest, '`') >= 0 {
			return false
		}
		f.mark, f.width = mark, width
		return true
	}
	if mark == f.mark && width >= f.width && strings.TrimSpace(rest) == "" {
		f.mark = 0
	}
	return true
}

// fenceMark recognises a line that begins with three or more ` or ~, indented by up to three spaces.
func fenceMark(line string) (mark byte, width int, rest string) {
	for i := 0; i < 3 && len(line) > 0 && line[0] == ' '; i++ {
		line = line[1:]
	}
	if len(line) < 3 || line[0] != '`' && line[0] != '~' {
		return 0, 0, ""
	}
	for width < len(line) && line[width] == line[0] {
		width++
	}
	if width < 3 {
		return 0, 0, ""
	}
	return line[0], width, line[width:]
}

// block is a paragraph, a list, a code block or a heading with the blank lines after it.
type block struct {
	start, end int
	level      int // of a heading, else 0
}

// maxFence bounds a code block, in bytes. A fence that nobody closes must not swallow the rest of the text.
const maxFence = 8 << 10

// nextBlock returns the block that begins at start; an empty one at the end of the text.
//
// A fence opens a code block or closes it, by what came before: were that all, a fence too many would turn all that follows inside out. So
// one that has text before it and a blank line behind it opens nothing, and one that has a blank line before it and text behind it, or a
// language, begins a new block even where one is open.
func nextBlock(text string, start int) block {
	b := block{start: start, end: start}
	var open fenceState
	lines, gap := 0, false // lines with text so far; blank lines since
	for b.end < len(text) {
		end := nextLine(text, b.end)
		line := text[b.end:end]
		switch {
		case open.mark != 0 && end-start <= maxFence:
			if lines > 0 && open.reopens(line, gap, text[end:]) {
				return b
			}
			open.line(line)
			gap = blank(line)
			lines++
		case blank(line):
			gap = lines > 0
		case gap:
			return b
		default:
			open.mark = 0
			level := headingLevel(line)
			switch {
			case lines > 0 && (b.level > 0 || level > 0):
				return b
			case level > 0:
				b.level = level
			case lines == 1:
				b.level = underlineLevel(line)
			}
			if b.level == 0 && !(lines > 0 && bareFence(line) && blankLine(text[end:])) {
				open.line(line)
			}
			lines++
		}
		b.end = end
	}
	return b
}

// reopens reports whether a line within a code block begins another one.
func (f *fenceState) reopens(line string, afterGap bool, behind string) bool {
	mark, width, rest := fenceMark(line)
	if mark != f.mark || width < f.width {
		return false
	}
	return strings.TrimSpace(rest) != "" && (mark != '`' || strings.IndexByte(rest, '`') < 0) || afterGap && !blankLine(behind)
}

func bareFence(line string) bool {
	mark, _, rest := fenceMark(line)
	return mark != 0 && strings.TrimSpace(rest) == ""
}

// nextLine returns where the line after the one at i begins.
func nextLine(text string, i int) int {
	if n := strings.IndexByte(text[i:], '\n'); n >= 0 {
		return i + n + 1
	}
	return len(text)
}

// boundary says how good a place to cut lies between two blocks.
func boundary(before, after block) strength {
	switch {
	case before.level > 0:
		return betweenLines
	case after.level > 0:
		return beforeHeading + strength(6-after.level)
	}
	return betweenParagraphs
}
