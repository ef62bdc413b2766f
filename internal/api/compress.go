package api

import (
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/klauspost/compress/zstd"
)

// corruptError marks bytes that don't decompress.
type corruptError struct {
	encoding string
	err      error
}

func (e *corruptError) Error() string { return "api: " + e.encoding + ": " + e.err.Error() }
func (e *corruptError) Unwrap() error { return e.err }

// detail says it to the sender.
func (e *corruptError) detail() string {
	text := fmt.Sprintf("Content-Encoding says %s, but the body isn't valid %[1]s", e.encoding)
	if errors.Is(e.err, zstd.ErrWindowSizeExceeded) {
		text = fmt.Sprintf("the body takes a window of over %d bytes to decompress: compress it without --long and --ultra", zstdWindow)
	}
	return text
}

// zstdWindow is what RFC 8878 wants every decoder to take, in bytes; more is only for those who ask both sides for it.
const zstdWindow = 8 << 20

// decompressed returns a body's reader by its Content-Encoding, or nil when it needs none. How much comes out of it is the caller's to
// bound; what it holds is bounded by the window. It must be closed.
func decompressed(body io.Reader, encoding string) (io.ReadCloser, error) {
	encoding = strings.ToLower(encoding)
	src := &source{Reader: body, encoding: encoding}
	switch encoding {
	case "", "identity":
		return nil, nil //nolint:nilnil // as it is
	case "gzip":
		z, err := gzip.NewReader(src)
		if err != nil {
			return nil, bodyError(src.judge(err))
		}
		return unpacked{z, z, src}, nil
	case "zstd":
		// One goroutine, the caller's: an upload of its own shall not take more of the machine than another.
		z, err := zstd.NewReader(src, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
			zstd.WithDecoderMaxWindow(zstdWindow), zstd.WithDecoderMaxMemory(zstdWindow))
		if err != nil {
			return nil, bodyError(src.judge(err))
		}
		return unpacked{z, z.IOReadCloser(), src}, nil
	}
	return nil, &problem{
		status: http.StatusUnsupportedMediaType, detail: "Content-Encoding must be gzip, zstd or left out",
		header: http.Header{"Accept-Encoding": {"gzip, zstd"}},
	}
}

// source remembers how the compressed bytes ended, to tell what is wrong with them from what is wrong with their sender.
type source struct {
	io.Reader
	encoding string
	err      error
}

func (s *source) Read(p []byte) (int, error) {
	n, err := s.Reader.Read(p)
	if err != nil {
		s.err = err
	}
	return n, err
}

// judge words an error of a decompressor.
func (s *source) judge(err error) error {
	switch {
	case s.err != nil && s.err != io.EOF: //nolint:errorlint // only the plain EOF is the regular end
		return s.err
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF): // the bytes ended within
		return io.ErrUnexpectedEOF
	}
	return &corruptError{s.encoding, err}
}

// unpacked is a body behind a decompressor.
type unpacked struct {
	io.Reader
	io.Closer
	src *source
}

func (u unpacked) Read(p []byte) (int, error) {
	n, err := u.Reader.Read(p)
	if err != nil && err != io.EOF { //nolint:errorlint // only the plain EOF is the end
		err = u.src.judge(err)
	}
	return n, err
}
