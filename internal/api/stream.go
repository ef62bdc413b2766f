package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"net/http"
	"time"
)

const (
	flushBytes   = 64 << 10
	flushEvery   = time.Second
	writeTimeout = 60 * time.Second // longest wait for a client that doesn't read
)

// ndjsonStream writes rows as NDJSON while they are read.
type ndjsonStream[Row, Line any] struct {
	rows    iter.Seq2[Row, error]
	convert func(Row) Line
	what    string
	log     *slog.Logger
}

func newStream[Row, Line any](rows iter.Seq2[Row, error], convert func(Row) Line, what string, log *slog.Logger) ndjsonStream[Row, Line] {
	return ndjsonStream[Row, Line]{rows, convert, what, log}
}

// write breaks the connection off when the rows end in an error after the first byte: a regular end would pass for the end of the results.
func (s ndjsonStream[Row, Line]) write(w http.ResponseWriter) error {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	ctl := http.NewResponseController(w)
	started, flushed := false, time.Now()
	flush := func() error {
		if !started {
			started = true
			w.Header().Set("Content-Type", "application/x-ndjson")
			w.Header().Set("Cache-Control", "no-store")
			w.WriteHeader(http.StatusOK)
		}
		_ = ctl.SetWriteDeadline(time.Now().Add(writeTimeout)) // test recorders can't
		if _, err := buf.WriteTo(w); err != nil {
			return err
		}
		flushed = time.Now()
		return ctl.Flush()
	}
	for row, err := range s.rows {
		if err != nil {
			if !started {
				return fmt.Errorf("api: %s: %w", s.what, err)
			}
			if !errors.Is(err, context.Canceled) { // by whoever asked, and has gone
				s.log.Error(s.what+" broke off", "err", err)
			}
			panic(http.ErrAbortHandler)
		}
		if err := enc.Encode(s.convert(row)); err != nil {
			return fmt.Errorf("api: encode a line of %s: %w", s.what, err)
		}
		if buf.Len() >= flushBytes || time.Since(flushed) >= flushEvery {
			if flush() != nil {
				return nil // the client has gone
			}
		}
	}
	_ = flush() // as above
	return nil
}
