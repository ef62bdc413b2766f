package prompt

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// Finding is what a template could do better. It doesn't keep the template from being used.
type Finding struct {
	Code     string
	Severity string // SeverityWarning or SeverityNote
	Field    string // as in [Error]
	Line     int    // of that field's text, from 1; 0 when there is none to name
	Message  string
}

// Severities of a finding.
const (
	SeverityWarning = "warning" // it likely costs money or quality
	SeverityNote    = "note"    // it may be meant
)

// CacheMinimum is the shortest prefix that a prompt cache keeps.
type CacheMinimum struct {
	Name   string // whose: "anthropic:claude-opus-5"
	Tokens int
}

// usualMinimum stands in while nobody says where a template's requests go.
var usualMinimum = []CacheMinimum{{"most providers", 1024}}

// Lint looks for what spoils caches and for what spoils answers. minimums are those of the models that will be asked, nil when they aren't
// known. What is in the examples is data, so dates and ids in them are not looked for.
//
// Other mistakes, such as a variable that nothing uses, are errors of [Compile].
func (t *Template) Lint(minimums []CacheMinimum) []Finding {
	var found []Finding
	found = append(found, t.lintLiterals()...)
	found = append(found, t.lintVariables()...)
	found = append(found, t.lintOrder()...)
	found = append(found, t.lintLength(minimums)...)
	found = append(found, t.lintRanges()...)
	return append(found, t.lintOutput()...)
}

const months = `(?:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?|oct(?:ober)?|nov(?:ember)?|dec(?:ember)?)\.?`

var (
	dates = regexp.MustCompile(`(?i)\b(?:19|20)\d\d-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12]\d|3[01])` + // 2026-12-01, alone or with a time
		`|\b\d{1,2}[./]\d{1,2}[./](?:19|20)\d\d\b` +
		`|\b` + months + ` \d{1,2}(?:st|nd|rd|th)?,? (?:19|20)\d\d\b|\b\d{1,2}(?:st|nd|rd|th|\.)? ` + months + `,? (?:19|20)\d\d\b` +
		`|\b(?:[01]?\d|2[0-3]):[0-5]\d(?::[0-5]\d| ?[ap]m\b| ?(?:utc|gmt)\b)`) // a time, if it can't be a ratio
	ids = regexp.MustCompile(`(?i)\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b` +
		`|\b(?:[0-9]+[a-f]|[a-f]+[0-9])[0-9a-f]{14,}\b` + // a hash
		`|\b[0-7][0-9A-HJKMNP-TV-Z]{25}\b` + // a ULID
		`|\b\d{10,}\b`) // a Unix time, or a number of a database
	limits = regexp.MustCompile(`(?i)(?:\b(?:\d+|one|two|three|four|five|six|seven|eight|nine|ten|twenty|fifty|a hundred|a single|a few)|\}\})[ -]+(?:\pL+[ -]+)?` +
		`(?:words?|sentences?|characters?|letters?|tokens?|lines?|bullets?|bullet points?|points?|paragraphs?|items?|wörter|sätze|zeichen|mots?|phrases?)\b`)
)

// fixed are the texts that begin every request: whole, or up to the first action.
func (t *Template) fixed() []*source {
	if t.system != nil && !t.system.whole {
		return []*source{t.system}
	}
	if t.system == nil {
		return []*source{t.user}
	}
	return []*source{t.system, t.user}
}

func (t *Template) lintLiterals() (found []Finding) {
	for _, s := range t.fixed() {
		for _, kind := range []struct {
			code, what string
			form       *regexp.Regexp
		}{{"date_in_stable_part", "a date or a time", dates}, {"id_in_stable_part", "what looks like an id", ids}} {
			head := s.text[:s.head]
			if at := kind.form.FindStringIndex(head); at != nil {
				found = append(found, Finding{kind.code, SeverityWarning, s.field, lineOf(head, at[0]),
					"the part that all requests begin with holds " + kind.what + ": each time it changes, every cached result and prefix is lost. Make it a variable that stands behind this part, or leave it out"})
			}
		}
	}
	return found
}

