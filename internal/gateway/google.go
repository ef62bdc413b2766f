package gateway

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
)

func init() { register(google{}) }

// google speaks generateContent, the form of the Gemini API at Google AI Studio, and takes bodies in the OpenAI chat
// form at the endpoint that Google keeps for them. A model may be named with the collection it is in, such as
// tunedModels/mine; without one it is in models.
//
// Google's prompt cache needs no marks. Thinking counts against the cap on generated tokens: an answer may end for
// length before any text.
type google struct{}

// Name implements Provider.
func (google) Name() string { return "google-ai-studio" }

// The endpoint in the OpenAI form wants a bearer token, which the native one refuses; with both a request is refused.
func (google) reach() reach {
	return reach{base: "https://generativelanguage.googleapis.com", header: "X-Goog-Api-Key", chatBearer: true}
}

const (
	googleVersion      = "v1beta/"
	googleChatEndpoint = "v1beta/openai/chat/completions"
	googleWhole        = ":generateContent"
	googleStreamed     = ":streamGenerateContent?alt=sse"
)

type googleRequest struct {
	Config   *googleConfig   `json:"generationConfig,omitempty"`
	System   *googleContent  `json:"systemInstruction,omitempty"`
	Contents []googleContent `json:"contents"`
}

type googleConfig struct {
	MaxTokens   int             `json:"maxOutputTokens,omitempty"`
	Temperature *float64        `json:"temperature,omitempty"`
	TopP        *float64        `json:"topP,omitempty"`
	Seed        *int64          `json:"seed,omitempty"`
	Stop        []string        `json:"stopSequences,omitempty"`
	MIME        string          `json:"responseMimeType,omitempty"`
	Schema      json.RawMessage `json:"responseJsonSchema,omitempty"`
}

type googleContent struct {
	Role  string       `json:"role,omitempty"` // user or model
	Parts []googlePart `json:"parts"`
}

type googlePart struct {
	Text    string          `json:"text,omitempty"`
	Thought bool            `json:"thought,omitempty"`
	Call    json.RawMessage `json:"functionCall,omitempty"`
}

// Encode implements Provider. A seed is folded into the 31 bits that the API has for it.
func (p google) Encode(model string, c *Chat) (string, json.RawMessage, error) {
	if err := c.onlyChat(p.Name()); err != nil {
		return "", nil, err
	}
	config := googleConfig{MaxTokens: c.MaxTokens, Temperature: c.Temperature, TopP: c.TopP, Stop: c.Stop}
	if c.Seed != nil {
		seed := *c.Seed & (1<<31 - 1)
		config.Seed = &seed
	}
	if c.JSON || c.Schema != nil {
		config.MIME, config.Schema = "application/json", c.Schema
	}
	var r googleRequest
	if config.asks() {
		r.Config = &config
	}
	whole := *c
	whole.Stable = Stable{}
	system, turns := splitSystem(parts(&whole, ""))
	for _, s := range system {
		if r.System == nil {
			r.System = &googleContent{}
		}
		r.System.Parts = append(r.System.Parts, googlePart{Text: s.text})
	}
	for _, turn := range turns {
		role := turn.role
		if role == "assistant" {
			role = "model"
		}
		if last := len(r.Contents) - 1; last >= 0 && r.Contents[last].Role == role { // turns alternate
			r.Contents[last].Parts = append(r.Contents[last].Parts, googlePart{Text: turn.text})
			continue
		}
		r.Contents = append(r.Contents, googleContent{role, []googlePart{{Text: turn.text}}})
	}
	if len(r.Contents) == 0 {
		return "", nil, invalid("no_messages", "the chat has no message with any text in it")
	}
	body, err := encode(r)
	return googleVersion + googleModel(model) + googleWhole, body, err
}

func (c *googleConfig) asks() bool {
	return c.MaxTokens != 0 || c.Temperature != nil || c.TopP != nil || c.Seed != nil || len(c.Stop) > 0 || c.MIME != ""
}

