package gateway

import (
	"bytes"
	"encoding/json"
	"strconv"
	"strings"
)

// stream implements streamer. The body's own bytes stay as they are, but for the fields that are set.
func (p openAI) stream(endpoint string, body json.RawMessage) (string, json.RawMessage) {
	path, _, _ := strings.Cut(endpoint, "?")
	if !p.usageUnasked && !strings.HasSuffix(path, responsesEndpoint) {
		body = withField(body, "stream_options", `{"include_usage":true}`)
	}
	return endpoint, withField(body, "stream", "true")
}

// withField sets a field at the top of a JSON object: in place where it is there already, else as the first. What is no
// object stays as it is.
func withField(body json.RawMessage, name, value string) json.RawMessage {
	out := make([]byte, 0, len(body)+len(name)+len(value)+5)
	done, first := 0, -1
	c := cursor{b: body}
	if c.kind() != '{' {
		return body
	}
	c.object(func(key []byte) {
		c.kind() // goes to where the value begins
		start := c.i
		if first < 0 {
			first = start
		}
		if c.skip(); string(key) == name && !c.bad {
			out = append(append(out, body[done:start]...), value...)
			done = c.i
		}
	})
	if done > 0 || !c.whole() {
		return append(out, body[done:]...)
	}
	open := bytes.IndexByte(body, '{') + 1
	out = append(append(append(append(out, body[:open]...), '"'), name...), `":`...)
	if out = append(out, value...); first >= 0 {
		out = append(out, ',')
	}
	return append(out, body[open:]...)
}

// assemble implements streamer.
func (p openAI) assemble() assembler { return &openAIStream{} }

// openAIStream puts a chat completion together from its chunks. A stream of the Responses API is told by the types of
// its events and read in responses.go. Memory grows with the answer and not with its chunks.
type openAIStream struct {
	id, model, created json.RawMessage
	choices            []*streamChoice
	usage              json.RawMessage
	rest               []streamField // the top level's other fields, each as it came last
	failure            json.RawMessage
	ended              bool // data: [DONE]
	responses          *responsesStream
}

type streamField struct {
	name  string
	value json.RawMessage
}

// streamChoice is one element of choices. Of n > 1 answers each has its own.
type streamChoice struct {
	index   int
	said    [len(streamTexts)][]byte // by streamTexts
	told    [len(streamTexts)]bool
	tools   []*streamTool
	byIndex map[int]*streamTool
	finish  json.RawMessage
}

type streamTool struct {
	id, kind, name json.RawMessage
	arguments      []byte
}

// streamTexts are the fields of a delta that are texts to be joined.
var streamTexts = [...]string{"content", "refusal", "reasoning_content", "reasoning"}

// What a hostile stream can make us hold is a multiple of its length, and finding a part takes no longer as it grows.
const (
	maxParts  = 1024 // choices of an answer, tool calls of a choice
	maxFields = 64   // other fields at the top
)

// event implements assembler.
func (s *openAIStream) event(name string, data []byte) string {
	if s.responses != nil || strings.HasPrefix(name, "response.") {
		if s.responses == nil {
			s.responses = &responsesStream{}
		}
		return s.responses.event(data)
	}
	if string(bytes.TrimSpace(data)) == "[DONE]" {
		s.ended = true
		return ""
	}
	chunk, ok := readChunk(data)
	if !ok {
		return ""
	}
	kind := text(chunk.kind)
	if strings.HasPrefix(kind, "response.") || kind == "error" && chunk.err == nil { // Responses; its events need not be named
		s.responses = &responsesStream{}
		return s.responses.event(data)
	}
	if k := kindOf(chunk.err); k != 0 && k != 'n' || text(chunk.object) == "error" {
		s.failure = bytes.Clone(bytes.TrimSpace(data))
	}
	keep(&s.id, chunk.id)
	keep(&s.model, chunk.model)
	keep(&s.created, chunk.created)
	if kindOf(chunk.usage) == '{' {
		keep(&s.usage, chunk.usage)
	}
	for _, f := range chunk.rest {
		s.remember(f)
		if u := field(f.value, "usage"); f.name == "x_groq" && s.usage == nil && kindOf(u) == '{' { // Groq's older place for it
			keep(&s.usage, u)
		}
	}
	before := s.textLen()
	if kindOf(chunk.choices) == '[' {
		c := cursor{b: chunk.choices}
		c.array(func(int) { s.choice(c.skip()) })
	}
	if first := s.first(); first != nil && len(first.said[0]) > before {
		return string(first.said[0][before:])
	}
	return ""
}

