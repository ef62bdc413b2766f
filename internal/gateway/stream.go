package gateway

import (
	"bytes"
	"errors"
	"net/http"
)

// maxEvent bounds one server-sent event, in bytes. A longer one ends the reading, not the passing on.
const maxEvent = 8 << 20

// events cuts a stream of server-sent events, after the WHATWG's HTML standard, section 9.2: lines end with CR, LF or
// both; "data" lines of one event are joined with LF; a comment, an id and a retry time are passed over.
type events struct {
	line  []byte // unfinished
	data  []byte
	name  string
	some  bool // the event has data
	cr    bool // the last byte was CR
	ended bool // too long, or no event stream at all
}

// write takes the next bytes of the stream and calls each for every whole event in them. data is valid during the call.
func (e *events) write(p []byte, each func(name string, data []byte)) {
	for len(p) > 0 && !e.ended {
		if e.cr && p[0] == '\n' {
			p, e.cr = p[1:], false
			continue
		}
		e.cr = false
		i := bytes.IndexAny(p, "\r\n")
		if i < 0 {
			e.line = append(e.line, p...)
			e.ended = len(e.line)+len(e.data) > maxEvent
			return
		}
		e.cr = p[i] == '\r'
		line := p[:i]
		if len(e.line) > 0 {
			e.line = append(e.line, line...)
			line = e.line
		}
		e.take(line, each)
		e.line = e.line[:0]
		p = p[i+1:]
	}
}

// take reads one line.
func (e *events) take(line []byte, each func(name string, data []byte)) {
	if len(line) == 0 {
		if e.some {
			each(e.name, e.data)
		}
		e.data, e.name, e.some = e.data[:0], "", false
		return
	}
	field, value, _ := bytes.Cut(bytes.TrimPrefix(line, []byte("\xef\xbb\xbf")), []byte(":"))
	value = bytes.TrimPrefix(value, []byte(" "))
	switch string(field) {
	case "data":
		if e.some {
			e.data = append(e.data, '\n')
		}
		e.data, e.some = append(e.data, value...), true
		e.ended = len(e.data) > maxEvent
	case "event":
		e.name = string(value)
	}
}

// StreamReader reads a provider's streamed answer as it passes by. It never fails while bytes come: what it makes of
// them is told by Answer. It is not safe for concurrent use.
type StreamReader struct {
	p      Provider
	a      assembler
	e      events
	onText func(string)
}

// NewStreamReader returns a reader for the answers of a provider, or nil when it doesn't stream in a form known here.
// onText may be nil.
func NewStreamReader(provider string, onText func(piece string)) *StreamReader {
	p, ok := Lookup(provider)
	if !ok {
		return nil
	}
	s, ok := p.(streamer)
	if !ok {
		return nil
	}
	return &StreamReader{p: p, a: s.assemble(), onText: onText}
}

// Write implements io.Writer and never fails.
func (s *StreamReader) Write(p []byte) (int, error) {
	s.e.write(p, func(name string, data []byte) {
		if text := s.a.event(name, data); text != "" && s.onText != nil {
			s.onText(text)
		}
	})
	return len(p), nil
}

// Answer returns what the stream held so far, decoded as one answer. A stream that broke off before its end mark is an
// *[Error] beside what is known of it.
func (s *StreamReader) Answer() (*Response, error) {
	body, complete := s.a.answer()
	resp, err := s.p.Decode(http.StatusOK, http.Header{}, body)
	if resp != nil {
		resp.Body = body
	}
	return broken(resp, err, complete && !s.e.ended, http.StatusOK)
}

// broken judges an answer whose stream may have ended without its end mark: then what it cost was never told to the end.
func broken(resp *Response, err error, complete bool, status int) (*Response, error) {
	if complete {
		return resp, err
	}
	if resp != nil {
		resp.Usage.Known = false
	}
	if err == nil || ClassOf(err) == InvalidOutput { // no text yet is no answer without text
		err = ours(codeLost, status)
	}
	if fail, ok := errors.AsType[*Error](err); ok {
		fail.Uncertain = true
	}
	return resp, err
}
