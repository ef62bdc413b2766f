package gateway

import (
	"context"
	"encoding/json"
	"net/http"
	"strconv"
	"time"
)

func init() { register(local{}) }

// local is the provider that runs in this process: no key, no network, no cost. Its one model, extractive, summarises
// by picking sentences; extractive.go says how. It takes and gives the OpenAI chat form.
type local struct{}

// Extractive is the one model of the provider local.
const Extractive = "extractive"

// defaultSummaryTokens is the length of a summary when the chat sets no cap.
const defaultSummaryTokens = 160

// Name implements Provider.
func (local) Name() string { return "local" }

func (local) open(*EngineOptions) server { return local{} }

// Encode implements Provider. An extract can't be JSON.
func (local) Encode(model string, c *Chat) (string, json.RawMessage, error) {
	if model != Extractive {
		return "", nil, invalid("model_not_found", "provider local has one model, %q", Extractive)
	}
	if c.JSON || c.Schema != nil {
		return "", nil, invalid("unsupported_parameter", "local/extractive can't answer in JSON; leave it out of the chain or drop the output schema")
	}
	return openAI{}.Encode(model, c)
}

// EncodeRaw implements Provider.
func (local) EncodeRaw(body json.RawMessage) (string, error) { return openAI{}.EncodeRaw(body) }

// Decode implements Provider.
func (local) Decode(status int, h http.Header, body []byte) (*Response, error) {
	return openAI{}.Decode(status, h, body)
}

// chatBody is what the built-in providers read of a chat.
type chatBody struct {
	Model               string
	MaxTokens           int `json:"max_tokens"`
	MaxCompletionTokens int `json:"max_completion_tokens"`
	Messages            []struct {
		Role    string
		Content json.RawMessage
	}
	Format *struct {
		Type string
		JSON struct{ Schema json.RawMessage } `json:"json_schema"`
	} `json:"response_format"`
}

func (c *chatBody) maxTokens() int { return max(c.MaxTokens, c.MaxCompletionTokens) }

// lastUser returns the content of the last user message.
func (c *chatBody) lastUser() string {
	for i := len(c.Messages) - 1; i >= 0; i-- {
		if c.Messages[i].Role == "user" {
			return content(c.Messages[i].Content)
		}
	}
	return ""
}

// serve implements server.
func (local) serve(ctx context.Context, body []byte, limit time.Duration) (served, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, errFirstByte)
	defer cancel()
	var c chatBody
	if err := json.Unmarshal(body, &c); err != nil {
		return refuse(http.StatusBadRequest, "invalid_json")
	}
	if c.Model != Extractive {
		return refuse(http.StatusNotFound, "model_not_found")
	}
	if c.Format != nil && c.Format.Type != "text" {
		return refuse(http.StatusBadRequest, "unsupported_parameter")
	}
	tokens := c.maxTokens()
	if tokens <= 0 {
		tokens = defaultSummaryTokens
	}
	summary, whole, err := extract(ctx, documentOf(c.lastUser()), tokens*bytesPerToken)
	if err != nil {
		return served{}, err
	}
	if summary == "" {
		return refuse(http.StatusBadRequest, "no_document")
	}
	prompt := 0
	for _, m := range c.Messages {
		prompt += len(content(m.Content))
	}
	finish := FinishStop
	if !whole {
		finish = FinishLength
	}
	return chatAnswer("local/"+Extractive, summary, finish, tokensIn(prompt), tokensIn(len(summary))), nil
}

// bytesPerToken is the rule by which the built-in providers count: one token for every 4 bytes of UTF-8, rounded up.
const bytesPerToken = 4

func tokensIn(bytes int) int { return (bytes + bytesPerToken - 1) / bytesPerToken }

var jsonHeader = http.Header{"Content-Type": {"application/json"}}

// chatAnswer answers with an OpenAI chat completion.
func chatAnswer(model, said string, finish Finish, in, out int) served {
	b := make([]byte, 0, 320+len(said)+len(said)/8)
	b = append(b, `{"id":"chatcmpl-batchwright","object":"chat.completion","created":0,"model":`...)
	b = appendString(b, model)
	b = append(b, `,"choices":[{"index":0,"message":{"role":"assistant","content":`...)
	b = appendString(b, said)
	b = append(b, `},"finish_reason":"`...)
	b = append(b, finish...)
	b = append(b, `"}],"usage":{"prompt_tokens":`...)
	b = strconv.AppendInt(b, int64(in), 10)
	b = append(b, `,"completion_tokens":`...)
	b = strconv.AppendInt(b, int64(out), 10)
	b = append(b, `,"total_tokens":`...)
	b = strconv.AppendInt(b, int64(in)+int64(out), 10)
	b = append(b, `}}`...)
	return served{http.StatusOK, jsonHeader, b, &Response{
		Model: model, Text: said, Finish: finish, Usage: Usage{Input: int64(in), Output: int64(out), Known: in > 0 || out > 0},
	}}
}

// refuse answers with an OpenAI error.
func refuse(status int, code string) (served, error) {
	kind := "invalid_request_error"
	if status >= 500 {
		kind = "server_error"
	}
	body := []byte(`{"error":{"message":"` + code + `","type":"` + kind + `","param":null,"code":"` + code + `"}}`)
	return served{status: status, header: jsonHeader, body: body}, nil
}
