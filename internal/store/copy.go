package store

import (
	"context"
	"encoding/binary"
	"io"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// copyIn sends n rows by a "copy ... from stdin (format binary)". It writes them itself: pgx's own way looks for the encoding of each value
// anew, which costs as much as making the value.
func copyIn(ctx context.Context, tx pgx.Tx, sql string, n int, row func(w *copyWriter, i int)) error {
	r := copyReader{n: n, row: row}
	r.w.buf = append(r.w.buf, "PGCOPY\n\xff\r\n\x00\x00\x00\x00\x00\x00\x00\x00\x00"...) // signature, no flags, no extension
	_, err := tx.Conn().PgConn().CopyFrom(ctx, &r, sql)
	return err
}

// copyReader makes rows as they are read.
type copyReader struct {
	w       copyWriter
	sent    int // bytes of w.buf that were read
	next, n int // rows
	row     func(w *copyWriter, i int)
}

const copyPart = 48 << 10 // bytes after which a part is sent; pgconn sends up to 64 KiB at once

func (r *copyReader) Read(p []byte) (int, error) {
	if r.sent == len(r.w.buf) {
		if r.next > r.n {
			return 0, io.EOF
		}
		r.w.buf, r.sent = r.w.buf[:0], 0
	}
	for len(r.w.buf) < copyPart && r.next < r.n {
		r.row(&r.w, r.next)
		r.next++
	}
	if r.next == r.n {
		r.w.begin(-1) // the end
		r.next++
	}
	n := copy(p, r.w.buf[r.sent:])
	r.sent += n
	return n, nil
}

// copyWriter writes rows in COPY's binary format: begin, and then a value for each column, of exactly the column's type.
type copyWriter struct{ buf []byte }

func (w *copyWriter) begin(columns int16) {
	w.buf = binary.BigEndian.AppendUint16(w.buf, uint16(columns))
}

func (w *copyWriter) size(bytes int32) {
	w.buf = binary.BigEndian.AppendUint32(w.buf, uint32(bytes))
}

func (w *copyWriter) nulls(n int) {
	for range n {
		w.size(-1)
	}
}

func (w *copyWriter) integer(v int32) {
	w.size(4)
	w.buf = binary.BigEndian.AppendUint32(w.buf, uint32(v))
}

func (w *copyWriter) uuid(v uuid.UUID) {
	w.size(int32(len(v)))
	w.buf = append(w.buf, v[:]...)
}

// bytes writes bytea or json, and nil as null.
func (w *copyWriter) bytes(v []byte) {
	if v == nil {
		w.nulls(1)
		return
	}
	w.size(int32(len(v)))
	w.buf = append(w.buf, v...)
}

func (w *copyWriter) text(v string) {
	w.size(int32(len(v)))
	w.buf = append(w.buf, v...)
}

var postgresEpoch = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

// time writes a timestamptz.
func (w *copyWriter) time(v time.Time) {
	w.size(8)
	w.buf = binary.BigEndian.AppendUint64(w.buf, uint64(v.Sub(postgresEpoch).Microseconds()))
}
