package document

// Group puts consecutive texts together, at least two to a group where they fit, for the next level of a summary
// tree: it returns the indexes of each group's texts, in order, every index once. The counts of the texts of a group
// add up to at most maxTokens, unless a single text has more. Separators and instructions are the caller's to take
// off beforehand.
//
// Like [Split] it chooses by content where a group ends, so that a text that changes moves few of the others into
// another group. When every text is alone, len(groups) == len(texts), no two neighbours fit: a smaller answer or a
// larger maxTokens is needed to get on.
func Group(texts []string, maxTokens int, count func(string) int) [][]int {
	maxTokens = max(maxTokens, 1)
	tokens := make([]int, len(texts))
	for i, text := range texts {
		tokens[i] = count(text)
	}
	var groups [][]int
	for from := 0; from < len(texts); {
		to := groupEnd(texts, tokens, from, maxTokens)
		group := make([]int, 0, to-from)
		for i := from; i < to; i++ {
			group = append(group, i)
		}
		groups = append(groups, group)
		from = to
	}
	return groups
}

// groupEnd returns where the group that begins at from ends: among the ends that leave it two texts and a third of
// maxTokens, the one after the text with the highest hash. It avoids an end that leaves the text after it alone.
func groupEnd(texts []string, tokens []int, from, maxTokens int) int {
	to, sum := from+1, tokens[from]
	for to < len(texts) && sum+tokens[to] <= maxTokens {
		sum += tokens[to]
		to++
	}
	if to == len(texts) || to <= from+2 {
		return to
	}
	best, bestFriendly, highest := to, false, uint64(0)
	sum = tokens[from]
	for end := from + 2; end <= to; end++ {
		sum += tokens[end-1]
		if sum < maxTokens/3 && end < to {
			continue
		}
		friendly := end+1 < len(texts) && tokens[end]+tokens[end+1] <= maxTokens
		h := hash(texts[end-1])
		if friendly && !bestFriendly || friendly == bestFriendly && h >= highest {
			best, bestFriendly, highest = end, friendly, h
		}
	}
	return best
}
