package document

import (
	"bytes"
	"encoding/binary"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

var (
	bomUTF8    = []byte{0xef, 0xbb, 0xbf}
	bomUTF16BE = []byte{0xfe, 0xff}
	bomUTF16LE = []byte{0xff, 0xfe}
)

// sniffed is how much of a document is looked at to find its format, in bytes.
const sniffed = 4096

// sniffable returns the beginning of data; when a byte order mark says that it is text, as UTF-8.
func sniffable(data []byte) []byte {
	order := byteOrder(data)
	head := data[:min(len(data), sniffed)]
	if order == nil {
		return bytes.TrimPrefix(head, bomUTF8)
	}
	return []byte(string(utf16.Decode(units(head[2:], order))))
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

// decode returns text in UTF-8, as [Extract] promises it.
func decode(data []byte) (string, *Error) {
	if order := byteOrder(data); order != nil {
		text, err := decodeUTF16(data[2:], order)
		if err != nil {
			return "", err
		}
		return clean(text)
	}
	text := string(bytes.TrimPrefix(data, bomUTF8))
	if !utf8.ValidString(text) {
		at := invalidUTF8(data)
		return "", errorf(CodeInvalidUTF8,
			"the document is not valid UTF-8 at byte %d (0x%02X); convert it to UTF-8, or to UTF-16 with a byte order mark", at, data[at])
	}
	return clean(text)
}

func invalidUTF8(data []byte) int {
	for i := 0; i < len(data); {
		r, size := utf8.DecodeRune(data[i:])
		if r == utf8.RuneError && size == 1 {
			return i
		}
		i += size
	}
	return len(data) - 1
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
		return text[i+1] >= 0xb7 // byte order mark, non-characters and their neighbours
	case 0xf0, 0xf1, 0xf2, 0xf3, 0xf4:
		return text[i+1]&0x0f == 0x0f && text[i+2] == 0xbf && text[i+3] >= 0xbe // the last two of each plane
	}
	return false
}
