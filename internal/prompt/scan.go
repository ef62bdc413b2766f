package prompt

import (
	"bytes"
	"math/bits"
	"unicode/utf16"
	"unicode/utf8"
)

// maxDepth bounds how deep JSON may nest.
const maxDepth = 512

// kind is the JSON type of a value.
type kind byte

const (
	kindNull kind = iota
	kindBoolean
	kindNumber
	kindString
	kindArray
	kindObject
)

func (k kind) String() string {
	return [...]string{"null", "boolean", "number", "string", "array", "object"}[k]
}

// wholeJSON checks that b is one JSON value in valid UTF-8 and returns where it begins and ends without the white
// space around it.
func wholeJSON(b []byte) (start, end int, k kind, err *Error) {
	if !utf8.Valid(b) {
		return 0, 0, 0, errorf("", "not valid UTF-8 at byte %d", invalidUTF8(b))
	}
	start = skipSpace(b, 0)
	end, k, err = scanValue(b, start, 0)
	if err != nil {
		return 0, 0, 0, err
	}
	if rest := skipSpace(b, end); rest != len(b) {
		return 0, 0, 0, syntaxAt(rest)
	}
	return start, end, k, nil
}

func invalidUTF8(b []byte) int {
	for i := 0; i < len(b); {
		r, size := utf8.DecodeRune(b[i:])
		if r == utf8.RuneError && size == 1 {
			return i
		}
		i += size
	}
	return len(b)
}

func syntaxAt(i int) *Error { return errorf("", "not valid JSON at byte %d", i) }

func skipSpace(b []byte, i int) int {
	for i < len(b) && (b[i] == ' ' || b[i] == '\n' || b[i] == '\t' || b[i] == '\r') {
		i++
	}
	return i
}

// scanValue checks the value that begins at i and returns its end and type.
func scanValue(b []byte, i, depth int) (end int, k kind, err *Error) {
	if i >= len(b) {
		return i, 0, errorf("", "the JSON ends too early")
	}
	switch c := b[i]; {
	case c == '"':
		end, _, err = scanString(b, i)
		return end, kindString, err
	case c == '{':
		end, err = scanObject(b, i, depth)
		return end, kindObject, err
	case c == '[':
		end, err = scanArray(b, i, depth)
		return end, kindArray, err
	case c == '-' || '0' <= c && c <= '9':
		end, _, err = scanNumber(b, i)
		return end, kindNumber, err
	case c == 't' && hasAt(b, i, "true"):
		return i + 4, kindBoolean, nil
	case c == 'f' && hasAt(b, i, "false"):
		return i + 5, kindBoolean, nil
	case c == 'n' && hasAt(b, i, "null"):
		return i + 4, kindNull, nil
	}
	return i, 0, syntaxAt(i)
}

func hasAt(b []byte, i int, word string) bool {
	return len(b)-i >= len(word) && string(b[i:i+len(word)]) == word
}

// objectScan walks the members of an object. It is used by value, without a callback, because it runs once for every
// job of a batch.
type objectScan struct {
	b     []byte
	next  int // where the next member, or the end, is looked for
	depth int
	begun bool
}

// field is one member of an object.
type field struct {
	name       []byte // quoted
	plainName  bool   // the name has no escapes
	start, end int    // of the value
	kind       kind
}

// step returns the next member, or false at the end of the object, which is then at o.next.
func (o *objectScan) step() (f field, more bool, err *Error) {
	b, i := o.b, o.next
	if !o.begun {
		if o.depth >= maxDepth {
			return f, false, errorf("", "JSON nests deeper than %d levels at byte %d", maxDepth, i)
		}
		o.begun = true
		if i = skipSpace(b, i+1); i < len(b) && b[i] == '}' {
			o.next = i + 1
			return f, false, nil
		}
	} else {
		i = skipSpace(b, i)
		switch {
		case i < len(b) && b[i] == ',':
			i = skipSpace(b, i+1)
		case i < len(b) && b[i] == '}':
			o.next = i + 1
			return f, false, nil
		default:
			return f, false, syntaxAt(i)
		}
	}
	if i >= len(b) || b[i] != '"' {
		return f, false, syntaxAt(i)
	}
	end, plain, err := scanString(b, i)
	if err != nil {
		return f, false, err
	}
	f.name, f.plainName = b[i:end], plain
	if i = skipSpace(b, end); i >= len(b) || b[i] != ':' {
		return f, false, syntaxAt(i)
	}
	f.start = skipSpace(b, i+1)
	f.end, f.kind, err = scanValue(b, f.start, o.depth+1)
	o.next = f.end
	return f, err == nil, err
}

func scanObject(b []byte, i, depth int) (int, *Error) {
	o := objectScan{b: b, next: i, depth: depth}
	for {
		if _, more, err := o.step(); err != nil || !more {
			return o.next, err
		}
	}
}

func scanArray(b []byte, i, depth int) (int, *Error) {
	if depth >= maxDepth {
		return i, errorf("", "JSON nests deeper than %d levels at byte %d", maxDepth, i)
	}
	i = skipSpace(b, i+1)
	if i < len(b) && b[i] == ']' {
		return i + 1, nil
	}
	for {
		end, _, err := scanValue(b, i, depth+1)
		if err != nil {
			return i, err
		}
		i = skipSpace(b, end)
		switch {
		case i < len(b) && b[i] == ',':
			i = skipSpace(b, i+1)
		case i < len(b) && b[i] == ']':
			return i + 1, nil
		default:
			return i, syntaxAt(i)
		}
	}
}

