//go:build clients

package clients

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
)

// question is what the stand-in reads of a request, in whatever provider's form.
type question struct {
	Model         string `json:"model"`
	Stream        bool   `json:"stream"`
	StreamOptions struct {
		IncludeUsage bool `json:"include_usage"`
	} `json:"stream_options"`
	Tools          []json.RawMessage `json:"tools"`
	EncodingFormat string            `json:"encoding_format"`
	Messages       []turn            `json:"messages"`
	Contents       []turn            `json:"contents"` // Gemini's
	Input          json.RawMessage   `json:"input"`    // of Responses and of embeddings

	body []byte
}

// turn is one message of any provider's form.
type turn struct {
	Role    string          `json:"role"`
	Type    string          `json:"type"`
	Content json.RawMessage `json:"content"`
	Parts   json.RawMessage `json:"parts"`
	Output  string          `json:"output"`
}

// words returns the text of a content, which is a string or an array of parts.
func words(raw json.RawMessage) (text string, fromTool bool) {
	if json.Unmarshal(raw, &text) == nil {
		return text, false
	}
	var parts []struct {
		Type    string          `json:"type"`
		Text    string          `json:"text"`
		Content json.RawMessage `json:"content"`
	}
	_ = json.Unmarshal(raw, &parts)
	for _, p := range parts {
		text += p.Text
		if p.Type == "tool_result" {
			inner, _ := words(p.Content)
			text, fromTool = text+inner, true
		}
	}
	return text, fromTool
}

// last returns the text that is to be answered, and whether it is a tool's.
func (q *question) last() (string, bool) {
	turns := append(append([]turn(nil), q.Messages...), q.Contents...)
	if len(turns) == 0 {
		if text, _ := words(q.Input); text != "" {
			return text, false
		}
		_ = json.Unmarshal(q.Input, &turns)
	}
	if len(turns) == 0 {
		return "", false
	}
	t := turns[len(turns)-1]
	if t.Type == "function_call_output" {
		return t.Output, true
	}
	if t.Parts != nil {
		t.Content = t.Parts
	}
	text, fromTool := words(t.Content)
	return text, fromTool || t.Role == "tool"
}

func (q *question) text() string {
	text, fromTool := q.last()
	switch {
	case q.Model == "json":
		return arguments
	case fromTool:
		return "the tool said: " + text
	}
	return "you said: " + text
}

// callsTool: what it gets from the tool, it tells.
func (q *question) callsTool() bool {
	_, fromTool := q.last()
	return len(q.Tools) > 0 && !fromTool
}

const arguments = `{"city":"Oslo"}`

type object = map[string]any

