package document

import (
	"bytes"
	"errors"
	"fmt"
	"strings"

	"github.com/ledongthuc/pdf"
)

func init() {
	register(format{
		name:       "pdf",
		mediaTypes: []string{"application/pdf"},
		extensions: []string{".pdf"},
		isolated:   true,
		sniff: func(head, _ []byte) bool { // readers look for the mark in the first kilobyte
			at := bytes.Index(head[:min(len(head), 1024)], []byte("%PDF-"))
			return at == 0 || at > 0 && len(head) > at+5 && head[at+5] >= '1' && head[at+5] <= '2' && isBinary(head)
		},
		extract: extractPDF,
	})
}

// PDF is what a reader of PDFs returns: the lines of each page, a blank line between blocks.
type PDF struct {
	Title     string
	Pages     []string
	Extractor string // name and version of the reader
}

func pdfTooLong(pages int) *Error {
	return &Error{Code: CodeTooLarge, Figures: Figures{Pages: pages},
		Message: fmt.Sprintf("the document has more than %d pages; no more are read", maxPages)}
}

// MaxPages is how many pages of a PDF are read.
const MaxPages = maxPages

// extractPDF returns the paragraphs of the pages. Lines that most pages begin or end with are dropped, and so are the numbers
// of pages.
func extractPDF(data []byte, o Options) (Document, *Error) {
	read := o.PDF
	if read == nil {
		read = readPDF
	}
	p, err := read(data)
	if err != nil {
		return Document{}, err
	}
	if len(p.Pages) > maxPages {
		return Document{}, pdfTooLong(len(p.Pages))
	}
	doc := Document{Title: pdfTitle(p.Title), Text: flow(p.Pages), Extractor: p.Extractor}
	doc.Pages = len(p.Pages)
	return doc, nil
}

// pdfTitle drops what programs write when an author gave no title.
func pdfTitle(title string) string {
	title = strings.TrimSpace(title)
	for _, prefix := range []string{"Microsoft Word - ", "Microsoft PowerPoint - ", "Microsoft Excel - "} {
		title = strings.TrimPrefix(title, prefix)
	}
	lower := strings.ToLower(title)
	for _, suffix := range []string{".doc", ".docx", ".dvi", ".tex", ".pdf", ".indd", ".qxd", ".rtf", ".odt", ".fm", ".ppt", ".pptx", ".xls", ".xlsx"} {
		if strings.HasSuffix(lower, suffix) {
			return ""
		}
	}
	if lower == "untitled" || lower == "title" || lower == "(anonymous)" || lower == "unknown" {
		return ""
	}
	return title
}

// readPDF reads a PDF in Go: it knows fewer of the rare fonts and of the broken files than poppler, but is there on every machine.
func readPDF(data []byte) (out PDF, problem *Error) {
	defer func() {
		if recover() != nil { // how the library tells of much that is wrong
			out, problem = PDF{}, damaged("its PDF objects can't be read")
		}
	}()
	r, err := pdf.NewReader(bytes.NewReader(data), int64(len(data)))
	if errors.Is(err, pdf.ErrInvalidPassword) {
		return PDF{}, errorf(CodeEncrypted, "the document needs a password: save it without one")
	} else if err != nil {
		return PDF{}, damaged("its PDF structure can't be read")
	}
	n := r.NumPage()
	if n > maxPages {
		return PDF{}, pdfTooLong(n)
	}
	out.Title = r.Trailer().Key("Info").Key("Title").Text()
	size := 0
	fonts := map[string]*pdfFont{}
	for i := 1; i <= n; i++ {
		w := &pdfPage{fonts: fonts}
		if page := r.Page(i); !page.V.IsNull() {
			w.draw(page.V.Key("Contents"), page.Resources(), 0)
		}
		if size += w.out.Len(); size > MaxBytes {
			return PDF{}, errorf(CodeTooLarge, "the text of the document has more than %d bytes", MaxBytes)
		}
		out.Pages = append(out.Pages, w.out.String())
	}
	return out, nil
}
