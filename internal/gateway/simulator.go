package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"hash/crc32"
	"math"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

func init() { register(simulator{}) }

// simulator is the provider that invents answers: to try templates, chains and schemas for nothing, and to test under
// load and faults. It takes any model name; the model "echo" repeats the last user message.
type simulator struct{}

// Name implements Provider.
func (simulator) Name() string { return "simulator" }

func (simulator) open(o *EngineOptions) server { return NewSimulator(o.Simulator) }

// Encode implements Provider.
func (simulator) Encode(model string, c *Chat) (string, json.RawMessage, error) {
	return openAI{}.Encode(model, c)
}

// EncodeRaw implements Provider.
func (simulator) EncodeRaw(body json.RawMessage) (string, error) { return openAI{}.EncodeRaw(body) }

// Decode implements Provider.
func (simulator) Decode(status int, h http.Header, body []byte) (*Response, error) {
	return openAI{}.Decode(status, h, body)
}

// SimulatorOptions shape a simulator. The zero value answers every call at once and well.
//
// The rates are shares of calls, 0 to 1, drawn from Seed and the number of the call, so that a retry draws again.
type SimulatorOptions struct {
	Seed          uint64
	Latency       time.Duration // of every answer
	LatencyJitter time.Duration // added, from none to all of it, as the request's bytes decide
	InputTokens   int           // reported; default: one for every 4 bytes of the request
	OutputTokens  int           // made and reported; default 24 to 87, as the request's bytes decide, within its cap
	OutputSpread  float64       // of OutputTokens: lengths are log-normal around it, and this is the standard deviation of their logarithm
	ErrorRate     float64       // answered with status 500
	RateLimitRate float64       // answered with status 429 and Retry-After: 1
	HangRate      float64       // never answered
	GarbageRate   float64       // answered with status 200 and half an answer
}

// Simulator answers chat completions in the OpenAI form. The answer is a function of the request's bytes and the seed.
// Text begins with "[simulated]"; where the request wants JSON, the answer is JSON after its schema and only the model
// name, simulator/NAME, tells. It is an [http.Handler] that stands in for a provider at the base URL http://HOST/v1.
type Simulator struct {
	o                                       SimulatorOptions
	calls, answers, failures, input, output atomic.Int64
}

// SimulatorStats count since the start. Tokens are those of good answers: what a provider would have billed.
type SimulatorStats struct {
	Calls, Answers, Failures  int64
	InputTokens, OutputTokens int64
}

// NewSimulator returns a simulator.
func NewSimulator(o SimulatorOptions) *Simulator { return &Simulator{o: o} }

// Stats returns the counts.
func (s *Simulator) Stats() SimulatorStats {
	return SimulatorStats{s.calls.Load(), s.answers.Load(), s.failures.Load(), s.input.Load(), s.output.Load()}
}

// ServeHTTP implements http.Handler: POST to any path that ends in /chat/completions.
func (s *Simulator) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a, err := s.http(r)
	if err != nil {
		panic(http.ErrAbortHandler) // the client is gone, or must believe that we are
	}
	for name, values := range a.header {
		w.Header()[name] = values
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(a.body)))
	w.WriteHeader(a.status)
	_, _ = w.Write(a.body) // a client that is gone can't be told
}

func (s *Simulator) http(r *http.Request) (served, error) {
	const most = 64 << 20
	switch {
	case r.Method != http.MethodPost:
		return refuse(http.StatusMethodNotAllowed, "method_not_allowed")
	case !strings.HasSuffix(r.URL.Path, "/chat/completions"):
		return refuse(http.StatusNotFound, "not_found")
	}
	body, err := readAll(r.Body, r.ContentLength, most)
	switch {
	case errors.Is(err, errTooBig):
		return refuse(http.StatusRequestEntityTooLarge, "request_too_large")
	case err != nil:
		return served{}, err
	case !json.Valid(body):
		return refuse(http.StatusBadRequest, "invalid_json")
	}
	return s.serve(r.Context(), body, 0)
}

// asked is what the simulator reads of a request.
type asked struct {
	model     string
	maxTokens int
	format    json.RawMessage
	messages  bool
}

func readAsked(body []byte) asked {
	var a asked
	fields(body, func(name, value []byte) {
		switch string(name) {
		case "model":
			a.model = cleanName(text(value))
		case "max_tokens", "max_completion_tokens":
			a.maxTokens = max(a.maxTokens, number(value))
		case "response_format":
			a.format = value
		case "messages":
			a.messages = kindOf(value) == '['
		}
	})
	return a
}

