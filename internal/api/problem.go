package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"

	"batchwright/internal/jobs"
	"batchwright/internal/report"
	"batchwright/internal/store"
	"batchwright/internal/webhook"
)

// maxFaults bounds the errors of one problem.
const maxFaults = 100

// problem is a refusal that the API makes itself. Its detail and faults are safe to show; err is for the log only.
type problem struct {
	status int
	detail string
	faults []Fault
	count  int    // faults in all, when more than faults holds
	total  *int64 // jobs of an open upload
	header http.Header
	err    error
}

func (p *problem) Error() string {
	if p.err != nil {
		return fmt.Sprintf("api: %d: %s: %v", p.status, p.detail, p.err)
	}
	return fmt.Sprintf("api: %d: %s", p.status, p.detail)
}

func (p *problem) Unwrap() error { return p.err }

// invalid refuses a request that breaks the contract in the given ways; the first way counts for each field.
func invalid(faults []Fault) error {
	slices.SortStableFunc(faults, func(a, b Fault) int { return strings.Compare(a.Field, b.Field) })
	faults = slices.CompactFunc(faults, func(a, b Fault) bool { return a.Field == b.Field })
	detail := faults[0].Message
	if faults[0].Field != "" {
		detail = faults[0].Field + ": " + detail
	}
	if n := len(faults) - 1; n > 0 {
		detail += fmt.Sprintf(" (and %d more, see errors)", n)
	}
	return &problem{status: http.StatusBadRequest, detail: detail, faults: faults}
}

func invalidField(field, code, message string) error {
	return invalid([]Fault{{Field: field, Code: code, Message: message}})
}

// sorts are the kinds of problem, by status: the word in the type URN, and the title.
var sorts = map[int][2]string{
	http.StatusBadRequest:            {"invalid-request", "The request breaks the contract"},
	http.StatusUnauthorized:          {"unauthorized", "The API key is missing or unknown"},
	http.StatusNotFound:              {"not-found", "Not found"},
	http.StatusMethodNotAllowed:      {"method-not-allowed", "The path doesn't take this method"},
	http.StatusRequestTimeout:        {"body-stalled", "The request body stopped coming"},
	http.StatusConflict:              {"conflict", "The request contradicts an earlier one"},
	http.StatusGone:                  {"gone", "It was there, and has been removed"},
	http.StatusRequestEntityTooLarge: {"too-large", "The body is over a limit"},
	http.StatusUnsupportedMediaType:  {"unsupported-media-type", "The body has a type that isn't taken here"},
	http.StatusUnprocessableEntity:   {"unprocessable", "The submission can't be run"},
	http.StatusInternalServerError:   {"internal", "A fault of the server"},
	http.StatusServiceUnavailable:    {"unavailable", "The server can't answer right now"},
}

var statuses = map[jobs.Code]int{
	jobs.Invalid:       http.StatusBadRequest,
	jobs.NotFound:      http.StatusNotFound,
	jobs.Conflict:      http.StatusConflict,
	jobs.TooLarge:      http.StatusRequestEntityTooLarge,
	jobs.Unprocessable: http.StatusUnprocessableEntity,
	jobs.Unavailable:   http.StatusServiceUnavailable,
}

// problemOf finds what to tell the caller about err.
func problemOf(err error) *problem {
	if p, ok := errors.AsType[*problem](err); ok { // first: package jobs wraps what broke a stream
		return p
	}
	if e, ok := errors.AsType[*jobs.Error](err); ok && statuses[e.Code] != 0 {
		return jobsProblem(e)
	}
	if e, ok := errors.AsType[*report.Error](err); ok {
		return &problem{status: http.StatusBadRequest, detail: e.Field + ": " + e.Message, faults: []Fault{{Field: e.Field, Code: "invalid", Message: e.Message}}, err: e}
	}
	if e, ok := errors.AsType[*webhook.Error](err); ok {
		return webhookProblem(e)
	}
	if errors.Is(err, store.ErrNotFound) {
		return &problem{status: http.StatusNotFound, detail: "there is no such thing in this project", err: err}
	}
	// Refused, reset, timed out or in a deadlock: the database or Redis, as bodies have problems of their own.
	if _, ok := errors.AsType[net.Error](err); ok || store.IsTransient(err) {
		return &problem{
			status: http.StatusServiceUnavailable, detail: "a service behind this one can't be reached; try again in a moment",
			header: http.Header{"Retry-After": {"1"}}, err: err,
		}
	}
	return &problem{status: http.StatusInternalServerError, detail: "something broke on our side; the log has it under this request's id", err: err}
}

func jobsProblem(e *jobs.Error) *problem {
	p := &problem{status: statuses[e.Code], detail: e.Message, count: e.LineCount, total: e.TotalJobs, err: e}
	for _, l := range e.Lines {
		p.faults = append(p.faults, Fault{Line: l.Line, CustomID: clip(l.CustomID), Field: fieldPointer(l.Field), Code: l.Code, Message: l.Message})
	}
	if p.status == http.StatusServiceUnavailable {
		p.header = http.Header{"Retry-After": {"10"}}
	}
	if field := fieldPointer(e.Field); field != "" && p.faults == nil {
		p.detail = field + ": " + e.Message
		p.faults = []Fault{{Field: field, Code: string(e.Code), Message: e.Message}}
	}
	return p
}

// fieldPointer turns the domain's way of naming a field, route.steps[0].model, into the contract's. Headers keep their names.
func fieldPointer(field string) string {
	if field == "" || field[0] >= 'A' && field[0] <= 'Z' {
		return field
	}
	return "/" + strings.NewReplacer(".", "/", "[", "/", "]", "").Replace(clip(field))
}

// writeProblem answers with err as application/problem+json. It is the only place that writes errors.
func (h *handlers) writeProblem(w http.ResponseWriter, r *http.Request, err error) {
	ctx, id := r.Context(), w.Header().Get("X-Request-Id")
	if context.Cause(ctx) != nil && errors.Is(err, context.Canceled) {
		h.Log.DebugContext(ctx, "client went away", "request_id", id)
		w.WriteHeader(499) // nobody reads it; the access log does
		return
	}
	p := problemOf(err)
	if p.status >= http.StatusInternalServerError {
		h.Log.ErrorContext(ctx, "request failed", "method", r.Method, "path", r.URL.Path, "request_id", id, "err", err)
	} else {
		h.Log.DebugContext(ctx, "request refused", "method", r.Method, "path", r.URL.Path, "request_id", id, "err", err)
	}
	sort, ok := sorts[p.status]
	if !ok {
		sort = [2]string{"invalid-request", http.StatusText(p.status)}
	}
	count := max(p.count, len(p.faults))
	body, err := json.Marshal(Problem{
		Type: "urn:batchwright:problem:" + sort[0], Title: sort[1], Status: p.status, Detail: p.detail,
		Instance: "urn:batchwright:request:" + id, ErrorCount: count, Errors: p.faults[:min(len(p.faults), maxFaults)], TotalJobs: p.total,
	})
	if err != nil {
		panic(err) // strings and ints
	}
	maps.Copy(w.Header(), p.header)
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(p.status)
	_, _ = w.Write(body) // a client that has gone needs no answer
}
