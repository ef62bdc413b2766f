package document

import (
	"bytes"
	"strconv"
	"strings"
)

func init() {
	register(format{
		name:       "rtf",
		mediaTypes: []string{"application/rtf", "text/rtf"},
		extensions: []string{".rtf"},
		isolated:   true,
		sniff:      func(head, _ []byte) bool { return bytes.HasPrefix(head, []byte(`{\rtf`)) },
		extract:    extractRTF,
	})
}

// maxGroups bounds how deep groups of RTF nest.
const maxGroups = 1_000

// extractRTF returns paragraphs, list items and tables. Left out are headers and footers, comments, pictures and deleted and
// hidden text. It reads what RTF 1.9 has to say about text and passes over the rest.
func extractRTF(data []byte, _ Options) (Document, *Error) {
	r := &rtf{data: data, codePage: "windows-1252", fonts: map[int]string{}}
	if err := r.read(); err != nil {
		return Document{}, err
	}
	return Document{Title: strings.TrimSpace(r.title.String()), Text: r.out.String()}, nil
}

// rtf is a document that is being read.
type rtf struct {
	data     []byte
	at       int
	codePage string         // of the document
	fonts    map[int]string // code pages
	font     int            // that the table of fonts describes

	group  rtfGroup
	groups []rtfGroup

	raw    []byte // characters whose code page is known but that are not decoded yet
	rawIn  string // their code page
	high   rune   // first half of a surrogate pair
	skip   int    // characters that stand in for the one before them
	line   strings.Builder
	marker bool // the line is an item of a list
	row    []string
	rows   [][]string
	cells  int
	out    strings.Builder
	title  strings.Builder
}

// rtfGroup is what ends with a group.
type rtfGroup struct {
	to      rtfDestination
	starred bool // the next word, if it is unknown, is of a destination to skip
	instead int  // bytes that stand in for a Unicode character
	page    string
	hidden  bool
	inTable bool
}

type rtfDestination int

const (
	toText rtfDestination = iota
	toNowhere
	toFonts
	toTitle
	toMarker
)

// rtfDestinations are the words that begin a group which isn't text.
var rtfDestinations = map[string]rtfDestination{
	"fonttbl": toFonts, "title": toTitle, "listtext": toMarker, "pntext": toMarker,
	"colortbl": toNowhere, "stylesheet": toNowhere, "pict": toNowhere, "object": toNowhere, "header": toNowhere, "headerl": toNowhere,
	"headerr": toNowhere, "headerf": toNowhere, "footer": toNowhere, "footerl": toNowhere, "footerr": toNowhere, "footerf": toNowhere,
	"fldinst": toNowhere, "datafield": toNowhere, "author": toNowhere, "operator": toNowhere, "subject": toNowhere, "keywords": toNowhere,
	"doccomm": toNowhere, "company": toNowhere, "manager": toNowhere, "category": toNowhere, "comment": toNowhere, "creatim": toNowhere, "revtim": toNowhere,
	"printim": toNowhere, "buptim": toNowhere, "annotation": toNowhere, "atnid": toNowhere, "atnauthor": toNowhere, "atrfstart": toNowhere,
	"bkmkstart": toNowhere, "bkmkend": toNowhere, "ftnsep": toNowhere, "ftnsepc": toNowhere, "revtbl": toNowhere, "xe": toNowhere, "tc": toNowhere,
	"nonshppict": toNowhere, "shpinst": toNowhere, "themedata": toNowhere, "listtable": toNowhere, "listoverridetable": toNowhere, "generator": toNowhere,
	"falt": toNowhere, "panose": toNowhere, "hlinkbase": toNowhere, "filetbl": toNowhere, "template": toNowhere, "deleted": toNowhere,
}

var rtfCharacters = map[string]string{
	"emdash": "—", "endash": "–", "emspace": " ", "enspace": " ", "qmspace": " ", "bullet": "•", "lquote": "‘", "rquote": "’",
	"ldblquote": "“", "rdblquote": "”", "tab": "\t", "line": "\n", "lbr": "\n",
}

// rtfCharsets are the code pages of the character sets that fonts name.
var rtfCharsets = map[int]string{
	0: "windows-1252", 77: "macintosh", 128: "shift_jis", 129: "euc-kr", 134: "gb18030", 136: "big5", 161: "windows-1253", 162: "windows-1254",
	163: "windows-1258", 177: "windows-1255", 178: "windows-1256", 186: "windows-1257", 204: "windows-1251", 222: "windows-874", 238: "windows-1250",
}

var rtfCodePages = map[int]string{932: "shift_jis", 936: "gb18030", 949: "euc-kr", 950: "big5", 10000: "macintosh", 65001: "utf-8", 866: "ibm866", 874: "windows-874"}

func (r *rtf) read() *Error {
	r.group.instead = 1
	r.group.page = r.codePage
	for r.at < len(r.data) {
		c := r.data[r.at]
		r.at++
		switch c {
		case '{':
			r.flush()
			if len(r.groups) >= maxGroups {
				return errorf(CodeTooComplex, "the groups of the RTF document nest deeper than %d levels", maxGroups)
			}
			r.groups = append(r.groups, r.group)
		case '}':
			r.flush()
			if n := len(r.groups); n > 0 {
				r.group, r.groups = r.groups[n-1], r.groups[:n-1]
			}
			r.skip = 0
		case '\\':
			r.control()
		case '\r', '\n':
		default:
			r.byte(c)
		}
		if r.cells > maxCells {
			return tooManyCells()
		}
	}
	r.paragraph()
	r.endTable()
	return nil
}

