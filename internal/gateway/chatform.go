package gateway

import (
	"encoding/json"
	"strings"
)

// This file is for providers with a form of their own that take the OpenAI chat form as well, at another endpoint.

// inChatForm reports whether an endpoint speaks the OpenAI chat form.
func inChatForm(endpoint string) bool {
	path, _, _ := strings.Cut(endpoint, "?")
	return strings.HasSuffix(path, openAIEndpoint)
}

// isChatAnswer reports whether an answer is a chat completion of OpenAI's.
func isChatAnswer(body []byte) bool {
	body = trim(body)
	return kindOf(field(body, "choices")) == '['
}

// rawChat returns where a body in the OpenAI chat form goes.
func rawChat(endpoint string, body json.RawMessage) (string, error) {
	if _, err := (openAI{}).EncodeRaw(body); err != nil {
		return "", err
	}
	return endpoint, nil
}

// streamNative asks for a stream where the body says so. A body in the OpenAI chat form asks for usage as that form does.
func streamNative(endpoint string, body json.RawMessage) (string, json.RawMessage) {
	if inChatForm(endpoint) {
		return openAI{}.stream(endpoint, body)
	}
	return endpoint, withField(body, "stream", "true")
}

// eitherStream reads a provider's own stream, or one in the OpenAI chat form: the first event that shows which decides.
type eitherStream struct {
	native, chat assembler
	known        bool
}

// event implements assembler.
func (s *eitherStream) event(name string, data []byte) string {
	if !s.known && len(data) > 0 && data[0] == '{' {
		s.known = true
		if kindOf(field(data, "choices")) == '[' {
			s.chat = openAI{}.assemble()
		}
	}
	if s.chat != nil {
		return s.chat.event(name, data)
	}
	return s.native.event(name, data)
}

// answer implements assembler.
func (s *eitherStream) answer() (json.RawMessage, bool) {
	if s.chat != nil {
		return s.chat.answer()
	}
	return s.native.answer()
}

// room bounds what a stream may pile up, in bytes. What would be more is lost, and the answer is then never complete.
type room struct {
	used int
	over bool
}

func (r *room) take(n int) bool {
	r.over = r.over || r.used+n > defaultAnswerBytes
	if !r.over {
		r.used += n
	}
	return !r.over
}

// part reports whether there is room for one more part, beside so many.
func (r *room) part(have int) bool {
	r.over = r.over || have >= maxParts
	return !r.over
}
