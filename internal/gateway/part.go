package gateway

import (
	"strings"
	"unicode/utf8"
)

// This file is for the providers that don't take a list of OpenAI's messages: it puts a chat in their order.

// A part is a piece of a chat, in the order of the wire.
type part struct {
	role   string // system, user or assistant
	text   string
	stable bool // the same in all requests of the batch
}

// parts puts a chat in the order of the providers that keep the system prompt apart: the system messages at the start,
// then note, which is an instruction of ours, then the turns. A system message further down stays in its place and is
// said by the user, so that the order of the chat, and what of it is stable, are kept; the same goes for a chat that
// has nothing but system messages. A message of blanks alone is left out, because some providers refuse it. A message
// that is stable up to some byte comes as two parts.
func parts(c *Chat, note string) []part {
	lead := 0
	for lead < len(c.Messages) && c.Messages[lead].Role == "system" {
		lead++
	}
	if lead == len(c.Messages) {
		lead = 0
	}
	ps := make([]part, 0, len(c.Messages)+2)
	for i, m := range c.Messages {
		if i == lead && note != "" {
			ps = append(ps, part{"system", note, c.Stable != Stable{} && c.Stable.Messages >= lead})
		}
		role := m.Role
		if role == "system" && i >= lead {
			role = "user"
		}
		head, rest := c.Stable.cut(i, m.Content)
		switch {
		case blank(m.Content):
		case blank(head):
			ps = append(ps, part{role, m.Content, false})
		case blank(rest):
			ps = append(ps, part{role, m.Content, true})
		default:
			ps = append(ps, part{role, head, true}, part{role, rest, false})
		}
	}
	return ps
}

// cut splits the content of message i where the batch stops sharing it, at the start of a character.
func (s Stable) cut(i int, content string) (head, rest string) {
	n := 0
	switch {
	case i < s.Messages:
		n = len(content)
	case i == s.Messages:
		n = min(max(s.Bytes, 0), len(content))
	}
	for n > 0 && n < len(content) && !utf8.RuneStart(content[n]) {
		n--
	}
	return content[:n], content[n:]
}

func blank(s string) bool { return strings.TrimSpace(s) == "" }

// splitSystem separates the parts of the system prompt, which come first, from the turns.
func splitSystem(ps []part) (system, turns []part) {
	n := 0
	for n < len(ps) && ps[n].role == "system" {
		n++
	}
	return ps[:n], ps[n:]
}

// texts joins the texts of parts for a provider that takes one string. Parts of one message would have to be joined
// without a gap: such a provider's chat is taken apart without Stable.
func texts(ps []part) string {
	all := make([]string, len(ps))
	for i, p := range ps {
		all[i] = p.text
	}
	return strings.Join(all, "\n\n")
}

// sayJSON is the instruction for a model that can't be made to answer in JSON by a parameter. It is the same in all
// requests of a batch, so it belongs to the system prompt; "" when the chat doesn't ask for JSON.
func sayJSON(c *Chat) string {
	const only = "Answer with one JSON value and nothing else: no explanation before or after it, and no code fence."
	switch {
	case c.Schema != nil:
		return only + " It must be valid against this JSON Schema:\n" + string(trim(c.Schema))
	case c.JSON:
		return strings.Replace(only, "JSON value", "JSON object", 1)
	}
	return ""
}

// onlyChat refuses what a provider with a single API can't do.
func (c *Chat) onlyChat(provider string) error {
	if c.API == "" || c.API == apiChat {
		return nil
	}
	return invalid("unsupported_api", "provider %q has no Responses API here; leave the API out", provider)
}
