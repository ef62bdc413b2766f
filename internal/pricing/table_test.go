package pricing

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

const header = "provider,model,valid_from,input_usd_per_mtok,output_usd_per_mtok,cached_input_usd_per_mtok,cache_write_usd_per_mtok,context_window,max_output_tokens\n"

func load(t *testing.T, rows string) *Table {
	t.Helper()
	table, err := Load(strings.NewReader(header + rows))
	if err != nil {
		t.Fatal(err)
	}
	return table
}

func TestEmbeddedTable(t *testing.T) {
	t.Parallel()
	all := slices.Collect(Default().All())
	if len(all) < 63 {
		t.Errorf("%d rows; rows are added, never removed: old calls are priced by them", len(all))
	}
	for _, p := range all {
		if p.Input <= 0 || p.Output <= 0 || p.CacheRead <= 0 || p.CacheRead > p.Input || p.CacheWrite < p.Input || p.ValidFrom.IsZero() {
			t.Errorf("%+v", p)
		}
		if found, ok := Default().Lookup(p.Provider, p.Model, today); !ok || found != p {
			t.Errorf("%s/%s: found %+v, %v", p.Provider, p.Model, found, ok)
		}
	}
	want := Price{
		Provider: "openai", Model: "gpt-5.6-luna", ValidFrom: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC),
		Input: 200_000, Output: 1_200_000, CacheRead: 20_000, CacheWrite: 250_000, ContextWindow: 1_050_000, MaxOutput: 128_000,
	}
	if got := lookup(t, "openai", "gpt-5.6-luna"); got != want {
		t.Errorf("got %+v", got)
	}
}

func TestLookup(t *testing.T) {
	t.Parallel()
	table := Default().With(load(t, `custom-lab,known,2026-01-01,1,2,,,,
custom-flat,*,2026-01-01,3,4,,,,
custom-flat,special,2026-01-01,5,6,,,,
openai,gpt-4o-2024-05-13,2026-01-01,5,15,,,,
local,big,2026-06-01,7,8,,,,
`))
	for _, c := range []struct {
		provider, model string
		input           int64 // -1: unknown
	}{
		{"openai", "gpt-4o", 2_500_000},
		{"openai", "gpt-4o-2024-08-06", 2_500_000},
		{"openai", "gpt-4o-20240806", 2_500_000},
		{"openai", "gpt-4o@20240806", 2_500_000},
		{"openai", "gpt-4o-2024-05-13", 5_000_000},
		{"openai", "gpt-4o-mini-2024-07-18", 150_000},
		{"anthropic", "claude-haiku-4-5-20251001", 1_000_000},
		{"openai", "gpt-4o-2024-13-06", -1},
		{"openai", "gpt-4o-2024-02-30", -1},
		{"openai", "gpt-4o-19990806", -1},
		{"openai", "gpt-4o-large", -1},
		{"openai", "gpt-4o-audio-2024-08-06", -1},
		{"openai", "gpt-4o-2024-08-06-2024-08-06", -1},
		{"openai", "-2024-08-06", -1},
		{"openai", "", -1},
		{"openai", "GPT-4o", -1},
		{"groq", "gpt-4o", -1},
		{"custom-lab", "known", 1_000_000},
		{"custom-lab", "other", -1},
		{"custom-flat", "other", 3_000_000},
		{"custom-flat", "special", 5_000_000},
		{"custom-other", "known", -1},
		{"openai-compatible", "gpt-4o", -1},
		{"local", "qwen", 0},
		{"local", "", 0},
		{"local", "big", 7_000_000},
		{"simulator", "gpt-4o", 100_000},
	} {
		got, ok := table.Lookup(c.provider, c.model, today)
		if ok != (c.input >= 0) || ok && got.Input != c.input {
			t.Errorf("%s/%s: %+v, %v, want %d", c.provider, c.model, got, ok, c.input)
		}
	}
}

func TestProvidersThatAreAlwaysKnown(t *testing.T) {
	t.Parallel()
	for _, at := range []time.Time{{}, today} {
		local, ok := new(Table).Lookup("local", "m", at)
		if !ok || local.Simulated || local.WorstCase(1e6, 1e6) != 0 {
			t.Errorf("local: %+v, %v", local, ok)
		}
		simulated, ok := new(Table).Lookup("simulator", "m", at)
		if !ok || !simulated.Simulated || simulated.Input != 100_000 || simulated.Output != 400_000 {
			t.Errorf("simulator: %+v, %v", simulated, ok)
		}
	}
	if p, ok := load(t, "simulator,*,2026-01-01,1,2,,,,\n").Lookup("simulator", "m", today); !ok || !p.Simulated {
		t.Error("a price of the simulator that an override lists is simulated too")
	}
}

