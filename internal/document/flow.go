package document

import (
	"bytes"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// flow makes running text of pages that were set in lines.
func flow(pages []string) string {
	lines := make([][]string, len(pages))
	for i, page := range pages {
		lines[i] = strings.Split(strings.NewReplacer("\r\n", "\n", "\r", "\n", "\f", "").Replace(page), "\n")
		for j, line := range lines[i] {
			lines[i][j] = strings.TrimSpace(leaders.ReplaceAllString(strings.ReplaceAll(line, "\u00a0", " "), " … "))
		}
	}
	dropRunning(lines)
	f := flowing{words: newLexicon(lines)}
	for _, page := range lines {
		f.page(page)
	}
	return string(f.out)
}

// leaders are the dots of a table of contents.
var leaders = regexp.MustCompile(`(?: ?\.){6,} ?`)

// edge is how many lines at the top and at the bottom of a page may be a running header or footer.
const edge = 2

// dropRunning drops lines at the edges of pages that at least a third of the pages have, whatever numbers are in them. Left and right pages
// may have headers of their own.
func dropRunning(pages [][]string) {
	if len(pages) < 4 {
		return
	}
	seen := map[string]int{}
	for _, page := range pages {
		here := map[string]bool{}
		for _, i := range edges(page) {
			here[numberless(page[i])] = true
		}
		for line := range here {
			seen[line]++
		}
	}
	enough := max(3, (len(pages)+2)/3)
	for _, page := range pages {
		for _, i := range edges(page) {
			if seen[numberless(page[i])] >= enough {
				page[i] = ""
			}
		}
	}
}

// edges returns which lines of a page are its first and last ones with text.
func edges(page []string) []int {
	var out []int
	for i := 0; i < len(page) && len(out) < edge; i++ {
		if page[i] != "" {
			out = append(out, i)
		}
	}
	n := len(out)
	for i := len(page) - 1; i >= 0 && len(out) < n+edge && (n == 0 || i > out[n-1]); i-- {
		if page[i] != "" {
			out = append(out, i)
		}
	}
	return out
}

var (
	numerals = regexp.MustCompile(`\d+`)
	roman    = regexp.MustCompile(`^[ivxlc]+$`)
)

// numberless returns a line with every number, and a roman one that stands alone, replaced by #.
func numberless(line string) string {
	if roman.MatchString(line) {
		return "#"
	}
	return numerals.ReplaceAllString(line, "#")
}

// usualWidth is the length of the longer lines of a page, in characters.
func usualWidth(page []string) int {
	var widths []int
	for _, line := range page {
		if line != "" {
			widths = append(widths, utf8.RuneCountInString(line))
		}
	}
	if len(widths) == 0 {
		return 0
	}
	slices.Sort(widths)
	return widths[len(widths)*3/4]
}

var item = regexp.MustCompile(`^(?:[•●▪◦‣∙·*–—-]|\(?(?:\d{1,3}|[a-zA-Z]|[ivx]{1,4})[.)])\s`)

// flowing is running text that is being made.
type flowing struct {
	out   []byte
	words lexicon
}

// page joins the lines of a page's paragraphs: a line is followed by its next one when it is nearly as long as lines are on
// the page, and the next one begins no item of a list.
func (f *flowing) page(lines []string) {
	width := usualWidth(lines)
	first, blank, full := true, false, false
	for _, line := range lines {
		if line == "" {
			blank = true
			continue
		}
		switch {
		case len(f.out) == 0 || !item.MatchString(line) && f.hyphen(line):
		case first && f.goesOn(line):
			f.space(line)
		case first || blank:
			f.out = append(f.out, "\n\n"...)
		case full && !item.MatchString(line):
			f.space(line)
		default:
			f.out = append(f.out, '\n')
		}
		f.out = append(f.out, line...)
		first, blank, full = false, false, utf8.RuneCountInString(line) >= width*7/10 && !strings.Contains(line, "…")
	}
}

// goesOn reports whether the first line of a page is of the paragraph at the end of the page before.
func (f *flowing) goesOn(line string) bool {
	last, _ := utf8.DecodeLastRune(f.out)
	next, _ := utf8.DecodeRuneInString(line)
	return (unicode.IsLetter(last) || last == ',') && unicode.IsLower(next)
}

// space separates two lines, unless their script has no spaces.
func (f *flowing) space(line string) {
	last, _ := utf8.DecodeLastRune(f.out)
	next, _ := utf8.DecodeRuneInString(line)
	if unicode.In(last, unicode.Han, unicode.Hiragana, unicode.Katakana) && unicode.In(next, unicode.Han, unicode.Hiragana, unicode.Katakana) {
		return
	}
	f.out = append(f.out, ' ')
}

// hyphen makes one word of two halves at the end and at the beginning of lines, and reports whether they are ones. The hyphen goes unless
// the document has the word with it elsewhere, or the first half has another one.
func (f *flowing) hyphen(line string) bool {
	last, size := utf8.DecodeLastRune(f.out)
	if last != '-' && last != '\u2010' && last != '\u00ad' {
		return false
	}
	body := f.out[:len(f.out)-size]
	end := string(body[bytes.LastIndexAny(body, " \n")+1:])
	before, _ := utf8.DecodeLastRuneInString(end)
	next, _ := utf8.DecodeRuneInString(line)
	if !unicode.IsLetter(before) || !unicode.IsLower(next) {
		return false
	}
	end = strings.ToLower(strings.TrimLeftFunc(end, func(r rune) bool { return !unicode.IsLetter(r) }))
	rest, _, _ := strings.Cut(strings.ToLower(line), " ")
	rest = strings.TrimRightFunc(rest, func(r rune) bool { return !unicode.IsLetter(r) })
	keep := f.words[end+"-"+rest] && !f.words[end+rest] || strings.Contains(end, "-") && !f.words[end+rest]
	if keep && last != '\u00ad' {
		f.out = append(body, '-')
	} else {
		f.out = body
	}
	return true
}

// lexicon are the words within the lines of a document, in lower case.
type lexicon map[string]bool

// maxLexicon bounds how many words are looked at.
const maxLexicon = 200_000

func newLexicon(pages [][]string) lexicon {
	l := lexicon{}
	for _, page := range pages {
		for _, line := range page {
			for word := range strings.FieldsSeq(line) {
				if word = strings.TrimFunc(word, func(r rune) bool { return !unicode.IsLetter(r) && r != '-' }); len(word) > 3 && len(word) < 64 && !strings.HasSuffix(word, "-") {
					l[strings.ToLower(word)] = true
				}
				if len(l) >= maxLexicon {
					return l
				}
			}
		}
	}
	return l
}
