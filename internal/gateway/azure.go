package gateway

import (
	"encoding/json"
	"net/url"
	"strings"
)

func init() {
	register(azure{openAI{
		name: "azure-openai", reached: reach{header: "api-key"},
		completionTokens: true,
	}})
}

// azure is OpenAI's chat form at a deployment of one's own. A model is RESOURCE/DEPLOYMENT; it is in the endpoint and
// not in the body. Which parameters the deployment takes depends on the model behind it; only its name can tell.
//
// Responses are not had here: Azure documents them below /openai/v1 alone, with the deployment in the body, and the
// Universal form has no path for that.
type azure struct{ openAI }

const (
	azureHost = "openai.azure.com" // a resource is a host below it

	// azureVersion takes max_completion_tokens, JSON schemas and stream_options.
	azureVersion = "2024-12-01-preview"
)

// Encode implements Provider.
func (p azure) Encode(model string, c *Chat) (string, json.RawMessage, error) {
	endpoint, err := azureEndpoint(model)
	if err != nil {
		return "", nil, err
	}
	_, body, err := p.encodeChat("", c, quirksOf(p.name, model))
	return endpoint, body, err
}

// EncodeRaw implements Provider. The body must name its model.
func (p azure) EncodeRaw(body json.RawMessage) (string, error) {
	return p.encodeRaw(text(field(body, "model")), body)
}

// encodeRaw implements modelled.
func (p azure) encodeRaw(model string, body json.RawMessage) (string, error) {
	if _, err := p.openAI.EncodeRaw(body); err != nil {
		return "", err
	}
	return azureEndpoint(model)
}

func azureEndpoint(model string) (string, error) {
	resource, deployment, _ := strings.Cut(model, "/")
	if !azureResource(resource) || !azureDeployment(deployment) {
		return "", invalid("invalid_model", "a model of azure-openai must look like RESOURCE/DEPLOYMENT: "+
			"a resource of a-z, 0-9 and -, a deployment of A-Z, a-z, 0-9, -, _ and ., at most 64 each")
	}
	return resource + "/" + deployment + "/" + openAIEndpoint + "?api-version=" + azureVersion, nil
}

// azureResource keeps a host name from being forged.
func azureResource(s string) bool {
	return s != "" && len(s) <= 63 && s[0] != '-' && s[len(s)-1] != '-' && strings.ToLower(s) == s && only(s, "-")
}

func azureDeployment(s string) bool {
	return s != "" && len(s) <= 64 && strings.Trim(s, ".") != "" && only(s, "-_.")
}

// only reports whether s is made of ASCII letters, digits and the bytes of others.
func only(s, others string) bool {
	for _, c := range []byte(s) {
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || isDigit(c) || strings.IndexByte(others, c) >= 0) {
			return false
		}
	}
	return true
}

// address implements addresser. {resource}/{deployment}/{rest} is at /openai/deployments/{deployment}/{rest} of the
// resource's own host. A base URL of the operator's, such as https://RESOURCE.openai.azure.com or a proxy's, stands for
// the host; https://openai.azure.com alone lets each model's resource be the host, so it is for those who write all the
// routes: the key goes wherever a route says. There is no default for that reason. The base may end with /openai or /openai/deployments.
func (p azure) address(base *url.URL, endpoint string) (*url.URL, *Error) {
	resource, rest, _ := strings.Cut(strings.TrimLeft(endpoint, "/"), "/")
	deployment, path, ok := strings.Cut(rest, "/")
	if !ok || path == "" || !azureResource(resource) || !azureDeployment(deployment) {
		return nil, invalid("invalid_endpoint", "an endpoint of azure-openai must look like RESOURCE/DEPLOYMENT/chat/completions?api-version=...")
	}
	u := *base
	if u.Hostname() == azureHost {
		u.Host = resource + "." + u.Host
	}
	u.Path = strings.TrimSuffix(strings.TrimRight(u.Path, "/"), "/openai/deployments")
	u.Path, u.RawPath = strings.TrimSuffix(u.Path, "/openai"), ""
	return join(&u, "openai/deployments/"+rest)
}
