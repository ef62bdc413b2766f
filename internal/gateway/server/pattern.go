package server

import (
	"bytes"
	"regexp"
	"strings"
)

// pattern is something that a policy looks for in text.
type pattern struct {
	name string
	re   *regexp.Regexp
	need string // words without all of which there is no match; "" is nothing
	// valid returns how long the part of a match is that counts, from its start; 0 when none does. nil: all of it.
	valid func(match []byte) int
}

// aDigit needs any digit.
const aDigit = "0-9"

// The built-in patterns. They find forms, not meanings: a number that passes the check of a card's is taken for one.
// Sources: Luhn's check is ISO/IEC 7812-1, that of an IBAN is ISO 13616, numbers never issued are the Social Security
// Administration's; the forms of keys are their issuers' as of November 2026.
var patterns = []*pattern{
	{name: "email", need: "@", re: regexp.MustCompile(`[A-Za-z0-9._%+\-]+@[A-Za-z0-9\-]+(?:\.[A-Za-z0-9\-]+)*\.[A-Za-z]{2,}`)},
	{name: "phone", need: aDigit, valid: phoneNumber, re: regexp.MustCompile(`\+[1-9](?:[ ().\-]{0,2}[0-9]){7,14}\b|(?:\b|\()[2-9][0-9]{2}\)?[ .\-][0-9]{3}[ .\-][0-9]{4}\b`)},
	{name: "credit_card", need: aDigit, valid: cardNumber, re: regexp.MustCompile(`\b[0-9](?:[ \-]?[0-9]){12,18}\b`)},
	{name: "iban", need: aDigit, valid: iban, re: regexp.MustCompile(`\b[A-Z]{2}[0-9]{2}(?: ?[A-Z0-9]){11,30}`)},
	{name: "us_ssn", need: aDigit, valid: socialSecurity, re: regexp.MustCompile(`\b[0-9]{3}-[0-9]{2}-[0-9]{4}\b`)},
	{name: "ipv4", need: aDigit, re: regexp.MustCompile(`\b(?:(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])\.){3}(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])\b`)},

	{name: "aws_key", need: "AKIA ASIA", re: regexp.MustCompile(`\b(?:AKIA|ASIA)[A-Z0-9]{16}\b`)},
	{name: "github_token", need: "gh github_pat_", re: regexp.MustCompile(`\b(?:gh[pousr]_[A-Za-z0-9]{36,255}|github_pat_[A-Za-z0-9_]{22,255})\b`)},
	{name: "openai_key", need: "sk-", re: regexp.MustCompile(`\bsk-[A-Za-z0-9_\-]{20,}`)},
	{name: "slack_token", need: "xox", re: regexp.MustCompile(`\bxox[abeoprs]-[A-Za-z0-9\-]{10,}`)},
	{name: "private_key", need: "-----BEGIN", re: regexp.MustCompile(
		`(?s)-----BEGIN [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----(?:.*?-----END [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----)?`)},
	{name: "jwt", need: "eyJ", re: regexp.MustCompile(`\beyJ[A-Za-z0-9_\-]{8,}\.eyJ[A-Za-z0-9_\-]{8,}\.[A-Za-z0-9_\-]*`)},
}

// Groups of the built-in patterns, for profiles that mean all of a sort.
var patternGroups = map[string][]string{
	"pii":     {"email", "phone", "credit_card", "iban", "us_ssn", "ipv4"},
	"secrets": {"aws_key", "github_token", "openai_key", "slack_token", "private_key", "jwt"},
}

// builtinPatterns returns the patterns of a name or a group; nil when it is neither.
func builtinPatterns(name string) (found []*pattern) {
	names := patternGroups[name]
	if names == nil {
		names = []string{name}
	}
	for _, p := range patterns {
		for _, n := range names {
			if p.name == n {
				found = append(found, p)
			}
		}
	}
	return found
}

