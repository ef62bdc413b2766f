package documenttest

import (
	"archive/zip"
	"bytes"
	"compress/flate"
	"compress/zlib"
	"encoding/base64"
	"fmt"
	"io"
	"strings"
)

// Hostile is a document that means harm.
type Hostile struct {
	Name   string
	Format string // that it is read as
	Data   []byte
}

const words = "The quick brown fox jumps over the lazy dog. "

// repeated packs a part that repeats a text so many times between a beginning and an end.
func repeated(name, begin, text, end string, times int, more ...Entry) []byte {
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	z.RegisterCompressor(zip.Deflate, func(w io.Writer) (io.WriteCloser, error) { return flate.NewWriter(w, flate.BestSpeed) })
	for _, e := range more {
		must(write(z, e.Name, e.Body, "", "", 0))
	}
	must(write(z, name, begin, text, end, times))
	must(z.Close())
	return b.Bytes()
}

func write(z *zip.Writer, name, begin, text, end string, times int) error {
	w, err := z.Create(name)
	if err != nil {
		return err
	}
	if _, err := io.WriteString(w, begin); err != nil {
		return err
	}
	const block = 1 << 16
	for many := block/max(len(text), 1) + 1; times > 0; times -= many {
		if _, err := io.WriteString(w, strings.Repeat(text, min(many, times))); err != nil {
			return err
		}
	}
	_, err = io.WriteString(w, end)
	return err
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

// deflated is a stream of a PDF that unpacks to size bytes of text.
func deflated(text string, size int) string {
	var b bytes.Buffer
	z, err := zlib.NewWriterLevel(&b, zlib.BestSpeed)
	must(err)
	text = strings.Repeat(text, 1000)
	for n := 0; n < size; n += len(text) {
		_, err := io.WriteString(z, text)
		must(err)
	}
	must(z.Close())
	return fmt.Sprintf("<</Length %d/Filter/FlateDecode>>stream\n%s\nendstream", b.Len(), b.String())
}

// Corpus makes the hostile documents, one at a time.
func Corpus(yield func(Hostile) bool) {
	const wordBegin, wordEnd = `<w:document xmlns:w="w"><w:body>`, `</w:body></w:document>`
	main := Entry{"_rels/.rels", Relations([3]string{"rId1", "officeDocument", "word/document.xml"})}
	sheet := []Entry{
		{"xl/workbook.xml", `<workbook xmlns:r="r"><sheets><sheet name="s" r:id="rId1"/></sheets></workbook>`},
		{"xl/_rels/workbook.xml.rels", Relations([3]string{"rId1", "worksheet", "worksheets/sheet1.xml"}, [3]string{"rId2", "sharedStrings", "sharedStrings.xml"})},
	}
	docx := func(document string) []byte { return Zip(main, Entry{"word/document.xml", document}) }
	page := func(contents string, more ...string) []byte {
		return RawPDF("/Root 1 0 R", append([]string{"<</Type/Catalog/Pages 2 0 R>>", "<</Type/Pages/Kids[3 0 R]/Count 1>>",
			"<</Type/Page/Parent 2 0 R/MediaBox[0 0 595 842]/Resources<</Font<</F1 5 0 R>>/XObject<</X 6 0 R>>>>/Contents 4 0 R>>", contents,
			"<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>"}, more...)...)
	}
	laughs := `<!DOCTYPE d [<!ENTITY a0 "ha">`
	for i := 1; i < 12; i++ {
		laughs += fmt.Sprintf(`<!ENTITY a%d "%s">`, i, strings.Repeat(fmt.Sprintf("&a%d;", i-1), 10))
	}
	laughs += "]>"
	inner := Zip(Entry{"word/document.xml", words})
	for range 10 {
		inner = Zip(Entry{"word/document.xml", string(inner)}, Entry{"word/embeddings/a.zip", string(inner)})
	}
	lying := DOCX("<w:p><w:r><w:t>" + words + "</w:t></w:r></w:p>")
	for at := 0; at+30 < len(lying); at++ { // sizes in the directory
		if string(lying[at:at+4]) == "PK\x01\x02" {
			copy(lying[at+20:], "\xff\xff\xff\x7f\xff\xff\xff\x7f")
		}
	}
	overlap := overlapping()
	png := base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{0}, 3000))

	for _, h := range []func() Hostile{
		func() Hostile {
			return Hostile{"zip bomb in one text", "docx", repeated("word/document.xml", wordBegin+"<w:p><w:r><w:t>", "a", "</w:t></w:r></w:p>"+wordEnd, 64<<20, main)}
		},
		func() Hostile {
			return Hostile{"zip bomb in an attribute", "docx", repeated("word/document.xml", `<w:document a="`, "a", `"/>`, 64<<20, main)}
		},
		func() Hostile {
			return Hostile{"zip bomb of paragraphs", "docx", repeated("word/document.xml", wordBegin, "<w:p><w:r><w:t>x</w:t></w:r></w:p>", wordEnd, 2_000_000, main)}
		},
		func() Hostile {
			return Hostile{"zip bomb of styles", "docx", repeated("word/styles.xml", "<styles>", `<style styleId="a"/>`, "</styles>", 2_000_000,
				main, Entry{"word/document.xml", wordBegin + wordEnd}, Entry{"word/_rels/document.xml.rels", Relations([3]string{"rId1", "styles", "styles.xml"})})}
		},
		func() Hostile { return Hostile{"zip in zip in zip", "docx", inner} },
		func() Hostile { return Hostile{"entries that overlap", "docx", overlap} },
		func() Hostile { return Hostile{"sizes that lie", "docx", lying} },
		func() Hostile {
			return Hostile{"billion laughs", "docx", docx(laughs + wordBegin + "<w:p><w:r><w:t>&a11;</w:t></w:r></w:p>" + wordEnd)}
		},
		func() Hostile {
			return Hostile{"an entity from a file", "docx", docx(`<!DOCTYPE d [<!ENTITY x SYSTEM "file:///etc/passwd">]>` + wordBegin + "<w:p><w:r><w:t>&x;</w:t></w:r></w:p>" + wordEnd)}
		},
		func() Hostile {
			return Hostile{"deep XML", "docx", docx(strings.Repeat("<w:p>", 1_000_000))}
		},
		func() Hostile {
			return Hostile{"tables in tables", "docx", docx(wordBegin + strings.Repeat("<w:tbl><w:tr><w:tc>", 80) + words + strings.Repeat("</w:tc></w:tr></w:tbl>", 80) + wordEnd)}
		},
		func() Hostile {
			return Hostile{"cells that span", "docx", docx(wordBegin + "<w:tbl><w:tr>" + strings.Repeat(`<w:tc><w:gridSpan w:val="2000000000"/><w:p/></w:tc>`, 50_000) + "</w:tr></w:tbl>" + wordEnd)}
		},
		func() Hostile {
			return Hostile{"styles that are based on each other", "docx", DOCX(`<w:p><w:pPr><w:pStyle w:val="a"/></w:pPr><w:r><w:t>`+words+"</w:t></w:r></w:p>",
				Entry{"word/styles.xml", `<styles><style styleId="a"><basedOn val="b"/></style><style styleId="b"><basedOn val="a"/></style></styles>`})}
		},
		func() Hostile {
			return Hostile{"parts outside the archive", "docx", Zip(Entry{"_rels/.rels", Relations([3]string{"rId1", "officeDocument", "../../../etc/passwd"})}, Entry{"word/x", words})}
		},
		func() Hostile {
			return Hostile{"many entries", "docx", many(65_000)}
		},
		func() Hostile {
			return Hostile{"1,200,000 cells", "xlsx", repeated("xl/worksheets/sheet1.xml", "<worksheet><sheetData>", `<row>`+strings.Repeat("<c><v>1</v></c>", 100)+`</row>`, "</sheetData></worksheet>", 12_000, sheet...)}
		},
		func() Hostile {
			return Hostile{"cells far to the right", "xlsx", repeated("xl/worksheets/sheet1.xml", "<worksheet><sheetData>", `<row><c r="XFD1"><v>1</v></c></row>`, "</sheetData></worksheet>", 100_000, sheet...)}
		},
		func() Hostile {
			return Hostile{"a long text in every cell", "xlsx", repeated("xl/worksheets/sheet1.xml", "<worksheet><sheetData>", `<row><c t="s"><v>0</v></c></row>`, "</sheetData></worksheet>", 500_000,
				append(sheet, Entry{"xl/sharedStrings.xml", "<sst><si><t>" + strings.Repeat(words, 20_000) + "</t></si></sst>"})...)}
		},
		func() Hostile {
			return Hostile{"empty rows", "xlsx", repeated("xl/worksheets/sheet1.xml", "<worksheet><sheetData>", `<row/>`, "</sheetData></worksheet>", 5_000_000, sheet...)}
		},
		func() Hostile { return Hostile{"100,000 slides of one part", "pptx", manySlides(100_000)} },
		func() Hostile { return Hostile{"5,000 slides of one large part", "pptx", manySlides(5_000)} },
		func() Hostile {
			return Hostile{"a spine that repeats a chapter", "epub", repeated("a.opf", `<package><manifest><item id="c" href="c.html" media-type="text/html"/></manifest><spine>`, `<itemref idref="c"/>`, "</spine></package>", 20_000,
				Entry{"mimetype", "application/epub+zip"}, Entry{"META-INF/container.xml", `<container><rootfile full-path="a.opf"/></container>`}, Entry{"c.html", strings.Repeat("<p>"+words, 2_000)})}
		},
		func() Hostile { return Hostile{"a page tree that is a loop", "pdf", loopPDF()} },
		func() Hostile {
			return Hostile{"a page tree that grows without end", "pdf", RawPDF("/Root 1 0 R", "<</Type/Catalog/Pages 2 0 R>>", "<</Type/Pages/Kids[2 0 R 2 0 R 2 0 R 2 0 R]/Count 1000000000>>")}
		},
		func() Hostile {
			return Hostile{"an xref that is a loop", "pdf", []byte("%PDF-1.4\n%\xe2\xe3\nxref\n0 1\n0000000000 65535 f \ntrailer\n<</Size 1/Prev 12/Root 1 0 R>>\nstartxref\n12\n%%EOF\n")}
		},
		func() Hostile {
			return Hostile{"objects that are each other", "pdf", RawPDF("/Root 1 0 R", "2 0 R", "3 0 R", "1 0 R")}
		},
		func() Hostile {
			return Hostile{"a large content stream", "pdf", page(deflated("BT /F1 10 Tf (x) Tj ET ", 96<<20))}
		},
		func() Hostile {
			return Hostile{"text without end", "pdf", page(deflated("BT /F1 10 Tf ("+words+") Tj ET ", 16<<20))}
		},
		func() Hostile {
			return Hostile{"forms within themselves", "pdf", page("<</Length 5>>stream\n/X Do\nendstream", "<</Type/XObject/Subtype/Form/BBox[0 0 9 9]/Resources<</XObject<</X 6 0 R>>>>/Length 29>>stream\n/X Do /X Do /X Do /X Do /X Do\nendstream")}
		},
		func() Hostile {
			return Hostile{"an image of huge dimensions", "pdf", page("<</Length 5>>stream\n/X Do\nendstream", "<</Type/XObject/Subtype/Image/Width 2000000000/Height 2000000000/BitsPerComponent 16/ColorSpace/DeviceRGB/Length 4>>stream\nabcd\nendstream")}
		},
		func() Hostile {
			return Hostile{"deep arrays", "pdf", RawPDF("/Root 1 0 R", "<</Type/Catalog/Pages 2 0 R>>", strings.Repeat("[", 2_000_000))}
		},
		func() Hostile {
			return Hostile{"filters on filters", "pdf", page("<</Length 4/Filter[" + strings.Repeat("/FlateDecode", 100_000) + "]>>stream\nabcd\nendstream")}
		},
		func() Hostile {
			return Hostile{"a stream of huge length", "pdf", page("<</Length 9999999999>>stream\nBT\nendstream")}
		},
		func() Hostile {
			return Hostile{"an object stream in itself", "pdf", RawPDF("/Root 1 0 R", "<</Type/ObjStm/N 2000000000/First 10/Extends 1 0 R/Length 20>>stream\n1 0 2 5 3 9 4 4 5 5 6 6\nendstream")}
		},
		func() Hostile {
			return Hostile{"deep groups", "rtf", []byte(`{\rtf1` + strings.Repeat("{", 1_000_000))}
		},
		func() Hostile {
			return Hostile{"a length that lies", "rtf", []byte(`{\rtf1 ` + words + `\bin2147483647 x}`)}
		},
		func() Hostile {
			return Hostile{"many fonts and cells", "rtf", []byte(`{\rtf1{\fonttbl` + strings.Repeat(`{\f1\fcharset204 a;}`, 200_000) + `}` + strings.Repeat(`\intbl x\cell`, 1_100_000) + `\row}`)}
		},
		func() Hostile {
			return Hostile{"parts in parts", "eml", []byte("From: a@b.c\nMessage-ID: <1>\n" + nestedParts(2_000))}
		},
		func() Hostile {
			return Hostile{"many parts", "eml", []byte("From: a@b.c\nMessage-ID: <1>\nContent-Type: multipart/mixed; boundary=x\n\n" + strings.Repeat("--x\n\n"+words+"\n", 100_000) + "--x--\n")}
		},
		func() Hostile {
			return Hostile{"a header without end", "eml", []byte("From: a@b.c\nMessage-ID: <1>\nX: " + strings.Repeat("a\n b", 1_000_000))}
		},
		func() Hostile {
			return Hostile{"quotes without end", "csv", []byte(strings.Repeat("a,b,c\n", 5) + strings.Repeat(`"`, 8_000_001))}
		},
		func() Hostile {
			return Hostile{"1,500,000 cells", "csv", []byte(strings.Repeat("a,b,c\n", 500_000))}
		},
		func() Hostile {
			return Hostile{"one row of commas", "csv", []byte("a,b\nc,d\n" + strings.Repeat(",", 20_000_000))}
		},
		func() Hostile {
			return Hostile{"many tags", "html", []byte("<html><body>" + strings.Repeat("<p>"+words+"<b>bold</b> <table><tr><td>x</table>\n", 150_000))}
		},
		func() Hostile {
			return Hostile{"a long attribute", "html", []byte(`<html><body><img src="` + strings.Repeat(png, 5_000) + `">` + words)}
		},
		func() Hostile {
			return Hostile{"deep elements", "html", []byte("<html>" + strings.Repeat("<div>", 1_000_000))}
		},
	} {
		if !yield(h()) {
			return
		}
	}
}

