package pricing

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"
)

// maxFile bounds a price file, in bytes: some fifty thousand rows.
const maxFile = 4 << 20

// column says what one column of a price file holds.
type column struct {
	name     string
	required bool // the file must have the column, and each row a value
	set      func(p *Price, value string) error
}

var columns = []column{
	{"provider", true, func(p *Price, v string) error { p.Provider = v; return nil }},
	{"model", true, func(p *Price, v string) error { p.Model = v; return nil }},
	{"valid_from", true, func(p *Price, v string) (err error) {
		if p.ValidFrom, err = time.Parse(time.DateOnly, v); err != nil {
			return errors.New("is not a date such as 2026-01-31")
		}
		return nil
	}},
	{"input_usd_per_mtok", true, func(p *Price, v string) (err error) { p.Input, err = parseUSD(v); return err }},
	{"output_usd_per_mtok", true, func(p *Price, v string) (err error) { p.Output, err = parseUSD(v); return err }},
	{"cached_input_usd_per_mtok", false, func(p *Price, v string) (err error) {
		p.CacheReadAssumed = false
		p.CacheRead, err = parseUSD(v)
		return err
	}},
	{"cache_write_usd_per_mtok", false, func(p *Price, v string) (err error) {
		p.CacheWriteAssumed = false
		p.CacheWrite, err = parseUSD(v)
		return err
	}},
	{"valid_to", false, func(p *Price, v string) (err error) {
		if p.ValidTo, err = time.Parse(time.DateOnly, v); err != nil {
			return errors.New("is not a date such as 2026-01-31")
		}
		return nil
	}},
	{"batch_input_usd_per_mtok", false, func(p *Price, v string) (err error) { p.Batch.Input, err = parseUSD(v); return err }},
	{"batch_output_usd_per_mtok", false, func(p *Price, v string) (err error) { p.Batch.Output, err = parseUSD(v); return err }},
	{"batch_cached_input_usd_per_mtok", false, func(p *Price, v string) (err error) { p.Batch.CacheRead, err = parseUSD(v); return err }},
	{"batch_cache_write_usd_per_mtok", false, func(p *Price, v string) (err error) { p.Batch.CacheWrite, err = parseUSD(v); return err }},
	{"long_context_above_tokens", false, func(p *Price, v string) error {
		n, err := parseTokens(v)
		p.LongFrom = int64(n)
		return err
	}},
	{"long_input_usd_per_mtok", false, func(p *Price, v string) (err error) { p.Long.Input, err = parseUSD(v); return err }},
	{"long_output_usd_per_mtok", false, func(p *Price, v string) (err error) { p.Long.Output, err = parseUSD(v); return err }},
	{"long_cached_input_usd_per_mtok", false, func(p *Price, v string) (err error) { p.Long.CacheRead, err = parseUSD(v); return err }},
	{"long_cache_write_usd_per_mtok", false, func(p *Price, v string) (err error) { p.Long.CacheWrite, err = parseUSD(v); return err }},
	{"context_window", false, func(p *Price, v string) (err error) { p.ContextWindow, err = parseTokens(v); return err }},
	{"max_output_tokens", false, func(p *Price, v string) (err error) { p.MaxOutput, err = parseTokens(v); return err }},
}

// ParseError says what is wrong with a price file, and where.
type ParseError struct {
	Line   int    // from 1
	Column int    // in bytes, from 1; 0 when the whole line is meant
	Name   string // of the column, if one is meant
	Reason string
}

func (e *ParseError) Error() string {
	switch {
	case e.Column == 0:
		return fmt.Sprintf("line %d: %s", e.Line, e.Reason)
	case e.Name == "":
		return fmt.Sprintf("line %d, column %d: %s", e.Line, e.Column, e.Reason)
	}
	return fmt.Sprintf("line %d, column %d (%s): %s", e.Line, e.Column, e.Name, e.Reason)
}

// Load reads a price file: CSV with a header line, prices in USD per million tokens with up to six decimals. The
// columns provider, model, valid_from (YYYY-MM-DD), input_usd_per_mtok and output_usd_per_mtok are required;
// cached_input_usd_per_mtok, cache_write_usd_per_mtok, context_window and max_output_tokens may be missing or empty, and
// so may valid_to and the prices of the tiers: batch_... and, for calls with more input than long_context_above_tokens,
// long_..., of which a row has all four or none.
// Lines that begin with # are comments. A file is at most 4 MiB.
//
// An error about the content is a [*ParseError].
func Load(r io.Reader) (*Table, error) {
	limited := &io.LimitedReader{R: r, N: maxFile + 1}
	lines := csv.NewReader(limited)
	lines.Comment = '#'
	lines.TrimLeadingSpace = true
	lines.ReuseRecord = true

	header, err := readHeader(lines)
	if err != nil {
		return nil, err
	}
	t := &Table{rows: map[key][]Price{}}
	for {
		record, err := lines.Read()
		if limited.N <= 0 {
			return nil, fmt.Errorf("price file is larger than %d bytes", maxFile)
		}
		if errors.Is(err, io.EOF) {
			return t, nil
		}
		if err != nil {
			return nil, syntaxError(err)
		}
		p, err := readPrice(lines, header, record)
		if err != nil {
			return nil, err
		}
		if err := p.check(); err != nil {
			line, _ := lines.FieldPos(0)
			return nil, &ParseError{Line: line, Reason: err.Error()}
		}
		if !t.insert(p) {
			line, _ := lines.FieldPos(0)
			return nil, &ParseError{Line: line, Reason: fmt.Sprintf("a second price of %s %s is valid from %s",
				p.Provider, p.Model, p.ValidFrom.Format(time.DateOnly))}
		}
	}
}

