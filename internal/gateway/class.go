package gateway

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"
)

// Class is what a failure means for what to do next, whatever the provider called it. Its values are stored in rows.
type Class string

// The classes. The gateway itself never returns Truncated, InvalidOutput for a wrong schema, Budget or Uncertain: they
// are for its callers, who judge answers, hold money and find unfinished calls after a crash.
const (
	OK              Class = ""
	InvalidRequest  Class = "invalid_request"  // the request is at fault: no step will take it
	Unsupported     Class = "unsupported"      // this model can't take the request: its window, or a parameter; another may
	Auth            Class = "auth"             // this step's credential or configuration is dead
	Quota           Class = "quota"            // this step's money is used up
	NotFound        Class = "not_found"        // the model or path is gone at this step
	RateLimited     Class = "rate_limited"     // wait as told, then the same step again
	Overloaded      Class = "overloaded"       // the provider has no room now
	Timeout         Class = "timeout"          // no answer in time
	Network         Class = "network"          // the connection failed
	Server          Class = "server"           // the provider failed, or answered something unreadable
	ContentFiltered Class = "content_filtered" // a filter or the model refused
	Truncated       Class = "truncated"        // the answer ended for length
	InvalidOutput   Class = "invalid_output"   // an answer came and is no use
	Budget          Class = "budget"           // our own budget forbids the send
	Cancelled       Class = "cancelled"        // the caller gave up
	Uncertain       Class = "uncertain"        // sent, and nobody knows how it ended
	Unknown         Class = "unknown"          // no rule knows it: not retried on the same step
)

// Retryable reports whether the same step may be tried again.
func (c Class) Retryable() bool {
	switch c {
	case RateLimited, Overloaded, Timeout, Network, Server:
		return true
	}
	return false
}

// NextStep reports whether another step of the chain may help.
func (c Class) NextStep() bool {
	switch c {
	case OK, InvalidRequest, Budget, Cancelled:
		return false
	}
	return true
}

// Error is every failure of a step. Its text is safe to show: it is built from the class, the status and the code, and
// never from a provider's free text, which can echo prompts or keys.
type Error struct {
	Class      Class
	Step       int    // index in the request
	Provider   string // slug of the step
	Model      string // model asked for
	Status     int    // HTTP status, 0 when no answer came
	Code       string // the provider's own code, at most 64 characters of [A-Za-z0-9_.:-], or one of ours
	RetryAfter time.Duration
	// Uncertain: this send, or an earlier one of the same Run, may have been billed although no complete answer came.
	Uncertain bool
	Message   string    // what happened and what to do, in one line
	Err       error     // the cause, for the log; may be nil
	Attempts  []Attempt // every send of the Run, in order
}

func (e *Error) Error() string {
	if e.Provider == "" {
		return "gateway: " + e.text()
	}
	name := e.Provider
	if e.Model != "" {
		name += "/" + e.Model
	}
	return fmt.Sprintf("gateway: step %d (%s): %s", e.Step, name, e.text())
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

func (e *Error) text() string {
	if e.Message != "" {
		return e.Message
	}
	return message(verdict{class: e.Class}, e.Status, e.Code)
}

// ClassOf returns the class of err: OK for nil, Cancelled and Timeout for the errors of package context, Unknown for
// an error that is not ours.
func ClassOf(err error) Class {
	if err == nil {
		return OK
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Class
	}
	switch {
	case errors.Is(err, context.Canceled):
		return Cancelled
	case errors.Is(err, context.DeadlineExceeded):
		return Timeout
	}
	return Unknown
}

// says holds the first half of a message, per class; what follows in brackets is the status and the code.
var says = map[Class]string{
	InvalidRequest:  "the provider refused the request as invalid",
	Unsupported:     "the model can't take this request",
	Auth:            "the provider refused the credential or the account; check the key, its permissions and the region",
	Quota:           "the provider's credit, spend limit or quota is used up; top it up or route elsewhere",
	NotFound:        "the provider doesn't know this model or path; check the model name and the base URL",
	RateLimited:     "the provider limits the rate",
	Overloaded:      "the provider is overloaded",
	Timeout:         "no answer came in time",
	Network:         "the connection failed",
	Server:          "the provider failed",
	ContentFiltered: "a content filter or the model itself refused",
	Truncated:       "the answer was cut off at the token limit",
	InvalidOutput:   "the answer is no use",
	Budget:          "the budget is used up",
	Cancelled:       "the caller gave up",
	Uncertain:       "the call was sent and its end is unknown",
	Unknown:         "the provider failed in a way that is not known here",
}

// message is the one place that words a failure.
func message(v verdict, status int, code string) string {
	var b strings.Builder
	b.WriteString(cmp.Or(v.says, says[v.class], string(v.class)))
	switch {
	case status != 0 && code != "":
		fmt.Fprintf(&b, " (status %d, code %s)", status, code)
	case status != 0:
		fmt.Fprintf(&b, " (status %d %s)", status, http.StatusText(status))
	case code != "":
		fmt.Fprintf(&b, " (code %s)", code)
	}
	return strings.Replace(b.String(), " )", ")", 1)
}

// invalid is an error of ours about the request, before anything is sent.
func invalid(code, format string, args ...any) *Error {
	return &Error{Class: InvalidRequest, Code: code, Message: fmt.Sprintf(format, args...)}
}
