package prompt

import (
	"bytes"
	"math"
	"slices"
	"strconv"
	"sync"
	"unicode/utf8"
)

// Canonical JSON as RFC 8785 defines it: no white space, members sorted by UTF-16 code units, the shortest escapes,
// numbers as ECMAScript prints doubles. Written by hand because a key is made for every job: the tests hold it to
// github.com/gowebpki/jcs and to the vectors of the RFC.

// canonicalizer rewrites a JSON text that [wholeJSON] found sound.
type canonicalizer struct {
	src []byte

	// lenient is for text that a person or a model reads: numbers keep the digits they were written with, an escaped
	// lone surrogate becomes U+FFFD, the last of two equal members wins. The strict form is for keys: it follows the
	// RFC and refuses the other two, except that an integer beyond 2^53 keeps its digits where the RFC would round
	// them, for two seeds must not share a key.
	lenient bool
	// top, if set, sees each member of the outermost object and says whether to leave it out.
	top func(name, value []byte) (drop bool)

	names   []byte   // of the members in progress, unescaped
	members []member // of the objects in progress
	scratch []byte
}

type member struct {
	nameFrom, nameTo int // in names
	from, to         int // in the output, "name":value
}

var canonicalizers = sync.Pool{New: func() any { return new(canonicalizer) }}

// maxPooled bounds the buffers that are kept for reuse, in bytes.
const maxPooled = 1 << 20

func borrowCanonicalizer() *canonicalizer { return canonicalizers.Get().(*canonicalizer) }

func (c *canonicalizer) giveBack() {
	if cap(c.names)+cap(c.scratch)+cap(c.members)*32 > maxPooled {
		return
	}
	*c = canonicalizer{names: c.names[:0], members: c.members[:0], scratch: c.scratch[:0]}
	canonicalizers.Put(c)
}

// appendCanonical appends the strict canonical form of raw.
func appendCanonical(dst, raw []byte) ([]byte, *Error) {
	start, _, _, err := wholeJSON(raw)
	if err != nil {
		return dst, err
	}
	c := borrowCanonicalizer()
	defer c.giveBack()
	c.src = raw
	dst, _, err = c.value(dst, start, 0)
	return dst, err
}

// appendStable appends the lenient form of raw, which must be sound JSON: the same text however its members were
// ordered and spaced.
func appendStable(dst, raw []byte) []byte {
	c := borrowCanonicalizer()
	defer c.giveBack()
	c.src, c.lenient = raw, true
	dst, _, _ = c.value(dst, skipSpace(raw, 0), 0)
	return dst
}

func (c *canonicalizer) value(dst []byte, i, depth int) (_ []byte, end int, err *Error) {
	switch c.src[i] {
	case '{':
		return c.object(dst, i, depth)
	case '[':
		return c.array(dst, i, depth)
	case '"':
		return c.str(dst, i)
	case 't', 'n':
		return append(dst, c.src[i:i+4]...), i + 4, nil
	case 'f':
		return append(dst, "false"...), i + 5, nil
	}
	end, _, _ = scanNumber(c.src, i)
	if c.lenient {
		return append(dst, c.src[i:end]...), end, nil
	}
	dst, ok := appendNumber(dst, c.src[i:end])
	if !ok {
		return dst, end, errorf("", "the number at byte %d is out of range", i)
	}
	return dst, end, nil
}

func (c *canonicalizer) array(dst []byte, i, depth int) (_ []byte, end int, err *Error) {
	dst = append(dst, '[')
	i = skipSpace(c.src, i+1)
	for c.src[i] != ']' {
		if c.src[i] == ',' {
			dst = append(dst, ',')
			i = skipSpace(c.src, i+1)
		}
		if dst, i, err = c.value(dst, i, depth+1); err != nil {
			return dst, i, err
		}
		i = skipSpace(c.src, i)
	}
	return append(dst, ']'), i + 1, nil
}

func (c *canonicalizer) str(dst []byte, i int) (_ []byte, end int, err *Error) {
	end, plain, _ := scanString(c.src, i)
	if plain {
		return append(dst, c.src[i:end]...), end, nil
	}
	from := len(c.scratch)
	text, lone := appendUnquoted(c.scratch, c.src[i:end])
	if lone >= 0 && !c.lenient {
		return dst, end, errorf("", "half a surrogate pair is escaped at byte %d", i+lone)
	}
	dst = appendString(dst, text[from:])
	c.scratch = text[:from]
	return dst, end, nil
}

func (c *canonicalizer) object(dst []byte, i, depth int) (_ []byte, end int, err *Error) {
	open, firstMember, firstName := i, len(c.members), len(c.names)
	begin := len(dst)
	dst = append(dst, '{')
	sorted := true
	i = skipSpace(c.src, i+1)
	for c.src[i] != '}' {
		if c.src[i] == ',' {
			i = skipSpace(c.src, i+1)
		}
		undo := len(dst)
		if len(c.members) > firstMember {
			dst = append(dst, ',')
		}
		m := member{from: len(dst), nameFrom: len(c.names)}
		if dst, i, err = c.memberName(dst, i); err != nil {
			return dst, i, err
		}
		m.nameTo = len(c.names)
		valueFrom := len(dst)
		if dst, i, err = c.value(dst, i, depth+1); err != nil {
			return dst, i, err
		}
		m.to = len(dst)
		i = skipSpace(c.src, i)
		if depth == 0 && c.top != nil && c.top(c.name(m), dst[valueFrom:]) {
			dst = dst[:undo]
			continue
		}
		if n := len(c.members); n > firstMember && sorted {
			sorted = compareUTF16(c.name(c.members[n-1]), c.name(m)) < 0
		}
		c.members = append(c.members, m)
	}
	if !sorted {
		if dst = c.sort(dst, begin, c.members[firstMember:]); dst == nil {
			return dst, i, errorf("", "the object at byte %d has two members of one name", open)
		}
	}
	c.members, c.names = c.members[:firstMember], c.names[:firstName]
	return append(dst, '}'), i + 1, nil
}

