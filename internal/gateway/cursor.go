package gateway

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"math/bits"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"batchwright/internal/gateway/jsonspan"
)

// maxDepth is how deep a JSON text may nest: what package json allows, too.
const maxDepth = 10_000

// A cursor reads a JSON text once, from its start, and takes out what is asked for. It is as strict as package json
// about what JSON is, and forgiving about types: a value of another kind than asked for is passed over. It is here
// because decoding answers with package json was a large part of a worker's time; see BenchmarkDecode.
type cursor struct {
	b     []byte
	i     int
	depth int
	bad   bool // not JSON; nothing is read any more
}

// fail ends the reading.
func (c *cursor) fail() {
	c.bad = true
	c.i = len(c.b)
}

// kind is the first byte of the value that comes next; 0 at the end.
func (c *cursor) kind() byte {
	c.i = jsonspan.Blanks(c.b, c.i)
	if c.i >= len(c.b) {
		return 0
	}
	return c.b[c.i]
}

// take passes over one byte that must come next.
func (c *cursor) take(want byte) bool {
	if c.kind() != want {
		c.fail()
		return false
	}
	c.i++
	return true
}

// whole reports whether one JSON value was read and nothing but blanks is left.
func (c *cursor) whole() bool {
	c.i = jsonspan.Blanks(c.b, c.i)
	return c.i == len(c.b) && !c.bad
}

// object calls each with every key, its escapes decoded; each must read the value. What is no object is passed over.
func (c *cursor) object(each func(key []byte)) {
	if c.kind() != '{' {
		c.skip()
		return
	}
	if c.open(); c.kind() == '}' {
		c.shut()
		return
	}
	for !c.bad {
		if c.kind() != '"' {
			c.fail()
			return
		}
		key, plain := c.quoted()
		if !plain {
			key = []byte(unescape(key))
		}
		if !c.take(':') {
			return
		}
		each(key)
		if c.kind() == '}' {
			c.shut()
			return
		}
		c.take(',')
	}
}

// array calls each with every index; each must read the element. What is no array is passed over.
func (c *cursor) array(each func(n int)) {
	if c.kind() != '[' {
		c.skip()
		return
	}
	if c.open(); c.kind() == ']' {
		c.shut()
		return
	}
	for n := 0; !c.bad; n++ {
		each(n)
		if c.kind() == ']' {
			c.shut()
			return
		}
		c.take(',')
	}
}

func (c *cursor) open() {
	c.i++
	if c.depth++; c.depth > maxDepth {
		c.fail()
	}
}

func (c *cursor) shut() {
	c.i++
	c.depth--
}

// skip passes over the next value and returns it as it is written.
func (c *cursor) skip() json.RawMessage {
	kind := c.kind()
	start := c.i
	switch kind {
	case '"':
		c.quoted()
	case '{':
		c.object(func([]byte) { c.skip() })
	case '[':
		c.array(func(int) { c.skip() })
	case 't':
		c.word("true")
	case 'f':
		c.word("false")
	case 'n':
		c.word("null")
	default:
		c.number()
	}
	if c.bad {
		return nil
	}
	return c.b[start:c.i:c.i]
}

// text reads a string, with U+FFFD for what is not UTF-8 and for NUL. What is no string is passed over and "".
func (c *cursor) text() string {
	if c.kind() != '"' {
		c.skip()
		return ""
	}
	inner, plain := c.quoted()
	if plain && utf8.Valid(inner) {
		return string(inner)
	}
	return unescape(inner)
}

// count reads a number of tokens; see [count].
func (c *cursor) count() (n count) {
	raw := c.skip()
	if k := kindOf(raw); k == '"' || k >= '0' && k <= '9' {
		_ = n.UnmarshalJSON(raw) // it never fails
	}
	return n
}

func (c *cursor) word(w string) {
	if !bytes.HasPrefix(c.b[c.i:], []byte(w)) {
		c.fail()
		return
	}
	c.i += len(w)
}

// number reads what RFC 8259, section 6, calls one.
func (c *cursor) number() {
	if c.at('-') {
		c.i++
	}
	switch {
	case c.at('0'):
		c.i++
	case !c.digits():
		return
	}
	if c.at('.') {
		c.i++
		if !c.digits() {
			return
		}
	}
	if c.at('e') || c.at('E') {
		c.i++
		if c.at('+') || c.at('-') {
			c.i++
		}
		c.digits()
	}
}

