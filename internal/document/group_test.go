package document

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func size(s string) int { return len(s) }

func TestGroup(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		sizes     []int
		maxTokens int
		want      string
	}{
		{nil, 10, "[]"},
		{[]int{5}, 10, "[[0]]"},
		{[]int{5, 5}, 10, "[[0 1]]"},
		{[]int{5, 6}, 10, "[[0] [1]]"},
		{[]int{20, 3, 3}, 10, "[[0] [1 2]]"},
		{[]int{3, 3, 3, 7}, 10, "[[0 1] [2 3]]"}, // not [0 1 2] and 3 alone
		{[]int{5, 5, 5}, 10, "[[0 1] [2]]"},
		{[]int{5, 5, 5, 5}, 10, "[[0 1] [2 3]]"},
		{[]int{1, 1, 1}, 0, "[[0] [1] [2]]"},
		{[]int{0, 0, 0}, 0, "[[0 1 2]]"},
	} {
		var texts []string
		for _, n := range c.sizes {
			texts = append(texts, strings.Repeat("x", n))
		}
		if got := fmt.Sprint(Group(texts, c.maxTokens, size)); got != c.want {
			t.Errorf("%v in %d: got %s, want %s", c.sizes, c.maxTokens, got, c.want)
		}
	}
}

func TestGroupKeepsOrderAndBounds(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		texts := rapid.SliceOfN(rapid.StringN(0, 30, 40), 0, 60).Draw(t, "texts")
		maxTokens := rapid.IntRange(1, 200).Draw(t, "max")
		next, single := 0, -2
		for g, group := range Group(texts, maxTokens, size) {
			sum := 0
			for _, i := range group {
				if i != next {
					t.Fatalf("text %d comes where %d is due", i, next)
				}
				next++
				sum += size(texts[i])
			}
			if len(group) == 0 || len(group) > 1 && sum > maxTokens {
				t.Fatalf("group %v has %d tokens", group, sum)
			}
			if len(group) == 1 {
				if single == g-1 && size(texts[group[0]-1])+sum <= maxTokens {
					t.Fatalf("texts %d and %d are alone and fit together", group[0]-1, group[0])
				}
				single = g
			}
		}
		if next != len(texts) {
			t.Fatalf("%d of %d texts are in groups", next, len(texts))
		}
	})
}

func TestAChangedTextMovesFewGroups(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 2))
	var texts []string
	for range 1000 {
		texts = append(texts, word(r)+strings.Repeat(" "+word(r), 20+r.IntN(20)))
	}
	contents := func(texts []string) map[string]bool {
		all := map[string]bool{}
		for _, group := range Group(texts, 2000, size) {
			var b strings.Builder
			for _, i := range group {
				b.WriteString(texts[i] + "\n")
			}
			all[b.String()] = true
		}
		return all
	}
	before := contents(texts)
	total, worst := 0, 0
	const edits = 100
	for i := range edits {
		at := r.IntN(len(texts))
		edited := slices.Clone(texts)
		switch i % 3 {
		case 0:
			edited[at] = word(r) + " is another summary"
		case 1:
			edited = slices.Insert(edited, at, word(r))
		case 2:
			edited = slices.Delete(edited, at, at+1)
		}
		changed := 0
		for group := range contents(edited) {
			if !before[group] {
				changed++
			}
		}
		total, worst = total+changed, max(worst, changed)
	}
	t.Logf("%d groups; an edit changes %.2f on average, %d at worst", len(before), float64(total)/edits, worst)
	if float64(total)/edits > 2.5 || worst > 12 {
		t.Errorf("an edit changes %.2f groups on average, %d at worst", float64(total)/edits, worst)
	}
}
