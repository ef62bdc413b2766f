package source

import (
	"context"
	"encoding/json"
	"iter"
	"slices"
	"strings"
)

// database returns the one of a query.
func (s *Sources) database(q *Query) (Database, error) {
	if db := s.o.Databases[q.Connection]; db != nil {
		return db, nil
	}
	return nil, refuse("source.query.connection", "is the name of none of this server's databases")
}

func (s *Sources) checkQuery(ctx context.Context, q *Query, documents bool) ([]string, error) {
	switch {
	case documents && q.Document == "":
		return nil, refuse("source.query.document", "is missing: it names the column of the document, which this kind takes")
	case !documents && q.Document != "":
		return nil, refuse("source.query.document", "is not for this kind: every column but id is a variable")
	}
	db, err := s.database(q)
	if err != nil {
		return nil, err
	}
	columns, err := db.Columns(ctx, q.SQL)
	if err != nil {
		return nil, inField("source.query.sql", err)
	}
	at, err := q.columns(columns)
	if err != nil || documents {
		return nil, err
	}
	return slices.Delete(slices.Clone(columns), at.id, at.id+1), nil
}

// places are where a query's columns are; -1 for none.
type places struct{ id, document, name int }

func (q *Query) columns(names []string) (places, error) {
	for i, name := range names {
		if slices.Contains(names[:i], name) {
			return places{}, refuse("source.query.sql", "has two columns named %.63q: name them with as", name)
		}
	}
	at := places{-1, -1, -1}
	for _, c := range []struct {
		field, name string
		at          *int
	}{{"id", q.ID, &at.id}, {"document", q.Document, &at.document}, {"name", q.Name, &at.name}} {
		if c.name == "" {
			continue
		}
		if *c.at = slices.Index(names, c.name); *c.at < 0 {
			return places{}, refuse("source.query."+c.field, "is none of the columns that the statement gives: %.300s", strings.Join(names, ", "))
		}
	}
	return at, nil
}

// rows yields the rows of a query as items.
func (s *Sources) rows(ctx context.Context, q *Query) iter.Seq2[Item, error] {
	return func(yield func(Item, error) bool) {
		db, err := s.database(q)
		if err != nil {
			yield(Item{}, err)
			return
		}
		var at places
		var columns []string
		n := 0
		for row, err := range db.Rows(ctx, q.SQL, func(names []string) (err error) {
			columns = slices.Clone(names)
			at, err = q.columns(names)
			return err
		}) {
			if err != nil {
				yield(Item{}, inField("source.query.sql", err))
				return
			}
			n++
			if !yield(s.item(row, columns, at, n), nil) {
				return
			}
		}
	}
}

// item makes an item of the nth row.
func (s *Sources) item(row []any, columns []string, at places, n int) Item {
	id, ok := text(row[at.id])
	item := Item{ID: id}
	switch {
	case !ok || id == "":
		item.Err = refuse("", "row %d has no custom_id: the column %s is null, empty or bytes", n, columns[at.id])
	case at.document >= 0:
		item.document(row, columns, at)
	default:
		item.variables(row, columns, at)
	}
	if int64(len(item.Data)+len(item.Variables)) > s.o.MaxDocument {
		return Item{ID: id, Err: refuse("", "is longer than %d bytes", s.o.MaxDocument)}
	}
	return item
}

func (item *Item) document(row []any, columns []string, at places) {
	if at.name >= 0 {
		item.Name, _ = text(row[at.name])
	}
	if b, ok := row[at.document].([]byte); ok {
		item.Data = b
		return
	}
	body, ok := text(row[at.document])
	if !ok {
		item.Err = refuse("", "has no document: the column %s is null", columns[at.document])
	}
	item.Data = []byte(body)
}

func (item *Item) variables(row []any, columns []string, at places) {
	out := []byte{'{'}
	for i, v := range row {
		if i == at.id {
			continue
		}
		var value []byte
		switch v := v.(type) {
		case nil:
			value = []byte("null")
		case string:
			value = quoted(v)
		case json.RawMessage:
			value = v
		default:
			item.Err = refuse("", "has bytes in the column %s, which are no variable: make text of them, with encode() or convert_from()", columns[i])
			return
		}
		if len(out) > 1 {
			out = append(out, ',')
		}
		out = append(append(append(out, quoted(columns[i])...), ':'), value...)
	}
	item.Variables = append(out, '}')
}

// text is a value as a text; not of null and of bytes.
func text(v any) (string, bool) {
	switch v := v.(type) {
	case string:
		return v, true
	case json.RawMessage:
		return string(v), true
	}
	return "", false
}

func quoted(s string) []byte {
	out, _ := json.Marshal(s) // a string
	return out
}
