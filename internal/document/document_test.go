package document

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"golang.org/x/text/encoding/unicode"
	"golang.org/x/text/unicode/norm"

	"batchwright/internal/document/documenttest"
)

// content is what most tests look at.
type content struct{ format, title, text string }

func contentOf(d Document) content { return content{d.Format, d.Title, d.Text} }

const prose = "The quick brown fox jumps over the lazy dog."

func TestExtract(t *testing.T) {
	t.Parallel()
	utf16 := func(order unicode.Endianness, s string) string {
		encoded, err := unicode.UTF16(order, unicode.UseBOM).NewEncoder().String(s)
		if err != nil {
			t.Fatal(err)
		}
		return encoded
	}
	for _, c := range []struct {
		name, file, contentType, data string
		want                          content
	}{
		{"text", "a.txt", "text/plain", prose, content{"text", "", prose}},
		{"no name, no type", "", "", prose, content{"text", "", prose}},
		{"unknown extension", "a.xyz", "application/octet-stream", prose, content{"text", "", prose}},
		{"byte order mark", "", "", "\xef\xbb\xbf" + prose, content{"text", "", prose}},
		{"UTF-16LE", "", "", utf16(unicode.LittleEndian, "Grüße 😀 "+prose), content{"text", "", "Grüße 😀 " + prose}},
		{"UTF-16BE", "", "", utf16(unicode.BigEndian, "Grüße 😀 "+prose), content{"text", "", "Grüße 😀 " + prose}},
		{"line ends", "", "", "a\r\nb\rc\nd\fe\vf\u0085g\u2028h\u2029i " + prose, content{"text", "", "a\nb\nc\nd\ne\nf\ng\nh\n\ni " + prose}},
		{"control characters", "", "", "a\x00b\x1b[0m\x7f\u0080\uFEFF\u00adc\ufdd0\uffff\U0001ffff\td " + prose + prose + prose, content{"text", "", "ab[0mc\td " + prose + prose + prose}},
		{"neighbours of control characters", "", "", "\u00a0\u00a9\u2027\u202a\ufdcf\ufdf0\ufe00\uff21\ufffd\U0001fffd " + prose, content{"text", "", "\u00a0\u00a9\u2027\u202a\ufdcf\ufdf0\ufe00\uff21\ufffd\U0001fffd " + prose}},
		{"normal form", "", "", "Cafe\u0301 \u212b " + prose, content{"text", "", "Café Å " + prose}},
		{"blank margins", "", "", " \n\t\n  indented " + prose + " \n\n", content{"text", "", "  indented " + prose}},
		{"like a bitmap", "", "", "BM " + prose, content{"text", "", "BM " + prose}},
		{"like an MP3", "", "", "ID3 " + prose, content{"text", "", "ID3 " + prose}},
		{"chinese", "", "", "今天天气很好我们去公园散步", content{"text", "", "今天天气很好我们去公园散步"}},
		{"latin 1", "", "", "Un caf\xe9 au lait et une cr\xeape br\xfbl\xe9e, s'il vous pla\xeet, c'est \xe0 moi", content{"text", "", "Un café au lait et une crêpe brûlée, s'il vous plaît, c'est à moi"}},
		{"windows 1251", "", "", "\xd8\xe8\xf0\xee\xea\xe0\xff \xfd\xeb\xe5\xea\xf2\xf0\xe8\xf4\xe8\xea\xe0\xf6\xe8\xff \xfe\xe6\xed\xfb\xf5 \xe3\xf3\xe1\xe5\xf0\xed\xe8\xe9 \xe4\xe0\xf1\xf2 \xec\xee\xf9\xed\xfb\xe9 \xf2\xee\xeb\xf7\xee\xea", content{"text", "", "Широкая электрификация южных губерний даст мощный толчок"}},
		{"shift jis", "", "", "\x8d\xa1\x93\xfa\x82\xcd\x93V\x8bC\x82\xaa\x82\xa6\x82\xa2\x82\xcc\x82\xc5\x8c\xf6\x89\x80\x82\xc9\x8ds\x82\xab\x82\xdc\x82\xb7\x81B", content{"text", "", "今日は天気がえいので公園に行きます。"}},
		{"iso-2022-jp", "", "", "\x1b$B:#F|$OE75$$,$$$$$N$G8x1`$K9T$-$^$9\x1b(B", content{"text", "", "今日は天気がいいので公園に行きます"}},
		{"one broken byte in UTF-8", "", "", strings.Repeat("Grüße ", 11) + "\xfc", content{"text", "", strings.Repeat("Grüße ", 11) + "\uFFFD"}},
		{"UTF-16 without mark", "", "", strings.Join(strings.Split(prose, ""), "\x00") + "\x00", content{"text", "", prose}},
		{"ligatures", "", "", "e\ufb03cient \ufb01nd \ufb06 \ufb05 \ufb00 \ufb02 \ufb04 " + prose, content{"text", "", "efficient find st st ff fl ffl " + prose}},
		{"csv by content", "", "", "name,age,town\nAda,36,London\nAlan,41,Wilmslow\nGrace,85,Arlington\n", content{"csv", "", "| name | age | town |\n| --- | --- | --- |\n| Ada | 36 | London |\n| Alan | 41 | Wilmslow |\n| Grace | 85 | Arlington |"}},
		{"csv by name", "a.csv", "", "name;age\n\"Lovelace; Ada|\";36\n\"Grace\nHopper\";85\n", content{"csv", "", "| name | age |\n| --- | --- |\n| Lovelace; Ada\\| | 36 |\n| Grace Hopper | 85 |"}},
		{"tsv", "a.tsv", "", "name\tage\nAda Lovelace\t36\nGrace Hopper\t\n", content{"csv", "", "| name | age |\n| --- | --- |\n| Ada Lovelace | 36 |\n| Grace Hopper |"}},
		{"csv that is none", "a.csv", "", prose, content{"csv", "", prose}},
		{"a mail by content", "a.txt", "", "From: a@b.c\nMessage-ID: <1@b.c>\nSubject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\n\n" + prose, content{"eml", "Grüße", "From: a@b.c\nSubject: Grüße\n\n" + prose}},
		{"a memo is no mail", "", "", "From: Ada\nTo: all\n\n" + prose, content{"text", "", "From: Ada\nTo: all\n\n" + prose}},
		{"json", "a.json", "application/json", `{"text": "` + prose + `"}`, content{"text", "", `{"text": "` + prose + `"}`}},

		{"markdown by name", "a.MD", "text/plain", "# The *Title* #\n\n" + prose, content{"markdown", "The *Title*", "# The *Title* #\n\n" + prose}},
		{"markdown by type", "", "text/markdown; charset=utf-8", "Under\n====\n\n" + prose, content{"markdown", "Under", "Under\n====\n\n" + prose}},
		{"markdown without title", "a.md", "", "## Two\n\n" + prose, content{"markdown", "", "## Two\n\n" + prose}},
		{"markdown with a tag first", "a.md", "", "<div>x</div>\n\n# T\n" + prose, content{"markdown", "T", "<div>x</div>\n\n# T\n" + prose}},
		{"front matter", "a.md", "", "---\ntitle: \"From matter\"\ndate: 2026\n---\n# Heading\n" + prose, content{"markdown", "From matter", "---\ntitle: \"From matter\"\ndate: 2026\n---\n# Heading\n" + prose}},
		{"title not from code", "a.md", "", "```sh\n# comment\n```\n# Real\n" + prose, content{"markdown", "Real", "```sh\n# comment\n```\n# Real\n" + prose}},

		{"html by content", "a.txt", "text/plain", "<!-- c -->\n<!DOCTYPE html><title> A\n B </title><p>" + prose, content{"html", "A B", prose}},
		{"html by name", "a.htm", "", "<p>" + prose, content{"html", "", prose}},
		{"html by type", "", "text/html; charset=utf-8", "<h1>Head <em>ing</em> &lt;C#</h1><p>" + prose, content{"html", "Head ing <C#", "# Head *ing* <C#\n\n" + prose}},
		{"html in UTF-16", "", "", utf16(unicode.LittleEndian, "<html><body><p>"+prose), content{"html", "", prose}},
		{"a tag alone is text", "", "", "<p>" + prose, content{"text", "", "<p>" + prose}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got, err := Extract(c.file, c.contentType, []byte(c.data))
			if err != nil || contentOf(got) != c.want {
				t.Errorf("\n got %q %v\nwant %q", contentOf(got), err, c.want)
			}
		})
	}
}

