package document

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"golang.org/x/text/encoding/unicode"
	"golang.org/x/text/unicode/norm"
)

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
		want                          Document
	}{
		{"text", "a.txt", "text/plain", prose, Document{"text", "", prose}},
		{"no name, no type", "", "", prose, Document{"text", "", prose}},
		{"unknown extension", "a.xyz", "application/octet-stream", prose, Document{"text", "", prose}},
		{"byte order mark", "", "", "\xef\xbb\xbf" + prose, Document{"text", "", prose}},
		{"UTF-16LE", "", "", utf16(unicode.LittleEndian, "Grüße 😀 "+prose), Document{"text", "", "Grüße 😀 " + prose}},
		{"UTF-16BE", "", "", utf16(unicode.BigEndian, "Grüße 😀 "+prose), Document{"text", "", "Grüße 😀 " + prose}},
		{"line ends", "", "", "a\r\nb\rc\nd\fe\vf\u0085g\u2028h\u2029i " + prose, Document{"text", "", "a\nb\nc\nd\ne\nf\ng\nh\n\ni " + prose}},
		{"control characters", "", "", "a\x00b\x1b[0m\x7f\u0080\uFEFF\u00adc\ufdd0\uffff\U0001ffff\td " + prose + prose + prose, Document{"text", "", "ab[0mc\td " + prose + prose + prose}},
		{"neighbours of control characters", "", "", "\u00a0\u00a9\u2027\u202a\ufdcf\ufdf0\ufe00\uff21\ufffd\U0001fffd " + prose, Document{"text", "", "\u00a0\u00a9\u2027\u202a\ufdcf\ufdf0\ufe00\uff21\ufffd\U0001fffd " + prose}},
		{"normal form", "", "", "Cafe\u0301 \u212b " + prose, Document{"text", "", "Café Å " + prose}},
		{"blank margins", "", "", " \n\t\n  indented " + prose + " \n\n", Document{"text", "", "  indented " + prose}},
		{"like a bitmap", "", "", "BM " + prose, Document{"text", "", "BM " + prose}},
		{"like an MP3", "", "", "ID3 " + prose, Document{"text", "", "ID3 " + prose}},
		{"chinese", "", "", "今天天气很好我们去公园散步", Document{"text", "", "今天天气很好我们去公园散步"}},
		{"json", "a.json", "application/json", `{"text": "` + prose + `"}`, Document{"text", "", `{"text": "` + prose + `"}`}},

		{"markdown by name", "a.MD", "text/plain", "# The *Title* #\n\n" + prose, Document{"markdown", "The *Title*", "# The *Title* #\n\n" + prose}},
		{"markdown by type", "", "text/markdown; charset=utf-8", "Under\n====\n\n" + prose, Document{"markdown", "Under", "Under\n====\n\n" + prose}},
		{"markdown without title", "a.md", "", "## Two\n\n" + prose, Document{"markdown", "", "## Two\n\n" + prose}},
		{"markdown with a tag first", "a.md", "", "<div>x</div>\n\n# T\n" + prose, Document{"markdown", "T", "<div>x</div>\n\n# T\n" + prose}},
		{"front matter", "a.md", "", "---\ntitle: \"From matter\"\ndate: 2026\n---\n# Heading\n" + prose, Document{"markdown", "From matter", "---\ntitle: \"From matter\"\ndate: 2026\n---\n# Heading\n" + prose}},
		{"title not from code", "a.md", "", "```sh\n# comment\n```\n# Real\n" + prose, Document{"markdown", "Real", "```sh\n# comment\n```\n# Real\n" + prose}},

		{"html by content", "a.txt", "text/plain", "<!-- c -->\n<!DOCTYPE html><title> A\n B </title><p>" + prose, Document{"html", "A B", prose}},
		{"html by name", "a.htm", "", "<p>" + prose, Document{"html", "", prose}},
		{"html by type", "", "text/html; charset=utf-8", "<h1>Head <em>ing</em> &lt;C#</h1><p>" + prose, Document{"html", "Head ing <C#", "# Head *ing* <C#\n\n" + prose}},
		{"html in UTF-16", "", "", utf16(unicode.LittleEndian, "<html><body><p>"+prose), Document{"html", "", prose}},
		{"a tag alone is text", "", "", "<p>" + prose, Document{"text", "", "<p>" + prose}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got, err := Extract(c.file, c.contentType, []byte(c.data))
			if err != nil || got != c.want {
				t.Errorf("\n got %q %v\nwant %q", got, err, c.want)
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
		{"white space", "", " \r\n\t ", CodeEmpty, "the document has no text: 5 bytes, 0 characters"},
		{"html without text", "", "<html><body><script>var a = 'a script is not text'</script>", CodeEmpty, "the document has no text: 59 bytes, 0 characters"},
		{"too little", "", "Só, 12345 67890 12345 67890.", CodeNoText, "the document has almost no text: 29 bytes, 28 characters, 2 letters; at least 20 letters are needed"},
		{"too little in Chinese", "", "今天天气", CodeNoText, "the document has almost no text: 12 bytes, 4 characters, 4 letters; at least 20 letters are needed"},
		{"latin 1", "", prose + " caf\xe9", CodeInvalidUTF8, "the document is not valid UTF-8 at byte 48 (0xE9); convert it to UTF-8, or to UTF-16 with a byte order mark"},
		{"latin 1 after a byte order mark", "", "\xef\xbb\xbfcaf\xe9 " + prose, CodeInvalidUTF8, "the document is not valid UTF-8 at byte 6 (0xE9); convert it to UTF-8, or to UTF-16 with a byte order mark"},
		{"cut in a character", "", prose + "\xe4\xb8", CodeInvalidUTF8, "the document is not valid UTF-8 at byte 44 (0xE4); convert it to UTF-8, or to UTF-16 with a byte order mark"},
		{"half a UTF-16 unit", "", "\xff\xfea\x00b", CodeInvalidUTF8, "the document is not valid UTF-16: it ends at byte 5 inside a character"},
		{"half a UTF-16 pair", "", "\xfe\xff\xd8\x3d\x00a", CodeInvalidUTF8, "the document is not valid UTF-16 at byte 2: half a surrogate pair"},
		{"UTF-16 without mark", "", strings.Join(strings.Split(prose, ""), "\x00"), CodeUnsupported, "the document has 43 control characters in 87 bytes: it is binary data, or UTF-16 without a byte order mark"},
		{"pdf", "a.txt", "%PDF-1.7\n1 0 obj", CodeUnsupported, "the document looks like application/pdf; the formats that can be read are html, markdown, text"},
		{"zip", "a.docx", "PK\x03\x04\x14\x00\x06\x00\x08\x00\x00\x00!\x00\xff\xfe", CodeUnsupported, "the document looks like application/zip; the formats that can be read are html, markdown, text"},
		{"binary", "", "\x00\x01\x02\xff\xfe\xfd binary", CodeUnsupported, "the document looks like binary data; the formats that can be read are html, markdown, text"},
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
	for _, f := range formats {
		if f.name == "" || f.extract == nil || len(f.mediaTypes)+len(f.extensions) == 0 {
			t.Errorf("format %q is incomplete", f.name)
		}
		for _, extension := range f.extensions {
			if got, err := Extract("a"+extension, "", []byte(prose)); err != nil || got.Format != f.name || !strings.HasPrefix(extension, ".") {
				t.Errorf("%s of %s: found %s, %v", extension, f.name, got.Format, err)
			}
		}
		for _, mediaType := range f.mediaTypes {
			if got, err := Extract("", mediaType+"; charset=utf-8", []byte(prose)); err != nil || got.Format != f.name {
				t.Errorf("%s of %s: found %s, %v", mediaType, f.name, got.Format, err)
			}
		}
	}
	if !slices.IsSortedFunc(formats, func(a, b format) int { return strings.Compare(a.name, b.name) }) {
		t.Error("formats are not in order")
	}
}
