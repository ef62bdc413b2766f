//go:build clients

package clients

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// promptfoo runs an evaluation. Its own assertions hold each answer against the prompt; an outcome is a provider's with all of its prompts.
func promptfoo(name string) func(context.Context, *testing.T, *visit) []outcome {
	return func(ctx context.Context, t *testing.T, v *visit) []outcome {
		t.Helper()
		out := filepath.Join(t.TempDir(), "results.json")
		cmd := v.command(ctx, t, v.node, filepath.Join(v.dir, "node_modules/promptfoo/dist/src/entrypoint.js"), "eval", "-c", name+".json",
			"-o", out, "--no-cache", "--no-table", "--no-progress-bar", "--no-write")
		cmd.Env = append(cmd.Env, "PROMPTFOO_CONFIG_DIR="+t.TempDir(), "PROMPTFOO_DISABLE_TELEMETRY=1", "PROMPTFOO_DISABLE_UPDATE=1",
			"PROMPTFOO_DISABLE_REMOTE_GENERATION=1", "PROMPTFOO_FAILED_TEST_EXIT_CODE=0")
		if name == "promptfoo-cloudflare" {
			cmd.Env = append(cmd.Env, "NODE_OPTIONS=--import="+filepath.Join(v.dir, "redirect.mjs"), "CLOUDFLARE_ACCOUNT_ID="+account,
				"CLOUDFLARE_GATEWAY_ID=main", "CF_AIG_TOKEN="+v.token)
			for _, variable := range []string{"OPENAI", "ANTHROPIC", "GROQ", "XAI", "MISTRAL", "PERPLEXITY"} {
				cmd.Env = append(cmd.Env, variable+"_API_KEY="+providerKey)
			}
		}
		said, err := cmd.CombinedOutput()
		if err != nil {
			t.Errorf("promptfoo: %v\n%s", err, said)
		}
		raw, err := os.ReadFile(out)
		if err != nil {
			t.Fatalf("promptfoo left no results: %v\n%s", err, said)
		}
		return promptfooOutcomes(t, raw)
	}
}

func promptfooOutcomes(t *testing.T, raw []byte) []outcome {
	t.Helper()
	var file struct {
		Results struct {
			Results []struct {
				Provider struct{ ID string }
				Success  bool
				Error    string
				Response struct {
					TokenUsage struct{ Total int }
				}
			}
		}
		Config struct {
			Providers []struct {
				ID     string
				Config struct{ Headers map[string]string }
			}
		}
	}
	if err := json.Unmarshal(raw, &file); err != nil {
		t.Fatal(err)
	}
	var said []outcome
	for _, p := range file.Config.Providers {
		o := outcome{Case: p.Config.Headers["x-case"]}
		n := 0
		var errs []string
		for _, r := range file.Results.Results {
			if r.Provider.ID != p.ID {
				continue
			}
			if r.Success && r.Response.TokenUsage.Total > 0 {
				n++
			} else {
				errs = append(errs, r.Error)
			}
		}
		o.OK, o.Error = n == 2, strings.Join(errs, "\n")
		said = append(said, o)
	}
	return said
}
