package document

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/clipperhouse/uax29/v2/sentences"
	"github.com/clipperhouse/uax29/v2/words"

	"batchwright/internal/abbrev"
)

// units divides the text into units. A unit has at most half of the tokens that a chunk may have, so that few cuts are forced.
func (s *splitter) units() {
	for b := nextBlock(s.text, 0); b.start < len(s.text); {
		next := nextBlock(s.text, b.end)
		s.addBlock(b, boundary(b, next))
		b = next
	}
	for i := range s.cuts {
		s.cuts[i].hash = following(s.text, s.ends[i], s.cuts[i].strength)
	}
}

// following hashes the text that follows a boundary, of a heading nothing but that: what is edited before a boundary, or below a heading,
// leaves the hash as it is.
func following(text string, at int, s strength) uint64 {
	const reach = 64 // bytes
	next := text[at:min(at+reach, len(text))]
	if s >= beforeHeading {
		next = next[:nextLine(next, 0)]
	}
	return hash(next)
}

// largest is how many tokens a unit may have.
func (s *splitter) largest() int { return max(s.sizes.Max/2, 1) }

// add makes a unit. It begins where the one before it ends.
func (s *splitter) add(end, tokens int, after strength) {
	s.ends, s.cuts = append(s.ends, end), append(s.cuts, Cut{strength: after})
	s.tokens = append(s.tokens, s.tokens[len(s.tokens)-1]+tokens)
}

// addWhole makes one unit of a part of the text if it has at most so many tokens. What is long enough to have more isn't counted: as several
// units it does no harm.
func (s *splitter) addWhole(start, end, most int, after strength) bool {
	const longToken = 8 // bytes
	if end-start > most*longToken && end-start > utf8.UTFMax {
		return false
	}
	tokens := s.count(s.text[start:end])
	if tokens > most {
		return false
	}
	s.add(end, tokens, after)
	return true
}

// end says what kind of boundary lies behind the units so far.
func (s *splitter) end(after strength) { s.cuts[len(s.cuts)-1].strength = after }

// addBlock makes the units of a block: the block itself if a chunk that small would do, else its sentences, and what is too large of these its
// pieces. after is the strength of the boundary at its end.
func (s *splitter) addBlock(b block, after strength) {
	if s.addWhole(b.start, b.end, max(s.sizes.Min, 1), after) {
		return
	}
	for from := b.start; from < b.end; {
		to := from + safeForSentences(s.text[from:b.end])
		s.addSentences(from, to)
		from = to
	}
	s.end(after)
}

// longestGap is how many characters in a row, none a letter, digit or newline, are given to the sentence rules. They
// look ahead from each bracket, quote or space that follows a period, over all that come after it: a million spaces
// would take hours.
const longestGap = 64

// safeForSentences returns how much of s, at its beginning, has no longer gap.
func safeForSentences(s string) int {
	gap := 0
	for i, r := range s {
		switch {
		case 'a' <= r && r <= 'z' || r == '\n' || unicode.IsLetter(r) || unicode.IsDigit(r):
			gap = 0
		case gap == longestGap:
			return i
		default:
			gap++
		}
	}
	return len(s)
}

// addSentences makes the units of part of a block.
func (s *splitter) addSentences(start, end int) {
	from := start
	for parts := sentences.FromString(s.text[start:end]); parts.Next(); {
		to := start + parts.End()
		if to < end && blankLine(s.text[to:end]) {
			continue // white space goes with what is before it
		}
		s.addSentence(from, to)
		from = to
	}
}

// addSentence makes the units of a sentence or line.
func (s *splitter) addSentence(start, end int) {
	part := s.text[start:end]
	after := sentenceStrength(part)
	if s.addWhole(start, end, s.largest(), after) {
		return
	}
	// Words, put together to pieces whose ends depend on the words alone, so that counting them is not too coarse.
	piece := start
	for parts := words.FromString(part); parts.Next(); {
		at := start + parts.End()
		if at < end && (space(s.text[at]) || !endsPiece(s.text, piece, at)) {
			continue
		}
		s.addPiece(piece, at)
		piece = at
	}
	s.end(after)
}

