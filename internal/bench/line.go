package bench

import (
	"fmt"
	"slices"
	"strings"
)

// line is one row of the table: what was read in each round, for ours and for the ceiling.
type line struct {
	name    string
	ours    []float64
	ceiling []float64 // none: for orientation only
	target  float64   // of the ratio; 0 for none
	atMost  bool      // the ceiling is a limit, and the target the most of it that may be used
	note    string    // one sentence for the document
	phases  []string  // of our runs, a round each
	cpu     []usage   // of our runs, a round each
	memory  []memory  // of our runs, a round each
}

// ratio compares the medians; 0 without a ceiling.
func (l line) ratio() float64 {
	if c := median(l.ceiling); c > 0 {
		return median(l.ours) / c
	}
	return 0
}

func (l line) verdict() string {
	switch {
	case l.target == 0:
		return "-"
	case l.atMost && l.ratio() > 0 && l.ratio() <= l.target, !l.atMost && l.ratio() >= l.target:
		return "ok"
	}
	return "short"
}

// cells are the six columns.
func (l line) cells() []string {
	c := []string{l.name, figure(median(l.ours)), "-", "-", "-", l.verdict()}
	if len(l.ceiling) > 0 {
		c[2], c[3] = figure(median(l.ceiling)), fmt.Sprintf("%.2f", l.ratio())
	}
	if l.target > 0 {
		sign := ">="
		if l.atMost {
			sign = "<="
		}
		c[4] = fmt.Sprintf("%s %.2f", sign, l.target)
	}
	return c
}

func (l line) String() string { return row(l.cells()) }

func header() string { return row([]string{"name", "ours", "ceiling", "ratio", "target", "verdict"}) }

func row(c []string) string {
	return strings.TrimRight(fmt.Sprintf("%-52s %9s %9s %6s %8s  %s", c[0], c[1], c[2], c[3], c[4], c[5]), " ")
}

// figure shows four digits at least of what matters: whole numbers from 100 on.
func figure(v float64) string {
	if v >= 100 {
		return fmt.Sprintf("%.0f", v)
	}
	return fmt.Sprintf("%.1f", v)
}

// median is the middle value, or the mean of the two in the middle; 0 of none.
func median(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(v))
	m := len(s) / 2
	if len(s)%2 == 1 {
		return s[m]
	}
	return (s[m-1] + s[m]) / 2
}
