package gateway

import (
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
)

func init() { register(anthropic{}) }

// anthropic speaks the Messages API, version 2023-06-01, and takes bodies in the OpenAI chat form at the endpoint that
// Anthropic keeps for them.
//
// Decisions. The version stays the old one, which still takes a temperature where the model does; the one of
// 2026-10-21 takes none at all. There is no seed. A stop of blanks alone is left out, as Anthropic's own layer for the
// OpenAI form does: the API refuses it. The answer to a chat that ends with the assistant's words goes on from there
// with older models; newer ones refuse that.
type anthropic struct{}

// Name implements Provider.
func (anthropic) Name() string { return "anthropic" }

// The endpoint in the OpenAI form is documented for OpenAI's clients, which send the key as a bearer token.
func (anthropic) reach() reach {
	return reach{base: "https://api.anthropic.com/v1", header: "X-Api-Key", chatBearer: true}
}

func (anthropic) headers() map[string]string {
	return map[string]string{"anthropic-version": "2023-06-01"}
}

const (
	anthropicEndpoint     = "v1/messages"
	anthropicChatEndpoint = "v1/chat/completions"
)

type claudeFact struct {
	from    int // version in hundredths
	samples int // how many of temperature and top_p may be sent
	schema  bool
	// The cap where the chat has none, because the API insists on one: at most the model's own limit, and less than the
	// 21,333 tokens from which Anthropic's clients insist on a stream, lest the answer take over ten minutes.
	maxTokens int
}

// What Claude models take, newest first; the first row that a model's version reaches counts. A name without a version
// is taken for a new model's. Sources: Anthropic's migration guides and model pages, and answers quoted in public bug
// reports, read in November 2026.
var claudes = []claudeFact{
	{from: 407, samples: 0, schema: true, maxTokens: 16000}, // refuses sampling parameters, as all since do
	{from: 405, samples: 1, schema: true, maxTokens: 16000}, // from here on structured outputs
	{from: 401, samples: 1, maxTokens: 16000},               // "temperature and top_p cannot both be specified"
	{from: 307, samples: 2, maxTokens: 16000},
	{from: 305, samples: 2, maxTokens: 8192},
	{from: 0, samples: 2, maxTokens: 4096},
}

func claudeFacts(model string) claudeFact {
	if v, ok := claudeVersion(model); ok {
		for _, facts := range claudes {
			if v >= facts.from {
				return facts
			}
		}
	}
	return claudes[0]
}

// claudeVersion reads 405 out of claude-haiku-4-5-20251001, 305 out of claude-3-5-sonnet-latest and 500 out of
// claude-opus-5; false when the name doesn't tell.
func claudeVersion(model string) (int, bool) {
	_, name, ok := strings.Cut(model, "claude-")
	if !ok {
		return 0, false
	}
	version, digits := 0, 0
	for word := range strings.FieldsFuncSeq(name, func(r rune) bool { return r == '-' || r == '.' || r == '@' || r == ':' }) {
		n, err := strconv.Atoi(word)
		if err != nil || len(word) > 2 || n < 0 {
			if digits > 0 {
				break
			}
			continue
		}
		version = version*100 + n
		if digits++; digits == 2 {
			return version, true
		}
	}
	return version * 100, digits > 0
}

type anthropicRequest struct {
	Model       string           `json:"model"`
	MaxTokens   int              `json:"max_tokens"`
	Temperature *float64         `json:"temperature,omitempty"`
	TopP        *float64         `json:"top_p,omitempty"`
	Stop        []string         `json:"stop_sequences,omitempty"`
	Output      *anthropicOutput `json:"output_config,omitempty"`
	System      anthropicBlocks  `json:"system,omitempty"`
	Messages    []anthropicTurn  `json:"messages"`
}

type anthropicOutput struct {
	Format anthropicFormat `json:"format"`
}

type anthropicFormat struct {
	Type   string          `json:"type"`
	Schema json.RawMessage `json:"schema"`
}

type anthropicTurn struct {
	Role    string          `json:"role"`
	Content anthropicBlocks `json:"content"`
}

// anthropicBlocks are sent as a string when there is one without a mark.
type anthropicBlocks []anthropicBlock

type anthropicBlock struct {
	Type  string         `json:"type"`
	Text  string         `json:"text"`
	Cache *anthropicMark `json:"cache_control,omitempty"`
}

type anthropicMark struct {
	Type string `json:"type"`
}

// MarshalJSON implements json.Marshaler.
func (b anthropicBlocks) MarshalJSON() ([]byte, error) {
	if len(b) == 1 && b[0].Cache == nil {
		return encode(b[0].Text)
	}
	return encode([]anthropicBlock(b))
}

