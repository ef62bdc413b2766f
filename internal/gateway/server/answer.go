package server

import (
	"encoding/json"
	"math"
	"net/http"
	"strconv"
	"time"
)

// The codes of Cloudflare's envelope that this server answers with. Where a failure has no documented code, code 7000,
// which the management API uses for what doesn't validate, stands in.
const (
	aigNoGateway  = 2001 // the gateway is unknown, or no credential is there for the provider
	aigRate       = 2003 // the gateway's rate limit
	aigNoAnswer   = 2005 // no answer from any step
	aigNoRoute    = 2008 // the provider or the model can't be routed to
	aigToken      = 2009 // the gateway's token is missing or wrong
	aigGuardedIn  = 2016 // guardrails blocked the request
	aigGuardedOut = 2017 // guardrails blocked the answer
	aigNoModel    = 2019 // not a chat completion, usually because the provider/ prefix is missing
	aigBlockedIn  = 2029 // data loss prevention blocked the request
	aigBlockedOut = 2030 // data loss prevention blocked the answer
	aigScanner    = 7013 // a check can't be made
	aigInvalid    = 7000 // what doesn't validate
)

// refusal is a failure of the gateway itself. Its message holds no secrets, prompts or answers.
type refusal struct {
	status     int
	code       int
	message    string
	retryAfter time.Duration // 0: the answer doesn't say
	final      bool          // no other step may be tried instead
}

func badRequest(message string) *refusal {
	return &refusal{status: http.StatusBadRequest, code: aigInvalid, message: message}
}

func unroutable(message string) *refusal {
	return &refusal{status: http.StatusBadRequest, code: aigNoRoute, message: message}
}

// envelope is the form of gateway.ai.cloudflare.com as captured in October 2026, with all nine keys and the singular
// "error".
type envelope struct {
	Success      bool            `json:"success"`
	Result       []struct{}      `json:"result"`
	Messages     []struct{}      `json:"messages"`
	Error        []envelopeError `json:"error"`
	Name         string          `json:"name"`
	HTTPCode     int             `json:"httpCode"`
	InternalCode int             `json:"internalCode"`
	Message      string          `json:"message"`
	Description  string          `json:"description"`
}

type envelopeError struct {
	Code    int    `json:"code"`
	Message string `json:"message"`
}

func (f *refusal) body() []byte {
	b, _ := json.Marshal(envelope{ // only strings and numbers: it always encodes
		Result: []struct{}{}, Messages: []struct{}{}, Error: []envelopeError{{f.code, f.message}},
		Name: "AiGatewayError", HTTPCode: f.status, InternalCode: f.code, Message: f.message, Description: f.message,
	})
	return b
}

// write answers with the envelope and returns its body. Retry-After is an extension of ours.
func (f *refusal) write(w http.ResponseWriter) []byte {
	body := f.body()
	h := w.Header()
	h["Content-Type"] = contentJSON
	h["Content-Length"] = []string{strconv.Itoa(len(body))}
	if f.retryAfter > 0 {
		h["Retry-After"] = []string{strconv.FormatInt(int64(math.Ceil(f.retryAfter.Seconds())), 10)}
	}
	w.WriteHeader(f.status)
	_, _ = w.Write(body) // the client may be gone
	return body
}

var (
	contentJSON = []string{"application/json"}
	statusHit   = []string{"HIT"}
	statusMiss  = []string{"MISS"}
)