// googleModel is the resource name of a model, safe as a part of a path.
func googleModel(model string) string {
	collection, name, ok := strings.Cut(model, "/")
	if !ok || collection != "models" && collection != "tunedModels" {
		collection, name = "models", model
	}
	return collection + "/" + url.PathEscape(name)
}

// EncodeRaw implements Provider.
func (google) EncodeRaw(body json.RawMessage) (string, error) {
	return rawChat(googleChatEndpoint, body)
}

// The answer. It is also what a stream is put together to.
type googleAnswer struct {
	Candidates []googleCandidate `json:"candidates,omitempty"`
	Feedback   *googleFeedback   `json:"promptFeedback,omitempty"`
	Usage      *googleUsage      `json:"usageMetadata,omitempty"`
	Model      string            `json:"modelVersion,omitempty"`
	ID         string            `json:"responseId,omitempty"`
}

type googleCandidate struct {
	Index   int           `json:"index"`
	Content googleContent `json:"content"`
	Finish  string        `json:"finishReason,omitempty"`
}

type googleFeedback struct {
	Block string `json:"blockReason,omitempty"`
}

type googleUsage struct {
	Prompt   count `json:"promptTokenCount,omitempty"`
	Cached   count `json:"cachedContentTokenCount,omitempty"` // a part of the prompt
	Said     count `json:"candidatesTokenCount,omitempty"`
	Thoughts count `json:"thoughtsTokenCount,omitempty"`      // billed as output, and not in Said
	Tools    count `json:"toolUsePromptTokenCount,omitempty"` // input, and not in Prompt
	Total    count `json:"totalTokenCount,omitempty"`
}

func (u *googleUsage) normal() Usage {
	if u == nil {
		return Usage{}
	}
	cached := min(u.Cached, u.Prompt)
	return Usage{
		Input: int64(u.Prompt - cached + u.Tools), CacheRead: int64(cached),
		Output: int64(u.Said + u.Thoughts), Reasoning: int64(u.Thoughts),
		Known: u.Prompt > 0 || u.Said > 0 || u.Thoughts > 0,
	}
}

// googleFilters are the reasons to stop that mean a filter. Source: the Gemini API's reference, FinishReason.
var googleFilters = map[string]bool{
	"SAFETY": true, "RECITATION": true, "BLOCKLIST": true, "PROHIBITED_CONTENT": true, "SPII": true,
	"IMAGE_SAFETY": true, "IMAGE_PROHIBITED_CONTENT": true, "IMAGE_RECITATION": true,
}

// Decode implements Provider.
func (p google) Decode(status int, h http.Header, body []byte) (*Response, error) {
	body = firstOf(body)
	if status/100 != 2 {
		return nil, p.failure(status, body)
	}
	if isChatAnswer(body) {
		return openAI{name: p.Name()}.Decode(status, h, body)
	}
	var a googleAnswer
	if e := readAnswer(status, body, &a); e != nil {
		return nil, e
	}
	r := &Response{Model: cleanName(a.Model), Usage: a.Usage.normal()}
	switch {
	case kindOf(field(trim(body), "error")) == '{':
		return r, late(p.failure(status, body), r)
	case len(a.Candidates) == 0 && a.Feedback != nil && a.Feedback.Block != "":
		r.Finish = FinishFiltered
		return r, stopped(ContentFiltered, status, a.Feedback.Block, r)
	case len(a.Candidates) == 0 && a.Usage == nil && a.Feedback == nil:
		return r, ours(codeInvalidAnswer, status)
	case len(a.Candidates) == 0:
		return r, ours(codeNoAnswer, status)
	}
	c, tools := a.Candidates[0], false
	for _, part := range c.Content.Parts {
		if !part.Thought {
			r.Text += part.Text
		}
		tools = tools || kindOf(part.Call) == '{'
	}
	r.Text = clean(r.Text)
	switch c.Finish {
	case "STOP":
		r.Finish = FinishStop
		if tools {
			r.Finish = FinishTool
		}
	case "MAX_TOKENS":
		r.Finish = FinishLength
	default:
		r.Finish = FinishOther
	}
	switch {
	case googleFilters[c.Finish]:
		r.Finish = FinishFiltered
		return r, stopped(ContentFiltered, status, c.Finish, r)
	case r.Text != "", tools, r.Finish == FinishLength:
		return r, nil
	}
	return r, ours(codeNoAnswer, status)
}