// Encode implements Provider. A schema goes natively to models that take one, if it is of the kind that they take;
// see [claudeSchema]. Else, and for JSON without a schema, which the API doesn't know, the system prompt says it.
func (p anthropic) Encode(model string, c *Chat) (string, json.RawMessage, error) {
	if err := c.onlyChat(p.Name()); err != nil {
		return "", nil, err
	}
	facts := claudeFacts(model)
	r := anthropicRequest{Model: model, MaxTokens: c.MaxTokens}
	if r.MaxTokens == 0 {
		r.MaxTokens = facts.maxTokens
	}
	if facts.samples > 0 {
		r.Temperature = atMost(c.Temperature, 1)
	}
	if facts.samples > 1 || facts.samples == 1 && c.Temperature == nil {
		r.TopP = c.TopP
	}
	for _, s := range c.Stop {
		if !blank(s) {
			r.Stop = append(r.Stop, s)
		}
	}
	note := sayJSON(c)
	if c.Schema != nil && facts.schema && claudeSchema(c.Schema) {
		r.Output = &anthropicOutput{anthropicFormat{"json_schema", c.Schema}}
		note = ""
	}
	ps := parts(c, note)
	marked := lastStable(ps, CacheMinimum(p.Name(), model))
	for i, part := range ps {
		block := anthropicBlock{Type: "text", Text: part.text}
		if i == marked {
			block.Cache = &anthropicMark{"ephemeral"}
		}
		switch last := len(r.Messages) - 1; {
		case part.role == "system":
			r.System = append(r.System, block)
		case last >= 0 && r.Messages[last].Role == part.role: // turns alternate
			r.Messages[last].Content = append(r.Messages[last].Content, block)
		default:
			r.Messages = append(r.Messages, anthropicTurn{part.role, anthropicBlocks{block}})
		}
	}
	if len(r.Messages) == 0 {
		return "", nil, invalid("no_messages", "the chat has no message with any text in it")
	}
	body, err := encode(r)
	return anthropicEndpoint, body, err
}

// lastStable returns the index of the part that ends what the batch shares, for the mark of the prompt cache; -1 when
// that is less than minimum tokens, at 4 bytes a token.
func lastStable(ps []part, minimum int) int {
	n, last := 0, -1
	for i, p := range ps {
		if !p.stable {
			break
		}
		n, last = n+len(p.text), i
	}
	if tokensIn(n) < minimum {
		return -1
	}
	return last
}

// atMost bounds a wish.
func atMost(v *float64, limit float64) *float64 {
	if v == nil || *v <= limit {
		return v
	}
	return &limit
}

// EncodeRaw implements Provider.
func (anthropic) EncodeRaw(body json.RawMessage) (string, error) {
	return rawChat(anthropicChatEndpoint, body)
}

// The answer. It is also what a stream is put together to.
type anthropicAnswer struct {
	ID      string          `json:"id"`
	Type    string          `json:"type"`
	Role    string          `json:"role"`
	Model   string          `json:"model"`
	Content []anthropicSaid `json:"content"`
	Stop    string          `json:"stop_reason"`
	Usage   anthropicUsage  `json:"usage"`
}

type anthropicSaid struct {
	Type  string          `json:"type"`
	Text  string          `json:"text,omitempty"`
	ID    string          `json:"id,omitempty"`
	Name  string          `json:"name,omitempty"`
	Input json.RawMessage `json:"input,omitempty"`
}

type anthropicUsage struct {
	Input   count `json:"input_tokens"`
	Written count `json:"cache_creation_input_tokens"`
	Read    count `json:"cache_read_input_tokens"`
	Output  count `json:"output_tokens"`
	Details struct {
		Thinking count `json:"thinking_tokens"`
	} `json:"output_tokens_details"`
}

// normal: the three kinds of input are disjoint already, and thinking is a part of the output.
func (u anthropicUsage) normal() Usage {
	return Usage{
		Input: int64(u.Input), CacheRead: int64(u.Read), CacheWrite: int64(u.Written),
		Output: int64(u.Output), Reasoning: int64(min(u.Details.Thinking, u.Output)),
		Known: u.Input > 0 || u.Read > 0 || u.Written > 0 || u.Output > 0,
	}
}

// Decode implements Provider.
func (p anthropic) Decode(status int, h http.Header, body []byte) (*Response, error) {
	if status/100 != 2 {
		return nil, p.failure(status, h, body)
	}
	if isChatAnswer(body) {
		return openAI{name: p.Name()}.Decode(status, h, body)
	}
	var a anthropicAnswer
	if e := readAnswer(status, body, &a); e != nil {
		return nil, e
	}
	r := &Response{Model: cleanName(a.Model), Usage: a.Usage.normal()}
	if a.Type == "error" || a.Content == nil && kindOf(field(trim(body), "error")) == '{' {
		return r, late(failureOf(p.Name(), status, body), r)
	}
	if a.Content == nil {
		return r, ours(codeInvalidAnswer, status)
	}
	tools := false
	for _, said := range a.Content {
		if said.Type == "text" {
			r.Text += said.Text
		}
		tools = tools || said.Type == "tool_use"
	}
	r.Text, r.Finish = clean(r.Text), anthropicFinish(a.Stop)
	switch {
	case a.Stop == "refusal":
		return r, ours(codeRefusal, status)
	case r.Text != "", tools, r.Finish == FinishLength:
		return r, nil
	}
	return r, ours(codeNoAnswer, status)
}

