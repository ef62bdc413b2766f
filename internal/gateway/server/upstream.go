package server

import (
	"net/http"
	"net/url"
	"strings"

	"batchwright/internal/gateway"
)

// upstream says where the requests to a provider go and how it wants its key.
//
// Names in braces stand for the first parts of the path below the provider's slug, in the order of args: azure-openai
// is reached as azure-openai/RESOURCE/DEPLOYMENT/chat/completions.
type upstream struct {
	root   string   // base URL, which [Options.Upstreams] replaces
	path   string   // between the root and the rest of the path
	args   []string // what the path begins with
	header string   // that carries the key; "" is Authorization
	prefix string   // before the key
	chat   string   // endpoint that takes OpenAI's chat form, with a bearer key; "" has none
}

const bearer = "Bearer "

// upstreams are the slugs of Cloudflare's documentation, November 2026. The bases hold the version that a shortened path
// leaves out; a path that has it as well doesn't get it twice.
var upstreams = map[string]upstream{
	"openai":           {root: "https://api.openai.com/v1", prefix: bearer, chat: "chat/completions"},
	"anthropic":        {root: "https://api.anthropic.com/v1", header: "X-Api-Key", chat: "v1/chat/completions"},
	"google-ai-studio": {root: "https://generativelanguage.googleapis.com", header: "X-Goog-Api-Key", chat: "v1beta/openai/chat/completions"},
	"google-vertex-ai": {root: "https://{region}aiplatform.googleapis.com", prefix: bearer},
	"azure-openai": {root: "https://{resource}.openai.azure.com", path: "openai/deployments/{deployment}", args: []string{"resource", "deployment"},
		header: "Api-Key"},
	"aws-bedrock":   {root: "https://{service}.{region}.{domain}", args: []string{"service", "region"}, prefix: bearer},
	"groq":          {root: "https://api.groq.com/openai/v1", prefix: bearer, chat: "chat/completions"},
	"mistral":       {root: "https://api.mistral.ai/v1", prefix: bearer, chat: "v1/chat/completions"},
	"cohere":        {root: "https://api.cohere.ai", prefix: bearer, chat: "compatibility/v1/chat/completions"},
	"perplexity-ai": {root: "https://api.perplexity.ai", prefix: bearer, chat: "chat/completions"},
	"deepseek":      {root: "https://api.deepseek.com", prefix: bearer, chat: "chat/completions"},
	"grok":          {root: "https://api.x.ai/v1", prefix: bearer, chat: "v1/chat/completions"},
	"huggingface":   {root: "https://api-inference.huggingface.co/models", prefix: bearer, chat: "v1/chat/completions"},
	"replicate":     {root: "https://api.replicate.com/v1", prefix: bearer},
	"workers-ai":    {root: "https://api.cloudflare.com/client/v4/accounts/{account}/ai/run", prefix: bearer, chat: "v1/chat/completions"},
	"openrouter":    {root: "https://openrouter.ai/api/v1", prefix: bearer, chat: "v1/chat/completions"},
	"cerebras":      {root: "https://api.cerebras.ai/v1", prefix: bearer, chat: "chat/completions"},
	"baseten":       {root: "https://inference.baseten.co/v1", prefix: bearer, chat: "v1/chat/completions"},
	"fireworks":     {root: "https://api.fireworks.ai/inference/v1", prefix: bearer, chat: "chat/completions"},
	"parallel":      {root: "https://api.parallel.ai", header: "X-Api-Key", chat: "chat/completions"},
	"fal":           {root: "https://fal.run", prefix: "Key "},
	"deepgram":      {root: "https://api.deepgram.com", prefix: "Token "},
	"elevenlabs":    {root: "https://api.elevenlabs.io", header: "Xi-Api-Key"},
	"cartesia":      {root: "https://api.cartesia.ai", header: "X-Api-Key"},
	"ideogram":      {root: "https://api.ideogram.ai", header: "Api-Key"},
}

// compatibleChat is the endpoint of custom providers for OpenAI's chat form. Cloudflare doesn't say how it makes one
// from a base URL; a base that ends in a version keeps it, any other gets v1.
const compatibleChat = "v1/chat/completions"

// reachable are the upstreams of this server, with their roots replaced and parsed.
type reachable struct {
	upstream
	replaced bool
	base     *url.URL // nil where the root has names in it
}