// firstOf takes an error out of the array in which the endpoint in the OpenAI form sends it.
func firstOf(body []byte) []byte {
	var all []json.RawMessage
	if kindOf(trim(body)) == '[' && json.Unmarshal(trim(body), &all) == nil && len(all) > 0 {
		return all[0]
	}
	return body
}

// failure reads a failed answer. A quota that counts by the day is used up for the day, whatever wait is told.
func (p google) failure(status int, body []byte) *Error {
	e := failureOf(p.Name(), status, body)
	if e.Class != RateLimited {
		return e
	}
	var v struct {
		Error struct {
			Details []struct {
				Violations []struct{ QuotaID string }
			}
		}
	}
	if err := json.Unmarshal(trim(body), &v); err != nil && !isTypeError(err) {
		return e
	}
	for _, d := range v.Error.Details {
		for _, violation := range d.Violations {
			if strings.Contains(violation.QuotaID, "PerDay") {
				return ours("quota_exceeded", status)
			}
		}
	}
	return e
}

// stream implements streamer.
func (google) stream(endpoint string, body json.RawMessage) (string, json.RawMessage) {
	if base, ok := strings.CutSuffix(endpoint, googleWhole); ok {
		return base + googleStreamed, body
	}
	return streamNative(endpoint, body)
}

func (google) assemble() assembler { return &eitherStream{native: &googleStream{}} }

// googleStream puts an answer together. Each event is an answer of its own with the next piece of text; the stream has
// no end mark but a reason to stop. Thoughts are passed over; their tokens are in the usage.
type googleStream struct {
	a      googleAnswer
	text   []byte
	calls  []googlePart
	finish string
	failed json.RawMessage
	room   room
}

// event implements assembler.
func (s *googleStream) event(_ string, data []byte) string {
	var v struct {
		googleAnswer
		Error json.RawMessage
	}
	if err := json.Unmarshal(data, &v); err != nil && !isTypeError(err) {
		return ""
	}
	if kindOf(v.Error) == '{' && s.failed == nil {
		s.failed = json.RawMessage(string(data))
	}
	if v.Model != "" {
		s.a.Model = v.Model
	}
	if v.ID != "" {
		s.a.ID = v.ID
	}
	if v.Usage != nil { // the totals so far
		s.a.Usage = v.Usage
	}
	if v.Feedback != nil {
		s.a.Feedback = v.Feedback
	}
	piece := ""
	for _, c := range v.Candidates {
		if c.Index != 0 {
			continue
		}
		for _, part := range c.Content.Parts {
			switch {
			case !s.room.take(len(part.Text) + len(part.Call) + 32):
			case kindOf(part.Call) == '{':
				s.calls = append(s.calls, googlePart{Call: part.Call})
			case !part.Thought:
				piece += part.Text
			}
		}
		if c.Finish != "" {
			s.finish = c.Finish
		}
	}
	s.text = append(s.text, piece...)
	return piece
}

// answer implements assembler.
func (s *googleStream) answer() (json.RawMessage, bool) {
	if s.failed != nil {
		return s.failed, false
	}
	a := s.a
	blocked := a.Feedback != nil && a.Feedback.Block != ""
	if s.finish != "" || len(s.text) > 0 || len(s.calls) > 0 {
		c := googleCandidate{Content: googleContent{Role: "model", Parts: s.calls}, Finish: s.finish}
		if len(s.text) > 0 {
			c.Content.Parts = append([]googlePart{{Text: string(s.text)}}, s.calls...)
		}
		a.Candidates = []googleCandidate{c}
	}
	body, err := encode(a)
	if err != nil {
		return nil, false
	}
	return body, (s.finish != "" || blocked) && !s.room.over
}
