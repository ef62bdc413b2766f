package report

import (
	"io"
	"strconv"
)

func init() {
	register("ndjson", Format{ContentType: "application/x-ndjson", open: func(w io.Writer, columns []Column, _ Options) (Writer, error) {
		return newJSON(w, columns, false), nil
	}})
	// One object with the rows and whether there are more: for reports, not for a million results.
	register("json", Format{ContentType: "application/json", open: func(w io.Writer, columns []Column, _ Options) (Writer, error) {
		return newJSON(w, columns, true), nil
	}})
}

// jsonWriter writes an object a row: numbers as numbers, everything else as strings, null as null.
type jsonWriter struct {
	w       io.Writer
	columns []Column
	names   []string // with quotes and colon
	whole   bool
	rows    int
	buf     []byte
}

func newJSON(w io.Writer, columns []Column, whole bool) *jsonWriter {
	j := &jsonWriter{w: w, columns: columns, whole: whole}
	for _, c := range columns {
		j.names = append(j.names, strconv.Quote(c.Name)+":")
	}
	if whole {
		j.buf = append(j.buf, `{"rows":[`...)
	}
	return j
}

func (j *jsonWriter) Row(values [][]byte) error {
	if j.whole && j.rows > 0 {
		j.buf = append(j.buf, ',')
	}
	j.rows++
	for i, v := range values {
		if i == 0 {
			j.buf = append(j.buf, '{')
		} else {
			j.buf = append(j.buf, ',')
		}
		j.buf = append(j.buf, j.names[i]...)
		switch {
		case v == nil:
			j.buf = append(j.buf, "null"...)
		case j.columns[i].Type == Integer:
			j.buf = append(j.buf, v...)
		case j.columns[i].Type == Boolean:
			j.buf = strconv.AppendBool(j.buf, v[0] == 't')
		default:
			j.buf = appendString(j.buf, v)
		}
	}
	j.buf = append(j.buf, '}')
	if !j.whole {
		j.buf = append(j.buf, '\n')
	}
	if len(j.buf) < fullBuffer {
		return nil
	}
	return j.flush()
}

// appendString writes a JSON string of valid UTF-8, which Postgres sees to.
func appendString(buf, v []byte) []byte {
	const hex = "0123456789abcdef"
	buf = append(buf, '"')
	start := 0
	for i, b := range v {
		if b >= ' ' && b != '"' && b != '\\' {
			continue
		}
		buf = append(buf, v[start:i]...)
		start = i + 1
		switch b {
		case '"', '\\':
			buf = append(buf, '\\', b)
		case '\n':
			buf = append(buf, '\\', 'n')
		case '\r':
			buf = append(buf, '\\', 'r')
		case '\t':
			buf = append(buf, '\\', 't')
		default:
			buf = append(buf, '\\', 'u', '0', '0', hex[b>>4], hex[b&15])
		}
	}
	return append(append(buf, v[start:]...), '"')
}

func (j *jsonWriter) flush() error {
	_, err := j.w.Write(j.buf)
	j.buf = j.buf[:0]
	return err
}

func (j *jsonWriter) Close(more bool) error {
	if j.whole {
		j.buf = append(strconv.AppendBool(append(j.buf, `],"more":`...), more), "}\n"...)
	}
	return j.flush()
}