func reach(replace map[string]string) (map[string]*reachable, error) {
	all := make(map[string]*reachable, len(upstreams)+len(replace))
	for slug, u := range upstreams {
		all[slug] = &reachable{upstream: u}
	}
	for slug, root := range replace {
		u := all[slug]
		if u == nil {
			n, _ := gateway.NativeOf(slug)
			u = &reachable{upstream: upstream{header: n.Header, prefix: n.Prefix, chat: compatibleChat}}
			all[slug] = u
		}
		u.root, u.replaced = strings.TrimRight(root, "/"), true
	}
	for slug, u := range all {
		if u.header == "" {
			u.header = "Authorization"
		}
		if strings.Contains(u.root, "{") {
			continue
		}
		base, err := gateway.ParseBase(u.root)
		if err != nil {
			return nil, &badUpstream{slug, err}
		}
		u.base = base
	}
	return all, nil
}

type badUpstream struct {
	slug string
	err  error
}

func (e *badUpstream) Error() string {
	return "gateway server: upstream " + e.slug + ": " + e.err.Error()
}
func (e *badUpstream) Unwrap() error { return e.err }

// target is where a step goes.
type target struct {
	url    *url.URL
	header string // that carries the key
	prefix string
	free   bool // needs no key
	chat   string
}

// target finds where the endpoint of a provider is. Neither the endpoint nor the names in it can lead to another host.
func (s *Server) target(v *view, slug, endpoint string, header http.Header) (target, *refusal) {
	if base, ok := v.custom[slug]; ok {
		return joined(target{header: "Authorization", prefix: bearer, free: true, chat: compatibleChat}, base, endpoint)
	}
	u := s.reach[slug]
	if u == nil {
		return target{}, unroutable("the provider " + printable(slug) + " is unknown to this gateway")
	}
	t := target{header: u.header, prefix: u.prefix, chat: u.chat, free: strings.HasPrefix(slug, "custom-") || slug == "openai-compatible"}
	switch slug {
	case "fal":
		if full := header.Get(falTarget); full != "" {
			return falAt(t, u, full)
		}
	case "workers-ai":
		return u.workersAI(t, v.account, endpoint)
	case "google-vertex-ai":
		return u.vertex(t, endpoint)
	case "aws-bedrock":
		return u.bedrock(t, endpoint)
	case "baseten":
		return u.baseten(t, endpoint)
	case "huggingface":
		return u.huggingface(t, endpoint)
	}
	if u.args == nil {
		if u.base == nil {
			return target{}, unroutable("the address of the provider " + slug + " is not set")
		}
		return joined(t, u.base, endpoint)
	}
	return u.fill(t, endpoint)
}

// joined sets the target's URL.
func joined(t target, base *url.URL, endpoint string) (target, *refusal) {
	u, err := gateway.Join(base, endpoint)
	if err != nil {
		return target{}, badRequest("the path below the provider is not a plain path with an optional query")
	}
	t.url = u
	return t, nil
}

// fill takes the names from the front of the endpoint and joins the rest.
func (u *reachable) fill(t target, endpoint string, known ...string) (target, *refusal) {
	root, path := u.root, u.path
	for _, name := range u.args {
		value, rest, _ := strings.Cut(strings.TrimLeft(endpoint, "/"), "/")
		if !hostPart(value) && (name != "deployment" || !pathPart(value)) {
			return target{}, badRequest("the path must name the " + strings.Join(u.args, " and the ") + " first")
		}
		endpoint = rest
		known = append(known, "{"+name+"}", value)
	}
	return u.at(t, root, path, endpoint, known...)
}

func (u *reachable) at(t target, root, path, endpoint string, known ...string) (target, *refusal) {
	r := strings.NewReplacer(known...)
	base, err := gateway.ParseBase(r.Replace(root))
	if err != nil {
		return target{}, badRequest("the path doesn't lead to an address of the provider")
	}
	if path != "" {
		base = base.JoinPath(r.Replace(path))
	}
	return joined(t, base, endpoint)
}

