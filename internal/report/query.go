package report

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
)

// Query is what is asked of a report, as it was given. Its form as JSON is the contract's, and what is stored.
type Query struct {
	From  string   `json:"from,omitempty"`  // RFC 3339 or a date; the first moment
	To    string   `json:"to,omitempty"`    // the first moment behind
	By    []string `json:"by,omitempty"`    // columns to group by
	Where []string `json:"where,omitempty"` // "column=value", also with != < <= > >=; nothing behind = means null
	Sort  []string `json:"sort,omitempty"`  // columns, descending with a - before
	Limit int      `json:"-"`               // 0 for none
}

// Statement is a query as SQL.
type Statement struct {
	SQL     string
	Args    []any
	Columns []Column // of its rows, whose values come as text
}

// Build makes the statement for a project. Errors are *[Error].
func (r Report) Build(project uuid.UUID, q Query) (Statement, error) {
	b := builder{Report: r, args: []any{project}, where: []string{"project_id = $1"}}
	by := q.By
	if len(by) == 0 {
		by = r.by
	}
	shown, err := b.shown(by)
	if err != nil {
		return Statement{}, err
	}
	if err := b.span(q.From, q.To); err != nil {
		return Statement{}, err
	}
	for _, w := range q.Where {
		if err := b.filter(w); err != nil {
			return Statement{}, err
		}
	}
	if r.apart != "" && len(q.By) > 0 && !slices.Contains(q.By, r.apart) && !slices.ContainsFunc(q.Where, func(w string) bool { return strings.HasPrefix(w, r.apart+"=") }) {
		return Statement{}, refuse("by", "values of %s are never to be added up: group by it as well, or restrict it to one with where", r.apart)
	}
	order, err := b.order(q.Sort, shown)
	if err != nil {
		return Statement{}, err
	}
	if q.Limit < 0 {
		return Statement{}, refuse("limit", "want a positive number")
	}
	from := r.view + " where " + strings.Join(b.where, " and ")
	group := ""
	if len(by) > 0 {
		list := strings.Join(by, ", ")
		if r.around != "" {
			from = "(" + fmt.Sprintf(r.around, list, from) + ") g"
		}
		group = " group by " + list
	}
	inner := make([]string, len(shown))
	outer := make([]string, len(shown))
	for i, c := range shown {
		inner[i], outer[i] = c.selected(len(by) > 0), c.text()
	}
	// The values as text are made of the rows that are shown, after the limit.
	sql := "-- name: Report\nselect " + strings.Join(outer, ", ") + " from (select " + strings.Join(inner, ", ") + " from " + from + group
	if len(order) > 0 {
		sql += " order by " + strings.Join(order, ", ")
	}
	if q.Limit > 0 {
		sql += " limit " + strconv.Itoa(q.Limit)
	}
	sql += ") r"
	if len(order) > 0 {
		sql += " order by r." + strings.Join(order, ", r.") // the columns, not their texts: they are sorted already
	}
	return Statement{SQL: sql, Args: b.args, Columns: shown}, nil
}

type builder struct {
	Report
	args  []any
	where []string
}

// shown are the columns that a query answers with.
func (b *builder) shown(by []string) (out []Column, err error) {
	if len(by) > 0 && !b.Grouped {
		return nil, refuse("by", "%s are rows of their own: for sums ask hourly_costs, daily_costs, batches or failures", b.Name)
	}
	for i, name := range by {
		c, ok := b.column(name)
		if !ok || c.Sum || slices.Contains(by[:i], name) {
			return nil, refuse("by", "%q is not one of the columns that %s can be grouped by, each once: %s", name, b.Name, b.names(func(c Column) bool { return !c.Sum }))
		}
		out = append(out, c)
	}
	for _, c := range b.Columns {
		if c.Sum || len(by) == 0 {
			out = append(out, c)
		}
	}
	return out, nil
}

func (b *builder) arg(v any) string {
	b.args = append(b.args, v)
	return "$" + strconv.Itoa(len(b.args))
}

// span restricts the time.
func (b *builder) span(from, to string) error {
	var first time.Time
	for _, end := range []struct{ field, text, op string }{{"from", from, ">="}, {"to", to, "<"}} {
		if end.text == "" {
			continue
		}
		if b.Time == "" {
			return refuse(end.field, "%s takes no time range", b.Name)
		}
		at, err := moment(end.text)
		if err != nil {
			return refuse(end.field, "%q is not a time: want RFC 3339, 2026-12-01T00:00:00Z, or a day in UTC, 2026-12-01", end.text)
		}
		c, _ := b.column(b.Time)
		if c.Type == Date && !at.Equal(at.Truncate(24*time.Hour)) {
			return refuse(end.field, "%s counts whole days in UTC: want a day, 2026-12-01", b.Name)
		}
		if end.field == "from" {
			first = at
		} else if !first.IsZero() && !at.After(first) {
			return refuse("to", "is not after from")
		}
		b.where = append(b.where, b.Time+" "+end.op+" "+b.arg(at))
	}
	return nil
}

