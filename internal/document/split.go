package document

// Sizes bound a chunk, in tokens. What is 0 has its default.
type Sizes struct {
	Max    int // no chunk has more, but for a single character that has; at least 1
	Target int // a part of the text that has more is divided at a heading, if there is one in it; default three quarters of Max
	Min    int // no cut leaves less on either side while another is possible; default a quarter of Max, at most half of it
}

func (s Sizes) complete() Sizes {
	s.Max = max(s.Max, 1)
	if s.Target <= 0 {
		s.Target = s.Max * 3 / 4
	}
	if s.Min <= 0 {
		s.Min = s.Max / 4
	}
	return Sizes{Max: s.Max, Target: min(s.Target, s.Max), Min: min(s.Min, s.Max/2)}
}

// Chunk is a part of a text: Text is text[Start:End], in bytes.
type Chunk struct {
	Start, End int
	Text       string
	Tokens     int // as counted
	After      Cut // where it ends
}

// Split cuts a text into chunks. The chunks joined are the text, byte for byte; no chunk is empty. A text of at most sizes.Max tokens without
// headings is one chunk.
//
// A text that is too long is cut at its best place, and each of its parts likewise, until they fit. The best place is before a heading (the
// higher the better), else between paragraphs, between sentences, between lines, between phrases, between words, between characters;
// among equals a hash of the text that follows decides. So whether a place is a cut depends on the text around it, as far as the nearest
// better place on either side, and on nothing before or behind.
//
// count may be any measure of tokens; it is called a few times for each byte of the text, on substrings of it. It should be nearly additive;
// if it isn't, Max holds all the same and chunks may be smaller.
func Split(text string, sizes Sizes, count func(string) int) []Chunk {
	s := splitter{text: text, count: count, sizes: sizes.complete(), tokens: []int{0}}
	s.units()
	if len(s.ends) == 0 {
		return nil
	}
	var chunks []Chunk
	divider := newDivider(s.tokens, s.cuts, s.sizes.Min, s.sizes.Target)
	divider.divide(0, len(s.ends), s.fits, func(from, to int) {
		c := Chunk{Start: s.start(from), End: s.ends[to-1], Tokens: s.counted, After: s.cuts[to-1]}
		if to-from == 1 {
			c.Tokens = s.tokens[to] - s.tokens[from]
		}
		c.Text = text[c.Start:c.End]
		chunks = append(chunks, c)
	})
	return chunks
}

// splitter divides a text into units, which are not cut, and puts them together to chunks.
type splitter struct {
	text  string
	count func(string) int
	sizes Sizes

	ends    []int // of the units: offsets in the text
	tokens  []int // of all units before each, and of all
	cuts    []Cut // after each unit
	counted int   // tokens of what was last found to fit
}

func (s *splitter) start(unit int) int {
	if unit == 0 {
		return 0
	}
	return s.ends[unit-1]
}

// fits reports whether units stay together.
func (s *splitter) fits(from, to int, best Cut, allowed bool) bool {
	tokens := s.tokens[to] - s.tokens[from]
	if tokens > s.sizes.Max || tokens > s.sizes.Target && allowed && best.strength >= beforeHeading {
		return false
	}
	s.counted = s.count(s.text[s.start(from):s.ends[to-1]]) // the parts may count less than the whole
	return s.counted <= s.sizes.Max
}
