package jobs

import (
	"batchwright/internal/prompt"
)

// Row is a job as a row of a table. Its slices need not stay valid when the next line is asked for, but for Head, which is the same for all.
type Row struct {
	Head  []string
	Cells []string // one of each column
}

// openTable reads a table's head once it is there.
func (in *intake) openTable(row *Row) *Error {
	if in.columns != nil {
		return nil
	}
	if in.batch.template == nil {
		return invalidf("jobs", "a table has the variables of a template, and the kind %s takes none: send its jobs as NDJSON", in.kind.name())
	}
	var err error
	if in.columns, err = in.batch.template.Columns(row.Head); err != nil {
		return invalidf("jobs", "the table's first line: %s", promptProblem(err))
	}
	return nil
}

// parseRow makes of a row what parseLine makes of a line.
func parseRow(columns *prompt.Columns, l Line) (*line, *LineError) {
	out := &line{number: l.Number}
	var err error
	if out.Variables, out.CustomID, err = columns.Row(l.Row.Cells); err != nil {
		return nil, out.problem("variables", "invalid_variables", promptProblem(err))
	}
	return out, out.checkID()
}
