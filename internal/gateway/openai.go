package gateway

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"strconv"
)

func init() {
	register(openAI{
		name: "openai", reached: reach{base: "https://api.openai.com/v1"},
		completionTokens: true, cacheKey: true, responses: responsesEndpoint,
	})
}

// openAI speaks Chat Completions, and Responses where responses is set. The providers that took over the form differ
// in the facts held here; the zero value is the form that most servers take.
//
// A temperature, a top_p and a seed are wishes: to a model or a provider that refuses them they are not sent, because a
// chain would otherwise break at each step that is pickier than the others. Stop strings go the same way. Nothing may
// count on them anyway: OpenAI calls seeds a best effort, and what makes an answer repeat is the caller's own cache.
type openAI struct {
	name    string
	reached reach
	path    string // of the endpoint; default chat/completions

	completionTokens  bool       // the cap is max_completion_tokens, which reasoning models insist on; else max_tokens
	seed              seedName   //
	schema            schemaForm //
	cacheKey          bool       // takes prompt_cache_key
	thinkingOff       bool       // thinks unless told not to, and then ignores the temperature
	requireParameters bool       // routes to hosts that may not know response_format, unless told not to
	responses         string     // endpoint of the Responses API; "" has none
	plainResponses    bool       // that API is known to take the input, the cap and the sampling only
	usageUnasked      bool       // streams usage of itself and refuses, or needs no, stream_options
	reasoningApart    bool       // completion_tokens doesn't hold the reasoning tokens
	oddities          []oddity
}

// seedName is what a provider calls the seed.
type seedName byte

const (
	seedPlain  seedName = iota
	seedRandom          // random_seed
	seedNone            // refuses or ignores it
)

// schemaForm is how a provider takes an output schema.
type schemaForm byte

const (
	schemaNamed  schemaForm = iota // json_schema with name, schema and strict; json_object without a schema
	schemaBare                     // json_schema with the schema alone; nothing without a schema
	schemaSpoken                   // json_object only: the schema is said in the system message
)

// Name implements Provider.
func (p openAI) Name() string { return p.name }

func (p openAI) reach() reach { return p.reached }

func (p openAI) responds() bool { return p.responses != "" }

const openAIEndpoint = "chat/completions"

// The request, in the order in which it is sent: what a batch shares comes first and the messages last, so that the
// bytes differ as late as possible.
type openAIRequest struct {
	Model               string          `json:"model,omitempty"`
	CacheKey            string          `json:"prompt_cache_key,omitempty"`
	MaxCompletionTokens int             `json:"max_completion_tokens,omitempty"`
	MaxTokens           int             `json:"max_tokens,omitempty"`
	Temperature         *float64        `json:"temperature,omitempty"`
	TopP                *float64        `json:"top_p,omitempty"`
	Seed                *int64          `json:"seed,omitempty"`
	RandomSeed          *int64          `json:"random_seed,omitempty"`
	Stop                []string        `json:"stop,omitempty"`
	Thinking            json.RawMessage `json:"thinking,omitempty"`
	Provider            json.RawMessage `json:"provider,omitempty"`
	ResponseFormat      *openAIFormat   `json:"response_format,omitempty"`
	Messages            []Message       `json:"messages"`
}

type openAIFormat struct {
	Type   string            `json:"type"`
	Schema *openAIJSONSchema `json:"json_schema,omitempty"`
}

type openAIJSONSchema struct {
	Name   string          `json:"name,omitempty"`
	Schema json.RawMessage `json:"schema"`
	Strict bool            `json:"strict,omitempty"`
}

// Encode implements Provider.
func (p openAI) Encode(model string, c *Chat) (string, json.RawMessage, error) {
	q := quirksOf(p.name, model)
	if p.responds() && (c.API == apiResponses || c.API == "" && q.has(onlyResponses)) {
		return p.encodeResponses(model, c, q)
	}
	return p.encodeChat(model, c, q)
}

