//go:build clients

package clients

import (
	"context"
	"maps"
	"strings"
	"testing"
)

// suite is one client with all its cases.
type suite struct {
	run   func(context.Context, *testing.T, *visit) []outcome
	cases map[string]want
}

var suites = map[string]suite{
	"openai":               {script("openai.mjs"), merged(chats("", true), chatsBeyondGo(), openaiOnly(""), openaiNodeOnly())},
	"openai-go":            {openaiGo, merged(chats("openai-go/", false), openaiOnly("openai-go/"))},
	"anthropic":            {script("anthropic.mjs"), anthropicCases()},
	"vercel":               {script("vercel.mjs"), vercelCases()},
	"promptfoo":            {promptfoo("promptfoo"), promptfooCases()},
	"promptfoo-cloudflare": {promptfoo("promptfoo-cloudflare"), promptfooCloudflareCases()},
}

func merged(all ...map[string]want) map[string]want {
	out := map[string]want{}
	for _, m := range all {
		maps.Copy(out, m)
	}
	return out
}

// both gives the cases of the native and of the unified face.
func both(prefix string, cases map[string]want) map[string]want {
	out := map[string]want{}
	for name, w := range cases {
		for slug, kind := range map[string]string{"openai": "native", "compat": "compat"} {
			w := w
			if w.provider == "" && !w.unlogged && w.in != -1 {
				w.provider = "openai"
			}
			w.kind, w.in = kind, max(w.in, 0)
			if w.model == "" {
				w.model = "gpt-4o-mini"
			}
			if w.gateway == "limited" {
				w.gateway += "-" + slug
			}
			out[prefix+slug+"/"+name] = w
		}
	}
	return out
}

// chats are the cases that the SDKs for Node and for Go share.
func chats(prefix string, node bool) map[string]want {
	cases := map[string]want{
		"chat":            {in: 11, out: 7},
		"stream":          {in: 11, out: 7, row: func(r row) bool { return r.Streamed }},
		"tools":           {answers: []int{200, 200}, in: 11, out: 7},
		"bad-request":     {answers: []int{400}, model: "fail-400"},
		"sdk-retries-500": {answers: []int{500, 200}, model: "flaky-500", in: 11, out: 7},
		"sdk-waits-429":   {answers: []int{429, 200}, model: "flaky-429", in: 11, out: 7},
		"gateway-retries": {sent: []int{500, 200}, model: "flaky-500", in: 11, out: 7},
		"cache":           {answers: []int{200, 200}, sent: []int{200}, hit: true},
		"no-token":        {answers: []int{401}, sent: []int{}, refused: 1, unlogged: true},
		"no-gateway":      {answers: []int{400}, sent: []int{}, refused: 1, gateway: "nowhere", unlogged: true},
		"stored-key":      {gateway: "stored", stored: true, in: 11, out: 7},
	}
	if node {
		cases["cache"] = want{answers: []int{200, 200, 200}, sent: []int{200, 200}, hit: true}
	}
	return both(prefix, cases)
}

// chatsBeyondGo are the cases that only the SDK for Node is put through.
func chatsBeyondGo() map[string]want {
	many := func(n int) []int {
		out := make([]int, n)
		for i := range out {
			out[i] = 200
		}
		return out
	}
	return both("", map[string]want{
		"stream-live":   {},
		"stream-abort":  {sent: []int{dropped}, in: -1},
		"tools-stream":  {},
		"bad-key":       {answers: []int{401}, model: "fail-401"},
		"sdk-gives-up":  {answers: []int{429, 429}, model: "busy-429"},
		"timeout":       {answers: []int{0}, sent: []int{dropped}},
		"parallel":      {answers: many(24), in: 11, out: 7},
		"gateway-limit": {gateway: "limited", answers: []int{200, 429}, sent: []int{200}, refused: 1, in: -1},
		"metadata": {in: 11, out: 7, row: func(r row) bool {
			return r.Metadata == `{"dry": false, "run": 7, "team": "some"}` && strings.HasPrefix(r.EventID, "row-") && r.CustomCost && *r.Cost == 0.025
		}},
	})
}

