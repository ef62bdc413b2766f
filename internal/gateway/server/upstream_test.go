package server

import (
	"net/http"
	"strings"
	"testing"
)

// bare server and view, for what needs no database.
func still(t *testing.T, replace map[string]string) (*Server, *view) {
	t.Helper()
	r, err := reach(replace)
	if err != nil {
		t.Fatal(err)
	}
	return &Server{reach: r}, &view{account: "0123abc", id: "gw"}
}

func TestEverySlugLeadsToItsHost(t *testing.T) {
	t.Parallel()
	s, v := still(t, nil)
	rows := []struct{ slug, endpoint, want string }{
		{"openai", "chat/completions", "https://api.openai.com/v1/chat/completions"},
		{"openai", "v1/chat/completions", "https://api.openai.com/v1/chat/completions"},
		{"openai", "v1/files/f%2Fx?purpose=a&b", "https://api.openai.com/v1/files/f%2Fx?purpose=a&b"},
		{"anthropic", "v1/messages", "https://api.anthropic.com/v1/messages"},
		{"anthropic", "messages", "https://api.anthropic.com/v1/messages"},
		{"google-ai-studio", "v1beta/models/gemini-2.5-flash:generateContent", "https://generativelanguage.googleapis.com/v1beta/models/gemini-2.5-flash:generateContent"},
		{"google-vertex-ai", "v1/projects/p/locations/us-east1/publishers/google/models/g:generateContent", "https://us-east1-aiplatform.googleapis.com/v1/projects/p/locations/us-east1/publishers/google/models/g:generateContent"},
		{"google-vertex-ai", "v1/projects/p/locations/global/publishers/x", "https://aiplatform.googleapis.com/v1/projects/p/locations/global/publishers/x"},
		{"azure-openai", "res/my.dep/chat/completions?api-version=2024-10-21", "https://res.openai.azure.com/openai/deployments/my.dep/chat/completions?api-version=2024-10-21"},
		{"aws-bedrock", "bedrock-runtime/us-east-1/model/amazon.nova-lite-v1%3A0/invoke", "https://bedrock-runtime.us-east-1.amazonaws.com/model/amazon.nova-lite-v1%3A0/invoke"},
		{"aws-bedrock", "bedrock-mantle/us-east-1/anthropic/v1/messages", "https://bedrock-mantle.us-east-1.api.aws/anthropic/v1/messages"},
		{"groq", "chat/completions", "https://api.groq.com/openai/v1/chat/completions"},
		{"mistral", "v1/chat/completions", "https://api.mistral.ai/v1/chat/completions"},
		{"cohere", "v1/chat", "https://api.cohere.ai/v1/chat"},
		{"perplexity-ai", "chat/completions", "https://api.perplexity.ai/chat/completions"},
		{"deepseek", "chat/completions", "https://api.deepseek.com/chat/completions"},
		{"grok", "v1/chat/completions", "https://api.x.ai/v1/chat/completions"},
		{"grok", "chat/completions", "https://api.x.ai/v1/chat/completions"},
		{"huggingface", "org/model", "https://api-inference.huggingface.co/models/org/model"},
		{"huggingface", "v1/chat/completions", "https://router.huggingface.co/v1/chat/completions"},
		{"replicate", "predictions", "https://api.replicate.com/v1/predictions"},
		{"workers-ai", "@cf/meta/llama-3.1-8b-instruct", "https://api.cloudflare.com/client/v4/accounts/0123abc/ai/run/@cf/meta/llama-3.1-8b-instruct"},
		{"workers-ai", "v1/embeddings", "https://api.cloudflare.com/client/v4/accounts/0123abc/ai/v1/embeddings"},
		{"openrouter", "v1/chat/completions", "https://openrouter.ai/api/v1/chat/completions"},
		{"openrouter", "chat/completions", "https://openrouter.ai/api/v1/chat/completions"},
		{"cerebras", "chat/completions", "https://api.cerebras.ai/v1/chat/completions"},
		{"baseten", "v1/chat/completions", "https://inference.baseten.co/v1/chat/completions"},
		{"baseten", "model/abc123", "https://model-abc123.api.baseten.co/environments/production/predict"},
		{"baseten", "model/abc123/deployment/x/predict?y=1", "https://model-abc123.api.baseten.co/deployment/x/predict?y=1"},
		{"fireworks", "chat/completions", "https://api.fireworks.ai/inference/v1/chat/completions"},
		{"parallel", "v1/tasks/runs", "https://api.parallel.ai/v1/tasks/runs"},
		{"fal", "fal-ai/flux/dev", "https://fal.run/fal-ai/flux/dev"},
		{"deepgram", "v1/listen?model=nova", "https://api.deepgram.com/v1/listen?model=nova"},
		{"elevenlabs", "v1/text-to-speech/v", "https://api.elevenlabs.io/v1/text-to-speech/v"},
		{"cartesia", "tts/bytes", "https://api.cartesia.ai/tts/bytes"},
		{"ideogram", "v1/ideogram-v3/generate", "https://api.ideogram.ai/v1/ideogram-v3/generate"},
	}
	seen := map[string]bool{}
	for _, r := range rows {
		seen[r.slug] = true
		got, f := s.target(v, r.slug, r.endpoint, nil)
		if f != nil {
			t.Errorf("%s/%s: %s", r.slug, r.endpoint, f.message)
		} else if got.url.String() != r.want {
			t.Errorf("%s/%s leads to %s, want %s", r.slug, r.endpoint, got.url, r.want)
		}
	}
	for slug := range upstreams {
		if !seen[slug] {
			t.Errorf("no row for %s", slug)
		}
	}
}

