package document

// Chunk is a part of a text: Text is text[Start:End], in bytes.
type Chunk struct {
	Start, End int
	Text       string
}

// Split cuts a text into chunks of at most maxTokens by count. The chunks joined are the text, byte for byte; no chunk
// is empty. Only a chunk of a single character may count more than maxTokens. A maxTokens below 1 is 1.
//
// A chunk ends, in order of preference, before a heading (the higher the better), between paragraphs, between
// sentences, between lines, between words, between characters. Among equals a hash of the text around the boundary
// decides, so that the same passage is cut at the same place whatever comes before it: after an edit the boundaries
// are the old ones again within a few chunks. Chunks are between a third and all of maxTokens, except the last.
//
// count may be any estimate of tokens; it is called a constant number of times for each byte of the text, on
// substrings of it. It should be monotonic and nearly additive; if it isn't, the bound holds all the same and chunks
// may be smaller.
func Split(text string, maxTokens int, count func(string) int) []Chunk {
	maxTokens = max(maxTokens, 1)
	s := splitter{text: text, count: count, smallest: maxTokens / 3}
	s.largest = max(maxTokens-s.smallest, 1)
	s.next = nextBlock(text, 0)
	var chunks []Chunk
	for from := 0; from < len(text); {
		n := s.cut(from, maxTokens)
		to := s.units[n-1].end
		chunks = append(chunks, Chunk{Start: from, End: to, Text: text[from:to]})
		s.units = s.units[n:]
		from = to
	}
	return chunks
}

// unit is a part of the text that isn't cut. It begins where the unit before it ends.
type unit struct {
	end    int // offset in the text
	tokens int
	after  strength // of the boundary at end
}

// strength says how good a place to cut a boundary is.
type strength uint8

const (
	insideWord strength = iota
	betweenWords
	betweenLines // or between a heading and what it heads
	betweenSentences
	betweenParagraphs
	beforeHeading // of level 6; up to beforeHeading+5 for level 1
)

// splitter turns a text into units as they are needed. A unit has at most largest tokens, so that wherever a chunk
// begins, some boundary lies between smallest and maxTokens.
type splitter struct {
	text              string
	count             func(string) int
	smallest, largest int

	units []unit // made and not yet in a chunk
	next  block  // the first that isn't turned into units
}

// more makes the units of another block; false at the end of the text.
func (s *splitter) more() bool {
	current := s.next
	if current.start == len(s.text) {
		return false
	}
	s.next = nextBlock(s.text, current.end)
	s.addBlock(current, boundary(current, s.next))
	return true
}

// cut returns how many units make the chunk that begins at from.
func (s *splitter) cut(from, maxTokens int) int {
	limit := maxTokens
	for {
		n, whole := s.fill(limit)
		if !whole {
			n = s.best(n, s.smallest*limit/maxTokens)
		}
		if n == 1 {
			return 1
		}
		tokens := s.count(s.text[from:s.units[n-1].end])
		if tokens <= maxTokens {
			return n
		}
		// The parts count less than the whole: aim lower.
		limit = min(limit-1, limit*maxTokens/tokens)
	}
}

// fill returns how many units add up to at most limit tokens, one at least, and whether they are all that is left.
func (s *splitter) fill(limit int) (n int, whole bool) {
	tokens := 0
	for {
		if n == len(s.units) && !s.more() {
			return n, true
		}
		tokens += s.units[n].tokens
		if tokens > limit && n > 0 {
			return n, false
		}
		n++
	}
}

// best returns how many of the first n units a chunk should have: up to the best boundary after smallest tokens.
func (s *splitter) best(n, smallest int) int {
	best, strongest, highest := n, -1, uint64(0)
	tokens := 0
	for i, u := range s.units[:n] {
		tokens += u.tokens
		if tokens < smallest || int(u.after) < strongest {
			continue
		}
		h := around(s.text, u.end)
		if int(u.after) > strongest || h >= highest {
			best, strongest, highest = i+1, int(u.after), h
		}
	}
	return best
}

// around hashes the text on both sides of a boundary.
func around(text string, at int) uint64 {
	const reach = 32 // bytes
	return hash(text[max(at-reach, 0):min(at+reach, len(text))])
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
