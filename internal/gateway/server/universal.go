package server

import (
	"encoding/json"
	"net/http"
	"strings"

	"batchwright/internal/gateway"
	"batchwright/internal/gateway/jsonspan"
)

// maxSteps bounds one chain. Cloudflare names no bound.
const maxSteps = 64

// universalStep is one element of the Universal array as it came. Query is a slice of the request's body: it travels
// byte for byte.
type universalStep struct {
	provider, endpoint string
	header             http.Header
	query              []byte
	config             *gateway.StepConfig
}

// parseUniversal reads the body of the Universal Endpoint: an array of steps. Over plain HTTP Cloudflare's binding sends
// arrays only; a single step is taken as an array of one, as its WebSocket does, and {"providers":[...]}, which tutorials
// tell of and Cloudflare doesn't, with a warning for the answer.
func parseUniversal(body []byte) (steps []universalStep, warning string, f *refusal) {
	if !json.Valid(body) {
		return nil, "", badRequest("the body is not JSON")
	}
	list := span{Start: jsonspan.Blanks(body, 0), End: len(body)}
	if body[list.Start] == '{' {
		if at, ok := member(body, "providers"); ok && body[at.Start] == '[' {
			list, warning = at, "the steps are expected as a bare array, not under providers"
		} else {
			s, f := parseStep(body)
			return []universalStep{s}, "", f
		}
	}
	raw := list.Of(body)
	isArray := jsonspan.Elements(raw, func(at span) bool {
		var s universalStep
		if s, f = parseStep(at.Of(raw)); f != nil {
			return false
		}
		steps = append(steps, s)
		return len(steps) <= maxSteps
	})
	switch {
	case f != nil:
		return nil, "", f
	case !isArray || len(steps) == 0:
		return nil, "", badRequest("the body must be an array of at least one step")
	case len(steps) > maxSteps:
		return nil, "", badRequest("the chain has more than 64 steps")
	}
	return steps, warning, nil
}

// parseStep reads one step of valid JSON.
func parseStep(raw []byte) (s universalStep, f *refusal) {
	s.header = make(http.Header, 4)
	var legacy string
	isObject := jsonspan.Members(raw, func(key []byte, at span) bool {
		v := at.Of(raw)
		switch string(key) {
		case "provider":
			s.provider = textOf(v)
		case "endpoint":
			s.endpoint = textOf(v)
		case "authorization":
			legacy = textOf(v)
		case "headers":
			f = stepHeaders(s.header, v)
		case "query":
			s.query = v
		case "config":
			if v[0] == '{' {
				s.config = new(gateway.StepConfig)
				if json.Unmarshal(v, s.config) != nil {
					f = badRequest("a step's config holds a value of the wrong type")
				}
			}
		}
		return f == nil
	})
	switch {
	case f != nil:
		return s, f
	case !isObject:
		return s, badRequest("a step must be an object")
	case s.provider == "" || s.query == nil:
		return s, badRequest("a step needs a provider, an endpoint and a query")
	}
	if s.header["Authorization"] == nil && legacy != "" {
		if !headerValue(legacy) {
			return s, badRequest("a step's authorization can't be a header's value")
		}
		s.header["Authorization"] = []string{legacy}
	}
	if s.header["Content-Type"] == nil {
		s.header["Content-Type"] = contentJSON
	}
	return s, nil
}

// stepHeaders reads a step's headers. Cloudflare's binding writes numbers and booleans as strings, and objects as
// strings of JSON; a null is left out.
func stepHeaders(h http.Header, raw []byte) (f *refusal) {
	if raw[0] == 'n' {
		return nil
	}
	isObject := jsonspan.Members(raw, func(key []byte, at span) bool {
		v := at.Of(raw)
		var value string
		switch v[0] {
		case 'n':
			return true
		case '"':
			value = textOf(v)
		default:
			value = string(v)
		}
		name := textOf(append(append([]byte{'"'}, key...), '"'))
		if value = strings.TrimSpace(value); !headerName(name) || !headerValue(value) {
			f = badRequest("a step's header has a name or a value that no header can have")
			return false
		}
		h[http.CanonicalHeaderKey(name)] = []string{value}
		return true
	})
	if !isObject {
		return badRequest("a step's headers must be an object")
	}
	return f
}

// headerName matches the tokens of RFC 9110, section 5.6.2.
func headerName(s string) bool {
	for _, c := range []byte(s) {
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0) {
			return false
		}
	}
	return s != ""
}

// headerValue refuses control characters: a line break would begin another header.
func headerValue(s string) bool {
	for _, c := range []byte(s) {
		if c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}

// universal makes the steps of a request to the Universal Endpoint.
func (c *passage) universal(body []byte) *refusal {
	parsed, warning, f := parseUniversal(body)
	if f != nil {
		return f
	}
	if warning != "" {
		c.w.Header()["Cf-Aig-Warning"] = []string{warning}
	}
	c.steps = make([]step, len(parsed))
	for i := range parsed {
		u := &parsed[i]
		s := &c.steps[i]
		*s = step{provider: u.provider, endpoint: u.endpoint, method: http.MethodPost, body: u.query, caller: u.header}
		if s.opts, f = c.opts.with(u.header); f != nil {
			return f
		}
		if s.opts, f = s.opts.withConfig(u.config); f != nil {
			return f
		}
		if u.provider == compatSlug {
			s.fault = c.compatStep(s)
		}
	}
	return nil
}
