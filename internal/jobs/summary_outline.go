package jobs

import (
	"regexp"
	"sort"
	"strconv"
	"strings"
	"unicode/utf8"

	"batchwright/internal/document"
)

// OutlineLine says where a section of a document is, and what it says. Start and End are offsets in the extracted text, in characters (Unicode
// code points); the lines of an outline join without a gap. A section that is longer than a chunk has a line for each chunk.
type OutlineLine struct {
	Start   int    `json:"start"`
	End     int    `json:"end"`
	Level   int    `json:"level"` // of the heading, 1 to 6; 0 before the first one
	Heading string `json:"heading"`
	Part    int    `json:"part,omitempty"` // from 2: the section goes on from the line before
	Line    string `json:"line"`

	text string // what it is about
}

func (l *OutlineLine) label() string {
	switch {
	case l.Heading == "" && l.Part > 0:
		return "(the text goes on)"
	case l.Heading == "":
		return "(the text before the first heading)"
	case l.Part > 0:
		return l.Heading + " (goes on)"
	}
	return l.Heading
}

const (
	lineTokens = 48 // room for a line in an answer
	mostLines  = 40 // asked for in one call; further sections have the line that they would have without an answer
)

// entries lists what of each chunk an outline has a line for, and nothing when none is wanted.
func (s *summary) entries(chunks []document.Chunk) [][]*OutlineLine {
	out := make([][]*OutlineLine, len(chunks))
	if !s.o.Outline {
		return out
	}
	characters, i := 0, 0
	for _, section := range s.sections {
		for part := 1; ; part++ {
			text := s.text[max(section.Start, chunks[i].Start):min(section.End, chunks[i].End)]
			l := &OutlineLine{Start: characters, Level: section.Level, Heading: section.Heading, text: text}
			if part > 1 {
				l.Part = part
			}
			characters += utf8.RuneCountInString(text)
			l.End = characters
			out[i] = append(out[i], l)
			if section.End < chunks[i].End || i+1 == len(chunks) {
				break
			}
			i++
			if section.End == chunks[i].Start {
				break
			}
		}
	}
	return out
}

// askedFor are the entries that a call is asked for a line for.
func (s *summary) askedFor(entries []*OutlineLine) []*OutlineLine {
	if s.mute {
		return nil
	}
	return entries[:min(len(entries), mostLines)]
}

var lineOf = regexp.MustCompile(`^\s*\[(\d{1,3})\]\s*(.*)$`)

// take moves the lines that an answer begins with into the outline, and returns the rest. A model that doesn't follow, or isn't asked,
// gives none: then the line is the first sentence of the summary if it is of one section, else of the section itself.
func (s *summary) take(answer string, entries []*OutlineLine) string {
	if len(entries) == 0 {
		return answer
	}
	rest := answer
	for rest != "" {
		line, behind, _ := strings.Cut(rest, "\n")
		found := lineOf.FindStringSubmatch(line)
		if found == nil && strings.TrimSpace(line) != "" {
			break
		}
		rest = behind
		if found == nil {
			continue
		}
		if n, _ := strconv.Atoi(found[1]); 1 <= n && n <= len(entries) { // digits, by the expression
			entries[n-1].Line = clean(strings.TrimSpace(found[2]))
		}
	}
	if strings.TrimSpace(rest) == "" { // lines and no summary: better than nothing
		rest = answer
	}
	for _, e := range entries {
		switch {
		case e.Line != "":
		case len(entries) == 1:
			e.Line = document.Lead(rest)
		default:
			e.Line = document.Lead(e.text)
		}
		s.outline = append(s.outline, *e)
	}
	return rest
}

// heading is what a chunk begins with, if it begins with a heading.
func (s *summary) heading(c document.Chunk) string {
	i := sort.Search(len(s.sections), func(i int) bool { return s.sections[i].Start >= c.Start })
	if i == len(s.sections) || s.sections[i].Start > c.Start {
		return ""
	}
	return s.sections[i].Heading
}
