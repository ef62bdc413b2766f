package document

import (
	"encoding/xml"
	"fmt"
	"strconv"
	"strings"
)

func init() {
	register(format{
		name:       "pptx",
		mediaTypes: []string{"application/vnd.openxmlformats-officedocument.presentationml.presentation"},
		extensions: []string{".pptx", ".pptm", ".ppsx"},
		isolated:   true,
		sniff:      zipped("ppt/"),
		extract:    extractPPTX,
	})
}

// maxPages bounds the pages of a PDF and the slides and sheets of others.
const maxPages = 5_000

// extractPPTX returns slide by slide the title, the texts, the tables and the notes. Left out are hidden slides, footers,
// dates and numbers of slides, comments and what charts and drawings show.
func extractPPTX(data []byte, _ Options) (Document, *Error) {
	a, err := openOffice(data, "ppt/presentation.xml")
	if err != nil {
		return Document{}, err
	}
	doc := Document{Title: a.title}
	var slides []string
	if err := a.each(a.main, func(e xml.StartElement) {
		if e.Name.Local == "sldId" {
			slides = append(slides, a.rels[attrOf(e, "r", "id")].target)
		}
	}, nil, nil); err != nil {
		return Document{}, err
	}
	if len(slides) > maxPages {
		return Document{}, errorf(CodeTooLarge, "the document has %d slides; at most %d are read", len(slides), maxPages)
	}
	doc.Pages = len(slides)
	var b strings.Builder
	cells := 0
	for i, name := range slides {
		s, err := readSlide(a.archive, name, &cells)
		if err != nil {
			return Document{}, err
		}
		if s.hidden {
			continue
		}
		title := s.title
		if title == "" {
			title = "Slide " + strconv.Itoa(i+1)
		}
		if doc.Title == "" && s.title != "" {
			doc.Title = s.title
		}
		notes, err := readNotes(a.archive, name, &cells)
		if err != nil {
			return Document{}, err
		}
		if s.title == "" && s.body == "" && notes == "" {
			continue
		}
		if b.Len() > MaxBytes {
			return Document{}, errorf(CodeTooLarge, "the text of the document has more than %d bytes", MaxBytes)
		}
		fmt.Fprintf(&b, "## %s\n\n", title)
		if s.body != "" {
			b.WriteString(s.body + "\n")
		}
		if notes != "" {
			b.WriteString("Notes: " + notes + "\n")
		}
	}
	doc.Text = b.String()
	return doc, nil
}

func readNotes(a *archive, slide string, cells *int) (string, *Error) {
	rels, err := a.relations(slide)
	if err != nil {
		return "", err
	}
	for _, r := range rels {
		if r.kind == "notesSlide" {
			s, err := readSlide(a, r.target, cells)
			return strings.TrimPrefix(s.body, "- "), err
		}
	}
	return "", nil
}

type slide struct {
	title, body string
	hidden      bool
}

// furnitureShapes are the placeholders that aren't content.
var furnitureShapes = map[string]bool{"sldNum": true, "dt": true, "ftr": true, "hdr": true, "sldImg": true}

func readSlide(a *archive, name string, cells *int) (slide, *Error) {
	var out slide
	var body, shape, line strings.Builder
	var rows [][]string
	kind, level, inText, inTable, skip, bulleted := "", 0, false, false, 0, false
	p, err := a.part(name)
	if p == nil {
		return out, err
	}
	for {
		token, err := p.next()
		if err != nil {
			return out, err
		}
		if token == nil {
			break
		}
		switch t := token.(type) {
		case xml.StartElement:
			if skip > 0 || t.Name.Local == "Fallback" {
				skip++
				continue
			}
			switch t.Name.Local {
			case "sld":
				out.hidden = attr(t, "show") == "0" || attr(t, "show") == "false"
			case "sp", "graphicFrame":
				kind = ""
				shape.Reset()
			case "ph":
				if kind = attr(t, "type"); kind == "" {
					kind = "body"
				}
			case "pPr":
				level, _ = strconv.Atoi(attr(t, "lvl"))
			case "buNone":
				bulleted = false
			case "p":
				level, bulleted = 0, kind == "body"
			case "t":
				inText = true
			case "br":
				line.WriteByte(' ')
			case "tbl":
				inTable, rows = true, nil
			case "tr":
				rows = append(rows, nil)
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
				text := strings.TrimSpace(line.String())
				line.Reset()
				switch {
				case text == "":
				case inTable:
					shape.WriteString(text + " ")
				case bulleted || level > 0:
					shape.WriteString(strings.Repeat("  ", min(max(level, 0), 8)) + "- " + text + "\n")
				default:
					shape.WriteString(text + "\n")
				}
			case "tc":
				if *cells++; *cells > maxCells {
					return out, tooManyCells()
				}
				if n := len(rows); n > 0 {
					rows[n-1] = append(rows[n-1], shape.String())
				}
				shape.Reset()
			case "tbl":
				inTable = false
				var t strings.Builder
				if writeTable(&t, rows); t.Len() > 0 {
					if body.Len() > 0 {
						writeBlock(&body, "\n")
					}
					body.WriteString(t.String())
				}
			case "sp":
				text := shape.String()
				shape.Reset()
				switch {
				case furnitureShapes[kind]:
				case (kind == "title" || kind == "ctrTitle") && out.title == "":
					out.title = strings.Join(strings.Fields(text), " ")
				case strings.TrimSpace(text) != "":
					if strings.HasSuffix(body.String(), "|\n") { // a table ends before a blank line
						body.WriteByte('\n')
					}
					body.WriteString(text)
				}
			}
		case xml.CharData:
			if inText && skip == 0 {
				line.Write(t)
			}
		}
	}
	out.body = body.String()
	return out, nil
}
