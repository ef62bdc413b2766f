package jobs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"batchwright/internal/gateway"
	"batchwright/internal/prompt"
	"batchwright/internal/store"
)

func init() { register(chat{}) }

// chat sends a raw OpenAI chat body, byte for byte.
type chat struct{}

func (chat) name() string                                         { return "chat" }
func (chat) needsTemplate() bool                                  { return false }
func (chat) needsModel() bool                                     { return false }
func (chat) params(raw json.RawMessage) (json.RawMessage, *Error) { return noParams(raw) }

// chatBody is the part of a body that we must understand.
type chatBody struct {
	Model               string            `json:"model"`
	Messages            []json.RawMessage `json:"messages"`
	Stream              bool              `json:"stream"`
	N                   *int              `json:"n"`
	MaxTokens           int               `json:"max_tokens"`
	MaxCompletionTokens int               `json:"max_completion_tokens"`
	ResponseFormat      struct {
		Type string `json:"type"`
	} `json:"response_format"`
}

func (b chatBody) maxTokens() int { return max(b.MaxTokens, b.MaxCompletionTokens) }

// ceiling names the field of the body that caps the answer. The body travels byte for byte, so that only its sender can raise it.
func (b chatBody) ceiling() ceiling {
	if b.MaxTokens > b.MaxCompletionTokens {
		return ceiling{field: "body.max_tokens", tokens: b.MaxTokens}
	}
	return ceiling{field: "body.max_completion_tokens", tokens: b.MaxCompletionTokens}
}

func (chat) accept(b *batch, l *line) (json.RawMessage, *store.NewDocument, *LineError) {
	if err := l.only("body"); err != nil {
		return nil, nil, err
	}
	var body chatBody
	if err := json.Unmarshal(l.Body, &body); err != nil {
		return nil, nil, l.problem("body", "invalid_body", jsonProblem(err)+": want an OpenAI chat completions body")
	}
	switch {
	case body.Model == "":
		return nil, nil, l.problem("body.model", "missing", "is missing")
	case len(body.Messages) == 0:
		return nil, nil, l.problem("body.messages", "missing", "is missing or empty")
	case body.Stream:
		return nil, nil, l.problem("body.stream", "unsupported", "a batch doesn't stream: leave it out")
	case body.N != nil && *body.N != 1:
		return nil, nil, l.problem("body.n", "unsupported", "a job has one answer: submit it n times with cache off instead")
	}
	switch _, model, err := prompt.KeyRaw(l.Body); {
	case err != nil:
		return nil, nil, l.problem("body", "invalid_body", promptProblem(err))
	case model != body.Model: // encoding/json folds case, providers don't
		return nil, nil, l.problem("body.model", "ambiguous", "is there in two spellings: keep the one in lower case")
	}
	for i, s := range b.route.Steps {
		if s.Model != "" && s.Model != body.Model {
			return nil, nil, l.problem("body.model", "model_mismatch",
				fmt.Sprintf("is not the model %q of the route's step %d: the body is sent byte for byte, so they must agree, or the step must name none", s.Model, i))
		}
		if reason := b.check(s, body.Model, time.Now()); reason != "" {
			return nil, nil, l.problem("body.model", "unknown_model", reason)
		}
	}
	return l.Body, nil, nil
}

func (chat) plan(b *batch, in store.Input) (planned, error) {
	key, model, err := prompt.KeyRaw(in.Input)
	if err != nil {
		return planned{}, failf(gateway.InvalidRequest, "the body can't be read: %s", promptProblem(err))
	}
	p := planned{route: b.routeOf(in.Input, nil, func() int { return prompt.EstimateTokens(string(in.Input)) }), size: len(in.Input), model: model}
	for _, name := range p.route.answerers(model) {
		p.keys = append(p.keys, chatKey(key, name, model))
	}
	return p, nil
}

// weigh counts the texts of the messages, and of what else the model reads. A picture counts as nothing.
func (chat) weigh(_ context.Context, _ *scale, in store.Input, _ planned) (weight, error) {
	var body struct {
		chatBody
		Messages []struct {
			Content json.RawMessage `json:"content"`
		} `json:"messages"`
		Tools    json.RawMessage `json:"tools"`
		Response json.RawMessage `json:"response_format"`
	}
	if err := json.Unmarshal(in.Input, &body); err != nil {
		return weight{}, failf(gateway.InvalidRequest, "the body can't be read: %s", jsonProblem(err))
	}
	messages := make([]prompt.Message, len(body.Messages))
	for i, m := range body.Messages {
		var parts []struct{ Text string }
		if json.Unmarshal(m.Content, &messages[i].Content) != nil && json.Unmarshal(m.Content, &parts) == nil {
			for _, part := range parts {
				messages[i].Content += part.Text
			}
		}
	}
	return weight{calls: 1, caps: float64(body.maxTokens()), count: func(t *prompt.Tokenizer) float64 {
		return countMessages(t, messages) + float64(t.Count(string(body.Tools))+t.Count(string(body.Response)))
	}}, nil
}

// chatKey is the key of a body at an answerer: the body's own, which holds the model, unless the answerer isn't that model.
func chatKey(key prompt.Key, name, model string) prompt.Key {
	if name == model {
		return key
	}
	return prompt.DeriveKey("chat", key[:], []byte(name))
}

func (chat) run(ctx context.Context, t *task) (result, error) {
	raw := json.RawMessage(t.job.Input)
	var body chatBody
	if err := json.Unmarshal(raw, &body); err != nil {
		return result{}, failf(gateway.InvalidRequest, "the body can't be read: %s", jsonProblem(err))
	}
	key, _, err := prompt.KeyRaw(raw)
	if err != nil {
		return result{}, failf(gateway.InvalidRequest, "the body can't be read: %s", promptProblem(err))
	}
	tokens := prompt.EstimateTokens(string(raw))
	t.route = t.batch.routeOf(raw, nil, func() int { return tokens })
	steps := make([]gateway.Step, len(t.route.Steps))
	for i, s := range t.route.Steps {
		if steps[i], err = gateway.NewRawStep(s.Provider, body.Model, raw, s.config()); err != nil {
			return result{}, err
		}
		steps[i].Via = s.Via
	}
	resp, err := t.call(ctx, steps, tokens, body.maxTokens(), "")
	if err != nil {
		return result{}, err
	}
	key = chatKey(key, t.route.Steps[resp.Step].answerer(body.Model), body.Model)
	var read func(string) (prompt.Answer, error)
	if form := body.ResponseFormat.Type; form == "json_object" || form == "json_schema" {
		read = prompt.ReadJSON
	}
	out, err := checked(resp, body.Model, key, body.ceiling(), read)
	if wrong, ok := errors.AsType[*prompt.AnswerError](err); ok { // the body is sent byte for byte, so nothing can be added to it
		f := unusable(wrong, resp.Text, 0)
		f.retry = true
		return out, f
	}
	return out, err
}