func TestNoEndpointLeavesItsProvider(t *testing.T) {
	t.Parallel()
	s, v := still(t, nil)
	for _, r := range []struct{ slug, endpoint string }{
		{"openai", "../x"}, {"openai", "v1/%2e%2e/%2E%2E/x"}, {"openai", "a/..%2f..%2fb"}, {"openai", "x#y"},
		{"azure-openai", "evil.com%2F/dep/x"}, {"azure-openai", "evil.com/dep/x"}, {"azure-openai", "res/../x"}, {"azure-openai", "res"}, {"azure-openai", "u:p@h/d/x"},
		{"aws-bedrock", "evil/us-east-1/x"}, {"aws-bedrock", "bedrock-runtime/evil.com%2f/x"}, {"aws-bedrock", "bedrock-runtime/a.b/x"},
		{"baseten", "model/evil.com%2F/x"}, {"baseten", "model/a.b.c/x"},
		{"google-vertex-ai", "v1/projects/p/locations/evil.com%2f/x"}, {"google-vertex-ai", "v1/x"},
		{"nobody", "x"}, {"custom-nobody", "x"},
	} {
		if got, f := s.target(v, r.slug, r.endpoint, nil); f == nil {
			t.Errorf("%s/%s leads to %s", r.slug, r.endpoint, got.url)
		}
	}
}

func TestFalTargetStaysWithFal(t *testing.T) {
	t.Parallel()
	s, v := still(t, nil)
	for target, ok := range map[string]bool{
		"https://queue.fal.run/fal-ai/x": true, "https://fal.run/x": true, "https://evilfal.run/x": false, "http://queue.fal.run/x": false,
		"https://fal.run.evil.com/x": false, "https://queue.fal.run:8443/x": false, "https://u@queue.fal.run/x": false, "//queue.fal.run": false,
	} {
		got, f := s.target(v, "fal", "fal-ai/y", http.Header{falTarget: {target}})
		if ok != (f == nil) {
			t.Errorf("%s: %v", target, f)
		}
		if ok && f == nil && got.url.String() != target {
			t.Errorf("%s leads to %s", target, got.url)
		}
	}
}

func FuzzTargetKeepsHost(f *testing.F) {
	for _, e := range []string{"v1/chat/completions", "../../x", "//evil.com/x", "@evil.com", "a?b#c", "%2e%2e/", "\\evil"} {
		f.Add(e)
	}
	r, err := reach(nil)
	if err != nil {
		f.Fatal(err)
	}
	s := &Server{reach: r}
	f.Fuzz(func(t *testing.T, endpoint string) {
		for slug, host := range map[string]string{"openai": "api.openai.com", "groq": "api.groq.com", "azure-openai": ".openai.azure.com", "baseten": ".baseten.co",
			"aws-bedrock": ".a", "google-vertex-ai": "aiplatform.googleapis.com", "workers-ai": "api.cloudflare.com"} {
			got, fault := s.target(&view{account: "acc"}, slug, endpoint, nil)
			if fault != nil {
				continue
			}
			if slug == "aws-bedrock" {
				if !strings.HasSuffix(got.url.Host, ".amazonaws.com") && !strings.HasSuffix(got.url.Host, ".api.aws") {
					t.Fatalf("%s: %q leads to %s", slug, endpoint, got.url)
				}
			} else if !strings.HasSuffix(got.url.Host, host) || got.url.Scheme != "https" {
				t.Fatalf("%s: %q leads to %s", slug, endpoint, got.url)
			}
			if slug == "groq" && !strings.HasPrefix(got.url.Path, "/openai/v1") {
				t.Fatalf("%q leads out of the base: %s", endpoint, got.url)
			}
		}
	})
}
