package api

import (
	"bufio"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"

	"batchwright/internal/jobs"
)

// errLongRow means that a row was longer than the reader's limit. Where the next one begins can't be known.
var errLongRow = errors.New("api: the row is too long")

// meter ends a stream that brings more bytes than a row may have. Without it, a quote that nobody closes would make one row of all that follows.
type meter struct {
	src  io.Reader
	left int
}

func (m *meter) Read(p []byte) (int, error) {
	if m.left <= 0 {
		return 0, errLongRow
	}
	n, err := m.src.Read(p[:min(len(p), m.left)])
	m.left -= n
	return n, err
}

// rows yields the rows of a table as job lines, numbered by the line of the text on which they begin. A row's cells are valid until the next one
// is asked for. A row that can't be read has an Err, in words for people. An error in the second place ends the table.
func rows(src io.Reader, longest int) iter.Seq2[jobs.Line, error] {
	return func(yield func(jobs.Line, error) bool) {
		m := &meter{src: src, left: longest + firstBuf}
		buffered := bufio.NewReaderSize(m, firstBuf) // which the csv.Reader takes for its own
		if mark, err := buffered.Peek(len(byteOrderMk)); err == nil && string(mark) == byteOrderMk {
			_, _ = buffered.Discard(len(byteOrderMk)) // they are there
		}
		r := csv.NewReader(buffered)
		head, err := r.Read()
		switch {
		case err == io.EOF:
			return
		case err != nil:
			yield(jobs.Line{}, headProblem(err, longest))
			return
		}
		r.ReuseRecord = true
		last := 1
		for {
			m.left = longest + firstBuf // what is read ahead of the row is in the buffer, and no longer than it
			cells, err := r.Read()
			var line jobs.Line
			bad, isBad := errors.AsType[*csv.ParseError](err)
			switch {
			case err == io.EOF:
				return
			case isBad:
				line = jobs.Line{Number: bad.StartLine, Err: rowProblem(bad, len(cells), len(head))}
			case errors.Is(err, errLongRow):
				yield(jobs.Line{}, &problem{status: http.StatusBadRequest,
					detail: fmt.Sprintf("the row behind that of line %d is longer than %d bytes: is a quote not closed?", last, longest)})
				return
			case err != nil:
				yield(jobs.Line{}, err)
				return
			default:
				line.Number, _ = r.FieldPos(0)
				line.Row = &jobs.Row{Head: head, Cells: cells}
			}
			last = line.Number
			if !yield(line, nil) {
				return
			}
		}
	}
}

// headProblem says why the first line of a table can't be read.
func headProblem(err error, longest int) error {
	if bad, ok := errors.AsType[*csv.ParseError](err); ok {
		return &problem{status: http.StatusBadRequest, detail: "the table's first line, which names its columns: " + rowProblem(bad, 0, 0).Error(), err: err}
	}
	if errors.Is(err, errLongRow) {
		return &problem{status: http.StatusBadRequest, detail: fmt.Sprintf("the table's first line, which names its columns, is longer than %d bytes", longest), err: err}
	}
	return err
}

// rowProblem words what is wrong with a row, for people. It quotes nothing of it.
func rowProblem(e *csv.ParseError, cells, columns int) error {
	switch {
	case errors.Is(e.Err, csv.ErrFieldCount):
		return fmt.Errorf("has %d cells, and the first line names %d columns", cells, columns)
	case errors.Is(e.Err, csv.ErrBareQuote):
		return fmt.Errorf("line %d, byte %d: a quote stands in a cell without quotes around it: put the cell in quotes and double those within", e.Line, e.Column)
	case errors.Is(e.Err, csv.ErrQuote):
		return fmt.Errorf("line %d, byte %d: a quoted cell doesn't end at a comma or the line's end: double the quotes within it, and close it", e.Line, e.Column)
	}
	return errors.New("is not CSV")
}