// memberName writes a member's name and colon, keeps the name and returns where the value begins.
func (c *canonicalizer) memberName(dst []byte, i int) (_ []byte, value int, err *Error) {
	end, plain, _ := scanString(c.src, i)
	from := len(c.names)
	var lone int
	c.names, lone = appendUnquoted(c.names, c.src[i:end])
	if lone >= 0 && !c.lenient {
		return dst, i, errorf("", "half a surrogate pair is escaped at byte %d", i+lone)
	}
	if plain {
		dst = append(dst, c.src[i:end]...)
	} else {
		dst = appendString(dst, c.names[from:])
	}
	return append(dst, ':'), skipSpace(c.src, skipSpace(c.src, end)+1), nil
}

func (c *canonicalizer) name(m member) []byte { return c.names[m.nameFrom:m.nameTo] }

// sort puts the members of the object that begins at dst[begin] in order. It returns nil if two have one name, unless
// the last of them wins.
func (c *canonicalizer) sort(dst []byte, begin int, members []member) []byte {
	slices.SortStableFunc(members, func(a, b member) int { return compareUTF16(c.name(a), c.name(b)) })
	from := len(c.scratch)
	for i, m := range members {
		if i+1 < len(members) && bytes.Equal(c.name(m), c.name(members[i+1])) {
			if !c.lenient {
				return nil
			}
			continue
		}
		if len(c.scratch) > from {
			c.scratch = append(c.scratch, ',')
		}
		c.scratch = append(c.scratch, dst[m.from:m.to]...)
	}
	dst = append(dst[:begin+1], c.scratch[from:]...)
	c.scratch = c.scratch[:from]
	return dst
}

// compareUTF16 compares valid UTF-8 by UTF-16 code units: by code point, except that what needs a surrogate pair
// comes before U+E000 to U+FFFF.
func compareUTF16(a, b []byte) int {
	n := 0
	for n < len(a) && n < len(b) && a[n] == b[n] {
		n++
	}
	if n == len(a) || n == len(b) {
		return len(a) - len(b)
	}
	const firstAbove, firstPair = 0xee, 0xf0 // lead bytes of U+E000 and U+10000
	if x, y := a[n], b[n]; (x >= firstPair) != (y >= firstPair) && min(x, y) >= firstAbove {
		return int(y) - int(x)
	}
	return int(a[n]) - int(b[n])
}

const hexDigits = "0123456789abcdef"

// appendString appends s as a canonical JSON string. What isn't UTF-8 becomes U+FFFD, as in encoding/json.
func appendString[T string | []byte](dst []byte, s T) []byte {
	dst = append(dst, '"')
	if !validUTF8(s) {
		s = T(string([]rune(string(s))))
	}
	for {
		n := plainPrefix(s)
		dst = append(dst, s[:n]...)
		if n == len(s) {
			return append(dst, '"')
		}
		switch c := s[n]; c {
		case '"', '\\':
			dst = append(dst, '\\', c)
		case '\b':
			dst = append(dst, '\\', 'b')
		case '\f':
			dst = append(dst, '\\', 'f')
		case '\n':
			dst = append(dst, '\\', 'n')
		case '\r':
			dst = append(dst, '\\', 'r')
		case '\t':
			dst = append(dst, '\\', 't')
		default:
			dst = append(dst, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
		}
		s = s[n+1:]
	}
}

func validUTF8[T string | []byte](s T) bool {
	switch s := any(s).(type) {
	case string:
		return utf8.ValidString(s)
	case []byte:
		return utf8.Valid(s)
	}
	return false
}

// appendNumber appends a JSON number literal in canonical form; false if it is beyond a double.
func appendNumber(dst, literal []byte) ([]byte, bool) {
	digits := literal
	if digits[0] == '-' {
		digits = digits[1:]
	}
	integer := skipDigits(digits, 0) == len(digits)
	if integer && len(digits) <= 15 && !(len(digits) == 1 && digits[0] == '0') {
		return append(dst, literal...), true
	}
	f, err := strconv.ParseFloat(string(literal), 64)
	if err != nil {
		return dst, false
	}
	if from := len(dst); integer && math.Abs(f) >= 1<<53 {
		dst = strconv.AppendFloat(dst, f, 'f', -1, 64)
		exact := bytes.Equal(dst[from:], literal)
		dst = dst[:from]
		if !exact {
			return append(dst, literal...), true
		}
	}
	return appendFloat(dst, f), true
}

// appendFloat appends a finite double as ECMAScript prints it.
func appendFloat(dst []byte, f float64) []byte {
	if f == 0 {
		return append(dst, '0') // minus zero too
	}
	if size := math.Abs(f); size >= 1e-6 && size < 1e21 {
		return strconv.AppendFloat(dst, f, 'f', -1, 64)
	}
	dst = strconv.AppendFloat(dst, f, 'e', -1, 64)
	if n := len(dst); dst[n-2] == '0' && (dst[n-3] == '+' || dst[n-3] == '-') {
		dst[n-2] = dst[n-1] // e+09 is e+9
		dst = dst[:n-1]
	}
	return dst
}
