package gateway

import (
	"cmp"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
)

func init() { register(workersAI{}) }

// workersAI speaks the native form of Cloudflare's Workers AI: the model is the endpoint, as in the Universal form, and
// the answer comes in Cloudflare's envelope. A body in the OpenAI chat form goes to v1/chat/completions, whose answer
// has no envelope. The operator gives the base URL, because the account is in it:
// https://api.cloudflare.com/client/v4/accounts/ACCOUNT/ai/run.
//
// Without a cap on tokens the platform's default holds, which is 256. Stop sequences are left out: the native form has
// none. Most answers don't say why they ended; they are then taken to have stopped, and one that used its whole cap
// can't be told from them.
type workersAI struct{}

// Name implements Provider.
func (workersAI) Name() string { return "workers-ai" }

const workersChatEndpoint = "v1/chat/completions"

// address implements addresser: what begins with a version is beside the base's "run" and not below it. A base that is
// a gateway's has no such end, and takes both.
func (workersAI) address(base *url.URL, endpoint string) (*url.URL, *Error) {
	version, _, _ := strings.Cut(strings.TrimLeft(endpoint, "/"), "/")
	root, ok := strings.CutSuffix(strings.TrimRight(base.EscapedPath(), "/"), "/run")
	if !ok || !isVersion(version) {
		return join(base, endpoint)
	}
	path, err := url.PathUnescape(root)
	if err != nil {
		return nil, invalid("invalid_endpoint", "the base URL's path can't be read")
	}
	beside := *base
	beside.Path, beside.RawPath = path, root
	return join(&beside, endpoint)
}

// workersTokens is the cap when the chat has none. Workers AI's own is 256, and an answer that it cuts off doesn't always
// say so.
const workersTokens = 2048

type workersRequest struct {
	MaxTokens   int            `json:"max_tokens,omitempty"`
	Temperature *float64       `json:"temperature,omitempty"`
	TopP        *float64       `json:"top_p,omitempty"`
	Seed        *int64         `json:"seed,omitempty"`
	Format      *workersFormat `json:"response_format,omitempty"`
	Messages    []Message      `json:"messages"`
}

type workersFormat struct {
	Type   string          `json:"type"`
	Schema json.RawMessage `json:"json_schema,omitempty"` // bare
}

// Encode implements Provider. A seed is brought into the platform's range, 1 to 9,999,999,999.
func (p workersAI) Encode(model string, c *Chat) (string, json.RawMessage, error) {
	if err := c.onlyChat(p.Name()); err != nil {
		return "", nil, err
	}
	r := workersRequest{MaxTokens: cmp.Or(c.MaxTokens, workersTokens), Temperature: c.Temperature, TopP: c.TopP, Messages: c.Messages}
	if c.Seed != nil {
		seed := 1 + int64(uint64(*c.Seed-1)%9_999_999_999)
		r.Seed = &seed
	}
	switch {
	case c.Schema != nil:
		r.Format = &workersFormat{"json_schema", c.Schema}
	case c.JSON:
		r.Format = &workersFormat{Type: "json_object"}
	}
	body, err := encode(r)
	return workersEndpoint(model), body, err
}

// workersEndpoint is a model's name with its slashes, safe as a path.
func workersEndpoint(model string) string {
	words := strings.Split(model, "/")
	for i, w := range words {
		words[i] = url.PathEscape(w)
	}
	return strings.Join(words, "/")
}

// EncodeRaw implements Provider.
func (workersAI) EncodeRaw(body json.RawMessage) (string, error) {
	return rawChat(workersChatEndpoint, body)
}

// The envelope. It is also what a stream is put together to.
type workersAnswer struct {
	Result   json.RawMessage   `json:"result"`
	Success  *bool             `json:"success"`
	Errors   []json.RawMessage `json:"errors"`
	Messages []json.RawMessage `json:"messages"`
}

type workersResult struct {
	Response json.RawMessage   `json:"response"` // a string; an object when a schema was asked for; it may be a number
	Tools    []json.RawMessage `json:"tool_calls,omitempty"`
	Finish   string            `json:"finish_reason,omitempty"`
	Usage    json.RawMessage   `json:"usage,omitempty"`
}

