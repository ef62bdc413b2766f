package gateway

import (
	"slices"
	"strings"
)

// spellings are the other names under which people know providers: their own, and those of other tools.
var spellings = map[string]string{
	"aistudio": "google-ai-studio", "azure": "azure-openai", "azureopenai": "azure-openai", "claude": "anthropic",
	"cloudflare-workers-ai": "workers-ai", "compatible": "openai-compatible", "gemini": "google-ai-studio", "google": "google-ai-studio",
	"hf": "huggingface", "hugging-face": "huggingface", "mistralai": "mistral", "open-router": "openrouter", "perplexity": "perplexity-ai",
	"workersai": "workers-ai", "x-ai": "grok", "xai": "grok",
}

// Name is what a step asks for, as people type it.
type Name struct {
	Provider string // slug
	Model    string
	API      string // "chat" or "responses", where the name says so; see [Chat.API]
	Via      string // [ViaCloudflare] or ""
}

// apis are what may stand between a provider and a model, as in "openai:responses:gpt-5.2". Only providers that have a
// choice, or whose other tools write it, take one.
var apis = map[string][]string{
	"openai": {"chat", "responses"}, "azure-openai": {"chat"}, "anthropic": {"messages"}, "openai-compatible": {"chat"},
}

// ParseName reads a name such as "openai:gpt-5.2", "openai/gpt-5.2", "openai:responses:gpt-5.2" or
// "cloudflare-gateway:openai:gpt-5.2". A provider may be given under another of its names, such as "xai". The model may
// be left out, and is everything behind the provider: "openrouter:openai/gpt-5.2" asks OpenRouter for openai/gpt-5.2.
// An unknown provider is returned as it is typed, in lower case, for [Lookup] to refuse.
func ParseName(s string) Name {
	var n Name
	s = strings.TrimSpace(s)
	if rest, ok := cutAny(s, ViaCloudflare); ok {
		n.Via, s = ViaCloudflare, rest
	}
	head, rest := s, ""
	if i := strings.IndexAny(s, ":/"); i >= 0 {
		head, rest = s[:i], s[i+1:]
	}
	n.Provider = Slug(head)
	if i := strings.IndexByte(rest, ':'); i >= 0 && slices.Contains(apis[n.Provider], rest[:i]) {
		n.API, rest = rest[:i], rest[i+1:]
	}
	if n.API == "messages" { // Anthropic's only one
		n.API = ""
	}
	n.Model = rest
	return n
}

func cutAny(s, prefix string) (string, bool) {
	if len(s) > len(prefix) && strings.EqualFold(s[:len(prefix)], prefix) && (s[len(prefix)] == ':' || s[len(prefix)] == '/') {
		return s[len(prefix)+1:], true
	}
	return s, false
}

// Slug returns the slug of a provider under any of its names; an unknown name comes back in lower case.
func Slug(name string) string {
	name = strings.ToLower(strings.TrimSpace(name))
	if slug, ok := spellings[name]; ok {
		return slug
	}
	return name
}
