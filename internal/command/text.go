package command

import (
	"cmp"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/mattn/go-runewidth"
)

// columns measures text in terminal columns: an ideograph takes two, an accent none, whatever the locale.
var columns = &runewidth.Condition{StrictEmojiNeutral: true}

// clean makes text safe for one line of a terminal: answers and documents may hold escape sequences. White space becomes
// single blanks.
func clean(text string) string {
	text = strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return ' '
		case r == utf8.RuneError, unicode.IsControl(r), unicode.Is(unicode.Cf, r) && r != '\u200d':
			return -1
		}
		return r
	}, text)
	return strings.Join(strings.Fields(text), " ")
}

// firstLine is the first line of text that says something, clean.
func firstLine(text string) string {
	for line := range strings.Lines(text) {
		if line = clean(line); line != "" {
			return line
		}
	}
	return ""
}

// fit cuts text to a width, with a mark where it was cut.
func fit(text string, width int) string {
	return columns.Truncate(text, width, "…")
}

// number writes n with commas: 12,345.
func number(n int64) string {
	digits := strconv.FormatInt(n, 10)
	first := 1
	if n < 0 {
		first = 2
	}
	for i := len(digits) - 3; i >= first; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return digits
}

// dollars writes micro-dollars exactly; nil is an unknown cost, which is not zero.
func dollars(micro *int64) string {
	switch {
	case micro == nil:
		return "unknown"
	case *micro == 0:
		return "$0"
	}
	return fmt.Sprintf("$%d.%06d", *micro/1_000_000, *micro%1_000_000)
}

// plural is "1 call" or "2 calls".
func plural(n int64, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return number(n) + " " + many
}

// seconds is "0.58 s".
func seconds(d time.Duration) string { return fmt.Sprintf("%.2f s", d.Seconds()) }

// table is text in columns.
type table struct {
	head  []string
	right []bool // align to the right; may be short
	flex  int    // 1 + the column that gives way when the table is too wide; 0: none
	least int    // but not below this width
	rows  [][]string
	total []string // a last row behind a rule; may be nil
}

// write prints the table, indented by two, within width columns if the flexible one allows it.
func (t table) write(w io.Writer, width int) error {
	const indent, gap = "  ", "  "
	all := append([][]string{t.head}, t.rows...)
	if t.total != nil {
		all = append(all, t.total)
	}
	widths := make([]int, len(t.head))
	whole := len(indent) - len(gap)
	for i := range widths {
		for _, row := range all {
			widths[i] = max(widths[i], columns.StringWidth(row[i]))
		}
		whole += widths[i] + len(gap)
	}
	if i := t.flex - 1; i >= 0 && whole > width {
		widths[i] = max(widths[i]-(whole-width), cmp.Or(t.least, 8))
	}
	rule := make([]string, len(widths))
	for i, n := range widths {
		rule[i] = strings.Repeat("-", n)
	}
	var b strings.Builder
	line := func(cells []string) {
		b.WriteString(indent)
		for i, cell := range cells {
			cell = fit(cell, widths[i])
			space := strings.Repeat(" ", widths[i]-columns.StringWidth(cell))
			switch {
			case i < len(t.right) && t.right[i]:
				cell = space + cell
			case i < len(cells)-1:
				cell += space
			}
			if i > 0 {
				b.WriteString(gap)
			}
			b.WriteString(cell)
		}
		b.WriteByte('\n')
	}
	line(t.head)
	line(rule)
	for _, row := range t.rows {
		line(row)
	}
	if t.total != nil {
		line(rule)
		line(t.total)
	}
	_, err := io.WriteString(w, b.String())
	return err
}
