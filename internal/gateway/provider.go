package gateway

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

var providers = map[string]Provider{}

// register is called from the init function of each provider's file, and nowhere else.
func register(p Provider) {
	if providers[p.Name()] != nil {
		panic("gateway: provider registered twice: " + p.Name())
	}
	providers[p.Name()] = p
}

// customPrefix begins the slugs that an operator makes up, such as "custom-vllm". They speak the OpenAI chat form.
const customPrefix = "custom-"

// Lookup returns the provider of a slug. Every slug custom-NAME is one, where NAME is 1 to 57 of [a-z0-9_-].
func Lookup(name string) (Provider, bool) {
	if p, ok := providers[name]; ok {
		return p, true
	}
	rest, ok := strings.CutPrefix(name, customPrefix)
	if !ok || rest == "" || len(name) > 64 {
		return nil, false
	}
	for _, c := range []byte(rest) {
		if !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' || c == '_') {
			return nil, false
		}
	}
	return compatible(name), true
}

// Providers returns the registered slugs in order, without the custom ones.
func Providers() []string { return slices.Sorted(maps.Keys(providers)) }

// Builtin reports whether a provider runs inside this process, needs no network and costs nothing.
func Builtin(provider string) bool {
	_, ok := providers[provider].(inProcess)
	return ok
}

// How a provider is reached over HTTP. A provider that doesn't implement reacher needs a base URL and a bearer key.
type reach struct {
	base    string // default base URL; "" must be configured
	keyless bool   // may be served without a key
	header  string // that carries the key; default Authorization, with the prefix "Bearer "
	// The provider's endpoint in the OpenAI chat form takes the key as OpenAI does, whatever the header is elsewhere.
	chatBearer bool
}

// at returns how one endpoint is reached.
func (r reach) at(endpoint string) reach {
	if r.chatBearer && inChatForm(endpoint) {
		r.header = ""
	}
	return r
}

type reacher interface{ reach() reach }

// The rest of what a provider may implement beside [Provider]. All of it is pure.

// An addresser's URL is not its base with the endpoint behind it.
type addresser interface {
	// address returns where an endpoint of the Universal form is at a base URL.
	address(base *url.URL, endpoint string) (*url.URL, *Error)
}

// A follower's first answer may be a promise that has to be asked for again.
type follower interface {
	// pending returns the endpoint to GET for a promise; false when the answer is final.
	pending(status int, body []byte) (endpoint string, ok bool)
}

// A header is what a provider wants beside the key and the content type, such as a version.
type headed interface{ headers() map[string]string }

// A streamer's answers can be read piece by piece.
type streamer interface {
	// stream turns a request into one for a streamed answer, with usage where that has to be asked for.
	stream(endpoint string, body json.RawMessage) (string, json.RawMessage)
	// assemble returns a fresh reader of a streamed answer.
	assemble() assembler
}

// An assembler puts a native answer together from the events of its stream.
type assembler interface {
	// event takes one server-sent event and returns the text it adds. An event that can't be read adds nothing.
	event(name string, data []byte) (text string)
	// answer returns the native answer as it would have come in one piece, for Decode, and whether the stream said
	// that it was complete. An error that came as an event is the native error body.
	answer() (body json.RawMessage, complete bool)
}

func reachOf(p Provider) reach {
	if r, ok := p.(reacher); ok {
		return r.reach()
	}
	return reach{}
}

func addressOf(p Provider, base *url.URL, endpoint string) (*url.URL, *Error) {
	if a, ok := p.(addresser); ok {
		return a.address(base, endpoint)
	}
	return join(base, endpoint)
}

// authorize puts a key where the provider looks for it.
func (r reach) authorize(set func(name, value string), key string) {
	if key == "" {
		return
	}
	if r.header == "" {
		set("Authorization", "Bearer "+key)
		return
	}
	set(r.header, key)
}

// nativeHeaders tells set what a provider wants with a request to an endpoint: the content type, the key, its own.
func nativeHeaders(p Provider, endpoint, key string, set func(name, value string)) {
	set("Content-Type", "application/json")
	reachOf(p).at(endpoint).authorize(set, key)
	if h, ok := p.(headed); ok {
		for name, value := range h.headers() {
			set(name, value)
		}
	}
}

func (r reach) headerName() string {
	if r.header == "" {
		return "Authorization"
	}
	return http.CanonicalHeaderKey(r.header)
}

