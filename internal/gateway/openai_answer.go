package gateway

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"math"
	"net/http"
	"strconv"
	"strings"
)

// openAIAnswer is what counts in an answer of Chat Completions, or of Responses, whose object says so.
type openAIAnswer struct {
	object, model string
	choices       int
	choice        openAIChoice // the first
	usage         *openAIUsage
	err           json.RawMessage
	status, why   string // Responses: status, incomplete_details.reason
}

type openAIChoice struct {
	content string
	said    []byte // Responses: the texts of all parts
	answers bool   // there is a content that is not null, or a text
	refusal string
	tools   bool
	finish  string
	err     json.RawMessage
}

var errNotJSON = errors.New("the answer is not JSON")

// Decode implements Provider. Beside an error the Response may be set: it then holds what is known of an answer that
// was billed and is no use.
func (p openAI) Decode(status int, _ http.Header, body []byte) (*Response, error) {
	if status/100 != 2 {
		return nil, p.failure(status, body)
	}
	a, ok := readOpenAI(trim(body))
	if !ok {
		e := failure(status, body)
		if e.Code != codeHTML {
			e = ours(codeInvalidAnswer, status)
		}
		e.Err = errNotJSON
		return nil, e
	}
	r := &Response{Model: cleanName(a.model), Usage: a.usage.normal()}
	if p.reasoningApart && a.usage != nil && a.object != responsesObject {
		r.Usage.Reasoning = int64(a.usage.Output.Reasoning)
		r.Usage.Output = int64(a.usage.Completion) + r.Usage.Reasoning
	}
	if k := kindOf(a.err); k == '{' || k == '"' || k == '[' && a.choices == 0 || a.object == "error" {
		return r, p.failed(status, body, r.Usage.Known)
	}
	if a.object == responsesObject {
		return a.response(r, status)
	}
	if kindOf(a.choice.err) == '{' { // OpenRouter: the host failed halfway
		return r, p.failed(status, []byte(`{"error":`+string(a.choice.err)+`}`), r.Usage.Known)
	}
	if a.choices == 0 {
		return r, ours(codeInvalidAnswer, status)
	}
	c := &a.choice
	r.Text, r.Finish = c.content, openAIFinish(c.finish)
	switch v, bad := codes[strings.ToLower(c.finish)]; {
	case bad:
		return r, &Error{Class: v.class, Status: status, Code: safeCode(c.finish), Uncertain: !r.Usage.Known, Message: message(v, status, safeCode(c.finish))}
	case c.finish == "error": // Mistral, OpenRouter
		e := ours("server_error", status)
		e.Uncertain = !r.Usage.Known
		return r, e
	case c.refusal != "":
		r.Finish = FinishFiltered
		return r, ours(codeRefusal, status)
	case c.answers, c.tools, r.Finish == FinishLength, r.Finish == FinishTool:
		return r, nil
	}
	return r, ours(codeNoAnswer, status)
}

// failed is a failure that came with a good status. Generation may have begun, so only usage tells what it cost.
func (p openAI) failed(status int, body []byte, billed bool) *Error {
	e := p.failure(status, body)
	if e.Class == Unknown {
		e.Class = Server
		e.Message = message(verdict{class: Server}, status, e.Code)
	}
	e.Uncertain = !billed
	return e
}

// readOpenAI reads an answer; false when it is not JSON. A field of an odd type is left out, no more.
func readOpenAI(body []byte) (a openAIAnswer, ok bool) {
	c := cursor{b: body}
	c.object(func(key []byte) {
		switch string(key) {
		case "object":
			a.object = c.text()
		case "model":
			a.model = c.text()
		case "choices":
			a.choices = 0
			c.array(func(n int) {
				a.choices++
				if n > 0 {
					c.skip()
					return
				}
				a.choice = openAIChoice{}
				c.choice(&a.choice)
			})
		case "usage":
			a.usage = c.usage()
		case "error":
			a.err = c.skip()
		case "status":
			a.status = c.text()
		case "incomplete_details":
			a.why = ""
			c.object(func(key []byte) {
				if string(key) == "reason" {
					a.why = c.text()
				} else {
					c.skip()
				}
			})
		case "output":
			a.choice = openAIChoice{}
			c.array(func(int) { c.outputItem(&a.choice) })
		default:
			c.skip()
		}
	})
	return a, c.whole()
}