// plainPrefix returns how many bytes of s stand for themselves inside a JSON string: neither a control character nor
// " nor \. It looks at eight at a time, for it is where the time of a key goes.
func plainPrefix[T string | []byte](s T) int {
	const (
		ones  = 0x0101010101010101
		highs = 0x8080808080808080
	)
	i := 0
	for ; i+8 <= len(s); i += 8 {
		x := uint64(s[i]) | uint64(s[i+1])<<8 | uint64(s[i+2])<<16 | uint64(s[i+3])<<24 |
			uint64(s[i+4])<<32 | uint64(s[i+5])<<40 | uint64(s[i+6])<<48 | uint64(s[i+7])<<56
		quote, backslash := x^'"'*ones, x^'\\'*ones
		// A byte's high bit is set where x is below a space, or where one of the others is zero. A borrow may set the bit
		// of a byte above a true one; the lowest is right.
		found := ((x-' '*ones)&^x | (quote-ones)&^quote | (backslash-ones)&^backslash) & highs
		if found != 0 {
			return i + bits.TrailingZeros64(found)/8
		}
	}
	for i < len(s) && s[i] >= ' ' && s[i] != '"' && s[i] != '\\' {
		i++
	}
	return i
}

// scanString checks the string whose opening quote is at i. A plain string has no escapes.
func scanString(b []byte, i int) (end int, plain bool, err *Error) {
	plain = true
	for i++; ; i++ {
		i += plainPrefix(b[i:])
		switch {
		case i >= len(b):
			return i, false, errorf("", "the JSON ends inside a string")
		case b[i] == '"':
			return i + 1, plain, nil
		case b[i] != '\\':
			return i, false, errorf("", "a control character is not escaped in the JSON string at byte %d", i)
		}
		plain = false
		i++
		if i >= len(b) {
			return i, false, syntaxAt(i)
		}
		switch b[i] {
		case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		case 'u':
			if hex4(b, i+1) < 0 {
				return i, false, syntaxAt(i)
			}
			i += 4
		default:
			return i, false, syntaxAt(i)
		}
	}
}

func hex4(b []byte, i int) rune {
	if len(b)-i < 4 {
		return -1
	}
	var r rune
	for _, c := range b[i : i+4] {
		switch {
		case '0' <= c && c <= '9':
			c -= '0'
		case 'a' <= c && c <= 'f':
			c -= 'a' - 10
		case 'A' <= c && c <= 'F':
			c -= 'A' - 10
		default:
			return -1
		}
		r = r<<4 | rune(c)
	}
	return r
}

// scanNumber checks the number at i; an integer has neither fraction nor exponent.
func scanNumber(b []byte, i int) (end int, integer bool, err *Error) {
	if b[i] == '-' {
		i++
	}
	switch {
	case i < len(b) && b[i] == '0':
		i++
	case i < len(b) && '1' <= b[i] && b[i] <= '9':
		i = skipDigits(b, i)
	default:
		return i, false, syntaxAt(i)
	}
	integer = true
	if i < len(b) && b[i] == '.' {
		integer = false
		from := i + 1
		if i = skipDigits(b, from); i == from {
			return i, false, syntaxAt(i)
		}
	}
	if i < len(b) && (b[i] == 'e' || b[i] == 'E') {
		integer = false
		i++
		if i < len(b) && (b[i] == '+' || b[i] == '-') {
			i++
		}
		from := i
		if i = skipDigits(b, from); i == from {
			return i, false, syntaxAt(i)
		}
	}
	return i, integer, nil
}

func skipDigits(b []byte, i int) int {
	for i < len(b) && '0' <= b[i] && b[i] <= '9' {
		i++
	}
	return i
}

// appendUnquoted appends the text of a scanned JSON string. An escaped surrogate without its partner becomes U+FFFD,
// as in encoding/json; lone reports where the first of them is, or -1.
func appendUnquoted(dst, quoted []byte) (_ []byte, lone int) {
	lone = -1
	s := quoted[1 : len(quoted)-1]
	for i := 0; i < len(s); {
		n := bytes.IndexByte(s[i:], '\\')
		if n < 0 {
			return append(dst, s[i:]...), lone
		}
		dst = append(dst, s[i:i+n]...)
		i += n
		switch c := s[i+1]; c {
		case 'u':
			r := hex4(s, i+2)
			i += 6
			if utf16.IsSurrogate(r) {
				pair := utf8.RuneError
				if i+1 < len(s) && s[i] == '\\' && s[i+1] == 'u' {
					pair = utf16.DecodeRune(r, hex4(s, i+2))
				}
				if pair == utf8.RuneError {
					if lone < 0 {
						lone = i - 6 + 1
					}
				} else {
					i += 6
				}
				r = pair
			}
			dst = utf8.AppendRune(dst, r)
			continue
		case 'b':
			dst = append(dst, '\b')
		case 'f':
			dst = append(dst, '\f')
		case 'n':
			dst = append(dst, '\n')
		case 'r':
			dst = append(dst, '\r')
		case 't':
			dst = append(dst, '\t')
		default:
			dst = append(dst, c)
		}
		i += 2
	}
	return dst, lone
}