// workersAI is reached under the account of the request's path. Below v1/ is its OpenAI-compatible face, beside run.
func (u *reachable) workersAI(t target, account, endpoint string) (target, *refusal) {
	root := u.root
	endpoint = strings.TrimLeft(endpoint, "/")
	if strings.HasPrefix(endpoint, "v1/") {
		root = strings.TrimSuffix(root, "/run")
	} else {
		endpoint = strings.TrimPrefix(endpoint, "run/")
	}
	return u.at(t, root, "", endpoint, "{account}", account)
}

// vertex takes the region from the path, which names it after locations/.
func (u *reachable) vertex(t target, endpoint string) (target, *refusal) {
	_, after, _ := strings.Cut(endpoint, "/locations/")
	region, _, _ := strings.Cut(after, "/")
	if !hostPart(region) {
		return target{}, badRequest("the path must hold projects/PROJECT/locations/REGION")
	}
	if region == "global" {
		region = ""
	} else {
		region += "-"
	}
	return u.at(t, u.root, "", endpoint, "{region}", region)
}

// bedrock is two services. The gateway doesn't sign: the caller's own signature for the AWS address passes, and so does
// an API key of Bedrock's.
func (u *reachable) bedrock(t target, endpoint string) (target, *refusal) {
	service, _, _ := strings.Cut(strings.TrimLeft(endpoint, "/"), "/")
	switch service {
	case "bedrock-runtime":
		return u.fill(t, endpoint, "{domain}", "amazonaws.com")
	case "bedrock-mantle":
		return u.fill(t, endpoint, "{domain}", "api.aws")
	}
	return target{}, badRequest("the path must begin with bedrock-runtime/REGION or bedrock-mantle/REGION")
}

// baseten has a host for each model. Cloudflare doesn't say what is asked for when only the model is named; it is
// Baseten's documented address for predictions.
func (u *reachable) baseten(t target, endpoint string) (target, *refusal) {
	rest, ok := strings.CutPrefix(strings.TrimLeft(endpoint, "/"), "model/")
	if !ok || u.replaced {
		return joined(t, u.base, endpoint)
	}
	id, rest, _ := strings.Cut(rest, "/")
	id, query, asked := strings.Cut(id, "?")
	if rest == "" {
		rest = "environments/production/predict"
	}
	if asked {
		rest += "?" + query
	}
	if !hostPart(id) {
		return target{}, badRequest("the path must name the model after model/")
	}
	return u.at(t, "https://model-{id}.api.baseten.co", "", rest, "{id}", id)
}

// huggingface has its inference by model at the documented host, and OpenAI's form at its router, which Cloudflare's
// documentation doesn't mention.
func (u *reachable) huggingface(t target, endpoint string) (target, *refusal) {
	path, _, _ := strings.Cut(strings.TrimLeft(endpoint, "/"), "?")
	if u.replaced || path != "chat/completions" && !strings.HasPrefix(path, "v1/") {
		return joined(t, u.base, endpoint)
	}
	return u.at(t, "https://router.huggingface.co/v1", "", endpoint)
}

// falTarget holds a whole address; only Fal's own hosts are let through, so that the key and this server's network
// aren't at the caller's disposal.
const falTarget = "X-Fal-Target-Url"

func falAt(t target, u *reachable, full string) (target, *refusal) {
	at, err := gateway.ParseBase(full)
	if err != nil || at.Scheme != "https" || at.Port() != "" || at.Host != "fal.run" && !strings.HasSuffix(at.Host, ".fal.run") {
		return target{}, badRequest("x-fal-target-url must be an https address of fal.run")
	}
	if u.replaced { // the operator's stand-in serves all of Fal's hosts
		return joined(t, u.base, at.RequestURI())
	}
	t.url = at
	return t, nil
}

// hostPart reports whether a caller's word may become one label of a host name.
func hostPart(s string) bool {
	if s == "" || len(s) > 63 || s[0] == '-' {
		return false
	}
	for _, c := range []byte(s) {
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-') {
			return false
		}
	}
	return true
}

// pathPart reports whether a caller's word may become one part of a path.
func pathPart(s string) bool {
	return s != "" && s != "." && s != ".." && !strings.ContainsAny(s, "/?#%\\{}")
}

// printable shortens a caller's word for a message.
func printable(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return -1
		}
		return r
	}, s)
	if len(s) > 64 {
		s = strings.ToValidUTF8(s[:64], "")
	}
	return `"` + s + `"`
}