// openAIChunk is one event's data.
type openAIChunk struct {
	id, model, created, choices, usage, object, kind, err json.RawMessage
	rest                                                  []streamField
}

// readChunk reads one; false when it is no JSON object.
func readChunk(data []byte) (chunk openAIChunk, ok bool) {
	c := cursor{b: data}
	if c.kind() != '{' {
		return chunk, false
	}
	c.object(func(key []byte) {
		switch raw := c.skip(); string(key) {
		case "id":
			chunk.id = raw
		case "model":
			chunk.model = raw
		case "created":
			chunk.created = raw
		case "choices":
			chunk.choices = raw
		case "usage":
			chunk.usage = raw
		case "object":
			chunk.object = raw
		case "type":
			chunk.kind = raw
		case "error":
			chunk.err = raw
		case "obfuscation": // of no meaning by design
		default:
			if kindOf(raw) != 'n' {
				chunk.rest = append(chunk.rest, streamField{string(key), raw})
			}
		}
	})
	return chunk, c.whole()
}

// keep copies a value that isn't null, where it isn't the one that is there.
func keep(to *json.RawMessage, raw json.RawMessage) {
	if k := kindOf(raw); k != 0 && k != 'n' && !bytes.Equal(*to, raw) {
		*to = append((*to)[:0], raw...)
	}
}

// remember keeps a field of the top level.
func (s *openAIStream) remember(f streamField) {
	for i := range s.rest {
		if s.rest[i].name == f.name {
			keep(&s.rest[i].value, f.value)
			return
		}
	}
	if len(s.rest) < maxFields {
		s.rest = append(s.rest, streamField{strings.ToValidUTF8(f.name, "\uFFFD"), bytes.Clone(f.value)})
	}
}

// first is the choice that the text is of; nil before it began.
func (s *openAIStream) first() *streamChoice {
	for _, c := range s.choices {
		if c.index == 0 {
			return c
		}
	}
	return nil
}

func (s *openAIStream) textLen() int {
	if c := s.first(); c != nil {
		return len(c.said[0])
	}
	return 0
}

// choice takes one element of a chunk's choices.
func (s *openAIStream) choice(raw json.RawMessage) {
	var index count
	var delta, message, finish json.RawMessage
	c := cursor{b: raw}
	c.object(func(key []byte) {
		switch string(key) {
		case "index":
			index = c.count()
		case "delta":
			delta = c.skip()
		case "message":
			message = c.skip()
		case "finish_reason":
			finish = c.skip()
		case "error":
			if e := c.skip(); kindOf(e) == '{' {
				s.failure = append(append([]byte(`{"error":`), e...), '}')
			}
		default:
			c.skip()
		}
	})
	if kindOf(raw) != '{' {
		return
	}
	var to *streamChoice
	for _, have := range s.choices {
		if have.index == int(index) {
			to = have
		}
	}
	if to == nil {
		if len(s.choices) == maxParts {
			return
		}
		to = &streamChoice{index: int(index)}
		s.choices = append(s.choices, to)
	}
	keep(&to.finish, finish)
	if kindOf(delta) == 0 { // a server that sends the whole at once; Perplexity's message repeats what was said before
		delta = message
	}
	to.delta(delta)
}

// delta adds what a chunk brings.
func (t *streamChoice) delta(raw json.RawMessage) {
	if kindOf(raw) != '{' {
		return
	}
	c := cursor{b: raw}
	c.object(func(key []byte) {
		value := c.skip()
		for i, name := range streamTexts {
			if string(key) == name && kindOf(value) != 'n' {
				t.said[i] = append(t.said[i], content(value)...)
				t.told[i] = true
			}
		}
		if string(key) == "tool_calls" && kindOf(value) == '[' {
			calls := cursor{b: value}
			calls.array(func(n int) { t.tool(n, calls.skip()) })
		}
	})
}

