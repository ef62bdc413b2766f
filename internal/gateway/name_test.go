package gateway

import "testing"

func TestParseName(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]Name{
		"openai:gpt-5.2":                                  {"openai", "gpt-5.2", "", ""},
		"openai/gpt-5.2":                                  {"openai", "gpt-5.2", "", ""},
		" OpenAI:gpt-5.2 ":                                {"openai", "gpt-5.2", "", ""},
		"openai:chat:gpt-5.2":                             {"openai", "gpt-5.2", "chat", ""},
		"openai:responses:gpt-5.2":                        {"openai", "gpt-5.2", "responses", ""},
		"anthropic:messages:claude-haiku-5-5":             {"anthropic", "claude-haiku-5-5", "", ""},
		"cloudflare-gateway:openai:gpt-5.2":               {"openai", "gpt-5.2", "", ViaCloudflare},
		"cloudflare-gateway:openai:responses:gpt-5.2":     {"openai", "gpt-5.2", "responses", ViaCloudflare},
		"cloudflare-gateway:workers-ai:@cf/meta/llama-3":  {"workers-ai", "@cf/meta/llama-3", "", ViaCloudflare},
		"cloudflare-gateway":                              {"cloudflare-gateway", "", "", ""},
		"xai:grok-4.7":                                    {"grok", "grok-4.7", "", ""},
		"google:gemini-3.8-flash":                         {"google-ai-studio", "gemini-3.8-flash", "", ""},
		"openrouter:openai/gpt-5.2":                       {"openrouter", "openai/gpt-5.2", "", ""},
		"openrouter:meta/llama:free":                      {"openrouter", "meta/llama:free", "", ""},
		"huggingface:meta-llama/Llama-3.3-70B:groq":       {"huggingface", "meta-llama/Llama-3.3-70B:groq", "", ""},
		"openai-compatible:llama3.2:1b":                   {"openai-compatible", "llama3.2:1b", "", ""},
		"compat:openai/gpt-5.2":                           {"compat", "openai/gpt-5.2", "", ""},
		"local/extractive":                                {"local", "extractive", "", ""},
		"openai":                                          {"openai", "", "", ""},
		"Nobody:x":                                        {"nobody", "x", "", ""},
		"replicate:meta/meta-llama-3-70b-instruct:abc123": {"replicate", "meta/meta-llama-3-70b-instruct:abc123", "", ""},
	} {
		if got := ParseName(s); got != want {
			t.Errorf("ParseName(%q) = %+v, want %+v", s, got, want)
		}
	}
}

func TestSpellingsNameProviders(t *testing.T) {
	t.Parallel()
	for name, slug := range spellings {
		if _, ok := Lookup(slug); !ok {
			t.Errorf("%s stands for %s, which is no provider", name, slug)
		}
		if _, ok := Lookup(name); ok {
			t.Errorf("%s is a provider and another one's name", name)
		}
	}
}