func TestLookupByDate(t *testing.T) {
	t.Parallel()
	table := load(t, `p,m,2026-03-01,3,3,,,,
p,m,2026-01-01,1,1,,,,
p,m,2026-02-01,2,2,,,,
p,m-2026-01-15,2026-02-15,9,9,,,,
`)
	for _, c := range []struct {
		at    string
		model string
		want  int64
	}{
		{"2025-12-31T23:59:59Z", "m", -1},
		{"2026-01-01T00:00:00Z", "m", 1},
		{"2026-01-31T23:59:59Z", "m", 1},
		{"2026-02-01T00:00:00Z", "m", 2},
		{"2026-02-01T00:30:00+01:00", "m", 1}, // still January in UTC
		{"2030-01-01T00:00:00Z", "m", 3},
		{"2026-02-14T00:00:00Z", "m-2026-01-15", 2}, // its own row isn't valid yet
		{"2026-02-15T00:00:00Z", "m-2026-01-15", 9},
	} {
		at, err := time.Parse(time.RFC3339, c.at)
		if err != nil {
			t.Fatal(err)
		}
		p, ok := table.Lookup("p", c.model, at)
		if ok != (c.want >= 0) || ok && p.Input != c.want*1_000_000 {
			t.Errorf("%s at %s: %+v, %v", c.model, c.at, p, ok)
		}
	}
}

func TestOverrideWins(t *testing.T) {
	t.Parallel()
	base := load(t, "p,m,2026-01-01,1,1,,,,\np,m,2026-02-01,2,2,,,,\np,n,2026-01-01,5,5,,,,\n")
	merged := base.With(load(t, "p,m,2026-02-01,7,7,,,,\nq,m,2026-01-01,8,8,,,,\n"))
	var got []string
	for p := range merged.All() {
		got = append(got, fmt.Sprintf("%s/%s %s %d", p.Provider, p.Model, p.ValidFrom.Format("01-02"), p.Input/1_000_000))
	}
	if want := []string{"p/m 01-01 1", "p/m 02-01 7", "p/n 01-01 5", "q/m 01-01 8"}; !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
	if p, _ := base.Lookup("p", "m", today); p.Input != 2_000_000 {
		t.Error("With changed its receiver")
	}
}

func TestNewRoundTripsAndRefuses(t *testing.T) {
	t.Parallel()
	again, err := New(slices.Collect(Default().All())...)
	if err != nil || !slices.Equal(slices.Collect(again.All()), slices.Collect(Default().All())) {
		t.Error("not the same rows", err)
	}
	for name, rows := range map[string][]Price{
		"p/m: two prices are valid from 0001-01-01": {{Provider: "p", Model: "m"}, {Provider: "p", Model: "m", Input: 1}},
		"p/m: a price or limit is negative":         {{Provider: "p", Model: "m", Output: -1}},
		"/m: a price needs a provider and a model":  {{Model: "m"}},
		"p/: a price needs a provider and a model":  {{Provider: "p"}},
		"p/mm: a price or limit is negative":        {{Provider: "p", Model: "mm", MaxOutput: -1}},
	} {
		if _, err := New(rows...); err == nil || err.Error() != name {
			t.Errorf("got %v, want %s", err, name)
		}
	}
}

func TestLoadMissingCachePrices(t *testing.T) {
	t.Parallel()
	table := load(t, "p,a,2026-01-01,1,2,,,,\np,b,2026-01-01,1,2,0.1,,,\np,c,2026-01-01,1,2,0,1.25,,\n")
	for model, want := range map[string]Price{
		"a": {CacheRead: 1_000_000, CacheWrite: 1_000_000, CacheReadAssumed: true, CacheWriteAssumed: true},
		"b": {CacheRead: 100_000, CacheWrite: 1_000_000, CacheWriteAssumed: true},
		"c": {CacheRead: 0, CacheWrite: 1_250_000},
	} {
		p, _ := table.Lookup("p", model, today)
		if p.CacheRead != want.CacheRead || p.CacheWrite != want.CacheWrite || p.CacheReadAssumed != want.CacheReadAssumed || p.CacheWriteAssumed != want.CacheWriteAssumed {
			t.Errorf("%s: %+v", model, p)
		}
	}
	short, err := Load(strings.NewReader("\uFEFFmodel, provider ,output_usd_per_mtok,input_usd_per_mtok,valid_from\r\n# a comment\r\nm,p,2,1,2026-01-01\r\n"))
	if err != nil {
		t.Fatal(err)
	}
	if p, ok := short.Lookup("p", "m", today); !ok || p.Input != 1_000_000 || p.Output != 2_000_000 || !p.CacheReadAssumed {
		t.Errorf("%+v, %v", p, ok)
	}
}

