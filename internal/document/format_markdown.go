package document

import "strings"

func init() {
	register(format{
		name:       "markdown",
		mediaTypes: []string{"text/markdown", "text/x-markdown"},
		extensions: []string{".md", ".markdown", ".mdown", ".mkd"},
		extract: func(data []byte, _ Options) (Document, *Error) {
			text, err := decode(data, "")
			return Document{Title: markdownTitle(text), Text: text}, err
		},
	})
}

// markdownTitle is the title that the front matter gives, else the first heading of level one. The text keeps both.
func markdownTitle(text string) string {
	body := text
	if matter, rest, ok := frontMatter(text); ok {
		body = rest
		for line := range strings.Lines(matter) {
			if title, ok := strings.CutPrefix(line, "title:"); ok {
				if title = oneLine(strings.Trim(strings.TrimSpace(title), `"'`)); title != "" {
					return title
				}
			}
		}
	}
	for b := nextBlock(body, 0); b.start < len(body); b = nextBlock(body, b.end) {
		if b.level == 1 {
			return oneLine(headingOf(body, b))
		}
	}
	return ""
}

// frontMatter cuts off the YAML between two lines of --- at the beginning.
func frontMatter(text string) (matter, rest string, ok bool) {
	inside, ok := strings.CutPrefix(text, "---\n")
	if !ok {
		return "", text, false
	}
	if matter, rest, ok = strings.Cut(inside, "\n---\n"); !ok {
		return "", text, false
	}
	return matter, rest, true
}

// oneLine joins the words of a title, and cuts one that is too long to be one.
func oneLine(title string) string {
	title = strings.Join(strings.Fields(title), " ")
	if len(title) > maxTitle {
		end := maxTitle
		for title[end]&0xc0 == 0x80 {
			end--
		}
		title = strings.TrimSpace(title[:end]) + "…"
	}
	return title
}

const maxTitle = 300 // bytes