func moment(text string) (time.Time, error) {
	if t, err := time.Parse(time.DateOnly, text); err == nil {
		return t, nil
	}
	t, err := time.Parse(time.RFC3339, text)
	return t.UTC(), err
}

// filter adds one condition.
func (b *builder) filter(text string) error {
	i := strings.IndexAny(text, "=!<>")
	if i < 0 {
		return refuse("where", "%q has no operator: want COLUMN=VALUE, or !=, <, <=, > or >=", text)
	}
	name, rest := text[:i], text[i:]
	op := rest[:1]
	if strings.HasPrefix(rest[1:], "=") && op != "=" {
		op = rest[:2]
	}
	value := rest[len(op):]
	c, ok := b.column(name)
	filterable := func(c Column) bool { return c.sql == "" }
	if !ok || !filterable(c) {
		return refuse("where", "%q is not one of the columns that %s can be restricted by: %s", name, b.Name, b.names(filterable))
	}
	if op == "!" {
		return refuse("where", "%q: want !=", text)
	}
	if value == "" {
		switch op {
		case "=":
			b.where = append(b.where, name+" is null")
		case "!=":
			b.where = append(b.where, name+" is not null")
		default:
			return refuse("where", "%q has no value", text)
		}
		return nil
	}
	v, err := c.parse(value)
	if err != nil {
		return refuse("where", "%s is a column of type %s, and %q is not of it", name, c.Type, value)
	}
	left := name
	if op == "!=" {
		op = "is distinct from"
	}
	if u, ok := v.(string); ok && c.cast {
		if id, err := uuid.Parse(u); err == nil {
			v = id // so that an index helps
		} else {
			left += "::text"
		}
	}
	right := b.arg(v)
	if c.Type == Integer {
		right += "::bigint" // or a large number would not fit the column's type
	}
	b.where = append(b.where, left+" "+op+" "+right)
	return nil
}

func (c Column) parse(text string) (any, error) {
	switch c.Type {
	case Integer:
		return strconv.ParseInt(text, 10, 64)
	case Boolean:
		return strconv.ParseBool(text)
	case Timestamp:
		return moment(text)
	case Date:
		return time.Parse(time.DateOnly, text)
	}
	if strings.ContainsRune(text, 0) || !utf8.ValidString(text) {
		return nil, strconv.ErrSyntax
	}
	return text, nil
}

// order sorts by what was asked for, or by the report's own order as far as it is shown.
func (b *builder) order(asked []string, shown []Column) ([]string, error) {
	var out []string
	has := func(name string) bool {
		return slices.ContainsFunc(shown, func(c Column) bool { return c.Name == name })
	}
	for _, s := range asked {
		name, down := strings.CutPrefix(s, "-")
		if !has(name) {
			names := make([]string, len(shown))
			for i, c := range shown {
				names[i] = c.Name
			}
			return nil, refuse("sort", "%q is not one of the columns of this answer: %s", name, strings.Join(names, ", "))
		}
		if down {
			name += " desc nulls last"
		}
		out = append(out, name)
	}
	// A page of all rows that there are is not sorted unless that is asked for: it would wait for all of them.
	whole := !b.Grouped && b.Time != "" && !slices.ContainsFunc(b.where, func(w string) bool { return strings.HasPrefix(w, "batch_id = ") })
	if asked == nil && !whole {
		for _, name := range b.ordered {
			if has(name) {
				out = append(out, name)
			}
		}
	}
	return out, nil
}

// selected is the column in the rows that are grouped, sorted and limited.
func (c Column) selected(grouped bool) string {
	switch {
	case !grouped || !c.Sum:
		return c.Name
	case c.sql != "":
		return c.sql + " as " + c.Name
	case c.max:
		return "max(" + c.Name + ") as " + c.Name
	}
	return "sum(" + c.Name + ")::bigint as " + c.Name
}

// text is the column as the formats want it.
func (c Column) text() string {
	if c.Type == Timestamp {
		return "to_char(" + c.Name + ` at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') as ` + c.Name
	}
	if c.Type == Date {
		return "to_char(" + c.Name + ", 'YYYY-MM-DD') as " + c.Name
	}
	return c.Name
}