func TestLoadSaysWhere(t *testing.T) {
	t.Parallel()
	const short = "provider,model,valid_from,input_usd_per_mtok,output_usd_per_mtok\n"
	for _, c := range []struct{ name, file, want string }{
		{"empty", "", `line 1: the file is empty; it needs a header line`},
		{"missing column", "provider,model,valid_from,input_usd_per_mtok\n", `line 1: the column "output_usd_per_mtok" is missing`},
		{"unknown column", "provider,modle\n", `line 1, column 10: "modle" is not a column of a price file`},
		{"column twice", "provider,provider\n", `line 1, column 10 (provider): the column is there twice`},
		{"float", short + "p,m,2026-01-01,1e3,1\n", `line 2, column 16 (input_usd_per_mtok): "1e3" is not a price in USD such as 0.15`},
		{"negative", short + "p,m,2026-01-01,-1,1\n", `line 2, column 16 (input_usd_per_mtok): "-1" is not a price in USD such as 0.15`},
		{"comma", short + "p,m,2026-01-01,\"0,1\",1\n", `line 2, column 16 (input_usd_per_mtok): "0,1" is not a price in USD such as 0.15`},
		{"dot", short + "p,m,2026-01-01,.5,1\n", `line 2, column 16 (input_usd_per_mtok): ".5" is not a price in USD such as 0.15`},
		{"trailing dot", short + "p,m,2026-01-01,5.,1\n", `line 2, column 16 (input_usd_per_mtok): "5." is not a price in USD such as 0.15`},
		{"fine", short + "p,m,2026-01-01,0.0000001,1\n", `line 2, column 16 (input_usd_per_mtok): "0.0000001" has more than six decimals`},
		{"large", short + "p,m,2026-01-01,99999999999999,1\n", `line 2, column 16 (input_usd_per_mtok): "99999999999999" is too large a price`},
		{"missing price", short + "\np,m,2026-01-01,,1\n", `line 3, column 16 (input_usd_per_mtok): "" is missing`},
		{"missing model", short + "p, ,2026-01-01,1,1\n", `line 2, column 4 (model): "" is missing`},
		{"date", short + "p,m,01.02.2026,1,1\n", `line 2, column 5 (valid_from): "01.02.2026" is not a date such as 2026-01-31`},
		{"tokens", header + "p,m,2026-01-01,1,1,,,1k,\n", `line 2, column 22 (context_window): "1k" is not a number of tokens`},
		{"twice", short + "p,m,2026-01-01,1,1\np,m,2026-01-01,2,2\n", `line 3: a second price of p m is valid from 2026-01-01`},
		{"fields", short + "p,m,2026-01-01,1\n", `line 2: wrong number of fields`},
		{"quote", short + "p,m\"x,2026-01-01,1,1\n", `line 2, column 4: bare " in non-quoted-field`},
		{"size", short + "#" + strings.Repeat("x", maxFile), `price file is larger than 4194304 bytes`},
	} {
		_, err := Load(strings.NewReader(c.file))
		if err == nil || err.Error() != c.want {
			t.Errorf("%s\n got %v\nwant %s", c.name, err, c.want)
		}
	}
}

func TestPricesAreParsedExactly(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]int64{
		"0": 0, "1": 1_000_000, "0.15": 150_000, "0.0375": 37_500, "0.000001": 1, "12.5": 12_500_000, "0.1500000000": 150_000, "007": 7_000_000,
		"9223372036854.775807": 9223372036854775807,
	} {
		if got, err := parseUSD(text); err != nil || got != want {
			t.Errorf("%s: got %d, %v, want %d", text, got, err, want)
		}
	}
}

func FuzzLoad(f *testing.F) {
	f.Add(header + "p,m,2026-01-01,1,2,0.1,,128000,4096\n")
	f.Add("\uFEFF" + string(embedded))
	f.Add("provider,model\n\"a\nb\",c\n")
	f.Fuzz(func(t *testing.T, file string) {
		table, err := Load(strings.NewReader(file))
		if err != nil {
			return
		}
		for p := range table.All() {
			if err := p.check(); err != nil {
				t.Fatal(err)
			}
			if p.Cost(Usage{Input: 1}) > p.WorstCase(1, 1) {
				t.Fatalf("%+v", p)
			}
			if found, ok := table.Lookup(p.Provider, p.Model, p.ValidFrom); !ok || found != p {
				t.Fatalf("%+v isn't found", p)
			}
		}
	})
}

