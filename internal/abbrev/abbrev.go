// Package abbrev knows full stops that end no sentence, which the Unicode rules (UAX 29) can't tell.
package abbrev

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// The abbreviations that a name or a number follows. Single letters need no entry. A sentence that ends in one of them is
// joined to the next, which does less harm than a broken one.
var abbreviations = map[string]bool{
	"mr": true, "mrs": true, "ms": true, "dr": true, "prof": true, "st": true, "sr": true, "jr": true, "no": true,
	"nr": true, "fig": true, "vol": true, "art": true, "sec": true, "vs": true, "approx": true, "al": true, "cf": true,
	"e.g": true, "i.e": true, "z.b": true, "u.s": true, "u.k": true, "bzw": true, "ca": true, "mme": true, "m": true,
	"sra": true, "col": true, "gen": true, "lt": true, "sgt": true, "capt": true, "rev": true, "hon": true, "messrs": true,
}

// Ends reports whether s ends in a full stop that most likely doesn't end a sentence.
func Ends(s string) bool {
	body, ok := strings.CutSuffix(s, ".")
	if !ok {
		return false
	}
	word := body[strings.LastIndexFunc(body, func(r rune) bool { return unicode.IsSpace(r) || r == '(' })+1:]
	r, size := utf8.DecodeRuneInString(word)
	switch {
	case size == len(word) && (unicode.IsUpper(r) || unicode.IsLower(r)):
		return true // an initial, or a part of "z. B."
	case len(word) <= 2 && strings.Trim(word, "0123456789") == "":
		return word != "" // a day, as in "3. Mai"
	}
	return abbreviations[strings.ToLower(word)]
}
