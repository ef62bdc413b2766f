package document

import (
	"encoding/xml"
	"math"
	"strconv"
	"strings"
	"time"
)

func init() {
	register(format{
		name:       "xlsx",
		mediaTypes: []string{"application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"},
		extensions: []string{".xlsx", ".xlsm", ".xltx"},
		isolated:   true,
		sniff:      zipped("xl/"),
		extract:    extractXLSX,
	})
}

// maxColumns is how many columns a sheet can have in Excel.
const maxColumns = 16_384

// extractXLSX returns each sheet as a heading and a table of the values that cells had when the file was saved. Dates are
// written as in ISO 8601, percentages with their sign, other numbers without what their format adds. Left out are hidden
// sheets, formulas, comments and charts.
func extractXLSX(data []byte, _ Options) (Document, *Error) {
	a, err := openOffice(data, "xl/workbook.xml")
	if err != nil {
		return Document{}, err
	}
	x := &workbook{archive: a.archive}
	doc := Document{Title: a.title}
	type sheet struct{ name, part string }
	var sheets []sheet
	if err := a.each(a.main, func(e xml.StartElement) {
		switch e.Name.Local {
		case "workbookPr":
			x.from1904 = attr(e, "date1904") == "1" || attr(e, "date1904") == "true"
		case "sheet":
			if state := attr(e, "state"); state == "" || state == "visible" {
				if r := a.rels[attrOf(e, "r", "id")]; r.kind == "worksheet" {
					sheets = append(sheets, sheet{attr(e, "name"), r.target})
				}
			}
		}
	}, nil, nil); err != nil {
		return Document{}, err
	}
	if len(sheets) > maxPages {
		return Document{}, errorf(CodeTooLarge, "the document has %d sheets; at most %d are read", len(sheets), maxPages)
	}
	doc.Pages = len(sheets)
	for _, r := range a.rels {
		switch r.kind {
		case "sharedStrings":
			err = x.readStrings(r.target)
		case "styles":
			err = x.readStyles(r.target)
		}
		if err != nil {
			return Document{}, err
		}
	}
	var b strings.Builder
	for _, s := range sheets {
		rows, err := x.readSheet(s.part)
		if err != nil {
			return Document{}, err
		}
		var t strings.Builder
		if writeTable(&t, rows); t.Len() > 0 {
			b.WriteString("## " + strings.Join(strings.Fields(s.name), " ") + "\n\n" + t.String() + "\n")
		}
	}
	doc.Text = b.String()
	return doc, nil
}

type workbook struct {
	*archive
	from1904 bool
	strings  []string
	styles   []cellStyle // of cells, by index
	cells    int
	bytes    int // of all cells' texts
}

type cellStyle int

const (
	plainNumber cellStyle = iota
	dateNumber
	timeNumber
	momentNumber
	percentNumber
)

// readStrings reads the texts that cells share. Texts of how to pronounce others aren't content.
func (x *workbook) readStrings(name string) *Error {
	var item strings.Builder
	inText, phonetic := false, false
	size := 0
	p, err := x.part(name)
	if p == nil {
		return err
	}
	for {
		token, err := p.next()
		if token == nil || err != nil {
			return err
		}
		switch t := token.(type) {
		case xml.StartElement:
			switch t.Name.Local {
			case "t":
				inText = true
			case "rPh":
				phonetic = true
			}
		case xml.EndElement:
			switch t.Name.Local {
			case "t":
				inText = false
			case "rPh":
				phonetic = false
			case "si":
				x.strings = append(x.strings, item.String())
				item.Reset()
				if len(x.strings) > maxCells {
					return tooManyCells()
				}
			}
		case xml.CharData:
			if inText && !phonetic {
				if size += len(t); size > MaxBytes {
					return errorf(CodeTooLarge, "the texts of the document have more than %d bytes", MaxBytes)
				}
				item.Write(t)
			}
		}
	}
}

func (x *workbook) readStyles(name string) *Error {
	codes := map[string]string{}
	inCells := false
	return x.each(name, func(e xml.StartElement) {
		switch e.Name.Local {
		case "numFmt":
			codes[attr(e, "numFmtId")] = attr(e, "formatCode")
		case "cellXfs":
			inCells = true
		case "xf":
			if inCells && len(x.styles) < maxCells {
				x.styles = append(x.styles, numberStyle(attr(e, "numFmtId"), codes))
			}
		}
	}, func(name string) { inCells = inCells && name != "cellXfs" }, nil)
}

// numberStyle tells what a number format makes of a number. Ids below 164 are built in (ECMA-376, 18.8.30).
func numberStyle(id string, codes map[string]string) cellStyle {
	if code, own := codes[id]; own {
		return styleOf(code)
	}
	switch n, _ := strconv.Atoi(id); {
	case n == 9 || n == 10:
		return percentNumber
	case n >= 14 && n <= 17, n >= 27 && n <= 31, n == 36, n >= 50 && n <= 58:
		return dateNumber
	case n >= 18 && n <= 21, n >= 32 && n <= 35, n >= 45 && n <= 47:
		return timeNumber
	case n == 22:
		return momentNumber
	}
	return plainNumber
}