func loopPDF() []byte {
	return RawPDF("/Root 1 0 R", "<</Type/Catalog/Pages 2 0 R>>", "<</Type/Pages/Kids[3 0 R]/Count 1/Parent 3 0 R>>", "<</Type/Pages/Kids[2 0 R]/Count 1/Parent 2 0 R>>")
}

func nestedParts(depth int) string {
	var b strings.Builder
	for i := range depth {
		fmt.Fprintf(&b, "Content-Type: multipart/mixed; boundary=b%d\n\n--b%d\n", i, i)
	}
	return b.String() + "\n" + words
}

func many(n int) []byte {
	entries := make([]Entry, n)
	for i := range entries {
		entries[i].Name = fmt.Sprintf("word/%d", i)
	}
	return Zip(entries...)
}

func manySlides(n int) []byte {
	return Zip(Entry{"ppt/presentation.xml", `<presentation xmlns:r="r">` + strings.Repeat(`<sldId r:id="rId1"/>`, n) + "</presentation>"},
		Entry{"ppt/_rels/presentation.xml.rels", Relations([3]string{"rId1", "slide", "s.xml"})},
		Entry{"ppt/s.xml", "<sld><sp>" + strings.Repeat("<p><t>"+words+"</t></p>", 5_000) + "</sp></sld>"})
}

// overlapping has a directory of 10,000 entries that are all the same bytes of the file.
func overlapping() []byte {
	const n = 10_000
	body := strings.Repeat("a", 1<<20)
	one := Zip(Entry{"word/document.xml", body})
	from := bytes.Index(one, []byte("PK\x01\x02"))
	to := bytes.LastIndex(one, []byte("PK\x05\x06"))
	var b bytes.Buffer
	b.Write(one[:from])
	for range n {
		b.Write(one[from:to])
	}
	end := bytes.Clone(one[to:])
	size := (to - from) * n
	copy(end[8:], []byte{n & 0xff, n >> 8, n & 0xff, n >> 8, byte(size), byte(size >> 8), byte(size >> 16), byte(size >> 24)})
	b.Write(end)
	return b.Bytes()
}
