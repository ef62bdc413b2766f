package document

import (
	"cmp"
	"slices"
)

// strength says what kind of boundary lies between two units.
type strength uint8

const (
	insideWord strength = iota
	betweenWords
	betweenPhrases
	betweenLines // or between a heading and what it heads
	betweenSentences
	betweenParagraphs
	beforeHeading // of level 6; up to beforeHeading+5 for level 1
)

// Cut is a boundary between two parts of a text, and says how good a place to cut it is.
type Cut struct {
	strength strength
	hash     uint64 // of what follows
}

func (c Cut) compare(d Cut) int {
	return cmp.Or(cmp.Compare(c.strength, d.strength), cmp.Compare(c.hash, d.hash))
}

// divider divides a sequence of parts again and again, each time at the best cut.
type divider struct {
	at            []int // where each part begins, and where the last one ends
	cuts          []Cut // after each part
	least, target int
	tree          []int32 // a tournament: the winner of nodes 2i and 2i+1 is node i; the parts' cuts are the second half
}

func newDivider(at []int, cuts []Cut, least, target int) *divider {
	n := len(cuts)
	d := &divider{at: at, cuts: cuts, least: least, target: target, tree: make([]int32, 2*n)}
	for i := range n {
		d.tree[n+i] = int32(i)
	}
	for i := n - 1; i > 0; i-- {
		d.tree[i] = d.better(d.tree[2*i], d.tree[2*i+1])
	}
	return d
}

// better returns the better of two cuts, of equal ones the first.
func (d *divider) better(i, j int32) int32 {
	if c := d.cuts[i].compare(d.cuts[j]); c > 0 || c == 0 && i < j {
		return i
	}
	return j
}

// divide yields the ranges of parts that fit, in order. fits is told the best cut of a range, and whether it keeps its distance from both ends.
func (d *divider) divide(from, to int, fits func(from, to int, best Cut, allowed bool) bool, yield func(from, to int)) {
	for to-from > 1 {
		i, allowed := d.best(from, to)
		if fits(from, to, d.cuts[i], allowed) {
			break
		}
		d.divide(from, i+1, fits, yield)
		from = i + 1
	}
	yield(from, to)
}

// best returns the best cut within a range that leaves the least size on both sides, or of all when there is none such. Of equal ones it is
// the first that comes with or after the target, so that a text that repeats itself is cut into parts of that size.
func (d *divider) best(from, to int) (cut int, allowed bool) {
	low, _ := slices.BinarySearch(d.at[from+1:to], d.at[from]+d.least)
	high, _ := slices.BinarySearch(d.at[from+1:to], d.at[to]-d.least+1)
	low, high = from+low, from+high
	if allowed = low < high; !allowed {
		low, high = from, to-1
	}
	mid, _ := slices.BinarySearch(d.at[from+1:to], d.at[from]+d.target)
	mid = min(max(from+mid, low), high)
	switch {
	case mid == low:
		return d.winner(mid, high), allowed
	case mid == high:
		return d.winner(low, mid), allowed
	}
	before, after := d.winner(low, mid), d.winner(mid, high)
	if d.cuts[before].compare(d.cuts[after]) > 0 {
		return before, allowed
	}
	return after, allowed
}

// winner returns the best cut of a range that isn't empty.
func (d *divider) winner(from, to int) int {
	n := len(d.cuts)
	best := int32(from)
	for i, j := from+n, to+n; i < j; i, j = i/2, j/2 {
		if i%2 == 1 {
			best = d.better(best, d.tree[i])
			i++
		}
		if j%2 == 1 {
			j--
			best = d.better(best, d.tree[j])
		}
	}
	return int(best)
}

// hash is FNV-1a with the finish of MurmurHash3: short, fixed for ever, and good in all its bits.
func hash(s string) uint64 {
	h := uint64(0xcbf29ce484222325)
	for i := range len(s) {
		h = (h ^ uint64(s[i])) * 0x100000001b3
	}
	h = (h ^ h>>33) * 0xff51afd7ed558ccd
	h = (h ^ h>>33) * 0xc4ceb9fe1a85ec53
	return h ^ h>>33
}