// Decode implements Provider. Newer models answer in the OpenAI chat form inside the envelope; a gateway may take the
// envelope off.
func (p workersAI) Decode(status int, h http.Header, body []byte) (*Response, error) {
	if status/100 != 2 {
		return nil, failureOf(p.Name(), status, body)
	}
	chat := openAI{name: p.Name()}
	if isChatAnswer(body) {
		return chat.Decode(status, h, body)
	}
	var a workersAnswer
	if e := readAnswer(status, body, &a); e != nil {
		return nil, e
	}
	r := &Response{}
	if a.Success != nil && !*a.Success || len(a.Errors) > 0 || kindOf(field(trim(body), "error")) == '{' {
		return r, late(failureOf(p.Name(), status, body), r)
	}
	result := []byte(a.Result)
	if kindOf(a.Result) != '{' {
		result = body
	}
	if isChatAnswer(result) {
		return chat.Decode(status, h, result)
	}
	var v struct {
		workersResult
		Usage *openAIUsage `json:"usage"`
	}
	if e := readAnswer(status, result, &v); e != nil {
		return r, e
	}
	r.Usage = v.Usage.normal()
	kind := kindOf(v.Response)
	switch {
	case kind == 0 && len(v.Tools) == 0:
		return r, ours(codeInvalidAnswer, status)
	case kind == '"':
		r.Text = clean(text(v.Response))
	case kind != 0 && kind != 'n':
		r.Text = clean(string(v.Response))
	}
	r.Finish = openAIFinish(cmp.Or(v.Finish, "stop"))
	if v.Finish == "" && len(v.Tools) > 0 {
		r.Finish = FinishTool
	}
	if r.Text != "" || len(v.Tools) > 0 || r.Finish == FinishLength {
		return r, nil
	}
	return r, ours(codeNoAnswer, status)
}

// stream implements streamer.
func (workersAI) stream(endpoint string, body json.RawMessage) (string, json.RawMessage) {
	return streamNative(endpoint, body)
}

func (workersAI) assemble() assembler { return &eitherStream{native: &workersStream{}} }

// workersStream puts an answer together. Its events have no names; the last is [DONE].
type workersStream struct {
	text   []byte
	r      workersResult
	failed json.RawMessage
	done   bool
	room   room
}

// event implements assembler.
func (s *workersStream) event(_ string, data []byte) string {
	if string(data) == "[DONE]" {
		s.done = true
		return ""
	}
	var v struct {
		workersResult
		Success       *bool
		Errors, Error json.RawMessage
	}
	if err := json.Unmarshal(data, &v); err != nil && !isTypeError(err) {
		return ""
	}
	if (v.Success != nil && !*v.Success || len(v.Errors) > len("[]") || kindOf(v.Error) == '{') && s.failed == nil {
		s.failed = json.RawMessage(string(data))
	}
	if len(v.Usage) > 0 && kindOf(v.Usage) == '{' && len(v.Usage) < 1<<16 {
		s.r.Usage = v.Usage
	}
	if v.Finish != "" {
		s.r.Finish = cleanName(v.Finish)
	}
	for _, tool := range v.Tools {
		if s.room.take(len(tool) + 32) {
			s.r.Tools = append(s.r.Tools, tool)
		}
	}
	piece := ""
	switch kindOf(v.Response) {
	case 0, 'n':
	case '"':
		piece = text(v.Response)
	default:
		piece = string(v.Response)
	}
	if !s.room.take(len(piece)) {
		return ""
	}
	s.text = append(s.text, piece...)
	return piece
}

// answer implements assembler.
func (s *workersStream) answer() (json.RawMessage, bool) {
	if s.failed != nil {
		return s.failed, false
	}
	r, yes := s.r, true
	var err error
	if r.Response, err = encode(string(s.text)); err != nil {
		return nil, false
	}
	result, err := encode(r)
	if err != nil {
		return nil, false
	}
	body, err := encode(workersAnswer{Result: result, Success: &yes, Errors: []json.RawMessage{}, Messages: []json.RawMessage{}})
	if err != nil {
		return nil, false
	}
	return body, s.done && !s.room.over
}
