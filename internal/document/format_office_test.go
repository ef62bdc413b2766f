package document

import (
	"errors"
	"strings"
	"testing"

	"batchwright/internal/document/documenttest"
)

// para is a paragraph of Word with properties.
func para(properties, text string) string {
	return "<w:p><w:pPr>" + properties + "</w:pPr><w:r><w:t>" + text + "</w:t></w:r></w:p>"
}

// binaries are small documents of the formats that a program writes, and their texts.
var binaries = map[string]struct {
	data []byte
	want content
}{
	"docx": {documenttest.DOCX(
		para(`<w:pStyle w:val="Kop1"/>`, "Head &amp; shoulders")+
			para("", prose+"</w:t></w:r><w:r><w:rPr><w:vanish/></w:rPr><w:t>hidden</w:t></w:r><w:del><w:r><w:delText>gone</w:delText></w:r></w:del><w:ins><w:r><w:t> New.</w:t></w:r></w:ins><w:r><w:tab/><w:t>tab</w:t><w:br/><w:t>line")+
			para(`<w:numPr><w:ilvl w:val="0"/><w:numId w:val="1"/></w:numPr>`, "one")+
			para(`<w:numPr><w:ilvl w:val="1"/><w:numId w:val="1"/></w:numPr>`, "two")+
			"<w:tbl><w:tr><w:tc>"+para("", "a")+"</w:tc><w:tc>"+para("", "b|c")+para("", "d")+"</w:tc></w:tr>"+
			`<w:tr><w:tc><w:tcPr><w:gridSpan w:val="2"/></w:tcPr>`+para("", "wide")+"</w:tc></w:tr></w:tbl>"+
			`<w:p><w:r><mc:AlternateContent><mc:Choice><w:txbxContent>`+para("", "in a box")+`</w:txbxContent></mc:Choice><mc:Fallback>`+para("", "twice")+`</mc:Fallback></mc:AlternateContent></w:r></w:p>`+
			`<w:p><w:r><w:instrText>PAGE</w:instrText></w:r></w:p><w:sectPr/>`,
		documenttest.Entry{Name: "word/styles.xml", Body: `<w:styles xmlns:w="w"><w:style w:styleId="Kop1"><w:name w:val="heading 1"/></w:style></w:styles>`},
		documenttest.Entry{Name: "word/numbering.xml", Body: `<w:numbering xmlns:w="w"><w:abstractNum w:abstractNumId="7"><w:lvl w:ilvl="0"><w:numFmt w:val="decimal"/></w:lvl><w:lvl w:ilvl="1"><w:numFmt w:val="bullet"/></w:lvl></w:abstractNum><w:num w:numId="1"><w:abstractNumId w:val="7"/></w:num></w:numbering>`},
		documenttest.Entry{Name: "word/footnotes.xml", Body: `<w:footnotes xmlns:w="w"><w:footnote w:type="separator">` + para("", "line") + `</w:footnote><w:footnote>` + para("", "A note.") + `</w:footnote></w:footnotes>`},
	), content{"docx", "Head & shoulders", "# Head & shoulders\n\n" + prose + " New.\ttab\nline\n\n1. one\n   - two\n\n| a | b\\|c d |\n| --- | --- |\n| wide |\n\nin a box\n\nA note."}},
	"pptx": {documenttest.PPTX([]string{
		`<p:sld xmlns:p="p" xmlns:a="a"><p:sp><p:nvPr><p:ph type="title"/></p:nvPr><a:p><a:r><a:t>First </a:t></a:r><a:r><a:t>slide</a:t></a:r></a:p></p:sp>` +
			`<p:sp><p:nvPr><p:ph idx="1"/></p:nvPr><a:p><a:r><a:t>` + prose + `</a:t></a:r></a:p><a:p><a:pPr lvl="1"/><a:r><a:t>below</a:t></a:r></a:p></p:sp>` +
			`<p:sp><p:nvPr><p:ph type="sldNum"/></p:nvPr><a:p><a:fld><a:t>1</a:t></a:fld></a:p></p:sp>` +
			`<p:graphicFrame><a:tbl><a:tr><a:tc><a:txBody><a:p><a:r><a:t>k</a:t></a:r></a:p></a:txBody></a:tc><a:tc><a:txBody><a:p><a:r><a:t>v</a:t></a:r></a:p></a:txBody></a:tc></a:tr></a:tbl></p:graphicFrame></p:sld>`,
		`<p:sld xmlns:p="p" show="0"><p:sp><a:p xmlns:a="a"><a:r><a:t>hidden</a:t></a:r></a:p></p:sp></p:sld>`,
		`<p:sld xmlns:p="p"><p:sp><a:p xmlns:a="a"><a:r><a:t>free text</a:t></a:r></a:p></p:sp></p:sld>`,
	}, documenttest.Entry{Name: "ppt/slides/_rels/slide3.xml.rels", Body: documenttest.Relations([3]string{"rId1", "notesSlide", "../notesSlides/n.xml"})},
		documenttest.Entry{Name: "ppt/notesSlides/n.xml", Body: `<p:notes xmlns:p="p" xmlns:a="a"><p:sp><p:ph type="body"/><a:p><a:r><a:t>say this</a:t></a:r></a:p></p:sp></p:notes>`}),
		content{"pptx", "First slide", "## First slide\n\n- " + prose + "\n  - below\n\n| k | v |\n| --- | --- |\n\n## Slide 3\n\nfree text\n\nNotes: say this"}},
	"xlsx": {documenttest.XLSX(`<row r="1"><c r="A1" t="s"><v>0</v></c><c r="C1" t="inlineStr"><is><t>when</t></is></c></row>`+
		`<row r="3"><c r="A3"><v>0.30000000000000004</v></c><c r="B3" s="1"><v>0.125</v></c><c r="C3" s="2"><f>TODAY()</f><v>45292</v></c></row>`+
		`<row r="4"><c r="A4" t="b"><v>1</v></c><c r="B4" t="str"><v>text</v></c><c r="C4" s="3"><v>45292.75</v></c></row>`+
		`<row r="5"><c r="A5"><v>12345678901</v></c><c r="B5" t="e"><v>#N/A</v></c><c r="C5" s="4"><v>1.5</v></c></row>`,
		[]string{prose},
		documenttest.Entry{Name: "xl/styles.xml", Body: `<styleSheet><numFmts><numFmt numFmtId="164" formatCode="dd/mm/yyyy\ hh:mm"/><numFmt numFmtId="165" formatCode="[h]:mm:ss;@"/></numFmts>` +
			`<cellStyleXfs><xf numFmtId="22"/></cellStyleXfs><cellXfs><xf numFmtId="0"/><xf numFmtId="10"/><xf numFmtId="14"/><xf numFmtId="164"/><xf numFmtId="165"/></cellXfs></styleSheet>`}),
		content{"xlsx", "", "## Sheet one\n\n| " + prose + " |  | when |\n| --- | --- | --- |\n| 0.3 | 12.5% | 2024-01-01 |\n| TRUE | text | 2024-01-01 18:00:00 |\n| 12345678901 | #N/A | 36:00:00 |"}},
	"epub": {documenttest.EPUB("The book", []string{"<h1>One</h1><p>" + prose + "</p>", "<h1>Two</h1><p>caf&eacute;</p>"}),
		content{"epub", "The book", "# One\n\n" + prose + "\n\n# Two\n\ncafé"}},
	"pdf": {documenttest.PDF("A title", []string{"Running head 1", prose + " It is hyphen-", "ated well, and the old lazy dog is well-", "known to every quick and brown fox around, well-known.", "Short end.", "- an item of a list"},
		[]string{"Running head 2", "Second page " + prose + " And it goes", "on to the following page where the", "3"},
		[]string{"Running head 3", "paragraph ends.", "4"}, []string{"Running head 4", "Last words.", "5"}),
		content{"pdf", "A title", prose + " It is hyphenated well, and the old lazy dog is well-known to every quick and brown fox around, well-known. Short end.\n- an item of a list\n\nSecond page " + prose + " And it goes on to the following page where the paragraph ends.\n\nLast words."}},
	"rtf": {[]byte(`{\rtf1\ansi\ansicpg1252\deff0{\fonttbl{\f0 Times;}{\f1\fcharset204 Arial;}}{\info{\title The title}{\author Nobody}}{\header Page head\par}` +
		`{\*\generator Riched20;}\pard ` + prose + `\par Caf\'e9 \u8364? 20 \emdash  {\f1 \'cf\'f0\'e8\'e2\'e5\'f2}{\v hidden}\par` +
		`{\listtext\'b7\tab}one\par{\listtext\'b7\tab}two\par` +
		`\trowd\intbl a\cell b\cell\row\intbl 1\cell 2\cell\row\pard {\pict\bin4 }{{}}end \{sic\}\par}`),
		content{"rtf", "The title", prose + "\n\nCafé € 20 — Привет\n\n- one\n- two\n\n| a | b |\n| --- | --- |\n| 1 | 2 |\n\nend {sic}"}},
	"eml": {[]byte("From: =?iso-8859-1?q?Andr=E9?= <a@example.com>\r\nTo: b@example.com\r\nSubject: Hello\r\nDate: Tue, 1 Dec 2026 10:00:00 +0000\r\nMIME-Version: 1.0\r\n" +
		"Content-Type: multipart/mixed; boundary=x\r\n\r\n--x\r\nContent-Type: multipart/alternative; boundary=y\r\n\r\n--y\r\nContent-Type: text/plain; charset=iso-8859-1\r\n" +
		"Content-Transfer-Encoding: quoted-printable\r\n\r\n" + prose + " caf=E9=\r\n!\r\n--y\r\nContent-Type: text/html\r\n\r\n<p>twice</p>\r\n--y--\r\n--x\r\n" +
		"Content-Type: application/pdf; name=\"=?utf-8?q?r=C3=A9sum=C3=A9.pdf?=\"\r\nContent-Disposition: attachment\r\n\r\nx\r\n--x--\r\n"),
		content{"eml", "Hello", "From: André <a@example.com>\nTo: b@example.com\nSubject: Hello\nDate: Tue, 1 Dec 2026 10:00:00 +0000\n\n" + prose + " café!\n\nAttachments, not read: résumé.pdf (application/pdf)"}},
}

