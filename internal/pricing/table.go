package pricing

import (
	"bytes"
	"cmp"
	_ "embed"
	"fmt"
	"iter"
	"slices"
	"strings"
	"sync"
	"time"
)

// Providers that are known without a row.
const (
	local     = "local"     // models on the caller's own machines: cost 0
	simulator = "simulator" // the built-in fake: a notional price, so that a demonstration shows costs
)

// anyModel in the model column makes a row the price of every model of its provider that has no row of its own.
const anyModel = "*"

//go:embed prices.csv
var embedded []byte

// Table is a set of dated prices. It doesn't change, so any number of goroutines may use it. The zero Table knows
// only the providers local and simulator.
type Table struct {
	rows map[key][]Price // by ValidFrom, latest first
	base *Table          // what holds where no row of this table does
}

type key struct{ provider, model string }

var loadEmbedded = sync.OnceValue(func() *Table {
	t, err := Load(bytes.NewReader(embedded))
	if err != nil {
		panic("pricing: embedded table: " + err.Error())
	}
	return t
})

// Default returns the table that the program was built with: list prices in USD, as published in November 2026 and
// taken to hold since 2026-01-01.
func Default() *Table { return loadEmbedded() }

// New builds a table from rows, for instance those of a database. It refuses a negative price, a missing name and two
// rows for the same provider, model and date.
func New(prices ...Price) (*Table, error) {
	t := &Table{rows: make(map[key][]Price, len(prices))}
	for _, p := range prices {
		if err := p.check(); err != nil {
			return nil, err
		}
		if !t.insert(p) {
			return nil, fmt.Errorf("%s/%s: two prices are valid from %s", p.Provider, p.Model, p.ValidFrom.Format(time.DateOnly))
		}
	}
	return t, nil
}

func (p Price) check() error {
	switch {
	case p.Provider == "" || p.Model == "":
		return fmt.Errorf("%s/%s: a price needs a provider and a model", p.Provider, p.Model)
	case min(p.Input, p.Output, p.CacheRead, p.CacheWrite, p.LongFrom) < 0 || p.Long.least() < 0 || p.Batch.least() < 0 || min(p.ContextWindow, p.MaxOutput) < 0:
		return fmt.Errorf("%s/%s: a price or limit is negative", p.Provider, p.Model)
	case p.LongFrom == 0 && p.Long != Rates{}:
		return fmt.Errorf("%s/%s: prices of a long context need the number of tokens above which they hold", p.Provider, p.Model)
	case !p.ValidTo.IsZero() && !p.ValidTo.After(p.ValidFrom):
		return fmt.Errorf("%s/%s: the price ends before it begins", p.Provider, p.Model)
	}
	return nil
}

func (r Rates) least() int64 { return min(r.Input, r.Output, r.CacheRead, r.CacheWrite) }

// insert reports whether no row for the same provider, model and date was there.
func (t *Table) insert(p Price) bool {
	p.Simulated = p.Provider == simulator
	k := key{p.Provider, p.Model}
	at, found := slices.BinarySearchFunc(t.rows[k], p, func(a, b Price) int { return b.ValidFrom.Compare(a.ValidFrom) })
	if found {
		return false
	}
	t.rows[k] = slices.Insert(t.rows[k], at, p)
	return true
}

// Over returns a table in which the rows of t that hold at a time come before all of base, however recent those are: a
// project's own prices over the server's. A name that is more exact comes first all the same, whichever of the two lists
// it. Limits in tokens that a row of t doesn't know are those of base.
func (t *Table) Over(base *Table) *Table { return &Table{rows: t.rows, base: base} }

// With returns a table that has the rows of both; where provider, model and date are the same, those of override.
func (t *Table) With(override *Table) *Table {
	merged := &Table{rows: make(map[key][]Price, len(t.rows)+len(override.rows))}
	for _, from := range []*Table{override, t} {
		for _, rows := range from.rows {
			for _, p := range rows {
				merged.insert(p)
			}
		}
	}
	return merged
}