func TestExtractErrors(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, file, data string
		code             Code
		message          string
	}{
		{"nothing", "", "", CodeEmpty, "the document is empty: 0 bytes"},
		{"white space", "", " \r\n\t ", CodeEmpty, "the document has no text: 5 bytes of white space"},
		{"html without text", "", "<html><body><script>var a = 'a script is not text'</script>", CodeEmpty, "the document has no text: 59 bytes, 0 characters, 0% of them letters"},
		{"too little", "", "Só, 12345 67890 12345 67890.", CodeNoText, "the document has almost no text: 29 bytes, 28 characters, 8% of them letters; at least 20 letters are needed"},
		{"too little in Chinese", "", "今天天气", CodeNoText, "the document has almost no text: 12 bytes, 4 characters, 100% of them letters; at least 20 letters are needed"},
		{"garbled", "", prose + strings.Repeat("\uf001", 40), CodeNoText, "the document has garbled text: 164 bytes, 84 characters, 46% of them letters; its fonts don't say which characters they draw: print it to PDF anew, or run text recognition (OCR) over it"},
		{"half a UTF-16 unit", "", "\xff\xfea\x00b", CodeInvalidUTF8, "the document is not valid UTF-16: it ends at byte 5 inside a character"},
		{"half a UTF-16 pair", "", "\xfe\xff\xd8\x3d\x00a", CodeInvalidUTF8, "the document is not valid UTF-16 at byte 2: half a surrogate pair"},
		{"a damaged pdf", "a.txt", "%PDF-1.7\n1 0 obj", CodeDamaged, "the document is damaged: its PDF structure can't be read"},
		{"zip", "a.docx", "PK\x03\x04\x14\x00\x06\x00\x08\x00\x00\x00!\x00\xff\xfe", CodeDamaged, "the document is damaged: it begins as a zip archive and has no end; was it cut off?"},
		{"another zip", "a.docx", string(documenttest.Zip(documenttest.Entry{Name: "a.txt", Body: prose})), CodeUnsupported, "the document looks like application/zip; the formats that can be read are " + formatNames()},
		{"binary", "", "\x00\x01\x02\xff\xfe\xfd binary", CodeUnsupported, "the document looks like binary data; the formats that can be read are csv, docx, eml, epub, html, markdown, pdf, pptx, rtf, text, xlsx"},
		{"Word before 2007", "a.doc", "\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1\x00\x00", CodeUnsupported, "the document looks like one of Word, Excel or PowerPoint before 2007: save it as docx, xlsx or pptx"},
		{"Word with a password", "a.docx", "\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1\x00\x00" + strings.Join(strings.Split("EncryptedPackage", ""), "\x00") + "\x00", CodeEncrypted, "the document needs a password: save it without one"},
		{"large", "", strings.Repeat("x", MaxBytes+1), CodeTooLarge, "the document has 67108865 bytes; at most 67108864 are read"},
		{"deep", "a.html", strings.Repeat("<div>", 300) + prose, CodeTooComplex, "the elements of the HTML document nest deeper than 200 levels"},
		{"many tags", "a.html", strings.Repeat("<p>", 1_000_001) + prose, CodeTooComplex, "the HTML document has more than 1000000 tags"},
		{"very deep", "a.html", strings.Repeat("<span>", 10_000) + prose, CodeTooComplex, "the elements of the HTML document nest deeper than 200 levels"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got, err := Extract(c.file, "", []byte(c.data))
			e, ok := errors.AsType[*Error](err)
			if !ok {
				t.Fatalf("got %.100q, %v", got.Text, err)
			}
			if e.Code != c.code || e.Message != c.message {
				t.Errorf("\n got %s: %s\nwant %s: %s", e.Code, e.Message, c.code, c.message)
			}
		})
	}
}