const tiers = "provider,model,valid_from,valid_to,input_usd_per_mtok,output_usd_per_mtok,batch_input_usd_per_mtok,batch_output_usd_per_mtok,batch_cached_input_usd_per_mtok," +
	"batch_cache_write_usd_per_mtok,long_context_above_tokens,long_input_usd_per_mtok,long_output_usd_per_mtok,long_cached_input_usd_per_mtok,long_cache_write_usd_per_mtok\n"

func TestLoadTiers(t *testing.T) {
	t.Parallel()
	table, err := Load(strings.NewReader(tiers + "p,m,2026-01-01,2026-02-01,2,4,1,2,0.1,1.25,200000,4,6,0.4,5\np,plain,2026-01-01,,2,4,,,,,,,,,\n"))
	if err != nil {
		t.Fatal(err)
	}
	got, ok := table.Lookup("p", "m", time.Date(2026, 1, 31, 23, 59, 59, 0, time.UTC))
	if !ok || got.Batch != (Rates{1_000_000, 2_000_000, 100_000, 1_250_000}) || got.Long != (Rates{4_000_000, 6_000_000, 400_000, 5_000_000}) || got.LongFrom != 200_000 {
		t.Errorf("%+v, %v", got, ok)
	}
	if p, ok := table.Lookup("p", "m", time.Date(2026, 2, 1, 0, 0, 0, 0, time.UTC)); ok {
		t.Errorf("it holds on the day of its end: %+v", p)
	}
	for row, want := range map[string]string{
		"p,m,2026-01-01,,2,4,1,,,,,,,,\n":          "of the 4 columns of the tier batch, 1 have a value",
		"p,m,2026-01-01,,2,4,,,,,200000,4,,,\n":    "of the 5 columns of the tier long, 2 have a value",
		"p,m,2026-01-01,,2,4,,,,,0,4,5,6,7\n":      "number of tokens above which",
		"p,m,2026-01-01,2026-01-01,2,4,,,,,,,,,\n": "ends before it begins",
		"p,m,2026-01-01,tomorrow,2,4,,,,,,,,,\n":   "is not a date",
		"p,m,2026-01-01,,2,4,1,2,3,4.5.6,,,,,\n":   "is not a price",
		"p,m,2026-01-01,,2,4,,,,,many,4,5,6,7\n":   "is not a number of tokens",
	} {
		if _, err := Load(strings.NewReader(tiers + row)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", row, err, want)
		}
	}
}

func TestAProjectsPricesComeBeforeTheServers(t *testing.T) {
	t.Parallel()
	base := load(t, "p,m,2026-06-01,2,4,,,1000,500\np,m-2026-01-01,2026-01-01,9,9,,,,\n")
	own, err := New(
		Price{Provider: "p", Model: "m", ValidFrom: today.AddDate(-1, 0, 0), Input: 1},
		Price{Provider: "p", Model: "m", ValidFrom: today.AddDate(0, 0, -1), ValidTo: today, Input: 7},
		Price{Provider: "p", Model: "*", ValidFrom: today.AddDate(-1, 0, 0), Input: 5},
	)
	if err != nil {
		t.Fatal(err)
	}
	table := own.Over(base)
	for _, c := range []struct {
		model string
		at    time.Time
		input int64
	}{
		{"m", today, 1},                    // older than the server's row
		{"m", today.Add(-time.Minute), 7},  // a later row, until it ends
		{"m", today.AddDate(-2, 0, 0), -1}, // before anything
		{"m-2026-01-01", today, 9_000_000}, // the name itself comes before the undated one
		{"other", today, 5},                // what no row is for
	} {
		got, ok := table.Lookup("p", c.model, c.at)
		if ok != (c.input >= 0) || ok && got.Input != c.input {
			t.Errorf("%s at %s: %+v, %v", c.model, c.at, got, ok)
		}
	}
	if p, _ := table.Lookup("p", "m", today); p.ContextWindow != 1000 || p.MaxOutput != 500 {
		t.Errorf("limits that the project doesn't give are not the server's: %+v", p)
	}
	if !table.Lists("p") || table.Lists("q") {
		t.Error("which providers it lists")
	}
}
