package gateway

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/clipperhouse/uax29/v2/sentences"

	"batchwright/internal/abbrev"
)

// paragraph is a run of text without Markdown's marks. An aside (a heading, code, a table) is no sentence: it is taken
// only when the document holds nothing else.
type paragraph struct {
	text  string
	aside bool
}

// sentencesIn returns the sentences of a document in order.
func sentencesIn(doc string) []*sentence {
	ps := paragraphs(doc)
	prose := false
	for _, p := range ps {
		prose = prose || !p.aside
	}
	var ss []*sentence
	for i, p := range ps {
		if p.aside && prose {
			continue
		}
		for _, s := range split(p.text) {
			ss = append(ss, &sentence{text: s, paragraph: i, index: len(ss)})
		}
	}
	return ss
}

var newlines = strings.NewReplacer("\r\n", "\n", "\r", "\n")

// paragraphs reads plain text or Markdown: blank lines and list items separate, wrapped lines are joined.
func paragraphs(doc string) []paragraph {
	var ps []paragraph
	var lines []string
	flush := func(aside bool) {
		if text := joinLines(lines); text != "" {
			ps = append(ps, paragraph{text, aside})
		}
		lines = lines[:0]
	}
	code := false
	for line := range strings.Lines(newlines.Replace(doc)) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "```") || strings.HasPrefix(line, "~~~") {
			flush(code)
			code = !code
			continue
		}
		if code {
			lines = append(lines, line)
			flush(true)
			continue
		}
		for strings.HasPrefix(line, ">") {
			line = strings.TrimSpace(line[1:])
		}
		switch {
		case line == "":
			flush(false)
		case isRule(line):
			flush(len(lines) == 1 && (line[0] == '=' || line[0] == '-')) // an underlined heading, else a rule
		case line[0] == '#' && strings.TrimLeft(line, "#") != line && headingText(line) != "":
			flush(false)
			lines = append(lines, headingText(line))
			flush(true)
		case line[0] == '|':
			flush(false)
			lines = append(lines, line)
			flush(true)
		default:
			if item, ok := listItem(line); ok {
				flush(false)
				line = item
			}
			if line != "" {
				lines = append(lines, line)
			}
		}
	}
	flush(code)
	return ps
}

// isRule matches lines of three or more of one of the marks that underline or separate.
func isRule(line string) bool {
	return len(line) >= 3 && strings.Contains("=-*_", line[:1]) && strings.Trim(line, line[:1]+" ") == ""
}

// headingText returns the text of a line such as "## Title ##", or "".
func headingText(line string) string {
	rest := strings.TrimLeft(line, "#")
	if level := len(line) - len(rest); level > 6 || rest == "" || rest[0] != ' ' && rest[0] != '\t' {
		return ""
	}
	return strings.TrimSpace(strings.TrimRight(rest, "# \t"))
}

// listItem strips the mark of a list item: "- ", "* ", "+ ", "• ", "1. " or "1) ", and a task's box.
func listItem(line string) (string, bool) {
	rest := ""
	switch {
	case strings.HasPrefix(line, "- "), strings.HasPrefix(line, "* "), strings.HasPrefix(line, "+ "):
		rest = line[2:]
	case strings.HasPrefix(line, "• "):
		rest = line[len("• "):]
	default:
		i := 0
		for i < len(line) && i < 3 && line[i] >= '0' && line[i] <= '9' {
			i++
		}
		if i == 0 || i+1 >= len(line) || line[i] != '.' && line[i] != ')' || line[i+1] != ' ' {
			return line, false
		}
		rest = line[i+2:]
	}
	rest = strings.TrimSpace(rest)
	for _, box := range []string{"[ ] ", "[x] ", "[X] "} {
		rest = strings.TrimPrefix(rest, box)
	}
	return rest, true
}

// joinLines joins wrapped lines, with a space unless the script has none.
func joinLines(lines []string) string {
	var b strings.Builder
	var last rune
	for _, line := range lines {
		first, _ := utf8.DecodeRuneInString(line)
		if b.Len() > 0 && !(wide(last) && wide(first)) {
			b.WriteByte(' ')
		}
		b.WriteString(line)
		last, _ = utf8.DecodeLastRuneInString(line)
	}
	return strings.TrimSpace(b.String())
}

// wide are the letters and marks of Chinese and Japanese, which wrap without a space.
func wide(r rune) bool {
	return r >= 0x3000 && r <= 0x303f || r >= 0xff00 && r <= 0xffef ||
		unicode.In(r, unicode.Han, unicode.Hiragana, unicode.Katakana)
}

const longSentence = 600 // bytes; a longer one is divided where it pauses

// split returns the sentences of a paragraph: Unicode's rules (UAX 29), which break after any full stop before a
// capital, mended after abbreviations and initials.
func split(p string) []string {
	var out []string
	start, end := 0, 0
	for it := sentences.FromString(p); it.Next(); {
		end = it.End()
		if s := strings.TrimSpace(p[start:end]); !abbrev.Ends(s) || end-start > longSentence {
			out = divide(out, s)
			start = end
		}
	}
	return divide(out, strings.TrimSpace(p[start:]))
}

// divide appends s, in parts if it is very long: after a semicolon, a comma of a script without spaces, or a space.
func divide(out []string, s string) []string {
	for len(s) > longSentence {
		at := -1
		for i, r := range s[:longSentence] {
			switch {
			case r == ';' || r == '；' || r == '，' || r == '、' || r == '。' || r == '।':
				at = i + utf8.RuneLen(r)
			case unicode.IsSpace(r) && at < longSentence/2:
				at = i
			}
		}
		if at <= 0 {
			break
		}
		out = append(out, strings.TrimSpace(s[:at]))
		s = strings.TrimSpace(s[at:])
	}
	if s == "" {
		return out
	}
	return append(out, s)
}
