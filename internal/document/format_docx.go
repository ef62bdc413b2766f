package document

import (
	"encoding/xml"
	"slices"
	"strconv"
	"strings"
)

func init() {
	register(format{
		name:       "docx",
		mediaTypes: []string{"application/vnd.openxmlformats-officedocument.wordprocessingml.document"},
		extensions: []string{".docx", ".docm", ".dotx"},
		isolated:   true,
		sniff:      zipped("word/"),
		extract:    extractDOCX,
	})
}

// extractDOCX returns the body with headings, lists and tables, then foot- and endnotes. Left out are headers and footers,
// comments, deleted text of tracked changes, hidden text and pictures.
func extractDOCX(data []byte, _ Options) (Document, *Error) {
	a, err := openOffice(data, "word/document.xml")
	if err != nil {
		return Document{}, err
	}
	d := &docx{styles: map[string]docxStyle{}, abstract: map[string][]bool{}, lists: map[string]string{}}
	d.doc.Title = a.title
	byKind := map[string]string{}
	for _, r := range a.rels {
		byKind[r.kind] = r.target
	}
	for _, read := range []func() *Error{
		func() *Error { return d.readStyles(a.archive, byKind["styles"]) },
		func() *Error { return d.readNumbering(a.archive, byKind["numbering"]) },
		func() *Error { return d.readBody(a.archive, a.main) },
		func() *Error { return d.readBody(a.archive, byKind["footnotes"]) },
		func() *Error { return d.readBody(a.archive, byKind["endnotes"]) },
	} {
		if err := read(); err != nil {
			return Document{}, err
		}
	}
	d.doc.Text = d.out.String()
	return d.doc, nil
}

type docxStyle struct {
	level    int // of a heading, from 1; 0 for none
	numbered string
	based    string
}

// docx collects a document.
type docx struct {
	doc      Document
	out      strings.Builder
	styles   map[string]docxStyle
	abstract map[string][]bool // of a list's definition: which levels have numbers
	lists    map[string]string // which definition a list has
	cells    int
}

func (d *docx) readStyles(a *archive, name string) *Error {
	id := ""
	return a.each(name, func(e xml.StartElement) {
		s := d.styles[id]
		switch e.Name.Local {
		case "style":
			id = attr(e, "styleId")
			s = d.styles[id]
		case "name":
			s.level = headingStyle(attr(e, "val"))
		case "basedOn":
			s.based = attr(e, "val")
		case "outlineLvl":
			if n, err := strconv.Atoi(attr(e, "val")); err == nil && n >= 0 && n < 9 && s.level == 0 {
				s.level = n + 1
			}
		case "numId":
			s.numbered = attr(e, "val")
		default:
			return
		}
		d.styles[id] = s
	}, nil, nil)
}

// headingStyle returns the level of a built-in style: its name, unlike its id, is the same in every language.
func headingStyle(name string) int {
	name = strings.ToLower(name)
	if name == "title" {
		return 1
	}
	if rest, ok := strings.CutPrefix(name, "heading "); ok && len(rest) == 1 && rest[0] >= '1' && rest[0] <= '9' {
		return int(rest[0] - '0')
	}
	return 0
}

// style returns what a style and those that it is based on say.
func (d *docx) style(id string) (out docxStyle) {
	for range 10 {
		s := d.styles[id]
		if out.level == 0 {
			out.level = s.level
		}
		if out.numbered == "" {
			out.numbered = s.numbered
		}
		if id = s.based; id == "" {
			break
		}
	}
	return out
}

func (d *docx) readNumbering(a *archive, name string) *Error {
	abstract, num, level := "", "", 0
	return a.each(name, func(e xml.StartElement) {
		switch e.Name.Local {
		case "abstractNum":
			abstract, num = attr(e, "abstractNumId"), ""
		case "lvl":
			level, _ = strconv.Atoi(attr(e, "ilvl"))
		case "numFmt":
			if num == "" && level >= 0 && level < 9 {
				levels := slices.Concat(d.abstract[abstract], make([]bool, 9))[:9]
				format := attr(e, "val")
				levels[level] = format != "bullet" && format != "none"
				d.abstract[abstract] = levels
			}
		case "num":
			num = attr(e, "numId")
		case "abstractNumId":
			if num != "" {
				d.lists[num] = attr(e, "val")
			}
		}
	}, nil, nil)
}

// paragraph is one that is being read.
type paragraph struct {
	text  strings.Builder
	style string
	list  string // numId
	level int
}

// table is one that is being read; its cells may hold paragraphs, lists and tables.
type docxTable struct {
	rows [][]string
	cell strings.Builder
	span int
}

// skipped are the elements whose content isn't read: deleted text, codes of fields, the second of two forms of a drawing.
var skippedInWord = map[string]bool{
	"del": true, "moveFrom": true, "instrText": true, "delText": true, "Fallback": true, "rPrChange": true, "pPrChange": true, "sectPr": true, "binData": true,
}

