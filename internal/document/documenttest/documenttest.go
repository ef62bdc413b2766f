// Package documenttest makes documents for tests: small ones of each format, and ones that no honest program would write.
package documenttest

import (
	"archive/zip"
	"bytes"
	"fmt"
	"strings"
)

// Entry is a file in a zip archive.
type Entry struct{ Name, Body string }

// Zip packs files in their order.
func Zip(entries ...Entry) []byte {
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	for _, e := range entries {
		w, err := z.Create(e.Name)
		if err == nil {
			_, err = w.Write([]byte(e.Body))
		}
		if err != nil {
			panic(err)
		}
	}
	if err := z.Close(); err != nil {
		panic(err)
	}
	return b.Bytes()
}

const (
	declaration = `<?xml version="1.0" encoding="UTF-8" standalone="yes"?>`
	wordSpace   = ` xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main" xmlns:r="http://schemas.openxmlformats.org/officeDocument/2006/relationships"`
	relSpace    = ` xmlns="http://schemas.openxmlformats.org/package/2006/relationships"`
	relType     = "http://schemas.openxmlformats.org/officeDocument/2006/relationships/"
)

// Relations is the part that says what other parts a part has: of each, its id, kind and target.
func Relations(rows ...[3]string) string {
	var b strings.Builder
	b.WriteString(declaration + "<Relationships" + relSpace + ">")
	for _, r := range rows {
		fmt.Fprintf(&b, `<Relationship Id="%s" Type="%s%s" Target="%s"/>`, r[0], relType, r[1], r[2])
	}
	return b.String() + "</Relationships>"
}

// DOCX has a body, in WordprocessingML.
func DOCX(body string, more ...Entry) []byte {
	return Zip(append([]Entry{
		{"[Content_Types].xml", declaration + `<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types"/>`},
		{"_rels/.rels", Relations([3]string{"rId1", "officeDocument", "word/document.xml"})},
		{"word/_rels/document.xml.rels", Relations([3]string{"rId1", "styles", "styles.xml"}, [3]string{"rId2", "numbering", "numbering.xml"}, [3]string{"rId3", "footnotes", "footnotes.xml"})},
		{"word/document.xml", declaration + "<w:document" + wordSpace + "><w:body>" + body + "</w:body></w:document>"},
	}, more...)...)
}

// PPTX has slides, each in PresentationML below the tree of shapes.
func PPTX(slides []string, more ...Entry) []byte {
	entries := []Entry{{"_rels/.rels", Relations([3]string{"rId1", "officeDocument", "ppt/presentation.xml"})}}
	var list strings.Builder
	var rels [][3]string
	for i, s := range slides {
		n := i + 1
		fmt.Fprintf(&list, `<p:sldId id="%d" r:id="rId%d"/>`, 255+n, n)
		rels = append(rels, [3]string{fmt.Sprintf("rId%d", n), "slide", fmt.Sprintf("slides/slide%d.xml", n)})
		entries = append(entries, Entry{fmt.Sprintf("ppt/slides/slide%d.xml", n), declaration + s})
	}
	entries = append(entries, Entry{"ppt/presentation.xml", declaration + `<p:presentation xmlns:p="p" xmlns:r="r"><p:sldIdLst>` + list.String() + `</p:sldIdLst></p:presentation>`},
		Entry{"ppt/_rels/presentation.xml.rels", Relations(rels...)})
	return Zip(append(entries, more...)...)
}

// XLSX has one sheet, in SpreadsheetML below sheetData, and strings that its cells share.
func XLSX(rows string, strs []string, more ...Entry) []byte {
	var shared strings.Builder
	for _, s := range strs {
		shared.WriteString("<si><t>" + s + "</t></si>")
	}
	return Zip(append([]Entry{
		{"_rels/.rels", Relations([3]string{"rId1", "officeDocument", "xl/workbook.xml"})},
		{"xl/workbook.xml", declaration + `<workbook xmlns:r="r"><sheets><sheet name="Sheet one" sheetId="1" r:id="rId1"/></sheets></workbook>`},
		{"xl/_rels/workbook.xml.rels", Relations([3]string{"rId1", "worksheet", "worksheets/sheet1.xml"}, [3]string{"rId2", "sharedStrings", "sharedStrings.xml"}, [3]string{"rId3", "styles", "styles.xml"})},
		{"xl/sharedStrings.xml", declaration + "<sst>" + shared.String() + "</sst>"},
		{"xl/worksheets/sheet1.xml", declaration + "<worksheet><sheetData>" + rows + "</sheetData></worksheet>"},
	}, more...)...)
}

