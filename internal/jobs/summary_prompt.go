package jobs

import (
	"fmt"
	"strings"

	"batchwright/internal/prompt"
)

// form is what a call of a summary is given.
type form int

const (
	wholeDocument form = iota
	aPart
	severalSummaries // of some of the document
	allSummaries
	theBeginning // the first chunk, when the summary is revised with each further one
	theNextPart
)

var forms = [...]string{
	wholeDocument:    "",
	aPart:            "This is one part of a longer document. Summarise it so that its summary can be joined with those of the other parts.\n",
	severalSummaries: "These are summaries of consecutive parts of a longer document. Combine them into one summary, which will be joined with those of the other parts.\n",
	allSummaries:     "These are summaries of consecutive parts of one document. Combine them into one summary of the whole.\n",
	theBeginning:     "This is the beginning of a longer document. Summarise it; the summary will be revised when the next part is read.\n",
	theNextPart:      "The first text is the summary so far of a longer document, the second is the document's next part. Revise the summary so that it covers both.\n",
}

// passage is what one call is about.
type passage struct {
	form    form
	before  string // the summary so far
	text    string
	entries []*OutlineLine // to be given a line each
}

// request renders one call. The stable part comes first: it is the same for every document of a batch. White space at the end is left out, so
// that a chunk is the same whether text follows or not; and of a part nothing is told but its text, not the title either, which may change when
// the part doesn't.
func (s *summary) request(p passage) *prompt.Request {
	var user strings.Builder
	user.WriteString(forms[p.form])
	if s.title != "" && (p.form == wholeDocument || p.form == allSummaries) {
		fmt.Fprintf(&user, "Title: %s\n", s.title)
	}
	asked := s.askedFor(p.entries)
	if len(asked) > 0 {
		user.WriteString("Begin with one line for each of these sections, in this order: its number in brackets and one sentence that says what is in it. Then an empty line, then the summary.\n")
		for i, e := range asked {
			fmt.Fprintf(&user, "[%d] %s\n", i+1, e.label())
		}
	}
	if p.form == theNextPart {
		enclose(&user, p.before)
		user.WriteByte('\n')
	}
	enclose(&user, strings.TrimRight(p.text, " \t\r\n"))
	return &prompt.Request{
		Messages:  []prompt.Message{{Role: "system", Content: s.instructions()}, {Role: "user", Content: user.String()}},
		MaxTokens: s.o.MaxTokens + len(asked)*lineTokens,
	}
}

func enclose(b *strings.Builder, text string) {
	b.WriteString("<document>\n")
	b.WriteString(text)
	b.WriteString("\n</document>")
}

// instructions are the same for all calls of a batch.
func (s *summary) instructions() string {
	var b strings.Builder
	b.WriteString("You summarise documents faithfully. Use only what the text says: no opinions, no additions. Keep names, figures and dates exact.\n")
	length := lengths[s.o.Length].words
	if s.o.Bullets {
		length = lengths[s.o.Length].bullets + `, each a line that begins with "- "`
	}
	what := "the summary alone"
	if s.o.Outline && !s.mute {
		what = "the summary alone, after the lines for its sections where they are asked for"
	}
	fmt.Fprintf(&b, "Answer with %s, in %s", what, length)
	if s.o.Language != "" {
		fmt.Fprintf(&b, ", in %s.", s.o.Language)
	} else {
		b.WriteString(", in the language of the document.")
	}
	if s.o.Audience != "" {
		fmt.Fprintf(&b, "\nWrite for this reader: %s", s.o.Audience)
	}
	if s.o.Focus != "" {
		fmt.Fprintf(&b, "\nThe reader wants to know: %s", s.o.Focus)
	}
	return b.String()
}
