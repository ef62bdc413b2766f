package command

import (
	"bytes"
	"strings"
	"testing"
)

func TestTableKeepsItsWidth(t *testing.T) {
	t.Parallel()
	tab := table{
		head:  []string{"document", "first line", "tokens in", "cost"},
		right: []bool{2: true, 3: true},
		flex:  2, least: 12,
		rows: [][]string{
			{"a.txt", "Short.", "7", "$0"},
			{"議事録.txt", "日時：二〇二六年十月六日（火）十四時から十五時四十分まで、場所は本社三階の会議室", "1,450", "$0.000123"},
			{"cafe\u0301.md", "Crème brûlée, e\u0301t\u00e9, and a line that is a good deal longer than the table is wide", "12,345", "unknown"},
		},
		total: []string{"3 jobs", "", "13,802", "$0.000123"},
	}
	var b bytes.Buffer
	for _, width := range []int{120, 80, 40} {
		if err := tab.write(&b, width); err != nil {
			t.Fatal(err)
		}
		b.WriteByte('\n')
	}
	golden(t, "table.txt", b.Bytes())
	for i, part := range strings.SplitN(b.String(), "\n\n", 3)[:2] {
		for line := range strings.Lines(part) {
			if n := columns.StringWidth(strings.TrimSuffix(line, "\n")); n > []int{120, 80}[i] {
				t.Errorf("%d columns: %s", n, line)
			}
		}
	}
}

func TestCleanDisarmsText(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"a\x1b[31mred\x1b[0m\r\nb":    "a[31mred[0m b",
		" two\t\u00a0words \u2028":    "two words",
		"right\u202eto\u200bleft":     "righttoleft",
		"bad \xff byte \u0085 \u009b": "bad byte",
		"👩\u200d🔬 é":                  "👩\u200d🔬 é",
	} {
		if got := clean(in); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
	if got := firstLine("\n \t\nThe first.\nThe second."); got != "The first." {
		t.Errorf("got %q", got)
	}
}

func TestNumbersForPeople(t *testing.T) {
	t.Parallel()
	for n, want := range map[int64]string{0: "0", 999: "999", 1000: "1,000", 12345678: "12,345,678", -1: "-1", -999: "-999", -1000: "-1,000", -123456: "-123,456"} {
		if got := number(n); got != want {
			t.Errorf("%d: got %s", n, got)
		}
	}
	cost := func(n int64) *int64 { return &n }
	for want, c := range map[string]*int64{"unknown": nil, "$0": cost(0), "$0.000001": cost(1), "$12.000345": cost(12_000_345)} {
		if got := dollars(c); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}
