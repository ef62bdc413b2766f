package prompt

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Columns say what the cells of a table's rows are to a template.
type Columns struct {
	template *Template
	names    []string
	variable []int // of each column; -1 for the ids
}

// idColumns are the names that the column of the jobs' own ids may have, if no variable has it.
var idColumns = []string{"custom_id", "id"}

// Columns reads a table's head: the names of variables, and custom_id or id for the jobs' own ids. A required variable without a column, an
// unknown name and a name that comes twice are an [*Error].
func (t *Template) Columns(head []string) (*Columns, error) {
	c := &Columns{template: t, names: head, variable: make([]int, len(head))}
	known := append(slices.Clone(t.names), "custom_id")
	var given seen
	hasID := false
	for i, name := range head {
		v, declared := t.index[name]
		switch {
		case declared && given.has(v), !declared && hasID && slices.Contains(idColumns, name):
			return nil, errorf("", "column %d, %q: comes twice, or both custom_id and id are there", i+1, clip(name))
		case declared:
			given.add(v)
			c.variable[i] = v
		case slices.Contains(idColumns, name):
			hasID = true
			c.variable[i] = -1
		case name == "":
			return nil, errorf("", "column %d has no name; the first line names the template's variables", i+1)
		default:
			return nil, errorf("", "column %d, %q: the template has no such variable%s", i+1, clip(name), didYouMean(name, known))
		}
	}
	if err := t.missing(&given); err != nil {
		return nil, errorf("", "the head names no column for %s", strings.TrimPrefix(err.Field, "variables.")+strings.TrimPrefix(err.Reason, "is missing; the template requires it"))
	}
	return c, nil
}

// Row makes a job's variables, as JSON, and its id of a row, which has a cell for each column. A cell is what its variable's type says: text
// as it stands, a number in JSON's form, true or false in any case, an array or an object as JSON. An empty cell is a variable that isn't
// given, but for a required text it is the empty text. What is wrong is an [*Error] that names the column.
func (c *Columns) Row(cells []string) (vars json.RawMessage, id *string, err error) {
	b := make([]byte, 0, 64)
	b = append(b, '{')
	for i, cell := range cells {
		if !utf8.ValidString(cell) {
			return nil, nil, c.errorf(i, "is not valid UTF-8")
		}
		if c.variable[i] < 0 {
			if cell != "" {
				id = &cell
			}
			continue
		}
		v := &c.template.variables[c.variable[i]]
		if cell == "" && (v.typ != TypeString || v.optional) {
			continue
		}
		if len(b) > 1 {
			b = append(b, ',')
		}
		b = appendString(b, v.name)
		b = append(b, ':')
		switch v.typ {
		case TypeString:
			b = appendString(b, cell)
			continue
		case TypeBoolean:
			truth, perr := strconv.ParseBool(strings.ToLower(cell))
			if perr != nil || len(cell) < len("true") {
				return nil, nil, c.errorf(i, "expected true or false")
			}
			b = strconv.AppendBool(b, truth)
			continue
		}
		start, end, k, jerr := wholeJSON([]byte(cell))
		if jerr != nil {
			if v.typ == TypeArray || v.typ == TypeObject {
				return nil, nil, c.errorf(i, "expected an %s as JSON: %s", v.typ, jerr.Reason)
			}
			return nil, nil, c.errorf(i, "expected a number, as 1234.5")
		}
		if reason := v.typ.mismatch([]byte(cell[start:end]), k); reason != "" {
			return nil, nil, c.errorf(i, "%s", reason)
		}
		b = append(b, cell[start:end]...)
	}
	b = append(b, '}')
	return b, id, nil
}

func (c *Columns) errorf(column int, format string, args ...any) error {
	return errorf("column "+strconv.Itoa(column+1)+", "+strconv.Quote(clip(c.names[column])), format, args...)
}
