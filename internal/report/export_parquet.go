package report

import (
	"fmt"
	"io"
	"reflect"
	"strconv"
	"time"

	"github.com/parquet-go/parquet-go"
)

func init() {
	register("parquet", Format{ContentType: "application/vnd.apache.parquet", open: openParquet})
}

// parquetWriter writes row groups of some megabytes: what it holds does not grow with the file, but for a few hundred bytes a group.
type parquetWriter struct {
	w       *parquet.GenericWriter[any] // which is given rows, by the schema
	columns []Column
	rows    []parquet.Row
	values  []parquet.Value // of rows
	text    []byte          // of values
	grouped int             // rows and bytes in the row group
	bytes   int
}

const (
	parquetRows  = 256      // written at once
	parquetGroup = 100_000  // rows of a group at most
	parquetBytes = 16 << 20 // bytes of values of a group, before compression
)

var parquetTypes = map[string]struct {
	of  reflect.Type
	tag string
}{
	Text:      {reflect.TypeFor[string](), ""},
	Integer:   {reflect.TypeFor[int64](), ""},
	Boolean:   {reflect.TypeFor[bool](), ""},
	Timestamp: {reflect.TypeFor[int64](), ",timestamp(microsecond)"},
	Date:      {reflect.TypeFor[int32](), ",date"},
}

func openParquet(w io.Writer, columns []Column, _ Options) (Writer, error) {
	fields := make([]reflect.StructField, len(columns)) // a struct, because parquet.Group would sort the columns by name
	for i, c := range columns {
		t := parquetTypes[c.Type]
		fields[i] = reflect.StructField{Name: "C" + strconv.Itoa(i), Type: t.of, Tag: reflect.StructTag(`parquet:"` + c.Name + ",optional,snappy" + t.tag + `"`)}
	}
	schema := parquet.SchemaOf(reflect.New(reflect.StructOf(fields)).Interface())
	return &parquetWriter{w: parquet.NewGenericWriter[any](w, schema, parquet.CreatedBy("batchwright", "", "")), columns: columns}, nil
}

func (p *parquetWriter) Row(values [][]byte) error {
	first := len(p.values)
	for i, v := range values {
		value, err := p.value(p.columns[i].Type, v)
		if err != nil {
			return fmt.Errorf("column %s: %w", p.columns[i].Name, err)
		}
		level := 1
		if v == nil {
			level = 0
		}
		p.values = append(p.values, value.Level(0, level, i))
		p.bytes += len(v)
	}
	p.rows = append(p.rows, p.values[first:len(p.values):len(p.values)])
	p.grouped++
	if len(p.rows) < parquetRows && p.bytes < parquetBytes {
		return nil
	}
	return p.flush()
}

func (p *parquetWriter) value(kind string, v []byte) (parquet.Value, error) {
	if v == nil {
		return parquet.NullValue(), nil
	}
	switch kind {
	case Integer:
		n, err := strconv.ParseInt(string(v), 10, 64)
		return parquet.Int64Value(n), err
	case Boolean:
		return parquet.BooleanValue(v[0] == 't'), nil
	case Timestamp:
		t, err := time.Parse(time.RFC3339Nano, string(v))
		return parquet.Int64Value(t.UnixMicro()), err
	case Date:
		t, err := time.Parse(time.DateOnly, string(v))
		return parquet.Int32Value(int32(t.Unix() / 86400)), err
	}
	at := len(p.text)
	p.text = append(p.text, v...) // earlier values keep the array that they were cut from
	return parquet.ByteArrayValue(p.text[at:len(p.text):len(p.text)]), nil
}

func (p *parquetWriter) flush() error {
	if _, err := p.w.WriteRows(p.rows); err != nil {
		return err
	}
	p.rows, p.values, p.text = p.rows[:0], p.values[:0], p.text[:0]
	if p.grouped < parquetGroup && p.bytes < parquetBytes {
		return nil
	}
	p.grouped, p.bytes = 0, 0
	return p.w.Flush()
}

func (p *parquetWriter) Close(bool) error {
	if err := p.flush(); err != nil {
		return err
	}
	return p.w.Close()
}
