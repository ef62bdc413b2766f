package document

import (
	"bytes"
	"encoding/binary"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/gogs/chardet"
	"golang.org/x/net/html/charset"
	"golang.org/x/text/unicode/norm"
)

var (
	bomUTF8    = []byte{0xef, 0xbb, 0xbf}
	bomUTF16BE = []byte{0xfe, 0xff}
	bomUTF16LE = []byte{0xff, 0xfe}
)

// sniffed is how much of a document is looked at to find its format, in bytes.
const sniffed = 4096

// sniffable returns the beginning of data; when it is text in two bytes a character, as UTF-8.
func sniffable(data []byte) []byte {
	order := byteOrder(data)
	head := data[:min(len(data), sniffed)]
	switch {
	case order != nil:
		head = head[2:]
	case bareOrder(head) != nil:
		order = bareOrder(head)
	default:
		return bytes.TrimPrefix(head, bomUTF8)
	}
	return []byte(string(utf16.Decode(units(head, order))))
}

// bareOrder returns the byte order of what looks like UTF-16 without a byte order mark: text in it has a zero in every
// other byte, or nearly so.
func bareOrder(head []byte) binary.ByteOrder {
	head = head[:min(len(head), sniffed)&^1]
	var zeros [2]int
	for i, c := range head {
		if c == 0 {
			zeros[i%2]++
		}
	}
	pairs := len(head) / 2
	switch {
	case pairs < 8:
	case zeros[1] > pairs*7/10 && zeros[0] <= pairs/50:
		return binary.LittleEndian
	case zeros[0] > pairs*7/10 && zeros[1] <= pairs/50:
		return binary.BigEndian
	}
	return nil
}

func byteOrder(data []byte) binary.ByteOrder {
	switch {
	case bytes.HasPrefix(data, bomUTF16BE):
		return binary.BigEndian
	case bytes.HasPrefix(data, bomUTF16LE):
		return binary.LittleEndian
	}
	return nil
}

func units(data []byte, order binary.ByteOrder) []uint16 {
	u := make([]uint16, len(data)/2)
	for i := range u {
		u[i] = order.Uint16(data[2*i:])
	}
	return u
}

// decode returns text in UTF-8. A byte order mark decides, then whether the bytes are UTF-8, then label (what the
// document says of itself; may be empty), then statistics.
func decode(data []byte, label string) (string, *Error) {
	if order := byteOrder(data); order != nil {
		return decodeUTF16(data[2:], order)
	}
	if order := bareOrder(data); order != nil {
		return string(utf16.Decode(units(data, order))), nil
	}
	data = bytes.TrimPrefix(data, bomUTF8)
	if bytes.Contains(data, []byte("\x1b$")) && utf8.Valid(data) {
		return convertFrom("iso-2022-jp", data), nil
	}
	if mostlyUTF8(data) {
		return strings.ToValidUTF8(string(data), "\uFFFD"), nil
	}
	return convertFrom(legacy(data, label), data), nil
}

// mostlyUTF8 reports whether data is UTF-8, give or take a few broken characters: in a text in another encoding, runs of
// bytes that happen to be valid are rare.
func mostlyUTF8(data []byte) bool {
	if utf8.Valid(data) {
		return true
	}
	valid, invalid := 0, 0
	for len(data) > 0 {
		if data[0] < utf8.RuneSelf {
			data = data[1:]
			continue
		}
		r, size := utf8.DecodeRune(data)
		if r == utf8.RuneError && size == 1 {
			invalid++
		} else {
			valid++
		}
		data = data[size:]
	}
	return valid > 10*invalid
}

// sampled is how much of a text its encoding is guessed from, in bytes.
const sampled = 64 << 10

// legacy names the encoding of text that isn't Unicode.
func legacy(data []byte, label string) string {
	if e, _ := charset.Lookup(label); e != nil && !strings.HasPrefix(strings.ToLower(label), "utf") {
		return label
	}
	if guess, err := chardet.NewTextDetector().DetectBest(data[:min(len(data), sampled)]); err == nil && guess.Confidence >= 15 {
		name := strings.ReplaceAll(guess.Charset, "GB-18030", "GB18030")
		if e, _ := charset.Lookup(name); e != nil && !strings.HasPrefix(name, "UTF") {
			return name
		}
	}
	return "windows-1252"
}

