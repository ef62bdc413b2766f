package gateway

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"math"
	"net/http"
	"strconv"
	"strings"
)

func init() {
	register(openAI{name: "openai", reached: reach{base: "https://api.openai.com/v1"}, completionTokens: true})
}

// openAI speaks Chat Completions. The providers that took over its form differ in the facts held here.
type openAI struct {
	name    string
	reached reach
	// The cap is called max_completion_tokens, which OpenAI's reasoning models insist on; else max_tokens.
	completionTokens bool
}

// Name implements Provider.
func (p openAI) Name() string { return p.name }

func (p openAI) reach() reach { return p.reached }

const openAIEndpoint = "chat/completions"

// The request, in the order in which it is sent: what a batch shares comes first and the messages last, so that the
// bytes differ as late as possible.
type openAIRequest struct {
	Model               string        `json:"model"`
	MaxCompletionTokens int           `json:"max_completion_tokens,omitempty"`
	MaxTokens           int           `json:"max_tokens,omitempty"`
	Temperature         *float64      `json:"temperature,omitempty"`
	TopP                *float64      `json:"top_p,omitempty"`
	Seed                *int64        `json:"seed,omitempty"`
	Stop                []string      `json:"stop,omitempty"`
	ResponseFormat      *openAIFormat `json:"response_format,omitempty"`
	Messages            []Message     `json:"messages"`
}

type openAIFormat struct {
	Type   string            `json:"type"`
	Schema *openAIJSONSchema `json:"json_schema,omitempty"`
}

type openAIJSONSchema struct {
	Name   string          `json:"name"`
	Schema json.RawMessage `json:"schema"`
	Strict bool            `json:"strict,omitempty"`
}

// Encode implements Provider.
func (p openAI) Encode(model string, c *Chat) (string, json.RawMessage, error) {
	r := openAIRequest{
		Model: model, Temperature: c.Temperature, TopP: c.TopP, Seed: c.Seed, Stop: c.Stop, Messages: c.Messages,
	}
	if p.completionTokens {
		r.MaxCompletionTokens = c.MaxTokens
	} else {
		r.MaxTokens = c.MaxTokens
	}
	switch {
	case c.Schema != nil:
		r.ResponseFormat = &openAIFormat{"json_schema", &openAIJSONSchema{cmp.Or(c.SchemaName, "output"), c.Schema, strict(c.Schema)}}
	case c.JSON:
		r.ResponseFormat = &openAIFormat{Type: "json_object"}
	}
	body, err := encode(r)
	return openAIEndpoint, body, err
}