func (c *cursor) at(b byte) bool { return c.i < len(c.b) && c.b[c.i] == b }

// digits reads one digit or more.
func (c *cursor) digits() bool {
	start := c.i
	for c.i < len(c.b) && c.b[c.i] >= '0' && c.b[c.i] <= '9' {
		c.i++
	}
	if c.i == start {
		c.fail()
		return false
	}
	return true
}

// quoted reads a string and returns its inside as it is written, and whether that holds no escape.
func (c *cursor) quoted() (inner []byte, plain bool) {
	plain = true
	start := c.i + 1
	for i := start; ; {
		if i = special(c.b, i); i >= len(c.b) {
			break
		}
		if c.b[i] == '"' {
			c.i = i + 1
			return c.b[start:i], plain
		}
		n := escape(c.b[i:])
		if n == 0 {
			break
		}
		plain = false
		i += n
	}
	c.fail()
	return nil, true
}

// special returns the index of the next quote, backslash or control character at or after i, looking at eight bytes at
// a time. The expressions are the well-known ones for "a byte is zero" and "a byte is less"; a borrow can only spoil
// bytes behind the first that is found.
func special(b []byte, i int) int {
	const ones, tops = 0x0101010101010101, 0x8080808080808080
	for ; i+8 <= len(b); i += 8 {
		w := binary.LittleEndian.Uint64(b[i:])
		quote, slash := w^(ones*'"'), w^(ones*'\\')
		if m := ((quote-ones)&^quote | (slash-ones)&^slash | (w-ones*' ')&^w) & tops; m != 0 {
			return i + bits.TrailingZeros64(m)/8
		}
	}
	for ; i < len(b); i++ {
		if b[i] == '"' || b[i] == '\\' || b[i] < ' ' {
			return i
		}
	}
	return i
}

// escape is the length of the escape sequence at the start of b; 0 when there is none.
func escape(b []byte) int {
	if len(b) < 2 || b[0] != '\\' {
		return 0
	}
	switch b[1] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return 2
	case 'u':
		if len(b) >= 6 && hex4(b[2:6]) >= 0 {
			return 6
		}
	}
	return 0
}

// hex4 reads four hexadecimal digits; -1 when they are none.
func hex4(b []byte) rune {
	var r rune
	for _, c := range b[:4] {
		switch {
		case c >= '0' && c <= '9':
			c -= '0'
		case c >= 'a' && c <= 'f':
			c -= 'a' - 10
		case c >= 'A' && c <= 'F':
			c -= 'A' - 10
		default:
			return -1
		}
		r = r<<4 | rune(c)
	}
	return r
}

// unescape decodes the inside of a string whose escapes are known to be right. Half a surrogate pair, a byte that is
// not UTF-8 and NUL become U+FFFD.
func unescape(s []byte) string {
	var out strings.Builder
	out.Grow(len(s))
	for len(s) > 0 {
		n := bytes.IndexByte(s, '\\')
		if n < 0 {
			n = len(s)
		}
		out.Write(s[:n])
		if s = s[n:]; len(s) == 0 {
			break
		}
		n = 2
		switch c := s[1]; c {
		case 'b':
			out.WriteByte('\b')
		case 'f':
			out.WriteByte('\f')
		case 'n':
			out.WriteByte('\n')
		case 'r':
			out.WriteByte('\r')
		case 't':
			out.WriteByte('\t')
		case 'u':
			r := hex4(s[2:6])
			n = 6
			if utf16.IsSurrogate(r) {
				low := rune(-1)
				if len(s) >= 12 && s[6] == '\\' && s[7] == 'u' {
					low = hex4(s[8:12])
				}
				if r = utf16.DecodeRune(r, low); r != utf8.RuneError {
					n = 12
				}
			}
			if r == 0 {
				r = utf8.RuneError
			}
			out.WriteRune(r)
		default:
			out.WriteByte(c)
		}
		s = s[n:]
	}
	if text := out.String(); utf8.ValidString(text) {
		return text
	}
	return string([]rune(out.String())) // U+FFFD for each byte that is wrong, as package json has it
}