// convertFrom decodes data from an encoding that charset knows. What isn't valid in it becomes U+FFFD.
func convertFrom(name string, data []byte) string {
	e, _ := charset.Lookup(name)
	if e == nil {
		e, _ = charset.Lookup("windows-1252")
	}
	out, err := e.NewDecoder().Bytes(data)
	if err != nil {
		return strings.ToValidUTF8(string(data), "\uFFFD")
	}
	return string(out)
}

// decodeUTF16 decodes what follows the byte order mark.
func decodeUTF16(data []byte, order binary.ByteOrder) (string, *Error) {
	const mark = 2
	if len(data)%2 != 0 {
		return "", errorf(CodeInvalidUTF8, "the document is not valid UTF-16: it ends at byte %d inside a character", len(data)+mark)
	}
	var b strings.Builder
	b.Grow(len(data))
	for i := 0; i < len(data); i += 2 {
		r := rune(order.Uint16(data[i:]))
		if utf16.IsSurrogate(r) {
			pair := utf8.RuneError
			if i+4 <= len(data) {
				pair = utf16.DecodeRune(r, rune(order.Uint16(data[i+2:])))
			}
			if pair == utf8.RuneError {
				return "", errorf(CodeInvalidUTF8, "the document is not valid UTF-16 at byte %d: half a surrogate pair", i+mark)
			}
			r, i = pair, i+2
		}
		b.WriteRune(r)
	}
	return b.String(), nil
}

// maxControl is the share of characters, one in so many, that may be control characters before a text is taken for
// binary data.
const maxControl = 16

// clean normalises line ends, drops control characters and composes.
func clean(text string) (string, *Error) {
	text, dropped := cleanControls(text)
	if dropped > 4 && dropped > len(text)/maxControl {
		return "", errorf(CodeUnsupported, "the document has %d control characters in %d bytes: it is binary data, or UTF-16 without a byte order mark",
			dropped, len(text)+dropped)
	}
	return norm.NFC.String(text), nil
}

// ligatures are the letters of U+FB00 to U+FB06: how a typesetter draws them is nothing for a model.
var ligatures = [...]string{"ff", "fi", "fl", "ffi", "ffl", "st", "st"}

func cleanControls(text string) (_ string, dropped int) {
	i := 0
	for i < len(text) && !special(text, i) {
		i++
	}
	if i == len(text) {
		return text, 0
	}
	var b strings.Builder
	b.Grow(len(text))
	b.WriteString(text[:i])
	for i < len(text) {
		from := i
		for i < len(text) && !special(text, i) {
			i++
		}
		b.WriteString(text[from:i])
		if i == len(text) {
			break
		}
		r, size := utf8.DecodeRuneInString(text[i:])
		i += size
		switch r {
		case '\r':
			if i < len(text) && text[i] == '\n' {
				i++
			}
			b.WriteByte('\n')
		case '\v', '\f', '\u0085', '\u2028':
			b.WriteByte('\n')
		case '\u2029':
			b.WriteString("\n\n")
		case '\uFEFF', '\u00AD': // a byte order mark inside the text, a soft hyphen: nothing to read
		case '\uFB00', '\uFB01', '\uFB02', '\uFB03', '\uFB04', '\uFB05', '\uFB06':
			b.WriteString(ligatures[r-'\uFB00'])
		default:
			if r < ' ' || r >= 0x7f && r < 0xa0 || r >= 0xfdd0 && r <= 0xfdef || r&0xfffe == 0xfffe {
				dropped++
				continue
			}
			b.WriteRune(r)
		}
	}
	return b.String(), dropped
}

// special reports whether cleanControls has to look at the character that may begin at i: control characters and what
// begins with a lead byte that such characters share.
func special(text string, i int) bool {
	c := text[i]
	if c >= ' ' && c < 0x7f || c == '\n' || c == '\t' {
		return false
	}
	if c < utf8.RuneSelf {
		return true
	}
	switch c {
	case 0xc2:
		return text[i+1] < 0xa0 || text[i+1] == 0xad // C1 controls, soft hyphen
	case 0xe2:
		return text[i+1] == 0x80 && (text[i+2] == 0xa8 || text[i+2] == 0xa9) // line and paragraph separators
	case 0xef:
		return text[i+1] >= 0xb7 || text[i+1] == 0xac // ligatures, byte order mark, non-characters and their neighbours
	case 0xf0, 0xf1, 0xf2, 0xf3, 0xf4:
		return text[i+1]&0x0f == 0x0f && text[i+2] == 0xbf && text[i+3] >= 0xbe // the last two of each plane
	}
	return false
}