// encode is json.Marshal without HTML escapes.
func encode(v any) (json.RawMessage, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// EncodeRaw implements Provider. A streamed answer is refused here, because it could not be read after it was paid.
func (p openAI) EncodeRaw(body json.RawMessage) (string, error) {
	if string(field(body, "stream")) == "true" {
		return "", invalid("stream_unsupported", "the body asks for a streamed answer; remove \"stream\"")
	}
	if kindOf(field(body, "messages")) != '[' {
		return "", invalid("no_messages", "the body has no messages; it must be in the OpenAI chat form")
	}
	return openAIEndpoint, nil
}

type openAIAnswer struct {
	Model   string
	Choices []struct {
		Message struct {
			Content json.RawMessage
			Refusal string
			Tools   json.RawMessage `json:"tool_calls"`
		}
		Finish string `json:"finish_reason"`
	}
	Usage *openAIUsage
	Error json.RawMessage
}

// Decode implements Provider. Beside an error the Response may be set: it then holds what is known of an answer that
// was billed and is no use.
func (p openAI) Decode(status int, _ http.Header, body []byte) (*Response, error) {
	if status/100 != 2 {
		return nil, failure(status, body)
	}
	var a openAIAnswer
	if err := json.Unmarshal(trim(body), &a); err != nil {
		if _, ok := errors.AsType[*json.UnmarshalTypeError](err); !ok { // a field of an odd type is left out, no more
			e := failure(status, body)
			if e.Code != codeHTML {
				e = ours(codeInvalidAnswer, status)
			}
			e.Err = err
			return nil, e
		}
	}
	r := &Response{Model: cleanName(a.Model), Usage: a.Usage.normal()}
	if k := kindOf(a.Error); k == '{' || k == '"' || k == '[' && len(a.Choices) == 0 {
		e := failure(status, body)
		if e.Class == Unknown {
			e.Class = Server
			e.Message = message(verdict{class: Server}, status, e.Code)
		}
		e.Uncertain = !r.Usage.Known
		return r, e
	}
	if len(a.Choices) == 0 {
		return r, ours(codeInvalidAnswer, status)
	}
	c := a.Choices[0]
	r.Text, r.Finish = content(c.Message.Content), openAIFinish(c.Finish)
	hasTools := kindOf(c.Message.Tools) == '[' && len(c.Message.Tools) > 2
	switch v, bad := codes[strings.ToLower(c.Finish)]; {
	case bad:
		return r, &Error{Class: v.class, Status: status, Code: safeCode(c.Finish), Uncertain: !r.Usage.Known, Message: message(v, status, safeCode(c.Finish))}
	case c.Message.Refusal != "":
		r.Finish = FinishFiltered
		return r, ours(codeRefusal, status)
	case kindOf(c.Message.Content) != 0 && string(c.Message.Content) != "null", hasTools, r.Finish == FinishLength, r.Finish == FinishTool:
		return r, nil
	}
	return r, ours(codeNoAnswer, status)
}

func openAIFinish(s string) Finish {
	switch s {
	case "stop":
		return FinishStop
	case "length", "model_length": // the second is Mistral's, for the context window
		return FinishLength
	case "content_filter":
		return FinishFiltered
	case "tool_calls", "function_call":
		return FinishTool
	}
	return FinishOther
}

// content reads a message's content: a string, parts of which those of type text count, or another value as it is.
func content(raw json.RawMessage) string {
	var s string
	switch kindOf(raw) {
	case 0, 'n':
	case '"':
		s = text(raw)
	case '[':
		var parts []struct{ Type, Text string }
		if json.Unmarshal(raw, &parts) == nil {
			for _, p := range parts {
				if p.Type == "text" || p.Type == "" {
					s += p.Text
				}
			}
		}
	default:
		s = string(raw)
	}
	return strings.ReplaceAll(s, "\x00", "\uFFFD")
}

type openAIUsage struct {
	Prompt     count `json:"prompt_tokens"`
	Completion count `json:"completion_tokens"`
	Details    struct {
		Cached  count `json:"cached_tokens"`
		Written count `json:"cache_write_tokens"`
	} `json:"prompt_tokens_details"`
	Output struct {
		Reasoning count `json:"reasoning_tokens"`
	} `json:"completion_tokens_details"`
	MistralCached count `json:"num_cached_tokens"`
	DeepSeekHit   count `json:"prompt_cache_hit_tokens"`
}

// normal turns inclusive counts into disjoint ones: prompt_tokens holds the cached and written tokens. Where it
// doesn't, because the cached ones are more, it is taken as net already.
func (u *openAIUsage) normal() Usage {
	if u == nil {
		return Usage{}
	}
	n := Usage{
		CacheRead:  int64(cmp.Or(u.Details.Cached, u.MistralCached, u.DeepSeekHit)),
		CacheWrite: int64(u.Details.Written),
		Output:     int64(u.Completion),
		Known:      u.Prompt > 0 || u.Completion > 0,
	}
	n.Reasoning = min(int64(u.Output.Reasoning), n.Output)
	n.Input = int64(u.Prompt)
	if cached := n.CacheRead + n.CacheWrite; cached <= n.Input {
		n.Input -= cached
	}
	return n
}

// count reads a token count in any spelling of a number; what is no count is 0.
type count int64

// UnmarshalJSON never fails: an odd count must not lose an answer.
func (c *count) UnmarshalJSON(b []byte) error {
	var n int64
	for _, d := range b { // the usual case, without an allocation
		if d < '0' || d > '9' || n > math.MaxInt64/10-10 {
			f, err := strconv.ParseFloat(strings.Trim(string(b), `"`), 64)
			if err == nil && f > 0 && f < 1e15 {
				*c = count(f)
			}
			return nil
		}
		n = n*10 + int64(d-'0')
	}
	*c = count(min(n, 1e15))
	return nil
}
