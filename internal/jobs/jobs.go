// Package jobs owns what a batch means: which kinds of work exist, what may be submitted, how a job is planned and run, and what an
// outcome turns into. Postgres (package store) is the truth; tickets that arrive over a queue are hints.
//
// The life of a job:
//
//	submitted ─ plan ─▶ planned ─ claim ─▶ running ─ settle ─▶ succeeded | failed
//	                      │                  │  ▲
//	                      │ identical job    │  │ due again (retry, worker lost)
//	                      ▼                  ▼  │
//	                    waiting ◀──────── waiting          cancelled from anywhere before the end
//
// Planning renders each request, computes its key and looks it up in the durable cache before it inserts the job, so a job that was
// answered before is born succeeded. Identical jobs of the batches that a project runs at the same time wait for one of them. Every call is
// written to the ledger before it is made.
package jobs

import (
	"fmt"

	"batchwright/internal/gateway"
)

// Code says what kind of refusal an [Error] is.
type Code string

// The codes; package api maps them to HTTP statuses.
const (
	Invalid       Code = "invalid"       // the request as a whole is wrong
	NotFound      Code = "not_found"     // the project has no such thing
	Conflict      Code = "conflict"      // it clashes with something that is there
	Unprocessable Code = "unprocessable" // well-formed, but some lines can't be run
	TooLarge      Code = "too_large"     // over a limit
	Unavailable   Code = "unavailable"   // somebody else's server, which the request needs, doesn't answer: later it may
)

// Error is a refusal whose texts are safe to show to the caller. Any other error is an internal one.
type Error struct {
	Code      Code
	Field     string // the field at fault, if it is one
	Message   string // what happened and what to do
	Lines     []LineError
	LineCount int    // how many lines are wrong, listed or not
	TotalJobs *int64 // how many jobs an open upload has, when the request was wrong about that
	Err       error  // for the log only
}

// LineError says what is wrong with one job of a submission.
type LineError struct {
	Line     int // 1 is the first line, or the first job of a JSON list
	CustomID string
	Field    string
	Code     string
	Message  string
}

// Error describes the refusal.
func (e *Error) Error() string {
	if e.Field != "" {
		return fmt.Sprintf("jobs: %s: %s: %s", e.Code, e.Field, e.Message)
	}
	return fmt.Sprintf("jobs: %s: %s", e.Code, e.Message)
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

func invalidf(field, format string, a ...any) *Error {
	return &Error{Code: Invalid, Field: field, Message: fmt.Sprintf(format, a...)}
}

// failure is why an attempt at a job failed. Its message is shown to people and holds no input and no answer.
type failure struct {
	class   gateway.Class
	message string
	retry   bool   // another attempt may help
	raw     string // the answer that was no use, to be kept but neither shown with the message nor logged
}

func (f *failure) Error() string { return fmt.Sprintf("%s: %s", f.class, f.message) }

func failf(class gateway.Class, format string, a ...any) *failure {
	return &failure{class: class, message: fmt.Sprintf(format, a...)}
}