func readHeader(lines *csv.Reader) ([]column, error) {
	record, err := lines.Read()
	if errors.Is(err, io.EOF) {
		return nil, &ParseError{Line: 1, Reason: "the file is empty; it needs a header line"}
	}
	if err != nil {
		return nil, syntaxError(err)
	}
	line, _ := lines.FieldPos(0)
	header := make([]column, len(record))
	for i, name := range record {
		if i == 0 {
			name = strings.TrimPrefix(name, "\uFEFF")
		}
		name = strings.TrimSpace(name)
		known := slices.IndexFunc(columns, func(c column) bool { return c.name == name })
		if known < 0 {
			_, at := lines.FieldPos(i)
			return nil, &ParseError{Line: line, Column: at, Reason: fmt.Sprintf("%.40q is not a column of a price file", name)}
		}
		if slices.ContainsFunc(header[:i], func(c column) bool { return c.name == name }) {
			_, at := lines.FieldPos(i)
			return nil, &ParseError{Line: line, Column: at, Name: name, Reason: "the column is there twice"}
		}
		header[i] = columns[known]
	}
	for _, c := range columns {
		if c.required && !slices.ContainsFunc(header, func(h column) bool { return h.name == c.name }) {
			return nil, &ParseError{Line: line, Reason: fmt.Sprintf("the column %q is missing", c.name)}
		}
	}
	return header, nil
}

func readPrice(lines *csv.Reader, header []column, record []string) (Price, error) {
	p := Price{CacheReadAssumed: true, CacheWriteAssumed: true}
	tiers := map[string]int{} // columns with a value
	for i, c := range header {
		value := strings.TrimSpace(record[i])
		if value == "" && !c.required {
			continue
		}
		if tier, _, ok := strings.Cut(c.name, "_"); ok && (tier == "batch" || tier == "long") {
			tiers[tier]++
		}
		err := errors.New("is missing")
		if value != "" {
			err = c.set(&p, value)
		}
		if err != nil {
			line, at := lines.FieldPos(i)
			return p, &ParseError{Line: line, Column: at, Name: c.name, Reason: fmt.Sprintf("%.40q %v", value, err)}
		}
	}
	for tier, all := range map[string]int{"batch": 4, "long": 5} {
		if n := tiers[tier]; n != 0 && n != all {
			line, _ := lines.FieldPos(0)
			return p, &ParseError{Line: line, Reason: fmt.Sprintf("of the %d columns of the tier %s, %d have a value: want all or none", all, tier, n)}
		}
	}
	if p.CacheReadAssumed {
		p.CacheRead = p.Input
	}
	if p.CacheWriteAssumed {
		p.CacheWrite = p.Input
	}
	return p, nil
}

func syntaxError(err error) error {
	if bad, ok := errors.AsType[*csv.ParseError](err); ok {
		at := bad.Column
		if errors.Is(bad.Err, csv.ErrFieldCount) {
			at = 0
		}
		return &ParseError{Line: bad.Line, Column: at, Reason: bad.Err.Error()}
	}
	return fmt.Errorf("read price file: %w", err)
}

// parseUSD turns decimal dollars into micro-dollars, exactly.
func parseUSD(s string) (int64, error) {
	whole, fraction, _ := strings.Cut(s, ".")
	if len(fraction) > 6 {
		fraction = strings.TrimRight(fraction, "0")
	}
	digits := func(s string) bool { return strings.Trim(s, "0123456789") == "" }
	switch {
	case whole == "" || !digits(whole) || !digits(fraction) || strings.HasSuffix(s, "."):
		return 0, errors.New("is not a price in USD such as 0.15")
	case len(fraction) > 6:
		return 0, errors.New("has more than six decimals")
	}
	micro, err := strconv.ParseInt(whole+fraction+"000000"[len(fraction):], 10, 64)
	if err != nil {
		return 0, errors.New("is too large a price")
	}
	return micro, nil
}

func parseTokens(s string) (int, error) {
	n, err := strconv.Atoi(s)
	if err != nil || n < 0 {
		return 0, errors.New("is not a number of tokens")
	}
	return n, nil
}