// find returns where the matches in a text are, in order and apart.
func (p *pattern) find(text []byte) (at []span) {
	if !p.possible(text) {
		return nil
	}
	for from := 0; from < len(text); {
		m := p.re.FindIndex(text[from:])
		if m == nil {
			return at
		}
		start, end := from+m[0], from+m[1]
		if p.valid != nil {
			end = start + p.valid(text[start:end])
		}
		if end > start {
			at = append(at, span{Start: start, End: end})
			from = end
		} else {
			from = nextWord(text, start)
		}
	}
	return at
}

// nextWord skips the word at i, so that a search begins where a match may.
func nextWord(text []byte, i int) int {
	for i < len(text) && wordByte(text[i]) {
		i++
	}
	return i + 1
}

func wordByte(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z' || c == '_'
}

func (p *pattern) possible(text []byte) bool {
	switch p.need {
	case "":
		return true
	case aDigit:
		return bytes.ContainsAny(text, "0123456789")
	}
	for word := range strings.SplitSeq(p.need, " ") {
		if bytes.Contains(text, []byte(word)) {
			return true
		}
	}
	return false
}

func (p *pattern) placeholder() string { return "[" + strings.ToUpper(p.name) + "]" }

func digits(match []byte) []byte {
	out := make([]byte, 0, len(match))
	for _, c := range match {
		if c >= '0' && c <= '9' {
			out = append(out, c)
		}
	}
	return out
}

// phoneNumber takes 8 to 15 digits after a plus (ITU-T E.164), or ten in the form of North America.
func phoneNumber(match []byte) int {
	if n := len(digits(match)); n < 8 || n > 15 {
		return 0
	}
	return len(match)
}

func cardNumber(match []byte) int {
	d := digits(match)
	sum, same := 0, true
	for i := range d {
		n := int(d[len(d)-1-i] - '0')
		if i%2 == 1 {
			if n *= 2; n > 9 {
				n -= 9
			}
		}
		sum += n
		same = same && d[i] == d[0]
	}
	if sum%10 != 0 || same {
		return 0
	}
	return len(match)
}

// ibanLength is how long an IBAN is by its country, from the registry of ISO 13616.
var ibanLength = func() map[string]int {
	m := map[string]int{}
	for s := range strings.FieldsSeq(`AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BR29 BY28 CH21 CR22 CY28 CZ24 DE22 DK18 DO28 EE20 EG29
		ES24 FI18 FO18 FR27 GB22 GE22 GI23 GL18 GR27 GT28 HR21 HU28 IE22 IL23 IQ23 IS26 IT27 JO30 KW30 KZ20 LB28 LC32 LI21 LT20 LU20 LV21
		LY25 MC27 MD24 ME22 MK19 MR27 MT31 MU30 NL18 NO15 PK24 PL28 PS29 PT25 QA29 RO24 RS22 SA24 SC31 SE24 SI19 SK24 SM27 ST25 SV28 TL23
		TN24 TR26 UA29 VA22 VG24 XK20`) {
		m[s[:2]] = int(s[2]-'0')*10 + int(s[3]-'0')
	}
	return m
}()

func iban(match []byte) int {
	want := ibanLength[string(match[:2])]
	letters, end := make([]byte, 0, 34), 0
	for i, c := range match {
		if c == ' ' {
			continue
		}
		if letters = append(letters, c); len(letters) == want {
			end = i + 1
			break
		}
	}
	if end == 0 || end < len(match) && match[end] != ' ' {
		return 0
	}
	rest := 0
	for _, c := range append(letters[4:len(letters):len(letters)], letters[:4]...) {
		if c >= 'A' {
			rest = (rest*100 + int(c-'A') + 10) % 97
		} else {
			rest = (rest*10 + int(c-'0')) % 97
		}
	}
	if rest != 1 {
		return 0
	}
	return end
}

func socialSecurity(match []byte) int {
	area := string(match[:3])
	if area == "000" || area == "666" || area[0] == '9' || string(match[4:6]) == "00" || string(match[7:]) == "0000" {
		return 0
	}
	return len(match)
}
