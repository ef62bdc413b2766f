package gateway

import (
	"bytes"
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// This file holds every fact about what failures mean, but for what one provider alone means by a status; for that see
// oddity. The rows are read from the most specific to the least: the
// code, then the gateway's number, then the type, then the status. What no row knows is Unknown.

// A verdict is one row. Uncertain: the failure hides whether a model has run.
type verdict struct {
	class     Class
	uncertain bool
	says      string // replaces the class's words
}

// Codes of ours, for failures that no provider named.
const (
	codeInvalidAnswer = "invalid_answer"   // 2xx, and not what the protocol promises
	codeAnswerTooBig  = "answer_too_large" // over the size cap
	codeHTML          = "html_answer"      // an edge or a proxy answered in the provider's place
	codeNoAnswer      = "empty_answer"     // 2xx without any text
	codeRefusal       = "refusal"          // the model's own refusal
	codeDeadline      = "deadline"         // the request's total deadline
	codeFirstByte     = "first_byte"       // the step's timeout to the first byte
	codeIdle          = "idle"             // the step's timeout between two pieces of the answer
	codeCircuitOpen   = "circuit_open"     // our breaker: the model failed too often just now
	codeLimit         = "limit"            // our own limit: requests, tokens or dollars a minute
	codeCrowded       = "crowded"          // no place among the calls in flight in time
	codeNoKey         = "no_live_key"      // all keys of the provider are set aside
	codeNotConfigured = "not_configured"   // this process can't serve the provider
	codeOptions       = "invalid_options"  // steps or options out of range
	codeSpendPolicy   = "spend_policy"     // Cloudflare: the cap of a policy
	codeDNS           = "dns_error"        // the host name doesn't resolve
	codeConnect       = "connect_failed"   // nothing listens, or no route
	codeTLS           = "tls_error"        // the certificate or the handshake
	codeLost          = "connection_lost"  // after the connection stood, before a whole answer
)

// codes maps the code strings of providers. Sources: OpenAI's and Anthropic's error pages, Azure, Groq, OpenRouter,
// Gemini, Mistral, read in November 2026.
var codes = map[string]verdict{
	// money: waiting doesn't help
	"insufficient_quota":                      {class: Quota},
	"credit_balance_exhausted":                {class: Quota},
	"organization_spend_limit_exceeded":       {class: Quota},
	"project_spend_limit_exceeded":            {class: Quota},
	"organization_usage_limit_exceeded":       {class: Quota},
	"billing_hard_limit_reached":              {class: Quota},
	"billing_not_active":                      {class: Quota},
	"billing_error":                           {class: Quota},
	"enforced_spend_limit_reached":            {class: Quota},
	"contract_spend_limit_reached":            {class: Quota},
	"linked_organization_spend_limit_reached": {class: Quota},
	"insufficient_balance":                    {class: Quota},
	"quota_exceeded":                          {class: Quota},
	"in_flight_budget_exhausted":              {class: RateLimited}, // OpenRouter: the money comes back when calls end
	codeSpendPolicy:                           {class: Quota},
	codeSpend:                                 {class: Quota},
	"rate_limit_exceeded":                     {class: RateLimited},
	"rate_limit_error":                        {class: RateLimited},
	"slow_down":                               {class: RateLimited},
	"too_many_requests":                       {class: RateLimited},
	"resource_exhausted":                      {class: RateLimited},
	"server_is_overloaded":                    {class: Overloaded},
	"overloaded":                              {class: Overloaded},
	"overloaded_error":                        {class: Overloaded},
	"capacity_exceeded":                       {class: Overloaded},
	"engine_overloaded":                       {class: Overloaded},
	"service_unavailable":                     {class: Overloaded},
	"context_length_exceeded":                 {class: Unsupported, says: "the prompt is longer than the model's context window; split it or use a model with a larger one"},
	"string_above_max_length":                 {class: Unsupported},
	"request_too_large":                       {class: Unsupported},
	"unsupported_parameter":                   {class: Unsupported, says: "the model doesn't take one of the parameters; remove it from the template"},
	"unsupported_value":                       {class: Unsupported, says: "the model doesn't take the value of one of the parameters; change it in the template"},
	"invalid_json":                            {class: InvalidRequest},
	"invalid_schema":                          {class: InvalidRequest},
	"model_not_found":                         {class: NotFound},
	"model_not_available":                     {class: NotFound},
	"model_decommissioned":                    {class: NotFound},
	"model_deprecated":                        {class: NotFound},
	"model_not_supported":                     {class: NotFound}, // Hugging Face: no host has it
	"deploymentnotfound":                      {class: NotFound},
	"unknown_model":                           {class: NotFound},
	"invalid_model":                           {class: NotFound},
	"not_found_error":                         {class: NotFound},
	"invalid_api_key":                         {class: Auth},
	"api_key_invalid":                         {class: Auth},
	"incorrect_api_key":                       {class: Auth},
	"account_deactivated":                     {class: Auth},
	"organization_restricted":                 {class: Auth},
	"unsupported_country_region_territory":    {class: Auth},
	"permission_error":                        {class: Auth},
	"permission_denied":                       {class: Auth},
	"authentication_error":                    {class: Auth},
	"unauthenticated":                         {class: Auth},
	"failed_precondition":                     {class: Auth}, // Gemini: billing or region
	"content_filter":                          {class: ContentFiltered},
	"content_policy_violation":                {class: ContentFiltered},
	"responsibleaipolicyviolation":            {class: ContentFiltered},
	"moderation_blocked":                      {class: ContentFiltered},
	"json_validate_failed":                    {class: InvalidOutput, uncertain: true, says: "the model's answer was not the JSON asked for"}, // Groq
	codeRefusal:                               {class: ContentFiltered, says: "the model refused to answer"},
	"timeout_error":                           {class: Timeout, uncertain: true},
	"deadline_exceeded":                       {class: Timeout, uncertain: true},
	"internal_error":                          {class: Server},
	"api_error":                               {class: Server},
	"server_error":                            {class: Server},
	"internal_server_error":                   {class: Server},
	codeInvalidAnswer:                         {class: Server, uncertain: true, says: "the provider answered something that is not a chat completion"},
	codeHTML:                                  {class: Server, uncertain: true, says: "a web page came instead of an answer; check the base URL, or wait if an edge is in trouble"},
	codeNoAnswer:                              {class: InvalidOutput, says: "the provider answered without any text"},
	codeAnswerTooBig:                          {class: InvalidOutput, uncertain: true, says: "the answer is larger than the limit for one answer"},
	codeDNS:                                   {class: Network, says: "the provider's host name doesn't resolve; check the base URL and the network"},
	codeConnect:                               {class: Network, says: "no connection to the provider; check the base URL and the network"},
	codeTLS:                                   {class: Network, says: "no secure connection to the provider; check the base URL and the certificates"},
	codeLost:                                  {class: Network, says: "the connection broke before the whole answer came"},
	"insufficient_system_resource":            {class: Overloaded}, // DeepSeek, as a finish reason
	codeDeadline:                              {class: Timeout, says: "no answer came before the request's total deadline"},
	codeIdle:                                  {class: Timeout, uncertain: true, says: "the answer began and then stood still"},
	codeCircuitOpen:                           {class: RateLimited, says: "the model failed too often just now and is left alone for a while"},
	codeLimit:                                 {class: RateLimited, says: "the limit that is set for the provider is used up"},
	codeCrowded:                               {class: RateLimited, says: "the model takes no more calls at once, and no place came free in time"},
	codeNoKey:                                 {class: Auth, says: "every key of the provider was refused and is set aside for a while"},
	codeFirstByte:                             {class: Timeout, says: "no answer began within the step's timeout"},
}

// numbers maps the numeric codes of Cloudflare's envelopes: AI Gateway (2xxx, 7xxx) and Workers AI (3xxx to 5xxx).
// Source: Cloudflare's documentation and captured answers, November 2026.
var numbers = map[int]verdict{
	2001: {class: Auth, says: "the gateway doesn't exist, or holds no credential for the provider; check the gateway's name and its provider keys"},
	2003: {class: RateLimited, says: "the gateway limits the rate"},
	2005: {class: Server, uncertain: true, says: "the gateway got no usable answer from the provider"}, // sent with status 400, yet transient
	2008: {class: NotFound},                                                                            // model or provider not routable
	2009: {class: Auth, says: "the gateway refused its token; check the token and its permission to run"},
	2016: {class: ContentFiltered}, // prompt blocked by guardrails
	2017: {class: ContentFiltered}, // answer blocked by guardrails
	2019: {class: InvalidRequest},  // malformed chat completion
	2021: {class: Quota, says: "the gateway's credits are used up, or the model needs a key of your own"},
	2029: {class: ContentFiltered},          // request blocked by DLP
	2030: {class: ContentFiltered},          // answer blocked by DLP
	7003: {class: NotFound},                 // model not in the catalogue
	7013: {class: Overloaded},               // guardrail scanner down
	3003: {class: InvalidRequest},           // bad input
	3006: {class: Unsupported},              // too large
	3007: {class: Timeout, uncertain: true}, // timeout
	3008: {class: Timeout, uncertain: true}, // aborted
	3023: {class: Auth},                     // account not allowed
	3036: {class: Quota},                    // the day's free allocation
	3039: {class: InvalidRequest},
	3040: {class: Overloaded}, // out of capacity
	3041: {class: Auth},
	3042: {class: NotFound},
	4006: {class: Quota}, // the day's free allocation
	5004: {class: InvalidRequest},
	5005: {class: NotFound},       // wrong method or path, sent with status 405
	5006: {class: InvalidRequest}, // the input doesn't match the model's schema
	5019: {class: NotFound},       // as 5005
	5021: {class: Unsupported},    // the prompt and the cap are over the context window
	5007: {class: NotFound},       // no such model, sent with status 400
	5016: {class: Auth},           // model terms not agreed to
	5018: {class: Auth},
	5035: {class: Auth},
}

// statuses maps what is left.
var statuses = map[int]verdict{
	400: {class: InvalidRequest},
	401: {class: Auth},
	402: {class: Quota},
	403: {class: Auth},
	404: {class: NotFound},
	405: {class: NotFound}, // a wrong base URL or endpoint: another step may be right
	408: {class: Timeout},
	409: {class: Server}, // a conflict that passes
	410: {class: NotFound},
	413: {class: Unsupported},
	415: {class: InvalidRequest},
	422: {class: InvalidRequest},
	429: {class: RateLimited},
	498: {class: Overloaded}, // Groq: flex tier full
	500: {class: Server},
	502: {class: Server},
	503: {class: Overloaded},
	504: {class: Timeout, uncertain: true},
	520: {class: Server, uncertain: true}, // Cloudflare edge: the origin answered nothing usable
	521: {class: Network},
	522: {class: Network},
	523: {class: Network},
	524: {class: Timeout, uncertain: true}, // Cloudflare edge: the origin was reached and never answered
	529: {class: Overloaded},
}

// answered says what a failed answer's body and status hold, in any of the shapes that providers and gateways send.
type answered struct {
	status     int
	code, kind string // error.code and error.type
	number     int    // the numeric code of a Cloudflare envelope
	retryAfter time.Duration
}

// verdict walks the tables.
func (a answered) verdict() verdict {
	if v, ok := codes[strings.ToLower(a.code)]; ok {
		return v
	}
	if v, ok := numbers[a.number]; ok {
		return v
	}
	if a.number != 0 && a.status == http.StatusBadRequest {
		return verdict{class: Unknown} // Cloudflare sends 400 for a lot, a missing credential among it
	}
	if v, ok := codes[strings.ToLower(a.kind)]; ok {
		return v
	}
	if v, ok := statuses[a.status]; ok {
		return v
	}
	if a.status >= 500 {
		return verdict{class: Server}
	}
	return verdict{class: Unknown}
}

// err makes the *Error. A failure inside a 2xx answer came after generation had begun, so it may have been billed.
func (a answered) err(status int) *Error {
	v := a.verdict()
	code := a.code
	if code == "" && a.number != 0 {
		code = strconv.Itoa(a.number)
	}
	if code == "" {
		code = a.kind
	}
	return &Error{
		Class: v.class, Status: status, Code: code, RetryAfter: a.retryAfter,
		Uncertain: v.uncertain || status/100 == 2, Message: message(v, status, code),
	}
}

// failure reads a failed answer: any body with a status that is not 2xx, and a 2xx body that holds an error.
func failure(status int, body []byte) *Error {
	a := readFailure(body)
	if a.status == 0 || status/100 != 2 {
		a.status = status
	}
	if isHTML(body) && (status/100 == 2 || status >= 500) {
		a.code = codeHTML
	}
	e := a.err(status)
	if status/100 != 2 && e.Code == codeHTML {
		e.Uncertain = statuses[status].uncertain
	}
	return e
}

// ours makes an *Error for one of our own codes.
func ours(code string, status int) *Error {
	v := codes[code]
	return &Error{Class: v.class, Status: status, Code: code, Uncertain: v.uncertain, Message: message(v, status, code)}
}

// readFailure probes the shapes, in this order: internalCode, error[0].code, errors[0].code (Cloudflare); error as an
// object (OpenAI, Anthropic, Gemini, Perplexity, OpenRouter, policy denials) or a string; a flat code (Mistral).
func readFailure(body []byte) answered {
	var a answered
	var v struct {
		Error        json.RawMessage
		Errors       json.RawMessage
		InternalCode json.RawMessage
		Code         json.RawMessage
		Type         json.RawMessage
	}
	if json.Unmarshal(trim(body), &v) != nil {
		return a
	}
	for _, n := range []int{number(v.InternalCode), firstCode(v.Error), firstCode(v.Errors)} {
		if n != 0 {
			a.number = n
			return a
		}
	}
	if kindOf(v.Error) == '{' {
		a.readObject(v.Error)
		return a
	}
	a.setCode(v.Code)
	a.kind = safeCode(text(v.Type))
	return a
}

// readObject reads an error object.
func (a *answered) readObject(raw json.RawMessage) {
	var o struct {
		Code    json.RawMessage
		Type    json.RawMessage
		Status  json.RawMessage
		Details json.RawMessage
		Bucket  json.RawMessage
		Spent   json.RawMessage
	}
	if json.Unmarshal(raw, &o) != nil {
		return
	}
	a.setCode(o.Code)
	a.kind = safeCode(text(o.Type))
	if s := safeCode(text(o.Status)); s != "" && a.code == "" { // Gemini's RESOURCE_EXHAUSTED
		a.code = s
	}
	if o.Bucket != nil || o.Spent != nil {
		a.code = codeSpendPolicy
	}
	switch kindOf(o.Details) {
	case '{': // Anthropic
		var d struct {
			Code string `json:"error_code"`
		}
		if json.Unmarshal(o.Details, &d) == nil && safeCode(d.Code) != "" {
			a.code = safeCode(d.Code)
		}
	case '[': // Gemini
		var ds []struct{ Reason, RetryDelay string }
		if json.Unmarshal(o.Details, &ds) != nil {
			return
		}
		for _, d := range ds {
			if _, known := codes[strings.ToLower(d.Reason)]; known {
				a.code = d.Reason
			}
			if w, ok := parseWait(d.RetryDelay, time.Time{}); ok {
				a.retryAfter = w
			}
		}
	}
}

// setCode takes a code that may be a string or a number. A number that reads as a failed HTTP status is one.
func (a *answered) setCode(raw json.RawMessage) {
	if n := number(raw); n != 0 {
		if n >= 400 && n <= 599 {
			a.status = n
		} else {
			a.code = strconv.Itoa(n)
		}
		return
	}
	a.code = safeCode(text(raw))
}

// firstCode reads the code of the first element of an array of Cloudflare's error objects.
func firstCode(raw json.RawMessage) int {
	if kindOf(raw) != '[' {
		return 0
	}
	var es []struct{ Code json.RawMessage }
	if json.Unmarshal(raw, &es) != nil || len(es) == 0 {
		return 0
	}
	return number(es[0].Code)
}

// number reads a positive integer, also from inside a string; 0 when there is none.
func number(raw json.RawMessage) int {
	n, err := strconv.Atoi(strings.Trim(string(raw), `"`))
	if err != nil {
		return 0
	}
	return max(n, 0)
}

// text reads a JSON string; anything else is "". raw must be a valid value.
func text(raw json.RawMessage) string {
	if kindOf(raw) != '"' {
		return ""
	}
	if inner := raw[1:max(len(raw)-1, 1)]; len(raw) > 1 && bytes.IndexByte(inner, '\\') < 0 && utf8.Valid(inner) {
		return string(inner) // nothing to decode, as in most answers
	}
	var s string
	if json.Unmarshal(raw, &s) != nil {
		return ""
	}
	return s
}

// kindOf is the first byte of a value: one of {["tfn, a digit or a minus; 0 when there is none.
func kindOf(raw json.RawMessage) byte {
	if len(raw) == 0 {
		return 0
	}
	return raw[0]
}

// safeCode lets through what looks like a code and nothing that could be prose.
func safeCode(s string) string {
	if len(s) > 64 {
		return ""
	}
	for _, c := range []byte(s) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '_', c == '-', c == '.', c == ':':
		default:
			return ""
		}
	}
	return s
}

// trim drops the blanks, the byte order mark and the keep-alive lines, empty or a comment as in ": PROCESSING", that may
// precede an answer.
func trim(body []byte) []byte {
	body = bytes.TrimSpace(bytes.TrimPrefix(bytes.TrimSpace(body), []byte("\xef\xbb\xbf")))
	for len(body) > 0 && body[0] == ':' {
		_, rest, _ := bytes.Cut(body, []byte("\n"))
		body = bytes.TrimSpace(rest)
	}
	return body
}

func isHTML(body []byte) bool {
	b := trim(body)
	return len(b) > 0 && b[0] == '<'
}

// hasWait reports whether a header may say how long to wait: some providers send such headers with every answer.
func hasWait(status int) bool {
	return status == http.StatusTooManyRequests || status == http.StatusServiceUnavailable || status >= 500 ||
		status == http.StatusRequestTimeout || status == http.StatusConflict
}
