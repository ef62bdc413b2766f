package document

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/clipperhouse/uax29/v2/sentences"
	"github.com/clipperhouse/uax29/v2/words"
)

// addBlock makes the units of a block: the block itself if it is small enough, else its sentences, and what is too
// large of these its pieces. after is the strength of the boundary at its end.
func (s *splitter) addBlock(b block, after strength) {
	if tokens := s.count(s.text[b.start:b.end]); tokens <= s.largest {
		s.units = append(s.units, unit{end: b.end, tokens: tokens, after: after})
		return
	}
	for from := b.start; from < b.end; {
		to := from + safeForSentences(s.text[from:b.end])
		s.addSentences(from, to)
		from = to
	}
	s.units[len(s.units)-1].after = after
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
	if tokens := s.count(part); tokens <= s.largest {
		s.units = append(s.units, unit{end: end, tokens: tokens, after: after})
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
	s.units[len(s.units)-1].after = after
}

// Pieces are some eight words long, and no longer than 256 bytes where there is a word to end with.
const (
	meanPiece    = 8   // words
	longestPiece = 256 // bytes
)

func endsPiece(text string, start, at int) bool {
	return at-start >= longestPiece || hash(text[max(at-8, start):at])%meanPiece == 0
}

// addPiece makes the units of some words: one, else words, else characters.
func (s *splitter) addPiece(start, end int) {
	if tokens := s.count(s.text[start:end]); tokens <= s.largest {
		s.units = append(s.units, unit{end: end, tokens: tokens, after: betweenWords})
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
	if tokens := s.count(s.text[start:end]); tokens <= s.largest {
		s.units = append(s.units, unit{end: end, tokens: tokens, after: betweenWords})
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
	s.units[len(s.units)-1].after = betweenWords
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
	if tokens := s.count(s.text[start:end]); tokens <= s.largest {
		s.units = append(s.units, unit{end: end, tokens: tokens})
		return
	}
	for at := start; at < end; {
		_, size := utf8.DecodeRuneInString(s.text[at:end])
		s.units = append(s.units, unit{end: at + size, tokens: s.count(s.text[at : at+size])})
		at += size
	}
}

// sentenceStrength tells a sentence that ends from a line that just breaks.
func sentenceStrength(s string) strength {
	trimmed := strings.TrimRightFunc(s, func(r rune) bool {
		return unicode.IsSpace(r) || unicode.In(r, unicode.Pe, unicode.Pf, unicode.Po) && !terminal(r)
	})
	last, _ := utf8.DecodeLastRuneInString(trimmed)
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
