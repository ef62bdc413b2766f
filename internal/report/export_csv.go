package report

import (
	"bytes"
	"io"
)

func init() {
	register("csv", Format{ContentType: "text/csv; charset=utf-8; header=present", open: func(w io.Writer, columns []Column, o Options) (Writer, error) {
		c := &csvWriter{w: w, columns: columns}
		if o.BOM {
			c.buf = append(c.buf, "\ufeff"...)
		}
		for i, col := range columns {
			c.begin(i)
			c.buf = append(c.buf, col.Name...)
		}
		c.buf = append(c.buf, "\r\n"...)
		return c, nil
	}})
}

// csvWriter writes RFC 4180. Null is nothing, an empty text is "". A text that a spreadsheet would run as a formula gets an apostrophe
// before it, as OWASP advises; numbers are as they are.
type csvWriter struct {
	w       io.Writer
	columns []Column
	buf     []byte
}

const fullBuffer = 32 << 10 // bytes after which a buffer is written

func (c *csvWriter) begin(i int) {
	if i > 0 {
		c.buf = append(c.buf, ',')
	}
}

func (c *csvWriter) Row(values [][]byte) error {
	for i, v := range values {
		c.begin(i)
		if v == nil {
			continue
		}
		if c.columns[i].Type != Text {
			c.buf = append(c.buf, v...)
			continue
		}
		c.text(v)
	}
	c.buf = append(c.buf, "\r\n"...)
	if len(c.buf) < fullBuffer {
		return nil
	}
	return c.flush()
}

func (c *csvWriter) text(v []byte) {
	formula := isFormula(v)
	if len(v) > 0 && !formula && !bytes.ContainsAny(v, "\",\r\n") && v[0] != ' ' && v[len(v)-1] != ' ' {
		c.buf = append(c.buf, v...)
		return
	}
	c.buf = append(c.buf, '"')
	if formula {
		c.buf = append(c.buf, '\'')
	}
	for {
		i := bytes.IndexByte(v, '"')
		if i < 0 {
			break
		}
		c.buf = append(append(c.buf, v[:i+1]...), '"')
		v = v[i+1:]
	}
	c.buf = append(append(c.buf, v...), '"')
}

// isFormula looks at the first character. The wide forms are what some spreadsheets take for the plain ones.
func isFormula(v []byte) bool {
	if len(v) == 0 {
		return false
	}
	switch v[0] {
	case '=', '+', '-', '@', '\t', '\r', '\n':
		return true
	}
	for _, wide := range []string{"＝", "＋", "－", "＠"} {
		if bytes.HasPrefix(v, []byte(wide)) {
			return true
		}
	}
	return false
}

func (c *csvWriter) flush() error {
	_, err := c.w.Write(c.buf)
	c.buf = c.buf[:0]
	return err
}

func (c *csvWriter) Close(bool) error { return c.flush() }