// Pieces are some eight words long, and no longer than 256 bytes where there is a word to end with.
const (
	meanPiece    = 8   // words
	longestPiece = 256 // bytes
)

func endsPiece(text string, start, at int) bool {
	return at-start >= longestPiece || hash(text[max(at-8, start):at])%meanPiece == 0 || pieceStrength(text[start:at]) == betweenPhrases
}

// pieceStrength tells words that end a phrase. In scripts without spaces between words (Thai, Lao, Khmer, Burmese), a space does.
func pieceStrength(s string) strength {
	trimmed := strings.TrimRight(s, " \t\r\n")
	switch last, _ := utf8.DecodeLastRuneInString(trimmed); {
	case strings.ContainsRune(",;:，；：、،؛", last) && (last > utf8.RuneSelf || trimmed != s),
		trimmed != s && last > utf8.RuneSelf && unicode.In(last, unicode.Thai, unicode.Lao, unicode.Khmer, unicode.Myanmar):
		return betweenPhrases
	}
	return betweenWords
}

// addPiece makes the units of some words: one, else words, else characters.
func (s *splitter) addPiece(start, end int) {
	if s.addWhole(start, end, s.largest(), pieceStrength(s.text[start:end])) {
		return
	}
	from := start
	for parts := words.FromString(s.text[start:end]); parts.Next(); {
		at := start + parts.End()
		s.addWord(from, at)
		from = at
	}
}

// addWord makes the units of one word: one, else runs of characters whose ends depend on the characters alone, else
// characters.
func (s *splitter) addWord(start, end int) {
	if s.addWhole(start, end, s.largest(), betweenWords) {
		return
	}
	from := start
	for at := start; at < end; {
		_, size := utf8.DecodeRuneInString(s.text[at:end])
		at += size
		if at < end && !endsRun(s.text[:end], from, at) {
			continue
		}
		s.addRun(from, at)
		from = at
	}
	s.end(betweenWords)
}

// Runs are some 32 characters long, and no longer than 256 bytes.
const meanRun = 32

func endsRun(text string, start, at int) bool {
	if at-start >= longestPiece {
		return true
	}
	if hash(text[max(at-8, start):at])%meanRun != 0 {
		return false
	}
	next, _ := utf8.DecodeRuneInString(text[at:])
	return !unicode.Is(unicode.M, next) && next != '\u200d'
}

func (s *splitter) addRun(start, end int) {
	if s.addWhole(start, end, s.largest(), insideWord) {
		return
	}
	for at := start; at < end; {
		_, size := utf8.DecodeRuneInString(s.text[at:end])
		s.add(at+size, s.count(s.text[at:at+size]), insideWord)
		at += size
	}
}

// sentenceStrength tells a sentence that ends from a line that just breaks.
func sentenceStrength(s string) strength {
	trimmed := strings.TrimRightFunc(s, func(r rune) bool {
		return unicode.IsSpace(r) || unicode.In(r, unicode.Pe, unicode.Pf, unicode.Po) && !terminal(r)
	})
	last, _ := utf8.DecodeLastRuneInString(trimmed)
	if last == '.' && abbrev.Ends(trimmed) {
		return betweenWords
	}
	if terminal(last) || strings.HasSuffix(strings.TrimRight(s, " \t"), "\n\n") {
		return betweenSentences
	}
	return betweenLines
}

func terminal(r rune) bool { return r == '.' || unicode.Is(unicode.Sentence_Terminal, r) }

func space(c byte) bool { return c == ' ' || c == '\t' || c == '\n' || c == '\r' }

// blank reports whether s is only white space.
func blank(s string) bool {
	for i := range len(s) {
		if !space(s[i]) {
			return false
		}
	}
	return true
}

// blankLine reports whether the line that s begins with is only white space.
func blankLine(s string) bool {
	i := 0
	for i < len(s) && s[i] != '\n' && space(s[i]) {
		i++
	}
	return i == len(s) || s[i] == '\n'
}