func TestBinaryFormats(t *testing.T) {
	t.Parallel()
	for name, c := range binaries {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := Extract("misleading.txt", "text/plain", c.data) // the content tells
			if err != nil {
				t.Fatal(err)
			}
			if contentOf(got) != c.want {
				t.Errorf("\n got %q\nwant %q", contentOf(got), c.want)
			}
		})
	}
}

func TestFiguresOfADocument(t *testing.T) {
	t.Parallel()
	for name, pages := range map[string]int{"pdf": 4, "pptx": 3, "xlsx": 1, "docx": 0} {
		got, err := Extract("", "", binaries[name].data)
		if err != nil || got.Pages != pages || got.Characters == 0 || got.Letters < 0.3 || got.Extractor != name {
			t.Errorf("%s: %+v %s, %v", name, got.Figures, got.Extractor, err)
		}
	}
}

// Where a document is cut, and which of its bytes is wrong, nothing but an Error may come of it.
func TestBrokenDocumentsAreRefusedOrRead(t *testing.T) {
	t.Parallel()
	for name, c := range binaries {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			try := func(what string, at int, data []byte) {
				if _, err := Read(name, data, Options{}); err != nil {
					if _, ok := errors.AsType[*Error](err); !ok {
						t.Errorf("%s at %d: %v", what, at, err)
					}
				}
			}
			for i := 1; i < 40; i++ {
				at := len(c.data) * i / 40
				try("cut", at, c.data[:at])
				broken := []byte(string(c.data))
				broken[at] ^= 0x55
				try("changed", at, broken)
				try("cut out", at, append([]byte(string(c.data[:at])), c.data[min(at+9, len(c.data)):]...))
			}
		})
	}
}

