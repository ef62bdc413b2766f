package gateway

import (
	"encoding/json"
	"net/http"
)

func init() { register(cohere{}) }

// cohere speaks Cohere's chat, version 2, and takes bodies in the OpenAI chat form at the endpoint that Cohere keeps for
// them. Messages are as OpenAI's, a system message anywhere among them; the answer and the stream are not. There are no
// marks for a prompt cache. An answer doesn't name its model.
type cohere struct{}

// Name implements Provider.
func (cohere) Name() string { return "cohere" }

func (cohere) reach() reach { return reach{base: "https://api.cohere.com"} }

const (
	cohereEndpoint     = "v2/chat"
	cohereChatEndpoint = "compatibility/v1/chat/completions"
)

type cohereRequest struct {
	Model       string        `json:"model"`
	MaxTokens   int           `json:"max_tokens,omitempty"`
	Temperature *float64      `json:"temperature,omitempty"`
	P           *float64      `json:"p,omitempty"`
	Seed        *int64        `json:"seed,omitempty"`
	Stop        []string      `json:"stop_sequences,omitempty"`
	Format      *cohereFormat `json:"response_format,omitempty"`
	Messages    []Message     `json:"messages"`
}

type cohereFormat struct {
	Type   string          `json:"type"`
	Schema json.RawMessage `json:"json_schema,omitempty"` // bare
}

// Encode implements Provider. Cohere takes a top_p from 0.01 to 0.99 and no negative seed; what is outside is brought in.
func (p cohere) Encode(model string, c *Chat) (string, json.RawMessage, error) {
	if err := c.onlyChat(p.Name()); err != nil {
		return "", nil, err
	}
	r := cohereRequest{
		Model: model, MaxTokens: c.MaxTokens, Temperature: c.Temperature, P: atMost(c.TopP, 0.99), Stop: c.Stop, Messages: c.Messages,
	}
	if r.P != nil && *r.P < 0.01 {
		least := 0.01
		r.P = &least
	}
	if c.Seed != nil {
		seed := *c.Seed & (1<<63 - 1)
		r.Seed = &seed
	}
	if c.JSON || c.Schema != nil {
		r.Format = &cohereFormat{"json_object", c.Schema}
	}
	body, err := encode(r)
	return cohereEndpoint, body, err
}

// EncodeRaw implements Provider.
func (cohere) EncodeRaw(body json.RawMessage) (string, error) {
	return rawChat(cohereChatEndpoint, body)
}

// The answer. It is also what a stream is put together to.
type cohereAnswer struct {
	ID      string         `json:"id"`
	Finish  string         `json:"finish_reason"`
	Message *cohereMessage `json:"message"`
	Usage   cohereUsage    `json:"usage"`
}

type cohereMessage struct {
	Role    string            `json:"role"`
	Content json.RawMessage   `json:"content,omitempty"` // parts of type text, and thinking
	Tools   []json.RawMessage `json:"tool_calls,omitempty"`
}

type cohereUsage struct {
	Billed cohereTokens `json:"billed_units"`
	Tokens cohereTokens `json:"tokens"` // with the template around the prompt, which isn't billed
	Cached count        `json:"cached_tokens"`
}

type cohereTokens struct {
	Input  count `json:"input_tokens"`
	Output count `json:"output_tokens"`
}

// normal goes by what is billed. Whether cached tokens are among the billed ones isn't documented: they are taken out
// where they fit in, else they are left aside.
func (u cohereUsage) normal() Usage {
	t := u.Billed
	if t == (cohereTokens{}) {
		t = u.Tokens
	}
	n := Usage{Input: int64(t.Input), Output: int64(t.Output), Known: t != cohereTokens{}}
	if cached := int64(u.Cached); cached <= n.Input {
		n.Input, n.CacheRead = n.Input-cached, cached
	}
	return n
}

// cohereEnds are the reasons to finish that are failures.
var cohereEnds = map[string]Class{"ERROR": Server, "TIMEOUT": Timeout, "ERROR_TOXIC": ContentFiltered, "ERROR_LIMIT": Unsupported}

