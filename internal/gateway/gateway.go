// Package gateway sends one Universal request along a chain of provider steps and returns the first good answer.
//
// A [Request] is an ordered list of steps plus options: the shape of Cloudflare's Universal Endpoint. Two things run
// it: the in-process [Engine], which talks to providers directly, and the [Cloudflare] client, which posts it to any
// server that speaks the protocol; [WithBuiltins] joins the two. The package owns wire formats, error classes, retries
// and fallback. It knows no jobs and no database; money is the caller's, see [Ledger].
//
// Decisions of 2026-11-21. An answer that ended for length is a [Response], told by its Finish, and not an error: it is
// paid, and whether its text is of use is the caller's to judge; falling back would pay twice. A refusal or a filter
// is an error with usage, because another step may answer. An [Error] never repeats a provider's words, which can echo
// prompts and keys; the price is a vaguer message, so codes are kept. When all steps fail, the error is of the step
// that time may heal, if there is one, and not simply the last one's: the caller needs to know whether to come back.
package gateway

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	"batchwright/internal/pricing"
)

// Gateway runs a Universal request. Implementations are safe for concurrent use.
//
// The error, when there is one, is an *[Error] (every step failed, or one failed in a way that no other step can
// help), an error from the ledger, unchanged, or the cause of ctx's end. When only settling a good answer failed, the
// Response comes with the ledger's error, since it is paid.
type Gateway interface {
	Run(ctx context.Context, req *Request, ledger Ledger) (*Response, error)
}

// Request is an ordered fallback chain: the first step that answers well ends it.
type Request struct {
	Steps   []Step
	Options Options
}

// Step is one element of the Universal array. Its JSON form is the wire form.
type Step struct {
	Provider string            `json:"provider"` // slug, such as "openai" or "local"
	Endpoint string            `json:"endpoint"` // path and query below the provider's base URL, without a leading slash
	Headers  map[string]string `json:"headers,omitempty"`
	Query    json.RawMessage   `json:"query"` // the provider's native body, sent byte for byte
	Config   *StepConfig       `json:"config,omitempty"`

	// What follows is for the caller's own gateway and is never sent.
	Model    string `json:"-"` // the model asked for, for prices and the ledger
	Estimate Amount `json:"-"` // what the step may use at most, for shared limits; zero takes part in no limit but requests
	Via      string `json:"-"` // ViaCloudflare forces the remote gateway; empty leaves the choice to whoever runs the request
}

// ViaCloudflare in [Step.Via] is the name that people type: cloudflare-gateway:openai:gpt-5.2.
const ViaCloudflare = "cloudflare-gateway"

// Amount is what a call uses, or may use.
type Amount struct {
	Tokens   int64 // input and output
	MicroUSD int64
}

// Response is a good answer, in provider-neutral form.
type Response struct {
	Step        int    // index of the step that answered
	Provider    string // slug of that step
	Model       string // as the provider reported it, else as asked for
	Text        string // valid UTF-8 without NUL
	Finish      Finish
	Usage       Usage
	CacheStatus CacheStatus
	LogID       string          // of the gateway's log, if it keeps one
	Body        json.RawMessage // the provider's native answer
	Sends       int             // sends made, this one included
	Attempts    []Attempt       // every send in order, the good one last; a remote gateway's inner attempts are not told
}

// Attempt is one send, for whoever asks why an answer took so long.
type Attempt struct {
	Step     int
	Provider string
	Model    string // as asked for
	Key      string // name of the key used, where a provider has several; never the key
	Class    Class
	Status   int
	Code     string
	Latency  time.Duration
}

// Finish says why the model stopped.
type Finish string

// The finish reasons. Anything a provider says that is none of these is FinishOther.
const (
	FinishStop     Finish = "stop"
	FinishLength   Finish = "length"
	FinishFiltered Finish = "content_filter"
	FinishTool     Finish = "tool_calls"
	FinishOther    Finish = "other"
)

// CacheStatus is the gateway's own response cache, not ours.
type CacheStatus string

// The verdicts of a gateway's cache. CacheNone: it didn't say.
const (
	CacheNone CacheStatus = ""
	CacheHit  CacheStatus = "HIT"
	CacheMiss CacheStatus = "MISS"
)

