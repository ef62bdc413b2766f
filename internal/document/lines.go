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

// fence is a line that begins with three or more ` or ~, indented by up to three spaces.
type fence struct {
	mark byte // 0 of any other line
	long bool // of four or more: one of three within such a block is part of it
	info bool // something stands behind the mark, as a language does; such a fence opens a block
}

func fenceOf(line string) fence {
	for i := 0; i < 3 && len(line) > 0 && line[0] == ' '; i++ {
		line = line[1:]
	}
	if len(line) < 3 || line[0] != '`' && line[0] != '~' {
		return fence{}
	}
	rest := strings.TrimLeft(line, line[:1])
	width := len(line) - len(rest)
	if width < 3 || line[0] == '`' && strings.IndexByte(rest, '`') >= 0 {
		return fence{}
	}
	return fence{mark: line[0], long: width > 3, info: !blank(rest)}
}

// maxFence bounds a code block, in bytes.
const maxFence = 8 << 10

// codeEnd returns where the code block ends whose first fence is the line before start; start itself if it isn't one.
//
// A fence opens a code block or closes it, by what came before. Were that all, a fence too many or too few would turn all that follows inside
// out. So a fence is paired with the next one like it or not at all: that must be near, and not look like the beginning of another block, by a
// language or by a blank line before it and text behind it.
func (f fence) codeEnd(text string, start int) int {
	gap := false
	for at := start; at < len(text) && at-start <= maxFence; {
		end := nextLine(text, at)
		line := text[at:end]
		if g := fenceOf(line); g.mark == f.mark && (g.long || !f.long) {
			if g.info || gap && !blankLine(text[end:]) {
				return start
			}
			return end
		}
		gap = blank(line)
		at = end
	}
	return start
}

// block is a paragraph, a list, a code block or a heading with the blank lines after it.
type block struct {
	start, end int
	level      int // of a heading, else 0
}

// nextBlock returns the block that begins at start; an empty one at the end of the text.
func nextBlock(text string, start int) block {
	b := block{start: start, end: start}
	lines, gap := 0, false // lines with text so far; blank lines since
	for b.end < len(text) {
		end := nextLine(text, b.end)
		line := text[b.end:end]
		switch {
		case blank(line):
			gap = lines > 0
		case gap:
			return b
		default:
			level := headingLevel(line)
			switch {
			case lines > 0 && (b.level > 0 || level > 0):
				return b
			case level > 0:
				b.level = level
			case lines == 1:
				b.level = underlineLevel(line)
			}
			// One that has text before it and a blank line behind it closes a block that was not found to be one.
			if f := fenceOf(line); f.mark != 0 && b.level == 0 && (f.info || lines == 0 || !blankLine(text[end:])) {
				end = f.codeEnd(text, end)
			}
			lines++
		}
		b.end = end
	}
	return b
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