// The tokens of each form: they tell in the gateway's log which one was read.
var (
	chatUsage     = object{"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}
	responseUsage = object{"input_tokens": 19, "output_tokens": 4, "total_tokens": 23, "input_tokens_details": object{"cached_tokens": 0},
		"output_tokens_details": object{"reasoning_tokens": 0}}
	geminiUsage = object{"promptTokenCount": 17, "candidatesTokenCount": 3, "totalTokenCount": 20}
)

func (s *stand) chat(w *writer, r *http.Request, a *asked, q *question) {
	message, reason := object{"role": "assistant", "content": q.text(), "refusal": nil}, "stop"
	if q.callsTool() {
		reason = "tool_calls"
		message["content"] = nil
		message["tool_calls"] = []any{object{"id": "call_1", "type": "function", "function": object{"name": "weather", "arguments": arguments}}}
	}
	if !q.Stream {
		w.json(object{"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": q.Model + "-2026",
			"choices": []any{object{"index": 0, "message": message, "finish_reason": reason, "logprobs": nil}}, "usage": chatUsage})
		return
	}
	w.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
	_, _ = io.WriteString(w, ": a comment\n\n")
	chunk := func(delta object, reason, usage any) {
		choices := []any{object{"index": 0, "delta": delta, "finish_reason": reason}}
		if usage != nil {
			choices = []any{}
		}
		w.event("", object{"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": q.Model + "-2026", "choices": choices, "usage": usage})
	}
	chunk(object{"role": "assistant", "content": ""}, nil, nil)
	if q.callsTool() {
		chunk(object{"tool_calls": []any{object{"index": 0, "id": "call_1", "type": "function", "function": object{"name": "weather", "arguments": ""}}}}, nil, nil)
		for _, p := range pieces(arguments) {
			chunk(object{"tool_calls": []any{object{"index": 0, "function": object{"arguments": p}}}}, nil, nil)
		}
	} else {
		for i, p := range pieces(q.text()) {
			if i == 1 && strings.HasSuffix(q.text(), ": live") && !s.wait(r, a, s.gate(a.header.Get("X-Case"))) {
				return
			}
			chunk(object{"content": p}, nil, nil)
		}
	}
	chunk(object{}, reason, nil)
	if q.StreamOptions.IncludeUsage {
		chunk(nil, nil, chatUsage)
	}
	w.event("", "[DONE]")
}

func responses(w *writer, q *question) {
	item := object{"id": "msg_1", "type": "message", "role": "assistant", "status": "completed",
		"content": []any{object{"type": "output_text", "text": q.text(), "annotations": []any{}}}}
	if q.callsTool() {
		item = object{"id": "fc_1", "type": "function_call", "call_id": "call_1", "name": "weather", "arguments": arguments, "status": "completed"}
	}
	whole := object{"id": "resp_1", "object": "response", "created_at": 1, "status": "completed", "model": q.Model + "-2026", "output": []any{item},
		"usage": responseUsage, "error": nil, "incomplete_details": nil, "instructions": nil, "metadata": object{}, "parallel_tool_calls": true,
		"temperature": 1, "tool_choice": "auto", "tools": []any{}, "top_p": 1}
	if !q.Stream {
		w.json(whole)
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	n := 0
	send := func(kind string, v object) {
		v["type"], v["sequence_number"] = kind, n
		n++
		w.event(kind, v)
	}
	begun := object{}
	for k, v := range whole {
		begun[k] = v
	}
	begun["status"], begun["output"], begun["usage"] = "in_progress", []any{}, nil
	send("response.created", object{"response": begun})
	send("response.output_item.added", object{"output_index": 0, "item": object{"id": "msg_1", "type": "message", "role": "assistant", "status": "in_progress", "content": []any{}}})
	at := func(more object) object {
		more["item_id"], more["output_index"], more["content_index"] = "msg_1", 0, 0
		return more
	}
	send("response.content_part.added", at(object{"part": object{"type": "output_text", "text": "", "annotations": []any{}}}))
	for _, p := range pieces(q.text()) {
		send("response.output_text.delta", at(object{"delta": p, "logprobs": []any{}}))
	}
	send("response.output_text.done", at(object{"text": q.text(), "logprobs": []any{}}))
	send("response.content_part.done", at(object{"part": object{"type": "output_text", "text": q.text(), "annotations": []any{}}}))
	send("response.output_item.done", object{"output_index": 0, "item": item})
	send("response.completed", object{"response": whole})
}

// messages speaks Anthropic's form.
func messages(w *writer, q *question) {
	block, reason := object{"type": "text", "text": q.text()}, "end_turn"
	if q.callsTool() {
		block, reason = object{"type": "tool_use", "id": "toolu_1", "name": "weather", "input": json.RawMessage(arguments)}, "tool_use"
	}
	message := object{"id": "msg_1", "type": "message", "role": "assistant", "model": q.Model, "content": []any{block}, "stop_reason": reason,
		"stop_sequence": nil, "usage": object{"input_tokens": 13, "output_tokens": 5}}
	if !q.Stream {
		w.json(message)
		return
	}
	w.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
	send := func(kind string, v object) {
		v["type"] = kind
		w.event(kind, v)
	}
	message["content"], message["stop_reason"], message["usage"] = []any{}, nil, object{"input_tokens": 13, "output_tokens": 1}
	send("message_start", object{"message": message})
	send("ping", object{})
	if q.Model == "breaks" {
		send("error", object{"error": object{"type": "overloaded_error", "message": "Overloaded"}})
		return
	}
	if q.callsTool() {
		send("content_block_start", object{"index": 0, "content_block": object{"type": "tool_use", "id": "toolu_1", "name": "weather", "input": object{}}})
		for _, p := range pieces(arguments) {
			send("content_block_delta", object{"index": 0, "delta": object{"type": "input_json_delta", "partial_json": p}})
		}
	} else {
		send("content_block_start", object{"index": 0, "content_block": object{"type": "text", "text": ""}})
		for i, p := range pieces(q.text()) {
			if q.Model == "cut" && i == 1 {
				panic(http.ErrAbortHandler)
			}
			send("content_block_delta", object{"index": 0, "delta": object{"type": "text_delta", "text": p}})
		}
	}
	send("content_block_stop", object{"index": 0})
	send("message_delta", object{"delta": object{"stop_reason": reason, "stop_sequence": nil}, "usage": object{"output_tokens": 5}})
	send("message_stop", object{})
}

func gemini(text, reason string) object {
	c := object{"index": 0, "content": object{"role": "model", "parts": []any{object{"text": text}}}}
	if reason != "" {
		c["finishReason"] = reason
	}
	return object{"candidates": []any{c}, "usageMetadata": geminiUsage, "modelVersion": "gemini-2.5-pro", "responseId": "r1"}
}