// NewStep returns the step that asks a provider's model to complete c. Its error is an *Error of class invalid_request.
func NewStep(provider, model string, c *Chat, cfg *StepConfig) (Step, error) {
	p, err := stepProvider(provider, cfg)
	if err != nil {
		return Step{}, err
	}
	if err := checkModel(model); err != nil {
		return Step{}, err
	}
	if err := c.check(); err != nil {
		return Step{}, err
	}
	if r, ok := p.(responder); c.API == apiResponses && !(ok && r.responds()) {
		return Step{}, invalid("unsupported_api", "provider %q has no Responses API here; leave the API out", provider)
	}
	endpoint, body, eerr := p.Encode(model, c)
	if eerr != nil {
		return Step{}, asInvalid(eerr)
	}
	return Step{Provider: provider, Endpoint: endpoint, Query: body, Config: cfg, Model: model}, nil
}

// NewRawStep returns the step that sends a body in the OpenAI chat form byte for byte. The model may be left empty: it
// is then the body's. A model that differs from the body's is an error, because the ledger would price the wrong one.
// The error is an *Error of class invalid_request.
func NewRawStep(provider, model string, body json.RawMessage, cfg *StepConfig) (Step, error) {
	p, err := stepProvider(provider, cfg)
	if err != nil {
		return Step{}, err
	}
	if !json.Valid(body) || kindOf(trim(body)) != '{' {
		return Step{}, invalid("invalid_body", "the body is not a JSON object")
	}
	asked := text(field(body, "model"))
	if model == "" {
		model = asked
	}
	if err := checkModel(model); err != nil {
		return Step{}, err
	}
	if asked != "" && asked != model {
		return Step{}, invalid("model_mismatch", "the body asks for another model than the step; leave one of them out")
	}
	endpoint, eerr := encodeRaw(p, model, body)
	if eerr != nil {
		return Step{}, asInvalid(eerr)
	}
	return Step{Provider: provider, Endpoint: endpoint, Query: body, Config: cfg, Model: model}, nil
}

// A modelled provider has the model in its endpoint, and not only in the body.
type modelled interface {
	encodeRaw(model string, body json.RawMessage) (endpoint string, err error)
}

func encodeRaw(p Provider, model string, body json.RawMessage) (string, error) {
	if m, ok := p.(modelled); ok {
		return m.encodeRaw(model, body)
	}
	return p.EncodeRaw(body)
}

func stepProvider(name string, cfg *StepConfig) (Provider, error) {
	p, ok := Lookup(name)
	if !ok {
		return nil, unknownProvider(name)
	}
	if err := cfg.check(); err != nil {
		return nil, err
	}
	return p, nil
}

func unknownProvider(name string) *Error {
	if len(name) > 64 {
		name = name[:64]
	}
	return invalid("unknown_provider", "unknown provider %q; known are %s and custom-NAME", name, strings.Join(Providers(), ", "))
}

// checkModel bounds what ends up in rows and logs.
func checkModel(model string) error {
	switch {
	case model == "":
		return invalid("no_model", "no model is named")
	case model != cleanName(model):
		return invalid("invalid_model", "the model's name holds control characters or is over %d bytes", maxName)
	}
	return nil
}

// asInvalid keeps an *Error and makes one of anything else.
func asInvalid(err error) error {
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	return &Error{Class: InvalidRequest, Message: fmt.Sprintf("the request can't be encoded: %v", err), Err: err}
}

// check finds what no provider would take.
func (c *Chat) check() error {
	switch {
	case c == nil || len(c.Messages) == 0:
		return invalid("no_messages", "the chat has no messages")
	case c.MaxTokens < 0:
		return invalid("invalid_max_tokens", "max_tokens is %d; it must not be negative", c.MaxTokens)
	case c.Schema != nil && (!json.Valid(c.Schema) || kindOf(trim(c.Schema)) != '{'):
		return invalid("invalid_schema", "the output schema is not a JSON object")
	case !schemaName(c.SchemaName):
		return invalid("invalid_schema_name", "the schema's name must be 1 to 64 of A-Z, a-z, 0-9, _ and -")
	case c.API != "" && c.API != apiChat && c.API != apiResponses:
		return invalid("unsupported_api", "the API must be %q or %q, or left out", apiChat, apiResponses)
	}
	for i, m := range c.Messages {
		switch m.Role {
		case "system", "user", "assistant":
		default:
			return invalid("invalid_role", "message %d has a role that is not system, user or assistant", i)
		}
	}
	return nil
}

func schemaName(s string) bool {
	if len(s) > 64 {
		return false
	}
	for _, c := range []byte(s) {
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '-') {
			return false
		}
	}
	return true
}

const maxName = 200

// cleanName drops control characters and what is over maxName bytes, from names that others chose.
func cleanName(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return -1
		}
		return r
	}, s)
	if len(s) > maxName {
		s = strings.ToValidUTF8(s[:maxName], "")
	}
	return s
}