// Usage counts tokens in one form, whatever the provider's. The three inputs don't overlap; their sum is the prompt.
type Usage struct {
	Input      int64 `json:"input"`          // uncached prompt tokens
	CacheRead  int64 `json:"cache_read"`     // prompt tokens that the provider's prefix cache served
	CacheWrite int64 `json:"cache_write"`    // prompt tokens written to that cache
	Output     int64 `json:"output"`         // generated tokens, reasoning included
	Reasoning  int64 `json:"reasoning"`      // the part of Output that was reasoning
	Cost       int64 `json:"cost,omitempty"` // micro-dollars that the provider says it charged, rounded up; 0 when it doesn't say
	Known      bool  `json:"known"`          // false when the answer carried no usage: the counts are then estimates or 0
}

// Priced is what the price table counts of it.
func (u Usage) Priced() pricing.Usage {
	return pricing.Usage{Input: u.Input, CacheRead: u.CacheRead, CacheWrite: u.CacheWrite, Output: u.Output}
}

// Send is one intended transmission, before a byte leaves. The in-process engine sends to one step at a time; a remote
// gateway may walk through several on one send, and every one of them may bill.
type Send struct {
	Step   int // index of the first step this send may reach
	Steps  int // how many consecutive steps it may reach, at least 1
	Tries  int // how often each of them may be tried by the receiver, at least 1
	Number int // 1 for the first send of a Run, then 2, ...
}

// Outcome is how a send ended.
type Outcome struct {
	Step        int    // the step that answered or failed last
	Provider    string // its slug
	Model       string // as reported, else as asked for
	Class       Class  // OK, or what kind of failure
	Status      int    // HTTP status, 0 when no answer came
	Code        string // the provider's own error code, if any
	Usage       Usage
	Finish      Finish
	CacheStatus CacheStatus
	LogID       string
	Latency     time.Duration // from the send to the last byte
	// Uncertain: bytes may have reached a provider and no complete answer came back, so the call may have been billed.
	Uncertain bool
}

// Ledger is called before every send; an error from it forbids the send and ends the Run with that error. The function
// that it returns is called exactly once, when the send is over, under a context that outlives cancellation.
type Ledger func(ctx context.Context, s Send) (settle func(ctx context.Context, o Outcome) error, err error)

// NoLedger allows every send and forgets it.
func NoLedger(context.Context, Send) (func(context.Context, Outcome) error, error) {
	return func(context.Context, Outcome) error { return nil }, nil
}

// Chat is a provider-neutral chat completion request. [NewStep] turns it into a provider's native body.
type Chat struct {
	Messages    []Message
	MaxTokens   int // cap on generated tokens; 0 leaves the provider's default
	Temperature *float64
	TopP        *float64
	Seed        *int64
	Stop        []string
	JSON        bool            // ask for a JSON object
	Schema      json.RawMessage // ask for JSON after this schema; implies JSON
	SchemaName  string          // [A-Za-z0-9_-]{1,64}; default "output"
	Stable      Stable          // what the requests of a batch share, for prompt caches that want a mark
	API         string          // where a provider has more than one: OpenAI's "chat" or "responses"; default the model's own
}

// Stable is how much of a chat, from its start, is the same in all requests of a batch: whole messages, then bytes of
// the next one's content. Zero means unknown.
type Stable struct {
	Messages int
	Bytes    int
}

// Message is one turn.
type Message struct {
	Role    string `json:"role"` // system, user or assistant
	Content string `json:"content"`
}

// Provider translates between the neutral and a native form. Its methods are pure: no I/O, no retries, no clock.
type Provider interface {
	// Name is the slug. It is stored in rows and never changes.
	Name() string
	// Encode returns the endpoint and native body of a chat. The same chat always encodes to the same bytes.
	Encode(model string, c *Chat) (endpoint string, body json.RawMessage, err error)
	// EncodeRaw returns the endpoint for a body in the OpenAI chat form that is to travel unchanged, or an error
	// when the provider doesn't take that form.
	EncodeRaw(body json.RawMessage) (endpoint string, err error)
	// Decode reads any HTTP answer. On a failure the error is an *Error without Step, Provider and Model, and the
	// Response may be set beside it: it then holds what is known of an answer that was billed and is no use.
	Decode(status int, header http.Header, body []byte) (*Response, error)
}