// volatile are words in names of variables whose values are different each time.
var volatile = []string{"now", "today", "timestamp", "uuid", "guid", "nonce", "random", "requestid", "runid", "sessionid", "traceid", "jobid", "batchid", "currentdate", "currenttime", "datetime"}

func (t *Template) lintVariables() (found []Finding) {
	for _, name := range t.names {
		if slices.Contains(volatile, strings.ToLower(strings.ReplaceAll(name, "_", ""))) {
			found = append(found, Finding{Code: "volatile_variable", Severity: SeverityWarning, Field: "variables." + name,
				Message: "by its name it differs each time a job is run: then no result is ever found in the cache again. Leave it out, or round it to what the answer depends on"})
		}
	}
	return found
}

// minLost is from how many tokens on a text behind a variable is worth a finding: fewer are a sentence's end.
const minLost = 32

// lintOrder finds text that all requests share, but behind something that they don't.
func (t *Template) lintOrder() []Finding {
	first, lost := t.user, 0
	if t.system != nil && !t.system.whole {
		first = t.system
		lost = EstimateTokens(t.user.text[:t.user.head]) + t.user.behind
		for _, m := range t.examples {
			lost += EstimateTokens(m.Content)
		}
	}
	if lost += first.behind; first.whole || lost < minLost {
		return nil
	}
	return []Finding{{"variable_before_stable", SeverityWarning, first.field, lineOf(first.text, first.head),
		fmt.Sprintf("what varies begins here, and about %d tokens that never change stand behind it, where no prompt cache finds them: put them first", lost)}}
}

func (t *Template) lintLength(minimums []CacheMinimum) (found []Finding) {
	if minimums == nil {
		minimums = usualMinimum
	}
	tokens := t.StableTokens(EstimateTokens)
	for _, m := range minimums {
		if tokens < m.Tokens {
			found = append(found, Finding{Code: "stable_part_short", Severity: SeverityNote, Message: fmt.Sprintf(
				"requests share about %d tokens from their start, and the prompt cache of %s keeps %d or more: input tokens will not be cheaper", tokens, m.Name, m.Tokens)})
		}
	}
	return found
}

// StableTokens is what the requests of all jobs share from their start, in tokens by count.
func (t *Template) StableTokens(count func(text string) int) (n int) {
	for _, s := range t.fixed() {
		n += count(s.text[:s.head])
	}
	if t.system == nil || t.system.whole {
		for _, m := range t.examples {
			n += count(m.Content)
		}
	}
	return n
}

func (t *Template) lintRanges() (found []Finding) {
	for _, s := range []*source{t.system, t.user} {
		if s == nil {
			continue
		}
		for _, line := range s.unordered {
			found = append(found, Finding{"unordered_content", SeverityNote, s.field, line,
				"an object's members have no order: they come sorted by their names, however the job has them. If the order matters, use an array"})
		}
	}
	return found
}

func (t *Template) lintOutput() (found []Finding) {
	o := &t.spec.Output
	if o.Format == FormatJSON && o.Schema == nil {
		found = append(found, Finding{Code: "json_without_schema", Severity: SeverityWarning, Field: "output.schema",
			Message: "any JSON is taken for a good answer: with a schema, answers are checked, and providers that can keep to it"})
	}
	if t.spec.Sampling.MaxTokens == 0 && !limits.MatchString(t.spec.System) && !limits.MatchString(t.spec.User) {
		found = append(found, Finding{Code: "no_length_limit", Severity: SeverityWarning, Field: "sampling.max_tokens",
			Message: "nothing bounds the length of an answer, and so its cost: set sampling.max_tokens, or say in the prompt how many words are wanted"})
	}
	return found
}

// lineOf is the line of a byte in a text, from 1.
func lineOf(text string, at int) int { return 1 + strings.Count(text[:at], "\n") }