// All yields every row by provider, model and date, oldest first. The providers that are known without a row are not
// among them, nor is what the table lies over.
func (t *Table) All() iter.Seq[Price] {
	return func(yield func(Price) bool) {
		keys := make([]key, 0, len(t.rows))
		for k := range t.rows {
			keys = append(keys, k)
		}
		slices.SortFunc(keys, func(a, b key) int {
			return cmp.Or(strings.Compare(a.provider, b.provider), strings.Compare(a.model, b.model))
		})
		for _, k := range keys {
			for _, p := range slices.Backward(t.rows[k]) {
				if !yield(p) {
					return
				}
			}
		}
	}
}

// Lookup returns the price of a provider's model at a time: the row with the latest ValidFrom that isn't after it, of
// those that haven't ended. It tries, in this order,
//
//  1. the model's own row;
//  2. for a dated snapshot the row of the longest listed name before the date: gpt-4o-2024-08-06, gpt-4o-20240806 and
//     gpt-4o@20240806 are gpt-4o, while gpt-4o-mini-2024-07-18 is gpt-4o-mini and never gpt-4o;
//  3. the provider's row for the model "*";
//  4. for the providers local (cost 0) and simulator (0.10 USD in, 0.40 USD out per million tokens, marked Simulated) a
//     built-in price without a date.
//
// Otherwise the cost is unknown, which is not zero, and Lookup returns false. A model of a custom or
// openai-compatible provider is unknown until an override lists it.
func (t *Table) Lookup(provider, model string, at time.Time) (Price, bool) {
	if p, ok := t.at(provider, model, at); ok {
		return p, true
	}
	if undated, ok := cutDate(model); ok {
		if p, ok := t.at(provider, undated, at); ok {
			return p, true
		}
	}
	if p, ok := t.at(provider, anyModel, at); ok {
		return p, true
	}
	switch provider {
	case local:
		return Price{Provider: local, Model: anyModel}, true
	case simulator:
		return Price{
			Provider: simulator, Model: anyModel, Simulated: true,
			Input: 100_000, Output: 400_000, CacheRead: 100_000, CacheWrite: 100_000,
			CacheReadAssumed: true, CacheWriteAssumed: true,
		}, true
	}
	return Price{}, false
}

// Lists reports whether some row is of a provider.
func (t *Table) Lists(provider string) bool {
	for k := range t.rows {
		if k.provider == provider {
			return true
		}
	}
	return t.base != nil && t.base.Lists(provider)
}

func (t *Table) at(provider, model string, at time.Time) (Price, bool) {
	for _, p := range t.rows[key{provider, model}] {
		if !p.ValidFrom.After(at) && (p.ValidTo.IsZero() || at.Before(p.ValidTo)) {
			if t.base != nil && (p.ContextWindow == 0 || p.MaxOutput == 0) {
				below, _ := t.base.Lookup(provider, model, at)
				p.ContextWindow, p.MaxOutput = cmp.Or(p.ContextWindow, below.ContextWindow), cmp.Or(p.MaxOutput, below.MaxOutput)
			}
			return p, true
		}
	}
	if t.base != nil {
		return t.base.at(provider, model, at)
	}
	return Price{}, false
}

// Unlisted yields the prices of the providers that are known without a row, as rows that hold since the year 1.
func Unlisted() iter.Seq[Price] {
	return func(yield func(Price) bool) {
		for _, provider := range []string{local, simulator} {
			if p, _ := (&Table{}).Lookup(provider, anyModel, time.Time{}); !yield(p) {
				return
			}
		}
	}
}

// cutDate removes a calendar date from the end of a model's name: -2006-01-02, -20060102 or @20060102.
func cutDate(model string) (string, bool) {
	for _, form := range []string{"-" + time.DateOnly, "-20060102", "@20060102"} {
		at := len(model) - len(form)
		if at <= 0 {
			continue
		}
		if day, err := time.Parse(form, model[at:]); err == nil && day.Year() >= 2020 && day.Year() < 2100 {
			return model[:at], true
		}
	}
	return "", false
}
