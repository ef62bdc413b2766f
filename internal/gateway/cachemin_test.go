package gateway_test

import (
	"testing"

	"batchwright/internal/gateway"
)

func TestCacheMinimum(t *testing.T) {
	t.Parallel()
	for name, want := range map[[2]string]int{
		{"anthropic", "claude-opus-5"}: 512, {"anthropic", "claude-opus-4-8"}: 1024, {"anthropic", "claude-opus-4-7"}: 2048, {"anthropic", "claude-opus-4-6"}: 4096,
		{"anthropic", "claude-opus-4-1-20250805"}: 1024, {"anthropic", "claude-haiku-4-5-20251001"}: 4096, {"anthropic", "claude-3-5-haiku-latest"}: 2048,
		{"anthropic", "claude-sonnet-4-5"}: 1024, {"anthropic", "some-model"}: 1024,
		{"openai", "gpt-5.2"}: 1024, {"azure-openai", "res/dep"}: 1024, {"deepseek", "deepseek-chat"}: 64,
		{"google-ai-studio", "gemini-2.5-pro"}: 4096, {"google-ai-studio", "gemini-3-flash-preview"}: 1024, {"local", "extractive"}: 0, {"mistral", "x"}: 0,
	} {
		if got := gateway.CacheMinimum(name[0], name[1]); got != want {
			t.Errorf("%s of %s: %d, want %d", name[1], name[0], got, want)
		}
	}
}
