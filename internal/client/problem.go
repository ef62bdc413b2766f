package client

import (
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"net/http"
)

// Problem is an answer that refuses a request (RFC 9457). Branch on Status or Type; the texts are for people.
type Problem struct {
	Type       string  `json:"type"` // urn:batchwright:problem: and a word; empty when something else answered
	Title      string  `json:"title"`
	Status     int     `json:"status"`
	Detail     string  `json:"detail"`
	Instance   string  `json:"instance"` // the request's id in the server's log
	Errors     []Fault `json:"errors"`   // at most 100
	ErrorCount int     `json:"error_count"`
}

// Fault is one thing that is wrong with a request.
type Fault struct {
	Line     int    `json:"line"` // of the submission, from 1; 0 when the fault isn't a line's
	CustomID string `json:"custom_id"`
	Field    string `json:"field"`
	Code     string `json:"code"`
	Message  string `json:"message"`
}

// Error has the status and what happened; the faults are in Errors.
func (p *Problem) Error() string { return fmt.Sprintf("%s (HTTP %d)", p.Detail, p.Status) }

// problemOf reads the refusal. Proxies and other servers answer in their own ways; their pages are of no use to the
// caller.
func problemOf(res *http.Response) error {
	p := new(Problem)
	mediaType, _, _ := mime.ParseMediaType(res.Header.Get("Content-Type"))
	if mediaType == "application/problem+json" {
		data, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
		if err == nil && json.Unmarshal(data, p) == nil && p.Detail != "" {
			p.Status = res.StatusCode
			p.ErrorCount = max(p.ErrorCount, len(p.Errors))
			return p
		}
	}
	detail := "the answer doesn't come from Batchwright; is the URL right?"
	if location, err := res.Location(); err == nil && res.StatusCode < 400 {
		detail = "redirected to " + location.Redacted() + "; use that URL"
	}
	return &Problem{Title: http.StatusText(res.StatusCode), Status: res.StatusCode, Detail: detail}
}
