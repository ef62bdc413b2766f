package api

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"iter"
	"unicode/utf8"

	"batchwright/internal/jobs"
)

// errLongLine means that a line was longer than the reader's limit and has been skipped.
var errLongLine = errors.New("api: the line is too long")

// lineReader cuts a stream into lines. It holds one line and a buffer, whatever the length of the stream.
type lineReader struct {
	src    io.Reader
	max    int    // longest line without its end, in bytes
	buf    []byte // grows with the longest line
	pos    int    // buf[pos:end] is unread
	end    int
	number int   // of the line returned last, from 1
	err    error // of src, once met
}

const (
	firstBuf    = 64 << 10 // bytes
	emptyReads  = 100      // reads in a row that may bring nothing
	byteOrderMk = "\xef\xbb\xbf"
)

// next returns the next line that isn't blank, without its end; it is valid until the next call. After errLongLine the
// reader goes on with the line behind it; every other error is final, and io.EOF is the regular end. A last line needs no
// newline, but a line that a broken stream cut short isn't one.
func (l *lineReader) next() ([]byte, error) {
	for {
		line, err := l.cut()
		if err != nil {
			return nil, err
		}
		line = bytes.TrimSuffix(line, []byte("\r"))
		if l.number == 1 {
			line = bytes.TrimPrefix(line, []byte(byteOrderMk))
		}
		if len(line) > l.max {
			return nil, errLongLine
		}
		if len(bytes.TrimLeft(line, " \t\r")) > 0 {
			return line, nil
		}
	}
}

// cut returns what stands before the next newline.
func (l *lineReader) cut() ([]byte, error) {
	seen := 0 // bytes of this line known to hold no newline
	for {
		if i := bytes.IndexByte(l.buf[l.pos+seen:l.end], '\n'); i >= 0 {
			line := l.buf[l.pos : l.pos+seen+i]
			l.pos += len(line) + 1
			l.number++
			return line, nil
		}
		seen = l.end - l.pos
		if l.err != nil {
			if l.err != io.EOF || seen == 0 { //nolint:errorlint // only the plain EOF is the end
				return nil, l.err
			}
			line := l.buf[l.pos:l.end]
			l.pos = l.end
			l.number++
			return line, nil
		}
		if seen > l.max+len(byteOrderMk)+1 { // with a mark and a CR it could still be short enough
			return nil, l.skip()
		}
		l.fill()
	}
}

// skip drops the rest of a line that is too long.
func (l *lineReader) skip() error {
	l.number++
	for {
		if i := bytes.IndexByte(l.buf[l.pos:l.end], '\n'); i >= 0 {
			l.pos += i + 1
			return errLongLine
		}
		l.pos, l.end = 0, 0
		if l.err == io.EOF { //nolint:errorlint // as in cut
			return errLongLine
		}
		if l.err != nil {
			return l.err
		}
		l.fill()
	}
}

// fill reads more behind the unread bytes.
func (l *lineReader) fill() {
	if l.pos > 0 {
		l.end = copy(l.buf, l.buf[l.pos:l.end])
		l.pos = 0
	}
	if l.end == len(l.buf) {
		buf := make([]byte, max(2*len(l.buf), firstBuf))
		copy(buf, l.buf[:l.end])
		l.buf = buf
	}
	for range emptyReads {
		n, err := l.src.Read(l.buf[l.end:])
		l.end += n
		l.err = err
		if n > 0 || err != nil {
			return
		}
	}
	l.err = io.ErrNoProgress
}

// lines yields NDJSON as job lines, numbered from after+1; it doesn't parse them. A line's Raw is valid until the next
// one is asked for. A line that is too long or not UTF-8 has an Err, in words for people, instead of Raw. An error in the
// second place means that the stream broke; it is the last thing yielded.
func lines(src io.Reader, longest, after int) iter.Seq2[jobs.Line, error] {
	return func(yield func(jobs.Line, error) bool) {
		l := lineReader{src: src, max: longest}
		for {
			raw, err := l.next()
			line := jobs.Line{Number: after + l.number, Raw: raw}
			switch {
			case err == io.EOF: //nolint:errorlint // as in cut
				return
			case errors.Is(err, errLongLine):
				line.Err = longLine(longest)
			case err != nil:
				yield(jobs.Line{}, err)
				return
			case !utf8.Valid(raw):
				line.Raw, line.Err = nil, notUTF8(raw)
			}
			if !yield(line, nil) {
				return
			}
		}
	}
}

func longLine(longest int) error { return fmt.Errorf("is longer than %d bytes", longest) }

func notUTF8(raw []byte) error {
	return fmt.Errorf("is not valid UTF-8 from byte %d on", badUTF8(raw)+1)
}