func (d *docx) readBody(a *archive, name string) *Error {
	p, err := a.part(name)
	if p == nil {
		return err
	}
	var stack []*paragraph // a text box stands within a paragraph
	var tables []*docxTable
	skip, inText, hidden := 0, false, false
	for {
		token, err := p.next()
		if token == nil || err != nil {
			return err
		}
		var here *paragraph
		if len(stack) > 0 {
			here = stack[len(stack)-1]
		}
		switch t := token.(type) {
		case xml.StartElement:
			name := t.Name.Local
			if skip > 0 || skippedInWord[name] {
				skip++
				continue
			}
			switch name {
			case "p":
				if t.Name.Space != "a" { // a: is a drawing's own
					stack = append(stack, &paragraph{})
				}
			case "tbl":
				tables = append(tables, &docxTable{})
			case "tr":
				if n := len(tables); n > 0 {
					tables[n-1].rows = append(tables[n-1].rows, nil)
				}
			case "gridSpan":
				if n := len(tables); n > 0 {
					tables[n-1].span, _ = strconv.Atoi(attr(t, "val"))
				}
			case "t":
				inText = true
			case "r":
				hidden = false
			case "footnote", "endnote":
				if kind := attr(t, "type"); kind != "" && kind != "normal" { // lines that separate notes
					skip++
				}
			default:
				if here != nil {
					here.note(t, &hidden)
				}
			}
		case xml.EndElement:
			if skip > 0 {
				skip--
				continue
			}
			switch t.Name.Local {
			case "t":
				inText = false
			case "p":
				if here != nil && t.Name.Space != "a" {
					stack = stack[:len(stack)-1]
					d.finish(here, tables, len(stack) > 0)
				}
			case "tc":
				if n := len(tables); n > 0 && !d.endCell(tables[n-1]) {
					return tooManyCells()
				}
			case "tbl":
				if n := len(tables); n > 0 {
					done := tables[n-1]
					tables = tables[:n-1]
					d.endTable(done, tables)
				}
			}
		case xml.CharData:
			if inText && skip == 0 && !hidden && here != nil {
				here.text.Write(t)
			}
		}
	}
}

// note takes what an element says of a paragraph.
func (p *paragraph) note(e xml.StartElement, hidden *bool) {
	switch e.Name.Local {
	case "pStyle":
		p.style = attr(e, "val")
	case "numId":
		p.list = attr(e, "val")
	case "ilvl":
		p.level, _ = strconv.Atoi(attr(e, "val"))
	case "vanish":
		*hidden = attr(e, "val") != "0" && attr(e, "val") != "false"
	case "tab":
		if p.text.Len() > 0 { // not a tab stop among the properties
			p.text.WriteByte('\t')
		}
	case "br", "cr":
		p.text.WriteByte('\n')
	case "noBreakHyphen":
		p.text.WriteByte('-')
	}
}

// finish writes a paragraph to the cell that it is in, or to the document.
func (d *docx) finish(p *paragraph, tables []*docxTable, boxed bool) {
	text := strings.TrimSpace(p.text.String())
	if text == "" {
		return
	}
	if n := len(tables); n > 0 {
		cell := &tables[n-1].cell
		if cell.Len() > 0 {
			cell.WriteByte('\n')
		}
		cell.WriteString(text)
		return
	}
	s := d.style(p.style)
	list := p.list
	if list == "" {
		list = s.numbered
	}
	switch {
	case s.level > 0 && !boxed:
		text = strings.Join(strings.Fields(text), " ")
		if s.level == 1 && d.doc.Title == "" {
			d.doc.Title = text
		}
		d.block("\n" + strings.Repeat("#", min(s.level, 6)) + " " + text + "\n\n")
	case list != "" && list != "0":
		level := min(max(p.level, 0), 8)
		marker := "- "
		if levels := d.abstract[d.lists[list]]; len(levels) > level && levels[level] {
			marker = "1. "
		}
		indent := strings.Repeat("   ", level)
		d.block(indent + marker + strings.ReplaceAll(text, "\n", "\n"+indent+"   ") + "\n")
	default:
		d.block("\n" + text + "\n\n")
	}
}

// block writes text, whose blank lines at its ends are shared with its neighbours.
func (d *docx) block(text string) { writeBlock(&d.out, text) }

func writeBlock(b *strings.Builder, text string) {
	if s := b.String(); s == "" || strings.HasSuffix(s, "\n\n") {
		text = strings.TrimPrefix(text, "\n")
	}
	b.WriteString(text)
}

// endCell reports whether the document may have as many cells as it has now.
func (d *docx) endCell(t *docxTable) bool {
	if len(t.rows) == 0 {
		return true
	}
	row := &t.rows[len(t.rows)-1]
	*row = append(*row, t.cell.String())
	for range min(max(t.span, 1), 64) - 1 {
		*row = append(*row, "")
	}
	d.cells += min(max(t.span, 1), 64)
	t.cell.Reset()
	t.span = 0
	return d.cells <= maxCells
}

// endTable writes a table to the document; one within a cell becomes text of the cell.
func (d *docx) endTable(t *docxTable, outer []*docxTable) {
	if n := len(outer); n > 0 {
		cell := &outer[n-1].cell
		for _, row := range t.rows {
			if cell.Len() > 0 {
				cell.WriteByte('\n')
			}
			cell.WriteString(strings.Join(row, " "))
		}
		return
	}
	var b strings.Builder
	writeTable(&b, t.rows)
	if b.Len() > 0 {
		d.block("\n" + b.String() + "\n")
	}
}
