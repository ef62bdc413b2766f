package gateway

import (
	"cmp"
	"encoding/json"
	"strings"
)

// This file is OpenAI's Responses API: its requests, and what differs in its answers.

// The values of [Chat.API].
const (
	apiChat      = "chat"
	apiResponses = "responses"
)

const (
	responsesEndpoint = "responses"
	responsesObject   = "response" // the field object of an answer
)

// A responder has the Responses API beside the form that it is known for.
type responder interface{ responds() bool }

// The request, stable parts first. There is no seed and there are no stop strings. An answer is not stored at the
// provider: it is kept here.
type responsesRequest struct {
	Model        string         `json:"model"`
	CacheKey     string         `json:"prompt_cache_key,omitempty"`
	MaxTokens    int            `json:"max_output_tokens,omitempty"`
	Temperature  *float64       `json:"temperature,omitempty"`
	TopP         *float64       `json:"top_p,omitempty"`
	Store        *bool          `json:"store,omitempty"`
	Text         *responsesText `json:"text,omitempty"`
	Instructions string         `json:"instructions,omitempty"`
	Input        []Message      `json:"input"`
}

type responsesText struct {
	Format responsesFormat `json:"format"`
}

type responsesFormat struct {
	Type   string          `json:"type"`
	Name   string          `json:"name,omitempty"`
	Schema json.RawMessage `json:"schema,omitempty"`
	Strict *bool           `json:"strict,omitempty"`
}

func (p openAI) encodeResponses(model string, c *Chat, q quirk) (string, json.RawMessage, error) {
	r := responsesRequest{Model: model, MaxTokens: c.MaxTokens}
	if p.cacheKey {
		r.CacheKey = promptCacheKey(model, c)
	}
	if !q.has(noSampling) {
		r.Temperature, r.TopP = c.Temperature, c.TopP
	}
	if p.plainResponses {
		if r.Input = c.Messages; c.JSON || c.Schema != nil {
			r.Input = instructed(c.Messages, c.Schema)
		}
	} else {
		r.Store = new(bool)
		r.Instructions, r.Input = instructions(c.Messages)
		r.Text = responsesFormatOf(c)
	}
	body, err := encode(r)
	return p.responses, body, err
}

// responsesFormatOf asks for JSON; nil where none is wanted.
func responsesFormatOf(c *Chat) *responsesText {
	switch {
	case c.Schema != nil:
		strict := strict(c.Schema)
		return &responsesText{responsesFormat{"json_schema", cmp.Or(c.SchemaName, "output"), c.Schema, &strict}}
	case c.JSON:
		return &responsesText{responsesFormat{Type: "json_object"}}
	}
	return nil
}

// instructions splits off the system messages at the start. A chat of nothing else stays as it is, because there must
// be an input.
func instructions(messages []Message) (string, []Message) {
	n := 0
	for n < len(messages) && messages[n].Role == "system" {
		n++
	}
	if n == len(messages) {
		return "", messages
	}
	texts := make([]string, n)
	for i, m := range messages[:n] {
		texts[i] = m.Content
	}
	return strings.Join(texts, "\n\n"), messages[n:]
}

// outputItem adds one element of an answer's output to what was read of it.
func (c *cursor) outputItem(to *openAIChoice) {
	var kind string
	var content json.RawMessage
	c.object(func(key []byte) {
		switch string(key) {
		case "type":
			kind = c.text()
		case "content":
			content = c.skip()
		default:
			c.skip()
		}
	})
	switch {
	case kind == "message":
		to.parts(content)
	case strings.HasSuffix(kind, "_call"): // function_call, custom_tool_call, ...
		to.tools = true
	}
}

// parts reads the content of a message: texts and refusals.
func (to *openAIChoice) parts(raw json.RawMessage) {
	c := cursor{b: raw}
	c.array(func(int) {
		var kind, text, refusal string
		c.object(func(key []byte) {
			switch string(key) {
			case "type":
				kind = c.text()
			case "text":
				text = c.text()
			case "refusal":
				refusal = c.text()
			default:
				c.skip()
			}
		})
		switch kind {
		case "output_text":
			to.said = append(to.said, text...)
			to.answers = true
		case "refusal":
			to.refusal = cmp.Or(to.refusal, refusal)
		}
	})
}

// response judges an answer of the Responses API.
func (a *openAIAnswer) response(r *Response, status int) (*Response, error) {
	r.Text = string(a.choice.said)
	switch a.status {
	case "completed":
		r.Finish = FinishStop
		if a.choice.tools && !a.choice.answers {
			r.Finish = FinishTool
		}
	case "incomplete":
		r.Finish = FinishOther
		switch a.why {
		case "max_output_tokens":
			r.Finish = FinishLength
		case "content_filter":
			r.Finish = FinishFiltered
			e := ours("content_filter", status)
			e.Uncertain = !r.Usage.Known
			return r, e
		}
	case "failed":
		e := ours("server_error", status)
		e.Uncertain = !r.Usage.Known
		return r, e
	default: // queued, in_progress, cancelled: not an answer
		return r, ours(codeInvalidAnswer, status)
	}
	switch {
	case a.choice.refusal != "":
		r.Finish = FinishFiltered
		return r, ours(codeRefusal, status)
	case a.choice.answers, a.choice.tools, r.Finish == FinishLength:
		return r, nil
	}
	return r, ours(codeNoAnswer, status)
}

// responsesStream reads a stream of the Responses API. Its last event holds the whole answer; what came before matters
// only when that doesn't come.
type responsesStream struct {
	whole   json.RawMessage
	failure json.RawMessage
	said    []byte
	model   string
}

// event returns the text that an event adds. The events are told by the type in their data, which is also their name.
func (s *responsesStream) event(data []byte) string {
	var kind, model string
	var delta, response, code, failure json.RawMessage
	c := cursor{b: data}
	if c.kind() != '{' {
		return ""
	}
	c.object(func(key []byte) {
		switch string(key) {
		case "type":
			kind = c.text()
		case "delta":
			delta = c.skip()
		case "response":
			response = c.skip()
		case "code":
			code = c.skip()
		case "error":
			failure = c.skip()
		default:
			c.skip()
		}
	})
	if !c.whole() {
		return ""
	}
	switch kind {
	case "response.created":
		model = text(field(response, "model"))
		s.model = cleanName(model)
	case "response.output_text.delta":
		piece := content(delta)
		s.said = append(s.said, piece...)
		return piece
	case "response.completed", "response.incomplete", "response.failed":
		if kindOf(response) == '{' {
			s.whole = json.RawMessage(string(response))
		}
	case "error":
		if kindOf(failure) != '{' { // the fields of the error are those of the event
			failure = json.RawMessage(`{"code":null}`)
			if kindOf(code) == '"' {
				failure = json.RawMessage(`{"code":` + string(code) + `}`)
			}
		}
		s.failure = json.RawMessage(`{"error":` + string(failure) + `}`)
	}
	return ""
}

func (s *responsesStream) answer() (json.RawMessage, bool) {
	switch {
	case s.failure != nil:
		return s.failure, true
	case s.whole != nil:
		return s.whole, true
	case len(s.said) == 0: // nothing of use came
		return json.RawMessage(`{"object":"response","status":"in_progress","output":[]}`), false
	}
	b := appendString([]byte(`{"object":"response","status":"incomplete","model":`), s.model)
	b = append(b, `,"output":[{"type":"message","role":"assistant","content":[{"type":"output_text","text":`...)
	return append(appendString(b, string(s.said)), `}]}]}`...), false
}
