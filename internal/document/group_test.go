package document

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// cutsOf makes cuts of a kind each, whose order among equals is that of their places.
func cutsOf(kinds ...strength) []Cut {
	out := make([]Cut, len(kinds))
	for i, k := range kinds {
		out[i] = Cut{k, uint64(i)}
	}
	return out
}

func TestGroup(t *testing.T) {
	t.Parallel()
	const p, h = betweenParagraphs, beforeHeading
	for _, c := range []struct {
		tokens          []int
		after           []Cut
		most, maxTokens int
		want            string
	}{
		{nil, nil, 4, 10, "[]"},
		{[]int{5}, cutsOf(p), 4, 10, "[1]"},
		{[]int{50}, cutsOf(p), 4, 10, "[1]"}, // alone, however long
		{[]int{5, 5}, cutsOf(p, p), 4, 10, "[2]"},
		{[]int{5, 6}, cutsOf(p, p), 4, 10, "[1 2]"},
		{[]int{1, 1, 1, 1}, cutsOf(p, p, p, p), 4, 10, "[4]"},
		{[]int{1, 1, 1, 1, 1}, cutsOf(p, h, p, p, p), 4, 10, "[2 5]"}, // before the heading
		{[]int{1, 1, 1, 1, 1}, cutsOf(p, p, h, p, p), 4, 10, "[3 5]"},
		{[]int{9, 9, 1, 1, 1}, cutsOf(p, p, h, p, p), 4, 10, "[1 2 3 5]"},
		{[]int{1, 1, 1}, cutsOf(p, p, p), 1, 10, "[1 2 3]"},
		{[]int{0, 0, 0}, cutsOf(p, p, p), 9, 0, "[3]"},
	} {
		if got := fmt.Sprint(Group(c.tokens, c.after, c.most, c.maxTokens)); got != c.want {
			t.Errorf("%v, at most %d of %d tokens: got %s, want %s", c.tokens, c.most, c.maxTokens, got, c.want)
		}
	}
}

// checkGroups holds groups to the promises of Group.
func checkGroups(t rapid.TB, tokens []int, most, maxTokens int, ends []int) {
	t.Helper()
	from := 0
	for _, end := range ends {
		if end <= from || end > len(tokens) {
			t.Fatalf("a group ends at %d after %d, of %d", end, from, len(tokens))
		}
		sum := 0
		for _, n := range tokens[from:end] {
			sum += n
		}
		if end-from > 1 && (end-from > most || sum > maxTokens) {
			t.Fatalf("a group has %d texts of %d tokens; at most %d of %d may be", end-from, sum, most, maxTokens)
		}
		from = end
	}
	if from != len(tokens) {
		t.Fatalf("%d of %d texts are in groups", from, len(tokens))
	}
}

func TestGroupKeepsOrderAndBounds(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		tokens := rapid.SliceOfN(rapid.IntRange(0, 40), 0, 80).Draw(t, "tokens")
		after := make([]Cut, len(tokens))
		for i := range after {
			after[i] = Cut{strength(rapid.IntRange(0, 5).Draw(t, "kind")), rapid.Uint64Range(0, 3).Draw(t, "hash")}
		}
		most, maxTokens := rapid.IntRange(1, 20).Draw(t, "most"), rapid.IntRange(0, 200).Draw(t, "max")
		ends := Group(tokens, after, most, maxTokens)
		checkGroups(t, tokens, most, maxTokens, ends)
		if most > 1 && len(tokens) > 1 && len(ends) == len(tokens) && maxTokens >= 80 {
			t.Fatalf("no two of %v are together, though any two fit", tokens)
		}
	})
}

func FuzzGroup(f *testing.F) {
	f.Add([]byte{5, 1, 9, 2, 40, 3, 1, 1}, 3, 30)
	f.Add([]byte{0, 0, 0, 0, 0, 0}, 1, 0)
	f.Fuzz(func(t *testing.T, data []byte, most, maxTokens int) {
		most = max(1, most%50)
		var tokens []int
		var after []Cut
		for i := 0; i+1 < len(data); i += 2 {
			tokens, after = append(tokens, int(data[i])), append(after, Cut{strength(data[i+1] % 12), uint64(data[i+1] / 12)})
		}
		checkGroups(t, tokens, most, maxTokens, Group(tokens, after, most, maxTokens))
	})
}

// What a text says moves no group; a text more or less moves few.
func TestGroupsStandStill(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 2))
	const n, most = 1000, 12
	tokens, after := make([]int, n), make([]Cut, n)
	for i := range n {
		tokens[i], after[i] = 10+r.IntN(100), Cut{strength(r.IntN(3)), r.Uint64()}
	}
	const room = 110 * most
	ends := Group(tokens, after, most, room)
	changed := slices.Clone(tokens)
	for i := range changed {
		changed[i] = 10 + r.IntN(100)
	}
	if got := Group(changed, after, most, room); !slices.Equal(got, ends) {
		t.Error("other texts of other lengths are in other groups")
	}
	groups := func(after []Cut, ends []int) map[string]bool {
		all, from := map[string]bool{}, 0
		for _, end := range ends {
			all[fmt.Sprint(after[from:end])] = true
			from = end
		}
		return all
	}
	before := groups(after, ends)
	worst := 0
	for i := range 300 {
		at := r.IntN(n)
		edited := slices.Clone(after)
		if i%2 == 0 {
			edited = slices.Insert(edited, at, Cut{strength(r.IntN(3)), r.Uint64()})
		} else {
			edited = slices.Delete(edited, at, at+1)
		}
		moved := 0
		for g := range groups(edited, Group(make([]int, len(edited)), edited, most, room)) {
			if !before[g] {
				moved++
			}
		}
		worst = max(worst, moved)
	}
	t.Logf("of %d groups, a text more or less changes %d at worst", len(ends), worst)
	if worst > 5 {
		t.Errorf("of %d groups, a text more or less changes %d", len(ends), worst)
	}
}