// tool adds a piece of a tool call to the call of its index.
func (t *streamChoice) tool(n int, raw json.RawMessage) {
	var index, function, id, kind, name, arguments json.RawMessage
	c := cursor{b: raw}
	c.object(func(key []byte) {
		switch value := c.skip(); string(key) {
		case "index":
			index = value
		case "id":
			id = value
		case "type":
			kind = value
		case "function":
			function = value
		}
	})
	if kindOf(raw) != '{' {
		return
	}
	c = cursor{b: function}
	if kindOf(function) == '{' {
		c.object(func(key []byte) {
			switch value := c.skip(); string(key) {
			case "name":
				name = value
			case "arguments":
				arguments = value
			}
		})
	}
	if kindOf(index) != 0 { // Mistral's whole calls may lack one
		n = number(index)
	}
	to := t.byIndex[n]
	if to == nil {
		if len(t.tools) == maxParts {
			return
		}
		if t.byIndex == nil {
			t.byIndex = map[int]*streamTool{}
		}
		to = &streamTool{}
		t.byIndex[n] = to
		t.tools = append(t.tools, to)
	}
	keep(&to.id, id)
	keep(&to.kind, kind)
	keep(&to.name, name)
	if kindOf(arguments) == '{' { // an object where a string should be
		to.arguments = append(to.arguments, arguments...)
	} else {
		to.arguments = append(to.arguments, text(arguments)...)
	}
}

// answer implements assembler. A stream that broke off before any choice gives an answer without choices.
func (s *openAIStream) answer() (json.RawMessage, bool) {
	if s.responses != nil {
		return s.responses.answer()
	}
	if s.failure != nil {
		if s.usage == nil || field(s.failure, "usage") != nil || kindOf(s.failure) != '{' {
			return bytes.Clone(s.failure), true
		}
		return withField(s.failure, "usage", string(s.usage)), true
	}
	complete := s.ended
	b := append([]byte(nil), `{"id":`...)
	b = appendRaw(b, s.id)
	b = append(b, `,"object":"chat.completion","created":`...)
	b = appendRaw(b, s.created)
	b = append(b, `,"model":`...)
	b = appendRaw(b, s.model)
	b = append(b, `,"choices":[`...)
	for i, c := range s.choices {
		if i > 0 {
			b = append(b, ',')
		}
		b = c.append(b)
		complete = complete || c.finish != nil && c.index == 0
	}
	b = append(b, ']')
	if s.usage != nil {
		b = append(append(b, `,"usage":`...), s.usage...)
	}
	for _, f := range s.rest {
		b = append(appendString(append(b, ','), f.name), ':')
		b = append(b, f.value...)
	}
	return append(b, '}'), complete
}

func (t *streamChoice) append(b []byte) []byte {
	b = strconv.AppendInt(append(b, `{"index":`...), int64(t.index), 10)
	b = append(b, `,"message":{"role":"assistant","content":`...)
	b = appendSaid(b, t.said[0], t.told[0] && (len(t.said[0]) > 0 || len(t.tools) == 0))
	for i, name := range streamTexts[1:] {
		if t.told[i+1] {
			b = append(append(append(b, `,"`...), name...), `":`...)
			b = appendSaid(b, t.said[i+1], true)
		}
	}
	for i, call := range t.tools {
		if i == 0 {
			b = append(b, `,"tool_calls":[`...)
		} else {
			b = append(b, ',')
		}
		b = append(b, `{"id":`...)
		b = appendRaw(b, call.id)
		b = append(b, `,"type":`...)
		if call.kind == nil {
			b = append(b, `"function"`...)
		} else {
			b = append(b, call.kind...)
		}
		b = append(b, `,"function":{"name":`...)
		b = appendRaw(b, call.name)
		b = append(b, `,"arguments":`...)
		b = append(appendSaid(b, call.arguments, true), `}}`...)
	}
	if t.tools != nil {
		b = append(b, ']')
	}
	b = append(b, `},"finish_reason":`...)
	return append(appendRaw(b, t.finish), '}')
}

// appendSaid appends a text as a JSON string, or null.
func appendSaid(b, said []byte, told bool) []byte {
	if !told {
		return append(b, `null`...)
	}
	return appendString(b, string(said))
}

func appendRaw(b []byte, raw json.RawMessage) []byte {
	if raw == nil {
		return append(b, `null`...)
	}
	return append(b, raw...)
}