func styleOf(code string) cellStyle {
	code, _, _ = strings.Cut(code, ";")
	day, clock, percent := false, false, false
	for i := 0; i < len(code); i++ {
		switch code[i] {
		case '"':
			end := strings.IndexByte(code[i+1:], '"')
			if end < 0 {
				return plainNumber
			}
			i += end + 1
		case '\\', '_', '*':
			i++
		case '[':
			end := strings.IndexByte(code[i:], ']')
			if end < 0 {
				return plainNumber
			}
			if inner := strings.ToLower(code[i+1 : i+end]); strings.Trim(inner, "hms") == "" {
				clock = true
			}
			i += end
		case 'y', 'Y', 'd', 'D':
			day = true
		case 'h', 'H', 's', 'S':
			clock = true
		case 'm', 'M':
			day = day || !clock && !strings.ContainsAny(code[i:], "sS")
		case '%':
			percent = true
		case 'G': // General
			return plainNumber
		}
	}
	switch {
	case day && clock:
		return momentNumber
	case day:
		return dateNumber
	case clock:
		return timeNumber
	case percent:
		return percentNumber
	}
	return plainNumber
}

func (x *workbook) readSheet(name string) ([][]string, *Error) {
	p, err := x.part(name)
	if p == nil {
		return nil, err
	}
	var rows [][]string
	var value strings.Builder
	column, inValue, phonetic := 0, false, false
	kind, style := "", ""
	for {
		token, err := p.next()
		if token == nil || err != nil {
			return rows, err
		}
		switch t := token.(type) {
		case xml.StartElement:
			switch t.Name.Local {
			case "row":
				if len(rows) >= maxCells {
					return nil, tooManyCells()
				}
				rows = append(rows, nil)
				column = -1
			case "c":
				column++
				if n, ok := columnOf(attr(t, "r")); ok {
					column = n
				}
				kind, style = attr(t, "t"), attr(t, "s")
				value.Reset()
			case "v", "t":
				inValue = true
			case "rPh":
				phonetic = true
			}
		case xml.EndElement:
			switch t.Name.Local {
			case "v", "t":
				inValue = false
			case "rPh":
				phonetic = false
			case "c":
				if value.Len() > 0 && len(rows) > 0 && !x.put(&rows[len(rows)-1], column, x.show(value.String(), kind, style)) {
					return nil, tooManyCells()
				}
			}
		case xml.CharData:
			if inValue && !phonetic {
				value.Write(t)
			}
		}
	}
}

// put sets a cell of a row, and reports whether the document may have as many cells, empty ones before it included.
func (x *workbook) put(row *[]string, column int, text string) bool {
	if column < 0 || column >= maxColumns {
		return true
	}
	if n := column + 1 - len(*row); n > 0 {
		if x.cells += n; x.cells > maxCells {
			return false
		}
		*row = append(*row, make([]string, n)...)
	}
	if x.bytes += len(text); x.bytes > MaxBytes {
		return false
	}
	(*row)[column] = text
	return true
}

// columnOf returns the column of a reference such as AB12, from 0.
func columnOf(ref string) (int, bool) {
	n := 0
	for i := 0; i < len(ref) && i < 4; i++ {
		c := ref[i]
		if c >= 'a' && c <= 'z' {
			c -= 'a' - 'A'
		}
		if c < 'A' || c > 'Z' {
			return n - 1, n > 0
		}
		n = 26*n + int(c-'A') + 1
	}
	return n - 1, n > 0 && n <= maxColumns
}

// show returns a cell's value as a person sees it, or nearly so.
func (x *workbook) show(value, kind, style string) string {
	switch kind {
	case "s":
		if i, err := strconv.Atoi(strings.TrimSpace(value)); err == nil && i >= 0 && i < len(x.strings) {
			return x.strings[i]
		}
		return ""
	case "b":
		if value == "1" {
			return "TRUE"
		}
		return "FALSE"
	case "", "n":
	default: // str, inlineStr, e, d
		return value
	}
	n, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
	if err != nil || math.IsInf(n, 0) || math.IsNaN(n) {
		return value
	}
	s := plainNumber
	if i, err := strconv.Atoi(style); err == nil && i >= 0 && i < len(x.styles) {
		s = x.styles[i]
	}
	switch s {
	case percentNumber:
		return number(n*100) + "%"
	case dateNumber, timeNumber, momentNumber:
		return x.moment(n, s)
	}
	return number(n)
}

// number writes a number with the 15 digits that Excel keeps.
func number(n float64) string {
	s := strconv.FormatFloat(n, 'g', 15, 64)
	if f, err := strconv.ParseFloat(s, 64); err == nil && math.Abs(f) < 1e15 && (f == 0 || math.Abs(f) >= 1e-9) {
		return strconv.FormatFloat(f, 'f', -1, 64)
	}
	return s
}

func (x *workbook) moment(n float64, s cellStyle) string {
	const lastDay = 2_958_465 // 9999-12-31
	if n < 0 || n > lastDay {
		return number(n)
	}
	epoch := time.Date(1899, 12, 30, 0, 0, 0, 0, time.UTC) // so that day 61 is 1900-03-01: Excel has a 1900-02-29
	if x.from1904 {
		epoch = time.Date(1904, 1, 1, 0, 0, 0, 0, time.UTC)
	} else if n < 61 && s != timeNumber {
		n++
	}
	days := math.Floor(n)
	seconds := math.Round((n - days) * 86400)
	at := epoch.AddDate(0, 0, int(days)).Add(time.Duration(seconds) * time.Second)
	switch {
	case s == timeNumber && n >= 1: // a duration
		total := int64(math.Round(n * 86400))
		return strconv.FormatInt(total/3600, 10) + ":" + at.Format("04:05")
	case s == timeNumber:
		return at.Format("15:04:05")
	case s == momentNumber:
		return at.Format("2006-01-02 15:04:05")
	}
	return at.Format("2006-01-02")
}