// serve implements server. A limit of 0 is none.
func (s *Simulator) serve(ctx context.Context, body []byte, limit time.Duration) (served, error) {
	n := s.calls.Add(1)
	r := random(s.o.Seed) ^ random(crc32.Checksum(body, castagnoli))<<32 ^ random(crc32.ChecksumIEEE(body))
	late := s.o.Latency + time.Duration(float64(s.o.LatencyJitter)*r.unit())
	fault := s.fault(n)
	if late > 0 || fault == "hang" {
		if err := linger(ctx, late, limit, fault == "hang"); err != nil {
			return served{}, err
		}
	}
	if fault != "" {
		s.failures.Add(1)
	}
	switch fault {
	case "rate":
		return s.limited()
	case "error":
		return refuse(http.StatusInternalServerError, "server_error")
	}
	a := readAsked(body)
	if !a.messages || a.model == "" {
		return refuse(http.StatusBadRequest, "invalid_body")
	}
	said, finish, tokens := s.say(&r, a, body)
	in := s.o.InputTokens
	if in <= 0 {
		in = tokensIn(len(body))
	}
	answer := chatAnswer("simulator/"+a.model, said, finish, in, tokens)
	if fault == "garbage" {
		answer.body, answer.resp = answer.body[:len(answer.body)/2], nil
		return answer, nil
	}
	s.answers.Add(1)
	s.input.Add(int64(in))
	s.output.Add(int64(tokens))
	return answer, nil
}

// linger waits, or until ctx ends when it is to hang.
func linger(ctx context.Context, d, limit time.Duration, hang bool) error {
	if limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, limit, errFirstByte)
		defer cancel()
	}
	if hang {
		<-ctx.Done()
		return context.Cause(ctx)
	}
	return sleep(ctx, d)
}

func (s *Simulator) limited() (served, error) {
	a, err := refuse(http.StatusTooManyRequests, "rate_limit_exceeded")
	a.header = http.Header{"Content-Type": {"application/json"}, "Retry-After": {"1"}}
	return a, err
}

// fault draws what goes wrong with call n.
func (s *Simulator) fault(n int64) string {
	if s.o.ErrorRate+s.o.RateLimitRate+s.o.HangRate+s.o.GarbageRate <= 0 {
		return ""
	}
	r := random(s.o.Seed) + random(n)*0x9e3779b97f4a7c15
	u := r.unit()
	for _, f := range []struct {
		rate float64
		name string
	}{{s.o.HangRate, "hang"}, {s.o.RateLimitRate, "rate"}, {s.o.ErrorRate, "error"}, {s.o.GarbageRate, "garbage"}} {
		if u < f.rate {
			return f.name
		}
		u -= f.rate
	}
	return ""
}

// say makes the answer's text. A cap below the configured length cuts it, as a model would; JSON is never cut, since
// its length follows the schema.
func (s *Simulator) say(r *random, a asked, body []byte) (said string, finish Finish, tokens int) {
	if a.format != nil {
		var f struct {
			Type string
			JSON struct{ Schema json.RawMessage } `json:"json_schema"`
		}
		if json.Unmarshal(a.format, &f) == nil && f.Type != "text" {
			said = string(appendInstance(nil, f.JSON.Schema, r))
			tokens = tokensIn(len(said))
			if s.o.OutputTokens > 0 {
				tokens = s.length(r)
			}
			return said, FinishStop, tokens
		}
	}
	const prefix = "[simulated]"
	if a.model == "echo" {
		var c chatBody
		_ = json.Unmarshal(body, &c) // an odd body has no message to echo
		said = prefix + " " + c.lastUser()
		return said, FinishStop, tokensIn(len(said))
	}
	tokens, finish = 24+int(r.next()%64), FinishStop
	switch {
	case s.o.OutputTokens > 0:
		if tokens = s.length(r); a.maxTokens > 0 && a.maxTokens < tokens {
			tokens, finish = a.maxTokens, FinishLength
		}
	case a.maxTokens > 0:
		tokens = min(tokens, a.maxTokens)
	}
	size := tokens * bytesPerToken
	return string(r.prose(append(make([]byte, 0, max(size, len(prefix))+2), prefix...), size)), finish, tokens
}

// length is that of an answer where it is configured, in tokens.
func (s *Simulator) length(r *random) int {
	if s.o.OutputSpread <= 0 {
		return s.o.OutputTokens
	}
	normal := math.Sqrt(-2*math.Log(1-r.unit())) * math.Cos(2*math.Pi*r.unit()) // Box and Muller's
	return max(int(float64(s.o.OutputTokens)*math.Exp(s.o.OutputSpread*normal)+0.5), 1)
}
