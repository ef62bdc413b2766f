package server

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// compatSlug is the pseudo-provider that speaks OpenAI's chat form for all of them.
const compatSlug = "compat"

// prefixes are the slugs that a model's prefix has another name for.
var prefixes = map[string]string{"perplexity": "perplexity-ai", "xai": "grok", "google": "google-ai-studio"}

// compat makes the steps of a request to the unified endpoint.
func (c *passage) compat(endpoint string, body []byte) *refusal {
	path, _, _ := strings.Cut(endpoint, "?")
	path = strings.TrimPrefix(strings.Trim(path, "/"), "v1/")
	switch {
	case path == "models" && c.r.Method == http.MethodGet:
		return nil // answered by models
	case c.r.Method != http.MethodPost || path != "chat/completions":
		return unroutable("the unified endpoint takes POST chat/completions and GET models")
	}
	c.steps = []step{{provider: compatSlug, endpoint: endpoint, method: http.MethodPost, body: body, caller: c.r.Header, opts: c.opts}}
	if name, ok := strings.CutPrefix(memberText(body, "model"), dynamicPrefix); ok {
		return c.dynamic(name)
	}
	return c.compatStep(&c.steps[0])
}

// compatStep turns a step of the pseudo-provider into one of the provider that its model names. The prefix is cut out of
// the body, which is otherwise passed on as it came, to the provider's own endpoint for OpenAI's chat form: so streams
// and tools are the provider's, byte for byte.
func (c *passage) compatStep(s *step) *refusal {
	at, ok := member(s.body, "model")
	model := ""
	if ok {
		model = textOf(at.Of(s.body))
	}
	slug, rest, found := strings.Cut(model, "/")
	if strings.HasPrefix(model, "@cf/") || strings.HasPrefix(model, "@hf/") {
		slug, rest, found = "workers-ai", model, true
	}
	if !found || slug == "" || rest == "" {
		return &refusal{status: http.StatusBadRequest, code: aigNoModel, message: "the model must be named provider/model"}
	}
	if to, ok := prefixes[slug]; ok {
		slug = to
	}
	chat, f := c.chatEndpoint(slug)
	if f != nil {
		return f
	}
	s.aim(slug, chat, rest, at)
	return nil
}

// aim sends a step in OpenAI's chat form to a provider's model. at is where the body names the model.
func (s *step) aim(slug, chat, model string, at span) {
	raw := at.Of(s.body)
	if cut := len(raw) - len(model) - 1; cut > 0 && string(raw[cut:len(raw)-1]) == model {
		s.body = splice(s.body, span{Start: at.Start + 1, End: at.Start + cut}, nil) // as it stands, whatever its escapes
	} else {
		s.body = splice(s.body, at, quote(model))
	}
	_, query, asked := strings.Cut(s.endpoint, "?")
	s.provider, s.endpoint, s.model, s.chat = slug, chat, model, true
	if asked {
		s.endpoint += "?" + query
	}
}

// chatEndpoint is where a provider takes OpenAI's chat form.
func (c *passage) chatEndpoint(slug string) (string, *refusal) {
	if _, ok := c.view.custom[slug]; ok {
		return compatibleChat, nil
	}
	u := c.s.reach[slug]
	switch {
	case u == nil:
		return "", unroutable("the provider " + printable(slug) + " is unknown to this gateway")
	case u.chat == "":
		return "", unroutable("the provider " + slug + " has no endpoint for OpenAI's chat form that this gateway can pass on to; use its native path")
	}
	return u.chat, nil
}

// models lists what the unified endpoint can be asked for, in the form of OpenAI's list: the models of the price table
// whose providers have a key here or take the caller's, and the deployed routes.
func (c *passage) models() []byte {
	ids := map[string]int64{}
	if c.s.o.Prices != nil {
		for p := range c.s.o.Prices.All() {
			if u := c.s.reach[p.Provider]; u == nil || u.chat == "" || p.Model == "*" {
				continue
			}
			ids[p.Provider+"/"+p.Model] = p.ValidFrom.Unix()
		}
	}
	for name := range c.view.routes {
		ids[dynamicPrefix+name] = 0
	}
	names := make([]string, 0, len(ids))
	for id := range ids {
		names = append(names, id)
	}
	slices.Sort(names)
	out := []byte(`{"object":"list","data":[`)
	for i, id := range names {
		if i > 0 {
			out = append(out, ',')
		}
		owner, _, _ := strings.Cut(id, "/")
		out = append(out, `{"id":`...)
		out = append(out, quote(id)...)
		out = append(out, `,"object":"model","created":`...)
		out = strconv.AppendInt(out, ids[id], 10)
		out = append(out, `,"owned_by":`...)
		out = append(append(out, quote(owner)...), '}')
	}
	return append(out, "]}"...)
}
