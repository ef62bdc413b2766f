package bench

import (
	"bytes"
	"fmt"
	"io"
	"strconv"
)

// source is an NDJSON body that is made while it is read, so that the bench holds no more of it than a chunk.
type source struct {
	n, i int
	line func(b []byte, i int) []byte // appends line i, with its end
	buf  []byte
	rest []byte // of buf, unread
}

// Read implements io.Reader.
func (s *source) Read(p []byte) (int, error) {
	if len(s.rest) == 0 {
		if s.i == s.n {
			return 0, io.EOF
		}
		s.buf = s.buf[:0]
		for ; s.i < s.n && len(s.buf) < 64<<10; s.i++ {
			s.buf = s.line(s.buf, s.i)
		}
		s.rest = s.buf
	}
	n := copy(p, s.rest)
	s.rest = s.rest[n:]
	return n, nil
}

// products is a submission of n small jobs for the template. Another tag means other jobs: none of them was answered
// before.
func products(n int, tag string) *source {
	return &source{n: n, line: func(b []byte, i int) []byte {
		b = append(b, `{"custom_id":"p-`...)
		b = strconv.AppendInt(b, int64(i), 10)
		b = append(b, `","variables":{"name":"`...)
		b = append(b, product(tag, i)...)
		return append(b, "\"}}\n"...)
	}}
}

func product(tag string, i int) string { return fmt.Sprintf("product %s %06d", tag, i) }

// documents is a submission of n lines of exactly lineBytes bytes.
func documents(n int, tag string) *source {
	return &source{n: n, line: func(b []byte, i int) []byte {
		b = append(b, `{"custom_id":"`...)
		b = appendName(b, tag, i)
		b = append(b, `","variables":`...)
		b = append(b, document...)
		return append(b, "}\n"...)
	}}
}

const lineBytes = 500

// document is what each of the lines holds.
var document = func() []byte {
	head, tail := []byte(`{"name":"`), []byte(`"}`)
	around := len(`{"custom_id":"`) + len(appendName(nil, "0", 0)) + len(`","variables":`) + len("}\n")
	prose := bytes.Repeat([]byte("A quiet dehumidifier for cellars up to forty square metres, with a tank of five litres. "), 8)
	return append(append(head, prose[:lineBytes-around-len(head)-len(tail)]...), tail...)
}()

// appendName appends an id of 14 bytes; the tag has one.
func appendName(b []byte, tag string, i int) []byte {
	b = append(b, "line-"...)
	b = append(b, tag[0], '-')
	var digits [7]byte
	for d := len(digits) - 1; d >= 0; d-- {
		digits[d] = byte('0' + i%10)
		i /= 10
	}
	return append(b, digits[:]...)
}
