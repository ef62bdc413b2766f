package document

// Group puts consecutive texts together for the next level of a summary tree: at most most of them, and at most maxTokens where two or more
// are together. It returns where each group ends. after are the cuts after the texts; the cut after a group is that after its last text.
//
// The cuts are those of the document: a group ends before a heading where it can, and what the texts say moves none, unless they are so
// long that fewer of them fit. When every text is alone, len(ends) == len(after), no further level is possible.
func Group(tokens []int, after []Cut, most, maxTokens int) (ends []int) {
	if len(after) == 0 {
		return nil
	}
	at, sums := make([]int, len(after)+1), make([]int, len(after)+1)
	for i, n := range tokens {
		at[i+1], sums[i+1] = i+1, sums[i]+n
	}
	fits := func(from, to int, _ Cut, _ bool) bool { return to-from <= most && sums[to]-sums[from] <= maxTokens }
	newDivider(at, after, 1, most*3/4).divide(0, len(after), fits, func(_, to int) { ends = append(ends, to) })
	return ends
}
