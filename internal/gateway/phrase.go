package gateway

import (
	"encoding/json"
	"errors"
	"regexp"
	"strings"
	"time"
)

// This file continues failure.go for the providers that tell some failures apart by words alone. The words are looked
// at here and never shown.

// codeSpend is our code for a limit on spending that the provider tells in words.
const codeSpend = "spend_limit"

// A phrase gives a failure with certain words the code that it should have had.
type phrase struct {
	status int    // 0 is any that is not 2xx
	words  string // lower case, a part of the message
	code   string // of the table codes
}

// phrases by provider, the most specific first. Sources: the providers' error pages and answers quoted in public bug
// reports, read in November 2026.
var phrases = map[string][]phrase{
	"anthropic": {
		{0, "prompt is too long", "context_length_exceeded"},
		{400, "exceed context limit", "context_length_exceeded"}, // input and max_tokens together
		{400, "api usage limits", codeSpend},                     // a limit that the organisation or workspace set itself
		{400, "credit balance is too low", codeSpend},
		{400, "out of extra usage", codeSpend},
		{400, "is deprecated for this model", "unsupported_parameter"}, // temperature and its like
		{400, "cannot both be specified", "unsupported_parameter"},
		{400, "assistant message prefill", "unsupported_value"}, // the chat may not end with the assistant
		{400, "maximum allowed number of output tokens", "unsupported_value"},
		{400, "output_config.format", "unsupported_value"}, // a kind of schema that others may take
	},
	"google-ai-studio": {
		{400, "exceeds the maximum number of tokens", "context_length_exceeded"},
		{400, "api key not valid", "api_key_invalid"},
		{400, "api key expired", "api_key_invalid"},
	},
	"cohere": {
		{0, "too many tokens", "context_length_exceeded"},
		{429, "calls / month", codeSpend}, // a trial key's 1,000
	},
	"workers-ai": {
		{0, "context window limit", "context_length_exceeded"},
		{0, "maximum context length", "context_length_exceeded"},
	},
	"replicate": {
		{422, "additional property", "unsupported_parameter"}, // the model's input has no such field
		{0, "maximum context length", "context_length_exceeded"},
	},
}

// failureOf is failure for a provider with phrases.
func failureOf(provider string, status int, body []byte) *Error {
	e := failure(status, body)
	switch e.Class {
	case InvalidRequest, Unsupported, RateLimited, Unknown: // what has a code of its own needs no words
	default:
		return e
	}
	message := strings.ToLower(said(body))
	for _, p := range phrases[provider] {
		if (p.status == 0 || p.status == status) && strings.Contains(message, p.words) {
			named := ours(p.code, status)
			named.RetryAfter, named.Uncertain = e.RetryAfter, e.Uncertain
			return named
		}
	}
	return e
}

// said finds what a failed answer says to people, in the shapes of the providers above.
func said(body []byte) string {
	var v struct {
		Message, Detail json.RawMessage
		Error, Errors   json.RawMessage
	}
	if json.Unmarshal(trim(body), &v) != nil {
		return ""
	}
	all := text(v.Message) + "\n" + text(v.Detail)
	switch kindOf(v.Error) {
	case '"':
		all += "\n" + text(v.Error)
	case '{':
		var o struct{ Message json.RawMessage }
		if json.Unmarshal(v.Error, &o) == nil {
			all += "\n" + text(o.Message)
		}
	}
	if kindOf(v.Errors) == '[' {
		var os []struct{ Message json.RawMessage }
		if json.Unmarshal(v.Errors, &os) == nil {
			for _, o := range os {
				all += "\n" + text(o.Message)
			}
		}
	}
	return all
}

// A wait that is told in words, such as Replicate's "Your rate limit resets in ~30s."
var saidWait = regexp.MustCompile(`(?:resets|available) in ~?([0-9]{1,6}(?:\.[0-9]{1,3})?) ?([smh])`)

func waitInWords(said string) time.Duration {
	m := saidWait.FindStringSubmatch(strings.ToLower(said))
	if m == nil {
		return 0
	}
	d, _ := parseWait(m[1]+m[2], time.Time{})
	return d
}

// readAnswer decodes a 2xx answer. A field of an odd type is left out, no more.
func readAnswer(status int, body []byte, v any) *Error {
	err := json.Unmarshal(trim(body), v)
	if err == nil || isTypeError(err) {
		return nil
	}
	e := failure(status, body)
	if e.Code != codeHTML {
		e = ours(codeInvalidAnswer, status)
	}
	e.Err = err
	return e
}

// late makes the failure that came inside a 2xx answer: it may have been billed unless its usage is told.
func late(e *Error, r *Response) *Error {
	if e.Class == Unknown {
		e.Class = Server
		e.Message = message(verdict{class: Server}, e.Status, e.Code)
	}
	e.Uncertain = !r.Usage.Known
	return e
}

// stopped makes the failure of an answer that ended for a reason which makes it no use, under the provider's own code.
func stopped(class Class, status int, code string, r *Response) *Error {
	code = safeCode(code)
	return &Error{Class: class, Status: status, Code: code, Uncertain: !r.Usage.Known, Message: message(verdict{class: class}, status, code)}
}

func isTypeError(err error) bool {
	_, ok := errors.AsType[*json.UnmarshalTypeError](err)
	return ok
}

func clean(s string) string { return strings.ReplaceAll(s, "\x00", "\uFFFD") }
