package gateway

import (
	"bytes"
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

// streamed asks for a stream in a body, whatever it said before. Everything else stays as it is, byte for byte.
func streamed(body json.RawMessage) json.RawMessage {
	trimmed := bytes.TrimSpace(body)
	if len(trimmed) < 2 || trimmed[0] != '{' {
		return body
	}
	if old := field(trimmed, "stream"); old != nil {
		start := cap(trimmed) - cap(old) // both begin in one array
		return bytes.Join([][]byte{trimmed[:start], []byte("true"), trimmed[start+len(old):]}, nil)
	}
	inner := bytes.TrimSpace(trimmed[1 : len(trimmed)-1])
	comma := ","
	if len(inner) == 0 {
		comma = ""
	}
	return bytes.Join([][]byte{trimmed[:len(trimmed)-1], []byte(comma + `"stream":true}`)}, nil)
}

// streamNative asks for a stream where the body says so. A body in the OpenAI chat form asks for usage as that form does.
func streamNative(endpoint string, body json.RawMessage) (string, json.RawMessage) {
	if s, ok := any(openAI{}).(streamer); ok && inChatForm(endpoint) {
		return s.stream(endpoint, body)
	}
	return endpoint, streamed(body)
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
		if p, ok := any(openAI{}).(streamer); ok && kindOf(field(data, "choices")) == '[' {
			s.chat = p.assemble()
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
