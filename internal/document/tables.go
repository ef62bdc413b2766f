package document

import "strings"

// maxCells bounds the cells of a document's tables.
const maxCells = 1_000_000

func tooManyCells() *Error {
	return errorf(CodeTooLarge, "the document has more than %d cells", maxCells)
}

var cellEscaper = strings.NewReplacer("|", `\|`, "\n", " ", "\r", " ", "\t", " ")

// writeTable writes rows as a markdown table whose first row is the head. Empty rows and columns at the margins are dropped.
// A table of one column is lines.
func writeTable(b *strings.Builder, rows [][]string) {
	first, last, width := -1, 0, 0
	left := maxCells
	for i, row := range rows {
		for j, cell := range row {
			if strings.TrimSpace(cell) == "" {
				continue
			}
			if first < 0 {
				first = i
			}
			last, width, left = i, max(width, j+1), min(left, j)
		}
	}
	if first < 0 {
		return
	}
	for i, row := range rows[first : last+1] {
		if width-left == 1 {
			if left < len(row) {
				b.WriteString(strings.TrimSpace(row[left]))
			}
			b.WriteByte('\n')
			continue
		}
		filled := width
		for filled > left+1 && (filled > len(row) || strings.TrimSpace(row[filled-1]) == "") {
			filled--
		}
		if i == 0 {
			filled = width // the head says how many columns there are; rows may end early
		}
		for j := left; j < filled; j++ {
			b.WriteString("| ")
			if j < len(row) {
				b.WriteString(strings.TrimSpace(cellEscaper.Replace(row[j])))
			}
			b.WriteByte(' ')
		}
		b.WriteString("|\n")
		if i == 0 {
			b.WriteString(strings.Repeat("| --- ", width-left))
			b.WriteString("|\n")
		}
	}
}