func (p openAI) encodeChat(model string, c *Chat, q quirk) (string, json.RawMessage, error) {
	r := openAIRequest{Model: model, Messages: c.Messages}
	if p.completionTokens {
		r.MaxCompletionTokens = c.MaxTokens
	} else {
		r.MaxTokens = c.MaxTokens
	}
	if !q.has(noSampling) {
		r.Temperature, r.TopP = c.Temperature, c.TopP
	}
	if !q.has(noStop) {
		r.Stop = c.Stop
	}
	switch p.seed {
	case seedPlain:
		r.Seed = c.Seed
	case seedRandom:
		r.RandomSeed = c.Seed
	}
	if p.cacheKey {
		r.CacheKey = promptCacheKey(model, c)
	}
	if p.thinkingOff {
		r.Thinking = json.RawMessage(`{"type":"disabled"}`)
	}
	p.format(&r, c)
	body, err := encode(r)
	return cmp.Or(p.path, openAIEndpoint), body, err
}

// format asks for JSON in the provider's way.
func (p openAI) format(r *openAIRequest, c *Chat) {
	switch {
	case !c.JSON && c.Schema == nil:
		return
	case p.schema == schemaSpoken || p.schema == schemaBare && c.Schema == nil:
		r.Messages = instructed(c.Messages, c.Schema)
		if p.schema == schemaSpoken {
			r.ResponseFormat = &openAIFormat{Type: "json_object"}
		}
	case c.Schema == nil:
		r.ResponseFormat = &openAIFormat{Type: "json_object"}
	case p.schema == schemaBare:
		r.ResponseFormat = &openAIFormat{"json_schema", &openAIJSONSchema{Schema: c.Schema}}
	default:
		r.ResponseFormat = &openAIFormat{"json_schema", &openAIJSONSchema{cmp.Or(c.SchemaName, "output"), c.Schema, strict(c.Schema)}}
	}
	if p.requireParameters {
		// A seed would rule out every host without one, and no answer is worse than an unseeded one.
		r.Provider, r.Seed = json.RawMessage(`{"require_parameters":true}`), nil
	}
}

// instructed returns the messages with a request for JSON at the end of the first system message, or in one of its own
// before all others. It doesn't look at the rest, so that the prefix of a batch's requests stays the same. The word
// json is spelt as DeepSeek's JSON mode wants to find it.
func instructed(messages []Message, schema json.RawMessage) []Message {
	say := "Answer with one json object and nothing else."
	if schema != nil {
		say += " It must be valid against this JSON Schema:\n" + string(schema)
	}
	if messages[0].Role != "system" {
		return append([]Message{{Role: "system", Content: say}}, messages...)
	}
	out := append([]Message(nil), messages...)
	out[0].Content += "\n\n" + say
	return out
}

// promptCacheKey names what the requests of a batch share, so that the provider sends them to where that is cached. It
// is "" when nothing is known to be shared.
func promptCacheKey(model string, c *Chat) string {
	whole := min(max(c.Stable.Messages, 0), len(c.Messages))
	if whole == 0 && c.Stable.Bytes <= 0 {
		return ""
	}
	h := sha256.New()
	add := func(s string) { // the length first: no two lists of texts hash the same bytes
		_, _ = io.WriteString(h, strconv.Itoa(len(s))+":"+s) // a hash never fails
	}
	add(model)
	for _, m := range c.Messages[:whole] {
		add(m.Role)
		add(m.Content)
	}
	if whole < len(c.Messages) {
		next := c.Messages[whole]
		add(next.Role)
		add(next.Content[:min(max(c.Stable.Bytes, 0), len(next.Content))])
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}

// encode is json.Marshal without HTML escapes.
func encode(v any) (json.RawMessage, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// EncodeRaw implements Provider. A streamed answer is refused here, because it could not be read after it was paid, and
// so is one in the background, which is not there when the call ends.
func (p openAI) EncodeRaw(body json.RawMessage) (string, error) {
	if string(field(body, "stream")) == "true" {
		return "", invalid("stream_unsupported", "the body asks for a streamed answer; remove \"stream\"")
	}
	if kindOf(field(body, "messages")) == '[' {
		return cmp.Or(p.path, openAIEndpoint), nil
	}
	if !p.responds() || field(body, "input") == nil {
		return "", invalid("no_messages", "the body has no messages; it must be in the OpenAI chat form")
	}
	if string(field(body, "background")) == "true" {
		return "", invalid("background_unsupported", "the body asks for an answer in the background; remove \"background\"")
	}
	return p.responses, nil
}
