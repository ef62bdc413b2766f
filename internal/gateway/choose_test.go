package gateway

import (
	"fmt"
	"math"
	"slices"
	"testing"
)

func TestChooseSharesTheLoadByWeight(t *testing.T) {
	t.Parallel()
	branches := []Branch{{}, {Weight: 3}, {Weight: 1}, {}}
	const n = 20_000
	first := 0
	for i := range n {
		got := Choose(branches, Subject{Key: fmt.Append(nil, "job ", i)})
		if len(got) != 4 || got[0] != 0 || got[3] != 3 {
			t.Fatalf("order %v: steps without a weight must keep their places", got)
		}
		if got[1] == 1 {
			first++
		}
	}
	if share := float64(first) / n; math.Abs(share-0.75) > 0.02 {
		t.Errorf("the weight 3 of 4 was first in %.3f of all", share)
	}
}

func TestChooseGivesEachPercentageItsOwnShare(t *testing.T) {
	t.Parallel()
	branches := []Branch{{Percent: 10}, {Percent: 20}, {}}
	const n = 20_000
	count := map[string]int{}
	for i := range n {
		count[fmt.Sprint(Choose(branches, Subject{Key: fmt.Append(nil, i)}))]++
	}
	for order, want := range map[string]float64{"[0 2]": 0.1, "[1 2]": 0.2, "[2]": 0.7} {
		if share := float64(count[order]) / n; math.Abs(share-want) > 0.01 {
			t.Errorf("%s got %.3f, want %.1f", order, share, want)
		}
	}
	if len(count) != 3 {
		t.Errorf("orders %v", count)
	}
}

func TestChooseIsStableByKey(t *testing.T) {
	t.Parallel()
	branches := []Branch{{Percent: 50}, {Weight: 1}, {Weight: 1}, {Weight: 1}}
	for i := range 100 {
		s := Subject{Key: fmt.Append(nil, i), InputTokens: i}
		if a, b := Choose(branches, s), Choose(branches, s); !slices.Equal(a, b) {
			t.Fatalf("key %d drew %v and %v", i, a, b)
		}
	}
}

func TestChooseByCondition(t *testing.T) {
	t.Parallel()
	branches := []Branch{
		{When: &Condition{MaxInputTokens: 100}},
		{When: &Condition{MinInputTokens: 50, Metadata: map[string]string{"plan": "free"}}},
		{},
	}
	tests := []struct {
		tokens int
		plan   string
		want   []int
	}{
		{0, "", []int{0, 2}}, {100, "free", []int{0, 1, 2}}, {101, "free", []int{1, 2}}, {49, "free", []int{0, 2}}, {101, "paid", []int{2}},
	}
	for _, tt := range tests {
		s := Subject{InputTokens: tt.tokens}
		if tt.plan != "" {
			s.Metadata = map[string]string{"plan": tt.plan}
		}
		if got := Choose(branches, s); !slices.Equal(got, tt.want) {
			t.Errorf("%d tokens, plan %q: %v, want %v", tt.tokens, tt.plan, got, tt.want)
		}
	}
}

func TestCheckBranches(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name     string
		branches []Branch
		bad      int // -1: fine
	}{
		{"none", []Branch{{}}, -1},
		{"weights", []Branch{{Weight: 1}, {Weight: 2}}, -1},
		{"a full hundred", []Branch{{Percent: 60}, {Percent: 40}}, -1},
		{"a canary", []Branch{{Percent: 5}, {}}, -1},
		{"negative weight", []Branch{{}, {Weight: -1}}, 1},
		{"not a number", []Branch{{Weight: math.NaN()}}, 0},
		{"over a hundred", []Branch{{Percent: 60}, {Percent: 60}, {}}, 1},
		{"both", []Branch{{Percent: 6, Weight: 1}, {}}, 0},
		{"some without a step", []Branch{{Percent: 60}, {Percent: 20}}, 1},
		{"a full hundred, some of it on a condition", []Branch{{Percent: 60}, {Percent: 40, When: &Condition{MinInputTokens: 5}}}, 1},
		{"a full hundred beside a condition", []Branch{{When: &Condition{MinInputTokens: 5}}, {Percent: 60}, {Percent: 40}}, -1},
		{"only conditions", []Branch{{When: &Condition{MinInputTokens: 5}}}, 0},
		{"an empty condition", []Branch{{When: &Condition{}}, {}}, 0},
		{"an empty range", []Branch{{When: &Condition{MinInputTokens: 5, MaxInputTokens: 4}}, {}}, 0},
	}
	for _, tt := range tests {
		i, err := CheckBranches(tt.branches)
		if (err == nil) != (tt.bad < 0) || err != nil && (i != tt.bad || ClassOf(err) != InvalidRequest) {
			t.Errorf("%s: %d, %v; want %d", tt.name, i, err, tt.bad)
		}
	}
}
