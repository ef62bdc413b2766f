package prompt

// EstimateTokens guesses how many tokens a text is, and leans high: it is for limits and reservations, where too few
// is an error and too many is only waste. For prose, code and tables in English, German and French it is 15 to 50 %
// above the vocabulary o200k, for languages that only newer vocabularies hold well up to three times; random letters,
// as in base64, come out a tenth below. The tests pin it to known counts.
//
// The rule, in one pass without a table of words:
//
//   - ASCII letters: a run, cut before an upper-case letter that follows a lower-case one, is a token for each four
//     letters begun. Two or more upper-case letters in a row are a token for each two begun.
//   - Digits: a token for each two begun, and one for a single space before them.
//   - White space: a single space belongs to the word after it, anything else is a token a run and one for each 16.
//   - Punctuation: a token; a quarter when it repeats one of .-=*_#~ as in a line of dashes.
//   - Letters of other alphabets: Cyrillic 5/8, everything else below U+0800 one, Hangul one and a half, everything
//     else in the basic plane (Han, kana, Indic, Thai) one and a quarter, beyond it (emoji) three.
//   - A byte that isn't UTF-8 is a token.
//
// It takes two nanoseconds a byte or so: an automaton, because branches on the letters of a text can't be predicted.
func EstimateTokens(s string) int {
	sum := 0
	at := uint16(stateStart << classBits)
	for i := range len(s) {
		step := automaton[(at|uint16(classes[s[i]]))%uint16(len(automaton))]
		sum += int(step >> costShift)
		at = step & stateMask
	}
	return (sum + oneToken - 1) / oneToken
}

// A step of the automaton packs a cost, in 16ths of a token, above the state that follows, which is shifted to make
// room for the class of the next byte.
const (
	oneToken  = 16
	classBits = 5
	stateBits = 5
	costShift = classBits + stateBits
	stateMask = (1<<stateBits - 1) << classBits
)

// class is what kind of byte it is. The marks that are cheap to repeat have one each.
type class uint8

const (
	classMark class = iota
	classLower
	classUpper
	classDigit
	classSpace
	classBreak // white space other than the space
	classTail  // a byte within a UTF-8 sequence
	classLetter2
	classCyrillic
	classLetter3
	classHangul
	classBeyond
	classInvalid
	classRepeat // and up: one of repeatable
)

const repeatable = ".-=*_#~"

var classes = func() (t [256]class) {
	set := func(from, to int, c class) {
		for b := from; b <= to; b++ {
			t[b] = c
		}
	}
	set('a', 'z', classLower)
	set('A', 'Z', classUpper)
	set('0', '9', classDigit)
	set('\t', '\r', classBreak)
	t[' '] = classSpace
	set(0x80, 0xbf, classTail)
	set(0xc0, 0xff, classInvalid)
	set(0xc2, 0xdf, classLetter2)
	set(0xd0, 0xd3, classCyrillic) // U+0400 to U+04FF
	set(0xe0, 0xef, classLetter3)
	set(0xea, 0xed, classHangul) // U+A000 to U+DFFF
	set(0xf0, 0xf4, classBeyond)
	for i := range len(repeatable) {
		t[repeatable[i]] = classRepeat + class(i)
	}
	return t
}()

// The states of the automaton: what the bytes before were.
const (
	stateStart  = iota // also after punctuation and after a whole UTF-8 sequence
	stateLower1        // letters of a run, modulo four
	stateLower2
	stateLower3
	stateLower4
	stateUpper1 // one upper-case letter
	stateUpper2 // two, or another even number of them
	stateUpper3 // three, or another odd number of them
	stateDigit1
	stateDigit2
	stateSpace // one space
	stateGap   // other white space
	stateTail1 // bytes of a UTF-8 sequence to come
	stateTail2
	stateTail3
	stateRepeat // and up: after one of repeatable
	states      = stateRepeat + len(repeatable)
)

var automaton = func() (t [1 << (stateBits + classBits)]uint16) {
	for state := range states {
		for c := range classRepeat + class(len(repeatable)) {
			next, cost := transition(state, c)
			t[state<<classBits|int(c)] = uint16(cost<<costShift | next<<classBits)
		}
	}
	return t
}()

func transition(state int, c class) (next, cost int) {
	switch c {
	case classLower:
		switch state {
		case stateLower1, stateLower2, stateLower3:
			return state + 1, 0
		case stateUpper1:
			return stateLower2, 0
		}
		return stateLower1, oneToken
	case classUpper:
		switch state {
		case stateUpper1, stateUpper3:
			return stateUpper2, 0
		case stateUpper2:
			return stateUpper3, oneToken
		}
		return stateUpper1, oneToken
	case classDigit:
		switch state {
		case stateDigit1:
			return stateDigit2, 0
		case stateSpace:
			return stateDigit1, 2 * oneToken
		}
		return stateDigit1, oneToken
	case classSpace:
		switch state {
		case stateSpace:
			return stateGap, oneToken
		case stateGap:
			return stateGap, 1
		}
		return stateSpace, 0
	case classBreak:
		if state == stateGap {
			return stateGap, 1
		}
		return stateGap, oneToken
	case classTail:
		switch state {
		case stateTail1:
			return stateStart, 0
		case stateTail2, stateTail3:
			return state - 1, 0
		}
		return stateStart, oneToken
	case classLetter2:
		return stateTail1, oneToken
	case classCyrillic:
		return stateTail1, oneToken * 5 / 8
	case classLetter3:
		return stateTail2, oneToken * 5 / 4
	case classHangul:
		return stateTail2, oneToken * 3 / 2
	case classBeyond:
		return stateTail3, oneToken * 3
	case classMark, classInvalid:
		return stateStart, oneToken
	}
	own := stateRepeat + int(c-classRepeat)
	if state == own {
		return own, oneToken / 4
	}
	return own, oneToken
}