func anthropicFinish(s string) Finish {
	switch s {
	case "end_turn", "stop_sequence":
		return FinishStop
	case "max_tokens", "model_context_window_exceeded":
		return FinishLength
	case "refusal":
		return FinishFiltered
	case "tool_use":
		return FinishTool
	}
	return FinishOther
}

// failure reads a failed answer. Anthropic says with every limit of rate how long to wait; a 429 that doesn't is the
// spend cap of the account's tier. Where nothing is known of the headers, it is taken for a limit of rate.
func (p anthropic) failure(status int, h http.Header, body []byte) *Error {
	e := failureOf(p.Name(), status, body)
	if e.Code == "rate_limit_error" && len(h) > 0 && h.Get("Retry-After") == "" && h.Get("Retry-After-Ms") == "" {
		return ours(codeSpend, status)
	}
	return e
}

// stream implements streamer.
func (anthropic) stream(endpoint string, body json.RawMessage) (string, json.RawMessage) {
	return streamNative(endpoint, body)
}

func (anthropic) assemble() assembler { return &eitherStream{native: &anthropicStream{}} }

// anthropicStream puts a message together. Thinking is passed over; its tokens are in the usage.
type anthropicStream struct {
	a       anthropicAnswer
	blocks  []anthropicStreamed
	failed  json.RawMessage
	started bool
	stopped bool
	room    room
}

type anthropicStreamed struct {
	index int
	said  anthropicSaid
	text  []byte // of the text, or of a tool's input
}

// event implements assembler.
func (s *anthropicStream) event(_ string, data []byte) string {
	var v struct {
		Type    string
		Index   int
		Message *anthropicAnswer
		Block   *anthropicSaid `json:"content_block"`
		Delta   struct {
			Type string
			Text string
			JSON string `json:"partial_json"`
			Stop string `json:"stop_reason"`
		}
		Usage json.RawMessage
		Error json.RawMessage
	}
	if err := json.Unmarshal(data, &v); err != nil && !isTypeError(err) {
		return ""
	}
	switch v.Type {
	case "message_start":
		if v.Message != nil && !s.started {
			s.a, s.started = *v.Message, true
			s.a.Content = nil
		}
	case "content_block_start":
		if v.Block != nil && s.room.part(len(s.blocks)) && s.room.take(len(data)) {
			b := anthropicStreamed{v.Index, *v.Block, []byte(v.Block.Text)}
			b.said.Input = nil // an empty object, which the deltas replace
			s.blocks = append(s.blocks, b)
			return textOf(v.Block.Type, v.Block.Text)
		}
	case "content_block_delta":
		i := len(s.blocks) - 1
		for i >= 0 && s.blocks[i].index != v.Index {
			i--
		}
		piece := v.Delta.Text + v.Delta.JSON
		if i < 0 || v.Delta.Type != "text_delta" && v.Delta.Type != "input_json_delta" || !s.room.take(len(piece)) {
			return ""
		}
		s.blocks[i].text = append(s.blocks[i].text, piece...)
		return textOf(s.blocks[i].said.Type, v.Delta.Text)
	case "message_delta": // its counts are the totals so far
		if v.Delta.Stop != "" {
			s.a.Stop = v.Delta.Stop
		}
		if len(v.Usage) > 0 {
			_ = json.Unmarshal(v.Usage, &s.a.Usage) // what is told replaces what was; an odd field is left out
		}
	case "message_stop":
		s.stopped = true
	}
	if kindOf(v.Error) == '{' && s.failed == nil { // in the OpenAI form, too, before anything was said
		s.failed = json.RawMessage(string(data))
	}
	return ""
}

func textOf(kind, text string) string {
	if kind != "text" {
		return ""
	}
	return text
}

// answer implements assembler.
func (s *anthropicStream) answer() (json.RawMessage, bool) {
	if s.failed != nil {
		return s.failure(), false
	}
	a := s.a
	a.Content = []anthropicSaid{}
	for _, b := range s.blocks {
		switch b.said.Type {
		case "text":
			b.said.Text = string(b.text)
		case "tool_use":
			if b.said.Input = json.RawMessage(b.text); !json.Valid(b.text) {
				b.said.Input = json.RawMessage("{}")
			}
		default:
			continue
		}
		a.Content = append(a.Content, b.said)
	}
	body, err := encode(a)
	if err != nil {
		return nil, false
	}
	return body, s.started && s.stopped && !s.room.over
}

// failure is the error that came as an event, with what the stream had named before: its tokens are billed.
func (s *anthropicStream) failure() json.RawMessage {
	if !s.started {
		return s.failed
	}
	model, err := encode(s.a.Model)
	if err != nil {
		return s.failed
	}
	usage, err := encode(s.a.Usage)
	if err != nil {
		return s.failed
	}
	return withField(withField(s.failed, "model", string(model)), "usage", string(usage))
}