// Decode implements Provider. The message of an answer is an object and that of an error a string.
func (p cohere) Decode(status int, h http.Header, body []byte) (*Response, error) {
	if status/100 != 2 {
		return nil, failureOf(p.Name(), status, body)
	}
	if isChatAnswer(body) {
		return openAI{name: p.Name()}.Decode(status, h, body)
	}
	var a cohereAnswer
	if e := readAnswer(status, body, &a); e != nil {
		return nil, e
	}
	r := &Response{Usage: a.Usage.normal()}
	switch {
	case kindOf(field(trim(body), "message")) == '"', kindOf(field(trim(body), "error")) == '{':
		return r, late(failureOf(p.Name(), status, body), r)
	case a.Message == nil && a.Finish == "":
		return r, ours(codeInvalidAnswer, status)
	}
	tools := false
	if a.Message != nil {
		r.Text, tools = content(a.Message.Content), len(a.Message.Tools) > 0
	}
	r.Finish = cohereFinish(a.Finish)
	switch class, bad := cohereEnds[a.Finish]; {
	case bad:
		if class == ContentFiltered {
			r.Finish = FinishFiltered
		}
		return r, stopped(class, status, a.Finish, r)
	case r.Text != "", tools, r.Finish == FinishLength:
		return r, nil
	}
	return r, ours(codeNoAnswer, status)
}

func cohereFinish(s string) Finish {
	switch s {
	case "COMPLETE", "STOP_SEQUENCE":
		return FinishStop
	case "MAX_TOKENS":
		return FinishLength
	case "TOOL_CALL":
		return FinishTool
	}
	return FinishOther
}

// stream implements streamer. The endpoint in the OpenAI form refuses stream_options, so there too nothing is asked for
// but the stream.
func (cohere) stream(endpoint string, body json.RawMessage) (string, json.RawMessage) {
	return endpoint, withField(body, "stream", "true")
}

func (cohere) assemble() assembler { return &eitherStream{native: &cohereStream{}} }

// cohereStream puts an answer together. Thinking is passed over.
type cohereStream struct {
	a      cohereAnswer
	text   []byte
	tools  []cohereCall
	failed json.RawMessage
	ended  bool
	room   room
}

type cohereCall struct {
	ID       string `json:"id"`
	Type     string `json:"type"`
	Function struct {
		Name      string `json:"name"`
		Arguments string `json:"arguments"`
	} `json:"function"`
	pieces []byte
}

// event implements assembler.
func (s *cohereStream) event(_ string, data []byte) string {
	var v struct {
		Type    string
		ID      string
		Message json.RawMessage
		Error   json.RawMessage
		Delta   struct {
			Finish  string `json:"finish_reason"`
			Usage   *cohereUsage
			Message struct {
				Content struct{ Text string }
				Tools   *cohereCall `json:"tool_calls"`
			}
		}
	}
	if err := json.Unmarshal(data, &v); err != nil && !isTypeError(err) {
		return ""
	}
	tool := v.Delta.Message.Tools
	switch v.Type {
	case "message-start":
		s.a.ID = v.ID
	case "content-start", "content-delta":
		if piece := v.Delta.Message.Content.Text; s.room.take(len(piece)) {
			s.text = append(s.text, piece...)
			return piece
		}
	case "tool-call-start":
		if tool != nil && s.room.part(len(s.tools)) && s.room.take(len(data)) {
			tool.pieces = []byte(tool.Function.Arguments)
			s.tools = append(s.tools, *tool)
		}
	case "tool-call-delta":
		if last := len(s.tools) - 1; tool != nil && last >= 0 && s.room.take(len(tool.Function.Arguments)) {
			s.tools[last].pieces = append(s.tools[last].pieces, tool.Function.Arguments...)
		}
	case "message-end":
		s.ended, s.a.Finish = true, v.Delta.Finish
		if v.Delta.Usage != nil {
			s.a.Usage = *v.Delta.Usage
		}
	case "":
		if (kindOf(v.Message) == '"' || kindOf(v.Error) == '{') && s.failed == nil {
			s.failed = json.RawMessage(string(data))
		}
	}
	return ""
}

// answer implements assembler.
func (s *cohereStream) answer() (json.RawMessage, bool) {
	if s.failed != nil {
		return s.failed, false
	}
	a := s.a
	a.Message = &cohereMessage{Role: "assistant"}
	var err error
	if len(s.text) > 0 {
		a.Message.Content, err = encode([]struct {
			Type string `json:"type"`
			Text string `json:"text"`
		}{{"text", string(s.text)}})
	}
	for _, tool := range s.tools {
		tool.Function.Arguments = string(tool.pieces)
		raw, terr := encode(tool)
		if terr != nil {
			return nil, false
		}
		a.Message.Tools = append(a.Message.Tools, raw)
	}
	if err != nil {
		return nil, false
	}
	body, err := encode(a)
	if err != nil {
		return nil, false
	}
	return body, s.ended && !s.room.over
}