// choice reads one element of choices.
func (c *cursor) choice(to *openAIChoice) {
	c.object(func(key []byte) {
		switch string(key) {
		case "message":
			to.content, to.answers, to.refusal, to.tools = "", false, "", false
			c.object(func(key []byte) {
				switch string(key) {
				case "content":
					to.content, to.answers = c.content()
				case "refusal":
					to.refusal = c.text()
				case "tool_calls":
					raw := c.skip()
					to.tools = kindOf(raw) == '[' && len(raw) > 2
				default:
					c.skip()
				}
			})
		case "finish_reason":
			to.finish = c.text()
		case "error":
			to.err = c.skip()
		default:
			c.skip()
		}
	})
}

// content reads a message's content and whether there is any; see the function of that name.
func (c *cursor) content() (string, bool) {
	if c.kind() == '"' {
		return c.text(), true
	}
	raw := c.skip()
	return content(raw), kindOf(raw) != 0 && kindOf(raw) != 'n'
}

func openAIFinish(s string) Finish {
	switch s {
	case "stop":
		return FinishStop
	case "length", "model_length": // the second is Mistral's, for the context window
		return FinishLength
	case "content_filter":
		return FinishFiltered
	case "tool_calls", "function_call":
		return FinishTool
	}
	return FinishOther
}

// content reads a message's content: a string, parts of which those of type text count, or another value as it is.
func content(raw json.RawMessage) string {
	var s string
	switch kindOf(raw) {
	case 0, 'n':
	case '"':
		s = text(raw)
	case '[':
		var parts []struct{ Type, Text string }
		if json.Unmarshal(raw, &parts) == nil {
			var b strings.Builder
			for _, p := range parts {
				if p.Type == "text" || p.Type == "" {
					b.WriteString(p.Text)
				}
			}
			s = b.String()
		}
	default:
		s = strings.ToValidUTF8(string(raw), "\uFFFD")
	}
	return strings.ReplaceAll(s, "\x00", "\uFFFD")
}

// openAIUsage holds the counts under all the names that the family has for them.
type openAIUsage struct {
	Prompt     count `json:"prompt_tokens"`
	Completion count `json:"completion_tokens"`
	Details    struct {
		Cached  count `json:"cached_tokens"`
		Written count `json:"cache_write_tokens"`
	} `json:"prompt_tokens_details"`
	Output struct {
		Reasoning count `json:"reasoning_tokens"`
	} `json:"completion_tokens_details"`
	MistralCached count `json:"num_cached_tokens"`
	DeepSeekHit   count `json:"prompt_cache_hit_tokens"`
	Thought       count `json:"reasoning_tokens"` // Perplexity, whose documentation doesn't say whether the completion holds it

	cost int64 // micro-dollars
}

// usage reads a usage object, of Chat Completions or of Responses; nil when there is none.
func (c *cursor) usage() *openAIUsage {
	if c.kind() != '{' {
		c.skip()
		return nil
	}
	u := &openAIUsage{}
	var cost, upstream json.RawMessage
	byok := false
	c.object(func(key []byte) {
		switch string(key) {
		case "prompt_tokens", "input_tokens":
			u.Prompt = c.count()
		case "completion_tokens", "output_tokens":
			u.Completion = c.count()
		case "prompt_tokens_details", "prompt_token_details", "input_tokens_details": // the second is one of Mistral's
			c.object(func(key []byte) {
				switch string(key) {
				case "cached_tokens":
					u.Details.Cached = c.count()
				case "cache_write_tokens":
					u.Details.Written = c.count()
				default:
					c.skip()
				}
			})
		case "completion_tokens_details", "output_tokens_details":
			c.object(func(key []byte) {
				if string(key) == "reasoning_tokens" {
					u.Output.Reasoning = c.count()
				} else {
					c.skip()
				}
			})
		case "num_cached_tokens":
			u.MistralCached = c.count()
		case "prompt_cache_hit_tokens":
			u.DeepSeekHit = c.count()
		case "cache_write_tokens": // OpenRouter
			u.Details.Written = c.count()
		case "reasoning_tokens":
			u.Thought = c.count()
		case "cost":
			cost = c.skip()
		case "is_byok":
			byok = string(c.skip()) == "true"
		case "cost_details":
			c.object(func(key []byte) {
				if raw := c.skip(); string(key) == "upstream_inference_cost" {
					upstream = raw
				}
			})
		case "cost_in_usd_ticks":
			u.cost = ticks(c.count())
		default:
			c.skip()
		}
	})
	switch kindOf(cost) {
	case 0:
	case '{': // Perplexity; the whole holds the fee of the request and of searches
		u.cost = microUSD(field(cost, "total_cost"))
	default: // OpenRouter; with a key of one's own the host bills apart, and cost is the router's fee alone
		u.cost = microUSD(cost)
		if byok {
			u.cost += microUSD(upstream)
		}
	}
	return u
}

