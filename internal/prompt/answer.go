package prompt

import (
	"encoding/json"
	"strings"
	"unicode/utf8"

	"github.com/kaptinlin/jsonrepair"
)

// Answer is what a model's text comes to when JSON was asked for.
type Answer struct {
	Output string // one JSON value
	Rung   Rung
}

// Rung is how far up the repair ladder an answer had to go. Its names are stored in rows.
type Rung string

// The rungs.
const (
	AsIs         Rung = ""
	RungFences   Rung = "fences" // the value stood in a code fence or in prose
	RungSyntax   Rung = "syntax" // its syntax was mended: quotes, commas, comments, a missing end
	RungAsked    Rung = "asked"  // the model was asked again, with what was wrong
	maxProblems       = 20       // that a model is told of at once
	maxMended         = 64 << 10 // bytes: the time that mending takes grows with their square
	maxCandidate      = 32       // places in a text at which a value is looked for
)

// AnswerError says why no rung helped. Its words quote names and positions, but nothing else of the answer.
type AnswerError struct {
	Problems []string // at least one, in an order that doesn't change
}

func (e *AnswerError) Error() string {
	found := make([]violation, len(e.Problems))
	for i, says := range e.Problems {
		found[i].says = says
	}
	return "the answer can't be used: " + worded(found)
}

const notJSON = "it is not JSON"

// Answer reads a model's answer to a request of a template whose output is JSON. It is checked against the schema in any
// case. If it fails, that part of the text which is a value by itself is tried, then the text with its syntax mended. The
// error is an *[AnswerError].
func (t *Template) Answer(text string) (Answer, error) { return readAnswer(text, t.answers) }

// ReadJSON is [Template.Answer] for a request without a template: the answer must be JSON.
func ReadJSON(text string) (Answer, error) { return readAnswer(text, nil) }

func readAnswer(text string, s *schema) (Answer, error) {
	text = strings.TrimSpace(text)
	problems, whole := judge(text, s)
	if problems == nil {
		return Answer{text, AsIs}, nil
	}
	if whole {
		return Answer{}, &AnswerError{problems} // it is a value already; there is nothing to strip or mend
	}
	found := ""
	for _, part := range values(text) {
		wrong, _ := judge(part, s)
		switch {
		case wrong == nil && found != "" && part != found:
			return Answer{}, &AnswerError{[]string{"it holds more than one JSON value that could be the answer"}}
		case wrong == nil:
			found = part
		case problems[0] == notJSON:
			problems = wrong // of the first value in the text: they say more
		}
	}
	if found != "" {
		return Answer{found, RungFences}, nil
	}
	if mended, ok := mend(unwrapped(text)); ok {
		wrong, _ := judge(mended, s)
		if wrong == nil {
			return Answer{mended, RungSyntax}, nil
		}
		if problems[0] == notJSON {
			problems = append([]string{notJSON + " as it stands"}, wrong...)
		}
	}
	return Answer{}, &AnswerError{problems[:min(len(problems), maxProblems)]}
}

// judge says what is wrong with a text as an answer, and whether it is JSON at all.
func judge(text string, s *schema) (problems []string, isJSON bool) {
	raw := []byte(text)
	if _, _, _, err := wholeJSON(raw); err != nil {
		return []string{notJSON}, false
	}
	found := s.check(raw)
	for _, v := range found[:min(len(found), maxProblems)] {
		problems = append(problems, v.String())
	}
	return problems, true
}

// values returns the objects and arrays that stand in a text, in fences or between words.
func values(text string) (found []string) {
	raw := []byte(text)
	for i, tries := 0, 0; i < len(raw) && tries < maxCandidate; i++ {
		if raw[i] != '{' && raw[i] != '[' {
			continue
		}
		tries++
		if end, _, err := scanValue(raw, i, 0); err == nil && utf8.Valid(raw[i:end]) {
			found = append(found, text[i:end])
			i = end - 1
		}
	}
	return found
}

// unwrapped returns the text from its first bracket or fence on; nothing if it has none, for then it is prose, of which mending
// would make a string.
func unwrapped(text string) string {
	if _, body, ok := strings.Cut(text, "```"); ok {
		body, _, _ = strings.Cut(body, "```")
		text = body
	}
	first := strings.IndexAny(text, "{[")
	if first < 0 {
		return ""
	}
	text = text[first:]
	if last := strings.LastIndexAny(text, "}]"); last >= 0 && !strings.ContainsAny(text[last:], `"':`) {
		text = text[:last+1] // words may follow the value; what looks like more of it is kept
	}
	return text
}

// mend repairs the syntax of what is nearly an object or an array.
func mend(text string) (string, bool) {
	if text == "" || len(text) > maxMended || !utf8.ValidString(text) || strings.Count(text, "{")+strings.Count(text, "[") > maxDepth*16 || deepest(text) > maxDepth {
		return "", false
	}
	mended, err := jsonrepair.Repair(text)
	if err != nil || !json.Valid([]byte(mended)) {
		return "", false
	}
	mended = strings.TrimSpace(mended)
	return mended, mended[0] == '{' || mended[0] == '['
}

// deepest counts how deep brackets nest at most, those in strings included: the library has no limit of its own.
func deepest(text string) (most int) {
	depth := 0
	for i := range len(text) {
		switch text[i] {
		case '{', '[':
			depth++
			most = max(most, depth)
		case '}', ']':
			depth = max(depth-1, 0)
		}
	}
	return most
}

// maxShown is how much of its last answer a model sees again, in bytes.
const maxShown = 64 << 10

// Correct returns the messages that ask for a better answer than text: those of the request, the answer, and what is wrong with
// it. The same answer with the same faults gives the same bytes.
func Correct(request Messages, text string, wrong *AnswerError) Messages {
	if len(text) > maxShown {
		text = strings.ToValidUTF8(text[:maxShown], "") + "…"
	}
	var b strings.Builder
	b.WriteString("Your answer can't be used:\n")
	for _, problem := range wrong.Problems {
		b.WriteString("- " + problem + "\n")
	}
	b.WriteString("Answer again, with the whole corrected JSON value and nothing else.")
	return append(append(make(Messages, 0, len(request)+2), request...), Message{RoleAssistant, text}, Message{RoleUser, b.String()})
}

// Repairs is how often a model is asked again for an answer that can't be used.
func (t *Template) Repairs() int {
	if n := t.spec.Output.Repairs; n != nil {
		return *n
	}
	return 1
}