func FuzzExtract(f *testing.F) {
	f.Add("a.html", "", []byte("<html><main><h1>T</h1><p>"+prose+"<table><tr><td rowspan=3>a<td>b</table><ul><li>x<li>y</ul><pre>c</pre>"))
	f.Add("a.md", "text/markdown", []byte("# T\n"+prose))
	f.Add("", "", []byte("\xff\xfea\x00"))
	f.Fuzz(func(t *testing.T, name, contentType string, data []byte) {
		got, err := Extract(name, contentType, data)
		if err != nil {
			e, ok := errors.AsType[*Error](err)
			if !ok {
				t.Fatalf("error is a %T", err)
			}
			if strings.Contains(e.Message, "can't be converted") {
				t.Fatal("the converter panics")
			}
			return
		}
		switch {
		case !utf8.ValidString(got.Text) || !utf8.ValidString(got.Title):
			t.Fatal("not UTF-8")
		case !norm.NFC.IsNormalString(got.Text):
			t.Fatal("not in normal form C")
		case strings.ContainsAny(got.Text, "\x00\r\v\f\x7f\u0085\u2028"):
			t.Fatal("control characters")
		case strings.Contains(got.Title, "\n"):
			t.Fatal("a title of several lines")
		case got.Text != trim(got.Text):
			t.Fatal("blank margins")
		}
		again, err := Extract(name, contentType, data)
		if err != nil || again != got {
			t.Fatal("another text the second time")
		}
	})
}

// A format that can't be found, or can't read its own kind, is no format.
func TestEveryFormatIsFound(t *testing.T) {
	t.Parallel()
	const sample = "To: you\n\n" + prose
	for _, f := range formats {
		if f.name == "" || f.extract == nil || len(f.mediaTypes)+len(f.extensions) == 0 {
			t.Errorf("format %q is incomplete", f.name)
		}
		for _, extension := range f.extensions {
			if f.binary() { // its content tells
				break
			}
			if got, err := Extract("a"+extension, "", []byte(sample)); err != nil || got.Format != f.name || !strings.HasPrefix(extension, ".") {
				t.Errorf("%s of %s: found %s, %v", extension, f.name, got.Format, err)
			}
		}
		for _, mediaType := range f.mediaTypes {
			if f.binary() {
				break
			}
			if got, err := Extract("", mediaType+"; charset=utf-8", []byte(sample)); err != nil || got.Format != f.name {
				t.Errorf("%s of %s: found %s, %v", mediaType, f.name, got.Format, err)
			}
		}
	}
	if !slices.IsSortedFunc(formats, func(a, b format) int { return strings.Compare(a.name, b.name) }) {
		t.Error("formats are not in order")
	}
}