// EPUB has chapters, in XHTML below body.
func EPUB(title string, chapters []string, more ...Entry) []byte {
	entries := []Entry{
		{"mimetype", "application/epub+zip"},
		{"META-INF/container.xml", declaration + `<container><rootfiles><rootfile full-path="OEBPS/book.opf"/></rootfiles></container>`},
	}
	var items, spine strings.Builder
	for i, c := range chapters {
		fmt.Fprintf(&items, `<item id="c%d" href="text/c%%20%d.xhtml" media-type="application/xhtml+xml"/>`, i, i)
		fmt.Fprintf(&spine, `<itemref idref="c%d"/>`, i)
		entries = append(entries, Entry{fmt.Sprintf("OEBPS/text/c %d.xhtml", i), declaration + `<!DOCTYPE html><html xmlns="http://www.w3.org/1999/xhtml"><head><title>c</title></head><body>` + c + "</body></html>"})
	}
	entries = append(entries, Entry{"OEBPS/book.opf", declaration + `<package xmlns:dc="dc"><metadata><dc:title>` + title + `</dc:title></metadata><manifest>` +
		items.String() + `</manifest><spine>` + spine.String() + `</spine></package>`})
	return Zip(append(entries, more...)...)
}

// PDF has pages of lines in Helvetica, set from the top.
func PDF(title string, pages ...[]string) []byte {
	var objects []string
	add := func(body string) int { objects = append(objects, body); return len(objects) }
	add("<</Type/Catalog/Pages 2 0 R>>")
	add("")
	font := add("<</Type/Font/Subtype/Type1/BaseFont/Helvetica/Encoding/WinAnsiEncoding/FirstChar 0/LastChar 255/Widths[" + strings.Repeat("500 ", 256) + "]>>")
	var kids strings.Builder
	for _, lines := range pages {
		var s strings.Builder
		s.WriteString("BT /F1 10 Tf 12 TL 50 800 Td\n")
		for _, line := range lines {
			fmt.Fprintf(&s, "(%s) Tj T*\n", strings.NewReplacer(`\`, `\\`, "(", `\(`, ")", `\)`).Replace(line))
		}
		s.WriteString("ET")
		content := add(fmt.Sprintf("<</Length %d>>stream\n%s\nendstream", s.Len(), s.String()))
		fmt.Fprintf(&kids, "%d 0 R ", add(fmt.Sprintf("<</Type/Page/Parent 2 0 R/MediaBox[0 0 595 842]/Resources<</Font<</F1 %d 0 R>>>>/Contents %d 0 R>>", font, content)))
	}
	objects[1] = fmt.Sprintf("<</Type/Pages/Kids[%s]/Count %d>>", kids.String(), len(pages))
	info := add("<</Title(" + title + ")>>")
	return RawPDF(fmt.Sprintf("/Root 1 0 R/Info %d 0 R", info), objects...)
}

// RawPDF has the objects given, numbered from 1.
func RawPDF(trailer string, objects ...string) []byte {
	var b bytes.Buffer
	b.WriteString("%PDF-1.4\n%\xe2\xe3\xcf\xd3\n")
	offsets := make([]int, len(objects))
	for i, o := range objects {
		offsets[i] = b.Len()
		fmt.Fprintf(&b, "%d 0 obj\n%s\nendobj\n", i+1, o)
	}
	xref := b.Len()
	fmt.Fprintf(&b, "xref\n0 %d\n0000000000 65535 f \n", len(objects)+1)
	for _, at := range offsets {
		fmt.Fprintf(&b, "%010d 00000 n \n", at)
	}
	fmt.Fprintf(&b, "trailer\n<</Size %d%s>>\nstartxref\n%d\n%%%%EOF\n", len(objects)+1, trailer, xref)
	return b.Bytes()
}