// byte takes a character of the code page.
func (r *rtf) byte(c byte) {
	if r.skip > 0 {
		r.skip--
		return
	}
	if r.group.to == toNowhere || r.group.to == toMarker || r.group.to == toFonts {
		return
	}
	if r.rawIn != r.group.page {
		r.flush()
		r.rawIn = r.group.page
	}
	r.raw = append(r.raw, c)
}

func (r *rtf) flush() {
	if len(r.raw) == 0 {
		return
	}
	text := convertFrom(r.rawIn, r.raw)
	r.raw = r.raw[:0]
	r.write(text)
}

func (r *rtf) write(text string) {
	switch {
	case r.group.to == toTitle:
		r.title.WriteString(text)
	case r.group.to == toText && !r.group.hidden:
		r.line.WriteString(text)
	}
}

// control reads what follows a backslash.
func (r *rtf) control() {
	if r.at >= len(r.data) {
		return
	}
	c := r.data[r.at]
	if c < 'a' || c > 'z' {
		if c < 'A' || c > 'Z' {
			r.at++
			r.symbol(c)
			return
		}
	}
	from := r.at
	for r.at < len(r.data) && (r.data[r.at]|0x20 >= 'a' && r.data[r.at]|0x20 <= 'z') && r.at-from < 32 {
		r.at++
	}
	word := string(r.data[from:r.at])
	from = r.at
	if r.at < len(r.data) && r.data[r.at] == '-' {
		r.at++
	}
	for r.at < len(r.data) && r.data[r.at] >= '0' && r.data[r.at] <= '9' && r.at-from < 11 {
		r.at++
	}
	n, err := strconv.Atoi(string(r.data[from:r.at]))
	if r.at < len(r.data) && r.data[r.at] == ' ' {
		r.at++
	}
	if word == "bin" { // binary data follows
		r.at += min(max(n, 0), len(r.data)-r.at)
		return
	}
	r.flush()
	r.word(word, n, err == nil)
	r.group.starred = false
}

func (r *rtf) symbol(c byte) {
	switch c {
	case '\'':
		if r.at+2 <= len(r.data) {
			if n, err := strconv.ParseUint(string(r.data[r.at:r.at+2]), 16, 8); err == nil {
				r.byte(byte(n))
			}
			r.at += 2
		}
	case '*':
		r.group.starred = true
	case '~':
		r.flush()
		r.write("\u00a0")
	case '_':
		r.flush()
		r.write("-")
	case '\n', '\r':
		r.flush()
		r.paragraph()
	case '\\', '{', '}':
		r.byte(c)
	}
}

func (r *rtf) word(word string, n int, given bool) {
	if to, ok := rtfDestinations[word]; ok {
		if r.group.to == toText || to == toNowhere {
			r.group.to = to
		}
		if to == toMarker {
			r.marker = true
		}
		return
	}
	if r.group.starred && word != "shptxt" && word != "footnote" {
		r.group.to = toNowhere
		return
	}
	switch word {
	case "ansicpg":
		r.codePage = "windows-" + strconv.Itoa(n)
		if name, ok := rtfCodePages[n]; ok {
			r.codePage = name
		}
		r.group.page = r.codePage
	case "mac":
		r.codePage = "macintosh"
		r.group.page = r.codePage
	case "deff":
	case "f":
		r.font = n
		if page, ok := r.fonts[n]; ok && r.group.to != toFonts {
			r.group.page = page
		} else {
			r.group.page = r.codePage
		}
	case "fcharset":
		if page, ok := rtfCharsets[n]; ok && r.group.to == toFonts && len(r.fonts) < 10_000 && (n != 0 || r.codePage == "windows-1252") {
			r.fonts[r.font] = page
		}
	case "plain":
		r.group.page, r.group.hidden = r.codePage, false
	case "uc":
		r.group.instead = min(max(n, 0), 16)
	case "u":
		r.unicode(rune(uint16(n)))
		r.skip = r.group.instead
	case "v":
		r.group.hidden = !given || n != 0
	case "pard":
		r.group.inTable = false
	case "intbl":
		r.group.inTable = true
	case "par", "sect", "page":
		r.paragraph()
	case "cell", "nestcell":
		if r.group.to == toText {
			r.row = append(r.row, r.take())
			r.cells++
		}
	case "row", "nestrow":
		if r.group.to == toText && len(r.row) > 0 {
			r.rows = append(r.rows, r.row)
			r.row = nil
		}
	default:
		if text, ok := rtfCharacters[word]; ok {
			r.write(text)
		}
	}
}

// unicode takes a UTF-16 unit.
func (r *rtf) unicode(u rune) {
	switch {
	case u >= 0xd800 && u < 0xdc00:
		r.high = u
	case u >= 0xdc00 && u < 0xe000:
		if r.high != 0 {
			r.write(string((r.high-0xd800)<<10 | (u - 0xdc00) + 0x10000))
		}
		r.high = 0
	default:
		r.write(string(u))
	}
}

func (r *rtf) take() string {
	text := strings.TrimSpace(r.line.String())
	r.line.Reset()
	r.marker = false
	return text
}

// paragraph ends a paragraph.
func (r *rtf) paragraph() {
	if r.group.to != toText {
		return
	}
	if r.group.inTable {
		r.line.WriteByte('\n')
		return
	}
	r.endTable()
	marker := r.marker
	text := r.take()
	switch {
	case text == "":
	case marker:
		r.out.WriteString("- " + text + "\n")
	default:
		writeBlock(&r.out, "\n"+text+"\n\n")
	}
}

func (r *rtf) endTable() {
	if len(r.rows) == 0 {
		return
	}
	var b strings.Builder
	writeTable(&b, r.rows)
	r.rows = nil
	writeBlock(&r.out, "\n"+b.String()+"\n")
}