// normal turns inclusive counts into disjoint ones: prompt_tokens holds the cached and written tokens. Where it
// doesn't, because the cached ones are more, it is taken as net already.
func (u *openAIUsage) normal() Usage {
	if u == nil {
		return Usage{}
	}
	n := Usage{
		CacheRead:  int64(cmp.Or(u.Details.Cached, u.MistralCached, u.DeepSeekHit)),
		CacheWrite: int64(u.Details.Written),
		Output:     int64(u.Completion),
		Cost:       u.cost,
		Known:      u.Prompt > 0 || u.Completion > 0,
	}
	n.Reasoning = min(int64(u.Output.Reasoning), n.Output)
	if r := int64(u.Thought); r > n.Output { // more than the whole, so it is not a part of it
		n.Output, n.Reasoning = n.Output+r, r
	} else if r > 0 {
		n.Reasoning = r
	}
	n.Input = int64(u.Prompt)
	if cached := n.CacheRead + n.CacheWrite; cached <= n.Input {
		n.Input -= cached
	}
	return n
}

// microUSD reads an amount in dollars and rounds it up, except for what a float64 adds to it.
func microUSD(raw json.RawMessage) int64 {
	usd, err := strconv.ParseFloat(strings.Trim(string(raw), `"`), 64)
	if err != nil || !(usd > 0 && usd < 1e6) {
		return 0
	}
	return int64(math.Ceil(usd*1e6 - 1e-6))
}

// ticks turns xAI's unit, of which a dollar has 10^10, into micro-dollars. Source: xAI's page on cost tracking.
func ticks(n count) int64 { return (int64(n) + 9_999) / 10_000 }

// count reads a token count in any spelling of a number; what is no count is 0.
type count int64

// UnmarshalJSON never fails: an odd count must not lose an answer.
func (c *count) UnmarshalJSON(b []byte) error {
	var n int64
	for _, d := range b { // the usual case, without an allocation
		if d < '0' || d > '9' || n > math.MaxInt64/10-10 {
			f, err := strconv.ParseFloat(strings.Trim(string(b), `"`), 64)
			if err == nil && f > 0 && f < 1e15 {
				*c = count(f)
			}
			return nil
		}
		n = n*10 + int64(d-'0')
	}
	*c = count(min(n, 1e15))
	return nil
}

// An oddity is a failure that means something else at one provider than its status says, and has no code to tell it by.
type oddity struct {
	status int
	phrase string // in the body, in lower case; "" is any
	verdict
}

// failure reads a failed answer by the tables of all, and where they know no more than the status by the provider's own.
func (p openAI) failure(status int, body []byte) *Error {
	e := failure(status, body)
	if p.oddities == nil || e.Code == codeHTML {
		return e
	}
	a := readFailure(body)
	_, known := codes[strings.ToLower(a.code)]
	if known || a.gateway() {
		return e
	}
	if a.status == 0 || status/100 != 2 {
		a.status = status
	}
	for _, o := range p.oddities {
		if o.status == a.status && (o.phrase == "" || bytes.Contains(bytes.ToLower(body), []byte(o.phrase))) {
			e.Class, e.Uncertain, e.Message = o.class, e.Uncertain || o.uncertain, message(o.verdict, status, e.Code)
			break
		}
	}
	return e
}
