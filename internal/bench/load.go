package bench

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

// load sends the same request over and over on connections that it keeps. It writes bytes and reads no more of an answer
// than where it ends, so that on a machine with few cores what is measured gets the CPU.
type load struct {
	addr    string
	request []byte
	want    string // a line that the answer's head must have, without its end; "" is any
}

// volley is what came of many requests.
type volley struct {
	n     int
	bytes int64 // of the bodies
	took  time.Duration
	whole []time.Duration // latencies to the last byte, sorted
	first []time.Duration // and to the body's first one
	cpu   usage

	logged  float64 // through a gateway: requests a second until they were in the log
	missing int     // which the log left out
}

func (v volley) rate() float64 { return float64(v.n) / v.took.Seconds() }

// quantile reads sorted latencies in microseconds.
func quantile(sorted []time.Duration, q float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	return float64(sorted[min(int(q*float64(len(sorted))), len(sorted)-1)]) / float64(time.Microsecond)
}

// fire sends n requests over conns connections. Anything but an answer with status 200 as wanted is an error.
func (l load) fire(ctx context.Context, conns, n int) (volley, error) {
	v := volley{n: n, whole: make([]time.Duration, n), first: make([]time.Duration, n)}
	open := make([]*wire, conns)
	for i := range open {
		w, err := l.dial(ctx)
		if err != nil {
			return v, err
		}
		defer w.close()
		open[i] = w
	}
	var next, size atomic.Int64
	g, ctx := errgroup.WithContext(ctx)
	stop := context.AfterFunc(ctx, func() { // of the group: one that fails stops all
		for _, w := range open {
			_ = w.conn.SetDeadline(time.Unix(1, 0))
		}
	})
	defer stop()
	began := time.Now()
	for _, w := range open {
		g.Go(func() error {
			for i := next.Add(1) - 1; i < int64(n); i = next.Add(1) - 1 {
				sent := time.Now()
				got, first, err := w.ask(l.request, l.want)
				if err != nil {
					return fmt.Errorf("%s: %w", l.addr, err)
				}
				v.first[i], v.whole[i] = first.Sub(sent), time.Since(sent)
				size.Add(got)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return v, err
	}
	v.took, v.bytes = time.Since(began), size.Load()
	slices.Sort(v.whole)
	slices.Sort(v.first)
	return v, nil
}

// wire is a kept connection.
type wire struct {
	conn net.Conn
	r    *bufio.Reader
}

func (l load) dial(ctx context.Context) (*wire, error) {
	conn, err := (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "tcp", l.addr)
	if err != nil {
		return nil, err
	}
	return &wire{conn, bufio.NewReaderSize(conn, 64<<10)}, nil
}

func (w *wire) close() { _ = w.conn.Close() }

var (
	errStatus = errors.New("an answer is not 200")
	errAnswer = errors.New("an answer has no length that can be read")
	errWanted = errors.New("an answer's head is not as it must be")
)

// ask makes one exchange and returns the size of the answer's body and when that began.
func (w *wire) ask(request []byte, want string) (size int64, first time.Time, err error) {
	if _, err := w.conn.Write(request); err != nil {
		return 0, first, err
	}
	line, err := w.r.ReadSlice('\n')
	if err != nil {
		return 0, first, err
	}
	if !bytes.HasPrefix(line, []byte("HTTP/1.1 200 ")) {
		return 0, first, fmt.Errorf("%w: %.40q", errStatus, bytes.TrimSpace(line))
	}
	length, chunked, seen := int64(-1), false, want == ""
	for {
		if line, err = w.r.ReadSlice('\n'); err != nil {
			return 0, first, err
		}
		if line = bytes.TrimSuffix(bytes.TrimSuffix(line, []byte("\n")), []byte("\r")); len(line) == 0 {
			break
		}
		seen = seen || string(line) == want
		if v, ok := bytes.CutPrefix(line, []byte("Content-Length: ")); ok {
			if length, err = strconv.ParseInt(string(v), 10, 64); err != nil {
				return 0, first, errAnswer
			}
		}
		chunked = chunked || string(line) == "Transfer-Encoding: chunked"
	}
	switch {
	case !seen:
		return 0, first, errWanted
	case chunked:
		return w.chunks()
	case length < 0:
		return 0, first, errAnswer
	}
	if _, err := w.r.Peek(int(min(length, 1))); err != nil {
		return 0, first, err
	}
	first = time.Now()
	_, err = w.r.Discard(int(length))
	return length, first, err
}

// chunks reads a body in the chunked coding, after RFC 9112, section 7.1, without trailers.
func (w *wire) chunks() (size int64, first time.Time, err error) {
	for {
		line, err := w.r.ReadSlice('\n')
		if err != nil {
			return size, first, err
		}
		n, err := strconv.ParseInt(string(bytes.TrimSpace(line)), 16, 32)
		if err != nil || n < 0 {
			return size, first, errAnswer
		}
		if n > 0 && size == 0 {
			if _, err := w.r.Peek(1); err != nil {
				return size, first, err
			}
			first = time.Now()
		}
		if _, err := w.r.Discard(int(n) + len("\r\n")); err != nil {
			return size, first, errors.Join(err, io.ErrUnexpectedEOF)
		}
		if size += n; n == 0 {
			return size, first, nil
		}
	}
}