func TestDocumentsThatNeedAPasswordSaySo(t *testing.T) {
	t.Parallel()
	drm := documenttest.EPUB("t", []string{prose}, documenttest.Entry{Name: "META-INF/encryption.xml",
		Body: `<encryption><EncryptedData><EncryptionMethod Algorithm="http://www.w3.org/2001/04/xmlenc#aes128-cbc"/><CipherReference URI="c"/></EncryptedData></encryption>`})
	locked := documenttest.RawPDF("/Root 1 0 R/ID[<00><00>]/Encrypt<</Filter/Standard/V 1/R 2/O<"+strings.Repeat("00", 32)+">/U<"+strings.Repeat("00", 32)+">/P -4>>", "<</Type/Catalog>>")
	for name, data := range map[string][]byte{"epub": drm, "pdf": locked} {
		_, err := Extract("", "", data)
		if e, ok := errors.AsType[*Error](err); !ok || e.Code != CodeEncrypted {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestScannedAndGarbledPDFsHaveNoText(t *testing.T) {
	t.Parallel()
	stamp := []string{"Scanned by X"}
	for name, pages := range map[string][][]string{
		"no text":         {nil, nil, nil},
		"a stamp a page":  {stamp, stamp, stamp, stamp, stamp},
		"a cover":         {{"A cover with some words"}, nil, nil, nil, nil},
		"only signs":      {{strings.Repeat("!\"#$%&' a", 50)}},
		"numbers of page": {{"1"}, {"2"}, {"3"}, {"4"}},
	} {
		_, err := Extract("", "", documenttest.PDF("", pages...))
		if e, ok := errors.AsType[*Error](err); !ok || e.Code != CodeNoText || e.Pages != len(pages) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzDOCX(f *testing.F) { fuzz(f, "docx") }
func FuzzPPTX(f *testing.F) { fuzz(f, "pptx") }
func FuzzXLSX(f *testing.F) { fuzz(f, "xlsx") }
func FuzzEPUB(f *testing.F) { fuzz(f, "epub") }
func FuzzEML(f *testing.F)  { fuzz(f, "eml") }
func FuzzRTF(f *testing.F)  { fuzz(f, "rtf") }

func FuzzCSV(f *testing.F) {
	f.Add([]byte("a;b\n\"c;\"\"\";d\n"))
	fuzz(f, "csv")
}

// fuzz reads what becomes of a document. PDFs aren't among them: the library that finds their objects can be made to run in circles, which is what the
// processes of package extract are for.
func fuzz(f *testing.F, name string) {
	if c, ok := binaries[name]; ok {
		f.Add(c.data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		_, err := Read(name, data, Options{})
		if _, ok := errors.AsType[*Error](err); err != nil && !ok {
			t.Fatalf("error is a %T", err)
		}
	})
}

// FuzzPDFText is for what is ours of reading PDFs: what codes mean, and making running text of lines.
func FuzzPDFText(f *testing.F) {
	f.Add("2 beginbfchar <01> <0041> <0002> <D83DDE00> endbfchar 1 beginbfrange <03> <05> [<0042> <0043>] <06> <09> <0061> endbfrange", "\x01\x00\x02\x03")
	f.Add("a hyphen-\nated word\f\f\fiv\n", "")
	f.Fuzz(func(t *testing.T, text, raw string) {
		for _, size := range []int{1, 2} {
			font := &pdfFont{unicode: map[string]string{}, bytes: size}
			font.readTable([]byte(text))
			if said, _, _, _ := font.decode(raw); strings.ContainsAny(said, "\x00\n") {
				t.Error("control characters")
			}
		}
		if got := flow(strings.Split(text, "\f")); len(got) > 3*len(text)+10 {
			t.Errorf("%d bytes became %d", len(text), len(got))
		}
	})
}
