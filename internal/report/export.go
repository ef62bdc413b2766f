package report

import (
	"fmt"
	"io"
	"iter"
	"maps"
	"slices"
	"strings"
)

// Format writes rows in one form.
type Format struct {
	ContentType string
	open        func(w io.Writer, columns []Column, o Options) (Writer, error)
}

// Options of the formats.
type Options struct {
	BOM bool // CSV: begin with a byte order mark, which makes Excel read UTF-8
}

// Writer writes rows, each a value a column as text, nil for null. It keeps nothing of a row beyond what a few megabytes hold.
type Writer interface {
	Row(values [][]byte) error
	Close(more bool) error // more: there were rows behind the last one
}

var formats = map[string]Format{}

func register(name string, f Format) {
	if _, ok := formats[name]; ok {
		panic("report: format " + name + " is registered twice")
	}
	formats[name] = f
}

// FindFormat returns a format. The error is an *[Error].
func FindFormat(name string) (Format, error) {
	f, ok := formats[name]
	if !ok {
		return f, refuse("format", "%q is not one of %s", name, strings.Join(slices.Sorted(maps.Keys(formats)), ", "))
	}
	return f, nil
}

// Write writes the rows, at most so many when limit is above 0. What a broken source yielded so far has been written, and is no whole file.
func (f Format) Write(w io.Writer, columns []Column, rows iter.Seq2[[][]byte, error], limit int, o Options) error {
	out, err := f.open(w, columns, o)
	if err != nil {
		return err
	}
	n, more := 0, false
	for row, err := range rows {
		if err != nil {
			return err
		}
		if n == limit && limit > 0 {
			more = true
			break
		}
		n++
		if err := out.Row(row); err != nil {
			return fmt.Errorf("report: write row %d: %w", n, err)
		}
	}
	return out.Close(more)
}

// ResultColumns are those of an export of results, in the order in which the store reads them.
var ResultColumns = columns(`index:integer custom_id job_id status cache_status provider model attempts:integer calls:integer input_tokens:integer
	cached_input_tokens:integer output_tokens:integer cost_microusd:integer error_class error_message finished_at:timestamp output_format output coverage outline`)