func openaiOnly(prefix string) map[string]want {
	native := want{kind: "native", provider: "openai", model: "gpt-4o-mini"}
	with := func(change func(*want)) want {
		w := native
		change(&w)
		return w
	}
	return map[string]want{
		prefix + "openai/responses":        with(func(w *want) { w.in, w.out = 19, 4 }),
		prefix + "openai/responses-stream": with(func(w *want) { w.in, w.out = 19, 4 }),
		prefix + "openai/embeddings":       with(func(w *want) { w.model, w.in = "text-embedding-3-small", 11 }),
		prefix + "openai/models":           with(func(w *want) { w.model = "" }),
		prefix + "openai/files": with(func(w *want) {
			w.model, w.answers = "", []int{200, 200, 200}
			if prefix != "" {
				w.answers = []int{200, 200}
			}
		}),
	}
}

func openaiNodeOnly() map[string]want {
	return map[string]want{
		"openai/responses-tools": {kind: "native", provider: "openai", model: "gpt-4o-mini", in: 19, out: 4},
		"openai/with-v1":         {kind: "native", provider: "openai", model: "gpt-4o-mini", in: 11, out: 7},
		"compat/anthropic":       {kind: "compat", provider: "anthropic", model: "claude-sonnet-5-5", in: 11, out: 7},
		"compat/google":          {kind: "compat", provider: "google-ai-studio", model: "gemini-2.5-pro", in: 11, out: 7},
		"compat/dynamic": {kind: "compat", provider: "openai", model: "gpt-4o-mini", in: 11, out: 7, step: 1, gateway: "stored", stored: true,
			sent: []int{500, 200}},
		"compat/no-prefix": {kind: "compat", answers: []int{400}, sent: []int{}, refused: 1},
		"compat/models":    {kind: "compat", sent: []int{}, refused: 1, unlogged: true},
	}
}

func anthropicCases() map[string]want {
	out := map[string]want{}
	for name, w := range map[string]want{
		"messages":        {in: 13, out: 5},
		"stream":          {in: 13, out: 5, row: func(r row) bool { return r.Streamed }},
		"tools":           {answers: []int{200, 200}, in: 13, out: 5},
		"tools-stream":    {in: 13, out: 5},
		"count-tokens":    {},
		"bad-request":     {answers: []int{400}, model: "fail-400"},
		"bad-key":         {answers: []int{401}, model: "fail-401"},
		"sdk-retries-529": {answers: []int{529, 200}, model: "flaky-529", in: 13, out: 5},
		"sdk-waits-429":   {answers: []int{429, 200}, model: "flaky-429", in: 13, out: 5},
		"error-in-stream": {model: "breaks", in: 13, out: 1},
		"cut-stream":      {model: "cut", in: 13, out: 1},
		"cache":           {answers: []int{200, 200}, sent: []int{200}, hit: true},
		"no-token":        {answers: []int{401}, sent: []int{}, refused: 1, unlogged: true},
		"stored-key":      {gateway: "stored", stored: true, in: 13, out: 5},
		"models":          {model: "-"},
	} {
		w.kind, w.provider = "native", "anthropic"
		switch w.model {
		case "":
			w.model = "claude-sonnet-5-5"
		case "-":
			w.model = ""
		}
		out["anthropic/"+name] = w
	}
	return out
}

