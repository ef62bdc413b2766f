package server

import (
	"bytes"
	"encoding/json"
	"iter"
	"slices"
	"strconv"

	"batchwright/internal/gateway/jsonspan"
)

// document is a body as texts: in JSON the strings that are values, in a stream of events those of the events' JSON, where
// the pieces of one text follow each other from event to event. Anything else is one text as it stands.
type document struct {
	body   []byte
	raw    bool // no JSON
	texts  []text
	groups [][]int        // indexes of texts that are one
	joins  map[string]int // in a stream, the group of a place in the JSON
	found  map[int][]mark // what is to be masked, by group, in the joined text
}

// text is one string: where it is, with its quotes, and what it says.
type text struct {
	at      span
	decoded []byte
}

// mark is what stands in the place of a match.
type mark struct {
	span
	with string
}

// pieces are the keys under which providers stream a text in pieces.
var pieces = map[string]bool{
	"content": true, "text": true, "delta": true, "partial_json": true, "arguments": true, "thinking": true, "reasoning": true,
	"reasoning_content": true, "response": true, "output": true, "completion": true, "refusal": true, "transcript": true,
}

// maxJoinDepth bounds how deep in an event's JSON a text is looked for that goes on in the next event.
const maxJoinDepth = 16

func parseDocument(body []byte, events bool) *document {
	d := &document{body: body, found: map[int][]mark{}}
	switch {
	case events:
		d.joins = map[string]int{}
		for at := range eventData(body) {
			if json.Valid(at.Of(body)) {
				d.value(at.Start, "", "", 0)
			}
		}
	case json.Valid(body):
		d.value(0, "", "", 0)
	default:
		d.raw = true
		d.add(span{Start: 0, End: len(body)}, body, "", "", 0)
	}
	return d
}

func (d *document) add(at span, decoded []byte, path, key string, depth int) {
	d.texts = append(d.texts, text{at, decoded})
	i := len(d.texts) - 1
	if d.joins != nil && pieces[key] && depth <= maxJoinDepth {
		if g, ok := d.joins[path]; ok {
			d.groups[g] = append(d.groups[g], i)
			return
		}
		d.joins[path] = len(d.groups)
	}
	d.groups = append(d.groups, []int{i})
}

// value collects the strings of the valid JSON value at i and returns the index after it. Each byte is read once.
func (d *document) value(i int, path, key string, depth int) int {
	b := d.body
	i = jsonspan.Blanks(b, i)
	below := func(name string) string {
		if d.joins == nil || depth > maxJoinDepth {
			return ""
		}
		return path + "\x00" + name
	}
	switch b[i] {
	case '"':
		end := jsonspan.AfterString(b, i)
		d.add(span{Start: i, End: end}, []byte(textOf(b[i:end])), path, key, depth)
		return end
	case '{':
		for i = jsonspan.Blanks(b, i+1); b[i] != '}'; {
			end := jsonspan.AfterString(b, i)
			name := string(b[i+1 : end-1])
			i = d.value(jsonspan.Blanks(b, end)+1, below(name), name, depth+1)
			if i = jsonspan.Blanks(b, i); b[i] == ',' {
				i = jsonspan.Blanks(b, i+1)
			}
		}
		return i + 1
	case '[':
		n := 0
		for i = jsonspan.Blanks(b, i+1); b[i] != ']'; n++ {
			i = d.value(i, below(strconv.Itoa(n)), key, depth+1)
			if i = jsonspan.Blanks(b, i); b[i] == ',' {
				i = jsonspan.Blanks(b, i+1)
			}
		}
		return i + 1
	}
	return jsonspan.AfterValue(b, i)
}

// joined is the whole of a text that may be spread over events.
func (d *document) joined(group []int) []byte {
	if len(group) == 1 {
		return d.texts[group[0]].decoded
	}
	var all []byte
	for _, i := range group {
		all = append(all, d.texts[i].decoded...)
	}
	return all
}

// find reports whether a pattern occurs, and notes where when that is to be masked.
func (d *document) find(p *pattern, hide bool) (any bool) {
	for g, group := range d.groups {
		for _, at := range p.find(d.joined(group)) {
			any = true
			if !hide {
				return true
			}
			d.found[g] = append(d.found[g], mark{at, p.placeholder()})
		}
	}
	return any
}

// masked returns the body with what was found replaced. All else stays as it was, byte for byte, and JSON stays JSON.
func (d *document) masked() []byte {
	type edit struct {
		at   span
		with []byte
	}
	var edits []edit
	for g, found := range d.found {
		found = apart(found)
		start := 0
		for _, i := range d.groups[g] {
			t := &d.texts[i]
			now, changed := cover(t.decoded, start, found)
			start += len(t.decoded)
			if !changed {
				continue
			}
			if !d.raw {
				now = quote(string(now))
			}
			edits = append(edits, edit{t.at, now})
		}
	}
	slices.SortFunc(edits, func(a, b edit) int { return a.at.Start - b.at.Start })
	var out bytes.Buffer
	from := 0
	for _, e := range edits {
		out.Write(d.body[from:e.at.Start])
		out.Write(e.with)
		from = e.at.End
	}
	out.Write(d.body[from:])
	return out.Bytes()
}

// apart sorts matches and joins those that overlap.
func apart(found []mark) (out []mark) {
	slices.SortStableFunc(found, func(a, b mark) int { return a.Start - b.Start })
	for _, m := range found {
		if n := len(out); n > 0 && m.Start < out[n-1].End {
			out[n-1].End = max(out[n-1].End, m.End)
			continue
		}
		out = append(out, m)
	}
	return out
}

// cover replaces the parts of matches that are in one piece of a text, which begins at an offset of it. The mark goes
// where the match begins.
func cover(piece []byte, offset int, found []mark) (out []byte, changed bool) {
	from := 0
	for _, m := range found {
		if m.End <= offset || m.Start >= offset+len(piece) {
			continue
		}
		changed = true
		out = append(out, piece[from:max(m.Start-offset, 0)]...)
		if m.Start >= offset {
			out = append(out, m.with...)
		}
		from = min(m.End-offset, len(piece))
	}
	return append(out, piece[from:]...), changed
}

// eventData yields where the data of server-sent events is, line by line. JSON that is spread over several data lines of
// one event is not found; no provider sends any.
func eventData(body []byte) iter.Seq[span] {
	return func(yield func(span) bool) {
		for i := 0; i < len(body); {
			end := len(body)
			if n := bytes.IndexAny(body[i:], "\r\n"); n >= 0 {
				end = i + n
			}
			if bytes.HasPrefix(body[i:end], []byte("data:")) {
				start := i + len("data:")
				if start < end && body[start] == ' ' {
					start++
				}
				if !yield(span{Start: start, End: end}) {
					return
				}
			}
			i = end + 1
		}
	}
}
