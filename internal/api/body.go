package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"mime"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/getkin/kin-openapi/openapi3"

	"batchwright/internal/jobs"
	"batchwright/internal/store"
)

const (
	maxJSON      = 32 << 20         // bytes of an application/json body
	stallTimeout = 60 * time.Second // longest wait for the next bytes of a body
)

// openBody checks the type of r's body and replaces it with a reader that is bounded and decompressed. A JSON body is
// read at once and becomes a *jsonBody; others are streams, at most MaxBody bytes before and after decompression.
// Errors while reading a stream pass through bodyError and are problems.
func (h *handlers) openBody(ctl *http.ResponseController, r *http.Request, content openapi3.Content) error {
	mediaType, params, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if _, ok := content[mediaType]; err != nil || !ok {
		types := slices.Sorted(func(yield func(string) bool) {
			for t := range content {
				if !yield(t) {
					return
				}
			}
		})
		return &problem{
			status: http.StatusUnsupportedMediaType, detail: "Content-Type must be " + strings.Join(types, " or "),
			header: http.Header{"Accept": {strings.Join(types, ", ")}}, err: err,
		}
	}
	if mediaType == "multipart/form-data" && params["boundary"] == "" {
		return &problem{status: http.StatusBadRequest, detail: "Content-Type: multipart/form-data needs a boundary"}
	}
	r.Header.Set("Content-Type", mime.FormatMediaType(mediaType, params)) // lower case, as the generated code compares it
	limit := h.MaxBody
	if mediaType == "application/json" {
		limit = min(limit, maxJSON)
	}
	if r.ContentLength > limit {
		return tooLarge(limit, nil)
	}
	body := io.Reader(steadyReader{r.Body, ctl})
	body = http.MaxBytesReader(nil, io.NopCloser(body), limit)
	plain, err := decompressed(body, r.Header.Get("Content-Encoding"))
	if err != nil {
		return err
	}
	if plain != nil {
		body = http.MaxBytesReader(nil, plain, limit)
		r.Header.Del("Content-Encoding")
		r.ContentLength = -1
	}
	if mediaType != "application/json" {
		closers := []io.Closer{r.Body}
		if plain != nil {
			closers = append(closers, plain)
		}
		r.Body = problemReader{body, closers}
		if mediaType == "text/csv" {
			r.Body = table{r.Body}
			r.Header.Set("Content-Type", "application/x-ndjson") // the one stream that the generated code hands over
		}
		return nil
	}
	if plain != nil {
		defer func() { _ = plain.Close() }() // it was read to its end
	}
	return readJSON(r, body)
}

// table is a stream of CSV.
type table struct{ io.ReadCloser }

// stream reads the jobs of a stream, which is NDJSON or a table.
func (h *handlers) stream(body io.Reader) iter.Seq2[jobs.Line, error] {
	if t, ok := body.(table); ok {
		return rows(t, h.MaxLine)
	}
	return lines(body, h.MaxLine, 0)
}

// jsonBody is a JSON body that was read whole: syntactically valid and valid UTF-8.
type jsonBody struct {
	*bytes.Reader
	data []byte
}

func (*jsonBody) Close() error { return nil }

func readJSON(r *http.Request, body io.Reader) error {
	var buf bytes.Buffer
	if r.ContentLength > 0 {
		buf.Grow(int(r.ContentLength) + bytes.MinRead) // bounded by maxJSON
	}
	if _, err := buf.ReadFrom(body); err != nil {
		return bodyError(err)
	}
	data := buf.Bytes()
	if !utf8.Valid(data) {
		return &problem{status: http.StatusBadRequest, detail: fmt.Sprintf("the body is not valid UTF-8 (byte %d)", badUTF8(data))}
	}
	var skip skipJSON
	if err := json.Unmarshal(data, &skip); err != nil {
		return badJSON(data, err)
	}
	r.Body, r.ContentLength = &jsonBody{bytes.NewReader(data), data}, int64(len(data))
	return nil
}

// skipJSON is decoded to check syntax, and keeps nothing.
type skipJSON struct{}

func (*skipJSON) UnmarshalJSON([]byte) error { return nil }

// badJSON says where data stops being JSON.
func badJSON(data []byte, err error) error {
	at := len(data)
	if se, ok := errors.AsType[*json.SyntaxError](err); ok {
		at = min(int(se.Offset), at)
	}
	before := data[:at]
	line := bytes.Count(before, []byte("\n")) + 1
	column := at - bytes.LastIndexByte(before, '\n') - 1
	return &problem{
		status: http.StatusBadRequest, detail: fmt.Sprintf("the body is not valid JSON: line %d, column %d", line, max(column, 1)),
		faults: []Fault{{Line: line, Code: "bad_json", Message: fmt.Sprintf("not valid JSON from column %d on", max(column, 1))}}, err: err,
	}
}

// badUTF8 returns the offset of the first invalid byte.
func badUTF8(data []byte) int {
	for at := 0; at < len(data); {
		r, size := utf8.DecodeRune(data[at:])
		if r == utf8.RuneError && size <= 1 {
			return at
		}
		at += size
	}
	return len(data)
}

// problemReader turns read errors into problems.
type problemReader struct {
	io.Reader
	closers []io.Closer
}

func (b problemReader) Close() error {
	var err error
	for _, c := range b.closers {
		err = errors.Join(err, c.Close())
	}
	return err
}

func (b problemReader) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	if err != nil && err != io.EOF { //nolint:errorlint // only the plain EOF ends a body
		err = bodyError(err)
	}
	return n, err
}

// steadyReader gives up on a sender that is silent for stallTimeout, so that it can't hold a connection. It
// replaces the server's ReadTimeout, which would cut a long upload that is coming in well.
type steadyReader struct {
	src io.Reader
	ctl *http.ResponseController
}

func (b steadyReader) Read(p []byte) (int, error) {
	allowRead(b.ctl) // nothing to undo at the end: net/http reads on without a deadline
	return b.src.Read(p)
}

// allowRead gives the sender of a body time for its next bytes. Test recorders can't; they don't stall either.
func allowRead(ctl *http.ResponseController) {
	_ = ctl.SetReadDeadline(time.Now().Add(stallTimeout))
}

// bodyError says why a body can't be read.
func bodyError(err error) error {
	if e, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return tooLarge(e.Limit, err)
	}
	corrupt, _ := errors.AsType[*corruptError](err)
	p := &problem{status: http.StatusBadRequest, err: err}
	switch {
	case corrupt != nil:
		p.detail = corrupt.detail()
	case errors.Is(err, os.ErrDeadlineExceeded):
		p.status, p.detail = http.StatusRequestTimeout, fmt.Sprintf("no bytes came for %v; none of its jobs will run", stallTimeout)
		p.err = fmt.Errorf("%w: %w", store.ErrBroken, err)
	default:
		p.detail = "the body broke off before its end; none of its jobs will run"
		p.err = fmt.Errorf("%w: %w", store.ErrBroken, err)
	}
	return p
}

func tooLarge(limit int64, err error) error {
	detail := fmt.Sprintf("the body is over the limit of %d bytes", limit)
	if limit == maxJSON {
		detail += "; send more than that as application/x-ndjson"
	}
	return &problem{status: http.StatusRequestEntityTooLarge, detail: detail, err: err}
}
