package document

import (
	"bytes"
	"encoding/csv"
	"errors"
	"io"
	"strings"
)

func init() {
	register(format{
		name:       "csv",
		mediaTypes: []string{"text/csv", "text/tab-separated-values", "application/csv"},
		extensions: []string{".csv", ".tsv"},
		isolated:   true,
		guess: func(head []byte) bool {
			if cut := bytes.LastIndexByte(head, '\n'); len(head) == sniffed && cut > 0 {
				head = head[:cut] // the last line may be cut off
			}
			_, rows, columns := delimiter(string(head))
			return rows >= 4 && columns >= 3
		},
		extract: extractCSV,
	})
}

// extractCSV returns a markdown table: shorter by half than a line for each cell, and what the models have read most of. What
// is no table, in spite of its name, stays as it is.
func extractCSV(data []byte, _ Options) (Document, *Error) {
	text, err := decode(data, "")
	if err != nil {
		return Document{}, err
	}
	if declared, rest, ok := strings.Cut(text, "\n"); ok && strings.HasPrefix(declared, "sep=") {
		text = rest // for Excel only
	}
	head := text[:min(len(text), sampled)]
	if cut := strings.LastIndexByte(head, '\n'); len(head) < len(text) && cut > 0 {
		head = head[:cut]
	}
	comma, rows, columns := delimiter(head)
	if rows == 0 || columns < 2 {
		return Document{Text: text}, nil
	}
	r := csvReader(text, comma)
	var table [][]string
	cells := 0
	for {
		row, err := r.Read()
		if errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return Document{Text: text}, nil //nolint:nilerr // it is text all the same
		}
		if cells += len(row); cells > maxCells {
			return Document{}, tooManyCells()
		}
		table = append(table, row)
	}
	var b strings.Builder
	b.Grow(len(text) + 4*cells)
	writeTable(&b, table)
	return Document{Text: b.String()}, nil
}

func csvReader(text string, comma rune) *csv.Reader {
	r := csv.NewReader(strings.NewReader(text))
	r.Comma, r.LazyQuotes, r.FieldsPerRecord, r.TrimLeadingSpace = comma, true, -1, comma != '\t'
	return r
}

// delimiter returns what separates the columns of a text, how many rows it has, and how many columns nearly all of them
// have. Without rows it is no table.
func delimiter(head string) (comma rune, rows, columns int) {
	for _, c := range []rune{',', ';', '\t', '|'} {
		r := csvReader(head, c)
		counts := map[int]int{}
		n := 0
		for n < 200 {
			row, err := r.Read()
			if err != nil {
				break
			}
			counts[len(row)]++
			n++
		}
		for width, times := range counts {
			if width > columns && width > 1 && times*10 >= n*9 {
				comma, rows, columns = c, n, width
			}
		}
	}
	return comma, rows, columns
}