func vercelCases() map[string]want {
	openai := want{provider: "openai", model: "gpt-4o-mini", in: 11, out: 7}
	anthropic := want{provider: "anthropic", model: "claude-sonnet-5-5", in: 13, out: 5}
	google := want{provider: "google-ai-studio", model: "gemini-2.5-pro", in: 17, out: 3}
	then := func(w want, change func(*want)) want {
		change(&w)
		return w
	}
	sent := func(step int, statuses ...int) func(*want) {
		return func(w *want) { w.step, w.sent = step, statuses }
	}
	out := map[string]want{}
	for name, w := range map[string]want{
		"chat":                   openai,
		"responses":              then(openai, func(w *want) { w.in, w.out = 19, 4 }),
		"anthropic":              anthropic,
		"google":                 google,
		"fallback":               then(anthropic, sent(1, 500, 200)),
		"fallback-to-google":     then(google, sent(2, 400, 401, 200)),
		"fallback-after-retries": then(anthropic, sent(1, 500, 500, 500, 200)),
		"fallback-on-timeout":    then(anthropic, sent(1, dropped, 200)),
		"stream":                 openai,
		"stream-responses":       then(openai, func(w *want) { w.in, w.out = 19, 4 }),
		"stream-google":          google,
		"stream-fallback":        then(anthropic, sent(1, 429, 200)),
		"tools":                  then(openai, func(w *want) { w.answers = []int{200, 200} }),
		"object":                 then(openai, func(w *want) { w.model = "json" }),
		"cache":                  then(openai, func(w *want) { w.answers, w.sent, w.hit, w.in, w.out = []int{200, 200}, []int{200}, true, 0, 0 }),
		"cache-key":              then(openai, func(w *want) { w.answers, w.sent, w.hit, w.in, w.out = []int{200, 200}, []int{200}, true, 0, 0 }),
		"skip-cache":             then(openai, func(w *want) { w.answers = []int{200, 200} }),
		"metadata": then(openai, func(w *want) {
			w.row = func(r row) bool {
				return r.Metadata == `{"dry": false, "run": "7", "team": "a"}` && r.EventID == "row-vercel"
			}
		}),
		"no-log":     {unlogged: true},
		"stored-key": then(anthropic, func(w *want) { w.step, w.sent, w.gateway, w.stored = 1, []int{500, 200}, "stored", true }),
		"all-fail":   {answers: []int{400}, sent: []int{500, 400}, provider: "anthropic", model: "fail-400", step: 1},
		"no-gateway": {answers: []int{400}, sent: []int{}, refused: 1, gateway: "nowhere", unlogged: true},
		"no-token":   {answers: []int{401}, sent: []int{}, refused: 1, unlogged: true},
		"abort":      {answers: []int{0}, sent: []int{dropped}},
	} {
		w.kind = "universal"
		out["vercel/"+name] = w
	}
	return out
}

func promptfooCases() map[string]want {
	twice := []int{200, 200}
	return map[string]want{
		"promptfoo/openai":    {answers: twice, kind: "native", provider: "openai", model: "gpt-4o-mini", in: 11, out: 7},
		"promptfoo/compat":    {answers: twice, kind: "compat", provider: "openai", model: "gpt-4o-mini", in: 11, out: 7},
		"promptfoo/responses": {answers: twice, kind: "native", provider: "openai", model: "gpt-4o-mini", in: 19, out: 4},
		"promptfoo/anthropic": {answers: twice, kind: "native", provider: "anthropic", model: "claude-sonnet-5-5", in: 13, out: 5},
	}
}

func promptfooCloudflareCases() map[string]want {
	out := map[string]want{}
	for slug, model := range map[string]string{"openai": "gpt-4o-mini", "groq": "llama-3.3-70b-versatile", "grok": "grok-4",
		"mistral": "mistral-small-latest", "perplexity-ai": "sonar"} {
		out["promptfoo-cloudflare/"+slug] = want{answers: []int{200, 200}, kind: "native", provider: slug, model: model, in: 11, out: 7}
	}
	out["promptfoo-cloudflare/anthropic"] = want{answers: []int{200, 200}, kind: "native", provider: "anthropic", model: "claude-sonnet-5-5", in: 13, out: 5}
	return out
}
